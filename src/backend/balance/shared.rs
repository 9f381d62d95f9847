//! Permits while a route changes hands: those that served it finish what they have, and those that come after serve
//! new sessions. Until the first are done, one count is for all of them.
//!
//! The others may be another process. Then each has a count of its own: the one that leaves says how many connections
//! it may still have ([`SharedPermits::withdraw`]), which never becomes more, and the one that comes has what is left
//! ([`SharedPermits::leave_to_others`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Address;

/// So many permits of each endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermitCounts {
    /// Of these.
    pub of: HashMap<Address, u32>,
    /// Of every other one.
    pub of_others: u32,
}

impl PermitCounts {
    /// Of this endpoint.
    #[must_use]
    pub fn get(&self, address: Address) -> u32 {
        self.of.get(&address).copied().unwrap_or(self.of_others)
    }

    /// Of each endpoint as many as both say together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let named = self.of.keys().chain(other.of.keys());
        let sum = |address| self.get(address).saturating_add(other.get(address));
        Self {
            of: named.map(|&address| (address, sum(address))).collect(),
            of_others: self.of_others.saturating_add(other.of_others),
        }
    }
}

/// What is counted, under one lock.
#[derive(Debug, Default)]
struct Counts {
    /// Permits that are taken.
    used: HashMap<Address, u32>,
    /// The most that may be taken, once what is free is left to another process. It never becomes more.
    held: Option<PermitCounts>,
    /// What another process may have.
    elsewhere: PermitCounts,
}

