use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::commands::{Asked, Commander, Commands, ControlCommand, ControlOutcome, channel};

const GUARD: Duration = Duration::from_secs(60);

/// A daemon whose successors are all the same script.
struct Daemon {
    upgrading: Upgrading,
    commander: Commander,
    commands: Commands,
    _dir: tempfile::TempDir,
}

type Reply = tokio::task::JoinHandle<ControlReply>;

impl Daemon {
    fn new(script: &str) -> Self {
        let (commander, commands) = channel();
        let dir = tempfile::tempdir().unwrap();
        let program = Program::script(dir.path(), script);
        Self {
            upgrading: Upgrading::new(program, Some("/run/c.sock".into()), Vec::new()),
            commander,
            commands,
            _dir: dir,
        }
    }

    /// Somebody wants an upgrade, and waits for the answer.
    async fn wish(&mut self) -> Reply {
        let commander = self.commander.clone();
        let reply =
            tokio::spawn(async move { commander.give(ControlCommand::Upgrade, "a test").await });
        let Asked { asker, .. } = self.commands.next().await;
        self.upgrading.wish(asker);
        reply
    }

    /// Until it has failed.
    async fn fail(&mut self) {
        let failed = timeout(GUARD, self.upgrading.failed()).await;
        self.upgrading.end(&failed.expect("it fails"));
    }

    /// Until the script runs; which process it is.
    async fn run(&mut self) -> u32 {
        loop {
            // As the main loop does when something else comes.
            let turn = timeout(Duration::from_millis(5), self.upgrading.failed());
            assert!(turn.await.is_err(), "it does not fail");
            if let Stage::Waiting(successor, _) = &self.upgrading.stage {
                return successor.pid();
            }
        }
    }
}

async fn answer(reply: Reply) -> (ControlOutcome, String) {
    let ControlReply { outcome, lines } = timeout(GUARD, reply).await.unwrap().unwrap();
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    (outcome, line.clone())
}

