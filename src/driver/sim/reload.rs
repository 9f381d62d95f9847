//! What changes while workers run: who makes changes tells the world of them, and when workers hear of them.

use std::mem;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use crate::driver::Sock;

use super::Sim;
use super::dice::Dice;
use super::fastcgi::Speech;
use super::scenario::{InEffect, ListenerAt, PlannedRoute};
use super::world::{Backlog, Kind, Told, World};

/// What a worker has of a route, as the kernel sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Census {
    /// Sockets of clients that were not closed.
    pub(crate) clients: usize,
    /// Listeners and connections to backends that were not.
    pub(crate) others: usize,
    /// Clients that wait for it to accept them, and that no other route is to serve.
    pub(crate) waiting: usize,
}

impl Census {
    /// Whether there is nothing.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl Sim {
    /// Makes a choice.
    pub(crate) fn choose<T>(&self, by: impl FnOnce(&mut Dice) -> T) -> T {
        by(&mut self.world().dice)
    }

    /// Whether the daemon still serves what comes.
    pub(crate) fn is_serving(&self) -> bool {
        self.world.borrow().told == Told::Nothing
    }

    /// Whether nothing is to be served any more.
    pub(crate) fn is_cut(&self) -> bool {
        self.world.borrow().told == Told::Cut
    }

    /// Takes down what happens.
    pub(crate) fn note(&self, event: impl FnOnce() -> String) {
        self.world().note(event);
    }

    /// The next one who adopts this descriptor has a listener of these.
    pub(crate) fn announce(&self, listener: RawFd, at: ListenerAt) {
        self.world().announced.insert(listener, at);
    }

    /// Clients come to a new backlog of this route. Returns its number.
    pub(crate) fn open_backlog(&self, route: usize) -> usize {
        let mut world = self.world();
        world.backlogs.push(Backlog::of(route, true));
        world.backlogs.len() - 1
    }

    /// Nobody new comes to this one.
    pub(crate) fn close_backlog(&self, backlog: usize) {
        self.world().backlogs[backlog].is_open = false;
    }

    /// Whoever was to take this client on is no more: it is closed.
    pub(crate) fn loses(&self, client: &OwnedFd) {
        self.world().loses(client.as_raw_fd());
    }

    /// Whether clients that are let go bring what was read of their next request, which is chosen once.
    pub(crate) fn lets_go_with_bytes(&self) -> bool {
        let mut world = self.world();
        world.lets_go_with_bytes = world.dice.one_in(2);
        world.lets_go_with_bytes
    }

    /// The clients that this worker has of a route go to another one from now on.
    pub(crate) fn lets_go(&self, worker: usize, route: usize) {
        self.world().let_go.insert((worker, route));
    }

    /// Another route serves this one from now on.
    pub(crate) fn hand_over(&self, backlog: usize, route: usize) {
        let backlog = &mut self.world().backlogs[backlog];
        (backlog.route, backlog.is_open) = (route, true);
    }

    /// Changes what is known of a route beside its workers.
    pub(crate) fn plan(&self, route: usize, change: impl FnOnce(&mut PlannedRoute)) {
        change(&mut self.world().scenario.routes[route]);
    }

    /// The worker is told to serve the route so, and has not heard of it yet.
    pub(crate) fn order(&self, worker: usize, route: usize, after: InEffect) {
        self.world().ordered[worker].push((route, after));
    }

    /// How the worker is going to serve the route, by all that it was told.
    pub(crate) fn told(&self, worker: usize, route: usize) -> InEffect {
        let world = self.world.borrow();
        let told = world.ordered[worker].iter().rev();
        let last = told.clone().find(|(of, _)| *of == route);
        let last = last.map(|(_, told)| told);
        last.unwrap_or(&world.scenario.routes[route].in_effect[worker])
            .clone()
    }

    /// Whether some worker was told something of this route that it has not heard.
    pub(crate) fn is_pending(&self, route: usize) -> bool {
        self.world.borrow().is_pending(route)
    }

    /// The worker reads its mailbox now.
    pub(crate) fn hears(&self) {
        self.world().hears();
    }

    /// What the worker has of the route.
    pub(crate) fn census(&self, route: usize) -> Census {
        self.world().census(route)
    }

    /// How the worker serves the route.
    pub(crate) fn in_effect(&self, route: usize) -> InEffect {
        let world = self.world.borrow();
        world.scenario.routes[route].in_effect[self.worker].clone()
    }
}

impl World {
    pub(super) fn is_pending(&self, route: usize) -> bool {
        let mut all = self.ordered.iter().flatten();
        all.any(|(of, _)| *of == route)
    }

