//! `spliceway demo` needs nothing, checks every response, and compares the three paths.

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use common::process::Process;
use common::proxy::fresh_dir;
use common::sys::ChildSetup;
use common::sys::pty::{self, Pty};
use common::{Engine, for_each_engine};

for_each_engine!(
    three_paths_are_compared,
    a_terminal_shows_a_progress_bar_and_then_the_table,
);

/// As the table names them.
const PATHS: [&str; 3] = ["direct TCP", "spliceway, raw", "spliceway, FastCGI mode"];

fn demo(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spliceway"));
    command
        .args(["demo", "--duration", "300ms"])
        .current_dir(dir)
        .env("TMPDIR", dir)
        .stdin(Stdio::null());
    command
}

fn with(engine: Engine, dir: &Path) -> Command {
    let mut command = demo(dir);
    command.args(["--engine", &engine.to_string()]);
    command
}

/// What it prints on a pipe, and on another one as its stderr.
fn printed(mut command: Command, setup: ChildSetup) -> (String, Vec<String>) {
    command.stdout(Stdio::piped());
    let mut process = Process::start(command, setup);
    let mut table = String::new();
    let mut stdout = process.child().stdout.take().unwrap();
    stdout.read_to_string(&mut table).unwrap();
    assert_eq!(process.wait().code(), Some(0), "{table}");
    (table, process.log().lines())
}

fn bound_to_us() -> ChildSetup {
    ChildSetup {
        death_signal: libc::SIGKILL,
        ..ChildSetup::default()
    }
}

/// A row for each path, whose ratio is that of its rate to the first one's, and two lines below.
#[track_caller]
fn assert_compares(table: &str, engine: &str) {
    let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
    let [titles, rows @ .., "", setting, meaning] = &lines[..] else {
        panic!("not a table and two lines:\n{table}");
    };
    for title in ["path", "requests", "req/s", "p50 µs", "p99 µs", "ratio"] {
        assert!(titles.contains(title), "no {title} in:\n{table}");
    }
    assert_eq!(rows.len(), PATHS.len(), "{table}");
    let rate = |row: &str| {
        let figures: Vec<f64> = row
            .split_ascii_whitespace()
            .filter_map(|word| word.replace(',', "").parse().ok())
            .collect();
        let [requests, rate, p50, p99, ratio] = figures[..] else {
            panic!("not five figures in {row:?}");
        };
        assert!(requests > 0.0 && rate > 0.0 && p50 <= p99, "{row:?}");
        (rate, ratio)
    };
    let (direct, _) = rate(rows[0]);
    for (row, path) in rows.iter().zip(PATHS) {
        assert!(row.starts_with(path), "{row:?} is not of {path}");
        let (rate, ratio) = rate(row);
        assert!((rate / direct - ratio).abs() < 0.006, "{table}");
    }
    assert!(setting.starts_with(&format!("engine: {engine}")), "{table}");
    assert!(meaning.contains("Next: 'spliceway run"), "{table}");
}

#[track_caller]
fn assert_empty(dir: &Path) {
    let left: Vec<_> = std::fs::read_dir(dir).unwrap().collect();
    assert!(left.is_empty(), "the demo leaves files behind: {left:?}");
}

fn three_paths_are_compared(engine: Engine) {
    let dir = fresh_dir();
    let (table, log) = printed(with(engine, dir.path()), bound_to_us());
    assert_compares(&table, &engine.to_string());
    assert_empty(dir.path());

    // Each line is there for everyone's eyes, and nothing is warned of.
    assert_eq!(log.len(), 1 + 6, "{log:?}");
    let rounds = |number: u32| log.contains(&format!("demo: round {number}"));
    assert!((1..=6).all(rounds), "{log:?}");
    for line in log.iter().map(String::as_str).chain([&*table]) {
        let is_plain = |it: char| !it.is_control() || it == '\n';
        assert!(line.chars().all(is_plain), "{line:?}");
    }
}

fn a_terminal_shows_a_progress_bar_and_then_the_table(engine: Engine) {
    let dir = fresh_dir();
    let pty = Pty::new(120, 24).unwrap();
    let mut command = with(engine, dir.path());
    let stream = || Stdio::from(pty.program.try_clone().unwrap());
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    command.stdout(stream()).stderr(stream());
    pty::in_own_session(&mut command, false);
    let mut child = command.spawn().unwrap();
    // What is left of the program's end is its own: the terminal ends with it.
    drop((command, pty.program));
    let mut bytes = Vec::new();
    // The end of a terminal is an error to who reads it.
    let ended = { &pty.person }.read_to_end(&mut bytes).unwrap_err();
    assert_eq!(ended.raw_os_error(), Some(libc::EIO));
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.contains("demo: round"), "{text:?}");
    // Each path in turn, beside a bar that gets longer.
    for path in PATHS {
        assert!(text.contains(&format!("round 1: {path}")), "{text:?}");
    }
    assert!(text.contains("█░") && text.contains("███"), "{text:?}");
    // The bar is gone before the table is there.
    let table = text.find("path  ").expect("there is a table");
    assert!(!text[table..].contains("round"), "{text:?}");
    assert_compares(&text[table..].replace('\r', ""), &engine.to_string());
    assert_empty(dir.path());
}

#[test]
fn without_io_uring_the_demo_says_that_epoll_ran() {
    let dir = fresh_dir();
    let setup = ChildSetup {
        io_uring_errno: Some(libc::EPERM),
        ..bound_to_us()
    };
    let (table, log) = printed(demo(dir.path()), setup);
    assert_compares(&table, "epoll, as io_uring is not available here");
    let warning = log.iter().find(|line| line.contains("EPERM"));
    assert!(warning.is_some(), "{log:?}");
}
