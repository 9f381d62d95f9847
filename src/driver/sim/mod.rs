//! A simulated kernel: the third driver, for tests only.
//!
//! It runs a worker's sessions without a socket, in virtual time, and does what a kernel may do:
//! completes ops in any order and late, shortens every transfer, wakes for nothing, refuses with any
//! errno that the call can return, breaks and half-closes connections at any point, runs out of
//! descriptors and pipes. Every choice comes from [`Dice`], so a run can be replayed.
//!
//! It is also the judge. Each rule has a name, with which a run that breaks it panics:
//!
//! - `bytes_in_order`: what is given to a peer is the next part of the other peer's stream.
//! - `end_told_after_last_byte`: an end of stream is passed on only after a true end, and after
//!   every byte before it.
//! - `sent_once`: a client's bytes go to one backend, whatever was tried before.
//! - `within_limit`: no endpoint has more connections than it may, until their descriptors are closed.
//! - `two_attempts`: there are never more than two connects for each client.
//! - `clean_close_loses_nothing`: a close that looks clean comes only when nothing was lost.
//! - `user_is_allowed`: nobody is served but those who may be, and who may be is turned away only while its
//!   user has all connections that it may.
//! - `user_within_limit`: no user has more clients that are served than it may.
//! - `copied_into_unix`: nothing is spliced into a Unix socket where that might wait for its reader.
//! - `introduced_first`: a backend gets the introduction before anything else, and once.
//! - `reset_needs_proof`: a backend is reset only when bytes are lost.
//! - `lane_is_free`, `socket_is_open`: the worker keeps to the driver's rules.
//! - `completes_once`, `joined_before_reuse`: and so does this driver.
//! - `stale_is_ignored`: an event about a socket that was closed concerns nobody, least of all who has its slot
//!   now; and it is counted.
//! - `no_spin`: a turn without progress waits.
//! - `bounded_turn`: no turn does more than a bounded amount of work.
//! - `not_stuck`: while a session lives, something can still happen, and does in the end.
//! - `lossless`: two peers that behaved, with no fault between them, got each other's whole streams.
//! - `buffers_promised`: between events, sessions hold no more buffers than they are promised.
//! - `accepted_are_served`: unless it is cut, the worker closes no listener whose accept may have taken a
//!   client already.
//! - `backlog_is_left`: where a backlog is somebody else's, nobody is taken out of it after the accepts
//!   were called off.
//! - `all_returned`: at the end no socket, buffer, pipe or permit is left.
//!
//! Where peers speak FastCGI, there are these beside or instead of some:
//!
//! - `backend_gets_requests`: a server gets the client's id, KEEP_CONN where the connection is to be
//!   kept, the same parameters without those that are left out, the same body, the fence where one is
//!   due, and nothing else.
//! - `denied_stays_out`: nothing of a request with a denied parameter reaches a server.
//! - `settled_before_reuse`: nothing of a request is sent on a kept connection before the fence of the
//!   last one was answered, and if anything else came before that.
//! - `sent_once`: no request is read by two servers, unless it is GET or HEAD and the endpoint may be
//!   taken for one that keeps no connections.
//! - `answers_belong`: what a client gets for a request is what the server that has it sent for it, up
//!   to END_REQUEST; or an answer of the proxy's own, and then nothing more.
//! - `fence_for_the_proven`: before the end of its answer, only a server that has served a second request on
//!   a connection gets the fence;
//! - `kept_if_certain`: a server is told to keep its connection only if it knows where the request ends;
//! - `nobody_waits_for_settling`: while somebody waits for a place, none is held for longer than the
//!   settle timeout by a connection that settles.
//! - `idle_is_bounded`: nothing is kept without a request for longer than the idle timeout.
//! - `pool_follows_set`: nothing is kept that leads to an endpoint which is not in the set.
//! - `within_limit`: kept connections count.
//! - `paced`: where connections are kept, one is opened only when the last one has shown life, or some time
//!   after it.
//! - `lossless`: a request that the proxy has taken whole, with nothing else to do for its client, gets
//!   its whole answer, unless a server or the client has spoilt that.

/// The one way in which a run fails.
macro_rules! rule {
    ($name:literal, $holds:expr, $($why:tt)+) => {
        assert!($holds, "INVARIANT {}: {}", $name, format_args!($($why)+))
    };
}

pub(crate) mod dice;
mod fastcgi;
mod peer;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::backend::{Address, PACE, Published};
use crate::session::BUFFERS_PER_SESSION;
use crate::sys::Errno;
use crate::sys::net::{Addresses, PeerCredentials, TcpOptions, UnixName};
use crate::worker::{Limit, Mailbox, Notice};

use super::buffers::{Buf, BufferPool};
use super::table::Table;
use super::{
    BUFFER_BYTES, Close, Closed, Completion, Done, Driver, Filled, Flushed, IntoUnix, Lane,
    NoBuffer, OWN_BYTES_MAX, Op, PIPE_BYTES, PipeGuard, Pipes, Sock, SocketCalls,
};
pub(crate) use fastcgi::FastcgiRules;

use dice::Dice;
use fastcgi::{Ledger, Speech};
use peer::{Peer, Plan, PlannedEnding, SendSide, stream_byte};

/// Turns in a row that may pass without anything happening before it is a spin. A wake for nothing
/// and a notice can each cost one. Of those who wait in a queue, each turn tries two at least, and all of
/// them may find that there are no descriptors.
const IDLE_TURNS_MAX: u32 = 4 + CLIENTS_MAX as u32 / 2;

/// Calls of fill and flush in one turn: the splice budget of each flow, with every call moving as
/// little as the simulation lets it, and the same again for what was left from before.
const MOVES_PER_TURN_MAX: u32 = 200_000;

/// Virtual time that no run takes: with every limit in time used up again and again, minutes pass.
const DURATION_MAX: Duration = Duration::from_secs(3600);

/// What may go wrong in a run, and how often: once in so many times, 0 for never.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    /// Any op or call fails with an errno.
    pub(crate) failure: u64,
    /// A wait ends for nothing.
    pub(crate) spurious: u64,
    /// There is no pipe.
    pub(crate) no_pipe: u64,
    /// The most descriptors at one time.
    pub(crate) descriptors_max: usize,
}

impl Faults {
    /// Nothing does.
    pub(crate) fn none() -> Self {
        Self {
            failure: 0,
            spurious: 0,
            no_pipe: 0,
            descriptors_max: 1000,
        }
    }
}

/// A scenario, as far as the world outside of the worker goes.
pub(crate) struct Scenario {
    /// Clients that come, one after the other or many at once.
    pub(crate) clients: usize,
    /// Whether clients, or else backends, may wait for the other side's end.
    pub(crate) patient_clients: bool,
    /// Endpoints that exist.
    pub(crate) endpoints: Vec<Address>,
    /// Whether, now and then, one of them is down for a while: it refuses, or is silent.
    pub(crate) outages: bool,
    /// What goes wrong.
    pub(crate) faults: Faults,
    /// Whether clients that are not accepted before a drain are left to others.
    pub(crate) backlog_is_left: bool,
    /// What each backend is told before anything else.
    pub(crate) introduction: &'static [u8],
    /// How bytes get to clients, and to backends that are Unix sockets.
    pub(crate) into_unix: IntoUnix,
    /// Sessions may be ended for being idle.
    pub(crate) idle_timeout: bool,
    /// Sessions are ended when their endpoint has left the set.
    pub(crate) removed_are_cut: bool,
    /// The most connections to an endpoint, and who may wait for one.
    pub(crate) limit: Option<Limit>,
    /// Which users' clients are served, and how many at one time.
    pub(crate) users: Option<Users>,
    /// Peers speak FastCGI, and this is what they may expect.
    pub(crate) fastcgi: Option<FastcgiRules>,
    /// Told of by the world.
    pub(crate) mailbox: Arc<Mailbox>,
    /// Changed by the world.
    pub(crate) published: Arc<Published>,
    /// Record what happens.
    pub(crate) trace: bool,
}

/// Rules for clients. There are three users, 1000 to 1002; the last one is in [`MEMBERS_GROUP`] beside its
/// own group, which has its number.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    /// Those that may connect.
    pub(crate) allowed: Vec<u32>,
    /// The most clients of one user at one time.
    pub(crate) per_user_max: u32,
}

