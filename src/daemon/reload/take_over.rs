//! Carrying a plan out: all at once, when nothing can fail any more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{PermitCounts, SharedPermits};
use crate::config::{self, RouteName};
use crate::observe::{Observed, ObservedRoute};
use crate::resolver::{self, ResolverOptions};
use crate::worker::{
    Amendment, Crowd, ListenerChange, Listening, Order, RouteChange, RouteNumber, Share,
};

use super::super::fpm_watch::{FpmWatch, asks_alike};
use super::super::listening::ListeningSocket;
use super::super::routes::{self, EarlierShare, ServedRoute};
use super::super::service::{RetiredRoute, Service};
use super::super::socket_files::Watch;
use super::super::sockets::{ClientSocket, SocketId};
use super::super::succession::wake;
use super::super::upstreams;
use super::super::workers::Workers;
use super::make::{ChangedFile, Made, with_causes};
use super::plan::Plan;
use super::report::report;
use super::stage::{Origin, Staged, StagedRoute, StagedSocket};

/// What has become of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Became {
    /// There was none of this name.
    Added,
    Removed,
    /// It is served by other rules.
    Changed,
    /// Nothing of it was touched.
    Unchanged,
}

/// What has become of the routes: first those of the configuration, in its order.
pub(in super::super) type Outcome = Vec<(RouteName, Became)>;

/// What a plan is carried out with.
pub(in super::super) struct Around<'a> {
    pub(in super::super) workers: &'a Workers,
    pub(in super::super) observed: &'a Observed,
    pub(in super::super) watch: &'a mut Watch,
}

/// What each worker is told.
#[derive(Default)]
struct Changes(BTreeMap<usize, Vec<RouteChange>>);

impl Changes {
    fn add(&mut self, worker: usize, change: RouteChange) {
        self.0.entry(worker).or_default().push(change);
    }
}

impl Service {
    /// Carries the plan out. What is given up is not looked after any more; on the runtime.
    ///
    /// # Errors
    /// A line for each obstacle. Then nothing has changed.
    pub(in super::super) async fn take_over(
        &mut self,
        plan: Plan,
        made: Made,
        around: Around<'_>,
    ) -> Result<Vec<String>, Vec<String>> {
        let watched: HashSet<_> = self.sockets().map(|socket| socket.id).collect();
        let mut unwatched: HashSet<_> = watched.clone();
        unwatched.retain(|id| !plan.keeps(*id) || made.access.iter().any(|file| file.id == *id));
        around
            .watch
            .forget(unwatched.iter().copied().collect())
            .await;
        let outcome = match self.stage(plan, made) {
            Ok(staged) => {
                let before = self.effective.clone();
                let outcome = self.apply(staged, &around);
                if !around.workers.have_obeyed().await {
                    tracing::error!(
                        "a worker has not taken the configuration over in time: it will, when it turns again"
                    );
                }
                Ok(report(&outcome, &before, &self.effective, &self.fixed))
            }
            Err(obstacle) => Err(vec![obstacle]),
        };
        // Those that are new, that have changed, or that are not given up after all.
        let is_unwatched = |id| unwatched.contains(&id) || !watched.contains(&id);
        let to_watch = self.sockets_with_hiding();
        let to_watch = to_watch.filter(|(socket, _)| is_unwatched(socket.id));
        to_watch.for_each(|socket| around.watch.add(socket));
        around.watch.hide_by(self.sockets_with_hiding());
        outcome
    }

    fn apply(&mut self, staged: Staged, around: &Around<'_>) -> Outcome {
        let Staged {
            config,
            effective,
            routes: staged,
            access,
            next_number,
            spread,
        } = staged;
        (self.next_number, self.spread) = (next_number, spread);
        let (after, before) = (config.routes.len(), self.config.routes.len());
        self.resolver.expect(after, before);
        access.into_iter().for_each(|file| self.keep_access(file));
        let mut changes = Changes::default();
        let mut moved = self.take_moved(&staged, &mut changes);
        // Those that stay are taken out one by one; what is left is not served any more.
        let before = mem::take(&mut self.routes).into_iter().map(Some);
        let mut before: Vec<Option<ServedRoute>> = before.collect();
        let mut outcome = Outcome::new();
        for staged in staged {
            let name = staged.config.name.clone();
            let old = staged.plan.before.and_then(|at| before[at].take());
            outcome.push((name, staged.becomes(old.as_ref())));
            let part = staged.config.connections_max;
            let crowd = Crowd::part(part, self.capacity.connections_max, after);
            let served = match (old, staged.number) {
                (Some(old), None) => self.amend(old, staged, crowd, (&mut moved, &mut changes)),
                (old, Some(number)) => {
                    let of = (number, config.drain_timeout);
                    self.divide(old, staged, of, (crowd, &mut moved, &mut changes))
                }
                (None, None) => unreachable!("a route that is new has a number"),
            };
            self.routes.push(served);
        }
        for removed in before.into_iter().flatten() {
            outcome.push((removed.config.name.clone(), Became::Removed));
            self.remove(removed, config.drain_timeout, &mut changes);
        }
        for (worker, changes) in changes.0 {
            around.workers.order(worker, Order::Reconfigure(changes));
        }
        (self.config, self.effective) = (config, effective);
        self.close_unused_logs();
        let routes = self.routes.iter().map(ServedRoute::observed).map(Arc::new);
        around.observed.routes.replace(routes.collect());
        self.show_retired(around.observed);
        outcome
    }

