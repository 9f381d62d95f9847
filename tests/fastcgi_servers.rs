//! What FastCGI servers do with kept connections, with the fence, and with answers that they do not finish:
//! each of them played by hand.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::client::assert_waiting;
use common::fastcgi::{
    Client, Heard, ONE, Record, Request, end, fence_answer, page, prove, record, records, stdout,
};
use common::proxy::Builder;
use common::random::seed;
use common::wait::meanwhile;
use common::{
    Backend, Conversation, Ending, Engine, Pattern, Proxy, Random, eventually, for_each_engine,
};
use spliceway::fastcgi::{Kind, RequestId, Role, push_stream};

for_each_engine!(
    an_unknown_server_gets_the_fence_after_its_answer_and_a_proven_one_with_the_request,
    a_server_that_closes_without_reading_on_loses_nothing_of_its_answer,
    a_server_that_answers_with_the_last_id_that_it_read_is_served,
    no_request_waits_for_a_server_that_is_known_to_ignore_the_fence,
    a_server_that_answers_the_fence_at_any_time_keeps_its_connection,
    a_management_record_at_any_place_parts_an_answer_and_does_not_end_it,
    a_connection_is_kept_only_if_the_end_of_the_body_is_certain,
    a_busy_worker_keeps_its_place_while_others_wait,
    a_request_whose_client_has_left_keeps_its_place_until_its_server_stirs,
    without_a_limit_a_request_whose_client_has_left_is_reset_at_once,
    an_answer_that_dies_at_any_byte_ends_between_records_with_the_sign,
    large_records_that_die_anywhere_end_between_records_with_the_sign,
    nonsense_within_an_answer_ends_it_with_the_sign,
    nonsense_that_comes_in_pieces_before_the_answer_is_a_502_when_told_to,
    an_answer_in_two_writes_does_not_wait_for_an_acknowledgement,
);

/// One worker, so that there is one pool, and connections that nobody closes.
fn builder(engine: Engine, settle_timeout: &str) -> Builder {
    Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi", "--workers", "1"])
        .args(["--idle-upstream", "10m", "--settle-timeout", settle_timeout])
}

/// Longer than any test takes.
const NEVER: &str = "5m";

/// What backends heard, in the order in which they heard it.
type Journal = Arc<Mutex<Vec<String>>>;

fn note(journal: &Journal, what: &str) {
    journal.lock().unwrap().push(what.to_owned());
}

fn noted(journal: &Journal) -> Vec<String> {
    journal.lock().unwrap().clone()
}

fn kept_or_last(heard: &Heard) -> &'static str {
    match heard.keep_conn {
        true => "kept",
        false => "last",
    }
}

/// Nothing more of the request has come, not even a fence.
fn assert_no_more(conversation: &Conversation) -> io::Result<()> {
    match conversation.has_bytes()? {
        false => Ok(()),
        true => Err(io::Error::other("a fence before the end of the answer")),
    }
}

// --- the fence ----------------------------------------------------------------------------------

fn an_unknown_server_gets_the_fence_after_its_answer_and_a_proven_one_with_the_request(
    engine: Engine,
) {
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        for _ in 0..2 {
            let heard = conversation.request()?.expect("a request");
            conversation.wait_for_release()?;
            assert_no_more(conversation)?;
            conversation.send(&stdout(heard.id, heard.uri().as_bytes()))?;
            conversation.wait_for_release()?;
            assert_no_more(conversation)?;
            conversation.send(&end(heard.id))?;
            conversation.fence()?;
            conversation.send(&fence_answer())?;
            note(&written, "after");
        }
        for _ in 0..2 {
            let heard = conversation.request()?.expect("a request");
            conversation.fence()?;
            note(&written, "with");
            conversation.send(&[heard.page(), fence_answer()].concat())?;
        }
        conversation.keep_until_eof()
    });
    let proxy = builder(engine, NEVER)
        .args(["--per-endpoint-max", "1"])
        .backend(&backend)
        .start();
    let client = Client::connect(&proxy);
    for request in [Request::get("/1"), Request::post("/2", b"a body")] {
        client.send(&request.bytes());
        for _ in 0..2 {
            // Whatever it has to send is sent.
            proxy.process().assert_comes_to_rest();
            backend.release(1);
        }
        client.answer();
    }
    for uri in ["/3", "/4"] {
        assert_eq!(client.ask(&Request::get(uri)).text(), uri);
    }
    assert_eq!(noted(&journal), ["after", "after", "with", "with"]);
    assert_eq!(backend.ledger().accepted, 1);
}

