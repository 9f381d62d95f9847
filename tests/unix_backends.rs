//! Backends that are Unix sockets of the same machine.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use common::client::{assert_eof, assert_over, assert_waiting, exchange_and_end, send};
use common::proxy::{fresh_abstract_name, fresh_dir};
use common::sys::connect_at_once;
use common::{Backend, Ending, Engine, KB, MB, Pattern, Proxy, for_each_engine};

for_each_engine!(
    bytes_and_ends_pass_through_a_unix_backend,
    an_abstract_name_is_a_backend,
    unix_and_tcp_backends_take_turns,
    a_unix_backend_that_is_not_there_is_passed_over,
    a_client_waits_while_the_backlog_of_a_unix_backend_is_full,
    a_client_that_half_closes_gets_its_answer_from_a_unix_backend,
);

/// Another proxy is the Unix backend, and what is behind it knows how connections end.
fn bytes_and_ends_pass_through_a_unix_backend(engine: Engine) {
    let backend = Backend::echo();
    let second = Proxy::start(engine, &backend);
    let first = Proxy::start(engine, format!("unix:{}", second.socket().display()));
    for (round, bytes) in [1, 100, 4 * KB, MB, 40 * MB].into_iter().enumerate() {
        exchange_and_end(&first.connect(), Pattern::new(round as u64), bytes);
        assert_eq!(backend.wait_for_end(round).ending, Ending::Eof);
    }
}

fn an_abstract_name_is_a_backend(engine: Engine) {
    let backend = Backend::echo();
    let name = fresh_abstract_name();
    let _second = Proxy::builder()
        .engine(engine)
        .listen(format!("unix:@{name}"))
        .backend(&backend)
        .start();
    let first = Proxy::start(engine, format!("unix:@{name}"));
    exchange_and_end(&first.connect(), Pattern::new(1), MB);
}

fn unix_and_tcp_backends_take_turns(engine: Engine) {
    let (behind_unix, tcp) = (Backend::echo(), Backend::echo());
    let second = Proxy::start(engine, &behind_unix);
    let first = Proxy::builder()
        .engine(engine)
        .args(["--workers", "1"])
        .backend(format!("unix:{}", second.socket().display()))
        .backend(&tcp)
        .start();
    for round in 0..10 {
        exchange_and_end(&first.connect(), Pattern::new(round), KB);
    }
    assert_eq!(behind_unix.ledger().accepted, 5);
    assert_eq!(tcp.ledger().accepted, 5);
}

fn a_unix_backend_that_is_not_there_is_passed_over(engine: Engine) {
    let tcp = Backend::echo();
    let dir = fresh_dir();
    let (missing, dead) = (dir.path().join("missing"), dir.path().join("dead"));
    drop(UnixListener::bind(&dead).unwrap());
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(format!("unix:{}", missing.display()))
        .backend(format!("unix:{}", dead.display()))
        .backend(&tcp)
        .start();
    for round in 0..9 {
        exchange_and_end(&proxy.connect(), Pattern::new(round), KB);
    }
    let alone = Proxy::builder()
        .engine(engine)
        .backend(format!("unix:{}", missing.display()))
        .args(["--connect-timeout", "100ms"])
        .start();
    assert_over(&alone.connect());
    alone.process().wait_for_log("(ENOENT)");
}

fn a_client_waits_while_the_backlog_of_a_unix_backend_is_full(engine: Engine) {
    let dir = fresh_dir();
    let path = dir.path().join("full");
    let listener = UnixListener::bind(&path).unwrap();
    let mut fillers = Vec::new();
    let error = loop {
        match connect_at_once(&path) {
            Ok(filler) => fillers.push(filler),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--connect-timeout", "60s"])
        .backend(format!("unix:{}", path.display()))
        .start();
    let client = proxy.connect();
    send(&client, b"hello");
    proxy.process().assert_comes_to_rest();
    assert_waiting(&client);
    // Room for one more, behind all the others.
    for _ in 0..fillers.len() {
        drop(listener.accept().unwrap());
    }
    let (mut served, _) = listener.accept().unwrap();
    let mut bytes = [0; 5];
    served.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    drop(served);
    assert_eof(&client);
}

fn a_client_that_half_closes_gets_its_answer_from_a_unix_backend(engine: Engine) {
    let dir = fresh_dir();
    let path = dir.path().join("backend");
    let listener = UnixListener::bind(&path).unwrap();
    let proxy = Proxy::start(engine, format!("unix:{}", path.display()));
    let client = proxy.connect_listening();
    let (mut served, _): (UnixStream, _) = listener.accept().unwrap();
    assert_eq!(served.read(&mut [0]).unwrap(), 0, "the end arrives");
    served.write_all(b"answer").unwrap();
    drop(served);
    assert_eq!(common::client::receive_to_eof(&client), b"answer");
    fs::remove_file(path).unwrap();
}
