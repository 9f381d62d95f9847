//! A daemon with a configuration file, and the processes that take its place, one after another.

use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::client::receive_to_eof;
use crate::common::fastcgi::Client;
use crate::common::process::Log;
use crate::common::proxy::{Builder, connect};
use crate::common::sys::{self, ChildSetup};
use crate::common::{Backend, Engine, Process, Proxy, SPLICEWAY, eventually};

/// What every configuration begins with: sessions may go on in processes whose place was taken, and a daemon that its
/// test has lost ends by itself.
const HEAD: &str = "drain-timeout = \"off\"\nexit-idle-time = \"10m\"\n";

/// The daemon, whichever process it is.
pub(crate) struct Daemon {
    engine: Engine,
    /// The first process. Those that were started by it, and by those, write to its log.
    first: Proxy,
}

impl Daemon {
    /// `routes` is the file without its head: `{dir}` is the place of the sockets.
    pub(crate) fn start(engine: Engine, routes: &str) -> Self {
        Self::start_with(engine, "workers = 2", routes)
    }

    pub(crate) fn start_with(engine: Engine, head: &str, routes: &str) -> Self {
        Self::start_of(
            Proxy::builder().engine(engine).observed(),
            engine,
            head,
            routes,
        )
    }

    pub(crate) fn start_of(builder: Builder, engine: Engine, head: &str, routes: &str) -> Self {
        sys::adopt_orphans().expect("Linux 3.4 and later can do that");
        let text = text(builder.dir(), head, routes);
        let first = builder.config(&text).start();
        Self { engine, first }
    }

    // --- the configuration ------------------------------------------------------------------

    pub(crate) fn dir(&self) -> &Path {
        self.first.dir()
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir().join("spliceway.toml")
    }

    /// For those that come.
    pub(crate) fn write(&self, routes: &str) {
        self.write_with("workers = 2", routes);
    }

    pub(crate) fn write_with(&self, head: &str, routes: &str) {
        fs::write(self.file(), text(self.dir(), head, routes)).expect("the directory is ours");
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.first.control()
    }

    // --- processes --------------------------------------------------------------------------

    /// The process that was started first.
    pub(crate) fn first(&self) -> &Process {
        self.first.process()
    }

    /// The log of the first process and of all that were started by `spliceway upgrade`.
    pub(crate) fn log(&self) -> &Log {
        self.first().log()
    }

