//! The event loop of one core.
//!
//! A worker owns its driver, its sessions and everything that they hold. It shares with others only
//! the published address set, the gate that counts sessions, and the failure counts.
//!
//! Before a client is accepted, what it needs is at hand: a permit of the gate and an unconnected
//! TCP socket, together a ticket. Accepts are armed only while there is a ticket. So the limit
//! is exact, and a process that runs out of descriptors stops accepting instead of taking on
//! clients that it cannot serve.

mod gate;
mod listeners;
mod mailbox;
mod queue;
mod routes;
#[cfg(any(test, fuzzing))]
pub(crate) mod simulation;
mod timers;
mod who;

use std::collections::HashSet;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::backend::{Address, Lease};
use crate::config::AtLimit;
use crate::counters::{Outcome, WorkerCounters};
use crate::driver::{Close, Closed, Completion, Done, Driver, Sock};
use crate::fastcgi::HeadRoom;
use crate::observe::Failures;
use crate::session::{
    Change, Changes, Context, Ending, Owner, Owners, Pool, PoolContext, Retired, Session,
    SessionId, Step, Telling,
};
use crate::sys::Errno;
use crate::sys::clock::ThreadClock;
use crate::sys::net::TcpOptions;

pub use gate::Gate;
pub use listeners::{Backlog, ListenerOf, Listening, Sharing};
pub use mailbox::{Mailbox, Notice};
pub use routes::{Crowd, Limit, Route, Share};
pub use who::{Allowed, Unmapped, UserParts, Who};

use gate::Permit;
use listeners::{IdleListener, Listeners};
use mailbox::Notices;
use routes::{Admission, Place, Served, Standing};
use timers::Timers;
use who::{Refusal, Seat, UserSession};

/// How long accepting pauses when the system has no descriptor or memory left, unless a session of
/// this worker ends before.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a worker goes without the socket that it keeps for the next client, when another one
/// lacks descriptors: long enough for that one to get what it needs after its own pause.
const SCARCITY_PAUSE: Duration = Duration::from_millis(500);

/// How often a worker looks whether a route that has as many sessions as it may is below that again: those that
/// end on other workers are not announced.
const CROWD_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Clients that a worker takes from one listener in one turn. With one, a burst of 16 waits up to
/// 16 turns: with new connections per request, 4 gave 6 % more requests for 9 % less CPU each than 1
/// (medians of 7 interleaved runs); 8 and 16 could not be told from 4. With many, a busy worker would
/// take what idle ones could serve at once.
const ACCEPTS_PER_TURN: usize = 8;

/// Clients that a draining worker takes from the backlogs in one turn.
const DRAIN_ACCEPTS_PER_TURN: usize = 64;

/// How often a worker with a queue looks whether an endpoint is back: the end of an ejection, and
/// checks that pass, are not announced. Long enough to cost nothing, and short compared with the
/// patience of those who wait.
const QUEUE_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a draining worker waits for the first request of a FastCGI connection that has sent none: a web
/// server sends it as soon as it has connected.
const LAST_CALL_INTERVAL: Duration = Duration::from_millis(250);

/// Places that a worker gives to those who wait in one turn. Connections that ended at one time would
/// otherwise begin at one time, and everybody else on the worker wait for all of them.
const PLACES_PER_TURN: u32 = 2;

/// Sessions in a row that can make no use of the place that is free, before the worker looks at others:
/// each has failed at the endpoint a moment ago, and asks it again after a pause.
const USELESS_OFFERS_MAX: u32 = 64;

/// What all workers share, whatever they serve.
pub struct Shared {
    /// Counts sessions over all workers.
    pub gate: Arc<Gate>,
    /// Where choices by chance come from.
    pub seed: u64,
    /// Accepts that failed.
    pub accept_failures: Failures,
    /// What becomes of clients that find no permit left.
    pub at_limit: AtLimit,
    /// Those of them that were closed.
    pub refusals: Failures,
    /// Times at which the limit on sessions was reached, and clients wait.
    pub limit_reached: Failures,
    /// What one user may have of them; `None`: all.
    pub users: Option<Arc<UserParts>>,
}

