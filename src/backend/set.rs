//! The set of addresses that backends stand for, its publication, and whose turn it is.
//!
//! A set never changes once it is built. What changes is which set is the current one, and a session
//! keeps the set it started with until it is connected: a swap in the middle of its attempts can
//! neither make it skip an endpoint nor try one twice.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};

use super::Refresher;
use crate::sys::net::UnixName;

/// The most endpoints of one set.
///
/// The longest answer that DNS can carry (65,535 bytes, over TCP) has about 4000 IPv4 addresses, so
/// no name is cut short by this; the bound keeps hostile or broken name servers, and many names
/// merged into one set, from growing what every worker reads.
pub const ADDRESSES_MAX: usize = 4096;

/// Where to connect.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket of this machine.
    Unix(UnixName),
}

impl Address {
    /// What can stand behind a name.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(name) => name.fmt(f),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One address of a set, and how it compares with the others (RFC 2782; what comes without a
/// priority and a weight has 0 and 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where to connect.
    pub address: Address,
    /// Endpoints with a higher number are for when none with a lower one can be reached.
    pub priority: u16,
    /// The share of sessions among endpoints of the same priority. Kept, and not honoured yet.
    pub weight: u16,
}

impl<A: Into<Address>> From<A> for Endpoint {
    fn from(address: A) -> Self {
        Self {
            address: address.into(),
            priority: 0,
            weight: 1,
        }
    }
}

/// The endpoints behind the configured backends, as known at one moment. Immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSet {
    endpoints: Box<[Endpoint]>,
    /// How many of them share the lowest number for a priority: those that take turns.
    preferred: usize,
    version: u64,
    obtained: Option<SystemTime>,
}

impl AddressSet {
    /// The set before anything is known: no endpoint, version 0.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            endpoints: Box::default(),
            preferred: 0,
            version: 0,
            obtained: None,
        }
    }

    /// The set that follows `self`, or `None` if `endpoints` are the ones it already has.
    fn successor(&self, endpoints: Box<[Endpoint]>, now: SystemTime) -> Option<Self> {
        if self.endpoints == endpoints {
            return None;
        }
        let lowest = endpoints.first().map(|endpoint| endpoint.priority);
        let is_preferred = |endpoint: &&Endpoint| Some(endpoint.priority) == lowest;
        Some(Self {
            preferred: endpoints.iter().take_while(is_preferred).count(),
            endpoints,
            version: self.version + 1,
            obtained: Some(now),
        })
    }

    /// The endpoints, each address once, by priority and within one in the order in which they were
    /// published.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// How many changes led to this set; 0 only for [`AddressSet::empty`].
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// When these endpoints became the current ones (a lookup that confirms them does not count);
    /// `None` only for [`AddressSet::empty`].
    #[must_use]
    pub fn obtained(&self) -> Option<SystemTime> {
        self.obtained
    }
}

/// Sorts by priority, drops addresses that were there before and what exceeds [`ADDRESSES_MAX`];
/// returns how many different addresses did not fit as well.
fn collapse(mut endpoints: Vec<Endpoint>) -> (Box<[Endpoint]>, usize) {
    // Stable: the caller's order stays within a priority.
    endpoints.sort_by_key(|endpoint| endpoint.priority);
    let mut seen = HashSet::with_capacity(endpoints.len());
    endpoints.retain(|endpoint| seen.insert(endpoint.address));
    let dropped = endpoints.len().saturating_sub(ADDRESSES_MAX);
    endpoints.truncate(ADDRESSES_MAX);
    (endpoints.into_boxed_slice(), dropped)
}

/// The current [`AddressSet`], shared by its one writer and all its readers.
///
/// The resolver (or, with literal addresses only, the thread that starts it) is the only one who
/// writes; every worker reads. `ArcSwap` publishes with release and reads with acquire ordering, so
/// whoever sees the new pointer sees the complete set; nobody depends on *when* a worker sees it,
/// and the wake-up comes after the swap, so a worker that was woken finds the new set.
pub struct Published {
    current: ArcSwap<AddressSet>,
    /// Milliseconds since the epoch, 0 for never. The resolver writes; who reads wants a figure and
    /// nothing that goes with it, so no ordering is needed.
    confirmed: AtomicU64,
    refresher: Refresher,
    on_change: Box<dyn Fn() + Send + Sync>,
}

