//! A program that serves during the comparison: start it, wait until it does, account for it, end
//! it.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use spliceway_common::sys::child::{EndBy, send_signal, spawn_bound_by, terminate};
use tempfile::TempDir;

use super::accounting::{Group, Ledger};

/// How long a program may take until it serves; the slowest, PHP-FPM, takes a fraction of a second.
const START_MAX: Duration = Duration::from_secs(10);

/// How long a program may take to end before it is killed. Nothing of value is lost.
const STOP_MAX: Duration = Duration::from_secs(1);

/// How often a program is looked at while it starts or ends.
const POLL: Duration = Duration::from_millis(5);

/// How much of the end of its log is quoted.
const SAID_CHARS: usize = 300;

/// A running program. Dropping it ends it, with everything that it started.
pub(super) struct Server {
    child: Child,
    ledger: Ledger,
    log: PathBuf,
    /// Dropped after the program has ended.
    dir: TempDir,
}

impl Server {
    /// Starts what `configure` gives for a new directory, and waits until `ready`.
    pub(super) fn start(
        configure: impl FnOnce(&Path) -> anyhow::Result<Command>,
        ready: impl Fn(&Path) -> bool,
    ) -> anyhow::Result<Self> {
        let dir = open_dir()?;
        let command = configure(dir.path())?;
        let mut server = Self::launch(&command, dir)
            .with_context(|| format!("start {}", command.get_program().display()))?;
        server.wait_until(ready)?;
        Ok(server)
    }

    fn launch(command: &Command, dir: TempDir) -> io::Result<Self> {
        let log = dir.path().join("log");
        let out = File::create(&log)?;
        let group = Group::create();
        let mut command = match &group {
            Some(group) => entering(group, command),
            None => repeated(command),
        };
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // An interrupt from the keyboard ends us; the kernel then ends the program.
            .process_group(0);
        let child = spawn_bound_by(&mut command, EndBy::Terminate)?;
        let ledger = match group {
            Some(group) => Ledger::Group(group),
            None => Ledger::Tree { root: child.id() },
        };
        Ok(Self {
            child,
            ledger,
            log,
            dir,
        })
    }

    fn wait_until(&mut self, ready: impl Fn(&Path) -> bool) -> anyhow::Result<()> {
        let started = Instant::now();
        while !ready(self.dir.path()) {
            if !self.is_running() {
                bail!("it ended while it started, saying: {}", self.said());
            }
            if started.elapsed() > START_MAX {
                bail!(
                    "it took no connection for {START_MAX:?}, saying: {}",
                    self.said()
                );
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Where its files are.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it costs.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether it has not ended.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of what it has written, in one line.
    pub(super) fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().replace('\n', " / ");
        match text.char_indices().rev().nth(SAID_CHARS) {
            None if text.is_empty() => "nothing".to_owned(),
            None => text,
            Some((cut, _)) => format!("…{}", &text[cut..]),
        }
    }

    /// Sends its first process a signal.
    pub(super) fn signal(&mut self, signal: libc::c_int) -> io::Result<()> {
        if !self.is_running() {
            return Err(io::Error::other("it has ended"));
        }
        send_signal(self.child.id(), signal)
    }

    /// Ends it at once: for one that is stuck.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A child that was not waited for can be signalled even if it has ended; the others are
        // gone. What remains of its own children goes with the group.
        if self.is_running() {
            let _ = terminate(self.child.id());
        }
        let asked = Instant::now();
        while self.is_running() && asked.elapsed() < STOP_MAX {
            thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory that servers under other users may enter: nginx and PHP-FPM change theirs.
fn open_dir() -> anyhow::Result<TempDir> {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new()
        .prefix("spliceway-bench-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .context("create a temporary directory (set TMPDIR to one that you may write to)")
}

/// The command, begun by a shell that enters the group before it becomes the program: so that
/// everything the program ever does is in the group's account.
fn entering(group: &Group, command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", r#"echo 0 >"$0" && exec "$@""#])
        .arg(group.door())
        .arg(command.get_program())
        .args(command.get_args());
    shell
}

fn repeated(command: &Command) -> Command {
    let mut again = Command::new(command.get_program());
    again.args(command.get_args());
    again
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> anyhow::Result<Server> {
        Server::start(
            |_| {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", text]);
                Ok(command)
            },
            |dir| fs::read(dir.join("log")).is_ok_and(|log| log.starts_with(b"up")),
        )
    }

    #[test]
    fn a_server_that_dies_at_start_is_reported_with_its_words() {
        let error = script("echo no such port; exit 3").err().unwrap();
        assert!(
            error.to_string().ends_with("saying: no such port"),
            "{error}"
        );
    }

    #[test]
    fn a_dropped_server_leaves_nothing_behind() {
        let mut server = script("echo up; exec sleep 600").unwrap();
        assert!(server.is_running());
        let (pid, dir) = (server.child.id(), server.dir().to_owned());
        drop(server);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!dir.exists());
    }
}
