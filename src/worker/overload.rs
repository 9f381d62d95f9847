//! When a queue is overloaded, and who is to be served and sent away then (`--queue-order adaptive`).
//!
//! A queue that empties now and then absorbs bursts: whoever waits is served in a moment, and first come, first served is
//! what is fair. One in which everybody waits for long has more to do than there are places for. First come, first served,
//! the wait becomes as long as clients have patience, and each is served when that is over: work is done for those who
//! have left, or are about to. So then the newest is served first, and who has waited for long is told to come back later.
//!
//! That is what CoDel does with packets (K. Nichols, V. Jacobson; RFC 8289), and its measure is taken over: not how many
//! wait, but that for an interval nobody was served who had waited for less than a target; and that a queue which is as
//! short as can be is none. Serving the newest first is *adaptive LIFO* (B. Maurer, "Fail at Scale", ACM Queue 13(8),
//! 2015). Their times are of networks and of services that answer within milliseconds; those here are of web pages.
//!
//! Pure: the time comes as an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::fastcgi::RetryAfter;

/// How long somebody may wait, and the interval for which everybody has waited for longer before anything follows from it.
/// Long against the 5 ms of CoDel, because a place comes free only when a script is over. Short against the patience of
/// people: half of the second after which they notice that they wait (J. Nielsen, *Usability Engineering*, 1993).
/// docs/results/experiments.md has the figures (*A queue that adapts*).
const TARGET: Duration = Duration::from_millis(500);

/// The same at most, where places are taken for long. A quarter of what clients have by default
/// (`ConnectionLimits::QUEUE_TIMEOUT_DEFAULT`).
const TARGET_MAX: Duration = Duration::from_millis(2500);

/// How many windows, of a target each, the service rate is the mean of: four seconds, with [`TARGET`].
const WINDOWS: usize = 8;

/// The times by which a queue that adapts goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Adaptive {
    /// How long somebody may wait.
    pub target: Duration,
    /// The same, where it takes longer than that until each place was given once: that is no sign of too many who wait.
    pub target_max: Duration,
}

impl Adaptive {
    /// Those of every route.
    pub(crate) const USUAL: Self = Self {
        target: TARGET,
        target_max: TARGET_MAX,
    };
}

/// Those who wait, as far as the load goes by them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InLine {
    /// How many there are.
    pub(super) waiting: u64,
    /// Since when the first of them has waited.
    pub(super) oldest: Instant,
}

/// How much is asked of a queue, against what it can give.
pub(super) struct Load {
    /// `None`: first come, first served, whatever is asked of it.
    times: Option<Adaptive>,
    /// While somebody waits.
    stand: Option<Stand>,
    /// No wait counts before that: a pause has ended then, or these times were set.
    counts_from: Option<Instant>,
}

/// Of a queue that is not empty.
struct Stand {
    rate: ServiceRate,
    /// How long somebody may wait, by the rate.
    target: Duration,
    /// Those that are taken.
    places: u64,
    pressure: Pressure,
    /// What was before that is no measure.
    since: Instant,
}

/// Whether too much is asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pressure {
    /// Somebody was served, or may be, before the target was over.
    None,
    /// From then on, whoever was first has waited for longer than that.
    Since(Instant),
    /// And has for an interval.
    Overload,
}

impl Load {
    pub(super) fn new(times: Option<Adaptive>) -> Self {
        Self {
            times,
            stand: None,
            counts_from: None,
        }
    }

    /// Goes by other times. Who waits is not sent away for what it has waited so far.
    pub(super) fn set_times(&mut self, times: Option<Adaptive>, now: Instant) {
        if self.times != times {
            self.times = times;
            self.restart(now);
        }
    }

    /// What was before is no measure: nothing was given out in a pause. To be followed by [`Load::follow`].
    pub(super) fn restart(&mut self, now: Instant) {
        self.stand = None;
        self.counts_from = Some(now);
    }

    /// Somebody has come or left. `None`: nobody waits.
    pub(super) fn follow(&mut self, line: Option<InLine>, now: Instant) {
        match (&mut self.stand, line) {
            (Some(stand), Some(line)) => stand.follow(line, self.counts_from, now),
            (None, Some(_)) => self.stand = self.times.map(|times| Stand::new(times, now)),
            (Some(_) | None, None) => self.stand = None,
        }
    }

    /// Somebody who has waited has a place.
    pub(super) fn gave_place(&mut self, now: Instant) {
        if let Some(stand) = &mut self.stand {
            stand.rate.follow(now);
            stand.rate.given += 1;
        }
    }

