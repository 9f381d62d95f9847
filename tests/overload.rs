//! What keeps a route useful when its backends cannot do all that is asked of them.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use common::backend::Refusing;
use common::client::{assert_over, assert_waiting};
use common::fastcgi::{Client, Request, stdout};
use common::http;
use common::programs::{fresh_endpoint, start_fpm_pool};
use common::proxy::fresh_dir;
use common::{Backend, Engine, Proxy, eventually, for_each_engine};

for_each_engine!(
    a_request_that_takes_too_long_is_a_504_and_keeps_its_place_while_the_script_runs,
    an_answer_that_does_not_end_in_time_is_cut_and_keeps_its_place,
    a_body_that_does_not_come_to_its_end_in_time_is_a_504,
    php_fpm_is_not_overrun_by_what_comes_after_a_timeout,
    while_a_route_is_down_its_clients_are_closed_at_once,
    whoever_waits_when_a_route_goes_down_is_closed,
    while_too_many_wait_the_newest_is_served_and_who_has_waited_for_long_is_sent_away,
    first_come_is_first_served_however_long_they_wait_if_that_is_asked_for,
);

fn tell(proxy: &Proxy, command: &str) {
    let command = format!(r#"{{"command": "{command}", "route": "default"}}"#);
    let answer = http::command(&proxy.control(), &command);
    assert_eq!(answer.code, 200, "{answer:?}");
}

fn is_down(proxy: &Proxy) -> bool {
    proxy.status()["routes"][0]["is_down"].as_bool().unwrap()
}

fn ended_down(proxy: &Proxy) -> f64 {
    let reason = ["reason=\"route_down\""];
    proxy
        .scrape()
        .sum("spliceway_sessions_ended_total", &reason)
}

fn while_a_route_is_down_its_clients_are_closed_at_once(engine: Engine) {
    let refusing = Refusing::new();
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi", "--per-endpoint-max", "2"])
        .args(["--connect-timeout", "50s", "--refused-timeout", "50s"])
        .args(["--when-down", "close"])
        .backend(&refusing)
        .observed()
        .start();
    for number in 1..=3 {
        let client = Client::connect(&proxy);
        client.send(&Request::get("/").bytes());
        assert_over(&client.0);
        eventually("it is counted", || ended_down(&proxy) == f64::from(number));
    }
    let down = "spliceway_route_down{route=\"default\"}";
    assert_eq!(proxy.scrape().value(down), 1.0);
    proxy.process().wait_for_log("--when-down close");
    // A pause goes before it.
    tell(&proxy, "pause");
    let paused = Client::connect(&proxy);
    paused.send(&Request::get("/paused").bytes());
    eventually("it waits", || waiting(&proxy) == 1.0);
    let _backend = refusing.recover(|conversation| conversation.respond(|heard| heard.page()));
    eventually("it is back", || !is_down(&proxy));
    tell(&proxy, "resume");
    assert_eq!(paused.answer().text(), "/paused");
    let client = Client::connect(&proxy);
    assert_eq!(client.ask(&Request::get("/again")).text(), "/again");
}

/// Requests, and sessions of a raw route, for which there is no place. What has one goes on.
fn whoever_waits_when_a_route_goes_down_is_closed(engine: Engine) {
    for protocol in ["fastcgi", "raw"] {
        let backend = holding_first();
        let proxy = Proxy::builder()
            .engine(engine)
            .args([
                "--protocol",
                protocol,
                "--workers",
                "1",
                "--per-endpoint-max",
                "1",
            ])
            .args(["--queue-timeout", "off", "--queue-order", "fifo"])
            .args(["--when-down", "close"])
            .backend(&backend)
            .observed()
            .start();
        let come = || {
            let client = Client::connect(&proxy);
            client.send(&Request::get("/").bytes());
            client
        };
        let served = come();
        backend.wait_until("it is served", |ledger| ledger.received > 0);
        let waiting_ones: Vec<_> = (0..3).map(|_| come()).collect();
        eventually("they wait", || waiting(&proxy) == 3.0);
        let endpoint = backend.to_string();
        drop(backend);
        // Nobody connects, so it takes something else to have the endpoint looked at.
        let weigh = format!(
            r#"{{"command": "weight", "route": "default", "endpoint": "{endpoint}", "weight": 2}}"#
        );
        assert_eq!(http::command(&proxy.control(), &weigh).code, 200);
        for client in &waiting_ones {
            assert_over(&client.0);
        }
        assert!(is_down(&proxy));
        // Nor does anybody wait who comes now.
        let late = Client::connect(&proxy);
        // It may be closed before it has said all.
        let _ = (&late.0).write_all(&Request::get("/").bytes());
        assert_over(&late.0);
        eventually("they are counted", || ended_down(&proxy) == 4.0);
        assert_waiting(&served.0);
    }
}

/// A backend that never answers.
fn holding_first() -> Backend {
    Backend::scripted(|conversation| {
        conversation.receive()?;
        conversation.keep_until_eof()
    })
}

/// Without a limit on waiting, and with one place at the backend.
fn start(engine: Engine, backend: impl std::fmt::Display) -> Proxy {
    Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi", "--workers", "1"])
        .args(["--per-endpoint-max", "1", "--queue-timeout", "off"])
        .args(["--queue-order", "fifo", "--request-timeout", "1s"])
        .backend(backend)
        .observed()
        .start()
}

fn waiting(proxy: &Proxy) -> f64 {
    let depth = "spliceway_queue_depth{route=\"default\"}";
    proxy.scrape().value(depth)
}

#[track_caller]
fn assert_timed_out(proxy: &Proxy, count: f64) {
    let ended = || {
        let reason = ["reason=\"request_timeout\""];
        proxy
            .scrape()
            .sum("spliceway_sessions_ended_total", &reason)
    };
    eventually("it is counted", || ended() == count);
}

/// A backend that keeps whoever asks for `/stuck` waiting, after this much of an answer.
fn stuck_after(beginning: &'static [u8]) -> Backend {
    Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri() == "/stuck" {
                if !beginning.is_empty() {
                    conversation.send(&stdout(heard.id, beginning))?;
                }
                conversation.wait_for_release()?;
            }
            conversation.send(&heard.page())?;
        }
        Ok(())
    })
}

