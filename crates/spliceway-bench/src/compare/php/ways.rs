//! The ways from nginx to PHP-FPM.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use spliceway_load::load::Target;

use super::WORKERS;
use crate::compare::fleet::{DIRECT_UNIX, Shape};
use crate::compare::ground::PHP_PORT;
use crate::compare::matrix::Carry;
use crate::compare::peers::{
    Engine, Fastcgi, Guard, Haproxy, NginxStream, Peer, SocketProxyd, Spliceway, Threads,
};
use crate::compare::results::DIRECT_TCP;

/// wrk's connections to nginx.
pub(super) const CONNECTIONS: usize = 16;

/// On the way that keeps connections to PHP-FPM, nginx keeps as many as there are workers.
const KEPT: usize = WORKERS;

/// Those to spliceway's FastCGI mode hold no workers: as many as wrk has.
const KEPT_BY_FASTCGI: usize = CONNECTIONS;

/// nginx has one port for each way, from here on; below are those of PHP-FPM.
const NGINX_PORT: u16 = PHP_PORT + 50;

pub(super) const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// What nginx speaks to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// PHP-FPM's Unix socket.
    Unix,
    /// PHP-FPM's port.
    Tcp,
    /// The same, with connections that nginx keeps.
    Kept,
    SocketProxyd,
    Haproxy,
    NginxStream,
    Spliceway(Engine),
    /// spliceway's FastCGI mode, with at most as many connections as there are workers. nginx makes a
    /// new connection to it for each request, or keeps some.
    Fastcgi(Engine, Carry),
    /// The same to PHP-FPM's Unix socket, with new connections.
    FastcgiOverUnix(Engine),
}

/// Every one, in the order of the tables.
pub(super) const ALL: [Way; 13] = [
    Way::Tcp,
    Way::Unix,
    Way::Kept,
    Way::SocketProxyd,
    Way::Haproxy,
    Way::NginxStream,
    Way::Spliceway(Engine::IoUring),
    Way::Spliceway(Engine::Epoll),
    Way::Fastcgi(Engine::IoUring, Carry::New),
    Way::Fastcgi(Engine::Epoll, Carry::New),
    Way::Fastcgi(Engine::IoUring, Carry::Kept),
    Way::Fastcgi(Engine::Epoll, Carry::Kept),
    Way::FastcgiOverUnix(Engine::IoUring),
];

/// Those that are compared where workers come and go.
pub(super) const MAIN: [Way; 8] = [
    Way::Tcp,
    Way::Haproxy,
    Way::NginxStream,
    Way::Spliceway(Engine::IoUring),
    Way::Fastcgi(Engine::IoUring, Carry::New),
    Way::Fastcgi(Engine::Epoll, Carry::New),
    Way::Fastcgi(Engine::IoUring, Carry::Kept),
    Way::Fastcgi(Engine::Epoll, Carry::Kept),
];

/// Those of a quick run.
pub(super) const FEW: [Way; 6] = [
    Way::Tcp,
    Way::Haproxy,
    Way::NginxStream,
    Way::Spliceway(Engine::IoUring),
    Way::Fastcgi(Engine::IoUring, Carry::New),
    Way::Fastcgi(Engine::Epoll, Carry::New),
];

/// Those of a quick run where workers come and go.
pub(super) const FEWEST: [Way; 3] = [
    Way::Tcp,
    Way::Fastcgi(Engine::IoUring, Carry::New),
    Way::Fastcgi(Engine::Epoll, Carry::New),
];

impl Way {
    /// The program in between, if there is one.
    pub(super) fn peer(self) -> Option<Box<dyn Peer>> {
        match self {
            Self::Unix | Self::Tcp | Self::Kept => None,
            Self::SocketProxyd => Some(Box::new(SocketProxyd)),
            Self::Haproxy => Some(Box::new(Haproxy::plain())),
            Self::NginxStream => Some(Box::new(NginxStream)),
            Self::Spliceway(engine) => Some(Box::new(Spliceway::raw(engine))),
            Self::Fastcgi(engine, _) => Some(Box::new(fastcgi(engine))),
            Self::FastcgiOverUnix(engine) => Some(Box::new(fastcgi(engine).over_unix())),
        }
    }

