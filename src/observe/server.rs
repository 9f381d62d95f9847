//! HTTP over the metrics address and over the control socket.
//!
//! Anybody may talk to the metrics address, so everything is bounded: how many connections there are,
//! how much a request may be, and how long a connection lives, which carries one request. All of it
//! runs on the main thread, as tasks that share it with the daemon's signals; workers know nothing of
//! it. Commands ([`commanding`]) are for the control socket.

mod asker;
mod asking;
mod commanding;
mod probes;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{self, Instant};

use super::page;
use super::requests;
use super::{Observed, metrics};
use crate::commands::Commander;
use asker::Asker;
pub(crate) use commanding::COMMANDS_MAX;
use commanding::{Desk, Operator, Successor};

/// Conversations at one time, of each listener. A Prometheus has one, and a few of them, probes and
/// people fit in together.
pub(crate) const CONNECTIONS_MAX: usize = 16;

/// With all places taken, one conversation ends for the next one: whoever holds all of them must not hold up
/// a probe, for which an orchestrator kills the daemon, and which usually waits for a second. Of those that
/// have not said what they want, the oldest goes at once. If all have, the oldest goes when it has lasted
/// for this long: a scrape takes a few milliseconds, and some hundred clients a second that do not take
/// their answers delay nobody.
const GIVES_WAY_AFTER: Duration = Duration::from_millis(50);

/// How long a connection lives: as long as Prometheus waits for a scrape by default (10 s).
/// A command has a time of its own.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the head of a request may take. Who has not said what it wants by then does not mean to.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a request's head. Prometheus sends about 300; hyper takes no less than 8,192.
const HEAD_BYTES_MAX: usize = 8192;

/// Headers of a request. Prometheus sends five; a proxy in between adds some.
const HEADERS_MAX: usize = 64;

/// How long accepting pauses after it failed: for want of descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where requests come from.
pub(crate) enum SiteListener {
    /// The metrics address, and whether what clients send is shown there as well.
    Metrics(TcpListener, bool),
    /// The control socket, for who may open it, and where commands that come there go.
    Control(UnixListener, Commander),
}

/// What a listener answers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Site {
    Metrics,
    /// The same, `/status` and commands.
    Control,
}

