//! What the daemon shows of itself: that the figures are true, that Prometheus can read them, and that
//! the dashboard, the alert rules and the README name what there is.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::backend::Refusing;
use common::client::{assert_over, exchange, exchange_and_end, receive_to_eof, send};
use common::fastcgi::{Client, Request, pool_responder, responder};
use common::http::{self, Scrape};
use common::name_server::Reply;
use common::process::Process;
use common::proxy::{connect, fresh_dir};
use common::sys::traced::Halted;
use common::sys::{ChildSetup, lacks_root, set_soft_nofile};
use common::wait::GUARD;
use common::{Backend, Engine, KB, MB, NameServer, Pattern, Proxy, eventually, for_each_engine};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use spliceway::counters::Outcome;

for_each_engine!(
    counters_equal_what_happened_to_the_byte,
    bytes_behind_a_header_are_the_clients_alone,
    pipes_that_hold_bytes_and_flows_that_got_none_are_counted,
    clients_that_wait_and_how_that_ends_are_counted,
    a_connect_that_fails_is_counted_at_its_endpoint,
    each_worker_turns_and_says_so,
    pauses_in_accepting_are_counted_by_their_reason,
    an_endpoint_that_left_is_shown_until_its_last_session_is_over,
    counts_of_an_endpoint_do_not_fall_when_it_leaves_and_comes_back,
    no_count_falls_while_addresses_and_clients_come_and_go,
    routes_are_counted_apart_and_workers_of_one_route_together,
);

/// An observed proxy before a backend that echoes.
fn observed_echo() -> (Proxy, Backend) {
    let backend = Backend::echo();
    (
        Proxy::builder().backend(&backend).observed().start(),
        backend,
    )
}

/// What must be there before its figures can be compared.
#[track_caller]
fn scrape_once(proxy: &Proxy, what: &str, is_met: impl Fn(&Scrape) -> bool) -> Scrape {
    let mut last = proxy.scrape();
    eventually(what, || {
        last = proxy.scrape();
        is_met(&last)
    });
    last
}

fn ended(scrape: &Scrape, reason: &str) -> f64 {
    scrape.value(&format!(
        "spliceway_sessions_ended_total{{route=\"default\",reason=\"{reason}\"}}"
    ))
}

fn of_route(scrape: &Scrape, metric: &str) -> f64 {
    scrape.value(&format!("spliceway_{metric}{{route=\"default\"}}"))
}

fn relayed(scrape: &Scrape, direction: &str) -> f64 {
    let direction = format!("direction=\"{direction}\"");
    scrape.sum("spliceway_relayed_bytes_total", &[&direction])
}

/// The status and the metrics of a daemon that does nothing any more say the same.
#[track_caller]
fn assert_status_agrees(proxy: &Proxy, scrape: &Scrape) {
    let status = proxy.status();
    let route = &status["routes"][0];
    assert_eq!(status["program"], "spliceway");
    assert_eq!(route["name"], "default");
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    for (field, metric) in [
        ("connections_accepted", "connections_accepted_total"),
        ("sessions_active", "sessions_active"),
        ("connect_failures", "connect_failures_total"),
        ("set_version", "address_set_version"),
    ] {
        assert_eq!(number(&route[field]), of_route(scrape, metric), "{field}");
    }
    for (reason, count) in route["sessions_ended"].as_object().unwrap() {
        assert_eq!(number(count), ended(scrape, reason), "{reason}");
    }
    for direction in ["to_backend", "to_client"] {
        let flow = &route[direction];
        let bytes = number(&flow["copied_bytes"]) + number(&flow["spliced_bytes"]);
        assert_eq!(bytes, relayed(scrape, direction), "{direction}");
    }
    let connects = number(&route["connect_time"]["count"]);
    assert_eq!(connects, of_route(scrape, "connect_time_seconds_count"));
}

// --- the figures ------------------------------------------------------------------------------

/// Sessions of several kinds with known bytes: small ones, bulk, one that the backend resets, one that
/// is under way.
fn counters_equal_what_happened_to_the_byte(engine: Engine) {
    let backend = Backend::scripted(|conversation| match conversation.receive_exact(1)?[0] {
        b'e' => conversation.echo(),
        b'r' => {
            conversation.send(b"no")?;
            conversation.receive_exact(1)?;
            conversation.reset_on_close()
        }
        other => panic!("what is {other}?"),
    });
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .observed()
        .start();
    let (mut sent, mut received) = (0, 0);
    for (number, count) in [0, 1, KB, 100 * KB, 9 * MB + 7].into_iter().enumerate() {
        let client = proxy.connect();
        send(&client, b"e");
        exchange_and_end(&client, Pattern::new(number as u64), count);
        sent += 1 + count;
        received += count;
    }
    let reset = proxy.connect();
    send(&reset, b"r");
    assert_eq!(common::client::receive_exact(&reset, 2), b"no");
    send(&reset, b"x");
    assert_over(&reset);
    (sent, received) = (sent + 2, received + 2);
    let open = proxy.connect();
    send(&open, b"e");
    exchange(&open, Pattern::new(9), 3 * KB);
    (sent, received) = (sent + 1 + 3 * KB, received + 3 * KB);

    // A byte is counted when the kernel says that it was taken, which is after the client has it.
    let scrape = scrape_once(&proxy, "all sessions but one are over", |scrape| {
        of_route(scrape, "sessions_active") == 1.0
            && relayed(scrape, "to_client") >= received as f64
    });
    assert_eq!(of_route(&scrape, "connections_accepted_total"), 7.0);
    assert_eq!(ended(&scrape, "complete"), 5.0);
    assert_eq!(ended(&scrape, "backend_reset"), 1.0);
    assert_eq!(scrape.sum("spliceway_sessions_ended_total", &[]), 6.0);
    assert_eq!(relayed(&scrape, "to_backend"), sent as f64);
    assert_eq!(relayed(&scrape, "to_client"), received as f64);
    for direction in proxy.spliced_directions() {
        let series = |metric: &str| {
            scrape.value(&format!(
                "spliceway_{metric}_total{{route=\"default\",direction=\"{direction}\"}}"
            ))
        };
        let spliced = scrape.value(&format!(
            "spliceway_relayed_bytes_total{{route=\"default\",direction=\"{direction}\",path=\"spliced\"}}"
        ));
        assert!(spliced > (MB as f64), "bulk is spliced {direction}");
        let promotions = series("splice_promotions");
        assert!(promotions >= 1.0, "{direction}");
        assert!(series("splice_demotions") <= promotions, "{direction}");
        assert_eq!(series("splice_fallbacks"), 0.0, "{direction}");
    }
    assert_eq!(of_route(&scrape, "connect_time_seconds_count"), 7.0);
    assert_eq!(of_route(&scrape, "connect_failures_total"), 0.0);
    let endpoint = format!("{{route=\"default\",endpoint=\"{backend}\"}}");
    let of_endpoint = |metric: &str| scrape.value(&format!("spliceway_{metric}{endpoint}"));
    assert_eq!(of_endpoint("endpoint_connections"), 1.0);
    assert_eq!(of_endpoint("endpoint_connects_total"), 7.0);
    assert_eq!(of_endpoint("endpoint_connect_failures_total"), 0.0);
    assert_status_agrees(&proxy, &scrape);

    drop(open);
    scrape_once(&proxy, "nobody is there", |scrape| {
        of_route(scrape, "sessions_active") == 0.0
            && scrape.sum("spliceway_endpoint_connections", &[]) == 0.0
    });
}

