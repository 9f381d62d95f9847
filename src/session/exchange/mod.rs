//! The FastCGI session: a client's requests, one after another, each on a connection of its own choice.
//!
//! ```text
//!         head complete           connection open          END_REQUEST             all taken
//!   Head ---------------> Search -----------------> Serve ------------> Deliver ----------> Head, if the client
//!    |                     |  ^                      |  |                  |                keeps its connection
//!    | guard says no       |  +----------------------+  |                  | else
//!    |          no server  |    sent again              |                  |
//!    +---------------------+----------------------------+                  +--> the end, or Farewell
//!    v                                                  |
//!   Farewell                                            +--> Breaking
//! ```
//!
//! - Farewell: the client has its answer, or is given one of our own; whatever it still sends is read and thrown away,
//!   and then it is the end. Where there is no answer to give, it is the end at once.
//! - Breaking: what came of the answer, then the sign that it broke off, then the end.
//! - The *fence* is a management record behind a request. Its answer tells that the server has read all that was
//!   in front of it, and waits for a request.
//!
//! - What a server gets is the head as we write it, and then the client's own records.
//! - What a client gets is the content of the server's own records, up to END_REQUEST, and whole records at
//!   any moment.
//! - A connection goes back to the pool only from a request that was sent whole, answered whole and
//!   followed by the fence; from everything else it is closed.
//! - A request is sent a second time at most, on a new connection, and only if its first connection was a kept one that
//!   ended before anything of an answer; and if nothing of the request can have been read there (after a reset nobody
//!   knows), or if it is a GET or HEAD and the server is not known to keep connections. Its body is sent again from a
//!   copy: a longer one than [`REPLAY_BYTES_MAX`](client::REPLAY_BYTES_MAX) is not.
//! - A request that fails before the headers of its answer ends without a further byte, so that the web
//!   server's own failover works; later it ends in what every web server takes for a failure
//!   ([`BROKEN_OFF`](crate::fastcgi::BROKEN_OFF)): some take the mere end of a connection for the end of the answer, and keep it.

mod body;
mod client;
mod farewell;
mod leaving;
mod part;
mod search;
mod serving;
mod stamp;
mod time;
mod view;

use std::mem;

use crate::config::OnFailure;
use crate::counters::Outcome;
use crate::driver::{Buf, Close, Closed, Done, Driver, Lane, Op, Sock};
use crate::fastcgi::{Answer as Synthesised, ClientEnd, RetryAfter, Verdict};

use super::bulk::Held;
use super::connect::{Connecting, SearchStep};
use super::lag::Lag;
use super::pool::Open;
use super::tally::Telling;
use super::{Context, End, Ending, FastcgiOptions, Hands, LetsGo, Owner, Step, Wish};
use crate::sys::Errno;
use client::{ClientSide, HeadRead, Reading, Writing};
use farewell::{Breaking, Farewell};
use search::{Search, Sought};
use serving::{Became, Left, Lost, Serving};

#[cfg(any(test, fuzzing))]
pub(crate) use client::REPLAY_BYTES_MAX;

/// A client and what becomes of its requests. Only what stands in this file changes the stage.
pub struct Exchange<D: Driver> {
    client: ClientSide,
    stage: Stage<D>,
}

#[allow(
    clippy::large_enum_variant,
    reason = "each request is served, and a box would be an allocation for each"
)]
enum Stage<D: Driver> {
    /// A head is to come, or the rest of it.
    Head,
    /// Its request waits for a connection.
    Search(Search),
    Serve(Serving<D>),
    /// The server is done with it; the end of the answer is on its way to the client.
    Deliver {
        held: Option<Held<D::Pipe>>,
    },
    Farewell(Farewell),
    Breaking(Breaking<D::Pipe>),
    /// What searched for the request, or served it, is gone. Another stage follows in the same step, unless that ends
    /// the session.
    Gone,
}

impl<D: Driver> Exchange<D> {
    /// Starts to serve a client, of which another process has read `read`: that is as if it had just come.
    pub fn start(client: Sock, read: &[u8], cx: &mut Context<'_, D>) -> (Self, Step) {
        cx.hands
            .owners
            .assign(client, Owner::Session(cx.id, End::Client));
        let mut exchange = Self {
            client: ClientSide::new(client, cx),
            stage: Stage::Head,
        };
        exchange.client.expect_head(cx);
        if !read.is_empty() {
            let step = match cx.hands.driver.lend() {
                Ok(mut buf) => {
                    buf.extend(read);
                    exchange.received(buf, cx)
                }
                Err(error) => Step::End(error.into()),
            };
            return (exchange, step);
        }
        // Most clients have sent their request by now.
        let step = match cx.hands.driver.receive_now(client) {
            Ok(Some(buf)) => exchange.received(buf, cx),
            Ok(None) => {
                exchange.client.read_on(&mut cx.hands.driver);
                Step::Continue
            }
            Err(errno) => Step::End(Ending::ClientReset(errno)),
        };
        (exchange, step)
    }

