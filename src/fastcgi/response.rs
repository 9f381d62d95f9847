//! Reading what an upstream sends: the response to one request (specification §5.3, §5.5).
//!
//! [`ResponseReader`] takes any split of the byte stream. What belongs to the request goes to the
//! client in records with the backend's own content, because upstream and client have the same request id;
//! nothing is kept but a partial header and END_REQUEST. Behind END_REQUEST nothing is read: that is
//! [`Settling`](super::Settling)'s.
//!
//! **What was sent on ends at a record's boundary, always.** A record that is not all here goes on as one of
//! what is here, and its rest as another one. So an answer that breaks off can be ended in a way that every
//! web server takes for a failure ([`BROKEN_OFF`](super::BROKEN_OFF)): within a record, anything would
//! be content. Only what is known to be at hand goes on in pieces: a record as it came
//! ([`ResponseReader::pass_next`]), or what a header of our own has promised ([`ResponseReader::promise`]).

use super::forwarder::{Forwarder, Rules, Ruling, Step, Way};
use super::pass::Pass;
use super::status::{HeaderBlock, StatusReader};
use spliceway_common::fastcgi::{
    EndRequest, FixedBody, HEADER_LEN, Header, Kind, Malformed, RequestId,
};

/// What the session has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseEvent {
    /// Send this to the client.
    Pass(Pass),
    /// The response is complete, with what the last [`ResponseEvent::Pass`] held. What comes next
    /// belongs to no request.
    End(EndRequest),
    /// A management record, which is for us and not for the client. An application that answers the
    /// fence while a request runs proves nothing by it: the upstream must not be leased again.
    Management(Kind),
}

/// Why an upstream's byte stream is no response to the request that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read a backend's FastCGI record at byte {at} of its response: {cause}")]
pub struct ResponseError {
    /// Where the record begins, counted from the beginning of the response.
    pub at: u64,
    /// What is wrong with it.
    pub cause: Nonsense,
}

/// What a backend must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// A header that does not begin with version 1 (§3.3).
    #[error("version {0} instead of 1 ({what})", what = spoken_by_backend(*.0))]
    Version(u8),
    /// A record of another request (§3.3).
    #[error("request id {0}, which is not running (the backend is broken)")]
    Foreign(u16),
    /// A record that no application sends about a request.
    #[error("{0:?}, which is no part of a response (the backend is broken)")]
    NotAResponse(Kind),
    /// An END_REQUEST that has not eight bytes of content (§5.5).
    #[error("an END_REQUEST of {0} bytes instead of 8 (the backend is broken)")]
    EndLen(u16),
}

/// What begins with this byte, and what to do about it.
fn spoken_by_backend(first: u8) -> &'static str {
    match first {
        b'H' => {
            "the backend seems to speak HTTP: give the port where it speaks FastCGI, or use --protocol raw"
        }
        _ => "the backend does not speak FastCGI 1.0",
    }
}

/// Reads the response to one request.
#[derive(Clone, Debug)]
pub struct ResponseReader {
    forwarder: Forwarder<ResponseRules>,
}

impl ResponseReader {
    /// A reader of the response to the request with this id.
    #[must_use]
    pub const fn new(request_id: RequestId) -> Self {
        Self {
            forwarder: Forwarder::new(ResponseRules {
                request_id,
                status: StatusReader::new(),
                headers: HeaderBlock::LineStart,
                ended: None,
                has_begun: false,
                stdout_bytes: 0,
            }),
        }
    }

    const fn rules(&self) -> &ResponseRules {
        self.forwarder.rules()
    }

    /// Reads on in `input` from `at` up to the next event and moves `at` behind what it has read.
    ///
    /// `None` means that `input` is used up. The ranges of events are those of `input`; what was passed on
    /// when it is used up ends at a record's boundary. After [`ResponseEvent::End`], which every further call
    /// gives again, what is behind `at` is not read.
    ///
    /// # Errors
    ///
    /// [`ResponseError`]. From then on every call gives the same error.
    pub fn next(
        &mut self,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Option<ResponseEvent>, ResponseError> {
        self.forwarder.next(input, at)
    }

    /// Whether nothing at all has come. STDERR counts: it proves that the request was processed.
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        self.forwarder.read() == 0
    }

