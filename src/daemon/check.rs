//! `spliceway check`: what would be served, and what stands in the way of it now.
//!
//! Nothing is bound and nothing is left behind: names are looked up as the daemon would, accounts are
//! looked for, and so are the addresses that connections shall come from, and workers for all shards.
//! The limit of descriptors may be another one for the daemon, so it is not asked for.

use std::io::{self, Write};
use std::path::Path;

use crate::config::{
    Config, ListenAddress, LogTarget, RequestLog, Route, RouteProtocol, UnixAddress,
};
use crate::resolver::ResolverError;
use crate::resolver::once::{self, Resolved, Wanted};
use crate::sys::process;

use super::privileges::Identity;
use super::{
    accepting_workers, accounts, listener, listener_count, loops, routes, script_roots, upstreams,
    worker_count,
};

/// Prints what each backend resolves to, as comments of the configuration before it, and returns a line
/// for each obstacle.
///
/// # Errors
/// If names cannot be looked up at all.
pub fn run(config: &Config, out: &mut impl Write) -> Result<Vec<String>, ResolverError> {
    let wanted: Vec<_> = config.routes.iter().map(wanted).collect();
    let resolved = once::look_up_all(&wanted)?;
    let mut obstacles: Vec<_> = user(config).into_iter().collect();
    let accepting = process::processors().map(|processors| {
        let workers = worker_count(config, processors.len());
        // What will be passed is not known: one for each is the least.
        let listeners = listener_count(config, |_| 1);
        accepting_workers(workers, listeners, config.connections_max)
    });
    obstacles.extend(loops::find_configured(config).map(|found| found.to_string()));
    // Who does not read what is printed still gets the exit code.
    let _ = writeln!(out, "\n# What the backends are now:");
    for (route, resolved) in config.routes.iter().zip(&resolved) {
        let _ = print_backends(route, resolved, out);
        obstacles.extend(accounts(route));
        obstacles.extend(clients(route));
        obstacles.extend(source(route));
        obstacles.extend(script_roots(route));
        obstacles.extend(accepting.ok().and_then(|workers| shards(route, workers)));
        obstacles.extend(nameless(route, resolved));
    }
    obstacles.extend(directories(config, out));
    if obstacles.is_empty() {
        let _ = writeln!(out, "\n# All is well.");
    }
    Ok(obstacles)
}

/// Directories that are to hold a socket or a log, and do not exist.
///
/// One in /run is only mentioned: those are made at each start, by `RuntimeDirectory=` of systemd.
fn directories(config: &Config, out: &mut impl Write) -> Vec<String> {
    let mut missing = Vec::new();
    let mut look = |what: String, path: &Path| {
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or_else(|| Path::new("."));
        if directory.is_dir() {
            return;
        }
        let directory = directory.display();
        if path.starts_with("/run") {
            let _ = writeln!(
                out,
                "\n# {what}: {directory} does not exist yet (RuntimeDirectory= of systemd makes it)"
            );
            return;
        }
        missing.push(format!(
            "{what}: the directory {directory} does not exist (make it, or have the service manager make \
             it: RuntimeDirectory= or LogsDirectory= of systemd)"
        ));
    };
    for route in &config.routes {
        for listener in &route.listeners {
            if let ListenAddress::Unix(UnixAddress::Path(path)) = listener {
                look(format!("route {}: listen {listener}", route.name), path);
            }
        }
        for RequestLog { kind, target, .. } in route.protocol.logs() {
            if let LogTarget::File(path) = target {
                look(
                    format!("route {}: {kind} {}", route.name, path.display()),
                    path,
                );
            }
        }
    }
    if let Some(path) = &config.control {
        look(format!("control socket {}", path.display()), path);
    }
    missing
}

fn wanted(route: &Route) -> Wanted<'_> {
    Wanted {
        discovery: &route.discovery,
        backends: &route.backends,
    }
}

fn print_backends(route: &Route, resolved: &[Resolved], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "# route {}", route.name)?;
    for (backend, resolved) in route.backends.iter().zip(resolved) {
        let backend = backend.to_string();
        let backend = backend.strip_prefix("tcp:").unwrap_or(&backend);
        match resolved {
            Resolved::Literal => writeln!(out, "# {backend} needs no lookup")?,
            Resolved::Host(addresses) => writeln!(out, "# {backend} → {}", listed(addresses))?,
            Resolved::Nothing(problem) => writeln!(out, "# {backend} → none: {problem}")?,
            Resolved::Service(targets) => {
                writeln!(out, "# {backend} → {} targets", targets.len())?;
                for target in targets {
                    match &target.addresses {
                        Ok(found) => writeln!(out, "#   {} → {}", target.record, listed(found))?,
                        Err(problem) => writeln!(out, "#   {} → none: {problem}", target.record)?,
                    }
                }
            }
        }
    }
    Ok(())
}

fn listed(addresses: &[impl ToString]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

/// Backends of which the names stand for nothing.
fn nameless(route: &Route, resolved: &[Resolved]) -> impl Iterator<Item = String> {
    let backends = route.backends.iter().zip(resolved);
    let nameless = backends.filter(|(_, resolved)| !resolved.has_address());
    nameless.map(|(backend, resolved)| {
        let problem = match resolved {
            Resolved::Nothing(problem) => problem,
            Resolved::Literal | Resolved::Host(_) | Resolved::Service(_) => {
                "none of its targets has an address"
            }
        };
        format!(
            "route {}: look up {backend}: {problem} (check the name and the name servers)",
            route.name
        )
    })
}

/// Whether this process could become that user, it does not say: the daemon is started by another one.
fn user(config: &Config) -> Option<String> {
    let error = Identity::look_up(config).err()?;
    Some(error.to_string())
}

fn accounts(route: &Route) -> Option<String> {
    let cause = listener::check_accounts(&route.access).err()?;
    Some(format!("route {}: {cause}", route.name))
}

fn clients(route: &Route) -> Option<String> {
    let error = accounts::check(route).err()?;
    Some(format!("route {}: {error}", route.name))
}

fn source(route: &Route) -> Option<String> {
    let error = upstreams::check_source(&route.upstreams).err()?;
    Some(format!("route {}: {error}", route.name))
}

fn script_roots(route: &Route) -> Option<String> {
    let RouteProtocol::Fastcgi(fastcgi) = &route.protocol else {
        return None;
    };
    let error = script_roots::check(fastcgi).err()?;
    Some(format!("route {}: {error}", route.name))
}

fn shards(route: &Route, workers: usize) -> Option<String> {
    let error = routes::check_shards(&route.name, route.limits, workers).err()?;
    Some(error.to_string())
}
