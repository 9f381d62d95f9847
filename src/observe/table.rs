//! A status as a table for people.

use std::fmt::Write;

use super::status::{
    DaemonState, EndpointState, EndpointStatus, FastcgiStatus, HistogramStatus, RouteStatus,
    Status, UpstreamsStatus,
};
use super::units::{rate, size, span};
use super::{classes, fpm};
use crate::counters::Outcome;
use crate::shown::Shown;

/// The longest line: a route may have some dozens of listeners.
const LINE_CHARS_MAX: usize = 16_384;

/// The longest address: the path of a socket has 107 bytes, each of which takes at most four characters
/// when it is escaped.
const ADDRESS_CHARS_MAX: usize = 512;

/// The daemon's line, then each route's lines and its endpoints. Rates are those since `before`;
/// without it, or if the daemon has started again since, there are none.
#[must_use]
pub(crate) fn render(status: &Status, before: Option<&Status>) -> String {
    let before = before.filter(|before| is_same_daemon(before, status));
    let span = before.map_or(0.0, |before| status.uptime_seconds - before.uptime_seconds);
    let mut text = String::new();
    daemon(&mut text, status);
    for route in &status.routes {
        // A reload may have put others in front of it.
        let before = before.filter(|_| span > 0.0);
        let before = before.and_then(|b| b.routes.iter().find(|b| b.name == route.name));
        let rates = before.map(|before| Rates { before, span });
        text.push('\n');
        self::route(&mut text, route, rates);
    }
    for route in &status.retired_routes {
        let (name, sessions) = (&route.name, route.sessions_active);
        text.push('\n');
        line(
            &mut text,
            &format!("{name}  is not served any more; {sessions} sessions finish"),
        );
    }
    text
}

/// Whether counters of both are of one process. In a container, every daemon may have the same number.
pub(crate) fn is_same_daemon(before: &Status, after: &Status) -> bool {
    before.pid == after.pid
        && before.started_at_seconds == after.started_at_seconds
        && before.uptime_seconds < after.uptime_seconds
}

/// How fast figures grow.
#[derive(Clone, Copy)]
struct Rates<'a> {
    before: &'a RouteStatus,
    /// Seconds.
    span: f64,
}

impl Rates<'_> {
    /// Per second.
    fn of(&self, now: &RouteStatus, pick: impl Fn(&RouteStatus) -> u64) -> f64 {
        let more = pick(now).saturating_sub(pick(self.before));
        more as f64 / self.span
    }
}

fn daemon(text: &mut String, status: &Status) {
    line(
        text,
        &format!(
            "spliceway {}, process {}, {}, {} workers, {}; {}",
            status.version,
            status.pid,
            status.engine,
            status.workers.len(),
            state(status),
            all_sessions(status),
        ),
    );
    if let Some(config) = config(status) {
        line(text, &config);
    }
    for warning in warnings(status) {
        line(text, &warning);
    }
}

/// Whether the daemon takes new clients, and since when.
pub(crate) fn state(status: &Status) -> String {
    match status.state {
        DaemonState::Serving => format!("serving for {}", span(status.uptime_seconds)),
        DaemonState::Draining => match status.draining_seconds {
            Some(since) => format!(
                "draining for {} after {}",
                span(since),
                span(status.uptime_seconds - since)
            ),
            None => "draining".to_owned(),
        },
    }
}

/// How many sessions there are, of how many that there may be.
pub(crate) fn all_sessions(status: &Status) -> String {
    let retired = status.retired_routes.iter().map(|r| r.sessions_active);
    let served = status.routes.iter().map(|r| r.sessions_active);
    let sessions: u64 = served.chain(retired).sum();
    format!("{sessions} of {} sessions", status.sessions_max)
}

/// What somebody should look at, a line for each.
pub(crate) fn warnings(status: &Status) -> Vec<String> {
    let mut warnings = Vec::new();
    let pauses = status.accept_pauses;
    if pauses.no_descriptors + pauses.limit_reached + pauses.other > 0 {
        warnings.push(format!(
            "accepting paused: for descriptors {}, at the limit {}, otherwise {}",
            pauses.no_descriptors, pauses.limit_reached, pauses.other
        ));
    }
    if status.socket_files_missing > 0 {
        warnings.push(format!(
            "sockets whose files are missing: {} (nobody can connect: the log says why)",
            status.socket_files_missing
        ));
    }
    if status.log_lines_dropped > 0 {
        warnings.push(format!(
            "lost lines of the log: {}",
            status.log_lines_dropped
        ));
    }
    if status.access_log_write_errors > 0 {
        warnings.push(format!(
            "failed writes to access logs: {}",
            status.access_log_write_errors
        ));
    }
    warnings
}

