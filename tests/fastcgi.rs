//! FastCGI on the wire: clients and backends that a test plays by hand, record by record.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::backend::Refusing;
use common::client::{assert_eof, assert_over, assert_waiting};
use common::fastcgi::{
    Client, Heard, ONE, Request, end, fence_answer, page, prove, record, records, responder, stdout,
};
use common::proxy::Builder;
use common::wait::{meanwhile, pause};
use common::{
    Backend, Conversation, Ending, Engine, MB, NameServer, Pattern, Proxy, Random, eventually,
    for_each_engine,
};
use spliceway::fastcgi::{
    FENCE, Kind, LARGE_HEADS_BYTES_MAX, Pairs, ProtocolStatus, RequestId, Role,
};

for_each_engine!(
    a_head_arrives_before_the_body_is_sent,
    what_arrived_together_goes_out_together,
    clients_share_one_connection_and_keep_their_own_ids,
    a_kept_client_makes_many_requests_and_a_closing_one_is_closed,
    a_request_that_comes_byte_by_byte_is_served,
    two_requests_in_one_packet_are_served_one_after_the_other,
    bodies_and_pages_of_any_framing_arrive_byte_for_byte,
    as_many_as_are_allowed_are_served_at_one_time,
    an_answer_that_comes_before_the_body_is_the_whole_answer,
    an_answer_that_comes_while_the_body_is_stuck_is_the_whole_answer,
    an_answer_before_the_end_of_the_request_costs_the_backend_its_connection,
    surplus_with_the_end_of_a_request_costs_the_backend_its_connection,
    surplus_behind_the_fence_costs_the_backend_its_connection,
    a_byte_from_a_backend_at_rest_costs_it_its_connection,
    an_answer_to_a_fence_that_was_not_sent_costs_the_backend_its_connection,
    a_fence_that_is_answered_too_early_proves_nothing,
    a_connection_that_a_backend_closed_is_never_used,
    a_request_that_meets_the_end_of_its_connection_is_served_by_another,
    a_request_that_was_read_is_not_sent_again,
    a_request_that_was_answered_on_stderr_is_not_sent_again,
    a_request_whose_body_went_unread_is_not_sent_again,
    a_post_is_not_sent_again_to_a_backend_that_has_lost_its_trust_meanwhile,
    an_answer_that_breaks_off_is_cut,
    a_failure_before_the_answer_is_a_502_when_told_to,
    nonsense_before_the_answer_is_a_502_when_told_to,
    a_502_stands_behind_half_a_record,
    a_502_stands_behind_a_large_record,
    a_kept_client_moves_on_when_the_addresses_change,
    a_second_request_on_a_busy_connection_is_refused,
    questions_of_a_client_are_answered,
    a_question_between_large_records_is_answered_at_once,
    an_aborted_request_costs_the_backend_its_connection,
    a_client_that_has_sent_everything_may_end_its_side,
    a_client_that_has_ended_its_side_does_not_wait_for_ever,
    a_client_that_goes_costs_the_backend_its_connection,
    a_client_that_goes_while_it_waits_for_a_place_is_forgotten,
    a_client_that_takes_its_time_gets_the_end_of_its_answer,
    a_head_that_takes_too_long_ends_its_client_and_no_other,
    parameters_over_the_limit_never_reach_a_backend,
    too_many_parameters_are_a_431,
    large_parameters_beyond_the_memory_for_them_are_a_503,
    a_client_that_breaks_the_protocol_is_told_of_once_and_counted,
    a_request_that_the_guard_rejects_never_reaches_a_backend,
    what_the_guard_strips_never_reaches_a_backend,
    permits_are_never_exceeded_and_service_is_by_arrival,
    who_waits_gets_a_connection_that_rests,
    a_full_queue_and_a_long_wait_are_a_503,
    a_refused_connect_is_no_full_queue,
    a_request_that_is_sent_again_keeps_its_place,
    a_request_that_is_sent_again_costs_no_connection_at_rest,
    a_connection_without_requests_is_closed,
    a_connection_serves_no_more_requests_than_allowed,
    without_reuse_each_request_has_its_own_connection,
    a_backend_that_ignores_the_fence_is_found_out_once_and_never_stranded,
    a_backend_that_closes_after_the_fence_fails_no_request,
    an_authorizer_is_served,
    authorizers_in_one_packet_are_served_one_after_the_other,
    a_drain_waits_for_requests_and_not_for_kept_connections,
    a_drain_does_not_wait_for_connections_without_a_request,
);

/// One worker, so that there is one pool.
fn builder(engine: Engine) -> Builder {
    Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi", "--workers", "1"])
}

/// The same for backends that answer the fence and keep their connections, however slow the machine is.
fn patient(engine: Engine) -> Builder {
    builder(engine).args(["--settle-timeout", "30s", "--idle-upstream", "10m"])
}

fn start(engine: Engine, backend: &Backend) -> Proxy {
    patient(engine).backend(backend).start()
}

/// What backends heard, in the order in which they heard it.
type Journal = Arc<Mutex<Vec<String>>>;

fn note(journal: &Journal, what: &str) {
    journal.lock().unwrap().push(what.to_owned());
}

fn noted(journal: &Journal) -> Vec<String> {
    journal.lock().unwrap().clone()
}

/// Long enough for everything that the proxy does some time after the beginning of a request.
const A_WHILE: Duration = Duration::from_millis(400);

/// The client gets nothing for a while, not even an end.
fn assert_waits(client: &Client) {
    meanwhile(A_WHILE, || assert_waiting(&client.0));
}

// --- requests -----------------------------------------------------------------------------------

/// The backend answers the head with a first part; only then does the client send the body.
fn a_head_arrives_before_the_body_is_sent(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let mut heard = conversation.head()?.expect("a request");
        conversation.send(&stdout(heard.id, b"head, "))?;
        conversation.body(&mut heard)?;
        conversation.send(&record(Kind::Stdout, heard.id, &heard.body))?;
        conversation.send(&end(heard.id))?;
        conversation.keep_until_eof()
    });
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    let request = Request::post("/", b"body");
    client.send(&request.head());
    let first = client.record();
    assert!(first.content.ends_with(b"head, "), "{first:?}");
    client.send(&request.stdin());
    assert_eq!(client.answer().stdout, b"body");
}

/// One read has everything; of a backend that is known to answer it in its turn, the fence as well.
fn what_arrived_together_goes_out_together(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        for round in 0..4 {
            let bytes = conversation.receive()?.to_vec();
            let is_proven = round >= 2;
            assert_eq!(bytes.ends_with(&FENCE), is_proven, "{:?}", records(&bytes));
            let kinds: Vec<_> = records(&bytes).iter().map(|record| record.kind).collect();
            assert_eq!(kinds.first(), Some(&Kind::BeginRequest));
            assert!(kinds.contains(&Kind::Stdin));
            let page = page(ONE, b"all of it");
            if is_proven {
                conversation.send(&[page, fence_answer()].concat())?;
            } else {
                conversation.send(&page)?;
                conversation.fence()?;
                conversation.send(&fence_answer())?;
            }
        }
        conversation.keep_until_eof()
    });
    // With one place, the next one waits for the connection to be at rest.
    let proxy = patient(engine)
        .args(["--per-endpoint-max", "1"])
        .backend(&backend)
        .start();
    // The first one connects, the others find a connection.
    let client = Client::connect(&proxy);
    for body in [&b""[..], b"a body"].repeat(2) {
        let answer = client.ask(&Request::post("/", body));
        assert_eq!(answer.text(), "all of it");
    }
    assert_eq!(backend.ledger().accepted, 1);
}

fn clients_share_one_connection_and_keep_their_own_ids(engine: Engine) {
    let backend = responder();
    let proxy = patient(engine)
        .args(["--per-endpoint-max", "1"])
        .backend(&backend)
        .start();
    for id in [1, 2, 255, 256, u16::MAX] {
        let client = Client::connect(&proxy);
        let request = Request::get("/page").id(id);
        let answer = client.ask(&request);
        assert_eq!((answer.id, &*answer.text()), (request.id, "/page"));
        assert_eq!(answer.end.protocol_status, ProtocolStatus::RequestComplete);
    }
    assert_eq!(backend.ledger().accepted, 1);
}

