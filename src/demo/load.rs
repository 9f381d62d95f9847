//! The load: a closed loop of FastCGI requests, each on a connection of its own, each response
//! compared byte by byte with the only right one.
//!
//! The client is made of blocking standard sockets on purpose: it shares no code with the proxy
//! that it measures. Every call that could wait has a timeout, so that a proxy that hangs is a
//! failure and not a demo that hangs. (connect(2) on a Unix socket has none, but it waits only
//! behind a full backlog: the proxy's has room for many times [`super::CONCURRENCY_MAX`].)

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::responder;
use crate::fastcgi::{
    BeginRequest, Kind, RequestId, Role, push_pair, push_record, push_stream, push_stream_end,
};

/// The most requests per path: the bound on what a long `--duration` can ask of a machine.
const REQUESTS_MAX: u64 = 200_000;

/// How long one request may take. A hundred times what the slowest takes on a busy machine, and
/// still soon enough for someone who waits in front of a terminal.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);

/// The parameters of one request, encoded; the size of a plain GET as nginx sends it to PHP-FPM.
const PARAMS_LEN: usize = 600;

/// Received at one time: the whole response fits.
const CHUNK_LEN: usize = 8192;

/// The histograms' upper end in microseconds: well above [`EXCHANGE_MAX`].
const LATENCY_MAX_US: u64 = 60_000_000;

/// The histograms' precision in decimal digits.
const LATENCY_DIGITS: u8 = 3;

/// Every request has a connection of its own, so that one id serves them all.
const REQUEST_ID: RequestId = RequestId::application(NonZeroU16::MIN);

/// Where a path begins.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// The responder itself.
    Tcp(SocketAddr),
    /// The proxy.
    Unix(PathBuf),
}

/// A request that went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{path}, request {request}: {problem}")]
pub struct Failure {
    /// The path's name in the table.
    pub path: &'static str,
    /// The request's number on that path, from 1.
    pub request: u64,
    /// What was wrong.
    pub problem: Problem,
}

/// What can be wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No thread for the client.
    #[error("start a client thread: {0} (lower --concurrency or raise ulimit -u)")]
    Thread(io::Error),
    /// No local port was left.
    #[error("connect: {0} (all local ports are in use; widen net.ipv4.ip_local_port_range)")]
    Ports(io::Error),
    /// No connection, for another reason.
    #[error("connect: {0} (whoever listens there has ended or is overloaded)")]
    Connect(io::Error),
    /// The request could not be written.
    #[error("send the request: {0} (the other side closed or reset the connection)")]
    Send(io::Error),
    /// The response could not be read.
    #[error("receive the response: {cause} after {received} of {expected} bytes")]
    Receive {
        /// What the system said.
        cause: io::Error,
        /// Bytes that had come, all of them right.
        received: usize,
        /// Bytes of the right response.
        expected: usize,
    },
    /// The response took too long as a whole.
    #[error("receive the response: {received} of {expected} bytes after {EXCHANGE_MAX:?}")]
    Slow {
        /// Bytes that had come, all of them right.
        received: usize,
        /// Bytes of the right response.
        expected: usize,
    },
    /// The response ended too early.
    #[error("the response is short: it ended after {received} of {expected} bytes")]
    Short {
        /// Bytes that had come, all of them right.
        received: usize,
        /// Bytes of the right response.
        expected: usize,
    },
    /// There was something behind the response.
    #[error("the response is long: more follows its {expected} bytes")]
    Long {
        /// Bytes of the right response.
        expected: usize,
    },
    /// The response had a wrong byte.
    #[error("the response is wrong: byte {offset} of {expected} is {got:#04x}, not {want:#04x}")]
    Wrong {
        /// Where the first wrong byte is, from 0.
        offset: usize,
        /// Bytes of the right response.
        expected: usize,
        /// What came.
        got: u8,
        /// What should have come.
        want: u8,
    },
}

/// One path and what was measured on it so far.
pub(super) struct Trial {
    name: &'static str,
    target: Target,
    /// The next request's number; the clients of a round share it.
    next: AtomicU64,
    latencies_us: Histogram<u64>,
    elapsed: Duration,
}

impl Trial {
    /// A path without measurements.
    pub(super) fn new(name: &'static str, target: Target) -> Self {
        let next = AtomicU64::new(1);
        Self {
            name,
            target,
            next,
            latencies_us: histogram(),
            elapsed: Duration::ZERO,
        }
    }

