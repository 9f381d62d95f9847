//! What a backend is told of a client before the client's bytes.

use std::sync::Arc;

use crate::driver::{Driver, Sock};
use crate::proxy_protocol::{Version, of_tcp_client, of_unknown_client};

/// What backends are told of the clients of one listener.
#[derive(Clone, Debug)]
pub enum Introduction {
    /// Nothing.
    None,
    /// The same of all of them.
    Fixed(Arc<[u8]>),
    /// Of each its own addresses.
    OfClient(Version),
}

/// What backends are told of one client.
#[derive(Clone, Debug, Default)]
pub struct Hello(Option<Arc<[u8]>>);

impl Introduction {
    /// What is to be told of a client that was just accepted: later it may have left.
    pub fn of<D: Driver>(&self, client: Sock, driver: &mut D) -> Hello {
        Hello(match self {
            Self::None => None,
            Self::Fixed(bytes) => Some(Arc::clone(bytes)),
            Self::OfClient(version) => Some(match driver.client_addresses(client) {
                Ok(ends) => of_tcp_client(*version, ends.client, ends.local).into(),
                Err(_) => of_unknown_client(*version).into(),
            }),
        })
    }
}

impl Hello {
    /// With what the client has sent behind it, as far as another process has read that.
    #[must_use]
    pub fn before(self, read: &[u8]) -> Self {
        if read.is_empty() {
            return self;
        }
        let told = self.0.as_deref().unwrap_or_default();
        Self(Some([told, read].concat().into()))
    }

    /// The bytes, if there is anything to tell.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }
}
