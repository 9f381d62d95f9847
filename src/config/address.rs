//! The syntax of addresses: where to listen and where backends are.
//!
//! Whatever is accepted here can be handed to the system or to the resolver as it is; whatever
//! cannot is refused with an error that says how to write it right. Nothing is looked up.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path of a socket and the longest abstract name, in bytes: `sun_path` has 108, of
/// which a path's terminating NUL or an abstract name's leading one takes one (unix(7)).
pub const SOCKET_NAME_BYTES_MAX: usize = 107;

/// The longest label of a host name (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// The longest host name as text without its trailing dot: the 255 octets of RFC 1035, section
/// 2.3.4, count a length byte for each label and one for the root.
const HOST_BYTES_MAX: usize = 253;

/// The longest name of a passed descriptor: what systemd takes (`FDNAME_MAX` in its fd-util).
const DESCRIPTOR_NAME_BYTES_MAX: usize = 255;

/// Where a listener stands. Two spellings of one path, such as `/run/a` and `/run/./a`, are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// `unix:/run/app.sock` or `unix:@name`: a socket that we open.
    Unix(UnixAddress),
    /// `inherit` or `inherit:NAME`: sockets that whoever started the process has opened for it.
    Inherited(Descriptors),
}

/// Which of the descriptors that were passed to the process (sd_listen_fds(3)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Descriptors {
    /// Every one.
    All,
    /// Those of this name; several may have it.
    Named(String),
}

impl ListenAddress {
    /// Whether a socket can belong to both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let takes_all = |address: &Self| matches!(address, Self::Inherited(Descriptors::All));
        let is_inherited = |address: &Self| matches!(address, Self::Inherited(_));
        self == other
            || takes_all(self) && is_inherited(other)
            || is_inherited(self) && takes_all(other)
    }
}

/// A Unix socket of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixAddress {
    /// `unix:/run/app.sock`
    Path(PathBuf),
    /// `unix:@name`, Linux's abstract namespace; the bytes do not include the leading NUL.
    Abstract(Vec<u8>),
}

/// Where a backend is: known, or to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    /// An address that needs no lookup.
    Literal(SocketAddr),
    /// A Unix socket, which needs none either.
    Unix(UnixAddress),
    /// A host name, as given (a trailing dot is kept: it turns the search domains off), and a port.
    Name {
        /// The host name.
        host: String,
        /// The TCP port, never 0.
        port: u16,
    },
    /// `srv:_service._proto.name`: SRV records say where (RFC 2782).
    Service {
        /// The name of the records, as given.
        name: String,
    },
}

