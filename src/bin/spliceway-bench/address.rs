//! The addresses of the command line.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use spliceway::bench::load::Target;
use spliceway::config::{AddressError, BackendAddress, ListenAddress};

/// Where requests go, as it was written.
#[derive(Clone, Debug)]
pub(crate) enum To {
    Tcp(BackendAddress),
    Unix(ListenAddress),
}

impl FromStr for To {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.starts_with("unix:") {
            text.parse().map(Self::Unix)
        } else {
            text.parse().map(Self::Tcp)
        }
    }
}

impl To {
    /// Looks a name up, once: the system's first answer.
    pub(crate) fn resolve(&self) -> anyhow::Result<Target> {
        Ok(match self {
            Self::Unix(ListenAddress::Path(path)) => Target::Unix(path.clone()),
            Self::Unix(ListenAddress::Abstract(name)) => Target::Abstract(name.clone()),
            Self::Tcp(BackendAddress::Literal(address)) => Target::Tcp(*address),
            Self::Tcp(BackendAddress::Name { host, port }) => {
                let found = (host.as_str(), *port).to_socket_addrs();
                let mut found = found.with_context(|| format!("look up {host}"))?;
                let first = found.next();
                Target::Tcp(first.with_context(|| format!("look up {host}: it has no address"))?)
            }
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
                ListenAddress::Path(path) => Ok(Self::Unix(path)),
                ListenAddress::Abstract(_) => Err(ListenError::Abstract),
            };
        }
        let address = text.strip_prefix("tcp:").unwrap_or(text);
        let address = address.parse().map_err(|_| ListenError::Unknown)?;
        Ok(Self::Tcp(address))
    }
}
