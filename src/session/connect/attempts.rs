//! Attempts: one connect, or two in a race.

use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::backend::{Address, Choice, Family, Lease, Moment, Want};
use crate::driver::{Close, Driver, Op, Sock};
use crate::session::{ConnectFailure, Context, End, Owner};
use crate::sys::Errno;

use super::failures::Blame;
use super::{Connecting, REMINDER_INTERVAL, Race, SearchStage, SearchStep};

/// How long a connect has before one of the other address family joins in (RFC 8305, section 5, its
/// "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);

/// How long a connect goes unanswered before the names behind its address are looked up early. Less than it takes
/// a lost SYN to be sent again, so that there is time left for a new address even for clients with little
/// patience; one lookup more costs nobody anything.
const SUSPECT_AFTER: Duration = Duration::from_millis(750);

/// An endpoint that does not answer gets at least this part of the time that is left, however many
/// others there are: with the default of 5 s, enough for a second SYN, which follows after 1 s.
const PARTS_MAX: u32 = 4;

pub(super) struct Attempt {
    pub(super) sock: Sock,
    pub(super) lease: Lease,
    pub(super) started: Instant,
    /// When the resolver is told next that there is no answer.
    suspect_at: Instant,
    give_up_at: Instant,
}

impl Attempt {
    /// When there is something to do about it.
    pub(super) fn deadline(&self) -> Instant {
        self.give_up_at.min(self.suspect_at)
    }

    /// The names behind an address that is silent for long are looked up early, again and again.
    fn suspect<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        if self.suspect_at > cx.hands.now {
            return;
        }
        self.suspect_at = cx.hands.now + REMINDER_INTERVAL;
        if let Some(ip) = self.lease.address().ip() {
            cx.published.refresher().suspect(ip);
        }
    }
}

/// How the start of an attempt went.
pub(super) enum Started {
    Connecting(Attempt),
    Open(Sock, Lease),
    /// It counts as tried.
    Failed,
    /// Something is missing that has nothing to do with the endpoint.
    Starved,
}