    /// The file of a socket is for others now.
    fn keep_access(&mut self, file: ChangedFile) {
        let mut sockets = self.routes.iter_mut().flat_map(|route| &mut route.sockets);
        let socket = sockets.find(|socket| socket.id == file.id);
        if let Some(ListeningSocket::Bound(listener)) = socket.map(|socket| &mut socket.socket) {
            listener.changed_to(file.keep());
        }
    }

    /// Sockets that are another route's from now on. Whose they were, whose workers leave them to the others.
    fn take_moved(
        &mut self,
        staged: &[StagedRoute],
        changes: &mut Changes,
    ) -> HashMap<SocketId, ClientSocket> {
        let mut moved = HashMap::new();
        let sockets = staged.iter().flat_map(|staged| &staged.sockets);
        for id in sockets.filter_map(|socket| socket.from.taken()) {
            for route in &self.routes {
                let sockets = route.sockets.iter().filter(|socket| socket.id == id);
                for socket in sockets {
                    for share in &route.shares {
                        let change = vec![ListenerChange::HandOver(socket.number)];
                        let number = route.route.number;
                        changes.add(share.worker, RouteChange::Relisten(number, change));
                    }
                }
            }
            moved.insert(id, self.take_socket(id));
        }
        moved
    }

    /// A route goes by other rules, if they are others.
    fn amend(
        &mut self,
        mut route: ServedRoute,
        staged: StagedRoute,
        crowd: Option<u32>,
        (moved, changes): (&mut HashMap<SocketId, ClientSocket>, &mut Changes),
    ) -> ServedRoute {
        let StagedRoute {
            config,
            policy,
            who,
            serving,
            sockets,
            is_changed,
            ..
        } = staged;
        let before = mem::replace(&mut route.config, config);
        let listeners = self.amend_sockets(&mut route, &before, sockets, moved);
        self.amend_control_plane(&mut route, &before);
        let is_crowd_changed = route.route.crowd.max() != crowd;
        route.route.crowd.limit(crowd);
        (route.policy, route.who) = (policy, who);
        for (share, (_, limit)) in route.shares.iter_mut().zip(serving) {
            share.limit = limit;
        }
        if let Some(permits) = &route.shared {
            let max = route.config.limits.per_endpoint_max;
            permits.limit(max.map_or(u32::MAX, |max| max.most().get()));
        }
        let has_new_sockets = listeners.iter().any(|changes| !changes.is_empty());
        if is_changed || is_crowd_changed || has_new_sockets {
            for (share, listeners) in route.shares.iter().zip(listeners) {
                let amendment = Amendment {
                    route: route.route.number,
                    rules: route.rules(share, &mut self.access_logs),
                    listeners,
                };
                changes.add(share.worker, RouteChange::Amend(amendment));
            }
        }
        route
    }

    /// Clients of the route come from these sockets from now on. What changes for each of its workers.
    fn amend_sockets(
        &mut self,
        route: &mut ServedRoute,
        before: &config::Route,
        sockets: Vec<StagedSocket>,
        moved: &mut HashMap<SocketId, ClientSocket>,
    ) -> Vec<Vec<ListenerChange>> {
        let mut listeners: Vec<Vec<ListenerChange>> =
            route.shares.iter().map(|_| Vec::new()).collect();
        let is_introduced_anew =
            route.config.upstreams.proxy_protocol != before.upstreams.proxy_protocol;
        let mut own = mem::take(&mut route.sockets);
        for StagedSocket {
            number,
            from,
            listening,
        } in sockets
        {
            let is_own = matches!(from, Origin::Own(_));
            let socket = StagedSocket::take(from, number, moved, &mut own);
            if is_own && is_introduced_anew {
                let how = || routes::introduction(&route.config, &socket.socket);
                let each = listeners.iter_mut();
                each.for_each(|changes| changes.push(ListenerChange::Introduce(number, how())));
            }
            for (changes, listening) in listeners.iter_mut().zip(listening) {
                changes.push(ListenerChange::Add(number, listening));
            }
            if !is_own {
                route.announce_socket(&socket);
            }
            route.next_socket = route.next_socket.max(number + 1);
            route.sockets.push(socket);
        }
        for socket in own {
            for changes in &mut listeners {
                // Whoever is in its backlog is served by the new rules.
                let how = routes::introduction(&route.config, &socket.socket);
                changes.push(ListenerChange::Introduce(socket.number, how));
                changes.push(ListenerChange::Retire(socket.number));
            }
            self.give_up(socket);
        }
        listeners
    }