/// A close with bytes unread is a reset, and that destroys what the other side has not received.
fn a_server_that_closes_without_reading_on_loses_nothing_of_its_answer(engine: Engine) {
    const SIZE: u64 = 20 << 20;
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        let heard = conversation.request()?.expect("a request");
        note(&written, kept_or_last(&heard));
        conversation.send(&page(heard.id, &Pattern::new(4).bytes(SIZE)))
    });
    let proxy = builder(engine, NEVER).backend(&backend).start();
    let client = Client::connect(&proxy);
    for round in 0..6 {
        let answer = client.ask(&Request::get("/page"));
        let at_fault = Pattern::new(4).mismatch(0, answer.body());
        assert_eq!((answer.body().len() as u64, at_fault), (SIZE, None));
        // That it closes has been heard.
        let _ = backend.wait_for_end(round);
        proxy.process().assert_comes_to_rest();
    }
    let kept = ["kept"; 3].into_iter().chain(["last"; 3]);
    assert!(kept.eq(noted(&journal)), "{:?}", noted(&journal));
    assert_eq!(proxy.process().log().count("keeps no connections"), 1);
}

/// Some read all that has come before they answer, whatever it is.
fn a_server_that_answers_with_the_last_id_that_it_read_is_served(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let mut is_whole = false;
        loop {
            let bytes = conversation.receive()?.to_vec();
            if bytes.is_empty() {
                return Ok(());
            }
            let mut id = ONE;
            for record in records(&bytes) {
                id = record.id;
                is_whole |= record.kind == Kind::Stdin && record.content.is_empty();
            }
            if is_whole {
                conversation.send(&page(id, b"whoever it is for"))?;
                return conversation.discard_until_eof();
            }
        }
    });
    let proxy = builder(engine, "100ms").backend(&backend).start();
    for _ in 0..10 {
        let client = Client::connect(&proxy);
        let answer = client.ask(&Request::post("/page", b"a body"));
        assert_eq!(answer.text(), "whoever it is for");
    }
    let log = proxy.process().log();
    eventually("it is known", || {
        log.count("does not answer FCGI_GET_VALUES") == 1
    });
}

/// It serves one connection at a time, to its end, so that each request waits for the settle timeout until
/// it is known, and none does afterwards.
fn no_request_waits_for_a_server_that_is_known_to_ignore_the_fence(engine: Engine) {
    const SETTLE: Duration = Duration::from_secs(2);
    let alone = Arc::new(Mutex::new(()));
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        let _alone = alone.lock().unwrap();
        let heard = conversation.request()?.expect("a request");
        note(&written, kept_or_last(&heard));
        conversation.send(&heard.page())?;
        match heard.keep_conn {
            true => conversation.discard_until_eof(),
            false => Ok(()),
        }
    });
    for limit in [&["--per-endpoint-max", "1"][..], &[]] {
        journal.lock().unwrap().clear();
        let proxy = builder(engine, "2s")
            .args(limit.iter().copied())
            .backend(&backend)
            .start();
        let client = Client::connect(&proxy);
        let log = proxy.process().log();
        for _ in 0..3 {
            assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
            if limit.is_empty() {
                proxy.process().assert_comes_to_rest();
            }
        }
        log.wait_for("what is known of it", |line| {
            line.contains("does not answer FCGI_GET_VALUES")
        });
        let began = Instant::now();
        for _ in 0..5 {
            assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
        }
        assert!(began.elapsed() < SETTLE, "{:?}", began.elapsed());
        let kept = ["kept"; 3].into_iter().chain(["last"; 5]);
        assert!(kept.eq(noted(&journal)), "{:?}", noted(&journal));
    }
}

