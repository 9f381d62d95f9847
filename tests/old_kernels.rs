//! What is safe only from some kernel on is left where uname(2) tells of an older one. Before Linux 6.5,
//! splice(2) into a Unix socket waits for a reader that takes a page fault: into those everything is copied, and
//! nothing else is different.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use common::activation::{Activation, SPLICEWAY, connect_tcp, tcp_listener};
use common::client::{assert_eof, exchange_and_end, receive_exact, send};
use common::fastcgi::{Client, Heard, Request, page};
use common::http::get_unix;
use common::proxy::{Builder, COPIES_INTO_UNIX, fresh_dir};
use common::sys::wait_for_bytes;
use common::wait::pause;
use common::{Backend, Ending, Engine, MB, Pattern, Proxy, eventually, for_each_engine};

for_each_engine!(
    bytes_for_unix_clients_are_copied_and_their_own_are_spliced,
    bytes_for_unix_backends_are_copied,
    bytes_between_tcp_sockets_are_spliced,
    large_records_for_unix_clients_are_copied,
    an_end_is_told_behind_what_was_copied,
    a_client_that_takes_its_time_is_not_idle,
    a_transfer_goes_on_to_its_end_in_a_drain,
    a_client_that_leaves_in_bulk_resets_the_backend,
    a_kernel_that_is_new_enough_is_seen,
);

/// Has uname(2) tell of a kernel 2.6.
const ON_AN_OLD_KERNEL: [&str; 2] = ["setarch", "--uname-2.6"];

fn builder(engine: Engine) -> Builder {
    let builder = Proxy::builder().engine(engine).observed();
    builder.args(["--workers", "1"]).through(ON_AN_OLD_KERNEL)
}

/// Bytes in one direction that went one of both ways.
fn relayed(status: &serde_json::Value, direction: &str, way: &str) -> u64 {
    let bytes = &status["routes"][0][direction][way];
    bytes
        .as_u64()
        .unwrap_or_else(|| panic!("{direction}, {way}: {status}"))
}

#[track_caller]
fn assert_copied(proxy: &Proxy, direction: &str, bytes: u64) {
    let of = |way| relayed(&proxy.status(), direction, way);
    eventually("all is counted", || of("copied_bytes") == bytes);
    assert_eq!(of("spliced_bytes"), 0, "{direction}");
    // No pipe was missed: none was wanted.
    assert_eq!((of("promotions"), of("fallbacks")), (0, 0), "{direction}");
}

#[track_caller]
fn assert_says_so_once(proxy: &Proxy) {
    let log = proxy.process().log();
    assert_eq!(log.count(COPIES_INTO_UNIX), 1, "{:?}", log.lines());
}

fn bytes_for_unix_clients_are_copied_and_their_own_are_spliced(engine: Engine) {
    let backend = Backend::echo();
    let proxy = builder(engine).backend(&backend).start();
    for seed in 0..4 {
        exchange_and_end(&proxy.connect(), Pattern::new(seed), 3 * MB);
    }
    assert_copied(&proxy, "to_client", 4 * 3 * MB);
    let spliced = relayed(&proxy.status(), "to_backend", "spliced_bytes");
    assert!(spliced > 6 * MB, "{spliced} bytes");
    assert_says_so_once(&proxy);
}

/// Another proxy is the Unix backend.
fn bytes_for_unix_backends_are_copied(engine: Engine) {
    let backend = Backend::echo();
    let second = Proxy::start(engine, &backend);
    let first = builder(engine).backend(format!("unix:{}", second.socket().display()));
    let first = first.start();
    exchange_and_end(&first.connect(), Pattern::new(1), 8 * MB);
    for direction in ["to_backend", "to_client"] {
        assert_copied(&first, direction, 8 * MB);
    }
    assert_says_so_once(&first);
}

/// Where there is no Unix socket, all is as ever, and there is nothing to tell.
fn bytes_between_tcp_sockets_are_spliced(engine: Engine) {
    let backend = Backend::seeded_source(8 * MB);
    let dir = fresh_dir();
    let control = dir.path().join("control.sock");
    let (listener, address) = tcp_listener();
    let words = format!(
        "--uname-2.6 {SPLICEWAY} run --engine {engine} --listen inherit --backend {backend} --control {}",
        control.display()
    );
    let words: Vec<_> = words.split(' ').collect();
    let daemon = Activation::of("setarch", &words).passing(&[(&listener, "x")]);
    let daemon = daemon.start();
    let client = connect_tcp(address);
    std::io::Write::write_all(&mut &client, &5u64.to_le_bytes()).unwrap();
    Pattern::new(5).receive(&mut &client, 8 * MB).unwrap();
    drop(client);
    eventually("the session is over", || backend.ledger().open == 0);
    let status = serde_json::from_str(&get_unix(&control, "/status").body).unwrap();
    assert!(relayed(&status, "to_client", "spliced_bytes") > MB);
    assert_eq!(
        daemon.log().count(COPIES_INTO_UNIX),
        0,
        "{:?}",
        daemon.log().lines()
    );
}