/// The supplementary group of [`Users`].
pub(crate) const MEMBERS_GROUP: u32 = 2000;

/// The user of the client with this key.
fn user_of(key: u8) -> u32 {
    1000 + u32::from(key) % 3
}

/// The driver that a worker is given. Whoever runs the scenario keeps another handle.
#[derive(Clone)]
pub(crate) struct Sim(Rc<RefCell<World>>);

struct World {
    dice: Dice,
    scenario: Scenario,
    now: Instant,
    started: Instant,
    sockets: Table<Socket>,
    open_sockets: usize,
    /// What was closed and joined since the last release.
    to_release: Vec<ToRelease>,
    open_pipes: usize,
    /// What is in the pipes that were given back: nothing, as the pool's rule has it.
    free_pipes: Vec<(usize, Range<u64>)>,
    buffers: Rc<RefCell<BufferPool>>,
    peers: Vec<Peer>,
    /// What is known of requests, where peers speak FastCGI.
    ledger: Option<Ledger>,
    clients_to_come: usize,
    /// Clients that wait to be accepted.
    backlog: VecDeque<usize>,
    /// An accept was taken back, which only a drain does.
    called_off: bool,
    finished: VecDeque<(Sock, Lane, Done)>,
    told: Told,
    /// A fault was injected, a deadline may have passed, or sessions were cut: nobody is promised
    /// a whole stream any more.
    disturbed: bool,
    idle_turns: u32,
    moves_in_turn: u32,
    /// By endpoint: how it is down, if it is.
    outages: Vec<Option<Outage>>,
    /// By endpoint: the connect that began last.
    last_connects: Vec<Option<(Sock, Instant)>>,
    /// SocketCalls that are in the table, for iteration.
    live: Vec<Sock>,
    /// Events about sockets that were closed, which come when their slots are others'.
    late_events: Vec<Sock>,
    /// How many of them have come.
    stale_events: u64,
    trace: Vec<String>,
}

/// How an endpoint is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outage {
    Refuses,
    Silent,
}

/// What the worker was told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Told {
    Nothing,
    Drain,
    Cut,
}

struct ToRelease {
    peer: Option<usize>,
    how: Close,
    /// The endpoint that it was connected to.
    to: Option<Address>,
}

struct Socket {
    kind: Kind,
    /// The endpoint that it is connected to, or is to be.
    to: Option<Address>,
    read: Option<InFlight<ReadOp>>,
    write: Option<InFlight<WriteOp>>,
    closing: Option<Close>,
    /// A client that a session has.
    is_served: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Listener,
    Client(usize),
    /// A TCP or Unix socket, connected to a peer or not.
    Upstream(Option<usize>),
}

struct InFlight<T> {
    op: T,
    /// Ended; its completion was not taken yet.
    finished: bool,
    cancelled: bool,
}

enum ReadOp {
    Accept,
    Recv,
    Readable,
    Hangup,
}

enum WriteOp {
    Connect {
        answer_at: Option<Instant>,
        outcome: Result<(), Errno>,
    },
    Send {
        buf: Buf,
        sent: usize,
    },
    Writable,
}

/// A pipe of the simulated kernel: a part of one stream, between bytes of the proxy's own.
pub(crate) struct SimPipe {
    world: Rc<RefCell<World>>,
    before: Vec<u8>,
    behind: Vec<u8>,
    /// The peer whose stream they are part of, by its place among the peers.
    source: usize,
    bytes: Range<u64>,
}

impl PipeGuard for SimPipe {
    fn len(&self) -> usize {
        self.before.len() + self.spliced() + self.behind.len()
    }

    fn spliced(&self) -> usize {
        usize::try_from(self.bytes.end - self.bytes.start).expect("a pipe is small")
    }
}

impl Drop for SimPipe {
    fn drop(&mut self) {
        let world = &mut *self.world.borrow_mut();
        world.open_pipes -= 1;
        if self.is_empty() {
            world.free_pipes.push((self.source, self.bytes.clone()));
        }
    }
}

impl Sim {
    /// A world of its own for one worker.
    pub(crate) fn new(mut scenario: Scenario, mut dice: Dice) -> Self {
        let endpoints = scenario.endpoints.len();
        let rules = scenario.fastcgi.take();
        let ledger = rules.map(|rules| Ledger::new(rules, endpoints, &mut dice));
        let now = Instant::now();
        let clients_to_come = scenario.clients;
        let outages = vec![None; scenario.endpoints.len()];
        Self(Rc::new(RefCell::new(World {
            dice,
            scenario,
            now,
            started: now,
            sockets: Table::default(),
            open_sockets: 0,
            to_release: Vec::new(),
            open_pipes: 0,
            free_pipes: Vec::new(),
            buffers: BufferPool::new(usize::MAX),
            peers: Vec::new(),
            ledger,
            clients_to_come,
            backlog: VecDeque::new(),
            called_off: false,
            finished: VecDeque::new(),
            told: Told::Nothing,
            disturbed: false,
            idle_turns: 0,
            moves_in_turn: 0,
            last_connects: vec![None; outages.len()],
            outages,
            live: Vec::new(),
            late_events: Vec::new(),
            stale_events: 0,
            trace: Vec::new(),
        })))
    }

    /// After the worker has ended and was dropped: judges the outcome.
    pub(crate) fn judge_end(&self) {
        self.0.borrow_mut().judge_end();
    }

    /// How many events came about sockets that had been closed.
    pub(crate) fn stale_events(&self) -> u64 {
        self.0.borrow().stale_events
    }

    /// What happened, if it was recorded.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.0.borrow().trace.clone()
    }
}

impl World {
    fn note(&mut self, event: impl FnOnce() -> String) {
        if self.scenario.trace {
            let at = self.now.duration_since(self.started);
            self.trace.push(format!("{at:>12.3?} {}", event()));
        }
    }

    /// Whether a fault is due.
    fn fault(&mut self, one_in: u64) -> bool {
        let due = one_in > 0 && self.dice.one_in(one_in);
        self.disturbed |= due;
        due
    }

    fn insert(&mut self, kind: Kind) -> Sock {
        let sock = self.sockets.insert(Socket {
            kind,
            to: None,
            read: None,
            write: None,
            closing: None,
            is_served: false,
        });
        self.live.push(sock);
        if kind != Kind::Listener {
            self.open_sockets += 1;
        }
        sock
    }

    fn descriptors_left(&self) -> bool {
        self.open_sockets + 2 * self.open_pipes < self.scenario.faults.descriptors_max
    }

    fn peer_of(&mut self, sock: Sock) -> Option<usize> {
        match self.sockets.get(sock).kind {
            Kind::Client(peer) | Kind::Upstream(Some(peer)) => Some(peer),
            Kind::Listener | Kind::Upstream(None) => None,
        }
    }

    /// The socket of a call of the worker's, which counts as something that happened.
    fn open_socket(&mut self, sock: Sock) -> &mut Socket {
        self.idle_turns = 0;
        rule!(
            "socket_is_open",
            self.sockets.is_open(sock),
            "{sock:?} is used after its close"
        );
        let socket = self.sockets.get(sock);
        rule!(
            "socket_is_open",
            socket.closing.is_none(),
            "{sock:?} is used after its close"
        );
        socket
    }

    // --- streams ------------------------------------------------------------------------------

    /// The peer that sends `key`'s stream.
    fn by_key(&self, key: u8) -> &Peer {
        let found = self.peers.iter().find(|peer| peer.key == key);
        found.expect("streams come from peers")
    }

    /// Gives bytes to a peer, and checks that they are the right ones.
    fn give(&mut self, peer: usize, source: u8, bytes: Range<u64>) {
        let to = &mut self.peers[peer];
        let linked = *to.source.get_or_insert(source);
        rule!(
            "bytes_in_order",
            linked == source && to.given == bytes.start,
            "peer {} has {} bytes of {linked} and is given {bytes:?} of {source}",
            to.key,
            to.given
        );
        rule!(
            "end_told_after_last_byte",
            !to.told_end,
            "peer {} gets more after its end",
            to.key
        );
        to.given = bytes.end;
        let to_key = to.key;
        let is_other = |p: &Peer| p.key != to_key && p.source == Some(source) && p.given > 0;
        rule!(
            "sent_once",
            !self.peers.iter().any(is_other),
            "peer {to_key} is given {bytes:?} of {source}, and another had some of it"
        );
        let to = &mut self.peers[peer];
        if to.gone {
            // Into the void; the answer is a reset.
            to.read = to.given;
            to.break_off(Errno(libc::ECONNRESET));
        }
        // The other direction belongs to the same two.
        if let Some(back) = self.peers.iter_mut().find(|p| p.key == source) {
            back.source.get_or_insert(to_key);
        }
    }

