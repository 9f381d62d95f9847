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

mod provided;
mod ring;
mod watch;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem::{self, ManuallyDrop};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::squeue::{self, Flags};
use io_uring::{cqueue, opcode, types};

use crate::sys::net::{RawAddress, TcpOptions, UnixName};
use crate::sys::{Errno, net};

use super::buffers::{Buf, BufferPool};
use super::calls::{OverDescriptors, SocketFd};
use super::pipes::{Pipe, PipePool};
use super::table::Table;
use super::{
    BUFFER_BYTES, Close, Closed, Completion, Done, Driver, Filled, Flushed, IntoUnix, Lane, Limits,
    Op, Sock, Waker,
};
use provided::Provided;
use ring::{Entered, Ring, Wait};
use watch::Watch;

/// How long dropping a driver waits for the kernel to let go of its memory.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a turn pauses that could submit nothing and had nothing to do: the kernel lacks memory, which asking
/// again at once would not bring.
const SCARCITY_PAUSE: Duration = Duration::from_millis(1);

/// `IORING_RECVSEND_POLL_FIRST`: wait for data before the first try.
const POLL_FIRST: u16 = 1;

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

/// A completion as the kernel gave it.
#[derive(Clone, Copy)]
struct Reaped {
    token: Token,
    result: i32,
    flags: u32,
}

struct Socket {
    descriptor: SocketFd,
    read: Read,
    write: Write,
    closing: bool,
    /// It was connected without the ring, and nothing was sent yet: what was held for it goes out
    /// without the ring as well, or it would wait for everything else that the turn has to do.
    fresh: bool,
    /// The last receive left nothing behind: wait before the next try.
    drained: bool,
    /// For what epoll watches this socket, because the ring cannot wait for it: 0, or of
    /// [`watch::READS`] and [`watch::WRITES`].
    watched: i32,
    /// epoll saw that no more bytes will come.
    ended: bool,
    /// epoll saw it become writable since the last send was submitted, while nobody waited for epoll.
    /// The failure of that send, or the wait of the ring that ends with nothing but RDHUP, may be
    /// older than this, and then no other edge comes.
    writable_edge: bool,
}

/// The read lane.
enum Read {
    Idle,
    Accept,
    Recv,
    /// A receive that waits for a buffer; the kernel does not have it.
    Starved,
    /// Waits for bytes beside those that were copied already; epoll tells.
    Peek,
    Readable,
    /// Waits for the peer to go away; epoll tells.
    Hangup,
}

/// The write lane. What the kernel reads is owned here until the op completes.
enum Write {
    Idle,
    /// A connect is in progress; writability tells.
    Connecting,
    Send(Outgoing),
    /// A send that found the socket full.
    SendWait(Outgoing, Waiting),
    Writable(Waiting),
}

struct Outgoing {
    buf: Buf,
    sent: usize,
}

/// Who tells us of writability.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Ring,
    Epoll,
}

impl Socket {
    fn new(descriptor: SocketFd) -> Self {
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
    fn opened(fd: OwnedFd, is_unix: bool) -> Self {
        Self {
            drained: true,
            ..Self::new(SocketFd::new(fd, is_unix))
        }
    }

    fn target(&self) -> types::Fd {
        types::Fd(self.descriptor.fd.as_raw_fd())
    }

    fn is_idle(&self) -> bool {
        matches!(self.read, Read::Idle) && matches!(self.write, Write::Idle)
    }
}

/// What a submission is known by. The generation is only checked: a slot's ops are joined before
/// it is used again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Token(u64);

const LANE_WRITE: u64 = 1 << 32;
const KIND_SHIFT: u32 = 33;
const GENERATION_SHIFT: u32 = 40;

/// What a completion is about.
#[derive(PartialEq, Eq)]
enum Kind {
    Op,
    Cancel,
    Waker,
    Watch,
}

impl Token {
    const CANCEL: Self = Self(1 << KIND_SHIFT);
    const WAKER: Self = Self(2 << KIND_SHIFT);
    const WATCH: Self = Self(3 << KIND_SHIFT);

    fn op(sock: Sock, lane: Lane) -> Self {
        let lane = match lane {
            Lane::Read => 0,
            Lane::Write => LANE_WRITE,
        };
        Self(u64::from(sock.generation) << GENERATION_SHIFT | lane | u64::from(sock.slot))
    }

    fn kind(self) -> Kind {
        match (self.0 >> KIND_SHIFT) & 3 {
            0 => Kind::Op,
            1 => Kind::Cancel,
            2 => Kind::Waker,
            _ => Kind::Watch,
        }
    }

    fn slot(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).expect("masked to 32 bits")
    }

    fn lane(self) -> Lane {
        if self.0 & LANE_WRITE == 0 {
            Lane::Read
        } else {
            Lane::Write
        }
    }
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
            buffers: BufferPool::with_own(limits.buffers_max, provided::DEPTH.into()),
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

