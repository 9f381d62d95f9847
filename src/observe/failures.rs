//! Failures that repeat: all of them are counted, and one line in a while says so.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The least time between two warnings of one kind. A backend that is down for a night makes some
/// thousand lines of this, not some hundred million.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Counts failures of one kind, from all workers. Locked only when something failed.
#[derive(Debug, Default)]
pub struct Failures(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    unreported: u64,
    reported_at: Option<Instant>,
}

impl Failures {
    /// Counts one. `Some`: a warning is due, for this many since the last.
    pub fn count(&self, now: Instant) -> Option<u64> {
        let mut counts = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        counts.unreported += 1;
        let due = |at: Instant| now.saturating_duration_since(at) >= WARN_INTERVAL;
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
