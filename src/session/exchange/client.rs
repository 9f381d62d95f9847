//! The client's side of an exchange: its connection, what it has sent that was not read yet, and what is known of
//! the request that it has now.

use std::mem;
use std::ops::Range;
use std::time::Instant;

use crate::backend::ClassId;
use crate::driver::{Buf, Driver, Flushed, Lane, Op, Sock};
use crate::fastcgi::{ClientEnd, HEADER_LEN, RequestEvent, RequestReader, Verdict};
use crate::session::activity::Activity;
use crate::session::bulk::{self, Held};
use crate::session::lag::Lag;
use crate::session::tally::Tally;
use crate::session::{Began, Context, Ending, LetsGo};
use crate::sys::Errno;

use super::time::WATCH_AFTER;

/// The most of a body that is kept for sending it again: a request without one has 8 bytes.
pub(crate) const REPLAY_BYTES_MAX: usize = 4096;

/// The most of answers to a client's own questions that wait for a place between two records: a dozen.
/// Nobody asks so often during one request.
const REPLIES_BYTES_MAX: usize = 1024;

/// A client's connection, and the request that it has now.
pub(super) struct ClientSide {
    pub(super) sock: Sock,
    pub(super) reader: RequestReader,
    /// What was received and not read yet.
    pub(super) inbox: Option<Inbox>,
    pub(super) reading: Reading,
    pub(super) writing: Writing,
    /// Bytes that are on their way to it.
    unwritten: usize,
    /// Answers to its own questions that wait for the end of a record.
    replies: Vec<u8>,
    pub(super) activity: Activity,
    /// When the head of the request is to be there, if one is to come or has begun.
    pub(super) head_by: Option<Instant>,
    /// How late it is with the body, while it is waited for that.
    pub(super) body_lag: Lag,
    /// How late it is with taking the answer.
    pub(super) answer_lag: Lag,
    /// How many requests it has made.
    pub(super) requests: u64,
    /// When the connection began.
    pub(super) connected: Began,
    /// When the request's head was complete; before the first one, when the connection began.
    pub(super) began: Instant,
    pub(super) request: Request,
    /// That of the request, once the guard has let it pass.
    pub(super) class: ClassId,
    /// What of the head's parameters the server does not get.
    pub(super) without: Vec<Range<usize>>,
    pub(super) replay: Replay,
    pub(super) tally: Tally,
}

pub(super) struct Inbox {
    pub(super) buf: Buf,
    at: usize,
}

/// The read lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reading {
    Idle,
    Receiving,
    /// A wait for the client to leave. Nothing is read: it has sent its request, or its server does not take
    /// more of it for now.
    Watching,
    /// The same, of one that has ended its stream behind its request.
    HalfClosed,
    /// It was taken back, because there is something to be read after all.
    Unwatching,
    /// A wait for more of a record that is spliced.
    Splicing,
    /// What was in flight was taken back, because the client is to leave. If there is something to be read after all,
    /// it stays, or leaves with that.
    Leaving,
    /// The client sends no more.
    Ended,
}

/// The write lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Writing {
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

/// How far a request was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    /// Its body, or its head, goes on.
    Streaming,
    Whole,
    /// Its body has ended and is shorter than announced. A server that counts waits for the rest; the end of
    /// the stream behind it tells that none comes.
    Short,
}

/// Whether a request can be sent a second time.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Replay {
    /// This is all that was read of its body.
    Possible(Vec<u8>),
    /// More of it went by than is kept.
    Spent,
}

impl Replay {
    /// A new request.
    fn begin(&mut self) {
        match self {
            Self::Possible(kept) => kept.clear(),
            Self::Spent => *self = Self::Possible(Vec::new()),
        }
    }

    /// A piece of the body was read.
    pub(super) fn keep(&mut self, lead: &[u8], bytes: &[u8]) {
        let Self::Possible(kept) = self else {
            return;
        };
        if kept.len() + lead.len() + bytes.len() > REPLAY_BYTES_MAX {
            *self = Self::Spent;
            return;
        }
        kept.extend_from_slice(lead);
        kept.extend_from_slice(bytes);
    }

