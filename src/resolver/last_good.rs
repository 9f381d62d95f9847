//! What one question was last answered with, and when it is asked again. Pure.
//!
//! The questions are A and AAAA of a host and SRV of a service, and the rules are the same for all:
//! without an answer everything stays; only the word that there is nothing takes it away, after a
//! hold; and what is missing from an answer with others stays for as long as the operator said.

use std::collections::BTreeSet;
use std::mem;
use std::time::{Duration, Instant};

use super::outcome::{Failure, Found, LookupOutcome};
use super::schedule::{self, Jitter};
use crate::config::RefreshTimes;

/// One question: what it was answered with, and when it is asked again.
pub(super) struct Side<T> {
    last_good: LastGood<T>,
    latest: Latest,
    /// Failures in a row.
    failures: u32,
    phase: Phase,
    asked_last: Option<Instant>,
    items_max: usize,
}

enum Phase {
    Waiting {
        until: Instant,
    },
    Asking,
    /// And somebody waits for it, so that if there is no answer it is asked again early.
    Hastened,
}

enum LastGood<T> {
    /// Never answered, or denied for longer than the hold.
    Empty,
    Confirmed {
        items: Vec<Kept<T>>,
        at: Instant,
    },
    /// Still in use, although the name servers say since then that there is nothing.
    Denied {
        items: Vec<Kept<T>>,
        at: Instant,
        since: Instant,
    },
}

/// Sorted by `item`.
struct Kept<T> {
    item: T,
    /// Since when answers with others have been without it.
    missing_since: Option<Instant>,
}

/// How the latest lookup ended.
pub(super) enum Latest {
    Pending,
    Found,
    Failed(Failure),
}

impl<T: Ord + Clone> Side<T> {
    /// Never answered, and due at once. It keeps at most `items_max` items.
    pub(super) fn new(items_max: usize, now: Instant) -> Self {
        Self {
            last_good: LastGood::Empty,
            latest: Latest::Pending,
            failures: 0,
            phase: Phase::Waiting { until: now },
            asked_last: None,
            items_max,
        }
    }