    /// Gives a part of a stream that went through a pipe.
    fn give_spliced(&mut self, peer: usize, source: usize, bytes: Range<u64>) {
        let from = &self.peers[source];
        if self.ledger.is_none() {
            return self.give(peer, from.key, bytes);
        }
        let mut content = Vec::new();
        Self::render(from, bytes, &mut content);
        self.give_records(peer, &content);
    }

    /// Fills a buffer with a stream's bytes.
    fn render(from: &Peer, bytes: Range<u64>, into: &mut Vec<u8>) {
        match &from.speech {
            Speech::Pattern => into.extend(bytes.map(|offset| stream_byte(from.key, offset))),
            Speech::Client(client) => into.extend(client.script(bytes)),
            Speech::Server(server) => into.extend(server.script(bytes)),
        }
    }

    /// Whose stream these bytes are part of, given how much the receiver has of it.
    fn recognise(&self, peer: usize, bytes: &[u8]) -> u8 {
        let to = &self.peers[peer];
        let source = to.source.filter(|_| to.given > 0).unwrap_or(bytes[0]);
        let known = self.peers.iter().any(|p| p.key == source);
        rule!(
            "bytes_in_order",
            known,
            "peer {} gets a stream that nobody sends",
            to.key
        );
        let expected = (to.given..).map(|offset| stream_byte(source, offset));
        let right = bytes
            .iter()
            .copied()
            .zip(expected)
            .all(|(got, want)| got == want);
        rule!(
            "bytes_in_order",
            right,
            "peer {} gets wrong bytes after {}",
            to.key,
            to.given
        );
        source
    }

    /// Whether the peer that `to` receives from has ended in order, and `to` was given all of it.
    /// For a peer that got nothing yet: whether somebody could be the one.
    fn source_is_done(&self, to: &Peer) -> bool {
        let done = |from: &Peer| from.ended_in_order() && from.sent == to.given;
        match to.source {
            Some(source) => done(self.by_key(source)),
            None => self.peers.iter().any(|from| {
                is_client(from.key) != is_client(to.key) && from.source.is_none() && done(from)
            }),
        }
    }

    // --- completing ---------------------------------------------------------------------------

    fn finish(&mut self, sock: Sock, lane: Lane, done: Done) {
        let socket = self.sockets.get(sock);
        match lane {
            Lane::Read => socket.read.as_mut().expect("in flight").finished = true,
            Lane::Write => socket.write.as_mut().expect("in flight").finished = true,
        }
        self.note(|| format!("{sock:?} {lane:?} {done:?}"));
        self.finished.push_back((sock, lane, done));
    }

    /// Lets an op make what progress it can. True if it ended.
    fn advance(&mut self, sock: Sock, lane: Lane) -> bool {
        let socket = self.sockets.get(sock);
        let (closing, cancelled) = match lane {
            Lane::Read => match &socket.read {
                Some(op) if !op.finished => (socket.closing.is_some(), op.cancelled),
                _ => return false,
            },
            Lane::Write => match &socket.write {
                Some(op) if !op.finished => (socket.closing.is_some(), op.cancelled),
                _ => return false,
            },
        };
        // A cancel can come too late: the op may end as if there were none.
        if (closing || cancelled) && !self.dice.one_in(4) {
            self.finish(sock, lane, Done::Failed(Errno(libc::ECANCELED)));
            return true;
        }
        let done = match lane {
            Lane::Read => self.advance_read(sock),
            Lane::Write => self.advance_write(sock),
        };
        match done {
            Some(done) => {
                self.finish(sock, lane, done);
                true
            }
            None if closing || cancelled => {
                self.finish(sock, lane, Done::Failed(Errno(libc::ECANCELED)));
                true
            }
            None => false,
        }
    }

    fn advance_read(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        let op = &socket.read.as_ref().expect("in flight").op;
        match (op, socket.kind) {
            (ReadOp::Accept, _) => self.advance_accept(),
            (_, Kind::Listener | Kind::Upstream(None)) => unreachable!("nothing to read"),
            (ReadOp::Recv, Kind::Client(peer) | Kind::Upstream(Some(peer))) => {
                self.advance_recv(peer)
            }
            (ReadOp::Hangup, Kind::Client(peer) | Kind::Upstream(Some(peer))) => {
                self.peers[peer].gone.then_some(Done::Ready)
            }
            (ReadOp::Readable, Kind::Client(peer) | Kind::Upstream(Some(peer))) => {
                let from = &self.peers[peer];
                let ready = from.waiting() > 0 || from.send_side != SendSide::Open;
                let spurious = self.scenario.faults.spurious;
                (ready || (spurious > 0 && self.dice.one_in(spurious))).then_some(Done::Ready)
            }
        }
    }

    fn advance_accept(&mut self) -> Option<Done> {
        /// What accept(2) can return besides EAGAIN.
        const ERRORS: [i32; 7] = [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::ECONNABORTED,
            libc::EINTR,
            libc::EPERM,
        ];
        if self.backlog.is_empty() {
            return None;
        }
        if self.fault(self.scenario.faults.failure) {
            return Some(Done::Failed(Errno(self.dice.pick(&ERRORS))));
        }
        if !self.descriptors_left() {
            return Some(Done::Failed(Errno(libc::EMFILE)));
        }
        let peer = self.backlog.pop_front().expect("it is not empty");
        Some(Done::Accepted(self.insert(Kind::Client(peer))))
    }

    fn advance_recv(&mut self, peer: usize) -> Option<Done> {
        /// What recv(2) can return on a connected socket.
        const ERRORS: [i32; 5] = [
            libc::ECONNRESET,
            libc::ETIMEDOUT,
            libc::EHOSTUNREACH,
            libc::ENETDOWN,
            libc::ENOMEM,
        ];
        if self.fault(self.scenario.faults.failure) {
            let errno = Errno(self.dice.pick(&ERRORS));
            self.peers[peer].break_off(errno);
            self.peers[peer].failure_seen = true;
            return Some(Done::Failed(errno));
        }
        let from = &mut self.peers[peer];
        if from.waiting() == 0 {
            return match from.send_side {
                SendSide::Open => None,
                SendSide::Fin => {
                    from.end_seen = true;
                    Some(Done::Eof)
                }
                SendSide::Broken(errno) => {
                    // The error is told once; after that it reads like an end.
                    let first = !mem::replace(&mut from.failure_seen, true);
                    Some(if first {
                        Done::Failed(errno)
                    } else {
                        Done::Eof
                    })
                }
            };
        }
        let most = BUFFER_BYTES as u64;
        let max = if self.dice.below(3) > 0 {
            most
        } else {
            self.dice.between(1, most)
        };
        let from = &mut self.peers[peer];
        let bytes = from.take(max);
        let mut buffer = self.buffers.borrow_mut().take().expect("no limit here");
        Self::render(from, bytes, &mut buffer);
        Some(Done::Received(Buf::new(buffer, &self.buffers)))
    }

    fn advance_write(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        let kind = socket.kind;
        let in_flight = socket.write.as_mut().expect("in flight");
        match (&mut in_flight.op, kind) {
            (WriteOp::Connect { answer_at, outcome }, _) => {
                let due = answer_at.is_some_and(|at| at <= self.now);
                let outcome = *outcome;
                due.then(|| match outcome {
                    Ok(()) => self.connected(sock),
                    Err(errno) => Done::Failed(errno),
                })
            }
            (WriteOp::Writable, Kind::Client(peer) | Kind::Upstream(Some(peer))) => {
                let to = &self.peers[peer];
                let ready = to.room() > 0 || to.gone;
                let spurious = self.scenario.faults.spurious;
                (ready || (spurious > 0 && self.dice.one_in(spurious))).then_some(Done::Ready)
            }
            (WriteOp::Send { .. }, Kind::Client(peer) | Kind::Upstream(Some(peer))) => {
                self.advance_send(sock, peer)
            }
            (_, Kind::Listener | Kind::Upstream(None)) => unreachable!("nothing to write"),
        }
    }

