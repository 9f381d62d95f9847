//! Bytes through the proxy: from a TCP backend to a Unix client and back, on one thread.
//!
//! Each figure is the time of everything together: the peer's write, the proxy, the other peer's read.
//! Compare figures with each other; none is what a user sees.
//!
//! - `flow/…` is a whole session (a `Tunnel`) on its driver. `copy` has no pipes to lend; `splice` has,
//!   and the flow decides by itself when it is promoted: exchanges below a full buffer never are.
//! - `move/…` is what the two ways of moving bytes cost by themselves, at sizes around the threshold:
//!   receive and send, or wait, fill and flush.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use criterion::{BenchmarkId, Criterion, Throughput};
use spliceway::backend::{Balancer, Published};
use spliceway::config::Balance;
use spliceway::counters::RouteCounters;
use spliceway::driver::{
    Completion, Done, Driver, Filled, Flushed, Limits, Op, PIPE_BYTES, Sock, Waker,
};
use spliceway::fastcgi::HeadRoom;
use spliceway::session::{
    Changes, Context, Entry, Hands, Hello, LetsGo, Owner, Policy, Pool, Protocol, RequestLogs,
    RouteKey, SessionId, Step, Timeouts, Tunnel,
};
use spliceway_common::sys::net::{Source, TcpOptions};

use common::{Door, LIMITS, each_engine, guard, moved, turn};

const KB: usize = 1024;

const FLOW_SIZES: [usize; 5] = [KB, 16 * KB, 64 * KB, 256 * KB, 1024 * KB];

const MOVE_SIZES: [usize; 5] = [KB, 4 * KB, 16 * KB, 64 * KB, 256 * KB];

const NO_PIPES: Limits = Limits {
    pipes_max: 0,
    ..LIMITS
};

const TIMEOUTS: Timeouts = Timeouts {
    queue: None,
    connect: Duration::from_secs(10),
    refused: None,
    silent_is_short: false,
    idle: Some(Duration::from_secs(60)),
    half_closed: None,
    removed: None,
    min_rate: None,
    request: None,
};

static POLICY: Policy = Policy {
    protocol: Protocol::Raw,
    tcp: TcpOptions {
        keepalive: None,
        user_timeout: None,
        source: Source { v4: None, v6: None },
    },
    timeouts: TIMEOUTS,
};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    each_engine!(flow(&mut criterion));
    each_engine!(move_bytes(&mut criterion));
    criterion.final_summary();
}

#[derive(Clone, Copy)]
enum Direction {
    ToClient,
    ToBackend,
}

fn flow<D: Driver>(engine: &str, make: fn(Waker, Limits) -> D, criterion: &mut Criterion) {
    let directions = [
        (Direction::ToClient, "flow/to_client"),
        (Direction::ToBackend, "flow/to_backend"),
    ];
    for (direction, name) in directions {
        let mut group = criterion.benchmark_group(name);
        for (mode, limits) in [("copy", NO_PIPES), ("splice", LIMITS)] {
            let mut rig = Rig::new(make, limits, Session::start);
            for size in FLOW_SIZES {
                group.throughput(Throughput::Bytes(size as u64));
                let id = BenchmarkId::new(format!("{engine}/{mode}"), size);
                let mut exchange = Exchange::of(size);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| rig.carry(direction, &mut exchange));
                    exchange.check();
                });
            }
        }
    }
}

fn move_bytes<D: Driver>(engine: &str, make: fn(Waker, Limits) -> D, criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("move/to_client");
    for (name, way) in [("copy", Way::Copy), ("splice", Way::Splice)] {
        let mut rig = Rig::new(make, LIMITS, |ends, hands| Mover::start(way, ends, hands));
        for size in MOVE_SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            let mut exchange = Exchange::of(size);
            group.bench_function(
                BenchmarkId::new(format!("{engine}/{name}"), size),
                |bencher| {
                    bencher.iter(|| rig.carry(Direction::ToClient, &mut exchange));
                    exchange.check();
                },
            );
        }
    }
}

