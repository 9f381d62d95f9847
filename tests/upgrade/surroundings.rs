//! What is around the daemon: name servers, what operators have changed by hand, and the service manager.

use std::os::unix::net::UnixDatagram;

use hickory_proto::rr::RecordType;
use serde_json::Value;

use crate::common::activation::Notified;
use crate::common::client::exchange_and_end;
use crate::common::name_server::Reply;
use crate::common::proxy::fresh_dir;
use crate::common::{Backend, Engine, KB, NameServer, Pattern, Proxy, eventually};
use crate::stage::{Daemon, route_to, wait_for_end};

const NAME: &str = "backend.test";

/// The name server says nothing more: the last good addresses are handed from one to the other.
pub(crate) fn addresses_are_handed_over(engine: Engine) {
    let (server, echo) = (NameServer::start(), Backend::echo());
    server.a(NAME, &[&echo.ip()]);
    server.set(NAME, RecordType::AAAA, Reply::NoData);
    let more = format!(
        "nameserver = [\"{}\"]\nconnect-timeout = \"2s\"",
        server.address
    );
    let backend = format!("\"{NAME}.:{}\"", echo.port());
    let daemon = Daemon::start(engine, &route_to("raw", &backend, &more));
    exchange_and_end(&daemon.connect("raw.sock"), Pattern::new(1), KB);
    server.set(NAME, RecordType::A, Reply::Silence);
    server.set(NAME, RecordType::AAAA, Reply::Silence);
    for number in 0..3 {
        let asked = server.asked(NAME, RecordType::A);
        daemon.upgrade();
        for _ in 0..3 {
            exchange_and_end(&daemon.connect("raw.sock"), Pattern::new(number), KB);
        }
        server.wait_asked(NAME, RecordType::A, asked + 1);
    }
}

pub(crate) fn what_was_changed_by_hand_is_handed_over(engine: Engine) {
    let backends = [Backend::echo(), Backend::echo(), Backend::echo()];
    let [one, two, three] = backends
        .each_ref()
        .map(|backend| backend.address().to_string());
    let listed = format!("[\"{one}\", \"{two}\", \"{three}\"]");
    let daemon = Daemon::start(engine, &route_to("raw", &listed, ""));
    daemon.done(&["drain", "raw", &one]);
    daemon.done(&["weight", "raw", &two, "7"]);
    let of = |route: &Value, address: &str| {
        let endpoints = route["endpoints"].as_array().unwrap().iter();
        let mut found = endpoints.filter(|endpoint| endpoint["address"] == address);
        let endpoint = found.next().unwrap();
        ["drained", "weight", "weight_by_hand"].map(|field| endpoint[field].clone())
    };
    let expected = [
        (
            &one,
            [Value::from(true), Value::from(1), Value::from(false)],
        ),
        (
            &two,
            [Value::from(false), Value::from(7), Value::from(true)],
        ),
        (
            &three,
            [Value::from(false), Value::from(1), Value::from(false)],
        ),
    ];
    for _ in 0..3 {
        let status = daemon.route("raw");
        for (address, expected) in &expected {
            assert_eq!(of(&status, address), *expected, "{address}: {status}");
        }
        for number in 0..6 {
            exchange_and_end(&daemon.connect("raw.sock"), Pattern::new(number), KB);
        }
        daemon.upgrade();
    }
    assert_eq!(backends[0].ledger().accepted, 0);
    // It is as it was, also in being changed back.
    daemon.done(&["undrain", "raw", &one]);
    daemon.upgrade();
    eventually("it gets some again", || {
        exchange_and_end(&daemon.connect("raw.sock"), Pattern::new(1), KB);
        backends[0].ledger().accepted > 0
    });
}

/// Which process is the main one, and that it is ready; and nothing more of the one before.
pub(crate) fn the_service_manager_hears_of_each_process(engine: Engine) {
    let (dir, echo) = (fresh_dir(), Backend::echo());
    let at = dir.path().join("notify");
    let mut notified = Notified::at(UnixDatagram::bind(&at).unwrap());
    let variable = format!("NOTIFY_SOCKET={}", at.display());
    let builder = Proxy::builder().engine(engine).observed();
    let builder = builder.through(["/usr/bin/env", &variable]);
    let routes = route_to("raw", &format!("\"{echo}\""), "");
    let daemon = Daemon::start_of(builder, engine, "workers = 2", &routes);
    notified.wait_for("READY=1");
    let mut pid = daemon.pid();
    for number in 0..3 {
        let session = daemon.connect("raw.sock");
        let before = notified.lines().len();
        let next = daemon.upgrade();
        let ready = |lines: &[String]| lines[before..].iter().position(|line| line == "READY=1");
        eventually("it is ready", || ready(notified.lines()).is_some());
        let told = notified.lines()[before..].to_vec();
        let main = format!("MAINPID={next}");
        let mains: Vec<_> = told
            .iter()
            .filter(|line| line.starts_with("MAINPID="))
            .collect();
        assert!(
            !mains.is_empty() && mains.iter().all(|line| **line == main),
            "{told:?}"
        );
        let first = told.iter().position(|line| *line == main);
        assert!(first < ready(notified.lines()), "{told:?}");
        exchange_and_end(&session, Pattern::new(number), KB);
        wait_for_end(pid);
        pid = next;
    }
    for of_the_end in ["STOPPING=1", "RELOADING=1"] {
        assert_eq!(notified.count(of_the_end), 0, "{of_the_end}");
    }
    assert_eq!(notified.count("READY=1"), 4);
}
