//! The connections to FastCGI servers that no request uses now.
//!
//! After END_REQUEST a connection is *settling*: its server may still be busy with the request
//! (`fastcgi_finish_request`), or about to retire. Only the answer to the fence, and nothing else,
//! makes it leasable. The pool belongs to one worker, as do the permits: a connection that rests in
//! another worker's pool would hold a place that somebody waits for here.
//!
//! - The one that was used last is leased first, so that those that are not needed are closed.
//! - Nothing is opened in advance.
//! - What settles at a server that answers the fence in its turn is a worker that is still busy, and keeps
//!   its place until it is free: another connection would wait for one in the server's backlog. Elsewhere
//!   it makes nobody wait: once somebody does, what has been settling for longer than the settle timeout is
//!   closed.
//! - A worker whose client has left is busy until it writes or ends: until then its place is taken as well.
//! - What a server does with the fence, and with its connections, is found out: see [`Manner`].
//! - Where the number of connections is found out, a new one is asked first, before it has a request: see `proving`.

mod manner;
mod proving;
mod view;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::backend::{Address, AddressSet, ClassId, Footing, Lease};
use crate::config::RouteName;
use crate::counters::RouteCounters;
use crate::driver::{Close, Done, Driver, Lane, Op, Sock};
use crate::fastcgi::{Settled, Settling};

use super::{Hands, Owner, RouteKey};
pub(super) use manner::{Failing, Keeping, Manner};

/// How long a worker may be busy after its answer, or after its client has left, before its place is given
/// away: ten times the longest that PHP scripts run by default (`max_execution_time`, 30 s). Without a
/// bound, a host that vanished would hold places for good.
pub const BUSY_MAX: Duration = Duration::from_secs(300);

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

    /// Gives its place back when it is closed. Returns its socket if the driver has yet to join it.
    pub(super) fn close<D: Driver>(self, how: Close, hands: &mut Hands<D>) -> Option<Sock> {
        hands.close_upstream(self.sock, self.lease, how)
    }

    /// Whether another request had it before.
    pub(super) fn is_reused(&self) -> bool {
        self.requests > 1
    }

    /// Whether it was open for a while without a request: its server may have ended it meanwhile.
    pub(super) fn has_rested(&self) -> bool {
        self.sent_before > 0
    }
}

/// One worker's kept connections of one route.
pub struct Pool {
    /// Whose they are, for the log.
    route: RouteName,
    options: PoolOptions,
    kept: Slab<Kept>,
    /// Of each endpoint, those that rest, the one that was used last at the end.
    resting: HashMap<Address, VecDeque<UpstreamId>>,
    manners: HashMap<Address, Manner>,
    /// What has changed there, for whoever finds out how many connections there may be.
    footings: Vec<(Address, Footing)>,
    /// Limits that were found and told, and when.
    told: HashMap<Address, (u32, Instant)>,
    /// How many of these are of servers that keep none.
    unkept: u64,
    /// Endpoints that get nothing new.
    drained: HashSet<Address>,
    /// None does: the route is paused.
    is_held: bool,
    /// When to look for connections whose time is up. `None`: there are none at all.
    look_at: Option<Instant>,
    counters: Arc<RouteCounters>,
}

struct Kept {
    open: Open,
    /// Since it has this state.
    since: Instant,
    state: KeptState,
}

enum KeptState {
    Settling(Settling),
    /// It has had no request, and was asked whether there is a worker for it. There is something to do about it then.
    Proving {
        settling: Settling,
        look_at: Instant,
    },
    Resting,
    /// Its client has left, and its server has not begun to say anything since.
    Abandoned,
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
            manners: HashMap::new(),
            footings: Vec::new(),
            told: HashMap::new(),
            unkept: 0,
            drained: HashSet::new(),
            is_held: false,
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

