//! The clients of one route that wait for a place at an endpoint: first come, first served, or newest first while more is
//! asked of the queue than it can give (`overload.rs`).
//!
//! A session keeps its number from its arrival on. If its turn comes and leads to nothing, because the
//! endpoint with the free place refused it, it waits on where it was.
//!
//! Those who came in a pause are worked off first come, first served, whatever the order: until the last of them has had
//! its turn, the queue is not overloaded.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Instant;

use crate::fastcgi::RetryAfter;
use crate::session::{RouteKey, SessionId};

use super::overload::{Adaptive, InLine, Load};

/// When a session came, compared with others of the same route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Arrival(u64);

/// Who waits, and since when.
struct Waiting {
    id: SessionId,
    since: Instant,
    counts: bool,
}

/// On which terms somebody waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Terms {
    /// It counts against the maximum.
    pub(super) counts: bool,
    /// It may be sent away when it has waited for too long in a queue that is overloaded.
    pub(super) may_be_shed: bool,
}

/// One worker's queue of one route.
pub(super) struct Queue {
    /// By arrival. Leaving from the middle is ordinary: clients lose patience.
    waiting: BTreeMap<Arrival, Waiting>,
    /// Those of them that may be sent away. They have never had a turn: the first of them has waited for longest.
    sheddable: BTreeSet<Arrival>,
    load: Load,
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
    /// `order`: with whom the next place goes, while the queue is overloaded, to who came last. `None`: to whom it ever
    /// goes, to who came first.
    pub(super) fn new(max: usize, order: Option<Adaptive>) -> Self {
        Self {
            waiting: BTreeMap::new(),
            sheddable: BTreeSet::new(),
            load: Load::new(order),
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

    pub(super) fn join(&mut self, arrival: Arrival, id: SessionId, terms: Terms, now: Instant) {
        let Terms {
            counts,
            may_be_shed,
        } = terms;
        let waiting = Waiting {
            id,
            since: now,
            counts,
        };
        let before = self.waiting.insert(arrival, waiting);
        assert!(before.is_none(), "a session waits once");
        self.uncounted += usize::from(!counts);
        if may_be_shed {
            self.sheddable.insert(arrival);
        }
        self.follow_load(now);
    }

    /// Returns since when it has waited.
    pub(super) fn leave(&mut self, arrival: Arrival, now: Instant) -> Instant {
        let left = self.waiting.remove(&arrival);
        let left = left.expect("only who waits leaves");
        self.uncounted -= usize::from(!left.counts);
        self.sheddable.remove(&arrival);
        self.follow_load(now);
        left.since
    }

    /// Who has the next place, or has it after `last`, whose turn it was.
    pub(super) fn after(&self, last: Option<Arrival>) -> Option<(Arrival, SessionId)> {
        let bound = last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = match self.load.is_overload() {
            true => self.waiting.range((Bound::Unbounded, bound)).next_back(),
            false => self.waiting.range((bound, Bound::Unbounded)).next(),
        };
        next.map(|(arrival, waiting)| (*arrival, waiting.id))
    }

    /// Since when this one, whose turn it is, has waited; or since when anybody has, in whose stead it is.
    pub(super) fn turn_since(&self, arrival: Arrival) -> Instant {
        let waiting = self.waiting.get(&arrival);
        let since = waiting.expect("it was just found").since;
        self.passed_over_since().unwrap_or(since)
    }

    /// Since when those wait in whose stead others have their turn. `None`: there are none.
    pub(super) fn passed_over_since(&self) -> Option<Instant> {
        self.load.is_overload().then(|| self.oldest()).flatten()
    }

    /// Since when the first one has waited.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.values().next().map(|first| first.since)
    }

    // --- overload -----------------------------------------------------------------------------

    /// Goes by another order from now on. Nobody is sent away for what it has waited so far.
    pub(super) fn set_order(&mut self, order: Option<Adaptive>, now: Instant) {
        self.load.set_times(order, now);
        self.follow_load(now);
    }

    /// A pause is over: its time is nobody's wait.
    pub(super) fn restart(&mut self, now: Instant) {
        self.load.restart(now);
        self.follow_load(now);
    }

    /// Who has waited has a place.
    pub(super) fn gave_place(&mut self, now: Instant) {
        self.load.gave_place(now);
    }

    /// Before it is asked who is next, and who has waited for too long. `places`: that are taken.
    pub(super) fn look(&mut self, places: u64, now: Instant) {
        self.load.look(places, self.line(), now);
    }

    /// Who is to be sent away now, if anybody is.
    pub(super) fn overdue(&self, now: Instant) -> Option<(Arrival, SessionId)> {
        if self.sheds_at()? > now {
            return None;
        }
        let first = *self.sheddable.first()?;
        let waiting = self.waiting.get(&first);
        Some((first, waiting.expect("they wait").id))
    }

    /// When somebody is, if nothing changes. `None`: nobody.
    pub(super) fn sheds_at(&self) -> Option<Instant> {
        let first = self.sheddable.first()?;
        let waiting = self.waiting.get(first);
        let since = waiting.expect("they wait").since;
        self.load.sheds_at(since, self.line()?)
    }

    /// This one is not to be sent away, however long it waits.
    pub(super) fn spare(&mut self, arrival: Arrival) {
        self.sheddable.remove(&arrival);
    }

    /// When a client that is sent away should come back.
    pub(super) fn retry_after(&self) -> RetryAfter {
        self.load.retry_after(self.waiting.len() as u64)
    }

    fn follow_load(&mut self, now: Instant) {
        self.load.follow(self.line(), now);
    }

    /// Those who wait, unless they are worked off in their order because some of them came in a pause.
    fn line(&self) -> Option<InLine> {
        let oldest = self.oldest().filter(|_| self.uncounted == 0)?;
        Some(InLine {
            waiting: self.waiting.len() as u64,
            oldest,
        })
    }

    // --- how many -----------------------------------------------------------------------------

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
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
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    const COUNTS: Terms = Terms {
        counts: true,
        may_be_shed: true,
    };

    const OF_A_PAUSE: Terms = Terms {
        counts: false,
        may_be_shed: false,
    };

    const TIMES: Adaptive = Adaptive {
        target: Duration::from_millis(100),
        target_max: Duration::from_millis(400),
    };

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
        let (mut queue, now) = (Queue::new(10, None), Instant::now());
        let ours = queue.arrive();
        queue.join(ours, SessionId(1), COUNTS, now);
        for id in [2, 3] {
            let arrival = queue.arrive_from_before();
            queue.join(arrival, SessionId(id), COUNTS, now);
        }
        assert_eq!(order(&queue), [2, 3, 1]);
    }

