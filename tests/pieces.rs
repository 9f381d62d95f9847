//! An answer in several writes comes through the proxy as soon as it comes directly, also from a backend
//! that leaves Nagle's delay on: it holds a small write back until the last one is acknowledged, which a
//! kernel may put off by 40 ms. Such a delay shows in the median of many answers; a busy machine does not.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::activation::{Activation, connect_tcp, tcp_listener};
use common::client::{receive_exact, send};
use common::sys::{in_own_network, lacks_root, set_loopback_mtu};
use common::wait::pause;
use common::{Backend, Engine, Proxy, eventually, for_each_engine};

for_each_engine!(
    pieces_of_an_answer_on_a_new_connection_come_as_soon_as_directly,
    pieces_of_an_answer_on_a_kept_connection_come_as_soon_as_directly,
    pieces_come_as_soon_as_directly_in_small_packets,
    pieces_behind_a_proxy_protocol_header_come_as_soon_as_directly,
    pieces_after_a_header_that_went_alone_come_as_soon_as_directly,
    pieces_of_a_question_come_as_soon_as_directly,
);

/// Of so many answers on either path, the median counts.
const ROUNDS: usize = 30;

/// Half of what a delayed acknowledgement costs at the least.
const LATE: Duration = Duration::from_millis(20);

/// The writes that an answer, or a question, consists of.
#[derive(Clone, Copy)]
struct Writes {
    count: u8,
    bytes: u16,
    /// Between two of them.
    pause: Duration,
}

impl Writes {
    const fn new(count: u8, bytes: u16, pause_ms: u64) -> Self {
        let pause = Duration::from_millis(pause_ms);
        Self {
            count,
            bytes,
            pause,
        }
    }

    fn len(self) -> usize {
        usize::from(self.count) * usize::from(self.bytes)
    }

    fn write(self, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let piece = vec![b'x'; usize::from(self.bytes)];
        for number in 0..self.count {
            if number > 0 && !self.pause.is_zero() {
                pause(self.pause);
            }
            write(&piece)?;
        }
        Ok(())
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            bytes,
            pause,
        } = self;
        write!(f, "{count} writes of {bytes} bytes, {pause:?} apart")
    }
}

/// Few and many, small and large; the second of two equal ones, which the kernel takes for a full
/// segment; more than fits into a receive.
const ANSWERS: [Writes; 6] = [
    Writes::new(2, 100, 0),
    Writes::new(2, 1000, 1),
    Writes::new(2, 4000, 5),
    Writes::new(10, 100, 1),
    Writes::new(10, 8200, 0),
    Writes::new(3, 16_384, 0),
];

/// Answers each question mark that it receives, and does not turn Nagle's delay off.
fn backend_with_nagle(answer: Writes) -> Backend {
    Backend::scripted(move |conversation| {
        conversation.set_nodelay(false)?;
        loop {
            while conversation.receive_exact(1)? != b"?" {}
            answer.write(|piece| conversation.send(piece))?;
        }
    })
}

/// Which connection an exchange uses.
#[derive(Clone, Copy)]
enum Connection {
    New,
    Kept,
}

/// Fails when the median of what `act` takes over `proxied` connections is late against `direct` ones.
#[track_caller]
fn assert_not_later(
    what: impl fmt::Display,
    connection: Connection,
    direct: impl Fn() -> UnixStream,
    proxied: impl Fn() -> UnixStream,
    act: impl Fn(&UnixStream),
) {
    let paths: [&dyn Fn() -> UnixStream; 2] = [&direct, &proxied];
    let kept = paths.map(|connect| match connection {
        Connection::New => None,
        Connection::Kept => Some(connect()),
    });
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (path, took) in took.iter_mut().enumerate() {
            let fresh = match kept[path] {
                None => Some(paths[path]()),
                Some(_) => None,
            };
            let stream = fresh.as_ref().or(kept[path].as_ref()).unwrap();
            let started = Instant::now();
            act(stream);
            took.push(started.elapsed());
        }
    }
    let [direct, proxied] = took.map(|mut took| {
        took.sort();
        took[ROUNDS / 2]
    });
    assert!(
        proxied <= direct + LATE,
        "{what}: {proxied:?} through the proxy, {direct:?} directly"
    );
}

