//! The seam between sessions and the kernel.
//!
//! Sessions are state machines that act only through a [`Driver`]. Two drivers implement it:
//! [`uring`], and [`epoll`], which emulates the same ops where io_uring is not allowed (try; on
//! EAGAIN wait for readiness; try again).
//!
//! The rules that both keep and sessions rely on:
//!
//! - A socket has two lanes, read and write, and at most one op in flight on each. Every op
//!   completes exactly once, unless its socket is closed first.
//! - After [`Driver::close`] nothing is heard of a socket again. Its slot is reused only after
//!   every op in flight has been joined, so a stale [`Sock`] is a bug, not a case.
//! - What the kernel may touch belongs to the driver until its completion.

mod buffers;
mod calls;
pub mod epoll;
mod kernel;
mod pipes;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(any(test, fuzzing))]
pub(crate) mod sim;
mod table;
pub mod uring;

/// What `benches/` reaches beside the public interface; not for anyone else.
#[doc(hidden)]
pub mod bench_support {
    pub use super::table::Table;
}

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::sys::Errno;
use crate::sys::net::{TcpOptions, UnixName};
use crate::sys::poll::EventFd;

pub use buffers::{BUFFER_BYTES, Buf, LARGE_BYTES, NoBuffer};
pub use calls::SocketCalls;
pub use kernel::{EpollKernel, KernelSocket, PipeSource};
pub use pipes::{OWN_BYTES_MAX, PIPE_BYTES, PipeGuard, Pipes};

/// One open socket of one driver.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sock {
    slot: u32,
    generation: u32,
}

impl Sock {
    /// A small number that no other open socket of the driver has: an index for tables beside it.
    pub fn index(self) -> usize {
        self.slot as usize
    }

    /// What epoll gives back with an event. A socket that was closed is registered until its descriptor is, and
    /// by then its slot may be another one's: an event is believed only with the generation.
    fn token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    fn of_token(token: u64) -> Self {
        Self {
            slot: u32::try_from(token & u64::from(u32::MAX)).expect("masked to 32 bits"),
            generation: u32::try_from(token >> 32).expect("32 bits are left"),
        }
    }
}

impl fmt::Debug for Sock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sock {}.{}", self.slot, self.generation)
    }
}

/// One of a socket's two places for an op in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Accept, receive, wait for readability.
    Read,
    /// Connect, send, wait for writability.
    Write,
}

/// What a session can ask of a socket and hear of later.
#[derive(Debug)]
pub enum Op {
    /// Read lane of a listener: one connection.
    Accept,
    /// Read lane: the next bytes. A buffer is chosen only when they are there.
    Recv,
    /// Read lane: as [`Op::Recv`], but on AF_UNIX the bytes stay in the socket until others come or the
    /// close is a graceful one; an end, [`Op::Hangup`] and [`Close::Reset`] leave them. A close with
    /// bytes unread is the one way in which AF_UNIX can tell a peer that something has failed.
    Peek,
    /// Read lane: wait until [`Pipes::fill`] has something to find.
    Readable,
    /// Read lane: wait until the peer is gone altogether. AF_UNIX can tell. A TCP peer that closes
    /// looks like one that half-closes, so there the wait only ends when the connection breaks.
    Hangup,
    /// Write lane: connect to this address.
    Connect(SocketAddr),
    /// Write lane: all of the buffer. Nothing less completes as [`Done::Sent`].
    Send(Buf),
    /// Write lane: wait until [`Pipes::flush`] has room to use.
    Writable,
}

impl Op {
    /// The lane that the op occupies.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Accept | Self::Recv | Self::Peek | Self::Readable | Self::Hangup => Lane::Read,
            Self::Connect(_) | Self::Send(_) | Self::Writable => Lane::Write,
        }
    }
}

/// How an op ended.
#[derive(Debug)]
pub enum Done {
    /// [`Op::Accept`]: a client.
    Accepted(Sock),
    /// [`Op::Connect`] succeeded.
    Connected,
    /// [`Op::Readable`] or [`Op::Writable`]: try now. [`Op::Hangup`]: it is gone.
    Ready,
    /// [`Op::Send`]: every byte is the kernel's.
    Sent,
    /// [`Op::Recv`], [`Op::Peek`]: at least one byte.
    Received(Buf),
    /// The same: the peer sends no more.
    Eof,
    /// Any op. Of a send, an unknown part may have gone out. Of [`Op::Hangup`] on TCP: how the
    /// connection broke.
    Failed(Errno),
}

