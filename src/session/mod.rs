//! Sessions: what happens between a client and the backend that serves it.
//!
//! A session is a state machine. It acts only through its driver, never reads the clock, never
//! holds a descriptor and never blocks; the worker feeds it completions and deadlines.

mod activity;
mod bulk;
mod connect;
mod dispatch;
mod exchange;
mod fastcgi;
mod flow;
mod hands;
mod introduction;
mod lag;
mod policy;
mod pool;
mod tally;
mod tunnel;
mod view;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::{Address, Balancer, ClassId, Lease, Moment, Published};
use crate::counters::{ClassCounters, Outcome, RouteCounters};
use crate::driver::{Close, Driver, NoBuffer, Sock};
use crate::fastcgi::{
    Answer, Cut, FENCE, Head, HeadRoom, ProtocolError, Rejection, ResponseError, Rule, Settling,
    Violation, shown_value,
};
use crate::sys::Errno;

pub use crate::access_log::RequestLogs;
pub use connect::Entry;
pub use dispatch::Session;
pub use exchange::Exchange;
#[cfg(any(test, fuzzing))]
pub(crate) use exchange::REPLAY_BYTES_MAX;
pub use fastcgi::{FastcgiOptions, Protocol, RequestClass, RequestClasses};
pub use hands::{Hands, Owner, Owners, Retired, RouteKey};
pub use introduction::{Hello, Introduction};
pub use lag::MinRate;
pub use policy::{Policy, Timeouts};
pub use pool::{BUSY_MAX, Change, Pool, PoolOptions, UpstreamId};
pub use tally::Telling;
pub use tunnel::Tunnel;
pub use view::{Began, SessionState, SessionView, Stall, StalledBy, StalledWhat};

/// The buffers that a session may hold between two events. Of FastCGI, what the client sent and is not read
/// yet, what the server is sent, and a part of the answer; of a raw one, a part of each direction.
pub const BUFFERS_PER_SESSION: usize = 3;

/// A session of one worker. Used again after the session's end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SessionId(pub usize);

/// One of a session's sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The one that was accepted.
    Client,
    /// The one that is connected, or is to be.
    Backend,
    /// A second one that is to be connected, in a race with the first.
    Rival,
}

/// What a session can use in one step.
pub struct Context<'a, D: Driver> {
    /// The session itself.
    pub id: SessionId,
    /// What the worker acts with.
    pub hands: &'a mut Hands<D>,
    /// The endpoints.
    pub published: &'a Published,
    /// The rules that the session began with, or its request.
    pub policy: &'a Policy,
    /// The route goes by others meanwhile: so does the next request.
    pub is_amended: bool,
    /// The choice among them.
    pub balancer: &'a mut Balancer,
    /// The session's route.
    pub route: RouteKey,
    /// Its connections that no request uses now.
    pub pool: &'a mut Pool,
    /// What becomes of that.
    pub changes: &'a mut Changes,
    /// Those who are first among the requests that wait for a place at an endpoint, of each class of which some do.
    pub firsts: &'a [FirstInLine],
    /// There is a queue in which to wait for one.
    pub can_queue: bool,
    /// Endpoints get nothing new for a while.
    pub is_paused: bool,
    /// None of them takes connections, and nobody is to wait for one.
    pub is_out: bool,
    /// The worker finishes what it has and takes nothing new on.
    pub draining: bool,
    /// Whether its clients are handed over to another process.
    pub lets_go: LetsGo,
    /// What the large heads of the worker's requests may take.
    pub head_room: &'a HeadRoom,
    /// What is counted of the route.
    pub counters: &'a RouteCounters,
    /// Of its classes, by their places.
    pub class_counters: &'a [Arc<ClassCounters>],
    /// Where lines about requests go, if they go anywhere.
    pub logs: &'a RequestLogs,
}

/// The one of a class that is first among those that wait for a place at an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirstInLine {
    /// Which class.
    pub class: ClassId,
    /// Since when it has waited.
    pub since: Instant,
    /// Others have their turn in its stead: what it may do, those may as well.
    pub is_passed_over: bool,
}

impl FirstInLine {
    /// Its question for a place.
    #[must_use]
    pub fn asks(self, now: Instant) -> Moment {
        Moment {
            now,
            waiting_since: self.since,
            class: self.class,
        }
    }
}

