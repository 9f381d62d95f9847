//! Clients and listeners of a route that takes nobody are held: they are found out once, and not looked at again until
//! something has changed of the route. In a drain, nobody is held.
//!
//! What changes is told (the end of a pause, a session of this worker that ends, another limit), or is looked for now
//! and then: that other workers' sessions have ended.

use std::mem;
use std::time::{Duration, Instant};

use crate::driver::Driver;
use crate::session::RouteKey;

use super::admission::{Admission, Way};
use super::listeners::IdleListener;
use super::parking::{Parked, ParkedNumber};
use super::routes::Hold;
use super::{Worker, WorkerPhase};

/// How often a worker looks whether a route that has as many sessions as it may is below that again: those that
/// end on other workers are not announced.
const CROWD_LOOK_INTERVAL: Duration = Duration::from_millis(50);

impl Admission {
    #[cfg(any(test, fuzzing))]
    pub(super) fn audit(&self) {
        assert!(
            self.crowded.is_empty() == self.crowds_looked_at.is_none(),
            "INVARIANT index_is_exact: when full routes are looked at"
        );
    }

    /// Nobody is held in a drain.
    pub(super) fn release_all(&mut self) {
        self.parked.release_all();
        self.crowded.clear();
        self.crowds_looked_at = None;
    }

    /// Somebody of this route is held because it has as many sessions as it may. Whether that is news.
    fn crowd(&mut self, route: RouteKey, now: Instant) -> bool {
        self.crowds_looked_at
            .get_or_insert(now + CROWD_LOOK_INTERVAL);
        self.crowded.insert(route)
    }

    /// Nobody of this route is held any more because of that.
    fn is_not_crowded(&mut self, route: RouteKey) {
        if self.crowded.remove(&route) && self.crowded.is_empty() {
            self.crowds_looked_at = None;
        }
    }

    /// Whether anybody of this route may be held because of that.
    pub(super) fn is_crowded(&self, route: RouteKey) -> bool {
        !self.crowded.is_empty() && self.crowded.contains(&route)
    }
}

impl<D: Driver> Worker<D> {
    /// The first client that was accepted and can be served now.
    pub(super) fn next_parked(&mut self) -> Option<ParkedNumber> {
        while let Some((number, parked)) = self.admission.parked.first() {
            let route = parked.from.route;
            match self.holds_parked(parked) {
                None => return Some(number),
                Some(hold) => {
                    self.admission.parked.hold(number);
                    self.held(route, hold);
                }
            }
        }
        None
    }

    /// Why a client that was accepted waits for its route, if it does.
    pub(super) fn holds_parked(&self, parked: &Parked) -> Option<Hold> {
        let served = &self.routes[parked.from.route];
        let is_bound = self.phase == WorkerPhase::Serving && !served.is_retired;
        match served.holds() {
            // It waits until its route has fewer sessions, as it would wait in the backlog.
            Some(Hold::Crowd) if parked.from.way == Way::Arrived && is_bound => Some(Hold::Crowd),
            Some(Hold::Crowd) | None => None,
            Some(Hold::Pause) => Some(Hold::Pause),
        }
    }

    /// The first listener that is to have an accept in flight.
    pub(super) fn next_to_arm(&mut self) -> Option<IdleListener> {
        while let Some(listener) = self.listeners.first_to_arm() {
            match self.routes[listener.route].holds() {
                None => return Some(listener),
                Some(hold) => {
                    self.listeners.hold(listener);
                    self.held(listener.route, hold);
                }
            }
        }
        None
    }

    /// The first listener that nobody new comes to, and whose backlog is to be served.
    pub(super) fn next_to_empty(&mut self) -> Option<IdleListener> {
        while let Some(listener) = self.listeners.first_to_empty() {
            match self.routes[listener.route].holds_backlog() {
                Some(hold) if self.phase == WorkerPhase::Serving => {
                    self.listeners.hold(listener);
                    self.held(listener.route, hold);
                }
                Some(_) | None => return Some(listener),
            }
        }
        None
    }

    /// Somebody of this route waits for it. The end of a pause is told; that other workers' sessions have ended is not.
    fn held(&mut self, route: RouteKey, hold: Hold) {
        match hold {
            Hold::Pause => {}
            Hold::Crowd if self.admission.crowd(route, self.hands.now) => {
                self.routes[route].report_crowd(self.hands.now);
            }
            Hold::Crowd => {}
        }
    }

    /// Something has changed of a route, so that it may take clients again.
    pub(super) fn release_held(&mut self, route: RouteKey) {
        self.listeners.release(route);
        self.admission.parked.release(route);
        self.admission.is_not_crowded(route);
    }

    /// Routes with as many sessions as they may have take no clients. The worker looks again without being told.
    pub(super) fn look_at_crowds(&mut self) {
        let now = self.hands.now;
        for route in mem::take(&mut self.admission.crowded) {
            if self.routes[route].route.crowd.is_full() {
                self.admission.crowded.insert(route);
                self.routes[route].report_crowd(now);
            } else {
                self.release_held(route);
            }
        }
        let is_crowded = !self.admission.crowded.is_empty();
        self.admission.crowds_looked_at = is_crowded.then(|| now + CROWD_LOOK_INTERVAL);
    }
}