fn assert_answers_are_not_later(engine: Engine, connection: Connection, more: &[&str]) {
    assert_answers_not_later_after(|_| (), engine, connection, more);
}

/// `connected` is called when a client has connected, before it asks.
fn assert_answers_not_later_after(
    connected: impl Fn(&Backend),
    engine: Engine,
    connection: Connection,
    more: &[&str],
) {
    for answer in ANSWERS {
        let backend = backend_with_nagle(answer);
        let proxy = Proxy::builder()
            .engine(engine)
            .backend(&backend)
            .args(more.iter().copied())
            .start();
        assert_not_later(
            answer,
            connection,
            || connect_tcp(backend.address()),
            || {
                let client = proxy.connect();
                connected(&backend);
                client
            },
            |stream| {
                send(stream, b"?");
                receive_exact(stream, answer.len());
            },
        );
    }
}

fn pieces_of_an_answer_on_a_new_connection_come_as_soon_as_directly(engine: Engine) {
    assert_answers_are_not_later(engine, Connection::New, &[]);
}

fn pieces_of_an_answer_on_a_kept_connection_come_as_soon_as_directly(engine: Engine) {
    assert_answers_are_not_later(engine, Connection::Kept, &[]);
}

/// What counts as a full segment, and so is sent at once, depends on the size of packets.
fn pieces_come_as_soon_as_directly_in_small_packets(engine: Engine) {
    if lacks_root() {
        return;
    }
    for mtu in [1500, 9000] {
        in_own_network(|| {
            set_loopback_mtu(mtu).unwrap();
            assert_answers_are_not_later(engine, Connection::New, &[]);
            assert_answers_are_not_later(engine, Connection::Kept, &[]);
        });
    }
}

/// The header is sent by itself, or with the client's first bytes.
fn pieces_behind_a_proxy_protocol_header_come_as_soon_as_directly(engine: Engine) {
    let header = ["--proxy-protocol", "v1"];
    assert_answers_are_not_later(engine, Connection::New, &header);
    assert_answers_are_not_later(engine, Connection::Kept, &header);
}

/// A client that takes a moment finds the header sent, and its question is the second send, which looks to the
/// kernel like the first.
fn pieces_after_a_header_that_went_alone_come_as_soon_as_directly(engine: Engine) {
    const HEADER_BYTES: u64 = b"PROXY UNKNOWN\r\n".len() as u64;
    let header_is_sent = |backend: &Backend| {
        // In each round, directly a question, and through the proxy a header and a question.
        eventually("the header is there", || {
            backend.ledger().received % (HEADER_BYTES + 2) == HEADER_BYTES + 1
        });
    };
    let header = ["--proxy-protocol", "v1"];
    assert_answers_not_later_after(header_is_sent, engine, Connection::New, &header);
}

/// A client over TCP may leave the delay on as well.
fn pieces_of_a_question_come_as_soon_as_directly(engine: Engine) {
    for question in ANSWERS {
        let backend = Backend::scripted(move |conversation| {
            loop {
                conversation.receive_exact(question.len())?;
                conversation.send(b"!")?;
            }
        });
        let (listener, address) = tcp_listener();
        let to = backend.to_string();
        let _proxy = Activation::run(engine, &["--listen", "inherit", "--backend", &to])
            .passing(&[(&listener, "x")])
            .start();
        for connection in [Connection::New, Connection::Kept] {
            assert_not_later(
                format_args!("a question of {question}"),
                connection,
                || connect_tcp(backend.address()),
                || connect_tcp(address),
                |stream| {
                    question
                        .write(|piece| {
                            send(stream, piece);
                            Ok(())
                        })
                        .unwrap();
                    assert_eq!(receive_exact(stream, 1), b"!");
                },
            );
        }
    }
}
