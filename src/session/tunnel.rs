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

use std::mem;
use std::time::{Duration, Instant};

use crate::backend::{Address, Attempts};
use crate::driver::{Close, Closed, Done, Driver, Lane, Op, Sock};
use crate::sys::Errno;

use super::flow::{Flow, Progress};
use super::{ConnectFailure, Context, End, Ending, Owner, Step, Timeouts};

/// How long to wait before another try when there is no descriptor for an upstream, or no room in a
/// Unix socket's backlog.
const STARVED_RETRY: Duration = Duration::from_millis(20);

/// How often a session without an address reminds the resolver that somebody waits: its back-off
/// may be longer than the client's patience.
const REMINDER_INTERVAL: Duration = Duration::from_secs(1);

/// A client and what serves it.
pub struct Tunnel<D: Driver> {
    client: Sock,
    /// The listener that the client came from, by its number.
    listener: usize,
    presence: Presence,
    upstream: Upstream,
    /// The endpoint of an open upstream.
    endpoint: Option<Address>,
    /// It has left the set: when the session is ended for that.
    cut_at: Option<Instant>,
    to_backend: Flow<D>,
    to_client: Flow<D>,
    connect_by: Instant,
    /// While no endpoint is known: when the resolver is reminded.
    remind_at: Instant,
    last_activity: Instant,
    /// When the session last looked idle with bytes on their way: what the peers had not read then.
    unread_when_idle: Option<u64>,
}

/// Whether anything can still be delivered to the client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    /// It is gone, and a write to it is in flight: how that ends tells whether bytes were lost.
    Gone,
}

/// The backend's side.
enum Upstream {
    /// No endpoint is known. The socket that came with the session waits with it.
    Unknown(Sock),
    /// One endpoint is being tried.
    Connecting(Attempt),
    /// The last try could not be made for now: no descriptor was left, or a Unix socket has no room in
    /// its backlog and would not wait.
    Starved {
        attempts: Attempts,
        failure: ConnectFailure,
        retry_at: Instant,
    },
    /// Bytes flow.
    Open(Sock),
    /// There is none, and the session is about to end.
    None,
}

struct Attempt {
    sock: Sock,
    endpoint: Address,
    /// Those that are left.
    attempts: Attempts,
    give_up_at: Instant,
}

impl<D: Driver> Tunnel<D> {
    /// Starts to serve a client. `spare` is an unconnected TCP socket: it was opened before the
    /// client was accepted, so that no client is taken on who could not be given a descriptor.
    pub fn start(
        client: Sock,
        listener: usize,
        spare: Sock,
        cx: &mut Context<'_, D>,
    ) -> (Self, Step) {
        cx.owners.assign(client, Owner::Session(cx.id, End::Client));
        let mut tunnel = Self {
            client,
            listener,
            presence: Presence::Here,
            upstream: Upstream::Unknown(spare),
            endpoint: None,
            cut_at: None,
            to_backend: Flow::new(),
            to_client: Flow::new(),
            connect_by: cx.now + cx.timeouts.connect,
            remind_at: cx.now,
            last_activity: cx.now,
            unread_when_idle: None,
        };
        // Most clients have sent their request by now. With bytes at hand the connect costs less.
        if let Err(errno) = tunnel.to_backend.start_with_what_came(cx.driver, client) {
            return (tunnel, Step::End(Ending::ClientReset(errno)));
        }
        let step = tunnel.connect_first(cx);
        (tunnel, step)
    }

    /// When [`Tunnel::expire`] is due.
    pub fn deadline(&self, timeouts: Timeouts) -> Option<Instant> {
        match &self.upstream {
            Upstream::Unknown(_) => Some(self.connect_by.min(self.remind_at)),
            Upstream::Connecting(attempt) => Some(attempt.give_up_at),
            Upstream::Starved { retry_at, .. } => Some(*retry_at),
            Upstream::Open(_) => {
                let idle_at = timeouts.idle.map(|idle| self.last_activity + idle);
                idle_at.into_iter().chain(self.cut_at).min()
            }
            Upstream::None => None,
        }
    }

