//! The way in: before a client is accepted, what it needs is at hand.
//!
//! That is a permit of the gate and an unconnected TCP socket, together a ticket. Accepts are armed only while there
//! is one. So the limit is exact, and a process that runs out of descriptors stops accepting instead of taking on
//! clients that it cannot serve.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::config::AtLimit;
use crate::counters::Outcome;
use crate::driver::{Close, Done, Driver, Sock};
use crate::session::{Ending, Hello, Introduction, RouteKey, Session, SessionId};
use crate::sys::Errno;
use crate::sys::net::TcpOptions;

use super::gate::Permit;
use super::leaving::CameTo;
use super::listeners::ListenerOf;
use super::parking::{Parked, Parking};
use super::routes::{Admittance, Served};
use super::who::Refusal;
use super::{Active, Seats, Worker, WorkerPhase, context};

/// How long accepting pauses when the system has no descriptor or memory left, unless a session of
/// this worker ends before.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a worker goes without the socket that it keeps for the next client, when another one
/// lacks descriptors: long enough for that one to get what it needs after its own pause.
const SCARCITY_PAUSE: Duration = Duration::from_millis(500);

/// Clients that a worker takes from one listener in one turn. With one, a burst of 16 waits up to
/// 16 turns: with new connections per request, 4 gave 6 % more requests for 9 % less CPU each than 1
/// (medians of 7 interleaved runs); 8 and 16 could not be told from 4. With many, a busy worker would
/// take what idle ones could serve at once.
const ACCEPTS_PER_TURN: usize = 8;

/// Clients that a draining worker takes from the backlogs in one turn.
const DRAIN_ACCEPTS_PER_TURN: usize = 64;

/// What a client needs, taken before it is accepted.
struct Ticket {
    permit: Permit,
    spare: Sock,
}

/// Who accepted a client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// This worker, which looked before whether its route takes clients.
    Accepted,
    /// Another process, which knows nothing of that.
    Arrived,
}

/// What its listener says of a client. The listener may be closed by the time that the client is served.
pub(super) struct Origin {
    pub(super) route: RouteKey,
    /// `None`: another process accepted it at a socket that is none of the route's here.
    pub(super) listener: Option<ListenerOf>,
    pub(super) hello: Hello,
    pub(super) way: Way,
    /// What another process has read of it.
    pub(super) read: Vec<u8>,
}

/// A client was sent away, and is counted.
struct Refused;

/// An accept failed, and the worker has drawn the consequences.
struct AcceptFailed;

/// There is no ticket for another client in this turn.
struct NoMoreClients;

/// What a worker has for clients that come, and those that wait for it.
#[derive(Default)]
pub(super) struct Admission {
    ticket: Option<Ticket>,
    /// A socket for the next ticket, if the last one's was not needed.
    spare: Option<Sock>,
    /// Clients that were accepted when no ticket was left, or in a pause: a listener's armed accept is not taken
    /// back when another listener's client used the ticket. At most one for each listener; and those that another
    /// process has accepted, which have their descriptors.
    pub(super) parked: Parking,
    /// No accept is armed before this time.
    again_at: Option<Instant>,
    /// The last time it asked, there was no permit.
    at_limit: bool,
    /// Routes that had as many sessions as they may when somebody of theirs was to be taken: those are held.
    pub(super) crowded: BTreeSet<RouteKey>,
    /// When it is looked whether they take clients again. `None`: there are none.
    pub(super) crowds_looked_at: Option<Instant>,
}

impl Admission {
    /// When there is something to do though nothing happens.
    pub(super) fn dates(&self) -> [Option<Instant>; 2] {
        [self.again_at, self.crowds_looked_at]
    }

    /// Whether accepting pauses.
    pub(super) fn pauses(&self) -> bool {
        self.again_at.is_some()
    }

    /// Whether the next client can be served.
    pub(super) fn has_ticket(&self) -> bool {
        self.ticket.is_some()
    }

    /// Whether no client waits that was accepted.
    pub(super) fn serves_all(&self) -> bool {
        self.parked.is_empty()
    }

