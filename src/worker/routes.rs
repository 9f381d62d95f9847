//! What a worker has of each route that it serves.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::{Index, IndexMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::access_log::RequestLogs;
use crate::backend::{
    Balancer, ClassId, ClassShare, Moment, Published, PublishedNumber, SharedPermits,
};
use crate::config::{Balance, ClassName, EndpointMax, RouteName};
use crate::counters::{ClassCounters, RouteCounters, ShareCounters};
use crate::driver::Driver;
use crate::fastcgi::HeadRoom;
use crate::observe::Failures;
use crate::session::{
    Entry as SessionEntry, Hands, Policy, Pool, Protocol, RequestClasses, RouteKey, SessionId,
};

use super::admission::Way;
use super::crowd::Crowd;
use super::leaving::Leave;
use super::limits::Limit;
use super::lines::{LastTurns, Lines, Turn};
use super::listeners::Listening;
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
    pub(super) lines: Option<Lines>,
    pub(super) counters: Arc<RouteCounters>,
    /// Of its classes, by their places.
    pub(super) class_counters: Vec<Arc<ClassCounters>>,
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
fn endpoint_max(limit: Option<&Limit>) -> Option<EndpointMax> {
    limit.and_then(|limit| limit.per_endpoint_max)
}

/// What each class may have of them.
fn class_shares(limit: Option<&Limit>) -> Vec<ClassShare> {
    limit.map(Limit::shares).unwrap_or_default()
}

/// By their places; none without classes.
fn class_names(policy: &Policy) -> Vec<ClassName> {
    let classes = match &policy.protocol {
        Protocol::Fastcgi(options) => options.classes.as_ref(),
        Protocol::Raw => None,
    };
    let all = classes.into_iter().flat_map(RequestClasses::all);
    all.map(|class| class.name.clone()).collect()
}

