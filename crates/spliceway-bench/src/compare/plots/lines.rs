//! Lines over two axes, side by side, with one legend beside them.
//!
//! Axes hold what is drawn, which on a logarithmic axis is the logarithm: both kinds are then the
//! same type, and the ticks are exactly the ones that are wanted.

use std::ops::Range;

use anyhow::Result;
use plotters::chart::ChartBuilder;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::element::{Circle, Cross, PathElement, Rectangle, Text, TriangleMarker};
use plotters::prelude::{Color as _, WHITE};
use plotters::series::{DashedLineSeries, LineSeries};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::results::Results;
use super::super::table::number;
use super::style::{Area, BLACK, GREY, LIGHT, Look, Mark, font, look, stroke, text};

/// A path's line.
pub(super) struct Line {
    name: String,
    look: Look,
    points: Vec<Point>,
    /// Whether the points are marked, as they are measurements and not a curve.
    marked: bool,
}

struct Point {
    at: (f64, f64),
    /// Crossed out if not.
    good: bool,
}

impl Line {
    pub(super) fn smooth(results: &Results, key: &str, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: results.name(key),
            look: look(key),
            points: points
                .into_iter()
                .map(|at| Point { at, good: true })
                .collect(),
            marked: false,
        }
    }

    pub(super) fn marked(results: &Results, key: &str, points: Vec<(f64, f64)>) -> Self {
        Self {
            marked: true,
            ..Self::smooth(results, key, points)
        }
    }

    /// Of something that is not among the paths.
    pub(super) fn named(name: &str, key: &str, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.to_owned(),
            look: look(key),
            points: points
                .into_iter()
                .map(|at| Point { at, good: true })
                .collect(),
            marked: true,
        }
    }

    pub(super) fn point(&mut self, at: (f64, f64), good: bool) {
        self.points.push(Point { at, good });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    pub(super) fn xs(&self) -> impl Iterator<Item = f64> {
        self.points.iter().map(|point| point.at.0)
    }

    /// Without what is crossed out.
    pub(super) fn good_ys(&self) -> impl Iterator<Item = f64> {
        let good = self.points.iter().filter(|point| point.good);
        good.map(|point| point.at.1)
    }

    pub(super) fn ys(&self) -> impl Iterator<Item = f64> {
        self.points.iter().map(|point| point.at.1)
    }
}

/// One of the two axes of a graph.
pub(super) struct Axis {
    title: &'static str,
    is_log: bool,
    /// As drawn.
    from: f64,
    to: f64,
    /// As drawn, and as written.
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to beyond the largest.
    pub(super) fn linear(title: &'static str, values: impl Iterator<Item = f64>) -> Self {
        let largest = values.fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let step = round_step(largest / 5.0);
        let count = (largest / step).ceil();
        let ticks = (0..=9).map(f64::from).filter(|&tick| tick <= count);
        Self {
            title,
            is_log: false,
            from: 0.0,
            to: step * count * 1.03,
            ticks: ticks
                .map(|tick| (tick * step, short(tick * step)))
                .collect(),
        }
    }