fn large_records_for_unix_clients_are_copied(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.respond(|heard: &Heard| page(heard.id, &heard.body))
    });
    let proxy = builder(engine).args(["--protocol", "fastcgi"]);
    let proxy = proxy.backend(&backend).start();
    let client = Client::connect(&proxy);
    for seed in 0..3 {
        let body = Pattern::new(seed).bytes(2 * MB);
        let request = Request::post("/", &body);
        let answer = thread::scope(|scope| {
            scope.spawn(|| client.send(&request.bytes()));
            client.answer()
        });
        assert_eq!(answer.body().len(), body.len());
        assert_eq!(answer.body(), body, "seed {seed}");
    }
    let of = |direction, way| relayed(&proxy.status(), direction, way);
    eventually("all is counted", || {
        of("to_client", "copied_bytes") > 6 * MB
    });
    assert_eq!(of("to_client", "spliced_bytes"), 0);
    assert!(of("to_backend", "spliced_bytes") > MB);
    assert_says_so_once(&proxy);
}

/// In either direction, with the other one going on.
fn an_end_is_told_behind_what_was_copied(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.send_pattern(Pattern::new(1), 0, 4 * MB)?;
        conversation.half_close()?;
        conversation.receive_pattern(Pattern::new(2), 4 * MB)?;
        conversation.keep_until_eof()
    });
    let proxy = builder(engine).backend(&backend).start();
    let client = proxy.connect();
    Pattern::new(1).receive(&mut &client, 4 * MB).unwrap();
    assert_eof(&client);
    Pattern::new(2).send(&mut &client, 4 * MB).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(backend.wait_for_end(0).ending, Ending::Eof);

    let late = Backend::scripted(|conversation| {
        conversation.receive_pattern(Pattern::new(2), 4 * MB)?;
        conversation.keep_until_eof()?;
        conversation.send_pattern(Pattern::new(1), 0, 4 * MB)
    });
    let proxy = builder(engine).backend(&late).start();
    let client = proxy.connect();
    Pattern::new(2).send(&mut &client, 4 * MB).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    Pattern::new(1).receive(&mut &client, 4 * MB).unwrap();
    assert_eof(&client);
    assert_eq!(late.wait_for_end(0).ending, Ending::Eof);
}

/// 100 KB in each second, which is more than a socket keeps to itself.
fn a_client_that_takes_its_time_is_not_idle(engine: Engine) {
    let backend = Backend::seeded_source(2 * MB);
    let proxy = builder(engine)
        .backend(&backend)
        .args(["--idle-timeout", "1s"])
        .start();
    let client = proxy.connect();
    send(&client, &7u64.to_le_bytes());
    let started = Instant::now();
    let (mut bytes, mut got) = ([0; 5 * 1024], 0);
    while started.elapsed() < Duration::from_secs(6) {
        let count = (&client).read(&mut bytes).unwrap();
        assert!(count > 0, "cut after {:?}", started.elapsed());
        assert_eq!(Pattern::new(7).mismatch(got, &bytes[..count]), None);
        got += count as u64;
        pause(Duration::from_millis(50));
    }
    let seen = &backend.ledger().seen;
    assert!(seen.is_empty(), "cut: {:?}", seen[0].ending);
}

fn a_transfer_goes_on_to_its_end_in_a_drain(engine: Engine) {
    let backend = Backend::seeded_source(8 * MB);
    let mut proxy = builder(engine).backend(&backend).start();
    let client = proxy.connect();
    send(&client, &3u64.to_le_bytes());
    let first = receive_exact(&client, 1);
    proxy.terminate();
    eventually("the socket is unlinked", || !proxy.socket().exists());
    let mut rest = first;
    (&client).take(8 * MB - 1).read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len() as u64, 8 * MB);
    assert_eq!(Pattern::new(3).mismatch(0, &rest), None);
    assert_eof(&client);
    drop(client);
    assert_eq!(proxy.wait().code(), Some(0));
}

fn a_client_that_leaves_in_bulk_resets_the_backend(engine: Engine) {
    let backend = Backend::seeded_source(64 * MB);
    let proxy = builder(engine).backend(&backend).start();
    let client = proxy.connect();
    send(&client, &3u64.to_le_bytes());
    Pattern::new(3).receive(&mut &client, MB).unwrap();
    // What is left unread proves that something was lost.
    assert!(wait_for_bytes(&client).unwrap());
    drop(client);
    assert_eq!(backend.wait_for_end(0).ending, Ending::Reset);
}

/// As this one is, unless it is old indeed.
fn a_kernel_that_is_new_enough_is_seen(engine: Engine) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().unwrap().parse::<u32>().unwrap();
    let is_old = (next(), next()) < (6, 5);
    let proxy = Proxy::start(engine, Backend::echo());
    let says_so = proxy.process().log().count(COPIES_INTO_UNIX) == 1;
    assert_eq!(says_so, is_old, "{release}");
}
