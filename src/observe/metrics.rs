//! The figures as Prometheus reads them: OpenMetrics text.
//!
//! Its `catalogue!` is the list of all metrics, and the README has the same list. Labels have few values:
//! routes and workers as configured, words of this program, and the addresses of endpoints, which the
//! address set bounds.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::status::{
    DaemonState, EndpointState, EndpointStatus, FastcgiStatus, FlowStatus, HistogramStatus,
    RouteStatus, Status,
};

/// What a metric's numbers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// They only grow, until the daemon starts again.
    Counter,
    /// They go up and down.
    Gauge,
    /// Times by their length.
    Histogram,
}

impl From<MetricKind> for MetricType {
    fn from(kind: MetricKind) -> Self {
        match kind {
            MetricKind::Counter => Self::Counter,
            MetricKind::Gauge => Self::Gauge,
            MetricKind::Histogram => Self::Histogram,
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub(super) struct Described {
    /// Its whole name, without what its kind appends (`_total`, `_bucket` and so on).
    pub name: &'static str,
    /// What its numbers are.
    pub kind: MetricKind,
    /// What tells its series apart.
    pub labels: &'static [&'static str],
    /// What an operator learns from it.
    pub help: &'static str,
}

/// Makes a constant for each metric, and the list of all of them.
macro_rules! catalogue {
    ($($constant:ident = $kind:ident $name:literal $labels:tt $help:literal;)+) => {
        $(const $constant: Described = Described {
            name: $name,
            kind: MetricKind::$kind,
            labels: &$labels,
            help: $help,
        };)+

        /// Every metric, in the order of the text: what the README and the text are compared with.
        #[cfg(test)]
        pub(super) const CATALOGUE: &[Described] = &[$($constant),+];
    };
}

mod classes;
mod fpm;

catalogue! {
    BUILD_INFO = Gauge "spliceway_build_info" ["version", "engine"]
        "Always 1: which version runs, and whether by io_uring or epoll";
    START_TIME = Gauge "spliceway_process_start_time_seconds" []
        "When the daemon started, in seconds since 1970: a change is a restart";
    DRAINING = Gauge "spliceway_draining" []
        "1 while the daemon finishes what runs and takes no new clients";
    CONFIG_INFO = Gauge "spliceway_config_info" ["hash"]
        "Always 1: which configuration is in use, by its hash, which 'spliceway check' prints for a file";
    CONFIG_RELOADS = Counter "spliceway_config_reloads" ["result"]
        "Reloads of the configuration: done, or refused because of a mistake, without a change";
    CONFIG_LAST_RELOAD_DONE = Gauge "spliceway_config_last_reload_done" []
        "1 if the last reload was done, 0 if it was refused; 1 before the first";
    CONFIG_LAST_SUCCESS = Gauge "spliceway_config_last_reload_success_timestamp_seconds" []
        "When a configuration was last taken over, by a reload or at the start, in seconds since 1970";
    SOCKET_FILES_MISSING = Gauge "spliceway_socket_files_missing" []
        "Sockets whose files were removed or replaced and which cannot be bound again, so that nobody can connect: the log says why";
    SESSIONS_MAX = Gauge "spliceway_sessions_max" []
        "The most sessions at one time (--connections-max): at this number clients wait to be accepted";
    ACCEPT_PAUSES = Counter "spliceway_accept_pauses" ["reason"]
        "Pauses in accepting clients: raise the limit that the reason names";
    LOG_LINES_DROPPED = Counter "spliceway_log_lines_dropped" []
        "Lines of the log that were lost because nobody read them in time";
    ACCESS_LOG_WRITE_ERRORS = Counter "spliceway_access_log_write_errors" []
        "Writes to access logs that failed: their lines are lost";
    WORKER_TURNS = Counter "spliceway_worker_turns" ["worker"]
        "Turns of a worker's loop: an idle worker makes none";
    STALE_EVENTS = Counter "spliceway_stale_events" ["worker"]
        "Events of the kernel about sockets that a worker had closed, which it ignored: a few are usual";
    WORKER_BUSY = Counter "spliceway_worker_busy_seconds" ["worker"]
        "Processor time that a worker has used: near 1 per second, it is at its limit";
    WORKER_PIPES = Gauge "spliceway_worker_pipes_in_use" ["worker"]
        "Pipes that hold bytes which a slow reader has yet to take";
    ACCEPTED = Counter "spliceway_connections_accepted" ["route"]
        "Clients that were accepted";
    ENDED = Counter "spliceway_sessions_ended" ["route", "reason"]
        "Sessions that are over, by how they came to their end";
    ACTIVE = Gauge "spliceway_sessions_active" ["route"]
        "Sessions that are there now, with clients that wait in the queue";
    QUEUE_DEPTH = Gauge "spliceway_queue_depth" ["route"]
        "Clients that wait until an endpoint has room for them";
    QUEUE_MAX = Gauge "spliceway_queue_max" ["route"]
        "The most clients that may wait (--queue-max): more are turned away";
    QUEUE_OLDEST = Gauge "spliceway_queue_oldest_wait_seconds" ["route"]
        "How long the first client in the queue has waited; 0 if none does";
    ROUTE_PAUSED = Gauge "spliceway_route_paused" ["route"]
        "1 while the route gives nothing new to its endpoints because an operator paused it";
    ROUTE_DOWN = Gauge "spliceway_route_down" ["route"]
        "1 while clients are sent away at once because no endpoint takes connections (--when-down close or refuse)";
    QUEUED = Counter "spliceway_connections_queued" ["route"]
        "Clients that had to wait until an endpoint had room for them";
    QUEUE_WAIT = Histogram "spliceway_queue_wait_seconds" ["route"]
        "How long clients waited in the queue, however their wait ended";
    CONNECT_TIME = Histogram "spliceway_connect_time_seconds" ["route"]
        "From a client's acceptance, or the end of its wait in the queue, until a connection to a \
         backend was open: failed attempts and pauses included, as fine as a worker's turns";
    CONNECT_FAILURES = Counter "spliceway_connect_failures" ["route"]
        "Attempts to connect to an endpoint that failed; the session may have reached another one";
    RELAYED = Counter "spliceway_relayed_bytes" ["route", "direction", "path"]
        "Bytes that the receiving side has taken, through a buffer (copied) or a pipe (spliced)";
    PROMOTIONS = Counter "spliceway_splice_promotions" ["route", "direction"]
        "Sessions that turned from copying to splicing, because bytes came in bulk";
    FALLBACKS = Counter "spliceway_splice_fallbacks" ["route", "direction"]
        "Sessions that would have spliced and copied instead, because every pipe was in use";
    DEMOTIONS = Counter "spliceway_splice_demotions" ["route", "direction"]
        "Sessions that turned from splicing to copying, because little came";
    REQUESTS = Counter "spliceway_fastcgi_requests" ["route", "status"]
        "Requests that are over, by the class of their status; none: without an answer";
    REQUEST_TIME = Histogram "spliceway_fastcgi_request_duration_seconds" ["route"]
        "From a request's head until its end, waits and a slow client's reading included";
    WAIT_TIME = Histogram "spliceway_fastcgi_request_wait_seconds" ["route"]
        "How long each request waited for a place at an endpoint: those that had one at once count with 0";
    SEARCH_TIME = Histogram "spliceway_fastcgi_request_connect_seconds" ["route"]
        "How long requests that were given a connection looked for it, without those waits: 0 where one rested";
    FIRST_BYTE_TIME = Histogram "spliceway_fastcgi_request_first_byte_seconds" ["route"]
        "From a request's head until the first byte of its answer, waits included";
    SLOW_REQUESTS = Counter "spliceway_fastcgi_slow_requests" ["route"]
        "Requests that took longer than --slow-after, where there is a slow log";
    REQUESTS_SENT = Counter "spliceway_fastcgi_requests_sent" ["route", "upstream"]
        "Requests that were given a connection to a backend: a new one, or one reused after others";
    RETRIES = Counter "spliceway_fastcgi_retries" ["route"]
        "Requests that were sent a second time, because the kept connection ended without an answer";
    UPSTREAMS = Gauge "spliceway_fastcgi_upstreams" ["route", "state"]
        "Connections to backends: busy with a request, settling until the backend says that it is \
         ready for the next one, resting until a request comes";
    SETTLE_TIME = Histogram "spliceway_fastcgi_settle_time_seconds" ["route"]
        "From the end of an answer until the backend said that it was ready for the next request";
    DOUBTFUL_ENDPOINTS = Gauge "spliceway_fastcgi_doubtful_endpoints" ["route"]
        "Endpoints that keep no connections or do not say when they are ready: each of their \
         connections serves one request";
    GUARD_REJECTIONS = Counter "spliceway_fastcgi_guard_rejections" ["route", "rule"]
        "Requests that the guard rejected, by the rule that they broke";
    OVERRIDDEN_PARAMS = Counter "spliceway_fastcgi_overridden_params" ["route", "param"]
        "Requests in which the web server sent this parameter with different values, of which the \
         last counts";
    PROTOCOL_ERRORS = Counter "spliceway_fastcgi_protocol_errors" ["route", "cause"]
        "Requests that were ended because the client does not speak FastCGI as it should, or sent too much";
    OWN_ANSWERS = Counter "spliceway_fastcgi_own_answers" ["route", "status"]
        "Answers that no backend gave: 403 of the guard, 431 for too many parameters, 502 without a \
         backend, 503 of the queue or without memory for large parameters, 504 of --request-timeout";
    ACCESS_LOG_LINES_DROPPED = Counter "spliceway_access_log_lines_dropped" ["route"]
        "Requests without a line in the access log, because it was not written fast enough";
    ACCESS_LOG_LINES_LEFT_OUT = Counter "spliceway_access_log_lines_left_out" ["route"]
        "Requests that reached no backend and have no line in the access log, because there were more \
         than a hundred of them in a second";
    SLOW_LOG_LINES_DROPPED = Counter "spliceway_slow_log_lines_dropped" ["route"]
        "Lines that the slow log lost, because it was not written fast enough";
    SLOW_LOG_LINES_LEFT_OUT = Counter "spliceway_slow_log_lines_left_out" ["route"]
        "Lines that the slow log left out, because there were more than a hundred of them in a second";
    LOOKUPS = Counter "spliceway_lookups" ["route", "result"]
        "Lookups of names: answer has records, denial says that there are none, failure says nothing";
    ANSWER_AGE = Gauge "spliceway_answer_age_seconds" ["route"]
        "Age of the oldest answer in use: while it grows beyond --dns-max-ttl, lookups fail; absent \
         without names";
    SET_VERSION = Gauge "spliceway_address_set_version" ["route"]
        "How often the route's addresses changed, or what operators want of them";
    EJECTIONS = Counter "spliceway_ejections" ["route"]
        "Endpoints that were left out for a while for their failures";
    ENDPOINTS = Gauge "spliceway_endpoints" ["route", "state"]
        "Endpoints by state: ok, failing (connects or checks fail) but still used, ejected for failures, down \
         by active checks, removed from the addresses but still with sessions";
    ENDPOINT_STATE = Gauge "spliceway_endpoint_state" ["route", "endpoint", "state"]
        "1 for the state that the endpoint is in, 0 for the others";
    ENDPOINT_DRAINED = Gauge "spliceway_endpoint_drained" ["route", "endpoint"]
        "1 while the endpoint gets nothing new because an operator drained it";
    ENDPOINT_WEIGHT = Gauge "spliceway_endpoint_weight" ["route", "endpoint"]
        "The endpoint's part of what is new, compared with others of its priority: by hand, from the \
         configuration or from SRV records";
    ENDPOINT_CONNECTIONS = Gauge "spliceway_endpoint_connections" ["route", "endpoint"]
        "Connections to the endpoint, those that are being made included";
    ENDPOINT_CONNECTIONS_MAX = Gauge "spliceway_endpoint_connections_max" ["route"]
        "The most connections to one endpoint (--per-endpoint-max): more clients wait";
    ENDPOINT_CONNECTIONS_LIMIT = Gauge "spliceway_endpoint_connections_limit" ["route", "endpoint"]
        "The most connections to the endpoint at this time, where that is found out (--per-endpoint-max auto)";
    ENDPOINT_CONNECTS = Counter "spliceway_endpoint_connects" ["route", "endpoint"]
        "Connections to the endpoint that came to be open";
    ENDPOINT_CONNECT_FAILURES = Counter "spliceway_endpoint_connect_failures" ["route", "endpoint"]
        "Attempts to connect to the endpoint that failed";
    ENDPOINT_FAILURES_IN_A_ROW = Gauge "spliceway_endpoint_failures_in_a_row" ["route", "endpoint"]
        "Failures of the endpoint since it last answered: at --eject-after it is left out";
}

/// What goes with the text in `Content-Type`.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of this moment.
///
/// # Errors
/// Never: a string takes all that is written to it.
pub(super) fn render(status: Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(status)));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

#[derive(Debug)]
struct Scrape(Status);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.daemon(&mut page)?;
        self.sessions(&mut page)?;
        self.connects(&mut page)?;
        self.bytes(&mut page)?;
        self.fastcgi(&mut page)?;
        self.addresses(&mut page)?;
        self.endpoints(&mut page)?;
        self.fpm(&mut page)?;
        self.classes(&mut page)
    }
}

