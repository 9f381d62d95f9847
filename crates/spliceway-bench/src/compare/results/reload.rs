//! What reloads do.

use serde::{Deserialize, Serialize};

use super::Latency;
use crate::compare::matrix::Carry;
use crate::compare::statistics::{Spread, ratio};

/// What reloads do to the requests of a constant load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct Reload {
    /// Requests per second, and clients at one time, with each kind of connection.
    pub(in super::super) rate: f64,
    pub(in super::super) clients: u32,
    /// Between two reloads.
    pub(in super::super) interval_ms: f64,
    /// For so long after its beginning requests are during a reload.
    pub(in super::super) window_ms: f64,
    /// Of a measurement.
    pub(in super::super) seconds: f64,
    /// In the order of the tables, each program with both kinds of connections.
    pub(in super::super) paths: Vec<ReloadPath>,
}

/// One program with one kind of connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct ReloadPath {
    pub(in super::super) path: String,
    pub(in super::super) name: String,
    pub(in super::super) carry: Carry,
    pub(in super::super) rounds: Vec<Result<ReloadRound, String>>,
}

/// The same load without reloads and with them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct ReloadRound {
    /// How many there were, and how many of them were done when the next one began.
    pub(in super::super) reloads: u64,
    pub(in super::super) done: u64,
    pub(in super::super) without: ReloadSample,
    pub(in super::super) with: ReloadSample,
    /// Of those requests that were under way during a reload.
    pub(in super::super) during: Latency,
}

/// One load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct ReloadSample {
    pub(in super::super) requests: u64,
    /// Nothing took the connection.
    pub(in super::super) refused: u64,
    /// The connection ended without the answer.
    pub(in super::super) broken: u64,
    /// Not answered in time.
    pub(in super::super) lost: u64,
    /// Of those that were answered, from the time at which they were to be sent.
    pub(in super::super) latency_us: Latency,
}

impl ReloadSample {
    pub(in super::super) fn failed(&self) -> u64 {
        self.refused + self.broken + self.lost
    }
}

impl ReloadPath {
    /// A figure over the rounds.
    pub(in super::super) fn spread(&self, figure: impl Fn(&ReloadRound) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().flatten().map(figure))
    }

    /// A count of all rounds together.
    pub(in super::super) fn total(&self, count: impl Fn(&ReloadRound) -> u64) -> u64 {
        self.rounds.iter().flatten().map(count).sum()
    }

    /// The ratio of the p99 during reloads to that without, round by round.
    pub(in super::super) fn p99_ratio(&self) -> Option<Spread> {
        let rounds = || self.rounds.iter().flatten();
        let during: Vec<_> = rounds().map(|round| Some(round.during.p99)).collect();
        let without: Vec<_> = rounds()
            .map(|round| Some(round.without.latency_us.p99))
            .collect();
        ratio(&during, &without)
    }

    /// What went wrong first, if something did.
    pub(in super::super) fn failure(&self) -> Option<&str> {
        let mut failures = self.rounds.iter().filter_map(|round| round.as_ref().err());
        failures.next().map(String::as_str)
    }
}
