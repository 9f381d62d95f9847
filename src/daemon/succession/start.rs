//! Starting a successor: the program that is at this one's path now, with the words that this one was started with.
//!
//! The path is remembered from the start: once another program was installed there, /proc says of this one that it is
//! deleted. What the successor does, and when it serves, is between it and this process; here is only how it is
//! started, and that it has ended.
//!
//! It finds what this process has found: the same directory, the same standard output and error, the variables of the
//! service manager, signals that were ignored. It does not find descriptors, which are all closed on exec, nor what was
//! meant for this process alone.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt, parent_id};
use std::path::{Path, PathBuf, absolute};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::daemon::scarcity;
use crate::sys::{children, socket_file};

/// The command that a successor is started with.
const RUN: &str = "run";

/// The option that makes it a successor, with the control socket of the process that it takes over from.
const TAKE_OVER: &str = "--take-over";

/// Variables that are for this process alone. Those of the service manager are set anew, where there are any.
const FOR_US_ALONE: [&str; 8] = [
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Programs that watch the process that they have started, by the names that the kernel has for them, and cannot be
/// told of another one: when it ends, they end the container with it, or start the service once more.
const WATCHERS: [&str; 12] = [
    "catatonit",
    "conmon",
    "containerd-shim",
    "docker-init",
    "dumb-init",
    "podman-init",
    "runsv",
    "s6-supervise",
    "supervise",
    "supervise-daemo",
    "supervisord",
    "tini",
];

/// The program that this process is, as it was started.
#[derive(Debug)]
pub(in super::super) struct Program {
    path: io::Result<PathBuf>,
    /// How it was called.
    name: OsString,
    words: Vec<OsString>,
}

/// Why no successor was started.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum StartError {
    #[error(
        "the daemon is the first process of its container, which ends with it (replace the container, as a rolling \
         update does)"
    )]
    FirstProcess,
    #[error(
        "the daemon was started by {watcher}, which takes its end for the service's and cannot be told of another \
         process (restart it there)"
    )]
    Watched { watcher: String },
    #[error(
        "systemd would take the daemon's end for the service's, as it cannot be told of another process (give the unit \
         Type=notify, and restart the service)"
    )]
    Untold,
    #[error(
        "the daemon has no control socket, over which a successor takes over (restart it with --control PATH)"
    )]
    NoControl,
    #[error(
        "a daemon with the command line of systemd-socket-proxyd has no successors (restart it: its sockets, and who \
         waits at them, stay with the service manager)"
    )]
    NotRun,
    #[error("find the program that this process is: {0} (is /proc mounted?)")]
    Path(String),
    #[error("start {path}: {error}")]
    Spawn { path: String, error: String },
    #[error("start a thread for the successor: {0}")]
    Thread(String),
    #[error(
        "the thread that starts the successor has panicked (this is a bug; please report what the log says)"
    )]
    Panicked,
}

/// Whether a successor was started.
pub(in super::super) type Started = oneshot::Receiver<Result<Successor, StartError>>;

impl Program {
    /// To be called at the start, before anything else can be installed at the path.
    pub(in super::super) fn remember() -> Self {
        let mut words = env::args_os();
        let name = words.next().unwrap_or_default();
        Self {
            path: path_of_this_program(&name),
            name,
            words: words.collect(),
        }
    }

