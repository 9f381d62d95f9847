//! The event loop of one core.
//!
//! A worker owns its driver, its sessions and everything that they hold. It shares with others only
//! the published address set, the gate that counts sessions, and the failure counts.
//!
//! `admission.rs` is the way in, `waiting.rs` the wait for a place at an endpoint.

mod admission;
#[cfg(any(test, fuzzing))]
mod audit;
mod crowd;
mod dates;
mod due;
mod gate;
mod held;
mod leaving;
mod listeners;
mod looking;
mod mailbox;
mod orders;
mod outage;
mod overload;
mod parking;
mod pausing;
mod queue;
mod routes;
#[cfg(any(test, fuzzing))]
pub(crate) mod simulation;
mod timers;
mod waiting;
mod who;

use std::collections::{BTreeSet, HashSet};
use std::hint;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::backend::Address;
use crate::config::AtLimit;
use crate::counters::{Outcome, WorkerCounters};
use crate::driver::{Closed, Completion, Driver};
use crate::fastcgi::HeadRoom;
use crate::observe::Failures;
use crate::session::{
    Change, Changes, Context, Ending, Hands, LetsGo, Owner, Retired, RouteKey, Session, SessionId,
    Step, Telling,
};
use crate::sys::Errno;
use crate::sys::clock::ThreadClock;

pub(crate) use crowd::Crowd;
pub(crate) use gate::Gate;
pub(crate) use leaving::{Arrived, Leave, LeavingClient};
pub(crate) use listeners::{Backlog, ListenerOf, Listening, Sharing};
pub(crate) use looking::{Look, LookPart, SessionRow};
pub(crate) use mailbox::{Mailbox, Notice};
pub(crate) use orders::{Amendment, ListenerChange, Order, Receipt, RouteChange};
pub(crate) use overload::Adaptive;
pub(crate) use routes::{Limit, Route, RouteNumber, Share, ShareRules, Spread};
pub(crate) use who::{Allowed, Unmapped, UserParts, Who};

use admission::Admission;
use dates::Dates;
use gate::Permit;
use leaving::CameTo;
use listeners::Listeners;
use looking::Looks;
use mailbox::Notices;
use routes::{InRoute, OwnPolicy, Routes, Served};
use timers::Timers;
#[cfg(any(test, fuzzing))]
pub(crate) use waiting::QUEUE_LOOK_INTERVAL;
use waiting::{Place, QueueIsFull, QueueLooks};
use who::{Seat, UserSession};

/// How long a draining worker waits for the first request of a FastCGI connection that has sent none: a web
/// server sends it as soon as it has connected.
const LAST_CALL_INTERVAL: Duration = Duration::from_millis(250);

