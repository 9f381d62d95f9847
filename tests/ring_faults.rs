//! Now and then, the kernel does not take what is submitted, or ends a wait early: it lacks memory, wants
//! completions taken first, or a signal came. Nobody notices.
//!
//! strace makes every seventh of the calls fail that submit and wait, in each worker and while it is busy.

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::client::{exchange, exchange_and_end};
use common::fastcgi::{Client, Request, responder};
use common::sys::{as_permitted, demand_root};
use common::wait::{STOPPED, meanwhile, pause};
use common::{Backend, Engine, KB, MB, Pattern, Proxy, eventually};

/// What io_uring_enter(2) returns when it cannot go on for the moment.
const ERRNOS: [&str; 4] = ["EBUSY", "EAGAIN", "ENOMEM", "EINTR"];

/// strace at one worker, which has been seen to fail calls.
struct Failing {
    strace: Child,
}

impl Failing {
    fn new(proxy: &Proxy, errno: &str, when: &str) -> Self {
        demand_root();
        let thread = proxy.process().thread("worker-0");
        let strace = Command::new("/usr/bin/strace")
            .args(["-qq", "-o"])
            .arg(proxy.dir().join("calls"))
            .arg("-p")
            .arg(thread.to_string())
            .args(["--trace=io_uring_enter", "--signal=none"])
            .arg(format!("--inject=io_uring_enter:error={errno}:when={when}"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let tracer = format!("TracerPid:\t{}\n", strace.id());
        eventually("strace is there", || {
            let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
            status.unwrap().contains(&tracer)
        });
        Self { strace }
    }

    /// Lets the worker go, and counts the calls that failed. Between two of its calls: one that strace has begun to
    /// let fail, and does not see to its end, returns ENOSYS.
    fn end(mut self, proxy: &Proxy) -> usize {
        let stands = || thread_states(proxy).all(|state| matches!(state, 'T' | 't'));
        proxy.process().signal(libc::SIGSTOP);
        eventually("all threads stand still, and go on doing so", || {
            (0..10).all(|_| {
                pause(Duration::from_millis(2));
                stands()
            })
        });
        common::sys::signal(self.strace.id(), libc::SIGTERM).unwrap();
        self.strace.wait().unwrap();
        proxy.process().signal(libc::SIGCONT);
        let calls = std::fs::read_to_string(proxy.dir().join("calls")).unwrap();
        calls
            .lines()
            .filter(|line| line.contains("(INJECTED)"))
            .count()
    }
}

/// The letters of proc(5).
fn thread_states(proxy: &Proxy) -> impl Iterator<Item = char> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", proxy.process().pid()));
    tasks.unwrap().filter_map(|task| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        fields.chars().next()
    })
}

/// One worker, at which everything arrives.
fn proxy(backend: &Backend, arguments: &[&str]) -> Proxy {
    Proxy::builder()
        .engine(Engine::IoUring)
        .backend(backend)
        .args(["--workers", "1"])
        .args(arguments.iter().copied())
        .start()
}

#[test]
fn sessions_of_bytes_do_not_notice() {
    as_permitted(|| {
        for errno in ERRNOS {
            let backend = Backend::echo();
            let proxy = proxy(&backend, &[]);
            let failing = Failing::new(&proxy, errno, "5+7");
            thread::scope(|scope| {
                for number in 0..4 {
                    let proxy = &proxy;
                    scope.spawn(move || {
                        let kept = proxy.connect();
                        for round in 0..8 {
                            let pattern = Pattern::new(number << 8 | round);
                            exchange(&kept, pattern, 100);
                            exchange(&kept, pattern, MB);
                            exchange_and_end(&proxy.connect(), pattern, 10 * KB);
                        }
                    });
                }
            });
            assert_at_rest(&proxy, failing, errno);
        }
    });
}

#[test]
fn requests_do_not_notice() {
    as_permitted(|| {
        for errno in ERRNOS {
            let backend = responder();
            let arguments = ["--protocol", "fastcgi", "--per-endpoint-max", "2"];
            let proxy = proxy(&backend, &arguments);
            let failing = Failing::new(&proxy, errno, "5+7");
            let answers = AtomicUsize::new(0);
            thread::scope(|scope| {
                for number in 0..4 {
                    let (proxy, answers) = (&proxy, &answers);
                    scope.spawn(move || {
                        let client = Client::connect(proxy);
                        for round in 0..25 {
                            let uri = format!("/{number}/{round}");
                            let answer = client.ask(&Request::post(&uri, &[b'x'; 5000]));
                            assert!(answer.text().contains(&uri), "{answer:?}");
                            answers.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(answers.into_inner(), 100);
            assert_at_rest(&proxy, failing, errno);
        }
    });
}

/// While the kernel takes nothing at all, the worker waits, and goes on when it does again.
#[test]
fn a_worker_that_can_submit_nothing_does_not_spin() {
    as_permitted(|| {
        for errno in ["EBUSY", "EAGAIN", "ENOMEM"] {
            let backend = Backend::echo();
            let proxy = proxy(&backend, &[]);
            let client = proxy.connect();
            exchange(&client, Pattern::new(1), KB);
            let failing = Failing::new(&proxy, errno, "1+");
            let waiting = proxy.connect();
            // Whatever it may use in a moment of which strace takes a part: a worker that spins makes as many
            // calls as strace can follow, thousands in a second.
            let before = Instant::now();
            meanwhile(STOPPED, || {
                pause(Duration::from_millis(10));
            });
            let elapsed = before.elapsed();
            let failed = failing.end(&proxy);
            let most = elapsed.as_millis() as usize + 100;
            assert!(
                (1..most).contains(&failed),
                "{errno}: {failed} calls in {elapsed:?}"
            );
            exchange(&client, Pattern::new(2), MB);
            exchange(&waiting, Pattern::new(3), KB);
            assert_eq!(proxy.process().log().count("ERROR"), 0);
        }
    });
}

#[track_caller]
fn assert_at_rest(proxy: &Proxy, failing: Failing, errno: &str) {
    let failed = failing.end(proxy);
    assert!(failed >= 3, "{errno}: only {failed} calls failed");
    proxy.process().assert_comes_to_rest();
    let lines = proxy.process().log().lines();
    // What is said at the start is about the configuration.
    let mut later = lines.iter().skip_while(|line| !line.contains(" ready "));
    assert!(
        !later.any(|line| line.contains("WARN") || line.contains("ERROR")),
        "{errno}: {lines:#?}"
    );
}
