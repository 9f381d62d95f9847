//! What signals mean to the daemon. docs/running.md has the same as a table.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::commands::{Commander, ControlCommand};
use crate::sys::{Errno, signals};

/// Those that a process ignores all its life if it was started so: nohup(1) and shells without job control
/// ask for that.
#[derive(Clone, Copy, Debug)]
struct Inherited {
    hangup: bool,
    interrupt: bool,
    quit: bool,
}

/// The signals are decided on: none finds its default action any more.
#[derive(Debug)]
pub(super) struct Secured(Inherited);

/// Ends what signals do by default. To be called before there is any thread.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn secure() -> Result<Secured, Errno> {
    let inherited = Inherited {
        hangup: signals::is_ignored(libc::SIGHUP),
        interrupt: signals::is_ignored(libc::SIGINT),
        quit: signals::is_ignored(libc::SIGQUIT),
    };
    signals::secure()?;
    Ok(Secured(inherited))
}

/// The daemon is to end: sessions are finished, at the second one cut.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Option<Signal>,
    quit: Option<Signal>,
    /// What an init of a container gets from LXC, and any init when the power fails.
    power: Signal,
    /// From a service manager's watchdog, which wants an end and no crash.
    abort: Signal,
}

/// Which of them it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    Terminate,
    Interrupt,
    Quit,
    Power,
    Abort,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Power => "SIGPWR",
            Self::Abort => "SIGABRT",
        })
    }
}

/// Something is to be done, and the daemon serves on.
pub(super) struct OtherSignals {
    hangup: Option<Signal>,
    user_defined_1: Signal,
    user_defined_2: Signal,
}

/// From here on they wait to be handled. To be called inside the runtime.
pub(super) fn listen(Secured(inherited): &Secured) -> io::Result<(StopSignals, OtherSignals)> {
    let unless = |ignored: bool, kind| match ignored {
        true => Ok(None),
        false => signal(kind).map(Some),
    };
    let stop = StopSignals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: unless(inherited.interrupt, SignalKind::interrupt())?,
        quit: unless(inherited.quit, SignalKind::quit())?,
        power: signal(SignalKind::from_raw(libc::SIGPWR))?,
        abort: signal(SignalKind::from_raw(libc::SIGABRT))?,
    };
    let others = OtherSignals {
        hangup: unless(inherited.hangup, SignalKind::hangup())?,
        user_defined_1: signal(SignalKind::user_defined1())?,
        user_defined_2: signal(SignalKind::user_defined2())?,
    };
    Ok((stop, others))
}

impl StopSignals {
    pub(super) async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::Terminate,
            () = received(&mut self.interrupt) => Stop::Interrupt,
            () = received(&mut self.quit) => Stop::Quit,
            _ = self.power.recv() => Stop::Power,
            _ = self.abort.recv() => Stop::Abort,
        }
    }
}

impl OtherSignals {
    /// For as long as the runtime runs, also in a drain.
    pub(super) async fn obey(mut self, reopen: impl Fn(), wishes: Wishes) {
        loop {
            tokio::select! {
                _ = self.user_defined_1.recv() => reopen(),
                () = received(&mut self.hangup) => {
                    tracing::info!("SIGHUP: access logs are opened anew, and the configuration is read anew");
                    reopen();
                    wishes.reload.notify_one();
                }
                _ = self.user_defined_2.recv() => {
                    tracing::info!("SIGUSR2: the program is started anew, to take over");
                    wishes.upgrade.notify_one();
                }
            }
        }
    }
}

/// What signals want of the main loop. Whoever carries it out waits for it.
#[derive(Clone, Default)]
pub(super) struct Wishes {
    reload: Arc<Notify>,
    upgrade: Arc<Notify>,
}

impl Wishes {
    /// Gives a command for each wish. What is wanted while one is carried out comes after it, once: the configuration,
    /// or the program, may have changed in between. A task of its own, because other signals must not wait for that.
    pub(super) async fn pass_on(self, commander: Commander) {
        tokio::join!(
            when_wanted(&self.reload, &commander, ControlCommand::Reload, "SIGHUP"),
            when_wanted(
                &self.upgrade,
                &commander,
                ControlCommand::Upgrade,
                "SIGUSR2"
            ),
        );
    }
}

async fn when_wanted(wish: &Notify, commander: &Commander, command: ControlCommand, by: &str) {
    loop {
        wish.notified().await;
        // The log has the answer.
        commander.give(command.clone(), by).await;
    }
}

/// Never, if nobody listens.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::commands::{Asked, Commands, ControlReply, channel};

    const GUARD: Duration = Duration::from_secs(60);

    async fn next(commands: &mut Commands) -> Asked {
        let asked = timeout(GUARD, commands.next()).await;
        asked.expect("a command comes")
    }

    /// The one that is wanted, and how often it is.
    async fn wanted(command: ControlCommand, wish: impl Fn(&Wishes)) {
        let (commander, mut commands) = channel();
        let wishes = Wishes::default();
        let task = tokio::spawn(wishes.clone().pass_on(commander));
        wish(&wishes);
        let asked = next(&mut commands).await;
        assert_eq!(asked.command, command);
        for _ in 0..3 {
            wish(&wishes);
            tokio::task::yield_now().await;
        }
        asked
            .asker
            .tell(ControlReply::refused(["a mistake".to_owned()]));
        let Asked { mut asker, .. } = next(&mut commands).await;
        // That is all: nobody is left who wants another one.
        task.abort();
        timeout(GUARD, asker.left()).await.expect("it has ended");
        assert!(
            timeout(Duration::ZERO, commands.next()).await.is_err(),
            "one more, not three"
        );
    }

    #[tokio::test]
    async fn what_is_wanted_during_a_reload_is_one_more() {
        wanted(ControlCommand::Reload, |wishes| wishes.reload.notify_one()).await;
    }

    #[tokio::test]
    async fn what_is_wanted_during_an_upgrade_is_one_more() {
        wanted(ControlCommand::Upgrade, |wishes| {
            wishes.upgrade.notify_one();
        })
        .await;
    }

    /// An upgrade may wait for its successor for a minute.
    #[tokio::test]
    async fn a_reload_does_not_wait_for_an_upgrade() {
        let (commander, mut commands) = channel();
        let wishes = Wishes::default();
        let _task = tokio::spawn(wishes.clone().pass_on(commander));
        wishes.upgrade.notify_one();
        let upgrade = next(&mut commands).await;
        wishes.reload.notify_one();
        assert_eq!(next(&mut commands).await.command, ControlCommand::Reload);
        drop(upgrade);
    }
}