/// Go's package reads all the time, and answers the fence while the request runs. Once that is known, the
/// fence comes after the answer.
fn a_server_that_answers_the_fence_at_any_time_keeps_its_connection(engine: Engine) {
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        // Fences before a request are answered.
        while let Some(heard) = conversation.request()? {
            let answer = match conversation.has_bytes()? {
                true => {
                    note(&written, "early");
                    conversation.fence()?;
                    [fence_answer(), heard.page()].concat()
                }
                false => heard.page(),
            };
            conversation.send(&answer)?;
        }
        Ok(())
    });
    let proxy = builder(engine, NEVER)
        .args(["--per-endpoint-max", "1"])
        .backend(&backend)
        .start();
    let client = Client::connect(&proxy);
    for number in 0..50 {
        let uri = format!("/{number}");
        let request = match number % 2 {
            0 => Request::get(&uri),
            _ => Request::post(&uri, b"a body"),
        };
        assert_eq!(client.ask(&request).text(), uri);
    }
    assert_eq!(noted(&journal), ["early"], "it is told once");
    assert_eq!(backend.ledger().accepted, 1);
}

/// Small records and large ones, which pass through memory and through pipes.
fn a_management_record_at_any_place_parts_an_answer_and_does_not_end_it(engine: Engine) {
    let unknown_type = record(Kind::UnknownType, RequestId::MANAGEMENT, &[9; 8]);
    let large = |byte| record(Kind::Stdout, ONE, &[byte; 65_535]);
    let answers = [
        vec![
            record(Kind::Stderr, ONE, b"a warning"),
            record(Kind::Stdout, ONE, b"Content-Type: text/plain\r\n"),
            record(Kind::Stdout, ONE, b"\r\nbegin, "),
            record(Kind::Stdout, ONE, b"end"),
            record(Kind::Stdout, ONE, b""),
            record(Kind::EndRequest, ONE, &[0; 8]),
        ],
        vec![
            record(Kind::Stdout, ONE, b"X: y\r\n\r\n"),
            large(b'a'),
            large(b'b'),
            large(b'c'),
            record(Kind::EndRequest, ONE, &[0; 8]),
        ],
    ];
    let mut scripts = Vec::new();
    for answer in &answers {
        for odd in [fence_answer(), unknown_type.clone()] {
            for place in 0..answer.len() {
                let mut parts = answer.clone();
                parts.insert(place, odd.clone());
                scripts.push((parts.clone(), false, answer.concat()));
                scripts.push((parts, true, answer.concat()));
            }
        }
    }
    let played = scripts.clone();
    let backend = Backend::scripted(move |conversation| {
        let heard = conversation.request()?.expect("a request");
        let number: usize = heard.uri()[1..].parse().unwrap();
        let (parts, in_pieces, _) = &played[number];
        if *in_pieces {
            for part in parts {
                conversation.send(part)?;
            }
        } else {
            conversation.send(&parts.concat())?;
        }
        conversation.discard_until_eof()
    });
    let proxy = builder(engine, "100ms").backend(&backend).start();
    let client = Client::connect(&proxy);
    for (number, (_, _, whole)) in scripts.iter().enumerate() {
        client.send(&Request::get(&format!("/{number}")).bytes());
        let answer = client.answer();
        let expected = records(whole);
        assert!(
            answer.stdout == content(&expected, Kind::Stdout)
                && answer.stderr == content(&expected, Kind::Stderr),
            "answer {number}"
        );
    }
}

/// All content of records of this kind.
fn content(records: &[Record], kind: Kind) -> Vec<u8> {
    let of_kind = records.iter().filter(|record| record.kind == kind);
    of_kind.flat_map(|record| record.content.clone()).collect()
}

// --- the end of a body --------------------------------------------------------------------------

