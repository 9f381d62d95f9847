//! From an accepted client to an open connection to an endpoint, inside one deadline.
//!
//! ```text
//!            chosen                  refused, silent for its part of the time
//!   Unknown --------> Trying --------------------------------> Trying (the next one)
//!      ^ no address     |  250 ms, and the set has both families: a second one races
//!      |                | each was tried once
//!      |                v
//!      +------------ Pausing -------> Trying (the best one again)
//!
//!   Queued ---------> Trying         every endpoint that would do is full: its turn comes by arrival
//! ```
//!
//! - Each endpoint is tried once, then, after a pause, the best one again, until the deadline.
//! - At most two connects run at one time, and two only for different address families (RFC 8305), or where
//!   the set has changed: who waits for an old address races it with one of the new set.
//!   The first one that is open wins; the other is closed before anything is sent on it.
//! - An address that has been silent for most of a second is suspected to have moved: its names are looked up,
//!   while it is waited for.
//! - Where every endpoint refuses, that is waited out for a time of its own; where they were silent for a
//!   whole connect, for less than another one. `backend/reach.rs` has both rules.
//! - While its route is paused, nothing new is tried: who is not connecting already waits, in the queue if there is
//!   one, and no time runs.
//! - While no endpoint of its route takes connections, and nobody is to wait for one (`--when-down`), whoever
//!   connects, or is about to, fails at once, unless a connection rests.
//! - Who has nothing to connect to yet, or again and again, waits here; what its client sent waits
//!   in the flow.

mod attempts;
mod failures;
mod patience;

use std::mem;
use std::time::{Duration, Instant};

use crate::backend::{Address, Balancer, Choice, ClassId, Lease, Moment, Reuse, Tried, Want};
use crate::driver::{Close, Done, Driver, Sock};
use crate::sys::Errno;

use super::{ConnectFailure, Context, End, Hands, Hello, Timeouts};
use attempts::{Attempt, Started};
use failures::Blame;

/// The first pause after each endpoint was tried: about what a service takes at least to start again,
/// and short enough that nobody notices.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// How long to wait before another try when there is no descriptor for an upstream, or no room in a
/// Unix socket's backlog.
const STARVED_RETRY: Duration = Duration::from_millis(20);

/// How long a connect may take to endpoints that were silent the last time. nginx sends a GET a second time
/// when a connection that it had kept ends without a byte, so a backend that is dead costs it that time twice.
/// As long as a lost SYN takes to be sent again, and far more than any network takes to answer one.
const SILENT_PATIENCE: Duration = Duration::from_secs(1);

/// How often a session without an address reminds the resolver that somebody waits: its back-off
/// may be longer than the client's patience.
const REMINDER_INTERVAL: Duration = Duration::from_secs(1);

/// A session that looks for an upstream.
pub(super) struct Connecting {
    /// What the backend is told of the client.
    hello: Hello,
    patience: Duration,
    /// When it came.
    came: Instant,
    /// That of its request.
    class: ClassId,
    /// The end of its patience with endpoints that refuse, while all of them do.
    refused_by: Option<Instant>,
    /// The end of its patience; `None` before anything could be tried, and while it waits for a place.
    by: Option<Instant>,
    /// The end of its waits in the queue.
    queue_by: Option<Instant>,
    /// The unconnected IPv4 socket that came with the session, until it is used or of no use.
    spare: Option<Sock>,
    tried: Tried,
    /// What to ask for next.
    want: Want,
    /// How the last attempt ended.
    failure: ConnectFailure,
    /// The length of the next pause.
    pause: Duration,
    /// Whether a connection that rests will do.
    reuse: Reuse,
    /// Since its turn came last a connection was closed: its own, or one that rested, for its sake.
    has_made_room: bool,
    /// A connect that was to find out whether there is a worker took too long, and was given up.
    has_given_up_trial: bool,
    /// A place gets free that was its own, or was taken from a connection for its sake.
    is_owed_a_place: bool,
    /// Since when the route is paused for it.
    held_since: Option<Instant>,
    stage: SearchStage,
}

