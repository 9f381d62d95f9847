//! A backend as it is configured: where it is, and how much of what is new it gets.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use super::{AddressError, BackendAddress};

/// What a weight is written behind.
const WEIGHT: &str = "weight=";

/// A backend, and its part of what is new.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Where it is.
    pub address: BackendAddress,
    /// The weight of each of its addresses, compared with those of other backends: 1 if none is given. Services have
    /// none here, because their records say it.
    pub weight: NonZeroU16,
}

/// Why a text is no backend, and how to write it right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// It is not where one could be.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It is no number that SRV records could have, or 0.
    #[error(
        "'{weight}' is not a weight (write a whole number from 1 to 65535, for example php.internal:9000 weight=3)"
    )]
    Weight {
        /// What stands where it belongs.
        weight: String,
    },
    /// There are two of them.
    #[error("weight= is given twice (remove one of them)")]
    TwoWeights,
    /// A service has weights of its own.
    #[error("a service has no weight: its records have (remove weight=)")]
    ServiceWeight,
}

impl From<BackendAddress> for Backend {
    fn from(address: BackendAddress) -> Self {
        Self {
            address,
            weight: NonZeroU16::MIN,
        }
    }
}

impl FromStr for Backend {
    type Err = BackendError;

    /// `ADDRESS`, or `ADDRESS weight=N`. The path of a socket may have blanks; one that ends in such a word cannot be
    /// given.
    fn from_str(text: &str) -> Result<Self, BackendError> {
        let Some((address, weight)) = split_weight(text) else {
            let address: BackendAddress = text.parse()?;
            return Ok(address.into());
        };
        let address = address.trim_end();
        if split_weight(address).is_some() {
            return Err(BackendError::TwoWeights);
        }
        let address = address.parse()?;
        // The standard parser takes a plus sign, which nobody means.
        let digits_only = weight.bytes().all(|byte| byte.is_ascii_digit());
        let weight = match weight.parse() {
            Ok(weight) if digits_only => weight,
            _ => {
                let weight = weight.to_owned();
                return Err(BackendError::Weight { weight });
            }
        };
        match address {
            BackendAddress::Service { .. } => Err(BackendError::ServiceWeight),
            address => Ok(Self { address, weight }),
        }
    }
}

/// What stands before the weight, and what should be one.
fn split_weight(text: &str) -> Option<(&str, &str)> {
    let (before, last) = text.rsplit_once(char::is_whitespace)?;
    Some((before, last.strip_prefix(WEIGHT)?))
}

/// The form that [`FromStr`] reads.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        match self.weight {
            NonZeroU16::MIN => Ok(()),
            weight => write!(f, " {WEIGHT}{weight}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(text: &str) -> Result<Backend, BackendError> {
        text.parse()
    }

    #[test]
    fn a_weight_stands_behind_the_address() {
        for (text, address, weight, shown) in [
            ("a:9000", "a:9000", 1, "tcp:a:9000"),
            ("a:9000 weight=3", "a:9000", 3, "tcp:a:9000 weight=3"),
            (
                "[::1]:9000  weight=65535",
                "[::1]:9000",
                65535,
                "tcp:[::1]:9000 weight=65535",
            ),
            (
                "unix:/run/a b.sock\tweight=02",
                "unix:/run/a b.sock",
                2,
                "unix:/run/a b.sock weight=2",
            ),
            (
                "unix:/run/a b.sock",
                "unix:/run/a b.sock",
                1,
                "unix:/run/a b.sock",
            ),
            (
                "10.0.0.1:9000 weight=1",
                "10.0.0.1:9000",
                1,
                "tcp:10.0.0.1:9000",
            ),
            ("srv:_a._tcp.b", "srv:_a._tcp.b", 1, "srv:_a._tcp.b"),
        ] {
            let read = backend(text).unwrap();
            assert_eq!(read.address, address.parse().unwrap(), "{text}");
            assert_eq!(read.weight.get(), weight, "{text}");
            assert_eq!(read.to_string(), shown);
            assert_eq!(backend(shown), Ok(read));
        }
    }

    #[test]
    fn what_is_no_weight_is_refused() {
        for weight in ["0", "", "65536", "-1", "+1", "1.5", "a", "3,"] {
            let error = backend(&format!("a:9000 weight={weight}")).unwrap_err();
            let weight = weight.to_owned();
            assert_eq!(error, BackendError::Weight { weight });
        }
        let twice = backend("unix:/run/a weight=4 weight=1");
        assert_eq!(twice, Err(BackendError::TwoWeights));
        assert_eq!(
            backend("srv:_a._tcp.b weight=1"),
            Err(BackendError::ServiceWeight)
        );
        for text in [
            "weight=3",
            " weight=3",
            "a:9000weight=3",
            "a:9000 Weight=3",
            "a:9000 weight=3 x",
        ] {
            assert!(
                matches!(backend(text), Err(BackendError::Address(_))),
                "{text}"
            );
        }
    }
}
