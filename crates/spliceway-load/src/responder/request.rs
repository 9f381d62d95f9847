//! What arrives on a connection: requests and management records, read from any pieces.

use std::time::Duration;

use super::Like;
use crate::digest::digest;
use crate::pattern::Pattern;
use crate::synthetic::{HEAD_LEN, PARAM_DELAY_US, PARAM_NONCE, PARAM_RESPONSE_BYTES, parse_hex};
use spliceway_common::fastcgi::{
    BeginRequest, FixedBody, Header, Kind, Malformed, PairError, Pairs, Reader, RecordEvent,
    RequestId, Role,
};

/// The most bytes of parameters that a request may have: as much as the load sends.
pub(super) const PARAMS_BYTES_MAX: usize = 64 * 1024;

/// The answer to a request that does not say how long it is to be.
const RESPONSE_BYTES_DEFAULT: u64 = 4096;

/// The longest answer. A bound for what a stranger can ask for; enough for any measurement.
const RESPONSE_BYTES_MAX: u64 = 1 << 40;

/// The longest wait before an answer, for the same reason.
const DELAY_MAX: Duration = Duration::from_secs(3600);

/// Why a connection is closed without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Pair(#[from] PairError),
    #[error("read a FastCGI request: a {0:?} record where it may not stand (the client is broken)")]
    Unexpected(Kind),
    #[error("read a FastCGI request: role {0:?} (only responders are served)")]
    Role(Role),
    #[error(
        "read a FastCGI request: more than {PARAMS_BYTES_MAX} bytes of parameters (send fewer)"
    )]
    ParamsTooLong,
}

/// What is wrong with a request that is well formed; it is told in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the parameter {0} is not a number in range")]
    Parameter(&'static str),
    #[error("byte {offset} of the body is wrong")]
    BodyWrong { offset: u64 },
    #[error("the body has {received} bytes, not {announced} as CONTENT_LENGTH says")]
    BodyLength { received: u64, announced: u64 },
}

/// A complete request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Its number on this connection.
    pub(super) id: RequestId,
    /// Whether the connection stays open.
    pub(super) keep_conn: bool,
    /// What it asks for.
    pub(super) asked: Result<Asked, Refusal>,
    /// Bytes of its body.
    pub(super) body_bytes: u64,
}

/// The answer that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Its number.
    pub(super) nonce: u64,
    /// The digest of all its parameters.
    pub(super) params_digest: u64,
    /// Bytes of STDOUT.
    pub(super) response_bytes: u64,
    /// How long to wait first.
    pub(super) delay: Duration,
}

/// Something to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A request.
    Request(Request),
    /// FCGI_GET_VALUES; what it names is in [`Parser::params`].
    GetValues,
}

/// How far a request has come (specification §3.3 and appendix B).
#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// Nothing of it has come.
    #[default]
    Start,
    /// In a FCGI_GET_VALUES.
    GetValues,
    /// In its BEGIN_REQUEST.
    Begin(RequestId, FixedBody),
    /// In its parameters.
    Params(Opened),
    /// In the empty record behind them.
    ParamsEnd(Opened),
    /// In its body.
    Stdin(Opened, Body),
    /// In the empty record behind that.
    StdinEnd(Opened, Body),
}

/// What BEGIN_REQUEST said.
#[derive(Clone, Copy, Debug)]
struct Opened {
    id: RequestId,
    keep_conn: bool,
}

/// The body so far, and what the parameters said.
#[derive(Clone, Copy, Debug)]
struct Body {
    asked: Result<Asked, Refusal>,
    /// What CONTENT_LENGTH said.
    announced: Option<u64>,
    /// What the body should be, if that is known.
    pattern: Option<Pattern>,
    received: u64,
}

/// Reads what a connection carries.
///
/// PHP-FPM takes a request for complete when its parameters are and as much of a body has come as
/// CONTENT_LENGTH says. The end of the body is read with the next request, and a body that was not
/// announced never.
#[derive(Debug)]
pub(super) struct Parser {
    reader: Reader,
    stage: Stage,
    params: Vec<u8>,
    like: Like,
}

impl Parser {
    pub(super) fn new(like: Like) -> Self {
        Self {
            reader: Reader::default(),
            stage: Stage::default(),
            params: Vec::new(),
            like,
        }
    }