enum SearchStage {
    /// No endpoint is known.
    Unknown { remind_at: Instant },
    /// One endpoint is being tried, or two.
    Trying { first: Attempt, race: Race },
    /// Nothing can be tried for now.
    Pausing { until: Instant, then: AfterPause },
    /// Endpoints have a limited number of places, and none that would do is free: its turn comes by
    /// arrival.
    Queued(PlaceWait),
    /// The route is paused, and there is no queue.
    Held,
}

/// A session's wait for a place at an endpoint.
enum PlaceWait {
    /// Nothing was tried yet.
    First,
    /// Those that failed may be tried again then, when it is its turn.
    Again { retry_at: Instant },
}

/// What comes after a pause.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterPause {
    /// Those that were not tried: something was missing that comes back.
    GoOn,
    /// All of them again.
    StartOver,
}

/// The second connect.
enum Race {
    /// There is none, and will be none.
    Off,
    /// It starts then, at such an endpoint.
    StartsAt(Instant, Want),
    On(Attempt),
}

/// What the search came to in one step.
pub(super) enum SearchStep {
    /// Nothing yet.
    Waiting,
    /// A connection is open.
    Open(Sock, Lease),
    /// The endpoint at this address is the one to go to, and has a connection that rests.
    Resting(Address),
    /// The time is up.
    Failed(ConnectFailure),
    /// The time for a place at an endpoint is up, and nothing was tried.
    QueueTimeout,
    /// The backend accepted and broke off before the connect was looked at.
    BrokenOff(Errno),
}

impl Connecting {
    /// Nothing is tried until [`Connecting::search`], or [`Connecting::place_free`] in a queue.
    pub(super) fn new(
        hello: Hello,
        spare: Option<Sock>,
        now: Instant,
        timeouts: Timeouts,
        entry: Entry,
    ) -> Self {
        let queue_by = timeouts.queue.map(|time| now + time);
        let stage = match entry {
            Entry::Direct => SearchStage::Unknown { remind_at: now },
            Entry::Queued => SearchStage::Queued(PlaceWait::First),
        };
        Self {
            hello,
            patience: timeouts.connect,
            came: now,
            class: ClassId::DEFAULT,
            refused_by: None,
            by: None,
            queue_by,
            spare,
            tried: Tried::default(),
            want: Want::Any,
            failure: ConnectFailure::NoAddress,
            pause: PAUSE_MIN,
            reuse: Reuse::Yes,
            has_made_room: false,
            has_given_up_trial: false,
            is_owed_a_place: false,
            held_since: None,
            stage,
        }
    }

