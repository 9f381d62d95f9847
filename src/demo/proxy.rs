//! The proxy as a child process: start it, wait for it, end it, whatever happens in between.
//!
//! It is bound to our life by the kernel, stands in a process group of its own (Ctrl-C reaches only
//! us; we then end it in order), and lives in a directory that nobody else may enter. What it
//! writes goes to a file there: no pipe that could fill up, and its last words are at hand when
//! something fails.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use tempfile::TempDir;
use tokio::runtime;

use super::interrupt::Interrupt;
use super::{CONCURRENCY_MAX, Error, setup};
use crate::cli::effective::quoted;
use crate::config::Engine;
use crate::observe::client::ask;
use spliceway_common::sys::child::{spawn_bound, terminate};

/// How long the proxy may take until it accepts: it binds a socket and starts its threads.
const START_MAX: Duration = Duration::from_secs(10);

/// How long it may take to end: no session is left that its drain would have to wait for.
const STOP_MAX: Duration = Duration::from_secs(10);

/// How often the child is looked at while it starts or ends.
const POLL: Duration = Duration::from_millis(5);

/// Where the load's script is (SCRIPT_FILENAME): nobody reads it.
const SCRIPT_ROOT: &str = "/srv/bench";

const TMPDIR_REMEDY: &str = "see the free space and the permissions of TMPDIR";

/// How much of the end of its log is quoted: a few lines.
const SAID_MAX: u64 = 2048;

/// A route of the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Raw,
    Fastcgi,
}

impl Mode {
    const ALL: [Self; 2] = [Self::Raw, Self::Fastcgi];

    /// The protocol, which the route is called by.
    fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Fastcgi => "fastcgi",
        }
    }
}

/// A running proxy. Dropping it kills the process, waits for it, and removes the directory.
pub(super) struct Proxy {
    child: Child,
    dir: TempDir,
}

impl Proxy {
    /// Starts this same program as a proxy in front of `backend`.
    pub(super) fn start(backend: SocketAddr, engine: Engine) -> Result<Self, Error> {
        let program = std::env::current_exe()
            .map_err(setup("find this program's own file", "is /proc mounted?"))?;
        let dir = private_dir()?;
        let engine = engine
            .to_possible_value()
            .expect("no engine is hidden from the command line");
        let config = dir.path().join("demo.toml");
        fs::write(&config, routes(dir.path(), backend))
            .map_err(setup("write the configuration", TMPDIR_REMEDY))?;
        let mut command = Command::new(program);
        command
            .arg("run")
            .arg("--config")
            .arg(config)
            .arg("--control")
            .arg(control_in(dir.path()))
            .arg(format!("--engine={}", engine.get_name()))
            .arg("--log-level=warn");
        Self::launch(command, dir)
    }

    fn launch(mut command: Command, dir: TempDir) -> Result<Self, Error> {
        let log = File::create(log_in(dir.path()))
            .map_err(setup("create the log file", TMPDIR_REMEDY))?;
        let log_too = log
            .try_clone()
            .map_err(setup("share the log file", "see ulimit -n"))?;
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .process_group(0);
        let child = spawn_bound(&mut command).map_err(setup(
            "start the proxy",
            "may this program be executed? see ulimit -u",
        ))?;
        Ok(Self { child, dir })
    }

    /// Where the proxy listens.
    pub(super) fn socket(&self, mode: Mode) -> PathBuf {
        socket_in(self.dir.path(), mode)
    }

