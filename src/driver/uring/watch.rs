//! Waits that the ring cannot do: it ends every wait on RDHUP, asked for or not.
//!
//! For a socket whose peer has half-closed, a wait of the ring for writability ends at once, and so
//! does a wait for the peer to go away altogether. epoll reports RDHUP only to those who ask for it.
//! And a socket that has bytes left in it on purpose is readable to the ring whether others come or not.
//! So such sockets are registered here, edge-triggered, and the ring waits for this epoll instance.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use io_uring::types;

use crate::driver::Sock;
use crate::sys::Errno;
use crate::sys::poll::{EpollInstance, Event};

/// Events that one look takes; the others come with the next.
const EVENTS_MAX: usize = 64;

/// What a socket can be watched for. That its peer is gone is told in any case.
pub(super) const READS: i32 = libc::EPOLLIN | libc::EPOLLRDHUP;
pub(super) const WRITES: i32 = libc::EPOLLOUT;

/// The sockets that epoll watches for the ring.
pub(super) struct Watch {
    epoll: EpollInstance,
    events: Vec<Event>,
    /// A poll of the ring on the epoll instance is in flight.
    pub(super) armed: bool,
    /// Sockets that were ever registered: until then there is nothing to wait for.
    pub(super) in_use: bool,
}

/// What epoll says of a socket.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// Of the socket, as it was registered.
    pub(super) token: u64,
    /// Bytes have come, or an end or a failure.
    pub(super) readable: bool,
    /// No more bytes will come.
    pub(super) ended: bool,
    /// A send is worth a try.
    pub(super) writable: bool,
    /// The peer is gone, or the connection broken.
    pub(super) hung_up: bool,
}

impl Watch {
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self {
            epoll: EpollInstance::new()?,
            events: Vec::with_capacity(EVENTS_MAX),
            armed: false,
            in_use: false,
        })
    }

    /// What the ring polls.
    pub(super) fn target(&self) -> types::Fd {
        types::Fd(self.epoll.fd().as_raw_fd())
    }

    /// Watches the socket for `events` instead of those `before`, at most until it is closed; 0 is for
    /// nothing. What is true already is reported as well.
    pub(super) fn change(
        &mut self,
        fd: &OwnedFd,
        sock: Sock,
        before: i32,
        events: i32,
    ) -> Result<(), Errno> {
        self.in_use = true;
        let edges = events | libc::EPOLLET;
        match (before, events) {
            (_, 0) => self.epoll.remove(fd),
            (0, _) => self.epoll.add(fd, edges, sock.token()),
            (_, _) => self.epoll.modify(fd, edges, sock.token()),
        }
    }

    /// What happened since the last look.
    pub(super) fn look(&mut self) -> Result<impl Iterator<Item = Seen> + use<>, Errno> {
        const HUNG_UP: u32 = (libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned();
        const WRITABLE: u32 = libc::EPOLLOUT.cast_unsigned() | HUNG_UP;
        const ENDED: u32 = libc::EPOLLRDHUP.cast_unsigned() | HUNG_UP;
        const READABLE: u32 = libc::EPOLLIN.cast_unsigned() | ENDED;
        self.epoll.wait(&mut self.events, Some(Instant::now()))?;
        let seen = |event: Event| Seen {
            token: event.u64,
            readable: event.events & READABLE != 0,
            ended: event.events & ENDED != 0,
            writable: event.events & WRITABLE != 0,
            hung_up: event.events & HUNG_UP != 0,
        };
        let seen: Vec<_> = self.events.drain(..).map(seen).collect();
        Ok(seen.into_iter())
    }
}