fn a_kept_client_makes_many_requests_and_a_closing_one_is_closed(engine: Engine) {
    let backend = responder();
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    for round in 0..20 {
        let uri = format!("/{round}");
        assert_eq!(client.ask(&Request::get(&uri)).text(), uri);
    }
    assert_eq!(client.ask(&Request::get("/last").closing()).text(), "/last");
    assert_eof(&client.0);
}

fn a_request_that_comes_byte_by_byte_is_served(engine: Engine) {
    let backend =
        Backend::scripted(|conversation| conversation.respond(|heard| page(heard.id, &heard.body)));
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    for byte in Request::post("/", b"a body in pieces").bytes() {
        client.send(&[byte]);
    }
    assert_eq!(client.answer().text(), "a body in pieces");
}

fn two_requests_in_one_packet_are_served_one_after_the_other(engine: Engine) {
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        conversation.respond(|heard| {
            note(&written, heard.uri());
            heard.page()
        })
    });
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    let requests = ["/1", "/2", "/3"].map(|uri| Request::get(uri).bytes());
    client.send(&requests.concat());
    for uri in ["/1", "/2", "/3"] {
        assert_eq!(client.answer().text(), uri);
    }
    assert_eq!(noted(&journal), ["/1", "/2", "/3"]);
}

/// Records of every length, with and without padding, cut anywhere.
fn bodies_and_pages_of_any_framing_arrive_byte_for_byte(engine: Engine) {
    const SIZE: u64 = 3 * MB;
    let backend = Backend::scripted(|conversation| {
        let mut seed = 1;
        while let Some(heard) = conversation.request()? {
            let at_fault = Pattern::new(1).mismatch(0, &heard.body);
            assert_eq!((heard.body.len() as u64, at_fault), (SIZE, None));
            seed += 1;
            let body = Pattern::new(2).bytes(SIZE);
            let mut bytes = record(Kind::Stdout, heard.id, b"\r\n\r\n");
            frame(&mut bytes, Kind::Stdout, &body, seed);
            bytes.extend(end(heard.id));
            conversation.send(&bytes)?;
        }
        Ok(())
    });
    let proxy = builder(engine).backend(&backend).observed().start();
    let client = Client::connect(&proxy);
    let request = Request::post("/", &Pattern::new(1).bytes(SIZE));
    for seed in 10..13 {
        let mut bytes = request.head();
        frame(&mut bytes, Kind::Stdin, &request.body, seed);
        bytes.extend(record(Kind::Stdin, ONE, b""));
        thread::scope(|scope| {
            scope.spawn(|| client.send(&bytes));
            let answer = client.answer();
            let at_fault = Pattern::new(2).mismatch(0, answer.body());
            assert_eq!((answer.body().len() as u64, at_fault), (SIZE, None));
        });
    }
    // Large records do not pass through memory.
    for direction in proxy.spliced_directions() {
        let of = [
            format!("direction=\"{direction}\""),
            "path=\"spliced\"".to_owned(),
        ];
        let of = of.each_ref().map(String::as_str);
        let spliced = || proxy.scrape().sum("spliceway_relayed_bytes_total", &of);
        eventually("large records are spliced", || spliced() > MB as f64);
    }
}

/// Neither a client that sends nothing, nor one that sends a byte now and then, holds its place. Kept ones do.
fn a_head_that_takes_too_long_ends_its_client_and_no_other(engine: Engine) {
    let backend = responder();
    let proxy = builder(engine)
        .observed()
        .backend(&backend)
        .args(["--head-timeout", "2s"])
        .start();
    let kept = Client::connect(&proxy);
    assert_eq!(kept.ask(&Request::get("/first")).text(), "/first");
    let (silent, slow) = (Client::connect(&proxy), Client::connect(&proxy));
    let head = Request::get(&"/slow".repeat(200)).bytes();
    let began = Instant::now();
    let mut sent = 0;
    // Each byte is news, and none of them a reason to wait longer.
    while (&slow.0).write_all(&head[sent..=sent]).is_ok() {
        sent += 1;
        assert!(sent + 1 < head.len(), "it was never ended");
        pause(Duration::from_millis(20));
    }
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert_over(&silent.0);
    assert_eq!(kept.ask(&Request::get("/second")).text(), "/second");
    let ended = || {
        proxy.scrape().sum(
            "spliceway_sessions_ended_total",
            &["reason=\"head_timeout\""],
        )
    };
    eventually("both are counted", || ended() == 2.0);
}

/// However few they are, there is a buffer for whatever each of them sends.
fn as_many_as_are_allowed_are_served_at_one_time(engine: Engine) {
    const SIZE: u64 = 100_000;
    const REQUESTS: u64 = 5;
    let backend = Backend::scripted(|conversation| {
        conversation.respond(|heard| {
            let mut bytes = record(Kind::Stdout, heard.id, b"\r\n\r\n");
            frame(&mut bytes, Kind::Stdout, &heard.body, 7);
            bytes.extend(end(heard.id));
            bytes
        })
    });
    for clients in [1, 2, 8, 33] {
        let proxy = builder(engine)
            .backend(&backend)
            .args(["--connections-max", &clients.to_string()])
            .start();
        thread::scope(|scope| {
            for client in 0..clients {
                let proxy = &proxy;
                scope.spawn(move || {
                    let client_of_proxy = Client::connect(proxy);
                    for number in 0..REQUESTS {
                        let pattern = Pattern::new(client * REQUESTS + number);
                        let request = Request::post("/", &pattern.bytes(SIZE));
                        let mut bytes = request.head();
                        frame(&mut bytes, Kind::Stdin, &request.body, number);
                        bytes.extend(record(Kind::Stdin, ONE, b""));
                        client_of_proxy.send(&bytes);
                        let answer = client_of_proxy.answer();
                        let at_fault = pattern.mismatch(0, answer.body());
                        assert_eq!((answer.body().len() as u64, at_fault), (SIZE, None));
                    }
                });
            }
        });
    }
}

/// `body` in records of many lengths.
fn frame(out: &mut Vec<u8>, kind: Kind, mut body: &[u8], seed: u64) {
    let mut random = Random::new(seed);
    while !body.is_empty() {
        let most = random.pick(&[8, 200, 4096, 65535]);
        let len = usize::try_from(random.within(1..=most)).unwrap();
        let (piece, rest) = body.split_at(len.min(body.len()));
        out.extend(record(kind, ONE, piece));
        body = rest;
    }
}

// --- answers that come too early ----------------------------------------------------------------

