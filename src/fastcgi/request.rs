//! Reading what a client sends: requests, one after another (specification §3.3, §5).
//!
//! [`RequestReader`] takes any split of the byte stream. It keeps the head of one request, which has
//! a bound, and a partial header, never the body: STDIN and DATA records go to the upstream as they
//! are, because it gets the client's own request id. Two things are not passed on as they came:
//!
//! - **the record that ends a stream, if it is padded.** PHP-FPM does not read its padding but takes
//!   it for the next request, in front of which no guard stands. It is replaced by one without;
//! - **more of a body than CONTENT_LENGTH says**, which is an error: an application that reads only
//!   what was announced finds the rest where it expects the next request.
//!
//! Records of requests that do not run are ignored (§3.3), so a request can be answered early: after
//! [`RequestReader::next_request`] what is left of its body is stepped over.

mod phase;
mod violation;

use super::body::{BeginRequest, EndRequest, FixedBody, ProtocolStatus, Role};
use super::head::{Head, HeadRoom, NoPush};
use super::management::{Capacity, QUERY_BYTES_MAX, Reply, result_of, unknown_type};
use super::pass::Pass;
use super::reader::{Event, Reader};
use super::record::{HEADER_LEN, Header, Kind, RequestId};
use phase::{Phase, Streams};

pub use violation::{ProtocolError, Violation};

/// The default bound of the parameters of one request, in bytes. nginx holds the headers of a client
/// in 4 × 8 KiB (`large_client_header_buffers`), but Apache takes 100 fields of 8 KiB, and PHP-FPM was
/// seen to serve the 200 KB of headers that Caddy lets through.
pub const PARAMS_BYTES_MAX: usize = 256 * 1024;

/// What the reader is told about its connection.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// The most bytes of name-value pairs in one request.
    pub params_bytes_max: usize,
    /// What a client that asks is told about us.
    pub capacity: Capacity,
}

/// What the session has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEvent {
    /// [`RequestReader::head`] is complete.
    Head,
    /// Send this to the upstream: records of STDIN or DATA, or the end of one of them.
    Body(Pass),
    /// Nothing more of this request is to be sent: its streams have ended, with what the last
    /// [`RequestEvent::Body`] held.
    BodyEnd,
    /// Send this to the client, between two records of the response.
    Reply(Reply),
    /// The client gives the request up (§5.4). It is to be answered with END_REQUEST.
    Abort,
    /// The next request begins, and nothing of it is read before [`RequestReader::next_request`].
    /// Until then every call gives this event again.
    Next,
}

/// What it means that a client's stream ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEnd {
    /// No request is open.
    BetweenRequests,
    /// The request is complete: legal, its answer is still wanted.
    AfterRequest,
    /// In the midst of a request or of a record: nothing can come of it.
    TooEarly,
}

/// What becomes of the current record.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Nothing: it is stepped over. Also the state between records.
    Skip,
    /// It opens a request.
    Begin(RequestId, FixedBody),
    /// It opens one more while another runs: refused.
    Refuse(RequestId),
    /// It opens the next one, which has to wait.
    Wait,
    /// A piece of the parameters.
    Params,
    /// Their end.
    ParamsEnd,
    /// A piece of the body: sent on as it is.
    Pass,
    /// The end of this stream: sent on as it is.
    PassEnd(Kind),
    /// The end of this stream, with padding: sent on without.
    ReplaceEnd(Kind),
    /// The client gives up.
    Abort,
    /// A question, answered here.
    Query,
    /// A management record that nobody knows.
    Unknown(u8),
}

impl Fate {
    /// Whether the record's bytes go to the upstream.
    const fn passes(self) -> bool {
        matches!(self, Self::Pass | Self::PassEnd(_))
    }
}

/// Reads a client's side of a connection.
#[derive(Debug)]
pub struct RequestReader {
    limits: RequestLimits,
    records: Reader,
    phase: Phase,
    fate: Fate,
    head: Head,
    /// What of the body may still come, if it is known.
    body_left: Option<u64>,
    query: Vec<u8>,
    /// A header that was read and not yet acted on.
    held: Option<Header>,
    /// Bytes of the current record's header that were seen and not yet taken.
    ahead: usize,
    /// [`RequestEvent::BodyEnd`] is due.
    body_end_due: bool,
    /// Bytes of the connection that were read.
    read: u64,
    /// Where the current record begins.
    record_at: u64,
    failed: Option<ProtocolError>,
}

impl RequestReader {
    /// A reader at the beginning of a connection, with a room for its head alone.
    #[must_use]
    pub fn new(limits: RequestLimits) -> Self {
        Self::sharing(HeadRoom::default(), limits)
    }

