//! The plots, as SVG. Four for the report, whose titles say what they show, from the figures; two more for the page with
//! every cell.
//!
//! A path has the same colour and mark everywhere. The colours are those of Okabe and Ito, which
//! people with any colour vision tell apart; marks and dashes tell the rest.

mod axis;
mod bars;
mod lines;
mod style;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(super) use tests::{FILES, assert_readable};

use std::cmp::Reverse;

use anyhow::Context as _;
use plotters::prelude::{IntoDrawingArea as _, SVGBackend};

use super::matrix::{Carry, Cell, Key};
use super::report::{cpu_points, ratio_points};
use super::results::{
    DIRECT_TCP, OverloadPoint, OverloadSample, OverloadWay, PHP_TCP, PhpCell, PhpSample, Pm,
    RemoteCell, Results, Sample, Void, failure, name_in, spread,
};
use super::statistics::Spread;
use super::table::number;
use axis::Axis;
use bars::{Bar, Bars, Panel};
use lines::{Figure, Graph, Line};

/// One file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plot {
    Remote,
    Pages,
    Machine,
    Overload,
    Sweep,
    Growth,
}

/// What is drawn.
enum Drawing {
    Bars(Bars),
    Lines(Figure),
}

impl Plot {
    const ALL: [Self; 6] = [
        Self::Remote,
        Self::Pages,
        Self::Machine,
        Self::Overload,
        Self::Sweep,
        Self::Growth,
    ];

    /// Those of the report.
    pub(super) const SHORT: [Self; 4] = [Self::Remote, Self::Pages, Self::Machine, Self::Overload];

    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Remote => "remote.svg",
            Self::Pages => "pages.svg",
            Self::Machine => "machine.svg",
            Self::Overload => "overload.svg",
            Self::Sweep => "latency-under-load.svg",
            Self::Growth => "growth.svg",
        }
    }

    /// What it shows, in one sentence.
    pub(super) fn title(self, results: &Results) -> String {
        match self {
            Self::Remote => remote_title(results),
            Self::Pages => pages_title(results),
            Self::Machine => machine_title(results),
            Self::Overload => overload_title(results),
            Self::Sweep => "Latency at fixed rates".to_owned(),
            Self::Growth => "CPU per request with more and more clients".to_owned(),
        }
    }

    /// Nothing without figures.
    fn drawing(self, results: &Results) -> Option<Drawing> {
        let lines = |figure: Figure| (!figure.graphs.is_empty()).then_some(Drawing::Lines(figure));
        let bars = |bars: Bars| (!bars.panels.is_empty()).then_some(Drawing::Bars(bars));
        match self {
            Self::Remote => bars(remote(results)),
            Self::Pages => lines(pages(results)),
            Self::Machine => bars(machine(results)),
            Self::Overload => lines(overload(results)),
            Self::Sweep => lines(sweep(results)),
            Self::Growth => lines(growth(results)),
        }
    }

    /// Whether there is nothing to draw.
    pub(super) fn is_empty(self, results: &Results) -> bool {
        self.drawing(results).is_none()
    }
}

/// Every plot for which there are figures: its file's name and content.
pub(super) fn render(results: &Results) -> anyhow::Result<Vec<(&'static str, String)>> {
    let draw = |plot: Plot| {
        let drawing = plot.drawing(results)?;
        let svg = draw(&drawing).with_context(|| format!("draw {}", plot.file()));
        Some(svg.map(|svg| (plot.file(), svg)))
    };
    Plot::ALL.into_iter().filter_map(draw).collect()
}

fn draw(drawing: &Drawing) -> anyhow::Result<String> {
    let mut svg = String::new();
    match drawing {
        Drawing::Bars(bars) => {
            let backend = SVGBackend::with_string(&mut svg, bars::size(bars));
            bars::draw(&backend.into_drawing_area(), bars)?;
        }
        Drawing::Lines(figure) => {
            let backend = SVGBackend::with_string(&mut svg, lines::size(figure));
            lines::draw(&backend.into_drawing_area(), figure)?;
        }
    }
    Ok(style::with_dark_mode(&svg))
}

/// What bars and points mean.
fn ranges(rounds: usize) -> String {
    format!("Lines over bars and points go from the lowest to the highest of {rounds} rounds.")
}

/// With the fewest clients: what a visitor waits for, and not what the link's thread can do.
fn remote_cells(results: &Results) -> Vec<&RemoteCell> {
    let cells = || results.remote.iter().flat_map(|remote| &remote.cells);
    let fewest = cells().map(|cell| cell.concurrency).min();
    cells()
        .filter(|cell| Some(cell.concurrency) == fewest)
        .collect()
}