    /// Its route goes by other rules. Whether the next request does, because it has not begun.
    pub fn follow(&mut self, options: &FastcgiOptions) -> bool {
        let is_between = matches!(self.stage, Stage::Head) && self.client.reader.is_between();
        if is_between {
            self.client.reader.go_by(options.limits);
        }
        is_between
    }

    /// Asks who the client is, if nobody has.
    pub fn meet_client(&mut self, cx: &mut Context<'_, D>) {
        let ClientSide { sock, tally, .. } = &mut self.client;
        tally.meet(|| cx.hands.driver.peer_credentials(*sock));
    }

    /// Reads the next request by the rules that it goes by now.
    pub fn go_on(&mut self, cx: &mut Context<'_, D>) -> Step {
        assert!(
            matches!(self.stage, Stage::Head),
            "only between two requests the rules change"
        );
        if self.client.head_by.take().is_some() {
            self.client.expect_head(cx);
        }
        self.advance(cx)
    }

    /// What its request waits for, if that is a place at an endpoint.
    pub fn wish(&self) -> Option<Wish> {
        match &self.stage {
            Stage::Search(search) => search.0.wish(self.client.requests),
            _ => None,
        }
    }

    /// The client's socket.
    pub fn client(&self) -> Sock {
        self.client.sock
    }

    // --- events -------------------------------------------------------------------------------

    /// An op of one of the session's sockets ended.
    pub fn complete(&mut self, end: End, lane: Lane, done: Done, cx: &mut Context<'_, D>) -> Step {
        self.client.activity.seen(cx.hands.now);
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
            (End::Backend, Lane::Write) => self.with_server(cx, |serving, client, cx| {
                serving.server_written(done, client, cx)
            }),
            (End::Backend, Lane::Read) => self.with_server(cx, |serving, client, cx| {
                serving.server_read(done, client, cx)
            }),
            (End::Rival, _) => unreachable!("who wins a race is the backend from then on"),
        }
    }

    /// The address set changed.
    pub fn addresses_changed(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.search_on(cx, |connecting, cx| connecting.addresses_changed(true, cx))
    }

    /// Endpoints get nothing new for a while.
    pub fn pause(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.search_on(cx, Connecting::hold)
    }

    /// That is over.
    pub fn resume(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.search_on(cx, |connecting, cx| connecting.resume(true, cx))
    }

    /// No endpoint takes connections, and nobody is to wait for one.
    pub fn despair(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.search_on(cx, |connecting, _| connecting.despair())
    }

    /// Lets the search act, if the request waits for a connection.
    fn search_on(
        &mut self,
        cx: &mut Context<'_, D>,
        act: impl FnOnce(&mut Connecting, &mut Context<'_, D>) -> SearchStep,
    ) -> Step {
        match self.stage {
            Stage::Search(_) => self.search(cx, act),
            Stage::Head
            | Stage::Serve(_)
            | Stage::Deliver { .. }
            | Stage::Farewell(_)
            | Stage::Breaking(_)
            | Stage::Gone => Step::Continue,
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
                let answer = Synthesised::Unavailable(RetryAfter::LEAST);
                self.farewell(answer, Ending::QueueFull, cx)
            }
            ending => self.failed(ending, cx),
        }
    }

    /// Its request has waited for too long where more is asked for than can be done.
    pub fn shed(&mut self, retry_after: RetryAfter, cx: &mut Context<'_, D>) -> Step {
        self.give_up_search(cx);
        self.farewell(Synthesised::Unavailable(retry_after), Ending::QueueShed, cx)
    }

    /// What is told of it at its end.
    pub fn tell_end(&mut self, outcome: Outcome, telling: &Telling<'_>) {
        self.client.tally.end(Some(outcome), telling);
    }

    /// The worker ends as soon as its sessions have: who keeps its connection for another request is not
    /// waited for.
    ///
    /// One that has sent no request yet may be about to: it is given a moment, until `is_last_call`.
    ///
    /// Where clients are handed over, none is ended for being at rest.
    pub fn drain(&mut self, is_last_call: bool, cx: &mut Context<'_, D>) -> Step {
        if cx.lets_go != LetsGo::None {
            return self.let_go(cx);
        }
        let is_between = self.client.reader.end() == ClientEnd::BetweenRequests;
        let may_end = is_between && (self.client.requests > 0 || is_last_call);
        match self.stage {
            // What the client has sent meanwhile is answered.
            Stage::Head if may_end && cx.hands.driver.at_hand(self.client.sock) == 0 => {
                Step::End(Ending::Complete)
            }
            _ => Step::Continue,
        }
    }
}

