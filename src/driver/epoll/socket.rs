//! What the driver knows of a socket: its two ops, and whether a try of them would find something.

use std::net::SocketAddr;

use crate::driver::buffers::Buf;
use crate::driver::calls::SocketFd;
use crate::driver::kernel::KernelSocket;
use crate::sys::Errno;

pub(super) struct Socket<F> {
    pub(super) descriptor: SocketFd<F>,
    pub(super) is_listener: bool,
    pub(super) read: Read,
    pub(super) write: Write,
    /// Whether the last try of a read, or of a write, found something. Optimistic at first.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// It was a splice that found nothing.
    pub(super) spliced_dry: bool,
    /// A receive that does not fill its buffer may leave something behind: an end or an error, or
    /// what follows urgent data or descriptors that were passed along. Without such, it took all that
    /// had come, and an edge will tell of more.
    pub(super) special: bool,
    /// Whether epoll watches it. Only once something has to be waited for: many an upstream's first
    /// wait is its last.
    pub(super) registered: bool,
    /// Of a listener: whose turn it is.
    pub(super) turn: Turn,
}

/// Whose turn it is to take a client from a listener that others have as well.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Whoever the kernel wakes.
    Anybodys,
    /// Ours, as soon as it comes to us.
    Ours,
    /// We have had one: the others' come first.
    Others,
}

impl<F: KernelSocket> Socket<F> {
    pub(super) fn new(descriptor: SocketFd<F>) -> Self {
        Self {
            descriptor,
            is_listener: false,
            read: Read::Idle,
            write: Write::Idle,
            readable: true,
            writable: true,
            spliced_dry: false,
            special: false,
            registered: false,
            turn: Turn::Anybodys,
        }
    }

    /// Receives what is there, as [`SocketFd::receive_and_leave`] does it.
    pub(super) fn receive_and_leave(&mut self, bytes: &mut Vec<u8>) -> Result<usize, Errno> {
        let received = self.descriptor.receive_and_leave(bytes);
        if received == Err(Errno(libc::EAGAIN)) {
            self.readable = false;
        }
        received
    }

    /// Receives what is there, so much at most, and takes note of whether there can be more.
    pub(super) fn receive(&mut self, bytes: &mut Vec<u8>, most: usize) -> Result<usize, Errno> {
        let descriptor = &mut self.descriptor;
        descriptor.take_peeked();
        let received = if descriptor.is_unix {
            descriptor
                .fd
                .recv_and_tell(bytes, most)
                .map(|(received, stopped)| {
                    self.special |= stopped;
                    received
                })
        } else {
            descriptor.fd.recv(bytes, most)
        };
        match received {
            Ok(received) => {
                descriptor.received();
                self.readable = self.special || received >= most;
            }
            Err(Errno(libc::EAGAIN)) => self.readable = false,
            Err(_) => {}
        }
        received
    }
}

pub(super) enum Read {
    Idle,
    Accept,
    Recv,
    Peek,
    Readable,
    Hangup,
}

pub(super) enum Write {
    Idle,
    Connect(SocketAddr),
    /// Connecting: writability tells the outcome.
    Connecting,
    Send {
        buf: Buf,
        sent: usize,
    },
    Writable,
}
