//! What the rows of each part say; pure.

use super::columns::{Cell, Column, Side, cut};
use super::rates::Growth;
use super::view::Tone;
use crate::observe::events::{EventLevel, EventStatus};
use crate::observe::request_table::{self, TITLES};
use crate::observe::requests::{RequestEntry, StalledEntry};
use crate::observe::status::{
    EndpointState, EndpointStatus, HistogramStatus, RetiredRouteStatus, RouteStatus,
};
use crate::observe::table::{bound_of_quantile, endpoint_state, failed};
use crate::observe::units::{rate, span};
use crate::session::{SessionState, StalledBy, StalledWhat};

/// What is not known, or does not apply.
const NONE: &str = "-";

const fn column(title: &'static str, side: Side, min: usize, max: usize, rank: u8) -> Column {
    Column {
        title,
        side,
        width_min: min,
        width_max: max,
        rank,
    }
}

// --- routes -----------------------------------------------------------------------------------

pub(super) const ROUTE_COLUMNS: [Column; 15] = [
    column("ROUTE", Side::Left, 8, 24, 0),
    column("STATE", Side::Left, 8, 24, 0),
    column("REQ/S", Side::Right, 5, 8, 0),
    column("2XX", Side::Right, 5, 8, 10),
    column("3XX", Side::Right, 5, 8, 12),
    column("4XX", Side::Right, 5, 8, 8),
    column("5XX", Side::Right, 5, 8, 2),
    column("NONE", Side::Right, 5, 8, 7),
    column("CONN/S", Side::Right, 6, 8, 4),
    column("FAIL/S", Side::Right, 6, 8, 6),
    column("SESS", Side::Right, 4, 8, 9),
    column("PLACES", Side::Right, 6, 12, 5),
    column("QUEUE", Side::Right, 5, 12, 0),
    column("OLDEST", Side::Right, 6, 8, 1),
    column("P50 P99", Side::Left, 14, 20, 3),
];

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RouteState {
    /// Clients are closed at once, because no endpoint takes connections.
    Down,
    /// It has no endpoint.
    NoEndpoint,
    /// None of its endpoints is to get anything.
    AllOut,
    QueueFull,
    Paused,
    Waiting,
    Serving,
}

impl RouteState {
    pub(super) fn of(route: &RouteStatus) -> Self {
        let current = || {
            let all = route.endpoints.iter();
            all.filter(|endpoint| endpoint.state != EndpointState::Removed)
        };
        let queue = &route.queue;
        if route.is_down {
            Self::Down
        } else if current().next().is_none() {
            Self::NoEndpoint
        } else if current().all(is_out) {
            Self::AllOut
        } else if route.pause_left_seconds.is_some() {
            Self::Paused
        } else if queue.max.is_some_and(|max| max > 0 && queue.depth >= max) {
            Self::QueueFull
        } else if queue.depth > 0 {
            Self::Waiting
        } else {
            Self::Serving
        }
    }

    /// Those stand first that cannot serve.
    pub(super) fn is_trouble(self) -> bool {
        self <= Self::QueueFull
    }

    fn cell(self, route: &RouteStatus) -> Cell {
        match self {
            Self::Down => Cell::new("down", Tone::Bad),
            Self::NoEndpoint => Cell::new("no endpoint", Tone::Bad),
            Self::AllOut => Cell::new("none is up", Tone::Bad),
            Self::QueueFull => Cell::new("queue full", Tone::Bad),
            Self::Paused => {
                let left = span(route.pause_left_seconds.unwrap_or_default());
                Cell::new(&format!("paused {left}"), Tone::Warn)
            }
            Self::Waiting => Cell::new("waiting", Tone::Warn),
            Self::Serving => Cell::plain("serving"),
        }
    }
}

fn is_out(endpoint: &EndpointStatus) -> bool {
    let by_itself = matches!(
        endpoint.state,
        EndpointState::Ejected { .. } | EndpointState::Down | EndpointState::Removed
    );
    endpoint.drained || by_itself
}

