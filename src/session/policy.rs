//! The rules by which sessions work.

use std::time::Duration;

use crate::backend::ClassId;
use crate::config::ClassName;
use crate::sys::net::TcpOptions;

use super::{MinRate, Protocol};

/// Those of a route. Immutable: where a route's rules change, it is another policy that changes hands, whole, and
/// who has begun with one goes on with it. A raw session keeps that of its beginning, a FastCGI client that of the
/// beginning of each request.
#[derive(Debug)]
pub struct Policy {
    /// What sessions speak.
    pub protocol: Protocol,
    /// What the TCP sockets to backends are given.
    pub tcp: TcpOptions,
    /// Limits in time.
    pub timeouts: Timeouts,
}

impl Policy {
    /// What operators call a class of requests, where there are classes.
    #[must_use]
    pub fn class_name(&self, class: ClassId) -> Option<&ClassName> {
        match &self.protocol {
            Protocol::Fastcgi(options) => {
                let classes = options.classes.as_ref();
                classes.map(|classes| &classes.of(class).name)
            }
            Protocol::Raw => None,
        }
    }
}

/// How long a session may take for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a place at an endpoint, where their number is limited. `None`: for ever.
    pub queue: Option<Duration>,
    /// From accept, or from having a place, until a backend connection is open.
    pub connect: Duration,
    /// From the first of the refusals in a row on, while every endpoint refuses. `None`: no other time than
    /// for connecting.
    pub refused: Option<Duration>,
    /// Whether connects to endpoints that were silent the last time are given up early.
    pub silent_is_short: bool,
    /// Without a byte in either direction. `None`: for ever.
    pub idle: Option<Duration>,
    /// The same, once one side has ended. `None`: for ever, also where places are wanted.
    pub half_closed: Option<Duration>,
    /// After its endpoint has left the set. `None`: for ever.
    pub removed: Option<Duration>,
    /// How quickly clients of FastCGI give bodies and take answers. `None`: as slowly as they like.
    pub min_rate: Option<MinRate>,
    /// From when a FastCGI request has a connection until the end of its answer. `None`: for ever.
    pub request: Option<Duration>,
}
