//! The table of a driver's sockets: every op and every completion looks its socket up here.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use spliceway::driver::Sock;
use spliceway::driver::bench_support::Table;

/// As large as what a driver keeps of a socket, more or less.
type Entry = [u64; 12];

/// Open sockets: a few in the cache, and those of 4,000 sessions.
const POPULATIONS: [usize; 2] = [16, 8000];

/// A prime: steps of this length visit every slot, and no two neighbours in a row.
const STRIDE: usize = 1117;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    get(&mut criterion);
    insert_and_remove(&mut criterion);
    criterion.final_summary();
}

fn table(sockets: usize) -> (Table<Entry>, Vec<Sock>) {
    let mut table = Table::default();
    let socks = (0..sockets).map(|_| table.insert([1; 12])).collect();
    (table, socks)
}

/// All sockets once, in an order that no prefetcher guesses.
fn get(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("slot_table/get");
    for sockets in POPULATIONS {
        let (mut table, socks) = table(sockets);
        let order: Vec<_> = (0..sockets).map(|i| socks[i * STRIDE % sockets]).collect();
        group.throughput(Throughput::Elements(sockets as u64));
        group.bench_function(BenchmarkId::from_parameter(sockets), |bencher| {
            bencher.iter(|| {
                for &sock in black_box(&order) {
                    table.get(sock)[0] += 1;
                }
            });
        });
    }
}

/// One session's socket comes and goes while others stay.
fn insert_and_remove(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("slot_table/insert_and_remove");
    for sockets in POPULATIONS {
        let (mut table, _socks) = table(sockets);
        group.bench_function(BenchmarkId::from_parameter(sockets), |bencher| {
            bencher.iter(|| {
                let sock = table.insert(black_box([2; 12]));
                assert_eq!(table.remove(sock)[0], 2);
            });
        });
    }
}
