//! `spliceway-bench load` and `respond` as programs: what they report, and that they notice whatever
//! is wrong.

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _, copy};
use std::net::{Shutdown, TcpStream};
use std::num::NonZeroUsize;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use common::process::Process;
use common::programs::{fresh_endpoint, start_fpm};
use common::proxy::fresh_dir;
use common::sys::{ChildSetup, refusing_port};
use common::wait::{eventually, pause};
use serde_json::Value;
use spliceway_load::load::{self, Connections, Control, Pace, Plan, Request, Target};

fn start(args: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spliceway-bench"));
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let setup = ChildSetup {
        death_signal: libc::SIGKILL,
        ..ChildSetup::default()
    };
    Process::start(command, setup)
}

/// What a program that has ended left behind.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: Vec<String>,
}

fn run(args: &[&str]) -> Ended {
    let mut process = start(args);
    let mut stdout = String::new();
    let mut pipe = process.child().stdout.take().unwrap();
    pipe.read_to_string(&mut stdout).unwrap();
    Ended {
        code: process.wait().code(),
        stdout,
        stderr: process.log().lines(),
    }
}

/// A load without a warm-up; the report as JSON.
fn load(to: &str, args: &[&str]) -> Value {
    let all = [
        &["load", "--to", to, "--warm-up", "0s", "--format", "json"],
        args,
    ]
    .concat();
    let ended = run(&all);
    assert_eq!(ended.code, Some(0), "{args:?}: {:?}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// A load that fails; its only line.
fn failing_load(to: &str, args: &[&str]) -> String {
    let ended = run(&[&["load", "--to", to, "--warm-up", "0s"], args].concat());
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(1), ""),
        "{args:?}"
    );
    assert_eq!(ended.stderr.len(), 1, "{:?}", ended.stderr);
    ended.stderr[0].clone()
}

/// A running responder, and where it says that it is.
struct Responder {
    process: Process,
    tcp: String,
    unix: String,
    _dir: tempfile::TempDir,
}

impl Responder {
    fn start(args: &[&str]) -> Self {
        let dir = fresh_dir();
        let path = format!("unix:{}", dir.path().join("respond.sock").display());
        let listen = ["respond", "--listen", "tcp:127.0.0.1:0", "--listen", &path];
        let mut process = start(&[&listen, args].concat());
        let mut lines = BufReader::new(process.child().stdout.take().unwrap()).lines();
        let mut ready = |kind: &str| {
            let line = lines.next().expect("a line for each address").unwrap();
            let address = line.strip_prefix(&format!("ready {kind}"));
            address.unwrap_or_else(|| panic!("{line}")).to_owned()
        };
        let (tcp, unix) = (ready("tcp:"), format!("unix:{}", ready("unix:")));
        assert_eq!(unix, path);
        Self {
            process,
            tcp,
            unix,
            _dir: dir,
        }
    }

    /// Ends it; its last words.
    fn stop(mut self) -> String {
        self.process.signal(libc::SIGTERM);
        assert_eq!(self.process.wait().code(), Some(0));
        assert!(!Path::new(self.unix.strip_prefix("unix:").unwrap()).exists());
        self.process.log().lines().concat()
    }
}

#[test]
fn every_kind_of_load_is_answered() {
    let responder = Responder::start(&[]);
    for to in [&responder.tcp, &responder.unix] {
        for pace in [
            &["--concurrency", "8"][..],
            &["--rate", "2000", "--connections-max", "8"],
        ] {
            for kind in [&[][..], &["--keep"]] {
                let report = load(to, &[pace, kind, &["--count", "100"]].concat());
                assert_eq!(report["requests"], 100, "{report}");
                assert_eq!(report["response_bytes_sum"], 409_600, "{report}");
                let opened = report["connections_opened"].as_u64().unwrap();
                assert!(
                    if kind.is_empty() {
                        opened == 100
                    } else {
                        opened <= 8
                    },
                    "{report}"
                );
            }
        }
    }
    let words = responder.stop();
    assert!(words.contains("respond: 800 requests on "), "{words}");
}

#[test]
fn large_bodies_and_large_answers_pass() {
    let responder = Responder::start(&[]);
    for to in [&responder.tcp, &responder.unix] {
        for keep in [&[][..], &["--keep"]] {
            for sizes in [
                ["--body-bytes", "5MB", "--response-bytes", "1KiB"],
                ["--body-bytes", "0", "--response-bytes", "16MiB"],
                ["--body-bytes", "5MB", "--response-bytes", "16MiB"],
            ] {
                let more = &["--count", "8", "--concurrency", "4"];
                let report = load(to, &[&sizes[..], keep, more].concat());
                assert_eq!(report["requests"], 8, "{report}");
            }
        }
    }
}

