//! Which endpoint a session tries, and which one after that.
//!
//! Each worker has a [`Balancer`] of its own, made anew from every set. What it counts, no other
//! worker writes: a session's place among the endpoints costs no shared cache line. So "least
//! connections" means those of this worker; workers that take clients evenly come to the same.
//!
//! Pure: no clock, no I/O, and the same choices for the same seed.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::opening::{Course, Opening};
use super::reach::{self, Reach};
use super::{Address, AddressSet, Endpoint, Health, Published};
use crate::config::Balance;
use crate::counters::{EndpointCounters, Endpoints};

/// Up to so many endpoints of one priority, [`Balance::LeastConnections`] compares all of them; above,
/// two that are drawn: those are nearly as good, and cost the same for any number.
const COMPARED_MAX: usize = 16;

/// Draws that may hit an endpoint which cannot be used, before all of them are looked at: with half
/// of them out, that happens once in 256 times.
const DRAWS_MAX: u32 = 8;

/// How often the endpoint whose turn it is may be found ejected before all of them are looked at.
const SKIPS_MAX: u32 = 8;

/// The shares of an SRV weight of 1. An endpoint with weight 0 beside others has a single share: it
/// is to have "a very small chance" (RFC 2782).
const SHARES_PER_WEIGHT: u32 = 64;

/// What a turn costs an endpoint with one share: its turns are so much further apart.
const STRIDE: u64 = 1 << 32;

/// When the turns have come so far, they are counted from 0 again.
const TURNS_MAX: u64 = 1 << 62;

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address, if it has one.
    #[must_use]
    pub fn of(address: Address) -> Option<Self> {
        address
            .ip()
            .map(|ip| if ip.is_ipv4() { Self::V4 } else { Self::V6 })
    }

    /// The one to try beside or after this one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// What a session asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// The best.
    Any,
    /// One of this family, if one can be used; else the best.
    Rather(Family),
    /// A usable one of this family, or none.
    Only(Family),
}

/// Whether a connection that rests will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reuse {
    /// It counts as a place, and is preferred.
    Yes,
    /// Only a permit that no connection has is a place.
    No,
}

/// The time, and since when the session has waited. For one that comes now that is the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// The time of this turn.
    pub now: Instant,
    /// When the wait began.
    pub waiting_since: Instant,
}

impl From<Instant> for Moment {
    fn from(now: Instant) -> Self {
        Self {
            now,
            waiting_since: now,
        }
    }
}

/// What a search for an endpoint comes to.
#[must_use]
pub enum Choice {
    /// This one, for a new connection.
    Chosen(Lease),
    /// The endpoint at this address, to which a connection [rests](Lease::rest).
    Resting(Address),
    /// None now: those that would do have as many connections as they may, or have one that is too new for
    /// the next. It is worth asking again when one of them ends or shows life, and when the
    /// [pace](Balancer::pace_ends) allows another.
    Full,
    /// None: each was tried, or there is none.
    Exhausted,
}

/// One session's place at an endpoint: it counts there for as long as this lives.
pub struct Lease {
    member: Rc<Member>,
    /// Where it stands in the set of this version.
    index: usize,
    version: u64,
    was_ejected: bool,
    /// What its connection has come to.
    course: Cell<Course>,
}

/// An endpoint as one worker knows it; the same one for as long as it is in the set, or has sessions.
struct Member {
    health: Arc<Health>,
    /// Among them how many sessions there are, and connections that rest: who compares endpoints reads
    /// what is shown.
    counters: Arc<EndpointCounters>,
    /// Its connections, where they are paced.
    opening: RefCell<Opening>,
    reach: Cell<Reach>,
    /// Shared by all: how often one could be reached again.
    recoveries: Rc<Cell<u64>>,
}

impl Member {
    /// When the pace allows another connection. `None`: now.
    fn opens_at(&self, moment: Moment) -> Option<Instant> {
        let Moment { now, waiting_since } = moment;
        self.opening.borrow().opens_at(waiting_since, now)
    }

    /// What counts when endpoints are compared.
    fn load(&self) -> u64 {
        self.counters.in_flight.get() - self.counters.resting.get()
    }
}

impl Lease {
    fn new(member: &Rc<Member>, index: usize, version: u64, paced: bool, now: Instant) -> Self {
        member.counters.in_flight.raise();
        let course = match paced {
            true => member.opening.borrow_mut().opened(now),
            false => Course::Untracked,
        };
        Self {
            was_ejected: member.health.is_ejected(now),
            course: Cell::new(course),
            member: Rc::clone(member),
            index,
            version,
        }
    }

