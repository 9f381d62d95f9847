//! When another connection to an endpoint is opened, and when one that is kept is closed for the sake of
//! those that wait in the server's backlog.
//!
//! A new connection that has shown no life (not one byte, and not its end) is a *newcomer*: its server may
//! not have accepted it. PHP-FPM with `pm = ondemand` starts one worker for each time that it finds its
//! listening socket readable (`fpm_pctl_on_socket_accept`): of several connects at once, all but one may
//! stay in the backlog until a worker is free, and a worker is not free while a connection to it is kept.
//! A server with fewer workers than connections comes to the same. So there are two rules:
//!
//! - **The pace.** The next connection is opened when the last one has shown life; or after [`PACE`], or
//!   slow pages would start one after the other. While connections come to rest, a request waits for one of
//!   those instead, but for no longer than that.
//! - **The release.** A newcomer that is silent for longer than answers usually take here may be in the
//!   backlog: then one connection that has nothing to do is closed, and its worker takes what waits there.
//!   One for each newcomer, because a free worker serves one.
//! - **The hold.** A newcomer that lived only when something was closed for it shows that the server has no more
//!   workers than there were connections that lived. Opened again at once, the next one would wait as long, in vain.
//!   So while there are so many, and they come to rest, requests wait for those, and one is opened only now and
//!   then, to see whether the server has grown (PHP-FPM with `pm = dynamic` does, over seconds).
//!
//! Where connections are not kept, both are of no use, and off.
//!
//! Pure: the time comes as an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a newcomer holds the next one up. PHP-FPM has to be woken, and to start a worker, before it can be
/// asked for the next one. On two processors with eight times as many processes that wanted them, eight
/// connects at once started one of eight workers, and in steps of 2, 5 and 10 ms four, four and six of them.
/// Longer steps would serve a busy machine better and slow pages worse: the eighth of eight begins 35 ms late.
/// What is left in the backlog all the same, the release gets out.
pub(crate) const PACE: Duration = Duration::from_millis(5);

/// The least time without life after which a newcomer may be in the backlog: longer than a script that does
/// little takes on a busy machine.
const RELEASE_AFTER: Duration = Duration::from_millis(10);

/// So many times the usual time for an answer is no life suspicious. With two, at most half of all answers
/// take that long (Markov's inequality), so a close that was in vain brings less than one other with it.
const SUSPICIOUS_FACTOR: u32 = 2;

/// When a newcomer that one connection was closed for is still silent, the next one is closed after this
/// time: another client of the server may have been the one that got the worker.
const RELEASE_AGAIN: Duration = Duration::from_secs(1);

/// How long the first hold is, and the longest: each is twice as long as the one before it.
const HOLD: Duration = Duration::from_millis(25);
const HOLD_MAX: Duration = Duration::from_millis(250);

/// The weight of what took place before in the usual time for an answer, and so of the last answer.
const USUAL_PARTS: u32 = 8;

/// So many connections in a row that served a request and never came to rest, and the endpoint is taken for
/// one where none do. Waiting for life would limit how many requests it gets.
const KEEPS_NOTHING_AFTER: u32 = 8;

/// A newcomer's number at its endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Number(u64);

/// What a connection has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Course {
    /// Nobody follows it.
    Untracked,
    /// It has shown no life.
    Newcomer(Number),
    /// The same, and it has no request: it was asked whether there is a worker for it (`balance/permits.rs`). Nothing is
    /// closed for its sake.
    Asked(Number),
    /// It has served a request, and did not come to rest so far.
    Alive,
    /// It has come to rest, and was given a request then or not.
    Kept { asked: Option<Instant> },
}