    /// Takes over what is known by now, with so many places that are taken, before places are given.
    pub(super) fn look(&mut self, places: u64, line: Option<InLine>, now: Instant) {
        self.follow(line, now);
        let (Some(stand), Some(line), Some(times)) = (&mut self.stand, line, self.times) else {
            return;
        };
        stand.places = places;
        stand.rate.follow(now);
        let turn = stand.rate.time_for(places).unwrap_or(times.target_max);
        stand.target = turn.clamp(times.target, times.target_max);
        stand.follow(line, self.counts_from, now);
        if stand.is_long(line) && stand.overload_from(line, self.counts_from) <= now {
            stand.pressure = Pressure::Overload;
        }
    }

    /// Whether more is asked of the queue than it can give, when it was looked at last.
    pub(super) fn is_overload(&self) -> bool {
        let stand = self.stand.as_ref();
        stand.is_some_and(|stand| stand.pressure == Pressure::Overload)
    }

    /// When somebody who has waited since then is to be sent away, if nothing changes. `None`: not with so few who wait.
    pub(super) fn sheds_at(&self, since: Instant, line: InLine) -> Option<Instant> {
        let stand = self.stand.as_ref().filter(|stand| stand.is_long(line))?;
        let waited = counted(since, self.counts_from) + stand.target;
        match stand.pressure {
            Pressure::Overload => Some(waited),
            Pressure::None | Pressure::Since(_) => {
                Some(waited.max(stand.overload_from(line, self.counts_from)))
            }
        }
    }

    /// When a client may find a place that comes back: when so many who wait have had theirs.
    pub(super) fn retry_after(&self, waiting: u64) -> RetryAfter {
        let stand = self.stand.as_ref();
        let time = stand.and_then(|stand| stand.rate.time_for(waiting));
        time.map_or(RetryAfter::MOST, RetryAfter::of)
    }
}

/// Since when a wait counts.
fn counted(since: Instant, counts_from: Option<Instant>) -> Instant {
    counts_from.map_or(since, |from| from.max(since))
}

impl Stand {
    /// Nothing is known of the rate.
    fn new(times: Adaptive, now: Instant) -> Self {
        Self {
            rate: ServiceRate::new(times.target, now),
            target: times.target_max,
            places: 0,
            pressure: Pressure::None,
            since: now,
        }
    }

    /// Whether more wait than find a place when each is given once.
    fn is_long(&self, line: InLine) -> bool {
        line.waiting > self.places
    }

    fn follow(&mut self, line: InLine, counts_from: Option<Instant>, now: Instant) {
        if self.pressure == Pressure::Overload {
            if self.is_long(line) {
                return;
            }
            (self.pressure, self.since) = (Pressure::None, now);
        }
        let late_from = self.late_from(line, counts_from);
        self.pressure = match self.pressure {
            _ if late_from > now => Pressure::None,
            Pressure::None => Pressure::Since(late_from),
            pressure => pressure,
        };
    }

    /// When the first one has waited for longer than somebody may.
    fn late_from(&self, line: InLine, counts_from: Option<Instant>) -> Instant {
        (counted(line.oldest, counts_from) + self.target).max(self.since)
    }

    /// When whoever was first has for an interval, if nothing changes.
    fn overload_from(&self, line: InLine, counts_from: Option<Instant>) -> Instant {
        let since = match self.pressure {
            Pressure::Since(since) => since,
            Pressure::None | Pressure::Overload => self.late_from(line, counts_from),
        };
        since + self.target
    }
}

/// How many places come free: while somebody waits, each of them is given to one of those at once, so it is how many
/// were given. Counted in windows, and told of whole ones only, so that what follows from it stays for a window.
struct ServiceRate {
    window: Duration,
    /// When the current one began.
    began: Instant,
    /// In this one.
    given: u32,
    /// In those before it, the last one at the end.
    before: VecDeque<u32>,
}

impl ServiceRate {
    fn new(window: Duration, now: Instant) -> Self {
        Self {
            window,
            began: now,
            given: 0,
            before: VecDeque::with_capacity(WINDOWS),
        }
    }

    /// Ends the windows that are over.
    fn follow(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        let over = passed.as_nanos() / self.window.as_nanos();
        let over = u32::try_from(over).unwrap_or(u32::MAX);
        // With one more than are kept, this one is forgotten as well.
        for _ in 0..(over as usize).min(WINDOWS + 1) {
            if self.before.len() == WINDOWS {
                self.before.pop_front();
            }
            self.before.push_back(self.given);
            self.given = 0;
        }
        self.began += self.window * over;
    }

