//! How the addresses behind names are found, and for how long an answer is believed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

/// The most name servers: the C library takes three. Where they race, all of them are asked every time, each
/// through a socket of its own.
pub const NAME_SERVERS_MAX: usize = 8;

/// The shortest `--dns-min-ttl`. Ten queries a second for one name are for tests and for name servers
/// that one runs oneself.
pub const DNS_TTL_FLOOR: Duration = Duration::from_millis(100);

/// The port of name servers (RFC 1035, section 4.2).
const DNS_PORT: u16 = 53;

/// How backends' names are looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// Asked instead of those in resolv.conf, whose search domains stay; empty: those in resolv.conf.
    pub name_servers: Vec<NameServer>,
    /// All of them are asked at once, instead of one after the other.
    pub race: bool,
    /// Who does it.
    pub resolve_with: ResolveWith,
    /// How long answers are believed.
    pub times: RefreshTimes,
}

/// Who looks names up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ResolveWith {
    /// The program itself: the hosts file, then name servers, each answer for as long as it says.
    #[default]
    Dns,
    /// The C library's getaddrinfo(3) with all that nsswitch.conf(5) has. It tells no lifetime.
    System,
}

/// How long answers are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshTimes {
    /// The shortest time between two lookups of a name that resolves.
    pub ttl_min: Duration,
    /// The longest time between two lookups of a name that resolves.
    pub ttl_max: Duration,
    /// How long addresses are kept after name servers began to say that there are none.
    pub negative_hold: Duration,
    /// How long an address is kept that is missing from an answer with others.
    pub keep_missing: Duration,
}

impl RefreshTimes {
    /// TTL 0 is legal and common behind DNS-based load balancers; one query a second is what a single
    /// client may ask of a name server without being noticed.
    pub const TTL_MIN_DEFAULT: Duration = Duration::from_secs(1);

    /// The TTL of the large cloud load balancers; a longer one only says that the operator expects no
    /// change, and who moves a service by hand should not have to wait for an hour.
    pub const TTL_MAX_DEFAULT: Duration = Duration::from_secs(60);

    /// Kubernetes denies a service whose endpoints are all restarting, so it must be survived for a
    /// while; but an address that was given up may soon belong to somebody else, so not for ever.
    pub const NEGATIVE_HOLD_DEFAULT: Duration = Duration::from_secs(60);
}

impl Default for RefreshTimes {
    fn default() -> Self {
        Self {
            ttl_min: Self::TTL_MIN_DEFAULT,
            ttl_max: Self::TTL_MAX_DEFAULT,
            negative_hold: Self::NEGATIVE_HOLD_DEFAULT,
            keep_missing: Duration::ZERO,
        }
    }
}

/// Where a name server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameServer(pub SocketAddr);

/// Why a text is no name server, and how to write it right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameServerError {
    /// Something else than an address: a name would have to be looked up first.
    #[error("not an address (write ADDRESS or ADDRESS:PORT, for example 192.0.2.53 or [::1]:5353)")]
    NotAnAddress,
    /// `:0`
    #[error("port 0 cannot be asked (write a number from 1 to 65535)")]
    PortZero,
}

impl FromStr for NameServer {
    type Err = NameServerError;

    fn from_str(text: &str) -> Result<Self, NameServerError> {
        let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
        let without_port = text.parse().ok().or_else(|| bracketed().map(IpAddr::V6));
        let address = match without_port {
            Some(ip) => SocketAddr::new(ip, DNS_PORT),
            None => text.parse().map_err(|_| NameServerError::NotAnAddress)?,
        };
        match address.port() {
            0 => Err(NameServerError::PortZero),
            _ => Ok(Self(address)),
        }
    }
}

/// The form that [`FromStr`] reads, always with its port.
impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_addresses_with_or_without_a_port() {
        for (text, expected) in [
            ("192.0.2.53", "192.0.2.53:53"),
            ("192.0.2.53:5353", "192.0.2.53:5353"),
            ("::1", "[::1]:53"),
            ("[::1]", "[::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
        ] {
            let server: NameServer = text.parse().unwrap();
            assert_eq!(server.to_string(), expected, "{text:?}");
            assert_eq!(expected.parse(), Ok(server));
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for text in [
            "",
            "dns.example",
            "192.0.2.53:",
            "192.0.2.53:x",
            "[192.0.2.53]",
            ":53",
        ] {
            let error = text.parse::<NameServer>();
            assert_eq!(error, Err(NameServerError::NotAnAddress), "{text:?}");
        }
        let error = "192.0.2.53:0".parse::<NameServer>();
        assert_eq!(error, Err(NameServerError::PortZero));
    }
}