    /// Descriptors are free again.
    pub(super) fn resume(&mut self) {
        self.again_at = None;
    }

    /// The ticket, and what else is kept for one, is given back.
    pub(super) fn give_ticket_back<D: Driver>(&mut self, driver: &mut D) {
        let ticket = self.ticket.take().map(|ticket| ticket.spare);
        for spare in ticket.into_iter().chain(self.spare.take()) {
            driver.close(spare, Close::Graceful);
        }
    }

    /// Another worker lacks what is kept here for the next client.
    pub(super) fn make_do<D: Driver>(&mut self, driver: &mut D, now: Instant) {
        if self.ticket.is_some() {
            self.give_ticket_back(driver);
            self.again_at = Some(now + SCARCITY_PAUSE);
        }
    }

    /// Those that this listener gave, and that wait, are introduced in another way: they begin by the rules of their
    /// beginning, and that is to come.
    pub(super) fn introduce_as<D: Driver>(
        &mut self,
        listener: ListenerOf,
        how: &Introduction,
        driver: &mut D,
    ) {
        let of_this = |parked: &&mut Parked| parked.from.listener == Some(listener);
        for parked in self.parked.iter_mut().filter(of_this) {
            parked.from.hello = how.of(parked.client, driver);
        }
    }

    /// It is served as soon as it can be.
    pub(super) fn park(&mut self, client: Sock, from: Origin) {
        self.parked.push(Parked { client, from });
    }

    /// Nobody of this route is to be served any more.
    pub(super) fn cut_route<D: Driver>(&mut self, route: RouteKey, driver: &mut D) {
        for parked in self.parked.take_of(route) {
            driver.close(parked.client, Close::Reset);
        }
    }

    /// Nobody is to be served any more.
    pub(super) fn cut<D: Driver>(&mut self, driver: &mut D) {
        self.give_ticket_back(driver);
        self.release_all();
        for parked in self.parked.take_all() {
            driver.close(parked.client, Close::Reset);
        }
    }
}

impl<D: Driver> Worker<D> {
    /// Serves the clients that wait and, with a ticket at hand, asks for more.
    pub(super) fn admit(&mut self) {
        let now = self.hands.now;
        if self.admission.crowds_looked_at.is_some_and(|at| at <= now) {
            self.look_at_crowds();
        }
        if self.admission.again_at.is_some_and(|at| at > now) {
            return;
        }
        self.admission.again_at = None;
        while let Some(next) = self.next_parked() {
            match self.take_ticket() {
                Some(ticket) => {
                    let Parked { client, from } = self.admission.parked.remove(next);
                    self.start_session(client, from, ticket);
                }
                None if self.is_refusing() => {
                    let Parked { client, from } = self.admission.parked.remove(next);
                    self.turn_away(client, from.route);
                    self.look_whether_over(from.route);
                }
                None => return,
            }
        }
        // Where clients are refused, those that come to other listeners are not to wait for a permit as well.
        if self.next_to_empty().is_some() && self.empty_backlogs().is_err() && !self.is_refusing() {
            return;
        }
        match self.phase {
            WorkerPhase::Serving => {
                // Where clients are refused, a permit is taken for one that is there: one at hand could
                // be the one for whose want another worker refuses.
                let refuses = self.shared.at_limit == AtLimit::Refuse;
                let has_idle = self.next_to_arm().is_some();
                if !self.listeners.are_served() && self.next_to_empty().is_none() {
                    // Nobody comes for whom it is at hand, and others may lack it.
                    self.admission.give_ticket_back(&mut self.hands.driver);
                }
                if has_idle && (refuses || self.prepare_ticket()) {
                    while let Some(listener) = self.next_to_arm() {
                        self.listeners.arm(listener, &mut self.hands.driver);
                    }
                }
            }
            // Enough for one turn; the next one needs a ticket.
            WorkerPhase::Draining if !self.listeners.are_closed() => drop(self.prepare_ticket()),
            WorkerPhase::Draining => self.admission.give_ticket_back(&mut self.hands.driver),
        }
    }

