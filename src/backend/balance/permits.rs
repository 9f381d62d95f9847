//! How many connections an endpoint may have, where that is found out (`--per-endpoint-max auto`).
//!
//! PHP-FPM accepts a connection only when one of its workers is free, and a worker is free only when its last connection
//! is closed, be it used or not. So a question on a new connection that has no request yet (the fence) is answered at
//! once if a worker is free, and otherwise waits until one is: that is the *proof* of a new connection, and how long it
//! takes is all that is known here of others who use the same pool.
//!
//! - **Growth.** While requests wait and every place is taken, one connection more is opened. If its proof is answered
//!   at once, the limit is one higher, and the next one may be opened.
//! - **The ceiling.** If it is late, all workers are taken, and the limit stays where it is. The connection is closed,
//!   unless it is time for one to *linger* in the backlog, so that others who share the pool meet it there: see below.
//!   What has lingered in vain lingers again after twice the time.
//! - **The renewal.** While every place is taken, a connection that has nothing to do is closed now and then, and the
//!   next one that is opened tells who had the worker: if its proof is late, somebody else was waiting for one. Then the
//!   limit falls by a quarter, and what is open beyond it is closed as it comes to rest.
//!
//! Additive growth and a multiplicative fall lead several daemons that share a pool to equal parts (Chiu and Jain,
//! *Analysis of the increase and decrease algorithms for congestion avoidance*, 1989). Who has gained a worker while it
//! lingered takes at once what the other one gives up, and who has lost one leaves it to him for a second.
//!
//! Pure: the time comes as an argument.

use std::time::{Duration, Instant};

use super::policy::Random;
use crate::config::AutoRange;

/// A proof is late after this time and [`LATE_ROUND_TRIPS`]. A worker that is free has to be woken and scheduled; one
/// that is not is held by a kept connection, mostly for seconds.
const LATE_AFTER: Duration = Duration::from_millis(50);

/// So many times the time that the connect took are the network's: the answer takes one.
const LATE_ROUND_TRIPS: u32 = 2;

/// A connect that took longer than this had a packet lost, and tells nothing of the network.
const CONNECT_MAX: Duration = Duration::from_millis(500);

/// How long one stays in the backlog that may linger there: longer than from one renewal of whoever shares the pool to
/// the next, whose proof is late by then. Two that linger at one time wait in vain for one another to renew.
const LINGER: Duration = Duration::from_millis(700);

/// How often a connection is renewed while every place is taken. A renewal costs a worker two round trips.
const RENEW_EVERY: Duration = Duration::from_millis(500);

/// Every place counts as taken while no more than one in so many connections rests: of several that come to rest in one
/// turn, those who wait take some in the next.
const RESTING_PART: u32 = 4;

/// The connection that is opened within this time behind one that was closed to be renewed is the one that tells.
const RENEWAL_VALID: Duration = Duration::from_millis(100);

/// From a connection that has lingered to the next one that does: at first, and at most. Of two daemons that share eight
/// workers, both linger at one time in 2 % of all moments (`tests`); with 3 s, in 5 %.
const HOLD: Duration = Duration::from_secs(6);
const HOLD_MAX: Duration = Duration::from_secs(48);

/// Whoever has gained a worker in the backlog looks so soon whether the other one has given up more.
const SOON: Duration = Duration::from_millis(250);

/// How long whoever has lost one leaves to others what it gives up.
const REGROW_AFTER: Duration = Duration::from_secs(1);

/// What is left of a limit after a fall.
const FALL: (u32, u32) = (3, 4);

/// The limit of an endpoint of which nothing is known. With one place, whatever comes while the first request is slow
/// would wait for it.
const START: u32 = 2;

/// What is known of the server at an endpoint, as far as a limit can be found there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Footing {
    /// Nothing yet, or not any more: its connections have requests before anything is proven.
    #[default]
    Unknown,
    /// It answers proofs.
    Proven,
    /// It never does: there is nothing to be found.
    Unfit,
}

/// What a new connection is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum About {
    /// It is one of those that there may be.
    Place,
    /// It is one more.
    Growth,
    /// It is there again, after it was closed.
    Renewal,
}

/// A new connection, until it is known whether there was a worker for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    about: About,
    stage: TrialStage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TrialStage {
    /// It is being made.
    Opening,
    /// It was asked.
    Asked,
    /// There was no answer in time.
    Late,
    /// Nor is there another connection in its place.
    Stays,
}

/// What becomes of a connection whose proof is late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is closed.
    Close,
    /// It stays until then, or until it is answered.
    Until(Instant),
    /// It stays: without it, there would be fewer than there are always to be.
    Stay,
}