    /// With ticks at 1, 2 and 5 times the powers of ten, or at the powers alone if there are many.
    pub(super) fn log(title: &'static str, values: impl Iterator<Item = f64>) -> Self {
        let positive = values.filter(|&value| value > 0.0).map(f64::log10);
        let (from, to) = positive.fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), value| {
            (from.min(value), to.max(value))
        });
        let (from, to) = if from <= to { (from, to) } else { (0.0, 1.0) };
        // Room for what is crossed out, at the top.
        let (from, to) = (from - 0.05, to + 0.05 + (to - from) * 0.06);
        let steps: &[f64] = if to - from < 2.5 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let powers = (-3..=9).map(|power| 10_f64.powi(power));
        let ticks = powers.flat_map(|power| steps.iter().map(move |step| step * power));
        let within = |tick: &f64| (from..=to).contains(&tick.log10());
        Self {
            title,
            is_log: true,
            from,
            to,
            ticks: ticks
                .filter(within)
                .map(|tick| (tick.log10(), short(tick)))
                .collect(),
        }
    }

    /// Logarithmic, with a tick at each of the values.
    pub(super) fn counts(title: &'static str, values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let ticks = values.iter().map(|value| (value.log10(), short(*value)));
        Self {
            ticks: ticks.collect(),
            ..Self::log(title, values.iter().copied())
        }
    }

    /// Percentiles: a tick for each further nine.
    pub(super) fn nines(title: &'static str, lines: &[Line]) -> Self {
        const NAMES: [&str; 6] = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"];
        let to = lines.iter().flat_map(Line::xs).fold(1.0, f64::max);
        let half = (0.5_f64.log10().abs(), "50 %".to_owned());
        let whole = NAMES
            .iter()
            .zip(0..)
            .map(|(name, nines)| (f64::from(nines), (*name).to_owned()));
        Self {
            title,
            is_log: false,
            from: 0.0,
            to,
            ticks: whole
                .chain([half])
                .filter(|(at, _)| *at <= to + 1e-9)
                .collect(),
        }
    }

    fn drawn(&self, value: f64) -> f64 {
        if self.is_log {
            value.max(f64::MIN_POSITIVE).log10()
        } else {
            value
        }
    }

    fn label(&self, at: f64) -> String {
        let near = |tick: &&(f64, String)| (tick.0 - at).abs() < 1e-9 * self.to.abs().max(1.0);
        let found = self.ticks.iter().find(near);
        found.map_or_else(String::new, |(_, name)| name.clone())
    }

    fn scale(&self) -> Scale {
        Scale {
            range: self.from..self.to,
            ticks: self.ticks.iter().map(|(at, _)| *at).collect(),
        }
    }
}

