//! The FastCGI session: a client's requests, one after another, each on a connection of its own choice.
//!
//! ```text
//!          head complete          connection open       END_REQUEST
//!   Head ----------------> Search ----------------> Serve ----------> Head (the client keeps its
//!    |  guard says no        | no place, no server    | broken         connection), or the end
//!    v                       v                        v
//!   Farewell (an answer of our own, then whatever still comes is read and thrown away), or the end
//!
//!   Serve ----------> Breaking (what came of the answer, then the sign that it broke off), then the end
//! ```
//!
//! - What a server gets is the head as we write it, and then the client's own records.
//! - What a client gets is the content of the server's own records, up to END_REQUEST, and whole records at
//!   any moment.
//! - A connection goes back to the pool only from a request that was sent whole, answered whole and
//!   followed by the fence; from everything else it is closed.
//! - A request is sent a second time only if nothing of it can have been read the first time.
//! - A request that fails before the headers of its answer ends without a further byte, so that the web
//!   server's own failover works; later it ends in what every web server takes for a failure
//!   ([`BROKEN_OFF`]): some take the mere end of a connection for the end of the answer, and keep it.

use std::mem;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::backend::{Address, Lease};
use crate::config::OnFailure;
use crate::counters::Outcome;
use crate::driver::{BUFFER_BYTES, Buf, Close, Closed, Done, Driver, Flushed, Lane, Op, Sock};
use crate::fastcgi::{
    Answer as Synthesised, BROKEN_OFF, ClientEnd, FENCE, HEADER_LEN, Kind, Pass, RequestEvent,
    RequestReader, ResponseError, ResponseEvent, ResponseReader, Settled, Settling, Verdict,
};
use crate::sys::Errno;

use super::activity::Activity;
use super::bulk::{self, Held, Then};
use super::connect::{Connecting, Entry, Found};
use super::flow::SPLICE_BUDGET_BYTES;
use super::lag::Lag;
use super::pool::{Failing, Keeping, Manner, Open};
use super::tally::{Tally, Telling};
use super::{Context, End, Ending, Hello, Owner, Retired, Slow, Step, Timeouts};

/// How long a request runs before its client is watched for leaving. Most are over by then, and are
/// spared the wait that would have to be taken back.
const WATCH_AFTER: Duration = Duration::from_millis(100);

/// How long, and how many bytes of a request that was answered early are read and thrown away: closing
/// with bytes unread would be a reset, which can cost the client the answer (RFC 9112, section 9.6, on
/// the same matter).
const FAREWELL_TIME: Duration = Duration::from_secs(5);

/// How long a client that takes nothing is waited for, until it has what came of an answer that broke off and
/// the sign of that: it is as long as web servers wait for their own clients (nginx's `send_timeout`). One that
/// has less may take what it has for the whole.
const BREAK_TIME: Duration = Duration::from_secs(60);

/// See [`FAREWELL_TIME`].
const FAREWELL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The most of a body that is kept for sending it again: a request without one has 8 bytes.
const REPEATABLE_BYTES_MAX: usize = 4096;

/// The most that waits for the large record behind it: the headers that PHP sends before a page. With the room
/// that a buffer has for more than was received, it goes out as one with what comes then.
const LEAD_BYTES_MAX: usize = 1024;

/// The most of answers to a client's own questions that wait for a place between two records: a dozen.
/// Nobody asks so often during one request.
const REPLIES_BYTES_MAX: usize = 1024;

/// A client's connection, and the request that it has now.
pub struct Exchange<D: Driver> {
    client: Sock,
    reader: RequestReader,
    /// What the client has sent and was not read yet.
    inbox: Option<Inbox>,
    reading: Reading,
    writing: Writing,
    stage: Stage<D>,
    /// When the request's head was complete; before, when the connection or the wait for it began.
    began: Instant,
    activity: Activity,
    /// When the head of the request is to be there, if one is to come or has begun.
    head_by: Option<Instant>,
    /// How late it is with the body, while it is waited for that.
    body_lag: Lag,
    /// How late it is with taking the answer.
    answer_lag: Lag,
    /// How many requests the client has made.
    requests: u64,
    /// All of the request was read.
    body_ended: bool,
    /// What of the head's parameters the server does not get.
    without: Vec<Range<usize>>,
    /// The part of the body that went out with the head, for sending it again.
    repeatable: Vec<u8>,
    /// Bytes that are on their way to the client.
    unwritten: usize,
    tally: Tally,
    /// Answers to the client's own questions that wait for the end of a record.
    replies: Vec<u8>,
}

struct Inbox {
    buf: Buf,
    at: usize,
}

/// The client's read lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reading {
    Idle,
    Receiving,
    /// A wait for the client to leave, which has sent all that it has to send.
    Watching,
    /// The same, of one that has ended its stream behind its request.
    HalfClosed,
    /// It was taken back, because there is something to be read after all.
    Unwatching,
    /// A wait for more of a record that is spliced.
    Splicing,
    /// The client sends no more.
    Ended,
}

/// The client's write lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writing {
    Idle,
    /// A part of an answer, in a full buffer or not.
    Part {
        full: bool,
    },
    /// A wait for room: for what waits in a pipe, or for the sign that the answer broke off.
    Waiting,
    /// The end of an answer.
    Last,
    /// An answer of our own.
    Farewell,
}

#[allow(
    clippy::large_enum_variant,
    reason = "each request is served, and a box would be an allocation for each"
)]
enum Stage<D: Driver> {
    /// A head is to come, or the rest of it.
    Head,
    /// Its request waits for a connection.
    Search(Connecting),
    Serve(Serving<D>),
    /// The server is done with it; the end of the answer is on its way to the client.
    Deliver {
        held: Option<Held<D::Pipe>>,
    },
    /// The answer of our own is sent, or on its way; what still comes of the request is thrown away.
    Farewell {
        left: u64,
        by: Instant,
        /// What the session ends as.
        ending: Ending,
    },
    /// The answer broke off. What came of it is on its way to the client, and then the sign of that.
    Breaking {
        held: Option<Held<D::Pipe>>,
        /// What the session ends as.
        ending: Ending,
    },
}

/// A request and the connection that serves it.
struct Serving<D: Driver> {
    open: Open,
    /// Whether the server was told to keep the connection, and when it gets the fence.
    keeping: Keeping,
    /// Answers to a fence that came before END_REQUEST.
    early_fences: u32,
    /// Goes out next.
    outbox: Option<Buf>,
    sending: Sending,
    /// What is in the outbox, or was sent, is the end of the request.
    is_whole: bool,
    /// Bytes of this request that the server was sent.
    sent: u64,
    /// Those among them that are on their way.
    unwritten: usize,
    /// A receive is in flight, or a wait for more of a record that is spliced.
    receiving: bool,
    /// Bytes of the answer that were taken since it was last waited for.
    taken_in_a_row: usize,
    /// Bytes of the client's that the server has no room for.
    upload: Option<Held<D::Pipe>>,
    /// The beginning of an answer that waits for the content of a large record, whose header came with it.
    lead: Option<Buf>,
    /// Bytes of the server's that the client has no room for.
    download: Option<Held<D::Pipe>>,
    response: ResponseReader,
    answer: Answer,
    /// The server has sent what belongs to no request.
    tainted: bool,
    /// The body is shorter than announced. A server that counts waits for the rest; the end of the
    /// stream behind it tells that none comes.
    is_short: bool,
    /// When the request was given to it, the endpoint was known to keep connections, as it may not be any
    /// more if its address has left the set meanwhile.
    was_proven: bool,
    /// Whether what was sent so far is kept to be sent again.
    repeatable: bool,
}

/// The way to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sending {
    /// It waits for the client.
    Idle,
    /// A send is in flight, of a full buffer or not.
    Busy { full: bool },
    /// A wait for room: more of a record waits in a pipe.
    Splicing,
    /// The last send is in flight: the end of the request and, if the connection is to be kept, the
    /// fence.
    Last,
    /// All of it was sent.
    Done,
    /// The server takes no more. It may have answered all the same.
    Broken,
}

/// The way from the server.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Running,
    /// END_REQUEST came; this is what came after it.
    Ended(Settling),
}

