//! What is served now, as the main thread knows it: the routes with their sockets, and those that come to their end.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::access_log::Writers;
use crate::backend::{PermitCounts, SharedPermits};
use crate::config::{Config, Effective, RouteName};
use crate::observe::{Observed, ObservedRoute};
use crate::resolver::ResolverHandle;
use crate::worker::{ListenerOf, Mailbox, Order, Route, RouteChange, Spread};

use super::capacity::SessionCapacity;
use super::helpers::Helpers;
use super::listener::Listener;
use super::listening::ListeningSocket;
use super::routes::{ServedRoute, listening};
use super::socket_files::{HiddenBy, WakeFiles};
use super::sockets::{ClientSocket, SocketId};
use super::succession::Takes;
use super::workers::Workers;

/// How often it is looked whether something is left of routes that are not served any more.
pub(super) const RETIRED_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// All that is served, and what it takes to serve something else.
pub(super) struct Service {
    /// What is configured.
    pub(super) config: Config,
    /// The same, as it is written.
    pub(super) effective: Effective,
    /// That with which the daemon was started: some of it stays.
    pub(super) fixed: Effective,
    /// In the order of the configuration.
    pub(super) routes: Vec<ServedRoute>,
    pub(super) retired: Vec<RetiredRoute>,
    /// Sockets that were passed to the daemon, and on which no route listens now.
    pub(super) unclaimed: Vec<ClientSocket>,
    /// Of the next route.
    pub(super) next_number: u32,
    /// Gives routes to workers.
    pub(super) spread: Spread,
    pub(super) capacity: SessionCapacity,
    pub(super) mailboxes: Vec<Arc<Mailbox>>,
    pub(super) resolver: ResolverHandle,
    pub(super) helpers: Helpers,
    pub(super) wake_files: WakeFiles,
    /// That of sockets' files for which none is configured, where the daemon has given up the one that it started
    /// with.
    pub(super) group_at_start: Option<u32>,
    /// What the process that was here before may have of each route's permits, while it drains.
    pub(super) elsewhere: HashMap<RouteName, Arc<PermitCounts>>,
    /// How many of its clients have come to be ours.
    pub(super) arrivals: usize,
    /// Where permits are shared: one was given back.
    pub(super) permits_freed: Arc<Notify>,
    /// Another process takes the daemon's place: permits are counted over all who have some.
    pub(super) is_leaving: bool,
    /// Those of routes that are not served any more, then.
    pub(super) of_retired: Vec<(RouteName, Arc<SharedPermits>)>,
    /// Dropped last, once nobody puts anything in: then what is left is written.
    pub(super) access_logs: Writers,
}

/// A route that is not served any more, or not in the way in which it was, until its workers have forgotten it.
pub(super) struct RetiredRoute {
    pub(super) route: Arc<Route>,
    pub(super) workers: Vec<usize>,
    /// When what is left of its sessions is cut. `None`: never, or they are.
    pub(super) cut_at: Option<Instant>,
    /// How operators see it, if nothing has taken its place.
    pub(super) observed: Option<Arc<ObservedRoute>>,
}