fn bytes_behind_a_header_are_the_clients_alone(engine: Engine) {
    let backend = Backend::sink();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--proxy-protocol", "v1"])
        .observed()
        .start();
    for count in [0, 10] {
        let client = proxy.connect();
        send(&client, &vec![b'x'; count]);
        client.shutdown(Shutdown::Write).unwrap();
        receive_to_eof(&client);
    }
    let scrape = scrape_once(&proxy, "both are over", |scrape| {
        ended(scrape, "complete") == 2.0
    });
    assert_eq!(relayed(&scrape, "to_backend"), 10.0);
    assert!(backend.ledger().received > 10);
}

/// With 256 descriptors there are 16 pipes.
fn pipes_that_hold_bytes_and_flows_that_got_none_are_counted(engine: Engine) {
    const CLIENTS: u64 = 20;
    let pattern = Pattern::new(1);
    let backend = Backend::source(pattern, 2 * MB);
    let proxy = Proxy::builder()
        .engine(engine)
        .rlimit_nofile(256)
        .args(["--workers", "1"])
        .backend(&backend)
        .observed()
        .start();
    let in_use = "spliceway_worker_pipes_in_use{worker=\"0\"}";
    let fallbacks = "spliceway_splice_fallbacks_total{route=\"default\",direction=\"to_client\"}";
    assert_eq!(proxy.scrape().value(in_use), 0.0);
    // Nobody reads, so that pipes keep what is in them.
    let clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    let (pipes, without) = match proxy.spliced_directions().contains(&"to_client") {
        true => (16.0, 4.0),
        // Nobody wants one.
        false => (0.0, 0.0),
    };
    scrape_once(&proxy, "all pipes are in use, and wanted", |scrape| {
        scrape.value(in_use) == pipes && scrape.value(fallbacks) >= without
    });
    for client in clients {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receive_to_eof(&client).len() as u64, 2 * MB);
    }
    // Sessions are counted in a turn, pipes at its end.
    let scrape = scrape_once(&proxy, "all are over, and their pipes are back", |scrape| {
        ended(scrape, "complete") == CLIENTS as f64 && scrape.value(in_use) == 0.0
    });
    assert_eq!(relayed(&scrape, "to_client"), (CLIENTS * 2 * MB) as f64);
}

fn clients_that_wait_and_how_that_ends_are_counted(engine: Engine) {
    let backend = Backend::hold();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--per-endpoint-max", "1", "--queue-max", "2"])
        .observed()
        .start();
    let served = proxy.connect_listening();
    backend.wait_until("the first is served", |ledger| ledger.accepted == 1);
    let second = proxy.connect_listening();
    let depth = |depth: f64| move |scrape: &Scrape| of_route(scrape, "queue_depth") == depth;
    scrape_once(&proxy, "one waits", depth(1.0));
    let third = proxy.connect_listening();
    let scrape = scrape_once(&proxy, "two wait", depth(2.0));
    assert_eq!(of_route(&scrape, "queue_max"), 2.0);
    assert_eq!(of_route(&scrape, "endpoint_connections_max"), 1.0);
    assert_eq!(of_route(&scrape, "connections_queued_total"), 2.0);
    assert_eq!(of_route(&scrape, "sessions_active"), 3.0);
    assert!(of_route(&scrape, "queue_oldest_wait_seconds") > 0.0);
    // There is no room for another.
    assert_over(&proxy.connect());
    drop(third);
    scrape_once(&proxy, "the third has left", depth(1.0));
    backend.release(2);
    assert_eq!(receive_to_eof(&served), b"done");
    assert_eq!(receive_to_eof(&second), b"done");
    drop((served, second));
    let scrape = scrape_once(&proxy, "all are over", |scrape| {
        of_route(scrape, "sessions_active") == 0.0
    });
    assert_eq!(ended(&scrape, "queue_full"), 1.0);
    assert_eq!(ended(&scrape, "queue_left"), 1.0);
    assert_eq!(of_route(&scrape, "connections_accepted_total"), 4.0);
    assert_eq!(of_route(&scrape, "queue_wait_seconds_count"), 1.0);
    assert_eq!(of_route(&scrape, "queue_oldest_wait_seconds"), 0.0);
    assert_status_agrees(&proxy, &scrape);
}