/// One core's worker.
pub struct Worker<D: Driver> {
    /// Its number among the workers.
    number: usize,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    counters: Arc<WorkerCounters>,
    driver: D,
    owners: Owners,
    listeners: Listeners,
    sessions: Slab<Active<D>>,
    timers: Timers,
    /// When sessions are ready to make way where all permits are taken.
    yielding: Timers,
    /// The gate was asked to tell when they are.
    awaits_limit: bool,
    /// Those that the worker serves; sessions and listeners name them by their place here.
    routes: Vec<Served>,
    ticket: Option<Ticket>,
    /// A socket for the next ticket, if the last one's was not needed.
    spare: Option<Sock>,
    /// Clients that were accepted when no ticket was left: a listener's armed accept is not taken
    /// back when another listener's client used the ticket. At most one for each listener.
    parked: Vec<Parked>,
    /// Permits of sessions that ended.
    retired_permits: Retired<Permit>,
    /// Places at endpoints whose connections were closed.
    retired_leases: Retired<Lease>,
    /// What the steps of sessions mean to others.
    changes: Changes,
    /// A client was sent away in this turn, or a listener was done with: the next release closes it.
    to_release: bool,
    /// When the queues are looked at though no place was given back. `None`: nobody waits.
    queues_looked_at: Option<Instant>,
    /// When it is looked whether routes that were full take clients again. `None`: no route is.
    crowds_looked_at: Option<Instant>,
    /// The route whose queue is looked at first.
    first_queue: usize,
    /// No accept is armed before this time.
    accepting_again_at: Option<Instant>,
    /// The last time it asked, there was no permit.
    at_limit: bool,
    /// Sessions that ended in this turn because their endpoint was removed.
    removed: usize,
    phase: Phase,
    /// When FastCGI connections that have sent no request end. `None`: the worker does not drain.
    last_call: Option<Instant>,
    now: Instant,
}

struct Active<D: Driver> {
    session: Session<D>,
    permit: Permit,
    route: usize,
    /// Where connections are limited.
    place: Option<Place>,
    /// Where those of its user are. Given back with the session, before its client can see the end: who
    /// comes back then finds it free.
    _seats: Seats,
}

/// What is counted of a client's user: of this route, and of all.
type Seats = (Option<Seat>, Option<UserSession>);

/// What a client needs, taken before it is accepted.
struct Ticket {
    permit: Permit,
    spare: Sock,
}

/// A client that was accepted and is not served yet.
struct Parked {
    client: Sock,
    listener: usize,
}

/// A client was sent away, and is counted.
struct Refused;

/// What a queue is left with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Nobody, or nobody who could use a place now.
    IsServed,
    /// The turn has given enough, and there are places for more.
    HasPlaces,
}

/// An accept failed, and the worker has drawn the consequences.
struct AcceptFailed;

/// There is no ticket for another client in this turn.
struct NoMoreClients;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Backlogs are emptied, unless they are for others, then the listeners closed; sessions finish.
    Draining,
}

impl<D: Driver> Worker<D> {
    /// A worker that accepts on the listeners of its shares once it runs.
    pub fn new(
        number: usize,
        mut driver: D,
        shares: Vec<Share>,
        shared: Arc<Shared>,
        mailbox: Arc<Mailbox>,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        let mut owners = Owners::default();
        let mut listeners = Listeners::default();
        // Another seed for each, or all of them send their first session to the same endpoint.
        let seed = shared.seed.wrapping_add(number as u64);
        let head_room = HeadRoom::default();
        let mut routes = Vec::with_capacity(shares.len());
        for share in shares {
            let mut served = Served::new(
                share.route,
                share.limit,
                share.counters,
                seed,
                head_room.clone(),
            );
            served.access_log = share.access_log;
            listeners.add_route(routes.len(), share.listeners, &mut driver, &mut owners);
            routes.push(served);
        }
        let now = driver.now();
        Self {
            number,
            listeners,
            routes,
            shared,
            mailbox,
            counters,
            driver,
            owners,
            sessions: Slab::new(),
            timers: Timers::default(),
            yielding: Timers::default(),
            awaits_limit: false,
            ticket: None,
            spare: None,
            parked: Vec::new(),
            retired_permits: Retired::default(),
            retired_leases: Retired::default(),
            changes: Changes::default(),
            to_release: false,
            queues_looked_at: None,
            crowds_looked_at: None,
            first_queue: 0,
            accepting_again_at: None,
            at_limit: false,
            removed: 0,
            phase: Phase::Serving,
            last_call: None,
            now,
        }
    }

    /// Runs until drained or cut. An error is one of the driver: the worker cannot go on.
    pub fn run(mut self) -> Result<(), Errno> {
        if let Some(clock) = ThreadClock::of_this_thread() {
            self.counters.clock.get_or_init(|| clock);
        }
        loop {
            let told = self.read_mailbox();
            self.expire_deadlines();
            self.make_way();
            if self.last_call.is_some_and(|time| time <= self.now) {
                self.drain_sessions(true);
            }
            // Before a new ticket is asked for, and after everything that someone waits for.
            self.driver.release();
            self.to_release = false;
            self.retired_permits.released(&self.driver);
            let places_free = self.retired_leases.released(&self.driver);
            let places_free = mem::take(&mut self.changes.room) || places_free;
            self.look_at_pools();
            self.serve_queues(places_free || told.has(Notice::Addresses));
            self.admit();
            if self.is_finished() {
                self.shared.gate.leave(self.number);
                self.counters.finished.set(1);
                return Ok(());
            }
            if told.has(Notice::Permit) {
                self.shared.gate.pass_on();
            }
            self.count_turn();
            self.driver.turn(self.next_deadline())?;
            self.count_stale_events();
            self.now = self.driver.now();
            self.retired_permits.turned();
            self.retired_leases.turned();
            while let Some(completion) = self.driver.next() {
                self.dispatch(completion);
            }
        }
    }