    /// Sends requests for `length` with `concurrency` clients, at least one each, and adds what
    /// was measured. Ends early when `interrupted` is set or [`REQUESTS_MAX`] is reached; the time
    /// counts until the last response.
    pub(super) fn run_round(
        &mut self,
        concurrency: usize,
        length: Duration,
        interrupted: &AtomicBool,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let round = Round {
            trial: self,
            until: started + length,
            interrupted,
            failed: AtomicBool::new(false),
        };
        let latencies = round.run(concurrency)?;
        for latencies_us in latencies {
            self.latencies_us
                .add(latencies_us)
                .expect("all histograms have the same bounds");
        }
        self.elapsed += started.elapsed();
        Ok(())
    }

    /// The path's name in the table.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Requests answered rightly.
    pub(super) fn requests(&self) -> u64 {
        self.latencies_us.len()
    }

    /// Requests per second of measured time.
    pub(super) fn per_second(&self) -> u64 {
        let per_second = u128::from(self.requests()) * 1_000_000 / self.elapsed.as_micros().max(1);
        u64::try_from(per_second).unwrap_or(u64::MAX)
    }

    /// The time from before connect to the end of the response that this share of the requests
    /// stayed within, in microseconds.
    pub(super) fn quantile_us(&self, quantile: f64) -> u64 {
        self.latencies_us.value_at_quantile(quantile)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, LATENCY_DIGITS).expect("the bounds are constant")
}

/// What the clients of one round share.
struct Round<'a> {
    trial: &'a Trial,
    until: Instant,
    interrupted: &'a AtomicBool,
    /// One client has failed: the others stop. It orders no other memory; the failure itself comes
    /// back through the thread's join.
    failed: AtomicBool,
}

impl Round<'_> {
    /// Runs the clients to their end. Of several failures the one with the lowest number counts:
    /// the others may be its consequences.
    fn run(&self, concurrency: usize) -> Result<Vec<Histogram<u64>>, Failure> {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..concurrency)
                .map(|_| {
                    thread::Builder::new()
                        .name("client".to_owned())
                        .spawn_scoped(scope, || self.client())
                        .map_err(|cause| self.fail(self.next_number(), Problem::Thread(cause)))
                })
                .collect();
            let mut latencies = Vec::with_capacity(concurrency);
            let mut failures = Vec::new();
            for client in clients {
                match client.and_then(|client| client.join().expect("a client does not panic")) {
                    Ok(latencies_us) => latencies.push(latencies_us),
                    Err(failure) => failures.push(failure),
                }
            }
            failures
                .into_iter()
                .min_by_key(|failure| failure.request)
                .map_or(Ok(latencies), Err)
        })
    }

    /// One client: request after request.
    fn client(&self) -> Result<Histogram<u64>, Failure> {
        let mut latencies_us = histogram();
        let mut exchange = Exchange::default();
        loop {
            let number = self.next_number();
            if number > REQUESTS_MAX {
                return Ok(latencies_us);
            }
            exchange.prepare(self.trial.name, number);
            let started = Instant::now();
            exchange
                .run(&self.trial.target)
                .map_err(|problem| self.fail(number, problem))?;
            let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            latencies_us.saturating_record(latency_us);
            if self.is_over() {
                return Ok(latencies_us);
            }
        }
    }

    fn next_number(&self) -> u64 {
        self.trial.next.fetch_add(1, Ordering::Relaxed)
    }

    fn fail(&self, request: u64, problem: Problem) -> Failure {
        self.failed.store(true, Ordering::Relaxed);
        Failure {
            path: self.trial.name,
            request,
            problem,
        }
    }

    fn is_over(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
            || self.interrupted.load(Ordering::Relaxed)
            || Instant::now() >= self.until
    }
}

/// A request, its response and the buffers for them, which one client uses again and again.
#[derive(Default)]
struct Exchange {
    params: Vec<u8>,
    request: Vec<u8>,
    expected: Vec<u8>,
}

impl Exchange {
    /// Builds the request and the only right response, outside the measured time.
    fn prepare(&mut self, path: &str, number: u64) {
        self.params.clear();
        self.request.clear();
        self.expected.clear();
        push_request(&mut self.request, &mut self.params, path, number);
        responder::push_response(&mut self.expected, REQUEST_ID, &self.params)
            .expect("push_pair encoded the parameters");
    }

