//! What the epoll driver asks of the kernel: sockets that never wait, pipes, and readiness.
//!
//! There are two: Linux, where every call is one of `sys`, and the simulated one of `sim/readiness`, so that the
//! driver itself runs in the simulation, and not only what is above it. A call does what its namesake in `sys` does;
//! only what is not said there is said here.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use crate::sys::Errno;
use crate::sys::net::{self, Addresses, PeerCredentials, RawAddress, TcpOptions, UnixName};
use crate::sys::poll::{self, Event};

use super::pipes::{Pipe, PipePool};
use super::{Close, Filled, Flushed, PipeGuard};

/// A kernel with epoll.
pub trait EpollKernel {
    /// Its sockets. One that is dropped is closed, and then no event tells of it any more.
    type Fd: KernelSocket;
    /// Its pipes.
    type Pipes: PipeSource<Fd = Self::Fd>;

    /// A pool of pipes, so many at the most.
    fn pipes(&self, max: usize) -> Self::Pipes;
    /// A listener that somebody else has opened.
    fn adopt(&self, listener: OwnedFd) -> Self::Fd;
    /// A client that somebody else has accepted.
    fn adopt_client(&self, client: OwnedFd) -> Self::Fd;
    /// Gives a socket that is not watched any more to somebody else.
    fn let_go(&self, fd: Self::Fd) -> OwnedFd;
    /// A TCP socket for the family of `like`, which is not connected.
    fn tcp_socket(&self, like: &SocketAddr, options: &TcpOptions) -> Result<Self::Fd, Errno>;
    /// A Unix socket that is connected.
    fn unix_connected(&self, name: UnixName) -> Result<Self::Fd, Errno>;

    /// Starts to watch the descriptor of a [`Waker`](super::Waker), level-triggered.
    fn add_waker(&self, waker: &OwnedFd, token: u64) -> Result<(), Errno>;
    /// Starts to watch a socket.
    fn add(&self, fd: &Self::Fd, events: i32, token: u64) -> Result<(), Errno>;
    /// Stops watching it.
    fn remove(&self, fd: &Self::Fd) -> Result<(), Errno>;
    /// Waits for events, or until the time has come (`None`: for ever). May end for nothing.
    fn wait(&self, events: &mut Vec<Event>, until: Option<Instant>) -> Result<(), Errno>;
    /// The time.
    fn now(&self) -> Instant;
}

/// A socket of a kernel. None of its calls waits.
pub trait KernelSocket: Sized {
    /// [`net::is_unix`].
    fn is_unix(&self) -> bool;
    /// [`net::accept`].
    fn accept(&self) -> Result<Self, Errno>;
    /// [`net::connect`].
    fn connect(&self, to: SocketAddr) -> Result<(), Errno>;
    /// [`net::connect_outcome`].
    fn connect_outcome(&self) -> Option<Result<(), Errno>>;
    /// [`net::take_error`].
    fn take_error(&self) -> Result<(), Errno>;

    /// [`net::recv`].
    fn recv(&self, bytes: &mut Vec<u8>, most: usize) -> Result<usize, Errno>;
    /// [`net::recv_and_tell`].
    fn recv_and_tell(&self, bytes: &mut Vec<u8>, most: usize) -> Result<(usize, bool), Errno>;
    /// [`net::recv_and_leave`].
    fn recv_and_leave(&self, bytes: &mut Vec<u8>, most: usize) -> Result<usize, Errno>;
    /// [`net::discard`].
    fn discard(&self, count: usize);
    /// [`net::peek`].
    fn peek(&self, into: &mut [u8]) -> Result<usize, Errno>;
    /// [`net::queued`].
    fn queued(&self) -> usize;
    /// [`net::is_readable`].
    fn is_readable(&self) -> bool;
    /// [`net::peer_is_gone`].
    fn peer_is_gone(&self) -> bool;
    /// [`net::has_ended_in_order`].
    fn has_ended_in_order(&self) -> bool;