/// Which clients of a route are handed over to another process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LetsGo {
    /// None.
    None,
    /// Those at rest, of which no byte was taken that is not acted on.
    AtRest,
    /// Those as well that have sent a part of what is to be acted on, together with that.
    WithBytes,
}

/// What a session's step means to others.
#[derive(Debug, Default)]
pub struct Changes {
    /// A place may be free for who waits.
    pub room: bool,
}

impl<'a, D: Driver> Context<'a, D> {
    /// Only asked by sessions that speak it.
    fn fastcgi(&self) -> &'a FastcgiOptions {
        match &self.policy.protocol {
            Protocol::Fastcgi(options) => options,
            Protocol::Raw => unreachable!("a route without FastCGI has no such sessions"),
        }
    }

    /// How long a request of this class may take for what.
    fn timeouts_of(&self, class: ClassId) -> Timeouts {
        let timeouts = self.policy.timeouts;
        match &self.fastcgi().classes {
            Some(classes) => classes.of(class).within(timeouts),
            None => timeouts,
        }
    }

    /// Since when somebody of this class waits for a place in whose stead others have their turn, if anybody does.
    fn passed_over_since(&self, class: ClassId) -> Option<Instant> {
        let mut firsts = self.firsts.iter();
        let first = firsts.find(|first| first.class == class)?;
        first.is_passed_over.then_some(first.since)
    }

    /// Whether a request of this class that comes now may look for a place at once: nobody of its class waits, and
    /// nobody of another one who could have that place.
    fn has_its_turn(&self, class: ClassId) -> bool {
        let may_go_on = |first: &FirstInLine| {
            first.class != class && !self.balancer.has_room(first.asks(self.hands.now))
        };
        self.firsts.iter().all(may_go_on)
    }

    /// The class of a request, by what its client has sent.
    fn class_of(&self, head: &Head) -> ClassId {
        let classes = self.fastcgi().classes.as_ref();
        classes.map_or(ClassId::DEFAULT, |classes| classes.class_of(head))
    }

    /// Whether the endpoint is in the set.
    fn is_current(&mut self, lease: &Lease) -> bool {
        self.balancer.is_current(self.published, lease)
    }

    /// A request is over, and its connection may serve others.
    fn settle(&mut self, open: pool::Open, settling: Settling) {
        let change = self.pool.settle(open, settling, self.route, self.hands);
        self.changes.room |= change != Change::None;
    }

    /// Asks whether there is a worker for a new connection.
    fn prove(&mut self, open: pool::Open) {
        let address = open.lease.address();
        if self.hands.driver.send_now(open.sock, &FENCE).is_err() {
            // What has ended it, nobody hears: a receive is not armed.
            self.pool
                .disappointed(address, pool::Failing::Ended, self.hands.now);
            return self.abandon(open.sock, open.lease);
        }
        self.counters.to_backend.copied.add(FENCE.len() as u64);
        self.pool.prove(open, self.route, self.hands);
    }

    /// The client of a request has left, and its server may be at work on it.
    fn abandon_request(&mut self, open: pool::Open, armed: bool) {
        self.pool.abandon(open, armed, self.route, self.hands);
    }

    /// Parameters of this client's request came with different values.
    fn overridden(&mut self, cut: &Cut, head: &Head, client: Sock) {
        for overridden in &cut.overridden {
            let param = overridden.param;
            self.counters.fastcgi.overridden(param);
            let options = self.fastcgi();
            let Some(requests) = options.overridden[param.number()].count(self.hands.now) else {
                continue;
            };
            let value = |range: &Range<usize>| shown_value(&head.params()[range.clone()]);
            let peer = self.hands.driver.peer_credentials(client);
            tracing::warn!(
                route = %options.route,
                requests,
                param = param.name(),
                ignored = value(&overridden.ignored).as_str(),
                counted = value(&overridden.counted).as_str(),
                uid = peer.map(|peer| peer.uid),
                pid = peer.map(|peer| peer.pid),
                "the web server sent {param} with different values, and the last one counts, as in PHP \
                 (nginx adds each fastcgi_param to those that an included file sets: keep one \
                 fastcgi_param {param} in the location and its includes)"
            );
        }
    }

    /// This client sent what it must not send.
    fn violated(&mut self, error: &ProtocolError, client: Sock) {
        self.counters.fastcgi.violated(error.cause);
        let options = self.fastcgi();
        let Some(requests) = options.violations[error.cause.number()].count(self.hands.now) else {
            return;
        };
        let peer = self.hands.driver.peer_credentials(client);
        tracing::warn!(
            route = %options.route,
            requests,
            cause = error.cause.name(),
            uid = peer.map(|peer| peer.uid),
            pid = peer.map(|peer| peer.pid),
            "request ended: {error}"
        );
    }

    /// The guard does not let a request of this client pass.
    fn rejected(&mut self, rejection: &Rejection, client: Sock) {
        self.counters.fastcgi.rejected(rejection.rule);
        let options = self.fastcgi();
        let Some(rejected) = options.rejections[rejection.rule.number()].count(self.hands.now)
        else {
            return;
        };
        let peer = self.hands.driver.peer_credentials(client);
        tracing::warn!(
            route = %options.route,
            rejected,
            rule = %rejection.rule,
            // A client chooses it: as text, it is put in quotes.
            param = rejection.param.as_str(),
            uid = peer.map(|peer| peer.uid),
            pid = peer.map(|peer| peer.pid),
            "guard: request rejected: {}",
            rejection.rule.remedy()
        );
    }

    /// This client does not keep up, while its request has a place at an endpoint.
    fn too_slow(&mut self, slow: Slow, client: Sock) {
        let options = self.fastcgi();
        let Some(requests) = options.too_slow.count(self.hands.now) else {
            return;
        };
        let peer = self.hands.driver.peer_credentials(client);
        tracing::warn!(
            route = %options.route,
            requests,
            uid = peer.map(|peer| peer.uid),
            pid = peer.map(|peer| peer.pid),
            "request ended: {} (at most --min-rate-lag behind it; 'off' waits for any client)",
            Ending::TooSlow(slow)
        );
    }

    fn telling(&self) -> Telling<'_> {
        Telling {
            counters: &self.counters.fastcgi,
            classes: self.class_counters,
            logs: self.logs,
            now: self.hands.now,
        }
    }

    /// Closes a connection that was given nothing, and then gives its place back.
    fn abandon(&mut self, sock: Sock, lease: Lease) {
        self.hands.close_upstream(sock, lease, Close::Graceful);
    }
}

