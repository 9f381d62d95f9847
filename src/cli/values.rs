//! The values that options of several programs take, and why one is refused.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::config::address::SOCKET_NAME_BYTES_MAX;
use crate::config::{BUSY_POLL_MAX, CONNECTIONS_MAX, DNS_TTL_FLOOR, Part, TIMEOUT_MAX};

/// Why the value of an option is refused, and how to write it right.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// Not the bounds of a number that is found out.
    #[error(
        "not bounds (write 'auto', or the least and the most as in 'auto:2-64', from 1 to {CONNECTIONS_MAX})"
    )]
    AutoRange,
    /// Not digits from 0 to 7.
    #[error("not an octal mode (write three octal digits, for example 0660)")]
    Mode,
    /// A mode with bits that sockets do not use.
    #[error("more than the permissions of user, group and others (use at most 0777)")]
    ModeTooWide,
    /// Not a number, or out of range.
    #[error("not a whole number from {least} to {most}")]
    Count {
        /// The smallest number taken.
        least: String,
        /// The largest.
        most: String,
    },
    /// Not a number of bytes.
    #[error("not a size (write bytes or a number and its unit, for example 600, 4KiB or 5MB)")]
    Size,
    /// More bytes than the option takes.
    #[error("too large (use at most {most} bytes)")]
    SizeTooLarge {
        /// The largest size taken.
        most: u64,
    },
    /// Not a time.
    #[error("{cause} (write a number and its unit, for example 500ms or 5s)")]
    Duration {
        /// What the parser found.
        cause: humantime::DurationError,
    },
    /// Not a time span of systemd's.
    #[error("not a time span (write for example 30s or '5min 30s', or 'infinity' for no limit)")]
    TimeSpan,
    /// A time of 0 where there must be one.
    #[error("no time at all (write a longer one, for example 5s)")]
    Zero,
    /// The same for an option that can be turned off.
    #[error("no time at all (write a longer one, for example 5s, or 'off' for no limit)")]
    ZeroNotOff,
    /// A time to live below the least.
    #[error(
        "too short (use at least {})",
        humantime::format_duration(DNS_TTL_FLOOR)
    )]
    TtlTooShort,
    /// Refreshes that nobody can follow.
    #[error("too often (use at least 100ms)")]
    WatchTooOften,
    /// A time that the kernel's keepalive does not take.
    #[error(
        "not a time that the kernel takes (write one from 1s to 9h, for example 60s, or 'off')"
    )]
    Keepalive,
    /// The same for TCP_USER_TIMEOUT.
    #[error(
        "not a time that the kernel takes (write one from 1ms to 24days, for example 30s, or 'off')"
    )]
    UserTimeout,
    /// Not a time for which a worker looks for work.
    #[error(
        "not a time to keep a core busy for (write one from 1ns to 10ms, for example 50us, or 'off')"
    )]
    BusyPoll,
    /// Not the path of a socket.
    #[error(
        "not a path for a socket (write it from the root, with at most {SOCKET_NAME_BYTES_MAX} bytes, \
         for example /run/spliceway/control.sock)"
    )]
    SocketPath,
    /// Not an IP address with a port.
    #[error("not an address (write IP:PORT, for example 127.0.0.1:9145 or [::1]:9145)")]
    SocketAddress,
    /// Not a parameter with its value.
    #[error("not a name and a value (write NAME=VALUE)")]
    NameAndValue,
    /// A time that nobody waits for.
    #[error("too long (use at most 365days)")]
    TooLong,
    /// The same for an option that can be turned off.
    #[error("too long (use at most 365days, or 'off' for no limit)")]
    TooLongNotOff,
}

/// Takes whole numbers in a range.
///
/// # Errors
/// [`ValueError::Count`]
pub fn count<N>(range: RangeInclusive<N>) -> impl Fn(&str) -> Result<N, ValueError> + Clone
where
    N: FromStr + PartialOrd + ToString + Clone,
{
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(ValueError::Count {
            least: range.start().to_string(),
            most: range.end().to_string(),
        }),
    }
}

/// A number, or no limit: a type of its own as [`Timeout`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberOrOff(pub Option<NonZeroU32>);

impl NumberOrOff {
    /// Of what one of several may have.
    pub(super) fn part(given: Option<Self>) -> Part {
        match given {
            None => Part::Most,
            Some(Self(None)) => Part::All,
            Some(Self(Some(number))) => Part::Number(number),
        }
    }
}

