//! What the proxy keeps between requests, and what clients have of their answers in the end.

use std::time::{Duration, Instant};

use crate::backend::Address;
use crate::driver::Sock;
use crate::session::BUSY_MAX;

use super::super::peer::{Peer, PlannedEnding, SendSide};
use super::super::world::{Kind, Told, World};
use super::client::{Client, Course};
use super::{FastcgiRules, Server, Speech};

/// How late the proxy may be with what is due, beside what its options say.
const SLACK: Duration = Duration::from_millis(1);

impl World {
    /// Before each wait, when the worker has done all that it can do.
    pub(in super::super) fn judge_rest(&mut self) {
        self.judge_rest_by_hand();
        self.judge_backlogs();
        if self.told == Told::Nothing {
            let is_own = |p: &&mut Peer| p.worker == Some(self.at) && !p.dismissed;
            let own = self.peers.iter_mut().filter(is_own);
            for peer in own {
                let takes_more = !self.scenario.routes[peer.route].is_retired;
                if let Speech::Client(client) = &mut peer.speech
                    && takes_more
                {
                    client.promise(peer.taken);
                }
            }
        }
        let (at, now) = (self.at, self.now);
        for peer in self.peers.iter_mut().filter(|peer| peer.worker == Some(at)) {
            if let Speech::Client(client) = &mut peer.speech {
                client.rests(peer.taken, now);
            }
        }
        self.judge_overdue();
        let mut settled = Vec::new();
        let own: Vec<_> = self.own().collect();
        let paused = 0..self.scenario.routes.len();
        let paused: Vec<_> = paused.map(|route| self.is_paused(route)).collect();
        let (ledger, now) = (&mut self.ledger, self.now);
        for sock in own {
            let socket = self.sockets.get(sock);
            let (Kind::Upstream(Some(index)), None) = (socket.kind, socket.closing) else {
                continue;
            };
            let (to, is_sending) = (socket.to, socket.write.is_some());
            let peer = &mut self.peers[index];
            let Speech::Server(server) = &mut peer.speech else {
                continue;
            };
            // Whether a request uses it is not to be seen when its server is gone.
            if is_sending || peer.gone || !server.is_kept(peer.taken) {
                continue;
            }
            let FastcgiRules {
                pool,
                look_interval,
                are_pools: _,
            } = ledger.rules_of(server.endpoint);
            let planned = &self.scenario.routes[peer.route];
            let oldest = planned.counters[self.at].queue_oldest.age(now);
            let waited = oldest.unwrap_or_default();
            let set = planned.published.load_full();
            let since = *server.settling_since.get_or_insert(now);
            let (mut idle_since, mut most) = (since, pool.idle);
            // The worker of one that is known to answer in its turn is busy.
            let is_busy = ledger.endpoints[server.endpoint].is_reused;
            if server.is_settled(peer.taken) {
                idle_since = *server.resting_since.get_or_insert(now);
                if server.requests > 1 {
                    ledger.endpoints[server.endpoint].has_kept(server.begun_in);
                }
                settled.push((index, to));
            } else {
                if is_busy {
                    most = most.max(BUSY_MAX);
                }
                rule!(
                    "nobody_waits_for_settling",
                    is_busy
                        || paused[peer.route]
                        || waited <= look_interval + SLACK
                        || now <= since + pool.settle + look_interval + SLACK,
                    "upstream {index} settles for {:?}, and somebody waits for {waited:?}",
                    now - since
                );
            }
            rule!(
                "idle_is_bounded",
                now <= idle_since + most * 3 / 2 + SLACK,
                "upstream {index} is kept for {:?}",
                now - idle_since
            );
            rule!(
                "pool_follows_set",
                set.endpoints().iter().any(|e| Some(e.address) == to),
                "upstream {index} is kept, and {to:?} is not in the set"
            );
        }
        for (index, to) in settled {
            self.judge_surplus(index, to);
        }
    }