/// A session's wish for a place at an endpoint, where their number is limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Which of its requests the place is for: another number than the last time means another turn.
    pub request: u64,
    /// That of the request.
    pub class: ClassId,
    /// It may wait in a queue that is full: for endpoints that have failed, for which its time for connecting
    /// runs, or for a place that gets free for it.
    pub stays: bool,
}

/// What a session does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Step {
    /// It waits for completions or its deadline.
    Continue,
    /// It is over: to be closed in this turn.
    End(Ending),
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Both directions ended, and every byte arrived.
    Complete,
    /// The client closed its socket; what it had sent was passed on.
    ClientClosed,
    /// The client's connection broke, or it closed without reading what was there for it.
    ClientReset(Errno),
    /// The client closed its socket while nothing could be connected to, or while it waited for its
    /// turn; what it had sent is lost.
    ClientLeft,
    /// As many clients as may wait for a place at an endpoint did so already.
    QueueFull,
    /// No endpoint had a place for it in time.
    QueueTimeout,
    /// More is asked of the endpoints than they can do, and it has waited for too long.
    QueueShed,
    /// The backend's connection broke.
    BackendReset(Errno),
    /// No endpoint could be reached in time.
    ConnectFailed(ConnectFailure),
    /// No byte in either direction for too long.
    IdleTimeout,
    /// One side had ended, and nothing came of the other for too long, or while its place was wanted.
    HalfClosed,
    /// Its endpoint left the set, and did not come back in time.
    EndpointRemoved,
    /// The client does not speak FastCGI as applications read it.
    BadRequest(ProtocolError),
    /// The backend does not speak FastCGI.
    BadResponse(ResponseError),
    /// The guard does not let the request pass.
    Rejected(Rule),
    /// The client gave its request up.
    Aborted,
    /// The client took too long for the head of a request.
    HeadTimeout,
    /// The client gave a body, or took an answer, too slowly.
    TooSlow(Slow),
    /// The server took too long for the request.
    RequestTimeout,
    /// There was no buffer for what it sent: more was held than is promised to each session.
    NoBuffer(NoBuffer),
    /// The daemon stops and does not wait any longer.
    Cut,
    /// The client is served by another process from now on: its connection is as it was, and is not closed.
    HandedOver,
}

