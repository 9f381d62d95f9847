//! What operators change by hand while clients are served: endpoints that get nothing new, weights, and pauses.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::client::{assert_eof, assert_waiting, receive_exact, send};
use common::fastcgi::{Answer, Client, Heard, Request};
use common::http::get_unix;
use common::programs::{FPM_WORKERS, fresh_endpoint, start_fpm_pool};
use common::proxy::fresh_dir;
use common::wait::{SetOnDrop, meanwhile};
use common::{Backend, Engine, Proxy, eventually, for_each_engine};

for_each_engine!(
    a_reload_of_php_fpm_behind_a_pause_fails_no_request,
    an_endpoint_that_is_drained_gets_nothing_new_and_no_request_fails,
    a_raw_session_outlives_the_drain_of_its_endpoint,
    an_unix_endpoint_is_drained_by_its_path,
    without_any_endpoint_in_use_requests_fail_when_their_time_is_up,
    what_runs_finishes_in_a_pause_and_what_comes_waits_in_order,
    more_than_the_queue_takes_wait_in_a_pause_for_longer_than_its_timeout,
    raw_clients_without_a_limit_wait_in_the_backlog,
    raw_clients_with_a_limit_wait_in_the_queue,
    a_pause_ends_by_itself_and_can_be_prolonged,
    a_drain_of_the_daemon_ends_a_pause,
    weights_are_those_of_the_configuration_until_one_is_given_by_hand,
    mistakes_are_told_with_what_there_is,
);

const BINARY: &str = env!("CARGO_BIN_EXE_spliceway");

/// The route of a command line.
const ROUTE: &str = "default";

fn tell(proxy: &Proxy, words: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(words).arg("--control").arg(proxy.control());
    command.stdin(Stdio::null()).output().unwrap()
}

/// It was carried out.
#[track_caller]
fn done(proxy: &Proxy, words: &[&str]) -> String {
    let output = tell(proxy, words);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// It was not, or what it waited for did not come, and this was said of it.
#[track_caller]
fn refused(proxy: &Proxy, words: &[&str], code: i32, mentions: &[&str]) {
    let output = tell(proxy, words);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    for mention in mentions {
        assert!(text.contains(mention), "no {mention:?} in {text}");
    }
}

/// The one route of a status.
fn route(proxy: &Proxy) -> serde_json::Value {
    let status = get_unix(&proxy.control(), "/status").body;
    let mut status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["routes"][0].take()
}

fn endpoint<'a>(route: &'a serde_json::Value, address: &str) -> &'a serde_json::Value {
    let endpoints = route["endpoints"].as_array().unwrap();
    endpoints.iter().find(|e| e["address"] == address).unwrap()
}

fn waiting(proxy: &Proxy) -> u64 {
    route(proxy)["queue"]["depth"].as_u64().unwrap()
}

// --- load ---------------------------------------------------------------------------------------

/// What becomes of the requests of clients that make one after the other.
#[derive(Default)]
struct Tally {
    served: AtomicUsize,
    failed: AtomicUsize,
    is_over: AtomicBool,
}

impl Tally {
    fn served(&self) -> usize {
        self.served.load(Ordering::Acquire)
    }

    #[track_caller]
    fn wait_for_more(&self, what: &str) {
        let before = self.served();
        eventually(what, || self.served() > before + 20);
    }