impl<D: Driver> Exchange<D> {
    /// Starts to serve a client.
    pub fn start(client: Sock, cx: &mut Context<'_, D>) -> (Self, Step) {
        cx.owners.assign(client, Owner::Session(cx.id, End::Client));
        let peer = match cx.access_log {
            Some(_) => cx.driver.peer_credentials(client),
            None => None,
        };
        let mut exchange = Self {
            client,
            reader: RequestReader::sharing(cx.head_room.clone(), cx.fastcgi().limits),
            inbox: None,
            reading: Reading::Idle,
            writing: Writing::Idle,
            stage: Stage::Head,
            began: cx.now,
            head_by: None,
            body_lag: Lag::default(),
            answer_lag: Lag::default(),
            activity: Activity::new(cx.now),
            requests: 0,
            body_ended: false,
            without: Vec::new(),
            repeatable: Vec::new(),
            unwritten: 0,
            tally: Tally::new(peer, cx.now),
            replies: Vec::new(),
        };
        exchange.expect_head(cx);
        // Most clients have sent their request by now.
        let step = match cx.driver.receive_now(client) {
            Ok(Some(buf)) => exchange.received(buf, cx),
            Ok(None) => {
                exchange.read_on(cx.driver);
                Step::Continue
            }
            Err(errno) => Step::End(Ending::ClientReset(errno)),
        };
        (exchange, step)
    }

    /// When [`Exchange::expire`] is due.
    pub fn deadline(&self, timeouts: Timeouts) -> Option<Instant> {
        let silence = self.silence_max(timeouts);
        let idle_at = self.activity.idle_at(silence.map(|(silence, _)| silence));
        let idle_at = idle_at.into_iter().chain(self.late_at(timeouts)).min();
        match &self.stage {
            Stage::Head => idle_at.into_iter().chain(self.head_by).min(),
            Stage::Deliver { .. } => idle_at,
            Stage::Search(connecting) => connecting.deadline(),
            Stage::Serve(_) if self.reading == Reading::Idle => {
                let watch_at = self.began + WATCH_AFTER;
                Some(idle_at.map_or(watch_at, |idle_at| idle_at.min(watch_at)))
            }
            Stage::Serve(_) => idle_at,
            Stage::Farewell { by, .. } => Some(*by),
            Stage::Breaking { .. } => Some(self.activity.last() + BREAK_TIME),
        }
    }

    /// When it is to be looked at whether the client is too slow.
    fn late_at(&self, timeouts: Timeouts) -> Option<Instant> {
        let rate = timeouts.min_rate?;
        let body_at = || self.body_lag.body_due(rate);
        let answer_at = self.answer_lag.answer_due(rate);
        match &self.stage {
            Stage::Serve(_) => body_at().into_iter().chain(answer_at).min(),
            Stage::Deliver { .. } => answer_at,
            Stage::Head | Stage::Search(_) | Stage::Farewell { .. } | Stage::Breaking { .. } => {
                None
            }
        }
    }

    /// What the client is too slow with, if it is. Who serves it is not to wait for it any longer.
    fn is_too_slow(&mut self, cx: &mut Context<'_, D>) -> Option<Slow> {
        let rate = cx.timeouts.min_rate?;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= cx.now);
        let is_served = matches!(self.stage, Stage::Serve(_));
        if is_served && is_due(self.body_lag.body_due(rate)) {
            return Some(Slow::Body);
        }
        let takes_answer = is_served || matches!(self.stage, Stage::Deliver { .. });
        if takes_answer && is_due(self.answer_lag.answer_due(rate)) {
            let unread = cx.driver.unread(self.client);
            let is_late = self.answer_lag.answer_is_late(unread, cx.now, rate);
            return is_late.then_some(Slow::Answer);
        }
        None
    }

    /// Whether its request waits for a place at an endpoint.
    pub fn is_queued(&self) -> bool {
        matches!(&self.stage, Stage::Search(connecting) if connecting.is_queued())
    }

    /// Whether its request may wait in a queue that is full.
    pub fn is_to_stay(&self) -> bool {
        matches!(&self.stage, Stage::Search(connecting) if connecting.is_to_stay())
    }

    /// The number of the request that it has, or had last.
    pub fn request(&self) -> u64 {
        self.requests
    }

    /// The client's socket.
    pub fn client(&self) -> Sock {
        self.client
    }

    // --- events -------------------------------------------------------------------------------

    /// An op of one of the session's sockets ended.
    pub fn complete(&mut self, end: End, lane: Lane, done: Done, cx: &mut Context<'_, D>) -> Step {
        self.activity.seen(cx.now);
        let step = self.act(end, lane, done, cx);
        if let Step::End(
            Ending::ClientLeft | Ending::ClientClosed | Ending::ClientReset(_) | Ending::Aborted,
        ) = step
        {
            self.abandon(cx);
        }
        step
    }

    fn act(&mut self, end: End, lane: Lane, done: Done, cx: &mut Context<'_, D>) -> Step {
        match (end, lane) {
            (End::Client, Lane::Read) => self.client_read(done, cx),
            (End::Client, Lane::Write) => self.client_written(done, cx),
            (End::Backend | End::Rival, Lane::Write) if matches!(self.stage, Stage::Search(_)) => {
                self.search(cx, |connecting, cx| {
                    connecting.connected(end, done, true, cx)
                })
            }
            (End::Backend, Lane::Write) => self.server_written(done, cx),
            (End::Backend, Lane::Read) => self.server_read(done, cx),
            (End::Rival, _) => unreachable!("who wins a race is the backend from then on"),
        }
    }

    /// The deadline has come.
    pub fn expire(&mut self, cx: &mut Context<'_, D>) -> Step {
        if let Some(slow) = self.is_too_slow(cx) {
            return self.end_slow(slow, cx);
        }
        let silence = self.silence_max(cx.timeouts);
        let idle_at = self.activity.idle_at(silence.map(|(silence, _)| silence));
        let looks_idle = idle_at.is_some_and(|at| at <= cx.now);
        match &self.stage {
            Stage::Search(_) => self.search(cx, |connecting, cx| connecting.expire(true, cx)),
            Stage::Farewell { ending, .. } | Stage::Breaking { ending, .. } => Step::End(*ending),
            Stage::Head if self.head_by.is_some_and(|by| by <= cx.now) => {
                Step::End(Ending::HeadTimeout)
            }
            Stage::Head | Stage::Serve(_) | Stage::Deliver { .. } if looks_idle => self.idle(cx),
            Stage::Serve(_) => {
                self.watch(cx.driver);
                Step::Continue
            }
            // It was looked at how the answer is taken.
            Stage::Deliver { .. } => Step::Continue,
            Stage::Head => unreachable!("it waits for nothing else"),
        }
    }

    fn end_slow(&mut self, slow: Slow, cx: &mut Context<'_, D>) -> Step {
        cx.too_slow(slow, self.client);
        match self.stage {
            Stage::Serve(_) => self.break_off(Ending::TooSlow(slow), cx),
            _ => Step::End(Ending::TooSlow(slow)),
        }
    }

    /// How long nothing may move, and what the session ends as then.
    fn silence_max(&self, timeouts: Timeouts) -> Option<(Duration, Ending)> {
        let is_served = matches!(self.stage, Stage::Serve(_));
        let is_half_closed = is_served && self.reading == Reading::HalfClosed;
        let half_closed = timeouts.half_closed.filter(|_| is_half_closed);
        let idle = timeouts.idle.map(|idle| (idle, Ending::IdleTimeout));
        let half_closed = half_closed.map(|silence| (silence, Ending::HalfClosed));
        let both = idle.into_iter().chain(half_closed);
        both.min_by_key(|(silence, _)| *silence)
    }

    /// Nothing completed for as long as is allowed, as in a raw session.
    fn idle(&mut self, cx: &mut Context<'_, D>) -> Step {
        let (_, ending) = self
            .silence_max(cx.timeouts)
            .expect("a session without such a limit has no deadline for it");
        let server = match &self.stage {
            Stage::Serve(serving) => Some(serving.open.sock),
            _ => None,
        };
        let unread = |sock| cx.driver.unread(sock);
        let unread = [Some(self.client), server]
            .into_iter()
            .flatten()
            .map(unread);
        if !self.activity.is_idle(unread.sum(), cx.now) {
            return Step::Continue;
        }
        match &self.stage {
            Stage::Serve(_) => self.break_off(ending, cx),
            _ => Step::End(ending),
        }
    }

    /// The address set changed.
    pub fn addresses_changed(&mut self, cx: &mut Context<'_, D>) -> Step {
        match self.stage {
            Stage::Search(_) => {
                self.search(cx, |connecting, cx| connecting.addresses_changed(true, cx))
            }
            Stage::Head
            | Stage::Serve(_)
            | Stage::Deliver { .. }
            | Stage::Farewell { .. }
            | Stage::Breaking { .. } => Step::Continue,
        }
    }

    /// Some endpoint has a place, or a connection that rests, and it is the turn of this session.
    pub fn place_free(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.search(cx, |connecting, cx| connecting.place_free(true, cx))
    }

    /// There is no place for the request, and no room to wait for one.
    pub fn refuse(&mut self, cx: &mut Context<'_, D>) -> Step {
        match Ending::of_refusal(cx.balancer) {
            Ending::QueueFull => {
                self.give_up_search(cx);
                self.farewell(Synthesised::Unavailable, Ending::QueueFull, cx)
            }
            ending => self.failed(ending, cx),
        }
    }

    /// What is told of it at its end.
    pub fn tell_end(&mut self, outcome: Outcome, telling: &Telling<'_>) {
        self.tally.end(Some(outcome), telling);
    }

    /// The worker ends as soon as its sessions have: who keeps its connection for another request is not
    /// waited for.
    ///
    /// One that has sent no request yet may be about to: it is given a moment, until `is_last_call`.
    pub fn drain(&mut self, is_last_call: bool, cx: &mut Context<'_, D>) -> Step {
        let is_between = self.reader.end() == ClientEnd::BetweenRequests;
        let may_end = is_between && (self.requests > 0 || is_last_call);
        match self.stage {
            // What the client has sent meanwhile is answered.
            Stage::Head if may_end && cx.driver.at_hand(self.client) == 0 => {
                Step::End(Ending::Complete)
            }
            _ => Step::Continue,
        }
    }
}

