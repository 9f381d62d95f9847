//! Backends behind a link, and what the link did.

use serde::{Deserialize, Serialize};

use super::void::SATURATED;
use super::{DIRECT_TCP, Outcome, PathInfo, Sample, Void, figures};
use crate::compare::matrix::{Carry, Key};
use crate::compare::statistics::{Spread, ratio};

/// What a link has done in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct LinkUse {
    pub(in super::super) packets: u64,
    /// By how much they came too late, all together.
    pub(in super::super) late_us: f64,
    pub(in super::super) dropped: u64,
    /// Of its thread, in whose time the kernel also has packets arrive.
    pub(in super::super) cpu_us: f64,
}

impl LinkUse {
    /// What was added to an earlier reading.
    pub(in super::super) fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets - earlier.packets,
            late_us: self.late_us - earlier.late_us,
            dropped: self.dropped - earlier.dropped,
            cpu_us: self.cpu_us - earlier.cpu_us,
        }
    }

    /// How late a packet was on average.
    pub(in super::super) fn late_us_each(&self) -> f64 {
        self.late_us / self.packets.max(1) as f64
    }
}

/// Backends behind a link.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct Remote {
    /// In the order of the tables.
    pub(in super::super) paths: Vec<PathInfo>,
    /// Of each endpoint of the FastCGI mode.
    pub(in super::super) endpoint_max: usize,
    pub(in super::super) cells: Vec<RemoteCell>,
}

/// One link, answer and number of clients, with all ways.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct RemoteCell {
    pub(in super::super) round_trip_ms: u32,
    pub(in super::super) key: Key,
    pub(in super::super) concurrency: usize,
    pub(in super::super) ways: Vec<RemoteWay>,
}

/// One path with one kind of connection to its beginning.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct RemoteWay {
    pub(in super::super) path: String,
    pub(in super::super) carry: Carry,
    /// In order, the same rounds for every way.
    pub(in super::super) rounds: Vec<Outcome>,
}

impl RemoteCell {
    pub(in super::super) fn way(&self, path: &str, carry: Carry) -> Option<&RemoteWay> {
        let mut ways = self.ways.iter();
        ways.find(|way| way.path == path && way.carry == carry)
    }

    /// Requests per second as a ratio to the direct path's with one kind of connection, round by round.
    pub(in super::super) fn ratio(&self, path: &str, carry: Carry, to: Carry) -> Option<Spread> {
        let rates = |path, carry| Some(figures(&self.way(path, carry)?.rounds, Sample::rate));
        ratio(&rates(path, carry)?, &rates(DIRECT_TCP, to)?)
    }

    /// Which rounds of a way say nothing of it.
    pub(in super::super) fn void(&self, path: &str, carry: Carry) -> Void {
        let way = self.way(path, carry);
        way.map_or_else(Void::default, |way| Void::of(&way.rounds))
    }
}

impl Sample {
    /// The part of the round trip by which packets may be late on average, each way.
    const LINK_LATE_MAX: f64 = 0.05;

    /// Whether the link was more than a link: it lost something, had no time left, or was late.
    pub(super) fn strained_link(&self, round_trip_ms: u32) -> bool {
        let late_max_us = f64::from(round_trip_ms) * 1e3 * Self::LINK_LATE_MAX;
        self.link.is_some_and(|link| {
            link.dropped > 0
                || link.cpu_us / 1e6 / self.window_seconds >= SATURATED
                || link.late_us_each() > late_max_us
        })
    }
}
