//! What the service manager is told: that the program is ready, how it is, that it turns, that it ends.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::time::Duration;

use common::activation::{Activation, Notified, unix_listener};
use common::client::{exchange_and_end, receive_exact};
use common::process::Process;
use common::proxy::{connect, fresh_abstract_name, fresh_dir};
use common::sys::traced::Halted;
use common::wait::meanwhile;
use common::{Backend, Engine, KB, NameServer, Pattern, eventually, for_each_engine};
use tempfile::TempDir;

for_each_engine!(
    a_manager_hears_that_it_is_ready_how_it_is_and_that_it_ends,
    a_manager_hears_when_a_reload_begins_and_when_it_is_over,
    more_time_is_asked_for_during_a_drain,
    the_heartbeat_comes_while_the_workers_turn,
    a_worker_that_stands_still_stops_the_heartbeat,
);

/// A manager that listens, with a socket to pass.
struct Manager {
    notified: Notified,
    listener: UnixListener,
    path: PathBuf,
    dir: TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = fresh_dir();
        let notified = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        let (listener, path) = unix_listener(dir.path());
        Self {
            notified: Notified::at(notified),
            listener,
            path,
            dir,
        }
    }

    fn activation(&self, engine: Engine, backend: impl ToString, more: &[&str]) -> Activation {
        let backend = backend.to_string();
        let words = [
            "--listen",
            "inherit",
            "--backend",
            &backend,
            "--workers",
            "2",
        ];
        let words = [&words[..], more].concat();
        Activation::run(engine, &words)
            .passing(&[(&self.listener, "a")])
            .env("NOTIFY_SOCKET", self.dir.path().join("notify"))
    }

    fn start(&self, engine: Engine, backend: &Backend, more: &[&str]) -> Process {
        self.activation(engine, backend, more).start()
    }
}

fn a_manager_hears_that_it_is_ready_how_it_is_and_that_it_ends(engine: Engine) {
    let (mut manager, backend) = (Manager::new(), Backend::hold());
    let mut daemon = manager.start(engine, &backend, &[]);
    manager.notified.wait_for("READY=1");
    manager
        .notified
        .wait_for("STATUS=Serving: 0 sessions, 1 endpoint");
    let client = connect(&manager.path).unwrap();
    backend.wait_until("the session", |ledger| ledger.open == 1);
    manager
        .notified
        .wait_for("STATUS=Serving: 1 session, 1 endpoint");

    assert_eq!(manager.notified.count("STOPPING=1"), 0);
    daemon.signal(libc::SIGTERM);
    manager.notified.wait_for("STOPPING=1");
    manager
        .notified
        .wait_for("STATUS=Draining: 1 session, 1 endpoint");
    backend.release(1);
    assert_eq!(receive_exact(&client, 4), b"done");
    drop(client);
    assert_eq!(daemon.wait().code(), Some(0));
    let lines = manager.notified.lines();
    assert_eq!(lines[0], "READY=1");
    // Nobody asked for a heartbeat, and nothing is told twice.
    assert!(
        !lines.iter().any(|line| line.starts_with("WATCHDOG")),
        "{lines:?}"
    );
    assert_eq!(manager.notified.count("READY=1"), 1);
    assert_eq!(manager.notified.count("STOPPING=1"), 1);
    let idle = "STATUS=Serving: 0 sessions, 1 endpoint";
    assert_eq!(manager.notified.count(idle), 1);
}

/// As `Type=notify-reload` has it: also of one that was refused.
fn a_manager_hears_when_a_reload_begins_and_when_it_is_over(engine: Engine) {
    let (mut manager, backend) = (Manager::new(), Backend::echo());
    let file = manager.dir.path().join("spliceway.toml");
    let route = format!("[route.a]\nlisten = \"inherit\"\nbackend = \"{backend}\"\n");
    fs::write(&file, &route).unwrap();
    let words = ["--config", file.to_str().unwrap()];
    let daemon = Activation::run(engine, &words)
        .passing(&[(&manager.listener, "a")])
        .env("NOTIFY_SOCKET", manager.dir.path().join("notify"))
        .start();
    manager.notified.wait_for("READY=1");
    let contents = [
        format!("{route}idle-timeout = \"1h\"\n"),
        "nonsense".to_owned(),
    ];
    for (number, content) in contents.iter().enumerate() {
        fs::write(&file, content).unwrap();
        daemon.signal(libc::SIGHUP);
        eventually("the manager hears of the end", || {
            manager.notified.count("READY=1") == number + 2
        });
        assert_eq!(manager.notified.count("RELOADING=1"), number + 1);
    }
    let lines = manager.notified.lines();
    let of_reloads = lines.iter().filter(|line| {
        ["READY=1", "RELOADING=1"].contains(&line.as_str()) || line.starts_with("MONOTONIC_USEC=")
    });
    let of_reloads: Vec<_> = of_reloads
        .map(|line| line.split('=').next().unwrap())
        .collect();
    let one = ["RELOADING", "MONOTONIC_USEC", "READY"];
    assert_eq!(of_reloads, [&["READY"], &one[..], &one[..]].concat());
    exchange_and_end(&connect(&manager.path).unwrap(), Pattern::new(1), KB);
}

