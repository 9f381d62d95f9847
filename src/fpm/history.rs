//! What is known of one pool, answer after answer, and whether its pm.max_children and our permits go together. Pure.
//!
//! No version of PHP-FPM tells pm.max_children. With `pm = static` it is the number of processes. Otherwise it is
//! known once the pool was seen unable to grow: it has reached it (`max children reached`), no process is idle, and in
//! two answers in a row there are as many. A dynamic pool forks each second while fewer than pm.min_spare_servers
//! (at least 1) are idle, so that is proof. One that forks on demand does so only when it notices a connection, and
//! of several at one moment it notices one: there it takes a count that has just grown as well.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Answered, PoolFigures, ProcessManager, Processes};

/// In this time a dynamic pool has forked, if it could: it looks once a second.
const GROWTH_TIME: Duration = Duration::from_secs(3);

/// What is known of one pool.
#[derive(Clone, Debug, Default)]
pub(super) struct PoolHistory {
    last: Option<Sample>,
    /// Why the last poll came to nothing.
    error: Option<String>,
    max_children: Option<u64>,
    fit: Fit,
    /// The last that was told.
    told: Fit,
}

/// What one answer says of the pool's growth.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    figures: Arc<PoolFigures>,
    /// Since the answer before it, the pool has wanted more processes than it may have.
    has_reached: bool,
}

/// What a poll has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PollNews {
    /// Nothing of which anybody has to hear.
    None,
    /// They fail from now on.
    Fails(String),
    /// They are answered again.
    Answers,
}

/// How a pool's pm.max_children and a route's permits go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fit {
    /// The former is not known.
    #[default]
    Unknown,
    /// They are the same.
    Same {
        /// Both.
        max_children: u64,
    },
    /// There are more permits, or there is no limit: what the pool has no process for waits where nobody sees it.
    Beyond {
        /// What the pool has.
        max_children: u64,
        /// What the route may open; `None`: without a limit.
        permits: Option<u64>,
    },
    /// There are fewer permits: some processes are for others.
    Within {
        /// What the pool has.
        max_children: u64,
        /// What the route may open.
        permits: u64,
    },
}

impl PoolHistory {
    /// The pool has answered.
    pub(super) fn answered(&mut self, figures: PoolFigures, now: Instant) -> PollNews {
        let before = self.last.take();
        let is_same_run = |before: &Sample| before.figures.is_same_run(&figures);
        let before = before.filter(is_same_run);
        if before.is_none() {
            self.max_children = None;
        }
        let has_reached = before.as_ref().is_some_and(|before| {
            figures.max_children_reached > before.figures.max_children_reached
        });
        let sample = Sample {
            at: now,
            figures: Arc::new(figures),
            has_reached,
        };
        // One that was found smaller was looked at while it had lost a process.
        self.max_children = self.max_children.max(seen(before.as_ref(), &sample));
        self.last = Some(sample);
        match self.error.take() {
            Some(_) => PollNews::Answers,
            None => PollNews::None,
        }
    }

    /// A poll has come to nothing, for this reason.
    pub(super) fn failed(&mut self, error: String) -> PollNews {
        let began = self.error.is_none();
        self.error = Some(error.clone());
        match began {
            true => PollNews::Fails(error),
            false => PollNews::None,
        }
    }

    /// Compares with the permits. `Some`: that is worth a line, and it was not told last.
    pub(super) fn judge(&mut self, permits: Option<u32>) -> Option<Fit> {
        self.fit = Fit::of(self.max_children, permits.map(u64::from));
        // Until it is known anew, nothing new is known.
        let is_news = self.fit != Fit::Unknown && self.fit != self.told;
        let is_expected = self.told == Fit::Unknown && matches!(self.fit, Fit::Same { .. });
        if is_news {
            self.told = self.fit;
        }
        (is_news && !is_expected).then_some(self.fit)
    }

    /// What it last said.
    pub(super) fn answer(&self) -> Option<Answered> {
        self.last.as_ref().map(|last| Answered {
            at: last.at,
            figures: Arc::clone(&last.figures),
        })
    }

    /// Why the last poll came to nothing, if it did.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Its pm.max_children, if that is known.
    pub(super) fn max_children(&self) -> Option<u64> {
        self.max_children
    }

    /// What an operator should change.
    pub(super) fn warning(&self) -> Option<String> {
        match self.fit {
            Fit::Beyond { .. } => Some(self.fit.to_string()),
            Fit::Unknown | Fit::Same { .. } | Fit::Within { .. } => None,
        }
    }

    /// What the pool is called.
    pub(super) fn pool(&self) -> &str {
        self.last.as_ref().map_or("", |last| &last.figures.pool)
    }
}

impl PoolFigures {
    /// Whether both were counted since the same start of the same pool.
    fn is_same_run(&self, other: &Self) -> bool {
        (self.started_at, self.process_manager, &self.pool)
            == (other.started_at, other.process_manager, &other.pool)
    }
}

impl Sample {
    /// The processes, if they could be counted: the pool's own counts prove nothing.
    fn counted(&self) -> Option<Processes> {
        let processes = self.figures.processes;
        processes.running.is_some().then_some(processes)
    }