fn p50_ms(sample: &Sample) -> Option<f64> {
    Some(sample.latency_us.p50 / 1e3)
}

fn p50_of(cell: &RemoteCell, path: &str, carry: Carry) -> Option<Spread> {
    spread(&cell.way(path, carry)?.rounds, p50_ms)
}

fn remote_title(results: &Results) -> String {
    let smallest = |cell: &&RemoteCell| Reverse(cell.key.exchange().response_bytes);
    let longest = remote_cells(results)
        .into_iter()
        .max_by_key(|cell| (cell.round_trip_ms, smallest(cell)));
    let figures = longest.and_then(|cell| {
        let mode = p50_of(cell, "fastcgi", Carry::New)?;
        let direct = p50_of(cell, DIRECT_TCP, Carry::New)?;
        Some((cell.round_trip_ms, mode.median, direct.median))
    });
    match figures {
        Some((ms, mode, direct)) => format!(
            "A saved handshake is a saved round trip: at {ms}\u{a0}ms, the FastCGI mode answers after\u{a0}{}\u{a0}ms, direct TCP after\u{a0}{}",
            number(mode),
            number(direct)
        ),
        None => "Backends behind a link: time to the answer".to_owned(),
    }
}

/// A panel for each link and answer.
fn remote(results: &Results) -> Bars {
    let Some(remote) = &results.remote else {
        return Bars {
            title: String::new(),
            panels: Vec::new(),
            note: String::new(),
        };
    };
    let panel = |cell: &&RemoteCell| {
        let bar = |key: &str, carry: Carry| {
            let way = cell.way(key, carry)?;
            let name = name_in(&remote.paths, key);
            let kept = if carry == Carry::Kept { ", kept" } else { "" };
            failure(&way.rounds).is_none().then(|| Bar {
                key: key.to_owned(),
                name: format!("{name}{kept}"),
                value: spread(&way.rounds, p50_ms),
            })
        };
        let new = remote.paths.iter();
        let new = new.filter_map(|info| bar(&info.key, Carry::New));
        let (ms, answer) = (cell.round_trip_ms, cell.key.response());
        let clients = match cell.concurrency {
            1 => "one client".to_owned(),
            many => format!("{many} clients"),
        };
        Panel {
            title: format!("Round trip of {ms} ms, answers of {answer}"),
            unit: format!("ms to the end of the answer (p50), {clients}"),
            bars: new.chain(bar(DIRECT_TCP, Carry::Kept)).collect(),
        }
    };
    Bars {
        title: remote_title(results),
        panels: remote_cells(results).iter().map(panel).collect(),
        note: format!(
            "Clients make a connection for each request; for comparison, direct TCP with kept ones. {} void: the link was \
             late, so that the figure is its own.",
            ranges(results.effort.rounds)
        ),
    }
}

/// The ways that the plot of pages is about.
const PAGES_KEYS: [&str; 7] = [
    PHP_TCP,
    "php-haproxy",
    "php-nginx",
    "php-spliceway",
    "php-spliceway-epoll",
    "php-fastcgi",
    "php-fastcgi-epoll",
];

fn pages_title(results: &Results) -> String {
    let cells = || {
        let cells = results.php.iter().flat_map(|php| &php.cells);
        cells.filter(|cell| cell.pm == Pm::Static)
    };
    let ratio = |cell: &PhpCell, key: &str| {
        let rate: fn(&PhpSample) -> Option<f64> = |sample| Some(sample.per_second);
        Some(cell.ratio(key, rate)?.median)
    };
    let times = |cell: &PhpCell| {
        let (mode, raw) = (ratio(cell, "php-fastcgi")?, ratio(cell, "php-spliceway")?);
        Some(format!(
            "{mode:.2}\u{a0}× and raw {raw:.2}\u{a0}× at {}\u{a0}KB",
            cell.kb
        ))
    };
    let smallest = cells().min_by_key(|cell| cell.kb).and_then(times);
    let largest = cells().max_by_key(|cell| cell.kb).and_then(times);
    match smallest {
        Some(smallest) => {
            let largest = largest.filter(|largest| *largest != smallest);
            let largest = largest.map_or_else(String::new, |largest| format!("; {largest}"));
            format!(
                "Pages of PHP-FPM per second, against direct TCP: FastCGI mode {smallest}{largest}"
            )
        }
        None => "nginx and PHP-FPM: requests per second by size of the page".to_owned(),
    }
}

