//! Whole loads over real sockets, rightly answered and not.

use std::io::{Read as _, Write as _, copy};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;
use crate::responder::{Options, Responder};

const CLIENTS: usize = 4;

fn responder() -> Responder {
    Responder::start(&Options {
        tcp: Some((Ipv4Addr::LOCALHOST, 0).into()),
        ..Options::default()
    })
    .unwrap()
}

/// Four clients, new connections, 600 bytes to 4 KiB, 200 requests.
fn plan(target: Target) -> Plan {
    Plan {
        target,
        pace: Pace::Closed {
            concurrency: NonZeroUsize::new(CLIENTS).unwrap(),
        },
        connections: Connections::New,
        request: synthetic(0, 4096),
        warm_up: Duration::ZERO,
        duration: Duration::from_secs(3600),
        requests_max: Some(200),
        threads: NonZeroUsize::new(2).unwrap(),
        deadline: DEADLINE_DEFAULT,
    }
}

fn synthetic(body_bytes: u64, response_bytes: u64) -> Request {
    Request::Synthetic {
        params_bytes: 600,
        params: Vec::new(),
        body_bytes,
        response_bytes,
        delay: Duration::ZERO,
    }
}

fn open(rate: f64) -> Pace {
    Pace::Open {
        rate,
        connections_max: NonZeroUsize::new(CLIENTS).unwrap(),
    }
}

fn load(plan: &Plan) -> Result<Measured, Failure> {
    run(plan, &Control::default())
}

#[test]
fn a_load_passes_with_every_kind_of_connection_and_pace() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("responder.sock");
    let responder = Responder::start(&Options {
        tcp: Some((Ipv4Addr::LOCALHOST, 0).into()),
        unix: Some(path.clone()),
        ..Options::default()
    })
    .unwrap();
    let targets = [Target::Tcp(responder.tcp().unwrap()), Target::Unix(path)];
    let requests = [
        synthetic(0, 4096),
        synthetic(5_000_000, 1024),
        synthetic(70_000, 3_000_000),
    ];
    let mut expected = 0;
    for target in targets {
        for connections in [Connections::New, Connections::Kept] {
            for pace in [plan(target.clone()).pace, open(5000.0)] {
                for request in &requests {
                    let plan = Plan {
                        pace,
                        connections,
                        request: request.clone(),
                        requests_max: Some(20),
                        ..plan(target.clone())
                    };
                    let measured =
                        load(&plan).unwrap_or_else(|failure| panic!("{failure}: {plan:?}"));
                    expected += 20;
                    assert_eq!((measured.requests, measured.latency_ns.len()), (20, 20));
                    let Request::Synthetic { response_bytes, .. } = request else {
                        unreachable!()
                    };
                    assert_eq!(measured.response_bytes, 20 * response_bytes);
                    match connections {
                        Connections::New => assert_eq!(measured.connections, 20),
                        Connections::Kept => assert!(measured.connections <= CLIENTS as u64),
                    }
                }
            }
        }
    }
    assert_eq!(responder.stop().requests, expected);
}

/// Changes a complete response.
type Tamper = fn(&mut Vec<u8>);

/// Relays one session; `tamper` gets the complete response before the client does.
fn relay(mut client: UnixStream, backend: SocketAddr, tamper: Tamper) {
    let mut backend = TcpStream::connect(backend).unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), backend.try_clone().unwrap());
    let forward = thread::spawn(move || copy(&mut from, &mut to));
    let mut response = Vec::new();
    backend.read_to_end(&mut response).unwrap();
    tamper(&mut response);
    let _ = client.write_all(&response);
    let _ = client.shutdown(Shutdown::Both);
    let _ = backend.shutdown(Shutdown::Both);
    drop(forward.join());
}

/// A load through a relay that tampers with every response.
fn load_through(tamper: Tamper) -> Result<Measured, Failure> {
    let responder = responder();
    let backend = responder.tcp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            thread::spawn(move || relay(client, backend, tamper));
        }
    });
    load(&plan(Target::Unix(path)))
}

#[test]
fn a_faithful_relay_passes() {
    assert_eq!(load_through(|_| {}).unwrap().requests, 200);
}

#[test]
fn a_tampered_answer_is_the_failure_of_one_of_the_first_requests() {
    let cases: [(Tamper, &str); 6] = [
        (
            |response| response[8 + 1234] ^= 1,
            "the answer is wrong: byte 1234 of 4096",
        ),
        (
            |response| response.copy_within(2001.., 2000),
            "the answer is wrong: byte 1992 of 4096",
        ),
        (
            |response| response.truncate(1008),
            "the connection ended after 1000 of 4096 bytes",
        ),
        (
            |response| response.push(0),
            "something follows its END_REQUEST",
        ),
        (
            |response| *response.last_mut().unwrap() ^= 0x80,
            "bytes that should be 0",
        ),
        (Vec::clear, "the connection ended after 0 of 4096 bytes"),
    ];
    for (tamper, words) in cases {
        let failure = load_through(tamper).unwrap_err();
        // The clients have begun together, and nobody knows whose answer comes first.
        assert!(
            matches!(failure, Failure::Request { request: 1..=4, .. }),
            "{failure}"
        );
        assert!(failure.to_string().contains(words), "{failure}");
    }
}

