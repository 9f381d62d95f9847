//! What is wrong at one moment, in sentences for whoever has to find out why a site is slow: what is waited for, and for
//! how long.
//!
//! Pure. What shows only over time (clients that are not accepted now and then, answers of the proxy's own) is found by
//! the page, which has several looks.

use serde::Serialize;

use self::TroubleLevel::{Error, Note, Warn};
use super::super::fpm::FpmStatus;
use super::super::status::{DaemonState, EndpointState, EndpointStatus, RouteStatus, Status};
use super::super::units::span;
use super::Audience;
use super::slowest::{AtWork, Slowest};
use crate::shown::Shown;

/// How many are told.
pub(super) const TROUBLES_MAX: usize = 20;

/// How many endpoints of one route are told of, each by itself.
const ENDPOINTS_MAX: usize = 5;

/// The same of pools of PHP-FPM.
const POOLS_TOLD_MAX: usize = 3;

/// From this wait on, a queue that is not full is told: short ones are what queues are for.
const LONG_WAIT_SECONDS: f64 = 1.0;

/// From this age on, a request for which nobody waits is told.
const LONG_RUN_SECONDS: f64 = 10.0;

/// The longest URI, and the longest of other words, in characters.
const URI_CHARS_MAX: usize = 160;
const WORD_CHARS_MAX: usize = 128;

/// The longest reason, in characters: with its remedy.
const REASON_CHARS_MAX: usize = 400;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Trouble {
    pub(super) level: TroubleLevel,
    pub(super) text: String,
}

/// How bad it is: the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TroubleLevel {
    /// Somebody wants it so.
    Note,
    /// It may become worse, or others make up for it.
    Warn,
    /// Clients are served late, or not at all.
    Error,
}

impl Trouble {
    fn new(level: TroubleLevel, text: String) -> Self {
        Self { level, text }
    }
}

/// What is wrong with the daemon as a whole.
pub(super) fn of_daemon(status: &Status, looked: Option<&Slowest>) -> Vec<Trouble> {
    let mut found = Vec::new();
    let mut tell = |level, text| found.push(Trouble::new(level, text));
    if status.state == DaemonState::Draining {
        tell(
            Note,
            "the daemon finishes what runs, and takes no new clients".to_owned(),
        );
    }
    for worker in looked.into_iter().flat_map(|looked| &looked.silent_workers) {
        let text = format!(
            "worker {worker} does not turn: its clients are not served, and what they do is not known"
        );
        tell(Error, text);
    }
    let files = status.socket_files_missing;
    if files > 0 {
        let text = format!(
            "sockets whose files are missing: {files}: nobody can connect there (the log says why)"
        );
        tell(Error, text);
    }
    let (sessions, max) = (sessions(status), status.sessions_max);
    if sessions >= max {
        let text = format!(
            "{sessions} of {max} sessions: further clients wait to be accepted (--connections-max)"
        );
        tell(Error, text);
    }
    if !status.config.last_reload_done {
        let text =
            "the last reload was refused: the configuration of before is in use (the log says why)";
        tell(Warn, text.to_owned());
    }
    found
}

/// All of them, those of routes that are not served any more as well.
pub(super) fn sessions(status: &Status) -> u64 {
    let retired = status.retired_routes.iter().map(|r| r.sessions_active);
    let served = status.routes.iter().map(|r| r.sessions_active);
    served.chain(retired).sum()
}

/// What is wrong with a route. `at_work` is its request that runs for longest.
pub(super) fn of_route(
    route: &RouteStatus,
    at_work: Option<&AtWork>,
    audience: Audience,
) -> Vec<Trouble> {
    let name = word(&route.name);
    let mut found = Vec::new();
    if route.is_down {
        let text = format!(
            "route {name}: no endpoint takes connections, and its clients are sent away at once (--when-down)"
        );
        found.push(Trouble::new(Error, text));
    }
    found.extend(queue(&name, route, at_work, audience));
    found.extend(names(&name, route));
    found.extend(reach(&name, route));
    found.extend(endpoints(&name, route));
    found.extend(pools(&name, route, audience));
    found.extend(route.pause_left_seconds.map(|left| {
        let left = span(left);
        Trouble::new(
            Note,
            format!("route {name} is paused by hand for {left} more: what comes waits"),
        )
    }));
    found
}

