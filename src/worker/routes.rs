//! What a worker has of each route that it serves.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use crate::access_log::RequestLogs;
use crate::backend::{Balancer, Moment, Published, PublishedNumber, SharedPermits};
use crate::config::{AutoRange, Balance, EndpointMax, RouteName};
use crate::counters::{RouteCounters, ShareCounters};
use crate::driver::Driver;
use crate::fastcgi::HeadRoom;
use crate::observe::Failures;
use crate::session::{Entry as SessionEntry, Hands, Policy, Pool, Protocol, RouteKey, SessionId};

use super::admission::Way;
use super::crowd::Crowd;
use super::leaving::Leave;
use super::listeners::Listening;
use super::overload::Adaptive;
use super::queue::{Arrival, Queue};
use super::waiting::{Place, Room};
use super::who::Who;

/// A route by a number that no other one of the daemon's ever has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct RouteNumber(pub u32);

/// What all workers of a route share.
pub(crate) struct Route {
    /// Which one it is.
    pub number: RouteNumber,
    /// What the operator calls it.
    pub name: RouteName,
    /// The endpoints. The resolver writes, workers read.
    pub published: Arc<Published>,
    /// Sessions that failed.
    pub session_failures: Failures,
    /// How many clients are served at one time: by all of the same name.
    pub crowd: Arc<Crowd>,
}

/// One worker's part of a route.
pub(crate) struct Share {
    /// The route.
    pub route: Arc<Route>,
    /// The route's listeners, by their numbers.
    pub listeners: Vec<(usize, Listening)>,
    /// How the worker serves it.
    pub rules: ShareRules,
    /// What the worker counts of it.
    pub counters: ShareCounters,
    /// While others finish what they have of the route: what there is for all of them.
    pub shared: Option<Arc<SharedPermits>>,
}

/// How one worker serves a route. Where that changes, the worker takes the new rules over between two turns, whole.
pub(crate) struct ShareRules {
    /// Those of new sessions, and of new requests.
    pub policy: Arc<Policy>,
    /// Which clients are served; `None`: whoever connects.
    pub who: Option<Arc<Who>>,
    /// How it chooses among the endpoints.
    pub balance: Balance,
    /// How many connections it may have, if that is limited.
    pub limit: Option<Limit>,
    /// Where lines about requests go, if they go anywhere.
    pub logs: RequestLogs,
}

/// How much of a route one worker may have at one time. Nobody else counts with it, so it is exact, and
/// no other thread's memory is touched for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limit {
    /// Open connections to each endpoint; `None`: any number.
    pub per_endpoint_max: Option<EndpointMax>,
    /// Clients that wait for one.
    pub queue_max: usize,
    /// Whom the next place goes to, and who is sent away, while too many wait. `None`: first come, first served.
    pub order: Option<Adaptive>,
}

impl Limit {
    /// Its parts for so many shards, which add up to the whole.
    pub(crate) fn divided(self, shards: usize) -> impl Iterator<Item = Self> {
        let part =
            move |whole: usize, shard: usize| whole / shards + usize::from(shard < whole % shards);
        let number = move |max: u32, shard| {
            let number = u32::try_from(part(max as usize, shard)).ok();
            number
                .and_then(NonZeroU32::new)
                .expect("no more shards than permits are configured")
        };
        let permits = move |max: EndpointMax, shard| match max {
            EndpointMax::Fixed(max) => EndpointMax::Fixed(number(max.get(), shard)),
            EndpointMax::Auto(range) => {
                let [least, most] = [range.least(), range.most()].map(|n| number(n, shard).get());
                let range = AutoRange::new(least, most).expect("as before");
                let parts = u32::try_from(shards).ok().and_then(NonZeroU32::new);
                EndpointMax::Auto(range.one_of(parts.expect("workers are few")))
            }
        };
        (0..shards).map(move |shard| Self {
            per_endpoint_max: self.per_endpoint_max.map(|max| permits(max, shard)),
            queue_max: part(self.queue_max, shard),
            order: self.order,
        })
    }
}

/// Gives routes to workers: those of which one worker may not have all go round.
#[derive(Clone)]
pub(crate) struct Spread {
    workers: usize,
    next: usize,
}

impl Spread {
    /// Over so many workers.
    #[must_use]
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers, next: 0 }
    }

    /// Goes on from here, over so many workers.
    #[must_use]
    pub(crate) fn over(&self, workers: usize) -> Self {
        let next = self.next;
        Self { workers, next }
    }

    /// The workers that serve the next route, and how much of it each may have: without a limit, all of them
    /// do; else one for each shard.
    pub(crate) fn serving(
        &mut self,
        limit: Option<Limit>,
        shards: usize,
    ) -> Vec<(usize, Option<Limit>)> {
        let Some(limit) = limit else {
            return (0..self.workers).map(|worker| (worker, None)).collect();
        };
        let first = self.next;
        self.next += shards;
        let parts = limit.divided(shards).enumerate();
        parts
            .map(|(shard, part)| ((first + shard) % self.workers, Some(part)))
            .collect()
    }
}

