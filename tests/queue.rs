//! With a limit for each endpoint, who finds no place waits for one: in order, for a time, and not
//! without number.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use common::backend::Refusing;
use common::client::{
    assert_over, assert_waiting, exchange_and_end, receive_exact, receive_to_eof, send,
};
use common::proxy::{Builder, connect};
use common::sys;
use common::{
    Backend, Conversation, Engine, KB, NameServer, Pattern, Proxy, eventually, for_each_engine,
};

for_each_engine!(
    service_is_by_arrival_and_never_exceeds_the_permits,
    a_place_is_given_on_only_when_its_connection_is_closed,
    permits_are_counted_for_each_endpoint,
    a_client_that_finds_the_queue_full_is_sent_away,
    without_a_queue_nobody_waits,
    a_wait_in_the_queue_has_its_own_limit,
    a_client_that_leaves_the_queue_is_forgotten_at_once,
    what_a_client_in_the_queue_has_sent_is_not_read_before_its_turn,
    who_waits_is_served_by_an_endpoint_that_joins,
    who_waits_is_served_by_an_endpoint_that_is_back_from_ejection,
    one_that_is_out_keeps_counting_the_connections_that_it_has,
    a_drain_serves_who_waits,
    shards_divide_the_permits,
    two_routes_do_not_disturb_each_other,
    a_queue_that_never_ends_leaves_others_their_turn,
    queues_can_take_every_connection_and_each_that_leaves_gives_one_back,
    who_had_a_place_and_failed_waits_also_where_nobody_may,
    without_an_address_it_is_not_the_queue_that_is_blamed,
);

/// One backend or more, on one of two workers.
fn limited(engine: Engine, per_endpoint_max: &str) -> Builder {
    Proxy::builder()
        .engine(engine)
        .args(["--workers", "2", "--per-endpoint-max", per_endpoint_max])
}

/// What backends heard, in the order in which they heard it.
type Order = Arc<Mutex<Vec<u64>>>;

/// Notes each client's number, and holds the connection until it is released.
fn noting(order: &Order) -> impl Fn(&mut Conversation) -> io::Result<()> + use<> {
    let order = Arc::clone(order);
    move |conversation| {
        let number = conversation.receive_seed()?;
        order.lock().unwrap().push(number);
        conversation.wait_for_release()?;
        conversation.send(b"done")
    }
}

/// Says its number and no more: its session ends as soon as the backend ends it.
fn client(proxy: &Proxy, number: u64) -> UnixStream {
    let client = proxy.connect();
    send(&client, &number.to_le_bytes());
    client.shutdown(Shutdown::Write).unwrap();
    client
}

#[track_caller]
fn wait_for_count(order: &Order, count: usize) {
    eventually("the next client is served", || {
        order.lock().unwrap().len() >= count
    });
}

/// With each place that gets free, exactly one client comes in, the one that has waited for longest: so
/// nobody waits longer than for the places of those before it.
fn service_is_by_arrival_and_never_exceeds_the_permits(engine: Engine) {
    const CLIENTS: usize = 200;
    const PERMITS: usize = 8;
    let order = Order::default();
    let backend = Backend::scripted(noting(&order));
    let proxy = limited(engine, "8").backend(&backend).start();
    let clients: Vec<_> = (0..CLIENTS as u64).map(|n| client(&proxy, n)).collect();
    for released in 0..CLIENTS {
        let served = (released + PERMITS).min(CLIENTS);
        wait_for_count(&order, served);
        assert_eq!(order.lock().unwrap().len(), served);
        backend.release(1);
    }
    for client in &clients {
        assert_eq!(receive_to_eof(client), b"done");
    }
    let mut order = order.lock().unwrap();
    // Those that were let in together are heard in any order.
    order[..PERMITS].sort_unstable();
    assert!(order.iter().copied().eq(0..CLIENTS as u64), "{order:?}");
    let ledger = backend.ledger();
    assert_eq!((ledger.accepted, ledger.open_most), (CLIENTS, PERMITS));
}

