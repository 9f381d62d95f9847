//! A table for each cell of the matrix: a row for each path. Void rounds are shown here, and marked.

use super::super::results::{
    CellResult, DIRECT_TCP, PathInfo, PathResult, Results, Sample, measured, name_in,
};
use super::super::statistics::Spread;
use super::super::table::{Table, maybe, number, ratio};

/// What the columns say.
pub(super) const EXPLANATION: &str = "\
Every program runs one thread if it can be told (socat forks for each connection). *× TCP*: requests
per second against the direct TCP path of the same round, – where one of both is void. Latencies in µs; *max* is the longest of all
rounds. *CPU* is that of the program in between, user and system; *busy* is what all processors
together did for a request, client and responder included. *MB* is the program's resident memory
after the load.

";

/// What each does without being told.
pub(super) fn defaults(results: &Results) -> String {
    let threads = |info: &PathInfo| {
        let there = info.missing.is_none() && !info.threads_default.is_empty();
        there.then(|| format!("- {}: {}\n", info.name, info.threads_default))
    };
    let list: String = results.paths.iter().filter_map(threads).collect();
    format!(
        "The number of threads or processes is what each program or its package chooses:\n\n{list}\n"
    )
}

/// All tables, each under its title.
pub(super) fn tables(paths: &[PathInfo], cells: &[CellResult]) -> String {
    let one = |cell: &CellResult| {
        let (title, id) = (cell.cell.title(), cell.cell.id());
        format!("### {title} (`{id}`)\n\n{}\n", table(paths, cell))
    };
    cells.iter().map(one).collect()
}

fn table(paths: &[PathInfo], cell: &CellResult) -> String {
    let bulk = cell.cell.exchange.is_bulk();
    let mut titles = vec!["path", "req/s (min–max)", "× TCP", "MB/s"];
    titles.extend(["p50 µs", "p90", "p99", "p99.9", "max"]);
    titles.push(if bulk { "CPU ms/GB" } else { "CPU µs/req" });
    titles.extend(["busy µs/req", "MB"]);
    let mut table = Table::new(titles);
    for info in paths {
        if let Some(path) = cell.path(&info.key) {
            table.row(row(info.name.clone(), cell, path, bulk));
        }
    }
    let failures = cell.paths.iter().filter_map(|path| {
        let failed = path.rounds.iter().filter(|round| round.is_err()).count();
        let name = name_in(paths, &path.path);
        let (all, why) = (path.rounds.len(), path.failure()?);
        Some(format!(
            "{name} failed in {failed} of {all} rounds: {why}\n"
        ))
    });
    let failures: String = failures.collect();
    let gap = if failures.is_empty() { "" } else { "\n" };
    format!("{}{gap}{failures}", table.render())
}

fn row(name: String, cell: &CellResult, path: &PathResult, bulk: bool) -> Vec<String> {
    let void = path.void();
    let figure = |figure: &dyn Fn(&Sample) -> Option<f64>| match void.is_all() {
        true => measured(&path.rounds, figure),
        false => path.spread(figure),
    };
    let Some(rate) = figure(&Sample::rate) else {
        return vec![name, "failed".to_owned()];
    };
    let median =
        |wanted: &dyn Fn(&Sample) -> Option<f64>| maybe(figure(wanted).map(|spread| spread.median));
    let against = cell.ratio(&path.path, DIRECT_TCP, Sample::rate);
    let max = figure(&|sample| Some(sample.latency_us.max));
    let cpu = if bulk {
        median(&Sample::cpu_ms_per_gb)
    } else {
        median(&Sample::cpu_us_per_request)
    };
    vec![
        name,
        range(rate) + &void.mark(),
        ratio(against.map(|ratio| ratio.median)),
        median(&|sample| Some(sample.mb_per_second())),
        median(&|sample| Some(sample.latency_us.p50)),
        median(&|sample| Some(sample.latency_us.p90)),
        median(&|sample| Some(sample.latency_us.p99)),
        median(&|sample| Some(sample.latency_us.p999)),
        maybe(max.map(|spread| spread.max)),
        cpu,
        median(&Sample::busy_us_per_request),
        median(&|sample| sample.memory_kb.map(|kb| kb as f64 / 1024.0)),
    ]
}

fn range(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    format!("{} ({}–{})", number(median), number(min), number(max))
}