/// A worker's hold on a policy, for its sessions. The count inside is shared by all workers, and would be written for
/// each session.
pub(super) type OwnPolicy = Rc<Arc<Policy>>;

/// A route as one worker serves it.
pub(super) struct Served {
    pub(super) route: Arc<Route>,
    /// That of new sessions.
    pub(super) policy: OwnPolicy,
    pub(super) who: Option<Arc<Who>>,
    pub(super) balancer: Balancer,
    /// Of a FastCGI route: connections that no request uses now.
    pub(super) pool: Pool,
    /// Where the number of connections is limited: who waits.
    pub(super) queue: Option<Queue>,
    pub(super) counters: Arc<RouteCounters>,
    pub(super) logs: RequestLogs,
    /// That of the worker: all its routes share it.
    pub(super) head_room: HeadRoom,
    /// Those on this worker.
    pub(super) sessions: SessionsOf,
    /// It takes no new clients, and those that it has get no further requests served.
    pub(super) is_retired: bool,
    /// Its clients go to another process.
    pub(super) leave: Option<Leave>,
    /// Its endpoints get nothing new until then.
    pub(super) paused_until: Option<Instant>,
    /// None of them takes connections, and nobody is to wait for one.
    pub(super) is_out: bool,
    /// That of the address set with which sessions were compared last.
    version: u64,
}

/// The most connections to one endpoint.
fn endpoint_max(limit: Option<Limit>) -> Option<EndpointMax> {
    limit.and_then(|limit| limit.per_endpoint_max)
}

/// Only what is kept holds others up, and who is held up waits in the queue.
fn is_paced(policy: &Policy, limit: Option<Limit>) -> bool {
    match &policy.protocol {
        Protocol::Fastcgi(options) => options.pool.reuse && limit.is_some(),
        Protocol::Raw => false,
    }
}

/// What one worker serves.
#[derive(Default)]
pub(super) struct Routes {
    slots: Slab<Served>,
    /// All of them, by what the rest of the daemon knows them by.
    by_number: HashMap<RouteNumber, RouteKey>,
    /// Those whose endpoints these are: of several, all but one are retired.
    by_endpoints: HashMap<PublishedNumber, Vec<RouteKey>>,
}

impl Routes {
    pub(super) fn insert(&mut self, served: Served) -> RouteKey {
        let number = served.route.number;
        let endpoints = served.route.published.number();
        let key = RouteKey::at(self.slots.insert(served));
        let before = self.by_number.insert(number, key);
        assert!(before.is_none(), "each route has a number of its own");
        self.by_endpoints.entry(endpoints).or_default().push(key);
        key
    }

    pub(super) fn remove(&mut self, key: RouteKey) {
        let served = self.slots.remove(key.slot());
        self.by_number.remove(&served.route.number);
        let endpoints = served.route.published.number();
        if let Entry::Occupied(mut of_these) = self.by_endpoints.entry(endpoints) {
            of_these.get_mut().retain(|other| *other != key);
            if of_these.get().is_empty() {
                of_these.remove();
            }
        }
    }

    /// All that there are now: what is done with one may change which there are.
    pub(super) fn keys(&self) -> Vec<RouteKey> {
        let all = self.slots.iter();
        all.map(|(key, _)| RouteKey::at(key)).collect()
    }

    /// The one that the rest of the daemon knows by this number.
    pub(super) fn find(&self, number: RouteNumber) -> Option<RouteKey> {
        self.by_number.get(&number).copied()
    }

    /// Those whose endpoints these are.
    pub(super) fn with(&self, endpoints: PublishedNumber) -> Vec<RouteKey> {
        let with = self.by_endpoints.get(&endpoints);
        with.cloned().unwrap_or_default()
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn iter(&self) -> impl Iterator<Item = (RouteKey, &Served)> {
        self.slots
            .iter()
            .map(|(key, served)| (RouteKey::at(key), served))
    }
}

/// A route's sessions on one worker. Each knows its place here, so that it can leave from anywhere.
#[derive(Default)]
pub(super) struct SessionsOf(Vec<SessionId>);

/// A session's place among those of its route. It changes when another one leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InRoute(u32);

impl SessionsOf {
    pub(super) fn enter(&mut self, id: SessionId) -> InRoute {
        self.0.push(id);
        InRoute(place(self.0.len() - 1))
    }