impl Scrape {
    fn daemon(&self, page: &mut Page<'_>) -> fmt::Result {
        let status = &self.0;
        let build = [("version", &*status.version), ("engine", &*status.engine)];
        page.gauge(BUILD_INFO, [(build, 1)])?;
        page.gauge(START_TIME, [([NO_LABEL; 0], status.started_at_seconds)])?;
        let draining = u64::from(status.state == DaemonState::Draining);
        page.gauge(DRAINING, [([NO_LABEL; 0], draining)])?;
        self.config(page)?;
        page.gauge(
            SOCKET_FILES_MISSING,
            [([NO_LABEL; 0], status.socket_files_missing)],
        )?;
        page.gauge(SESSIONS_MAX, [([NO_LABEL; 0], status.sessions_max)])?;
        let pauses = &status.accept_pauses;
        let pauses = [
            ("no_descriptors", pauses.no_descriptors),
            ("limit_reached", pauses.limit_reached),
            ("other", pauses.other),
        ];
        let pauses = pauses.map(|(reason, count)| ([("reason", reason)], count));
        page.counter(ACCEPT_PAUSES, pauses)?;
        page.counter(
            LOG_LINES_DROPPED,
            [([NO_LABEL; 0], status.log_lines_dropped)],
        )?;
        page.counter(
            ACCESS_LOG_WRITE_ERRORS,
            [([NO_LABEL; 0], status.access_log_write_errors)],
        )?;
        self.workers(page)
    }