    fn advance_send(&mut self, sock: Sock, peer: usize) -> Option<Done> {
        let is_gone = self.peers[peer].gone;
        let failure = self.write_failure(peer);
        if self.ledger.is_some() && (is_gone || failure.is_some()) {
            self.send_is_lost(sock, peer, failure);
        }
        if let Some(errno) = failure {
            return Some(Done::Failed(errno));
        }
        let room = self.peers[peer].room();
        let socket = self.sockets.get(sock);
        let Some(InFlight {
            op: WriteOp::Send { buf, sent },
            ..
        }) = &mut socket.write
        else {
            unreachable!("a send is in flight")
        };
        let left = (buf.len() - *sent) as u64;
        let most = left.min(room);
        if most == 0 {
            return None;
        }
        let now = if self.dice.one_in(3) {
            self.dice.between(1, most)
        } else {
            most
        };
        let part = *sent..*sent + usize::try_from(now).expect("below a buffer");
        *sent = part.end;
        let done = part.end == buf.len();
        let bytes = buf[part].to_vec();
        let bytes = self.take_introduction(peer, &bytes);
        if self.ledger.is_some() {
            self.give_records(peer, &bytes);
        } else if !bytes.is_empty() {
            let source = self.recognise(peer, &bytes);
            let start = self.peers[peer].given;
            self.give(peer, source, start..start + bytes.len() as u64);
        }
        done.then_some(Done::Sent)
    }

    /// Takes off what of the introduction this peer has not got yet; returns the rest.
    fn take_introduction(&mut self, peer: usize, bytes: &[u8]) -> Vec<u8> {
        let to = &mut self.peers[peer];
        if is_client(to.key) {
            return bytes.to_vec();
        }
        let missing = &self.scenario.introduction[to.introduced..];
        let now = missing.len().min(bytes.len());
        let key = to.key;
        rule!(
            "introduced_first",
            missing[..now] == bytes[..now],
            "backend {key} gets something else before the introduction"
        );
        to.introduced += now;
        bytes[now..].to_vec()
    }

    /// Why nothing can be written to this peer, if nothing can.
    fn write_failure(&mut self, peer: usize) -> Option<Errno> {
        /// What send(2) and splice(2) can return on a connected socket.
        const ERRORS: [i32; 5] = [
            libc::EPIPE,
            libc::ECONNRESET,
            libc::ETIMEDOUT,
            libc::EHOSTUNREACH,
            libc::ENOMEM,
        ];
        if self.fault(self.scenario.faults.failure) {
            let errno = Errno(self.dice.pick(&ERRORS));
            self.peers[peer].break_off(errno);
            self.peers[peer].failure_seen = true;
            return Some(errno);
        }
        let to = &mut self.peers[peer];
        // TCP finds out late: the first bytes to a peer that is gone may still be taken.
        let noticed = is_client(to.key) || to.is_broken() || self.dice.one_in(2);
        let to = &mut self.peers[peer];
        if to.gone && noticed {
            // An end that it sent before is what a receive finds first.
            if !is_client(to.key)
                && (matches!(to.speech, Speech::Pattern) || to.send_side != SendSide::Fin)
            {
                to.break_off(Errno(libc::ECONNRESET));
                to.failure_seen = true;
            }
            return Some(Errno(libc::EPIPE));
        }
        None
    }

    fn outage(&self, address: Address) -> Option<Outage> {
        self.outages[self.endpoint_index(address)]
    }

    fn endpoint_index(&self, address: Address) -> usize {
        let index = self.scenario.endpoints.iter().position(|e| *e == address);
        index.expect("only endpoints are connected to")
    }

    /// A connection to this endpoint begins.
    fn judge_limit(&mut self, to: Address) {
        let limit = self.scenario.limit.and_then(|limit| limit.per_endpoint_max);
        let Some(max) = limit else {
            return;
        };
        let mut open = self.to_release.iter().filter(|r| r.to == Some(to)).count();
        for sock in self.live.clone() {
            open += usize::from(self.sockets.get(sock).to == Some(to));
        }
        rule!(
            "within_limit",
            open <= max.get() as usize,
            "{open} connections to {to}"
        );
    }

    /// A connection to this endpoint begins.
    fn judge_pace(&mut self, sock: Sock, to: Address) {
        let index = self.endpoint_index(to);
        let last = self.last_connects[index].replace((sock, self.now));
        let Some(ledger) = &self.ledger else {
            return;
        };
        let (Some((last, at)), true) = (last, ledger.keeps_connections(index)) else {
            return;
        };
        let is_over = !self.live.contains(&last) || {
            let socket = self.sockets.get(last);
            let peer = match socket.kind {
                Kind::Upstream(peer) => peer.map(|peer| &self.peers[peer]),
                Kind::Listener | Kind::Client(_) => None,
            };
            socket.closing.is_some() || peer.is_some_and(|peer| peer.taken > 0 || peer.gone)
        };
        rule!(
            "paced",
            is_over || self.now >= at + PACE,
            "{to} is connected to {:?} after {last:?}, which has shown no life",
            self.now - at
        );
    }

    /// The clients of this user that sessions have.
    fn served_of(&mut self, user: u32) -> usize {
        let live = self.live.clone();
        let mut is_one = |sock: &Sock| {
            let socket = self.sockets.get(*sock);
            let peer = match (socket.kind, socket.is_served, socket.closing) {
                (Kind::Client(peer), true, None) => peer,
                _ => return false,
            };
            user_of(self.peers[peer].key) == user
        };
        live.iter().filter(|sock| is_one(sock)).count()
    }

    /// A session uses this socket.
    fn judge_user(&mut self, sock: Sock) {
        let Some(users) = self.scenario.users.clone() else {
            return;
        };
        let socket = self.sockets.get(sock);
        let (Kind::Client(peer), false) = (socket.kind, socket.is_served) else {
            return;
        };
        socket.is_served = true;
        let user = user_of(self.peers[peer].key);
        rule!(
            "user_is_allowed",
            users.allowed.contains(&user),
            "a client of {user} is served"
        );
        let served = self.served_of(user);
        rule!(
            "user_within_limit",
            served <= users.per_user_max as usize,
            "{served} clients of {user} are served"
        );
    }

    /// This client is not let in.
    fn judge_dismissal(&mut self, peer: usize) {
        let users = self.scenario.users.clone();
        let users = users.expect("without rules nobody is turned away");
        let user = user_of(self.peers[peer].key);
        let served = self.served_of(user);
        rule!(
            "user_is_allowed",
            !users.allowed.contains(&user) || served >= users.per_user_max as usize,
            "a client of {user} is turned away beside {served} that are served"
        );
    }

    fn judge_connects(&mut self) {
        let (mut clients, mut connects) = (0, 0);
        for sock in self.live.clone() {
            let socket = self.sockets.get(sock);
            match (socket.closing, socket.kind, &socket.write) {
                (None, Kind::Client(_), _) => clients += 1,
                (None, Kind::Upstream(None), Some(_)) => connects += 1,
                _ => {}
            }
        }
        rule!(
            "two_attempts",
            connects <= 2 * clients,
            "{connects} connects for {clients} clients"
        );
    }

    fn connected(&mut self, sock: Sock) -> Done {
        let key =
            self.peers.iter().filter(|p| !is_client(p.key)).count() + usize::from(CLIENTS_MAX);
        let peer = if self.ledger.is_some() {
            let to = self.sockets.get(sock).to.expect("it is connected");
            let endpoint = self.endpoint_index(to);
            // Nobody asks for it.
            self.server_at(CLIENTS_MAX, endpoint)
        } else {
            let plan = self.plan(!self.scenario.patient_clients);
            Peer::new(u8::try_from(key).expect("connects are few"), plan)
        };
        let (index, about) = (self.peers.len(), format!("backend {peer:?}"));
        self.peers.push(peer);
        self.sockets.get(sock).kind = Kind::Upstream(Some(index));
        self.note(|| about);
        Done::Connected
    }

