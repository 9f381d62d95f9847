//! The sockets of clients, of which each may come to be replaced, or to be another route's.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{Descriptors, ListenAddress};

use super::listening::ListeningSocket;

/// A socket of clients, over all routes: no other one ever has the same number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct SocketId(u64);

impl SocketId {
    /// One that nobody has had. Nothing but the numbers depends on the order.
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A route's socket.
pub(super) struct ClientSocket {
    pub(super) id: SocketId,
    /// Which one of the route's it is.
    pub(super) number: usize,
    pub(super) socket: ListeningSocket,
}

impl ClientSocket {
    /// One that is new.
    pub(super) fn new(number: usize, socket: ListeningSocket) -> Self {
        let id = SocketId::new();
        Self { id, number, socket }
    }

    /// Whether it is what a route asks for that listens there.
    pub(super) fn is_at(&self, address: &ListenAddress) -> bool {
        match (address, &self.socket) {
            (ListenAddress::Unix(address), ListeningSocket::Bound(listener)) => {
                listener.address() == address
            }
            (ListenAddress::Inherited(wanted), ListeningSocket::Inherited(inherited)) => {
                match wanted {
                    Descriptors::All => true,
                    Descriptors::Named(name) => inherited.name() == name,
                }
            }
            _ => false,
        }
    }

    /// Another one takes its place.
    pub(super) fn replace(&mut self, new: ListeningSocket) {
        match std::mem::replace(&mut self.socket, new) {
            ListeningSocket::Bound(old) => old.retire(),
            ListeningSocket::Inherited(_) => unreachable!("only ours are bound again"),
        }
    }
}