impl Service {
    /// All sockets of clients: those of routes, and those that wait for one.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &ClientSocket> {
        let of_routes = self.routes.iter().flat_map(|route| &route.sockets);
        of_routes.chain(&self.unclaimed)
    }

    /// The same, with the routes by whose outages they are away from their paths.
    pub(super) fn sockets_with_hiding(
        &self,
    ) -> impl Iterator<Item = (&ClientSocket, Option<HiddenBy>)> {
        let of_routes = self.routes.iter().flat_map(|route| {
            let sockets = route.sockets.iter();
            sockets.map(|socket| (socket, route.hidden_by()))
        });
        of_routes.chain(self.unclaimed.iter().map(|socket| (socket, None)))
    }

    /// The socket of this number, which is there.
    pub(super) fn socket(&self, id: SocketId) -> &ClientSocket {
        let mut sockets = self.sockets();
        let found = sockets.find(|socket| socket.id == id);
        found.expect("a socket of a plan is kept until the plan is carried out")
    }

    /// Takes the socket of this number out.
    pub(super) fn take_socket(&mut self, id: SocketId) -> ClientSocket {
        let of_routes = self.routes.iter_mut().map(|route| &mut route.sockets);
        let mut lists = of_routes.chain([&mut self.unclaimed]);
        let found = lists.find_map(|list| {
            let at = list.iter().position(|socket| socket.id == id)?;
            Some(list.remove(at))
        });
        found.expect("a socket of a plan is kept until the plan is carried out")
    }

    /// A listener takes the place of the one whose path it was bound to.
    ///
    /// # Errors
    /// If the workers cannot be given it.
    pub(super) fn replace(
        &mut self,
        id: SocketId,
        listener: Listener,
        workers: &Workers,
    ) -> io::Result<()> {
        let new = ListeningSocket::Bound(listener);
        let mut routes = self.routes.iter_mut();
        let found = routes.find_map(|route| {
            let at = route.sockets.iter().position(|socket| socket.id == id)?;
            Some((route, at))
        });
        // One that was given up meanwhile takes its new file with it.
        let Some((route, at)) = found else {
            return Ok(());
        };
        let for_each = route.shares.iter().map(|_| listening(&route.config, &new));
        // All of them, or none is given away.
        let for_each = for_each.collect::<Result<Vec<_>, _>>();
        let for_each = for_each.map_err(io::Error::other)?;
        let of = ListenerOf {
            route: route.route.number,
            number: route.sockets[at].number,
        };
        for (share, listening) in route.shares.iter().zip(for_each) {
            workers.order(share.worker, Order::Replace(of, listening));
        }
        route.sockets[at].replace(new);
        Ok(())
    }

    /// Nobody finds the paths any more, nor gets in; who connected before is still served. Sockets that were passed
    /// to us stay as they are, and are let go for their next owner.
    pub(super) fn end_sockets(&mut self) {
        for route in &mut self.routes {
            for mut socket in mem::take(&mut route.sockets) {
                socket.socket.end();
            }
        }
        self.unclaimed.clear();
    }

    /// The same where another process has taken some of the sockets: those stay as they are.
    pub(super) fn hand_sockets_over(&mut self, takes: &Takes) {
        for route in &mut self.routes {
            let taken = route
                .sockets
                .extract_if(.., |socket| takes.clients.contains(&socket.id));
            taken.for_each(|socket| socket.socket.leave());
        }
        self.end_sockets();
    }

    /// Why no other process can take the daemon's place now.
    pub(super) fn obstacle_to_succession(&self) -> Option<String> {
        let now = Instant::now();
        let is_paused = |route: &&ServedRoute| route.route.published.paused_until(now).is_some();
        let paused = self.routes.iter().find(is_paused)?;
        Some(format!(
            "route {name} is paused, and what waits there would be served ('spliceway resume {name}', or wait for the \
             pause's end)",
            name = paused.config.name
        ))
    }

    /// Has what is left of routes that are not served any more cut when their time is up, and forgets those of
    /// which nothing is left.
    pub(super) fn look_after_retired(
        &mut self,
        workers: &Workers,
        observed: &Observed,
        now: Instant,
    ) {
        for retired in &mut self.retired {
            if retired.cut_at.is_some_and(|at| at <= now) {
                retired.cut_at = None;
                for &worker in &retired.workers {
                    workers.order(worker, Order::Cut(retired.route.number));
                }
            }
        }
        // Each worker lets go of its hold when it has forgotten the route.
        let is_over = |retired: &RetiredRoute| Arc::strong_count(&retired.route) == 1;
        let over: Vec<_> = self
            .retired
            .extract_if(.., |retired| is_over(retired))
            .collect();
        if over.is_empty() {
            return;
        }
        for retired in &over {
            let earlier = self.routes.iter_mut().flat_map(|route| &mut route.earlier);
            let number = Some(retired.route.number);
            for share in earlier.filter(|share| share.counts_for == number) {
                share.counts_for = None;
            }
        }
        self.end_sharing();
        self.show_retired(observed);
    }

    /// Permits of a route are for those alone who serve it, once nobody else has any.
    pub(super) fn end_sharing(&mut self) {
        if self.is_leaving {
            return;
        }
        for route in &mut self.routes {
            let name = &route.config.name;
            let has_others = self
                .retired
                .iter()
                .any(|retired| retired.route.name == *name);
            let has_others = has_others || self.elsewhere.contains_key(name);
            if has_others || route.shared.take().is_none() {
                continue;
            }
            for share in &route.shares {
                let change = RouteChange::Share(route.route.number, None);
                self.mailboxes[share.worker].order(Order::Reconfigure(vec![change]));
            }
        }
    }

    pub(super) fn show_retired(&self, observed: &Observed) {
        let retired = self.retired.iter();
        let shown = retired.filter_map(|retired| retired.observed.clone());
        observed.routes.replace_retired(shown.collect());
    }
}
