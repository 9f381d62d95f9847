//! Processes that die, stop or dawdle harm the sessions that depend on them and no other. The backends
//! that are killed and stopped are socat: a real process, with one more for each connection, all in
//! one process group.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use common::client::{assert_eof, exchange, exchange_and_end, receive_exact, send};
use common::process::Process;
use common::programs::start_socat;
use common::proxy::fresh_dir;
use common::wait::{STOPPED, SetOnDrop, meanwhile, pause};
use common::{Backend, Engine, KB, MB, Pattern, Proxy, eventually, for_each_engine};
use tempfile::TempDir;

for_each_engine!(
    backend_killed_in_a_response_leaves_its_clients_a_true_prefix,
    backend_killed_with_a_request_unread_leaves_its_clients_a_true_prefix,
    client_that_is_stuck_in_sending_learns_that_its_backend_was_killed,
    a_stopped_backend_stalls_its_own_sessions_only,
    slow_loris_clients_disturb_no_other_session,
    five_thousand_connects_in_one_burst_are_all_served,
);

/// The first words of a backend that is a process, and of one that is a thread of this test. Two
/// endpoints take turns, and so a client learns which of them it has got.
const PROCESS: &[u8; 7] = b"process";
const THREAD: &[u8; 7] = b"thread!";

const RESPONSE: Pattern = Pattern::new(1);

/// Far more than all sockets and pipes between a backend and a client that does not read.
const RESPONSE_BYTES: u64 = 32 * MB;

/// The kernel ends a dead process's connection as a close would: what it sent, then FIN.
fn backend_killed_in_a_response_leaves_its_clients_a_true_prefix(engine: Engine) {
    killed_backend(engine, |client| client.shutdown(Shutdown::Write).unwrap());
}

/// With bytes unread it is a reset.
fn backend_killed_with_a_request_unread_leaves_its_clients_a_true_prefix(engine: Engine) {
    killed_backend(engine, |client| send(client, b"a request"));
}

fn killed_backend(engine: Engine, before: impl Fn(&UnixStream)) {
    let (mut doomed, other) = (BackendProcess::responder(), Backend::banner(THREAD));
    let proxy = before_both(engine, &doomed, &other);
    let (cut_off, steady) = clients_of_both(&proxy);
    for client in &cut_off {
        RESPONSE.receive(&mut &*client, MB).unwrap();
        before(client);
    }
    proxy.process().assert_comes_to_rest();
    let holdings = proxy.process().holdings();

    doomed.kill();
    while_these_go_on(&steady, || {
        for client in &cut_off {
            let received = MB + RESPONSE.receive_prefix(&mut &*client, MB);
            assert!(received < RESPONSE_BYTES, "it was killed in the middle");
        }
        // The clients linger, so it is the proxy that ends the sessions, on both sides.
        eventually("the sessions with the dead backend are closed", || {
            let now = proxy.process().holdings().descriptors_beside_pipes;
            now + 2 * cut_off.len() <= holdings.descriptors_beside_pipes
        });
    });
    for seed in 0..4 {
        let late = proxy.connect();
        assert_eq!(receive_exact(&late, THREAD.len()), THREAD);
        exchange_and_end(&late, Pattern::new(seed), 100 * KB);
    }
}

/// It does not read either, so nothing but the failing send can tell it.
fn client_that_is_stuck_in_sending_learns_that_its_backend_was_killed(engine: Engine) {
    let (mut doomed, other) = (BackendProcess::deaf(), Backend::banner(THREAD));
    let proxy = before_both(engine, &doomed, &other);
    let (stuck, steady) = clients_of_both(&proxy);
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for client in &stuck {
            let failed = &failed;
            scope.spawn(move || {
                let error = Pattern::new(2).send(&mut &*client, 64 * MB).unwrap_err();
                let kinds = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
                assert!(kinds.contains(&error.kind()), "{error}");
                failed.fetch_add(1, Ordering::Relaxed);
            });
        }
        proxy.process().assert_comes_to_rest();
        let failed_early = failed.load(Ordering::Relaxed);
        doomed.kill();
        assert_eq!(failed_early, 0, "the backend was alive");
        while_these_go_on(&steady, || {
            eventually("every send has failed", || {
                failed.load(Ordering::Relaxed) == stuck.len()
            });
        });
    });
}

