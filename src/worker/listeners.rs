//! A worker's listeners and whether an accept is armed on each.

use std::os::fd::OwnedFd;

use super::routes::RouteNumber;
use crate::driver::{Close, Driver, Lane, Op, Sock};
use crate::session::{Hands, Hello, Introduction, Owner, RouteKey};

/// After so many accepts at the latest, there is another look for a burst. With one client at a time, a
/// look for each accept was 2 to 4 % of the worker's time.
const UNLOOKED_MAX: u32 = 31;

/// What a worker is given of a listener: a descriptor of its own, non-blocking.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The descriptor.
    pub fd: OwnedFd,
    /// Who serves those that wait when the daemon ends.
    pub backlog: Backlog,
    /// Which worker takes the next client.
    pub sharing: Sharing,
    /// What backends are told of its clients.
    pub introduction: Introduction,
}

/// Which of the workers that share a listener takes the next client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sharing {
    /// Whichever the kernel wakes: each can serve it as well as any other.
    AnyWorker,
    /// Each in its turn: a worker has only a part of the route's places.
    InTurns,
}

/// Who serves those in a listener's backlog when the daemon ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backlog {
    /// We do: the socket ends with us.
    Ours,
    /// Who owns the socket after us: they are left where they are.
    NextOwners,
}

#[derive(Default)]
pub(super) struct Listeners(Vec<Listener>);

struct Listener {
    sock: Sock,
    route: RouteKey,
    of: ListenerOf,
    backlog: Backlog,
    introduction: Introduction,
    role: ListenerRole,
    accepting: Accepting,
    /// Accepts that will pass before a look for more clients of the same burst.
    looks_in: u32,
    /// How many passed before the last look, which found nobody.
    looked_after: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepting {
    /// No accept is in flight.
    Idle,
    Armed,
    Closed,
}

/// What is to become of a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListenerRole {
    /// Clients come to it.
    Serving,
    /// Nobody new comes. Who waits in its backlog is served, then it is closed.
    Retiring,
    /// Another share serves the same socket, and whoever waits there. It is closed as soon as no accept is in flight.
    HandedOver,
}

/// Which of the daemon's listeners.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ListenerOf {
    /// Whose it is.
    pub route: RouteNumber,
    /// Which one of that route's.
    pub number: usize,
}

/// A listener without an accept in flight.
#[derive(Clone, Copy)]
pub(super) struct IdleListener {
    pub(super) number: usize,
    sock: Sock,
}

impl Listeners {
    /// Takes the listeners of the worker's next route over.
    pub(super) fn add_route<D: Driver>(
        &mut self,
        (route, of): (RouteKey, RouteNumber),
        listening: Vec<(usize, Listening)>,
        hands: &mut Hands<D>,
    ) {
        for (number, listening) in listening {
            self.add(route, ListenerOf { route: of, number }, listening, hands);
        }
    }

    /// A listener takes the place of another one, which nobody can find any more.
    pub(super) fn replace<D: Driver>(
        &mut self,
        (route, of): (RouteKey, ListenerOf),
        listening: Listening,
        hands: &mut Hands<D>,
    ) {
        self.retire(|_, is| is == of, &mut hands.driver);
        self.add(route, of, listening, hands);
    }

    /// Nobody new comes to these. Who waits in their backlogs is served, unless those are for others.
    pub(super) fn retire<D: Driver>(
        &mut self,
        which: impl Fn(RouteKey, ListenerOf) -> bool,
        driver: &mut D,
    ) {
        let which = |listener: &Listener| which(listener.route, listener.of);
        self.give_up(which, ListenerRole::Retiring, driver);
    }

    /// Another share, of this worker or of others, serves the socket of this one. Who waits in its backlog is left
    /// where it is; an accept that is in flight may still bring a client, which is served here. Not so one that it
    /// took the place of: that one's socket nobody else has.
    pub(super) fn hand_over<D: Driver>(&mut self, of: ListenerOf, driver: &mut D) {
        let which =
            |listener: &Listener| listener.of == of && listener.role == ListenerRole::Serving;
        self.give_up(which, ListenerRole::HandedOver, driver);
    }