    /// Reads on up to the end of the next item and advances `input` behind it. `None`: `input` is
    /// used up.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Item>, BadRequest> {
        while let Some(event) = self.reader.next(input)? {
            match event {
                RecordEvent::Begin(header) => self.begin(header)?,
                RecordEvent::Content(piece) => self.content(piece)?,
                RecordEvent::End => {
                    if let Some(item) = self.end()? {
                        return Ok(Some(item));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The parameters of the last request, or the names of the last FCGI_GET_VALUES, encoded.
    pub(super) fn params(&self) -> &[u8] {
        &self.params
    }

    /// Whether a body is what comes next.
    pub(super) fn is_in_body(&self) -> bool {
        matches!(self.stage, Stage::Stdin(..))
    }

    fn begin(&mut self, header: Header) -> Result<(), BadRequest> {
        let (id, kind) = (header.request_id, header.kind);
        self.stage = match (self.stage, kind, header.content_len) {
            (Stage::Start, Kind::GetValues, _) if id == RequestId::MANAGEMENT => {
                self.params.clear();
                Stage::GetValues
            }
            (Stage::Start, Kind::BeginRequest, _) if id != RequestId::MANAGEMENT => {
                self.params.clear();
                Stage::Begin(id, FixedBody::default())
            }
            (Stage::Start, Kind::Stdin, 0) if self.like == Like::Fpm => Stage::Start,
            // An empty record ends the stream that it belongs to (§3.3).
            (Stage::Params(opened), Kind::Params, 0) if opened.id == id => Stage::ParamsEnd(opened),
            (Stage::Params(opened), Kind::Params, _) if opened.id == id => Stage::Params(opened),
            (Stage::Stdin(opened, body), Kind::Stdin, 0) if opened.id == id => {
                Stage::StdinEnd(opened, body)
            }
            (Stage::Stdin(opened, body), Kind::Stdin, _) if opened.id == id => {
                Stage::Stdin(opened, body)
            }
            (_, unexpected, _) => return Err(BadRequest::Unexpected(unexpected)),
        };
        Ok(())
    }

    fn content(&mut self, piece: &[u8]) -> Result<(), BadRequest> {
        match &mut self.stage {
            Stage::Begin(_, body) => body.push(piece),
            Stage::GetValues | Stage::Params(_) => {
                if self.params.len() + piece.len() > PARAMS_BYTES_MAX {
                    return Err(BadRequest::ParamsTooLong);
                }
                self.params.extend_from_slice(piece);
            }
            Stage::Stdin(_, body) => body.push(piece),
            Stage::Start | Stage::ParamsEnd(_) | Stage::StdinEnd(..) => {
                unreachable!("only an empty record or none at all leads here")
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Option<Item>, BadRequest> {
        let (next, item) = match self.stage {
            Stage::GetValues => (Stage::Start, Some(Item::GetValues)),
            Stage::Begin(id, body) => (Stage::Params(opened(id, body)?), None),
            Stage::ParamsEnd(opened) => self.body(opened, Body::asked(&self.params)?),
            Stage::Stdin(opened, body) => self.body(opened, body),
            Stage::StdinEnd(opened, body) => {
                (Stage::Start, Some(Item::Request(body.complete(opened))))
            }
            unchanged @ (Stage::Start | Stage::Params(_)) => (unchanged, None),
        };
        self.stage = next;
        Ok(item)
    }

    /// Whether more of the body is read.
    fn body(&self, opened: Opened, body: Body) -> (Stage, Option<Item>) {
        let is_complete = body.received >= body.announced.unwrap_or(0);
        match self.like {
            Like::Fpm if is_complete => (Stage::Start, Some(Item::Request(body.complete(opened)))),
            Like::Fpm | Like::Plain => (Stage::Stdin(opened, body), None),
        }
    }
}

fn opened(id: RequestId, body: FixedBody) -> Result<Opened, BadRequest> {
    let begin = BeginRequest::decode(body.complete()?);
    match begin.role {
        Role::Responder => Ok(Opened {
            id,
            keep_conn: begin.keep_conn,
        }),
        role @ (Role::Authorizer | Role::Filter | Role::Other(_)) => Err(BadRequest::Role(role)),
    }
}

impl Body {
    /// Nothing of a body yet; what it should be follows from the parameters.
    fn asked(params: &[u8]) -> Result<Self, PairError> {
        let mut asked = Asked {
            nonce: 0,
            params_digest: digest(params),
            response_bytes: RESPONSE_BYTES_DEFAULT,
            delay: Duration::ZERO,
        };
        let mut body = Self {
            asked: Ok(asked),
            announced: None,
            pattern: None,
            received: 0,
        };
        let mut refusal = None;
        for pair in Pairs::new(params) {
            let (name, value) = pair?;
            let known = match name {
                b"CONTENT_LENGTH" => {
                    body.announced = number(value, u64::MAX);
                    continue;
                }
                name if name == PARAM_NONCE.as_bytes() => parse_hex(value)
                    .map(|nonce| {
                        asked.nonce = nonce;
                        body.pattern = Some(Pattern::of(nonce));
                    })
                    .ok_or(PARAM_NONCE),
                name if name == PARAM_RESPONSE_BYTES.as_bytes() => {
                    number(value, RESPONSE_BYTES_MAX)
                        .filter(|&bytes| bytes >= HEAD_LEN as u64)
                        .map(|bytes| asked.response_bytes = bytes)
                        .ok_or(PARAM_RESPONSE_BYTES)
                }
                name if name == PARAM_DELAY_US.as_bytes() => number(value, u64::MAX)
                    .map(Duration::from_micros)
                    .filter(|&delay| delay <= DELAY_MAX)
                    .map(|delay| asked.delay = delay)
                    .ok_or(PARAM_DELAY_US),
                _ => continue,
            };
            if let Err(parameter) = known {
                refusal = Some(Refusal::Parameter(parameter));
            }
        }
        body.asked = refusal.map_or(Ok(asked), Err);
        Ok(body)
    }

    fn push(&mut self, piece: &[u8]) {
        let wrong = self
            .pattern
            .and_then(|pattern| pattern.mismatch(self.received, piece));
        if let (Ok(_), Some((at, _))) = (self.asked, wrong) {
            let offset = self.received + at as u64;
            self.asked = Err(Refusal::BodyWrong { offset });
        }
        self.received += piece.len() as u64;
    }

    fn complete(self, opened: Opened) -> Request {
        let received = self.received;
        let announced = self.announced.unwrap_or(received);
        let asked = if announced == received {
            self.asked
        } else {
            let length = Refusal::BodyLength {
                received,
                announced,
            };
            self.asked.and(Err(length))
        };
        Request {
            id: opened.id,
            keep_conn: opened.keep_conn,
            asked,
            body_bytes: received,
        }
    }
}

/// A decimal number; the standard parser takes a plus sign, which nobody means.
fn number(text: &[u8], most: u64) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number <= most).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::synthetic::hex;
    use spliceway_common::fastcgi::{push_pair, push_record, push_stream, push_stream_end};

    const ID: RequestId = RequestId::application(NonZeroU16::MIN);
    const NONCE: u64 = 4711;

    fn begin(keep_conn: bool, role: Role) -> Vec<u8> {
        let mut bytes = Vec::new();
        let begin = BeginRequest { role, keep_conn };
        push_record(&mut bytes, Kind::BeginRequest, ID, &begin.encode());
        bytes
    }

    fn request(pairs: &[(&str, &[u8])], body: &[u8]) -> Vec<u8> {
        let (mut bytes, mut params) = (begin(true, Role::Responder), Vec::new());
        for (name, value) in pairs {
            push_pair(&mut params, name.as_bytes(), value);
        }
        push_stream(&mut bytes, Kind::Params, ID, &params);
        push_stream_end(&mut bytes, Kind::Params, ID);
        push_stream(&mut bytes, Kind::Stdin, ID, body);
        push_stream_end(&mut bytes, Kind::Stdin, ID);
        bytes
    }

    fn asking(body_len: usize) -> Vec<u8> {
        let body = Pattern::of(NONCE).slice(0, body_len);
        let (length, nonce) = (body_len.to_string(), hex(NONCE));
        let pairs = [
            (PARAM_RESPONSE_BYTES, &b"70000"[..]),
            (PARAM_DELAY_US, b"1500"),
            ("CONTENT_LENGTH", length.as_bytes()),
            (PARAM_NONCE, &nonce),
        ];
        request(&pairs, body)
    }

    fn read_all(stream: &[u8], cuts: &[usize]) -> Result<Vec<Item>, BadRequest> {
        let mut parser = Parser::new(Like::Plain);
        let (mut items, mut from) = (Vec::new(), 0);
        for &to in cuts.iter().chain([&stream.len()]) {
            let mut input = &stream[from..to];
            from = to;
            while let Some(item) = parser.read(&mut input)? {
                items.push(item);
            }
            assert!(input.is_empty());
        }
        Ok(items)
    }

    fn only_request(stream: &[u8]) -> Request {
        match read_all(stream, &[]).unwrap()[..] {
            [Item::Request(request)] => request,
            ref other => panic!("{other:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_split_gives_the_same_items(
            body_len in prop_oneof![Just(0_usize), 0..65_536_usize],
            cuts in vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut stream = asking(body_len);
            push_record(&mut stream, Kind::GetValues, RequestId::MANAGEMENT, b"\x0f\0FCGI_MPXS_CONNS");
            stream.extend(asking(0));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let items = read_all(&stream, &cuts).unwrap();
            prop_assert_eq!(&items, &read_all(&stream, &[]).unwrap());
            prop_assert_eq!(items.len(), 3);
            prop_assert_eq!(items[1], Item::GetValues);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
            let _ = read_all(&bytes, &[]);
        }

        #[test]
        fn a_changed_byte_never_panics(at: prop::sample::Index, byte: u8) {
            let mut stream = asking(100);
            let at = at.index(stream.len());
            stream[at] = byte;
            let _ = read_all(&stream, &[]);
        }
    }

    #[test]
    fn a_request_says_what_it_asks_for() {
        let request = only_request(&asking(300));
        let asked = request.asked.unwrap();
        assert_eq!((request.keep_conn, request.body_bytes), (true, 300));
        assert_eq!((asked.nonce, asked.response_bytes), (NONCE, 70_000));
        assert_eq!(asked.delay, Duration::from_micros(1500));
    }

    #[test]
    fn a_request_of_another_client_gets_the_default() {
        let request = only_request(&request(&[("SCRIPT_NAME", b"/index.php")], b"any body"));
        assert_eq!(
            request.asked.unwrap().response_bytes,
            RESPONSE_BYTES_DEFAULT
        );
        assert_eq!(request.body_bytes, 8);
    }

    #[test]
    fn a_wrong_body_is_refused() {
        let mut stream = asking(300);
        let from_end = 8 + 4 + 1;
        let at = stream.len() - from_end;
        stream[at] ^= 1;
        let refused = only_request(&stream).asked;
        assert_eq!(refused, Err(Refusal::BodyWrong { offset: 299 }));
    }

    #[test]
    fn a_short_body_is_refused() {
        let stream = request(&[("CONTENT_LENGTH", b"4")], b"abc");
        let expected = Refusal::BodyLength {
            received: 3,
            announced: 4,
        };
        assert_eq!(only_request(&stream).asked, Err(expected));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (name, value) in [
            (PARAM_RESPONSE_BYTES, &b"1"[..]),
            (PARAM_RESPONSE_BYTES, b"+4096"),
            (PARAM_RESPONSE_BYTES, b"99999999999999999"),
            (PARAM_DELAY_US, b"99999999999999999"),
            (PARAM_DELAY_US, b""),
            (PARAM_NONCE, b"17"),
        ] {
            let refused = only_request(&request(&[(name, value)], b"")).asked;
            assert_eq!(refused, Err(Refusal::Parameter(name)));
        }
    }

    #[test]
    fn what_is_out_of_order_closes_the_connection() {
        let mut stdin_first = begin(true, Role::Responder);
        push_stream_end(&mut stdin_first, Kind::Stdin, ID);
        let mut filter = begin(true, Role::Filter);
        push_stream_end(&mut filter, Kind::Params, ID);
        let mut long = begin(true, Role::Responder);
        push_stream(&mut long, Kind::Params, ID, &vec![1; PARAMS_BYTES_MAX + 1]);
        for (stream, error) in [
            (stdin_first, BadRequest::Unexpected(Kind::Stdin)),
            (filter, BadRequest::Role(Role::Filter)),
            (long, BadRequest::ParamsTooLong),
            (
                b"GET / HTTP/1.1\r\n".to_vec(),
                BadRequest::Malformed(Malformed::Version(b'G')),
            ),
        ] {
            assert_eq!(read_all(&stream, &[]), Err(error));
        }
    }
}
