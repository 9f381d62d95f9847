//! How an endpoint fares: failures in a row, and until when it is left out for them.
//!
//! The figures are those of Envoy's outlier detection: see [`Ejection`].

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Address;
use crate::config::Ejection;

/// The least time between two warnings about one endpoint: one that flaps makes no more lines.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// For so long after the last connect that failed an endpoint counts as one that cannot be reached. Then nobody
/// has tried for a while, which may be so because whoever asks for readiness sends no clients: it may be back.
const UNREACHABLE_FOR: Duration = Duration::from_secs(30);

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
    /// Active checks fail, and it is used all the same.
    checks_fail: AtomicBool,
    /// Since when connects to it have failed, without one that came through; 0: the last one did.
    unreachable_since: AtomicU64,
    /// When the last one failed.
    unreachable_at: AtomicU64,
    /// When that was told last.
    warned_at: AtomicU64,
    /// This row of failures was told, so its end is told too.
    is_told: AtomicBool,
    /// How many workers there are, as far as somebody has said so; 0: nobody has.
    workers: AtomicU32,
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
            checks_fail: AtomicBool::new(false),
            unreachable_since: AtomicU64::new(0),
            unreachable_at: AtomicU64::new(0),
            warned_at: AtomicU64::new(0),
            is_told: AtomicBool::new(false),
            workers: AtomicU32::new(0),
        }
    }

    /// How many workers there are, if that is known.
    #[must_use]
    pub fn workers(&self) -> Option<u32> {
        let workers = self.workers.load(Ordering::Relaxed);
        (workers > 0).then_some(workers)
    }

    /// There are so many workers.
    pub fn has_workers(&self, workers: u32) {
        self.workers.store(workers, Ordering::Relaxed);
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

    /// For how long connects to it have failed, or checks, if they do.
    #[must_use]
    pub fn failing_for(&self, now: Instant) -> Option<Duration> {
        match self.unreachable_since.load(Ordering::Relaxed) {
            0 => self
                .checks_fail
                .load(Ordering::Relaxed)
                .then_some(Duration::ZERO),
            since => Some(Duration::from_millis(
                self.millis(now).saturating_sub(since),
            )),
        }
    }

    /// Whether a client that came now would most likely find nobody there.
    #[must_use]
    pub fn is_unreachable(&self, now: Instant) -> bool {
        if self.checks_fail.load(Ordering::Relaxed) {
            return true;
        }
        let at = self.unreachable_at.load(Ordering::Relaxed);
        self.unreachable_since.load(Ordering::Relaxed) != 0
            && self.millis(now).saturating_sub(at) < millis(UNREACHABLE_FOR)
    }

    pub(super) fn set_checks_fail(&self, fail: bool) {
        self.checks_fail.store(fail, Ordering::Relaxed);
    }

    /// A connect failed. Whether that is to be told.
    pub(super) fn note_unreachable(&self, now: Instant) -> bool {
        let now = self.millis(now).max(1);
        self.unreachable_at.store(now, Ordering::Relaxed);
        let row = &self.unreachable_since;
        let _ = row.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        let warned_at = self.warned_at.load(Ordering::Relaxed);
        let is_due = warned_at == 0 || now.saturating_sub(warned_at) >= millis(WARN_INTERVAL);
        if !is_due || self.is_told.load(Ordering::Relaxed) {
            return false;
        }
        // Of several workers, one tells.
        let warned = &self.warned_at;
        let tells = warned.compare_exchange(warned_at, now, Ordering::Relaxed, Ordering::Relaxed);
        self.is_told.store(true, Ordering::Relaxed);
        tells.is_ok()
    }

    /// A connect came through. For how long none did, if that was told. Writes only then.
    pub(super) fn note_reached(&self, now: Instant) -> Option<Duration> {
        if self.unreachable_since.load(Ordering::Relaxed) == 0 {
            return None;
        }
        match self.unreachable_since.swap(0, Ordering::Relaxed) {
            0 => None,
            since => {
                let was_told = self.is_told.swap(false, Ordering::Relaxed);
                let gone = self.millis(now).saturating_sub(since);
                was_told.then(|| Duration::from_millis(gone))
            }
        }
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
