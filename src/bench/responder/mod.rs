//! The FastCGI responder.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// How a responder is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Listen on this TCP address; port 0 takes a free one.
    pub tcp: Option<SocketAddr>,
    /// Listen on this Unix socket.
    pub unix: Option<PathBuf>,
    /// Threads; one if not given.
    pub threads: Option<NonZeroUsize>,
    /// Behave like PHP-FPM with so many workers: one connection per worker, busy until the peer closes.
    pub workers: Option<NonZeroUsize>,
}

/// A running responder; dropping it ends it.
pub struct Responder;

impl Responder {
    /// Starts it on threads of its own.
    ///
    /// # Errors
    /// What binding a socket or starting a thread gives.
    pub fn start(_options: &Options) -> io::Result<Self> {
        unimplemented!()
    }

    /// Where it listens, if on TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        unimplemented!()
    }
}
