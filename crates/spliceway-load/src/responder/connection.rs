//! One connection: requests in, answers out, and the end as PHP-FPM makes it.

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::AsFd as _;
use std::time::Instant;

use mio::{Registry, Token};

use super::fpm::Writes;
use super::request::{Asked, BadRequest, Item, Parser, Refusal, Request};
use super::{Like, Manner};
use crate::frames::{Begun, Frames, Shape};
use crate::net::{Arrival, Received, Stream, Watch};
use crate::pattern::Pattern;
use crate::synthetic::{HEAD_LEN, Head};
use spliceway_common::fastcgi::{
    EndRequest, HEADER_LEN, Kind, PairError, Pairs, ProtocolStatus, RequestId, push_pair,
    push_record, push_stream, push_stream_end,
};
use spliceway_common::sys::net;

/// What FCGI_MAX_CONNS and FCGI_MAX_REQS say without a limit on workers.
const CONNECTIONS_MAX_TOLD: usize = 65_535;

/// A connection that is being served.
pub(super) struct Connection {
    stream: Stream,
    watch: Watch,
    arrival: Arrival,
    parser: Parser,
    state: State,
    /// Received behind a request that is not answered yet. Short for clients that wait, and bounded
    /// by the loop's buffer: nothing is received while something is here.
    behind: Vec<u8>,
    manner: Manner,
}

/// What a connection is doing.
enum State {
    /// Waiting for a request, or for the rest of one.
    Reading,
    /// Waiting until an answer is due.
    Delaying(Answer, Instant),
    /// Sending an answer.
    Answering(Answer),
    /// Everything is sent and told; what comes is thrown away until the other side closes. PHP-FPM
    /// does the same: its worker is busy until then.
    Ending,
    /// The other side has closed, or is not worth talking to.
    Over,
}

/// Where a step has led: the next state, and what to wait for before the next step.
type Step = (State, Option<Watch>);

/// An answer, as far as it is sent.
struct Answer {
    bytes: Bytes,
    sent: u64,
    then: Then,
}

/// What an answer consists of.
enum Bytes {
    /// A CGI header and a pattern, as PHP-FPM writes them.
    Fpm(Writes),
    /// The same in as few records and writes as there can be.
    Pattern {
        prefix: [u8; HEADER_LEN + HEAD_LEN],
        frames: Frames,
        pattern: Pattern,
    },
    /// All of it.
    Plain(Vec<u8>),
}

/// What follows an answer.
#[derive(Clone, Copy)]
enum Then {
    /// It was about the connection: go on.
    Continue,
    /// The next request.
    Read,
    /// The end.
    End,
}

/// What a connection needs of the loop that it lives in.
pub(super) struct Context<'a> {
    pub(super) registry: &'a Registry,
    pub(super) token: Token,
    /// Received into; shared by all connections.
    pub(super) buffer: &'a mut [u8],
    /// The limit that FCGI_GET_VALUES tells.
    pub(super) workers: Option<usize>,
    /// Requests that were answered; the connection adds to it.
    pub(super) answered: &'a mut u64,
}

/// Why a connection ends before its time.
#[derive(Debug)]
pub(super) enum Broken {
    /// The other side did it.
    Io,
    /// What it sent is not a request.
    Request(BadRequest),
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl From<BadRequest> for Broken {
    fn from(bad: BadRequest) -> Self {
        Self::Request(bad)
    }
}

impl From<PairError> for Broken {
    fn from(bad: PairError) -> Self {
        Self::Request(bad.into())
    }
}

impl Connection {
    /// One that was just accepted.
    pub(super) fn new(stream: Stream, manner: Manner) -> Self {
        Self {
            stream,
            watch: Watch::Nothing,
            arrival: Arrival::Unread,
            parser: Parser::new(manner.like),
            state: State::Reading,
            behind: Vec::new(),
            manner,
        }
    }

