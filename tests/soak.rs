//! Random mixed load for a while: everything that clients and backends do, all at once. Every byte
//! is checked, and when all have left the program holds what it held before.
//!
//! `SPLICEWAY_SOAK_SECONDS` says for how long (120 is the reference), `SPLICEWAY_SEED` what is drawn.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use common::client::{assert_eof, exchange, exchange_and_end, receive_exact, send};
use common::process::Holdings;
use common::random::{from_environment, seed};
use common::wait::{meanwhile, pause};
use common::{
    Backend, Conversation, Ending, Engine, KB, MB, Pattern, Proxy, Random, eventually,
    for_each_engine,
};

for_each_engine!(mixed_load_leaves_nothing_behind);

/// How long a test run can afford. Both engines run at the same time.
const SECONDS: u64 = 12;

/// The share of the time in which the program's pools, tables and its allocator get as large as this
/// load makes them.
const WARM_UP_SHARE: u32 = 3;

const CLIENTS: u64 = 16;

/// What the pool may keep: two ends of 128 pipes.
const POOLED_PIPES_MAX: usize = 2 * 128;

/// Memory that may have come since the warm-up, whatever the length of the run: a buffer of 16 KiB
/// in each direction of each client for a coincidence of all that the warm-up had not seen (512 KiB),
/// and the same again for tables and for what the allocator keeps. A leak of 200 bytes in each session
/// exceeds it in a short run, and one of a buffer in 500 sessions within the reference time.
const MEMORY_GROWTH_KB_MAX: u64 = 1024;

fn mixed_load_leaves_nothing_behind(engine: Engine) {
    let seconds = from_environment("SPLICEWAY_SOAK_SECONDS", SECONDS);
    let seed = seed();
    // Shown only if the test fails.
    println!(
        "To replay it: SPLICEWAY_SEED={seed} SPLICEWAY_SOAK_SECONDS={seconds} \
         cargo test --test soak -- mixed_load_leaves_nothing_behind::{engine}"
    );
    let length = Duration::from_secs(seconds);
    let warm_up = length / WARM_UP_SHARE;
    let backend = Backend::scripted(serve);
    let proxy = Proxy::start(engine, &backend);
    proxy.process().assert_comes_to_rest();
    let fresh = proxy.process().holdings();

    load(&proxy, seed, warm_up);
    let warm = holdings_after(&proxy, &backend, fresh);
    load(&proxy, seed + CLIENTS, length - warm_up);
    let last = holdings_after(&proxy, &backend, fresh);

    let sessions = backend.ledger().accepted;
    println!("{sessions} sessions\nfresh {fresh:?}\nwarm  {warm:?}\nlast  {last:?}");
    assert!(last.pipes <= fresh.pipes + POOLED_PIPES_MAX);
    assert!(last.memory_kb <= warm.memory_kb + MEMORY_GROWTH_KB_MAX);
    let threads = warm.threads;
    eventually("no thread is left over", || {
        proxy.process().threads() <= threads
    });
}

/// What the program holds once every session is over, which must be seen in the number of its
/// descriptors, and that no backend has met a wrong byte.
fn holdings_after(proxy: &Proxy, backend: &Backend, fresh: Holdings) -> Holdings {
    backend.wait_until("every session is over", |ledger| ledger.open == 0);
    eventually("both sides of every session are closed", || {
        proxy.process().holdings().descriptors_beside_pipes == fresh.descriptors_beside_pipes
    });
    proxy.process().assert_comes_to_rest();
    for seen in &backend.ledger().seen {
        assert!(!matches!(seen.ending, Ending::Failed(_)), "{seen:?}");
    }
    proxy.process().holdings()
}

fn load(proxy: &Proxy, seed: u64, length: Duration) {
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                let mut random = Random::new(seed + number);
                meanwhile(length, || visit(proxy, &mut random));
            });
        }
    });
}

/// What a client asks of the backend, as the first bytes of its session.
#[derive(Clone, Copy)]
struct Order {
    service: Service,
    pattern: u64,
    size: u64,
}

