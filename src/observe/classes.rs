//! How the classes of a route's requests fare, as status and its table have it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::status::{HistogramStatus, QueueStatus};
use super::units::span;
use crate::config::{ClassName, ClassRules};
use crate::counters::{Buckets, ClassCounters, Outcome, ShareCounters, StatusClass};

/// Ends of requests that tell how a class fares: it has too little, or too much is asked of it.
const FAILED: [Outcome; 5] = [
    Outcome::QueueFull,
    Outcome::QueueShed,
    Outcome::QueueTimedOut,
    Outcome::QueueLeft,
    Outcome::RequestTimedOut,
];

/// One class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClassStatus {
    /// Its name in the configuration.
    pub name: String,
    /// The most connections to one endpoint that it may have.
    pub max: u64,
    /// How many of them are kept for it.
    pub reserve: u64,
    /// Of several that wait, the one with the largest goes first.
    pub priority: i32,
    /// Connections to all endpoints that it has now.
    pub busy: u64,
    /// Its requests that are over, by the class of their status; `none` had no answer.
    pub requests: BTreeMap<String, u64>,
    /// Those of them that came to nothing because too much was asked, by the reason.
    pub failed: BTreeMap<String, u64>,
    /// Its requests that wait.
    pub queue: QueueStatus,
}

/// What is configured of a route's classes, by their places.
pub(crate) type ClassLimits = Vec<(ClassName, ClassRules)>;

/// How each of them fares.
pub(super) fn status(
    limits: &ClassLimits,
    shares: &[ShareCounters],
    now: Instant,
) -> Vec<ClassStatus> {
    let class = |(name, rules): &(ClassName, ClassRules)| {
        let counted = Counted::of(name, shares);
        ClassStatus {
            name: name.to_string(),
            max: rules.max.get().into(),
            reserve: rules.reserve.into(),
            priority: rules.priority,
            busy: counted.busy,
            requests: counted.requests(),
            failed: counted.failed(),
            queue: counted.queue(rules.queue_max, now),
        }
    };
    limits.iter().map(class).collect()
}

/// What all workers count of one class.
struct Counted {
    cells: Vec<Arc<ClassCounters>>,
    busy: u64,
}

impl Counted {
    fn of(name: &ClassName, shares: &[ShareCounters]) -> Self {
        let mut counted = Self {
            cells: Vec::new(),
            busy: 0,
        };
        for share in shares {
            let classes = share.route.classes.all();
            let mut places = classes.iter().enumerate();
            let Some((place, (_, cells))) = places.find(|(_, (other, _))| other == name) else {
                continue;
            };
            counted.cells.push(Arc::clone(cells));
            share
                .endpoints
                .each(|_, endpoint| counted.busy += endpoint.busy[place].get());
        }
        counted
    }

    fn sum(&self, count: impl Fn(&ClassCounters) -> u64) -> u64 {
        self.cells.iter().map(|cells| count(cells)).sum()
    }

    fn requests(&self) -> BTreeMap<String, u64> {
        let count = |class: StatusClass| self.sum(|cells| cells.requests[class as usize].get());
        let all = StatusClass::ALL.into_iter();
        all.map(|class| (class.name().to_owned(), count(class)))
            .collect()
    }

    fn failed(&self) -> BTreeMap<String, u64> {
        let count = |outcome: Outcome| self.sum(|cells| cells.failed[outcome as usize].get());
        let all = FAILED.into_iter();
        all.map(|outcome| (outcome.name().to_owned(), count(outcome)))
            .collect()
    }

    fn queue(&self, max: u32, now: Instant) -> QueueStatus {
        let oldest = self
            .cells
            .iter()
            .filter_map(|cells| cells.queue_oldest.age(now));
        let mut wait = Buckets::default();
        self.cells
            .iter()
            .for_each(|cells| wait += cells.queue_wait.read());
        QueueStatus {
            depth: self.sum(|cells| cells.queue_depth.get()),
            max: Some(max.into()),
            oldest_wait_seconds: oldest.max().map(|age| age.as_secs_f64()),
            queued: self.sum(|cells| cells.queued.get()),
            wait: HistogramStatus::of(wait),
        }
    }
}