/// PHP-FPM reads as much of a body as CONTENT_LENGTH says, and takes what is behind it for the next request.
fn a_connection_is_kept_only_if_the_end_of_the_body_is_certain(engine: Engine) {
    let journal = Journal::default();
    let written = Arc::clone(&journal);
    let backend = Backend::scripted(move |conversation| {
        while let Some(mut heard) = conversation.head()? {
            note(&written, kept_or_last(&heard));
            if heard
                .params
                .get("ROLE")
                .is_none_or(|role| role != "authorizer")
            {
                conversation.body(&mut heard)?;
            }
            let page = page(heard.id, &heard.body);
            if !heard.keep_conn {
                return conversation.send(&page);
            }
            conversation.finish(&page)?;
        }
        Ok(())
    });
    let body = Pattern::new(6).bytes(300_000);
    let with_length = Request::post("/", &body);
    let mut without_length = with_length.clone();
    without_length
        .params
        .retain(|(name, _)| name != "CONTENT_LENGTH");
    let authorizer = Request {
        role: Role::Authorizer,
        ..Request::get("/").param("ROLE", "authorizer")
    };
    for is_proven in [false, true] {
        let proxy = builder(engine, NEVER).backend(&backend).start();
        if is_proven {
            let client = Client::connect(&proxy);
            for _ in 0..2 {
                client.ask(&Request::get("/"));
                proxy.process().assert_comes_to_rest();
            }
        }
        journal.lock().unwrap().clear();
        // In one piece, and the body behind the head.
        for (request, at_once, kept) in [
            (&with_length, true, "kept"),
            (&with_length, false, "kept"),
            (&without_length, true, "last"),
            (&without_length, false, "last"),
            (&Request::get("/"), true, "kept"),
            (&Request::get("/"), false, "last"),
            (&authorizer, true, "kept"),
        ] {
            let client = Client::connect(&proxy);
            let is_authorizer = request.role == Role::Authorizer;
            let before = noted(&journal).len();
            let answer = thread::scope(|scope| {
                scope.spawn(|| match (is_authorizer, at_once) {
                    (true, _) => client.send(&request.head()),
                    (false, true) => client.send(&request.bytes()),
                    (false, false) => {
                        client.send(&request.head());
                        eventually("the head is there", || noted(&journal).len() > before);
                        client.send(&request.stdin());
                    }
                });
                client.answer()
            });
            assert!(answer.body() == request.body, "{}", answer.body().len());
            assert_eq!(noted(&journal).last().unwrap(), kept);
        }
    }
}

// --- places -------------------------------------------------------------------------------------

/// Serves pages, and does not answer the fence behind `/finish` until it is released.
fn finishing() -> Backend {
    Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri() != "/finish" {
                conversation.finish(&heard.page())?;
                continue;
            }
            conversation.send(&heard.page())?;
            conversation.fence()?;
            conversation.wait_for_release()?;
            conversation.send(&fence_answer())?;
        }
        Ok(())
    })
}

/// `fastcgi_finish_request()`: it has answered, and is at work. Another connection would be one more than
/// there are workers.
fn a_busy_worker_keeps_its_place_while_others_wait(engine: Engine) {
    let backend = finishing();
    let proxy = builder(engine, "1s")
        .args(["--per-endpoint-max", "2"])
        .backend(&backend)
        .start();
    prove(&proxy);
    for _ in 0..2 {
        let client = Client::connect(&proxy);
        assert_eq!(client.ask(&Request::get("/finish")).text(), "/finish");
    }
    let waiting = ["/a", "/b"].map(|uri| {
        let client = Client::connect(&proxy);
        client.send(&Request::get(uri).bytes());
        (uri, client)
    });
    // For longer than the settle timeout.
    meanwhile(Duration::from_secs(3), || {
        for (_, client) in &waiting {
            assert_waiting(&client.0);
        }
    });
    // One is free, and serves both.
    backend.release(1);
    for (uri, client) in &waiting {
        assert_eq!(client.answer().text(), *uri);
    }
    assert_eq!(backend.ledger().accepted, 2);
    backend.release(1);
}