/// Whether clients wait for places, or a server works for long.
fn queue(
    name: &str,
    route: &RouteStatus,
    at_work: Option<&AtWork>,
    audience: Audience,
) -> Option<Trouble> {
    let queue = &route.queue;
    let wait = queue.oldest_wait_seconds.unwrap_or(0.0);
    let is_full = queue.max.is_some_and(|max| max > 0 && queue.depth >= max);
    let runs = at_work.map(|at_work| run(at_work, audience));
    if queue.depth == 0 || (!is_full && wait < LONG_WAIT_SECONDS) {
        let is_long = at_work.is_some_and(|at_work| at_work.age.as_secs_f64() >= LONG_RUN_SECONDS);
        let runs = runs.filter(|_| is_long)?;
        return Some(Trouble::new(Warn, format!("route {name}: {runs}")));
    }
    let mut parts = Vec::new();
    parts.extend(permits(route));
    let of = queue
        .max
        .map_or_else(String::new, |max| format!(" of {max}"));
    let wait = span(wait);
    parts.push(format!("{}{of} wait, the first for {wait}", queue.depth));
    if is_full {
        parts.push("the queue is full, and further clients are sent away".to_owned());
    }
    parts.extend(runs);
    Some(Trouble::new(
        Error,
        format!("route {name}: {}", parts.join("; ")),
    ))
}

/// Which places are taken.
fn permits(route: &RouteStatus) -> Option<String> {
    let max = route.endpoint_connections_max?;
    let most = |endpoint: &EndpointStatus| endpoint.connections_limit.unwrap_or(max);
    let is_full = |endpoint: &&EndpointStatus| endpoint.connections >= most(endpoint);
    let full: Vec<_> = route.endpoints.iter().filter(is_full).collect();
    match full[..] {
        [] => None,
        [only] => {
            let (in_use, address) = (only.connections, word(&only.address));
            let max = most(only);
            Some(format!("{in_use} of {max} places are taken at {address}"))
        }
        ref all if all.iter().any(|one| one.connections_limit.is_some()) => Some(format!(
            "all places are taken at each of {} endpoints",
            all.len()
        )),
        ref all => Some(format!(
            "all {max} places are taken at each of {} endpoints",
            all.len()
        )),
    }
}

fn run(at_work: &AtWork, audience: Audience) -> String {
    let age = span(at_work.age.as_secs_f64());
    let at = at_work.endpoint.as_deref();
    let at = at.map_or_else(String::new, |endpoint| format!(" at {}", word(endpoint)));
    let words = at_work
        .words
        .as_ref()
        .filter(|_| audience == Audience::Trusted);
    let words = words.map_or_else(String::new, |[method, uri]| {
        let uri = Shown::line(uri.as_bytes(), URI_CHARS_MAX);
        format!(": {} {uri}", word(method))
    });
    format!("the oldest request has run for {age}{at}{words}")
}

fn names(name: &str, route: &RouteStatus) -> Option<Trouble> {
    let failing = span(route.lookups.failing_seconds?);
    let (level, use_of) = match route.answer_age_seconds {
        Some(age) => {
            let age = span(age);
            (
                Warn,
                format!("the addresses of before are still used, from an answer that is {age} old"),
            )
        }
        None => (Error, "no answer has come yet".to_owned()),
    };
    let text = format!("names of route {name} have not been resolved for {failing}: {use_of}");
    Some(Trouble::new(level, text))
}

