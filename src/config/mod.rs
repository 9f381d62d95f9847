//! The validated configuration: what the daemon may rely on without checking again.
//!
//! Values of these types are right by construction: an address was parsed, a mode is octal and no
//! wider than the permission bits, a duration that means "off" is `None`. Nothing here touches the
//! system: whether a user exists or a directory can be written is found out at start.

pub mod address;

use std::num::NonZeroUsize;
use std::time::Duration;

pub use address::{BackendAddress, ListenAddress};

/// Everything `spliceway run` needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect; at least one.
    pub listeners: Vec<ListenAddress>,
    /// Who may connect to the path listeners.
    pub access: Access,
    /// Where sessions go; at least one.
    pub backends: Vec<BackendAddress>,
    /// Worker threads; `None` means one per core that this process may use.
    pub workers: Option<NonZeroUsize>,
    /// Pin each worker to a core of its own.
    pub pin: bool,
    /// Which driver the workers use.
    pub engine: Engine,
    /// The most sessions that are open at one time, over all workers.
    pub connections_max: u32,
    /// How long a client may wait for an open backend connection, name lookup included.
    pub connect_timeout: Duration,
    /// A session without a byte in either direction for this long is ended. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// How long a drain waits for running sessions before it cuts them. `None`: for ever.
    pub drain_timeout: Option<Duration>,
}

/// Mode and ownership of the socket files that the daemon creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits, at most 0o777.
    pub mode: u32,
    /// The file's user; `None` leaves the process's own.
    pub owner: Option<Account>,
    /// The file's group; `None` leaves the process's own.
    pub group: Option<Account>,
}

/// A user or a group as it was given: ids need no lookup and work where names are unknown
/// (containers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// To be looked up in the system's user or group database.
    Name(String),
    /// Taken as it is.
    Id(u32),
}

/// Which driver moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// io_uring where the system allows it, else epoll with one log line that says why.
    Auto,
    /// io_uring or an error.
    #[value(name = "io_uring")]
    IoUring,
    /// epoll.
    Epoll,
}
