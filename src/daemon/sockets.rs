//! All sockets of the running daemon, of which each may come to be replaced.

use std::io;
use std::sync::Arc;

use crate::observe::Observed;
use crate::proxy_protocol::Version;
use crate::worker::{ListenerOf, Order, Sharing};

use super::helpers::Helpers;
use super::listener::Listener;
use super::listening::ListeningSocket;
use super::sites::Sites;
use super::socket_files::{BoundAgain, Which};
use super::workers::Workers;

/// Those of clients, over all routes, and those where the daemon can be asked.
pub(super) struct Sockets {
    pub(super) of_clients: Vec<ClientSocket>,
    pub(super) sites: Sites,
}

/// A route's socket.
pub(super) struct ClientSocket {
    pub(super) socket: ListeningSocket,
    pub(super) sharing: Sharing,
    /// Whether backends are told of its clients, and how.
    pub(super) introduced: Option<Version>,
    /// Which one it is.
    pub(super) of: ListenerOf,
    /// The workers that accept there.
    pub(super) accepting: Vec<usize>,
}

impl Sockets {
    /// A socket takes the place of the one whose path it was bound to. To be called on the runtime.
    pub(super) fn replace(
        &mut self,
        bound: BoundAgain,
        workers: &Workers,
        observed: &Arc<Observed>,
        helpers: &Helpers,
    ) {
        let address = bound.listener.address().clone();
        let replaced = match bound.which {
            Which::Clients(number) => self.of_clients[number].replace(bound.listener, workers),
            Which::Control => self
                .sites
                .replace_control(bound.listener, observed, helpers),
        };
        if let Err(error) = replaced {
            // Its file is gone again with it, and the next look begins anew.
            tracing::error!(
                "the socket {address} was bound again and cannot be served: {error} (raise the limit of open \
                 descriptors, LimitNOFILE= under systemd)"
            );
        }
    }
}

impl ClientSocket {
    fn replace(&mut self, listener: Listener, workers: &Workers) -> io::Result<()> {
        let socket = ListeningSocket::Bound(listener);
        let new = self
            .accepting
            .iter()
            .map(|_| socket.for_worker(self.sharing, self.introduced));
        // All of them, or none is given away.
        let new = new.collect::<io::Result<Vec<_>>>()?;
        for (&worker, new) in self.accepting.iter().zip(new) {
            workers.order(worker, Order::Replace(self.of, new));
        }
        match std::mem::replace(&mut self.socket, socket) {
            ListeningSocket::Bound(old) => old.retire(),
            ListeningSocket::Inherited(_) => unreachable!("only ours are bound again"),
        }
        Ok(())
    }
}