    /// A server has the head of a request: those of its class at the endpoint, and of the others, are as many as may be.
    /// A connection counts for the class of its request until the proxy knows that the server is ready for the next one.
    pub(super) fn judge_classes(&self, index: usize) {
        let planned = self.route_of(&self.peers[index]);
        let (Some(max), false) = (planned.per_endpoint_max, planned.classes.is_empty()) else {
            return;
        };
        let is_its = |sock: &Sock| self.sockets.peek(*sock).kind == Kind::Upstream(Some(index));
        let own = self.live.iter().copied().find(is_its);
        let own = self.sockets.peek(own.expect("it was given something"));
        let mut busy = vec![0; planned.classes.len()];
        for sock in &self.live {
            let socket = self.sockets.peek(*sock);
            let is_beside = socket.to == own.to && socket.worker == own.worker;
            let (Kind::Upstream(Some(peer)), true, None) = (socket.kind, is_beside, socket.closing)
            else {
                continue;
            };
            let peer = &self.peers[peer];
            if let Speech::Server(server) = &peer.speech
                && let Some(name) = server.current
                && !server.is_settled(peer.taken)
            {
                busy[name.class()] += 1;
            }
        }
        let mut all = 0;
        for (class, (share, busy)) in planned.classes.iter().zip(&busy).enumerate() {
            rule!(
                "class_keeps_to_max",
                *busy <= share.max,
                "{busy} connections of class {class} to {:?}, and it may have {}",
                own.to,
                share.max
            );
            all += share.reserve.max(*busy);
        }
        rule!(
            "class_has_its_reserve",
            all <= max.get(),
            "{busy:?} connections of the classes to {:?} leave too few of {max} for {:?}",
            own.to,
            planned.classes
        );
    }

    /// Where too many wait, those who have waited for long are sent away, and in time.
    fn judge_overdue(&mut self) {
        // What changes meanwhile begins the time anew.
        if !self.scenario.calm || self.scenario.by_hand || self.scenario.marks_rules {
            return;
        }
        for (number, planned) in self.scenario.routes.iter().enumerate() {
            let counters = &planned.counters[self.at];
            let oldest = counters.queue_oldest.age(self.now);
            let sheds = planned.in_effect[self.at].sheds;
            // Of classes, each has a queue, of which one may be long and another old.
            let sheds = sheds.filter(|_| planned.classes.is_empty());
            let (Some(rules), Some(times)) = (self.ledger.rules[number], sheds) else {
                continue;
            };
            let most = times.target_max * 2;
            let endpoints = planned.endpoints.iter();
            let taken = endpoints.map(|to| self.connections_of(self.at, *to));
            let is_overdue = oldest.is_some_and(|waited| waited > most)
                && counters.queue_depth.get() > taken.sum::<usize>() as u64
                // Whoever has had a turn stays.
                && counters.fastcgi.retries.get() == 0;
            let of = (self.at, number);
            if !is_overdue {
                self.ledger.overdue_since.remove(&of);
                continue;
            }
            let since = *self.ledger.overdue_since.entry(of).or_insert(self.now);
            rule!(
                "sheds_in_time",
                self.now <= since + most + rules.look_interval + SLACK,
                "somebody waits for {oldest:?}, and too many do"
            );
        }
    }

    /// A client is told that there was no place for its request, of which there was nothing until then.
    pub(super) fn judge_shed(&self, route: usize, unbegun_until: Instant) {
        if !self.scenario.calm {
            // The queue may be full, and those who wait in it have a time of their own.
            return;
        }
        let waited = self.now.saturating_duration_since(unbegun_until);
        let sheds = self.scenario.routes[route].in_effect[self.at].sheds;
        if self.scenario.marks_rules && sheds.is_none() {
            // It may be only now that the client has all of what it was told by earlier rules.
            return;
        }
        rule!(
            "sheds_in_time",
            sheds.is_some_and(|times| waited >= times.target),
            "somebody is sent away after {waited:?}, by {sheds:?}"
        );
    }