    /// Requests until it is over: on one connection, or each on a new one.
    fn make_requests(&self, socket: &Path, request: &Request, is_kept: bool) {
        let mut client = None;
        while !self.is_over.load(Ordering::Acquire) {
            let outcome = ask(socket, &mut client, request);
            if !is_kept || outcome.is_err() {
                client = None;
            }
            let is_right = outcome.is_ok_and(|answer| answer.text().starts_with("page"));
            let count = if is_right { &self.served } else { &self.failed };
            count.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn ask(socket: &Path, client: &mut Option<Client>, request: &Request) -> io::Result<Answer> {
    let connected = match client.take() {
        Some(connected) => connected,
        None => Client(common::proxy::connect(socket)?),
    };
    (&connected.0).write_all(&request.bytes())?;
    let answer = connected.try_answer()?;
    *client = Some(connected);
    Ok(answer)
}

/// Clients make requests while something is done.
fn under_load(proxy: &Proxy, request: &Request, act: impl FnOnce(&Tally)) {
    let tally = Tally::default();
    thread::scope(|scope| {
        let over = SetOnDrop(&tally.is_over);
        for number in 0..6 {
            let (tally, socket) = (&tally, proxy.socket());
            scope.spawn(move || tally.make_requests(socket, request, number % 2 == 0));
        }
        tally.wait_for_more("requests are served");
        act(&tally);
        drop(over);
    });
    assert_eq!(tally.failed.load(Ordering::Acquire), 0, "requests failed");
}

/// Answers each request with a page, and counts them.
fn counting_responder(count: &Arc<AtomicUsize>) -> Backend {
    let count = Arc::clone(count);
    Backend::scripted(move |conversation| {
        let count = &count;
        conversation.respond(|heard: &Heard| {
            count.fetch_add(1, Ordering::AcqRel);
            common::fastcgi::page(heard.id, b"page")
        })
    })
}

// --- pauses -------------------------------------------------------------------------------------

/// The recipe of a deploy: pause, reload PHP-FPM, which gives its workers no time to finish, and go on.
fn a_reload_of_php_fpm_behind_a_pause_fails_no_request(engine: Engine) {
    let (dir, at) = (fresh_dir(), fresh_endpoint());
    let script = dir.path().join("page.php");
    std::fs::write(&script, "<?php usleep(2000); echo 'page ', getmypid();").unwrap();
    let fpm = start_fpm_pool(dir.path(), &at, FPM_WORKERS, "", &[]);
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(format!("{}:{}", at.0, at.1))
        .args(["--protocol", "fastcgi", "--per-endpoint-max", "4"])
        .observed()
        .start();
    let request = Request::get("/page").param("SCRIPT_FILENAME", script.to_str().unwrap());
    let pid = |client: &Client| client.ask(&request).text();
    let first = pid(&Client::connect(&proxy));
    under_load(&proxy, &request, |tally| {
        for round in 0..5 {
            let said = done(&proxy, &["pause", ROUTE, "--wait", "20s", "--for", "50s"]);
            assert!(said.contains("nothing runs any more"), "{said}");
            // What is under way between proxy and clients comes in.
            eventually("all clients wait", || waiting(&proxy) == 6);
            let before = tally.served();
            let ready = fpm.log().count("ready to handle connections");
            fpm.signal(libc::SIGUSR2);
            eventually("PHP-FPM has started anew", || {
                fpm.log().count("ready to handle connections") > ready
            });
            assert_eq!(tally.served(), before, "served in pause {round}");
            done(&proxy, &["resume", ROUTE]);
            tally.wait_for_more("requests are served after the pause");
        }
    });
    assert_ne!(pid(&Client::connect(&proxy)), first, "it is another worker");
}

fn what_runs_finishes_in_a_pause_and_what_comes_waits_in_order(engine: Engine) {
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard_by_backend = Arc::clone(&order);
    let backend = Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.request()? {
            heard_by_backend
                .lock()
                .unwrap()
                .push(heard.uri().to_owned());
            if heard.uri() == "/slow" {
                conversation.wait_for_release()?;
            }
            conversation.finish(&heard.page())?;
        }
        Ok(())
    });
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--protocol", "fastcgi", "--per-endpoint-max", "1"])
        .observed()
        .start();
    let heard = |count: usize| order.lock().unwrap().len() == count;
    let running = Client::connect(&proxy);
    running.send(&Request::get("/slow").bytes());
    eventually("it runs", || heard(1));
    let output = tell(&proxy, &["pause", ROUTE, "--wait", "100ms"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(said.contains("1 connection"), "{said}");
    let clients: Vec<_> = (0..5u64)
        .map(|number| {
            let client = Client::connect(&proxy);
            client.send(&Request::get(&format!("/{number}")).bytes());
            eventually("it waits", || waiting(&proxy) == number + 1);
            client
        })
        .collect();
    backend.release(1);
    assert_eq!(running.answer().text(), "/slow");
    done(&proxy, &["pause", ROUTE, "--wait", "20s"]);
    assert!(heard(1), "nothing new has come");
    assert!(route(&proxy)["pause_left_seconds"].as_f64().unwrap() > 0.0);
    done(&proxy, &["resume", ROUTE]);
    for (number, client) in clients.iter().enumerate() {
        assert_eq!(client.answer().text(), format!("/{number}"));
    }
    let expected = ["/slow", "/0", "/1", "/2", "/3", "/4"];
    assert_eq!(*order.lock().unwrap(), expected);
    assert!(route(&proxy)["pause_left_seconds"].is_null());
}

fn more_than_the_queue_takes_wait_in_a_pause_for_longer_than_its_timeout(engine: Engine) {
    let backend = common::fastcgi::responder();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--protocol", "fastcgi", "--per-endpoint-max", "1"])
        .args(["--queue-max", "2", "--queue-timeout", "300ms"])
        .observed()
        .start();
    done(&proxy, &["pause", ROUTE, "--wait", "20s"]);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let client = Client::connect(&proxy);
            client.send(&Request::get("/page").bytes());
            client
        })
        .collect();
    eventually("all of them wait", || waiting(&proxy) == 20);
    // None of them is answered when its time would be up.
    meanwhile(Duration::from_millis(900), || {
        assert_eq!(waiting(&proxy), 20);
    });
    done(&proxy, &["resume", ROUTE]);
    for client in &clients {
        assert_eq!(client.answer().text(), "/page");
    }
}

fn raw_clients_without_a_limit_wait_in_the_backlog(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .observed()
        .start();
    let before = proxy.connect();
    echoes(&before);
    refused(
        &proxy,
        &["pause", ROUTE, "--wait", "100ms"],
        1,
        &["1 connection"],
    );
    let clients: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    clients.iter().for_each(|client| send(client, b"x"));
    // What runs goes on, and nobody new is connected.
    meanwhile(Duration::from_millis(300), || echoes(&before));
    clients.iter().for_each(assert_waiting);
    assert_eq!(backend.ledger().accepted, 1);
    drop(before);
    done(&proxy, &["pause", ROUTE, "--wait", "20s"]);
    done(&proxy, &["resume", ROUTE]);
    for client in &clients {
        assert_eq!(receive_exact(client, 1), b"x");
    }
}

fn raw_clients_with_a_limit_wait_in_the_queue(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args([
            "--per-endpoint-max",
            "2",
            "--queue-max",
            "0",
            "--queue-timeout",
            "300ms",
        ])
        .observed()
        .start();
    done(&proxy, &["pause", ROUTE]);
    let clients: Vec<_> = (0..2).map(|_| proxy.connect()).collect();
    clients.iter().for_each(|client| send(client, b"x"));
    eventually("they wait", || waiting(&proxy) == 2);
    meanwhile(Duration::from_millis(700), || {
        clients.iter().for_each(assert_waiting)
    });
    assert_eq!(backend.ledger().accepted, 0);
    done(&proxy, &["resume", ROUTE]);
    for client in &clients {
        assert_eq!(receive_exact(client, 1), b"x");
    }
}

fn a_pause_ends_by_itself_and_can_be_prolonged(engine: Engine) {
    let backend = common::fastcgi::responder();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--protocol", "fastcgi"])
        .observed()
        .start();
    let began = Instant::now();
    done(&proxy, &["pause", ROUTE, "--for", "50s"]);
    let said = done(&proxy, &["pause", ROUTE, "--for", "1s"]);
    assert!(said.contains("was paused already"), "{said}");
    let client = Client::connect(&proxy);
    assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
    assert!(began.elapsed() >= Duration::from_secs(1));
    let said = done(&proxy, &["resume", ROUTE]);
    assert!(said.contains("was not paused"), "{said}");
}

fn a_drain_of_the_daemon_ends_a_pause(engine: Engine) {
    for protocol in ["raw", "fastcgi"] {
        let backend = match protocol {
            "raw" => Backend::echo(),
            _ => common::fastcgi::responder(),
        };
        let builder = Proxy::builder().engine(engine).backend(&backend).observed();
        let builder = builder.args(["--protocol", protocol]);
        let mut proxy = builder.start();
        done(&proxy, &["pause", ROUTE]);
        let client = Client::connect(&proxy);
        client.send(&Request::get("/page").closing().bytes());
        client.finish();
        proxy.terminate();
        match protocol {
            "raw" => {
                let bytes = Request::get("/page").closing().bytes();
                assert_eq!(receive_exact(&client.0, bytes.len()), bytes);
                assert_eof(&client.0);
            }
            _ => assert_eq!(client.answer().text(), "/page"),
        }
        assert!(proxy.wait().success());
    }
}

// --- endpoints ----------------------------------------------------------------------------------

fn an_endpoint_that_is_drained_gets_nothing_new_and_no_request_fails(engine: Engine) {
    let counts = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let backends = counts.each_ref().map(counting_responder);
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backends[0])
        .backend(&backends[1])
        .args(["--protocol", "fastcgi", "--per-endpoint-max", "3"])
        .observed()
        .start();
    let address = backends[0].address().to_string();
    let count = |number: usize| counts[number].load(Ordering::Acquire);
    under_load(&proxy, &Request::get("/page"), |tally| {
        for _ in 0..10 {
            let said = done(&proxy, &["drain", ROUTE, &address, "--wait", "20s"]);
            assert!(said.contains("no connection to"), "{said}");
            let (drained, other) = (count(0), count(1));
            let status = route(&proxy);
            assert_eq!(endpoint(&status, &address)["drained"], true);
            assert_eq!(endpoint(&status, &address)["connections"], 0);
            tally.wait_for_more("requests are served by the other one");
            assert_eq!(count(0), drained, "nothing new has come to it");
            assert!(count(1) > other);
            done(&proxy, &["undrain", ROUTE, &address]);
            eventually("it gets requests again", || count(0) > drained);
        }
    });
}

