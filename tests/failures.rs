//! A failure is no end: a client whose answer breaks off, and a backend whose client breaks off, are told
//! so wherever the transport can tell, behind every byte that came before. A Unix socket can tell a client
//! that has sent something which was not received; a question is left unreceived for that.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;

use common::activation::{Activation, connect_tcp, tcp_listener};
use common::backend::Refusing;
use common::client::{assert_eof, exchange, exchange_and_end, receive_exact, send};
use common::process::Process;
use common::sys::reset_on_close;
use common::uninterrupted;
use common::{
    Backend, Conversation, Ending, Engine, KB, MB, Pattern, Proxy, eventually, for_each_engine,
};

for_each_engine!(
    a_unix_client_is_told_that_its_answer_broke_off,
    a_unix_client_is_told_that_a_spliced_answer_broke_off,
    a_unix_client_is_told_before_the_first_byte_of_an_answer,
    a_question_in_pieces_is_told_of_as_well,
    a_client_that_has_ended_its_side_is_told_as_well,
    a_whole_answer_ends_cleanly,
    a_whole_answer_ends_cleanly_whoever_ends_first,
    questions_and_answers_on_a_kept_connection_are_not_mistaken,
    a_client_that_is_cut_at_shutdown_is_told,
    a_client_whose_session_was_idle_is_told,
    a_client_that_cannot_be_served_is_told,
    a_client_of_a_killed_proxy_is_told,
    a_tcp_client_gets_what_came_before_the_reset,
    a_tcp_client_gets_what_was_spliced_before_the_reset,
    a_tcp_clients_reset_in_bulk_reaches_the_backend,
    a_unix_clients_reset_in_bulk_reaches_the_backend,
    where_splice_is_denied_everything_is_copied,
);

const QUESTION: &[u8] = b"a question of one piece";

/// Reads a question, sends `bytes` of an answer, and breaks off when it is released.
fn backend_that_breaks_off(bytes: u64) -> Backend {
    Backend::scripted(move |conversation| {
        conversation.receive_exact(QUESTION.len())?;
        conversation.send_pattern(Pattern::new(1), 0, bytes)?;
        break_off(conversation)
    })
}

fn break_off(conversation: &mut Conversation) -> std::io::Result<()> {
    conversation.wait_for_release()?;
    conversation.reset_on_close()
}

/// The session ended in a failure that the client is told of, without another byte.
#[track_caller]
fn assert_failed(mut client: &UnixStream) {
    match uninterrupted(|| client.read(&mut [0])) {
        Ok(0) => panic!("a clean end"),
        Ok(_) => panic!("a byte where the failure should be"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

/// All that came before is there first.
fn assert_answer_breaks_off(mut client: &UnixStream, backend: &Backend, bytes: u64) {
    Pattern::new(1).receive(&mut client, bytes).unwrap();
    backend.release(1);
    assert_failed(client);
    // Once told, it is an end.
    assert_eof(client);
}

fn a_unix_client_is_told_that_its_answer_broke_off(engine: Engine) {
    unix_client_is_told(engine, 10 * KB);
}

fn a_unix_client_is_told_that_a_spliced_answer_broke_off(engine: Engine) {
    unix_client_is_told(engine, 4 * MB);
}

fn unix_client_is_told(engine: Engine, bytes: u64) {
    let backend = backend_that_breaks_off(bytes);
    let proxy = Proxy::start(engine, &backend);
    for _ in 0..5 {
        let client = proxy.connect();
        send(&client, QUESTION);
        assert_answer_breaks_off(&client, &backend, bytes);
    }
}

fn a_unix_client_is_told_before_the_first_byte_of_an_answer(engine: Engine) {
    let backend = backend_that_breaks_off(0);
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    send(&client, QUESTION);
    backend.release(1);
    assert_failed(&client);
}

/// Each piece is received when the last one was passed on.
fn a_question_in_pieces_is_told_of_as_well(engine: Engine) {
    let backend = backend_that_breaks_off(KB);
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    for byte in QUESTION {
        send(&client, &[*byte]);
        backend.wait_until("the connection", |ledger| ledger.accepted == 1);
    }
    assert_answer_breaks_off(&client, &backend, KB);
}

fn a_client_that_has_ended_its_side_is_told_as_well(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.keep_until_eof()?;
        conversation.send_pattern(Pattern::new(1), 0, KB)?;
        break_off(conversation)
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    send(&client, QUESTION);
    client.shutdown(Shutdown::Write).unwrap();
    assert_answer_breaks_off(&client, &backend, KB);
    assert_eq!(backend.wait_for_end(0).received, QUESTION);
}

fn a_whole_answer_ends_cleanly(engine: Engine) {
    for bytes in [0, 1, 10 * KB, 4 * MB] {
        let backend = Backend::scripted(move |conversation| {
            conversation.receive_exact(QUESTION.len())?;
            conversation.send_pattern(Pattern::new(1), 0, bytes)
        });
        let proxy = Proxy::start(engine, &backend);
        for _ in 0..5 {
            let client = proxy.connect();
            send(&client, QUESTION);
            Pattern::new(1).receive(&mut &client, bytes).unwrap();
            assert_eof(&client);
        }
    }
}

fn a_whole_answer_ends_cleanly_whoever_ends_first(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.keep_until_eof()?;
        conversation.send(b"answer")
    });
    let proxy = Proxy::start(engine, &backend);
    for _ in 0..20 {
        let client = proxy.connect();
        send(&client, QUESTION);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receive_exact(&client, 6), b"answer");
        assert_eof(&client);
    }
}

