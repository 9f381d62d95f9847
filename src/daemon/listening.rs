//! The sockets on which a route listens: those that we bind, and those that were passed to us.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use crate::config::UnixAddress;
use crate::proxy_protocol::Version;
use crate::shown::Shown;
use crate::sys::net;
use crate::worker::{Backlog, Listening, Sharing};

use super::inherited::Inherited;
use super::listener::{HideError, ListenError, Listener, SocketFile};
use super::upstreams::introduction;

/// One of a route's sockets.
#[derive(Debug)]
pub(super) enum ListeningSocket {
    /// It begins and ends with us.
    Bound(Listener),
    /// It was there before, and stays.
    Inherited(Inherited),
}

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At a path, in bytes.
    Path(Vec<u8>),
    /// In the abstract namespace; without the leading NUL.
    Abstract(Vec<u8>),
    /// A Unix socket that was never bound.
    Unnamed,
    /// At an address and a port.
    Tcp(SocketAddr),
}

impl Place {
    /// Where a socket of ours with this address is.
    pub(super) fn of(address: &UnixAddress) -> Self {
        match address {
            UnixAddress::Path(path) => Self::Path(path.as_os_str().as_bytes().to_vec()),
            UnixAddress::Abstract(name) => Self::Abstract(name.clone()),
        }
    }
}

impl ListeningSocket {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Bound(listener) => listener.fd(),
            Self::Inherited(inherited) => inherited.fd(),
        }
    }

    pub(super) fn place(&self) -> Place {
        match self {
            Self::Bound(listener) => Place::of(listener.address()),
            Self::Inherited(inherited) => inherited.place().clone(),
        }
    }

    /// What a worker is given of it.
    pub(super) fn for_worker(
        &self,
        sharing: Sharing,
        introduced: Option<Version>,
    ) -> io::Result<Listening> {
        Ok(Listening {
            fd: net::duplicate(self.fd())?,
            backlog: self.backlog(),
            sharing,
            introduction: introduction(introduced, &self.place()),
        })
    }

    fn backlog(&self) -> Backlog {
        match self {
            Self::Bound(_) => Backlog::Ours,
            Self::Inherited(_) => Backlog::NextOwners,
        }
    }

    /// Makes the file of a socket that was taken over one for whom it is to be, as [`Listener::give_access`] does.
    pub(super) fn give_access(&mut self) -> Result<Option<SocketFile>, ListenError> {
        match self {
            Self::Bound(listener) => listener.give_access(),
            Self::Inherited(_) => Ok(None),
        }
    }

    /// Makes it like it was before, if that was changed. It is left to whom it was taken from.
    pub(super) fn take_access_back(&mut self, before: Option<SocketFile>) {
        if let Self::Bound(listener) = self {
            listener.take_access_back(before);
        }
    }

    /// Lets clients in, if the socket is ours; into others they have come all the time.
    pub(super) fn listen(&mut self) -> Result<(), ListenError> {
        match self {
            Self::Bound(listener) => listener.listen(),
            Self::Inherited(_) => Ok(()),
        }
    }

    /// Whether it can be taken away from its path.
    pub(super) fn check_hiding(&self) -> Result<(), HideError> {
        let file = match self {
            Self::Bound(listener) => listener.socket_file(),
            Self::Inherited(_) => None,
        };
        // The configuration has no other sockets where they are to be.
        file.map_or(Ok(()), SocketFile::check_hiding)
    }

    /// Another process was about to have it, and has not come to that.
    pub(super) fn take_back(&mut self) {
        if let Self::Bound(listener) = self {
            listener.take_back();
        }
    }

    /// A socket that was taken over is ours from now on.
    pub(super) fn own(&mut self) {
        if let Self::Bound(listener) = self {
            listener.own();
        }
    }

    /// Another process has it from now on, with its backlog.
    pub(super) fn leave(self) {
        match self {
            Self::Bound(listener) => listener.leave(),
            Self::Inherited(_) => {}
        }
    }

    /// Lets nobody in any more, if the socket is ours. Who connected before can still be accepted.
    pub(super) fn end(&mut self) {
        if let Self::Bound(listener) = self {
            listener.unlink_if_ours();
            listener.refuse_newcomers();
        }
    }
}

fn shown(name: &[u8]) -> Shown<'_> {
    Shown::line(name, usize::MAX)
}

/// The form that `--listen` and `--backend` take, where they can.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "unix:{}", shown(path)),
            Self::Abstract(name) => write!(f, "unix:@{}", shown(name)),
            Self::Unnamed => f.write_str("unix: (without a name)"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}
