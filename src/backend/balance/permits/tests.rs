//! Permits against a pool of workers that accepts as PHP-FPM does, in virtual time.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn range(least: u32, most: u32) -> AutoRange {
    AutoRange::new(least, most).unwrap()
}

/// Of a server that answers proofs.
fn proven(least: u32, most: u32) -> Permits {
    let mut permits = Permits::new(range(least, most), 7);
    permits.stand_on(Footing::Proven, 0);
    permits
}

/// One connection more, which is answered after `took`.
fn grow(permits: &mut Permits, open: &mut u32, now: Instant) -> Trial {
    assert!(permits.places(true, now) > *open, "{permits:?}");
    let mut trial = permits.opens(*open, now);
    *open += 1;
    Permits::asks(&mut trial, MS, now);
    trial
}

#[test]
fn nothing_grows_where_nothing_is_proven() {
    let now = Instant::now();
    let mut permits = Permits::new(range(1, 64), 1);
    assert_eq!((permits.limit(), permits.places(true, now)), (START, START));
    permits.stand_on(Footing::Proven, 1);
    assert_eq!(permits.places(true, now), START + 1);
    assert_eq!(permits.places(false, now), START);
}

#[test]
fn where_nothing_can_be_found_the_limit_is_the_most_and_that_is_told_once() {
    let mut permits = Permits::new(range(1, 64), 1);
    assert!(permits.stand_on(Footing::Unfit, 1));
    assert!(!permits.stand_on(Footing::Unfit, 1));
    assert_eq!(permits.limit(), 64);
    // Another program is there now.
    assert!(!permits.stand_on(Footing::Unknown, 40));
    assert_eq!(permits.limit(), START);
    permits.audit(40);
}

#[test]
fn it_grows_by_one_for_each_answer_at_once_and_by_no_more_than_one_at_a_time() {
    let now = Instant::now();
    let (mut permits, mut open) = (proven(1, 5), START);
    for limit in [3, 4, 5] {
        let trial = grow(&mut permits, &mut open, now);
        assert_eq!(permits.places(true, now), limit - 1);
        permits.answered(trial, open, now + MS);
        assert_eq!(permits.limit(), limit);
    }
    assert_eq!(permits.places(true, now), 5, "it is the most");
}

#[test]
fn what_is_late_depends_on_the_network() {
    let now = Instant::now();
    let mut permits = proven(1, 64);
    for (connect, late) in [
        (0, LATE_AFTER),
        (30, LATE_AFTER + 60 * MS),
        // Its first packet was lost.
        (3000, LATE_AFTER + 1000 * MS),
    ] {
        let mut trial = permits.opens(0, now);
        assert_eq!(Permits::asks(&mut trial, MS * connect, now), now + late);
    }
}

#[test]
fn at_the_ceiling_one_lingers_and_the_next_one_only_after_a_while() {
    let mut now = Instant::now();
    let (mut permits, mut open) = (proven(1, 64), START);
    let mut held = Vec::new();
    for _ in 0..3 {
        let began = now;
        let mut trial = grow(&mut permits, &mut open, now);
        now += LATE_AFTER + 2 * MS;
        let until = now + LINGER;
        assert_eq!(permits.late(&mut trial, open, now), Verdict::Until(until));
        assert_eq!(permits.limit(), START);
        now = until;
        assert_eq!(permits.late(&mut trial, open, now), Verdict::Close);
        open -= 1;
        permits.ended(trial, open);
        permits.left(open);
        permits.audit(open);
        while permits.places(true, now) == open {
            now += 10 * MS;
        }
        held.push(now - began);
    }
    assert!(held[0] >= HOLD * 3 / 4, "{held:?}");
    assert!(held.is_sorted() && held[2] > held[0] * 2, "{held:?}");
}

