//! `--idle-timeout`: who reads is not idle, however slowly; who has stopped is.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use common::client::send;
use common::fastcgi::{Client, Heard, Request, page, stdout};
use common::proxy::{Builder, fresh_dir};
use common::sys::set_receive_buffer;
use common::wait::{GUARD, pause};
use common::{Backend, Engine, KB, MB, Pattern, Proxy, eventually, for_each_engine};

for_each_engine!(
    a_client_that_reads_what_is_left_of_its_answer_is_not_idle,
    a_backend_that_reads_slowly_is_not_idle,
    a_unix_backend_that_reads_slowly_is_not_idle,
    a_fastcgi_client_that_reads_slowly_is_not_idle,
    a_fastcgi_client_that_reads_what_is_left_of_its_answer_is_not_idle,
    a_fastcgi_backend_that_reads_slowly_is_not_idle,
    who_has_stopped_reading_is_idle,
);

/// 100 KB in each second: more than what a timeout may miss.
const STEP: usize = 5 * 1024;
const STEP_PAUSE: Duration = Duration::from_millis(50);

/// Much longer than the timeout, and than two of them.
const WATCHED: Duration = Duration::from_secs(6);

/// Of a backend. In steps of as much as this its kernel tells how much it has read; at the rate of a busy machine,
/// which is lower, that should still be many in each second.
const SMALL_BUFFER: i32 = 8 * 1024;

/// What a socket holds, all of it, and for how long that lasts at half the speed: longer than the timeout.
const LEFT: u64 = 160 * KB;
const LEFT_TIMEOUT: &str = "2s";
const LEFT_STEP: usize = STEP / 2;
const LEFT_WATCHED: Duration = Duration::from_secs(3);

fn builder(engine: Engine) -> Builder {
    let builder = Proxy::builder().engine(engine);
    builder.args(["--workers", "1"])
}

fn fastcgi(engine: Engine) -> Builder {
    builder(engine).args(["--protocol", "fastcgi"])
}

const ONE_SECOND: [&str; 2] = ["--idle-timeout", "1s"];

/// Reads `step` bytes at a time for so long.
#[track_caller]
fn read_slowly(from: &mut impl Read, step: usize, watched: Duration) {
    let started = Instant::now();
    let mut bytes = vec![0; step];
    while started.elapsed() < watched {
        let count = from.read(&mut bytes).unwrap();
        assert!(count > 0, "cut after {:?}", started.elapsed());
        pause(STEP_PAUSE);
    }
}

fn accept_tcp(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    eventually("the proxy connects", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (stream, _) = accepted.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    stream
}

/// What the kernel holds can still be read after a cut: the backend's view tells.
#[track_caller]
fn assert_not_cut(backend: &Backend) {
    let ledger = backend.ledger();
    assert_eq!(ledger.open, 1, "cut: {:?}", ledger.seen);
}

/// All of it is in the socket, so nothing is left for the proxy to send.
fn a_client_that_reads_what_is_left_of_its_answer_is_not_idle(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let seed = conversation.receive_seed()?;
        conversation.send_pattern(Pattern::new(seed), 0, LEFT)?;
        conversation.keep_until_eof()
    });
    let proxy = builder(engine)
        .args(["--idle-timeout", LEFT_TIMEOUT])
        .backend(&backend)
        .start();
    let mut client = proxy.connect();
    send(&client, &7u64.to_le_bytes());
    read_slowly(&mut client, LEFT_STEP, LEFT_WATCHED);
    assert_not_cut(&backend);
}

fn a_backend_that_reads_slowly_is_not_idle(engine: Engine) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    set_receive_buffer(&listener, SMALL_BUFFER).unwrap();
    let proxy = builder(engine)
        .args(ONE_SECOND)
        .backend(listener.local_addr().unwrap())
        .start();
    let client = proxy.connect();
    thread::scope(|scope| {
        // Cut or not, it ends with the proxy.
        scope.spawn(|| Pattern::new(1).send(&mut &client, 16 * MB));
        read_slowly(&mut accept_tcp(&listener), STEP, WATCHED);
        drop(proxy);
    });
}