    /// Whether the response proper has begun: its first byte is the client's.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.rules().has_begun
    }

    /// Bytes of STDOUT so far, without headers of records and padding.
    #[must_use]
    pub const fn stdout_bytes(&self) -> u64 {
        self.rules().stdout_bytes
    }

    /// The status as far as it is known: 200 unless its first bytes say something else.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.rules().status.status()
    }

    /// Whether the headers of the response, and the empty line behind them, have come.
    #[must_use]
    pub const fn has_headers(&self) -> bool {
        self.rules().has_headers()
    }

    /// Whether a record of our own may be put in here: the next byte for the client begins one.
    #[must_use]
    pub const fn is_between_records(&self) -> bool {
        self.forwarder.is_between_forwarded()
    }

    /// How many of the bytes that come next can go to the client as they are. They belong to one record, the
    /// header of which is among them or has gone, as it was or for just these bytes.
    #[must_use]
    pub const fn passable(&self) -> usize {
        self.forwarder.passable()
    }

    /// How many of the bytes that come next can go to the client without being looked at, behind a header
    /// of our own: content of one record. STDOUT is looked at until its headers are over.
    #[must_use]
    pub fn framable(&self) -> usize {
        self.forwarder.framable()
    }

    /// Begins the record whose header is `bytes`, which come next and were not taken yet; all of the record
    /// is at hand. From now on it is [`ResponseReader::passable`]. False, and nothing happens, unless it is
    /// output that need not be looked at, and nothing of another record is missing.
    pub fn pass_next(&mut self, bytes: [u8; HEADER_LEN]) -> bool {
        self.forwarder.pass_next(bytes)
    }

    /// Begins the record whose header is `bytes`, which were taken. From now on its content is
    /// [`ResponseReader::framable`]. False in the same cases as of [`ResponseReader::pass_next`].
    pub fn frame_next(&mut self, bytes: [u8; HEADER_LEN]) -> bool {
        self.forwarder.frame_next(bytes)
    }

    /// Whether the backend's next byte begins a record, and nothing of an earlier one is owed.
    #[must_use]
    pub const fn is_at_header(&self) -> bool {
        self.forwarder.is_at_header()
    }

    /// The length of the record with this header, header and padding included, if
    /// [`ResponseReader::frame_next`] would begin it.
    #[must_use]
    pub fn output_len(&self, bytes: [u8; HEADER_LEN]) -> Option<usize> {
        let (header, _) = self.forwarder.unread_next(bytes)?;
        let rest = usize::from(header.content_len) + usize::from(header.padding_len);
        Some(HEADER_LEN + rest)
    }

    /// This many of the [`ResponseReader::passable`] bytes went to the client by another way.
    ///
    /// # Panics
    ///
    /// If they were not passable.
    pub fn passed(&mut self, bytes: usize) {
        self.forwarder.passed(bytes);
    }

    /// This many of the [`ResponseReader::framable`] bytes, all of which are at hand, go to the client behind
    /// the header that this returns. From now on they are [`ResponseReader::passable`].
    ///
    /// # Panics
    ///
    /// If they were not framable, or none.
    pub fn promise(&mut self, bytes: usize) -> [u8; HEADER_LEN] {
        self.forwarder.promise(bytes)
    }

    /// Whether a record of output has begun and none of its content has come. Who has sent that much sends
    /// the rest at once.
    #[must_use]
    pub fn awaits_content(&self) -> bool {
        self.forwarder.awaits_content()
    }
}

/// What a backend may send, and what becomes of it.
#[derive(Clone, Debug)]
struct ResponseRules {
    request_id: RequestId,
    status: StatusReader,
    headers: HeaderBlock,
    ended: Option<EndRequest>,
    /// A record of STDOUT has come, be it the empty one that ends the stream.
    has_begun: bool,
    stdout_bytes: u64,
}

