//! Addresses in the form that system calls take, and the names of Unix sockets.

use std::fmt;
use std::mem;
use std::net::SocketAddr;

use super::option::socklen;

/// A socket address in the form that system calls take.
#[derive(Clone, Copy)]
pub struct RawAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl RawAddress {
    /// Where the kernel reads the address from. Valid while this value stays where it is.
    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    /// How many bytes of it count.
    pub fn socklen(&self) -> libc::socklen_t {
        self.len
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        // SAFETY: sockaddr_storage is plain integers, for which all-zero bytes are a valid value.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let len = match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: family(libc::AF_INET),
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is defined to be large enough and aligned for every
                // address type, and nothing else refers to `storage`.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
                socklen::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: family(libc::AF_INET6),
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above, for the larger of the two types.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
                socklen::<libc::sockaddr_in6>()
            }
        };
        Self { storage, len }
    }
}

/// The name of a Unix socket to connect to. Names come from the configuration, and each lives as long
/// as the process: so it can be copied like an address, on a path where nothing is allocated.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnixName(&'static [u8]);

impl UnixName {
    /// The name of a path, or of an abstract socket (without its leading NUL), which both must fit
    /// into an address: at most 107 bytes.
    ///
    /// # Panics
    /// If it does not fit; whoever reads names from the user has refused it.
    pub fn new(name: &[u8], kind: UnixKind) -> Self {
        assert!(Self::fits(name), "it fits into an address");
        let mut bytes = name.to_vec();
        match kind {
            // A path ends with a NUL, an abstract name begins with one.
            UnixKind::Path => bytes.push(0),
            UnixKind::Abstract => bytes.insert(0, 0),
        }
        Self(Box::leak(bytes.into_boxed_slice()))
    }

    /// Whether a name fits into an address.
    pub fn fits(name: &[u8]) -> bool {
        name.len() < UNIX_NAME_BYTES
    }

    /// The name without its NUL, and where it is.
    pub fn parts(self) -> (&'static [u8], UnixKind) {
        match self.0 {
            [0, name @ ..] => (name, UnixKind::Abstract),
            [path @ .., _] => (path, UnixKind::Path),
            [] => unreachable!("it has its NUL at least"),
        }
    }
}

/// Where a Unix socket's name is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnixKind {
    /// In the file system.
    Path,
    /// In Linux's abstract namespace.
    Abstract,
}

/// `unix:/path` or `unix:@name`
impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [0, name @ ..] => write!(f, "unix:@{}", name.escape_ascii()),
            [path @ .., _] => write!(f, "unix:{}", path.escape_ascii()),
            [] => unreachable!("it has its NUL at least"),
        }
    }
}

impl fmt::Debug for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The room for a name with its NUL (unix(7)).
const UNIX_NAME_BYTES: usize = 108;

impl From<UnixName> for RawAddress {
    fn from(name: UnixName) -> Self {
        let mut raw = libc::sockaddr_un {
            sun_family: family(libc::AF_UNIX),
            sun_path: [0; UNIX_NAME_BYTES],
        };
        for (to, from) in raw.sun_path.iter_mut().zip(name.0) {
            *to = from.cast_signed();
        }
        // SAFETY: sockaddr_storage is plain integers, for which all-zero bytes are a valid value.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        // SAFETY: sockaddr_storage is defined to be large enough and aligned for every address type,
        // and nothing else refers to `storage`.
        unsafe { (&raw mut storage).cast::<libc::sockaddr_un>().write(raw) };
        let len = mem::offset_of!(libc::sockaddr_un, sun_path) + name.0.len();
        let len = libc::socklen_t::try_from(len).expect("at most 110");
        Self { storage, len }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the address families are 1, 2 and 10"
)]
const fn family(family: libc::c_int) -> libc::sa_family_t {
    family.cast_unsigned() as libc::sa_family_t
}
