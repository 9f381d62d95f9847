//! Asking PHP-FPM how a route's pools fare, for as long as that is configured.

use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::backend::Published;
use crate::config::{self, EndpointMax};
use crate::fpm::{self, FpmBoard, Polls};

use super::helpers::Helpers;
use super::upstreams;

/// What is known of a route's pools, and the task that finds it out. Dropped, that ends.
///
/// Asked in another way, a pool is the same pool: what is known of it, such as a pm.max_children that only a rush of
/// requests has shown, is kept for as long as its address and its page are asked for.
#[derive(Default)]
pub(super) struct FpmWatch {
    board: Arc<FpmBoard>,
    /// `None`: it has not been started, or there is nobody to ask.
    wanted: Option<oneshot::Sender<()>>,
}

impl FpmWatch {
    /// Asks from now on, if anybody is to be asked. To be called on the runtime.
    pub(super) fn start(
        &mut self,
        config: &config::Route,
        published: &Arc<Published>,
        helpers: &Helpers,
    ) {
        assert!(self.wanted.is_none(), "it is started once");
        let places = config.protocol.fpm_status();
        if places.is_empty() {
            self.board = Arc::default();
            return;
        }
        let max = config.limits.per_endpoint_max;
        let polls = Polls {
            places: places.to_vec(),
            permits: max.and_then(EndpointMax::fixed).map(NonZeroU32::get),
            are_found: matches!(max, Some(EndpointMax::Auto(_))),
            tcp: upstreams::tcp_options(&config.upstreams),
        };
        let (wanted, is_wanted) = oneshot::channel();
        let asking = fpm::run(Arc::clone(published), polls, Arc::clone(&self.board));
        helpers.spawn_while("the task that asks PHP-FPM", is_wanted, asking);
        self.wanted = Some(wanted);
    }

    /// The task ends, and another one can be started that goes on with what is known.
    pub(super) fn stop(&mut self) {
        self.wanted = None;
    }

    /// Where it is seen what they say.
    pub(super) fn board(&self) -> Arc<FpmBoard> {
        Arc::clone(&self.board)
    }
}

/// Whether another configuration has the same pools asked in the same way.
pub(super) fn asks_alike(before: &config::Route, after: &config::Route) -> bool {
    let tcp = |route: &config::Route| upstreams::tcp_options(&route.upstreams);
    before.protocol.fpm_status() == after.protocol.fpm_status()
        && before.limits.per_endpoint_max == after.limits.per_endpoint_max
        && tcp(before) == tcp(after)
}
