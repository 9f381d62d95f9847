//! Where the figures are, and how they become a [`Status`].

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use super::classes::{self, ClassLimits};
use super::config_figures::ConfigFigures;
use super::endpoint_figures::{EndpointFigures, Figures};
use super::events::EventStatus;
use super::fpm;
use super::page::PageCache;
use super::requests::LookTurn;
use super::status::{
    AcceptPauses, DaemonState, EndpointState, EndpointStatus, FastcgiStatus, FlowStatus,
    HistogramStatus, LookupStatus, QueueStatus, RetiredRouteStatus, RouteStatus, Status,
    UpstreamsStatus, WorkerStatus,
};
use crate::backend::{Address, AddressSet, Adjustment, Health, Published};
use crate::counters::{
    Buckets, Count, FastcgiCounters, FlowCounters, Level, LookupCounters, Outcome, RouteCounters,
    ShareCounters, StatusClass, WorkerCounters,
};
use crate::fastcgi::{Answer, Decisive, Rule, Violation};
use crate::fpm::FpmBoard;
use crate::worker::Look;

/// Everything that a running daemon shows of itself. Made once, at its start.
pub(crate) struct Observed {
    /// What drives the workers.
    pub engine: String,
    /// The most sessions at one time.
    pub sessions_max: u32,
    /// By their number.
    pub workers: Vec<ObservedWorker>,
    /// As configured now.
    pub(crate) routes: ObservedRoutes,
    /// How many writes of access logs have failed.
    pub access_log_write_errors: Box<dyn Fn() -> u64 + Send + Sync>,
    /// How many lines of the log were lost.
    pub log_lines_dropped: Box<dyn Fn() -> u64 + Send + Sync>,
    /// What has happened lately.
    pub events: Box<dyn Fn() -> Vec<EventStatus> + Send + Sync>,
    /// Since when, and in what phase.
    pub phase: DaemonPhase,
    /// What it is configured by.
    pub config: ConfigFigures,
    /// Sockets whose files are not found any more.
    pub socket_files_missing: SocketFilesMissing,
    /// Whose turn it is to have the workers tell what their sessions do.
    pub look_turn: LookTurn,
    /// What status pages were told last.
    pub page: PageCache,
}

/// The routes, in the order of the configuration. The main thread changes them, and whoever looks sees all of them as
/// they were at one moment.
#[derive(Default)]
pub(crate) struct ObservedRoutes {
    served: ArcSwap<Vec<Arc<ObservedRoute>>>,
    /// Those that are not served any more, and have sessions.
    retired: ArcSwap<Vec<Arc<ObservedRoute>>>,
}

impl ObservedRoutes {
    /// Those at the start.
    #[must_use]
    pub(crate) fn new(routes: Vec<ObservedRoute>) -> Self {
        let routes = routes.into_iter().map(Arc::new).collect();
        Self {
            served: ArcSwap::from_pointee(routes),
            retired: ArcSwap::default(),
        }
    }

    /// All of them, as they are now.
    #[must_use]
    pub(crate) fn all(&self) -> Arc<Vec<Arc<ObservedRoute>>> {
        self.served.load_full()
    }

    /// Those that are not served any more, and have sessions.
    #[must_use]
    pub(crate) fn retired(&self) -> Arc<Vec<Arc<ObservedRoute>>> {
        self.retired.load_full()
    }

    /// From now on they are these.
    pub(crate) fn replace(&self, routes: Vec<Arc<ObservedRoute>>) {
        self.served.store(Arc::new(routes));
    }

    /// From now on those that are not served any more are these.
    pub(crate) fn replace_retired(&self, routes: Vec<Arc<ObservedRoute>>) {
        self.retired.store(Arc::new(routes));
    }
}

/// How many sockets' files are not found any more. The thread that looks writes.
#[derive(Debug, Default)]
pub(crate) struct SocketFilesMissing {
    /// Those of clients: nobody gets in.
    pub of_clients: AtomicUsize,
    /// That of the control socket: nobody can ask there.
    pub of_control: AtomicUsize,
}

