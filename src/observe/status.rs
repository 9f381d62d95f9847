//! The daemon's figures at one moment: what `spliceway status --json` prints and the control socket
//! answers to `GET /status`.
//!
//! This is a format that other programs read. Fields may be added; a field that changes its meaning
//! or goes makes another [`Status::SCHEMA`]. Counts grow from the daemon's start on; times are in
//! seconds; what is unknown or not configured is `null`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::counters::{BOUNDS, Buckets};

use super::classes::ClassStatus;
use super::events::EventStatus;
use super::fpm::FpmStatus;

/// All figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// `spliceway`: who asks can tell that no other program answers.
    pub program: String,
    /// The number of this format: 1.
    pub schema: u32,
    /// The program's version.
    pub version: String,
    /// `io_uring` or `epoll`.
    pub engine: String,
    /// The process.
    pub pid: u32,
    /// When it started, since 1970.
    pub started_at_seconds: f64,
    /// How long ago that is, by a clock that nobody sets.
    pub uptime_seconds: f64,
    /// Whether it takes new clients.
    pub state: DaemonState,
    /// For how long it has taken no new clients, if it drains. An older daemon does not say.
    #[serde(default)]
    pub draining_seconds: Option<f64>,
    /// What it is configured by. An older daemon does not say.
    #[serde(default)]
    pub config: ConfigStatus,
    /// The most sessions at one time, over all routes (`--connections-max`).
    pub sessions_max: u64,
    /// Lines of the log that were lost because nobody read them in time.
    pub log_lines_dropped: u64,
    /// Sockets whose files were removed or replaced, and which cannot be bound again: nobody can connect.
    #[serde(default)]
    pub socket_files_missing: u64,
    /// Writes to access logs that failed.
    pub access_log_write_errors: u64,
    /// How often accepting paused.
    pub accept_pauses: AcceptPauses,
    /// By their number.
    pub workers: Vec<WorkerStatus>,
    /// As configured.
    pub routes: Vec<RouteStatus>,
    /// Those that a reload has taken out, while they have sessions. A version before reloads has none.
    #[serde(default)]
    pub retired_routes: Vec<RetiredRouteStatus>,
    /// The last things that happened, the oldest first. An older daemon does not say.
    #[serde(default)]
    pub events: Vec<EventStatus>,
}

/// A route that is not served any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetiredRouteStatus {
    /// What it was called.
    pub name: String,
    /// How many it has still.
    pub sessions_active: u64,
}

impl Status {
    /// What [`Status::program`] is.
    pub(crate) const PROGRAM: &str = "spliceway";

    /// What [`Status::schema`] is.
    pub(crate) const SCHEMA: u32 = 1;
}

/// Whether the daemon takes new clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DaemonState {
    /// It does.
    Serving,
    /// It finishes what runs, and ends.
    Draining,
}

/// The configuration in use, and how reloads of it ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConfigStatus {
    /// Of the configuration in use, as `spliceway check` prints it: the first 16 hexadecimal digits of the SHA-256 of
    /// all settings.
    pub hash: String,
    /// Reloads that took the configuration over.
    pub reloads_done: u64,
    /// Reloads that changed nothing, because something was wrong.
    pub reloads_refused: u64,
    /// Whether the last one took it over; `true` before the first.
    pub last_reload_done: bool,
    /// When one last did, since 1970; before the first, when the daemon started.
    pub last_success_at_seconds: f64,
}

/// How often workers paused in accepting clients, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AcceptPauses {
    /// No descriptors or memory were left.
    pub no_descriptors: u64,
    /// The limit on sessions was reached.
    pub limit_reached: u64,
    /// Anything else; the log says what.
    pub other: u64,
}