    // --- the world's own doings ---------------------------------------------------------------

    /// `patient`: it may wait for the other side to end. If both did, they would for ever.
    fn plan(&mut self, patient: bool) -> Plan {
        let bulk = self.dice.one_in(3);
        let total = match self.dice.below(4) {
            0 => 0,
            _ if bulk => self.dice.between(1, 300_000),
            _ => self.dice.between(1, 5_000),
        };
        let ending = match self.dice.below(8) {
            0..3 => PlannedEnding::HalfClose,
            3 => PlannedEnding::Close,
            4..7 if patient => PlannedEnding::AfterPeer,
            4..7 => PlannedEnding::HalfClose,
            _ => PlannedEnding::Abort(self.dice.below(total + 1)),
        };
        let appetite = if self.dice.one_in(3) { 500 } else { 200_000 };
        Plan {
            total,
            ending,
            appetite,
        }
    }

    fn a_client_comes(&mut self) {
        let key = u8::try_from(self.peers.iter().filter(|p| is_client(p.key)).count());
        let key = key.expect("clients are few");
        assert!(key < CLIENTS_MAX, "keys tell clients from backends");
        let peer = if self.ledger.is_some() {
            self.client_with_requests(key)
        } else {
            let plan = self.plan(self.scenario.patient_clients);
            Peer::new(key, plan)
        };
        self.note(|| format!("client {peer:?}"));
        self.clients_to_come -= 1;
        self.backlog.push_back(self.peers.len());
        self.peers.push(peer);
    }

    fn addresses_change(&mut self) {
        let count = self.dice.between(0, self.scenario.endpoints.len() as u64);
        let count = usize::try_from(count).expect("a few");
        let count = count.max(usize::from(self.is_calm()));
        // Some address must come in the end, or clients wait until their time is up.
        self.disturbed |= count == 0 || self.scenario.removed_are_cut;
        let endpoints = self.scenario.endpoints[..count].to_vec();
        self.note(|| format!("addresses: {endpoints:?}"));
        if let Some(ledger) = &mut self.ledger {
            ledger.forget_from(count);
        }
        if self
            .scenario
            .published
            .publish(endpoints, SystemTime::UNIX_EPOCH)
        {
            self.scenario.mailbox.post(Notice::Addresses);
        }
    }

    fn an_endpoint_fails_or_recovers(&mut self) {
        let count = self.outages.len() as u64;
        let index = usize::try_from(self.dice.below(count)).expect("an index");
        let outage = self
            .dice
            .pick(&[None, Some(Outage::Refuses), Some(Outage::Silent)]);
        self.note(|| format!("endpoint {index}: {outage:?}"));
        self.outages[index] = outage;
        self.disturbed |= outage.is_some();
    }

    fn tell(&mut self, told: Told) {
        self.note(|| if told == Told::Drain { "drain" } else { "cut" }.to_owned());
        self.told = told;
        self.scenario.mailbox.post(match told {
            Told::Drain => Notice::Drain,
            Told::Cut => Notice::Cut,
            Told::Nothing => unreachable!("that is no notice"),
        });
        self.disturbed |= told == Told::Cut;
    }

    /// Something happens outside of the worker. True if it needs to hear of it.
    fn happen(&mut self) -> bool {
        for index in 0..self.peers.len() {
            if self.dice.one_in(2) && self.peers[index].can_act(self.now) {
                self.act(index);
            }
        }
        if self.clients_to_come > 0 && self.told == Told::Nothing && self.dice.one_in(3) {
            self.a_client_comes();
        }
        if self.dice.one_in(60) {
            self.addresses_change();
            return true;
        }
        if self.scenario.outages && self.dice.one_in(30) {
            self.an_endpoint_fails_or_recovers();
        }
        let all_came = self.clients_to_come == 0;
        if self.told == Told::Nothing
            && (all_came && self.dice.one_in(20) || self.dice.one_in(2000))
        {
            self.tell(Told::Drain);
            return true;
        }
        if self.told == Told::Drain && self.dice.one_in(3000) {
            self.tell(Told::Cut);
            return true;
        }
        false
    }

    /// Lets a random choice of ops end.
    fn complete_some(&mut self) {
        let mut lanes: Vec<_> = self
            .live
            .iter()
            .flat_map(|&s| [(s, Lane::Read), (s, Lane::Write)])
            .collect();
        while !lanes.is_empty() {
            let index = usize::try_from(self.dice.below(lanes.len() as u64)).expect("an index");
            let (sock, lane) = lanes.swap_remove(index);
            if self.dice.below(4) > 0 {
                self.advance(sock, lane);
            }
        }
    }

    /// The next time at which something happens by itself.
    fn next_answer(&mut self) -> Option<Instant> {
        let live = self.live.clone();
        let connects = live
            .into_iter()
            .filter_map(|sock| match &self.sockets.get(sock).write {
                Some(InFlight {
                    op: WriteOp::Connect { answer_at, .. },
                    finished: false,
                    ..
                }) => *answer_at,
                _ => None,
            });
        let connects = connects.filter(|&at| at > self.started).min();
        [connects, self.next_due()].into_iter().flatten().min()
    }

    /// Nothing goes wrong but what peers do.
    fn is_calm(&self) -> bool {
        self.ledger.as_ref().is_some_and(Ledger::is_calm)
    }

    /// Between events, sessions hold no more than they are promised. What is on its way in, or out of a
    /// socket that is closing, is the driver's.
    fn judge_buffers(&self) {
        let mut promised = self.finished.len();
        for &sock in &self.live {
            let socket = self.sockets.peek(sock);
            promised += match socket.kind {
                Kind::Client(_) => BUFFERS_PER_SESSION,
                Kind::Upstream(_) => usize::from(socket.closing.is_some()),
                Kind::Listener => 0,
            };
        }
        let lent = self.buffers.borrow().lent();
        rule!(
            "buffers_promised",
            lent <= promised,
            "{lent} buffers are lent, and {promised} promised"
        );
    }

    fn turn(&mut self, until: Option<Instant>) {
        self.moves_in_turn = 0;
        self.tell_late_events();
        self.judge_rest();
        self.judge_buffers();
        let wait = until.map(|at| at.saturating_duration_since(self.now));
        let waits = wait != Some(Duration::ZERO);
        self.note(|| format!("turn, waiting at most {wait:?}"));
        self.now += Duration::from_micros(self.dice.below(200));
        rule!(
            "not_stuck",
            self.now.duration_since(self.started) < DURATION_MAX,
            "time passes, and there are {}",
            self.describe_live()
        );
        // Only when nothing is left to happen does time pass by itself.
        loop {
            let told = self.happen();
            self.complete_some();
            if !self.finished.is_empty() || told {
                self.idle_turns = 0;
                return;
            }
            if until.is_some_and(|at| at <= self.now) {
                self.idle_turns += u32::from(!waits);
                rule!(
                    "no_spin",
                    self.idle_turns <= IDLE_TURNS_MAX,
                    "turns pass without a wait, and nothing happens"
                );
                return;
            }
            let quiet = !self.somebody_can_act() && self.clients_to_come == 0;
            if quiet && self.dice.one_in(8) {
                break;
            }
        }
        for sock in self.live.clone() {
            self.advance(sock, Lane::Read);
            self.advance(sock, Lane::Write);
        }
        // A part of a send may have gone out, and its peer can read now.
        if !self.finished.is_empty() || self.somebody_can_act() {
            self.idle_turns = 0;
            return;
        }
        match [until, self.next_answer()].into_iter().flatten().min() {
            Some(at) => {
                self.now = self.now.max(at);
                // Time passes only when nothing else can: whoever waits may be given up on.
                let is_given_up = until.is_some_and(|until| until <= at);
                self.disturbed |= is_given_up && !self.is_calm();
            }
            None if self.told == Told::Nothing => self.tell(Told::Drain),
            None => {
                let live = self.describe_live();
                rule!(
                    "not_stuck",
                    false,
                    "nothing can happen, and there are {live}"
                );
            }
        }
    }

    fn somebody_can_act(&self) -> bool {
        self.peers.iter().any(|peer| peer.can_act(self.now))
    }

