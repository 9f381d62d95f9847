//! nginx and PHP-FPM with real pages: what the report begins with.

use super::super::php::DYNAMIC_TIMES;
use super::super::results::{Bottleneck, Php, PhpCell, PhpPath, PhpSample, Results, SecondClient};
use super::super::statistics::Spread;
use super::super::table::{Table, maybe, number, paragraph, ratio};
use super::sections::ranged;
use super::targets;

/// Behind a figure of which some rounds were held back by wrk or PHP-FPM.
pub(super) const HELD_BACK: &str = " ‡";

/// The overview, the targets and what they come from; nothing if it was not measured.
pub(super) fn render(results: &Results, plot: &str) -> String {
    let Some(php) = measured(results) else {
        return String::new();
    };
    [
        paragraph(&introduction(php)),
        plot.to_owned(),
        paragraph("Requests per second as a ratio to the direct TCP path, by KB of the page:"),
        overview(php, results.machine.cores),
        "\n".to_owned(),
        paragraph("What the FastCGI mode is to reach, and what it has reached here:"),
        targets::render_php(results),
        "\n".to_owned(),
        second_clients(php),
        details(php, results.machine.cores),
    ]
    .concat()
}

fn measured(results: &Results) -> Option<&Php> {
    results.php.as_ref().filter(|php| !php.cells.is_empty())
}

fn introduction(php: &Php) -> String {
    format!(
        "wrk with {connections} connections, nginx, a way, PHP-FPM with {workers} workers at most, and \
         a script that echoes pages of several sizes ({versions}). *static*, *ondemand*, *dynamic*: \
         PHP-FPM's `pm`. Each way has a pool of its own. {rounds} rounds of {seconds} s, with dynamic pools \
         {dynamic} s. nginx makes a new connection for each request \
         unless it says *nginx keeps*, which is `fastcgi_keep_conn on` with `keepalive`. spliceway's \
         FastCGI mode has `--per-endpoint-max {workers}`, and every program one thread. Everything \
         shares the machine's cores. {mark}: in some round wrk's only thread or PHP-FPM had no more to \
         give, so that the ratio says little of the way.",
        connections = php.connections,
        workers = php.workers,
        rounds = php.rounds,
        seconds = php.seconds,
        dynamic = php.seconds * DYNAMIC_TIMES,
        versions = php.versions.join(", "),
        mark = HELD_BACK.trim(),
    )
}

/// A row for each path, a column for each cell.
fn overview(php: &Php, cores: usize) -> String {
    let titles = php
        .cells
        .iter()
        .map(|cell| format!("{} {}", cell.pm.word(), cell.kb));
    let mut table = Table::new(["path".to_owned()].into_iter().chain(titles));
    for (key, name) in paths(php) {
        let figures = php.cells.iter().map(|cell| {
            let Some(path) = cell.path(key) else {
                return String::new();
            };
            match path.failure() {
                Some(_) => "failed".to_owned(),
                None => {
                    let against = cell.ratio(key, per_second);
                    let mark = held_back(path, php.workers, cores);
                    ratio(against.map(|spread| spread.median)) + mark
                }
            }
        });
        table.row([name.to_owned()].into_iter().chain(figures).collect());
    }
    table.render()
}

/// Every path that is in some cell, key and name.
fn paths(php: &Php) -> Vec<(&str, &str)> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for path in php.cells.iter().flat_map(|cell| &cell.paths) {
        if !found.iter().any(|(key, _)| *key == path.key) {
            found.push((&path.key, &path.name));
        }
    }
    found
}

/// A mark, if there is reason for one.
pub(super) fn held_back(path: &PhpPath, workers: usize, cores: usize) -> &'static str {
    match bottlenecks(path, workers, cores).is_empty() {
        true => "",
        false => HELD_BACK,
    }
}

fn bottlenecks(path: &PhpPath, workers: usize, cores: usize) -> Vec<Bottleneck> {
    let samples = path.rounds.iter().flatten();
    samples
        .filter_map(|sample| sample.bottleneck(workers, cores))
        .collect()
}

/// A table for each cell.
fn details(php: &Php, cores: usize) -> String {
    let words = "*× TCP*: against direct TCP in the same round. wrk's latencies do not count what a stalled \
         connection could not send. *CPU* is that of the program in between, *served* that of nginx and \
         PHP-FPM as well, in µs per request. *held back by*: the rounds in which wrk's thread or \
         PHP-FPM was busy for more than nine tenths of what it had.";
    let cell = |cell: &PhpCell| {
        let title = format!("{}, pages of {} KB", cell.pm.word(), cell.kb);
        format!(
            "<details><summary>{title}</summary>\n\n{}\n</details>\n\n",
            table(cell, php.workers, cores)
        )
    };
    paragraph(words) + &php.cells.iter().map(cell).collect::<String>()
}

