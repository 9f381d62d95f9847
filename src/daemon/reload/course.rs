//! A reload from the wish for it to its end.
//!
//! The main loop goes on meanwhile. One is under way at a time; whoever asks for one then gets the next, which reads
//! the file anew.

use std::future::pending;
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;

use crate::commands::Asker;
use crate::config::Loaded;

use super::super::ReadAgain;
use super::make::{Made, make};
use super::plan::{Plan, Wanted};

/// The reload that is under way, if there is one.
pub(in super::super) struct Reloading {
    read_again: Arc<ReadAgain>,
    stage: Option<Stage>,
    /// Who waits for its end.
    askers: Vec<Asker>,
    /// Who has come too late for it.
    late: Vec<Asker>,
}

enum Stage {
    Reading(Awaited<Loaded>),
    Making(Box<Plan>, Awaited<Made>),
}

/// What a thread comes to: lines, if to nothing.
type Awaited<T> = oneshot::Receiver<Result<T, Vec<String>>>;

/// How far it has come.
pub(in super::super) enum Progress {
    /// This is to be served.
    Read(Box<Loaded>),
    /// All that it takes is there.
    Made(Box<(Plan, Made)>),
    /// The configuration is wrong.
    Mistaken(Vec<String>),
    /// There are obstacles.
    Refused(Vec<String>),
}

impl Reloading {
    pub(in super::super) fn new(read_again: ReadAgain) -> Self {
        Self {
            read_again: Arc::new(read_again),
            stage: None,
            askers: Vec::new(),
            late: Vec::new(),
        }
    }

    /// Whether one is under way.
    pub(in super::super) fn is_under_way(&self) -> bool {
        self.stage.is_some()
    }

    /// These want one, if anybody does. Whether it has begun.
    pub(in super::super) fn wish(&mut self, askers: impl IntoIterator<Item = Asker>) -> bool {
        if self.stage.is_some() {
            self.late.extend(askers);
            return false;
        }
        self.askers.extend(askers);
        if self.askers.is_empty() {
            return false;
        }
        let read_again = Arc::clone(&self.read_again);
        self.stage = Some(Stage::Reading(on_thread(move || read_again())));
        true
    }

    /// The plan is ready: has done what can fail of it.
    pub(in super::super) fn make(&mut self, plan: Plan, wanted: Wanted) {
        let made = on_thread(move || make(&wanted));
        self.stage = Some(Stage::Making(Box::new(plan), made));
    }

    /// What comes of the step that is under way; never, if none is. To be polled again from the start does no harm.
    pub(in super::super) async fn next(&mut self) -> Progress {
        match &mut self.stage {
            None => pending().await,
            Some(Stage::Reading(read)) => {
                let read = outcome(read).await;
                self.stage = None;
                match read {
                    Ok(configured) => Progress::Read(Box::new(configured)),
                    Err(lines) => Progress::Mistaken(lines),
                }
            }
            Some(Stage::Making(_, made)) => {
                let made = outcome(made).await;
                match (made, self.stage.take()) {
                    (Ok(made), Some(Stage::Making(plan, _))) => {
                        Progress::Made(Box::new((*plan, made)))
                    }
                    (Err(lines), _) => Progress::Refused(lines),
                    (Ok(_), _) => unreachable!("the stage is the one that was looked at"),
                }
            }
        }
    }

    /// It has come to its end: who is to hear of it, and who wants the next one.
    pub(in super::super) fn end(&mut self) -> (Vec<Asker>, Vec<Asker>) {
        self.stage = None;
        (
            std::mem::take(&mut self.askers),
            std::mem::take(&mut self.late),
        )
    }
}

async fn outcome<T>(awaited: &mut Awaited<T>) -> Result<T, Vec<String>> {
    awaited.await.unwrap_or_else(|_| {
        let line = "the thread of the reload has panicked (this is a bug; please report what the log says)";
        Err(vec![line.to_owned()])
    })
}

/// Whatever it waits for, the main loop does not.
fn on_thread<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, Vec<String>> + Send + 'static,
) -> Awaited<T> {
    let (done, awaited) = oneshot::channel();
    let (failed, failure) = oneshot::channel();
    let started = thread::Builder::new()
        .name("reload".to_owned())
        .spawn(move || {
            // Nobody waits any more if the daemon is about to end; what was made goes again.
            let _ = done.send(act());
        });
    match started {
        Ok(_) => awaited,
        Err(error) => {
            let line = format!(
                "start a thread for the reload: {error} (raise the limit of tasks or memory)"
            );
            let _ = failed.send(Err(vec![line]));
            failure
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::commands::{Asked, ControlCommand, ControlReply, channel};

    #[tokio::test]
    async fn those_who_come_during_a_reload_share_the_next_one() {
        static READ: AtomicU32 = AtomicU32::new(0);
        let (commander, mut commands) = channel();
        let give = || {
            let commander = commander.clone();
            tokio::spawn(async move { commander.give(ControlCommand::Reload, "uid 0").await })
        };
        let given: Vec<_> = (0..4).map(|_| give()).collect();
        let mut reloading = Reloading::new(Box::new(|| {
            READ.fetch_add(1, Ordering::Relaxed);
            Err(vec!["a mistake".to_owned()])
        }));
        let mut began = Vec::new();
        for _ in 0..4 {
            let Asked { asker, .. } = commands.next().await;
            began.push(reloading.wish([asker]));
        }
        assert_eq!(began, [true, false, false, false]);
        let (mut rounds, mut is_wanted) = (0, true);
        while is_wanted {
            assert!(matches!(reloading.next().await, Progress::Mistaken(_)));
            let (askers, late) = reloading.end();
            for asker in askers {
                asker.tell(ControlReply::mistaken([]));
            }
            is_wanted = reloading.wish(late);
            rounds += 1;
        }
        assert_eq!((rounds, READ.load(Ordering::Relaxed)), (2, 2));
        for given in given {
            assert_eq!(given.await.unwrap(), ControlReply::mistaken([]));
        }
    }
}
