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
//! - Who has nothing to connect to yet, or again and again, waits here; what its client sent waits
//!   in the flow.

use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::backend::{Address, Balancer, Choice, Family, Lease, Moment, Reuse, Tried, Want};
use crate::driver::{Close, Closed, Done, Driver, Op, Sock};
use crate::sys::Errno;

use super::{ConnectFailure, Context, End, Hello, Owner, Retired, Timeouts};

/// How long a connect has before one of the other address family joins in (RFC 8305, section 5, its
/// "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);

/// How long a connect goes unanswered before the names behind its address are looked up early. Less than it takes
/// a lost SYN to be sent again, so that there is time left for a new address even for clients with little
/// patience; one lookup more costs nobody anything.
const SUSPECT_AFTER: Duration = Duration::from_millis(750);

/// The first pause after each endpoint was tried: about what a service takes at least to start again,
/// and short enough that nobody notices.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest pause. With 8,192 clients that wait, an endpoint that is down still answers fewer than
/// 20,000 connects a second.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The longest pause where refusals are waited out for a short time: what comes back is not to be missed.
/// With 1,024 requests that wait, it answers about 10,000 connects a second, for a second at most.
const PAUSE_REFUSED_MAX: Duration = Duration::from_millis(100);

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

/// An endpoint that does not answer gets at least this part of the time that is left, however many
/// others there are: with the default of 5 s, enough for a second SYN, which follows after 1 s.
const PARTS_MAX: u32 = 4;

/// Silence counts as a failure of the endpoint when it lasted for this part of the session's whole
/// time: the last attempt before the deadline may have had no time at all.
const FAIR_PART: u32 = 8;

/// A session that looks for an upstream.
pub(super) struct Connecting {
    /// What the backend is told of the client.
    hello: Hello,
    patience: Duration,
    /// When it came.
    came: Instant,
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
    /// A place gets free that was its own, or was taken from a connection for its sake.
    is_owed_a_place: bool,
    stage: Stage,
}

enum Stage {
    /// No endpoint is known.
    Unknown { remind_at: Instant },
    /// One endpoint is being tried, or two.
    Trying { first: Attempt, race: Race },
    /// Nothing can be tried for now.
    Pausing { until: Instant, then: Then },
    /// Endpoints have a limited number of places, and none that would do is free: its turn comes by
    /// arrival.
    Queued(Wait),
}

/// A session's wait for a place at an endpoint.
enum Wait {
    /// Nothing was tried yet.
    First,
    /// Those that failed may be tried again then, when it is its turn.
    Again { retry_at: Instant },
}

/// What comes after a pause.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
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

struct Attempt {
    sock: Sock,
    lease: Lease,
    started: Instant,
    /// When the resolver is told next that there is no answer.
    suspect_at: Instant,
    give_up_at: Instant,
}

impl Attempt {
    /// When there is something to do about it.
    fn deadline(&self) -> Instant {
        self.give_up_at.min(self.suspect_at)
    }

    /// The names behind an address that is silent for long are looked up early, again and again.
    fn suspect<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        if self.suspect_at > cx.now {
            return;
        }
        self.suspect_at = cx.now + REMINDER_INTERVAL;
        if let Some(ip) = self.lease.address().ip() {
            cx.published.refresher().suspect(ip);
        }
    }
}

