//! Whether a client keeps up with a least rate, in one direction: for how long it was waited for, less what its
//! bytes are good for at that rate. Pure.
//!
//! Only time in which the proxy waits for the client counts. A slow script, an answer that comes in pieces, a body
//! that the backend does not take: nothing is waited for, and nothing counts.

use std::time::{Duration, Instant};

/// What the kernel may hold back of a peer's reading: AF_UNIX counts a piece as read once all of it is, and one
/// that was spliced has up to 17 pages (MAX_SKB_FRAGS) and a head.
const PIECE_BYTES: u64 = 72 * 1024;

/// For how long a client takes nothing before it is looked at what it reads of what the kernel holds for it. Only
/// with a short allowance it is earlier.
const LOOK_AFTER: Duration = Duration::from_secs(10);

/// The least rate at which clients give and take, while somebody serves them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MinRate {
    /// Bytes in a second.
    pub bytes: u32,
    /// By how much a client may be late.
    pub allowance: Duration,
}

impl MinRate {
    fn time_for(self, bytes: u64) -> Duration {
        Duration::from_micros(bytes.saturating_mul(1_000_000) / u64::from(self.bytes))
    }
}

/// How late a client is with a body, or with taking an answer.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Lag {
    /// Since when it is waited for, if it is.
    since: Option<Instant>,
    /// How late it was then. Being early is worth nothing.
    late: Duration,
    /// What the kernel held for it at the last look, while it is waited for.
    unread: Option<u64>,
    /// Since when nothing at all has moved, while it is waited for: looks begin `since` anew.
    stuck_since: Option<Instant>,
}

impl Lag {
    /// Since when it is waited for and nothing has moved, if it is.
    pub(super) fn stuck_since(&self) -> Option<Instant> {
        self.stuck_since
    }

    /// It is waited for from now on, unless it is already.
    pub(super) fn wait(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.stuck_since.get_or_insert(now);
    }

    /// So many of its bytes moved: the wait is over.
    pub(super) fn moved(&mut self, bytes: u64, now: Instant, rate: Option<MinRate>) {
        self.stuck_since = None;
        self.settle(bytes, now, rate);
    }

    /// So many bytes are worth what they are, and what was waited until now is counted.
    fn settle(&mut self, bytes: u64, now: Instant, rate: Option<MinRate>) {
        let (since, Some(rate)) = (self.since.take(), rate) else {
            return;
        };
        self.unread = None;
        if let Some(since) = since {
            self.late += now.saturating_duration_since(since);
        }
        self.late = self.late.saturating_sub(rate.time_for(bytes));
    }

    /// When a body that is waited for is too late.
    pub(super) fn body_due(&self, rate: MinRate) -> Option<Instant> {
        Some(self.since? + rate.allowance.saturating_sub(self.late))
    }

    /// When it is to be looked at what is read of an answer: see [`Lag::answer_is_late`].
    pub(super) fn answer_due(&self, rate: MinRate) -> Option<Instant> {
        let left = Self::answer_allowance(rate).saturating_sub(self.late);
        let look_after = match self.unread {
            None => LOOK_AFTER.min(rate.allowance / 2),
            Some(_) => left,
        };
        Some(self.since? + left.min(look_after))
    }

    /// Whether an answer is taken too slowly, at a time that was due. `unread` is what the kernel holds for the
    /// client: while that gets less the client reads, though nothing more goes to it.
    pub(super) fn answer_is_late(&mut self, unread: u64, now: Instant, rate: MinRate) -> bool {
        let read = self
            .unread
            .map_or(0, |before| before.saturating_sub(unread));
        if read > 0 {
            self.stuck_since = None;
        }
        self.settle(read, now, Some(rate));
        self.wait(now);
        self.unread = Some(unread);
        self.late >= Self::answer_allowance(rate)
    }