    /// One that was handed over stays that: its socket is somebody else's.
    fn give_up<D: Driver>(
        &mut self,
        which: impl Fn(&Listener) -> bool,
        role: ListenerRole,
        driver: &mut D,
    ) {
        for listener in &mut self.0 {
            let is_kept = !matches!(
                (listener.accepting, listener.role),
                (Accepting::Closed, _) | (_, ListenerRole::HandedOver)
            );
            if is_kept && which(listener) {
                listener.role = role;
                if listener.accepting == Accepting::Armed {
                    driver.cancel(listener.sock, Lane::Read);
                }
            }
        }
        self.leave_backlogs(false, driver);
    }

    /// Clients of this one are introduced in another way from now on.
    pub(super) fn introduce_as(&mut self, of: ListenerOf, introduction: Introduction) {
        let open = self
            .0
            .iter_mut()
            .filter(|l| l.accepting != Accepting::Closed);
        for listener in open.filter(|listener| listener.of == of) {
            listener.introduction = introduction.clone();
        }
    }

    /// Whether clients come to any of them.
    pub(super) fn are_served(&self) -> bool {
        let mut open = self.0.iter().filter(|l| l.accepting != Accepting::Closed);
        open.any(|listener| listener.role == ListenerRole::Serving)
    }

    /// Whether an accept is in flight on one that was handed over.
    pub(super) fn are_being_handed_over(&self) -> bool {
        let mut handed_over = self.0.iter().filter(|l| l.role == ListenerRole::HandedOver);
        handed_over.any(|listener| listener.accepting == Accepting::Armed)
    }

    /// Whether any of a route's listeners is open.
    pub(super) fn has_open_of(&self, route: RouteKey) -> bool {
        let mut open = self.0.iter().filter(|l| l.accepting != Accepting::Closed);
        open.any(|listener| listener.route == route)
    }

    /// In the room of one that is closed, if there is any.
    pub(super) fn add<D: Driver>(
        &mut self,
        route: RouteKey,
        of: ListenerOf,
        listening: Listening,
        hands: &mut Hands<D>,
    ) {
        let Listening {
            fd,
            backlog,
            sharing,
            introduction,
        } = listening;
        let sock = hands.driver.adopt_listener(fd);
        if sharing == Sharing::InTurns {
            hands.driver.take_turns(sock);
        }
        let listener = Listener {
            sock,
            route,
            of,
            backlog,
            introduction,
            role: ListenerRole::Serving,
            accepting: Accepting::Idle,
            looks_in: 0,
            looked_after: 0,
        };
        let is_free = |l: &Listener| l.accepting == Accepting::Closed;
        let number = self.0.iter().position(is_free).unwrap_or(self.0.len());
        hands.owners.assign(sock, Owner::Listener(number));
        match self.0.get_mut(number) {
            Some(room) => *room = listener,
            None => self.0.push(listener),
        }
    }

    /// An accept says that newcomers are refused. Ours are refused only where the listener is given up, and
    /// the word of that is on its way. False: it is somebody else's, who may have reasons.
    pub(super) fn refuses_newcomers(&mut self, number: usize) -> bool {
        let listener = &mut self.0[number];
        if listener.backlog == Backlog::Ours && listener.role == ListenerRole::Serving {
            listener.role = ListenerRole::Retiring;
        }
        listener.backlog == Backlog::Ours
    }

    /// Arms an accept on each listener that has none, of the routes that take clients.
    pub(super) fn arm<D: Driver>(&mut self, takes: impl Fn(RouteKey) -> bool, driver: &mut D) {
        for listener in &mut self.0 {
            let is_serving = listener.is_idle() && listener.role == ListenerRole::Serving;
            if is_serving && takes(listener.route) {
                driver.submit(listener.sock, Op::Accept);
                listener.accepting = Accepting::Armed;
            }
        }
    }

    /// Takes the armed accepts back. Each still completes.
    pub(super) fn disarm<D: Driver>(&self, driver: &mut D) {
        for listener in &self.0 {
            if listener.accepting == Accepting::Armed {
                driver.cancel(listener.sock, Lane::Read);
            }
        }
    }

    /// Closes those whose backlogs are for others, if they are given up: in a drain all. An accept that is in flight
    /// may have taken a client already, so one that is armed has to be disarmed first.
    pub(super) fn leave_backlogs<D: Driver>(&mut self, is_draining: bool, driver: &mut D) {
        for listener in &mut self.0 {
            let is_left = match listener.role {
                ListenerRole::Serving => is_draining && listener.backlog == Backlog::NextOwners,
                ListenerRole::Retiring => listener.backlog == Backlog::NextOwners,
                ListenerRole::HandedOver => true,
            };
            if is_left && listener.is_idle() {
                driver.close(listener.sock, Close::Graceful);
                listener.accepting = Accepting::Closed;
            }
        }
    }