/// When the backend accepts a connection, it has the end of the one before.
fn a_place_is_given_on_only_when_its_connection_is_closed(engine: Engine) {
    const CLIENTS: usize = 300;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let backend = thread::spawn(move || {
        let mut before: Option<TcpStream> = None;
        for number in 0..CLIENTS {
            let (mut connection, _) = listener.accept().unwrap();
            if let Some(before) = before {
                before.set_nonblocking(true).unwrap();
                let end = before.peek(&mut [0]);
                let is_closed = end
                    .as_ref()
                    .map_or_else(|e| e.kind() == ErrorKind::ConnectionReset, |n| *n == 0);
                assert!(is_closed, "{end:?} before connection {number}");
            }
            connection.read_exact(&mut [0; 8]).unwrap();
            connection.write_all(b"done").unwrap();
            before = Some(connection);
        }
    });
    let proxy = limited(engine, "1").backend(address).start();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let client = proxy.connect();
            send(&client, b"question");
            client
        })
        .collect();
    for client in clients {
        assert_eq!(receive_exact(&client, 4), b"done");
    }
    backend.join().unwrap();
}

fn permits_are_counted_for_each_endpoint(engine: Engine) {
    let backends = [Backend::hold(), Backend::hold()];
    let proxy = limited(engine, "3")
        .backend(&backends[0])
        .backend(&backends[1])
        .start();
    let clients: Vec<_> = (0..10).map(|_| proxy.connect_listening()).collect();
    for backend in &backends {
        backend.wait_until("its places are taken", |ledger| ledger.open == 3);
    }
    proxy.process().assert_comes_to_rest();
    backends.iter().for_each(|backend| backend.release(10));
    for client in &clients {
        assert_eq!(receive_exact(client, 4), b"done");
    }
    for backend in &backends {
        assert_eq!(backend.ledger().open_most, 3);
    }
}

fn a_client_that_finds_the_queue_full_is_sent_away(engine: Engine) {
    let backend = Backend::hold();
    let proxy = limited(engine, "1")
        .backend(&backend)
        .args(["--queue-max", "2"])
        .start();
    let served = proxy.connect_listening();
    backend.wait_until("the first", |ledger| ledger.accepted == 1);
    let waiting = [proxy.connect_listening(), proxy.connect_listening()];
    let refused = proxy.connect_listening();
    assert_over(&refused);
    proxy.process().wait_for_log("the queue full");
    waiting.iter().for_each(assert_waiting);
    backend.release(3);
    for client in [&served, &waiting[0], &waiting[1]] {
        assert_eq!(receive_exact(client, 4), b"done");
    }
    assert_eq!(backend.ledger().accepted, 3);
}

fn without_a_queue_nobody_waits(engine: Engine) {
    let backend = Backend::hold();
    let proxy = limited(engine, "1")
        .backend(&backend)
        .args(["--queue-max", "0"])
        .start();
    let served = proxy.connect_listening();
    backend.wait_until("the first", |ledger| ledger.accepted == 1);
    assert_over(&proxy.connect_listening());
    backend.release(1);
    assert_eq!(receive_to_eof(&served), b"done");
    backend.release(1);
    eventually("a place for the next", || {
        receive_to_eof(&proxy.connect_listening()) == b"done"
    });
}

/// The time for connecting is used up long before, and does not count.
fn a_wait_in_the_queue_has_its_own_limit(engine: Engine) {
    let backend = Backend::hold();
    let proxy = limited(engine, "1")
        .backend(&backend)
        .args(["--queue-timeout", "300ms", "--connect-timeout", "50ms"])
        .start();
    let served = proxy.connect_listening();
    backend.wait_until("the first", |ledger| ledger.accepted == 1);
    let late = proxy.connect_listening();
    assert_over(&late);
    proxy
        .process()
        .wait_for_log("no place at an endpoint in time");
    backend.release(1);
    assert_eq!(receive_to_eof(&served), b"done");
    assert_eq!(backend.ledger().accepted, 1);
}

fn a_client_that_leaves_the_queue_is_forgotten_at_once(engine: Engine) {
    let order = Order::default();
    let backend = Backend::scripted(noting(&order));
    let proxy = limited(engine, "1")
        .backend(&backend)
        .args(["--queue-max", "1"])
        .start();
    let served = client(&proxy, 0);
    wait_for_count(&order, 1);
    // It has sent something, and may have ended its own direction: only its leaving counts.
    let leaving = client(&proxy, 1);
    proxy.process().assert_comes_to_rest();
    assert_over(&proxy.connect_listening());
    drop(leaving);
    proxy.process().assert_comes_to_rest();
    let next = client(&proxy, 2);
    proxy.process().assert_comes_to_rest();
    assert_waiting(&next);
    backend.release(2);
    for client in [&served, &next] {
        assert_eq!(receive_to_eof(client), b"done");
    }
    assert_eq!(*order.lock().unwrap(), [0, 2]);
}

