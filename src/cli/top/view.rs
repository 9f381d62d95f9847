//! The model as cells of a screen; pure.
//!
//! ```text
//!   head       whose figures these are, what is chosen, what is wrong
//!   routes     ┐
//!   endpoints  │ each with its titles, its rows, and how many more there are
//!   requests   │
//!   events     ┘
//!   foot       keys, and what there is no room for
//! ```
//!
//! Colours only add to what words say.

use std::time::Instant;

use clap::ValueEnum;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::columns::{Cell, Column, Fit, cut, put, shown};
use super::keys::HELP;
use super::layout::allot;
use super::model::{Extent, Model, Part};
use super::rows::{
    ENDPOINT_COLUMNS, EVENT_COLUMNS, REQUEST_COLUMNS, ROUTE_COLUMNS, RouteState, endpoint,
    endpoint_order, event, request, retired_route, route, wrapped,
};
use super::{has_route, names_of_routes};
use crate::observe::events::EventStatus;
use crate::observe::request_table::gaps;
use crate::observe::requests::RequestEntry;
use crate::observe::status::{EndpointStatus, RetiredRouteStatus, RouteStatus};
use crate::observe::units::span;
use crate::observe::{Status, table};

/// How a text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Faint,
    Title,
    /// The titles of what is scrolled.
    Chosen,
    Warn,
    Bad,
}

/// How tones look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    has_colours: bool,
}

impl Palette {
    pub(super) fn new(has_colours: bool) -> Self {
        Self { has_colours }
    }

    pub(super) fn style(self, tone: Tone) -> Style {
        let style = Style::new();
        let colour = |style: Style, colour| match self.has_colours {
            true => style.fg(colour),
            false => style,
        };
        match tone {
            Tone::Plain => style,
            Tone::Faint => style.add_modifier(Modifier::DIM),
            Tone::Title => style.add_modifier(Modifier::BOLD),
            Tone::Chosen => style.add_modifier(Modifier::BOLD | Modifier::REVERSED),
            Tone::Warn => colour(style, Color::Yellow),
            Tone::Bad => colour(style.add_modifier(Modifier::BOLD), Color::Red),
        }
    }
}

/// Draws everything, and says how far what is scrolled goes.
pub(super) fn draw(
    model: &Model,
    now: Instant,
    palette: Palette,
    area: Rect,
    buffer: &mut Buffer,
) -> Extent {
    if area.is_empty() {
        return Extent::default();
    }
    let mut canvas = Canvas {
        palette,
        area,
        buffer,
    };
    // The last row is the foot's, once there are rows enough for others.
    let foot = usize::from(area.height > 2);
    let head_max = match usize::from(area.height) {
        0..=7 => 1,
        height => (height / 3).max(3),
    };
    let head = draw_head(&mut canvas, head(model, now), head_max);
    let body = usize::from(area.height).saturating_sub(head + foot);
    let drawn = match model.is_help_shown {
        true => draw_help(&mut canvas, model, head, body),
        false => draw_parts(&mut canvas, model, head, body),
    };
    if foot == 1 {
        draw_foot(&mut canvas, model, &drawn);
    }
    drawn.extent
}

/// What is drawn on.
struct Canvas<'a> {
    palette: Palette,
    area: Rect,
    buffer: &'a mut Buffer,
}

impl Canvas<'_> {
    fn width(&self) -> usize {
        self.area.width.into()
    }

    /// One row, if it is there.
    fn row(&self, number: usize) -> Rect {
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        match number < self.area.height {
            true => Rect {
                y: self.area.y + number,
                height: 1,
                ..self.area
            },
            false => Rect::ZERO,
        }
    }

    fn text(&mut self, row: usize, text: &str, tone: Tone) {
        let style = self.palette.style(tone);
        put(
            &cut(text, self.width()),
            0,
            style,
            self.row(row),
            self.buffer,
        );
    }
}

/// What became of a body.
#[derive(Default)]
struct Drawn {
    extent: Extent,
    /// Parts without room.
    left_out: Vec<&'static str>,
    /// Columns without room.
    columns: usize,
}

// --- head -------------------------------------------------------------------------------------

/// Lines, the most important first.
fn head(model: &Model, now: Instant) -> Vec<(String, Tone)> {
    let status = model.status.last.as_ref();
    let mut lines = vec![
        (identity(status), Tone::Title),
        (chosen(model, now), Tone::Plain),
    ];
    lines.extend(
        troubles(model, now)
            .into_iter()
            .map(|line| (line, Tone::Bad)),
    );
    if let Some(status) = status {
        lines.extend(table::config(status).map(|line| {
            let is_good = status.config.last_reload_done;
            (line, if is_good { Tone::Plain } else { Tone::Warn })
        }));
        lines.extend(
            table::warnings(status)
                .into_iter()
                .map(|line| (line, Tone::Warn)),
        );
    }
    lines
}

