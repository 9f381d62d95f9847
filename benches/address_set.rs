//! The published address set, read as the data path reads it: once for each session, by every
//! worker, while nobody writes.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::SystemTime;

use criterion::{BenchmarkId, Criterion};
use spliceway::backend::{ADDRESSES_MAX, Published, RoundRobin};

/// Endpoints in a set: the usual one, a service's, and the most that there can be.
const SIZES: [usize; 3] = [1, 16, ADDRESSES_MAX];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    read(&mut criterion);
    pick(&mut criterion);
    criterion.final_summary();
}

fn published(endpoints: usize) -> Published {
    let published = Published::new(|| {});
    let ports = 1..=u16::try_from(endpoints).expect("at most ADDRESSES_MAX");
    let endpoint = |port| SocketAddr::from(([192, 0, 2, 1], port));
    published.publish(ports.map(endpoint), SystemTime::UNIX_EPOCH);
    published
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("address_set/read");
    let published = published(1);
    // A short look.
    group.bench_function("load", |bencher| {
        bencher.iter(|| black_box(published.load()).version());
    });
    // What a session does: it keeps its set until it is connected.
    group.bench_function("load_full", |bencher| {
        bencher.iter(|| black_box(published.load_full()).version());
    });
    // The count of a set's users is the one thing here that readers write: another worker on another
    // core does nothing else meanwhile. Real ones do it once for each session.
    group.bench_function("load_full_contended", |bencher| {
        beside_another_reader(&published, || {
            bencher.iter(|| black_box(published.load_full()).version());
        });
    });
}

fn beside_another_reader(published: &Published, measure: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                drop(black_box(published.load_full()));
            }
        });
        measure();
        stop.store(true, Ordering::Relaxed);
    });
}

/// The read and the choice of an endpoint.
fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("address_set/pick");
    for size in SIZES {
        let published = Arc::new(published(size));
        let mut turns = RoundRobin::new(0);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let endpoint = turns.start(published.load_full()).next_endpoint();
                endpoint.expect("the set is not empty")
            });
        });
    }
}
