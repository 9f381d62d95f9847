//! Backends by name. The resolver's own rules have their tests beside it; here a name is a name.
//!
//! Some tests have a number: what users of other programs report of them, again and again.
//!
//! 1. The program does not start because a name does not resolve.
//! 2. A name is resolved once, and its addresses are used for ever.
//! 3. While addresses are exchanged there is a moment without any, and requests fail.
//! 4. After all addresses were replaced at once the program has none.
//! 5. Addresses that are gone from DNS are still used.
//! 6. The TTL is ignored.
//! 7. When the configuration is read again, addresses that work are dropped.
//! 8. All addresses are dropped when a name server is silent, fails, or denies the name.
//! 9. Connections to addresses that are gone go on for ever, whether that is wanted or not.
//! 10. Name servers that answer with another part of the addresses each time cause churn.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::backend::Unanswering;
use common::client::{assert_over, exchange, exchange_and_end};
use common::name_server::{Dead, Reply, ips};
use common::programs::start_dnsmasq;
use common::proxy::{Builder, fresh_dir};
use common::sys::lacks_root;
use common::wait::SetOnDrop;
use common::{
    Backend, Ending, Engine, KB, NameServer, Pattern, Proxy, eventually, for_each_engine,
};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

for_each_engine!(
    a_name_from_the_hosts_file_is_served,
    a_trailing_dot_is_fine,
    an_ipv6_literal_is_served_where_the_machine_has_ipv6,
    pain_1_a_name_that_does_not_resolve_does_not_stop_the_start,
    a_name_that_does_not_resolve_does_not_stop_its_neighbour,
    pain_1_a_name_server_that_is_dead_at_the_start_is_asked_until_it_lives,
    pain_2_pain_3_pain_5_addresses_that_flip_under_load_fail_no_request,
    pain_4_all_addresses_are_replaced_at_once_and_back_and_no_request_fails,
    pain_6_the_ttl_decides_when_a_name_is_asked_for_again,
    pain_7_a_change_of_the_hosts_file_is_noticed_and_takes_nothing_else_away,
    pain_8_without_an_answer_the_addresses_stay,
    pain_8_a_denied_name_loses_its_addresses_after_the_hold_and_gets_them_back,
    pain_9_sessions_to_a_removed_endpoint_go_on,
    pain_9_sessions_to_a_removed_endpoint_are_ended_when_told_to,
    pain_9_an_endpoint_that_comes_back_keeps_its_sessions,
    pain_10_rotating_subsets_cause_no_churn,
    a_failed_connect_finds_the_new_address_long_before_the_ttl_is_over,
    an_address_that_falls_silent_costs_nobody_a_connect_timeout,
    a_service_is_served_by_priority_and_by_the_next_one_when_that_is_down,
    an_answer_too_long_for_udp_is_fetched_over_tcp,
    literals_names_and_services_are_one_set,
    the_c_library_looks_names_up_when_told_to,
    dnsmasq_is_understood,
);

fn a_name_from_the_hosts_file_is_served(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::start(engine, format!("localhost:{}", backend.port()));
    for round in 0..10 {
        exchange_and_end(&proxy.connect(), Pattern::new(round), 100 * KB);
    }
}

fn a_trailing_dot_is_fine(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::start(engine, format!("localhost.:{}", backend.port()));
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
}

/// Without IPv6 there is nobody to serve, but the address is no less valid.
fn an_ipv6_literal_is_served_where_the_machine_has_ipv6(engine: Engine) {
    let loopback = IpAddr::from(Ipv6Addr::LOCALHOST);
    match Backend::scripted_on(loopback, common::Conversation::echo) {
        Ok(backend) => {
            let proxy = Proxy::start(engine, format!("[::1]:{}", backend.port()));
            exchange_and_end(&proxy.connect(), Pattern::new(2), KB);
        }
        Err(_) => {
            let proxy = Proxy::builder().engine(engine).backend("[::1]:9");
            let proxy = proxy.args(["--connect-timeout", "100ms"]).start();
            assert_over(&proxy.connect());
        }
    }
}

fn pain_1_a_name_that_does_not_resolve_does_not_stop_the_start(engine: Engine) {
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend("no-such-host.invalid:9000")
        .args(["--connect-timeout", "300ms"])
        .start();
    assert_over(&proxy.connect());
    assert!(proxy.is_running());
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
}

