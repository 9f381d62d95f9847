//! The raw session: two flows between a client and an upstream, and the endings that both peers
//! would have seen without a proxy between them.
//!
//! - An end of stream is passed on once everything before it is; the other direction goes on.
//! - Once both directions have ended, or the client is gone, both sockets are closed in the same
//!   turn: a PHP-FPM worker stays busy until our side closes.
//! - The backend is reset only on proof that bytes are lost: the client's reset, or bytes that
//!   could not be delivered. A client that writes and closes is not an abort. What the backend
//!   sends to a client that is gone, the kernel answers with a reset of its own.
//! - A backend that is to be told who connects hears it before anything else: with the client's first
//!   bytes if they are there, else at once, because some protocols have the backend speak first.
//! - A backend that takes no more may still have an answer on its way (it is read to its end).

mod view;

use std::mem;
use std::time::{Duration, Instant};

use crate::backend::{Address, Lease};
use crate::counters::FlowCounters;
use crate::driver::{Close, Closed, Done, Driver, Lane, Op, Sock};
use crate::sys::Errno;

use super::activity::Activity;
use super::connect::{Connecting, Entry, SearchStep};
use super::flow::{Flow, Progress, Receives};
use super::{Began, Context, End, Ending, Hands, Hello, LetsGo, Owner, Step, Timeouts, Wish};

/// How long a client that sends no more, and may be gone, keeps its place when all are taken. One that has
/// closed is ended with that; one that waits for its answer has it by then, most often, and
/// systemd-socket-proxyd does not wait at all.
const HALF_CLOSED_GRACE: Duration = Duration::from_secs(2);

/// A client and what serves it.
pub struct Tunnel<D: Driver> {
    client: Sock,
    /// What the backend is told of the client.
    hello: Hello,
    began: Began,
    presence: Presence,
    watch: LeaveWatch,
    /// Whether reading from the client has begun. It has not while a client waits in the queue that was
    /// put there when it came.
    reading: bool,
    upstream: BackendSide,
    to_backend: Flow<D>,
    to_client: Flow<D>,
    activity: Activity,
}

/// Whether anything can still be delivered to the client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    /// It sends no more. TCP does not tell whether it is there.
    Unknown,
    /// It is gone, and a write to it is in flight: how that ends tells whether bytes were lost.
    Gone,
}

/// The wait for a client to leave whose bytes wait for an upstream: nothing is read meanwhile, so
/// nothing else would tell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LeaveWatch {
    Off,
    Armed,
    /// It was taken back, and is about to end.
    Ending,
    /// It was taken back, or the first receive was, because the client is to leave for another process. If there is
    /// something to be read after all, or its turn comes meanwhile, it stays.
    Leaving,
}

/// The backend's side.
enum BackendSide {
    /// There is none yet. Boxed, because an idle tunnel would be twice as large, and most are open in a moment.
    Connecting(Box<Connecting>),
    /// It is open, and is used as soon as the watch over the client has ended.
    Opening(OpenUpstream),
    /// Bytes flow.
    Open(OpenUpstream),
    /// There is none, and the session is about to end.
    None,
}

/// An open connection to an endpoint.
struct OpenUpstream {
    sock: Sock,
    lease: Lease,
    verdict: EndpointReport,
    /// The endpoint has left the set: when the session is ended for that.
    cut_at: Option<Instant>,
}

/// What the session can say of its endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EndpointReport {
    /// Nothing: it was asked for nothing.
    Unasked,
    /// It owes an answer.
    Asked,
    /// It was said.
    Given,
}

