//! The io_uring driver.
//!
//! The ring does what it is good at: accepting, receiving, sending and waiting, a turn's worth of
//! them with one system call. Splice and shutdown are direct calls after readiness, because the
//! ring always hands its own versions to kernel threads. What would go alone is a direct call too: a
//! connect, which on a near network has succeeded by the time it returns, and the send of a turn
//! that had only one completion. Through the ring each would cost a turn of its own, and the request
//! that it belongs to would wait for it.
//!
//! One thing needs care everywhere below. Every wait of the ring, asked for or implied by an op
//! that would block, also ends when the peer half-closes (RDHUP is always in the kernel's mask). A
//! wait for *writability* on a socket whose peer has half-closed would end at once, again and
//! again; a blocked send would end up occupying a kernel thread. So sends never wait inside the
//! kernel (MSG_DONTWAIT), and once a wait for writability has ended with nothing but RDHUP, that
//! socket's waits go through an epoll instance (`watch.rs`), which reports what it is asked for.

#![allow(unsafe_code)]

mod closing;
mod completing;
mod lanes;
mod provided;
mod ring;
mod submitting;
#[cfg(test)]
mod tests;
mod token;
mod watch;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem::{self, ManuallyDrop};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};

use crate::sys::net::{TcpOptions, UnixName};
use crate::sys::{Errno, net};

use super::buffers::{Buf, BufferPool, Size};
use super::calls::{OverDescriptors, SocketFd};
use super::pipes::PipePool;
use super::table::Table;
use super::{Close, Closed, Completion, Driver, IntoUnix, Lane, Limits, NoBuffer, Op, Sock, Waker};
use lanes::{Outgoing, Read, Socket, Write};
use provided::Provided;
use ring::{Entered, Ring, Wait};
use token::{Reaped, Token};
use watch::Watch;

/// How long a turn pauses that could submit nothing and had nothing to do: the kernel lacks memory, which asking
/// again at once would not bring.
const SCARCITY_PAUSE: Duration = Duration::from_millis(1);

/// The io_uring driver of one thread.
pub struct Uring {
    // These three are dropped by hand: the ring first, and what it may refer to only if no op is
    // left.
    ring: ManuallyDrop<Ring>,
    provided: ManuallyDrop<Provided>,
    sockets: ManuallyDrop<Table<Socket>>,
    buffers: Rc<RefCell<BufferPool>>,
    pipes: Rc<RefCell<PipePool>>,
    into_unix: IntoUnix,
    waker: Waker,
    waker_armed: bool,
    /// Waits that the ring cannot do.
    watch: Watch,
    /// Receives that found no buffer, and those that came while there were such: first come, first
    /// served, or the newest would take the buffers of each turn.
    starved: VecDeque<Sock>,
    /// Completions that were taken from the ring and not yet acted on.
    reaped: VecDeque<Reaped>,
    /// The last turn had no more than one completion: what is sent now has no company in the ring.
    alone: bool,
    /// Submissions for which the ring has no room before it is entered.
    overflow: VecDeque<squeue::Entry>,
    /// Ops of sockets that the kernel has, or is to have.
    in_flight: usize,
    /// Descriptors of sockets that were joined.
    to_release: Vec<OwnedFd>,
}