fn more_time_is_asked_for_during_a_drain(engine: Engine) {
    for (timeout, expected) in [
        ("off", 20_000_000),
        ("1h", 20_000_000),
        ("300ms", 5_300_000),
    ] {
        let (mut manager, backend) = (Manager::new(), Backend::hold());
        let mut daemon = manager.start(engine, &backend, &["--drain-timeout", timeout]);
        let _client = connect(&manager.path).unwrap();
        backend.wait_until("the session", |ledger| ledger.open == 1);
        daemon.signal(libc::SIGTERM);
        let asks = |line: &str| line.starts_with("EXTEND_TIMEOUT_USEC=");
        let line = manager.notified.wait_for_one_that("of more time", asks);
        let micros: u64 = line.split_once('=').unwrap().1.parse().unwrap();
        // What has passed of the drain is not asked for any more.
        assert!(
            (expected - 200_000..=expected).contains(&micros),
            "{timeout}: {line}"
        );
        if timeout != "300ms" {
            // Within a moment it counts as the first one.
            eventually("it was told once more", || {
                daemon.signal(libc::SIGTERM);
                daemon.log().count("SIGTERM again: ending at once") == 1
            });
        }
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

/// How long the manager waits for a sign: long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

fn watching(manager: &Manager, engine: Engine, backend: &Backend) -> Process {
    let watchdog = PATIENCE.as_micros().to_string();
    // The program's process is the one that the shell becomes, so it names itself.
    manager
        .activation(engine, backend, &[])
        .env("WATCHDOG_USEC", watchdog)
        .start()
}

fn the_heartbeat_comes_while_the_workers_turn(engine: Engine) {
    let (mut manager, backend) = (Manager::new(), Backend::echo());
    let mut daemon = watching(&manager, engine, &backend);
    // Also of idle workers, which have no reason of their own to turn.
    eventually("three beats", || manager.notified.count("WATCHDOG=1") >= 3);
    exchange_and_end(&connect(&manager.path).unwrap(), Pattern::new(1), KB);
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// One of two stands still; the other one serves on, and nobody else would notice.
fn a_worker_that_stands_still_stops_the_heartbeat(engine: Engine) {
    let (mut manager, backend) = (Manager::new(), Backend::echo());
    let daemon = watching(&manager, engine, &backend);
    manager.notified.wait_for("WATCHDOG=1");
    let halted = Halted::new(daemon.thread("worker-1")).unwrap();
    daemon.wait_for_log("workers [1] do not turn");
    let beats = manager.notified.count("WATCHDOG=1");
    meanwhile(2 * PATIENCE, || {
        assert_eq!(manager.notified.count("WATCHDOG=1"), beats);
    });
    assert_eq!(daemon.log().count("do not turn"), 1, "it is said once");
    drop(halted);
    eventually("it beats again", || {
        manager.notified.count("WATCHDOG=1") > beats
    });
}

#[test]
fn a_manager_may_listen_on_an_abstract_name() {
    let (name, backend) = (fresh_abstract_name(), Backend::echo());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let mut notified = Notified::at(UnixDatagram::bind_addr(&address).unwrap());
    let manager = Manager::new();
    let _daemon = manager
        .activation(Engine::Epoll, &backend, &[])
        .env("NOTIFY_SOCKET", format!("@{name}"))
        .start();
    notified.wait_for("READY=1");
}

/// It would wait for a sign, and nobody would know why it gets none.
#[test]
fn a_manager_that_cannot_be_told_is_named_in_the_log() {
    let (manager, backend) = (Manager::new(), Backend::echo());
    let daemon = manager
        .activation(Engine::Epoll, &backend, &[])
        .env("NOTIFY_SOCKET", "vsock:2:1")
        .start();
    daemon.wait_for_log("told nothing: NOTIFY_SOCKET is \"vsock:2:1\"");
    exchange_and_end(&connect(&manager.path).unwrap(), Pattern::new(1), KB);
}

#[test]
fn endpoints_that_are_not_known_yet_or_left_out_are_told() {
    let mut manager = Manager::new();
    let names = NameServer::start();
    let server = names.address.to_string();
    let more = [
        "--nameserver",
        &server,
        "--dns-max-ttl",
        "100ms",
        "--dns-min-ttl",
        "100ms",
    ];
    let _daemon = manager
        .activation(Engine::Epoll, "late.test.:1", &more)
        .start();
    manager
        .notified
        .wait_for("STATUS=Serving: 0 sessions, 0 endpoints");
    names.a("late.test", &["127.0.0.1", "127.0.0.2"]);
    manager
        .notified
        .wait_for("STATUS=Serving: 0 sessions, 2 endpoints");
}

#[test]
fn a_watchdog_for_another_process_is_not_ours() {
    let (mut manager, backend) = (Manager::new(), Backend::echo());
    let daemon = manager
        .activation(Engine::Epoll, &backend, &[])
        .env("WATCHDOG_USEC", "100000")
        .env("WATCHDOG_PID", "1")
        .start();
    manager.notified.wait_for("READY=1");
    meanwhile(Duration::from_millis(500), || {
        assert_eq!(manager.notified.count("WATCHDOG=1"), 0);
    });
    drop(daemon);
}

#[test]
fn a_manager_that_does_not_listen_holds_nothing_up() {
    let (manager, backend) = (Manager::new(), Backend::echo());
    let mut daemon = manager
        .activation(Engine::Epoll, &backend, &[])
        .env("NOTIFY_SOCKET", manager.dir.path().join("nobody"))
        .start();
    daemon.wait_for_log("tell the service manager READY=1: ");
    exchange_and_end(&connect(&manager.path).unwrap(), Pattern::new(1), KB);
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}