    /// When it is to be asked; `None` while it is being asked.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Asking | Phase::Hastened => None,
        }
    }

    /// It is being asked from now on.
    pub(super) fn ask(&mut self, now: Instant) {
        self.phase = Phase::Asking;
        self.asked_last = Some(now);
    }

    /// Makes it due, also if it is being asked, and forgets the back-off. What is known stays.
    pub(super) fn ask_again(&mut self, now: Instant) {
        self.failures = 0;
        self.phase = Phase::Waiting { until: now };
    }

    /// Makes it due as soon as the schedule permits.
    pub(super) fn hasten(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Waiting { until } => {
                *until = schedule::earlier(*until, self.asked_last, now);
            }
            Phase::Asking | Phase::Hastened => self.phase = Phase::Hastened,
        }
    }

    /// What is in use, sorted.
    pub(super) fn items(&self) -> impl Iterator<Item = &T> {
        self.kept().iter().map(|kept| &kept.item)
    }

    /// What is in use and was in the last good answer, sorted.
    pub(super) fn present(&self) -> impl Iterator<Item = &T> {
        let present = self
            .kept()
            .iter()
            .filter(|kept| kept.missing_since.is_none());
        present.map(|kept| &kept.item)
    }

    fn kept(&self) -> &[Kept<T>] {
        match &self.last_good {
            LastGood::Empty => &[],
            LastGood::Confirmed { items, .. } | LastGood::Denied { items, .. } => items,
        }
    }

    /// When the last good answer came; `None` if nothing is in use.
    pub(super) fn answered_at(&self) -> Option<Instant> {
        match &self.last_good {
            LastGood::Empty => None,
            LastGood::Confirmed { at, .. } | LastGood::Denied { at, .. } => Some(*at),
        }
    }

    pub(super) fn latest(&self) -> &Latest {
        &self.latest
    }

    /// Takes an answer in.
    pub(super) fn answered(
        &mut self,
        outcome: LookupOutcome<T>,
        now: Instant,
        times: &RefreshTimes,
        jitter: Jitter,
    ) {
        let was_hastened = matches!(self.phase, Phase::Hastened);
        let (delay, is_missed) = match outcome {
            Ok(Found { items, ttl }) => {
                self.found(items, now, times);
                (schedule::refresh_after(ttl, times, jitter), false)
            }
            Err(failure) => {
                self.failed(failure, now, times);
                (self.retry_after(now, times, jitter), was_hastened)
            }
        };
        self.phase = Phase::Waiting { until: now + delay };
        if is_missed {
            self.hasten(now);
        }
    }

    fn found(&mut self, items: Vec<T>, now: Instant, times: &RefreshTimes) {
        let answer = BTreeSet::from_iter(items);
        let old = match mem::replace(&mut self.last_good, LastGood::Empty) {
            LastGood::Empty => Vec::new(),
            LastGood::Confirmed { items, .. } | LastGood::Denied { items, .. } => items,
        };
        let missing = old.into_iter().filter_map(|kept| {
            let since = kept.missing_since.unwrap_or(now);
            let is_kept = !schedule::left_of(times.keep_missing, since, now).is_zero();
            (is_kept && !answer.contains(&kept.item)).then_some(Kept {
                missing_since: Some(since),
                ..kept
            })
        });
        let missing: Vec<_> = missing.collect();
        let present = answer.into_iter().map(|item| Kept {
            item,
            missing_since: None,
        });
        let mut items: Vec<_> = present.chain(missing).take(self.items_max).collect();
        items.sort_by(|one, other| one.item.cmp(&other.item));
        self.last_good = LastGood::Confirmed { items, at: now };
        self.latest = Latest::Found;
        self.failures = 0;
    }

    fn failed(&mut self, failure: Failure, now: Instant, times: &RefreshTimes) {
        self.failures = self.failures.saturating_add(1);
        if failure == Failure::Nothing {
            let last_good = mem::replace(&mut self.last_good, LastGood::Empty);
            self.last_good = last_good.denied(now, times);
        }
        self.latest = Latest::Failed(failure);
    }

    /// The back-off, but no longer than until what is on hold may go.
    fn retry_after(&self, now: Instant, times: &RefreshTimes, jitter: Jitter) -> Duration {
        let delay = schedule::retry_after(self.failures, jitter);
        match self.last_good {
            LastGood::Denied { since, .. } => {
                match schedule::left_of(times.negative_hold, since, now) {
                    Duration::ZERO => delay,
                    left => delay.min(left),
                }
            }
            LastGood::Empty | LastGood::Confirmed { .. } => delay,
        }
    }

    /// When [`Side::expire`] has something to do.
    pub(super) fn expiry(&self, times: &RefreshTimes) -> Option<Instant> {
        let missing = self.kept().iter().filter_map(|kept| kept.missing_since);
        missing.min().map(|since| since + times.keep_missing)
    }

    /// Lets go of what has been missing for long enough.
    pub(super) fn expire(&mut self, now: Instant, times: &RefreshTimes) {
        let is_kept = |kept: &Kept<T>| {
            let left = |since| schedule::left_of(times.keep_missing, since, now);
            kept.missing_since
                .is_none_or(|since| !left(since).is_zero())
        };
        match &mut self.last_good {
            LastGood::Empty => {}
            LastGood::Confirmed { items, .. } | LastGood::Denied { items, .. } => {
                items.retain(is_kept);
            }
        }
    }
}

