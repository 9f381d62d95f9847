//! Where PHP-FPM tells how its pools fare (`pm.status_listen`, or the pool's own address), and on which page.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use super::address::parse_port;
use super::{AddressError, BackendAddress, UnixAddress};

/// The most places of one route. `:PORT` stands for as many pools as there are endpoints, so nobody has to name
/// dozens.
pub const FPM_SOURCES_MAX: usize = 16;

/// What PHP-FPM's own example has for pm.status_path.
const PATH_DEFAULT: &str = "/status";

/// The longest path. PHP-FPM has no limit, but nobody types so much.
const PATH_BYTES_MAX: usize = 255;

/// One place to ask, and what to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FpmSource {
    /// Where.
    pub place: FpmPlace,
    /// The pool's pm.status_path.
    pub path: String,
}

/// Where a pool tells how it fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FpmPlace {
    /// `127.0.0.1:9001`
    Tcp(SocketAddr),
    /// `unix:/run/php/status.sock`
    Unix(UnixAddress),
    /// `:9001`: that port of each of the route's endpoints, as they come and go. Each is a pool.
    PortOfEndpoints(u16),
}

/// Why a text is no such place, and how to write it right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FpmSourceError {
    /// The part in front of the path.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A URL.
    #[error("not an address (write it without a scheme, for example 127.0.0.1:9001/status)")]
    Url,
    /// A name, which may stand for several pools that come and go.
    #[error(
        "names are not looked up for this (write :PORT for that port of each of the route's addresses, or an IP \
         address)"
    )]
    Name,
    /// Something that PHP-FPM would not take for pm.status_path.
    #[error(
        "'{path}' cannot be a pm.status_path (write a slash and letters, digits, '/', '-', '_', '.' or '~', at most \
         {PATH_BYTES_MAX} bytes)"
    )]
    Path {
        /// As it was given.
        path: String,
    },
}

impl FromStr for FpmSource {
    type Err = FpmSourceError;

    fn from_str(text: &str) -> Result<Self, FpmSourceError> {
        if text.contains("://") {
            return Err(FpmSourceError::Url);
        }
        let (place, path) = split(text);
        Ok(Self {
            place: parse_place(place)?,
            path: parse_path(path.unwrap_or(PATH_DEFAULT))?,
        })
    }
}

/// The path begins behind the port, and behind a colon where the address has slashes itself, as in nginx's URLs of
/// Unix sockets.
fn split(text: &str) -> (&str, Option<&str>) {
    let begins = match text.starts_with("unix:") {
        true => {
            let name = "unix:".len();
            text[name..].find(":/").map(|at| (name + at, name + at + 1))
        }
        false => text.find('/').map(|at| (at, at)),
    };
    match begins {
        Some((end, path)) => (&text[..end], Some(&text[path..])),
        None => (text, None),
    }
}

fn parse_place(text: &str) -> Result<FpmPlace, FpmSourceError> {
    if let Some(port) = text.strip_prefix(':') {
        return Ok(FpmPlace::PortOfEndpoints(parse_port(port)?));
    }
    // Of a backend, a path that is relative would be the port of a host called unix.
    if text.starts_with("unix:") {
        return Ok(FpmPlace::Unix(text.parse()?));
    }
    match text.parse()? {
        BackendAddress::Literal(address) => Ok(FpmPlace::Tcp(address)),
        BackendAddress::Unix(address) => Ok(FpmPlace::Unix(address)),
        BackendAddress::Name { .. } | BackendAddress::Service { .. } => Err(FpmSourceError::Name),
    }
}

/// As PHP-FPM checks it when it reads its configuration (`fpm_conf.c`).
fn parse_path(path: &str) -> Result<String, FpmSourceError> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    let has_fine_length = (2..=PATH_BYTES_MAX).contains(&path.len());
    match has_fine_length && path.starts_with('/') && path.bytes().all(is_fine) {
        true => Ok(path.to_owned()),
        false => Err(FpmSourceError::Path {
            path: path.to_owned(),
        }),
    }
}

/// The form that [`FromStr`] reads.
impl fmt::Display for FpmSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.place {
            FpmPlace::Tcp(address) => write!(f, "tcp:{address}{path}"),
            FpmPlace::Unix(address) => write!(f, "{address}:{path}"),
            FpmPlace::PortOfEndpoints(port) => write!(f, ":{port}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FpmSource, FpmSourceError> {
        text.parse()
    }

    #[test]
    fn places_are_written_as_backends_are() {
        let tcp = |address: &str| FpmPlace::Tcp(address.parse().unwrap());
        let unix = |address: &str| FpmPlace::Unix(address.parse().unwrap());
        for (text, place, path) in [
            ("127.0.0.1:9001", tcp("127.0.0.1:9001"), "/status"),
            ("tcp:127.0.0.1:9001", tcp("127.0.0.1:9001"), "/status"),
            ("127.0.0.1:9001/fpm/www", tcp("127.0.0.1:9001"), "/fpm/www"),
            ("[::1]:9001/s", tcp("[::1]:9001"), "/s"),
            (
                "unix:/run/php/s.sock",
                unix("unix:/run/php/s.sock"),
                "/status",
            ),
            (
                "unix:/run/php/s.sock:/fpm/s",
                unix("unix:/run/php/s.sock"),
                "/fpm/s",
            ),
            ("unix:@fpm:/s", unix("unix:@fpm"), "/s"),
            (":9001", FpmPlace::PortOfEndpoints(9001), "/status"),
            (":9001/s_1.x~-", FpmPlace::PortOfEndpoints(9001), "/s_1.x~-"),
        ] {
            let expected = FpmSource {
                place,
                path: path.to_owned(),
            };
            assert_eq!(read(text).as_ref(), Ok(&expected), "{text}");
            assert_eq!(read(&expected.to_string()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_with_a_remedy() {
        for (text, problem) in [
            ("", "it is empty"),
            ("http://127.0.0.1:9001/status", "without a scheme"),
            ("php.internal:9001/status", "write :PORT"),
            ("srv:_a._tcp.b", "write :PORT"),
            ("127.0.0.1/status", "missing port"),
            (":/status", "missing port"),
            (":0", "not a port"),
            (":9001/", "cannot be a pm.status_path"),
            (":9001/a?full", "cannot be a pm.status_path"),
            (":9001/a b", "cannot be a pm.status_path"),
            (":9001/\u{e4}", "cannot be a pm.status_path"),
            ("unix:/run/x.sock:/", "cannot be a pm.status_path"),
            ("unix:run/x.sock", "the path is relative"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let long = format!(":9001/{}", "a".repeat(PATH_BYTES_MAX));
        assert!(read(&long).is_err());
    }
}