#[test]
fn who_loses_a_worker_to_others_gives_up_a_quarter() {
    let mut now = Instant::now();
    let (mut permits, open) = (proven(1, 64), 8);
    permits.begin(Some(8), open);
    assert!(!permits.renews(open, 0, now), "the first time is not now");
    now += RENEW_EVERY * 2;
    assert!(!permits.renews(open, 3, now), "some rest");
    assert!(!permits.renews(open - 1, 0, now), "a place is free");
    assert!(permits.renews(open, 0, now));
    assert!(!permits.renews(open, 0, now), "one at a time");
    permits.left(open - 1);
    let mut trial = permits.opens(open - 1, now);
    Permits::asks(&mut trial, MS, now);
    now += LATE_AFTER;
    assert_eq!(permits.late(&mut trial, open, now), Verdict::Close);
    assert_eq!(permits.limit(), 6);
    permits.ended(trial, open - 1);
    permits.audit(open - 1);
    assert_eq!(permits.places(true, now), 6, "others are first");
    assert!(permits.places(true, now + REGROW_AFTER) > 6);
}

#[test]
fn a_renewal_that_is_answered_at_once_changes_nothing() {
    let mut now = Instant::now();
    let (mut permits, open) = (proven(1, 64), 8);
    permits.begin(Some(8), open);
    permits.renews(open, 0, now);
    now += RENEW_EVERY * 2;
    assert!(permits.renews(open, 0, now));
    let mut trial = permits.opens(open - 1, now);
    Permits::asks(&mut trial, MS, now);
    permits.answered(trial, open, now + MS);
    assert_eq!(permits.limit(), 8);
}

#[test]
fn the_least_stays_however_long_it_waits() {
    let now = Instant::now();
    let mut permits = proven(2, 64);
    let mut trial = permits.opens(1, now);
    Permits::asks(&mut trial, MS, now);
    let late = now + LATE_AFTER;
    assert_eq!(permits.late(&mut trial, 2, late), Verdict::Stay);
    assert_eq!(permits.late(&mut trial, 2, late + LINGER), Verdict::Stay);
    assert_eq!(permits.limit(), 2);
    // One beyond that does not.
    permits.begin(Some(4), 2);
    permits.linger_at = Some(late + HOLD);
    let mut other = permits.opens(2, now);
    Permits::asks(&mut other, MS, now);
    assert_eq!(permits.late(&mut other, 3, late), Verdict::Close);
    permits.ended(other, 2);
    permits.answered(trial, 2, now + 5000 * MS);
    assert_eq!(permits.limit(), 2);
}

// --- daemons before one pool ----------------------------------------------------------------------

/// Workers, each of which has a connection or none, and those that wait for one in the order in which they came.
struct FpmPool {
    workers: u32,
    /// By daemon.
    accepted: Vec<u32>,
    backlog: VecDeque<usize>,
}

impl FpmPool {
    fn accept(&mut self) {
        while self.accepted.iter().sum::<u32>() < self.workers
            && let Some(daemon) = self.backlog.pop_front()
        {
            self.accepted[daemon] += 1;
        }
    }

    fn waits(&self, daemon: usize) -> bool {
        self.backlog.contains(&daemon)
    }
}

/// A daemon to which more comes than it has places for.
struct Daemon {
    permits: Permits,
    open: u32,
    /// The one that is asked, and when there is something to do about it.
    trial: Option<(Trial, Option<Instant>)>,
}

impl Daemon {
    /// `me`: its number before the pool.
    fn act(&mut self, me: usize, pool: &mut FpmPool, now: Instant) {
        if let Some((trial, at)) = self.trial.take() {
            self.look_at(trial, at, me, pool, now);
        }
        let surplus = self.open.saturating_sub(self.permits.most_now());
        let closes = match self.trial {
            Some(_) => surplus.min(1),
            None if surplus > 0 => 1,
            None => u32::from(self.permits.renews(self.open, 0, now)),
        };
        if closes > 0 && pool.accepted[me] > 0 {
            pool.accepted[me] -= 1;
            self.open -= 1;
            self.permits.left(self.open);
            pool.accept();
        }
        if self.trial.is_none() && self.open < self.permits.places(true, now) {
            let mut trial = self.permits.opens(self.open, now);
            self.open += 1;
            let late = Permits::asks(&mut trial, MS, now);
            self.trial = Some((trial, Some(late)));
            pool.backlog.push_back(me);
            pool.accept();
        }
        self.permits.audit(self.open);
    }

