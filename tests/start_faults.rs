//! A start that lacks something, or is denied something: it says so in one line, or goes on without it.
//!
//! strace makes single system calls fail, every one that a start makes and that could fail by itself, with the
//! errors of a filter (EPERM, ENOSYS) and of scarcity (EMFILE, ENOMEM).

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::client::exchange_and_end;
use common::proxy::Outcome;
use common::sys::lacks_root;
use common::wait::pause;
use common::{Backend, Engine, KB, Pattern, Proxy};

const ERRNOS: [&str; 4] = ["EPERM", "ENOSYS", "EMFILE", "ENOMEM"];

/// What the standard library, the C library and the loader call for themselves: they end the process in
/// their own words, or do without. And write(2), with
/// which a line of the log is lost that the test waits for, and epoll_wait(2), which is what a daemon does once
/// it runs.
const NOT_OURS: [&str; 25] = [
    "access",
    "arch_prctl",
    "brk",
    "epoll_wait",
    "execve",
    "exit",
    "exit_group",
    "futex",
    "getpid",
    "getrandom",
    "gettid",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "poll",
    "pread64",
    "restart_syscall",
    "rseq",
    "rt_sigreturn",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
    "write",
];

/// The last call before the program's own first one: before it, the loader and the standard library are at
/// work.
const OURS_FROM: &str = "prctl(PR_SET_NO_NEW_PRIVS";

/// How long a daemon may take to end that has nothing to finish: longer than it waits for workers that hang.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// One failure.
#[derive(Clone, Debug)]
struct Fault {
    call: String,
    errno: &'static str,
    /// In strace's words: the number of the call, counted for each thread, and "+" for all from there on.
    when: String,
}

#[test]
fn each_call_of_a_start_may_fail_on_io_uring() {
    walk(None);
}

#[test]
fn each_call_of_a_start_may_fail_on_epoll() {
    walk(Some(Engine::Epoll));
}

/// Without them there is nothing to be lost but the engine.
#[test]
fn any_one_of_the_calls_of_io_uring_may_be_denied() {
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        for errno in ["EPERM", "ENOSYS"] {
            let backend = Backend::echo();
            let fault = Fault {
                call: call.to_owned(),
                errno,
                when: "1+".to_owned(),
            };
            let proxy = fault.start(None, &backend).unwrap();
            proxy.process().wait_for_log("engine=epoll");
            let lines = proxy.process().log().lines();
            let about: Vec<_> = lines.iter().filter(|line| line.contains(errno)).collect();
            assert!(
                about.len() == 1 && about[0].contains("io_uring"),
                "{lines:#?}"
            );
            assert!(
                !lines.iter().any(|line| line.contains("ERROR")),
                "{lines:#?}"
            );
            exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
        }
    }
}

#[test]
fn any_limit_of_descriptors_gives_one_line_or_a_daemon() {
    // With less, the loader cannot open its libraries.
    for limit in 4..=64 {
        let builder = Proxy::builder().backend("127.0.0.1:9").rlimit_nofile(limit);
        match builder.start_or_end() {
            Ok(_proxy) => {}
            Err(outcome) => outcome.assert_error_line(1, &["LimitNOFILE="]),
        }
    }
}

fn walk(engine: Option<Engine>) {
    // What the daemon writes is not for others of its own user to see, strace of theirs included.
    if lacks_root() {
        return;
    }
    let faults = faults(&calls_of_a_start(engine));
    assert!(faults.len() > 100, "{faults:?}");
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let backend = Backend::echo();
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(problem) = fault.judge(engine, &backend) {
                        wrong.lock().unwrap().push(problem);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "of {}: {wrong:#?}", faults.len());
}

