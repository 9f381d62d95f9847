//! Single requests, step by step, by a driver that is played by hand.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::super::{
    Change, Changes, FastcgiOptions, Hands, Policy, Pool, PoolOptions, Protocol, RouteKey,
    SessionId, Timeouts, UpstreamId,
};
use super::time::WATCH_AFTER;
use super::*;
use crate::access_log::RequestLogs;
use crate::backend::{Balancer, Endpoint, Published};
use crate::config::{Balance, EndpointMax, QueueTime, RouteName};
use crate::counters::RouteCounters;
use crate::driver::scripted::Scripted;
use crate::fastcgi::{
    BROKEN_OFF, BeginRequest, Capacity, EndRequest, FENCE, Guard, GuardOptions, HEADER_LEN,
    HeadRoom, Kind, ProtocolStatus, RequestId, RequestLimits, Role, push_pair, push_record,
    push_stream, push_stream_end,
};
use crate::sys::Errno;
use crate::sys::net::TcpOptions;

const OPTIONS: PoolOptions = PoolOptions {
    reuse: true,
    idle: Duration::from_secs(60),
    settle: Duration::from_secs(1),
    requests_max: 100,
};

const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

const TIMEOUTS: Timeouts = Timeouts {
    queue: None,
    connect: Duration::from_secs(5),
    refused: None,
    silent_is_short: true,
    idle: None,
    half_closed: None,
    removed: None,
    min_rate: None,
    request: None,
};

/// A route with one endpoint, whatever a worker has for it, and one client.
struct Desk {
    hands: Hands<Scripted>,
    published: Published,
    policy: Policy,
    /// There is another one.
    is_amended: bool,
    /// Which clients are handed over.
    lets_go: LetsGo,
    /// Whether requests wait in a queue for places.
    can_queue: bool,
    balancer: Balancer,
    pool: Pool,
    changes: Changes,
    head_room: HeadRoom,
    counters: Arc<RouteCounters>,
    logs: RequestLogs,
}

/// Lets the exchange of a desk do something, which needs parts of both.
macro_rules! act {
    ($desk:ident, $act:expr) => {{
        let mut cx = Context {
            id: SessionId(0),
            hands: &mut $desk.hands,
            published: &$desk.published,
            policy: &$desk.policy,
            is_amended: $desk.is_amended,
            balancer: &mut $desk.balancer,
            route: RouteKey(0),
            pool: &mut $desk.pool,
            changes: &mut $desk.changes,
            firsts: &[],
            can_queue: $desk.can_queue,
            is_paused: false,
            is_out: false,
            draining: false,
            lets_go: $desk.lets_go,
            head_room: &$desk.head_room,
            counters: &$desk.counters,
            class_counters: &[],
            logs: &$desk.logs,
        };
        $act(&mut cx)
    }};
}

// Behind the macro, which it uses.
mod asked;
mod late;
mod leaving;
mod slow;