fn identity(status: Option<&Status>) -> String {
    let Some(status) = status else {
        return "spliceway: no daemon has answered yet".to_owned();
    };
    format!(
        "spliceway {}, {}, {}; {}; pid {}",
        status.version,
        status.engine,
        table::state(status),
        table::all_sessions(status),
        status.pid,
    )
}

/// What is shown of it, in which order, and how old rates are.
fn chosen(model: &Model, now: Instant) -> String {
    let route = match &model.which.route {
        Some(route) => format!("route {route}"),
        None => "all routes".to_owned(),
    };
    let requests = match &model.requests.last {
        Some(requests) => {
            let told = requests.requests.iter();
            let told = told.filter(|it| model.is_chosen(&it.route)).count();
            match told.saturating_add(requests.left_out) {
                1 => "1 request".to_owned(),
                count => format!("{count} requests"),
            }
        }
        None => "requests".to_owned(),
    };
    let idle = if model.which.idle {
        ", idle as well"
    } else {
        ""
    };
    let sort = model.sort.to_possible_value();
    let sort = sort.as_ref().map_or("", |value| value.get_name());
    let rates = match model.between() {
        Some(between) => format!("rates of {}", span(between.seconds)),
        None => "no rates yet".to_owned(),
    };
    let pace = match model.paused {
        Some(since) => {
            format!("PAUSED for {}", age(since, now))
        }
        None => format!("every {}", span(model.interval.as_secs_f64())),
    };
    format!("{route}; {requests} by {sort}{idle}; {pace}, {rates}")
}

/// In whole seconds.
fn age(since: Instant, now: Instant) -> String {
    match now.saturating_duration_since(since).as_secs() {
        0 => "0s".to_owned(),
        #[expect(clippy::cast_precision_loss, reason = "two units are shown")]
        seconds => span(seconds as f64),
    }
}

/// What is wrong, a line for each.
fn troubles(model: &Model, now: Instant) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(trouble) = &model.status.trouble {
        let since = age(trouble.since, now);
        lines.push(format!("no answer for {since}: {}", trouble.why));
    }
    if let Some(news) = model.news(now) {
        lines.push(format!(
            "another process than {} answers since {}: its figures begin anew",
            news.pid_before,
            age(news.since, now)
        ));
    }
    // Once is enough for one reason.
    let of_status = model.status.trouble.as_ref().map(|trouble| &trouble.why);
    let of_requests = model.requests.trouble.as_ref().map(|trouble| &trouble.why);
    if let Some(why) = of_requests.filter(|why| Some(*why) != of_status) {
        lines.push(format!("requests: {why}"));
    } else if let Some(requests) = &model.requests.last {
        lines.extend(gaps(requests));
    }
    if let (Some(status), Some(route)) = (&model.status.last, &model.which.route)
        && !has_route(status, route)
    {
        lines.push(format!(
            "the daemon has no route {route} (it has {})",
            names_of_routes(status)
        ));
    }
    lines
}

/// Says how many rows it has taken.
fn draw_head(canvas: &mut Canvas<'_>, mut lines: Vec<(String, Tone)>, rows_max: usize) -> usize {
    if rows_max == 1 {
        // What is wrong matters most.
        let wrong = lines.iter().position(|(_, tone)| *tone == Tone::Bad);
        lines.swap(0, wrong.unwrap_or(0));
        lines.truncate(1);
    }
    let width = canvas.width();
    let broken = lines.iter().flat_map(|(line, tone)| {
        let rows = wrapped(&shown(line), width).into_iter();
        rows.map(|row| (row, *tone))
    });
    let broken: Vec<(String, Tone)> = broken.collect();
    let count = broken.len().min(rows_max).min(canvas.area.height.into());
    for (number, (row, tone)) in broken.iter().take(count).enumerate() {
        canvas.text(number, row, *tone);
    }
    let left = broken.len() - count;
    if left > 0 && rows_max > 1 {
        let more = format!("  {left} more lines");
        let at = width.saturating_sub(more.len());
        let style = canvas.palette.style(Tone::Faint);
        put(&more, at, style, canvas.row(count - 1), canvas.buffer);
    }
    count
}

// --- parts ------------------------------------------------------------------------------------

/// What each part has to show.
struct Content<'a> {
    requests: Vec<&'a RequestEntry>,
    events: Vec<&'a EventStatus>,
    routes: Vec<&'a RouteStatus>,
    retired: Vec<&'a RetiredRouteStatus>,
    endpoints: Vec<(&'a RouteStatus, &'a EndpointStatus)>,
}