impl<T> LastGood<T> {
    /// The name servers said with authority that there is nothing.
    fn denied(self, now: Instant, times: &RefreshTimes) -> Self {
        let (items, at, since) = match self {
            Self::Empty => return Self::Empty,
            Self::Confirmed { items, at } => (items, at, now),
            Self::Denied { items, at, since } => (items, at, since),
        };
        if schedule::left_of(times.negative_hold, since, now).is_zero() {
            return Self::Empty;
        }
        Self::Denied { items, at, since }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::outcome::Cause;
    use super::*;
    use schedule::{BACKOFF_MAX, EARLY_INTERVAL};

    const KEEP: Duration = Duration::from_secs(30);

    fn times() -> RefreshTimes {
        RefreshTimes {
            keep_missing: KEEP,
            ..RefreshTimes::default()
        }
    }

    /// One question with a clock that moves by hand.
    struct Bench {
        side: Side<u8>,
        times: RefreshTimes,
        now: Instant,
    }

    impl Bench {
        fn new(times: RefreshTimes) -> Self {
            let now = Instant::now();
            let side = Side::new(4, now);
            Self { side, times, now }
        }

        fn found(&mut self, items: &[u8]) -> Vec<u8> {
            let items = items.to_vec();
            let ttl = Duration::from_secs(10);
            self.answered(Ok(Found { items, ttl }))
        }

        fn answered(&mut self, outcome: LookupOutcome<u8>) -> Vec<u8> {
            let jitter = Jitter::from_hash(0);
            self.side.answered(outcome, self.now, &self.times, jitter);
            self.items()
        }

        fn after(&mut self, span: Duration) -> &mut Self {
            self.now += span;
            self
        }

        fn hasten(&mut self) {
            self.side.hasten(self.now);
        }

        fn expire(&mut self) -> Vec<u8> {
            self.side.expire(self.now, &self.times);
            self.items()
        }

        fn items(&self) -> Vec<u8> {
            self.side.items().copied().collect()
        }
    }

    fn nothing() -> LookupOutcome<u8> {
        Err(Failure::Nothing)
    }

    fn silence() -> LookupOutcome<u8> {
        Err(Failure::NoAnswer(Cause::Silence))
    }

    #[test]
    fn what_leaves_the_answer_goes_at_once_by_default() {
        let mut bench = Bench::new(RefreshTimes::default());
        bench.found(&[1, 2]);
        assert_eq!(bench.found(&[2, 3]), [2, 3]);
        assert_eq!(bench.side.expiry(&bench.times), None);
    }

    #[test]
    fn what_leaves_the_answer_is_kept_for_as_long_as_told() {
        let mut bench = Bench::new(times());
        bench.found(&[1, 2]);
        bench.after(KEEP);
        assert_eq!(bench.found(&[2, 3]), [1, 2, 3], "from when it left");
        assert_eq!(bench.side.present().copied().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(bench.side.expiry(&bench.times), Some(bench.now + KEEP));
        bench.after(KEEP / 2);
        assert_eq!(bench.found(&[2, 3]), [1, 2, 3]);
        assert_eq!(bench.expire(), [1, 2, 3]);
        bench.after(KEEP / 2);
        assert_eq!(bench.expire(), [2, 3]);
        assert_eq!(bench.side.expiry(&bench.times), None);
    }

    #[test]
    fn rotating_subsets_become_one_set() {
        let mut bench = Bench::new(times());
        for subset in [[1, 2], [2, 3], [3, 1]] {
            bench.found(&subset);
        }
        for _ in 0..100 {
            for subset in [[1, 2], [2, 3], [3, 1]] {
                assert_eq!(bench.after(KEEP / 3).found(&subset), [1, 2, 3]);
            }
        }
    }

    #[test]
    fn what_comes_back_is_no_longer_missing() {
        let mut bench = Bench::new(times());
        bench.found(&[1, 2]);
        bench.found(&[2]);
        bench.found(&[1, 2]);
        assert_eq!(bench.side.expiry(&bench.times), None);
    }

    #[test]
    fn what_is_missing_gives_way_when_there_is_too_much() {
        let mut bench = Bench::new(times());
        bench.found(&[1, 2]);
        assert_eq!(bench.found(&[3, 4, 5]), [1, 3, 4, 5]);
        assert_eq!(bench.found(&[9, 8, 7, 6, 5]), [5, 6, 7, 8]);
    }

    #[test]
    fn without_a_hold_a_denial_takes_everything_at_once() {
        let mut bench = Bench::new(RefreshTimes {
            negative_hold: Duration::ZERO,
            ..times()
        });
        bench.found(&[1]);
        assert_eq!(bench.answered(silence()), [1]);
        assert!(bench.answered(nothing()).is_empty());
    }

    #[test]
    fn an_early_lookup_comes_at_once_and_the_next_one_after_the_interval() {
        let mut bench = Bench::new(RefreshTimes::default());
        bench.side.ask(bench.now);
        bench.found(&[1]);
        bench.after(EARLY_INTERVAL / 2).hasten();
        let asked = bench.now - EARLY_INTERVAL / 2;
        assert_eq!(bench.side.due(), Some(asked + EARLY_INTERVAL));
        bench.after(EARLY_INTERVAL).hasten();
        assert!(bench.side.due() <= Some(bench.now));
        bench.side.ask(bench.now);
        bench.hasten();
        assert_eq!(bench.side.due(), None, "it is being asked");
    }

    #[test]
    fn an_answer_that_is_missed_while_somebody_waits_is_asked_for_again_early() {
        let mut bench = Bench::new(RefreshTimes::default());
        for _ in 0..5 {
            bench.side.ask(bench.now);
            bench.answered(silence());
        }
        bench.side.ask(bench.now);
        bench.hasten();
        bench.after(EARLY_INTERVAL / 2).answered(silence());
        let asked = bench.now - EARLY_INTERVAL / 2;
        assert_eq!(bench.side.due(), Some(asked + EARLY_INTERVAL));
        bench.now = asked + EARLY_INTERVAL;
        bench.side.ask(bench.now);
        bench.answered(silence());
        assert_eq!(bench.side.due(), Some(bench.now + BACKOFF_MAX), "once");
    }

    /// What happens to a question.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Found {
            subset: u8,
            ttl: u32,
        },
        Nothing,
        Silence,
        /// A connect failed: it is wanted early.
        Hasten,
    }

