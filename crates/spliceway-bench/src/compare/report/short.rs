//! The one table that a reader begins with: a row for each workload, a column for each path.

use super::super::matrix::{Carry, Cell, Key};
use super::super::results::{
    Outcome, OverloadSample, PhpSample, Pm, ReloadRound, Results, Sample, SweepPoint, Void,
    failure, spread,
};
use super::super::statistics::Spread;
use super::super::table::{Table, number};

/// Key in the data, and title: direct, other programs, and both modes with both engines.
const COLUMNS: [(&str, &str); 7] = [
    ("tcp", "direct TCP"),
    ("haproxy", "HAProxy"),
    ("nginx", "nginx stream"),
    ("spliceway", "raw, io_uring"),
    ("spliceway-epoll", "raw, epoll"),
    ("fastcgi", "FastCGI, io_uring"),
    ("fastcgi-epoll", "FastCGI, epoll"),
];

/// With backends on this machine: those that the targets speak of, and real sizes of pages and files.
const HERE: [(Carry, Key, usize); 10] = [
    (Carry::New, Key::Small, 16),
    (Carry::Kept, Key::Small, 16),
    (Carry::New, Key::Small, 1),
    (Carry::New, Key::Page10, 16),
    (Carry::New, Key::Page50, 16),
    (Carry::New, Key::Page, 16),
    (Carry::New, Key::Image, 8),
    (Carry::New, Key::Download, 8),
    (Carry::New, Key::Bulk, 4),
    (Carry::New, Key::Upload, 16),
];

/// The overload that is shown: where more is asked for than can be done.
const OVERLOADS: [f64; 2] = [1.2, 2.0];

/// A fixed rate, as a part of the direct path's.
const OPEN_LOOP: f64 = 0.5;

/// A workload without a figure has no row.
pub(super) fn render(results: &Results) -> String {
    let columns = COLUMNS.iter().map(|(_, title)| (*title).to_owned());
    let first = ["workload".to_owned(), "figure".to_owned()];
    let mut table = Table::new(first.into_iter().chain(columns)).words(2);
    let rows = [remote(results), pages(results), here(results)].concat();
    let rows = [rows, open_loop(results), overload(results), rest(results)].concat();
    for Row {
        workload,
        figure,
        fields,
    } in rows
    {
        if fields.iter().any(|field| field != NOTHING) {
            let first = [workload, figure.to_owned()];
            table.row(first.into_iter().chain(fields).collect());
        }
    }
    match table.is_empty() {
        true => String::new(),
        false => table.render(),
    }
}

#[derive(Clone)]
struct Row {
    workload: String,
    figure: &'static str,
    fields: [String; COLUMNS.len()],
}

impl Row {
    fn new(workload: String, figure: &'static str, field: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            workload,
            figure,
            fields: COLUMNS.map(|(key, _)| field(key).unwrap_or_else(|| NOTHING.to_owned())),
        }
    }
}

const NOTHING: &str = "–";
const RATE: &str = "req/s";

/// A median, or why there is none.
fn field(rounds: &[Outcome], figure: fn(&Sample) -> Option<f64>) -> String {
    if failure(rounds).is_some() {
        return "failed".to_owned();
    }
    if Void::of(rounds).is_all() {
        return "void".to_owned();
    }
    median(spread(rounds, figure))
}

fn median(spread: Option<Spread>) -> String {
    spread.map_or_else(|| NOTHING.to_owned(), |spread| number(spread.median))
}

/// New connections; kept ones, which a web server with `keepalive` has, with company alone.
fn remote(results: &Results) -> Vec<Row> {
    let cells = || results.remote.iter().flat_map(|remote| &remote.cells);
    let row = |cell: &super::super::results::RemoteCell, carry: Carry| {
        let title = super::remote::title(cell);
        Row::new(format!("link of {title}, {}", carry.word()), RATE, |key| {
            let way = cell.way(key, carry)?;
            Some(field(&way.rounds, Sample::rate))
        })
    };
    let new = cells().map(|cell| row(cell, Carry::New));
    let kept = cells().filter(|cell| cell.concurrency > 1);
    new.chain(kept.map(|cell| row(cell, Carry::Kept))).collect()
}

/// Every size of a page with static pools, the smallest and a usual one with the others.
fn pages(results: &Results) -> Vec<Row> {
    let cells = results.php.iter().flat_map(|php| &php.cells);
    let cells = cells.filter(|cell| cell.pm == Pm::Static || [2, 50].contains(&cell.kb));
    let row = |cell: &super::super::results::PhpCell| {
        let workload = format!("PHP-FPM {}, pages of {} KB", cell.pm.word(), cell.kb);
        Row::new(workload, RATE, |key| {
            let path = cell.path(&format!("php-{key}"))?;
            let per_second: fn(&PhpSample) -> Option<f64> = |sample| Some(sample.per_second);
            Some(match (path.failure(), path.void().is_all()) {
                (Some(_), _) => "failed".to_owned(),
                (None, true) => "void".to_owned(),
                (None, false) => median(path.spread(per_second)),
            })
        })
    };
    cells.map(row).collect()
}

