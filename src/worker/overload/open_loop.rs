//! A queue in front of places that are taken for a fixed time, in virtual time: what comes of it under each load, by each
//! order. The figures are in docs/results/experiments.md:
//! `cargo test --lib worker::overload::open_loop -- --nocapture`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use super::super::QUEUE_LOOK_INTERVAL;
use super::super::queue::{Arrival, Queue, Terms};
use super::Adaptive;
use crate::session::SessionId;

const MS: Duration = Duration::from_millis(1);

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(2);

const PLACES: usize = 8;

/// How long a place is taken.
const SERVICE: Duration = Duration::from_millis(40);

const TERMS: Terms = Terms {
    counts: true,
    may_be_shed: true,
};

/// What became of those who came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Fates {
    came: u32,
    in_time: u32,
    shed: u32,
    gave_up: u32,
}

/// Who comes.
#[derive(Clone, Copy)]
enum Crowd {
    /// At random times, so many a second.
    Open(f64),
    /// So many, each again as soon as it is answered or sent away.
    Closed(u32),
    /// So many at once, and then nobody.
    Burst(u32),
}

struct Pool {
    now: Instant,
    service: Duration,
    queue: Queue,
    /// Since when each of those who wait has been there.
    came: BTreeMap<Arrival, Instant>,
    /// The same, by when they lose patience.
    patience: BTreeSet<(Instant, Arrival)>,
    /// When places come free, and whose they are then: since when it has been there.
    taken: BinaryHeap<Reverse<(Instant, Instant)>>,
    fates: Fates,
    /// Those that are answered or sent away, of a closed loop.
    free: u32,
}

impl Pool {
    fn new(order: Option<Adaptive>, service: Duration) -> Self {
        Self {
            now: Instant::now(),
            service,
            queue: Queue::new(10_000, order),
            came: BTreeMap::new(),
            patience: BTreeSet::new(),
            taken: BinaryHeap::new(),
            fates: Fates::default(),
            free: 0,
        }
    }

    fn come(&mut self) {
        self.fates.came += 1;
        if self.queue.is_empty() && self.taken.len() < PLACES {
            return self.serve(self.now);
        }
        let arrival = self.queue.arrive();
        self.queue.join(arrival, SessionId(0), TERMS, self.now);
        self.came.insert(arrival, self.now);
        self.patience.insert((self.now + PATIENCE, arrival));
    }

    fn serve(&mut self, came: Instant) {
        self.taken.push(Reverse((self.now + self.service, came)));
    }

    /// Returns since when it has been there.
    fn leave(&mut self, arrival: Arrival) -> Instant {
        self.queue.leave(arrival, self.now);
        let came = self.came.remove(&arrival).expect("it waits");
        self.patience.remove(&(came + PATIENCE, arrival));
        came
    }

    /// What is due.
    fn turn(&mut self) {
        while let Some(&Reverse((at, came))) = self.taken.peek()
            && at <= self.now
        {
            self.taken.pop();
            self.free += 1;
            match at <= came + PATIENCE {
                true => self.fates.in_time += 1,
                false => self.fates.gave_up += 1,
            }
        }
        while let Some(&(by, arrival)) = self.patience.first()
            && by <= self.now
        {
            self.leave(arrival);
            self.free += 1;
            self.fates.gave_up += 1;
        }
        self.queue.look(self.taken.len() as u64, self.now);
        while self.taken.len() < PLACES
            && let Some((arrival, _)) = self.queue.after(None)
        {
            let came = self.leave(arrival);
            self.queue.gave_place(self.now);
            self.serve(came);
        }
        while let Some((arrival, _)) = self.queue.overdue(self.now) {
            self.leave(arrival);
            self.free += 1;
            self.fates.shed += 1;
        }
    }

    /// When something is due next.
    fn next(&self) -> Option<Instant> {
        let ends = self.taken.peek().map(|Reverse((at, _))| *at);
        let leaves = self.patience.first().map(|(by, _)| *by);
        let look = (!self.queue.is_empty()).then(|| self.now + QUEUE_LOOK_INTERVAL);
        let sheds_at = self.queue.sheds_at().map(|at| at.max(self.now));
        [ends, leaves, look, sheds_at].into_iter().flatten().min()
    }
}