fn a_stopped_backend_stalls_its_own_sessions_only(engine: Engine) {
    const NEWCOMERS: usize = 12;
    let (stopped, other) = (BackendProcess::echo(), Backend::banner(THREAD));
    let proxy = before_both(engine, &stopped, &other);
    let (stalled, steady) = clients_of_both(&proxy);
    for (seed, client) in (0..).zip(&stalled) {
        exchange(client, Pattern::new(seed), 64 * KB);
    }
    let (resumed, served) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        stopped.stop();
        for (seed, client) in (10..).zip(&stalled) {
            let resumed = &resumed;
            scope.spawn(move || {
                exchange_and_end(client, Pattern::new(seed), 4 * MB);
                resumed.fetch_add(1, Ordering::Relaxed);
            });
        }
        // Half of them get the stopped backend, whose kernel still accepts.
        for seed in 0..NEWCOMERS as u64 {
            let (proxy, served) = (&proxy, &served);
            scope.spawn(move || {
                let client = proxy.connect();
                receive_exact(&client, THREAD.len());
                exchange_and_end(&client, Pattern::new(seed), MB);
                served.fetch_add(1, Ordering::Relaxed);
            });
        }
        meanwhile(STOPPED, || {
            for (seed, client) in (20..).zip(&steady) {
                exchange(client, Pattern::new(seed), 64 * KB);
            }
        });
        let resumed = resumed.load(Ordering::Relaxed);
        let served = served.load(Ordering::Relaxed);
        stopped.resume();
        assert_eq!(resumed, 0, "a stopped process cannot answer");
        assert!(
            (1..NEWCOMERS).contains(&served),
            "{served} of {NEWCOMERS} newcomers were served while one of two backends was stopped"
        );
    });
    assert_eq!(served.into_inner(), NEWCOMERS);
}

/// Many clients that trickle a request, one byte at a time, and never fall silent for long enough to
/// be ended.
fn slow_loris_clients_disturb_no_other_session(engine: Engine) {
    const LORISES: u64 = 200;
    const REQUEST_BYTES: u64 = 300;
    /// "Slow": longer than a byte takes through the proxy and back, so that each comes by itself.
    const BETWEEN_BYTES: Duration = Duration::from_millis(3);
    let backend = Backend::echo();
    let proxy = Proxy::start(engine, &backend);
    let lorises: Vec<_> = (0..LORISES)
        .map(|seed| (Pattern::new(seed), proxy.connect()))
        .collect();
    let steady = [proxy.connect()];
    while_these_go_on(&steady, || {
        for position in 0..REQUEST_BYTES {
            for (pattern, client) in &lorises {
                pattern.send_range(&mut &*client, position, 1).unwrap();
            }
            exchange_and_end(&proxy.connect(), Pattern::new(position), 16 * KB);
            pause(BETWEEN_BYTES);
        }
    });
    for (pattern, client) in &lorises {
        client.shutdown(Shutdown::Write).unwrap();
        pattern.receive(&mut &*client, REQUEST_BYTES).unwrap();
        assert_eof(client);
    }
}

/// The proxy is stopped until its backlog is full, so that all of the burst meets it at once. Who
/// waits in connect(2) is neither refused nor told to come back; nobody leaves before the last has
/// come.
fn five_thousand_connects_in_one_burst_are_all_served(engine: Engine) {
    const THREADS: usize = 50;
    const EACH: u8 = 100;
    /// The descriptors of two bursts would not fit into one process, and this one has both engines.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);

    let backend = Backend::scripted(|conversation| {
        let byte = conversation.receive_exact(1)?;
        conversation.send(&byte)
    });
    let proxy = Proxy::start(engine, &backend);
    let connected = AtomicUsize::new(0);
    let knock = |byte| {
        let client = proxy.connect();
        connected.fetch_add(1, Ordering::Relaxed);
        send(&client, &[byte]);
        (byte, client)
    };
    let burst = || (0..EACH).map(knock).collect::<Vec<_>>();
    let clients: Vec<_> = thread::scope(|scope| {
        proxy.process().signal(libc::SIGSTOP);
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(burst)).collect();
        let backlog = backlog_max();
        eventually("the backlog is full", || {
            connected.load(Ordering::Relaxed) >= backlog
        });
        proxy.process().signal(libc::SIGCONT);
        let clients = threads.into_iter().map(|thread| thread.join().unwrap());
        clients.flatten().collect()
    });
    for (byte, client) in &clients {
        assert_eq!(receive_exact(client, 1), [*byte]);
        assert_eof(client);
    }
    assert_eq!(backend.ledger().accepted, THREADS * usize::from(EACH));
}