pub(super) fn route(route: &RouteStatus, growth: Option<Growth<'_>>) -> [Cell; 15] {
    let class = |name: &str, tone| per_second(growth.and_then(|g| g.of_class(name)), tone);
    let queue = &route.queue;
    let depth = of_max(queue.depth, queue.max);
    [
        Cell::plain(&route.name),
        RouteState::of(route).cell(route),
        per_second(growth.and_then(|g| g.requests()), Tone::Plain),
        class("2xx", Tone::Plain),
        class("3xx", Tone::Plain),
        class("4xx", Tone::Plain),
        class("5xx", Tone::Bad),
        class("none", Tone::Bad),
        per_second(
            growth.and_then(|g| g.per_second(|route| route.connections_accepted)),
            Tone::Plain,
        ),
        per_second(growth.and_then(|g| g.per_second(failed)), Tone::Bad),
        Cell::plain(&route.sessions_active.to_string()),
        places(route),
        Cell::new(
            &depth,
            if queue.depth > 0 {
                Tone::Warn
            } else {
                Tone::Plain
            },
        ),
        seconds(queue.oldest_wait_seconds),
        times(growth.and_then(|g| g.times()).as_ref()),
    ]
}

pub(super) fn retired_route(route: &RetiredRouteStatus) -> [Cell; 15] {
    let mut cells = [NONE; 15].map(Cell::plain);
    cells[0] = Cell::plain(&route.name);
    cells[1] = Cell::new("leaving", Tone::Warn);
    cells[10] = Cell::plain(&route.sessions_active.to_string());
    cells
}

/// Connections to endpoints that may have something new, and how many there may be.
fn places(route: &RouteStatus) -> Cell {
    let taken: u64 = route.endpoints.iter().map(|e| e.connections).sum();
    let there = route.endpoints.iter().filter(|endpoint| !is_out(endpoint));
    let most = route.endpoint_connections_max.map(|max| {
        let each = there.map(|endpoint| endpoint.connections_limit.unwrap_or(max));
        each.fold(0, u64::saturating_add)
    });
    let is_full = most.is_some_and(|most| most > 0 && taken >= most);
    Cell::new(
        &of_max(taken, most),
        if is_full { Tone::Warn } else { Tone::Plain },
    )
}

// --- endpoints --------------------------------------------------------------------------------

pub(super) const ENDPOINT_COLUMNS: [Column; 9] = [
    column("ENDPOINT", Side::Left, 14, 48, 0),
    column("ROUTE", Side::Left, 5, 24, 6),
    column("STATE", Side::Left, 13, 28, 0),
    column("CONNS", Side::Right, 7, 12, 0),
    column("WEIGHT", Side::Right, 6, 8, 4),
    column("CONN/S", Side::Right, 6, 8, 3),
    column("FAIL/S", Side::Right, 6, 8, 2),
    column("FAILED", Side::Right, 6, 10, 5),
    column("IN A ROW", Side::Left, 8, 10, 1),
];

/// In which order endpoints stand: what is in trouble first.
pub(super) fn endpoint_order(endpoint: &EndpointStatus) -> u8 {
    match endpoint.state {
        EndpointState::Ejected { .. } | EndpointState::Down => 0,
        EndpointState::Failing { .. } => 1,
        EndpointState::Ok if endpoint.drained => 2,
        EndpointState::Ok => 3,
        EndpointState::Removed => 4,
    }
}

pub(super) fn endpoint(
    route: &RouteStatus,
    endpoint: &EndpointStatus,
    growth: Option<Growth<'_>>,
) -> [Cell; 9] {
    let rate_of = |pick: fn(&EndpointStatus) -> u64, tone| {
        per_second(growth.and_then(|g| g.of_endpoint(endpoint, pick)), tone)
    };
    let tone = match endpoint_order(endpoint) {
        0 => Tone::Bad,
        1 | 2 => Tone::Warn,
        _ => Tone::Plain,
    };
    let in_a_row = endpoint.failures_in_a_row;
    [
        Cell::plain(&endpoint.address),
        Cell::plain(&route.name),
        Cell::new(&endpoint_state(endpoint), tone),
        Cell::plain(&of_max(
            endpoint.connections,
            endpoint
                .connections_limit
                .or(route.endpoint_connections_max),
        )),
        Cell::plain(&weight(endpoint)),
        rate_of(|endpoint| endpoint.connects, Tone::Plain),
        rate_of(|endpoint| endpoint.connect_failures, Tone::Bad),
        Cell::plain(&endpoint.connect_failures.to_string()),
        Cell::new(
            &in_a_row.to_string(),
            if in_a_row > 0 {
                Tone::Warn
            } else {
                Tone::Plain
            },
        ),
    ]
}