/// How often each thread makes each call at most, and the first time that counts.
fn calls_of_a_start(engine: Option<Engine>) -> BTreeMap<String, (usize, usize)> {
    let backend = Backend::echo();
    let dir = common::proxy::fresh_dir();
    let file = dir.path().join("trace");
    let words = [
        "strace",
        "-D",
        "-f",
        "-qq",
        // Several lines of the log may be one write.
        "-s",
        "4096",
        "-o",
        file.to_str().unwrap(),
    ];
    let mut proxy = builder(engine, &backend).through(words).start();
    proxy.terminate();
    proxy.wait();
    let trace = fs::read_to_string(file).unwrap();
    let (mut ours, mut counts, mut before) = (false, BTreeMap::new(), BTreeMap::new());
    let mut main = None;
    let mut calls: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let main = main.get_or_insert_with(|| thread.to_owned());
        if !ours && call.starts_with(OURS_FROM) {
            // What the loader did before, with the same numbers, is not ours.
            (ours, before) = (true, counts.clone());
        }
        if call.starts_with("write(") && call.contains(" ready ") {
            break;
        }
        let Some((name, _)) = call.split_once('(') else {
            continue;
        };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let count = counts
            .entry((thread.to_owned(), name.to_owned()))
            .or_insert(0);
        *count += 1;
        let not_ours = before.get(&(main.clone(), name.to_owned()));
        if ours && *count > not_ours.copied().unwrap_or(0) && !NOT_OURS.contains(&name) {
            let (first, last) = calls.entry(name.to_owned()).or_insert((*count, *count));
            (*first, *last) = ((*first).min(*count), (*last).max(*count));
        }
    }
    assert!(ours && calls.len() > 20, "{calls:?}");
    calls
}

/// All of the calls that are few; of those that are many, some from the first to the last.
fn faults(calls: &BTreeMap<String, (usize, usize)>) -> Vec<Fault> {
    /// Times that one call is made to fail.
    const TIMES: usize = 6;
    let mut faults = Vec::new();
    for (call, &(first, last)) in calls {
        let mut times: Vec<usize> = match last - first {
            few if few < TIMES => (first..=last).collect(),
            many => (0..TIMES).map(|n| first + n * many / (TIMES - 1)).collect(),
        };
        times.dedup();
        for (n, time) in times.into_iter().enumerate() {
            // Each error at each time would take minutes: they take turns, and the first time gets all.
            for (e, errno) in ERRNOS.into_iter().enumerate() {
                if n == 0 || n % ERRNOS.len() == e {
                    faults.push(Fault {
                        call: call.clone(),
                        errno,
                        when: time.to_string(),
                    });
                }
            }
        }
    }
    faults
}

fn builder(engine: Option<Engine>, backend: &Backend) -> common::proxy::Builder {
    let builder = Proxy::builder();
    let control = builder.dir().join("control.sock");
    let control = control.to_str().unwrap().to_owned();
    let builder = match engine {
        Some(engine) => builder.engine(engine),
        None => builder,
    };
    let options = ["--workers", "1", "--metrics", "127.0.0.1:0"];
    builder
        .backend(format!("localhost:{}", backend.port()))
        .args(options)
        .args(["--control", &control])
}

impl Fault {
    fn start(&self, engine: Option<Engine>, backend: &Backend) -> Result<Proxy, Outcome> {
        let Self { call, errno, when } = self;
        let trace = format!("trace={call}");
        let inject = format!("inject={call}:error={errno}:when={when}");
        let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null"];
        let words = strace.into_iter().chain(["-e", &trace, "-e", &inject]);
        builder(engine, backend).through(words).start_or_end()
    }

    /// A daemon, which can be ended, or one line. Never a panic.
    fn judge(&self, engine: Option<Engine>, backend: &Backend) -> Result<(), String> {
        let (lines, code, ran) = match self.start(engine, backend) {
            Ok(mut proxy) => {
                proxy.terminate();
                let by = Instant::now() + END_TIMEOUT;
                while proxy.is_running() && Instant::now() < by {
                    pause(Duration::from_millis(5));
                }
                let code = match proxy.is_running() {
                    true => None,
                    false => proxy.wait().code(),
                };
                (proxy.process().log().lines(), code, true)
            }
            Err(outcome) => (outcome.stderr, outcome.code, false),
        };
        let said = lines
            .iter()
            .filter(|line| line.starts_with("spliceway: "))
            .count();
        let panicked = lines.iter().any(|line| line.contains("panicked"));
        let as_said = match code {
            Some(0) => ran && said == 0,
            Some(1) => said == 1,
            _ => false,
        };
        match as_said && !panicked {
            true => Ok(()),
            false => Err(format!("{self:?}: exit code {code:?}, {lines:#?}")),
        }
    }
}
