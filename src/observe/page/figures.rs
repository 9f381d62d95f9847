//! What the page is told: the worst first, and bounded.

use serde::Serialize;

use super::super::events::{EventLevel, EventStatus};
use super::super::fpm::FpmStatus;
use super::super::requests::{RequestEntry, StalledEntry};
use super::super::status::{
    AcceptPauses, ConfigStatus, DaemonState, EndpointState, EndpointStatus, RetiredRouteStatus,
    RouteStatus, Status,
};
use super::Audience;
use super::slowest::{Slowest, StateCount};
use super::troubles::{self, TROUBLES_MAX, Trouble, TroubleLevel};
use crate::session::SessionState;
use crate::shown::Shown;

/// How many routes are shown. Each is some 8 KB.
pub(super) const ROUTES_MAX: usize = 24;

/// How many endpoints of a route are, and of all routes together. Each is some 300 bytes.
pub(super) const ENDPOINTS_OF_ROUTE_MAX: usize = 50;
pub(super) const ENDPOINTS_MAX: usize = 400;

/// How many events are.
pub(super) const EVENTS_MAX: usize = 20;

/// Pools of PHP-FPM of one route.
const POOLS_MAX: usize = 8;

/// How many listeners of a route are, and how many routes that are not served any more.
const LISTENERS_MAX: usize = 8;
const RETIRED_MAX: usize = 8;

/// The longest of what others chose, in characters.
const WORD_CHARS_MAX: usize = 256;
const MESSAGE_CHARS_MAX: usize = 512;

/// All that the page shows. Not for other programs, which have the status: it changes as the page does.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    program: String,
    /// The number of this form: the page and the daemon may be of different versions after an upgrade.
    page: u32,
    version: String,
    engine: String,
    /// Not for everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    started_at_seconds: f64,
    uptime_seconds: f64,
    state: DaemonState,
    draining_seconds: Option<f64>,
    config: ConfigStatus,
    sessions_active: u64,
    sessions_max: u64,
    log_lines_dropped: u64,
    access_log_write_errors: u64,
    accept_pauses: AcceptPauses,
    workers: usize,
    /// Of all workers together.
    busy_seconds: f64,
    /// Whether what clients send is shown.
    details: bool,
    troubles: Vec<Trouble>,
    troubles_more: usize,
    pub(super) routes: Vec<RouteFigures>,
    routes_more: usize,
    retired_routes: Vec<RetiredRouteStatus>,
    /// `None`: sessions were not looked at.
    requests: Option<RequestFigures>,
    pub(super) events: Vec<EventFigures>,
}

/// A route, and how much of it is left out.
#[derive(Debug, Serialize)]
pub(super) struct RouteFigures {
    #[serde(flatten)]
    pub(super) status: RouteStatus,
    pub(super) endpoints_more: usize,
    /// Pools of PHP-FPM.
    pub(super) pools_more: usize,
}

