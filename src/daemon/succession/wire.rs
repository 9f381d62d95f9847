//! What two daemons say to each other while one takes the other's place.
//!
//! Versions need not match. A message that is not known is ignored, with the descriptors that came with it, and so is
//! a field that is not known; a field that is missing has its default. What must not be ignored makes another
//! [`SCHEMA`], and is refused. `tests/upgrade/` has a transcript of this version, which later ones must understand.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::config::Fastcgi;
use crate::driver::BUFFER_BYTES;
use crate::sys::net::{UnixKind, UnixName};

use super::super::listening::Place;

/// The number of this protocol.
pub(super) const SCHEMA: u32 = 1;

/// Bytes of a message. The largest have the addresses of a route: 4,096 at the most, each of some 100 bytes, with the
/// longest path of a Unix socket five times as many; or what was read of a client, see [`ReadBytes`].
pub(super) const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// All that is read of a client before its request goes to a backend fits into a message, with much to spare: the
/// parameters, a buffer of what is behind them, and what makes them records.
const _: () = {
    let read_max = Fastcgi::PARAMS_MAX_CEILING + 4 * BUFFER_BYTES;
    assert!(2 * read_max + (64 << 10) <= MESSAGE_BYTES_MAX);
};

/// One thing that is said. The predecessor is the daemon that serves; the successor is the one that comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Message {
    /// First, by the successor and then by the predecessor.
    Hello(Hello),
    /// By the predecessor, with the socket's descriptor.
    Socket(SocketOffer),
    /// By the predecessor: what it knows of a route's endpoints.
    Route(RouteOffer),
    /// By the predecessor: that was all.
    Offered,
    /// By the successor: all that can fail has been done.
    Ready(Ready),
    /// By the predecessor: which of a route's permits are its own, now and for as long as it runs. With the end of the
    /// connection none are.
    Held(Held),
    /// By the predecessor: it accepts no more clients, and the sockets are the successor's.
    Yours,
    /// By the successor: it listens, and accepts clients as soon as it hears that this was heard.
    Serving,
    /// By the predecessor: it has heard that, and drains.
    Relieved,
    /// By the predecessor, with the client's descriptor: one that waits, or has not sent a request.
    Client(ClientOffer),
    /// By the predecessor: it does not come to that, and why.
    Refused {
        /// For people.
        line: String,
    },
    /// What another version has to say.
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) schema: u32,
    pub(super) version: String,
    pub(super) pid: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SocketOffer {
    /// By which it is taken.
    pub(super) number: u32,
    pub(super) purpose: Purpose,
    /// Where it listens, for people: the kernel has the truth.
    pub(super) place: String,
    /// Its file, if the predecessor made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<FileOffer>,
    /// What it is called, if the service manager has passed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) passed_as: Option<String>,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Purpose {
    Clients,
    Control,
    Metrics,
    /// Another version's.
    #[serde(other)]
    Unknown,
}

/// Which file a socket has, and whom it was made for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FileOffer {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) mode: u32,
    pub(super) user: u32,
    pub(super) group: u32,
    /// As they were configured: a user's name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner_option: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group_option: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RouteOffer {
    pub(super) route: String,
    /// The last good ones.
    #[serde(default)]
    pub(super) endpoints: Vec<EndpointOffer>,
    /// What was changed by hand.
    #[serde(default)]
    pub(super) by_hand: Vec<ByHandOffer>,
    /// No endpoint takes connections, and clients are not to wait for one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) down: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EndpointOffer {
    pub(super) address: WireAddress,
    #[serde(default)]
    pub(super) priority: u16,
    #[serde(default = "one")]
    pub(super) weight: u16,
}