/// Answers for as long as it is polled. Once whoever holds the other end of `is_open` has sent something, or dropped it,
/// the listener is closed, and those conversations that have begun are finished. The other end is closed with that.
pub(crate) async fn serve(
    listening: SiteListener,
    observed: Arc<Observed>,
    mut is_open: watch::Receiver<()>,
) {
    let entrance = Entrance::new(listening);
    let site = entrance.site();
    let mut conversations = Conversations::default();
    loop {
        let accepted = tokio::select! {
            accepted = entrance.accept() => accepted,
            _ = is_open.changed() => break,
        };
        match accepted {
            Ok((stream, asker)) => {
                let observed = Arc::clone(&observed);
                conversations.make_room().await;
                conversations.begin(move |progress| async move {
                    converse(stream, asker, &observed, &progress).await;
                });
            }
            Err(error) => {
                tracing::debug!("accept on the {site:?} listener: {error}");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(entrance);
    while conversations.tasks.join_next().await.is_some() {}
}

/// Those that go on, at most [`CONNECTIONS_MAX`] besides those that command. Dropped, they end.
#[derive(Default)]
struct Conversations {
    tasks: JoinSet<()>,
    /// The oldest first.
    begun: VecDeque<Begun>,
}

struct Begun {
    at: Instant,
    task: AbortHandle,
    progress: Arc<Progress>,
}

/// How far a conversation is.
struct Progress {
    /// Whether a whole head has come.
    asked: AtomicBool,
    /// The place of a command, which makes way for nobody.
    commands: OnceLock<OwnedSemaphorePermit>,
    /// When it has lasted for long enough. `None`: a command has its own time.
    until: watch::Sender<Option<Instant>>,
}

impl Progress {
    /// It has just begun.
    fn new() -> Self {
        let until = Some(Instant::now() + CONNECTION_TIMEOUT);
        Self {
            asked: AtomicBool::new(false),
            commands: OnceLock::new(),
            until: watch::Sender::new(until),
        }
    }

    /// A command is carried out.
    fn begin_command(&self, place: OwnedSemaphorePermit) {
        let is_first = self.commands.set(place).is_ok();
        assert!(is_first, "one connection is one request");
        self.until.send_replace(None);
    }

    /// It is over, and its answer has to be taken.
    fn end_command(&self) {
        let until = Instant::now() + CONNECTION_TIMEOUT;
        self.until.send_replace(Some(until));
    }

    /// Returns when the conversation's time is over.
    async fn time_is_over(&self) {
        let mut changes = self.until.subscribe();
        loop {
            let until = *changes.borrow_and_update();
            tokio::select! {
                () = sleep_until(until) => return,
                _ = changes.changed() => {}
            }
        }
    }
}

/// Never, if there is no such time.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => time::sleep_until(time).await,
        None => pending().await,
    }
}

impl Conversations {
    /// Waits until there is a place. If none gets free, one gives way.
    async fn make_room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.begun.retain(|begun| !begun.task.is_finished());
            let commands = |begun: &Begun| begun.progress.commands.get().is_some();
            let others = self.begun.iter().filter(|begun| !commands(begun));
            if others.count() < CONNECTIONS_MAX {
                return;
            }
            // Each has a turn, in which it sees what has come for it.
            tokio::task::yield_now().await;
            let silent = |begun: &Begun| !begun.progress.asked.load(Ordering::Relaxed);
            let oldest = self.begun.iter().position(|begun| !commands(begun));
            let (number, gives_way_at) = match (self.begun.iter().position(silent), oldest) {
                (Some(number), _) => (number, Instant::now()),
                (None, Some(number)) => (number, self.begun[number].at + GIVES_WAY_AFTER),
                // All of them have come to command in that turn.
                (None, None) => continue,
            };
            tokio::select! {
                biased;
                _ = self.tasks.join_next() => {}
                () = time::sleep_until(gives_way_at) => {
                    if let Some(begun) = self.begun.remove(number) {
                        begun.task.abort();
                    }
                    // Whichever it was that ended: its descriptor is free.
                    self.tasks.join_next().await;
                }
            }
        }
    }

    fn begin<C>(&mut self, conversation: impl FnOnce(Arc<Progress>) -> C)
    where
        C: Future<Output = ()> + Send + 'static,
    {
        let progress = Arc::new(Progress::new());
        let task = self.tasks.spawn(conversation(Arc::clone(&progress)));
        self.begun.push_back(Begun {
            at: Instant::now(),
            task,
            progress,
        });
    }
}

/// A listener, and what those who come in there may do.
enum Entrance {
    Metrics(TcpListener, bool),
    Control(UnixListener, Arc<Desk>),
}

impl Entrance {
    fn new(listening: SiteListener) -> Self {
        match listening {
            SiteListener::Metrics(listener, details) => Self::Metrics(listener, details),
            SiteListener::Control(listener, commander) => {
                Self::Control(listener, Arc::new(Desk::new(commander)))
            }
        }
    }

    fn site(&self) -> Site {
        match self {
            Self::Metrics(..) => Site::Metrics,
            Self::Control(..) => Site::Control,
        }
    }

    /// The next connection, and who is at its other end.
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Asker)> {
        match self {
            Self::Metrics(listener, details) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), Asker::Anybody { details: *details }))
            }
            Self::Control(listener, desk) => {
                let (stream, _) = listener.accept().await?;
                let operator = Operator::of(&stream, Arc::clone(desk))?;
                Ok((Box::new(stream), Asker::Operator(operator)))
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One connection: one request and its answer.
async fn converse(stream: Box<dyn Stream>, asker: Asker, observed: &Observed, progress: &Progress) {
    let site = Site::of(asker.operator());
    let successor = Successor::default();
    let service = service_fn(async |request: Request<Incoming>| {
        progress.asked.store(true, Ordering::Relaxed);
        let answer = match asker.operator() {
            Some(operator) if request.uri().path() == commanding::PATH => {
                operator.answer(request, progress).await
            }
            Some(operator) if request.uri().path() == commanding::TAKE_OVER_PATH => {
                operator.welcome_successor(request, &successor)
            }
            Some(_) | None => answer(&asker, &request, observed).await,
        };
        Ok::<_, Infallible>(answer)
    });
    let conversation = http1::Builder::new()
        .keep_alive(false)
        // Who has said all it wants may end its side, as `nc -N` and `socat` do.
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        conversed = conversation => if let Err(error) = conversed {
            tracing::debug!("answer on the {site:?} listener: {error}");
        },
        () = progress.time_is_over() => {
            tracing::debug!("answer on the {site:?} listener: not taken in time");
        }
    }
    if let Asker::Operator(operator) = asker {
        operator.hand_on(successor).await;
    }
}