fn a_connect_that_fails_is_counted_at_its_endpoint(engine: Engine) {
    let (refusing, echo) = (Refusing::new(), Backend::echo());
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--balance", "first", "--eject-after", "2"])
        .backend(&refusing)
        .backend(&echo)
        .observed()
        .start();
    for round in 0..3 {
        exchange_and_end(&proxy.connect(), Pattern::new(round), KB);
    }
    let scrape = scrape_once(&proxy, "all are over", |scrape| {
        ended(scrape, "complete") == 3.0
    });
    let of_refusing = |metric: &str| {
        scrape.value(&format!(
            "spliceway_{metric}{{route=\"default\",endpoint=\"{refusing}\"}}"
        ))
    };
    // The third session did not try it any more.
    assert_eq!(of_refusing("endpoint_connect_failures_total"), 2.0);
    assert_eq!(of_refusing("endpoint_connects_total"), 0.0);
    assert_eq!(of_route(&scrape, "connect_failures_total"), 2.0);
    assert_eq!(of_route(&scrape, "ejections_total"), 1.0);
    let by_state = |state: &str| {
        scrape.value(&format!(
            "spliceway_endpoints{{route=\"default\",state=\"{state}\"}}"
        ))
    };
    assert_eq!((by_state("ok"), by_state("ejected")), (1.0, 1.0));
    let state = &proxy.status()["routes"][0]["endpoints"][0];
    assert_eq!(state["state"], "ejected");
    assert!(state["left_seconds"].as_f64().unwrap() > 0.0);

    let nowhere = Proxy::builder()
        .engine(engine)
        .backend(&refusing)
        .args(["--connect-timeout", "100ms"])
        .observed()
        .start();
    assert_over(&nowhere.connect_listening());
    let scrape = scrape_once(&nowhere, "it is over", |scrape| {
        of_route(scrape, "sessions_active") == 0.0
    });
    assert_eq!(ended(&scrape, "connect_refused"), 1.0);
    assert_eq!(of_route(&scrape, "connect_time_seconds_count"), 0.0);
}

fn each_worker_turns_and_says_so(engine: Engine) {
    let proxy = Proxy::builder()
        .engine(engine)
        .backend("127.0.0.1:1")
        .args(["--workers", "3"])
        .observed()
        .start();
    for _ in 0..3 {
        let answer = http::get(proxy.metrics_address(), "/healthz");
        assert_eq!((answer.code, answer.body.as_str()), (200, "ok\n"));
    }
    let scrape = proxy.scrape();
    for worker in 0..3 {
        let turns = format!("spliceway_worker_turns_total{{worker=\"{worker}\"}}");
        assert!(scrape.value(&turns) >= 3.0, "{worker}");
        let busy = format!("spliceway_worker_busy_seconds_total{{worker=\"{worker}\"}}");
        assert!(scrape.value(&busy) > 0.0, "{worker}");
    }
    assert_eq!(scrape.value("spliceway_draining"), 0.0);
    let engine = format!("engine=\"{engine}\"");
    assert_eq!(scrape.sum("spliceway_build_info", &[&engine]), 1.0);
}

fn pauses_in_accepting_are_counted_by_their_reason(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "1", "--connections-max", "3"])
        .observed()
        .start();
    let pauses = |scrape: &Scrape, reason: &str| {
        scrape.value(&format!(
            "spliceway_accept_pauses_total{{reason=\"{reason}\"}}"
        ))
    };
    let mut clients: Vec<_> = (0..2).map(|_| proxy.connect()).collect();
    for client in &clients {
        exchange(client, Pattern::new(1), KB);
    }
    assert_eq!(pauses(&proxy.scrape(), "limit_reached"), 0.0);
    clients.push(proxy.connect());
    scrape_once(&proxy, "the limit is reached", |scrape| {
        pauses(scrape, "limit_reached") == 1.0
    });
    clients.clear();
    scrape_once(&proxy, "they are gone", |scrape| {
        of_route(scrape, "sessions_active") == 0.0
    });

    // The limit falls to what is in use, so that the kernel says EMFILE, to the scrape as well.
    let early = proxy.connect();
    exchange(&early, Pattern::new(2), KB);
    let limit = proxy.process().lowest_free_descriptor();
    set_soft_nofile(proxy.process().pid(), limit).unwrap();
    let late: Vec<_> = (0..2).map(|_| proxy.connect()).collect();
    proxy.process().wait_for_log("accepting pauses and resumes");
    drop(early);
    drop(late);
    scrape_once(&proxy, "a pause was counted", |scrape| {
        pauses(scrape, "no_descriptors") >= 1.0
    });
    assert_eq!(pauses(&proxy.scrape(), "other"), 0.0);
}

fn an_endpoint_that_left_is_shown_until_its_last_session_is_over(engine: Engine) {
    let fleet = Backend::fleet(2);
    let names = NameServer::start();
    names.a("php.test", &[&fleet[0].ip()]);
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--nameserver", &names.address.to_string()])
        .args(["--dns-max-ttl", "100ms", "--dns-min-ttl", "100ms"])
        .backend(format!("php.test:{}", fleet[0].port()))
        .observed()
        .start();
    let client = proxy.connect();
    exchange(&client, Pattern::new(1), KB);
    let state = |scrape: &Scrape, backend: &Backend, state: &str| {
        let endpoint = format!("endpoint=\"{backend}\"");
        let state = format!("state=\"{state}\"");
        scrape.sum("spliceway_endpoint_state", &[&endpoint, &state])
    };
    let scrape = proxy.scrape();
    assert_eq!(state(&scrape, &fleet[0], "ok"), 1.0);
    assert!(of_route(&scrape, "answer_age_seconds") < GUARD.as_secs_f64());
    names.a("php.test", &[&fleet[1].ip()]);
    let scrape = scrape_once(&proxy, "it has left", |scrape| {
        state(scrape, &fleet[0], "removed") == 1.0
    });
    assert_eq!(state(&scrape, &fleet[1], "ok"), 1.0);
    assert_eq!(of_route(&scrape, "address_set_version"), 2.0);
    exchange(&client, Pattern::new(2), KB);
    drop(client);
    let gone = fleet[0].to_string();
    scrape_once(&proxy, "nothing is said of it", |scrape| {
        !scrape.0.contains(&gone)
    });
}