// --- the client ---------------------------------------------------------------------------------

impl<D: Driver> Exchange<D> {
    fn client_read(&mut self, done: Done, cx: &mut Context<'_, D>) -> Step {
        let reading = mem::replace(&mut self.client.reading, Reading::Idle);
        match (reading, done) {
            // Whether it has left or not, a receive tells.
            (Reading::Unwatching, Done::Ready | Done::Failed(_)) => {
                self.client.read_on(&mut cx.hands.driver);
                Step::Continue
            }
            (Reading::Watching | Reading::HalfClosed, Done::Ready) => self.client_left(),
            (Reading::Splicing, Done::Ready) => self.more_to_splice(cx),
            (Reading::Leaving, Done::Failed(Errno(libc::ECANCELED))) => self.rest(cx),
            // Nothing was taken of what it has sent, if it has not left.
            (Reading::Leaving, Done::Ready) if cx.lets_go == LetsGo::WithBytes => self.rest(cx),
            // It may have left as well as sent something: a receive tells.
            (Reading::Leaving, Done::Ready) => {
                self.client.read_on(&mut cx.hands.driver);
                Step::Continue
            }
            (_, Done::Received(buf)) => self.received(buf, cx),
            (_, Done::Eof) => self.client_ended(cx),
            (_, Done::Failed(errno)) => Step::End(Ending::ClientReset(errno)),
            (_, done) => unreachable!("a read ends with {done:?}"),
        }
    }

    fn received(&mut self, buf: Buf, cx: &mut Context<'_, D>) -> Step {
        match &mut self.stage {
            Stage::Farewell(farewell) => {
                if !farewell.threw_away(buf.len()) {
                    return Step::End(farewell.ending);
                }
                self.client.read_on(&mut cx.hands.driver);
            }
            // Of no use to anyone. Whatever else it sends stays unread, which makes the end a reset.
            Stage::Breaking(_) => {}
            _ => {
                self.client.received(buf, cx);
                return self.advance(cx);
            }
        }
        Step::Continue
    }

    /// The client has more of a record that may go by without being read.
    fn more_to_splice(&mut self, cx: &mut Context<'_, D>) -> Step {
        match &self.stage {
            Stage::Serve(_) => self.with_server(cx, Serving::more_to_splice),
            // It is not wanted any more.
            Stage::Farewell(_) | Stage::Deliver { .. } => {
                self.client.read_on(&mut cx.hands.driver);
                Step::Continue
            }
            Stage::Breaking(_) => Step::Continue,
            Stage::Head | Stage::Search(_) => self.advance(cx),
            Stage::Gone => unreachable!("{GONE}"),
        }
    }

    /// The client sends no more. If its request is complete, it may still wait for the answer.
    fn client_ended(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.client.reading = Reading::Ended;
        match (&self.stage, self.client.reader.end()) {
            (Stage::Farewell(_), _) if self.client.writing == Writing::Farewell => Step::Continue,
            (Stage::Farewell(farewell), _) => Step::End(farewell.ending),
            // Its end of the stream may be as old as its request.
            (Stage::Breaking(_), _) => Step::Continue,
            (Stage::Head, ClientEnd::BetweenRequests) => Step::End(Ending::Complete),
            (Stage::Deliver { .. }, _) => Step::Continue,
            (Stage::Search(_) | Stage::Serve(_), ClientEnd::AfterRequest) => {
                if cx.hands.driver.peer_is_gone(self.client.sock) {
                    return self.client_left();
                }
                cx.hands.driver.submit(self.client.sock, Op::Hangup);
                self.client.reading = Reading::HalfClosed;
                Step::Continue
            }
            _ => self.client_left(),
        }
    }