    /// An armed accept ended.
    pub(super) fn accepted(&mut self, listener: usize, done: Done) {
        self.listeners.disarmed(listener, &mut self.hands.driver);
        self.look_whether_over(self.listeners.route(listener));
        match done {
            Done::Accepted(client) => {
                let from = self.look_at(client, listener);
                if self.passes_on(from.route) {
                    return self.pass_on(client, from);
                }
                if self.routes[from.route].leaves_clients() {
                    // Its accept was armed before the pause.
                    return self.admission.park(client, from);
                }
                match self.take_ticket() {
                    Some(ticket) => {
                        self.start_session(client, from, ticket);
                        self.accept_more(listener);
                    }
                    None if self.is_refusing() => self.turn_away(client, from.route),
                    None => self.admission.park(client, from),
                }
            }
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
        let route = self.listeners.route(listener);
        for accepted in 1..ACCEPTS_PER_TURN {
            let takes = self.routes[route].takes_clients();
            if !takes || !self.prepare_ticket() || !self.accept_one(listener).unwrap_or(false) {
                self.listeners.looked_for_more(listener, accepted > 1);
                return;
            }
        }
        self.listeners.looked_for_more(listener, true);
    }

    /// Whether it is for want of a permit that there is no ticket, and clients are not to wait for one.
    fn is_refusing(&self) -> bool {
        self.admission.at_limit && self.shared.at_limit == AtLimit::Refuse
    }

    fn look_at(&mut self, client: Sock, listener: usize) -> Origin {
        let driver = &mut self.hands.driver;
        Origin {
            route: self.listeners.route(listener),
            listener: Some(self.listeners.of(listener)),
            hello: self.listeners.introduce(listener, client, driver),
            way: Way::Accepted,
            read: Vec::new(),
        }
    }

    fn turn_away(&mut self, client: Sock, route: RouteKey) {
        self.hands.driver.close(client, Close::Graceful);
        self.to_release = true;
        let Served {
            route, counters, ..
        } = &self.routes[route];
        counters.accepted.add(1);
        counters.ended(Outcome::QueueFull);
        if let Some(refused) = self.shared.refusals.count(self.hands.now) {
            tracing::warn!(route = %route.name, refused, "--connections-max is reached: client refused");
        }
    }

    /// Serves a client that waits, with the ticket at hand. False if none waits.
    fn accept_one(&mut self, listener: usize) -> Result<bool, AcceptFailed> {
        match self.hands.driver.accept_now(self.listeners.sock(listener)) {
            Ok(Some(client)) => {
                let from = self.look_at(client, listener);
                if self.passes_on(from.route) {
                    self.pass_on(client, from);
                    return Ok(true);
                }
                let ticket = self
                    .admission
                    .ticket
                    .take()
                    .expect("the caller prepared one");
                self.start_session(client, from, ticket);
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
        self.admission.again_at = Some(self.hands.now + ACCEPT_PAUSE);
        self.admission.give_ticket_back(&mut self.hands.driver);
        if errno.is_exhaustion() {
            self.counters.pauses_exhausted.add(1);
            self.shared.gate.announce_scarcity(self.number);
        } else {
            self.counters.pauses_other.add(1);
        }
        let Some(failed) = self.shared.accept_failures.count(self.hands.now) else {
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

    fn take_ticket(&mut self) -> Option<Ticket> {
        self.prepare_ticket();
        self.admission.ticket.take()
    }

    /// Whether there is a ticket, if need be a new one.
    fn prepare_ticket(&mut self) -> bool {
        /// What a spare socket is for. A session whose endpoint is IPv6 opens its own.
        const IPV4: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        if self.admission.ticket.is_some() {
            return true;
        }
        let Some(permit) = self.shared.gate.permit(self.number) else {
            // It may ask in vain in many turns before there is one again.
            if !self.admission.at_limit {
                self.admission.at_limit = true;
                self.counters.pauses_at_limit.add(1);
                self.report_limit();
            }
            return false;
        };
        self.admission.at_limit = false;
        // A route's own options are for the session to set.
        if let Some(spare) = self.admission.spare.take() {
            self.admission.ticket = Some(Ticket { permit, spare });
            return true;
        }
        match self.hands.driver.open_tcp(&IPV4, &TcpOptions::default()) {
            Ok(spare) => {
                self.admission.ticket = Some(Ticket { permit, spare });
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
            && let Some(times) = self.shared.limit_reached.count(self.hands.now)
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
            let Some(listener) = self.next_to_empty() else {
                break;
            };
            if !self.prepare_ticket() {
                return Err(NoMoreClients);
            }
            match self.accept_one(listener.number) {
                Ok(true) => {}
                Ok(false) => {
                    self.listeners.close_one(listener, &mut self.hands.driver);
                    self.look_whether_over(listener.route);
                    self.to_release = true;
                }
                Err(AcceptFailed) => return Err(NoMoreClients),
            }
        }
        Ok(())
    }

    /// Serves a client, or lets it wait; a client with nowhere to wait is sent away, and the ticket is
    /// for the next one.
    fn start_session(&mut self, client: Sock, from: Origin, ticket: Ticket) {
        let Origin {
            route,
            listener,
            hello,
            way,
            read,
        } = from;
        self.routes[route].counters.accepted.add(1);
        self.look_whether_over(route);
        let seats = match self.admit_user(client, way, route) {
            Ok(seats) => seats,
            Err(Refused) => {
                self.admission.ticket = Some(ticket);
                return;
            }
        };
        let (entry, place) = match self.routes[route].admit(way, self.hands.now) {
            Admittance::Serve(entry, place) => (entry, place),
            Admittance::Refuse => {
                self.admission.ticket = Some(ticket);
                return self.refuse(client, route);
            }
        };
        let vacant = self.sessions.vacant_entry();
        let id = SessionId(vacant.key());
        let served = &mut self.routes[route];
        let policy = Rc::clone(&served.policy);
        let mut cx = context(
            id,
            &mut self.hands,
            (served, &policy),
            &mut self.changes,
            (route, self.phase),
        );
        let (session, step, spare) =
            Session::start(client, (hello, &read), ticket.spare, entry, &mut cx);
        self.admission.spare = self.admission.spare.or(spare);
        let served = &mut self.routes[route];
        vacant.insert(Active {
            session,
            permit: ticket.permit,
            route,
            in_route: served.sessions.enter(id),
            policy,
            is_in_crowd: served.route.crowd.enter(),
            came_to: CameTo::new(listener),
            wants_no_place: false,
            place,
            seats,
        });
        self.follow_changes(route);
        self.after_step(id, step);
    }

    /// Whether the client is one of those whom the route serves. If not, it is sent away before a byte of
    /// its was looked at. One that another process has let in is not sent away for how many there are.
    fn admit_user(&mut self, client: Sock, way: Way, route: RouteKey) -> Result<Seats, Refused> {
        let Served {
            route,
            who,
            counters,
            ..
        } = &self.routes[route];
        let (who, users) = (who.as_ref(), self.shared.users.as_ref());
        if who.is_none() && users.is_none() {
            return Ok((None, None));
        }
        let peer = self.hands.driver.peer_credentials(client);
        let driver = &mut self.hands.driver;
        let seat = who.map_or(Ok(None), |who| who.admit((client, way), peer, driver));
        let seats = seat.and_then(|seat| match (users, peer) {
            (Some(users), Some(peer)) => match users.admit(peer.uid, way) {
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
        if let Some(refused) = refusals.count(self.hands.now) {
            tracing::warn!(
                route = %route.name,
                refused,
                uid = peer.map(|peer| peer.uid),
                gid = peer.map(|peer| peer.gid),
                pid = peer.map(|peer| peer.pid),
                "client refused: {refusal}"
            );
        }
        self.hands.driver.dismiss(client);
        self.hands.driver.close(client, Close::Graceful);
        self.to_release = true;
        Err(Refused)
    }

    fn refuse(&mut self, client: Sock, route: RouteKey) {
        self.hands.driver.close(client, Close::Reset);
        self.to_release = true;
        let ending = Ending::of_refusal(&self.routes[route].balancer);
        self.count_ending(route, ending, ending.outcome());
    }
}