#[derive(Clone, Copy)]
enum Service {
    Echo,
    /// Sends the pattern and half-closes.
    Source,
    /// Takes the pattern and the end, and says so.
    Sink,
    /// Sends the pattern and resets at once.
    Reset,
}

const RECEIPT: &[u8] = b"received";

impl Order {
    const BYTES: usize = 17;

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![self.service as u8];
        bytes.extend(self.pattern.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let number = |at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let services = [
            Service::Echo,
            Service::Source,
            Service::Sink,
            Service::Reset,
        ];
        Self {
            service: services[usize::from(bytes[0])],
            pattern: number(1),
            size: number(9),
        }
    }
}

fn serve(conversation: &mut Conversation) -> std::io::Result<()> {
    let order = Order::from_bytes(&conversation.receive_exact(Order::BYTES)?);
    let pattern = Pattern::new(order.pattern);
    match order.service {
        Service::Echo => conversation.echo(),
        Service::Source => {
            conversation.send_pattern(pattern, 0, order.size)?;
            conversation.half_close()?;
            conversation.discard_until_eof()
        }
        Service::Sink => {
            conversation.receive_pattern(pattern, order.size)?;
            assert!(conversation.receive()?.is_empty(), "more than was sent");
            conversation.send(RECEIPT)
        }
        Service::Reset => {
            conversation.send_pattern(pattern, 0, order.size)?;
            conversation.reset_on_close()
        }
    }
}

/// One session, from connect to close.
fn visit(proxy: &Proxy, random: &mut Random) {
    let client = &proxy.connect();
    let seed = random.number();
    let pattern = Pattern::new(seed);
    let order = |service, size| {
        let order = Order {
            service,
            pattern: seed,
            size,
        };
        send(client, &order.to_bytes());
    };
    match random.within(0..=11) {
        0..=2 => {
            order(Service::Echo, 0);
            exchange_and_end(client, pattern, random.size(64 * KB));
        }
        3 => {
            order(Service::Echo, 0);
            chat(client, random);
        }
        4 => {
            order(Service::Echo, 0);
            exchange_and_end(client, pattern, random.size(4 * MB));
        }
        5 => {
            let size = random.size(4 * MB);
            order(Service::Source, size);
            client.shutdown(Shutdown::Write).unwrap();
            pattern.receive(&mut &*client, size).unwrap();
            assert_eof(client);
        }
        6 => {
            let size = random.size(4 * MB);
            order(Service::Sink, size);
            pattern.send(&mut &*client, size).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(receive_exact(client, RECEIPT.len()), RECEIPT);
            assert_eof(client);
        }
        7 => {
            let size = random.size(MB);
            order(Service::Source, size);
            read_slowly(client, pattern, size);
        }
        // An abort in the middle.
        8 => {
            let size = random.size(4 * MB);
            order(Service::Source, size);
            let part = random.within(1..=size);
            pattern.receive(&mut &*client, part).unwrap();
        }
        // Writes and leaves.
        9 => {
            order(Service::Echo, 0);
            pattern.send(&mut &*client, random.size(100 * KB)).unwrap();
        }
        10 => {
            let size = random.size(MB);
            order(Service::Reset, size);
            assert!(pattern.receive_prefix(&mut &*client, 0) <= size);
        }
        // Leaves without a word.
        _ => {}
    }
}

/// Small exchanges with pauses between them.
fn chat(client: &UnixStream, random: &mut Random) {
    for _ in 0..random.within(1..=20) {
        exchange(client, Pattern::new(random.number()), random.size(4 * KB));
        pause(Duration::from_millis(random.within(0..=10)));
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eof(client);
}

/// In bites with pauses between them, so that everything on the way fills up.
fn read_slowly(mut client: &UnixStream, pattern: Pattern, size: u64) {
    const BITE: u64 = 64 * KB;
    for start in (0..size).step_by(usize::try_from(BITE).unwrap()) {
        pause(Duration::from_millis(1));
        let bite = BITE.min(size - start);
        pattern.receive_range(&mut client, start, bite).unwrap();
    }
    assert_eof(client);
}