/// One op's end.
#[derive(Debug)]
pub struct Completion {
    /// The socket that the op was submitted on.
    pub sock: Sock,
    /// The lane that is free again.
    pub lane: Lane,
    /// How it ended.
    pub done: Done,
}

/// What [`Pipes::fill`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filled {
    /// This many bytes are in the pipe now.
    Bytes(usize),
    /// Nothing is there yet.
    Empty,
    /// The peer sends no more.
    Eof,
    /// The connection is broken.
    Failed(Errno),
}

/// What [`Pipes::flush`] could do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flushed {
    /// The pipe is empty again.
    All,
    /// The socket takes no more for now; the pipe still holds bytes.
    Full,
    /// The connection is broken; the pipe still holds bytes.
    Failed(Errno),
}

/// How a socket is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// What was sent is delivered, then the end of stream.
    Graceful,
    /// The peer learns that bytes are missing: of TCP by a reset, of AF_UNIX only if it has sent bytes
    /// that were not received, as after [`Op::Peek`].
    Reset,
}

/// When a descriptor is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// By the next [`Driver::release`].
    Now,
    /// By a later one: there are ops in flight to be joined before, most often in the next turn.
    /// [`Driver::is_closed`] tells.
    Soon,
}

/// Ends a driver's wait from another thread.
#[derive(Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// For a driver that is created later, on its own thread.
    pub fn new() -> Result<Self, Errno> {
        EventFd::new().map(|event| Self(Arc::new(event)))
    }

    /// Ends the current wait, or else the next one.
    pub fn wake(&self) {
        self.0.raise();
    }
}

/// How much a driver may hold: the budget of its buffers and pipes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most sessions at one time.
    pub sessions: usize,
    /// The most buffers that each of them may hold between two events. All may hold so many at one time, so
    /// that slow readers cannot starve others. What the driver itself holds comes on top.
    pub per_session: usize,
    /// The most pipes, each of [`PIPE_BYTES`].
    pub pipes_max: usize,
    /// How bytes get into Unix sockets in bulk.
    pub into_unix: IntoUnix,
}

/// How bytes get into a Unix socket in bulk. TCP sockets have no such choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IntoUnix {
    /// Through a pipe.
    Spliced,
    /// By sends: the kernel would have a splice wait for the reader
    /// (`SPLICE_INTO_UNIX` of `sys::kernel`).
    Copied,
}

/// One thread's way to the kernel. See the module's rules. What the kernel answers at once, of a socket that is
/// open, is asked of [`SocketCalls`]; bulk goes through [`Pipes`].
pub trait Driver: SocketCalls + Pipes + Sized {
    /// Takes over a listener's descriptor, which must be non-blocking: of AF_UNIX or of TCP, whose
    /// clients get TCP_NODELAY.
    fn adopt_listener(&mut self, listener: OwnedFd) -> Sock;
    /// Workers that share this listener are to take clients from it in turns, also when all of them are
    /// idle. Where accepts are answered in the order in which they were armed, they do anyway.
    fn take_turns(&mut self, _listener: Sock) {}
    /// Takes over a client that somebody else has accepted, as [`Op::Accept`] gives one. Its descriptor must be
    /// non-blocking.
    fn adopt_client(&mut self, client: OwnedFd) -> Sock;
    /// Takes the descriptor of a socket out of the driver, for somebody else to go on with: the connection is as it
    /// was, with everything that waits in it. Nothing is heard of the socket again. Panics if an op is in flight.
    fn let_go(&mut self, sock: Sock) -> OwnedFd;
    /// A new TCP socket for the family of `like`.
    fn open_tcp(&mut self, like: &SocketAddr, options: &TcpOptions) -> Result<Sock, Errno>;
    /// A new Unix socket, connected already: there is nothing to wait for. EAGAIN says that the
    /// listener's backlog is full.
    fn open_unix(&mut self, name: UnixName) -> Result<Sock, Errno>;
    /// Starts an op. Panics if its lane is taken.
    fn submit(&mut self, sock: Sock, op: Op);
    /// Asks an op in flight to end early. It still completes, once, as what it became meanwhile or
    /// as failed with ECANCELED.
    fn cancel(&mut self, sock: Sock, lane: Lane);
    /// Ends what is in flight and waits for it; [`Driver::release`] does the rest. Nothing follows.
    fn close(&mut self, sock: Sock, how: Close) -> Closed;
    /// Closes the descriptors of sockets that were closed and joined. Apart from `close`, because
    /// ending a connection is a good part of its cost, and whoever waits in the same turn to be served
    /// should not wait for that.
    fn release(&mut self);
    /// After a release: whether the descriptor of a socket that was closed is.
    fn is_closed(&self, sock: Sock) -> bool;