/// So a long queue holds no bytes, whatever its clients send.
fn what_a_client_in_the_queue_has_sent_is_not_read_before_its_turn(engine: Engine) {
    const EACH: usize = 50_000;
    let backend = Backend::scripted(|conversation| {
        conversation.wait_for_release()?;
        conversation.receive_exact(EACH)?;
        conversation.send(b"done")
    });
    let proxy = limited(engine, "1").backend(&backend).start();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let client = proxy.connect();
            send(&client, &[7; EACH]);
            client
        })
        .collect();
    backend.wait_until("the first", |ledger| ledger.accepted == 1);
    proxy.process().assert_comes_to_rest();
    for client in &clients[1..] {
        assert!(sys::unread(client).unwrap() >= EACH);
    }
    backend.release(clients.len());
    for client in &clients {
        assert_eq!(receive_exact(client, 4), b"done");
        assert_eq!(sys::unread(client).unwrap(), 0);
        client.shutdown(Shutdown::Write).unwrap();
    }
}

/// The only endpoint leaves the set while clients wait for it; they go to the one that comes.
fn who_waits_is_served_by_an_endpoint_that_joins(engine: Engine) {
    let (old, new) = two_that_hold_on_one_port();
    let names = NameServer::start();
    names.a("app.test", &["127.0.0.1"]);
    let proxy = limited(engine, "1")
        .backend(format_args!("app.test.:{}", old.port()))
        .args(["--nameserver", &names.address.to_string()])
        .args(["--dns-max-ttl", "200ms", "--dns-min-ttl", "100ms"])
        .start();
    let first = proxy.connect_listening();
    old.wait_until("the first", |ledger| ledger.accepted == 1);
    let waiting = [proxy.connect_listening(), proxy.connect_listening()];
    proxy.process().assert_comes_to_rest();
    names.a("app.test", &["127.0.0.2"]);
    new.wait_until("one of those who wait", |ledger| ledger.accepted == 1);
    new.release(2);
    for client in &waiting {
        assert_eq!(receive_to_eof(client), b"done");
    }
    assert_waiting(&first);
    old.release(1);
    let ledgers = [old.ledger(), new.ledger()].map(|ledger| (ledger.accepted, ledger.open_most));
    assert_eq!(ledgers, [(1, 1), (2, 1)]);
}

fn two_that_hold_on_one_port() -> (Backend, Backend) {
    let hold = |conversation: &mut Conversation| {
        conversation.wait_for_release()?;
        conversation.send(b"done")
    };
    let mut pairs = (0..100).map(|_| {
        let first = Backend::scripted(hold);
        let second = Backend::scripted_at(("127.0.0.2", first.port()), hold);
        second.map(|second| (first, second))
    });
    pairs.find_map(Result::ok).expect("some port is free")
}

/// Its ejection ends at a time of which nobody is told.
fn who_waits_is_served_by_an_endpoint_that_is_back_from_ejection(engine: Engine) {
    let (full, down) = (Backend::hold(), Refusing::new());
    let proxy = limited(engine, "1")
        .backend(&down)
        .backend(&full)
        .args(["--balance", "first", "--connect-timeout", "60s"])
        .args(["--eject-after", "1", "--eject-time", "200ms"])
        .start();
    let first = proxy.connect_listening();
    full.wait_until("the first", |ledger| ledger.accepted == 1);
    let second = proxy.connect_listening();
    proxy.process().assert_comes_to_rest();
    assert_waiting(&second);
    let back = down.recover(|conversation| conversation.send(b"back"));
    assert_eq!(receive_to_eof(&second), b"back");
    assert_waiting(&first);
    assert_eq!(back.ledger().accepted, 1);
    full.release(1);
    assert_eq!(receive_to_eof(&first), b"done");
}

