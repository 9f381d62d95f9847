//! The epoll driver: the same ops, emulated, for systems that do not allow io_uring.
//!
//! Each op is tried; on EAGAIN it waits until epoll reports the socket ready, and is tried again.
//! Sockets are registered once, edge-triggered, and their readiness is remembered: an edge that
//! comes while no op waits is not lost, because the next op is tried first.
//!
//! Listeners are shared with other workers. They are registered, exclusively and level-triggered,
//! only while an accept waits, so that a worker that cannot accept is never the one that is woken. The
//! kernel wakes the first one that is registered: who takes clients in turns goes behind the others.

mod attempts;
mod readiness;
mod socket;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use crate::sys::Errno;
use crate::sys::net::{TcpOptions, UnixName};
use crate::sys::poll::{self, Event};

use super::buffers::{Buf, BufferPool, Size};
use super::calls::{OverDescriptors, SocketFd};
use super::kernel::{EpollKernel, KernelSocket};
use super::table::Table;
use super::{
    Close, Closed, Completion, Done, Driver, IntoUnix, Lane, Limits, NoBuffer, Op, Sock, Waker,
};
use socket::{Read, Socket, Turn, Write};

/// Events that one wait takes. What is over comes with the next wait.
const EVENTS_MAX: usize = 256;

/// The token of the waker's descriptor: of a slot that no socket comes to.
const WAKER_TOKEN: u64 = u64::MAX;
/// The epoll driver of one thread.
pub struct Epoll<K: EpollKernel = poll::EpollInstance> {
    kernel: K,
    sockets: Table<Socket<K::Fd>>,
    buffers: Rc<RefCell<BufferPool>>,
    pipes: K::Pipes,
    into_unix: IntoUnix,
    waker: Waker,
    events: Vec<Event>,
    /// Ops to try: new ones, and those whose socket became ready.
    untried: Vec<(Sock, Lane)>,
    /// Listeners that may be watched though no accept waits, or have given a client where workers take turns. Nobody
    /// looks at the others before a wait: there may be a thousand.
    untended: Vec<Sock>,
    done: VecDeque<Completion>,
    /// Receives that found no buffer.
    starved: Vec<Sock>,
    /// Descriptors of sockets that were closed.
    to_release: Vec<K::Fd>,
}
impl Epoll {
    /// Sets the epoll instance up.
    pub fn new(waker: Waker, limits: Limits) -> Result<Self, Errno> {
        Self::over(poll::EpollInstance::new()?, waker, limits)
    }
}

impl<K: EpollKernel> Epoll<K> {
    /// A driver over this kernel.
    pub(super) fn over(kernel: K, waker: Waker, limits: Limits) -> Result<Self, Errno> {
        kernel.add_waker(waker.0.fd(), WAKER_TOKEN)?;
        Ok(Self {
            pipes: kernel.pipes(limits.pipes_max),
            kernel,
            sockets: Table::default(),
            buffers: BufferPool::within(limits, 0),
            into_unix: limits.into_unix,
            waker,
            events: Vec::with_capacity(EVENTS_MAX),
            untried: Vec::new(),
            untended: Vec::new(),
            done: VecDeque::new(),
            starved: Vec::new(),
            to_release: Vec::new(),
        })
    }

    /// Its buffers.
    #[cfg(any(test, fuzzing))]
    pub(super) fn buffers(&self) -> Rc<RefCell<BufferPool>> {
        Rc::clone(&self.buffers)
    }

    /// Receives, in this way, what is there already.
    fn take_now(
        &mut self,
        sock: Sock,
        size: Size,
        receive: impl FnOnce(&mut Socket<K::Fd>, &mut Vec<u8>, usize) -> Result<usize, Errno>,
    ) -> Result<Option<Buf>, Errno> {
        let socket = self.sockets.get(sock);
        assert!(matches!(socket.read, Read::Idle), "{sock:?} reads already");
        BufferPool::receive(&self.buffers, size, |bytes, most| {
            receive(socket, bytes, most)
        })
    }
}

impl<K: EpollKernel> Driver for Epoll<K> {
    fn adopt_listener(&mut self, listener: OwnedFd) -> Sock {
        let listener = self.kernel.adopt(listener);
        let is_unix = listener.is_unix();
        self.sockets.insert(Socket {
            is_listener: true,
            ..Socket::new(SocketFd::new(listener, is_unix))
        })
    }

    fn take_turns(&mut self, listener: Sock) {
        self.sockets.get(listener).turn = Turn::Ours;
    }

    fn adopt_client(&mut self, client: OwnedFd) -> Sock {
        let client = self.kernel.adopt_client(client);
        let is_unix = client.is_unix();
        let descriptor = SocketFd::of_client(client, is_unix);
        self.sockets.insert(Socket::new(descriptor))
    }