    /// Takes one connection now if one waits. The read lane must be free.
    fn accept_now(&mut self, listener: Sock) -> Result<Option<Sock>, Errno>;
    /// Takes bytes that are there already; the read lane must be free. `None`: there are none, or
    /// the peer sends no more; [`Op::Recv`] will tell.
    fn receive_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno>;
    /// The same, of a socket that most likely has more than a buffer full: up to [`LARGE_BYTES`] of it, unless all
    /// large buffers are lent.
    fn receive_much_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno>;
    /// As [`Driver::receive_now`], in the way of [`Op::Peek`]. Where bytes cannot stay, they are taken.
    fn peek_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        self.receive_now(sock)
    }
    /// An empty buffer for bytes of our own.
    fn lend(&mut self) -> Result<Buf, NoBuffer>;
    /// Sends these few bytes at once and whole; the write lane must be free. EAGAIN: the socket has no room
    /// for them now, and none was sent. It has room for the first bytes of a connection.
    fn send_now(&mut self, sock: Sock, bytes: &[u8]) -> Result<(), Errno>;

    /// The time. Sessions are told it and never ask.
    fn now(&self) -> Instant {
        Instant::now()
    }
    /// Submits what is new, and waits for a completion, a wake or the time (`None`: for ever). An
    /// error is one of the driver itself and ends the worker.
    fn turn(&mut self, until: Option<Instant>) -> Result<(), Errno>;
    /// Whether the last turn has brought something that [`Driver::next`] is to be asked for, if only to find that it
    /// was for nobody.
    fn has_completions(&self) -> bool;
    /// The next completion of this turn, in the order in which the kernel gave them. Those of
    /// sockets that were closed since are dropped.
    fn next(&mut self) -> Option<Completion>;
    /// How many events of the kernel's were about sockets that had been closed, and were ignored, since this was
    /// asked last.
    fn take_stale_events(&mut self) -> u64;
}

/// What both drivers are asked by their tests.
#[cfg(test)]
mod testing {
    use std::io::{Read as _, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// More is there than a large buffer takes, and behind it an end.
    pub(super) fn assert_much_is_received_at_once<D: Driver>(mut driver: D) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = UnixStream::pair().unwrap();
        unix.1.set_nonblocking(true).unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (tcp_ours, _) = listener.accept().unwrap();
        tcp_ours.set_nonblocking(true).unwrap();
        let of_unix: (Box<dyn Write>, OwnedFd) = (Box::new(unix.0), unix.1.into());
        let of_tcp: (Box<dyn Write>, OwnedFd) = (Box::new(tcp), tcp_ours.into());
        for (mut peer, ours) in [of_unix, of_tcp] {
            let sent: Vec<u8> = (0..LARGE_BYTES + 1000)
                .map(|at| at.to_le_bytes()[1])
                .collect();
            peer.write_all(&sent).unwrap();
            drop(peer);
            let sock = driver.adopt_client(ours);
            let until = driver.now() + Duration::from_secs(60);
            while driver.at_hand(sock) < sent.len() {
                assert!(driver.now() < until, "it does not come");
                thread::yield_now();
            }
            let much = driver.receive_much_now(sock).unwrap().unwrap();
            assert!(much.is_full());
            assert_eq!(&*much, &sent[..LARGE_BYTES]);
            let rest = driver.receive_much_now(sock).unwrap().unwrap();
            assert!(!rest.is_full());
            assert_eq!(&*rest, &sent[LARGE_BYTES..]);
            // An end is told by an op.
            assert!(driver.receive_much_now(sock).unwrap().is_none());
            driver.submit(sock, Op::Recv);
            let told = loop {
                driver.turn(Some(until)).unwrap();
                match driver.next() {
                    Some(completion) => break completion.done,
                    None => assert!(driver.now() < until, "it is not told"),
                }
            };
            assert!(matches!(told, Done::Eof), "{told:?}");
            driver.close(sock, Close::Graceful);
            driver.release();
        }
    }

