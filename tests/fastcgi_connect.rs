//! How the FastCGI mode opens connections: one after the other, so that servers which start a worker for
//! each of them are not asked for several at once; not beside those that hold a server's last worker; and
//! not for long where nobody answers.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::backend::{Refusing, Unanswering};
use common::fastcgi::{Client, Heard, Request, fence_answer, page, read_record, responder};
use common::name_server::{Reply, ips};
use common::programs::{fresh_endpoint, start_fpm_pool};
use common::proxy::{Builder, fresh_dir};
use common::wait::SetOnDrop;
use common::{Backend, Engine, NameServer, Proxy, eventually, for_each_engine};
use hickory_proto::rr::RecordType;
use spliceway::fastcgi::Kind;

for_each_engine!(
    slow_pages_do_not_start_one_after_the_other,
    requests_that_wait_for_the_pace_fill_no_queue,
    what_waits_in_the_backlog_of_a_server_with_one_worker_is_served,
    a_connection_that_rests_makes_way_for_the_backlog,
    every_client_of_php_fpm_is_served_in_each_of_its_modes,
    requests_to_a_backend_that_is_gone_end_at_once,
    refusals_are_waited_out_while_a_backend_starts_again,
    a_restart_of_php_fpm_loses_nothing_that_comes_meanwhile,
    a_refused_request_has_not_waited_in_a_queue,
    a_silent_backend_is_waited_for_once,
    requests_are_served_by_the_new_address_when_the_old_one_falls_silent,
);

/// How long nothing that ends at once takes on a busy machine, and everything that waits for its own time
/// again and again does.
const AT_ONCE: Duration = Duration::from_secs(30);

fn builder(engine: Engine) -> Builder {
    Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi"])
}

/// A client that has sent its request.
#[track_caller]
fn asking(proxy: &Proxy, uri: &str) -> Client {
    let client = Client::connect(proxy);
    client.send(&Request::get(uri).bytes());
    client
}

/// The client's connection ended without a byte.
#[track_caller]
fn assert_unanswered(client: &Client) {
    assert_eq!(client.read().expect("a clean end"), None);
}

// --- the pace -----------------------------------------------------------------------------------

/// None of them shows life before all of them are open.
fn slow_pages_do_not_start_one_after_the_other(engine: Engine) {
    const PAGES: usize = 8;
    let backend = Backend::scripted(|conversation| {
        let heard = conversation.request()?.expect("a request");
        conversation.wait_for_release()?;
        conversation.send(&heard.page())
    });
    for args in [&["--per-endpoint-max", "8"][..], &[]] {
        let proxy = builder(engine)
            .backend(&backend)
            .args(args.iter().copied())
            .start();
        let before = backend.ledger().accepted;
        let clients: Vec<_> = (0..PAGES).map(|_| asking(&proxy, "/slow")).collect();
        backend.wait_until("all pages are asked for", |ledger| {
            ledger.accepted == before + PAGES
        });
        backend.release(PAGES);
        for client in clients {
            assert_eq!(client.answer().text(), "/slow");
        }
    }
}

/// Nobody may wait for a place; there is one for each of four, and none for the fifth.
fn requests_that_wait_for_the_pace_fill_no_queue(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        let heard = conversation.request()?.expect("a request");
        conversation.wait_for_release()?;
        conversation.send(&heard.page())
    });
    let proxy = builder(engine)
        .backend(&backend)
        .args(["--per-endpoint-max", "4", "--queue-max", "0"])
        .start();
    let clients: Vec<_> = (0..4).map(|_| asking(&proxy, "/page")).collect();
    backend.wait_until("all are asked for", |ledger| ledger.accepted == 4);
    let answer = Client::connect(&proxy).ask(&Request::get("/page"));
    assert!(answer.says("503"), "{answer:?}");
    backend.release(4);
    for client in clients {
        assert_eq!(client.answer().text(), "/page");
    }
}

// --- the release --------------------------------------------------------------------------------

/// A server of one worker, which takes the next connection when the last one has ended. It answers a
/// request for `/held` when the gate opens.
struct OneWorker {
    endpoint: String,
    gate: &'static AtomicBool,
    held: &'static AtomicBool,
}

