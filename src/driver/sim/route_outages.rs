//! Routes that are out: the control plane says that no endpoint takes connections, whatever the endpoints do, and says
//! that it is over. And the rules about that.
//!
//! What a session waits for is not to be seen from outside of the worker, so a part of the first rule is judged within
//! (`worker/audit.rs`).

use crate::backend::Address;
use crate::counters::Outcome;
use crate::driver::Sock;
use crate::worker::{Order, Receipt};

use super::world::{Kind, World};

/// What is known of the outages of one route.
#[derive(Default)]
pub(super) struct RouteOutages {
    /// By worker: whether it has yet to hear of the last change.
    is_news: Vec<Box<dyn Fn() -> usize>>,
    /// By worker: how many were told that it is out, when it was looked last since all have heard that it is not.
    told: Vec<Option<u64>>,
}

impl World {
    /// The control plane finds out. True if workers need to hear of it.
    pub(super) fn a_route_goes_out(&mut self, route: usize, is_out: bool) -> bool {
        let published = &self.scenario.routes[route].published;
        if published.is_out() == is_out {
            return false;
        }
        published.set_out(is_out);
        self.note(|| format!("route {route} is out: {is_out}"));
        // Whoever waits is sent away.
        self.disturbed |= is_out;
        let outages = self.route_outages.entry(route).or_default();
        outages.is_news.clear();
        outages.told = vec![None; self.scenario.mailboxes.len()];
        for mailbox in &self.scenario.mailboxes {
            let (receipts, are_out) = Receipt::some(1);
            outages.is_news.push(Box::new(are_out));
            mailbox.tell_of(self.scenario.routes[route].published.number());
            for receipt in receipts {
                mailbox.order(Order::Acknowledge(receipt));
            }
        }
        true
    }

    fn has_heard_of_outages(&self, worker: usize, route: usize) -> bool {
        let outages = self.route_outages.get(&route);
        outages.is_none_or(|outages| outages.is_news[worker]() == 0)
    }

    /// Whether it is, and this worker knows of it. Pauses go before that, and their ends take their time.
    fn is_out_on(&self, worker: usize, route: usize) -> bool {
        let is_out = self.scenario.routes[route].published.is_out();
        is_out && !self.pauses.contains_key(&route) && self.has_heard_of_outages(worker, route)
    }

    // --- rules --------------------------------------------------------------------------------

    /// A connect begins.
    pub(super) fn judge_connect_in_outage(&self, to: Address) {
        let route = self.endpoints[self.endpoint_index(to)].route;
        rule!(
            "nobody_waits_in_an_outage",
            !self.is_out_on(self.at, route),
            "{to} is connected to, and route {route} is out"
        );
    }

    /// The worker has done all that it can do.
    pub(super) fn judge_rest_in_outages(&mut self) {
        for sock in self.own() {
            let socket = self.sockets.peek(sock);
            if let (None, Some(to), Kind::Upstream(None), true) = (
                socket.closing,
                socket.to,
                socket.kind,
                socket.write.is_some(),
            ) {
                self.judge_attempt(sock, to);
            }
        }
        for route in 0..self.scenario.routes.len() {
            self.judge_told(route);
        }
    }

    fn judge_attempt(&self, sock: Sock, to: Address) {
        let route = self.endpoints[self.endpoint_index(to)].route;
        rule!(
            "nobody_waits_in_an_outage",
            !self.is_out_on(self.at, route),
            "{sock:?} is still to be connected to {to}, and route {route} is out"
        );
    }

    fn judge_told(&mut self, route: usize) {
        let planned = &self.scenario.routes[route];
        let count = planned.counters[self.at].ended[Outcome::RouteDown as usize].get();
        let is_over = !planned.published.is_out() && self.has_heard_of_outages(self.at, route);
        let takes_time = self.ledger.has(route);
        let Some(outages) = self.route_outages.get_mut(&route) else {
            rule!(
                "told_only_in_an_outage",
                count == 0,
                "{count} were told that route {route} is out, which it never was"
            );
            return;
        };
        // A client may have its answer, and end when it has taken it.
        if takes_time {
            return;
        }
        let before = &mut outages.told[self.at];
        rule!(
            "told_only_in_an_outage",
            !is_over || before.is_none_or(|before| before == count),
            "{before:?} were told that route {route} is out, and {count} are since it is not"
        );
        *before = is_over.then_some(count);
    }
}
