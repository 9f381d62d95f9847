//! What follows from a change of a route is filed where it is made, so that a turn finds what is due without looking
//! at routes of which nothing is.

use std::mem;

use crate::driver::Driver;
use crate::session::RouteKey;

use super::{Worker, WorkerPhase};

impl<D: Driver> Worker<D> {
    /// Closes kept connections whose time is up; in a drain, all of them once nobody is left.
    pub(super) fn look_at_pools(&mut self) {
        if self.phase == WorkerPhase::Draining && self.sessions.is_empty() {
            for route in self.pool_looks.routes() {
                self.routes[route].pool.close_all(&mut self.hands);
                self.follow_changes(route);
            }
        }
        if self.pool_looks.due(self.hands.now).is_none() {
            return;
        }
        // Each once: a look may be due again at once.
        let due: Vec<_> = self.pool_looks.all_due(self.hands.now).collect();
        for route in due {
            self.routes[route].pool.expire(&mut self.hands);
            self.follow_changes(route);
        }
    }

    /// Something was done with a route's sessions or kept connections: files what follows from it.
    pub(super) fn follow_changes(&mut self, route: RouteKey) {
        let served = &mut self.routes[route];
        served.follow_footings();
        self.pool_looks.set(route, served.pool.look_at());
        if served.is_going() {
            self.going.insert(route);
        }
        if mem::take(&mut self.changes.room) {
            self.queue_looks.changed(route);
        }
    }

    /// Something of a route has ended, or has come to be: where that is what is waited for, it is looked at.
    pub(super) fn look_whether_over(&mut self, route: RouteKey) {
        if self.routes[route].is_going() {
            self.going.insert(route);
        }
    }
}