/// A graph for each of PHP-FPM's process managers.
fn pages(results: &Results) -> Figure {
    let graph = |pm: Pm| {
        let cells = results.php.iter().flat_map(|php| &php.cells);
        let cells: Vec<&PhpCell> = cells.filter(|cell| cell.pm == pm).collect();
        let line = |&key: &&str| {
            let name = cells.iter().find_map(|cell| cell.path(key))?.name.as_str();
            let line = Line::named(name, key).through(ratio_points(&cells, key));
            (!line.is_empty()).then_some(line)
        };
        let lines: Vec<Line> = PAGES_KEYS.iter().filter_map(line).collect();
        (!lines.is_empty()).then(|| Graph {
            title: format!("pm = {}", pm.word()),
            x: Axis::counts("KB of the page", lines.iter().flat_map(Line::xs)),
            y: Axis::linear(
                "requests per second ÷ direct TCP's",
                lines.iter().flat_map(Line::ys),
            ),
            lines,
        })
    };
    let rounds = results.php.as_ref().map_or(0, |php| php.rounds);
    Figure {
        title: pages_title(results),
        graphs: Pm::ALL.into_iter().filter_map(graph).collect(),
        note: format!(
            "nginx makes a connection for each request. {} Paths at one size stand side by side.",
            ranges(rounds)
        ),
    }
}

/// The paths that everything on this machine is compared by.
const MACHINE_KEYS: [&str; 7] = [
    DIRECT_TCP,
    "haproxy",
    "nginx",
    "spliceway",
    "spliceway-epoll",
    "fastcgi",
    "fastcgi-epoll",
];

/// A small page and a larger one.
fn machine_cells() -> [Cell; 2] {
    [Key::Small, Key::Page50].map(|key| Cell::new(Carry::New, key, 16))
}

fn machine_title(results: &Results) -> String {
    let [small, _] = machine_cells();
    let mode = results.fastcgi.iter().flat_map(|mode| &mode.cells);
    let mut all = results.cells.iter().chain(mode);
    let mut ratio = |of: &str| {
        let cell = all.find(|cell| cell.cell == small && cell.path(of).is_some())?;
        let ratio = cell.ratio(of, "haproxy", Sample::rate)?;
        Some(ratio.median)
    };
    let raw = ratio("spliceway");
    match raw.and_then(|raw| Some((raw, ratio("fastcgi")?))) {
        Some((raw, mode)) => format!(
            "With everything on one machine, the FastCGI mode serves {mode:.2} times as many requests of 4\u{a0}KB as HAProxy, \
             the raw mode {raw:.2}"
        ),
        None => "Requests per second and CPU with everything on one machine".to_owned(),
    }
}

fn machine(results: &Results) -> Bars {
    type Wanted = fn(&Sample) -> Option<f64>;
    let figures: [(&str, Wanted); 2] = [
        ("requests per second", Sample::rate),
        (
            "CPU µs per request, of the program in between",
            Sample::cpu_us_per_request,
        ),
    ];
    let panel = |cell: Cell, (unit, figure): (&str, Wanted)| {
        let bar = |key: &&str| {
            let found = results.here(&cell, key)?;
            // A direct path has no program in between.
            let has_figure = found
                .rounds
                .iter()
                .flatten()
                .any(|sample| figure(sample).is_some());
            has_figure.then(|| Bar {
                key: (*key).to_owned(),
                name: results.name_of_any(key),
                value: spread(&found.rounds, figure),
            })
        };
        Panel {
            title: format!(
                "{}, a connection for each request",
                cell.exchange.key.response()
            ),
            unit: format!("{unit}, {} clients", cell.concurrency),
            bars: MACHINE_KEYS.iter().filter_map(bar).collect(),
        }
    };
    let panels = machine_cells().map(|cell| figures.map(|figure| panel(cell, figure)));
    let panels = panels.into_iter().flatten();
    Bars {
        title: machine_title(results),
        panels: panels.filter(|panel| !panel.bars.is_empty()).collect(),
        note: format!(
            "One thread each. {} void: the load generator or the backend was the bottleneck.",
            ranges(results.effort.rounds)
        ),
    }
}

type Quantile = fn(&Sample) -> f64;

