//! Clients that go to another process, and those that come from one.
//!
//! - Of a route that lets its clients go, each leaves that is at rest, at once or as soon as it comes to rest: a FastCGI
//!   client between two requests, a raw one that waits for its turn. Its session says when, because only the session
//!   knows whether a byte of it was read. Those that waited leave in the order in which they came.
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
use crate::session::{Introduction, RouteKey, Session};

use super::Worker;
use super::admission::{Origin, Parked, Way};
use super::listeners::ListenerOf;
use super::routes::RouteNumber;

/// What becomes of a route's clients that leave for another process. Called on the worker's thread, which it must not
/// hold up.
#[derive(Clone)]
pub(crate) struct Leave(Arc<dyn Fn(LeavingClient) + Send + Sync>);

/// A client that leaves: whoever goes on with its connection begins with its first byte, or with the first one behind
/// its last request.
#[derive(Debug)]
pub(crate) struct LeavingClient {
    /// Its connection, non-blocking.
    pub fd: OwnedFd,
    /// Whose it is.
    pub route: RouteNumber,
    /// Which of the route's listeners it came to, by its number, which says how backends are told of it. `None`: to one
    /// that only the process before this one had.
    pub listener: Option<usize>,
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
    /// Gives each client that leaves to `take`.
    pub(crate) fn new(take: impl Fn(LeavingClient) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    fn give(&self, client: LeavingClient) {
        (self.0)(client);
    }
}

impl<D: Driver> Worker<D> {
    /// From now on, clients of this route leave when they are at rest.
    pub(super) fn let_go(&mut self, number: RouteNumber, leave: Leave) {
        let Some(route) = self.routes.find(number) else {
            // Nobody is left of it.
            return;
        };
        self.routes[route].leave = Some(leave);
        self.lets_go = true;
        // Those that wait for a place came before those that were not served yet.
        self.each_session_of(route, Session::let_go);
        for Parked { client, from } in self.admission.take_parked_of(route) {
            self.pass_on(client, &from);
        }
    }

    /// Takes a client on that another process has accepted.
    pub(super) fn take_on(&mut self, number: RouteNumber, arrived: Arrived) {
        let Arrived {
            fd,
            listener,
            introduction,
        } = arrived;
        let Some(route) = self.routes.find(number) else {
            // It is closed, as the backlog of such a route is.
            return;
        };
        if let Some(leave) = &self.routes[route].leave {
            self.routes[route].counters.accepted.add(1);
            self.routes[route].counters.ended(Outcome::HandedOver);
            return leave.give(LeavingClient {
                fd,
                route: number,
                listener,
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
        };
        self.admission.park(client, from);
    }

    /// Whether clients of this route go to another process instead of being served.
    pub(super) fn passes_on(&self, route: RouteKey) -> bool {
        self.routes[route].leave.is_some()
    }

    /// A client that was not served yet goes to another process.
    pub(super) fn pass_on(&mut self, client: Sock, from: &Origin) {
        let served = &self.routes[from.route];
        served.counters.accepted.add(1);
        served.counters.ended(Outcome::HandedOver);
        self.hand_over(client, from.route, CameTo::new(from.listener));
    }

    /// The client of a session goes to another process.
    pub(super) fn hand_over(&mut self, client: Sock, route: RouteKey, came_to: CameTo) {
        let fd = self.hands.driver.let_go(client);
        let served = &self.routes[route];
        let leave = served.leave.as_ref();
        leave
            .expect("clients leave where they are let go")
            .give(LeavingClient {
                fd,
                route: served.route.number,
                listener: came_to.number(),
            });
    }
}