impl Uring {
    /// Sets the ring up. Must be called on the thread that will use it. Fails with EPERM or ENOSYS
    /// where io_uring is not allowed, and with EINVAL before Linux 6.1.
    pub fn new(waker: Waker, limits: Limits) -> Result<Self, Errno> {
        let watch = Watch::new()?;
        let ring = Ring::new()?;
        let provided = Provided::new(&ring)?;
        ring.restrict_and_enable()?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            provided: ManuallyDrop::new(provided),
            sockets: ManuallyDrop::new(Table::default()),
            buffers: BufferPool::within(limits, provided::DEPTH.into()),
            pipes: PipePool::new(limits.pipes_max),
            into_unix: limits.into_unix,
            waker,
            waker_armed: false,
            watch,
            starved: VecDeque::new(),
            reaped: VecDeque::new(),
            alone: false,
            overflow: VecDeque::new(),
            in_flight: 0,
            to_release: Vec::new(),
        })
    }

    /// Receives, in this way, what is there already.
    fn take_now(
        &mut self,
        sock: Sock,
        size: Size,
        receive: fn(&mut SocketFd, &mut Vec<u8>, usize) -> Result<usize, Errno>,
    ) -> Result<Option<Buf>, Errno> {
        let socket = self.sockets.get(sock);
        assert!(matches!(socket.read, Read::Idle), "{sock:?} reads already");
        let descriptor = &mut socket.descriptor;
        BufferPool::receive(&self.buffers, size, |bytes, most| {
            receive(descriptor, bytes, most)
        })
    }
}

impl Driver for Uring {
    fn adopt_listener(&mut self, listener: OwnedFd) -> Sock {
        let is_unix = net::is_unix(listener.as_fd());
        let descriptor = SocketFd::new(listener, is_unix);
        self.sockets.insert(Socket::new(descriptor))
    }

    fn adopt_client(&mut self, client: OwnedFd) -> Sock {
        let is_unix = net::is_unix(client.as_fd());
        let descriptor = SocketFd::of_client(client, is_unix);
        self.sockets.insert(Socket::new(descriptor))
    }

    fn let_go(&mut self, sock: Sock) -> OwnedFd {
        let socket = self.sockets.get(sock);
        assert!(
            socket.is_idle() && !socket.closing,
            "{sock:?} has an op in flight"
        );
        // The connection lives on in another descriptor, and would be watched for as long.
        self.unwatch(sock);
        self.sockets.remove(sock).descriptor.fd
    }

    fn open_tcp(&mut self, like: &SocketAddr, options: &TcpOptions) -> Result<Sock, Errno> {
        let fd = net::tcp_socket(like, options)?;
        Ok(self.sockets.insert(Socket::opened(fd, false)))
    }

    fn open_unix(&mut self, name: UnixName) -> Result<Sock, Errno> {
        // Not through the ring: this connect never waits, and a full backlog is an error at once.
        let fd = net::unix_connected(name)?;
        Ok(self.sockets.insert(Socket::opened(fd, true)))
    }

    fn submit(&mut self, sock: Sock, op: Op) {
        let socket = self.sockets.get(sock);
        assert!(!socket.closing, "{sock:?} is closed");
        match op.lane() {
            Lane::Read => assert!(matches!(socket.read, Read::Idle), "{sock:?} reads already"),
            Lane::Write => assert!(
                matches!(socket.write, Write::Idle),
                "{sock:?} writes already"
            ),
        }
        match op {
            Op::Accept => {
                socket.read = Read::Accept;
                let nobody = ptr::null_mut();
                let entry = opcode::Accept::new(socket.target(), nobody, ptr::null_mut())
                    .flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
                    .build();
                self.push(entry, Token::op(sock, Lane::Read));
            }
            // Of TCP, a reset tells of failures.
            Op::Peek if socket.descriptor.is_unix => self.submit_peek(sock),
            Op::Recv | Op::Peek => {
                self.end_peeking(sock);
                self.start_recv(sock);
            }
            Op::Hangup => self.submit_hangup(sock),
            Op::Readable => {
                self.end_peeking(sock);
                self.sockets.get(sock).read = Read::Readable;
                self.submit_poll(sock, Lane::Read);
            }
            Op::Connect(address) => self.connect(sock, address),
            Op::Send(buf) if self.alone || mem::take(&mut socket.fresh) => {
                self.send_alone(sock, Outgoing { buf, sent: 0 })
            }
            Op::Send(buf) => self.submit_send(sock, Outgoing { buf, sent: 0 }),
            Op::Writable => {
                let waiting = self.wait_writable(sock);
                self.sockets.get(sock).write = Write::Writable(waiting);
            }
        }
    }