/// The client is still sending when its answer is complete. It gets it whole, and can go on.
fn an_answer_that_comes_before_the_body_is_the_whole_answer(engine: Engine) {
    const SIZE: usize = 8 << 20;
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.head()? {
            conversation.send(&page(heard.id, b"no, thank you"))?;
            if heard.uri() == "/ignored" {
                return conversation.discard_until_eof();
            }
            conversation.body(&mut heard.clone())?;
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    for keep_conn in [true, false] {
        let client = Client::connect(&proxy);
        let request = Request {
            keep_conn,
            ..Request::post("/ignored", &vec![7; SIZE])
        };
        let answer = thread::scope(|scope| {
            let sent = scope.spawn(|| client.send(&request.bytes()));
            let answer = client.answer();
            sent.join().unwrap();
            answer
        });
        assert_eq!(answer.text(), "no, thank you");
        if keep_conn {
            assert_eq!(client.ask(&Request::get("/")).text(), "no, thank you");
        } else {
            client.finish();
            assert_over(&client.0);
        }
    }
}

/// Nobody reads the body, so that a part of it is neither the client's any more nor the backend's.
fn an_answer_that_comes_while_the_body_is_stuck_is_the_whole_answer(engine: Engine) {
    const SIZE: usize = 32 << 20;
    let backend = Backend::scripted(|conversation| {
        while let Some(mut heard) = conversation.head()? {
            if heard.uri() == "/stuck" {
                conversation.wait_for_release()?;
                conversation.send(&heard.page())?;
                return conversation.wait_for_release();
            }
            conversation.body(&mut heard)?;
            conversation.send(&heard.page())?;
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    for _ in 0..3 {
        let client = Client::connect(&proxy);
        let request = Request::post("/stuck", &vec![7; SIZE]);
        thread::scope(|scope| {
            let sent = scope.spawn(|| client.send(&request.bytes()));
            proxy.process().assert_comes_to_rest();
            backend.release(1);
            assert_eq!(client.answer().text(), "/stuck");
            sent.join().unwrap();
        });
        assert_eq!(client.ask(&Request::post("/page", b"x")).text(), "/page");
        backend.release(1);
    }
}

/// The rest of the request would be read as the next one.
fn an_answer_before_the_end_of_the_request_costs_the_backend_its_connection(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let heard = conversation.head()?.expect("a request");
        conversation.send(&heard.page())?;
        conversation.keep_until_eof()
    });
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    for round in 0..3 {
        let request = Request::post("/early", b"a body");
        client.send(&request.head());
        assert_eq!(client.answer().text(), "/early");
        client.send(&request.stdin());
        let seen = backend.wait_for_end(round);
        assert_eq!((seen.ending, seen.received.len()), (Ending::Eof, 0));
    }
    assert_eq!(backend.ledger().accepted, 3);
}

// --- settling -----------------------------------------------------------------------------------

/// Each request has a connection of its own, which the proxy closes after `script`; in the end with a
/// backend of which it was known that it keeps its connections.
#[track_caller]
fn assert_never_reused<F>(engine: Engine, script: F)
where
    F: Fn(&mut Conversation, &Heard) -> io::Result<()> + Send + Sync + 'static,
{
    let backend = Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri() == "/odd" {
                script(conversation, &heard)?;
                return conversation.keep_until_eof();
            }
            conversation.finish(&heard.page())?;
        }
        Ok(())
    });
    for is_proven in [false, true] {
        let before = backend.ledger().accepted;
        let proxy = start(engine, &backend);
        if is_proven {
            prove(&proxy);
        }
        let client = Client::connect(&proxy);
        for round in 0..3 {
            assert_eq!(client.ask(&Request::get("/odd")).text(), "/odd");
            let seen = backend.wait_for_end(before + round);
            assert!(
                matches!(seen.ending, Ending::Eof | Ending::Reset),
                "{seen:?}"
            );
        }
        assert_eq!(backend.ledger().accepted, before + 3);
    }
}

fn surplus_with_the_end_of_a_request_costs_the_backend_its_connection(engine: Engine) {
    assert_never_reused(engine, |conversation, heard| {
        conversation.send(&[heard.page(), b"!".to_vec()].concat())
    });
    // A second answer would be taken for that of the next request.
    assert_never_reused(engine, |conversation, heard| {
        conversation.send(&[heard.page(), heard.page()].concat())
    });
}

fn surplus_behind_the_fence_costs_the_backend_its_connection(engine: Engine) {
    assert_never_reused(engine, |conversation, heard| {
        conversation.send(&heard.page())?;
        conversation.fence()?;
        conversation.send(&fence_answer().repeat(2))
    });
    assert_never_reused(engine, |conversation, heard| {
        conversation.send(&heard.page())?;
        conversation.fence()?;
        conversation.send(&record(Kind::Stdout, heard.id, b"one more thing"))
    });
}

fn a_byte_from_a_backend_at_rest_costs_it_its_connection(engine: Engine) {
    assert_never_reused(engine, |conversation, heard| {
        conversation.finish(&heard.page())?;
        conversation.send(b"\x01")
    });
}

/// Nobody has asked when it answers, so what it says belongs to nothing.
fn an_answer_to_a_fence_that_was_not_sent_costs_the_backend_its_connection(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let heard = conversation.request()?.expect("a request");
        conversation.send(&[fence_answer(), heard.page()].concat())?;
        conversation.keep_until_eof()
    });
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    for round in 0..3 {
        assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
        let seen = backend.wait_for_end(round);
        assert_eq!((seen.ending, seen.received.len()), (Ending::Eof, 0));
    }
    assert_eq!(backend.ledger().accepted, 3);
}

/// It was answered while the request ran, as servers do that read all the time. The connection settles until
/// the backend has answered once more.
fn a_fence_that_is_answered_too_early_proves_nothing(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri() != "/early" {
                conversation.finish(&heard.page())?;
                continue;
            }
            conversation.fence()?;
            conversation.send(&[fence_answer(), heard.page()].concat())?;
            // And another one, now that END_REQUEST has come.
            conversation.fence()?;
            conversation.wait_for_release()?;
            conversation.send(&fence_answer())?;
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    prove(&proxy);
    let client = Client::connect(&proxy);
    assert_eq!(client.ask(&Request::get("/early")).text(), "/early");
    // It still settles, so this one has another connection.
    assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
    assert_eq!(backend.ledger().accepted, 2);
    proxy.process().assert_comes_to_rest();
    backend.release(1);
    proxy.process().assert_comes_to_rest();
    let (one, other) = (Client::connect(&proxy), Client::connect(&proxy));
    for client in [&one, &other] {
        client.send(&Request::post("/page", b"a body").head());
    }
    for client in [&one, &other] {
        client.send(&Request::post("/page", b"a body").stdin());
        assert_eq!(client.answer().text(), "/page");
    }
    assert_eq!(backend.ledger().accepted, 2);
}

/// The backend closes when it is at rest, as PHP-FPM does after `pm.max_requests`.
fn a_connection_that_a_backend_closed_is_never_used(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            conversation.send(&heard.page())?;
            conversation.fence()?;
            if heard.uri() == "/last" {
                break;
            }
            conversation.send(&fence_answer())?;
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    for round in 0..40 {
        let uri = if round % 3 == 0 { "/last" } else { "/page" };
        assert_eq!(client.ask(&Request::post(uri, b"body")).text(), uri);
    }
}

// --- sending again ------------------------------------------------------------------------------

/// The proxy is held while the request is on its way to it and the backend ends the connection that the
/// request is going to be given.
fn a_request_that_meets_the_end_of_its_connection_is_served_by_another(engine: Engine) {
    const ROUNDS: usize = 8;
    // It may have seen the end first, but hardly each time.
    const ROUNDS_MAX: usize = 200;
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.request()? {
            note(&written, heard.uri());
            conversation.finish(&heard.page())?;
            if heard.uri().ends_with("/last") {
                conversation.wait_for_release()?;
                // Before the test hears of the end, unlike a close.
                return conversation.end_both_ways();
            }
        }
        Ok(())
    });
    let proxy = patient(engine).observed().backend(&backend).start();
    prove(&proxy);
    let client = Client::connect(&proxy);
    let mut asked = vec!["/page".to_owned(); 2];
    let retries = || {
        let page = proxy.scrape();
        page.sum("spliceway_fastcgi_retries_total", &[])
    };
    let mut rounds = 0;
    while rounds < ROUNDS || (retries() < 1.0 && rounds < ROUNDS_MAX) {
        let round = rounds;
        rounds += 1;
        for what in ["first", "second", "last"] {
            let uri = format!("/{round}/{what}");
            assert_eq!(client.ask(&Request::get(&uri)).text(), uri);
            asked.push(uri);
        }
        proxy.process().signal(libc::SIGSTOP);
        eventually("the proxy is stopped", || proxy.process().is_stopped());
        let uri = format!("/{round}/next");
        client.send(&Request::post(&uri, b"a body").bytes());
        backend.release(1);
        let _ = backend.wait_for_end(round);
        proxy.process().signal(libc::SIGCONT);
        assert_eq!(client.answer().text(), uri);
        asked.push(uri);
    }
    assert_eq!(noted(&journal), asked);
    assert_eq!(backend.ledger().accepted, rounds + 1);
    assert!(retries() >= 1.0, "no request was sent again");
}

