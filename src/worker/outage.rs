//! Outages: no endpoint of a route takes connections, and its clients are not to wait for one (`--when-down`).
//!
//! Whoever is to be connected, or waits for a place, ends; whoever comes ends as soon as it would look for an endpoint.
//! What has its connection goes on. The control plane decides when it begins and ends. A pause goes before it: an operator
//! who has paused a route wants everybody to wait.

use std::mem;

use crate::driver::Driver;
use crate::session::{RouteKey, Session};

use super::Worker;

impl<D: Driver> Worker<D> {
    /// Looks whether there is one, and acts accordingly.
    pub(super) fn follow_outage(&mut self, route: RouteKey) {
        let served = &mut self.routes[route];
        let is_out = served.route.published.is_out() && served.paused_until.is_none();
        let was_out = mem::replace(&mut served.is_out, is_out);
        // Always: whoever served the route before, and counted here, may have left it so.
        served.counters.out.set(u64::from(is_out));
        if is_out && !was_out {
            self.each_session_of(route, Session::despair);
        }
    }
}
