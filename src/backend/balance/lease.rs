//! One session's place at an endpoint, and the endpoint as one worker knows it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::super::opening::{Course, Opening};
use super::super::reach::Reach;
use super::super::{Address, Health};
use super::{ClassId, Moment, SharedPermits};
use crate::counters::EndpointCounters;

/// One session's place at an endpoint: it counts there for as long as this lives.
pub struct Lease {
    pub(super) member: Rc<Member>,
    /// Where it stands among the members of the set of this version.
    pub(super) index: u32,
    pub(super) version: u64,
    was_ejected: bool,
    /// What its connection has come to.
    course: Cell<Course>,
    /// The class that it is busy with. `None`: it rests, or did so last.
    class: Cell<Option<ClassId>>,
}

/// An endpoint as one worker knows it; the same one for as long as it is in the set, or has sessions.
pub(super) struct Member {
    pub(super) health: Arc<Health>,
    /// Among them how many sessions there are, connections that rest, and what each class has: who compares endpoints
    /// reads what is shown.
    pub(super) counters: Arc<EndpointCounters>,
    /// Its connections, where they are paced.
    opening: RefCell<Opening>,
    pub(super) reach: Cell<Reach>,
    /// While the route changes hands.
    pub(super) shared: RefCell<Option<Arc<SharedPermits>>>,
    /// Shared by all: how often one could be reached again.
    pub(super) recoveries: Rc<Cell<u64>>,
    /// The most connections that it may have, as of now.
    pub(super) max: Cell<u32>,
    /// Whether it is in the set that was taken over last.
    pub(super) rank: Cell<Rank>,
    /// Which balancer's it is.
    of: u32,
}

/// What an endpoint is in the current set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rank {
    /// It may get something new.
    InUse,
    /// It gets nothing new.
    Drained,
    /// It is not in the set, and has sessions.
    Gone,
}

impl Member {
    pub(super) fn new(
        health: &Arc<Health>,
        recoveries: &Rc<Cell<u64>>,
        max: u32,
        shared: Option<Arc<SharedPermits>>,
    ) -> Self {
        Self {
            health: Arc::clone(health),
            counters: Arc::default(),
            opening: RefCell::default(),
            reach: Cell::default(),
            shared: RefCell::new(shared),
            recoveries: Rc::clone(recoveries),
            max: Cell::new(max),
            rank: Cell::new(Rank::Gone),
            of: 0,
        }
    }

    pub(super) fn of(self, balancer: u32) -> Self {
        Self {
            of: balancer,
            ..self
        }
    }

    /// Whether there is one left for a lease, where others have some as well.
    pub(super) fn take_permit(&self, is_limited: bool) -> bool {
        match &*self.shared.borrow() {
            None => true,
            Some(shared) if is_limited => shared.take(self.health.address()),
            Some(shared) => {
                shared.take_beyond(self.health.address());
                true
            }
        }
    }

    /// When the pace allows another connection. `None`: now.
    pub(super) fn opens_at(&self, moment: Moment) -> Option<Instant> {
        let Moment {
            now, waiting_since, ..
        } = moment;
        self.opening.borrow().opens_at(waiting_since, now)
    }

    /// What counts when endpoints are compared.
    pub(super) fn load(&self) -> u64 {
        self.counters.in_flight.get() - self.counters.resting.get()
    }
}

impl Lease {
    pub(super) fn new(
        member: &Rc<Member>,
        index: usize,
        version: u64,
        paced: bool,
        moment: Moment,
    ) -> Self {
        let Moment { now, class, .. } = moment;
        member.counters.in_flight.raise();
        member.take_for(class);
        let course = match paced {
            true => member.opening.borrow_mut().opened(now),
            false => Course::Untracked,
        };
        Self {
            was_ejected: member.health.is_ejected(now),
            course: Cell::new(course),
            class: Cell::new(Some(class)),
            member: Rc::clone(member),
            index: u32::try_from(index).expect("an address set has a bound"),
            version,
        }
    }