/// The limit of one endpoint, on one worker.
#[derive(Debug)]
pub(super) struct Permits {
    range: AutoRange,
    footing: Footing,
    limit: u32,
    /// Connections of which it is not known whether there are workers for them.
    trials: u32,
    /// Those among them that stay however long it takes.
    staying: u32,
    /// There is one beyond the limit, of which it is not known yet whether it may stay.
    is_growing: bool,
    /// Since the limit fell there were never more than so many.
    falling_from: u32,
    /// Nothing more is opened before that.
    grow_at: Option<Instant>,
    /// Nothing lingers before that.
    linger_at: Option<Instant>,
    /// How long after the next one that lingers in vain another one does.
    hold: Duration,
    /// When the next connection is renewed.
    renew_at: Option<Instant>,
    /// One was closed for it, and until then the next one that is opened tells.
    renewal_until: Option<Instant>,
    random: Random,
}

impl Permits {
    /// Of an endpoint of which nothing is known.
    pub(super) fn new(range: AutoRange, seed: u64) -> Self {
        Self {
            range,
            footing: Footing::Unknown,
            limit: range.clamp(START),
            trials: 0,
            staying: 0,
            is_growing: false,
            falling_from: 0,
            grow_at: None,
            linger_at: None,
            hold: HOLD,
            renew_at: None,
            renewal_until: None,
            random: Random(seed),
        }
    }

    /// The most connections that there may be, but for one that is tried.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// The same with that one.
    pub(super) fn most_now(&self) -> u32 {
        self.limit + u32::from(self.is_growing)
    }

    /// How many there may be now. `grows`: for one that can be tried.
    pub(super) fn places(&self, grows: bool, now: Instant) -> u32 {
        self.limit + u32::from(grows && self.may_grow(now))
    }

    fn may_grow(&self, now: Instant) -> bool {
        let is_over = |at: Option<Instant>| at.is_none_or(|at| at <= now);
        self.footing == Footing::Proven
            && !self.is_growing
            && self.trials == 0
            && self.limit < self.range.most()
            && is_over(self.grow_at)
            && is_over(self.renewal_until)
    }

    /// Goes by other bounds. `open`: connections there are.
    pub(super) fn amend(&mut self, range: AutoRange, open: u32) {
        self.range = range;
        self.set_limit(self.limit, open);
    }

    /// It is found out from now on, beginning with this limit if there is reason for one. `open`: connections there are.
    pub(super) fn begin(&mut self, start: Option<u32>, open: u32) {
        self.falling_from = open;
        (self.grow_at, self.linger_at, self.renew_at) = (None, None, None);
        self.hold = HOLD;
        if let Some(start) = start {
            self.set_limit(start, open);
        }
    }

    /// There are so many workers, for all who use them. How many of them are for others, is still to be found out.
    pub(super) fn begin_with_workers(&mut self, workers: Option<u32>, open: u32) {
        if let Some(workers) = workers {
            self.set_limit(self.range.part_of(workers), open);
        }
    }

    /// What is known of the server has changed. True: nothing can be found here any more.
    pub(super) fn stand_on(&mut self, footing: Footing, open: u32) -> bool {
        let before = std::mem::replace(&mut self.footing, footing);
        match (before, footing) {
            (_, Footing::Unfit) => self.set_limit(self.range.most(), open),
            // What it was had nothing to do with workers.
            (Footing::Unfit, _) => self.set_limit(START, open),
            (Footing::Unknown | Footing::Proven, _) => {}
        }
        before != footing && footing == Footing::Unfit
    }

    /// A connection is opened, beside so many others.
    pub(super) fn opens(&mut self, others: u32, now: Instant) -> Trial {
        self.trials += 1;
        let about = match self.renewal_until.take() {
            Some(until) if now < until => About::Renewal,
            _ if others >= self.limit => {
                self.is_growing = true;
                About::Growth
            }
            _ => About::Place,
        };
        Trial {
            about,
            stage: TrialStage::Opening,
        }
    }

    /// It is open and was asked. The connect took so long. Returns when it is late.
    pub(super) fn asks(trial: &mut Trial, connect: Duration, now: Instant) -> Instant {
        assert!(trial.stage == TrialStage::Opening, "it is asked once");
        trial.stage = TrialStage::Asked;
        now + LATE_AFTER + connect.min(CONNECT_MAX) * LATE_ROUND_TRIPS
    }