    /// When [`Connecting::expire`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.held_since.is_some() {
            return None;
        }
        let next = match &self.stage {
            SearchStage::Unknown { remind_at } => Some(*remind_at),
            SearchStage::Trying { first, race } => Some(match race {
                Race::Off => first.deadline(),
                Race::StartsAt(at, _) => first.deadline().min(*at),
                Race::On(rival) => first.deadline().min(rival.deadline()),
            }),
            SearchStage::Pausing { until, .. } => Some(*until),
            SearchStage::Queued(PlaceWait::First) | SearchStage::Held => None,
            SearchStage::Queued(PlaceWait::Again { retry_at }) => Some(*retry_at),
        };
        let end = if self.is_queued() {
            self.by.or(self.queue_by)
        } else {
            self.by
        };
        let refused_by = self.refused_by.filter(|_| self.is_between_attempts());
        next.into_iter().chain(end).chain(refused_by).min()
    }

    /// Whether it waits after attempts that failed.
    pub(super) fn is_between_attempts(&self) -> bool {
        match self.stage {
            SearchStage::Pausing { .. } | SearchStage::Queued(_) | SearchStage::Held => true,
            SearchStage::Unknown { .. } | SearchStage::Trying { .. } => false,
        }
    }

    /// Whether it waits for a place at an endpoint, and not, in the order of those that do, for one to take
    /// connections again or to be known at all.
    pub(super) fn waits_for_place(&self, balancer: &Balancer) -> bool {
        self.is_queued() && self.by.is_none() && !balancer.is_empty()
    }

    /// Whether it waits for its turn, or for the end of a pause, and connects to nothing.
    pub(super) fn waits_its_turn(&self) -> bool {
        matches!(self.stage, SearchStage::Queued(_) | SearchStage::Held)
    }

    /// Since when it has waited for a place that it has not been refused so far, or for the end of a pause: what is told
    /// of it. One that waits its turn because nobody takes its connection is being connected.
    pub(super) fn queued_since(&self) -> Option<Instant> {
        match self.stage {
            SearchStage::Held => self.held_since,
            SearchStage::Queued(_) if self.by.is_none() => Some(self.came),
            SearchStage::Queued(_)
            | SearchStage::Unknown { .. }
            | SearchStage::Trying { .. }
            | SearchStage::Pausing { .. } => None,
        }
    }

    /// How long the pause has lasted for it that it waits in.
    pub(super) fn held_for(&self, now: Instant) -> Duration {
        let since = self.held_since;
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether it waits for a place at an endpoint.
    fn is_queued(&self) -> bool {
        matches!(self.stage, SearchStage::Queued(_))
    }

    /// Whether nothing is under way, and not only for a moment at the start: a client that leaves now
    /// takes what it sent with it.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        match self.stage {
            SearchStage::Unknown { .. } => self
                .by
                .is_some_and(|by| now + self.patience >= by + REMINDER_INTERVAL),
            SearchStage::Pausing { .. } | SearchStage::Queued(_) | SearchStage::Held => true,
            SearchStage::Trying { .. } => false,
        }
    }

    // --- events -------------------------------------------------------------------------------

    /// Tries the next endpoint, and the next, until one does not fail at once.
    /// `bytes_follow`: the client has sent something already.
    pub(super) fn search<D: Driver>(
        &mut self,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        if cx.is_paused {
            return self.sit_out(cx);
        }
        loop {
            let passed_over_since = cx.passed_over_since(self.class).unwrap_or(self.came);
            let moment = Moment {
                now: cx.hands.now,
                waiting_since: self.came.min(passed_over_since),
                class: self.class,
            };
            let chosen = cx.balancer.choose_with(
                cx.published,
                &mut self.tried,
                self.want,
                self.reuse,
                moment,
            );
            let lease = match chosen {
                Choice::Resting(address) => return SearchStep::Resting(address),
                // A new connection, or a place for one, is of no use.
                Choice::Chosen(_) | Choice::Full | Choice::Exhausted if cx.is_out => {
                    return SearchStep::Failed(ConnectFailure::RouteDown);
                }
                Choice::Chosen(lease) => lease,
                Choice::Full => {
                    // One that rests makes way, and only one: its place is free in a moment.
                    if self.wants_new()
                        && !self.has_made_room
                        && let Some(address) = cx.balancer.resting(&self.tried, moment)
                    {
                        return SearchStep::Resting(address);
                    }
                    self.wait_for_place(cx);
                    return SearchStep::Waiting;
                }
                Choice::Exhausted if self.has_been_refused_enough(cx) => {
                    return SearchStep::Failed(self.failure);
                }
                Choice::Exhausted => {
                    self.wait_for_more(cx);
                    return SearchStep::Waiting;
                }
            };
            match self.start(lease, bytes_follow, cx) {
                Started::Connecting(first) => {
                    self.try_alone(first, cx);
                    return SearchStep::Waiting;
                }
                Started::Open(sock, lease) => match self.introduce(sock, bytes_follow, cx) {
                    Ok(()) => return self.found(sock, lease, cx),
                    Err(errno) => {
                        self.refused(&lease, errno, cx.hands.now, cx);
                        cx.abandon(sock, lease);
                    }
                },
                Started::Failed => {}
                Started::Starved => {
                    self.pause(STARVED_RETRY, AfterPause::GoOn, cx.hands.now);
                    return SearchStep::Waiting;
                }
            }
        }
    }

    /// A connect ended.
    pub(super) fn connected<D: Driver>(
        &mut self,
        end: End,
        done: Done,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        let SearchStage::Trying { first, race } = self.take_stage(cx.hands.now) else {
            unreachable!("a connect was in flight")
        };
        let (mut attempt, mut other) = (first, None);
        match race {
            Race::On(rival) if end == End::Rival => other = Some(mem::replace(&mut attempt, rival)),
            Race::On(rival) => other = Some(rival),
            Race::Off | Race::StartsAt(..) => {}
        }
        match done {
            Done::Connected => match self.introduce(attempt.sock, bytes_follow, cx) {
                Ok(()) => self.won(attempt, end, other, cx),
                Err(errno) => self.lost(attempt, errno, other, bytes_follow, cx),
            },
            // Only an established connection fails so; a connect is refused. The client gets what it
            // would get had the backend broken off a moment later.
            Done::Failed(errno @ Errno(libc::ECONNRESET | libc::EPIPE)) if other.is_none() => {
                let failure = ConnectFailure::Refused(attempt.lease.address(), errno);
                self.give_up(attempt, failure, Blame::Endpoint, cx);
                SearchStep::BrokenOff(errno)
            }
            Done::Failed(errno) => self.lost(attempt, errno, other, bytes_follow, cx),
            other => unreachable!("a connect ends with {other:?}"),
        }
    }

    /// Tells the backend who connects, if it is to be told, unless that goes with what the client has
    /// sent. A connection that breaks here has been given nothing of that: it is as good as none.
    fn introduce<D: Driver>(
        &self,
        sock: Sock,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> Result<(), Errno> {
        match self.hello.bytes() {
            Some(introduction) if !bytes_follow => cx.hands.driver.send_now(sock, introduction),
            Some(_) | None => Ok(()),
        }
    }

    /// An attempt has failed.
    fn lost<D: Driver>(
        &mut self,
        attempt: Attempt,
        errno: Errno,
        other: Option<Attempt>,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        self.refused(&attempt.lease, errno, attempt.started, cx);
        cx.abandon(attempt.sock, attempt.lease);
        self.go_on(other, bytes_follow, cx)
    }

    /// The address set changed.
    pub(super) fn addresses_changed<D: Driver>(
        &mut self,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        match self.stage {
            SearchStage::Trying { .. } => return self.look_elsewhere(bytes_follow, cx),
            // The newest set is looked at when its turn comes.
            SearchStage::Queued(_) | SearchStage::Held => return SearchStep::Waiting,
            SearchStage::Unknown { .. } | SearchStage::Pausing { .. } => {}
        }
        cx.balancer.refresh(cx.published);
        if cx.balancer.untried(&self.tried) == 0 {
            return SearchStep::Waiting;
        }
        self.search(bytes_follow, cx)
    }

    /// The deadline has come.
    pub(super) fn expire<D: Driver>(
        &mut self,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        let refused_by = self.refused_by.filter(|_| self.is_between_attempts());
        let by = self.by.into_iter().chain(refused_by).min();
        let is_over = by.is_some_and(|by| by <= cx.hands.now);
        match self.take_stage(cx.hands.now) {
            SearchStage::Queued(_) if is_over => SearchStep::Failed(self.failure),
            SearchStage::Queued(_) if self.by.is_none() && self.has_queued_enough(cx.hands.now) => {
                if cx.balancer.is_empty() {
                    return SearchStep::Failed(ConnectFailure::NoAddress);
                }
                SearchStep::QueueTimeout
            }
            SearchStage::Queued(_) => {
                self.tried.clear();
                self.stage = SearchStage::Queued(PlaceWait::Again {
                    retry_at: cx.hands.now + self.next_pause(),
                });
                cx.changes.room = true;
                SearchStep::Waiting
            }
            SearchStage::Unknown { .. } | SearchStage::Pausing { .. } if is_over => {
                SearchStep::Failed(self.failure)
            }
            SearchStage::Unknown { .. } => self.search(bytes_follow, cx),
            SearchStage::Pausing { then, .. } => {
                if then == AfterPause::StartOver {
                    self.tried.clear();
                }
                self.search(bytes_follow, cx)
            }
            SearchStage::Held => unreachable!("no time runs in a pause"),
            SearchStage::Trying { first, race } if is_over => {
                if let Race::On(rival) = race {
                    self.time_out(rival, cx);
                }
                self.time_out(first, cx);
                SearchStep::Failed(self.failure)
            }
            SearchStage::Trying { first, race } => {
                self.look_at_attempts(first, race, bytes_follow, cx)
            }
        }
    }

    /// Others wait for a place already, so it waits behind them.
    pub(super) fn queue_up<D: Driver>(&mut self, cx: &mut Context<'_, D>) -> SearchStep {
        if cx.is_paused {
            return self.sit_out(cx);
        }
        if cx.is_out {
            return SearchStep::Failed(ConnectFailure::RouteDown);
        }
        self.stage = SearchStage::Queued(PlaceWait::First);
        SearchStep::Waiting
    }

    /// No endpoint takes connections, and nobody is to wait for one. What is under way is closed with the session.
    pub(super) fn despair(&self) -> SearchStep {
        SearchStep::Failed(ConnectFailure::RouteDown)
    }

    /// The route is paused. What is under way goes on.
    pub(super) fn hold<D: Driver>(&mut self, cx: &mut Context<'_, D>) -> SearchStep {
        match self.stage {
            SearchStage::Trying { .. } => SearchStep::Waiting,
            SearchStage::Unknown { .. }
            | SearchStage::Pausing { .. }
            | SearchStage::Queued(_)
            | SearchStage::Held => self.sit_out(cx),
        }
    }

    /// Waits until the pause is over. What was tried before it says nothing of what there is after it.
    pub(super) fn sit_out<D: Driver>(&mut self, cx: &Context<'_, D>) -> SearchStep {
        self.want = Want::Any;
        self.tried.clear();
        (self.by, self.refused_by) = (None, None);
        self.held_since.get_or_insert(cx.hands.now);
        self.stage = match cx.can_queue {
            true => SearchStage::Queued(PlaceWait::First),
            false => SearchStage::Held,
        };
        SearchStep::Waiting
    }

    /// The pause is over.
    pub(super) fn resume<D: Driver>(
        &mut self,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        let Some(since) = self.held_since.take() else {
            // It was under way all the time.
            return SearchStep::Waiting;
        };
        let lasted = cx.hands.now.saturating_duration_since(since);
        self.queue_by = self.queue_by.map(|by| by + lasted);
        match self.stage {
            SearchStage::Held => {
                self.take_stage(cx.hands.now);
                self.search(bytes_follow, cx)
            }
            // In the order of arrival.
            _ => SearchStep::Waiting,
        }
    }

    /// A connection that rests will not do.
    pub(super) fn want_new(&mut self) {
        self.reuse = Reuse::No;
    }

    /// A connection was closed, and its place will be free when that is done.
    pub(super) fn owe_a_place(&mut self) {
        self.is_owed_a_place = true;
        self.has_made_room = true;
    }

    /// Whether a connection that rests will not do.
    pub(super) fn wants_new(&self) -> bool {
        self.reuse == Reuse::No
    }

    /// Its turn in the queue has come: some endpoint has a place. It may be of no use to a session that
    /// has tried that endpoint, which then waits on.
    pub(super) fn place_free<D: Driver>(
        &mut self,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        assert!(self.is_queued(), "only those are told");
        self.has_made_room = false;
        self.search(bytes_follow, cx)
    }

    /// What is left in its place says that a look is due.
    fn take_stage(&mut self, now: Instant) -> SearchStage {
        mem::replace(&mut self.stage, SearchStage::Unknown { remind_at: now })
    }

    /// Closes what is open. Returns a socket that the driver has yet to join, if there is one.
    pub(super) fn close<D: Driver>(self, hands: &mut Hands<D>) -> Option<Sock> {
        let attempts = match self.stage {
            SearchStage::Unknown { .. }
            | SearchStage::Pausing { .. }
            | SearchStage::Queued(_)
            | SearchStage::Held => [None, None],
            SearchStage::Trying { first, race } => match race {
                Race::Off | Race::StartsAt(..) => [Some(first), None],
                Race::On(rival) => [Some(first), Some(rival)],
            },
        };
        // It was never used, so there is nothing to join.
        if let Some(spare) = self.spare {
            hands.driver.close(spare, Close::Graceful);
        }
        let mut leaving = None;
        for Attempt { sock, lease, .. } in attempts.into_iter().flatten() {
            let still_open = hands.close_upstream(sock, lease, Close::Graceful);
            leaving = leaving.or(still_open);
        }
        leaving
    }
}

/// How a session comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// It looks for an endpoint at once.
    Direct,
    /// Others wait for a place at an endpoint already, so it waits behind them.
    Queued,
}
