//! Where places at endpoints are limited: how a session comes into the queue and out of it, and when queues are
//! looked at.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::driver::Driver;
use crate::session::{RouteKey, Session, SessionId, Wish};

use super::Worker;
use super::dates::Dates;
use super::queue::{self, Arrival, Queue, Terms};

/// How often a worker with a queue looks whether an endpoint is back: the end of an ejection, and
/// checks that pass, are not announced. Long enough to cost nothing, and short compared with the
/// patience of those who wait.
pub(crate) const QUEUE_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Places that a worker gives to those who wait in one turn. Connections that ended at one time would
/// otherwise begin at one time, and everybody else on the worker wait for all of them.
const PLACES_PER_TURN: u32 = 2;

/// Those who have waited for too long in a queue that is overloaded, and are sent away in one turn. Each takes a buffer and a
/// send: together about as long as the clients that a turn accepts.
const SHED_PER_TURN: u32 = 16;

/// Sessions in a row that can make no use of the place that is free, before the worker looks at others:
/// each has failed at the endpoint a moment ago, and asks it again after a pause.
const USELESS_OFFERS_MAX: u32 = 64;

/// What a queue is left with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Nobody, or nobody who could use a place now.
    IsServed,
    /// The turn has given enough, and there are places for more.
    HasPlaces,
}

/// There is no room for a session to wait.
pub(super) struct QueueIsFull;

/// When a worker looks at the queues of its routes: of those in which somebody waits, and that are not paused.
#[derive(Default)]
pub(super) struct QueueLooks {
    /// When each of them is looked at though no place was given back.
    dates: Dates,
    /// Those of them that may have a place since they were looked at.
    changed: BTreeSet<RouteKey>,
    /// The route whose queue is looked at first.
    first: RouteKey,
}

impl QueueLooks {
    /// When there is something to do though nothing happens.
    pub(super) fn date(&self) -> Option<Instant> {
        self.dates.next()
    }

    /// Those who wait for this route may have a place: it is looked at in the next turn, whenever that is. Where nobody
    /// waits, nothing is owed.
    pub(super) fn changed(&mut self, route: RouteKey) {
        if self.waits_for(route) {
            self.changed.insert(route);
        }
    }

    /// The same of all.
    pub(super) fn all_changed(&mut self) {
        self.changed.extend(self.dates.routes());
    }

    /// Those who wait for this route may have a place now.
    pub(super) fn look_at(&mut self, route: RouteKey, now: Instant) {
        if self.waits_for(route) {
            self.dates.set(route, Some(now));
        }
    }

    /// Whether anybody does who could have a place.
    pub(super) fn waits_for(&self, route: RouteKey) -> bool {
        self.dates.of(route).is_some()
    }

    /// Nobody waits for this route, or it is paused.
    pub(super) fn forget(&mut self, route: RouteKey) {
        self.dates.set(route, None);
        self.changed.remove(&route);
    }

    /// Somebody waits who did not, and may have a place at that time though nothing happens, or is sent away then.
    fn file(&mut self, route: RouteKey, due_at: Option<Instant>, now: Instant) {
        let dates = self.dates.of(route).into_iter().chain(due_at);
        let latest = now + QUEUE_LOOK_INTERVAL;
        let date = dates.min().map_or(latest, |at| at.min(latest));
        self.dates.set(route, Some(date));
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn audit(&self) {
        assert!(
            self.changed.iter().all(|route| self.waits_for(*route)),
            "INVARIANT index_is_exact: queues that are looked at, and nobody waits there"
        );
    }

    /// Those that are to be looked at now, in the order of a round that begins with the first one.
    fn round(&self, now: Instant) -> Vec<RouteKey> {
        if self.changed.is_empty() && self.dates.due(now).is_none() {
            return Vec::new();
        }
        let due = self.dates.all_due(now);
        let mut round: Vec<_> = due.chain(self.changed.iter().copied()).collect();
        round.sort_unstable();
        round.dedup();
        let before = round.partition_point(|route| *route < self.first);
        round.rotate_left(before);
        round
    }
}

/// A session's place among those of a limited route.
pub(super) struct Place {
    arrival: Arrival,
    /// The request that it is for.
    request: u64,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// It has not waited so far.
    New,
    Waiting,
    /// It has waited, and has had its turn.
    Called,
}

/// Whether another session may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    None,
    Some,
    /// The route is paused: any number.
    Unbounded,
}