    // --- events -------------------------------------------------------------------------------

    /// An op of one of the session's sockets ended.
    pub fn complete(&mut self, end: End, lane: Lane, done: Done, cx: &mut Context<'_, D>) -> Step {
        self.last_activity = cx.now;
        self.unread_when_idle = None;
        match (end, lane) {
            (End::Client, Lane::Read) if self.to_backend.is_over() => self.hung_up(done),
            (End::Client, Lane::Read) => {
                let sink = self.open_upstream();
                let progress =
                    source_read(&mut self.to_backend, done, self.client, sink, cx.driver);
                self.after_to_backend(progress, cx.driver)
            }
            (End::Backend, Lane::Write) => match self.upstream {
                Upstream::Connecting(_) => self.connected(done, cx),
                Upstream::Open(sock) => {
                    let progress =
                        sink_written(&mut self.to_backend, done, self.client, sock, cx.driver);
                    self.after_to_backend(progress, cx.driver)
                }
                Upstream::Unknown(_) | Upstream::Starved { .. } | Upstream::None => {
                    unreachable!("no op was submitted on this socket")
                }
            },
            (End::Backend, Lane::Read) => {
                let source = self.open_upstream().expect("only an open upstream is read");
                let sink = Some(self.client);
                let progress = source_read(&mut self.to_client, done, source, sink, cx.driver);
                self.after_to_client(progress, cx.driver)
            }
            (End::Client, Lane::Write)
                if self.presence == Presence::Gone && matches!(done, Done::Sent) =>
            {
                Step::End(Ending::ClientClosed)
            }
            (End::Client, Lane::Write) => {
                let source = self
                    .open_upstream()
                    .expect("what is written came from there");
                let progress =
                    sink_written(&mut self.to_client, done, source, self.client, cx.driver);
                self.after_to_client(progress, cx.driver)
            }
        }
    }

    /// The address set changed.
    pub fn addresses_changed(&mut self, cx: &mut Context<'_, D>) -> Step {
        match self.upstream {
            Upstream::Unknown(_) => self.connect_first(cx),
            // One that runs out of attempts looks at the newest set by itself.
            Upstream::Connecting(_)
            | Upstream::Starved { .. }
            | Upstream::Open(_)
            | Upstream::None => Step::Continue,
        }
    }

    /// The endpoint of an open upstream.
    pub fn endpoint(&self) -> Option<Address> {
        self.endpoint
    }

    /// The endpoint is in the set, or is not: then the session has a while left, unless it comes back.
    pub fn endpoint_is_current(&mut self, current: bool, cx: &mut Context<'_, D>) -> Step {
        self.cut_at = match (current, cx.timeouts.removed) {
            (false, Some(left)) => self.cut_at.or(Some(cx.now + left)),
            (true, _) | (_, None) => None,
        };
        Step::Continue
    }

    /// The deadline has come.
    pub fn expire(&mut self, cx: &mut Context<'_, D>) -> Step {
        let out_of_time = cx.now >= self.connect_by;
        match mem::replace(&mut self.upstream, Upstream::None) {
            Upstream::Unknown(spare) => {
                self.upstream = Upstream::Unknown(spare);
                if out_of_time {
                    return failed(ConnectFailure::NoAddress);
                }
                self.remind_resolver(cx);
                Step::Continue
            }
            Upstream::Connecting(attempt) => {
                cx.driver.close(attempt.sock, Close::Graceful);
                suspect(attempt.endpoint, cx);
                let failure = ConnectFailure::TimedOut(attempt.endpoint);
                if out_of_time {
                    return failed(failure);
                }
                self.connect_next(attempt.attempts, failure, cx)
            }
            Upstream::Starved { failure, .. } if out_of_time => failed(failure),
            Upstream::Starved {
                attempts, failure, ..
            } => self.connect_again(attempts, failure, cx),
            Upstream::Open(sock) => {
                self.upstream = Upstream::Open(sock);
                if self.cut_at.is_some_and(|at| at <= cx.now) {
                    return Step::End(Ending::EndpointRemoved);
                }
                self.idle(sock, cx)
            }
            Upstream::None => unreachable!("a session without an upstream has ended"),
        }
    }

