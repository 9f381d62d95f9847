//! What a running daemon can be told over its control socket: the commands, and how each ends.
//!
//! ```text
//!   spliceway reload ─▶ POST /command ─┐ Commander        Commands
//!                                      ├─────────▶ queue ─────────▶ the main loop
//!                  SIGHUP, SIGUSR2 ────┘ ◀──────── Reply ◀─────────
//! ```
//!
//! The main loop carries commands out, one after the other, and gives each its answer: at once, or when what the
//! command waits for has come. The types are here, their form as JSON is in [`wire`], and the way to the main loop
//! in [`mod@channel`].

mod channel;
mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::config::RouteName;

pub(crate) use channel::{Arrival, Asked, Asker, Commander, Commands, channel};
pub(crate) use wire::{
    COMMAND_BYTES_MAX, REPLY_BYTES_MAX, command_from_json, command_to_json, reply_from_json,
    reply_to_json,
};

/// How long a pause lasts at most unless something else is said: a deploy that dies in the middle must not leave a
/// site down.
pub(crate) const PAUSE_DEFAULT: Duration = Duration::from_secs(60);

/// How long a successor may take until it could serve. A start looks names of users and backends up, and makes what it
/// serves with: some seconds at the most, but on a machine that is busy or whose disk is.
pub(crate) const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(60);

/// What the daemon is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ControlCommand {
    /// Take the configuration over as it is now.
    Reload,
    /// Start the program anew, as it is now, and let the new process take over.
    Upgrade,
    /// Give an endpoint nothing new.
    Drain {
        /// The route that it belongs to.
        route: RouteName,
        /// Which one.
        endpoint: EndpointAddress,
        /// The answer waits for so long at most until nothing runs there any more. `None`: not at all.
        wait: Option<Duration>,
    },
    /// Give it something again.
    Undrain {
        /// The route that it belongs to.
        route: RouteName,
        /// Which one.
        endpoint: EndpointAddress,
    },
    /// Give it another part of what is new.
    Weight {
        /// The route that it belongs to.
        route: RouteName,
        /// Which one.
        endpoint: EndpointAddress,
        /// As in an SRV record.
        weight: u16,
    },
    /// Let what comes wait, and what runs finish.
    Pause {
        /// Which one.
        route: RouteName,
        /// The answer waits for so long at most until nothing runs any more. `None`: not at all.
        wait: Option<Duration>,
        /// After this time the route goes on by itself.
        resume_after: Duration,
    },
    /// Go on.
    Resume {
        /// Which one.
        route: RouteName,
    },
}

impl ControlCommand {
    /// Its name, as on the command line.
    #[must_use]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Upgrade => "upgrade",
            Self::Drain { .. } => "drain",
            Self::Undrain { .. } => "undrain",
            Self::Weight { .. } => "weight",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
        }
    }

    /// How long its answer may wait for what it is about to happen.
    #[must_use]
    pub(crate) fn wait(&self) -> Duration {
        match self {
            Self::Drain { wait, .. } | Self::Pause { wait, .. } => wait.unwrap_or_default(),
            Self::Upgrade => SUCCESSOR_TIMEOUT,
            Self::Reload | Self::Undrain { .. } | Self::Weight { .. } | Self::Resume { .. } => {
                Duration::ZERO
            }
        }
    }
}

/// As on the command line, without options.
impl fmt::Display for ControlCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Reload | Self::Upgrade => Ok(()),
            Self::Drain {
                route, endpoint, ..
            }
            | Self::Undrain { route, endpoint } => write!(f, " {route} {endpoint}"),
            Self::Weight {
                route,
                endpoint,
                weight,
            } => write!(f, " {route} {endpoint} {weight}"),
            Self::Pause { route, .. } | Self::Resume { route } => write!(f, " {route}"),
        }
    }
}

/// An endpoint of a route, written as `spliceway status` shows it: `IP:PORT`, `[IPv6]:PORT`, `unix:/PATH` or
/// `unix:@NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndpointAddress {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket, with its scheme. It is compared with what addresses look like: names of sockets live as long
    /// as the process, and what somebody writes must not.
    Unix(String),
}