impl<'a> Content<'a> {
    fn of(model: &'a Model) -> Self {
        let told = model.requests.last.iter().flat_map(|it| &it.requests);
        let status = model.status.last.as_ref();
        let routes = status.into_iter().flat_map(|it| &it.routes);
        let mut routes: Vec<_> = routes.filter(|it| model.is_chosen(&it.name)).collect();
        routes.sort_by_key(|route| !RouteState::of(route).is_trouble());
        let each = routes.iter().flat_map(|route| {
            let endpoints = route.endpoints.iter();
            endpoints.map(|endpoint| (*route, endpoint))
        });
        let mut endpoints: Vec<_> = each.collect();
        endpoints.sort_by_key(|(_, endpoint)| endpoint_order(endpoint));
        let retired = status.into_iter().flat_map(|it| &it.retired_routes);
        let events = status.into_iter().flat_map(|it| it.events.iter().rev());
        let concerns = |event: &&EventStatus| {
            let route = event.fields.get("route");
            route.is_none_or(|route| model.is_chosen(route))
        };
        Self {
            requests: told.filter(|it| model.is_chosen(&it.route)).collect(),
            events: events.filter(concerns).collect(),
            routes,
            retired: retired.filter(|it| model.is_chosen(&it.name)).collect(),
            endpoints,
        }
    }

    fn count(&self, part: Part) -> usize {
        match part {
            Part::Requests => self.requests.len(),
            Part::Events => self.events.len(),
            Part::Routes => self.routes.len() + self.retired.len(),
            Part::Endpoints => self.endpoints.len(),
        }
    }
}

fn draw_parts(canvas: &mut Canvas<'_>, model: &Model, top: usize, rows: usize) -> Drawn {
    const FROM_THE_TOP: [Part; 4] = [Part::Routes, Part::Endpoints, Part::Requests, Part::Events];
    let content = Content::of(model);
    let needs = Part::ALL.map(|part| match (part, content.count(part)) {
        // That there are none is news as well.
        (Part::Requests, 0) => 2,
        (_, 0) => 0,
        (_, count) => count + 1,
    });
    let given = allot(rows, needs, model.part);
    let mut drawn = Drawn::default();
    let mut row = top;
    for part in FROM_THE_TOP {
        let at = Part::ALL.iter().position(|it| *it == part);
        let at = at.expect("every part is listed");
        if given[at] == 0 {
            if needs[at] > 0 {
                drawn.left_out.push(part.name());
            }
            continue;
        }
        let place = Place {
            row,
            rows: given[at],
            window: Window::new(content.count(part), given[at] - 1, model.offset(part)),
            is_chosen: part == model.part,
        };
        if place.is_chosen {
            drawn.extent = place.window.extent();
        }
        drawn.columns += draw_part(canvas, model, &content, part, &place);
        row += given[at];
    }
    drawn
}

/// Where a part stands.
struct Place {
    row: usize,
    rows: usize,
    window: Window,
    is_chosen: bool,
}

/// Which of some rows are seen.
#[derive(Clone, Copy)]
struct Window {
    count: usize,
    first: usize,
    seen: usize,
}

impl Window {
    /// A row is given up to say how many more there are.
    fn new(count: usize, rows: usize, offset: usize) -> Self {
        let seen = match count <= rows {
            true => count,
            false => rows.saturating_sub(1),
        };
        Self {
            count,
            first: offset.min(count - seen),
            seen,
        }
    }

    fn extent(self) -> Extent {
        Extent {
            page: self.seen,
            last: self.count - self.seen,
        }
    }

    /// What is said of those that are not seen.
    fn more(self) -> Option<String> {
        let below = self.count - self.first - self.seen;
        match (self.first, below) {
            (0, 0) => None,
            (0, below) => Some(format!("{below} more")),
            (above, 0) => Some(format!("{above} before")),
            (above, below) => Some(format!("{above} before, {below} more")),
        }
    }

    fn of<T>(self, rows: &[T]) -> &[T] {
        &rows[self.first..self.first + self.seen]
    }
}

/// Says how many columns there was no room for.
fn draw_part(
    canvas: &mut Canvas<'_>,
    model: &Model,
    content: &Content<'_>,
    part: Part,
    place: &Place,
) -> usize {
    let between = model.between();
    let growth = |name: &str| between.and_then(|between| between.route(name));
    match part {
        Part::Routes => {
            let served = content.routes.iter().map(|it| route(it, growth(&it.name)));
            let retired = content.retired.iter().map(|it| retired_route(it));
            let Window { first, seen, .. } = place.window;
            let rows: Vec<_> = served.chain(retired).skip(first).take(seen).collect();
            draw_table(canvas, &ROUTE_COLUMNS, &rows, place)
        }
        Part::Endpoints => {
            let seen = place.window.of(&content.endpoints).iter();
            let rows = seen.map(|(route, it)| endpoint(route, it, growth(&route.name)));
            draw_table(canvas, &ENDPOINT_COLUMNS, &rows.collect::<Vec<_>>(), place)
        }
        Part::Requests => {
            let seen = place.window.of(&content.requests).iter();
            let rows: Vec<_> = seen.map(|it| request(it)).collect();
            if content.requests.is_empty() {
                let why = match &model.requests.last {
                    Some(_) => "none is under way, and none waits",
                    None => "not told",
                };
                canvas.text(place.row + 1, why, Tone::Faint);
            }
            draw_table(canvas, &REQUEST_COLUMNS, &rows, place)
        }
        Part::Events => {
            let status = model.status.last.as_ref();
            let now = status.map_or(0.0, |it| it.started_at_seconds + it.uptime_seconds);
            let seen = place.window.of(&content.events).iter();
            let rows: Vec<_> = seen.map(|it| event(it, now)).collect();
            draw_table(canvas, &EVENT_COLUMNS, &rows, place)
        }
    }
}