// --- the client ---------------------------------------------------------------------------------

impl<D: Driver> Exchange<D> {
    fn client_read(&mut self, done: Done, cx: &mut Context<'_, D>) -> Step {
        let reading = mem::replace(&mut self.reading, Reading::Idle);
        match (reading, done) {
            // Whether it has left or not, a receive tells.
            (Reading::Unwatching, Done::Ready | Done::Failed(_)) => {
                self.read_on(cx.driver);
                Step::Continue
            }
            (Reading::Watching | Reading::HalfClosed, Done::Ready) => self.client_left(),
            (Reading::Splicing, Done::Ready) => self.more_to_splice(cx),
            (_, Done::Received(buf)) => self.received(buf, cx),
            (_, Done::Eof) => self.client_ended(cx),
            (_, Done::Failed(errno)) => Step::End(Ending::ClientReset(errno)),
            (_, done) => unreachable!("a read ends with {done:?}"),
        }
    }

    fn received(&mut self, buf: Buf, cx: &mut Context<'_, D>) -> Step {
        if let Stage::Farewell { left, ending, .. } = &mut self.stage {
            *left = left.saturating_sub(buf.len() as u64);
            if *left == 0 {
                return Step::End(*ending);
            }
            self.read_on(cx.driver);
            return Step::Continue;
        }
        if let Stage::Breaking { .. } = self.stage {
            // Of no use to anyone. Whatever else it sends stays unread, which makes the end a reset.
            return Step::Continue;
        }
        let bytes = buf.len() as u64;
        self.body_lag.moved(bytes, cx.now, cx.timeouts.min_rate);
        self.inbox = Some(Inbox { buf, at: 0 });
        self.advance(cx)
    }

    /// The client sends no more. If its request is complete, it may still wait for the answer.
    fn client_ended(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.reading = Reading::Ended;
        match (&self.stage, self.reader.end()) {
            (Stage::Farewell { .. }, _) if self.writing == Writing::Farewell => Step::Continue,
            (Stage::Farewell { ending, .. }, _) => Step::End(*ending),
            // Its end of the stream may be as old as its request.
            (Stage::Breaking { .. }, _) => Step::Continue,
            (Stage::Head, ClientEnd::BetweenRequests) => Step::End(Ending::Complete),
            (Stage::Deliver { .. }, _) => Step::Continue,
            (Stage::Search(_) | Stage::Serve(_), ClientEnd::AfterRequest) => {
                if cx.driver.peer_is_gone(self.client) {
                    return self.client_left();
                }
                cx.driver.submit(self.client, Op::Hangup);
                self.reading = Reading::HalfClosed;
                Step::Continue
            }
            _ => self.client_left(),
        }
    }

    fn client_left(&self) -> Step {
        Step::End(match self.stage {
            Stage::Head | Stage::Search(_) => Ending::ClientLeft,
            Stage::Serve(_) | Stage::Deliver { .. } => Ending::ClientClosed,
            Stage::Farewell { ending, .. } | Stage::Breaking { ending, .. } => ending,
        })
    }

    /// Something is to be read.
    fn read_on(&mut self, driver: &mut D) {
        match self.reading {
            Reading::Idle => {
                driver.submit(self.client, Op::Recv);
                self.reading = Reading::Receiving;
            }
            Reading::Watching | Reading::HalfClosed => {
                driver.cancel(self.client, Lane::Read);
                self.reading = Reading::Unwatching;
            }
            Reading::Receiving | Reading::Unwatching | Reading::Splicing | Reading::Ended => {}
        }
    }

    /// The request takes its time, and the client may leave meanwhile. With its next request at hand,
    /// nothing more is read from it.
    fn watch(&mut self, driver: &mut D) {
        if self.reading != Reading::Idle {
            return;
        }
        if self.inbox.is_some() || self.reader.end() != ClientEnd::AfterRequest {
            driver.submit(self.client, Op::Hangup);
            self.reading = Reading::Watching;
        } else {
            // It may also be the next request, or FCGI_ABORT_REQUEST, that comes.
            self.read_on(driver);
        }
    }

    fn client_written(&mut self, done: Done, cx: &mut Context<'_, D>) -> Step {
        let writing = mem::replace(&mut self.writing, Writing::Idle);
        if let Done::Failed(errno) = done {
            return Step::End(Ending::ClientReset(errno));
        }
        if writing == Writing::Waiting {
            return self.flush_on(cx);
        }
        let written = mem::take(&mut self.unwritten) as u64;
        cx.counters.to_client.copied.add(written);
        self.answer_lag.moved(written, cx.now, cx.timeouts.min_rate);
        if let Stage::Breaking { .. } = self.stage {
            return self.tell_break(cx);
        }
        if let Err(ending) = self.send_replies(cx) {
            return Step::End(ending);
        }
        match writing {
            Writing::Part { full: true } if self.answer_may_be_spliced() => {
                self.splice_answer(true, cx)
            }
            Writing::Part { full: true } => self.receive_more(cx),
            Writing::Part { full: false } => {
                self.receive_answer(cx.driver);
                Step::Continue
            }
            Writing::Last => self.answered(cx),
            Writing::Farewell => {
                if let (Reading::Ended, Stage::Farewell { ending, .. }) =
                    (self.reading, &self.stage)
                {
                    return Step::End(*ending);
                }
                cx.driver.shutdown_write(self.client);
                self.read_on(cx.driver);
                Step::Continue
            }
            Writing::Waiting | Writing::Idle => unreachable!("a send was in flight"),
        }
    }

    /// The whole answer is the client's.
    fn answered(&mut self, cx: &mut Context<'_, D>) -> Step {
        if let Stage::Serve(_) = self.stage {
            // The last of the request is still on its way to the server, which has answered before it.
            return Step::Continue;
        }
        self.tally.end(None, &cx.telling());
        let complete = self.reader.end() == ClientEnd::AfterRequest;
        if !self.reader.head().keep_conn() || cx.draining {
            if complete {
                return Step::End(Ending::Complete);
            }
            cx.driver.shutdown_write(self.client);
            return self.throw_the_rest_away(cx);
        }
        self.reader.next_request();
        self.stage = Stage::Head;
        self.head_by = None;
        self.advance(cx)
    }

    fn throw_the_rest_away(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.inbox = None;
        self.stage = Stage::Farewell {
            left: FAREWELL_BYTES_MAX,
            by: cx.now + FAREWELL_TIME,
            ending: Ending::Complete,
        };
        if self.reading == Reading::Ended {
            return Step::End(Ending::Complete);
        }
        self.read_on(cx.driver);
        Step::Continue
    }

    /// Answers for the servers. The client's connection ends with it.
    fn farewell(&mut self, answer: Synthesised, ending: Ending, cx: &mut Context<'_, D>) -> Step {
        tracing::debug!("request answered by the proxy: {ending}");
        if self.writing != Writing::Idle {
            // STDERR of the server that failed.
            return Step::End(ending);
        }
        let Some(mut buf) = cx.driver.lend() else {
            return Step::End(ending);
        };
        buf.write(|out| answer.write(self.reader.head().request_id(), out));
        self.unwritten = buf.len();
        self.tally.answered(answer, ending.outcome(), &cx.telling());
        cx.driver.submit(self.client, Op::Send(buf));
        self.writing = Writing::Farewell;
        self.inbox = None;
        self.stage = Stage::Farewell {
            left: FAREWELL_BYTES_MAX,
            by: cx.now + FAREWELL_TIME,
            ending,
        };
        Step::Continue
    }

    // --- requests -----------------------------------------------------------------------------

    /// Reads what the client has sent, as far as it can be used now.
    fn advance(&mut self, cx: &mut Context<'_, D>) -> Step {
        match &self.stage {
            Stage::Head => self.read_head(cx),
            Stage::Serve(_) => self.read_body(cx),
            Stage::Search(_)
            | Stage::Deliver { .. }
            | Stage::Farewell { .. }
            | Stage::Breaking { .. } => Step::Continue,
        }
    }