/// One worker thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WorkerStatus {
    /// Turns of its loop.
    pub turns: u64,
    /// The processor time that it has used, system calls included.
    pub busy_seconds: Option<f64>,
    /// Pipes that its sessions hold.
    pub pipes_in_use: u64,
    /// Events about sockets that had been closed, which were ignored. An older daemon does not say.
    #[serde(default)]
    pub stale_events: u64,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RouteStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Where its clients come from.
    pub listeners: Vec<String>,
    /// Clients that were accepted.
    pub connections_accepted: u64,
    /// Those that are there now, waiting ones included.
    pub sessions_active: u64,
    /// Those that are not, by the reason; every reason is listed.
    pub sessions_ended: BTreeMap<String, u64>,
    /// Those that wait until an endpoint has room for them.
    pub queue: QueueStatus,
    /// From a client's acceptance, or the end of its wait, until a connection for it was open.
    pub connect_time: HistogramStatus,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// What clients sent.
    pub to_backend: FlowStatus,
    /// What backends sent.
    pub to_client: FlowStatus,
    /// Its requests, with `--protocol fastcgi`.
    pub fastcgi: Option<FastcgiStatus>,
    /// Lookups of its names.
    pub lookups: LookupStatus,
    /// How often its addresses changed.
    pub set_version: u64,
    /// Since when they have been what they are.
    pub set_age_seconds: Option<f64>,
    /// How long ago the answer came that is the oldest of those in use; `null` before the first,
    /// and without names.
    pub answer_age_seconds: Option<f64>,
    /// How often an endpoint was left out for its failures.
    pub ejections: u64,
    /// For how much longer it is paused, if it is. An older daemon does not say.
    #[serde(default)]
    pub pause_left_seconds: Option<f64>,
    /// Whether clients are sent away at once, because no endpoint takes connections (`--when-down`). An older daemon
    /// does not say.
    #[serde(default)]
    pub is_down: bool,
    /// The most connections to one endpoint (`--per-endpoint-max`).
    pub endpoint_connections_max: Option<u64>,
    /// Those of the current addresses, in their order, then those that left with connections open, or while they were
    /// drained.
    pub endpoints: Vec<EndpointStatus>,
}

/// Clients that wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct QueueStatus {
    /// How many.
    pub depth: u64,
    /// The most that may (`--queue-max`).
    pub max: Option<u64>,
    /// How long the first of them has.
    pub oldest_wait_seconds: Option<f64>,
    /// How many had to, ever.
    pub queued: u64,
    /// How long clients waited that do not wait any more, however that ended.
    pub wait: HistogramStatus,
}

/// Times by their length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HistogramStatus {
    /// How many there were.
    pub count: u64,
    /// All of them together.
    pub sum_seconds: f64,
    /// By their length, in ascending order.
    pub buckets: Vec<HistogramBucket>,
}

/// Times of about one length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HistogramBucket {
    /// The longest that belongs here; `null` for the last bucket, which has no bound.
    pub up_to_seconds: Option<f64>,
    /// How many: of this bucket alone, without those before it.
    pub count: u64,
}

impl HistogramStatus {
    pub(super) fn of(buckets: Buckets) -> Self {
        let bounds = BOUNDS.iter().map(Duration::as_secs_f64).map(Some);
        let counts = bounds.chain([None]).zip(buckets.counts);
        Self {
            count: buckets.counts.iter().sum(),
            sum_seconds: buckets.sum.as_secs_f64(),
            buckets: counts
                .map(|(up_to_seconds, count)| HistogramBucket {
                    up_to_seconds,
                    count,
                })
                .collect(),
        }
    }
}

/// One direction of all sessions. Bytes count once they are the receiving side's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlowStatus {
    /// Bytes that went through a buffer.
    pub copied_bytes: u64,
    /// Bytes that went through a pipe.
    pub spliced_bytes: u64,
    /// How often a session turned to splicing.
    pub promotions: u64,
    /// How often it would have, had there been a pipe.
    pub fallbacks: u64,
    /// How often it turned back.
    pub demotions: u64,
}

