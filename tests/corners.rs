//! Corner cases that only a close look finds, each of them once a defect.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use common::client::{exchange, receive_exact, send};
use common::proxy::{connect_abstract, fresh_abstract_name};
use common::sys::{send_with_descriptor, set_soft_nofile};
use common::uninterrupted;
use common::wait::pause;
use common::{Backend, Engine, KB, MB, Pattern, Proxy, eventually, for_each_engine};

for_each_engine!(
    a_drain_without_descriptors_does_not_spin,
    unused_workers_give_their_spare_descriptors_back,
    a_client_that_leaves_after_its_half_close_gives_its_place_back,
    a_draining_abstract_listener_refuses_newcomers,
    urgent_data_does_not_stall_a_transfer,
    bytes_behind_passed_descriptors_are_not_left_lying,
    a_slow_reader_is_not_idle,
);

fn a_drain_without_descriptors_does_not_spin(engine: Engine) {
    // Depending on the parity the last descriptor goes to a client or to a spare socket.
    for extra in 0..2 {
        let backend = Backend::echo();
        let proxy = Proxy::builder()
            .engine(engine)
            .backend(&backend)
            .args(["--workers", "1", "--drain-timeout", "off"])
            .start();
        let early: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
        for client in &early {
            exchange(client, Pattern::new(1), KB);
        }
        let limit = proxy.process().lowest_free_descriptor() + extra;
        set_soft_nofile(proxy.process().pid(), limit).unwrap();
        let late: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
        proxy.process().assert_comes_to_rest();
        proxy.terminate();
        eventually("it drains", || !proxy.socket().exists());
        // One look, not `assert_comes_to_rest`: a spin would burn a processor for all of its guard.
        pause(Duration::from_millis(300));
        let before = proxy.process().cpu_ticks();
        pause(Duration::from_secs(1));
        let burnt = proxy.process().cpu_ticks() - before;
        assert!(
            burnt < 30,
            "{burnt} ticks of 10 ms in one second, {extra} extra"
        );
        drop((early, late));
    }
}

/// Each worker holds a socket for the next client. When these are the last descriptors, no worker
/// can accept, and none lets go.
fn unused_workers_give_their_spare_descriptors_back(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "4"])
        .start();
    proxy.process().assert_comes_to_rest();
    let limit = proxy.process().lowest_free_descriptor();
    set_soft_nofile(proxy.process().pid(), limit).unwrap();
    exchange(&proxy.connect(), Pattern::new(1), KB);
}

fn a_client_that_leaves_after_its_half_close_gives_its_place_back(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.discard_until_eof()?;
        conversation.send(b"!")?;
        conversation.wait_for_release()
    });
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--connections-max", "1"])
        .start();
    let client = proxy.connect();
    client.shutdown(Shutdown::Write).unwrap();
    // The half-close has reached the backend, so the proxy has looked at it.
    receive_exact(&client, 1);
    drop(client);
    let _next = proxy.connect();
    backend.wait_until("the next client", |ledger| ledger.accepted == 2);
}

fn a_draining_abstract_listener_refuses_newcomers(engine: Engine) {
    let name = fresh_abstract_name();
    let backend = Backend::hold();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .listen(format!("unix:@{name}"))
        .args(["--workers", "1", "--connections-max", "1"])
        .args(["--drain-timeout", "off"])
        .start();
    let _running = connect_abstract(&name).unwrap();
    backend.wait_until("the session", |ledger| ledger.open == 1);
    proxy.terminate();
    proxy.process().wait_for_log("draining");
    proxy.process().assert_comes_to_rest();
    let newcomer = connect_abstract(&name);
    assert!(
        newcomer.is_err(),
        "it waits in a backlog that nobody closes"
    );
}

fn urgent_data_does_not_stall_a_transfer(engine: Engine) {
    let pattern = Pattern::new(5);
    let backend = Backend::scripted(move |conversation| {
        conversation.send_pattern(pattern, 0, MB)?;
        conversation.send_urgent()?;
        conversation.send(b"tail")?;
        conversation.keep_until_eof()
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    backend.wait_until("everything is on its way", |ledger| ledger.sent == MB + 4);
    pattern.receive(&mut &client, MB).unwrap();
    assert_eq!(receive_exact(&client, 4), b"tail");
}

/// A receive stops at the message that carried a descriptor, although more has come.
fn bytes_behind_passed_descriptors_are_not_left_lying(engine: Engine) {
    let pattern = Pattern::new(2);
    // Silent until everything has come: whatever it sends wakes the proxy.
    let backend = Backend::scripted(move |conversation| {
        conversation.receive_pattern(pattern, KB)?;
        conversation.send(b"!")
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    backend.wait_until("the session", |ledger| ledger.open == 1);
    proxy.process().assert_comes_to_rest();
    let bytes = pattern.bytes(KB);
    let (first, rest) = bytes.split_at(100);
    let (second, third) = rest.split_at(100);
    // Everything is there before the proxy looks, so that nothing announces the rest anew.
    proxy.process().signal(libc::SIGSTOP);
    eventually("it is stopped", || proxy.process().is_stopped());
    for part in [first, second] {
        // Where the kernel refuses passed descriptors, there is nothing to be surprised by.
        if send_with_descriptor(&client, part).is_err() {
            send(&client, part);
        }
    }
    send(&client, third);
    proxy.process().signal(libc::SIGCONT);
    assert_eq!(receive_exact(&client, 1), b"!");
}

/// Some kilobytes are read all the time, but a socket reports room only when most of its buffer is
/// free, which takes longer than the timeout here.
fn a_slow_reader_is_not_idle(engine: Engine) {
    let backend = Backend::seeded_source(2 * MB);
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--idle-timeout", "1s"])
        .start();
    let client = proxy.connect();
    send(&client, &7u64.to_le_bytes());
    let started = Instant::now();
    let mut bytes = [0; 5 * 1024];
    while started.elapsed() < Duration::from_secs(6) {
        let count = uninterrupted(|| (&client).read(&mut bytes)).unwrap();
        assert!(count > 0, "cut after {:?}", started.elapsed());
        pause(Duration::from_millis(50));
    }
    // What the kernel holds can still be read after a cut: the backend's view tells.
    let seen = &backend.ledger().seen;
    assert!(seen.is_empty(), "cut: {:?}", seen[0].ending);
}