    // --- submitting ---------------------------------------------------------------------------

    /// Queues a submission. What `entry` points to must be owned by `self.sockets` or
    /// `self.provided`, which outlive the op.
    fn push(&mut self, entry: squeue::Entry, token: Token) {
        if token.kind() == Kind::Op {
            self.in_flight += 1;
        }
        self.overflow.push_back(entry.user_data(token.0));
        if self.overflow.len() == 1 {
            self.fill_ring();
        }
    }

    /// Gives the ring what it has room for, in order.
    fn fill_ring(&mut self) {
        while let Some(entry) = self.overflow.front() {
            // SAFETY: sends point into buffers that their socket's write lane owns until it is given
            // the completion, receives use provided buffers, and neither is freed while an op is in
            // flight (see `drop`).
            if !unsafe { self.ring.push(entry) } {
                return;
            }
            self.overflow.pop_front();
        }
    }

    /// Submits everything, and waits.
    fn enter(&mut self, wait: Wait) -> Result<Entered, Errno> {
        loop {
            self.fill_ring();
            if self.overflow.is_empty() {
                return self.ring.enter(wait);
            }
            let entered = self.ring.enter(Wait::No)?;
            if entered == Entered::Later {
                return Ok(entered);
            }
        }
    }

    fn submit_recv(&mut self, sock: Sock) {
        let socket = self.sockets.get(sock);
        socket.read = Read::Recv;
        let entry = opcode::Recv::new(socket.target(), std::ptr::null_mut(), 0)
            .ioprio(if socket.drained { POLL_FIRST } else { 0 })
            .buf_group(provided::GROUP)
            .build()
            .flags(Flags::BUFFER_SELECT);
        self.push(entry, Token::op(sock, Lane::Read));
    }

    fn connect(&mut self, sock: Sock, address: SocketAddr) {
        let socket = self.sockets.get(sock);
        socket.write = Write::Connecting;
        let result = match net::connect(&socket.descriptor.fd, &RawAddress::from(address)) {
            // The socket is locked while it connects, so that even an answer that came at once is
            // taken in only afterwards.
            Err(Errno(libc::EINPROGRESS | libc::EINTR)) => {
                net::connect_outcome(&socket.descriptor.fd)
            }
            result => Some(result),
        };
        match result {
            Some(Ok(())) => {
                socket.fresh = true;
                self.finish(sock, Lane::Write, 0);
            }
            Some(Err(errno)) => self.finish(sock, Lane::Write, -errno.0),
            None => self.submit_poll(sock, Lane::Write),
        }
    }

    /// Receives, in this way, what is there already.
    fn take_now(
        &mut self,
        sock: Sock,
        receive: fn(&mut SocketFd, &mut Vec<u8>) -> Result<usize, Errno>,
    ) -> Result<Option<Buf>, Errno> {
        let Some(mut bytes) = self.buffers.borrow_mut().take() else {
            return Ok(None);
        };
        let socket = self.sockets.get(sock);
        assert!(matches!(socket.read, Read::Idle), "{sock:?} reads already");
        let received = receive(&mut socket.descriptor, &mut bytes);
        let buf = Buf::new(bytes, &self.buffers);
        match received {
            Ok(0) | Err(Errno(libc::EAGAIN | libc::EINTR)) => Ok(None),
            Ok(_) => Ok(Some(buf)),
            Err(errno) => Err(errno),
        }
    }

    /// A send that has no company: without the ring.
    fn send_now(&mut self, sock: Sock, outgoing: Outgoing) {
        let socket = self.sockets.get(sock);
        socket.writable_edge = false;
        let result = match net::send(&socket.descriptor.fd, &outgoing.buf[outgoing.sent..]) {
            Ok(sent) => i32::try_from(sent).expect("a buffer is far below 2 GiB"),
            Err(errno) => -errno.0,
        };
        socket.write = Write::Send(outgoing);
        self.finish(sock, Lane::Write, result);
    }

    fn submit_send(&mut self, sock: Sock, outgoing: Outgoing) {
        let socket = self.sockets.get(sock);
        let rest = &outgoing.buf[outgoing.sent..];
        let len = u32::try_from(rest.len()).expect("a buffer is far below 4 GiB");
        socket.writable_edge = false;
        let entry = opcode::Send::new(socket.target(), rest.as_ptr(), len)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build();
        socket.write = Write::Send(outgoing);
        self.push(entry, Token::op(sock, Lane::Write));
    }

    fn submit_poll(&mut self, sock: Sock, lane: Lane) {
        let events = match lane {
            Lane::Read => libc::POLLIN,
            Lane::Write => libc::POLLOUT,
        };
        let target = self.sockets.get(sock).target();
        let entry = opcode::PollAdd::new(target, events.cast_unsigned().into()).build();
        self.push(entry, Token::op(sock, lane));
    }