    fn config(&self, page: &mut Page<'_>) -> fmt::Result {
        let config = &self.0.config;
        page.gauge(CONFIG_INFO, [([("hash", &*config.hash)], 1)])?;
        let reloads = [
            ("done", config.reloads_done),
            ("refused", config.reloads_refused),
        ];
        let reloads = reloads.map(|(result, count)| ([("result", result)], count));
        page.counter(CONFIG_RELOADS, reloads)?;
        let last_done = u64::from(config.last_reload_done);
        page.gauge(CONFIG_LAST_RELOAD_DONE, [([NO_LABEL; 0], last_done)])?;
        page.gauge(
            CONFIG_LAST_SUCCESS,
            [([NO_LABEL; 0], config.last_success_at_seconds)],
        )
    }

    fn workers(&self, page: &mut Page<'_>) -> fmt::Result {
        let workers = || {
            let numbered = self.0.workers.iter().enumerate();
            numbered.map(|(number, worker)| ([("worker", number.to_string())], worker))
        };
        page.counter(WORKER_TURNS, workers().map(|(l, w)| (l, w.turns)))?;
        page.counter(STALE_EVENTS, workers().map(|(l, w)| (l, w.stale_events)))?;
        let busy = workers().filter_map(|(l, w)| Some((l, w.busy_seconds?)));
        page.counter(WORKER_BUSY, busy)?;
        page.gauge(WORKER_PIPES, workers().map(|(l, w)| (l, w.pipes_in_use)))
    }

