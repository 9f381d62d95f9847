//! What a client must not send.

use super::super::answer::{Answer, RetryAfter};
use super::super::head::LARGE_HEADS_BYTES_MAX;
use spliceway_common::fastcgi::{Kind, Malformed};

/// Why a client's byte stream is not FastCGI as an application reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read a client's FastCGI record at byte {at}: {cause}")]
pub struct ProtocolError {
    /// Where the record begins, counted from the beginning of the connection.
    pub at: u64,
    /// What is wrong with it.
    pub cause: Violation,
}

/// What a client must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A header that does not begin with version 1 (§3.3).
    #[error("version {0} instead of 1 ({what})", what = spoken_by_client(*.0))]
    Version(u8),
    /// Request id 0 in a record that is about a request (§3.3).
    #[error("{0:?} with request id 0, which belongs to no request (the client is broken)")]
    NullId(Kind),
    /// Another request id than 0 in a management record (§3.3).
    #[error("{0:?} with a request id, though it is about no request (the client is broken)")]
    NotNullId(Kind),
    /// A record that only applications send (§5.3, §5.5, §4).
    #[error("{0:?}, which only applications send (the client is broken)")]
    FromApplication(Kind),
    /// A type that the specification does not name, with a request id.
    #[error("type {0}, which FastCGI 1.0 does not have (the client speaks something newer)")]
    UnknownKind(u8),
    /// A BEGIN_REQUEST that has not eight bytes of content (§5.1).
    #[error("a BEGIN_REQUEST of {0} bytes instead of 8 (the client is broken)")]
    BeginLen(u16),
    /// A BEGIN_REQUEST for the request that runs.
    #[error("a BEGIN_REQUEST for a request that runs (the client is broken)")]
    BeginTwice,
    /// A record of a stream that has ended or not begun (§5.2, §5.3, §6).
    #[error("{0:?} where it has no place (the client is broken)")]
    OutOfPlace(Kind),
    /// More bytes of name-value pairs than allowed.
    #[error("more than {0} bytes of parameters (raise --params-max if they are wanted)")]
    ParamsTooLong(usize),
    /// A name-value pair that is longer than its stream (§3.4).
    #[error("a parameter that is longer than its stream (the client is broken)")]
    PairTooLong,
    /// A GET_VALUES of more names than there are.
    #[error("a GET_VALUES of {0} bytes (the client is broken)")]
    QueryTooLong(u16),
    /// More of a body than CONTENT_LENGTH says.
    #[error("more of the body than CONTENT_LENGTH says (the client is broken or hostile)")]
    BodyTooLong,
    /// A legal one, for which there is no memory now.
    #[error(
        "the large parameters of requests take {LARGE_HEADS_BYTES_MAX} bytes already, which is all that a \
         worker has for them (lower --queue-max or --params-max, so that fewer are held, or keep one user from \
         holding them with --connections-max-per-user)"
    )]
    HeadsFull,
}

impl Violation {
    /// The names of all of them in metrics, each in the place of its [`Violation::number`].
    pub const NAMES: [&'static str; 13] = [
        "version",
        "null_id",
        "not_null_id",
        "from_application",
        "unknown_kind",
        "begin_len",
        "begin_twice",
        "out_of_place",
        "params_too_long",
        "pair_too_long",
        "query_too_long",
        "body_too_long",
        "heads_full",
    ];

    /// Which of them it is.
    #[must_use]
    pub const fn number(self) -> usize {
        match self {
            Self::Version(_) => 0,
            Self::NullId(_) => 1,
            Self::NotNullId(_) => 2,
            Self::FromApplication(_) => 3,
            Self::UnknownKind(_) => 4,
            Self::BeginLen(_) => 5,
            Self::BeginTwice => 6,
            Self::OutOfPlace(_) => 7,
            Self::ParamsTooLong(_) => 8,
            Self::PairTooLong => 9,
            Self::QueryTooLong(_) => 10,
            Self::BodyTooLong => 11,
            Self::HeadsFull => 12,
        }
    }

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self.number()]
    }

    /// What the client gets, where it is known what it asks and only the size stands in the way. With
    /// anything else it cannot be expected to understand an answer.
    #[must_use]
    pub const fn answer(self) -> Option<Answer> {
        match self {
            Self::ParamsTooLong(_) => Some(Answer::HeadTooLarge),
            Self::HeadsFull => Some(Answer::Unavailable(RetryAfter::LEAST)),
            Self::Version(_)
            | Self::NullId(_)
            | Self::NotNullId(_)
            | Self::FromApplication(_)
            | Self::UnknownKind(_)
            | Self::BeginLen(_)
            | Self::BeginTwice
            | Self::OutOfPlace(_)
            | Self::PairTooLong
            | Self::QueryTooLong(_)
            | Self::BodyTooLong => None,
        }
    }
}

/// What begins with this byte, and what to do about it.
fn spoken_by_client(first: u8) -> &'static str {
    /// The type of a handshake's record (RFC 8446, section 5.1).
    const TLS_HANDSHAKE: u8 = 22;
    match first {
        // What methods of HTTP begin with.
        b'A'..=b'Z' => {
            "the client seems to speak HTTP to a socket for FastCGI: use fastcgi_pass or its like there, or \
             --protocol raw here"
        }
        TLS_HANDSHAKE => "the client seems to speak TLS to a socket for FastCGI",
        _ => "the client does not speak FastCGI 1.0",
    }
}

impl From<Malformed> for Violation {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Version(version) => Self::Version(version),
            Malformed::Truncated | Malformed::BodyLen(_) => {
                unreachable!("finding records has no such error: {malformed}")
            }
        }
    }
}