    /// That of the set that it was chosen from.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
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
    /// else it still counts there.
    pub fn rest(&self, now: Instant) {
        self.member.counters.resting.raise();
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

    /// Its connection is used again, or is closed.
    pub fn rouse(&self) {
        self.member.counters.resting.lower();
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
        self.member.opening.borrow_mut().ended(self.course.get());
    }
}

/// The endpoints that one session has tried. Costs nothing until the first one has failed.
#[derive(Debug, Default)]
pub struct Tried {
    version: u64,
    /// What was tried before an endpoint could be reached again says nothing any more either.
    recoveries: u64,
    bits: Vec<u64>,
    count: usize,
}

impl Tried {
    /// This one was tried. If there is a newer set since, that says nothing of it.
    pub fn insert(&mut self, lease: &Lease) {
        if lease.version < self.version {
            return;
        }
        self.follow(lease.version, lease.member.recoveries.get());
        let (word, bit) = (lease.index / 64, 1 << (lease.index % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.count += usize::from(self.bits[word] & bit == 0);
        self.bits[word] |= bit;
    }

    /// All of them may be tried again.
    pub fn clear(&mut self) {
        self.bits.clear();
        self.count = 0;
    }

    /// What was tried of another set says nothing of this one.
    fn follow(&mut self, version: u64, recoveries: u64) {
        if (self.version, self.recoveries) != (version, recoveries) {
            self.clear();
            self.version = version;
            self.recoveries = recoveries;
        }
    }

    fn has(&self, index: usize) -> bool {
        let word = self.bits.get(index / 64);
        word.is_some_and(|word| word & (1 << (index % 64)) != 0)
    }
}

/// One worker's choice among the endpoints of the current set.
pub struct Balancer {
    policy: Balance,
    /// The most leases of one endpoint at one time.
    per_endpoint_max: u32,
    /// Whether a new connection is opened only some time after the last one, or after that has shown life.
    is_paced: bool,
    /// How often an endpoint could be reached again.
    recoveries: Rc<Cell<u64>>,
    set: Arc<AddressSet>,
    /// In the order of the set.
    members: Vec<Rc<Member>>,
    /// In the order of the set: when its turn comes.
    turns: Vec<u64>,
    /// In the order of the set.
    shares: Vec<u32>,
    /// In the order of the set: the shares up to here, this one included, within its group.
    shares_up_to: Vec<u64>,
    /// Endpoints of one priority, the best first.
    groups: Vec<Range<usize>>,
    /// Whether both address families are there.
    is_mixed: bool,
    /// Where turns have come to. Who could not be chosen for a while has not saved turns up.
    turn: u64,
    random: Random,
    /// Every endpoint of the set, and those that left and have sessions.
    known: HashMap<Address, Rc<Member>>,
    /// Where others see their counters.
    counted: Arc<Endpoints>,
}

impl Balancer {
    /// Without endpoints until the first choice. Give each worker another seed, or all of them
    /// choose the same.
    #[must_use]
    pub fn new(policy: Balance, seed: u64) -> Self {
        Self {
            policy,
            per_endpoint_max: u32::MAX,
            is_paced: false,
            recoveries: Rc::default(),
            set: Arc::new(AddressSet::empty()),
            members: Vec::new(),
            turns: Vec::new(),
            shares: Vec::new(),
            shares_up_to: Vec::new(),
            groups: Vec::new(),
            is_mixed: false,
            turn: 0,
            random: Random(seed),
            known: HashMap::new(),
            counted: Arc::default(),
        }
    }

    /// Gives at most this many leases of one endpoint at one time, instead of any number.
    #[must_use]
    pub fn limited(mut self, per_endpoint_max: u32) -> Self {
        self.per_endpoint_max = per_endpoint_max;
        self
    }

    /// Opens one connection to an endpoint after the other, as `opening.rs` has it.
    #[must_use]
    pub fn paced(mut self) -> Self {
        self.is_paced = true;
        self
    }

    /// Shows there what it counts.
    #[must_use]
    pub fn counting(mut self, endpoints: Arc<Endpoints>) -> Self {
        self.counted = endpoints;
        self
    }

    /// The endpoint that a session tries next, if there is one that it has not tried. Endpoints of a
    /// better priority come first, and ejected ones when nothing else is left. To have no room is not
    /// to be out: nobody goes to a worse priority, or to an ejected one, because the others are full.
    pub fn choose(
        &mut self,
        published: &Published,
        tried: &mut Tried,
        want: Want,
        moment: impl Into<Moment>,
    ) -> Choice {
        self.choose_with(published, tried, want, Reuse::Yes, moment)
    }

    /// The same, of which it is said whether a connection that rests will do.
    pub fn choose_with(
        &mut self,
        published: &Published,
        tried: &mut Tried,
        want: Want,
        reuse: Reuse,
        moment: impl Into<Moment>,
    ) -> Choice {
        self.refresh(published);
        tried.follow(self.set.version(), self.recoveries.get());
        let moment = moment.into();
        match self.find(tried, want, reuse, moment) {
            Found::At(index) if reuse == Reuse::Yes && self.rests_at(index) => {
                Choice::Resting(self.members[index].health.address())
            }
            Found::At(index) => {
                let version = self.set.version();
                let (member, paced) = (&self.members[index], self.is_paced);
                Choice::Chosen(Lease::new(member, index, version, paced, moment.now))
            }
            Found::Full => Choice::Full,
            Found::Nothing => Choice::Exhausted,
        }
    }

    /// An endpoint at which a connection rests, that a session has not tried.
    #[must_use]
    pub fn resting(&self, tried: &Tried) -> Option<Address> {
        let is_new = |index: usize| tried.count == 0 || !tried.has(index);
        let mut members = 0..self.members.len();
        let found = members.find(|&index| is_new(index) && self.rests_at(index))?;
        Some(self.members[found].health.address())
    }

    fn rests_at(&self, index: usize) -> bool {
        self.members[index].counters.resting.get() > 0
    }

    /// Whether a session that has tried nothing would be given a lease now, of the set that was taken
    /// over last.
    #[must_use]
    pub fn has_room(&self, moment: impl Into<Moment>) -> bool {
        let moment = moment.into();
        let is_usable = |index: &usize| self.is_usable(*index, moment.now);
        let mut groups = self.groups.iter().cloned();
        match groups.find(|group| group.clone().any(|index| is_usable(&index))) {
            Some(group) => self.some_have_place(group.filter(is_usable), moment),
            None => self.some_have_place(0..self.members.len(), moment),
        }
    }

    /// Whether one of these would be chosen.
    fn some_have_place(&self, mut some: impl Iterator<Item = usize>, moment: Moment) -> bool {
        match self.policy {
            // Those behind the first one that has permits are its backups.
            Balance::First => some
                .find(|&index| self.has_place(index, moment) || self.waits_for_pace(index, moment))
                .is_some_and(|index| self.has_place(index, moment)),
            Balance::LeastConnections | Balance::RoundRobin | Balance::RandomTwo => {
                some.any(|index| self.has_place(index, moment))
            }
        }
    }

    /// When the pace alone allows another connection for a session, to the first of the endpoints that have
    /// permits for it. `None`: it holds none up.
    #[must_use]
    pub fn pace_ends(&self, moment: impl Into<Moment>) -> Option<Instant> {
        let moment = moment.into();
        let paced = self.members.iter().filter(|member| self.has_permit(member));
        paced.filter_map(|member| member.opens_at(moment)).min()
    }

    /// Permits that are free and wait for the pace. Whoever waits for one of them waits for nobody else.
    #[must_use]
    pub fn held_back(&self, now: Instant) -> u64 {
        let paced = |member: &&Rc<Member>| member.opens_at(now.into()).is_some();
        let members = self.members.iter().filter(paced);
        members.map(|member| self.permits(member)).sum()
    }

    /// Until when sessions wait for endpoints that refuse, if all of them do.
    #[must_use]
    pub fn refused_until(&self, patience: Duration) -> Option<Instant> {
        reach::refused_until(self.members.iter().map(|m| m.reach.get()), patience)
    }

    /// Whether the last connects to all endpoints came to nothing, and some were not even answered.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        reach::are_silent(self.members.iter().map(|m| m.reach.get()))
    }

    /// Whether endpoints have a limited number of places.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.per_endpoint_max != u32::MAX
    }