    /// How long it takes until so many places were given, by the whole windows. `None`: no place was, or nothing is
    /// known yet.
    fn time_for(&self, places: u64) -> Option<Duration> {
        let given: u32 = self.before.iter().sum();
        let known = self.window * u32::try_from(self.before.len()).expect("they are few");
        let time = known.as_nanos() * u128::from(places);
        let time = time.checked_div(given.into())?;
        Some(Duration::from_nanos(
            u64::try_from(time).unwrap_or(u64::MAX),
        ))
    }
}

#[cfg(test)]
mod open_loop;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    const TIMES: Adaptive = Adaptive {
        target: Duration::from_millis(100),
        target_max: Duration::from_millis(400),
    };

    /// The first of so many who wait came then.
    fn line(waiting: u64, oldest: Instant) -> Option<InLine> {
        Some(InLine { waiting, oldest })
    }

    /// 20 wait from then on, and a place comes free every so often, of eight, for others.
    fn served_every(period: Duration, from: Instant, until: Instant) -> Load {
        let mut load = Load::new(Some(TIMES));
        load.follow(line(20, from), from);
        let mut at = from;
        while at < until {
            load.gave_place(at);
            load.look(8, line(20, from), at);
            at += period;
        }
        load.look(8, line(20, from), until);
        load
    }

    fn sheds_at(load: &Load, since: Instant, oldest: Instant) -> Option<Instant> {
        load.sheds_at(since, line(20, oldest).unwrap())
    }

    #[test]
    fn a_queue_is_overloaded_that_has_let_everybody_wait_for_too_long_for_an_interval() {
        let start = Instant::now();
        assert!(!served_every(10 * MS, start, start + 199 * MS).is_overload());
        let mut load = served_every(10 * MS, start, start + 200 * MS);
        assert!(load.is_overload());
        // Whoever has waited since.
        load.follow(line(20, start + 290 * MS), start + 300 * MS);
        assert!(load.is_overload());
        load.follow(None, start + 300 * MS);
        assert!(!load.is_overload());
    }

    #[test]
    fn one_who_is_served_before_the_target_is_over_begins_the_interval_anew() {
        let start = Instant::now();
        let mut load = served_every(10 * MS, start, start + 150 * MS);
        assert_eq!(sheds_at(&load, start, start), Some(start + 200 * MS));
        // The next one, which is first now, has waited for as long as somebody may.
        let next = start + 90 * MS;
        load.follow(line(20, next), start + 190 * MS);
        assert_eq!(sheds_at(&load, next, next), Some(start + 200 * MS));
        // Another one for a moment less.
        let next = start + 91 * MS;
        load.follow(line(20, next), start + 190 * MS);
        assert_eq!(sheds_at(&load, next, next), Some(start + 291 * MS));
    }

    #[test]
    fn no_more_who_wait_than_there_are_places_are_no_overload() {
        let start = Instant::now();
        let mut load = served_every(10 * MS, start, start + 150 * MS);
        let few = line(8, start);
        assert_eq!(load.sheds_at(start, few.unwrap()), None);
        load.look(8, few, start + 1_000 * MS);
        assert!(!load.is_overload());
        // One more is, as everybody has waited for long.
        load.look(8, line(9, start), start + 1_001 * MS);
        assert!(load.is_overload());
        // And is none any more with one less: the interval begins anew.
        load.follow(few, start + 1_100 * MS);
        assert!(!load.is_overload());
        load.look(8, line(9, start), start + 1_100 * MS);
        assert!(!load.is_overload());
        let target = load.stand.as_ref().unwrap().target;
        let at = start + 1_100 * MS + target;
        assert_eq!(load.sheds_at(start, line(9, start).unwrap()), Some(at));
    }

    #[test]
    fn whoever_has_waited_for_a_target_is_sent_away_once_the_queue_is_overloaded() {
        let start = Instant::now();
        let load = served_every(10 * MS, start, start + 150 * MS);
        let at = |load: &Load, millis| sheds_at(load, start + millis * MS, start);
        assert_eq!(at(&load, 0), Some(start + 200 * MS));
        assert_eq!(at(&load, 100), Some(start + 200 * MS));
        assert_eq!(at(&load, 140), Some(start + 240 * MS));
        let load = served_every(10 * MS, start, start + 200 * MS);
        assert_eq!(at(&load, 140), Some(start + 240 * MS));
        assert_eq!(at(&load, 10), Some(start + 110 * MS));
        assert_eq!(sheds_at(&Load::new(Some(TIMES)), start, start), None);
    }

    #[test]
    fn first_come_first_served_is_never_overloaded() {
        let start = Instant::now();
        let mut load = Load::new(None);
        load.follow(line(20, start), start);
        load.gave_place(start + MS);
        load.look(8, line(20, start), start + 10_000 * MS);
        assert!(!load.is_overload());
        assert_eq!(sheds_at(&load, start, start), None);
    }

    #[test]
    fn where_places_are_taken_for_long_somebody_may_wait_until_each_was_given_once() {
        let start = Instant::now();
        // 8 places in 30 ms each: 240 ms.
        let load = served_every(30 * MS, start, start + 300 * MS);
        assert_eq!(load.stand.as_ref().unwrap().target, 240 * MS);
        let last = start + 300 * MS;
        assert_eq!(sheds_at(&load, last, start), Some(last + 240 * MS));
        // Where nothing comes free, as long as anybody may.
        let mut load = Load::new(Some(TIMES));
        load.follow(line(20, start), start);
        load.look(8, line(20, start), start + 799 * MS);
        assert!(!load.is_overload());
        assert_eq!(sheds_at(&load, start, start), Some(start + 800 * MS));
        load.look(8, line(20, start), start + 800 * MS);
        assert!(load.is_overload());
        let late = start + 1_000 * MS;
        assert_eq!(sheds_at(&load, late, start), Some(late + 400 * MS));
    }

    #[test]
    fn what_follows_from_the_rate_stays_for_a_window() {
        let start = Instant::now();
        let mut load = served_every(20 * MS, start, start + 190 * MS);
        let before = sheds_at(&load, start, start);
        load.look(8, line(20, start), start + 199 * MS);
        assert_eq!(sheds_at(&load, start, start), before);
        load.look(8, line(20, start), start + 300 * MS);
        // Of 10 places in 200 ms, and of none in the last 100 ms.
        assert_eq!(load.stand.as_ref().unwrap().target, 240 * MS);
    }

    #[test]
    fn the_rate_is_that_of_the_last_windows_and_what_stood_still_is_forgotten() {
        let start = Instant::now();
        let mut rate = ServiceRate::new(100 * MS, start);
        assert_eq!(rate.time_for(1), None);
        rate.given = 50;
        rate.follow(start + 99 * MS);
        assert_eq!(rate.time_for(1), None);
        rate.follow(start + 100 * MS);
        assert_eq!(rate.time_for(1), Some(2 * MS));
        assert_eq!(rate.time_for(100), Some(200 * MS));
        rate.follow(start + 800 * MS);
        assert_eq!(rate.time_for(1), Some(16 * MS));
        rate.follow(start + 900 * MS);
        assert_eq!(rate.time_for(1), None);
        rate.given = 50;
        rate.follow(start + 100_000_000 * MS);
        assert_eq!((rate.before.len(), rate.time_for(1)), (WINDOWS, None));
        assert_eq!(rate.began, start + 100_000_000 * MS);
    }

    #[test]
    fn clients_are_told_when_those_who_wait_have_had_their_places() {
        let start = Instant::now();
        let load = served_every(10 * MS, start, start + 1_000 * MS);
        let seconds = |waiting| load.retry_after(waiting).seconds();
        assert_eq!([0, 1, 100, 101, 250].map(seconds), [1, 1, 1, 2, 3]);
        assert_eq!(seconds(1_000_000), 60);
        // Nothing is given out: nobody knows when.
        assert_eq!(Load::new(Some(TIMES)).retry_after(1).seconds(), 60);
    }

    #[test]
    fn a_pause_is_no_wait_and_other_times_begin_anew() {
        let start = Instant::now();
        let mut load = served_every(10 * MS, start, start + 250 * MS);
        assert!(load.is_overload());
        let resumed = start + 5_000 * MS;
        load.restart(resumed);
        load.follow(line(20, start), resumed);
        assert!(!load.is_overload());
        assert_eq!(sheds_at(&load, start, start), Some(resumed + 800 * MS));
        load.set_times(Some(TIMES), resumed + 100 * MS);
        assert_eq!(sheds_at(&load, start, start), Some(resumed + 800 * MS));
        load.set_times(None, resumed + 200 * MS);
        load.follow(line(20, start), resumed + 200 * MS);
        assert_eq!(sheds_at(&load, start, start), None);
        load.set_times(Some(TIMES), resumed + 300 * MS);
        load.follow(line(20, start), resumed + 300 * MS);
        assert_eq!(sheds_at(&load, start, start), Some(resumed + 1_100 * MS));
    }
}