impl Desk {
    fn new() -> Self {
        let published = Published::new(|| {});
        let endpoint = Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], 9000)).into(),
            priority: 0,
            weight: 1,
        };
        published.publish(vec![endpoint], SystemTime::UNIX_EPOCH);
        let limits = RequestLimits {
            params_bytes_max: 64 * 1024,
            capacity: Capacity {
                connections_max: 1,
                requests_max: 1,
            },
        };
        Self {
            hands: Hands::new(Scripted::new()),
            published,
            balancer: Balancer::new(Balance::default(), 1),
            policy: Policy {
                tcp: TcpOptions::default(),
                timeouts: TIMEOUTS,
                protocol: Protocol::Fastcgi(FastcgiOptions {
                    route: RouteName::default(),
                    guard: None,
                    limits,
                    pool: OPTIONS,
                    head_timeout: Some(HEAD_TIMEOUT),
                    queue_time: QueueTime::default(),
                    classes: None,
                    on_failure: OnFailure::Close,
                    rejections: Default::default(),
                    overridden: Default::default(),
                    violations: Default::default(),
                    too_slow: Default::default(),
                }),
            },
            is_amended: false,
            lets_go: LetsGo::None,
            can_queue: false,
            pool: Pool::new(OPTIONS),
            changes: Changes::default(),
            head_room: HeadRoom::default(),
            logs: RequestLogs::default(),
            counters: Arc::default(),
        }
    }

    /// A client that has sent these bytes.
    fn client(&mut self, bytes: &[u8]) -> (Exchange<Scripted>, Sock) {
        let client = self.hands.driver.client();
        self.hands.driver.arrive(client, bytes);
        let (exchange, step) = act!(self, |cx: &mut _| Exchange::start(client, &[], cx));
        assert_eq!(step, Step::Continue);
        (exchange, client)
    }

    /// The client sends more.
    fn send(&mut self, exchange: &mut Exchange<Scripted>, bytes: &[u8]) -> Step {
        let client = exchange.client();
        let done = self.hands.driver.received(client, bytes);
        self.complete(exchange, End::Client, Lane::Read, done)
    }

    /// The client has room for what is sent to it. Returns that.
    fn take(&mut self, exchange: &mut Exchange<Scripted>) -> (Vec<u8>, Step) {
        let client = exchange.client();
        let done = self.hands.driver.sent(client);
        let step = self.complete(exchange, End::Client, Lane::Write, done);
        (self.hands.driver.take_sent(client), step)
    }

    fn complete(
        &mut self,
        exchange: &mut Exchange<Scripted>,
        end: End,
        lane: Lane,
        done: Done,
    ) -> Step {
        act!(self, |cx: &mut _| exchange.complete(end, lane, done, cx))
    }

    /// The connection that the exchange has asked for is open.
    fn connect(&mut self, exchange: &mut Exchange<Scripted>) -> Sock {
        let server = self
            .hands
            .driver
            .opened()
            .expect("a connection was asked for");
        self.hands.driver.end(server, Lane::Write);
        let step = self.complete(exchange, End::Backend, Lane::Write, Done::Connected);
        assert_eq!(step, Step::Continue);
        server
    }

    /// The server takes what is sent to it, and acknowledges it. Returns that.
    fn hear(&mut self, exchange: &mut Exchange<Scripted>, server: Sock) -> Vec<u8> {
        let done = self.hands.driver.sent(server);
        let step = self.complete(exchange, End::Backend, Lane::Write, done);
        assert_eq!(step, Step::Continue);
        let heard = self.hands.driver.take_sent(server);
        self.hands.driver.acknowledge_bytes(server, heard.len());
        heard
    }

    fn say(&mut self, exchange: &mut Exchange<Scripted>, server: Sock, bytes: &[u8]) -> Step {
        let done = self.hands.driver.received(server, bytes);
        self.complete(exchange, End::Backend, Lane::Read, done)
    }

    fn lose(&mut self, exchange: &mut Exchange<Scripted>, server: Sock, done: Done) -> Step {
        self.hands.driver.end(server, Lane::Read);
        self.complete(exchange, End::Backend, Lane::Read, done)
    }

    /// The server answers the fence.
    fn settle(&mut self, server: Sock) -> Change {
        let Owner::Upstream(RouteKey(0), id) = self.hands.owners.of(server) else {
            panic!("it is not in the pool")
        };
        self.pool_hears(id, server)
    }

    fn pool_hears(&mut self, id: UpstreamId, server: Sock) -> Change {
        let mut answer = Vec::new();
        push_record(
            &mut answer,
            Kind::GetValuesResult,
            RequestId::MANAGEMENT,
            &[],
        );
        let done = self.hands.driver.received(server, &answer);
        self.pool.complete(id, Lane::Read, done, &mut self.hands)
    }

    /// A whole request, after which its connection rests.
    fn prove(&mut self) -> Sock {
        let (mut exchange, _client) = self.client(&get("/first"));
        let server = self.connect(&mut exchange);
        self.hear(&mut exchange, server);
        assert_eq!(self.say(&mut exchange, server, &page("x")), Step::Continue);
        let (answer, step) = self.take(&mut exchange);
        assert_eq!((answer, step), (page("x"), Step::End(Ending::Complete)));
        assert_eq!(self.hands.driver.take_sent(server), FENCE);
        self.hands.driver.acknowledge_bytes(server, FENCE.len());
        assert_eq!(self.settle(server), Change::Rests);
        server
    }

    /// The same again on that connection: its server is known to keep it, and to answer the fence in its turn.
    fn prove_twice(&mut self) -> Sock {
        let server = self.prove();
        let (mut exchange, _client) = self.on_resting(server, &get("/second"));
        self.hear(&mut exchange, server);
        assert_eq!(self.say(&mut exchange, server, &page("x")), Step::Continue);
        assert_eq!(self.take(&mut exchange).1, Step::End(Ending::Complete));
        self.hands.driver.take_sent(server);
        self.hands.driver.acknowledge_bytes(server, FENCE.len());
        assert_eq!(self.settle(server), Change::Rests);
        server
    }

    /// A request on the connection that rests.
    fn on_resting(&mut self, server: Sock, bytes: &[u8]) -> (Exchange<Scripted>, Sock) {
        let (exchange, client) = self.client(bytes);
        assert_eq!(self.hands.driver.opened(), None, "one rests");
        assert_eq!(
            self.hands.owners.of(server),
            Owner::Session(SessionId(0), End::Backend)
        );
        (exchange, client)
    }
}