    /// What of a route's rules is not the workers'.
    fn amend_control_plane(&mut self, route: &mut ServedRoute, before: &config::Route) {
        let config = &route.config;
        if config.backends != before.backends || config.discovery != before.discovery {
            self.look_up(route);
        }
        if route.config.upstreams != before.upstreams {
            self.check_anew(route);
        }
        if !asks_alike(before, &route.config) {
            self.watch_fpm_anew(route);
        }
        if route.config.ejection != before.ejection {
            route.route.published.eject_by(route.config.ejection);
        }
    }

    /// A route is given to workers that do not have it, or not so. Those that have it finish what they have.
    fn divide(
        &mut self,
        old: Option<ServedRoute>,
        staged: StagedRoute,
        (number, drain_timeout): (RouteNumber, Option<Duration>),
        (crowd, moved, changes): (
            Option<u32>,
            &mut HashMap<SocketId, ClientSocket>,
            &mut Changes,
        ),
    ) -> ServedRoute {
        let StagedRoute {
            config,
            policy,
            who,
            serving,
            sockets,
            ..
        } = staged;
        let rules = (who, policy);
        let mut route = match &old {
            Some(old) => old.anew((number, config), rules),
            None => {
                let crowd = Arc::new(Crowd::new(crowd));
                ServedRoute::new((number, config), rules, crowd, &self.mailboxes)
            }
        };
        route.route.crowd.limit(crowd);
        self.share_permits(&mut route, old.as_ref(), changes);
        if let Some(old) = old {
            self.succeed(&mut route, old, drain_timeout, changes);
        } else {
            self.look_up(&route);
            self.check_anew(&mut route);
            self.watch_fpm_anew(&mut route);
        }
        for (worker, limit) in serving {
            let counters = route.counters_for(worker);
            route.serve_by(worker, limit, counters);
        }
        let mut listeners: Vec<Vec<(usize, Listening)>> =
            route.shares.iter().map(|_| Vec::new()).collect();
        for StagedSocket {
            number,
            from,
            listening,
        } in sockets
        {
            let socket = StagedSocket::take(from, number, moved, &mut Vec::new());
            for (all, listening) in listeners.iter_mut().zip(listening) {
                all.push((number, listening));
            }
            route.next_socket = route.next_socket.max(number + 1);
            route.sockets.push(socket);
        }
        for (share, listeners) in route.shares.iter().zip(listeners) {
            let share = (
                share.worker,
                Share {
                    route: Arc::clone(&route.route),
                    listeners,
                    rules: route.rules(share, &mut self.access_logs),
                    counters: share.counters.clone(),
                    shared: route.shared.clone(),
                },
            );
            changes.add(share.0, RouteChange::Add(share.1));
        }
        route.announce();
        route
    }

    /// Those that have served a route of this name have some of its permits until they are done.
    fn share_permits(
        &self,
        route: &mut ServedRoute,
        old: Option<&ServedRoute>,
        changes: &mut Changes,
    ) {
        let Some(max) = route.config.limits.per_endpoint_max else {
            return;
        };
        let retired = self.retired.iter();
        let retired = retired.filter(|retired| retired.route.name == route.config.name);
        let mut before: Vec<_> = retired
            .flat_map(|retired| {
                let number = retired.route.number;
                retired.workers.iter().map(move |worker| (*worker, number))
            })
            .collect();
        before.extend(old.into_iter().flat_map(|old| {
            let number = old.route.number;
            old.shares.iter().map(move |share| (share.worker, number))
        }));
        let elsewhere = self.elsewhere.get(&route.config.name);
        if before.is_empty() && elsewhere.is_none() {
            return;
        }
        let wake = wake(&self.mailboxes, &self.permits_freed);
        let permits = Arc::new(SharedPermits::new(max.most().get(), before.len(), wake));
        if let Some(elsewhere) = elsewhere {
            permits.leave_to_others(PermitCounts::clone(elsewhere));
        }
        for (worker, number) in before {
            let permits = Some(Arc::clone(&permits));
            changes.add(worker, RouteChange::Share(number, permits));
        }
        route.shared = Some(permits);
    }

