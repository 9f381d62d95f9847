//! What each signal does: none cuts sessions or leaves the socket behind.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::client::{assert_eof, assert_over, exchange, exchange_and_end, receive_exact};
use common::sys::traced::{Halted, Lingering};
use common::{Backend, Engine, KB, Pattern, Proxy, eventually, for_each_engine, http};

for_each_engine!(
    signals_that_end_nothing_leave_sessions_alone,
    signals_that_stop_let_sessions_finish,
    a_watchdogs_signal_ends_a_daemon_whose_worker_hangs,
    a_watchdogs_signal_drains_a_daemon_whose_workers_turn,
    a_thread_that_lingers_does_not_hold_up_the_end,
);

/// Nobody can do anything about these.
const OUT_OF_REACH: [i32; 2] = [libc::SIGKILL, libc::SIGSTOP];

/// Those that mean that the daemon is to end.
const STOPPING: [i32; 5] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGPWR,
    libc::SIGABRT,
];

/// These do nothing by default (signal(7)).
const HARMLESS: [i32; 4] = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];

fn signals_that_end_nothing_leave_sessions_alone(engine: Engine) {
    let backend = Backend::echo();
    let mut proxy = Proxy::start(engine, &backend);
    let client = proxy.connect();
    exchange(&client, Pattern::new(1), KB);
    for signal in (1..=64).filter(|s| !OUT_OF_REACH.contains(s) && !STOPPING.contains(s)) {
        // Twice: the first one may be what changes an action back.
        for _ in 0..2 {
            proxy.process().signal(signal);
            exchange(&client, Pattern::new(2), KB);
            exchange_and_end(&proxy.connect(), Pattern::new(3), KB);
            assert!(proxy.is_running(), "signal {signal}");
        }
    }
    proxy
        .process()
        .wait_for_log("SIGHUP: access logs are opened anew");
    proxy.process().wait_for_log("reload (SIGHUP): ");
    proxy.process().wait_for_log("upgrade (SIGUSR2): ");
    drop(client);
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
}

fn signals_that_stop_let_sessions_finish(engine: Engine) {
    for signal in STOPPING {
        let backend = Backend::hold();
        let mut proxy = Proxy::start(engine, &backend);
        let client = proxy.connect();
        backend.wait_until("the session", |ledger| ledger.open == 1);
        proxy.process().signal(signal);
        proxy.process().wait_for_log("draining");
        backend.release(1);
        assert_eq!(receive_exact(&client, 4), b"done");
        assert_eof(&client);
        drop(client);
        assert_eq!(proxy.wait().code(), Some(0), "signal {signal}");
        assert!(!proxy.socket().exists(), "signal {signal}");
    }
}

/// Whatever the kernel lists: a signal that is neither ignored nor caught does what it does by default.
#[test]
fn no_signal_is_left_at_a_default_that_does_harm() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).start();
    let decided = decided(&proxy);
    for signal in (1..=64).filter(|s| !OUT_OF_REACH.contains(s) && !HARMLESS.contains(s)) {
        assert!(
            decided >> (signal - 1) & 1 == 1,
            "signal {signal}: {decided:x}"
        );
    }
}

/// nohup(1), and shells that start something in the background.
#[test]
fn what_was_ignored_at_the_start_stays_ignored_and_what_was_blocked_is_not() {
    const IGNORING: &str = "trap '' HUP INT QUIT TERM; exec env --block-signal=TERM \"$@\"";
    let backend = Backend::echo();
    let mut proxy = Proxy::builder()
        .through(["sh", "-c", IGNORING, "sh"])
        .backend(&backend)
        .start();
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        proxy.process().signal(signal);
        exchange_and_end(&proxy.connect(), Pattern::new(4), KB);
    }
    assert!(proxy.process().log().count("SIGHUP") == 0 && proxy.is_running());
    // Somebody has to be able to end it in order.
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(proxy.process().log().count("draining"), 1);
}

/// The signals that are ignored or caught, a bit for each.
fn decided(proxy: &Proxy) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.process().pid())).unwrap();
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    };
    set("SigIgn:") | set("SigCgt:")
}

/// One that stands still, as in a system call that hangs, would keep a drain from ever ending.
fn a_watchdogs_signal_ends_a_daemon_whose_worker_hangs(engine: Engine) {
    let backend = Backend::echo();
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "2"])
        .observed()
        .start();
    // Several: of clients that come to a socket, the worker that stands still keeps the one it was woken for, until
    // the other one looks for more.
    let clients = {
        let _halted = Halted::new(proxy.process().thread("worker-0")).unwrap();
        let clients: Vec<_> = (0..8).map(|_| proxy.connect()).collect();
        for client in &clients {
            exchange(client, Pattern::new(1), KB);
        }
        clients
    };
    let halted = Halted::new(proxy.process().thread("worker-0")).unwrap();
    let address = proxy.metrics_address();
    eventually("worker 0 hangs", || {
        http::get(address, "/healthz").body == "worker 0 does not turn\n"
    });
    // The other worker serves on.
    for client in &clients {
        exchange(client, Pattern::new(2), KB);
    }

    proxy.process().signal(libc::SIGABRT);
    proxy
        .process()
        .wait_for_log("SIGABRT, and workers [0] do not turn");
    halted.wait_for_its_end();
    assert_eq!(proxy.wait().code(), Some(1));
    clients.iter().for_each(assert_over);
    assert!(!proxy.socket().exists());
    let log = proxy.process().log();
    assert_eq!(log.count("--drain-timeout"), 0, "there is none");
    let last = log.lines().pop().unwrap();
    assert!(
        last.starts_with("spliceway: ") && last.contains("hangs in a system call"),
        "{last}"
    );
}

/// Its worker has ended, but the kernel does not let go of the thread, as while a ring is taken down.
fn a_thread_that_lingers_does_not_hold_up_the_end(engine: Engine) {
    let backend = Backend::echo();
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "2"])
        .start();
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    let lingering = Lingering::new(proxy.process().thread("worker-0")).unwrap();
    {
        // The process ends once this one has ended, too. Then it would stop the other one on its way out as well, if that
        // were not there yet, and nobody would let it go on.
        let _halted = Halted::new(proxy.process().thread("worker-1")).unwrap();
        proxy.terminate();
        lingering.wait_until_it_lingers();
    }
    lingering.wait_for_its_end();
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!proxy.socket().exists());
    assert_eq!(proxy.process().log().count("stopped"), 1);
}

/// Busy or idle, with sessions that would take their time.
fn a_watchdogs_signal_drains_a_daemon_whose_workers_turn(engine: Engine) {
    let backend = Backend::hold();
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "2"])
        .start();
    let client = proxy.connect();
    backend.wait_until("the session", |ledger| ledger.open == 1);
    proxy.process().signal(libc::SIGABRT);
    proxy.process().wait_for_log("SIGABRT: draining");
    assert_eq!(proxy.process().log().count("do not turn"), 0);
    backend.release(1);
    assert_eq!(receive_exact(&client, 4), b"done");
    assert_eof(&client);
    drop(client);
    assert_eq!(proxy.wait().code(), Some(0));
}
