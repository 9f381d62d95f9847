//! Where to connect: what backends, their counters and the log have in common.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use crate::config::UnixAddress;
use crate::sys::net::{UnixKind, UnixName};

/// Where to connect.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket of this machine.
    Unix(UnixName),
}

impl Address {
    /// What can stand behind a name.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<&UnixAddress> for Address {
    fn from(address: &UnixAddress) -> Self {
        Self::Unix(match address {
            UnixAddress::Path(path) => UnixName::new(path.as_os_str().as_bytes(), UnixKind::Path),
            UnixAddress::Abstract(name) => UnixName::new(name, UnixKind::Abstract),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(name) => name.fmt(f),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
