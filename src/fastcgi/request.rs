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
mod unread;
mod violation;

use super::forwarder::{Forwarder, Rules, Ruling, Step, Way};
use super::head::{Head, HeadRoom, NoPush};
use super::management::{Capacity, QUERY_BYTES_MAX, Reply, result_of, unknown_type};
use super::pass::Pass;
use phase::{Phase, Streams};
use spliceway_common::fastcgi::{
    BeginRequest, EndRequest, FixedBody, HEADER_LEN, Header, Kind, ProtocolStatus, RequestId, Role,
};

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

/// Reads a client's side of a connection.
#[derive(Debug)]
pub struct RequestReader {
    forwarder: Forwarder<RequestRules>,
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
            forwarder: Forwarder::new(RequestRules {
                limits,
                phase: Phase::Idle,
                head: Head::new(room),
                body_left: None,
                query: Vec::new(),
                body_end_due: false,
            }),
        }
    }

    /// Whether nothing of a request was read that is to be answered: at most a part of what begins the next one.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        matches!(self.rules().phase, Phase::Idle)
    }

    /// Whether the next byte begins a request, or a record that belongs to none: another reader can go on from here
    /// without [`RequestReader::unread`].
    #[must_use]
    pub const fn is_at_rest(&self) -> bool {
        self.is_between() && self.forwarder.is_at_header()
    }

    /// Between two requests: what a client may send from now on.
    pub const fn go_by(&mut self, limits: RequestLimits) {
        self.forwarder.rules_mut().limits = limits;
    }

    const fn rules(&self) -> &RequestRules {
        self.forwarder.rules()
    }

    /// The request's head, complete after [`RequestEvent::Head`].
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.rules().head
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
        self.forwarder.next(input, at)
    }

    /// The answer to the running request is complete or not wanted: the next one may begin. What
    /// still comes of the old one is stepped over.
    pub fn next_request(&mut self) {
        self.forwarder.rules_mut().forget();
        match self.forwarder.fate() {
            None | Some(Fate::Begin(_) | Fate::Query | Fate::Unknown(_) | Fate::Refuse(_)) => {}
            Some(
                Fate::Skip
                | Fate::Params
                | Fate::ParamsEnd
                | Fate::Body
                | Fate::StreamEnd(_)
                | Fate::Abort,
            ) => self.forwarder.withhold(Fate::Skip),
        }
    }

    /// How many of the bytes that come next can go to the upstream without being looked at. They
    /// belong to one record, padding included.
    #[must_use]
    pub const fn passable(&self) -> usize {
        self.forwarder.passable()
    }

    /// Begins the record whose header is `bytes`, which come next and were not taken yet: from now on
    /// they are [`RequestReader::passable`], and so is the record. False, and nothing happens, unless it
    /// is a piece of the body, of `content_min` bytes at least, and nothing of another record is missing.
    pub fn pass_next(&mut self, bytes: [u8; HEADER_LEN], content_min: usize) -> bool {
        let next = self.forwarder.unread_next(bytes);
        next.is_some_and(|(header, _)| usize::from(header.content_len) >= content_min)
            && self.forwarder.pass_next(bytes)
    }

    /// This many of the [`RequestReader::passable`] bytes went to the upstream by another way.
    ///
    /// # Panics
    ///
    /// If they were not passable.
    pub fn passed(&mut self, bytes: usize) {
        self.forwarder.passed(bytes);
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
            header.is_some_and(|header| {
                let is_ours = header.request_id == self.head().request_id();
                self.forwarder.is_at_header()
                    && is_ours
                    && header.kind == Kind::Stdin
                    && header.content_len == 0
            })
        };
        match self.head().role() {
            Role::Responder => self.head().content_length().is_some() || is_over(),
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
        match self.rules().body_left {
            Some(left) => left,
            None => 0,
        }
    }

    /// What it means if the client's stream ends here.
    #[must_use]
    pub fn end(&self) -> ClientEnd {
        match self.rules().phase {
            // What is left of one that was answered before it had come belongs to no request.
            Phase::Idle if matches!(self.forwarder.fate(), Some(Fate::Skip)) => {
                ClientEnd::BetweenRequests
            }
            _ if !self.forwarder.is_at_header() => ClientEnd::TooEarly,
            Phase::Idle => ClientEnd::BetweenRequests,
            Phase::Complete => ClientEnd::AfterRequest,
            // §6.3: it has no body, and nothing says that an empty one is sent.
            Phase::Body(_) if self.head().role() == Role::Authorizer => ClientEnd::AfterRequest,
            Phase::Params | Phase::Body(_) => ClientEnd::TooEarly,
        }
    }
}

