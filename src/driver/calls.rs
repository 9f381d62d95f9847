//! What is asked of a socket directly, beside its ops: calls that never wait, and that the kernel answers at once.
//!
//! Both real drivers have a descriptor for each socket, and with it the same answers: they are given here once, and
//! so is what they do with pipes. A driver without descriptors, as those of the tests, implements [`SocketCalls`] and
//! [`Pipes`] itself.

use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::sys::Errno;
use crate::sys::net::{Addresses, PeerCredentials, TcpOptions};

use super::kernel::{KernelSocket, PipeSource};
use super::{BUFFER_BYTES, Close, Done, Filled, Flushed, IntoUnix, Pipes, Sock};

/// Direct calls on a driver's sockets.
pub trait SocketCalls {
    /// Gives a socket that [`Driver::open_tcp`](super::Driver::open_tcp) made with no options for the family of
    /// `like`, and that is not connected, these.
    fn configure_tcp(
        &mut self,
        sock: Sock,
        like: &SocketAddr,
        options: &TcpOptions,
    ) -> Result<(), Errno>;
    /// Before a connect: bytes are at hand that will be sent as soon as it succeeds. Where the
    /// transport can, they travel with the end of the handshake, and acknowledgements are as prompt
    /// after them as on any new connection.
    fn send_follows(&mut self, sock: Sock);
    /// Who connected to the listener: the process that made the connection, as it was then. `None` where
    /// the transport does not tell, as TCP.
    fn peer_credentials(&mut self, sock: Sock) -> Option<PeerCredentials>;
    /// The supplementary groups of the same process.
    fn peer_groups(&mut self, sock: Sock) -> Result<Vec<u32>, Errno>;
    /// Of a TCP client: its own address and the one that it connected to. An error for AF_UNIX, and
    /// when the connection is broken already.
    fn client_addresses(&mut self, sock: Sock) -> Result<Addresses, Errno>;
    /// Of a socket that was accepted and that no session has: takes nothing more, and throws away what
    /// came, so that a close looks like a clean end where the transport can do that.
    fn dismiss(&mut self, sock: Sock);

    /// How many bytes there are to be received; 0 where it cannot be told. What is there stays there, even
    /// if the connection breaks.
    fn at_hand(&mut self, sock: Sock) -> usize;
    /// Copies the first bytes that are there without taking them: how many, and 0 if there are none, at
    /// an end or a failure too, which a receive tells.
    fn peek(&mut self, sock: Sock, into: &mut [u8]) -> usize;
    /// Whether so many bytes that were received last are still in the socket, as [`Op::Peek`](super::Op::Peek) leaves
    /// them.
    fn has_left(&mut self, sock: Sock, bytes: usize) -> bool;
    /// Takes and drops so many of the bytes that are there. False: it could not, and the connection is of
    /// no use any more.
    fn skip(&mut self, sock: Sock, bytes: usize) -> bool;
    /// What a TCP socket has received is acknowledged at once, now and for the next moment: a peer
    /// without TCP_NODELAY holds its next small write back until then. AF_UNIX has nothing to
    /// acknowledge.
    fn acknowledge(&mut self, sock: Sock);
    /// After an end of stream on a socket that was accepted: whether its peer closed it altogether,
    /// so that nothing can be delivered to it any more. Only AF_UNIX can tell; else false.
    fn peer_is_gone(&mut self, sock: Sock) -> bool;

    /// How many bytes the peer of a TCP socket has acknowledged, from the connection's first one on.
    fn acknowledged(&mut self, sock: Sock) -> Result<u64, Errno>;
    /// Bytes that the kernel holds for the peer to read, more or less: only good for comparing with
    /// an earlier answer.
    fn unread(&mut self, sock: Sock) -> u64;
    /// Passes an end of stream on.
    fn shutdown_write(&mut self, sock: Sock);
}

/// A driver whose sockets are descriptors.
pub trait OverDescriptors {
    /// What they are.
    type Fd: KernelSocket;
    /// What its pipes are.
    type Pipes: PipeSource<Fd = Self::Fd>;