    /// Keeps connections in another way from now on, and no more of them than there may be now.
    pub fn amend<D: Driver>(&mut self, options: PoolOptions, hands: &mut Hands<D>) {
        self.options = options;
        // Whoever is to find out limits from now on has not heard of them.
        let known = self.manners.iter();
        self.footings = known.map(|(at, manner)| (*at, manner.footing())).collect();
        self.close_needless(hands);
        // Those that are there may stay for longer or shorter than they might.
        self.look_at = self.look_at.and(Some(hands.now));
    }

    /// The route is paused, or is no more: while it is, nothing is kept that no request uses.
    pub fn hold<D: Driver>(&mut self, is_held: bool, hands: &mut Hands<D>) {
        self.is_held = is_held;
        self.close_needless(hands);
    }

    /// Closes what rests and is not to: of those beyond a lowered limit, the ones first that were not used for
    /// longest.
    fn close_needless<D: Driver>(&mut self, hands: &mut Hands<D>) {
        let mut needless = Vec::new();
        for ids in self.resting.values() {
            let Some(first) = ids.front() else { continue };
            let lease = &self.kept[first.0].open.lease;
            let surplus = match self.may_rest(lease.address()) {
                true => lease.surplus(),
                false => u64::MAX,
            };
            let surplus = usize::try_from(surplus).unwrap_or(usize::MAX);
            needless.extend(ids.iter().take(surplus));
        }
        for id in needless {
            self.close(id, Close::Graceful, hands);
        }
    }

    /// Whether connections to this endpoint are kept for requests that come.
    fn may_rest(&self, address: Address) -> bool {
        self.options.reuse && !self.is_held && !self.drained.contains(&address)
    }

    /// A request is over, and the fence was sent. `settling` has seen what came after END_REQUEST.
    pub(super) fn settle<D: Driver>(
        &mut self,
        open: Open,
        settling: Settling,
        route: RouteKey,
        hands: &mut Hands<D>,
    ) -> Change {
        let entry = self.kept.vacant_entry();
        let id = UpstreamId(entry.key());
        let sock = open.sock;
        hands.owners.assign(sock, Owner::Upstream(route, id));
        hands.driver.submit(sock, Op::Recv);
        entry.insert(Kept {
            open,
            since: hands.now,
            state: KeptState::Settling(settling),
        });
        self.counters.fastcgi.settling.raise();
        self.look_soon(self.patience(&self.kept[id.0]), hands.now);
        self.judge(id, settling.state(), hands)
    }

    /// The client of a request has left, all of which was sent. `armed`: a read is in flight. Its place is
    /// taken for as long as the server may be at work on it, of which it tells by writing or by ending:
    /// then it hears that nobody reads.
    pub(super) fn abandon<D: Driver>(
        &mut self,
        open: Open,
        armed: bool,
        route: RouteKey,
        hands: &mut Hands<D>,
    ) {
        let entry = self.kept.vacant_entry();
        let id = UpstreamId(entry.key());
        hands.owners.assign(open.sock, Owner::Upstream(route, id));
        if !armed {
            // It may hold back what it has written until the rest of that is acknowledged.
            hands.driver.acknowledge(open.sock);
            hands.driver.submit(open.sock, Op::Recv);
        }
        entry.insert(Kept {
            open,
            since: hands.now,
            state: KeptState::Abandoned,
        });
        self.look_soon(BUSY_MAX, hands.now);
    }

    /// The connection that was used last among those that rest at this endpoint, for a request of this class.
    pub(super) fn take(&mut self, address: Address, class: ClassId) -> Option<Open> {
        let id = self.resting.get_mut(&address)?.pop_back()?;
        let Kept { open, .. } = self.kept.remove(id.0);
        open.lease.rouse(class);
        Some(Open {
            requests: open.requests + 1,
            ..open
        })
    }