/// Why a text is not an address, and how to write it right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A Unix socket's address without `unix:`, or nothing after it.
    #[error("not a Unix socket (write unix:/PATH or unix:@NAME, for example unix:/run/app.sock)")]
    NotUnix,
    /// A path that depends on where the program was started.
    #[error("the path is relative (write it from the root, for example unix:/run/app.sock)")]
    RelativePath,
    /// A path whose last part is empty, `.` or `..`.
    #[error("the path names a directory (add the file name of the socket)")]
    DirectoryPath,
    /// A path or an abstract name that does not fit into a socket address.
    #[error("{length} bytes are too long for a socket name (use at most {SOCKET_NAME_BYTES_MAX})")]
    SocketNameTooLong {
        /// The bytes of the path or of the abstract name.
        length: usize,
    },
    /// `unix:@` alone: the kernel would choose a name that nobody knows.
    #[error("the abstract name is empty (write unix:@NAME)")]
    EmptyAbstractName,
    /// A NUL byte in a path or in an abstract name.
    #[error("the socket name contains a NUL byte (remove it)")]
    NulByte,
    /// `inherit:` and something that cannot be the name of a descriptor.
    #[error(
        "not the name of a passed descriptor (write inherit:NAME with the FileDescriptorName= of the \
         socket unit, or inherit for all)"
    )]
    DescriptorName,

    /// `srv:` and something that is no name of SRV records.
    #[error(
        "not the name of a service (write srv:_SERVICE._PROTO.NAME, for example \
         srv:_fastcgi._tcp.php.internal)"
    )]
    InvalidService,
    /// `srv:` with a port.
    #[error("a service has no port: its records have (write srv:_SERVICE._PROTO.NAME)")]
    ServicePort,
    /// A URL where a backend belongs.
    #[error("a backend is not a URL (write HOST:PORT, for example php.internal:9000)")]
    UrlBackend,
    /// No port, or nothing at all.
    /// Nothing at all.
    #[error(
        "it is empty (write HOST:PORT; with spliceway@NAME.service, put BACKEND=HOST:PORT into /etc/spliceway/NAME.env)"
    )]
    Empty,
    /// `php.internal`
    #[error("missing port (write HOST:PORT, for example php.internal:9000)")]
    MissingPort,
    /// A port that is not a number from 1 to 65535.
    #[error("'{port}' is not a port (write a number from 1 to 65535)")]
    InvalidPort {
        /// What stands where the port belongs.
        port: String,
    },
    /// Nothing before the port.
    #[error("missing host (write HOST:PORT, for example php.internal:9000)")]
    MissingHost,
    /// Several colons outside brackets.
    #[error("several colons outside brackets (write an IPv6 address as [ADDRESS]:PORT)")]
    UnbracketedV6,
    /// Brackets that are not closed, or hold something else than an IPv6 address.
    #[error("no IPv6 address in the brackets (write [ADDRESS]:PORT, for example [::1]:9000)")]
    InvalidV6,
    /// An IPv6 address with a zone such as `%eth0`.
    #[error("IPv6 zones are not supported (use an address without %{zone})")]
    ScopedV6 {
        /// What stands after the percent sign.
        zone: String,
    },
    /// Digits and dots only, but no IPv4 address: some resolvers read `1.2.3` as `1.2.0.3`.
    #[error("'{host}' is neither an IPv4 address nor a name (write four numbers from 0 to 255)")]
    InvalidV4 {
        /// The host as it was given.
        host: String,
    },
    /// A host name that does not fit into a DNS message.
    #[error("a host name of {length} bytes is too long (use at most {HOST_BYTES_MAX})")]
    HostTooLong {
        /// The bytes of the name without its trailing dot.
        length: usize,
    },
    /// A label that is empty or too long, or begins with a hyphen.
    #[error(
        "'{label}' cannot be a part of a host name (1 to {LABEL_BYTES_MAX} characters, no hyphen first)"
    )]
    InvalidLabel {
        /// What stands between two dots.
        label: String,
    },
    /// A character that host names do not have.
    #[error(
        "{character:?} cannot be in a host name (use letters, digits, '-', '_' and '.'; \
         write an international name in its xn-- form)"
    )]
    InvalidCharacter {
        /// The first such character.
        character: char,
    },
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("inherit") {
            Some("") => Ok(Self::Inherited(Descriptors::All)),
            Some(rest) if rest.starts_with(':') => parse_descriptor_name(&rest[1..]),
            _ => text.parse().map(Self::Unix),
        }
    }
}

impl FromStr for UnixAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let name = text.strip_prefix("unix:").ok_or(AddressError::NotUnix)?;
        if name.is_empty() {
            return Err(AddressError::NotUnix);
        }
        if name.contains('\0') {
            return Err(AddressError::NulByte);
        }
        match name.strip_prefix('@') {
            Some(abstract_name) => parse_abstract_name(abstract_name),
            None => parse_path(name),
        }
    }
}

/// What systemd takes for a name: printable ASCII without a colon, which separates names in the
/// environment.
fn parse_descriptor_name(name: &str) -> Result<ListenAddress, AddressError> {
    let allowed = |byte: u8| matches!(byte, b' '..=b'~') && byte != b':';
    let fits = (1..=DESCRIPTOR_NAME_BYTES_MAX).contains(&name.len());
    if !fits || !name.bytes().all(allowed) {
        return Err(AddressError::DescriptorName);
    }
    let named = Descriptors::Named(name.to_owned());
    Ok(ListenAddress::Inherited(named))
}

fn parse_abstract_name(name: &str) -> Result<UnixAddress, AddressError> {
    if name.is_empty() {
        return Err(AddressError::EmptyAbstractName);
    }
    check_socket_name_length(name)?;
    Ok(UnixAddress::Abstract(name.as_bytes().to_vec()))
}

fn parse_path(path: &str) -> Result<UnixAddress, AddressError> {
    let Some((_, file_name)) = path.rsplit_once('/').filter(|_| path.starts_with('/')) else {
        return Err(AddressError::RelativePath);
    };
    if matches!(file_name, "" | "." | "..") {
        return Err(AddressError::DirectoryPath);
    }
    check_socket_name_length(path)?;
    Ok(UnixAddress::Path(PathBuf::from(path)))
}

