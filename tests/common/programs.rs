//! Other people's programs, as Debian packages them. One that is missing is a failure: `scripts/test`
//! installs all of them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::process::Process;
use super::sys::ChildSetup;

pub(crate) fn start_socat(arguments: &[&str]) -> Process {
    let mut command = Command::new(program(&["/usr/bin/socat"]));
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    Process::start(
        command,
        ChildSetup {
            death_signal: libc::SIGTERM,
            ..ChildSetup::default()
        },
    )
}

/// The first of the places where a program may be that exists.
pub(crate) fn program(candidates: &[&str]) -> PathBuf {
    let found = candidates
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{} is missing: run scripts/test", candidates[0]))
}