    /// Closes a connection that rests at this endpoint: its place is wanted for a new one.
    pub(super) fn drop_resting<D: Driver>(&mut self, address: Address, hands: &mut Hands<D>) {
        if let Some(id) = self.resting.get(&address).and_then(VecDeque::front) {
            self.close(*id, Close::Graceful, hands);
        }
        // Others may rest while the new one is opened.
        self.look_soon(self.options.settle, hands.now);
    }

    /// A connection of the pool was heard of.
    pub fn complete<D: Driver>(
        &mut self,
        id: UpstreamId,
        lane: Lane,
        done: Done,
        hands: &mut Hands<D>,
    ) -> Change {
        assert!(lane == Lane::Read, "everything was sent before it was kept");
        let kept = &mut self.kept[id.0];
        match (done, &mut kept.state) {
            (
                Done::Received(buf),
                KeptState::Settling(settling) | KeptState::Proving { settling, .. },
            ) => {
                let settled = settling.read(&buf);
                hands.driver.submit(kept.open.sock, Op::Recv);
                self.judge(id, settled, hands)
            }
            // It writes, or it ends. Its next write finds nobody.
            (_, KeptState::Abandoned) => {
                self.close(id, Close::Reset, hands);
                Change::Gone
            }
            // Nobody has asked for anything; or it is the end.
            (Done::Received(_) | Done::Eof | Done::Failed(_), _) => {
                self.fail(id, hands);
                Change::Gone
            }
            (done, _) => unreachable!("a receive ends with {done:?}"),
        }
    }

    fn judge<D: Driver>(
        &mut self,
        id: UpstreamId,
        settled: Settled,
        hands: &mut Hands<D>,
    ) -> Change {
        match settled {
            Settled::NotYet => Change::None,
            Settled::Surplus(_) => {
                self.fail(id, hands);
                Change::Gone
            }
            Settled::Answered => {
                let address = self.kept[id.0].open.lease.address();
                if let KeptState::Proving { .. } = self.kept[id.0].state {
                    self.proven(id, hands.now);
                } else {
                    let lasted = hands.now.saturating_duration_since(self.kept[id.0].since);
                    self.counters.fastcgi.settle_time.record(lasted);
                    if self.kept[id.0].open.lease.renews(hands.now) {
                        self.close(id, Close::Graceful, hands);
                        return Change::Gone;
                    }
                }
                let kept = &self.kept[id.0];
                let has_surplus = kept.open.lease.surplus() > 0;
                if has_surplus || !self.may_rest(address) {
                    self.close(id, Close::Graceful, hands);
                    return Change::Gone;
                }
                let kept = &mut self.kept[id.0];
                if kept.open.lease.gives_way(hands.now) {
                    return self.give_way(id, hands);
                }
                self.counters.fastcgi.settling.lower();
                kept.state = KeptState::Resting;
                kept.since = hands.now;
                kept.open.lease.rest(hands.now);
                let gives_way_at = kept.open.lease.gives_way_at();
                self.look_for_newcomers_at(gives_way_at);
                self.resting.entry(address).or_default().push_back(id);
                Change::Rests
            }
        }
    }

    /// It ended by itself, or broke the rules. One that has rested for long is not to blame.
    fn fail<D: Driver>(&mut self, id: UpstreamId, hands: &mut Hands<D>) {
        let kept = &self.kept[id.0];
        let address = kept.open.lease.address();
        let rested = hands.now.saturating_duration_since(kept.since);
        let is_waited_for = match kept.state {
            KeptState::Settling(_) | KeptState::Proving { .. } => true,
            KeptState::Resting | KeptState::Abandoned => false,
        };
        if is_waited_for || rested < self.options.settle {
            self.disappointed(address, Failing::Ended, hands.now);
        }
        self.close(id, Close::Graceful, hands);
    }