    /// What was kept of the body.
    pub(super) fn kept(&self) -> &[u8] {
        match self {
            Self::Possible(kept) => kept,
            Self::Spent => unreachable!("it is not sent again"),
        }
    }
}

/// What came of reading a head.
pub(super) enum HeadRead {
    Complete,
    /// More of it is to be received, if any of it came.
    Incomplete,
    /// It is none that a server may get.
    Bad(Ending),
    /// The client is not to be served any more.
    End(Ending),
}

impl ClientSide {
    pub(super) fn new<D: Driver>(sock: Sock, cx: &mut Context<'_, D>) -> Self {
        let peer = match cx.logs.are_kept() {
            true => cx.hands.driver.peer_credentials(sock),
            false => None,
        };
        Self {
            sock,
            reader: RequestReader::sharing(cx.head_room.clone(), cx.fastcgi().limits),
            inbox: None,
            reading: Reading::Idle,
            writing: Writing::Idle,
            unwritten: 0,
            replies: Vec::new(),
            activity: Activity::new(cx.hands.now),
            head_by: None,
            body_lag: Lag::default(),
            answer_lag: Lag::default(),
            requests: 0,
            connected: cx.hands.began_now(),
            began: cx.hands.now,
            request: Request::Streaming,
            class: ClassId::DEFAULT,
            without: Vec::new(),
            replay: Replay::Possible(Vec::new()),
            tally: Tally::new(peer, cx.hands.now),
        }
    }

    // --- reading ------------------------------------------------------------------------------

    /// Something is to be read.
    pub(super) fn read_on<D: Driver>(&mut self, driver: &mut D) {
        match self.reading {
            Reading::Idle => {
                driver.submit(self.sock, Op::Recv);
                self.reading = Reading::Receiving;
            }
            Reading::Watching | Reading::HalfClosed => {
                driver.cancel(self.sock, Lane::Read);
                self.reading = Reading::Unwatching;
            }
            Reading::Receiving
            | Reading::Unwatching
            | Reading::Splicing
            | Reading::Leaving
            | Reading::Ended => {}
        }
    }

    /// Whether another process can go on with it, which gets what was read of it if this says so.
    pub(super) fn may_leave(&self, lets_go: LetsGo) -> bool {
        let may_be_read = match lets_go {
            LetsGo::None => false,
            LetsGo::AtRest => self.reader.is_at_rest() && self.inbox.is_none(),
            LetsGo::WithBytes => self.reader.is_before_head(),
        };
        may_be_read && self.replies.is_empty() && self.writing == Writing::Idle
    }

    /// What was read of it and is to be acted on.
    pub(super) fn unread(&self) -> Vec<u8> {
        let mut unread = Vec::new();
        self.reader.unread(&mut unread);
        if let Some(inbox) = &self.inbox {
            unread.extend_from_slice(&inbox.buf[inbox.at..]);
        }
        unread
    }

    /// It is to leave: takes back what is in flight. True: nothing is.
    pub(super) fn stop_reading<D: Driver>(&mut self, driver: &mut D) -> bool {
        match self.reading {
            Reading::Idle => return true,
            Reading::Receiving | Reading::Watching | Reading::Splicing => {
                driver.cancel(self.sock, Lane::Read);
                self.reading = Reading::Leaving;
            }
            Reading::Unwatching => self.reading = Reading::Leaving,
            // It sends no more, so it ends where it is.
            Reading::HalfClosed | Reading::Ended => {}
            Reading::Leaving => {}
        }
        false
    }

    /// From when on the client is watched for leaving while its request is under way.
    pub(super) fn is_watched_from(&self) -> Instant {
        self.began + WATCH_AFTER
    }

    /// The request takes its time, and the client may leave meanwhile. With its next request at hand,
    /// nothing more is read from it.
    pub(super) fn watch<D: Driver>(&mut self, driver: &mut D) {
        if self.reading != Reading::Idle {
            return;
        }
        if self.inbox.is_some() || self.reader.end() != ClientEnd::AfterRequest {
            driver.submit(self.sock, Op::Hangup);
            self.reading = Reading::Watching;
        } else {
            // It may also be the next request, or FCGI_ABORT_REQUEST, that comes.
            self.read_on(driver);
        }
    }

