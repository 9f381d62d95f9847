//! A network of our own: enter one, and bring its loopback up.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Errno, check};

/// Moves the calling thread, and what it starts from now on, into a new network namespace.
///
/// # Errors
/// What unshare(2) gives: EPERM without the privilege, ENOSYS or EINVAL without the feature.
pub fn enter_network() -> Result<(), Errno> {
    unshare(libc::CLONE_NEWNET)
}

/// The same for whoever has no privileges: the network belongs to a new user namespace, in which
/// this process has them until it starts another program. Works only before there are threads.
///
/// # Errors
/// As [`enter_network`]; EINVAL if there are threads already.
pub fn enter_user_and_network() -> Result<(), Errno> {
    unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)
}

fn unshare(what: libc::c_int) -> Result<(), Errno> {
    // SAFETY: unshare takes flags by value and touches no memory. Of the things that it can unshare
    // only namespaces are asked for, so threads go on sharing memory, descriptors and signals as
    // the runtime expects.
    check(unsafe { libc::unshare(what) }).map(drop)
}

/// The ids that this process acts under: user and group.
#[must_use]
pub fn effective_ids() -> (u32, u32) {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    let user = unsafe { libc::geteuid() };
    // SAFETY: getegid takes nothing, touches no memory and cannot fail.
    let group = unsafe { libc::getegid() };
    (user, group)
}

/// Brings the loopback interface of the calling thread's network up: a new one has it down.
///
/// # Errors
/// What the interface ioctls give, EPERM among it (netdevice(7)).
pub fn raise_loopback() -> io::Result<()> {
    let socket = any_socket()?;
    // SAFETY: ifreq is integers and a union of integers and null-able pointers, for which all-zero
    // bytes are a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    // SAFETY: the request reads a name, which ends with a zero byte, from the live ifreq and writes
    // the flags into it.
    let got = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    check(got)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "IFF_UP is 1, and the kernel's field is 16 bits wide"
    )]
    let up = libc::IFF_UP as libc::c_short;
    // SAFETY: the call above has written this field of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | up;
    // SAFETY: the request only reads the live ifreq.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(set)?;
    Ok(())
}

/// What interface ioctls go through.
fn any_socket() -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
    // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Runs on a thread of its own, which alone changes over.
    #[test]
    fn a_new_network_has_a_loopback_that_nobody_else_sees() {
        let tried = std::thread::spawn(|| {
            enter_network()?;
            raise_loopback().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            TcpStream::connect(address).unwrap();
            Ok::<_, Errno>((listener, address))
        });
        match tried.join().unwrap() {
            Ok((_listener, address)) => assert!(TcpStream::connect(address).is_err()),
            Err(errno) => assert_ne!(effective_ids().0, 0, "root may not, says {errno:?}"),
        }
    }
}
