//! Permits while a route changes hands: those that served it finish what they have, and those that come after serve
//! new sessions. Until the first are done, one count is for all of them.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Address;

/// What all of them have of each endpoint.
///
/// Nothing is given out until everybody who served before has said what it has. The lock is held for an addition, and
/// a route has such a count only for as long as it changes hands.
pub struct SharedPermits {
    /// Of each endpoint.
    max: AtomicU32,
    /// How many have yet to say what they have.
    missing: AtomicUsize,
    used: Mutex<HashMap<Address, u32>>,
    /// Wakes everybody who may wait for a permit.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl SharedPermits {
    /// At most `max` of each endpoint, among those that `before` so many others have already. `wake` runs whenever
    /// it is worth asking again; it must not block.
    #[must_use]
    pub fn new(max: u32, before: usize, wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            max: AtomicU32::new(max),
            missing: AtomicUsize::new(before),
            used: Mutex::default(),
            wake: Box::new(wake),
        }
    }

    /// Changes the limit.
    pub fn limit(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
        (self.wake)();
    }

    /// One of those that served before has so many of these endpoints.
    pub(super) fn join(&self, leases: impl Iterator<Item = (Address, u32)>) {
        let mut used = self.used();
        for (address, count) in leases {
            *used.entry(address).or_default() += count;
        }
        // Under the lock, so that whoever finds nobody missing finds all that they have.
        let before = self.missing.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "each of them joins once");
        drop(used);
        (self.wake)();
    }

    /// One of those that served before has none any more.
    pub fn join_with_none(&self) {
        self.join(std::iter::empty());
    }

    /// How many are left of this endpoint.
    pub(super) fn free(&self, address: Address) -> u32 {
        let used = self.used();
        self.left(used.get(&address).copied().unwrap_or(0))
    }

    /// Takes one. False: none is left.
    pub(super) fn take(&self, address: Address) -> bool {
        let mut used = self.used();
        let count = used.entry(address).or_default();
        let is_left = self.left(*count) > 0;
        *count += u32::from(is_left);
        is_left
    }

    /// Takes one that nobody limits.
    pub(super) fn take_beyond(&self, address: Address) {
        *self.used().entry(address).or_default() += 1;
    }

    /// Gives one back.
    pub(super) fn give_back(&self, address: Address) {
        let mut used = self.used();
        let count = used.get_mut(&address).expect("who gives back has taken");
        *count -= 1;
        if *count == 0 {
            used.remove(&address);
        }
        drop(used);
        (self.wake)();
    }

    /// With the lock held.
    fn left(&self, used: u32) -> u32 {
        match self.missing.load(Ordering::Relaxed) {
            0 => self.max.load(Ordering::Relaxed).saturating_sub(used),
            _ => 0,
        }
    }

    fn used(&self) -> MutexGuard<'_, HashMap<Address, u32>> {
        // Every change under it is one addition.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedPermits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPermits")
            .field("max", &self.max)
            .field("missing", &self.missing)
            .field("used", &*self.used())
            .finish_non_exhaustive()
    }
}
