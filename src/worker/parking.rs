//! Clients that were accepted and are not served yet: for want of a permit, or because their route takes none now.
//!
//! Those of routes that take none are apart from the others until somebody looks at their route again, so that nobody
//! goes over them in each turn. The order is that in which they came, whoever was apart.

use std::collections::BTreeMap;

use crate::driver::Sock;
use crate::session::RouteKey;

use super::admission::Origin;

/// A client that was accepted and is not served yet.
pub(super) struct Parked {
    pub(super) client: Sock,
    pub(super) from: Origin,
}

/// When one came, compared with others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ParkedNumber(u64);

/// All of them. Each is either ready or held.
#[derive(Default)]
pub(super) struct Parking {
    next: u64,
    /// Those that are served with the next permit, unless their route turns out to take none.
    ready: BTreeMap<ParkedNumber, Parked>,
    /// The others.
    held: BTreeMap<(RouteKey, ParkedNumber), Parked>,
    /// How many there are of each route, both kinds: of routes that have none, nothing.
    of_route: BTreeMap<RouteKey, usize>,
}

impl Parking {
    /// Behind all others.
    pub(super) fn push(&mut self, parked: Parked) {
        *self.of_route.entry(parked.from.route).or_default() += 1;
        self.ready.insert(ParkedNumber(self.next), parked);
        self.next += 1;
    }

    /// The first one that is ready.
    pub(super) fn first(&self) -> Option<(ParkedNumber, &Parked)> {
        let (number, parked) = self.ready.first_key_value()?;
        Some((*number, parked))
    }

    /// One that is ready is not parked any more.
    pub(super) fn remove(&mut self, number: ParkedNumber) -> Parked {
        let parked = self.ready.remove(&number).expect("it was just found");
        self.forget(parked.from.route);
        parked
    }

    /// The route of one that is ready takes none.
    pub(super) fn hold(&mut self, number: ParkedNumber) {
        let parked = self.ready.remove(&number).expect("it was just found");
        self.held.insert((parked.from.route, number), parked);
    }

    /// It may take some now.
    pub(super) fn release(&mut self, route: RouteKey) {
        while let Some((number, parked)) = self.pop_held(route) {
            self.ready.insert(number, parked);
        }
    }

    /// All routes may.
    pub(super) fn release_all(&mut self) {
        while let Some(((_, number), parked)) = self.held.pop_first() {
            self.ready.insert(number, parked);
        }
    }

    /// Those of this route, in the order in which they came, are not parked any more.
    pub(super) fn take_of(&mut self, route: RouteKey) -> Vec<Parked> {
        self.take_those_of(route, |_| true)
    }

    /// Those of this route of which this is true, likewise.
    pub(super) fn take_those_of(
        &mut self,
        route: RouteKey,
        is_taken: impl Fn(&Origin) -> bool,
    ) -> Vec<Parked> {
        if !self.has_of(route) {
            return Vec::new();
        }
        self.release(route);
        let goes = |p: &Parked| p.from.route == route && is_taken(&p.from);
        let of_route = self.ready.iter().filter(|(_, p)| goes(p));
        let numbers: Vec<_> = of_route.map(|(number, _)| *number).collect();
        let taken = numbers.into_iter().map(|number| self.remove(number));
        taken.collect()
    }

    pub(super) fn take_all(&mut self) -> Vec<Parked> {
        self.release_all();
        self.of_route.clear();
        let all = std::mem::take(&mut self.ready);
        all.into_values().collect()
    }

    /// All of them, those that are held included.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Parked> {
        self.ready.values_mut().chain(self.held.values_mut())
    }

    pub(super) fn has_of(&self, route: RouteKey) -> bool {
        self.of_route.contains_key(&route)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.held.is_empty()
    }

    fn pop_held(&mut self, route: RouteKey) -> Option<(ParkedNumber, Parked)> {
        let all = (route, ParkedNumber(0))..=(route, ParkedNumber(u64::MAX));
        let key = *self.held.range(all).next()?.0;
        self.held.remove(&key).map(|parked| (key.1, parked))
    }

    fn forget(&mut self, route: RouteKey) {
        let left = self.of_route.get_mut(&route);
        let left = left.expect("each that is parked is counted");
        *left -= 1;
        if *left == 0 {
            self.of_route.remove(&route);
        }
    }

    /// Those that are held, and all, counted anew: for who compares it with what is kept.
    #[cfg(any(test, fuzzing))]
    pub(super) fn audit(&self, mut is_held: impl FnMut(&Parked) -> bool) {
        let mut of_route = BTreeMap::new();
        for parked in self.ready.values().chain(self.held.values()) {
            *of_route.entry(parked.from.route).or_insert(0) += 1;
        }
        assert!(
            of_route == self.of_route,
            "INVARIANT index_is_exact: clients that wait, by route"
        );
        for parked in self.held.values() {
            assert!(
                is_held(parked),
                "INVARIANT index_is_exact: a client is held that could be served"
            );
        }
    }
}