    #[test]
    fn the_order_is_that_of_arrival_also_for_who_comes_back() {
        let (mut queue, now) = (Queue::new(10, None), Instant::now());
        let [first, second, third] = [7, 3, 5].map(|id| {
            let arrival = queue.arrive();
            queue.join(arrival, SessionId(id), COUNTS, now);
            arrival
        });
        assert_eq!(order(&queue), [7, 3, 5]);
        queue.leave(first, now);
        queue.leave(third, now);
        assert_eq!(order(&queue), [3]);
        queue.join(first, SessionId(7), COUNTS, now);
        assert_eq!(order(&queue), [7, 3]);
        queue.leave(second, now);
        queue.leave(first, now);
        assert!(queue.is_empty());
    }

    #[test]
    fn another_maximum_leaves_those_who_wait_where_they_are() {
        let (mut queue, now) = (Queue::new(3, None), Instant::now());
        for id in [7, 3] {
            let arrival = queue.arrive();
            queue.join(arrival, SessionId(id), COUNTS, now);
        }
        queue.set_max(1);
        assert!(queue.is_full());
        assert_eq!(order(&queue), [7, 3]);
        queue.set_max(3);
        assert!(!queue.is_full());
        let arrival = queue.arrive();
        queue.join(arrival, SessionId(1), COUNTS, now);
        assert_eq!(order(&queue), [7, 3, 1]);
    }

    #[test]
    fn it_is_full_at_its_maximum() {
        let mut queue = Queue::new(1, None);
        assert!(!queue.is_full());
        let arrival = queue.arrive();
        queue.join(arrival, SessionId(0), COUNTS, Instant::now());
        assert!(queue.is_full());
        assert!(Queue::new(0, None).is_full());
        assert!(!queue.is_full_beyond(1));
        assert!(queue.is_full_beyond(0));
        assert!(!queue.is_full_beyond(u64::MAX));
    }