/// What became of a place in a step of its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moved {
    Not,
    /// It is in the queue. `is_first`: it has not been there before.
    Joined {
        is_first: bool,
    },
    /// It is not in the queue any more.
    Left {
        waited: Duration,
    },
    /// The queue has no room for it.
    Refused,
}

impl Place {
    /// Of who comes now, for a request of this number.
    pub(super) fn new(queue: &mut Queue, request: u64) -> Self {
        Self {
            arrival: queue.arrive(),
            request,
            standing: Standing::New,
        }
    }

    /// Of who has waited in the process before this one: it is not its first time, so a queue that is full is no reason
    /// to send it away.
    pub(super) fn from_before(queue: &mut Queue) -> Self {
        Self {
            arrival: queue.arrive_from_before(),
            request: 0,
            standing: Standing::Called,
        }
    }

    /// When its session came, compared with others of its route.
    pub(super) fn arrival(&self) -> Arrival {
        self.arrival
    }

    fn is_waiting(&self) -> bool {
        self.standing == Standing::Waiting
    }

    /// Does what follows from what its session waits for.
    fn follow(
        &mut self,
        wish: Option<Wish>,
        queue: &mut Queue,
        room: Room,
        id: SessionId,
        now: Instant,
    ) -> Moved {
        match (wish, self.standing) {
            (None, Standing::New | Standing::Called) | (Some(_), Standing::Waiting) => Moved::Not,
            (None, Standing::Waiting) => {
                let waited = self.leave(queue, now);
                Moved::Left { waited }
            }
            (Some(wish), Standing::New | Standing::Called) => {
                if self.request != wish.request {
                    *self = Self::new(queue, wish.request);
                }
                let is_first = self.standing == Standing::New;
                if is_first && room == Room::None && !wish.stays {
                    return Moved::Refused;
                }
                let terms = Terms {
                    counts: room != Room::Unbounded,
                    may_be_shed: is_first && !wish.stays && room != Room::Unbounded,
                };
                queue.join(self.arrival, id, terms, now);
                self.standing = Standing::Waiting;
                Moved::Joined { is_first }
            }
        }
    }

    /// It does not wait any more. Returns how long it has.
    fn leave(&mut self, queue: &mut Queue, now: Instant) -> Duration {
        assert!(self.is_waiting(), "only who waits leaves");
        self.standing = Standing::Called;
        let since = queue.leave(self.arrival, now);
        now.saturating_duration_since(since)
    }

    /// Its session ends. Whether it has waited until now.
    pub(super) fn give_up(mut self, queue: &mut Queue, now: Instant) -> bool {
        let was_waiting = self.is_waiting();
        if was_waiting {
            self.leave(queue, now);
        }
        was_waiting
    }
}