/// Serves `/page`, and hands everything else to `script`.
fn backend_that_fails<F>(journal: &Journal, script: F) -> Backend
where
    F: Fn(&mut Conversation, &Heard) -> io::Result<()> + Send + Sync + 'static,
{
    let written = Arc::clone(journal);
    Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.request()? {
            note(&written, heard.uri());
            if heard.uri() != "/page" {
                return script(conversation, &heard);
            }
            conversation.finish(&heard.page())?;
        }
        Ok(())
    })
}

/// It may have been carried out. A backend that closes with something unread, here the fence, resets
/// the connection, and then the kernel may not have heard what was read.
fn a_request_that_was_read_is_not_sent_again(engine: Engine) {
    for uri in ["/closes", "/resets"] {
        let journal = Journal::default();
        let backend = backend_that_fails(&journal, |conversation, heard| match heard.uri() {
            "/closes" => conversation.fence(),
            _ => Ok(()),
        });
        let proxy = start(engine, &backend);
        prove(&proxy);
        let client = Client::connect(&proxy);
        client.send(&Request::get(uri).bytes());
        assert_over(&client.0);
        assert_eq!(noted(&journal), ["/page", "/page", uri]);
        assert_eq!(backend.ledger().accepted, 1);
    }
}

/// STDERR shows that the request was carried out.
fn a_request_that_was_answered_on_stderr_is_not_sent_again(engine: Engine) {
    let journal = Journal::default();
    let backend = backend_that_fails(&journal, |conversation, heard| {
        conversation.send(&record(Kind::Stderr, heard.id, b"PHP Fatal error"))
    });
    let proxy = start(engine, &backend);
    prove(&proxy);
    let client = Client::connect(&proxy);
    client.send(&Request::get("/fails").bytes());
    let error = client.try_answer().unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
        ),
        "{error}"
    );
    assert_eq!(noted(&journal), ["/page", "/page", "/fails"]);
}

/// What was spliced is not here any more. The head fills buffers of its own, so that all of the body that
/// passes through memory is little enough to be kept.
fn a_request_whose_body_went_unread_is_not_sent_again(engine: Engine) {
    const BUFFER: usize = 16 * 1024;
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        while let Some(mut heard) = conversation.head()? {
            note(&written, heard.uri());
            if heard.uri() == "/spliced" {
                // All of the record: then it was read from the client, and spliced.
                return conversation.record().map(|_| ());
            }
            conversation.body(&mut heard)?;
            conversation.finish(&heard.page())?;
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    // Once, so that it is not known that kept connections work there.
    client.ask(&Request::get("/page"));
    proxy.process().assert_comes_to_rest();
    let request = |len| Request::get("/spliced").param("X", &"x".repeat(len));
    let len = 2 * BUFFER - 1000 - request(0).head().len();
    let head = request(len).head();
    assert!((2 * BUFFER - 1016..2 * BUFFER).contains(&head.len()));
    // With the end of the body still to come.
    let body = record(Kind::Stdin, ONE, &[1; 60_000]);
    proxy.process().signal(libc::SIGSTOP);
    eventually("the proxy is stopped", || proxy.process().is_stopped());
    client.send(&[head, body].concat());
    proxy.process().signal(libc::SIGCONT);
    assert_over(&client.0);
    assert_eq!(noted(&journal), ["/page", "/spliced"]);
    assert_eq!(backend.ledger().accepted, 1);
}

/// While a POST runs on a kept connection, others show that the backend keeps none. What is repeated
/// for its sake without a proof are requests without consequences, and a POST is none.
fn a_post_is_not_sent_again_to_a_backend_that_has_lost_its_trust_meanwhile(engine: Engine) {
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.request()? {
            note(&written, heard.uri());
            match heard.uri() {
                "/held" => {
                    conversation.fence()?;
                    return conversation.wait_for_release();
                }
                "/once" => {
                    conversation.finish(&heard.page())?;
                    return conversation.end_both_ways();
                }
                _ => conversation.finish(&heard.page())?,
            }
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    prove(&proxy);
    let (poster, getter) = (Client::connect(&proxy), Client::connect(&proxy));
    let post = Request::post("/held", b"a body");
    poster.send(&post.bytes());
    eventually("the POST runs", || noted(&journal).len() == 3);
    for round in 0..6 {
        getter.ask(&Request::get("/once"));
        let _ = backend.wait_for_end(round);
    }
    proxy
        .process()
        .wait_for_log("keeps no connections, so each of them serves one request route=default");
    assert_eq!(backend.ledger().accepted, 7);
    backend.release(1);
    let ended = poster.read();
    assert!(matches!(ended, Ok(None) | Err(_)), "{ended:?}");
    let posts = noted(&journal);
    let posts = posts.iter().filter(|uri| *uri == "/held").count();
    assert_eq!(posts, 1);
}

// --- failures -----------------------------------------------------------------------------------

/// A web server has to see that the answer is not complete.
fn an_answer_that_breaks_off_is_cut(engine: Engine) {
    for options in [&[][..], &["--on-failure", "respond"]] {
        let backend = Backend::scripted(|conversation| {
            let heard = conversation.request()?.expect("a request");
            conversation.send(&stdout(heard.id, b"half an answer"))
        });
        let proxy = builder(engine)
            .args(options.iter().copied())
            .backend(&backend)
            .start();
        let client = Client::connect(&proxy);
        client.send(&Request::get("/").bytes());
        let records = client.broken_answer();
        assert_eq!(records.len(), 1, "{records:?}");
        assert!(records[0].content.ends_with(b"half an answer"));
    }
}

fn a_failure_before_the_answer_is_a_502_when_told_to(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let heard = conversation.request()?.expect("a request");
        if heard.uri() == "/stderr" {
            // That is no answer.
            conversation.send(&record(Kind::Stderr, heard.id, b"PHP Fatal error"))?;
            conversation.wait_for_release()?;
        }
        Ok(())
    });
    let proxy = builder(engine)
        .args(["--on-failure", "respond"])
        .backend(&backend)
        .start();
    for uri in ["/closed", "/stderr"] {
        let client = Client::connect(&proxy);
        client.send(&Request::get(uri).closing().bytes());
        if uri == "/stderr" {
            assert_eq!(client.record().kind, Kind::Stderr);
            // It knows that the client has it.
            proxy.process().assert_comes_to_rest();
            backend.release(1);
        }
        let answer = client.answer();
        assert!(answer.says("502"), "{answer:?}");
        assert_eof(&client.0);
    }
}

fn nonsense_before_the_answer_is_a_502_when_told_to(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.request()?;
        conversation.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
        conversation.discard_until_eof()
    });
    for (options, is_answered) in [
        (&["--on-failure", "close"], false),
        (&["--on-failure", "respond"], true),
    ] {
        let proxy = builder(engine).args(options.iter().copied());
        let proxy = proxy.backend(&backend).start();
        let client = Client::connect(&proxy);
        client.send(&Request::get("/").closing().bytes());
        if is_answered {
            assert!(client.answer().says("502"));
        }
        assert_over(&client.0);
    }
}

/// What has gone to the client is whole: half a record went as one of half the length.
fn a_502_stands_behind_half_a_record(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let heard = conversation.request()?.expect("a request");
        let error = record(Kind::Stderr, heard.id, &[b'e'; 100]);
        conversation.send(&error[..60])?;
        conversation.wait_for_release()
    });
    let proxy = builder(engine)
        .args(["--on-failure", "respond"])
        .backend(&backend)
        .start();
    let client = Client::connect(&proxy);
    client.send(&Request::get("/").closing().bytes());
    let half = client.record();
    assert_eq!(
        (half.kind, &half.content[..]),
        (Kind::Stderr, &[b'e'; 52][..])
    );
    proxy.process().assert_comes_to_rest();
    backend.release(1);
    assert!(client.answer().says("502"));
    assert_over(&client.0);
}

