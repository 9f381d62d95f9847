//! Clients that go to another process, and those that come from one.
//!
//! - Of a route that lets its clients go, each leaves that may, at once or as soon as it comes to that: a FastCGI client
//!   without a request, a raw one that waits for its turn. Its session says when, because only the session knows whether
//!   a byte of it was read. Those that waited leave in the order in which they came.
//! - What was read of a FastCGI client's next request goes with it. Where that process would not know what to do with it,
//!   such a client stays for the whole of the request.
//! - Of those that stay, the ones that have had their last place at an endpoint are counted: no permit is kept for them.
//! - So does one that is not served yet, whether it was accepted here or came from another process.
//! - The descriptor leaves the driver, and nothing is shut down or closed: the connection is as it was.
//! - One that comes from another process is what an accepted client is that found no ticket: it is parked, and served
//!   before anybody who waits in a backlog, with all that a client needs, and counted like one.

#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::counters::Outcome;
use crate::driver::{Driver, Sock};
use crate::session::{Introduction, LetsGo, RouteKey, Session, SessionId};

use super::Worker;
use super::admission::{Origin, Way};
use super::listeners::ListenerOf;
use super::parking::Parked;
use super::routes::RouteNumber;

/// What becomes of a route's clients that leave for another process. Called on the worker's thread, which it must not
/// hold up.
#[derive(Clone)]
pub(crate) struct Leave {
    give: Arc<dyn Fn(LeavingClient) + Send + Sync>,
    /// Whether clients may leave of whose next request something was read.
    takes_read: bool,
}

/// A client that leaves: whoever goes on with its connection begins with what was read, and then with what its socket
/// has.
#[derive(Debug)]
pub(crate) struct LeavingClient {
    /// Its connection, non-blocking.
    pub fd: OwnedFd,
    /// Whose it is.
    pub route: RouteNumber,
    /// Which of the route's listeners it came to, by its number, which says how backends are told of it. `None`: to one
    /// that only the process before this one had.
    pub listener: Option<usize>,
    /// What was read of it and not acted on.
    pub read: Vec<u8>,
}

/// A client that another process has accepted.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// Its connection, non-blocking.
    pub fd: OwnedFd,
    /// Which of the route's listeners it would have come to here, if there is such a one: where that one's clients come
    /// to be introduced in another way before this one is served, it is as well.
    pub listener: Option<usize>,
    /// What backends are told of it.
    pub introduction: Introduction,
    /// What was read of it and not acted on.
    pub read: Vec<u8>,
}

/// Which of its route's listeners a client came to, for as long as it is served: small, because there is one for each
/// session.
#[derive(Clone, Copy)]
pub(super) struct CameTo(Option<NonZeroU32>);

impl CameTo {
    /// The number plus one, so that there is room for none.
    pub(super) fn new(listener: Option<ListenerOf>) -> Self {
        let number = listener.and_then(|listener| u32::try_from(listener.number + 1).ok());
        Self(number.and_then(NonZeroU32::new))
    }

    fn number(self) -> Option<usize> {
        self.0.map(|number| number.get() as usize - 1)
    }
}

impl Leave {
    /// Gives each client that leaves to `take`; those of whose next request something was read are among them if it
    /// `takes_read`.
    pub(crate) fn new(
        takes_read: bool,
        take: impl Fn(LeavingClient) + Send + Sync + 'static,
    ) -> Self {
        Self {
            give: Arc::new(take),
            takes_read,
        }
    }

    fn give(&self, client: LeavingClient) {
        (self.give)(client);
    }

    /// Which clients leave.
    pub(super) fn lets_go(&self) -> LetsGo {
        match self.takes_read {
            true => LetsGo::WithBytes,
            false => LetsGo::AtRest,
        }
    }

    /// Whether one of which this was read goes, instead of being served.
    fn takes(&self, read: &[u8]) -> bool {
        self.takes_read || read.is_empty()
    }
}

impl<D: Driver> Worker<D> {
    /// From now on, clients of this route leave when they are at rest.
    pub(super) fn let_go(&mut self, number: RouteNumber, leave: Leave) {
        let Some(route) = self.routes.find(number) else {
            // Nobody is left of it.
            return;
        };
        self.routes[route].leave = Some(leave.clone());
        self.look_whether_over(route);
        // Those that wait for a place came before those that were not served yet.
        self.each_session_of(route, Session::let_go);
        let goes = |from: &Origin| leave.takes(&from.read);
        for Parked { client, from } in self.admission.parked.take_those_of(route, goes) {
            self.pass_on(client, from);
        }
    }

    /// Takes a client on that another process has accepted.
    pub(super) fn take_on(&mut self, number: RouteNumber, arrived: Arrived) {
        let Arrived {
            fd,
            listener,
            introduction,
            read,
        } = arrived;
        let Some(route) = self.routes.find(number) else {
            // It is closed, as the backlog of such a route is.
            return;
        };
        if let Some(leave) = &self.routes[route].leave
            && leave.takes(&read)
        {
            self.routes[route].counters.accepted.add(1);
            self.routes[route].counters.ended(Outcome::HandedOver);
            return leave.give(LeavingClient {
                fd,
                route: number,
                listener,
                read,
            });
        }
        let client = self.hands.driver.adopt_client(fd);
        let from = Origin {
            route,
            listener: listener.map(|listener| ListenerOf {
                route: number,
                number: listener,
            }),
            hello: introduction.of(client, &mut self.hands.driver),
            way: Way::Arrived,
            read,
        };
        self.admission.park(client, from);
    }

    /// Whether clients of this route go to another process instead of being served.
    pub(super) fn passes_on(&self, route: RouteKey) -> bool {
        self.routes[route].leave.is_some()
    }

    /// A client that was not served yet goes to another process.
    pub(super) fn pass_on(&mut self, client: Sock, from: Origin) {
        let served = &self.routes[from.route];
        served.counters.accepted.add(1);
        served.counters.ended(Outcome::HandedOver);
        let came_to = CameTo::new(from.listener);
        self.hand_over((client, from.read), from.route, came_to);
    }

    /// The client of a session goes to another process, with what was read of it.
    pub(super) fn hand_over(
        &mut self,
        (client, read): (Sock, Vec<u8>),
        route: RouteKey,
        came_to: CameTo,
    ) {
        let fd = self.hands.driver.let_go(client);
        let served = &self.routes[route];
        let leave = served.leave.as_ref();
        leave
            .expect("clients leave where they are let go")
            .give(LeavingClient {
                fd,
                route: served.route.number,
                listener: came_to.number(),
                read,
            });
    }

    /// A session has acted. Where clients leave, it may have had its last place at an endpoint with that.
    pub(super) fn count_if_it_wants_no_place(&mut self, id: SessionId) {
        let active = &mut self.sessions[id.0];
        let served = &self.routes[active.route];
        let Some(leave) = &served.leave else {
            return;
        };
        if !active.wants_no_place {
            if active.session.wants_no_place(leave.lets_go()) {
                active.wants_no_place = true;
                served.counters.wants_no_place();
            }
        } else if active.session.wish().is_some() {
            // Its client did not come to leave, in the midst of something that nobody sends. No permit was kept for it:
            // it waits for those of others.
            active.wants_no_place = false;
            served.counters.wants_one_again();
            #[cfg(any(test, fuzzing))]
            unreachable!("no permit is kept for a session that was counted as one that wants none");
        }
    }

    /// Before a session is counted as ended.
    pub(super) fn count_no_more_as_such(&self, route: RouteKey, wanted_no_place: bool) {
        if wanted_no_place {
            self.routes[route].counters.is_about_to_end();
        }
    }
}