/// Its worker is busy for as long, and would let the next request wait.
fn a_request_whose_client_has_left_keeps_its_place_until_its_server_stirs(engine: Engine) {
    for left in ["/writes", "/ends", "/half"] {
        let journal = Journal::default();
        let written = Arc::clone(&journal);
        let backend = Backend::scripted(move |conversation| {
            while let Some(heard) = conversation.request()? {
                note(&written, heard.uri());
                if heard.uri() == "/page" {
                    conversation.finish(&heard.page())?;
                    continue;
                }
                if heard.uri() == "/half" {
                    conversation.send(&stdout(heard.id, b"a part"))?;
                }
                conversation.wait_for_release()?;
                if heard.uri() == "/ends" {
                    break;
                }
                conversation.send(&stdout(heard.id, b"a part"))?;
                return conversation.keep_until_eof();
            }
            Ok(())
        });
        let proxy = builder(engine, "100ms")
            .args(["--per-endpoint-max", "1"])
            .backend(&backend)
            .start();
        let leaving = Client::connect(&proxy);
        leaving.send(&Request::post(left, b"a body").bytes());
        eventually("it is at work", || noted(&journal) == [left]);
        if left == "/half" {
            assert_eq!(leaving.record().kind, Kind::Stdout);
        }
        drop(leaving);
        let waiting = Client::connect(&proxy);
        waiting.send(&Request::get("/page").closing().bytes());
        // For longer than it takes to notice that the client has left.
        meanwhile(Duration::from_secs(2), || assert_waiting(&waiting.0));
        assert_eq!(noted(&journal), [left]);
        backend.release(1);
        assert_eq!(waiting.answer().text(), "/page");
        if left != "/ends" {
            // It hears that nobody reads.
            assert_eq!(backend.wait_for_end(0).ending, Ending::Reset);
        }
        assert_eq!(backend.ledger().accepted, 2);
    }
}

fn without_a_limit_a_request_whose_client_has_left_is_reset_at_once(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.request()?;
        conversation.keep_until_eof()
    });
    let proxy = builder(engine, NEVER).backend(&backend).start();
    let client = Client::connect(&proxy);
    client.send(&Request::get("/page").bytes());
    backend.wait_until("it is at work", |ledger| ledger.received > 0);
    drop(client);
    assert_eq!(backend.wait_for_end(0).ending, Ending::Reset);
}

// --- answers that break off ---------------------------------------------------------------------

/// Records with and without padding, with the headers' end within one and between two of them.
fn answers_to_break() -> Vec<Vec<u8>> {
    let padded = |kind: Kind, content: &[u8], padding: u8| {
        let len = u16::try_from(content.len()).unwrap().to_be_bytes();
        let mut bytes = vec![1, kind.byte(), 0, 1, len[0], len[1], padding, 0];
        bytes.extend(content);
        bytes.resize(bytes.len() + usize::from(padding), b'p');
        bytes
    };
    let end = [
        record(Kind::Stdout, ONE, b""),
        record(Kind::EndRequest, ONE, &[0; 8]),
    ]
    .concat();
    vec![
        [
            padded(Kind::Stderr, b"a warning", 0),
            padded(Kind::Stdout, b"Content-Type: text/plain\r\n\r", 3),
            padded(Kind::Stdout, b"\n", 255),
            padded(Kind::Stdout, b"x", 0),
            padded(Kind::Stderr, b"another", 1),
            padded(Kind::Stdout, b"the end", 7),
            end.clone(),
        ]
        .concat(),
        [padded(Kind::Stdout, b"X: y\n\nbody", 0), end].concat(),
    ]
}

/// STDOUT and STDERR of what has come of an answer, and whether it is whole.
fn come(bytes: &[u8]) -> (Vec<u8>, Vec<u8>, bool) {
    let (mut stdout, mut stderr, mut rest) = (Vec::new(), Vec::new(), bytes);
    while let Some((header, behind)) = rest.split_first_chunk::<8>() {
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let content = &behind[..len.min(behind.len())];
        match header[1] {
            kind if kind == Kind::Stdout.byte() => stdout.extend(content),
            kind if kind == Kind::Stderr.byte() => stderr.extend(content),
            _ => return (stdout, stderr, content.len() == len),
        }
        rest = &behind[(len + usize::from(header[6])).min(behind.len())..];
    }
    (stdout, stderr, false)
}