/// Why a text names no endpoint, and how to write it right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an endpoint (write it as 'spliceway status' shows it, such as 192.0.2.1:9000)")]
pub(crate) struct EndpointAddressError;

impl EndpointAddress {
    /// Whether this is the one that is meant.
    #[must_use]
    pub(crate) fn is(&self, address: Address) -> bool {
        match (self, address) {
            (Self::Tcp(meant), Address::Tcp(address)) => *meant == address,
            (Self::Unix(meant), Address::Unix(name)) => *meant == name.to_string(),
            (Self::Tcp(_), Address::Unix(_)) | (Self::Unix(_), Address::Tcp(_)) => false,
        }
    }
}

impl FromStr for EndpointAddress {
    type Err = EndpointAddressError;

    fn from_str(text: &str) -> Result<Self, EndpointAddressError> {
        if let Some(name) = text.strip_prefix("unix:") {
            // Others are shown escaped.
            let is_shown = name.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            return match name.starts_with(['/', '@']) && is_shown {
                true => Ok(Self::Unix(text.to_owned())),
                false => Err(EndpointAddressError),
            };
        }
        let address = text.strip_prefix("tcp:").unwrap_or(text);
        address
            .parse()
            .map(Self::Tcp)
            .map_err(|_| EndpointAddressError)
    }
}

/// The form that [`FromStr`] reads.
impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(text) => f.write_str(text),
        }
    }
}

/// How a command ended, and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ControlReply {
    /// Which decides on the exit code of whoever asked.
    pub(crate) outcome: ControlOutcome,
    /// For people, each of one line.
    pub(crate) lines: Vec<String>,
}

/// How a command ended. The exit codes are those of `spliceway check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ControlOutcome {
    /// It was carried out: exit code 0.
    Done,
    /// It could not be carried out, or what it waited for did not come: exit code 1.
    Refused,
    /// It is wrong, or the configuration is: exit code 2.
    Mistaken,
}

impl ControlReply {
    /// It was carried out.
    #[must_use]
    pub(crate) fn done(lines: impl IntoIterator<Item = String>) -> Self {
        Self::new(ControlOutcome::Done, lines)
    }

    /// It could not be carried out.
    #[must_use]
    pub(crate) fn refused(lines: impl IntoIterator<Item = String>) -> Self {
        Self::new(ControlOutcome::Refused, lines)
    }

    /// It is wrong.
    #[must_use]
    pub(crate) fn mistaken(lines: impl IntoIterator<Item = String>) -> Self {
        Self::new(ControlOutcome::Mistaken, lines)
    }

    fn new(outcome: ControlOutcome, lines: impl IntoIterator<Item = String>) -> Self {
        let lines = lines.into_iter().collect();
        Self { outcome, lines }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::net::{UnixKind, UnixName};

    #[test]
    fn endpoints_are_written_as_a_status_shows_them() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        let unix = |name: &[u8], kind| Address::Unix(UnixName::new(name, kind));
        let all = [
            tcp("192.0.2.1:9000"),
            tcp("192.0.2.1:9001"),
            tcp("[2001:db8::1]:9000"),
            unix(b"/run/a.sock", UnixKind::Path),
            unix(b"/run/\xff.sock", UnixKind::Path),
            unix(b"a", UnixKind::Abstract),
        ];
        for meant in all {
            let named: EndpointAddress = meant.to_string().parse().unwrap();
            assert_eq!(named.to_string(), meant.to_string());
            for other in all {
                assert_eq!(named.is(other), meant == other, "{named}, {other}");
            }
        }
        let with_scheme: EndpointAddress = "tcp:192.0.2.1:9000".parse().unwrap();
        assert!(with_scheme.is(all[0]));
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            "192.0.2.1",
            "app.internal:9000",
            "2001:db8::1:9000",
            "unix:",
            "unix:run/a.sock",
            "unix:/run/a\n.sock",
            "tcp:",
            "192.0.2.1:99999",
        ] {
            assert_eq!(
                text.parse::<EndpointAddress>(),
                Err(EndpointAddressError),
                "{text:?}"
            );
        }
    }
}