    /// Before the wait, so that what is seen of a worker that waits is how it waits.
    fn count_turn(&self) {
        self.counters.turns.add(1);
        let pipes = self.driver.pipes_in_use();
        self.counters.pipes_in_use.set(pipes as u64);
    }

    /// Mostly there are none.
    fn count_stale_events(&mut self) {
        let stale = self.driver.take_stale_events();
        if stale > 0 {
            self.counters.stale_events.add(stale);
        }
    }

    fn is_finished(&self) -> bool {
        self.phase == Phase::Draining
            && self.listeners.are_closed()
            && self.parked.is_empty()
            && self.sessions.is_empty()
            && self.retired_permits.is_empty()
            && self.retired_leases.is_empty()
    }

    fn next_deadline(&self) -> Option<Instant> {
        // No waiting with what ended since the last release, nor with what the driver joins: that may
        // have completed in the last turn already.
        let to_release =
            self.to_release || self.retired_permits.is_urgent() || self.retired_leases.is_urgent();
        if to_release || self.accepting_again_at.is_none() && self.has_more_to_empty() {
            return Some(self.now);
        }
        // What is on its way out is the way that is to be made.
        let looks_for_limit = !self.awaits_limit && self.retired_permits.is_empty();
        let dates = [
            self.timers.next(),
            self.yielding.next().filter(|_| looks_for_limit),
            self.accepting_again_at,
            self.queues_looked_at,
            self.crowds_looked_at,
            self.last_call,
        ];
        let pools = self
            .routes
            .iter()
            .filter_map(|served| served.pool.look_at());
        dates.into_iter().flatten().chain(pools).min()
    }

    /// Whether backlogs were left because the turn had done enough, not for want of a ticket.
    fn has_more_to_empty(&self) -> bool {
        self.ticket.is_some() && self.to_empty().is_some()
    }

    /// A listener that nobody new comes to, and whose backlog is to be served.
    fn to_empty(&self) -> Option<IdleListener> {
        self.listeners.to_empty(self.phase == Phase::Draining)
    }

    fn dispatch(&mut self, completion: Completion) {
        let Completion { sock, lane, done } = completion;
        match self.owners.of(sock) {
            Owner::Listener(listener) => self.accepted(listener, done),
            Owner::Session(id, end) => {
                self.step(id, |session, cx| session.complete(end, lane, done, cx));
            }
            Owner::Upstream(route, id) => {
                let (pool, mut cx) = self.pool_parts(route);
                let change = pool.complete(id, lane, done, &mut cx);
                self.changes.room |= change != Change::None;
            }
        }
    }

    // --- mailbox ------------------------------------------------------------------------------

    /// What it says of permits is left to `admit`.
    fn read_mailbox(&mut self) -> Notices {
        let notices = self.mailbox.take();
        if notices.has(Notice::Addresses) {
            for route in 0..self.routes.len() {
                if self.routes[route].follow() {
                    let set = self.routes[route].route.published.load_full();
                    let (pool, mut cx) = self.pool_parts(route);
                    pool.follow(&set, &mut cx);
                    self.each_session_of(route, Session::addresses_changed);
                    self.compare_endpoints(route);
                }
            }
        }
        if notices.has(Notice::Limit) {
            self.awaits_limit = false;
        }
        if notices.has(Notice::Scarce) && self.ticket.is_some() {
            self.give_ticket_back();
            self.accepting_again_at = Some(self.now + SCARCITY_PAUSE);
        }
        if notices.has(Notice::Listeners) {
            for (of, listening) in self.mailbox.take_listeners() {
                let (driver, owners) = (&mut self.driver, &mut self.owners);
                self.listeners.replace(of, listening, driver, owners);
            }
        }
        if notices.has(Notice::Drain) {
            self.phase = Phase::Draining;
            self.listeners.disarm(&mut self.driver);
            self.listeners.leave_backlogs(&mut self.driver);
            self.drain_sessions(false);
        }
        if notices.has(Notice::Cut) {
            self.cut();
        }
        notices
    }

    /// Ends those that wait for a next request. Connections that have not sent any get a moment more.
    fn drain_sessions(&mut self, is_last_call: bool) {
        self.last_call = Some(self.now + LAST_CALL_INTERVAL);
        for route in 0..self.routes.len() {
            self.each_session_of(route, |session, cx| session.drain(is_last_call, cx));
        }
    }

