//! Bars: a panel for each cell, a bar for each path, with its figure and how far the rounds went.

use anyhow::Result;
use plotters::element::{PathElement, Rectangle, Text};
use plotters::prelude::{Color as _, WHITE};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::statistics::Spread;
use super::super::table::number;
use super::style::{Area, BLACK, GREY, LIGHT, look, stroke, text};

pub(super) struct Bar {
    pub(super) key: String,
    pub(super) name: String,
    pub(super) value: Spread,
}

pub(super) struct Panel {
    pub(super) title: String,
    pub(super) unit: String,
    pub(super) bars: Vec<Bar>,
}

const COLUMNS: usize = 2;
const PANEL_WIDTH: i32 = 520;
/// For the names of the paths.
const NAMES_WIDTH: i32 = 180;
/// For the figures behind the bars.
const FIGURES_WIDTH: i32 = 70;
const ROW: i32 = 22;
const BAR: i32 = 14;
/// A panel's title and unit.
const HEAD: i32 = 44;
const FOOT: i32 = 18;
/// The plot's own title.
const TITLE: i32 = 40;

fn panel_height(panels: &[Panel]) -> i32 {
    let rows = panels
        .iter()
        .map(|panel| panel.bars.len())
        .max()
        .unwrap_or(0);
    HEAD + FOOT + ROW * pixels(rows)
}

fn pixels(count: usize) -> i32 {
    i32::try_from(count).expect("a few paths and panels")
}

/// In pixels.
pub(super) fn size(panels: &[Panel]) -> (u32, u32) {
    let columns = panels.len().min(COLUMNS);
    let rows = panels.len().div_ceil(COLUMNS);
    let width = PANEL_WIDTH * pixels(columns.max(1));
    let height = TITLE + panel_height(panels) * pixels(rows);
    (width.unsigned_abs(), height.unsigned_abs())
}

pub(super) fn draw(area: &Area<'_>, title: &str, panels: &[Panel]) -> Result<()> {
    area.fill(&WHITE)?;
    area.draw(&Text::new(title, (16, 12), text(20, BLACK)))?;
    let height = panel_height(panels);
    for (index, panel) in panels.iter().enumerate() {
        let left = PANEL_WIDTH * pixels(index % COLUMNS);
        let top = TITLE + height * pixels(index / COLUMNS);
        draw_panel(area, panel, left, top)?;
    }
    area.present()?;
    Ok(())
}

fn draw_panel(area: &Area<'_>, panel: &Panel, left: i32, top: i32) -> Result<()> {
    let bars_left = left + NAMES_WIDTH;
    let bars_width = PANEL_WIDTH - NAMES_WIDTH - FIGURES_WIDTH;
    let longest = panel
        .bars
        .iter()
        .map(|bar| bar.value.max)
        .fold(f64::MIN_POSITIVE, f64::max);
    let at = |value: f64| bars_left + scaled(value / longest, bars_width);
    area.draw(&Text::new(
        panel.title.as_str(),
        (left + 16, top + 4),
        text(15, BLACK),
    ))?;
    area.draw(&Text::new(
        panel.unit.as_str(),
        (bars_left, top + 24),
        text(12, GREY),
    ))?;
    let first = top + HEAD;
    let bottom = first + ROW * pixels(panel.bars.len());
    area.draw(&PathElement::new(
        vec![(bars_left, first - 2), (bars_left, bottom)],
        stroke(LIGHT, 1),
    ))?;
    for (index, bar) in panel.bars.iter().enumerate() {
        let middle = first + ROW * pixels(index) + ROW / 2;
        let look = look(&bar.key);
        let colour = look.colour.mix(if look.dashed { 0.45 } else { 1.0 });
        let name = text(13, BLACK).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&Text::new(bar.name.as_str(), (bars_left - 8, middle), name))?;
        area.draw(&Rectangle::new(
            [
                (bars_left, middle - BAR / 2),
                (at(bar.value.median), middle + BAR / 2),
            ],
            colour.filled(),
        ))?;
        let range = vec![(at(bar.value.min), middle), (at(bar.value.max), middle)];
        area.draw(&PathElement::new(range, stroke(GREY, 2)))?;
        let figure = text(12, BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        let behind = at(bar.value.max.max(bar.value.median)) + 6;
        area.draw(&Text::new(
            number(bar.value.median),
            (behind, middle),
            figure,
        ))?;
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a share of a few hundred pixels"
)]
fn scaled(share: f64, width: i32) -> i32 {
    (share.clamp(0.0, 1.0) * f64::from(width)).round() as i32
}