    /// How many there are, if none of them is idle.
    fn all_busy(&self) -> Option<u64> {
        let processes = self.counted()?;
        (processes.idle == 0).then(|| processes.total())
    }
}

/// What these two answers prove of pm.max_children.
fn seen(before: Option<&Sample>, now: &Sample) -> Option<u64> {
    let total = now.counted()?.total();
    let is_known = match now.figures.process_manager {
        ProcessManager::Static => true,
        ProcessManager::Dynamic => before.is_some_and(|before| cannot_grow(before, now)),
        ProcessManager::Ondemand => {
            let wants_more = |before: &Sample| before.has_reached || now.has_reached;
            before.is_some_and(|before| cannot_grow(before, now) && wants_more(before))
        }
        ProcessManager::Other => false,
    };
    (is_known && total > 0).then_some(total)
}

/// Whether a pool that forks when it can did not in between.
fn cannot_grow(before: &Sample, now: &Sample) -> bool {
    let had_time = now.at.saturating_duration_since(before.at) >= GROWTH_TIME;
    let busy = now.all_busy();
    let has_reached = now.figures.max_children_reached > 0;
    had_time && has_reached && busy.is_some() && before.all_busy() == busy
}

impl Fit {
    fn of(max_children: Option<u64>, permits: Option<u64>) -> Self {
        let Some(max_children) = max_children else {
            return Self::Unknown;
        };
        match permits {
            Some(permits) if permits < max_children => Self::Within {
                max_children,
                permits,
            },
            Some(permits) if permits == max_children => Self::Same { max_children },
            permits => Self::Beyond {
                max_children,
                permits,
            },
        }
    }
}

