//! Records: the frames that every FastCGI connection consists of (specification §3.3).
//!
//! A record is an eight-byte header, up to 65,535 bytes of content and up to 255 bytes of padding.
//! [`Reader`] reports where records begin and end and hands their content on as slices of the
//! caller's own buffer: nothing is copied, and a record is never assembled. Who needs the content
//! of a small record in one piece gathers it in a [`FixedBody`]; who needs a stream keeps it
//! with a bound of its own.

use std::num::NonZeroU16;

/// The length of a record's header, and of the fixed bodies of BEGIN_REQUEST and END_REQUEST
/// (§3.3, §5.1, §5.5).
pub const HEADER_LEN: usize = 8;

/// The most content that one record carries: its length field has 16 bits (§3.3).
pub const CONTENT_MAX: usize = u16::MAX as usize;

/// The only version there is: `FCGI_VERSION_1` (§3.3, §8).
const VERSION: u8 = 1;

/// What records are padded to. §3.3 recommends multiples of eight bytes; nginx and PHP-FPM do so.
const ALIGNMENT: usize = 8;

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
            request_id: RequestId(u16::from_be_bytes([id_high, id_low])),
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

/// Eight bytes of content, gathered from however many pieces they arrive in.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedBody {
    bytes: [u8; HEADER_LEN],
    /// How many there would be if all had been kept; only the first eight are.
    len: usize,
}

impl FixedBody {
    /// Takes the next piece of the content.
    pub fn push(&mut self, piece: &[u8]) {
        let free = self.bytes.get_mut(self.len..).unwrap_or_default();
        let kept = piece.len().min(free.len());
        free[..kept].copy_from_slice(&piece[..kept]);
        self.len += piece.len();
    }

    /// The body, once its record has ended.
    ///
    /// # Errors
    ///
    /// [`Malformed::BodyLen`] if there were not exactly eight bytes.
    pub const fn complete(self) -> Result<[u8; HEADER_LEN], Malformed> {
        if self.len == HEADER_LEN {
            Ok(self.bytes)
        } else {
            Err(Malformed::BodyLen(self.len))
        }
    }
}

/// What [`Reader::next`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A record begins.
    Begin(Header),
    /// The next piece of its content, never empty: a slice of the input.
    Content(&'a [u8]),
    /// The record is over, padding included: the next byte begins another one.
    End,
}

/// Where the reader stands in the stream.
#[derive(Clone, Copy, Debug)]
enum Position {
    /// In a header, of which `len` bytes are here. At 0, between two records.
    Header { bytes: [u8; HEADER_LEN], len: usize },
    /// In the content, and then comes padding.
    Content { left: u16, padding_len: u8 },
    /// Behind the content.
    Padding { left: u8 },
    /// Behind bytes that are not FastCGI. There is no way back: the framing is lost.
    Lost(Malformed),
}

impl Position {
    const BETWEEN_RECORDS: Self = Self::Header {
        bytes: [0; HEADER_LEN],
        len: 0,
    };
}