#[derive(Debug, Serialize)]
struct RequestFigures {
    count: usize,
    states: Vec<StateCount>,
    rows: Vec<RequestRow>,
    left_out: usize,
    silent_workers: Vec<usize>,
    incomplete_workers: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct RequestRow {
    route: String,
    state: SessionState,
    age_seconds: f64,
    queue_seconds: f64,
    endpoint: Option<String>,
    stalled: Option<StalledEntry>,
    #[serde(flatten)]
    of_client: Option<OfClient>,
}

/// What is not for everybody.
#[derive(Debug, Serialize)]
struct OfClient {
    method: Option<String>,
    uri: Option<String>,
    script: Option<String>,
    uid: Option<u32>,
    pid: Option<u32>,
}

#[derive(Debug, Serialize)]
pub(super) struct EventFigures {
    at_seconds: f64,
    level: EventLevel,
    message: String,
    /// What it was about.
    about: String,
    times: u64,
}

impl Figures {
    /// What this audience is told.
    pub(super) fn new(status: Status, looked: Option<&Slowest>, audience: Audience) -> Self {
        let (routes, mut troubles) = by_trouble(status.routes.iter(), looked, audience);
        troubles.extend(troubles::of_daemon(&status, looked));
        troubles.sort_by_key(|trouble| std::cmp::Reverse(trouble.level));
        let troubles_more = troubles.len().saturating_sub(TROUBLES_MAX);
        troubles.truncate(TROUBLES_MAX);
        let routes_more = routes.len().saturating_sub(ROUTES_MAX);
        let mut retired_routes = status.retired_routes.clone();
        retired_routes.truncate(RETIRED_MAX);
        let is_trusted = audience == Audience::Trusted;
        let busy = status.workers.iter().filter_map(|w| w.busy_seconds);
        Self {
            page: 1,
            pid: is_trusted.then_some(status.pid),
            sessions_active: troubles::sessions(&status),
            workers: status.workers.len(),
            busy_seconds: busy.sum(),
            details: is_trusted,
            troubles,
            troubles_more,
            routes: shown_routes(routes, audience),
            routes_more,
            retired_routes,
            requests: looked.map(|looked| RequestFigures::of(looked, audience)),
            events: shown_events(&status.events, audience),
            program: status.program,
            version: status.version,
            engine: status.engine,
            started_at_seconds: status.started_at_seconds,
            uptime_seconds: status.uptime_seconds,
            state: status.state,
            draining_seconds: status.draining_seconds,
            config: status.config,
            sessions_max: status.sessions_max,
            log_lines_dropped: status.log_lines_dropped,
            access_log_write_errors: status.access_log_write_errors,
            accept_pauses: status.accept_pauses,
        }
    }
}

/// Those with the worst trouble first, the others as configured; and what the trouble is.
fn by_trouble<'a>(
    routes: impl Iterator<Item = &'a RouteStatus>,
    looked: Option<&Slowest>,
    audience: Audience,
) -> (Vec<&'a RouteStatus>, Vec<Trouble>) {
    let mut troubles = Vec::new();
    let judge = |route: &'a RouteStatus| {
        let at_work = looked.and_then(|looked| looked.at_work.get(&route.name));
        let found = troubles::of_route(route, at_work, audience);
        let worst = found.iter().map(|trouble| trouble.level).max();
        troubles.extend(found);
        // What an operator wants so is no reason to come before others.
        (worst.filter(|level| *level != TroubleLevel::Note), route)
    };
    let mut judged: Vec<_> = routes.map(judge).collect();
    judged.sort_by_key(|(worst, _)| std::cmp::Reverse(*worst));
    let routes = judged.into_iter().map(|(_, route)| route);
    (routes.collect(), troubles)
}

fn shown_routes(routes: Vec<&RouteStatus>, audience: Audience) -> Vec<RouteFigures> {
    let mut room = ENDPOINTS_MAX;
    let shown = routes.into_iter().take(ROUTES_MAX).map(|route| {
        let figures = RouteFigures::of(route, room.min(ENDPOINTS_OF_ROUTE_MAX), audience);
        room -= figures.status.endpoints.len();
        figures
    });
    shown.collect()
}

impl RouteFigures {
    fn of(route: &RouteStatus, endpoints_max: usize, audience: Audience) -> Self {
        let mut endpoints: Vec<&EndpointStatus> = route.endpoints.iter().collect();
        endpoints.sort_by_key(|endpoint| concern(endpoint));
        let endpoints_more = endpoints.len().saturating_sub(endpoints_max);
        let endpoints = endpoints.into_iter().take(endpoints_max);
        let endpoints = endpoints.map(|endpoint| EndpointStatus {
            address: word(&endpoint.address),
            ..endpoint.clone()
        });
        // The metrics do not have them.
        let listeners = match audience {
            Audience::Everybody => &[][..],
            Audience::Trusted => &route.listeners[..route.listeners.len().min(LISTENERS_MAX)],
        };
        let mut status = RouteStatus {
            name: word(&route.name),
            listeners: listeners.iter().map(|listener| word(listener)).collect(),
            endpoints: endpoints.collect(),
            sessions_ended: Default::default(),
            ..without_endpoints(route)
        };
        let mut pools_more = 0;
        if let Some(fastcgi) = &mut status.fastcgi {
            for counts in [
                &mut fastcgi.guard_rejections,
                &mut fastcgi.overridden_params,
                &mut fastcgi.protocol_errors,
            ] {
                counts.clear();
            }
            fastcgi.fpm.sort_by_key(pool_concern);
            pools_more = fastcgi.fpm.len().saturating_sub(POOLS_MAX);
            fastcgi.fpm.truncate(POOLS_MAX);
            let pools = fastcgi.fpm.iter_mut();
            pools.for_each(|pool| show_pool(pool, audience));
        }
        Self {
            status,
            endpoints_more,
            pools_more,
        }
    }
}

