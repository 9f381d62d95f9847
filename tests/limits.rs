//! At a limit nobody is turned away: whoever does not fit in waits in the backlog.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::VecDeque;
use std::io::Read;
use std::net::Shutdown;
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use common::client::{assert_eof, assert_waiting, exchange, exchange_and_end, receive_exact};
use common::fastcgi::{Client, Request};
use common::proxy::connect;
use common::sys::set_soft_nofile;
use common::{Backend, Engine, KB, Pattern, Proxy, eventually, for_each_engine};

for_each_engine!(
    never_more_than_connections_max_reach_the_backend,
    the_fifth_of_four_waits_and_is_served_when_one_ends,
    a_limit_of_one_starves_neither_of_two_listeners,
    a_busy_listener_does_not_starve_its_neighbour_at_the_limit,
    a_busy_route_leaves_places_to_others,
    a_route_with_a_number_has_no_more,
    memory_of_a_crowd_is_given_back,
    few_descriptors_from_the_start_serve_all_clients_in_the_end,
    descriptors_that_run_out_pause_accepting_without_a_spin,
);

fn never_more_than_connections_max_reach_the_backend(engine: Engine) {
    const CLIENTS: usize = 60;
    let backend = Backend::hold();
    let proxy = limited(engine, &backend, "4", "4");
    let clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect_listening()).collect();
    // Each time one is released, exactly one more comes in.
    for released in 0..CLIENTS {
        let expected = (released + 4).min(CLIENTS);
        backend.wait_until("the next client", |ledger| ledger.accepted >= expected);
        backend.release(1);
    }
    for client in &clients {
        assert_eq!(receive_exact(client, 4), b"done");
        assert_eof(client);
    }
    let ledger = backend.ledger();
    assert_eq!((ledger.accepted, ledger.open_most), (CLIENTS, 4));
}

fn the_fifth_of_four_waits_and_is_served_when_one_ends(engine: Engine) {
    let backend = Backend::echo();
    let proxy = limited(engine, &backend, "4", "4");
    let mut served: VecDeque<_> = (0..4).map(|_| proxy.connect()).collect();
    for client in &served {
        exchange(client, Pattern::new(1), KB);
    }
    let fifth = proxy.connect();
    Pattern::new(2).send(&mut &fifth, KB).unwrap();
    proxy.process().assert_comes_to_rest();
    assert_waiting(&fifth);
    assert_eq!(backend.ledger().accepted, 4);

    drop(served.pop_front());
    Pattern::new(2).receive(&mut &fifth, KB).unwrap();
    for client in &served {
        exchange(client, Pattern::new(3), KB);
    }
}

/// An accept that waits on one listener must not hold the last free place for ever.
fn a_limit_of_one_starves_neither_of_two_listeners(engine: Engine) {
    let backend = Backend::echo();
    let (proxy, one, other) = two_listeners(engine, &backend, "1");
    for round in 0..10 {
        for socket in [&one, &other, &other, &one] {
            exchange_and_end(&connect(socket).unwrap(), Pattern::new(round), KB);
        }
    }
    drop(proxy);
}

fn a_busy_listener_does_not_starve_its_neighbour_at_the_limit(engine: Engine) {
    let backend = Backend::hold();
    let (_proxy, busy, quiet) = two_listeners(engine, &backend, "2");
    let listening = |socket| {
        let client = connect(socket).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client
    };
    let crowd: Vec<_> = (0..200).map(|_| listening(&busy)).collect();
    backend.wait_until("the limit is reached", |ledger| ledger.open == 2);
    let neighbour = listening(&quiet);
    neighbour.set_nonblocking(true).unwrap();
    // Places get free one at a time. Long before the crowd is through it must have been the
    // neighbour's turn.
    let mut released = 0;
    let mut answer = [0; 4];
    while (&neighbour).read(&mut answer).is_err() {
        assert!(released < 150, "the neighbour waits behind the whole crowd");
        released += 1;
        backend.release(1);
        backend.wait_until("the next", |ledger| ledger.accepted == released + 2);
    }
    drop(crowd);
}

/// Its clients wait meanwhile, and none is sent away.
fn a_busy_route_leaves_places_to_others(engine: Engine) {
    // Three quarters are 15. A worker may accept one more before it looks.
    two_routes(engine, "connections-max = 20", "", 15..=16);
}

fn a_route_with_a_number_has_no_more(engine: Engine) {
    two_routes(engine, "", "route-connections-max = 3", 3..=4);
}