/// Which configuration is in use, and how reloads ended. An older daemon says nothing of it.
pub(crate) fn config(status: &Status) -> Option<String> {
    let config = &status.config;
    if config.hash.is_empty() {
        return None;
    }
    let now = status.started_at_seconds + status.uptime_seconds;
    let since = span((now - config.last_success_at_seconds).max(0.0));
    let mut text = format!("configuration {}", config.hash);
    match config.reloads_done {
        0 => text.push_str(" since the start"),
        1 => text.push_str(&format!(", reloaded {since} ago")),
        count => text.push_str(&format!(", reloaded {count} times, {since} ago")),
    }
    if !config.last_reload_done {
        text.push_str("; the last reload was refused (the log says why)");
    }
    Some(text)
}

fn route(text: &mut String, route: &RouteStatus, rates: Option<Rates<'_>>) {
    line(
        text,
        &format!("{}  {}", route.name, route.listeners.join(", ")),
    );
    if let Some(left) = route.pause_left_seconds {
        let left = format!("for {} more: what comes waits", span(left));
        item(text, "paused", &left);
    }
    if route.is_down {
        item(
            text,
            "down",
            "no endpoint takes connections: clients are sent away at once",
        );
    }
    item(text, "sessions", &sessions(route, rates));
    if route.queue.max.is_some() || route.queue.queued > 0 {
        item(text, "queue", &queue(route));
    }
    item(text, "connects", &connects(route));
    if let Some(fastcgi) = &route.fastcgi {
        item(text, "requests", &requests(fastcgi, route, rates));
        item(text, "upstreams", &upstreams(fastcgi));
        let classes = fastcgi.classes.iter().map(classes::line);
        classes.for_each(|line| item(text, "class", &line));
        let pools = fastcgi.fpm.iter().flat_map(fpm::lines);
        pools.for_each(|line| item(text, "php-fpm", &line));
    }
    item(text, "bytes", &bytes(route, rates));
    item(text, "addresses", &addresses(route));
    if !route.endpoints.is_empty() {
        endpoints(text, route);
    }
}

fn sessions(route: &RouteStatus, rates: Option<Rates<'_>>) -> String {
    let active = route.sessions_active;
    let accepted = route.connections_accepted;
    match rates {
        None => format!(
            "{active} active, {accepted} accepted, {} failed",
            failed(route)
        ),
        Some(rates) => format!(
            "{active} active, {accepted} accepted ({}/s), {} failed ({}/s)",
            rate(rates.of(route, |route| route.connections_accepted)),
            failed(route),
            rate(rates.of(route, failed)),
        ),
    }
}

/// Sessions that failed.
pub(crate) fn failed(route: &RouteStatus) -> u64 {
    let failures = Outcome::ALL.into_iter().filter(|o| o.is_failure());
    let count = |outcome: Outcome| route.sessions_ended.get(outcome.name()).copied();
    failures.filter_map(count).sum()
}

fn queue(route: &RouteStatus) -> String {
    let queue = &route.queue;
    let max = queue
        .max
        .map_or_else(String::new, |max| format!(" of {max}"));
    let oldest = match queue.oldest_wait_seconds {
        Some(oldest) => format!(", the first for {}", span(oldest)),
        None => String::new(),
    };
    let queued = queue.queued;
    let typical = typical(&queue.wait, " who waited ");
    format!(
        "{}{max} wait{oldest}; {queued} had to{typical}",
        queue.depth
    )
}

fn connects(route: &RouteStatus) -> String {
    let failures = route.connect_failures;
    let typical = typical(&route.connect_time, " after ");
    format!(
        "{} open{typical}; failed attempts: {failures}",
        route.connect_time.count
    )
}