    #[test]
    fn who_does_not_count_leaves_its_room_to_others() {
        let (mut queue, now) = (Queue::new(1, None), Instant::now());
        let [first, second, third] = [OF_A_PAUSE, OF_A_PAUSE, COUNTS].map(|terms| {
            assert!(!queue.is_full());
            let arrival = queue.arrive();
            queue.join(arrival, SessionId(0), terms, now);
            arrival
        });
        assert!(queue.is_full() && queue.is_full_beyond(0));
        queue.leave(second, now);
        assert!(queue.is_full());
        queue.leave(third, now);
        assert!(!queue.is_full());
        queue.leave(first, now);
        assert!(queue.is_empty() && !queue.is_full());
    }

    /// Sessions 0 to 5 come, 50 ms after one another, and of three places one comes free every 10 ms.
    fn adaptive(start: Instant) -> Queue {
        let mut queue = Queue::new(10, Some(TIMES));
        for step in 0..30 {
            let at = start + MS * 10 * step;
            if step % 5 == 0 {
                come(&mut queue, step / 5, COUNTS, at);
            }
            queue.gave_place(at);
            if step < 20 {
                queue.look(PLACES, at);
            }
        }
        queue
    }

    /// Those that are taken.
    const PLACES: u64 = 3;

    fn come(queue: &mut Queue, number: u32, terms: Terms, at: Instant) -> Arrival {
        let arrival = queue.arrive();
        queue.join(arrival, SessionId(number as usize), terms, at);
        arrival
    }

    /// The order at that time.
    fn order_at(queue: &mut Queue, now: Instant) -> Vec<usize> {
        queue.look(PLACES, now);
        order(queue)
    }

    /// Sends away whom there is to send away at that time.
    fn shed(queue: &mut Queue, now: Instant) -> Vec<usize> {
        let mut shed = Vec::new();
        queue.look(PLACES, now);
        while let Some((arrival, id)) = queue.overdue(now) {
            queue.leave(arrival, now);
            shed.push(id.0);
        }
        shed
    }

    #[test]
    fn while_too_many_wait_the_newest_is_first_and_who_has_waited_for_long_is_sent_away() {
        let start = Instant::now();
        let mut queue = adaptive(start);
        let (before, then) = (start + 199 * MS, start + 200 * MS);
        assert_eq!(order_at(&mut queue, before), [0, 1, 2, 3, 4, 5]);
        assert_eq!(
            (queue.overdue(before), queue.sheds_at()),
            (None, Some(then))
        );
        assert_eq!(order_at(&mut queue, then), [5, 4, 3, 2, 1, 0]);
        // 100 ms is what somebody may wait, and not a moment less.
        assert_eq!(queue.sheds_at(), Some(start + 100 * MS));
        let (first, id) = queue.overdue(then).unwrap();
        assert_eq!(id, SessionId(0));
        queue.leave(first, then);
        assert_eq!(queue.sheds_at(), Some(start + 150 * MS));
    }

    #[test]
    fn those_who_have_waited_for_long_are_sent_away_until_as_few_wait_as_there_are_places() {
        let start = Instant::now();
        let mut queue = adaptive(start);
        assert_eq!(shed(&mut queue, start + 1_000 * MS), [0, 1, 2]);
        assert_eq!(order(&queue), [3, 4, 5]);
        assert_eq!(queue.sheds_at(), None);
    }

    #[test]
    fn once_it_was_empty_first_come_is_first_served_again() {
        let start = Instant::now();
        let mut queue = adaptive(start);
        let at = start + 290 * MS;
        assert_eq!(order_at(&mut queue, at), [5, 4, 3, 2, 1, 0]);
        while let Some((arrival, _)) = queue.after(None) {
            queue.leave(arrival, at);
        }
        for number in 7..12 {
            come(&mut queue, number, COUNTS, at);
        }
        assert_eq!(order_at(&mut queue, at + 799 * MS), [7, 8, 9, 10, 11]);
        assert_eq!(order_at(&mut queue, at + 800 * MS), [11, 10, 9, 8, 7]);
    }