fn a_name_that_does_not_resolve_does_not_stop_its_neighbour(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend("no-such-host.invalid:9000")
        .backend(&backend)
        .start();
    for round in 0..10 {
        exchange_and_end(&proxy.connect(), Pattern::new(round), KB);
    }
}

/// The name that most tests use.
const NAME: &str = "php.internal";

/// Clients that make requests all the time in [`under_load`].
const CLIENTS: usize = 4;

/// A proxy that asks this name server, and often.
fn asking(engine: Engine, server: &NameServer) -> Builder {
    Proxy::builder().engine(engine).args([
        "--nameserver",
        &server.address.to_string(),
        "--dns-min-ttl",
        "100ms",
    ])
}

/// [`NAME`] with the port of a fleet.
fn name_of(fleet: &[Backend]) -> String {
    format!("{NAME}:{}", fleet[0].port())
}

/// From now on the name stands for these.
fn point_to(server: &NameServer, fleet: &[Backend]) {
    let addresses: Vec<_> = fleet.iter().map(Backend::ip).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    server.a(NAME, &addresses);
}

fn accepted(fleet: &[Backend]) -> usize {
    fleet.iter().map(|backend| backend.ledger().accepted).sum()
}

/// How often the proxy has said that the addresses changed.
fn swaps(proxy: &Proxy) -> usize {
    proxy.process().log().count(" → ")
}

/// Waits until the proxy says so, which it does after they are used: or this line is taken for the next one.
#[track_caller]
fn wait_for_first_addresses(proxy: &Proxy) {
    eventually("the first addresses are told of", || swaps(proxy) > 0);
}

/// Makes the change, and waits until the proxy says so. It does after the new addresses are there.
#[track_caller]
fn wait_for_swap(proxy: &Proxy, change: impl FnOnce()) {
    wait_for_first_addresses(proxy);
    let before = swaps(proxy);
    change();
    eventually("the change is noticed", || swaps(proxy) > before);
}

/// The requests of some clients, each of which must succeed.
struct Load {
    finished: [AtomicU64; CLIENTS],
}

impl Load {
    /// Waits until each client has begun and finished a request.
    #[track_caller]
    fn wait_for_a_round(&self) {
        let counts = || self.finished.each_ref().map(|f| f.load(Ordering::Acquire));
        let before = counts();
        // One may have been under way before, so two.
        eventually("every client has finished a request", || {
            counts()
                .iter()
                .zip(before)
                .all(|(now, before)| *now >= before + 2)
        });
    }
}

/// Runs `act` while clients make requests, one after another.
fn under_load(proxy: &Proxy, act: impl FnOnce(&Load)) {
    let load = Load {
        finished: Default::default(),
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (number, finished) in load.finished.iter().enumerate() {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Acquire) {
                    let pattern = Pattern::new(number as u64);
                    exchange_and_end(&proxy.connect(), pattern, 4 * KB);
                    finished.fetch_add(1, Ordering::Release);
                }
            });
        }
        let _over = SetOnDrop(&is_over);
        act(&load);
    });
}

/// Whether one byte comes back.
fn is_served(proxy: &Proxy) -> bool {
    let mut client = proxy.connect();
    let mut byte = [0];
    client.write_all(b"?").is_ok() && client.read_exact(&mut byte).is_ok() && byte == *b"?"
}

fn pain_1_a_name_server_that_is_dead_at_the_start_is_asked_until_it_lives(engine: Engine) {
    let fleet = Backend::fleet(1);
    let dead = Dead::new();
    let proxy = Proxy::builder()
        .engine(engine)
        .args([
            "--nameserver",
            &dead.address().to_string(),
            "--connect-timeout",
            "60s",
        ])
        .backend(name_of(&fleet))
        .start();
    let client = proxy.connect();
    proxy
        .process()
        .wait_for_log("check the name and the name servers");
    let alive = dead.start();
    point_to(&alive, &fleet);
    exchange_and_end(&client, Pattern::new(1), KB);
}

