//! Workers of two processes, as far as they can tell, on both engines: what one lets go, the other takes on.

mod half_heads;

use std::collections::HashSet;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::backend::{Endpoint, Published};
use crate::config::{AtLimit, Balance, EndpointMax, OnFailure, QueueTime, RouteName};
use crate::counters::{ShareCounters, WorkerCounters};
use crate::driver::epoll::Epoll;
use crate::driver::uring::Uring;
use crate::driver::{IntoUnix, Limits};
use crate::fastcgi::{
    BeginRequest, Capacity, EndRequest, HEADER_LEN, Header, Kind, PARAMS_BYTES_MAX, ProtocolStatus,
    RequestId, RequestLimits, Role, push_pair, push_record, push_stream, push_stream_end,
};
use crate::observe::Failures;
use crate::session::{
    BUFFERS_PER_SESSION, FastcgiOptions, Policy, PoolOptions, Protocol, Timeouts,
};
use crate::sys::Errno;
use crate::sys::net::TcpOptions;
use crate::worker::{
    Backlog, Crowd, Gate, Limit, Listening, Mailbox, Notice, Order, Route, RouteChange, Share,
    ShareRules, Shared, Sharing,
};

/// How long anything may take that is to happen: it is no measure of anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The only route, and the number of its listener in the process that has one.
const ROUTE: RouteNumber = RouteNumber(0);
const LISTENER: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Engine {
    Uring,
    Epoll,
}

