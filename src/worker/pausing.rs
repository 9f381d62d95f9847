//! Pauses: for a while, a route gives nothing new to its endpoints. What runs goes on; who comes waits, and is served
//! in the order of arrival when it is over.
//!
//! - Where there is a queue, it is there that they wait: as many as there may be sessions, because `--queue-max` is
//!   about those whom endpoints are too busy for. So those who came in a pause do not count against it, also not
//!   while they wait for their turn after it.
//! - Without a queue, nobody is accepted: clients wait in the backlogs.
//! - The time of a pause does not count for anybody's patience, nor for how long a queue has not been empty.
//! - No connection is kept that no request uses: what the backend changes meanwhile, it changes for all requests that
//!   come after the pause.
//! - It ends by itself, whatever becomes of who asked for it; and when the worker drains. It holds for a share that
//!   takes no new clients: whoever waits there came first, and the same route may go on in another share.

use crate::driver::Driver;
use crate::session::{RouteKey, Session};

use super::{Worker, WorkerPhase};

impl<D: Driver> Worker<D> {
    /// Looks whether the route is paused, and acts accordingly.
    pub(super) fn follow_pause(&mut self, route: RouteKey) {
        let served = &mut self.routes[route];
        let until = served.route.published.paused_until(self.hands.now);
        let until = until.filter(|_| self.phase != WorkerPhase::Draining);
        let was_paused = served.paused_until.is_some();
        served.paused_until = until;
        match (was_paused, until.is_some()) {
            (false, true) => self.begin_pause(route),
            (true, false) => self.end_pause(route),
            (false, false) | (true, true) => {}
        }
        self.pauses.set(route, until);
        self.file_queue(route);
    }

    /// The same for all routes that are paused: the worker drains.
    pub(super) fn end_pauses(&mut self) {
        for route in self.pauses.routes() {
            self.follow_pause(route);
        }
    }

    /// Ends pauses whose time is up.
    pub(super) fn look_at_pauses(&mut self) {
        while let Some(route) = self.pauses.due(self.hands.now) {
            self.follow_pause(route);
        }
    }

    fn begin_pause(&mut self, route: RouteKey) {
        self.routes[route].pool.hold(true, &mut self.hands);
        self.follow_changes(route);
        self.each_session_of(route, Session::pause);
    }

    fn end_pause(&mut self, route: RouteKey) {
        self.routes[route].pool.hold(false, &mut self.hands);
        if let Some(queue) = &mut self.routes[route].queue {
            queue.restart(self.hands.now);
        }
        self.each_session_of(route, Session::resume);
        self.follow_changes(route);
        // Those who wait may have a place, and there may be some in the backlogs.
        self.file_queue(route);
        self.queue_looks.look_at(route, self.hands.now);
        self.release_held(route);
        self.follow_outage(route);
    }
}