impl SocketFilesMissing {
    fn total(&self) -> u64 {
        let counts = [&self.of_clients, &self.of_control];
        let counts = counts.map(|count| count.load(Ordering::Relaxed) as u64);
        counts.iter().sum()
    }
}

/// When the daemon started, and whether it is about to end.
pub(crate) struct DaemonPhase {
    started: Instant,
    started_at: SystemTime,
    /// Since when it drains, if it does. The main thread writes.
    draining: OnceLock<Instant>,
}

/// One worker.
pub(crate) struct ObservedWorker {
    /// What it counts of itself.
    pub counters: Arc<WorkerCounters>,
    /// Makes it turn once, if it can.
    pub poke: Box<dyn Fn() + Send + Sync>,
    /// Has it tell what its sessions do, unless it has not read earlier questions.
    pub look: Box<dyn Fn(Look) + Send + Sync>,
}

/// One route.
pub(crate) struct ObservedRoute {
    /// Its name in the configuration.
    pub name: String,
    /// Where its clients come from.
    pub listeners: Vec<String>,
    /// Its endpoints.
    pub published: Arc<Published>,
    /// How its names are looked up.
    pub lookups: Arc<LookupCounters>,
    /// Whether its sessions are sequences of requests.
    pub speaks_fastcgi: bool,
    /// What it may have.
    pub limits: RouteLimits,
    /// What its classes may have, by their places.
    pub classes: ClassLimits,
    /// What those count of it that serve it.
    pub shares: Vec<ShareCounters>,
    /// What they have counted of endpoints, with those who forgot them.
    pub endpoint_figures: Arc<EndpointFigures>,
    /// What PHP-FPM says of its pools.
    pub fpm: Arc<FpmBoard>,
}

/// What a route may have; `None` is no limit of its own, or no queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RouteLimits {
    /// Open connections to one endpoint, over all workers.
    pub per_endpoint_max: Option<u32>,
    /// Clients that may wait, over all workers.
    pub queue_max: Option<u32>,
}

impl Default for DaemonPhase {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            started_at: SystemTime::now(),
            draining: OnceLock::new(),
        }
    }
}

impl DaemonPhase {
    /// From now on the daemon takes no new clients.
    pub(crate) fn drain(&self) {
        self.draining.get_or_init(Instant::now);
    }

    pub(crate) fn state(&self) -> DaemonState {
        match self.draining.get() {
            Some(_) => DaemonState::Draining,
            None => DaemonState::Serving,
        }
    }
}

impl Observed {
    /// All figures as they are now.
    #[must_use]
    pub(crate) fn status(&self) -> Status {
        let now = Instant::now();
        let started_at = self.phase.started_at.duration_since(SystemTime::UNIX_EPOCH);
        let sum = |pick: fn(&WorkerCounters) -> &Count| {
            let counts = self.workers.iter().map(|w| pick(&w.counters).get());
            counts.sum()
        };
        Status {
            program: Status::PROGRAM.to_owned(),
            schema: Status::SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: self.engine.clone(),
            pid: std::process::id(),
            started_at_seconds: started_at.unwrap_or_default().as_secs_f64(),
            uptime_seconds: seconds(now.saturating_duration_since(self.phase.started)),
            state: self.phase.state(),
            draining_seconds: self
                .phase
                .draining
                .get()
                .map(|since| seconds(now.saturating_duration_since(*since))),
            config: self.config.status(),
            sessions_max: self.sessions_max.into(),
            log_lines_dropped: (self.log_lines_dropped)(),
            socket_files_missing: self.socket_files_missing.total(),
            access_log_write_errors: (self.access_log_write_errors)(),
            accept_pauses: AcceptPauses {
                no_descriptors: sum(|counters| &counters.pauses_exhausted),
                limit_reached: sum(|counters| &counters.pauses_at_limit),
                other: sum(|counters| &counters.pauses_other),
            },
            workers: self.workers.iter().map(|w| w.counters.status()).collect(),
            routes: self.routes.all().iter().map(|r| r.status(now)).collect(),
            retired_routes: self
                .routes
                .retired()
                .iter()
                .map(|route| route.retired())
                .collect(),
            events: (self.events)(),
        }
    }
}