/// What all workers share, whatever they serve.
pub(crate) struct Shared {
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
pub(crate) struct Worker<D: Driver> {
    /// Its number among the workers.
    number: usize,
    /// Where its routes' choices by chance come from.
    seed: u64,
    /// What the large heads of its requests may take.
    head_room: HeadRoom,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    counters: Arc<WorkerCounters>,
    hands: Hands<D>,
    listeners: Listeners,
    sessions: Slab<Active<D>>,
    timers: Timers,
    /// When sessions are ready to make way where all permits are taken.
    yielding: Timers,
    /// The gate was asked to tell when they are.
    awaits_limit: bool,
    /// Those that the worker serves; sessions and listeners name them by their place here.
    routes: Routes,
    /// Those of them that take no new clients, and when FastCGI connections of theirs that have sent no request end,
    /// the next time: their backlogs may bring more of them.
    last_calls: Dates,
    /// Those that take no new clients, or let theirs go, and of which something has changed since they were looked at.
    going: BTreeSet<RouteKey>,
    /// Of orders whose effect somebody waits for.
    receipts: Vec<Receipt>,
    admission: Admission,
    queue_looks: QueueLooks,
    /// Those of its routes that are paused, and until when.
    pauses: Dates,
    /// Permits of sessions that ended.
    retired_permits: Retired<Permit>,
    /// What the steps of sessions mean to others.
    changes: Changes,
    /// A client was sent away in this turn, or a listener was done with: the next release closes it.
    to_release: bool,
    /// Routes with connections that no request uses, and when those are looked at.
    pool_looks: Dates,
    /// Who asks what the sessions do.
    looks: Looks,
    /// Sessions that ended in this turn because their endpoint was removed.
    removed: usize,
    phase: WorkerPhase,
    /// Another process may hand clients over.
    expects_arrivals: bool,
    /// How long it looks for what comes before it sleeps. `None`: it sleeps at once.
    busy_poll: Option<Duration>,
    /// When FastCGI connections that have sent no request end. `None`: the worker does not drain.
    last_call: Option<Instant>,
}

struct Active<D: Driver> {
    session: Session<D>,
    permit: Permit,
    route: RouteKey,
    in_route: InRoute,
    /// The rules that it began with.
    policy: OwnPolicy,
    /// Whether it is counted among those of the route, over all workers.
    is_in_crowd: bool,
    /// Which of the route's listeners it came to, for who takes it over.
    came_to: CameTo,
    /// Whether it is counted among those that will want no place any more, because the route's clients leave.
    wants_no_place: bool,
    /// Where connections are limited.
    place: Option<Place>,
    /// Where those of its user are. Given back with the session, before its client can see the end: who
    /// comes back then finds it free.
    seats: Seats,
}

/// What is counted of a client's user: of this route, and of all.
type Seats = (Option<Seat>, Option<UserSession>);

/// What comes when a worker has done all that it can do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// A wait, until this time at most.
    Until(Option<Instant>),
    Finished,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WorkerPhase {
    Serving,
    /// Backlogs are emptied, unless they are for others, then the listeners closed; sessions finish.
    Draining,
}

impl<D: Driver> Worker<D> {
    /// A worker that accepts on the listeners of its shares once it runs.
    pub(crate) fn new(
        number: usize,
        driver: D,
        shares: Vec<Share>,
        shared: Arc<Shared>,
        mailbox: Arc<Mailbox>,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        let mut worker = Self {
            number,
            // Another one for each, or all of them send their first session to the same endpoint.
            seed: shared.seed.wrapping_add(number as u64),
            head_room: HeadRoom::default(),
            listeners: Listeners::default(),
            routes: Routes::default(),
            last_calls: Dates::default(),
            going: BTreeSet::new(),
            receipts: Vec::new(),
            shared,
            mailbox,
            counters,
            hands: Hands::new(driver),
            sessions: Slab::new(),
            timers: Timers::default(),
            yielding: Timers::default(),
            awaits_limit: false,
            admission: Admission::default(),
            queue_looks: QueueLooks::default(),
            pauses: Dates::default(),
            retired_permits: Retired::default(),
            changes: Changes::default(),
            to_release: false,
            pool_looks: Dates::default(),
            looks: Looks::default(),
            removed: 0,
            phase: WorkerPhase::Serving,
            expects_arrivals: false,
            busy_poll: None,
            last_call: None,
        };
        shares.into_iter().for_each(|share| worker.add_route(share));
        worker
    }

    /// Looks for what comes for so long before it sleeps: waking up takes longer than a look.
    pub(crate) fn polling_for(mut self, time: Option<Duration>) -> Self {
        self.busy_poll = time;
        self
    }

    /// Runs until drained or cut. An error is one of the driver: the worker cannot go on.
    pub(crate) fn run(mut self) -> Result<(), Errno> {
        if let Some(clock) = ThreadClock::of_this_thread() {
            self.counters.clock.get_or_init(|| clock);
        }
        while let Rest::Until(date) = self.do_what_is_due() {
            self.wait(date)?;
            self.take_completions();
        }
        Ok(())
    }

    /// Until something comes, or until this time.
    fn wait(&mut self, until: Option<Instant>) -> Result<(), Errno> {
        if let Some(time) = self.busy_poll {
            let end = self.hands.driver.now() + time;
            let end = until.map_or(end, |until| until.min(end));
            if self.poll(end)? {
                return Ok(());
            }
        }
        self.hands.driver.turn(until)
    }

    /// Looks without waiting until this time. Whether something has come.
    fn poll(&mut self, end: Instant) -> Result<bool, Errno> {
        loop {
            let now = self.hands.driver.now();
            if now >= end {
                return Ok(false);
            }
            self.hands.driver.turn(Some(now))?;
            if self.hands.driver.has_completions() || self.mailbox.has_notices() {
                return Ok(true);
            }
            hint::spin_loop();
        }
    }