/// All of it has gone to the client, most of it by a pipe.
fn a_502_stands_behind_a_large_record(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let heard = conversation.request()?.expect("a request");
        let error = record(Kind::Stderr, heard.id, &[b'e'; 65_535]);
        conversation.send(&error.repeat(4))?;
        conversation.wait_for_release()
    });
    let proxy = builder(engine)
        .args(["--on-failure", "respond"])
        .backend(&backend)
        .start();
    let client = Client::connect(&proxy);
    client.send(&Request::get("/").closing().bytes());
    let mut left = 4 * 65_535;
    while left > 0 {
        let error = client.record();
        assert_eq!(error.kind, Kind::Stderr);
        left -= error.content.len();
    }
    proxy.process().assert_comes_to_rest();
    backend.release(1);
    assert!(client.answer().says("502"));
}

fn a_kept_client_moves_on_when_the_addresses_change(engine: Engine) {
    const NAME: &str = "php.internal";
    let first = responder();
    let port = first.port();
    let second = Backend::scripted_at(("127.0.0.2", port), |conversation| {
        conversation.respond(|heard| page(heard.id, b"the other one"))
    });
    // The port may be taken there.
    let Ok(second) = second else {
        return a_kept_client_moves_on_when_the_addresses_change(engine);
    };
    let server = NameServer::start();
    server.a(NAME, &[&first.ip()]);
    let proxy = builder(engine)
        .args(["--settle-timeout", "30s"])
        .args(["--nameserver", &server.address.to_string()])
        .args(["--dns-min-ttl", "100ms", "--idle-upstream", "10m"])
        .backend(format!("{NAME}:{port}"))
        .start();
    let client = Client::connect(&proxy);
    assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
    server.a(NAME, &[&second.ip()]);
    // The connection that rests ends with the endpoint.
    assert_eq!(first.wait_for_end(0).ending, Ending::Eof);
    assert_eq!(client.ask(&Request::get("/page")).text(), "the other one");
    assert_eq!((first.ledger().accepted, second.ledger().accepted), (1, 1));
}

// --- what clients may send besides ---------------------------------------------------------------

/// Nobody multiplexes here (specification, section 5.5).
fn a_second_request_on_a_busy_connection_is_refused(engine: Engine) {
    let backend =
        Backend::scripted(|conversation| conversation.respond(|heard| page(heard.id, &heard.body)));
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    let request = Request::post("/first", b"a body");
    let second = Request::get("/second").id(2);
    // Between the records of the parameters, and of the body.
    for cut in [16, request.head().len()] {
        let bytes = request.bytes();
        client.send(&bytes[..cut]);
        client.send(&second.bytes());
        let refusal = client.answer();
        assert_eq!(refusal.id, second.id);
        assert_eq!(refusal.end.protocol_status, ProtocolStatus::CannotMultiplex);
        client.send(&bytes[cut..]);
        let answer = client.answer();
        assert_eq!((answer.id, &*answer.text()), (ONE, "a body"));
    }
}

fn questions_of_a_client_are_answered(engine: Engine) {
    let backend = responder();
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    let none = RequestId::MANAGEMENT;
    for _ in 0..2 {
        client.send(&FENCE);
        let reply = client.record();
        assert_eq!((reply.kind, reply.id), (Kind::GetValuesResult, none));
        let pairs: Vec<_> = Pairs::new(&reply.content).map(Result::unwrap).collect();
        assert_eq!(pairs, [(&b"FCGI_MPXS_CONNS"[..], &b"0"[..])]);
        client.send(&record(Kind::Other(99), none, b"what is this"));
        let reply = client.record();
        assert_eq!((reply.kind, reply.id), (Kind::UnknownType, none));
        assert_eq!(reply.content, [99, 0, 0, 0, 0, 0, 0, 0]);
        // And between the two, requests are served.
        assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
    }
}

/// The next record of the answer comes only with the rest of the body, and that with the reply.
fn a_question_between_large_records_is_answered_at_once(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let mut heard = conversation.head()?.expect("a request");
        let large = record(Kind::Stdout, heard.id, &[b'\n'; 65_535]);
        conversation.send(&large.repeat(4))?;
        conversation.body(&mut heard)?;
        conversation.send(&end(heard.id))?;
        conversation.keep_until_eof()
    });
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    let request = Request::post("/", b"a body");
    client.send(&request.head());
    let mut left = 4 * 65_535;
    while left > 0 {
        left -= client.record().content.len();
    }
    proxy.process().assert_comes_to_rest();
    client.send(&FENCE);
    assert_eq!(client.record().kind, Kind::GetValuesResult);
    client.send(&request.stdin());
    assert_eq!(client.answer().stdout, b"");
}

/// The backend may be in the midst of anything, so its connection is of no use.
fn an_aborted_request_costs_the_backend_its_connection(engine: Engine) {
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.head()? {
            note(&written, heard.uri());
            if heard.uri() == "/aborted" {
                return conversation.keep_until_eof();
            }
            conversation.body(&mut heard.clone())?;
            conversation.send(&heard.page())?;
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    // In the midst of the body, and behind it.
    for (round, part) in [Request::head, Request::bytes].into_iter().enumerate() {
        let client = Client::connect(&proxy);
        client.send(&part(&Request::post("/aborted", b"a body")));
        let runs = |uri: &String| uri == "/aborted";
        eventually("the request runs", || {
            noted(&journal).last().is_some_and(runs)
        });
        client.send(&record(Kind::AbortRequest, ONE, b""));
        let ending = backend.wait_for_end(round).ending;
        assert!(matches!(ending, Ending::Eof | Ending::Reset), "{ending:?}");
        // Section 5.4: the request ends with END_REQUEST. The end of the connection says it as well.
        if let Ok(Some(record)) = client.read() {
            assert_eq!(record.kind, Kind::EndRequest);
        }
        let other = Client::connect(&proxy);
        assert_eq!(other.ask(&Request::get("/page")).text(), "/page");
    }
}

fn a_client_that_has_sent_everything_may_end_its_side(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let heard = conversation.request()?.expect("a request");
        conversation.wait_for_release()?;
        conversation.send(&heard.page())?;
        conversation.keep_until_eof()
    });
    let proxy = start(engine, &backend);
    for request in [Request::get("/page"), Request::get("/page").closing()] {
        let client = Client::connect(&proxy);
        client.send(&request.bytes());
        client.finish();
        // Longer than it takes the proxy to look for clients that leave.
        assert_waits(&client);
        backend.release(1);
        assert_eq!(client.answer().text(), "/page");
        assert_eof(&client.0);
    }
}

fn a_client_that_has_ended_its_side_does_not_wait_for_ever(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.request()?.expect("a request");
        conversation.keep_until_eof()
    });
    let proxy = patient(engine)
        .args(["--half-closed-timeout", "1s"])
        .observed()
        .backend(&backend)
        .start();
    let (ended, waiting) = (Client::connect(&proxy), Client::connect(&proxy));
    for client in [&ended, &waiting] {
        client.send(&Request::get("/page").bytes());
    }
    ended.finish();
    assert_over(&ended.0);
    let seen = || {
        proxy.scrape().sum(
            "spliceway_sessions_ended_total",
            &["reason=\"half_closed\""],
        )
    };
    eventually("it is counted", || seen() == 1.0);
    assert_waiting(&waiting.0);
}

