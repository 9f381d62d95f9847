//! A worker's listeners and whether an accept is armed on each.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
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

/// A worker's listeners, and where those are found that have something to do: nobody goes over all of them for it.
///
/// The index is exact by construction: what it says of a listener follows from the listener's state alone
/// ([`Listener::standing`]), and that changes in [`Listeners::change`] alone.
#[derive(Default)]
pub(super) struct Listeners {
    slots: Vec<Listener>,
    index: Index,
    /// Backlogs are emptied, or left to others.
    is_draining: bool,
}

/// Listeners by what is to be done with them.
#[derive(Default, PartialEq, Eq, Debug)]
struct Index {
    /// Whose room the next one may have.
    closed: BTreeSet<usize>,
    /// Without an accept in flight, and to have one.
    to_arm: BTreeSet<usize>,
    /// Without an accept in flight, to be closed once nobody is in the backlog.
    to_empty: BTreeSet<usize>,
    /// What would be one of these two, of routes that take nobody, until somebody looks at the route again.
    held: BTreeSet<(RouteKey, usize)>,
    /// All that are not closed.
    open: BTreeSet<(RouteKey, usize)>,
    /// How many clients come to.
    serving: usize,
    /// How many were handed over and have an accept in flight.
    being_handed_over: usize,
}

/// What the index says of a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Standing {
    is_open: bool,
    is_serving: bool,
    is_being_handed_over: bool,
    list: List,
}

/// On which list of the index one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum List {
    Closed,
    ToArm,
    ToEmpty,
    Held,
    /// It waits for its accept, or is about to be left to others.
    None,
}