    fn cancel(&mut self, sock: Sock, lane: Lane) {
        match lane {
            Lane::Read => self.cancel_read(sock),
            Lane::Write => self.submit_cancel(sock, lane),
        }
    }

    fn close(&mut self, sock: Sock, how: Close) -> Closed {
        let socket = self.sockets.get(sock);
        assert!(!socket.closing, "{sock:?} is closed once");
        socket.descriptor.end(how);
        socket.closing = true;
        self.terminate(sock);
        self.close_if_idle(sock)
    }

    fn release(&mut self) {
        self.to_release.clear();
    }

    fn is_closed(&self, sock: Sock) -> bool {
        !self.sockets.is_open(sock)
    }

    fn accept_now(&mut self, listener: Sock) -> Result<Option<Sock>, Errno> {
        let socket = self.sockets.get(listener);
        assert!(
            matches!(socket.read, Read::Idle),
            "{listener:?} accepts already"
        );
        match net::accept(&socket.descriptor.fd) {
            Ok(fd) => Ok(Some(self.insert_accepted(fd, listener))),
            // EINVAL: nobody waits, and newcomers are refused by now.
            Err(Errno(libc::EAGAIN | libc::EINVAL)) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn receive_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        self.take_now(sock, Size::Usual, SocketFd::receive)
    }

    fn receive_much_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        self.take_now(sock, Size::Large, SocketFd::receive)
    }

    fn peek_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        if self.sockets.get(sock).descriptor.is_unix {
            self.take_now(sock, Size::Usual, |descriptor, bytes, _| {
                descriptor.receive_and_leave(bytes)
            })
        } else {
            self.receive_now(sock)
        }
    }

    fn lend(&mut self) -> Result<Buf, NoBuffer> {
        BufferPool::lend(&self.buffers)
    }

    fn send_now(&mut self, sock: Sock, bytes: &[u8]) -> Result<(), Errno> {
        let socket = self.sockets.get(sock);
        net::send_now(&socket.descriptor.fd, bytes)?;
        socket.descriptor.sent();
        Ok(())
    }

    fn turn(&mut self, until: Option<Instant>) -> Result<(), Errno> {
        self.provided.replenish(&self.buffers);
        self.feed_starved();
        if !self.waker_armed {
            self.waker_armed = true;
            let fd = types::Fd(self.waker.0.fd().as_raw_fd());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN.cast_unsigned().into()).build();
            self.push(entry, Token::WAKER);
        }
        if self.watch.in_use && !self.watch.armed {
            self.watch.armed = true;
            let target = self.watch.target();
            let entry = opcode::PollAdd::new(target, libc::POLLIN.cast_unsigned().into()).build();
            self.push(entry, Token::WATCH);
        }
        // An op may have ended without the kernel since the last turn.
        let wait = match until {
            _ if !self.reaped.is_empty() => Wait::No,
            Some(until) => Wait::CompletionUntil(until),
            None => Wait::Completion,
        };
        let entered = self.enter(wait)?;
        self.reap()?;
        if entered == Entered::Later && self.reaped.is_empty() {
            thread::sleep(SCARCITY_PAUSE);
        }
        self.alone = self.reaped.len() <= 1;
        Ok(())
    }

    fn has_completions(&self) -> bool {
        !self.reaped.is_empty()
    }

    fn take_stale_events(&mut self) -> u64 {
        self.sockets.take_stale_events()
    }

    fn next(&mut self) -> Option<Completion> {
        while let Some(reaped) = self.reaped.pop_front() {
            let completion = self.complete(reaped);
            if completion.is_some() {
                return completion;
            }
        }
        None
    }
}

impl OverDescriptors for Uring {
    type Fd = OwnedFd;
    type Pipes = Rc<RefCell<PipePool>>;

    fn descriptor(&mut self, sock: Sock) -> &mut SocketFd {
        &mut self.sockets.get(sock).descriptor
    }

    fn pipe_source(&self) -> &Self::Pipes {
        &self.pipes
    }

    fn way_into_unix(&self) -> IntoUnix {
        self.into_unix
    }
}
