//! Records: the frames that every FastCGI connection consists of (specification §3.3).
//!
//! A record is an eight-byte header, up to 65,535 bytes of content and up to 255 bytes of padding.

use std::num::NonZeroU16;

/// The length of a record's header, and of the fixed bodies of BEGIN_REQUEST and END_REQUEST
/// (§3.3, §5.1, §5.5).
pub const HEADER_LEN: usize = 8;

/// The most content that one record carries: its length field has 16 bits (§3.3).
pub const CONTENT_MAX: usize = u16::MAX as usize;

/// The only version there is: `FCGI_VERSION_1` (§3.3, §8).
const VERSION: u8 = 1;

/// What records are padded to. §3.3 recommends multiples of eight bytes; nginx and PHP-FPM do so.
pub(super) const ALIGNMENT: usize = 8;

/// Which request a record belongs to; 0 is for management records (§3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u16);

impl RequestId {
    /// The null request id: the record is about the connection, not about a request (§3.3).
    pub const MANAGEMENT: Self = Self(0);

    /// The id of an application request, which is never 0.
    #[must_use]
    pub const fn application(id: NonZeroU16) -> Self {
        Self(id.get())
    }

    /// The id that a header has.
    #[must_use]
    #[inline]
    pub const fn from_number(number: u16) -> Self {
        Self(number)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// What a record is (§8, `FCGI_BEGIN_REQUEST` to `FCGI_UNKNOWN_TYPE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opens a request (§5.1).
    BeginRequest,
    /// The client gives a request up (§5.4).
    AbortRequest,
    /// Closes a request (§5.5).
    EndRequest,
    /// A piece of the stream of name-value pairs (§5.2).
    Params,
    /// A piece of the request body (§5.3).
    Stdin,
    /// A piece of the response (§5.3).
    Stdout,
    /// A piece of the error output (§5.3).
    Stderr,
    /// A piece of the filter role's second input (§5.3).
    Data,
    /// Asks for properties of the application (§4.1).
    GetValues,
    /// Answers [`Kind::GetValues`] (§4.1).
    GetValuesResult,
    /// Answers a management record of a type the application does not know (§4.2).
    UnknownType,
    /// A number that the specification does not name. Kept, because the answer to an unknown
    /// management record must repeat it (§4.2).
    Other(u8),
}

impl Kind {
    /// Reads the type field of a header.
    #[must_use]
    #[inline]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::BeginRequest,
            2 => Self::AbortRequest,
            3 => Self::EndRequest,
            4 => Self::Params,
            5 => Self::Stdin,
            6 => Self::Stdout,
            7 => Self::Stderr,
            8 => Self::Data,
            9 => Self::GetValues,
            10 => Self::GetValuesResult,
            11 => Self::UnknownType,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    #[must_use]
    #[inline]
    pub const fn byte(self) -> u8 {
        match self {
            Self::BeginRequest => 1,
            Self::AbortRequest => 2,
            Self::EndRequest => 3,
            Self::Params => 4,
            Self::Stdin => 5,
            Self::Stdout => 6,
            Self::Stderr => 7,
            Self::Data => 8,
            Self::GetValues => 9,
            Self::GetValuesResult => 10,
            Self::UnknownType => 11,
            Self::Other(byte) => byte,
        }
    }
}

/// A record's header (§3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    /// Which request it belongs to.
    pub request_id: RequestId,
    /// Bytes of content behind the header.
    pub content_len: u16,
    /// Bytes behind the content that mean nothing.
    pub padding_len: u8,
}

impl Header {
    /// The header's bytes.
    #[must_use]
    #[inline]
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        let [id_high, id_low] = self.request_id.get().to_be_bytes();
        let [len_high, len_low] = self.content_len.to_be_bytes();
        let kind = self.kind.byte();
        [
            VERSION,
            kind,
            id_high,
            id_low,
            len_high,
            len_low,
            self.padding_len,
            0,
        ]
    }

    /// Reads a header. The reserved byte is ignored, as §3.3 asks of a receiver.
    ///
    /// # Errors
    ///
    /// [`Malformed::Version`] if the first byte is not 1: what follows cannot be framed.
    #[inline]
    pub const fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, Malformed> {
        let [
            version,
            kind,
            id_high,
            id_low,
            len_high,
            len_low,
            padding_len,
            _,
        ] = bytes;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        Ok(Self {
            kind: Kind::from_byte(kind),
            request_id: RequestId::from_number(u16::from_be_bytes([id_high, id_low])),
            content_len: u16::from_be_bytes([len_high, len_low]),
            padding_len,
        })
    }
}

/// Why a byte stream is not FastCGI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A header that does not begin with version 1.
    #[error(
        "read a FastCGI header: version {0} instead of 1 (the peer does not speak FastCGI 1.0)"
    )]
    Version(u8),
    /// The stream ended inside a record.
    #[error("read a FastCGI record: the stream ended inside it (the peer went away too early)")]
    Truncated,
    /// A record of fixed length has another one.
    #[error("read a FastCGI record: {0} bytes of content instead of 8 (the peer is broken)")]
    BodyLen(usize),
}

/// Appends one record, padded to a multiple of eight bytes.
///
/// # Panics
///
/// If `content` is longer than [`CONTENT_MAX`]: the caller frames, and [`push_stream`] is there for
/// content of any length.
pub fn push_record(out: &mut Vec<u8>, kind: Kind, request_id: RequestId, content: &[u8]) {
    let content_len = u16::try_from(content.len()).expect("the caller keeps to CONTENT_MAX");
    let padding_len = content.len().next_multiple_of(ALIGNMENT) - content.len();
    let header = Header {
        kind,
        request_id,
        content_len,
        padding_len: u8::try_from(padding_len).expect("less than ALIGNMENT"),
    };
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(content);
    out.resize(out.len() + padding_len, 0);
}

/// Appends a piece of a stream in as few records as it takes; none if it is empty, because an empty
/// record would end the stream (§3.3).
pub fn push_stream(out: &mut Vec<u8>, kind: Kind, request_id: RequestId, content: &[u8]) {
    for piece in content.chunks(CONTENT_MAX) {
        push_record(out, kind, request_id, piece);
    }
}

/// Appends the empty record that ends a stream (§3.3).
pub fn push_stream_end(out: &mut Vec<u8>, kind: Kind, request_id: RequestId) {
    push_record(out, kind, request_id, &[]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_bytes_of_the_specification() {
        let header = Header {
            kind: Kind::Params,
            request_id: RequestId::from_number(0x0102),
            content_len: 0x0304,
            padding_len: 5,
        };
        assert_eq!(header.encode(), [1, 4, 1, 2, 3, 4, 5, 0]);
        assert_eq!(Header::decode([1, 4, 1, 2, 3, 4, 5, 99]), Ok(header));
    }

    #[test]
    fn every_kind_keeps_its_number() {
        for byte in 0..=u8::MAX {
            assert_eq!(Kind::from_byte(byte).byte(), byte);
        }
    }
}