    fn run(&self, target: &Target) -> Result<(), Problem> {
        match target {
            Target::Tcp(address) => {
                self.exchange(connect_tcp(address).map_err(|cause| match cause.kind() {
                    ErrorKind::AddrNotAvailable => Problem::Ports(cause),
                    _ => Problem::Connect(cause),
                })?)
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).and_then(|stream| {
                    stream.set_read_timeout(Some(EXCHANGE_MAX))?;
                    stream.set_write_timeout(Some(EXCHANGE_MAX))?;
                    Ok(stream)
                });
                self.exchange(stream.map_err(Problem::Connect)?)
            }
        }
    }

    /// Sends the request and reads to the end: the responder closes first.
    fn exchange(&self, mut stream: impl Read + Write) -> Result<(), Problem> {
        let started = Instant::now();
        stream.write_all(&self.request).map_err(Problem::Send)?;
        let expected = self.expected.len();
        let mut received = 0;
        let mut chunk = [0; CHUNK_LEN];
        loop {
            let len = stream
                .read(&mut chunk)
                .map_err(|cause| match cause.kind() {
                    // What SO_RCVTIMEO gives when it expires (socket(7)).
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                        Problem::Slow { received, expected }
                    }
                    _ => Problem::Receive {
                        cause,
                        received,
                        expected,
                    },
                })?;
            if len == 0 && received < expected {
                return Err(Problem::Short { received, expected });
            }
            if len == 0 {
                return Ok(());
            }
            self.check(received, &chunk[..len])?;
            received += len;
            if started.elapsed() > EXCHANGE_MAX {
                return Err(Problem::Slow { received, expected });
            }
        }
    }

    /// Compares a piece of the response, which begins at `offset`.
    fn check(&self, offset: usize, piece: &[u8]) -> Result<(), Problem> {
        let expected = self.expected.len();
        let rest = &self.expected[offset..];
        let wrong = piece.iter().zip(rest).position(|(got, want)| got != want);
        match wrong {
            Some(at) => {
                let (got, want) = (piece[at], rest[at]);
                Err(Problem::Wrong {
                    offset: offset + at,
                    expected,
                    got,
                    want,
                })
            }
            None if piece.len() > rest.len() => Err(Problem::Long { expected }),
            None => Ok(()),
        }
    }
}

fn connect_tcp(address: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, EXCHANGE_MAX)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(EXCHANGE_MAX))?;
    stream.set_write_timeout(Some(EXCHANGE_MAX))?;
    Ok(stream)
}

/// Appends a complete request without a body, and its parameters alone to `params`.
pub(super) fn push_request(out: &mut Vec<u8>, params: &mut Vec<u8>, path: &str, number: u64) {
    let begin = BeginRequest {
        role: Role::Responder,
        keep_conn: false,
    };
    push_params(params, path, number);
    push_record(out, Kind::BeginRequest, REQUEST_ID, &begin.encode());
    push_stream(out, Kind::Params, REQUEST_ID, params);
    push_stream_end(out, Kind::Params, REQUEST_ID);
    push_stream_end(out, Kind::Stdin, REQUEST_ID);
}

/// The parameters of one request: no two of a run are the same. A cookie brings them to
/// [`PARAMS_LEN`] and is long enough to need a four-byte length.
fn push_params(params: &mut Vec<u8>, path: &str, number: u64) {
    const COOKIE: &[u8] = b"HTTP_COOKIE";
    const COOKIE_OVERHEAD: usize = 1 + 4 + COOKIE.len();
    let query = format!("path={path}&request={number}");
    let pairs: [(&str, &str); 8] = [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", "spliceway demo"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_FILENAME", "/srv/demo/index.php"),
        ("SCRIPT_NAME", "/index.php"),
        ("QUERY_STRING", &query),
        ("HTTP_HOST", "demo.invalid"),
    ];
    for (name, value) in pairs {
        push_pair(params, name.as_bytes(), value.as_bytes());
    }
    let cookie_len = PARAMS_LEN.saturating_sub(params.len() + COOKIE_OVERHEAD);
    push_pair(params, COOKIE, &vec![b'c'; cookie_len]);
}

#[cfg(test)]
mod tests {
    use std::io::copy;
    use std::net::Shutdown;
    use std::os::unix::net::UnixListener;

    use super::super::responder::Responder;
    use super::*;

    const CLIENTS: usize = 4;
    const ROUND: Duration = Duration::from_millis(100);