fn pain_2_pain_3_pain_5_addresses_that_flip_under_load_fail_no_request(engine: Engine) {
    const FLIPS: usize = 24;
    let fleet = Backend::fleet(8);
    let server = NameServer::start();
    point_to(&server, &fleet[..1]);
    let proxy = asking(engine, &server).backend(name_of(&fleet)).start();
    proxy
        .process()
        .wait_for_log(&format!("look up {NAME}: {NAME} → "));
    under_load(&proxy, |load| {
        for flip in 0..FLIPS {
            let (old, new) = (&fleet[flip % 8], &fleet[(flip + 1) % 8]);
            wait_for_swap(&proxy, || point_to(&server, std::slice::from_ref(new)));
            // Who connected before the swap may still get there.
            load.wait_for_a_round();
            let (to_old, to_new) = (old.ledger().accepted, new.ledger().accepted);
            load.wait_for_a_round();
            assert_eq!(
                old.ledger().accepted,
                to_old,
                "an address that is gone was used"
            );
            assert!(new.ledger().accepted > to_new);
        }
    });
}

fn pain_4_all_addresses_are_replaced_at_once_and_back_and_no_request_fails(engine: Engine) {
    let fleet = Backend::fleet(8);
    let (one, other) = fleet.split_at(4);
    let server = NameServer::start();
    point_to(&server, one);
    let proxy = asking(engine, &server).backend(name_of(&fleet)).start();
    proxy
        .process()
        .wait_for_log(&format!("look up {NAME}: {NAME} → ["));
    under_load(&proxy, |load| {
        for (old, new) in [(one, other), (other, one), (one, other)] {
            wait_for_swap(&proxy, || point_to(&server, new));
            load.wait_for_a_round();
            let (to_old, to_new) = (accepted(old), accepted(new));
            load.wait_for_a_round();
            assert_eq!(accepted(old), to_old, "an address that is gone was used");
            assert!(accepted(new) > to_new);
        }
    });
}

fn pain_6_the_ttl_decides_when_a_name_is_asked_for_again(engine: Engine) {
    let server = NameServer::start();
    let reply = |ttl| Reply::Addresses(ips(&["127.0.0.1"]), ttl);
    server.set("no-time.internal", RecordType::A, reply(0));
    server.set("an-hour.internal", RecordType::A, reply(3600));
    let _proxy = asking(engine, &server)
        .args(["--dns-max-ttl", "2h"])
        .backend("no-time.internal:9")
        .backend("an-hour.internal:9")
        .start();
    server.wait_asked("no-time.internal", RecordType::A, 10);
    // A datagram whose answer is slow in coming is sent again.
    assert!(server.asked("an-hour.internal", RecordType::A) <= 2);
}

/// In a mount namespace, so that the machine's own file is left alone.
fn pain_7_a_change_of_the_hosts_file_is_noticed_and_takes_nothing_else_away(engine: Engine) {
    if lacks_root() {
        return;
    }
    let fleet = Backend::fleet(3);
    let server = NameServer::start();
    point_to(&server, &fleet[..1]);
    let dir = fresh_dir();
    let hosts = dir.path().join("hosts");
    let point_host_to = |backend: &Backend| {
        // In place: the file is the mount.
        fs::write(&hosts, format!("{} app.internal\n", backend.ip())).unwrap();
    };
    point_host_to(&fleet[1]);
    let proxy = asking(engine, &server)
        .private_hosts(hosts.clone())
        .backend(name_of(&fleet))
        .backend(format!("app.internal:{}", fleet[0].port()))
        .start();
    eventually("both names are known", || {
        assert!(is_served(&proxy));
        accepted(&fleet[..1]) > 0 && accepted(&fleet[1..2]) > 0
    });
    under_load(&proxy, |load| {
        point_host_to(&fleet[2]);
        eventually("the other address is used", || accepted(&fleet[2..]) > 0);
        load.wait_for_a_round();
        let (to_dns, to_old) = (accepted(&fleet[..1]), accepted(&fleet[1..2]));
        load.wait_for_a_round();
        assert!(accepted(&fleet[..1]) > to_dns, "the other name stays");
        assert_eq!(accepted(&fleet[1..2]), to_old);
    });
}

