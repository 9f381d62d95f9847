//! Connections to backends: where they come from, how they are watched, and what goes before the
//! client's bytes.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::{IpAddr, Ipv6Addr, Shutdown};

use common::backend::Refusing;
use common::client::{
    assert_eof, assert_over, exchange, exchange_and_end, receive_exact, receive_to_eof, send,
};
use common::proxy::{Builder, connect};
use common::sys::{in_own_network, lacks_root, set_loopback};
use common::{
    Backend, Conversation, Ending, Engine, KB, MB, NameServer, Pattern, Proxy, eventually,
    for_each_engine,
};

for_each_engine!(
    connections_come_from_the_source_address,
    a_source_address_that_is_not_ours_stops_the_start,
    endpoints_of_another_family_than_the_source_are_passed_over,
    when_no_port_is_left_the_log_says_so_and_what_helps,
    a_source_address_takes_no_port_from_other_destinations,
    idle_connections_are_probed_only_when_told_to,
    unacknowledged_bytes_end_a_session_when_told_to,
    a_silent_client_is_announced_and_its_bytes_follow,
    the_header_and_the_first_bytes_are_one_send,
    a_client_that_ends_at_once_is_announced,
    after_a_refused_connect_the_next_endpoint_gets_the_header_once,
    each_listener_is_announced_by_its_own_name,
    unix_backends_get_the_header_too,
);

/// Says where each connection comes from.
fn telling_its_peer() -> Backend {
    Backend::scripted(|conversation| {
        let peer = conversation.peer()?.ip().to_string();
        conversation.send(peer.as_bytes())
    })
}

fn connections_come_from_the_source_address(engine: Engine) {
    let backend = telling_its_peer();
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--source-address", "127.0.0.77"])
        .backend(&backend)
        .start();
    for _ in 0..3 {
        assert_eq!(receive_to_eof(&proxy.connect_listening()), b"127.0.0.77");
    }
}

fn a_source_address_that_is_not_ours_stops_the_start(engine: Engine) {
    let outcome = Proxy::builder()
        .engine(engine)
        // For documentation: no machine has it.
        .args(["--source-address", "192.0.2.1"])
        .backend("127.0.0.1:9")
        .run_to_the_end();
    outcome.assert_error_line(
        1,
        &[
            "--source-address 192.0.2.1",
            "EADDRNOTAVAIL",
            "this machine has",
        ],
    );
}

fn endpoints_of_another_family_than_the_source_are_passed_over(engine: Engine) {
    let Ok(v6) = Backend::scripted_on(Ipv6Addr::LOCALHOST.into(), Conversation::echo) else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let server = NameServer::start();
    server.aaaa("both.internal", &["::1"]);
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--nameserver", &server.address.to_string()])
        .args(["--dns-min-ttl", "100ms", "--source-address", "127.0.0.1"])
        .args(["--connect-timeout", "1s"])
        .backend(format!("both.internal:{}", v6.port()))
        .start();
    assert_over(&proxy.connect());
    proxy.process().wait_for_log("of the other family");
    assert_eq!(v6.ledger().accepted, 0);

    let backend = Backend::echo_at(IpAddr::from([127, 0, 0, 1]), v6.port());
    let Ok(backend) = backend else {
        eprintln!("the port is taken: the rest is skipped");
        return;
    };
    server.a("both.internal", &["127.0.0.1"]);
    eventually("the other endpoint is known", || {
        let client = proxy.connect_listening();
        assert_over(&client);
        backend.ledger().accepted > 0
    });
    for round in 0..4 {
        exchange_and_end(&proxy.connect(), Pattern::new(round), KB);
    }
    assert_eq!(v6.ledger().accepted, 0);
}

/// In a network of its own, in which connections have four ports to come from.
fn with_four_ports(act: impl FnOnce() + Send) {
    if lacks_root() {
        return;
    }
    in_own_network(act);
}

/// Once the listeners have theirs.
fn leave_four_ports() {
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").unwrap();
}