    fn client_left(&self) -> Step {
        Step::End(match &self.stage {
            Stage::Head | Stage::Search(_) => Ending::ClientLeft,
            Stage::Serve(_) | Stage::Deliver { .. } => Ending::ClientClosed,
            Stage::Farewell(farewell) => farewell.ending,
            Stage::Breaking(breaking) => breaking.ending,
            Stage::Gone => unreachable!("{GONE}"),
        })
    }

    fn client_written(&mut self, done: Done, cx: &mut Context<'_, D>) -> Step {
        let writing = mem::replace(&mut self.client.writing, Writing::Idle);
        if let Done::Failed(errno) = done {
            return Step::End(Ending::ClientReset(errno));
        }
        if writing != Writing::Waiting {
            self.client.sent(cx);
            let is_between_records = match &self.stage {
                Stage::Serve(serving) => serving.is_between_records(),
                Stage::Deliver { .. } => true,
                _ => false,
            };
            if let Err(ending) = self.client.send_replies(is_between_records, cx) {
                return Step::End(ending);
            }
        }
        match &mut self.stage {
            Stage::Serve(_) => self.with_server(cx, |serving, client, cx| {
                serving.client_written(writing, client, cx)
            }),
            Stage::Deliver { held } => match self.client.flush(held, cx) {
                Err(errno) => Step::End(Ending::ClientReset(errno)),
                Ok(()) if self.client.writing == Writing::Waiting => Step::Continue,
                Ok(()) => self.answered(cx),
            },
            Stage::Breaking(breaking) => breaking.tell(&mut self.client, cx),
            Stage::Farewell(farewell) if self.client.reading == Reading::Ended => {
                Step::End(farewell.ending)
            }
            Stage::Farewell(_) => {
                cx.hands.driver.shutdown_write(self.client.sock);
                self.client.read_on(&mut cx.hands.driver);
                Step::Continue
            }
            Stage::Head | Stage::Search(_) | Stage::Gone => {
                unreachable!("nothing is sent before an answer has begun")
            }
        }
    }

    // --- requests -----------------------------------------------------------------------------

    /// Reads what the client has sent, as far as it can be used now.
    fn advance(&mut self, cx: &mut Context<'_, D>) -> Step {
        match &self.stage {
            Stage::Head => self.read_head(cx),
            Stage::Serve(_) => self.with_server(cx, Serving::read_body),
            Stage::Search(_)
            | Stage::Deliver { .. }
            | Stage::Farewell(_)
            | Stage::Breaking(_)
            | Stage::Gone => Step::Continue,
        }
    }

    fn read_head(&mut self, cx: &mut Context<'_, D>) -> Step {
        if cx.lets_go == LetsGo::WithBytes {
            // Whoever goes on with it reads what there is.
            let step = self.let_go(cx);
            if step != Step::Continue || self.client.reading == Reading::Leaving {
                return step;
            }
        }
        match self.client.read_head(cx) {
            HeadRead::Complete => self.head_complete(cx),
            HeadRead::Incomplete if self.client.reading == Reading::Ended => self.client_ended(cx),
            HeadRead::Incomplete => self.rest(cx),
            HeadRead::End(ending) => Step::End(ending),
            HeadRead::Bad(ending) => match ending.answer() {
                None => Step::End(ending),
                // What there is of it tells what was asked for.
                Some(answer) => {
                    self.client.begin_request(cx);
                    self.farewell(answer, ending, cx)
                }
            },
        }
    }

    /// Waits for the next request, or for more of it. Where clients are handed over, one that may leaves.
    fn rest(&mut self, cx: &mut Context<'_, D>) -> Step {
        if cx.lets_go != LetsGo::None
            && let leaves @ Step::End(_) = self.let_go(cx)
        {
            return leaves;
        }
        self.client.read_on(&mut cx.hands.driver);
        Step::Continue
    }

    fn head_complete(&mut self, cx: &mut Context<'_, D>) -> Step {
        let client = &mut self.client;
        client.begin_request(cx);
        match client.judge(cx) {
            Verdict::Pass => {}
            Verdict::PassWithout(cut) => {
                cx.overridden(&cut, client.reader.head(), client.sock);
                client.without = cut.ranges;
            }
            Verdict::Reject(rejection) => {
                cx.rejected(&rejection, client.sock);
                let rule = rejection.rule;
                client.tally.rejected(rejection);
                return self.farewell(rule.answer(), Ending::Rejected(rule), cx);
            }
        }
        client.class = cx.class_of(client.reader.head());
        client
            .tally
            .is_of(client.class, cx.policy.class_name(client.class));
        client.tally.search(cx.hands.now);
        self.stage = Stage::Search(Search::new(client, cx));
        if cx.has_its_turn(self.client.class) {
            self.search(cx, |connecting, cx| connecting.search(true, cx))
        } else {
            self.search(cx, Connecting::queue_up)
        }
    }

