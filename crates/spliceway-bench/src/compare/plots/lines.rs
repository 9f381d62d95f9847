//! Lines over two axes, side by side, with one legend below them.

use anyhow::Result;
use plotters::chart::ChartBuilder;
use plotters::element::{Circle, Cross, PathElement, Rectangle, Text, TriangleMarker};
use plotters::prelude::{Color as _, WHITE};
use plotters::series::{DashedLineSeries, LineSeries};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::results::Results;
use super::super::statistics::Spread;
use super::axis::Axis;
use super::style::{
    Area, BLACK, GREY, LIGHT, Look, MARGIN, Mark, WIDTH, draw_text, draw_title, font, look, pixels,
    stroke, text, title_height, wrapped,
};

/// A path's line.
pub(super) struct Line {
    name: String,
    look: Look,
    points: Vec<Point>,
}

struct Point {
    at: (f64, f64),
    /// From the lowest round to the highest one.
    range: Option<(f64, f64)>,
    /// Crossed out if not.
    good: bool,
}

impl Line {
    pub(super) fn new(results: &Results, key: &str) -> Self {
        Self::named(&results.name(key), key)
    }

    /// Of something that is not among the paths.
    pub(super) fn named(name: &str, key: &str) -> Self {
        Self {
            name: name.to_owned(),
            look: look(key),
            points: Vec::new(),
        }
    }

    /// With a median and a range at each place.
    pub(super) fn through(mut self, points: impl IntoIterator<Item = (f64, Spread)>) -> Self {
        for (x, spread) in points {
            self.point(x, spread, true);
        }
        self
    }

