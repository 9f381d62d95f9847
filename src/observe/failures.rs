//! Failures that repeat: all of them are counted, and one line in a while says so.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The least time between two warnings of one kind. A backend that is down for a night makes some
/// thousand lines of this, not some hundred million.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Counts failures of one kind, from all workers. Locked only when something failed.
#[derive(Debug)]
pub struct Failures {
    counts: Mutex<Counts>,
    interval: Duration,
}

impl Default for Failures {
    fn default() -> Self {
        Self::every(WARN_INTERVAL)
    }
}

#[derive(Debug, Default)]
struct Counts {
    unreported: u64,
    reported_at: Option<Instant>,
}

impl Failures {
    /// Those of which a warning is due this often at most.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self {
            counts: Mutex::default(),
            interval,
        }
    }

    /// Counts one. `Some`: a warning is due, for this many since the last.
    pub fn count(&self, now: Instant) -> Option<u64> {
        let mut counts = self
            .counts
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        counts.unreported += 1;
        let due = |at: Instant| now.saturating_duration_since(at) >= self.interval;
        if counts.reported_at.is_none_or(due) {
            counts.reported_at = Some(now);
            return Some(std::mem::take(&mut counts.unreported));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_and_then_one_in_an_interval_are_reported() {
        let start = Instant::now();
        let failures = Failures::default();
        assert_eq!(failures.count(start), Some(1));
        assert_eq!(failures.count(start + Duration::from_secs(1)), None);
        assert_eq!(failures.count(start + Duration::from_secs(9)), None);
        assert_eq!(failures.count(start + WARN_INTERVAL), Some(3));
    }
}
