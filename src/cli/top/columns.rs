//! Rows of cells in columns that fit; pure.
//!
//! Whatever a cell says goes through [`shown`]: it cannot drive a terminal, and it takes as many columns as it seems to.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::view::{Palette, Tone};
use crate::shown::Shown;

/// The longest cell. What is longer has an end that says so.
const CELL_CHARS_MAX: usize = 512;

/// Between two columns.
const GAP: usize = 2;

/// What the last column has at least, if its cells need that much.
const LAST_WIDTH_MIN: usize = 18;

/// At the end of what is cut.
const CUT: char = '~';

/// One column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) side: Side,
    /// What it has at least, so that it does not move with every figure.
    pub(super) width_min: usize,
    /// What it has at most, unless it is the last.
    pub(super) width_max: usize,
    /// Who has the highest goes first where there is no room. Those of rank 0 stay.
    pub(super) rank: u8,
}

/// On which side a cell's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A text, and how it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl Cell {
    pub(super) fn new(text: &str, tone: Tone) -> Self {
        let text = shown(text);
        Self { text, tone }
    }

    /// With nothing to it.
    pub(super) fn plain(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// What others say, for a line on the screen: escaped, bounded, and with every character one or two columns wide. Marks
/// that join the character before them are seen in different ways by different terminals, which would then differ from
/// us about where the rest of the line is.
pub(super) fn shown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in Shown::line(text.as_bytes(), CELL_CHARS_MAX)
        .to_string()
        .chars()
    {
        match character.width() {
            Some(1 | 2) => safe.push(character),
            _ => safe.extend(character.escape_unicode()),
        }
    }
    safe
}

/// As much of a text as these columns hold, with a sign where there is more.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let fits = |character: &char| {
        let fits = character.width().unwrap_or(0) <= left;
        left = left.saturating_sub(character.width().unwrap_or(0));
        fits
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    if width > 0 {
        cut.push(CUT);
    }
    cut
}

/// The widths of columns that are shown together: none for one that there is no room for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fit<const N: usize> {
    widths: [Option<usize>; N],
}

impl<const N: usize> Fit<N> {
    /// For these rows, in so many columns of a screen.
    pub(super) fn new(columns: &[Column; N], rows: &[[Cell; N]], width: usize) -> Self {
        let wanted: [usize; N] = std::array::from_fn(|at| wanted(&columns[at], at, rows));
        let mut widths = wanted.map(Some);
        let needed = |widths: &[Option<usize>; N]| {
            let there = widths.iter().flatten();
            let all: usize = there.clone().sum();
            all + GAP * there.count().saturating_sub(1)
        };
        while needed(&widths) > width {
            let there = (0..N).filter(|&at| widths[at].is_some() && columns[at].rank > 0);
            let Some(least) = there.max_by_key(|&at| columns[at].rank) else {
                break;
            };
            widths[least] = None;
        }
        Self { widths }
    }

    /// How many are not shown.
    pub(super) fn hidden(&self) -> usize {
        self.widths.iter().filter(|width| width.is_none()).count()
    }

    /// Draws one row. The last column has all that is left.
    pub(super) fn draw(
        &self,
        columns: &[Column; N],
        row: &[Cell; N],
        palette: Palette,
        area: Rect,
        buffer: &mut Buffer,
    ) {
        let end = usize::from(area.width);
        let mut at = 0;
        for (number, width) in self.widths.iter().enumerate() {
            let Some(width) = *width else { continue };
            let room = end.saturating_sub(at);
            let width = match number + 1 == N {
                true => room,
                false => width.min(room),
            };
            let Cell { text, tone } = &row[number];
            let text = cut(text, width);
            let indent = match columns[number].side {
                Side::Left => 0,
                Side::Right => width - text.width(),
            };
            put(&text, at + indent, palette.style(*tone), area, buffer);
            at += width + GAP;
        }
    }
}

