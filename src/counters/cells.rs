//! The cells.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A number that only grows.
///
/// One thread writes; any may read. The writer adds by a load and a store, which no other write can
/// come between, and which costs no locked instruction. Relaxed suffices: a reader wants a figure
/// that was true a moment ago, and draws no conclusion from it about other memory.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// For the one writer.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// What was counted.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down: written and read as a [`Count`].
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// For the one writer.
    #[inline]
    pub fn set(&self, level: u64) {
        self.0.store(level, Ordering::Relaxed);
    }

    /// For the one writer.
    #[inline]
    pub fn raise(&self) {
        self.set(self.get() + 1);
    }

    /// For the one writer, who has raised it before.
    #[inline]
    pub fn lower(&self) {
        self.set(self.get() - 1);
    }

    /// How high it is.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A point in time, or none: written and read as a [`Count`].
#[derive(Debug)]
pub struct TimeCell {
    /// What the time is counted from.
    began: Instant,
    /// Microseconds since then, and 1 more; 0 is none.
    micros: AtomicU64,
}

impl Default for TimeCell {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            micros: AtomicU64::new(0),
        }
    }
}

impl TimeCell {
    /// For the one writer.
    pub fn set(&self, at: Option<Instant>) {
        let micros = at.map_or(0, |at| {
            micros(at.saturating_duration_since(self.began)).saturating_add(1)
        });
        self.micros.store(micros, Ordering::Relaxed);
    }

    /// How long ago it was, if there is one.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let after = self.micros.load(Ordering::Relaxed).checked_sub(1)?;
        let at = self.began + Duration::from_micros(after);
        Some(now.saturating_duration_since(at))
    }
}

/// As many as 64 bits hold.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_levels_follow() {
        let (count, level) = (Count::default(), Level::default());
        count.add(3);
        count.add(0);
        count.add(u64::from(u32::MAX));
        assert_eq!(count.get(), 3 + u64::from(u32::MAX));
        level.raise();
        level.raise();
        level.lower();
        assert_eq!(level.get(), 1);
        level.set(7);
        assert_eq!(level.get(), 7);
    }

    #[test]
    fn a_moment_has_an_age_until_it_is_taken_away() {
        let (moment, now) = (TimeCell::default(), Instant::now());
        assert_eq!(moment.age(now), None);
        moment.set(Some(now));
        let age = moment.age(now + Duration::from_secs(3)).unwrap();
        assert!((2_999..=3_001).contains(&age.as_millis()), "{age:?}");
        // Before the cell was made counts as then.
        moment.set(now.checked_sub(Duration::from_secs(60)));
        assert!(moment.age(now).unwrap() < Duration::from_secs(1));
        moment.set(None);
        assert_eq!(moment.age(now), None);
    }
}
