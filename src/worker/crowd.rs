//! How many sessions a route has, over all workers.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::Part;
use crate::observe::Failures;

/// How many sessions a route has, over all workers, where that is limited, so that one route leaves something to
/// the others.
///
/// Every worker counts up and down; nothing else depends on the order. A worker looks before it asks for clients:
/// each listener of each worker may bring one more.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// `u32::MAX`: any number. The main thread writes.
    max: AtomicU32,
    open: AtomicU32,
    /// Times at which it was reached.
    pub(super) limit_reached: Failures,
}

impl Crowd {
    /// With this limit, if there is one.
    #[must_use]
    pub(crate) fn new(max: Option<u32>) -> Self {
        let crowd = Self::default();
        crowd.limit(max);
        crowd
    }

    /// Changes the limit. Workers count those that are there when they hear of it.
    pub(crate) fn limit(&self, max: Option<u32>) {
        self.max.store(max.unwrap_or(ANY_NUMBER), Ordering::Relaxed);
    }

    /// The part of all `connections_max` that one of so many routes may have; `None`: all.
    #[must_use]
    pub(crate) fn part(part: Part, connections_max: u32, routes: usize) -> Option<u32> {
        let max = match part {
            Part::All => None,
            Part::Most if routes == 1 => None,
            Part::Most => Some(connections_max - connections_max / OTHERS_PART),
            Part::Number(max) => Some(max.get()),
        };
        max.filter(|max| *max < connections_max)
    }

    /// The limit, if there is one.
    pub(crate) fn max(&self) -> Option<u32> {
        let max = self.max.load(Ordering::Relaxed);
        (max != ANY_NUMBER).then_some(max)
    }

    /// Whether no further client is to be accepted.
    pub(super) fn is_full(&self) -> bool {
        self.max()
            .is_some_and(|max| self.open.load(Ordering::Relaxed) >= max)
    }

    /// Whether the session was counted, which it is where there is a limit: [`Crowd::leave`] is for such.
    pub(super) fn enter(&self) -> bool {
        let counts = self.max().is_some();
        if counts {
            self.open.fetch_add(1, Ordering::Relaxed);
        }
        counts
    }

    pub(super) fn leave(&self) {
        let before = self.open.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "who leaves has entered");
    }

    /// How many are in.
    #[cfg(any(test, fuzzing))]
    pub(super) fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed) as usize
    }
}

impl Default for Crowd {
    fn default() -> Self {
        Self {
            max: AtomicU32::new(ANY_NUMBER),
            open: AtomicU32::new(0),
            limit_reached: Failures::default(),
        }
    }
}

/// There is no limit.
const ANY_NUMBER: u32 = u32::MAX;

/// Of all sessions, one of several routes leaves this part to the others.
const OTHERS_PART: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_counts_those_who_are_there_once_there_is_a_limit() {
        let crowd = Crowd::new(None);
        assert!(!crowd.enter() && crowd.count() == 0);
        crowd.limit(Some(1));
        assert!(!crowd.is_full());
        assert!(crowd.enter() && crowd.is_full());
        crowd.limit(Some(2));
        assert!(!crowd.is_full());
        crowd.limit(None);
        // Who was counted leaves, whatever the limit is by then.
        crowd.leave();
        assert_eq!(crowd.count(), 0);
    }
}