/// A count that falls looks to Prometheus like a restart, after which it adds all of it once more.
fn counts_of_an_endpoint_do_not_fall_when_it_leaves_and_comes_back(engine: Engine) {
    const CLIENTS: u64 = 20;
    let fleet = Backend::fleet(2);
    let names = NameServer::start();
    names.a("php.test", &[&fleet[0].ip()]);
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--workers", "2"])
        .args(["--nameserver", &names.address.to_string()])
        .args(["--dns-max-ttl", "100ms", "--dns-min-ttl", "100ms"])
        .backend(format!("php.test:{}", fleet[0].port()))
        .observed()
        .start();
    let connects = format!(
        "spliceway_endpoint_connects_total{{route=\"default\",endpoint=\"{}\"}}",
        fleet[0]
    );
    let is = |state: &'static str| {
        let endpoint = format!("endpoint=\"{}\"", fleet[0]);
        let state = format!("state=\"{state}\"");
        move |scrape: &Scrape| scrape.sum("spliceway_endpoint_state", &[&endpoint, &state]) == 1.0
    };
    // At one time, so that both workers serve some.
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    for client in &clients {
        exchange(client, Pattern::new(1), KB);
    }
    assert_eq!(proxy.scrape().value(&connects), CLIENTS as f64);
    // Then one of them has no session there any more, and forgets the endpoint when it leaves.
    clients.truncate(1);
    scrape_once(&proxy, "one is left", |scrape| {
        of_route(scrape, "sessions_active") == 1.0
    });
    for _ in 0..2 {
        names.a("php.test", &[&fleet[1].ip()]);
        let scrape = scrape_once(&proxy, "it has left", is("removed"));
        assert_eq!(scrape.value(&connects), CLIENTS as f64);
        // Whoever is served meanwhile has the workers take the new addresses over.
        for seed in 0..CLIENTS {
            exchange_and_end(&proxy.connect(), Pattern::new(seed), KB);
        }
        assert_eq!(proxy.scrape().value(&connects), CLIENTS as f64);
        names.a("php.test", &[&fleet[0].ip()]);
        let scrape = scrape_once(&proxy, "it is back", is("ok"));
        assert_eq!(scrape.value(&connects), CLIENTS as f64);
    }
    exchange(&proxy.connect(), Pattern::new(2), KB);
    assert_eq!(proxy.scrape().value(&connects), CLIENTS as f64 + 1.0);
}

/// All of them, in routes of both kinds, at each scrape against the one before.
fn no_count_falls_while_addresses_and_clients_come_and_go(engine: Engine) {
    const ROUNDS: usize = 24;
    let raw = Backend::fleet(3);
    let fastcgi = responder();
    let names = NameServer::start();
    names.a("raw.test", &[&raw[0].ip()]);
    names.a("php.test", &[&fastcgi.ip()]);
    let builder = Proxy::builder().engine(engine);
    let socket = |name: &str| builder.dir().join(format!("{name}.sock"));
    let (plain, php) = (socket("plain"), socket("php"));
    let config = format!(
        "workers = 2\n\
         [defaults]\nnameserver = \"{}\"\ndns-max-ttl = \"100ms\"\ndns-min-ttl = \"100ms\"\n\
         [route.plain]\nlisten = \"unix:{}\"\nbackend = \"raw.test.:{}\"\n\
         [route.php]\nlisten = \"unix:{}\"\nbackend = \"php.test.:{}\"\nprotocol = \"fastcgi\"\n",
        names.address,
        plain.display(),
        raw[0].port(),
        php.display(),
        fastcgi.port(),
    );
    let proxy = builder.config(&config).observed().start();
    let version = "spliceway_address_set_version{route=\"plain\"}";
    let mut before = proxy.scrape();
    let mut kept = Vec::new();
    for round in 0..ROUNDS {
        for client in 0..6 {
            let client_of_this_round = connect(&plain).unwrap();
            exchange(&client_of_this_round, Pattern::new(client), KB);
            kept.push(client_of_this_round);
        }
        // At each address some stay, and most do not.
        kept.retain({
            let mut number = 0;
            move |_| {
                number += 1;
                number % 3 == 0
            }
        });
        let client = Client(connect(&php).unwrap());
        assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
        names.a("raw.test", &[&raw[(round + 1) % 3].ip()]);
        let was = before.value(version);
        eventually("the addresses change", || {
            let now = proxy.scrape();
            assert_no_count_fell(&before, &now);
            before = now;
            before.value(version) > was
        });
    }
}

#[track_caller]
fn assert_no_count_fell(before: &Scrape, now: &Scrape) {
    let counts = |scrape: &Scrape| -> BTreeMap<String, f64> {
        let is_count = |series: &str| {
            let name = series.split('{').next().unwrap_or_default();
            let suffixes = ["_total", "_bucket", "_count", "_sum"];
            suffixes.iter().any(|suffix| name.ends_with(suffix))
        };
        let series = scrape.0.lines().filter_map(|line| line.rsplit_once(' '));
        let counts = series.filter(|(series, _)| is_count(series));
        counts
            .filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?)))
            .collect()
    };
    let (before, now) = (counts(before), counts(now));
    assert!(before.len() > 100, "{before:?}");
    for (series, count) in now {
        let was = before.get(&series).copied().unwrap_or(0.0);
        assert!(count >= was, "{series} fell from {was} to {count}");
    }
}

fn routes_are_counted_apart_and_workers_of_one_route_together(engine: Engine) {
    let backend = Backend::echo();
    let builder = Proxy::builder().engine(engine);
    let socket = |name: &str| builder.dir().join(format!("{name}.sock"));
    let (wide, split) = (socket("wide"), socket("split"));
    let config = format!(
        "workers = 3\n\
         [route.wide]\nlisten = \"unix:{}\"\nbackend = \"{backend}\"\n\
         [route.split]\nlisten = \"unix:{}\"\nbackend = \"{backend}\"\n\
         per-endpoint-max = 5\nshards = 2\nqueue-max = 7\n",
        wide.display(),
        split.display()
    );
    let proxy = builder.config(&config).observed().start();
    // At one time, so that several workers accept.
    let all_at_once = |path: &Path, count: u64| {
        let clients: Vec<_> = (0..count).map(|_| connect(path).unwrap()).collect();
        for (seed, client) in clients.iter().enumerate() {
            exchange_and_end(client, Pattern::new(seed as u64), KB);
        }
    };
    all_at_once(&wide, 20);
    all_at_once(&split, 4);
    let of = |scrape: &Scrape, route: &str, metric: &str| {
        scrape.value(&format!("spliceway_{metric}{{route=\"{route}\"}}"))
    };
    let scrape = scrape_once(&proxy, "all are over", |scrape| {
        scrape.sum("spliceway_sessions_ended_total", &[]) == 24.0
    });
    for (route, count) in [("wide", 20.0), ("split", 4.0)] {
        assert_eq!(of(&scrape, route, "connections_accepted_total"), count);
        assert_eq!(of(&scrape, route, "connect_time_seconds_count"), count);
        let label = format!("route=\"{route}\"");
        for metric in ["relayed_bytes_total", "endpoint_connects_total"] {
            let sum = scrape.sum(&format!("spliceway_{metric}"), &[&label]);
            let each = if metric == "relayed_bytes_total" {
                2.0 * KB as f64
            } else {
                1.0
            };
            assert_eq!(sum, count * each, "{route} {metric}");
        }
    }
    assert_eq!(of(&scrape, "split", "endpoint_connections_max"), 5.0);
    assert_eq!(of(&scrape, "split", "queue_max"), 7.0);
    // The other one has no such limits.
    assert_eq!(scrape.sum("spliceway_queue_max", &[]), 7.0);
    let names: Vec<_> = proxy.status()["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| route["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["wide", "split"]);
}

