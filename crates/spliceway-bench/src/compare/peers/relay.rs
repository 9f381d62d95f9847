//! The relay that a Rust programmer would write: `spliceway-bench relay`, on tokio-uring.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Job, Peer};

pub(super) struct Relay;

impl Peer for Relay {
    fn key(&self) -> String {
        "tokio-uring".to_owned()
    }

    fn name(&self) -> String {
        "tokio-uring relay".to_owned()
    }

    fn find(&self) -> Result<PathBuf, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut help = Command::new(&program);
        help.args(["relay", "--help"]);
        help.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match help.status() {
            Ok(status) if status.success() => Ok(program),
            _ => Err("this program was built without its relay".to_owned()),
        }
    }

    fn version(&self, _program: &Path) -> String {
        "spliceway-bench relay".to_owned()
    }

    fn threads_default(&self) -> &'static str {
        "one thread"
    }

    fn command(&self, program: &Path, job: &Job<'_>) -> std::io::Result<Command> {
        let mut command = Command::new(program);
        command
            .arg("relay")
            .arg(format!("--listen=unix:{}", job.socket().display()))
            .arg(format!("--to={}", job.backend()));
        Ok(command)
    }
}