    /// No pipes.
    pub(super) fn limits(sessions: usize, per_session: usize) -> Limits {
        Limits {
            sessions,
            per_session,
            pipes_max: 0,
            into_unix: IntoUnix::Spliced,
        }
    }

    /// The peer of a socket that was closed writes and leaves before its descriptor is closed, with and without
    /// another socket in its slot. `wait` is a wait that has the socket watched.
    pub(super) fn assert_events_of_a_closed_socket_are_nobodys<D: Driver>(
        mut driver: D,
        wait: &Op,
        adopt: impl Fn(&mut D, OwnedFd) -> Sock,
    ) {
        let ops = || match wait {
            Op::Peek => (Op::Peek, Op::Hangup),
            _ => (Op::Recv, Op::Readable),
        };
        for is_reused in [false, true] {
            let (mut peer, ours) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let old = adopt(&mut driver, ours.into());
            driver.submit(old, ops().0);
            driver.turn(Some(driver.now())).unwrap();
            assert!(driver.next().is_none());
            while driver.close(old, Close::Graceful) == Closed::Soon && !driver.is_closed(old) {
                driver.turn(Some(driver.now())).unwrap();
            }
            let another = is_reused.then(|| {
                let (peer, ours) = UnixStream::pair().unwrap();
                ours.set_nonblocking(true).unwrap();
                let sock = adopt(&mut driver, ours.into());
                assert_eq!(sock.index(), old.index());
                // A receive that finds nothing: a socket is taken for readable at first.
                driver.submit(sock, Op::Recv);
                driver.turn(Some(driver.now())).unwrap();
                driver.cancel(sock, Lane::Read);
                driver.turn(Some(driver.now())).unwrap();
                assert!(driver.next().is_some(), "the receive is over");
                driver.submit(sock, ops().1);
                driver.turn(Some(driver.now())).unwrap();
                assert!(driver.next().is_none());
                (peer, sock)
            });
            peer.write_all(b"late").unwrap();
            drop(peer);
            // The first wait may still be about the registration.
            for _ in 0..3 {
                driver.turn(Some(driver.now())).unwrap();
                assert!(driver.next().is_none(), "nobody waits for that");
            }
            driver.release();
            if let Some((peer, sock)) = another {
                drop(peer);
                let until = driver.now() + Duration::from_secs(60);
                let told = loop {
                    driver.turn(Some(until)).unwrap();
                    match driver.next() {
                        Some(completion) => break completion,
                        None => assert!(driver.now() < until, "it is not told"),
                    }
                };
                assert_eq!(told.sock, sock);
                driver.close(sock, Close::Graceful);
                driver.release();
            }
        }
    }

    /// `has_nodelay` looks at a socket of the driver's.
    pub(super) fn assert_tcp_clients_are_known_for_what_they_are<D: Driver>(
        mut driver: D,
        has_nodelay: impl Fn(&mut D, Sock) -> bool,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let listening = driver.adopt_listener(listener.into());
        driver.submit(listening, Op::Accept);
        driver.turn(Some(driver.now())).unwrap();
        assert!(driver.next().is_none());

        // One comes while an accept waits, and one is looked for.
        let first = TcpStream::connect(address).unwrap();
        let until = driver.now() + Duration::from_secs(60);
        let accepted = loop {
            driver.turn(Some(until)).unwrap();
            match driver.next() {
                Some(completion) => break completion.done,
                None => assert!(driver.now() < until, "nobody came"),
            }
        };
        let Done::Accepted(one) = accepted else {
            panic!("{accepted:?}")
        };
        let second = TcpStream::connect(address).unwrap();
        let two = driver.accept_now(listening).unwrap().unwrap();
        for (client, sock) in [(first, one), (second, two)] {
            assert!(has_nodelay(&mut driver, sock));
            assert!(driver.peer_credentials(sock).is_none());
            let ends = driver.client_addresses(sock).unwrap();
            let expected = (client.local_addr().unwrap(), address);
            assert_eq!((ends.client, ends.local), expected);
            // Its end is no leaving.
            drop(client);
            assert!(!driver.peer_is_gone(sock));
            driver.close(sock, Close::Graceful);
        }
    }

