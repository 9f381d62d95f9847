//! The set of addresses that backends stand for, and its publication.
//!
//! A set never changes once it is built. What changes is which set is the current one. How the
//! endpoints fare outlives the sets: an address that leaves and comes back is the same endpoint.

mod number;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

use super::by_hand::{AdjustError, Adjusted, Adjustment, ByHand};
use super::{Address, Health, Refresher};
use crate::config::{Ejection, RouteName};
pub use number::PublishedNumber;

/// The most endpoints of one set.
///
/// The longest answer that DNS can carry (65,535 bytes, over TCP) has about 4000 IPv4 addresses, so
/// no name is cut short by this; the bound keeps hostile or broken name servers, and many names
/// merged into one set, from growing what every worker reads.
pub const ADDRESSES_MAX: usize = 4096;

/// The most addresses whose health is remembered, with those of the current set: one set's worth of
/// them may have left.
const KNOWN_MAX: usize = 2 * ADDRESSES_MAX;

/// One address of a set, and how it compares with the others (RFC 2782; what comes without a
/// priority and a weight has 0 and 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where to connect.
    pub address: Address,
    /// Endpoints with a higher number are for when none with a lower one can be reached.
    pub priority: u16,
    /// The share of sessions among endpoints of the same priority.
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
#[derive(Clone, Debug)]
pub struct AddressSet {
    endpoints: Box<[Endpoint]>,
    /// How each of them fares, in the same order.
    health: Box<[Arc<Health>]>,
    /// Whether each of them gets nothing new, in the same order.
    drained: Box<[bool]>,
    version: u64,
    obtained: Option<SystemTime>,
}

impl AddressSet {
    /// The set before anything is known: no endpoint, version 0.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            endpoints: Box::default(),
            health: Box::default(),
            drained: Box::default(),
            version: 0,
            obtained: None,
        }
    }

    /// The endpoints, each address once, by priority and within one in the order in which they were
    /// published.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// How each of [`AddressSet::endpoints`] fares, in the same order.
    #[must_use]
    pub fn health(&self) -> &[Arc<Health>] {
        &self.health
    }

    /// Whether each of [`AddressSet::endpoints`] gets nothing new because an operator wants it so, in the same
    /// order.
    #[must_use]
    pub fn drained(&self) -> &[bool] {
        &self.drained
    }

    /// How each of those fares that may get something new.
    pub fn health_in_use(&self) -> impl Iterator<Item = &Arc<Health>> {
        let all = self.health.iter().zip(&self.drained);
        all.filter(|(_, is_drained)| !**is_drained)
            .map(|(health, _)| health)
    }

    /// How many changes led to this set, those by hand included; 0 only for [`AddressSet::empty`].
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

/// The current [`AddressSet`], shared by its writers and all its readers.
///
/// The resolver (or, with literal addresses only, the thread that starts it) says which endpoints there are, and
/// operators change something of them by hand, through the main thread: both under one lock. Every worker reads. `ArcSwap` publishes with release and reads with acquire ordering, so
/// whoever sees the new pointer sees the complete set; nobody depends on *when* a worker sees it,
/// and the wake-up comes after the swap, so a worker that was woken finds the new set.
///
/// A worker keeps the set that it read last, with what it made of it, and asks by
/// [`Published::version`] whether there is another: so the count of a set's users, which all workers
/// share, changes once per swap and worker, not with every session.
///
/// How endpoints fare ([`Health`]) is written by whoever meets a failure. An ejection is decided
/// under a lock, so that two threads cannot eject the last two endpoints at one time.
pub struct Published {
    /// Which of the daemon's it is.
    number: PublishedNumber,
    /// Whose they are, for the log.
    route: RouteName,
    current: ArcSwap<AddressSet>,
    /// That of `current`; written after it.
    version: SharedVersion,
    /// Milliseconds since the epoch, 0 for never. The resolver writes; who reads wants a figure and
    /// nothing that goes with it, so no ordering is needed.
    confirmed: AtomicU64,
    refresher: Refresher,
    /// The main thread changes it, and no more depends on it than which rule the next failure meets.
    ejection: ArcSwap<Ejection>,
    /// How many there were. Written under the lock of `deciding`, read by who wants a figure.
    ejections: AtomicU64,
    /// What the times in [`Health`] are counted from.
    began: Instant,
    /// What the current set is made of. Who makes another one holds this.
    told: Mutex<Told>,
    /// Every endpoint of the current set, and those that were in one before and have a history.
    /// Taken by who makes a set.
    known: Mutex<HashMap<Address, Arc<Health>>>,
    /// Who decides whether an endpoint is left out holds this, and nobody else: the last two are not left out at
    /// once.
    deciding: Mutex<()>,
    /// Nothing new goes to any of the endpoints until then.
    paused_until: Mutex<Option<Instant>>,
    /// No endpoint takes connections, and clients are not to wait for one. Who watches that writes; a reader acts on it
    /// a moment sooner or later.
    is_out: AtomicBool,
    /// Something happened after which that may be so.
    trouble: Notify,
    on_change: Box<dyn Fn() + Send + Sync>,
}

