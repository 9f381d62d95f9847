//! In the tests: compares what the worker keeps about its routes, listeners and queues with what a look at all of them
//! says, after each turn.
//!
//! The rule is `index_is_exact`. Its invariants, each of which is what makes a turn that looks at nothing else right:
//!
//! - Each listener is on the list that its state says, and no other (`listeners.rs`).
//! - Who is held, a listener or a client, is of a route that is paused, or that was full when it was looked at last and
//!   is looked at again in time.
//! - The queues that are looked at are those in which somebody waits for a place, and only routes with one that is not
//!   paused have a date.
//! - Whatever a pool is looked at for has a date here, the same one.
//! - A route is among the paused ones as long as it is paused.
//! - A route that takes no new clients has a last call, and nothing more is to be done for it than for others, unless it
//!   is among those that are looked at.
//! - Each session is on its route's list, at the place that it says.
//!
//! Another rule is about what sessions are at: `nobody_waits_in_an_outage`.

use crate::driver::Driver;
use crate::session::{SessionId, SessionState};

use super::routes::Hold;
use super::{Worker, WorkerPhase};

/// The one way in which this fails.
macro_rules! exact {
    ($holds:expr, $($why:tt)+) => {
        assert!($holds, "INVARIANT index_is_exact: {}", format_args!($($why)+))
    };
}

impl<D: Driver> Worker<D> {
    /// After a turn.
    pub(super) fn audit(&self) {
        self.audit_held();
        let mut sessions = 0;
        for (route, served) in self.routes.iter() {
            exact!(
                self.pool_looks.of(route) == served.pool.look_at(),
                "kept connections of {route:?}: {:?}, and they are looked at {:?}",
                served.pool.look_at(),
                self.pool_looks.of(route)
            );
            served.balancer.audit();
            exact!(
                self.queue_looks.waits_for(route) == served.looks_for_places(),
                "whether anybody waits for a place of {route:?}: {}",
                served.looks_for_places()
            );
            exact!(
                self.pauses.of(route) == served.paused_until,
                "the pause of {route:?}"
            );
            exact!(
                self.last_calls.of(route).is_some() == served.is_retired,
                "whether {route:?} takes new clients: {}",
                !served.is_retired
            );
            let is_done = !self.is_over(route)
                && (!served.is_going() || served.has_queue() || served.pool.look_at().is_none());
            exact!(
                is_done || self.going.contains(&route),
                "nothing is left to be done for {route:?}"
            );
            exact!(
                self.routes.find(served.route.number) == Some(route),
                "the number of {route:?}"
            );
            let number = served.route.published.number();
            exact!(
                self.routes.with(number).contains(&route),
                "the endpoints of {route:?}"
            );
            sessions += served.sessions.len();
            for id in served.sessions.iter() {
                let active = self.sessions.get(id.0);
                let is_there = active.is_some_and(|active| active.route == route);
                exact!(is_there, "{id:?} is a session of {route:?}");
                if served.is_out {
                    let state = active.map(|active| active.session.view(self.hands.now).state);
                    assert!(
                        !matches!(state, Some(SessionState::Queued | SessionState::Connecting)),
                        "INVARIANT nobody_waits_in_an_outage: {id:?} waits for a connection of {route:?}"
                    );
                }
            }
        }
        exact!(
            sessions == self.sessions.len(),
            "each of {} sessions is on the list of one route: {sessions}",
            self.sessions.len()
        );
        for (id, active) in &self.sessions {
            let listed = self.routes[active.route].sessions.at(active.in_route);
            exact!(listed == Some(SessionId(id)), "the place of session {id}");
        }
        self.queue_looks.audit();
    }

    fn audit_held(&self) {
        let is_held = |route, hold| match hold {
            Some(Hold::Pause) => true,
            // Others' sessions may have ended since.
            Some(Hold::Crowd) | None => self.admission.is_crowded(route),
        };
        self.listeners.audit(|route, is_retiring| {
            let served = &self.routes[route];
            let hold = match is_retiring {
                true => served.holds_backlog(),
                false => served.holds(),
            };
            self.phase == WorkerPhase::Serving && is_held(route, hold)
        });
        self.admission.parked.audit(|parked| {
            self.phase == WorkerPhase::Serving
                && is_held(parked.from.route, self.holds_parked(parked))
        });
        self.admission.audit();
    }
}