    /// All that can be done before a wait.
    fn do_what_is_due(&mut self) -> Rest {
        let told = self.read_mailbox();
        self.look_at_pauses();
        self.expire_deadlines();
        self.make_way();
        if self.last_call.is_some_and(|time| time <= self.hands.now) {
            self.drain_sessions(true);
        }
        self.look_after_going();
        self.acknowledge_orders();
        // Before a new ticket is asked for, and after everything that someone waits for.
        self.hands.driver.release();
        self.to_release = false;
        self.retired_permits.released(&self.hands.driver, |_| {});
        let Hands {
            retired, driver, ..
        } = &mut self.hands;
        retired.released(driver, |lease| {
            self.queue_looks.changed(RouteKey(lease.of()));
        });
        self.look_at_pools();
        if told.has(Notice::Places) {
            self.queue_looks.all_changed();
        }
        self.serve_queues();
        self.admit();
        if self.is_finished() {
            self.shared.gate.leave(self.number);
            self.counters.finished.set(1);
            return Rest::Finished;
        }
        if told.has(Notice::Permit) {
            self.shared.gate.pass_on();
        }
        self.look_on();
        self.count_turn();
        let date = self.next_deadline();
        #[cfg(any(test, fuzzing))]
        self.audit();
        Rest::Until(date)
    }

    /// A wait has ended.
    fn take_completions(&mut self) {
        self.count_stale_events();
        self.hands.now = self.hands.driver.now();
        self.retired_permits.turned();
        self.hands.retired.turned();
        while let Some(completion) = self.hands.driver.next() {
            self.dispatch(completion);
        }
    }

    /// Before the wait, so that what is seen of a worker that waits is how it waits.
    fn count_turn(&self) {
        self.counters.turns.add(1);
        let pipes = self.hands.driver.pipes_in_use();
        self.counters.pipes_in_use.set(pipes as u64);
    }

    /// Mostly there are none.
    fn count_stale_events(&mut self) {
        let stale = self.hands.driver.take_stale_events();
        if stale > 0 {
            self.counters.stale_events.add(stale);
        }
    }

    fn is_finished(&self) -> bool {
        self.phase == WorkerPhase::Draining
            && !self.expects_arrivals
            && self.listeners.are_closed()
            && self.admission.serves_all()
            && self.sessions.is_empty()
            && self.retired_permits.is_empty()
            && self.hands.retired.is_empty()
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        // No waiting with what ended since the last release, nor with what the driver joins: that may
        // have completed in the last turn already.
        let to_release =
            self.to_release || self.retired_permits.is_urgent() || self.hands.retired.is_urgent();
        let has_more =
            !self.looks.is_empty() || !self.admission.pauses() && self.has_more_to_empty();
        if to_release || has_more {
            return Some(self.hands.now);
        }
        // What is on its way out is the way that is to be made.
        let looks_for_limit = !self.awaits_limit && self.retired_permits.is_empty();
        let dates = [
            self.timers.next(),
            self.yielding.next().filter(|_| looks_for_limit),
            self.queue_looks.date(),
            self.pool_looks.next(),
            self.pauses.next(),
            self.last_call,
            self.last_calls.next(),
        ];
        let dates = dates.into_iter().chain(self.admission.dates());
        dates.flatten().min()
    }

    /// Whether backlogs were left because the turn had done enough, not for want of a ticket.
    fn has_more_to_empty(&mut self) -> bool {
        self.admission.has_ticket() && self.next_to_empty().is_some()
    }

    fn dispatch(&mut self, completion: Completion) {
        let Completion { sock, lane, done } = completion;
        match self.hands.owners.of(sock) {
            Owner::Listener(listener) => self.accepted(listener, done),
            Owner::Session(id, end) => {
                self.step(id, |session, cx| session.complete(end, lane, done, cx));
            }
            Owner::Upstream(route, id) => {
                let pool = &mut self.routes[route].pool;
                let change = pool.complete(id, lane, done, &mut self.hands);
                self.changes.room |= change != Change::None;
                self.follow_changes(route);
            }
        }
    }

    // --- mailbox ------------------------------------------------------------------------------

    /// What it says of permits is left to `admit`.
    fn read_mailbox(&mut self) -> Notices {
        let notices = self.mailbox.take();
        // First, so that the rest of the turn is by the new rules.
        if notices.has(Notice::Orders) {
            let orders = self.mailbox.take_orders();
            orders.into_iter().for_each(|order| self.obey(order));
        }
        if notices.has(Notice::Addresses) {
            for endpoints in self.mailbox.take_changed() {
                for route in self.routes.with(endpoints) {
                    self.follow_addresses(route);
                    self.follow_pause(route);
                    self.follow_outage(route);
                    self.queue_looks.changed(route);
                }
            }
        }
        if notices.has(Notice::Limit) {
            self.awaits_limit = false;
        }
        if notices.has(Notice::Scarce) {
            self.admission
                .make_do(&mut self.hands.driver, self.hands.now);
        }
        if notices.has(Notice::Drain) {
            self.phase = WorkerPhase::Draining;
            // Whoever waits is served.
            self.end_pauses();
            self.admission.release_all();
            self.listeners.drain(&mut self.hands.driver);
            self.drain_sessions(false);
        }
        if notices.has(Notice::Cut) {
            self.cut();
        }
        notices
    }