/// What was left in the socket is passed on once.
fn questions_and_answers_on_a_kept_connection_are_not_mistaken(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::start(engine, &backend);
    for sizes in [
        [1, 1, 1, 1],
        [600, 600, 600, 600],
        [16 * KB - 1, 16 * KB, 16 * KB + 1, 1],
        [1, 100 * KB, 1, 100 * KB],
        [MB, 1, MB, 1],
    ] {
        let client = proxy.connect();
        for (seed, size) in sizes.into_iter().enumerate() {
            exchange(&client, Pattern::new(seed as u64), size);
        }
        exchange_and_end(&client, Pattern::new(9), KB);
    }
}

fn a_client_that_is_cut_at_shutdown_is_told(engine: Engine) {
    let backend = backend_that_breaks_off(KB);
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--drain-timeout", "100ms"])
        .start();
    let client = proxy.connect();
    send(&client, QUESTION);
    Pattern::new(1).receive(&mut &client, KB).unwrap();
    proxy.terminate();
    assert_failed(&client);
    assert_eq!(proxy.wait().code(), Some(0));
}

fn a_client_whose_session_was_idle_is_told(engine: Engine) {
    let backend = backend_that_breaks_off(KB);
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--idle-timeout", "1s"])
        .start();
    let client = proxy.connect();
    send(&client, QUESTION);
    Pattern::new(1).receive(&mut &client, KB).unwrap();
    assert_failed(&client);
}

fn a_client_that_cannot_be_served_is_told(engine: Engine) {
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(Refusing::new())
        .args(["--connect-timeout", "200ms"])
        .start();
    let client = proxy.connect();
    send(&client, QUESTION);
    assert_failed(&client);
    // One that has asked nothing has lost nothing.
    assert_eof(&proxy.connect());
}

/// The kernel closes its sockets, and finds the question in them.
fn a_client_of_a_killed_proxy_is_told(engine: Engine) {
    let backend = backend_that_breaks_off(KB);
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    send(&client, QUESTION);
    Pattern::new(1).receive(&mut &client, KB).unwrap();
    proxy.process().signal(libc::SIGKILL);
    assert_failed(&client);
}

// --- clients over TCP -----------------------------------------------------------------------------

fn over_tcp(engine: Engine, backend: &Backend) -> (Process, SocketAddr) {
    let (listener, address) = tcp_listener();
    let to = backend.to_string();
    let daemon = Activation::run(engine, &["--listen", "inherit", "--backend", &to])
        .passing(&[(&listener, "x")])
        .start();
    (daemon, address)
}

fn a_tcp_client_gets_what_came_before_the_reset(engine: Engine) {
    tcp_client_is_told(engine, 10 * KB);
}

fn a_tcp_client_gets_what_was_spliced_before_the_reset(engine: Engine) {
    tcp_client_is_told(engine, 4 * MB);
}

fn tcp_client_is_told(engine: Engine, bytes: u64) {
    let backend = backend_that_breaks_off(bytes);
    let (_daemon, address) = over_tcp(engine, &backend);
    // Everything was received before the reset comes.
    let client = connect_tcp(address);
    send(&client, QUESTION);
    let answer = Pattern::new(1);
    answer.receive(&mut &client, bytes).unwrap();
    backend.release(1);
    assert_failed(&client);

    // A part was, and more is on its way: what comes is what the backend sent, and then no clean end.
    let client = connect_tcp(address);
    send(&client, QUESTION);
    answer.receive(&mut &client, bytes / 2).unwrap();
    backend.release(1);
    let mut got = bytes / 2;
    let mut buffer = vec![0; 64 * 1024];
    let error = loop {
        match uninterrupted(|| (&client).read(&mut buffer)) {
            Ok(0) => panic!("a clean end after {got} of {bytes} bytes"),
            Ok(count) => {
                assert_eq!(answer.mismatch(got, &buffer[..count]), None);
                got += count as u64;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    assert!(got <= bytes);
}

fn a_tcp_clients_reset_in_bulk_reaches_the_backend(engine: Engine) {
    let backend = Backend::scripted(Conversation::discard_until_eof);
    let (_daemon, address) = over_tcp(engine, &backend);
    let client = connect_tcp(address);
    Pattern::new(3).send(&mut &client, 4 * MB).unwrap();
    reset_on_close(&client).unwrap();
    drop(client);
    // Half an upload is not a whole one.
    assert_eq!(backend.wait_for_end(0).ending, Ending::Reset);
}

/// It leaves a part of an answer unread.
fn a_unix_clients_reset_in_bulk_reaches_the_backend(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.send(b"an early answer")?;
        conversation.discard_until_eof()
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    assert_eq!(receive_exact(&client, 1), b"a");
    Pattern::new(3).send(&mut &client, 4 * MB).unwrap();
    drop(client);
    assert_eq!(backend.wait_for_end(0).ending, Ending::Reset);
    eventually("the session is over", || backend.ledger().open == 0);
}

/// A hardened system may deny it: found out before the first byte is at stake.
fn where_splice_is_denied_everything_is_copied(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "1"])
        .seccomp_deny_splice(libc::EPERM)
        .start();
    for seed in 0..4 {
        exchange_and_end(&proxy.connect(), Pattern::new(seed), 3 * MB);
    }
    let warnings = proxy.process().log().count("bulk transfers are copied");
    assert_eq!(warnings, 1, "{:?}", proxy.process().log().lines());
}