    /// Nothing completed for the idle timeout. While a slow reader takes what it was sent, the kernel
    /// may report room only after minutes: then a peer that has read since the last look is not idle.
    /// So a session with bytes on their way ends between one and two timeouts after the last read.
    fn idle(&mut self, upstream: Sock, cx: &mut Context<'_, D>) -> Step {
        if !self.to_backend.owes_bytes() && !self.to_client.owes_bytes() {
            return Step::End(Ending::IdleTimeout);
        }
        let unread = cx.driver.unread(self.client) + cx.driver.unread(upstream);
        if self.unread_when_idle.is_some_and(|before| unread >= before) {
            return Step::End(Ending::IdleTimeout);
        }
        self.unread_when_idle = Some(unread);
        self.last_activity = cx.now;
        Step::Continue
    }

    // --- connecting ---------------------------------------------------------------------------

    /// Starts with the current set and the socket that came with the session.
    fn connect_first(&mut self, cx: &mut Context<'_, D>) -> Step {
        let Upstream::Unknown(spare) = self.upstream else {
            unreachable!("nothing was tried yet")
        };
        let mut attempts = cx.turns.start(cx.published.load_full());
        let Some(endpoint) = attempts.next_endpoint() else {
            self.remind_resolver(cx);
            return Step::Continue;
        };
        let source = cx.upstreams.tcp.source;
        if matches!(endpoint, Address::Tcp(address) if address.is_ipv4() && source.reaches(&address))
        {
            self.connect(spare, endpoint, attempts, cx);
            return Step::Continue;
        }
        // The spare socket is for IPv4.
        self.upstream = Upstream::None;
        cx.driver.close(spare, Close::Graceful);
        self.open_and_connect(endpoint, attempts, cx)
    }

    fn remind_resolver(&mut self, cx: &Context<'_, D>) {
        cx.published.refresher().suspect_all();
        self.remind_at = cx.now + REMINDER_INTERVAL;
    }

    /// An attempt failed: the next endpoint, or the end.
    fn connect_next(
        &mut self,
        mut attempts: Attempts,
        failure: ConnectFailure,
        cx: &mut Context<'_, D>,
    ) -> Step {
        if let Some(endpoint) = attempts.next_endpoint() {
            return self.open_and_connect(endpoint, attempts, cx);
        }
        // Each was tried once. A newer set deserves a try; the same one again does not.
        let newest = cx.published.load_full();
        if newest.version() == attempts.version() {
            return failed(failure);
        }
        let mut attempts = cx.turns.start(newest);
        match attempts.next_endpoint() {
            Some(endpoint) => self.open_and_connect(endpoint, attempts, cx),
            None => failed(failure),
        }
    }

    /// After a pause for want of something: takes the endpoints in turn from where they were.
    fn connect_again(
        &mut self,
        mut attempts: Attempts,
        failure: ConnectFailure,
        cx: &mut Context<'_, D>,
    ) -> Step {
        attempts.put_back();
        self.connect_next(attempts, failure, cx)
    }

    fn open_and_connect(
        &mut self,
        endpoint: Address,
        attempts: Attempts,
        cx: &mut Context<'_, D>,
    ) -> Step {
        let tcp = &cx.upstreams.tcp;
        let opened = match endpoint {
            Address::Tcp(address) if !tcp.source.reaches(&address) => {
                return self.connect_next(attempts, ConnectFailure::OtherFamily(endpoint), cx);
            }
            Address::Tcp(address) => cx.driver.open_tcp(&address, tcp),
            Address::Unix(name) => cx.driver.open_unix(name),
        };
        match (opened, endpoint) {
            (Ok(sock), Address::Tcp(_)) => {
                self.connect(sock, endpoint, attempts, cx);
                Step::Continue
            }
            // Such a connect does not wait: it is open.
            (Ok(sock), Address::Unix(_)) => {
                cx.owners.assign(sock, Owner::Session(cx.id, End::Backend));
                self.opened(sock, endpoint, attempts, cx)
            }
            (Err(errno), _) if errno.is_exhaustion() => {
                self.starve(attempts, ConnectFailure::NoDescriptor, cx)
            }
            // A TCP connect would wait, so this does, if there is no other endpoint.
            (Err(errno @ Errno(libc::EAGAIN)), Address::Unix(_)) if attempts.remaining() == 0 => {
                self.starve(attempts, ConnectFailure::Refused(endpoint, errno), cx)
            }
            // Nothing was connected yet, so this is about the address to bind to.
            (Err(errno @ Errno(libc::EADDRNOTAVAIL)), Address::Tcp(_)) => {
                let failure = ConnectFailure::NoSource(endpoint, errno);
                self.connect_next(attempts, failure, cx)
            }
            (Err(errno), _) => {
                let failure = ConnectFailure::Refused(endpoint, errno);
                self.connect_next(attempts, failure, cx)
            }
        }
    }