/// Requests of a FastCGI route, and the connections that serve them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FastcgiStatus {
    /// Those that are over, by the class of their status; `none` had no answer.
    pub requests: BTreeMap<String, u64>,
    /// From a request's head until its end, the client's own slowness included. An older daemon says
    /// nothing of it.
    #[serde(default)]
    pub request_time: HistogramStatus,
    /// How long each waited for places at endpoints (0 for most). This and the next two: an older daemon says nothing
    /// of it.
    #[serde(default)]
    pub wait_time: HistogramStatus,
    /// How long those that were given a connection looked for it, without those waits.
    #[serde(default)]
    pub connect_time: HistogramStatus,
    /// From the heads of those that were answered until the first bytes of their answers.
    #[serde(default)]
    pub first_byte_time: HistogramStatus,
    /// Those that took longer than `--slow-after`, where there is a slow log. This and the next two: an older daemon
    /// says nothing of it.
    #[serde(default)]
    pub slow_requests: u64,
    /// Lines that the slow log had no room for.
    #[serde(default)]
    pub slow_log_lines_dropped: u64,
    /// Lines of the slow log that were left out, because there were too many.
    #[serde(default)]
    pub slow_log_lines_left_out: u64,
    /// Those that were given a new connection.
    pub requests_on_new: u64,
    /// Those that were given one that had served others.
    pub requests_on_reused: u64,
    /// Those that were sent a second time, because nothing of them had arrived.
    pub retries: u64,
    /// Connections to backends.
    pub upstreams: UpstreamsStatus,
    /// From the end of an answer until its connection was ready for the next request.
    pub settle_time: HistogramStatus,
    /// Endpoints whose connections serve one request each.
    pub doubtful_endpoints: u64,
    /// Requests that the guard rejected, by its rule; every rule is listed.
    pub guard_rejections: BTreeMap<String, u64>,
    /// Requests in which a parameter came with different values, by its name; every name is listed that the
    /// guard takes one copy of. An older daemon says nothing of them.
    #[serde(default)]
    pub overridden_params: BTreeMap<String, u64>,
    /// Requests that were ended for what the client sent, by cause; every cause is listed. An older daemon
    /// says nothing of them.
    #[serde(default)]
    pub protocol_errors: BTreeMap<String, u64>,
    /// Answers that no backend gave, by their status.
    pub answers_of_our_own: BTreeMap<String, u64>,
    /// Lines that the access log had no room for.
    pub access_log_lines_dropped: u64,
    /// Lines of the access log that were left out, because too many requests reached no backend. An older
    /// daemon says nothing of them.
    #[serde(default)]
    pub access_log_lines_left_out: u64,
    /// What PHP-FPM says of its pools (`--fpm-status`). An older daemon does not ask.
    #[serde(default)]
    pub fpm: Vec<FpmStatus>,
    /// Its classes, the default one first, if it has any. An older daemon has none.
    #[serde(default)]
    pub classes: Vec<ClassStatus>,
}

/// Connections to backends, by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpstreamsStatus {
    /// They have a request, or are being made or closed.
    pub busy: u64,
    /// Their request is over; the backend has yet to say that it is ready.
    pub settling: u64,
    /// The next request may have them.
    pub resting: u64,
}

/// Lookups, by how they ended. One is for the addresses of one family of one name, or its services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LookupStatus {
    /// Records came.
    pub answers: u64,
    /// Name servers said that there are none.
    pub denials: u64,
    /// Nobody answered, or not usefully.
    pub failures: u64,
    /// For how long a name has not resolved, if one does not. An older daemon does not say.
    #[serde(default)]
    pub failing_seconds: Option<f64>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndpointStatus {
    /// Where it is.
    pub address: String,
    /// Whether sessions go there.
    #[serde(flatten)]
    pub state: EndpointState,
    /// It gets nothing new because an operator wants it so. An older daemon does not say.
    #[serde(default)]
    pub drained: bool,
    /// Its part of what is new, compared with others. An older daemon says 0.
    #[serde(default)]
    pub weight: u64,
    /// That is an operator's, and not from the configuration or DNS.
    #[serde(default)]
    pub weight_by_hand: bool,
    /// Connections there: open ones, and those that are being made.
    pub connections: u64,
    /// The most of them, where that is found out (`--per-endpoint-max auto`): as it is now. An older daemon does not say.
    #[serde(default)]
    pub connections_limit: Option<u64>,
    /// Connections that came to be open.
    pub connects: u64,
    /// Attempts that failed.
    pub connect_failures: u64,
    /// Failures since it last answered.
    pub failures_in_a_row: u64,
}

/// Whether sessions go to an endpoint: its field `state`, and what belongs to that.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum EndpointState {
    /// They do.
    Ok,
    /// They do, and connects to it fail, or active checks; it is not left out, or not yet.
    Failing {
        /// Since the first connect that failed.
        failing_seconds: f64,
    },
    /// It is left out for its failures, unless nothing else is left.
    Ejected {
        /// For so long.
        left_seconds: f64,
    },
    /// It is left out because active checks fail, unless nothing else is left.
    Down,
    /// It is not among the addresses any more; its last sessions go on.
    Removed,
}

impl EndpointState {
    /// All names, each with its place in a table.
    pub(super) const NAMES: [&str; 5] = ["ok", "failing", "ejected", "down", "removed"];

    /// As in the field `state`.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing { .. } => "failing",
            Self::Ejected { .. } => "ejected",
            Self::Down => "down",
            Self::Removed => "removed",
        }
    }
}

/// What tests of everything that is made from a status begin with.
#[cfg(test)]
pub(crate) mod samples {
    use super::super::events::EventLevel;
    use super::*;
    use crate::counters::{Histogram, Outcome};

    fn times(micros: &[u64]) -> HistogramStatus {
        let histogram = Histogram::default();
        for micros in micros {
            histogram.record(Duration::from_micros(*micros));
        }
        HistogramStatus::of(histogram.read())
    }

