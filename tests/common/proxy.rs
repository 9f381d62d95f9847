//! The program under test.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::SPLICEWAY;
use super::process::Process;
use super::sys::{self, ChildSetup};
use super::wait::{GUARD, eventually};

/// The user and group without any rights: `nobody` and `nogroup` on Debian.
pub(crate) const NOBODY: u32 = 65534;

/// The driver that a test asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    IoUring,
    Epoll,
}

impl fmt::Display for Engine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// A running `spliceway run` in a temporary directory of its own.
pub(crate) struct Proxy {
    process: Process,
    socket: PathBuf,
    dir: TempDir,
}

impl Proxy {
    pub(crate) fn builder() -> Builder {
        Builder {
            dir: fresh_dir(),
            engine: None,
            config: None,
            listeners: Vec::new(),
            args: Vec::new(),
            user: None,
            private_hosts: None,
            through: Vec::new(),
            stdout: None,
            setup: ChildSetup {
                death_signal: libc::SIGKILL,
                ..ChildSetup::default()
            },
        }
    }

    /// One backend and nothing else to say.
    pub(crate) fn start(engine: Engine, backend: impl fmt::Display) -> Self {
        Self::builder().engine(engine).backend(backend).start()
    }

    /// Connects to the default socket. Reads and writes that hang fail in the end.
    #[track_caller]
    pub(crate) fn connect(&self) -> UnixStream {
        connect(&self.socket).expect("the proxy listens")
    }

    /// Connects and says that nothing will be sent: the session ends as soon as the backend ends it.
    #[track_caller]
    pub(crate) fn connect_listening(&self) -> UnixStream {
        let client = self.connect();
        client
            .shutdown(Shutdown::Write)
            .expect("the client is connected");
        client
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn terminate(&self) {
        self.process.signal(libc::SIGTERM);
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Between Unix clients and TCP backends: the directions in which bulk is spliced on this kernel.
    pub(crate) fn spliced_directions(&self) -> &'static [&'static str] {
        match self.process.log().count(COPIES_INTO_UNIX) {
            0 => &["to_backend", "to_client"],
            _ => &["to_backend"],
        }
    }
}

/// What the log says at the start before Linux 6.5.
pub(crate) const COPIES_INTO_UNIX: &str = "bulk transfers into Unix sockets are copied";

/// How a proxy is to be started.
pub(crate) struct Builder {
    dir: TempDir,
    engine: Option<Engine>,
    config: Option<PathBuf>,
    listeners: Vec<String>,
    args: Vec<String>,
    user: Option<u32>,
    private_hosts: Option<PathBuf>,
    /// A program that starts the program.
    through: Vec<String>,
    stdout: Option<File>,
    setup: ChildSetup,
}

impl Builder {
    /// The directory of the default socket, to prepare something in it.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of the default socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("proxy.sock")
    }

    /// Left out, the program chooses.
    pub(crate) fn engine(mut self, engine: Engine) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Routes come from a file with this content: there is no socket and no backend but what it says.
    pub(crate) fn config(mut self, content: &str) -> Self {
        let path = self.dir.path().join("spliceway.toml");
        fs::write(&path, content).expect("the directory is ours");
        self.config = Some(path);
        self
    }

    /// Replaces the default socket; repeatable.
    pub(crate) fn listen(mut self, address: impl fmt::Display) -> Self {
        self.listeners.push(address.to_string());
        self
    }

    pub(crate) fn backend(self, address: impl fmt::Display) -> Self {
        self.args(["--backend", &address.to_string()])
    }

    pub(crate) fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    /// The soft and the hard limit of open descriptors.
    pub(crate) fn rlimit_nofile(mut self, limit: u64) -> Self {
        self.setup.nofile = Some(limit);
        self
    }

    /// Runs the program as this user and the group of the same number, if we are root; without root
    /// we are unprivileged already.
    pub(crate) fn user(mut self, uid: u32) -> Self {
        self.user = sys::is_root().then_some(uid);
        self
    }

    /// Left out, it goes nowhere.
    pub(crate) fn stdout(mut self, file: File) -> Self {
        self.stdout = Some(file);
        self
    }

    /// The program finds this file where the hosts file is; nobody else does. Root can have that.
    pub(crate) fn private_hosts(mut self, file: PathBuf) -> Self {
        self.private_hosts = Some(file);
        self
    }