/// The connections to one endpoint, as far as it matters for opening and releasing others.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// For which nothing was closed; the oldest first.
    newcomers: VecDeque<Newcomer>,
    /// For which something was, the longest ago first.
    served: VecDeque<Newcomer>,
    /// The connection that was opened last, while it is a newcomer.
    last: Option<Newcomer>,
    /// The number of the next one.
    next: u64,
    /// When a connection came to rest the last time.
    rested: Option<Instant>,
    /// How long answers take to begin.
    usual: Option<Duration>,
    /// Connections in a row that never came to rest.
    unkept: u32,
    /// How many there are.
    open: usize,
    /// While the server is known to have no worker for another connection.
    hold: Option<Hold>,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    /// With so many connections.
    open: usize,
    until: Instant,
    length: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Newcomer {
    number: Number,
    /// It was opened then, or something was closed for it then.
    since: Instant,
    /// Whether there were as many as the hold is about when it was opened.
    is_one_more: bool,
}

impl Opening {
    /// A connection is opened.
    pub(super) fn opened(&mut self, now: Instant) -> Course {
        let number = Number(self.next);
        self.next += 1;
        let is_one_more = self.hold.is_some_and(|hold| self.open >= hold.open);
        self.open += 1;
        let newcomer = Newcomer {
            number,
            since: now,
            is_one_more,
        };
        self.newcomers.push_back(newcomer);
        self.last = Some(newcomer);
        Course::Newcomer(number)
    }

    /// When another one may be opened for a request that has waited since then. `None`: now.
    pub(super) fn opens_at(&self, waiting_since: Instant, now: Instant) -> Option<Instant> {
        if self.unkept >= KEEPS_NOTHING_AFTER {
            return None;
        }
        let hope = self.rested.map(|rested| rested.min(waiting_since));
        let paced = |last: Newcomer| hope.map_or(last.since, |hope| hope.max(last.since)) + PACE;
        let at = self.last.map(paced).into_iter().chain(self.held_until());
        at.max().filter(|at| *at > now)
    }

    /// The end of the hold, or of the hope that another connection comes to rest soon.
    fn held_until(&self) -> Option<Instant> {
        let hold = self.hold.filter(|hold| self.open >= hold.open)?;
        let rested = self.rested?;
        Some(hold.until.min(rested + PACE))
    }

    /// The connection is asked before it has a request. Returns as well when it was opened, if that is known.
    pub(super) fn asked(&mut self, course: Course) -> (Course, Option<Instant>) {
        let Course::Newcomer(number) = course else {
            return (course, None);
        };
        // It still holds the next one up.
        let last = self.last;
        let newcomer = self.remove(number);
        self.last = last;
        (Course::Asked(number), newcomer.map(|it| it.since))
    }

    /// The first byte came on a connection that was in this state.
    pub(super) fn answered(&mut self, course: Course, now: Instant) -> Course {
        match course {
            Course::Untracked => Course::Untracked,
            Course::Newcomer(number) => {
                match self.remove(number) {
                    Some(newcomer) => {
                        self.hold.take_if(|_| newcomer.is_one_more);
                        self.learn(now.saturating_duration_since(newcomer.since));
                    }
                    None => self.hold_again(now),
                }
                Course::Alive
            }
            Course::Asked(number) => {
                self.last.take_if(|last| last.number == number);
                Course::Alive
            }
            Course::Alive => Course::Alive,
            Course::Kept { asked } => {
                let took = asked.map(|asked| now.saturating_duration_since(asked));
                took.into_iter().for_each(|took| self.learn(took));
                Course::Kept { asked: None }
            }
        }
    }

    /// A connection came to rest.
    pub(super) fn came_to_rest(&mut self, course: Course, now: Instant) -> Course {
        self.rested = Some(now);
        self.gave_way(course)
    }

    /// A connection that could have come to rest is closed for another one.
    pub(super) fn gave_way(&mut self, course: Course) -> Course {
        if let Course::Newcomer(number) | Course::Asked(number) = course {
            self.remove(number);
        }
        self.unkept = 0;
        match course {
            Course::Untracked => Course::Untracked,
            _ => Course::Kept { asked: None },
        }
    }