    fn follow_addresses(&mut self, route: RouteKey) {
        let served = &mut self.routes[route];
        if !served.follow() {
            return;
        }
        let set = served.route.published.load_full();
        served.pool.follow(&set, &mut self.hands);
        self.follow_changes(route);
        self.each_session_of(route, Session::addresses_changed);
        self.compare_endpoints(route);
    }

    /// Ends those that wait for a next request. Connections that have not sent any get a moment more.
    fn drain_sessions(&mut self, is_last_call: bool) {
        self.last_call = Some(self.hands.now + LAST_CALL_INTERVAL);
        for route in self.routes.keys() {
            self.each_session_of(route, |session, cx| session.drain(is_last_call, cx));
            self.look_whether_over(route);
        }
    }

    /// Tells sessions whether their endpoints are in the set, if it matters to them.
    fn compare_endpoints(&mut self, route: RouteKey) {
        let served = &self.routes[route];
        let matters = |id: SessionId| self.sessions[id.0].policy.timeouts.removed.is_some();
        if !served.sessions.iter().any(matters) {
            return;
        }
        let set = served.route.published.load_full();
        let current: HashSet<Address> = set.endpoints().iter().map(|e| e.address).collect();
        self.each_session_of(route, |session, cx| match session.endpoint() {
            Some(endpoint) => session.endpoint_is_current(current.contains(&endpoint), cx),
            None => Step::Continue,
        });
    }

    fn cut(&mut self) {
        self.phase = WorkerPhase::Draining;
        self.expects_arrivals = false;
        self.listeners.close(&mut self.hands.driver);
        self.admission.cut(&mut self.hands.driver);
        let cut = self.sessions.len();
        if cut > 0 {
            tracing::warn!(
                sessions = cut,
                "shutdown: cutting sessions that did not finish"
            );
        }
        for route in self.routes.keys() {
            self.each_session_of(route, |_, _| Step::End(Ending::Cut));
            self.look_whether_over(route);
        }
    }

    // --- sessions -----------------------------------------------------------------------------

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
        let route = active.route;
        let served = &mut self.routes[route];
        let mut cx = context(
            id,
            &mut self.hands,
            (served, &active.policy),
            &mut self.changes,
            (route, self.phase),
        );
        let mut step = act(&mut active.session, &mut cx);
        if step == Step::Continue
            && cx.is_amended
            && active.session.follow(&self.routes[route].policy)
        {
            let served = &mut self.routes[route];
            active.policy = Rc::clone(&served.policy);
            let mut cx = context(
                id,
                &mut self.hands,
                (served, &active.policy),
                &mut self.changes,
                (route, self.phase),
            );
            step = active.session.go_on(&mut cx);
        }
        self.follow_changes(route);
        self.after_step(id, step);
    }

    fn after_step(&mut self, id: SessionId, step: Step) {
        if let Step::End(ending) = step {
            return self.end_session(id, ending);
        }
        if let Err(QueueIsFull) = self.follow_place(id) {
            return self.step(id, Session::refuse);
        }
        self.count_if_it_wants_no_place(id);
        let active = &self.sessions[id.0];
        let timeouts = active.policy.timeouts;
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
        if let Some(moved) = served.sessions.leave(id, active.in_route) {
            self.sessions[moved.0].in_route = active.in_route;
        }
        if active.is_in_crowd {
            served.route.crowd.leave();
        }
        let mut outcome = ending.outcome();
        let mut has_waited = false;
        if let (Some(place), Some(queue)) = (active.place, &mut served.queue)
            && place.give_up(queue, self.hands.now)
        {
            served.count_queue();
            has_waited = true;
            if ending == Ending::ClientLeft {
                outcome = Outcome::QueueLeft;
            }
        }
        active.session.tell_end(
            outcome,
            &Telling {
                counters: &served.counters.fastcgi,
                logs: &served.logs,
                now: self.hands.now,
            },
        );
        let (last, closed) = match ending {
            Ending::HandedOver => {
                let (client, read) = active.session.leave(&mut self.hands);
                self.hand_over((client, read), active.route, active.came_to);
                (client, Closed::Now)
            }
            ending => {
                let client = active.session.client();
                let leaving = active.session.close(ending, &mut self.hands);
                leaving.map_or((client, Closed::Now), |sock| (sock, Closed::Soon))
            }
        };
        if has_waited {
            self.file_queue(active.route);
        }
        if self.admission.is_crowded(active.route) {
            self.release_held(active.route);
        }
        self.look_whether_over(active.route);
        self.retired_permits.push(active.permit, last, closed);
        self.admission.resume();
        tracing::debug!(
            worker = self.number,
            session = id.0,
            "session ended: {ending}"
        );
        self.count_no_more_as_such(active.route, active.wants_no_place);
        self.count_ending(active.route, ending, outcome);
    }