    /// The whole answer is the client's.
    fn answered(&mut self, cx: &mut Context<'_, D>) -> Step {
        let client = &mut self.client;
        client.tally.end(None, &cx.telling());
        // What it has asked for while its answer was in a pipe could not go before.
        if let Err(ending) = client.send_replies(true, cx) {
            return Step::End(ending);
        }
        // Its next request may be here already. If not, another process has it.
        let may_go_on = !cx.draining || cx.lets_go != LetsGo::None;
        if client.reader.head().keep_conn() && may_go_on {
            client.reader.next_request();
            client.head_by = None;
            self.stage = Stage::Head;
            if cx.is_amended && client.reader.is_between() {
                // The next request is read by the new rules, once the session goes by them.
                return Step::Continue;
            }
            return self.advance(cx);
        }
        let is_read = client.reader.end() == ClientEnd::AfterRequest;
        if !is_read {
            cx.hands.driver.shutdown_write(client.sock);
            client.inbox = None;
        }
        if is_read || client.reading == Reading::Ended {
            return Step::End(Ending::Complete);
        }
        client.read_on(&mut cx.hands.driver);
        self.stage = Stage::Farewell(Farewell::new(Ending::Complete, cx.hands.now));
        Step::Continue
    }

    /// Answers for the servers. The client's connection ends with it.
    fn farewell(&mut self, answer: Synthesised, ending: Ending, cx: &mut Context<'_, D>) -> Step {
        tracing::debug!("request answered by the proxy: {ending}");
        let client = &mut self.client;
        if client.writing != Writing::Idle {
            // STDERR of the server that failed is on its way, and behind that there is no waiting with an answer.
            return Step::End(ending);
        }
        let Ok(mut buf) = cx.hands.driver.lend() else {
            // There is a reason for the end already.
            return Step::End(ending);
        };
        buf.write(|out| answer.write(client.reader.head().request_id(), out));
        client
            .tally
            .answered(answer, ending.outcome(), &cx.telling());
        client.send(buf, Writing::Farewell, cx);
        client.inbox = None;
        self.stage = Stage::Farewell(Farewell::new(ending, cx.hands.now));
        Step::Continue
    }
}

// --- the servers --------------------------------------------------------------------------------

