//! getaddrinfo(3). The standard library's does not tell "there is no such name" from "nobody
//! answered", and that is what decides whether addresses may be given up.

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

/// Why there are no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// The name does not exist, or not with addresses.
    NoSuchName,
    /// It is not known, for this reason.
    NoAnswer(String),
}

/// The addresses of a host, as nsswitch.conf(5) has them found. May block for minutes.
pub(crate) fn addresses_of(host: &str) -> Result<Vec<IpAddr>, LookupError> {
    let Ok(host) = CString::new(host) else {
        return Err(LookupError::NoSuchName);
    };
    // SAFETY: addrinfo is integers and pointers, for which all-zero bytes are a valid value.
    let mut hints: libc::addrinfo = unsafe { mem::zeroed() };
    // One entry for each address, not one for each kind of socket as well.
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list: *mut libc::addrinfo = ptr::null_mut();
    // SAFETY: the strings and the structures are live for the call, and a null service is allowed.
    let code =
        unsafe { libc::getaddrinfo(host.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    if code != 0 {
        return Err(error(code));
    }
    let addresses = collect(list);
    // SAFETY: the list is the one that getaddrinfo just made, and nothing of it is used afterwards.
    unsafe { libc::freeaddrinfo(list) };
    Ok(addresses)
}

/// The number of an interface of this name, if there is one.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero byte and is live for the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

fn error(code: libc::c_int) -> LookupError {
    match code {
        libc::EAI_NONAME | libc::EAI_NODATA => LookupError::NoSuchName,
        libc::EAI_SYSTEM => LookupError::NoAnswer(io::Error::last_os_error().to_string()),
        code => {
            // SAFETY: the call takes no pointers.
            let text = unsafe { libc::gai_strerror(code) };
            // SAFETY: gai_strerror returns a static string for every code.
            let text = unsafe { CStr::from_ptr(text) };
            LookupError::NoAnswer(text.to_string_lossy().into_owned())
        }
    }
}

fn collect(list: *const libc::addrinfo) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut next = list;
    // SAFETY: getaddrinfo's list ends with a null pointer, and its entries live until it is freed,
    // which the caller does afterwards.
    while let Some(entry) = unsafe { next.as_ref() } {
        addresses.extend(address(entry));
        next = entry.ai_next;
    }
    addresses
}

fn address(entry: &libc::addrinfo) -> Option<IpAddr> {
    match entry.ai_family {
        libc::AF_INET => {
            let raw: *const libc::sockaddr_in = entry.ai_addr.cast();
            // SAFETY: an entry of this family has an address of this type; it may be null in
            // theory only, and unaligned in theory only.
            let raw = unsafe { raw.as_ref() }?;
            Some(Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            let raw: *const libc::sockaddr_in6 = entry.ai_addr.cast();
            // SAFETY: as above.
            let raw = unsafe { raw.as_ref() }?;
            Some(Ipv6Addr::from(raw.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_addresses_are_found_without_asking_anyone() {
        for ip in ["127.0.0.5", "192.0.2.1", "::1", "2001:db8::1"] {
            assert_eq!(addresses_of(ip), Ok(vec![ip.parse().unwrap()]));
        }
    }

    #[test]
    fn what_cannot_be_a_name_does_not_exist() {
        assert_eq!(addresses_of("a\0b"), Err(LookupError::NoSuchName));
    }

    #[test]
    fn the_codes_are_told_apart() {
        assert_eq!(error(libc::EAI_NONAME), LookupError::NoSuchName);
        assert_eq!(error(libc::EAI_NODATA), LookupError::NoSuchName);
        for code in [libc::EAI_AGAIN, libc::EAI_FAIL, libc::EAI_MEMORY] {
            let error = error(code);
            assert!(
                matches!(&error, LookupError::NoAnswer(text) if !text.is_empty()),
                "{error:?}"
            );
        }
    }
}
