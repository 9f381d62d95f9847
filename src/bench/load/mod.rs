//! The load generator.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many clients, each sending as soon as it has its answer.
    Closed {
        /// Clients at one time.
        concurrency: NonZeroUsize,
    },
    /// So many requests each second, whatever becomes of the earlier ones. Latency counts from the
    /// time at which a request was to be sent, so that coordinated omission cannot hide.
    Open {
        /// Requests per second.
        rate: f64,
        /// The most connections at one time; requests that find none free wait, and their wait counts.
        connections_max: NonZeroUsize,
    },
}

/// What connections carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// One request each.
    New,
    /// One request after the other (FCGI_KEEP_CONN).
    Kept,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Of our own responder, with every byte of the answer known beforehand.
    Synthetic {
        /// Bytes of the encoded parameters.
        params_bytes: usize,
        /// Bytes of the body (STDIN).
        body_bytes: u64,
        /// Bytes of the answer (STDOUT).
        response_bytes: u64,
        /// How long the responder waits before it answers.
        delay: Duration,
    },
    /// Of someone's PHP-FPM or the like. The first answer is the measure of the others.
    Script {
        /// SCRIPT_FILENAME.
        script: String,
        /// More parameters; they replace those that are sent by default.
        params: Vec<(String, String)>,
        /// Bytes of the body (STDIN).
        body_bytes: u64,
        /// Whether answers may differ in length and content.
        varying: bool,
    },
}

/// A load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where requests go.
    pub target: Target,
    /// When they are sent.
    pub pace: Pace,
    /// What connections carry.
    pub connections: Connections,
    /// What is asked for.
    pub request: Request,
    /// Sent before anything counts.
    pub warm_up: Duration,
    /// Nothing is sent after this time.
    pub duration: Duration,
    /// Nor after so many requests.
    pub requests_max: Option<u64>,
    /// Client threads.
    pub threads: NonZeroUsize,
}

/// What a load was answered.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Requests with the right answer.
    pub requests: u64,
    /// Bytes of their answers' content.
    pub response_bytes: u64,
    /// From the first counted request to the last answer.
    pub elapsed: Duration,
    /// Of each request, in nanoseconds.
    pub latency_ns: Histogram<u64>,
}

/// What others may see and do while a load runs.
#[derive(Debug, Default)]
pub struct Control {
    /// Set by anyone: send nothing more.
    pub stop: AtomicBool,
    /// Requests that were answered so far, warm-up included; for a progress bar.
    pub answered: AtomicU64,
    /// Set when the warm-up is over.
    pub counting: AtomicBool,
}

/// Why there is no result. The harness never counts a wrong answer as a slow one.
#[derive(Debug, thiserror::Error)]
#[error("placeholder")]
pub struct Failure;

/// Runs a load to its end on threads of its own.
///
/// # Errors
/// The first request that failed or was answered wrongly ends the load.
pub fn run(_plan: &Plan, _control: &Control) -> Result<Measured, Failure> {
    unimplemented!()
}
