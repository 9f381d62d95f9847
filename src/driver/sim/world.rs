//! The simulated kernel: sockets and what is on its way in them, the peers at their far ends, and the clock.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Instant;

use crate::backend::Address;
use crate::driver::buffers::{Buf, BufferPool};
use crate::driver::table::Table;
use crate::driver::{Close, Done, IntoUnix, Lane, Limits, Sock};
use crate::session::BUFFERS_PER_SESSION;
use crate::sys::Errno;

use super::by_hand::Pauses;
use super::dice::Dice;
use super::fastcgi::{Ledger, Speech};
use super::judge::{Event, Judge};
use super::looking::Curious;
use super::peer::{Acknowledging, Peer, stream_byte};
use super::readiness::Readiness;
use super::route_outages::RouteOutages;
use super::scenario::{InEffect, ListenerAt, PlannedRoute, Scenario};

/// Buffers that the kernel has to receive into at one time, as the ring of io_uring has some: with few, receives
/// wait for one now and then.
const PROVIDED: usize = 4;

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) scenario: Scenario,
    pub(super) now: Instant,
    pub(super) started: Instant,
    pub(super) sockets: Table<Socket>,
    pub(super) open_sockets: usize,
    /// What each worker's driver has for itself, by the worker's number.
    pub(super) drivers: Vec<DriverPart>,
    /// The worker whose call it is that is answered, or whose op that goes on.
    pub(super) at: usize,
    pub(super) peers: Vec<Peer>,
    /// What is known of requests, where peers speak FastCGI.
    pub(super) ledger: Ledger,
    pub(super) clients_to_come: usize,
    /// Where clients wait to be accepted. At first, each route has one, with its number.
    pub(super) backlogs: Vec<Backlog>,
    /// By the number of the descriptor: listeners that workers are given while they run.
    pub(super) announced: HashMap<RawFd, ListenerAt>,
    /// By the number of what stands for the descriptor: clients that are on their way from one worker to another.
    pub(super) on_the_way: HashMap<RawFd, usize>,
    /// They bring what was read of their next request.
    pub(super) lets_go_with_bytes: bool,
    /// By worker and route: whose clients go to another one.
    pub(super) let_go: HashSet<(usize, usize)>,
    /// By worker: what it was told and has not heard of, by route.
    pub(super) ordered: Vec<Vec<(usize, InEffect)>>,
    pub(super) told: Told,
    /// By route, of those that have been paused.
    pub(super) pauses: HashMap<usize, Pauses>,
    /// By route, of those that have been out.
    pub(super) route_outages: HashMap<usize, RouteOutages>,
    /// A fault was injected, a deadline may have passed, or sessions were cut: nobody is promised
    /// a whole stream any more.
    pub(super) disturbed: bool,
    pub(super) judge: Judge,
    pub(super) curious: Curious,
    /// Those of all routes, in the order of routes.
    pub(super) endpoints: Vec<Target>,
    /// By endpoint: how it is down, if it is.
    pub(super) outages: Vec<Option<Outage>>,
    /// Sockets that are in the table, for iteration.
    pub(super) live: Vec<Sock>,
    /// Events about sockets that were closed, which come when their slots are others'.
    pub(super) late_events: Vec<Sock>,
    /// How many of them have come.
    pub(super) stale_events: u64,
    /// Where the driver is one of epoll.
    pub(super) readiness: Option<Readiness>,
    pub(super) trace: Vec<String>,
}

/// What one worker's driver has for itself.
pub(super) struct DriverPart {
    /// The listeners that it is going to be given.
    pub(super) to_adopt: VecDeque<ListenerAt>,
    /// What was closed and joined since the last release.
    pub(super) to_release: Vec<ToRelease>,
    pub(super) open_pipes: usize,
    /// What is in the pipes that were given back: nothing, as the pool's rule has it.
    pub(super) free_pipes: Vec<(usize, Range<u64>)>,
    pub(super) buffers: Rc<RefCell<BufferPool>>,
    /// Those that the kernel has to receive into.
    pub(super) provided: Vec<Vec<u8>>,
    /// An accept was taken back, which only a drain does.
    pub(super) called_off: bool,
    pub(super) finished: VecDeque<(Sock, Lane, Done)>,
}

impl DriverPart {
    fn new(sessions: usize) -> Self {
        let limits = Limits {
            sessions,
            per_session: BUFFERS_PER_SESSION,
            pipes_max: 0,
            into_unix: IntoUnix::Spliced,
        };
        Self {
            to_adopt: VecDeque::new(),
            to_release: Vec::new(),
            open_pipes: 0,
            free_pipes: Vec::new(),
            buffers: BufferPool::within(limits, PROVIDED),
            provided: Vec::new(),
            called_off: false,
            finished: VecDeque::new(),
        }
    }

