//! New connections that are asked whether there is a worker for them before they have a request, where the number of
//! connections is found out (`--per-endpoint-max auto`; `backend/balance/permits.rs` has the rules).
//!
//! The question is the fence, so only a server that is known to answer it gets one here: others have their requests first,
//! as ever. Whoever has opened the connection waits in the queue meanwhile, and takes whatever comes free first. One that
//! is answered rests, as after a request.

use std::time::{Duration, Instant};

use crate::backend::{Address, Footing, Verdict};
use crate::driver::{Close, Driver, Op};
use crate::fastcgi::{FENCE, Settling};
use crate::session::{Hands, Owner, RouteKey};

use super::{Kept, KeptState, Manner, Open, Pool, UpstreamId};

/// An endpoint that has no connection but one that was asked, and does not answer that for so long, may be another
/// program by now, which cannot: the next connection has its request first. Half of the default of --queue-timeout.
const DOUBTED_AFTER: Duration = Duration::from_secs(5);

/// How often the log has it what was found out of an endpoint, but for debugging.
const TELL_EVERY: Duration = Duration::from_secs(600);

impl Manner {
    /// What it means to whoever finds out how many connections there may be.
    pub(super) fn footing(self) -> Footing {
        match self {
            Self::Unknown { .. } => Footing::Unknown,
            Self::InTurn { .. } | Self::AnyTime { .. } => Footing::Proven,
            Self::Silent { .. } | Self::Closes { .. } => Footing::Unfit,
        }
    }
}

impl Pool {
    /// What has changed of the footings of endpoints since this was asked last.
    pub fn take_footings(&mut self) -> Vec<(Address, Footing)> {
        std::mem::take(&mut self.footings)
    }

    /// Whether a new connection is asked first.
    pub(in crate::session) fn asks_first(&self, open: &Open) -> bool {
        let address = open.lease.address();
        open.lease.is_trial() && self.may_rest(address) && self.manner(address).is_proven()
    }

    /// It was sent the fence and nothing else.
    pub(in crate::session) fn prove<D: Driver>(
        &mut self,
        open: Open,
        route: RouteKey,
        hands: &mut Hands<D>,
    ) {
        let look_at = open.lease.ask(hands.now);
        let entry = self.kept.vacant_entry();
        let id = UpstreamId(entry.key());
        hands.owners.assign(open.sock, Owner::Upstream(route, id));
        hands.driver.submit(open.sock, Op::Recv);
        entry.insert(Kept {
            open: Open {
                requests: 0,
                sent_before: FENCE.len() as u64,
                ..open
            },
            since: hands.now,
            state: KeptState::Proving {
                settling: Settling::new(),
                look_at,
            },
        });
        self.counters.fastcgi.settling.raise();
        self.look_for_newcomers_at(Some(look_at));
    }

    /// There is a worker for it.
    pub(super) fn proven(&mut self, id: UpstreamId, now: Instant) {
        let lease = &self.kept[id.0].open.lease;
        let before = lease.found_limit();
        lease.has_answered(now);
        self.tell_change(lease.address(), before, lease.found_limit());
    }

    /// When there is something to do about one.
    pub(super) fn proofs_at(&self) -> Option<Instant> {
        let all = self.kept.iter().filter_map(|(_, kept)| match kept.state {
            KeptState::Proving { look_at, .. } => Some(look_at),
            KeptState::Settling(_) | KeptState::Resting | KeptState::Abandoned => None,
        });
        all.min()
    }

    /// Does what follows where there was no answer in time.
    pub(super) fn look_at_proofs<D: Driver>(&mut self, hands: &mut Hands<D>) {
        let now = hands.now;
        let is_due = |kept: &Kept| match kept.state {
            KeptState::Proving { look_at, .. } => look_at <= now,
            KeptState::Settling(_) | KeptState::Resting | KeptState::Abandoned => false,
        };
        for id in self.all(is_due) {
            let kept = &mut self.kept[id.0];
            let (lease, doubted_at) = (&kept.open.lease, kept.since + DOUBTED_AFTER);
            let (address, before) = (lease.address(), lease.found_limit());
            let verdict = lease.is_late(now);
            let after = lease.found_limit();
            let next = match verdict {
                Verdict::Until(at) => Some(at),
                Verdict::Stay if now < doubted_at => Some(doubted_at),
                Verdict::Stay => {
                    self.learn(address, Manner::UNKNOWN);
                    None
                }
                Verdict::Close => None,
            };
            match (next, &mut self.kept[id.0].state) {
                (Some(at), KeptState::Proving { look_at, .. }) => *look_at = at,
                _ => self.close(id, Close::Graceful, hands),
            }
            self.tell_change(address, before, after);
            if verdict == Verdict::Close {
                self.tell_found(address, after, now);
            }
        }
    }

    fn tell_change(&self, address: Address, before: Option<u32>, after: Option<u32>) {
        if let (Some(before), Some(after)) = (before, after)
            && before != after
        {
            tracing::debug!(
                route = %self.route,
                before,
                after,
                "endpoint {address}: as many connections may be open now"
            );
        }
    }

    /// There was no worker for one more.
    fn tell_found(&mut self, address: Address, limit: Option<u32>, now: Instant) {
        let Some(limit) = limit else { return };
        let is_news = self.told.get(&address).is_none_or(|(told, at)| {
            *told != limit && now.saturating_duration_since(*at) >= TELL_EVERY
        });
        if is_news {
            self.told.insert(address, (limit, now));
            tracing::info!(
                route = %self.route,
                connections = limit,
                "endpoint {address}: there are workers for so many connections of this daemon (--per-endpoint-max \
                 auto); it is tried again now and then"
            );
        }
    }
}