fn a_raw_session_outlives_the_drain_of_its_endpoint(engine: Engine) {
    let backends = [Backend::echo(), Backend::echo()];
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backends[0])
        .backend(&backends[1])
        .args(["--balance", "first"])
        .observed()
        .start();
    let address = backends[0].address().to_string();
    let session = proxy.connect();
    echoes(&session);
    assert_eq!(backends[0].ledger().accepted, 1);
    refused(
        &proxy,
        &["drain", ROUTE, &address, "--wait", "100ms"],
        1,
        &["1 connection"],
    );
    for _ in 0..10 {
        let client = proxy.connect();
        echoes(&client);
    }
    assert_eq!(backends[0].ledger().accepted, 1);
    assert_eq!(backends[1].ledger().accepted, 10);
    echoes(&session);
    drop(session);
    let said = done(&proxy, &["drain", ROUTE, &address, "--wait", "20s"]);
    assert!(said.contains("was drained already"), "{said}");
    done(&proxy, &["undrain", ROUTE, &address]);
    echoes(&proxy.connect());
    assert_eq!(backends[0].ledger().accepted, 2);
}

fn an_unix_endpoint_is_drained_by_its_path(engine: Engine) {
    let dir = fresh_dir();
    let path = dir.path().join("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read(&mut byte).is_ok_and(|count| count == 1) {
                    if stream.write_all(b"u").is_err() {
                        break;
                    }
                }
            });
        }
    });
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(format!("unix:{} weight=65535", path.display()))
        .backend(&backend)
        .args(["--balance", "first"])
        .observed()
        .start();
    let answer = || {
        let client = proxy.connect();
        send(&client, b"x");
        receive_exact(&client, 1)
    };
    assert_eq!(answer(), b"u");
    let address = format!("unix:{}", path.display());
    done(&proxy, &["drain", ROUTE, &address, "--wait", "20s"]);
    assert_eq!(answer(), b"x");
    done(&proxy, &["undrain", ROUTE, &address]);
    assert_eq!(answer(), b"u");
}