    /// Starts it, to take over over this control socket. `variables` are those of the service manager. On a thread of
    /// its own, as a disk takes its time.
    pub(in super::super) fn start(
        &self,
        control: Option<&Path>,
        variables: &[(&'static str, OsString)],
    ) -> Started {
        let (started, outcome) = oneshot::channel();
        let command = match self.command(control, variables) {
            Ok(command) => command,
            Err(error) => return failed(error),
        };
        let spawned = thread::Builder::new()
            .name("successor".to_owned())
            .spawn(move || attend(command, started));
        match spawned {
            Ok(_) => outcome,
            Err(error) => failed(StartError::Thread(scarcity::with_remedy(&error))),
        }
    }

    fn command(
        &self,
        control: Option<&Path>,
        variables: &[(&'static str, OsString)],
    ) -> Result<Command, StartError> {
        let is_told = variables.iter().any(|(name, _)| *name == "NOTIFY_SOCKET");
        Surroundings::find(is_told).allow()?;
        let words = self.words_to_take_over(control)?;
        let path = self.path.as_ref();
        let path = path.map_err(|error| StartError::Path(error.to_string()))?;
        let mut command = Command::new(path);
        command.arg0(&self.name).args(words).stdin(Stdio::null());
        for name in FOR_US_ALONE {
            command.env_remove(name);
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Those of this process, with the option in place of the one that it may have been started with itself. Nothing
    /// else can look like the option: no other one takes a value of that form.
    fn words_to_take_over(&self, control: Option<&Path>) -> Result<Vec<OsString>, StartError> {
        let mut words = self.words.iter();
        if words.next().is_none_or(|word| word != RUN) {
            return Err(StartError::NotRun);
        }
        let control = control.ok_or(StartError::NoControl)?;
        let mut all = vec![RUN.into(), TAKE_OVER.into(), control.into()];
        while let Some(word) = words.next() {
            match word.as_bytes().strip_prefix(TAKE_OVER.as_bytes()) {
                // Its value is the next word.
                Some(b"") => drop(words.next()),
                Some([b'=', ..]) => {}
                Some(_) | None => all.push(word.clone()),
            }
        }
        Ok(all)
    }
}

fn failed(error: StartError) -> Started {
    let (started, outcome) = oneshot::channel();
    // The other end is here.
    drop(started.send(Err(error)));
    outcome
}

/// Where this program was found under this name, if that is the file that runs: a link on the way may lead to another
/// version later. Otherwise where it is.
fn path_of_this_program(name: &OsStr) -> io::Result<PathBuf> {
    let this = fs::metadata("/proc/self/exe")?;
    let is_this = |path: &PathBuf| {
        let found = fs::metadata(path);
        found.is_ok_and(|found| (found.dev(), found.ino()) == (this.dev(), this.ino()))
    };
    match places_of(name).into_iter().find(is_this) {
        Some(path) => Ok(path),
        None => env::current_exe(),
    }
}

/// Where a shell would have looked for it.
fn places_of(name: &OsStr) -> Vec<PathBuf> {
    if name.is_empty() {
        return Vec::new();
    }
    if name.as_bytes().contains(&b'/') {
        return absolute(name).into_iter().collect();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path);
    places
        .filter_map(|directory| absolute(directory.join(name)).ok())
        .collect()
}

// --- whether it can be -----------------------------------------------------------------------

/// What decides on whether the end of this process leaves its successor alone.
#[derive(Debug)]
struct Surroundings {
    /// It is process 1, or was started from outside its namespace, as process 1 is: then its parent has no number.
    is_first: bool,
    /// What started this process, as the kernel calls it, where that can be seen.
    parent: String,
    /// systemd has started this very process as a service's (systemd.exec(5)).
    is_of_systemd: bool,
    /// There is a service manager, and it can be told which process is the main one.
    is_told: bool,
}

impl Surroundings {
    fn find(is_told: bool) -> Self {
        let (pid, parent_pid) = (process::id(), parent_id());
        let service = env::var("SYSTEMD_EXEC_PID");
        let is_of_systemd = service.is_ok_and(|service| service.parse() == Ok(pid));
        let parent = match is_of_systemd {
            true => Ok("systemd".to_owned()),
            false => fs::read_to_string(format!("/proc/{parent_pid}/comm")),
        };
        Self {
            is_first: pid == 1 || parent_pid == 0,
            parent: parent.unwrap_or_default().trim_end().to_owned(),
            is_of_systemd,
            is_told,
        }
    }

    fn allow(&self) -> Result<(), StartError> {
        if self.is_first {
            return Err(StartError::FirstProcess);
        }
        if WATCHERS.contains(&self.parent.as_str()) {
            return Err(StartError::Watched {
                watcher: self.parent.clone(),
            });
        }
        match self.is_of_systemd && !self.is_told {
            true => Err(StartError::Untold),
            false => Ok(()),
        }
    }
}

// --- the process that was started ------------------------------------------------------------

/// A process that is to take over. It goes on when this is dropped.
#[derive(Debug)]
pub(in super::super) struct Successor {
    pid: u32,
    /// Reaped with the lock held, so that nobody kills another process of the same number.
    child: Arc<Mutex<Child>>,
    end: End,
}

#[derive(Debug)]
enum End {
    Awaited(oneshot::Receiver<io::Result<ExitStatus>>),
    Seen(SuccessorEnd),
}

/// How it has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) struct SuccessorEnd {
    pid: u32,
    how: String,
    /// The command line is wrong, or the configuration is: it says so by its exit code.
    pub(in super::super) is_mistake: bool,
}

impl std::fmt::Display for SuccessorEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pid, how, .. } = self;
        write!(
            f,
            "the successor, process {pid}, has ended {how} (see its lines in the log)"
        )
    }
}

impl Successor {
    pub(in super::super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it at once. One that has ended is left alone.
    pub(in super::super) fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = child.kill() {
            tracing::warn!(
                "kill the successor, process {}: {error} (end it by hand)",
                self.pid
            );
        }
    }

    /// Returns when it has ended. To be polled again from the start does no harm.
    pub(in super::super) async fn ended(&mut self) -> SuccessorEnd {
        let seen = match &mut self.end {
            End::Seen(end) => return end.clone(),
            End::Awaited(end) => match end.await {
                Ok(Ok(status)) => SuccessorEnd::of(self.pid, status),
                Ok(Err(_)) | Err(_) => SuccessorEnd::unknown(self.pid),
            },
        };
        self.end = End::Seen(seen.clone());
        seen
    }
}

impl SuccessorEnd {
    fn of(pid: u32, status: ExitStatus) -> Self {
        /// As the command line has it.
        const USAGE: i32 = 2;
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("with exit code {code}"),
            (None, Some(signal)) => format!("by signal {signal}"),
            (None, None) => return Self::unknown(pid),
        };
        Self {
            pid,
            how,
            is_mistake: status.code() == Some(USAGE),
        }
    }

    fn unknown(pid: u32) -> Self {
        Self {
            pid,
            how: "in a way that is not known".to_owned(),
            is_mistake: false,
        }
    }
}

/// The thread's part: starts the process, and reaps it. Whether it is awaited or not, none is left behind as a zombie.
fn attend(mut command: Command, started: oneshot::Sender<Result<Successor, StartError>>) {
    // It would inherit the umask of a moment.
    let child = match socket_file::under_umask(|| command.spawn()) {
        Ok(child) => child,
        Err(error) => {
            // Nobody waits any more if the daemon is about to end.
            drop(started.send(Err(not_started(command.get_program(), &error))));
            return;
        }
    };
    let pid = child.id();
    let child = Arc::new(Mutex::new(child));
    let (end, awaited) = oneshot::channel();
    let successor = Successor {
        pid,
        child: Arc::clone(&child),
        end: End::Awaited(awaited),
    };
    if let Err(Ok(unwanted)) = started.send(Ok(successor)) {
        unwanted.kill();
    }
    // If it cannot be waited for, the next call says why.
    let _ = children::wait_for_end(pid);
    let status = child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    // Who waited for the end may have lost interest: it serves.
    drop(end.send(status));
}

fn not_started(program: &OsStr, error: &io::Error) -> StartError {
    let remedy = match error.raw_os_error() {
        Some(libc::ENOENT) => {
            Some("it is not there any more, or what it is linked with: install it again")
        }
        Some(libc::EACCES) => Some(
            "its file, or a directory on the way, is not for the user of the daemon to run; or a security module denies it",
        ),
        Some(libc::ENOEXEC) => Some("it is no program for this machine: install it again"),
        Some(libc::ETXTBSY) => {
            Some("it is being written: install it under another name, and rename it")
        }
        Some(libc::ENOTDIR | libc::ELOOP) => Some("the path leads nowhere: install it again"),
        _ => None,
    };
    StartError::Spawn {
        path: program.to_string_lossy().into_owned(),
        error: match remedy {
            Some(remedy) => format!("{error} ({remedy})"),
            None => scarcity::with_remedy(error),
        },
    }
}

#[cfg(test)]
mod tests;
