//! Network interfaces of the calling thread's network: give one an address, bring it up (netdevice(7)).

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Errno, check};

/// What the kernel takes for an interface's name, the zero byte at its end not counted.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Brings an interface up.
///
/// # Errors
/// What the interface ioctls give, EPERM and ENODEV among it.
pub fn raise(name: &str) -> io::Result<()> {
    let socket = any_socket()?;
    let mut request = request_about(name)?;
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

/// Gives an interface an address and the network that is behind it.
///
/// # Errors
/// As [`raise`].
pub fn set_address(name: &str, address: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
    let socket = any_socket()?;
    let mut request = request_about(name)?;
    request.ifr_ifru.ifru_addr = socket_address(address);
    // SAFETY: the request only reads the live ifreq, of which name and address are written.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &raw const request) };
    check(set)?;
    request.ifr_ifru.ifru_netmask = socket_address(mask);
    // SAFETY: as above.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFNETMASK, &raw const request) };
    check(set)?;
    Ok(())
}

/// How many packets may wait on their way out.
///
/// # Errors
/// As [`raise`].
pub fn set_queue_len(name: &str, packets: u16) -> io::Result<()> {
    let socket = any_socket()?;
    let mut request = request_about(name)?;
    // `ifr_qlen` in C: another name for the same integer of the union.
    request.ifr_ifru.ifru_metric = packets.into();
    // SAFETY: the request only reads the live ifreq, of which name and length are written.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN, &raw const request) };
    check(set)?;
    Ok(())
}

/// A request with the interface's name and zeros behind it.
pub(super) fn request_about(name: &str) -> io::Result<libc::ifreq> {
    if name.len() > NAME_MAX || name.bytes().any(|byte| byte == 0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: ifreq is integers and a union of integers and null-able pointers, for which all-zero
    // bytes are a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let address = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).expect("it is 2"),
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address.octets()),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes of integers, of which the first two are the family: sockaddr is what
    // the kernel's interface has for an address of any family that fits into it.
    unsafe { mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) }
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
    use super::*;

    #[test]
    fn a_name_that_does_not_fit_is_refused_and_not_cut() {
        assert!(request_about("a234567890123456").is_err());
        assert!(request_about("lo\0").is_err());
        assert!(request_about("a23456789012345").is_ok());
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let error = raise("not-there").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
