//! How a FastCGI route is served.

use std::time::Duration;

use crate::config::{OnFailure, QueueTime, RouteName};
use crate::fastcgi::{Decisive, Guard, RequestLimits, Rule, Violation};
use crate::observe::Failures;

use super::pool::PoolOptions;

/// What the sessions of a FastCGI route go by.
#[derive(Debug)]
pub struct FastcgiOptions {
    /// What operators call the route.
    pub route: RouteName,
    /// Which parameters pass; `None`: all of them.
    pub guard: Option<Guard>,
    /// What a client may send.
    pub limits: RequestLimits,
    /// How connections to servers are kept.
    pub pool: PoolOptions,
    /// How long a client may take for the head of a request. `None`: for ever.
    pub head_timeout: Option<Duration>,
    /// In which parameters a server learns how long a request has waited.
    pub queue_time: QueueTime,
    /// What a client gets when no server has begun to answer.
    pub on_failure: OnFailure,
    /// Requests that the guard rejected, by [`Rule`]: the first of each is told at once.
    pub rejections: [Failures; Rule::ALL.len()],
    /// Those in which a parameter came with different values, by [`Decisive`].
    pub overridden: [Failures; Decisive::ALL.len()],
    /// Those that were ended for what their client sent, by [`Violation`].
    pub violations: [Failures; Violation::NAMES.len()],
    /// Those that were ended because their client was too slow.
    pub too_slow: Failures,
}

/// What the sessions of a route speak.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each route")]
pub enum Protocol {
    /// Whatever client and backend do: bytes.
    Raw,
    /// FastCGI.
    Fastcgi(FastcgiOptions),
}