/// What a client may send, and what becomes of it.
#[derive(Debug)]
struct RequestRules {
    limits: RequestLimits,
    phase: Phase,
    head: Head,
    /// What of the body may still come, if it is known.
    body_left: Option<u64>,
    query: Vec<u8>,
    /// [`RequestEvent::BodyEnd`] is due.
    body_end_due: bool,
}

/// What a record is.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Nothing: it is stepped over.
    Skip,
    /// It opens a request.
    Begin(RequestId),
    /// It opens one more while another runs: refused.
    Refuse(RequestId),
    /// A piece of the parameters.
    Params,
    /// Their end.
    ParamsEnd,
    /// A piece of the body.
    Body,
    /// The end of this stream.
    StreamEnd(Kind),
    /// The client gives up.
    Abort,
    /// A question, answered here.
    Query,
    /// A management record that nobody knows.
    Unknown(u8),
}

type Ruled = Result<Ruling<Fate, RequestEvent>, Violation>;

impl Rules for RequestRules {
    type Fate = Fate;
    type Event = RequestEvent;
    type Cause = Violation;
    type Error = ProtocolError;

    fn rule(&self, header: Header) -> Ruled {
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
            Kind::BeginRequest => self.rule_on_begin(header),
            Kind::AbortRequest | Kind::Params | Kind::Stdin | Kind::Data => {
                if self.phase == Phase::Idle || header.request_id != self.head.request_id() {
                    return kept(Fate::Skip);
                }
                self.rule_within(header)
            }
        }
    }

    fn passes_unread(&self, fate: Fate) -> bool {
        matches!(fate, Fate::Body)
    }

    /// Counts a record of the body before any of it is sent.
    fn begin(&mut self, fate: Fate, header: Header) {
        if let (Fate::Body, Kind::Stdin, Some(left)) = (fate, header.kind, &mut self.body_left) {
            let fewer = left.checked_sub(u64::from(header.content_len));
            *left = fewer.expect("the ruling was that it fits");
        }
    }

    fn content(&mut self, fate: Fate, piece: &[u8]) -> Result<(), Violation> {
        match fate {
            Fate::Params => {
                let bytes_max = self.limits.params_bytes_max;
                self.head.push(piece, bytes_max).map_err(|no| match no {
                    NoPush::TooLong => Violation::ParamsTooLong(bytes_max),
                    NoPush::NoRoom => Violation::HeadsFull,
                })
            }
            Fate::Query => {
                self.query.extend_from_slice(piece);
                Ok(())
            }
            Fate::Skip
            | Fate::Begin(_)
            | Fate::Refuse(_)
            | Fate::ParamsEnd
            | Fate::Body
            | Fate::StreamEnd(_)
            | Fate::Abort
            | Fate::Unknown(_) => Ok(()),
        }
    }

    /// A body was counted when its record began.
    fn unread(&mut self, _fate: Fate, _content: usize) {}

    fn end(
        &mut self,
        fate: Fate,
        body: Option<[u8; HEADER_LEN]>,
    ) -> Result<Step<RequestEvent>, Violation> {
        match fate {
            Fate::Skip | Fate::Params | Fate::Body => Ok(Step::On),
            Fate::Begin(request_id) => {
                let body = body.expect("it was to be gathered");
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
            Fate::StreamEnd(kind) => {
                self.end_stream(kind);
                Ok(Step::Tell)
            }
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

    fn due(&mut self) -> Option<RequestEvent> {
        std::mem::take(&mut self.body_end_due).then_some(RequestEvent::BodyEnd)
    }

    fn pass(pass: Pass) -> RequestEvent {
        RequestEvent::Body(pass)
    }

    fn error(at: u64, cause: Violation) -> ProtocolError {
        ProtocolError { at, cause }
    }
}

impl RequestRules {
    fn rule_on_begin(&self, header: Header) -> Ruled {
        if usize::from(header.content_len) != HEADER_LEN {
            return Err(Violation::BeginLen(header.content_len));
        }
        match self.phase {
            Phase::Idle => Ok(Ruling::Begin(
                Fate::Begin(header.request_id),
                Way::Gathered(FixedBody::default()),
            )),
            Phase::Complete => Ok(Ruling::Wait(RequestEvent::Next)),
            Phase::Body(_) if self.head.role() == Role::Authorizer => {
                Ok(Ruling::Wait(RequestEvent::Next))
            }
            Phase::Params | Phase::Body(_) if header.request_id == self.head.request_id() => {
                Err(Violation::BeginTwice)
            }
            Phase::Params | Phase::Body(_) => kept(Fate::Refuse(header.request_id)),
        }
    }

    /// What becomes of a record of the running request.
    fn rule_within(&self, header: Header) -> Ruled {
        let kind = header.kind;
        match (self.phase, kind) {
            (_, Kind::AbortRequest) => kept(Fate::Abort),
            (Phase::Params, Kind::Params) if header.content_len == 0 => kept(Fate::ParamsEnd),
            (Phase::Params, Kind::Params) => kept(Fate::Params),
            (Phase::Body(open), _) if open.has(kind) => self.rule_on_body(header),
            _ => Err(Violation::OutOfPlace(kind)),
        }
    }

    fn rule_on_body(&self, header: Header) -> Ruled {
        let kind = header.kind;
        match (header.content_len, header.padding_len) {
            (0, 0) => Ok(Ruling::Begin(Fate::StreamEnd(kind), Way::AsItCame)),
            (0, _) => Ok(Ruling::Begin(Fate::StreamEnd(kind), Way::Unpadded)),
            (content_len, _) => match (kind, self.body_left) {
                (Kind::Stdin, Some(left)) if left < u64::from(content_len) => {
                    Err(Violation::BodyTooLong)
                }
                _ => Ok(Ruling::Begin(Fate::Body, Way::AsItCame)),
            },
        }
    }

    fn end_stream(&mut self, kind: Kind) {
        let Phase::Body(open) = self.phase else {
            unreachable!("{kind:?} was open when its end came");
        };
        self.phase = open.without(kind);
        self.body_end_due = self.phase == Phase::Complete;
    }

    /// The running request is over.
    fn forget(&mut self) {
        self.phase = Phase::Idle;
        self.body_left = None;
        self.body_end_due = false;
        self.head.clear();
    }
}

/// What becomes of a record with request id 0 (§4).
fn management(header: Header) -> Ruled {
    match header.kind {
        Kind::GetValues if usize::from(header.content_len) > QUERY_BYTES_MAX => {
            Err(Violation::QueryTooLong(header.content_len))
        }
        Kind::GetValues => kept(Fate::Query),
        Kind::Other(number) => kept(Fate::Unknown(number)),
        kind @ (Kind::GetValuesResult | Kind::UnknownType) => Err(Violation::FromApplication(kind)),
        kind => Err(Violation::NullId(kind)),
    }
}

/// It is for us, or for nobody.
const fn kept(fate: Fate) -> Ruled {
    Ok(Ruling::Begin(fate, Way::Kept))
}

#[cfg(test)]
mod tests;
