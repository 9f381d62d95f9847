//! What all plots share.

use plotters::prelude::{Color as _, FontDesc, IntoFont as _, RGBColor, ShapeStyle, TextStyle};

/// The drawing areas of this module.
pub(super) type Area<'a> =
    plotters::drawing::DrawingArea<plotters::prelude::SVGBackend<'a>, plotters::coord::Shift>;

pub(super) const BLACK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(super) const GREY: RGBColor = RGBColor(0x66, 0x66, 0x66);
pub(super) const LIGHT: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

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
    let bold = |look: Look| Look { width: 4, ..look };
    let haproxy = plain(0xd5, 0x5e, 0x00, Mark::Square);
    match key.strip_prefix("php-").unwrap_or(key) {
        "tcp" => plain(0x00, 0x00, 0x00, Mark::Dot),
        "unix" => dashed(plain(0x00, 0x00, 0x00, Mark::Ring)),
        "socket-proxyd" => plain(0xcc, 0x79, 0xa7, Mark::Triangle),
        "haproxy" => haproxy,
        "haproxy-splice" => plain(0xe6, 0x9f, 0x00, Mark::Square),
        "nginx" => plain(0x00, 0x9e, 0x73, Mark::Triangle),
        "socat" => plain(0x99, 0x99, 0x99, Mark::Ring),
        "tokio-uring" => plain(0x88, 0x22, 0x55, Mark::Ring),
        "spliceway" => bold(plain(0x00, 0x72, 0xb2, Mark::Dot)),
        "spliceway-epoll" => bold(plain(0x56, 0xb4, 0xe9, Mark::Dot)),
        "overload-fpm" => plain(0x00, 0x00, 0x00, Mark::Dot),
        "overload-nginx" => plain(0x00, 0x9e, 0x73, Mark::Triangle),
        "overload-fifo" => plain(0xe6, 0x9f, 0x00, Mark::Square),
        "overload-adaptive" => bold(plain(0x00, 0x72, 0xb2, Mark::Dot)),
        "overload-nginx-adaptive" => bold(dashed(plain(0x56, 0xb4, 0xe9, Mark::Ring))),
        "fastcgi" => bold(plain(0xcc, 0x79, 0xa7, Mark::Square)),
        "fastcgi-epoll" => bold(dashed(plain(0xcc, 0x79, 0xa7, Mark::Ring))),
        _ => dashed(haproxy),
    }
}

pub(super) fn font(size: i32) -> FontDesc<'static> {
    ("sans-serif", size).into_font()
}

pub(super) fn text(size: i32, colour: RGBColor) -> TextStyle<'static> {
    font(size).color(&colour)
}

pub(super) fn stroke(colour: RGBColor, width: u32) -> ShapeStyle {
    colour.stroke_width(width)
}
