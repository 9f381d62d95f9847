//! socat, which forks for each connection.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BACKLOG, Job, Peer, find_one, output_of, word_after};

pub(super) struct Socat;

impl Peer for Socat {
    fn key(&self) -> String {
        "socat".to_owned()
    }

    fn name(&self) -> String {
        "socat (fork)".to_owned()
    }

    fn find(&self) -> Result<PathBuf, String> {
        find_one(&["/usr/bin/socat"], "socat")
    }

    fn version(&self, program: &Path) -> String {
        word_after(&output_of(program, "-V"), "socat version ")
    }

    fn threads_default(&self) -> &'static str {
        "a process per connection"
    }

    fn command(&self, program: &Path, job: &Job<'_>) -> std::io::Result<Command> {
        let listen = format!(
            "UNIX-LISTEN:{},fork,backlog={BACKLOG}",
            job.socket().display()
        );
        let mut command = Command::new(program);
        command.arg(listen).arg(format!("TCP:{}", job.backend()));
        Ok(command)
    }

    /// Each is a process: 4,000 would take over a gigabyte.
    fn idle_max(&self) -> usize {
        200
    }
}
