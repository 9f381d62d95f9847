//! How much of a route a worker may have, and which workers have it.

use std::num::{NonZeroU32, NonZeroUsize};

use crate::backend::{CLASSES_MAX, ClassShare};
use crate::config::{AutoRange, ConnectionLimits, EndpointMax};

use super::overload::Adaptive;

/// How much of a route one worker may have at one time. Nobody else counts with it, so it is exact, and
/// no other thread's memory is touched for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limit {
    /// Open connections to each endpoint; `None`: any number.
    pub per_endpoint_max: Option<EndpointMax>,
    /// Clients that wait for one, where there are no classes.
    pub queue_max: usize,
    /// Whom the next place goes to, and who is sent away, while too many wait. `None`: first come, first served.
    pub order: Option<Adaptive>,
    /// What each class of requests may have of both. Empty: there are no classes.
    pub classes: ClassLimits,
}

/// How much the requests of each class may have, by the places of the classes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ClassLimits {
    each: [ClassLimit; CLASSES_MAX],
    count: usize,
}

/// How much requests of a class may have at one time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ClassLimit {
    /// At most so many connections to each endpoint.
    pub max: u32,
    /// So many of them are kept for it.
    pub reserve: u32,
    /// Of several that wait, the one with the largest goes first.
    pub priority: i32,
    /// Requests that wait.
    pub queue_max: usize,
}

impl ClassLimits {
    /// All of them.
    pub(crate) fn as_slice(&self) -> &[ClassLimit] {
        &self.each[..self.count]
    }
}

impl FromIterator<ClassLimit> for ClassLimits {
    fn from_iter<I: IntoIterator<Item = ClassLimit>>(all: I) -> Self {
        let mut limits = Self::default();
        for class in all {
            assert!(limits.count < CLASSES_MAX, "classes have a bound");
            limits.each[limits.count] = class;
            limits.count += 1;
        }
        limits
    }
}

impl Limit {
    /// Its parts for so many shards, which add up to the whole.
    pub(crate) fn divided(self, shards: usize) -> impl Iterator<Item = Self> {
        let count = NonZeroUsize::new(shards).expect("somebody serves it");
        (0..shards).map(move |shard| self.part(count, shard))
    }

    fn part(&self, shards: NonZeroUsize, shard: usize) -> Self {
        let part = |whole| ConnectionLimits::part(whole, shards, shard);
        let queue = |max: usize| {
            let max = u32::try_from(max).expect("a queue has a bound");
            part(max) as usize
        };
        let number = |max: u32| {
            let number = NonZeroU32::new(part(max));
            number.expect("no more shards than permits are configured")
        };
        let permits = |max: EndpointMax| match max {
            EndpointMax::Fixed(max) => EndpointMax::Fixed(number(max.get())),
            EndpointMax::Auto(range) => {
                let [least, most] = [range.least(), range.most()].map(|n| number(n).get());
                let range = AutoRange::new(least, most).expect("as before");
                let parts = u32::try_from(shards.get()).ok().and_then(NonZeroU32::new);
                EndpointMax::Auto(range.one_of(parts.expect("workers are few")))
            }
        };
        let class = |class: &ClassLimit| ClassLimit {
            max: part(class.max),
            reserve: part(class.reserve),
            priority: class.priority,
            queue_max: queue(class.queue_max),
        };
        Self {
            per_endpoint_max: self.per_endpoint_max.map(permits),
            queue_max: queue(self.queue_max),
            order: self.order,
            classes: self.classes.as_slice().iter().map(class).collect(),
        }
    }

    /// How many may wait in each queue, and how early it has its turn: by the places of the classes.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, i32)> {
        let classes = self.classes.as_slice();
        let of_route = classes.is_empty().then_some((self.queue_max, 0));
        let of_classes = classes
            .iter()
            .map(|class| (class.queue_max, class.priority));
        of_route.into_iter().chain(of_classes)
    }

    /// What each class may have of an endpoint's places.
    pub(super) fn shares(&self) -> Vec<ClassShare> {
        let share = |class: &ClassLimit| ClassShare {
            max: class.max,
            reserve: class.reserve,
        };
        self.classes.as_slice().iter().map(share).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(per_endpoint_max: u32, queue_max: usize, shards: usize) -> Vec<(u32, usize)> {
        let whole = Limit {
            per_endpoint_max: NonZeroU32::new(per_endpoint_max).map(EndpointMax::Fixed),
            queue_max,
            order: None,
            classes: ClassLimits::default(),
        };
        let parts = whole.divided(shards);
        parts
            .map(|part| {
                let permits = part.per_endpoint_max.and_then(EndpointMax::fixed).unwrap();
                (permits.get(), part.queue_max)
            })
            .collect()
    }

    #[test]
    fn shards_divide_bounds_as_they_divide_numbers() {
        let whole = Limit {
            per_endpoint_max: AutoRange::new(3, 64).map(EndpointMax::Auto),
            queue_max: 0,
            order: None,
            classes: ClassLimits::default(),
        };
        let parts = whole.divided(2).map(|part| part.per_endpoint_max.unwrap());
        let parts: Vec<_> = parts.map(|part| part.to_string()).collect();
        assert_eq!(parts, ["auto:2-32", "auto:1-32"]);
    }

    #[test]
    fn shards_share_permits_and_queue_without_losing_any() {
        assert_eq!(parts(8, 1024, 1), [(8, 1024)]);
        assert_eq!(parts(8, 3, 2), [(4, 2), (4, 1)]);
        assert_eq!(parts(5, 0, 3), [(2, 0), (2, 0), (1, 0)]);
    }

    #[test]
    fn shards_share_what_each_class_may_have() {
        let class = |max, reserve, queue_max| ClassLimit {
            max,
            reserve,
            priority: 3,
            queue_max,
        };
        let whole = Limit {
            per_endpoint_max: NonZeroU32::new(8).map(EndpointMax::Fixed),
            queue_max: 9,
            order: None,
            classes: [class(8, 0, 9), class(3, 1, 1)].into_iter().collect(),
        };
        let parts = whole
            .divided(2)
            .map(|part| part.classes.as_slice().to_vec());
        let parts: Vec<_> = parts.collect();
        let expected = [
            vec![class(4, 0, 5), class(2, 1, 1)],
            vec![class(4, 0, 4), class(1, 0, 0)],
        ];
        assert_eq!(parts, expected);
    }

    #[test]
    fn routes_with_limits_go_round_the_workers() {
        let limit = Some(Limit {
            per_endpoint_max: None,
            queue_max: 1,
            order: None,
            classes: ClassLimits::default(),
        });
        let mut spread = Spread::new(3);
        let mut workers = |limit, shards| -> Vec<usize> {
            let serving = spread.serving(limit, shards).into_iter();
            serving.map(|(worker, _)| worker).collect()
        };
        assert_eq!(workers(limit, 1), [0]);
        assert_eq!(workers(None, 1), [0, 1, 2]);
        assert_eq!(workers(limit, 3), [1, 2, 0]);
        assert_eq!(workers(limit, 1), [1]);
    }
}