/// The FastCGI mode has rounds of its own, and what is not in the others is looked for there.
fn here(results: &Results) -> Vec<Row> {
    let row = |(carry, key, clients)| {
        let cell = Cell::new(carry, key, clients);
        let what = match key {
            Key::Upload => format!("upload of 5 MB, {} × {clients}", carry.word()),
            _ => cell.short(),
        };
        Row::new(format!("here, {what}"), RATE, |path| {
            let found = results.here(&cell, path)?;
            Some(field(&found.rounds, Sample::rate))
        })
    };
    HERE.map(row).into()
}

fn open_loop(results: &Results) -> Vec<Row> {
    let Some(sweep) = &results.sweep else {
        return Vec::new();
    };
    let near = |point: &&SweepPoint| (point.share - OPEN_LOOP).abs() < 1e-6;
    let rate = sweep.capacity * OPEN_LOOP;
    let workload = format!("here, 4 KB new, {} requests/s", number(rate));
    let p99 = |sample: &Sample| Some(sample.latency_us.p99);
    let one = Row::new(workload, "p99 µs", |key| {
        let path = sweep.paths.iter().find(|path| path.path == key)?;
        Some(field(&path.points.iter().find(near)?.rounds, p99))
    });
    vec![one]
}

fn overload(results: &Results) -> Vec<Row> {
    let Some(overload) = &results.overload else {
        return Vec::new();
    };
    let row = |load: f64| {
        let workload = format!("overload, {load} × PHP-FPM's capacity");
        Row::new(workload, "pages in time/s", |key| {
            let wanted = match key {
                "tcp" => "overload-fpm",
                "fastcgi" => "overload-adaptive",
                "fastcgi-epoll" => "overload-adaptive-epoll",
                _ => return None,
            };
            let way = overload.ways.iter().find(|way| way.path == wanted)?;
            let near = |point: &&super::super::results::OverloadPoint| {
                (point.load - load).abs() < 1e-6 && point.failure().is_none()
            };
            let goodput: fn(&OverloadSample) -> Option<f64> = |sample| Some(sample.goodput());
            Some(median(way.points.iter().find(near)?.spread(goodput)))
        })
    };
    OVERLOADS.map(row).into()
}

fn rest(results: &Results) -> Vec<Row> {
    let reload = Row::new("during a reload, 4 KB new".to_owned(), "p99 µs", |key| {
        let mut paths = results.reload.iter().flat_map(|reload| &reload.paths);
        let found = paths.find(|path| path.path == key && path.carry == Carry::New)?;
        let during: fn(&ReloadRound) -> f64 = |round| round.during.p99;
        Some(median(found.spread(during)))
    });
    let idle = Row::new("idle connection".to_owned(), "bytes", |key| {
        let idle = results.idle.iter().find(|idle| idle.path == key)?;
        idle.bytes_per_session().map(number)
    });
    vec![reload, idle]
}

#[cfg(test)]
mod tests {
    use super::super::super::sample_results;
    use super::*;

    fn row(text: &str, start: &str) -> Vec<String> {
        let found = text.lines().find(|line| line.starts_with(start));
        let found = found.unwrap_or_else(|| panic!("no '{start}' in:\n{text}"));
        found
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    }

    #[test]
    fn a_workload_is_a_row_with_both_modes_and_engines() {
        let text = render(&sample_results::results());
        let here = row(&text, "| here, 4 KB new × 16 ");
        assert_eq!(
            here[3..10],
            [
                "20,000", "10,000", "–", "15,000", "9,000", "40,000", "18,000"
            ],
            "{text}"
        );
        let link = row(&text, "| link of 10 ms, 64 KB × 16, new ");
        assert_eq!((&*link[3], &*link[8]), ("400", "800"), "{text}");
        let overload = row(&text, "| overload, 2 × ");
        assert_eq!(overload[8], "200", "{text}");
    }

    #[test]
    fn a_void_figure_is_not_told() {
        let text = render(&sample_results::results());
        // Its link has lost a packet.
        let link = row(&text, "| link of 10 ms, 64 KB × 16, kept ");
        assert_eq!((&*link[3], &*link[8]), ("1,000", "void"), "{text}");
        // wrk had no time left.
        let page = row(&text, "| PHP-FPM static, pages of 2 KB ");
        assert_eq!((&*page[3], &*page[4]), ("10,000", "void"), "{text}");
    }

    #[test]
    fn what_was_not_measured_has_no_row() {
        assert_eq!(render(&Results::default()), "");
    }
}
