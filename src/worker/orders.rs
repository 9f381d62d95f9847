//! What the rest of the daemon has a worker do, and how it does it: sockets that take the place of others, and
//! another configuration.
//!
//! A configuration is taken over between two turns, whole: no session sees half of it. What does not change is not
//! touched. A route that is not served any more takes no new clients; those in its backlog and its sessions are served
//! to their end.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::backend::SharedPermits;
use crate::driver::Driver;
use crate::session::{Ending, Introduction, RouteKey, Session, Step};

use super::leaving::{Arrived, Leave};
use super::listeners::{ListenerOf, Listening};
use super::looking::Look;
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
    /// Clients of this route go to another process from now on, as soon as they are at rest; also those that come.
    LetGo(RouteNumber, Leave),
    /// Another process has accepted a client of this route. A route of which nothing is left has none, and the client is
    /// closed.
    Admit(RouteNumber, Arrived),
    /// Whether another process may still have clients of this worker's: then a drain goes on until it has none.
    ExpectArrivals(bool),
    /// Tell what the sessions do.
    Look(Look),
    /// Give this back when what was ordered before is so for every client that comes from then on.
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
    /// Others come to have permits of its endpoints; `None`: nobody else has any more.
    Share(RouteNumber, Option<Arc<SharedPermits>>),
    /// It serves it by the same rules at other listeners. Before its retirement: those that another share serves from
    /// now on are handed over.
    Relisten(RouteNumber, Vec<ListenerChange>),
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
    /// Clients of this one are introduced in another way. Also of one that was retired, which may have some still.
    Introduce(usize, Introduction),
    /// Nobody new comes to it. Who waits in its backlog is served, unless that is for others.
    Retire(usize),
    /// Another share serves the same socket from now on, on this worker or on others: who waits in its backlog is
    /// that one's. An accept that is in flight may still bring a client, which this route serves.
    HandOver(usize),
}

impl<D: Driver> Worker<D> {
    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Replace(of, listening) => {
                // A route that is gone, or going, needs none.
                if let Some(route) = self.routes.find(of.route)
                    && !self.routes[route].is_retired
                {
                    self.listeners
                        .replace((route, of), listening, &mut self.hands);
                }
            }
            Order::Reconfigure(changes) => {
                changes.into_iter().for_each(|change| self.change(change))
            }
            Order::LetGo(route, leave) => self.let_go(route, leave),
            Order::Admit(route, arrived) => self.take_on(route, arrived),
            Order::ExpectArrivals(expects) => self.expects_arrivals = expects,
            Order::Acknowledge(receipt) => self.receipts.push(receipt),
            Order::Look(look) => self.looks.begin(look),
            Order::Cut(number) => {
                if let Some(route) = self.routes.find(number) {
                    self.cut_route(route);
                }
            }
        }
    }

    fn change(&mut self, change: RouteChange) {
        match change {
            RouteChange::Add(share) => self.add_route(share),
            RouteChange::Amend(amendment) => self.amend(amendment),
            RouteChange::Share(number, permits) => {
                // One of which nothing is left has none.
                if let Some(route) = self.routes.find(number) {
                    self.share_permits(route, permits);
                } else if let Some(permits) = permits {
                    permits.join_with_none();
                }
            }
            RouteChange::Relisten(number, changes) => {
                let route = self.served(number);
                self.relisten(route, number, changes);
            }
            RouteChange::Retire(number) => self.retire(self.served(number)),
        }
    }

    /// One that takes clients: it changes, or ends, once.
    fn served(&self, number: RouteNumber) -> RouteKey {
        let route = self.routes.find(number).expect("what changes is served");
        assert!(
            !self.routes[route].is_retired,
            "what was retired changes no more"
        );
        route
    }
}

impl<D: Driver> Worker<D> {
    pub(super) fn add_route(&mut self, share: Share) {
        let number = share.route.number;
        let mut served = Served::new(
            share.route,
            share.rules,
            share.counters,
            self.seed,
            self.head_room.clone(),
        );
        if let Some(permits) = share.shared {
            served.balancer.share(&permits, false);
        }
        let route = self.routes.insert(served);
        self.routes[route].balancer.belongs_to(route.0);
        self.listeners
            .add_route((route, number), share.listeners, &mut self.hands);
        self.follow_addresses(route);
        self.follow_pause(route);
        self.follow_outage(route);
    }

    fn relisten(&mut self, route: RouteKey, route_number: RouteNumber, by: Vec<ListenerChange>) {
        let of = |number| ListenerOf {
            route: route_number,
            number,
        };
        let (listeners, hands) = (&mut self.listeners, &mut self.hands);
        for change in by {
            match change {
                ListenerChange::Add(number, new) => listeners.add(route, of(number), new, hands),
                ListenerChange::Introduce(number, how) => {
                    self.admission
                        .introduce_as(of(number), &how, &mut hands.driver);
                    listeners.introduce_as(route, of(number), &how);
                }
                ListenerChange::Retire(number) => {
                    listeners.retire(route, |is| is == of(number), &mut hands.driver);
                }
                ListenerChange::HandOver(number) => {
                    listeners.hand_over(route, of(number), &mut hands.driver);
                }
            }
        }
        // What was held may be gone.
        self.release_held(route);
    }

