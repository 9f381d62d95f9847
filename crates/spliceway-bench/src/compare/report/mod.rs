//! RESULTS.md: what was measured, in tables and words, all of it from [`Results`].

mod behind;
mod cells;
mod hops;
mod overload;
mod php;
mod reload;
mod remote;
mod sections;
mod setting;
mod targets;

use super::fleet::DIRECT_UNIX;
use super::plots;
use super::results::{CellResult, DIRECT_TCP, Results, Sample};
use super::table::{Table, paragraph, ratio};

pub(super) use php::ratio_points;
pub(super) use sections::cpu_points;

/// What lies beside the plots and was written by hand.
#[derive(Clone, Debug, Default)]
pub(super) struct Companions {
    /// The directory of the plots, as the report refers to it.
    pub(super) dir: String,
    /// The text of growth.md.
    pub(super) growth: Option<String>,
    /// Whether there is an experiments.md.
    pub(super) has_experiments: bool,
}

/// For the terminal: the tables.
pub(super) fn summary(results: &Results) -> String {
    [
        titled(REMOTE_TITLE, &remote::render(results)),
        titled(PHP_TITLE, &php::render(results, "")),
        titled(
            "Ratios of requests per second to the direct TCP path",
            &ratios(results),
        ),
        titled("Targets", &targets::render_measured(results)),
        titled(
            "Targets of the FastCGI mode",
            &targets::render_fastcgi(results),
        ),
        titled("Where spliceway is behind", &behind::render(results)),
        titled(
            "One thread each",
            &cells::tables(&results.paths, &results.cells),
        ),
        titled(
            "Each at its default",
            &cells::tables(&results.paths, &results.defaults),
        ),
        titled("The FastCGI mode", &sections::fastcgi(results)),
        titled("Latency under load", &sections::sweep(results)),
        titled("Idle connections", &sections::idle(results)),
        titled("Growth", &sections::growth(results)),
        titled("Several routes, and metrics", &sections::routes(results)),
        titled(RELOAD_TITLE, &reload::render(results)),
        titled(OVERLOAD_TITLE, &overload::render(results, "")),
    ]
    .concat()
}

/// The whole report.
pub(super) fn render(results: &Results, companions: &Companions) -> String {
    let plot = |plot: plots::Plot| {
        if plot.is_empty(results) {
            return String::new();
        }
        let (title, dir, file) = (plot.title(), &companions.dir, plot.file());
        format!("![{title}]({dir}/{file})\n\n")
    };
    let growth_words = companions.growth.as_deref().unwrap_or_default();
    [
        HEAD.to_owned(),
        setting::short(results),
        titled(REMOTE_TITLE, &remote::render(results)),
        titled(PHP_TITLE, &php::render(results, &plot(plots::Plot::Pages))),
        titled("In short", &in_short(results, companions)),
        titled("Where spliceway is behind", &behind::render(results)),
        plot(plots::Plot::Throughput),
        plot(plots::Plot::Cpu),
        plot(plots::Plot::Latency),
        titled("The FastCGI mode", &sections::fastcgi(results)),
        titled(
            "Latency under load",
            &joined(&plot(plots::Plot::Sweep), &sections::sweep(results)),
        ),
        titled("Idle connections", &sections::idle(results)),
        titled("Several routes, and metrics", &sections::routes(results)),
        titled(RELOAD_TITLE, &reload::render(results)),
        titled(
            OVERLOAD_TITLE,
            &overload::render(results, &plot(plots::Plot::Overload)),
        ),
        titled(
            "Growth",
            &[
                &plot(plots::Plot::Growth),
                &sections::growth(results),
                growth_words,
            ]
            .concat(),
        ),
        titled(
            "One thread each",
            &joined(
                cells::EXPLANATION,
                &cells::tables(&results.paths, &results.cells),
            ),
        ),
        titled(
            "Each at its default",
            &joined(
                &cells::defaults(results),
                &cells::tables(&results.paths, &results.defaults),
            ),
        ),
        setting::long(results),
    ]
    .concat()
}

const HEAD: &str = "\
# Results

This file is written by `scripts/bench` (or `spliceway-bench compare`); what it says of another
machine is one command away. Absolute figures belong to the machine: compare the rows of one table.
Every table comes from interleaved rounds (A B C A B C …) and gives medians; a ratio is the median of
the ratios within each round.

";

/// What spliceway is for comes first: backends are elsewhere, and they are PHP-FPM.
const REMOTE_TITLE: &str = "Backends behind a link";

const PHP_TITLE: &str = "nginx and PHP-FPM, end to end";

const RELOAD_TITLE: &str = "Reloads under load";

const OVERLOAD_TITLE: &str = "Overload";