fn when_no_port_is_left_the_log_says_so_and_what_helps(engine: Engine) {
    with_four_ports(|| {
        let backend = Backend::hold();
        leave_four_ports();
        let proxy = Proxy::builder()
            .engine(engine)
            .args(["--connect-timeout", "1s"])
            .backend(&backend)
            .start();
        let _clients: Vec<_> = (0..4).map(|_| proxy.connect_listening()).collect();
        backend.wait_until("all ports are taken", |ledger| ledger.accepted == 4);
        assert_over(&proxy.connect_listening());
        for part in [
            "EADDRNOTAVAIL",
            "no local port is free for it",
            "net.ipv4.ip_local_port_range",
            "TIME_WAIT",
            "--source-address",
            "more endpoints",
        ] {
            proxy.process().wait_for_log(part);
        }
        assert_eq!(backend.ledger().accepted, 4);
    });
}

/// A port is taken for one destination only, as it is without a source address.
fn a_source_address_takes_no_port_from_other_destinations(engine: Engine) {
    with_four_ports(|| {
        let backends = [Backend::hold(), Backend::hold()];
        leave_four_ports();
        let proxy = Proxy::builder()
            .engine(engine)
            .args(["--source-address", "127.0.0.2"])
            .backend(&backends[0])
            .backend(&backends[1])
            .start();
        let clients: Vec<_> = (0..8).map(|_| proxy.connect_listening()).collect();
        for backend in &backends {
            backend.wait_until("its four connections", |ledger| ledger.accepted == 4);
            backend.release(4);
        }
        for client in &clients {
            assert_eq!(receive_to_eof(client), b"done");
        }
    });
}

/// The kernel's timer of the connection to `port` (`tr` in `/proc/net/tcp`, proc(5)).
fn timer_of_connection(port: u16) -> Option<String> {
    /// 2 is the timer of keepalive.
    const TIMER: usize = 5;
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let is_ours =
        |fields: &&Vec<&str>| fields[2].ends_with(&format!(":{port:04X}")) && fields[3] == "01";
    let lines: Vec<Vec<&str>> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect())
        .collect();
    let timer = lines.iter().find(is_ours)?[TIMER];
    Some(timer[..2].to_owned())
}

fn idle_connections_are_probed_only_when_told_to(engine: Engine) {
    for (options, timer) in [
        (&["--tcp-keepalive", "60s"][..], "02"),
        (&["--tcp-keepalive", "off"], "00"),
        (&[], "00"),
    ] {
        let backend = Backend::echo();
        let proxy = Proxy::builder()
            .engine(engine)
            .args(options.iter().copied())
            .backend(&backend)
            .start();
        let client = proxy.connect();
        exchange(&client, Pattern::new(1), KB);
        // Until the last bytes are acknowledged, another timer runs.
        eventually("the timer is the expected one", || {
            timer_of_connection(backend.port()).is_some_and(|found| found == timer)
        });
    }
}

fn unacknowledged_bytes_end_a_session_when_told_to(engine: Engine) {
    if lacks_root() {
        return;
    }
    in_own_network(|| {
        let backend = Backend::echo();
        let proxy = Proxy::builder()
            .engine(engine)
            .args(["--tcp-user-timeout", "300ms", "--log-level", "debug"])
            .backend(&backend)
            .start();
        let client = proxy.connect();
        exchange(&client, Pattern::new(1), KB);
        set_loopback(false).unwrap();
        send(&client, b"?");
        assert_over(&client);
        proxy
            .process()
            .wait_for_log("session ended: the backend broke off");
    });
}

// --- PROXY protocol ---------------------------------------------------------------------------

/// What a backend gets from a listener at this path.
fn header(version: &str, listener: &[u8]) -> Vec<u8> {
    if version == "v1" {
        return b"PROXY UNKNOWN\r\n".to_vec();
    }
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\xd8".to_vec();
    header.resize(16 + 108, 0);
    header.extend(listener);
    header.resize(16 + 216, 0);
    header
}

fn header_of(version: &str, builder: &Builder) -> Vec<u8> {
    header(version, builder.socket().as_os_str().as_encoded_bytes())
}

fn announcing(engine: Engine, version: &str) -> Builder {
    Proxy::builder()
        .engine(engine)
        .args(["--proxy-protocol", version])
}

/// Reads so many bytes, sends them back, then echoes.
fn repeating_a_header_of(len: usize) -> Backend {
    Backend::scripted(move |conversation| {
        let header = conversation.receive_exact(len)?;
        conversation.send(&header)?;
        conversation.echo()
    })
}