/// Those come first that do not answer, or have fewer processes than they are given requests.
fn pool_concern(pool: &FpmStatus) -> u8 {
    let waiting = pool.pool.as_ref().map_or(0, |pool| pool.listen_queue);
    match pool {
        FpmStatus { up: false, .. } => 0,
        FpmStatus {
            warning: Some(_), ..
        } => 1,
        _ if waiting > 0 => 2,
        _ => 3,
    }
}

/// For everybody what the metrics have of it, and not what was said instead of an answer.
fn show_pool(pool: &mut FpmStatus, audience: Audience) {
    let message = |text: String| Shown::line(text.as_bytes(), MESSAGE_CHARS_MAX).to_string();
    pool.address = word(&pool.address);
    if audience == Audience::Everybody {
        pool.path.clear();
        (pool.error, pool.warning) = (None, None);
        if let Some(pool) = &mut pool.pool {
            pool.pool.clear();
            pool.process_manager.clear();
        }
        return;
    }
    pool.path = word(&pool.path);
    pool.error = pool.error.take().map(message);
    pool.warning = pool.warning.take().map(message);
    if let Some(pool) = &mut pool.pool {
        pool.pool = word(&pool.pool);
    }
}

/// The rest of it, without copies of what may be long.
fn without_endpoints(route: &RouteStatus) -> RouteStatus {
    RouteStatus {
        name: String::new(),
        listeners: Vec::new(),
        sessions_ended: Default::default(),
        queue: route.queue.clone(),
        connect_time: route.connect_time.clone(),
        fastcgi: route.fastcgi.clone(),
        endpoints: Vec::new(),
        ..*route
    }
}

/// Those come first that an operator looks for.
fn concern(endpoint: &EndpointStatus) -> u8 {
    match endpoint.state {
        EndpointState::Ejected { .. } | EndpointState::Down => 0,
        EndpointState::Failing { .. } => 1,
        EndpointState::Ok if endpoint.drained => 2,
        EndpointState::Ok => 3,
        EndpointState::Removed => 4,
    }
}

impl RequestFigures {
    fn of(looked: &Slowest, audience: Audience) -> Self {
        let rows = looked.rows.iter();
        Self {
            count: looked.states.iter().map(|known| known.count).sum(),
            states: looked.states.clone(),
            rows: rows.map(|entry| RequestRow::of(entry, audience)).collect(),
            left_out: looked.left_out,
            silent_workers: looked.silent_workers.clone(),
            incomplete_workers: looked.incomplete_workers.clone(),
        }
    }
}

impl RequestRow {
    fn of(entry: &RequestEntry, audience: Audience) -> Self {
        let of_client = (audience == Audience::Trusted).then(|| OfClient {
            method: entry.method.as_deref().map(word),
            uri: entry.uri.as_deref().map(word),
            script: entry.script.as_deref().map(word),
            uid: entry.uid,
            pid: entry.pid,
        });
        Self {
            route: word(&entry.route),
            state: entry.state,
            age_seconds: entry.age_seconds,
            queue_seconds: entry.queue_seconds,
            endpoint: entry.endpoint.as_deref().map(word),
            stalled: entry.stalled,
            of_client,
        }
    }
}

/// The last ones that are for them, the oldest first.
fn shown_events(events: &[EventStatus], audience: Audience) -> Vec<EventFigures> {
    let is_shown = |event: &&EventStatus| audience == Audience::Trusted || event.names_no_client;
    let newest = events.iter().rev().filter(is_shown).take(EVENTS_MAX);
    let mut shown: Vec<_> = newest.map(EventFigures::of).collect();
    shown.reverse();
    shown
}

impl EventFigures {
    fn of(event: &EventStatus) -> Self {
        let fields = event.fields.iter();
        let about: Vec<_> = fields
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Self {
            at_seconds: event.at_seconds,
            level: event.level,
            message: Shown::line(event.message.as_bytes(), MESSAGE_CHARS_MAX).to_string(),
            about: word(&about.join(" ")),
            times: event.times,
        }
    }
}

fn word(text: &str) -> String {
    Shown::line(text.as_bytes(), WORD_CHARS_MAX).to_string()
}