    fn close<D: Driver>(&mut self, id: UpstreamId, how: Close, hands: &mut Hands<D>) {
        let Kept { open, state, .. } = self.kept.remove(id.0);
        match state {
            KeptState::Settling(_) | KeptState::Proving { .. } => {
                self.counters.fastcgi.settling.lower();
            }
            KeptState::Abandoned => {}
            KeptState::Resting => {
                open.lease.rests_no_more();
                let ids = self.resting.get_mut(&open.lease.address());
                let ids = ids.expect("what rests is listed");
                // Mostly it is the one that has rested for longest: then nobody else is looked at.
                let place = ids.iter().position(|other| *other == id);
                ids.remove(place.expect("what rests is listed"));
            }
        }
        open.close(how, hands);
    }

    /// How it is closed when its time is up.
    fn way_out(&self, id: UpstreamId) -> Close {
        match self.kept[id.0].state {
            KeptState::Settling(_) | KeptState::Proving { .. } | KeptState::Resting => {
                Close::Graceful
            }
            KeptState::Abandoned => Close::Reset,
        }
    }

    /// A connection that has nothing to do is closed for one that may wait in the server's backlog.
    fn give_way<D: Driver>(&mut self, id: UpstreamId, hands: &mut Hands<D>) -> Change {
        tracing::debug!(
            route = %self.route,
            "endpoint {}: a connection without a request makes way for one without an answer",
            self.kept[id.0].open.lease.address()
        );
        self.close(id, Close::Graceful, hands);
        Change::Gone
    }

    /// Something rests then, and the next look is soon enough.
    fn look_for_newcomers_at(&mut self, at: Option<Instant>) {
        let dates = self.look_at.into_iter().chain(at);
        self.look_at = dates.min();
    }

    /// Closes connections that rest for those that may wait in a server's backlog, those first that were not
    /// used for longest.
    fn make_way<D: Driver>(&mut self, hands: &mut Hands<D>) {
        let mut giving_way = Vec::new();
        for ids in self.resting.values() {
            let gives_way = |id: &&UpstreamId| self.kept[id.0].open.lease.gives_way(hands.now);
            giving_way.extend(ids.iter().take_while(gives_way));
        }
        for id in giving_way {
            let Change::Gone = self.give_way(id, hands) else {
                unreachable!("it was closed")
            };
        }
    }

    /// When to make way for the next one.
    fn newcomers_at(&self) -> Option<Instant> {
        let last = self.resting.values().filter_map(VecDeque::back);
        last.filter_map(|id| self.kept[id.0].open.lease.gives_way_at())
            .min()
    }

    /// Somebody waits for a place: what has been settling for too long gives up its own, unless it is
    /// known to be that of a worker that is busy.
    pub fn make_room<D: Driver>(&mut self, hands: &mut Hands<D>) {
        for id in self.all(|kept| self.makes_room_at(kept).is_some_and(|at| at <= hands.now)) {
            let address = self.kept[id.0].open.lease.address();
            self.disappointed(address, Failing::Unanswered, hands.now);
            self.close(id, Close::Graceful, hands);
        }
    }

    /// When [`Pool::make_room`] can make some, if somebody waits then.
    #[must_use]
    pub fn room_at(&self) -> Option<Instant> {
        let all = self.kept.iter();
        all.filter_map(|(_, kept)| self.makes_room_at(kept)).min()
    }

    fn makes_room_at(&self, kept: &Kept) -> Option<Instant> {
        match (&kept.state, self.manner(kept.open.lease.address())) {
            (KeptState::Settling(_), Manner::InTurn { .. }) => None,
            (KeptState::Settling(_), _) => Some(kept.since + self.options.settle),
            (KeptState::Proving { .. } | KeptState::Resting | KeptState::Abandoned, _) => None,
        }
    }