    fn let_go(&mut self, sock: Sock) -> OwnedFd {
        let socket = self.sockets.remove(sock);
        assert!(
            matches!((&socket.read, &socket.write), (Read::Idle, Write::Idle)),
            "{sock:?} has an op in flight"
        );
        let fd = socket.descriptor.fd;
        if socket.registered {
            // The connection lives on in another descriptor, and would be watched for as long. It cannot fail for one
            // that is registered.
            let _ = self.kernel.remove(&fd);
        }
        self.kernel.let_go(fd)
    }

    fn open_tcp(&mut self, like: &SocketAddr, options: &TcpOptions) -> Result<Sock, Errno> {
        let fd = self.kernel.tcp_socket(like, options)?;
        let descriptor = SocketFd::new(fd, false);
        Ok(self.sockets.insert(Socket::new(descriptor)))
    }

    fn open_unix(&mut self, name: UnixName) -> Result<Sock, Errno> {
        let fd = self.kernel.unix_connected(name)?;
        let descriptor = SocketFd::new(fd, true);
        Ok(self.sockets.insert(Socket::new(descriptor)))
    }

    fn submit(&mut self, sock: Sock, op: Op) {
        let lane = op.lane();
        let socket = self.sockets.get(sock);
        match lane {
            Lane::Read => assert!(matches!(socket.read, Read::Idle), "{sock:?} reads already"),
            Lane::Write => assert!(
                matches!(socket.write, Write::Idle),
                "{sock:?} writes already"
            ),
        }
        match op {
            Op::Accept => socket.read = Read::Accept,
            Op::Recv => {
                socket.read = Read::Recv;
                // Where splice finds nothing, behind urgent data, recv may find something.
                socket.readable |= mem::take(&mut socket.spliced_dry);
            }
            // Of TCP, a reset tells of failures.
            Op::Peek if !socket.descriptor.is_unix => socket.read = Read::Recv,
            Op::Peek => socket.read = Read::Peek,
            Op::Readable => {
                socket.descriptor.take_peeked();
                socket.read = Read::Readable;
            }
            Op::Hangup => socket.read = Read::Hangup,
            // These two at once: a request that has come shall not wait for the next turn.
            Op::Connect(address) => {
                socket.write = Write::Connect(address);
                return self.attempt(sock, Lane::Write);
            }
            Op::Send(buf) => {
                socket.write = Write::Send { buf, sent: 0 };
                return self.attempt(sock, Lane::Write);
            }
            Op::Writable => socket.write = Write::Writable,
        }
        self.untried.push((sock, lane));
    }

    fn cancel(&mut self, sock: Sock, lane: Lane) {
        let socket = self.sockets.get(sock);
        let in_flight = match lane {
            Lane::Read => !matches!(mem::replace(&mut socket.read, Read::Idle), Read::Idle),
            Lane::Write => !matches!(mem::replace(&mut socket.write, Write::Idle), Write::Idle),
        };
        if socket.is_listener {
            self.untended.push(sock);
        }
        if in_flight {
            let done = Done::Failed(Errno(libc::ECANCELED));
            self.done.push_back(Completion { sock, lane, done });
        }
    }

    fn close(&mut self, sock: Sock, how: Close) -> Closed {
        let mut socket = self.sockets.remove(sock);
        socket.descriptor.end(how);
        if socket.is_listener && socket.registered {
            // Other descriptors of the listener are open, so closing this one does not do it.
            let _ = self.kernel.remove(&socket.descriptor.fd);
        }
        self.to_release.push(socket.descriptor.fd);
        Closed::Now
    }

    fn release(&mut self) {
        self.to_release.clear();
    }

    fn is_closed(&self, sock: Sock) -> bool {
        !self.sockets.is_open(sock)
    }

    fn accept_now(&mut self, listener: Sock) -> Result<Option<Sock>, Errno> {
        loop {
            let socket = self.sockets.get(listener);
            return match socket.descriptor.fd.accept() {
                Ok(fd) => {
                    if socket.turn == Turn::Ours {
                        socket.turn = Turn::Others;
                        self.untended.push(listener);
                    }
                    let client = socket.descriptor.accepted(fd);
                    Ok(Some(self.sockets.insert(Socket::new(client))))
                }
                // EINVAL: nobody waits, and newcomers are refused by now.
                Err(Errno(libc::EAGAIN | libc::EINVAL)) => Ok(None),
                Err(Errno(libc::EINTR)) => continue,
                Err(errno) => Err(errno),
            };
        }
    }