/// Bytes to be sent, and those that arrived.
struct Exchange {
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Exchange {
    fn of(size: usize) -> Self {
        // A prime, so that no piece looks like its neighbour.
        let sent: Vec<u8> = (0..251).cycle().take(size).collect();
        Self {
            received: vec![0; sent.len()],
            sent,
        }
    }

    /// The last one arrived intact.
    fn check(&self) {
        assert!(self.sent == self.received, "bytes were lost or reordered");
    }
}

/// What acts on completions.
trait Machine<D: Driver> {
    fn complete(&mut self, completion: Completion, hands: &mut Hands<D>);
}

/// What a machine starts from: an accepted client, an unconnected socket, where to connect it.
struct Ends {
    client: Sock,
    spare: Sock,
    backend: SocketAddr,
}

/// A driver and a machine between a client and a backend, both of which are this thread's.
struct Rig<D: Driver, M> {
    machine: M,
    hands: Hands<D>,
    client: UnixStream,
    backend: TcpStream,
    _door: Door,
}

impl<D: Driver, M: Machine<D>> Rig<D, M> {
    fn new(
        make: fn(Waker, Limits) -> D,
        limits: Limits,
        start: impl FnOnce(&Ends, &mut Hands<D>) -> M,
    ) -> Self {
        let mut driver = make(Waker::new().expect("there are descriptors"), limits);
        let door = Door::open(&mut driver);
        let (client, accepted) = door.connect(&mut driver);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let ends = Ends {
            client: accepted,
            spare: driver
                .open_tcp(&address, &POLICY.tcp)
                .expect("there are descriptors"),
            backend: address,
        };
        let mut hands = Hands::new(driver);
        let mut machine = start(&ends, &mut hands);
        // The connect: the kernel answers it by itself.
        act(&mut hands, &mut machine, guard());
        let (backend, _) = listener.accept().expect("it has connected");
        backend.set_nonblocking(true).expect("it is a socket");
        backend.set_nodelay(true).expect("it is a TCP socket");
        Self {
            machine,
            hands,
            client,
            backend,
            _door: door,
        }
    }