/// An endpoint answers nothing, so it is ejected while it has connections. When it is back, these are
/// still counted.
fn one_that_is_out_keeps_counting_the_connections_that_it_has(engine: Engine) {
    // Says `done` to who sends 1, and breaks off without a word with who sends 0.
    let order = Order::default();
    let script_order = Arc::clone(&order);
    let odd = Backend::scripted(move |conversation| {
        let number = conversation.receive_seed()?;
        script_order.lock().unwrap().push(number);
        if number == 0 {
            return Ok(());
        }
        conversation.wait_for_release()?;
        conversation.send(b"done")
    });
    let other = Backend::scripted(|conversation| {
        // A close with bytes unread would be a reset, which the client is told of.
        conversation.receive_seed()?;
        conversation.wait_for_release()?;
        conversation.send(b"done")
    });
    let proxy = limited(engine, "2")
        .backend(&odd)
        .backend(&other)
        .args([
            "--balance",
            "first",
            "--eject-after",
            "1",
            "--eject-time",
            "200ms",
        ])
        .start();
    let held = client(&proxy, 1);
    wait_for_count(&order, 1);
    let unanswered = proxy.connect();
    send(&unanswered, &0_u64.to_le_bytes());
    assert_eq!(receive_to_eof(&unanswered), b"");
    drop(unanswered);
    proxy.process().wait_for_log("is left out for");
    // Those that come while it is out, and wait when the other is full.
    let crowd: Vec<_> = (10..16).map(|number| client(&proxy, number)).collect();
    other.wait_until("the other is full", |ledger| ledger.open == 2);
    // It is back, and takes one more beside the one that it has.
    wait_for_count(&order, 3);
    proxy.process().assert_comes_to_rest();
    assert_eq!(order.lock().unwrap().len(), 3);
    assert_eq!(odd.ledger().open, 2);
    other.release(10);
    odd.release(10);
    for client in crowd.iter().chain([&held]) {
        assert_eq!(receive_to_eof(client), b"done");
    }
    assert!(odd.ledger().open_most <= 2 && other.ledger().open_most <= 2);
}

fn a_drain_serves_who_waits(engine: Engine) {
    let backend = Backend::hold();
    let mut proxy = limited(engine, "1").backend(&backend).start();
    let clients = [
        proxy.connect_listening(),
        proxy.connect_listening(),
        proxy.connect_listening(),
    ];
    backend.wait_until("the first", |ledger| ledger.accepted == 1);
    proxy.terminate();
    proxy.process().wait_for_log("draining");
    backend.release(3);
    for client in &clients {
        assert_eq!(receive_to_eof(client), b"done");
    }
    assert!(proxy.wait().success());
    assert_eq!(backend.ledger().open_most, 1);
}

/// Two workers, with two permits for each address and one. Clients that come one at a time come to both, so
/// that every place is taken, and never more, also at an address that joins.
fn shards_divide_the_permits(engine: Engine) {
    const CLIENTS_MAX: usize = 200;
    let (first, second) = two_that_hold_on_one_port();
    let names = NameServer::start();
    names.a("app.test", &["127.0.0.1"]);
    let proxy = limited(engine, "3")
        .backend(format_args!("app.test.:{}", first.port()))
        .args(["--nameserver", &names.address.to_string(), "--shards", "2"])
        .args(["--queue-timeout", "off"])
        .args(["--dns-max-ttl", "200ms", "--dns-min-ttl", "100ms"])
        .start();
    let mut clients = Vec::new();
    let mut come_until_full = |backend: &Backend| {
        eventually("every place is taken", || {
            if clients.len() < CLIENTS_MAX {
                clients.push(proxy.connect_listening());
            }
            backend.ledger().open == 3
        });
    };
    come_until_full(&first);
    names.a("app.test", &["127.0.0.1", "127.0.0.2"]);
    come_until_full(&second);
    clients.extend((0..20).map(|_| proxy.connect_listening()));
    proxy.process().assert_comes_to_rest();
    first.release(clients.len());
    second.release(clients.len());
    for client in &clients {
        assert_eq!(receive_exact(client, 4), b"done");
    }
    let most = [&first, &second].map(|backend| backend.ledger().open_most);
    assert_eq!(most, [3, 3]);
}