/// What a record is.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Stdout,
    Stderr,
    End,
    /// For us.
    Management(Kind),
}

impl Rules for ResponseRules {
    type Fate = Fate;
    type Event = ResponseEvent;
    type Cause = Nonsense;
    type Error = ResponseError;

    fn rule(&self, header: Header) -> Result<Ruling<Fate, ResponseEvent>, Nonsense> {
        let kind = header.kind;
        match kind {
            Kind::GetValuesResult | Kind::UnknownType
                if header.request_id == RequestId::MANAGEMENT =>
            {
                Ok(Ruling::Begin(Fate::Management(kind), Way::Kept))
            }
            _ if header.request_id != self.request_id => {
                Err(Nonsense::Foreign(header.request_id.get()))
            }
            Kind::Stdout => Ok(Ruling::Begin(Fate::Stdout, Way::InParts)),
            Kind::Stderr => Ok(Ruling::Begin(Fate::Stderr, Way::InParts)),
            Kind::EndRequest if usize::from(header.content_len) != HEADER_LEN => {
                Err(Nonsense::EndLen(header.content_len))
            }
            Kind::EndRequest => Ok(Ruling::Begin(Fate::End, Way::Whole(FixedBody::default()))),
            Kind::BeginRequest
            | Kind::AbortRequest
            | Kind::Params
            | Kind::Stdin
            | Kind::Data
            | Kind::GetValues
            | Kind::GetValuesResult
            | Kind::UnknownType
            | Kind::Other(_) => Err(Nonsense::NotAResponse(kind)),
        }
    }

    /// STDOUT is read until its headers are over. Behind END_REQUEST nothing is of this response.
    fn passes_unread(&self, fate: Fate) -> bool {
        let is_unseen = match fate {
            Fate::Stdout => !self.status.is_open() && self.has_headers(),
            Fate::Stderr => true,
            Fate::End | Fate::Management(_) => false,
        };
        is_unseen && self.ended.is_none()
    }

    fn begin(&mut self, fate: Fate, _header: Header) {
        self.has_begun |= matches!(fate, Fate::Stdout);
    }

    fn content(&mut self, fate: Fate, piece: &[u8]) -> Result<(), Nonsense> {
        if let Fate::Stdout = fate {
            self.stdout_bytes += piece.len() as u64;
            self.status.read(piece);
            self.headers.read(piece);
        }
        Ok(())
    }

    fn unread(&mut self, fate: Fate, content: usize) {
        if let Fate::Stdout = fate {
            self.stdout_bytes += content as u64;
        }
    }

    fn end(
        &mut self,
        fate: Fate,
        body: Option<[u8; HEADER_LEN]>,
    ) -> Result<Step<ResponseEvent>, Nonsense> {
        match fate {
            Fate::Stdout | Fate::Stderr => Ok(Step::On),
            Fate::End => {
                let body = body.expect("it was to be gathered");
                self.ended = Some(EndRequest::decode(body));
                Ok(Step::Tell)
            }
            Fate::Management(kind) => Ok(Step::Event(ResponseEvent::Management(kind))),
        }
    }

    /// Nothing is read behind the end.
    fn due(&mut self) -> Option<ResponseEvent> {
        self.ended.map(ResponseEvent::End)
    }

    fn pass(pass: Pass) -> ResponseEvent {
        ResponseEvent::Pass(pass)
    }

    fn error(at: u64, cause: Nonsense) -> ResponseError {
        ResponseError { at, cause }
    }
}

impl ResponseRules {
    const fn has_headers(&self) -> bool {
        matches!(self.headers, HeaderBlock::Over)
    }
}

impl From<Malformed> for Nonsense {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Version(version) => Self::Version(version),
            Malformed::Truncated | Malformed::BodyLen(_) => {
                unreachable!("finding records has no such error: {malformed}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
