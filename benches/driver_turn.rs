//! What a turn of each engine costs: woken for nothing, and with one or sixteen echoes of 64 bytes.
//!
//! An echo is what a small exchange asks of the driver: a receive that was armed before, a send, the
//! next receive. The client's own write and read are part of each figure; `system_calls` is the same
//! echo with nothing but a read and a write in the middle, the least that an echo costs here.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use criterion::{BenchmarkId, Criterion, Throughput};
use spliceway::driver::{Completion, Done, Driver, Limits, Op, Sock, Waker};

use common::{Door, LIMITS, each_engine, guard, turn};

const MESSAGE: [u8; 64] = [0x5a; 64];

/// Clients that are busy in the same turn.
const CROWDS: [usize; 2] = [1, 16];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    each_engine!(wake(&mut criterion));
    system_calls(&mut criterion);
    each_engine!(echo(&mut criterion));
    criterion.final_summary();
}

/// A turn that another thread ends, which finds nothing to do.
fn wake<D: Driver>(engine: &str, make: fn(Waker, Limits) -> D, criterion: &mut Criterion) {
    let waker = Waker::new().expect("there are descriptors");
    let mut driver = make(waker.clone(), LIMITS);
    let mut group = criterion.benchmark_group("driver_turn/wake");
    group.bench_function(engine, |bencher| {
        bencher.iter(|| {
            waker.wake();
            turn(&mut driver, guard());
            assert!(driver.next().is_none(), "nobody asked for anything");
        });
    });
}

fn echo<D: Driver>(engine: &str, make: fn(Waker, Limits) -> D, criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("driver_turn/echo_64");
    for clients in CROWDS {
        let mut crowd = Crowd::new(make, clients);
        group.throughput(Throughput::Elements(clients as u64));
        group.bench_function(BenchmarkId::new(engine, clients), |bencher| {
            bencher.iter(|| crowd.echo());
        });
    }
}

/// The floor: the same four system calls of the two peers, without a driver between them.
fn system_calls(criterion: &mut Criterion) {
    let (client, server) = UnixStream::pair().expect("there are descriptors");
    let mut room = [0; MESSAGE.len()];
    let mut group = criterion.benchmark_group("driver_turn/echo_64");
    group.throughput(Throughput::Elements(1));
    group.bench_function("system_calls", |bencher| {
        bencher.iter(|| {
            (&client).write_all(&MESSAGE).expect("there is room");
            (&server).read_exact(&mut room).expect("it was written");
            (&server).write_all(&room).expect("there is room");
            (&client).read_exact(&mut room).expect("it was written");
        });
    });
}

/// Clients whose every message the driver is to send back.
struct Crowd<D: Driver> {
    driver: D,
    clients: Vec<UnixStream>,
    _door: Door,
}

impl<D: Driver> Crowd<D> {
    fn new(make: fn(Waker, Limits) -> D, clients: usize) -> Self {
        let mut driver = make(Waker::new().expect("there are descriptors"), LIMITS);
        let door = Door::open(&mut driver);
        let connect = |_| {
            let (client, accepted) = door.connect(&mut driver);
            driver.submit(accepted, Op::Recv);
            client
        };
        Self {
            clients: (0..clients).map(connect).collect(),
            driver,
            _door: door,
        }
    }

    /// Everybody sends a message and has it back.
    fn echo(&mut self) {
        let until = guard();
        for mut client in &self.clients {
            client.write_all(&MESSAGE).expect("there is room");
        }
        let mut echoed = 0;
        while echoed < self.clients.len() {
            turn(&mut self.driver, until);
            while let Some(Completion { sock, done, .. }) = self.driver.next() {
                echoed += usize::from(self.answer(sock, done));
            }
        }
        let mut room = [0; MESSAGE.len()];
        for mut client in &self.clients {
            client.read_exact(&mut room).expect("it was sent");
            assert_eq!(room, MESSAGE);
        }
    }

    /// Whether an echo is complete.
    fn answer(&mut self, sock: Sock, done: Done) -> bool {
        match done {
            Done::Received(buf) => self.driver.submit(sock, Op::Send(buf)),
            Done::Sent => {
                self.driver.submit(sock, Op::Recv);
                return true;
            }
            done => panic!("neither was asked for: {done:?}"),
        }
        false
    }
}
