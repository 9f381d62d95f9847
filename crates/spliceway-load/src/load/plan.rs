//! What a load consists of.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::request::params_bytes_min;
use crate::synthetic::HEAD_LEN;

/// How long a request may take if nothing else is said. Much longer than anything takes on a busy
/// machine, and still soon enough for someone who waits: a hang is a failure.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);

/// The most bytes of encoded parameters: one record's.
pub const PARAMS_BYTES_MAX: usize = 0xfff8;

/// The longest answer that can be asked for: a bound against slips of the hand.
pub const RESPONSE_BYTES_MAX: u64 = 1 << 40;

/// The most connections at one time; a thread's descriptors are a few million at most anyway.
pub const CONNECTIONS_MAX: usize = 1_000_000;

/// The highest rate; above it, a schedule in nanoseconds has no room between two requests.
pub const RATE_MAX: f64 = 100_000_000.0;

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
    /// A Unix socket in Linux's abstract namespace; the name without its leading NUL.
    Abstract(Vec<u8>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
        }
    }
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

impl Pace {
    /// Connections at one time.
    pub(super) fn connections(&self) -> usize {
        match self {
            Self::Closed { concurrency } => concurrency.get(),
            Self::Open {
                connections_max, ..
            } => connections_max.get(),
        }
    }
}

/// What connections carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// One request each. The backend closes first, and the client waits for that, so that neither
    /// loses a port to TIME_WAIT on the client's side.
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
        /// Some of them, beside those that the responder needs and one that fills up.
        params: Vec<(String, String)>,
        /// Bytes of the body (STDIN).
        body_bytes: u64,
        /// Bytes of the answer (STDOUT), its CGI header included.
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
    /// Nothing is due after this time. What was due before and found no connection free is still
    /// sent: its wait would be missing otherwise.
    pub duration: Duration,
    /// Nor after so many requests, the warm-up's not included.
    pub requests_max: Option<u64>,
    /// Client threads; not more than connections are used.
    pub threads: NonZeroUsize,
    /// A request that takes longer is a failure ([`DEADLINE_DEFAULT`]).
    pub deadline: Duration,
}

/// Why a plan cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Fewer bytes than the parameters that there are to be, or more than a record.
    #[error("{params_bytes} bytes of parameters (give {least} to {PARAMS_BYTES_MAX})")]
    ParamsBytes {
        /// What was given.
        params_bytes: usize,
        /// The fewest.
        least: usize,
    },
    /// An answer that has no room for its header.
    #[error("an answer of {0} bytes (give {HEAD_LEN} to {RESPONSE_BYTES_MAX})")]
    ResponseBytes(u64),
    /// More parameters than one record carries.
    #[error("the parameters have {0} bytes (give at most {PARAMS_BYTES_MAX})")]
    ParamsTooLong(usize),
    /// No rate, or no number.
    #[error("a rate of {0} requests per second (give more than 0 and at most {RATE_MAX})")]
    Rate(f64),
    /// More connections than there can be.
    #[error("{0} connections (give at most {CONNECTIONS_MAX})")]
    Connections(usize),
    /// Requests that would all fail.
    #[error("a deadline of {deadline:?} with answers that wait {delay:?} (give a longer deadline)")]
    Deadline {
        /// What was given.
        deadline: Duration,
        /// How long the answers take at least.
        delay: Duration,
    },
}

impl Plan {
    /// Whether the plan can be carried out.
    ///
    /// # Errors
    /// What is wrong with it, and what can be.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.pace.connections() > CONNECTIONS_MAX {
            return Err(PlanError::Connections(self.pace.connections()));
        }
        if let Pace::Open { rate, .. } = self.pace
            && !(rate > 0.0 && rate <= RATE_MAX)
        {
            return Err(PlanError::Rate(rate));
        }
        match &self.request {
            &Request::Synthetic {
                params_bytes,
                ref params,
                response_bytes,
                delay,
                ..
            } => {
                let least = params_bytes_min(params);
                if !(least..=PARAMS_BYTES_MAX).contains(&params_bytes) {
                    return Err(PlanError::ParamsBytes {
                        params_bytes,
                        least,
                    });
                }
                if !(HEAD_LEN as u64..=RESPONSE_BYTES_MAX).contains(&response_bytes) {
                    return Err(PlanError::ResponseBytes(response_bytes));
                }
                if self.deadline <= delay {
                    let deadline = self.deadline;
                    return Err(PlanError::Deadline { deadline, delay });
                }
                Ok(())
            }
            Request::Script { .. } => Ok(()),
        }
    }
}