/// Whether there is an endpoint to go to.
fn reach(name: &str, route: &RouteStatus) -> Option<Trouble> {
    let current = || {
        route
            .endpoints
            .iter()
            .filter(|e| e.state != EndpointState::Removed)
    };
    let text = match current().count() {
        0 => format!("route {name} has no endpoint: its clients wait in vain"),
        _ if current().all(|endpoint| endpoint.drained) => {
            format!("route {name}: every endpoint is drained by hand")
        }
        count if count > 1 && current().all(|e| e.drained || e.state != EndpointState::Ok) => {
            format!("route {name}: none of {count} endpoints answers")
        }
        _ => return None,
    };
    Some(Trouble::new(Error, text))
}

/// Those that are not as they should be, each by itself if there are not too many.
fn endpoints(name: &str, route: &RouteStatus) -> Vec<Trouble> {
    let mut found = Vec::new();
    let (mut count, mut worst) = (0, Note);
    for endpoint in &route.endpoints {
        let Some((level, what)) = endpoint_trouble(endpoint) else {
            continue;
        };
        count += 1;
        worst = worst.max(level);
        if count <= ENDPOINTS_MAX {
            let address = word(&endpoint.address);
            found.push(Trouble::new(
                level,
                format!("endpoint {address} of route {name} {what}"),
            ));
        }
    }
    if count > ENDPOINTS_MAX {
        let more = count - ENDPOINTS_MAX;
        found.push(Trouble::new(
            worst,
            format!("and {more} more endpoints of route {name}"),
        ));
    }
    found
}

fn endpoint_trouble(endpoint: &EndpointStatus) -> Option<(TroubleLevel, String)> {
    let drained = || (Note, "is drained by hand".to_owned());
    match endpoint.state {
        EndpointState::Ok | EndpointState::Removed => endpoint.drained.then(drained),
        EndpointState::Failing { failing_seconds } => {
            let failing = span(failing_seconds);
            Some((Error, format!("cannot be reached for {failing}")))
        }
        EndpointState::Ejected { left_seconds } => {
            // The row that led to that is counted anew.
            let (left, failed) = (span(left_seconds), endpoint.connect_failures);
            let failed = match failed {
                0 => String::new(),
                count => format!(" (connects that failed: {count})"),
            };
            let what = format!("is left out for {left} more, after failures in a row{failed}");
            Some((Error, what))
        }
        EndpointState::Down => Some((Error, "is left out until it passes its checks".to_owned())),
    }
}

/// Those of PHP-FPM that do not tell how they fare, and those that have fewer processes than they are given requests.
fn pools(name: &str, route: &RouteStatus, audience: Audience) -> Vec<Trouble> {
    let fastcgi = route.fastcgi.iter();
    let all = fastcgi.flat_map(|fastcgi| &fastcgi.fpm);
    let mut texts = all.filter_map(|pool| {
        let what = pool_trouble(pool, audience)?;
        let address = word(&pool.address);
        Some(format!("PHP-FPM at {address} for route {name}{what}"))
    });
    let told: Vec<_> = texts.by_ref().take(POOLS_TOLD_MAX).collect();
    let more = match texts.count() {
        0 => None,
        count => Some(format!(
            "and {count} more pools of PHP-FPM for route {name}"
        )),
    };
    // Requests may be served all the same: whether they are, endpoints and queue tell.
    let warn = |text| Trouble::new(Warn, text);
    told.into_iter().chain(more).map(warn).collect()
}

/// What was said instead of an answer is not for everybody.
fn pool_trouble(pool: &FpmStatus, audience: Audience) -> Option<String> {
    let is_trusted = audience == Audience::Trusted;
    let shown = |text: &String| Shown::line(text.as_bytes(), REASON_CHARS_MAX).to_string();
    let error = pool.error.as_ref();
    if let Some(error) = error {
        let silent = match pool.age_seconds {
            Some(age) => format!(" does not tell how its pool fares for {}", span(age)),
            None => " does not tell how its pool fares".to_owned(),
        };
        let why = is_trusted.then(|| format!(": {}", shown(error)));
        return Some(silent + &why.unwrap_or_default());
    }
    let warning = pool.warning.as_ref().filter(|_| is_trusted)?;
    Some(format!(": {}", shown(warning)))
}

