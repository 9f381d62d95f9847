//! A request and the connection that serves it: the way from the server to the client, and what becomes of both.

use std::time::Instant;

use crate::driver::{BUFFER_BYTES, Buf, Close, Done, Driver, NoBuffer, Op, Sock};
use crate::fastcgi::{BROKEN_OFF, FENCE, ResponseReader, Settled, Settling};
use crate::session::bulk::{self, Held, Resume};
use crate::session::flow::SPLICE_BUDGET_BYTES;
use crate::session::pool::{Failing, Keeping, Open};
use crate::session::{Context, End, Ending, Hands, Owner};
use crate::sys::Errno;

use super::body::Sending;
use super::client::{ClientSide, Replay, Request, Writing};
use super::part::{AnswerPart, Passes};
use super::stamp::stamp;

/// The most that waits for the large record behind it: the headers that PHP sends before a page. With the room
/// that a buffer has for more than was received, it goes out as one with what comes then.
const LEAD_BYTES_MAX: usize = 1024;

/// A request and the connection that serves it.
pub(super) struct Serving<D: Driver> {
    pub(super) open: Open,
    /// Whether the server was told to keep the connection, and when it gets the fence.
    pub(super) keeping: Keeping,
    /// What becomes of the connection when all is well.
    after: After,
    /// Answers to a fence that came before END_REQUEST.
    early_fences: u32,
    /// Goes out next.
    pub(super) outbox: Option<Buf>,
    pub(super) sending: Sending,
    /// Bytes of this request that the server was sent.
    pub(super) sent: u64,
    /// Those among them that are on their way.
    pub(super) unwritten: usize,
    /// A receive is in flight, or a wait for more of a record that is spliced.
    receiving: bool,
    /// Bytes of the answer that were taken since it was last waited for.
    taken_in_a_row: usize,
    /// Bytes of the client's that the server has no room for.
    pub(super) upload: Option<Held<D::Pipe>>,
    /// The beginning of an answer that waits for the content of a large record, whose header came with it.
    lead: Option<Buf>,
    /// Bytes of the server's that the client has no room for.
    download: Option<Held<D::Pipe>>,
    response: ResponseReader,
    pub(super) answer: Answer,
    /// When the request was given to it, the endpoint was known to keep connections. It may not be any more: its address
    /// has left the set, or a connection has broken off, as perhaps this one.
    was_proven: bool,
    /// When the server has had its time for the request, if that is limited.
    by: Option<Instant>,
}

/// The way from the server.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Running,
    /// END_REQUEST came; this is what came after it.
    Ended(Settling),
}

/// What becomes of a server whose answer is not waited for any longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    /// Its connection is reset.
    Reset,
    /// It keeps its place for as long as it may be at work on the request.
    AtWork,
}

/// Whether a connection may serve another request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    Keep,
    /// It was not to be kept from the start, or the server has sent what belongs to no request.
    Close,
}

/// What became of a request in one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Became {
    /// It goes on.
    Going,
    /// The answer is complete, and the last send of the request has ended if there was one. What else is left of the
    /// request does not go to this server any more.
    Over,
    /// The server's connection has ended in the midst of it.
    Lost(Lost),
    /// What the server sends is no answer. At most STDERR has gone to the client.
    Unanswered(Ending),
    /// No more comes of an answer that has begun, or may have.
    BrokenOff(Ending),
    /// The client is not to be served any more.
    End(Ending),
}

/// How a server's connection came to its end in the midst of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lost {
    End,
    Failed(Errno),
}

impl Lost {
    pub(super) fn errno(self) -> Errno {
        match self {
            Self::End => Errno(libc::ECONNRESET),
            Self::Failed(errno) => errno,
        }
    }
}