    /// When it wants to be woken, if at a time.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Delaying(_, due) => Some(due),
            State::Reading | State::Answering(_) | State::Ending | State::Over => None,
        }
    }

    /// Whether it can be dropped.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Notes what the kernel says of the other side.
    pub(super) fn note(&mut self, arrival: Arrival) {
        self.arrival = self.arrival.max(arrival);
    }

    /// Goes on until it has to wait for something. After an error it is over.
    pub(super) fn advance(&mut self, context: &mut Context<'_>) -> Result<(), Broken> {
        if self.arrival == Arrival::Gone {
            self.state = State::Over;
            return Ok(());
        }
        let wanted = loop {
            let (next, wanted) = match mem::replace(&mut self.state, State::Over) {
                State::Reading => self.read(context)?,
                State::Delaying(answer, due) if due > Instant::now() => {
                    (State::Delaying(answer, due), Some(Watch::Readable))
                }
                State::Delaying(answer, _) => (State::Answering(answer), None),
                State::Answering(answer) => self.send(answer, context)?,
                State::Ending => self.discard(context)?,
                State::Over => return Ok(()),
            };
            self.state = next;
            if let Some(wanted) = wanted {
                break wanted;
            }
        };
        let watched = self
            .watch
            .extend(wanted, context.registry, &mut self.stream, context.token);
        watched.inspect_err(|_| self.state = State::Over)?;
        Ok(())
    }

    /// Looks for the next request: first in what came behind the last one.
    fn read(&mut self, context: &mut Context<'_>) -> Result<Step, Broken> {
        if !self.behind.is_empty() {
            let mut behind = mem::take(&mut self.behind);
            let mut input = &behind[..];
            let parsed = self.parse(&mut input, context.workers);
            let taken = behind.len() - input.len();
            behind.drain(..taken);
            self.behind = behind;
            if let Some(state) = parsed? {
                return Ok((state, None));
            }
        }
        while self.arrival != Arrival::Drained {
            let state = match self.peeks() {
                true => self.peek(context)?,
                false => self.receive(context)?,
            };
            if let Some(state) = state {
                return Ok((state, None));
            }
        }
        Ok((State::Reading, Some(Watch::Readable)))
    }

    /// Receives once; where that leads, if a request is complete or the connection at its end.
    fn receive(&mut self, context: &mut Context<'_>) -> Result<Option<State>, Broken> {
        let len = match self.stream.receive(context.buffer)? {
            Received::Bytes(len) => len,
            Received::Nothing => {
                self.arrival = Arrival::Drained;
                return Ok(None);
            }
            Received::End => return Ok(Some(State::Over)),
        };
        self.arrival = self.arrival.after(len, context.buffer.len());
        let mut input = &context.buffer[..len];
        let parsed = self.parse(&mut input, context.workers)?;
        self.behind.extend_from_slice(input);
        Ok(parsed)
    }

    /// Whether bytes may only be taken from the socket as far as PHP-FPM would read them: where it
    /// closes without reading on, those that are left make a reset of its close. Over TCP another way
    /// leads to the same, and costs nothing.
    fn peeks(&self) -> bool {
        let is_unix = matches!(self.stream, Stream::Unix(_));
        self.manner.like == Like::Fpm && is_unix && !self.parser.is_in_body()
    }

    /// As [`Connection::receive`], but what is not read stays in the socket.
    fn peek(&mut self, context: &mut Context<'_>) -> Result<Option<State>, Broken> {
        let len = match self.stream.peek(context.buffer)? {
            Received::Bytes(len) => len,
            Received::Nothing => {
                self.arrival = Arrival::Drained;
                return Ok(None);
            }
            Received::End => return Ok(Some(State::Over)),
        };
        let mut input = &context.buffer[..len];
        let parsed = self.parse(&mut input, context.workers);
        let taken = len - input.len();
        if taken == len {
            self.arrival = self.arrival.after(len, context.buffer.len());
        }
        if taken > 0 {
            // They are there: nobody else reads from this socket.
            self.stream.receive(&mut context.buffer[..taken])?;
        }
        parsed
    }

    /// Reads `input` up to the end of a request, behind which it then begins.
    fn parse(
        &mut self,
        input: &mut &[u8],
        workers: Option<usize>,
    ) -> Result<Option<State>, Broken> {
        let manner = self.manner;
        let item = match self.parser.read(input) {
            Ok(Some(item)) => item,
            Ok(None) => return Ok(None),
            Err(bad) => {
                if manner.like == Like::Fpm && !input.is_empty() {
                    self.reset_on_close();
                }
                return Err(bad.into());
            }
        };
        Ok(Some(match item {
            Item::Request(request) => match request.asked {
                Ok(asked) => {
                    let answer = Answer::to(&request, &asked, manner);
                    match asked.delay.is_zero() {
                        true => State::Answering(answer),
                        false => State::Delaying(answer, Instant::now() + asked.delay),
                    }
                }
                Err(refusal) => State::Answering(Answer::refuse(&request, refusal)),
            },
            Item::GetValues => {
                let names = self.parser.params();
                State::Answering(Answer::values(names, workers, manner.like)?)
            }
        }))
    }

    /// PHP-FPM closes without having read what came last, which resets the connection.
    fn reset_on_close(&self) {
        if let Stream::Tcp(stream) = &self.stream {
            // It fails where the connection has been reset already.
            let _ = net::reset_on_close(stream.as_fd());
        }
    }

    fn send(&mut self, mut answer: Answer, context: &mut Context<'_>) -> Result<Step, Broken> {
        if !answer.send(&mut self.stream)? {
            return Ok((State::Answering(answer), Some(Watch::Both)));
        }
        match answer.then {
            Then::Continue => {}
            Then::Read | Then::End => *context.answered += 1,
        }
        match answer.then {
            Then::Continue | Then::Read => Ok((State::Reading, None)),
            Then::End => {
                self.stream.shutdown_write()?;
                self.behind = Vec::new();
                Ok((State::Ending, None))
            }
        }
    }

    fn discard(&mut self, context: &mut Context<'_>) -> Result<Step, Broken> {
        while self.arrival != Arrival::Drained {
            match self.stream.receive(context.buffer)? {
                Received::Bytes(len) => {
                    self.arrival = self.arrival.after(len, context.buffer.len());
                }
                Received::Nothing => break,
                Received::End => return Ok((State::Over, None)),
            }
        }
        Ok((State::Ending, Some(Watch::Readable)))
    }
}