    /// Waits for writability, by the ring or, for a socket whose peer has half-closed, by epoll.
    fn wait_writable(&mut self, sock: Sock) -> Waiting {
        let socket = self.sockets.get(sock);
        if socket.watched & watch::WRITES != 0 {
            if mem::take(&mut socket.writable_edge) {
                self.finish(sock, Lane::Write, libc::POLLOUT.into());
            }
            return Waiting::Epoll;
        }
        self.submit_poll(sock, Lane::Write);
        Waiting::Ring
    }

    /// From now on epoll tells of these events of this socket, beside others.
    fn watch(&mut self, sock: Sock, events: i32) -> Result<(), Errno> {
        let events = self.sockets.get(sock).watched | events;
        self.change_watch(sock, events)
    }

    fn change_watch(&mut self, sock: Sock, events: i32) -> Result<(), Errno> {
        let socket = self.sockets.get(sock);
        if socket.watched != events {
            let before = mem::replace(&mut socket.watched, events);
            self.watch
                .change(&socket.descriptor.fd, sock, before, events)
                .inspect_err(|_| socket.watched = before)?;
        }
        Ok(())
    }

    /// Waits for bytes that were not copied yet.
    fn submit_peek(&mut self, sock: Sock) {
        let socket = self.sockets.get(sock);
        socket.read = Read::Peek;
        // Of what is there already, epoll tells once.
        let look_at_once = socket.watched & watch::READS != 0;
        match self.watch(sock, watch::READS) {
            Ok(()) if look_at_once => self.finish(sock, Lane::Read, libc::POLLIN.into()),
            Ok(()) => {}
            Err(errno) => self.finish(sock, Lane::Read, -errno.0),
        }
    }

    /// Before the ring reads: what was only copied is taken, and epoll has nothing to tell of reads.
    fn end_peeking(&mut self, sock: Sock) {
        let socket = self.sockets.get(sock);
        socket.descriptor.take_peeked();
        let events = socket.watched & !watch::READS;
        // It cannot fail: the socket is registered. If it did, epoll would wake us for nothing.
        let _ = self.change_watch(sock, events);
    }

    /// A receive: by the ring at once, unless others wait for buffers.
    fn start_recv(&mut self, sock: Sock) {
        if self.starved.is_empty() {
            self.submit_recv(sock);
        } else {
            self.sockets.get(sock).read = Read::Starved;
            self.starved.push_back(sock);
        }
    }

    /// Gives the buffers that there are to the receives that have waited longest.
    fn feed_starved(&mut self) {
        for _ in 0..self.provided.len() {
            let Some(sock) = self.starved.pop_front() else {
                return;
            };
            // One that was closed meanwhile is passed over.
            if self.sockets.is_open(sock) && matches!(self.sockets.get(sock).read, Read::Starved) {
                self.submit_recv(sock);
            }
        }
    }

    /// An op that ends without the kernel.
    fn finish(&mut self, sock: Sock, lane: Lane, result: i32) {
        // Counted like the ring's, which `complete` takes it for.
        self.in_flight += 1;
        self.reaped.push_back(Reaped {
            token: Token::op(sock, lane),
            result,
            flags: 0,
        });
    }

    /// Waits until the peer is gone.
    fn submit_hangup(&mut self, sock: Sock) {
        self.sockets.get(sock).read = Read::Hangup;
        if let Err(errno) = self.watch(sock, watch::WRITES) {
            self.finish(sock, Lane::Read, -errno.0);
        }
    }

    // --- completing ---------------------------------------------------------------------------

    /// Takes what the kernel has posted, before any of it is acted on.
    fn reap(&mut self) -> Result<(), Errno> {
        for entry in self.ring.completions() {
            let reaped = Reaped::from(&entry);
            match reaped.token.kind() {
                Kind::Op => self.reaped.push_back(reaped),
                // What became of the op that it was to cancel, that op's own completion tells.
                Kind::Cancel => {}
                Kind::Waker => self.waker_armed = false,
                Kind::Watch => self.watch.armed = false,
            }
        }
        if self.ring.has_lost_completions() {
            return Err(Errno(libc::EOVERFLOW));
        }
        if !self.waker_armed {
            self.waker.0.clear();
        }
        if self.watch.in_use && !self.watch.armed {
            self.reap_watch()?;
        }
        Ok(())
    }

    /// Whether an op has ended and its completion was not given yet.
    fn is_reaped(&self, sock: Sock, lane: Lane) -> bool {
        let token = Token::op(sock, lane);
        self.reaped.iter().any(|reaped| reaped.token == token)
    }