    fn amend(&mut self, amendment: Amendment) {
        let route = self.served(amendment.route);
        self.relisten(route, amendment.route, amendment.listeners);
        self.routes[route].amend(amendment.rules, &mut self.hands);
        self.follow_changes(route);
        self.count_crowd(route);
        self.count_users(route);
        // Who is between two requests goes by the new rules at once, and is asked anew how long it may be.
        self.each_session_of(route, Session::amended);
        // What a raised limit allows is given out at once.
        self.queue_looks.look_at(route, self.hands.now);
        self.release_held(route);
    }

    fn share_permits(&mut self, route: RouteKey, permits: Option<Arc<SharedPermits>>) {
        let balancer = &mut self.routes[route].balancer;
        match permits {
            Some(permits) => balancer.share(&permits, true),
            None => {
                balancer.unshare();
                // What it may have may be more than was left.
                self.queue_looks.look_at(route, self.hands.now);
            }
        }
    }

    /// Where a limit came to be, those that are there already count as well.
    fn count_crowd(&mut self, route: RouteKey) {
        let served = &self.routes[route];
        let crowd = &served.route.crowd;
        for id in served.sessions.iter() {
            let active = &mut self.sessions[id.0];
            if !active.is_in_crowd {
                active.is_in_crowd = crowd.enter();
            }
        }
    }

    /// Likewise where users' clients come to be counted.
    fn count_users(&mut self, route: RouteKey) {
        let served = &self.routes[route];
        let who = served.who.as_deref();
        let driver = &mut self.hands.driver;
        for id in served.sessions.iter() {
            let active = &mut self.sessions[id.0];
            let (seat, client) = (active.seats.0.take(), active.session.client());
            let peer = || driver.peer_credentials(client);
            active.seats.0 = who.and_then(|who| who.keep(seat, peer));
        }
    }

    fn retire(&mut self, route: RouteKey) {
        self.listeners
            .retire(route, |_| true, &mut self.hands.driver);
        self.routes[route].is_retired = true;
        // It has no part of the sessions to keep to any more.
        self.release_held(route);
        let last_call = self.hands.now + LAST_CALL_INTERVAL;
        self.last_calls.set(route, Some(last_call));
        self.look_whether_over(route);
        self.each_session_of(route, |session, cx| session.drain(false, cx));
    }

    fn cut_route(&mut self, route: RouteKey) {
        assert!(
            self.routes[route].is_retired,
            "only what was retired is cut"
        );
        self.listeners.close_of(route, &mut self.hands.driver);
        self.admission.cut_route(route, &mut self.hands.driver);
        self.look_whether_over(route);
        let served = &self.routes[route];
        let (cut, name) = (served.sessions.len(), &served.route.name);
        if cut > 0 {
            tracing::warn!(
                route = %name,
                sessions = cut,
                "the route is not served any more, and --drain-timeout has passed: cutting its sessions"
            );
        }
        self.each_session_of(route, |_, _| Step::End(Ending::Cut));
    }

    /// Tells those who wait for it that orders are carried out: an accept that is in flight for a share which has
    /// handed its listener over may still bring it a client.
    pub(super) fn acknowledge_orders(&mut self) {
        if !self.receipts.is_empty() && !self.listeners.are_being_handed_over() {
            self.receipts.clear();
        }
    }

    /// Forgets routes of which nothing is left, and closes what is kept of those that go.
    pub(super) fn look_after_going(&mut self) {
        while let Some(route) = self.last_calls.due(self.hands.now) {
            let next = self.hands.now + LAST_CALL_INTERVAL;
            self.last_calls.set(route, Some(next));
            self.each_session_of(route, |session, cx| session.drain(true, cx));
        }
        for route in mem::take(&mut self.going) {
            let is_over = self.is_over(route);
            let served = &mut self.routes[route];
            if is_over || !served.has_queue() {
                // Nobody waits for them any more, and others may for their permits.
                served.pool.close_all(&mut self.hands);
                self.pool_looks.set(route, None);
            }
            if is_over {
                self.forget(route);
            }
        }
    }

    /// Whether nothing is left of a route that is not served any more.
    pub(super) fn is_over(&self, route: RouteKey) -> bool {
        let served = &self.routes[route];
        served.is_retired
            && served.sessions.is_empty()
            && !self.listeners.has_open_of(route)
            && !self.admission.parked.has_of(route)
    }

    fn forget(&mut self, route: RouteKey) {
        self.release_held(route);
        self.queue_looks.forget(route);
        self.last_calls.set(route, None);
        self.pauses.set(route, None);
        self.routes.remove(route);
    }
}