    /// The session at this place, which is the one of this number, leaves. Returns who has its place now, if anybody has.
    pub(super) fn leave(&mut self, id: SessionId, at: InRoute) -> Option<SessionId> {
        let left = self.0.swap_remove(at.0 as usize);
        assert!(left == id, "each session has a place of its own");
        self.0.get(at.0 as usize).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SessionId> {
        self.0.iter().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn at(&self, place: InRoute) -> Option<SessionId> {
        self.0.get(place.0 as usize).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn place(place: usize) -> u32 {
    u32::try_from(place).expect("each session has a descriptor")
}

impl Index<RouteKey> for Routes {
    type Output = Served;

    fn index(&self, key: RouteKey) -> &Served {
        &self.slots[key.slot()]
    }
}

impl IndexMut<RouteKey> for Routes {
    fn index_mut(&mut self, key: RouteKey) -> &mut Served {
        &mut self.slots[key.slot()]
    }
}

/// Why a route takes no clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hold {
    /// It has as many sessions as it may.
    Crowd,
    /// It is paused, and there is nowhere to wait.
    Pause,
}

/// What becomes of a client of a route.
pub(super) enum Admittance {
    Serve(SessionEntry, Option<Place>),
    /// No place, and no room to wait for one.
    Refuse,
}

impl Served {
    pub(super) fn new(
        route: Arc<Route>,
        rules: ShareRules,
        counters: ShareCounters,
        seed: u64,
        head_room: HeadRoom,
    ) -> Self {
        let ShareRules {
            policy,
            who,
            balance,
            limit,
            logs,
        } = rules;
        let mut balancer = Balancer::new(balance, seed).counting(counters.endpoints);
        balancer.amend(balance, endpoint_max(limit), is_paced(&policy, limit));
        let pool = match &policy.protocol {
            Protocol::Raw => Pool::empty(),
            Protocol::Fastcgi(options) => Pool::new(options.pool)
                .of_route(route.name.clone())
                .counting(Arc::clone(&counters.route)),
        };
        Self {
            policy: Rc::new(policy),
            who,
            route,
            balancer,
            pool,
            queue: limit.map(|limit| Queue::new(limit.queue_max, limit.order)),
            counters: counters.route,
            logs,
            head_room,
            sessions: SessionsOf::default(),
            is_retired: false,
            leave: None,
            paused_until: None,
            is_out: false,
            version: 0,
        }
    }

    /// Goes by other rules, which are of the same protocol, and have a limit if there was one.
    pub(super) fn amend<D: Driver>(&mut self, rules: ShareRules, hands: &mut Hands<D>) {
        let ShareRules {
            policy,
            who,
            balance,
            limit,
            logs,
        } = rules;
        assert!(
            limit.is_some() == self.queue.is_some(),
            "it is another share"
        );
        self.balancer
            .amend(balance, endpoint_max(limit), is_paced(&policy, limit));
        if let (Some(queue), Some(limit)) = (&mut self.queue, limit) {
            queue.set_max(limit.queue_max);
            queue.set_order(limit.order, hands.now);
        }
        if let Protocol::Fastcgi(options) = &policy.protocol {
            self.pool.amend(options.pool, hands);
        }
        // Sessions look whether it is another one.
        if !Arc::ptr_eq(&self.policy, &policy) {
            self.policy = Rc::new(policy);
        }
        (self.who, self.logs) = (who, logs);
    }

    /// Tells whoever finds out how many connections there may be what has changed of the endpoints' servers.
    pub(super) fn follow_footings(&mut self) {
        for (address, footing) in self.pool.take_footings() {
            if self.balancer.stand_on(address, footing) {
                tracing::warn!(
                    route = %self.route.name,
                    "endpoint {address}: does not answer FCGI_GET_VALUES on a connection that is kept, so how many \
                     workers it has cannot be found out, and --per-endpoint-max auto is the most that it may be \
                     there (give a number)"
                );
            }
        }
    }

    /// Takes the current address set over. Whether it is another one than the last time.
    pub(super) fn follow(&mut self) -> bool {
        self.balancer.refresh(&self.route.published);
        let version = self.route.published.version();
        let is_new = version != self.version;
        self.version = version;
        is_new
    }

    /// Whether a client that comes now is served at once, waits, or is sent away. One that another process had may have
    /// waited there.
    pub(super) fn admit(&mut self, way: Way, now: Instant) -> Admittance {
        let Some(queue) = &mut self.queue else {
            return Admittance::Serve(SessionEntry::Direct, None);
        };
        if let Protocol::Fastcgi(_) = self.policy.protocol {
            // It is a request that waits, not the client.
            return Admittance::Serve(SessionEntry::Direct, Some(Place::new(queue, 0)));
        }
        self.balancer.refresh(&self.route.published);
        let entry = if self.paused_until.is_some() {
            SessionEntry::Queued
        } else if self.is_out || queue.is_empty() && self.balancer.has_room(now) {
            SessionEntry::Direct
        } else if way == Way::Accepted && queue.is_full() {
            return Admittance::Refuse;
        } else {
            SessionEntry::Queued
        };
        let place = match way {
            Way::Accepted => Place::new(queue, 0),
            Way::Arrived => Place::from_before(queue),
        };
        Admittance::Serve(entry, Some(place))
    }

    /// Whether it ends, or its clients go elsewhere.
    pub(super) fn is_going(&self) -> bool {
        self.is_retired || self.leave.is_some()
    }

    /// Whether it accepts clients.
    pub(super) fn takes_clients(&self) -> bool {
        self.holds().is_none()
    }

    /// Why it does not, if it does not.
    pub(super) fn holds(&self) -> Option<Hold> {
        if self.leaves_clients() {
            Some(Hold::Pause)
        } else {
            self.route.crowd.is_full().then_some(Hold::Crowd)
        }
    }

    /// Why it does not serve those who wait in a backlog that nobody comes to any more, if it does not. One that is to
    /// end has no part of the sessions to keep to.
    pub(super) fn holds_backlog(&self) -> Option<Hold> {
        self.holds()
            .filter(|hold| *hold == Hold::Pause || !self.is_retired)
    }

    /// Whether clients wait in the backlogs for the end of a pause, because there is nowhere else to wait.
    pub(super) fn leaves_clients(&self) -> bool {
        self.paused_until.is_some() && self.queue.is_none()
    }

    /// Says that it has as many sessions as it may.
    pub(super) fn report_crowd(&self, now: Instant) {
        let crowd = &self.route.crowd;
        if let (Some(max), Some(times)) = (crowd.max(), crowd.limit_reached.count(now)) {
            tracing::warn!(
                route = %self.route.name,
                times,
                sessions_max = max,
                "the route has as many sessions as it may: its clients wait in the sockets' backlogs, for the \
                 sake of other routes (raise --connections-max, or set --route-connections-max)"
            );
        }
    }

    /// Shows who waits, after somebody came or left.
    pub(super) fn count_queue(&self) {
        if let Some(queue) = &self.queue {
            self.counters.queue_depth.set(queue.len() as u64);
            self.counters.queue_oldest.set(queue.oldest());
        }
    }

    /// Whether somebody waits here.
    pub(super) fn has_queue(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| !queue.is_empty())
    }

    /// Since when those wait in whose stead others have their turn, if there are such ones.
    pub(super) fn passed_over_since(&self) -> Option<Instant> {
        self.queue.as_ref()?.passed_over_since()
    }

    /// When those who wait can have a place though nothing happens: when the pace allows it, or the pool can
    /// make room.
    pub(super) fn place_at(&self, now: Instant) -> Option<Instant> {
        let waiting_since = self.queue.as_ref()?.oldest()?;
        let paced = self.balancer.pace_ends(Moment { now, waiting_since });
        let room_at = self.lacks_places(now).then(|| self.pool.room_at());
        paced.into_iter().chain(room_at.flatten()).min()
    }

    /// Whether places are looked for, for those who wait.
    pub(super) fn looks_for_places(&self) -> bool {
        self.has_queue() && self.paused_until.is_none()
    }

    /// Whether another one may wait. Those that wait only for the pace are not counted, because a place is
    /// free for each of them.
    pub(super) fn queue_room(&self, now: Instant) -> Room {
        let Some(queue) = &self.queue else {
            return Room::Some;
        };
        if self.paused_until.is_some() {
            return Room::Unbounded;
        }
        match queue.is_full() && queue.is_full_beyond(self.balancer.held_back(now)) {
            true => Room::None,
            false => Room::Some,
        }
    }

    /// Whether those who wait do so for more than the pace.
    pub(super) fn lacks_places(&self, now: Instant) -> bool {
        self.has_queue() && self.balancer.held_back(now) == 0
    }

    /// What its queue makes of those who wait follows from how quickly places come free.
    pub(super) fn look_at_load(&mut self, now: Instant) {
        if let Some(queue) = &mut self.queue {
            queue.look(self.balancer.in_flight(), now);
        }
    }

    /// Who is next after `last`, if some endpoint has a place.
    pub(super) fn next_in_line(
        &mut self,
        last: Option<Arrival>,
        now: Instant,
    ) -> Option<(Arrival, SessionId)> {
        let queue = self.queue.as_ref()?;
        let next = queue.after(last)?;
        self.balancer.refresh(&self.route.published);
        if self.balancer.is_empty() {
            // Nobody else asks the name servers for those who wait.
            self.route.published.refresher().suspect_all();
        }
        let moment = Moment {
            now,
            waiting_since: queue.turn_since(next.0),
        };
        self.balancer.has_room(moment).then_some(next)
    }
}

#[cfg(test)]
mod tests;
