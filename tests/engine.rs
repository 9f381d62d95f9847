//! Which driver runs, and what happens where io_uring is not allowed.

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::Shutdown;

use common::client::{assert_eof, exchange, exchange_and_end, receive_exact, send};
use common::{Backend, Ending, Engine, KB, MB, Pattern, Proxy};

const DENIALS: [(libc::c_int, &str); 2] = [(libc::EPERM, "EPERM"), (libc::ENOSYS, "ENOSYS")];

#[test]
fn io_uring_is_chosen_where_it_is_allowed() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).start();
    proxy.process().wait_for_log("engine=io_uring");
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
}

#[test]
fn denied_io_uring_falls_back_to_epoll_with_one_line_that_names_the_cause() {
    for (errno, name) in DENIALS {
        let backend = Backend::echo();
        let proxy = denied(errno, &backend);
        let lines = proxy.process().log().lines();
        let about: Vec<_> = lines.iter().filter(|line| line.contains(name)).collect();
        assert_eq!(about.len(), 1, "{lines:#?}");
        assert!(
            about[0].contains("WARN") && about[0].contains("io_uring"),
            "{}",
            about[0]
        );
    }
}

#[test]
fn denied_io_uring_still_echoes_bulk_and_small() {
    for (errno, _) in DENIALS {
        let backend = Backend::echo();
        let proxy = denied(errno, &backend);
        for size in [1, 64 * KB + 1, 16 * MB] {
            exchange_and_end(&proxy.connect(), Pattern::new(size), size);
        }
    }
}

#[test]
fn denied_io_uring_still_passes_half_closes_on() {
    for (errno, _) in DENIALS {
        let backend = Backend::scripted(|conversation| {
            conversation.keep_until_eof()?;
            conversation.send(b"answer after the end")
        });
        let proxy = denied(errno, &backend);
        let client = proxy.connect();
        send(&client, b"question");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receive_exact(&client, 20), b"answer after the end");
        assert_eof(&client);
        let seen = backend.wait_for_end(0);
        assert_eq!(
            (seen.ending, seen.received),
            (Ending::Eof, b"question".to_vec())
        );
    }
}

#[test]
fn denied_io_uring_still_drains() {
    for (errno, _) in DENIALS {
        let backend = Backend::echo();
        let mut proxy = denied(errno, &backend);
        let client = proxy.connect();
        exchange(&client, Pattern::new(2), MB);
        proxy.terminate();
        exchange(&client, Pattern::new(3), MB);
        drop(client);
        assert_eq!(proxy.wait().code(), Some(0));
    }
}

#[test]
fn io_uring_that_was_asked_for_and_is_denied_is_an_error() {
    for (errno, name) in DENIALS {
        let outcome = Proxy::builder()
            .engine(Engine::IoUring)
            .backend("127.0.0.1:9")
            .seccomp_deny_io_uring(errno)
            .run_to_the_end();
        outcome.assert_error_line(1, &["io_uring", name, "epoll"]);
    }
}

#[test]
fn epoll_needs_no_io_uring_and_does_not_complain() {
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(Engine::Epoll)
        .backend(&backend)
        .seccomp_deny_io_uring(libc::EPERM)
        .start();
    exchange_and_end(&proxy.connect(), Pattern::new(4), KB);
    assert_eq!(proxy.process().log().count("WARN"), 0);
}

fn denied(errno: libc::c_int, backend: &Backend) -> Proxy {
    let proxy = Proxy::builder()
        .backend(backend)
        .seccomp_deny_io_uring(errno)
        .start();
    proxy.process().wait_for_log("engine=epoll");
    proxy
}