    fn endpoint(last: u8, state: EndpointState, connections: u64) -> EndpointStatus {
        EndpointStatus {
            address: format!("192.0.2.{last}:9000"),
            state,
            drained: last == 1,
            weight: 1 + u64::from(last),
            weight_by_hand: last == 5,
            connections,
            connections_limit: (last == 1).then_some(8),
            connects: 100,
            connect_failures: 3,
            failures_in_a_row: 1,
        }
    }

    /// Nothing has come yet, and little is configured.
    fn idle_route() -> RouteStatus {
        let none = |outcome: Outcome| (outcome.name().to_owned(), 0);
        RouteStatus {
            name: "other".to_owned(),
            listeners: vec!["unix:@other".to_owned()],
            connections_accepted: 0,
            sessions_active: 0,
            sessions_ended: Outcome::ALL.into_iter().map(none).collect(),
            queue: QueueStatus {
                depth: 0,
                max: None,
                oldest_wait_seconds: None,
                queued: 0,
                wait: times(&[]),
            },
            connect_time: times(&[]),
            connect_failures: 0,
            to_backend: FlowStatus::default(),
            to_client: FlowStatus::default(),
            fastcgi: None,
            lookups: LookupStatus::default(),
            set_version: 0,
            set_age_seconds: None,
            answer_age_seconds: None,
            ejections: 0,
            pause_left_seconds: None,
            is_down: false,
            endpoint_connections_max: None,
            endpoints: Vec::new(),
        }
    }

    fn fastcgi() -> FastcgiStatus {
        let counts = |counts: &[(&str, u64)]| {
            let owned = counts.iter().map(|(name, n)| ((*name).to_owned(), *n));
            owned.collect()
        };
        FastcgiStatus {
            requests: counts(&[("none", 2), ("2xx", 90), ("4xx", 7), ("5xx", 1)]),
            request_time: times(&[4_000, 9_000, 30_000]),
            wait_time: times(&[0, 0, 1_500_000]),
            connect_time: times(&[0, 0, 400]),
            first_byte_time: times(&[3_000, 9_000]),
            slow_requests: 8,
            slow_log_lines_dropped: 5,
            slow_log_lines_left_out: 7,
            requests_on_new: 20,
            requests_on_reused: 80,
            retries: 1,
            upstreams: UpstreamsStatus {
                busy: 5,
                settling: 1,
                resting: 3,
            },
            settle_time: times(&[30, 300]),
            doubtful_endpoints: 1,
            guard_rejections: counts(&[("php_value", 4), ("nul", 0)]),
            overridden_params: counts(&[("HTTPS", 12)]),
            protocol_errors: counts(&[("params_too_long", 2), ("version", 0)]),
            answers_of_our_own: counts(&[("403", 4), ("431", 2), ("502", 0), ("503", 1)]),
            access_log_lines_dropped: 6,
            access_log_lines_left_out: 9,
            fpm: super::super::fpm::samples(),
            classes: super::super::classes::samples(),
        }
    }

    fn busy_route() -> RouteStatus {
        let mut route = idle_route();
        route.name = "php".to_owned();
        route.listeners = vec!["unix:/run/php.sock".to_owned()];
        route.connections_accepted = 113;
        route.sessions_active = 9;
        route.sessions_ended.insert("complete".to_owned(), 100);
        route.sessions_ended.insert("connect_refused".to_owned(), 4);
        route.queue = QueueStatus {
            depth: 1,
            max: Some(64),
            oldest_wait_seconds: Some(1.5),
            queued: 12,
            wait: times(&[900, 30_000_000]),
        };
        route.connect_time = times(&[40, 300, 400, 600, 2_000_000]);
        route.connect_failures = 6;
        route.to_backend.copied_bytes = 5_000;
        route.to_client = FlowStatus {
            copied_bytes: 70_000,
            spliced_bytes: 4_000_000,
            promotions: 3,
            fallbacks: 1,
            demotions: 2,
        };
        route.fastcgi = Some(fastcgi());
        route.lookups = LookupStatus {
            answers: 5,
            denials: 2,
            failures: 1,
            failing_seconds: Some(95.0),
        };
        route.set_version = 7;
        route.set_age_seconds = Some(7_260.0);
        route.answer_age_seconds = Some(4.25);
        route.ejections = 2;
        route.pause_left_seconds = Some(42.5);
        route.endpoint_connections_max = Some(8);
        route.endpoints = vec![
            endpoint(1, EndpointState::Ok, 8),
            endpoint(2, EndpointState::Ejected { left_seconds: 12.5 }, 0),
            endpoint(3, EndpointState::Down, 0),
            endpoint(4, EndpointState::Removed, 1),
            endpoint(
                5,
                EndpointState::Failing {
                    failing_seconds: 2.5,
                },
                0,
            ),
        ];
        route
    }

