//! However a session ends, the other side sees the same end: a clean one clean, a broken one broken,
//! and every byte before it.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Display;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use common::activation::{Activation, connect_tcp, tcp_listener};
use common::backend::{Refusing, Unanswering};
use common::client::{
    assert_eof, assert_over, assert_waiting, exchange, receive_exact, receive_to_eof, send,
};
use common::sys::wait_for_bytes;
use common::uninterrupted;
use common::wait::pause;
use common::{Backend, Ending, Engine, KB, MB, Pattern, Proxy, eventually, for_each_engine};

for_each_engine!(
    half_close_from_client_reaches_backend,
    half_close_from_client_after_bulk_reaches_backend,
    half_close_without_a_byte_reaches_backend,
    half_close_from_backend_reaches_client,
    half_close_from_backend_after_bulk_reaches_client,
    client_that_writes_and_closes_loses_nothing,
    client_that_closes_without_a_byte_ends_cleanly,
    client_abort_with_unread_bytes_resets_backend,
    client_abort_in_bulk_resets_backend,
    client_gone_after_reading_everything_stops_backend,
    backend_reset_leaves_client_a_true_prefix,
    backend_reset_in_bulk_leaves_client_a_true_prefix,
    backend_reset_ends_a_sending_client,
    early_answer_arrives_while_client_still_sends,
    early_answer_survives_the_reset_that_follows_it,
    client_that_leaves_with_an_early_answer_loses_nothing_of_its_upload,
    session_closes_once_both_directions_ended_though_client_lingers,
    refusing_backend_closes_client_after_connect_timeout,
    first_endpoint_refuses_and_second_serves,
    bytes_sent_before_the_backend_is_connected_are_held,
    two_backends_share_the_sessions,
    unanswering_backend_closes_client_after_connect_timeout,
    unresolvable_backend_closes_client_after_connect_timeout,
    idle_timeout_ends_the_silent_session_only,
    half_closed_timeout_ends_the_silent_session_only,
    half_closed_timeout_is_for_clients_over_tcp_as_well,
    refusals_are_warned_about_but_not_each,
);

fn half_close_from_client_reaches_backend(engine: Engine) {
    half_close_from_client(engine, 5);
}

fn half_close_from_client_after_bulk_reaches_backend(engine: Engine) {
    half_close_from_client(engine, 8 * MB);
}

fn half_close_without_a_byte_reaches_backend(engine: Engine) {
    half_close_from_client(engine, 0);
}