fn two_routes(engine: Engine, top: &str, of_busy: &str, allowed: RangeInclusive<usize>) {
    const CLIENTS: usize = 40;
    let (busy_backend, quiet_backend) = (Backend::hold(), Backend::echo());
    let builder = Proxy::builder().engine(engine);
    let [busy, quiet] = ["busy", "quiet"].map(|file| builder.dir().join(file));
    let route = |name, path: &Path, to: &Backend, more| {
        let listen = path.display();
        format!("[route.{name}]\nlisten = \"unix:{listen}\"\nbackend = \"{to}\"\n{more}\n")
    };
    let config = [
        format!("{top}\nworkers = 2\n"),
        route("busy", &busy, &busy_backend, of_busy),
        route("quiet", &quiet, &quiet_backend, ""),
    ];
    let proxy = builder.config(&config.concat()).start();
    let listening = || {
        let client = connect(&busy).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client
    };
    let crowd: Vec<_> = (0..CLIENTS).map(|_| listening()).collect();
    let full = *allowed.start();
    busy_backend.wait_until("the route is full", |ledger| ledger.open >= full);
    proxy
        .process()
        .wait_for_log("the route has as many sessions as it may");
    for round in 0..4 {
        exchange_and_end(&connect(&quiet).unwrap(), Pattern::new(round), 10 * KB);
    }
    for released in 1..=CLIENTS {
        busy_backend.release(1);
        let expected = (released + full).min(CLIENTS);
        busy_backend.wait_until("the next client", |ledger| ledger.accepted >= expected);
    }
    for client in &crowd {
        assert_eq!(receive_exact(client, 4), b"done");
        assert_eof(client);
    }
    let most = busy_backend.ledger().open_most;
    assert!(allowed.contains(&most), "{most} at one time");
}

/// Requests of which the end is missing take the most that a session can. Once they are gone, so is what they took.
fn memory_of_a_crowd_is_given_back(engine: Engine) {
    const CLIENTS: usize = 2000;
    const KILOBYTES: usize = 15;
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--protocol", "fastcgi", "--workers", "2", "--mode", "0666"])
        .start();
    let request = Request::get("/").param("HTTP_X_HALF", &"a".repeat(KILOBYTES * 1024));
    let head = request.head();
    let half = &head[..head.len() - 100];
    proxy.process().assert_comes_to_rest();
    let before = proxy.process().resident_kilobytes();
    for _ in 0..2 {
        let crowd: Vec<_> = (0..CLIENTS).map(|_| Client::connect(&proxy)).collect();
        crowd.iter().for_each(|client| client.send(half));
        let all = (CLIENTS * KILOBYTES) as u64;
        eventually("they are read", || {
            proxy.process().resident_kilobytes() > before + all / 2
        });
        drop(crowd);
        // What is left is tables that have grown to their number.
        eventually("it is given back", || {
            proxy.process().resident_kilobytes() < before + all / 3
        });
    }
}

fn few_descriptors_from_the_start_serve_all_clients_in_the_end(engine: Engine) {
    const CLIENTS: u64 = 100;
    let backend = Backend::echo();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "2"])
        .rlimit_nofile(64)
        .start();
    let clients: Vec<_> = (0..CLIENTS).map(|seed| (seed, proxy.connect())).collect();
    serve_all(clients);
    exchange(&proxy.connect(), Pattern::new(CLIENTS), KB);
}

/// The limit falls to what is in use while the program runs, so that the kernel itself says EMFILE.
fn descriptors_that_run_out_pause_accepting_without_a_spin(engine: Engine) {
    let backend = Backend::echo();
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args(["--workers", "2", "--connect-timeout", "60s"])
        .start();
    let early: Vec<_> = (0..20).map(|seed| (seed, proxy.connect())).collect();
    for (seed, client) in &early {
        exchange(client, Pattern::new(*seed), KB);
    }
    let limit = proxy.process().lowest_free_descriptor();
    set_soft_nofile(proxy.process().pid(), limit).unwrap();

    let late: Vec<_> = (100..160).map(|seed| (seed, proxy.connect())).collect();
    proxy.process().assert_comes_to_rest();
    assert!(proxy.is_running());
    for (seed, client) in &early {
        exchange(client, Pattern::new(*seed), KB);
    }
    drop(early);
    serve_all(late);
    eventually("every session is over", || backend.ledger().open == 0);
}

fn limited(engine: Engine, backend: &Backend, workers: &str, connections_max: &str) -> Proxy {
    Proxy::builder()
        .engine(engine)
        .backend(backend)
        .args(["--workers", workers, "--connections-max", connections_max])
        .start()
}

fn two_listeners(
    engine: Engine,
    backend: &Backend,
    connections_max: &str,
) -> (Proxy, PathBuf, PathBuf) {
    let builder = Proxy::builder().engine(engine).backend(backend);
    let [one, other] = ["one.sock", "other.sock"].map(|file| builder.dir().join(file));
    let proxy = builder
        .listen(format!("unix:{}", one.display()))
        .listen(format!("unix:{}", other.display()))
        .args(["--workers", "2", "--connections-max", connections_max])
        .start();
    (proxy, one, other)
}

/// Every client is served and then makes room for the next.
fn serve_all(clients: Vec<(u64, UnixStream)>) {
    thread::scope(|scope| {
        for (seed, client) in clients {
            scope.spawn(move || exchange_and_end(&client, Pattern::new(seed), 10 * KB));
        }
    });
}