fn on_both_engines(test: impl Fn(Engine)) {
    [Engine::Uring, Engine::Epoll].into_iter().for_each(test);
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "it does not come about: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

// --- a process ----------------------------------------------------------------------------------

/// What a process is to serve.
struct Plan {
    endpoint: SocketAddr,
    protocol: Protocol,
    listener: Option<OwnedFd>,
    limit: Option<Limit>,
    connections_max: u32,
    route_max: Option<u32>,
}

impl Plan {
    fn new(endpoint: SocketAddr, protocol: Protocol) -> Self {
        Self {
            endpoint,
            protocol,
            listener: None,
            limit: None,
            connections_max: 1000,
            route_max: None,
        }
    }

    fn share(self, counters: &ShareCounters) -> Share {
        let published = Published::new(|| {});
        let endpoint = Endpoint {
            address: self.endpoint.into(),
            priority: 0,
            weight: 1,
        };
        published.publish(vec![endpoint], SystemTime::UNIX_EPOCH);
        let timeouts = Timeouts {
            queue: None,
            connect: PATIENCE,
            refused: None,
            silent_is_short: false,
            idle: None,
            half_closed: None,
            removed: None,
            min_rate: None,
            request: None,
        };
        let listening = |fd| Listening {
            fd,
            backlog: Backlog::Ours,
            sharing: Sharing::AnyWorker,
            introduction: Introduction::None,
        };
        let listeners = self.listener.map(|fd| (LISTENER, listening(fd)));
        Share {
            route: Arc::new(Route {
                number: ROUTE,
                name: RouteName::default(),
                published: Arc::new(published),
                session_failures: Failures::default(),
                crowd: Arc::new(Crowd::new(self.route_max)),
            }),
            listeners: listeners.into_iter().collect(),
            rules: ShareRules {
                policy: Arc::new(Policy {
                    protocol: self.protocol,
                    tcp: TcpOptions::default(),
                    timeouts,
                }),
                who: None,
                balance: Balance::default(),
                limit: self.limit,
                logs: Default::default(),
            },
            counters: counters.clone(),
            shared: None,
        }
    }
}

fn fastcgi() -> Protocol {
    Protocol::Fastcgi(FastcgiOptions {
        route: RouteName::default(),
        guard: None,
        limits: RequestLimits {
            params_bytes_max: PARAMS_BYTES_MAX,
            capacity: Capacity {
                connections_max: 1,
                requests_max: 1,
            },
        },
        pool: PoolOptions {
            reuse: true,
            idle: Duration::from_secs(60),
            settle: Duration::from_secs(1),
            requests_max: 1000,
        },
        head_timeout: None,
        queue_time: QueueTime::default(),
        classes: None,
        on_failure: OnFailure::Close,
        rejections: Default::default(),
        overridden: Default::default(),
        violations: Default::default(),
        too_slow: Default::default(),
    })
}

/// FastCGI routes have a queue, as the daemon has it.
fn queue_of(per_endpoint_max: Option<u32>) -> Option<Limit> {
    Some(Limit {
        per_endpoint_max: per_endpoint_max
            .and_then(NonZeroU32::new)
            .map(EndpointMax::Fixed),
        queue_max: 1000,
        order: None,
        classes: Default::default(),
    })
}

/// One worker, with all that it shares with the other ones of its process, of which there are none.
struct Process {
    /// Whether those that leave for it bring what was read of them.
    takes_read: bool,
    mailbox: Arc<Mailbox>,
    counters: ShareCounters,
    worker: Option<JoinHandle<Result<(), Errno>>>,
}

impl Process {
    fn start(engine: Engine, plan: Plan) -> Self {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let counters = ShareCounters::default();
        let shared = Arc::new(Shared {
            gate: Gate::new(plan.connections_max, vec![Arc::clone(&mailbox)]),
            seed: 1,
            accept_failures: Failures::default(),
            at_limit: AtLimit::Wait,
            refusals: Failures::default(),
            limit_reached: Failures::default(),
            users: None,
        });
        let shares = vec![plan.share(&counters)];
        let told = Arc::clone(&mailbox);
        let worker = thread::spawn(move || {
            let limits = Limits {
                sessions: 1000,
                per_session: BUFFERS_PER_SESSION,
                pipes_max: 8,
                into_unix: IntoUnix::Spliced,
            };
            let (waker, counters) = (told.waker(), Arc::new(WorkerCounters::default()));
            match engine {
                Engine::Uring => {
                    let driver = Uring::new(waker, limits)?;
                    Worker::new(0, driver, shares, shared, told, counters).run()
                }
                Engine::Epoll => {
                    let driver = Epoll::new(waker, limits)?;
                    Worker::new(0, driver, shares, shared, told, counters).run()
                }
            }
        });
        Self {
            takes_read: true,
            mailbox,
            counters,
            worker: Some(worker),
        }
    }

    /// All that leaves from now on goes to this one. Returns what is told of each.
    fn let_go_to(&self, other: &Self) -> Receiver<Option<usize>> {
        self.let_go_with(other, Introduction::None)
    }

    fn let_go_with(&self, other: &Self, introduction: Introduction) -> Receiver<Option<usize>> {
        let (tell, told) = channel();
        let mailbox = Arc::clone(&other.mailbox);
        let tell = Mutex::new(tell);
        let leave = Leave::new(other.takes_read, move |client: LeavingClient| {
            assert_eq!(client.route, ROUTE);
            // Who does not ask hears nothing.
            let _ = tell.lock().unwrap().send(client.listener);
            let arrived = Arrived {
                fd: client.fd,
                listener: None,
                introduction: introduction.clone(),
                read: client.read,
            };
            mailbox.order(Order::Admit(ROUTE, arrived));
        });
        self.mailbox.order(Order::LetGo(ROUTE, leave));
        told
    }

    /// Another process has accepted the far end of what this returns.
    fn admit(&self, route: RouteNumber) -> UnixStream {
        let (client, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let arrived = Arrived {
            fd: ours.into(),
            listener: None,
            introduction: Introduction::None,
            read: Vec::new(),
        };
        self.mailbox.order(Order::Admit(route, arrived));
        client
    }

    fn accepted(&self) -> u64 {
        self.counters.route.accepted.get()
    }

    fn ended_as(&self, outcome: Outcome) -> u64 {
        self.counters.route.ended[outcome as usize].get()
    }

    fn waiting(&self) -> u64 {
        self.counters.route.queue_depth.get()
    }

    fn drain(&self) {
        self.mailbox.post(Notice::Drain);
    }

    fn is_over(&self) -> bool {
        self.worker.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// The drain ends by itself.
    fn end(mut self) -> Self {
        self.drain();
        self.wait_for_end();
        self
    }

    fn wait_for_end(&mut self) {
        wait_until("the worker ends", || self.is_over());
        let worker = self.worker.take().expect("it ends once");
        worker.join().expect("it does not panic").unwrap();
    }
}

// --- clients ------------------------------------------------------------------------------------

/// Where clients connect.
enum Door {
    Unix(tempfile::TempDir),
    Tcp(SocketAddr),
}

/// A connection, of either kind.
trait Stream: Read + Write + Send + Debug {}

impl<T: Read + Write + Send + Debug> Stream for T {}

impl Door {
    fn unix() -> (Self, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("door")).unwrap();
        listener.set_nonblocking(true).unwrap();
        (Self::Unix(directory), listener.into())
    }

    fn tcp() -> (Self, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        (Self::Tcp(listener.local_addr().unwrap()), listener.into())
    }

    fn connect(&self) -> Box<dyn Stream> {
        match self {
            Self::Unix(directory) => {
                let stream = UnixStream::connect(directory.path().join("door")).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
        }
    }
}

/// The doors of both kinds, one after the other, with the listeners behind them.
fn doors() -> [(Door, OwnedFd); 2] {
    [Door::unix(), Door::tcp()]
}

fn id() -> RequestId {
    RequestId::application(std::num::NonZeroU16::MIN)
}

/// The length of what is asked for.
const URI_LEN: usize = "/r000-000000".len();

fn uri(client: usize, number: usize) -> String {
    let uri = format!("/r{client:03}-{number:06}");
    assert_eq!(uri.len(), URI_LEN);
    uri
}

/// A request whose client stays.
fn request(uri: &str) -> Vec<u8> {
    let (mut bytes, mut pairs) = (Vec::new(), Vec::new());
    let begin = BeginRequest {
        role: Role::Responder,
        keep_conn: true,
    };
    push_record(&mut bytes, Kind::BeginRequest, id(), &begin.encode());
    let params = [
        ("REQUEST_METHOD", "GET"),
        ("CONTENT_LENGTH", ""),
        ("REQUEST_URI", uri),
    ];
    for (name, value) in params {
        push_pair(&mut pairs, name.as_bytes(), value.as_bytes());
    }
    push_stream(&mut bytes, Kind::Params, id(), &pairs);
    push_stream_end(&mut bytes, Kind::Params, id());
    push_stream_end(&mut bytes, Kind::Stdin, id());
    bytes
}

/// The next record. `None`: the peer has ended.
fn read_record(stream: &mut impl Read) -> Option<(Header, Vec<u8>)> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).ok()?;
    let header = Header::decode(header).unwrap();
    let mut content = vec![0; usize::from(header.content_len) + usize::from(header.padding_len)];
    stream.read_exact(&mut content).ok()?;
    content.truncate(header.content_len.into());
    Some((header, content))
}

/// Reads an answer, which has to be the one to this request.
fn read_answer(stream: &mut impl Read, uri: &str) {
    let mut page = Vec::new();
    loop {
        let (header, content) = read_record(stream).unwrap_or_else(|| panic!("no answer to {uri}"));
        match header.kind {
            Kind::Stdout => page.extend(content),
            Kind::EndRequest => break,
            kind => panic!("{kind:?} in the answer to {uri}"),
        }
    }
    let page = String::from_utf8(page).unwrap();
    assert!(page.ends_with(uri), "{page:?} for {uri}");
}

/// A web server's connection on which one request follows another until it is stopped.
struct Visitor {
    answers: Arc<AtomicUsize>,
    thread: JoinHandle<usize>,
}

impl Visitor {
    fn start(number: usize, mut stream: Box<dyn Stream>, stop: &Arc<AtomicBool>) -> Self {
        let answers = Arc::new(AtomicUsize::new(0));
        let (counted, stop) = (Arc::clone(&answers), Arc::clone(stop));
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let number_of = counted.load(Ordering::Relaxed);
                let uri = uri(number, number_of);
                let bytes = request(&uri);
                // Some come in two pieces, and some a while after the last answer: there is no moment without one that
                // rests, one that has sent a part, and one that waits for its answer.
                let pause = || {
                    thread::sleep(Duration::from_micros(
                        300 * ((number + number_of) % 5) as u64,
                    ))
                };
                let cut = match number % 3 {
                    0 => 3 + number_of % 20,
                    _ => bytes.len(),
                };
                pause();
                stream.write_all(&bytes[..cut]).unwrap();
                if cut < bytes.len() {
                    pause();
                    stream.write_all(&bytes[cut..]).unwrap();
                }
                read_answer(&mut stream, &uri);
                counted.fetch_add(1, Ordering::Relaxed);
            }
            counted.load(Ordering::Relaxed)
        });
        Self { answers, thread }
    }

    fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }
}