/// Nothing without a body.
fn titled(title: &str, body: &str) -> String {
    if body.trim().is_empty() {
        return String::new();
    }
    format!("## {title}\n\n{}\n\n", body.trim_end())
}

/// Nothing without a body, whatever stands before it.
fn joined(before: &str, body: &str) -> String {
    if body.is_empty() {
        return String::new();
    }
    format!("{before}{body}")
}

fn in_short(results: &Results, companions: &Companions) -> String {
    let ratios = ratios(results);
    let targets = targets::render(results);
    let mut text = String::new();
    if !ratios.is_empty() {
        text += "Requests per second as a ratio to the direct TCP path, one thread each:\n\n";
        text += &ratios;
        text.push('\n');
    }
    if !targets.is_empty() {
        text += "What spliceway's raw relay is to reach, and what it has reached here:\n\n";
        text += &targets;
        text.push('\n');
    }
    let fastcgi = targets::render_fastcgi(results);
    if !fastcgi.is_empty() {
        text += "What its FastCGI mode is to reach, and what it has reached here:\n\n";
        text += &fastcgi;
        text.push('\n');
    }
    if !targets.is_empty() || !fastcgi.is_empty() {
        text += &paragraph(
            "*two hops*: what a relay that takes no time of its own would reach, with a copy into and out of each \
             socket: the direct exchange over a Unix socket and the one over TCP (kept in FastCGI mode) have been \
             measured alone, and share the same processors. Splicing can pass it, since it leaves copies out, \
             and so can a wake-up that serves several clients.",
        );
    }
    if companions.has_experiments {
        let dir = &companions.dir;
        text += &format!(
            "What was tried to get there, and what it gave: [experiments]({dir}/experiments.md).\n"
        );
    }
    text
}

/// A row for each path, a column for each cell that the targets speak of.
fn ratios(results: &Results) -> String {
    let wanted = super::matrix::targets();
    let cells: Vec<&CellResult> = results
        .cells
        .iter()
        .filter(|result| wanted.contains(&result.cell))
        .collect();
    if cells.is_empty() {
        return String::new();
    }
    let ids = cells.iter().map(|result| result.cell.short());
    let mut table = Table::new(["path".to_owned()].into_iter().chain(ids));
    for info in &results.paths {
        let of = |cell: &&CellResult| match cell.path(&info.key) {
            None => "–".to_owned(),
            Some(path) if path.spread(Sample::rate).is_none() => "failed".to_owned(),
            Some(_) => {
                let against = cell.ratio(&info.key, DIRECT_TCP, Sample::rate);
                ratio(against.map(|ratio| ratio.median))
            }
        };
        let figures: Vec<String> = match &info.missing {
            Some(_) => vec!["missing".to_owned()],
            None => cells.iter().map(of).collect(),
        };
        table.row([vec![info.name.clone()], figures].concat());
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::super::sample_results;
    use super::*;

    #[test]
    fn a_report_has_all_of_its_parts() {
        let companions = Companions {
            dir: "docs/results".to_owned(),
            growth: Some("By hand.\n".to_owned()),
            has_experiments: true,
        };
        let text = render(&sample_results::results(), &companions);
        let position = |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part}"));
        assert!(position("## Backends behind a link") < position("## nginx and PHP-FPM"));
        assert!(position("## nginx and PHP-FPM") < position("## In short"));
        for part in [
            "# Results",
            "spliceway-bench compare --quick",
            "Linux 6.18.0",
            "## In short",
            "[experiments](docs/results/experiments.md)",
            "## Where spliceway is behind",
            "![",
            "(docs/results/latency-under-load.svg)",
            "(docs/results/pages.svg)",
            "| 10 ms, 64 KB × 16 |",
            "<summary>10 ms, 64 KB × 16</summary>",
            "New connections, 50 KB, requests sent",
            "The same with larger answers",
            "## The FastCGI mode",
            "What its FastCGI mode is to reach",
            "A second client of the same pool",
            "## Latency under load",
            "## Idle connections",
            "## Several routes, and metrics",
            "## Reloads under load",
            "## Overload",
            "(docs/results/overload.svg)",
            "## nginx and PHP-FPM, end to end",
            "## Growth",
            "By hand.",
            "## One thread each",
            "## What was not measured",
            "socat (fork): /usr/bin/socat is not there",
            "net.ipv4.tcp_congestion_control",
        ] {
            assert!(text.contains(part), "no '{part}' in:\n{text}");
        }
    }

    #[test]
    fn what_was_not_measured_has_no_section() {
        let text = render(&Results::default(), &Companions::default());
        assert!(
            !text.contains("## Growth") && !text.contains("!["),
            "{text}"
        );
    }
}