    /// Tells sessions whether their endpoints are in the set, if it matters to them.
    fn compare_endpoints(&mut self, route: usize) {
        let Served { route: shared, .. } = &self.routes[route];
        if shared.timeouts.removed.is_none() {
            return;
        }
        let set = shared.published.load_full();
        let current: HashSet<Address> = set.endpoints().iter().map(|e| e.address).collect();
        self.each_session_of(route, |session, cx| match session.endpoint() {
            Some(endpoint) => session.endpoint_is_current(current.contains(&endpoint), cx),
            None => Step::Continue,
        });
    }

    fn cut(&mut self) {
        self.phase = Phase::Draining;
        self.listeners.close(&mut self.driver);
        self.give_ticket_back();
        for parked in self.parked.drain(..) {
            self.driver.close(parked.client, Close::Reset);
        }
        let cut = self.sessions.len();
        if cut > 0 {
            tracing::warn!(
                sessions = cut,
                "shutdown: cutting sessions that did not finish"
            );
        }
        for route in 0..self.routes.len() {
            self.each_session_of(route, |_, _| Step::End(Ending::Cut));
        }
    }

    // --- sessions -----------------------------------------------------------------------------

    /// Serves a client, or lets it wait; a client with nowhere to wait is sent away, and the ticket is
    /// for the next one.
    fn start_session(&mut self, client: Sock, listener: usize, ticket: Ticket) {
        let of = self.listeners.of(listener);
        self.routes[of.route].counters.accepted.add(1);
        let seats = match self.admit_user(client, of.route) {
            Ok(seats) => seats,
            Err(Refused) => {
                self.ticket = Some(ticket);
                return;
            }
        };
        let (entry, place) = match self.routes[of.route].admit(self.now) {
            Admission::Serve(entry, place) => (entry, place),
            Admission::Refuse => {
                self.ticket = Some(ticket);
                return self.refuse(client, of.route);
            }
        };
        let vacant = self.sessions.vacant_entry();
        let id = SessionId(vacant.key());
        let mut cx = context(
            id,
            &mut self.driver,
            &mut self.owners,
            &mut self.routes[of.route],
            &mut self.retired_leases,
            &mut self.changes,
            (of.route, self.phase, self.now),
        );
        let (session, step, spare) =
            Session::start(client, of.number, ticket.spare, entry, &mut cx);
        self.spare = self.spare.or(spare);
        vacant.insert(Active {
            session,
            permit: ticket.permit,
            route: of.route,
            place,
            _seats: seats,
        });
        self.routes[of.route].route.crowd.enter();
        self.after_step(id, step);
    }

    /// Whether the client is one of those whom the route serves. If not, it is sent away before a byte of
    /// its was looked at.
    fn admit_user(&mut self, client: Sock, route: usize) -> Result<Seats, Refused> {
        let Served {
            route, counters, ..
        } = &self.routes[route];
        let (who, users) = (route.who.as_ref(), self.shared.users.as_ref());
        if who.is_none() && users.is_none() {
            return Ok((None, None));
        }
        let peer = self.driver.peer_credentials(client);
        let seat = who.map_or(Ok(None), |who| who.admit(client, peer, &mut self.driver));
        let seats = seat.and_then(|seat| match (users, peer) {
            (Some(users), Some(peer)) => match users.admit(peer.uid) {
                Some(session) => Ok((seat, Some(session))),
                None => Err(Refusal::UserPart),
            },
            (None, _) | (_, None) => Ok((seat, None)),
        });
        let refusal = match seats {
            Ok(seats) => return Ok(seats),
            Err(refusal) => refusal,
        };
        // All of it before the client can see its end.
        counters.ended(refusal.outcome());
        let refusals = match (refusal, who, users) {
            (Refusal::UserPart, _, Some(users)) => &users.refusals,
            (_, Some(who), _) => who.refusals(refusal),
            (_, None, _) => unreachable!("somebody has refused it"),
        };
        if let Some(refused) = refusals.count(self.now) {
            tracing::warn!(
                route = %route.name,
                refused,
                uid = peer.map(|peer| peer.uid),
                gid = peer.map(|peer| peer.gid),
                pid = peer.map(|peer| peer.pid),
                "client refused: {refusal}"
            );
        }
        self.driver.dismiss(client);
        self.driver.close(client, Close::Graceful);
        self.to_release = true;
        Err(Refused)
    }

    fn refuse(&mut self, client: Sock, route: usize) {
        self.driver.close(client, Close::Reset);
        self.to_release = true;
        let ending = Ending::of_refusal(&self.routes[route].balancer);
        self.count_ending(route, ending, ending.outcome());
    }

