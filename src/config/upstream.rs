//! How connections to endpoints are made, what goes before the client's bytes, and what becomes of
//! them when their endpoint leaves the set.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use crate::proxy_protocol::Version;

/// The shortest time for `--tcp-keepalive`: the kernel counts in seconds.
pub const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

/// The longest one: the kernel takes at most 32,767 seconds (`MAX_TCP_KEEPIDLE`).
pub const KEEPALIVE_MAX: Duration = Duration::from_secs(9 * 60 * 60);

/// The longest time for `--tcp-user-timeout`: the kernel takes milliseconds in an `int`, which is 24.8
/// days.
pub const USER_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 24 * 60 * 60);

/// How upstreams are made and kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstreams {
    /// An idle connection is probed after this time. `None`: never.
    pub tcp_keepalive: Option<Duration>,
    /// A connection is broken when sent bytes are not acknowledged for this long. `None`: the
    /// kernel's own limit.
    pub tcp_user_timeout: Option<Duration>,
    /// Where connections come from.
    pub source: SourceAddresses,
    /// What a backend is told before the client's bytes.
    pub proxy_protocol: ProxyProtocol,
    /// How long sessions go on after their endpoint has left the set. `None`: for ever.
    pub close_removed_after: Option<Duration>,
    /// Whether and how endpoints are checked.
    pub checks: Option<ActiveChecks>,
    /// What becomes of clients while no endpoint takes connections.
    pub when_down: WhenDown,
}

/// What becomes of a route's clients while none of its endpoints takes connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WhenDown {
    /// They wait for one, each for its time.
    #[default]
    Wait,
    /// They are closed at once.
    Close,
    /// Nobody is let in: the route's sockets are away from their paths. Who has come before is closed at once.
    Refuse,
}

/// The local addresses of connections, at most one for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceAddresses {
    /// Towards IPv4 endpoints.
    pub v4: Option<Ipv4Addr>,
    /// Towards IPv6 endpoints.
    pub v6: Option<Ipv6Addr>,
}

impl SourceAddresses {
    /// The addresses that there are.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(IpAddr::from);
        v4.into_iter().chain(self.v6.map(IpAddr::from))
    }

    /// Whether endpoints with this address can be connected to.
    #[must_use]
    pub fn reach(self, endpoint: IpAddr) -> bool {
        match endpoint {
            IpAddr::V4(_) => self.v4.is_some() || self.v6.is_none(),
            IpAddr::V6(_) => self.v6.is_some() || self.v4.is_none(),
        }
    }
}

/// An address of this machine that a connection can come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceAddress(pub IpAddr);

/// Why a text is no source address, and how to write it right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceAddressError {
    /// A name, or an address with a port: ports are chosen by the kernel.
    #[error("not an address (write an IP address without a port, for example 192.0.2.10)")]
    NotAnAddress,
    /// `0.0.0.0` or `::`, which mean any address, or one that nobody has.
    #[error("not an address of one machine (write one of this machine's)")]
    NotOfOneMachine,
}

impl FromStr for SourceAddress {
    type Err = SourceAddressError;

    fn from_str(text: &str) -> Result<Self, SourceAddressError> {
        let ip: IpAddr = text.parse().map_err(|_| SourceAddressError::NotAnAddress)?;
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(SourceAddressError::NotOfOneMachine);
        }
        Ok(Self(ip))
    }
}

/// Whether backends get a header of the PROXY protocol, and which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProxyProtocol {
    /// None.
    #[default]
    Off,
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyProtocol {
    /// The version that is asked for.
    #[must_use]
    pub fn version(self) -> Option<Version> {
        match self {
            Self::Off => None,
            Self::V1 => Some(Version::V1),
            Self::V2 => Some(Version::V2),
        }
    }
}

/// Active checks of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveChecks {
    /// What they ask for.
    pub kind: CheckKind,
    /// How often.
    pub interval: Duration,
}

/// What a check asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// A connection.
    Tcp,
    /// An answer to FCGI_GET_VALUES.
    Fastcgi,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_addresses_of_one_machine() {
        for text in ["192.0.2.10", "127.0.0.1", "2001:db8::1"] {
            assert_eq!(text.parse(), Ok(SourceAddress(text.parse().unwrap())));
        }
        for text in ["", "host", "192.0.2.10:80", "[::1]"] {
            let error = Err(SourceAddressError::NotAnAddress);
            assert_eq!(text.parse::<SourceAddress>(), error, "{text:?}");
        }
        for text in ["0.0.0.0", "::", "224.0.0.1"] {
            let error = Err(SourceAddressError::NotOfOneMachine);
            assert_eq!(text.parse::<SourceAddress>(), error, "{text:?}");
        }
    }

    #[test]
    fn a_source_of_one_family_reaches_that_family_only() {
        let (v4, v6) = (IpAddr::from([192, 0, 2, 1]), "::1".parse().unwrap());
        let reach = |source: SourceAddresses| (source.reach(v4), source.reach(v6));
        let one = SourceAddresses {
            v4: Some(Ipv4Addr::LOCALHOST),
            v6: None,
        };
        let both = SourceAddresses {
            v6: Some(Ipv6Addr::LOCALHOST),
            ..one
        };
        assert_eq!(reach(SourceAddresses::default()), (true, true));
        assert_eq!(reach(one), (true, false));
        assert_eq!(reach(both), (true, true));
    }
}