    /// [`net::send`].
    fn send(&self, bytes: &[u8]) -> Result<usize, Errno>;
    /// [`net::send_now`].
    fn send_now(&self, bytes: &[u8]) -> Result<(), Errno>;
    /// [`net::unread`].
    fn unread(&self) -> u64;
    /// [`net::acknowledged`].
    fn acknowledged(&self) -> Result<u64, Errno>;
    /// [`net::shutdown_write`].
    fn shutdown_write(&self) -> Result<(), Errno>;

    /// [`net::configure_tcp`].
    fn configure_tcp(&self, like: &SocketAddr, options: &TcpOptions) -> Result<(), Errno>;
    /// [`net::set_nodelay`].
    fn set_nodelay(&self) -> Result<(), Errno>;
    /// [`net::delay_handshake`].
    fn delay_handshake(&self) -> Result<(), Errno>;
    /// [`net::acknowledge`].
    fn acknowledge(&self) -> Result<(), Errno>;
    /// [`net::peer_credentials`].
    fn peer_credentials(&self) -> Option<PeerCredentials>;
    /// [`net::peer_groups`].
    fn peer_groups(&self) -> Result<Vec<u32>, Errno>;
    /// [`net::addresses`].
    fn addresses(&self) -> Result<Addresses, Errno>;
    /// [`net::dismiss`].
    fn dismiss(&self);
    /// It is about to be closed, in this way. `is_unix`: as it was asked before.
    fn end(&self, how: Close, is_unix: bool);
}

/// Where pipes come from, and what goes through them.
pub trait PipeSource {
    /// What they are filled from and flushed into.
    type Fd;
    /// One that is lent.
    type Pipe: PipeGuard;

    /// An empty pipe, if there is one.
    fn take(&self) -> Option<Self::Pipe>;
    /// How many are lent.
    fn lent(&self) -> usize;
    /// As [`Pipes::put`](super::Pipes::put).
    fn put(pipe: &mut Self::Pipe, bytes: &[u8]) -> bool;
    /// As [`Pipes::fill`](super::Pipes::fill).
    fn fill(from: &Self::Fd, pipe: &mut Self::Pipe, max: usize) -> Filled;
    /// As [`Pipes::flush`](super::Pipes::flush).
    fn flush(pipe: &mut Self::Pipe, to: &Self::Fd) -> Flushed;
}

impl EpollKernel for poll::EpollInstance {
    type Fd = OwnedFd;
    type Pipes = Rc<RefCell<PipePool>>;

    fn pipes(&self, max: usize) -> Self::Pipes {
        PipePool::new(max)
    }

    fn adopt(&self, listener: OwnedFd) -> OwnedFd {
        listener
    }

    fn adopt_client(&self, client: OwnedFd) -> OwnedFd {
        client
    }

    fn let_go(&self, fd: OwnedFd) -> OwnedFd {
        fd
    }

    fn tcp_socket(&self, like: &SocketAddr, options: &TcpOptions) -> Result<OwnedFd, Errno> {
        net::tcp_socket(like, options)
    }

    fn unix_connected(&self, name: UnixName) -> Result<OwnedFd, Errno> {
        net::unix_connected(name)
    }

    fn add_waker(&self, waker: &OwnedFd, token: u64) -> Result<(), Errno> {
        Self::add(self, waker, libc::EPOLLIN, token)
    }

    fn add(&self, fd: &OwnedFd, events: i32, token: u64) -> Result<(), Errno> {
        Self::add(self, fd, events, token)
    }

    fn remove(&self, fd: &OwnedFd) -> Result<(), Errno> {
        Self::remove(self, fd)
    }

