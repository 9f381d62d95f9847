//! What is answered in time where more is asked for than can be done.

use serde::{Deserialize, Serialize};

use super::Latency;
use crate::compare::statistics::Spread;

/// An open loop of clients with patience, in front of workers that take a fixed time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct Overload {
    pub(in super::super) workers: usize,
    /// Of PHP-FPM.
    pub(in super::super) backlog: usize,
    pub(in super::super) service_ms: f64,
    /// How long a client waits.
    pub(in super::super) patience_seconds: f64,
    /// Requests per second.
    pub(in super::super) capacity: f64,
    /// Before anything counts, and then.
    pub(in super::super) warm_up_seconds: f64,
    pub(in super::super) seconds: f64,
    /// It may be added to the results of an earlier run.
    pub(in super::super) commit: String,
    pub(in super::super) date: String,
    /// In the order of the tables.
    pub(in super::super) ways: Vec<OverloadWay>,
}

/// One way to the workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct OverloadWay {
    pub(in super::super) path: String,
    pub(in super::super) name: String,
    pub(in super::super) points: Vec<OverloadPoint>,
}

/// With so much that is asked for, of what can be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct OverloadPoint {
    pub(in super::super) load: f64,
    pub(in super::super) rounds: Vec<Result<OverloadSample, String>>,
}

/// What became of the clients of one round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct OverloadSample {
    pub(in super::super) requests: u64,
    /// Within the clients' patience.
    pub(in super::super) answered: u64,
    /// By a 503.
    pub(in super::super) sent_away: u64,
    /// Nothing took the connection.
    pub(in super::super) refused: u64,
    /// The connection ended without an answer, or another one came.
    pub(in super::super) broken: u64,
    pub(in super::super) gave_up: u64,
    pub(in super::super) seconds: f64,
    /// Of those that were answered, and of those that were sent away.
    pub(in super::super) answered_us: Option<Latency>,
    pub(in super::super) sent_away_us: Option<Latency>,
}

impl OverloadSample {
    /// Answers in time, per second.
    pub(in super::super) fn goodput(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// A part of the clients, in percent.
    pub(in super::super) fn percent(&self, count: u64) -> f64 {
        count as f64 * 100.0 / self.requests as f64
    }
}

impl OverloadPoint {
    /// A figure over the rounds.
    pub(in super::super) fn spread(
        &self,
        figure: impl Fn(&OverloadSample) -> Option<f64>,
    ) -> Option<Spread> {
        Spread::of(self.rounds.iter().flatten().filter_map(figure))
    }

    /// What went wrong first, if something did.
    pub(in super::super) fn failure(&self) -> Option<&str> {
        let mut failures = self.rounds.iter().filter_map(|round| round.as_ref().err());
        failures.next().map(String::as_str)
    }
}
