//! How a FastCGI route is served.

use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::{Classes, FpmSource, QueueOrder};
use crate::fastcgi::Guard;

/// What a route makes of the bytes that it relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteProtocol {
    /// Nothing: they may be any protocol.
    Raw,
    /// Requests, each with a connection of its own choice.
    Fastcgi(Box<Fastcgi>),
}

impl RouteProtocol {
    /// Where a line goes for each request, if it goes anywhere.
    #[must_use]
    pub fn access_log(&self) -> Option<&RequestLog> {
        match self {
            Self::Raw => None,
            Self::Fastcgi(fastcgi) => fastcgi.access_log.as_ref(),
        }
    }

    /// Where lines go for requests that take long, if they go anywhere.
    #[must_use]
    pub fn slow_log(&self) -> Option<&SlowLog> {
        match self {
            Self::Raw => None,
            Self::Fastcgi(fastcgi) => fastcgi.slow_log.as_ref(),
        }
    }

    /// Both of them.
    pub fn logs(&self) -> impl Iterator<Item = &RequestLog> {
        let slow = self.slow_log().map(|slow| &slow.log);
        self.access_log().into_iter().chain(slow)
    }

    /// The classes of its requests, if it has any.
    #[must_use]
    pub fn classes(&self) -> Option<&Classes> {
        match self {
            Self::Raw => None,
            Self::Fastcgi(fastcgi) => fastcgi.classes.as_ref(),
        }
    }

    /// Where PHP-FPM is asked how its pools fare.
    #[must_use]
    pub fn fpm_status(&self) -> &[FpmSource] {
        match self {
            Self::Raw => &[],
            Self::Fastcgi(fastcgi) => &fastcgi.fpm_status,
        }
    }
}

/// What the sessions of a FastCGI route go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fastcgi {
    /// Which parameters pass; `None`: all of them.
    pub guard: Option<Guard>,
    /// Script roots that are resolved when the daemon starts: what they lead to is a root as well.
    pub resolved_script_roots: Vec<String>,
    /// The most bytes of a request's parameters.
    pub params_max: usize,
    /// Whether a connection to a backend serves more than one request.
    pub upstream_reuse: bool,
    /// How long a backend has to say that it is ready for the next request, while somebody waits.
    pub settle_timeout: Duration,
    /// How long a client may take for the head of a request. `None`: for ever.
    pub head_timeout: Option<Duration>,
    /// How long a backend may take for a request. `None`: for ever.
    pub request_timeout: Option<Duration>,
    /// How quickly clients have to give bodies and take answers, in bytes for a second. `None`: as slowly as they
    /// like.
    pub min_rate: Option<NonZeroU32>,
    /// How late they may be with that.
    pub min_rate_lag: Duration,
    /// How long a connection without a request is kept.
    pub idle_upstream: Duration,
    /// The most requests on one connection.
    pub requests_per_upstream: u32,
    /// What a client gets when no backend has begun to answer.
    pub on_failure: OnFailure,
    /// Where a line goes for each request. `None`: nowhere.
    pub access_log: Option<RequestLog>,
    /// Where lines go for requests that take long. `None`: nowhere.
    pub slow_log: Option<SlowLog>,
    /// Which parameters tell an application how long its requests have waited.
    pub queue_time: QueueTime,
    /// Where PHP-FPM is asked how its pools fare; each address once.
    pub fpm_status: Vec<FpmSource>,
    /// Which requests share its endpoints with which others. `None`: all are alike.
    pub classes: Option<Classes>,
}

/// The names of the parameters in which an application learns how long a request has waited. The guard takes out
/// what a client sends under them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueTime {
    /// The wait, in microseconds, as a decimal number.
    pub waited: Option<String>,
    /// When the wait began: `t=` and seconds since the epoch, with three decimals.
    pub start: Option<String>,
}

impl Fastcgi {
    /// As long as nginx gives its own clients (`client_header_timeout`), and far longer than a web server that has the
    /// request takes to hand it on.
    pub const HEAD_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

    /// What Apache asks of its own clients (`RequestReadTimeout body=20,MinRate=500`). The slowest modem had seven
    /// times as much.
    pub const MIN_RATE_DEFAULT: NonZeroU32 = NonZeroU32::new(500).expect("it is not 0");

    /// As long as nginx lets its own clients pause (`client_body_timeout`, `send_timeout`), whose pauses show here
    /// where it does not buffer.
    pub const MIN_RATE_LAG_DEFAULT: Duration = Duration::from_secs(60);

    /// The most that a request's parameters may be allowed to be: four times the default. They are held for every
    /// request that waits.
    pub const PARAMS_MAX_CEILING: usize = 1024 * 1024;

    /// Twenty times what PHP-FPM was seen to take at most when it was not busy, and not long for who
    /// waits.
    pub const SETTLE_TIMEOUT_DEFAULT: Duration = Duration::from_millis(50);

    /// What a web server's client does not notice before the next server is tried. PHP-FPM that has worked and
    /// starts again has four times as long, and takes 100 to 300 ms of it.
    pub const REFUSED_TIMEOUT_DEFAULT: Duration = Duration::from_millis(250);

    /// An idle connection holds a worker of PHP-FPM, which others may want.
    pub const IDLE_UPSTREAM_DEFAULT: Duration = Duration::from_secs(1);

    /// While requests wait, a connection is never idle. Others who use the same PHP-FPM have their turn
    /// when one ends: with this, one request in 500 pays for a new connection.
    pub const REQUESTS_PER_UPSTREAM_DEFAULT: u32 = 500;

    /// In an open loop above the capacity, first come, first served leaves every request waiting for as long as its client
    /// does, and next to none is answered in time; newest first, as many as there are places for
    /// (docs/results/cells.md, *Overload*).
    pub const QUEUE_ORDER_DEFAULT: QueueOrder = QueueOrder::Adaptive;

    /// What PHP-FPM's own slow log is usually set to (`request_slowlog_timeout`, which is off by default): few people
    /// wait for longer.
    pub const SLOW_AFTER_DEFAULT: Duration = Duration::from_secs(5);
}

/// Lines for requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLog {
    /// For which requests.
    pub kind: LogKind,
    /// Where they go.
    pub target: LogTarget,
    /// What they look like.
    pub format: RequestLogFormat,
}

/// For which requests there are lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// For all of them.
    Access,
    /// For those that take long.
    Slow,
}

/// For messages.
impl fmt::Display for LogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Access => "access log",
            Self::Slow => "slow log",
        })
    }
}

/// Lines for requests that take long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowLog {
    /// Where they go, and what they look like.
    pub log: RequestLog,
    /// What is long.
    pub after: Duration,
}

/// Where lines for requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output, written `-`.
    Stdout,
    /// A file, which is appended to.
    File(PathBuf),
}

impl FromStr for LogTarget {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "-" => Self::Stdout,
            path => Self::File(path.into()),
        })
    }
}

/// For messages.
impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("on standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// What lines for requests look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum RequestLogFormat {
    /// Fields as `name=value`.
    Text,
    /// One JSON object.
    Json,
}

/// What a client gets when no backend has begun to answer its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum OnFailure {
    /// The end of its connection.
    Close,
    /// A well-formed 502.
    Respond,
}

/// Whether connections to backends serve more than one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum UpstreamReuse {
    /// Where the backend says that it is ready for the next one.
    Auto,
    /// No.
    Never,
}