async fn answer(
    asker: &Asker,
    request: &Request<Incoming>,
    observed: &Observed,
) -> Response<Full<Bytes>> {
    let (operator, path) = (asker.operator(), request.uri().path());
    let is_known = match path {
        "/metrics" | "/healthz" | "/readyz" | page::PATH | page::FIGURES_PATH => true,
        "/status" | requests::PATH => operator.is_some(),
        _ => false,
    };
    if !is_known {
        let site = Site::of(operator);
        return of_text(StatusCode::NOT_FOUND, site.directory().to_owned());
    }
    let body_follows = match *request.method() {
        Method::GET => true,
        Method::HEAD => false,
        _ => return method_not_allowed("GET, HEAD", "only GET and HEAD\n"),
    };
    let response = match (path, operator) {
        ("/metrics", _) => metrics_text(observed),
        ("/status", Some(_)) => asking::status(observed, asker.audience(request.headers())),
        (requests::PATH, Some(operator)) => asking::answer(observed, operator, request).await,
        (page::PATH, _) => asking::page(),
        (page::FIGURES_PATH, _) => {
            let audience = asker.audience(request.headers());
            asking::page_figures(observed, audience).await
        }
        ("/healthz", _) => probes::health(observed).await,
        _ => probes::readiness(observed),
    };
    if body_follows {
        return response;
    }
    headless(response)
}

impl Site {
    fn of(operator: Option<&Operator>) -> Self {
        match operator {
            Some(_) => Self::Control,
            None => Self::Metrics,
        }
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Metrics => "there are / (the status page), /metrics, /healthz and /readyz\n",
            Self::Control => {
                "there are / (the status page), /status, /requests, /metrics, /healthz and /readyz, and commands at \
                 /command\n"
            }
        }
    }
}

fn metrics_text(observed: &Observed) -> Response<Full<Bytes>> {
    match metrics::render(observed.status()) {
        Ok(text) => of(StatusCode::OK, metrics::CONTENT_TYPE, text.into()),
        Err(error) => failed(&error),
    }
}

fn method_not_allowed(allowed: &'static str, explanation: &str) -> Response<Full<Bytes>> {
    let mut refusal = of_text(StatusCode::METHOD_NOT_ALLOWED, explanation.to_owned());
    let allowed = HeaderValue::from_static(allowed);
    refusal.headers_mut().insert(ALLOW, allowed);
    refusal
}

fn failed(error: &dyn std::error::Error) -> Response<Full<Bytes>> {
    of_text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
}

fn of_text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    of(status, "text/plain; charset=utf-8", text.into())
}

