//! Who cannot take the daemon's place, and what is said of that: the daemon goes on as it was.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::common::client::{exchange, exchange_and_end};
use crate::common::proxy::NOBODY;
use crate::common::sys::{ChildSetup, lacks_root};
use crate::common::{Backend, Engine, KB, Pattern, Process, SPLICEWAY};
use crate::peer::Line;
use crate::stage::{Daemon, route};

/// It ended so, and one line has all of this.
#[track_caller]
fn assert_refused(mut successor: Process, code: i32, mentions: &[&str]) {
    assert_eq!(successor.wait().code(), Some(code), "{mentions:?}");
    let lines = successor.log().lines();
    let has_all = |line: &String| mentions.iter().all(|mention| line.contains(mention));
    assert!(
        lines.iter().any(has_all),
        "no line with {mentions:?}: {lines:#?}"
    );
}

/// Does it, and looks whether the daemon is as it was before.
#[track_caller]
fn changing_nothing(daemon: &Daemon, act: impl FnOnce()) {
    let before = (daemon.pid(), daemon.hash(), daemon.files());
    let session = daemon.connect("raw.sock");
    exchange(&session, Pattern::new(1), KB);
    act();
    exchange_and_end(&session, Pattern::new(2), KB);
    exchange_and_end(&daemon.connect("raw.sock"), Pattern::new(3), KB);
    assert_eq!((daemon.pid(), daemon.hash(), daemon.files()), before);
}

pub(crate) fn another_user_is_refused(engine: Engine) {
    if lacks_root() {
        return;
    }
    let echo = Backend::echo();
    let daemon = Daemon::start(engine, &route("raw", &echo, ""));
    let program = daemon.dir().join("spliceway");
    let copied = Command::new("cp").arg(SPLICEWAY).arg(&program).status();
    assert!(copied.expect("cp exists").success());
    changing_nothing(&daemon, || {
        let by_nobody = || {
            let (nobody, control) = (NOBODY.to_string(), daemon.control());
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
            command.arg(&program).args(["run", "--take-over"]);
            command.arg(&control).arg("--config").arg(daemon.file());
            command.stdin(Stdio::null()).stdout(Stdio::null());
            let setup = ChildSetup {
                death_signal: libc::SIGKILL,
                ..ChildSetup::default()
            };
            Process::start(command, setup)
        };
        let take_over = "take over from the daemon at ";
        assert_refused(by_nobody(), 1, &[take_over, "Permission denied"]);
        // Also if the socket is open to all.
        fs::set_permissions(daemon.control(), Permissions::from_mode(0o666)).unwrap();
        let not_you = format!("user {NOBODY} may not command the daemon");
        assert_refused(by_nobody(), 1, &[take_over, &not_you]);
        fs::set_permissions(daemon.control(), Permissions::from_mode(0o600)).unwrap();
    });
    daemon.upgrade();
}

pub(crate) fn one_comes_at_a_time(engine: Engine) {
    let echo = Backend::echo();
    let daemon = Daemon::start(engine, &route("raw", &echo, ""));
    changing_nothing(&daemon, || {
        let first = Line::to(&daemon.control());
        let offered = first.be_offered();
        let already = "another process is about to take the daemon's place already";
        assert_refused(daemon.successor(), 1, &[already]);
        // The first one is still welcome.
        first.take(&offered);
    });
    let is_back = |line: &str| line.contains("this one goes on as before");
    daemon.log().wait_for("that it goes on", is_back);
    daemon.upgrade();
}

pub(crate) fn a_paused_route_is_not_handed_over(engine: Engine) {
    let echo = Backend::echo();
    let daemon = Daemon::start(
        engine,
        &[route("raw", &echo, ""), route("b", &echo, "")].concat(),
    );
    daemon.done(&["pause", "b"]);
    changing_nothing(&daemon, || {
        let mentions = ["route b is paused", "'spliceway resume b'"];
        daemon.refused(&["upgrade"], 1, &mentions);
        assert_refused(daemon.successor(), 1, &mentions);
    });
    assert!(daemon.route("b")["pause_left_seconds"].is_f64());
    daemon.done(&["resume", "b"]);
    daemon.upgrade();
}

pub(crate) fn what_is_wrong_with_a_successor_is_told(engine: Engine) {
    let echo = Backend::echo();
    let right = route("raw", &echo, "");
    let daemon = Daemon::start(engine, &right);
    let another = |listen: &str, more: &str| {
        format!("{right}[route.b]\nlisten = \"{listen}\"\nbackend = \"{echo}\"\n{more}\n")
    };
    fs::write(daemon.socket("file"), "").unwrap();
    let taken = UnixListener::bind(daemon.socket("taken.sock")).unwrap();
    let wrong = [
        ("nonsense".to_owned(), 2, "spliceway.toml"),
        (another("unix:relative", ""), 2, "spliceway.toml"),
        (another("unix:{dir}/no/b.sock", ""), 1, "no such directory"),
        (
            another("unix:{dir}/file", ""),
            1,
            "a file that is not a socket",
        ),
        (
            another("unix:{dir}/taken.sock", ""),
            1,
            "another process is listening",
        ),
        (
            another("unix:{dir}/b.sock", "owner = \"spliceway-nobody\""),
            1,
            "no user named",
        ),
        (another("inherit", ""), 1, "no descriptors were passed"),
    ];
    for (text, code, mention) in &wrong {
        daemon.write(text);
        changing_nothing(&daemon, || {
            assert_refused(daemon.successor(), *code, &[mention]);
            let exit_code = format!("exit code {code}");
            daemon.refused(&["upgrade"], *code, &[&exit_code]);
            let log = daemon.log();
            log.wait_for("the reason", |line| line.contains(mention));
        });
    }
    drop(taken);
    daemon.write(&another("unix:{dir}/b.sock", ""));
    daemon.upgrade();
    exchange_and_end(&daemon.connect("b.sock"), Pattern::new(4), KB);
}

/// Nor is anything done to whoever is there.
pub(crate) fn what_is_no_daemon_has_no_successor(engine: Engine) {
    let echo = Backend::echo();
    let daemon = Daemon::start(engine, &route("raw", &echo, ""));
    changing_nothing(&daemon, || {
        let of = |path: &Path| daemon.successor_of(path);
        let nobody = daemon.socket("nobody.sock");
        let mentions = [
            "take over from the daemon at ",
            "No such file",
            "is it running",
        ];
        assert_refused(of(&nobody), 1, &mentions);
        // A route's socket: its backend echoes.
        let foreign = "it does not answer as spliceway does";
        assert_refused(of(&daemon.socket("raw.sock")), 1, &[foreign]);
    });
    // A daemon of before that knows no successors.
    let path = daemon.socket("old.sock");
    let old = UnixListener::bind(&path).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut successor, _) = old.accept().unwrap();
            let _ = successor.read(&mut [0; 4096]).unwrap();
            let answer = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nnot found\n";
            successor.write_all(answer).unwrap();
        });
        let successor = daemon.successor_of(&path);
        assert_refused(
            successor,
            1,
            &["cannot be taken over from", "restart it instead"],
        );
    });
}