    /// The accept of this listener has completed.
    pub(super) fn disarmed(&mut self, number: usize) {
        let listener = &mut self.0[number];
        assert!(
            listener.accepting == Accepting::Armed,
            "an accept was armed"
        );
        listener.accepting = Accepting::Idle;
    }

    /// Whether it is worth looking for more clients right after one was accepted.
    pub(super) fn expects_more(&mut self, number: usize) -> bool {
        let listener = &mut self.0[number];
        if listener.accepting == Accepting::Closed {
            return false;
        }
        let expects = listener.looks_in == 0;
        listener.looks_in = listener.looks_in.saturating_sub(1);
        expects
    }

    /// What came of looking. Clients that come one at a time are not made to wait, each time, until
    /// somebody has looked whether there is another.
    pub(super) fn looked_for_more(&mut self, number: usize, found: bool) {
        let listener = &mut self.0[number];
        listener.looked_after = if found {
            0
        } else {
            (2 * listener.looked_after + 1).min(UNLOOKED_MAX)
        };
        listener.looks_in = listener.looked_after;
    }

    pub(super) fn sock(&self, number: usize) -> Sock {
        self.0[number].sock
    }

    /// What a backend is told of a client that this listener gave.
    pub(super) fn introduce<D: Driver>(
        &self,
        number: usize,
        client: Sock,
        driver: &mut D,
    ) -> Hello {
        self.0[number].introduction.of(client, driver)
    }

    pub(super) fn of(&self, number: usize) -> ListenerOf {
        self.0[number].of
    }

    pub(super) fn route(&self, number: usize) -> RouteKey {
        self.0[number].route
    }

    /// Whether clients may wait at one without an accept in flight, of a route of which this is so.
    pub(super) fn has_waiting_of(&self, is_so: impl Fn(RouteKey) -> bool) -> bool {
        let mut idle = self.0.iter().filter(|l| l.is_idle());
        idle.any(|listener| is_so(listener.route))
    }

    /// Whether there is one to arm of a route of which this is so.
    pub(super) fn has_idle_of(&self, is_so: impl Fn(RouteKey) -> bool) -> bool {
        let mut serving = self.0.iter().filter(|l| l.role == ListenerRole::Serving);
        serving.any(|listener| listener.is_idle() && is_so(listener.route))
    }

    /// The first listener without an accept in flight whose backlog is to be emptied: in a drain any, else one that
    /// nobody new comes to, of a route that takes clients.
    pub(super) fn to_empty(
        &self,
        is_draining: bool,
        takes: impl Fn(RouteKey) -> bool,
    ) -> Option<IdleListener> {
        let is_given_up = |l: &Listener| match l.role {
            ListenerRole::Serving => is_draining,
            ListenerRole::Retiring => is_draining || l.backlog == Backlog::Ours && takes(l.route),
            ListenerRole::HandedOver => false,
        };
        let number = self.0.iter().position(|l| l.is_idle() && is_given_up(l))?;
        let sock = self.0[number].sock;
        Some(IdleListener { number, sock })
    }

    pub(super) fn close_one<D: Driver>(&mut self, listener: IdleListener, driver: &mut D) {
        driver.close(listener.sock, Close::Graceful);
        self.0[listener.number].accepting = Accepting::Closed;
    }

    /// Closes all of them, whatever waits there.
    pub(super) fn close<D: Driver>(&mut self, driver: &mut D) {
        self.close_some(|_| true, driver);
    }

    /// Closes those of some routes, whatever waits there.
    pub(super) fn close_some<D: Driver>(&mut self, of: impl Fn(RouteKey) -> bool, driver: &mut D) {
        for listener in &mut self.0 {
            if listener.accepting != Accepting::Closed && of(listener.route) {
                driver.close(listener.sock, Close::Graceful);
                listener.accepting = Accepting::Closed;
            }
        }
    }

    pub(super) fn are_closed(&self) -> bool {
        self.0.iter().all(|l| l.accepting == Accepting::Closed)
    }
}

impl Listener {
    fn is_idle(&self) -> bool {
        self.accepting == Accepting::Idle
    }
}