    fn count_ending(&mut self, route: RouteKey, ending: Ending, outcome: Outcome) {
        let Served {
            route, counters, ..
        } = &self.routes[route];
        counters.ended(outcome);
        self.removed += usize::from(ending == Ending::EndpointRemoved);
        if ending.is_failure()
            && let Some(count) = route.session_failures.count(self.hands.now)
        {
            tracing::warn!(route = %route.name, failed = count, "session failed: {ending}");
        }
    }

    /// In the order of arrival where that decides who is served first.
    fn each_session_of(
        &mut self,
        route: RouteKey,
        act: impl Fn(&mut Session<D>, &mut Context<'_, D>) -> Step,
    ) {
        let came = |id: SessionId| self.sessions[id.0].place.as_ref().map(Place::arrival);
        let of_route = self.routes[route].sessions.iter();
        let mut ids: Vec<_> = of_route.map(|id| (came(id), id)).collect();
        ids.sort_unstable();
        for (_, id) in ids {
            self.step(id, &act);
        }
    }

    // --- time ---------------------------------------------------------------------------------

    fn expire_deadlines(&mut self) {
        while let Some(id) = self.timers.take_due(self.hands.now) {
            let Some(active) = self.sessions.get(id.0) else {
                continue;
            };
            let timeouts = active.policy.timeouts;
            match active.session.deadline(timeouts) {
                Some(deadline) if deadline <= self.hands.now => self.step(id, Session::expire),
                Some(later) => self.timers.file(id, later),
                None => {}
            }
        }
        self.report_removed();
    }

    /// While all permits are taken, a session whose client may be gone ends for the sake of who comes next:
    /// one at a time, because with its permit the limit is not reached any more.
    fn make_way(&mut self) {
        while self.yielding.next().is_some_and(|at| at <= self.hands.now)
            && !self.awaits_limit
            && self.retired_permits.is_empty()
        {
            if !self.shared.gate.is_full(self.number) {
                self.awaits_limit = true;
                return;
            }
            let due = self.yielding.take_due(self.hands.now);
            let Some((id, active)) = due.and_then(|id| Some((id, self.sessions.get(id.0)?))) else {
                continue;
            };
            let timeouts = active.policy.timeouts;
            match active.session.yields_at(timeouts) {
                Some(ready) if ready <= self.hands.now => {
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
}

/// What a session of this route can use.
fn context<'a, D: Driver>(
    id: SessionId,
    hands: &'a mut Hands<D>,
    (served, policy): (&'a mut Served, &'a OwnPolicy),
    changes: &'a mut Changes,
    (route, phase): (RouteKey, WorkerPhase),
) -> Context<'a, D> {
    let passed_over_since = served.passed_over_since();
    Context {
        id,
        hands,
        queue_is_empty: !served.has_queue(),
        passed_over_since,
        can_queue: served.queue.is_some(),
        is_paused: served.paused_until.is_some(),
        is_out: served.is_out,
        route,
        pool: &mut served.pool,
        changes,
        draining: phase == WorkerPhase::Draining || served.is_retired,
        lets_go: served.leave.as_ref().map_or(LetsGo::None, Leave::lets_go),
        published: &served.route.published,
        policy,
        is_amended: !Rc::ptr_eq(policy, &served.policy),
        balancer: &mut served.balancer,
        head_room: &served.head_room,
        counters: &served.counters,
        logs: &served.logs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{epoll::Epoll, uring::Uring};

    /// Thousands of idle tunnels are what a worker's memory goes into.
    #[test]
    fn an_idle_tunnel_takes_little() {
        assert!(size_of::<Active<Uring>>() <= 352);
        assert!(size_of::<Active<Epoll>>() <= 352);
    }
}