    fn next_event(&mut self, cx: &mut Context<'_, D>) -> Result<Option<RequestEvent>, Ending> {
        let (input, at) = match &mut self.inbox {
            Some(inbox) => (&inbox.buf[..], &mut inbox.at),
            None => (&[][..], &mut 0),
        };
        let next = self.reader.next(input, at);
        next.map_err(|error| {
            cx.violated(&error, self.client);
            Ending::BadRequest(error)
        })
    }

    fn read_head(&mut self, cx: &mut Context<'_, D>) -> Step {
        loop {
            match self.next_event(cx) {
                Err(ending) => return self.head_failed(ending, cx),
                Ok(Some(RequestEvent::Head)) => return self.head_complete(cx),
                Ok(Some(RequestEvent::Reply(reply))) => {
                    if let Err(ending) = self.reply(&reply, cx) {
                        return Step::End(ending);
                    }
                }
                // Within the parameters.
                Ok(Some(RequestEvent::Abort)) => return Step::End(Ending::Aborted),
                Ok(Some(event)) => unreachable!("no request is open: {event:?}"),
                Ok(None) => {
                    self.inbox = None;
                    if self.reader.end() != ClientEnd::BetweenRequests {
                        self.expect_head(cx);
                    }
                    if self.reading == Reading::Ended {
                        return self.client_ended(cx);
                    }
                    self.read_on(cx.driver);
                    return Step::Continue;
                }
            }
        }
    }

    /// From now on, unless it began before, the time for the head of a request runs.
    fn expect_head(&mut self, cx: &Context<'_, D>) {
        let by = cx.fastcgi().head_timeout.map(|timeout| cx.now + timeout);
        self.head_by = self.head_by.or(by);
    }

    /// The client has its answer at once, or at the end of the record that is on its way.
    fn reply(&mut self, reply: &[u8], cx: &mut Context<'_, D>) -> Result<(), Ending> {
        if self.replies.len() + reply.len() > REPLIES_BYTES_MAX {
            return Err(Ending::ClientReset(Errno(libc::ENOBUFS)));
        }
        self.replies.extend_from_slice(reply);
        self.send_replies(cx)
    }

    fn send_replies(&mut self, cx: &mut Context<'_, D>) -> Result<(), Ending> {
        let is_between_records = match &self.stage {
            Stage::Serve(serving) => serving.is_between_records(),
            Stage::Head | Stage::Search(_) | Stage::Deliver { .. } => true,
            Stage::Farewell { .. } | Stage::Breaking { .. } => false,
        };
        if self.replies.is_empty() || !is_between_records || self.writing != Writing::Idle {
            return Ok(());
        }
        // A client that asks without reading the answers has filled its socket.
        let sent = cx.driver.send_now(self.client, &self.replies);
        sent.map_err(Ending::ClientReset)?;
        let sent = self.replies.len() as u64;
        cx.counters.to_client.copied.add(sent);
        self.replies.clear();
        Ok(())
    }

    /// A head that is only too large is answered: what there is of it tells what was asked for.
    fn head_failed(&mut self, ending: Ending, cx: &mut Context<'_, D>) -> Step {
        let Some(answer) = ending.answer() else {
            return Step::End(ending);
        };
        self.begin_request(cx);
        self.farewell(answer, ending, cx)
    }

    fn begin_request(&mut self, cx: &mut Context<'_, D>) {
        self.began = cx.now;
        (self.body_lag, self.answer_lag) = (Lag::default(), Lag::default());
        self.tally.begin(self.reader.head(), &cx.telling());
        self.requests += 1;
    }

    fn head_complete(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.begin_request(cx);
        self.body_ended = false;
        self.repeatable.clear();
        let guard = cx.fastcgi().guard.as_ref();
        let verdict = guard.map(|guard| guard.judge(self.reader.head()));
        match verdict.unwrap_or(Verdict::Pass) {
            Verdict::Pass => self.without.clear(),
            Verdict::PassWithout(cut) => {
                cx.overridden(&cut, self.reader.head(), self.client);
                self.without = cut.ranges;
            }
            Verdict::Reject(rejection) => {
                cx.rejected(&rejection, self.client);
                let rule = rejection.rule;
                self.tally.rejected(rejection);
                return self.farewell(rule.answer(), Ending::Rejected(rule), cx);
            }
        }
        let connecting = Connecting::new(Hello::None, None, cx.now, cx.timeouts, Entry::Direct);
        self.stage = Stage::Search(connecting);
        self.tally.search(cx.now);
        if cx.queue_is_empty {
            self.search(cx, |connecting, cx| connecting.search(true, cx))
        } else {
            self.search(cx, Connecting::queue_up)
        }
    }
}

// --- the search for a connection ----------------------------------------------------------------

impl<D: Driver> Exchange<D> {
    /// Lets the search act, and does what follows.
    fn search(
        &mut self,
        cx: &mut Context<'_, D>,
        act: impl FnOnce(&mut Connecting, &mut Context<'_, D>) -> Found,
    ) -> Step {
        let mut found = act(self.connecting(), cx);
        while let Found::Resting(address) = found {
            if let Some(open) = self.take(address, cx) {
                return self.serve(open, true, cx);
            }
            found = self.connecting().search(true, cx);
        }
        let waits_for_place = self.connecting().waits_for_place(cx.balancer);
        self.tally.searched(waits_for_place, cx.now);
        match found {
            Found::Waiting => {
                if self.connecting().is_stalled(cx.now) {
                    self.watch(cx.driver);
                }
                Step::Continue
            }
            Found::Open(sock, lease) => self.serve(Open::new(sock, lease), false, cx),
            Found::Failed(failure) => self.failed(Ending::ConnectFailed(failure), cx),
            Found::BrokenOff(errno) => self.failed(Ending::BackendReset(errno), cx),
            Found::QueueTimeout => {
                self.give_up_search(cx);
                self.farewell(Synthesised::Unavailable, Ending::QueueTimeout, cx)
            }
            Found::Resting(_) => unreachable!("each of those was looked at"),
        }
    }

    fn connecting(&mut self) -> &mut Connecting {
        match &mut self.stage {
            Stage::Search(connecting) => connecting,
            Stage::Head
            | Stage::Serve(_)
            | Stage::Deliver { .. }
            | Stage::Farewell { .. }
            | Stage::Breaking { .. } => unreachable!("only a request that waits is told"),
        }
    }

    /// A connection that rests, if this request may use one. Else it wants a new one, for which one that rests
    /// makes way if no other place is free.
    fn take(&mut self, address: Address, cx: &mut Context<'_, D>) -> Option<Open> {
        let may_use = match cx.pool.manner(address) {
            Manner::Unknown { .. } | Manner::InTurn { .. } | Manner::AnyTime { .. } => true,
            // It is tried again.
            Manner::Silent { .. } | Manner::Closes { .. } => self.is_repeatable_method(),
        };
        let (pool, mut pool_cx) = cx.pool_parts();
        let connecting = self.connecting();
        if connecting.wants_new() {
            pool.drop_resting(address, &mut pool_cx);
            connecting.owe_a_place();
            return None;
        }
        let open = may_use.then(|| pool.take(address)).flatten();
        if open.is_none() {
            connecting.want_new();
        }
        open
    }

    fn is_repeatable_method(&self) -> bool {
        matches!(
            self.reader.head().param(b"REQUEST_METHOD"),
            Some(b"GET" | b"HEAD")
        )
    }

    fn give_up_search(&mut self, cx: &mut Context<'_, D>) {
        if let Stage::Search(connecting) = mem::replace(&mut self.stage, Stage::Head) {
            connecting.close(cx.driver, cx.retired);
        }
    }

    /// The request failed before its first byte of an answer.
    fn failed(&mut self, ending: Ending, cx: &mut Context<'_, D>) -> Step {
        self.give_up_search(cx);
        match cx.fastcgi().on_failure {
            OnFailure::Close => Step::End(ending),
            OnFailure::Respond => self.farewell(Synthesised::BadGateway, ending, cx),
        }
    }
}

// --- a request and its server -------------------------------------------------------------------

impl<D: Driver> Exchange<D> {
    /// A connection is open. `receiving`: a receive is armed on it.
    fn serve(&mut self, open: Open, receiving: bool, cx: &mut Context<'_, D>) -> Step {
        let sock = open.sock;
        let address = open.lease.address();
        // Until now it was not waited for.
        self.body_lag = Lag::default();
        self.tally.found(address, open.is_reused(), &cx.telling());
        if receiving {
            cx.owners.assign(sock, Owner::Session(cx.id, End::Backend));
            open.lease.asked(cx.now);
        } else {
            cx.driver.submit(sock, Op::Recv);
        }
        let Some(mut outbox) = cx.driver.lend() else {
            self.stage = Stage::Head;
            close_upstream(open, Close::Graceful, cx.driver, cx.retired);
            return self.failed(Ending::NoBuffer, cx);
        };
        let manner = cx.pool.manner(address);
        let keeping = match self.body_is_certain() {
            true => cx.pool.keeping(&open, cx.now),
            false => Keeping::Not,
        };
        let head = self.reader.head();
        outbox.write(|out| head.write(keeping != Keeping::Not, &self.without, out));
        // The body of a request that is sent again.
        outbox.extend(&self.repeatable);
        let id = head.request_id();
        // Only if it is sent again.
        let body_is_over = self.body_ended;
        let is_short = body_is_over && self.reader.body_missing() > 0;
        if body_is_over && !is_short && keeping == Keeping::FenceWithRequest {
            outbox.extend(&FENCE);
        }
        self.stage = Stage::Serve(Serving {
            open,
            keeping,
            early_fences: 0,
            outbox: Some(outbox),
            sending: Sending::Idle,
            is_whole: body_is_over,
            sent: 0,
            unwritten: 0,
            receiving: true,
            taken_in_a_row: 0,
            upload: None,
            lead: None,
            download: None,
            response: ResponseReader::new(id),
            answer: Answer::Running,
            tainted: false,
            is_short,
            was_proven: manner.is_proven(),
            repeatable: true,
        });
        if body_is_over {
            self.send_on(cx);
            return Step::Continue;
        }
        self.read_body(cx)
    }