struct Listener {
    sock: Sock,
    route: RouteKey,
    of: ListenerOf,
    backlog: Backlog,
    introduction: Introduction,
    role: ListenerRole,
    accepting: Accepting,
    /// Its route took nobody when it was looked at last.
    is_held: bool,
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
    pub(super) route: RouteKey,
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
        self.retire(route, |is| is == of, &mut hands.driver);
        self.add(route, of, listening, hands);
    }

    /// Nobody new comes to these of a route's. Who waits in their backlogs is served, unless those are for others.
    pub(super) fn retire<D: Driver>(
        &mut self,
        route: RouteKey,
        which: impl Fn(ListenerOf) -> bool,
        driver: &mut D,
    ) {
        let which = |listener: &Listener| which(listener.of);
        self.give_up(route, which, ListenerRole::Retiring, driver);
    }

    /// Another share, of this worker or of others, serves the socket of this one. Who waits in its backlog is left
    /// where it is; an accept that is in flight may still bring a client, which is served here. Not so one that it
    /// took the place of: that one's socket nobody else has.
    pub(super) fn hand_over<D: Driver>(&mut self, route: RouteKey, of: ListenerOf, driver: &mut D) {
        let which =
            |listener: &Listener| listener.of == of && listener.role == ListenerRole::Serving;
        self.give_up(route, which, ListenerRole::HandedOver, driver);
    }

    /// One that was handed over stays that: its socket is somebody else's.
    fn give_up<D: Driver>(
        &mut self,
        route: RouteKey,
        which: impl Fn(&Listener) -> bool,
        role: ListenerRole,
        driver: &mut D,
    ) {
        for number in self.open_of(route) {
            let listener = &self.slots[number];
            if listener.role == ListenerRole::HandedOver || !which(listener) {
                continue;
            }
            self.change(number, |listener| {
                listener.role = role;
                listener.is_held = false;
            });
            let listener = &self.slots[number];
            if listener.accepting == Accepting::Armed {
                driver.cancel(listener.sock, Lane::Read);
            }
            self.leave_backlog(number, driver);
        }
    }

    /// Clients of this one are introduced in another way from now on.
    pub(super) fn introduce_as(
        &mut self,
        route: RouteKey,
        of: ListenerOf,
        introduction: &Introduction,
    ) {
        for number in self.open_of(route) {
            let listener = &mut self.slots[number];
            if listener.of == of {
                listener.introduction = introduction.clone();
            }
        }
    }

    /// Whether clients come to any of them.
    pub(super) fn are_served(&self) -> bool {
        self.index.serving > 0
    }

    /// Whether an accept is in flight on one that was handed over.
    pub(super) fn are_being_handed_over(&self) -> bool {
        self.index.being_handed_over > 0
    }

    /// Whether any of a route's listeners is open.
    pub(super) fn has_open_of(&self, route: RouteKey) -> bool {
        self.index.open.range(all_of(route)).next().is_some()
    }

    /// A route's listeners that are not closed.
    fn open_of(&self, route: RouteKey) -> Vec<usize> {
        let of_route = self.index.open.range(all_of(route));
        of_route.map(|(_, number)| *number).collect()
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
        // Closed until it is on the lists, like the one whose room it may have.
        let listener = Listener {
            sock,
            route,
            of,
            backlog,
            introduction,
            role: ListenerRole::Serving,
            accepting: Accepting::Closed,
            is_held: false,
            looks_in: 0,
            looked_after: 0,
        };
        let room = self.index.closed.first().copied();
        let number = room.unwrap_or(self.slots.len());
        hands.owners.assign(sock, Owner::Listener(number));
        match self.slots.get_mut(number) {
            Some(room) => *room = listener,
            None => {
                self.slots.push(listener);
                self.index.closed.insert(number);
            }
        }
        self.change(number, |listener| listener.accepting = Accepting::Idle);
        self.leave_backlog(number, &mut hands.driver);
    }

    /// An accept says that newcomers are refused. Ours are refused only where the listener is given up, and
    /// the word of that is on its way. False: it is somebody else's, who may have reasons.
    pub(super) fn refuses_newcomers(&mut self, number: usize) -> bool {
        let listener = &self.slots[number];
        let is_ours = listener.backlog == Backlog::Ours;
        if is_ours && listener.role == ListenerRole::Serving {
            self.change(number, |listener| listener.role = ListenerRole::Retiring);
        }
        is_ours
    }

    /// The first one that is to have an accept in flight.
    pub(super) fn first_to_arm(&self) -> Option<IdleListener> {
        let number = *self.index.to_arm.first()?;
        Some(self.idle(number))
    }

    /// Asks for a client.
    pub(super) fn arm<D: Driver>(&mut self, listener: IdleListener, driver: &mut D) {
        driver.submit(listener.sock, Op::Accept);
        self.change(listener.number, |l| l.accepting = Accepting::Armed);
    }

    /// Its route takes nobody.
    pub(super) fn hold(&mut self, listener: IdleListener) {
        self.change(listener.number, |listener| listener.is_held = true);
    }

    /// The route may take somebody again.
    pub(super) fn release(&mut self, route: RouteKey) {
        while let Some(&(_, number)) = self.index.held.range(all_of(route)).next() {
            self.change(number, |listener| listener.is_held = false);
        }
    }

    /// The worker drains: accepts that are in flight are taken back, and still complete; backlogs are emptied, or left
    /// to whom they are for.
    pub(super) fn drain<D: Driver>(&mut self, driver: &mut D) {
        let before: Vec<_> = self.slots.iter().map(|l| l.standing(false)).collect();
        if std::mem::replace(&mut self.is_draining, true) {
            return;
        }
        for (number, before) in before.into_iter().enumerate() {
            let listener = &self.slots[number];
            let after = listener.standing(true);
            self.index.refile((listener.route, number), before, after);
            if listener.accepting == Accepting::Armed {
                driver.cancel(listener.sock, Lane::Read);
            }
            self.leave_backlog(number, driver);
        }
    }

    /// Closes one whose backlog is for others, if it is given up: in a drain any. An accept that is in flight
    /// may have taken a client already, so one that is armed has to be disarmed first.
    fn leave_backlog<D: Driver>(&mut self, number: usize, driver: &mut D) {
        let listener = &self.slots[number];
        let is_left = match listener.role {
            ListenerRole::Serving => self.is_draining && listener.backlog == Backlog::NextOwners,
            ListenerRole::Retiring => listener.backlog == Backlog::NextOwners,
            ListenerRole::HandedOver => true,
        };
        if is_left && listener.is_idle() {
            self.close_at(number, driver);
        }
    }

    /// The accept of this listener has completed.
    pub(super) fn disarmed<D: Driver>(&mut self, number: usize, driver: &mut D) {
        assert!(
            self.slots[number].accepting == Accepting::Armed,
            "an accept was armed"
        );
        self.change(number, |listener| listener.accepting = Accepting::Idle);
        self.leave_backlog(number, driver);
    }

    /// Whether it is worth looking for more clients right after one was accepted.
    pub(super) fn expects_more(&mut self, number: usize) -> bool {
        let listener = &mut self.slots[number];
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
        let listener = &mut self.slots[number];
        listener.looked_after = if found {
            0
        } else {
            (2 * listener.looked_after + 1).min(UNLOOKED_MAX)
        };
        listener.looks_in = listener.looked_after;
    }

    pub(super) fn sock(&self, number: usize) -> Sock {
        self.slots[number].sock
    }

    /// What a backend is told of a client that this listener gave.
    pub(super) fn introduce<D: Driver>(
        &self,
        number: usize,
        client: Sock,
        driver: &mut D,
    ) -> Hello {
        self.slots[number].introduction.of(client, driver)
    }

    pub(super) fn of(&self, number: usize) -> ListenerOf {
        self.slots[number].of
    }

    pub(super) fn route(&self, number: usize) -> RouteKey {
        self.slots[number].route
    }

    /// The first listener without an accept in flight whose backlog is to be emptied: in a drain any, else one that
    /// nobody new comes to.
    pub(super) fn first_to_empty(&self) -> Option<IdleListener> {
        let number = *self.index.to_empty.first()?;
        Some(self.idle(number))
    }

    fn idle(&self, number: usize) -> IdleListener {
        let Listener { route, sock, .. } = self.slots[number];
        IdleListener {
            number,
            route,
            sock,
        }
    }

    pub(super) fn close_one<D: Driver>(&mut self, listener: IdleListener, driver: &mut D) {
        self.close_at(listener.number, driver);
    }

    /// Closes all of them, whatever waits there.
    pub(super) fn close<D: Driver>(&mut self, driver: &mut D) {
        for number in 0..self.slots.len() {
            if self.slots[number].accepting != Accepting::Closed {
                self.close_at(number, driver);
            }
        }
        self.is_draining = true;
    }

    /// Closes those of a route, whatever waits there.
    pub(super) fn close_of<D: Driver>(&mut self, route: RouteKey, driver: &mut D) {
        for number in self.open_of(route) {
            self.close_at(number, driver);
        }
    }

    fn close_at<D: Driver>(&mut self, number: usize, driver: &mut D) {
        driver.close(self.slots[number].sock, Close::Graceful);
        self.change(number, |listener| listener.accepting = Accepting::Closed);
    }

    pub(super) fn are_closed(&self) -> bool {
        self.index.open.is_empty()
    }

    /// The one way in which a listener's state changes.
    fn change(&mut self, number: usize, change: impl FnOnce(&mut Listener)) {
        let listener = &mut self.slots[number];
        let before = listener.standing(self.is_draining);
        change(listener);
        let after = listener.standing(self.is_draining);
        self.index.refile((listener.route, number), before, after);
    }

    /// Compares the index with the listeners. `is_held`: whether those of a route that are held may be.
    #[cfg(any(test, fuzzing))]
    pub(super) fn audit(&self, is_held: impl Fn(RouteKey, bool) -> bool) {
        let mut anew = Index::default();
        let nowhere = Standing::NOWHERE;
        for (number, listener) in self.slots.iter().enumerate() {
            let standing = listener.standing(self.is_draining);
            anew.refile((listener.route, number), nowhere, standing);
            let is_retiring = listener.role == ListenerRole::Retiring;
            assert!(
                standing.list != List::Held || is_held(listener.route, is_retiring),
                "INVARIANT index_is_exact: listener {number} is held, and its route takes clients"
            );
        }
        assert!(
            anew == self.index,
            "INVARIANT index_is_exact: listeners by what is to be done with them: {:?} are {anew:?}",
            self.index
        );
    }
}

