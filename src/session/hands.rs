//! What a worker acts with, whoever of its sessions and pools does so.

use std::time::Instant;

use crate::backend::Lease;
use crate::driver::{Close, Closed, Driver, Sock};

use super::{Began, End, SessionId, UpstreamId};

/// The same for everything that a worker serves.
pub struct Hands<D: Driver> {
    /// The way to the kernel.
    pub driver: D,
    /// Who hears of sockets.
    pub owners: Owners,
    /// Places at endpoints whose connections were closed.
    pub retired: Retired<Lease>,
    /// The time of this turn.
    pub now: Instant,
    /// When the worker began.
    pub started: Instant,
}

impl<D: Driver> Hands<D> {
    /// Of a worker that has nothing yet.
    pub fn new(driver: D) -> Self {
        let now = driver.now();
        Self {
            driver,
            owners: Owners::default(),
            retired: Retired::default(),
            now,
            started: now,
        }
    }

    /// Of a session that begins in this turn.
    pub(super) fn began_now(&self) -> Began {
        Began::at(self.now, self.started)
    }

    /// Closes a connection to an endpoint, and gives its place back when it is closed. Returns its socket if the
    /// driver has yet to join it.
    pub(super) fn close_upstream(&mut self, sock: Sock, lease: Lease, how: Close) -> Option<Sock> {
        let closed = self.driver.close(sock, how);
        self.retired.push(lease, sock, closed);
        (closed == Closed::Soon).then_some(sock)
    }
}

/// A route of one worker, for as long as the worker has anything of it. Used again after that. Each session has one:
/// it is small.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct RouteKey(pub u32);

impl RouteKey {
    /// That of the route in this place of a worker's.
    pub(crate) fn at(slot: usize) -> Self {
        let slot = u32::try_from(slot);
        Self(slot.expect("each route has a number of 32 bits, and a listener"))
    }

    /// The place of the route.
    pub(crate) fn slot(self) -> usize {
        self.0 as usize
    }
}

/// Who hears of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The worker: a listener, by its number.
    Listener(usize),
    /// A session.
    Session(SessionId, End),
    /// The pool of a route: a connection that no request uses now.
    Upstream(RouteKey, UpstreamId),
}

/// Who hears of which socket: a table beside the driver's.
#[derive(Default)]
pub struct Owners(Vec<Option<Owner>>);

impl Owners {
    /// From now on `owner` hears of `sock`.
    pub fn assign(&mut self, sock: Sock, owner: Owner) {
        if self.0.len() <= sock.index() {
            self.0.resize(sock.index() + 1, None);
        }
        self.0[sock.index()] = Some(owner);
    }

    /// Who hears of `sock`.
    pub fn of(&self, sock: Sock) -> Owner {
        let owner = self.0.get(sock.index()).copied().flatten();
        owner.expect("a socket with an op in flight has an owner")
    }
}

/// What is given back only when its descriptor is closed: whoever got a place before that could be one
/// too many for the backend.
pub struct Retired<T> {
    /// The next [`Driver::release`] closes it.
    left: Vec<T>,
    /// The driver has yet to join this socket.
    leaving: Vec<(Sock, T)>,
    /// Whether there was no turn since the last one came in.
    is_new: bool,
}

impl<T> Retired<T> {
    /// Given back when `sock`, which was closed like this, is.
    pub fn push(&mut self, retired: T, sock: Sock, closed: Closed) {
        match closed {
            Closed::Now => self.left.push(retired),
            Closed::Soon => self.leaving.push((sock, retired)),
        }
        self.is_new = true;
    }

    /// A turn has passed.
    pub fn turned(&mut self) {
        self.is_new = false;
    }

    /// Right after [`Driver::release`]. `each` is told of what this gives back.
    pub fn released(&mut self, driver: &impl Driver, mut each: impl FnMut(&T)) {
        self.left.drain(..).for_each(|retired| each(&retired));
        self.leaving.retain(|(sock, retired)| {
            let is_closed = driver.is_closed(*sock);
            if is_closed {
                each(retired);
            }
            !is_closed
        });
    }

    /// Whether to look again without waiting: the driver joins most sockets in the next turn, and for
    /// the others a completion ends the wait.
    pub fn is_urgent(&self) -> bool {
        self.is_new || !self.left.is_empty()
    }

    /// Whether everything was given back.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty() && self.leaving.is_empty()
    }
}

impl<T> Default for Retired<T> {
    fn default() -> Self {
        Self {
            left: Vec::new(),
            leaving: Vec::new(),
            is_new: false,
        }
    }
}
