//! Reading what an upstream sends: the response to one request (specification §5.3, §5.5).
//!
//! [`ResponseReader`] takes any split of the byte stream. What belongs to the request goes to the
//! client as it is, because upstream and client have the same request id; nothing is kept but a
//! partial header. Behind END_REQUEST nothing is read: that is [`Settling`](super::Settling)'s.

use super::body::{EndRequest, FixedBody};
use super::pass::Pass;
use super::reader::{Event, Reader};
use super::record::{HEADER_LEN, Header, Kind, Malformed, RequestId};
use super::status::StatusReader;

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
    #[error("version {0} instead of 1 (the backend does not speak FastCGI 1.0)")]
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

/// What becomes of the current record.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// There is none.
    Between,
    /// Sent on.
    Stdout,
    Stderr,
    /// Sent on, and read.
    End(FixedBody),
    /// For us.
    Management(Kind),
}

/// Reads the response to one request.
#[derive(Clone, Debug)]
pub struct ResponseReader {
    request_id: RequestId,
    records: Reader,
    fate: Fate,
    status: StatusReader,
    /// A header that was read and not yet acted on.
    held: Option<Header>,
    /// Bytes of the current record's header that were seen and not yet taken.
    ahead: usize,
    ended: Option<EndRequest>,
    /// A record of STDOUT has come, be it the empty one that ends the stream.
    has_begun: bool,
    stdout_bytes: u64,
    read: u64,
    record_at: u64,
    failed: Option<ResponseError>,
}

impl ResponseReader {
    /// A reader of the response to the request with this id.
    #[must_use]
    pub const fn new(request_id: RequestId) -> Self {
        Self {
            request_id,
            records: Reader::new(),
            fate: Fate::Between,
            status: StatusReader::new(),
            held: None,
            ahead: 0,
            ended: None,
            has_begun: false,
            stdout_bytes: 0,
            read: 0,
            record_at: 0,
            failed: None,
        }
    }

    /// Reads on in `input` from `at` up to the next event and moves `at` behind what it has read.
    ///
    /// `None` means that `input` is used up. The ranges of events are those of `input`. After
    /// [`ResponseEvent::End`], which every further call gives again, what is behind `at` is not read.
    ///
    /// # Errors
    ///
    /// [`ResponseError`]. From then on every call gives the same error.
    pub fn next(
        &mut self,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Option<ResponseEvent>, ResponseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let Some(end) = self.ended {
            return Ok(Some(ResponseEvent::End(end)));
        }
        let mut pass = Pass::from(*at);
        let seen = self.ahead.min(input.len() - *at);
        *at += seen;
        pass.reach(*at);
        self.ahead -= seen;
        self.read += seen as u64;
        loop {
            match self.step(input, at, &mut pass) {
                Ok(Step::On) => {}
                Ok(Step::Event(event)) => return Ok(Some(event)),
                // First what was found before it.
                Ok(Step::Stop) | Err(_) if !pass.is_empty() => {
                    return Ok(Some(ResponseEvent::Pass(pass)));
                }
                Ok(Step::Stop) => return Ok(None),
                Err(cause) => {
                    let at = self.record_at;
                    return Err(*self.failed.insert(ResponseError { at, cause }));
                }
            }
        }
    }