fn a_client_that_goes_costs_the_backend_its_connection(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        while let Some(mut heard) = conversation.head()? {
            if heard.uri() == "/upload" {
                conversation.send(&stdout(heard.id, b"go on"))?;
                return conversation.keep_until_eof();
            }
            conversation.body(&mut heard)?;
            if heard.uri() == "/begins" {
                conversation.send(&stdout(heard.id, b"half an answer"))?;
                return conversation.keep_until_eof();
            }
            conversation.send(&heard.page())?;
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    let upload = Request::post("/upload", &[1; 1000]);
    let download = Request::get("/begins");
    for bytes in [upload.head(), download.bytes()] {
        let before = backend.ledger().seen.len();
        let client = Client::connect(&proxy);
        client.send(&bytes);
        assert_eq!(client.record().kind, Kind::Stdout);
        drop(client);
        let seen = backend.wait_for_end(before);
        assert_eq!(seen.ending, Ending::Reset);
    }
    let client = Client::connect(&proxy);
    assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
    assert_eq!(backend.ledger().accepted, 3);
}

fn a_client_that_goes_while_it_waits_for_a_place_is_forgotten(engine: Engine) {
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.request()? {
            note(&written, heard.uri());
            conversation.finish(&heard.page())?;
        }
        Ok(())
    });
    let proxy = patient(engine)
        .observed()
        .args(["--per-endpoint-max", "1"])
        .backend(&backend)
        .start();
    let held = Client::connect(&proxy);
    // Without the end of the body, so that the backend waits.
    let request = Request::post("/held", b"a body");
    held.send(&request.head());
    backend.wait_until("the first one has the place", |ledger| ledger.received > 0);
    let leaving: Vec<_> = (0..5)
        .map(|number| {
            let client = Client::connect(&proxy);
            client.send(&Request::get(&format!("/{number}")).bytes());
            client
        })
        .collect();
    let staying = Client::connect(&proxy);
    staying.send(&Request::get("/stays").bytes());
    wait_for_depth(&proxy, 6);
    drop(leaving);
    wait_for_depth(&proxy, 1);
    held.send(&request.stdin());
    assert_eq!(held.answer().text(), "/held");
    assert_eq!(staying.answer().text(), "/stays");
    assert_eq!(noted(&journal), ["/held", "/stays"]);
}

/// Waits until this many clients are in the queue.
#[track_caller]
fn wait_for_depth(proxy: &Proxy, depth: u64) {
    eventually("the queue has this length", || {
        let status = proxy.status();
        status["routes"][0]["queue"]["depth"] == depth
    });
}

/// The rest of the answer fills the socket's buffer, and meanwhile the client sends its next request,
/// or ends its side.
fn a_client_that_takes_its_time_gets_the_end_of_its_answer(engine: Engine) {
    const SIZE: u64 = 4 * MB;
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri() == "/slow" {
                conversation.wait_for_release()?;
            }
            let body = Pattern::new(3).bytes(SIZE);
            conversation.send(&page(heard.id, &body))?;
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    let assert_whole = |client: &Client| {
        let answer = client.answer();
        let at_fault = Pattern::new(3).mismatch(0, answer.body());
        assert_eq!((answer.body().len() as u64, at_fault), (SIZE, None));
    };
    for half_closes in [false, true] {
        let client = Client::connect(&proxy);
        client.send(&Request::get("/slow").bytes());
        assert_waits(&client);
        backend.release(1);
        // The answer is on its way, and cannot be delivered.
        assert!(common::sys::wait_for_bytes(&client.0).unwrap());
        proxy.process().assert_comes_to_rest();
        if half_closes {
            client.finish();
        } else {
            client.send(&Request::get("/page").bytes());
        }
        proxy.process().assert_comes_to_rest();
        assert_whole(&client);
        if half_closes {
            assert_eof(&client.0);
        } else {
            assert_whole(&client);
        }
    }
}

// --- the guard ----------------------------------------------------------------------------------

fn parameters_over_the_limit_never_reach_a_backend(engine: Engine) {
    let backend = responder();
    let proxy = patient(engine)
        .args(["--params-max", "4KiB", "--per-endpoint-max", "1"])
        .backend(&backend)
        .start();
    let just_right = Request::get("/page").param("X", &"x".repeat(4000));
    let client = Client::connect(&proxy);
    assert_eq!(client.ask(&just_right).text(), "/page");
    let too_long = just_right.param("Y", &"y".repeat(100));
    let answer = client.ask(&too_long);
    assert!(answer.says("431"), "{answer:?}");
    assert_eq!(answer.id, ONE);
    client.finish();
    assert_over(&client.0);
    let log = proxy.process().log();
    log.wait_for("the option to be raised", |line| {
        line.contains("cause=\"params_too_long\"") && line.contains("raise --params-max")
    });
    let other = Client::connect(&proxy);
    assert_eq!(other.ask(&Request::get("/page")).text(), "/page");
    let ledger = backend.ledger();
    assert_eq!(ledger.accepted, 1);
}

fn too_many_parameters_are_a_431(engine: Engine) {
    let backend = responder();
    let proxy = builder(engine)
        .args(["--max-params", "10"])
        .backend(&backend)
        .start();
    let mut request = Request::get("/page");
    for number in request.params.len()..10 {
        request = request.param(&format!("X{number}"), "x");
    }
    assert_eq!(Client::connect(&proxy).ask(&request).text(), "/page");
    let answer = Client::connect(&proxy).ask(&request.param("Y", "y"));
    assert!(answer.says("431"), "{answer:?}");
    let log = proxy.process().log();
    log.wait_for("the option to be raised", |line| {
        line.contains("rule=params_max param=\"Y\"") && line.contains("raise --max-params")
    });
}

/// Heads that are not complete yet hold it.
fn large_parameters_beyond_the_memory_for_them_are_a_503(engine: Engine) {
    const LARGE: usize = 1 << 20;
    let backend = responder();
    let proxy = builder(engine)
        .observed()
        .args(["--params-max", "1MiB"])
        .backend(&backend)
        .start();
    let large = Request::get("/large").param("X", &"x".repeat(LARGE - 100));
    let head = large.head();
    // All but the end of the parameters.
    let unfinished = &head[..head.len() - 8];
    let mut held = Vec::new();
    let end = |client: &Client| {
        client.send(&head[head.len() - 8..]);
        client.send(&large.stdin());
        client.answer()
    };
    loop {
        let client = Client::connect(&proxy);
        // The proxy answers before it has read everything.
        thread::scope(|scope| {
            scope.spawn(|| client.send(unfinished));
        });
        held.push(client);
        let refused = proxy.scrape().sum(
            "spliceway_fastcgi_protocol_errors_total",
            &["cause=\"heads_full\""],
        );
        if refused > 0.0 {
            break;
        }
        assert!(
            held.len() <= LARGE_HEADS_BYTES_MAX / LARGE + 10,
            "there is no bound"
        );
    }
    assert!(
        held.len() >= LARGE_HEADS_BYTES_MAX / LARGE,
        "{}",
        held.len()
    );
    // Whoever had its place before is served, and so are small ones.
    assert_eq!(
        Client::connect(&proxy).ask(&Request::get("/small")).text(),
        "/small"
    );
    let refused = held.iter().position(|client| {
        let answer = end(client);
        let is_refused = answer.says("503");
        assert!(is_refused || answer.text() == "/large");
        is_refused
    });
    assert!(refused.is_some_and(|at| at >= LARGE_HEADS_BYTES_MAX / LARGE / 2));
    let log = proxy.process().log();
    log.wait_for("why", |line| line.contains("cause=\"heads_full\""));
    drop(held);
    eventually("large ones are served again", || {
        !Client::connect(&proxy).ask(&large).says("503")
    });
}

fn a_client_that_breaks_the_protocol_is_told_of_once_and_counted(engine: Engine) {
    let backend = responder();
    let proxy = builder(engine).observed().backend(&backend).start();
    for _ in 0..3 {
        let client = Client::connect(&proxy);
        client.send(b"GET / HTTP/1.0\r\n\r\n");
        assert_over(&client.0);
    }
    let mut too_long = Request::post("/", b"0123456789").bytes();
    let at = too_long.windows(2).position(|two| two == b"10").unwrap();
    too_long[at..at + 2].copy_from_slice(b"09");
    let client = Client::connect(&proxy);
    client.send(&too_long);
    assert_over(&client.0);
    let log = proxy.process().log();
    for (cause, says) in [
        (
            "version",
            "version 71 instead of 1 (the client seems to speak HTTP to a socket for FastCGI",
        ),
        ("body_too_long", "more of the body than CONTENT_LENGTH says"),
    ] {
        let cause_field = format!("cause=\"{cause}\"");
        log.wait_for(cause, |line| {
            line.contains(&cause_field) && line.contains(says) && line.contains("WARN")
        });
        assert_eq!(log.count(&cause_field), 1, "one line in a while");
    }
    let scrape = proxy.scrape();
    let errors = "spliceway_fastcgi_protocol_errors_total";
    assert_eq!(scrape.sum(errors, &["cause=\"version\""]), 3.0);
    assert_eq!(scrape.sum(errors, &["cause=\"body_too_long\""]), 1.0);
    assert_eq!(scrape.sum(errors, &["cause=\"null_id\""]), 0.0);
}