    /// A route takes the place of one of the same name, with all that does not belong to its workers.
    fn succeed(
        &mut self,
        route: &mut ServedRoute,
        mut old: ServedRoute,
        drain_timeout: Option<Duration>,
        changes: &mut Changes,
    ) {
        let (before, after) = (&old.config, &route.config);
        if before.backends != after.backends || before.discovery != after.discovery {
            self.look_up(route);
        }
        (route.checks, route.watch) = (old.checks.take(), old.watch.take());
        if old.config.upstreams != route.config.upstreams {
            self.check_anew(route);
        }
        route.fpm = mem::take(&mut old.fpm);
        if !asks_alike(&old.config, &route.config) {
            self.watch_fpm_anew(route);
        }
        route.route.published.eject_by(route.config.ejection);
        route.earlier = mem::take(&mut old.earlier);
        let counts_for = Some(old.route.number);
        route
            .earlier
            .extend(old.shares.iter().map(|share| EarlierShare {
                counts_for,
                worker: share.worker,
                counters: share.counters.clone(),
            }));
        self.retire(old, None, drain_timeout, changes);
    }

    /// A route is not served any more.
    fn remove(
        &mut self,
        mut removed: ServedRoute,
        drain_timeout: Option<Duration>,
        changes: &mut Changes,
    ) {
        tracing::info!(route = %removed.config.name, "the route is not served any more");
        self.resolver.forget(&removed.config.name);
        // Who waits there waits for nothing else.
        removed.route.published.pause(None);
        (removed.checks, removed.watch) = (None, None);
        removed.route.published.set_out(false);
        removed.fpm = FpmWatch::default();
        let observed = Some(Arc::new(removed.observed()));
        self.retire(removed, observed, drain_timeout, changes);
    }

    fn retire(
        &mut self,
        route: ServedRoute,
        observed: Option<Arc<ObservedRoute>>,
        drain_timeout: Option<Duration>,
        changes: &mut Changes,
    ) {
        let workers: Vec<_> = route.shares.iter().map(|share| share.worker).collect();
        for &worker in &workers {
            changes.add(worker, RouteChange::Retire(route.route.number));
        }
        route
            .sockets
            .into_iter()
            .for_each(|socket| self.give_up(socket));
        self.retired.push(RetiredRoute {
            route: route.route,
            workers,
            cut_at: drain_timeout.map(|time| Instant::now() + time),
            observed,
        });
    }

    /// No route listens there any more. What is passed to the daemon may come to be another route's.
    fn give_up(&mut self, mut socket: ClientSocket) {
        tracing::info!("not listening on {} any more", socket.socket.place());
        match &socket.socket {
            ListeningSocket::Bound(_) => socket.socket.end(),
            ListeningSocket::Inherited(_) => self.unclaimed.push(socket),
        }
    }

    fn look_up(&mut self, route: &ServedRoute) {
        let followed = self.resolver.follow(resolver::Job {
            backends: &route.config.backends,
            published: Arc::clone(&route.route.published),
            lookups: Arc::clone(&route.lookups),
            options: ResolverOptions::from(&route.config.discovery),
        });
        // Its names were looked at, and its thread runs.
        if let Err(error) = followed {
            tracing::error!(route = %route.config.name, "{}", with_causes(&error));
        }
    }

    /// Whoever was left out for what the old checks said is used again.
    fn check_anew(&self, route: &mut ServedRoute) {
        let published = &route.route.published;
        if route.checks.take().is_some() {
            published.forget_checks();
        }
        route.checks = upstreams::start_checks(&route.config, published, &self.helpers);
        // The new watch takes an outage over.
        route.watch = None;
        if route.config.upstreams.when_down == config::WhenDown::Wait {
            published.set_out(false);
        }
        let with = (&self.helpers, &self.wake_files);
        route.watch = upstreams::start_watch(&route.config, published, with);
    }

    fn watch_fpm_anew(&self, route: &mut ServedRoute) {
        route.fpm.stop();
        let published = &route.route.published;
        route.fpm.start(&route.config, published, &self.helpers);
    }

    pub(super) fn close_unused_logs(&mut self) {
        let logs = self.routes.iter();
        let logs: Vec<_> = logs
            .flat_map(|route| route.config.protocol.logs())
            .map(|log| log.target.clone())
            .collect();
        self.access_logs
            .retire_unused(|target| logs.contains(target));
    }
}