    /// Turns epoll's events into completions like the ring's.
    fn reap_watch(&mut self) -> Result<(), Errno> {
        for seen in self.watch.look()? {
            let Some((sock, socket)) = self.sockets.of_event(seen.token) else {
                continue;
            };
            let awaited = matches!(
                socket.write,
                Write::SendWait(_, Waiting::Epoll) | Write::Writable(Waiting::Epoll)
            );
            let hangup_awaited = matches!(socket.read, Read::Hangup);
            let peek_awaited = matches!(socket.read, Read::Peek);
            socket.ended |= seen.ended;
            if seen.writable && awaited {
                self.finish(sock, Lane::Write, libc::POLLOUT.into());
            } else if seen.writable {
                socket.writable_edge = true;
            }
            let is_told = (seen.hung_up && hangup_awaited) || (seen.readable && peek_awaited);
            if is_told && !self.is_reaped(sock, Lane::Read) {
                self.finish(sock, Lane::Read, libc::POLLIN.into());
            }
        }
        Ok(())
    }

    /// Gives a completion to its lane. `None`: nothing that a session has to hear of.
    fn complete(&mut self, reaped: Reaped) -> Option<Completion> {
        self.in_flight -= 1;
        let (sock, socket) = self.sockets.at(reaped.token.slot());
        let lane = reaped.token.lane();
        assert!(
            Token::op(sock, lane) == reaped.token,
            "{sock:?} was reused before it was joined"
        );
        if socket.closing {
            self.join(sock, reaped);
            return None;
        }
        let done = match lane {
            Lane::Read => self.complete_read(sock, reaped),
            Lane::Write => self.complete_write(sock, reaped),
        };
        done.map(|done| Completion { sock, lane, done })
    }

    fn complete_read(&mut self, sock: Sock, reaped: Reaped) -> Option<Done> {
        let socket = self.sockets.get(sock);
        Some(match mem::replace(&mut socket.read, Read::Idle) {
            Read::Accept => match reaped.outcome() {
                Ok(fd) => {
                    // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
                    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                    Done::Accepted(self.insert_accepted(fd, sock))
                }
                Err(errno) => Done::Failed(errno),
            },
            Read::Hangup => match reaped.outcome() {
                Ok(_) => socket.descriptor.hung_up(),
                Err(errno) => Done::Failed(errno),
            },
            Read::Readable => match reaped.outcome() {
                Ok(_) => Done::Ready,
                Err(errno) => Done::Failed(errno),
            },
            Read::Recv => return self.complete_recv(sock, reaped),
            Read::Peek => match reaped.outcome() {
                Ok(_) => return self.complete_peek(sock),
                Err(errno) => Done::Failed(errno),
            },
            Read::Idle | Read::Starved => unreachable!("no read of {sock:?} is in flight"),
        })
    }

    fn complete_recv(&mut self, sock: Sock, reaped: Reaped) -> Option<Done> {
        let buf = self.take_buffer(reaped);
        let socket = self.sockets.get(sock);
        match (reaped.outcome(), buf) {
            (Ok(0), _) => Some(Done::Eof),
            (Ok(_), Some(buf)) => {
                socket.descriptor.received();
                socket.drained = !cqueue::sock_nonempty(reaped.flags);
                Some(Done::Received(buf))
            }
            (Ok(n), None) => unreachable!("{n} bytes were received into no buffer"),
            (Err(Errno(libc::ENOBUFS)), _) => {
                // Without POLL_FIRST an empty buffer ring answers this before any data is there.
                socket.drained = true;
                socket.read = Read::Starved;
                self.starved.push_back(sock);
                None
            }
            (Err(Errno(libc::EINTR | libc::EAGAIN)), _) => {
                self.submit_recv(sock);
                None
            }
            (Err(errno), _) => Some(Done::Failed(errno)),
        }
    }

    fn complete_peek(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        if socket.descriptor.has_only_peeked() {
            // An end is told of, and what was in front of it stays.
            if socket.ended && net::has_ended_in_order(&socket.descriptor.fd) {
                return Some(Done::Eof);
            }
            if !socket.ended {
                // What epoll reported is what was copied. It will tell of more.
                socket.read = Read::Peek;
                return None;
            }
        }
        let Some(mut bytes) = self.buffers.borrow_mut().take() else {
            // Rather than without a buffer: the bytes are taken.
            self.end_peeking(sock);
            self.start_recv(sock);
            return None;
        };
        let received = socket.descriptor.receive_and_leave(&mut bytes);
        let buf = Buf::new(bytes, &self.buffers);
        match received {
            Ok(0) => Some(Done::Eof),
            Ok(_) => Some(Done::Received(buf)),
            Err(Errno(libc::EAGAIN)) => {
                socket.read = Read::Peek;
                None
            }
            Err(Errno(libc::EINTR)) => {
                socket.read = Read::Peek;
                self.finish(sock, Lane::Read, libc::POLLIN.into());
                None
            }
            Err(errno) => Some(Done::Failed(errno)),
        }
    }