fn id() -> RequestId {
    RequestId::application(NonZeroU16::MIN)
}

/// The head of a request, which closes its connection behind the answer.
fn head(params: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let begin = BeginRequest {
        role: Role::Responder,
        keep_conn: false,
    };
    push_record(&mut bytes, Kind::BeginRequest, id(), &begin.encode());
    let mut pairs = Vec::new();
    for (name, value) in params {
        push_pair(&mut pairs, name.as_bytes(), value.as_bytes());
    }
    push_stream(&mut bytes, Kind::Params, id(), &pairs);
    push_stream_end(&mut bytes, Kind::Params, id());
    bytes
}

fn get_head(uri: &str) -> Vec<u8> {
    head(&[
        ("REQUEST_METHOD", "GET"),
        ("CONTENT_LENGTH", ""),
        ("REQUEST_URI", uri),
    ])
}

fn post_head(len: usize) -> Vec<u8> {
    head(&[
        ("REQUEST_METHOD", "POST"),
        ("CONTENT_LENGTH", &len.to_string()),
    ])
}

fn body(content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_stream(&mut bytes, Kind::Stdin, id(), content);
    bytes
}

fn body_end() -> Vec<u8> {
    let mut bytes = Vec::new();
    push_stream_end(&mut bytes, Kind::Stdin, id());
    bytes
}

fn get(uri: &str) -> Vec<u8> {
    [get_head(uri), body_end()].concat()
}

fn stdout(content: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_stream(&mut bytes, Kind::Stdout, id(), content.as_bytes());
    bytes
}

fn page(content: &str) -> Vec<u8> {
    let mut bytes = stdout(&format!("Content-Type: text/plain\r\n\r\n{content}"));
    push_stream_end(&mut bytes, Kind::Stdout, id());
    let end = EndRequest {
        app_status: 0,
        protocol_status: ProtocolStatus::RequestComplete,
    };
    push_record(&mut bytes, Kind::EndRequest, id(), &end.encode());
    bytes
}

/// Like that of a request to a server that is to keep its connection: byte 2 of its third word is the flag.
fn keeping(mut request: Vec<u8>) -> Vec<u8> {
    request[10] = 1;
    request
}

#[test]
fn a_request_that_was_never_read_is_sent_again_as_it_was() {
    for request in [
        get("/again"),
        [post_head(4), body(b"body"), body_end()].concat(),
    ] {
        let mut desk = Desk::new();
        let old = desk.prove();
        let (mut exchange, _client) = desk.on_resting(old, &request);
        // It goes out, and nobody acknowledges it.
        let done = desk.hands.driver.sent(old);
        let step = desk.complete(&mut exchange, End::Backend, Lane::Write, done);
        assert_eq!(step, Step::Continue);
        assert_eq!(desk.hands.driver.take_sent(old), keeping(request.clone()));
        assert_eq!(desk.lose(&mut exchange, old, Done::Eof), Step::Continue);
        assert_eq!(desk.hands.driver.closed(old), Some(Close::Graceful));
        let new = desk.connect(&mut exchange);
        assert_eq!(desk.hear(&mut exchange, new), keeping(request));
        assert_eq!(desk.say(&mut exchange, new, &page("y")), Step::Continue);
        let (answer, step) = desk.take(&mut exchange);
        assert_eq!((answer, step), (page("y"), Step::End(Ending::Complete)));
        assert_eq!(desk.counters.fastcgi.retries.get(), 1);
    }
}

