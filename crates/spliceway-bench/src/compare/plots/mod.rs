//! The plots, as SVG: bars of throughput and CPU, latency by percentile, latency under load, growth.
//!
//! A path has the same colour and mark everywhere. The colours are those of Okabe and Ito, which
//! people with any colour vision tell apart; marks and dashes tell the rest.

mod bars;
mod lines;
mod style;

use anyhow::Context as _;
use plotters::prelude::{IntoDrawingArea as _, SVGBackend};

use super::matrix::{Carry, Key};
use super::report::{cpu_points, ratio_points};
use super::results::{
    CellResult, OverloadPoint, OverloadSample, OverloadWay, PHP_TCP, PhpCell, Pm, Results, Sample,
    failure, spread,
};
use bars::{Bar, Panel};
use lines::{Axis, Figure, Graph, Line};

/// One file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plot {
    Pages,
    Throughput,
    Cpu,
    Latency,
    Sweep,
    Overload,
    Growth,
}

impl Plot {
    const ALL: [Self; 7] = [
        Self::Pages,
        Self::Throughput,
        Self::Cpu,
        Self::Latency,
        Self::Sweep,
        Self::Overload,
        Self::Growth,
    ];

    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Pages => "pages.svg",
            Self::Throughput => "throughput.svg",
            Self::Cpu => "cpu.svg",
            Self::Latency => "latency.svg",
            Self::Sweep => "latency-under-load.svg",
            Self::Overload => "overload.svg",
            Self::Growth => "growth.svg",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Pages => "nginx and PHP-FPM: requests per second by size of the page",
            Self::Throughput => "Requests per second by path",
            Self::Cpu => "CPU of the program in between",
            Self::Latency => "Latency by percentile",
            Self::Sweep => "Latency under load",
            Self::Overload => "Overload: pages that are made in time",
            Self::Growth => "CPU per request with more and more clients",
        }
    }

    /// Whether there is nothing to draw.
    pub(super) fn is_empty(self, results: &Results) -> bool {
        match self {
            Self::Pages => pages(results).graphs.is_empty(),
            Self::Throughput => panels(results, throughput).is_empty(),
            Self::Cpu => panels(results, cpu).is_empty(),
            Self::Latency => latency(results).graphs.is_empty(),
            Self::Sweep => sweep(results).graphs.is_empty(),
            Self::Overload => overload(results).graphs.is_empty(),
            Self::Growth => growth(results).graphs.is_empty(),
        }
    }
}

/// Every plot for which there are figures: its file's name and content.
pub(super) fn render(results: &Results) -> anyhow::Result<Vec<(&'static str, String)>> {
    let wanted = Plot::ALL.into_iter().filter(|plot| !plot.is_empty(results));
    let draw = |plot: Plot| {
        let svg = draw(plot, results).with_context(|| format!("draw {}", plot.file()))?;
        Ok((plot.file(), svg))
    };
    wanted.map(draw).collect()
}

fn draw(plot: Plot, results: &Results) -> anyhow::Result<String> {
    match plot {
        Plot::Pages => draw_lines(&pages(results)),
        Plot::Throughput => draw_bars(plot, &panels(results, throughput)),
        Plot::Cpu => draw_bars(plot, &panels(results, cpu)),
        Plot::Latency => draw_lines(&latency(results)),
        Plot::Sweep => draw_lines(&sweep(results)),
        Plot::Overload => draw_lines(&overload(results)),
        Plot::Growth => draw_lines(&growth(results)),
    }
}

fn draw_bars(plot: Plot, panels: &[Panel]) -> anyhow::Result<String> {
    let mut svg = String::new();
    let size = bars::size(panels);
    bars::draw(
        &SVGBackend::with_string(&mut svg, size).into_drawing_area(),
        plot.title(),
        panels,
    )?;
    Ok(svg)
}

fn draw_lines(figure: &Figure) -> anyhow::Result<String> {
    let mut svg = String::new();
    let size = lines::size(figure);
    lines::draw(
        &SVGBackend::with_string(&mut svg, size).into_drawing_area(),
        figure,
    )?;
    Ok(svg)
}