    #[test]
    fn who_stays_is_never_sent_away() {
        let start = Instant::now();
        let mut queue = Queue::new(10, Some(TIMES));
        let stays = Terms {
            may_be_shed: false,
            ..COUNTS
        };
        let first = come(&mut queue, 0, stays, start);
        for number in 1..5 {
            come(&mut queue, number, COUNTS, start);
        }
        let late = start + 5_000 * MS;
        queue.look(0, late);
        let (spared, id) = queue.overdue(late).unwrap();
        assert_eq!(id, SessionId(1));
        queue.spare(spared);
        while let Some((arrival, _)) = queue.overdue(late) {
            queue.leave(arrival, late);
        }
        assert_eq!((queue.sheds_at(), order(&queue)), (None, vec![1, 0]));
        // Nor is who comes back after a turn of its own.
        queue.leave(first, late);
        queue.join(first, SessionId(0), stays, late);
        assert_eq!(queue.overdue(late + 5_000 * MS), None);
    }

    #[test]
    fn those_who_came_in_a_pause_are_worked_off_in_their_order_before_anybody_is_sent_away() {
        let start = Instant::now();
        let mut queue = adaptive(start);
        let paused = [6, 7].map(|number| come(&mut queue, number, OF_A_PAUSE, start + 300 * MS));
        let resumed = start + 60_000 * MS;
        queue.restart(resumed);
        come(&mut queue, 8, COUNTS, resumed);
        let later = resumed + 5_000 * MS;
        assert_eq!(order_at(&mut queue, later), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((queue.overdue(later), queue.sheds_at()), (None, None));
        for arrival in paused {
            queue.leave(arrival, later);
        }
        // Their wait is one since then, as far as that goes.
        let from = later + 400 * MS;
        assert_eq!(order_at(&mut queue, from - MS), [0, 1, 2, 3, 4, 5, 8]);
        assert_eq!(queue.sheds_at(), Some(from));
        assert_eq!(order_at(&mut queue, from), [8, 5, 4, 3, 2, 1, 0]);
    }

    #[test]
    fn a_pause_in_which_nobody_came_is_nobodys_wait() {
        let start = Instant::now();
        let mut queue = adaptive(start);
        let resumed = start + 60_000 * MS;
        queue.restart(resumed);
        assert_eq!(queue.overdue(resumed), None);
        assert_eq!(queue.sheds_at(), Some(resumed + 800 * MS));
    }

    #[test]
    fn another_order_leaves_those_who_wait_where_they_are() {
        let start = Instant::now();
        let mut queue = adaptive(start);
        let then = start + 1_000 * MS;
        assert_eq!(order_at(&mut queue, then), [5, 4, 3, 2, 1, 0]);
        queue.set_order(None, then);
        assert_eq!(order_at(&mut queue, then), [0, 1, 2, 3, 4, 5]);
        assert_eq!((queue.overdue(then), queue.sheds_at()), (None, None));
        queue.set_order(Some(TIMES), then);
        assert_eq!(order_at(&mut queue, then), [0, 1, 2, 3, 4, 5]);
        assert_eq!(queue.sheds_at(), Some(then + 800 * MS));
        // The same once more changes nothing.
        queue.set_order(Some(TIMES), then + 500 * MS);
        assert_eq!(queue.sheds_at(), Some(then + 800 * MS));
    }

    #[test]
    fn whose_turn_it_is_has_the_hopes_of_those_that_were_passed_over() {
        let start = Instant::now();
        let mut queue = adaptive(start);
        let mut since = |at| {
            queue.look(PLACES, at);
            let (next, _) = queue.after(None).unwrap();
            (queue.turn_since(next), queue.passed_over_since())
        };
        assert_eq!(since(start + 199 * MS), (start, None));
        assert_eq!(since(start + 290 * MS), (start, Some(start)));
    }

    #[test]
    fn a_queue_that_got_nothing_in_a_turn_is_first_in_the_next() {
        // The first one takes all that a turn gives, again and again.
        assert_eq!(next_first(RouteKey(0), true), RouteKey(1));
        // It takes all and wants no more, and the second one gets nothing.
        assert_eq!(next_first(RouteKey(1), false), RouteKey(1));
    }
}