#[test]
fn lookups_are_counted_by_how_they_end() {
    let names = NameServer::start();
    names
        .a("good.test", &["127.0.0.1"])
        .set(
            "bad.test",
            RecordType::A,
            Reply::Code(ResponseCode::ServFail),
        )
        .set(
            "bad.test",
            RecordType::AAAA,
            Reply::Code(ResponseCode::ServFail),
        );
    let proxy = Proxy::builder()
        .args(["--nameserver", &names.address.to_string()])
        .backend("good.test.:1")
        .backend("bad.test.:1")
        .observed()
        .start();
    let count = |scrape: &Scrape, result: &str| {
        let result = format!("result=\"{result}\"");
        scrape.sum("spliceway_lookups_total", &[&result])
    };
    let scrape = scrape_once(&proxy, "each name was looked up", |scrape| {
        count(scrape, "answer") >= 1.0
            && count(scrape, "denial") >= 1.0
            && count(scrape, "failure") >= 2.0
    });
    assert!(of_route(&scrape, "address_set_version") >= 1.0);
    // Not all names were answered, so it may not be known yet; then it is absent.
    assert!(scrape.sum("spliceway_answer_age_seconds", &[]) < GUARD.as_secs_f64());
}

#[test]
fn the_age_of_answers_grows_while_nobody_answers_and_is_not_there_without_names() {
    let names = NameServer::start();
    names.a("php.test", &["127.0.0.1"]);
    let proxy = Proxy::builder()
        .args(["--nameserver", &names.address.to_string()])
        .args(["--dns-max-ttl", "100ms", "--dns-min-ttl", "100ms"])
        .backend("php.test.:1")
        .observed()
        .start();
    let asked = "spliceway_lookups_total{route=\"default\",result=\"answer\"}";
    scrape_once(&proxy, "it is looked up again and again", |scrape| {
        scrape.value(asked) >= 5.0
    });
    let failed = |family| names.set("php.test", family, Reply::Code(ResponseCode::ServFail));
    failed(RecordType::A);
    failed(RecordType::AAAA);
    let last = std::time::Instant::now();
    let scrape = scrape_once(&proxy, "more than all that lookups take", |scrape| {
        of_route(scrape, "answer_age_seconds") > 1.0
    });
    // It is no older than the last answer can be, with what was under way.
    let age = of_route(&scrape, "answer_age_seconds");
    assert!(age < last.elapsed().as_secs_f64() + 10.0, "{age}");
    assert_eq!(scrape.sum("spliceway_endpoints", &["state=\"ok\""]), 1.0);
    names.a("php.test", &["127.0.0.1"]);
    scrape_once(&proxy, "an answer came", |scrape| {
        of_route(scrape, "answer_age_seconds") < age
    });

    let nameless = Proxy::builder().backend("127.0.0.1:1").observed().start();
    let page = nameless.scrape();
    assert!(
        !page.0.contains("spliceway_answer_age_seconds{"),
        "{page:?}"
    );
    assert!(nameless.status()["routes"][0]["answer_age_seconds"].is_null());
}

// --- probes and the control socket ------------------------------------------------------------

#[test]
fn a_daemon_is_ready_once_a_name_has_an_address() {
    let names = NameServer::start();
    let proxy = Proxy::builder()
        .args(["--nameserver", &names.address.to_string()])
        .args(["--dns-max-ttl", "100ms", "--dns-min-ttl", "100ms"])
        .backend("late.test.:1")
        .observed()
        .start();
    let ready = || http::get(proxy.metrics_address(), "/readyz");
    let answer = ready();
    assert_eq!(answer.code, 503);
    assert_eq!(answer.body, "route default: no endpoint is known\n");
    names.a("late.test", &["127.0.0.1"]);
    eventually("it is ready", || ready().code == 200);
}

#[test]
fn a_daemon_is_ready_once_each_route_has_an_endpoint() {
    let names = NameServer::start();
    let builder = Proxy::builder();
    let config = format!(
        "[route.one]\nlisten = \"unix:{one}\"\nbackend = \"127.0.0.1:1\"\n\
         [route.two]\nlisten = \"unix:{two}\"\nbackend = \"late.test.:1\"\n\
         nameserver = \"{}\"\ndns-max-ttl = \"100ms\"\ndns-min-ttl = \"100ms\"\n",
        names.address,
        one = builder.dir().join("one.sock").display(),
        two = builder.dir().join("two.sock").display(),
    );
    let proxy = builder.config(&config).observed().start();
    let ready = || http::get(proxy.metrics_address(), "/readyz");
    assert_eq!(ready().body, "route two: no endpoint is known\n");
    assert_eq!(ready().code, 503);
    names.a("late.test", &["127.0.0.1"]);
    eventually("it is ready", || ready().code == 200);
}

#[test]
fn the_control_socket_of_a_living_daemon_is_not_taken_from_it() {
    let living = Proxy::builder().backend("127.0.0.1:1").observed().start();
    let control = living.control();
    let outcome = Proxy::builder()
        .backend("127.0.0.1:1")
        .args(["--log-level", "error", "--control"])
        .args([control.to_str().unwrap()])
        .run_to_the_end();
    let path = control.display().to_string();
    outcome.assert_error_line(
        1,
        &["the control socket", &path, "another process is listening"],
    );
    assert_eq!(http::get_unix(&control, "/status").code, 200);
}