    /// Gives the kernel what it is to receive into, as far as there are buffers.
    fn replenish(&mut self) {
        let mut buffers = self.buffers.borrow_mut();
        while self.provided.len() < PROVIDED
            && let Some(buffer) = buffers.take()
        {
            self.provided.push(buffer);
        }
    }
}

/// An endpoint, and the route that leads to it.
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) route: usize,
}

/// How an endpoint is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outage {
    Refuses,
    Silent,
}

/// What the worker was told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Told {
    Nothing,
    Drain,
    Cut,
}

pub(super) struct ToRelease {
    pub(super) sock: Sock,
    pub(super) peer: Option<usize>,
    /// A client that a session had.
    pub(super) is_served: bool,
    pub(super) how: Close,
    /// The endpoint that it was connected to.
    pub(super) to: Option<Address>,
}

pub(super) struct Socket {
    pub(super) kind: Kind,
    /// The worker whose it is.
    pub(super) worker: usize,
    /// The endpoint that it is connected to, or is to be.
    pub(super) to: Option<Address>,
    pub(super) read: Option<InFlight<ReadOp>>,
    pub(super) write: Option<InFlight<WriteOp>>,
    pub(super) closing: Option<Close>,
    /// A client that a session has.
    pub(super) is_served: bool,
    /// What comes from its peer is heard of late.
    pub(super) is_slow: bool,
    /// By which rules it was made, if it tells.
    pub(super) generation: Option<usize>,
}

/// Clients that wait to be accepted.
pub(super) struct Backlog {
    pub(super) clients: VecDeque<usize>,
    /// The route that serves them, as far as workers were told.
    pub(super) route: usize,
    /// Whether more of them come.
    pub(super) is_open: bool,
}