    fn wait(&self, events: &mut Vec<Event>, until: Option<Instant>) -> Result<(), Errno> {
        Self::wait(self, events, until)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl KernelSocket for OwnedFd {
    fn is_unix(&self) -> bool {
        net::is_unix(self.as_fd())
    }

    fn accept(&self) -> Result<Self, Errno> {
        net::accept(self)
    }

    fn connect(&self, to: SocketAddr) -> Result<(), Errno> {
        net::connect(self, &RawAddress::from(to))
    }

    fn connect_outcome(&self) -> Option<Result<(), Errno>> {
        net::connect_outcome(self)
    }

    fn take_error(&self) -> Result<(), Errno> {
        net::take_error(self)
    }

    fn recv(&self, bytes: &mut Vec<u8>, most: usize) -> Result<usize, Errno> {
        net::recv(self, bytes, most)
    }

    fn recv_and_tell(&self, bytes: &mut Vec<u8>, most: usize) -> Result<(usize, bool), Errno> {
        net::recv_and_tell(self, bytes, most)
    }

    fn recv_and_leave(&self, bytes: &mut Vec<u8>, most: usize) -> Result<usize, Errno> {
        net::recv_and_leave(self, bytes, most)
    }

    fn discard(&self, count: usize) {
        net::discard(self, count);
    }

    fn peek(&self, into: &mut [u8]) -> Result<usize, Errno> {
        net::peek(self.as_fd(), into)
    }

    fn queued(&self) -> usize {
        net::queued(self)
    }

    fn is_readable(&self) -> bool {
        net::is_readable(self)
    }

    fn peer_is_gone(&self) -> bool {
        net::peer_is_gone(self)
    }

    fn has_ended_in_order(&self) -> bool {
        net::has_ended_in_order(self)
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        net::send(self, bytes)
    }

    fn send_now(&self, bytes: &[u8]) -> Result<(), Errno> {
        net::send_now(self, bytes)
    }

    fn unread(&self) -> u64 {
        net::unread(self)
    }

    fn acknowledged(&self) -> Result<u64, Errno> {
        net::acknowledged(self.as_fd())
    }

    fn shutdown_write(&self) -> Result<(), Errno> {
        net::shutdown_write(self)
    }

    fn configure_tcp(&self, like: &SocketAddr, options: &TcpOptions) -> Result<(), Errno> {
        net::configure_tcp(self.as_fd(), like, options)
    }

    fn set_nodelay(&self) -> Result<(), Errno> {
        net::set_nodelay(self.as_fd())
    }

    fn delay_handshake(&self) -> Result<(), Errno> {
        net::delay_handshake(self)
    }

    fn acknowledge(&self) -> Result<(), Errno> {
        net::acknowledge(self.as_fd())
    }

    fn peer_credentials(&self) -> Option<PeerCredentials> {
        net::peer_credentials(self)
    }

    fn peer_groups(&self) -> Result<Vec<u32>, Errno> {
        net::peer_groups(self)
    }

    fn addresses(&self) -> Result<Addresses, Errno> {
        net::addresses(self)
    }

    fn dismiss(&self) {
        net::dismiss(self);
    }

    fn end(&self, how: Close, is_unix: bool) {
        // Of AF_UNIX, what was not received tells.
        if how == Close::Reset && !is_unix {
            // It cannot fail on an open TCP socket; if it did, the end would merely be graceful.
            let _ = net::reset_on_close(self.as_fd());
        }
    }
}

impl PipeSource for Rc<RefCell<PipePool>> {
    type Fd = OwnedFd;
    type Pipe = Pipe;

    fn take(&self) -> Option<Pipe> {
        PipePool::take(self)
    }

    fn lent(&self) -> usize {
        self.borrow().lent()
    }

    fn put(pipe: &mut Pipe, bytes: &[u8]) -> bool {
        pipe.put(bytes)
    }

    fn fill(from: &OwnedFd, pipe: &mut Pipe, max: usize) -> Filled {
        pipe.fill(from, max)
    }

    fn flush(pipe: &mut Pipe, to: &OwnedFd) -> Flushed {
        pipe.flush(to)
    }
}