    fn starve(
        &mut self,
        attempts: Attempts,
        failure: ConnectFailure,
        cx: &mut Context<'_, D>,
    ) -> Step {
        self.upstream = Upstream::Starved {
            attempts,
            failure,
            retry_at: (cx.now + STARVED_RETRY).min(self.connect_by),
        };
        Step::Continue
    }

    fn connect(
        &mut self,
        sock: Sock,
        endpoint: Address,
        attempts: Attempts,
        cx: &mut Context<'_, D>,
    ) {
        let Address::Tcp(address) = endpoint else {
            unreachable!("a Unix socket is open when it is there")
        };
        cx.owners.assign(sock, Owner::Session(cx.id, End::Backend));
        if self.to_backend.holds_bytes() || cx.upstreams.introduction(self.listener).is_some() {
            cx.driver.send_follows(sock);
        }
        cx.driver.submit(sock, Op::Connect(address));
        // Those that are still untried get as much of the time that is left.
        let left = self.connect_by.saturating_duration_since(cx.now);
        let shares = u32::try_from(attempts.remaining() + 1).unwrap_or(u32::MAX);
        self.upstream = Upstream::Connecting(Attempt {
            sock,
            endpoint,
            attempts,
            give_up_at: cx.now + left / shares,
        });
    }

    fn connected(&mut self, done: Done, cx: &mut Context<'_, D>) -> Step {
        let Upstream::Connecting(attempt) = mem::replace(&mut self.upstream, Upstream::None) else {
            unreachable!("a connect was in flight")
        };
        match done {
            Done::Connected => self.opened(attempt.sock, attempt.endpoint, attempt.attempts, cx),
            Done::Failed(errno) => {
                self.connect_failed(attempt.sock, attempt.endpoint, errno, attempt.attempts, cx)
            }
            other => unreachable!("a connect ends with {other:?}"),
        }
    }

    fn connect_failed(
        &mut self,
        sock: Sock,
        endpoint: Address,
        errno: Errno,
        attempts: Attempts,
        cx: &mut Context<'_, D>,
    ) -> Step {
        cx.driver.close(sock, Close::Graceful);
        suspect(endpoint, cx);
        let failure = ConnectFailure::Refused(endpoint, errno);
        self.connect_next(attempts, failure, cx)
    }

    fn opened(
        &mut self,
        sock: Sock,
        endpoint: Address,
        attempts: Attempts,
        cx: &mut Context<'_, D>,
    ) -> Step {
        // A connection that breaks before anything of the client's was sent is as good as none.
        if let Err(errno) = self.introduce(sock, cx) {
            return self.connect_failed(sock, endpoint, errno, attempts, cx);
        }
        self.upstream = Upstream::Open(sock);
        self.endpoint = Some(endpoint);
        self.cut_if_removed(endpoint, &attempts, cx);
        self.to_client.start(cx.driver, sock);
        self.to_backend.sink_opened(cx.driver, sock);
        Step::Continue
    }