impl Answer {
    /// The answer that was asked for.
    fn to(request: &Request, asked: &Asked, manner: Manner) -> Self {
        let head = Head {
            nonce: asked.nonce,
            params_digest: asked.params_digest,
            body_bytes: request.body_bytes,
        };
        let pattern = Pattern::of(asked.params_digest);
        let body = asked.response_bytes - HEAD_LEN as u64;
        let bytes = match manner.like {
            Like::Fpm => {
                let writes = Writes::new(request.id, head.encode(), pattern, body, manner.print);
                Bytes::Fpm(writes)
            }
            Like::Plain => Bytes::pattern(request.id, head, pattern, body),
        };
        Self {
            bytes,
            sent: 0,
            then: Then::after(request),
        }
    }

    /// Says what is wrong with the request, as a CGI program would.
    fn refuse(request: &Request, refusal: Refusal) -> Self {
        let mut bytes = Vec::new();
        let words = refusal.to_string();
        push_stream(&mut bytes, Kind::Stderr, request.id, words.as_bytes());
        push_stream_end(&mut bytes, Kind::Stderr, request.id);
        push_stream_end(&mut bytes, Kind::Stdout, request.id);
        let end = EndRequest {
            app_status: 1,
            protocol_status: ProtocolStatus::RequestComplete,
        };
        push_record(&mut bytes, Kind::EndRequest, request.id, &end.encode());
        Self {
            bytes: Bytes::Plain(bytes),
            sent: 0,
            then: Then::after(request),
        }
    }