fn a_silent_client_is_announced_and_its_bytes_follow(engine: Engine) {
    for version in ["v1", "v2"] {
        let builder = announcing(engine, version);
        let header = header_of(version, &builder);
        let backend = repeating_a_header_of(header.len());
        let proxy = builder.backend(&backend).start();
        for (round, bytes) in [1, 100 * KB, 20 * MB].into_iter().enumerate() {
            let client = proxy.connect();
            assert_eq!(receive_exact(&client, header.len()), header);
            exchange_and_end(&client, Pattern::new(7), bytes);
            assert_eq!(backend.wait_for_end(round).ending, Ending::Eof);
        }
    }
}

/// The proxy is stopped while the client writes, so that the request is there when it looks.
fn the_header_and_the_first_bytes_are_one_send(engine: Engine) {
    for version in ["v1", "v2"] {
        let builder = announcing(engine, version);
        let header = header_of(version, &builder);
        let backend = Backend::scripted(|conversation| {
            let first = conversation.receive()?.to_vec();
            conversation.send(&first)?;
            conversation.half_close()?;
            conversation.discard_until_eof()
        });
        let proxy = builder.backend(&backend).start();
        // A full buffer, too.
        for request in [b"request".to_vec(), Pattern::new(3).bytes(16 * KB)] {
            proxy.process().signal(libc::SIGSTOP);
            eventually("the proxy stands", || proxy.process().is_stopped());
            let client = proxy.connect();
            send(&client, &request);
            proxy.process().signal(libc::SIGCONT);
            let expected = [&header[..], &request].concat();
            assert!(receive_to_eof(&client) == expected, "{version}");
        }
    }
}

fn a_client_that_ends_at_once_is_announced(engine: Engine) {
    for version in ["v1", "v2"] {
        let builder = announcing(engine, version);
        let header = header_of(version, &builder);
        let backend = Backend::sink();
        let proxy = builder.backend(&backend).start();
        proxy.connect().shutdown(Shutdown::Both).unwrap();
        drop(proxy.connect_listening());
        let client = proxy.connect();
        send(&client, b"last words");
        drop(client);
        let mut received: Vec<_> = (0..3)
            .map(|number| backend.wait_for_end(number))
            .inspect(|seen| assert_eq!(seen.ending, Ending::Eof))
            .map(|seen| seen.received)
            .collect();
        // Sessions may end in another order than they began.
        received.sort();
        let with_words = [&header[..], b"last words"].concat();
        assert_eq!(received, [header.clone(), header, with_words]);
    }
}

fn after_a_refused_connect_the_next_endpoint_gets_the_header_once(engine: Engine) {
    for version in ["v1", "v2"] {
        let builder = announcing(engine, version);
        let header = header_of(version, &builder);
        let (refusing, backend) = (Refusing::new(), Backend::sink());
        let proxy = builder.backend(&refusing).backend(&backend).start();
        for number in 0..4 {
            let client = proxy.connect();
            send(&client, b"request");
            client.shutdown(Shutdown::Write).unwrap();
            let expected = [&header[..], b"request"].concat();
            assert_eq!(backend.wait_for_end(number).received, expected);
            assert_eof(&client);
        }
    }
}

fn each_listener_is_announced_by_its_own_name(engine: Engine) {
    let builder = announcing(engine, "v2");
    let paths = ["one.sock", "two.sock"].map(|name| builder.dir().join(name));
    let backend = repeating_a_header_of(232);
    let proxy = builder
        .listen(format!("unix:{}", paths[0].display()))
        .listen(format!("unix:{}", paths[1].display()))
        .backend(&backend)
        .start();
    for path in paths.iter().chain(&paths) {
        let client = connect(path).unwrap();
        let expected = header("v2", path.as_os_str().as_encoded_bytes());
        assert_eq!(receive_exact(&client, 232), expected);
    }
    drop(proxy);
}

/// Another proxy is the Unix backend, and passes the header on.
fn unix_backends_get_the_header_too(engine: Engine) {
    let builder = announcing(engine, "v2");
    let header = header_of("v2", &builder);
    let backend = repeating_a_header_of(header.len());
    let second = Proxy::start(engine, &backend);
    let proxy = builder
        .backend(format!("unix:{}", second.socket().display()))
        .start();
    for round in 0..3 {
        let client = proxy.connect();
        assert_eq!(receive_exact(&client, header.len()), header);
        exchange_and_end(&client, Pattern::new(round), MB);
    }
}
