//! The epoll driver: the same ops, emulated, for systems that do not allow io_uring.
//!
//! Each op is tried; on EAGAIN it waits until epoll reports the socket ready, and is tried again.
//! Sockets are registered once, edge-triggered, and their readiness is remembered: an edge that
//! comes while no op waits is not lost, because the next op is tried first.
//!
//! Listeners are shared with other workers. They are registered, exclusively and level-triggered,
//! only while an accept waits, so that a worker that cannot accept is never the one that is woken. The
//! kernel wakes the first one that is registered: who takes clients in turns goes behind the others.

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

use super::buffers::{Buf, BufferPool};
use super::calls::{OverDescriptors, SocketFd};
use super::kernel::{Descriptor, Kernel};
use super::table::Table;
use super::{
    BUFFER_BYTES, Close, Closed, Completion, Done, Driver, IntoUnix, Lane, Limits, NoBuffer, Op,
    Sock, Waker,
};

/// Events that one wait takes. What is over comes with the next wait.
const EVENTS_MAX: usize = 256;

/// The token of the waker's descriptor: of a slot that no socket comes to.
const WAKER_TOKEN: u64 = u64::MAX;

const READ_EVENTS: u32 =
    (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned();
/// Why a receive may stop before the end of what is there. (A hang-up comes with EPOLLRDHUP, except
/// on a socket that was never connected.)
const SPECIAL_EVENTS: u32 = (libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLERR).cast_unsigned();
const WRITE_EVENTS: u32 = (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned();

/// The epoll driver of one thread.
pub struct Epoll<K: Kernel = poll::Epoll> {
    kernel: K,
    sockets: Table<Socket<K::Fd>>,
    buffers: Rc<RefCell<BufferPool>>,
    pipes: K::Pipes,
    into_unix: IntoUnix,
    waker: Waker,
    events: Vec<Event>,
    /// Ops to try: new ones, and those whose socket became ready.
    untried: Vec<(Sock, Lane)>,
    /// Listeners that are registered; some of them perhaps without an accept.
    listeners: Vec<Sock>,
    done: VecDeque<Completion>,
    /// Receives that found no buffer.
    starved: Vec<Sock>,
    /// Descriptors of sockets that were closed.
    to_release: Vec<K::Fd>,
}

struct Socket<F> {
    descriptor: SocketFd<F>,
    is_listener: bool,
    read: Read,
    write: Write,
    /// Whether the last try of a read, or of a write, found something. Optimistic at first.
    readable: bool,
    writable: bool,
    /// It was a splice that found nothing.
    spliced_dry: bool,
    /// A receive that does not fill its buffer may leave something behind: an end or an error, or
    /// what follows urgent data or descriptors that were passed along. Without such, it took all that
    /// had come, and an edge will tell of more.
    special: bool,
    /// Whether epoll watches it. Only once something has to be waited for: many an upstream's first
    /// wait is its last.
    registered: bool,
    /// Of a listener: whose turn it is.
    turn: Turn,
}

/// Whose turn it is to take a client from a listener that others have as well.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Whoever the kernel wakes.
    Anybodys,
    /// Ours, as soon as it comes to us.
    Ours,
    /// We have had one: the others' come first.
    Others,
}

impl<F: Descriptor> Socket<F> {
    fn new(descriptor: SocketFd<F>) -> Self {
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
    fn receive_and_leave(&mut self, bytes: &mut Vec<u8>) -> Result<usize, Errno> {
        let received = self.descriptor.receive_and_leave(bytes);
        if received == Err(Errno(libc::EAGAIN)) {
            self.readable = false;
        }
        received
    }

    /// Receives what is there, up to a buffer full, and takes note of whether there can be more.
    fn receive(&mut self, bytes: &mut Vec<u8>) -> Result<usize, Errno> {
        let descriptor = &mut self.descriptor;
        descriptor.take_peeked();
        let received = if descriptor.is_unix {
            descriptor
                .fd
                .recv_and_tell(bytes, BUFFER_BYTES)
                .map(|(received, stopped)| {
                    self.special |= stopped;
                    received
                })
        } else {
            descriptor.fd.recv(bytes, BUFFER_BYTES)
        };
        match received {
            Ok(received) => {
                descriptor.received();
                self.readable = self.special || received >= BUFFER_BYTES;
            }
            Err(Errno(libc::EAGAIN)) => self.readable = false,
            Err(_) => {}
        }
        received
    }
}

enum Read {
    Idle,
    Accept,
    Recv,
    Peek,
    Readable,
    Hangup,
}

enum Write {
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

impl Epoll {
    /// Sets the epoll instance up.
    pub fn new(waker: Waker, limits: Limits) -> Result<Self, Errno> {
        Self::over(poll::Epoll::new()?, waker, limits)
    }
}

impl<K: Kernel> Epoll<K> {
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
            listeners: Vec::new(),
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

    /// Lets epoll watch a socket. What is there already counts as an edge.
    fn register(&mut self, sock: Sock) -> Result<(), Errno> {
        let socket = self.sockets.get(sock);
        if socket.registered {
            return Ok(());
        }
        let events = match socket.is_listener {
            true => libc::EPOLLIN | libc::EPOLLEXCLUSIVE,
            false => {
                libc::EPOLLIN | libc::EPOLLPRI | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET
            }
        };
        self.kernel
            .add(&socket.descriptor.fd, events, sock.token())?;
        socket.registered = true;
        if socket.is_listener {
            self.listeners.push(sock);
        }
        Ok(())
    }

    // --- trying -------------------------------------------------------------------------------

    /// Tries an op whose socket may be ready. Those of closed sockets are passed over.
    fn attempt(&mut self, sock: Sock, lane: Lane) {
        if !self.sockets.is_open(sock) {
            return;
        }
        let done = match lane {
            Lane::Read => self.attempt_read(sock),
            Lane::Write => self.attempt_write(sock),
        };
        let done = done.or_else(|| self.wait_for(sock, lane).err());
        if let Some(done) = done {
            self.done.push_back(Completion { sock, lane, done });
        }
    }

    /// An op that found nothing: epoll will tell, or else the op has failed.
    fn wait_for(&mut self, sock: Sock, lane: Lane) -> Result<(), Done> {
        self.register(sock).map_err(|errno| {
            let socket = self.sockets.get(sock);
            match lane {
                Lane::Read => socket.read = Read::Idle,
                Lane::Write => socket.write = Write::Idle,
            }
            Done::Failed(errno)
        })
    }

    fn attempt_read(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        match mem::replace(&mut socket.read, Read::Idle) {
            Read::Idle => None,
            Read::Accept => match self.accept_now(sock) {
                Ok(Some(client)) => Some(Done::Accepted(client)),
                Ok(None) => {
                    self.sockets.get(sock).read = Read::Accept;
                    None
                }
                Err(errno) => Some(Done::Failed(errno)),
            },
            Read::Recv => self.attempt_recv(sock),
            Read::Peek => self.attempt_peek(sock),
            // Asked of the kernel as well: behind urgent data, splice finds nothing, recv does, and
            // no edge comes.
            Read::Readable if socket.readable || socket.descriptor.fd.is_readable() => {
                Some(Done::Ready)
            }
            Read::Hangup if socket.descriptor.fd.peer_is_gone() => {
                Some(socket.descriptor.hung_up())
            }
            Read::Hangup => {
                socket.read = Read::Hangup;
                None
            }
            Read::Readable => {
                socket.read = Read::Readable;
                None
            }
        }
    }

    fn attempt_recv(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        if !socket.readable {
            socket.read = Read::Recv;
            return None;
        }
        let Some(mut bytes) = self.buffers.borrow_mut().take() else {
            socket.read = Read::Recv;
            self.starved.push(sock);
            return None;
        };
        let received = socket.receive(&mut bytes);
        let buf = Buf::new(bytes, &self.buffers);
        self.received(sock, received, buf, Read::Recv)
    }

    fn attempt_peek(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        if socket.readable && socket.descriptor.has_only_peeked() {
            // An end is told of, and what was in front of it stays.
            if socket.special && socket.descriptor.fd.has_ended_in_order() {
                return Some(Done::Eof);
            }
            socket.readable = socket.special;
        }
        if !socket.readable {
            socket.read = Read::Peek;
            return None;
        }
        let Some(mut bytes) = self.buffers.borrow_mut().take() else {
            socket.read = Read::Peek;
            self.starved.push(sock);
            return None;
        };
        let received = socket.receive_and_leave(&mut bytes);
        let buf = Buf::new(bytes, &self.buffers);
        self.received(sock, received, buf, Read::Peek)
    }

    /// What became of a receive, which goes on as `again` if it found nothing.
    fn received(
        &mut self,
        sock: Sock,
        received: Result<usize, Errno>,
        buf: Buf,
        again: Read,
    ) -> Option<Done> {
        match received {
            Ok(0) => Some(Done::Eof),
            Ok(_) => Some(Done::Received(buf)),
            Err(Errno(libc::EAGAIN)) => {
                self.sockets.get(sock).read = again;
                None
            }
            Err(Errno(libc::EINTR)) => {
                self.sockets.get(sock).read = again;
                self.untried.push((sock, Lane::Read));
                None
            }
            Err(errno) => Some(Done::Failed(errno)),
        }
    }

    fn attempt_write(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        match mem::replace(&mut socket.write, Write::Idle) {
            Write::Idle => None,
            Write::Connect(address) => match socket.descriptor.fd.connect(address) {
                Ok(()) => Some(Done::Connected),
                Err(Errno(libc::EINPROGRESS | libc::EINTR)) => self.attempt_connecting(sock),
                Err(errno) => Some(Done::Failed(errno)),
            },
            Write::Connecting => self.attempt_connecting(sock),
            Write::Send { buf, sent } => self.attempt_send(sock, buf, sent),
            Write::Writable if socket.writable => Some(Done::Ready),
            Write::Writable => {
                socket.write = Write::Writable;
                None
            }
        }
    }

    fn attempt_connecting(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        match socket.descriptor.fd.connect_outcome() {
            Some(Ok(())) => Some(Done::Connected),
            Some(Err(errno)) => Some(Done::Failed(errno)),
            // An edge from before the connect is no answer to it: an unconnected socket reports HUP
            // and OUT.
            None => {
                socket.writable = false;
                socket.write = Write::Connecting;
                None
            }
        }
    }

    fn attempt_send(&mut self, sock: Sock, buf: Buf, mut sent: usize) -> Option<Done> {
        let socket = self.sockets.get(sock);
        loop {
            match socket.descriptor.fd.send(&buf[sent..]) {
                Ok(n) => {
                    sent += n;
                    socket.descriptor.sent();
                }
                Err(Errno(libc::EINTR)) => continue,
                Err(Errno(libc::EAGAIN)) => {
                    socket.writable = false;
                    socket.write = Write::Send { buf, sent };
                    return None;
                }
                Err(errno) => return Some(Done::Failed(errno)),
            }
            if sent == buf.len() {
                return Some(Done::Sent);
            }
        }
    }

    /// Receives, in this way, what is there already.
    fn take_now(
        &mut self,
        sock: Sock,
        receive: fn(&mut Socket<K::Fd>, &mut Vec<u8>) -> Result<usize, Errno>,
    ) -> Result<Option<Buf>, Errno> {
        let socket = self.sockets.get(sock);
        assert!(matches!(socket.read, Read::Idle), "{sock:?} reads already");
        BufferPool::receive(&self.buffers, |bytes| receive(socket, bytes))
    }

    // --- listeners ----------------------------------------------------------------------------

    /// Before a wait: a listener without an accept must wake others, not this worker; and where workers
    /// take turns, so must one that has just given a client. Registered anew, it is behind theirs.
    fn unregister_unused_listeners(&mut self) -> Result<(), Errno> {
        let mut kept = Vec::with_capacity(self.listeners.len());
        let mut to_the_end = Vec::new();
        for sock in mem::take(&mut self.listeners) {
            if !self.sockets.is_open(sock) {
                continue;
            }
            let socket = self.sockets.get(sock);
            let accepts = matches!(socket.read, Read::Accept);
            if accepts && socket.turn != Turn::Others {
                kept.push(sock);
                continue;
            }
            self.kernel.remove(&socket.descriptor.fd)?;
            socket.registered = false;
            if accepts {
                socket.turn = Turn::Ours;
                to_the_end.push(sock);
            }
        }
        self.listeners = kept;
        for sock in to_the_end {
            if let Err(done) = self.wait_for(sock, Lane::Read) {
                let lane = Lane::Read;
                self.done.push_back(Completion { sock, lane, done });
            }
        }
        Ok(())
    }

    // --- waiting ------------------------------------------------------------------------------

    fn attempt_untried(&mut self) {
        for (sock, lane) in mem::take(&mut self.untried) {
            self.attempt(sock, lane);
        }
    }

    fn take_events(&mut self) {
        for event in &self.events {
            let (token, events) = (event.u64, event.events);
            if token == WAKER_TOKEN {
                self.waker.0.clear();
                continue;
            }
            let Some((sock, socket)) = self.sockets.of_event(token) else {
                continue;
            };
            socket.special |= events & SPECIAL_EVENTS != 0;
            if events & READ_EVENTS != 0 {
                socket.readable = true;
                if !matches!(socket.read, Read::Idle) {
                    self.untried.push((sock, Lane::Read));
                }
            }
            if events & WRITE_EVENTS != 0 {
                socket.writable = true;
                if !matches!(socket.write, Write::Idle) {
                    self.untried.push((sock, Lane::Write));
                }
            }
        }
    }
}

impl<K: Kernel> Driver for Epoll<K> {
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
        self.take_now(sock, Socket::receive)
    }

    fn peek_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        match self.sockets.get(sock).descriptor.is_unix {
            true => self.take_now(sock, Socket::receive_and_leave),
            false => self.take_now(sock, Socket::receive),
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

impl<K: Kernel> OverDescriptors for Epoll<K> {
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
        assert_events_of_a_closed_socket_are_nobodys,
        assert_tcp_clients_are_known_for_what_they_are, limits,
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
}