impl<D: Driver> Serving<D> {
    /// Gives the request to a connection. `is_armed`: a receive is in flight on it. Without a buffer, the connection
    /// comes back.
    pub(super) fn new(
        open: Open,
        is_armed: bool,
        client: &ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Result<Self, (Open, NoBuffer)> {
        let sock = open.sock;
        let address = open.lease.address();
        if is_armed {
            cx.hands
                .owners
                .assign(sock, Owner::Session(cx.id, End::Backend));
            open.lease.asked(cx.hands.now);
        } else {
            cx.hands.driver.submit(sock, Op::Recv);
        }
        let mut outbox = match cx.hands.driver.lend() {
            Ok(outbox) => outbox,
            Err(error) => return Err((open, error)),
        };
        let was_proven = cx.pool.manner(address).is_proven();
        let keeping = match client.body_is_certain() {
            true => cx.pool.keeping(&open, cx.hands.now),
            false => Keeping::Not,
        };
        let request_timeout = cx.timeouts_of(client.class).request;
        let head = client.reader.head();
        let stamp = stamp(&cx.fastcgi().queue_time, client.began, cx.hands.now);
        outbox.write(|out| head.write(keeping != Keeping::Not, &client.without, &stamp, out));
        // The body of a request that is sent again.
        outbox.extend(client.replay.kept());
        if client.request == Request::Whole && keeping == Keeping::FenceWithRequest {
            outbox.extend(&FENCE);
        }
        Ok(Self {
            open,
            keeping,
            after: match keeping {
                Keeping::Not => After::Close,
                Keeping::FenceAfterAnswer | Keeping::FenceWithRequest => After::Keep,
            },
            early_fences: 0,
            outbox: Some(outbox),
            sending: Sending::Idle,
            sent: 0,
            unwritten: 0,
            receiving: true,
            taken_in_a_row: 0,
            upload: None,
            lead: None,
            download: None,
            response: ResponseReader::new(head.request_id()),
            answer: Answer::Running,
            was_proven,
            by: request_timeout.map(|timeout| cx.hands.now + timeout),
        })
    }

    // --- the answer ---------------------------------------------------------------------------

    /// The server's read lane is free again.
    pub(super) fn server_read(
        &mut self,
        done: Done,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Became {
        self.receiving = false;
        match done {
            Done::Received(buf) => self.answer_came(buf, client, cx),
            Done::Ready => self.splice_answer(false, client, cx),
            Done::Eof => Became::Lost(Lost::End),
            Done::Failed(errno) => Became::Lost(Lost::Failed(errno)),
            done => unreachable!("a receive ends with {done:?}"),
        }
    }

    /// The client's write lane is free again.
    pub(super) fn client_written(
        &mut self,
        writing: Writing,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Became {
        let is_running = matches!(self.answer, Answer::Running);
        match writing {
            Writing::Part { full: true } if self.answer_may_be_spliced() => {
                self.splice_answer(true, client, cx)
            }
            Writing::Part { full: true } => self.receive_more(client, cx),
            Writing::Part { full: false } => {
                self.receive_answer(&mut cx.hands.driver);
                Became::Going
            }
            Writing::Waiting if is_running => self.splice_answer(false, client, cx),
            Writing::Waiting => match client.flush(&mut self.download, cx) {
                Ok(()) => Became::Going,
                Err(errno) => Became::End(Ending::ClientReset(errno)),
            },
            // The last of the request is still on its way to the server, which has answered before it.
            Writing::Last => Became::Going,
            Writing::Farewell | Writing::Idle => unreachable!("an answer was sent"),
        }
    }

    /// Most likely, more of a large answer is there: it is taken without a turn of its own.
    fn receive_more(&mut self, client: &mut ClientSide, cx: &mut Context<'_, D>) -> Became {
        if self.receiving || matches!(self.answer, Answer::Ended(_)) {
            return Became::Going;
        }
        // Others have their turn as they do beside a raw flow.
        if self.taken_in_a_row < SPLICE_BUDGET_BYTES {
            // What waits in a pipe is to get no more than fits behind it.
            let received = match self.download {
                None => cx.hands.driver.receive_much_now(self.open.sock),
                Some(_) => cx.hands.driver.receive_now(self.open.sock),
            };
            match received {
                Ok(Some(buf)) => {
                    self.taken_in_a_row += buf.len();
                    return self.answer_came(buf, client, cx);
                }
                Ok(None) => {}
                Err(errno) => return Became::Lost(Lost::Failed(errno)),
            }
        }
        self.taken_in_a_row = 0;
        cx.hands.driver.acknowledge(self.open.sock);
        self.receive_answer(&mut cx.hands.driver);
        Became::Going
    }

    /// Waits for more of an answer, all of which that came was acknowledged: a server that leaves Nagle's
    /// algorithm on, as PHP-FPM does, holds its next small write back until then, and the kernel would
    /// take 40 ms for it on a connection that has sent a request a moment ago.
    fn receive_answer(&mut self, driver: &mut D) {
        if !self.receiving && matches!(self.answer, Answer::Running) {
            driver.submit(self.open.sock, Op::Recv);
            self.receiving = true;
        }
    }

    /// A part of the answer came. The client gets it as it is.
    fn answer_came(
        &mut self,
        mut buf: Buf,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Became {
        if self.response.is_untouched() {
            self.succeed(cx);
        }
        let (part, lost) = self.read_part(&mut buf, &mut cx.hands.driver);
        self.early_fences += part.fences;
        if part.taints {
            self.after = After::Close;
        }
        let has_ended = part.settling.is_some();
        if let Some(settling) = part.settling {
            self.answer = Answer::Ended(settling);
        }
        client.tally.answer_came(&self.response, cx.hands.now);
        if part.nonsense.is_some() || lost.is_some() {
            cx.pool.broke_off(self.open.lease.address());
        }
        let (passes, has_begun) = (part.passes, self.response.has_begun());
        match (part.nonsense, lost) {
            (Some(nonsense), _) if passes.is_empty() && !has_begun => {
                return Became::Unanswered(Ending::BadResponse(nonsense));
            }
            (None, Some(errno)) if passes.is_empty() => return Became::Lost(Lost::Failed(errno)),
            (None, None) => {}
            // What came before it is an answer as far as it goes.
            (nonsense, lost) => {
                if let Err(errno) = self.pass_on(buf, passes, has_ended, client, cx) {
                    return Became::End(Ending::ClientReset(errno));
                }
                let lost = Ending::BackendReset(lost.unwrap_or(Errno(libc::ECONNRESET)));
                return Became::BrokenOff(nonsense.map_or(lost, Ending::BadResponse));
            }
        }
        if bulk::is_about_to_come(&self.response) && buf.len() <= LEAD_BYTES_MAX {
            if !passes.is_empty() {
                passes.apply(&mut buf);
                assert!(self.lead.is_none(), "what a lead waits for came");
                self.lead = Some(buf);
            }
            return self.splice_answer(true, client, cx);
        }
        if let Err(errno) = self.pass_on(buf, passes, has_ended, client, cx) {
            return Became::End(Ending::ClientReset(errno));
        }
        if has_ended {
            return self.look_at_end();
        }
        if client.writing == Writing::Idle {
            self.receive_answer(&mut cx.hands.driver);
        }
        Became::Going
    }

    /// Reads what a buffer has, and with it what the server, which leaves Nagle's algorithm on, has sent by the
    /// time that this was acknowledged: the client is woken once for both. The error is that of the connection,
    /// behind what came.
    fn read_part(&mut self, buf: &mut Buf, driver: &mut D) -> (AnswerPart, Option<Errno>) {
        let before = self.response.clone();
        let part = AnswerPart::read(&mut self.response, buf);
        // Behind a full buffer there is most likely more, and then the kernel acknowledges by itself.
        if !part.is_unfinished() || (buf.is_full() && !part.passes.is_empty()) {
            return (part, None);
        }
        let server = self.open.sock;
        driver.acknowledge(server);
        if bulk::is_about_to_come(&self.response) {
            return (part, None);
        }
        let at_hand = driver.at_hand(server);
        if at_hand == 0 || at_hand + buf.len() > BUFFER_BYTES {
            return (part, None);
        }
        match driver.receive_now(server) {
            Ok(None) => (part, None),
            Err(errno) => (part, Some(errno)),
            Ok(Some(more)) => {
                buf.extend(&more);
                self.taken_in_a_row += more.len();
                self.response = before;
                let part = AnswerPart::read(&mut self.response, buf);
                if part.is_unfinished() {
                    driver.acknowledge(server);
                }
                (part, None)
            }
        }
    }

    /// Sends the client what is for it in a buffer of the server's. It is on its way then, or a wait for room
    /// is, unless there was nothing or it has gone already.
    fn pass_on(
        &mut self,
        mut buf: Buf,
        passes: Passes,
        is_end: bool,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Result<(), Errno> {
        let full = buf.is_full();
        passes.apply(&mut buf);
        if let Some(held) = &mut self.download {
            assert!(
                self.lead.is_none(),
                "it went out before the pipe was filled"
            );
            held.append(&mut cx.hands.driver, &buf);
            return client.flush(&mut self.download, cx);
        }
        if let Some(lead) = self.lead.take() {
            buf.prepend(&lead);
        }
        if !buf.is_empty() {
            let what = match is_end {
                true => Writing::Last,
                false => Writing::Part { full },
            };
            client.send(buf, what, cx);
        }
        Ok(())
    }

    /// Whether a full buffer has gone to the client and what comes next may go without being read.
    fn answer_may_be_spliced(&self) -> bool {
        !self.receiving
            && matches!(self.answer, Answer::Running)
            && bulk::is_worth_it(&self.response)
    }

    /// Lets the content of large records pass. `first`: they were received until now.
    fn splice_answer(
        &mut self,
        first: bool,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Became {
        let (server, counters) = (self.open.sock, &cx.counters.to_client);
        let (held, records) = (&mut self.download, &mut self.response);
        let lead = &mut self.lead;
        let pumped = bulk::pump(
            lead,
            held,
            &mut cx.hands.driver,
            server,
            client.sock,
            records,
            counters,
        );
        pumped.count(first, counters);
        client.tally.answer_came(&self.response, cx.hands.now);
        self.taken_in_a_row += pumped.taken;
        client.answer_lag.moved(
            pumped.given as u64,
            cx.hands.now,
            cx.policy.timeouts.min_rate,
        );
        match pumped.then {
            Resume::Receive => return self.receive_more(client, cx),
            Resume::SourceReadable => {
                cx.hands.driver.acknowledge(server);
                cx.hands.driver.submit(server, Op::Readable);
                self.receiving = true;
                self.taken_in_a_row = 0;
            }
            Resume::SinkWritable => client.wait_for_room(cx),
            Resume::SourceFailed(errno) => return Became::Lost(Lost::Failed(errno)),
            Resume::SinkFailed(errno) => return Became::End(Ending::ClientReset(errno)),
        }
        Became::Going
    }

    // --- the end ------------------------------------------------------------------------------
    //
    // | by | when | the connection | the client |
    // |---|---|---|---|
    // | `finish` | the answer is complete | is kept, or closed | gets the rest of the answer |
    // | `close_lost` | the server ended it before an answer | is closed | waits for another try, or gets nothing |
    // | `break_off` | nothing more comes of an answer that has begun | is reset | gets what came, and the sign |
    // | `reject` | what comes is no answer | is reset | gets nothing, or our own answer |
    // | `abandon` | the client has left, the request is whole | waits for the server | is gone |
    // | `close` | the session ends in the midst of it | is reset | is closed |

    /// Whether it is over, after one of the two directions has ended. Only the last send is waited for: with it the
    /// request is whole, and the connection can be kept.
    pub(super) fn look_at_end(&self) -> Became {
        match self.answer {
            Answer::Ended(_) if self.sending != Sending::Last => Became::Over,
            Answer::Ended(_) | Answer::Running => Became::Going,
        }
    }

    /// The request is [`Became::Over`]: the connection is for others, or closed. Returns what the client has no
    /// room for yet.
    pub(super) fn finish(
        mut self,
        request: Request,
        cx: &mut Context<'_, D>,
    ) -> Option<Held<D::Pipe>> {
        let Answer::Ended(settling) = self.answer else {
            unreachable!("the answer is complete")
        };
        let download = self.download.take();
        let is_kept = self.sending == Sending::Done
            && request == Request::Whole
            && self.after == After::Keep
            && !cx.draining
            && cx.is_current(&self.open.lease);
        if is_kept {
            self.settle(settling, cx);
        } else {
            // END_REQUEST before the end of the request: the rest of it would be read as the next one. Or
            // the endpoint has left the set meanwhile.
            self.open.close(Close::Graceful, cx.hands);
        }
        download
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
            _ => return self.disappoint(cx),
        };
        let mut sent = self.sent;
        match (is_asked, has_answered) {
            (true, false) if settling.state() == Settled::NotYet => {
                // Without TCP_NODELAY on its side, its answer to the fence waits for this.
                cx.hands.driver.acknowledge(sock);
            }
            (true, false) => {}
            (true, true) | (false, _) => {
                if has_answered {
                    cx.pool.answered_early(address);
                }
                // Where it has ended, a receive tells.
                if !settling.is_untouched() || cx.hands.driver.send_now(sock, &FENCE).is_err() {
                    return self.disappoint(cx);
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
    fn disappoint(self, cx: &mut Context<'_, D>) {
        let address = self.open.lease.address();
        cx.pool.disappointed(address, Failing::Ended, cx.hands.now);
        self.open.close(Close::Graceful, cx.hands);
    }

    /// Closes a connection that is [`Became::Lost`] before the answer has begun. Returns whether the request may be
    /// given to another one.
    pub(super) fn close_lost(
        self,
        lost: Lost,
        client: &ClientSide,
        cx: &mut Context<'_, D>,
    ) -> bool {
        let (was_reused, has_rested) = (self.open.is_reused(), self.open.has_rested());
        let address = self.open.lease.address();
        let may_be_repeated =
            has_rested && client.replay != Replay::Spent && self.response.is_untouched() && {
                // A server that is not known to keep connections: its end is most likely that of the request
                // before.
                let is_expected =
                    was_reused && !self.was_proven && !cx.pool.manner(address).is_proven();
                (is_expected && client.method_is_repeatable())
                    || self.was_never_read(lost, &mut cx.hands.driver)
            };
        if has_rested {
            cx.pool.disappointed(address, Failing::Ended, cx.hands.now);
        } else {
            // It took the request and gave nothing back.
            cx.published.failed(self.open.lease.health(), cx.hands.now);
        }
        self.open.close(Close::Graceful, cx.hands);
        may_be_repeated
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

    /// No more comes of the answer. Closes the connection, unless the server is waited for. What came of the answer and
    /// has not gone to the client yet is put on its way, or returned in a pipe, if the client is to be told of the break
    /// at all.
    pub(super) fn break_off(
        self,
        client: &mut ClientSide,
        left: Left,
        cx: &mut Context<'_, D>,
    ) -> Option<Option<Held<D::Pipe>>> {
        let is_to_be_told = self.break_is_to_be_told();
        // Where a pipe is filled, it is at work on the answer, and hears of a reset.
        if left == Left::AtWork && self.download.is_none() && self.is_at_work(cx) {
            cx.abandon_request(self.open, self.receiving);
        } else {
            self.open.close(Close::Reset, cx.hands);
        }
        if !is_to_be_told {
            return None;
        }
        let mut held = self.download;
        match (self.lead, &mut held) {
            (Some(lead), Some(held)) => held.append(&mut cx.hands.driver, &lead),
            (Some(lead), None) => client.send(lead, Writing::Part { full: false }, cx),
            (None, _) => {}
        }
        Some(held)
    }

    /// The server has had its time, and nothing of an answer has come.
    pub(super) fn time_out(self, cx: &mut Context<'_, D>) {
        match self.is_at_work(cx) {
            true => self.abandon(cx),
            false => self.reject(cx),
        }
    }

    /// What the server sends is no answer.
    pub(super) fn reject(self, cx: &mut Context<'_, D>) {
        self.open.close(Close::Reset, cx.hands);
    }

    /// Whether the server may be at work on the request although its client has left, and other requests would
    /// wait for it.
    pub(super) fn is_at_work(&self, cx: &mut Context<'_, D>) -> bool {
        self.sending == Sending::Done
            && matches!(self.answer, Answer::Running)
            && cx.balancer.is_limited()
            && !cx.draining
            && cx.is_current(&self.open.lease)
    }

    /// The client has left, and the server [`Serving::is_at_work`].
    pub(super) fn abandon(self, cx: &mut Context<'_, D>) {
        cx.abandon_request(self.open, self.receiving);
    }

    /// In the midst of the request: the server learns that nobody waits for it. Returns its socket if the driver
    /// has yet to join it.
    pub(super) fn close(self, client: &ClientSide, hands: &mut Hands<D>) -> Option<Sock> {
        if self.break_is_to_be_told() && client.writing == Writing::Idle {
            // Where there is no time to wait, it is told if it has room now.
            let lead = self.lead.as_deref().unwrap_or_default();
            let _ = hands
                .driver
                .send_now(client.sock, &[lead, &BROKEN_OFF].concat());
        }
        self.open.close(Close::Reset, hands)
    }

    /// Whether the client is between two records.
    pub(super) fn is_between_records(&self) -> bool {
        self.response.is_between_records() && self.download.is_none()
    }

    /// When its request has taken as long as it may, if its answer is not complete.
    pub(super) fn out_of_time_at(&self) -> Option<Instant> {
        self.by.filter(|_| matches!(self.answer, Answer::Running))
    }

    /// Whether the answer has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.response.has_begun()
    }

    /// Whether the client has the headers of an answer that is not complete. One that has less takes the
    /// end of the connection for a failure, and so does nginx, which then goes to its next server, as it
    /// would not if it were told more.
    fn break_is_to_be_told(&self) -> bool {
        let is_complete = matches!(self.answer, Answer::Ended(_));
        self.response.has_headers() && !is_complete
    }

    /// The server has begun to answer.
    fn succeed(&self, cx: &mut Context<'_, D>) {
        let lease = &self.open.lease;
        // The next new connection to the endpoint may be opened.
        cx.changes.room |= lease.answered(cx.hands.now);
        if self.open.is_reused() {
            cx.pool.served_again(lease.address());
        }
        if lease.was_ejected() {
            cx.published.restored(lease.health(), cx.hands.now);
        } else {
            cx.published.succeeded(lease.health());
        }
    }
}