impl<D: Driver> Worker<D> {
    /// Lets a session wait, or not any longer, after a step of it. An error: there is no room for it to wait.
    pub(super) fn follow_place(&mut self, id: SessionId) -> Result<(), QueueIsFull> {
        let active = &mut self.sessions[id.0];
        let served = &mut self.routes[active.route];
        let wish = active.session.wish();
        let room = match wish {
            Some(_) => served.queue_room(self.hands.now),
            None => Room::Some,
        };
        let (Some(place), Some(queue)) = (&mut active.place, &mut served.queue) else {
            return Ok(());
        };
        match place.follow(wish, queue, room, id, self.hands.now) {
            Moved::Not => return Ok(()),
            Moved::Refused => return Err(QueueIsFull),
            Moved::Joined { is_first } => {
                served.counters.queued.add(u64::from(is_first));
                let sheds_at = queue.sheds_at();
                if served.looks_for_places() {
                    let place_at = served.balancer.pace_ends(self.hands.now);
                    let date = place_at.into_iter().chain(sheds_at).min();
                    self.queue_looks.file(active.route, date, self.hands.now);
                }
            }
            Moved::Left { waited } => served.counters.queue_wait.record(waited),
        }
        served.count_queue();
        let route = active.route;
        self.file_queue(route);
        Ok(())
    }

    /// Somebody has left a queue, or a pause has begun or ended.
    pub(super) fn file_queue(&mut self, route: RouteKey) {
        if !self.routes[route].looks_for_places() {
            self.queue_looks.forget(route);
        } else if !self.queue_looks.waits_for(route) {
            self.queue_looks.file(route, None, self.hands.now);
        }
    }

    /// Gives free places to those who wait, in the order of their queue. Where a turn cannot give all of them, the next one
    /// begins elsewhere: a queue with places that is never empty would leave the others nothing.
    pub(super) fn serve_queues(&mut self) {
        let round = self.queue_looks.round(self.hands.now);
        let mut left = PLACES_PER_TURN;
        for (number, &route) in round.iter().enumerate() {
            let before = left;
            self.queue_looks.changed.remove(&route);
            if self.serve_queue(route, &mut left) == Line::HasPlaces {
                // The next turn goes on, and does not wait.
                for rest in &round[number..] {
                    self.queue_looks.look_at(*rest, self.hands.now);
                }
                self.queue_looks.first = queue::next_first(route, left < before);
                return;
            }
            self.date_next_look(route);
        }
    }

    /// The queue of a route was looked at, and nobody in it has a place.
    fn date_next_look(&mut self, route: RouteKey) {
        let served = &self.routes[route];
        if !served.looks_for_places() {
            return;
        }
        let now = self.hands.now;
        let latest = now + QUEUE_LOOK_INTERVAL;
        let sheds_at = served.queue.as_ref().and_then(Queue::sheds_at);
        let due_at = served.place_at(now).into_iter().chain(sheds_at).min();
        let next = due_at.map_or(latest, |at| at.clamp(now, latest));
        self.queue_looks.dates.set(route, Some(next));
    }

    /// Gives those who wait for one route at most as many places as are left in this turn. Those for whom there is none
    /// are sent away if they have waited for too long.
    fn serve_queue(&mut self, route: RouteKey, left: &mut u32) -> Line {
        if !self.routes[route].looks_for_places() {
            return Line::IsServed;
        }
        self.routes[route].look_at_load(self.hands.now);
        if self.routes[route].lacks_places(self.hands.now) {
            self.routes[route].pool.make_room(&mut self.hands);
            self.follow_changes(route);
        }
        let (mut last, mut useless) = (None, 0);
        while useless < USELESS_OFFERS_MAX
            && let Some((arrival, id)) = self.routes[route].next_in_line(last, self.hands.now)
        {
            if *left == 0 {
                return Line::HasPlaces;
            }
            last = Some(arrival);
            self.step(id, Session::place_free);
            if self.is_waiting(id) {
                useless += 1;
            } else {
                *left -= 1;
                if let Some(queue) = &mut self.routes[route].queue {
                    queue.gave_place(self.hands.now);
                }
            }
        }
        self.shed(route);
        Line::IsServed
    }