/// Another request waits until the backend is done with the stuck one, and is served then.
#[track_caller]
fn assert_place_is_kept(proxy: &Proxy, backend: &Backend) {
    let next = Client::connect(proxy);
    next.send(&Request::get("/next").bytes());
    eventually("it waits", || waiting(proxy) == 1.0);
    assert_eq!(backend.ledger().accepted, 1);
    backend.release(1);
    assert_eq!(next.answer().text(), "/next");
}

fn a_request_that_takes_too_long_is_a_504_and_keeps_its_place_while_the_script_runs(
    engine: Engine,
) {
    let backend = stuck_after(b"");
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    assert!(client.ask(&Request::get("/stuck")).says("504"));
    assert_timed_out(&proxy, 1.0);
    let own = "spliceway_fastcgi_own_answers_total{route=\"default\",status=\"504\"}";
    assert_eq!(proxy.scrape().value(own), 1.0);
    assert_place_is_kept(&proxy, &backend);
    proxy.process().wait_for_log("--request-timeout");
}

fn an_answer_that_does_not_end_in_time_is_cut_and_keeps_its_place(engine: Engine) {
    let backend = stuck_after(b"Status: 200 OK\r\n\r\nthe beginning");
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    client.send(&Request::get("/stuck").bytes());
    let told = client.broken_answer();
    assert!(told[0].content.ends_with(b"the beginning"));
    assert_timed_out(&proxy, 1.0);
    assert_place_is_kept(&proxy, &backend);
}

/// The server waits for the rest of it: it hears of the end, and is free.
fn a_body_that_does_not_come_to_its_end_in_time_is_a_504(engine: Engine) {
    let backend = stuck_after(b"");
    let proxy = start(engine, &backend);
    let client = Client::connect(&proxy);
    client.send(&Request::post("/half", b"half of it").head());
    let answer = client.answer();
    assert!(answer.says("504"));
    assert_timed_out(&proxy, 1.0);
    let next = Client::connect(&proxy);
    assert_eq!(next.ask(&Request::get("/next")).text(), "/next");
}

/// A script that sleeps does not hear that nobody waits for it.
fn php_fpm_is_not_overrun_by_what_comes_after_a_timeout(engine: Engine) {
    const WHEN_PHP: &str = "<?php
        if ($_SERVER['REQUEST_URI'] == '/sleep') { usleep(3000000); file_put_contents(__DIR__ . '/slept', 'x'); }
        echo file_exists(__DIR__ . '/slept') ? 'after' : 'meanwhile';";
    let dir = fresh_dir();
    let endpoint = fresh_endpoint();
    let file = dir.path().join("when.php");
    fs::write(&file, WHEN_PHP).unwrap();
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let _fpm = start_fpm_pool(dir.path(), &endpoint, 1, "", &[]);
    let proxy = start(engine, format!("{}:{}", endpoint.0, endpoint.1));
    let ask = |uri| Request::get(uri).param("SCRIPT_FILENAME", file.to_str().unwrap());
    assert!(Client::connect(&proxy).ask(&ask("/sleep")).says("504"));
    let next = Client::connect(&proxy);
    next.send(&ask("/next").bytes());
    eventually("it waits here, and not in PHP-FPM's backlog", || {
        waiting(&proxy) == 1.0
    });
    assert!(next.answer().text().ends_with("after"));
}

/// What was asked of a backend, in the order in which it was.
type Heard = Arc<Mutex<Vec<String>>>;