fn check_socket_name_length(name: &str) -> Result<(), AddressError> {
    match name.len() {
        ..=SOCKET_NAME_BYTES_MAX => Ok(()),
        length => Err(AddressError::SocketNameTooLong { length }),
    }
}

/// The form that [`FromStr`] reads; a name that is not UTF-8 is shown as well as it can be.
impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
        }
    }
}

/// The form that [`FromStr`] reads.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(address) => address.fmt(f),
            Self::Inherited(Descriptors::All) => f.write_str("inherit"),
            Self::Inherited(Descriptors::Named(name)) => write!(f, "inherit:{name}"),
        }
    }
}

impl FromStr for BackendAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.starts_with("unix:/") || text.starts_with("unix:@") {
            return text.parse().map(Self::Unix);
        }
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.contains("://") {
            return Err(AddressError::UrlBackend);
        }
        if let Some(service) = text.strip_prefix("srv:") {
            return parse_service(service);
        }
        let text = text.strip_prefix("tcp:").unwrap_or(text);
        match text.strip_prefix('[') {
            Some(bracketed) => parse_v6(bracketed),
            None => parse_v4_or_name(text),
        }
    }
}

/// `_SERVICE._PROTO.NAME` (RFC 2782).
fn parse_service(name: &str) -> Result<BackendAddress, AddressError> {
    let mut labels = name.split('.');
    let mut underscored = || {
        let label = labels.next().and_then(|label| label.strip_prefix('_'));
        label.is_some_and(|rest| !rest.is_empty())
    };
    if !(underscored() && underscored() && labels.next().is_some_and(|rest| !rest.is_empty())) {
        return Err(AddressError::InvalidService);
    }
    if name.contains(':') {
        return Err(AddressError::ServicePort);
    }
    check_host_name(name)?;
    Ok(BackendAddress::Service {
        name: name.to_owned(),
    })
}

/// `ADDRESS]:PORT`: the opening bracket is gone already.
fn parse_v6(bracketed: &str) -> Result<BackendAddress, AddressError> {
    let (address, rest) = bracketed.split_once(']').ok_or(AddressError::InvalidV6)?;
    if let Some((_, zone)) = address.split_once('%') {
        return Err(AddressError::ScopedV6 {
            zone: zone.to_owned(),
        });
    }
    let address: Ipv6Addr = address.parse().map_err(|_| AddressError::InvalidV6)?;
    let port = rest.strip_prefix(':').ok_or(AddressError::MissingPort)?;
    Ok(BackendAddress::Literal((address, parse_port(port)?).into()))
}

fn parse_v4_or_name(text: &str) -> Result<BackendAddress, AddressError> {
    let (host, port) = text.rsplit_once(':').ok_or(AddressError::MissingPort)?;
    if host.contains(':') {
        return Err(AddressError::UnbracketedV6);
    }
    if host.is_empty() {
        return Err(AddressError::MissingHost);
    }
    let port = parse_port(port)?;
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok(BackendAddress::Literal((address, port).into()));
    }
    check_host_name(host)?;
    Ok(BackendAddress::Name {
        host: host.to_owned(),
        port,
    })
}

pub(super) fn parse_port(port: &str) -> Result<u16, AddressError> {
    if port.is_empty() {
        return Err(AddressError::MissingPort);
    }
    // The standard parser takes a plus sign, which nobody means.
    let digits_only = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(number @ 1..) if digits_only => Ok(number),
        _ => Err(AddressError::InvalidPort {
            port: port.to_owned(),
        }),
    }
}

