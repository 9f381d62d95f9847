//! The validated configuration: what the daemon may rely on without checking again.
//!
//! Values of these types are right by construction: an address was parsed, a mode is octal and no
//! wider than the permission bits, a duration that means "off" is `None`. Nothing here touches the
//! system: whether a user exists or a directory can be written is found out at start.

pub mod address;
mod backend;
pub mod balancing;
pub mod class;
pub mod discovery;
pub mod effective;
pub mod fastcgi;
pub mod fpm_source;
pub mod route;
pub mod upstream;

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

pub use address::{AddressError, BackendAddress, Descriptors, ListenAddress, UnixAddress};
pub use backend::{Backend, BackendError};
pub use balancing::{Balance, Ejection};
pub use class::{CLASSES_MAX, Class, ClassName, ClassNameError, ClassRules, Classes, PRIORITIES};
pub use discovery::{
    DNS_TTL_FLOOR, Discovery, NAME_SERVERS_MAX, NameServer, NameServerError, RefreshTimes,
    ResolveWith,
};
pub use effective::{Effective, EffectiveRoute, Settings, Written};
pub use fastcgi::{
    Fastcgi, LogKind, LogTarget, OnFailure, QueueTime, RequestLog, RequestLogFormat, RouteProtocol,
    SlowLog, UpstreamReuse,
};
pub use fpm_source::{FPM_SOURCES_MAX, FpmPlace, FpmSource, FpmSourceError};
pub use route::{
    AutoRange, Clients, ConnectionLimits, EndpointMax, QueueOrder, ROUTE_NAME_BYTES_MAX, Route,
    RouteName, RouteNameError,
};
pub use upstream::{
    ActiveChecks, CheckKind, KEEPALIVE_MAX, KEEPALIVE_MIN, ProxyProtocol, SourceAddress,
    SourceAddressError, SourceAddresses, USER_TIMEOUT_MAX, Upstreams, WhenDown,
};

/// The most worker threads: the largest machines have fewer cores.
pub const WORKERS_MAX: usize = 1024;

/// The most sessions that may be open at one time: each takes two descriptors, and the kernel's
/// default ceiling for a process, `fs.nr_open`, is 1,048,576. Who wants more raises that first.
pub const CONNECTIONS_MAX: u32 = 1_000_000;

/// The longest timeout. Longer ones are meant to be "never", and instants that far away need no
/// care for overflow.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The longest time that a worker looks for work before it sleeps: a wake-up takes some microseconds, and whoever waits
/// this long does not notice it.
pub const BUSY_POLL_MAX: Duration = Duration::from_millis(10);

/// The widest mode of a socket file: read, write and execute for everybody.
pub const MODE_MAX: u32 = 0o777;

/// Everything `spliceway run` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What is served; at least one. Their names differ, and so do their listeners.
    pub routes: Vec<Route>,
    /// Worker threads; `None` means one per core that this process may use.
    pub workers: Option<NonZeroUsize>,
    /// Pin each worker to a core of its own.
    pub pin: bool,
    /// How long a worker that has nothing to do looks for something before it sleeps. `None`: not at all.
    pub busy_poll: Option<Duration>,
    /// Which driver the workers use.
    pub engine: Engine,
    /// The most sessions that are open at one time, over all workers and routes.
    pub connections_max: u32,
    /// The most of them that one user may have.
    pub user_connections_max: Part,
    /// What becomes of further clients.
    pub at_limit: AtLimit,
    /// How long a drain waits for running sessions before it cuts them. `None`: for ever.
    pub drain_timeout: Option<Duration>,
    /// After this time without a session, the daemon drains and ends. `None`: never.
    pub exit_idle_time: Option<Duration>,
    /// The Unix socket on which `spliceway status` asks, and commands come. `None`: there is none.
    pub control: Option<PathBuf>,
    /// Where metrics and probes are answered over HTTP. `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Whether the status page shows there what clients send.
    pub status_details: bool,
    /// As whom the daemon runs once everything is bound. `None`: as who started it.
    pub user: Option<RunAs>,
}

/// A configuration, as it was read: what the daemon may rely on, what it says of itself, and how both were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What the daemon needs.
    pub config: Config,
    /// What it says of itself.
    pub logging: Logging,
    /// Both as they were written.
    pub effective: Effective,
}

/// Whom the daemon becomes, as `USER` or `USER:GROUP`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// The user.
    pub user: Account,
    /// Its only group. `None`: the groups that the system's database has for the user.
    pub group: Option<Account>,
}

impl FromStr for RunAs {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Ok(Self {
            user: user.parse()?,
            group: group.map(str::parse).transpose()?,
        })
    }
}

/// The form that [`FromStr`] reads.
impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => self.user.fmt(f),
        }
    }
}

/// Mode and ownership of the socket files that the daemon creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits, at most 0o777.
    pub mode: u32,
    /// The file's user; `None` leaves the process's own.
    pub owner: Option<Account>,
    /// The file's group; `None` leaves the process's own.
    pub group: Option<Account>,
}

impl Access {
    /// What a socket file gets unless something else is asked for: user and group connect, nobody
    /// else does.
    pub const MODE_DEFAULT: u32 = 0o660;
}

impl Default for Access {
    fn default() -> Self {
        Self {
            mode: Self::MODE_DEFAULT,
            owner: None,
            group: None,
        }
    }
}

/// A user or a group as it was given: ids need no lookup and work where names are unknown
/// (containers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// To be looked up in the system's user or group database.
    Name(String),
    /// Taken as it is.
    Id(u32),
}