/// What the search came to in one step.
pub(super) enum Found {
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
            Entry::Direct => Stage::Unknown { remind_at: now },
            Entry::Queued => Stage::Queued(Wait::First),
        };
        Self {
            hello,
            patience: timeouts.connect,
            came: now,
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
            is_owed_a_place: false,
            stage,
        }
    }

    /// When [`Connecting::expire`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let next = match &self.stage {
            Stage::Unknown { remind_at } => Some(*remind_at),
            Stage::Trying { first, race } => Some(match race {
                Race::Off => first.deadline(),
                Race::StartsAt(at, _) => first.deadline().min(*at),
                Race::On(rival) => first.deadline().min(rival.deadline()),
            }),
            Stage::Pausing { until, .. } => Some(*until),
            Stage::Queued(Wait::First) => None,
            Stage::Queued(Wait::Again { retry_at }) => Some(*retry_at),
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
    fn is_between_attempts(&self) -> bool {
        match self.stage {
            Stage::Pausing { .. } | Stage::Queued(_) => true,
            Stage::Unknown { .. } | Stage::Trying { .. } => false,
        }
    }

    /// Whether it waits for a place at an endpoint, and not, in the order of those that do, for one to take
    /// connections again or to be known at all.
    pub(super) fn waits_for_place(&self, balancer: &Balancer) -> bool {
        self.is_queued() && self.by.is_none() && !balancer.is_empty()
    }

    /// Whether it waits for a place at an endpoint.
    pub(super) fn is_queued(&self) -> bool {
        matches!(self.stage, Stage::Queued(_))
    }

    /// Whether it may wait in a queue that is full: for endpoints that have failed, for which its time for
    /// connecting runs, or for a place that gets free for it.
    pub(super) fn is_to_stay(&self) -> bool {
        self.is_queued() && (self.by.is_some() || self.is_owed_a_place)
    }

    /// Whether nothing is under way, and not only for a moment at the start: a client that leaves now
    /// takes what it sent with it.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        match self.stage {
            Stage::Unknown { .. } => self
                .by
                .is_some_and(|by| now + self.patience >= by + REMINDER_INTERVAL),
            Stage::Pausing { .. } | Stage::Queued(_) => true,
            Stage::Trying { .. } => false,
        }
    }

    // --- events -------------------------------------------------------------------------------

    /// Tries the next endpoint, and the next, until one does not fail at once.
    /// `bytes_follow`: the client has sent something already.
    pub(super) fn search<D: Driver>(
        &mut self,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> Found {
        loop {
            let moment = Moment {
                now: cx.now,
                waiting_since: self.came,
            };
            let chosen = cx.balancer.choose_with(
                cx.published,
                &mut self.tried,
                self.want,
                self.reuse,
                moment,
            );
            let lease = match chosen {
                Choice::Chosen(lease) => lease,
                Choice::Resting(address) => return Found::Resting(address),
                Choice::Full => {
                    // One that rests makes way, and only one: its place is free in a moment.
                    if self.wants_new()
                        && !self.has_made_room
                        && let Some(address) = cx.balancer.resting(&self.tried)
                    {
                        return Found::Resting(address);
                    }
                    self.wait_for_place(cx);
                    return Found::Waiting;
                }
                Choice::Exhausted if self.has_been_refused_enough(cx) => {
                    return Found::Failed(self.failure);
                }
                Choice::Exhausted => {
                    self.wait_for_more(cx);
                    return Found::Waiting;
                }
            };
            match self.start(lease, bytes_follow, cx) {
                Started::Connecting(first) => {
                    self.try_alone(first, cx);
                    return Found::Waiting;
                }
                Started::Open(sock, lease) => match self.introduce(sock, bytes_follow, cx) {
                    Ok(()) => return self.found(sock, lease, cx),
                    Err(errno) => {
                        self.refused(&lease, errno, cx.now, cx);
                        cx.abandon(sock, lease);
                    }
                },
                Started::Failed => {}
                Started::Starved => {
                    self.pause(STARVED_RETRY, Then::GoOn, cx.now);
                    return Found::Waiting;
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
    ) -> Found {
        let Stage::Trying { first, race } = self.take_stage(cx.now) else {
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
                Found::BrokenOff(errno)
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
        match cx.upstreams.introduction(&self.hello) {
            Some(introduction) if !bytes_follow => cx.driver.send_now(sock, introduction),
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
    ) -> Found {
        self.refused(&attempt.lease, errno, attempt.started, cx);
        cx.abandon(attempt.sock, attempt.lease);
        self.go_on(other, bytes_follow, cx)
    }

    /// The address set changed.
    pub(super) fn addresses_changed<D: Driver>(
        &mut self,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> Found {
        match self.stage {
            Stage::Trying { .. } => return self.look_elsewhere(bytes_follow, cx),
            // The newest set is looked at when its turn comes.
            Stage::Queued(_) => return Found::Waiting,
            Stage::Unknown { .. } | Stage::Pausing { .. } => {}
        }
        cx.balancer.refresh(cx.published);
        if cx.balancer.untried(&self.tried) == 0 {
            return Found::Waiting;
        }
        self.search(bytes_follow, cx)
    }

    /// The deadline has come.
    pub(super) fn expire<D: Driver>(
        &mut self,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> Found {
        let refused_by = self.refused_by.filter(|_| self.is_between_attempts());
        let by = self.by.into_iter().chain(refused_by).min();
        let is_over = by.is_some_and(|by| by <= cx.now);
        match self.take_stage(cx.now) {
            Stage::Queued(_) if is_over => Found::Failed(self.failure),
            Stage::Queued(_) if self.by.is_none() && self.has_queued_enough(cx.now) => {
                if cx.balancer.is_empty() {
                    return Found::Failed(ConnectFailure::NoAddress);
                }
                Found::QueueTimeout
            }
            Stage::Queued(_) => {
                self.tried.clear();
                self.stage = Stage::Queued(Wait::Again {
                    retry_at: cx.now + self.next_pause(),
                });
                cx.changes.room = true;
                Found::Waiting
            }
            Stage::Unknown { .. } | Stage::Pausing { .. } if is_over => Found::Failed(self.failure),
            Stage::Unknown { .. } => self.search(bytes_follow, cx),
            Stage::Pausing { then, .. } => {
                if then == Then::StartOver {
                    self.tried.clear();
                }
                self.search(bytes_follow, cx)
            }
            Stage::Trying { first, race } if is_over => {
                if let Race::On(rival) = race {
                    self.time_out(rival, cx);
                }
                self.time_out(first, cx);
                Found::Failed(self.failure)
            }
            Stage::Trying { first, race } => self.look_at_attempts(first, race, bytes_follow, cx),
        }
    }

    /// Others wait for a place already, so it waits behind them.
    pub(super) fn queue_up<D: Driver>(&mut self, _cx: &mut Context<'_, D>) -> Found {
        self.stage = Stage::Queued(Wait::First);
        Found::Waiting
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
    ) -> Found {
        assert!(self.is_queued(), "only those are told");
        self.has_made_room = false;
        self.search(bytes_follow, cx)
    }

    /// Closes what is open. Returns a socket that the driver has yet to join, if there is one.
    pub(super) fn close<D: Driver>(
        self,
        driver: &mut D,
        retired: &mut Retired<Lease>,
    ) -> Option<Sock> {
        let attempts = match self.stage {
            Stage::Unknown { .. } | Stage::Pausing { .. } | Stage::Queued(_) => [None, None],
            Stage::Trying { first, race } => match race {
                Race::Off | Race::StartsAt(..) => [Some(first), None],
                Race::On(rival) => [Some(first), Some(rival)],
            },
        };
        // It was never used, so there is nothing to join.
        if let Some(spare) = self.spare {
            driver.close(spare, Close::Graceful);
        }
        let mut leaving = None;
        for Attempt { sock, lease, .. } in attempts.into_iter().flatten() {
            let closed = driver.close(sock, Close::Graceful);
            retired.push(lease, sock, closed);
            leaving = leaving.or_else(|| (closed == Closed::Soon).then_some(sock));
        }
        leaving
    }

    // --- attempts -----------------------------------------------------------------------------

    /// What is left in its place says that a look is due.
    fn take_stage(&mut self, now: Instant) -> Stage {
        mem::replace(&mut self.stage, Stage::Unknown { remind_at: now })
    }

    /// Starts to connect.
    fn start<D: Driver>(
        &mut self,
        lease: Lease,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> Started {
        let address = lease.address();
        let by = self.begin(cx);
        if let Address::Tcp(to) = address
            && !cx.upstreams.tcp.source.reaches(&to)
        {
            let failure = ConnectFailure::OtherFamily(address);
            self.failed(&lease, failure, Blame::Nobody, cx);
            // It need not be waited for if the others refuse.
            lease.refused(cx.now);
            return Started::Failed;
        }
        match (self.open(address, cx), address) {
            (Ok(sock), Address::Tcp(to)) => {
                if bytes_follow || cx.upstreams.introduction(&self.hello).is_some() {
                    cx.driver.send_follows(sock);
                }
                cx.driver.submit(sock, Op::Connect(to));
                // Those that are still untried get as much of the time that is left.
                let left = by.saturating_duration_since(cx.now);
                let untried = cx.balancer.untried(&self.tried);
                let parts = u32::try_from(untried).unwrap_or(PARTS_MAX);
                Started::Connecting(Attempt {
                    sock,
                    lease,
                    started: cx.now,
                    suspect_at: cx.now + SUSPECT_AFTER,
                    give_up_at: cx.now + left / parts.clamp(1, PARTS_MAX),
                })
            }
            // Such a connect does not wait: it is open.
            (Ok(sock), Address::Unix(_)) => Started::Open(sock, lease),
            (Err(errno), _) if errno.is_exhaustion() => {
                self.failure = ConnectFailure::NoDescriptor;
                Started::Starved
            }
            // Nothing was connected yet, so this is about the address to bind to.
            (Err(errno @ Errno(libc::EADDRNOTAVAIL)), Address::Tcp(_)) => {
                let failure = ConnectFailure::NoSource(address, errno);
                self.failed(&lease, failure, Blame::of(errno), cx);
                Started::Failed
            }
            (Err(errno), _) => {
                self.refused(&lease, errno, cx.now, cx);
                Started::Failed
            }
        }
    }

    fn open<D: Driver>(
        &mut self,
        address: Address,
        cx: &mut Context<'_, D>,
    ) -> Result<Sock, Errno> {
        if let Address::Tcp(to @ SocketAddr::V4(_)) = address
            && let Some(spare) = self.spare.take()
        {
            let configured = cx.driver.configure_tcp(spare, &to, &cx.upstreams.tcp);
            return match configured {
                Ok(()) => Ok(spare),
                Err(errno) => {
                    cx.driver.close(spare, Close::Graceful);
                    Err(errno)
                }
            };
        }
        // The spare socket is for IPv4: of use if one of those may race with this one.
        if !cx.balancer.is_mixed() {
            self.close_spare(cx.driver);
        }
        let opened = match address {
            Address::Tcp(to) => cx.driver.open_tcp(&to, &cx.upstreams.tcp),
            Address::Unix(name) => cx.driver.open_unix(name),
        };
        // Its descriptor may be the one that is missing.
        opened.inspect_err(|_| self.close_spare(cx.driver))
    }

    fn close_spare<D: Driver>(&mut self, driver: &mut D) {
        if let Some(spare) = self.spare.take() {
            driver.close(spare, Close::Graceful);
        }
    }

    /// One attempt is under way. If the set has both families, one of the other joins it in time.
    fn try_alone<D: Driver>(&mut self, first: Attempt, cx: &mut Context<'_, D>) {
        cx.owners
            .assign(first.sock, Owner::Session(cx.id, End::Backend));
        let race = match Family::of(first.lease.address()) {
            Some(family) if cx.balancer.is_mixed() => {
                Race::StartsAt(cx.now + HEAD_START, Want::Only(family.other()))
            }
            _ => Race::Off,
        };
        self.stage = Stage::Trying { first, race };
    }

    /// The set has changed while connects are under way. Its endpoints are tried at once beside one that has
    /// had its head start. Of two, one whose endpoint has left the set makes way.
    fn look_elsewhere<D: Driver>(&mut self, bytes_follow: bool, cx: &mut Context<'_, D>) -> Found {
        let Stage::Trying { mut first, race } = self.take_stage(cx.now) else {
            unreachable!("connects are under way")
        };
        cx.balancer.refresh(cx.published);
        if let Race::On(mut rival) = race {
            let is_current = |attempt: &Attempt| cx.balancer.has(attempt.lease.address());
            if is_current(&first) && is_current(&rival) {
                let race = Race::On(rival);
                self.stage = Stage::Trying { first, race };
                return Found::Waiting;
            }
            if !is_current(&first) {
                mem::swap(&mut first, &mut rival);
            }
            cx.abandon(rival.sock, rival.lease);
        }
        cx.owners
            .assign(first.sock, Owner::Session(cx.id, End::Backend));
        let begins = first.started + HEAD_START;
        if begins <= cx.now {
            return self.start_race(first, Want::Any, bytes_follow, cx);
        }
        let race = Race::StartsAt(begins, Want::Any);
        self.stage = Stage::Trying { first, race };
        Found::Waiting
    }

    /// The head start is over: another one, if there is any that would do.
    fn start_race<D: Driver>(
        &mut self,
        first: Attempt,
        want: Want,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> Found {
        self.tried.insert(&first.lease);
        let race = loop {
            let chosen =
                cx.balancer
                    .choose_with(cx.published, &mut self.tried, want, self.reuse, cx.now);
            let lease = match chosen {
                // In a new set it does not count as tried yet.
                Choice::Chosen(lease) if lease.address() == first.lease.address() => {
                    self.tried.insert(&lease);
                    continue;
                }
                Choice::Chosen(lease) => lease,
                Choice::Resting(address)
                    if want == Want::Any && address != first.lease.address() =>
                {
                    cx.abandon(first.sock, first.lease);
                    return Found::Resting(address);
                }
                Choice::Full if want == Want::Any => {
                    break Race::StartsAt(cx.now + HEAD_START, want);
                }
                Choice::Resting(_) | Choice::Full | Choice::Exhausted => break Race::Off,
            };
            match self.start(lease, bytes_follow, cx) {
                Started::Connecting(rival) => {
                    cx.owners
                        .assign(rival.sock, Owner::Session(cx.id, End::Rival));
                    break Race::On(rival);
                }
                Started::Open(sock, lease) => match self.introduce(sock, bytes_follow, cx) {
                    Ok(()) => {
                        cx.abandon(first.sock, first.lease);
                        return self.found(sock, lease, cx);
                    }
                    Err(errno) => {
                        self.refused(&lease, errno, cx.now, cx);
                        cx.abandon(sock, lease);
                    }
                },
                Started::Failed => {}
                Started::Starved => break Race::StartsAt(cx.now + HEAD_START, want),
            }
        };
        self.stage = Stage::Trying { first, race };
        Found::Waiting
    }

    /// Something about the attempts is due.
    fn look_at_attempts<D: Driver>(
        &mut self,
        mut first: Attempt,
        mut race: Race,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> Found {
        first.suspect(cx);
        if let Race::On(rival) = &mut race {
            rival.suspect(cx);
        }
        let has_had_its_time = |attempt: &Attempt| attempt.give_up_at <= cx.now;
        let first_is_due = has_had_its_time(&first);
        match race {
            Race::On(rival) if first_is_due || has_had_its_time(&rival) => {
                let rival_is_due = has_had_its_time(&rival);
                let mut left = None;
                for (attempt, is_due) in [(first, first_is_due), (rival, rival_is_due)] {
                    match is_due {
                        true => self.time_out(attempt, cx),
                        false => left = Some(attempt),
                    }
                }
                self.go_on(left, bytes_follow, cx)
            }
            Race::Off | Race::StartsAt(..) if first_is_due => {
                self.time_out(first, cx);
                self.go_on(None, bytes_follow, cx)
            }
            Race::StartsAt(at, want) if at <= cx.now => {
                self.start_race(first, want, bytes_follow, cx)
            }
            // Only the resolver was to be told.
            Race::Off | Race::StartsAt(..) | Race::On(_) => {
                self.stage = Stage::Trying { first, race };
                Found::Waiting
            }
        }
    }

    /// An attempt has failed, and another may still be under way.
    fn go_on<D: Driver>(
        &mut self,
        left: Option<Attempt>,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> Found {
        match left {
            Some(attempt) => {
                self.try_alone(attempt, cx);
                Found::Waiting
            }
            None => self.search(bytes_follow, cx),
        }
    }

    /// The loser, if there is one, has nothing sent on it yet.
    fn won<D: Driver>(
        &mut self,
        winner: Attempt,
        end: End,
        loser: Option<Attempt>,
        cx: &mut Context<'_, D>,
    ) -> Found {
        if let Some(loser) = loser {
            // It had a head start, and yet it lost: or sessions would go on waiting for it.
            if end == End::Rival {
                cx.published.failed(loser.lease.health(), cx.now);
            }
            cx.abandon(loser.sock, loser.lease);
        }
        self.found(winner.sock, winner.lease, cx)
    }

    fn found<D: Driver>(&mut self, sock: Sock, lease: Lease, cx: &mut Context<'_, D>) -> Found {
        self.close_spare(cx.driver);
        cx.owners.assign(sock, Owner::Session(cx.id, End::Backend));
        self.refused_by = None;
        // Those that wait may try it again.
        cx.changes.room |= lease.reached();
        cx.published.reached(lease.health(), cx.now);
        let left = self.begin(cx).saturating_duration_since(cx.now);
        cx.counters
            .connect_time
            .record(self.patience.saturating_sub(left));
        lease.counters().connects.add(1);
        Found::Open(sock, lease)
    }

    // --- failures -----------------------------------------------------------------------------

    fn time_out<D: Driver>(&mut self, attempt: Attempt, cx: &mut Context<'_, D>) {
        let failure = ConnectFailure::TimedOut(attempt.lease.address());
        let lasted = cx.now.saturating_duration_since(attempt.started);
        let blame = if lasted * FAIR_PART >= self.patience {
            Blame::Endpoint
        } else {
            Blame::Nobody
        };
        if blame == Blame::Endpoint {
            attempt.lease.not_answered();
        }
        self.give_up(attempt, failure, blame, cx);
    }

    /// The kernel has said why a connect failed that had begun then.
    fn refused<D: Driver>(
        &mut self,
        lease: &Lease,
        errno: Errno,
        started: Instant,
        cx: &mut Context<'_, D>,
    ) {
        let failure = ConnectFailure::Refused(lease.address(), errno);
        self.failed(lease, failure, Blame::of(errno), cx);
        let lasted = cx.now.saturating_duration_since(started);
        match Answer::of(errno) {
            // What was said so late was said by nobody over there.
            Answer::No if lasted < SILENT_PATIENCE => lease.refused(cx.now),
            Answer::No | Answer::None => lease.not_answered(),
            Answer::Yes => cx.changes.room |= lease.reached(),
            Answer::Unasked => {}
        }
    }

    fn give_up<D: Driver>(
        &mut self,
        attempt: Attempt,
        failure: ConnectFailure,
        blame: Blame,
        cx: &mut Context<'_, D>,
    ) {
        self.failed(&attempt.lease, failure, blame, cx);
        cx.abandon(attempt.sock, attempt.lease);
    }

    fn failed<D: Driver>(
        &mut self,
        lease: &Lease,
        failure: ConnectFailure,
        blame: Blame,
        cx: &mut Context<'_, D>,
    ) {
        cx.counters.connect_failures.add(1);
        lease.counters().connect_failures.add(1);
        self.tried.insert(lease);
        self.failure = failure;
        self.want = match Family::of(lease.address()) {
            Some(family) if cx.balancer.is_mixed() => Want::Rather(family.other()),
            _ => Want::Any,
        };
        if blame == Blame::Endpoint {
            cx.published.unreachable(lease.health(), &failure, cx.now);
            cx.published.failed(lease.health(), cx.now);
        }
        // The address may have moved: the names behind it are looked up early.
        if let Some(ip) = lease.address().ip() {
            cx.published.refresher().suspect(ip);
        }
    }

    // --- waiting ------------------------------------------------------------------------------

    /// The time for connecting begins with the first moment in which something could be tried, or
    /// nothing was there to be tried: waiting in the queue has a limit of its own. Returns its end.
    fn begin<D: Driver>(&mut self, cx: &Context<'_, D>) -> Instant {
        if let Some(by) = self.by {
            return by;
        }
        if cx.timeouts.silent_is_short && cx.balancer.is_silent() {
            self.patience = self.patience.min(SILENT_PATIENCE);
        }
        *self.by.insert(cx.now + self.patience)
    }

    /// Whether all endpoints refuse, and have done so for long enough. If they have not, notes when.
    fn has_been_refused_enough<D: Driver>(&mut self, cx: &Context<'_, D>) -> bool {
        let patience = cx.timeouts.refused;
        self.refused_by = patience.and_then(|patience| cx.balancer.refused_until(patience));
        self.refused_by.is_some_and(|by| by <= cx.now)
    }

    fn has_queued_enough(&self, now: Instant) -> bool {
        self.queue_by.is_some_and(|by| by <= now)
    }

    /// Those that were not tried are full: the time for connecting does not run. A session that has tried
    /// others asks those again meanwhile.
    fn wait_for_place<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        self.want = Want::Any;
        self.refused_by = None;
        let has_tried = self.by.take().is_some();
        self.queue(has_tried, cx.now);
    }

    /// Its turn may have come and the place was not for it: then nothing has changed.
    fn queue(&mut self, has_tried: bool, now: Instant) {
        if let Stage::Queued(Wait::Again { .. }) = self.stage {
            return;
        }
        self.stage = Stage::Queued(if has_tried {
            Wait::Again {
                retry_at: now + self.next_pause(),
            }
        } else {
            Wait::First
        });
    }

    /// Each endpoint was tried, or there is none.
    fn wait_for_more<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        self.want = Want::Any;
        if cx.balancer.is_limited() {
            // Outside of the queue, it would hold no place and be in nobody's count.
            let has_tried = !cx.balancer.is_empty();
            if has_tried {
                self.begin(cx);
            } else {
                cx.published.refresher().suspect_all();
            }
            return self.queue(has_tried, cx.now);
        }
        self.begin(cx);
        if cx.balancer.is_empty() {
            cx.published.refresher().suspect_all();
            self.stage = Stage::Unknown {
                remind_at: cx.now + REMINDER_INTERVAL,
            };
        } else if self.failure.is_full_backlog() {
            // A TCP connect would wait, so this does.
            self.pause(STARVED_RETRY, Then::StartOver, cx.now);
        } else {
            let pause = self.next_pause();
            self.pause(pause, Then::StartOver, cx.now);
        }
    }

    fn next_pause(&mut self) -> Duration {
        let max = match self.refused_by {
            Some(_) => PAUSE_REFUSED_MAX,
            None => PAUSE_MAX,
        };
        let pause = self.pause.min(max);
        self.pause = (2 * pause).min(max);
        pause
    }

    fn pause(&mut self, length: Duration, then: Then, now: Instant) {
        self.stage = Stage::Pausing {
            until: now + length,
            then,
        };
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

/// How the start of an attempt went.
enum Started {
    Connecting(Attempt),
    Open(Sock, Lease),
    /// It counts as tried.
    Failed,
    /// Something is missing that has nothing to do with the endpoint.
    Starved,
}

/// Whose fault a failed connect is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blame {
    Endpoint,
    /// This machine's, or that of a busy moment.
    Nobody,
}

impl Blame {
    fn of(errno: Errno) -> Self {
        match errno {
            // No port, no memory; a Unix socket's full backlog; taken back.
            Errno(libc::EADDRNOTAVAIL | libc::ENOMEM | libc::ENOBUFS)
            | Errno(libc::EAGAIN | libc::ECANCELED) => Self::Nobody,
            // Refused, unreachable, forbidden, unanswered.
            _ => Self::Endpoint,
        }
    }
}

/// What a connect that failed tells of the endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It was there, and had no room.
    Yes,
    /// It said no, or somebody on the way did.
    No,
    /// It said nothing.
    None,
    /// It was not asked, or not by us in the end.
    Unasked,
}

impl Answer {
    fn of(errno: Errno) -> Self {
        match errno {
            // A Unix socket's backlog is full; or it took the connection and broke it off.
            Errno(libc::EAGAIN | libc::ECONNRESET | libc::EPIPE) => Self::Yes,
            Errno(libc::ETIMEDOUT) => Self::None,
            errno if Blame::of(errno) == Blame::Nobody => Self::Unasked,
            _ => Self::No,
        }
    }
}