fn table(cell: &PhpCell, workers: usize, cores: usize) -> String {
    let titles = [
        "path",
        "req/s (min–max)",
        "× TCP (min–max)",
        "p50 µs",
        "p99",
        "p99 × TCP",
        "max",
        "CPU",
        "served",
        "errors",
        "held back by",
    ];
    let mut table = Table::new(titles);
    let mut failures = String::new();
    for path in &cell.paths {
        match path.failure() {
            Some(why) => failures += &format!("{} failed: {why}\n", path.name),
            None => table.row(row(cell, path, workers, cores)),
        }
    }
    let gap = if failures.is_empty() { "" } else { "\n" };
    format!("{}{gap}{failures}", table.render())
}

fn row(cell: &PhpCell, path: &PhpPath, workers: usize, cores: usize) -> Vec<String> {
    let median = |figure: fn(&PhpSample) -> Option<f64>| {
        maybe(path.spread(figure).map(|spread| spread.median))
    };
    let p99 = cell.ratio(&path.key, p99).map(|spread| spread.median);
    let errors: u64 = path
        .rounds
        .iter()
        .flatten()
        .map(|sample| sample.errors)
        .sum();
    vec![
        path.name.clone(),
        ranged(path.spread(per_second)),
        ranged(cell.ratio(&path.key, per_second)),
        median(|sample| Some(sample.p50_us)),
        median(|sample| Some(sample.p99_us)),
        ratio(p99),
        median(|sample| Some(sample.max_us)),
        median(PhpSample::cpu_us_per_request),
        median(PhpSample::served_us_per_request),
        errors.to_string(),
        named(&bottlenecks(path, workers, cores)),
    ]
}

/// `wrk 2, FPM 1`, or nothing.
fn named(found: &[Bottleneck]) -> String {
    let count = |wanted, name: &str| {
        let count = found.iter().filter(|one| **one == wanted).count();
        (count > 0).then(|| format!("{name} {count}"))
    };
    let counts = [count(Bottleneck::Wrk, "wrk"), count(Bottleneck::Fpm, "FPM")];
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    counts.join(", ")
}

/// How somebody else fares who asks the same PHP-FPM during the load.
fn second_clients(php: &Php) -> String {
    let titles = ["path", "whom it asks", "answered/s", "lost", "longest ms"];
    let mut table = Table::new(titles).words(2);
    let mut row = |path: &PhpPath, whom: &str, second: Option<SecondClient>| {
        if let Some(second) = second.filter(|second| second.seconds > 0.0) {
            table.row(vec![
                path.name.clone(),
                whom.to_owned(),
                number(second.answered as f64 / second.seconds),
                second.lost.to_string(),
                maybe((second.longest_ms > 0.0).then_some(second.longest_ms)),
            ]);
        }
    };
    for path in php.cells.iter().flat_map(|cell| &cell.paths) {
        row(path, "PHP-FPM itself", path.second_client);
        row(path, "spliceway", path.second_beside);
    }
    if table.is_empty() {
        return String::new();
    }
    let words = "A second client of the same pool of PHP-FPM during the load on the smallest page, one request \
         after the other with a pause of 50 ms in between: how many were answered in a second, how many \
         were *lost* because there was no answer within a second, and the longest that an answer took.";
    format!("{}{}\n", paragraph(words), table.render())
}

pub(super) fn per_second(sample: &PhpSample) -> Option<f64> {
    Some(sample.per_second)
}

pub(super) fn p99(sample: &PhpSample) -> Option<f64> {
    Some(sample.p99_us)
}

/// The median of each page's ratio to direct TCP, for the plot.
pub(in super::super) fn ratio_points(cells: &[&PhpCell], key: &str) -> Vec<(f64, f64)> {
    let point = |cell: &&PhpCell| {
        let Spread { median, .. } = cell.ratio(key, per_second)?;
        Some((f64::from(cell.kb), median))
    };
    cells.iter().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::sample_results;
    use super::*;

    #[test]
    fn the_overview_has_a_row_for_each_path_and_a_column_for_each_page() {
        let text = render(&sample_results::results(), "");
        let line = |start: &str| {
            let mut lines = text.lines().filter(|line| line.starts_with(start));
            lines.next().unwrap_or_default().to_owned()
        };
        let head = line("| path ");
        assert!(
            head.contains(" static 2 ") && head.contains(" ondemand 10 "),
            "{text}"
        );
        let mode = line("| spliceway FastCGI, io_uring ");
        assert!(
            mode.contains(" 1.30 |") && mode.contains(" 0.90 |"),
            "{text}"
        );
    }

    #[test]
    fn a_round_that_wrk_held_back_is_marked() {
        let text = render(&sample_results::results(), "");
        let mut marked = text.lines().filter(|line| line.contains("1.10 ‡"));
        assert!(marked.all(|line| line.starts_with("| HAProxy ")), "{text}");
        assert!(text.contains("wrk 1"), "{text}");
    }
}
