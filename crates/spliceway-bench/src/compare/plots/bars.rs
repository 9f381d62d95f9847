//! Bars: panels side by side, a bar for each path, with its figure and how far the rounds went.

use anyhow::Result;
use plotters::element::{PathElement, Rectangle, Text};
use plotters::prelude::{Color as _, WHITE};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::statistics::Spread;
use super::super::table::number;
use super::style::{
    Area, BLACK, GREY, LIGHT, MARGIN, WIDTH, draw_text, draw_title, look, pixels, stroke, text,
    title_height, wrapped,
};

pub(super) struct Bar {
    pub(super) key: String,
    pub(super) name: String,
    /// A path whose rounds are void has none.
    pub(super) value: Option<Spread>,
}

pub(super) struct Panel {
    pub(super) title: String,
    pub(super) unit: String,
    pub(super) bars: Vec<Bar>,
}

/// Panels with the same paths.
pub(super) struct Bars {
    pub(super) title: String,
    pub(super) panels: Vec<Panel>,
    /// How to read it.
    pub(super) note: String,
}

const COLUMNS: usize = 2;
const PANEL_WIDTH: i32 = WIDTH / 2;
/// For the names of the paths.
const NAMES_WIDTH: i32 = 216;
/// For the figures behind the bars.
const FIGURES_WIDTH: i32 = 64;
const ROW: i32 = 22;
const BAR: i32 = 14;
/// Half of the end of a range.
const CAP: i32 = 3;
/// A panel's title and unit.
const HEAD: i32 = 46;
const FOOT: i32 = 18;
const NOTE_SIZE: i32 = 12;

impl Bars {
    fn panel_height(&self) -> i32 {
        let rows = self.panels.iter().map(|panel| panel.bars.len()).max();
        HEAD + FOOT + ROW * pixels(rows.unwrap_or(0))
    }

    fn panels_height(&self) -> i32 {
        self.panel_height() * pixels(self.panels.len().div_ceil(COLUMNS))
    }

    fn note_lines(&self) -> Vec<String> {
        wrapped(&self.note, WIDTH - 2 * MARGIN, NOTE_SIZE)
    }
}

/// In pixels.
pub(super) fn size(bars: &Bars) -> (u32, u32) {
    let note = pixels(bars.note_lines().len()) * (NOTE_SIZE + 4);
    let height = title_height(&bars.title) + bars.panels_height() + note + MARGIN;
    (WIDTH.unsigned_abs(), height.unsigned_abs())
}

pub(super) fn draw(area: &Area<'_>, bars: &Bars) -> Result<()> {
    area.fill(&WHITE)?;
    draw_title(area, &bars.title)?;
    let (first, height) = (title_height(&bars.title), bars.panel_height());
    for (index, panel) in bars.panels.iter().enumerate() {
        let left = PANEL_WIDTH * pixels(index % COLUMNS);
        let top = first + height * pixels(index / COLUMNS);
        draw_panel(area, panel, left, top)?;
    }
    let note = (MARGIN, first + bars.panels_height());
    draw_text(area, &bars.note_lines(), note, NOTE_SIZE, GREY)?;
    area.present()?;
    Ok(())
}

fn draw_panel(area: &Area<'_>, panel: &Panel, left: i32, top: i32) -> Result<()> {
    let bars_left = left + NAMES_WIDTH;
    let bars_width = PANEL_WIDTH - NAMES_WIDTH - FIGURES_WIDTH;
    let values = || panel.bars.iter().filter_map(|bar| bar.value);
    let longest = values()
        .map(|value| value.max)
        .fold(f64::MIN_POSITIVE, f64::max);
    let at = |value: f64| bars_left + scaled(value / longest, bars_width);
    area.draw(&Text::new(
        panel.title.as_str(),
        (left + MARGIN, top + 4),
        text(14, BLACK),
    ))?;
    area.draw(&Text::new(
        panel.unit.as_str(),
        (left + MARGIN, top + 24),
        text(12, GREY),
    ))?;
    let first = top + HEAD;
    let bottom = first + ROW * pixels(panel.bars.len());
    area.draw(&PathElement::new(
        vec![(bars_left, first - 2), (bars_left, bottom)],
        stroke(LIGHT, 1),
    ))?;
    let figure = |colour| text(12, colour).pos(Pos::new(HPos::Left, VPos::Center));
    for (index, bar) in panel.bars.iter().enumerate() {
        let middle = first + ROW * pixels(index) + ROW / 2;
        let name = text(12, BLACK).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&Text::new(bar.name.as_str(), (bars_left - 8, middle), name))?;
        let Some(Spread { median, min, max }) = bar.value else {
            area.draw(&Text::new("void", (bars_left + 6, middle), figure(GREY)))?;
            continue;
        };
        let look = look(&bar.key);
        let colour = look.colour.mix(if look.dashed { 0.55 } else { 1.0 });
        area.draw(&Rectangle::new(
            [
                (bars_left, middle - BAR / 2),
                (at(median), middle + BAR / 2),
            ],
            colour.filled(),
        ))?;
        let range = vec![(at(min), middle), (at(max), middle)];
        area.draw(&PathElement::new(range, stroke(GREY, 2)))?;
        for end in [at(min), at(max)] {
            let cap = vec![(end, middle - CAP), (end, middle + CAP)];
            area.draw(&PathElement::new(cap, stroke(GREY, 1)))?;
        }
        let behind = (at(max.max(median)) + 6, middle);
        area.draw(&Text::new(number(median), behind, figure(BLACK)))?;
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
