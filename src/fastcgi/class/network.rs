//! Networks of IP addresses, as `10.0.0.0/8` and `2001:db8::/32`.
//!
//! An IPv4 address that is written as one of IPv6 (`::ffff:192.0.2.1`) is that IPv4 address, in a network as well as in
//! what a web server sends: sockets for both families have it so.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The longest text of an address, with an IPv4 part and all zeros written out.
const ADDRESS_BYTES_MAX: usize = 45;

/// The bits in front of the IPv4 part of an address that is written as one of IPv6.
const MAPPED_BITS: u8 = 96;

/// All addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    base: IpAddr,
    bits: u8,
}

/// Why a text is no network, and how to write it right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// What stands in front of the slash.
    #[error("not an IP address (write for example 10.0.0.0/8 or 2001:db8::/32)")]
    Address,
    /// What stands behind it.
    #[error("not a number of bits from 0 to {most} behind the '/'")]
    Bits {
        /// The length of an address.
        most: u8,
    },
    /// It would not say what it seems to.
    #[error("its address has more bits than it says (write {network})")]
    Host {
        /// The network that it is in.
        network: String,
    },
}

/// The address that a parameter has, if it is one.
pub(super) fn address(value: &[u8]) -> Option<IpAddr> {
    if value.len() > ADDRESS_BYTES_MAX {
        return None;
    }
    let address: IpAddr = std::str::from_utf8(value).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

impl Network {
    /// Whether this address, which is canonical, is one of its own.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        length(address) == length(self.base) && first(address, self.bits) == self.base
    }
}

/// How many bits it has.
fn length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address with only so many of its bits.
fn first(address: IpAddr, bits: u8) -> IpAddr {
    let cleared = u32::from(length(address) - bits);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(cleared).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(cleared).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        let most = length(address);
        let digits = |bits: &&str| bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            None => most,
            Some(bits) => {
                let number = Some(bits).filter(digits).and_then(|b| b.parse::<u8>().ok());
                let number = number.filter(|bits| *bits <= most);
                number.ok_or(NetworkError::Bits { most })?
            }
        };
        let base = first(address, bits);
        if base != address {
            let network = Self { base, bits }.to_string();
            return Err(NetworkError::Host { network });
        }
        Ok(match (base.to_canonical(), bits) {
            (v4 @ IpAddr::V4(_), MAPPED_BITS..) if base.is_ipv6() => Self {
                base: v4,
                bits: bits - MAPPED_BITS,
            },
            _ => Self { base, bits },
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}