impl Published {
    /// An empty set whose readers `on_change` wakes: it runs on the writer's thread after every
    /// swap and must not block.
    #[must_use]
    pub fn new(on_change: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            current: ArcSwap::from_pointee(AddressSet::empty()),
            confirmed: AtomicU64::new(0),
            refresher: Refresher::default(),
            on_change: Box::new(on_change),
        }
    }

    /// The current set for a short look: cheaper than [`Published::load_full`], but to be dropped
    /// soon, since a thread can hold only a few of these cheaply.
    pub fn load(&self) -> Guard<Arc<AddressSet>> {
        self.current.load()
    }

    /// The current set, to be kept.
    #[must_use]
    pub fn load_full(&self) -> Arc<AddressSet> {
        self.current.load_full()
    }

    /// Where a failed connect is told.
    pub fn refresher(&self) -> &Refresher {
        &self.refresher
    }

    /// Notes that the oldest of the answers in use, over all names, was given at this time; `None`
    /// if no name has been answered yet. For the one writer only.
    pub(crate) fn confirm(&self, at: Option<SystemTime>) {
        let since_epoch = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let millis = since_epoch.map_or(0, |since| since.as_millis());
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.confirmed.store(millis, Ordering::Relaxed);
    }

    /// How long ago the oldest of the answers in use, over all names, was given: while lookups fail,
    /// this grows. `None` if no name has been answered, which is so for literal addresses.
    #[must_use]
    pub fn answer_age(&self, now: SystemTime) -> Option<Duration> {
        let millis = self.confirmed.load(Ordering::Relaxed);
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        (millis > 0).then(|| now.duration_since(at).unwrap_or_default())
    }

    /// Makes `endpoints` the current set and wakes the readers; `false` if they already were, in
    /// which case nothing is swapped and nobody woken.
    ///
    /// Order matters: the caller puts equal sets in equal order, so that an answer that was merely
    /// rotated is no change. Duplicates collapse, and what exceeds [`ADDRESSES_MAX`] is dropped with
    /// a warning. For the one writer only: two of them could give a version number twice.
    pub fn publish<E: Into<Endpoint>>(
        &self,
        endpoints: impl IntoIterator<Item = E>,
        now: SystemTime,
    ) -> bool {
        let (endpoints, dropped) = collapse(endpoints.into_iter().map(E::into).collect());
        let Some(next) = self.load().successor(endpoints, now) else {
            return false;
        };
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "publish addresses: more than {ADDRESSES_MAX} in one set; the rest is not used \
                 (give the backends names with fewer addresses)"
            );
        }
        self.current.store(Arc::new(next));
        (self.on_change)();
        true
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published")
            .field("current", &*self.load())
            .finish_non_exhaustive()
    }
}

/// Whose turn it is. Each worker has its own, so nothing is shared and nothing is atomic.
#[derive(Clone, Debug)]
pub struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    /// Begins at the endpoint number `start`: give each worker another one, or all of them send
    /// their first session to the same endpoint.
    #[must_use]
    pub fn new(start: usize) -> Self {
        Self { next: start }
    }

    /// The attempts of one session: it begins where the session before it did not, among the
    /// endpoints of the first priority.
    pub fn start(&mut self, set: Arc<AddressSet>) -> Attempts {
        let start = self.next.checked_rem(set.preferred).unwrap_or(0);
        if set.preferred > 0 {
            self.next = start + 1;
        }
        Attempts {
            set,
            start,
            tried: 0,
        }
    }
}

/// The endpoints that one connecting session may try, each once. Costs no allocation.
#[derive(Clone, Debug)]
pub struct Attempts {
    set: Arc<AddressSet>,
    start: usize,
    tried: usize,
}