    /// The values that a FCGI_GET_VALUES names, as far as they are known (§4.1).
    fn values(names: &[u8], workers: Option<usize>, like: Like) -> Result<Self, PairError> {
        let most = workers.unwrap_or(CONNECTIONS_MAX_TOLD).to_string();
        let known: [(&[u8], &[u8]); 3] = [
            (b"FCGI_MPXS_CONNS", b"0"),
            (b"FCGI_MAX_CONNS", most.as_bytes()),
            (b"FCGI_MAX_REQS", most.as_bytes()),
        ];
        let known = match like {
            // It keeps the others to itself.
            Like::Fpm => &known[..1],
            Like::Plain => &known[..],
        };
        let mut values = Vec::new();
        for pair in Pairs::new(names) {
            let (asked, _) = pair?;
            // A name that is repeated without end would make an answer longer than a record.
            let found = known.iter().find(|(name, _)| *name == asked);
            if let Some((name, value)) = found.filter(|_| values.len() < 1024) {
                push_pair(&mut values, name, value);
            }
        }
        let mut bytes = Vec::new();
        let id = RequestId::MANAGEMENT;
        push_record(&mut bytes, Kind::GetValuesResult, id, &values);
        Ok(Self {
            bytes: Bytes::Plain(bytes),
            sent: 0,
            then: Then::Continue,
        })
    }

    /// Sends what fits; whether that was all.
    fn send(&mut self, stream: &mut Stream) -> io::Result<bool> {
        loop {
            let sent = match &mut self.bytes {
                Bytes::Fpm(writes) => return writes.send(stream),
                Bytes::Pattern { frames, .. } if self.sent == frames.total() => return Ok(true),
                Bytes::Pattern {
                    prefix,
                    frames,
                    pattern,
                } => stream.send(frames.pieces(prefix, *pattern, self.sent).as_slices())?,
                Bytes::Plain(bytes) if self.sent == bytes.len() as u64 => return Ok(true),
                Bytes::Plain(bytes) => {
                    let from = usize::try_from(self.sent).expect("within the bytes");
                    stream.send(&[IoSlice::new(&bytes[from..])])?
                }
            };
            match sent {
                Some(sent) => self.sent += sent as u64,
                None => return Ok(false),
            }
        }
    }
}

impl Bytes {
    /// A CGI header and `body` bytes of a pattern, in records that are full.
    fn pattern(id: RequestId, head: Head, pattern: Pattern, body: u64) -> Self {
        let begun = Begun {
            in_prefix: HEAD_LEN,
        };
        let mut prefix = [0; HEADER_LEN + HEAD_LEN];
        let (header, content) = prefix.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&begun.header(Kind::Stdout, id, body).encode());
        content.copy_from_slice(&head.encode());
        let frames = Frames::new(&Shape {
            kind: Kind::Stdout,
            id,
            prefix_len: prefix.len(),
            begun: Some(begun),
            bytes: body,
            closing: &closing(id),
        });
        Self::Pattern {
            prefix,
            frames,
            pattern,
        }
    }
}

impl Then {
    fn after(request: &Request) -> Self {
        if request.keep_conn {
            Self::Read
        } else {
            Self::End
        }
    }
}

/// The end of STDOUT and of the request.
fn closing(id: RequestId) -> [u8; 3 * HEADER_LEN] {
    let header = |kind, content_len| {
        spliceway_common::fastcgi::Header {
            kind,
            request_id: id,
            content_len,
            padding_len: 0,
        }
        .encode()
    };
    let end = EndRequest {
        app_status: 0,
        protocol_status: ProtocolStatus::RequestComplete,
    };
    let mut closing = [0; 3 * HEADER_LEN];
    let parts = [
        header(Kind::Stdout, 0),
        header(Kind::EndRequest, 8),
        end.encode(),
    ];
    for (place, part) in closing.chunks_exact_mut(HEADER_LEN).zip(parts) {
        place.copy_from_slice(&part);
    }
    closing
}