    fn fates() -> impl Strategy<Value = Fate> {
        prop_oneof![
            3 => (1u8..16, prop_oneof![0u32..100, any::<u32>()])
                .prop_map(|(subset, ttl)| Fate::Found { subset, ttl }),
            1 => Just(Fate::Nothing),
            2 => Just(Fate::Silence),
            2 => Just(Fate::Hasten),
        ]
    }

    proptest! {
        /// Whatever the answers are: the next lookup comes, and neither too soon nor too late.
        #[test]
        fn the_schedule_keeps_its_bounds(
            fates in prop::collection::vec((fates(), any::<u64>()), 1..100),
            hold in 0u64..100,
            keep in 0u64..100,
        ) {
            let times = RefreshTimes {
                negative_hold: Duration::from_secs(hold),
                keep_missing: Duration::from_secs(keep),
                ..RefreshTimes::default()
            };
            let shortest = times.ttl_min.min(EARLY_INTERVAL);
            let longest = times.ttl_max.max(BACKOFF_MAX).mul_f64(1.1) + Duration::from_nanos(1);
            let mut bench = Bench::new(times);
            for (fate, hash) in fates {
                if let Fate::Hasten = fate {
                    bench.side.hasten(bench.now + Duration::from_nanos(hash % 2_000_000_000));
                    continue;
                }
                let due = bench.side.due().expect("it is not being asked");
                if let Some(last) = bench.side.asked_last {
                    let gap = due - last;
                    // A hold that ends brings one lookup of its own.
                    let held = matches!(bench.side.last_good, LastGood::Denied { .. });
                    prop_assert!(held || gap >= shortest, "{gap:?}");
                    prop_assert!(gap <= longest, "{gap:?}");
                }
                bench.now = due;
                bench.side.ask(due);
                let outcome = match fate {
                    Fate::Found { subset, ttl } => Ok(Found {
                        items: (0..4).filter(|bit| subset & (1 << bit) != 0).collect(),
                        ttl: Duration::from_secs(ttl.into()),
                    }),
                    Fate::Nothing => nothing(),
                    Fate::Silence | Fate::Hasten => silence(),
                };
                let before = bench.items();
                bench.side.answered(outcome.clone(), due, &times, Jitter::from_hash(hash));
                match outcome {
                    Ok(found) => {
                        let after = bench.items();
                        prop_assert!(found.items.iter().all(|item| after.contains(item)));
                        prop_assert!(!after.is_empty());
                    }
                    Err(Failure::NoAnswer(_)) => {
                        prop_assert_eq!(bench.items(), before, "no answer takes nothing away");
                    }
                    Err(Failure::Nothing) => {}
                }
            }
        }
    }
}
