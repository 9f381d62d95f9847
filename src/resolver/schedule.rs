//! When a name is looked up again, and how long what it stood for is kept. Pure: the time and the
//! jitter are arguments.
//!
//! Every delay here is bounded on both sides, so that neither a broken name server (TTL 0, TTL of
//! a year) nor a long outage can make the daemon a flood of queries or deaf to changes.

use std::time::{Duration, Instant};

use crate::config::RefreshTimes;

/// The delay after the first failure; it doubles with each one that follows.
pub(super) const BACKOFF_MIN: Duration = Duration::from_secs(1);

/// Where the doubling ends, and the least time between two warnings about the same name.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The least time between two lookups of a name that connects which fail, or sessions without an
/// address, have asked for: an outage of all backends must not become one of the name servers.
pub(super) const EARLY_INTERVAL: Duration = Duration::from_secs(1);

/// A random fraction of the jitter's range, which is 0 to 10 % of a delay: names that were first
/// looked up together, by one daemon or by a fleet, should not stay together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Jitter(f64);

impl Jitter {
    const RANGE: f64 = 0.1;

    /// From a hash whose bits are evenly distributed.
    pub(super) fn from_hash(hash: u64) -> Self {
        // The 53 bits that an f64 holds exactly: the result is below 1.
        Self((hash >> 11) as f64 / (1u64 << 53) as f64)
    }

    fn add_to(self, delay: Duration) -> Duration {
        delay + delay.mul_f64(self.0 * Self::RANGE)
    }
}

/// How long after an answer its name is looked up again.
pub(super) fn refresh_after(ttl: Duration, times: &RefreshTimes, jitter: Jitter) -> Duration {
    jitter.add_to(ttl.clamp(times.ttl_min, times.ttl_max))
}

/// How long after the last of `failures` failures in a row the next attempt comes.
pub(super) fn retry_after(failures: u32, jitter: Jitter) -> Duration {
    let doublings = failures.saturating_sub(1);
    let delay = 2u32
        .checked_pow(doublings)
        .and_then(|factor| BACKOFF_MIN.checked_mul(factor))
        .map_or(BACKOFF_MAX, |delay| delay.min(BACKOFF_MAX));
    jitter.add_to(delay)
}

/// When a lookup that is due at `due` comes, if it is asked for now: at once, but no sooner than
/// [`EARLY_INTERVAL`] after the last one, and never later than it would have come anyway.
pub(super) fn earlier(due: Instant, asked_last: Option<Instant>, now: Instant) -> Instant {
    let earliest = asked_last.map_or(now, |asked| now.max(asked + EARLY_INTERVAL));
    due.min(earliest)
}

/// How much is left of `span`, which began at `since`; zero when it is over.
pub(super) fn left_of(span: Duration, since: Instant, now: Instant) -> Duration {
    span.saturating_sub(now.saturating_duration_since(since))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO_JITTER: Jitter = Jitter(0.0);

    #[test]
    fn back_off_doubles_from_one_second_to_thirty() {
        let seconds: Vec<u64> = (1..=7)
            .map(|failures| retry_after(failures, NO_JITTER).as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_span_ends_when_its_time_has_passed() {
        let span = Duration::from_secs(60);
        let since = Instant::now();
        assert_eq!(left_of(span, since, since), span);
        let almost = span - Duration::from_millis(1);
        assert_eq!(
            left_of(span, since, since + almost),
            Duration::from_millis(1)
        );
        assert_eq!(left_of(span, since, since + span), Duration::ZERO);
        assert_eq!(left_of(span, since, since + 2 * span), Duration::ZERO);
    }

    fn times(min_millis: u64, more_millis: u64) -> RefreshTimes {
        let ttl_min = Duration::from_millis(min_millis);
        RefreshTimes {
            ttl_min,
            ttl_max: ttl_min + Duration::from_millis(more_millis),
            ..RefreshTimes::default()
        }
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_range(hash: u64, millis in 0u64..100_000) {
            let delay = Duration::from_millis(millis);
            let delayed = Jitter::from_hash(hash).add_to(delay);
            prop_assert!(delayed >= delay);
            prop_assert!(delayed <= delay.mul_f64(1.1) + Duration::from_nanos(1));
        }

        #[test]
        fn a_refresh_is_bounded_whatever_the_ttl(
            ttl: u32, hash: u64, min in 100u64..10_000, more in 0u64..100_000,
        ) {
            let (ttl, times) = (Duration::from_secs(ttl.into()), times(min, more));
            let delay = refresh_after(ttl, &times, Jitter::from_hash(hash));
            prop_assert!(delay >= times.ttl_min);
            prop_assert!(delay <= times.ttl_max.mul_f64(1.1) + Duration::from_nanos(1));
            if ttl <= times.ttl_max {
                prop_assert!(delay >= ttl, "asked again before the answer ran out");
            }
        }

        #[test]
        fn a_retry_is_bounded_and_never_sooner_than_the_one_before(failures: u32, hash: u64) {
            let delay = retry_after(failures, Jitter::from_hash(hash));
            prop_assert!(delay >= BACKOFF_MIN);
            prop_assert!(delay <= BACKOFF_MAX.mul_f64(1.1));
            let next = retry_after(failures.saturating_add(1), NO_JITTER);
            prop_assert!(next >= retry_after(failures, NO_JITTER));
        }

        #[test]
        fn an_early_lookup_is_never_late_and_never_the_second_in_an_interval(
            until_due in 0u64..100_000, asked_ago in prop::option::of(0u64..100_000),
        ) {
            let now = Instant::now() + Duration::from_secs(1000);
            let due = now + Duration::from_millis(until_due);
            let asked = asked_ago.map(|ago| now - Duration::from_millis(ago));
            let early = earlier(due, asked, now);
            prop_assert!(early <= due);
            prop_assert!(early == due || early >= now);
            if let Some(asked) = asked {
                prop_assert!(early == due || early >= asked + EARLY_INTERVAL);
                prop_assert!(early <= now.max(asked + EARLY_INTERVAL));
            } else {
                prop_assert_eq!(early, now);
            }
        }
    }
}