/// One worker serves both. While every place of the one is taken, its queue is full and more clients come
/// all the time, each client of the other is served, with a limit of its own or without.
fn two_routes_do_not_disturb_each_other(engine: Engine) {
    const ROUNDS: u64 = 100;
    // The end of one client and the coming of the next may be looked at in one turn: so there is room to
    // wait for that.
    for limit_of_the_other in ["", "per-endpoint-max = 1\nqueue-max = 1\n"] {
        let (held, calm) = (Backend::hold(), Backend::echo());
        let builder = Proxy::builder().engine(engine);
        let busy = builder.dir().join("busy.sock");
        let file = format!(
            "workers = 1\n\
             [route.busy]\nlisten = \"unix:{}\"\nbackend = \"{held}\"\n\
             per-endpoint-max = 1\nqueue-max = 2\nqueue-timeout = \"off\"\n\
             [route.calm]\nlisten = \"unix:{}\"\nbackend = \"{calm}\"\n{limit_of_the_other}",
            busy.display(),
            builder.socket().display()
        );
        let proxy = builder.config(&file).start();
        let come = || {
            let client = connect(&busy).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            client
        };
        let clients = [come(), come(), come()];
        held.wait_until("the first", |ledger| ledger.accepted == 1);
        for round in 1..=ROUNDS {
            let refused = come();
            exchange_and_end(&proxy.connect(), Pattern::new(round), 10 * KB);
            assert_over(&refused);
        }
        clients.iter().for_each(assert_waiting);
        assert_eq!(held.ledger().accepted, 1);
        assert_eq!(calm.ledger().accepted as u64, ROUNDS);
        held.release(3);
        for client in &clients {
            assert_eq!(receive_to_eof(client), b"done");
        }
        let ledger = held.ledger();
        assert_eq!((ledger.accepted, ledger.open_most), (3, 1));
    }
}

/// The clients of one route come again and again, so that its queue is never empty, and its backend is so
/// quick that it always has places. In the order in which connections are made, those of another route on
/// the same worker have theirs in between.
fn a_queue_that_never_ends_leaves_others_their_turn(engine: Engine) {
    const PLACES: usize = 200;
    const CLIENTS: usize = 400;
    const TURNS: usize = 20;
    // Those that are connected when a place of the other route gets free, and as many until that is seen.
    const BETWEEN_MAX: usize = 2 * PLACES;
    sys::raise_own_nofile();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    sys::set_backlog(&listener, 4096).unwrap();
    let builder = Proxy::builder().engine(engine);
    let (busy, calm) = (builder.dir().join("busy.sock"), builder.socket().to_owned());
    let address = listener.local_addr().unwrap();
    let file = format!(
        "workers = 1\n[defaults]\nbackend = \"{address}\"\nqueue-timeout = \"off\"\n\
         [route.busy]\nlisten = \"unix:{}\"\nper-endpoint-max = {PLACES}\n\
         [route.calm]\nlisten = \"unix:{}\"\nper-endpoint-max = 1\n",
        busy.display(),
        calm.display()
    );
    let _proxy = builder.config(&file).start();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let calm_clients: Vec<_> = (0..=TURNS).map(|_| say(&calm, b'c')).collect();
        let (first, is_calm) = accept_one(&listener);
        assert!(is_calm);
        scope.spawn(|| come_again_and_again(&busy, CLIENTS, &is_over));
        // All places are taken, and the others wait: from now on the queue is not empty any more.
        let at_first: Vec<_> = (0..PLACES).map(|_| accept_one(&listener)).collect();
        assert!(at_first.iter().all(|(_, is_calm)| !is_calm));
        drop(at_first);
        let mut held = first;
        let mut most = 0;
        for _ in 0..TURNS {
            drop(held);
            let mut between = 0;
            held = loop {
                let (connection, is_calm) = accept_one(&listener);
                if is_calm {
                    break connection;
                }
                between += 1;
            };
            most = most.max(between);
        }
        is_over.store(true, Ordering::Relaxed);
        drop((held, calm_clients));
        // Those that are still on their way find nobody.
        drop(listener);
        assert!(most <= BETWEEN_MAX, "{most} others were served in between");
    });
}