fn requests(fastcgi: &FastcgiStatus, route: &RouteStatus, rates: Option<Rates<'_>>) -> String {
    fn over(route: &RouteStatus) -> u64 {
        let fastcgi = route.fastcgi.as_ref();
        fastcgi.map_or(0, |fastcgi| fastcgi.requests.values().sum())
    }
    let per_second = rates.map_or_else(String::new, |rates| {
        format!(" ({}/s)", rate(rates.of(route, over)))
    });
    let of = |class: &str| fastcgi.requests.get(class).copied().unwrap_or(0);
    let rejected: u64 = fastcgi.guard_rejections.values().sum();
    let mut text = format!(
        "{} over{per_second}{}, {} with 5xx, {} without an answer; rejected by the guard: {rejected}",
        over(route),
        typical(&fastcgi.request_time, " after "),
        of("5xx"),
        of("none")
    );
    if fastcgi.access_log_lines_dropped > 0 {
        push(
            &mut text,
            &format!(
                "; lost lines of the access log: {}",
                fastcgi.access_log_lines_dropped
            ),
        );
    }
    if fastcgi.access_log_lines_left_out > 0 {
        push(
            &mut text,
            &format!("; left out there: {}", fastcgi.access_log_lines_left_out),
        );
    }
    for (what, count) in [
        ("slow", fastcgi.slow_requests),
        ("lost lines of the slow log", fastcgi.slow_log_lines_dropped),
        ("left out there", fastcgi.slow_log_lines_left_out),
    ] {
        if count > 0 {
            push(&mut text, &format!("; {what}: {count}"));
        }
    }
    text
}

fn upstreams(fastcgi: &FastcgiStatus) -> String {
    let UpstreamsStatus {
        busy,
        settling,
        resting,
    } = fastcgi.upstreams;
    let (new, reused) = (fastcgi.requests_on_new, fastcgi.requests_on_reused);
    let part = match new + reused {
        0 => String::new(),
        all => format!(
            "; {:.0} % of requests on reused ones",
            reused as f64 / all as f64 * 100.0
        ),
    };
    let typical = typical(&fastcgi.settle_time, " settled after ");
    format!("{busy} busy, {settling} settling, {resting} resting{part}{typical}")
}

/// Within which time half of them and 99 % of them were over.
fn typical(times: &HistogramStatus, before: &str) -> String {
    match (quantile(times, 0.5), quantile(times, 0.99)) {
        (Some(half), Some(most)) => format!(",{before}{half} (half) to {most} (99 %)"),
        _ => String::new(),
    }
}

/// The bound of the bucket that the quantile is in.
fn quantile(times: &HistogramStatus, part: f64) -> Option<String> {
    Some(match bound_of_quantile(times, part)? {
        Some(bound) => format!("<{}", span(bound)),
        None => "longer than 10 s".to_owned(),
    })
}

/// The same in seconds, without a bound for the longest; nothing without times.
pub(crate) fn bound_of_quantile(times: &HistogramStatus, part: f64) -> Option<Option<f64>> {
    let wanted = times.count as f64 * part;
    let mut seen = 0;
    let bucket = times.buckets.iter().find(|bucket| {
        seen += bucket.count;
        seen > 0 && seen as f64 >= wanted
    })?;
    Some(bucket.up_to_seconds)
}

fn bytes(route: &RouteStatus, rates: Option<Rates<'_>>) -> String {
    fn sent(route: &RouteStatus) -> u64 {
        route.to_backend.copied_bytes + route.to_backend.spliced_bytes
    }
    fn received(route: &RouteStatus) -> u64 {
        route.to_client.copied_bytes + route.to_client.spliced_bytes
    }
    let of = |pick: fn(&RouteStatus) -> u64| match rates {
        None => size(pick(route) as f64),
        Some(rates) => {
            let (all, rate) = (size(pick(route) as f64), size(rates.of(route, pick)));
            format!("{all} ({rate}/s)")
        }
    };
    let spliced = route.to_backend.spliced_bytes + route.to_client.spliced_bytes;
    let part = match sent(route) + received(route) {
        0 => String::new(),
        all => format!("; {:.0} % spliced", spliced as f64 / all as f64 * 100.0),
    };
    format!(
        "{} to backends, {} to clients{part}",
        of(sent),
        of(received)
    )
}

fn addresses(route: &RouteStatus) -> String {
    let mut text = format!("version {}", route.set_version);
    if let Some(age) = route.set_age_seconds {
        push(&mut text, &format!(", {} old", span(age)));
    }
    if let Some(age) = route.answer_age_seconds {
        push(&mut text, &format!(", last confirmed {} ago", span(age)));
    }
    if route
        .endpoints
        .iter()
        .all(|e| e.state == EndpointState::Removed)
    {
        push(&mut text, "; no endpoint is known");
    }
    if route.lookups.failures > 0 {
        push(
            &mut text,
            &format!("; failed lookups: {}", route.lookups.failures),
        );
    }
    text
}

// --- endpoints --------------------------------------------------------------------------------

const HEAD: [&str; 6] = [
    "endpoint",
    "state",
    "in flight",
    "connects",
    "failed",
    "in a row",
];