#[test]
fn so_many_workers_serve_so_many_connections() {
    let responder = Responder::start(&["--workers", "3"]);
    let report = load(&responder.tcp, &["--concurrency", "16", "--count", "400"]);
    assert_eq!(report["requests"], 400);
    load(
        &responder.unix,
        &["--keep", "--concurrency", "3", "--count", "400"],
    );
    let words = responder.stop();
    assert!(
        words.contains("800 requests") && words.contains("at most 3 at one time"),
        "{words}"
    );
}

/// Each worker is busy until its client closes, so that a fourth client is never served.
#[test]
fn kept_connections_starve_further_clients_of_so_many_workers() {
    let responder = Responder::start(&["--workers", "3"]);
    let keep = [
        "--keep",
        "--concurrency",
        "4",
        "--duration",
        "60s",
        "--deadline",
        "500ms",
    ];
    let line = failing_load(&responder.tcp, &keep);
    assert!(
        line.contains("no answer within the deadline of 500ms: "),
        "{line}"
    );
}

#[test]
fn a_report_has_the_plan_and_the_figures() {
    let (responder, dir) = (Responder::start(&[]), fresh_dir());
    let hgrm = dir.path().join("latency.hgrm");
    let hgrm = hgrm.to_str().unwrap();
    let args = [
        "--concurrency",
        "3",
        "--count",
        "50",
        "--delay",
        "1ms",
        "--hgrm",
        hgrm,
    ];
    let report = load(&responder.tcp, &args);
    for (field, value) in [
        ("target", Value::from(format!("tcp:{}", responder.tcp))),
        ("pace", "closed".into()),
        ("concurrency", 3.into()),
        ("connections", "new".into()),
        ("request", "synthetic".into()),
        ("request_bytes", 600.into()),
        ("response_bytes", 4096.into()),
        ("delay_us", 1000.into()),
        ("requests_max", 50.into()),
        ("deadline_s", 30.0.into()),
        ("requests", 50.into()),
    ] {
        assert_eq!(report[field], value, "{field}");
    }
    let quantiles = ["min", "p50", "p90", "p99", "p999", "max"];
    let latencies = quantiles.map(|name| report[format!("latency_{name}_us")].as_f64().unwrap());
    assert!(latencies.is_sorted(), "{latencies:?}");
    assert!(
        latencies[0] >= 1000.0,
        "an answer came before its delay: {latencies:?}"
    );
    assert!(report["requests_per_s"].as_f64().unwrap() > 0.0);

    let distribution = fs::read_to_string(hgrm).unwrap();
    let last = distribution
        .lines()
        .rfind(|line| !line.starts_with('#'))
        .unwrap();
    assert!(
        last.ends_with(" 1.000000000000         50"),
        "{distribution}"
    );

    let text = run(&[
        "load",
        "--to",
        &responder.unix,
        "--warm-up",
        "0s",
        "--count",
        "50",
    ]);
    assert_eq!((text.code, text.stderr.len()), (Some(0), 0));
    for words in [
        "closed loop, 16 clients to unix:/",
        "answered   50 in ",
        "p99.9 ",
    ] {
        assert!(
            text.stdout.contains(words),
            "no {words:?} in:\n{}",
            text.stdout
        );
    }
}

#[test]
fn a_signal_ends_a_load_with_its_result() {
    let responder = Responder::start(&[]);
    let idle = responder.process.open_descriptors();
    let to = ["load", "--to", &responder.tcp, "--keep"];
    let mut process = start(&[&to[..], &["--duration", "1h", "--warm-up", "0s"]].concat());
    eventually("the load has begun", || {
        responder.process.open_descriptors() > idle
    });
    process.signal(libc::SIGINT);
    let mut stdout = String::new();
    let mut pipe = process.child().stdout.take().unwrap();
    pipe.read_to_string(&mut stdout).unwrap();
    assert_eq!(process.wait().code(), Some(0));
    assert!(stdout.contains("answered   "), "{stdout}");
}

/// Requests that were due while nobody answered count from then on: a client that waited for its
/// answers before it sent on would have seen only as many slow ones as it has connections.
#[test]
fn a_stall_shows_in_all_requests_that_were_due_meanwhile() {
    const STALL: Duration = Duration::from_millis(600);
    const CONNECTIONS: usize = 8;
    let responder = Responder::start(&[]);
    let plan = Plan {
        target: Target::Tcp(responder.tcp.parse().unwrap()),
        pace: Pace::Open {
            rate: 1000.0,
            connections_max: NonZeroUsize::new(CONNECTIONS).unwrap(),
        },
        connections: Connections::New,
        request: Request::Synthetic {
            params_bytes: 600,
            params: Vec::new(),
            body_bytes: 0,
            response_bytes: 4096,
            delay: Duration::ZERO,
        },
        warm_up: Duration::ZERO,
        duration: Duration::from_secs(3600),
        requests_max: Some(1500),
        threads: NonZeroUsize::new(2).unwrap(),
        deadline: load::DEADLINE_DEFAULT,
    };
    let control = Control::default();
    let measured = thread::scope(|scope| {
        let load = scope.spawn(|| load::run(&plan, &control));
        eventually("the load is under way", || {
            control.answered.load(Ordering::Relaxed) >= 100
        });
        responder.process.signal(libc::SIGSTOP);
        eventually("it is stopped", || responder.process.is_stopped());
        pause(STALL);
        responder.process.signal(libc::SIGCONT);
        load.join().unwrap().unwrap()
    });
    assert_eq!(measured.requests, 1500);
    let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap();
    let slow = measured
        .latency_ns
        .count_between(nanoseconds(STALL / 2), u64::MAX);
    // One each millisecond was due in the first half of the stall.
    assert!(
        slow >= 250,
        "only {slow} requests waited for half of the stall or longer"
    );
}

