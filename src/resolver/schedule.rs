//! When a name is looked up again. Pure: the time and the jitter are arguments.
//!
//! Every delay here is bounded on both sides, so that neither a broken name server (TTL 0, TTL of
//! a year) nor a long outage can make the daemon a flood of queries or deaf to changes.

use std::time::{Duration, Instant};

/// The shortest time between two lookups of a name that resolves.
///
/// TTL 0 is legal and common behind DNS-based load balancers; one query a second is what a single
/// client may ask of a name server without being noticed.
pub(super) const DNS_TTL_MIN: Duration = Duration::from_secs(1);

/// The longest time between two lookups of a name that resolves.
///
/// The TTL of the large cloud load balancers; a longer one only says that the operator expects no
/// change, and who moves a service by hand should not have to wait for an hour.
pub(super) const DNS_TTL_MAX: Duration = Duration::from_secs(60);

/// The delay after the first failure; it doubles with each one that follows.
pub(super) const BACKOFF_MIN: Duration = Duration::from_secs(1);

/// Where the doubling ends, and the least time between two warnings about the same name.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How long addresses are kept after the name servers began to say that there are none.
///
/// Kubernetes says so for a service whose endpoints are all restarting, so it must be survived for
/// a while; but an address that was given up may soon belong to somebody else, so not for ever.
pub(super) const NEGATIVE_HOLD: Duration = Duration::from_secs(60);

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
pub(super) fn refresh_after(ttl: Duration, jitter: Jitter) -> Duration {
    jitter.add_to(ttl.clamp(DNS_TTL_MIN, DNS_TTL_MAX))
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

/// How much of the hold is left for addresses that were first denied at `since`; zero when they
/// have to go.
pub(super) fn hold_left(since: Instant, now: Instant) -> Duration {
    NEGATIVE_HOLD.saturating_sub(now.saturating_duration_since(since))
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
    fn the_hold_ends_after_a_minute_of_denial() {
        let since = Instant::now();
        assert_eq!(hold_left(since, since), NEGATIVE_HOLD);
        let almost = NEGATIVE_HOLD - Duration::from_millis(1);
        assert_eq!(hold_left(since, since + almost), Duration::from_millis(1));
        assert_eq!(hold_left(since, since + NEGATIVE_HOLD), Duration::ZERO);
        assert_eq!(hold_left(since, since + 2 * NEGATIVE_HOLD), Duration::ZERO);
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
        fn a_refresh_is_bounded_whatever_the_ttl(ttl: u32, hash: u64) {
            let ttl = Duration::from_secs(ttl.into());
            let delay = refresh_after(ttl, Jitter::from_hash(hash));
            prop_assert!(delay >= DNS_TTL_MIN);
            prop_assert!(delay <= DNS_TTL_MAX.mul_f64(1.1));
            if ttl <= DNS_TTL_MAX {
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
    }
}