fn of(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// As for GET, its length included (RFC 9110, section 9.3.2), and without the body.
fn headless(response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let (mut head, body) = response.into_parts();
    let length = hyper::body::Body::size_hint(&body).exact().unwrap_or(0);
    head.headers.insert(CONTENT_LENGTH, length.into());
    Response::from_parts(head, Full::default())
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{Shutdown, SocketAddr, TcpStream};

    use tokio::runtime;

    use super::*;
    use crate::backend::Published;
    use crate::counters::{LookupCounters, WorkerCounters};
    use crate::observe::{
        ConfigFigures, DaemonPhase, EndpointFigures, ObservedRoute, ObservedRoutes, ObservedWorker,
        RouteLimits,
    };

    /// A daemon without threads, of which the workers' turns are played.
    struct Stage {
        observed: Arc<Observed>,
        published: Arc<Published>,
        /// Whether worker 1 turns when it is poked.
        alive: Arc<AtomicBool>,
        address: SocketAddr,
        _open: watch::Sender<()>,
        _runtime: runtime::Runtime,
    }

    fn worker(alive: Arc<AtomicBool>) -> ObservedWorker {
        let counters = Arc::new(WorkerCounters::default());
        let turns = Arc::clone(&counters);
        let poke = move || {
            if alive.load(Ordering::Relaxed) {
                turns.turns.add(1);
            }
        };
        ObservedWorker {
            counters,
            poke: Box::new(poke),
            look: Box::new(drop),
        }
    }

    fn route(published: &Arc<Published>) -> ObservedRoute {
        ObservedRoute {
            name: "main".to_owned(),
            listeners: vec!["unix:/run/x.sock".to_owned()],
            published: Arc::clone(published),
            lookups: Arc::new(LookupCounters::default()),
            speaks_fastcgi: false,
            limits: RouteLimits::default(),
            classes: Vec::new(),
            shares: Vec::new(),
            endpoint_figures: Arc::new(EndpointFigures::default()),
            fpm: Arc::default(),
        }
    }

    /// Two workers, of which the second turns for as long as this says, and a route with these endpoints.
    pub(in crate::observe) fn observed(
        alive: &Arc<AtomicBool>,
        published: &Arc<Published>,
    ) -> Observed {
        let always = Arc::new(AtomicBool::new(true));
        Observed {
            engine: "epoll".to_owned(),
            sessions_max: 10,
            workers: vec![worker(always), worker(Arc::clone(alive))],
            routes: ObservedRoutes::new(vec![route(published)]),
            access_log_write_errors: Box::new(|| 0),
            log_lines_dropped: Box::new(|| 3),
            events: Box::new(Vec::new),
            phase: DaemonPhase::default(),
            config: ConfigFigures::new("0123456789abcdef".to_owned()),
            socket_files_missing: Default::default(),
            look_turn: Default::default(),
            page: Default::default(),
        }
    }

    impl Stage {
        fn new() -> Self {
            let published = Arc::new(Published::new(|| {}));
            let alive = Arc::new(AtomicBool::new(true));
            let observed = Arc::new(observed(&alive, &published));
            let runtime = runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            let address = listener.local_addr().unwrap();
            let (open, is_open) = watch::channel(());
            let server = serve(
                SiteListener::Metrics(listener, false),
                Arc::clone(&observed),
                is_open,
            );
            runtime.spawn(server);
            Self {
                observed,
                published,
                alive,
                address,
                _open: open,
                _runtime: runtime,
            }
        }

        fn publish(&self) {
            let endpoint: SocketAddr = "192.0.2.1:1".parse().unwrap();
            self.published
                .publish([endpoint], std::time::SystemTime::now());
        }

        fn open(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            let guard = Some(Duration::from_secs(60));
            stream.set_read_timeout(guard).unwrap();
            stream
        }

        fn say(&self, request: &str) -> String {
            let mut stream = self.open();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            // Who was refused may have been reset.
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8(answer).unwrap()
        }

        fn get(&self, path: &str) -> (u16, String) {
            let answer = self.say(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].parse().unwrap(), body.to_owned())
        }
    }

    #[test]
    fn metrics_are_answered_with_their_type() {
        let stage = Stage::new();
        let answer = stage.say("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let kind = format!("content-type: {}\r\n", metrics::CONTENT_TYPE);
        assert!(answer.contains(&kind), "{answer}");
        assert!(answer.contains("\nspliceway_log_lines_dropped_total 3\n"));
        assert!(answer.ends_with("# EOF\n"));
    }

    #[test]
    fn a_head_is_the_same_without_the_body() {
        let stage = Stage::new();
        stage.publish();
        let answer = stage.say("HEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-length: 6\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn what_is_not_there_or_not_allowed_is_said() {
        let stage = Stage::new();
        let (code, body) = stage.get("/nothing");
        assert_eq!(code, 404);
        assert!(body.contains("/metrics"), "{body}");
        // It is for who may open the control socket.
        assert_eq!(stage.get("/status").0, 404);
        let refusal = stage.say("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert!(refusal.starts_with("HTTP/1.1 405 "), "{refusal}");
        assert!(refusal.contains("allow: GET, HEAD\r\n"), "{refusal}");
    }

    #[test]
    fn the_daemon_is_ready_when_each_route_has_an_endpoint_and_until_it_drains() {
        let stage = Stage::new();
        let none = (503, "route main: no endpoint is known\n".to_owned());
        assert_eq!(stage.get("/readyz"), none);
        stage.publish();
        assert_eq!(stage.get("/readyz"), (200, "ready\n".to_owned()));
        stage.observed.phase.drain();
        let draining = (503, "the daemon is draining\n".to_owned());
        assert_eq!(stage.get("/readyz"), draining);
    }

    #[test]
    fn a_route_whose_last_endpoint_does_not_answer_is_not_ready() {
        let stage = Stage::new();
        stage.publish();
        let set = stage.published.load_full();
        let now = std::time::Instant::now();
        stage
            .published
            .unreachable(&set.health()[0], &"refused", now);
        let reason = "route main: endpoint 192.0.2.1:1 does not answer\n".to_owned();
        assert_eq!(stage.get("/readyz"), (503, reason));
        stage.published.reached(&set.health()[0], now);
        assert_eq!(stage.get("/readyz").0, 200);
    }

    #[test]
    fn a_worker_that_does_not_turn_is_named() {
        let stage = Stage::new();
        assert_eq!(stage.get("/healthz"), (200, "ok\n".to_owned()));
        stage.alive.store(false, Ordering::Relaxed);
        let stuck = (503, "worker 1 does not turn\n".to_owned());
        assert_eq!(stage.get("/healthz"), stuck);
        stage.observed.workers[1].counters.finished.set(1);
        assert_eq!(stage.get("/healthz").0, 200);
    }

    #[test]
    fn a_request_that_is_too_large_or_no_request_is_refused() {
        let stage = Stage::new();
        let long = format!(
            "GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n",
            "x".repeat(100_000)
        );
        let answer = stage.say(&long);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
        let many = "A: b\r\n".repeat(HEADERS_MAX + 1);
        let answer = stage.say(&format!("GET /metrics HTTP/1.1\r\n{many}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        let answer = stage.say("\0\0\0 nonsense\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(stage.get("/metrics").0, 200);
    }

    #[test]
    fn who_says_nothing_gives_its_place_to_others() {
        let stage = Stage::new();
        let began = Instant::now();
        let silent: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| stage.open()).collect();
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut deaf = Vec::new();
        for _ in 0..4 {
            let mut stream = stage.open();
            stream.write_all(request.as_bytes()).unwrap();
            deaf.push(stream);
        }
        assert_eq!(stage.get("/healthz").0, 200);
        // Not because their time was up: others had come as early. A slow machine cannot tell.
        let mut last = &silent[CONNECTIONS_MAX - 1];
        last.set_nonblocking(true).unwrap();
        let nothing = last.read(&mut [0; 1]).map_err(|error| error.kind());
        if began.elapsed() < HEAD_TIMEOUT {
            assert_eq!(nothing, Err(ErrorKind::WouldBlock));
        }
        let oldest = (&silent[0]).read(&mut [0; 1]);
        assert!(matches!(oldest, Ok(0) | Err(_)), "{oldest:?}");
    }

    #[test]
    fn a_flood_of_clients_that_say_nothing_delays_nobody() {
        let stage = Stage::new();
        let began = Instant::now();
        let mut silent = VecDeque::new();
        for number in 0..1000 {
            let mut stream = stage.open();
            if number % 2 == 0 {
                stream.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
            }
            silent.push_back(stream);
            // The test has a limit of descriptors of its own.
            if silent.len() > 200 {
                silent.pop_front();
            }
            if number % 100 == 99 {
                assert_eq!(stage.get("/healthz").0, 200);
            }
        }
        // If each place had to be waited for as long as one of a client that has asked, this would take some
        // seconds more; and 15 s with the 250 ms that it used to be.
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
    }

    #[test]
    fn a_head_that_comes_drop_by_drop_has_no_more_time() {
        let stage = Stage::new();
        let mut stream = stage.open();
        let pause = Some(Duration::from_millis(20));
        stream.set_read_timeout(pause).unwrap();
        let began = std::time::Instant::now();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
        // Until the other side ends it.
        while stream.write_all(b"A: b\r\n").is_ok() {
            match stream.read(&mut [0; 100]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => break,
            }
        }
        assert!(
            began.elapsed() < CONNECTION_TIMEOUT,
            "{:?}",
            began.elapsed()
        );
    }

    #[test]
    fn who_has_ended_its_side_is_answered() {
        let stage = Stage::new();
        let mut stream = stage.open();
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("ok\n"), "{answer:?}");
    }

    #[test]
    fn one_connection_is_one_request() {
        let stage = Stage::new();
        let twice = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
        assert_eq!(stage.say(&twice).matches("HTTP/1.1").count(), 1);
    }
}
