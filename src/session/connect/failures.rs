//! Attempts that fail: what that says of the endpoint, and what is tried next.

use std::time::Instant;

use crate::backend::{Family, Lease, Want};
use crate::driver::Driver;
use crate::session::{ConnectFailure, Context};
use crate::sys::Errno;

use super::attempts::Attempt;
use super::{Connecting, SILENT_PATIENCE};

/// Silence counts as a failure of the endpoint when it lasted for this part of the session's whole
/// time: the last attempt before the deadline may have had no time at all.
const FAIR_PART: u32 = 8;

/// Whose fault a failed connect is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    Endpoint,
    /// This machine's, or that of a busy moment.
    Nobody,
}

impl Blame {
    pub(super) fn of(errno: Errno) -> Self {
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
enum Reaction {
    /// It was there, and had no room.
    Yes,
    /// It said no, or somebody on the way did.
    No,
    /// It said nothing.
    None,
    /// It was not asked, or not by us in the end.
    Unasked,
}

impl Reaction {
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

impl Connecting {
    pub(super) fn time_out<D: Driver>(&mut self, attempt: Attempt, cx: &mut Context<'_, D>) {
        let failure = ConnectFailure::TimedOut(attempt.lease.address());
        let lasted = cx.hands.now.saturating_duration_since(attempt.started);
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
    pub(super) fn refused<D: Driver>(
        &mut self,
        lease: &Lease,
        errno: Errno,
        started: Instant,
        cx: &mut Context<'_, D>,
    ) {
        let failure = ConnectFailure::Refused(lease.address(), errno);
        self.failed(lease, failure, Blame::of(errno), cx);
        let lasted = cx.hands.now.saturating_duration_since(started);
        match Reaction::of(errno) {
            // What was said so late was said by nobody over there.
            Reaction::No if lasted < SILENT_PATIENCE => lease.refused(cx.hands.now),
            Reaction::No | Reaction::None => lease.not_answered(),
            Reaction::Yes => cx.changes.room |= lease.reached(),
            Reaction::Unasked => {}
        }
    }

    pub(super) fn give_up<D: Driver>(
        &mut self,
        attempt: Attempt,
        failure: ConnectFailure,
        blame: Blame,
        cx: &mut Context<'_, D>,
    ) {
        self.failed(&attempt.lease, failure, blame, cx);
        cx.abandon(attempt.sock, attempt.lease);
    }

    pub(super) fn failed<D: Driver>(
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
            cx.published
                .unreachable(lease.health(), &failure, cx.hands.now);
            cx.published.failed(lease.health(), cx.hands.now);
        }
        // The address may have moved: the names behind it are looked up early.
        if let Some(ip) = lease.address().ip() {
            cx.published.refresher().suspect(ip);
        }
    }
}
