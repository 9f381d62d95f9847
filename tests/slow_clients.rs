//! Places at backends are for clients that use them: who sends or takes less than the least rate loses its own,
//! and who only waits, whatever for, does not.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use common::fastcgi::{Client, Heard, ONE, Request, end, page, record, stdout};
use common::pattern::usize_of;
use common::wait::pause;
use common::{Backend, Engine, KB, MB, Pattern, Proxy, eventually, for_each_engine};
use spliceway::fastcgi::Kind;

for_each_engine!(
    bodies_that_trickle_do_not_hold_places,
    answers_that_are_not_taken_do_not_hold_places,
    the_end_of_an_answer_that_is_not_taken_does_not_hold_a_session,
    who_is_slow_at_the_least_rate_is_served,
    who_waits_for_a_slow_backend_is_not_slow,
    without_a_least_rate_any_client_is_waited_for,
);

const PLACES: usize = 2;

/// Many times quicker than the default, so that a test need not last as long.
fn start(engine: Engine, backend: &Backend, rate: &str) -> Proxy {
    Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi", "--workers", "1"])
        .args(["--per-endpoint-max", &PLACES.to_string()])
        .args(["--queue-timeout", "off", "--queue-order", "fifo"])
        .args(["--min-rate", rate, "--min-rate-lag", "2s"])
        .backend(backend)
        .observed()
        .start()
}

fn too_slow(proxy: &Proxy) -> f64 {
    let reason = ["reason=\"too_slow\""];
    proxy
        .scrape()
        .sum("spliceway_sessions_ended_total", &reason)
}

/// Takes whatever comes, and answers a request with its URI, or `/large` with many megabytes.
fn backend() -> Backend {
    Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri() == "/large" {
                conversation.send(&large(&heard, 32 * MB))?;
            } else {
                conversation.send(&heard.page())?;
            }
        }
        Ok(())
    })
}

fn large(heard: &Heard, size: u64) -> Vec<u8> {
    page(heard.id, &Pattern::new(1).bytes(size))
}

fn is_large(body: &[u8], size: u64) -> bool {
    body.len() as u64 == size && Pattern::new(1).mismatch(0, body).is_none()
}

/// A record with one byte ten times a second is never idle.
fn bodies_that_trickle_do_not_hold_places(engine: Engine) {
    let backend = backend();
    let proxy = start(engine, &backend, "10000");
    let request = Request::post("/slow", &[b'x'; 1000]);
    thread::scope(|scope| {
        for _ in 0..PLACES {
            let (client, request) = (Client::connect(&proxy), &request);
            scope.spawn(move || {
                client.send(&request.head());
                let piece = record(Kind::Stdin, ONE, b"x");
                let mut sent = 0;
                while (&client.0).write_all(&piece).is_ok() {
                    sent += 1;
                    assert!(sent < request.body.len(), "it was never ended");
                    pause(Duration::from_millis(100));
                }
            });
        }
        backend.wait_until("the slow ones have all places", |ledger| {
            ledger.accepted == PLACES
        });
        let client = Client::connect(&proxy);
        assert_eq!(client.ask(&Request::get("/quick")).text(), "/quick");
    });
    eventually("they are counted", || too_slow(&proxy) == PLACES as f64);
    let warns = |line: &str| line.contains("the client sends its body too slowly (see --min-rate)");
    proxy.process().log().wait_for("a line about them", warns);
}

fn answers_that_are_not_taken_do_not_hold_places(engine: Engine) {
    let backend = backend();
    let proxy = start(engine, &backend, "200000");
    let slow: Vec<_> = (0..PLACES).map(|_| Client::connect(&proxy)).collect();
    for client in &slow {
        client.send(&Request::get("/large").bytes());
    }
    backend.wait_until("the slow ones have all places", |ledger| {
        ledger.accepted == PLACES
    });
    let client = Client::connect(&proxy);
    assert_eq!(client.ask(&Request::get("/quick")).text(), "/quick");
    backend.wait_until("both places are given up", |ledger| {
        ledger.seen.len() >= PLACES
    });
    for client in slow {
        let records = client.broken_answer();
        assert!(records.iter().all(|record| record.kind == Kind::Stdout));
    }
    eventually("they are counted", || too_slow(&proxy) == PLACES as f64);
    let warns = |line: &str| line.contains("the client takes its answer too slowly");
    proxy.process().log().wait_for("a line about them", warns);
}