    /// How many endpoints the session has not tried.
    #[must_use]
    pub fn untried(&self, tried: &Tried) -> usize {
        let tried = if tried.version == self.set.version() {
            tried.count
        } else {
            0
        };
        self.members.len() - tried
    }

    /// Whether the current set has addresses of both families.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        self.is_mixed
    }

    /// Whether this address is one of the set that was taken over last.
    #[must_use]
    pub fn has(&self, address: Address) -> bool {
        self.members
            .iter()
            .any(|member| member.health.address() == address)
    }

    /// Whether there is nothing to choose from.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether the endpoint of this lease is in the current set. A kept connection's lease can be of any
    /// earlier one.
    pub fn is_current(&mut self, published: &Published, lease: &Lease) -> bool {
        self.refresh(published);
        lease.version == self.set.version()
            || self
                .members
                .iter()
                .any(|member| Rc::ptr_eq(member, &lease.member))
    }

    /// Takes the current set over, if it is another one.
    pub fn refresh(&mut self, published: &Published) {
        if published.version() != self.set.version() {
            self.adopt(published.load_full());
        }
    }

    fn adopt(&mut self, set: Arc<AddressSet>) {
        let endpoints = set.endpoints();
        self.members.clear();
        for health in set.health() {
            let recoveries = &self.recoveries;
            let new = || {
                Rc::new(Member {
                    health: Arc::clone(health),
                    counters: Arc::default(),
                    opening: RefCell::default(),
                    reach: Cell::default(),
                    recoveries: Rc::clone(recoveries),
                })
            };
            let member = self.known.entry(health.address()).or_insert_with(new);
            assert!(
                Arc::ptr_eq(&member.health, health),
                "a health that somebody holds is not forgotten"
            );
            self.members.push(Rc::clone(member));
        }
        self.known.retain(|_, member| Rc::strong_count(member) > 1);
        let counted = self.known.iter();
        self.counted
            .show(counted.map(|(address, member)| (*address, Arc::clone(&member.counters))));
        self.groups = groups(endpoints);
        self.shares = shares(endpoints);
        self.shares_up_to = running_sums(&self.shares, &self.groups);
        self.is_mixed = [Family::V4, Family::V6].iter().all(|family| {
            endpoints
                .iter()
                .any(|endpoint| Family::of(endpoint.address) == Some(*family))
        });
        self.draw_turns();
        self.set = set;
    }

    /// Everybody's first turn: in order, from a place that is drawn, or after each swap the first
    /// endpoint would be the first again.
    fn draw_turns(&mut self) {
        self.turn = 0;
        self.turns.clear();
        for group in &self.groups {
            let start = self.random.below(group.len() as u64);
            let place = |i: usize| (i as u64 + group.len() as u64 - start) % group.len() as u64;
            self.turns.extend((0..group.len()).map(place));
        }
    }

    fn find(&mut self, tried: &Tried, want: Want, reuse: Reuse, moment: Moment) -> Found {
        // Nothing has failed yet in by far the most sessions.
        let is_new = |index: usize| tried.count == 0 || !tried.has(index);
        for number in 0..self.groups.len() {
            let group = self.groups[number].clone();
            if let Want::Rather(family) | Want::Only(family) = want {
                let usable = |balancer: &Self, index: usize| {
                    is_new(index)
                        && balancer.family(index) == Some(family)
                        && balancer.is_usable(index, moment.now)
                };
                match self.find_with_place(group.clone(), reuse, moment, usable) {
                    Found::Nothing => {}
                    // The other family may have room.
                    Found::Full if matches!(want, Want::Rather(_)) => {}
                    found => return found,
                }
                if let Want::Only(_) = want {
                    continue;
                }
            }
            let usable = |balancer: &Self, index: usize| {
                is_new(index) && balancer.is_usable(index, moment.now)
            };
            match self.find_with_place(group, reuse, moment, usable) {
                Found::Nothing => {}
                found => return found,
            }
        }
        if let Want::Only(_) = want {
            return Found::Nothing;
        }
        // Ejected, all of them. One that may have recovered is better than none.
        let mut outcome = Found::Nothing;
        for number in 0..self.groups.len() {
            let group = self.groups[number].clone();
            match self.find_with_place(group, reuse, moment, |_, index| is_new(index)) {
                Found::Nothing => {}
                Found::Full => outcome = Found::Full,
                found @ Found::At(_) => return found,
            }
        }
        outcome
    }

