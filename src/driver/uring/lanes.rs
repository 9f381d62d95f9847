//! A socket and its two lanes: what is in flight on each, and who waits for it.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::types;

use crate::driver::buffers::Buf;
use crate::driver::calls::SocketFd;

/// An open socket, or one that is being closed.
pub(super) struct Socket {
    pub(super) descriptor: SocketFd,
    pub(super) read: Read,
    pub(super) write: Write,
    pub(super) closing: bool,
    /// It was connected without the ring, and nothing was sent yet: what was held for it goes out
    /// without the ring as well, or it would wait for everything else that the turn has to do.
    pub(super) fresh: bool,
    /// The last receive left nothing behind: wait before the next try.
    pub(super) drained: bool,
    /// For what epoll watches this socket, because the ring cannot wait for it: 0, or of
    /// [`READS`](super::watch::READS) and [`WRITES`](super::watch::WRITES).
    pub(super) watched: i32,
    /// epoll saw that no more bytes will come.
    pub(super) ended: bool,
    /// epoll saw it become writable since the last send was submitted, while nobody waited for epoll.
    /// The failure of that send, or the wait of the ring that ends with nothing but RDHUP, may be
    /// older than this, and then no other edge comes.
    pub(super) writable_edge: bool,
}

/// The read lane.
pub(super) enum Read {
    Idle,
    Accept,
    Recv,
    /// A receive that waits for a buffer; the kernel does not have it.
    Starved,
    /// A receive that was called off: it ends as what became of it, and does not begin again.
    Recalled,
    /// Waits for bytes beside those that were copied already; epoll tells.
    Peek,
    Readable,
    /// Waits for the peer to go away; epoll tells.
    Hangup,
}

/// The write lane. What the kernel reads is owned here until the op completes.
pub(super) enum Write {
    Idle,
    /// A connect is in progress; writability tells.
    Connecting,
    Send(Outgoing),
    /// A send that found the socket full.
    SendWait(Outgoing, Waiting),
    Writable(Waiting),
}

pub(super) struct Outgoing {
    pub(super) buf: Buf,
    pub(super) sent: usize,
}

/// Who tells us of writability.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    Ring,
    Epoll,
}

impl Socket {
    pub(super) fn new(descriptor: SocketFd) -> Self {
        Self {
            descriptor,
            read: Read::Idle,
            write: Write::Idle,
            closing: false,
            fresh: false,
            drained: false,
            watched: 0,
            ended: false,
            writable_edge: false,
        }
    }

    /// One that we have opened: nothing has come yet.
    pub(super) fn opened(fd: OwnedFd, is_unix: bool) -> Self {
        Self {
            drained: true,
            ..Self::new(SocketFd::new(fd, is_unix))
        }
    }

    pub(super) fn target(&self) -> types::Fd {
        types::Fd(self.descriptor.fd.as_raw_fd())
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.read, Read::Idle) && matches!(self.write, Write::Idle)
    }
}
