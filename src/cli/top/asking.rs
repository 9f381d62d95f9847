//! Asking the daemon: for its status and for its requests, each once in an interval, whatever the other one takes.

use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{self, Interval, MissedTickBehavior};

use crate::observe::client::{AskError, ask, ask_requests};
use crate::observe::{Requests, Status, Which};

/// What is to be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    /// Of what requests are told.
    pub(super) which: Which,
    /// Nothing is asked for.
    pub(super) is_paused: bool,
}

/// What has come of a question.
#[derive(Debug)]
pub(super) enum Answer {
    Status(Result<Status, AskError>),
    /// And for what was asked.
    Requests(Which, Result<Requests, AskError>),
}

/// Asks until it is dropped, or until nobody listens any more.
pub(super) async fn ask_on(
    control: &Path,
    interval: Duration,
    wanted: watch::Receiver<Wanted>,
    tell: mpsc::Sender<Answer>,
) {
    tokio::join!(
        for_status(control, interval, wanted.clone(), tell.clone()),
        for_requests(control, interval, wanted, tell),
    );
}

async fn for_status(
    control: &Path,
    interval: Duration,
    mut wanted: watch::Receiver<Wanted>,
    tell: mpsc::Sender<Answer>,
) {
    let mut ticks = every(interval);
    // Both fail only when nobody listens.
    while wanted.wait_for(|wanted| !wanted.is_paused).await.is_ok() {
        ticks.tick().await;
        let answer = Answer::Status(ask(control).await);
        if tell.send(answer).await.is_err() {
            return;
        }
    }
}

/// What is wanted anew is asked for at once: somebody has pressed a key and waits.
async fn for_requests(
    control: &Path,
    interval: Duration,
    mut wanted: watch::Receiver<Wanted>,
    tell: mpsc::Sender<Answer>,
) {
    let mut ticks = every(interval);
    ticks.tick().await;
    loop {
        let Ok(now) = wanted.wait_for(|wanted| !wanted.is_paused).await else {
            return;
        };
        let which = now.which.clone();
        drop(now);
        let asked = ask_requests(control, &which).await;
        if tell.send(Answer::Requests(which, asked)).await.is_err() {
            return;
        }
        tokio::select! {
            _ = ticks.tick() => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

fn every(interval: Duration) -> Interval {
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
