//! What was measured, in tables and words, all of it from [`Results`]: RESULTS.md, which is short, cells.md with every
//! cell, and targets.md with what was to be reached and where others do better.

mod behind;
mod cells;
mod contests;
mod hops;
mod overload;
mod php;
mod reload;
mod remote;
mod sections;
mod setting;
mod short;
mod targets;

#[cfg(test)]
mod published;

use std::fs;
use std::path::Path;

use super::fleet::DIRECT_UNIX;
use super::plots::Plot;
use super::results::{CellResult, DIRECT_TCP, Results, Sample};
use super::table::{Table, paragraph, ratio};

pub(super) use php::ratio_points;
pub(super) use sections::cpu_points;

/// The file with every cell, beside the plots.
pub(super) const CELLS: &str = "cells.md";
/// The file with the targets and the comparisons.
pub(super) const TARGETS: &str = "targets.md";

/// What lies beside the plots and was written by hand.
#[derive(Clone, Debug, Default)]
pub(super) struct Companions {
    /// The directory of the plots, as the report refers to it.
    pub(super) dir: String,
    /// The text of growth.md.
    pub(super) growth: Option<String>,
    /// Those of [`PAGES`] that there are.
    pub(super) pages: Vec<&'static str>,
}

impl Companions {
    /// Those in a directory, which the report calls by another name.
    pub(super) fn beside(name: &str, dir: &Path) -> Self {
        let pages = PAGES.map(|(file, _)| file).into_iter();
        Self {
            dir: name.to_owned(),
            growth: fs::read_to_string(dir.join("growth.md")).ok(),
            pages: pages.filter(|file| dir.join(file).exists()).collect(),
        }
    }
}

/// File, and what it has.
const PAGES: [(&str, &str); 3] = [
    (
        "experiments.md",
        "what was tried, and why targets were missed",
    ),
    ("micro.md", "what the parts cost"),
    ("reload.md", "reloads, in more rounds"),
];

/// For the terminal: the tables.
pub(super) fn summary(results: &Results) -> String {
    [
        titled("In short", &short::render(results)),
        titled(REMOTE_TITLE, &remote::render(results)),
        titled(PHP_TITLE, &php::render(results)),
        titled(
            "Ratios of requests per second to the direct TCP path",
            &ratios(results),
        ),
        titled("Targets", &targets::render_measured(results)),
        titled("Targets behind a link", &targets::render_remote(results)),
        titled(
            "Targets with pages of PHP-FPM",
            &targets::render_php(results),
        ),
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
        titled(OVERLOAD_TITLE, &overload::render(results)),
    ]
    .concat()
}

/// RESULTS.md. It has at most `LINES_MAX` lines.
pub(super) fn render(results: &Results, companions: &Companions) -> String {
    let dir = &companions.dir;
    let link = |file: &str| format!("[{file}]({dir}/{file})");
    let (cells, targets) = (link(CELLS), link(TARGETS));
    [
        HEAD.to_owned(),
        setting::short(results),
        titled("In short", &in_short(results, &cells)),
        titled("Plots", &plots(results, &Plot::SHORT, &format!("{dir}/"))),
        titled(
            "Where spliceway is behind",
            &behind::short(results, BEHIND_ROWS_MAX, &targets),
        ),
        titled("Method", &setting::method(results, &cells)),
        titled("Machine and command", &machine(results, companions)),
    ]
    .concat()
}

/// The report is read, not searched.
#[cfg(test)]
const LINES_MAX: usize = 150;

/// What the other sections leave of `LINES_MAX`.
const BEHIND_ROWS_MAX: usize = 30;

const HEAD: &str = "\
# Results

Made by `scripts/bench` from what it measures. Absolute figures belong to the machine: compare those of
one row with each other.

";

fn in_short(results: &Results, cells: &str) -> String {
    let table = short::render(results);
    if table.is_empty() {
        return table;
    }
    let words = format!(
        "Medians. *Link*: the backend is in another network, a round trip of 1 or 10 ms away; *PHP-FPM*: wrk, nginx, real \
         pages; *here*: everything on this machine; *new*: a connection for each request; *kept*: clients keep theirs, \
         of which each holds a worker of PHP-FPM unless the FastCGI mode is in between; × 16: clients at one time. *void*: the load \
         generator, the backend or the link was the bottleneck (see *Method*). *Here*, the FastCGI mode was measured in \
         rounds of its own. Every cell is in {cells}."
    );
    paragraph(&words) + &table
}