impl<D: Driver> Tunnel<D> {
    /// Starts to serve a client. `spare` is an unconnected TCP socket without options: it was opened
    /// before the client was accepted, so that no client is taken on who could not be given a
    /// descriptor.
    pub fn start(
        client: Sock,
        hello: Hello,
        spare: Sock,
        entry: Entry,
        cx: &mut Context<'_, D>,
    ) -> (Self, Step) {
        cx.hands
            .owners
            .assign(client, Owner::Session(cx.id, End::Client));
        let connecting = Connecting::new(
            hello.clone(),
            Some(spare),
            cx.hands.now,
            cx.policy.timeouts,
            entry,
        );
        let mut tunnel = Self {
            client,
            hello,
            began: cx.hands.began_now(),
            presence: Presence::Here,
            watch: LeaveWatch::Off,
            reading: false,
            upstream: BackendSide::Connecting(Box::new(connecting)),
            to_backend: Flow::new(Receives::Peeking),
            to_client: Flow::new(Receives::Taking),
            activity: Activity::new(cx.hands.now),
        };
        if entry == Entry::Queued {
            // What it has sent stays with the kernel until its turn: a long queue costs no memory.
            tunnel.watch_client(cx);
            let step = match cx.is_paused {
                true => tunnel.pause(cx),
                false => Step::Continue,
            };
            return (tunnel, step);
        }
        // Most clients have sent their request by now. With bytes at hand the connect costs less.
        if let Err(errno) =
            tunnel
                .to_backend
                .start_with_what_came(&mut cx.hands.driver, client, None)
        {
            return (tunnel, Step::End(Ending::ClientReset(errno)));
        }
        tunnel.reading = true;
        let step = tunnel.connect(cx, Connecting::search);
        (tunnel, step)
    }

    /// When [`Tunnel::expire`] is due.
    pub fn deadline(&self, timeouts: Timeouts) -> Option<Instant> {
        match &self.upstream {
            BackendSide::Connecting(connecting) => connecting.deadline(),
            BackendSide::Open(serving) => {
                let silence = self.silence_max(timeouts).map(|(silence, _)| silence);
                let silent_at = self.activity.idle_at(silence);
                silent_at.into_iter().chain(serving.cut_at).min()
            }
            BackendSide::Opening(_) | BackendSide::None => None,
        }
    }

    /// From when on the session gives its place up where it is wanted: its client may be gone.
    pub fn yields_at(&self, timeouts: Timeouts) -> Option<Instant> {
        let may_yield = self.presence == Presence::Unknown && !self.to_client.owes_bytes();
        (may_yield && timeouts.half_closed.is_some())
            .then(|| self.activity.last() + HALF_CLOSED_GRACE)
    }

    /// How long nothing may move, and what the session ends as then.
    fn silence_max(&self, timeouts: Timeouts) -> Option<(Duration, Ending)> {
        let is_half_closed = self.to_backend.is_over() || self.to_client.is_over();
        let half_closed = timeouts.half_closed.filter(|_| is_half_closed);
        let idle = timeouts.idle.map(|idle| (idle, Ending::IdleTimeout));
        let half_closed = half_closed.map(|silence| (silence, Ending::HalfClosed));
        let both = idle.into_iter().chain(half_closed);
        both.min_by_key(|(silence, _)| *silence)
    }

    /// What it waits for, if that is a place at an endpoint.
    pub fn wish(&self) -> Option<Wish> {
        match &self.upstream {
            BackendSide::Connecting(connecting) => connecting.wish(0),
            _ => None,
        }
    }

    // --- events -------------------------------------------------------------------------------

    /// Some endpoint has a place, and it is the turn of this session, which has a [`Tunnel::wish`].
    pub fn place_free(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.connect(cx, Connecting::place_free)
    }

    /// Endpoints get nothing new for a while.
    pub fn pause(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.search_on(cx, |connecting, _, cx| connecting.hold(cx))
    }

    /// That is over.
    pub fn resume(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.search_on(cx, Connecting::resume)
    }

    /// No endpoint takes connections, and nobody is to wait for one.
    pub fn despair(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.search_on(cx, |connecting, _, _| connecting.despair())
    }