    /// A reader whose head shares this room with others.
    #[must_use]
    pub const fn sharing(room: HeadRoom, limits: RequestLimits) -> Self {
        Self {
            limits,
            records: Reader::new(),
            phase: Phase::Idle,
            fate: Fate::Skip,
            head: Head::new(room),
            body_left: None,
            query: Vec::new(),
            held: None,
            ahead: 0,
            body_end_due: false,
            read: 0,
            record_at: 0,
            failed: None,
        }
    }

    /// The request's head, complete after [`RequestEvent::Head`].
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Reads on in `input` from `at` up to the next event and moves `at` behind what it has read.
    ///
    /// `None` means that `input` is used up. The ranges of events are those of `input`.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`]. From then on every call gives the same error.
    pub fn next(
        &mut self,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Option<RequestEvent>, ProtocolError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.body_end_due {
            self.body_end_due = false;
            return Ok(Some(RequestEvent::BodyEnd));
        }
        let mut pass = Pass::from(*at);
        let seen = self.ahead.min(input.len() - *at);
        *at += seen;
        if self.fate.passes() {
            pass.reach(*at);
        }
        self.ahead -= seen;
        self.read += seen as u64;
        loop {
            match self.step(input, at, &mut pass) {
                Ok(Step::Event(event)) => return Ok(Some(event)),
                Ok(Step::On) => {}
                // First what was found before it.
                Ok(Step::Stop) | Err(_) if !pass.is_empty() => {
                    return Ok(Some(RequestEvent::Body(pass)));
                }
                Ok(Step::Stop) => return Ok(None),
                Err(cause) => {
                    let at = self.record_at;
                    return Err(*self.failed.insert(ProtocolError { at, cause }));
                }
            }
        }
    }

    /// The answer to the running request is complete or not wanted: the next one may begin. What
    /// still comes of the old one is stepped over.
    pub fn next_request(&mut self) {
        self.phase = Phase::Idle;
        self.body_left = None;
        self.body_end_due = false;
        self.head.clear();
        match self.fate {
            Fate::Begin(..) | Fate::Query | Fate::Unknown(_) | Fate::Refuse(_) => {}
            Fate::Skip
            | Fate::Wait
            | Fate::Params
            | Fate::ParamsEnd
            | Fate::Pass
            | Fate::PassEnd(_)
            | Fate::ReplaceEnd(_)
            | Fate::Abort => self.fate = Fate::Skip,
        }
    }

    /// How many of the bytes that come next can go to the upstream without being looked at. They
    /// belong to one record, padding included.
    #[must_use]
    pub const fn passable(&self) -> usize {
        match (self.fate.passes(), self.held) {
            (true, None) => self.ahead + self.records.left(),
            (true, Some(_)) | (false, _) => 0,
        }
    }

    /// Begins the record whose header is `bytes`, which come next and were not taken yet: from now on
    /// they are [`RequestReader::passable`], and so is the record. False, and nothing happens, unless it
    /// is a piece of the body, of `content_min` bytes at least, and nothing of another record is missing.
    pub fn pass_next(&mut self, bytes: [u8; HEADER_LEN], content_min: usize) -> bool {
        let Ok(header) = Header::decode(bytes) else {
            return false;
        };
        let is_worth_it = usize::from(header.content_len) >= content_min;
        let is_readable = self.held.is_none() && self.failed.is_none() && !self.body_end_due;
        let is_body = is_readable && matches!(self.fate_of(header), Ok(Fate::Pass));
        let fits = self
            .body_left
            .is_none_or(|left| left >= u64::from(header.content_len));
        if !is_worth_it || !is_body || !fits || !self.records.begin(header) {
            return false;
        }
        self.count(header).expect("it fits");
        self.fate = Fate::Pass;
        self.record_at = self.read;
        self.ahead = HEADER_LEN;
        true
    }

    /// This many of the [`RequestReader::passable`] bytes went to the upstream by another way.
    ///
    /// # Panics
    ///
    /// If they were not passable.
    pub fn passed(&mut self, bytes: usize) {
        assert!(bytes <= self.passable(), "the caller asked how many");
        let of_header = self.ahead.min(bytes);
        self.ahead -= of_header;
        self.records.skip(bytes - of_header);
        self.read += bytes as u64;
        if self.records.is_between_records() {
            self.fate = Fate::Skip;
        }
    }

    /// Whether an application that keeps its connection reads this request to its end, and no further: it
    /// knows how long the body is, or there is none, whose end is the next record in `rest`, which was not
    /// read yet. PHP-FPM leaves a body of unknown length where the next request should be.
    #[must_use]
    pub fn body_is_certain(&self, rest: &[u8]) -> bool {
        let is_over = || {
            let header = rest
                .first_chunk()
                .and_then(|bytes| Header::decode(*bytes).ok());
            let is_at_header = self.records.is_between_records() && self.held.is_none();
            header.is_some_and(|header| {
                let is_ours = header.request_id == self.head.request_id();
                is_at_header && is_ours && header.kind == Kind::Stdin && header.content_len == 0
            })
        };
        match self.head.role() {
            Role::Responder => self.head.content_length().is_some() || is_over(),
            // §6.3: it has no body.
            Role::Authorizer => true,
            // Its second stream is of unknown length.
            Role::Filter | Role::Other(_) => false,
        }
    }

