//! What all plots share: size, text, colours, and how they look on a dark page.

use std::fmt::Write as _;

use anyhow::Result;
use plotters::element::Text;
use plotters::prelude::{Color as _, FontDesc, IntoFont as _, RGBColor, ShapeStyle, TextStyle};

/// The drawing areas of this module.
pub(super) type Area<'a> =
    plotters::drawing::DrawingArea<plotters::prelude::SVGBackend<'a>, plotters::coord::Shift>;

/// Of every plot: what a page of text shows without making it smaller.
pub(super) const WIDTH: i32 = 940;
pub(super) const MARGIN: i32 = 16;

pub(super) const BLACK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(super) const GREY: RGBColor = RGBColor(0x66, 0x66, 0x66);
pub(super) const LIGHT: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// Every colour, and what it is on a dark page.
const DARK: [(&str, &str); 13] = [
    ("#FFFFFF", "#0d1117"),
    ("#222222", "#e6edf3"),
    ("#666666", "#a5afba"),
    ("#DDDDDD", "#30363d"),
    ("#000000", "#f0f6fc"),
    ("#0072B2", "#3d9be0"),
    ("#56B4E9", "#9bd5fa"),
    ("#D55E00", "#f0803c"),
    ("#E69F00", "#ffb733"),
    ("#009E73", "#2fc79b"),
    ("#CC79A7", "#ec9fcb"),
    ("#999999", "#b1bac4"),
    ("#882255", "#d16a9a"),
];

/// The same picture, which has other colours where the reader's system is dark.
pub(super) fn with_dark_mode(svg: &str) -> String {
    let mut rules = String::new();
    for (light, dark) in DARK {
        for what in ["fill", "stroke"] {
            let _ = write!(rules, "[{what}=\"{light}\"]{{{what}:{dark}}}");
        }
    }
    let style = format!("<style>@media (prefers-color-scheme:dark){{{rules}}}</style>");
    let head = svg.find('>').map_or(0, |end| end + 1);
    let (head, rest) = svg.split_at(head);
    format!("{head}\n{style}{rest}")
}

/// How a path looks.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Look {
    pub(super) colour: RGBColor,
    pub(super) width: u32,
    pub(super) dashed: bool,
    pub(super) mark: Mark,
}

/// The shape of a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    Dot,
    Square,
    Triangle,
    Ring,
}

/// Of a path; further HAProxy programs look like the first, but dashed.
pub(super) fn look(key: &str) -> Look {
    let plain = |red, green, blue, mark| Look {
        colour: RGBColor(red, green, blue),
        width: 2,
        dashed: false,
        mark,
    };
    let dashed = |look: Look| Look {
        dashed: true,
        ..look
    };
    let bold = |look: Look| Look { width: 3, ..look };
    let haproxy = plain(0xd5, 0x5e, 0x00, Mark::Square);
    match key.strip_prefix("php-").unwrap_or(key) {
        "tcp" => plain(0x00, 0x00, 0x00, Mark::Dot),
        "unix" => dashed(plain(0x00, 0x00, 0x00, Mark::Ring)),
        "socket-proxyd" => plain(0x88, 0x22, 0x55, Mark::Triangle),
        "haproxy" => haproxy,
        "haproxy-splice" => plain(0xe6, 0x9f, 0x00, Mark::Square),
        "nginx" => plain(0x00, 0x9e, 0x73, Mark::Triangle),
        "socat" => plain(0x99, 0x99, 0x99, Mark::Ring),
        "tokio-uring" => dashed(plain(0x88, 0x22, 0x55, Mark::Ring)),
        "spliceway" => plain(0x56, 0xb4, 0xe9, Mark::Dot),
        "spliceway-epoll" => dashed(plain(0x56, 0xb4, 0xe9, Mark::Ring)),
        "overload-fpm" => plain(0x00, 0x00, 0x00, Mark::Dot),
        "overload-nginx" => plain(0x00, 0x9e, 0x73, Mark::Triangle),
        "overload-fifo" => plain(0xe6, 0x9f, 0x00, Mark::Square),
        "fastcgi" | "overload-adaptive" => bold(plain(0x00, 0x72, 0xb2, Mark::Square)),
        "overload-nginx-adaptive" => bold(dashed(plain(0x00, 0x72, 0xb2, Mark::Ring))),
        "fastcgi-epoll" | "overload-adaptive-epoll" => {
            bold(dashed(plain(0xcc, 0x79, 0xa7, Mark::Ring)))
        }
        _ => dashed(haproxy),
    }
}

/// Of a height in pixels: plotters takes another unit.
pub(super) fn font(size: i32) -> FontDesc<'static> {
    ("sans-serif", f64::from(size) * 1.24).into_font()
}

pub(super) fn text(size: i32, colour: RGBColor) -> TextStyle<'static> {
    font(size).color(&colour)
}

pub(super) fn stroke(colour: RGBColor, width: u32) -> ShapeStyle {
    colour.stroke_width(width)
}

pub(super) fn pixels(count: usize) -> i32 {
    i32::try_from(count).expect("a few paths, panels and lines")
}

/// How wide a character is, of the height of its text: of common fonts the widest have a little less on average, and
/// which one it will be is the reader's affair.
pub(super) const CHAR_EM: f64 = 0.6;

/// Broken into lines that fit.
pub(super) fn wrapped(words: &str, width: i32, size: i32) -> Vec<String> {
    let fits = |line: &str| {
        let width_of_line = line.chars().count() as f64 * CHAR_EM * f64::from(size);
        width_of_line <= f64::from(width)
    };
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_ascii_whitespace() {
        let longer = lines.last().map(|line| format!("{line} {word}"));
        match longer.filter(|line| fits(line)) {
            Some(longer) => {
                lines.pop();
                lines.push(longer);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

const TITLE_SIZE: i32 = 17;
const TITLE_ROW: i32 = 23;

fn title_lines(title: &str) -> Vec<String> {
    wrapped(title, WIDTH - 2 * MARGIN, TITLE_SIZE)
}

/// With what is to be free below it.
pub(super) fn title_height(title: &str) -> i32 {
    MARGIN + TITLE_ROW * pixels(title_lines(title).len()) + 4
}

pub(super) fn draw_title(area: &Area<'_>, title: &str) -> Result<()> {
    for (row, line) in (0..).zip(title_lines(title)) {
        let at = (MARGIN, 12 + TITLE_ROW * row);
        area.draw(&Text::new(line, at, text(TITLE_SIZE, BLACK)))?;
    }
    Ok(())
}

/// Lines below each other.
pub(super) fn draw_text(
    area: &Area<'_>,
    lines: &[String],
    (left, top): (i32, i32),
    size: i32,
    colour: RGBColor,
) -> Result<()> {
    for (row, line) in (0..).zip(lines) {
        let at = (left, top + (size + 4) * row);
        area.draw(&Text::new(line.as_str(), at, text(size, colour)))?;
    }
    Ok(())
}