/// Those of `wanted` for which there are figures.
fn plots(results: &Results, wanted: &[Plot], dir: &str) -> String {
    let wanted = wanted.iter().filter(|plot| !plot.is_empty(results));
    let image = |plot: &Plot| format!("![{}]({dir}{})\n\n", plot.title(results), plot.file());
    wanted.map(image).collect()
}

/// Where it was measured, how to do it again, and where the rest is.
fn machine(results: &Results, companions: &Companions) -> String {
    let machine = &results.machine;
    let dir = &companions.dir;
    let (all, met) = targets::count(results);
    let pages = PAGES
        .iter()
        .filter(|(file, _)| companions.pages.contains(file));
    let pages: Vec<String> = pages
        .map(|(file, what)| format!("[{file}]({dir}/{file}): {what}"))
        .collect();
    let pages = match pages.is_empty() {
        true => String::new(),
        false => format!("; {}", pages.join("; ")),
    };
    let words = format!(
        "{} cores of an {}, {} MB, Linux {}, {}, {}. Programs' versions and the network's settings are in [{CELLS}]({dir}/{CELLS}).",
        machine.cores,
        machine.processor,
        machine.memory_mb,
        machine.kernel,
        machine.rust,
        congestion(results),
    );
    let more = format!(
        "[{TARGETS}]({dir}/{TARGETS}): {met} of {all} targets are met, and every comparison that is lost{pages}. Raw data: \
         [data.json]({dir}/data.json)."
    );
    let render = format!("scripts/bench --render {dir}/data.json");
    format!(
        "{}```sh\n{:width$}   # measure everything, and write this\n\
         {render}   # write it again from the raw data\n```\n\n{}",
        paragraph(&words),
        "scripts/bench",
        paragraph(&more),
        width = render.chars().count(),
    )
}

fn congestion(results: &Results) -> String {
    let mut sysctls = results.network.sysctls.iter();
    let found = sysctls.find(|(name, _)| name.ends_with("tcp_congestion_control"));
    found.map_or_else(String::new, |(_, value)| {
        format!("congestion control {value}")
    })
}