    /// Waits for more of a record that is spliced.
    pub(super) fn wait_to_splice<D: Driver>(&mut self, driver: &mut D) {
        if self.reading == Reading::Idle {
            driver.submit(self.sock, Op::Readable);
            self.reading = Reading::Splicing;
        } else {
            // Its read lane waits for it to leave.
            self.read_on(driver);
        }
    }

    /// Bytes came.
    pub(super) fn received<D: Driver>(&mut self, buf: Buf, cx: &Context<'_, D>) {
        let bytes = buf.len() as u64;
        self.body_lag
            .moved(bytes, cx.hands.now, cx.policy.timeouts.min_rate);
        self.inbox = Some(Inbox { buf, at: 0 });
    }

    /// Reads what was received, as far as one event.
    pub(super) fn next_event<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
    ) -> Result<Option<RequestEvent>, Ending> {
        let (input, at) = match &mut self.inbox {
            Some(inbox) => (&inbox.buf[..], &mut inbox.at),
            None => (&[][..], &mut 0),
        };
        let next = self.reader.next(input, at);
        next.map_err(|error| {
            cx.violated(&error, self.sock);
            Ending::BadRequest(error)
        })
    }

    /// The buffer goes back unless there is something left in it.
    pub(super) fn drop_inbox_if_read(&mut self) {
        self.inbox.take_if(|inbox| inbox.at == inbox.buf.len());
    }

    /// Reads the head of a request.
    pub(super) fn read_head<D: Driver>(&mut self, cx: &mut Context<'_, D>) -> HeadRead {
        loop {
            match self.next_event(cx) {
                Err(ending) => return HeadRead::Bad(ending),
                Ok(Some(RequestEvent::Head)) => return HeadRead::Complete,
                Ok(Some(RequestEvent::Reply(reply))) => {
                    if let Err(ending) = self.reply(&reply, true, cx) {
                        return HeadRead::End(ending);
                    }
                }
                // Within the parameters.
                Ok(Some(RequestEvent::Abort)) => return HeadRead::End(Ending::Aborted),
                Ok(Some(event)) => unreachable!("no request is open: {event:?}"),
                Ok(None) => {
                    self.inbox = None;
                    match self.reader.end() {
                        // What came was no head. The first one is waited for, the next ones may never come.
                        ClientEnd::BetweenRequests if self.requests > 0 => self.head_by = None,
                        ClientEnd::BetweenRequests => {}
                        ClientEnd::AfterRequest | ClientEnd::TooEarly => self.expect_head(cx),
                    }
                    return HeadRead::Incomplete;
                }
            }
        }
    }

    /// From now on, unless it began before, the time for the head of a request runs.
    pub(super) fn expect_head<D: Driver>(&mut self, cx: &Context<'_, D>) {
        let by = cx
            .fastcgi()
            .head_timeout
            .map(|timeout| cx.hands.now + timeout);
        self.head_by = self.head_by.or(by);
    }

    /// A request's head is there, as far as it can be read.
    pub(super) fn begin_request<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        self.began = cx.hands.now;
        (self.body_lag, self.answer_lag) = (Lag::default(), Lag::default());
        self.tally.begin(self.reader.head(), &cx.telling());
        self.requests += 1;
        self.request = Request::Streaming;
        self.class = ClassId::DEFAULT;
        self.without.clear();
        self.replay.begin();
    }

    /// What the guard says of the request.
    pub(super) fn judge<D: Driver>(&self, cx: &Context<'_, D>) -> Verdict {
        let guard = cx.fastcgi().guard.as_ref();
        let verdict = guard.map(|guard| guard.judge(self.reader.head()));
        verdict.unwrap_or(Verdict::Pass)
    }

    /// Whether a server may be given the request twice.
    pub(super) fn method_is_repeatable(&self) -> bool {
        matches!(
            self.reader.head().param(b"REQUEST_METHOD"),
            Some(b"GET" | b"HEAD")
        )
    }

    /// See [`RequestReader::body_is_certain`]. What was read before, and is sent again, belongs to the body.
    pub(super) fn body_is_certain(&self) -> bool {
        let is_over = self.request != Request::Streaming;
        let rest = match &self.inbox {
            Some(inbox) => &inbox.buf[inbox.at..],
            None => &[],
        };
        match self.replay.kept().len() {
            0 if !is_over => self.reader.body_is_certain(rest),
            // There is none: this is its end.
            ..=HEADER_LEN if is_over => true,
            _ => self.reader.body_is_certain(&[]),
        }
    }

    /// Whether what comes next of the body may go to the server without being read.
    pub(super) fn body_may_be_spliced(&self) -> bool {
        self.inbox.is_none()
            && matches!(self.reading, Reading::Idle | Reading::Watching)
            && bulk::is_worth_it(&self.reader)
    }

    // --- writing ------------------------------------------------------------------------------

    /// An answer to a question of its own. It has it at once, or at the end of the record that is on its way.
    pub(super) fn reply<D: Driver>(
        &mut self,
        reply: &[u8],
        is_between_records: bool,
        cx: &mut Context<'_, D>,
    ) -> Result<(), Ending> {
        if self.replies.len() + reply.len() > REPLIES_BYTES_MAX {
            return Err(Ending::ClientReset(Errno(libc::ENOBUFS)));
        }
        self.replies.extend_from_slice(reply);
        self.send_replies(is_between_records, cx)
    }

    pub(super) fn send_replies<D: Driver>(
        &mut self,
        is_between_records: bool,
        cx: &mut Context<'_, D>,
    ) -> Result<(), Ending> {
        if self.replies.is_empty() || !is_between_records || self.writing != Writing::Idle {
            return Ok(());
        }
        // A client that asks without reading the answers has filled its socket.
        let sent = cx.hands.driver.send_now(self.sock, &self.replies);
        sent.map_err(Ending::ClientReset)?;
        let sent = self.replies.len() as u64;
        cx.counters.to_client.copied.add(sent);
        self.replies.clear();
        Ok(())
    }

    /// Sends a buffer, as what it is.
    pub(super) fn send<D: Driver>(&mut self, buf: Buf, what: Writing, cx: &mut Context<'_, D>) {
        assert!(self.writing == Writing::Idle, "one piece at a time");
        self.unwritten = buf.len();
        self.answer_lag.wait(cx.hands.now);
        cx.hands.driver.submit(self.sock, Op::Send(buf));
        self.writing = what;
    }

    /// What was sent is the kernel's.
    pub(super) fn sent<D: Driver>(&mut self, cx: &Context<'_, D>) {
        let written = mem::take(&mut self.unwritten) as u64;
        cx.counters.to_client.copied.add(written);
        self.answer_lag
            .moved(written, cx.hands.now, cx.policy.timeouts.min_rate);
    }

    /// Waits until it has room.
    pub(super) fn wait_for_room<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        cx.hands.driver.submit(self.sock, Op::Writable);
        self.answer_lag.wait(cx.hands.now);
        self.writing = Writing::Waiting;
    }

    /// Gives it what a pipe holds for it, or waits for room.
    pub(super) fn flush<D: Driver>(
        &mut self,
        held: &mut Option<Held<D::Pipe>>,
        cx: &mut Context<'_, D>,
    ) -> Result<(), Errno> {
        let Some(pipe) = held else {
            return Ok(());
        };
        let before = pipe.len();
        let flushed = bulk::flush(
            pipe,
            &mut cx.hands.driver,
            self.sock,
            &cx.counters.to_client,
        );
        let given = (before - pipe.len()) as u64;
        self.answer_lag
            .moved(given, cx.hands.now, cx.policy.timeouts.min_rate);
        match flushed {
            Flushed::All => *held = None,
            Flushed::Full => self.wait_for_room(cx),
            Flushed::Failed(errno) => return Err(errno),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_kept_whole_or_not_at_all() {
        let mut replay = Replay::Spent;
        replay.begin();
        assert_eq!(replay.kept(), b"");
        replay.keep(b"12345678", b"body");
        replay.keep(b"", &[b'x'; REPLAY_BYTES_MAX - 12]);
        assert_eq!(replay.kept().len(), REPLAY_BYTES_MAX);
        replay.keep(b"", b"y");
        assert_eq!(replay, Replay::Spent);
        replay.keep(b"", b"z");
        assert_eq!(replay, Replay::Spent);
        replay.begin();
        replay.keep(b"a", b"b");
        assert_eq!(replay.kept(), b"ab");
    }
}
