//! Operators who change something by hand: pauses and their ends, endpoints that are drained and not any more,
//! weights. And the rules about that.

use std::num::NonZeroU16;
use std::time::Duration;

use crate::backend::{Address, Adjusted};
use crate::counters::{Count, Outcome};
use crate::driver::Sock;
use crate::fastcgi::{Answer, RetryAfter};
use crate::worker::{Order, Receipt};

use super::fastcgi::Speech;
use super::world::{Kind, Told, World};

/// As which those are counted who are sent away.
const UNAVAILABLE: Answer = Answer::Unavailable(RetryAfter::LEAST);

/// What is known of the pauses of one route.
#[derive(Default)]
pub(super) struct Pauses {
    /// By worker: whether it has yet to hear of the last change.
    is_news: Vec<Box<dyn Fn() -> usize>>,
    /// By worker: whom it has sent away for want of a place, when it was looked last in this pause.
    sent_away: Vec<Option<u64>>,
}

impl World {
    /// Somebody changes something by hand. True if workers need to hear of it.
    pub(super) fn a_hand_is_laid_on(&mut self) -> bool {
        let route = self.some_route();
        match self.dice.below(8) {
            0..2 => self.pause(route),
            2 => self.resume(route),
            3..5 => self.drain_endpoint(route, true),
            5..7 => self.drain_endpoint(route, false),
            _ => self.weigh_endpoint(route),
        }
    }

    fn pause(&mut self, route: usize) -> bool {
        let length = self.dice.pick(&[1, 40, 400, 10_000]);
        self.note(|| format!("pause of route {route} for {length} ms"));
        let until = self.now + Duration::from_millis(length);
        self.scenario.routes[route].published.pause(Some(until));
        self.tell_of_pause(route);
        true
    }

    fn resume(&mut self, route: usize) -> bool {
        self.note(|| format!("end of the pause of route {route}"));
        self.scenario.routes[route].published.pause(None);
        self.tell_of_pause(route);
        true
    }

    /// As the main thread does.
    fn tell_of_pause(&mut self, route: usize) {
        let pauses = self.pauses.entry(route).or_default();
        pauses.is_news.clear();
        pauses.sent_away = vec![None; self.scenario.mailboxes.len()];
        for mailbox in &self.scenario.mailboxes {
            let (receipts, are_out) = Receipt::some(1);
            pauses.is_news.push(Box::new(are_out));
            mailbox.tell_of(self.scenario.routes[route].published.number());
            for receipt in receipts {
                mailbox.order(Order::Acknowledge(receipt));
            }
        }
    }

    fn drain_endpoint(&mut self, route: usize, is_drained: bool) -> bool {
        let planned = &self.scenario.routes[route];
        // Where nobody is to be disturbed, one that never leaves the set serves all the time.
        let first = u64::from(is_drained && self.scenario.calm);
        let most = planned.endpoints.len() as u64;
        let index = usize::try_from(first + self.dice.below(most - first)).expect("an index");
        let planned = &self.scenario.routes[route];
        let address = planned.endpoints[index];
        let Ok(Adjusted::Changed) = planned.published.drain(address, is_drained) else {
            return false;
        };
        self.note(|| format!("{address} is drained: {is_drained}"));
        let is_connecting = |&sock: &Sock| {
            let socket = self.sockets.peek(sock);
            socket.to == Some(address) && matches!(socket.kind, Kind::Upstream(None))
        };
        if self.live.iter().any(is_connecting) {
            self.judge.line.is_broken();
        }
        self.look_whether_any_serves(route);
        self.tell_of(route);
        true
    }

    fn weigh_endpoint(&mut self, route: usize) -> bool {
        let weight = NonZeroU16::new(self.dice.pick(&[1, 3, 100])).expect("none is 0");
        let planned = &self.scenario.routes[route];
        let address = self.dice.pick(&planned.endpoints);
        if let Ok(Adjusted::Changed) = planned.published.weigh(address, weight) {
            self.tell_of(route);
            return true;
        }
        false
    }