    /// Tells the backend who connects, if it is to be told: in one send with what the client has sent.
    fn introduce(&mut self, sock: Sock, cx: &mut Context<'_, D>) -> Result<(), Errno> {
        match cx.upstreams.introduction(self.listener) {
            Some(introduction) if !self.to_backend.prepend(introduction) => {
                cx.driver.send_first(sock, introduction)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The set may have changed during the connect; whoever compares sets then passed this session by.
    fn cut_if_removed(&mut self, endpoint: Address, attempts: &Attempts, cx: &Context<'_, D>) {
        let Some(left) = cx.timeouts.removed else {
            return;
        };
        let set = cx.published.load();
        let is_current = || set.endpoints().iter().any(|e| e.address == endpoint);
        if set.version() != attempts.version() && !is_current() {
            self.cut_at = Some(cx.now + left);
        }
    }

    fn open_upstream(&self) -> Option<Sock> {
        match self.upstream {
            Upstream::Open(sock) => Some(sock),
            Upstream::Unknown(_)
            | Upstream::Connecting(_)
            | Upstream::Starved { .. }
            | Upstream::None => None,
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
                if let Upstream::Open(sock) = self.upstream {
                    driver.shutdown_write(sock);
                }
                driver.submit(self.client, Op::Hangup);
                Step::Continue
            }
            Progress::SourceFailed(errno) => Step::End(Ending::ClientReset(errno)),
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

    /// Closes both sockets, each so that its peer learns the truth.
    pub fn close(self, ending: Ending, driver: &mut D) -> Closed {
        let upstream = match self.upstream {
            Upstream::Unknown(sock) | Upstream::Open(sock) => Some(sock),
            Upstream::Connecting(Attempt { sock, .. }) => Some(sock),
            Upstream::Starved { .. } | Upstream::None => None,
        };
        let to_backend = self.close_to_backend(ending);
        let upstream = upstream.map(|sock| driver.close(sock, to_backend));
        let client = driver.close(self.client, close_to_client(ending));
        if client == Closed::Soon || upstream == Some(Closed::Soon) {
            Closed::Soon
        } else {
            Closed::Now
        }
    }

    fn close_to_backend(&self, ending: Ending) -> Close {
        let clean = match ending {
            Ending::Complete
            | Ending::ClientClosed
            | Ending::BackendReset(_)
            | Ending::ConnectFailed(_) => true,
            Ending::ClientReset(_) | Ending::EndpointRemoved | Ending::Cut => false,
            // Cut in the middle: an end of stream would say that the client had finished.
            Ending::IdleTimeout => self.to_backend.is_over() && !self.to_client.owes_bytes(),
        };
        if clean { Close::Graceful } else { Close::Reset }
    }
}

/// AF_UNIX has no reset; where the client's transport has one, it gets the truth.
fn close_to_client(ending: Ending) -> Close {
    match ending {
        Ending::Complete | Ending::ClientClosed | Ending::ClientReset(_) => Close::Graceful,
        Ending::BackendReset(_)
        | Ending::ConnectFailed(_)
        | Ending::IdleTimeout
        | Ending::EndpointRemoved
        | Ending::Cut => Close::Reset,
    }
}

/// The address may have moved: the names behind it are looked up early.
fn suspect<D: Driver>(endpoint: Address, cx: &Context<'_, D>) {
    if let Some(ip) = endpoint.ip() {
        cx.published.refresher().suspect(ip);
    }
}

fn failed(failure: ConnectFailure) -> Step {
    Step::End(Ending::ConnectFailed(failure))
}

/// A read of a flow's source ended.
fn source_read<D: Driver>(
    flow: &mut Flow<D>,
    done: Done,
    source: Sock,
    sink: Option<Sock>,
    driver: &mut D,
) -> Progress {
    match (done, sink) {
        (Done::Received(buf), _) => {
            flow.received(driver, buf, sink);
            Progress::Going
        }
        (Done::Eof, _) => flow.eof(),
        (Done::Ready, Some(sink)) => flow.pump(driver, source, sink),
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
) -> Progress {
    match done {
        Done::Sent => flow.sent(driver, source, sink),
        Done::Ready => flow.pump(driver, source, sink),
        Done::Failed(errno) => Progress::SinkFailed(errno),
        done => unreachable!("a write ends with {done:?}"),
    }
}