    /// How much less body has come than CONTENT_LENGTH says. After [`RequestEvent::BodyEnd`] it
    /// tells of a body that is too short, for which PHP-FPM would wait.
    #[must_use]
    pub const fn body_missing(&self) -> u64 {
        match self.body_left {
            Some(left) => left,
            None => 0,
        }
    }

    /// What it means if the client's stream ends here.
    #[must_use]
    pub fn end(&self) -> ClientEnd {
        match self.phase {
            _ if !self.records.is_between_records() || self.held.is_some() => ClientEnd::TooEarly,
            Phase::Idle => ClientEnd::BetweenRequests,
            Phase::Complete => ClientEnd::AfterRequest,
            // §6.3: it has no body, and nothing says that an empty one is sent.
            Phase::Body(_) if self.head.role() == Role::Authorizer => ClientEnd::AfterRequest,
            Phase::Params | Phase::Body(_) => ClientEnd::TooEarly,
        }
    }

    fn step(&mut self, input: &[u8], at: &mut usize, pass: &mut Pass) -> Result<Step, Violation> {
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
        if self.fate.passes() {
            pass.reach(*at);
        }
        match found {
            Err(malformed) => Err(malformed.into()),
            Ok(None) => Ok(Step::Stop),
            Ok(Some(Event::Begin(header))) => {
                self.open(header, *at - from == HEADER_LEN, *at, pass)
            }
            Ok(Some(Event::Content(piece))) => self.content(piece),
            Ok(Some(Event::End)) => self.close(pass),
        }
    }

    /// Decides on a record whose header ends at `at`, and is all in this slice if `whole`.
    fn open(
        &mut self,
        header: Header,
        whole: bool,
        at: usize,
        pass: &mut Pass,
    ) -> Result<Step, Violation> {
        // Acted on later, unless this returns without an error and does something else about it.
        self.held = Some(header);
        let fate = self.fate_of(header)?;
        if !fate.passes() && !pass.is_empty() {
            return Ok(Step::Stop);
        }
        match fate {
            Fate::Wait => return Ok(Step::Event(RequestEvent::Next)),
            Fate::Pass => self.count(header)?,
            _ => {}
        }
        match fate {
            Fate::Pass | Fate::PassEnd(_) => pass.open(header, whole, at),
            Fate::ReplaceEnd(_) => pass.replace(unpadded(header), at),
            _ => {}
        }
        self.held = None;
        self.fate = fate;
        Ok(Step::On)
    }

    fn fate_of(&self, header: Header) -> Result<Fate, Violation> {
        let kind = header.kind;
        if header.request_id == RequestId::MANAGEMENT {
            return management(header);
        }
        match kind {
            Kind::GetValues => Err(Violation::NotNullId(kind)),
            Kind::Other(number) => Err(Violation::UnknownKind(number)),
            Kind::EndRequest
            | Kind::Stdout
            | Kind::Stderr
            | Kind::GetValuesResult
            | Kind::UnknownType => Err(Violation::FromApplication(kind)),
            Kind::BeginRequest => self.fate_of_begin(header),
            Kind::AbortRequest | Kind::Params | Kind::Stdin | Kind::Data => {
                if self.phase == Phase::Idle || header.request_id != self.head.request_id() {
                    return Ok(Fate::Skip);
                }
                self.fate_within(header)
            }
        }
    }

    fn fate_of_begin(&self, header: Header) -> Result<Fate, Violation> {
        if usize::from(header.content_len) != HEADER_LEN {
            return Err(Violation::BeginLen(header.content_len));
        }
        match self.phase {
            Phase::Idle => Ok(Fate::Begin(header.request_id, FixedBody::default())),
            Phase::Complete => Ok(Fate::Wait),
            Phase::Body(_) if self.head.role() == Role::Authorizer => Ok(Fate::Wait),
            Phase::Params | Phase::Body(_) if header.request_id == self.head.request_id() => {
                Err(Violation::BeginTwice)
            }
            Phase::Params | Phase::Body(_) => Ok(Fate::Refuse(header.request_id)),
        }
    }