    /// A connection ended.
    pub(super) fn ended(&mut self, course: Course) {
        if course != Course::Untracked {
            assert!(self.open > 0, "what ends was opened");
            self.open -= 1;
        }
        match course {
            Course::Untracked | Course::Kept { .. } => {}
            Course::Newcomer(number) | Course::Asked(number) => {
                self.remove(number);
            }
            Course::Alive => self.unkept = self.unkept.saturating_add(1),
        }
    }

    /// When a connection is to be closed for the next newcomer that may be in the backlog.
    pub(super) fn release_at(&self) -> Option<Instant> {
        let first = self
            .newcomers
            .front()
            .map(|it| it.since + self.suspicious());
        let again = self.served.front().map(|it| it.since + RELEASE_AGAIN);
        first.into_iter().chain(again).min()
    }

    /// A connection is closed for that one, if there is one now.
    pub(super) fn release(&mut self, now: Instant) -> bool {
        if self.release_at().is_none_or(|at| at > now) {
            return false;
        }
        let is_due = |it: &&Newcomer| it.since + self.suspicious() <= now;
        let served = match self.newcomers.front().filter(is_due) {
            Some(_) => self.newcomers.pop_front(),
            None => self.served.pop_front(),
        };
        let newcomer = served.expect("one of them is due");
        self.served.push_back(Newcomer {
            since: now,
            ..newcomer
        });
        true
    }

    /// How long an answer takes that makes one wonder.
    fn suspicious(&self) -> Duration {
        let usual = self.usual.unwrap_or_default();
        (usual * SUSPICIOUS_FACTOR).max(RELEASE_AFTER)
    }

    /// Something had to be closed for a newcomer.
    fn hold_again(&mut self, now: Instant) {
        let length = self.hold.map_or(HOLD, |hold| hold.length * 2);
        let length = length.min(HOLD_MAX);
        self.hold = Some(Hold {
            open: self.open - self.newcomers.len() - self.served.len(),
            until: now + length,
            length,
        });
    }

    fn learn(&mut self, took: Duration) {
        let before = self.usual.unwrap_or(took);
        self.usual = Some((before * (USUAL_PARTS - 1) + took) / USUAL_PARTS);
    }