/// How the relay of a test tampers with complete answers.
type Tamper = fn(&mut Vec<u8>);

/// A Unix socket behind which two sessions at a time are relayed to `backend`, and their answers
/// exchanged if `swap` says so.
fn tampering_relay(dir: &Path, backend: &str, tamper: Tamper, swap: bool) -> String {
    let path = dir.join("relay.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let backend = backend.to_owned();
    thread::spawn(move || {
        let mut clients = listener.incoming().map(Result::unwrap);
        while let (Some(one), Some(other)) = (clients.next(), clients.next()) {
            let backend = backend.clone();
            thread::spawn(move || relay(one, other, &backend, tamper, swap));
        }
    });
    format!("unix:{}", path.display())
}

fn relay(one: UnixStream, other: UnixStream, backend: &str, tamper: Tamper, swap: bool) {
    let both = [
        (one.try_clone().unwrap(), &other),
        (other.try_clone().unwrap(), &one),
    ];
    let met = Barrier::new(2);
    thread::scope(|scope| {
        for (client, neighbour) in both {
            let met = &met;
            scope.spawn(move || {
                let mut backend = TcpStream::connect(backend).unwrap();
                let (mut from, mut to) =
                    (client.try_clone().unwrap(), backend.try_clone().unwrap());
                let forward = thread::spawn(move || copy(&mut from, &mut to));
                let mut answer = Vec::new();
                backend.read_to_end(&mut answer).unwrap();
                tamper(&mut answer);
                met.wait();
                let mut to = if swap { neighbour } else { &client };
                let _ = to.write_all(&answer);
                let _ = to.shutdown(Shutdown::Both);
                let _ = backend.shutdown(Shutdown::Both);
                drop(forward.join());
            });
        }
    });
}

#[test]
fn whatever_a_relay_does_to_an_answer_is_noticed() {
    let responder = Responder::start(&[]);
    let cases: [(Tamper, bool, &str); 6] = [
        (|_| {}, true, "the answer is that to request "),
        (
            |answer| answer[3000] ^= 4,
            false,
            "the answer is wrong: byte 2992 of 4096 is 0x",
        ),
        (
            |answer| *answer = [&answer[..500], &answer[501..]].concat(),
            false,
            "byte 492 of 4096",
        ),
        (
            |answer| *answer = [&answer[..500], &answer[499..]].concat(),
            false,
            "byte 492 of 4096",
        ),
        (
            |answer| answer.truncate(2008),
            false,
            "the connection ended after 2000 of 4096 bytes",
        ),
        (
            |answer| answer[2] ^= 1,
            false,
            "a record of request id 257, not 1",
        ),
    ];
    for (tamper, swap, words) in cases {
        let dir = fresh_dir();
        let to = tampering_relay(dir.path(), &responder.tcp, tamper, swap);
        let line = failing_load(&to, &["--concurrency", "2", "--count", "1000"]);
        let named = format!("spliceway-bench: {to}, request ");
        assert!(line.starts_with(&named) && line.contains(words), "{line}");
    }
    let dir = fresh_dir();
    let to = tampering_relay(dir.path(), &responder.tcp, |_| {}, false);
    let report = load(&to, &["--concurrency", "2", "--count", "100"]);
    assert_eq!(report["requests"], 100);
}

#[test]
fn a_backend_that_never_answers_is_a_failure_that_names_the_deadline() {
    let responder = Responder::start(&[]);
    responder.process.signal(libc::SIGSTOP);
    for to in [&responder.tcp, &responder.unix] {
        let line = failing_load(to, &["--deadline", "300ms"]);
        let words =
            "no answer within the deadline of 300ms: 0 of 4096 bytes of the answer had come";
        assert!(line.contains(words), "{line}");
    }
}

#[test]
fn nobody_listening_is_one_line() {
    let (_held, address) = refusing_port().unwrap();
    let dir = fresh_dir();
    let path = format!("unix:{}", dir.path().join("nobody.sock").display());
    for to in [address.to_string(), path] {
        let line = failing_load(&to, &[]);
        assert!(line.contains(&to) && line.contains(": connect: "), "{line}");
    }
}

#[test]
fn wrong_arguments_are_one_line_and_exit_code_2() {
    for (args, words) in [
        ("load", "missing required option: --to <ADDRESS>"),
        ("load --to nowhere", "missing port"),
        ("load --to a:1 --rate 0", "not a rate"),
        ("load --to a:1 --rate 5 --concurrency 5", "--concurrency"),
        (
            "load --to a:1 --connections-max 5",
            "missing required option: --rate <R>",
        ),
        (
            "load --to a:1 --request-bytes 10",
            "10 bytes of parameters (give ",
        ),
        ("load --to a:1 --response-bytes 4K", "not a size"),
        (
            "load --to a:1 --response-bytes 1",
            "an answer of 1 bytes (give ",
        ),
        ("load --to a:1 --script index.php", "not an absolute path"),
        ("load --to a:1 --param A=b", "--script <PATH>"),
        ("load --to a:1 --delay 1m", "give a longer deadline"),
        ("respond", "missing required option: --listen <ADDRESS>"),
        ("respond --listen a:1", "not an address"),
        (
            "respond --listen unix:@a",
            "abstract sockets are not served",
        ),
        (
            "respond --listen 127.0.0.1:0 --listen 127.0.0.1:0",
            "two tcp addresses",
        ),
        (
            "respond --listen 127.0.0.1:0 --workers 0",
            "not a whole number from 1 to ",
        ),
        ("lode", "unknown command 'lode'"),
    ] {
        let ended = run(&args.split(' ').collect::<Vec<_>>());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args}");
        assert_eq!(ended.stderr.len(), 1, "{args}: {:?}", ended.stderr);
        let line = &ended.stderr[0];
        assert!(
            line.starts_with("spliceway-bench: ") && line.contains(words),
            "{args}: {line}"
        );
        assert!(line.ends_with("--help'"), "{args}: {line}");
    }
}

