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
//! Where the number of places is found out, a request that has no room may open a connection nevertheless, if one may be
//! opened to see whether there is a worker for it: that one is nobody's, and with it the number of places may grow.
//!
//! What each class has or has reserved, whichever is more, is within the number of places altogether: no step makes it
//! more. So a class that has less than its reserve finds a place whatever the others do, at once unless one is just being
//! closed. Where the number of places is lowered, that comes to be so as they are given back.

use std::num::NonZeroU8;
use std::time::Instant;

use super::lease::Member;
use super::{Balancer, Moment};

/// The most classes of a route, the default one included.
pub const CLASSES_MAX: usize = crate::config::CLASSES_MAX + 1;

/// Which of its route's classes a request belongs to. One more than its place, so that each session is smaller where there
/// may be none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClassId(NonZeroU8);

impl ClassId {
    /// That of requests which no other class has. Without classes, it has all.
    pub const DEFAULT: Self = Self(NonZeroU8::MIN);

    /// The one with this place among those of its route.
    #[must_use]
    pub fn at(place: usize) -> Self {
        assert!(place < CLASSES_MAX, "classes have a bound");
        let place = u8::try_from(place).expect("the bound is small");
        Self(NonZeroU8::MIN.saturating_add(place))
    }

    /// Its place among those of its route.
    #[must_use]
    pub fn place(self) -> usize {
        usize::from(self.0.get() - 1)
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

/// All that is kept for classes.
pub(super) fn kept(shares: &[ClassShare]) -> u32 {
    shares.iter().map(|share| share.reserve).sum()
}

impl Balancer {
    /// Shares the leases of each endpoint between classes: by their places, as [`ClassId`] has them. Where they are
    /// others than before, that is come to as leases end; the number of them is the same.
    pub fn divide(&mut self, shares: Vec<ClassShare>) {
        assert!(shares.len() <= CLASSES_MAX, "classes have a bound");
        self.shares_of_classes = shares;
        let kept = kept(&self.shares_of_classes);
        self.known.values().for_each(|member| member.kept.set(kept));
    }

    /// Whether a connection that rests there may be given a request of this class.
    pub(super) fn rests_for(&self, index: usize, moment: Moment) -> bool {
        let member = &self.members[index];
        member.counters.resting.get() > 0 && self.room(member, moment) > 0
    }

    /// Whether a connection may be opened that is nobody's: there is no room for a request of this class, but there
    /// might be with one worker more.
    pub(super) fn tries_for(&self, member: &Member, moment: Moment) -> bool {
        let Moment { now, class, .. } = moment;
        let busy = member.counters.busy[class.place()].get();
        let own = self.shares_of_classes.get(class.place());
        own.is_some_and(|own| busy < u64::from(own.max))
            && member.most(true, now) > member.most(false, now)
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
            let moment = Moment::new(class, now);
            let at_most = own.map_or(member.most(true, now), |own| own.max);
            let free = match &self.shared {
                Some(_) => u64::from(at_most).saturating_sub(taken),
                None if self.opens_at(member, moment).is_some() => {
                    rest.min(self.room(member, moment))
                }
                None => (self.permits(member, true, moment) + rest).min(self.room(member, moment)),
            };
            taken + free
        };
        Some((0..self.members.len()).map(places).sum())
    }

    /// How many more requests of this class an endpoint may have, on connections that rest or on new ones. Without
    /// classes, nothing is to be said of that.
    pub(super) fn room(&self, member: &Member, moment: Moment) -> u64 {
        if self.shares_of_classes.is_empty() {
            return u64::MAX;
        }
        let most = u64::from(member.most(false, moment.now));
        let own = most.saturating_sub(member.load());
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
        member.room(moment.class, &self.shares_of_classes, not_busy, !is_left)
    }
}