#[test]
fn a_post_that_may_have_been_read_is_not_sent_again() {
    for (done, is_acknowledged) in [
        (Done::Eof, true),
        (Done::Failed(Errno(libc::ECONNRESET)), false),
    ] {
        let mut desk = Desk::new();
        let old = desk.prove_twice();

        let request = [post_head(4), body(b"body"), body_end()].concat();
        let (mut exchange, _client) = desk.on_resting(old, &request);
        let sent = desk.hands.driver.sent(old);
        let _ = desk.complete(&mut exchange, End::Backend, Lane::Write, sent);
        if is_acknowledged {
            desk.hands.driver.acknowledge_bytes(old, 1);
        }
        let step = desk.lose(&mut exchange, old, done);
        let errno = Errno(libc::ECONNRESET);
        assert_eq!(step, Step::End(Ending::BackendReset(errno)));
        assert_eq!(desk.hands.driver.opened(), None);
    }
}

/// The end of the request comes while it is known already that the server takes no more of it.
#[test]
fn what_is_sent_again_has_what_came_when_the_server_took_no_more() {
    let mut desk = Desk::new();
    let old = desk.prove();
    let (mut exchange, _client) = desk.on_resting(old, &get_head("/again"));
    desk.hands.driver.end(old, Lane::Write);
    let broken = Done::Failed(Errno(libc::EPIPE));
    let step = desk.complete(&mut exchange, End::Backend, Lane::Write, broken);
    assert_eq!(step, Step::Continue);
    assert_eq!(desk.send(&mut exchange, &body_end()), Step::Continue);
    assert_eq!(desk.lose(&mut exchange, old, Done::Eof), Step::Continue);
    let new = desk.connect(&mut exchange);
    assert_eq!(desk.hear(&mut exchange, new), keeping(get("/again")));
}

#[test]
fn a_request_of_which_more_went_by_than_is_kept_is_not_sent_again() {
    let mut desk = Desk::new();
    let old = desk.prove();
    let large = [b'x'; 5000];
    let request = [post_head(large.len()), body(&large), body_end()].concat();
    let (mut exchange, _client) = desk.on_resting(old, &request);
    let done = desk.hands.driver.sent(old);
    let _ = desk.complete(&mut exchange, End::Backend, Lane::Write, done);
    let step = desk.lose(&mut exchange, old, Done::Eof);
    assert!(
        matches!(step, Step::End(Ending::BackendReset(_))),
        "{step:?}"
    );
}

/// The rest of the request would be read as the next one.
#[test]
fn an_answer_before_the_end_of_the_request_costs_the_connection_and_the_rest_is_thrown_away() {
    let mut desk = Desk::new();
    let request = [post_head(10), body(b"body")].concat();
    let (mut exchange, client) = desk.client(&request);
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    assert_eq!(
        desk.say(&mut exchange, server, &page("early")),
        Step::Continue
    );
    assert_eq!(desk.hands.driver.closed(server), Some(Close::Graceful));
    let (answer, step) = desk.take(&mut exchange);
    assert_eq!((answer, step), (page("early"), Step::Continue));
    // It may still be sending, and a reset would destroy the answer.
    assert!(desk.hands.driver.has_ended(client));
    let rest = [body(b"more y"), body_end()].concat();
    assert_eq!(desk.send(&mut exchange, &rest), Step::Continue);
    desk.hands.driver.end(client, Lane::Read);
    let step = desk.complete(&mut exchange, End::Client, Lane::Read, Done::Eof);
    assert_eq!(step, Step::End(Ending::Complete));
}

/// END_REQUEST comes while the last of the request is on its way.
#[test]
fn an_answer_before_the_last_send_is_over_ends_with_it() {
    let mut desk = Desk::new();
    let (mut exchange, _client) = desk.client(&get("/quick"));
    let server = desk.connect(&mut exchange);
    assert_eq!(desk.say(&mut exchange, server, &page("x")), Step::Continue);
    let (answer, step) = desk.take(&mut exchange);
    assert_eq!((answer, step), (page("x"), Step::Continue));
    assert_eq!(desk.hands.driver.closed(server), None);
    let done = desk.hands.driver.sent(server);
    let step = desk.complete(&mut exchange, End::Backend, Lane::Write, done);
    assert_eq!(step, Step::End(Ending::Complete));
    assert_eq!(desk.hands.driver.closed(server), None, "it is in the pool");
    assert!(matches!(
        desk.hands.owners.of(server),
        Owner::Upstream(RouteKey(0), _)
    ));
}