    fn sessions(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter(ACCEPTED, self.each(|route| route.connections_accepted))?;
        let ended = self.0.routes.iter().flat_map(|route| {
            let labels = |reason| [("route", &*route.name), ("reason", reason)];
            let ended = route.sessions_ended.iter();
            ended.map(move |(reason, count)| (labels(&**reason), *count))
        });
        page.counter(ENDED, ended)?;
        page.gauge(ACTIVE, self.each(|route| route.sessions_active))?;
        page.gauge(QUEUE_DEPTH, self.each(|route| route.queue.depth))?;
        page.gauge(QUEUE_MAX, self.some(|route| route.queue.max))?;
        let oldest = |route: &RouteStatus| route.queue.oldest_wait_seconds.unwrap_or(0.0);
        page.gauge(QUEUE_OLDEST, self.each(oldest))?;
        let is_paused = |route: &RouteStatus| u64::from(route.pause_left_seconds.is_some());
        page.gauge(ROUTE_PAUSED, self.each(is_paused))?;
        page.gauge(ROUTE_DOWN, self.each(|route| u64::from(route.is_down)))?;
        page.counter(QUEUED, self.each(|route| route.queue.queued))?;
        page.histogram(QUEUE_WAIT, self.each(|route| &route.queue.wait))
    }

    fn connects(&self, page: &mut Page<'_>) -> fmt::Result {
        page.histogram(CONNECT_TIME, self.each(|route| &route.connect_time))?;
        page.counter(CONNECT_FAILURES, self.each(|route| route.connect_failures))
    }