/// The few figures that are looked at all the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Summary {
    /// Whether new clients are taken.
    pub state: DaemonState,
    /// Clients that were ever accepted.
    pub accepted: u64,
    /// Those of them that are there.
    pub active: u64,
    /// Endpoints in the current sets.
    pub endpoints: u64,
    /// Those of them that are not left out.
    pub endpoints_in_use: u64,
}

impl Observed {
    /// What is so now, without all that takes time to add up.
    #[must_use]
    pub(crate) fn summary(&self) -> Summary {
        let now = Instant::now();
        let mut summary = Summary {
            state: self.phase.state(),
            accepted: 0,
            active: 0,
            endpoints: 0,
            endpoints_in_use: 0,
        };
        // Who has a session with one that is not served any more is there as well.
        for route in self.routes.retired().iter() {
            summary.active += route.active();
        }
        for route in self.routes.all().iter() {
            // The ends before the beginnings, as in a status.
            let ended = Outcome::ALL.into_iter();
            let ended: u64 = ended.map(|outcome| route.ended_so(outcome)).sum();
            let accepted = route.sum(|counters| &counters.accepted);
            summary.accepted += accepted;
            summary.active += accepted.saturating_sub(ended);
            let set = route.published.load_full();
            let states = set.health_in_use().map(|health| state_of(health, now));
            summary.endpoints += set.endpoints().len() as u64;
            summary.endpoints_in_use += states.filter(|s| *s == EndpointState::Ok).count() as u64;
        }
        summary
    }
}

impl WorkerCounters {
    fn status(&self) -> WorkerStatus {
        let busy = self.clock.get().and_then(|clock| clock.read());
        WorkerStatus {
            turns: self.turns.get(),
            busy_seconds: busy.map(seconds),
            pipes_in_use: self.pipes_in_use.get(),
            stale_events: self.stale_events.get(),
        }
    }
}

impl ObservedRoute {
    fn retired(&self) -> RetiredRouteStatus {
        RetiredRouteStatus {
            name: self.name.clone(),
            sessions_active: self.active(),
        }
    }

    /// Its sessions.
    fn active(&self) -> u64 {
        let ended = Outcome::ALL
            .into_iter()
            .map(|outcome| self.ended_so(outcome));
        let ended: u64 = ended.sum();
        self.sum(|counters| &counters.accepted)
            .saturating_sub(ended)
    }

    fn status(&self, now: Instant) -> RouteStatus {
        let set = self.published.load_full();
        // The ends before the beginnings: so no more have ended than were accepted.
        let ended = self.ended();
        let accepted = self.sum(|counters| &counters.accepted);
        RouteStatus {
            name: self.name.clone(),
            listeners: self.listeners.clone(),
            connections_accepted: accepted,
            sessions_active: accepted.saturating_sub(ended.values().sum()),
            sessions_ended: ended,
            queue: self.queue(now),
            connect_time: histogram(self.buckets(|counters| counters.connect_time.read())),
            connect_failures: self.sum(|counters| &counters.connect_failures),
            to_backend: self.flow(|counters| &counters.to_backend),
            to_client: self.flow(|counters| &counters.to_client),
            fastcgi: self.speaks_fastcgi.then(|| self.fastcgi(now)),
            lookups: LookupStatus {
                answers: self.lookups.answers.get(),
                denials: self.lookups.denials.get(),
                failures: self.lookups.failures.get(),
                failing_seconds: self.lookups.failing_since.age(now).map(seconds),
            },
            set_version: set.version(),
            set_age_seconds: set
                .obtained()
                .and_then(|at| SystemTime::now().duration_since(at).ok())
                .map(seconds),
            answer_age_seconds: self.published.answer_age(SystemTime::now()).map(seconds),
            ejections: self.published.ejections(),
            pause_left_seconds: self
                .published
                .paused_until(now)
                .map(|until| seconds(until.saturating_duration_since(now))),
            is_down: self.published.is_out(),
            endpoint_connections_max: self.limits.per_endpoint_max.map(u64::from),
            endpoints: self.endpoints(&set, now),
        }
    }

    /// Connections to one endpoint: open ones, and those that are being made.
    pub(crate) fn connections_to(&self, endpoint: Address) -> u64 {
        self.count_connections(|address| address == endpoint)
    }