/// A backend that notes what it is asked, and answers when it is released.
fn noting(heard: &Heard) -> Backend {
    let heard = Arc::clone(heard);
    Backend::scripted(move |conversation| {
        while let Some(request) = conversation.request()? {
            heard.lock().unwrap().push(request.uri().to_owned());
            conversation.wait_for_release()?;
            conversation.send(&request.page())?;
        }
        Ok(())
    })
}

/// One place, and nobody waits in vain for long but by the order.
fn start_ordered(engine: Engine, order: &str, backend: &Backend) -> Proxy {
    Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi", "--workers", "1"])
        .args(["--per-endpoint-max", "1", "--queue-timeout", "off"])
        .args(["--queue-order", order])
        .backend(backend)
        .observed()
        .start()
}

/// Somebody comes, and waits, as so many have before.
#[track_caller]
fn come(proxy: &Proxy, uri: &str, before: u8) -> Client {
    let queued = "spliceway_connections_queued_total{route=\"default\"}";
    let client = Client::connect(proxy);
    client.send(&Request::get(uri).bytes());
    eventually("it waits", || {
        proxy.scrape().value(queued) == f64::from(before) + 1.0
    });
    client
}

fn oldest_wait(proxy: &Proxy) -> f64 {
    let oldest = "spliceway_queue_oldest_wait_seconds{route=\"default\"}";
    proxy.scrape().value(oldest)
}

#[track_caller]
fn wait_for_heard(heard: &Heard, count: usize) {
    eventually("the backend hears of it", || {
        heard.lock().unwrap().len() == count
    });
}

/// No place comes free, so somebody may wait for 2.5 s once everybody has for as long, and nobody knows when there will be
/// one.
fn while_too_many_wait_the_newest_is_served_and_who_has_waited_for_long_is_sent_away(
    engine: Engine,
) {
    let heard = Heard::default();
    let backend = noting(&heard);
    let proxy = start_ordered(engine, "adaptive", &backend);
    let served = Client::connect(&proxy);
    served.send(&Request::get("/served").bytes());
    wait_for_heard(&heard, 1);
    let long = [0, 1, 2].map(|before| come(&proxy, "/long", before));
    eventually("they have waited for long", || oldest_wait(&proxy) > 3.5);
    let [first, second] = [("/first", 3), ("/second", 4)].map(|(uri, n)| come(&proxy, uri, n));
    for client in &long {
        assert_sent_away(client);
    }
    let last = come(&proxy, "/last", 5);
    backend.release(1);
    assert_eq!(served.answer().text(), "/served");
    wait_for_heard(&heard, 2);
    backend.release(2);
    assert_eq!(last.answer().text(), "/last");
    let answer = second.answer();
    backend.release(1);
    // On a machine that is this slow, their time may be over.
    let others = [answer, first.answer()].map(|answer| !answer.says("503"));
    drop((long, first, second, last));
    let mut order = vec!["/served", "/last"];
    let uris = ["/second", "/first"].into_iter().zip(others);
    order.extend(uris.filter_map(|(uri, is_served)| is_served.then_some(uri)));
    assert_eq!(*heard.lock().unwrap(), order);
    let shed = 3.0 + (4 - order.len()) as f64;
    let reason = ["reason=\"queue_shed\""];
    let ended = || {
        let scrape = proxy.scrape();
        scrape.sum("spliceway_sessions_ended_total", &reason)
    };
    eventually("they are counted", || ended() == shed);
    let own = "spliceway_fastcgi_own_answers_total{route=\"default\",status=\"503\"}";
    assert_eq!(proxy.scrape().value(own), shed);
    proxy.process().wait_for_log("--queue-order");
    assert_eq!(backend.ledger().accepted, 1);
}

/// With a 503, after which its connection ends.
#[track_caller]
fn assert_sent_away(client: &Client) {
    let answer = client.answer();
    assert!(answer.says("503"), "{answer:?}");
    let head = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(head.contains("\r\nRetry-After: 60\r\n"), "{head}");
    assert_over(&client.0);
}

fn first_come_is_first_served_however_long_they_wait_if_that_is_asked_for(engine: Engine) {
    let heard = Heard::default();
    let backend = noting(&heard);
    let proxy = start_ordered(engine, "fifo", &backend);
    let served = Client::connect(&proxy);
    served.send(&Request::get("/0").bytes());
    wait_for_heard(&heard, 1);
    let waiting_ones = [1, 2, 3].map(|n| come(&proxy, &format!("/{n}"), n - 1));
    eventually(
        "they have waited for longer than the other order lets them",
        || oldest_wait(&proxy) > 6.0,
    );
    for client in [served].iter().chain(&waiting_ones) {
        backend.release(1);
        assert!(!client.answer().says("503"));
    }
    assert_eq!(*heard.lock().unwrap(), ["/0", "/1", "/2", "/3"]);
}