    fn describe_live(&mut self) -> String {
        let mut text = String::new();
        for sock in self.live.clone() {
            let socket = self.sockets.get(sock);
            let (kind, read, write) = (socket.kind, socket.read.is_some(), socket.write.is_some());
            let closing = socket.closing;
            let peer = self.peer_of(sock).map(|p| format!("{:?}", self.peers[p]));
            text += &format!(
                "\n  {sock:?} {kind:?} read={read} write={write} closing={closing:?} {peer:?}"
            );
        }
        text
    }

    // --- stale events -------------------------------------------------------------------------

    /// A descriptor is closed after its socket is forgotten, and until then the kernel tells what happens to it:
    /// each socket that is closed is told of once more, when its slot has been given to another one. What a
    /// driver makes of that is told by the table that all drivers share: whoever believes it finds the other one
    /// ready.
    fn tell_late_events(&mut self) {
        let slots: Vec<_> = self.live.iter().map(|sock| sock.index()).collect();
        let is_reused = |sock: &Sock| slots.contains(&sock.index());
        let (told, later) = mem::take(&mut self.late_events)
            .into_iter()
            .partition(is_reused);
        self.late_events = later;
        for closed in told {
            self.stale_events += 1;
            let believed = self.sockets.of_event(closed.token());
            let believed = believed.map(|(sock, _)| sock);
            rule!(
                "stale_is_ignored",
                believed.is_none(),
                "an event about {closed:?} is taken for one about {believed:?}"
            );
        }
    }

    // --- closing ------------------------------------------------------------------------------

    fn close(&mut self, sock: Sock, how: Close) {
        self.note(|| format!("{sock:?} close {how:?}"));
        let socket = self.open_socket(sock);
        socket.closing = Some(how);
        // One that has just been connected, and of which the worker has not heard yet: nothing was
        // to go there.
        let is_news = matches!(
            &socket.write,
            Some(InFlight {
                op: WriteOp::Connect { .. },
                finished: true,
                ..
            })
        );
        if let Some(peer) = self.peer_of(sock)
            && !is_news
        {
            if self.ledger.is_some() {
                self.proxy_closes(peer);
            } else {
                self.judge_close(peer, how);
            }
        }
        self.remove_if_joined(sock);
    }

    fn judge_close(&self, peer: usize, how: Close) {
        let peer = &self.peers[peer];
        if peer.dismissed {
            rule!(
                "clean_close_loses_nothing",
                how == Close::Graceful && peer.given == 0,
                "{peer:?} was turned away, and sees something else than a clean end"
            );
            return;
        }
        let source_done = self.source_is_done(peer);
        match how {
            Close::Graceful => rule!(
                "clean_close_loses_nothing",
                peer.gone || peer.failure_seen || source_done,
                "{peer:?} sees a clean end; its source is {:?}",
                peer.source.map(|key| self.by_key(key))
            ),
            Close::Reset if is_client(peer.key) => {}
            Close::Reset => {
                // A client that broke off, or bytes that were taken for one and not given to it.
                let lost = |client: &Peer| {
                    client.is_broken() || (client.gone && peer.taken > client.given)
                };
                let client = peer.source.map(|key| self.by_key(key));
                let client_failed = client.map_or_else(
                    || self.peers.iter().any(|p| is_client(p.key) && lost(p)),
                    lost,
                );
                rule!(
                    "reset_needs_proof",
                    client_failed
                        || peer.is_broken()
                        || peer.gone
                        || self.told == Told::Cut
                        || self.scenario.idle_timeout
                        || self.scenario.removed_are_cut,
                    "{peer:?} is reset, and nothing was lost; its source is {client:?}"
                );
            }
        }
    }

    fn remove_if_joined(&mut self, sock: Sock) {
        let socket = self.sockets.get(sock);
        if socket.closing.is_none() || socket.read.is_some() || socket.write.is_some() {
            return;
        }
        let peer = self.peer_of(sock);
        let socket = self.sockets.remove(sock);
        self.live.retain(|&live| live != sock);
        self.late_events.push(sock);
        if socket.kind == Kind::Listener {
            return;
        }
        let how = socket.closing.expect("it was just seen to be closing");
        let to = socket.to;
        self.to_release.push(ToRelease { peer, how, to });
    }

    /// Only now the peers hear of the closes, and the descriptors are free.
    fn release(&mut self) {
        for ToRelease { peer, how, .. } in mem::take(&mut self.to_release) {
            self.open_sockets -= 1;
            if let Some(peer) = peer {
                let peer = &mut self.peers[peer];
                peer.closed = true;
                // Bytes that nobody took are answered with a reset, like an explicit one.
                if how == Close::Reset || peer.waiting() > 0 {
                    peer.gone = true;
                }
            }
        }
    }

    fn judge_end(&mut self) {
        // What is closing already, a driver joins when it is dropped.
        self.finished.clear();
        for sock in self.live.clone() {
            let socket = self.sockets.get(sock);
            if socket.closing.is_some() {
                (socket.read, socket.write) = (None, None);
                self.remove_if_joined(sock);
            }
        }
        self.release();
        let lent = self.buffers.borrow().lent();
        rule!(
            "all_returned",
            self.open_sockets == 0 && self.open_pipes == 0 && lent == 0,
            "{} sockets, {} pipes and {lent} buffers are left",
            self.open_sockets,
            self.open_pipes
        );
        if self.disturbed {
            return;
        }
        self.judge_answers();
        for client in self.peers.iter().filter(|p| is_client(p.key)) {
            let Some(backend) = client.source.map(|key| self.by_key(key)) else {
                continue;
            };
            let well_behaved = |p: &Peer| {
                matches!(
                    p.plan.ending,
                    PlannedEnding::HalfClose | PlannedEnding::AfterPeer
                ) && p.send_side == SendSide::Fin
                    && p.sent == p.plan.total
            };
            if well_behaved(client) && well_behaved(backend) {
                rule!(
                    "lossless",
                    client.given == backend.sent && backend.given == client.sent,
                    "{client:?} and {backend:?}"
                );
            }
        }
    }
}

/// Clients have the keys below this, backends those from it on.
const CLIENTS_MAX: u8 = 40;

fn is_client(key: u8) -> bool {
    key < CLIENTS_MAX
}

impl Driver for Sim {
    fn adopt_listener(&mut self, _listener: OwnedFd) -> Sock {
        self.0.borrow_mut().insert(Kind::Listener)
    }

    fn open_tcp(&mut self, _like: &SocketAddr, _options: &TcpOptions) -> Result<Sock, Errno> {
        let mut world = self.0.borrow_mut();
        let failure = world.scenario.faults.failure;
        if !world.descriptors_left() || world.fault(failure) {
            return Err(Errno(libc::EMFILE));
        }
        Ok(world.insert(Kind::Upstream(None)))
    }

    fn open_unix(&mut self, name: UnixName) -> Result<Sock, Errno> {
        /// What connect(2) can return at once.
        const ERRORS: [i32; 4] = [libc::EAGAIN, libc::ECONNREFUSED, libc::ENOENT, libc::EACCES];
        let mut world = self.0.borrow_mut();
        let failure = world.scenario.faults.failure;
        if !world.descriptors_left() || world.fault(failure) {
            return Err(Errno(libc::EMFILE));
        }
        if world.outage(Address::Unix(name)).is_some() || world.dice.one_in(6) {
            world.disturbed = true;
            return Err(Errno(world.dice.pick(&ERRORS)));
        }
        let sock = world.insert(Kind::Upstream(None));
        world.connected(sock);
        Ok(sock)
    }

