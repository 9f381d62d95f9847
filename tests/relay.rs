//! Bytes arrive: all of them, once, in order, whatever their number and the pace of either side.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use common::client::{assert_eof, exchange, exchange_and_end, receive_exact, send};
use common::uninterrupted;
use common::{Backend, Engine, KB, MB, Pattern, Proxy, for_each_engine};

for_each_engine!(
    echo_returns_every_size_intact,
    bulk_from_backend_arrives_intact,
    bulk_to_backend_arrives_intact,
    bulk_in_both_directions_at_once_arrives_intact,
    tiny_segments_from_backend_reach_a_slow_reader,
    tiny_segments_after_bulk_reach_a_slow_reader,
    tiny_writes_from_client_reach_a_slow_backend,
    a_slow_writer_is_answered_byte_by_byte,
    small_exchanges_and_bulk_alternate_on_one_session,
    backend_may_speak_first,
    two_hundred_sessions_of_mixed_sizes_run_at_once,
    slow_readers_do_not_hold_up_other_sessions,
);

/// 1 byte, the neighbours of powers of two that buffers and pipes have, and bulk.
const SIZES: [u64; 12] = [
    1,
    2,
    4 * KB - 1,
    4 * KB,
    4 * KB + 1,
    16 * KB + 1,
    64 * KB - 1,
    64 * KB,
    64 * KB + 1,
    256 * KB + 1,
    MB,
    64 * MB,
];

#[test]
fn the_pattern_shows_loss_duplication_swaps_and_foreign_bytes() {
    let pattern = Pattern::new(1);
    let right = pattern.bytes(4 * KB);
    assert_eq!(pattern.mismatch(0, &right), None);
    assert_eq!(pattern.mismatch(9, &right[9..100]), None);

    let mut lost = right.clone();
    lost.remove(1000);
    let mut doubled = right.clone();
    doubled.insert(1000, doubled[999]);
    let mut swapped = right.clone();
    swapped[1000..3000].rotate_left(1000);
    let foreign = Pattern::new(2).bytes(4 * KB);
    for wrong in [lost, doubled, swapped, foreign] {
        assert!(pattern.mismatch(0, &wrong).is_some());
    }
}

fn echo_returns_every_size_intact(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::start(engine, &backend);
    for size in SIZES {
        exchange_and_end(&proxy.connect(), Pattern::new(size), size);
    }
}

fn bulk_from_backend_arrives_intact(engine: Engine) {
    let pattern = Pattern::new(3);
    let backend = Backend::source(pattern, 64 * MB);
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    pattern.receive(&mut &client, 64 * MB).unwrap();
    assert_eof(&client);
}