    fn complete_write(&mut self, sock: Sock, reaped: Reaped) -> Option<Done> {
        let socket = self.sockets.get(sock);
        match mem::replace(&mut socket.write, Write::Idle) {
            Write::Connecting => match reaped.outcome() {
                Ok(0) => Some(Done::Connected),
                Ok(_) => match net::connect_outcome(&socket.descriptor.fd) {
                    Some(Ok(())) => Some(Done::Connected),
                    Some(Err(errno)) => Some(Done::Failed(errno)),
                    None => {
                        socket.write = Write::Connecting;
                        self.submit_poll(sock, Lane::Write);
                        None
                    }
                },
                Err(errno) => Some(Done::Failed(errno)),
            },
            Write::Send(outgoing) => self.complete_send(sock, outgoing, reaped),
            Write::SendWait(outgoing, _) => {
                match self.writability(sock, reaped) {
                    Writability::Now => self.submit_send(sock, outgoing),
                    Writability::Waiting(waiting) => {
                        self.sockets.get(sock).write = Write::SendWait(outgoing, waiting);
                    }
                    Writability::Failed(errno) => return Some(Done::Failed(errno)),
                }
                None
            }
            Write::Writable(_) => match self.writability(sock, reaped) {
                Writability::Now => Some(Done::Ready),
                Writability::Waiting(waiting) => {
                    self.sockets.get(sock).write = Write::Writable(waiting);
                    None
                }
                Writability::Failed(errno) => Some(Done::Failed(errno)),
            },
            Write::Idle => unreachable!("no write of {sock:?} is in flight"),
        }
    }

    fn complete_send(
        &mut self,
        sock: Sock,
        mut outgoing: Outgoing,
        reaped: Reaped,
    ) -> Option<Done> {
        match reaped.outcome() {
            Ok(sent) => {
                self.sockets.get(sock).descriptor.sent();
                outgoing.sent += usize::try_from(sent).unwrap_or(0);
                if outgoing.sent == outgoing.buf.len() {
                    return Some(Done::Sent);
                }
            }
            Err(Errno(libc::EAGAIN | libc::EINTR)) => {}
            Err(errno) => return Some(Done::Failed(errno)),
        }
        let waiting = self.wait_writable(sock);
        self.sockets.get(sock).write = Write::SendWait(outgoing, waiting);
        None
    }

    /// What the end of a wait for writability means.
    fn writability(&mut self, sock: Sock, reaped: Reaped) -> Writability {
        const TELLING: i32 = (libc::POLLOUT | libc::POLLERR | libc::POLLHUP) as i32;
        match reaped.outcome() {
            Ok(events) if events & TELLING != 0 => Writability::Now,
            // Nothing but RDHUP.
            Ok(_) => match self.watch(sock, watch::WRITES) {
                Ok(()) => Writability::Waiting(self.wait_writable(sock)),
                Err(errno) => Writability::Failed(errno),
            },
            Err(errno) => Writability::Failed(errno),
        }
    }

    fn take_buffer(&mut self, reaped: Reaped) -> Option<Buf> {
        let id = cqueue::buffer_select(reaped.flags)?;
        let len = usize::try_from(reaped.result).unwrap_or(0);
        Some(self.provided.take(id, len, &self.buffers))
    }

    fn insert_accepted(&mut self, fd: OwnedFd, listener: Sock) -> Sock {
        let client = self.sockets.get(listener).descriptor.accepted(fd);
        self.sockets.insert(Socket::new(client))
    }

    // --- closing ------------------------------------------------------------------------------

    /// Ends the waits that the kernel does not know of, and asks the kernel to end the others.
    fn terminate(&mut self, sock: Sock) {
        // Waits of which the kernel does not know end here, unless they have ended already: then they
        // complete, and join, like any other.
        let reaped = &self.reaped;
        let is_reaped = |lane| reaped.iter().any(|r| r.token == Token::op(sock, lane));
        let socket = self.sockets.get(sock);
        let read_in_kernel = match socket.read {
            Read::Accept | Read::Recv | Read::Readable => true,
            Read::Hangup | Read::Peek if is_reaped(Lane::Read) => false,
            // A starved one's place in the line is passed over when its turn comes.
            Read::Idle | Read::Starved | Read::Hangup | Read::Peek => {
                socket.read = Read::Idle;
                false
            }
        };
        let write_in_kernel = match socket.write {
            Write::SendWait(_, Waiting::Ring) | Write::Writable(Waiting::Ring) => true,
            Write::Connecting | Write::Send(_) => !is_reaped(Lane::Write),
            Write::SendWait(_, Waiting::Epoll) | Write::Writable(Waiting::Epoll)
                if is_reaped(Lane::Write) =>
            {
                false
            }
            Write::Idle | Write::SendWait(_, Waiting::Epoll) | Write::Writable(Waiting::Epoll) => {
                socket.write = Write::Idle;
                false
            }
        };
        if read_in_kernel {
            self.submit_cancel(sock, Lane::Read);
        }
        if write_in_kernel {
            self.submit_cancel(sock, Lane::Write);
        }
    }