/// What a column would have if there were room. The last one takes what it gets.
fn wanted<const N: usize>(column: &Column, at: usize, rows: &[[Cell; N]]) -> usize {
    let cells = rows.iter().map(|row| row[at].text.width());
    let widest = cells.max().unwrap_or(0).max(column.title.len());
    let most = match at + 1 == N {
        true => LAST_WIDTH_MIN,
        false => column.width_max,
    };
    widest.max(column.width_min).min(most)
}

/// Puts a text into the first line of an area, from this column on. What does not fit is left out.
pub(super) fn put(
    text: &str,
    at: usize,
    style: ratatui::style::Style,
    area: Rect,
    buffer: &mut Buffer,
) {
    let (Ok(at), false) = (u16::try_from(at), area.is_empty()) else {
        return;
    };
    if at < area.width {
        let room = usize::from(area.width - at);
        buffer.set_stringn(area.x + at, area.y, text, room, style);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COLUMNS: [Column; 3] = [
        column("A", Side::Left, 0),
        column("NUMBER", Side::Right, 1),
        column("LAST", Side::Left, 0),
    ];

    const fn column(title: &'static str, side: Side, rank: u8) -> Column {
        Column {
            title,
            side,
            width_min: 3,
            width_max: 10,
            rank,
        }
    }

    fn line(cells: [&str; 3], width: u16) -> (String, usize) {
        let row = cells.map(Cell::plain);
        let area = Rect::new(0, 0, width, 1);
        let mut buffer = Buffer::empty(area);
        let fit = Fit::new(&COLUMNS, std::slice::from_ref(&row), usize::from(width));
        fit.draw(&COLUMNS, &row, Palette::new(false), area, &mut buffer);
        let text = (0..width).map(|x| buffer[(x, 0)].symbol()).collect();
        (text, fit.hidden())
    }

    #[test]
    fn columns_stand_where_they_are_meant_to() {
        let (text, hidden) = line(["a", "12", "rest of it"], 30);
        assert_eq!(text, "a        12  rest of it       ");
        assert_eq!(hidden, 0);
    }

    #[test]
    fn where_there_is_no_room_a_column_goes_and_the_last_is_cut() {
        let (text, hidden) = line(["abc", "12", "0123456789"], 16);
        assert_eq!((text.as_str(), hidden), ("abc  0123456789 ", 1));
        let (text, hidden) = line(["abc", "12", "0123456789"], 11);
        assert_eq!((text.as_str(), hidden), ("abc  01234~", 1));
        let (text, _) = line(["a very long cell", "1", "x"], 40);
        assert!(text.starts_with("a very lo~  "), "{text}");
    }

    #[test]
    fn what_is_cut_says_so_and_takes_its_width() {
        for (text, width, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab~"),
            ("abcd", 1, "~"),
            ("abcd", 0, ""),
            ("", 0, ""),
            ("\u{4e2d}\u{6587}", 4, "\u{4e2d}\u{6587}"),
            ("\u{4e2d}\u{6587}", 3, "\u{4e2d}~"),
            ("\u{4e2d}\u{6587}", 2, "~"),
        ] {
            assert_eq!(cut(text, width), expected, "{text:?} in {width}");
        }
    }

    #[test]
    fn nothing_drives_the_terminal_or_moves_the_rest_of_a_line() {
        for (text, expected) in [
            ("\u{1b}[2J\n\u{9b}", "\\x1b[2J\\x0a\\u{9b}"),
            ("\u{202e}e\u{301}", "\\u{202e}e\\u{301}"),
            ("\u{e9}\u{4e2d}", "\u{e9}\u{4e2d}"),
            ("\u{1f468}\u{200d}\u{1f469}", "\u{1f468}\\u{200d}\u{1f469}"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_as_wide_as_it_seems(text in any::<String>(), width in 0_usize..50) {
            let text = shown(&text);
            prop_assert!(text.chars().all(|c| matches!(c.width(), Some(1 | 2))));
            prop_assert!(cut(&text, width).width() <= width);
        }

        #[test]
        fn a_row_fits_at_any_width(cells in [any::<String>(), any::<String>(), any::<String>()], width in 1_u16..60) {
            let cells = cells.each_ref().map(String::as_str);
            line(cells, width);
        }
    }
}