/// A server that counts waits for the rest; the end of the stream behind it tells that none comes.
#[test]
fn behind_a_body_that_is_shorter_than_announced_the_stream_ends() {
    let mut desk = Desk::new();
    let request = [post_head(10), body(b"body"), body_end()].concat();
    let (mut exchange, _client) = desk.client(&request);
    let server = desk.connect(&mut exchange);
    assert!(!desk.hands.driver.has_ended(server));
    assert_eq!(desk.hear(&mut exchange, server), keeping(request));
    assert!(desk.hands.driver.has_ended(server));
    // And it serves nobody else.
    assert_eq!(desk.say(&mut exchange, server, &page("x")), Step::Continue);
    assert_eq!(desk.hands.driver.closed(server), Some(Close::Graceful));
    assert_eq!(desk.hands.driver.take_sent(server), b"");
}

#[test]
fn an_answer_that_dies_ends_in_the_sign_of_that() {
    let mut desk = Desk::new();
    let (mut exchange, client) = desk.client(&get("/dies"));
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    let part = stdout("Content-Type: text/plain\r\n\r\nhalf of it");
    assert_eq!(desk.say(&mut exchange, server, &part), Step::Continue);
    // Nothing more is read before the client has this.
    let (answer, step) = desk.take(&mut exchange);
    assert_eq!((answer, step), (part, Step::Continue));
    let step = desk.lose(&mut exchange, server, Done::Eof);
    let errno = Errno(libc::ECONNRESET);
    assert_eq!(step, Step::End(Ending::BackendReset(errno)));
    assert_eq!(desk.hands.driver.take_sent(client), BROKEN_OFF);
    assert_eq!(desk.hands.driver.closed(server), Some(Close::Reset));
}

/// Who has no headers yet goes to its next server, as long as nothing came.
#[test]
fn a_server_that_ends_without_an_answer_leaves_the_client_without_a_byte() {
    let mut desk = Desk::new();
    let (mut exchange, client) = desk.client(&get("/dies"));
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    let step = desk.lose(&mut exchange, server, Done::Eof);
    let errno = Errno(libc::ECONNRESET);
    assert_eq!(step, Step::End(Ending::BackendReset(errno)));
    assert_eq!(desk.hands.driver.take_sent(client), b"");
    assert_eq!(desk.hands.driver.opened(), None);
}

#[test]
fn a_client_that_leaves_has_its_connection_closed_with_what_it_asked_for() {
    let mut desk = Desk::new();
    let (mut exchange, client) = desk.client(&get("/slow"));
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    desk.hands.now += WATCH_AFTER;
    assert_eq!(act!(desk, |cx: &mut _| exchange.expire(cx)), Step::Continue);
    desk.hands.driver.end(client, Lane::Read);
    let gone = Done::Failed(Errno(libc::ECONNRESET));
    let step = desk.complete(&mut exchange, End::Client, Lane::Read, gone);
    let errno = Errno(libc::ECONNRESET);
    assert_eq!(step, Step::End(Ending::ClientReset(errno)));
    exchange.close(&mut desk.hands);
    assert_eq!(desk.hands.driver.closed(server), Some(Close::Reset));
    assert_eq!(desk.hands.driver.closed(client), Some(Close::Graceful));
}

/// A request that waits for a place, and the one that has the only place: its client and its server.
fn in_line(desk: &mut Desk) -> (Exchange<Scripted>, Sock, Exchange<Scripted>, Sock) {
    desk.balancer.amend(
        Balance::default(),
        NonZeroU32::new(1).map(EndpointMax::Fixed),
        false,
    );
    desk.can_queue = true;
    let (mut first, _client) = desk.client(&get("/first"));
    let server = desk.connect(&mut first);
    desk.hear(&mut first, server);
    let (waiting, client) = desk.client(&get("/second"));
    assert_eq!(desk.hands.driver.opened(), None, "the place is taken");
    assert!(waiting.wish().is_some());
    (waiting, client, first, server)
}