    /// Without any endpoint that serves, clients wait until their time is up.
    pub(super) fn look_whether_any_serves(&mut self, route: usize) {
        let set = self.scenario.routes[route].published.load_full();
        self.disturbed |= set.health_in_use().next().is_none();
    }

    /// Whether the route is paused, whoever knows of it.
    pub(super) fn is_paused(&self, route: usize) -> bool {
        let published = &self.scenario.routes[route].published;
        published.paused_until(self.now).is_some()
    }

    /// Whether it is, and this worker knows of it.
    fn is_paused_on(&self, worker: usize, route: usize) -> bool {
        let has_heard = |worker: usize| {
            let pauses = self.pauses.get(&route);
            pauses.is_some_and(|pauses| pauses.is_news[worker]() == 0)
        };
        self.told == Told::Nothing && self.is_paused(route) && has_heard(worker)
    }

    fn is_drained(&self, route: usize, to: Address) -> bool {
        let set = self.scenario.routes[route].published.load_full();
        let mut all = set.endpoints().iter().zip(set.drained());
        all.any(|(endpoint, is_drained)| *is_drained && endpoint.address == to)
    }

    // --- rules --------------------------------------------------------------------------------

    /// A connect begins.
    pub(super) fn judge_by_hand(&self, to: Address) {
        let route = self.endpoints[self.endpoint_index(to)].route;
        rule!(
            "nothing_new_in_a_pause",
            !self.is_paused_on(self.at, route),
            "{to} is connected to, and route {route} is paused"
        );
        rule!(
            "nothing_new_for_the_drained",
            !self.is_drained(route, to),
            "{to} is connected to, and is drained"
        );
    }

    /// The worker has done all that it can do.
    pub(super) fn judge_rest_by_hand(&mut self) {
        if !self.scenario.by_hand {
            return;
        }
        for sock in self.own() {
            let socket = self.sockets.peek(sock);
            let (None, Some(to), Kind::Upstream(peer)) = (socket.closing, socket.to, socket.kind)
            else {
                continue;
            };
            let route = self.endpoints[self.endpoint_index(to)].route;
            let (is_drained, is_paused) = (
                self.is_drained(route, to),
                self.is_paused_on(self.at, route),
            );
            let is_connecting = peer.is_none() && socket.write.is_some();
            rule!(
                "nothing_new_for_the_drained",
                !(is_drained && is_connecting),
                "{sock:?} is still to be connected to {to}, which is drained"
            );
            let peer = peer.map(|peer| &self.peers[peer]);
            let Some((peer, Speech::Server(server))) = peer.map(|peer| (peer, &peer.speech)) else {
                continue;
            };
            let rests = !peer.gone && server.is_kept(peer.taken) && server.is_settled(peer.taken);
            rule!(
                "nothing_new_for_the_drained",
                !(is_drained && rests && socket.write.is_none()),
                "{sock:?} rests at {to}, which is drained"
            );
            rule!(
                "nothing_new_in_a_pause",
                !(is_paused && rests && socket.write.is_none()),
                "{sock:?} rests at {to}, and route {route} is paused"
            );
        }
        self.judge_patience();
    }

    /// Nobody's time runs in a pause, and nobody is sent away.
    fn judge_patience(&mut self) {
        for route in 0..self.scenario.routes.len() {
            let counters = &self.scenario.routes[route].counters[self.at];
            let outcomes = [Outcome::QueueTimedOut, Outcome::QueueFull];
            let count = match self.ledger.has(route) {
                // Who has its answer ends later.
                true => counters.fastcgi.answers[UNAVAILABLE.number()].get(),
                false => outcomes
                    .map(|outcome| &counters.ended[outcome as usize])
                    .map(Count::get)
                    .iter()
                    .sum(),
            };
            let is_paused = self.is_paused_on(self.at, route);
            let Some(pauses) = self.pauses.get_mut(&route) else {
                continue;
            };
            let before = &mut pauses.sent_away[self.at];
            rule!(
                "patience_stands_still",
                !is_paused || before.is_none_or(|before| before == count),
                "route {route} is paused, and clients are sent away: {before:?}, {count}"
            );
            *before = is_paused.then_some(count);
        }
    }
}