    /// See [`RequestReader::body_is_certain`].
    fn body_is_certain(&self) -> bool {
        // One that was sent before is over: that of a request without a body is a lone header.
        if self.body_ended && self.repeatable.len() <= HEADER_LEN {
            return true;
        }
        let inbox = self.inbox.as_ref();
        let rest = inbox.map_or(&[][..], |inbox| &inbox.buf[inbox.at..]);
        self.reader.body_is_certain(rest)
    }

    /// Takes what is there of the body to the server. While nothing can be sent, nothing is read.
    fn read_body(&mut self, cx: &mut Context<'_, D>) -> Step {
        loop {
            let Stage::Serve(serving) = &self.stage else {
                unreachable!("somebody serves the request")
            };
            if matches!(serving.sending, Sending::Busy { .. } | Sending::Splicing) {
                return Step::Continue;
            }
            match self.next_event(cx) {
                Err(ending) => return Step::End(ending),
                Ok(None) => {
                    self.inbox = None;
                    break;
                }
                Ok(Some(RequestEvent::Body(pass))) => {
                    if let Err(ending) = self.take_body(&pass, cx) {
                        return Step::End(ending);
                    }
                }
                Ok(Some(RequestEvent::BodyEnd)) => {
                    if let Err(ending) = self.body_ended(cx) {
                        return Step::End(ending);
                    }
                    self.inbox.take_if(|inbox| inbox.at == inbox.buf.len());
                    break;
                }
                Ok(Some(RequestEvent::Abort)) => return Step::End(Ending::Aborted),
                Ok(Some(RequestEvent::Reply(reply))) => {
                    if let Err(ending) = self.reply(&reply, cx) {
                        return Step::End(ending);
                    }
                }
                // It stays where it is until this one is over, which may have no body: an authorizer's.
                Ok(Some(RequestEvent::Next)) => {
                    self.send_on(cx);
                    return Step::Continue;
                }
                Ok(Some(RequestEvent::Head)) => unreachable!("the head is complete"),
            }
        }
        self.send_on(cx);
        let Stage::Serve(serving) = &self.stage else {
            unreachable!("somebody serves the request")
        };
        match serving.sending {
            Sending::Idle => {
                self.body_lag.wait(cx.now);
                self.read_on(cx.driver);
            }
            // Nobody takes the body; the answer may still come.
            Sending::Broken if self.reader.end() == ClientEnd::TooEarly => self.read_on(cx.driver),
            Sending::Busy { .. }
            | Sending::Splicing
            | Sending::Last
            | Sending::Done
            | Sending::Broken => {}
        }
        Step::Continue
    }

    /// A body of which a piece were missing would be another one, and what follows might be read as records:
    /// where there is no buffer for it, the request ends.
    fn take_body(&mut self, pass: &Pass, cx: &mut Context<'_, D>) -> Result<(), Ending> {
        let (Stage::Serve(serving), Some(inbox)) = (&mut self.stage, &mut self.inbox) else {
            unreachable!("a body comes from the client and goes to a server")
        };
        if serving.sending == Sending::Broken {
            return Ok(());
        }
        let (lead, range) = (pass.lead(), pass.range());
        let bytes = &inbox.buf[range.clone()];
        let kept = self.repeatable.len() + pass.len();
        let is_first = serving.sent == 0 && kept <= REPEATABLE_BYTES_MAX;
        serving.repeatable &= is_first;
        if is_first {
            self.repeatable.extend_from_slice(lead);
            self.repeatable.extend_from_slice(bytes);
        }
        match &mut serving.outbox {
            Some(outbox) => {
                outbox.extend(lead);
                outbox.extend(bytes);
            }
            // As it came, without being copied.
            None if lead.is_empty() && range.end == inbox.buf.len() => {
                let Inbox { mut buf, .. } = self.inbox.take().expect("it was just seen");
                buf.keep(range);
                serving.outbox = Some(buf);
            }
            None => {
                let mut outbox = cx.driver.lend().ok_or(Ending::NoBuffer)?;
                outbox.extend(lead);
                outbox.extend(bytes);
                serving.outbox = Some(outbox);
            }
        }
        Ok(())
    }

    fn body_ended(&mut self, cx: &mut Context<'_, D>) -> Result<(), Ending> {
        let Stage::Serve(serving) = &mut self.stage else {
            unreachable!("somebody serves the request")
        };
        if serving.sending == Sending::Broken {
            return Ok(());
        }
        serving.is_whole = true;
        self.body_ended = true;
        if self.reader.body_missing() > 0 {
            serving.is_short = true;
        } else if serving.keeping == Keeping::FenceWithRequest {
            match &mut serving.outbox {
                Some(outbox) => outbox.extend(&FENCE),
                None => {
                    let mut outbox = cx.driver.lend().ok_or(Ending::NoBuffer)?;
                    outbox.extend(&FENCE);
                    serving.outbox = Some(outbox);
                }
            }
        }
        Ok(())
    }

    fn send_on(&mut self, cx: &mut Context<'_, D>) {
        let Stage::Serve(serving) = &mut self.stage else {
            return;
        };
        if serving.sending != Sending::Idle {
            return;
        }
        let Some(outbox) = serving.outbox.take() else {
            if serving.is_whole {
                serving.all_sent(cx.driver);
            }
            return;
        };
        serving.sent += outbox.len() as u64;
        serving.unwritten = outbox.len();
        serving.sending = if serving.is_whole {
            Sending::Last
        } else {
            Sending::Busy {
                full: outbox.is_full(),
            }
        };
        cx.driver.submit(serving.open.sock, Op::Send(outbox));
    }

    fn server_written(&mut self, done: Done, cx: &mut Context<'_, D>) -> Step {
        let Stage::Serve(serving) = &mut self.stage else {
            unreachable!("only a server is written")
        };
        if let Done::Sent = done {
            let written = mem::take(&mut serving.unwritten);
            cx.counters.to_backend.copied.add(written as u64);
        }
        match (done, serving.sending) {
            (Done::Sent, Sending::Busy { full }) => {
                serving.sending = Sending::Idle;
                if full && self.body_may_be_spliced() {
                    return self.splice_body(true, cx);
                }
                self.read_body(cx)
            }
            (Done::Ready, Sending::Splicing) => {
                serving.sending = Sending::Idle;
                self.splice_body(false, cx)
            }
            (Done::Sent, Sending::Last) => {
                serving.all_sent(cx.driver);
                self.server_done(cx)
            }
            // What it has to say, and its end, a receive tells.
            (Done::Failed(_), _) => self.server_takes_no_more(cx),
            (done, sending) => unreachable!("{done:?} while {sending:?}"),
        }
    }

    fn server_takes_no_more(&mut self, cx: &mut Context<'_, D>) -> Step {
        let Stage::Serve(serving) = &mut self.stage else {
            unreachable!("only a server is written")
        };
        serving.sending = Sending::Broken;
        match serving.answer {
            Answer::Ended(_) => self.server_done(cx),
            Answer::Running => self.read_body(cx),
        }
    }

    /// Whether a full buffer has gone to the server and what comes next may go without being read.
    fn body_may_be_spliced(&self) -> bool {
        self.inbox.is_none()
            && matches!(self.reading, Reading::Idle | Reading::Watching)
            && bulk::is_worth_it(&self.reader)
    }