#[test]
fn a_worker_that_stands_still_is_named_until_it_goes_on() {
    if lacks_root() {
        return;
    }
    let proxy = Proxy::builder()
        .backend("127.0.0.1:1")
        .args(["--workers", "2"])
        .observed()
        .start();
    let health = || http::get(proxy.metrics_address(), "/healthz");
    let halted = Halted::new(proxy.process().thread("worker-1")).unwrap();
    let answer = health();
    assert_eq!(answer.code, 503);
    assert_eq!(answer.body, "worker 1 does not turn\n");
    drop(halted);
    eventually("it goes on", || health().code == 200);
}

#[test]
fn the_control_socket_is_for_its_user_alone_and_goes_with_the_daemon() {
    let builder = Proxy::builder().backend("127.0.0.1:1");
    // Somebody has died and left it behind.
    let stale = builder.control();
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let mut proxy = builder.observed().start();
    let control = proxy.control();
    let mode = fs::metadata(&control).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    for path in ["/status", "/metrics", "/healthz", "/readyz"] {
        assert_eq!(http::get_unix(&control, path).code, 200, "{path}");
    }
    assert_eq!(http::get(proxy.metrics_address(), "/status").code, 404);
    let head = http::get(proxy.metrics_address(), "/metrics").head;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    proxy.terminate();
    assert!(proxy.wait().success());
    assert!(!control.exists());
}

/// It is not asked any more: a successor has both places while the first one finishes.
#[test]
fn a_daemon_that_drains_leaves_its_places_to_a_successor() {
    let backend = Backend::hold();
    let dir = fresh_dir();
    let places = |builder: common::proxy::Builder, port: u16| {
        let control = format!("{}/control.sock", dir.path().display());
        let metrics = format!("127.0.0.1:{port}");
        let listen = format!("unix:{}/shared.sock", dir.path().display());
        let options = ["--control", &control, "--metrics", &metrics];
        builder.backend(&backend).listen(listen).args(options)
    };
    // The kernel does not give a port anew that it has just given.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let socket = dir.path().join("shared.sock");
    let mut first = places(Proxy::builder(), port).start();
    let client = connect(&socket).unwrap();
    backend.wait_until("it is served", |ledger| ledger.accepted == 1);
    first.terminate();
    first.process().wait_for_log("draining");
    eventually("the places are free", || {
        !socket.exists() && TcpStream::connect(("127.0.0.1", port)).is_err()
    });
    let mut second = places(Proxy::builder(), port).start();
    let of_second = connect(&socket).unwrap();
    backend.wait_until("both are served", |ledger| ledger.accepted == 2);
    let address = (std::net::Ipv4Addr::LOCALHOST, port).into();
    assert_eq!(http::get(address, "/readyz").body, "ready\n");
    assert!(first.is_running());
    backend.release(2);
    for client in [client, of_second] {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receive_to_eof(&client), b"done");
    }
    assert!(first.wait().success());
    assert!(
        dir.path().join("control.sock").exists(),
        "it is the second one's"
    );
    second.terminate();
    assert!(second.wait().success());
}

#[test]
fn a_socket_whose_file_is_replaced_is_told() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).observed().start();
    let address = proxy.metrics_address();
    let away = proxy.dir().join("away.sock");
    eventually("it is ready", || http::get(address, "/readyz").code == 200);
    assert_eq!(proxy.scrape().value("spliceway_socket_files_missing"), 0.0);
    // Another one in its place is not ours.
    fs::hard_link(proxy.socket(), &away).unwrap();
    let foreign = proxy.dir().join("foreign.sock");
    let _foreign = std::os::unix::net::UnixListener::bind(&foreign).unwrap();
    fs::rename(&foreign, proxy.socket()).unwrap();
    eventually("it is not ready", || {
        http::get(address, "/readyz")
            .body
            .contains("files are missing")
    });
    proxy.process().wait_for_log("is not there any more");
    assert_eq!(proxy.scrape().value("spliceway_socket_files_missing"), 1.0);
    proxy.process().assert_comes_to_rest();
    assert_eq!(http::get(address, "/readyz").code, 503);
    fs::rename(&away, proxy.socket()).unwrap();
    eventually("it is ready again", || {
        http::get(address, "/readyz").code == 200
    });
    proxy.process().wait_for_log("is there again");
}

#[test]
fn what_cannot_be_bound_is_said_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (option, value, mentions) in [
        (
            "--metrics",
            address.as_str(),
            ["in use", "choose another one"],
        ),
        (
            "--control",
            "/nonexistent/control.sock",
            ["no such directory", "/nonexistent"],
        ),
    ] {
        let outcome = Proxy::builder()
            .backend("127.0.0.1:1")
            .args([option, value, "--log-level", "error"])
            .run_to_the_end();
        outcome.assert_error_line(1, &[value, mentions[0], mentions[1]]);
        let times = outcome.stderr[0].matches(mentions[0]).count();
        assert_eq!(times, 1, "the cause is said once: {outcome:#?}");
    }
}

// --- clients that mean no good ----------------------------------------------------------------

#[test]
fn a_client_of_the_metrics_address_holds_up_nobody() {
    let (proxy, _backend) = observed_echo();
    let address = proxy.metrics_address();
    let hostile: Vec<TcpStream> = (0..64)
        .map(|number: usize| {
            let mut stream = TcpStream::connect(address).unwrap();
            let words: [&[u8]; 4] = [
                b"",
                b"GET /met",
                &[0xff; 5000],
                b"GET /metrics HTTP/1.1\r\nA: ",
            ];
            // Whom the daemon refuses at once it may reset.
            let _ = stream.write_all(words[number % words.len()]);
            stream
        })
        .collect();
    // Sessions, and the control socket, have nothing to do with it.
    exchange_and_end(&proxy.connect(), Pattern::new(1), MB);
    assert_eq!(http::get_unix(&proxy.control(), "/healthz").code, 200);
    // And in time there is a place again.
    assert_eq!(http::get(address, "/metrics").code, 200);
    drop(hostile);
    proxy.process().assert_comes_to_rest();
}

// --- Prometheus -------------------------------------------------------------------------------

