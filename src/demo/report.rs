//! The table, and what it means.

use indicatif::HumanCount;

use super::trial::Trial;

/// The columns' titles; the first is aligned to the left, the others to the right.
const TITLES: [&str; 6] = ["path", "requests", "req/s", "p50 µs", "p99 µs", "ratio"];

/// Between two columns.
const GAP: &str = "  ";

/// What a reader should and should not conclude.
const MEANING: &str = "\
Each request is a new connection; ratio is req/s against the first row. A raw proxy adds a hop,
so a ratio below 1 is expected: it is the price of file permissions and background name lookup.
Load, proxy and responder share this machine's cores: compare rows, not machines.
";

/// Renders both rows and the lines below them.
pub(super) fn render(trials: &[Trial; 2]) -> String {
    let base = trials[0].per_second();
    let rows = trials.each_ref().map(|trial| row(trial, base));
    format!("{}\n{MEANING}", align(&[TITLES.map(str::to_owned)], &rows))
}

fn row(trial: &Trial, base: u64) -> [String; 6] {
    [
        trial.name().to_owned(),
        HumanCount(trial.requests()).to_string(),
        HumanCount(trial.per_second()).to_string(),
        HumanCount(trial.quantile_us(0.50)).to_string(),
        HumanCount(trial.quantile_us(0.99)).to_string(),
        format!("{:.2}", trial.per_second() as f64 / base.max(1) as f64),
    ]
}

fn align(titles: &[[String; 6]], rows: &[[String; 6]]) -> String {
    let lines = || titles.iter().chain(rows);
    let width = |column: usize| lines().map(|line| line[column].chars().count()).max();
    let widths: [usize; 6] = std::array::from_fn(|column| width(column).unwrap_or_default());
    lines()
        .map(|line| format!("{}\n", aligned(line, widths)))
        .collect()
}

fn aligned(line: &[String; 6], widths: [usize; 6]) -> String {
    let [path, figures @ ..] = line;
    let [path_width, figure_widths @ ..] = widths;
    figures
        .iter()
        .zip(figure_widths)
        .fold(format!("{path:<path_width$}"), |text, (cell, width)| {
            format!("{text}{GAP}{cell:>width$}")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let titles = [TITLES.map(str::to_owned)];
        let row = ["a long name of a path", "1,234", "9", "8", "7", "0.50"].map(str::to_owned);
        let table = align(&titles, &[row]);
        assert_eq!(
            table,
            "path                   requests  req/s  p50 µs  p99 µs  ratio\n\
             a long name of a path     1,234      9       8       7   0.50\n"
        );
    }
}
