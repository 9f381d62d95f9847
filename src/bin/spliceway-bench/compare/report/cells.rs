//! A table for each cell of the matrix: a row for each path.

use super::super::results::{CellResult, DIRECT_TCP, PathResult, Results, Sample};
use super::super::statistics::Spread;
use super::super::table::{Table, maybe, number, ratio};

/// All tables, each under its title.
pub(super) fn tables(results: &Results, cells: &[CellResult]) -> String {
    let one =
        |cell: &CellResult| format!("### {}\n\n{}\n", cell.cell.title(), table(results, cell));
    cells.iter().map(one).collect()
}

fn table(results: &Results, cell: &CellResult) -> String {
    let bulk = cell.cell.exchange.is_bulk();
    let mut titles = vec!["path", "req/s (min–max)", "× TCP", "MB/s"];
    titles.extend(["p50 µs", "p90", "p99", "p99.9", "max"]);
    titles.push(if bulk { "CPU ms/GB" } else { "CPU µs/req" });
    titles.extend(["busy µs/req", "MB"]);
    let mut table = Table::new(titles);
    for info in &results.paths {
        let name = info.name.clone();
        if let Some(path) = cell.path(&info.key) {
            table.row(row(name, cell, path, bulk));
        } else if info.missing.is_some() {
            table.row(vec![name, "missing".to_owned()]);
        }
    }
    table.render()
}

fn row(name: String, cell: &CellResult, path: &PathResult, bulk: bool) -> Vec<String> {
    let Some(rate) = path.spread(|sample| Some(sample.per_second())) else {
        return vec![
            name,
            format!("failed: {}", path.failure().unwrap_or("nothing measured")),
        ];
    };
    let median = |figure: &dyn Fn(&Sample) -> Option<f64>| {
        maybe(path.spread(figure).map(|spread| spread.median))
    };
    let against = cell.ratio(&path.path, DIRECT_TCP, |sample| Some(sample.per_second()));
    let max = path
        .spread(|sample| Some(sample.latency_us.max))
        .map(|spread| spread.max);
    let mut cells = vec![
        name,
        rates(rate, path),
        ratio(against.map(|ratio| ratio.median)),
        median(&|sample| Some(sample.mb_per_second())),
        median(&|sample| Some(sample.latency_us.p50)),
        median(&|sample| Some(sample.latency_us.p90)),
        median(&|sample| Some(sample.latency_us.p99)),
        median(&|sample| Some(sample.latency_us.p999)),
        maybe(max),
    ];
    cells.push(if bulk {
        median(&Sample::cpu_ms_per_gb)
    } else {
        median(&Sample::cpu_us_per_request)
    });
    cells.push(median(&Sample::busy_us_per_request));
    cells.push(median(&|sample| {
        sample.memory_kb.map(|kb| kb as f64 / 1024.0)
    }));
    cells
}

/// The median and how far the rounds went; what failed is not hidden behind what did not.
fn rates(rate: Spread, path: &PathResult) -> String {
    let failed = path.rounds.iter().filter(|round| round.is_err()).count();
    let range = format!(
        "{} ({}–{})",
        number(rate.median),
        number(rate.min),
        number(rate.max)
    );
    match failed {
        0 => range,
        failed => format!("{failed} rounds failed, {range}"),
    }
}
