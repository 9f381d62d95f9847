//! Programs that are given their sockets, and the socket to which they tell how they are: what a
//! service manager does.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) use super::SPLICEWAY;
use super::process::Process;
use super::proxy::{self, Engine};
use super::sys::{self, ChildSetup};
use super::wait::{GUARD, eventually};

/// A socket, or whatever else, that is passed on under a name.
pub(crate) type Passed<'a> = (&'a dyn AsFd, &'a str);

/// How a program is to be started with descriptors.
pub(crate) struct Activation {
    command: Command,
    passed: Vec<(RawFd, String)>,
}

impl Activation {
    /// `spliceway run` with this engine and these words.
    pub(crate) fn run(engine: Engine, words: &[&str]) -> Self {
        let engine = engine.to_string();
        let words = [&["run", "--engine", &engine], words].concat();
        Self::of(SPLICEWAY, &words)
    }

    /// Any program.
    pub(crate) fn of(program: impl AsRef<OsStr>, words: &[&str]) -> Self {
        // Only the child knows its id, and keeps it through exec.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"export LISTEN_PID=$$; exec "$0" "$@""#]);
        command.arg(program).args(words).stdin(Stdio::null());
        Self {
            command,
            passed: Vec::new(),
        }
    }

    /// Passes these, in this order, from number 3 on.
    pub(crate) fn passing(mut self, passed: &[Passed<'_>]) -> Self {
        let numbered = |(fd, name): &Passed<'_>| (fd.as_fd().as_raw_fd(), (*name).to_owned());
        self.passed = passed.iter().map(numbered).collect();
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn spawn(mut self) -> Process {
        sys::raise_own_nofile();
        let names: Vec<_> = self.passed.iter().map(|(_, name)| name.as_str()).collect();
        self.command
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        let setup = ChildSetup {
            death_signal: libc::SIGKILL,
            passed: self.passed.iter().map(|(fd, _)| *fd).collect(),
            ..ChildSetup::default()
        };
        self.command.stdout(Stdio::null());
        Process::start(self.command, setup)
    }

    /// Waits until it serves, too.
    #[track_caller]
    pub(crate) fn start(self) -> Process {
        let process = self.spawn();
        wait_until_ready(&process);
        process
    }
}

#[track_caller]
pub(crate) fn wait_until_ready(process: &Process) {
    let is_ready = |line: &str| line.contains(" ready") || line.contains("\"ready\"");
    process.log().wait_for("the line that says ready", is_ready);
}

/// A program that systemd-socket-activate starts when somebody connects to one of these addresses.
pub(crate) fn socket_activate(
    listen: &[&str],
    names: Option<&str>,
    program: impl AsRef<OsStr>,
    words: &[&str],
) -> Process {
    let activate = super::programs::program(&["/usr/bin/systemd-socket-activate"]);
    let mut command = Command::new(activate);
    for address in listen {
        command.args(["--listen", address]);
    }
    if let Some(names) = names {
        command.arg(format!("--fdname={names}"));
    }
    command.arg(program).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let setup = ChildSetup {
        death_signal: libc::SIGKILL,
        ..ChildSetup::default()
    };
    let process = Process::start(command, setup);
    let all_listen = || process.log().count("Listening on ") == listen.len();
    eventually("systemd-socket-activate listens", all_listen);
    process
}

// --- sockets ------------------------------------------------------------------------------------

/// A path with a listener that belongs to the test.
pub(crate) fn unix_listener(dir: &Path) -> (UnixListener, PathBuf) {
    let path = dir.join("passed.sock");
    let listener = UnixListener::bind(&path).expect("the directory is ours");
    (listener, path)
}

pub(crate) fn tcp_listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// A TCP client in the type that the helpers for Unix clients take: to the standard library, either is
/// a stream socket.
#[track_caller]
pub(crate) fn connect_tcp(address: SocketAddr) -> UnixStream {
    let stream = TcpStream::connect(address).expect("somebody listens");
    let stream = UnixStream::from(OwnedFd::from(stream));
    proxy::guarded(stream).expect("a socket takes timeouts")
}

/// Whether the process holds a descriptor of this very socket.
pub(crate) fn holds(process: &Process, socket: &impl AsRawFd) -> bool {
    let inode = |path: String| fs::read_link(path).ok();
    let ours = inode(format!("/proc/self/fd/{}", socket.as_raw_fd()));
    assert!(ours.is_some(), "it is open here");
    sys::demand_root();
    let held = fs::read_dir(format!("/proc/{}/fd", process.pid())).expect("it runs and is ours");
    let mut held = held.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    held.any(|link| Some(link) == ours)
}

// --- notification -------------------------------------------------------------------------------

/// Where a program tells how it is, and what it told.
pub(crate) struct Notified {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Notified {
    pub(crate) fn at(socket: UnixDatagram) -> Self {
        socket
            .set_nonblocking(true)
            .expect("a socket's mode can be changed");
        Self {
            socket,
            told: Vec::new(),
        }
    }

    /// Every line that came so far.
    pub(crate) fn lines(&mut self) -> &[String] {
        let mut message = [0; 4096];
        loop {
            match self.socket.recv(&mut message) {
                Ok(count) => {
                    let text = str::from_utf8(&message[..count]).expect("messages are text");
                    self.told.extend(text.lines().map(str::to_owned));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return &self.told,
                Err(error) => panic!("receive a notification: {error}"),
            }
        }
    }

    pub(crate) fn count(&mut self, line: &str) -> usize {
        self.lines().iter().filter(|l| *l == line).count()
    }

    #[track_caller]
    pub(crate) fn wait_for(&mut self, line: &str) {
        self.wait_for_one_that(line, |l| l == line);
    }

    #[track_caller]
    pub(crate) fn wait_for_one_that(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + GUARD;
        loop {
            if let Some(line) = self.lines().iter().find(|line| fits(line)) {
                return line.clone();
            }
            assert!(
                Instant::now() < deadline,
                "not told {what}: {:?}",
                self.told
            );
            super::wait::pause(Duration::from_millis(1));
        }
    }
}
