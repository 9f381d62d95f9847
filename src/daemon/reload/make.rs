//! What can fail of a reload, before anything changes: accounts are looked up, sockets bound and files opened.
//!
//! Any of it may wait for others (a file system, a directory service), so it has a thread of its own. What is made
//! and not used goes again when it is dropped.

use std::error::Error;
use std::fs::File;

use crate::access_log;
use crate::config::{self, Access, Account, RequestLog, WhenDown};
use crate::resolver;
use crate::session::Policy;
use crate::worker::Allowed;

use super::super::listener::{self, ListenError, Listener, SocketFile};
use super::super::sockets::SocketId;
use super::super::{accounts, routes, upstreams};
use super::plan::Wanted;

/// What a plan needs.
pub(in super::super) struct Made {
    /// In the order of the configuration.
    pub(super) routes: Vec<MadeRoute>,
    /// In the order in which they were wanted.
    pub(super) bound: Vec<Listener>,
    /// Files of sockets that are for others now.
    pub(super) access: Vec<ChangedFile>,
    pub(super) logs: Vec<(RequestLog, File)>,
}

/// By what a route's clients are served.
pub(super) struct MadeRoute {
    pub(super) policy: Policy,
    /// Which clients are, if not all.
    pub(super) allowed: Option<Allowed>,
}

/// A socket's file with another mode or owner. Dropped, it has those from before, unless they are kept.
pub(super) struct ChangedFile {
    pub(super) id: SocketId,
    before: SocketFile,
    after: Option<SocketFile>,
}

impl ChangedFile {
    /// It stays as it is now.
    pub(super) fn keep(mut self) -> SocketFile {
        self.after.take().expect("it is kept once")
    }
}

impl Drop for ChangedFile {
    fn drop(&mut self) {
        let Some(after) = &self.after else { return };
        if let Err(error) = after.become_like(&self.before) {
            tracing::error!("give the socket back to whom it was for: {error}");
        }
    }
}

/// Makes it.
///
/// # Errors
/// A line for each obstacle. Then all is as it was.
pub(in super::super) fn make(wanted: &Wanted) -> Result<Made, Vec<String>> {
    let mut obstacles = Vec::new();
    let mut all = |route: &config::Route, error: &dyn Error| {
        obstacles.push(format!("route {}: {}", route.name, with_causes(error)));
    };
    let mut routes = Vec::new();
    for route in &wanted.routes {
        match MadeRoute::of(route) {
            Ok(made) => routes.push(made),
            Err(error) => all(route, &*error),
        }
    }
    let mut bound = Vec::new();
    for (number, address) in &wanted.bind {
        let route = &wanted.routes[*number];
        match listener::bind(address, &wanted.access_of(&route.access)) {
            Ok(listener) => bound.push((route, listener)),
            Err(error) => all(route, &wanted.explained(error)),
        }
    }
    let hides = |(route, _): &&(&config::Route, _)| route.upstreams.when_down == WhenDown::Refuse;
    let files = bound.iter().filter(hides);
    let files = files.filter_map(|(_, listener)| listener.socket_file());
    for file in files.chain(&wanted.hiding) {
        obstacles.extend(file.check_hiding().err().map(|error| error.to_string()));
    }
    let mut logs = Vec::new();
    for log in &wanted.logs {
        match access_log::open(log) {
            Ok(file) => logs.push((log.clone(), file)),
            Err(error) => obstacles.push(with_causes(&error)),
        }
    }
    if !obstacles.is_empty() {
        return Err(obstacles);
    }
    // Last, because clients notice it.
    let mut access = Vec::new();
    for change in &wanted.access {
        let wish = wanted.access_of(&change.after);
        let before = wanted.access_of(&change.before);
        match change.file.open_for(&wish, &before) {
            Ok(after) => access.push(ChangedFile {
                id: change.id,
                before: change.file.clone(),
                after: Some(after),
            }),
            Err(error) => return Err(vec![with_causes(&wanted.explained(error))]),
        }
    }
    Ok(Made {
        routes,
        bound: bound.into_iter().map(|(_, listener)| listener).collect(),
        access,
        logs,
    })
}

impl MadeRoute {
    fn of(route: &config::Route) -> Result<Self, Box<dyn Error>> {
        resolver::check_names(&route.backends)?;
        upstreams::check_source(&route.upstreams)?;
        Ok(Self {
            policy: routes::policy(route)?,
            allowed: accounts::look_up(&route.clients)?,
        })
    }
}

impl Wanted {
    /// Where the daemon has another group than at its start, files get the one from then, as they did then.
    fn access_of(&self, configured: &Access) -> Access {
        let mut access = configured.clone();
        if let (None, Some(group)) = (&access.group, self.group) {
            access.group = Some(Account::Id(group));
        }
        access
    }
}

/// An obstacle to a socket, as it is when the daemon has given rights up.
#[derive(Debug, thiserror::Error)]
#[error("{error}{more}")]
struct Explained {
    error: ListenError,
    more: &'static str,
}

impl Wanted {
    fn explained(&self, error: ListenError) -> Explained {
        let has_given_up = self.group.is_some() && error.is_denied();
        let more = match has_given_up {
            true => "; the daemon has given its rights up (--user): with them, it takes a restart",
            false => "",
        };
        Explained { error, more }
    }
}

/// The error in one line, with what led to it.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    line
}