    /// Lets a session act, and does what it says.
    fn step(
        &mut self,
        id: SessionId,
        act: impl FnOnce(&mut Session<D>, &mut Context<'_, D>) -> Step,
    ) {
        let active = self
            .sessions
            .get_mut(id.0)
            .expect("only live sessions own sockets");
        let mut cx = context(
            id,
            &mut self.driver,
            &mut self.owners,
            &mut self.routes[active.route],
            &mut self.retired_leases,
            &mut self.changes,
            (active.route, self.phase, self.now),
        );
        let step = act(&mut active.session, &mut cx);
        self.after_step(id, step);
    }

    fn after_step(&mut self, id: SessionId, step: Step) {
        if let Step::End(ending) = step {
            return self.end_session(id, ending);
        }
        let active = &mut self.sessions[id.0];
        let served = &mut self.routes[active.route];
        let is_full = active.session.is_queued() && served.is_queue_full(self.now);
        if let (Some(place), Some(queue)) = (&mut active.place, &mut served.queue)
            && active.session.is_queued() != (place.standing == Standing::Waiting)
        {
            if place.standing != Standing::Waiting && place.request != active.session.request() {
                *place = Place::new(queue.arrive(), active.session.request());
            }
            place.standing = match place.standing {
                Standing::New if is_full && !active.session.is_to_stay() => {
                    return self.step(id, Session::refuse);
                }
                Standing::New | Standing::Called => {
                    queue.join(place.arrival, id, self.now);
                    let is_first = place.standing == Standing::New;
                    served.counters.queued.add(u64::from(is_first));
                    let look_at = self.queues_looked_at;
                    let place_at = served.balancer.pace_ends(self.now);
                    let look_at = look_at.into_iter().chain(place_at);
                    let latest = self.now + QUEUE_LOOK_INTERVAL;
                    self.queues_looked_at = Some(look_at.min().map_or(latest, |at| at.min(latest)));
                    Standing::Waiting
                }
                Standing::Waiting => {
                    let since = queue.leave(place.arrival);
                    let waited = self.now.saturating_duration_since(since);
                    served.counters.queue_wait.record(waited);
                    Standing::Called
                }
            };
            served.count_queue();
        }
        let timeouts = served.route.timeouts;
        if let Some(deadline) = active.session.deadline(timeouts) {
            self.timers.file(id, deadline);
        }
        if let Some(ready) = active.session.yields_at(timeouts) {
            self.yielding.file(id, ready);
        }
    }

    fn end_session(&mut self, id: SessionId, ending: Ending) {
        let mut active = self.sessions.remove(id.0);
        let served = &mut self.routes[active.route];
        served.route.crowd.leave();
        let mut outcome = ending.outcome();
        if let Some(place) = active.place
            && place.standing == Standing::Waiting
            && let Some(queue) = &mut served.queue
        {
            queue.leave(place.arrival);
            served.count_queue();
            if ending == Ending::ClientLeft {
                outcome = Outcome::QueueLeft;
            }
        }
        active.session.tell_end(
            outcome,
            &Telling {
                counters: &served.counters.fastcgi,
                log: served.access_log.as_ref(),
                now: self.now,
            },
        );
        let client = active.session.client();
        let leaving = active
            .session
            .close(ending, &mut self.driver, &mut self.retired_leases);
        let (last, closed) = match leaving {
            Some(sock) => (sock, Closed::Soon),
            None => (client, Closed::Now),
        };
        self.retired_permits.push(active.permit, last, closed);
        // Descriptors are free again.
        self.accepting_again_at = None;
        tracing::debug!(
            worker = self.number,
            session = id.0,
            "session ended: {ending}"
        );
        self.count_ending(active.route, ending, outcome);
    }

    fn count_ending(&mut self, route: usize, ending: Ending, outcome: Outcome) {
        let Served {
            route, counters, ..
        } = &self.routes[route];
        counters.ended(outcome);
        self.removed += usize::from(ending == Ending::EndpointRemoved);
        if ending.is_failure()
            && let Some(count) = route.session_failures.count(self.now)
        {
            tracing::warn!(route = %route.name, failed = count, "session failed: {ending}");
        }
    }

    /// In the order of arrival where that decides who is served first.
    fn each_session_of(
        &mut self,
        route: usize,
        act: impl Fn(&mut Session<D>, &mut Context<'_, D>) -> Step,
    ) {
        let of_route = self
            .sessions
            .iter()
            .filter(|(_, active)| active.route == route);
        let mut ids: Vec<_> = of_route
            .map(|(id, active)| {
                (
                    active.place.as_ref().map(|place| place.arrival),
                    SessionId(id),
                )
            })
            .collect();
        ids.sort_unstable();
        for (_, id) in ids {
            self.step(id, &act);
        }
    }

    // --- queues -------------------------------------------------------------------------------

    /// Gives free places to those who wait, by arrival. Where a turn cannot give all of them, the next one
    /// begins elsewhere: a queue with places that is never empty would leave the others nothing.
    fn serve_queues(&mut self, something_changed: bool) {
        let Some(look_at) = self.queues_looked_at else {
            return;
        };
        if !something_changed && look_at > self.now {
            return;
        }
        self.queues_looked_at = None;
        let mut left = PLACES_PER_TURN;
        let routes = self.routes.len();
        for route in (self.first_queue..routes).chain(0..self.first_queue) {
            let before = left;
            if self.serve_queue(route, &mut left) == Line::HasPlaces {
                // The next turn goes on, and does not wait.
                self.queues_looked_at = Some(self.now);
                self.first_queue = queue::next_first(route, left < before, routes);
                return;
            }
        }
        let waiting = self.routes.iter().filter(|served| served.has_queue());
        let room_at = waiting.map(|served| served.place_at(self.now));
        let latest = self.now + QUEUE_LOOK_INTERVAL;
        self.queues_looked_at = room_at
            .map(|room_at| room_at.map_or(latest, |at| at.clamp(self.now, latest)))
            .min();
    }

    /// Gives those who wait for one route at most as many places as are left in this turn.
    fn serve_queue(&mut self, route: usize, left: &mut u32) -> Line {
        if self.routes[route].lacks_places(self.now) {
            let (pool, mut cx) = self.pool_parts(route);
            pool.make_room(&mut cx);
        }
        let (mut last, mut useless) = (None, 0);
        while useless < USELESS_OFFERS_MAX
            && let Some((arrival, id)) = self.routes[route].next_in_line(last, self.now)
        {
            if *left == 0 {
                return Line::HasPlaces;
            }
            last = Some(arrival);
            self.step(id, Session::place_free);
            if self.is_waiting(id) {
                useless += 1;
            } else {
                *left -= 1;
            }
        }
        Line::IsServed
    }

    /// Closes kept connections whose time is up; in a drain, all of them once nobody is left.
    fn look_at_pools(&mut self) {
        let is_over = self.phase == Phase::Draining && self.sessions.is_empty();
        for route in 0..self.routes.len() {
            let (pool, mut cx) = self.pool_parts(route);
            if is_over {
                pool.close_all(&mut cx);
            } else {
                pool.expire(&mut cx);
            }
        }
    }

    fn pool_parts(&mut self, route: usize) -> (&mut Pool, PoolContext<'_, D>) {
        let cx = PoolContext {
            driver: &mut self.driver,
            owners: &mut self.owners,
            retired: &mut self.retired_leases,
            now: self.now,
        };
        (&mut self.routes[route].pool, cx)
    }

    fn is_waiting(&self, id: SessionId) -> bool {
        let place = self
            .sessions
            .get(id.0)
            .and_then(|active| active.place.as_ref());
        place.is_some_and(|place| place.standing == Standing::Waiting)
    }

    fn expire_deadlines(&mut self) {
        while let Some(id) = self.timers.take_due(self.now) {
            let Some(active) = self.sessions.get(id.0) else {
                continue;
            };
            let timeouts = self.routes[active.route].route.timeouts;
            match active.session.deadline(timeouts) {
                Some(deadline) if deadline <= self.now => self.step(id, Session::expire),
                Some(later) => self.timers.file(id, later),
                None => {}
            }
        }
        self.report_removed();
    }

    /// While all permits are taken, a session whose client may be gone ends for the sake of who comes next:
    /// one at a time, because with its permit the limit is not reached any more.
    fn make_way(&mut self) {
        while self.yielding.next().is_some_and(|at| at <= self.now)
            && !self.awaits_limit
            && self.retired_permits.is_empty()
        {
            if !self.shared.gate.is_full(self.number) {
                self.awaits_limit = true;
                return;
            }
            let due = self.yielding.take_due(self.now);
            let Some((id, active)) = due.and_then(|id| Some((id, self.sessions.get(id.0)?))) else {
                continue;
            };
            let timeouts = self.routes[active.route].route.timeouts;
            match active.session.yields_at(timeouts) {
                Some(ready) if ready <= self.now => {
                    self.step(id, |_, _| Step::End(Ending::HalfClosed));
                }
                Some(later) => self.yielding.file(id, later),
                // Bytes are on their way to it, and it is heard of when they are not.
                None => {}
            }
        }
    }

    /// Sessions that lose their endpoint by the same change end in the same turn.
    fn report_removed(&mut self) {
        let sessions = mem::take(&mut self.removed);
        if sessions > 0 {
            tracing::info!(
                worker = self.number,
                sessions,
                "ended sessions whose endpoint was removed (--removed-endpoint)"
            );
        }
    }

    // --- accepting ----------------------------------------------------------------------------

    /// Serves the clients that wait and, with a ticket at hand, asks for more.
    fn admit(&mut self) {
        self.crowds_looked_at = None;
        if self.accepting_again_at.is_some_and(|at| at > self.now) {
            return;
        }
        self.accepting_again_at = None;
        while !self.parked.is_empty() {
            match self.take_ticket() {
                Some(ticket) => {
                    let Parked { client, listener } = self.parked.remove(0);
                    self.start_session(client, listener, ticket);
                }
                None if self.is_refusing() => {
                    let Parked { client, listener } = self.parked.remove(0);
                    self.turn_away(client, listener);
                }
                None => return,
            }
        }
        if self.to_empty().is_some() && self.empty_backlogs().is_err() {
            return;
        }
        match self.phase {
            Phase::Serving => {
                // Where clients are refused, a permit is taken for one that is there: one at hand could
                // be the one for whose want another worker refuses.
                let refuses = self.shared.at_limit == AtLimit::Refuse;
                let routes = &self.routes;
                let takes = |route: usize| !routes[route].route.crowd.is_full();
                let has_idle = self.listeners.has_idle_of(takes);
                self.look_at_crowds();
                if has_idle && (refuses || self.prepare_ticket()) {
                    let routes = &self.routes;
                    let takes = |route: usize| !routes[route].route.crowd.is_full();
                    self.listeners.arm(takes, &mut self.driver);
                }
            }
            // Enough for one turn; the next one needs a ticket.
            Phase::Draining if !self.listeners.are_closed() => drop(self.prepare_ticket()),
            Phase::Draining => self.give_ticket_back(),
        }
    }

    /// Routes with as many sessions as they may have take no clients. The worker looks again without being told.
    fn look_at_crowds(&mut self) {
        let routes = &self.routes;
        let is_full = |route: usize| routes[route].route.crowd.is_full();
        self.crowds_looked_at = self
            .listeners
            .has_idle_of(is_full)
            .then(|| self.now + CROWD_LOOK_INTERVAL);
        if self.crowds_looked_at.is_some() {
            let full = routes.iter().filter(|served| served.route.crowd.is_full());
            full.for_each(|served| served.report_crowd(self.now));
        }
    }

    /// An armed accept ended.
    fn accepted(&mut self, listener: usize, done: Done) {
        self.listeners.disarmed(listener);
        if self.phase == Phase::Draining {
            self.listeners.leave_backlogs(&mut self.driver);
        }
        match done {
            Done::Accepted(client) => match self.take_ticket() {
                Some(ticket) => {
                    self.start_session(client, listener, ticket);
                    self.accept_more(listener);
                }
                None if self.is_refusing() => self.turn_away(client, listener),
                None => self.parked.push(Parked { client, listener }),
            },
            Done::Failed(Errno(libc::EINVAL)) if self.listeners.refuses_newcomers(listener) => {}
            Done::Failed(errno) => self.accept_failed(errno),
            done => unreachable!("an accept ends with {done:?}"),
        }
    }

    /// Takes a few more clients of the same burst.
    fn accept_more(&mut self, listener: usize) {
        if self.shared.at_limit == AtLimit::Refuse || !self.listeners.expects_more(listener) {
            return;
        }
        let of = self.listeners.of(listener);
        for accepted in 1..ACCEPTS_PER_TURN {
            let is_full = self.routes[of.route].route.crowd.is_full();
            if is_full || !self.prepare_ticket() || !self.accept_one(listener).unwrap_or(false) {
                self.listeners.looked_for_more(listener, accepted > 1);
                return;
            }
        }
        self.listeners.looked_for_more(listener, true);
    }

    /// Whether it is for want of a permit that there is no ticket, and clients are not to wait for one.
    fn is_refusing(&self) -> bool {
        self.at_limit && self.shared.at_limit == AtLimit::Refuse
    }

    fn turn_away(&mut self, client: Sock, listener: usize) {
        self.driver.close(client, Close::Graceful);
        self.to_release = true;
        let Served {
            route, counters, ..
        } = &self.routes[self.listeners.of(listener).route];
        counters.accepted.add(1);
        counters.ended(Outcome::QueueFull);
        if let Some(refused) = self.shared.refusals.count(self.now) {
            tracing::warn!(route = %route.name, refused, "--connections-max is reached: client refused");
        }
    }

    /// Serves a client that waits, with the ticket at hand. False if none waits.
    fn accept_one(&mut self, listener: usize) -> Result<bool, AcceptFailed> {
        match self.driver.accept_now(self.listeners.sock(listener)) {
            Ok(Some(client)) => {
                let ticket = self.ticket.take().expect("the caller prepared one");
                self.start_session(client, listener, ticket);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(errno) => {
                self.accept_failed(errno);
                Err(AcceptFailed)
            }
        }
    }

    fn accept_failed(&mut self, errno: Errno) {
        match errno {
            // The drain took the accept back, or the client left while it waited.
            Errno(libc::ECANCELED | libc::ECONNABORTED | libc::EINTR | libc::EAGAIN) => {}
            errno => self.pause_accepting("accept a client", errno),
        }
    }

    /// The ticket is given back for the time: its descriptor may be the one that another worker, or
    /// the next accept, lacks.
    fn pause_accepting(&mut self, operation: &str, errno: Errno) {
        self.accepting_again_at = Some(self.now + ACCEPT_PAUSE);
        self.give_ticket_back();
        if errno.is_exhaustion() {
            self.counters.pauses_exhausted.add(1);
            self.shared.gate.announce_scarcity(self.number);
        } else {
            self.counters.pauses_other.add(1);
        }
        let Some(failed) = self.shared.accept_failures.count(self.now) else {
            return;
        };
        let remedy = if errno.is_exhaustion() {
            " (raise the limit of open descriptors, LimitNOFILE= under systemd, or lower \
             --connections-max)"
        } else {
            ""
        };
        tracing::warn!(
            failed,
            "{operation}: {errno}; accepting pauses and resumes{remedy}"
        );
    }

    fn give_ticket_back(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.driver.close(ticket.spare, Close::Graceful);
        }
        if let Some(spare) = self.spare.take() {
            self.driver.close(spare, Close::Graceful);
        }
    }

    fn take_ticket(&mut self) -> Option<Ticket> {
        self.prepare_ticket();
        self.ticket.take()
    }

    /// Whether there is a ticket, if need be a new one.
    fn prepare_ticket(&mut self) -> bool {
        /// What a spare socket is for. A session whose endpoint is IPv6 opens its own.
        const IPV4: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        if self.ticket.is_some() {
            return true;
        }
        let Some(permit) = self.shared.gate.permit(self.number) else {
            // It may ask in vain in many turns before there is one again.
            if !self.at_limit {
                self.at_limit = true;
                self.counters.pauses_at_limit.add(1);
                self.report_limit();
            }
            return false;
        };
        self.at_limit = false;
        // A route's own options are for the session to set.
        if let Some(spare) = self.spare.take() {
            self.ticket = Some(Ticket { permit, spare });
            return true;
        }
        match self.driver.open_tcp(&IPV4, &TcpOptions::default()) {
            Ok(spare) => {
                self.ticket = Some(Ticket { permit, spare });
                true
            }
            Err(errno) => {
                self.pause_accepting("open a socket for the next client", errno);
                false
            }
        }
    }

    /// Where clients are refused at the limit, each of them is told of instead.
    fn report_limit(&self) {
        if self.shared.at_limit == AtLimit::Wait
            && let Some(times) = self.shared.limit_reached.count(self.now)
        {
            tracing::warn!(
                times,
                sessions_max = self.shared.gate.permits_max(),
                "--connections-max is reached: no client is accepted until a session ends, and those that \
                 come wait in the sockets' backlogs (raise it, or see who holds the sessions: spliceway \
                 status)"
            );
        }
    }

    /// Takes what waits in the backlogs, so that nobody who connected before the drain, or before another
    /// listener took the place of theirs, is refused; and closes each listener that is found empty.
    fn empty_backlogs(&mut self) -> Result<(), NoMoreClients> {
        for _ in 0..DRAIN_ACCEPTS_PER_TURN {
            let Some(listener) = self.to_empty() else {
                break;
            };
            if !self.prepare_ticket() {
                return Err(NoMoreClients);
            }
            match self.accept_one(listener.number) {
                Ok(true) => {}
                Ok(false) => {
                    self.listeners.close_one(listener, &mut self.driver);
                    self.to_release = true;
                }
                Err(AcceptFailed) => return Err(NoMoreClients),
            }
        }
        Ok(())
    }
}

/// What a session of this route can use.
fn context<'a, D: Driver>(
    id: SessionId,
    driver: &'a mut D,
    owners: &'a mut Owners,
    served: &'a mut Served,
    retired: &'a mut Retired<Lease>,
    changes: &'a mut Changes,
    (route, phase, now): (usize, Phase, Instant),
) -> Context<'a, D> {
    Context {
        id,
        driver,
        owners,
        queue_is_empty: !served.has_queue(),
        route,
        protocol: &served.route.protocol,
        pool: &mut served.pool,
        changes,
        draining: phase == Phase::Draining,
        published: &served.route.published,
        upstreams: &served.route.upstreams,
        balancer: &mut served.balancer,
        retired,
        head_room: &served.head_room,
        timeouts: served.route.timeouts,
        counters: &served.counters,
        access_log: served.access_log.as_ref(),
        now,
    }
}