/// Takes a number from 1 on, or 'off'.
///
/// # Errors
/// [`ValueError::Count`]
pub fn number_or_off(text: &str) -> Result<NumberOrOff, ValueError> {
    if text == "off" {
        return Ok(NumberOrOff(None));
    }
    let number = count(1..=CONNECTIONS_MAX)(text)?;
    Ok(NumberOrOff(NonZeroU32::new(number)))
}

/// Takes a time that is neither none at all nor too long.
///
/// # Errors
/// [`ValueError::Duration`], [`ValueError::Zero`] and [`ValueError::TooLong`]
pub fn positive_timeout(text: &str) -> Result<Duration, ValueError> {
    match timeout(text)? {
        Duration::ZERO => Err(ValueError::Zero),
        duration => Ok(duration),
    }
}

/// Takes a time that is not too long.
///
/// # Errors
/// [`ValueError::Duration`] and [`ValueError::TooLong`]
pub fn timeout(text: &str) -> Result<Duration, ValueError> {
    match duration(text)? {
        duration if duration > TIMEOUT_MAX => Err(ValueError::TooLong),
        duration => Ok(duration),
    }
}

/// A timeout that can be turned off. It is a type of its own because clap takes an `Option` for
/// whether the option was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(pub Option<Duration>);

/// Takes a time that is not too long, or 'off'.
///
/// # Errors
/// [`ValueError::Duration`] and [`ValueError::TooLongNotOff`]
pub fn timeout_or_off(text: &str) -> Result<Timeout, ValueError> {
    if text == "off" {
        return Ok(Timeout(None));
    }
    match duration(text)? {
        duration if duration > TIMEOUT_MAX => Err(ValueError::TooLongNotOff),
        duration => Ok(Timeout(Some(duration))),
    }
}

/// Takes a time that is neither none at all nor too long, or 'off'.
///
/// # Errors
/// [`ValueError::Duration`], [`ValueError::ZeroNotOff`] and [`ValueError::TooLongNotOff`]
pub fn positive_timeout_or_off(text: &str) -> Result<Timeout, ValueError> {
    match timeout_or_off(text)? {
        Timeout(Some(Duration::ZERO)) => Err(ValueError::ZeroNotOff),
        timeout => Ok(timeout),
    }
}

/// Takes a time that a processor may be kept busy for nothing, or 'off'.
///
/// # Errors
/// [`ValueError::Duration`] and [`ValueError::BusyPoll`]
pub fn busy_poll(text: &str) -> Result<Timeout, ValueError> {
    match timeout_or_off(text)? {
        Timeout(Some(time)) if time.is_zero() || time > BUSY_POLL_MAX => Err(ValueError::BusyPoll),
        timeout => Ok(timeout),
    }
}

/// Takes any time.
///
/// # Errors
/// [`ValueError::Duration`]
pub fn duration(text: &str) -> Result<Duration, ValueError> {
    humantime::parse_duration(text).map_err(|cause| ValueError::Duration { cause })
}

/// The standard parser takes a plus sign, which nobody means.
fn unsigned(digits: &str) -> Option<u64> {
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| all_digits)
}

/// The units of sizes: those of a thousand and those of 1,024.
const SIZE_UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Takes a number of bytes up to `most`: `600`, `4KiB`, `16MiB`, `5MB`.
///
/// # Errors
/// [`ValueError::Size`] and [`ValueError::SizeTooLarge`]
pub fn size(most: u64) -> impl Fn(&str) -> Result<u64, ValueError> + Clone {
    move |text| {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text[digits.len()..].trim_start();
        let known = SIZE_UNITS.iter().find(|(name, _)| *name == unit);
        let (Some((_, bytes)), Some(number)) = (known, unsigned(digits)) else {
            return Err(ValueError::Size);
        };
        match number.checked_mul(*bytes) {
            Some(size) if size <= most => Ok(size),
            Some(_) | None => Err(ValueError::SizeTooLarge { most }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_people_write_them() {
        let size = size(u64::MAX);
        for (text, bytes) in [
            ("0", 0),
            ("600", 600),
            ("600 B", 600),
            ("4KiB", 4096),
            ("16MiB", 16 << 20),
            ("5MB", 5_000_000),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "KiB",
            "-1",
            "+1",
            "1.5MB",
            "4kib",
            "4K",
            "99999999999999999999",
        ] {
            assert!(
                matches!(size(u64::MAX)(text), Err(ValueError::Size)),
                "{text}"
            );
        }
        for text in ["1025", "2KiB", "18446744073709551615GiB"] {
            let refused = size(1024)(text);
            assert!(
                matches!(refused, Err(ValueError::SizeTooLarge { most: 1024 })),
                "{text}"
            );
        }
    }
}
