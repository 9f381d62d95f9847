//! What a result must say of the machine to be one.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use super::accounting;
use super::results::Machine;

/// Asks the system; what cannot be found is "unknown".
pub(super) fn describe(client_threads: usize, responder_threads: usize) -> Machine {
    Machine {
        command: command_line(),
        date: today(),
        commit: commit(),
        kernel: first_words("/proc/sys/kernel/osrelease"),
        processor: field("/proc/cpuinfo", "model name"),
        cores: cores(),
        memory_mb: memory_mb(),
        rust: output("rustc", &["--version"]),
        accounting: accounting::method().to_owned(),
        client_threads,
        responder_threads,
    }
}

/// The processors that this process may use.
pub(super) fn cores() -> usize {
    spliceway_common::sys::process::processors().map_or(1, |processors| processors.len().max(1))
}

/// As it was typed, but for the directory of the program.
fn command_line() -> String {
    let mut words: Vec<String> = std::env::args().collect();
    if let Some(program) = words.first_mut()
        && let Some((_, name)) = program.rsplit_once('/')
    {
        *program = name.to_owned();
    }
    // A script that runs this says what it was called as.
    std::env::var("SPLICEWAY_BENCH_COMMAND").unwrap_or_else(|_| words.join(" "))
}

fn commit() -> String {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
    // The results themselves are about to change.
    let changes = output(
        "git",
        &[
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            ".",
            ":!RESULTS.md",
            ":!docs/results",
        ],
    );
    if changes == UNKNOWN {
        commit
    } else {
        format!("{commit}, with changes that are not committed")
    }
}

const UNKNOWN: &str = "unknown";

fn output(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.filter(|text| !text.is_empty())
        .unwrap_or_else(|| UNKNOWN.to_owned())
}

fn first_words(file: &str) -> String {
    fs::read_to_string(file).map_or_else(|_| UNKNOWN.to_owned(), |text| text.trim().to_owned())
}

fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.trim() == name);
    found.map_or_else(|| UNKNOWN.to_owned(), |(_, value)| value.trim().to_owned())
}

fn memory_mb() -> u64 {
    let total = field("/proc/meminfo", "MemTotal");
    let kb = total
        .strip_suffix(" kB")
        .and_then(|kb| kb.parse::<u64>().ok());
    kb.unwrap_or(0) / 1024
}

fn today() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let text = now.map(|since| humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string());
    // Date and minutes are enough.
    text.map_or_else(
        |_| UNKNOWN.to_owned(),
        |text| text.get(..16).unwrap_or(UNKNOWN).replace('T', " "),
    )
}