    /// The descriptor of an open socket.
    fn descriptor(&mut self, sock: Sock) -> &mut SocketFd<Self::Fd>;
    /// Its pipes.
    fn pipe_source(&self) -> &Self::Pipes;
    /// How bytes get into Unix sockets in bulk.
    fn way_into_unix(&self) -> IntoUnix;
    /// A splice out of a socket found nothing.
    fn spliced_dry(&mut self, _from: Sock) {}
    /// A splice into a socket found no room.
    fn spliced_full(&mut self, _to: Sock) {}
}

impl<D: OverDescriptors> SocketCalls for D {
    fn configure_tcp(
        &mut self,
        sock: Sock,
        like: &SocketAddr,
        options: &TcpOptions,
    ) -> Result<(), Errno> {
        self.descriptor(sock).fd.configure_tcp(like, options)
    }

    fn send_follows(&mut self, sock: Sock) {
        let descriptor = self.descriptor(sock);
        // Where it cannot be had, the handshake ends as ever.
        descriptor.handshake_delayed = descriptor.fd.delay_handshake().is_ok();
    }

    fn peer_credentials(&mut self, sock: Sock) -> Option<PeerCredentials> {
        self.descriptor(sock).fd.peer_credentials()
    }

    fn peer_groups(&mut self, sock: Sock) -> Result<Vec<u32>, Errno> {
        self.descriptor(sock).fd.peer_groups()
    }

    fn client_addresses(&mut self, sock: Sock) -> Result<Addresses, Errno> {
        self.descriptor(sock).fd.addresses()
    }

    fn dismiss(&mut self, sock: Sock) {
        self.descriptor(sock).fd.dismiss();
    }

    fn at_hand(&mut self, sock: Sock) -> usize {
        self.descriptor(sock).fd.queued()
    }

    fn peek(&mut self, sock: Sock, into: &mut [u8]) -> usize {
        self.descriptor(sock).fd.peek(into).unwrap_or(0)
    }

    fn has_left(&mut self, sock: Sock, bytes: usize) -> bool {
        self.descriptor(sock).peeked == bytes
    }

    fn skip(&mut self, sock: Sock, bytes: usize) -> bool {
        let mut skipped = Vec::with_capacity(bytes);
        self.descriptor(sock).fd.recv(&mut skipped, bytes) == Ok(bytes)
    }

    fn acknowledge(&mut self, sock: Sock) {
        let descriptor = self.descriptor(sock);
        if !descriptor.is_unix {
            descriptor.acknowledge();
        }
    }

    fn peer_is_gone(&mut self, sock: Sock) -> bool {
        let descriptor = self.descriptor(sock);
        descriptor.is_unix && descriptor.fd.peer_is_gone()
    }

    fn acknowledged(&mut self, sock: Sock) -> Result<u64, Errno> {
        self.descriptor(sock).fd.acknowledged()
    }

    fn unread(&mut self, sock: Sock) -> u64 {
        self.descriptor(sock).fd.unread()
    }

    fn shutdown_write(&mut self, sock: Sock) {
        // ENOTCONN: the peer is gone, and a read or a write will say so.
        let _ = self.descriptor(sock).fd.shutdown_write();
    }
}

impl<D: OverDescriptors> Pipes for D {
    type Pipe = <D::Pipes as PipeSource>::Pipe;

    fn pipe(&mut self) -> Option<Self::Pipe> {
        self.pipe_source().take()
    }

    fn splices_into(&mut self, sock: Sock) -> bool {
        self.way_into_unix() == IntoUnix::Spliced || !self.descriptor(sock).is_unix
    }

    fn pipes_in_use(&self) -> usize {
        self.pipe_source().lent()
    }

    fn put(&mut self, pipe: &mut Self::Pipe, bytes: &[u8]) -> bool {
        D::Pipes::put(pipe, bytes)
    }