fn word(text: &str) -> String {
    Shown::line(text.as_bytes(), WORD_CHARS_MAX).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::status::samples;
    use super::*;

    fn busy() -> RouteStatus {
        samples::busy().routes.remove(0)
    }

    /// Nothing is wrong with it.
    fn quiet() -> RouteStatus {
        let mut route = busy();
        route.endpoints.truncate(1);
        route.endpoints[0].drained = false;
        route.lookups.failing_seconds = None;
        route.pause_left_seconds = None;
        route.queue.depth = 0;
        route.queue.oldest_wait_seconds = None;
        route.fastcgi.as_mut().unwrap().fpm.clear();
        route
    }

    fn at_work(seconds: u64) -> AtWork {
        AtWork {
            age: Duration::from_secs(seconds),
            endpoint: Some("192.0.2.1:9000".to_owned()),
            words: Some(["GET".to_owned(), "/report.php\u{202e}\n".to_owned()]),
        }
    }

    fn texts(route: &RouteStatus, at_work: Option<&AtWork>) -> Vec<(TroubleLevel, String)> {
        let found = of_route(route, at_work, Audience::Trusted);
        found.into_iter().map(|it| (it.level, it.text)).collect()
    }

    #[test]
    fn where_nothing_is_wrong_nothing_is_told() {
        assert_eq!(texts(&quiet(), None), []);
        assert_eq!(texts(&quiet(), Some(&at_work(9))), []);
        let mut down = quiet();
        down.is_down = true;
        assert!(
            texts(&down, None)[0]
                .1
                .contains("clients are sent away at once")
        );
        let mut status = samples::busy();
        status.config.last_reload_done = true;
        assert_eq!(of_daemon(&status, None), []);
    }

    #[test]
    fn a_queue_says_which_places_are_taken_and_what_runs_there() {
        let mut route = quiet();
        route.queue.depth = 37;
        route.queue.oldest_wait_seconds = Some(12.0);
        let start = "route php: 8 of 8 places are taken at 192.0.2.1:9000; 37 of 64 wait, the first for 12s; ";
        let runs = "the oldest request has run for 31s at 192.0.2.1:9000";
        let words = ": GET /report.php\\u{202e}\\x0a";
        let expected = (Error, format!("{start}{runs}{words}"));
        assert_eq!(texts(&route, Some(&at_work(31))), [expected]);
        // Nothing that a client has sent is for everybody.
        let public = of_route(&route, Some(&at_work(31)), Audience::Everybody);
        assert_eq!(public[0].text, format!("{start}{runs}"));
        // Whoever waits for a moment is in order.
        route.queue.oldest_wait_seconds = Some(0.5);
        assert_eq!(texts(&route, None), []);
        route.queue.depth = 64;
        let full = texts(&route, None);
        assert!(
            full[0]
                .1
                .ends_with("the queue is full, and further clients are sent away"),
            "{full:?}"
        );
    }

    #[test]
    fn a_request_that_runs_for_long_is_told_where_nobody_waits() {
        let told = texts(&quiet(), Some(&at_work(10)));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].0, Warn);
        assert!(
            told[0]
                .1
                .starts_with("route php: the oldest request has run for 10s at "),
            "{told:?}"
        );
    }

    #[test]
    fn endpoints_are_told_of_by_their_states() {
        let told: Vec<_> = texts(&busy(), None)
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        for expected in [
            "endpoint 192.0.2.1:9000 of route php is drained by hand",
            "endpoint 192.0.2.2:9000 of route php is left out for 12.5s more, after failures in a row (connects that failed: 3)",
            "endpoint 192.0.2.3:9000 of route php is left out until it passes its checks",
            "endpoint 192.0.2.5:9000 of route php cannot be reached for 2.5s",
            "route php: none of 4 endpoints answers",
            "route php is paused by hand for 42.5s more: what comes waits",
        ] {
            assert!(
                told.iter().any(|text| text == expected),
                "no {expected:?} in {told:#?}"
            );
        }
        let mut route = busy();
        let down = route.endpoints[2].clone();
        route.endpoints = vec![down; 1000];
        let told = endpoints("php", &route);
        assert_eq!(told.len(), ENDPOINTS_MAX + 1);
        assert_eq!(
            told[ENDPOINTS_MAX].text,
            "and 995 more endpoints of route php"
        );
        route.endpoints.clear();
        assert_eq!(reach("php", &route).unwrap().level, Error);
    }

    #[test]
    fn pools_that_are_down_are_told_of_and_so_is_what_does_not_fit() {
        let [one, other] = super::super::super::fpm::samples().try_into().unwrap();
        let mut route = quiet();
        let pools = |route: &mut RouteStatus, pools: &[&FpmStatus]| {
            route.fastcgi.as_mut().unwrap().fpm = pools.iter().copied().cloned().collect();
        };
        pools(&mut route, &[&one, &other]);
        let down =
            "PHP-FPM at 192.0.2.2:9001 for route php does not tell how its pool fares for 1m1s";
        let expected = [
            "PHP-FPM at 192.0.2.1:9001 for route php: pm.max_children is 4".to_owned(),
            format!("{down}: it closed"),
        ];
        assert_eq!(texts(&route, None), expected.map(|text| (Warn, text)));
        // Nothing that somebody else has said is for everybody.
        let public = of_route(&route, None, Audience::Everybody);
        let public: Vec<_> = public.into_iter().map(|it| it.text).collect();
        assert_eq!(public, [down]);
        // Whoever has not been asked is not in trouble.
        let unasked = FpmStatus {
            error: None,
            age_seconds: None,
            ..other.clone()
        };
        pools(&mut route, &[&unasked]);
        assert_eq!(texts(&route, None), []);
        pools(&mut route, &[&other; 8]);
        let told = texts(&route, None);
        assert_eq!(told.len(), POOLS_TOLD_MAX + 1);
        let last = (Warn, "and 5 more pools of PHP-FPM for route php".to_owned());
        assert_eq!(told[POOLS_TOLD_MAX], last);
    }

    #[test]
    fn names_that_do_not_resolve_are_told_with_what_is_used() {
        let mut route = quiet();
        route.lookups.failing_seconds = Some(95.0);
        route.answer_age_seconds = Some(100.0);
        let text = "names of route php have not been resolved for 1m35s: the addresses of before are still used, from \
                    an answer that is 1m40s old";
        assert_eq!(texts(&route, None), [(Warn, text.to_owned())]);
        route.answer_age_seconds = None;
        assert_eq!(texts(&route, None)[0].0, Error);
    }

    #[test]
    fn the_daemon_is_told_of_as_a_whole() {
        let mut status = samples::busy();
        status.state = DaemonState::Draining;
        status.sessions_max = 9;
        status.routes[0].sessions_active = 7;
        status.socket_files_missing = 1;
        let looked = Slowest {
            silent_workers: vec![1],
            ..Slowest::default()
        };
        let told: Vec<_> = of_daemon(&status, Some(&looked))
            .into_iter()
            .map(|it| it.text)
            .collect();
        assert_eq!(told.len(), 5, "{told:#?}");
        for (text, part) in told.iter().zip([
            "finishes what runs",
            "worker 1 does not turn",
            "files are missing: 1",
            "9 of 9 sessions",
            "reload was refused",
        ]) {
            assert!(text.contains(part), "{told:#?}");
        }
    }
}