    fn receive_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        self.take_now(sock, Size::Usual, Socket::receive)
    }

    fn receive_much_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        self.take_now(sock, Size::Large, Socket::receive)
    }

    fn peek_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        match self.sockets.get(sock).descriptor.is_unix {
            true => self.take_now(sock, Size::Usual, |socket, bytes, _| {
                socket.receive_and_leave(bytes)
            }),
            false => self.receive_now(sock),
        }
    }

    fn lend(&mut self) -> Result<Buf, NoBuffer> {
        BufferPool::lend(&self.buffers)
    }

    fn send_now(&mut self, sock: Sock, bytes: &[u8]) -> Result<(), Errno> {
        let socket = self.sockets.get(sock);
        let sent = socket.descriptor.fd.send_now(bytes);
        match sent {
            Ok(()) => socket.descriptor.sent(),
            Err(Errno(libc::EAGAIN)) => socket.writable = false,
            Err(_) => {}
        }
        sent
    }

    fn now(&self) -> Instant {
        self.kernel.now()
    }

    fn turn(&mut self, until: Option<Instant>) -> Result<(), Errno> {
        for sock in mem::take(&mut self.starved) {
            self.untried.push((sock, Lane::Read));
        }
        self.attempt_untried();
        self.unregister_unused_listeners()?;
        let at_once = !self.done.is_empty() || !self.untried.is_empty();
        let until = if at_once {
            Some(self.kernel.now())
        } else {
            until
        };
        self.kernel.wait(&mut self.events, until)?;
        self.take_events();
        self.attempt_untried();
        Ok(())
    }

    fn has_completions(&self) -> bool {
        !self.done.is_empty()
    }

    fn take_stale_events(&mut self) -> u64 {
        self.sockets.take_stale_events()
    }

    fn next(&mut self) -> Option<Completion> {
        while let Some(completion) = self.done.pop_front() {
            if self.sockets.is_open(completion.sock) {
                return Some(completion);
            }
            // A client that a closed listener gave is closed with it.
            if let Done::Accepted(client) = completion.done {
                self.close(client, Close::Graceful);
            }
        }
        None
    }
}

impl<K: EpollKernel> OverDescriptors for Epoll<K> {
    type Fd = K::Fd;
    type Pipes = K::Pipes;

    fn descriptor(&mut self, sock: Sock) -> &mut SocketFd<K::Fd> {
        &mut self.sockets.get(sock).descriptor
    }

    fn pipe_source(&self) -> &K::Pipes {
        &self.pipes
    }

    fn way_into_unix(&self) -> IntoUnix {
        self.into_unix
    }

    fn spliced_dry(&mut self, from: Sock) {
        let socket = self.sockets.get(from);
        socket.readable = false;
        socket.spliced_dry = true;
    }

    fn spliced_full(&mut self, to: Sock) {
        self.sockets.get(to).writable = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::testing::{
        assert_adopted_clients_are_like_accepted_ones,
        assert_events_of_a_closed_socket_are_nobodys, assert_much_is_received_at_once,
        assert_tcp_clients_are_known_for_what_they_are, assert_what_is_let_go_has_all_its_bytes,
        assert_what_is_let_go_is_not_watched, limits,
    };
    use crate::sys::net;

    #[test]
    fn an_event_of_a_closed_socket_is_nobodys() {
        let driver = Epoll::new(Waker::new().unwrap(), limits(1, 4)).unwrap();
        assert_events_of_a_closed_socket_are_nobodys(driver, &Op::Recv, |driver, fd| {
            driver.sockets.insert(Socket::new(SocketFd::new(fd, true)))
        });
    }

    #[test]
    fn tcp_clients_are_known_for_what_they_are() {
        let driver = Epoll::new(Waker::new().unwrap(), limits(1, 4)).unwrap();
        assert_tcp_clients_are_known_for_what_they_are(driver, |driver, sock| {
            net::has_nodelay(&driver.sockets.get(sock).descriptor.fd)
        });
    }

    #[test]
    fn what_is_let_go_has_all_its_bytes() {
        let driver = Epoll::new(Waker::new().unwrap(), limits(4, 4)).unwrap();
        assert_what_is_let_go_has_all_its_bytes(driver);
    }

    #[test]
    fn much_is_received_at_once() {
        let driver = Epoll::new(Waker::new().unwrap(), limits(1, 4)).unwrap();
        assert_much_is_received_at_once(driver);
    }

    #[test]
    fn what_is_let_go_is_not_watched() {
        let driver = Epoll::new(Waker::new().unwrap(), limits(4, 4)).unwrap();
        assert_what_is_let_go_is_not_watched(driver);
    }

    #[test]
    fn adopted_clients_are_like_accepted_ones() {
        let driver = Epoll::new(Waker::new().unwrap(), limits(4, 4)).unwrap();
        assert_adopted_clients_are_like_accepted_ones(driver, |driver, sock| {
            net::has_nodelay(&driver.sockets.get(sock).descriptor.fd)
        });
    }
}