/// The ways that the headline is about.
const PAGES_KEYS: [&str; 6] = [
    PHP_TCP,
    "php-haproxy",
    "php-nginx",
    "php-spliceway",
    "php-fastcgi",
    "php-fastcgi-epoll",
];

/// A graph for each of PHP-FPM's process managers.
fn pages(results: &Results) -> Figure {
    let graph = |pm: Pm| {
        let cells = results.php.iter().flat_map(|php| &php.cells);
        let cells: Vec<&PhpCell> = cells.filter(|cell| cell.pm == pm).collect();
        let line = |&key: &&str| {
            let name = cells.iter().find_map(|cell| cell.path(key))?.name.as_str();
            let line = Line::named(name, key, ratio_points(&cells, key));
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
    Figure {
        title: Plot::Pages.title(),
        graphs: Pm::ALL.into_iter().filter_map(graph).collect(),
        note: "nginx makes a new connection for each request. PHP-FPM makes one write of 2 KB, two of 10 KB, and more of larger pages.",
    }
}

/// A panel for each cell that the targets speak of.
fn panels(results: &Results, panel: fn(&Results, &CellResult) -> Panel) -> Vec<Panel> {
    let wanted = super::matrix::targets();
    let cells = results
        .cells
        .iter()
        .filter(|result| wanted.contains(&result.cell));
    let panels = cells.map(|cell| panel(results, cell));
    panels.filter(|panel| !panel.bars.is_empty()).collect()
}

fn throughput(results: &Results, cell: &CellResult) -> Panel {
    panel(results, cell, "requests per second", Sample::rate)
}

fn cpu(results: &Results, cell: &CellResult) -> Panel {
    if cell.cell.exchange.is_bulk() {
        panel(results, cell, "CPU ms per GB", Sample::cpu_ms_per_gb)
    } else {
        panel(
            results,
            cell,
            "CPU µs per request",
            Sample::cpu_us_per_request,
        )
    }
}

fn panel(
    results: &Results,
    cell: &CellResult,
    unit: &str,
    figure: fn(&Sample) -> Option<f64>,
) -> Panel {
    let bar = |path: &super::results::PathResult| {
        Some(Bar {
            key: path.path.clone(),
            name: results.name(&path.path),
            value: path.spread(figure)?,
        })
    };
    Panel {
        title: cell.cell.title(),
        unit: unit.to_owned(),
        bars: cell.paths.iter().filter_map(bar).collect(),
    }
}

/// New and kept connections, 16 at a time.
fn latency(results: &Results) -> Figure {
    let graph = |carry| {
        let wanted = super::matrix::Cell::new(carry, Key::Small, 16);
        let cell = results.cells.iter().find(|result| result.cell == wanted)?;
        let line = |path: &super::results::PathResult| {
            let point = |&(share, us): &(f64, f64)| (nines(share), us);
            let points: Vec<_> = path.distribution.iter().map(point).collect();
            (!points.is_empty()).then(|| Line::smooth(results, &path.path, points))
        };
        let lines: Vec<Line> = cell.paths.iter().filter_map(line).collect();
        (!lines.is_empty()).then(|| Graph {
            title: wanted.title(),
            x: Axis::nines("percentile of requests", &lines),
            y: Axis::log("latency, µs", lines.iter().flat_map(Line::ys)),
            lines,
        })
    };
    Figure {
        title: Plot::Latency.title(),
        graphs: Carry::ALL.into_iter().filter_map(graph).collect(),
        note: "Logarithmic axes: each further nine takes the same room.",
    }
}

/// How many nines a share has: 0.99 has two.
fn nines(share: f64) -> f64 {
    -(1.0 - share).log10()
}

type Quantile = fn(&Sample) -> f64;

/// The median and the tail.
fn sweep(results: &Results) -> Figure {
    let graph = |(name, figure): (&str, Quantile)| {
        let sweep = results.sweep.as_ref()?;
        let line = |path: &super::results::SweepPath| {
            let mut line = Line::marked(results, &path.path, Vec::new());
            for point in &path.points {
                let us = spread(&point.rounds, |sample| Some(figure(sample)));
                if failure(&point.rounds).is_none()
                    && let Some(us) = us
                {
                    line.point((point.rate, us.median), point.kept_up());
                }
            }
            line
        };
        let lines: Vec<Line> = sweep.paths.iter().map(line).collect();
        let rates = lines.iter().flat_map(Line::xs);
        Some(Graph {
            title: format!("{name}, 4 KB, new connections"),
            x: Axis::linear("requests per second, open loop", rates),
            y: Axis::log("latency, µs", lines.iter().flat_map(Line::good_ys)),
            lines,
        })
    };
    let quantiles: [(&str, Quantile); 2] = [
        ("p50", |sample| sample.latency_us.p50),
        ("p99", |sample| sample.latency_us.p99),
    ];
    let graphs = quantiles.into_iter().filter_map(graph);
    Figure {
        title: Plot::Sweep.title(),
        graphs: graphs
            .filter(|graph| graph.lines.iter().any(|line| !line.is_empty()))
            .collect(),
        note: "A cross: the path could not keep up, and its latency grows for as long as that lasts.",
    }
}

/// What is answered in time, and how late the slowest of that is.
fn overload(results: &Results) -> Figure {
    type Wanted = fn(&OverloadSample) -> Option<f64>;
    let graph = |(title, unit, figure): (&str, &'static str, Wanted)| {
        let overload = results.overload.as_ref()?;
        let line = |way: &OverloadWay| {
            let point = |point: &OverloadPoint| Some((point.load, point.spread(figure)?.median));
            let points = way.points.iter().filter_map(point).collect();
            Line::named(&way.name, &way.path, points)
        };
        let lines: Vec<Line> = overload.ways.iter().map(line).collect();
        let is_drawn = lines.iter().any(|line| !line.is_empty());
        is_drawn.then(|| Graph {
            title: title.to_owned(),
            x: Axis::linear("asked for ÷ capacity", lines.iter().flat_map(Line::xs)),
            y: Axis::linear(unit, lines.iter().flat_map(Line::ys)),
            lines,
        })
    };
    let figures: [(&str, &str, Wanted); 2] = [
        ("goodput", "pages per second", |sample| {
            Some(sample.goodput())
        }),
        ("p99 of those that were made in time", "ms", |sample| {
            Some(sample.answered_us?.p99 / 1e3)
        }),
    ];
    Figure {
        title: Plot::Overload.title(),
        graphs: figures.into_iter().filter_map(graph).collect(),
        note: "Clients leave after two seconds. A line ends where nobody has a page in time.",
    }
}

fn growth(results: &Results) -> Figure {
    let graph = |carry| {
        let growth = results.growth.as_ref()?;
        let series = growth.series.iter().filter(|series| series.carry == carry);
        let lines: Vec<Line> = series
            .map(|series| Line::marked(results, &series.path, cpu_points(series)))
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
        title: Plot::Growth.title(),
        graphs: Carry::ALL.into_iter().filter_map(graph).collect(),
        note: "One thread each.",
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample_results;
    use super::*;

    #[test]
    fn every_plot_is_drawn_with_its_paths_and_units() {
        let drawn = render(&sample_results::results()).unwrap();
        let files: Vec<&str> = drawn.iter().map(|(file, _)| *file).collect();
        assert_eq!(files, Plot::ALL.map(Plot::file));
        for (file, svg) in drawn {
            let name = match file {
                "overload.svg" => "spliceway, adaptive",
                _ => "spliceway raw, io_uring",
            };
            for text in [name, "</svg>"] {
                assert!(svg.contains(text), "{file}: no '{text}'");
            }
            assert!(
                svg.contains("µs") || svg.contains("per second"),
                "{file}: no unit"
            );
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{file}");
        }
    }

    #[test]
    fn without_figures_there_are_no_plots() {
        assert!(render(&Results::default()).unwrap().is_empty());
    }

    #[test]
    fn nines_are_counted() {
        assert!((nines(0.999) - 3.0).abs() < 1e-9 && nines(0.0) == 0.0);
    }
}
