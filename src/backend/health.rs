//! How an endpoint fares: failures in a row, and until when it is left out for them.
//!
//! The figures are those of Envoy's outlier detection: see [`Ejection`].

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Address;
use crate::config::Ejection;

/// How one address fares, whatever set it is in.
///
/// Every worker reads it when it chooses, and writes only when something fails, or when a success
/// ends a row of failures. So while all is well the line stays in every core's cache: hence a line
/// of its own (two, because processors fetch them in pairs). Nothing else depends on what is read
/// here, so no ordering is needed; who is ejected is decided under the lock of
/// [`Published`](super::Published), by which the last two fields are written too.
#[repr(align(128))]
pub struct Health {
    address: Address,
    /// What the times below are counted from.
    began: Instant,
    /// In a row.
    failures: AtomicU32,
    /// Milliseconds since `began`; 0: not left out.
    out_until: AtomicU64,
    /// How often it was ejected lately.
    ejections: AtomicU32,
    /// When the latest ejection ended or will end, also if it was cut short.
    ejected_until: AtomicU64,
    /// Left out by active checks until they say otherwise.
    down: AtomicBool,
}

/// What an ejection came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ejected {
    pub(super) time: Duration,
    /// How many this is, lately.
    pub(super) ejections: u32,
}

impl Health {
    pub(super) fn new(address: Address, began: Instant) -> Self {
        Self {
            address,
            began,
            failures: AtomicU32::new(0),
            out_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            down: AtomicBool::new(false),
        }
    }

    /// Whose health it is.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// Whether sessions shall not go there now.
    #[must_use]
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.is_down() || self.is_out(now)
    }

    /// Whether active checks leave it out.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    pub(super) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// Whether it is left out for a while.
    fn is_out(&self, now: Instant) -> bool {
        match self.out_until.load(Ordering::Relaxed) {
            0 => false,
            until => self.millis(now) < until,
        }
    }

    /// How much longer it is left out for its failures, if it is.
    #[must_use]
    pub fn left_out_for(&self, now: Instant) -> Option<Duration> {
        let until = self.out_until.load(Ordering::Relaxed);
        let left = until.checked_sub(self.millis(now))?;
        (left > 0).then(|| Duration::from_millis(left))
    }

    /// How many failures there were in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Ends a row of failures. Writes only if there is one.
    pub(super) fn clear_failures(&self) {
        if self.failures() > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// One more in a row; returns how many.
    pub(super) fn count_failure(&self) -> u32 {
        self.failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }

    /// Ends an ejection before its time. True if there was one.
    pub(super) fn restore(&self, now: Instant) -> bool {
        let was_out = self.is_out(now);
        if was_out {
            self.out_until.store(0, Ordering::Relaxed);
        }
        self.clear_failures();
        was_out
    }

    /// Leaves it out for a time that grows with the number of ejections. One that went without for
    /// the longest time of an ejection starts anew. For one thread at a time.
    pub(super) fn eject(&self, ejection: Ejection, now: Instant) -> Ejected {
        let longest = ejection.time.max(Ejection::TIME_MAX);
        let now = self.millis(now);
        let last = self.ejected_until.load(Ordering::Relaxed);
        let is_forgiven = now.saturating_sub(last) > millis(longest);
        let before = match self.ejections.load(Ordering::Relaxed) {
            _ if is_forgiven => 0,
            count => count,
        };
        let ejections = before.saturating_add(1);
        let time = ejection.time.saturating_mul(ejections).min(longest);
        let until = now.saturating_add(millis(time)).max(1);
        self.failures.store(0, Ordering::Relaxed);
        self.ejections.store(ejections, Ordering::Relaxed);
        self.ejected_until.store(until, Ordering::Relaxed);
        self.out_until.store(until, Ordering::Relaxed);
        Ejected { time, ejections }
    }

    /// Whether anything is known of it that a new one would not have.
    pub(super) fn is_pristine(&self) -> bool {
        !self.is_down() && self.failures() == 0 && self.ejections.load(Ordering::Relaxed) == 0
    }

    fn millis(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.began))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("address", &self.address)
            .field("failures", &self.failures)
            .field("out_until", &self.out_until)
            .finish_non_exhaustive()
    }
}
