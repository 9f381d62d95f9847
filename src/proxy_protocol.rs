//! The PROXY protocol's header, with which a backend learns where a client connected (HAProxy's
//! `proxy-protocol.txt`; the sections are its). Pure.
//!
//! Clients of a Unix socket have no address, so all of a listener's clients have the same header.
//! Each client of a TCP socket has its own.

use std::net::{IpAddr, SocketAddr};

/// How the header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text (section 2.1).
    V1,
    /// Binary (section 2.2).
    V2,
}

/// The line for a connection that is neither TCP over IPv4 nor over IPv6: it has no addresses, and a
/// receiver that gets it takes the connection's own.
const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// What every binary header begins with.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, and what the connection is for.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

const V2_UNSPECIFIED: u8 = 0x00;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;
const V2_UNIX_STREAM: u8 = 0x31;

/// The room for the name of a Unix socket.
const UNIX_BYTES: usize = 108;

/// The header of connections for the clients of the listener at `name`: a path, or an abstract name
/// with its leading NUL, as in `sun_path` of unix(7).
///
/// # Panics
/// If the name is longer than `sun_path`, which no listener's is.
#[must_use]
pub(crate) fn of_unix_listener(version: Version, name: &[u8]) -> Box<[u8]> {
    match version {
        Version::V1 => V1_UNKNOWN.into(),
        Version::V2 => {
            let mut addresses = [0; 2 * UNIX_BYTES];
            // The client is the source, and has no name.
            addresses[UNIX_BYTES..][..name.len()].copy_from_slice(name);
            v2(V2_PROXY, V2_UNIX_STREAM, &addresses)
        }
    }
}

/// The header of a connection for a TCP client, which connected to `local`. IPv4 clients of an IPv6
/// socket are said to be what they are.
#[must_use]
pub(crate) fn of_tcp_client(version: Version, client: SocketAddr, local: SocketAddr) -> Box<[u8]> {
    let ips = match (client.ip().to_canonical(), local.ip().to_canonical()) {
        both @ (IpAddr::V4(_), IpAddr::V4(_)) => both,
        _ => (client.ip(), local.ip()),
    };
    let ports = (client.port(), local.port());
    match version {
        Version::V1 => v1_tcp(ips, ports),
        Version::V2 => v2_tcp(ips, ports),
    }
}

/// The header of a connection for a TCP client whose addresses are not known: it has left already.
#[must_use]
pub(crate) fn of_unknown_client(version: Version) -> Box<[u8]> {
    match version {
        Version::V1 => V1_UNKNOWN.into(),
        Version::V2 => v2(V2_PROXY, V2_UNSPECIFIED, &[]),
    }
}

fn v1_tcp((client, local): (IpAddr, IpAddr), ports: (u16, u16)) -> Box<[u8]> {
    let family = match client {
        IpAddr::V4(_) => "TCP4",
        IpAddr::V6(_) => "TCP6",
    };
    let (from, to) = ports;
    let line = format!("PROXY {family} {client} {local} {from} {to}\r\n");
    line.into_bytes().into()
}

fn v2_tcp(ips: (IpAddr, IpAddr), ports: (u16, u16)) -> Box<[u8]> {
    let (family, mut addresses) = match ips {
        (IpAddr::V4(client), IpAddr::V4(local)) => {
            (V2_TCP4, [client.octets(), local.octets()].concat())
        }
        (client, local) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            (V2_TCP6, [octets(client), octets(local)].concat())
        }
    };
    addresses.extend(ports.0.to_be_bytes());
    addresses.extend(ports.1.to_be_bytes());
    v2(V2_PROXY, family, &addresses)
}

/// The header of a connection that the proxy makes for itself, to see whether the backend is there.
#[must_use]
pub(crate) fn of_check(version: Version) -> Box<[u8]> {
    match version {
        // This version cannot say it better.
        Version::V1 => V1_UNKNOWN.into(),
        Version::V2 => v2(V2_LOCAL, V2_UNSPECIFIED, &[]),
    }
}

fn v2(command: u8, family: u8, addresses: &[u8]) -> Box<[u8]> {
    let len = u16::try_from(addresses.len()).expect("two addresses are at most 216 bytes");
    let mut header = V2_SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(len.to_be_bytes());
    header.extend(addresses);
    header.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_has_no_word_for_unix_sockets() {
        let header = of_unix_listener(Version::V1, b"/run/a.sock");
        assert_eq!(&*header, b"PROXY UNKNOWN\r\n");
        assert_eq!(of_check(Version::V1), header);
    }

    #[test]
    fn version_2_has_the_listeners_path_as_the_destination() {
        let header = of_unix_listener(Version::V2, b"/run/a.sock");
        let fixed = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x31\x00\xd8";
        assert_eq!(&header[..16], fixed);
        assert_eq!(header.len(), 16 + 216);
        assert_eq!(&header[16..124], [0; 108]);
        assert_eq!(&header[124..135], b"/run/a.sock");
        assert!(header[135..].iter().all(|&byte| byte == 0));
    }

    fn tcp(version: Version, client: &str, local: &str) -> Box<[u8]> {
        of_tcp_client(version, client.parse().unwrap(), local.parse().unwrap())
    }

    #[test]
    fn tcp_clients_are_named_in_the_line() {
        for (client, local, expected) in [
            (
                "192.0.2.1:40000",
                "198.51.100.7:80",
                "PROXY TCP4 192.0.2.1 198.51.100.7 40000 80\r\n",
            ),
            (
                "[2001:db8::1]:40000",
                "[2001:db8::2]:443",
                "PROXY TCP6 2001:db8::1 2001:db8::2 40000 443\r\n",
            ),
            (
                "[::ffff:192.0.2.1]:1",
                "[::ffff:192.0.2.2]:2",
                "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            ),
        ] {
            let line = tcp(Version::V1, client, local);
            assert_eq!(str::from_utf8(&line), Ok(expected));
        }
    }

    #[test]
    fn tcp_clients_are_named_in_bytes() {
        let v4 = tcp(Version::V2, "192.0.2.1:258", "198.51.100.7:80");
        assert_eq!(v4[12..16], [0x21, 0x11, 0, 12]);
        assert_eq!(v4[16..], [192, 0, 2, 1, 198, 51, 100, 7, 1, 2, 0, 80]);
        let v6 = tcp(Version::V2, "[2001:db8::1]:258", "[2001:db8::2]:443");
        assert_eq!(v6[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(v6.len(), 16 + 36);
        assert_eq!((v6[31], v6[47]), (1, 2));
        assert_eq!(v6[48..], [1, 2, 1, 187]);
        let mapped = tcp(Version::V2, "[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2");
        assert_eq!(mapped[13], 0x11);
    }

    #[test]
    fn a_client_that_has_left_is_unknown() {
        assert_eq!(&*of_unknown_client(Version::V1), b"PROXY UNKNOWN\r\n");
        assert_eq!(of_unknown_client(Version::V2)[12..], [0x21, 0, 0, 0]);
    }

    #[test]
    fn the_longest_name_fits() {
        let name = [b'x'; 108];
        assert_eq!(of_unix_listener(Version::V2, &name)[124..], name);
    }

    #[test]
    fn version_2_says_that_a_check_is_nobodys_connection() {
        let header = of_check(Version::V2);
        let expected = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x20\x00\x00\x00";
        assert_eq!(&*header, expected);
    }
}