/// The backend answers only after the end, so both the end and the open other direction show.
fn half_close_from_client(engine: Engine, size: u64) {
    let (question, answer) = (Pattern::new(1), Pattern::new(2));
    let backend = Backend::scripted(move |conversation| {
        conversation.receive_pattern(question, size)?;
        conversation.keep_until_eof()?;
        conversation.send_pattern(answer, 0, 100 * KB)
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    question.send(&mut &client, size).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    answer.receive(&mut &client, 100 * KB).unwrap();
    assert_eof(&client);
    let seen = backend.wait_for_end(0);
    assert_eq!((seen.ending, seen.received.len()), (Ending::Eof, 0));
}

fn half_close_from_backend_reaches_client(engine: Engine) {
    half_close_from_backend(engine, 5);
}

fn half_close_from_backend_after_bulk_reaches_client(engine: Engine) {
    half_close_from_backend(engine, 8 * MB);
}

fn half_close_from_backend(engine: Engine, size: u64) {
    let pattern = Pattern::new(3);
    let backend = Backend::source(pattern, size);
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    pattern.receive(&mut &client, size).unwrap();
    assert_eof(&client);
    send(&client, b"still here");
    backend.wait_until("what came after its end", |ledger| ledger.received == 10);
    drop(client);
    let seen = backend.wait_for_end(0);
    assert_eq!(
        (seen.ending, seen.received),
        (Ending::Eof, b"still here".to_vec())
    );
}

/// As `printf … | socat` does. Not an abort: everything arrives, and then a clean end.
fn client_that_writes_and_closes_loses_nothing(engine: Engine) {
    let backend = Backend::sink();
    let proxy = Proxy::start(engine, &backend);
    for (round, size) in [1, 100, 4 * KB, 64 * KB, 150 * KB, MB]
        .repeat(8)
        .into_iter()
        .enumerate()
    {
        let pattern = Pattern::new(size);
        pattern.send(&mut &proxy.connect(), size).unwrap();
        let seen = backend.wait_for_end(round);
        assert_eq!(seen.ending, Ending::Eof, "round {round}, {size} bytes");
        assert_eq!(seen.received.len() as u64, size, "round {round}");
        assert_eq!(pattern.mismatch(0, &seen.received), None, "round {round}");
    }
}

fn client_that_closes_without_a_byte_ends_cleanly(engine: Engine) {
    let backend = Backend::sink();
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    backend.wait_until("the connection", |ledger| ledger.accepted == 1);
    drop(client);
    let seen = backend.wait_for_end(0);
    assert_eq!((seen.ending, seen.received.len()), (Ending::Eof, 0));
}

/// AF_UNIX reports a close with bytes unread as ECONNRESET: that is the proof of an abort.
fn client_abort_with_unread_bytes_resets_backend(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.send(b"answer")?;
        conversation.discard_until_eof()
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    // One byte read proves that the others are there to be left unread: they came together.
    assert_eq!(receive_exact(&client, 1), b"a");
    drop(client);
    assert_eq!(backend.wait_for_end(0).ending, Ending::Reset);
}

fn client_abort_in_bulk_resets_backend(engine: Engine) {
    let pattern = Pattern::new(4);
    let backend = Backend::source(pattern, 64 * MB);
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    pattern.receive(&mut &client, 2 * MB).unwrap();
    // More is there to be left unread. Without, this would be a clean end, which a slow machine may come to.
    assert!(wait_for_bytes(&client).unwrap());
    drop(client);
    assert_eq!(backend.wait_for_end(0).ending, Ending::Reset);
    assert!(
        backend.ledger().sent < 64 * MB,
        "the proxy went on reading for nobody"
    );
}

/// Without unread bytes the close is a clean end at first; the backend's next bytes prove that
/// nobody is there any more.
fn client_gone_after_reading_everything_stops_backend(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.send(b"first")?;
        conversation.keep_until_eof()?;
        conversation.send_pattern(Pattern::new(5), 0, 64 * MB)
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    assert_eq!(receive_exact(&client, 5), b"first");
    send(&client, b"last words");
    drop(client);
    let seen = backend.wait_for_end(0);
    assert_eq!(seen.received, b"last words");
    assert_eq!(seen.ending, Ending::BrokenPipe);
}

fn backend_reset_leaves_client_a_true_prefix(engine: Engine) {
    backend_reset(engine, 10 * KB);
}

fn backend_reset_in_bulk_leaves_client_a_true_prefix(engine: Engine) {
    backend_reset(engine, 16 * MB);
}

fn backend_reset(engine: Engine, size: u64) {
    let pattern = Pattern::new(6);
    let backend = Backend::scripted(move |conversation| {
        conversation.send_pattern(pattern, 0, size)?;
        conversation.wait_for_release()?;
        conversation.reset_on_close()
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    pattern.receive(&mut &client, size / 2).unwrap();
    backend.release(1);
    let received = size / 2 + pattern.receive_prefix(&mut &client, size / 2);
    assert!(received <= size);
    assert_eq!(backend.wait_for_end(0).ending, Ending::Closed);
}

fn backend_reset_ends_a_sending_client(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.receive_exact(64 * 1024)?;
        conversation.reset_on_close()
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    let error = Pattern::new(7).send(&mut &client, 64 * MB).unwrap_err();
    let kinds = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
    assert!(kinds.contains(&error.kind()), "{error}");
}

/// PHP-FPM's way: the answer, FIN, and everything that still comes is read and thrown away.
fn early_answer_arrives_while_client_still_sends(engine: Engine) {
    let answer = Pattern::new(8);
    let backend = Backend::scripted(move |conversation| {
        conversation.receive_exact(1024)?;
        conversation.send_pattern(answer, 0, 64 * KB)?;
        conversation.half_close()?;
        conversation.discard_until_eof()
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    let answered = thread::scope(|scope| {
        scope.spawn(|| {
            Pattern::new(9).send(&mut &client, 16 * MB).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        answer.receive(&mut &client, 64 * KB)
    });
    answered.unwrap();
    assert_eof(&client);
    assert_eq!(backend.wait_for_end(0).ending, Ending::Eof);
    assert_eq!(backend.ledger().received, 16 * MB);
}

/// A backend that closes with bytes unread answers them with a reset. What it had said before that
/// is in our kernel already and belongs to the client.
fn early_answer_survives_the_reset_that_follows_it(engine: Engine) {
    let answer = Pattern::new(10);
    let backend = Backend::scripted(move |conversation| {
        conversation.receive_exact(1024)?;
        conversation.send_pattern(answer, 0, 8 * KB)
    });
    let proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    let received = thread::scope(|scope| {
        // The client's own sends fail sooner or later.
        scope.spawn(|| Pattern::new(11).send(&mut &client, 16 * MB).is_ok());
        answer.receive_prefix(&mut &client, 0)
    });
    assert_eq!(received, 8 * KB);
}

/// The client may be gone before the proxy has taken note that its answer was delivered. Nothing is
/// lost then, so nothing may be reset. Many sessions in one turn, all of them ready when the stopped
/// proxy goes on, make that happen.
fn client_that_leaves_with_an_early_answer_loses_nothing_of_its_upload(engine: Engine) {
    const CLIENTS: usize = 64;
    let upload = Pattern::new(13);
    let backend = Backend::scripted(move |conversation| {
        conversation.receive_exact(1)?;
        conversation.send(b"answer")?;
        conversation.keep_until_eof()
    });
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "1"])
        .start();
    for round in 1..=10 {
        let clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
        backend.wait_until("all sessions", |ledger| ledger.accepted == round * CLIENTS);
        proxy.process().signal(libc::SIGSTOP);
        for client in &clients {
            upload.send(&mut &*client, 1 + 100 * KB).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        }
        proxy.process().signal(libc::SIGCONT);
        thread::scope(|scope| {
            for client in clients {
                scope.spawn(move || assert_eq!(receive_exact(&client, 6), b"answer"));
            }
        });
        backend.wait_until("their ends", |ledger| ledger.seen.len() == round * CLIENTS);
    }
    let ledger = backend.ledger();
    let whole = ledger.seen.iter().filter(|seen| {
        let all = (seen.received.len() as u64, &seen.ending) == (100 * KB, &Ending::Eof);
        all && upload.mismatch(1, &seen.received).is_none()
    });
    assert_eq!(whole.count(), ledger.seen.len(), "whole uploads, of all");
}

/// A PHP-FPM worker stays busy, and our descriptors stay open, until our side closes: a client that
/// lingers after both ends must not be able to delay that.
fn session_closes_once_both_directions_ended_though_client_lingers(engine: Engine) {
    let backend = Backend::source(Pattern::new(12), KB);
    let proxy = Proxy::start(engine, &backend);
    let whole_session = || {
        let client = proxy.connect();
        client.shutdown(Shutdown::Write).unwrap();
        Pattern::new(12).receive(&mut &client, KB).unwrap();
        assert_eof(&client);
        client
    };
    drop(whole_session());
    proxy.process().assert_comes_to_rest();
    let descriptors = proxy.process().open_descriptors();
    let _lingering: Vec<_> = (0..20).map(|_| whole_session()).collect();
    eventually("both sides of every session are closed", || {
        proxy.process().open_descriptors() <= descriptors
    });
    assert_eq!(backend.wait_for_end(20).ending, Ending::Eof);
}

fn refusing_backend_closes_client_after_connect_timeout(engine: Engine) {
    closes_client_after_connect_timeout(engine, &Refusing::new());
}

fn first_endpoint_refuses_and_second_serves(engine: Engine) {
    let (refusing, serving) = (Refusing::new(), Backend::echo());
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&refusing)
        .backend(&serving)
        .start();
    for round in 0..20 {
        exchange(&proxy.connect(), Pattern::new(round), 10 * KB);
    }
    assert_eq!(serving.ledger().accepted, 20);
}

/// What the client sends while endpoints are still being tried reaches the one that answers.
fn bytes_sent_before_the_backend_is_connected_are_held(engine: Engine) {
    let refusing: Vec<_> = (0..8).map(|_| Refusing::new()).collect();
    let serving = Backend::sink();
    let proxy = refusing
        .iter()
        .fold(Proxy::builder().engine(engine), |builder, endpoint| {
            builder.backend(endpoint)
        })
        .backend(&serving)
        .start();
    for round in 0..20 {
        let pattern = Pattern::new(100);
        pattern.send(&mut &proxy.connect(), 100 * KB).unwrap();
        let seen = serving.wait_for_end(round);
        assert_eq!(
            (seen.ending, seen.received.len() as u64),
            (Ending::Eof, 100 * KB)
        );
        assert_eq!(pattern.mismatch(0, &seen.received), None);
    }
}

fn two_backends_share_the_sessions(engine: Engine) {
    let (one, other) = (Backend::echo(), Backend::echo());
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&one)
        .backend(&other)
        .start();
    for round in 0..40 {
        exchange(&proxy.connect(), Pattern::new(round), KB);
    }
    let (one, other) = (one.ledger().accepted, other.ledger().accepted);
    assert_eq!(one + other, 40);
    assert!(one >= 10 && other >= 10, "{one} and {other} of 40");
}

fn unanswering_backend_closes_client_after_connect_timeout(engine: Engine) {
    closes_client_after_connect_timeout(engine, &Unanswering::new());
}

fn unresolvable_backend_closes_client_after_connect_timeout(engine: Engine) {
    closes_client_after_connect_timeout(engine, &"no-such-host.invalid:9000");
}

fn closes_client_after_connect_timeout(engine: Engine, backend: &impl Display) {
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(backend)
        .args(["--connect-timeout", "400ms"])
        .start();
    let clients: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
    let sender = proxy.connect();
    send(&sender, b"anybody there?");
    for client in clients.iter().chain([&sender]) {
        assert_over(client);
    }
    // Whoever comes afterwards is received in the same way.
    assert_over(&proxy.connect());
}

fn idle_timeout_ends_the_silent_session_only(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--idle-timeout", "2s"])
        .start();
    let busy = proxy.connect();
    let silent = proxy.connect();
    exchange(&silent, Pattern::new(1), KB);
    silent.set_nonblocking(true).unwrap();
    eventually("the silent session is ended", || {
        exchange(&busy, Pattern::new(2), KB);
        has_ended(&silent)
    });
    exchange(&busy, Pattern::new(3), KB);
    backend.wait_for_end(0);
    assert_eq!(backend.ledger().open, 1);
}

/// Whichever side has ended. Neither an answer that goes on, however slowly, nor a session that is open both
/// ways is cut.
fn half_closed_timeout_ends_the_silent_session_only(engine: Engine) {
    let backend = half_closing_backend();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--half-closed-timeout", "2s"])
        .observed()
        .start();
    let (open, waiting, ended) = (proxy.connect(), proxy.connect(), proxy.connect());
    let fed = proxy.connect();
    send(&open, b"o");
    send(&ended, b"e");
    for (client, kind) in [(&waiting, b"w"), (&fed, b"f")] {
        send(client, kind);
        client.shutdown(Shutdown::Write).unwrap();
    }
    assert_eof(&ended);
    assert_over(&waiting);
    assert_eq!(receive_to_eof(&fed).len(), DRIPS);
    let seen = || {
        proxy.scrape().sum(
            "spliceway_sessions_ended_total",
            &["reason=\"half_closed\""],
        )
    };
    eventually("both are counted", || seen() == 2.0);
    assert_waiting(&open);
    backend.release(4);
}

fn half_closed_timeout_is_for_clients_over_tcp_as_well(engine: Engine) {
    let backend = half_closing_backend();
    let (listener, address) = tcp_listener();
    let to = backend.to_string();
    let words = [
        "--listen",
        "inherit",
        "--backend",
        &to,
        "--half-closed-timeout",
        "2s",
    ];
    let _daemon = Activation::run(engine, &words)
        .passing(&[(&listener, "web")])
        .start();
    let (open, waiting, fed) = (
        connect_tcp(address),
        connect_tcp(address),
        connect_tcp(address),
    );
    send(&open, b"o");
    for (client, kind) in [(&waiting, b"w"), (&fed, b"f")] {
        send(client, kind);
        client.shutdown(Shutdown::Write).unwrap();
    }
    assert_over(&waiting);
    assert_eq!(receive_to_eof(&fed).len(), DRIPS);
    assert_waiting(&open);
    backend.release(3);
}

/// Bytes of an answer that takes three seconds.
const DRIPS: usize = 30;

/// Does what it is told by the first byte.
fn half_closing_backend() -> Backend {
    Backend::scripted(|conversation| match &conversation.receive_exact(1)?[..] {
        b"e" => {
            conversation.half_close()?;
            conversation.keep_until_eof()
        }
        b"f" => {
            conversation.keep_until_eof()?;
            for _ in 0..DRIPS {
                conversation.send(b".")?;
                pause(Duration::from_millis(100));
            }
            Ok(())
        }
        _ => conversation.wait_for_release(),
    })
}

fn has_ended(mut stream: &UnixStream) -> bool {
    match uninterrupted(|| stream.read(&mut [0])) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// One line for the operator, not one per client.
fn refusals_are_warned_about_but_not_each(engine: Engine) {
    const CLIENTS: usize = 60;
    let refusing = Refusing::new();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&refusing)
        .args(["--connect-timeout", "100ms"])
        .start();
    let clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    for client in &clients {
        assert_eq!(receive_to_eof(client), b"");
    }
    proxy.process().wait_for_log(&refusing.to_string());
    let warnings = proxy.process().log().count(&refusing.to_string());
    assert!(
        warnings < CLIENTS / 2,
        "{warnings} lines about {CLIENTS} refusals"
    );
}
