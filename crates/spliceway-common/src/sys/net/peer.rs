//! What the kernel knows of a socket and of who is behind it.

use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::super::{Errno, check};
use super::option::{int_option, socklen};

/// Who made a connection to a Unix socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerCredentials {
    /// The process's effective user; the overflow user for one that has no number here
    /// (user_namespaces(7)).
    pub uid: u32,
    /// Its effective group, in the same way.
    pub gid: u32,
    /// The process; 0 for one that cannot be seen from here (pid_namespaces(7)).
    pub pid: u32,
}

/// What the kernel says of users and groups where there is nothing to say.
const NOBODY_AT_ALL: u32 = u32::MAX;

/// Who made this connection, as it was then (unix(7), `SO_PEERCRED`). `None` where the kernel does not
/// know, as of TCP.
pub fn peer_credentials(socket: &OwnedFd) -> Option<PeerCredentials> {
    let mut found = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = socklen::<libc::ucred>();
    // SAFETY: the pointers are to a live ucred and to its length, which bounds what is written.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    })
    .ok()?;
    (found.uid != NOBODY_AT_ALL).then(|| PeerCredentials {
        uid: found.uid,
        gid: found.gid,
        pid: u32::try_from(found.pid).unwrap_or(0),
    })
}

/// Both ends of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// Who connected.
    pub client: SocketAddr,
    /// What was connected to.
    pub local: SocketAddr,
}

/// Both ends of a connection that was accepted. EAFNOSUPPORT if it is not one over IP, ENOTCONN if it
/// is broken already.
pub fn addresses(socket: &OwnedFd) -> Result<Addresses, Errno> {
    Ok(Addresses {
        client: ip_address(socket.as_fd(), libc::getpeername)?,
        local: ip_address(socket.as_fd(), libc::getsockname)?,
    })
}

/// Where a socket is. EAFNOSUPPORT if it is not one of IP.
pub fn local_address(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    ip_address(socket, libc::getsockname)
}

/// What getsockname(2) and getpeername(2) have in common.
type NameCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn ip_address(socket: BorrowedFd<'_>, call: NameCall) -> Result<SocketAddr, Errno> {
    // SAFETY: sockaddr_storage is plain integers, for which all-zero bytes are a valid value.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut len = socklen::<libc::sockaddr_storage>();
    let address = (&raw mut storage).cast::<libc::sockaddr>();
    // SAFETY: both calls write an address of at most `len` bytes, the size of `storage`, which is live.
    check(unsafe { call(socket.as_raw_fd(), address, &raw mut len) })?;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a sockaddr_in, and sockaddr_storage is aligned for it.
            let v4 = unsafe { (&raw const storage).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Ok((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { (&raw const storage).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Ok((ip, u16::from_be(v6.sin6_port)).into())
        }
        _ => Err(Errno(libc::EAFNOSUPPORT)),
    }
}

/// What a socket is (socket(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nature {
    /// The address family, such as `AF_UNIX`.
    pub family: i32,
    /// The type, such as `SOCK_STREAM`.
    pub kind: i32,
    /// The protocol, such as `IPPROTO_TCP`; 0 for AF_UNIX.
    pub protocol: i32,
    /// Whether it accepts connections.
    pub listens: bool,
}

/// What a socket is. ENOTSOCK if the descriptor is something else.
pub fn nature(socket: BorrowedFd<'_>) -> Result<Nature, Errno> {
    Ok(Nature {
        family: int_option(socket, libc::SO_DOMAIN)?,
        kind: int_option(socket, libc::SO_TYPE)?,
        protocol: int_option(socket, libc::SO_PROTOCOL)?,
        listens: int_option(socket, libc::SO_ACCEPTCONN)? != 0,
    })
}

/// Whether it is a socket of AF_UNIX.
pub fn is_unix(socket: BorrowedFd<'_>) -> bool {
    int_option(socket, libc::SO_DOMAIN) == Ok(libc::AF_UNIX)
}

/// The most supplementary groups that a process can have (`NGROUPS_MAX` of limits.h).
const GROUPS_MAX: usize = 65_536;

/// As many as most processes have, so that one call is enough for them.
const GROUPS_USUAL: usize = 32;

/// The supplementary groups of who made this connection, as they were then (`SO_PEERGROUPS`).
pub fn peer_groups(socket: &OwnedFd) -> Result<Vec<u32>, Errno> {
    let mut groups = vec![0_u32; GROUPS_USUAL];
    loop {
        let bytes = groups.len() * size_of::<u32>();
        let mut len = libc::socklen_t::try_from(bytes).map_err(|_| Errno(libc::ERANGE))?;
        // SAFETY: the pointers are to live integers and to their length in bytes, which bounds what is
        // written.
        let got = check(unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        });
        let count = len as usize / size_of::<u32>();
        match got {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // The length says how many there are: they belong to the connection and do not change.
            Err(Errno(libc::ERANGE)) if groups.len() < count && count <= GROUPS_MAX => {
                groups.resize(count, 0);
            }
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_does_not_tell_who_a_client_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = OwnedFd::from(listener.accept().unwrap().0);
        assert_eq!(peer_credentials(&accepted), None);
        assert!(peer_groups(&accepted).is_err());
        assert!(!is_unix(accepted.as_fd()));
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let ours = OwnedFd::from(ours);
        assert!(peer_credentials(&ours).is_some() && is_unix(ours.as_fd()));
    }
}
