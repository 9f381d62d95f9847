//! What another configuration comes to, beside the one that is served: nothing is touched for it.

use crate::access_log::Writers;
use crate::config::{
    self, Access, Config, Effective, ListenAddress, Loaded, RequestLog, RouteProtocol, UnixAddress,
    WhenDown,
};

use super::super::capacity::accepting_workers;
use super::super::listener::SocketFile;
use super::super::listening::{ListeningSocket, Place};
use super::super::loops;
use super::super::routes::{self, limit};
use super::super::service::Service;
use super::super::sockets::SocketId;

/// What is to become of the routes.
pub(in super::super) struct Plan {
    /// What is to be served.
    pub(super) config: Config,
    pub(super) effective: Effective,
    /// Those of `config`, in its order.
    pub(super) routes: Vec<RoutePlan>,
    /// How many workers accept.
    pub(super) accepting: usize,
}

/// What is to become of one route.
pub(super) struct RoutePlan {
    /// Where the one of the same name is among those that are served.
    pub(super) before: Option<usize>,
    pub(super) how: How,
    /// Where its clients come from.
    pub(super) sockets: Vec<SocketPlan>,
}

/// How a route comes to be served as it shall.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// The workers that have it go by other rules, if anything is different.
    Amended,
    /// It is given to workers anew: it is a new one, or they have to divide it in another way.
    Divided,
}

/// Where a socket comes from.
#[derive(Debug)]
pub(super) enum SocketPlan {
    /// It is there, whichever route has it.
    Kept(SocketId),
    /// It is to be bound.
    Bound(UnixAddress),
}

/// What has to be looked up, bound and opened before anything can change. None of it needs what is served.
pub(in super::super) struct Wanted {
    pub(super) routes: Vec<config::Route>,
    /// By the place of their route in `routes`.
    pub(super) bind: Vec<(usize, UnixAddress)>,
    /// Files of sockets that are kept and that others may use from now on.
    pub(super) access: Vec<ChangedAccess>,
    /// Those of sockets that are kept and that are to be away from their paths in outages, as they were not before.
    pub(super) hiding: Vec<SocketFile>,
    pub(super) logs: Vec<RequestLog>,
    /// That of sockets' files for which none is configured, if it is not the process's own any more.
    pub(super) group: Option<u32>,
}

/// A socket's file that is to be for others than before.
pub(super) struct ChangedAccess {
    pub(super) id: SocketId,
    pub(super) file: SocketFile,
    pub(super) before: Access,
    pub(super) after: Access,
}

impl Service {
    /// What the configuration comes to, and what it takes before it can be carried out.
    ///
    /// # Errors
    /// A line for each obstacle.
    pub(in super::super) fn plan(&self, loaded: Loaded) -> Result<(Plan, Wanted), Vec<String>> {
        let plan = Plan::of(self, loaded)?;
        let wanted = plan.wanted(self);
        Ok((plan, wanted))
    }
}

impl Plan {
    /// What the configuration comes to.
    ///
    /// # Errors
    /// A line for each obstacle.
    fn of(service: &Service, loaded: Loaded) -> Result<Self, Vec<String>> {
        let Loaded {
            config, effective, ..
        } = loaded;
        let mut obstacles = Vec::new();
        let routes: Vec<_> = config
            .routes
            .iter()
            .map(|route| RoutePlan::of(service, route, &mut obstacles))
            .collect();
        let places: Vec<_> = routes.iter().map(|route| route.places(service)).collect();
        obstacles.extend(loops::find(&config, &places).map(|found| found.to_string()));
        let listeners = places.iter().map(Vec::len).sum();
        let workers = service.mailboxes.len();
        let capacity = service.capacity;
        obstacles.extend(capacity.obstacle(&config, workers, listeners));
        let accepting = accepting_workers(workers, listeners, capacity.connections_max);
        let anew = config.routes.iter().zip(&routes);
        for (route, _) in anew.filter(|(_, plan)| plan.how == How::Divided) {
            let checked = routes::check_shards(&route.name, route.limits, accepting);
            obstacles.extend(checked.err().map(|error| error.to_string()));
        }
        if !obstacles.is_empty() {
            return Err(obstacles);
        }
        Ok(Self {
            config,
            effective,
            routes,
            accepting,
        })
    }

    /// What it takes before it can be carried out.
    fn wanted(&self, service: &Service) -> Wanted {
        let planned = self.config.routes.iter().zip(&self.routes);
        let mut bind = Vec::new();
        let (mut access, mut hiding) = (Vec::new(), Vec::new());
        for (number, (route, plan)) in planned.enumerate() {
            for socket in &plan.sockets {
                match socket {
                    SocketPlan::Bound(address) => bind.push((number, address.clone())),
                    SocketPlan::Kept(id) => {
                        access.extend(opened_otherwise(service, *id, route));
                        hiding.extend(hidden_from_now_on(service, *id, route));
                    }
                }
            }
        }
        Wanted {
            routes: self.config.routes.clone(),
            bind,
            access,
            hiding,
            logs: logs(&self.config, &service.access_logs),
            group: service.group_at_start,
        }
    }

