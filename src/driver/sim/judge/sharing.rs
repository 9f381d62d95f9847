//! What workers and routes have of what they share: sessions, backlogs, places at endpoints.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::backend::Address;
use crate::driver::Sock;
use crate::worker::QUEUE_LOOK_INTERVAL;

use super::super::world::{Kind, Told, World};
use super::Judge;

/// How long somebody may wait to be accepted though nothing stands in the way: longer than any pause that a worker
/// makes.
const UNACCEPTED_MAX: Duration = Duration::from_secs(2);

/// How long a worker may take to see that its route is below its part again.
const PART_LOOK_MAX: Duration = Duration::from_millis(100);

/// How late a worker may be with those who wait for places, where several have their turns.
const SLACK: Duration = Duration::from_millis(10);

/// Those who wait for places, as far as their order can be seen: each waits for its client to leave until it has a
/// connection.
#[derive(Default)]
pub(in super::super) struct Line {
    /// By client: when it came.
    waiting: HashMap<usize, Came>,
    /// Clients that a worker has let go.
    let_go: HashSet<usize>,
    /// By upstream: when its connect began, as a number.
    connects: HashMap<Sock, u64>,
    /// What the worker has heard of last.
    last: Option<Sock>,
    /// Those who have waited and have a connection: their clients, when those came, and the connect's number.
    had: Vec<(usize, Came, u64)>,
    /// Somebody's turn came to nothing: its endpoint was drained while it was connected to.
    is_broken: bool,
    next: u64,
}

/// When a client came to wait at its worker.
#[derive(Clone, Copy)]
struct Came {
    number: u64,
    /// It has waited at another worker before.
    from_before: bool,
}

impl Line {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A session waits for this client to leave.
    pub(super) fn waits(&mut self, client: usize) {
        let came = Came {
            number: self.number(),
            from_before: self.let_go.contains(&client),
        };
        self.waiting.entry(client).or_insert(came);
    }

    pub(super) fn connects(&mut self, sock: Sock) {
        let number = self.number();
        self.connects.insert(sock, number);
    }

    /// Somebody has to wait on whose turn it was.
    pub(in super::super) fn is_broken(&mut self) {
        self.is_broken = true;
    }

    pub(super) fn completed(&mut self, sock: Sock) {
        self.last = Some(sock);
    }

    /// What the worker does from now on, as it lets go of those who wait, follows from nothing that it has heard.
    pub(super) fn has_heard_all(&mut self) {
        self.last = None;
    }

    /// It waits elsewhere from now on.
    pub(super) fn lets_go(&mut self, client: usize) {
        self.waiting.remove(&client);
        self.let_go.insert(client);
    }

    /// It has a connection, if that is what the worker has just heard of.
    pub(super) fn has_place(&mut self, client: usize, world: &World) {
        let peer = &world.peers[client];
        let is_limited = world.route_of(peer).per_endpoint_max.is_some();
        if self.is_broken || !is_limited || !world.scenario.calm || world.speaks_fastcgi(client) {
            return;
        }
        let connect = self.last.and_then(|sock| self.connects.get(&sock));
        let (Some(&connect), Some(came)) = (connect, self.waiting.remove(&client)) else {
            return;
        };
        for &(other, other_came, other_connect) in &self.had {
            let is_beside =
                world.peers[other].worker == peer.worker && world.peers[other].route == peer.route;
            rule!(
                "served_in_order",
                !is_beside || are_in_order((came, connect), (other_came, other_connect)),
                "clients {} and {} of route {} have places in another order than they came in",
                peer.key,
                world.peers[other].key,
                peer.route
            );
        }
        self.had.push((client, came, connect));
    }
}

/// Whether two clients of one worker have had places in the right order. Those that come from another worker go before
/// all others that wait.
fn are_in_order((one, connect): (Came, u64), (other, other_connect): (Came, u64)) -> bool {
    let overtakes = |own: u64, from_before: Came, its: u64| from_before.number < own && own < its;
    match (one.from_before, other.from_before) {
        (true, false) => !overtakes(other_connect, one, connect),
        (false, true) => !overtakes(connect, other, other_connect),
        _ => (one.number < other.number) == (connect < other_connect),
    }
}

impl World {
    /// The clients that sessions have, of one route or of all. `is_left`: those included whose sessions have ended
    /// and whose descriptors are open.
    fn served(&self, route: Option<usize>, is_left: bool) -> usize {
        let of_route = |peer: usize| route.is_none_or(|route| self.peers[peer].route == route);
        let is_served = |&&sock: &&Sock| {
            let socket = self.sockets.peek(sock);
            match socket.kind {
                Kind::Client(peer) => {
                    let is_there = is_left || socket.closing.is_none();
                    socket.is_served && is_there && of_route(peer)
                }
                Kind::Listener(_) | Kind::Upstream(_) => false,
            }
        };
        let to_release = self.drivers.iter().flat_map(|driver| &driver.to_release);
        let leaving = to_release.filter(|r| is_left && r.is_served && r.peer.is_some_and(of_route));
        self.live.iter().filter(is_served).count() + leaving.count()
    }

