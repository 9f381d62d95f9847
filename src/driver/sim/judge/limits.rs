//! How many connections, clients and buffers there may be, and whose.

use crate::backend::{Address, PACE};
use crate::driver::Sock;
use crate::session::BUFFERS_PER_SESSION;

use super::super::peer::Peer;
use super::super::readiness::Readiness;
use super::super::scenario::{Users, user_of};
use super::super::world::{Kind, World};
use super::Judge;

impl World {
    pub(super) fn judge_limit(&self, to: Address) {
        let route = self.endpoints[self.endpoint_index(to)].route;
        let Some(max) = self.scenario.routes[route].per_endpoint_max else {
            return;
        };
        let to_release = self.drivers.iter().flat_map(|driver| &driver.to_release);
        let mut open = to_release.filter(|r| r.to == Some(to)).count();
        for &sock in &self.live {
            open += usize::from(self.sockets.peek(sock).to == Some(to));
        }
        rule!(
            "within_limit",
            open <= max.get() as usize,
            "{open} connections to {to}"
        );
        // What was given before a limit was lowered stays, and nothing is added to that.
        let Some(places) = self.scenario.routes[route].in_effect[self.at].places else {
            return;
        };
        let open = self.connections_of(self.at, to);
        rule!(
            "within_limit",
            open <= places.get() as usize,
            "{open} connections of worker {} to {to}",
            self.at
        );
    }

    pub(super) fn judge_connects(&self) {
        let (mut clients, mut connects) = (0, 0);
        for sock in self.own() {
            let socket = self.sockets.peek(sock);
            match (socket.closing, socket.kind, &socket.write) {
                (None, Kind::Client(_), _) => clients += 1,
                (None, Kind::Upstream(None), Some(_)) => connects += 1,
                _ => {}
            }
        }
        rule!(
            "two_attempts",
            connects <= 2 * clients,
            "{connects} connects for {clients} clients"
        );
    }

    /// The clients of this user that sessions have, as far as they are counted where this one is, and are such ones.
    fn served_of(&self, user: u32, like: &Peer, is_such: impl Fn(usize) -> bool) -> usize {
        let is_one = |sock: &&Sock| {
            let socket = self.sockets.peek(**sock);
            match (socket.kind, socket.is_served, socket.closing) {
                (Kind::Client(peer), true, None) => {
                    is_such(peer) && self.is_counted_with(user, like, peer)
                }
                _ => false,
            }
        };
        self.live.iter().filter(is_one).count()
    }

    /// The clients of this user whose sockets are open.
    fn clients_of(&self, user: u32, like: &Peer) -> usize {
        let is_one = |sock: &&Sock| match self.sockets.peek(**sock).kind {
            Kind::Client(peer) => self.is_counted_with(user, like, peer),
            Kind::Listener(_) | Kind::Upstream(_) => false,
        };
        self.live.iter().filter(is_one).count()
    }

    /// Whether this is a client of the user: with rules of a route's own, of that route alone, and on workers that
    /// have heard of them.
    fn is_counted_with(&self, user: u32, like: &Peer, peer: usize) -> bool {
        let peer = &self.peers[peer];
        let is_counted = self.scenario.users.is_some()
            || peer.route == like.route
                && peer.worker.is_some_and(|worker| {
                    let in_effect = &self.route_of(peer).in_effect[worker];
                    in_effect.users.is_some()
                });
        user_of(peer.key) == user && is_counted
    }

    /// The rules for clients of this one's route.
    fn users_of(&self, peer: &Peer) -> Option<&Users> {
        let in_effect = &self.route_of(peer).in_effect[self.at];
        in_effect.users.as_ref().or(self.scenario.users.as_ref())
    }