/// Most waits are short, and a watch costs calls to begin and to end.
#[test]
fn a_client_in_the_queue_is_watched_for_leaving_after_a_while() {
    let mut desk = Desk::new();
    let (mut waiting, client, first, _server) = in_line(&mut desk);
    assert!(!desk.hands.driver.is_busy(client, Lane::Read));
    let due = desk.hands.now + WATCH_AFTER;
    assert_eq!(waiting.deadline(TIMEOUTS), Some(due));
    desk.hands.now = due;
    assert_eq!(act!(desk, |cx: &mut _| waiting.expire(cx)), Step::Continue);
    assert!(waiting.wish().is_some(), "it still waits");
    assert!(waiting.deadline(TIMEOUTS).is_none_or(|at| at > due));
    assert!(desk.hands.driver.is_busy(client, Lane::Read));
    desk.hands.driver.end(client, Lane::Read);
    let step = desk.complete(&mut waiting, End::Client, Lane::Read, Done::Eof);
    assert_eq!(step, Step::End(Ending::ClientLeft));
    waiting.close(&mut desk.hands);
    first.close(&mut desk.hands);
}

/// The same with a wait that ends before that: the watch comes when it comes for every request.
#[test]
fn a_short_wait_in_the_queue_costs_no_watch() {
    let mut desk = Desk::new();
    let (mut waiting, client, mut first, server) = in_line(&mut desk);
    let began = desk.hands.now;
    desk.hands.now += WATCH_AFTER / 2;
    assert_eq!(desk.say(&mut first, server, &page("x")), Step::Continue);
    desk.hands.driver.take_sent(server);
    assert_eq!(desk.settle(server), Change::Rests);
    let step = act!(desk, |cx: &mut _| waiting.place_free(cx));
    assert_eq!(step, Step::Continue);
    assert_eq!(
        desk.hands.owners.of(server),
        Owner::Session(SessionId(0), End::Backend)
    );
    assert!(!desk.hands.driver.is_busy(client, Lane::Read));
    assert_eq!(waiting.deadline(TIMEOUTS), Some(began + WATCH_AFTER));
    waiting.close(&mut desk.hands);
    first.close(&mut desk.hands);
}

/// The same in the midst of a body, of which more comes when the request is sent again.
#[test]
fn a_body_that_goes_on_is_sent_again_from_its_beginning() {
    let head = head(&[("REQUEST_METHOD", "GET"), ("CONTENT_LENGTH", "9")]);
    let mut desk = Desk::new();
    let old = desk.prove();
    let (mut exchange, _client) = desk.on_resting(old, &[head.clone(), body(b"one")].concat());
    desk.hands.driver.end(old, Lane::Write);
    let broken = Done::Failed(Errno(libc::EPIPE));
    let step = desk.complete(&mut exchange, End::Backend, Lane::Write, broken);
    assert_eq!(step, Step::Continue);
    assert_eq!(desk.send(&mut exchange, &body(b"two")), Step::Continue);
    assert_eq!(desk.lose(&mut exchange, old, Done::Eof), Step::Continue);
    let new = desk.connect(&mut exchange);
    let began = [head, body(b"one"), body(b"two")].concat();
    assert_eq!(desk.hear(&mut exchange, new), keeping(began));
    let rest = [body(b"six"), body_end()].concat();
    assert_eq!(desk.send(&mut exchange, &rest), Step::Continue);
    assert_eq!(desk.hear(&mut exchange, new), rest);
}

/// An application that is to keep its connection leaves a body of unknown length where the next request should be.
#[test]
fn what_is_sent_again_of_a_body_of_unknown_length_is_not_taken_for_none() {
    let head = head(&[("REQUEST_METHOD", "POST")]);
    let mut desk = Desk::new();
    let old = desk.prove();
    let (mut exchange, _client) = desk.on_resting(old, &[head.clone(), body(b"one")].concat());
    let done = desk.hands.driver.sent(old);
    let step = desk.complete(&mut exchange, End::Backend, Lane::Write, done);
    assert_eq!(step, Step::Continue);
    assert_eq!(desk.lose(&mut exchange, old, Done::Eof), Step::Continue);
    // The end of it comes while there is no connection.
    assert_eq!(desk.send(&mut exchange, &body_end()), Step::Continue);
    let new = desk.connect(&mut exchange);
    let request = [head, body(b"one"), body_end()].concat();
    assert_eq!(desk.hear(&mut exchange, new), request);
}

