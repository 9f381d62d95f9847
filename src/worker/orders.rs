//! What the rest of the daemon has a worker do, and how it does it: sockets that take the place of others, and
//! another configuration.
//!
//! A configuration is taken over between two turns, whole: no session sees half of it. What does not change is not
//! touched. A route that is not served any more takes no new clients; those in its backlog and its sessions are served
//! to their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::driver::Driver;
use crate::session::{Ending, Introduction, RouteKey, Step};

use super::listeners::{ListenerOf, Listening};
use super::routes::{RouteNumber, Served, Share, ShareRules};
use super::{LAST_CALL_INTERVAL, Worker};

/// One thing to do. A worker gets them in order.
pub(crate) enum Order {
    /// A listener takes the place of this one, which nobody can find any more.
    Replace(ListenerOf, Listening),
    /// What the worker serves changes: all of this at one time.
    Reconfigure(Vec<RouteChange>),
    /// The sessions of a route that is not served any more have had their time.
    Cut(RouteNumber),
    /// Say that what was told before is done.
    Acknowledge(Receipt),
}

/// What workers give back when they have done what they were told. One that has gone never does.
pub(crate) struct Receipt(Arc<AtomicUsize>);

impl Receipt {
    /// So many of them, and how many are still out. What workers did before they gave one back is seen by whoever
    /// sees that it was.
    pub(crate) fn some(count: usize) -> (Vec<Self>, impl Fn() -> usize) {
        let out = Arc::new(AtomicUsize::new(count));
        let receipts = (0..count).map(|_| Self(Arc::clone(&out))).collect();
        (receipts, move || out.load(Ordering::Acquire))
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// What changes in one of the routes that a worker serves.
pub(crate) enum RouteChange {
    /// It serves another one.
    Add(Share),
    /// It serves it by other rules.
    Amend(Amendment),
    /// It takes no new clients of it.
    Retire(RouteNumber),
}

/// What is different about a route.
pub(crate) struct Amendment {
    /// Which one.
    pub(crate) route: RouteNumber,
    /// All of its rules, those that are the same as before included.
    pub(crate) rules: ShareRules,
    /// What changes in its listeners; the others are left as they are.
    pub(crate) listeners: Vec<ListenerChange>,
}

/// What changes in one of a route's listeners, by their number.
pub(crate) enum ListenerChange {
    /// Clients come to another one.
    Add(usize, Listening),
    /// Clients of this one are introduced in another way.
    Introduce(usize, Introduction),
    /// Nobody new comes to it. Who waits in its backlog is served, unless that is for others.
    Retire(usize),
}

impl<D: Driver> Worker<D> {
    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Replace(of, listening) => {
                // A route that is gone needs none.
                if let Some(route) = self.routes.find(of.route) {
                    self.listeners
                        .replace((route, of), listening, &mut self.hands);
                }
            }
            Order::Reconfigure(changes) => {
                changes.into_iter().for_each(|change| self.change(change))
            }
            Order::Cut(number) => {
                if let Some(route) = self.routes.find(number) {
                    self.cut_route(route);
                }
            }
            Order::Acknowledge(receipt) => drop(receipt),
        }
    }

    fn change(&mut self, change: RouteChange) {
        match change {
            RouteChange::Add(share) => self.add_route(share),
            RouteChange::Amend(amendment) => {
                let route = self.routes.find(amendment.route);
                self.amend(route.expect("what is amended is served"), amendment);
            }
            RouteChange::Retire(number) => {
                let route = self.routes.find(number);
                self.retire(route.expect("what is retired is served"));
            }
        }
    }
}

/// A route that is not served any more, until nothing of it is left.
pub(super) struct Retiring {
    route: RouteKey,
    /// When FastCGI connections that have sent no request end. `None`: they have.
    last_call: Option<Instant>,
}

impl<D: Driver> Worker<D> {
    pub(super) fn add_route(&mut self, share: Share) {
        let number = share.route.number;
        let served = Served::new(
            share.route,
            share.rules,
            share.counters,
            self.seed,
            self.head_room.clone(),
        );
        let route = self.routes.insert(served);
        self.listeners
            .add_route((route, number), share.listeners, &mut self.hands);
        self.follow_addresses(route);
        self.follow_pause(route);
    }

    fn amend(&mut self, route: RouteKey, amendment: Amendment) {
        for change in amendment.listeners {
            let of = |number| ListenerOf {
                route: amendment.route,
                number,
            };
            let (listeners, hands) = (&mut self.listeners, &mut self.hands);
            match change {
                ListenerChange::Add(number, new) => listeners.add(route, of(number), new, hands),
                ListenerChange::Introduce(number, how) => listeners.introduce_as(of(number), how),
                ListenerChange::Retire(number) => {
                    listeners.retire(|_, is| is == of(number), &mut hands.driver);
                }
            }
        }
        self.routes[route].amend(amendment.rules, &mut self.hands);
        self.file_pool(route);
        self.count_crowd(route);
        // Who is between two requests goes by the new rules at once, and is asked anew how long it may be.
        self.each_session_of(route, |_, _| Step::Continue);
        // What a raised limit allows is given out at once.
        self.queue_looks.look_at(self.hands.now);
    }

    /// Where a limit came to be, those that are there already count as well.
    fn count_crowd(&mut self, route: RouteKey) {
        let crowd = &self.routes[route].route.crowd;
        let of_route = self.sessions.iter_mut().filter(|(_, a)| a.route == route);
        for (_, active) in of_route {
            if !active.is_in_crowd {
                active.is_in_crowd = crowd.enter();
            }
        }
    }

    fn retire(&mut self, route: RouteKey) {
        self.listeners
            .retire(|of, _| of == route, &mut self.hands.driver);
        self.routes[route].is_retired = true;
        self.follow_pause(route);
        self.retired.push(Retiring {
            route,
            last_call: Some(self.hands.now + LAST_CALL_INTERVAL),
        });
        self.each_session_of(route, |session, cx| session.drain(false, cx));
    }

    fn cut_route(&mut self, route: RouteKey) {
        self.listeners
            .close_some(|of| of == route, &mut self.hands.driver);
        self.admission.cut_route(route, &mut self.hands.driver);
        let (cut, name) = (self.routes[route].sessions, &self.routes[route].route.name);
        if cut > 0 {
            tracing::warn!(
                route = %name,
                sessions = cut,
                "the route is not served any more, and --drain-timeout has passed: cutting its sessions"
            );
        }
        self.each_session_of(route, |_, _| Step::End(Ending::Cut));
    }

    /// When there is something to do for routes that are not served any more, though nothing happens.
    pub(super) fn last_call_of_retired(&self) -> Option<Instant> {
        self.retired
            .iter()
            .filter_map(|retired| retired.last_call)
            .min()
    }

    /// Forgets routes of which nothing is left.
    pub(super) fn look_after_retired(&mut self) {
        let mut at = 0;
        while let Some(retired) = self.retired.get_mut(at) {
            let route = retired.route;
            if retired.last_call.is_some_and(|time| time <= self.hands.now) {
                retired.last_call = None;
                self.each_session_of(route, |session, cx| session.drain(true, cx));
            }
            let is_over = self.routes[route].sessions == 0
                && !self.listeners.has_open_of(route)
                && !self.admission.has_parked_of(route);
            if is_over {
                self.routes[route].pool.close_all(&mut self.hands);
                self.routes.remove(route);
                self.retired.swap_remove(at);
            } else {
                at += 1;
            }
        }
    }
}