    pub(super) fn point(&mut self, x: f64, spread: Spread, good: bool) {
        self.points.push(Point {
            at: (x, spread.median),
            range: good.then_some((spread.min, spread.max)),
            good,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    pub(super) fn xs(&self) -> impl Iterator<Item = f64> {
        self.points.iter().map(|point| point.at.0)
    }

    /// Without what is crossed out, with ranges.
    pub(super) fn ys(&self) -> impl Iterator<Item = f64> {
        let good = self.points.iter().filter(|point| point.good);
        good.flat_map(|point| {
            let (low, high) = point.range.unwrap_or((point.at.1, point.at.1));
            [low, high]
        })
    }
}

pub(super) struct Graph {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

/// Graphs with the same paths.
pub(super) struct Figure {
    pub(super) title: String,
    pub(super) graphs: Vec<Graph>,
    /// How to read it.
    pub(super) note: String,
}

const GRAPH_HEIGHT: i32 = 320;
const LEGEND_COLUMNS: i32 = 3;
const LEGEND_ROW: i32 = 22;
/// Before a name in the legend.
const SWATCH: i32 = 42;
const NOTE_SIZE: i32 = 12;

impl Figure {
    /// Each path once.
    fn legend(&self) -> Vec<&Line> {
        let mut found: Vec<&Line> = Vec::new();
        for line in self.graphs.iter().flat_map(|graph| &graph.lines) {
            if !found.iter().any(|other| other.name == line.name) {
                found.push(line);
            }
        }
        found
    }

    fn legend_height(&self) -> i32 {
        let rows = pixels(self.legend().len()).div_euclid(LEGEND_COLUMNS);
        let part = pixels(self.legend().len()).rem_euclid(LEGEND_COLUMNS);
        LEGEND_ROW * (rows + i32::from(part > 0))
    }

    fn note_lines(&self) -> Vec<String> {
        wrapped(&self.note, WIDTH - 2 * MARGIN, NOTE_SIZE)
    }

    fn note_height(&self) -> i32 {
        pixels(self.note_lines().len()) * (NOTE_SIZE + 4)
    }
}

/// In pixels.
pub(super) fn size(figure: &Figure) -> (u32, u32) {
    let legend = figure.legend_height() + figure.note_height();
    let height = title_height(&figure.title) + GRAPH_HEIGHT + legend + 2 * MARGIN;
    (WIDTH.unsigned_abs(), height.unsigned_abs())
}

pub(super) fn draw(area: &Area<'_>, figure: &Figure) -> Result<()> {
    area.fill(&WHITE)?;
    draw_title(area, &figure.title)?;
    let title = title_height(&figure.title);
    let (_, below) = area.split_vertically(title);
    let (graphs, _) = below.split_vertically(GRAPH_HEIGHT);
    for (area, graph) in graphs
        .split_evenly((1, figure.graphs.len()))
        .iter()
        .zip(&figure.graphs)
    {
        draw_graph(area, graph)?;
    }
    let top = title + GRAPH_HEIGHT + MARGIN;
    draw_legend(area, figure, top)?;
    let note = figure.note_lines();
    draw_text(
        area,
        &note,
        (MARGIN, top + figure.legend_height()),
        NOTE_SIZE,
        GREY,
    )?;
    area.present()?;
    Ok(())
}

/// How far lines stand apart, of an axis, so that one range does not hide another.
const APART: f64 = 0.012;

fn draw_graph(area: &Area<'_>, graph: &Graph) -> Result<()> {
    let Graph { title, x, y, lines } = graph;
    let mut chart = ChartBuilder::on(area)
        .caption(title, text(13, BLACK))
        .margin(8)
        .margin_right(18)
        .x_label_area_size(44)
        .y_label_area_size(74)
        .build_cartesian_2d(x.scale(), y.scale())?;
    chart
        .configure_mesh()
        .bold_line_style(stroke(LIGHT, 1))
        .light_line_style(WHITE.mix(0.0))
        .axis_style(stroke(GREY, 1))
        .x_desc(x.title)
        .y_desc(y.title)
        .axis_desc_style(font(12).color(&BLACK))
        .label_style(font(11).color(&BLACK))
        .x_label_formatter(&|at| x.label(*at))
        .y_label_formatter(&|at| y.label(*at))
        .draw()?;
    let middle = (lines.len() as f64 - 1.0) / 2.0;
    for (index, line) in lines.iter().enumerate() {
        let Look { colour, width, .. } = line.look;
        let apart = if x.is_crowded { APART } else { 0.0 };
        let apart = (index as f64 - middle) * apart * (x.to - x.from);
        // What is crossed out may lie beyond the axis: it is shown at its end.
        let end = y.to - (y.to - y.from) * 0.03;
        let across = |point: &Point| x.drawn(point.at.0) + apart;
        let at = |point: &Point| (across(point), y.drawn(point.at.1).min(end));
        let points = line.points.iter().map(at);
        if line.look.dashed {
            chart.draw_series(DashedLineSeries::new(points, 5, 4, stroke(colour, width)))?;
        } else {
            chart.draw_series(LineSeries::new(points, stroke(colour, width)))?;
        }
        for point in &line.points {
            let place = |at: (f64, f64)| area_point(area, chart.backend_coord(&at));
            if let Some((low, high)) = point.range {
                let ends = [low, high].map(|end| place((across(point), y.drawn(end))));
                area.draw(&PathElement::new(ends.to_vec(), stroke(colour, 1)))?;
            }
            let at = place(at(point));
            if point.good {
                draw_mark(area, at, line.look)?;
            } else {
                area.draw(&Cross::new(at, 6, stroke(colour, 2)))?;
            }
        }
    }
    Ok(())
}

/// A point of the whole image in the area's own coordinates.
fn area_point(area: &Area<'_>, (x, y): (i32, i32)) -> (i32, i32) {
    let (left, top) = area.get_base_pixel();
    (x - left, y - top)
}

fn draw_mark(area: &Area<'_>, at: (i32, i32), look: Look) -> Result<()> {
    let (x, y) = at;
    let filled = look.colour.filled();
    match look.mark {
        Mark::Dot => area.draw(&Circle::new(at, 4, filled))?,
        Mark::Square => area.draw(&Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], filled))?,
        Mark::Triangle => area.draw(&TriangleMarker::new(at, 6, filled))?,
        Mark::Ring => {
            area.draw(&Circle::new(at, 4, WHITE.filled()))?;
            area.draw(&Circle::new(at, 4, stroke(look.colour, 2)))?;
        }
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>, figure: &Figure, top: i32) -> Result<()> {
    let width = (WIDTH - 2 * MARGIN) / LEGEND_COLUMNS;
    for (index, line) in (0..).zip(figure.legend()) {
        let left = MARGIN + width * (index % LEGEND_COLUMNS);
        let y = top + LEGEND_ROW * (index / LEGEND_COLUMNS);
        let stroke = stroke(line.look.colour, line.look.width);
        let dashes: &[(i32, i32)] = match line.look.dashed {
            true => &[(4, 12), (16, 24), (28, 34)],
            false => &[(4, 34)],
        };
        for &(from, to) in dashes {
            let ends = vec![(left + from, y), (left + to, y)];
            area.draw(&PathElement::new(ends, stroke))?;
        }
        draw_mark(area, (left + 19, y), line.look)?;
        let name = text(12, BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(line.name.as_str(), (left + SWATCH, y), name))?;
    }
    Ok(())
}