// --- backends -----------------------------------------------------------------------------------

/// What backends have heard, in its order.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>, Condvar);

impl Heard {
    fn hear(&self, what: String) {
        self.0.lock().unwrap().push(what);
        self.1.notify_all();
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn wait_for(&self, count: usize) {
        let heard = self.0.lock().unwrap();
        let (heard, waited) = self
            .1
            .wait_timeout_while(heard, PATIENCE, |heard| heard.len() < count)
            .unwrap();
        drop(heard);
        assert!(!waited.timed_out(), "no {count} are heard of");
    }
}

/// A backend that has each of its connections on a thread.
fn backend(serve: impl Fn(TcpStream, &Heard) + Send + Sync + 'static) -> (SocketAddr, Arc<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, serve) = (Arc::new(Heard::default()), Arc::new(serve));
    let of_threads = Arc::clone(&heard);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, heard) = (Arc::clone(&serve), Arc::clone(&of_threads));
            thread::spawn(move || serve(stream.unwrap(), &heard));
        }
    });
    (address, heard)
}

/// Answers as PHP-FPM does, which takes a moment.
fn serve_pages(mut stream: TcpStream, heard: &Heard) {
    stream.set_nodelay(true).unwrap();
    let mut params = Vec::new();
    while let Some((header, content)) = read_record(&mut stream) {
        let mut answer = Vec::new();
        match header.kind {
            Kind::Params => params.extend(content),
            Kind::Stdin if header.content_len == 0 => {
                let at = params.windows(2).position(|bytes| bytes == b"/r").unwrap();
                let uri = String::from_utf8(params[at..][..URI_LEN].to_vec()).unwrap();
                params.clear();
                thread::sleep(Duration::from_micros(200));
                let page = format!("Content-Type: text/plain\r\n\r\n{uri}");
                push_stream(&mut answer, Kind::Stdout, id(), page.as_bytes());
                push_stream_end(&mut answer, Kind::Stdout, id());
                let end = EndRequest {
                    app_status: 0,
                    protocol_status: ProtocolStatus::RequestComplete,
                };
                push_record(&mut answer, Kind::EndRequest, id(), &end.encode());
                heard.hear(uri);
            }
            Kind::GetValues => {
                push_record(
                    &mut answer,
                    Kind::GetValuesResult,
                    RequestId::MANAGEMENT,
                    &[],
                );
            }
            _ => {}
        }
        // It leaves when it likes.
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

/// Says a line back and ends, the first one only when it may.
fn serve_lines(may_end: Receiver<()>) -> impl Fn(TcpStream, &Heard) {
    let first = Mutex::new(Some(may_end));
    move |mut stream, heard| {
        let mut line = Vec::new();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && byte != *b"\n" {
            line.extend(byte);
        }
        let line = String::from_utf8(line).unwrap();
        // Before anybody knows of it, or another one could be the first.
        let waits = first.lock().unwrap().take();
        heard.hear(line.clone());
        if let Some(may_end) = waits {
            may_end.recv_timeout(PATIENCE).unwrap();
        }
        stream.write_all(line.as_bytes()).unwrap();
    }
}

fn lines() -> (SocketAddr, Arc<Heard>, Sender<()>) {
    let (let_end, may_end) = channel();
    let (address, heard) = backend(serve_lines(may_end));
    (address, heard, let_end)
}

/// All that a client gets. Then it leaves.
fn read_all(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

// --- FastCGI ------------------------------------------------------------------------------------

#[test]
fn clients_go_over_between_two_requests_and_no_request_is_lost_or_doubled() {
    const VISITORS: usize = 24;
    on_both_engines(|engine| {
        for (door, listener) in doors() {
            let (endpoint, heard) = backend(serve_pages);
            let plan = || Plan {
                limit: queue_of(Some(8)),
                ..Plan::new(endpoint, fastcgi())
            };
            let before = Plan {
                listener: Some(listener),
                ..plan()
            };
            let mut before = Process::start(engine, before);
            let after = Process::start(engine, plan());
            let stop = Arc::new(AtomicBool::new(false));
            // Nothing of it has come, when the first process is long gone.
            let mut silent = door.connect();
            let visitors: Vec<_> = (0..VISITORS)
                .map(|number| Visitor::start(number, door.connect(), &stop))
                .collect();
            let all_have = |answers: usize| visitors.iter().all(|v| v.answers() >= answers);
            wait_until("all are served", || {
                all_have(5) && before.accepted() == 1 + VISITORS as u64
            });

            let told = before.let_go_to(&after);
            before.drain();
            before.wait_for_end();
            let most = visitors.iter().map(Visitor::answers).max().unwrap();
            wait_until("all are served on", || all_have(most + 5));
            let last = uri(999, 0);
            silent.write_all(&request(&last)).unwrap();
            read_answer(&mut silent, &last);

            stop.store(true, Ordering::Relaxed);
            let made = visitors.into_iter().map(|v| v.thread.join().unwrap());
            let made = 1 + made.sum::<usize>();
            let after = after.end();
            let heard = heard.all();
            let different: HashSet<_> = heard.iter().collect();
            assert_eq!((heard.len(), different.len()), (made, made));
            let clients = 1 + VISITORS as u64;
            assert_eq!(before.ended_as(Outcome::HandedOver), clients);
            assert_eq!((before.accepted(), after.accepted()), (clients, clients));
            let listeners: Vec<_> = told.iter().collect();
            assert_eq!(listeners, vec![Some(LISTENER); 1 + VISITORS]);
        }
    });
}

#[test]
fn who_comes_to_a_route_that_lets_go_is_passed_on_without_being_served() {
    on_both_engines(|engine| {
        let (door, listener) = Door::unix();
        let (endpoint, _) = backend(serve_pages);
        let before = Plan {
            listener: Some(listener),
            // Nobody is to need a permit for that.
            connections_max: 1,
            ..Plan::new(endpoint, fastcgi())
        };
        let before = Process::start(engine, before);
        let after = Process::start(engine, Plan::new(endpoint, fastcgi()));
        let told = before.let_go_to(&after);
        let mut accepted = [(); 3].map(|()| door.connect());
        let mut arrived = before.admit(ROUTE);
        for (number, client) in accepted.iter_mut().enumerate() {
            let uri = uri(number, 0);
            client.write_all(&request(&uri)).unwrap();
            read_answer(client, &uri);
        }
        let last = uri(3, 0);
        arrived.write_all(&request(&last)).unwrap();
        read_answer(&mut arrived, &last);
        let before = before.end();
        assert_eq!(before.ended_as(Outcome::HandedOver), 4);
        assert_eq!((before.accepted(), after.accepted()), (4, 4));
        assert_eq!(told.iter().filter(Option::is_none).count(), 1);
        after.end();
    });
}

// --- bytes --------------------------------------------------------------------------------------

#[test]
fn those_who_wait_for_a_place_go_over_in_the_order_in_which_they_came() {
    const CLIENTS: usize = 8;
    on_both_engines(|engine| {
        for (door, listener) in doors() {
            let (endpoint, heard, let_end) = lines();
            let plan = || Plan {
                limit: queue_of(Some(1)),
                ..Plan::new(endpoint, Protocol::Raw)
            };
            let before = Plan {
                listener: Some(listener),
                ..plan()
            };
            let mut before = Process::start(engine, before);
            let after = Process::start(engine, plan());
            let line = |number: usize| format!("client {number}\n");
            let mut clients = Vec::new();
            for number in 0..CLIENTS {
                let mut client = door.connect();
                // Of every second one there is nothing yet.
                if number % 2 == 0 {
                    client.write_all(line(number).as_bytes()).unwrap();
                }
                clients.push(client);
                let waiting = number as u64;
                wait_until("it waits behind the others", || {
                    before.accepted() == waiting + 1 && before.waiting() == waiting
                });
                heard.wait_for(1);
            }
            let told = before.let_go_with(&after, Introduction::Fixed(b"PROXY ".as_slice().into()));
            before.drain();
            wait_until("they have gone", || {
                before.ended_as(Outcome::HandedOver) == CLIENTS as u64 - 1
            });
            assert!(!before.is_over(), "the first one is being served");
            for number in (1..CLIENTS).step_by(2) {
                clients[number].write_all(line(number).as_bytes()).unwrap();
            }
            let mut clients = clients.into_iter();
            let first = clients.next().unwrap();
            for (number, client) in (1..).zip(clients) {
                assert_eq!(read_all(client), format!("PROXY client {number}"));
            }
            let_end.send(()).unwrap();
            assert_eq!(read_all(first), "client 0");
            before.wait_for_end();
            let after = after.end();
            let others = (1..CLIENTS).map(|number| format!("PROXY client {number}"));
            let expected: Vec<_> = [String::from("client 0")]
                .into_iter()
                .chain(others)
                .collect();
            assert_eq!(heard.all(), expected);
            assert_eq!(after.accepted(), CLIENTS as u64 - 1);
            assert_eq!(told.iter().count(), CLIENTS - 1);
        }
    });
}

#[test]
fn one_that_nobody_could_be_connected_for_leaves_with_what_it_has_sent() {
    on_both_engines(|engine| {
        let (door, listener) = Door::unix();
        let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = refusing.local_addr().unwrap();
        drop(refusing);
        let before = Plan {
            listener: Some(listener),
            limit: queue_of(Some(1)),
            ..Plan::new(nobody, Protocol::Raw)
        };
        let before = Process::start(engine, before);
        let (endpoint, heard, let_end) = lines();
        let after = Process::start(engine, Plan::new(endpoint, Protocol::Raw));
        let mut client = door.connect();
        // It is let in at once, and what it has sent is copied for a connection that is refused.
        client.write_all(b"a line").unwrap();
        wait_until("it waits", || before.waiting() == 1);
        let _told = before.let_go_to(&after);
        let before = before.end();
        assert_eq!(before.ended_as(Outcome::HandedOver), 1);
        client.write_all(b", whole\n").unwrap();
        heard.wait_for(1);
        let_end.send(()).unwrap();
        assert_eq!(read_all(client), "a line, whole");
        after.end();
    });
}

#[test]
fn one_that_arrives_waits_for_a_permit_also_when_nobody_new_comes() {
    on_both_engines(|engine| {
        let (endpoint, heard, let_end) = lines();
        let plan = Plan {
            connections_max: 1,
            ..Plan::new(endpoint, Protocol::Raw)
        };
        let process = Process::start(engine, plan);
        let [mut first, mut second, mut third] = [(); 3].map(|()| process.admit(ROUTE));
        first.write_all(b"first\n").unwrap();
        second.write_all(b"second\n").unwrap();
        third.write_all(b"third\n").unwrap();
        heard.wait_for(1);
        process.drain();
        assert_eq!(process.accepted(), 1);
        let_end.send(()).unwrap();
        for (client, line) in [(first, "first"), (second, "second"), (third, "third")] {
            assert_eq!(read_all(client), line);
        }
        let process = process.end();
        assert_eq!(process.accepted(), 3);
        assert_eq!(heard.all(), ["first", "second", "third"]);
    });
}

#[test]
fn one_that_arrives_waits_until_its_route_has_its_part_of_the_sessions() {
    on_both_engines(|engine| {
        let (endpoint, heard, let_end) = lines();
        let plan = Plan {
            route_max: Some(1),
            ..Plan::new(endpoint, Protocol::Raw)
        };
        let process = Process::start(engine, plan);
        let [mut first, mut second] = [(); 2].map(|()| process.admit(ROUTE));
        first.write_all(b"first\n").unwrap();
        second.write_all(b"second\n").unwrap();
        heard.wait_for(1);
        assert_eq!(process.accepted(), 1);
        let_end.send(()).unwrap();
        assert_eq!(read_all(first), "first");
        assert_eq!(read_all(second), "second");
        process.end();
    });
}

#[test]
fn one_of_a_route_that_is_going_is_served_and_one_of_a_route_that_is_gone_is_closed() {
    on_both_engines(|engine| {
        let (endpoint, heard, let_end) = lines();
        let process = Process::start(engine, Plan::new(endpoint, Protocol::Raw));
        let mut first = process.admit(ROUTE);
        first.write_all(b"first\n").unwrap();
        heard.wait_for(1);
        let retire = vec![RouteChange::Retire(ROUTE)];
        process.mailbox.order(Order::Reconfigure(retire));
        let mut second = process.admit(ROUTE);
        second.write_all(b"second\n").unwrap();
        assert_eq!(read_all(second), "second");
        let_end.send(()).unwrap();
        assert_eq!(read_all(first), "first");
        let late = process.admit(RouteNumber(1));
        assert_eq!(read_all(late), "");
        process.end();
    });
}
