//! The end of the program: what runs is finished, who waits is served, nobody new comes in.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use common::client::{assert_eof, assert_over, exchange, receive_exact, send};
use common::proxy::{connect_abstract, fresh_abstract_name};
use common::sys::demand_root;
use common::sys::traced::Halted;
use common::uninterrupted;
use common::{Backend, Engine, KB, MB, Pattern, Proxy, eventually, for_each_engine};

for_each_engine!(
    nothing_to_finish_ends_at_once_with_exit_code_0,
    interrupt_drains_as_well,
    transfer_in_flight_completes_while_new_connects_are_refused,
    both_directions_go_on_during_a_drain,
    connect_in_the_backlog_is_served,
    everyone_who_connected_before_the_signal_is_served,
    abstract_listener_drains,
    second_signal_ends_at_once,
    a_signal_to_the_process_and_its_group_is_one_wish,
    drain_timeout_cuts_what_still_runs,
    idle_session_of_a_client_that_leaves_ends_the_drain,
    a_worker_that_fails_leaves_the_others_to_finish,
    a_resolver_that_fails_ends_the_daemon_in_order,
    a_main_thread_that_cannot_wait_ends_with_one_line,
);

fn nothing_to_finish_ends_at_once_with_exit_code_0(engine: Engine) {
    let backend = Backend::echo();
    let mut proxy = Proxy::start(engine, &backend);
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
}

fn interrupt_drains_as_well(engine: Engine) {
    let backend = Backend::hold();
    let mut proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    backend.wait_until("the session", |ledger| ledger.open == 1);
    proxy.process().signal(libc::SIGINT);
    wait_until_it_drains(&proxy);
    backend.release(1);
    assert_eq!(receive_exact(&client, 4), b"done");
    assert_eof(&client);
    drop(client);
    assert_eq!(proxy.wait().code(), Some(0));
}

fn transfer_in_flight_completes_while_new_connects_are_refused(engine: Engine) {
    let pattern = Pattern::new(1);
    let backend = Backend::source(pattern, 32 * MB);
    let mut proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    pattern.receive(&mut &client, MB).unwrap();

    proxy.terminate();
    wait_until_it_drains(&proxy);
    let refused = UnixStream::connect(proxy.socket()).unwrap_err();
    assert!([ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&refused.kind()));

    pattern.receive_range(&mut &client, MB, 31 * MB).unwrap();
    assert_eof(&client);
    assert!(
        proxy.is_running(),
        "the client has not ended its direction yet"
    );
    drop(client);
    assert_eq!(proxy.wait().code(), Some(0));
}

fn both_directions_go_on_during_a_drain(engine: Engine) {
    let backend = Backend::echo();
    let mut proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    exchange(&client, Pattern::new(2), KB);
    proxy.terminate();
    wait_until_it_drains(&proxy);
    exchange(&client, Pattern::new(3), 4 * MB);
    drop(client);
    assert_eq!(proxy.wait().code(), Some(0));
}

/// At `--connections-max` the second client has never been accepted when the signal comes.
fn connect_in_the_backlog_is_served(engine: Engine) {
    let backend = Backend::hold();
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--connections-max", "1"])
        .start();
    let accepted = proxy.connect();
    backend.wait_until("the first session", |ledger| ledger.open == 1);
    let waiting = proxy.connect();

    proxy.terminate();
    wait_until_it_drains(&proxy);
    assert_eq!(backend.ledger().accepted, 1);
    backend.release(2);
    for client in [accepted, waiting] {
        assert_eq!(receive_exact(&client, 4), b"done");
        assert_eof(&client);
    }
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(backend.ledger().open_most, 1);
}

fn everyone_who_connected_before_the_signal_is_served(engine: Engine) {
    let backend = Backend::echo();
    let mut proxy = Proxy::start(engine, &backend);
    let clients: Vec<_> = (0..300).map(|seed| (seed, proxy.connect())).collect();
    proxy.terminate();
    for (seed, client) in clients {
        exchange(&client, Pattern::new(seed), KB);
    }
    assert_eq!(proxy.wait().code(), Some(0));
}

fn abstract_listener_drains(engine: Engine) {
    let (backend, name) = (Backend::hold(), fresh_abstract_name());
    let listen = format!("unix:@{name}");
    let mut proxy = Proxy::builder()
        .engine(engine)
        .listen(listen)
        .backend(&backend)
        .start();
    let clients: Vec<_> = (0..20).map(|_| connect_abstract(&name).unwrap()).collect();
    proxy.terminate();
    backend.release(clients.len());
    for client in clients {
        assert_eq!(receive_exact(&client, 4), b"done");
    }
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(connect_abstract(&name).is_err());
}

fn second_signal_ends_at_once(engine: Engine) {
    let backend = Backend::hold();
    let mut proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    backend.wait_until("the session", |ledger| ledger.open == 1);
    proxy.terminate();
    wait_until_it_drains(&proxy);
    assert!(proxy.is_running(), "the session still runs");

    // Within a moment it counts as the first one.
    eventually("it was told once more", || {
        proxy.terminate();
        proxy.process().log().count("SIGTERM again: ending at once") == 1
    });
    assert_eq!(proxy.wait().code(), Some(0), "it did as it was told");
    assert_over(&client);
    assert!(!proxy.socket().exists());
}