/// Another program may listen where the one was that answers the fence in its turn.
#[test]
fn behind_nonsense_a_server_is_not_proven_any_more() {
    let mut desk = Desk::new();
    let old = desk.prove_twice();
    let (mut exchange, _client) = desk.on_resting(old, &get("/third"));
    let third = [keeping(get("/third")), FENCE.to_vec()].concat();
    assert_eq!(desk.hear(&mut exchange, old), third);
    let step = desk.say(&mut exchange, old, b"HTTP/1.1 400 Bad Request");
    assert!(
        matches!(step, Step::End(Ending::BadResponse(_))),
        "{step:?}"
    );

    let (mut exchange, _client) = desk.client(&get("/fourth"));
    let new = desk.connect(&mut exchange);
    assert_eq!(desk.hear(&mut exchange, new), keeping(get("/fourth")));
}

/// A client with a body that is answered before it has come, and that keeps its connection.
fn answered_early(desk: &mut Desk) -> (Exchange<Scripted>, Sock) {
    let request = keeping([post_head(12), body(b"a part")].concat());
    let (mut exchange, client) = desk.client(&request);
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    let step = desk.say(&mut exchange, server, &page("early"));
    assert_eq!(step, Step::Continue);
    let (answer, step) = desk.take(&mut exchange);
    assert_eq!((answer, step), (page("early"), Step::Continue));
    (exchange, client)
}

#[test]
fn the_rest_of_a_request_that_was_answered_early_is_no_head_that_is_late() {
    let mut desk = Desk::new();
    let (mut exchange, _client) = answered_early(&mut desk);
    let rest = [body(b"more b"), body_end()].concat();
    // It comes slowly: no next request is open while it does, nor behind it.
    let (first, last) = rest.split_at(HEADER_LEN + 2);
    for piece in [first, last] {
        assert_eq!(desk.send(&mut exchange, piece), Step::Continue);
        assert_eq!(exchange.deadline(TIMEOUTS), None);
    }
    // The head of the next one is one.
    let next = get("/next");
    assert_eq!(desk.send(&mut exchange, &next[..20]), Step::Continue);
    assert_eq!(
        exchange.deadline(TIMEOUTS),
        Some(desk.hands.now + HEAD_TIMEOUT)
    );
}

#[test]
fn a_client_that_leaves_in_what_is_left_of_an_answered_request_was_served() {
    let mut desk = Desk::new();
    let (mut exchange, client) = answered_early(&mut desk);
    assert_eq!(
        desk.send(&mut exchange, &body(b"more b")[..10]),
        Step::Continue
    );
    desk.hands.driver.end(client, Lane::Read);
    let step = desk.complete(&mut exchange, End::Client, Lane::Read, Done::Eof);
    assert_eq!(step, Step::End(Ending::Complete));
}

/// A question about the proxy is no head.
#[test]
fn behind_a_question_that_came_in_pieces_no_head_is_late() {
    let mut desk = Desk::new();
    let (mut exchange, _client) = answered_early(&mut desk);
    let rest = [body(b"more b"), body_end()].concat();
    assert_eq!(desk.send(&mut exchange, &rest), Step::Continue);
    let mut question = Vec::new();
    let mut names = Vec::new();
    push_pair(&mut names, b"FCGI_MAX_CONNS", b"");
    push_record(
        &mut question,
        Kind::GetValues,
        RequestId::MANAGEMENT,
        &names,
    );
    let (first, last) = question.split_at(10);
    assert_eq!(desk.send(&mut exchange, first), Step::Continue);
    assert_eq!(
        exchange.deadline(TIMEOUTS),
        Some(desk.hands.now + HEAD_TIMEOUT)
    );
    assert_eq!(desk.send(&mut exchange, last), Step::Continue);
    assert_eq!(exchange.deadline(TIMEOUTS), None);
}

/// The client has a part of its answer, and more of it is on its way, when its request must end for want of a buffer.
#[test]
fn an_answer_that_breaks_off_for_want_of_a_buffer_ends_in_the_sign_of_that() {
    let mut desk = Desk::new();
    let (mut exchange, _client) = desk.client(&[post_head(400), body(b"a part")].concat());
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    let beginning = stdout("Status: 200 OK\r\n\r\nhalf of ");
    assert_eq!(desk.say(&mut exchange, server, &beginning), Step::Continue);
    desk.hands.driver.lend_nothing();
    // Behind the record is a part of the next one, so it takes a buffer of its own to be sent on.
    let more = [&body(b"one")[..], &body(b"two")[..4]].concat();
    assert_eq!(desk.send(&mut exchange, &more), Step::Continue);
    assert_eq!(desk.hands.driver.closed(server), Some(Close::Reset));
    let (answer, step) = desk.take(&mut exchange);
    assert!(
        answer.starts_with(&beginning[..beginning.len() - 1]),
        "{answer:?}"
    );
    let mut sent = answer;
    if step == Step::Continue {
        let (sign, step) = desk.take(&mut exchange);
        sent.extend(sign);
        assert!(matches!(step, Step::End(Ending::NoBuffer(_))), "{step:?}");
    }
    assert!(sent.ends_with(&BROKEN_OFF), "{sent:?}");
}