/// What a set is made of.
#[derive(Default)]
struct Told {
    /// By the resolver.
    endpoints: Box<[Endpoint]>,
    /// By operators.
    by_hand: ByHand,
}

/// Read for every session, written at a swap: in a cache line that nothing else shares.
#[repr(align(128))]
struct SharedVersion(AtomicU64);

impl Published {
    /// An empty set whose readers `on_change` wakes: it runs on the writer's thread after every
    /// swap, and when a pause begins or ends, and must not block.
    #[must_use]
    pub fn new(on_change: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            number: PublishedNumber(0),
            route: RouteName::default(),
            current: ArcSwap::from_pointee(AddressSet::empty()),
            version: SharedVersion(AtomicU64::new(0)),
            confirmed: AtomicU64::new(0),
            refresher: Refresher::default(),
            ejection: ArcSwap::default(),
            ejections: AtomicU64::new(0),
            began: Instant::now(),
            told: Mutex::default(),
            known: Mutex::default(),
            deciding: Mutex::default(),
            paused_until: Mutex::default(),
            is_out: AtomicBool::new(false),
            trouble: Notify::new(),
            on_change: Box::new(on_change),
        }
    }

    /// Leaves endpoints out by these rules instead of [`Ejection::default`].
    #[must_use]
    pub fn ejecting(self, ejection: Ejection) -> Self {
        self.eject_by(ejection);
        self
    }

    /// Goes by these rules from now on. Who is left out already stays so for its time.
    pub fn eject_by(&self, ejection: Ejection) {
        self.ejection.store(Arc::new(ejection));
    }

    /// There are no active checks any more: nobody is left out for what they said.
    pub fn forget_checks(&self) {
        for health in self.load().health() {
            self.bring_up(health);
            self.checks_fail(health, false);
        }
    }

    /// That of the current set: whoever reads a new one gets that set, or a newer one, when loading.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.0.load(Ordering::Acquire)
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
    /// a warning. For the resolver only: who publishes says which endpoints there are.
    pub fn publish<E: Into<Endpoint>>(
        &self,
        endpoints: impl IntoIterator<Item = E>,
        now: SystemTime,
    ) -> bool {
        let (endpoints, dropped) = collapse(endpoints.into_iter().map(E::into).collect());
        let mut told = self.told();
        if told.endpoints == endpoints {
            return false;
        }
        if dropped > 0 {
            tracing::warn!(
                route = %self.route,
                dropped,
                "publish addresses: more than {ADDRESSES_MAX} in one set; the rest is not used \
                 (give the backends names with fewer addresses)"
            );
        }
        told.endpoints = endpoints;
        self.swap(&told, Some(now));
        drop(told);
        (self.on_change)();
        true
    }

    /// Makes another set the current one. Who does so holds what it is made of.
    fn swap(&self, told: &Told, obtained: Option<SystemTime>) {
        let before = self.load();
        let adjustments = told.endpoints.iter().map(|e| told.by_hand.of(e.address));
        let adjusted = told.endpoints.iter().zip(adjustments.clone());
        let endpoints = adjusted.map(|(endpoint, adjustment)| Endpoint {
            weight: adjustment.weight.map_or(endpoint.weight, NonZeroU16::get),
            ..*endpoint
        });
        let next = AddressSet {
            health: self.health_of(&told.endpoints),
            endpoints: endpoints.collect(),
            drained: adjustments
                .map(|adjustment| adjustment.is_drained)
                .collect(),
            version: before.version + 1,
            obtained: obtained.or(before.obtained),
        };
        drop(before);
        let version = next.version;
        self.current.store(Arc::new(next));
        self.version.0.store(version, Ordering::Release);
        self.trouble.notify_one();
    }

    /// Begins with what another process knew: the addresses until there are others, and what was changed by hand.
    /// To be called before anybody else publishes or reads.
    pub(crate) fn restore(
        &self,
        endpoints: Vec<Endpoint>,
        by_hand: impl IntoIterator<Item = (Address, Adjustment)>,
        now: SystemTime,
    ) {
        let mut told = self.told();
        told.by_hand.restore(by_hand);
        (told.endpoints, _) = collapse(endpoints);
        if !told.endpoints.is_empty() {
            self.swap(&told, Some(now));
        }
    }

    // --- by hand ------------------------------------------------------------------------------

    /// What the endpoints were published as, whatever was changed by hand.
    pub(crate) fn endpoints_told(&self) -> Box<[Endpoint]> {
        self.told().endpoints.clone()
    }

    /// Gives the endpoint at `address` nothing new, or does so again. Readers are woken if that is a change.
    ///
    /// # Errors
    /// If there is no such endpoint and none is remembered, or too many are.
    pub fn drain(&self, address: Address, is_drained: bool) -> Result<Adjusted, AdjustError> {
        self.adjust(address, |adjustment| adjustment.is_drained = is_drained)
    }

    /// Gives the endpoint at `address` another weight, whatever the configuration or DNS says.
    ///
    /// # Errors
    /// As [`Published::drain`].
    pub fn weigh(&self, address: Address, weight: NonZeroU16) -> Result<Adjusted, AdjustError> {
        self.adjust(address, |adjustment| adjustment.weight = Some(weight))
    }

    /// What is changed by hand, and of which endpoints, those included that are not in the set now.
    #[must_use]
    pub fn by_hand(&self) -> Vec<(Address, Adjustment)> {
        self.told().by_hand.all().collect()
    }

    /// Pauses the route until then, or no more: nothing new goes to any of its endpoints. Readers are woken.
    pub fn pause(&self, until: Option<Instant>) {
        *self.pause_end() = until;
        (self.on_change)();
    }

    /// Until when the route is paused, if it is.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.pause_end().filter(|until| *until > now)
    }

    /// No endpoint takes connections and clients are sent away at once, or that is over. Readers are woken.
    pub fn set_out(&self, is_out: bool) {
        if self.is_out.swap(is_out, Ordering::Relaxed) != is_out {
            (self.on_change)();
        }
    }

    /// Whether clients are sent away at once, because no endpoint takes connections.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Relaxed)
    }

    /// Waits until a connect has failed, or the endpoints are others: since the last time that this was waited for.
    pub(crate) async fn trouble(&self) {
        self.trouble.notified().await;
    }

    fn pause_end(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.paused_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn adjust(
        &self,
        address: Address,
        change: impl FnOnce(&mut Adjustment),
    ) -> Result<Adjusted, AdjustError> {
        let mut told = self.told();
        let Told { endpoints, by_hand } = &mut *told;
        let adjusted = by_hand.adjust(address, endpoints, change)?;
        if adjusted == Adjusted::AlreadySo {
            return Ok(adjusted);
        }
        self.swap(&told, None);
        drop(told);
        (self.on_change)();
        Ok(adjusted)
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The health of each: what it was if it is known. Forgets those that left with nothing to tell.
    fn health_of(&self, endpoints: &[Endpoint]) -> Box<[Arc<Health>]> {
        let mut known = self.known();
        let of = |endpoint: &Endpoint| {
            let new = || Arc::new(Health::new(endpoint.address, self.began));
            Arc::clone(known.entry(endpoint.address).or_insert_with(new))
        };
        let health: Box<[_]> = endpoints.iter().map(of).collect();
        known.retain(|_, health| Arc::strong_count(health) > 1 || !health.is_pristine());
        if known.len() > KNOWN_MAX {
            known.retain(|_, health| Arc::strong_count(health) > 1);
        }
        health
    }

    /// Nothing can be half done when a thread panics with the lock held: every change under it is
    /// complete in itself.
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Address, Arc<Health>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self) -> std::sync::MutexGuard<'_, ()> {
        self.deciding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- how endpoints fare -------------------------------------------------------------------

    /// This endpoint failed: it could not be connected to, or closed without a byte after a request
    /// was sent to it. With enough of that in a row it is left out for a while, unless it is the last
    /// one of the current set that is not. Returns whether this ejected it.
    pub fn failed(&self, health: &Health, now: Instant) -> bool {
        let Some(after) = self.ejection.load().after else {
            return false;
        };
        if health.is_ejected(now) || health.count_failure() < after.get() {
            return false;
        }
        self.eject(health, now)
    }

    /// A connect to this endpoint failed. Tells it at the first one, whatever else is left.
    pub fn unreachable(&self, health: &Health, why: &dyn fmt::Display, now: Instant) {
        self.trouble.notify_one();
        if health.note_unreachable(now) {
            tracing::warn!(
                route = %self.route,
                "{why}; the endpoint is shown as failing until a connect succeeds"
            );
        }
    }

    /// A connect to this endpoint came through.
    pub fn reached(&self, health: &Health, now: Instant) {
        if let Some(gone) = health.note_reached(now) {
            let (address, gone) = (health.address(), gone.as_secs_f64());
            tracing::info!(
                route = %self.route,
                "endpoint {address} answers again, {gone:.1} s after the first connect that failed"
            );
        }
    }

    /// Active checks of this endpoint fail, or do not fail any more. It is used all the same.
    pub fn checks_fail(&self, health: &Health, fail: bool) {
        health.set_checks_fail(fail);
    }

    /// How often an endpoint was left out for its failures, over all of them.
    #[must_use]
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    fn eject(&self, health: &Health, now: Instant) -> bool {
        let one_at_a_time = self.decide();
        if !self.has_others(health, now) || health.is_ejected(now) {
            return false;
        }
        let failures = health.failures();
        let ejected = health.eject(**self.ejection.load(), now);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        drop(one_at_a_time);
        tracing::warn!(
            route = %self.route,
            failures,
            ejections = ejected.ejections,
            "endpoint {} is left out for {:?}: {failures} failures in a row",
            health.address(),
            ejected.time,
        );
        if let Some(ip) = health.address().ip() {
            self.refresher.suspect(ip);
        }
        true
    }

    /// Whether somebody can be sent to another endpoint than this one.
    fn has_others(&self, health: &Health, now: Instant) -> bool {
        let set = self.load();
        let mut others = set.health_in_use();
        others.any(|other| other.address() != health.address() && !other.is_ejected(now))
    }

    /// Active checks say that this endpoint is down: it is left out until [`Published::bring_up`],
    /// unless it is the last one of the current set that is not. Returns whether it is left out.
    pub fn take_down(&self, health: &Health, now: Instant) -> bool {
        let one_at_a_time = self.decide();
        if health.is_down() {
            return true;
        }
        if !self.has_others(health, now) {
            return false;
        }
        health.set_down(true);
        drop(one_at_a_time);
        if let Some(ip) = health.address().ip() {
            self.refresher.suspect(ip);
        }
        true
    }

    /// Active checks have nothing against this endpoint any more.
    pub fn bring_up(&self, health: &Health) {
        health.set_down(false);
    }

    /// This endpoint has answered: a row of failures ends. An ejection does not.
    pub fn succeeded(&self, health: &Health) {
        health.clear_failures();
    }

    /// This endpoint was tried although it is left out, and has answered: it is used again at once.
    pub fn restored(&self, health: &Health, now: Instant) {
        if health.restore(now) {
            let address = health.address();
            tracing::info!(route = %self.route, "endpoint {address} is back before its time");
        }
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published")
            .field("current", &*self.load())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

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

    #[test]
    fn publishing_a_change_swaps_once_and_wakes_once() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let published = Published::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(published.load().version(), AddressSet::empty().version());
        assert_eq!(published.load().endpoints(), []);

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
    fn what_is_changed_by_hand_outlives_the_set() {
        let published = Published::new(|| {});
        published.publish(endpoints([1, 2]), SystemTime::UNIX_EPOCH);
        let weight = NonZeroU16::new(7).unwrap();
        assert_eq!(published.drain(endpoint(2), true), Ok(Adjusted::Changed));
        assert_eq!(published.weigh(endpoint(2), weight), Ok(Adjusted::Changed));
        assert_eq!(published.load().version(), 3);
        assert_eq!(published.load().obtained(), Some(SystemTime::UNIX_EPOCH));
        assert_eq!(published.load().drained(), [false, true]);
        // The resolver says the same as before, which changes nothing.
        assert!(!published.publish(endpoints([1, 2]), SystemTime::now()));
        assert!(published.publish(endpoints([1]), SystemTime::UNIX_EPOCH));
        assert_eq!(published.load().drained(), [false]);
        assert!(published.publish(endpoints([2, 1]), SystemTime::UNIX_EPOCH));
        assert_eq!(published.load().drained(), [true, false]);
        assert_eq!(published.load().endpoints()[0].weight, 7);
        let in_use: Vec<_> = published
            .load()
            .health_in_use()
            .map(|h| h.address())
            .collect();
        assert_eq!(in_use, endpoints([1]));
        assert_eq!(published.drain(endpoint(2), false), Ok(Adjusted::Changed));
        assert_eq!(published.load().drained(), [false, false]);
        assert_eq!(
            published.drain(endpoint(3), true),
            Err(AdjustError::Unknown)
        );
    }

    #[test]
    fn changes_by_hand_wake_readers_and_no_change_does_not() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let published = Published::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        published.publish(endpoints([1, 2]), SystemTime::UNIX_EPOCH);
        for expected in [Adjusted::Changed, Adjusted::AlreadySo] {
            assert_eq!(published.drain(endpoint(1), true), Ok(expected));
        }
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
        let now = Instant::now();
        assert_eq!(published.paused_until(now), None);
        let until = now + Duration::from_secs(5);
        published.pause(Some(until));
        assert_eq!(published.paused_until(now), Some(until));
        assert_eq!(published.paused_until(until), None, "it is over by itself");
        published.pause(None);
        assert_eq!(published.paused_until(now), None);
        assert_eq!(wakes.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_drained_endpoint_is_none_for_others_to_go_to() {
        let published = published([1, 2, 3]);
        let now = Instant::now();
        published.drain(endpoint(1), true).unwrap();
        assert_eq!(
            fail(&published, 1, 5, now),
            [false, false, false, false, true]
        );
        // Of those in use, it is the last one.
        assert_eq!(fail(&published, 2, 20, now), [false; 20]);
        let set = published.load_full();
        assert!(!published.take_down(&set.health()[2], now));
        // A drained one that is down takes nothing from anybody.
        assert!(published.take_down(&set.health()[0], now));
    }

    #[test]
    fn a_set_is_truncated_at_its_bound() {
        let many = (0..5000u16).map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let published = Published::new(|| {});
        published.publish(many, SystemTime::UNIX_EPOCH);
        assert_eq!(published.load().endpoints().len(), ADDRESSES_MAX);
    }

    /// Fails an endpoint of the current set, by its place, so many times.
    fn fail(published: &Published, index: usize, times: u32, now: Instant) -> Vec<bool> {
        let set = published.load_full();
        let fail = |_| published.failed(&set.health()[index], now);
        (0..times).map(fail).collect()
    }

    fn ejected(published: &Published, now: Instant) -> Vec<bool> {
        let set = published.load_full();
        set.health().iter().map(|h| h.is_ejected(now)).collect()
    }

    fn published(lasts: impl IntoIterator<Item = u8>) -> Published {
        let published = Published::new(|| {});
        published.publish(endpoints(lasts), SystemTime::UNIX_EPOCH);
        published
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn five_failures_in_a_row_eject_for_half_a_minute() {
        let (published, start) = (published([1, 2]), Instant::now());
        assert_eq!(
            fail(&published, 0, 5, start),
            [false, false, false, false, true]
        );
        assert_eq!(ejected(&published, start + 29 * SECOND), [true, false]);
        assert_eq!(ejected(&published, start + 31 * SECOND), [false, false]);
    }

    #[test]
    fn an_endpoint_that_cannot_be_reached_fails_until_a_connect_comes_through() {
        let (published, start) = (published([1]), Instant::now());
        let set = published.load_full();
        let health = &set.health()[0];
        let soon = start + SECOND;
        assert_eq!(
            (health.failing_for(soon), health.is_unreachable(soon)),
            (None, false)
        );
        assert!(health.note_unreachable(soon));
        // One warning for the row.
        assert!(!health.note_unreachable(soon + SECOND));
        assert_eq!(health.failing_for(soon + 5 * SECOND), Some(5 * SECOND));
        assert!(health.is_unreachable(soon + 5 * SECOND));
        // Nobody has tried for a while.
        assert!(!health.is_unreachable(soon + 60 * SECOND));
        assert_eq!(health.note_reached(soon + 7 * SECOND), Some(7 * SECOND));
        assert_eq!(health.note_reached(soon + 7 * SECOND), None);
        assert_eq!(health.failing_for(soon + 8 * SECOND), None);
        // It flaps: no more lines within ten seconds, but the state follows.
        assert!(!health.note_unreachable(soon + 8 * SECOND));
        assert!(health.is_unreachable(soon + 8 * SECOND));
        assert_eq!(health.note_reached(soon + 9 * SECOND), None);
        assert!(health.note_unreachable(soon + 20 * SECOND));
    }

    #[test]
    fn checks_that_fail_are_a_state_of_an_endpoint_that_is_used_all_the_same() {
        let (published, now) = (published([1]), Instant::now());
        let set = published.load_full();
        published.checks_fail(&set.health()[0], true);
        assert!(set.health()[0].is_unreachable(now) && !set.health()[0].is_ejected(now));
        published.checks_fail(&set.health()[0], false);
        assert!(!set.health()[0].is_unreachable(now));
    }

    #[test]
    fn a_success_ends_the_row() {
        let (published, now) = (published([1, 2]), Instant::now());
        for _ in 0..10 {
            assert_eq!(fail(&published, 0, 4, now), [false; 4]);
            published.succeeded(&published.load().health()[0]);
        }
        assert_eq!(ejected(&published, now), [false, false]);
    }

    #[test]
    fn each_ejection_is_longer_up_to_five_minutes_and_all_is_forgiven_in_time() {
        let published = published([1, 2]);
        let mut now = Instant::now();
        for seconds in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300] {
            assert!(fail(&published, 0, 5, now)[4]);
            let left = published.load().health()[0].left_out_for(now);
            assert_eq!(left, Some(seconds * SECOND));
            let end = now + seconds * SECOND;
            assert!(ejected(&published, end - SECOND)[0], "{seconds}");
            assert!(!ejected(&published, end + SECOND)[0], "{seconds}");
            now = end + SECOND;
        }
        assert_eq!(published.ejections(), 11);
        assert_eq!(published.load().health()[0].left_out_for(now), None);
        now += 302 * SECOND;
        assert!(fail(&published, 0, 5, now)[4]);
        assert!(!ejected(&published, now + 31 * SECOND)[0]);
    }

    #[test]
    fn the_last_endpoint_is_never_ejected() {
        let (published, now) = (published([1, 2, 3]), Instant::now());
        for index in 0..3 {
            fail(&published, index, 50, now);
        }
        assert_eq!(ejected(&published, now), [true, true, false]);
        let later = now + 31 * SECOND;
        assert!(fail(&published, 2, 1, later)[0], "the others are back");
    }

    #[test]
    fn threads_that_eject_at_one_time_leave_one_endpoint() {
        let now = Instant::now();
        for _ in 0..200 {
            let published = published([1, 2]);
            thread::scope(|scope| {
                for index in 0..2 {
                    let published = &published;
                    scope.spawn(move || fail(published, index, 5, now));
                }
            });
            let out = ejected(&published, now).into_iter().filter(|out| *out);
            assert_eq!(out.count(), 1);
        }
    }

    #[test]
    fn an_ejection_outlives_swaps() {
        let (published, now) = (published([1, 2]), Instant::now());
        fail(&published, 0, 5, now);
        published.publish(endpoints([2, 3]), SystemTime::UNIX_EPOCH);
        assert_eq!(ejected(&published, now), [false, false]);
        published.publish(endpoints([1, 2, 3]), SystemTime::UNIX_EPOCH);
        assert_eq!(ejected(&published, now), [true, false, false]);
    }

    #[test]
    fn what_is_remembered_of_the_past_has_a_bound() {
        let (published, now) = (published([1, 2]), Instant::now());
        for round in 0..3u16 {
            let port = |n: u16| SocketAddr::from(([192, 0, 2, 1], 1 + round * 4096 + n));
            published.publish((0..4096).map(port), SystemTime::UNIX_EPOCH);
            for index in 0..4096 {
                fail(&published, index, 1, now);
            }
        }
        published.publish(endpoints([1]), SystemTime::UNIX_EPOCH);
        assert!(published.known().len() <= KNOWN_MAX);
    }

    #[test]
    fn an_endpoint_that_is_back_before_its_time_is_used_at_once() {
        let (published, now) = (published([1, 2]), Instant::now());
        fail(&published, 0, 5, now);
        published.succeeded(&published.load().health()[0]);
        assert_eq!(ejected(&published, now), [true, false]);
        published.restored(&published.load().health()[0], now);
        assert_eq!(ejected(&published, now), [false, false]);
        // It was the first time all the same.
        fail(&published, 0, 5, now);
        assert_eq!(ejected(&published, now + 59 * SECOND), [true, false]);
    }

    #[test]
    fn ejection_can_be_turned_off() {
        let off = Ejection {
            after: None,
            ..Ejection::default()
        };
        let published = Published::new(|| {}).ejecting(off);
        published.publish(endpoints([1, 2]), SystemTime::UNIX_EPOCH);
        let now = Instant::now();
        assert_eq!(fail(&published, 0, 20, now), [false; 20]);
    }
}