fn without_any_endpoint_in_use_requests_fail_when_their_time_is_up(engine: Engine) {
    let backend = common::fastcgi::responder();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--protocol", "fastcgi", "--on-failure", "respond"])
        .args(["--connect-timeout", "300ms"])
        .observed()
        .start();
    let address = backend.address().to_string();
    let said = done(&proxy, &["drain", ROUTE, &address, "--wait", "20s"]);
    assert!(said.contains("no endpoint of the route is left"), "{said}");
    let readiness = get_unix(&proxy.control(), "/readyz");
    assert_eq!(readiness.code, 503);
    assert!(
        readiness.body.contains("every endpoint is drained"),
        "{}",
        readiness.body
    );
    let client = Client::connect(&proxy);
    assert!(client.ask(&Request::get("/page")).says("502"));
    done(&proxy, &["undrain", ROUTE, &address]);
    assert_eq!(get_unix(&proxy.control(), "/readyz").code, 200);
    let client = Client::connect(&proxy);
    assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
}

fn weights_are_those_of_the_configuration_until_one_is_given_by_hand(engine: Engine) {
    let backends = [Backend::echo(), Backend::echo()];
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(format!("{} weight=3", backends[0].address()))
        .backend(&backends[1])
        .args(["--balance", "round-robin", "--workers", "1"])
        .observed()
        .start();
    let counts = |sessions: usize| {
        let before = backends.each_ref().map(|b| b.ledger().accepted);
        (0..sessions).for_each(|_| echoes(&proxy.connect()));
        let after = backends.each_ref().map(|b| b.ledger().accepted);
        [after[0] - before[0], after[1] - before[1]]
    };
    assert_eq!(counts(40), [30, 10]);
    let address = backends[1].address().to_string();
    let said = done(&proxy, &["weight", ROUTE, &address, "9"]);
    assert!(said.contains("has weight 9"), "{said}");
    assert_eq!(counts(40), [10, 30]);
    let status = route(&proxy);
    assert_eq!(endpoint(&status, &address)["weight"], 9);
    assert_eq!(endpoint(&status, &address)["weight_by_hand"], true);
    let first = backends[0].address().to_string();
    assert_eq!(endpoint(&status, &first)["weight"], 3);
    assert_eq!(endpoint(&status, &first)["weight_by_hand"], false);
    let metrics = get_unix(&proxy.control(), "/metrics").body;
    for line in [
        format!("spliceway_endpoint_weight{{route=\"default\",endpoint=\"{address}\"}} 9"),
        format!("spliceway_endpoint_drained{{route=\"default\",endpoint=\"{address}\"}} 0"),
        "spliceway_route_paused{route=\"default\"} 0".to_owned(),
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "no {line} in\n{metrics}"
        );
    }
}

fn mistakes_are_told_with_what_there_is(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .observed()
        .start();
    let address = backend.address().to_string();
    refused(
        &proxy,
        &["drain", "other", &address],
        2,
        &["no route is called other (there are: default)"],
    );
    refused(
        &proxy,
        &["pause", "other"],
        2,
        &["no route is called other"],
    );
    for command in ["drain", "undrain"] {
        let there = format!("(there are: {address})");
        refused(
            &proxy,
            &[command, ROUTE, "192.0.2.1:9"],
            2,
            &["route default has no endpoint 192.0.2.1:9", &there],
        );
    }
    refused(&proxy, &["weight", ROUTE, &address, "0"], 2, &["drain"]);
    let said = done(&proxy, &["undrain", ROUTE, &address]);
    assert!(said.contains("was not drained"), "{said}");
    done(&proxy, &["drain", ROUTE, &address]);
    let said = done(&proxy, &["drain", ROUTE, &address]);
    assert!(said.contains("was drained already"), "{said}");
}

#[track_caller]
fn echoes(client: &UnixStream) {
    send(client, b"x");
    assert_eq!(receive_exact(client, 1), b"x");
}