    /// A connection that has nothing to do is not one too many, once a limit was lowered.
    fn judge_surplus(&self, index: usize, to: Option<Address>) {
        let in_effect = &self.route_of(&self.peers[index]).in_effect[self.at];
        let (Some(places), Some(to)) = (in_effect.places, to) else {
            return;
        };
        let is_open = |sock: &Sock| {
            let socket = self.sockets.peek(*sock);
            socket.to == Some(to) && socket.closing.is_none()
        };
        let open = self.own().filter(is_open).count();
        rule!(
            "within_limit",
            open <= places.get() as usize,
            "upstream {index} is kept beside {} others to {to}, and {places} may be",
            open - 1
        );
    }

    /// The proxy closes its side.
    pub(in super::super) fn proxy_closes(&mut self, sock: Sock, index: usize) {
        let peer = &self.peers[index];
        let server = match &peer.speech {
            Speech::Client(client) => return self.judge_break(peer, client),
            Speech::Server(server) => server,
            Speech::Pattern => unreachable!("it speaks FastCGI"),
        };
        self.judge_kept_close(sock, peer, server);
        let is_spoilt = server.is_spoilt;
        let has_failed = peer.is_broken() || peer.failure_seen;
        self.ledger.ended(server, has_failed);
        if is_spoilt {
            // It had leased the connection before it saw that.
            self.send_in_flight_is_lost(index);
        }
    }

    /// A client is left.
    fn judge_break(&self, peer: &Peer, client: &Client) {
        let is_excused = peer.gone
            || peer.send_side != SendSide::Open
            || self.is_cut(peer.route)
            || self.route_of(peer).idle_timeout
            || client
                .waits_for()
                .is_none_or(|request| request.course != Course::Whole);
        rule!(
            "break_is_told",
            is_excused || !client.misses_sign(),
            "{peer:?} has a part of an answer, and nothing tells that it is one"
        );
    }

    /// A connection to a server is closed.
    fn judge_kept_close(&self, sock: Sock, peer: &Peer, server: &Server) {
        let ledger = &self.ledger;
        let socket = self.sockets.peek(sock);
        let (Some(since), Some(to)) = (server.settling_since, socket.to) else {
            return;
        };
        let set = self.route_of(peer).published.load_full();
        let is_current = set.endpoints().iter().any(|e| e.address == to);
        let endpoint = &ledger.endpoints[server.endpoint];
        let is_let_go = |worker| self.let_go.contains(&(worker, peer.route));
        if self.told != Told::Nothing
            || self.route_of(peer).is_retired
            // As of a route that ends: nobody of its clients waits for the place.
            || peer.worker.is_some_and(is_let_go)
            || !is_current
            || peer.gone
            || peer.send_side != SendSide::Open
            || !server.is_kept(peer.taken)
            || server.has_surplus()
            || server.is_settled(peer.taken)
        {
            return;
        }
        rule!(
            "busy_keeps_its_place",
            endpoint.in_turn.is_none()
                || endpoint.answers_early
                || endpoint.may_be_another
                || self.now + SLACK >= since + BUSY_MAX,
            "{peer:?} is busy for {:?} and closed",
            self.now - since
        );
    }

    /// The proxy tells a peer that no more comes.
    pub(in super::super) fn judge_end_of_answer(&self, peer: &Peer) {
        let within = match &peer.speech {
            Speech::Client(client) => client.is_within_answer(),
            Speech::Server(_) => true,
            Speech::Pattern => false,
        };
        rule!(
            "end_told_after_last_byte",
            !within || peer.gone,
            "{peer:?} is told of an end in the midst of an answer"
        );
    }

    /// Clients that stayed until they had their answers have them.
    pub(in super::super) fn judge_answers(&self) {
        for peer in &self.peers {
            let stays = matches!(
                peer.plan.ending,
                PlannedEnding::HalfClose | PlannedEnding::AfterPeer
            );
            if let Speech::Client(client) = &peer.speech
                && stays
                // Its user may have as many as it may where another worker lets it go to, whatever it has sent.
                && !peer.dismissed
                && !self.is_cut(peer.route)
                && let Some(request) = client.missing()
            {
                rule!(
                    "lossless",
                    self.ledger.entry(Some(request.name)).excused,
                    "request {} of {peer:?} has no whole answer",
                    request.name
                );
            }
        }
    }
}