    /// Of several balancers, which one [has given it](super::Balancer::belongs_to).
    #[must_use]
    pub fn of(&self) -> u32 {
        self.member.of
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> Address {
        self.member.health.address()
    }

    /// How the endpoint fares.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.member.health
    }

    /// Its connection stays open and has nothing to do: whoever is sent to the endpoint takes it, or
    /// else it still counts there. It is nobody's, whatever class its last request was of.
    pub fn rest(&self, now: Instant) {
        self.member.counters.resting.raise();
        self.leave_class();
        let mut opening = self.member.opening.borrow_mut();
        self.course
            .set(opening.came_to_rest(self.course.get(), now));
    }

    /// Its connection, which has rested, is given a request.
    pub fn asked(&self, now: Instant) {
        if let Course::Kept { .. } = self.course.get() {
            self.course.set(Course::Kept { asked: Some(now) });
        }
    }

    /// Its connection has shown life. True if it is the first time: the next one may be opened.
    pub fn answered(&self, now: Instant) -> bool {
        let mut opening = self.member.opening.borrow_mut();
        let before = self.course.get();
        self.course.set(opening.answered(before, now));
        matches!(before, Course::Newcomer(_))
    }

    /// Whether its connection, which has nothing to do, shall be closed, because another one may be in the
    /// endpoint's backlog. That one has had its turn with it.
    #[must_use]
    pub fn gives_way(&self, now: Instant) -> bool {
        let mut opening = self.member.opening.borrow_mut();
        let gives_way = opening.release(now);
        if gives_way {
            self.course.set(opening.gave_way(self.course.get()));
        }
        gives_way
    }

    /// When one of the endpoint's connections that have nothing to do shall be [closed](Self::gives_way), as
    /// things stand.
    #[must_use]
    pub fn gives_way_at(&self) -> Option<Instant> {
        self.member.opening.borrow().release_at()
    }

    /// How many connections the endpoint has beyond those that it may have: a limit was lowered, and is come to as
    /// they end. One that has nothing to do is closed instead of being kept.
    #[must_use]
    pub fn surplus(&self) -> u64 {
        let open = self.member.counters.in_flight.get();
        open.saturating_sub(u64::from(self.member.max.get()))
    }

    /// A connect came through. True if the last ones did not: then it is worth asking for what has failed.
    pub fn reached(&self) -> bool {
        let before = self.member.reach.replace(Reach::Open);
        if before.is_bad() {
            let recoveries = &self.member.recoveries;
            recoveries.set(recoveries.get() + 1);
        }
        before.is_bad()
    }

    /// A connect was refused, or failed as definitely.
    pub fn refused(&self, now: Instant) {
        let reach = &self.member.reach;
        reach.set(reach.get().refused(now));
    }

    /// A connect was not answered.
    pub fn not_answered(&self) {
        self.member.reach.set(Reach::Silent);
    }

    /// Its connection, which has rested, is used again: for a request of this class.
    pub fn rouse(&self, class: ClassId) {
        self.member.counters.resting.lower();
        self.member.take_for(class);
        let before = self.class.replace(Some(class));
        assert!(before.is_none(), "what rests is nobody's");
    }

    /// Its connection, which has rested, is closed. Its place is not free before that is done, and is nobody's until
    /// then.
    pub fn rests_no_more(&self) {
        self.member.counters.resting.lower();
    }

    fn leave_class(&self) {
        if let Some(class) = self.class.take() {
            self.member.give_back_of(class);
        }
    }

    /// What this worker counts of the endpoint.
    #[must_use]
    pub fn counters(&self) -> &EndpointCounters {
        &self.member.counters
    }

    /// Whether the endpoint was chosen although it was ejected: nothing else was left.
    #[must_use]
    pub fn was_ejected(&self) -> bool {
        self.was_ejected
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.member.counters.in_flight.lower();
        self.leave_class();
        if let Some(shared) = &*self.member.shared.borrow() {
            shared.give_back(self.address());
        }
        self.member.opening.borrow_mut().ended(self.course.get());
    }
}