/// What a client got of an answer of which `bytes` came.
#[track_caller]
fn assert_broken_off(client: &Client, bytes: &[u8], what: &str) {
    let (stdout, stderr, is_whole) = come(bytes);
    assert!(!is_whole, "{what}: nothing is missing");
    let has_headers = [&b"\r\n\r\n"[..], b"\n\n"]
        .iter()
        .any(|end| stdout.windows(end.len()).any(|window| window == *end));
    let got = match has_headers {
        true => client.broken_answer(),
        false => client.records_to_the_end(),
    };
    assert!(content(&got, Kind::Stdout) == stdout, "{what}: STDOUT");
    assert!(content(&got, Kind::Stderr) == stderr, "{what}: STDERR");
}

/// Plays the answer of this number up to this byte. The proxy has it before the connection ends.
fn breaking(answers: Vec<Vec<u8>>) -> Backend {
    Backend::scripted(move |conversation| {
        let heard = conversation.request()?.expect("a request");
        let (number, at) = heard.uri()[1..].split_once('/').unwrap();
        let (number, at): (usize, usize) = (number.parse().unwrap(), at.parse().unwrap());
        conversation.send(&answers[number][..at])
    })
}

fn an_answer_that_dies_at_any_byte_ends_between_records_with_the_sign(engine: Engine) {
    let answers = answers_to_break();
    let backend = breaking(answers.clone());
    for options in [&[][..], &["--per-endpoint-max", "1"]] {
        let proxy = builder(engine, NEVER)
            .args(options.iter().copied())
            .backend(&backend)
            .start();
        for (number, answer) in answers.iter().enumerate() {
            for at in 0..answer.len() {
                let client = Client::connect(&proxy);
                let uri = format!("/{number}/{at}");
                client.send(&Request::get(&uri).closing().bytes());
                assert_broken_off(&client, &answer[..at], &uri);
            }
        }
    }
}

/// They go through memory and through pipes, to clients that read at once and to others that let the
/// proxy wait.
fn large_records_that_die_anywhere_end_between_records_with_the_sign(engine: Engine) {
    const ROUNDS: usize = 24;
    let seed = seed();
    let mut random = Random::new(seed);
    let mut answer = record(Kind::Stdout, ONE, b"X: y\r\n\r\n");
    let mut boundaries = Vec::new();
    while answer.len() < 3 << 20 {
        let len =
            usize::try_from(random.pick(&[1, 7, 4096, 16_384, 40_000, 65_528, 65_535])).unwrap();
        let body = Pattern::new(answer.len() as u64).bytes(len as u64);
        answer.extend(record(Kind::Stdout, ONE, &body));
        boundaries.push(answer.len());
    }
    answer.extend(end(ONE));
    let backend = breaking(vec![answer.clone()]);
    let proxy = builder(engine, NEVER).backend(&backend).start();
    for round in 0..ROUNDS {
        let boundary =
            boundaries[usize::try_from(random.within(0..=boundaries.len() as u64 - 1)).unwrap()];
        let at = match round % 3 {
            0 => boundary,
            1 => boundary - 10 + usize::try_from(random.within(0..=20)).unwrap(),
            _ => usize::try_from(random.within(0..=3 << 20)).unwrap(),
        };
        let at = at.min(answer.len() - 1);
        let client = Client::connect(&proxy);
        let uri = format!("/0/{at}");
        client.send(&Request::get(&uri).closing().bytes());
        if round % 2 == 1 {
            // Its socket is full, and the end has come.
            proxy.process().assert_comes_to_rest();
        }
        assert_broken_off(&client, &answer[..at], &format!("{uri}, seed {seed}"));
    }
}

