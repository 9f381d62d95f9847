//! The bodies of fixed length: those of BEGIN_REQUEST and END_REQUEST (specification §5.1, §5.5).

use super::record::{HEADER_LEN, Malformed};

/// What the client asks the application to be (§6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Answers an HTTP request (§6.2); the only role that PHP-FPM serves.
    Responder,
    /// Decides whether a request may go on (§6.3).
    Authorizer,
    /// Answers with a changed version of a stored file (§6.4).
    Filter,
    /// A number that the specification does not name.
    Other(u16),
}

impl Role {
    const fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Responder,
            2 => Self::Authorizer,
            3 => Self::Filter,
            other => Self::Other(other),
        }
    }

    const fn number(self) -> u16 {
        match self {
            Self::Responder => 1,
            Self::Authorizer => 2,
            Self::Filter => 3,
            Self::Other(number) => number,
        }
    }
}

/// `FCGI_KEEP_CONN`: the application leaves the connection open after its answer (§5.1).
const KEEP_CONN: u8 = 1;

/// The body of a BEGIN_REQUEST record (§5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeginRequest {
    /// What the application is asked to be.
    pub role: Role,
    /// Whether the application leaves the connection open after its answer.
    pub keep_conn: bool,
}

impl BeginRequest {
    /// The body's bytes.
    #[must_use]
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        let [role_high, role_low] = self.role.number().to_be_bytes();
        let flags = if self.keep_conn { KEEP_CONN } else { 0 };
        [role_high, role_low, flags, 0, 0, 0, 0, 0]
    }

    /// Reads a body. Flags that the specification does not name are ignored.
    #[must_use]
    pub const fn decode(bytes: [u8; HEADER_LEN]) -> Self {
        let [role_high, role_low, flags, ..] = bytes;
        Self {
            role: Role::from_number(u16::from_be_bytes([role_high, role_low])),
            keep_conn: flags & KEEP_CONN != 0,
        }
    }
}

/// How a request ended as far as the protocol is concerned (§5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolStatus {
    /// The ordinary end.
    RequestComplete,
    /// Refused: the application does not multiplex requests on one connection.
    CannotMultiplex,
    /// Refused: the application is out of some resource.
    Overloaded,
    /// Refused: the application does not serve that role.
    UnknownRole,
    /// A number that the specification does not name.
    Other(u8),
}

impl ProtocolStatus {
    const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::RequestComplete,
            1 => Self::CannotMultiplex,
            2 => Self::Overloaded,
            3 => Self::UnknownRole,
            other => Self::Other(other),
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::RequestComplete => 0,
            Self::CannotMultiplex => 1,
            Self::Overloaded => 2,
            Self::UnknownRole => 3,
            Self::Other(byte) => byte,
        }
    }
}

/// The body of an END_REQUEST record (§5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndRequest {
    /// The application's own status; for a responder, what a CGI program would have passed to exit.
    pub app_status: u32,
    /// How the request ended.
    pub protocol_status: ProtocolStatus,
}

impl EndRequest {
    /// The body's bytes.
    #[must_use]
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = self.app_status.to_be_bytes();
        [a, b, c, d, self.protocol_status.byte(), 0, 0, 0]
    }

    /// Reads a body.
    #[must_use]
    pub const fn decode(bytes: [u8; HEADER_LEN]) -> Self {
        let [a, b, c, d, protocol_status, ..] = bytes;
        Self {
            app_status: u32::from_be_bytes([a, b, c, d]),
            protocol_status: ProtocolStatus::from_byte(protocol_status),
        }
    }
}

/// Eight bytes of content, gathered from however many pieces they arrive in.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedBody {
    bytes: [u8; HEADER_LEN],
    /// How many there would be if all had been kept; only the first eight are.
    len: usize,
}

impl FixedBody {
    /// Takes the next piece of the content.
    #[inline]
    pub fn push(&mut self, piece: &[u8]) {
        let free = self.bytes.get_mut(self.len..).unwrap_or_default();
        let kept = piece.len().min(free.len());
        free[..kept].copy_from_slice(&piece[..kept]);
        self.len += piece.len();
    }

    /// What was gathered so far.
    #[must_use]
    pub fn gathered(&self) -> &[u8] {
        &self.bytes[..self.len.min(HEADER_LEN)]
    }

    /// The body, once its record has ended.
    ///
    /// # Errors
    ///
    /// [`Malformed::BodyLen`] if there were not exactly eight bytes.
    #[inline]
    pub const fn complete(self) -> Result<[u8; HEADER_LEN], Malformed> {
        if self.len == HEADER_LEN {
            Ok(self.bytes)
        } else {
            Err(Malformed::BodyLen(self.len))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_and_status_keeps_its_number() {
        for byte in 0..=u8::MAX {
            assert_eq!(ProtocolStatus::from_byte(byte).byte(), byte);
            assert_eq!(Role::from_number(u16::from(byte)).number(), u16::from(byte));
        }
    }

    #[test]
    fn begin_and_end_bodies_have_the_bytes_of_the_specification() {
        let begin = BeginRequest {
            role: Role::Responder,
            keep_conn: true,
        };
        assert_eq!(begin.encode(), [0, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(BeginRequest::decode(begin.encode()), begin);
        let end = EndRequest {
            app_status: 938,
            protocol_status: ProtocolStatus::Overloaded,
        };
        assert_eq!(end.encode(), [0, 0, 3, 170, 2, 0, 0, 0]);
        assert_eq!(EndRequest::decode(end.encode()), end);
    }

    #[test]
    fn a_fixed_body_takes_any_split_and_exactly_eight_bytes() {
        let mut body = FixedBody::default();
        body.push(&[1, 2, 3]);
        assert_eq!(body.complete(), Err(Malformed::BodyLen(3)));
        body.push(&[]);
        body.push(&[4, 5, 6, 7, 8]);
        assert_eq!(body.complete(), Ok([1, 2, 3, 4, 5, 6, 7, 8]));
        body.push(&[9, 10]);
        body.push(&[11]);
        assert_eq!(body.complete(), Err(Malformed::BodyLen(11)));
    }
}