fn endpoints(text: &mut String, route: &RouteStatus) {
    let rows = route.endpoints.iter().map(|endpoint| row(endpoint, route));
    let rows: Vec<[String; 6]> = [HEAD.map(str::to_owned)].into_iter().chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 6] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for [address, state, figures @ ..] in &rows {
        let [address_width, state_width, figure_widths @ ..] = widths;
        let mut row = format!("  {address:address_width$}  {state:state_width$}");
        for (figure, width) in figures.iter().zip(figure_widths) {
            push(&mut row, &format!("  {figure:>width$}"));
        }
        line(text, &row);
    }
}

/// Whether an endpoint gets something, and if not, why and for how long.
pub(crate) fn endpoint_state(endpoint: &EndpointStatus) -> String {
    let state = match endpoint.state {
        EndpointState::Ejected { left_seconds } => format!("ejected {}", span(left_seconds)),
        EndpointState::Failing { failing_seconds } => format!("failing {}", span(failing_seconds)),
        EndpointState::Down => "down by check".to_owned(),
        state @ (EndpointState::Ok | EndpointState::Removed) => state.name().to_owned(),
    };
    match endpoint.drained {
        true if endpoint.state == EndpointState::Ok => "drained".to_owned(),
        true => format!("drained, {state}"),
        false => state,
    }
}

fn row(endpoint: &EndpointStatus, route: &RouteStatus) -> [String; 6] {
    let mut state = endpoint_state(endpoint);
    if endpoint.weight_by_hand {
        push(&mut state, &format!(", weight {}", endpoint.weight));
    }
    let max = endpoint
        .connections_limit
        .or(route.endpoint_connections_max);
    let in_flight = match max {
        Some(max) => format!("{}/{max}", endpoint.connections),
        None => endpoint.connections.to_string(),
    };
    [
        Shown::line(endpoint.address.as_bytes(), ADDRESS_CHARS_MAX).to_string(),
        state,
        in_flight,
        endpoint.connects.to_string(),
        endpoint.connect_failures.to_string(),
        endpoint.failures_in_a_row.to_string(),
    ]
}

// --- words ------------------------------------------------------------------------------------

/// One line, whatever is in it: names and addresses are words of whoever answered.
pub(super) fn line(text: &mut String, line: &str) {
    push(
        text,
        &Shown::line(line.as_bytes(), LINE_CHARS_MAX).to_string(),
    );
    text.push('\n');
}

fn item(text: &mut String, name: &str, value: &str) {
    line(text, &format!("  {name:<9}  {value}"));
}

