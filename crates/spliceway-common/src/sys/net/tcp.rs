//! What is special about TCP: options towards backends, acknowledgements, how a close ends (tcp(7)).

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::super::{Errno, check};
use super::RawAddress;
use super::option::{int_option_of, set_option, socklen};

/// What TCP sockets towards backends are given besides TCP_NODELAY. Each thing that is `None` is
/// left to the kernel, and costs no system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Probes of an idle connection (tcp(7), SO_KEEPALIVE).
    pub keepalive: Option<Keepalive>,
    /// How long sent bytes may stay without acknowledgement (tcp(7), TCP_USER_TIMEOUT), to the
    /// millisecond.
    pub user_timeout: Option<Duration>,
    /// Where connections come from.
    pub source: Source,
}

/// When an idle connection is probed, and given up. The kernel counts in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// Without a byte for this long, the first probe is sent.
    pub idle_seconds: u16,
    /// The time between probes.
    pub interval_seconds: u16,
    /// So many probes without an answer, and the connection is broken.
    pub count: u16,
}

/// The local address of connections, for each family. Neither: the kernel chooses for both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Source {
    /// Towards IPv4 endpoints.
    pub v4: Option<Ipv4Addr>,
    /// Towards IPv6 endpoints.
    pub v6: Option<Ipv6Addr>,
}

impl Source {
    /// Whether a connection to `endpoint` can come from here: who gives an address of one family
    /// only means that connections come from no other.
    pub fn reaches(self, endpoint: &SocketAddr) -> bool {
        self == Self::default() || self.towards(endpoint).is_some()
    }

    fn towards(self, endpoint: &SocketAddr) -> Option<SocketAddr> {
        let ip = match endpoint {
            SocketAddr::V4(_) => self.v4.map(IpAddr::from),
            SocketAddr::V6(_) => self.v6.map(IpAddr::from),
        };
        ip.map(|ip| SocketAddr::new(ip, 0))
    }
}

/// A new TCP socket for the family of `like`: non-blocking, close-on-exec, without Nagle's delay
/// (a relay that holds small writes back adds 40 ms to a request that was sent in two parts).
pub fn tcp_socket(like: &SocketAddr, options: &TcpOptions) -> Result<OwnedFd, Errno> {
    let family = match like {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::socket(family, kind, libc::IPPROTO_TCP) })?;
    // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32)?;
    configure_tcp(socket.as_fd(), like, options)?;
    Ok(socket)
}

/// Gives an unconnected socket of [`tcp_socket`], made without options for the family of `like`, these.
pub fn configure_tcp(
    socket: BorrowedFd<'_>,
    like: &SocketAddr,
    options: &TcpOptions,
) -> Result<(), Errno> {
    if let Some(keepalive) = options.keepalive {
        keep_alive(socket, keepalive)?;
    }
    if let Some(timeout) = options.user_timeout {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        set_option(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &millis)?;
    }
    match options.source.towards(like) {
        Some(source) => bind_source(socket, source),
        None => Ok(()),
    }
}

fn keep_alive(socket: BorrowedFd<'_>, keepalive: Keepalive) -> Result<(), Errno> {
    for (name, value) in [
        (libc::TCP_KEEPIDLE, keepalive.idle_seconds),
        (libc::TCP_KEEPINTVL, keepalive.interval_seconds),
        (libc::TCP_KEEPCNT, keepalive.count),
    ] {
        set_option(socket, libc::IPPROTO_TCP, name, &i32::from(value))?;
    }
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1_i32)
}

/// The port is chosen when the socket connects (IP_BIND_ADDRESS_NO_PORT in ip(7), which IPv6 sockets
/// take as well): one that bind(2) chose would be taken for all destinations at once, and the ports
/// would be used up at some 28,000 connections altogether.
fn bind_source(socket: BorrowedFd<'_>, source: SocketAddr) -> Result<(), Errno> {
    let option = libc::IP_BIND_ADDRESS_NO_PORT;
    set_option(socket, libc::IPPROTO_IP, option, &1_i32)?;
    let address = RawAddress::from(source);
    // SAFETY: `address` is a live sockaddr of the length that it reports.
    check(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr(), address.socklen()) }).map(drop)
}

