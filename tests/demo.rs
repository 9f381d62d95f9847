//! `spliceway demo` needs nothing, checks every response, and compares the two paths.

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::process::{Command, Stdio};

use common::process::Process;
use common::proxy::fresh_dir;
use common::sys::ChildSetup;

#[test]
fn demo_succeeds_and_compares_both_paths() {
    let dir = fresh_dir();
    let mut command = Command::new(env!("CARGO_BIN_EXE_spliceway"));
    command
        .args(["demo", "--duration", "300ms"])
        .current_dir(dir.path());
    command
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let setup = ChildSetup {
        death_signal: libc::SIGKILL,
        ..ChildSetup::default()
    };
    let mut process = Process::start(command, setup);

    let mut table = String::new();
    let mut stdout = process.child().stdout.take().unwrap();
    stdout.read_to_string(&mut table).unwrap();
    assert_eq!(process.wait().code(), Some(0), "{table}");

    for heading in ["req/s", "p50", "p99"] {
        assert!(table.contains(heading), "no {heading} in:\n{table}");
    }
    for path in ["through spliceway", "straight"] {
        let rows = table.lines().filter(|line| line.contains(path));
        let with_figures = rows.filter(|line| line.matches(char::is_numeric).count() >= 3);
        assert!(
            with_figures.count() >= 1,
            "no row with figures for {path:?} in:\n{table}"
        );
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "the demo leaves files behind: {left:?}");
}