    /// Which engine the proxy runs, by its own word.
    pub(super) fn engine(&self) -> Result<String, Error> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(setup("ask the proxy for its status", "see ulimit -n"))?;
        let answer = runtime.block_on(ask(&control_in(self.dir.path())));
        let status = answer.map_err(|cause| Error::ProxyStatus {
            cause: cause.to_string(),
            said: self.said(),
        })?;
        Ok(status.engine)
    }

    /// Waits until the proxy takes connections. Each ends without a byte, as a health check's would.
    pub(super) fn wait_until_it_accepts(&mut self, interrupt: &Interrupt) -> Result<(), Error> {
        for mode in Mode::ALL {
            self.wait_for(mode, interrupt)?;
        }
        Ok(())
    }

    fn wait_for(&mut self, mode: Mode, interrupt: &Interrupt) -> Result<(), Error> {
        let started = Instant::now();
        let socket = self.socket(mode);
        loop {
            interrupt.check()?;
            let Err(cause) = UnixStream::connect(&socket) else {
                return Ok(());
            };
            if let Some(status) = self.ended()? {
                return Err(Error::ProxyEnded {
                    status,
                    said: self.said(),
                });
            }
            if started.elapsed() > START_MAX {
                return Err(Error::ProxyDeaf {
                    socket,
                    cause,
                    waited: START_MAX,
                    said: self.said(),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Asks the proxy to end and checks that it ends well. Gives what it has written.
    pub(super) fn stop(self) -> Result<String, Error> {
        self.stop_within(STOP_MAX)
    }

    fn stop_within(mut self, waited: Duration) -> Result<String, Error> {
        let started = Instant::now();
        // A child that has ended and was not waited for can still be signalled, without effect.
        terminate(self.child.id()).map_err(setup("end the proxy", "a bug: please report it"))?;
        loop {
            match self.ended()? {
                Some(status) if status.success() => return Ok(self.written()),
                Some(status) => {
                    return Err(Error::ProxyExit {
                        status,
                        said: self.said(),
                    });
                }
                None if started.elapsed() > waited => {
                    return Err(Error::ProxyStuck {
                        waited,
                        said: self.said(),
                    });
                }
                None => thread::sleep(POLL),
            }
        }
    }

    /// The end of what the proxy has written, in one line, for an error message.
    pub(super) fn said(&self) -> String {
        let written = self.written();
        match written.trim() {
            "" => "nothing".to_owned(),
            words => words.replace('\n', " / "),
        }
    }

    fn written(&self) -> String {
        tail(&log_in(self.dir.path())).unwrap_or_else(|error| format!("(log unreadable: {error})"))
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child
            .try_wait()
            .map_err(setup("wait for the proxy", "a bug: please report it"))
    }
}

impl Drop for Proxy {
    /// Both calls do nothing for a child that has been waited for.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A new directory in TMPDIR that only this user may enter.
fn private_dir() -> Result<TempDir, Error> {
    tempfile::Builder::new()
        .prefix("spliceway-demo-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .map_err(setup(
            "create a temporary directory",
            "set TMPDIR to one that you may write to",
        ))
}

fn socket_in(dir: &Path, mode: Mode) -> PathBuf {
    dir.join(mode.word()).with_extension("sock")
}

fn control_in(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

/// The configuration: a route for each mode, both to the same backend. The FastCGI mode has the
/// bounds that it is to have with PHP-FPM, as large as the load needs them.
fn routes(dir: &Path, backend: SocketAddr) -> String {
    let route = |mode: Mode| {
        let word = mode.word();
        let listen = quoted(&format!("unix:{}", socket_in(dir, mode).display()));
        let bounds = match mode {
            Mode::Raw => String::new(),
            Mode::Fastcgi => format!(
                "per-endpoint-max = {CONCURRENCY_MAX}\nscript-root = {}\n",
                quoted(SCRIPT_ROOT)
            ),
        };
        format!(
            "[route.{word}]\nlisten = {listen}\nbackend = \"{backend}\"\nprotocol = \"{word}\"\n{bounds}"
        )
    };
    Mode::ALL.map(route).concat()
}

fn log_in(dir: &Path) -> PathBuf {
    dir.join("proxy.log")
}

/// The last bytes of a file, from the beginning of a line.
fn tail(path: &Path) -> io::Result<String> {
    let skipped = fs::metadata(path)?.len().saturating_sub(SAID_MAX);
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(SAID_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match text.split_once('\n') {
        Some((_cut, whole_lines)) if skipped > 0 => Ok(whole_lines.to_owned()),
        Some(_) | None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in for the proxy: a shell script.
    fn script(text: &str) -> Proxy {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(text);
        Proxy::launch(command, private_dir().unwrap()).unwrap()
    }

    /// Waits until the script has written something: its traps are set by then.
    fn wait_for_words(proxy: &Proxy) {
        let started = Instant::now();
        while proxy.written().is_empty() {
            assert!(started.elapsed() < START_MAX, "the script never came up");
            thread::sleep(POLL);
        }
    }

    fn exists(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn the_directory_is_private() {
        let dir = private_dir().unwrap();
        let mode = fs::metadata(dir.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_proxy_that_dies_at_start_is_reported_with_its_words() {
        let mut proxy = script("echo 'bind unix:/x: no such directory' >&2; exit 3");
        let error = proxy
            .wait_until_it_accepts(&Interrupt::never())
            .unwrap_err();
        assert!(
            matches!(&error, Error::ProxyEnded { status, .. } if status.code() == Some(3)),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .ends_with("bind unix:/x: no such directory"),
            "{error}"
        );
    }

    #[test]
    fn a_clean_end_gives_what_was_written_and_removes_the_directory() {
        let proxy = script("trap 'exit 0' TERM; echo a warning; while :; do sleep 0.01; done");
        let dir = proxy.dir.path().to_owned();
        wait_for_words(&proxy);
        assert_eq!(proxy.stop().unwrap(), "a warning\n");
        assert!(!dir.exists());
    }

    #[test]
    fn a_bad_exit_code_is_reported() {
        let proxy = script("trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done");
        wait_for_words(&proxy);
        let error = proxy.stop().unwrap_err();
        assert!(matches!(error, Error::ProxyExit { status, .. } if status.code() == Some(7)));
    }

    #[test]
    fn a_proxy_that_ignores_sigterm_is_killed() {
        let proxy = script("trap '' TERM; echo up; while :; do sleep 0.01; done");
        wait_for_words(&proxy);
        let pid = proxy.child.id();
        let error = proxy.stop_within(Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, Error::ProxyStuck { .. }), "{error}");
        assert!(!exists(pid));
    }

    #[test]
    fn a_dropped_proxy_leaves_nothing_behind() {
        let proxy = script("exec sleep 600");
        let (pid, dir) = (proxy.child.id(), proxy.dir.path().to_owned());
        drop(proxy);
        assert!(!exists(pid));
        assert!(!dir.exists());
    }

    #[test]
    fn the_end_of_a_long_log_is_quoted_in_whole_lines() {
        let dir = private_dir().unwrap();
        let path = log_in(dir.path());
        let lines: String = (0..1000).map(|number| format!("line {number}\n")).collect();
        fs::write(&path, lines).unwrap();
        let text = tail(&path).unwrap();
        assert!(text.len() <= usize::try_from(SAID_MAX).unwrap());
        assert!(
            text.starts_with("line ") && text.ends_with("line 999\n"),
            "{text}"
        );
    }
}
