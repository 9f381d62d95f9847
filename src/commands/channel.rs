//! The way from whoever commands to the main loop, and of the answer back.

use std::future::pending;
use std::os::fd::OwnedFd;

use tokio::sync::{mpsc, oneshot};

use super::{ControlCommand, ControlOutcome, ControlReply};

/// Commands that wait until the main loop has time for them. Those who give more wait with theirs.
const QUEUE_MAX: usize = 16;

/// What is answered to a command that comes too late.
const ENDS: &str = "the daemon is about to end";

/// Successors that wait until the main loop has time for them. It takes one, and refuses the others.
const ARRIVALS_MAX: usize = 4;

/// Gives commands to the main loop. Everybody who does has a copy.
#[derive(Clone, Debug)]
pub(crate) struct Commander {
    commands: mpsc::Sender<Asked>,
    arrivals: mpsc::Sender<Arrival>,
}

/// Those that were given, for the main loop.
#[derive(Debug)]
pub(crate) struct Commands {
    commands: mpsc::Receiver<Asked>,
    arrivals: mpsc::Receiver<Arrival>,
}

/// Processes that want to take the daemon's place.
#[derive(Debug)]
pub(crate) struct Arrivals(mpsc::Receiver<Arrival>);

/// A process that wants to take the daemon's place, and may.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Its connection to the control socket, on which both talk from now on.
    pub(crate) connection: OwnedFd,
    /// As whom it runs, for the log.
    pub(crate) uid: Option<u32>,
    /// Which process it is, as far as the kernel knows.
    pub(crate) pid: Option<u32>,
}

/// A command that wants an answer.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What is to be done.
    pub(crate) command: ControlCommand,
    /// Who wants to hear how it ended.
    pub(crate) asker: Asker,
}

/// Whoever gave a command. Dropped without an answer, it hears that the daemon ends.
#[derive(Debug)]
pub(crate) struct Asker {
    /// For the log: the command, and who gave it.
    what: String,
    reply: oneshot::Sender<ControlReply>,
}

/// Both ends.
pub(crate) fn channel() -> (Commander, Commands) {
    let (give, commands) = mpsc::channel(QUEUE_MAX);
    let (arrive, arrivals) = mpsc::channel(ARRIVALS_MAX);
    let commander = Commander {
        commands: give,
        arrivals: arrive,
    };
    (commander, Commands { commands, arrivals })
}

impl Commander {
    /// Has it carried out for this one, and waits for the answer. Who does not wait any more leaves what was begun to
    /// be finished.
    pub(crate) async fn give(&self, command: ControlCommand, by: &str) -> ControlReply {
        let (reply, replied) = oneshot::channel();
        let what = format!("{command} ({by})");
        let what_again = what.clone();
        let asker = Asker { what, reply };
        // The main loop's end is gone once it drains.
        let replied = match self.commands.send(Asked { command, asker }).await {
            Ok(()) => replied.await.ok(),
            Err(_) => None,
        };
        replied.unwrap_or_else(|| {
            tracing::warn!("{what_again}: {ENDS}");
            ends()
        })
    }
}

impl Commander {
    /// Somebody has come to take the daemon's place. Dropped, its connection ends, which tells it enough: the daemon
    /// is about to end, or too many others have come.
    pub(crate) fn announce(&self, arrival: Arrival) {
        if let Err(error) = self.arrivals.try_send(arrival) {
            tracing::warn!("a successor is sent away: {error}");
        }
    }
}

fn ends() -> ControlReply {
    ControlReply::refused([ENDS.to_owned()])
}

impl Commands {
    /// The next one; never, if nobody is left who could give any.
    pub(crate) async fn next(&mut self) -> Asked {
        match self.commands.recv().await {
            Some(asked) => asked,
            None => pending().await,
        }
    }

    /// Apart from those that come to take the daemon's place.
    pub(crate) fn split(self) -> (Self, Arrivals) {
        let (_, nobody) = mpsc::channel(1);
        let Self { commands, arrivals } = self;
        let commands = Self {
            commands,
            arrivals: nobody,
        };
        (commands, Arrivals(arrivals))
    }
}

impl Arrivals {
    /// The next process that wants to take the daemon's place; never, if none can come any more.
    pub(crate) async fn next(&mut self) -> Arrival {
        match self.0.recv().await {
            Some(arrival) => arrival,
            None => pending().await,
        }
    }
}

impl Asker {
    /// How it ended. The log has the same; nobody else may be there to hear it, which is theirs to decide.
    pub(crate) fn tell(self, reply: ControlReply) {
        let Self { what, reply: to } = self;
        let nothing = [String::from("done")];
        let lines = match &reply.lines[..] {
            [] => &nothing,
            lines => lines,
        };
        for line in lines {
            match reply.outcome {
                ControlOutcome::Done => tracing::info!("{what}: {line}"),
                ControlOutcome::Refused | ControlOutcome::Mistaken => {
                    tracing::error!("{what}: {line}");
                }
            }
        }
        let _ = to.send(reply);
    }

    /// Returns once nobody waits for the answer any more.
    pub(crate) async fn left(&mut self) {
        self.reply.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_command_gets_its_answer() {
        let (commander, mut commands) = channel();
        let main_loop = async {
            let mut all = Vec::new();
            for _ in 0..2 {
                all.push(commands.next().await);
            }
            // The later one first.
            for Asked { command, asker } in all.into_iter().rev() {
                asker.tell(ControlReply::done([command.name().to_owned()]));
            }
        };
        let resume = ControlCommand::Resume {
            route: "a".parse().unwrap(),
        };
        let (reload, resume, ()) = tokio::join!(
            commander.give(ControlCommand::Reload, "SIGHUP"),
            commander.give(resume, "uid 0"),
            main_loop
        );
        assert_eq!(reload, ControlReply::done(["reload".to_owned()]));
        assert_eq!(resume, ControlReply::done(["resume".to_owned()]));
    }

    #[tokio::test]
    async fn who_does_not_wait_any_more_is_noticed() {
        let (commander, mut commands) = channel();
        let asking = tokio::spawn({
            let commander = commander.clone();
            async move { commander.give(ControlCommand::Reload, "SIGHUP").await }
        });
        let mut asked = commands.next().await;
        asking.abort();
        asked.asker.left().await;
        asked.asker.tell(ControlReply::done([]));
    }

    #[tokio::test]
    async fn a_daemon_that_ends_refuses() {
        let (commander, mut commands) = channel();
        let main_loop = async {
            drop(commands.next().await);
            drop(commands);
        };
        let (reply, ()) = tokio::join!(commander.give(ControlCommand::Reload, "SIGHUP"), main_loop);
        assert_eq!(reply, ends());
        assert_eq!(
            commander.give(ControlCommand::Reload, "SIGHUP").await,
            ends()
        );
    }
}