/// What a client was too slow with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slow {
    /// It sends the body of its request.
    Body,
    /// It takes the answer.
    Answer,
}

/// Why no backend connection came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectFailure {
    /// No name had an address in time.
    NoAddress,
    /// No endpoint took connections, and nobody was to wait for one.
    RouteDown,
    /// The last attempt ended with an error.
    Refused(Address, Errno),
    /// The last attempt was not answered in time.
    TimedOut(Address),
    /// There was no descriptor for another attempt.
    NoDescriptor,
    /// The address that connections shall come from cannot be used.
    NoSource(Address, Errno),
    /// Connections shall come from an address of the other family only.
    OtherFamily(Address),
}

impl Ending {
    /// Of who finds no place, and no room to wait for one.
    #[must_use]
    pub fn of_refusal(balancer: &Balancer) -> Self {
        if balancer.is_empty() {
            Self::ConnectFailed(ConnectFailure::NoAddress)
        } else {
            Self::QueueFull
        }
    }

    /// As what it is counted.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Complete => Outcome::Complete,
            Self::ClientClosed => Outcome::ClientClosed,
            Self::ClientReset(_) => Outcome::ClientReset,
            Self::ClientLeft => Outcome::ClientLeft,
            Self::QueueFull => Outcome::QueueFull,
            Self::QueueTimeout => Outcome::QueueTimedOut,
            Self::QueueShed => Outcome::QueueShed,
            Self::BackendReset(_) => Outcome::BackendReset,
            Self::ConnectFailed(failure) => match failure {
                ConnectFailure::NoAddress => Outcome::ConnectNoAddress,
                ConnectFailure::RouteDown => Outcome::RouteDown,
                ConnectFailure::Refused(..) => Outcome::ConnectRefused,
                ConnectFailure::TimedOut(_) => Outcome::ConnectTimedOut,
                ConnectFailure::NoDescriptor => Outcome::ConnectNoDescriptor,
                ConnectFailure::NoSource(..) | ConnectFailure::OtherFamily(_) => {
                    Outcome::ConnectNoSource
                }
            },
            Self::IdleTimeout => Outcome::IdleTimeout,
            Self::HalfClosed => Outcome::HalfClosed,
            Self::EndpointRemoved => Outcome::EndpointRemoved,
            Self::BadRequest(error) if error.cause == Violation::HeadsFull => Outcome::HeadsFull,
            Self::BadRequest(_) => Outcome::BadRequest,
            Self::BadResponse(_) => Outcome::BadResponse,
            Self::Rejected(_) => Outcome::Rejected,
            Self::Aborted => Outcome::Aborted,
            Self::HeadTimeout => Outcome::HeadTimeout,
            Self::TooSlow(_) => Outcome::TooSlow,
            Self::RequestTimeout => Outcome::RequestTimedOut,
            Self::NoBuffer(_) => Outcome::NoBuffer,
            Self::Cut => Outcome::Cut,
            Self::HandedOver => Outcome::HandedOver,
        }
    }

    /// What the client is told, where a request is ended for what the client sent and can still be
    /// answered.
    pub fn answer(self) -> Option<Answer> {
        match self {
            Self::BadRequest(error) => error.cause.answer(),
            _ => None,
        }
    }

    /// Whether an operator should hear of it: something failed that is not the client's doing.
    pub fn is_failure(self) -> bool {
        match self {
            Self::ConnectFailed(_)
            | Self::BackendReset(_)
            | Self::BadResponse(_)
            | Self::NoBuffer(_)
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::QueueShed
            | Self::RequestTimeout => true,
            Self::BadRequest(_)
            | Self::Rejected(_)
            | Self::Aborted
            | Self::HeadTimeout
            | Self::TooSlow(_)
            | Self::Complete
            | Self::ClientClosed
            | Self::ClientLeft
            | Self::ClientReset(_)
            | Self::IdleTimeout
            | Self::HalfClosed
            | Self::EndpointRemoved
            | Self::HandedOver
            | Self::Cut => false,
        }
    }
}