    pub(super) fn judge_sessions(&self, peer: usize) {
        let (served, max) = (self.served(None, false), self.scenario.sessions_max);
        rule!(
            "sessions_within_limit",
            served <= max,
            "{served} sessions, and {max} may be"
        );
        let peer = &self.peers[peer];
        let planned = self.route_of(peer);
        let (served, part) = (self.served(Some(peer.route), false), planned.sessions_max);
        // Who drains takes all that have come, and so does a route that takes no others. What was there before its part
        // was lowered stays.
        let has_rest = planned.is_retired || self.is_pending(peer.route);
        rule!(
            "route_within_part",
            self.told != Told::Nothing
                || has_rest
                || part.is_none_or(|part| {
                    served <= (part as usize).max(planned.part_floor) + planned.listeners
                }),
            "route {} has {served} sessions, and its part is {part:?}",
            peer.route
        );
    }

    /// Whether somebody waits in this backlog to be accepted, and could be.
    fn is_owed(&self, backlog: usize) -> bool {
        let backlog = &self.backlogs[backlog];
        let is_serving = self.told == Told::Nothing && !self.is_paused(backlog.route);
        is_serving && !backlog.clients.is_empty() && self.can_serve(backlog.route)
    }

    /// Whom nobody will be told of is not to wait.
    pub(super) fn judge_sleep(&self) {
        for (number, backlog) in self.backlogs.iter().enumerate() {
            rule!(
                "backlogs_are_served",
                !self.is_owed(number),
                "somebody waits for route {} to accept it, and all workers sleep",
                backlog.route
            );
        }
    }

    /// Whether a client of this route could be served. Each worker may have a permit for another one.
    fn can_serve(&self, route: usize) -> bool {
        let waits = |&&sock: &&Sock| {
            let socket = self.sockets.peek(sock);
            matches!(socket.kind, Kind::Client(_)) && !socket.is_served
        };
        let unserved = self.live.iter().filter(waits).count();
        let taken = self.served(None, true) + unserved + self.drivers.len();
        let planned = &self.scenario.routes[route];
        let part = planned.sessions_max.filter(|_| !planned.is_retired);
        let has_part = part.is_none_or(|part| self.served(Some(route), false) < part as usize);
        taken <= self.scenario.sessions_max && has_part && self.descriptors_left()
    }

    /// Where bytes are proxied, places that are free are not waited for.
    pub(super) fn judge_places(&self) {
        for (number, planned) in self.scenario.routes.iter().enumerate() {
            for worker in 0..planned.in_effect.len() {
                self.judge_places_of(worker, number, QUEUE_LOOK_INTERVAL + SLACK);
            }
        }
    }

    /// Whoever waits for longer than that has no place.
    fn judge_places_of(&self, worker: usize, number: usize, most: Duration) {
        if !self.scenario.calm || self.told != Told::Nothing || self.ledger.has(number) {
            return;
        }
        if self.is_paused(number) {
            return;
        }
        let planned = &self.scenario.routes[number];
        let oldest = planned.counters[worker].queue_oldest.age(self.now);
        let (Some(places), Some(waited)) = (planned.in_effect[worker].places, oldest) else {
            return;
        };
        let set = planned.published.load_full();
        let has_room = |to: Address| self.connections_of(worker, to) < places.get() as usize;
        // Nobody goes to one that is left out because the others are full.
        let are_all_out = set
            .health_in_use()
            .all(|health| health.is_ejected(self.now));
        let mut usable = set
            .health_in_use()
            .filter(|health| are_all_out || !health.is_ejected(self.now));
        rule!(
            "places_are_used",
            waited <= most || !usable.any(|health| has_room(health.address())),
            "on worker {worker}, somebody waits for route {number} for {waited:?}, and there are \
             places"
        );
    }

    /// How many connections a worker has to an endpoint.
    pub(in super::super) fn connections_of(&self, worker: usize, to: Address) -> usize {
        let released = self.drivers[worker].to_release.iter();
        let is_one = |&&sock: &&Sock| {
            let socket = self.sockets.peek(sock);
            socket.worker == worker && socket.to == Some(to)
        };
        self.live.iter().filter(is_one).count() + released.filter(|r| r.to == Some(to)).count()
    }
}

impl Judge {
    /// What a raised limit allows is given out before the worker waits for anything.
    pub(super) fn judge_raised(&mut self, world: &World) {
        let heard = self.raised.extract_if(|(worker, _)| *worker == world.at);
        for (worker, route) in heard {
            world.judge_places_of(worker, route, Duration::ZERO);
        }
    }

    /// Nobody waits to be accepted without a reason.
    pub(super) fn judge_backlogs(&mut self, world: &World) {
        for (number, backlog) in world.backlogs.iter().enumerate() {
            if !world.is_owed(number) {
                self.unaccepted_since.remove(&number);
                continue;
            }
            let route = backlog.route;
            let since = *self.unaccepted_since.entry(number).or_insert(world.now);
            // A worker that makes no pauses is told of permits at once, and looks whether its route has its part.
            let most = match (
                world.scenario.calm,
                world.scenario.routes[route].sessions_max,
            ) {
                (true, None) => Duration::ZERO,
                (true, Some(_)) => PART_LOOK_MAX,
                (false, _) => UNACCEPTED_MAX,
            };
            rule!(
                "backlogs_are_served",
                world.now - since < most,
                "somebody waits for route {route} to accept it, for {:?}",
                world.now - since
            );
        }
    }
}
