//! Successors that do not come to serve: nobody but the operator notices.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::client::{assert_waiting, exchange, exchange_and_end, send};
use crate::common::process::Log;
use crate::common::programs::program;
use crate::common::proxy::{Builder, fresh_dir};
use crate::common::random::{Random, seed};
use crate::common::wait::pause;
use crate::common::{Backend, Engine, KB, Pattern, Process, Proxy, SPLICEWAY, eventually};
use crate::load::Work;
use crate::peer::Line;
use crate::stage::{Daemon, is_over, route};

/// How long a successor may take that is to say something at once.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(30);

/// At every moment of its start, by chance.
pub(crate) fn a_successor_that_is_killed_is_not_noticed(engine: Engine) {
    const KILLED: usize = 20;
    let seed = seed();
    println!("SPLICEWAY_SEED={seed}");
    let mut random = Random::new(seed);
    let work = Work::new();
    let daemon = Daemon::start(engine, &work.routes());
    let began = Instant::now();
    daemon.upgrade();
    let usual_us = u64::try_from(began.elapsed().as_micros()).expect("it is some milliseconds");
    let (hash, files) = (daemon.hash(), daemon.files());
    let mut killed = 0;
    // Those that were quicker than what was to kill them, of which the last one serves.
    let mut came: Vec<Process> = Vec::new();
    work.go_on_during(&daemon, || {
        while killed < KILLED {
            let serving = daemon.pid();
            let log = came.last().map_or_else(|| daemon.log(), Process::log);
            let after = Duration::from_micros(random.within(0..=usual_us));
            let successor = daemon.successor();
            match Some(successor).filter(|s| !is_killed(s, &daemon, log, after)) {
                Some(successor) => came.push(successor),
                None => {
                    killed += 1;
                    work.goes_on();
                    assert_eq!(daemon.pid(), serving, "it serves on");
                    assert_eq!(daemon.hash(), hash);
                }
            }
        }
        assert_eq!(daemon.files(), files);
        daemon.upgrade();
        work.goes_on();
    });
    assert_eq!(daemon.files(), files);
}

/// Kills the successor, some time after its start, unless it has come to serve by then.
fn is_killed(successor: &Process, daemon: &Daemon, log: &Log, after: Duration) -> bool {
    pause(after);
    successor.signal(libc::SIGSTOP);
    eventually("it stands", || successor.is_stopped());
    // Once what it has said is heard, and it serves, its end is the daemon's.
    if has_come_to_serve(successor, daemon, log) {
        successor.signal(libc::SIGCONT);
        return false;
    }
    successor.signal(libc::SIGKILL);
    eventually("it is gone", || is_over(successor.pid()));
    true
}

/// Of one that stands. The daemon has heard all that it has said when it has turned once more, which it has when it
/// answers: twice, as it may have been about to. Once its place is taken it does not.
fn has_come_to_serve(successor: &Process, daemon: &Daemon, log: &Log) -> bool {
    let line = format!("process {} serves in the daemon's place", successor.pid());
    let serves = || log.count(&line) > 0;
    (0..2).any(|_| {
        let asker = daemon.connect("control.sock");
        send(&asker, b"GET /status HTTP/1.1\r\nHost: test\r\n\r\n");
        asker.set_nonblocking(true).expect("a socket has modes");
        let is_answered = || matches!((&asker).read(&mut [0]), Ok(1));
        eventually("it answers, or has left", || is_answered() || serves());
        serves()
    })
}

/// What a successor does before it says nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HangsAfter {
    /// It has come.
    Coming,
    /// The sockets were left to it.
    Taking,
}

pub(crate) fn a_successor_that_hangs_is_given_up(engine: Engine) {
    thread::scope(|scope| {
        for after in [HangsAfter::Coming, HangsAfter::Taking] {
            scope.spawn(move || hang(engine, after));
        }
        scope.spawn(move || hang_as_one_that_was_started(engine));
    });
}

