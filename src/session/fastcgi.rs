//! How a FastCGI route is served.

use crate::config::OnFailure;
use crate::fastcgi::{Guard, RequestLimits};

use super::pool::PoolOptions;

/// What the sessions of a FastCGI route go by.
#[derive(Debug)]
pub struct FastcgiOptions {
    /// Which parameters pass; `None`: all of them.
    pub guard: Option<Guard>,
    /// What a client may send.
    pub limits: RequestLimits,
    /// How connections to servers are kept.
    pub pool: PoolOptions,
    /// What a client gets when no server has begun to answer.
    pub on_failure: OnFailure,
}

/// What the sessions of a route speak.
#[derive(Debug)]
pub enum Protocol {
    /// Whatever client and backend do: bytes.
    Raw,
    /// FastCGI.
    Fastcgi(FastcgiOptions),
}