    /// The client has more, which may go without being read.
    fn more_to_splice(&mut self, cx: &mut Context<'_, D>) -> Step {
        match &self.stage {
            Stage::Serve(serving) if serving.sending == Sending::Idle => {
                self.splice_body(false, cx)
            }
            // It is not wanted any more.
            Stage::Serve(_) | Stage::Farewell { .. } | Stage::Deliver { .. } => {
                self.read_on(cx.driver);
                Step::Continue
            }
            Stage::Breaking { .. } => Step::Continue,
            Stage::Head | Stage::Search(_) => self.advance(cx),
        }
    }

    /// Lets the content of large records pass. `first`: they were received until now.
    fn splice_body(&mut self, first: bool, cx: &mut Context<'_, D>) -> Step {
        let Stage::Serve(serving) = &mut self.stage else {
            unreachable!("somebody serves the request")
        };
        let (server, counters) = (serving.open.sock, &cx.counters.to_backend);
        let (held, records) = (&mut serving.upload, &mut self.reader);
        let lead = &mut None;
        let pumped = bulk::pump(
            lead,
            held,
            cx.driver,
            self.client,
            server,
            records,
            counters,
        );
        pumped.count(first, counters);
        serving.sent += pumped.taken as u64;
        self.body_lag
            .moved(pumped.taken as u64, cx.now, cx.timeouts.min_rate);
        // Nobody has what went by.
        serving.repeatable &= pumped.taken == 0;
        match pumped.then {
            Then::Receive => return self.read_body(cx),
            Then::SourceReadable => {
                self.body_lag.wait(cx.now);
                if self.reading == Reading::Idle {
                    cx.driver.submit(self.client, Op::Readable);
                    self.reading = Reading::Splicing;
                } else {
                    // Its read lane waits for it to leave.
                    self.read_on(cx.driver);
                }
            }
            Then::SinkWritable => {
                cx.driver.submit(server, Op::Writable);
                serving.sending = Sending::Splicing;
            }
            Then::SourceFailed(errno) => return Step::End(Ending::ClientReset(errno)),
            Then::SinkFailed(_) => return self.server_takes_no_more(cx),
        }
        Step::Continue
    }

    /// Most likely, more of a large answer is there: it is taken without a turn of its own.
    fn receive_more(&mut self, cx: &mut Context<'_, D>) -> Step {
        let Stage::Serve(serving) = &mut self.stage else {
            return Step::Continue;
        };
        if serving.receiving || matches!(serving.answer, Answer::Ended(_)) {
            return Step::Continue;
        }
        // Others have their turn as they do beside a raw flow.
        if serving.taken_in_a_row < SPLICE_BUDGET_BYTES {
            match cx.driver.receive_now(serving.open.sock) {
                Ok(Some(buf)) => {
                    serving.taken_in_a_row += buf.len();
                    return self.answer_came(buf, cx);
                }
                Ok(None) => {}
                Err(errno) => return self.server_lost(Lost::Failed(errno), cx),
            }
        }
        serving.taken_in_a_row = 0;
        cx.driver.acknowledge(serving.open.sock);
        self.receive_answer(cx.driver);
        Step::Continue
    }

    /// Waits for more of an answer, all of which that came was acknowledged: a server that leaves Nagle's
    /// algorithm on, as PHP-FPM does, holds its next small write back until then, and the kernel would
    /// take 40 ms for it on a connection that has sent a request a moment ago.
    fn receive_answer(&mut self, driver: &mut D) {
        if let Stage::Serve(serving) = &mut self.stage
            && !serving.receiving
            && !matches!(serving.answer, Answer::Ended(_))
        {
            driver.submit(serving.open.sock, Op::Recv);
            serving.receiving = true;
        }
    }

    fn server_read(&mut self, done: Done, cx: &mut Context<'_, D>) -> Step {
        let Stage::Serve(serving) = &mut self.stage else {
            unreachable!("only a server is read")
        };
        serving.receiving = false;
        match done {
            Done::Received(buf) => self.answer_came(buf, cx),
            Done::Ready => self.splice_answer(false, cx),
            Done::Eof => self.server_lost(Lost::End, cx),
            Done::Failed(errno) => self.server_lost(Lost::Failed(errno), cx),
            done => unreachable!("a receive ends with {done:?}"),
        }
    }

    /// A part of the answer came. The client gets it as it is.
    fn answer_came(&mut self, mut buf: Buf, cx: &mut Context<'_, D>) -> Step {
        let Stage::Serve(serving) = &mut self.stage else {
            unreachable!("only a server answers")
        };
        if serving.response.is_untouched() {
            serving.succeed(cx);
        }
        let (part, lost) = serving.read_part(&mut buf, cx.driver);
        serving.early_fences += part.fences;
        serving.tainted |= part.taints;
        let has_ended = part.settling.is_some();
        if let Some(settling) = part.settling {
            serving.answer = Answer::Ended(settling);
        }
        self.tally.answer_came(&serving.response, cx.now);
        let (passes, has_begun) = (part.passes, serving.response.has_begun());
        match (part.nonsense, lost) {
            (Some(nonsense), _) if passes.is_empty() && !has_begun => {
                return self.never_answered(Ending::BadResponse(nonsense), cx);
            }
            (None, Some(errno)) if passes.is_empty() => {
                return self.server_lost(Lost::Failed(errno), cx);
            }
            (None, None) => {}
            // What came before it is an answer as far as it goes.
            (nonsense, lost) => {
                if lost.is_some() {
                    cx.pool.broke_off(serving.open.lease.address());
                }
                if let Err(errno) = self.pass_on(buf, passes, has_ended, cx) {
                    return Step::End(Ending::ClientReset(errno));
                }
                let lost = Ending::BackendReset(lost.unwrap_or(Errno(libc::ECONNRESET)));
                return self.break_off(nonsense.map_or(lost, Ending::BadResponse), cx);
            }
        }
        if bulk::is_about_to_come(&serving.response) && buf.len() <= LEAD_BYTES_MAX {
            if !passes.is_empty() {
                passes.apply(&mut buf);
                assert!(serving.lead.is_none(), "what a lead waits for came");
                serving.lead = Some(buf);
            }
            return self.splice_answer(true, cx);
        }
        if let Err(errno) = self.pass_on(buf, passes, has_ended, cx) {
            return Step::End(Ending::ClientReset(errno));
        }
        if has_ended {
            return self.server_done(cx);
        }
        if self.writing == Writing::Idle {
            self.receive_answer(cx.driver);
        }
        Step::Continue
    }

    /// Sends the client what is for it in a buffer of the server's. It is on its way then, or a wait for room
    /// is, unless there was nothing or it has gone already.
    fn pass_on(
        &mut self,
        mut buf: Buf,
        passes: Passes,
        is_end: bool,
        cx: &mut Context<'_, D>,
    ) -> Result<(), Errno> {
        let Stage::Serve(serving) = &mut self.stage else {
            unreachable!("only a server answers")
        };
        let full = buf.is_full();
        passes.apply(&mut buf);
        if let Some(held) = &mut serving.download {
            assert!(
                serving.lead.is_none(),
                "it went out before the pipe was filled"
            );
            held.append(cx.driver, &buf);
            return self.flush_answer(cx);
        }
        if let Some(lead) = serving.lead.take() {
            buf.prepend(&lead);
        }
        if !buf.is_empty() {
            self.send_part(buf, cx);
            self.writing = match is_end {
                true => Writing::Last,
                false => Writing::Part { full },
            };
        }
        Ok(())
    }

    fn send_part(&mut self, buf: Buf, cx: &mut Context<'_, D>) {
        assert!(self.writing == Writing::Idle, "one piece at a time");
        self.unwritten = buf.len();
        self.answer_lag.wait(cx.now);
        cx.driver.submit(self.client, Op::Send(buf));
        self.writing = Writing::Part { full: false };
    }

    /// Gives the client what a pipe holds for it.
    fn flush_answer(&mut self, cx: &mut Context<'_, D>) -> Result<(), Errno> {
        let held = match &mut self.stage {
            Stage::Serve(serving) => &mut serving.download,
            Stage::Deliver { held } => held,
            _ => unreachable!("an answer is delivered"),
        };
        let Some(pipe) = held else {
            return Ok(());
        };
        let before = pipe.len();
        let flushed = bulk::flush(pipe, cx.driver, self.client, &cx.counters.to_client);
        let given = (before - pipe.len()) as u64;
        self.answer_lag.moved(given, cx.now, cx.timeouts.min_rate);
        match flushed {
            Flushed::All => *held = None,
            Flushed::Full => {
                cx.driver.submit(self.client, Op::Writable);
                self.answer_lag.wait(cx.now);
                self.writing = Writing::Waiting;
            }
            Flushed::Failed(errno) => return Err(errno),
        }
        Ok(())
    }

