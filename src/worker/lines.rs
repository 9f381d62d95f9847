//! Those who wait for places at a route's endpoints, where the route has classes: a queue for each class, and whose turn
//! it is. A route without classes has one queue, that of the default class.
//!
//! - A class waits only for itself: one whose first cannot have a place, because the class has as many as it may or what
//!   is left is kept for others, holds nobody else up.
//! - Of those that could have one, the class with the largest priority has it, whatever the others have waited: that can
//!   starve them. Among classes of one priority, whoever came first has it.

use std::cmp::Reverse;
use std::time::Instant;

use crate::backend::{CLASSES_MAX, ClassId};
use crate::fastcgi::RetryAfter;
use crate::session::{FirstInLine, SessionId};

use super::limits::Limit;
use super::queue::{Arrival, Had, Queue, Terms};

/// One worker's queues of one route.
pub(super) struct Lines {
    /// By the places of their classes. The first one numbers those who come, to whichever they go.
    classes: Vec<ClassLine>,
    /// Of each class of which somebody waits, who is first. Whoever comes is shown it.
    firsts: Vec<FirstInLine>,
}

/// The queue of one class.
struct ClassLine {
    queue: Queue,
    priority: i32,
}

/// Sessions of a class that can make no use of the place that is free, before the worker looks at others: each has failed at
/// the endpoint a moment ago, and asks it again after a pause.
const USELESS_OFFERS_MAX: u32 = 64;

/// Whose turn it was last, of each class: the next one is behind it. And how many of them could make no use of it.
#[derive(Clone, Copy, Default)]
pub(super) struct LastTurns([(Option<Had>, u32); CLASSES_MAX]);

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Turn {
    pub(super) id: SessionId,
    class: ClassId,
    had: Had,
}

/// Who has waited for too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Overdue {
    pub(super) id: SessionId,
    class: ClassId,
    arrival: Arrival,
}

impl LastTurns {
    /// It was this one's turn.
    pub(super) fn had(&mut self, turn: Turn) {
        self.0[turn.class.place()].0 = Some(turn.had);
    }

    /// The place was of no use to it.
    pub(super) fn was_useless(&mut self, turn: Turn) {
        self.0[turn.class.place()].1 += 1;
    }
}

impl Lines {
    pub(super) fn new(limit: &Limit) -> Self {
        let classes = limit.lines().map(|(queue_max, priority)| ClassLine {
            queue: Queue::new(queue_max, limit.order),
            priority,
        });
        Self {
            classes: classes.collect(),
            firsts: Vec::new(),
        }
    }

    /// So many may join from now on, and these go first. The classes are the same; who waits stays.
    pub(super) fn amend(&mut self, limit: &Limit, now: Instant) {
        assert!(
            limit.lines().count() == self.classes.len(),
            "with other classes it is another share"
        );
        for (class, (queue_max, priority)) in self.classes.iter_mut().zip(limit.lines()) {
            class.queue.set_max(queue_max);
            class.queue.set_order(limit.order, now);
            class.priority = priority;
        }
        self.follow_firsts();
    }

    /// The number of a session that comes now, whichever class its requests are of.
    pub(super) fn arrive(&mut self) -> Arrival {
        self.classes[0].queue.arrive()
    }

    /// The same of one that has waited in the process before this one.
    pub(super) fn arrive_from_before(&mut self) -> Arrival {
        self.classes[0].queue.arrive_from_before()
    }

    /// See [`Queue::join`].
    pub(super) fn join(
        &mut self,
        class: ClassId,
        (arrival, id): (Arrival, SessionId),
        terms: Terms,
        now: Instant,
    ) {
        let line = &mut self.classes[class.place()];
        line.queue.join(arrival, id, terms, now);
        self.follow_first(class);
    }

    /// See [`Queue::leave`].
    pub(super) fn leave(&mut self, class: ClassId, arrival: Arrival, now: Instant) -> Instant {
        let since = self.classes[class.place()].queue.leave(arrival, now);
        self.follow_first(class);
        since
    }