impl Backlog {
    pub(super) fn of(route: usize, is_open: bool) -> Self {
        Self {
            clients: VecDeque::new(),
            route,
            is_open,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Listener(ListenerAt),
    Client(usize),
    /// A TCP or Unix socket, connected to a peer or not.
    Upstream(Option<usize>),
}

pub(super) struct InFlight<T> {
    pub(super) op: T,
    /// Ended; its completion was not taken yet.
    pub(super) finished: bool,
    pub(super) cancelled: bool,
}

impl<T> InFlight<T> {
    pub(super) fn new(op: T) -> Option<Self> {
        Some(Self {
            op,
            finished: false,
            cancelled: false,
        })
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }
}

pub(super) enum ReadOp {
    Accept,
    Recv,
    Readable,
    Hangup,
}

pub(super) enum WriteOp {
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

impl World {
    pub(super) fn new(mut scenario: Scenario, mut dice: Dice) -> Self {
        let workers = scenario.mailboxes.len();
        let routes = scenario.routes.iter().enumerate();
        let endpoints: Vec<_> = routes
            .flat_map(|(route, planned)| {
                let addresses = planned.endpoints.iter();
                addresses.map(move |&address| Target { address, route })
            })
            .collect();
        let ledger = Ledger::new(&mut scenario.routes, workers, &mut dice);
        let now = Instant::now();
        Self {
            dice,
            now,
            started: now,
            sockets: Table::default(),
            open_sockets: 0,
            drivers: (0..workers)
                .map(|_| DriverPart::new(scenario.sessions_max))
                .collect(),
            at: 0,
            peers: Vec::new(),
            ledger,
            clients_to_come: scenario.clients,
            backlogs: (0..scenario.routes.len())
                .map(|route| Backlog::of(route, route < scenario.routes_at_first))
                .collect(),
            announced: HashMap::new(),
            on_the_way: HashMap::new(),
            lets_go_with_bytes: false,
            let_go: HashSet::new(),
            ordered: (0..workers).map(|_| Vec::new()).collect(),
            told: Told::Nothing,
            pauses: HashMap::new(),
            route_outages: HashMap::new(),
            disturbed: false,
            judge: Judge::default(),
            curious: Curious::new(scenario.clients, workers),
            outages: endpoints.iter().map(|_| None).collect(),
            endpoints,
            live: Vec::new(),
            late_events: Vec::new(),
            stale_events: 0,
            readiness: None,
            trace: Vec::new(),
            scenario,
        }
    }

    /// What the worker's driver has for itself.
    pub(super) fn driver(&mut self) -> &mut DriverPart {
        &mut self.drivers[self.at]
    }

    /// The open sockets of the worker.
    pub(super) fn own(&self) -> impl Iterator<Item = Sock> {
        let live = self.live.iter().copied();
        live.filter(|&sock| self.sockets.peek(sock).worker == self.at)
    }

    pub(super) fn note(&mut self, event: impl FnOnce() -> String) {
        if self.scenario.trace {
            let at = self.now.duration_since(self.started);
            self.trace.push(format!("{at:>12.3?} {}", event()));
        }
    }

    /// Whether a fault is due.
    pub(super) fn fault(&mut self, one_in: u64) -> bool {
        let due = one_in > 0 && self.dice.one_in(one_in);
        self.disturbed |= due;
        due
    }

    pub(super) fn insert(&mut self, kind: Kind) -> Sock {
        let is_upstream = matches!(kind, Kind::Upstream(_));
        let is_slow = is_upstream && self.dice.one_in(8);
        let sock = self.sockets.insert(Socket {
            kind,
            worker: self.at,
            to: None,
            read: None,
            write: None,
            closing: None,
            is_served: false,
            is_slow,
            generation: None,
        });
        self.live.push(sock);
        if !matches!(kind, Kind::Listener(_)) {
            self.open_sockets += 1;
        }
        sock
    }

    pub(super) fn descriptors_left(&self) -> bool {
        self.open_sockets + 2 * self.open_pipes() < self.scenario.faults.descriptors_max
    }

    pub(super) fn open_pipes(&self) -> usize {
        self.drivers.iter().map(|driver| driver.open_pipes).sum()
    }

    pub(super) fn replenish(&mut self) {
        self.driver().replenish();
    }

    pub(super) fn peer_of(&self, sock: Sock) -> Option<usize> {
        match self.sockets.peek(sock).kind {
            Kind::Client(peer) | Kind::Upstream(Some(peer)) => Some(peer),
            Kind::Listener(_) | Kind::Upstream(None) => None,
        }
    }

    /// Whether this peer makes or serves requests.
    pub(super) fn speaks_fastcgi(&self, peer: usize) -> bool {
        self.ledger.has(self.peers[peer].route)
    }

    /// The route that this peer belongs to.
    pub(super) fn route_of(&self, peer: &Peer) -> &PlannedRoute {
        &self.scenario.routes[peer.route]
    }

    /// The socket of a call of the worker's, which counts as something that happened.
    pub(super) fn open_socket(&mut self, sock: Sock) -> &mut Socket {
        self.judge(&Event::Uses(sock));
        self.sockets.get(sock)
    }

    /// The peer of a connected socket that the worker reads or writes.
    pub(super) fn open_peer(&mut self, sock: Sock) -> usize {
        self.open_socket(sock);
        let peer = self.peer_of(sock);
        peer.expect("only connected sockets are read and written")
    }

    // --- streams ------------------------------------------------------------------------------

    /// The peer that sends `key`'s stream.
    pub(super) fn by_key(&self, key: u8) -> &Peer {
        let found = self.peers.iter().find(|peer| peer.key == key);
        found.expect("streams come from peers")
    }

    /// Gives bytes of a stream to a peer.
    pub(super) fn give(&mut self, peer: usize, source: u8, bytes: Range<u64>) {
        self.judge(&Event::Gives {
            peer,
            source,
            bytes: bytes.clone(),
        });
        let to = &mut self.peers[peer];
        to.source.get_or_insert(source);
        to.given = bytes.end;
        let to_key = to.key;
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
    pub(super) fn give_spliced(&mut self, peer: usize, source: usize, bytes: Range<u64>) {
        let from = &self.peers[source];
        if !self.speaks_fastcgi(peer) {
            return self.give(peer, from.key, bytes);
        }
        let mut content = Vec::new();
        Self::render(from, bytes, &mut content);
        self.give_records(peer, &content);
    }

    /// Fills a buffer with a stream's bytes.
    pub(super) fn render(from: &Peer, bytes: Range<u64>, into: &mut Vec<u8>) {
        match &from.speech {
            Speech::Pattern => into.extend(bytes.map(|offset| stream_byte(from.key, offset))),
            Speech::Client(client) => into.extend(client.script(bytes)),
            Speech::Server(server) => into.extend(server.script(bytes)),
        }
    }

    // --- closing ------------------------------------------------------------------------------

    pub(super) fn close(&mut self, sock: Sock, how: Close) {
        self.note(|| format!("{sock:?} close {how:?}"));
        let socket = self.open_socket(sock);
        socket.closing = Some(how);
        if let Some(peer) = self.peer_of(sock) {
            self.peers[peer].acknowledged(Acknowledging::WithBytes);
        }
        let socket = self.sockets.get(sock);
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
            if self.speaks_fastcgi(peer) {
                self.proxy_closes(sock, peer);
            } else {
                self.judge(&Event::Closes { peer, how });
            }
        }
        self.remove_if_joined(sock);
    }

    pub(super) fn remove_if_joined(&mut self, sock: Sock) {
        let socket = self.sockets.get(sock);
        if socket.closing.is_none() || socket.read.is_some() || socket.write.is_some() {
            return;
        }
        let peer = self.peer_of(sock);
        let socket = self.sockets.remove(sock);
        self.live.retain(|&live| live != sock);
        if self.readiness.is_none() {
            self.late_events.push(sock);
        }
        if matches!(socket.kind, Kind::Listener(_)) {
            return;
        }
        let how = socket.closing.expect("it was just seen to be closing");
        let released = ToRelease {
            sock,
            peer,
            is_served: socket.is_served,
            how,
            to: socket.to,
        };
        self.drivers[socket.worker].to_release.push(released);
    }

    /// A client goes to another worker, with its connection as it is. Returns what stands for that.
    pub(super) fn let_go(&mut self, sock: Sock) -> OwnedFd {
        let peer = self.open_peer(sock);
        self.note(|| format!("{sock:?} is let go"));
        self.judge(&Event::LetsGo(sock, peer));
        self.sockets.remove(sock);
        self.live.retain(|&live| live != sock);
        let fd = File::open("/dev/null").map(OwnedFd::from);
        let fd = fd.expect("descriptors are left");
        self.on_the_way.insert(fd.as_raw_fd(), peer);
        fd
    }

    /// It comes there.
    pub(super) fn adopt_client(&mut self, fd: OwnedFd) -> Sock {
        let peer = self.on_the_way.remove(&fd.as_raw_fd());
        let peer = peer.expect("somebody has let it go");
        self.peers[peer].worker = Some(self.at);
        self.peers[peer].arrived = true;
        let sock = self.insert(Kind::Client(peer));
        self.note(|| format!("{sock:?} is client {peer}, which another worker has let go"));
        // It was open all the time.
        self.open_sockets -= 1;
        sock
    }

    /// Nobody is there to take it.
    pub(super) fn loses(&mut self, fd: RawFd) {
        let peer = self.on_the_way.remove(&fd);
        let peer = peer.expect("somebody has let it go");
        self.note(|| format!("client {peer} is lost"));
        self.disturbed = true;
        self.open_sockets -= 1;
        (self.peers[peer].closed, self.peers[peer].gone) = (true, true);
    }

    /// Only now the peers hear of the closes, and the descriptors are free.
    pub(super) fn release(&mut self) {
        for released in mem::take(&mut self.driver().to_release) {
            self.released(&released);
        }
    }

    /// The descriptor of one of them is closed; listeners do not count.
    pub(super) fn release_one(&mut self, sock: Sock) {
        let to_release = &mut self.driver().to_release;
        let at = to_release.iter().position(|of| of.sock == sock);
        if let Some(at) = at {
            let released = to_release.swap_remove(at);
            self.released(&released);
        }
    }

    fn released(&mut self, &ToRelease { peer, how, .. }: &ToRelease) {
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

    /// The worker has ended and was dropped.
    pub(super) fn worker_ended(&mut self) {
        self.end_readiness();
        // What is closing already, a driver joins when it is dropped.
        self.driver().finished.clear();
        let own: Vec<_> = self.own().collect();
        for sock in own {
            let socket = self.sockets.get(sock);
            if socket.closing.is_some() {
                (socket.read, socket.write) = (None, None);
                self.remove_if_joined(sock);
            }
        }
        self.release();
        let driver = self.driver();
        for buffer in mem::take(&mut driver.provided) {
            driver.buffers.borrow_mut().give(buffer);
        }
    }

    pub(super) fn describe_live(&self) -> String {
        let mut text = String::new();
        for sock in self.live.iter().copied() {
            let socket = self.sockets.peek(sock);
            let (kind, read, write) = (socket.kind, socket.read.is_some(), socket.write.is_some());
            let closing = socket.closing;
            let peer = self.peer_of(sock).map(|p| format!("{:?}", self.peers[p]));
            text += &format!(
                "\n  {sock:?} {kind:?} read={read} write={write} closing={closing:?} {peer:?}"
            );
        }
        text
    }
}