    /// The program in between, set up for this way.
    pub(super) fn shape(self, fpm_dir: &Path) -> Shape {
        Shape {
            backends: vec![self.pool()],
            backend_socket: Some(self.socket(fpm_dir)),
            ..Shape::plain(Threads::Exactly(1))
        }
    }

    /// What `--peers` calls it.
    pub(super) fn choice(self) -> String {
        match self {
            Self::Unix => DIRECT_UNIX.to_owned(),
            Self::Tcp | Self::Kept => DIRECT_TCP.to_owned(),
            _ => self.peer().map(|peer| peer.key()).unwrap_or_default(),
        }
    }

    /// What results call it.
    pub(super) fn key(self) -> String {
        let kept = match self.keeps() {
            Some(_) => "-kept",
            None => "",
        };
        format!("php-{}{kept}", self.choice())
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Unix => "direct, Unix".to_owned(),
            Self::Tcp => "direct, TCP".to_owned(),
            Self::Kept => format!("direct, TCP, nginx keeps {KEPT}"),
            _ => {
                let name = self.peer().map(|peer| peer.name()).unwrap_or_default();
                match self.keeps() {
                    Some(count) => format!("{name}, nginx keeps {count}"),
                    None => name,
                }
            }
        }
    }

    /// How many connections nginx keeps.
    pub(super) fn keeps(self) -> Option<usize> {
        match self {
            Self::Kept => Some(KEPT),
            Self::Fastcgi(_, Carry::Kept) => Some(KEPT_BY_FASTCGI),
            _ => None,
        }
    }

    /// Each has a pool of its own: workers that come and go then do so for one way only, and idle
    /// connections of one hold none of another's.
    pub(super) fn pool(self) -> SocketAddr {
        loopback(PHP_PORT + self.number())
    }

    /// nginx's port for it.
    pub(super) fn nginx(self) -> SocketAddr {
        loopback(NGINX_PORT + self.number())
    }

    /// Where PHP-FPM itself is met.
    pub(super) fn fpm(self, dir: &Path) -> Target {
        match self {
            Self::Unix | Self::FastcgiOverUnix(..) => Target::Unix(self.socket(dir)),
            _ => Target::Tcp(self.pool()),
        }
    }

    /// Its pool's, if that has one.
    fn socket(self, fpm_dir: &Path) -> PathBuf {
        fpm_dir.join(format!("{}.sock", self.key()))
    }

    /// Whether its program shares connections among all who ask it.
    pub(super) fn shares(self) -> bool {
        matches!(self, Self::Fastcgi(..) | Self::FastcgiOverUnix(..))
    }

    fn number(self) -> u16 {
        let index = ALL.iter().position(|way| *way == self);
        let index = index.expect("all of them are in ALL");
        u16::try_from(index).expect("there are thirteen")
    }
}

fn fastcgi(engine: Engine) -> Spliceway {
    let route = Fastcgi {
        guard: Guard::On,
        endpoint_max: Some(WORKERS),
    };
    Spliceway::fastcgi(engine, route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ports_are_unique() {
        let mut keys: Vec<String> = ALL.map(Way::key).into();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), ALL.len());
        let mut ports: Vec<SocketAddr> = ALL.iter().flat_map(|w| [w.pool(), w.nginx()]).collect();
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 2 * ALL.len());
    }

    #[test]
    fn shorter_lists_have_the_base_and_nothing_new() {
        for list in [&MAIN[..], &FEW, &FEWEST] {
            assert!(list[0] == Way::Tcp);
            assert!(list.iter().all(|way| ALL.contains(way)));
        }
    }
}