    /// An op of one of the session's sockets ended.
    pub fn complete(&mut self, end: End, lane: Lane, done: Done, cx: &mut Context<'_, D>) -> Step {
        self.activity.seen(cx.hands.now);
        match (end, lane) {
            (End::Client, Lane::Read) if self.watch == LeaveWatch::Leaving => {
                self.taken_back(done, cx)
            }
            (End::Client, Lane::Read) if self.watch != LeaveWatch::Off => self.watched(done, cx),
            (End::Client, Lane::Read) if self.to_backend.is_over() => self.hung_up(done),
            (End::Client, Lane::Read) => self.client_read(done, cx),
            (End::Backend | End::Rival, Lane::Write)
                if matches!(self.upstream, BackendSide::Connecting(_)) =>
            {
                self.connect(cx, |connecting, bytes_follow, cx| {
                    connecting.connected(end, done, bytes_follow, cx)
                })
            }
            (End::Backend, Lane::Write) => {
                let sock = self.open_upstream().expect("only an open one is written");
                self.judge_write(&done, cx);
                self.to_client.source_was_sent();
                let (flow, counters) = (&mut self.to_backend, &cx.counters.to_backend);
                let progress = sink_written(
                    flow,
                    done,
                    self.client,
                    sock,
                    &mut cx.hands.driver,
                    counters,
                );
                self.after_to_backend(progress, &mut cx.hands.driver)
            }
            (End::Backend, Lane::Read) => {
                let source = self.open_upstream().expect("only an open upstream is read");
                self.judge_read(&done, cx);
                if matches!(done, Done::Received(_)) {
                    self.to_backend.take_from_now_on();
                }
                let sink = Some(self.client);
                let (flow, counters) = (&mut self.to_client, &cx.counters.to_client);
                let progress =
                    source_read(flow, done, source, sink, &mut cx.hands.driver, counters);
                self.after_to_client(progress, &mut cx.hands.driver)
            }
            (End::Rival, _) => unreachable!("who wins a race is the backend from then on"),
            (End::Client, Lane::Write)
                if self.presence == Presence::Gone && matches!(done, Done::Sent) =>
            {
                self.to_client.count_sent(&cx.counters.to_client);
                Step::End(Ending::ClientClosed)
            }
            (End::Client, Lane::Write) => {
                let source = self
                    .open_upstream()
                    .expect("what is written came from there");
                self.to_backend.source_was_sent();
                let (flow, counters) = (&mut self.to_client, &cx.counters.to_client);
                let progress = sink_written(
                    flow,
                    done,
                    source,
                    self.client,
                    &mut cx.hands.driver,
                    counters,
                );
                self.after_to_client(progress, &mut cx.hands.driver)
            }
        }
    }

    /// What the client sends, or its end.
    fn client_read(&mut self, done: Done, cx: &mut Context<'_, D>) -> Step {
        let sink = self.open_upstream();
        let (flow, counters) = (&mut self.to_backend, &cx.counters.to_backend);
        let progress = source_read(
            flow,
            done,
            self.client,
            sink,
            &mut cx.hands.driver,
            counters,
        );
        self.watch_client(cx);
        self.after_to_backend(progress, &mut cx.hands.driver)
    }

    /// The address set changed.
    pub fn addresses_changed(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.search_on(cx, Connecting::addresses_changed)
    }

    /// The endpoint of an open upstream.
    pub fn endpoint(&self) -> Option<Address> {
        match &self.upstream {
            BackendSide::Opening(serving) | BackendSide::Open(serving) => {
                Some(serving.lease.address())
            }
            BackendSide::Connecting(_) | BackendSide::None => None,
        }
    }

    /// The endpoint is in the set, or is not: then the session has a while left, unless it comes back.
    pub fn endpoint_is_current(&mut self, current: bool, cx: &mut Context<'_, D>) -> Step {
        if let BackendSide::Opening(serving) | BackendSide::Open(serving) = &mut self.upstream {
            serving.cut_at = match (current, cx.policy.timeouts.removed) {
                (false, Some(left)) => serving.cut_at.or(Some(cx.hands.now + left)),
                (true, _) | (_, None) => None,
            };
        }
        Step::Continue
    }

    /// The deadline has come.
    pub fn expire(&mut self, cx: &mut Context<'_, D>) -> Step {
        match &self.upstream {
            BackendSide::Connecting(_) => self.connect(cx, Connecting::expire),
            BackendSide::Open(serving) if serving.cut_at.is_some_and(|at| at <= cx.hands.now) => {
                Step::End(Ending::EndpointRemoved)
            }
            BackendSide::Open(serving) => self.idle(serving.sock, cx),
            BackendSide::Opening(_) | BackendSide::None => {
                unreachable!("it waits for what comes without a deadline")
            }
        }
    }

    /// Nothing completed for as long as is allowed. A session with bytes on their way ends between one and two
    /// such times after the last read.
    fn idle(&mut self, upstream: Sock, cx: &mut Context<'_, D>) -> Step {
        let (_, ending) = self
            .silence_max(cx.policy.timeouts)
            .expect("a session without such a limit has no deadline for it");
        let unread = cx.hands.driver.unread(self.client) + cx.hands.driver.unread(upstream);
        match self.activity.is_idle(unread, cx.hands.now) {
            true => Step::End(ending),
            false => Step::Continue,
        }
    }

    // --- connecting ---------------------------------------------------------------------------

