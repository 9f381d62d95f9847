//! The published address set, read as the data path reads it: once for each session, by every
//! worker, while nobody writes.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Instant, SystemTime};

use clap::ValueEnum as _;
use criterion::{BenchmarkId, Criterion};
use spliceway::backend::{
    ADDRESSES_MAX, Balancer, Choice, ClassId, Moment, Published, Tried, Want,
};
use spliceway::config::Balance;

/// Endpoints in a set: the usual one, a service's, many, and the most that there can be.
const SIZES: [usize; 4] = [1, 16, 1000, ADDRESSES_MAX];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    read(&mut criterion);
    choose(&mut criterion);
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
    // What a session does: it asks whether its worker still has the current set.
    group.bench_function("version", |bencher| {
        bencher.iter(|| black_box(&published).version());
    });
    // A short look.
    group.bench_function("load", |bencher| {
        bencher.iter(|| black_box(published.load()).version());
    });
    // What a worker does after a swap: it keeps the set.
    group.bench_function("load_full", |bencher| {
        bencher.iter(|| black_box(published.load_full()).version());
    });
    // Another worker on another core does nothing else meanwhile, and keeps sets, which changes the
    // count of a set's users.
    group.bench_function("version_contended", |bencher| {
        beside_another_reader(&published, || {
            bencher.iter(|| black_box(&published).version());
        });
    });
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

/// The choice of an endpoint, with the read before it, for a session that ends at once.
fn choose(criterion: &mut Criterion) {
    for policy in Balance::value_variants() {
        let name = policy.to_possible_value().expect("none is hidden");
        let group = format!("address_set/choose/{}", name.get_name());
        let mut group = criterion.benchmark_group(group);
        for size in SIZES {
            let published = published(size);
            let mut balancer = Balancer::new(*policy, 0);
            let now = Moment::new(ClassId::DEFAULT, Instant::now());
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                bencher.iter(|| {
                    let mut tried = Tried::default();
                    match balancer.choose(&published, &mut tried, Want::Any, now) {
                        Choice::Chosen(lease) => lease.address(),
                        Choice::Resting(_) | Choice::Full | Choice::Exhausted => {
                            unreachable!("the set is not empty, and nothing rests")
                        }
                    }
                });
            });
        }
    }
}
