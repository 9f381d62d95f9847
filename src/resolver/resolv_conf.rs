//! resolv.conf(5) as the C library reads it: what it skips is skipped, what it takes is taken.
//!
//! Programs on one machine are expected to look names up in the same way, and files that no manual
//! allows are common. So nothing in here is an error: a word that means nothing is left out, and the
//! rest counts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use hickory_proto::rr::Name;

use crate::sys::lookup::interface_index;

/// Where name servers listen.
const PORT: u16 = 53;

/// The C library's MAXNS: further servers are not asked.
const SERVERS_MAX: usize = 3;

/// RES_MAXNDOTS.
const NDOTS_MAX: u8 = 15;

/// RES_MAXRETRANS.
const TIMEOUT_MAX_S: u64 = 30;

/// RES_MAXRETRY.
const ATTEMPTS_MAX: u32 = 5;

/// RES_DFLRETRY.
const ATTEMPTS_DEFAULT: u32 = 2;

/// What the file says, with the C library's defaults for what it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// In the order in which they are asked; empty if there are none.
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<Domain>,
    pub(super) ndots: usize,
    /// `None`: not said.
    pub(super) timeout: Option<Duration>,
    /// How often each server is asked; 0 is allowed, and then nobody is.
    pub(super) attempts: u32,
    /// Each lookup begins with another server.
    pub(super) rotate: bool,
    /// Only TCP.
    pub(super) use_vc: bool,
    /// Names without a dot are not asked for as they are, only with search domains.
    pub(super) no_tld_query: bool,
}

/// A word of `search`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    Name(Name),
    /// Nothing that a query can hold. The C library ends the search there.
    NoName,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: None,
            attempts: ATTEMPTS_DEFAULT,
            rotate: false,
            use_vc: false,
            no_tld_query: false,
        }
    }
}

impl ResolvConf {
    /// Reads a file. `hostname` gives the search domain if the file has none.
    pub(super) fn parse(file: &[u8], hostname: &[u8]) -> Self {
        let mut conf = Self::default();
        let mut search = None;
        for line in file.split(|byte| *byte == b'\n') {
            // The C library's strings end there.
            let line = until(line, |byte| byte == 0);
            if let Some(rest) = after_keyword(line, b"domain") {
                if let Some(domain) = words(rest).next() {
                    search = Some(vec![Domain::parse(domain)]);
                }
            } else if let Some(rest) = after_keyword(line, b"search") {
                let domains: Vec<_> = words(rest).map(Domain::parse).collect();
                if !domains.is_empty() {
                    search = Some(domains);
                }
            } else if let Some(rest) = after_keyword(line, b"nameserver") {
                let server = words(rest).next().and_then(server);
                if conf.servers.len() < SERVERS_MAX {
                    conf.servers.extend(server);
                }
            } else if let Some(rest) = after_keyword(line, b"options") {
                conf.set_options(rest);
            }
        }
        conf.search = search.unwrap_or_else(|| Domain::of_host(hostname).into_iter().collect());
        conf
    }

    /// What follows `options`. Words are known by how they begin, and a number may stand behind blanks.
    fn set_options(&mut self, mut rest: &[u8]) {
        while let Some(start) = rest.iter().position(|byte| !is_blank(byte)) {
            rest = &rest[start..];
            self.set(rest);
            rest = &rest[until(rest, |byte| is_blank(&byte)).len()..];
        }
    }

    fn set(&mut self, word: &[u8]) {
        if let Some(value) = word.strip_prefix(b"ndots:") {
            // Kept in four bits there: less than nothing is the most.
            let ndots = u8::try_from(number(value)).unwrap_or(NDOTS_MAX);
            self.ndots = ndots.min(NDOTS_MAX).into();
        } else if let Some(value) = word.strip_prefix(b"timeout:") {
            let seconds = u64::try_from(number(value)).unwrap_or(1);
            self.timeout = Some(Duration::from_secs(seconds.clamp(1, TIMEOUT_MAX_S)));
        } else if let Some(value) = word.strip_prefix(b"attempts:") {
            let attempts = u32::try_from(number(value)).unwrap_or(0);
            self.attempts = attempts.min(ATTEMPTS_MAX);
        } else if word.starts_with(b"rotate") {
            self.rotate = true;
        } else if word.starts_with(b"use-vc") {
            self.use_vc = true;
        } else if word.starts_with(b"no_tld_query") || word.starts_with(b"no-tld-query") {
            self.no_tld_query = true;
        }
    }
}

