//! nginx and PHP-FPM with real pages: what the report begins with.

use super::super::php::DYNAMIC_TIMES;
use super::super::results::{Php, PhpCell, PhpPath, PhpSample, Results, SecondClient};
use super::super::statistics::Spread;
use super::super::table::{Table, maybe, number, paragraph, ratio};
use super::sections::ranged;

/// The overview and what they come from; nothing if it was not measured.
pub(super) fn render(results: &Results) -> String {
    let Some(php) = measured(results) else {
        return String::new();
    };
    [
        paragraph(&introduction(php)),
        paragraph("Requests per second as a ratio to the direct TCP path, by KB of the page:"),
        overview(php),
        "\n".to_owned(),
        second_clients(php),
        details(php),
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
         shares the machine's cores. A round is void in which wrk's only thread (the client) or PHP-FPM (the \
         backend) had no more to give.",
        connections = php.connections,
        workers = php.workers,
        rounds = php.rounds,
        seconds = php.seconds,
        dynamic = php.seconds * DYNAMIC_TIMES,
        versions = php.versions.join(", "),
    )
}

/// A row for each path, a column for each cell.
fn overview(php: &Php) -> String {
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
                None if path.void().is_all() => "void".to_owned(),
                None => {
                    let against = cell.ratio(key, per_second);
                    ratio(against.map(|spread| spread.median))
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

/// A table for each cell.
fn details(php: &Php) -> String {
    let words = "*× TCP*: against direct TCP in the same round. wrk's latencies do not count what a stalled \
         connection could not send. *CPU* is that of the program in between, *served* that of nginx and \
         PHP-FPM as well, in µs per request.";
    let cell = |cell: &PhpCell| {
        let title = format!("{}, pages of {} KB", cell.pm.word(), cell.kb);
        format!(
            "<details><summary>{title}</summary>\n\n{}\n</details>\n\n",
            table(cell)
        )
    };
    paragraph(words) + &php.cells.iter().map(cell).collect::<String>()
}

fn table(cell: &PhpCell) -> String {
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
        "void",
    ];
    let mut table = Table::new(titles);
    let mut failures = String::new();
    for path in &cell.paths {
        match path.failure() {
            Some(why) => failures += &format!("{} failed: {why}\n", path.name),
            None => table.row(row(cell, path)),
        }
    }
    let gap = if failures.is_empty() { "" } else { "\n" };
    format!("{}{gap}{failures}", table.render())
}

fn row(cell: &PhpCell, path: &PhpPath) -> Vec<String> {
    let void = path.void();
    let figure = |figure: fn(&PhpSample) -> Option<f64>| match void.is_all() {
        true => Spread::of(path.rounds.iter().flatten().filter_map(figure)),
        false => path.spread(figure),
    };
    let median =
        |wanted: fn(&PhpSample) -> Option<f64>| maybe(figure(wanted).map(|spread| spread.median));
    let p99 = cell.ratio(&path.key, p99).map(|spread| spread.median);
    let errors: u64 = path
        .rounds
        .iter()
        .flatten()
        .map(|sample| sample.errors)
        .sum();
    vec![
        path.name.clone(),
        ranged(figure(per_second)),
        ranged(cell.ratio(&path.key, per_second)),
        median(|sample| Some(sample.p50_us)),
        median(|sample| Some(sample.p99_us)),
        ratio(p99),
        median(|sample| Some(sample.max_us)),
        median(PhpSample::cpu_us_per_request),
        median(PhpSample::served_us_per_request),
        errors.to_string(),
        void.note(),
    ]
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

/// Each page's ratio to direct TCP, for the plot.
pub(in super::super) fn ratio_points(cells: &[&PhpCell], key: &str) -> Vec<(f64, Spread)> {
    let point = |cell: &&PhpCell| Some((f64::from(cell.kb), cell.ratio(key, per_second)?));
    cells.iter().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::sample_results;
    use super::*;

    #[test]
    fn the_overview_has_a_row_for_each_path_and_a_column_for_each_page() {
        let text = render(&sample_results::results());
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
    fn a_round_that_wrk_held_back_is_void_and_is_shown() {
        let text = render(&sample_results::results());
        let rows: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("| HAProxy "))
            .collect();
        // The overview, the second client, and a table for each page.
        let [overview, _, small, _] = rows[..] else {
            panic!("not four rows in:\n{text}");
        };
        assert_eq!(overview.matches(" void ").count(), 2, "{text}");
        assert!(small.contains("11,000"), "{text}");
        assert!(small.contains("void: client 1 of 1"), "{text}");
        // No ratio to it, either.
        assert!(!text.contains("1.10"), "{text}");
    }
}