/// SplitMix64 (G. L. Steele et al., OOPSLA 2014).
fn share(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// What becomes of those who come between 15 and 45 s; in a burst, of all.
fn run(order: Option<Adaptive>, service: Duration, crowd: Crowd) -> Fates {
    let mut pool = Pool::new(order, service);
    let start = pool.now;
    let (mut counting, end) = (None, start + 45_000 * MS);
    let mut random = 7;
    let mut gap = |rate: f64| Duration::from_secs_f64(-(1.0 - share(&mut random)).ln() / rate);
    let mut comes_at = match crowd {
        Crowd::Open(rate) => Some(start + gap(rate)),
        Crowd::Closed(count) | Crowd::Burst(count) => {
            (0..count).for_each(|_| pool.come());
            None
        }
    };
    loop {
        let next = pool.next().into_iter().chain(comes_at).min();
        let Some(next) = next.filter(|next| *next < end) else {
            break;
        };
        pool.now = next;
        if next >= start + 15_000 * MS {
            counting.get_or_insert(pool.fates);
        }
        pool.turn();
        if let (Crowd::Open(rate), Some(at)) = (crowd, comes_at)
            && at <= next
        {
            pool.come();
            comes_at = Some(at + gap(rate));
        }
        if let Crowd::Closed(_) = crowd {
            (0..std::mem::take(&mut pool.free)).for_each(|_| pool.come());
        }
        pool.turn();
    }
    let before = counting.unwrap_or_default();
    Fates {
        came: pool.fates.came - before.came,
        in_time: pool.fates.in_time - before.in_time,
        shed: pool.fates.shed - before.shed,
        gave_up: pool.fates.gave_up - before.gave_up,
    }
}

fn capacity() -> f64 {
    PLACES as f64 / SERVICE.as_secs_f64()
}

/// Answers in time, of what can be done.
fn goodput(order: Option<Adaptive>, load: f64) -> (f64, Fates) {
    let fates = run(order, SERVICE, Crowd::Open(load * capacity()));
    (f64::from(fates.in_time) / 30.0 / capacity(), fates)
}

#[test]
fn above_the_capacity_first_come_first_served_is_of_use_to_nobody_and_the_newest_first_to_all_there_are_places_for()
 {
    for load in [1.2, 2.0] {
        let ((fifo, _), (adaptive, fates)) =
            (goodput(None, load), goodput(Some(Adaptive::USUAL), load));
        assert!(fifo < 0.1, "{load}: {fifo}");
        assert!(adaptive > 0.97, "{load}: {adaptive}");
        assert!(fates.gave_up < fates.came / 100, "{load}: {fates:?}");
    }
}

#[test]
fn below_it_nobody_is_sent_away_whom_there_was_time_for() {
    for load in [0.5, 0.8, 0.9] {
        let (fifo, adaptive) = (goodput(None, load), goodput(Some(Adaptive::USUAL), load));
        assert_eq!(fifo, adaptive);
        assert_eq!((adaptive.1.shed, adaptive.1.gave_up), (0, 0));
    }
}

#[test]
fn a_closed_loop_that_has_all_places_taken_all_the_time_is_no_overload() {
    for (clients, service) in [(9, 500), (16, 5), (16, 1_000), (64, 40), (100, 20)] {
        let crowd = Crowd::Closed(clients);
        let fates = run(Some(Adaptive::USUAL), service * MS, crowd);
        assert_eq!((fates.shed, fates.gave_up), (0, 0), "{clients}: {fates:?}");
        let done = 30.0 / (f64::from(service) / 1e3) * PLACES as f64;
        assert!(f64::from(fates.in_time) > 0.98 * done, "{fates:?}");
    }
}

#[test]
fn a_burst_that_is_worked_off_within_a_second_is_none_either() {
    for (count, service) in [(100, 50), (100, 75), (16, 400), (16, 1_000)] {
        let fates = run(Some(Adaptive::USUAL), service * MS, Crowd::Burst(count));
        assert_eq!((fates.in_time, fates.shed), (count, 0), "{fates:?}");
    }
}

/// How the target was chosen: the loads that are named above, by several of them.
#[test]
fn a_shorter_target_sends_those_away_for_whom_there_is_a_place_a_moment_later() {
    println!("target ms | load | goodput | 503 | gave up");
    let mut shed_at_capacity = Vec::new();
    let targets = [5, 20, 100, 250, 500, 1_000, 1_500].map(Some);
    for target in [None].into_iter().chain(targets) {
        for load in [0.8, 0.9, 1.0, 1.2, 2.0] {
            let order = target.map(|target| Adaptive {
                target: target * MS,
                target_max: (target * MS).max(Adaptive::USUAL.target_max),
            });
            let (goodput, fates) = goodput(order, load);
            let percent = |count: u32| f64::from(count) * 100.0 / f64::from(fates.came);
            println!(
                "{target:?} | {load} | {goodput:.3} | {:.1} % | {:.1} %",
                percent(fates.shed),
                percent(fates.gave_up)
            );
            if load == 1.0 && target.is_some() {
                shed_at_capacity.push(fates.shed);
            }
        }
    }
    // From the shortest to that of every route. Below 40 ms, it is that in which each place is given once.
    let shed = &shed_at_capacity[..5];
    assert!(shed.is_sorted_by(|shorter, longer| shorter >= longer) && shed[0] > 10 * shed[4]);
}
