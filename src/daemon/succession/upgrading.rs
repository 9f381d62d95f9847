//! An upgrade from the wish for it to its end.
//!
//! The main loop goes on meanwhile. One is under way at a time; whoever asks for one then gets the next, unless this
//! one succeeds.

use std::ffi::OsString;
use std::future::pending;
use std::mem;
use std::path::PathBuf;

use tokio::time::{Instant, sleep_until};

use super::start::{Program, StartError, Started, Successor};
use super::successor::Failure;
use crate::commands::{Asker, ControlReply, SUCCESSOR_TIMEOUT};

/// The upgrade that is under way, if there is one.
pub(in super::super) struct Upgrading {
    program: Program,
    /// The control socket.
    control: Option<PathBuf>,
    /// What the successor is to find in its environment.
    variables: Vec<(&'static str, OsString)>,
    stage: Stage,
    /// Who waits for its end.
    askers: Vec<Asker>,
    /// Who has come too late for it.
    late: Vec<Asker>,
    /// The process that was started last.
    started: Option<u32>,
    /// Why this daemon did not leave its place to it.
    refusal: Option<String>,
}

enum Stage {
    None,
    Starting(Started),
    /// It runs, and has not taken over yet.
    Waiting(Successor, Instant),
    /// A process has taken over. One of which nobody has heard yet that it was started may be this very one, so it is
    /// not given up.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is not dropped"))]
    Over(Option<Started>),
}

impl Upgrading {
    pub(in super::super) fn new(
        program: Program,
        control: Option<PathBuf>,
        variables: Vec<(&'static str, OsString)>,
    ) -> Self {
        Self {
            program,
            control,
            variables,
            stage: Stage::None,
            askers: Vec::new(),
            late: Vec::new(),
            started: None,
            refusal: None,
        }
    }

    /// The daemon has not left its place to a process. If that is the successor that was started here, it ends: by
    /// itself, unless it hangs.
    pub(in super::super) fn was_refused(&mut self, pid: u32, why: &Failure) {
        if self.started != Some(pid) {
            return;
        }
        match why {
            // How it ends says more.
            Failure::Left(_) => {}
            Failure::SentAway(why) => self.refusal = Some(why.clone()),
            Failure::Hangs(why) => {
                self.refusal = Some(why.clone());
                if let Stage::Waiting(successor, _) = &self.stage {
                    successor.kill();
                }
            }
        }
    }

    /// The process that was started last, if one was.
    pub(in super::super) fn started(&self) -> Option<u32> {
        self.started
    }

    /// Somebody wants one.
    pub(in super::super) fn wish(&mut self, asker: Asker) {
        match self.stage {
            Stage::None => {
                self.askers.push(asker);
                self.begin();
            }
            Stage::Starting(_) | Stage::Waiting(..) => self.late.push(asker),
            // It hears that this process is about to end.
            Stage::Over(_) => drop(asker),
        }
    }

    fn begin(&mut self) {
        let started = self.program.start(self.control.as_deref(), &self.variables);
        self.stage = Stage::Starting(started);
    }

    /// What to say of the upgrade that is under way once it has failed; never, if none is. To be polled again from the
    /// start does no harm.
    pub(in super::super) async fn failed(&mut self) -> ControlReply {
        loop {
            match &mut self.stage {
                Stage::None | Stage::Over(_) => return pending().await,
                Stage::Starting(started) => {
                    match started.await.unwrap_or(Err(StartError::Panicked)) {
                        Ok(successor) => {
                            tracing::info!("the successor is process {}", successor.pid());
                            self.started = Some(successor.pid());
                            let until = Instant::now() + SUCCESSOR_TIMEOUT;
                            self.stage = Stage::Waiting(successor, until);
                        }
                        Err(error) => {
                            self.stage = Stage::None;
                            return ControlReply::refused([error.to_string()]);
                        }
                    }
                }
                Stage::Waiting(successor, until) => {
                    let reply = tokio::select! {
                        end = successor.ended() => match end.is_mistake {
                            true => ControlReply::mistaken([end.to_string()]),
                            false => ControlReply::refused([end.to_string()]),
                        },
                        () = sleep_until(*until) => {
                            successor.kill();
                            ControlReply::refused([too_late(successor.pid())])
                        }
                    };
                    self.stage = Stage::None;
                    return reply;
                }
            }
        }
    }

    /// It has come to its end: tells everybody who wanted it, and begins anew, once, for all who want the next one.
    pub(in super::super) fn end(&mut self, reply: &ControlReply) {
        self.stage = Stage::None;
        let mut reply = reply.clone();
        let refusal = self.refusal.take();
        reply.lines.splice(0..0, refusal);
        for asker in self.askers.drain(..) {
            asker.tell(reply.clone());
        }
        self.askers.append(&mut self.late);
        if !self.askers.is_empty() {
            self.begin();
        }
    }

    /// This process has taken over, whether it was started here or by hand. Everybody has what they wanted.
    pub(in super::super) fn succeeded(&mut self, pid: u32, version: &str) {
        self.stage = match mem::replace(&mut self.stage, Stage::None) {
            Stage::Starting(started) => Stage::Over(Some(started)),
            Stage::Waiting(successor, _) => {
                if successor.pid() != pid {
                    successor.kill();
                }
                Stage::Over(None)
            }
            Stage::None => Stage::Over(None),
            Stage::Over(_) => {
                unreachable!("this process has nothing left that could be taken over")
            }
        };
        let line = format!("the daemon is process {pid} now, version {version}");
        for asker in self.askers.drain(..).chain(self.late.drain(..)) {
            asker.tell(ControlReply::done([line.clone()]));
        }
    }

    /// The daemon is about to end: who comes to serve now would find nobody to take over from.
    pub(in super::super) fn give_up(&mut self) {
        match mem::replace(&mut self.stage, Stage::None) {
            Stage::Starting(mut started) => {
                // What is started from now on, its thread kills.
                started.close();
                if let Ok(Ok(successor)) = started.try_recv() {
                    successor.kill();
                }
            }
            Stage::Waiting(successor, _) => successor.kill(),
            over @ Stage::Over(_) => self.stage = over,
            Stage::None => {}
        }
        self.askers.clear();
        self.late.clear();
    }
}

fn too_late(pid: u32) -> String {
    format!(
        "the successor, process {pid}, was not ready within {} s, and was killed (see its lines in the log)",
        SUCCESSOR_TIMEOUT.as_secs()
    )
}

#[cfg(test)]
mod tests;