    fn fill(&mut self, from: Sock, pipe: &mut Self::Pipe, max: usize) -> Filled {
        let descriptor = self.descriptor(from);
        descriptor.take_peeked();
        let filled = D::Pipes::fill(&descriptor.fd, pipe, max);
        if filled == Filled::Empty {
            self.spliced_dry(from);
        }
        filled
    }

    fn flush(&mut self, pipe: &mut Self::Pipe, to: Sock) -> Flushed {
        assert!(
            self.splices_into(to),
            "its reader could hold this thread up"
        );
        let descriptor = self.descriptor(to);
        let flushed = D::Pipes::flush(pipe, &descriptor.fd);
        descriptor.sent();
        if flushed == Flushed::Full {
            self.spliced_full(to);
        }
        flushed
    }
}

/// A socket's descriptor, and what both drivers have to know of it beside its ops.
pub struct SocketFd<F = OwnedFd> {
    pub(super) fd: F,
    /// Of a listener: its clients are.
    pub(super) is_unix: bool,
    /// Bytes that were copied and are still in the socket.
    peeked: usize,
    /// Its handshake was to wait for the first bytes, and nothing was received since: whatever is sent until then,
    /// acknowledgements are to be prompt again.
    handshake_delayed: bool,
}

impl<F: KernelSocket> SocketFd<F> {
    pub(super) fn new(fd: F, is_unix: bool) -> Self {
        Self {
            fd,
            is_unix,
            peeked: 0,
            handshake_delayed: false,
        }
    }

    /// Of a listener's: a client that it gave.
    pub(super) fn accepted(&self, client: F) -> Self {
        Self::of_client(client, self.is_unix)
    }

    /// Of a client that was accepted.
    pub(super) fn of_client(client: F, is_unix: bool) -> Self {
        if !is_unix {
            // It fails on a connection that is broken already, whose session will see it.
            let _ = client.set_nodelay();
        }
        Self::new(client, is_unix)
    }

    fn acknowledge(&self) {
        // It cannot fail on a TCP socket.
        let _ = self.fd.acknowledge();
    }

    /// Bytes were sent.
    pub(super) fn sent(&self) {
        if self.handshake_delayed {
            self.acknowledge();
        }
    }

    /// Bytes were received, or an end.
    pub(super) fn received(&mut self) {
        self.handshake_delayed = false;
    }

    /// The peer is gone; of TCP it is known how.
    pub(super) fn hung_up(&self) -> Done {
        if self.is_unix {
            return Done::Ready;
        }
        self.fd
            .take_error()
            .map_or_else(Done::Failed, |()| Done::Ready)
    }

    /// Takes what was only copied so far.
    pub(super) fn take_peeked(&mut self) {
        let count = mem::take(&mut self.peeked);
        if count > 0 {
            self.fd.discard(count);
        }
    }

    /// Whether no bytes have come beside those that were copied already.
    pub(super) fn has_only_peeked(&self) -> bool {
        self.peeked > 0 && self.fd.queued() <= self.peeked
    }

    /// Receives what is there, so much at most.
    pub(super) fn receive(&mut self, bytes: &mut Vec<u8>, most: usize) -> Result<usize, Errno> {
        self.take_peeked();
        let received = self.fd.recv(bytes, most)?;
        self.received();
        Ok(received)
    }

    /// Receives what is there, up to a buffer full, and leaves it where it is, unless it is that much:
    /// then more comes, and this is no question that could be answered.
    pub(super) fn receive_and_leave(&mut self, bytes: &mut Vec<u8>) -> Result<usize, Errno> {
        self.take_peeked();
        let received = self.fd.recv_and_leave(bytes, BUFFER_BYTES)?;
        self.peeked = received;
        if received >= BUFFER_BYTES {
            self.take_peeked();
        }
        Ok(received)
    }

    /// Before it is closed: what was copied is taken, or else the peer is to learn that bytes are missing.
    pub(super) fn end(&mut self, how: Close) {
        if how == Close::Graceful {
            self.take_peeked();
        }
        self.fd.end(how, self.is_unix);
    }
}