fn hang(engine: Engine, after: HangsAfter) {
    let echo = Backend::echo();
    let daemon = Daemon::start(engine, &route("raw", &echo, ""));
    let (serving, hash) = (daemon.pid(), daemon.hash());
    let session = daemon.connect("raw.sock");
    exchange(&session, Pattern::new(1), KB);
    let line = Line::to(&daemon.control());
    if after == HangsAfter::Taking {
        let offered = line.be_offered();
        line.take(&offered);
    }
    // Where nobody accepts, somebody comes who waits.
    let client = daemon.connect("raw.sock");
    match after {
        HangsAfter::Coming => exchange(&client, Pattern::new(2), KB),
        HangsAfter::Taking => assert_waiting(&client),
    }
    let is_given_up = || daemon.log().count("does not take the daemon's place") > 0;
    let began = Instant::now();
    while !is_given_up() {
        exchange(&session, Pattern::new(3), KB);
        assert!(began.elapsed() < GIVEN_UP_WITHIN, "{after:?}");
    }
    exchange_and_end(&client, Pattern::new(4), KB);
    exchange_and_end(&session, Pattern::new(5), KB);
    let longer = daemon
        .log()
        .lines()
        .into_iter()
        .find(|l| l.contains("it took longer than 10 s"));
    let what_for = match after {
        HangsAfter::Coming => "to say what it is",
        HangsAfter::Taking => "to serve",
    };
    assert!(
        longer.is_some_and(|line| line.contains(what_for)),
        "{after:?}"
    );
    assert_eq!((daemon.pid(), daemon.hash()), (serving, hash));
    daemon.upgrade();
    exchange_and_end(&daemon.connect("raw.sock"), Pattern::new(6), KB);
}

/// It is killed, and whoever has asked for it hears why.
fn hang_as_one_that_was_started(engine: Engine) {
    const HANGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upgrade/hanging.py");
    let echo = Backend::echo();
    let (installed, alive) = (fresh_dir(), fresh_dir());
    let path = installed.path().join("spliceway");
    run(Command::new("cp").arg(SPLICEWAY).arg(&path));
    let alive = alive.path().join("pid");
    let daemon = Daemon::start_of(
        program_at(&path),
        engine,
        "workers = 2",
        &route("raw", &echo, ""),
    );
    let (serving, hash) = (daemon.pid(), daemon.hash());
    let python = program(&["/usr/bin/python3"]);
    let script = format!(
        "#!/bin/sh\nexec {} {HANGING} {} \"$@\"\n",
        python.display(),
        alive.display()
    );
    install(&script, &path);
    daemon.refused(
        &["upgrade"],
        1,
        &["it took longer than 10 s to serve", "by signal 9"],
    );
    let pid = fs::read_to_string(&alive).expect("it has written it down");
    eventually("it is gone", || {
        is_over(pid.trim().parse().expect("a number"))
    });
    assert_eq!((daemon.pid(), daemon.hash()), (serving, hash));
    exchange_and_end(&daemon.connect("raw.sock"), Pattern::new(1), KB);
    run(Command::new("cp")
        .arg("--remove-destination")
        .arg(SPLICEWAY)
        .arg(&path));
    daemon.upgrade();
    exchange_and_end(&daemon.connect("raw.sock"), Pattern::new(2), KB);
}

/// The program as it is found at this path.
fn program_at(path: &Path) -> Builder {
    let path = path.to_str().expect("temporary paths are text");
    // The first word is the program that is tested otherwise.
    let instead = format!("shift; exec {path} \"$@\"");
    Proxy::builder()
        .observed()
        .through(["/bin/sh", "-c", &instead, "sh"])
}

/// As a package does it. A shell writes it, so that this process never has it open for writing.
fn install(script: &str, path: &Path) {
    const WRITE: &str = r#"printf '%s' "$1" > "$0.new" && chmod 755 "$0.new" && mv "$0.new" "$0""#;
    run(Command::new("/bin/sh")
        .args(["-c", WRITE])
        .arg(path)
        .arg(script));
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("it can be started");
    assert!(output.status.success(), "{command:?}: {output:?}");
}