/// Only what is kept holds others up, and who is held up waits in the queue.
fn is_paced(policy: &Policy, limit: Option<&Limit>) -> bool {
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
        let limit = limit.as_ref();
        let mut balancer = Balancer::new(balance, seed).counting(counters.endpoints);
        balancer.amend(balance, endpoint_max(limit), is_paced(&policy, limit));
        balancer.divide(class_shares(limit));
        let names = class_names(&policy);
        let class_counters = counters.route.classes.show(names.into_iter());
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
            lines: limit.map(Lines::new),
            class_counters,
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
        let limit = limit.as_ref();
        assert!(
            limit.is_some() == self.lines.is_some(),
            "it is another share"
        );
        self.balancer
            .amend(balance, endpoint_max(limit), is_paced(&policy, limit));
        self.balancer.divide(class_shares(limit));
        if let (Some(lines), Some(limit)) = (&mut self.lines, limit) {
            lines.amend(limit, hands.now);
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
        let Some(lines) = &mut self.lines else {
            return Admittance::Serve(SessionEntry::Direct, None);
        };
        if let Protocol::Fastcgi(_) = self.policy.protocol {
            // It is a request that waits, not the client.
            return Admittance::Serve(SessionEntry::Direct, Some(Place::new(lines, 0)));
        }
        self.balancer.refresh(&self.route.published);
        let entry = if self.paused_until.is_some() {
            SessionEntry::Queued
        } else if self.is_out
            || lines.is_empty() && self.balancer.has_room(Moment::new(ClassId::DEFAULT, now))
        {
            SessionEntry::Direct
        } else if way == Way::Accepted && lines.of(ClassId::DEFAULT).is_full() {
            return Admittance::Refuse;
        } else {
            SessionEntry::Queued
        };
        let place = match way {
            Way::Accepted => Place::new(lines, 0),
            Way::Arrived => Place::from_before(lines),
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
        self.paused_until.is_some() && self.lines.is_none()
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
        if let Some(lines) = &self.lines {
            let (mut depth, mut oldest) = (0, None);
            for (place, (len, first)) in lines.depths().enumerate() {
                depth += len as u64;
                oldest = oldest.into_iter().chain(first).min();
                if let Some(class) = self.class_counters.get(place) {
                    class.queue_depth.set(len as u64);
                    class.queue_oldest.set(first);
                }
            }
            self.counters.queue_depth.set(depth);
            self.counters.queue_oldest.set(oldest);
        }
    }

    /// One of this class does not wait any more.
    pub(super) fn record_wait(&self, class: ClassId, waited: Duration) {
        self.counters.queue_wait.record(waited);
        if let Some(class) = self.class_counters.get(class.place()) {
            class.queue_wait.record(waited);
        }
    }

    /// Whether somebody waits here.
    pub(super) fn has_queue(&self) -> bool {
        self.lines.as_ref().is_some_and(|lines| !lines.is_empty())
    }

    /// When those who wait can have a place though nothing happens: when the pace allows it, or the pool can
    /// make room.
    pub(super) fn place_at(&self, now: Instant) -> Option<Instant> {
        let firsts = self.lines.as_ref()?.firsts().iter();
        let paced = firsts.filter_map(|first| self.balancer.pace_ends(first.asks(now)));
        let room_at = self.lacks_places(now).then(|| self.pool.room_at());
        paced.chain(room_at.flatten()).min()
    }

    /// When one of this class that has just joined can have a place though nothing happens. It may be now, if others
    /// were before it of whose classes it does not wait.
    pub(super) fn place_of_newcomer_at(&self, class: ClassId, now: Instant) -> Option<Instant> {
        let moment = Moment::new(class, now);
        let lines = self.lines.as_ref()?;
        let is_first = lines.of(class).len() == 1 && lines.firsts().len() > 1;
        let waits_for_others = is_first && self.balancer.has_room(moment);
        let paced = self.balancer.pace_ends(moment);
        paced
            .into_iter()
            .chain(waits_for_others.then_some(now))
            .min()
    }

    /// Whether places are looked for, for those who wait.
    pub(super) fn looks_for_places(&self) -> bool {
        self.has_queue() && self.paused_until.is_none()
    }

    /// Whether another one may wait. Those that wait only for the pace are not counted, because a place is
    /// free for each of them.
    pub(super) fn queue_room(&self, class: ClassId, now: Instant) -> Room {
        let Some(queue) = self.lines.as_ref().map(|lines| lines.of(class)) else {
            return Room::Some;
        };
        let moment = Moment::new(class, now);
        if self.paused_until.is_some() {
            return Room::Unbounded;
        }
        // Nobody of its class waits, and it has no turn only because others have theirs first.
        let has_its_own = || queue.is_empty() && self.balancer.has_room(moment);
        let is_full = queue.is_full() && queue.is_full_beyond(self.balancer.held_back(moment));
        match is_full && !has_its_own() {
            true => Room::None,
            false => Room::Some,
        }
    }

    /// Whether somebody waits for more than the pace.
    pub(super) fn lacks_places(&self, now: Instant) -> bool {
        let firsts = self.lines.as_ref().map_or(&[][..], Lines::firsts);
        let mut moments = firsts.iter().map(|first| first.asks(now));
        moments.any(|moment| self.balancer.held_back(moment) == 0)
    }

    /// What its queues make of those who wait follows from how quickly places come free.
    pub(super) fn look_at_load(&mut self, now: Instant) {
        if let Some(lines) = &mut self.lines {
            lines.look(|class| self.balancer.places_of(class, now), now);
        }
    }

    /// Whose turn it is after `last`, if some endpoint has a place.
    pub(super) fn next_in_line(&mut self, last: &LastTurns, now: Instant) -> Option<Turn> {
        let lines = self.lines.as_ref().filter(|lines| !lines.is_empty())?;
        self.balancer.refresh(&self.route.published);
        if self.balancer.is_empty() {
            // Nobody else asks the name servers for those who wait.
            self.route.published.refresher().suspect_all();
        }
        lines.next(last, |next| self.balancer.has_room(next.asks(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_leave_from_anywhere_and_who_moves_is_told() {
        let mut sessions = SessionsOf::default();
        let [first, second, third] = [7, 3, 5].map(|id| sessions.enter(SessionId(id)));
        assert_eq!(sessions.leave(SessionId(7), first), Some(SessionId(5)));
        assert_eq!(sessions.leave(SessionId(5), first), Some(SessionId(3)));
        assert_eq!(sessions.leave(SessionId(3), first), None);
        assert!(sessions.is_empty() && second != third);
    }
}
