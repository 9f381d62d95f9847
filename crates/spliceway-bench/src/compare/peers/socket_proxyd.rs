//! systemd-socket-proxyd, which gets its socket from systemd-socket-activate.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{CONNECTIONS_MAX, Job, Peer, find_one, output_of, word_after};

/// A service of systemd's, not in the PATH.
const PROXYD: &str = "/lib/systemd/systemd-socket-proxyd";

/// One, for one socket.
pub(in super::super) struct SocketProxyd;

impl Peer for SocketProxyd {
    fn key(&self) -> String {
        "socket-proxyd".to_owned()
    }

    fn name(&self) -> String {
        "systemd-socket-proxyd".to_owned()
    }

    fn find(&self) -> Result<PathBuf, String> {
        find_one(&[PROXYD], "systemd")?;
        find_one(&["/usr/bin/systemd-socket-activate"], "systemd")
    }

    fn version(&self, program: &Path) -> String {
        word_after(&output_of(program, "--version"), "systemd ")
    }

    fn threads_default(&self) -> &'static str {
        "one thread, and helpers that look names up"
    }

    fn command(&self, program: &Path, job: &Job<'_>) -> std::io::Result<Command> {
        let mut command = Command::new(program);
        command.arg("-l").arg(job.socket()).arg(PROXYD);
        command.args(["-c", &CONNECTIONS_MAX.to_string()]);
        command.arg(job.backend().to_string());
        Ok(command)
    }
}