/// Why a text names no user or group, and how to write it right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// Digits that are no id. The largest number of 32 bits is none: chown(2) takes it for "leave
    /// it".
    #[error("the number is too large for an id (use at most {})", u32::MAX - 1)]
    IdTooLarge,
    /// `user:group`, as chown(1) takes it.
    #[error("one name is expected (write it without a colon)")]
    Pair,
    /// Nothing, or a text with a character that the databases cannot hold.
    #[error("not the name of an account (write a name or a number)")]
    InvalidName,
}

impl FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        if text.is_empty() || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(AccountError::InvalidName);
        }
        if text.contains(':') {
            return Err(AccountError::Pair);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(text.to_owned()));
        }
        match text.parse() {
            Ok(id) if id != u32::MAX => Ok(Self::Id(id)),
            _ => Err(AccountError::IdTooLarge),
        }
    }
}

/// The form that [`FromStr`] reads.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

/// Which driver moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// io_uring where the system allows it, else epoll with one log line that says why.
    Auto,
    /// io_uring or an error.
    #[value(name = "io_uring")]
    IoUring,
    /// epoll.
    Epoll,
}

/// What one of several may have of all that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Most of it, where there are others.
    Most,
    /// All of it.
    All,
    /// So much.
    Number(NonZeroU32),
}

/// What becomes of clients that come when as many are there as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtLimit {
    /// They are not accepted, and wait in the sockets' backlogs.
    Wait,
    /// They are accepted and closed.
    Refuse,
}

/// What the daemon says of itself, and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// The form of a line.
    pub format: LogFormat,
    /// Which lines there are.
    pub filter: LogFilter,
}

/// The form of a log line on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text for each event, coloured if standard error is a terminal.
    Text,
    /// One JSON object for each event.
    Json,
}

/// A level, or directives for `tracing`'s `EnvFilter`, such as `info,spliceway::resolver=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

/// Why a text is no log filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFilterError {
    /// A word that is no level. `EnvFilter` would take it for a module's name, say everything
    /// about that and nothing about the rest: a typo would silence the log.
    #[error("no level '{word}' (write off, error, warn, info, debug, trace or MODULE=LEVEL)")]
    NoLevel {
        /// What stands where a level belongs.
        word: String,
    },
    /// Directives that `EnvFilter` does not take.
    #[error("{cause} (write a level or MODULE=LEVEL, with commas between several)")]
    Directive {
        /// What `EnvFilter` said.
        cause: String,
    },
}

impl LogFilter {
    /// The directives as they were given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, LogFilterError> {
        let is_directive = |word: &str| word.contains(['=', '[']);
        // `LevelFilter` takes an empty text for a level, too.
        let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
        // A comma within brackets separates fields: such a text is left to EnvFilter altogether.
        let mut words = text.split(',').filter(|_| !text.contains('['));
        if let Some(word) = words.find(|word| !is_directive(word) && !is_level(word)) {
            return Err(LogFilterError::NoLevel {
                word: word.to_owned(),
            });
        }
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(LogFilterError::Directive {
                cause: error.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_names_or_numbers() {
        for (text, expected) in [
            ("nginx", Ok(Account::Name("nginx".to_owned()))),
            ("www-data", Ok(Account::Name("www-data".to_owned()))),
            ("1a", Ok(Account::Name("1a".to_owned()))),
            ("0", Ok(Account::Id(0))),
            ("4294967294", Ok(Account::Id(u32::MAX - 1))),
            ("4294967295", Err(AccountError::IdTooLarge)),
            ("99999999999", Err(AccountError::IdTooLarge)),
            ("nginx:nginx", Err(AccountError::Pair)),
            ("", Err(AccountError::InvalidName)),
            ("a b", Err(AccountError::InvalidName)),
            ("a\0", Err(AccountError::InvalidName)),
        ] {
            assert_eq!(text.parse(), expected, "{text:?}");
            if let Ok(account) = text.parse::<Account>() {
                assert_eq!(account.to_string(), text);
            }
        }
    }

    #[test]
    fn whom_to_run_as_is_a_user_with_or_without_a_group() {
        for text in ["nginx", "33", "nginx:www-data", "33:34", "nginx:0"] {
            assert_eq!(text.parse::<RunAs>().unwrap().to_string(), text);
        }
        for (text, error) in [
            ("", AccountError::InvalidName),
            (":www-data", AccountError::InvalidName),
            ("nginx:", AccountError::InvalidName),
            ("a:b:c", AccountError::Pair),
            ("4294967295", AccountError::IdTooLarge),
        ] {
            assert_eq!(text.parse::<RunAs>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn log_filters_are_levels_or_directives() {
        for text in [
            "info",
            "off",
            "DEBUG",
            "info,spliceway::resolver=debug",
            "spliceway=trace",
            "info,[session{id=1}]=trace",
        ] {
            assert_eq!(text.parse::<LogFilter>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_mistyped_level_is_refused() {
        for (text, word) in [("inof", "inof"), ("", ""), ("info,dbug", "dbug")] {
            let expected = LogFilterError::NoLevel {
                word: word.to_owned(),
            };
            assert_eq!(text.parse::<LogFilter>(), Err(expected), "{text:?}");
        }
        let error = "spliceway=inof".parse::<LogFilter>();
        assert!(
            matches!(error, Err(LogFilterError::Directive { .. })),
            "{error:?}"
        );
    }
}