    fn follow_first(&mut self, class: ClassId) {
        let queue = self.of(class);
        let first = queue.oldest().map(|since| FirstInLine {
            class,
            since,
            is_passed_over: queue.passed_over_since().is_some(),
        });
        let known = self.firsts.iter().position(|first| first.class == class);
        match (known, first) {
            (Some(at), Some(first)) => self.firsts[at] = first,
            (Some(at), None) => {
                self.firsts.swap_remove(at);
            }
            (None, Some(first)) => self.firsts.push(first),
            (None, None) => {}
        }
    }

    fn follow_firsts(&mut self) {
        for class in self.waiting_classes() {
            self.follow_first(class);
        }
    }

    /// Those of which somebody waits.
    fn waiting_classes(&self) -> Vec<ClassId> {
        self.firsts.iter().map(|first| first.class).collect()
    }

    /// The queue of a class.
    pub(super) fn of(&self, class: ClassId) -> &Queue {
        &self.classes[class.place()].queue
    }

    /// Of each class of which somebody waits, who is first.
    pub(super) fn firsts(&self) -> &[FirstInLine] {
        &self.firsts
    }

    /// How many wait in each class, and since when the first does: by the places of the classes.
    pub(super) fn depths(&self) -> impl Iterator<Item = (usize, Option<Instant>)> {
        let queues = self.classes.iter().map(|class| &class.queue);
        queues.map(|queue| (queue.len(), queue.oldest()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.firsts.is_empty()
    }

    /// Whose turn it is, behind those whose turn it was, if somebody could have a place. That is asked of each class for
    /// who is next in it.
    pub(super) fn next(
        &self,
        last: &LastTurns,
        could_have_place: impl Fn(FirstInLine) -> bool,
    ) -> Option<Turn> {
        let turns = self.firsts.iter().filter_map(|first| {
            let class = first.class;
            let queue = self.of(class);
            let (last, useless) = last.0[class.place()];
            if useless == USELESS_OFFERS_MAX {
                return None;
            }
            let (had, id) = queue.after(last)?;
            let next = FirstInLine {
                since: queue.turn_since(had.arrival),
                ..*first
            };
            let turn = Turn { id, class, had };
            could_have_place(next).then_some(turn)
        });
        let rank = |turn: &Turn| {
            let ClassLine { queue, priority } = &self.classes[turn.class.place()];
            (Reverse(*priority), queue.stands_for(turn.had.arrival))
        };
        turns.min_by_key(rank)
    }

    // --- overload -----------------------------------------------------------------------------

    /// A pause is over: see [`Queue::restart`].
    pub(super) fn restart(&mut self, now: Instant) {
        for class in &mut self.classes {
            class.queue.restart(now);
        }
        self.follow_firsts();
    }

    /// Whoever had this turn has a place.
    pub(super) fn gave_place(&mut self, turn: Turn, now: Instant) {
        self.classes[turn.class.place()].queue.gave_place(now);
    }

    /// Before it is asked whose turn it is, and who has waited for too long. `places`: that a class has or could have;
    /// `None`: see [`Queue::look`].
    pub(super) fn look(&mut self, places: impl Fn(ClassId) -> Option<u64>, now: Instant) {
        for class in self.waiting_classes() {
            // One of several that has none has its turn when others give one back.
            let least = u64::from(self.classes.len() > 1);
            let places = places(class).map(|places| places.max(least));
            self.classes[class.place()].queue.look(places, now);
            self.follow_first(class);
        }
    }

    /// Who is to be sent away now, if anybody is, and when a client should come back that is.
    pub(super) fn overdue(&self, now: Instant) -> Option<(Overdue, RetryAfter)> {
        let mut classes = self.firsts.iter().map(|first| first.class);
        classes.find_map(|class| {
            let queue = self.of(class);
            let (arrival, id) = queue.overdue(now)?;
            Some((Overdue { id, class, arrival }, queue.retry_after()))
        })
    }

    /// When somebody is, if nothing changes. `None`: nobody.
    pub(super) fn sheds_at(&self) -> Option<Instant> {
        let queues = self.firsts.iter().map(|first| self.of(first.class));
        queues.filter_map(Queue::sheds_at).min()
    }

    /// This one is not to be sent away, however long it waits.
    pub(super) fn spare(&mut self, overdue: Overdue) {
        let line = &mut self.classes[overdue.class.place()];
        line.queue.spare(overdue.arrival);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::limits::ClassLimit;
    use super::*;

    const TERMS: Terms = Terms {
        counts: true,
        may_be_shed: true,
    };

    /// With these priorities, the default class first.
    fn lines(priorities: &[i32]) -> Lines {
        let class = |&priority: &i32| ClassLimit {
            max: 1,
            reserve: 0,
            priority,
            queue_max: 100,
        };
        Lines::new(&Limit {
            per_endpoint_max: None,
            queue_max: 100,
            order: None,
            classes: priorities.iter().map(class).collect(),
        })
    }

    /// Each session comes to its class.
    fn come(lines: &mut Lines, classes: &[usize]) -> Vec<Arrival> {
        let now = Instant::now();
        let come = |(id, class): (usize, &usize)| {
            let arrival = lines.arrive();
            lines.join(ClassId::at(*class), (arrival, SessionId(id)), TERMS, now);
            arrival
        };
        classes.iter().enumerate().map(come).collect()
    }

    /// Who has a turn, one after the other, where these classes could have places.
    fn order(lines: &Lines, could: &[usize]) -> Vec<usize> {
        let (mut last, mut order) = (LastTurns::default(), Vec::new());
        let could = |first: FirstInLine| could.contains(&first.class.place());
        while let Some(turn) = lines.next(&last, could) {
            order.push(turn.id.0);
            last.had(turn);
        }
        order
    }

    #[test]
    fn classes_of_one_priority_are_served_by_arrival() {
        let mut lines = lines(&[0, 0, 0]);
        come(&mut lines, &[1, 0, 2, 1, 0]);
        assert_eq!(order(&lines, &[0, 1, 2]), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_class_that_could_have_no_place_holds_nobody_up() {
        let mut lines = lines(&[0, 5, 0]);
        come(&mut lines, &[1, 0, 2, 1, 0]);
        assert_eq!(order(&lines, &[0, 2]), [1, 2, 4]);
        assert!(order(&lines, &[]).is_empty());
    }

    #[test]
    fn the_largest_priority_goes_first_whoever_came_first() {
        let mut lines = lines(&[0, 7, -1]);
        come(&mut lines, &[2, 0, 1, 2, 0, 1]);
        assert_eq!(order(&lines, &[0, 1, 2]), [2, 5, 1, 4, 0, 3]);
    }

    #[test]
    fn who_is_first_in_each_class_is_shown() {
        let (mut lines, now) = (lines(&[0, 0]), Instant::now());
        assert!(lines.is_empty());
        let arrivals = come(&mut lines, &[1, 1, 0]);
        let classes = |lines: &Lines| -> HashSet<_> {
            lines
                .firsts()
                .iter()
                .map(|first| first.class.place())
                .collect()
        };
        assert_eq!(classes(&lines), HashSet::from([0, 1]));
        lines.leave(ClassId::at(1), arrivals[0], now);
        assert_eq!(classes(&lines), HashSet::from([0, 1]));
        lines.leave(ClassId::at(1), arrivals[1], now);
        assert_eq!(classes(&lines), HashSet::from([0]));
        lines.leave(ClassId::at(0), arrivals[2], now);
        assert!(lines.is_empty());
    }

    proptest! {
        /// Whoever comes and leaves: each that waits in a class that could have a place has one turn, and nobody has it
        /// before one of a larger priority, or an earlier one of the same.
        #[test]
        fn everybody_has_a_turn_in_the_order_of_priority_and_arrival(
            priorities in prop::collection::vec(-2..3_i32, 1..5),
            comes in prop::collection::vec((0..5_usize, any::<bool>()), 0..40),
            could in prop::collection::vec(any::<bool>(), 5),
        ) {
            let mut lines = lines(&priorities);
            let classes: Vec<_> = comes.iter().map(|(class, _)| class % priorities.len()).collect();
            let arrivals = come(&mut lines, &classes);
            let all = classes.iter().zip(&comes).zip(arrivals).enumerate();
            let mut expected = Vec::new();
            for (id, ((class, (_, leaves)), arrival)) in all {
                if *leaves {
                    lines.leave(ClassId::at(*class), arrival, Instant::now());
                } else if could[*class] {
                    expected.push((-priorities[*class], id));
                }
            }
            expected.sort_unstable();
            let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
            let could: Vec<_> = (0..5).filter(|class| could[*class]).collect();
            prop_assert_eq!(order(&lines, &could), expected);
        }
    }
}
