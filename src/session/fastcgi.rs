//! How a FastCGI route is served.

use crate::fastcgi::{Guard, RequestLimits};

use super::pool::PoolOptions;

/// What the sessions of a FastCGI route go by.
#[derive(Debug)]
pub struct FastcgiOptions {
    /// Which parameters pass.
    pub guard: Guard,
    /// What a client may send.
    pub limits: RequestLimits,
    /// How connections to servers are kept.
    pub pool: PoolOptions,
    /// What a client gets when no server has begun to answer.
    pub on_failure: OnFailure,
}

/// What a client gets when no server has begun to answer its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnFailure {
    /// The end of its connection: nginx makes a 502 of that, and goes to its next upstream.
    Close,
    /// A well-formed 502.
    Respond,
}

/// What the sessions of a route speak.
#[derive(Debug)]
pub enum Protocol {
    /// Whatever client and backend do: bytes.
    Raw,
    /// FastCGI.
    Fastcgi(FastcgiOptions),
}