/// As timeout(1) sends it.
fn a_signal_to_the_process_and_its_group_is_one_wish(engine: Engine) {
    let backend = Backend::hold();
    let mut proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    backend.wait_until("the session", |ledger| ledger.open == 1);
    proxy.process().signal(libc::SIGSTOP);
    eventually("the proxy is stopped", || proxy.process().is_stopped());
    // Both wait when it goes on: the kernel keeps one of each kind.
    proxy.terminate();
    proxy.process().signal(libc::SIGINT);
    proxy.process().signal(libc::SIGCONT);
    wait_until_it_drains(&proxy);
    backend.release(1);
    assert_eq!(receive_exact(&client, 4), b"done");
    drop(client);
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(proxy.process().log().count("ending at once"), 0);
}

fn drain_timeout_cuts_what_still_runs(engine: Engine) {
    let backend = Backend::hold();
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--drain-timeout", "300ms"])
        .start();
    let client = proxy.connect();
    backend.wait_until("the session", |ledger| ledger.open == 1);
    proxy.terminate();
    proxy.process().wait_for_log("--drain-timeout has passed");
    assert_eq!(proxy.wait().code(), Some(0));
    assert_over(&client);
    assert!(!proxy.socket().exists());
}

fn idle_session_of_a_client_that_leaves_ends_the_drain(engine: Engine) {
    let backend = Backend::echo();
    let mut proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    send(&client, b"x");
    assert_eq!(receive_exact(&client, 1), b"x");
    proxy.terminate();
    wait_until_it_drains(&proxy);
    drop(client);
    assert_eq!(proxy.wait().code(), Some(0));
}

/// The socket is the first to go.
fn wait_until_it_drains(proxy: &Proxy) {
    eventually("the socket is unlinked", || !proxy.socket().exists());
}

/// A call that cannot fail does: the worker's sessions are lost, as they would be in a panic. The others' are not,
/// and the end is an orderly one.
fn a_worker_that_fails_leaves_the_others_to_finish(engine: Engine) {
    const CLIENTS: usize = 8;
    let backend = Backend::echo();
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "2"])
        .start();
    let clients_without = |worker: &str| {
        let _halted = Halted::new(proxy.process().thread(worker)).unwrap();
        let clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
        for client in &clients {
            exchange(client, Pattern::new(1), KB);
        }
        clients
    };
    let (lost, served) = (clients_without("worker-1"), clients_without("worker-0"));

    let mut strace = fail_the_waits_of(&proxy, "worker-0");
    proxy.process().wait_for_log("worker 0 failed");
    strace.wait().unwrap();

    for mut client in lost {
        let mut byte = [0];
        assert!(matches!(
            uninterrupted(|| client.read(&mut byte)),
            Ok(0) | Err(_)
        ));
    }
    eventually("nobody new comes in", || {
        UnixStream::connect(proxy.socket()).is_err()
    });
    served
        .iter()
        .for_each(|client| exchange(client, Pattern::new(2), MB));
    assert!(proxy.is_running());
    drop(served);
    assert_eq!(proxy.wait().code(), Some(1));
    assert!(!proxy.socket().exists());
}

/// Its event loop panics. Without it addresses would never change again, and nothing would tell.
fn a_resolver_that_fails_ends_the_daemon_in_order(engine: Engine) {
    const SAYS: &str = "the thread that looks names up has ended before the daemon";
    let backend = Backend::echo();
    let name = format!("localhost:{}", backend.port());
    let mut proxy = Proxy::start(engine, name);
    let client = proxy.connect();
    exchange(&client, Pattern::new(1), KB);
    let mut strace = fail_the_waits_of(&proxy, "resolver");
    proxy.process().wait_for_log(SAYS);
    strace.wait().unwrap();
    eventually("nobody new comes in", || {
        UnixStream::connect(proxy.socket()).is_err()
    });
    exchange(&client, Pattern::new(2), MB);
    assert!(proxy.is_running());
    drop(client);
    assert_eq!(proxy.wait().code(), Some(1));
    assert!(!proxy.socket().exists());
    let lines = proxy.process().log().lines();
    let last = lines.last().unwrap();
    assert!(
        last.starts_with("spliceway: ") && last.contains(SAYS),
        "{last}"
    );
}

/// It is what all sessions hang on, and there is nobody left to drain them.
fn a_main_thread_that_cannot_wait_ends_with_one_line(engine: Engine) {
    let backend = Backend::echo();
    let mut proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    exchange(&client, Pattern::new(1), KB);
    let mut strace = fail_the_waits_of(&proxy, "spliceway");
    eventually("it ends", || !proxy.is_running());
    strace.wait().unwrap();
    assert_eq!(proxy.wait().code(), Some(1));
    assert_over(&client);
    assert!(!proxy.socket().exists());
    let lines = proxy.process().log().lines();
    let last = lines.last().unwrap();
    assert!(
        last.starts_with("spliceway: ") && last.contains("EBADF"),
        "{last}"
    );
}

/// Each call with which a thread waits fails from now on, as none can unless something is badly wrong. One that
/// is under way is not disturbed but by strace's coming.
fn fail_the_waits_of(proxy: &Proxy, thread: &str) -> Child {
    const WAITS: &str = "io_uring_enter,epoll_wait,epoll_pwait,epoll_pwait2";

    demand_root();
    Command::new("/usr/bin/strace")
        .args(["-qq", "-o", "/dev/null", "-p"])
        .arg(proxy.process().thread(thread).to_string())
        .arg(format!("--trace={WAITS}"))
        .arg(format!("--inject={WAITS}:error=EBADF"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}