    fn submit_cancel(&mut self, sock: Sock, lane: Lane) {
        let target = Token::op(sock, lane);
        self.push(opcode::AsyncCancel::new(target.0).build(), Token::CANCEL);
    }

    /// A closing socket's op has ended: gives back what it held.
    fn join(&mut self, sock: Sock, reaped: Reaped) {
        drop(self.take_buffer(reaped));
        let socket = self.sockets.get(sock);
        match reaped.token.lane() {
            Lane::Write => socket.write = Write::Idle,
            Lane::Read => {
                if let (Read::Accept, Ok(fd)) = (&socket.read, reaped.outcome()) {
                    // SAFETY: the kernel gave this descriptor to us and nobody else knows it.
                    drop(unsafe { OwnedFd::from_raw_fd(fd) });
                }
                socket.read = Read::Idle;
            }
        }
        self.close_if_idle(sock);
    }

    fn close_if_idle(&mut self, sock: Sock) -> Closed {
        if self.sockets.get(sock).is_idle() {
            let socket = self.sockets.remove(sock);
            self.to_release.push(socket.descriptor.fd);
            Closed::Now
        } else {
            Closed::Soon
        }
    }

    /// Takes every op back from the kernel. False when it does not let go in time.
    fn join_all(&mut self) -> bool {
        // What the kernel was never given is nothing to wait for.
        let forgotten = self
            .overflow
            .drain(..)
            .map(|entry| Token(entry.get_user_data()));
        self.in_flight -= forgotten.filter(|token| token.kind() == Kind::Op).count();
        let everything = types::CancelBuilder::any();
        self.push(opcode::AsyncCancel2::new(everything).build(), Token::CANCEL);
        let until = Instant::now() + JOIN_TIMEOUT;
        loop {
            while let Some(reaped) = self.reaped.pop_front() {
                self.in_flight -= 1;
                let (sock, socket) = self.sockets.at(reaped.token.slot());
                socket.closing = true;
                self.join(sock, reaped);
            }
            if self.in_flight == 0 {
                return true;
            }
            let entered = self.enter(Wait::CompletionUntil(until));
            if entered.is_err() || self.reap().is_err() || Instant::now() >= until {
                return false;
            }
        }
    }
}

/// What the end of a wait for writability means.
enum Writability {
    Now,
    Waiting(Waiting),
    Failed(Errno),
}

impl Driver for Uring {
    type Pipe = Pipe;

    fn adopt_listener(&mut self, listener: OwnedFd) -> Sock {
        let is_unix = net::is_unix(listener.as_fd());
        let descriptor = SocketFd::new(listener, is_unix);
        self.sockets.insert(Socket::new(descriptor))
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
                let nobody = std::ptr::null_mut();
                let entry = opcode::Accept::new(socket.target(), nobody, std::ptr::null_mut())
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
                self.send_now(sock, Outgoing { buf, sent: 0 })
            }
            Op::Send(buf) => self.submit_send(sock, Outgoing { buf, sent: 0 }),
            Op::Writable => {
                let waiting = self.wait_writable(sock);
                self.sockets.get(sock).write = Write::Writable(waiting);
            }
        }
    }

    fn cancel(&mut self, sock: Sock, lane: Lane) {
        let read = &self.sockets.get(sock).read;
        let is_epolls = lane == Lane::Read && matches!(read, Read::Hangup | Read::Peek);
        if !is_epolls {
            self.submit_cancel(sock, lane);
        } else if !self.is_reaped(sock, lane) {
            // The kernel does not know of this wait.
            self.finish(sock, lane, -libc::ECANCELED);
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
        self.take_now(sock, |descriptor, bytes| {
            descriptor.take_peeked();
            let received = net::recv(&descriptor.fd, bytes, BUFFER_BYTES)?;
            descriptor.received();
            Ok(received)
        })
    }

    fn peek_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        if self.sockets.get(sock).descriptor.is_unix {
            self.take_now(sock, SocketFd::receive_and_leave)
        } else {
            self.receive_now(sock)
        }
    }

    fn lend(&mut self) -> Option<Buf> {
        let bytes = self.buffers.borrow_mut().take()?;
        Some(Buf::new(bytes, &self.buffers))
    }

    fn send_now(&mut self, sock: Sock, bytes: &[u8]) -> Result<(), Errno> {
        let socket = self.sockets.get(sock);
        net::send_now(&socket.descriptor.fd, bytes)?;
        socket.descriptor.sent();
        Ok(())
    }

    fn pipe(&mut self) -> Option<Pipe> {
        PipePool::take(&self.pipes)
    }

    fn splices_into(&mut self, sock: Sock) -> bool {
        self.into_unix == IntoUnix::Spliced || !self.sockets.get(sock).descriptor.is_unix
    }

    fn pipes_in_use(&self) -> usize {
        self.pipes.borrow().lent()
    }

    fn put(&mut self, pipe: &mut Pipe, bytes: &[u8]) -> bool {
        pipe.put(bytes)
    }

    fn fill(&mut self, from: Sock, pipe: &mut Pipe, max: usize) -> Filled {
        let descriptor = self.descriptor(from);
        descriptor.take_peeked();
        pipe.fill(&descriptor.fd, max)
    }

    fn flush(&mut self, pipe: &mut Pipe, to: Sock) -> Flushed {
        assert!(
            self.splices_into(to),
            "its reader could hold this thread up"
        );
        let descriptor = self.descriptor(to);
        let flushed = pipe.flush(&descriptor.fd);
        descriptor.sent();
        flushed
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
    fn descriptor(&mut self, sock: Sock) -> &mut SocketFd {
        &mut self.sockets.get(sock).descriptor
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if thread::panicking() || !self.join_all() {
            tracing::error!("io_uring: ops could not be cancelled; their memory is not reused");
            return self.abandon();
        }
        // SAFETY: the ring is not used again.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        // SAFETY: the value is not used again, and no op refers to it any more.
        unsafe { ManuallyDrop::drop(&mut self.sockets) };
        // SAFETY: as above; the kernel's own reference to the memory is to pinned pages.
        unsafe { ManuallyDrop::drop(&mut self.provided) };
    }
}