    /// Two workers and two routes, of which one has seen everything.
    pub(crate) fn busy() -> Status {
        let worker = |turns, busy| WorkerStatus {
            turns,
            busy_seconds: Some(busy),
            pipes_in_use: 1,
            stale_events: 2,
        };
        Status {
            program: Status::PROGRAM.to_owned(),
            schema: Status::SCHEMA,
            version: "1.2.3".to_owned(),
            engine: "io_uring".to_owned(),
            pid: 4711,
            started_at_seconds: 1.75e9,
            uptime_seconds: 11_520.0,
            state: DaemonState::Serving,
            draining_seconds: None,
            config: ConfigStatus {
                hash: "0123456789abcdef".to_owned(),
                reloads_done: 3,
                reloads_refused: 2,
                last_reload_done: false,
                last_success_at_seconds: 1.75e9 + 60.0,
            },
            sessions_max: 8192,
            log_lines_dropped: 0,
            socket_files_missing: 0,
            access_log_write_errors: 0,
            accept_pauses: AcceptPauses {
                no_descriptors: 1,
                limit_reached: 2,
                other: 0,
            },
            workers: vec![worker(10_000, 3.5), worker(20_000, 7.25)],
            routes: vec![busy_route(), idle_route()],
            retired_routes: vec![RetiredRouteStatus {
                name: "old".to_owned(),
                sessions_active: 2,
            }],
            events: vec![EventStatus {
                at_seconds: 1.75e9 + 30.0,
                level: EventLevel::Warn,
                message: "endpoint left out".to_owned(),
                fields: BTreeMap::from([("route".to_owned(), "busy".to_owned())]),
                times: 2,
                names_no_client: false,
            }],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_status_is_the_same_after_a_journey_as_json() {
        let status = samples::busy();
        let json = serde_json::to_string(&status).unwrap();
        let back: Status = serde_json::from_str(&json).unwrap();
        assert_eq!(back, status);
    }

    #[test]
    fn an_endpoint_says_its_state_and_how_long_it_lasts() {
        let status = samples::busy();
        let endpoint = serde_json::to_value(&status.routes[0].endpoints[1]).unwrap();
        assert_eq!(endpoint["state"], "ejected");
        assert_eq!(endpoint["left_seconds"], 12.5);
        assert_eq!(endpoint["address"], "192.0.2.2:9000");
    }

    #[test]
    fn what_a_newer_daemon_says_besides_does_no_harm() {
        let mut json = serde_json::to_value(samples::busy()).unwrap();
        json["news"] = 1.into();
        json["routes"][0]["news"] = 1.into();
        json["routes"][0]["endpoints"][0]["news"] = 1.into();
        assert_eq!(
            serde_json::from_value::<Status>(json).unwrap(),
            samples::busy()
        );
    }

    /// The names of all fields, without the keys of maps.
    fn fields(value: &serde_json::Value, found: &mut BTreeSet<String>) {
        const MAPS: [&str; 7] = [
            "sessions_ended",
            "failed",
            "requests",
            "guard_rejections",
            "overridden_params",
            "protocol_errors",
            "answers_of_our_own",
        ];
        match value {
            serde_json::Value::Object(object) => {
                for (name, value) in object {
                    found.insert(name.clone());
                    if !MAPS.contains(&&**name) {
                        fields(value, found);
                    }
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|v| fields(v, found)),
            _ => {}
        }
    }

    #[test]
    fn the_readme_lists_the_fields_that_there_are() {
        let mut there = BTreeSet::new();
        fields(&serde_json::to_value(samples::busy()).unwrap(), &mut there);
        let readme = include_str!("../../README.md");
        let (_, list) = readme.split_once("The fields of the JSON").unwrap();
        let (list, _) = list.split_once("</details>").unwrap();
        // What stands between backticks is every second piece.
        let words = list.split('`').skip(1).step_by(2);
        let words = words.map(|word| word.trim_end_matches("[]"));
        let is_value = |word: &str| {
            let values = [Status::PROGRAM, "serving", "draining", "null"];
            values.contains(&word)
                || EndpointState::NAMES.contains(&word)
                || word.starts_with("--")
                || word.starts_with("spliceway_")
        };
        let listed: BTreeSet<_> = words.filter(|w| !is_value(w)).map(str::to_owned).collect();
        assert_eq!(listed, there);
    }
}