fn push(text: &mut String, more: &str) {
    // A string takes all that is written to it.
    let _ = text.write_str(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::samples;

    const BUSY: &str = "\
spliceway 1.2.3, process 4711, io_uring, 2 workers, serving for 3h12m; 11 of 8192 sessions
configuration 0123456789abcdef, reloaded 3 times, 3h11m ago; the last reload was refused (the log says why)
accepting paused: for descriptors 1, at the limit 2, otherwise 0

php  unix:/run/php.sock
  paused     for 42.5s more: what comes waits
  sessions   9 active, 113 accepted, 4 failed
  queue      1 of 64 wait, the first for 1.5s; 12 had to, who waited <1ms (half) to longer than 10 s (99 %)
  connects   5 open, after <500us (half) to <2.5s (99 %); failed attempts: 6
  requests   100 over, after <10ms (half) to <50ms (99 %), 1 with 5xx, 2 without an answer; rejected by the guard: 4; lost lines of the access log: 6; left out there: 9; slow: 8; lost lines of the slow log: 5; left out there: 7
  upstreams  5 busy, 1 settling, 3 resting; 80 % of requests on reused ones, settled after <50us (half) to <500us (99 %)
  class      default: 3 busy (at most 8 at an endpoint), 0 wait; 80 over, 0 failed for load
  class      admin: 2 busy (at most 8 at an endpoint, 2 kept for it), 1 wait, the first for 1.5s; 12 over, 2 failed for load
  php-fpm    192.0.2.1:9001 (www, static): 4 of 4 processes, 1 idle, 2 run a script; 5 of 511 wait in its backlog; max children reached 6, slow requests 7; 2.5s ago
  php-fpm    ! pm.max_children is 4
  php-fpm    192.0.2.2:9001: no answer for 1m1s; it closed
  bytes      4.88 KiB to backends, 3.88 MiB to clients; 98 % spliced
  addresses  version 7, 2h1m old, last confirmed 4.25s ago; failed lookups: 1
  endpoint        state                   in flight  connects  failed  in a row
  192.0.2.1:9000  drained                       8/8       100       3         1
  192.0.2.2:9000  ejected 12.5s                 0/8       100       3         1
  192.0.2.3:9000  down by check                 0/8       100       3         1
  192.0.2.4:9000  removed                       1/8       100       3         1
  192.0.2.5:9000  failing 2.5s, weight 6        0/8       100       3         1

other  unix:@other
  sessions   0 active, 0 accepted, 0 failed
  connects   0 open; failed attempts: 0
  bytes      0 B to backends, 0 B to clients
  addresses  version 0; no endpoint is known

old  is not served any more; 2 sessions finish
";

    #[test]
    fn a_status_as_people_see_it() {
        assert_eq!(render(&samples::busy(), None), BUSY);
        let mut down = samples::busy();
        down.routes[0].is_down = true;
        assert!(render(&down, None).contains("  down       no endpoint takes connections"));
    }

    #[test]
    fn rates_are_those_since_the_sample_before() {
        let before = samples::busy();
        let mut after = before.clone();
        after.uptime_seconds += 0.5;
        after.routes[0].connections_accepted += 50;
        after.routes[0].to_client.spliced_bytes += 1024 * 1024;
        let requests = &mut after.routes[0].fastcgi.as_mut().unwrap().requests;
        *requests.get_mut("2xx").unwrap() += 25;
        let text = render(&after, Some(&before));
        for part in [
            "125 over (50/s), after <10ms (half)",
            "163 accepted (100/s), 4 failed (0/s)",
            "4.88 MiB (2 MiB/s) to clients",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn there_are_no_rates_since_a_daemon_that_is_another_one() {
        let before = samples::busy();
        let mut after = before.clone();
        after.pid += 1;
        after.uptime_seconds = 20_000.0;
        assert!(!render(&after, Some(&before)).contains("/s"));
        let younger = samples::busy();
        assert!(!render(&younger, Some(&before)).contains("/s"));
        // The first process of another container of the same name.
        after.pid = before.pid;
        after.started_at_seconds += 30_000.0;
        assert!(!render(&after, Some(&before)).contains("/s"));
    }

    #[test]
    fn a_configuration_is_as_old_as_it_is() {
        let mut status = samples::busy();
        let mut shown = |reloads_done, last_reload_done| {
            status.config.reloads_done = reloads_done;
            status.config.last_reload_done = last_reload_done;
            render(&status, None).lines().nth(1).unwrap().to_owned()
        };
        let configuration = "configuration 0123456789abcdef";
        assert_eq!(shown(0, true), format!("{configuration} since the start"));
        let refused = "the last reload was refused (the log says why)";
        assert_eq!(
            shown(0, false),
            format!("{configuration} since the start; {refused}")
        );
        assert_eq!(
            shown(1, true),
            format!("{configuration}, reloaded 3h11m ago")
        );
        let older = super::super::status::ConfigStatus::default();
        status.config = older;
        assert!(!render(&status, None).contains("configuration"));
    }

    #[test]
    fn a_drain_is_as_old_as_it_is() {
        let mut status = samples::busy();
        status.state = DaemonState::Draining;
        status.draining_seconds = Some(2.5);
        let text = render(&status, None);
        assert!(
            text.contains("2 workers, draining for 2.5s after 3h11m; 11 of"),
            "{text}"
        );
    }

    #[test]
    fn words_of_whoever_answers_cannot_make_lines_or_drive_a_terminal() {
        let mut status = samples::busy();
        status.version = "1\n2\x1b[2J".to_owned();
        status.routes[0].name = "php\nforged".to_owned();
        status.retired_routes[0].name = "old\nforged".to_owned();
        status.routes[0].listeners = vec!["unix:/a\u{9b}31m\u{202e}".to_owned()];
        status.routes[0].endpoints[0].address = "192.0.2.1:1\n  192.0.2.9:9  ok".to_owned();
        let text = render(&status, None);
        assert_eq!(text.lines().count(), BUSY.lines().count());
        for part in [
            "spliceway 1\\x0a2\\x1b[2J,",
            "php\\x0aforged  unix:/a\\u{9b}31m\\u{202e}",
            "  192.0.2.1:1\\x0a  192.0.2.9:9  ok  drained  ",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        status.routes[0].listeners = vec!["x".repeat(1_000_000)];
        assert!(render(&status, None).len() < 50_000);
    }
}