    /// When [`Pool::expire`] is due.
    #[must_use]
    pub fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// How long a connection may stay as it is. A server of which it is not known that it answers the
    /// fence may serve one connection at a time, and others wait for it that are not seen from here.
    fn patience(&self, kept: &Kept) -> Duration {
        match (&kept.state, self.manner(kept.open.lease.address())) {
            (KeptState::Settling(_), Manner::InTurn { .. })
            | (KeptState::Proving { .. } | KeptState::Abandoned, _) => BUSY_MAX,
            (KeptState::Settling(_), _) => self.options.settle.min(self.options.idle),
            (KeptState::Resting, _) => self.options.idle,
        }
    }

    /// The next look is soon enough for a connection that may stay for this long, as it is: one that comes to
    /// rest may stay for the idle timeout.
    fn look_soon(&mut self, patience: Duration, now: Instant) {
        let at = now + patience.min(self.options.idle) / LOOKS;
        self.look_at = Some(self.look_at.map_or(at, |other| other.min(at)));
    }

    /// Closes what nobody has used for too long.
    pub fn expire<D: Driver>(&mut self, hands: &mut Hands<D>) {
        if self.look_at.is_none_or(|at| at > hands.now) {
            return;
        }
        for id in self.all(|kept| kept.since + self.patience(kept) <= hands.now) {
            let kept = &self.kept[id.0];
            if matches!(kept.state, KeptState::Resting) && kept.open.lease.is_kept() {
                continue;
            }
            if let KeptState::Settling(_) = kept.state {
                let address = kept.open.lease.address();
                self.disappointed(address, Failing::Unanswered, hands.now);
            }
            self.close(id, self.way_out(id), hands);
        }
        self.make_way(hands);
        self.look_at_proofs(hands);
        self.look_at = self
            .newcomers_at()
            .into_iter()
            .chain(self.proofs_at())
            .min();
        let patience = self.kept.iter().map(|(_, kept)| self.patience(kept)).min();
        if let Some(patience) = patience {
            self.look_soon(patience, hands.now);
        }
    }

    /// Closes what leads to endpoints that are not in the set, and forgets them; and what rests at those that get
    /// nothing new. What settles there may still be at work, and is closed when it is not.
    pub fn follow<D: Driver>(&mut self, set: &AddressSet, hands: &mut Hands<D>) {
        let current: HashSet<Address> = set.endpoints().iter().map(|e| e.address).collect();
        let is_current = |address: Address| current.contains(&address);
        for id in self.all(|kept| !is_current(kept.open.lease.address())) {
            self.close(id, self.way_out(id), hands);
        }
        self.resting.retain(|address, _| is_current(*address));
        let forgotten = self.manners.keys().filter(|address| !is_current(**address));
        self.footings
            .extend(forgotten.map(|address| (*address, Footing::Unknown)));
        self.manners.retain(|address, _| is_current(*address));
        self.told.retain(|address, _| is_current(*address));
        let unkept = self.manners.values().filter(|manner| manner.keeps_none());
        self.unkept = unkept.count() as u64;
        self.counters.fastcgi.doubtful.set(self.unkept);
        let flags = set.endpoints().iter().zip(set.drained());
        let drained = flags.filter(|(_, is_drained)| **is_drained);
        self.drained = drained.map(|(endpoint, _)| endpoint.address).collect();
        if !self.drained.is_empty() {
            self.close_needless(hands);
        }
    }

    /// Closes everything.
    pub fn close_all<D: Driver>(&mut self, hands: &mut Hands<D>) {
        for id in self.all(|_| true) {
            self.close(id, self.way_out(id), hands);
        }
        self.look_at = None;
    }

    /// Those that are as they are for longest first: each is the first of those that rest at its endpoint, and found
    /// at once.
    fn all(&self, which: impl Fn(&Kept) -> bool) -> Vec<UpstreamId> {
        let which = self.kept.iter().filter(|(_, kept)| which(kept));
        let mut all: Vec<_> = which
            .map(|(id, kept)| (kept.since, UpstreamId(id)))
            .collect();
        all.sort_by_key(|(since, _)| *since);
        all.into_iter().map(|(_, id)| id).collect()
    }
}