fn a_unix_backend_that_reads_slowly_is_not_idle(engine: Engine) {
    let dir = fresh_dir();
    let path = dir.path().join("backend");
    let listener = UnixListener::bind(&path).unwrap();
    let proxy = builder(engine)
        .args(ONE_SECOND)
        .backend(format!("unix:{}", path.display()))
        .start();
    let client = proxy.connect();
    listener.set_nonblocking(true).unwrap();
    let mut served = None;
    eventually("the proxy connects", || {
        served = listener.accept().ok();
        served.is_some()
    });
    let (mut served, _) = served.unwrap();
    served.set_nonblocking(false).unwrap();
    served.set_read_timeout(Some(GUARD)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| Pattern::new(1).send(&mut &client, 16 * MB));
        read_slowly(&mut served, STEP, WATCHED);
        drop(proxy);
    });
}

fn a_fastcgi_client_that_reads_slowly_is_not_idle(engine: Engine) {
    fastcgi_client_reads(engine, "1s", 2 * MB, (STEP, WATCHED));
}

fn a_fastcgi_client_that_reads_what_is_left_of_its_answer_is_not_idle(engine: Engine) {
    fastcgi_client_reads(engine, LEFT_TIMEOUT, LEFT, (LEFT_STEP, LEFT_WATCHED));
}

/// The request goes on until it is released.
fn fastcgi_client_reads(
    engine: Engine,
    timeout: &str,
    bytes: u64,
    (step, watched): (usize, Duration),
) {
    let backend = Backend::scripted(move |conversation| {
        let heard = conversation.request()?.expect("a request comes");
        conversation.send(&stdout(heard.id, &Pattern::new(1).bytes(bytes)))?;
        conversation.keep_until_eof()
    });
    let proxy = fastcgi(engine)
        .args(["--idle-timeout", timeout])
        .backend(&backend)
        .start();
    let mut client = Client::connect(&proxy);
    client.send(&Request::get("/").bytes());
    read_slowly(&mut client.0, step, watched);
    assert_not_cut(&backend);
    drop(proxy);
}

fn a_fastcgi_backend_that_reads_slowly_is_not_idle(engine: Engine) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    set_receive_buffer(&listener, SMALL_BUFFER).unwrap();
    let proxy = fastcgi(engine)
        .args(ONE_SECOND)
        .backend(listener.local_addr().unwrap())
        .start();
    // Before it connects: making it may take longer than the timeout.
    let request = Request::post("/", &Pattern::new(1).bytes(16 * MB)).bytes();
    let client = Client::connect(&proxy);
    thread::scope(|scope| {
        scope.spawn(|| (&client.0).write_all(&request));
        read_slowly(&mut accept_tcp(&listener), STEP, WATCHED);
        drop(proxy);
    });
}

fn who_has_stopped_reading_is_idle(engine: Engine) {
    let backend = Backend::seeded_source(2 * MB);
    let proxy = builder(engine).args(ONE_SECOND).backend(&backend).start();
    let client = proxy.connect();
    send(&client, &7u64.to_le_bytes());
    eventually("a raw session is ended", || {
        let ledger = backend.ledger();
        ledger.accepted == 1 && ledger.open == 0
    });
    drop(client);

    let backend = Backend::scripted(|conversation| {
        conversation.respond(|heard: &Heard| page(heard.id, &Pattern::new(1).bytes(2 * MB)))
    });
    let proxy = fastcgi(engine).args(ONE_SECOND).backend(&backend).start();
    let client = Client::connect(&proxy);
    client.send(&Request::get("/").bytes());
    eventually("a request is ended", || {
        let ledger = backend.ledger();
        ledger.accepted == 1 && ledger.open == 0
    });
}