impl<D: Driver> Exchange<D> {
    /// Lets the search act, and does what follows.
    fn search(
        &mut self,
        cx: &mut Context<'_, D>,
        act: impl FnOnce(&mut Connecting, &mut Context<'_, D>) -> SearchStep,
    ) -> Step {
        let Stage::Search(search) = &mut self.stage else {
            unreachable!("only a request that waits is told")
        };
        match search.act(&mut self.client, cx, act) {
            Sought::Waiting => Step::Continue,
            Sought::Resting(open) => self.serve(open, true, cx),
            Sought::New(open) => self.serve(open, false, cx),
            Sought::Failed(ending) => self.failed(ending, cx),
            Sought::NoPlace => {
                self.give_up_search(cx);
                let answer = Synthesised::Unavailable(RetryAfter::LEAST);
                self.farewell(answer, Ending::QueueTimeout, cx)
            }
        }
    }

    fn give_up_search(&mut self, cx: &mut Context<'_, D>) {
        match mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Search(search) => {
                search.close(cx.hands);
            }
            // The server was left already.
            Stage::Gone => {}
            _ => unreachable!("only a request that waits is given up"),
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

    /// A connection is open. `is_armed`: a receive is, on it.
    fn serve(&mut self, open: Open, is_armed: bool, cx: &mut Context<'_, D>) -> Step {
        let client = &mut self.client;
        // Until now it was not waited for.
        client.body_lag = Lag::default();
        let (address, is_reused) = (open.lease.address(), open.is_reused());
        client.tally.found(address, is_reused, &cx.telling());
        match Serving::new(open, is_armed, client, cx) {
            Ok(serving) => {
                self.stage = Stage::Serve(serving);
                self.with_server(cx, Serving::begin)
            }
            Err((open, error)) => {
                open.close(Close::Graceful, cx.hands);
                self.failed(error.into(), cx)
            }
        }
    }

    /// Lets the request and its server act, and does what follows: the only place where a [`Became`] is heeded.
    fn with_server(
        &mut self,
        cx: &mut Context<'_, D>,
        act: impl FnOnce(&mut Serving<D>, &mut ClientSide, &mut Context<'_, D>) -> Became,
    ) -> Step {
        let Stage::Serve(serving) = &mut self.stage else {
            unreachable!("only who is served has a server")
        };
        match act(serving, &mut self.client, cx) {
            Became::Going => Step::Continue,
            // It is our fault, and the client is there to be told.
            Became::End(ending @ Ending::NoBuffer(_)) => self.break_off(ending, Left::Reset, cx),
            Became::End(ending) => Step::End(ending),
            Became::Over => self.over(cx),
            Became::Lost(lost) => self.lost(lost, cx),
            Became::BrokenOff(ending) => self.break_off(ending, Left::Reset, cx),
            Became::Unanswered(ending) => {
                self.leave_server().reject(cx);
                self.failed(ending, cx)
            }
        }
    }

    /// The request is taken from its server, to be ended or to have another one.
    fn leave_server(&mut self) -> Serving<D> {
        match mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Serve(serving) => serving,
            _ => unreachable!("only who is served has a server"),
        }
    }

    /// The answer is complete. The server's connection goes to the pool or is closed, and what the client has not taken
    /// yet is delivered.
    fn over(&mut self, cx: &mut Context<'_, D>) -> Step {
        let held = self.leave_server().finish(self.client.request, cx);
        self.stage = Stage::Deliver { held };
        match self.client.writing {
            Writing::Idle => self.answered(cx),
            _ => Step::Continue,
        }
    }

    /// No more comes of an answer that has begun, or may have.
    fn break_off(&mut self, ending: Ending, left: Left, cx: &mut Context<'_, D>) -> Step {
        let Some(held) = self.leave_server().break_off(&mut self.client, left, cx) else {
            return Step::End(ending);
        };
        self.client.inbox = None;
        self.client.activity.seen(cx.hands.now);
        let mut breaking = Breaking { held, ending };
        let step = match self.client.writing {
            Writing::Idle => breaking.tell(&mut self.client, cx),
            _ => Step::Continue,
        };
        self.stage = Stage::Breaking(breaking);
        step
    }

    /// The server's connection has ended in the midst of the request.
    fn lost(&mut self, lost: Lost, cx: &mut Context<'_, D>) -> Step {
        let ending = Ending::BackendReset(lost.errno());
        let Stage::Serve(serving) = &self.stage else {
            unreachable!("only a server's connection is lost")
        };
        if lost != Lost::End {
            cx.pool.broke_off(serving.open.lease.address());
        }
        if serving.has_begun() {
            return self.break_off(ending, Left::Reset, cx);
        }
        if !self.leave_server().close_lost(lost, &self.client, cx) {
            return self.failed(ending, cx);
        }
        self.client.tally.search(cx.hands.now);
        cx.counters.fastcgi.retries.add(1);
        self.stage = Stage::Search(Search::again(&self.client, cx));
        self.search(cx, |connecting, cx| connecting.search(true, cx))
    }

    /// The client has left. Its request, if all of it was sent, keeps its place at the endpoint for as long as
    /// the server may be at work on it: a server that is given another one meanwhile lets it wait.
    fn abandon(&mut self, cx: &mut Context<'_, D>) {
        match &self.stage {
            Stage::Serve(serving) if serving.is_at_work(cx) => self.leave_server().abandon(cx),
            _ => {}
        }
    }

    /// Closes all sockets. Returns one that the driver has yet to join, if there is one.
    pub fn close(self, hands: &mut Hands<D>) -> Option<Sock> {
        let leaving = match self.stage {
            Stage::Head
            | Stage::Deliver { .. }
            | Stage::Farewell(_)
            | Stage::Breaking(_)
            | Stage::Gone => None,
            Stage::Search(search) => search.close(hands),
            Stage::Serve(serving) => serving.close(&self.client, hands),
        };
        let closed = hands.driver.close(self.client.sock, Close::Graceful);
        leaving.or_else(|| (closed == Closed::Soon).then_some(self.client.sock))
    }
}

/// Why nobody sees [`Stage::Gone`].
const GONE: &str = "another stage has followed, or the session has ended";

#[cfg(test)]
mod tests;