    pub(super) fn judge_served(&self, peer: usize) {
        let Some(users) = self.users_of(&self.peers[peer]) else {
            return;
        };
        if self.readiness.is_some() && self.scenario.marks_rules {
            // Its session may have begun before this call, by other rules.
            return;
        }
        let user = user_of(self.peers[peer].key);
        rule!(
            "user_is_allowed",
            users.allowed.contains(&user),
            "a client of {user} is served"
        );
        // Workers that have not all heard of rules may count apart.
        let is_pending = self.is_pending(self.peers[peer].route);
        let is_let_in_here = |peer: usize| !self.peers[peer].arrived;
        let served = self.served_of(user, &self.peers[peer], is_let_in_here);
        rule!(
            "user_within_limit",
            is_pending || served <= users.per_user_max as usize,
            "{served} clients of {user} are served"
        );
    }

    pub(super) fn judge_dismissal(&self, peer: usize) {
        let users = self.users_of(&self.peers[peer]);
        let users = users.expect("without rules nobody is turned away");
        let user = user_of(self.peers[peer].key);
        let served = match self.readiness {
            None if !self.lets_go_with_bytes => self.served_of(user, &self.peers[peer], |_| true),
            // Whether a session has one already is not to be seen there, nor where it may have all of its request from
            // the worker before.
            None | Some(_) => self.clients_of(user, &self.peers[peer]) - 1,
        };
        rule!(
            "user_is_allowed",
            !users.allowed.contains(&user)
                || !self.peers[peer].arrived && served >= users.per_user_max as usize
                || self.is_pending(self.peers[peer].route),
            "a client of {user} is turned away beside {served} that are served"
        );
    }

    /// Over all drivers.
    pub(super) fn lent_buffers(&self) -> usize {
        let lent = self.drivers.iter().map(|d| d.buffers.borrow().lent());
        lent.sum::<usize>() + self.lent_by_epoll()
    }

    /// By the driver whose turn it is.
    fn lent_by_this(&self) -> usize {
        self.drivers[self.at].buffers.borrow().lent() + self.lent_by_epoll()
    }

    fn lent_by_epoll(&self) -> usize {
        self.readiness.as_ref().map_or(0, Readiness::lent)
    }

    /// What is on its way in, or out of a socket that is closing, is the driver's.
    pub(super) fn judge_buffers(&self) {
        let driver = &self.drivers[self.at];
        let mut promised = driver.finished.len() + driver.provided.len();
        for sock in self.own() {
            let socket = self.sockets.peek(sock);
            promised += match socket.kind {
                Kind::Client(_) => BUFFERS_PER_SESSION,
                Kind::Upstream(_) => usize::from(socket.closing.is_some()),
                Kind::Listener(_) => 0,
            };
        }
        let lent = self.lent_by_this();
        rule!(
            "buffers_promised",
            lent <= promised,
            "{lent} buffers are lent, and {promised} promised"
        );
    }
}

pub(super) fn judge_lending(is_there: bool) {
    rule!(
        "buffers_suffice",
        is_there,
        "there is no buffer for who is promised one"
    );
}

impl Judge {
    pub(super) fn judge_pace(&mut self, sock: Sock, to: Address, world: &World) {
        let endpoint = world.endpoint_index(to);
        let of = (world.at, endpoint);
        let last = self.last_connects.insert(of, (sock, world.now));
        let keeps = world.ledger.keeps_connections(world.at, endpoint);
        let Some((last, at)) = last.filter(|_| keeps) else {
            return;
        };
        let is_over = !world.live.contains(&last) || {
            let socket = world.sockets.peek(last);
            let peer = match socket.kind {
                Kind::Upstream(peer) => peer.map(|peer| &world.peers[peer]),
                Kind::Listener(_) | Kind::Client(_) => None,
            };
            socket.closing.is_some() || peer.is_some_and(|peer| peer.taken > 0 || peer.gone)
        };
        rule!(
            "paced",
            is_over || world.now >= at + PACE,
            "{to} is connected to {:?} after {last:?}, which has shown no life",
            world.now - at
        );
    }
}