/// What came before it is the client's.
fn nonsense_within_an_answer_ends_it_with_the_sign(engine: Engine) {
    let error = record(Kind::Stderr, ONE, b"a warning");
    let begins = [
        [&error[..], &record(Kind::Stdout, ONE, b"X: y\r\n\r\nhalf")].concat(),
        // Before the end of the headers, the mere end tells.
        [&error[..], &record(Kind::Stdout, ONE, b"X: y\r\n")].concat(),
        error,
    ];
    let odd = [
        b"HTTP/1.1 500 Internal Server Error\r\n\r\n".to_vec(),
        record(Kind::Stdout, RequestId::MANAGEMENT, b"foreign"),
        record(Kind::Stdin, ONE, b"no part of an answer"),
        record(Kind::EndRequest, ONE, b"short"),
    ];
    let (played_begins, played_odd) = (begins.clone(), odd.clone());
    let backend = Backend::scripted(move |conversation| {
        let heard = conversation.request()?.expect("a request");
        let mut uri = heard.uri()[1..].split('/');
        let mut number = || uri.next().unwrap().parse::<usize>().unwrap();
        let (begin, odd) = (&played_begins[number()], &played_odd[number()]);
        if uri.next() == Some("pieces") {
            conversation.send(begin)?;
            conversation.wait_for_release()?;
            conversation.send(odd)?;
        } else {
            conversation.send(&[&begin[..], odd].concat())?;
        }
        conversation.discard_until_eof()
    });
    let proxy = builder(engine, NEVER).backend(&backend).start();
    for (begin_number, begin) in begins.iter().enumerate() {
        for odd_number in 0..odd.len() {
            for how in ["pieces", "whole"] {
                let client = Client::connect(&proxy);
                let uri = format!("/{begin_number}/{odd_number}/{how}");
                client.send(&Request::get(&uri).closing().bytes());
                if how == "pieces" {
                    proxy.process().assert_comes_to_rest();
                    backend.release(1);
                }
                assert_broken_off(&client, begin, &uri);
            }
        }
    }
}

/// Nothing of it has gone to the client, however it came.
fn nonsense_that_comes_in_pieces_before_the_answer_is_a_502_when_told_to(engine: Engine) {
    let foreign = record(Kind::Stdout, RequestId::MANAGEMENT, b"foreign");
    let backend = Backend::scripted(move |conversation| {
        conversation.request()?;
        conversation.send(&foreign[..3])?;
        conversation.wait_for_release()?;
        conversation.send(&foreign[3..])?;
        conversation.discard_until_eof()
    });
    let proxy = builder(engine, NEVER)
        .args(["--on-failure", "respond"])
        .backend(&backend)
        .start();
    let client = Client::connect(&proxy);
    client.send(&Request::get("/").closing().bytes());
    proxy.process().assert_comes_to_rest();
    backend.release(1);
    assert!(client.answer().says("502"));
}

// --- time ---------------------------------------------------------------------------------------

/// With Nagle's algorithm on, the second write waits for an acknowledgement of the first, which a kernel
/// delays for 40 ms.
fn an_answer_in_two_writes_does_not_wait_for_an_acknowledgement(engine: Engine) {
    const ROUNDS: usize = 30;
    const TOLERANCE: Duration = Duration::from_millis(20);
    let backend = Backend::scripted(|conversation| {
        conversation.gather()?;
        while let Some(heard) = conversation.request()? {
            let page = match heard.uri() {
                "/two" => {
                    let mut first = Vec::new();
                    push_stream(&mut first, Kind::Stdout, heard.id, b"X: y\r\n\r\n");
                    conversation.send(&first)?;
                    page(heard.id, b"/two")
                }
                _ => heard.page(),
            };
            conversation.finish(&page)?;
        }
        Ok(())
    });
    let proxy = builder(engine, NEVER)
        .args(["--per-endpoint-max", "1"])
        .backend(&backend)
        .start();
    prove(&proxy);
    let client = Client::connect(&proxy);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (uri, times) in ["/one", "/two"].into_iter().zip(&mut times) {
            let began = Instant::now();
            let answer = client.ask(&Request::get(uri));
            times.push(began.elapsed());
            assert!(answer.stdout.ends_with(uri.as_bytes()));
        }
    }
    let [one, two] = times.map(|mut times| {
        times.sort_unstable();
        times[ROUNDS / 2]
    });
    assert!(
        two < one + TOLERANCE,
        "{two:?} in two writes, {one:?} in one"
    );
    assert_eq!(backend.ledger().accepted, 1);
}