    /// The process that serves: the one that has called listen(2) on the control socket last.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        listens(&self.control())
    }

    /// Another process of the program at its path takes the daemon's place. Returns which.
    #[track_caller]
    pub(crate) fn upgrade(&self) -> u32 {
        let said = self.done(&["upgrade"]);
        let pid = said.strip_prefix("the daemon is process ");
        let pid = pid.and_then(|rest| rest.split(' ').next()?.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("which process is it? {said}"));
        assert!(said.contains(" now, version "), "{said}");
        pid
    }

    /// Starts a process by hand that is to take the daemon's place. Its log is its own.
    pub(crate) fn successor(&self) -> Process {
        self.successor_of(&self.control())
    }

    /// The same, of the place of whoever has this control socket.
    pub(crate) fn successor_of(&self, whose: &Path) -> Process {
        start_successor(self.engine, whose, &self.file(), &self.control())
    }

    // --- what it is told, and what it says --------------------------------------------------

    pub(crate) fn tell(&self, words: &[&str]) -> Output {
        let mut command = Command::new(SPLICEWAY);
        command.args(words).arg("--control").arg(self.control());
        command.stdin(Stdio::null()).output().expect("it is built")
    }

    /// It was carried out.
    #[track_caller]
    pub(crate) fn done(&self, words: &[&str]) -> String {
        let output = self.tell(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    }

    /// It was not, with this exit code, and this was said of it.
    #[track_caller]
    pub(crate) fn refused(&self, words: &[&str], code: i32, mentions: &[&str]) {
        let output = self.tell(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
        for mention in mentions {
            assert!(text.contains(mention), "no {mention:?} in {text}");
        }
    }

    #[track_caller]
    pub(crate) fn status(&self) -> serde_json::Value {
        self.first.status()
    }

    /// That of this route.
    #[track_caller]
    pub(crate) fn route(&self, name: &str) -> serde_json::Value {
        let mut status = self.status();
        let routes = status["routes"].as_array_mut().expect("it has routes");
        let route = routes.iter_mut().find(|route| route["name"] == name);
        route.expect("it has this one").take()
    }

    /// Clients that wait in the queue of this route, at the process that serves.
    #[track_caller]
    pub(crate) fn waiting(&self, route: &str) -> u64 {
        self.route(route)["queue"]["depth"]
            .as_u64()
            .expect("a number")
    }

    #[track_caller]
    pub(crate) fn hash(&self) -> String {
        let status = self.status();
        status["config"]["hash"]
            .as_str()
            .expect("it has one")
            .to_owned()
    }

    // --- clients ----------------------------------------------------------------------------

    #[track_caller]
    pub(crate) fn connect(&self, name: &str) -> UnixStream {
        connect(&self.socket(name)).expect("it listens there")
    }

    #[track_caller]
    pub(crate) fn client(&self, name: &str) -> Client {
        Client(self.connect(name))
    }

    /// A client that says nothing: its session ends when the backend's side does.
    #[track_caller]
    pub(crate) fn connect_listening(&self, name: &str) -> UnixStream {
        let client = self.connect(name);
        client.shutdown(Shutdown::Write).expect("it is connected");
        client
    }

    /// What such a client gets.
    #[track_caller]
    pub(crate) fn banner(&self, name: &str) -> Vec<u8> {
        receive_to_eof(&self.connect_listening(name))
    }

    /// Names of all that is in the daemon's directory.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir()).expect("it is there");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = entries.filter_map(Result::ok).map(name).collect();
        names.sort();
        names
    }
}

/// Starts a process that is to take the place of the daemon at the control socket `whose`, with this file, and a control
/// socket of its own.
pub(crate) fn start_successor(
    engine: Engine,
    whose: &Path,
    file: &Path,
    control: &Path,
) -> Process {
    let mut command = Command::new(SPLICEWAY);
    command.arg("run").arg("--take-over").arg(whose);
    command.arg("--config").arg(file);
    command.arg("--control").arg(control);
    command.args(["--metrics", "127.0.0.1:0", "--engine", &engine.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let setup = ChildSetup {
        death_signal: libc::SIGKILL,
        ..ChildSetup::default()
    };
    Process::start(command, setup)
}

fn text(dir: &Path, head: &str, routes: &str) -> String {
    let routes = routes.replace("{dir}", &dir.display().to_string());
    format!("{HEAD}{head}\n{routes}")
}

pub(crate) fn route(name: &str, backend: &Backend, more: &str) -> String {
    route_to(name, &format!("\"{backend}\""), more)
}

/// The same with backends as they are written in TOML.
pub(crate) fn route_to(name: &str, backends: &str, more: &str) -> String {
    format!("[route.{name}]\nlisten = \"unix:{{dir}}/{name}.sock\"\nbackend = {backends}\n{more}\n")
}

pub(crate) fn fastcgi(name: &str, backend: &Backend, more: &str) -> String {
    let more = format!("protocol = \"fastcgi\"\nguard = \"off\"\n{more}");
    route(name, backend, &more)
}

/// The process that has called listen(2) there last.
#[track_caller]
pub(crate) fn listens(path: &Path) -> u32 {
    let client = connect(path).expect("it listens there");
    sys::peer_pid(&client).expect("the kernel knows")
}

/// Waits until the process has ended, whether somebody has reaped it or not.
#[track_caller]
pub(crate) fn wait_for_end(pid: u32) {
    eventually(&format!("process {pid} ends"), || is_over(pid));
}

pub(crate) fn is_over(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // The name, in parentheses, may hold anything.
    let state = stat.rsplit(") ").next();
    state.is_some_and(|rest| rest.starts_with(['Z', 'X']))
}