impl Domain {
    fn parse(word: &[u8]) -> Self {
        let name = word.strip_prefix(b".").unwrap_or(word);
        parse_name(name).map_or(Self::NoName, Self::Name)
    }

    /// The domain of the machine's own name, if that has one.
    fn of_host(hostname: &[u8]) -> Option<Self> {
        let dot = hostname.iter().position(|byte| *byte == b'.')?;
        let domain = until(&hostname[dot + 1..], |byte| byte == b'\n');
        (!domain.is_empty()).then(|| Self::parse(domain))
    }
}

/// What follows a keyword, which starts the line and ends with a blank.
fn after_keyword<'a>(line: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(keyword)?;
    rest.first().copied().filter(is_blank).map(|_| rest)
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(is_blank).filter(|word| !word.is_empty())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "a predicate for filter and split"
)]
fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn until(bytes: &[u8], is_end: impl Fn(u8) -> bool) -> &[u8] {
    let end = bytes.iter().position(|byte| is_end(*byte));
    &bytes[..end.unwrap_or(bytes.len())]
}

/// atoi(3): blanks, a sign, digits, and whatever follows.
fn number(text: &[u8]) -> i64 {
    let (negative, digits) = match text.trim_ascii_start() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let value = digits.fold(0i64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add((digit - b'0').into())
    });
    if negative { -value } else { value }
}

fn server(word: &[u8]) -> Option<SocketAddr> {
    let word = str::from_utf8(word).ok()?;
    // The older forms as well: 127.1, 0x7f000001.
    if let Some(ip) = ipv4_of(word) {
        return Some(SocketAddr::new(ip.into(), PORT));
    }
    let (ip, scope) = match word.split_once('%') {
        Some((ip, scope)) => (ip, Some(scope)),
        None => (word, None),
    };
    let ip: Ipv6Addr = ip.parse().ok()?;
    let scope = scope.map_or(0, |scope| scope_id(&ip, scope));
    Some(SocketAddrV6::new(ip, PORT, 0, scope).into())
}

/// inet_aton(3): one to four numbers, decimal, octal or hexadecimal; the last one fills what is left.
fn ipv4_of(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    let (last, leading) = parts.split_last()?;
    if leading.len() > 3 {
        return None;
    }
    let mut address = 0u64;
    for part in leading {
        address = address << 8 | ipv4_part(part).filter(|part| *part < 1 << 8)?;
    }
    let bits = 8 * (4 - leading.len());
    let address = address << bits | ipv4_part(last).filter(|part| *part < 1 << bits)?;
    u32::try_from(address).ok().map(Ipv4Addr::from)
}

fn ipv4_part(text: &str) -> Option<u64> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // A sign would be taken otherwise.
    let are_digits = digits.chars().all(|digit| digit.is_digit(radix));
    are_digits.then(|| u64::from_str_radix(digits, radix).ok())?
}

/// A zone is an interface's name or number. One that there is not means none.
fn scope_id(ip: &Ipv6Addr, scope: &str) -> u32 {
    let is_link_local = ip.is_unicast_link_local() || ip.segments()[0] & 0xff0f == 0xff02;
    let index = is_link_local.then(|| interface_index(scope)).flatten();
    index.or_else(|| scope.parse().ok()).unwrap_or(0)
}

/// The server that is asked when the file names none (resolv.conf(5)).
pub(super) fn own_machine() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT)
}