/// Of a set by route and number.
fn all_of(route: RouteKey) -> RangeInclusive<(RouteKey, usize)> {
    (route, 0)..=(route, usize::MAX)
}

impl Index {
    fn refile(&mut self, key: (RouteKey, usize), before: Standing, after: Standing) {
        if before.list != after.list {
            self.list(before.list, key, false);
            self.list(after.list, key, true);
        }
        if before.is_open != after.is_open {
            set(&mut self.open, key, after.is_open);
        }
        count(&mut self.serving, before.is_serving, after.is_serving);
        count(
            &mut self.being_handed_over,
            before.is_being_handed_over,
            after.is_being_handed_over,
        );
    }

    fn list(&mut self, list: List, key: (RouteKey, usize), is_on: bool) {
        match list {
            List::Closed => set(&mut self.closed, key.1, is_on),
            List::ToArm => set(&mut self.to_arm, key.1, is_on),
            List::ToEmpty => set(&mut self.to_empty, key.1, is_on),
            List::Held => set(&mut self.held, key, is_on),
            List::None => {}
        }
    }
}

fn set<T: Ord>(set: &mut BTreeSet<T>, key: T, is_in: bool) {
    let changes = match is_in {
        true => set.insert(key),
        false => set.remove(&key),
    };
    assert!(changes, "what is known of a listener before a change is so");
}

fn count(count: &mut usize, before: bool, after: bool) {
    *count = *count + usize::from(after) - usize::from(before);
}

impl Standing {
    /// As of one that is not there.
    #[cfg(any(test, fuzzing))]
    const NOWHERE: Self = Self {
        is_open: false,
        is_serving: false,
        is_being_handed_over: false,
        list: List::None,
    };
}

impl Listener {
    fn is_idle(&self) -> bool {
        self.accepting == Accepting::Idle
    }

    fn standing(&self, is_draining: bool) -> Standing {
        let is_open = self.accepting != Accepting::Closed;
        let is_armed = self.accepting == Accepting::Armed;
        Standing {
            is_open,
            is_serving: is_open && self.role == ListenerRole::Serving,
            is_being_handed_over: is_armed && self.role == ListenerRole::HandedOver,
            list: self.list(is_draining),
        }
    }

    fn list(&self, is_draining: bool) -> List {
        match self.accepting {
            Accepting::Closed => return List::Closed,
            Accepting::Armed => return List::None,
            Accepting::Idle => {}
        }
        let is_ours = self.backlog == Backlog::Ours;
        match self.role {
            ListenerRole::Serving | ListenerRole::Retiring if is_draining => List::ToEmpty,
            ListenerRole::Serving if self.is_held => List::Held,
            ListenerRole::Serving => List::ToArm,
            ListenerRole::Retiring if is_ours && self.is_held => List::Held,
            ListenerRole::Retiring if is_ours => List::ToEmpty,
            ListenerRole::Retiring | ListenerRole::HandedOver => List::None,
        }
    }
}