/// The body is on its way when the answer comes. It is read, and the answer arrives.
fn a_request_that_the_guard_rejects_never_reaches_a_backend(engine: Engine) {
    let backend = responder();
    let proxy = start(engine, &backend);
    for name in ["PHP_VALUE", "PHP_ADMIN_VALUE"] {
        let client = Client::connect(&proxy);
        let request = Request::post("/", &vec![1; 4 << 20]).param(name, "auto_prepend_file=/x");
        let answer = thread::scope(|scope| {
            let sent = scope.spawn(|| client.send(&request.bytes()));
            let answer = client.answer();
            sent.join().unwrap();
            answer
        });
        assert!(answer.says("403"), "{answer:?}");
        client.finish();
        assert_over(&client.0);
    }
    assert_eq!(backend.ledger().accepted, 0);
}

fn what_the_guard_strips_never_reaches_a_backend(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.respond(|heard| {
            let mut names: Vec<_> = heard.params.keys().cloned().collect();
            names.sort_unstable();
            page(heard.id, names.join(" ").as_bytes())
        })
    });
    let proxy = builder(engine)
        .args(["--strip-param", "SECRET"])
        .backend(&backend)
        .start();
    let client = Client::connect(&proxy);
    let request = Request::get("/")
        .param("HTTP_PROXY", "http://evil")
        .param("SECRET", "x")
        .param("Z", "");
    for _ in 0..2 {
        assert_eq!(client.ask(&request).text(), "REQUEST_METHOD REQUEST_URI Z");
    }
}

// --- permits, queues, limits --------------------------------------------------------------------

fn permits_are_never_exceeded_and_service_is_by_arrival(engine: Engine) {
    const CLIENTS: usize = 100;
    const PERMITS: usize = 8;
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.request()? {
            note(&written, heard.uri());
            held(&written, heard.uri());
            conversation.finish(&heard.page())?;
        }
        Ok(())
    });
    let proxy = patient(engine)
        .args(["--per-endpoint-max", "8"])
        .backend(&backend)
        .start();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = Client::connect(&proxy);
            client.send(&Request::get(&format!("/{number}")).bytes());
            client
        })
        .collect();
    for (released, client) in clients.iter().enumerate() {
        let served = (released + PERMITS).min(CLIENTS);
        let heard = || {
            noted(&journal)
                .iter()
                .filter(|line| line.starts_with('/'))
                .count()
        };
        eventually("the next one is served", || heard() >= served);
        assert_eq!(heard(), served);
        // The one that came first of those that are served may go on.
        note(&journal, &format!("release /{released}"));
        assert_eq!(client.answer().text(), format!("/{released}"));
    }
    let heard = noted(&journal);
    let mut heard: Vec<_> = heard.iter().filter(|line| line.starts_with('/')).collect();
    let number = |uri: &&String| uri[1..].parse::<usize>().unwrap();
    heard[..PERMITS].sort_unstable_by_key(number);
    assert!(heard.iter().map(number).eq(0..CLIENTS), "{heard:?}");
    assert!(backend.ledger().open_most <= PERMITS);
    assert_eq!(backend.ledger().accepted, PERMITS);
}

/// Waits until the journal lets this one go on.
fn held(journal: &Journal, uri: &str) {
    let line = format!("release {uri}");
    eventually("it is released", || noted(journal).contains(&line));
}

/// One client after another, with one place: none of them waits for the connection's end.
fn who_waits_gets_a_connection_that_rests(engine: Engine) {
    let backend = responder();
    let proxy = builder(engine)
        .args(["--settle-timeout", "30s"])
        .args(["--per-endpoint-max", "1", "--idle-upstream", "10m"])
        .backend(&backend)
        .start();
    let done = thread::scope(|scope| {
        let clients = (0..16).map(|number| {
            let proxy = &proxy;
            scope.spawn(move || {
                let client = Client::connect(proxy);
                for round in 0..20 {
                    let uri = format!("/{number}/{round}");
                    assert_eq!(client.ask(&Request::post(&uri, b"body")).text(), uri);
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().all(|client| client.join().is_ok())
    });
    assert!(done);
    assert_eq!(backend.ledger().accepted, 1);
}

fn a_full_queue_and_a_long_wait_are_a_503(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri() == "/held" {
                conversation.wait_for_release()?;
            }
            conversation.finish(&heard.page())?;
        }
        Ok(())
    });
    for options in [["--queue-max", "0"], ["--queue-timeout", "100ms"]] {
        let proxy = patient(engine)
            .args(["--per-endpoint-max", "1"])
            .args(options)
            .backend(&backend)
            .start();
        let received = backend.ledger().received;
        let held = Client::connect(&proxy);
        held.send(&Request::get("/held").bytes());
        backend.wait_until("it has the place", |ledger| ledger.received > received);
        let other = Client::connect(&proxy);
        let answer = other.ask(&Request::post("/", b"a body"));
        assert!(answer.says("503"), "{answer:?}");
        let head = String::from_utf8_lossy(&answer.stdout);
        assert!(head.contains("\r\nRetry-After: "), "{head}");
        other.finish();
        assert_over(&other.0);
        backend.release(1);
        assert_eq!(held.answer().text(), "/held");
        // Its connection is at rest, or about to be.
        eventually("others are served again", || {
            let client = Client::connect(&proxy);
            !client.ask(&Request::get("/page")).says("503")
        });
    }
}

/// Nobody may wait for a place, and this request has one: it ends without a byte once the time for
/// connecting is over, so that the web server tries its next one, and is served if the backend is back before.
fn a_refused_connect_is_no_full_queue(engine: Engine) {
    for (connect_timeout, comes_back) in [("200ms", false), ("60s", true)] {
        let down = Refusing::new();
        let proxy = builder(engine)
            .backend(&down)
            .args(["--per-endpoint-max", "1", "--queue-max", "0"])
            .args(["--connect-timeout", connect_timeout])
            .args(["--refused-timeout", connect_timeout])
            .start();
        let client = Client::connect(&proxy);
        client.send(&Request::get("/page").bytes());
        if comes_back {
            proxy.process().assert_comes_to_rest();
            assert_waiting(&client.0);
            let _back = down.recover(|conversation| conversation.respond(Heard::page));
            assert_eq!(client.answer().text(), "/page");
        } else {
            assert_over(&client.0);
            proxy.process().wait_for_log("Connection refused");
        }
    }
}

/// Nobody may wait for a place, and this request had the only one.
fn a_request_that_is_sent_again_keeps_its_place(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let heard = conversation.request()?.expect("a request");
        conversation.finish(&heard.page())?;
        // The next one is read and not answered.
        conversation.request().map(drop)
    });
    let proxy = builder(engine)
        .args(["--settle-timeout", "30s"])
        .backend(&backend)
        .args(["--per-endpoint-max", "1", "--queue-max", "0"])
        .args(["--idle-upstream", "1h"])
        .start();
    let client = Client::connect(&proxy);
    for (uri, connections) in [("/first", 1), ("/second", 2)] {
        assert_eq!(client.ask(&Request::get(uri)).text(), uri);
        proxy.process().assert_comes_to_rest();
        assert_eq!(backend.ledger().accepted, connections);
    }
}