    /// It has answered. `open`: connections there are, this one included.
    pub(super) fn answered(&mut self, trial: Trial, open: u32, now: Instant) {
        self.ended(trial, open);
        if trial.about == About::Renewal && trial.stage == TrialStage::Asked {
            return;
        }
        let proven = open - self.trials.min(open);
        self.set_limit(self.limit.max(proven), open);
        // What was gained a moment ago is not given up in the next.
        self.renew_at = Some(now + self.roughly(RENEW_EVERY));
        match (trial.stage, trial.about) {
            (TrialStage::Late | TrialStage::Stays, _) => {
                self.hold = HOLD;
                self.grow_at = Some(now + SOON);
                self.linger_at = Some(now + self.roughly(HOLD));
            }
            (_, About::Growth) => {
                self.hold = HOLD;
                self.grow_at = None;
            }
            (_, About::Place | About::Renewal) => {}
        }
    }

    /// It has not answered in time.
    pub(super) fn late(&mut self, trial: &mut Trial, open: u32, now: Instant) -> Verdict {
        let first = match trial.stage {
            TrialStage::Opening | TrialStage::Asked => true,
            TrialStage::Late => false,
            TrialStage::Stays => return Verdict::Stay,
        };
        trial.stage = TrialStage::Late;
        let proven = open - self.trials.min(open);
        let verdict = match (first, trial.about) {
            (true, About::Renewal) => {
                let (part, of) = FALL;
                let fallen = ((proven + 1) * part / of).min(proven);
                self.set_limit(self.limit.min(fallen), open);
                self.grow_at = Some(now + REGROW_AFTER);
                self.linger_at = Some(now + self.roughly(HOLD));
                Verdict::Close
            }
            (true, About::Place | About::Growth) => {
                self.set_limit(self.limit.min(proven), open);
                match self.linger_at {
                    Some(at) if at > now => {
                        self.grow_at = Some(at);
                        Verdict::Close
                    }
                    _ => {
                        // One at a time.
                        let until = now + LINGER;
                        self.linger_at = Some(until + self.roughly(self.hold));
                        Verdict::Until(until)
                    }
                }
            }
            (false, _) => {
                let at = now + self.roughly(self.hold);
                self.hold = (self.hold * 2).min(HOLD_MAX);
                (self.grow_at, self.linger_at) = (Some(at), Some(at));
                Verdict::Close
            }
        };
        if proven + self.staying >= self.range.least() {
            return verdict;
        }
        trial.stage = TrialStage::Stays;
        self.staying += 1;
        Verdict::Stay
    }

    /// It has a request instead of being asked.
    pub(super) fn unasked(&mut self, trial: Trial, open: u32) {
        self.ended(trial, open);
        self.falling_from = self.falling_from.max(open);
    }

    /// It is closed, or known. `open`: connections there are.
    pub(super) fn ended(&mut self, trial: Trial, open: u32) {
        self.trials -= 1;
        self.staying -= u32::from(trial.stage == TrialStage::Stays);
        if trial.about == About::Growth {
            self.is_growing = false;
            self.falling_from = self.falling_from.max(open);
        }
    }

    /// Some connection is closed, and so many are left.
    pub(super) fn left(&mut self, open: u32) {
        self.falling_from = self.falling_from.min(open);
    }

    /// Whether a connection that has nothing to do is closed, to be opened again: of so many, of which so many rest.
    pub(super) fn renews(&mut self, open: u32, resting: u32, now: Instant) -> bool {
        let is_saturated = open >= self.limit && resting * RESTING_PART <= open;
        if !is_saturated || self.footing != Footing::Proven || self.limit <= self.range.least() {
            return false;
        }
        if self.is_growing || self.trials > 0 {
            return false;
        }
        let is_due = self.renew_at.is_some_and(|at| at <= now);
        if is_due || self.renew_at.is_none() {
            self.renew_at = Some(now + self.roughly(RENEW_EVERY));
        }
        if is_due {
            self.renewal_until = Some(now + RENEWAL_VALID);
        }
        is_due
    }

    fn set_limit(&mut self, limit: u32, open: u32) {
        let limit = self.range.clamp(limit);
        if limit < self.limit {
            self.falling_from = self.falling_from.max(open);
        }
        self.limit = limit;
    }

    /// This time, or up to a quarter more or less: or several daemons would go on in step.
    fn roughly(&mut self, time: Duration) -> Duration {
        let parts = 75 + u32::try_from(self.random.below(51)).expect("below 51");
        time * parts / 100
    }

    /// Whether there may be so many.
    #[cfg(any(test, fuzzing))]
    pub(super) fn audit(&self, open: u32) {
        let (least, most) = (self.range.least(), self.range.most());
        assert!(
            (least..=most).contains(&self.limit),
            "INVARIANT found_limit_is_kept: {} is not from {least} to {most}",
            self.limit
        );
        assert!(
            open <= self.most_now().max(self.falling_from),
            "INVARIANT found_limit_is_kept: {open} connections are open of {}, and there were {} when it fell",
            self.most_now(),
            self.falling_from
        );
    }
}

#[cfg(test)]
mod tests;