    fn look_at(
        &mut self,
        mut trial: Trial,
        at: Option<Instant>,
        me: usize,
        pool: &mut FpmPool,
        now: Instant,
    ) {
        if !pool.waits(me) {
            return self.permits.answered(trial, self.open, now);
        }
        if at.is_none_or(|at| at > now) {
            self.trial = Some((trial, at));
            return;
        }
        match self.permits.late(&mut trial, self.open, now) {
            Verdict::Until(at) => self.trial = Some((trial, Some(at))),
            Verdict::Stay => self.trial = Some((trial, None)),
            Verdict::Close => {
                pool.backlog.retain(|other| *other != me);
                self.open -= 1;
                self.permits.ended(trial, self.open);
                self.permits.left(self.open);
            }
        }
    }
}

/// What each of them has, at each of the samples of the second half of a run. One comes after the other.
fn samples(workers: u32, ranges: &[AutoRange], seed: u64, seconds: u32) -> Vec<Vec<u32>> {
    let mut now = Instant::now();
    let mut pool = FpmPool {
        workers,
        accepted: vec![0; ranges.len()],
        backlog: VecDeque::new(),
    };
    let daemons = ranges.iter().zip(0..).map(|(range, number)| {
        let mut permits = Permits::new(*range, seed * 1000 + number);
        permits.stand_on(Footing::Proven, 0);
        Daemon {
            permits,
            open: 0,
            trial: None,
        }
    });
    let mut daemons: Vec<_> = daemons.collect();
    let mut samples = Vec::new();
    let turns = seconds * 200;
    for turn in 0..turns {
        now += 5 * MS;
        for (me, daemon) in daemons.iter_mut().enumerate() {
            // The others come when the first has all of it.
            if turn >= u32::try_from(me).unwrap() * turns / 10 {
                daemon.act(me, &mut pool, now);
            }
        }
        if turn > turns / 2 && turn % 10 == 0 {
            let sum = daemons.iter().map(|daemon| daemon.open).sum();
            samples.push(pool.accepted.iter().copied().chain([sum]).collect());
        }
    }
    samples
}

fn mean(samples: &[Vec<u32>], of: usize) -> f64 {
    let sum: u32 = samples.iter().map(|sample| sample[of]).sum();
    f64::from(sum) / samples.len() as f64
}

#[test]
fn one_daemon_finds_all_workers_and_has_no_more_than_one_beside_them() {
    for workers in [1, 2, 8, 40, 64] {
        let samples = samples(workers, &[range(1, 64)], 3, 20);
        let (mean, most) = (mean(&samples, 0), samples.iter().map(|s| s[1]).max());
        assert!(mean > f64::from(workers) * 0.97, "{workers}: {mean}");
        assert!(most <= Some(workers + 1), "{workers}: {most:?}");
    }
}

#[test]
fn two_daemons_share_a_pool_and_neither_starves() {
    for seed in 0..20 {
        let samples = samples(8, &[range(1, 64); 2], seed, 120);
        for daemon in [0, 1] {
            let mean = mean(&samples, daemon);
            let least = samples.iter().map(|sample| sample[daemon]).min();
            assert!((2.2..5.8).contains(&mean), "seed {seed}: {mean}");
            assert!(least >= Some(1), "seed {seed}: {least:?}");
        }
        let used = mean(&samples, 0) + mean(&samples, 1);
        assert!(used > 7.6, "seed {seed}: {used}");
        let beyond = samples.iter().filter(|sample| sample[2] > 9).count();
        assert!(beyond * 16 < samples.len(), "seed {seed}: {beyond}");
        assert!(samples.iter().all(|sample| sample[2] <= 10), "seed {seed}");
    }
}

