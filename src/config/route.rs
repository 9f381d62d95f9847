//! A route: listeners, the backends behind them, and how the ones are connected with the others.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use super::{
    Access, Account, Backend, Balance, Discovery, Ejection, ListenAddress, Part, RouteProtocol,
    Upstreams,
};

/// The longest name of a route: as long as the longest label of a host name, and one more. It is a part
/// of log lines and of every metric.
pub const ROUTE_NAME_BYTES_MAX: usize = 64;

/// One of the things that a daemon serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What logs and metrics call it.
    pub name: RouteName,
    /// What it makes of the bytes that it relays.
    pub protocol: RouteProtocol,
    /// Where clients connect; at least one.
    pub listeners: Vec<ListenAddress>,
    /// Who may connect to the path listeners.
    pub access: Access,
    /// Which of those that can connect are served.
    pub clients: Clients,
    /// Where sessions go; at least one.
    pub backends: Vec<Backend>,
    /// How the addresses behind their names are found.
    pub discovery: Discovery,
    /// How connections to their endpoints are made and kept.
    pub upstreams: Upstreams,
    /// How sessions are spread over them.
    pub balance: Balance,
    /// When one of them is left out.
    pub ejection: Ejection,
    /// How long a client may wait for an open backend connection, name lookup included.
    pub connect_timeout: Duration,
    /// How long refusals are waited out while every endpoint refuses, counted from the first one in a row.
    /// `None`: for as long as a client may wait at all.
    pub refused_timeout: Option<Duration>,
    /// A session without a byte in either direction for this long is ended. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// The same, where one side has ended. `None`: never, and not at the limit on sessions either.
    pub half_closed_timeout: Option<Duration>,
    /// The most sessions of all that it may have.
    pub connections_max: Part,
    /// How much its endpoints take, and who waits meanwhile.
    pub limits: ConnectionLimits,
}

/// Which clients of a route are served, by the credentials of the process that connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// These users are. Without users and groups, everybody is.
    pub users: Vec<Account>,
    /// And the members of these groups.
    pub groups: Vec<Account>,
    /// The most connections of one user at one time, over all workers. `None`: no limit.
    pub per_user_max: Option<NonZeroU32>,
}

/// What a route is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteName(String);

/// Why a text is no name for a route, and how to write it right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteNameError {
    /// Nothing.
    #[error("the name of the route is empty (write for example [route.php])")]
    Empty,
    /// More bytes than metrics should carry.
    #[error(
        "{length} bytes are too long for the name of a route (use at most {ROUTE_NAME_BYTES_MAX})"
    )]
    TooLong {
        /// The bytes of the name.
        length: usize,
    },
    /// A character that would have to be escaped somewhere.
    #[error(
        "{character:?} cannot be in the name of a route (use letters from a to z, digits, '_', '-' \
         and '.')"
    )]
    InvalidCharacter {
        /// The first such character.
        character: char,
    },
}

impl RouteName {
    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of the one route that the command line describes.
impl Default for RouteName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for RouteName {
    type Err = RouteNameError;

    fn from_str(text: &str) -> Result<Self, RouteNameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if let Some(character) = text.chars().find(|c| !allowed(*c)) {
            return Err(RouteNameError::InvalidCharacter { character });
        }
        match text.len() {
            0 => Err(RouteNameError::Empty),
            1..=ROUTE_NAME_BYTES_MAX => Ok(Self(text.to_owned())),
            length => Err(RouteNameError::TooLong { length }),
        }
    }
}

/// The form that [`FromStr`] reads.
impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The most open connections to each endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointMax {
    /// So many.
    Fixed(NonZeroU32),
    /// As many as there are found to be workers for.
    Auto(AutoRange),
}

impl EndpointMax {
    /// There are never more.
    #[must_use]
    pub fn most(self) -> NonZeroU32 {
        match self {
            Self::Fixed(number) => number,
            Self::Auto(range) => range.most,
        }
    }

    /// There may always be so many.
    #[must_use]
    pub fn least(self) -> NonZeroU32 {
        match self {
            Self::Fixed(number) => number,
            Self::Auto(range) => range.least,
        }
    }

    /// The number, if it is one.
    #[must_use]
    pub fn fixed(self) -> Option<NonZeroU32> {
        match self {
            Self::Fixed(number) => Some(number),
            Self::Auto(_) => None,
        }
    }
}

/// The form of the option's value.
impl fmt::Display for EndpointMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(number) => number.fmt(f),
            Self::Auto(range) => write!(f, "auto:{}-{}", range.least, range.most),
        }
    }
}

/// The bounds of a number that is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoRange {
    least: NonZeroU32,
    most: NonZeroU32,
    /// How many there are that find out a part of it each.
    parts: NonZeroU32,
}