#[track_caller]
fn promtool(arguments: &[&str], directory: &Path) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("promtool is installed");
    assert!(
        output.status.success(),
        "promtool {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn alert_rules_are_right_and_fire_when_they_should() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    promtool(&["check", "rules", "alerts.yml"], &directory);
    promtool(&["test", "rules", "alerts_test.yml"], &directory);
}

/// The linter reads the older text format, where a counter is called what its series are: for those it
/// misses the help. It has nothing else to say.
#[test]
fn promtool_finds_no_fault_with_the_names() {
    let (proxy, _backend) = observed_echo();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    let page = proxy.scrape().0;
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(page.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let is_expected = |line: &&str| line.ends_with("_total no help text");
    let faults: Vec<_> = said.lines().filter(|line| !is_expected(line)).collect();
    assert_eq!(faults, Vec::<&str>::new());
    assert!(said.lines().count() > 5, "it has read counters: {said}");
}

/// A Prometheus with a port and a directory of its own, which ends with the test.
struct Prometheus {
    _process: Process,
    address: SocketAddr,
}

impl Prometheus {
    fn start(directory: &Path, target: SocketAddr) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let address = address.unwrap();
        let config = format!(
            "global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}\n\
             rule_files: [{}/deploy/prometheus/alerts.yml]\n\
             scrape_configs:\n  - job_name: spliceway\n    static_configs:\n      - targets: ['{target}']\n",
            env!("CARGO_MANIFEST_DIR")
        );
        let file = directory.join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let setup = ChildSetup {
            death_signal: libc::SIGKILL,
            ..ChildSetup::default()
        };
        Self {
            _process: Process::start(command, setup),
            address,
        }
    }

    /// The value of an expression that has one.
    fn query(&self, expression: &str) -> Option<f64> {
        let encode = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        let query: String = expression.bytes().map(encode).collect();
        let answer = self.get(&format!("/api/v1/query?query={query}"))?;
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let value = &answer["data"]["result"][0]["value"][1];
        value.as_str()?.parse().ok()
    }

    /// What it answers, once it does.
    fn get(&self, target: &str) -> Option<serde_json::Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(GUARD)).ok()?;
        let request = format!("GET {target} HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (_, body) = text.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }
}

/// A daemon that has a series of every metric: a route of each kind, with names and a limit, and a
/// client in each.
fn observed_with_everything(names: &NameServer, raw: &Backend, fastcgi: &Backend) -> Proxy {
    names.a("php.test", &[&fastcgi.ip()]);
    let builder = Proxy::builder();
    let socket = |name: &str| builder.dir().join(format!("{name}.sock"));
    let (plain, php, found) = (socket("plain"), socket("php"), socket("found"));
    let config = format!(
        "[route.plain]\nlisten = \"unix:{}\"\nbackend = \"{raw}\"\n\
         [route.php]\nlisten = \"unix:{}\"\nbackend = \"php.test.:{}\"\nprotocol = \"fastcgi\"\n\
         nameserver = \"{}\"\nper-endpoint-max = 5\nqueue-max = 7\nfpm-status = \"{fastcgi}\"\n\
         [route.php.class.page]\nmatch = \"REQUEST_URI=/page\"\nreserve = 1\n\
         [route.found]\nlisten = \"unix:{}\"\nbackend = \"{fastcgi}\"\nprotocol = \"fastcgi\"\n\
         per-endpoint-max = \"auto\"\n",
        plain.display(),
        php.display(),
        fastcgi.port(),
        names.address,
        found.display()
    );
    let proxy = builder.config(&config).observed().start();
    for round in 0..5 {
        exchange_and_end(&connect(&plain).unwrap(), Pattern::new(round), 10 * KB);
    }
    for route in [php, found] {
        let client = Client(connect(&route).unwrap());
        assert_eq!(client.ask(&Request::get("/page")).text(), "/page");
    }
    scrape_once(&proxy, "all are over, and PHP-FPM was asked", |scrape| {
        scrape.sum("spliceway_sessions_ended_total", &[]) == 7.0
            && scrape.sum("spliceway_fpm_up", &[]) == 1.0
    });
    proxy
}

#[test]
fn a_real_prometheus_scrapes_and_answers() {
    let (names, raw, fastcgi) = (NameServer::start(), Backend::echo(), pool_responder(5));
    let proxy = observed_with_everything(&names, &raw, &fastcgi);
    let directory = fresh_dir();
    let prometheus = Prometheus::start(directory.path(), proxy.metrics_address());
    let accepted = "sum(spliceway_connections_accepted_total{route=\"plain\"})";
    eventually("Prometheus has scraped", || {
        prometheus.query(accepted) == Some(5.0)
    });
    assert_eq!(prometheus.query("up{job=\"spliceway\"}"), Some(1.0));
    let bytes = "sum(spliceway_relayed_bytes_total{route=\"plain\",direction=\"to_client\"})";
    assert_eq!(prometheus.query(bytes), Some(5.0 * 10.0 * KB as f64));
    // Every metric has arrived, histograms as such.
    for metric in proxy.scrape().types().keys() {
        let pattern = format!("count({{__name__=~\"{metric}(_total|_bucket)?\"}})");
        assert!(prometheus.query(&pattern) > Some(0.0), "{metric}");
    }
    let quantile = "histogram_quantile(0.5, spliceway_connect_time_seconds_bucket)";
    assert!(prometheus.query(quantile) > Some(0.0));
}

/// A label that is misspelt, or sides that do not match, leave a panel empty.
#[test]
fn every_panel_of_the_dashboard_shows_something() {
    let (names, raw, fastcgi) = (NameServer::start(), Backend::echo(), pool_responder(5));
    let proxy = observed_with_everything(&names, &raw, &fastcgi);
    let directory = fresh_dir();
    let prometheus = Prometheus::start(directory.path(), proxy.metrics_address());
    let expressions = dashboard_expressions();
    assert!(expressions.len() > 40, "{}", expressions.len());
    for expression in expressions {
        // What is left out while it is nothing is there all the same.
        let all = expression.trim_end_matches(" > 0");
        let all = all.trim_end_matches(" == 1");
        eventually(all, || prometheus.query(all).is_some());
    }
}