/// The median and the tail.
fn sweep(results: &Results) -> Figure {
    let graph = |(name, figure): (&str, Quantile)| {
        let sweep = results.sweep.as_ref()?;
        let line = |path: &super::results::SweepPath| {
            let mut line = Line::named(&results.name_of_any(&path.path), &path.path);
            for point in &path.points {
                let us = spread(&point.rounds, |sample| Some(figure(sample)));
                if failure(&point.rounds).is_none()
                    && !Void::of(&point.rounds).is_all()
                    && let Some(us) = us
                {
                    line.point(point.rate, us, point.kept_up());
                }
            }
            line
        };
        let lines: Vec<Line> = sweep.paths.iter().map(line).collect();
        let rates = lines.iter().flat_map(Line::xs);
        Some(Graph {
            title: format!("{name}, 4 KB, new connections"),
            x: Axis::linear("requests per second, open loop", rates),
            y: Axis::log("latency, µs", lines.iter().flat_map(Line::ys)),
            lines,
        })
    };
    let quantiles: [(&str, Quantile); 2] = [
        ("p50", |sample| sample.latency_us.p50),
        ("p99", |sample| sample.latency_us.p99),
    ];
    let graphs = quantiles.into_iter().filter_map(graph);
    Figure {
        title: Plot::Sweep.title(results),
        graphs: graphs
            .filter(|graph| graph.lines.iter().any(|line| !line.is_empty()))
            .collect(),
        note: format!(
            "A cross: the path could not keep up, and its latency grows for as long as that lasts. {} Void points are not drawn.",
            ranges(results.effort.rounds)
        ),
    }
}

fn overload_title(results: &Results) -> String {
    let overload = results.overload.as_ref();
    let figures = overload.and_then(|overload| {
        let goodput = |key: &str, load: f64| {
            let way = overload.ways.iter().find(|way| way.path == key)?;
            let near = |point: &&OverloadPoint| (point.load - load).abs() < 1e-6;
            let point = way.points.iter().find(near)?;
            Some(point.spread(|sample| Some(sample.goodput()))?.median)
        };
        let points = overload.ways.iter().flat_map(|way| &way.points);
        let loads = points.map(|point| point.load).filter(|load| *load > 1.0);
        let load = loads.min_by(f64::total_cmp)?;
        let mode = goodput("overload-adaptive", load)?;
        Some((load, mode, goodput("overload-fpm", load)?))
    });
    match figures {
        Some((load, mode, fpm)) => format!(
            "At {load}\u{a0}× PHP-FPM's capacity, its own backlog delivers {} pages a second in time, the FastCGI mode's queue {}",
            number(fpm),
            number(mode)
        ),
        None => "Overload: pages that are made in time".to_owned(),
    }
}

/// What is answered in time, and how late the slowest of that is.
fn overload(results: &Results) -> Figure {
    type Wanted = fn(&OverloadSample) -> Option<f64>;
    let graph = |(title, unit, figure): (&str, &'static str, Wanted)| {
        let overload = results.overload.as_ref()?;
        let line = |way: &OverloadWay| {
            let point = |point: &OverloadPoint| Some((point.load, point.spread(figure)?));
            Line::named(&way.name, &way.path).through(way.points.iter().filter_map(point))
        };
        let lines: Vec<Line> = overload.ways.iter().map(line).collect();
        let is_drawn = lines.iter().any(|line| !line.is_empty());
        is_drawn.then(|| Graph {
            title: title.to_owned(),
            x: Axis::counts("requests ÷ capacity", lines.iter().flat_map(Line::xs)),
            y: Axis::linear(unit, lines.iter().flat_map(Line::ys)),
            lines,
        })
    };
    let figures: [(&str, &str, Wanted); 2] = [
        ("pages in time", "pages per second", |sample| {
            Some(sample.goodput())
        }),
        ("p99 of those in time", "ms", |sample| {
            Some(sample.answered_us?.p99 / 1e3)
        }),
    ];
    let overload = results.overload.as_ref();
    let points = overload.into_iter().flat_map(|overload| &overload.ways);
    let rounds = points.flat_map(|way| &way.points);
    let rounds = rounds.map(|point| point.rounds.len()).max().unwrap_or(0);
    Figure {
        title: overload_title(results),
        graphs: figures.into_iter().filter_map(graph).collect(),
        note: format!(
            "spliceway is in FastCGI mode. Clients leave after {} s. A line ends where nobody has a page in time. {}",
            overload.map_or(0.0, |overload| overload.patience_seconds),
            ranges(rounds)
        ),
    }
}

fn growth(results: &Results) -> Figure {
    let graph = |carry| {
        let growth = results.growth.as_ref()?;
        let series = growth.series.iter().filter(|series| series.carry == carry);
        let lines: Vec<Line> = series
            .map(|series| Line::new(results, &series.path).through(cpu_points(series)))
            .filter(|line| !line.is_empty())
            .collect();
        (!lines.is_empty()).then(|| Graph {
            title: format!("4 KB, {}", carry.title()),
            x: Axis::counts("clients at one time", lines.iter().flat_map(Line::xs)),
            y: Axis::linear("CPU µs per request", lines.iter().flat_map(Line::ys)),
            lines,
        })
    };
    Figure {
        title: Plot::Growth.title(results),
        graphs: Carry::ALL.into_iter().filter_map(graph).collect(),
        note: format!("One thread each. {}", ranges(results.effort.rounds)),
    }
}