/// What the program asks for, or what the system allows.
fn backlog_max() -> usize {
    let allowed = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    allowed.trim().parse::<usize>().unwrap().min(4096)
}

/// A backend that can be killed and stopped.
struct BackendProcess {
    socat: Process,
    address: String,
    _dir: TempDir,
}

impl BackendProcess {
    /// Sends its word and the response, and never reads.
    fn responder() -> Self {
        let dir = fresh_dir();
        let file = dir.path().join("response");
        let mut response = File::create(&file).unwrap();
        response.write_all(PROCESS).unwrap();
        RESPONSE.send(&mut response, RESPONSE_BYTES).unwrap();
        // -U: only from the file to the connection.
        Self::start(
            dir,
            &["-U"],
            &format!("OPEN:{},rdonly", file.to_str().unwrap()),
        )
    }

    /// Sends its word, then everything that it receives.
    fn echo() -> Self {
        let talk = format!("SYSTEM:printf {}; exec cat", PROCESS.escape_ascii());
        Self::start(fresh_dir(), &["-t", "60"], &talk)
    }

    /// Sends its word and takes nothing.
    fn deaf() -> Self {
        let talk = format!("SYSTEM:printf {}; exec sleep 600", PROCESS.escape_ascii());
        Self::start(fresh_dir(), &[], &talk)
    }

    fn start(dir: TempDir, options: &[&str], answers_by: &str) -> Self {
        // Port 0: the kernel chooses a free one, and the log has it.
        let listen = "TCP-LISTEN:0,bind=127.0.0.1,backlog=128,fork";
        let socat = start_socat(&[&["-d", "-d"], options, &[listen, answers_by]].concat());
        socat.wait_for_log("listening on");
        let address = socat.log().lines().iter().find_map(|line| {
            let (_, address) = line.split_once("listening on AF=2 ")?;
            Some(address.to_owned())
        });
        Self {
            socat,
            address: address.unwrap(),
            _dir: dir,
        }
    }

    fn kill(&mut self) {
        self.socat.signal_group(libc::SIGKILL);
        assert!(!self.socat.wait().success());
    }

    fn stop(&self) {
        self.socat.signal_group(libc::SIGSTOP);
        eventually("the backend is stopped", || self.socat.is_stopped());
    }

    fn resume(&self) {
        self.socat.signal_group(libc::SIGCONT);
    }
}

fn before_both(engine: Engine, process: &BackendProcess, other: &Backend) -> Proxy {
    let builder = Proxy::builder().engine(engine).backend(&process.address);
    builder.backend(other).start()
}

/// Some clients of the process, and some of the other backend.
fn clients_of_both(proxy: &Proxy) -> (Vec<UnixStream>, Vec<UnixStream>) {
    const CLIENTS_EACH: usize = 4;
    let (mut of_process, mut of_thread) = (Vec::new(), Vec::new());
    while of_process.len().min(of_thread.len()) < CLIENTS_EACH {
        let client = proxy.connect();
        let word = receive_exact(&client, PROCESS.len());
        if word == PROCESS {
            of_process.push(client);
        } else {
            assert_eq!(word, THREAD);
            of_thread.push(client);
        }
    }
    (of_process, of_thread)
}

/// Does `act` beside sessions that exchange bytes all the time, and afterwards as before.
fn while_these_go_on(steady: &[UnixStream], act: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !over.load(Ordering::Acquire) || round < 3 {
                for client in steady {
                    exchange(client, Pattern::new(round), 32 * KB + round);
                }
                round += 1;
            }
        });
        let _end_the_steady_sessions = SetOnDrop(&over);
        act();
    });
}