/// As many connections as permits are at rest, and one of them dies of a request. The one that is opened instead
/// needs no other's place.
fn a_request_that_is_sent_again_costs_no_connection_at_rest(engine: Engine) {
    const PERMITS: usize = 4;
    let has_died: &AtomicBool = Box::leak(Box::default());
    let held: &AtomicUsize = Box::leak(Box::default());
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            match heard.uri() {
                "/hold" => {
                    held.fetch_add(1, Ordering::Relaxed);
                    conversation.wait_for_release()?;
                }
                "/dies" if !has_died.swap(true, Ordering::Relaxed) => return Ok(()),
                _ => {}
            }
            conversation.finish(&heard.page())?;
        }
        Ok(())
    });
    let proxy = patient(engine)
        .backend(&backend)
        .args(["--per-endpoint-max", &PERMITS.to_string()])
        .args(["--log-level", "info,spliceway::session::pool=debug"])
        .start();
    let hold_all = || {
        let held_before = held.load(Ordering::Relaxed);
        let asking: Vec<_> = (0..PERMITS)
            .map(|_| {
                let client = Client::connect(&proxy);
                client.send(&Request::get("/hold").bytes());
                client
            })
            .collect();
        eventually("each has a connection", || {
            held.load(Ordering::Relaxed) == held_before + PERMITS
        });
        backend.release(PERMITS);
        for client in asking {
            assert_eq!(client.answer().text(), "/hold");
        }
        proxy.process().assert_comes_to_rest();
    };
    hold_all();
    let answer = Client::connect(&proxy).ask(&Request::get("/dies"));
    assert_eq!(answer.text(), "/dies");
    assert!(has_died.load(Ordering::Relaxed));
    proxy.process().assert_comes_to_rest();
    let opened = backend.ledger().accepted;
    hold_all();
    // On a machine that is busy, the new one may have been without an answer for long enough to look as if it
    // waited in a backlog, for which one at rest is closed; the log tells.
    let made_way = proxy
        .process()
        .log()
        .count("makes way for one without an answer");
    assert_eq!(opened, PERMITS + 1);
    assert_eq!(backend.ledger().accepted, opened + made_way);
}

fn a_connection_without_requests_is_closed(engine: Engine) {
    let backend = responder();
    let proxy = builder(engine)
        .args(["--settle-timeout", "30s"])
        .args(["--idle-upstream", "100ms"])
        .backend(&backend)
        .start();
    let client = Client::connect(&proxy);
    for round in 0..3 {
        assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
        assert_eq!(backend.wait_for_end(round).ending, Ending::Eof);
    }
    assert_eq!(backend.ledger().accepted, 3);
}

/// The last request on a connection says that it is the last, and has no fence.
fn a_connection_serves_no_more_requests_than_allowed(engine: Engine) {
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        let kept = |keep_conn: bool| if keep_conn { "kept" } else { "last" };
        conversation.respond(|heard| {
            note(&written, kept(heard.keep_conn));
            heard.page()
        })
    });
    let proxy = patient(engine)
        .args(["--requests-per-upstream", "3", "--per-endpoint-max", "1"])
        .backend(&backend)
        .start();
    let client = Client::connect(&proxy);
    for _ in 0..9 {
        assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
    }
    assert_eq!(noted(&journal), ["kept", "kept", "last"].repeat(3));
    assert_eq!(backend.ledger().accepted, 3);
}

fn without_reuse_each_request_has_its_own_connection(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let heard = conversation.request()?.expect("a request");
        assert!(!heard.keep_conn);
        conversation.send(&heard.page())?;
        // Nothing has followed: no fence.
        conversation.keep_until_eof()
    });
    let proxy = builder(engine)
        .args(["--upstream-reuse", "never"])
        .backend(&backend)
        .start();
    let client = Client::connect(&proxy);
    for round in 0..3 {
        assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
        let seen = backend.wait_for_end(round);
        assert_eq!((seen.ending, seen.received.len()), (Ending::Eof, 0));
    }
}

// --- backends with habits -----------------------------------------------------------------------

/// It serves one connection at a time, to its end.
fn a_backend_that_ignores_the_fence_is_found_out_once_and_never_stranded(engine: Engine) {
    let alone = Arc::new(Mutex::new(()));
    let backend = Backend::scripted(move |conversation| {
        let _alone = alone.lock().unwrap();
        while let Some(record) = conversation.record()? {
            if record.kind != Kind::BeginRequest {
                continue;
            }
            while conversation.record()?.ok_or(ErrorKind::UnexpectedEof)?.kind != Kind::Stdin {}
            conversation.send(&page(record.id, b"/page"))?;
            if record.content[2] & 1 == 0 {
                break;
            }
        }
        Ok(())
    });
    for options in [&["--per-endpoint-max", "1"][..], &[]] {
        let proxy = builder(engine)
            .args(options.iter().copied())
            .args(["--idle-upstream", "10m"])
            .backend(&backend)
            .start();
        for _ in 0..5 {
            let client = Client::connect(&proxy);
            assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
        }
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let client = Client::connect(&proxy);
                    for _ in 0..5 {
                        assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
                    }
                });
            }
        });
        let log = proxy.process().log();
        assert_eq!(log.count("does not answer FCGI_GET_VALUES"), 1);
    }
}

/// Versions of PHP-FPM did (bug 76922).
fn a_backend_that_closes_after_the_fence_fails_no_request(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let Some(heard) = conversation.request()? else {
            return Ok(());
        };
        conversation.send(&heard.page())?;
        if heard.keep_conn {
            conversation.fence()?;
            conversation.send(&fence_answer())?;
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    let log = proxy.process().log();
    // What may be repeated is, until this is known.
    let client = Client::connect(&proxy);
    while log.count("keeps no connections") == 0 {
        assert_eq!(client.ask(&Request::get("/first")).text(), "/first");
    }
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let client = Client::connect(&proxy);
                for round in 0..50 {
                    let uri = format!("/{round}");
                    let request = match round % 2 {
                        0 => Request::get(&uri),
                        _ => Request::post(&uri, b"a body"),
                    };
                    assert_eq!(client.ask(&request).text(), uri);
                }
            });
        }
    });
    assert_eq!(log.count("keeps no connections"), 1);
}

/// It has no body; the end of one may follow all the same (section 6.3).
fn an_authorizer_is_served(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.head()? {
            conversation.send(&heard.page())?;
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    for round in 0..3 {
        let uri = format!("/{round}");
        let request = Request {
            role: Role::Authorizer,
            ..Request::get(&uri)
        };
        client.send(&request.head());
        assert_eq!(client.answer().text(), uri);
    }
}

/// Nothing but the next request shows that the head is all there is.
fn authorizers_in_one_packet_are_served_one_after_the_other(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.head()? {
            conversation.send(&heard.page())?;
        }
        Ok(())
    });
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    let heads = ["/1", "/2", "/3"].map(|uri| {
        let request = Request {
            role: Role::Authorizer,
            ..Request::get(uri)
        };
        request.head()
    });
    client.send(&heads.concat());
    for uri in ["/1", "/2", "/3"] {
        assert_eq!(client.answer().text(), uri);
    }
}

fn a_drain_does_not_wait_for_connections_without_a_request(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            conversation.send(&heard.page())?;
        }
        Ok(())
    });
    let mut proxy = start(engine, &backend);
    let (silent, asking) = (Client::connect(&proxy), Client::connect(&proxy));
    assert_eq!(
        Client::connect(&proxy).ask(&Request::get("/page")).text(),
        "/page"
    );
    // What was sent before is answered.
    proxy.process().signal(libc::SIGSTOP);
    eventually("the proxy is stopped", || proxy.process().is_stopped());
    asking.send(&Request::get("/asked").bytes());
    proxy.terminate();
    proxy.process().signal(libc::SIGCONT);
    assert_eq!(asking.answer().text(), "/asked");
    assert_eof(&silent.0);
    assert_eq!(proxy.wait().code(), Some(0));
}

fn a_drain_waits_for_requests_and_not_for_kept_connections(engine: Engine) {
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.request()? {
            note(&written, heard.uri());
            if heard.uri() == "/held" {
                conversation.wait_for_release()?;
            }
            conversation.send(&heard.page())?;
        }
        Ok(())
    });
    let mut proxy = start(engine, &backend);
    let (idle, busy) = (Client::connect(&proxy), Client::connect(&proxy));
    assert_eq!(idle.ask(&Request::get("/page")).text(), "/page");
    busy.send(&Request::get("/held").bytes());
    eventually("it runs", || noted(&journal) == ["/page", "/held"]);
    proxy.terminate();
    assert_eof(&idle.0);
    assert!(proxy.is_running());
    backend.release(1);
    assert_eq!(busy.answer().text(), "/held");
    assert_eof(&busy.0);
    assert_eq!(proxy.wait().code(), Some(0));
}