/// With a sign if it is an operator's. An older daemon says none.
fn weight(endpoint: &EndpointStatus) -> String {
    match (endpoint.weight, endpoint.weight_by_hand) {
        (0, _) => NONE.to_owned(),
        (weight, true) => format!("{weight}!"),
        (weight, false) => weight.to_string(),
    }
}

// --- requests ---------------------------------------------------------------------------------

/// The columns of `spliceway requests`.
pub(super) const REQUEST_COLUMNS: [Column; 10] = [
    column(TITLES[0], Side::Right, 5, 8, 0),
    column(TITLES[1], Side::Right, 5, 8, 4),
    column(TITLES[2], Side::Left, 10, 10, 0),
    column(TITLES[3], Side::Left, 5, 16, 5),
    column(TITLES[4], Side::Left, 14, 40, 1),
    column(TITLES[5], Side::Left, 10, 24, 6),
    column(TITLES[6], Side::Right, 8, 9, 8),
    column(TITLES[7], Side::Right, 8, 9, 7),
    column(TITLES[8], Side::Left, 7, 24, 2),
    column(TITLES[9], Side::Left, 7, 0, 0),
];

pub(super) fn request(request: &RequestEntry) -> [Cell; 10] {
    let mut cells = request_table::row(request).map(|text| Cell::plain(&text));
    cells[2].tone = match request.state {
        SessionState::Queued | SessionState::Connecting => Tone::Warn,
        SessionState::Abandoned | SessionState::Ending => Tone::Bad,
        SessionState::Idle | SessionState::Settling => Tone::Faint,
        SessionState::Reading
        | SessionState::Sent
        | SessionState::Answering
        | SessionState::Delivering
        | SessionState::Relaying => Tone::Plain,
    };
    if let Some(it) = &request.stalled {
        cells[8] = Cell::new(&stalled(it), Tone::Warn);
    }
    cells
}

/// Shorter than in the table: who is waited for, which way, and how long.
fn stalled(stalled: &StalledEntry) -> String {
    let by = match stalled.by {
        StalledBy::Client => "client",
        StalledBy::Backend => "backend",
    };
    let way = match stalled.what {
        StalledWhat::Upload => "up",
        StalledWhat::Download => "down",
    };
    format!("{by} {way} {}", span(stalled.seconds))
}

// --- events -----------------------------------------------------------------------------------

pub(super) const EVENT_COLUMNS: [Column; 3] = [
    column("AGO", Side::Right, 6, 8, 0),
    column("LEVEL", Side::Left, 5, 5, 0),
    column("EVENT", Side::Left, 5, 0, 0),
];

/// By the daemon's own clock, which says `now`.
pub(super) fn event(event: &EventStatus, now: f64) -> [Cell; 3] {
    let (level, tone) = match event.level {
        EventLevel::Info => ("info", Tone::Plain),
        EventLevel::Warn => ("warn", Tone::Warn),
        EventLevel::Error => ("error", Tone::Bad),
    };
    let mut text = event.message.clone();
    for (name, value) in &event.fields {
        text.push_str(&format!("  {name}={value}"));
    }
    if event.times > 1 {
        text.push_str(&format!("  ({} times)", event.times));
    }
    [
        Cell::plain(&span((now - event.at_seconds).max(0.0))),
        Cell::new(level, tone),
        Cell::new(&text, tone),
    ]
}

// --- words ------------------------------------------------------------------------------------

fn of_max(number: u64, max: Option<u64>) -> String {
    match max {
        Some(max) => format!("{number}/{max}"),
        None => number.to_string(),
    }
}

fn seconds(seconds: Option<f64>) -> Cell {
    Cell::plain(&seconds.map_or_else(|| NONE.to_owned(), span))
}

/// Without anything, it has no tone.
fn per_second(per_second: Option<f64>, tone: Tone) -> Cell {
    match per_second {
        Some(per_second) if per_second > 0.0 => Cell::new(&rate(per_second), tone),
        Some(_) => Cell::plain("0"),
        None => Cell::plain(NONE),
    }
}