    /// A directory with a Unix listener; whoever takes the connections is up to the test.
    fn listen() -> (tempfile::TempDir, UnixListener, Target) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.sock");
        let listener = UnixListener::bind(&path).unwrap();
        (dir, listener, Target::Unix(path))
    }

    /// Relays one session; `tamper` gets the complete response before the client does.
    fn relay(mut client: UnixStream, backend: SocketAddr, tamper: fn(&mut Vec<u8>)) {
        let mut backend = TcpStream::connect(backend).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), backend.try_clone().unwrap());
        let forward = thread::spawn(move || copy(&mut from, &mut to));
        let mut response = Vec::new();
        backend.read_to_end(&mut response).unwrap();
        tamper(&mut response);
        let _ = client.write_all(&response);
        let _ = client.shutdown(Shutdown::Both);
        drop(forward.join());
    }

    /// One round through a relay that tampers with every response.
    fn round_through(tamper: fn(&mut Vec<u8>)) -> (Trial, Result<(), Failure>) {
        let responder = Responder::start(CLIENTS).unwrap();
        let backend = responder.address();
        let (_dir, listener, target) = listen();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                thread::spawn(move || relay(client, backend, tamper));
            }
        });
        let mut trial = Trial::new("through the relay", target);
        let result = trial.run_round(CLIENTS, ROUND, &AtomicBool::new(false));
        (trial, result)
    }

    #[test]
    fn the_load_passes_over_tcp() {
        let responder = Responder::start(CLIENTS).unwrap();
        let mut trial = Trial::new("tcp", Target::Tcp(responder.address()));
        for _ in 0..2 {
            trial
                .run_round(CLIENTS, ROUND, &AtomicBool::new(false))
                .unwrap();
        }
        assert!(trial.requests() >= 2 * CLIENTS as u64);
        assert!(trial.per_second() > 0);
        assert!(trial.quantile_us(0.5) <= trial.quantile_us(0.99));
    }

    #[test]
    fn the_load_passes_over_a_unix_socket() {
        let (_dir, listener, target) = listen();
        thread::spawn(move || {
            for client in listener.incoming() {
                responder::serve(client.unwrap()).unwrap();
            }
        });
        let mut trial = Trial::new("unix", target);
        trial
            .run_round(CLIENTS, ROUND, &AtomicBool::new(false))
            .unwrap();
        assert!(trial.requests() >= CLIENTS as u64);
    }

    #[test]
    fn a_faithful_relay_passes() {
        let (trial, result) = round_through(|_| {});
        result.unwrap();
        assert!(trial.requests() >= CLIENTS as u64);
    }

    #[test]
    fn a_flipped_byte_is_reported_with_its_offset() {
        let (_, result) = round_through(|response| response[1234] ^= 1);
        let failure = result.unwrap_err();
        assert!(
            matches!(failure.problem, Problem::Wrong { offset: 1234, .. }),
            "{failure}"
        );
        assert_eq!(failure.request, 1, "{failure}");
        assert!(
            failure
                .to_string()
                .starts_with("through the relay, request 1: "),
            "{failure}"
        );
    }

    #[test]
    fn a_flipped_last_byte_is_reported() {
        let (_, result) = round_through(|response| *response.last_mut().unwrap() ^= 0x80);
        let failure = result.unwrap_err();
        assert!(
            matches!(failure.problem, Problem::Wrong { offset, expected, .. } if offset == expected - 1),
            "{failure}"
        );
    }

    #[test]
    fn a_truncated_response_is_reported() {
        let (_, result) = round_through(|response| response.truncate(1000));
        let failure = result.unwrap_err();
        assert!(
            matches!(failure.problem, Problem::Short { received: 1000, .. }),
            "{failure}"
        );
    }

    #[test]
    fn a_byte_behind_the_response_is_reported() {
        let (_, result) = round_through(|response| response.push(0));
        let failure = result.unwrap_err();
        assert!(matches!(failure.problem, Problem::Long { .. }), "{failure}");
    }

    #[test]
    fn the_response_to_another_request_is_reported() {
        let mut mine = Exchange::default();
        let mut other = Exchange::default();
        mine.prepare("one", 1);
        other.prepare("other", 1);
        assert!(matches!(
            mine.check(0, &other.expected),
            Err(Problem::Wrong { .. })
        ));
        other.prepare("one", 2);
        assert!(matches!(
            mine.check(0, &other.expected),
            Err(Problem::Wrong { .. })
        ));
        assert!(mine.check(0, &mine.expected).is_ok());
    }

    #[test]
    fn nobody_listening_is_reported() {
        let address = Responder::start(1).unwrap().address();
        let mut trial = Trial::new("tcp", Target::Tcp(address));
        let failure = trial
            .run_round(1, ROUND, &AtomicBool::new(false))
            .unwrap_err();
        assert!(matches!(failure.problem, Problem::Connect(_)), "{failure}");
    }

    #[test]
    fn an_interrupt_ends_a_round_after_the_requests_in_flight() {
        let responder = Responder::start(1).unwrap();
        let mut trial = Trial::new("tcp", Target::Tcp(responder.address()));
        trial
            .run_round(1, Duration::from_secs(3600), &AtomicBool::new(true))
            .unwrap();
        assert_eq!(trial.requests(), 1);
    }

    #[test]
    fn parameters_always_have_the_same_length() {
        for (path, number) in [("a", 1), ("through spliceway (raw)", REQUESTS_MAX)] {
            let mut params = Vec::new();
            push_params(&mut params, path, number);
            assert_eq!(params.len(), PARAMS_LEN);
        }
    }
}
