//! The addresses of the command line.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use spliceway::config::{AddressError, BackendAddress, UnixAddress};
use spliceway_load::load::Target;

/// Where requests go, as it was written.
#[derive(Clone, Debug)]
pub(crate) struct To(BackendAddress);

/// Why requests cannot be sent to what a text says, and how to write it right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToError {
    #[error("a service has many addresses (write the HOST:PORT of one)")]
    Service,
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl FromStr for To {
    type Err = ToError;

    fn from_str(text: &str) -> Result<Self, ToError> {
        match text.parse()? {
            BackendAddress::Service { .. } => Err(ToError::Service),
            address => Ok(Self(address)),
        }
    }
}

impl To {
    /// Looks a name up, once: the system's first answer.
    pub(crate) fn resolve(&self) -> anyhow::Result<Target> {
        Ok(match &self.0 {
            BackendAddress::Unix(UnixAddress::Path(path)) => Target::Unix(path.clone()),
            BackendAddress::Unix(UnixAddress::Abstract(name)) => Target::Abstract(name.clone()),
            BackendAddress::Literal(address) => Target::Tcp(*address),
            BackendAddress::Name { host, port } => {
                let found = (host.as_str(), *port).to_socket_addrs();
                let mut found = found.with_context(|| format!("look up {host}"))?;
                let first = found.next();
                Target::Tcp(first.with_context(|| format!("look up {host}: it has no address"))?)
            }
            BackendAddress::Service { .. } => unreachable!("refused when it was read"),
        })
    }
}

/// Where a responder listens.
#[derive(Clone, Debug)]
pub(crate) enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Why a text is no address to listen on, and how to write it right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error(
        "not an address (write tcp:ADDRESS:PORT, for example tcp:127.0.0.1:9000, or unix:/PATH)"
    )]
    Unknown,
    #[error("abstract sockets are not served (write unix:/PATH)")]
    Abstract,
    #[error(transparent)]
    Unix(#[from] AddressError),
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if text.starts_with("unix:") {
            return match text.parse()? {
                UnixAddress::Path(path) => Ok(Self::Unix(path)),
                UnixAddress::Abstract(_) => Err(ListenError::Abstract),
            };
        }
        let address = text.strip_prefix("tcp:").unwrap_or(text);
        let address = address.parse().map_err(|_| ListenError::Unknown)?;
        Ok(Self::Tcp(address))
    }
}