fn one() -> u16 {
    1
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ByHandOffer {
    pub(super) address: WireAddress,
    #[serde(default)]
    pub(super) drained: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Ready {
    /// The numbers of the sockets that it takes.
    pub(super) takes: Vec<u32>,
    /// The routes whose clients it takes as well, if they wait: those that it has.
    #[serde(default)]
    pub(super) clients: Vec<String>,
    /// Those of them of which it takes clients as well of whose next request something was read
    /// ([`ClientOffer::read`]): those that speak FastCGI. By one that does not know of that, what was read would be lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) reads: Vec<String>,
}

/// How many connections the predecessor may have of a route, itself and whomever it has taken over from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) route: String,
    /// Of each endpoint that is not named.
    #[serde(default)]
    pub(super) of_others: u32,
    #[serde(default)]
    pub(super) endpoints: Vec<HeldEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HeldEndpoint {
    pub(super) address: WireAddress,
    pub(super) count: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ClientOffer {
    pub(super) route: String,
    /// Where it connected to, which its backend may be told; none if that has no address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<WireAddress>,
    /// What was read of it and not acted on: it comes before what its socket has.
    #[serde(default, skip_serializing_if = "ReadBytes::is_empty")]
    pub(super) read: ReadBytes,
}

/// What was read of a client: a text of two hexadecimal digits for each byte, where an array of numbers would have up to
/// four characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct ReadBytes(pub(super) Vec<u8>);

impl ReadBytes {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<ReadBytes> for String {
    fn from(ReadBytes(bytes): ReadBytes) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |four_bits: u8| char::from(DIGITS[usize::from(four_bits)]);
        let both = |byte: u8| [digit(byte >> 4), digit(byte & 15)];
        bytes.into_iter().flat_map(both).collect()
    }
}

impl TryFrom<String> for ReadBytes {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WHAT: &str = "two hexadecimal digits for each byte are expected";
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok();
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        match (bytes, rest) {
            (Some(bytes), []) => Ok(Self(bytes)),
            _ => Err(WHAT),
        }
    }
}

/// Where an endpoint is, or a socket of clients. Names of Unix sockets are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WireAddress {
    Tcp(SocketAddr),
    Path(Vec<u8>),
    Abstract(Vec<u8>),
}

impl From<Address> for WireAddress {
    fn from(address: Address) -> Self {
        match address {
            Address::Tcp(address) => Self::Tcp(address),
            Address::Unix(name) => match name.parts() {
                (path, UnixKind::Path) => Self::Path(path.to_vec()),
                (name, UnixKind::Abstract) => Self::Abstract(name.to_vec()),
            },
        }
    }
}

impl WireAddress {
    /// Where a socket of clients listens, if that has an address.
    pub(super) fn of(place: &Place) -> Option<Self> {
        match place {
            Place::Path(path) => Some(Self::Path(path.clone())),
            Place::Abstract(name) => Some(Self::Abstract(name.clone())),
            Place::Tcp(address) => Some(Self::Tcp(*address)),
            Place::Unnamed => None,
        }
    }
}

impl From<Option<WireAddress>> for Place {
    fn from(address: Option<WireAddress>) -> Self {
        match address {
            Some(WireAddress::Tcp(address)) => Self::Tcp(address),
            Some(WireAddress::Path(path)) => Self::Path(path),
            Some(WireAddress::Abstract(name)) => Self::Abstract(name),
            None => Self::Unnamed,
        }
    }
}

/// Names of Unix sockets that were met: each is kept once, for as long as the process runs.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<UnixName>);

impl Names {
    /// The same address; `None` if it is none that a socket can have.
    pub(super) fn address(&mut self, address: &WireAddress) -> Option<Address> {
        let (name, kind) = match address {
            WireAddress::Tcp(address) => return Some(Address::Tcp(*address)),
            WireAddress::Path(path) => (path, UnixKind::Path),
            WireAddress::Abstract(name) => (name, UnixKind::Abstract),
        };
        if let Some(known) = self.0.iter().find(|known| known.parts() == (name, kind)) {
            return Some(Address::Unix(*known));
        }
        if !UnixName::fits(name) {
            return None;
        }
        let name = UnixName::new(name, kind);
        self.0.push(name);
        Some(Address::Unix(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Message {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_a_later_version_adds_is_ignored() {
        assert_eq!(
            read(r#"{"type": "farewell", "why": [1]}"#),
            Message::Unknown
        );
        let later = r#"{"type": "ready", "takes": [1], "clients": ["php"], "speed": 7}"#;
        let ready = Ready {
            takes: vec![1],
            clients: vec!["php".to_owned()],
            reads: Vec::new(),
        };
        assert_eq!(read(later), Message::Ready(ready));
        let earlier = r#"{"type": "ready", "takes": []}"#;
        assert_eq!(read(earlier), Message::Ready(Ready::default()));
        let other = r#"{"type": "socket", "number": 1, "purpose": "quic", "place": "udp:1"}"#;
        let Message::Socket(offer) = read(other) else {
            panic!()
        };
        assert_eq!(offer.purpose, Purpose::Unknown);
    }

    #[test]
    fn what_was_read_is_the_same_on_the_other_side() {
        let client = |read| ClientOffer {
            route: "php".to_owned(),
            place: None,
            read: ReadBytes(read),
        };
        for read in [Vec::new(), vec![0], (0..=u8::MAX).collect()] {
            let (said, len) = (Message::Client(client(read.clone())), read.len());
            let json = serde_json::to_string(&said).unwrap();
            assert_eq!(serde_json::from_str::<Message>(&json).unwrap(), said);
            assert_eq!(json.contains("read"), len > 0, "others need not know it");
        }
        for wrong in ["0", "0g", "é", "+1"] {
            let json = format!(r#"{{"type": "client", "route": "php", "read": "{wrong}"}}"#);
            assert!(serde_json::from_str::<Message>(&json).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_is_the_same_on_the_other_side() {
        let mut names = Names::default();
        let all = [
            Address::Tcp("[2001:db8::1]:9000".parse().unwrap()),
            Address::Unix(UnixName::new(b"/run/\xff.sock", UnixKind::Path)),
            Address::Unix(UnixName::new(b"a\0b", UnixKind::Abstract)),
        ];
        for address in all.into_iter().chain(all) {
            let json = serde_json::to_string(&WireAddress::from(address)).unwrap();
            let read: WireAddress = serde_json::from_str(&json).unwrap();
            assert_eq!(names.address(&read), Some(address));
        }
        assert_eq!(names.0.len(), 2, "each name is kept once");
        assert_eq!(names.address(&WireAddress::Path(vec![b'a'; 108])), None);
    }
}