impl From<NoBuffer> for Ending {
    fn from(error: NoBuffer) -> Self {
        Self::NoBuffer(error)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::ClientClosed => f.write_str("the client closed"),
            Self::ClientLeft => f.write_str("the client left before a backend was reached"),
            Self::QueueFull => f.write_str(
                "every place at its endpoints was taken and the queue full (see --per-endpoint-max, \
                 --queue-max)",
            ),
            Self::QueueTimeout => f.write_str(
                "no place at an endpoint in time (see --per-endpoint-max, --queue-timeout)",
            ),
            Self::QueueShed => f.write_str(
                "more requests come than its endpoints can answer, and it had waited for too long (see \
                 --queue-order, --per-endpoint-max)",
            ),
            Self::ClientReset(errno) => write!(f, "the client broke off: {errno}"),
            Self::BackendReset(errno) => write!(f, "the backend broke off: {errno}"),
            Self::ConnectFailed(failure) => write!(f, "connect to the backend: {failure}"),
            Self::IdleTimeout => f.write_str("idle for too long"),
            Self::HalfClosed => f.write_str(
                "one side had ended, and nothing came of the other (see --half-closed-timeout)",
            ),
            Self::EndpointRemoved => f.write_str("its endpoint was removed"),
            Self::BadRequest(error) => error.fmt(f),
            Self::BadResponse(error) => error.fmt(f),
            Self::Rejected(rule) => write!(f, "the guard rejects the request: {rule}"),
            Self::Aborted => f.write_str("the client gave its request up"),
            Self::HeadTimeout => f.write_str(
                "the parameters of its request did not come in time (see --head-timeout)",
            ),
            Self::TooSlow(Slow::Body) => {
                f.write_str("the client sends its body too slowly (see --min-rate)")
            }
            Self::TooSlow(Slow::Answer) => {
                f.write_str("the client takes its answer too slowly (see --min-rate)")
            }
            Self::RequestTimeout => {
                f.write_str("the backend took too long for it (see --request-timeout)")
            }
            Self::NoBuffer(error) => error.fmt(f),
            Self::Cut => f.write_str("cut at shutdown"),
            Self::HandedOver => f.write_str("handed over to another process"),
        }
    }
}

/// What EADDRNOTAVAIL of a connect means (ip(7), tcp(7)).
const NO_PORT_LEFT: &str = "no local port is free for it: those of net.ipv4.ip_local_port_range are \
                            connected to it or in TIME_WAIT, or this machine has no address of its \
                            family (widen the range, connect from another --source-address, or give \
                            the name more endpoints)";

impl ConnectFailure {
    /// Whether a Unix socket had no room for another connection at that moment.
    fn is_full_backlog(self) -> bool {
        matches!(self, Self::Refused(Address::Unix(_), Errno(libc::EAGAIN)))
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("no address is known"),
            Self::RouteDown => f.write_str(
                "no endpoint takes connections, and nobody waits for one (see --when-down)",
            ),
            Self::Refused(endpoint, errno @ Errno(libc::EADDRNOTAVAIL)) => {
                write!(f, "{endpoint}: {errno}: {NO_PORT_LEFT}")
            }
            Self::NoSource(endpoint, errno) => write!(
                f,
                "{endpoint}: {errno}: this machine does not have the --source-address"
            ),
            Self::OtherFamily(endpoint) => write!(
                f,
                "{endpoint}: not connected to from the --source-address of the other family (give \
                 one for its family as well)"
            ),
            Self::Refused(endpoint @ Address::Unix(_), errno @ Errno(libc::EAGAIN)) => {
                write!(f, "{endpoint}: {errno}: its backlog is full")
            }
            Self::Refused(endpoint, errno) => write!(f, "{endpoint}: {errno}"),
            Self::TimedOut(endpoint) => write!(f, "{endpoint}: no answer in time"),
            Self::NoDescriptor => f.write_str("no descriptor for a socket"),
        }
    }
}