fn bulk_to_backend_arrives_intact(engine: Engine) {
    let pattern = Pattern::new(4);
    let backend = Backend::scripted(move |conversation| {
        conversation.receive_pattern(pattern, 64 * MB)?;
        let rest = conversation.receive()?.len();
        conversation.send(if rest == 0 {
            b"all, and the end"
        } else {
            b"too much"
        })
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    pattern.send(&mut &client, 64 * MB).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive_exact(&client, 16), b"all, and the end");
    assert_eof(&client);
}

fn bulk_in_both_directions_at_once_arrives_intact(engine: Engine) {
    let (up, down) = (Pattern::new(5), Pattern::new(6));
    let backend = Backend::scripted(move |conversation| {
        conversation.send_pattern(down, 0, MB)?;
        conversation.receive_pattern(up, MB)?;
        conversation.send_pattern(down, MB, 15 * MB)?;
        conversation.half_close()?;
        conversation.discard_until_eof()
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            up.send(&mut &client, 16 * MB).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        down.receive(&mut &client, 16 * MB)
    });
    received.unwrap();
    assert_eof(&client);
    assert_eq!(backend.wait_for_end(0).ending, common::Ending::Eof);
    assert_eq!(backend.ledger().received, 16 * MB);
}

/// Each segment takes a slot of its own in a pipe or a queue, however small it is.
fn tiny_segments_from_backend_reach_a_slow_reader(engine: Engine) {
    slow_reader_receives_tiny_segments(engine, 0);
}

/// The bulk in front has the flow promoted, so that the small segments meet a pipe.
fn tiny_segments_after_bulk_reach_a_slow_reader(engine: Engine) {
    slow_reader_receives_tiny_segments(engine, 8 * MB);
}

fn slow_reader_receives_tiny_segments(engine: Engine, bulk: u64) {
    const SEGMENTS: u64 = 4000;
    let pattern = Pattern::new(7);
    let total = bulk + segments_end(SEGMENTS);
    let backend = Backend::scripted(move |conversation| {
        conversation.send_pattern(pattern, 0, bulk)?;
        for segment in 0..SEGMENTS {
            let start = segments_end(segment);
            conversation.send_pattern(pattern, bulk + start, segments_end(segment + 1) - start)?;
        }
        conversation.half_close()?;
        conversation.discard_until_eof()
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    // Slow: not one byte before everything that fits has piled up, and small bites then.
    backend.wait_until("its segments pile up", |ledger| {
        ledger.sent >= total.min(MB)
    });
    receive_in_bites(&client, pattern, total, if bulk == 0 { 3 } else { 777 });
    assert_eof(&client);
}

/// Where the segment of this number begins: sizes go round from 1 to 7.
fn segments_end(number: u64) -> u64 {
    number / 7 * 28 + (number % 7) * (number % 7 + 1) / 2
}

fn receive_in_bites(mut client: &UnixStream, pattern: Pattern, total: u64, bite: usize) {
    let mut buffer = vec![0; bite];
    let mut received = 0;
    while received < total {
        let count = uninterrupted(|| client.read(&mut buffer)).unwrap();
        assert_ne!(count, 0, "the end after {received} of {total} bytes");
        assert_eq!(pattern.mismatch(received, &buffer[..count]), None);
        received += count as u64;
    }
}

/// AF_UNIX keeps every write apart: 20,000 one-byte writes behind a bulk that promotes the flow.
fn tiny_writes_from_client_reach_a_slow_backend(engine: Engine) {
    const TINY: u64 = 20_000;
    let pattern = Pattern::new(8);
    let backend = Backend::scripted(move |conversation| {
        conversation.wait_for_release()?;
        conversation.receive_pattern(pattern, 8 * MB + TINY)?;
        conversation.send(b"all")
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    thread::scope(|scope| {
        scope.spawn(|| {
            // As much as the sockets between the client and the backend hold; the rest has to wait.
            pattern.send(&mut &client, 8 * MB).unwrap();
            for position in 8 * MB..8 * MB + TINY {
                pattern.send_range(&mut &client, position, 1).unwrap();
            }
        });
        backend.wait_until("the connection", |ledger| ledger.accepted == 1);
        backend.release(1);
        assert_eq!(receive_exact(&client, 3), b"all");
    });
}

fn a_slow_writer_is_answered_byte_by_byte(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    let bytes = Pattern::new(9).bytes(3000);
    for byte in bytes {
        send(&client, &[byte]);
        assert_eq!(receive_exact(&client, 1), [byte]);
    }
}

/// Promotion and demotion, again and again, in both directions.
fn small_exchanges_and_bulk_alternate_on_one_session(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    for round in 0..20 {
        exchange(&client, Pattern::new(round), 1 + round);
        exchange(&client, Pattern::new(100 + round), 2 * MB + round);
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eof(&client);
}

fn backend_may_speak_first(engine: Engine) {
    let backend = Backend::banner(b"220 welcome\r\n");
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    assert_eq!(receive_exact(&client, 13), b"220 welcome\r\n");
    exchange_and_end(&client, Pattern::new(10), KB);
}

fn two_hundred_sessions_of_mixed_sizes_run_at_once(engine: Engine) {
    const SESSIONS: u64 = 200;
    let backend = Backend::echo();
    let proxy = Proxy::start(engine, &backend);
    let clients: Vec<_> = (0..SESSIONS).map(|_| proxy.connect()).collect();
    backend.wait_until("all sessions", |ledger| ledger.open == clients.len());
    thread::scope(|scope| {
        for (number, client) in (0..).zip(&clients) {
            // From 1 byte to 2 MB, neighbours far apart.
            let size = 1 << (number % 22);
            scope.spawn(move || exchange_and_end(client, Pattern::new(1000 + number), size));
        }
    });
}

fn slow_readers_do_not_hold_up_other_sessions(engine: Engine) {
    const SLOW: usize = 48;
    const STALLED_AT: u64 = 256 * KB;
    let slow_backend = Backend::seeded_source(12 * MB);
    let proxy = Proxy::start(engine, &slow_backend);
    let slow: Vec<_> = (0..SLOW as u64)
        .map(|seed| (seed, proxy.connect()))
        .collect();
    for (seed, client) in &slow {
        send(client, &seed.to_le_bytes());
    }
    // Every one of them is in the middle of its bulk, and nobody reads.
    for (seed, client) in &slow {
        Pattern::new(*seed)
            .receive(&mut &*client, STALLED_AT)
            .unwrap();
    }
    for seed in 100..108 {
        let mut client = proxy.connect();
        client.write_all(&u64::to_le_bytes(seed)).unwrap();
        Pattern::new(seed).receive(&mut client, 12 * MB).unwrap();
        assert_eof(&client);
    }
    // Side by side: one after the other, the last ones of a slow machine would be stalled for longer than a
    // backend waits.
    thread::scope(|scope| {
        for (seed, client) in &slow {
            scope.spawn(|| {
                let rest = 12 * MB - STALLED_AT;
                Pattern::new(*seed)
                    .receive_range(&mut &*client, STALLED_AT, rest)
                    .unwrap();
                assert_eof(client);
            });
        }
    });
}