/// More small answers than the kernel holds for a client: the backend is done with the last of them.
fn the_end_of_an_answer_that_is_not_taken_does_not_hold_a_session(engine: Engine) {
    const REQUESTS: usize = 300;
    let backend = Backend::scripted(|conversation| conversation.respond(|heard| large(heard, KB)));
    let proxy = start(engine, &backend, "200000");
    let slow = Client::connect(&proxy);
    slow.send(&Request::get("/").bytes().repeat(REQUESTS));
    eventually("it is ended", || too_slow(&proxy) == 1.0);
    let whole = (0..REQUESTS).take_while(|_| slow.try_answer().is_ok());
    assert!(whole.count() < REQUESTS);
}

/// It reads, and sends, a little at a time, for longer than anybody may pause.
fn who_is_slow_at_the_least_rate_is_served(engine: Engine) {
    const SIZE: u64 = MB;
    let backend = Backend::scripted(|conversation| {
        conversation.respond(|heard| {
            let is_whole = is_large(&heard.body, SIZE / 10);
            page(heard.id, if is_whole { &heard.body } else { b"torn" })
        })
    });
    let proxy = start(engine, &backend, "10000");
    let client = Client::connect(&proxy);
    let request = Request::post("/", &Pattern::new(1).bytes(SIZE / 10));
    let bytes = request.bytes();
    for piece in bytes.chunks(bytes.len() / 40) {
        client.send(piece);
        pause(Duration::from_millis(100));
    }
    assert!(is_large(client.answer().body(), SIZE / 10));

    let backend =
        Backend::scripted(|conversation| conversation.respond(|heard| large(heard, SIZE)));
    let proxy = start(engine, &backend, "50000");
    let client = Client::connect(&proxy);
    client.send(&Request::get("/").bytes());
    let answer = Client::answer_of(&mut Slowly(&client, usize_of(SIZE / 60))).unwrap();
    assert!(is_large(answer.body(), SIZE));
    assert_eq!(too_slow(&proxy), 0.0);
}

/// Reads so much at a time, ten times a second.
struct Slowly<'a>(&'a Client, usize);

impl Read for Slowly<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let most = into.len().min(self.1);
        // Records begin with small reads.
        if into.len() > 8 {
            pause(Duration::from_millis(100));
        }
        (&self.0.0).read(&mut into[..most])
    }
}

/// It takes its time before it reads the body, and then gives its answer away piece by piece.
fn who_waits_for_a_slow_backend_is_not_slow(engine: Engine) {
    const SIZE: u64 = 20 * MB;
    let backend = Backend::scripted(|conversation| {
        let Some(mut heard) = conversation.head()? else {
            return Ok(());
        };
        pause(Duration::from_secs(5));
        conversation.body(&mut heard)?;
        conversation.send(&stdout(heard.id, b""))?;
        for _ in 0..10 {
            pause(Duration::from_millis(500));
            conversation.send(&record(Kind::Stdout, heard.id, b"."))?;
        }
        let is_whole: &[u8] = match is_large(&heard.body, SIZE) {
            true => b"whole",
            false => b"torn",
        };
        conversation.send(&record(Kind::Stdout, heard.id, is_whole))?;
        conversation.send(&end(heard.id))?;
        conversation.keep_until_eof()
    });
    let proxy = start(engine, &backend, "1000000");
    let client = Client::connect(&proxy);
    let answer = client.ask(&Request::post("/", &Pattern::new(1).bytes(SIZE)));
    assert_eq!(answer.text(), "..........whole");
    assert_eq!(too_slow(&proxy), 0.0);
}

fn without_a_least_rate_any_client_is_waited_for(engine: Engine) {
    let backend = backend();
    let proxy = start(engine, &backend, "off");
    let (sends, takes) = (Client::connect(&proxy), Client::connect(&proxy));
    let request = Request::post("/slow", b"a body");
    sends.send(&request.head());
    takes.send(&Request::get("/large").bytes());
    pause(Duration::from_secs(5));
    sends.send(&request.stdin());
    assert_eq!(sends.answer().text(), "/slow");
    assert!(is_large(takes.answer().body(), 32 * MB));
    assert_eq!(too_slow(&proxy), 0.0);
}
