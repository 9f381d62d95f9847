//! Whether the workers turn.
//!
//! An idle worker waits in the kernel and makes no turns, so it is woken and watched: one that is
//! alive turns at once.

use std::time::Duration;

use tokio::time::{self, Instant};

use super::{Observed, ObservedWorker};

/// How long a worker may take to turn. A turn is bounded to some milliseconds of work; on a machine
/// that gives a thread no time for a second, sessions are not served either.
pub(crate) const PULSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The first look after the wake, and what pauses between looks begin with.
const LOOK_INTERVAL_MIN: Duration = Duration::from_micros(200);

/// The longest pause between looks.
const LOOK_INTERVAL_MAX: Duration = Duration::from_millis(20);

impl Observed {
    /// The numbers of the workers that do not turn within this time.
    pub(crate) async fn stuck_workers(&self, patience: Duration) -> Vec<usize> {
        let until = Instant::now() + patience;
        let turns: Vec<u64> = self.workers.iter().map(ObservedWorker::turns).collect();
        self.workers.iter().for_each(|worker| (worker.poke)());
        let mut stuck = Vec::new();
        // One after the other, with one end for all: a worker has the time of those before it, too.
        for (number, worker) in self.workers.iter().enumerate() {
            if !worker.turns_on(turns[number], until).await {
                stuck.push(number);
            }
        }
        stuck
    }
}

impl ObservedWorker {
    /// Whether it has ended, and has no sessions.
    pub(super) fn has_finished(&self) -> bool {
        self.counters.finished.get() != 0
    }

    fn turns(&self) -> u64 {
        self.counters.turns.get()
    }

    async fn turns_on(&self, turns: u64, until: Instant) -> bool {
        let mut pause = LOOK_INTERVAL_MIN;
        loop {
            // One that has finished has nothing to turn for.
            if self.turns() != turns || self.has_finished() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            time::sleep(pause).await;
            pause = (2 * pause).min(LOOK_INTERVAL_MAX);
        }
    }
}