/// All that Grafana asks, with what it puts in place of its variables.
fn dashboard_expressions() -> Vec<String> {
    let text = http::file("deploy/grafana/spliceway.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    let asking = annotations.iter().filter(|a| a["expr"].is_string());
    let expressions = targets.flatten().chain(asking).map(|target| {
        let expression = target["expr"].as_str().unwrap();
        let expression = expression.replace("$__rate_interval", "1m");
        let expression = expression.replace("$instance", ".*");
        expression.replace("$route", ".*")
    });
    let expressions: Vec<_> = expressions.collect();
    assert!(
        expressions
            .iter()
            .all(|expression| !expression.contains('$'))
    );
    expressions
}

/// promtool tries them on made-up series only, with the labels that its author believed in.
#[test]
fn alert_rules_can_be_evaluated_with_real_series_and_do_not_fire() {
    let (names, raw, fastcgi) = (NameServer::start(), Backend::echo(), pool_responder(5));
    let proxy = observed_with_everything(&names, &raw, &fastcgi);
    let directory = fresh_dir();
    let prometheus = Prometheus::start(directory.path(), proxy.metrics_address());
    let mut rules = Vec::new();
    eventually("all rules were evaluated after a scrape", || {
        let answer = prometheus.get("/api/v1/rules").unwrap_or_default();
        let groups = answer["data"]["groups"].as_array();
        rules = groups.map_or_else(Vec::new, |groups| {
            groups[0]["rules"].as_array().unwrap().clone()
        });
        let is_evaluated = |rule: &serde_json::Value| rule["health"] != "unknown";
        !rules.is_empty()
            && rules.iter().all(is_evaluated)
            && prometheus.query("up{job=\"spliceway\"}") == Some(1.0)
            // Those of the first evaluation know of no series yet.
            && rules.iter().all(|rule| rule["state"] == "inactive")
    });
    assert_eq!(rules.len(), alerts().len());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}

/// The names of the alerts.
fn alerts() -> Vec<String> {
    let text = http::file("deploy/prometheus/alerts.yml");
    let names = text.lines().filter_map(|line| line.split_once("- alert: "));
    names.map(|(_, name)| name.to_owned()).collect()
}

#[test]
fn each_alert_is_tried_with_series_for_which_it_fires_and_others_for_which_it_does_not() {
    let tests = http::file("deploy/prometheus/alerts_test.yml");
    let cases: Vec<_> = tests.split("alertname: ").skip(1).collect();
    for alert in alerts() {
        let its = cases
            .iter()
            .filter(|case| case.lines().next() == Some(&*alert));
        let (fires, is_quiet): (Vec<&str>, Vec<&str>) = its.partition(|case| {
            case.lines()
                .nth(1)
                .is_some_and(|line| line.contains("exp_alerts:"))
        });
        assert!(!fires.is_empty(), "{alert} never fires");
        assert!(!is_quiet.is_empty(), "{alert} always fires");
    }
}

/// An ending for which neither the client nor an operator is to blame concerns somebody.
#[test]
fn each_failure_is_among_the_reasons_of_an_alert_and_of_the_dashboard() {
    let alerts = http::file("deploy/prometheus/alerts.yml");
    let dashboard = dashboard_expressions();
    let failing = dashboard.iter().find(|e| e.contains("vector(0)")).unwrap();
    for outcome in Outcome::ALL.into_iter().filter(|o| o.is_failure()) {
        let name = outcome.name();
        for text in [&alerts, failing] {
            assert!(has_reason(text, name), "{name} is missing in\n{text}");
        }
    }
}

/// Whether a `reason=~"…"` in the text matches this one. They are words, or end in `.*`.
fn has_reason(text: &str, reason: &str) -> bool {
    let selectors = text.split("reason=~\"").skip(1);
    let selectors = selectors.filter_map(|rest| rest.split('"').next());
    selectors
        .flat_map(|s| s.split('|'))
        .any(|word| match word.strip_suffix(".*") {
            Some(start) => reason.starts_with(start),
            None => reason == word,
        })
}

// --- what is written about the metrics --------------------------------------------------------

/// The names of the metrics that a text mentions, as series have them.
fn mentioned(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c));
    words
        .filter(|word| word.starts_with("spliceway_"))
        .map(str::to_owned)
        .collect()
}

/// The names of all series, those of histograms with all their suffixes.
fn series(scrape: &Scrape) -> BTreeSet<String> {
    let of = |(name, kind): (&str, &str)| match kind {
        "counter" => vec![format!("{name}_total")],
        "histogram" => ["_bucket", "_sum", "_count"]
            .map(|suffix| format!("{name}{suffix}"))
            .to_vec(),
        _ => vec![name.to_owned()],
    };
    scrape.types().into_iter().flat_map(of).collect()
}

#[test]
fn every_metric_of_the_dashboard_and_the_alerts_exists() {
    let (proxy, _backend) = observed_echo();
    let there = series(&proxy.scrape());
    for path in [
        "deploy/grafana/spliceway.json",
        "deploy/prometheus/alerts.yml",
        "deploy/prometheus/alerts_test.yml",
    ] {
        let mentioned = mentioned(&http::file(path));
        assert!(mentioned.len() > 5, "{path}: {mentioned:?}");
        let unknown: Vec<_> = mentioned.difference(&there).collect();
        assert!(unknown.is_empty(), "{path} has {unknown:?}");
    }
    let dashboard = mentioned(&http::file("deploy/grafana/spliceway.json"));
    let histogram_parts = |name: &&String| !name.ends_with("_sum") && !name.ends_with("_count");
    let unseen: Vec<_> = there
        .difference(&dashboard)
        .filter(histogram_parts)
        .collect();
    assert_eq!(unseen, Vec::<&String>::new(), "the dashboard shows all");
}

#[test]
fn the_dashboard_is_one_that_grafana_can_import() {
    let text = http::file("deploy/grafana/spliceway.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(dashboard["__inputs"][0]["name"], "DS_PROMETHEUS");
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "ids differ");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${DS_PROMETHEUS}", "{panel}");
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
        // Grafana's schema has it as a field that must be there.
        let is_plot = panel["type"] == "timeseries";
        let calcs = &panel["options"]["legend"]["calcs"];
        assert!(!is_plot || calcs.is_array(), "{panel}");
    }
}
