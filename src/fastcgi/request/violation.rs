//! What a client must not send.

use super::super::record::{Kind, Malformed};

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
    #[error("version {0} instead of 1 (the client does not speak FastCGI 1.0)")]
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