    /// The client has room for more of what a pipe holds.
    fn flush_on(&mut self, cx: &mut Context<'_, D>) -> Step {
        match &self.stage {
            Stage::Breaking { .. } => return self.tell_break(cx),
            Stage::Serve(serving) if matches!(serving.answer, Answer::Running) => {
                return self.splice_answer(false, cx);
            }
            _ => {}
        }
        match self.flush_answer(cx) {
            Err(errno) => Step::End(Ending::ClientReset(errno)),
            Ok(()) if self.writing == Writing::Waiting => Step::Continue,
            Ok(()) => self.answered(cx),
        }
    }

    /// Whether a full buffer has gone to the client and what comes next may go without being read.
    fn answer_may_be_spliced(&self) -> bool {
        matches!(
            &self.stage,
            Stage::Serve(serving) if !serving.receiving
                && matches!(serving.answer, Answer::Running)
                && bulk::is_worth_it(&serving.response)
        )
    }

    /// Lets the content of large records pass. `first`: they were received until now.
    fn splice_answer(&mut self, first: bool, cx: &mut Context<'_, D>) -> Step {
        let Stage::Serve(serving) = &mut self.stage else {
            unreachable!("only a server answers")
        };
        let (server, counters) = (serving.open.sock, &cx.counters.to_client);
        let (held, records) = (&mut serving.download, &mut serving.response);
        let lead = &mut serving.lead;
        let pumped = bulk::pump(
            lead,
            held,
            cx.driver,
            server,
            self.client,
            records,
            counters,
        );
        pumped.count(first, counters);
        self.tally.answer_came(&serving.response, cx.now);
        serving.taken_in_a_row += pumped.taken;
        self.answer_lag
            .moved(pumped.given as u64, cx.now, cx.timeouts.min_rate);
        match pumped.then {
            Then::Receive => return self.receive_more(cx),
            Then::SourceReadable => {
                cx.driver.acknowledge(server);
                cx.driver.submit(server, Op::Readable);
                serving.receiving = true;
                serving.taken_in_a_row = 0;
            }
            Then::SinkWritable => {
                cx.driver.submit(self.client, Op::Writable);
                self.answer_lag.wait(cx.now);
                self.writing = Writing::Waiting;
            }
            Then::SourceFailed(errno) => return self.server_lost(Lost::Failed(errno), cx),
            Then::SinkFailed(errno) => return Step::End(Ending::ClientReset(errno)),
        }
        Step::Continue
    }

    /// No more comes of an answer that has begun, or may have.
    fn break_off(&mut self, ending: Ending, cx: &mut Context<'_, D>) -> Step {
        let Stage::Serve(mut serving) = mem::replace(&mut self.stage, Stage::Head) else {
            unreachable!("an answer comes from a server")
        };
        let tells = serving.break_is_to_be_told();
        close_upstream(serving.open, Close::Reset, cx.driver, cx.retired);
        if !tells {
            return Step::End(ending);
        }
        self.inbox = None;
        self.activity.seen(cx.now);
        match (serving.lead, &mut serving.download) {
            (Some(lead), Some(held)) => held.append(cx.driver, &lead),
            (Some(lead), None) => self.send_part(lead, cx),
            (None, _) => {}
        }
        self.stage = Stage::Breaking {
            held: serving.download,
            ending,
        };
        match self.writing {
            Writing::Idle => self.tell_break(cx),
            Writing::Part { .. } | Writing::Waiting | Writing::Last | Writing::Farewell => {
                Step::Continue
            }
        }
    }

    /// Tells the client, once it has all that came, that the answer broke off.
    fn tell_break(&mut self, cx: &mut Context<'_, D>) -> Step {
        let Stage::Breaking { held, ending, .. } = &mut self.stage else {
            unreachable!("an answer broke off")
        };
        let flushed = match held {
            Some(held) => bulk::flush(held, cx.driver, self.client, &cx.counters.to_client),
            None => Flushed::All,
        };
        let told = match flushed {
            Flushed::All => {
                *held = None;
                let told = cx.driver.send_now(self.client, &BROKEN_OFF);
                if told.is_ok() {
                    cx.counters.to_client.copied.add(BROKEN_OFF.len() as u64);
                }
                told
            }
            Flushed::Full => Err(Errno(libc::EAGAIN)),
            Flushed::Failed(errno) => Err(errno),
        };
        match told {
            Err(Errno(libc::EAGAIN)) => {
                cx.driver.submit(self.client, Op::Writable);
                self.writing = Writing::Waiting;
                Step::Continue
            }
            // One that cannot be told has noticed.
            Ok(()) | Err(_) => Step::End(*ending),
        }
    }

    /// What the server sends is no answer, and nothing of it has gone to the client.
    fn never_answered(&mut self, ending: Ending, cx: &mut Context<'_, D>) -> Step {
        let Stage::Serve(serving) = mem::replace(&mut self.stage, Stage::Head) else {
            unreachable!("only a server answers")
        };
        close_upstream(serving.open, Close::Reset, cx.driver, cx.retired);
        self.failed(ending, cx)
    }

    /// The answer is complete. Once the request is as well, the connection is for others.
    fn server_done(&mut self, cx: &mut Context<'_, D>) -> Step {
        let Stage::Serve(serving) = &self.stage else {
            unreachable!("a server has answered")
        };
        let Answer::Ended(settling) = serving.answer else {
            return Step::Continue;
        };
        if serving.sending == Sending::Last {
            return Step::Continue;
        }
        let Stage::Serve(mut serving) = mem::replace(&mut self.stage, Stage::Head) else {
            unreachable!("it was just seen")
        };
        self.stage = Stage::Deliver {
            held: serving.download.take(),
        };
        let is_kept = serving.sending == Sending::Done
            && serving.keeping != Keeping::Not
            && !serving.is_short
            && !serving.tainted
            && !cx.draining
            && cx.is_current(&serving.open.lease);
        if is_kept {
            serving.settle(settling, cx);
        } else {
            // END_REQUEST before the end of the request: the rest of it would be read as the next one. Or
            // the endpoint has left the set meanwhile.
            close_upstream(serving.open, Close::Graceful, cx.driver, cx.retired);
        }
        match self.writing {
            Writing::Idle => self.answered(cx),
            Writing::Part { .. } | Writing::Waiting | Writing::Last | Writing::Farewell => {
                Step::Continue
            }
        }
    }

    /// The server's connection has ended in the midst of the request.
    fn server_lost(&mut self, lost: Lost, cx: &mut Context<'_, D>) -> Step {
        let errno = lost.errno();
        let is_harmless = self.is_repeatable_method();
        let Stage::Serve(serving) = &mut self.stage else {
            unreachable!("only a server is read")
        };
        if lost != Lost::End {
            cx.pool.broke_off(serving.open.lease.address());
        }
        if serving.response.has_begun() {
            return self.break_off(Ending::BackendReset(errno), cx);
        }
        let was_reused = serving.open.is_reused();
        let address = serving.open.lease.address();
        let may_repeat = was_reused && serving.repeatable && serving.response.is_untouched() && {
            // A server that closes after the fence, or may be one that does.
            let is_expected = !serving.was_proven && !cx.pool.manner(address).is_proven();
            (is_expected && is_harmless) || serving.was_never_read(lost, cx.driver)
        };
        let Stage::Serve(serving) = mem::replace(&mut self.stage, Stage::Head) else {
            unreachable!("it was just seen")
        };
        if was_reused {
            cx.pool.disappointed(address, Failing::Ended, cx.now);
        } else {
            serving.fail(cx);
        }
        close_upstream(serving.open, Close::Graceful, cx.driver, cx.retired);
        if !may_repeat {
            return self.failed(Ending::BackendReset(errno), cx);
        }
        let mut connecting = Connecting::new(Hello::None, None, cx.now, cx.timeouts, Entry::Direct);
        connecting.want_new();
        connecting.owe_a_place();
        self.stage = Stage::Search(connecting);
        self.tally.search(cx.now);
        cx.counters.fastcgi.retries.add(1);
        self.search(cx, |connecting, cx| connecting.search(true, cx))
    }

    /// The client has left. Its request, if all of it was sent, keeps its place at the endpoint for as long as
    /// the server may be at work on it: a server that is given another one meanwhile lets it wait.
    fn abandon(&mut self, cx: &mut Context<'_, D>) {
        let Stage::Serve(serving) = &self.stage else {
            return;
        };
        let is_at_work = serving.sending == Sending::Done
            && matches!(serving.answer, Answer::Running)
            && cx.balancer.is_limited()
            && !cx.draining;
        if !is_at_work || !cx.is_current(&serving.open.lease) {
            return;
        }
        let Stage::Serve(serving) = mem::replace(&mut self.stage, Stage::Head) else {
            unreachable!("it was just seen")
        };
        cx.abandon_request(serving.open, serving.receiving);
    }