/// What the chart knows of an axis: a linear one with these ticks and no others.
struct Scale {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        let pixels = share * f64::from(to - from);
        #[expect(clippy::cast_possible_truncation, reason = "pixels of an image")]
        let pixels = pixels.round() as i32;
        from + pixels
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// A number without zeros behind the point.
fn short(value: f64) -> String {
    let text = number(value);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps
        .into_iter()
        .find(|&step| step >= least)
        .unwrap_or(10.0 * power)
}

pub(super) struct Graph {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

/// Graphs with the same paths.
pub(super) struct Figure {
    pub(super) title: &'static str,
    pub(super) graphs: Vec<Graph>,
    /// How to read it.
    pub(super) note: &'static str,
}

const GRAPH_WIDTH: u32 = 480;
const LEGEND_WIDTH: u32 = 210;
const HEIGHT: u32 = 420;
const TITLE: i32 = 40;
const LEGEND_ROW: i32 = 22;

/// In pixels.
pub(super) fn size(figure: &Figure) -> (u32, u32) {
    let count = u32::try_from(figure.graphs.len()).expect("three at most");
    (GRAPH_WIDTH * count + LEGEND_WIDTH, HEIGHT)
}

pub(super) fn draw(area: &Area<'_>, figure: &Figure) -> Result<()> {
    area.fill(&WHITE)?;
    area.draw(&Text::new(figure.title, (16, 12), text(20, BLACK)))?;
    let (width, _) = size(figure);
    let (_, below) = area.split_vertically(TITLE);
    let (graphs, legend) = below.split_horizontally(width - LEGEND_WIDTH);
    for (area, graph) in graphs
        .split_evenly((1, figure.graphs.len()))
        .iter()
        .zip(&figure.graphs)
    {
        draw_graph(area, graph)?;
    }
    draw_legend(&legend, figure)?;
    area.present()?;
    Ok(())
}

fn draw_graph(area: &Area<'_>, graph: &Graph) -> Result<()> {
    let Graph { title, x, y, lines } = graph;
    let mut chart = ChartBuilder::on(area)
        .caption(title, text(14, BLACK))
        .margin(8)
        .margin_right(18)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(x.scale(), y.scale())?;
    chart
        .configure_mesh()
        .bold_line_style(stroke(LIGHT, 1))
        .light_line_style(WHITE.mix(0.0))
        .axis_style(stroke(GREY, 1))
        .x_desc(x.title)
        .y_desc(y.title)
        .axis_desc_style(font(13))
        .label_style(font(12))
        .x_label_formatter(&|at| x.label(*at))
        .y_label_formatter(&|at| y.label(*at))
        .draw()?;
    for line in lines {
        let Look { colour, width, .. } = line.look;
        // What is crossed out may lie beyond the axis: it is shown at its end.
        let end = y.to - (y.to - y.from) * 0.03;
        let at = |point: &Point| (x.drawn(point.at.0), y.drawn(point.at.1).min(end));
        let points = line.points.iter().map(at);
        if line.look.dashed {
            chart.draw_series(DashedLineSeries::new(points, 5, 4, stroke(colour, width)))?;
        } else {
            chart.draw_series(LineSeries::new(points, stroke(colour, width)))?;
        }
        for point in line.points.iter().filter(|_| line.marked) {
            let at = chart.backend_coord(&at(point));
            let at = area_point(area, at);
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

fn draw_legend(area: &Area<'_>, figure: &Figure) -> Result<()> {
    let mut drawn: Vec<&str> = Vec::new();
    let marked = figure
        .graphs
        .iter()
        .flat_map(|graph| &graph.lines)
        .any(|line| line.marked);
    for line in figure.graphs.iter().flat_map(|graph| &graph.lines) {
        if drawn.contains(&line.name.as_str()) {
            continue;
        }
        let row = i32::try_from(drawn.len()).expect("a few paths");
        let y = 40 + LEGEND_ROW * row;
        let Look { colour, width, .. } = line.look;
        let dashes: &[(i32, i32)] = if line.look.dashed {
            &[(4, 12), (16, 24), (28, 34)]
        } else {
            &[(4, 34)]
        };
        for &(from, to) in dashes {
            area.draw(&PathElement::new(
                vec![(from, y), (to, y)],
                stroke(colour, width),
            ))?;
        }
        if marked {
            draw_mark(area, (19, y), line.look)?;
        }
        let name = text(13, BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(line.name.as_str(), (42, y), name))?;
        drawn.push(&line.name);
    }
    draw_note(
        area,
        figure.note,
        40 + LEGEND_ROW * i32::try_from(drawn.len() + 1)?,
    )
}

/// Broken into lines that fit beside the graphs.
fn draw_note(area: &Area<'_>, note: &str, top: i32) -> Result<()> {
    const LINE_CHARS: usize = 30;
    let mut lines = vec![String::new()];
    for word in note.split(' ') {
        let last = lines.last_mut().expect("there is one from the start");
        if last.len() + word.len() >= LINE_CHARS {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    for (line, row) in lines.into_iter().zip(0..) {
        area.draw(&Text::new(line, (4, top + 16 * row), text(12, GREY)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_numbers() {
        for (least, step) in [
            (0.9, 1.0),
            (1.1, 2.0),
            (230.0, 500.0),
            (5.0, 5.0),
            (7.0, 10.0),
        ] {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}");
        }
    }

    #[test]
    fn a_linear_axis_begins_at_nothing_and_holds_everything() {
        let axis = Axis::linear("", [3.0, 17.5].into_iter());
        let names: Vec<&str> = axis.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["0", "5", "10", "15", "20"]);
        assert!(axis.from.abs() < 1e-9 && axis.to >= 17.5);
    }

    #[test]
    fn a_logarithmic_axis_has_ticks_within_its_values() {
        let axis = Axis::log("", [60.0, 2_500.0].into_iter());
        let names: Vec<&str> = axis.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["100", "200", "500", "1,000", "2,000"]);
    }

    #[test]
    fn percentiles_have_a_tick_for_each_nine() {
        let line = Line::smooth(&Results::default(), "tcp", vec![(0.0, 1.0), (2.0, 5.0)]);
        let axis = Axis::nines("", &[line]);
        let names: Vec<&str> = axis.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["0 %", "90 %", "99 %", "50 %"]);
    }
}