impl Connecting {
    /// Starts to connect.
    pub(super) fn start<D: Driver>(
        &mut self,
        lease: Lease,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> Started {
        let address = lease.address();
        let by = self.begin(cx);
        if let Address::Tcp(to) = address
            && !cx.policy.tcp.source.reaches(&to)
        {
            let failure = ConnectFailure::OtherFamily(address);
            self.failed(&lease, failure, Blame::Nobody, cx);
            // It need not be waited for if the others refuse.
            lease.refused(cx.hands.now);
            return Started::Failed;
        }
        match (self.open(address, cx), address) {
            (Ok(sock), Address::Tcp(to)) => {
                if bytes_follow || self.hello.bytes().is_some() {
                    cx.hands.driver.send_follows(sock);
                }
                cx.hands.driver.submit(sock, Op::Connect(to));
                // Those that are still untried get as much of the time that is left.
                let left = by.saturating_duration_since(cx.hands.now);
                let untried = cx.balancer.untried(&self.tried);
                let parts = u32::try_from(untried).unwrap_or(PARTS_MAX);
                Started::Connecting(Attempt {
                    sock,
                    lease,
                    started: cx.hands.now,
                    suspect_at: cx.hands.now + SUSPECT_AFTER,
                    give_up_at: cx.hands.now + left / parts.clamp(1, PARTS_MAX),
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
                self.refused(&lease, errno, cx.hands.now, cx);
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
            let configured = cx.hands.driver.configure_tcp(spare, &to, &cx.policy.tcp);
            return match configured {
                Ok(()) => Ok(spare),
                Err(errno) => {
                    cx.hands.driver.close(spare, Close::Graceful);
                    Err(errno)
                }
            };
        }
        // The spare socket is for IPv4: of use if one of those may race with this one.
        if !cx.balancer.is_mixed() {
            self.close_spare(&mut cx.hands.driver);
        }
        let opened = match address {
            Address::Tcp(to) => cx.hands.driver.open_tcp(&to, &cx.policy.tcp),
            Address::Unix(name) => cx.hands.driver.open_unix(name),
        };
        // Its descriptor may be the one that is missing.
        opened.inspect_err(|_| self.close_spare(&mut cx.hands.driver))
    }

    fn close_spare<D: Driver>(&mut self, driver: &mut D) {
        if let Some(spare) = self.spare.take() {
            driver.close(spare, Close::Graceful);
        }
    }

    /// One attempt is under way. If the set has both families, one of the other joins it in time.
    pub(super) fn try_alone<D: Driver>(&mut self, first: Attempt, cx: &mut Context<'_, D>) {
        cx.hands
            .owners
            .assign(first.sock, Owner::Session(cx.id, End::Backend));
        let race = match Family::of(first.lease.address()) {
            Some(family) if cx.balancer.is_mixed() => {
                Race::StartsAt(cx.hands.now + HEAD_START, Want::Only(family.other()))
            }
            _ => Race::Off,
        };
        self.stage = SearchStage::Trying { first, race };
    }

    /// The set has changed while connects are under way. Its endpoints are tried at once beside one that has
    /// had its head start. Of two, one whose endpoint has left the set makes way.
    pub(super) fn look_elsewhere<D: Driver>(
        &mut self,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        let SearchStage::Trying { mut first, race } = self.take_stage(cx.hands.now) else {
            unreachable!("connects are under way")
        };
        cx.balancer.refresh(cx.published);
        let is_drained = |attempt: &Attempt| cx.balancer.is_drained(attempt.lease.address());
        let rival_is_drained = matches!(&race, Race::On(rival) if is_drained(rival));
        if is_drained(&first) || rival_is_drained {
            return self.leave_drained(first, race, bytes_follow, cx);
        }
        if let Race::On(mut rival) = race {
            let is_current = |attempt: &Attempt| cx.balancer.has(attempt.lease.address());
            if is_current(&first) && is_current(&rival) {
                let race = Race::On(rival);
                self.stage = SearchStage::Trying { first, race };
                return SearchStep::Waiting;
            }
            if !is_current(&first) {
                mem::swap(&mut first, &mut rival);
            }
            cx.abandon(rival.sock, rival.lease);
        }
        cx.hands
            .owners
            .assign(first.sock, Owner::Session(cx.id, End::Backend));
        let begins = first.started + HEAD_START;
        if begins <= cx.hands.now {
            return self.start_race(first, Want::Any, bytes_follow, cx);
        }
        let race = Race::StartsAt(begins, Want::Any);
        self.stage = SearchStage::Trying { first, race };
        SearchStep::Waiting
    }

    /// Attempts at endpoints that get nothing new any more are given up, which is nobody's fault.
    fn leave_drained<D: Driver>(
        &mut self,
        first: Attempt,
        race: Race,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        let rival = match race {
            Race::On(rival) => Some(rival),
            Race::Off | Race::StartsAt(..) => None,
        };
        let mut left = None;
        for attempt in [Some(first), rival].into_iter().flatten() {
            if cx.balancer.is_drained(attempt.lease.address()) {
                cx.abandon(attempt.sock, attempt.lease);
            } else {
                left = Some(attempt);
            }
        }
        // It had a place, and is not sent away for want of room to wait for another one.
        self.is_owed_a_place = true;
        self.go_on(left, bytes_follow, cx)
    }

    /// The head start is over: another one, if there is any that would do.
    fn start_race<D: Driver>(
        &mut self,
        first: Attempt,
        want: Want,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        if cx.is_paused {
            // It would be something new.
            let race = Race::Off;
            self.stage = SearchStage::Trying { first, race };
            return SearchStep::Waiting;
        }
        let is_trial = first.lease.is_trial() && cx.is_asked_first(&first.lease);
        if want == Want::Any && is_trial && !self.has_given_up_trial {
            // It was to find out whether there is a worker for it: none is waited for that long, and others come to rest. The
            // next one is a connect like any other, or an endpoint that has gone silent would never be held to be so.
            self.has_given_up_trial = true;
            let had_place = !first.lease.is_nobodys();
            first.lease.is_late(cx.hands.now);
            cx.abandon(first.sock, first.lease);
            self.wait_for_proof(had_place, cx);
            return SearchStep::Waiting;
        }
        self.tried.insert(&first.lease);
        let race = loop {
            let chosen = cx.balancer.choose_with(
                cx.published,
                &mut self.tried,
                want,
                self.reuse,
                Moment::new(self.class, cx.hands.now),
            );
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
                    return SearchStep::Resting(address);
                }
                Choice::Full if want == Want::Any => {
                    break Race::StartsAt(cx.hands.now + HEAD_START, want);
                }
                Choice::Resting(_) | Choice::Full | Choice::Exhausted => break Race::Off,
            };
            match self.start(lease, bytes_follow, cx) {
                Started::Connecting(rival) => {
                    cx.hands
                        .owners
                        .assign(rival.sock, Owner::Session(cx.id, End::Rival));
                    break Race::On(rival);
                }
                Started::Open(sock, lease) => match self.introduce(sock, bytes_follow, cx) {
                    Ok(()) => {
                        cx.abandon(first.sock, first.lease);
                        return self.found(sock, lease, cx);
                    }
                    Err(errno) => {
                        self.refused(&lease, errno, cx.hands.now, cx);
                        cx.abandon(sock, lease);
                    }
                },
                Started::Failed => {}
                Started::Starved => break Race::StartsAt(cx.hands.now + HEAD_START, want),
            }
        };
        self.stage = SearchStage::Trying { first, race };
        SearchStep::Waiting
    }

    /// Something about the attempts is due.
    pub(super) fn look_at_attempts<D: Driver>(
        &mut self,
        mut first: Attempt,
        mut race: Race,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        first.suspect(cx);
        if let Race::On(rival) = &mut race {
            rival.suspect(cx);
        }
        let has_had_its_time = |attempt: &Attempt| attempt.give_up_at <= cx.hands.now;
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
            Race::StartsAt(at, want) if at <= cx.hands.now => {
                self.start_race(first, want, bytes_follow, cx)
            }
            // Only the resolver was to be told.
            Race::Off | Race::StartsAt(..) | Race::On(_) => {
                self.stage = SearchStage::Trying { first, race };
                SearchStep::Waiting
            }
        }
    }

    /// An attempt has failed, and another may still be under way.
    pub(super) fn go_on<D: Driver>(
        &mut self,
        left: Option<Attempt>,
        bytes_follow: bool,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        match left {
            Some(attempt) => {
                self.try_alone(attempt, cx);
                SearchStep::Waiting
            }
            None => self.search(bytes_follow, cx),
        }
    }

    /// The loser, if there is one, has nothing sent on it yet.
    pub(super) fn won<D: Driver>(
        &mut self,
        winner: Attempt,
        end: End,
        loser: Option<Attempt>,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        if let Some(loser) = loser {
            // It had a head start, and yet it lost: or sessions would go on waiting for it.
            if end == End::Rival {
                cx.published.failed(loser.lease.health(), cx.hands.now);
            }
            cx.abandon(loser.sock, loser.lease);
        }
        self.found(winner.sock, winner.lease, cx)
    }

    pub(super) fn found<D: Driver>(
        &mut self,
        sock: Sock,
        lease: Lease,
        cx: &mut Context<'_, D>,
    ) -> SearchStep {
        self.close_spare(&mut cx.hands.driver);
        cx.hands
            .owners
            .assign(sock, Owner::Session(cx.id, End::Backend));
        self.refused_by = None;
        // Those that wait may try it again.
        cx.changes.room |= lease.reached();
        cx.published.reached(lease.health(), cx.hands.now);
        let left = self.begin(cx).saturating_duration_since(cx.hands.now);
        cx.counters
            .connect_time
            .record(self.patience.saturating_sub(left));
        lease.counters().connects.add(1);
        SearchStep::Open(sock, lease)
    }
}