impl AutoRange {
    /// From one number to another. `None`: that is none.
    #[must_use]
    pub fn new(least: u32, most: u32) -> Option<Self> {
        let (least, most) = (NonZeroU32::new(least)?, NonZeroU32::new(most)?);
        let parts = NonZeroU32::MIN;
        (least <= most).then_some(Self { least, most, parts })
    }

    /// One of so many parts.
    #[must_use]
    pub fn one_of(self, parts: NonZeroU32) -> Self {
        Self { parts, ..self }
    }

    /// What there is of so many workers for this part.
    #[must_use]
    pub fn part_of(self, workers: u32) -> u32 {
        workers / self.parts
    }

    /// The least.
    #[must_use]
    pub fn least(self) -> u32 {
        self.least.get()
    }

    /// The most.
    #[must_use]
    pub fn most(self) -> u32 {
        self.most.get()
    }

    /// The nearest number within.
    #[must_use]
    pub fn clamp(self, number: u32) -> u32 {
        number.clamp(self.least(), self.most())
    }
}

/// A pool of PHP-FPM mostly has fewer workers than 64, and each one that is found is one that others cannot use.
impl Default for AutoRange {
    fn default() -> Self {
        Self {
            least: NonZeroU32::MIN,
            most: NonZeroU32::MIN.saturating_add(63),
            parts: NonZeroU32::MIN,
        }
    }
}

/// The order in which those who wait are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QueueOrder {
    /// First come, first served.
    Fifo,
    /// The same while they are served soon. While they are not, newest first, and requests that have waited for long are
    /// answered without having been served.
    Adaptive,
}

/// How much the endpoints of a route take, and who waits meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The most open connections to an endpoint. `None`: no limit, and nobody waits.
    pub per_endpoint_max: Option<EndpointMax>,
    /// The most clients that wait at one time. 0: nobody waits.
    pub queue_max: u32,
    /// How long a client waits. `None`: for ever.
    pub queue_timeout: Option<Duration>,
    /// In which order, and for how long while too many do.
    pub queue_order: QueueOrder,
    /// How many workers share the route, and with it the permits of each endpoint: no more than there
    /// are. 1 without [`Self::per_endpoint_max`], where all workers serve it.
    pub shards: NonZeroUsize,
}

impl ConnectionLimits {
    /// With 8 permits and 100 ms for a request, the last of so many waits for 13 s: what comes behind it
    /// would only meet [`Self::QUEUE_TIMEOUT_DEFAULT`].
    pub const QUEUE_MAX_DEFAULT: u32 = 1024;

    /// nginx gives a FastCGI server 60 s for its answer (`fastcgi_read_timeout`): most of them should be
    /// left for the work.
    pub const QUEUE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

    /// What a shard has of so many of something. The parts of all shards are the whole, and none has two more than
    /// another.
    #[must_use]
    pub fn part(whole: u32, shards: NonZeroUsize, shard: usize) -> u32 {
        let shards = u32::try_from(shards.get()).unwrap_or(u32::MAX);
        let shard = u32::try_from(shard).unwrap_or(u32::MAX);
        whole / shards + u32::from(shard < whole % shards)
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            per_endpoint_max: None,
            queue_max: Self::QUEUE_MAX_DEFAULT,
            queue_timeout: Some(Self::QUEUE_TIMEOUT_DEFAULT),
            queue_order: QueueOrder::Fifo,
            shards: NonZeroUsize::MIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_shards_are_the_whole() {
        let parts = |whole, shards| {
            let part =
                |shard| ConnectionLimits::part(whole, NonZeroUsize::new(shards).unwrap(), shard);
            (0..shards).map(part).collect::<Vec<_>>()
        };
        assert_eq!(parts(8, 1), [8]);
        assert_eq!(parts(8, 3), [3, 3, 2]);
        assert_eq!(parts(1, 3), [1, 0, 0]);
    }

    #[test]
    fn names_of_routes_are_words() {
        let longest = "a".repeat(64);
        for text in ["php", "php-fpm_8.2", "0", "A", &longest] {
            assert_eq!(text.parse::<RouteName>().unwrap().as_str(), text);
        }
        assert_eq!("default".parse(), Ok(RouteName::default()));
    }

    #[test]
    fn what_would_have_to_be_escaped_is_no_name() {
        assert_eq!("".parse::<RouteName>(), Err(RouteNameError::Empty));
        for (text, character) in [("a b", ' '), ("a\nb", '\n'), ("ä", 'ä'), ("a\"", '"')] {
            let error = Err(RouteNameError::InvalidCharacter { character });
            assert_eq!(text.parse::<RouteName>(), error, "{text:?}");
        }
        let error = Err(RouteNameError::TooLong { length: 65 });
        assert_eq!("a".repeat(65).parse::<RouteName>(), error);
    }
}