impl Uring {
    /// The end of a driver whose ops cannot be waited for: the ring has failed, or this is the cleanup of a panic, in
    /// which a second one would end the process at once. The peers are told, and memory is left to the kernel, which
    /// may still write there.
    fn abandon(&mut self) {
        // SAFETY: the ring is not used again.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        // SAFETY: as above. What the kernel may still read is forgotten.
        let sockets = unsafe { ManuallyDrop::take(&mut self.sockets) };
        for socket in sockets.into_open() {
            mem::forget(socket.write);
            drop(socket.descriptor.fd);
        }
    }
}

impl Reaped {
    /// The result as the system call of the same name would give it.
    fn outcome(self) -> Result<i32, Errno> {
        if self.result < 0 {
            Err(Errno(-self.result))
        } else {
            Ok(self.result)
        }
    }
}

impl From<&cqueue::Entry> for Reaped {
    fn from(entry: &cqueue::Entry) -> Self {
        Self {
            token: Token(entry.user_data()),
            result: entry.result(),
            flags: entry.flags(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::driver::testing::{
        assert_events_of_a_closed_socket_are_nobodys,
        assert_tcp_clients_are_known_for_what_they_are,
    };

    /// More sockets have data than there are buffers for the kernel to choose from. As in a session
    /// that copies, a socket is read again one turn (that of the send) after it gave something.
    #[test]
    fn a_receive_that_found_no_buffer_is_not_passed_over_for_ever() {
        const SOCKETS: usize = 200;
        const TURNS: usize = 12;
        let limits = Limits {
            buffers_max: 2 * SOCKETS,
            pipes_max: 0,
            into_unix: IntoUnix::Spliced,
        };
        let mut driver = Uring::new(Waker::new().unwrap(), limits).unwrap();
        let (mut writers, mut to_read, mut sending) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..SOCKETS {
            let (mut writer, reader) = UnixStream::pair().unwrap();
            writer.write_all(&[0; 128 * 1024]).unwrap();
            reader.set_nonblocking(true).unwrap();
            writers.push(writer);
            let socket = Socket::new(SocketFd::new(reader.into(), true));
            to_read.push(driver.sockets.insert(socket));
        }
        let mut received = vec![0; SOCKETS];
        for _ in 0..TURNS {
            for sock in mem::replace(&mut to_read, mem::take(&mut sending)) {
                driver.submit(sock, Op::Recv);
            }
            driver.turn(Some(Instant::now())).unwrap();
            while let Some(completion) = driver.next() {
                assert!(matches!(completion.done, Done::Received(_)));
                received[completion.sock.index()] += 1;
                sending.push(completion.sock);
            }
        }
        let nothing = received.iter().filter(|&&count| count == 0).count();
        assert_eq!(
            nothing, 0,
            "sockets without a byte, of {SOCKETS}: {received:?}"
        );
    }

    /// What a turn starts may be more than the ring has room for.
    #[test]
    fn more_ops_than_the_ring_has_room_for_are_all_carried_out() {
        const SOCKETS: usize = 1500;
        let limits = Limits {
            buffers_max: SOCKETS,
            pipes_max: 0,
            into_unix: IntoUnix::Spliced,
        };
        let mut driver = Uring::new(Waker::new().unwrap(), limits).unwrap();
        let mut peers = Vec::new();
        for _ in 0..SOCKETS {
            let (peer, ours) = UnixStream::pair().unwrap();
            let sock = driver
                .sockets
                .insert(Socket::new(SocketFd::new(ours.into(), true)));
            driver.submit(sock, Op::Writable);
            peers.push(peer);
        }
        assert!(!driver.overflow.is_empty(), "all of it fits");
        let mut ready = 0;
        while ready < SOCKETS {
            driver.turn(None).unwrap();
            while let Some(completion) = driver.next() {
                assert!(matches!(completion.done, Done::Ready));
                ready += 1;
            }
        }
    }

    /// The worker's thread unwinds with ops in the kernel and others that it never got; the peers hear of it, and
    /// no second panic ends the process.
    #[test]
    fn a_panic_ends_the_driver_and_its_sockets_and_nothing_else() {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let thread = thread::spawn(move || {
            let limits = Limits {
                buffers_max: 4,
                pipes_max: 0,
                into_unix: IntoUnix::Spliced,
            };
            let mut driver = Uring::new(Waker::new().unwrap(), limits).unwrap();
            let sock = driver
                .sockets
                .insert(Socket::new(SocketFd::new(ours.into(), true)));
            while net::send(&driver.sockets.get(sock).descriptor.fd, &[7; 4096]).is_ok() {}
            let mut buf = driver.lend().unwrap();
            buf.extend(b"never sent");
            driver.submit(sock, Op::Recv);
            driver.submit(sock, Op::Send(buf));
            driver.turn(Some(Instant::now())).unwrap();
            panic!("as a bug would");
        });
        assert!(thread.join().is_err());
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert!(!received.is_empty() && received.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn tcp_clients_are_known_for_what_they_are() {
        let limits = Limits {
            buffers_max: 4,
            pipes_max: 0,
            into_unix: IntoUnix::Spliced,
        };
        let driver = Uring::new(Waker::new().unwrap(), limits).unwrap();
        assert_tcp_clients_are_known_for_what_they_are(driver, |driver, sock| {
            net::has_nodelay(&driver.sockets.get(sock).descriptor.fd)
        });
    }

    #[test]
    fn an_event_of_a_closed_socket_is_nobodys() {
        let limits = Limits {
            buffers_max: 4,
            pipes_max: 0,
            into_unix: IntoUnix::Spliced,
        };
        let driver = Uring::new(Waker::new().unwrap(), limits).unwrap();
        // epoll watches only who waits for this.
        assert_events_of_a_closed_socket_are_nobodys(driver, &Op::Peek, |driver, fd| {
            driver.sockets.insert(Socket::new(SocketFd::new(fd, true)))
        });
    }

    /// Between a send that found the socket full and the look at how it ended, the peer may read.
    /// epoll reports that once.
    #[test]
    fn room_that_comes_before_the_failed_send_is_looked_at_is_not_missed() {
        let limits = Limits {
            buffers_max: 128,
            pipes_max: 0,
            into_unix: IntoUnix::Spliced,
        };
        let mut driver = Uring::new(Waker::new().unwrap(), limits).unwrap();
        let (mut peer, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let sock = driver
            .sockets
            .insert(Socket::new(SocketFd::new(ours.into(), true)));
        // A half-closed peer, whose leaving is waited for: epoll watches the socket.
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        driver.submit(sock, Op::Hangup);
        driver.turn(Some(Instant::now())).unwrap();
        assert!(driver.next().is_none());

        // The send finds the socket full; before anyone looks at that, the peer makes room.
        while net::send(&driver.sockets.get(sock).descriptor.fd, &[7; 4096]).is_ok() {}
        let mut bytes = driver.buffers.borrow_mut().take().unwrap();
        bytes.push(7);
        driver.submit(sock, Op::Send(Buf::new(bytes, &driver.buffers)));
        let _ = driver.enter(Wait::No).unwrap();
        peer.set_nonblocking(true).unwrap();
        let mut room = vec![0; 1 << 16];
        while peer.read(&mut room).is_ok_and(|count| count > 0) {}

        let until = Instant::now() + Duration::from_secs(5);
        let mut completion = None;
        while completion.is_none() {
            assert!(
                Instant::now() < until,
                "the send waits for an edge that has passed"
            );
            driver.turn(Some(until)).unwrap();
            completion = driver.next();
        }
        assert!(matches!(completion.unwrap().done, Done::Sent));
    }
}