/// cells.md: every cell of every section.
pub(super) fn render_cells(results: &Results, companions: &Companions) -> String {
    let plot = |plot: Plot| plots(results, &[plot], "");
    let growth_words = companions.growth.as_deref().unwrap_or_default();
    let short = ratios(results);
    [
        CELLS_HEAD.to_owned(),
        setting::short(results),
        titled(REMOTE_TITLE, &remote::render(results)),
        titled(PHP_TITLE, &php::render(results)),
        titled(
            "Ratios",
            &joined(
                &paragraph(
                    "Requests per second as a ratio to the direct TCP path, one thread each:",
                ),
                &short,
            ),
        ),
        titled("The FastCGI mode", &sections::fastcgi(results)),
        titled(
            "Latency under load",
            &joined(&plot(Plot::Sweep), &sections::sweep(results)),
        ),
        titled("Idle connections", &sections::idle(results)),
        titled("Several routes, and metrics", &sections::routes(results)),
        titled(RELOAD_TITLE, &reload::render(results)),
        titled(OVERLOAD_TITLE, &overload::render(results)),
        titled(
            "Growth",
            &[
                &plot(Plot::Growth),
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

const CELLS_HEAD: &str = "\
# Every cell

What RESULTS.md is made of, written with it by `scripts/bench`. Paths take turns (A B C A B C …); figures are
medians of the rounds, and a ratio is the median of the ratios within each round.

";

/// targets.md: what is to be reached, and where others do better.
pub(super) fn render_targets(results: &Results) -> String {
    let (all, met) = targets::count(results);
    let raw = targets::render(results);
    let fastcgi = targets::render_fastcgi(results);
    let hops = match raw.is_empty() && fastcgi.is_empty() {
        true => String::new(),
        false => paragraph(TWO_HOPS),
    };
    [
        TARGETS_HEAD.to_owned(),
        setting::short(results),
        paragraph(&format!(
            "{met} of {all} targets are met, each counted once for each engine that it is about. *void*: the load \
             generator, the backend or the link was the bottleneck on a path of the ratio, so that it is not known."
        )),
        titled("Backends behind a link", &targets::render_remote(results)),
        titled("Pages of PHP-FPM", &targets::render_php(results)),
        titled("The FastCGI mode, here", &fastcgi),
        titled("The raw mode, here", &raw),
        hops,
        titled(RELOAD_TITLE, &targets::render_reload(results)),
        titled("Where spliceway is behind", &behind::render(results)),
    ]
    .concat()
}

const TARGETS_HEAD: &str = "\
# Targets

What spliceway is to reach, what it has reached, and every comparison that it loses; written with
RESULTS.md by `scripts/bench`.

";

const TWO_HOPS: &str = "*two hops*: what a relay that takes no time of its own would reach, with a copy into and out of each \
     socket: the direct exchange over a Unix socket and the one over TCP (kept in FastCGI mode) have been \
     measured alone, and share the same processors. Splicing can pass it, since it leaves copies out, \
     and so can a wake-up that serves several clients.";

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
            Some(path) if path.void().is_all() => "void".to_owned(),
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

    fn companions() -> Companions {
        Companions {
            dir: "docs/results".to_owned(),
            growth: Some("By hand.\n".to_owned()),
            pages: vec!["experiments.md"],
        }
    }

    #[track_caller]
    fn assert_has(text: &str, parts: &[&str]) {
        for part in parts {
            assert!(text.contains(part), "no '{part}' in:\n{text}");
        }
    }

    #[test]
    fn the_report_has_one_table_plots_losses_method_machine_and_command() {
        let text = render(&sample_results::results(), &companions());
        assert_has(
            &text,
            &[
                "# Results",
                "spliceway-bench compare --quick",
                "Linux 6.18.0",
                "Overload was measured apart, at commit 0123456789ab (2026-11-28 20:00 UTC)",
                "## In short",
                "| link of 10 ms, 64 KB × 16, new ",
                "(docs/results/remote.svg)",
                "(docs/results/pages.svg)",
                "(docs/results/machine.svg)",
                "(docs/results/overload.svg)",
                "## Where spliceway is behind",
                "| `fastcgi-new-4k-16` | fastcgi-epoll ",
                "## Method",
                "scripts/bench --render docs/results/data.json",
                "[cells.md](docs/results/cells.md)",
                "[experiments.md](docs/results/experiments.md)",
            ],
        );
        assert!(!text.contains("micro.md"), "{text}");
        assert!(text.lines().count() <= LINES_MAX, "{text}");
        assert_eq!(text.matches("![").count(), Plot::SHORT.len());
        assert_eq!(text.matches("\n| workload ").count(), 1);
    }

    #[test]
    fn void_rounds_are_counted() {
        let text = render(&sample_results::results(), &companions());
        let words = text.replace("\n  ", " ");
        // wrk's in two cells, the link's in one.
        let (_, void) = words.split_once("Here that is ").unwrap_or_default();
        assert!(void.starts_with("3 of "), "{text}");
        assert!(
            void.contains("load generator 2, backend 0, link 1"),
            "{text}"
        );
    }

    #[test]
    fn every_section_has_its_cells() {
        let text = render_cells(&sample_results::results(), &companions());
        let position = |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part}"));
        assert!(position("## Backends behind a link") < position("## nginx and PHP-FPM"));
        assert_has(
            &text,
            &[
                "| 10 ms, 64 KB × 16 |",
                "<summary>10 ms, 64 KB × 16</summary>",
                "(latency-under-load.svg)",
                "New connections, 50 KB, requests sent",
                "The same with larger answers",
                "## The FastCGI mode",
                "A second client of the same pool",
                "## Latency under load",
                "## Idle connections",
                "## Several routes, and metrics",
                "## Reloads under load",
                "## Overload",
                "## nginx and PHP-FPM, end to end",
                "## Growth",
                "By hand.",
                "## One thread each",
                "## What was not measured",
                "socat (fork): /usr/bin/socat is not there",
                "net.ipv4.tcp_congestion_control",
                "void: link 1 of 1",
            ],
        );
    }

    #[test]
    fn targets_are_counted_and_told() {
        let text = render_targets(&sample_results::results());
        assert_has(
            &text,
            &[
                "targets are met",
                "## Backends behind a link",
                "## Pages of PHP-FPM",
                "## The FastCGI mode, here",
                "## The raw mode, here",
                "## Where spliceway is behind",
            ],
        );
    }

    #[test]
    fn what_was_not_measured_has_no_section() {
        let (results, companions) = (Results::default(), Companions::default());
        let text = render(&results, &companions) + &render_cells(&results, &companions);
        for absent in ["## Growth", "## In short", "## Plots", "!["] {
            assert!(!text.contains(absent), "{text}");
        }
    }
}