    fn bytes(&self, page: &mut Page<'_>) -> fmt::Result {
        let relayed = self.flows().flat_map(|([route, direction], flow)| {
            let labels = |path| [route, direction, ("path", path)];
            [
                (labels("copied"), flow.copied_bytes),
                (labels("spliced"), flow.spliced_bytes),
            ]
        });
        page.counter(RELAYED, relayed)?;
        page.counter(
            PROMOTIONS,
            self.flows().map(|(l, flow)| (l, flow.promotions)),
        )?;
        page.counter(FALLBACKS, self.flows().map(|(l, flow)| (l, flow.fallbacks)))?;
        page.counter(DEMOTIONS, self.flows().map(|(l, flow)| (l, flow.demotions)))
    }

    fn fastcgi(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter(REQUESTS, self.by("status", |fastcgi| &fastcgi.requests))?;
        self.request_times(page)?;
        let sent = self.each_fastcgi().flat_map(|(route, fastcgi)| {
            let labels = |upstream| [route, ("upstream", upstream)];
            [
                (labels("new"), fastcgi.requests_on_new),
                (labels("reused"), fastcgi.requests_on_reused),
            ]
        });
        page.counter(REQUESTS_SENT, sent)?;
        let of_route =
            |pick: fn(&FastcgiStatus) -> u64| self.each_fastcgi().map(move |(l, f)| ([l], pick(f)));
        page.counter(RETRIES, of_route(|fastcgi| fastcgi.retries))?;
        let upstreams = self.each_fastcgi().flat_map(|(route, fastcgi)| {
            let labels = |state| [route, ("state", state)];
            let upstreams = fastcgi.upstreams;
            [
                (labels("busy"), upstreams.busy),
                (labels("settling"), upstreams.settling),
                (labels("resting"), upstreams.resting),
            ]
        });
        page.gauge(UPSTREAMS, upstreams)?;
        let settle_time = self.each_fastcgi();
        page.histogram(SETTLE_TIME, settle_time.map(|(l, f)| ([l], &f.settle_time)))?;
        page.gauge(DOUBTFUL_ENDPOINTS, of_route(|f| f.doubtful_endpoints))?;
        page.counter(GUARD_REJECTIONS, self.by("rule", |f| &f.guard_rejections))?;
        page.counter(
            OVERRIDDEN_PARAMS,
            self.by("param", |f| &f.overridden_params),
        )?;
        page.counter(PROTOCOL_ERRORS, self.by("cause", |f| &f.protocol_errors))?;
        page.counter(OWN_ANSWERS, self.by("status", |f| &f.answers_of_our_own))?;
        let dropped = of_route(|fastcgi| fastcgi.access_log_lines_dropped);
        page.counter(ACCESS_LOG_LINES_DROPPED, dropped)?;
        let left_out = of_route(|fastcgi| fastcgi.access_log_lines_left_out);
        page.counter(ACCESS_LOG_LINES_LEFT_OUT, left_out)?;
        let dropped = of_route(|fastcgi| fastcgi.slow_log_lines_dropped);
        page.counter(SLOW_LOG_LINES_DROPPED, dropped)?;
        let left_out = of_route(|fastcgi| fastcgi.slow_log_lines_left_out);
        page.counter(SLOW_LOG_LINES_LEFT_OUT, left_out)
    }

    fn request_times(&self, page: &mut Page<'_>) -> fmt::Result {
        let mut times = |metric, pick: fn(&FastcgiStatus) -> &HistogramStatus| {
            let series = self.each_fastcgi().map(|(label, f)| ([label], pick(f)));
            page.histogram(metric, series)
        };
        times(REQUEST_TIME, |fastcgi| &fastcgi.request_time)?;
        times(WAIT_TIME, |fastcgi| &fastcgi.wait_time)?;
        times(SEARCH_TIME, |fastcgi| &fastcgi.connect_time)?;
        times(FIRST_BYTE_TIME, |fastcgi| &fastcgi.first_byte_time)?;
        let slow = self.each_fastcgi();
        page.counter(SLOW_REQUESTS, slow.map(|(l, f)| ([l], f.slow_requests)))
    }

    fn addresses(&self, page: &mut Page<'_>) -> fmt::Result {
        let lookups = self.0.routes.iter().flat_map(|route| {
            let labels = |result| [("route", &*route.name), ("result", result)];
            [
                (labels("answer"), route.lookups.answers),
                (labels("denial"), route.lookups.denials),
                (labels("failure"), route.lookups.failures),
            ]
        });
        page.counter(LOOKUPS, lookups)?;
        page.gauge(ANSWER_AGE, self.some(|route| route.answer_age_seconds))?;
        page.gauge(SET_VERSION, self.each(|route| route.set_version))?;
        page.counter(EJECTIONS, self.each(|route| route.ejections))
    }