impl OneWorker {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let gate: &AtomicBool = Box::leak(Box::default());
        let held: &AtomicBool = Box::leak(Box::default());
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A connection that breaks is over, as for any worker.
                let _ = stream.and_then(|mut stream| Self::serve(&mut stream, gate, held));
            }
        });
        Self {
            endpoint,
            gate,
            held,
        }
    }

    fn serve(stream: &mut TcpStream, gate: &AtomicBool, held: &AtomicBool) -> io::Result<()> {
        let mut params = Vec::new();
        while let Some(record) = read_record(stream)? {
            match record.kind {
                Kind::GetValues => stream.write_all(&fence_answer())?,
                Kind::Params => params.extend(record.content),
                Kind::Stdin if record.content.is_empty() => {
                    let text = String::from_utf8_lossy(&params).into_owned();
                    if text.contains("/held") {
                        held.store(true, Ordering::Release);
                        while !gate.load(Ordering::Acquire) {
                            thread::yield_now();
                        }
                    }
                    params.clear();
                    stream.write_all(&page(record.id, b"served"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The second request's connection is in the backlog when the first one is answered.
fn what_waits_in_the_backlog_of_a_server_with_one_worker_is_served(engine: Engine) {
    let server = OneWorker::start();
    let proxy = builder(engine)
        .observed()
        .backend(&server.endpoint)
        .args(["--per-endpoint-max", "2", "--idle-upstream", "1h"])
        .start();
    let first = asking(&proxy, "/held");
    eventually("the worker has the first request", || {
        server.held.load(Ordering::Acquire)
    });
    let second = asking(&proxy, "/page");
    eventually("the second one has a connection", || {
        let series = format!(
            "spliceway_endpoint_connections{{route=\"default\",endpoint=\"{}\"}}",
            server.endpoint
        );
        proxy.scrape().value(&series) > 1.5
    });
    server.gate.store(true, Ordering::Release);
    assert_eq!(first.answer().text(), "served");
    assert_eq!(second.answer().text(), "served");
}

/// The same again and again, with as little time between the two as there can be, so that the first
/// connection is at rest before the second one is taken for one in the backlog.
fn a_connection_that_rests_makes_way_for_the_backlog(engine: Engine) {
    let server = OneWorker::start();
    server.gate.store(true, Ordering::Release);
    let proxy = builder(engine)
        .backend(&server.endpoint)
        .args(["--per-endpoint-max", "2", "--idle-upstream", "1h"])
        .start();
    let clients = [(); 8].map(|()| Client::connect(&proxy));
    for _ in 0..20 {
        clients
            .iter()
            .for_each(|client| client.send(&Request::get("/page").bytes()));
        clients
            .iter()
            .for_each(|client| assert_eq!(client.answer().text(), "served"));
    }
}

// --- PHP-FPM ------------------------------------------------------------------------------------

/// More clients than workers, and more connections than workers that there are at first. Nothing else than
/// the proxy frees a worker that a connection holds.
fn every_client_of_php_fpm_is_served_in_each_of_its_modes(engine: Engine) {
    const CLIENTS: usize = 8;
    const ENOUGH: u32 = 30;
    for (mode, permits) in [
        ("pm = ondemand", "4"),
        ("pm = ondemand", "off"),
        (
            "pm = dynamic\npm.start_servers = 1\npm.min_spare_servers = 1\npm.max_spare_servers = 2",
            "4",
        ),
        ("pm = static\npm.max_children = 2", "4"),
    ] {
        let (dir, endpoint) = (fresh_dir(), fresh_endpoint());
        let script = dir.path().join("page.php");
        fs::write(&script, "<?php usleep(5000); echo $_GET['n'];").unwrap();
        let _fpm = start_fpm_pool(dir.path(), &endpoint, 4, mode, &[]);
        let proxy = builder(engine)
            .backend(format!("{}:{}", endpoint.0, endpoint.1))
            .args(["--per-endpoint-max", permits])
            .args(["--requests-per-upstream", "1000000"])
            .start();
        let served = [(); CLIENTS].map(|()| AtomicU32::new(0));
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _over = SetOnDrop(&over);
            for (number, served) in served.iter().enumerate() {
                let (proxy, script, over) = (&proxy, &script, &over);
                scope.spawn(move || {
                    let client = Client::connect(proxy);
                    let request = Request::get("/page.php")
                        .param("SCRIPT_FILENAME", &script.display().to_string())
                        .param("QUERY_STRING", &format!("n={number}"));
                    while !over.load(Ordering::Acquire) {
                        assert_eq!(client.ask(&request).text(), number.to_string());
                        served.fetch_add(1, Ordering::AcqRel);
                    }
                });
            }
            eventually(
                &format!("every client is served, {mode}, {permits}"),
                || {
                    served
                        .iter()
                        .all(|served| served.load(Ordering::Acquire) >= ENOUGH)
                },
            );
        });
    }
}

// --- backends that are not there ----------------------------------------------------------------

fn requests_to_a_backend_that_is_gone_end_at_once(engine: Engine) {
    let gone = Refusing::new();
    for permits in ["4", "off"] {
        let proxy = builder(engine)
            .backend(&gone)
            .args(["--per-endpoint-max", permits])
            .start();
        let start = Instant::now();
        for _ in 0..200 {
            assert_unanswered(&asking(&proxy, "/page"));
        }
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    }
}

/// It has worked, is gone, and is back.
fn refusals_are_waited_out_while_a_backend_starts_again(engine: Engine) {
    for permits in ["4", "off"] {
        let script = |conversation: &mut common::Conversation| conversation.respond(Heard::page);
        let backend = Backend::scripted(script);
        let address = backend.address();
        let proxy = builder(engine)
            .backend(&backend)
            .args(["--per-endpoint-max", permits])
            .args(["--connect-timeout", "60s", "--refused-timeout", "15s"])
            .args(["--upstream-reuse", "never"])
            .start();
        assert_eq!(asking(&proxy, "/before").answer().text(), "/before");
        drop(backend);
        let clients: Vec<_> = (0..16).map(|_| asking(&proxy, "/during")).collect();
        proxy.process().assert_comes_to_rest();
        let _back = Backend::scripted_at(address, script).unwrap();
        for client in clients {
            assert_eq!(client.answer().text(), "/during");
        }
    }
}

/// The same with the one that it is for. The time is that of a busy machine.
fn a_restart_of_php_fpm_loses_nothing_that_comes_meanwhile(engine: Engine) {
    let (dir, endpoint) = (fresh_dir(), fresh_endpoint());
    let script = dir.path().join("page.php");
    fs::write(&script, "<?php echo 'served';").unwrap();
    let request = Request::get("/page.php").param("SCRIPT_FILENAME", &script.display().to_string());
    let start = || start_fpm_pool(dir.path(), &endpoint, 4, "", &[]);
    let fpm = start();
    let proxy = builder(engine)
        .backend(format!("{}:{}", endpoint.0, endpoint.1))
        .args(["--per-endpoint-max", "4", "--connect-timeout", "60s"])
        .args(["--refused-timeout", "15s"])
        .start();
    assert_eq!(Client::connect(&proxy).ask(&request).text(), "served");
    drop(fpm);
    eventually("nobody listens", || {
        TcpStream::connect((&*endpoint.0, endpoint.1)).is_err()
    });
    let clients = [(); 16].map(|()| Client::connect(&proxy));
    clients
        .iter()
        .for_each(|client| client.send(&request.bytes()));
    let _again = start();
    for client in &clients {
        assert_eq!(client.answer().text(), "served");
    }
}

fn a_refused_request_has_not_waited_in_a_queue(engine: Engine) {
    let gone = Refusing::new();
    let dir = fresh_dir();
    let log = dir.path().join("access.log");
    let proxy = builder(engine)
        .backend(&gone)
        .args(["--per-endpoint-max", "1", "--refused-timeout", "1s"])
        .args(["--access-log", log.to_str().unwrap()])
        .start();
    assert_unanswered(&asking(&proxy, "/page"));
    let mut line = String::new();
    eventually("the request is logged", || {
        line = fs::read_to_string(&log).unwrap_or_default();
        line.ends_with('\n')
    });
    assert!(line.contains(" queue=0.000000 "), "{line}");
    assert!(line.contains("connect_refused"), "{line}");
}

/// The first request has all of its time, the next one much less of it.
fn a_silent_backend_is_waited_for_once(engine: Engine) {
    let silent = Unanswering::new();
    let proxy = builder(engine)
        .backend(&silent)
        .args(["--connect-timeout", "8s"])
        .start();
    let mut took = [(); 2].map(|()| {
        let start = Instant::now();
        assert_unanswered(&asking(&proxy, "/page"));
        start.elapsed()
    });
    took.reverse();
    let [second, first] = took;
    assert!(second < first / 2, "{first:?}, {second:?}");
}

/// Who went on waiting for the old address would wait for ever.
fn requests_are_served_by_the_new_address_when_the_old_one_falls_silent(engine: Engine) {
    const SILENT: &str = "127.0.0.78";
    let living = responder();
    for limit in [&[][..], &["--per-endpoint-max", "1"]] {
        let _silent = Unanswering::at((SILENT, living.port())).unwrap();
        let server = NameServer::start();
        let week = |ip: &str| Reply::Addresses(ips(&[ip]), 604_800);
        server.set("php.internal", RecordType::A, week(SILENT));
        let proxy = builder(engine)
            .args(["--nameserver", &server.address.to_string()])
            .args(["--dns-max-ttl", "7days", "--connect-timeout", "1h"])
            .args(["--queue-timeout", "1h", "--queue-order", "fifo"])
            .args(limit.iter().copied())
            .backend(format!("php.internal:{}", living.port()))
            .start();
        eventually("the old address is known", || {
            proxy.process().log().count(&format!("→ {SILENT}")) == 1
        });
        server.set("php.internal", RecordType::A, week(&living.ip()));
        let clients: Vec<_> = (0..4).map(|_| asking(&proxy, "/page")).collect();
        for client in &clients {
            assert!(client.answer().text().contains("/page"));
        }
    }
}
