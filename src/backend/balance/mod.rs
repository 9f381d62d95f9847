//! Which endpoint a session tries, and which one after that.
//!
//! Each worker has a [`Balancer`] of its own, made anew from every set. What it counts, no other
//! worker writes: a session's place among the endpoints costs no shared cache line. So "least
//! connections" means those of this worker; workers that take clients evenly come to the same.
//!
//! Here is who may be chosen at all; among those, `policy` chooses. A [`Lease`] is what was chosen, and
//! [`Tried`] what was, by one session.
//!
//! Pure: no clock, no I/O, and the same choices for the same seed.

mod adopt;
mod asking;
mod classes;
mod lease;
mod permits;
mod policy;
mod shared;
mod tried;

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reach;
use super::{Address, AddressSet, Published};
use crate::config::{Balance, EndpointMax};
use crate::counters::Endpoints;
use lease::{Member, Rank};
use policy::{InTurn, Random};

pub use asking::{Moment, Reuse, Want};
pub use classes::{CLASSES_MAX, ClassId, ClassShare};
pub use lease::Lease;
pub use permits::{Footing, Verdict};
pub use shared::{PermitCounts, SharedPermits};
pub use tried::Tried;

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

/// One worker's choice among the endpoints of the current set.
pub struct Balancer {
    policy: Balance,
    /// The most leases of one endpoint at one time.
    per_endpoint_max: Option<EndpointMax>,
    /// What each class may have of them. Empty: there are no classes.
    shares_of_classes: Vec<ClassShare>,
    /// While the route changes hands: what all who have some of it may have together.
    shared: Option<Arc<SharedPermits>>,
    /// Whether a new connection is opened only some time after the last one, or after that has shown life.
    is_paced: bool,
    /// How often an endpoint could be reached again.
    recoveries: Rc<Cell<u64>>,
    set: Arc<AddressSet>,
    /// Those that may get something new, in the order of the set.
    members: Vec<Rc<Member>>,
    /// In the order of the members: when its turn comes.
    turns: Vec<u64>,
    /// In the order of the groups, of those with more members than one looks at: the members by their turns, each
    /// once. Empty until it is asked for, and when turns were taken out of order.
    in_turn: Vec<InTurn>,
    /// In the order of the members.
    shares: Vec<u32>,
    /// In the order of the members: the shares up to here, this one included, within its group.
    shares_up_to: Vec<u64>,
    /// Members of one priority, the best first.
    groups: Vec<Range<usize>>,
    /// The others of the set, which get nothing new.
    drained: Vec<Rc<Member>>,
    /// Whether both address families are there.
    is_mixed: bool,
    /// Where turns have come to. Who could not be chosen for a while has not saved turns up.
    turn: u64,
    random: Random,
    /// Every endpoint of the set, and those that left and have sessions.
    known: HashMap<Address, Rc<Member>>,
    /// Where others see their counters.
    counted: Arc<Endpoints>,
    /// What whoever has it knows it by.
    belongs_to: u32,
}

impl Balancer {
    /// Without endpoints until the first choice. Give each worker another seed, or all of them
    /// choose the same.
    #[must_use]
    pub fn new(policy: Balance, seed: u64) -> Self {
        Self {
            policy,
            per_endpoint_max: None,
            shares_of_classes: Vec::new(),
            shared: None,
            is_paced: false,
            recoveries: Rc::default(),
            set: Arc::new(AddressSet::empty()),
            members: Vec::new(),
            turns: Vec::new(),
            in_turn: Vec::new(),
            shares: Vec::new(),
            shares_up_to: Vec::new(),
            groups: Vec::new(),
            drained: Vec::new(),
            is_mixed: false,
            turn: 0,
            random: Random(seed),
            known: HashMap::new(),
            counted: Arc::default(),
            belongs_to: 0,
        }
    }

    /// From now on, its leases are [of](Lease::of) this one, of several balancers. Before any is given.
    pub fn belongs_to(&mut self, which: u32) {
        assert!(self.known.is_empty(), "nothing was given yet");
        self.belongs_to = which;
    }

    /// Gives at most this many leases of one endpoint at one time, instead of any number.
    #[cfg(test)]
    #[must_use]
    pub fn limited(mut self, per_endpoint_max: u32) -> Self {
        let max = std::num::NonZeroU32::new(per_endpoint_max);
        self.per_endpoint_max = max.map(EndpointMax::Fixed);
        self
    }

    /// Opens one connection to an endpoint after the other, as `opening.rs` has it.
    #[must_use]
    pub fn paced(mut self) -> Self {
        self.is_paced = true;
        self
    }

    /// Goes by another policy and another limit. What was given stays given: a lower limit is come to as leases
    /// end.
    pub fn amend(
        &mut self,
        policy: Balance,
        per_endpoint_max: Option<EndpointMax>,
        is_paced: bool,
    ) {
        self.policy = policy;
        self.per_endpoint_max = per_endpoint_max;
        self.is_paced = is_paced;
        for (member, number) in self.known.values().zip(0..) {
            member.limit(per_endpoint_max, self.random.0.wrapping_add(number));
        }
    }

    /// What is known of the server at an endpoint, where the limit is found out. True: it cannot be any more there.
    pub fn stand_on(&self, address: Address, footing: Footing) -> bool {
        let member = self.known.get(&address);
        member.is_some_and(|member| member.stand_on(footing))
    }

    /// Compares what is found out with what there is.
    #[cfg(any(test, fuzzing))]
    pub fn audit(&self) {
        self.known.values().for_each(|member| member.audit());
    }