    fn carry(&mut self, direction: Direction, exchange: &mut Exchange) {
        let (hands, machine) = (&mut self.hands, &mut self.machine);
        match direction {
            Direction::ToClient => carry(hands, machine, &self.backend, &self.client, exchange),
            Direction::ToBackend => carry(hands, machine, &self.client, &self.backend, exchange),
        }
    }
}

/// Writes what there is room for, lets the machine act, reads what is there, until all has arrived.
/// A turn always has something to wait for: what has not arrived is on its way, and the reader has
/// taken everything that was there.
fn carry<D: Driver>(
    hands: &mut Hands<D>,
    machine: &mut impl Machine<D>,
    mut source: impl Write,
    mut sink: impl Read,
    exchange: &mut Exchange,
) {
    let until = guard();
    let (mut unsent, mut room) = (&exchange.sent[..], &mut exchange.received[..]);
    while !room.is_empty() {
        if !unsent.is_empty() {
            let count = moved(source.write(unsent));
            unsent = &unsent[count..];
        }
        act(hands, machine, until);
        while !room.is_empty() {
            let count = moved(sink.read(room));
            if count == 0 {
                break;
            }
            room = &mut room[count..];
        }
    }
}

/// A turn, as a worker has it.
fn act<D: Driver>(hands: &mut Hands<D>, machine: &mut impl Machine<D>, until: Instant) {
    hands.now = turn(&mut hands.driver, until);
    while let Some(completion) = hands.driver.next() {
        machine.complete(completion, hands);
    }
}

/// A real session, and what its worker would have for it.
struct Session<D: Driver> {
    tunnel: Tunnel<D>,
    desk: Desk,
}

/// What a worker has for the sessions of a route.
struct Desk {
    published: Published,
    balancer: Balancer,
    pool: Pool,
    changes: Changes,
    counters: RouteCounters,
    head_room: HeadRoom,
    logs: RequestLogs,
}

const SESSION: SessionId = SessionId(0);

impl Desk {
    fn context<'a, D: Driver>(&'a mut self, hands: &'a mut Hands<D>) -> Context<'a, D> {
        Context {
            id: SESSION,
            hands,
            published: &self.published,
            policy: &POLICY,
            balancer: &mut self.balancer,
            route: RouteKey(0),
            pool: &mut self.pool,
            changes: &mut self.changes,
            queue_is_empty: true,
            passed_over_since: None,
            can_queue: false,
            is_paused: false,
            is_out: false,
            is_amended: false,
            draining: false,
            lets_go: LetsGo::None,
            counters: &self.counters,
            head_room: &self.head_room,
            logs: &self.logs,
        }
    }
}

impl<D: Driver> Session<D> {
    fn start(ends: &Ends, hands: &mut Hands<D>) -> Self {
        let published = Published::new(|| {});
        published.publish([ends.backend], SystemTime::UNIX_EPOCH);
        let mut desk = Desk {
            published,
            balancer: Balancer::new(Balance::default(), 0),
            pool: Pool::empty(),
            changes: Changes::default(),
            counters: RouteCounters::default(),
            head_room: HeadRoom::default(),
            logs: RequestLogs::default(),
        };
        let mut cx = desk.context(hands);
        let (client, spare) = (ends.client, ends.spare);
        let (tunnel, step) = Tunnel::start(client, Hello::default(), spare, Entry::Direct, &mut cx);
        assert_eq!(step, Step::Continue);
        Self { tunnel, desk }
    }
}

impl<D: Driver> Machine<D> for Session<D> {
    fn complete(&mut self, completion: Completion, hands: &mut Hands<D>) {
        let Completion { sock, lane, done } = completion;
        let Owner::Session(SESSION, end) = hands.owners.of(sock) else {
            panic!("no accept was armed")
        };
        let mut cx = self.desk.context(hands);
        let step = self.tunnel.complete(end, lane, done, &mut cx);
        assert_eq!(step, Step::Continue);
    }
}

/// The two ways of moving bytes.
#[derive(Clone, Copy)]
enum Way {
    Copy,
    Splice,
}

/// Moves bytes to the client in one way only, and does nothing else.
struct Mover<D: Driver> {
    way: Way,
    client: Sock,
    upstream: Sock,
    /// Held while it has bytes.
    pipe: Option<D::Pipe>,
}

impl<D: Driver> Mover<D> {
    fn start(way: Way, ends: &Ends, hands: &mut Hands<D>) -> Self {
        hands.driver.submit(ends.spare, Op::Connect(ends.backend));
        Self {
            way,
            client: ends.client,
            upstream: ends.spare,
            pipe: None,
        }
    }

    fn wait(&self, driver: &mut D) {
        let op = match self.way {
            Way::Copy => Op::Recv,
            Way::Splice => Op::Readable,
        };
        driver.submit(self.upstream, op);
    }

    fn splice(&mut self, driver: &mut D) {
        let pipe = self.pipe.take().or_else(|| driver.pipe());
        let mut pipe = pipe.expect("there are pipes");
        loop {
            match driver.flush(&mut pipe, self.client) {
                Flushed::All => {}
                Flushed::Full => {
                    self.pipe = Some(pipe);
                    driver.submit(self.client, Op::Writable);
                    return;
                }
                Flushed::Failed(errno) => panic!("{errno}"),
            }
            match driver.fill(self.upstream, &mut pipe, PIPE_BYTES) {
                Filled::Bytes(_) => {}
                Filled::Empty => {
                    self.wait(driver);
                    return;
                }
                ended => panic!("{ended:?}"),
            }
        }
    }
}

impl<D: Driver> Machine<D> for Mover<D> {
    fn complete(&mut self, completion: Completion, hands: &mut Hands<D>) {
        let driver = &mut hands.driver;
        match completion.done {
            Done::Connected | Done::Sent => self.wait(driver),
            Done::Received(buf) => driver.submit(self.client, Op::Send(buf)),
            Done::Ready => self.splice(driver),
            done => panic!("a peer of this thread broke off: {done:?}"),
        }
    }
}