    /// The same to all of them, those included that have left the set.
    pub(crate) fn connections(&self) -> u64 {
        self.count_connections(|_| true)
    }

    fn count_connections(&self, counts: impl Fn(Address) -> bool) -> u64 {
        let mut open = 0;
        for share in &self.shares {
            share.endpoints.each(|address, counters| {
                open += counters.in_flight.get() * u64::from(counts(address));
            });
        }
        open
    }

    fn sum(&self, pick: impl Fn(&RouteCounters) -> &Count) -> u64 {
        self.shares.iter().map(|s| pick(&s.route).get()).sum()
    }

    fn buckets(&self, read: impl Fn(&RouteCounters) -> Buckets) -> Buckets {
        let mut sum = Buckets::default();
        for share in &self.shares {
            sum += read(&share.route);
        }
        sum
    }

    fn fastcgi(&self, now: Instant) -> FastcgiStatus {
        let count = |pick: fn(&FastcgiCounters) -> &Count| self.sum(|c| pick(&c.fastcgi));
        let level = |pick: fn(&FastcgiCounters) -> &Level| {
            let levels = self.shares.iter().map(|s| pick(&s.route.fastcgi).get());
            levels.sum::<u64>()
        };
        let requests = StatusClass::ALL.into_iter().map(|class| {
            let count = self.sum(|c| &c.fastcgi.requests[class as usize]);
            (class.name().to_owned(), count)
        });
        let rejections = Rule::ALL.iter().enumerate().map(|(number, rule)| {
            let count = self.sum(|c| &c.fastcgi.rejections[number]);
            (rule.name().to_owned(), count)
        });
        let overridden = Decisive::ALL.into_iter().map(|param| {
            let count = self.sum(|c| &c.fastcgi.overridden[param.number()]);
            (param.name().to_owned(), count)
        });
        let violations = Violation::NAMES.iter().enumerate().map(|(number, name)| {
            let count = self.sum(|c| &c.fastcgi.violations[number]);
            ((*name).to_owned(), count)
        });
        let answers = Answer::ALL.iter().enumerate().map(|(number, answer)| {
            let count = self.sum(|c| &c.fastcgi.answers[number]);
            (answer.status().to_string(), count)
        });
        FastcgiStatus {
            requests: requests.collect(),
            request_time: histogram(self.buckets(|counters| counters.fastcgi.request_time.read())),
            wait_time: histogram(self.buckets(|counters| counters.fastcgi.wait_time.read())),
            connect_time: histogram(self.buckets(|counters| counters.fastcgi.connect_time.read())),
            first_byte_time: histogram(
                self.buckets(|counters| counters.fastcgi.first_byte_time.read()),
            ),
            slow_requests: count(|c| &c.slow),
            slow_log_lines_dropped: count(|c| &c.slow_lines_dropped),
            slow_log_lines_left_out: count(|c| &c.slow_lines_left_out),
            requests_on_new: count(|c| &c.on_new),
            requests_on_reused: count(|c| &c.on_reused),
            retries: count(|c| &c.retries),
            upstreams: self.upstreams(level(|c| &c.settling)),
            settle_time: histogram(self.buckets(|c| c.fastcgi.settle_time.read())),
            doubtful_endpoints: level(|c| &c.doubtful),
            guard_rejections: rejections.collect(),
            overridden_params: overridden.collect(),
            protocol_errors: violations.collect(),
            answers_of_our_own: answers.collect(),
            access_log_lines_dropped: count(|c| &c.lines_dropped),
            access_log_lines_left_out: count(|c| &c.lines_left_out),
            fpm: fpm::status(&self.fpm, now),
            classes: classes::status(&self.classes, &self.shares, now),
        }
    }

    /// Whatever neither settles nor rests is busy: also connections that are being made or closed.
    fn upstreams(&self, settling: u64) -> UpstreamsStatus {
        let (mut all, mut resting) = (0, 0);
        for share in &self.shares {
            share.endpoints.each(|_, counters| {
                resting += counters.resting.get();
                all += counters.in_flight.get();
            });
        }
        UpstreamsStatus {
            busy: all.saturating_sub(settling + resting),
            settling,
            resting,
        }
    }