    /// The next completion, whenever it comes.
    fn wait_for_completion<D: Driver>(driver: &mut D) -> Completion {
        let until = driver.now() + Duration::from_secs(60);
        loop {
            if let Some(completion) = driver.next() {
                return completion;
            }
            assert!(driver.now() < until, "nothing completes");
            driver.turn(Some(until)).unwrap();
        }
    }

    /// What is in flight is called off while the peer writes, at any moment: either it has bytes, or all of them are in
    /// the connection that is let go.
    pub(super) fn assert_what_is_let_go_has_all_its_bytes<D: Driver>(mut driver: D) {
        const ROUNDS: u32 = 2000;
        const MESSAGE: &[u8] = b"one and two";
        let mut let_go = 0;
        for round in 0..ROUNDS {
            let (peer, ours) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let sock = driver.adopt_client(ours.into());
            let op = match round % 4 {
                0 => Op::Recv,
                1 => Op::Peek,
                2 => Op::Readable,
                _ => Op::Hangup,
            };
            driver.submit(sock, op);
            if round % 3 > 0 {
                driver.turn(Some(driver.now())).unwrap();
            }
            let writer = thread::spawn(move || {
                for _ in 0..round % 50 {
                    thread::yield_now();
                }
                (&peer).write_all(MESSAGE).unwrap();
                peer
            });
            for _ in 0..round % 7 {
                thread::yield_now();
            }
            if round % 5 == 0 {
                // It may have ended, and nobody has been told yet.
                driver.turn(Some(driver.now())).unwrap();
            }
            driver.cancel(sock, Lane::Read);
            let ended = wait_for_completion(&mut driver);
            assert_eq!((ended.sock, ended.lane), (sock, Lane::Read));
            match ended.done {
                Done::Received(bytes) => {
                    assert_eq!(bytes[..], *MESSAGE);
                    driver.close(sock, Close::Graceful);
                }
                Done::Ready | Done::Failed(Errno(libc::ECANCELED)) => {
                    let mut ours = UnixStream::from(driver.let_go(sock));
                    ours.set_nonblocking(false).unwrap();
                    ours.set_read_timeout(Some(Duration::from_secs(60)))
                        .unwrap();
                    let mut bytes = [0; MESSAGE.len()];
                    ours.read_exact(&mut bytes).unwrap();
                    assert_eq!(bytes, *MESSAGE);
                    let_go += 1;
                }
                done => panic!("{done:?}"),
            }
            drop(writer.join().unwrap());
            driver.release();
        }
        assert!(let_go > ROUNDS / 4, "{let_go} of {ROUNDS} were let go");
    }

    /// Whoever has let a socket go hears nothing of its connection any more, which lives on.
    pub(super) fn assert_what_is_let_go_is_not_watched<D: Driver>(mut driver: D) {
        for op in [Op::Recv, Op::Peek, Op::Hangup] {
            let (mut peer, ours) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let sock = driver.adopt_client(ours.into());
            driver.submit(sock, op);
            driver.turn(Some(driver.now())).unwrap();
            driver.cancel(sock, Lane::Read);
            wait_for_completion(&mut driver);
            let ours = UnixStream::from(driver.let_go(sock));
            assert!(driver.is_closed(sock));
            peer.write_all(b"for somebody else").unwrap();
            driver.turn(Some(driver.now())).unwrap();
            drop((peer, ours));
            driver.turn(Some(driver.now())).unwrap();
            assert!(driver.next().is_none());
            assert_eq!(driver.take_stale_events(), 0);
        }
    }

    /// `has_nodelay` looks at a socket of the driver's.
    pub(super) fn assert_adopted_clients_are_like_accepted_ones<D: Driver>(
        mut driver: D,
        has_nodelay: impl Fn(&mut D, Sock) -> bool,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let sock = driver.adopt_client(accepted.into());
        assert!(has_nodelay(&mut driver, sock));
        let ends = driver.client_addresses(sock).unwrap();
        let expected = (client.local_addr().unwrap(), address);
        assert_eq!((ends.client, ends.local), expected);
        driver.close(sock, Close::Graceful);

        let (_peer, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let sock = driver.adopt_client(ours.into());
        assert!(driver.peer_credentials(sock).is_some());
        driver.close(sock, Close::Graceful);
    }
}
