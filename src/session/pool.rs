//! The connections to FastCGI servers that no request uses now.
//!
//! After END_REQUEST a connection is *settling*: its server may still be busy with the request
//! (`fastcgi_finish_request`), or about to retire. Only the answer to the fence, and nothing else,
//! makes it leasable. The pool belongs to one worker, as do the permits: a connection that rests in
//! another worker's pool would hold a place that somebody waits for here.
//!
//! - The one that was used last is leased first, so that those that are not needed are closed.
//! - Nothing is opened in advance.
//! - What settles never makes anyone wait: once somebody does, whatever has been settling for longer
//!   than the settle timeout is closed.
//! - Servers that never answer the fence, or close after the answer, are found out: see [`Reuse`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::backend::{Address, AddressSet, Lease};
use crate::config::RouteName;
use crate::counters::RouteCounters;
use crate::driver::{Close, Done, Driver, Lane, Op, Sock};
use crate::fastcgi::{Settled, Settling};

use super::{Owner, Owners, Retired};

/// Connections in a row that a server leaves without an answer to the fence, or closes after it, before
/// it counts as one that does so always.
const UNFIT_AFTER: u32 = 3;

/// How often the pool looks for connections whose time is up: so many times in one idle timeout.
const LOOKS: u32 = 4;

/// How connections are kept.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// Whether a connection serves more than one request.
    pub reuse: bool,
    /// How long one rests, or settles while nobody waits.
    pub idle: Duration,
    /// How long one may settle while somebody waits.
    pub settle: Duration,
    /// Requests that one serves at most.
    pub requests_max: u32,
}

/// A kept connection, by its number in the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpstreamId(pub(super) usize);

/// An open connection that a request has for itself.
pub(super) struct Open {
    pub(super) sock: Sock,
    pub(super) lease: Lease,
    /// Requests so far, the one that it has now included.
    pub(super) requests: u32,
    /// Bytes that were sent on it before the request that it has now.
    pub(super) sent_before: u64,
}

impl Open {
    /// A new connection, for its first request.
    pub(super) fn new(sock: Sock, lease: Lease) -> Self {
        Self {
            sock,
            lease,
            requests: 1,
            sent_before: 0,
        }
    }

    /// Whether another request had it before.
    pub(super) fn is_reused(&self) -> bool {
        self.requests > 1
    }
}

/// What is known of a server's way with kept connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reuse {
    /// This many of its connections in a row did not come to rest, or ended as soon as they did.
    Unproven(u32),
    /// A kept connection has served a request.
    Works,
    /// It does not answer the fence, or closes after the answer: only requests that may be repeated
    /// are worth a kept connection.
    Doubtful,
}

/// One worker's kept connections of one route.
pub struct Pool {
    /// Whose they are, for the log.
    route: RouteName,
    options: PoolOptions,
    kept: Slab<Kept>,
    /// Of each endpoint, those that rest, the one that was used last at the end.
    resting: HashMap<Address, Vec<UpstreamId>>,
    reuse: HashMap<Address, Reuse>,
    /// When to look for connections whose time is up. `None`: there are none at all.
    look_at: Option<Instant>,
    counters: Arc<RouteCounters>,
}

struct Kept {
    open: Open,
    /// Since it has this state.
    since: Instant,
    state: State,
}

enum State {
    Settling(Settling),
    Resting,
}

/// What became of a connection in the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Change {
    /// Nothing that anyone waits for.
    None,
    /// It can be leased.
    Rests,
    /// It was closed.
    Gone,
}

impl Pool {
    /// An empty one.
    #[must_use]
    pub fn new(options: PoolOptions) -> Self {
        Self {
            route: RouteName::default(),
            options,
            kept: Slab::new(),
            resting: HashMap::new(),
            reuse: HashMap::new(),
            look_at: None,
            counters: Arc::default(),
        }
    }

    /// Says of this route what there is to say, and not of the default one.
    #[must_use]
    pub fn of_route(self, route: RouteName) -> Self {
        Self { route, ..self }
    }

