//! The clients of one route, or of one class of its requests, that wait for a place at an endpoint: first come, first
//! served.
//!
//! A session keeps its number from its arrival on. If its turn comes and leads to nothing, because the
//! endpoint with the free place refused it, it waits on where it was.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Instant;

use crate::session::{RouteKey, SessionId};

/// When a session came, compared with others of the same route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Arrival(u64);

/// Who waits, and since when.
struct Waiting {
    id: SessionId,
    since: Instant,
    counts: bool,
}

/// One worker's queue of one route.
pub(super) struct Queue {
    /// By arrival. Leaving from the middle is ordinary: clients lose patience.
    waiting: BTreeMap<Arrival, Waiting>,
    max: usize,
    /// How many of them do not count against it.
    uncounted: usize,
    /// The number of the next one.
    next: u64,
    /// The same of those who came to the process before this one: they were here first.
    next_from_before: u64,
}

/// The numbers below are for those who came to the process before this one: more than it could have had waiting.
const FIRST_OF_OURS: u64 = 1 << 32;

impl Queue {
    pub(super) fn new(max: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            max,
            uncounted: 0,
            next: FIRST_OF_OURS,
            next_from_before: 0,
        }
    }

    /// So many may join from now on; who waits stays.
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// The number of a session that comes now, whether it has to wait or not.
    pub(super) fn arrive(&mut self) -> Arrival {
        self.next += 1;
        Arrival(self.next)
    }

    /// The number of one that has waited in the process before this one. They come in the order in which they came there.
    pub(super) fn arrive_from_before(&mut self) -> Arrival {
        self.next_from_before += 1;
        assert!(
            self.next_from_before < FIRST_OF_OURS,
            "each has a descriptor"
        );
        Arrival(self.next_from_before)
    }

    /// `counts`: against the maximum.
    pub(super) fn join(&mut self, arrival: Arrival, id: SessionId, counts: bool, now: Instant) {
        let waiting = Waiting {
            id,
            since: now,
            counts,
        };
        let before = self.waiting.insert(arrival, waiting);
        assert!(before.is_none(), "a session waits once");
        self.uncounted += usize::from(!counts);
    }

    /// Returns since when it has waited.
    pub(super) fn leave(&mut self, arrival: Arrival) -> Instant {
        let left = self.waiting.remove(&arrival);
        let left = left.expect("only who waits leaves");
        self.uncounted -= usize::from(!left.counts);
        left.since
    }

    /// The first one, or the first one after `arrival`.
    pub(super) fn after(&self, arrival: Option<Arrival>) -> Option<(Arrival, SessionId)> {
        let from = arrival.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.waiting.range((from, Bound::Unbounded));
        rest.next().map(|(arrival, waiting)| (*arrival, waiting.id))
    }

    /// Since when this one has waited.
    pub(super) fn since(&self, arrival: Arrival) -> Instant {
        let waiting = self.waiting.get(&arrival);
        waiting.expect("it was just found").since
    }

    /// Since when the first one has waited.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.values().next().map(|first| first.since)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nobody else may join who has not waited before.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() - self.uncounted >= self.max
    }

    /// The same if so many of those who wait are not counted.
    pub(super) fn is_full_beyond(&self, others: u64) -> bool {
        let counted = self.waiting.len() - self.uncounted;
        counted as u64 >= (self.max as u64).saturating_add(others)
    }
}

/// Of several queues, the one that the next turn begins with, after one that had no more to give to `last`:
/// the one behind it, or itself if the others have had all.
pub(super) fn next_first(last: RouteKey, had_some: bool) -> RouteKey {
    RouteKey(last.0 + u32::from(had_some))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(queue: &Queue) -> Vec<usize> {
        let mut order = Vec::new();
        let mut last = None;
        while let Some((arrival, id)) = queue.after(last) {
            order.push(id.0);
            last = Some(arrival);
        }
        order
    }

    #[test]
    fn those_who_waited_in_the_process_before_are_first_and_in_their_order() {
        let (mut queue, now) = (Queue::new(10), Instant::now());
        let ours = queue.arrive();
        queue.join(ours, SessionId(1), true, now);
        for id in [2, 3] {
            let arrival = queue.arrive_from_before();
            queue.join(arrival, SessionId(id), true, now);
        }
        assert_eq!(order(&queue), [2, 3, 1]);
    }

    #[test]
    fn the_order_is_that_of_arrival_also_for_who_comes_back() {
        let (mut queue, now) = (Queue::new(10), Instant::now());
        let [first, second, third] = [7, 3, 5].map(|id| {
            let arrival = queue.arrive();
            queue.join(arrival, SessionId(id), true, now);
            arrival
        });
        assert_eq!(order(&queue), [7, 3, 5]);
        queue.leave(first);
        queue.leave(third);
        assert_eq!(order(&queue), [3]);
        queue.join(first, SessionId(7), true, now);
        assert_eq!(order(&queue), [7, 3]);
        queue.leave(second);
        queue.leave(first);
        assert!(queue.is_empty());
    }

    #[test]
    fn another_maximum_leaves_those_who_wait_where_they_are() {
        let (mut queue, now) = (Queue::new(3), Instant::now());
        for id in [7, 3] {
            let arrival = queue.arrive();
            queue.join(arrival, SessionId(id), true, now);
        }
        queue.set_max(1);
        assert!(queue.is_full());
        assert_eq!(order(&queue), [7, 3]);
        queue.set_max(3);
        assert!(!queue.is_full());
        let arrival = queue.arrive();
        queue.join(arrival, SessionId(1), true, now);
        assert_eq!(order(&queue), [7, 3, 1]);
    }

    #[test]
    fn it_is_full_at_its_maximum() {
        let mut queue = Queue::new(1);
        assert!(!queue.is_full());
        let arrival = queue.arrive();
        queue.join(arrival, SessionId(0), true, Instant::now());
        assert!(queue.is_full());
        assert!(Queue::new(0).is_full());
        assert!(!queue.is_full_beyond(1));
        assert!(queue.is_full_beyond(0));
        assert!(!queue.is_full_beyond(u64::MAX));
    }

    #[test]
    fn who_does_not_count_leaves_its_room_to_others() {
        let (mut queue, now) = (Queue::new(1), Instant::now());
        let [first, second, third] = [false, false, true].map(|counts| {
            assert!(!queue.is_full());
            let arrival = queue.arrive();
            queue.join(arrival, SessionId(0), counts, now);
            arrival
        });
        assert!(queue.is_full() && queue.is_full_beyond(0));
        queue.leave(second);
        assert!(queue.is_full());
        queue.leave(third);
        assert!(!queue.is_full());
        queue.leave(first);
        assert!(queue.is_empty() && !queue.is_full());
    }

    #[test]
    fn a_queue_that_got_nothing_in_a_turn_is_first_in_the_next() {
        // The first one takes all that a turn gives, again and again.
        assert_eq!(next_first(RouteKey(0), true), RouteKey(1));
        // It takes all and wants no more, and the second one gets nothing.
        assert_eq!(next_first(RouteKey(1), false), RouteKey(1));
    }
}