    /// Whether nothing at all has come. STDERR counts: it proves that the request was processed.
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        self.read == 0
    }

    /// Whether the response proper has begun: its first byte is the client's.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Bytes of STDOUT so far, without headers of records and padding.
    #[must_use]
    pub const fn stdout_bytes(&self) -> u64 {
        self.stdout_bytes
    }

    /// The status as far as it is known: 200 unless its first bytes say something else.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status.status()
    }

    /// Whether a record of our own may be put in here: the next byte for the client begins one.
    #[must_use]
    pub const fn is_between_records(&self) -> bool {
        self.records.is_between_records() || self.held.is_some()
    }

    /// How many of the bytes that come next can go to the client without being looked at. They
    /// belong to one record, padding included. STDOUT is looked at until the status is known.
    #[must_use]
    pub const fn passable(&self) -> usize {
        match (&self.fate, self.held) {
            (Fate::Stdout, None) if self.status.is_open() => 0,
            (Fate::Stdout | Fate::Stderr, None) => self.ahead + self.records.left(),
            (_, Some(_)) | (Fate::Between | Fate::End(_) | Fate::Management(_), None) => 0,
        }
    }

    /// Begins the record whose header is `bytes`, which come next and were not taken yet: from now on
    /// they are [`ResponseReader::passable`], and so is the record. False, and nothing happens, unless
    /// it is output, of `content_min` bytes at least, and nothing of another record is missing.
    pub fn pass_next(&mut self, bytes: [u8; HEADER_LEN], content_min: usize) -> bool {
        let Ok(header) = Header::decode(bytes) else {
            return false;
        };
        let is_worth_it = usize::from(header.content_len) >= content_min;
        let is_readable = self.held.is_none() && self.failed.is_none() && self.ended.is_none();
        let fate = match self.fate_of(header) {
            Ok(Fate::Stdout) if self.status.is_open() => return false,
            Ok(fate @ (Fate::Stdout | Fate::Stderr)) if is_worth_it && is_readable => fate,
            _ => return false,
        };
        if !self.records.begin(header) {
            return false;
        }
        self.has_begun |= matches!(fate, Fate::Stdout);
        self.fate = fate;
        self.record_at = self.read;
        self.ahead = HEADER_LEN;
        true
    }

    /// This many of the [`ResponseReader::passable`] bytes went to the client by another way.
    ///
    /// # Panics
    ///
    /// If they were not passable.
    pub fn passed(&mut self, bytes: usize) {
        assert!(bytes <= self.passable(), "the caller asked how many");
        let of_header = self.ahead.min(bytes);
        self.ahead -= of_header;
        let content = self.records.skip(bytes - of_header);
        self.read += bytes as u64;
        if matches!(self.fate, Fate::Stdout) {
            self.stdout_bytes += content as u64;
        }
        if self.records.is_between_records() {
            self.fate = Fate::Between;
        }
    }

    fn step(&mut self, input: &[u8], at: &mut usize, pass: &mut Pass) -> Result<Step, Nonsense> {
        if let Some(header) = self.held {
            return self.open(header, false, *at, pass);
        }
        let from = *at;
        let mut rest = &input[from..];
        if self.records.is_between_records() {
            self.record_at = self.read;
        }
        let found = self.records.next(&mut rest);
        *at = input.len() - rest.len();
        self.read += (*at - from) as u64;
        match found {
            Err(malformed) => Err(version(malformed)),
            Ok(Some(Event::Begin(header))) => {
                self.open(header, *at - from == HEADER_LEN, *at, pass)
            }
            Ok(event @ (None | Some(Event::Content(_) | Event::End))) => {
                if self.passes() {
                    pass.reach(*at);
                }
                Ok(self.within(event, pass))
            }
        }
    }

    /// Content, the end of a record, or the end of the input within one.
    fn within(&mut self, event: Option<Event<'_>>, pass: &mut Pass) -> Step {
        match (event, &mut self.fate) {
            (Some(Event::Content(piece)), Fate::Stdout) => {
                self.stdout_bytes += piece.len() as u64;
                self.status.read(piece);
            }
            (Some(Event::Content(piece)), Fate::End(body)) => body.push(piece),
            (Some(Event::End), Fate::End(body)) => {
                let body = body.complete().expect("its header says eight bytes");
                let end = EndRequest::decode(body);
                self.ended = Some(end);
                if pass.is_empty() {
                    return Step::Event(ResponseEvent::End(end));
                }
                return Step::Event(ResponseEvent::Pass(std::mem::take(pass)));
            }
            (Some(Event::End), &mut Fate::Management(kind)) => {
                self.fate = Fate::Between;
                return Step::Event(ResponseEvent::Management(kind));
            }
            (Some(Event::End), _) => self.fate = Fate::Between,
            (None, _) => return Step::Stop,
            (Some(Event::Begin(_) | Event::Content(_)), _) => {}
        }
        Step::On
    }

    /// Whether the bytes of the current record go to the client.
    const fn passes(&self) -> bool {
        match self.fate {
            Fate::Stdout | Fate::Stderr | Fate::End(_) => true,
            Fate::Between | Fate::Management(_) => false,
        }
    }

    /// Decides on a record whose header ends at `at`, and is all in this slice if `whole`.
    fn open(
        &mut self,
        header: Header,
        whole: bool,
        at: usize,
        pass: &mut Pass,
    ) -> Result<Step, Nonsense> {
        self.held = Some(header);
        let fate = self.fate_of(header)?;
        if matches!(fate, Fate::Management(_)) && !pass.is_empty() {
            return Ok(Step::Stop);
        }
        self.held = None;
        self.fate = fate;
        self.has_begun |= matches!(self.fate, Fate::Stdout);
        if self.passes() {
            pass.open(header, whole, at);
        }
        Ok(Step::On)
    }

    fn fate_of(&self, header: Header) -> Result<Fate, Nonsense> {
        let kind = header.kind;
        match kind {
            Kind::GetValuesResult | Kind::UnknownType
                if header.request_id == RequestId::MANAGEMENT =>
            {
                Ok(Fate::Management(kind))
            }
            _ if header.request_id != self.request_id => {
                Err(Nonsense::Foreign(header.request_id.get()))
            }
            Kind::Stdout => Ok(Fate::Stdout),
            Kind::Stderr => Ok(Fate::Stderr),
            Kind::EndRequest if usize::from(header.content_len) != HEADER_LEN => {
                Err(Nonsense::EndLen(header.content_len))
            }
            Kind::EndRequest => Ok(Fate::End(FixedBody::default())),
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
}

/// What a step of the reader led to.
enum Step {
    /// Something for the session.
    Event(ResponseEvent),
    /// The next step.
    On,
    /// No further in this slice, or not before what was passed on is told.
    Stop,
}

fn version(malformed: Malformed) -> Nonsense {
    match malformed {
        Malformed::Version(version) => Nonsense::Version(version),
        Malformed::Truncated | Malformed::BodyLen(_) => {
            unreachable!("finding records has no such error: {malformed}")
        }
    }
}

#[cfg(test)]
mod tests;