    /// The best of one group among those that qualify and have a place left.
    fn find_with_place(
        &mut self,
        group: Range<usize>,
        reuse: Reuse,
        moment: Moment,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> Found {
        let with_place = |balancer: &Self, index: usize| {
            let has_place = match reuse {
                Reuse::Yes => balancer.has_place(index, moment),
                Reuse::No => balancer.has_free_permit(index, moment),
            };
            has_place && qualifies(balancer, index)
        };
        if let Some(index) = self.find_in(group.clone(), with_place) {
            if self.has_better_in_a_moment(index, group, moment, qualifies) {
                return Found::Full;
            }
            return Found::At(index);
        }
        // Without a limit, each has a place.
        let may_be_full = self.is_limited() || self.is_paced;
        if may_be_full && group.into_iter().any(|index| qualifies(self, index)) {
            Found::Full
        } else {
            Found::Nothing
        }
    }

    /// Whether the pace is all that keeps a session from one in front of this one, which is its backup.
    fn has_better_in_a_moment(
        &self,
        index: usize,
        group: Range<usize>,
        moment: Moment,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> bool {
        self.policy == Balance::First
            && (group.start..index)
                .any(|better| self.waits_for_pace(better, moment) && qualifies(self, better))
    }

    /// Whether it may have another connection, but not yet.
    fn waits_for_pace(&self, index: usize, moment: Moment) -> bool {
        let member = &self.members[index];
        self.has_permit(member) && member.opens_at(moment).is_some()
    }

    fn has_place(&self, index: usize, moment: Moment) -> bool {
        self.rests_at(index) || self.has_free_permit(index, moment)
    }

    /// Whether another connection may be opened to it now.
    fn has_free_permit(&self, index: usize, moment: Moment) -> bool {
        let member = &self.members[index];
        self.has_permit(member) && member.opens_at(moment).is_none()
    }

    /// Whether it may have another connection.
    fn has_permit(&self, member: &Member) -> bool {
        self.permits(member) > 0
    }

    fn permits(&self, member: &Member) -> u64 {
        let max = u64::from(self.per_endpoint_max);
        max.saturating_sub(member.counters.in_flight.get())
    }

    fn is_usable(&self, index: usize, now: Instant) -> bool {
        !self.members[index].health.is_ejected(now)
    }

    fn family(&self, index: usize) -> Option<Family> {
        Family::of(self.members[index].health.address())
    }

    // --- the policies -------------------------------------------------------------------------

    /// The best of one group, by the policy, among those that qualify.
    fn find_in(
        &mut self,
        group: Range<usize>,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> Option<usize> {
        match self.policy {
            Balance::First => group.into_iter().find(|&index| qualifies(self, index)),
            Balance::RoundRobin => self.next_in_turn(group, qualifies),
            Balance::LeastConnections if group.len() <= COMPARED_MAX => {
                self.least_loaded(group, qualifies)
            }
            Balance::LeastConnections | Balance::RandomTwo => self.better_of_two(group, qualifies),
        }
    }

    /// Each has its turn, the sooner the more shares it has: the turns of one are evenly spread
    /// between those of the others.
    fn next_in_turn(
        &mut self,
        group: Range<usize>,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> Option<usize> {
        for _ in 0..SKIPS_MAX {
            let index = group.clone().min_by_key(|&index| self.turns[index])?;
            self.turn = self.turn.max(self.turns[index]);
            self.take_turn(index);
            // Else it has had its turn. If it did not suit this session only, it misses little.
            if qualifies(self, index) {
                return Some(index);
            }
        }
        let index = group
            .filter(|&index| qualifies(self, index))
            .min_by_key(|&index| self.turns[index])?;
        Some(self.take_turn(index))
    }

    /// The fewest sessions for its shares; among equals, whose turn it is.
    fn least_loaded(
        &mut self,
        group: Range<usize>,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> Option<usize> {
        let mut best: Option<usize> = None;
        let mut earliest = u64::MAX;
        for index in group {
            if !qualifies(self, index) {
                continue;
            }
            let turn = self.turns[index].max(self.turn);
            earliest = earliest.min(turn);
            let is_better = best.is_none_or(|best| {
                let best_turn = self.turns[best].max(self.turn);
                self.by_load(index, best).then(turn.cmp(&best_turn)) == Ordering::Less
            });
            if is_better {
                best = Some(index);
            }
        }
        let best = best?;
        // Others may be due before it, so this is not its own turn.
        self.turn = earliest;
        Some(self.take_turn(best))
    }

    fn better_of_two(
        &mut self,
        group: Range<usize>,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> Option<usize> {
        let first = self.draw(group.clone(), &qualifies)?;
        let is_another =
            |balancer: &Self, index: usize| index != first && qualifies(balancer, index);
        let Some(second) = self.draw(group, is_another) else {
            return Some(first);
        };
        Some(match self.by_load(second, first) {
            Ordering::Less => second,
            Ordering::Equal | Ordering::Greater => first,
        })
    }

    /// One of those that qualify, by its shares.
    fn draw(
        &mut self,
        group: Range<usize>,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> Option<usize> {
        let sums = group.clone();
        let total = self.shares_up_to[sums.clone()].last().copied()?;
        for _ in 0..DRAWS_MAX {
            let share = self.random.below(total);
            let before = self.shares_up_to[sums.clone()].partition_point(|&up_to| up_to <= share);
            let index = group.start + before;
            if qualifies(self, index) {
                return Some(index);
            }
        }
        let total: u64 = group
            .clone()
            .filter(|&index| qualifies(self, index))
            .map(|index| u64::from(self.shares[index]))
            .sum();
        if total == 0 {
            return None;
        }
        let mut share = self.random.below(total);
        group.into_iter().find(|&index| {
            if !qualifies(self, index) {
                return false;
            }
            let own = u64::from(self.shares[index]);
            let is_it = share < own;
            share = share.saturating_sub(own);
            is_it
        })
    }

    fn by_load(&self, a: usize, b: usize) -> Ordering {
        let load = |index: usize, shares_of: usize| {
            self.members[index].load() * u64::from(self.shares[shares_of])
        };
        // a's sessions / a's shares compared with b's, without dividing.
        load(a, b).cmp(&load(b, a))
    }

    /// The next one of this endpoint comes after a distance that its shares determine.
    fn take_turn(&mut self, index: usize) -> usize {
        let turn = self.turns[index].max(self.turn);
        self.turns[index] = turn + STRIDE / u64::from(self.shares[index]);
        if self.turn > TURNS_MAX {
            for turn in &mut self.turns {
                *turn = turn.saturating_sub(self.turn);
            }
            self.turn = 0;
        }
        index
    }
}

/// Where a search has led.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    At(usize),
    /// Some would do and have no place.
    Full,
    Nothing,
}

/// Where one priority ends and the next begins. The endpoints are sorted by it.
fn groups(endpoints: &[Endpoint]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for chunk in endpoints.chunk_by(|a, b| a.priority == b.priority) {
        let start = groups.last().map_or(0, |group| group.end);
        groups.push(start..start + chunk.len());
    }
    groups
}

/// The parts of a group's sessions that each endpoint is to have; at least one.
fn shares(endpoints: &[Endpoint]) -> Vec<u32> {
    let share = |endpoint: &Endpoint| (u32::from(endpoint.weight) * SHARES_PER_WEIGHT).max(1);
    endpoints.iter().map(share).collect()
}

fn running_sums(shares: &[u32], groups: &[Range<usize>]) -> Vec<u64> {
    let mut sums = Vec::with_capacity(shares.len());
    for group in groups {
        let mut sum = 0;
        sums.extend(shares[group.clone()].iter().map(|&share| {
            sum += u64::from(share);
            sum
        }));
    }
    sums
}

/// `splitmix64`, by Sebastiano Vigna: what is drawn here has to be spread, not secret.
struct Random(u64);

impl Random {
    /// A number below `bound`, which is not 0. Slightly more often a small one, by less than anybody
    /// could count: bounds are far below 2^64.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};
    use std::net::SocketAddr;
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;

    const POLICIES: [Balance; 4] = [
        Balance::LeastConnections,
        Balance::RoundRobin,
        Balance::RandomTwo,
        Balance::First,
    ];

    fn address(number: usize) -> Address {
        let port = 1 + u16::try_from(number).unwrap();
        SocketAddr::from(([192, 0, 2, 1], port)).into()
    }

    fn address_v6(number: usize) -> Address {
        let port = 1 + u16::try_from(number).unwrap();
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], port)).into()
    }

    /// Endpoint number `i` has the `i`th priority and weight.
    fn published(ranks: &[(u16, u16)]) -> Published {
        let published = Published::new(|| {});
        publish(&published, ranks);
        published
    }

    fn publish(published: &Published, ranks: &[(u16, u16)]) {
        let endpoint = |(number, &(priority, weight))| Endpoint {
            address: address(number),
            priority,
            weight,
        };
        let endpoints: Vec<_> = ranks.iter().enumerate().map(endpoint).collect();
        published.publish(endpoints, SystemTime::UNIX_EPOCH);
    }

    fn equals(count: usize) -> Published {
        published(&vec![(0, 1); count])
    }

    fn eject(published: &Published, number: usize, now: Instant) {
        let set = published.load_full();
        let health = set.health().iter().find(|h| h.address() == address(number));
        let health = health.unwrap();
        for _ in 0..5 {
            published.failed(health, now);
        }
        assert!(health.is_ejected(now));
    }

    fn chosen(choice: Choice) -> Option<Lease> {
        match choice {
            Choice::Chosen(lease) => Some(lease),
            Choice::Resting(_) | Choice::Full | Choice::Exhausted => None,
        }
    }

    fn choose(balancer: &mut Balancer, published: &Published, now: Instant) -> Option<Lease> {
        chosen(balancer.choose(published, &mut Tried::default(), Want::Any, now))
    }

    fn number(lease: &Lease) -> usize {
        let Address::Tcp(address) = lease.address() else {
            panic!()
        };
        usize::from(address.port()) - 1
    }

    /// How often each endpoint gets one of so many sessions, each of which ends before the next.
    fn counts(balancer: &mut Balancer, published: &Published, sessions: usize) -> Vec<usize> {
        let mut counts = vec![0; published.load().endpoints().len()];
        let now = Instant::now();
        for _ in 0..sessions {
            counts[number(&choose(balancer, published, now).unwrap())] += 1;
        }
        counts
    }

    /// The order in which one session tries everything.
    fn order(balancer: &mut Balancer, published: &Published, now: Instant) -> Vec<usize> {
        let mut tried = Tried::default();
        std::iter::from_fn(|| {
            let lease = chosen(balancer.choose(published, &mut tried, Want::Any, now))?;
            tried.insert(&lease);
            Some(number(&lease))
        })
        .collect()
    }

    #[test]
    fn nothing_is_chosen_from_nothing() {
        let published = Published::new(|| {});
        for policy in POLICIES {
            let mut balancer = Balancer::new(policy, 1);
            assert!(choose(&mut balancer, &published, Instant::now()).is_none());
            assert!(balancer.is_empty());
        }
    }

    /// Who wants a new connection gets a permit that none has, whatever rests; where all are taken, it is told
    /// which endpoint has one that could make way.
    #[test]
    fn who_wants_a_new_connection_is_not_given_one_that_rests() {
        let (published, now) = (equals(1), Instant::now());
        let mut balancer = Balancer::new(Balance::LeastConnections, 1).limited(2);
        let resting = choose(&mut balancer, &published, now).unwrap();
        resting.rest(now);
        assert_eq!(balancer.resting(&Tried::default()), Some(address(0)));
        let mut wanted =
            |reuse| balancer.choose_with(&published, &mut Tried::default(), Want::Any, reuse, now);
        assert!(matches!(wanted(Reuse::Yes), Choice::Resting(_)));
        let second = chosen(wanted(Reuse::No)).unwrap();
        assert!(matches!(wanted(Reuse::No), Choice::Full));
        assert!(matches!(wanted(Reuse::Yes), Choice::Resting(_)));
        resting.rouse();
        drop(second);
        assert_eq!(balancer.resting(&Tried::default()), None);
    }

    #[test]
    fn turns_are_exact() {
        let published = equals(3);
        for policy in [Balance::RoundRobin, Balance::LeastConnections] {
            let mut balancer = Balancer::new(policy, 7);
            assert_eq!(
                counts(&mut balancer, &published, 300),
                [100; 3],
                "{policy:?}"
            );
        }
    }

    #[test]
    fn weighted_turns_are_exact_and_spread() {
        let published = published(&[(0, 3), (0, 1)]);
        for policy in [Balance::RoundRobin, Balance::LeastConnections] {
            let mut balancer = Balancer::new(policy, 3);
            counts(&mut balancer, &published, 10);
            for _ in 0..20 {
                assert_eq!(counts(&mut balancer, &published, 4), [3, 1], "{policy:?}");
            }
        }
    }

    #[test]
    fn a_weight_of_0_is_a_small_chance() {
        let published = published(&[(0, 0), (0, 10)]);
        for policy in [Balance::RoundRobin, Balance::RandomTwo] {
            let mut balancer = Balancer::new(policy, 3);
            let counts = counts(&mut balancer, &published, 100_000);
            assert!((1..1000).contains(&counts[0]), "{policy:?}: {counts:?}");
        }
        let alone = self::published(&[(0, 0), (0, 0)]);
        let mut balancer = Balancer::new(Balance::RoundRobin, 3);
        assert_eq!(counts(&mut balancer, &alone, 100), [50, 50]);
    }

    #[test]
    fn the_first_is_the_first_until_it_is_ejected() {
        let (published, now) = (equals(3), Instant::now());
        let mut balancer = Balancer::new(Balance::First, 7);
        assert_eq!(counts(&mut balancer, &published, 50), [50, 0, 0]);
        assert_eq!(order(&mut balancer, &published, now), [0, 1, 2]);
        eject(&published, 0, now);
        assert_eq!(order(&mut balancer, &published, now), [1, 2, 0]);
        let back = now + Duration::from_secs(31);
        assert_eq!(order(&mut balancer, &published, back), [0, 1, 2]);
    }

    #[test]
    fn an_imbalance_of_sessions_is_corrected() {
        let (published, now) = (equals(4), Instant::now());
        let mut balancer = Balancer::new(Balance::LeastConnections, 7);
        // Two thirds of the sessions end, all but those of one endpoint.
        let mut leases: Vec<_> = (0..40)
            .map(|_| choose(&mut balancer, &published, now).unwrap())
            .collect();
        leases.retain(|lease| number(lease) == 2);
        assert_eq!(leases.len(), 10);
        leases.extend((0..30).map(|_| choose(&mut balancer, &published, now).unwrap()));
        for endpoint in 0..4 {
            let count = leases
                .iter()
                .filter(|lease| number(lease) == endpoint)
                .count();
            assert_eq!(count, 10);
        }
    }

    #[test]
    fn sessions_that_stay_follow_the_weights() {
        let (published, now) = (published(&[(0, 5), (0, 3), (0, 2)]), Instant::now());
        let mut balancer = Balancer::new(Balance::LeastConnections, 7);
        let leases: Vec<_> = (0..100)
            .map(|_| choose(&mut balancer, &published, now).unwrap())
            .collect();
        let count = |endpoint| leases.iter().filter(|l| number(l) == endpoint).count();
        assert_eq!([count(0), count(1), count(2)], [50, 30, 20]);
    }

    #[test]
    fn with_many_endpoints_two_that_are_drawn_are_compared() {
        let (published, now) = (equals(100), Instant::now());
        for policy in [Balance::LeastConnections, Balance::RandomTwo] {
            let mut balancer = Balancer::new(policy, 7);
            let leases: Vec<_> = (0..10_000)
                .map(|_| choose(&mut balancer, &published, now).unwrap())
                .collect();
            let mut counts = [0u32; 100];
            leases.iter().for_each(|lease| counts[number(lease)] += 1);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            // One choice of each would leave some with 70 and some with 130.
            assert!(
                *least >= 90 && *most <= 110,
                "{policy:?}: {least} to {most}"
            );
        }
    }

    #[test]
    fn one_that_was_out_gets_no_more_than_its_part_afterwards() {
        for policy in [Balance::RoundRobin, Balance::LeastConnections] {
            let (published, now) = (equals(4), Instant::now());
            let mut balancer = Balancer::new(policy, 7);
            eject(&published, 1, now);
            for _ in 0..1000 {
                assert_ne!(number(&choose(&mut balancer, &published, now).unwrap()), 1);
            }
            let back = now + Duration::from_secs(31);
            let first: Vec<_> = (0..40)
                .map(|_| number(&choose(&mut balancer, &published, back).unwrap()))
                .collect();
            let its = first.iter().filter(|&&number| number == 1).count();
            assert!((8..=12).contains(&its), "{policy:?}: {first:?}");
        }
    }

    #[test]
    fn better_priorities_come_first_and_the_next_when_they_are_out() {
        let (published, now) = (
            published(&[(10, 1), (10, 1), (20, 1), (30, 1)]),
            Instant::now(),
        );
        for policy in POLICIES {
            let mut balancer = Balancer::new(policy, 7);
            let tried = order(&mut balancer, &published, now);
            assert_eq!(tried[2..], [2, 3], "{policy:?}");
            assert!(tried.contains(&0) && tried.contains(&1));
        }
        eject(&published, 0, now);
        eject(&published, 1, now);
        for policy in POLICIES {
            let mut balancer = Balancer::new(policy, 7);
            assert_eq!(
                order(&mut balancer, &published, now)[..2],
                [2, 3],
                "{policy:?}"
            );
        }
    }

    #[test]
    fn the_last_resort_is_marked_as_such() {
        let (published, now) = (equals(2), Instant::now());
        eject(&published, 0, now);
        let mut balancer = Balancer::new(Balance::First, 7);
        let mut tried = Tried::default();
        let first = chosen(balancer.choose(&published, &mut tried, Want::Any, now)).unwrap();
        assert!(number(&first) == 1 && !first.was_ejected());
        tried.insert(&first);
        let last = chosen(balancer.choose(&published, &mut tried, Want::Any, now)).unwrap();
        assert!(number(&last) == 0 && last.was_ejected());
    }

    #[test]
    fn a_family_can_be_asked_for() {
        let published = Published::new(|| {});
        let all = [address(0), address(1), address_v6(2), address_v6(3)];
        published.publish(all, SystemTime::UNIX_EPOCH);
        let now = Instant::now();
        for policy in POLICIES {
            let mut balancer = Balancer::new(policy, 7);
            let mut tried = Tried::default();
            let mut get = |want, tried: &mut Tried| {
                let lease = chosen(balancer.choose(&published, tried, want, now));
                lease.inspect(|lease| tried.insert(lease))
            };
            for _ in 0..2 {
                let lease = get(Want::Only(Family::V6), &mut tried).unwrap();
                assert_eq!(Family::of(lease.address()), Some(Family::V6));
            }
            assert!(get(Want::Only(Family::V6), &mut tried).is_none());
            for _ in 0..2 {
                assert!(get(Want::Rather(Family::V6), &mut tried).is_some());
            }
            assert!(get(Want::Any, &mut tried).is_none());
            assert!(balancer.is_mixed());
        }
    }

    #[test]
    fn after_a_swap_only_the_new_ones_are_chosen_and_who_stayed_keeps_its_sessions() {
        let (published, now) = (equals(2), Instant::now());
        let mut balancer = Balancer::new(Balance::LeastConnections, 7);
        let leases: Vec<_> = (0..10)
            .map(|_| choose(&mut balancer, &published, now).unwrap())
            .collect();
        published.publish([address(1), address(2)], SystemTime::UNIX_EPOCH);
        let next: Vec<_> = (0..5)
            .map(|_| choose(&mut balancer, &published, now).unwrap())
            .collect();
        assert!(
            next.iter().all(|lease| number(lease) == 2),
            "1 has 5 already"
        );
        drop(leases);
        // The one that left is forgotten with its last session.
        published.publish([address(3)], SystemTime::UNIX_EPOCH);
        balancer.refresh(&published);
        assert_eq!(balancer.known.len(), 2);
        drop(next);
        published.publish([address(4)], SystemTime::UNIX_EPOCH);
        balancer.refresh(&published);
        assert_eq!(balancer.known.len(), 1);
    }

    #[test]
    fn a_lease_of_an_earlier_set_is_current_while_its_endpoint_is_there() {
        let (published, now) = (equals(1), Instant::now());
        let mut balancer = Balancer::new(Balance::First, 7);
        let lease = choose(&mut balancer, &published, now).unwrap();
        assert!(balancer.is_current(&published, &lease));
        publish(&published, &[(0, 1), (0, 1)]);
        assert!(balancer.is_current(&published, &lease));
        publish(&published, &[]);
        assert!(!balancer.is_current(&published, &lease));
        // It comes back as the same one, because there is a session.
        publish(&published, &[(0, 1)]);
        assert!(balancer.is_current(&published, &lease));
    }

    #[test]
    fn what_was_tried_of_another_set_may_be_tried_again() {
        let (published, now) = (equals(2), Instant::now());
        let mut balancer = Balancer::new(Balance::First, 7);
        let mut tried = Tried::default();
        let lease = chosen(balancer.choose(&published, &mut tried, Want::Any, now)).unwrap();
        tried.insert(&lease);
        assert_eq!(balancer.untried(&tried), 1);
        publish(&published, &[(0, 1), (0, 1), (0, 1)]);
        let again = chosen(balancer.choose(&published, &mut tried, Want::Any, now)).unwrap();
        assert_eq!(number(&again), 0);
        assert_eq!(balancer.untried(&tried), 3);
        // The lease of the set before says nothing of this one.
        tried.insert(&again);
        assert_eq!(balancer.untried(&tried), 2);
    }

    /// What is chosen for a session that has waited since then.
    fn choose_after(
        balancer: &mut Balancer,
        published: &Published,
        waiting_since: Instant,
        now: Instant,
    ) -> Choice {
        let moment = Moment { now, waiting_since };
        balancer.choose(published, &mut Tried::default(), Want::Any, moment)
    }

    #[test]
    fn paced_connections_are_opened_one_after_the_other_at_each_endpoint() {
        use super::super::PACE;

        let (published, now) = (equals(2), Instant::now());
        for policy in POLICIES {
            let mut balancer = Balancer::new(policy, 7).limited(2).paced();
            let mut leases = vec![choose(&mut balancer, &published, now).unwrap()];
            leases.extend(choose(&mut balancer, &published, now));
            // Nobody goes to a backup because the first one is a moment late.
            let endpoints = if policy == Balance::First { 1 } else { 2 };
            assert_eq!(leases.len(), endpoints, "{policy:?}");
            assert!(matches!(
                choose_after(&mut balancer, &published, now, now),
                Choice::Full
            ));
            assert!(!balancer.has_room(now), "{policy:?}");
            assert_eq!(balancer.held_back(now), leases.len() as u64);
            assert_eq!(balancer.pace_ends(now), Some(now + PACE));
            assert!(balancer.has_room(now + PACE));
            assert!(leases[0].answered(now) && !leases[0].answered(now));
            assert!(balancer.has_room(now), "{policy:?}");
        }
    }

    #[test]
    fn what_rests_is_taken_whatever_the_pace_is() {
        let (published, now) = (equals(1), Instant::now());
        let mut balancer = Balancer::new(Balance::First, 7).limited(3).paced();
        let first = choose(&mut balancer, &published, now).unwrap();
        first.answered(now);
        let _second = choose(&mut balancer, &published, now).unwrap();
        assert!(!balancer.has_room(now));
        first.rest(now);
        assert!(matches!(
            choose_after(&mut balancer, &published, now, now),
            Choice::Resting(_)
        ));
        first.rouse();
        drop(first);
        assert!(!balancer.has_room(now));
        assert_eq!(balancer.held_back(now), 2);
    }

    #[test]
    fn what_failed_may_be_tried_again_once_an_endpoint_is_back() {
        let (published, now) = (equals(2), Instant::now());
        let mut balancer = Balancer::new(Balance::First, 7);
        let mut tried = Tried::default();
        let mut get = |balancer: &mut Balancer| {
            let lease = chosen(balancer.choose(&published, &mut tried, Want::Any, now));
            lease.inspect(|lease| {
                lease.refused(now);
                tried.insert(lease);
            })
        };
        let first = get(&mut balancer).unwrap();
        assert!(get(&mut balancer).is_some());
        assert!(get(&mut balancer).is_none());
        let patience = Duration::from_secs(1);
        assert_eq!(balancer.refused_until(patience), Some(now + patience));
        assert!(first.reached() && !first.reached());
        assert_eq!(balancer.refused_until(patience), None);
        assert!(get(&mut balancer).is_some());
        assert!(!balancer.is_silent());
        first.not_answered();
        assert!(balancer.is_silent());
    }

    fn ranks() -> impl Strategy<Value = Vec<(u16, u16)>> {
        prop::collection::vec((0..3u16, 0..20u16), 1..40)
    }

    fn policy() -> impl Strategy<Value = Balance> {
        prop::sample::select(POLICIES.to_vec())
    }

    proptest! {
        #[test]
        fn a_session_tries_each_endpoint_once_usable_ones_first_and_by_priority(
            ranks in ranks(),
            policy in policy(),
            out in prop::collection::vec(any::<bool>(), 40),
            seed in any::<u64>(),
        ) {
            let (published, now) = (published(&ranks), Instant::now());
            // One is always left.
            let is_out = |number: usize| number > 0 && out[number];
            for number in (0..ranks.len()).filter(|&number| is_out(number)) {
                eject(&published, number, now);
            }
            let mut balancer = Balancer::new(policy, seed);
            for _ in 0..3 {
                let order = order(&mut balancer, &published, now);
                prop_assert_eq!(order.iter().collect::<HashSet<_>>().len(), ranks.len());
                let rank = |&number: &usize| (is_out(number), ranks[number].0);
                prop_assert!(order.iter().is_sorted_by_key(rank), "{:?}", order);
            }
        }

        #[test]
        fn what_is_counted_is_given_back(
            steps in prop::collection::vec((any::<bool>(), 0..8usize), 1..200),
            policy in policy(),
        ) {
            let (published, now) = (equals(6), Instant::now());
            let mut balancer = Balancer::new(policy, 1);
            let mut open = Vec::new();
            for (opens, which) in steps {
                match opens {
                    true => open.extend(choose(&mut balancer, &published, now)),
                    false if which == 7 => {
                        let first = usize::from(open.len() % 2 == 0);
                        let some: Vec<_> = (first..first + 5).map(address).collect();
                        published.publish(some, SystemTime::UNIX_EPOCH);
                    }
                    false if open.is_empty() => {}
                    false => drop(open.swap_remove(which % open.len())),
                }
            }
            drop(open);
            balancer.refresh(&published);
            prop_assert!(balancer.members.iter().all(|member| member.counters.in_flight.get() == 0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn equal_endpoints_get_equal_parts_within_5_percent(
            count in 1..40usize,
            policy in policy(),
            seed in any::<u64>(),
        ) {
            prop_assume!(policy != Balance::First);
            let published = equals(count);
            let mut balancer = Balancer::new(policy, seed);
            // Sessions overlap, or random-two has nothing to compare.
            let mut open = VecDeque::new();
            let mut counts = vec![0usize; count];
            let now = Instant::now();
            for _ in 0..count * 1000 {
                let lease = choose(&mut balancer, &published, now).unwrap();
                counts[number(&lease)] += 1;
                open.push_back(lease);
                if open.len() > 50 * count {
                    open.pop_front();
                }
            }
            for &got in &counts {
                prop_assert!((950..=1050).contains(&got), "{:?}", counts);
            }
        }

        #[test]
        fn weights_are_what_endpoints_get_within_5_percent(
            weights in prop::collection::vec(1..20u16, 1..10),
            policy in policy(),
            seed in any::<u64>(),
        ) {
            prop_assume!(policy != Balance::First);
            let ranks: Vec<_> = weights.iter().map(|&weight| (0, weight)).collect();
            let published = published(&ranks);
            let mut balancer = Balancer::new(policy, seed);
            let total: usize = weights.iter().map(|&w| usize::from(w)).sum();
            let counts = counts(&mut balancer, &published, total * 100);
            for (&weight, &got) in weights.iter().zip(&counts) {
                let part = usize::from(weight) * 100;
                // What is drawn varies by its square root, five times of which is rare enough.
                let drawn = if policy == Balance::RandomTwo { 5 * part.isqrt() } else { 0 };
                let most = (part / 20).max(drawn);
                prop_assert!(got.abs_diff(part) <= most, "{:?} for {:?}", counts, weights);
            }
        }
    }
}