impl Attempts {
    /// The endpoint to try next, those of the first priority before the others; `None` when each
    /// was tried, or there was none.
    pub fn next_endpoint(&mut self) -> Option<Address> {
        let preferred = self.set.preferred;
        let index = match self.tried {
            tried if tried < preferred => (self.start + tried) % preferred,
            tried => tried,
        };
        let endpoint = self.set.endpoints.get(index)?;
        self.tried += 1;
        Some(endpoint.address)
    }

    /// Makes the endpoint that was given last the next one again: it could not be tried.
    pub fn put_back(&mut self) {
        assert!(self.tried > 0, "an endpoint was given");
        self.tried -= 1;
    }

    /// How many endpoints are still untried.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.set.endpoints.len() - self.tried
    }

    /// The version of the set that these endpoints come from: a session whose attempts ran out may
    /// start again if the current set is a newer one.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.set.version
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn endpoint(last: u8) -> Address {
        SocketAddr::from(([192, 0, 2, last], 9000)).into()
    }

    fn endpoints(lasts: impl IntoIterator<Item = u8>) -> Vec<Address> {
        lasts.into_iter().map(endpoint).collect()
    }

    fn set(lasts: impl IntoIterator<Item = u8>) -> Arc<AddressSet> {
        let published = Published::new(|| {});
        published.publish(endpoints(lasts), SystemTime::UNIX_EPOCH);
        published.load_full()
    }

    fn addresses(set: &AddressSet) -> Vec<Address> {
        set.endpoints().iter().map(|e| e.address).collect()
    }

    /// Endpoints with a priority each.
    fn ranked(ranked: &[(u8, u16)]) -> Vec<Endpoint> {
        let endpoint = |&(last, priority)| Endpoint {
            priority,
            ..endpoint(last).into()
        };
        ranked.iter().map(endpoint).collect()
    }

    fn drain(mut attempts: Attempts) -> Vec<Address> {
        std::iter::from_fn(|| attempts.next_endpoint()).collect()
    }

    #[test]
    fn publishing_a_change_swaps_once_and_wakes_once() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let published = Published::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(*published.load_full(), AddressSet::empty());

        assert!(published.publish(endpoints([1, 2]), SystemTime::UNIX_EPOCH));
        assert!(!published.publish(endpoints([1, 2]), SystemTime::now()));
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        assert_eq!(published.load().version(), 1);
        assert_eq!(published.load().obtained(), Some(SystemTime::UNIX_EPOCH));

        assert!(published.publish(endpoints([2]), SystemTime::UNIX_EPOCH));
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
        assert_eq!(published.load().version(), 2);
    }

    #[test]
    fn a_woken_reader_finds_the_new_set() {
        let seen = Arc::new(AtomicUsize::new(0));
        let published = Arc::new_cyclic(|weak: &std::sync::Weak<Published>| {
            let (weak, seen) = (weak.clone(), Arc::clone(&seen));
            Published::new(move || {
                let published = weak.upgrade().unwrap();
                seen.store(published.load().endpoints().len(), Ordering::Relaxed);
            })
        });
        published.publish(endpoints([1, 2, 3]), SystemTime::UNIX_EPOCH);
        assert_eq!(seen.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn publishing_nothing_over_nothing_is_no_change() {
        let published = Published::new(|| panic!("woken without a change"));
        assert!(!published.publish(endpoints([]), SystemTime::now()));
    }

    #[test]
    fn the_age_of_the_answers_grows_until_they_are_confirmed() {
        let published = Published::new(|| {});
        let given = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(published.answer_age(given), None);
        published.confirm(Some(given));
        let later = Duration::from_secs(7);
        assert_eq!(published.answer_age(given + later), Some(later));
        assert_eq!(published.answer_age(given - later), Some(Duration::ZERO));
        published.confirm(None);
        assert_eq!(published.answer_age(given), None);
    }

    #[test]
    fn a_set_may_become_empty() {
        let published = Published::new(|| {});
        published.publish(endpoints([1]), SystemTime::UNIX_EPOCH);
        assert!(published.publish(endpoints([]), SystemTime::now()));
        assert_eq!(published.load().endpoints(), []);
        assert_eq!(published.load().version(), 2);
    }

    #[test]
    fn duplicates_collapse_to_the_first() {
        assert_eq!(addresses(&set([3, 1, 3, 2, 1])), endpoints([3, 1, 2]));
    }

    #[test]
    fn an_address_with_two_priorities_has_the_lower_number() {
        let published = Published::new(|| {});
        published.publish(ranked(&[(1, 20), (2, 10), (1, 10)]), SystemTime::UNIX_EPOCH);
        assert_eq!(published.load().endpoints(), ranked(&[(2, 10), (1, 10)]));
    }

    #[test]
    fn only_the_first_priority_takes_turns_and_the_others_follow() {
        let published = Published::new(|| {});
        let endpoints_by_priority = ranked(&[(9, 30), (1, 10), (8, 20), (2, 10)]);
        published.publish(endpoints_by_priority, SystemTime::UNIX_EPOCH);
        let mut turns = RoundRobin::new(0);
        let mut tried = || drain(turns.start(published.load_full()));
        assert_eq!(tried(), endpoints([1, 2, 8, 9]));
        assert_eq!(tried(), endpoints([2, 1, 8, 9]));
        assert_eq!(tried(), endpoints([1, 2, 8, 9]));
    }

    #[test]
    fn another_weight_or_priority_is_a_change() {
        let published = Published::new(|| {});
        assert!(published.publish(ranked(&[(1, 10)]), SystemTime::UNIX_EPOCH));
        assert!(published.publish(ranked(&[(1, 20)]), SystemTime::UNIX_EPOCH));
        let mut heavy = ranked(&[(1, 20)]);
        heavy[0].weight = 7;
        assert!(published.publish(heavy.clone(), SystemTime::UNIX_EPOCH));
        assert!(!published.publish(heavy, SystemTime::UNIX_EPOCH));
    }

    #[test]
    fn a_set_is_truncated_at_its_bound() {
        let many = (0..5000u16).map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let published = Published::new(|| {});
        published.publish(many, SystemTime::UNIX_EPOCH);
        assert_eq!(published.load().endpoints().len(), ADDRESSES_MAX);
    }

    #[test]
    fn rotation_is_fair() {
        let set = set([1, 2, 3]);
        let mut turns = RoundRobin::new(7);
        let mut firsts = [0; 3];
        for _ in 0..300 {
            let first = turns.start(Arc::clone(&set)).next_endpoint().unwrap();
            let index = addresses(&set).iter().position(|a| *a == first).unwrap();
            firsts[index] += 1;
        }
        assert_eq!(firsts, [100, 100, 100]);
    }

    #[test]
    fn a_session_tries_each_endpoint_once_and_wraps_around() {
        let set = set([1, 2, 3]);
        let mut turns = RoundRobin::new(1);
        assert_eq!(
            drain(turns.start(Arc::clone(&set))),
            endpoints([2, 3, 1]).as_slice()
        );
        assert_eq!(drain(turns.start(set)), endpoints([3, 1, 2]).as_slice());
    }

    #[test]
    fn remaining_counts_down_to_none() {
        let mut attempts = RoundRobin::new(0).start(set([1, 2]));
        assert_eq!((attempts.remaining(), attempts.version()), (2, 1));
        attempts.next_endpoint();
        attempts.next_endpoint();
        assert_eq!(attempts.remaining(), 0);
        assert_eq!(attempts.next_endpoint(), None);
        assert_eq!(attempts.next_endpoint(), None);
    }

    #[test]
    fn an_empty_set_offers_nothing() {
        let mut turns = RoundRobin::new(usize::MAX);
        let mut attempts = turns.start(Arc::new(AddressSet::empty()));
        assert_eq!(attempts.remaining(), 0);
        assert_eq!(attempts.next_endpoint(), None);
        assert_eq!(attempts.version(), 0);
        assert_eq!(drain(turns.start(set([1, 2]))).len(), 2);
    }

    #[test]
    fn a_smaller_set_in_the_middle_of_the_rotation_is_no_matter() {
        let mut turns = RoundRobin::new(0);
        for _ in 0..5 {
            turns.start(set([1, 2, 3, 4, 5, 6, 7]));
        }
        assert_eq!(
            drain(turns.start(set([1, 2]))),
            endpoints([2, 1]).as_slice()
        );
    }
}