    fn hears(&mut self) {
        let worker = self.at;
        for (route, after) in mem::take(&mut self.ordered[worker]) {
            self.note(|| format!("worker {worker} serves route {route} so: {after:?}"));
            self.has_begun_by(route);
            if let Some(pool) = after.pool {
                self.ledger.keeps_by(route, worker, after.generation, pool);
                self.judge.forget_pace(worker, &self.endpoints, route);
            }
            let places = |in_effect: &InEffect| in_effect.places.map_or(0, NonZeroU32::get);
            let before = &self.scenario.routes[route].in_effect[worker];
            if places(&after) > places(before) {
                self.judge.is_raised(worker, route);
            }
            self.ledger.goes_by(route, worker, after.generation);
            self.scenario.routes[route].in_effect[worker] = after;
            if !self.is_pending(route) {
                let clients = self.clients_of_route(route);
                self.scenario.routes[route].part_floor = clients;
                self.drop_backlogs(route);
            }
        }
    }

    /// After a cut nobody serves who waits there, and the kernel tells them.
    fn drop_backlogs(&mut self, route: usize) {
        if !self.scenario.routes[route].is_cut {
            return;
        }
        let of_route = self.backlogs.iter_mut().filter(|b| b.route == route);
        for backlog in of_route {
            for client in backlog.clients.drain(..) {
                self.peers[client].gone = true;
            }
        }
    }

    /// Requests of which the worker has taken something have begun by the rules that it goes by.
    fn has_begun_by(&mut self, route: usize) {
        let generation = self.scenario.routes[route].in_effect[self.at].generation;
        let is_own =
            |peer: &&super::peer::Peer| peer.worker == Some(self.at) && peer.route == route;
        for peer in self.peers.iter().filter(is_own) {
            if let Speech::Client(client) = &peer.speech {
                self.ledger.have_begun(client.begun(peer.taken), generation);
            }
        }
    }

    /// A client is accepted, by this route.
    pub(super) fn comes_to(&mut self, peer: usize, route: usize) {
        let generation = self.scenario.routes[route].in_effect[self.at].generation;
        self.note(|| format!("client {peer} comes to route {route}"));
        let others = self.clients_of_route(route);
        let planned = &mut self.scenario.routes[route];
        planned.part_floor = planned.part_floor.min(others);
        let peer = &mut self.peers[peer];
        (peer.route, peer.accepted_by) = (route, generation);
        if let Speech::Client(client) = &mut peer.speech {
            client.rests(peer.taken, self.now);
            self.ledger.come_to(client, route);
        }
    }

    /// A session begins.
    pub(super) fn is_served_from_now_on(&mut self, peer: usize) {
        let route = self.peers[peer].route;
        let in_effect = &self.scenario.routes[route].in_effect[self.at];
        self.peers[peer].served_by = in_effect.generation;
    }

    /// How many clients of the route were accepted, and have open descriptors.
    fn clients_of_route(&self, route: usize) -> usize {
        let of_route = |peer: usize| self.peers[peer].route == route;
        let is_one = |&&sock: &&Sock| match self.sockets.peek(sock).kind {
            Kind::Client(peer) => of_route(peer),
            Kind::Listener(_) | Kind::Upstream(_) => false,
        };
        self.live.iter().filter(is_one).count()
    }

    pub(super) fn census(&mut self, route: usize) -> Census {
        let mut census = Census::default();
        let own: Vec<_> = self.own().collect();
        for sock in own {
            match self.route_of_open(sock) {
                Some((of, is_client)) if of == route => {
                    census.clients += usize::from(is_client);
                    census.others += usize::from(!is_client);
                }
                _ => {}
            }
        }
        let of_route = self.backlogs.iter().filter(|b| b.route == route);
        census.waiting = of_route.map(|backlog| backlog.clients.len()).sum();
        census
    }

    /// The route of a socket that was not closed, and whether it is a client's.
    fn route_of_open(&self, sock: Sock) -> Option<(usize, bool)> {
        let socket = self.sockets.peek(sock);
        if socket.closing.is_some() {
            return None;
        }
        match socket.kind {
            Kind::Listener(at) => Some((at.route, false)),
            Kind::Client(peer) => Some((self.peers[peer].route, true)),
            Kind::Upstream(Some(peer)) => Some((self.peers[peer].route, false)),
            Kind::Upstream(None) => {
                let to = socket.to?;
                Some((self.endpoints[self.endpoint_index(to)].route, false))
            }
        }
    }
}