/// Until this process is gone: whoever has killed it has also reaped it.
async fn gone(pid: u32) {
    let gone = async {
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(GUARD, gone).await.expect("it is killed");
}

const FOR_EVER: &str = "exec sleep 1000";

#[tokio::test]
async fn an_upgrade_fails_with_what_became_of_the_successor() {
    for (script, outcome, how) in [
        ("exit 1", ControlOutcome::Refused, "with exit code 1 ("),
        ("exit 2", ControlOutcome::Mistaken, "with exit code 2 ("),
    ] {
        let mut daemon = Daemon::new(script);
        let reply = daemon.wish().await;
        daemon.fail().await;
        let (answered, line) = answer(reply).await;
        assert_eq!(answered, outcome);
        assert!(
            line.starts_with("the successor, process ") && line.contains(how),
            "{line}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_started_fails_at_once() {
    let mut daemon = Daemon::new("exit 0");
    daemon.upgrading.control = None;
    let reply = daemon.wish().await;
    daemon.fail().await;
    let (outcome, line) = answer(reply).await;
    assert_eq!(outcome, ControlOutcome::Refused);
    assert!(line.contains("no control socket"), "{line}");
}

#[tokio::test]
async fn whoever_comes_during_an_upgrade_gets_the_next_one_if_it_fails() {
    let mut daemon = Daemon::new("exit 1");
    let first = daemon.wish().await;
    let late = [daemon.wish().await, daemon.wish().await];
    daemon.fail().await;
    let (_, line) = answer(first).await;
    daemon.fail().await;
    let mut lines = Vec::new();
    for late in late {
        lines.push(answer(late).await.1);
    }
    // One successor for both, and not the one before.
    assert_eq!(lines[0], lines[1]);
    assert_ne!(lines[0], line);
    assert!(matches!(daemon.upgrading.stage, Stage::None));
}

#[tokio::test]
async fn everybody_hears_which_process_the_daemon_is_now() {
    let mut daemon = Daemon::new(FOR_EVER);
    let replies = [daemon.wish().await, daemon.wish().await];
    let pid = daemon.run().await;
    daemon.upgrading.succeeded(pid, "0.2.0");
    for reply in replies {
        let line = format!("the daemon is process {pid} now, version 0.2.0");
        assert_eq!(answer(reply).await, (ControlOutcome::Done, line));
    }
    // It is left alone, and what happens to it now is no matter of this process's.
    let turn = timeout(Duration::from_millis(50), daemon.upgrading.failed());
    assert!(turn.await.is_err());
    daemon.upgrading.give_up();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(!status.contains("zombie"), "{status}");
    let mut kill = std::process::Command::new("/bin/sh");
    let kill = kill.args(["-c", &format!("kill -9 {pid}")]).status();
    assert!(kill.unwrap().success());
    gone(pid).await;
}

#[tokio::test]
async fn a_successor_that_somebody_else_was_faster_than_is_killed() {
    let mut daemon = Daemon::new(FOR_EVER);
    let reply = daemon.wish().await;
    let pid = daemon.run().await;
    daemon.upgrading.succeeded(1, "0.2.0");
    assert!(
        answer(reply)
            .await
            .1
            .starts_with("the daemon is process 1 now")
    );
    gone(pid).await;
}

#[tokio::test]
async fn a_daemon_that_ends_leaves_no_successor_behind_that_has_not_taken_over() {
    let mut daemon = Daemon::new(FOR_EVER);
    let reply = daemon.wish().await;
    let pid = daemon.run().await;
    daemon.upgrading.give_up();
    gone(pid).await;
    let (outcome, line) = answer(reply).await;
    assert_eq!(outcome, ControlOutcome::Refused);
    assert!(line.contains("about to end"), "{line}");
}

/// The main loop has not heard of it when the signal to stop comes.
#[tokio::test]
async fn a_successor_that_was_just_started_is_killed_as_well() {
    let mark = tempfile::NamedTempFile::new().unwrap();
    let mut daemon = Daemon::new(&format!("echo $$ > {}; {FOR_EVER}", mark.path().display()));
    let _reply = daemon.wish().await;
    let Stage::Starting(started) = &daemon.upgrading.stage else {
        unreachable!("it was wished for")
    };
    let pid = async {
        loop {
            let pid = std::fs::read_to_string(mark.path()).unwrap();
            if pid.ends_with('\n') && !started.is_empty() {
                return pid.trim().parse().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let pid = timeout(GUARD, pid).await.expect("it is started");
    daemon.upgrading.give_up();
    gone(pid).await;
}

#[tokio::test]
async fn a_successor_that_was_faster_than_the_word_of_its_start_is_left_alone() {
    let mut daemon = Daemon::new(FOR_EVER);
    let reply = daemon.wish().await;
    daemon.upgrading.succeeded(4711, "0.2.0");
    assert_eq!(answer(reply).await.0, ControlOutcome::Done);
    let Stage::Over(Some(started)) = mem::replace(&mut daemon.upgrading.stage, Stage::None) else {
        unreachable!("it had yet to say so")
    };
    let successor = timeout(GUARD, started).await.unwrap().unwrap().unwrap();
    let pid = successor.pid();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    successor.kill();
    gone(pid).await;
}

/// While it drains, SIGUSR2 may still come.
#[tokio::test]
async fn a_daemon_that_was_taken_over_from_starts_no_successor() {
    let mut daemon = Daemon::new(FOR_EVER);
    daemon.upgrading.succeeded(4711, "0.2.0");
    let reply = daemon.wish().await;
    let (outcome, line) = answer(reply).await;
    assert_eq!(outcome, ControlOutcome::Refused);
    assert!(line.contains("about to end"), "{line}");
    daemon.upgrading.give_up();
    assert!(matches!(daemon.upgrading.stage, Stage::Over(None)));
}

#[tokio::test]
async fn a_successor_that_does_not_come_to_serve_is_killed_in_the_end() {
    let mut daemon = Daemon::new(FOR_EVER);
    let reply = daemon.wish().await;
    let pid = daemon.run().await;
    if let Stage::Waiting(_, until) = &mut daemon.upgrading.stage {
        *until = Instant::now();
    }
    daemon.fail().await;
    gone(pid).await;
    let (outcome, line) = answer(reply).await;
    assert_eq!(outcome, ControlOutcome::Refused);
    let expected =
        format!("the successor, process {pid}, was not ready within 60 s, and was killed");
    assert!(line.starts_with(&expected), "{line}");
}
