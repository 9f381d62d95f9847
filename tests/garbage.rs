//! Clients that send nonsense, leave in the middle, or come in floods disturb nobody else and leave
//! nothing behind.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::client::{exchange, send};
use common::wait::SetOnDrop;
use common::{Backend, Engine, KB, MB, Pattern, Proxy, eventually, for_each_engine};

for_each_engine!(
    rude_clients_disturb_no_other_session_and_leave_nothing_behind,
    backends_that_reset_disturb_no_other_session_and_leave_nothing_behind,
    a_flood_of_connects_disturbs_no_other_session,
    truncated_fastcgi_is_passed_on_as_it_is,
);

const RUDE_CLIENTS: u64 = 400;

fn rude_clients_disturb_no_other_session_and_leave_nothing_behind(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::start(engine, &backend);
    while_a_steady_session_runs(&proxy, || {
        for number in 0..RUDE_CLIENTS {
            be_rude(&proxy, number);
        }
    });
}

/// Four ways to leave.
fn be_rude(proxy: &Proxy, number: u64) {
    let client = proxy.connect();
    let garbage = Pattern::new(number).bytes(1 + number * 97 % (100 * KB));
    match number % 4 {
        // With everything sent and nothing read: an abort as soon as an answer has arrived.
        0 => send(&client, &garbage),
        // Without a word.
        1 => {}
        // In the middle of a bulk, in both directions.
        2 => {
            client.set_nonblocking(true).unwrap();
            while (&client).write(&garbage).is_ok() {}
        }
        // After a half-close, without waiting for the answer.
        _ => {
            send(&client, &garbage);
            client.shutdown(Shutdown::Write).unwrap();
        }
    }
}

fn backends_that_reset_disturb_no_other_session_and_leave_nothing_behind(engine: Engine) {
    let backend = Backend::scripted(|conversation| match conversation.receive_exact(1)?[0] {
        b'r' => conversation.reset_on_close(),
        b'm' => {
            conversation.send_pattern(Pattern::new(1), 0, MB)?;
            conversation.reset_on_close()
        }
        _ => {
            conversation.send(b"e")?;
            conversation.echo()
        }
    });
    let proxy = Proxy::start(engine, &backend);
    while_a_steady_session_runs(&proxy, || {
        for number in 0..RUDE_CLIENTS {
            let client = proxy.connect();
            send(&client, if number % 2 == 0 { b"r" } else { b"m" });
            Pattern::new(1).receive_prefix(&mut &client, 0);
        }
    });
}

fn a_flood_of_connects_disturbs_no_other_session(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::start(engine, &backend);
    while_a_steady_session_runs(&proxy, || {
        for _ in 0..5 {
            let flood: Vec<_> = (0..600).map(|_| proxy.connect()).collect();
            drop(flood);
        }
    });
}

/// Raw mode looks into nothing: half a record is half a record at the backend, and its end the end.
fn truncated_fastcgi_is_passed_on_as_it_is(engine: Engine) {
    const BEGIN_REQUEST: [u8; 16] = [1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let backend = Backend::sink();
    let proxy = Proxy::start(engine, &backend);
    for length in 0..BEGIN_REQUEST.len() {
        let client = proxy.connect();
        send(&client, &BEGIN_REQUEST[..length]);
        drop(client);
        assert_eq!(
            backend.wait_for_end(length).received,
            BEGIN_REQUEST[..length]
        );
    }
}

/// Runs `trouble` beside a session that must not notice, and counts the descriptors afterwards.
fn while_a_steady_session_runs(proxy: &Proxy, trouble: impl FnOnce()) {
    let steady = proxy.connect();
    send(&steady, b"e");
    assert_eq!(common::client::receive_exact(&steady, 1), b"e");
    // With a first bulk, the pipes that the proxy keeps are there and count from the start.
    exchange(&steady, Pattern::new(0), 4 * MB);
    proxy.process().assert_comes_to_rest();
    let descriptors = proxy.process().open_descriptors();

    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !over.load(Ordering::Acquire) || round < 3 {
                exchange(&steady, Pattern::new(round), 32 * KB + round);
                round += 1;
            }
        });
        let _end_the_steady_session = SetOnDrop(&over);
        trouble();
    });
    eventually("what the others had is closed", || {
        proxy.process().open_descriptors() <= descriptors + POOLED_MAX
    });
    exchange(&steady, Pattern::new(1), MB);
}

/// Descriptors that a proxy may keep for later use: the pipes of a few bulk flows. Far fewer than
/// one for each rude client.
const POOLED_MAX: usize = 64;