#[test]
fn a_long_answer_in_small_records_goes_on_in_large_pieces() {
    let mut desk = Desk::new();
    let (mut exchange, _client) = desk.client(&get("/"));
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    let record = stdout(&"x".repeat(8 * 1024));
    let beginning = [&stdout("Status: 200 OK\r\n\r\n")[..], &record, &record].concat();
    assert_eq!(desk.say(&mut exchange, server, &beginning), Step::Continue);
    // The last record is cut in two.
    let more = record.repeat(5);
    let (first, second) = more.split_at(3 * record.len() + 100);
    desk.hands.driver.arrive(server, first);
    desk.hands.driver.arrive(server, second);
    assert_eq!(
        desk.take(&mut exchange),
        (beginning.clone(), Step::Continue)
    );
    assert_eq!(desk.take(&mut exchange), (more, Step::Continue));
    let end = page("")[stdout("Content-Type: text/plain\r\n\r\n").len()..].to_vec();
    assert_eq!(desk.say(&mut exchange, server, &end), Step::Continue);
    assert_eq!(desk.take(&mut exchange).0, end);
}

/// A request behind which the client keeps its connection.
fn get_and_stay(uri: &str) -> Vec<u8> {
    let mut bytes = get(uri);
    // FCGI_KEEP_CONN
    bytes[HEADER_LEN + 2] = 1;
    bytes
}

/// What is left out is another parameter by these rules.
fn without(desk: &mut Desk, param: &str) {
    let Protocol::Fastcgi(options) = &mut desk.policy.protocol else {
        panic!("it speaks FastCGI")
    };
    let guard = Guard::new(&GuardOptions {
        strip: vec![param.to_owned()],
        ..GuardOptions::default()
    });
    options.guard = Some(guard.unwrap());
}

#[test]
fn a_request_that_was_sent_ahead_goes_by_the_rules_of_its_own_beginning() {
    let mut desk = Desk::new();
    let both = [get_and_stay("/a"), get_and_stay("/b")].concat();
    let (mut exchange, _client) = desk.client(&both);
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    // The rules change in the midst of the first one, which ends as it began.
    without(&mut desk, "REQUEST_URI");
    desk.is_amended = true;
    assert!(!follows(&desk, &mut exchange));
    assert_eq!(desk.say(&mut exchange, server, &page("x")), Step::Continue);
    let (answer, step) = desk.take(&mut exchange);
    assert_eq!((answer, step), (page("x"), Step::Continue));
    assert!(desk.hands.driver.opened().is_none(), "the second one waits");
    assert!(follows(&desk, &mut exchange));
    desk.is_amended = false;
    let step = act!(desk, |cx: &mut _| exchange.go_on(cx));
    assert_eq!(step, Step::Continue);
    let server = desk.connect(&mut exchange);
    let heard = desk.hear(&mut exchange, server);
    assert!(!heard.windows(2).any(|two| two == b"/b"), "{heard:?}");
    assert!(!follows(&desk, &mut exchange), "it has begun");
}

/// Whether a request goes by the rules of the route.
fn follows(desk: &Desk, exchange: &mut Exchange<Scripted>) -> bool {
    let Protocol::Fastcgi(options) = &desk.policy.protocol else {
        panic!("it speaks FastCGI")
    };
    exchange.follow(options)
}

#[test]
fn the_time_for_a_head_that_has_not_begun_is_that_of_the_rules_of_now() {
    let mut desk = Desk::new();
    let (mut exchange, _client) = desk.client(&[]);
    assert!(exchange.deadline(TIMEOUTS).is_some());
    let Protocol::Fastcgi(options) = &mut desk.policy.protocol else {
        panic!("it speaks FastCGI")
    };
    options.head_timeout = None;
    assert!(follows(&desk, &mut exchange));
    assert_eq!(act!(desk, |cx: &mut _| exchange.go_on(cx)), Step::Continue);
    assert_eq!(exchange.deadline(TIMEOUTS), None);
}
