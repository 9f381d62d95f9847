//! The syntax of addresses: where to listen and where backends are.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a listener stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `unix:/run/app.sock`
    Path(PathBuf),
    /// `unix:@name`, Linux's abstract namespace; the bytes do not include the leading NUL.
    Abstract(Vec<u8>),
}

/// Where a backend is: known, or to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    /// An address that needs no lookup.
    Literal(SocketAddr),
    /// A host name, as given (a trailing dot is kept: it turns the search domains off), and a port.
    Name {
        /// The host name.
        host: String,
        /// The TCP port, never 0.
        port: u16,
    },
}