fn draw_table<const N: usize>(
    canvas: &mut Canvas<'_>,
    columns: &[Column; N],
    rows: &[[Cell; N]],
    place: &Place,
) -> usize {
    let tone = if place.is_chosen {
        Tone::Chosen
    } else {
        Tone::Title
    };
    let titles = columns.map(|column| Cell::new(column.title, tone));
    let fit = Fit::new(columns, rows, canvas.width());
    for (number, row) in [&titles].into_iter().chain(rows).enumerate() {
        let area = canvas.row(place.row + number);
        fit.draw(columns, row, canvas.palette, area, canvas.buffer);
    }
    if let Some(more) = place.window.more() {
        canvas.text(place.row + place.rows - 1, &more, Tone::Faint);
    }
    fit.hidden()
}

// --- help and foot ----------------------------------------------------------------------------

/// What is to be known besides the keys.
const NOTES: [&str; 8] = [
    "REQ/S to FAIL/S are rates since the look before; 2XX to 5XX and NONE are answers by class.",
    "P50 P99: within which time half and 99 % of the requests were over that ended since the look before; on a raw \
     route, of connects.",
    "PLACES: connections to endpoints, of those that there may be (--per-endpoint-max).",
    "CONNS: the same at one endpoint. WEIGHT with a ! is an operator's.",
    "STALLED: who is waited for, with the request's bytes (up) or the answer's (down), and how long already.",
    "What is in trouble stands first. A cell that ends with ~ is cut; - is what is not known.",
    "Columns and parts for which the terminal has no room are left out, and counted in the last line.",
    "States of requests: see 'spliceway requests' in the documentation.",
];

fn draw_help(canvas: &mut Canvas<'_>, model: &Model, top: usize, rows: usize) -> Drawn {
    let keys = HELP.iter().map(|(keys, what)| format!("{keys:<16} {what}"));
    let notes = NOTES.iter().map(|note| (*note).to_owned());
    let blank = [String::new()];
    let width = canvas.width();
    let lines = keys.chain(blank).chain(notes);
    let lines: Vec<String> = lines.flat_map(|line| broken(&line, width)).collect();
    let window = Window::new(lines.len(), rows, model.offset_of_help());
    for (number, line) in window.of(&lines).iter().enumerate() {
        canvas.text(top + number, line, Tone::Plain);
    }
    if let (Some(more), true) = (window.more(), rows > 0) {
        canvas.text(top + rows - 1, &more, Tone::Faint);
    }
    Drawn {
        extent: window.extent(),
        ..Drawn::default()
    }
}

/// Without touching what stands under one another.
fn broken(line: &str, width: usize) -> Vec<String> {
    match line.chars().count() <= width {
        true => vec![line.to_owned()],
        false => wrapped(line, width),
    }
}

fn draw_foot(canvas: &mut Canvas<'_>, model: &Model, drawn: &Drawn) {
    let mut left_out = Vec::new();
    if !drawn.left_out.is_empty() {
        left_out.push(drawn.left_out.join(", "));
    }
    match drawn.columns {
        0 => {}
        1 => left_out.push("1 column".to_owned()),
        columns => left_out.push(format!("{columns} columns")),
    }
    let keys = match model.is_help_shown {
        true => "? or q: back".to_owned(),
        false => format!(
            "? help  q quit  p pause  s sort  r route  i idle  Tab scroll: {}",
            model.part.name()
        ),
    };
    let row = usize::from(canvas.area.height) - 1;
    canvas.text(row, &keys, Tone::Faint);
    if left_out.is_empty() {
        return;
    }
    let missing = format!("  no room: {}", left_out.join(", "));
    let missing = cut(&missing, canvas.width());
    let at = canvas.width().saturating_sub(missing.chars().count());
    let style = canvas.palette.style(Tone::Warn);
    put(&missing, at, style, canvas.row(row), canvas.buffer);
}

#[cfg(test)]
mod tests;