fn pain_8_without_an_answer_the_addresses_stay(engine: Engine) {
    let fleet = Backend::fleet(1);
    let server = NameServer::start();
    point_to(&server, &fleet);
    let proxy = asking(engine, &server).backend(name_of(&fleet)).start();
    under_load(&proxy, |load| {
        for failure in [
            Reply::Code(ResponseCode::ServFail),
            Reply::Code(ResponseCode::Refused),
            Reply::Broken,
            Reply::Silence,
        ] {
            load.wait_for_a_round();
            server.set(NAME, RecordType::A, failure);
            let asked = server.asked(NAME, RecordType::A);
            server.wait_asked(NAME, RecordType::A, asked + 2);
            load.wait_for_a_round();
        }
    });
    assert_eq!(swaps(&proxy), 1, "the first answer");
    // Who does not look at the log hears nothing of it; who does, hears the reason.
    proxy.process().wait_for_log("last good answer: ");
}

fn pain_8_a_denied_name_loses_its_addresses_after_the_hold_and_gets_them_back(engine: Engine) {
    let fleet = Backend::fleet(1);
    let server = NameServer::start();
    point_to(&server, &fleet);
    let proxy = asking(engine, &server)
        .args(["--dns-negative-hold", "300ms", "--connect-timeout", "60s"])
        .backend(name_of(&fleet))
        .start();
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    server.set(NAME, RecordType::A, Reply::Code(ResponseCode::NXDomain));
    proxy
        .process()
        .wait_for_log(&format!("look up {NAME}: {NAME} → nothing"));
    // A client that comes now waits.
    let client = proxy.connect();
    point_to(&server, &fleet);
    exchange_and_end(&client, Pattern::new(2), KB);
}

fn pain_9_sessions_to_a_removed_endpoint_go_on(engine: Engine) {
    let fleet = Backend::fleet(2);
    let server = NameServer::start();
    point_to(&server, &fleet[..1]);
    let proxy = asking(engine, &server).backend(name_of(&fleet)).start();
    let client = proxy.connect();
    exchange(&client, Pattern::new(1), KB);
    wait_for_swap(&proxy, || point_to(&server, &fleet[1..]));
    exchange_and_end(&client, Pattern::new(2), KB);
    assert_eq!(fleet[0].wait_for_end(0).ending, Ending::Eof);
}

fn pain_9_sessions_to_a_removed_endpoint_are_ended_when_told_to(engine: Engine) {
    let fleet = Backend::fleet(2);
    let server = NameServer::start();
    point_to(&server, &fleet[..1]);
    let proxy = asking(engine, &server)
        .args(["--workers", "1", "--log-level", "debug"])
        .args(["--removed-endpoint", "close-after", "300ms"])
        .backend(name_of(&fleet))
        .start();
    let clients = [proxy.connect(), proxy.connect()];
    for client in &clients {
        exchange(client, Pattern::new(1), KB);
    }
    wait_for_swap(&proxy, || point_to(&server, &fleet[1..]));
    let other = proxy.connect();
    exchange(&other, Pattern::new(2), KB);
    for (number, client) in clients.iter().enumerate() {
        assert_over(client);
        assert_eq!(fleet[0].wait_for_end(number).ending, Ending::Reset);
    }
    let log = proxy.process().log();
    proxy
        .process()
        .wait_for_log("ended sessions whose endpoint was removed");
    assert_eq!(log.count("worker=0 sessions=2"), 1);
    assert_eq!(log.count("session ended: its endpoint was removed"), 2);
    exchange_and_end(&other, Pattern::new(3), KB);
}

fn pain_9_an_endpoint_that_comes_back_keeps_its_sessions(engine: Engine) {
    let fleet = Backend::fleet(3);
    let server = NameServer::start();
    point_to(&server, &fleet[..2]);
    let proxy = asking(engine, &server)
        .args(["--workers", "1", "--removed-endpoint", "close-after", "3s"])
        .backend(name_of(&fleet))
        .start();
    proxy
        .process()
        .wait_for_log(&format!("look up {NAME}: {NAME} → ["));
    // One session to each.
    let clients = [proxy.connect(), proxy.connect()];
    for client in &clients {
        exchange(client, Pattern::new(1), KB);
    }
    let [to_first, to_second] = [&fleet[..1], &fleet[1..2]].map(accepted);
    assert_eq!((to_first, to_second), (1, 1));
    wait_for_swap(&proxy, || point_to(&server, &fleet[2..]));
    wait_for_swap(&proxy, || point_to(&server, &fleet[..1]));
    // The other one would end at the same time.
    let over = eventually_one_is_over(&clients);
    assert_eq!(fleet[1].wait_for_end(0).ending, Ending::Reset);
    exchange_and_end(&clients[1 - over], Pattern::new(2), KB);
    assert_eq!(fleet[0].wait_for_end(0).ending, Ending::Eof);
}

