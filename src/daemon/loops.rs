//! Routes whose backends are their own sockets, at once or through other routes: each session would begin
//! another one, without end.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{BackendAddress, Config, ListenAddress, RouteName, UnixAddress};

use super::listening::Place;

/// A way that leads back to where it began.
#[derive(Debug, thiserror::Error)]
#[error("route {route}: its backend {backend} {way}: each session would begin another one, without end \
         (choose the address of the program behind it)", way = way(through))]
pub struct LoopError {
    route: RouteName,
    backend: BackendAddress,
    /// The routes between, and at last the first one again.
    through: Vec<RouteName>,
}

fn way(through: &[RouteName]) -> String {
    match through {
        [_itself] => "is its own socket".to_owned(),
        routes => {
            let names: Vec<_> = routes.iter().map(ToString::to_string).collect();
            format!("leads back to it through the routes {}", names.join(", "))
        }
    }
}

/// What `check` can see: the sockets that the configuration names.
pub(super) fn find_configured(config: &Config) -> Option<LoopError> {
    let place = |address: &ListenAddress| match address {
        ListenAddress::Unix(address) => Some(Place::of(address)),
        ListenAddress::Inherited(_) => None,
    };
    let places = |route: &crate::config::Route| route.listeners.iter().filter_map(place).collect();
    find(
        config,
        &config.routes.iter().map(places).collect::<Vec<_>>(),
    )
}

/// What a start can see: those that were passed as well. `places` are those of each route.
pub(super) fn find(config: &Config, places: &[Vec<Place>]) -> Option<LoopError> {
    let leads_to = |backend: &BackendAddress| -> Vec<usize> {
        let is_there = |at: &[Place]| at.iter().any(|place| is_same(place, backend));
        (0..places.len())
            .filter(|&route| is_there(&places[route]))
            .collect()
    };
    for (start, route) in config.routes.iter().enumerate() {
        for backend in &route.backends {
            // Where one gets from here, with the way; each route once.
            let mut seen = vec![false; places.len()];
            let mut ways: Vec<Vec<usize>> = leads_to(&backend.address)
                .into_iter()
                .map(|next| vec![next])
                .collect();
            while let Some(way) = ways.pop() {
                let here = way[way.len() - 1];
                if here == start {
                    let through = way.iter().map(|&r| config.routes[r].name.clone());
                    return Some(LoopError {
                        route: route.name.clone(),
                        backend: backend.address.clone(),
                        through: through.collect(),
                    });
                }
                if std::mem::replace(&mut seen[here], true) {
                    continue;
                }
                let backends = config.routes[here].backends.iter();
                let next = backends.flat_map(|backend| leads_to(&backend.address));
                ways.extend(next.map(|next| [&way[..], &[next]].concat()));
            }
        }
    }
    None
}

fn is_same(place: &Place, backend: &BackendAddress) -> bool {
    match (place, backend) {
        (Place::Path(at), BackendAddress::Unix(UnixAddress::Path(to))) => {
            let at = Path::new(OsStr::from_bytes(at));
            at == to || is_same_file(at, to) || canonical(at) == canonical(to)
        }
        (Place::Abstract(at), BackendAddress::Unix(UnixAddress::Abstract(to))) => at == to,
        (Place::Tcp(at), BackendAddress::Literal(to)) => is_reached(*at, *to),
        (Place::Tcp(at), BackendAddress::Name { host, port }) => {
            let to = SocketAddr::from(([127, 0, 0, 1], *port));
            host.trim_end_matches('.') == "localhost" && is_reached(*at, to)
        }
        _ => false,
    }
}

/// Through links of any kind, if both are there.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

/// The path without links and dots on the way to the last name, which may not be there yet.
fn canonical(path: &Path) -> Option<PathBuf> {
    let directory = fs::canonicalize(path.parent()?).ok()?;
    Some(directory.join(path.file_name()?))
}

/// Whether who connects to an address gets to this listener.
fn is_reached(listener: SocketAddr, address: SocketAddr) -> bool {
    let at = listener.ip().to_canonical();
    let to = match address.ip().to_canonical() {
        // The kernel takes it for this machine.
        ip if ip.is_unspecified() && ip.is_ipv4() => IpAddr::from([127, 0, 0, 1]),
        ip if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    listener.port() == address.port() && (at == to || at.is_unspecified() && is_local(to))
}

/// Whether this machine has the address: then something can be bound to it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_listeners() {
        let reached = |at: &str, to: &str| is_reached(at.parse().unwrap(), to.parse().unwrap());
        assert!(reached("127.0.0.1:80", "127.0.0.1:80"));
        assert!(reached("0.0.0.0:80", "127.0.0.2:80"));
        assert!(reached("[::]:80", "127.0.0.1:80"));
        assert!(reached("127.0.0.1:80", "0.0.0.0:80"));
        assert!(!reached("127.0.0.1:80", "127.0.0.1:81"));
        assert!(!reached("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!reached("0.0.0.0:80", "192.0.2.1:80"));
    }

    #[test]
    fn paths_are_the_same_through_links_and_dots() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        let at = Place::Path(real.join("a.sock").into_os_string().into_encoded_bytes());
        let leads = |path: &str| {
            let to = UnixAddress::Path(dir.path().join(path));
            is_same(&at, &BackendAddress::Unix(to))
        };
        assert!(leads("real/a.sock") && leads("link/a.sock") && leads("real/../real/a.sock"));
        assert!(!leads("real/b.sock") && !leads("a.sock"));
        fs::write(real.join("a.sock"), "").unwrap();
        std::os::unix::fs::symlink(real.join("a.sock"), dir.path().join("other")).unwrap();
        assert!(leads("other"));
    }
}
