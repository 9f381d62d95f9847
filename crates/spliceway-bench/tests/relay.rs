//! The baseline of the comparison, `spliceway-bench relay`, does what a relay must: a figure of a
//! program that loses bytes or sessions would be worth nothing.

#![allow(clippy::unwrap_used)]

#[path = "../../../tests/common/mod.rs"]
mod common;

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use common::backend::Refusing;
use common::client::{assert_eof, assert_over, exchange_and_end, receive_to_eof, send};
use common::sys::ChildSetup;
use common::{Backend, Ending, KB, MB, Pattern, Process, eventually, proxy};
use tempfile::TempDir;

struct Relay {
    process: Process,
    socket: PathBuf,
    _dir: TempDir,
}

impl Relay {
    fn start(backend: impl std::fmt::Display) -> Self {
        let dir = proxy::fresh_dir();
        let socket = dir.path().join("relay.sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_spliceway-bench"));
        command
            .arg("relay")
            .arg(format!("--listen=unix:{}", socket.display()))
            .arg(format!("--to={backend}"))
            .stdin(Stdio::null());
        let setup = ChildSetup {
            death_signal: libc::SIGKILL,
            ..ChildSetup::default()
        };
        let mut process = Process::start(command, setup);
        // This makes a session of its own, which ends without a byte.
        eventually("the relay serves", || {
            assert!(process.is_running(), "the relay ended");
            UnixStream::connect(&socket).is_ok()
        });
        Self {
            process,
            socket,
            _dir: dir,
        }
    }

    #[track_caller]
    fn connect(&self) -> UnixStream {
        proxy::connect(&self.socket).expect("the relay listens")
    }
}

#[test]
fn bytes_arrive_intact_both_ways() {
    let backend = Backend::echo();
    let relay = Relay::start(&backend);
    for size in [1, 4 * KB, 16 * KB, 16 * KB + 1, 8 * MB] {
        exchange_and_end(&relay.connect(), Pattern::new(size), size);
    }
}

#[test]
fn half_close_from_client_reaches_backend_and_the_answer_still_comes() {
    let backend = Backend::scripted(|conversation| {
        conversation.keep_until_eof()?;
        conversation.send(b"an answer after the end")
    });
    let relay = Relay::start(&backend);
    let client = relay.connect();
    send(&client, b"a question");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive_to_eof(&client), b"an answer after the end");
    backend.wait_until("the question", |ledger| {
        ledger
            .seen
            .iter()
            .any(|seen| seen.received == b"a question")
    });
}

#[test]
fn half_close_from_backend_reaches_client_which_may_go_on() {
    let backend = Backend::source(Pattern::new(1), 64 * KB);
    let relay = Relay::start(&backend);
    let client = relay.connect();
    Pattern::new(1).receive(&mut &client, 64 * KB).unwrap();
    assert_eof(&client);
    send(&client, b"still here");
    drop(client);
    backend.wait_until("what came after its end", |ledger| {
        let still_here = |seen: &common::backend::Seen| {
            seen.received == b"still here" && seen.ending == Ending::Eof
        };
        ledger.seen.iter().any(still_here)
    });
}

#[test]
fn a_hundred_sessions_run_at_once() {
    let backend = Backend::echo();
    let relay = Relay::start(&backend);
    let clients: Vec<_> = (0..100).map(|_| relay.connect()).collect();
    thread::scope(|scope| {
        for (seed, client) in (0..).zip(&clients) {
            scope.spawn(move || exchange_and_end(client, Pattern::new(seed), 256 * KB));
        }
    });
}

#[test]
fn a_backend_that_refuses_ends_the_client_and_nothing_else() {
    let mut relay = Relay::start(Refusing::new());
    for _ in 0..3 {
        assert_over(&relay.connect());
    }
    assert!(relay.process.is_running());
}

#[test]
fn a_reset_by_the_backend_ends_the_client_and_nothing_else() {
    let backend = Backend::scripted(|conversation| {
        conversation.receive_exact(1)?;
        conversation.reset_on_close()
    });
    let mut relay = Relay::start(&backend);
    for _ in 0..3 {
        let client = relay.connect();
        send(&client, b"!");
        assert_over(&client);
    }
    assert!(relay.process.is_running());
}

#[test]
fn sigterm_and_sigint_end_it_well_in_the_middle_of_sessions() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let backend = Backend::echo();
        let mut relay = Relay::start(&backend);
        let client = relay.connect();
        common::client::exchange(&client, Pattern::new(1), KB);
        relay.process.signal(signal);
        assert_eq!(relay.process.wait().code(), Some(0));
        assert!(!relay.socket.exists(), "the socket file is left");
        assert_over(&client);
    }
}