/// Finds the records in a byte stream that arrives in pieces of any size.
///
/// It keeps a partial header and two counters, never content.
#[derive(Clone, Debug)]
pub struct Reader {
    position: Position,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader at the beginning of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            position: Position::BETWEEN_RECORDS,
        }
    }

    /// Reads on in `input` up to the next event and advances `input` behind what it has read.
    ///
    /// `None` means that `input` is used up and more is needed. Each record gives one
    /// [`Event::Begin`], pieces of content as they come, and one [`Event::End`]; the caller calls
    /// again until `None`, because an end may be due without a further byte.
    ///
    /// # Errors
    ///
    /// [`Malformed::Version`]. From then on every call gives the same error.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Malformed> {
        match self.position {
            Position::Header { bytes, len } => self.header(bytes, len, input),
            Position::Content {
                left: 0,
                padding_len,
            } => {
                self.position = Position::Padding { left: padding_len };
                Ok(self.padding(padding_len, input))
            }
            Position::Content { left, padding_len } => Ok(self.content(left, padding_len, input)),
            Position::Padding { left } => Ok(self.padding(left, input)),
            Position::Lost(malformed) => Err(malformed),
        }
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`] inside a record, or the error that [`Reader::next`] gave.
    pub const fn finish(&self) -> Result<(), Malformed> {
        match self.position {
            Position::Header { len: 0, .. } => Ok(()),
            Position::Lost(malformed) => Err(malformed),
            Position::Header { .. } | Position::Content { .. } | Position::Padding { .. } => {
                Err(Malformed::Truncated)
            }
        }
    }

    /// Whether the next byte begins a record, or nothing was read at all.
    #[must_use]
    pub const fn is_between_records(&self) -> bool {
        matches!(self.position, Position::Header { len: 0, .. })
    }

    fn header<'a>(
        &mut self,
        mut bytes: [u8; HEADER_LEN],
        mut len: usize,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, Malformed> {
        let piece = take(input, HEADER_LEN - len);
        bytes[len..len + piece.len()].copy_from_slice(piece);
        len += piece.len();
        if len < HEADER_LEN {
            self.position = Position::Header { bytes, len };
            return Ok(None);
        }
        let header =
            Header::decode(bytes).inspect_err(|&lost| self.position = Position::Lost(lost))?;
        self.position = Position::Content {
            left: header.content_len,
            padding_len: header.padding_len,
        };
        Ok(Some(Event::Begin(header)))
    }

    fn content<'a>(
        &mut self,
        left: u16,
        padding_len: u8,
        input: &mut &'a [u8],
    ) -> Option<Event<'a>> {
        let piece = take(input, usize::from(left));
        let len = u16::try_from(piece.len()).expect("at most `left`, which has 16 bits");
        self.position = Position::Content {
            left: left - len,
            padding_len,
        };
        (!piece.is_empty()).then_some(Event::Content(piece))
    }

    fn padding<'a>(&mut self, left: u8, input: &mut &'a [u8]) -> Option<Event<'a>> {
        let piece = take(input, usize::from(left));
        let left = left - u8::try_from(piece.len()).expect("at most `left`, which has 8 bits");
        if left > 0 {
            self.position = Position::Padding { left };
            return None;
        }
        self.position = Position::BETWEEN_RECORDS;
        Some(Event::End)
    }
}

/// Takes up to `len` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (piece, rest) = input.split_at(len.min(input.len()));
    *input = rest;
    piece
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Record {
        header: Header,
        content: Vec<u8>,
    }

    impl Record {
        fn encode(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.header.encode());
            out.extend_from_slice(&self.content);
            // Padding means nothing: fill it with what would be a mistake anywhere else.
            out.resize(out.len() + usize::from(self.header.padding_len), 0xff);
        }
    }

    fn one() -> RequestId {
        RequestId::application(NonZeroU16::MIN)
    }

    /// Decodes `stream`, cut into pieces at `cuts`.
    fn decode(stream: &[u8], cuts: &[usize]) -> Result<Vec<Record>, Malformed> {
        let mut reader = Reader::new();
        let mut records = Vec::new();
        let mut open: Option<Record> = None;
        let mut from = 0;
        for &to in cuts.iter().chain([&stream.len()]) {
            let mut input = &stream[from..to];
            from = to;
            while let Some(event) = reader.next(&mut input)? {
                match event {
                    Event::Begin(header) => {
                        assert!(
                            open.replace(Record {
                                header,
                                content: Vec::new()
                            })
                            .is_none()
                        );
                    }
                    Event::Content(piece) => {
                        assert!(!piece.is_empty());
                        open.as_mut().unwrap().content.extend_from_slice(piece);
                    }
                    Event::End => records.push(open.take().unwrap()),
                }
            }
            assert!(input.is_empty());
        }
        reader.finish()?;
        Ok(records)
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let content = prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), CONTENT_MAX)];
        (any::<u8>(), any::<u16>(), any::<u8>(), content).prop_map(
            |(kind, id, padding_len, content)| Record {
                header: Header {
                    kind: Kind::from_byte(kind),
                    request_id: RequestId(id),
                    content_len: u16::try_from(content.len()).unwrap(),
                    padding_len,
                },
                content,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_split_of_a_stream_decodes_to_the_same_records(
            records in vec(any_record(), 0..6),
            cuts in vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let mut stream = Vec::new();
            records.iter().for_each(|record| record.encode(&mut stream));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            prop_assert_eq!(decode(&stream, &cuts), Ok(records));
        }

        #[test]
        fn any_truncation_is_noticed(record in any_record(), cut in any::<prop::sample::Index>()) {
            let mut stream = Vec::new();
            record.encode(&mut stream);
            let cut = cut.index(stream.len() - 1) + 1;
            prop_assert_eq!(decode(&stream[..cut], &[]), Err(Malformed::Truncated));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
            let mut reader = Reader::new();
            let mut input = bytes.as_slice();
            while let Ok(Some(_)) = reader.next(&mut input) {}
        }
    }

    #[test]
    fn a_stream_fed_byte_by_byte_decodes_to_the_same_records() {
        let mut stream = Vec::new();
        push_record(&mut stream, Kind::Stdout, one(), b"hello");
        push_stream_end(&mut stream, Kind::Stdout, one());
        let cuts: Vec<usize> = (0..stream.len()).collect();
        let records = decode(&stream, &cuts).unwrap();
        assert_eq!(records, decode(&stream, &[]).unwrap());
        assert_eq!(records[0].content, b"hello");
        assert_eq!(records[1].header.content_len, 0);
    }

    #[test]
    fn a_header_has_the_bytes_of_the_specification() {
        let header = Header {
            kind: Kind::Params,
            request_id: RequestId(0x0102),
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
            assert_eq!(ProtocolStatus::from_byte(byte).byte(), byte);
            assert_eq!(Role::from_number(u16::from(byte)).number(), u16::from(byte));
        }
    }

    #[test]
    fn another_version_is_an_error_that_stays() {
        let mut reader = Reader::new();
        let mut input: &[u8] = b"HTTP/1.1 400";
        assert_eq!(reader.next(&mut input), Err(Malformed::Version(b'H')));
        assert_eq!(reader.next(&mut input), Err(Malformed::Version(b'H')));
        assert_eq!(reader.finish(), Err(Malformed::Version(b'H')));
    }

    #[test]
    fn records_are_padded_to_eight_bytes() {
        for len in 0..20 {
            let mut out = Vec::new();
            push_record(&mut out, Kind::Stdin, one(), &vec![7; len]);
            assert_eq!(out.len() % ALIGNMENT, 0);
            assert_eq!(decode(&out, &[]).unwrap()[0].content, vec![7; len]);
        }
    }

    #[test]
    fn a_long_stream_becomes_several_records_and_an_empty_one_none() {
        let content = vec![3; 2 * CONTENT_MAX + 1];
        let mut out = Vec::new();
        push_stream(&mut out, Kind::Stdin, one(), &[]);
        assert!(out.is_empty());
        push_stream(&mut out, Kind::Stdin, one(), &content);
        let records = decode(&out, &[]).unwrap();
        assert_eq!(
            records.iter().map(|r| r.content.len()).collect::<Vec<_>>(),
            [CONTENT_MAX, CONTENT_MAX, 1]
        );
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