    /// Another program is started, which then becomes the one under test.
    pub(crate) fn through<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.through = words.into_iter().map(str::to_owned).collect();
        self
    }

    pub(crate) fn umask(mut self, mask: libc::mode_t) -> Self {
        self.setup.umask = Some(mask);
        self
    }

    /// The three io_uring calls fail with this errno.
    pub(crate) fn seccomp_deny_io_uring(mut self, errno: libc::c_int) -> Self {
        self.setup.io_uring_errno = Some(errno);
        self
    }

    /// splice(2) fails with this errno.
    pub(crate) fn seccomp_deny_splice(mut self, errno: libc::c_int) -> Self {
        self.setup.splice_errno = Some(errno);
        self
    }

    /// Starts the program and waits until all its workers run, with the engine that was asked for.
    #[track_caller]
    pub(crate) fn start(self) -> Proxy {
        let engine = self.engine;
        let (process, socket, dir) = self.spawn();
        let proxy = Proxy {
            process,
            socket,
            dir,
        };
        let log = proxy.process.log();
        log.wait_for("the line that says ready", says_ready);
        if let Some(engine) = engine {
            let (text, json) = (
                format!("engine={engine}"),
                format!("\"engine\":\"{engine}\""),
            );
            let names_it = |line: &str| line.contains(&text) || line.contains(&json);
            log.wait_for(&format!("a line with {text}"), names_it);
        }
        proxy
    }

    /// Starts the program and waits for it to end by itself.
    #[track_caller]
    pub(crate) fn run_to_the_end(self) -> Outcome {
        self.run_to_the_end_and(|| ())
    }

    /// The same, with a look at what it left in the temporary directory.
    #[track_caller]
    pub(crate) fn run_to_the_end_and(self, look: impl FnOnce()) -> Outcome {
        let what = self.args.join(" ");
        let (mut process, _socket, _dir) = self.spawn();
        let code = process.wait().code();
        look();
        Outcome {
            what,
            code,
            stderr: process.log().lines(),
        }
    }

    /// Starts the program and waits until its workers run, or for it to end by itself.
    #[track_caller]
    pub(crate) fn start_or_end(self) -> Result<Proxy, Outcome> {
        let what = self.through.join(" ");
        let (mut process, socket, dir) = self.spawn();
        let mut ready = false;
        eventually(&format!("a start or an end: {what}"), || {
            ready = process.log().lines().iter().any(|line| says_ready(line));
            ready || !process.is_running()
        });
        if ready {
            return Ok(Proxy {
                process,
                socket,
                dir,
            });
        }
        Err(Outcome {
            what,
            code: process.wait().code(),
            stderr: process.log().lines(),
        })
    }

    fn spawn(self) -> (Process, PathBuf, TempDir) {
        sys::raise_own_nofile();
        let socket = self.socket();
        let mut command = self.command();
        command.arg("run").args(&self.args);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        } else if self.listeners.is_empty() {
            command
                .arg("--listen")
                .arg(format!("unix:{}", socket.display()));
        }
        for address in &self.listeners {
            command.args(["--listen", address]);
        }
        if let Some(engine) = self.engine {
            command.args(["--engine", &engine.to_string()]);
        }
        if let Some(uid) = self.user {
            command.uid(uid).gid(uid);
            chown(self.dir.path(), Some(uid), Some(uid)).expect("root may chown");
        }
        // Relative paths in a test's arguments, and a core dump, end in the temporary directory.
        command
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(self.stdout.map_or_else(Stdio::null, Stdio::from));
        (Process::start(command, self.setup), socket, self.dir)
    }

    fn command(&self) -> Command {
        /// Mounts within a namespace of its own, which ends with the program.
        const MOUNT_AND_RUN: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
        if let [program, arguments @ ..] = &self.through[..] {
            let mut command = Command::new(program);
            command.args(arguments).arg(self.binary());
            return command;
        }
        let Some(hosts) = &self.private_hosts else {
            return Command::new(self.binary());
        };
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                MOUNT_AND_RUN,
            ])
            .arg(hosts)
            .arg(self.binary());
        command
    }

    /// Another user may not be able to reach the build directory, so it gets a copy. `cp` makes it:
    /// a descriptor for writing in this process could leak into a child that another test is just
    /// forking, and the program file would be busy.
    fn binary(&self) -> PathBuf {
        if self.user.is_none() {
            return SPLICEWAY.into();
        }
        let copy = self.dir.path().join("spliceway");
        let status = Command::new("cp")
            .arg(SPLICEWAY)
            .arg(&copy)
            .status()
            .expect("cp exists");
        assert!(status.success(), "copy {SPLICEWAY}: {status}");
        copy
    }
}

/// How a program that ended by itself ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What was asked of it.
    pub(crate) what: String,
    pub(crate) code: Option<i32>,
    pub(crate) stderr: Vec<String>,
}

impl Outcome {
    /// It failed with this code and said why in exactly one line, which mentions all of `mentions`.
    #[track_caller]
    pub(crate) fn assert_error_line(&self, code: i32, mentions: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let [line] = &self.stderr[..] else {
            panic!("not one line: {self:#?}")
        };
        assert!(line.starts_with("spliceway: "), "{self:#?}");
        for mention in mentions {
            assert!(line.contains(mention), "no {mention:?} in {self:#?}");
        }
    }
}

/// `ready` as a word: not `already`.
fn says_ready(line: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric())
        .any(|word| word == "ready")
}

/// A temporary directory that other users can reach.
pub(crate) fn fresh_dir() -> TempDir {
    let dir = TempDir::with_prefix("spliceway-").expect("a temporary directory can be made");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
    dir
}

/// An abstract name that no other test has.
pub(crate) fn fresh_abstract_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("spliceway-test-{}-{number}", std::process::id())
}

/// Connects with [`GUARD`] on reads and writes.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    guarded(UnixStream::connect(path)?)
}

/// The same for an abstract name.
pub(crate) fn connect_abstract(name: &str) -> io::Result<UnixStream> {
    let address = UnixAddress::from_abstract_name(name)?;
    guarded(UnixStream::connect_addr(&address)?)
}

pub(crate) fn guarded(stream: UnixStream) -> io::Result<UnixStream> {
    stream.set_read_timeout(Some(GUARD))?;
    stream.set_write_timeout(Some(GUARD))?;
    Ok(stream)
}