    fn answer_allowance(rate: MinRate) -> Duration {
        rate.allowance + rate.time_for(PIECE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: MinRate = MinRate {
        bytes: 1000,
        allowance: Duration::from_secs(20),
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn who_is_not_waited_for_is_never_late() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        assert_eq!((lag.body_due(RATE), lag.answer_due(RATE)), (None, None));
        lag.wait(start);
        lag.moved(1, start, Some(RATE));
        // However long the server takes for it.
        let later = start + seconds(3600);
        lag.wait(later);
        assert_eq!(lag.body_due(RATE), Some(later + seconds(20)));
    }

    #[test]
    fn a_trickle_is_late_in_the_end_and_a_slow_body_is_not() {
        for (bytes, is_late) in [(1, true), (900, true), (1000, false), (5000, false)] {
            let (mut lag, mut now) = (Lag::default(), Instant::now());
            let mut was_late = false;
            for _ in 0..600 {
                lag.wait(now);
                now += seconds(1);
                was_late |= lag.body_due(RATE).is_some_and(|due| due <= now);
                lag.moved(bytes, now, Some(RATE));
            }
            assert_eq!(was_late, is_late, "{bytes} bytes in a second");
        }
    }

    #[test]
    fn what_came_quickly_is_no_excuse_for_what_comes_slowly() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        lag.wait(start);
        lag.moved(1 << 30, start + seconds(1), Some(RATE));
        lag.wait(start + seconds(1));
        assert_eq!(lag.body_due(RATE), Some(start + seconds(21)));
    }

    #[test]
    fn a_pause_within_the_allowance_is_forgiven_by_what_comes_behind_it() {
        let (mut lag, mut now) = (Lag::default(), Instant::now());
        for _ in 0..10 {
            lag.wait(now);
            now += seconds(19);
            assert!(lag.body_due(RATE).unwrap() > now);
            lag.moved(19_000, now, Some(RATE));
        }
    }

    /// The kernel holds 200,000 bytes, and says what of them is read in pieces.
    fn is_cut(read_in_a_second: u64, piece: u64) -> Option<u64> {
        let (mut lag, start) = (Lag::default(), Instant::now());
        lag.wait(start);
        (1..200_000 / read_in_a_second.max(1)).find(|&second| {
            let now = start + seconds(second);
            let unread = 200_000 - (read_in_a_second * second / piece * piece);
            lag.answer_due(RATE).is_some_and(|due| due <= now)
                && lag.answer_is_late(unread, now, RATE)
        })
    }

    #[test]
    fn who_reads_what_the_kernel_holds_is_not_late() {
        for piece in [1, 4096, 36_000, PIECE_BYTES] {
            for rate in [1000, 1500, 20_000] {
                assert_eq!(is_cut(rate, piece), None, "{rate} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn who_reads_nothing_or_little_is_late() {
        // The allowance, and as long as the largest piece takes.
        assert_eq!(is_cut(0, 1), Some(94));
        for rate in [1, 10, 100, 500] {
            assert!(is_cut(rate, 1).is_some(), "{rate}");
        }
    }

    #[test]
    fn looks_do_not_hide_for_how_long_nothing_has_moved() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        lag.wait(start);
        for look in 1..5 {
            lag.answer_is_late(1000, start + seconds(10 * look), RATE);
            assert_eq!(lag.stuck_since(), Some(start), "look {look}");
        }
        // It has read something.
        lag.answer_is_late(999, start + seconds(50), RATE);
        assert_eq!(lag.stuck_since(), Some(start + seconds(50)));
        lag.moved(1, start + seconds(60), Some(RATE));
        assert_eq!(lag.stuck_since(), None);
    }

    #[test]
    fn without_a_rate_nothing_is_counted() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        for hour in 0..10 {
            lag.wait(start + seconds(3600 * hour));
            lag.moved(1, start + seconds(3600 * (hour + 1)), None);
        }
        lag.wait(start);
        assert_eq!(lag.body_due(RATE), Some(start + seconds(20)));
    }
}