/// Which of the two ends first.
fn eventually_one_is_over(clients: &[UnixStream; 2]) -> usize {
    let mut over = None;
    eventually("one of them is over", || {
        over = clients.iter().position(is_over);
        over.is_some()
    });
    over.unwrap()
}

fn is_over(mut client: &UnixStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let ended =
        !matches!(client.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    client.set_nonblocking(false).unwrap();
    ended
}

fn pain_10_rotating_subsets_cause_no_churn(engine: Engine) {
    let fleet = Backend::fleet(4);
    let server = NameServer::start();
    point_to(&server, &fleet[..2]);
    let proxy = asking(engine, &server)
        .args(["--dns-keep-missing", "1h"])
        .backend(name_of(&fleet))
        .start();
    proxy
        .process()
        .wait_for_log(&format!("look up {NAME}: {NAME} → ["));
    wait_for_swap(&proxy, || point_to(&server, &fleet[2..]));
    let swapped = swaps(&proxy);
    for subset in [&fleet[1..3], &fleet[..1], &fleet[3..], &fleet[..]] {
        point_to(&server, subset);
        let asked = server.asked(NAME, RecordType::A);
        server.wait_asked(NAME, RecordType::A, asked + 2);
    }
    assert_eq!(swaps(&proxy), swapped);
    eventually("all of them are used", || {
        assert!(is_served(&proxy));
        fleet.iter().all(|backend| backend.ledger().accepted > 0)
    });
}

fn a_failed_connect_finds_the_new_address_long_before_the_ttl_is_over(engine: Engine) {
    let mut fleet = Backend::fleet(2);
    let server = NameServer::start();
    let week = |backend: &Backend| Reply::Addresses(ips(&[&backend.ip()]), 604_800);
    server.set(NAME, RecordType::A, week(&fleet[0]));
    let proxy = asking(engine, &server)
        .args(["--dns-max-ttl", "7days"])
        .backend(name_of(&fleet))
        .start();
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    server.set(NAME, RecordType::A, week(&fleet[1]));
    drop(fleet.remove(0));
    eventually("the new address is used", || is_served(&proxy));
    assert!(server.asked(NAME, RecordType::A) >= 2);
}

/// Who went on waiting for the old address would wait for ever.
fn an_address_that_falls_silent_costs_nobody_a_connect_timeout(engine: Engine) {
    const CLIENTS: usize = 50;
    const SILENT: &str = "127.0.0.77";
    let living = Backend::echo();
    let _silent = Unanswering::at((SILENT, living.port())).unwrap();
    let server = NameServer::start();
    let week = |ip: &str| Reply::Addresses(ips(&[ip]), 604_800);
    server.set(NAME, RecordType::A, week(SILENT));
    let proxy = asking(engine, &server)
        .args(["--dns-max-ttl", "7days", "--connect-timeout", "1h"])
        .backend(format!("{NAME}:{}", living.port()))
        .start();
    wait_for_first_addresses(&proxy);
    server.set(NAME, RecordType::A, week(&living.ip()));
    thread::scope(|scope| {
        for number in 0..CLIENTS as u64 {
            let proxy = &proxy;
            scope.spawn(move || exchange_and_end(&proxy.connect(), Pattern::new(number), 4 * KB));
        }
    });
    // An attempt that lost a race with another may have been open as well.
    assert!(living.ledger().accepted >= CLIENTS);
}

fn a_service_is_served_by_priority_and_by_the_next_one_when_that_is_down(engine: Engine) {
    let mut fleet = Backend::fleet(2);
    let port = fleet[0].port();
    let server = NameServer::start();
    server.srv(
        "_php._tcp.internal",
        &[
            (20, 1, port, "spare.internal."),
            (10, 1, port, "first.internal."),
        ],
    );
    server.a("first.internal", &[&fleet[0].ip()]);
    server.a("spare.internal", &[&fleet[1].ip()]);
    let proxy = asking(engine, &server)
        .backend("srv:_php._tcp.internal")
        .start();
    proxy
        .process()
        .wait_for_log("look up _php._tcp.internal: its targets are [");
    proxy
        .process()
        .wait_for_log("look up first.internal.: first.internal. → ");
    proxy
        .process()
        .wait_for_log("look up spare.internal.: spare.internal. → ");
    for round in 0..10 {
        exchange_and_end(&proxy.connect(), Pattern::new(round), KB);
    }
    assert_eq!(accepted(&fleet[1..]), 0);
    drop(fleet.remove(0));
    eventually("the spare one is used", || is_served(&proxy));
    for round in 0..10 {
        exchange_and_end(&proxy.connect(), Pattern::new(round), KB);
    }
}

fn an_answer_too_long_for_udp_is_fetched_over_tcp(engine: Engine) {
    let fleet = Backend::fleet(2);
    let server = NameServer::start();
    let addresses = ips(&[&fleet[0].ip(), &fleet[1].ip()]);
    server.set(NAME, RecordType::A, Reply::Truncated(addresses));
    let proxy = asking(engine, &server).backend(name_of(&fleet)).start();
    eventually("both are used", || {
        assert!(is_served(&proxy));
        fleet.iter().all(|backend| backend.ledger().accepted > 0)
    });
}

fn literals_names_and_services_are_one_set(engine: Engine) {
    let fleet = Backend::fleet(3);
    let port = fleet[0].port();
    let server = NameServer::start();
    point_to(&server, &fleet[..2]);
    server.srv("_php._tcp.internal", &[(0, 1, port, "last.internal.")]);
    server.a("last.internal", &[&fleet[2].ip()]);
    let proxy = asking(engine, &server)
        .args(["--workers", "1"])
        .backend(&fleet[0])
        .backend(name_of(&fleet))
        .backend("srv:_php._tcp.internal")
        .start();
    eventually("all three are used", || {
        assert!(is_served(&proxy));
        fleet.iter().all(|backend| backend.ledger().accepted > 0)
    });
    let before = fleet
        .iter()
        .map(|b| b.ledger().accepted)
        .collect::<Vec<_>>();
    // The one that is named twice counts once.
    for _ in 0..120 {
        assert!(is_served(&proxy));
    }
    for (backend, before) in fleet.iter().zip(before) {
        let share = backend.ledger().accepted - before;
        assert!((39..=41).contains(&share), "{share} of 120");
    }
}

fn the_c_library_looks_names_up_when_told_to(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--resolve-with", "system"])
        .backend(format!("localhost:{}", backend.port()))
        .start();
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
}

/// A real name server: its hosts, an alias, a service, a change.
fn dnsmasq_is_understood(engine: Engine) {
    let fleet = Backend::fleet(3);
    let port = fleet[0].port();
    let dir = fresh_dir();
    let hosts = dir.path().join("hosts");
    let write = |lines: &[(&str, &Backend)]| {
        let line = |(name, backend): &(&str, &Backend)| format!("{} {name}\n", backend.ip());
        fs::write(&hosts, lines.iter().map(line).collect::<String>()).unwrap();
    };
    write(&[(NAME, &fleet[0]), ("lb.internal", &fleet[1])]);
    let service = format!("--srv-host=_php._tcp.internal,lb.internal,{port},10,5");
    let (dnsmasq, address) = start_dnsmasq(&hosts, &["--cname=www.internal,lb.internal", &service]);
    let start = |backend: &dyn fmt::Display| {
        Proxy::builder()
            .engine(engine)
            .args([
                "--nameserver",
                &address.to_string(),
                "--dns-min-ttl",
                "100ms",
            ])
            .backend(backend)
            .start()
    };
    let by_name = start(&name_of(&fleet));
    let by_alias = start(&format!("www.internal:{port}"));
    let by_service = start(&"srv:_php._tcp.internal");
    for (proxy, backend) in [(&by_name, 0), (&by_alias, 1), (&by_service, 1)] {
        let before = fleet[backend].ledger().accepted;
        exchange_and_end(&proxy.connect(), Pattern::new(3), KB);
        assert_eq!(fleet[backend].ledger().accepted, before + 1);
    }
    under_load(&by_name, |load| {
        wait_for_swap(&by_name, || {
            write(&[(NAME, &fleet[2]), ("lb.internal", &fleet[1])]);
            dnsmasq.signal(libc::SIGHUP);
        });
        load.wait_for_a_round();
        let to_old = accepted(&fleet[..1]);
        load.wait_for_a_round();
        assert_eq!(accepted(&fleet[..1]), to_old);
        assert!(accepted(&fleet[2..]) > 0);
    });
}
