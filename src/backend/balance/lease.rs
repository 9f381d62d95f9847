//! One session's place at an endpoint, and the endpoint as one worker knows it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::super::opening::{Course, Opening};
use super::super::reach::Reach;
use super::super::{Address, Health};
use super::permits::{Footing, Permits, Trial, Verdict};
use super::{ClassId, Moment, SharedPermits};
use crate::config::EndpointMax;
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
    /// The class that it is busy with. `None`: it rests or did so last, or it is asked.
    class: Cell<Option<ClassId>>,
    /// Where the limit is found out: until it is known whether there was a worker for it.
    trial: Cell<Option<Trial>>,
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
    /// The most connections that it may have, where that is a number.
    max: Cell<u32>,
    /// Where it is found out, or was: connections that were opened by then are still counted there.
    permits: RefCell<Option<Permits>>,
    /// Whether it is found out.
    finds: Cell<bool>,
    /// How many are kept for classes.
    pub(super) kept: Cell<u32>,
    /// How many workers were known when the limit was told of them.
    workers: Cell<Option<u32>>,
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
        shared: Option<Arc<SharedPermits>>,
    ) -> Self {
        Self {
            health: Arc::clone(health),
            counters: Arc::default(),
            opening: RefCell::default(),
            reach: Cell::default(),
            shared: RefCell::new(shared),
            recoveries: Rc::clone(recoveries),
            max: Cell::new(u32::MAX),
            permits: RefCell::default(),
            finds: Cell::new(false),
            kept: Cell::new(0),
            workers: Cell::new(None),
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

    /// Has so many connections at the most from now on. `seed`: another one for each endpoint.
    pub(super) fn limit(&self, max: Option<EndpointMax>, seed: u64) {
        let before = self
            .max
            .replace(max.map_or(u32::MAX, |max| max.most().get()));
        let range = match max {
            Some(EndpointMax::Auto(range)) => Some(range),
            Some(EndpointMax::Fixed(_)) | None => None,
        };
        let found_before = self.finds.replace(range.is_some());
        if let Some(range) = range {
            let mut permits = self.permits.borrow_mut();
            let permits = permits.get_or_insert_with(|| Permits::new(range, seed));
            permits.amend(range, self.open());
            if !found_before {
                // A number that an operator has given is as good a beginning as any.
                let start = (before != u32::MAX).then_some(before);
                permits.begin(start, self.open());
            }
        }
        self.show_limit();
    }

    /// The most connections that there may be now. `grows`: for one of which it can be tried whether there is a worker.
    pub(super) fn most(&self, grows: bool, now: Instant) -> u32 {
        if self.finds.get() && self.health.workers() != self.workers.get() {
            self.heed_workers();
        }
        match &*self.permits.borrow() {
            Some(permits) if self.finds.get() => permits.places(grows, now),
            Some(_) | None => self.max.get(),
        }
    }

    /// Somebody has said how many workers there are: that is where to begin.
    fn heed_workers(&self) {
        let workers = self.health.workers();
        self.workers.set(workers);
        let open = self.open();
        self.with_permits(|permits| permits.begin_with_workers(workers, open));
    }

    /// Connections there are.
    fn open(&self) -> u32 {
        u32::try_from(self.counters.in_flight.get()).unwrap_or(u32::MAX)
    }

    fn resting(&self) -> u32 {
        u32::try_from(self.counters.resting.get()).unwrap_or(u32::MAX)
    }

    /// What is known of its server. True: its limit cannot be found out any more.
    pub(super) fn stand_on(&self, footing: Footing) -> bool {
        let open = self.open();
        let became_unfit = self.with_permits(|permits| permits.stand_on(footing, open));
        became_unfit.unwrap_or_default() && self.finds.get()
    }

    /// Where the limit is found out, or was: does something about it.
    fn with_permits<R>(&self, act: impl FnOnce(&mut Permits) -> R) -> Option<R> {
        let done = self.permits.borrow_mut().as_mut().map(act);
        if done.is_some() {
            self.show_limit();
        }
        done
    }

    /// The limit as it is now, where it is found out.
    fn found_limit(&self) -> Option<u32> {
        let permits = self.permits.borrow();
        permits
            .as_ref()
            .filter(|_| self.finds.get())
            .map(Permits::limit)
    }

    fn show_limit(&self) {
        let limit = self.found_limit().unwrap_or_default();
        self.counters.limit.set(limit.into());
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn audit(&self) {
        if let Some(permits) = &*self.permits.borrow()
            && self.finds.get()
        {
            permits.audit(self.open());
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
        (index, version): (usize, u64),
        paced: bool,
        (now, class): (Instant, Option<ClassId>),
    ) -> Self {
        let others = member.open();
        let finds = member.finds.get();
        let trial = finds.then(|| member.with_permits(|permits| permits.opens(others, now)));
        member.counters.in_flight.raise();
        if let Some(class) = class {
            member.take_for(class);
        }
        let course = match paced {
            true => member.opening.borrow_mut().opened(now),
            false => Course::Untracked,
        };
        Self {
            was_ejected: member.health.is_ejected(now),
            course: Cell::new(course),
            class: Cell::new(class),
            trial: Cell::new(trial.flatten()),
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
        let max = match &*self.member.permits.borrow() {
            Some(permits) if self.member.finds.get() => permits.most_now(),
            Some(_) | None => self.member.max.get(),
        };
        self.member.open().saturating_sub(max).into()
    }

    // --- where the limit is found out ---------------------------------------------------------

    /// The limit as it is now, where it is found out.
    #[must_use]
    pub fn found_limit(&self) -> Option<u32> {
        self.member.found_limit()
    }

    /// Whether its connection tells, once it has answered, that there is a worker for it.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.trial.get().is_some()
    }

    /// Whether it is no request's: it may only be asked.
    #[must_use]
    pub fn is_nobodys(&self) -> bool {
        self.class.get().is_none()
    }

    /// It is asked, and is nobody's meanwhile. Returns when it is [late](Self::is_late).
    pub fn ask(&self, now: Instant) -> Instant {
        self.leave_class();
        let member = &self.member;
        let mut opening = member.opening.borrow_mut();
        let (course, opened) = opening.asked(self.course.get());
        self.course.set(course);
        let connect = opened.map(|opened| now.saturating_duration_since(opened));
        let mut trial = self.trial.get().expect("who is asked is a trial");
        let late = Permits::asks(&mut trial, connect.unwrap_or_default(), now);
        self.trial.set(Some(trial));
        late
    }

    /// It is not asked: it has a request already.
    pub fn is_not_asked(&self) {
        let open = self.member.open();
        if let Some(trial) = self.trial.take() {
            self.member
                .with_permits(|permits| permits.unasked(trial, open));
        }
    }

    /// It has answered: there is a worker for it.
    pub fn has_answered(&self, now: Instant) {
        let open = self.member.open();
        if let Some(trial) = self.trial.take() {
            self.member
                .with_permits(|permits| permits.answered(trial, open, now));
        }
        self.answered(now);
    }

    /// It has not answered in time. What becomes of it.
    pub fn is_late(&self, now: Instant) -> Verdict {
        let open = self.member.open();
        let Some(mut trial) = self.trial.get() else {
            return Verdict::Close;
        };
        let verdict = self
            .member
            .with_permits(|permits| permits.late(&mut trial, open, now));
        self.trial.set(Some(trial));
        verdict.unwrap_or(Verdict::Close)
    }

    /// Whether its connection, which has nothing to do, is closed, so that the next one tells whether somebody else
    /// waits for a worker.
    #[must_use]
    pub fn renews(&self, now: Instant) -> bool {
        let open = self.member.open();
        // What is kept for classes rests.
        let resting = self.member.resting().saturating_sub(self.member.kept.get());
        let renews = self
            .member
            .with_permits(|permits| permits.renews(open, resting, now));
        renews.unwrap_or_default() && self.member.finds.get()
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
        let (open, trial) = (self.member.open(), self.trial.take());
        self.member.with_permits(|permits| {
            if let Some(trial) = trial {
                permits.ended(trial, open);
            }
            permits.left(open);
        });
        if let Some(shared) = &*self.member.shared.borrow() {
            shared.give_back(self.address());
        }
        self.member.opening.borrow_mut().ended(self.course.get());
    }
}