    fn ended(&self) -> BTreeMap<String, u64> {
        let entry = |outcome: Outcome| (outcome.name().to_owned(), self.ended_so(outcome));
        Outcome::ALL.into_iter().map(entry).collect()
    }

    fn ended_so(&self, outcome: Outcome) -> u64 {
        self.sum(|counters| &counters.ended[outcome as usize])
    }

    fn queue(&self, now: Instant) -> QueueStatus {
        let oldest = |share: &ShareCounters| share.route.queue_oldest.age(now);
        let depth = |share: &ShareCounters| share.route.queue_depth.get();
        QueueStatus {
            depth: self.shares.iter().map(depth).sum(),
            max: self.limits.queue_max.map(u64::from),
            oldest_wait_seconds: self.shares.iter().filter_map(oldest).max().map(seconds),
            queued: self.sum(|counters| &counters.queued),
            wait: histogram(self.buckets(|counters| counters.queue_wait.read())),
        }
    }

    fn flow(&self, pick: impl Fn(&RouteCounters) -> &FlowCounters) -> FlowStatus {
        FlowStatus {
            copied_bytes: self.sum(|counters| &pick(counters).copied),
            spliced_bytes: self.sum(|counters| &pick(counters).spliced),
            promotions: self.sum(|counters| &pick(counters).promotions),
            fallbacks: self.sum(|counters| &pick(counters).fallbacks),
            demotions: self.sum(|counters| &pick(counters).demotions),
        }
    }

    /// Those of the set, in its order, then those that have left it and still have connections, or are drained.
    fn endpoints(&self, set: &AddressSet, now: Instant) -> Vec<EndpointStatus> {
        let endpoints = set.endpoints();
        let mut figures = self.endpoint_figures.look(endpoints, &self.shares);
        let mut by_hand: HashMap<_, _> = self.published.by_hand().into_iter().collect();
        let current = endpoints.iter().zip(set.health());
        let current = current.map(|(endpoint, health)| {
            let figures = figures.remove(&endpoint.address).unwrap_or_default();
            let by_hand = by_hand.remove(&endpoint.address).unwrap_or_default();
            EndpointStatus {
                weight: endpoint.weight.into(),
                failures_in_a_row: health.failures().into(),
                ..figures.status(endpoint.address, state_of(health, now), by_hand)
            }
        });
        let mut all: Vec<_> = current.collect();
        for address in by_hand.keys() {
            figures.entry(*address).or_default();
        }
        let gone = figures.into_iter().filter_map(|(address, figures)| {
            let by_hand = by_hand.remove(&address).unwrap_or_default();
            let is_shown = figures.in_flight > 0 || by_hand.is_drained;
            is_shown.then(|| figures.status(address, EndpointState::Removed, by_hand))
        });
        let mut gone: Vec<_> = gone.collect();
        gone.sort_by(|a, b| a.address.cmp(&b.address));
        all.append(&mut gone);
        all
    }
}

impl Figures {
    fn status(self, address: Address, state: EndpointState, by_hand: Adjustment) -> EndpointStatus {
        EndpointStatus {
            address: address.to_string(),
            state,
            drained: by_hand.is_drained,
            weight: by_hand.weight.map_or(0, |weight| weight.get().into()),
            weight_by_hand: by_hand.weight.is_some(),
            connections: self.in_flight,
            connections_limit: (self.limit > 0).then_some(self.limit),
            connects: self.connects,
            connect_failures: self.connect_failures,
            failures_in_a_row: 0,
        }
    }
}

fn state_of(health: &Health, now: Instant) -> EndpointState {
    match health.left_out_for(now) {
        _ if health.is_down() => EndpointState::Down,
        Some(left) => EndpointState::Ejected {
            left_seconds: seconds(left),
        },
        None => match health.failing_for(now) {
            Some(time) => EndpointState::Failing {
                failing_seconds: seconds(time),
            },
            None => EndpointState::Ok,
        },
    }
}

fn histogram(buckets: Buckets) -> HistogramStatus {
    HistogramStatus::of(buckets)
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}
