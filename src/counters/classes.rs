//! What one worker counts of the requests of each class of a route, by the names of the classes.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Count, Histogram, Level, Outcome, StatusClass, TimeCell};
use crate::config::ClassName;

/// One worker's figures of one class of a route. It writes, the main thread reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ClassCounters {
    /// Requests that are over, by [`StatusClass`].
    pub requests: [Count; StatusClass::ALL.len()],
    /// Those of them that did not end well, by [`Outcome`].
    pub failed: [Count; Outcome::ALL.len()],
    /// Requests that had to wait for an endpoint to have room.
    pub queued: Count,
    /// Those that wait now.
    pub queue_depth: Level,
    /// Since when the first of them has waited.
    pub queue_oldest: TimeCell,
    /// How long clients waited that do not wait any more, however that ended.
    pub queue_wait: Histogram,
}

impl ClassCounters {
    /// A request is over. `None`: it had no answer, or ended well.
    pub fn ended(&self, status: Option<u16>, outcome: Option<Outcome>) {
        self.requests[StatusClass::of(status) as usize].add(1);
        if let Some(outcome) = outcome {
            self.failed[outcome as usize].add(1);
        }
    }
}

/// All of one worker's [`ClassCounters`] of one route, by the places of the classes. Without classes there are none.
///
/// The worker shows another list when it begins to serve the route; whoever looks takes the current one, as with
/// [`Endpoints`](super::Endpoints).
#[derive(Debug, Default)]
pub struct CountedClasses(ArcSwap<Vec<(ClassName, Arc<ClassCounters>)>>);

impl CountedClasses {
    /// For the one writer: shows these classes from now on, and counts on where one of the same name was counted.
    pub fn show(&self, names: impl Iterator<Item = ClassName>) -> Vec<Arc<ClassCounters>> {
        let before = self.0.load_full();
        let known = |name: &ClassName| {
            let mut known = before.iter().filter(|(other, _)| other == name);
            known.next().map(|(_, counters)| Arc::clone(counters))
        };
        let all: Vec<_> = names
            .map(|name| {
                let counters = known(&name).unwrap_or_default();
                (name, counters)
            })
            .collect();
        let counters = all.iter().map(|(_, counters)| Arc::clone(counters));
        let counters = counters.collect();
        self.0.store(Arc::new(all));
        counters
    }

    /// A look at all of them.
    pub fn all(&self) -> Arc<Vec<(ClassName, Arc<ClassCounters>)>> {
        self.0.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_counts_on_under_its_name_whatever_its_place() {
        let counted = CountedClasses::default();
        let names = |names: &[&str]| -> Vec<ClassName> {
            names.iter().map(|name| name.parse().unwrap()).collect()
        };
        let before = counted.show(names(&["default", "admin"]).into_iter());
        before[1].ended(Some(200), None);
        before[1].ended(None, Some(Outcome::QueueFull));
        let after = counted.show(names(&["default", "new", "admin"]).into_iter());
        let requests =
            |counters: &ClassCounters| -> u64 { counters.requests.iter().map(Count::get).sum() };
        let seen: Vec<_> = after.iter().map(|counters| requests(counters)).collect();
        assert_eq!(seen, [0, 0, 2]);
        assert_eq!(after[2].failed[Outcome::QueueFull as usize].get(), 1);
        assert_eq!(counted.all().len(), 3);
    }
}