/// Host names as resolvers take them: RFC 1123, section 2.1, and the underscores that container
/// platforms put into theirs. A hyphen in front is what resolvers refuse.
fn check_host_name(host: &str) -> Result<(), AddressError> {
    if host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return Err(AddressError::InvalidV4 {
            host: host.to_owned(),
        });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(character) = host.chars().find(|c| !allowed(*c)) {
        return Err(AddressError::InvalidCharacter { character });
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > HOST_BYTES_MAX {
        return Err(AddressError::HostTooLong { length: name.len() });
    }
    let fits =
        |label: &str| (1..=LABEL_BYTES_MAX).contains(&label.len()) && !label.starts_with('-');
    match name.split('.').find(|label| !fits(label)) {
        None => Ok(()),
        Some(label) => Err(AddressError::InvalidLabel {
            label: label.to_owned(),
        }),
    }
}

/// The form that [`FromStr`] reads, always with its scheme: without it, a host called `tcp` could
/// not be told from one.
impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(address) => write!(f, "tcp:{address}"),
            Self::Unix(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Service { name } => write!(f, "srv:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listen(text: &str) -> Result<ListenAddress, AddressError> {
        text.parse()
    }

    fn backend(text: &str) -> Result<BackendAddress, AddressError> {
        text.parse()
    }

    fn named(host: &str, port: u16) -> BackendAddress {
        BackendAddress::Name {
            host: host.to_owned(),
            port,
        }
    }

    fn literal(address: &str) -> BackendAddress {
        BackendAddress::Literal(address.parse().unwrap())
    }

    #[test]
    fn listen_addresses_are_paths_or_abstract_names() {
        let abstract_name =
            |name: &[u8]| Ok(ListenAddress::Unix(UnixAddress::Abstract(name.to_vec())));
        assert_eq!(
            listen("unix:/run/a.sock"),
            Ok(ListenAddress::Unix(UnixAddress::Path("/run/a.sock".into())))
        );
        assert_eq!(listen("unix:@a/b c"), abstract_name(b"a/b c"));
        assert_eq!(listen("unix:@@"), abstract_name(b"@"));
    }

    #[test]
    fn passed_descriptors_are_listened_on_by_name_or_altogether() {
        let named = |name: &str| {
            Ok(ListenAddress::Inherited(Descriptors::Named(
                name.to_owned(),
            )))
        };
        assert_eq!(
            listen("inherit"),
            Ok(ListenAddress::Inherited(Descriptors::All))
        );
        assert_eq!(listen("inherit:web"), named("web"));
        assert_eq!(listen("inherit:my app.socket"), named("my app.socket"));
        let (fits, too_long) = ("a".repeat(255), "a".repeat(256));
        assert_eq!(listen(&format!("inherit:{fits}")), named(&fits));
        for text in ["", "a:b", "ä", "a\tb", "a\0", &too_long] {
            let error = Err(AddressError::DescriptorName);
            assert_eq!(listen(&format!("inherit:{text}")), error, "{text:?}");
        }
        for text in ["inherited", "INHERIT", "inherit/a"] {
            assert_eq!(listen(text), Err(AddressError::NotUnix), "{text}");
        }
    }

    #[test]
    fn whoever_takes_all_descriptors_takes_those_with_names() {
        let overlap = |one: &str, other: &str| {
            let (one, other) = (listen(one).unwrap(), listen(other).unwrap());
            assert_eq!(one.overlaps(&other), other.overlaps(&one));
            one.overlaps(&other)
        };
        assert!(overlap("inherit", "inherit:a"));
        assert!(overlap("inherit", "inherit"));
        assert!(overlap("inherit:a", "inherit:a"));
        assert!(!overlap("inherit:a", "inherit:b"));
        assert!(!overlap("inherit", "unix:/a"));
        assert!(overlap("unix:/a", "unix:/a"));
    }

    #[test]
    fn socket_names_may_have_107_bytes() {
        let (fits, too_long) = ("a".repeat(107), "a".repeat(108));
        let error = Err(AddressError::SocketNameTooLong { length: 108 });
        assert!(listen(&format!("unix:/{}", &fits[1..])).is_ok());
        assert_eq!(listen(&format!("unix:/{fits}")), error);
        assert!(listen(&format!("unix:@{fits}")).is_ok());
        assert_eq!(listen(&format!("unix:@{too_long}")), error);
        // 54 characters, 108 bytes.
        assert_eq!(listen(&format!("unix:@{}", "ä".repeat(54))), error);
    }

    #[test]
    fn bad_listen_addresses_are_refused() {
        for (text, expected) in [
            ("", AddressError::NotUnix),
            ("unix:", AddressError::NotUnix),
            ("/run/a.sock", AddressError::NotUnix),
            ("tcp:127.0.0.1:80", AddressError::NotUnix),
            ("UNIX:/run/a.sock", AddressError::NotUnix),
            ("unix:a.sock", AddressError::RelativePath),
            ("unix:run/a.sock", AddressError::RelativePath),
            ("unix:./a.sock", AddressError::RelativePath),
            ("unix: /a.sock", AddressError::RelativePath),
            ("unix:/", AddressError::DirectoryPath),
            ("unix:/run/", AddressError::DirectoryPath),
            ("unix:/run/.", AddressError::DirectoryPath),
            ("unix:/run/..", AddressError::DirectoryPath),
            ("unix:@", AddressError::EmptyAbstractName),
            ("unix:/run/a\0b", AddressError::NulByte),
            ("unix:@a\0b", AddressError::NulByte),
        ] {
            assert_eq!(listen(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn backends_are_names_or_literals() {
        for (text, expected) in [
            ("php.internal:9000", named("php.internal", 9000)),
            ("tcp:php.internal:9000", named("php.internal", 9000)),
            ("php.internal.:9000", named("php.internal.", 9000)),
            ("my_php-1:65535", named("my_php-1", 65535)),
            ("tcp:tcp:1", named("tcp", 1)),
            ("1a.2.3:80", named("1a.2.3", 80)),
            (
                "xn--bcher-kva.example:80",
                named("xn--bcher-kva.example", 80),
            ),
            ("127.0.0.1:9000", literal("127.0.0.1:9000")),
            ("tcp:127.0.0.1:9000", literal("127.0.0.1:9000")),
            ("[::1]:9000", literal("[::1]:9000")),
            ("tcp:[2001:db8::1]:9000", literal("[2001:db8::1]:9000")),
            ("[::ffff:127.0.0.1]:1", literal("[::ffff:127.0.0.1]:1")),
            (
                "unix:/run/php.sock",
                BackendAddress::Unix(UnixAddress::Path("/run/php.sock".into())),
            ),
            (
                "unix:@php",
                BackendAddress::Unix(UnixAddress::Abstract(b"php".to_vec())),
            ),
            ("unix:9000", named("unix", 9000)),
        ] {
            assert_eq!(backend(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn services_are_names_of_srv_records() {
        for text in [
            "_php._tcp.internal",
            "_http-alt._tcp.web.svc.cluster.local.",
        ] {
            let name = text.to_owned();
            let expected = Ok(BackendAddress::Service { name });
            assert_eq!(backend(&format!("srv:{text}")), expected);
        }
        for text in [
            "",
            "php.internal",
            "_php._tcp",
            "_php._tcp.",
            "_php.tcp.internal",
            "_._tcp.internal",
        ] {
            let text = format!("srv:{text}");
            assert_eq!(
                backend(&text),
                Err(AddressError::InvalidService),
                "{text:?}"
            );
        }
        let port = backend("srv:_php._tcp.internal:9000");
        assert_eq!(port, Err(AddressError::ServicePort));
        let label = "".to_owned();
        let error = backend("srv:_php._tcp.a..b");
        assert_eq!(error, Err(AddressError::InvalidLabel { label }));
        let named_srv = named("srv", 9000);
        assert_eq!(backend("tcp:srv:9000"), Ok(named_srv));
    }

    #[test]
    fn names_that_cannot_be_looked_up_are_refused() {
        let v4 = |host: &str| AddressError::InvalidV4 {
            host: host.to_owned(),
        };
        let label = |label: &str| AddressError::InvalidLabel {
            label: label.to_owned(),
        };
        let character = |character| AddressError::InvalidCharacter { character };
        for (text, expected) in [
            ("300.1.2.3:80", v4("300.1.2.3")),
            ("1.2.3:80", v4("1.2.3")),
            ("127.0.0.01:80", v4("127.0.0.01")),
            ("127.0.0.1.:80", v4("127.0.0.1.")),
            ("2130706433:80", v4("2130706433")),
            (".:80", v4(".")),
            ("a..b:80", label("")),
            (".a:80", label("")),
            ("a..:80", label("")),
            ("-a.b:80", label("-a")),
            ("a b:80", character(' ')),
            (" a:80", character(' ')),
            ("a/b:80", character('/')),
            ("a\n:80", character('\n')),
            ("a@b:80", character('@')),
            ("bücher.example:80", character('ü')),
        ] {
            assert_eq!(backend(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn host_names_fit_into_dns_messages() {
        let long = "a".repeat(63);
        let fits = format!("{long}.{long}.{long}.{}", "a".repeat(61));
        assert!(backend(&format!("{fits}:80")).is_ok());
        assert!(backend(&format!("{fits}.:80")).is_ok());
        assert_eq!(
            backend(&format!("{fits}a:80")),
            Err(AddressError::HostTooLong { length: 254 })
        );
        assert_eq!(
            backend(&format!("{long}a:80")),
            Err(AddressError::InvalidLabel {
                label: format!("{long}a")
            })
        );
    }

    #[test]
    fn bad_ports_and_brackets_are_refused() {
        let port = |port: &str| AddressError::InvalidPort {
            port: port.to_owned(),
        };
        for (text, expected) in [
            ("", AddressError::Empty),
            ("tcp:", AddressError::MissingPort),
            ("php.internal", AddressError::MissingPort),
            ("php.internal:", AddressError::MissingPort),
            ("tcp:9000", AddressError::MissingPort),
            ("[::1]", AddressError::MissingPort),
            ("[::1]:", AddressError::MissingPort),
            ("[::1]9000", AddressError::MissingPort),
            (":9000", AddressError::MissingHost),
            ("tcp::9000", AddressError::MissingHost),
            ("a:0", port("0")),
            ("a:65536", port("65536")),
            ("a:+80", port("+80")),
            ("a:-1", port("-1")),
            ("a:http", port("http")),
            ("a:80 ", port("80 ")),
            ("[::1]:0", port("0")),
            ("::1:9000", AddressError::UnbracketedV6),
            ("2001:db8::1", AddressError::UnbracketedV6),
            ("tcp:2001:db8::1:9000", AddressError::UnbracketedV6),
            ("fe80::1%eth0:9000", AddressError::UnbracketedV6),
            ("[", AddressError::InvalidV6),
            ("[]:80", AddressError::InvalidV6),
            ("[::1:80", AddressError::InvalidV6),
            ("[127.0.0.1]:80", AddressError::InvalidV6),
            ("[[::1]]:80", AddressError::InvalidV6),
            (
                "[fe80::1%eth0]:80",
                AddressError::ScopedV6 {
                    zone: "eth0".to_owned(),
                },
            ),
            ("unix:/run/", AddressError::DirectoryPath),
            ("unix:@", AddressError::EmptyAbstractName),
            ("http://a:80", AddressError::UrlBackend),
            ("tcp://a:80", AddressError::UrlBackend),
        ] {
            assert_eq!(backend(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn errors_say_how_to_write_it_right() {
        for (text, remedy) in [
            (
                "php.internal",
                "missing port (write HOST:PORT, for example php.internal:9000)",
            ),
            ("::1:9000", "write an IPv6 address as [ADDRESS]:PORT"),
            ("a:0", "'0' is not a port (write a number from 1 to 65535)"),
        ] {
            let error = backend(text).unwrap_err().to_string();
            assert!(error.contains(remedy), "{error}");
        }
    }

    fn unix_addresses() -> impl Strategy<Value = UnixAddress> {
        let file_name =
            "[^/\0]{1,24}".prop_filter("a directory", |name| name != "." && name != "..");
        prop_oneof![
            file_name.prop_map(|name| UnixAddress::Path(format!("/{name}").into())),
            "[^\0]{1,26}".prop_map(|name| UnixAddress::Abstract(name.into_bytes())),
        ]
    }

    fn backend_addresses() -> impl Strategy<Value = BackendAddress> {
        let unix = unix_addresses().prop_map(BackendAddress::Unix);
        let host = r"[a-zA-Z_][a-zA-Z0-9_-]{0,62}(\.[a-z0-9_][a-z0-9_-]{0,20}){0,3}\.?";
        prop_oneof![
            unix,
            (any::<Ipv4Addr>(), 1u16..).prop_map(|a| BackendAddress::Literal(a.into())),
            (any::<Ipv6Addr>(), 1u16..).prop_map(|a| BackendAddress::Literal(a.into())),
            (host, 1u16..).prop_map(|(host, port)| BackendAddress::Name { host, port }),
            host.prop_map(|host| BackendAddress::Service {
                name: format!("_a._tcp.{host}")
            }),
        ]
    }

    proptest! {
        #[test]
        fn listen_addresses_round_trip(address in unix_addresses()) {
            let address = ListenAddress::Unix(address);
            prop_assert_eq!(listen(&address.to_string()), Ok(address));
        }

        #[test]
        fn backend_addresses_round_trip(address in backend_addresses()) {
            prop_assert_eq!(backend(&address.to_string()), Ok(address));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in r"(unix:|tcp:|srv:_a._b.)?([a-z0-9:.\[\]%@/_-]{0,40}|\PC*|.*)") {
            if let Ok(address) = listen(&text) {
                prop_assert_eq!(listen(&address.to_string()), Ok(address));
            }
            if let Ok(address) = backend(&text) {
                prop_assert_eq!(backend(&address.to_string()), Ok(address));
            }
        }
    }
}