/// Lets the packet that completes the handshake wait for the first bytes that we send, so that both
/// go in one, and the backend is woken once and finds the bytes there. The kernel stops waiting after
/// 200 ms (`TCP_DELACK_MAX`). Before a connect, this is what clearing TCP_QUICKACK does
/// (`tcp_rcv_synsent_state_process`).
///
/// [`acknowledge`] is owed after each send until something was received: what goes out within 40 ms looks
/// like the answer to something that was just received (`tcp_event_data_sent`), so the kernel would wait
/// for bytes to send with its next acknowledgements, for 40 ms each, and a backend without TCP_NODELAY
/// would wait for those before it sent the second piece of its answer.
pub fn delay_handshake(socket: &OwnedFd) -> Result<(), Errno> {
    set_option(
        socket.as_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_QUICKACK,
        &0_i32,
    )
}

/// Sends the acknowledgement that is due now and does not delay the next ones (TCP_QUICKACK in tcp(7),
/// which does not last: sending makes the kernel wait again for bytes to send with it).
pub fn acknowledge(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, &1_i32)
}

/// How many bytes of data the peer of a TCP socket has acknowledged. The kernel's counter
/// (`tcpi_bytes_acked`, RFC 4898) counts the SYN as well.
pub fn acknowledged(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    // SAFETY: the struct has only integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = socklen::<libc::tcp_info>();
    // SAFETY: both pointers are to live locals, and `len` is the size of the first.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    })?;
    Ok(info.tcpi_bytes_acked.saturating_sub(1))
}

/// Turns Nagle's delay off; what a listener accepts inherits it.
pub fn set_nodelay(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32)
}

/// Whether [`set_nodelay`] has worked.
#[must_use]
pub fn has_nodelay(socket: &OwnedFd) -> bool {
    int_option_of(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY) == Ok(1)
}

/// Makes the next close of this TCP socket send a reset and throw away what is unsent.
pub fn reset_on_close(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// A close of what this TCP listener accepts from now on does not wait for bytes to be acknowledged, whoever
/// has asked for that (SO_LINGER is inherited, and a close waits even if the socket is non-blocking).
pub fn forbid_lingering(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    let linger = libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    set_option(listener, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(socket: &OwnedFd, level: libc::c_int, name: libc::c_int) -> libc::c_int {
        int_option_of(socket.as_fd(), level, name).unwrap()
    }

    #[test]
    fn by_default_only_the_delay_is_changed() {
        let like = "127.0.0.1:0".parse().unwrap();
        let socket = tcp_socket(&like, &TcpOptions::default()).unwrap();
        assert_eq!(option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY), 1);
        assert_eq!(option(&socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 0);
        assert_eq!(
            option(&socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
            0
        );
        assert_eq!(
            option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
            0
        );
    }

    #[test]
    fn what_is_asked_for_is_set() {
        let options = TcpOptions {
            keepalive: Some(Keepalive {
                idle_seconds: 60,
                interval_seconds: 20,
                count: 3,
            }),
            user_timeout: Some(Duration::from_millis(1500)),
            source: Source {
                v4: Some(Ipv4Addr::new(127, 0, 0, 9)),
                v6: None,
            },
        };
        let like = "127.0.0.1:0".parse().unwrap();
        let socket = tcp_socket(&like, &options).unwrap();
        assert_eq!(option(&socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
        for (name, value) in [
            (libc::TCP_KEEPIDLE, 60),
            (libc::TCP_KEEPINTVL, 20),
            (libc::TCP_KEEPCNT, 3),
            (libc::TCP_USER_TIMEOUT, 1500),
        ] {
            assert_eq!(option(&socket, libc::IPPROTO_TCP, name), value);
        }
        let bound = std::net::TcpStream::from(socket).local_addr().unwrap();
        // The port is chosen when it connects.
        assert_eq!(bound, "127.0.0.9:0".parse().unwrap());
    }

    #[test]
    fn a_source_of_one_family_reaches_no_other() {
        let (v4, v6) = ("192.0.2.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
        let source = Source {
            v4: None,
            v6: Some(Ipv6Addr::LOCALHOST),
        };
        assert!(Source::default().reaches(&v4) && Source::default().reaches(&v6));
        assert!(!source.reaches(&v4) && source.reaches(&v6));
    }
}