    /// Lets the search for an upstream act, and does what follows.
    fn connect(
        &mut self,
        cx: &mut Context<'_, D>,
        act: impl FnOnce(&mut Connecting, bool, &mut Context<'_, D>) -> SearchStep,
    ) -> Step {
        let BackendSide::Connecting(connecting) = &mut self.upstream else {
            unreachable!("there is no upstream yet")
        };
        match act(connecting, self.to_backend.holds_bytes(), cx) {
            SearchStep::Waiting if cx.lets_go != LetsGo::None => return self.let_go(cx),
            SearchStep::Waiting => self.watch_client(cx),
            SearchStep::Open(sock, lease) => return self.found(sock, lease, cx),
            SearchStep::Failed(failure) => return Step::End(Ending::ConnectFailed(failure)),
            SearchStep::Resting(_) => unreachable!("a raw session's connection never rests"),
            SearchStep::QueueTimeout => return Step::End(Ending::QueueTimeout),
            SearchStep::BrokenOff(errno) => return Step::End(Ending::BackendReset(errno)),
        }
        Step::Continue
    }

    /// The same, if it looks for one.
    fn search_on(
        &mut self,
        cx: &mut Context<'_, D>,
        act: impl FnOnce(&mut Connecting, bool, &mut Context<'_, D>) -> SearchStep,
    ) -> Step {
        match self.upstream {
            BackendSide::Connecting(_) => self.connect(cx, act),
            BackendSide::Opening(_) | BackendSide::Open(_) | BackendSide::None => Step::Continue,
        }
    }

    /// While nothing can be connected to, a client that leaves shall not keep its place. An armed
    /// receive tells as well.
    fn watch_client(&mut self, cx: &mut Context<'_, D>) {
        if let BackendSide::Connecting(connecting) = &self.upstream
            && self.watch == LeaveWatch::Off
            && connecting.is_stalled(cx.hands.now)
            && (self.to_backend.holds_bytes() || !self.reading)
        {
            cx.hands.driver.submit(self.client, Op::Hangup);
            self.watch = LeaveWatch::Armed;
        }
    }

    /// The watch over the client has ended.
    fn watched(&mut self, done: Done, cx: &mut Context<'_, D>) -> Step {
        let watch = mem::replace(&mut self.watch, LeaveWatch::Off);
        match (watch, done) {
            // Also if the client is gone: what it sent can be delivered now.
            (LeaveWatch::Ending, _) => {
                let BackendSide::Opening(serving) =
                    mem::replace(&mut self.upstream, BackendSide::None)
                else {
                    unreachable!("the watch was taken back for an upstream")
                };
                self.opened(serving, cx)
            }
            (LeaveWatch::Leaving, _) => unreachable!("it was looked at whether the client leaves"),
            (_, Done::Ready) => Step::End(Ending::ClientLeft),
            (_, Done::Failed(errno)) => Step::End(Ending::ClientReset(errno)),
            (_, done) => unreachable!("a wait ends with {done:?}"),
        }
    }

    // --- leaving ------------------------------------------------------------------------------

    /// Clients at rest are handed over. This one leaves if it waits for a place at an endpoint, or for the end of a
    /// pause, and all that it has sent is still in its socket: another process begins with the first byte. A receive
    /// that is in flight may have taken that already, so it is taken back first, and the client stays if it did.
    pub fn let_go(&mut self, cx: &mut Context<'_, D>) -> Step {
        if !self.is_at_rest(&mut cx.hands.driver) {
            self.watch_client(cx);
            return Step::Continue;
        }
        match self.watch {
            // Neither a receive nor a wait is in flight.
            LeaveWatch::Off if !self.receives() => return Step::End(Ending::HandedOver),
            LeaveWatch::Off | LeaveWatch::Armed => {
                cx.hands.driver.cancel(self.client, Lane::Read);
                self.watch = LeaveWatch::Leaving;
            }
            LeaveWatch::Leaving => {}
            LeaveWatch::Ending => unreachable!("it has an upstream"),
        }
        Step::Continue
    }

    fn is_at_rest(&self, driver: &mut D) -> bool {
        let waits = match &self.upstream {
            BackendSide::Connecting(connecting) => connecting.waits_its_turn(),
            BackendSide::Opening(_) | BackendSide::Open(_) | BackendSide::None => false,
        };
        let held = self.to_backend.held();
        waits
            && !self.to_backend.is_over()
            && held.is_none_or(|bytes| driver.has_left(self.client, bytes))
    }

    /// Whether the next bytes of the client are waited for, unless it is watched for leaving.
    fn receives(&self) -> bool {
        self.reading && !self.to_backend.holds_bytes()
    }

    /// What was in flight when the client was to leave has ended.
    fn taken_back(&mut self, done: Done, cx: &mut Context<'_, D>) -> Step {
        self.watch = LeaveWatch::Off;
        match done {
            Done::Failed(Errno(libc::ECANCELED)) if self.is_at_rest(&mut cx.hands.driver) => {
                Step::End(Ending::HandedOver)
            }
            // Its turn came meanwhile.
            Done::Failed(Errno(libc::ECANCELED)) if self.receives() => {
                self.to_backend.start(&mut cx.hands.driver, self.client);
                Step::Continue
            }
            Done::Failed(Errno(libc::ECANCELED)) => {
                self.watch_client(cx);
                Step::Continue
            }
            done if self.receives() => self.client_read(done, cx),
            Done::Ready => Step::End(Ending::ClientLeft),
            Done::Failed(errno) => Step::End(Ending::ClientReset(errno)),
            done => unreachable!("a wait ends with {done:?}"),
        }
    }

    /// Closes whatever it has but the client's socket, and returns that.
    pub fn leave(self, hands: &mut Hands<D>) -> Sock {
        assert!(
            self.is_at_rest(&mut hands.driver) && self.watch == LeaveWatch::Off,
            "only a client at rest leaves"
        );
        let BackendSide::Connecting(connecting) = self.upstream else {
            unreachable!("a client at rest has no upstream")
        };
        let leaving = connecting.close(hands);
        assert!(
            leaving.is_none(),
            "who waits for its turn connects to nothing"
        );
        self.client
    }

    fn found(&mut self, sock: Sock, lease: Lease, cx: &mut Context<'_, D>) -> Step {
        let serving = OpenUpstream {
            sock,
            cut_at: cut_if_removed(&lease, cx),
            lease,
            verdict: EndpointReport::Unasked,
        };
        match self.watch {
            LeaveWatch::Off => return self.opened(serving, cx),
            // What was taken back is about to end. A receive goes on then.
            LeaveWatch::Leaving if self.receives() => return self.opened(serving, cx),
            LeaveWatch::Leaving => {}
            LeaveWatch::Armed => cx.hands.driver.cancel(self.client, Lane::Read),
            LeaveWatch::Ending => unreachable!("an upstream is found once"),
        }
        self.watch = LeaveWatch::Ending;
        self.upstream = BackendSide::Opening(serving);
        Step::Continue
    }

    /// The upstream is used from now on, and the client is read from if it was not so far.
    fn opened(&mut self, serving: OpenUpstream, cx: &mut Context<'_, D>) -> Step {
        let sock = serving.sock;
        self.upstream = BackendSide::Open(serving);
        self.to_client.start(&mut cx.hands.driver, sock);
        // Where nothing is held, the search for an upstream has sent it.
        if let Some(introduction) = self.hello.bytes() {
            self.to_backend.prepend(introduction);
        }
        self.to_backend.sink_opened(&mut cx.hands.driver, sock);
        if mem::replace(&mut self.reading, true) {
            return Step::Continue;
        }
        let flow = &mut self.to_backend;
        match flow.start_with_what_came(&mut cx.hands.driver, self.client, Some(sock)) {
            Ok(()) => Step::Continue,
            Err(errno) => Step::End(Ending::ClientReset(errno)),
        }
    }

    fn open_upstream(&self) -> Option<Sock> {
        match &self.upstream {
            BackendSide::Open(serving) => Some(serving.sock),
            BackendSide::Connecting(_) | BackendSide::Opening(_) | BackendSide::None => None,
        }
    }

    // --- how the endpoint fares ---------------------------------------------------------------

    /// A write to the backend ended.
    fn judge_write(&mut self, done: &Done, cx: &Context<'_, D>) {
        let BackendSide::Open(serving) = &mut self.upstream else {
            return;
        };
        match done {
            Done::Sent if serving.verdict == EndpointReport::Unasked => {
                serving.verdict = EndpointReport::Asked
            }
            Done::Failed(_) => serving.fail(cx),
            _ => {}
        }
    }

    /// A read of the backend ended. Bytes are an answer. An end without a byte is none, unless the
    /// client had ended before: then it may be all that was wanted.
    fn judge_read(&mut self, done: &Done, cx: &Context<'_, D>) {
        let BackendSide::Open(serving) = &mut self.upstream else {
            return;
        };
        match (done, serving.verdict) {
            (_, EndpointReport::Given) => {}
            (Done::Received(_), _) => serving.succeed(cx),
            (Done::Eof, EndpointReport::Asked) if self.to_backend.is_over() => serving.succeed(cx),
            (Done::Eof | Done::Failed(_), EndpointReport::Asked) => serving.fail(cx),
            _ => {}
        }
    }

    // --- endings ------------------------------------------------------------------------------

    fn after_to_backend(&mut self, progress: Progress, driver: &mut D) -> Step {
        match progress {
            Progress::Going => Step::Continue,
            Progress::Ended => {
                if self.to_client.is_over() {
                    return self.over();
                }
                if driver.peer_is_gone(self.client) {
                    return self.client_gone();
                }
                if let Some(sock) = self.open_upstream() {
                    driver.shutdown_write(sock);
                }
                driver.submit(self.client, Op::Hangup);
                if driver.peer_credentials(self.client).is_none() {
                    self.presence = Presence::Unknown;
                }
                Step::Continue
            }
            Progress::SourceFailed(errno) => Step::End(Ending::ClientReset(errno)),
            // The backend knows nothing of it, and would wait for what is missing.
            Progress::SinkFailed(errno) if !errno.is_of_the_connection() => {
                Step::End(Ending::BackendReset(errno))
            }
            Progress::SinkFailed(errno) => {
                self.to_backend.break_off(errno);
                if self.to_client.is_over() {
                    return self.over();
                }
                Step::Continue
            }
        }
    }

    /// Nothing can be delivered any more. Whether something was lost, the end of a write in flight
    /// tells: it may have gone through before the client left.
    fn client_gone(&mut self) -> Step {
        if self.to_client.owes_bytes() {
            self.presence = Presence::Gone;
            return Step::Continue;
        }
        Step::End(Ending::ClientClosed)
    }

    /// The client had half-closed, and the wait for it to leave has ended.
    fn hung_up(&mut self, done: Done) -> Step {
        match done {
            Done::Ready => self.client_gone(),
            Done::Failed(errno) => Step::End(Ending::ClientReset(errno)),
            done => unreachable!("a wait ends with {done:?}"),
        }
    }

    fn after_to_client(&mut self, progress: Progress, driver: &mut D) -> Step {
        match progress {
            Progress::Going => Step::Continue,
            Progress::Ended => {
                if self.to_backend.is_over() {
                    return self.over();
                }
                driver.shutdown_write(self.client);
                Step::Continue
            }
            Progress::SourceFailed(errno) => Step::End(Ending::BackendReset(errno)),
            // Bytes of the backend that cannot be delivered.
            Progress::SinkFailed(errno) => Step::End(Ending::ClientReset(errno)),
        }
    }

    /// Both directions are. The last end of stream is told by closing.
    fn over(&self) -> Step {
        Step::End(match self.to_backend.broken() {
            None => Ending::Complete,
            Some(errno) => Ending::BackendReset(errno),
        })
    }

    /// Closes all sockets, each so that its peer learns the truth. Returns one that the driver has yet
    /// to join, if there is one.
    pub fn close(self, ending: Ending, hands: &mut Hands<D>) -> Option<Sock> {
        let to_backend = self.close_to_backend(ending);
        let leaving = match self.upstream {
            BackendSide::Connecting(connecting) => connecting.close(hands),
            BackendSide::Opening(serving) | BackendSide::Open(serving) => {
                hands.close_upstream(serving.sock, serving.lease, to_backend)
            }
            BackendSide::None => None,
        };
        let closed = hands.driver.close(self.client, close_to_client(ending));
        leaving.or_else(|| (closed == Closed::Soon).then_some(self.client))
    }

    /// The client's socket.
    pub fn client(&self) -> Sock {
        self.client
    }

    fn close_to_backend(&self, ending: Ending) -> Close {
        let clean = match ending {
            Ending::Complete
            | Ending::ClientClosed
            | Ending::ClientLeft
            | Ending::QueueFull
            | Ending::QueueTimeout
            | Ending::ConnectFailed(_) => true,
            // Where it was a call of ours that failed, the backend is still there, and has not got what
            // it was to get.
            Ending::BackendReset(_) => false,
            Ending::BadRequest(_)
            | Ending::BadResponse(_)
            | Ending::Rejected(_)
            | Ending::NoBuffer(_)
            | Ending::HeadTimeout
            | Ending::TooSlow(_)
            | Ending::RequestTimeout
            | Ending::QueueShed
            | Ending::Aborted => {
                unreachable!("a raw session reads nothing of what it relays")
            }
            Ending::HandedOver => unreachable!("{LEAVES}"),
            Ending::ClientReset(_) | Ending::EndpointRemoved | Ending::Cut => false,
            // Cut in the middle: an end of stream would say that the client had finished.
            Ending::IdleTimeout | Ending::HalfClosed => {
                self.to_backend.is_over() && !self.to_client.owes_bytes()
            }
        };
        if clean { Close::Graceful } else { Close::Reset }
    }
}

/// Where the client's transport can tell a failure from an end, it gets the truth.
fn close_to_client(ending: Ending) -> Close {
    match ending {
        Ending::Complete | Ending::ClientClosed | Ending::ClientLeft => Close::Graceful,
        // Where it was a call of ours that failed, the client is still there, and has not got all of its
        // answer.
        Ending::ClientReset(_)
        | Ending::BackendReset(_)
        | Ending::ConnectFailed(_)
        | Ending::QueueFull
        | Ending::QueueTimeout
        | Ending::QueueShed
        | Ending::BadRequest(_)
        | Ending::BadResponse(_)
        | Ending::Rejected(_)
        | Ending::NoBuffer(_)
        | Ending::HeadTimeout
        | Ending::TooSlow(_)
        | Ending::RequestTimeout
        | Ending::Aborted
        | Ending::IdleTimeout
        | Ending::HalfClosed
        | Ending::EndpointRemoved
        | Ending::Cut => Close::Reset,
        Ending::HandedOver => unreachable!("{LEAVES}"),
    }
}

/// Why no client that is handed over is closed.
const LEAVES: &str = "its connection goes on in another process";

/// The set may have changed during the connect; whoever compares sets then passed this session by.
fn cut_if_removed<D: Driver>(lease: &Lease, cx: &mut Context<'_, D>) -> Option<Instant> {
    let left = cx.policy.timeouts.removed?;
    (!cx.is_current(lease)).then(|| cx.hands.now + left)
}

impl OpenUpstream {
    /// It answered.
    fn succeed<D: Driver>(&mut self, cx: &Context<'_, D>) {
        self.verdict = EndpointReport::Given;
        let health = self.lease.health();
        if self.lease.was_ejected() {
            cx.published.restored(health, cx.hands.now);
        } else {
            cx.published.succeeded(health);
        }
    }

    /// It took the request, or part of it, and gave nothing back.
    fn fail<D: Driver>(&mut self, cx: &Context<'_, D>) {
        if self.verdict != EndpointReport::Given {
            self.verdict = EndpointReport::Given;
            cx.published.failed(self.lease.health(), cx.hands.now);
        }
    }
}

/// A read of a flow's source ended.
fn source_read<D: Driver>(
    flow: &mut Flow<D>,
    done: Done,
    source: Sock,
    sink: Option<Sock>,
    driver: &mut D,
    counters: &FlowCounters,
) -> Progress {
    match (done, sink) {
        (Done::Received(buf), _) => {
            flow.received(driver, buf, source, sink);
            Progress::Going
        }
        (Done::Eof, _) => flow.eof(),
        (Done::Ready, Some(sink)) => flow.pump(driver, source, sink, counters),
        (Done::Failed(errno), _) => Progress::SourceFailed(errno),
        (done, _) => unreachable!("a read ends with {done:?}"),
    }
}

/// A write to a flow's sink ended.
fn sink_written<D: Driver>(
    flow: &mut Flow<D>,
    done: Done,
    source: Sock,
    sink: Sock,
    driver: &mut D,
    counters: &FlowCounters,
) -> Progress {
    match done {
        Done::Sent => flow.sent(driver, source, sink, counters),
        Done::Ready => flow.pump(driver, source, sink, counters),
        Done::Failed(errno) => Progress::SinkFailed(errno),
        done => unreachable!("a write ends with {done:?}"),
    }
}