/// A domain name in its text form with escapes (RFC 1035, section 5.1), always fully qualified.
/// Labels may have any bytes, as on the wire.
fn parse_name(text: &[u8]) -> Option<Name> {
    let mut labels: Vec<Vec<u8>> = Vec::new();
    let mut label = Vec::new();
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'.' if label.is_empty() => return None,
            b'.' => labels.push(std::mem::take(&mut label)),
            b'\\' => {
                let (byte, after) = unescape(rest)?;
                label.push(byte);
                rest = after;
            }
            byte => label.push(*byte),
        }
    }
    if !label.is_empty() {
        labels.push(label);
    }
    let mut name = Name::from_labels(labels.iter().map(Vec::as_slice)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// What stands behind a backslash: three digits, or the byte itself.
fn unescape(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [a, b, c, rest @ ..] if a.is_ascii_digit() => {
            let digits = str::from_utf8(&[*a, *b, *c]).ok()?.parse().ok()?;
            Some((digits, rest))
        }
        [byte, rest @ ..] if !byte.is_ascii_digit() => Some((*byte, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(file: &str) -> ResolvConf {
        ResolvConf::parse(file.as_bytes(), b"machine\n")
    }

    fn servers(file: &str) -> Vec<String> {
        let servers = parse(file).servers;
        servers.iter().map(|s| s.ip().to_string()).collect()
    }

    fn search(file: &str) -> Vec<String> {
        let words = parse(file).search.into_iter().map(|domain| match domain {
            Domain::Name(name) => name.to_ascii(),
            Domain::NoName => "-".to_owned(),
        });
        words.collect()
    }

    #[test]
    fn servers_are_taken_in_their_order_and_three_at_most() {
        for (file, expected) in [
            (
                "nameserver 127.0.0.2\nnameserver ::1",
                vec!["127.0.0.2", "::1"],
            ),
            ("nameserver\t127.0.0.2 # x", vec!["127.0.0.2"]),
            (
                "nameserver 127.2\nnameserver 0x7f.3",
                vec!["127.0.0.2", "127.0.0.3"],
            ),
            (" nameserver 127.0.0.2\nNameserver 127.0.0.3", vec![]),
            ("nameserver 127.0.0.2\r\n", vec![]),
            ("nameserver x\nnameserver 127.0.0.2;", vec![]),
            (
                "nameserver 10.0.0.1\nnameserver bad\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n\
                 nameserver 10.0.0.4",
                vec!["10.0.0.1", "10.0.0.2", "10.0.0.3"],
            ),
            ("#nameserver 127.0.0.2\n;nameserver 127.0.0.3", vec![]),
            (
                "nameserver 127.0.0.2\0 tail\nnameserver\0 127.0.0.3",
                vec!["127.0.0.2"],
            ),
        ] {
            assert_eq!(servers(file), expected, "{file:?}");
        }
    }

    #[test]
    fn the_zone_of_a_server_is_kept() {
        let conf = parse("nameserver fe80::1%lo\nnameserver fe80::1%7\nnameserver fe80::1%none");
        let scopes = conf.servers.iter().map(|server| match server {
            SocketAddr::V6(server) => server.scope_id(),
            SocketAddr::V4(_) => unreachable!("all are IPv6"),
        });
        assert_eq!(scopes.collect::<Vec<_>>(), [1, 7, 0]);
    }

    #[test]
    fn the_last_of_search_and_domain_counts() {
        for (file, expected) in [
            ("search a b\tc", vec!["a.", "b.", "c."]),
            ("search a\ndomain b c", vec!["b."]),
            ("domain b\nsearch a", vec!["a."]),
            ("search a\nsearch \n", vec!["a."]),
            ("search .a a..b", vec!["a.", "-"]),
            ("search \"a\" . a\\046b", vec!["\\\"a\\\".", ".", "a\\.b."]),
            (
                "search 1 2 3 4 5 6 7 8",
                vec!["1.", "2.", "3.", "4.", "5.", "6.", "7.", "8."],
            ),
        ] {
            assert_eq!(search(file), expected, "{file:?}");
        }
        let long = format!("search {}.b c", "l".repeat(64));
        assert_eq!(search(&long), ["-", "c."]);
    }

    #[test]
    fn without_either_the_machines_domain_is_searched() {
        for (hostname, expected) in [
            ("a.b.c\n", vec![Domain::parse(b"b.c")]),
            ("a\n", vec![]),
            ("a.\n", vec![]),
        ] {
            let conf = ResolvConf::parse(b"", hostname.as_bytes());
            assert_eq!(conf.search, expected, "{hostname:?}");
        }
    }

    #[test]
    fn options_are_known_by_how_they_begin() {
        let conf = parse("options ndots:3x timeout:2 attempts:9 rotated odd use-vc no-tld-query");
        assert_eq!((conf.ndots, conf.attempts), (3, 5));
        assert_eq!(conf.timeout, Some(Duration::from_secs(2)));
        assert!(conf.rotate && conf.use_vc && conf.no_tld_query);
        let conf = parse("options ndots:99 timeout:0 attempts:0\noptions timeout:99");
        assert_eq!((conf.ndots, conf.attempts), (15, 0));
        assert_eq!(conf.timeout, Some(Duration::from_secs(30)));
        assert_eq!(parse("options ndots:-1 ndots:").ndots, 0);
        assert_eq!(parse("options ndots: 2").ndots, 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_file(file: Vec<u8>, hostname: Vec<u8>) {
            let conf = ResolvConf::parse(&file, &hostname);
            prop_assert!(conf.servers.len() <= SERVERS_MAX);
        }
    }
}