/// Within which time half of them and 99 % of them were over.
fn times(times: Option<&HistogramStatus>) -> Cell {
    let bound = |part| {
        let bound = bound_of_quantile(times?, part)?;
        Some(match bound {
            Some(bound) => format!("<{}", span(bound)),
            None => longer_than_all(times?),
        })
    };
    match (bound(0.5), bound(0.99)) {
        (Some(half), Some(most)) => Cell::plain(&format!("{half} {most}")),
        _ => Cell::plain(NONE),
    }
}

fn longer_than_all(times: &HistogramStatus) -> String {
    let mut bounds = times.buckets.iter().rev().filter_map(|it| it.up_to_seconds);
    format!(">{}", span(bounds.next().unwrap_or_default()))
}

/// A sentence in so many columns, in lines; what has no space to be broken at is cut.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.iter().map(|line| cut(line, width)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn php() -> RouteStatus {
        let mut route = samples::busy().routes.remove(0);
        route.pause_left_seconds = None;
        (route.queue.depth, route.queue.max) = (0, Some(2));
        route
    }

    #[test]
    fn a_route_says_what_keeps_it_from_serving() {
        let mut route = php();
        let state = RouteState::of;
        // What is failing may be tried.
        assert_eq!(state(&route), RouteState::Serving);
        route.queue.depth = 1;
        assert_eq!(state(&route), RouteState::Waiting);
        route.queue.depth = 2;
        assert_eq!(state(&route), RouteState::QueueFull);
        route.pause_left_seconds = Some(1.0);
        assert_eq!(state(&route), RouteState::Paused);
        route.is_down = true;
        assert_eq!(state(&route), RouteState::Down);
        route.is_down = false;
        route
            .endpoints
            .retain(|it| it.drained || it.state == EndpointState::Down);
        assert_eq!(
            (route.endpoints.len(), state(&route)),
            (2, RouteState::AllOut)
        );
        for endpoint in &mut route.endpoints {
            endpoint.state = EndpointState::Removed;
        }
        assert_eq!(state(&route), RouteState::NoEndpoint);
        // Without a queue, none is full.
        let mut route = php();
        route.queue.max = Some(0);
        assert_eq!(state(&route), RouteState::Serving);
    }

    #[test]
    fn places_are_those_of_endpoints_that_get_something() {
        let mut route = php();
        // Of five, one fails and has places; the others are out. Two have connections from before.
        assert_eq!(places(&route), Cell::new("9/8", Tone::Warn));
        route.endpoints[0].drained = false;
        assert_eq!(places(&route), Cell::plain("9/16"));
        route.endpoint_connections_max = None;
        assert_eq!(places(&route), Cell::plain("9"));
    }

    #[test]
    fn endpoints_in_trouble_stand_first() {
        let mut endpoints = php().endpoints;
        endpoints[0].drained = false;
        endpoints.sort_by_key(endpoint_order);
        let states: Vec<&str> = endpoints.iter().map(|it| it.state.name()).collect();
        assert_eq!(states, ["ejected", "down", "failing", "ok", "removed"]);
    }

    #[test]
    fn times_are_bounds() {
        let mut histogram = php().fastcgi.unwrap().request_time;
        let bound = histogram.buckets[3].up_to_seconds.unwrap();
        for bucket in &mut histogram.buckets {
            bucket.count = 0;
        }
        histogram.count = 0;
        assert_eq!(times(Some(&histogram)), Cell::plain("-"));
        histogram.buckets[3].count = 99;
        histogram.count = 99;
        let bound = span(bound);
        assert_eq!(times(Some(&histogram)).text, format!("<{bound} <{bound}"));
        histogram.buckets.last_mut().unwrap().count = 11;
        histogram.count = 110;
        assert_eq!(times(Some(&histogram)).text, format!("<{bound} >10s"));
    }

    #[test]
    fn an_event_is_as_old_as_the_daemon_says() {
        let events = samples::busy().events;
        let cells = event(&events[0], 1.75e9 + 90.0);
        assert_eq!(
            cells.each_ref().map(|it| &*it.text),
            ["1m0s", "warn", "endpoint left out  route=busy  (2 times)",]
        );
        // A clock that was set back.
        assert_eq!(event(&events[0], 1.75e9).map(|it| it.text)[0], "0us");
    }

    #[test]
    fn sentences_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("one", 2), ["o~"]);
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("a b", 0), ["", ""]);
    }
}