/// What all of them have of each endpoint.
///
/// Nothing is given out until everybody who served before has said what it has. The lock is held for an addition, and
/// a route has such a count only for as long as it changes hands.
pub struct SharedPermits {
    /// Of each endpoint.
    max: AtomicU32,
    /// How many have yet to say what they have.
    missing: AtomicUsize,
    counts: Mutex<Counts>,
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
            counts: Mutex::default(),
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
        let mut counts = self.counts();
        for (address, count) in leases {
            *counts.used.entry(address).or_default() += count;
        }
        // Under the lock, so that whoever finds nobody missing finds all that they have.
        let before = self.missing.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "each of them joins once");
        drop(counts);
        (self.wake)();
    }

    /// One of those that served before has none any more.
    pub fn join_with_none(&self) {
        self.join(std::iter::empty());
    }

    /// How many are left of this endpoint.
    pub(super) fn free(&self, address: Address) -> u32 {
        self.left(&self.counts(), address)
    }

    /// Takes one. False: none is left.
    pub(super) fn take(&self, address: Address) -> bool {
        let mut counts = self.counts();
        let is_left = self.left(&counts, address) > 0;
        if is_left {
            *counts.used.entry(address).or_default() += 1;
        }
        is_left
    }

    /// Takes one that nobody limits.
    pub(super) fn take_beyond(&self, address: Address) {
        *self.counts().used.entry(address).or_default() += 1;
    }

    /// Gives one back.
    pub(super) fn give_back(&self, address: Address) {
        let mut counts = self.counts();
        let count = counts.used.get_mut(&address);
        let count = count.expect("who gives back has taken");
        *count -= 1;
        if *count == 0 {
            counts.used.remove(&address);
        }
        drop(counts);
        (self.wake)();
    }

    // --- another process ----------------------------------------------------------------------

    /// Leaves to another process what none of so many sessions needs: not what is used, nor one of each endpoint for
    /// each session that may have none yet. Returns what is kept, together with what a third process has.
    pub fn withdraw(&self, sessions: u32) -> PermitCounts {
        let mut counts = self.counts();
        let Counts {
            used,
            held,
            elsewhere,
        } = &mut *counts;
        let all_used = used.values().fold(0, |sum: u32, n| sum.saturating_add(*n));
        let waiting = sessions.saturating_sub(all_used);
        let before = held.take().unwrap_or_else(|| PermitCounts {
            of: HashMap::new(),
            of_others: self.max.load(Ordering::Relaxed),
        });
        let kept = |address: Address| {
            let used = used.get(&address).copied().unwrap_or(0);
            // What nobody limits may be more than was kept.
            let needed = used.saturating_add(waiting);
            (address, needed.min(before.get(address)).max(used))
        };
        let named = used.keys().chain(before.of.keys());
        let of_others = before.of_others.min(waiting);
        let of: HashMap<_, _> = named.map(|&address| kept(address)).collect();
        let kept = PermitCounts {
            of: of.into_iter().filter(|(_, n)| *n != of_others).collect(),
            of_others,
        };
        let all = kept.plus(elsewhere);
        *held = Some(kept);
        all
    }

    /// It has come to nothing: all are ours again.
    pub fn withdraw_no_more(&self) {
        self.counts().held = None;
        (self.wake)();
    }

    /// Whether what is free has been left to another process.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.counts().held.is_some()
    }

    /// Another process may have so many.
    pub fn leave_to_others(&self, elsewhere: PermitCounts) {
        self.counts().elsewhere = elsewhere;
        (self.wake)();
    }

    /// What another process may have.
    #[must_use]
    pub fn elsewhere(&self) -> PermitCounts {
        self.counts().elsewhere.clone()
    }

    /// With the lock held.
    fn left(&self, counts: &Counts, address: Address) -> u32 {
        if self.missing.load(Ordering::Relaxed) > 0 {
            return 0;
        }
        let max = self.max.load(Ordering::Relaxed);
        let max = max.saturating_sub(counts.elsewhere.get(address));
        let held = counts.held.as_ref().map(|held| held.get(address));
        let used = counts.used.get(&address).copied().unwrap_or(0);
        max.min(held.unwrap_or(max)).saturating_sub(used)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Every change under it is complete in itself.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedPermits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPermits")
            .field("max", &self.max)
            .field("missing", &self.missing)
            .field("counts", &*self.counts())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn address(number: u16) -> Address {
        SocketAddr::from(([192, 0, 2, 1], number)).into()
    }

    fn permits(max: u32) -> SharedPermits {
        SharedPermits::new(max, 0, || {})
    }

    /// What a successor has of it that hears this.
    fn successor_of(kept: PermitCounts, max: u32) -> SharedPermits {
        let successor = permits(max);
        successor.leave_to_others(kept);
        successor
    }

    #[test]
    fn a_successor_has_what_nobody_needs() {
        let ours = permits(3);
        assert!(ours.take(address(1)) && ours.take(address(1)) && ours.take(address(2)));
        let theirs = successor_of(ours.withdraw(0), 3);
        let left = |number| theirs.free(address(number));
        assert_eq!((left(1), left(2), left(3)), (1, 2, 3));
        assert!(!ours.take(address(1)) && !ours.take(address(3)));
        ours.give_back(address(1));
        assert_eq!(theirs.free(address(1)), 1, "it has not heard of it");
        theirs.leave_to_others(ours.withdraw(0));
        assert_eq!(theirs.free(address(1)), 2);
        assert!(!ours.take(address(1)), "it is theirs now");
    }

    #[test]
    fn one_of_each_endpoint_is_kept_for_each_that_waits() {
        let ours = permits(3);
        assert!(ours.take(address(1)));
        let theirs = successor_of(ours.withdraw(2), 3);
        let left = |number| theirs.free(address(number));
        assert_eq!((left(1), left(2)), (1, 2));
        assert!(ours.take(address(2)) && !ours.take(address(2)));
        theirs.leave_to_others(ours.withdraw(2));
        let left = |number| theirs.free(address(number));
        assert_eq!((left(1), left(2), left(3)), (2, 2, 3));
    }

    #[test]
    fn those_that_nobody_limits_are_counted() {
        let ours = permits(u32::MAX);
        ours.withdraw(0);
        ours.take_beyond(address(1));
        assert_eq!(successor_of(ours.withdraw(0), 2).free(address(1)), 1);
    }

    #[test]
    fn what_came_to_nothing_is_taken_back() {
        let ours = permits(2);
        ours.withdraw(0);
        assert!(!ours.take(address(1)));
        ours.withdraw_no_more();
        assert!(ours.take(address(1)) && ours.take(address(1)));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Take(u16, usize),
        GiveBack(usize),
        /// The daemon of this number, with so many sessions, says what it keeps to the next one, which hears it.
        Withdraw(usize, u32),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0..3_u16, 0..3_usize).prop_map(|(endpoint, by)| Act::Take(endpoint, by)),
            (0..64_usize).prop_map(Act::GiveBack),
            (0..2_usize, 0..9_u32).prop_map(|(by, sessions)| Act::Withdraw(by, sessions)),
        ]
    }

    proptest! {
        /// Three daemons, each of which has taken over from the one before while that goes on.
        #[test]
        fn the_sum_over_a_chain_is_within_the_limit(
            max in 1..4_u32,
            acts in prop::collection::vec(act(), 0..200),
        ) {
            let daemons: Vec<_> = (0..3).map(|_| permits(max)).collect();
            // Until it has heard of its predecessor, a successor has none.
            for later in &daemons[1..] {
                later.leave_to_others(PermitCounts { of: HashMap::new(), of_others: max });
            }
            let mut taken = Vec::new();
            for act in acts {
                match act {
                    Act::Take(endpoint, by) => {
                        if daemons[by].take(address(endpoint)) {
                            taken.push((endpoint, by));
                        }
                    }
                    Act::GiveBack(which) => {
                        if which < taken.len() {
                            let (endpoint, by) = taken.swap_remove(which);
                            daemons[by].give_back(address(endpoint));
                        }
                    }
                    Act::Withdraw(by, sessions) => {
                        let kept = daemons[by].withdraw(sessions);
                        daemons[by + 1].leave_to_others(kept);
                    }
                }
                for endpoint in 0..3 {
                    let sum = taken.iter().filter(|(of, _)| *of == endpoint).count();
                    prop_assert!(sum <= max as usize, "{sum} of {max}");
                }
            }
        }
    }
}