#[test]
fn three_daemons_share_a_pool() {
    for seed in 0..10 {
        let samples = samples(16, &[range(1, 64); 3], seed, 180);
        for daemon in 0..3 {
            let mean = mean(&samples, daemon);
            assert!(
                (2.0..10.2).contains(&mean),
                "seed {seed}: {daemon} has {mean}"
            );
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Pass(u64),
    Open(bool),
    Ask,
    Answer,
    Late,
    Close,
    Renew,
    Stand(Footing),
    Amend(u32, u32),
}

fn act() -> impl Strategy<Value = Act> {
    let footing = prop_oneof![
        Just(Footing::Unknown),
        Just(Footing::Proven),
        Just(Footing::Proven),
        Just(Footing::Unfit)
    ];
    prop_oneof![
        4 => (0..2_000_u64).prop_map(Act::Pass),
        8 => any::<bool>().prop_map(Act::Open),
        6 => Just(Act::Ask),
        6 => Just(Act::Answer),
        4 => Just(Act::Late),
        3 => Just(Act::Close),
        3 => Just(Act::Renew),
        1 => footing.prop_map(Act::Stand),
        1 => (1..5_u32, 0..20_u32).prop_map(|(least, more)| Act::Amend(least, least + more)),
    ]
}

proptest! {
    /// Whatever happens in whatever order.
    #[test]
    fn the_limit_keeps_its_bounds_and_is_kept(acts in prop::collection::vec(act(), 0..300)) {
        let mut now = Instant::now();
        let mut permits = proven(1, 8);
        // Of each connection that is open, its trial as long as there is one.
        let mut open: Vec<Option<Trial>> = Vec::new();
        let count = |open: &Vec<_>| u32::try_from(open.len()).unwrap();
        for act in acts {
            match act {
                Act::Pass(ms) => now += Duration::from_millis(ms),
                Act::Open(grows) => {
                    if permits.places(grows, now) > count(&open) {
                        let trial = permits.opens(count(&open), now);
                        open.push(Some(trial));
                    }
                }
                Act::Ask => {
                    let opening = |t: &&mut Trial| t.stage == TrialStage::Opening;
                    if let Some(trial) = open.iter_mut().flatten().find(opening) {
                        prop_assert!(Permits::asks(trial, MS, now) > now);
                    }
                }
                Act::Answer | Act::Late => {
                    let all = count(&open);
                    let asked = |t: &Option<Trial>| t.is_some_and(|t| t.stage != TrialStage::Opening);
                    let Some(at) = open.iter().position(asked) else { continue };
                    let Some(trial) = &mut open[at] else { continue };
                    if matches!(act, Act::Answer) {
                        permits.answered(*trial, all, now);
                        open[at] = None;
                    } else if permits.late(trial, all, now) == Verdict::Close {
                        let trial = open.remove(at).unwrap();
                        permits.ended(trial, count(&open));
                        permits.left(count(&open));
                    }
                }
                Act::Close => {
                    if let Some(trial) = open.pop() {
                        if let Some(trial) = trial {
                            permits.ended(trial, count(&open));
                        }
                        permits.left(count(&open));
                    }
                }
                Act::Renew => {
                    if permits.renews(count(&open), 0, now) {
                        if let Some(at) = open.iter().position(Option::is_none) {
                            open.remove(at);
                        }
                        permits.left(count(&open));
                    }
                }
                Act::Stand(footing) => {
                    permits.stand_on(footing, count(&open));
                }
                Act::Amend(least, most) => permits.amend(range(least, most), count(&open)),
            }
            permits.audit(count(&open));
        }
    }
}