    /// Sends those away who have waited for too long in a queue that is overloaded, as many as a turn may. Others have a
    /// date that has come.
    fn shed(&mut self, route: RouteKey) {
        let now = self.hands.now;
        for _ in 0..SHED_PER_TURN {
            let served = &mut self.routes[route];
            let Some(queue) = &mut served.queue else {
                return;
            };
            let Some((arrival, id)) = queue.overdue(now) else {
                return;
            };
            let active = &mut self.sessions[id.0];
            // Its turn has come meanwhile, and what it was given has failed: it has a time of its own.
            if active.session.wish().is_none_or(|wish| wish.stays) {
                queue.spare(arrival);
                continue;
            }
            let retry_after = queue.retry_after();
            let place = active.place.as_mut().expect("whoever waits has one");
            let waited = place.leave(queue, now);
            served.counters.queue_wait.record(waited);
            served.count_queue();
            self.file_queue(route);
            self.step(id, |session, cx| session.shed(retry_after, cx));
        }
    }

    fn is_waiting(&self, id: SessionId) -> bool {
        let active = self.sessions.get(id.0);
        let place = active.and_then(|active| active.place.as_ref());
        place.is_some_and(Place::is_waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::super::overload::Adaptive;
    use super::*;

    const WISH: Option<Wish> = Some(Wish {
        request: 1,
        stays: false,
    });

    #[test]
    fn a_place_is_kept_until_the_request_is_another_one() {
        let (mut queue, now) = (Queue::new(10, None), Instant::now());
        let mut place = Place::new(&mut queue, 1);
        let arrival = place.arrival();
        let mut follow = |wish, is_full: bool, at: u64| {
            let now = now + Duration::from_secs(at);
            let room = if is_full { Room::None } else { Room::Some };
            place.follow(wish, &mut queue, room, SessionId(7), now)
        };
        assert_eq!(follow(None, false, 0), Moved::Not);
        assert_eq!(follow(WISH, false, 0), Moved::Joined { is_first: true });
        assert_eq!(follow(WISH, false, 1), Moved::Not);
        let waited = Duration::from_secs(2);
        assert_eq!(follow(None, false, 2), Moved::Left { waited });
        // Its turn led to nothing: it waits on where it was, also where the queue is full.
        assert_eq!(follow(WISH, true, 3), Moved::Joined { is_first: false });
        let waited = Duration::from_secs(1);
        assert_eq!(follow(None, true, 4), Moved::Left { waited });
        let next = |stays| Some(Wish { request: 2, stays });
        assert_eq!(follow(next(false), true, 5), Moved::Refused);
        assert_eq!(
            follow(next(true), true, 5),
            Moved::Joined { is_first: true }
        );
        assert!(place.arrival() > arrival);
        assert!(place.give_up(&mut queue, now) && queue.is_empty());
    }

    /// Of who comes, as it is given up by a queue in which nobody may wait for more than a moment.
    fn is_shed(room: Room, wish: Wish, has_had_its_turn: bool) -> bool {
        let order = Adaptive {
            target: Duration::from_millis(100),
            target_max: Duration::from_millis(100),
        };
        let (mut queue, now) = (Queue::new(10, Some(order)), Instant::now());
        let mut place = Place::new(&mut queue, 1);
        let mut follow = |wish| place.follow(wish, &mut queue, room, SessionId(7), now);
        assert_eq!(follow(Some(wish)), Moved::Joined { is_first: true });
        if has_had_its_turn {
            let waited = Duration::ZERO;
            assert_eq!(follow(None), Moved::Left { waited });
            assert_eq!(follow(Some(wish)), Moved::Joined { is_first: false });
        }
        queue.overdue(now + Duration::from_secs(1)).is_some()
    }

    #[test]
    fn only_who_has_had_no_turn_and_is_owed_nothing_is_sent_away() {
        let wish = |stays| Wish { request: 1, stays };
        assert!(is_shed(Room::Some, wish(false), false));
        assert!(!is_shed(Room::Some, wish(true), false));
        assert!(!is_shed(Room::Some, wish(false), true));
        assert!(!is_shed(Room::Unbounded, wish(false), false));
    }
}
