//! The same world as a kernel with epoll, for the epoll driver itself: sockets are descriptors whose calls never
//! wait, and events tell when they may be tried again.
//!
//! Events are what epoll(7) allows, and Linux does:
//!
//! - An edge comes when something is new: bytes, an end, a failure, room where a send had found none. It may come
//!   late, beside others or alone, in any order, and is never lost.
//! - What an event says is all that is true of the socket when it is taken: what can be read and what can be
//!   written come in one, and an edge whose cause is gone by then comes as what is left, or not at all.
//! - Some come for nothing.
//! - A descriptor is watched until it is closed, whatever the driver has forgotten by then.
//! - A receive takes all that is there, as far as it has room, unless the sender has passed descriptors along
//!   (unix(7)) or there is urgent data (tcp(7)), behind which a splice finds nothing.

mod calls;
mod events;
mod kernel;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::driver::buffers::BufferPool;
use crate::driver::epoll::Epoll;
use crate::driver::{Limits, Sock, Waker};
use crate::session::BUFFERS_PER_SESSION;
use crate::sys::Errno;

use super::Sim;
use super::world::{Kind, World};
use events::EdgeCauses;

/// What the world has of descriptors.
pub(super) struct Readiness {
    fds: Vec<OpenFd>,
    /// The worker's waker, and its token.
    waker: Option<(OwnedFd, u64)>,
    /// The driver's.
    buffers: Rc<RefCell<BufferPool>>,
    /// Those of them that others have, for a moment.
    hoard: Vec<Vec<u8>>,
    /// What sends are copied into that have to go on.
    copies: Rc<RefCell<BufferPool>>,
    /// A call has moved something since the last wait.
    pub(super) has_moved: bool,
    /// The driver has ends of ops to tell, and does not wait.
    is_at_once: bool,
}

impl Readiness {
    /// Buffers that sessions have. What the driver is about to tell, and whoever has a hoard, do not count.
    pub(super) fn lent(&self) -> usize {
        match self.is_at_once {
            true => 0,
            false => self.buffers.borrow().lent() - self.hoard.len(),
        }
    }
}

/// A descriptor.
pub(super) struct OpenFd {
    sock: Sock,
    kind: FdKind,
    /// Whom it is connected to.
    peer: Option<usize>,
    /// Of a listener: where its clients wait.
    backlog: Option<usize>,
    /// The driver has forgotten it.
    is_ended: bool,
    /// Bytes that were copied, and are still in the socket.
    left: Vec<u8>,
    /// A send found no room, or an event told of none.
    lacks_room: bool,
    /// Where urgent data is in the stream of the peer.
    mark: Option<u64>,
    watch: Option<Registration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FdKind {
    Listener,
    Unix,
    Tcp,
}

/// How it is watched.
pub(super) struct Registration {
    token: u64,
    events: u32,
    seen: EdgeCauses,
    /// There is an edge to be told.
    is_pending: bool,
}

impl Sim {
    /// The epoll driver, over this world.
    pub(crate) fn under_epoll(&self, waker: Waker) -> Epoll<Self> {
        let limits = {
            let world = &mut *self.world();
            let limits = Limits {
                sessions: world.scenario.sessions_max,
                per_session: BUFFERS_PER_SESSION,
                pipes_max: world.scenario.pipes_max,
                into_unix: world.scenario.into_unix,
            };
            world.readiness = Some(Readiness {
                fds: Vec::new(),
                waker: None,
                // Until the driver has its own.
                buffers: BufferPool::new(0),
                hoard: Vec::new(),
                copies: BufferPool::new(usize::MAX),
                has_moved: false,
                is_at_once: false,
            });
            limits
        };
        let driver = Epoll::over(self.clone(), waker, limits).expect("a waker is watched");
        self.world().readiness().buffers = driver.buffers();
        driver
    }
}

impl World {
    pub(super) fn readiness(&mut self) -> &mut Readiness {
        self.readiness.as_mut().expect("the driver is one of epoll")
    }

    pub(super) fn moved(&mut self) {
        self.readiness().has_moved = true;
    }

    // --- descriptors --------------------------------------------------------------------------

    pub(super) fn open_fd(&mut self, sock: Sock, kind: FdKind) {
        let peer = self.peer_of(sock);
        let backlog = match self.sockets.peek(sock).kind {
            Kind::Listener(at) => Some(at.backlog),
            Kind::Client(_) | Kind::Upstream(_) => None,
        };
        self.readiness().fds.push(OpenFd {
            sock,
            kind,
            peer,
            backlog,
            is_ended: false,
            left: Vec::new(),
            lacks_room: false,
            mark: None,
            watch: None,
        });
    }

    /// Nothing tells of it any more.
    pub(super) fn close_fd(&mut self, sock: Sock) {
        let fds = &mut self.readiness().fds;
        let at = fds.iter().position(|fd| fd.sock == sock);
        let at = at.expect("it is closed once");
        if fds[at].kind == FdKind::Listener && fds[at].watch.is_some() {
            // Others have it as well, so it is watched for ever.
            return;
        }
        let fd = fds.swap_remove(at);
        if fd.is_ended {
            self.release_one(sock);
        }
    }

    pub(super) fn fd(&mut self, sock: Sock) -> &mut OpenFd {
        let mut fds = self.readiness().fds.iter_mut();
        fds.find(|fd| fd.sock == sock).expect("it is open")
    }

    /// Whom it is connected to. The driver has not forgotten it.
    pub(super) fn fd_peer(&mut self, sock: Sock) -> usize {
        let peer = self.peer_of(sock);
        let peer = peer.expect("only connected sockets are read and written");
        self.heard(sock);
        self.fd(sock).peer = Some(peer);
        peer
    }

    pub(super) fn watch(&mut self, sock: Sock, events: u32, token: u64) -> Result<(), Errno> {
        let peer = self.peer_of(sock);
        self.note(|| format!("{sock:?} add"));
        if self.fault(self.scenario.faults.failure) {
            // Nobody will hear of it any more, which is as good as broken.
            if let Some(peer) = peer {
                self.peers[peer].break_off(Errno(libc::ENOMEM));
                self.peers[peer].failure_seen = true;
            }
            return Err(Errno(libc::ENOMEM));
        }
        let fd = self.fd(sock);
        fd.peer = peer;
        rule!(
            "watched_once",
            fd.watch.is_none(),
            "{sock:?} is registered, and that again"
        );
        fd.watch = Some(Registration {
            token,
            events,
            seen: EdgeCauses::default(),
            // What is there already counts as an edge.
            is_pending: true,
        });
        Ok(())
    }
}
