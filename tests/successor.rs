//! How a successor is started: which program, with which words and surroundings, and what is said when it ends.
//!
//! Another program is installed in the place of the one that runs: a script, which writes down what it finds.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::activation::{Activation, Notified, unix_listener};
use common::client::{exchange, exchange_and_end};
use common::process::Process;
use common::proxy::{connect, fresh_dir};
use common::sys::lacks_root;
use common::{Backend, Engine, KB, Pattern, Proxy, SPLICEWAY, eventually, for_each_engine};
use tempfile::TempDir;

for_each_engine!(
    the_program_that_is_at_the_path_now_is_started_and_finds_nothing_of_ours_open,
    a_daemon_whose_successor_ends_serves_on,
);

/// A daemon of a program of its own, with a socket that was passed to it, and a service manager.
struct Stage {
    dir: TempDir,
    listener: UnixListener,
    socket: PathBuf,
    notified: Notified,
}

impl Stage {
    fn new() -> Self {
        let dir = fresh_dir();
        let (listener, socket) = unix_listener(dir.path());
        let notified = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        run(Command::new("cp")
            .arg(SPLICEWAY)
            .arg(dir.path().join("spliceway")));
        Self {
            dir,
            listener,
            socket,
            notified: Notified::at(notified),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As systemd starts it; `before` is what a shell does before it becomes the program.
    fn start(&self, engine: Engine, backend: &Backend, before: &str) -> Process {
        let (program, control) = (self.path("spliceway"), self.path("control.sock"));
        let shell = format!(
            r#"{before} export WATCHDOG_PID=$$ SYSTEMD_EXEC_PID=$$ KEPT=kept; exec "$0" "$@""#
        );
        let (engine, backend) = (engine.to_string(), backend.to_string());
        let words = [
            "-c",
            &shell,
            program.to_str().unwrap(),
            "run",
            "--engine",
            &engine,
            "--listen",
            "inherit",
            "--backend",
            &backend,
            "--metrics",
            "127.0.0.1:0",
            "--control",
            control.to_str().unwrap(),
        ];
        Activation::of("/bin/sh", &words)
            .passing(&[(&self.listener, "a")])
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env("WATCHDOG_USEC", "30000000")
            .start()
    }

    /// Installs a script in the place of the program, as a package does: under another name, which is then changed.
    /// A shell writes it, so that this process never has it open for writing.
    fn install(&self, lines: &str) {
        let (new, program) = (self.path("new"), self.path("spliceway"));
        const WRITE: &str =
            r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0" && mv "$0" "$2""#;
        let mut write = Command::new("/bin/sh");
        run(write
            .args(["-c", WRITE])
            .args([&new, Path::new(lines), &program]));
    }

    /// Installs one that writes down what it finds, and ends with this code.
    fn install_recorder(&self, code: i32) {
        let record = self.path("record");
        let record = record.display();
        self.install(&format!(
            r#"echo "the successor says something" >&2
            find /proc/$$/fd -type l -fprintf {record}.new 'open %f %l\n'
            {{
                echo "name $0"
                for word; do echo "word $word"; done
                echo "directory $(pwd)"
                echo "umask $(umask)"
                env | sed 's/^/variable /'
                grep '^Sig' /proc/self/status
                echo "process $$"
            }} >> {record}.new
            mv {record}.new {record}
            exit {code}"#
        ));
    }

    fn record(&self) -> Record {
        let path = self.path("record");
        eventually("the successor has written down what it found", || {
            path.exists()
        });
        let record = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        Record(record.lines().map(str::to_owned).collect())
    }

    fn upgrade(&self) -> Output {
        tell(&self.path("control.sock"), "upgrade")
    }
}

/// What a successor has found.
struct Record(Vec<String>);

impl Record {
    /// The rest of the lines that begin so.
    fn all(&self, begin: &str) -> Vec<&str> {
        let lines = self.0.iter();
        lines.filter_map(|line| line.strip_prefix(begin)).collect()
    }

    fn one(&self, begin: &str) -> &str {
        let all = self.all(begin);
        assert_eq!(all.len(), 1, "{begin}: {:?}", self.0);
        all[0]
    }

    /// Whether a signal is in one of the sets of proc_pid_status(5).
    fn has(&self, set: &str, signal: i32) -> bool {
        let set = u64::from_str_radix(self.one(set).trim(), 16).unwrap();
        set >> (signal - 1) & 1 == 1
    }

    /// The process is gone, and was reaped.
    fn assert_gone(&self) {
        let process = format!("/proc/{}", self.one("process "));
        eventually("no zombie is left", || !Path::new(&process).exists());
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn tell(control: &Path, command: &str) -> Output {
    let mut tell = Command::new(SPLICEWAY);
    tell.arg(command).arg("--control").arg(control);
    tell.stdin(Stdio::null()).output().unwrap()
}

/// It ended so, with one line on standard error that has all of this.
#[track_caller]
fn assert_failed(output: &Output, code: i32, mentions: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for mention in mentions {
        assert!(stderr.contains(mention), "no {mention:?} in {stderr}");
    }
}

fn the_program_that_is_at_the_path_now_is_started_and_finds_nothing_of_ours_open(engine: Engine) {
    let (mut stage, backend) = (Stage::new(), Backend::echo());
    let daemon = stage.start(engine, &backend, "umask 027;");
    stage.notified.wait_for("READY=1");
    // Sessions, pipes, and whatever else a daemon at work has open.
    let client = connect(&stage.socket).unwrap();
    exchange(&client, Pattern::new(1), 1000 * KB);
    stage.install_recorder(3);
    daemon.signal(libc::SIGUSR2);
    daemon.wait_for_log("SIGUSR2: the program is started anew");
    let record = stage.record();

    let (program, control) = (stage.path("spliceway"), stage.path("control.sock"));
    let (program, control) = (program.to_str().unwrap(), control.to_str().unwrap());
    assert_eq!(record.one("name "), program);
    let words = record.all("word ");
    assert_eq!(words[..3], ["run", "--take-over", control]);
    assert_eq!(words[3..5], ["--engine", &engine.to_string()]);
    assert_eq!(words[words.len() - 2..], ["--control", control]);
    assert_eq!(record.one("umask ").trim_start_matches('0'), "27");
    let here = std::env::current_dir().unwrap();
    assert_eq!(record.one("directory "), here.to_str().unwrap());

    // The same service manager, and nothing that was for its predecessor alone.
    let notify = stage.path("notify");
    assert_eq!(
        record.one("variable NOTIFY_SOCKET="),
        notify.to_str().unwrap()
    );
    assert_eq!(record.one("variable WATCHDOG_USEC="), "30000000");
    assert_eq!(record.one("variable KEPT="), "kept");
    for alone in ["LISTEN_", "WATCHDOG_PID", "SYSTEMD_EXEC_PID"] {
        assert_eq!(record.all(&format!("variable {alone}")), [""; 0]);
    }

    // The shell has the script open itself.
    let mut open = record.all("open ");
    open.retain(|line| !line.ends_with(program));
    open.sort_unstable();
    assert_eq!(open[..2], ["0 /dev/null", "1 /dev/null"]);
    assert!(open[2].starts_with("2 pipe:"), "{open:?}");
    assert_eq!(open.len(), 3, "{open:?}");
    daemon.wait_for_log("the successor says something");

    assert_eq!(record.one("SigBlk:").trim_matches(['\t', '0']), "");
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        assert!(!record.has("SigIgn:", signal), "signal {signal}");
    }
    daemon.wait_for_log("upgrade (SIGUSR2): the successor, process ");
    record.assert_gone();
    exchange(&client, Pattern::new(2), KB);
    assert_eq!(stage.notified.count("STOPPING=1"), 0);
    let of_upgrades = ["MAINPID=", "RELOADING="];
    let is_of_upgrade = |line: &String| of_upgrades.iter().any(|of| line.starts_with(of));
    assert!(!stage.notified.lines().iter().any(is_of_upgrade));
}

fn a_daemon_whose_successor_ends_serves_on(engine: Engine) {
    let (stage, backend) = (Stage::new(), Backend::echo());
    let mut daemon = stage.start(engine, &backend, "");
    let client = connect(&stage.socket).unwrap();
    exchange(&client, Pattern::new(1), KB);
    for (code, expected) in [(0, 1), (1, 1), (2, 2), (101, 1)] {
        stage.install_recorder(code);
        let ended = format!("has ended with exit code {code} (see its lines in the log)");
        let output = stage.upgrade();
        assert_failed(
            &output,
            expected,
            &["spliceway: the successor, process ", &ended],
        );
        daemon.wait_for_log(&ended);
        stage.record().assert_gone();
    }
    stage.install("kill -9 $$");
    assert_failed(&stage.upgrade(), 1, &["by signal 9"]);
    fs::remove_file(stage.path("spliceway")).unwrap();
    let program = format!("start {}: ", stage.path("spliceway").display());
    assert_failed(&stage.upgrade(), 1, &[&program, "install it again)"]);
    exchange(&client, Pattern::new(2), KB);
    exchange_and_end(&connect(&stage.socket).unwrap(), Pattern::new(3), KB);
    assert!(daemon.is_running());
}

/// As by nohup(1).
#[test]
fn a_successor_ignores_what_its_predecessor_was_started_to_ignore() {
    let (stage, backend) = (Stage::new(), Backend::echo());
    let daemon = stage.start(Engine::Epoll, &backend, "trap '' HUP QUIT;");
    stage.install_recorder(1);
    daemon.signal(libc::SIGUSR2);
    let record = stage.record();
    for signal in [libc::SIGHUP, libc::SIGQUIT] {
        assert!(record.has("SigIgn:", signal), "signal {signal}");
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2] {
        assert!(!record.has("SigIgn:", signal), "signal {signal}");
    }
    daemon.wait_for_log("upgrade (SIGUSR2): the successor, process ");
}

/// A program that nobody reaps is one that somebody has asked not to hear of.
#[test]
fn how_a_successor_ends_is_known_also_where_the_starter_ignores_its_children() {
    let (stage, backend) = (Stage::new(), Backend::echo());
    let _daemon = stage.start(Engine::Epoll, &backend, "trap '' CHLD;");
    stage.install_recorder(4);
    assert_failed(&stage.upgrade(), 1, &["with exit code 4"]);
    stage.record().assert_gone();
}

#[test]
fn a_stop_ends_a_successor_that_has_not_taken_over() {
    let (stage, backend) = (Stage::new(), Backend::echo());
    let mut daemon = stage.start(Engine::Epoll, &backend, "");
    let alive = stage.path("alive");
    stage.install(&format!(
        "echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000",
        alive.display()
    ));
    daemon.signal(libc::SIGUSR2);
    eventually("the successor runs", || alive.exists());
    let successor = format!("/proc/{}", fs::read_to_string(&alive).unwrap().trim());
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    eventually("it is gone", || !Path::new(&successor).exists());
}

#[test]
fn a_daemon_without_a_control_socket_says_what_an_upgrade_takes() {
    let backend = Backend::echo();
    let mut proxy = Proxy::builder().backend(&backend).start();
    proxy.process().signal(libc::SIGUSR2);
    proxy
        .process()
        .wait_for_log("upgrade (SIGUSR2): the daemon has no control socket");
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    assert!(proxy.is_running());
}

#[test]
fn a_daemon_that_is_process_1_says_that_its_container_would_end() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .through(["unshare", "--pid", "--fork", "--kill-child"])
        .backend(&backend)
        .observed()
        .start();
    let output = tell(&proxy.control(), "upgrade");
    assert_failed(
        &output,
        1,
        &["first process of its container", "replace the container"],
    );
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
}