/// A line for it.
pub(super) fn line(class: &ClassStatus) -> String {
    let over: u64 = class.requests.values().sum();
    let failed: u64 = class.failed.values().sum();
    let reserve = match class.reserve {
        0 => String::new(),
        reserve => format!(", {reserve} kept for it"),
    };
    let oldest = match class.queue.oldest_wait_seconds {
        Some(oldest) => format!(", the first for {}", span(oldest)),
        None => String::new(),
    };
    format!(
        "{}: {} busy (at most {} at an endpoint{reserve}), {} wait{oldest}; {over} over, {failed} failed for load",
        class.name, class.busy, class.max, class.queue.depth
    )
}

/// What tests of everything that is made from a status begin with.
#[cfg(test)]
pub(super) fn samples() -> Vec<ClassStatus> {
    let counts = |counts: &[(&str, u64)]| {
        let owned = counts.iter().map(|(name, n)| ((*name).to_owned(), *n));
        owned.collect()
    };
    let queue = |depth, oldest| QueueStatus {
        depth,
        max: Some(64),
        oldest_wait_seconds: oldest,
        queued: 4,
        wait: HistogramStatus::of(Buckets::default()),
    };
    vec![
        ClassStatus {
            name: "default".to_owned(),
            max: 8,
            reserve: 0,
            priority: 0,
            busy: 3,
            requests: counts(&[("2xx", 80), ("none", 0)]),
            failed: counts(&[("queue_full", 0)]),
            queue: queue(0, None),
        },
        ClassStatus {
            name: "admin".to_owned(),
            max: 8,
            reserve: 2,
            priority: 10,
            busy: 2,
            requests: counts(&[("2xx", 10), ("none", 2)]),
            failed: counts(&[("queue_full", 2)]),
            queue: queue(1, Some(1.5)),
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::counters::RouteCounters;

    #[test]
    fn figures_of_all_workers_add_up_by_the_names_of_classes() {
        let rules = ClassRules {
            max: NonZeroU32::MIN,
            reserve: 0,
            priority: 3,
            queue_max: 5,
            queue_timeout: None,
            request_timeout: None,
        };
        let name = |name: &str| name.parse::<ClassName>().unwrap();
        let share = |names: &[&str]| {
            let route = Arc::new(RouteCounters::default());
            let counters = route.classes.show(names.iter().map(|text| name(text)));
            let share = ShareCounters {
                route,
                ..ShareCounters::default()
            };
            (share, counters)
        };
        let (one, of_one) = share(&["default", "admin"]);
        // It serves the route as it was, with other classes.
        let (other, of_other) = share(&["default", "old", "admin"]);
        of_one[1].ended(Some(200), None);
        of_other[2].ended(Some(503), Some(Outcome::QueueFull));
        of_other[1].ended(Some(200), None);
        of_other[2].queue_depth.raise();
        let limits = vec![(name("default"), rules), (name("admin"), rules)];
        let all = status(&limits, &[one, other], Instant::now());
        let names: Vec<_> = all.iter().map(|class| class.name.as_str()).collect();
        assert_eq!(names, ["default", "admin"]);
        assert_eq!(all[0].requests.values().sum::<u64>(), 0);
        assert_eq!((all[1].requests["2xx"], all[1].requests["5xx"]), (1, 1));
        assert_eq!(all[1].failed["queue_full"], 1);
        assert_eq!((all[1].queue.depth, all[1].queue.max), (1, Some(5)));
    }

    #[test]
    fn a_class_has_a_line() {
        let lines: Vec<_> = samples().iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "default: 3 busy (at most 8 at an endpoint), 0 wait; 80 over, 0 failed for load",
                "admin: 2 busy (at most 8 at an endpoint, 2 kept for it), 1 wait, the first for 1.5s; 12 over, 2 failed \
                 for load",
            ]
        );
    }
}