    fn endpoints(&self, page: &mut Page<'_>) -> fmt::Result {
        let by_state = self.0.routes.iter().flat_map(|route| {
            EndpointState::NAMES.map(|state| {
                let is_so = |endpoint: &&EndpointStatus| endpoint.state.name() == state;
                let count = route.endpoints.iter().filter(is_so).count();
                ([("route", &*route.name), ("state", state)], count as u64)
            })
        });
        page.gauge(ENDPOINTS, by_state)?;
        let states = self
            .each_endpoint()
            .flat_map(|([route, address], endpoint)| {
                EndpointState::NAMES.map(|state| {
                    let is_so = u64::from(endpoint.state.name() == state);
                    ([route, address, ("state", state)], is_so)
                })
            });
        page.gauge(ENDPOINT_STATE, states)?;
        let each = |pick: fn(&EndpointStatus) -> u64| {
            self.each_endpoint()
                .map(move |(labels, e)| (labels, pick(e)))
        };
        page.gauge(ENDPOINT_DRAINED, each(|e| u64::from(e.drained)))?;
        page.gauge(ENDPOINT_WEIGHT, each(|e| e.weight))?;
        page.gauge(ENDPOINT_CONNECTIONS, each(|e| e.connections))?;
        let max = self.some(|route| route.endpoint_connections_max);
        page.gauge(ENDPOINT_CONNECTIONS_MAX, max)?;
        let limits = self.each_endpoint();
        let limits = limits.filter_map(|(labels, e)| Some((labels, e.connections_limit?)));
        page.gauge(ENDPOINT_CONNECTIONS_LIMIT, limits)?;
        page.counter(ENDPOINT_CONNECTS, each(|e| e.connects))?;
        page.counter(ENDPOINT_CONNECT_FAILURES, each(|e| e.connect_failures))?;
        page.gauge(ENDPOINT_FAILURES_IN_A_ROW, each(|e| e.failures_in_a_row))
    }

    // --- series -------------------------------------------------------------------------------