    /// Has no more than is left of these, which others have as well. `has_served`: it is one of those that had some
    /// before.
    pub fn share(&mut self, permits: &Arc<SharedPermits>, has_served: bool) {
        for member in self.known.values() {
            member.shared.replace(Some(Arc::clone(permits)));
        }
        if has_served {
            let leases = self.known.iter().map(|(address, member)| {
                let count = member.counters.in_flight.get();
                (*address, u32::try_from(count).unwrap_or(u32::MAX))
            });
            permits.join(leases);
        }
        self.shared = Some(Arc::clone(permits));
    }

    /// Nobody else has any of its permits any more.
    pub fn unshare(&mut self) {
        self.shared = None;
        self.known.values().for_each(|member| {
            member.shared.take();
        });
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
            Found::At(index) if reuse == Reuse::Yes && self.rests_for(index, moment) => {
                Choice::Resting(self.members[index].health.address())
            }
            Found::At(index) => {
                let version = self.set.version();
                let (member, paced) = (&self.members[index], self.is_paced);
                // The permit that is about to be taken is the room that there is.
                let is_its = self.room(member, moment) > 0;
                let class = is_its.then_some(moment.class);
                // Another worker may have taken the last one since.
                if !member.take_permit(self.is_limited()) {
                    return Choice::Full;
                }
                Choice::Chosen(Lease::new(
                    member,
                    (index, version),
                    paced,
                    (moment.now, class),
                ))
            }
            Found::Full => Choice::Full,
            Found::Nothing => Choice::Exhausted,
        }
    }

    /// An endpoint at which a connection rests, that a session has not tried, and whose place it may have.
    #[must_use]
    pub fn resting(&self, tried: &Tried, moment: impl Into<Moment>) -> Option<Address> {
        let is_new = |index: usize| tried.count == 0 || !tried.has(index);
        let moment = moment.into();
        let mut members = 0..self.members.len();
        let found = members.find(|&index| is_new(index) && self.rests_for(index, moment))?;
        Some(self.members[found].health.address())
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
        let has_permit = |member: &&Rc<Member>| self.permits(member, true, moment) > 0;
        let paced = self.members.iter().filter(has_permit);
        paced
            .filter_map(|member| self.opens_at(member, moment))
            .min()
    }

    /// Permits that are free for a class and wait for the pace. Whoever waits for one of them waits for nobody else.
    #[must_use]
    pub fn held_back(&self, moment: impl Into<Moment>) -> u64 {
        let moment = moment.into();
        let came = Moment::new(moment.class, moment.now);
        let paced = |member: &&Rc<Member>| self.opens_at(member, came).is_some();
        let members = self.members.iter().filter(paced);
        members
            .map(|member| self.permits(member, true, moment))
            .sum()
    }

    /// Connections to the endpoints, those included that are to be opened.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let members = self.members.iter();
        members.map(|member| member.counters.in_flight.get()).sum()
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
        self.per_endpoint_max.is_some()
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

    /// Whether this address is one of the set that was taken over last, and may get something new.
    #[must_use]
    pub fn has(&self, address: Address) -> bool {
        let member = self.known.get(&address);
        member.is_some_and(|member| member.rank.get() == Rank::InUse)
    }

    /// Whether this address is one of the set that was taken over last, and gets nothing new.
    #[must_use]
    pub fn is_drained(&self, address: Address) -> bool {
        let member = self.known.get(&address);
        member.is_some_and(|member| member.rank.get() == Rank::Drained)
    }

    /// Whether there is nothing to choose from.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether that is so because an operator wants it so.
    #[must_use]
    pub fn are_all_drained(&self) -> bool {
        self.members.is_empty() && !self.drained.is_empty()
    }

    /// Whether the endpoint of this lease is in the current set. A kept connection's lease can be of any
    /// earlier one.
    pub fn is_current(&mut self, published: &Published, lease: &Lease) -> bool {
        self.refresh(published);
        lease.member.rank.get() != Rank::Gone
    }

    /// Takes the current set over, if it is another one.
    pub fn refresh(&mut self, published: &Published) {
        if published.version() != self.set.version() {
            self.adopt(published.load_full());
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
                // It has a request at once, so nothing is found out with it.
                Reuse::No => balancer.has_free_permit(index, false, moment),
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
        self.permits(member, true, moment) > 0 && self.opens_at(member, moment).is_some()
    }

    /// When the pace, where there is one, allows another connection. `None`: now.
    fn opens_at(&self, member: &Member, moment: Moment) -> Option<Instant> {
        self.is_paced.then(|| member.opens_at(moment)).flatten()
    }

    fn has_place(&self, index: usize, moment: Moment) -> bool {
        self.rests_for(index, moment) || self.has_free_permit(index, true, moment)
    }

    /// Whether another connection may be opened to it now. `grows`: one of which it can be tried whether there is a
    /// worker for it.
    fn has_free_permit(&self, index: usize, grows: bool, moment: Moment) -> bool {
        let member = &self.members[index];
        self.permits(member, grows, moment) > 0 && self.opens_at(member, moment).is_none()
    }

    /// How many more connections it may have, for requests of this class.
    fn permits(&self, member: &Member, grows: bool, moment: Moment) -> u64 {
        let max = u64::from(member.most(grows, moment.now));
        let own = max.saturating_sub(member.counters.in_flight.get());
        let room = self.room(member, moment);
        let own = match room {
            0 if grows && self.tries_for(member, moment) => own.min(1),
            room => own.min(room),
        };
        match &self.shared {
            // Who was never limited does not know how to wait.
            Some(shared) if self.is_limited() => {
                own.min(shared.free(member.health.address()).into())
            }
            Some(_) | None => own,
        }
    }

    fn is_usable(&self, index: usize, now: Instant) -> bool {
        !self.members[index].health.is_ejected(now)
    }

    fn family(&self, index: usize) -> Option<Family> {
        Family::of(self.members[index].health.address())
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

#[cfg(test)]
mod tests;
