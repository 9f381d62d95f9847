//! The ways from clients to PHP-FPM that are overloaded.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::compare::fleet::{RESPONDER, Shape};
use crate::compare::ground::PHP_PORT;
use crate::compare::peers::{Engine, Fastcgi, Guard, Order, Spliceway, Threads};

use super::WORKERS;

/// Behind those of the section about pages.
const FIRST_PORT: u16 = PHP_PORT + 30;

/// What stands in front of a pool of PHP-FPM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Nothing: who finds no worker waits in PHP-FPM's backlog.
    Fpm,
    /// nginx, whose clients wait there as well.
    NginxFpm,
    /// spliceway, with requests in its queue.
    Spliceway(Order),
    /// The same as is the default, with the other engine.
    SplicewayEpoll,
    /// nginx, and behind it spliceway.
    NginxSpliceway,
}

/// Every one, in the order of the tables.
pub(super) const ALL: [Way; 6] = [
    Way::Fpm,
    Way::NginxFpm,
    Way::Spliceway(Order::Fifo),
    Way::Spliceway(Order::Adaptive),
    Way::SplicewayEpoll,
    Way::NginxSpliceway,
];

impl Way {
    /// What results call it.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Fpm => "overload-fpm",
            Self::NginxFpm => "overload-nginx",
            Self::Spliceway(Order::Fifo) => "overload-fifo",
            Self::Spliceway(Order::Adaptive) => "overload-adaptive",
            Self::SplicewayEpoll => "overload-adaptive-epoll",
            Self::NginxSpliceway => "overload-nginx-adaptive",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fpm => "PHP-FPM's backlog",
            Self::NginxFpm => "nginx → PHP-FPM",
            Self::Spliceway(Order::Fifo) => "spliceway, fifo",
            Self::Spliceway(Order::Adaptive) => "spliceway, adaptive",
            Self::SplicewayEpoll => "spliceway, adaptive, epoll",
            Self::NginxSpliceway => "nginx → spliceway, adaptive",
        }
    }

    /// In what order spliceway serves those who wait, if it is there.
    fn order(self) -> Option<Order> {
        match self {
            Self::Fpm | Self::NginxFpm => None,
            Self::Spliceway(order) => Some(order),
            Self::SplicewayEpoll | Self::NginxSpliceway => Some(Order::Adaptive),
        }
    }

    pub(super) fn has_nginx(self) -> bool {
        matches!(self, Self::NginxFpm | Self::NginxSpliceway)
    }

    /// The program between the web server and PHP-FPM, if there is one.
    pub(super) fn peer(self) -> Option<(Spliceway, Shape)> {
        let route = Fastcgi {
            guard: Guard::On,
            endpoint_max: Some(WORKERS),
        };
        let engine = match self {
            Self::SplicewayEpoll => Engine::Epoll,
            Self::Fpm | Self::NginxFpm | Self::Spliceway(_) | Self::NginxSpliceway => {
                Engine::IoUring
            }
        };
        let peer = Spliceway::fastcgi(engine, route).ordered(self.order()?);
        let shape = Shape {
            backends: vec![self.port()],
            ..Shape::plain(Threads::Exactly(1))
        };
        Some((peer, shape))
    }

    /// Each has a pool of its own: what waits for one waits for no other.
    fn port(self) -> SocketAddr {
        let index = ALL.iter().position(|way| *way == self);
        let index = index.expect("all of them are in ALL");
        let index = u16::try_from(index).expect("there are six");
        SocketAddr::new(RESPONDER.ip(), FIRST_PORT + index)
    }

    /// Where its pool listens: where spliceway is, over TCP.
    pub(super) fn pool(self, dir: &Path) -> String {
        match self.order() {
            Some(_) => self.port().to_string(),
            None => self.pool_socket(dir).display().to_string(),
        }
    }

    /// Where nothing is between.
    pub(super) fn pool_socket(self, dir: &Path) -> PathBuf {
        dir.join(format!("{}-pool.sock", self.key()))
    }

    /// nginx's socket for it.
    pub(super) fn nginx_socket(self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.sock", self.key()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ports_are_unique() {
        let mut keys = ALL.map(Way::key);
        keys.sort_unstable();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]));
        let mut ports = ALL.map(Way::port);
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