    fn each<'a, T: 'a>(
        &'a self,
        pick: impl Fn(&'a RouteStatus) -> T + 'a,
    ) -> impl Iterator<Item = ([Label<'a>; 1], T)> {
        self.some(move |route| Some(pick(route)))
    }

    /// The same for what not every route has.
    fn some<'a, T: 'a>(
        &'a self,
        pick: impl Fn(&'a RouteStatus) -> Option<T> + 'a,
    ) -> impl Iterator<Item = ([Label<'a>; 1], T)> {
        let labelled =
            move |route: &'a RouteStatus| Some(([("route", &*route.name)], pick(route)?));
        self.0.routes.iter().filter_map(labelled)
    }

    fn each_fastcgi(&self) -> impl Iterator<Item = (Label<'_>, &FastcgiStatus)> {
        self.0.routes.iter().filter_map(|route| {
            let label = ("route", &*route.name);
            Some((label, route.fastcgi.as_ref()?))
        })
    }

    /// Counts that a label tells apart.
    fn by<'a>(
        &'a self,
        label: &'static str,
        pick: fn(&FastcgiStatus) -> &BTreeMap<String, u64>,
    ) -> impl Iterator<Item = ([Label<'a>; 2], u64)> {
        self.each_fastcgi().flat_map(move |(route, fastcgi)| {
            let counts = pick(fastcgi).iter();
            counts.map(move |(value, count)| ([route, (label, &**value)], *count))
        })
    }

    fn flows(&self) -> impl Iterator<Item = ([Label<'_>; 2], &FlowStatus)> {
        self.0.routes.iter().flat_map(|route| {
            let labels = |direction| [("route", &*route.name), ("direction", direction)];
            [
                (labels("to_backend"), &route.to_backend),
                (labels("to_client"), &route.to_client),
            ]
        })
    }

    fn each_endpoint(&self) -> impl Iterator<Item = ([Label<'_>; 2], &EndpointStatus)> {
        self.0.routes.iter().flat_map(|route| {
            let labels = |address| [("route", &*route.name), ("endpoint", address)];
            let endpoints = route.endpoints.iter();
            endpoints.map(move |endpoint| (labels(&*endpoint.address), endpoint))
        })
    }
}

type Label<'a> = (&'a str, &'a str);

const NO_LABEL: Label<'static> = ("", "");

/// The text as it grows.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter<L: EncodeLabelSet, N: Number>(
        &mut self,
        metric: Described,
        series: impl IntoIterator<Item = (L, N)>,
    ) -> fmt::Result {
        assert_eq!(metric.kind, MetricKind::Counter, "{}", metric.name);
        self.family(metric, series, |mut encoder, value| {
            value.write_counter(&mut encoder)
        })
    }

    fn gauge<L: EncodeLabelSet, N: Number>(
        &mut self,
        metric: Described,
        series: impl IntoIterator<Item = (L, N)>,
    ) -> fmt::Result {
        assert_eq!(metric.kind, MetricKind::Gauge, "{}", metric.name);
        self.family(metric, series, |mut encoder, value| {
            value.write_gauge(&mut encoder)
        })
    }

    fn histogram<'a, L: EncodeLabelSet>(
        &mut self,
        metric: Described,
        series: impl IntoIterator<Item = (L, &'a HistogramStatus)>,
    ) -> fmt::Result {
        assert_eq!(metric.kind, MetricKind::Histogram, "{}", metric.name);
        self.family(metric, series, |mut encoder, times| {
            let bucket = |bucket: &super::HistogramBucket| {
                (bucket.up_to_seconds.unwrap_or(f64::INFINITY), bucket.count)
            };
            let buckets: Vec<_> = times.buckets.iter().map(bucket).collect();
            encoder.encode_histogram::<[Label<'_>; 0]>(
                times.sum_seconds,
                times.count,
                &buckets,
                None,
            )
        })
    }

    fn family<L: EncodeLabelSet, T>(
        &mut self,
        metric: Described,
        series: impl IntoIterator<Item = (L, T)>,
        encode: impl Fn(MetricEncoder<'_>, T) -> fmt::Result,
    ) -> fmt::Result {
        // The encoder appends the unit to the name, and writes it down as such.
        let units = [Unit::Seconds, Unit::Bytes];
        let split = units.iter().find_map(|unit| {
            let name = metric.name.strip_suffix(unit.as_str())?;
            Some((name.strip_suffix('_')?, Some(unit)))
        });
        let (name, unit) = split.unwrap_or((metric.name, None));
        // The encoder ends the sentence.
        let mut family = self
            .0
            .encode_descriptor(name, metric.help, unit, metric.kind.into())?;
        let mut series = series.into_iter();
        if metric.labels.is_empty() {
            // Within a family, it would be written with empty braces.
            let only = series.next();
            return only.map_or(Ok(()), |(_, value)| encode(family, value));
        }
        for (labels, value) in series {
            encode(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

/// What a series can have as its value.
trait Number {
    fn write_counter(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result;
    fn write_gauge(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result;
}

impl Number for u64 {
    fn write_counter(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<[Label<'_>; 0], _, f64>(&self, None)
    }

    fn write_gauge(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self)
    }
}

impl Number for f64 {
    fn write_counter(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<[Label<'_>; 0], _, Self>(&self, None)
    }

    fn write_gauge(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::observe::status::samples;

    /// In the order of the text.
    fn catalogue() -> impl Iterator<Item = &'static Described> {
        let all = CATALOGUE.iter().chain(fpm::CATALOGUE);
        all.chain(classes::CATALOGUE)
    }

    fn page() -> String {
        render(samples::busy()).unwrap()
    }

    #[track_caller]
    fn assert_has(page: &str, line: &str) {
        assert!(page.lines().any(|l| l == line), "no {line:?} in\n{page}");
    }

    #[test]
    fn each_metric_of_the_catalogue_is_there_with_its_kind_and_nothing_else_is() {
        let page = page();
        let types: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        let expected: Vec<_> = catalogue()
            .map(|metric| {
                format!(
                    "{} {}",
                    metric.name,
                    format!("{:?}", metric.kind).to_lowercase()
                )
            })
            .collect();
        assert_eq!(types, expected);
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn series_have_the_labels_that_the_catalogue_says() {
        let page = page();
        for metric in catalogue() {
            let suffix = match metric.kind {
                MetricKind::Counter => "_total",
                MetricKind::Gauge => "",
                MetricKind::Histogram => "_sum",
            };
            let start = format!("{}{suffix}", metric.name);
            let is_its = |line: &&str| {
                line.strip_prefix(&start)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            };
            assert!(page.lines().any(|l| is_its(&l)), "no {start} in\n{page}");
            for line in page.lines().filter(is_its) {
                let labels = line.split_once('{').map_or("", |(_, rest)| rest);
                let names: Vec<_> = labels
                    .split("\",")
                    .filter_map(|label| label.split_once("=\""))
                    .map(|(name, _)| name)
                    .collect();
                assert_eq!(names, metric.labels, "{line}");
            }
        }
    }

    #[test]
    fn the_readme_has_the_catalogue_as_its_table() {
        let readme = include_str!("../../README.md");
        let listed = readme.lines().filter(|l| l.starts_with("| `spliceway_"));
        let row = |metric: &Described| {
            let suffix = match metric.kind {
                MetricKind::Counter => "_total",
                MetricKind::Gauge | MetricKind::Histogram => "",
            };
            let labels: Vec<_> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
            format!(
                "| `{}{suffix}` | {} | {} | {} |",
                metric.name,
                format!("{:?}", metric.kind).to_lowercase(),
                labels.join(", "),
                metric.help
            )
        };
        let expected: Vec<_> = catalogue().map(row).collect();
        assert_eq!(listed.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn no_series_is_there_twice() {
        let page = page();
        let mut seen = HashSet::new();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (series, _) = line.rsplit_once(' ').unwrap();
            assert!(seen.insert(series), "{series}");
        }
    }

    #[test]
    fn figures_are_in_the_text() {
        let page = page();
        for line in [
            "spliceway_build_info{version=\"1.2.3\",engine=\"io_uring\"} 1",
            "spliceway_config_info{hash=\"0123456789abcdef\"} 1",
            "spliceway_config_reloads_total{result=\"done\"} 3",
            "spliceway_config_reloads_total{result=\"refused\"} 2",
            "spliceway_config_last_reload_done 0",
            "spliceway_config_last_reload_success_timestamp_seconds 1750000060.0",
            "spliceway_sessions_max 8192",
            "spliceway_log_lines_dropped_total 0",
            "spliceway_worker_busy_seconds_total{worker=\"1\"} 7.25",
            "spliceway_sessions_ended_total{route=\"php\",reason=\"connect_refused\"} 4",
            "spliceway_sessions_active{route=\"php\"} 9",
            "spliceway_queue_oldest_wait_seconds{route=\"php\"} 1.5",
            "spliceway_relayed_bytes_total{route=\"php\",direction=\"to_client\",path=\"spliced\"} 4000000",
            "spliceway_lookups_total{route=\"php\",result=\"denial\"} 2",
            "spliceway_endpoints{route=\"php\",state=\"ejected\"} 1",
            "spliceway_endpoint_state{route=\"php\",endpoint=\"192.0.2.2:9000\",state=\"ejected\"} 1",
            "spliceway_endpoint_state{route=\"php\",endpoint=\"192.0.2.2:9000\",state=\"ok\"} 0",
            "spliceway_endpoint_connections{route=\"php\",endpoint=\"192.0.2.1:9000\"} 8",
            "spliceway_connect_time_seconds_bucket{le=\"0.0005\",route=\"php\"} 3",
            "spliceway_connect_time_seconds_bucket{le=\"+Inf\",route=\"php\"} 5",
            "spliceway_connect_time_seconds_count{route=\"php\"} 5",
            "spliceway_class_requests_total{route=\"php\",class=\"admin\",status=\"2xx\"} 10",
            "spliceway_class_requests_failed_total{route=\"php\",class=\"admin\",reason=\"queue_full\"} 2",
            "spliceway_class_upstreams_busy{route=\"php\",class=\"admin\"} 2",
            "spliceway_class_queue_oldest_wait_seconds{route=\"php\",class=\"admin\"} 1.5",
        ] {
            assert_has(&page, line);
        }
        // What the second route does not have.
        for absent in [
            "answer_age_seconds",
            "queue_max",
            "endpoint_connections_max",
        ] {
            let series = format!("spliceway_{absent}{{route=\"other\"}}");
            assert!(!page.contains(&series), "{series}");
        }
    }

    #[test]
    fn names_of_routes_are_escaped() {
        let mut status = samples::busy();
        status.routes[0].name = "a\"b\\c\nd".to_owned();
        let page = render(status).unwrap();
        assert_has(&page, r#"spliceway_sessions_active{route="a\"b\\c\nd"} 9"#);
    }

    #[test]
    fn names_follow_the_conventions() {
        let mut names = HashSet::new();
        for Described {
            name,
            help,
            kind,
            labels,
        } in catalogue()
        {
            assert!(name.starts_with("spliceway_"), "{name}");
            let is_fine = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.chars().all(is_fine), "{name}");
            assert!(labels.iter().all(|l| l.chars().all(is_fine)), "{name}");
            assert!(!name.ends_with("_total"), "{name}: the kind appends it");
            assert!(
                *kind != MetricKind::Histogram || name.ends_with("_seconds"),
                "{name}"
            );
            assert!(!help.ends_with('.') && help.len() > 10, "{name}");
            assert!(names.insert(name), "{name} twice");
        }
    }
}
