//! What classes of requests have of an endpoint, where its places are shared between them.
//!
//! A place is *busy* with what a class has there: a connection on which a request is, or on whose last one the server may
//! still be at work. One that rests is nobody's, and so is one that rested and is being closed. A class has room for one
//! more if
//!
//! - it has fewer than are reserved for it; or
//! - it has fewer than its maximum, and more places are not busy than the other classes have yet to get of what is
//!   reserved for them.
//!
//! What each class has or has reserved, whichever is more, is within the number of places altogether: no step makes it
//! more. So a class that has less than its reserve finds a place whatever the others do, at once unless one is just being
//! closed. Where the number of places is lowered, that comes to be so as they are given back.

use std::time::Instant;

use super::Balancer;
use super::lease::Member;

/// The most classes of a route, the default one included.
pub const CLASSES_MAX: usize = crate::config::CLASSES_MAX + 1;

/// Which of its route's classes a request belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClassId(u8);

impl ClassId {
    /// That of requests which no other class has. Without classes, it has all.
    pub const DEFAULT: Self = Self(0);

    /// The one with this place among those of its route.
    #[must_use]
    pub fn at(place: usize) -> Self {
        assert!(place < CLASSES_MAX, "classes have a bound");
        Self(u8::try_from(place).expect("the bound is small"))
    }

    /// Its place among those of its route.
    #[must_use]
    pub fn place(self) -> usize {
        usize::from(self.0)
    }
}

/// What a class may have of each endpoint's places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassShare {
    /// At most so many.
    pub max: u32,
    /// So many are kept for it.
    pub reserve: u32,
}

impl Member {
    /// The class has one more of its places.
    pub(super) fn take_for(&self, class: ClassId) {
        self.counters.busy[class.place()].raise();
    }

    /// The class has one less.
    pub(super) fn give_back_of(&self, class: ClassId) {
        let busy = &self.counters.busy[class.place()];
        assert!(busy.get() > 0, "who gives back has taken");
        busy.lower();
    }

    /// How many more places a class may have with these shares, of so many that are not busy. `keeps`: what is reserved for
    /// others is kept for them.
    fn room(&self, class: ClassId, shares: &[ClassShare], not_busy: u64, keeps: bool) -> u64 {
        let has = |place: usize| self.counters.busy[place].get();
        let (own, has_own) = (shares[class.place()], has(class.place()));
        let mut kept = 0;
        for (place, share) in shares.iter().enumerate() {
            if keeps && place != class.place() {
                kept += u64::from(share.reserve).saturating_sub(has(place));
            }
        }
        let reserved = u64::from(own.reserve).saturating_sub(has_own);
        let at_most = u64::from(own.max).saturating_sub(has_own);
        not_busy.saturating_sub(kept).max(reserved).min(at_most)
    }
}

impl Balancer {
    /// Shares the leases of each endpoint between classes: by their places, as [`ClassId`] has them. Where they are
    /// others than before, that is come to as leases end; the number of them is the same.
    pub fn divide(&mut self, shares: Vec<ClassShare>) {
        assert!(shares.len() <= CLASSES_MAX, "classes have a bound");
        self.shares_of_classes = shares;
    }

    /// The places that a class has taken, and those that it could have now; without classes, all of them. While others
    /// have some of a route that changes hands, theirs count as well, because they give them back. `None`: no endpoint is
    /// known, or none takes connections.
    #[must_use]
    pub fn places_of(&self, class: ClassId, now: Instant) -> Option<u64> {
        if self
            .members
            .iter()
            .all(|member| member.reach.get().is_bad())
        {
            return None;
        }
        let places = |index: usize| {
            let member = &self.members[index];
            let counters = &member.counters;
            // What rests is nobody's, and counts as taken only where nobody shares.
            let (taken, rest) = match self.shares_of_classes.is_empty() {
                true => (counters.in_flight.get(), 0),
                false => (counters.busy[class.place()].get(), counters.resting.get()),
            };
            let own = self.shares_of_classes.get(class.place());
            let at_most = own.map_or(self.per_endpoint_max, |own| own.max);
            let free = match &self.shared {
                Some(_) => u64::from(at_most).saturating_sub(taken),
                None if self.opens_at(member, now.into()).is_some() => {
                    rest.min(self.room(member, class))
                }
                None => (self.permits(member, class) + rest).min(self.room(member, class)),
            };
            taken + free
        };
        Some((0..self.members.len()).map(places).sum())
    }

    /// How many more requests of this class an endpoint may have, on connections that rest or on new ones. Without
    /// classes, nothing is to be said of that.
    pub(super) fn room(&self, member: &Member, class: ClassId) -> u64 {
        if self.shares_of_classes.is_empty() {
            return u64::MAX;
        }
        let own = u64::from(self.per_endpoint_max).saturating_sub(member.load());
        let not_busy = match &self.shared {
            // What others have of it is as busy as what is here.
            Some(shared) => {
                let free = u64::from(shared.free(member.health.address()));
                own.min(free + member.counters.resting.get())
            }
            None => own,
        };
        // What is kept is for those who come, and nobody comes to a process that leaves.
        let is_left = self
            .shared
            .as_ref()
            .is_some_and(|shared| shared.is_withdrawn());
        member.room(class, &self.shares_of_classes, not_busy, !is_left)
    }
}