    /// Whether somebody goes on listening there.
    pub(super) fn keeps(&self, id: SocketId) -> bool {
        let mut sockets = self.routes.iter().flat_map(|route| &route.sockets);
        sockets.any(|socket| matches!(socket, SocketPlan::Kept(kept) if *kept == id))
    }
}

/// The file of a socket that is kept, if it is to be for others than now.
fn opened_otherwise(
    service: &Service,
    id: SocketId,
    route: &config::Route,
) -> Option<ChangedAccess> {
    let (file, holder) = file_and_holder(service, id)?;
    let before = &holder.access;
    (*before != route.access).then(|| ChangedAccess {
        id,
        file: file.clone(),
        before: before.clone(),
        after: route.access.clone(),
    })
}

/// That of one that is to be away from its path in outages, if it was not to be so far.
fn hidden_from_now_on(
    service: &Service,
    id: SocketId,
    route: &config::Route,
) -> Option<SocketFile> {
    let (file, holder) = file_and_holder(service, id)?;
    let hides = |route: &config::Route| route.upstreams.when_down == WhenDown::Refuse;
    (hides(route) && !hides(holder)).then(|| file.clone())
}

/// The file of a socket that the daemon has made, and how the route is configured that has it.
fn file_and_holder(service: &Service, id: SocketId) -> Option<(&SocketFile, &config::Route)> {
    let ListeningSocket::Bound(listener) = &service.socket(id).socket else {
        return None;
    };
    let file = listener.socket_file()?;
    let mut routes = service.routes.iter();
    let holder = routes.find(|served| served.sockets.iter().any(|socket| socket.id == id))?;
    Some((file, &holder.config))
}

/// Logs of requests whose files are not open yet, each file once.
fn logs(config: &Config, open: &Writers) -> Vec<RequestLog> {
    let mut logs: Vec<RequestLog> = Vec::new();
    for log in config.routes.iter().flat_map(|r| r.protocol.logs()) {
        let is_wanted = logs.iter().any(|other| other.target == log.target);
        if !is_wanted && !open.has(&log.target) {
            logs.push(log.clone());
        }
    }
    logs
}

impl RoutePlan {
    fn of(service: &Service, route: &config::Route, obstacles: &mut Vec<String>) -> Self {
        let mut routes = service.routes.iter();
        let before = routes.position(|served| served.config.name == route.name);
        let how = match before.map(|before| &service.routes[before].config) {
            Some(before) if is_divided_alike(before, route) => How::Amended,
            Some(_) | None => How::Divided,
        };
        let mut sockets = Vec::new();
        for address in &route.listeners {
            let there = service.sockets().filter(|socket| socket.is_at(address));
            let there: Vec<_> = there.map(|socket| SocketPlan::Kept(socket.id)).collect();
            match address {
                _ if !there.is_empty() => sockets.extend(there),
                ListenAddress::Unix(address) => sockets.push(SocketPlan::Bound(address.clone())),
                ListenAddress::Inherited(_) => obstacles.push(format!(
                    "route {}: listen {address}: nothing of that name is open (what was passed and not \
                     listened on is closed at the start: restart the daemon with its socket units)",
                    route.name
                )),
            }
        }
        Self {
            before,
            how,
            sockets,
        }
    }

    fn places(&self, service: &Service) -> Vec<Place> {
        let place = |socket: &SocketPlan| match socket {
            SocketPlan::Kept(id) => service.socket(*id).socket.place(),
            SocketPlan::Bound(address) => Place::of(address),
        };
        self.sockets.iter().map(place).collect()
    }
}

/// Whether the same workers serve it, each with what it has. Places and queues belong to a worker, and what is kept
/// between sessions is of one protocol.
fn is_divided_alike(before: &config::Route, after: &config::Route) -> bool {
    let speaks_fastcgi = |route: &config::Route| route.protocol != RouteProtocol::Raw;
    // What is counted by class is counted by the places of classes.
    let classes = |route: &config::Route| -> Vec<_> {
        let classes = route.protocol.classes().into_iter();
        classes.flat_map(config::Classes::names).collect()
    };
    speaks_fastcgi(before) == speaks_fastcgi(after)
        && classes(before) == classes(after)
        && limit(before).is_some() == limit(after).is_some()
        && before.limits.shards == after.limits.shards
}