    /// It is none any more. Returns it if nothing was closed for it: then the time that it took is its
    /// server's, and not one in a backlog.
    fn remove(&mut self, number: Number) -> Option<Newcomer> {
        self.last.take_if(|last| last.number == number);
        if let Ok(at) = self.newcomers.binary_search_by_key(&number, |it| it.number) {
            return self.newcomers.remove(at);
        }
        let at = self.served.iter().position(|it| it.number == number);
        at.into_iter().for_each(|at| {
            self.served.remove(at);
        });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// An endpoint on which nothing has happened, and a moment.
    fn fresh() -> (Opening, Instant) {
        (Opening::default(), Instant::now())
    }

    /// What serves a request in `took`, comes to rest, and is asked again.
    fn serve(opening: &mut Opening, course: Course, asked: Instant, took: Duration) -> Course {
        let course = match course {
            Course::Kept { .. } => Course::Kept { asked: Some(asked) },
            course => course,
        };
        let course = opening.answered(course, asked + took);
        opening.came_to_rest(course, asked + took)
    }

    #[test]
    fn the_next_one_waits_for_life_of_the_last_or_for_its_pace() {
        let (mut opening, start) = fresh();
        assert_eq!(opening.opens_at(start, start), None);
        let first = opening.opened(start);
        assert_eq!(opening.opens_at(start, start), Some(start + PACE));
        assert_eq!(opening.opens_at(start + PACE, start + PACE), None);
        opening.answered(first, start + MS);
        assert_eq!(opening.opens_at(start + MS, start + MS), None);
    }

    #[test]
    fn the_end_of_the_last_one_is_life_too() {
        let (mut opening, start) = fresh();
        let first = opening.opened(start);
        opening.ended(first);
        assert_eq!(opening.opens_at(start, start), None);
    }

    #[test]
    fn only_the_one_that_was_opened_last_is_waited_for() {
        let (mut opening, start) = fresh();
        let _silent = opening.opened(start);
        let last = opening.opened(start + PACE);
        opening.answered(last, start + PACE);
        assert_eq!(opening.opens_at(start + PACE, start + PACE), None);
    }

    #[test]
    fn while_connections_come_to_rest_a_request_hopes_for_one_but_not_for_long() {
        let (mut opening, start) = fresh();
        let first = opening.opened(start);
        let _silent = opening.opened(start + MS);
        let now = start + 20 * MS;
        serve(&mut opening, first, start, 19 * MS);
        // Something came to rest a millisecond ago.
        assert_eq!(opening.opens_at(now, now), Some(now - MS + PACE));
        // A request that has waited for longer than the pace waits no more.
        assert_eq!(opening.opens_at(now - PACE, now), None);
        // Nothing has for a while: nothing is to be hoped for.
        let later = now + 20 * MS;
        assert_eq!(opening.opens_at(later, later), None);
    }

    #[test]
    fn where_nothing_ever_rests_nobody_waits() {
        let (mut opening, start) = fresh();
        for _ in 0..KEEPS_NOTHING_AFTER {
            let course = opening.opened(start);
            assert!(opening.opens_at(start, start).is_some());
            let course = opening.answered(course, start);
            opening.ended(course);
        }
        let course = opening.opened(start);
        assert_eq!(opening.opens_at(start, start), None);
        // One that does is news.
        serve(&mut opening, course, start, MS);
        opening.opened(start + MS);
        assert!(opening.opens_at(start + MS, start + MS).is_some());
    }

    #[test]
    fn one_is_closed_for_each_newcomer_that_stays_silent() {
        let (mut opening, start) = fresh();
        opening.opened(start);
        opening.opened(start + MS);
        assert_eq!(opening.release_at(), Some(start + RELEASE_AFTER));
        assert!(!opening.release(start + RELEASE_AFTER - MS));
        assert!(opening.release(start + RELEASE_AFTER));
        assert!(!opening.release(start + RELEASE_AFTER));
        assert!(opening.release(start + RELEASE_AFTER + MS));
        assert!(!opening.release(start + RELEASE_AFTER + 2 * MS));
        // And again after a long time.
        let again = start + RELEASE_AFTER + RELEASE_AGAIN;
        assert_eq!(opening.release_at(), Some(again));
        assert!(opening.release(again) && !opening.release(again));
    }

    /// A newcomer that lives only when something was closed for it, from `at` on. Returns when it lived.
    fn opened_in_vain(opening: &mut Opening, at: Instant) -> Instant {
        let course = opening.opened(at);
        let lived = at + RELEASE_AFTER;
        assert!(opening.release(lived));
        opening.ended(Course::Kept { asked: None });
        opening.answered(course, lived);
        lived
    }

    #[test]
    fn after_one_was_opened_in_vain_the_next_is_not_while_others_come_to_rest() {
        let (mut opening, start) = fresh();
        let course = opening.opened(start);
        let course = serve(&mut opening, course, start, MS);
        let mut lived = opened_in_vain(&mut opening, start + MS);
        // Nothing has come to rest for a while: the request does not wait.
        assert_eq!(opening.opens_at(lived, lived), None);
        for hold in [25, 50, 100, 200, 250, 250] {
            serve(&mut opening, course, lived, MS);
            let now = lived + MS;
            assert_eq!(opening.opens_at(start, now), Some(now + PACE));
            // Until the hold is over, however much comes to rest.
            let end = lived + hold * MS;
            serve(&mut opening, course, end - 2 * MS, MS);
            assert_eq!(opening.opens_at(start, end - MS), Some(end));
            assert_eq!(opening.opens_at(start, end), None);
            lived = opened_in_vain(&mut opening, end);
        }
    }

    #[test]
    fn the_place_of_one_that_has_ended_is_not_held() {
        let (mut opening, start) = fresh();
        let kept = [(); 3].map(|()| {
            let course = opening.opened(start);
            serve(&mut opening, course, start, MS)
        });
        let lived = opened_in_vain(&mut opening, start + MS);
        serve(&mut opening, kept[0], lived, MS);
        let now = lived + MS;
        assert!(opening.opens_at(start, now).is_some());
        opening.ended(kept[1]);
        assert_eq!(opening.opens_at(start, now), None);
        let new = opening.opened(now);
        serve(&mut opening, new, now, Duration::ZERO);
        assert!(opening.opens_at(start, now).is_some());
    }

    #[test]
    fn one_that_lives_by_itself_ends_the_hold() {
        let (mut opening, start) = fresh();
        let kept = opening.opened(start);
        let kept = serve(&mut opening, kept, start, MS);
        let lived = opened_in_vain(&mut opening, start + MS);
        let end = lived + HOLD;
        let new = opening.opened(end);
        serve(&mut opening, kept, end, MS);
        opening.answered(new, end + MS);
        assert_eq!(opening.opens_at(end, end + MS), None);
        // The next hold is a short one again.
        let lived = opened_in_vain(&mut opening, end + MS);
        serve(&mut opening, kept, lived + HOLD - 2 * MS, MS);
        assert_eq!(opening.opens_at(end, lived + HOLD - MS), Some(lived + HOLD));
    }

    #[test]
    fn nothing_is_closed_for_one_that_is_asked_and_it_holds_up_the_next_one() {
        let (mut opening, start) = fresh();
        let first = opening.opened(start);
        let (first, opened) = opening.asked(first);
        assert_eq!(opened, Some(start));
        assert_eq!(opening.release_at(), None);
        assert_eq!(opening.opens_at(start, start), Some(start + PACE));
        let first = opening.answered(first, start + MS);
        assert_eq!(first, Course::Alive);
        assert_eq!(opening.opens_at(start, start + MS), None);
        let second = opening.opened(start + MS);
        let (second, _) = opening.asked(second);
        opening.ended(second);
        assert_eq!(opening.opens_at(start, start + MS), None);
        assert_eq!(opening.usual, None, "it had no request");
    }

    #[test]
    fn nothing_is_closed_for_one_that_lives_or_has_ended() {
        let (mut opening, start) = fresh();
        let [first, second, third] = [(); 3].map(|()| opening.opened(start));
        opening.answered(first, start + MS);
        opening.ended(second);
        assert!(opening.release(start + RELEASE_AFTER));
        opening.answered(third, start + RELEASE_AFTER);
        assert_eq!(opening.release_at(), None);
        assert!(opening.newcomers.is_empty() && opening.served.is_empty());
    }

    #[test]
    fn what_is_slow_by_nature_is_not_suspicious() {
        let (mut opening, start) = fresh();
        let mut course = opening.opened(start);
        for round in 0..30 {
            course = serve(&mut opening, course, start + 100 * MS * round, 100 * MS);
        }
        let now = start + 3000 * MS;
        opening.opened(now);
        assert_eq!(opening.release_at(), Some(now + 200 * MS));
        // Most requests are quick again.
        for round in 0..50 {
            course = serve(&mut opening, course, now + MS * round, MS / 2);
        }
        assert_eq!(opening.release_at(), Some(now + RELEASE_AFTER));
    }

    #[test]
    fn the_time_in_a_backlog_is_not_taken_for_the_servers() {
        let (mut opening, start) = fresh();
        let stuck = opening.opened(start);
        assert!(opening.release(start + RELEASE_AFTER));
        opening.answered(stuck, start + 5000 * MS);
        assert_eq!(opening.usual, None);
    }

    #[test]
    fn uniformly_slow_pages_on_new_connections_release_nothing() {
        let (mut opening, start) = fresh();
        let page = 20 * MS;
        let mut courses: Vec<_> = (0..8)
            .map(|number| (start + PACE * number, opening.opened(start + PACE * number)))
            .collect();
        for (opened, course) in &mut courses {
            let done = *opened + page;
            *course = opening.answered(*course, done);
            assert!(!opening.release(done));
            *course = opening.came_to_rest(*course, done);
        }
    }
}