    /// Counts in these cells, of which this worker is the writer.
    #[must_use]
    pub fn counting(self, counters: Arc<RouteCounters>) -> Self {
        Self { counters, ..self }
    }

    /// One that is never used.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(PoolOptions {
            reuse: false,
            idle: Duration::ZERO,
            settle: Duration::ZERO,
            requests_max: 0,
        })
    }

    /// Whether a connection is kept after the request that it has.
    pub(super) fn keeps(&self, open: &Open) -> bool {
        self.options.reuse && open.requests < self.options.requests_max
    }

    /// What is known of the server at `address`.
    pub(super) fn reuse(&self, address: Address) -> Reuse {
        let known = self.reuse.get(&address).copied();
        known.unwrap_or(Reuse::Unproven(0))
    }

    /// A request is over, and the fence was sent. A receive is armed on the connection, or `armed` is
    /// false. `settling` has seen what came after END_REQUEST.
    pub(super) fn settle<D: Driver>(
        &mut self,
        open: Open,
        settling: Settling,
        armed: bool,
        route: usize,
        cx: &mut PoolContext<'_, D>,
    ) -> Change {
        let entry = self.kept.vacant_entry();
        let id = UpstreamId(entry.key());
        let sock = open.sock;
        cx.owners.assign(sock, Owner::Upstream(route, id));
        if !armed {
            cx.driver.submit(sock, Op::Recv);
        }
        entry.insert(Kept {
            open,
            since: cx.now,
            state: State::Settling(settling),
        });
        self.counters.fastcgi.settling.raise();
        self.look_soon(self.patience(&self.kept[id.0]), cx.now);
        self.judge(id, settling.state(), cx)
    }

    /// The connection that was used last among those that rest at this endpoint.
    pub(super) fn take(&mut self, address: Address) -> Option<Open> {
        let id = self.resting.get_mut(&address)?.pop()?;
        let Kept { open, .. } = self.kept.remove(id.0);
        open.lease.rouse();
        Some(Open {
            requests: open.requests + 1,
            ..open
        })
    }

    /// Closes a connection that rests at this endpoint: its place is wanted for a new one.
    pub(super) fn drop_resting<D: Driver>(
        &mut self,
        address: Address,
        cx: &mut PoolContext<'_, D>,
    ) {
        if let Some(id) = self.resting.get(&address).and_then(|ids| ids.first()) {
            self.close(*id, cx);
        }
        // Others may rest while the new one is opened.
        self.look_soon(self.options.settle, cx.now);
    }

    /// A kept connection has served a request.
    pub(super) fn served_again(&mut self, address: Address) {
        if self.reuse.insert(address, Reuse::Works) == Some(Reuse::Doubtful) {
            self.count_doubtful();
        }
    }

    /// A connection did not come to rest, or was of no use when it did.
    pub(super) fn disappointed(&mut self, address: Address) {
        let next = match self.reuse(address) {
            Reuse::Works => Reuse::Works,
            Reuse::Doubtful => Reuse::Doubtful,
            Reuse::Unproven(before) if before + 1 < UNFIT_AFTER => Reuse::Unproven(before + 1),
            Reuse::Unproven(_) => {
                tracing::warn!(
                    route = %self.route,
                    "endpoint {address}: keeps no connections, or does not answer \
                     FCGI_GET_VALUES; only GET and HEAD use a connection again there"
                );
                Reuse::Doubtful
            }
        };
        if self.reuse.insert(address, next) != Some(next) {
            self.count_doubtful();
        }
    }

    fn count_doubtful(&self) {
        let doubtful = self.reuse.values().filter(|r| **r == Reuse::Doubtful);
        let doubtful = doubtful.count() as u64;
        self.counters.fastcgi.doubtful.set(doubtful);
    }

    /// A connection of the pool was heard of.
    pub fn complete<D: Driver>(
        &mut self,
        id: UpstreamId,
        lane: Lane,
        done: Done,
        cx: &mut PoolContext<'_, D>,
    ) -> Change {
        assert!(lane == Lane::Read, "everything was sent before it was kept");
        let kept = &mut self.kept[id.0];
        match (done, &mut kept.state) {
            (Done::Received(buf), State::Settling(settling)) => {
                let settled = settling.read(&buf);
                cx.driver.submit(kept.open.sock, Op::Recv);
                self.judge(id, settled, cx)
            }
            // Nobody has asked for anything; or it is the end.
            (Done::Received(_) | Done::Eof | Done::Failed(_), _) => {
                self.fail(id, cx);
                Change::Gone
            }
            (done, _) => unreachable!("a receive ends with {done:?}"),
        }
    }

    fn judge<D: Driver>(
        &mut self,
        id: UpstreamId,
        settled: Settled,
        cx: &mut PoolContext<'_, D>,
    ) -> Change {
        match settled {
            Settled::NotYet => Change::None,
            Settled::Surplus(_) => {
                self.fail(id, cx);
                Change::Gone
            }
            Settled::Answered => {
                let kept = &mut self.kept[id.0];
                let lasted = cx.now.saturating_duration_since(kept.since);
                self.counters.fastcgi.settle_time.record(lasted);
                if kept.open.lease.gives_way(cx.now) {
                    return self.give_way(id, cx);
                }
                self.counters.fastcgi.settling.lower();
                kept.state = State::Resting;
                kept.since = cx.now;
                kept.open.lease.rest(cx.now);
                let address = kept.open.lease.address();
                let gives_way_at = kept.open.lease.gives_way_at();
                self.look_for_newcomers_at(gives_way_at);
                self.resting.entry(address).or_default().push(id);
                Change::Rests
            }
        }
    }

    /// It ended by itself, or broke the rules. One that has rested for long is not to blame.
    fn fail<D: Driver>(&mut self, id: UpstreamId, cx: &mut PoolContext<'_, D>) {
        let kept = &self.kept[id.0];
        let address = kept.open.lease.address();
        let rested = cx.now.saturating_duration_since(kept.since);
        if matches!(kept.state, State::Settling(_)) || rested < self.options.settle {
            self.disappointed(address);
        }
        self.close(id, cx);
    }

    fn close<D: Driver>(&mut self, id: UpstreamId, cx: &mut PoolContext<'_, D>) {
        let Kept { open, state, .. } = self.kept.remove(id.0);
        if let State::Settling(_) = state {
            self.counters.fastcgi.settling.lower();
        } else {
            open.lease.rouse();
            let ids = self.resting.get_mut(&open.lease.address());
            let ids = ids.expect("what rests is listed");
            ids.retain(|other| *other != id);
        }
        let closed = cx.driver.close(open.sock, Close::Graceful);
        cx.retired.push(open.lease, open.sock, closed);
    }

    /// A connection that has nothing to do is closed for one that may wait in the server's backlog.
    fn give_way<D: Driver>(&mut self, id: UpstreamId, cx: &mut PoolContext<'_, D>) -> Change {
        tracing::debug!(
            route = %self.route,
            "endpoint {}: a connection without a request makes way for one without an answer",
            self.kept[id.0].open.lease.address()
        );
        self.close(id, cx);
        Change::Gone
    }

    /// Something rests then, and the next look is soon enough.
    fn look_for_newcomers_at(&mut self, at: Option<Instant>) {
        let dates = self.look_at.into_iter().chain(at);
        self.look_at = dates.min();
    }

    /// Closes connections that rest for those that may wait in a server's backlog, those first that were not
    /// used for longest.
    fn make_way<D: Driver>(&mut self, cx: &mut PoolContext<'_, D>) {
        let mut giving_way = Vec::new();
        for ids in self.resting.values() {
            let gives_way = |id: &&UpstreamId| self.kept[id.0].open.lease.gives_way(cx.now);
            giving_way.extend(ids.iter().take_while(gives_way));
        }
        for id in giving_way {
            let Change::Gone = self.give_way(id, cx) else {
                unreachable!("it was closed")
            };
        }
    }

    /// When to make way for the next one.
    fn newcomers_at(&self) -> Option<Instant> {
        let last = self.resting.values().filter_map(|ids| ids.last());
        last.filter_map(|id| self.kept[id.0].open.lease.gives_way_at())
            .min()
    }

    /// Somebody waits for a place: whatever has been settling for too long gives up its own.
    pub fn make_room<D: Driver>(&mut self, cx: &mut PoolContext<'_, D>) {
        let settle = self.options.settle;
        let is_late =
            |kept: &Kept| matches!(kept.state, State::Settling(_)) && kept.since + settle <= cx.now;
        for id in self.all(is_late) {
            self.disappointed(self.kept[id.0].open.lease.address());
            self.close(id, cx);
        }
    }

    /// When [`Pool::make_room`] can make some, if somebody waits then.
    #[must_use]
    pub fn room_at(&self) -> Option<Instant> {
        let settling = |(_, kept): (usize, &Kept)| match kept.state {
            State::Settling(_) => Some(kept.since + self.options.settle),
            State::Resting => None,
        };
        self.kept.iter().filter_map(settling).min()
    }

    /// When [`Pool::expire`] is due.
    #[must_use]
    pub fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// How long a connection may stay as it is. A server of which it is not known that it answers the
    /// fence may serve one connection at a time, and others wait for it that are not seen from here.
    fn patience(&self, kept: &Kept) -> Duration {
        match (&kept.state, self.reuse(kept.open.lease.address())) {
            (State::Settling(_), Reuse::Unproven(_) | Reuse::Doubtful) => {
                self.options.settle.min(self.options.idle)
            }
            (State::Settling(_), Reuse::Works) | (State::Resting, _) => self.options.idle,
        }
    }

    /// The next look is soon enough for a connection that may stay for this long.
    fn look_soon(&mut self, patience: Duration, now: Instant) {
        let at = now + patience / LOOKS;
        self.look_at = Some(self.look_at.map_or(at, |other| other.min(at)));
    }

    /// Closes what nobody has used for too long.
    pub fn expire<D: Driver>(&mut self, cx: &mut PoolContext<'_, D>) {
        if self.look_at.is_none_or(|at| at > cx.now) {
            return;
        }
        for id in self.all(|kept| kept.since + self.patience(kept) <= cx.now) {
            let kept = &self.kept[id.0];
            if let State::Settling(_) = kept.state {
                self.disappointed(kept.open.lease.address());
            }
            self.close(id, cx);
        }
        self.make_way(cx);
        self.look_at = self.newcomers_at();
        let patience = self.kept.iter().map(|(_, kept)| self.patience(kept)).min();
        if let Some(patience) = patience {
            self.look_soon(patience, cx.now);
        }
    }

    /// Closes what leads to endpoints that are not in the set, and forgets them.
    pub fn follow<D: Driver>(&mut self, set: &AddressSet, cx: &mut PoolContext<'_, D>) {
        let is_current = |address: Address| set.endpoints().iter().any(|e| e.address == address);
        for id in self.all(|kept| !is_current(kept.open.lease.address())) {
            self.close(id, cx);
        }
        self.resting.retain(|address, _| is_current(*address));
        self.reuse.retain(|address, _| is_current(*address));
        self.count_doubtful();
    }

    /// Closes everything.
    pub fn close_all<D: Driver>(&mut self, cx: &mut PoolContext<'_, D>) {
        for id in self.all(|_| true) {
            self.close(id, cx);
        }
        self.look_at = None;
    }

    fn all(&self, which: impl Fn(&Kept) -> bool) -> Vec<UpstreamId> {
        let which = self.kept.iter().filter(|(_, kept)| which(kept));
        which.map(|(id, _)| UpstreamId(id)).collect()
    }
}

/// What the pool can use in one step.
pub struct PoolContext<'a, D: Driver> {
    /// The way to the kernel.
    pub driver: &'a mut D,
    /// Who hears of sockets.
    pub owners: &'a mut Owners,
    /// Places at endpoints whose connections were closed.
    pub retired: &'a mut Retired<Lease>,
    /// The time of this turn.
    pub now: Instant,
}