/// Two saturated routes hold all connections that there may be. Clients of another route
/// come in one by one as others leave the queues.
fn queues_can_take_every_connection_and_each_that_leaves_gives_one_back(engine: Engine) {
    const CONNECTIONS_MAX: usize = 8;
    let (held, quick) = (Backend::hold(), Backend::echo());
    let builder = Proxy::builder().engine(engine);
    let socket = |name: &str| builder.dir().join(name);
    let (a, b, other) = (socket("a.sock"), socket("b.sock"), socket("other.sock"));
    let file = format!(
        "workers = 2\nconnections-max = {CONNECTIONS_MAX}\n\
         [defaults]\nbackend = \"{held}\"\nqueue-timeout = \"off\"\n\
         [route.a]\nlisten = \"unix:{}\"\nper-endpoint-max = 1\n\
         [route.b]\nlisten = \"unix:{}\"\nper-endpoint-max = 2\n\
         [route.other]\nlisten = \"unix:{}\"\nbackend = \"{quick}\"\n",
        a.display(),
        b.display(),
        other.display()
    );
    let mut proxy = builder.config(&file).start();
    proxy
        .process()
        .wait_for_log("the queues of saturated routes");
    let come = |path: &Path| {
        let client = connect(path).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client
    };
    let mut clients: Vec<_> = (0..CONNECTIONS_MAX)
        .map(|number| come(if number % 2 == 0 { &a } else { &b }))
        .collect();
    held.wait_until("three places are taken", |ledger| ledger.open == 3);
    // Those who wait have been accepted as well.
    proxy.process().assert_comes_to_rest();
    let late = connect(&other).unwrap();
    send(&late, b"ping");
    proxy.process().assert_comes_to_rest();
    assert_waiting(&late);
    assert_eq!(quick.ledger().accepted, 0);
    // The last one that came waits in a queue.
    drop(clients.pop());
    assert_eq!(receive_exact(&late, 4), b"ping");
    // And nobody is left behind when it ends.
    drop(late);
    proxy.terminate();
    proxy.process().wait_for_log("draining");
    held.release(CONNECTIONS_MAX);
    for client in &clients {
        assert_eq!(receive_to_eof(client), b"done");
    }
    assert!(proxy.wait().success());
    assert_eq!(held.ledger().open_most, 3);
}

/// A client that says one byte and waits for its end.
fn say(path: &Path, byte: u8) -> UnixStream {
    let client = connect(path).unwrap();
    send(&client, &[byte]);
    client.shutdown(Shutdown::Write).unwrap();
    client
}

/// The next connection in the order in which they were made, and whether it is one of the calm route's.
fn accept_one(listener: &TcpListener) -> (TcpStream, bool) {
    let (mut connection, _) = listener.accept().unwrap();
    let mut byte = [0];
    connection.read_exact(&mut byte).unwrap();
    (connection, byte == *b"c")
}

/// Keeps this many clients waiting or served. They are served in the order in which they come, so one
/// thread can wait for them in this order.
fn come_again_and_again(path: &Path, clients: usize, is_over: &AtomicBool) {
    let mut clients: VecDeque<_> = (0..clients).map(|_| say(path, b'b')).collect();
    while !is_over.load(Ordering::Relaxed) {
        let mut first = clients.pop_front().unwrap();
        let _ = first.read(&mut [0]);
        clients.push_back(say(path, b'b'));
    }
}

/// With a queue for nobody, a client that finds all places taken is sent away. One that has a place, at an
/// endpoint that refuses it for a while, is none of those: it has the time for connecting, as without a
/// limit.
fn who_had_a_place_and_failed_waits_also_where_nobody_may(engine: Engine) {
    let down = Refusing::new();
    let proxy = limited(engine, "1")
        .backend(&down)
        .args(["--queue-max", "0", "--connect-timeout", "60s"])
        .start();
    let first = proxy.connect_listening();
    proxy.process().assert_comes_to_rest();
    assert_waiting(&first);
    // Others do not wait behind it.
    assert_over(&proxy.connect_listening());
    let back = down.recover(|conversation| conversation.send(b"back"));
    assert_eq!(receive_to_eof(&first), b"back");
    assert_eq!(back.ledger().accepted, 1);

    let down = Refusing::new();
    let proxy = limited(engine, "1")
        .backend(&down)
        .args(["--queue-max", "0", "--connect-timeout", "200ms"])
        .start();
    assert_over(&proxy.connect_listening());
    proxy.process().wait_for_log("Connection refused");
    assert_eq!(proxy.process().log().count("the queue full"), 0);
}

fn without_an_address_it_is_not_the_queue_that_is_blamed(engine: Engine) {
    let names = NameServer::start();
    let proxy = limited(engine, "1")
        .backend("gone.test.:1")
        .args(["--nameserver", &names.address.to_string()])
        .args(["--queue-max", "1"])
        .start();
    let waiting = proxy.connect_listening();
    proxy.process().assert_comes_to_rest();
    assert_over(&proxy.connect_listening());
    assert_waiting(&waiting);
    proxy.process().wait_for_log("no address is known");
    assert_eq!(proxy.process().log().count("the queue full"), 0);
}
