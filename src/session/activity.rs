//! When something moved last; pure.
//!
//! An op that ends shows it. But while a slow reader takes what it was sent, the kernel may report room only
//! after minutes, and of what is all in the socket nothing is reported at all. So at the moment at which a session
//! looks idle, its peers' sockets are asked how much was not read yet, and asked again one timeout later.

use std::time::{Duration, Instant};

/// More than a kernel holds.
const NOT_ASKED: u64 = u64::MAX;

/// When something of a session moved last.
pub(super) struct Activity {
    last: Instant,
    /// When it last looked idle, with nothing ended since: what the peers had not read then; else [`NOT_ASKED`], which
    /// takes half of what an option does.
    unread: u64,
}

impl Activity {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: now,
            unread: NOT_ASKED,
        }
    }

    /// An op ended.
    pub(super) fn seen(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// When it was, as far as is known.
    pub(super) fn last(&self) -> Instant {
        self.last
    }

    /// When the session looks idle.
    pub(super) fn idle_at(&self, timeout: Option<Duration>) -> Option<Instant> {
        timeout.map(|timeout| self.last + timeout)
    }

    /// Whether a session is idle that looks so at this moment: `unread` is what the kernel holds for its peers to
    /// read, which only falls while no op ends. A peer that has something to read has until the next look.
    pub(super) fn is_idle(&mut self, unread: u64, now: Instant) -> bool {
        let is_idle = match self.unread {
            NOT_ASKED => unread == 0,
            before => unread >= before,
        };
        *self = Self { last: now, unread };
        is_idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    #[test]
    fn without_anything_to_read_one_timeout_is_enough() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        assert_eq!(activity.idle_at(None), None);
        assert_eq!(activity.idle_at(Some(TIMEOUT)), Some(start + TIMEOUT));
        assert!(activity.is_idle(0, start + TIMEOUT));
    }

    #[test]
    fn a_peer_that_reads_is_not_idle_until_it_stops() {
        let mut now = Instant::now();
        let mut activity = Activity::new(now);
        for (unread, is_idle) in [
            (900, false),
            (899, false),
            (1, false),
            (0, false),
            (0, true),
        ] {
            now += TIMEOUT;
            assert_eq!(activity.is_idle(unread, now), is_idle, "{unread}");
            assert_eq!(activity.last(), now);
        }
    }

    #[test]
    fn what_was_unread_before_an_op_ended_says_nothing() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        assert!(!activity.is_idle(10, start + TIMEOUT));
        activity.seen(start + TIMEOUT);
        assert!(!activity.is_idle(500, start + 2 * TIMEOUT));
        assert!(activity.is_idle(500, start + 3 * TIMEOUT));
    }
}