    /// Closes all sockets. Returns one that the driver has yet to join, if there is one.
    pub fn close(self, driver: &mut D, retired: &mut Retired<Lease>) -> Option<Sock> {
        let leaving = match self.stage {
            Stage::Head
            | Stage::Deliver { .. }
            | Stage::Farewell { .. }
            | Stage::Breaking { .. } => None,
            Stage::Search(connecting) => connecting.close(driver, retired),
            // In the midst of a request: the server learns that nobody waits for it.
            Stage::Serve(serving) => {
                if serving.break_is_to_be_told() && self.writing == Writing::Idle {
                    // Where there is no time to wait, it is told if it has room now.
                    let lead = serving.lead.as_deref().unwrap_or_default();
                    let _ = driver.send_now(self.client, &[lead, &BROKEN_OFF].concat());
                }
                close_upstream(serving.open, Close::Reset, driver, retired)
            }
        };
        let closed = driver.close(self.client, Close::Graceful);
        leaving.or_else(|| (closed == Closed::Soon).then_some(self.client))
    }
}

fn close_upstream<D: Driver>(
    open: Open,
    how: Close,
    driver: &mut D,
    retired: &mut Retired<Lease>,
) -> Option<Sock> {
    let closed = driver.close(open.sock, how);
    retired.push(open.lease, open.sock, closed);
    (closed == Closed::Soon).then_some(open.sock)
}

/// What of one buffer goes to the client: one piece, unless something stands in between that does not.
#[derive(Default)]
struct Passes {
    first: Option<Pass>,
    others: Vec<Pass>,
}

impl Passes {
    fn push(&mut self, pass: Pass) {
        match self.first {
            None => self.first = Some(pass),
            Some(_) => self.others.push(pass),
        }
    }

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Makes of the buffer what goes to the client.
    fn apply(self, buf: &mut Buf) {
        for (at, header) in self.iter().filter_map(Pass::patch) {
            buf.overwrite(at, &header);
        }
        match (self.first, &self.others[..]) {
            (Some(pass), []) => {
                buf.keep(pass.range());
                if !pass.lead().is_empty() {
                    buf.prepend(pass.lead());
                }
            }
            (first, others) => {
                let mut all = Vec::with_capacity(buf.len());
                for pass in first.iter().chain(others) {
                    all.extend_from_slice(pass.lead());
                    all.extend_from_slice(&buf[pass.range()]);
                }
                buf.replace(&all);
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Pass> {
        self.first.iter().chain(&self.others)
    }
}

/// How a server's connection came to its end in the midst of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lost {
    End,
    Failed(Errno),
}

impl Lost {
    fn errno(self) -> Errno {
        match self {
            Self::End => Errno(libc::ECONNRESET),
            Self::Failed(errno) => errno,
        }
    }
}

/// What one buffer of a server's has.
#[derive(Default)]
struct Part {
    passes: Passes,
    /// Answers to a fence that came before END_REQUEST.
    fences: u32,
    /// There is what belongs to no request.
    taints: bool,
    /// END_REQUEST is there; this is what stands behind it.
    settling: Option<Settling>,
    nonsense: Option<ResponseError>,
}

impl Part {
    fn read(response: &mut ResponseReader, bytes: &[u8]) -> Self {
        let (mut part, mut at) = (Self::default(), 0);
        loop {
            match response.next(bytes, &mut at) {
                Err(error) => part.nonsense = Some(error),
                Ok(None) => {}
                Ok(Some(ResponseEvent::Pass(pass))) => {
                    part.passes.push(pass);
                    continue;
                }
                Ok(Some(ResponseEvent::Management(Kind::GetValuesResult))) => {
                    part.fences += 1;
                    continue;
                }
                Ok(Some(ResponseEvent::Management(_))) => {
                    part.taints = true;
                    continue;
                }
                Ok(Some(ResponseEvent::End(_))) => {
                    let mut settling = Settling::new();
                    settling.read(&bytes[at..]);
                    part.settling = Some(settling);
                }
            }
            return part;
        }
    }

    /// More of the answer is to come.
    fn is_unfinished(&self) -> bool {
        self.settling.is_none() && self.nonsense.is_none()
    }
}

impl<D: Driver> Serving<D> {
    /// Reads what a buffer has, and with it what the server, which leaves Nagle's algorithm on, has sent by the
    /// time that this was acknowledged: the client is woken once for both. The error is that of the connection,
    /// behind what came.
    fn read_part(&mut self, buf: &mut Buf, driver: &mut D) -> (Part, Option<Errno>) {
        let before = self.response.clone();
        let part = Part::read(&mut self.response, buf);
        // Behind a full buffer there is most likely more, and then the kernel acknowledges by itself.
        if !part.is_unfinished() || (buf.is_full() && !part.passes.is_empty()) {
            return (part, None);
        }
        let server = self.open.sock;
        driver.acknowledge(server);
        let at_hand = driver.at_hand(server);
        if at_hand == 0
            || at_hand + buf.len() > BUFFER_BYTES
            || bulk::is_about_to_come(&self.response)
        {
            return (part, None);
        }
        match driver.receive_now(server) {
            Ok(None) => (part, None),
            Err(errno) => (part, Some(errno)),
            Ok(Some(more)) => {
                buf.extend(&more);
                self.taken_in_a_row += more.len();
                self.response = before;
                let part = Part::read(&mut self.response, buf);
                if part.is_unfinished() {
                    driver.acknowledge(server);
                }
                (part, None)
            }
        }
    }

    /// Whether nothing of the request can have been read: the server had ended the connection before it
    /// came. A reset proves nothing, for the kernel may not have heard what was read before it.
    fn was_never_read(&self, lost: Lost, driver: &mut D) -> bool {
        if lost != Lost::End || self.sending == Sending::Broken {
            return false;
        }
        let acknowledged = driver.acknowledged(self.open.sock);
        acknowledged.is_ok_and(|bytes| bytes <= self.open.sent_before)
    }

    /// END_REQUEST came. Waits for the server's answer to the fence, which it gets now unless it has it.
    fn settle(self, settling: Settling, cx: &mut Context<'_, D>) {
        let sock = self.open.sock;
        let address = self.open.lease.address();
        let is_asked = self.keeping == Keeping::FenceWithRequest;
        let has_answered = match self.early_fences {
            0 => false,
            1 if is_asked => true,
            // What it answers, nobody asked.
            _ => return self.close(cx),
        };
        let mut sent = self.sent;
        match (is_asked, has_answered) {
            (true, false) if settling.state() == Settled::NotYet => {
                // Without TCP_NODELAY on its side, its answer to the fence waits for this.
                cx.driver.acknowledge(sock);
            }
            (true, false) => {}
            (true, true) | (false, _) => {
                if has_answered {
                    cx.pool.answered_early(address);
                }
                // Where it has ended, a receive tells.
                if !settling.is_untouched() || cx.driver.send_now(sock, &FENCE).is_err() {
                    return self.close(cx);
                }
                cx.counters.to_backend.copied.add(FENCE.len() as u64);
                sent += FENCE.len() as u64;
            }
        }
        let open = Open {
            sent_before: self.open.sent_before + sent,
            ..self.open
        };
        cx.settle(open, settling);
    }

    /// The connection is of no use any more.
    fn close(self, cx: &mut Context<'_, D>) {
        let address = self.open.lease.address();
        cx.pool.disappointed(address, Failing::Ended, cx.now);
        close_upstream(self.open, Close::Graceful, cx.driver, cx.retired);
    }

    /// Whether the client is between two records.
    fn is_between_records(&self) -> bool {
        self.response.is_between_records() && self.download.is_none()
    }

    /// Whether the client has the headers of an answer that is not complete. One that has less takes the
    /// end of the connection for a failure, and so does nginx, which then goes to its next server, as it
    /// would not if it were told more.
    fn break_is_to_be_told(&self) -> bool {
        let is_complete = matches!(self.answer, Answer::Ended(_));
        self.response.has_headers() && !is_complete
    }

    fn all_sent(&mut self, driver: &mut D) {
        self.sending = Sending::Done;
        if self.is_short {
            driver.shutdown_write(self.open.sock);
        }
    }

    /// The server has begun to answer.
    fn succeed(&self, cx: &mut Context<'_, D>) {
        let lease = &self.open.lease;
        // The next new connection to the endpoint may be opened.
        cx.changes.room |= lease.answered(cx.now);
        if self.open.is_reused() {
            cx.pool.served_again(lease.address());
        }
        if lease.was_ejected() {
            cx.published.restored(lease.health(), cx.now);
        } else {
            cx.published.succeeded(lease.health());
        }
    }

    /// It took the request and gave nothing back.
    fn fail(&self, cx: &Context<'_, D>) {
        cx.published.failed(self.open.lease.health(), cx.now);
    }
}