    fn submit(&mut self, sock: Sock, op: Op) {
        /// What connect(2) can return in the end.
        const ERRORS: [i32; 5] = [
            libc::ECONNREFUSED,
            libc::ETIMEDOUT,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::EADDRNOTAVAIL,
        ];
        let world = &mut *self.0.borrow_mut();
        world.note(|| format!("{sock:?} submit {op:?}"));
        let lane = op.lane();
        world.judge_user(sock);
        let socket = world.open_socket(sock);
        let free = match lane {
            Lane::Read => socket.read.is_none(),
            Lane::Write => socket.write.is_none(),
        };
        rule!(
            "lane_is_free",
            free,
            "{sock:?} {lane:?} has an op in flight"
        );
        let read = |op| {
            Some(InFlight {
                op,
                finished: false,
                cancelled: false,
            })
        };
        let write = |op| {
            Some(InFlight {
                op,
                finished: false,
                cancelled: false,
            })
        };
        match op {
            Op::Accept => socket.read = read(ReadOp::Accept),
            // Whether bytes stay in the socket shows only where a client's end is told, and that rule does
            // not ask what a Unix socket can express.
            Op::Recv | Op::Peek => socket.read = read(ReadOp::Recv),
            Op::Readable => socket.read = read(ReadOp::Readable),
            Op::Hangup => socket.read = read(ReadOp::Hangup),
            Op::Writable => socket.write = write(WriteOp::Writable),
            Op::Send(buf) => socket.write = write(WriteOp::Send { buf, sent: 0 }),
            Op::Connect(to) => {
                let outage = world.outage(Address::Tcp(to));
                let answer_at = match world.dice.below(20) {
                    _ if outage == Some(Outage::Silent) => None,
                    // Never.
                    0 => None,
                    1..4 => Some(world.now + Duration::from_millis(world.dice.between(1, 300))),
                    _ => Some(world.now),
                };
                let refused = outage == Some(Outage::Refuses) || world.dice.one_in(8);
                let outcome = if refused {
                    Err(Errno(world.dice.pick(&ERRORS)))
                } else {
                    Ok(())
                };
                let calm = world.is_calm();
                let (answer_at, outcome) = if calm {
                    (Some(world.now), Ok(()))
                } else {
                    (answer_at, outcome)
                };
                world.disturbed |= !calm && (refused || answer_at.is_none());
                let socket = world.sockets.get(sock);
                socket.to = Some(to.into());
                socket.write = write(WriteOp::Connect { answer_at, outcome });
                world.judge_connects();
                world.judge_limit(to.into());
                world.judge_pace(sock, to.into());
            }
        }
    }

    fn cancel(&mut self, sock: Sock, lane: Lane) {
        let world = &mut *self.0.borrow_mut();
        let socket = world.open_socket(sock);
        let is_listener = socket.kind == Kind::Listener;
        match lane {
            Lane::Read => socket.read.as_mut().expect("an op is in flight").cancelled = true,
            Lane::Write => socket.write.as_mut().expect("an op is in flight").cancelled = true,
        }
        world.called_off |= is_listener;
    }

    fn close(&mut self, sock: Sock, how: Close) -> Closed {
        let mut world = self.0.borrow_mut();
        world.close(sock, how);
        if world.sockets.is_open(sock) {
            Closed::Soon
        } else {
            Closed::Now
        }
    }

    fn release(&mut self) {
        self.0.borrow_mut().release();
    }

    fn is_closed(&self, sock: Sock) -> bool {
        !self.0.borrow().sockets.is_open(sock)
    }

    fn accept_now(&mut self, listener: Sock) -> Result<Option<Sock>, Errno> {
        let world = &mut *self.0.borrow_mut();
        let free = world.open_socket(listener).read.is_none();
        rule!("lane_is_free", free, "{listener:?} accepts already");
        rule!(
            "backlog_is_left",
            !(world.scenario.backlog_is_left && world.called_off),
            "{listener:?} takes clients that are for others"
        );
        match world.advance_accept() {
            None => Ok(None),
            Some(Done::Accepted(client)) => Ok(Some(client)),
            Some(Done::Failed(errno)) => Err(errno),
            Some(done) => unreachable!("an accept ends with {done:?}"),
        }
    }

    fn receive_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        let world = &mut *self.0.borrow_mut();
        let free = world.open_socket(sock).read.is_none();
        rule!("lane_is_free", free, "{sock:?} reads already");
        world.judge_user(sock);
        let peer = world
            .peer_of(sock)
            .expect("only connected sockets are read");
        let from = &world.peers[peer];
        // An end is left for the next receive.
        if from.waiting() == 0 && (from.send_side == SendSide::Fin || from.failure_seen) {
            return Ok(None);
        }
        match world.advance_recv(peer) {
            Some(Done::Received(buf)) => Ok(Some(buf)),
            Some(Done::Failed(errno)) => Err(errno),
            None => Ok(None),
            Some(done) => unreachable!("nothing but bytes and errors: {done:?}"),
        }
    }

    fn lend(&mut self) -> Result<Buf, NoBuffer> {
        BufferPool::lend(&self.0.borrow().buffers)
    }

    fn send_now(&mut self, sock: Sock, bytes: &[u8]) -> Result<(), Errno> {
        let world = &mut *self.0.borrow_mut();
        world.note(|| format!("{sock:?} send first {} bytes", bytes.len()));
        let free = world.open_socket(sock).write.is_none();
        rule!("lane_is_free", free, "{sock:?} writes already");
        let peer = world
            .peer_of(sock)
            .expect("only connected sockets are written");
        if let Some(errno) = world.write_failure(peer) {
            return Err(errno);
        }
        let rest = world.take_introduction(peer, bytes);
        if world.ledger.is_some() {
            if world.peers[peer].room() < bytes.len() as u64 {
                return Err(Errno(libc::EAGAIN));
            }
            world.give_records(peer, bytes);
            return Ok(());
        }
        rule!(
            "introduced_first",
            rest.is_empty(),
            "more than the introduction"
        );
        Ok(())
    }

    fn now(&self) -> Instant {
        self.0.borrow().now
    }

    fn turn(&mut self, until: Option<Instant>) -> Result<(), Errno> {
        self.0.borrow_mut().turn(until);
        Ok(())
    }

    fn take_stale_events(&mut self) -> u64 {
        self.0.borrow_mut().sockets.take_stale_events()
    }

    fn next(&mut self) -> Option<Completion> {
        let world = &mut *self.0.borrow_mut();
        loop {
            let (sock, lane, done) = world.finished.pop_front()?;
            let open = world.sockets.is_open(sock);
            rule!(
                "joined_before_reuse",
                open,
                "an op of {sock:?} ends after its slot was given up"
            );
            let socket = world.sockets.get(sock);
            let ended = match lane {
                Lane::Read => socket.read.take().is_some_and(|op| op.finished),
                Lane::Write => socket.write.take().is_some_and(|op| op.finished),
            };
            rule!(
                "completes_once",
                ended,
                "{sock:?} {lane:?} completes, and no op has ended"
            );
            if socket.closing.is_none() {
                return Some(Completion { sock, lane, done });
            }
            if let Done::Accepted(client) = done {
                rule!(
                    "accepted_are_served",
                    world.told == Told::Cut,
                    "{sock:?} was closed when it had a client"
                );
                // The kernel gave it, and the driver closes it with its listener.
                if let Some(peer) = world.peer_of(client) {
                    world.peers[peer].failure_seen = true;
                }
                world.close(client, Close::Reset);
            }
            world.remove_if_joined(sock);
        }
    }
}

impl Pipes for Sim {
    type Pipe = SimPipe;

    fn pipe(&mut self) -> Option<SimPipe> {
        let mut world = self.0.borrow_mut();
        let no_pipe = world.scenario.faults.no_pipe;
        if !world.descriptors_left() || (no_pipe > 0 && world.dice.one_in(no_pipe)) {
            return None;
        }
        world.open_pipes += 1;
        let (source, bytes) = world.free_pipes.pop().unwrap_or((0, 0..0));
        Some(SimPipe {
            world: Rc::clone(&self.0),
            before: Vec::new(),
            behind: Vec::new(),
            source,
            bytes,
        })
    }

    fn splices_into(&mut self, sock: Sock) -> bool {
        self.0.borrow_mut().splices_into(sock)
    }

    fn pipes_in_use(&self) -> usize {
        self.0.borrow().open_pipes
    }

    fn put(&mut self, pipe: &mut SimPipe, bytes: &[u8]) -> bool {
        assert!(bytes.len() <= OWN_BYTES_MAX);
        let takes = !self.0.borrow_mut().dice.one_in(20);
        let part = match pipe.spliced() {
            0 => &mut pipe.before,
            _ => &mut pipe.behind,
        };
        if takes {
            part.extend_from_slice(bytes);
        }
        takes
    }

