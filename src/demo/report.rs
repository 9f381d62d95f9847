//! The table, and what it means.

use indicatif::HumanCount;

use super::trial::Trial;
use super::{Options, PATHS};
use crate::config::Engine;

/// The columns' titles; the first is aligned to the left, the others to the right.
const TITLES: [&str; 6] = ["path", "requests", "req/s", "p50 µs", "p99 µs", "ratio"];

/// Between two columns.
const GAP: &str = "  ";

/// What the figures mean, and what comes next: true whatever they are.
const MEANING: &str = "\
Going through spliceway costs an extra hop; FastCGI mode wins it back, in part or more, by keeping connections to the \
backend. Next: 'spliceway run --help' for your own backend, or 'scripts/bench --quick' in the source for HAProxy and nginx.
";

/// Renders a row for each path and the lines below them.
pub(super) fn render(trials: &[Trial; PATHS], options: &Options, engine: &str) -> String {
    let base = trials[0].per_second();
    let rows = trials.each_ref().map(|trial| row(trial, base));
    let table = align(&[TITLES.map(str::to_owned)], &rows);
    let (setting, concurrency) = (setting(options.engine, engine), options.concurrency);
    format!(
        "{table}\n{setting}; {concurrency} clients, each request on a new connection; ratio: req/s \
         against direct TCP\n{MEANING}"
    )
}

/// Which engine ran, and why if that is not plain.
fn setting(asked: Engine, engine: &str) -> String {
    match (asked, engine) {
        (Engine::Auto, "epoll") => "engine: epoll, as io_uring is not available here".to_owned(),
        (Engine::Auto | Engine::IoUring | Engine::Epoll, engine) => format!("engine: {engine}"),
    }
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
    fn the_engine_is_named_and_so_is_why_it_is_not_the_other() {
        assert_eq!(setting(Engine::Auto, "io_uring"), "engine: io_uring");
        assert_eq!(setting(Engine::Epoll, "epoll"), "engine: epoll");
        assert!(setting(Engine::Auto, "epoll").contains("io_uring is not available"));
    }

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