const HELLO_PHP: &str = "<?php header('X-Time: ' . hrtime(true)); echo str_repeat('hello ', 5000);";
const ECHO_PHP: &str = "<?php echo $_SERVER['REQUEST_METHOD'], ' ', strlen(file_get_contents('php://input')), ' ', $_SERVER['X_MINE'];";
const TIME_PHP: &str = "<?php echo hrtime(true);";
const FATAL_PHP: &str = "<?php not_a_function();";
const NOTE_PHP: &str =
    "<?php file_put_contents('php://stderr', 'x'); error_log('a note'); echo 'fine';";

#[test]
fn php_fpm_is_asked_for_scripts() {
    let (dir, endpoint) = (fresh_dir(), fresh_endpoint());
    let script = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let _fpm = start_fpm(dir.path(), &endpoint);
    let to = &format!("{}:{}", endpoint.0, endpoint.1);
    let ask = |script: &str, args: &[&str]| {
        let count = ["--script", script, "--count", "200", "--concurrency", "4"];
        load(to, &[&count, args].concat())
    };
    let fail =
        |script: &str, args: &[&str]| failing_load(to, &[&["--script", script], args].concat());

    let hello = script("hello.php", HELLO_PHP);
    for keep in [&[][..], &["--keep"]] {
        let report = ask(&hello, keep);
        assert_eq!(report["requests"], 200, "{report}");
        assert!(
            report["response_bytes_sum"].as_u64().unwrap() > 200 * 30_000,
            "{report}"
        );
    }
    let echo = script("echo.php", ECHO_PHP);
    let report = ask(&echo, &["--body-bytes", "300000", "--param", "X_MINE=here"]);
    assert_eq!(
        (&report["requests"], &report["params"][0][1]),
        (&200.into(), &"here".into())
    );

    let time = script("time.php", TIME_PHP);
    assert_eq!(ask(&time, &["--varying"])["requests"], 200);
    let line = fail(&time, &[]);
    assert!(
        line.contains("the answer differs from the first one"),
        "{line}"
    );

    let line = fail(dir.path().join("no.php").to_str().unwrap(), &[]);
    assert!(
        line.contains("the script answered with status 404 Not Found"),
        "{line}"
    );
    assert!(line.contains("it said: Primary script unknown"), "{line}");
    let line = fail(
        &script("fatal.php", FATAL_PHP),
        &["--param", "PHP_VALUE=display_errors=0\nlog_errors=1"],
    );
    assert!(
        line.contains("status 500") && line.contains("not_a_function"),
        "{line}"
    );

    let note = ask(&script("note.php", NOTE_PHP), &[]);
    let warning = note["warning"].as_str().unwrap();
    assert!(warning.contains("a note"), "{warning}");
}