    fn fill(&mut self, from: Sock, pipe: &mut SimPipe, max: usize) -> Filled {
        rule!(
            "bytes_in_order",
            pipe.spliced() + pipe.behind.len() == 0 && pipe.len() <= OWN_BYTES_MAX,
            "a pipe with bytes in it is filled"
        );
        let world = &mut *self.0.borrow_mut();
        world.count_move();
        world.open_socket(from);
        let index = world
            .peer_of(from)
            .expect("only connected sockets are read");
        if world.peers[index].waiting() == 0 {
            return match world.advance_recv(index) {
                None => Filled::Empty,
                Some(Done::Eof) => Filled::Eof,
                Some(Done::Failed(errno)) => Filled::Failed(errno),
                Some(done) => unreachable!("nothing waits, and yet {done:?}"),
            };
        }
        let most = max.min(PIPE_BYTES) as u64;
        let max = if world.dice.one_in(3) {
            world.dice.between(1, most)
        } else {
            most
        };
        let peer = &mut world.peers[index];
        pipe.source = index;
        pipe.bytes = peer.take(max);
        world.note(|| format!("{from:?} fill {:?}", pipe.bytes));
        Filled::Bytes(pipe.spliced())
    }

    fn flush(&mut self, pipe: &mut SimPipe, to: Sock) -> Flushed {
        let world = &mut *self.0.borrow_mut();
        world.open_socket(to);
        rule!(
            "copied_into_unix",
            world.splices_into(to),
            "{to:?} is given bytes out of a pipe"
        );
        let peer = world
            .peer_of(to)
            .expect("only connected sockets are written");
        while !pipe.is_empty() {
            world.count_move();
            if let Some(errno) = world.write_failure(peer) {
                return Flushed::Failed(errno);
            }
            let own = match (pipe.before.is_empty(), pipe.spliced()) {
                (false, _) => &mut pipe.before,
                (true, 0) => &mut pipe.behind,
                (true, _) => &mut Vec::new(),
            };
            if !own.is_empty() {
                if world.peers[peer].room() < own.len() as u64 {
                    return Flushed::Full;
                }
                let own = mem::take(own);
                world.note(|| format!("{to:?} flush {} of our own", own.len()));
                world.give_records(peer, &own);
                continue;
            }
            let most = world.peers[peer].room().min(pipe.spliced() as u64);
            if most == 0 {
                return Flushed::Full;
            }
            let now = if world.dice.one_in(3) {
                world.dice.between(1, most)
            } else {
                most
            };
            let part = pipe.bytes.start..pipe.bytes.start + now;
            world.note(|| format!("{to:?} flush {part:?}"));
            pipe.bytes.start = part.end;
            world.give_spliced(peer, pipe.source, part);
        }
        Flushed::All
    }
}

impl SocketCalls for Sim {
    fn configure_tcp(
        &mut self,
        sock: Sock,
        _like: &SocketAddr,
        _options: &TcpOptions,
    ) -> Result<(), Errno> {
        self.0.borrow_mut().open_socket(sock);
        Ok(())
    }

    fn peek(&mut self, sock: Sock, into: &mut [u8]) -> usize {
        let world = &mut *self.0.borrow_mut();
        world.open_socket(sock);
        let peer = world
            .peer_of(sock)
            .expect("only connected sockets are read");
        let from = &world.peers[peer];
        let most = from.waiting().min(into.len() as u64);
        let bytes = from.taken..from.taken + most;
        let mut seen = Vec::new();
        World::render(from, bytes, &mut seen);
        into[..seen.len()].copy_from_slice(&seen);
        seen.len()
    }

    fn at_hand(&mut self, sock: Sock) -> usize {
        let world = &mut *self.0.borrow_mut();
        world.open_socket(sock);
        let peer = world.peer_of(sock);
        let peer = peer.expect("only connected sockets are read");
        usize::try_from(world.peers[peer].waiting()).expect("a script is short")
    }

    fn skip(&mut self, sock: Sock, bytes: usize) -> bool {
        let world = &mut *self.0.borrow_mut();
        world.open_socket(sock);
        let peer = world.peer_of(sock);
        let from = &mut world.peers[peer.expect("only connected sockets are read")];
        let is_there = from.waiting() >= bytes as u64;
        if is_there {
            from.take(bytes as u64);
        }
        is_there
    }

    fn acknowledge(&mut self, sock: Sock) {
        self.0.borrow_mut().open_socket(sock);
    }

    fn acknowledged(&mut self, sock: Sock) -> Result<u64, Errno> {
        let world = &mut *self.0.borrow_mut();
        world.open_socket(sock);
        let peer = world
            .peer_of(sock)
            .expect("only connected sockets are written");
        Ok(world.acknowledged_by(peer))
    }

    fn send_follows(&mut self, sock: Sock) {
        self.0.borrow_mut().open_socket(sock);
    }

    fn peer_credentials(&mut self, sock: Sock) -> Option<PeerCredentials> {
        let world = &mut *self.0.borrow_mut();
        world.open_socket(sock);
        let peer = world.peer_of(sock)?;
        let user = user_of(world.peers[peer].key);
        Some(PeerCredentials {
            uid: user,
            gid: user,
            pid: 4711,
        })
    }

    fn peer_groups(&mut self, sock: Sock) -> Result<Vec<u32>, Errno> {
        let world = &mut *self.0.borrow_mut();
        world.open_socket(sock);
        let peer = world.peer_of(sock).ok_or(Errno(libc::ENODATA))?;
        let is_member = user_of(world.peers[peer].key) == 1002;
        Ok(is_member.then_some(MEMBERS_GROUP).into_iter().collect())
    }

    fn dismiss(&mut self, sock: Sock) {
        let world = &mut *self.0.borrow_mut();
        world.open_socket(sock);
        let peer = world.peer_of(sock).expect("only clients are turned away");
        world.judge_dismissal(peer);
        let peer = &mut world.peers[peer];
        peer.dismissed = true;
        peer.taken = peer.sent;
    }

    fn client_addresses(&mut self, sock: Sock) -> Result<Addresses, Errno> {
        self.0.borrow_mut().open_socket(sock);
        Err(Errno(libc::EOPNOTSUPP))
    }

    fn peer_is_gone(&mut self, sock: Sock) -> bool {
        let world = &mut *self.0.borrow_mut();
        world.open_socket(sock);
        let peer = world
            .peer_of(sock)
            .expect("only connected sockets are read");
        is_client(world.peers[peer].key) && world.peers[peer].gone
    }

    fn unread(&mut self, sock: Sock) -> u64 {
        let world = &mut *self.0.borrow_mut();
        world.open_socket(sock);
        let peer = world
            .peer_of(sock)
            .expect("only connected sockets are written");
        world.peers[peer].given - world.peers[peer].read
    }

    fn shutdown_write(&mut self, sock: Sock) {
        let world = &mut *self.0.borrow_mut();
        world.note(|| format!("{sock:?} shutdown"));
        world.open_socket(sock);
        let index = world
            .peer_of(sock)
            .expect("only connected sockets are shut down");
        let peer = &world.peers[index];
        world.judge_end_told(peer);
        rule!(
            "end_told_after_last_byte",
            world.ledger.is_some() || peer.gone || world.source_is_done(peer),
            "{peer:?} is told of an end; its source is {:?}",
            peer.source.map(|key| world.by_key(key))
        );
        let untold = !is_client(peer.key) && peer.introduced < world.scenario.introduction.len();
        rule!(
            "introduced_first",
            !untold || peer.gone,
            "{peer:?} is told of an end before the introduction"
        );
        world.peers[index].told_end = true;
    }
}

impl World {
    fn splices_into(&mut self, sock: Sock) -> bool {
        let to = self.sockets.get(sock).to;
        let is_unix = to.is_none_or(|to| matches!(to, Address::Unix(_)));
        self.scenario.into_unix == IntoUnix::Spliced || !is_unix
    }

    fn count_move(&mut self) {
        self.moves_in_turn += 1;
        rule!(
            "bounded_turn",
            self.moves_in_turn <= MOVES_PER_TURN_MAX,
            "{} fills and flushes in one turn",
            self.moves_in_turn
        );
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sim")
    }
}