    /// The fate of a record of the running request.
    fn fate_within(&self, header: Header) -> Result<Fate, Violation> {
        let kind = header.kind;
        match (self.phase, kind) {
            (_, Kind::AbortRequest) => Ok(Fate::Abort),
            (Phase::Params, Kind::Params) if header.content_len == 0 => Ok(Fate::ParamsEnd),
            (Phase::Params, Kind::Params) => Ok(Fate::Params),
            (Phase::Body(open), _) if open.has(kind) => Ok(match header {
                Header {
                    content_len: 1.., ..
                } => Fate::Pass,
                Header { padding_len: 0, .. } => Fate::PassEnd(kind),
                Header { .. } => Fate::ReplaceEnd(kind),
            }),
            _ => Err(Violation::OutOfPlace(kind)),
        }
    }

    /// Counts a record of the body before any of it is sent.
    fn count(&mut self, header: Header) -> Result<(), Violation> {
        if let (Kind::Stdin, Some(left)) = (header.kind, &mut self.body_left) {
            let fewer = left.checked_sub(u64::from(header.content_len));
            *left = fewer.ok_or(Violation::BodyTooLong)?;
        }
        Ok(())
    }

    fn content(&mut self, piece: &[u8]) -> Result<Step, Violation> {
        match &mut self.fate {
            Fate::Begin(_, body) => body.push(piece),
            Fate::Params => {
                let bytes_max = self.limits.params_bytes_max;
                self.head.push(piece, bytes_max).map_err(|no| match no {
                    NoPush::TooLong => Violation::ParamsTooLong(bytes_max),
                    NoPush::NoRoom => Violation::HeadsFull,
                })?;
            }
            Fate::Query => self.query.extend_from_slice(piece),
            _ => {}
        }
        Ok(Step::On)
    }

    /// The record is over.
    fn close(&mut self, pass: &mut Pass) -> Result<Step, Violation> {
        let fate = std::mem::replace(&mut self.fate, Fate::Skip);
        match fate {
            Fate::Skip | Fate::Params | Fate::Pass => Ok(Step::On),
            Fate::Wait => unreachable!("its header is held"),
            Fate::Begin(request_id, body) => {
                let body = body.complete().expect("its header says eight bytes");
                self.head.begin(request_id, BeginRequest::decode(body));
                self.phase = Phase::Params;
                Ok(Step::On)
            }
            Fate::Refuse(request_id) => {
                let end = EndRequest {
                    app_status: 0,
                    protocol_status: ProtocolStatus::CannotMultiplex,
                };
                let reply = Reply::record(Kind::EndRequest, request_id, &end.encode());
                Ok(Step::Event(RequestEvent::Reply(reply)))
            }
            Fate::ParamsEnd => {
                self.head.complete().or(Err(Violation::PairTooLong))?;
                self.phase = Phase::Body(Streams::of(self.head.role()));
                self.body_left = self.head.content_length();
                Ok(Step::Event(RequestEvent::Head))
            }
            Fate::PassEnd(kind) | Fate::ReplaceEnd(kind) => Ok(self.close_stream(kind, pass)),
            Fate::Abort => Ok(Step::Event(RequestEvent::Abort)),
            Fate::Query => {
                let reply = result_of(&self.query, self.limits.capacity);
                self.query.clear();
                let reply = reply.or(Err(Violation::PairTooLong))?;
                Ok(Step::Event(RequestEvent::Reply(reply)))
            }
            Fate::Unknown(number) => Ok(Step::Event(RequestEvent::Reply(unknown_type(number)))),
        }
    }

    fn close_stream(&mut self, kind: Kind, pass: &mut Pass) -> Step {
        let Phase::Body(open) = self.phase else {
            unreachable!("{kind:?} was open when its end came");
        };
        self.phase = open.without(kind);
        let all = self.phase == Phase::Complete;
        match (pass.is_empty(), all) {
            (true, true) => Step::Event(RequestEvent::BodyEnd),
            (true, false) => Step::On,
            (false, _) => {
                self.body_end_due = all;
                Step::Event(RequestEvent::Body(std::mem::take(pass)))
            }
        }
    }
}

/// What a step of the reader led to.
enum Step {
    /// Something for the session.
    Event(RequestEvent),
    /// The next step.
    On,
    /// No further in this slice, or not before what was passed on is told.
    Stop,
}

/// The fate of a record with request id 0 (§4).
fn management(header: Header) -> Result<Fate, Violation> {
    match header.kind {
        Kind::GetValues if usize::from(header.content_len) > QUERY_BYTES_MAX => {
            Err(Violation::QueryTooLong(header.content_len))
        }
        Kind::GetValues => Ok(Fate::Query),
        Kind::Other(number) => Ok(Fate::Unknown(number)),
        kind @ (Kind::GetValuesResult | Kind::UnknownType) => Err(Violation::FromApplication(kind)),
        kind => Err(Violation::NullId(kind)),
    }
}

const fn unpadded(header: Header) -> Header {
    Header {
        padding_len: 0,
        ..header
    }
}

#[cfg(test)]
mod tests;