/// A sentence with both numbers, and what to do.
impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown => f.write_str("pm.max_children is not known"),
            Self::Same { max_children } => {
                write!(
                    f,
                    "pm.max_children is {max_children}, and so is --per-endpoint-max"
                )
            }
            Self::Beyond {
                max_children,
                permits: Some(permits),
            } => write!(
                f,
                "pm.max_children is {max_children}, and --per-endpoint-max {permits}: requests beyond the \
                 {max_children} wait in PHP-FPM's backlog, for which --queue-timeout does not hold (lower \
                 --per-endpoint-max to {max_children}, or raise pm.max_children to {permits})"
            ),
            Self::Beyond {
                max_children,
                permits: None,
            } => write!(
                f,
                "pm.max_children is {max_children}, and --per-endpoint-max is not set, so without a limit: requests \
                 beyond the {max_children} wait in PHP-FPM's backlog, for which --queue-timeout does not hold (give \
                 --per-endpoint-max {max_children})"
            ),
            Self::Within {
                max_children,
                permits,
            } => write!(
                f,
                "pm.max_children is {max_children}, of which this route uses {permits} at most \
                 (--per-endpoint-max); the others are for whoever else connects there"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::INTERVAL;
    use super::super::page::tests::sample;
    use super::*;

    const PM: [ProcessManager; 3] = [
        ProcessManager::Static,
        ProcessManager::Dynamic,
        ProcessManager::Ondemand,
    ];

    /// One answer in each interval. The last figure of each is how many wait.
    struct Played {
        history: PoolHistory,
        now: Instant,
    }

    impl Played {
        fn new() -> Self {
            Self {
                history: PoolHistory::default(),
                now: Instant::now(),
            }
        }

        fn answer(&mut self, figures: PoolFigures) -> Option<u64> {
            self.now += INTERVAL;
            self.history.answered(figures, self.now);
            self.history.max_children()
        }
    }

    /// What is known after each of these answers: idle and active processes, how often the limit was reached, and the
    /// listen queue.
    fn known(pm: ProcessManager, answers: &[(u64, u64, u64, u64)]) -> Vec<Option<u64>> {
        let mut played = Played::new();
        let answers = answers.iter();
        answers
            .map(|&(idle, active, reached, queue)| {
                played.answer(sample(pm, (idle, active), (reached, queue)))
            })
            .collect()
    }

    #[test]
    fn a_static_pool_has_what_it_may_have() {
        let answers = [(3, 1, 0, 0), (2, 1, 0, 0), (0, 4, 0, 9)];
        assert_eq!(
            known(ProcessManager::Static, &answers),
            [Some(4), Some(4), Some(4)]
        );
    }

    #[test]
    fn a_pool_that_could_grow_and_does_not_is_at_its_limit() {
        // It grows, reaches the limit, stays there, and shrinks.
        let answers = [
            (1, 1, 0, 0),
            (0, 5, 1, 3),
            (0, 5, 1, 3),
            (2, 1, 1, 0),
            (2, 1, 1, 0),
        ];
        for pm in [ProcessManager::Dynamic, ProcessManager::Ondemand] {
            assert_eq!(
                known(pm, &answers),
                [None, None, Some(5), Some(5), Some(5)],
                "{pm:?}"
            );
        }
    }

    #[test]
    fn what_proves_nothing_is_not_taken_for_the_limit() {
        for answers in [
            // As many, but some idle: it has shrunk to its spare ones.
            &[(0, 5, 0, 0), (3, 0, 1, 0), (3, 0, 1, 0)][..],
            // The limit was never reached.
            &[(0, 3, 0, 0), (0, 3, 0, 0)],
            // It grows.
            &[(0, 3, 1, 0), (0, 4, 1, 0), (0, 5, 1, 0)],
        ] {
            for pm in [ProcessManager::Dynamic, ProcessManager::Ondemand] {
                let known = known(pm, answers);
                assert!(known.iter().all(Option::is_none), "{pm:?} {answers:?}");
            }
        }
        // As many as there is demand for, or as were noticed, long after the limit was reached.
        let quiet = [(0, 3, 1, 0), (0, 3, 1, 2), (0, 3, 1, 2)];
        assert_eq!(known(ProcessManager::Ondemand, &quiet), [None; 3]);
        assert_eq!(
            known(ProcessManager::Dynamic, &quiet),
            [None, Some(3), Some(3)]
        );
        assert_eq!(known(ProcessManager::Other, &quiet), [None; 3]);
    }

    #[test]
    fn a_pool_s_own_counts_prove_nothing() {
        for pm in PM {
            let mut played = Played::new();
            for _ in 0..3 {
                let mut figures = sample(pm, (0, 218), (1, 5));
                figures.processes.running = None;
                assert_eq!(played.answer(figures), None, "{pm:?}");
            }
        }
    }

    #[test]
    fn two_answers_at_one_moment_are_no_time_to_grow() {
        let mut history = PoolHistory::default();
        let now = Instant::now();
        for after in [Duration::ZERO, Duration::from_secs(1)] {
            let figures = sample(ProcessManager::Dynamic, (0, 5), (1, 3));
            history.answered(figures, now + after);
            assert_eq!(history.max_children(), None);
        }
    }

    #[test]
    fn another_start_of_php_fpm_is_another_pool() {
        let mut played = Played::new();
        let large = sample(ProcessManager::Static, (8, 0), (0, 0));
        assert_eq!(played.answer(large.clone()), Some(8));
        let restarted = PoolFigures {
            started_at: large.started_at + 1,
            ..sample(ProcessManager::Static, (4, 0), (0, 0))
        };
        assert_eq!(played.answer(restarted), Some(4));
    }

    #[test]
    fn failures_are_told_when_they_begin_and_when_they_end() {
        let mut history = PoolHistory::default();
        let figures = || sample(ProcessManager::Static, (4, 0), (0, 0));
        let now = Instant::now();
        assert_eq!(history.answered(figures(), now), PollNews::None);
        assert_eq!(
            history.failed("a".to_owned()),
            PollNews::Fails("a".to_owned())
        );
        assert_eq!(history.failed("b".to_owned()), PollNews::None);
        assert_eq!(history.error(), Some("b"));
        // What it said before is as old as it is.
        assert_eq!(history.answer().unwrap().at, now);
        assert_eq!(
            history.answered(figures(), now + INTERVAL),
            PollNews::Answers
        );
        assert_eq!(history.error(), None);
        assert_eq!(history.answered(figures(), now + INTERVAL), PollNews::None);
    }

    #[test]
    fn permits_that_do_not_fit_are_told_once_with_both_numbers() {
        for (permits, is_warning, parts) in [
            (
                Some(8),
                true,
                "pm.max_children is 4, and --per-endpoint-max 8: ",
            ),
            (
                None,
                true,
                "pm.max_children is 4, and --per-endpoint-max is not set",
            ),
            (
                Some(3),
                false,
                "pm.max_children is 4, of which this route uses 3",
            ),
        ] {
            let mut played = Played::new();
            played.answer(sample(ProcessManager::Static, (4, 0), (0, 0)));
            let told = played.history.judge(permits).unwrap().to_string();
            assert!(told.starts_with(parts), "{told}");
            assert_eq!(played.history.warning().is_some(), is_warning, "{told}");
            played.answer(sample(ProcessManager::Static, (3, 1), (0, 0)));
            assert_eq!(played.history.judge(permits), None);
        }
        let mut played = Played::new();
        played.answer(sample(ProcessManager::Static, (4, 0), (0, 0)));
        assert_eq!(
            played.history.judge(Some(4)),
            None,
            "that is as it should be"
        );
    }

    #[test]
    fn what_was_wrong_and_is_right_now_is_told_too() {
        let mut played = Played::new();
        let run = |started_at, processes| PoolFigures {
            started_at,
            ..sample(ProcessManager::Dynamic, (0, processes), (1, 1))
        };
        played.answer(run(1, 4));
        played.answer(run(1, 4));
        assert!(matches!(
            played.history.judge(Some(8)),
            Some(Fit::Beyond { .. })
        ));
        // PHP-FPM was restarted with another limit, which is not known at once.
        played.answer(run(2, 8));
        assert_eq!(played.history.judge(Some(8)), None);
        assert_eq!(played.history.warning(), None);
        played.answer(run(2, 8));
        assert_eq!(
            played.history.judge(Some(8)),
            Some(Fit::Same { max_children: 8 })
        );
        assert_eq!(played.history.judge(Some(8)), None);
    }
}