#[test]
fn nobody_listening_is_reported() {
    let address = responder().tcp().unwrap();
    let failure = load(&plan(Target::Tcp(address))).unwrap_err();
    let is_connect = matches!(
        &failure,
        Failure::Request {
            problem: Problem::Connect(_),
            ..
        }
    );
    assert!(is_connect, "{failure}");
    let failure = load(&plan(Target::Unix("/nowhere/at/all".into()))).unwrap_err();
    let words = failure.to_string();
    assert!(
        words.starts_with("unix:/nowhere/at/all, request "),
        "{words}"
    );
    assert!(words.contains(": connect: "), "{words}");
}

#[test]
fn a_hang_is_a_failure_that_names_the_deadline() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let plan = Plan {
        deadline: Duration::from_millis(100),
        ..plan(Target::Tcp(listener.local_addr().unwrap()))
    };
    let failure = load(&plan).unwrap_err().to_string();
    let words = "no answer within the deadline of 100ms: 0 of 4096 bytes of the answer had come";
    assert!(failure.contains(words), "{failure}");
}

#[test]
fn a_connection_that_is_not_closed_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let responder = responder();
    let backend = responder.tcp().unwrap();
    thread::spawn(move || {
        let mut held = Vec::new();
        for client in listener.incoming() {
            let (mut client, mut backend) = (client.unwrap(), TcpStream::connect(backend).unwrap());
            let mut request = vec![0; 4096];
            let len = client.read(&mut request).unwrap();
            backend.write_all(&request[..len]).unwrap();
            copy(&mut backend, &mut client).unwrap();
            held.push(client);
        }
    });
    let plan = Plan {
        deadline: Duration::from_millis(200),
        ..plan(Target::Unix(path))
    };
    let failure = load(&plan).unwrap_err().to_string();
    assert!(
        failure.ends_with("the answer had come and the connection was not closed"),
        "{failure}"
    );
}

#[test]
fn a_full_backlog_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full.sock");
    let listener = UnixListener::bind(&path).unwrap();
    spliceway_common::sys::net::set_backlog(std::os::fd::AsFd::as_fd(&listener), 0).unwrap();
    let responder = responder();
    let backend = responder.tcp().unwrap();
    let control = Control::default();
    let plan = Plan {
        requests_max: Some(40),
        ..plan(Target::Unix(path))
    };
    let measured = thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..40 {
                relay(listener.accept().unwrap().0, backend, |_| {});
            }
        });
        run(&plan, &control)
    });
    let measured = measured.unwrap();
    assert_eq!(measured.requests, 40);
    assert!(measured.connect_retries > 0, "the backlog was never full");
}

#[test]
fn stop_ends_a_load_after_the_requests_in_flight() {
    let responder = responder();
    let plan = Plan {
        requests_max: None,
        ..plan(Target::Tcp(responder.tcp().unwrap()))
    };
    let control = Control::default();
    let measured = thread::scope(|scope| {
        scope.spawn(|| {
            while control.answered.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            control.stop.store(true, Ordering::Relaxed);
        });
        run(&plan, &control)
    });
    let measured = measured.unwrap();
    assert!(measured.requests >= 1);
    assert_eq!(measured.requests, control.answered.load(Ordering::Relaxed));
    assert!(control.counting.load(Ordering::Relaxed));
}

#[test]
fn what_is_sent_during_the_warm_up_does_not_count() {
    let responder = responder();
    let plan = Plan {
        warm_up: Duration::from_millis(50),
        requests_max: Some(30),
        ..plan(Target::Tcp(responder.tcp().unwrap()))
    };
    let control = Control::default();
    let measured = run(&plan, &control).unwrap();
    assert_eq!(measured.requests, 30);
    assert!(control.answered.load(Ordering::Relaxed) > 30);
}

#[test]
fn an_impossible_plan_is_refused() {
    let target = Target::Unix("/nowhere".into());
    let synthetic = |params_bytes, response_bytes| Request::Synthetic {
        params_bytes,
        params: Vec::new(),
        body_bytes: 0,
        response_bytes,
        delay: Duration::ZERO,
    };
    for (request, pace, words) in [
        (
            synthetic(10, 4096),
            open(1.0),
            "10 bytes of parameters (give ",
        ),
        (
            synthetic(600, 10),
            open(1.0),
            "an answer of 10 bytes (give ",
        ),
        (synthetic(600, 4096), open(0.0), "a rate of 0 requests"),
        (
            synthetic(600, 4096),
            open(f64::NAN),
            "a rate of NaN requests",
        ),
    ] {
        let plan = Plan {
            request,
            pace,
            ..plan(target.clone())
        };
        let failure = load(&plan).unwrap_err().to_string();
        assert!(failure.contains(words), "{failure}");
    }
}

#[test]
fn shares_add_up() {
    for (all, threads) in [(1, 1), (16, 3), (7, 7), (4096, 5)] {
        let shares: Vec<_> = (0..threads)
            .map(|thread| share_of(all, thread, threads))
            .collect();
        assert_eq!(shares.iter().sum::<usize>(), all);
        assert!(shares.iter().all(|&share| share >= 1));
    }
}
