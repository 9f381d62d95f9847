//! Several endpoints: which of them a session gets, and what becomes of it when they fail.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::backend::{Refusing, Unanswering};
use common::client::{assert_waiting, exchange, exchange_and_end, receive_to_eof, send};
use common::proxy::Builder;
use common::uninterrupted;
use common::{Backend, Conversation, Engine, KB, NameServer, Pattern, Proxy, http};
use common::{eventually, for_each_engine};

for_each_engine!(
    clients_that_wait_while_every_endpoint_is_down_are_served_once_when_one_is_back,
    a_client_that_leaves_while_nothing_can_be_reached_is_forgotten,
    what_came_while_everything_was_down_is_delivered_before_what_comes_later,
    the_first_of_the_order_serves_until_it_fails_and_again_when_it_is_back,
    an_endpoint_that_closes_without_an_answer_is_left_out,
    the_last_endpoint_is_never_left_out,
    a_last_endpoint_that_is_gone_is_seen_at_once_and_so_is_its_return,
    an_end_without_a_byte_is_no_failure_after_the_clients_end,
    nothing_is_left_out_when_that_is_off,
    an_imbalance_of_connections_is_corrected,
    the_weights_of_a_service_are_honoured,
    a_dead_ipv6_does_not_hold_up_who_has_ipv4,
    a_dead_ipv4_does_not_hold_up_who_has_ipv6,
    what_the_log_says_of_endpoints_and_names_names_the_route,
);

/// How the log begins to say that an endpoint is not used for now.
const LEFT_OUT: &str = "is left out for";

/// One worker, so that its own count of sessions is the only one.
fn alone(engine: Engine, balance: &str) -> Builder {
    Proxy::builder()
        .engine(engine)
        .args(["--workers", "1", "--balance", balance])
}

/// Answers one byte with one, then closes.
fn answer(conversation: &mut Conversation) -> io::Result<()> {
    conversation.receive_exact(1)?;
    conversation.send(b"!")
}

/// What a client that sends one byte gets.
fn ask(proxy: &Proxy) -> Vec<u8> {
    let client = proxy.connect();
    send(&client, b"?");
    receive_to_eof(&client)
}

fn clients_that_wait_while_every_endpoint_is_down_are_served_once_when_one_is_back(engine: Engine) {
    const CLIENTS: usize = 20;
    let (down, back) = (Refusing::new(), Refusing::new());
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&down)
        .backend(&back)
        .args(["--connect-timeout", "60s"])
        .start();
    let clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    for client in &clients {
        send(client, b"?");
    }
    proxy.process().wait_for_log(LEFT_OUT);
    clients.iter().for_each(|client| assert_waiting(client));
    let back = back.recover(answer);
    for client in &clients {
        assert_eq!(receive_to_eof(client), b"!");
    }
    let ledger = back.ledger();
    assert_eq!(
        (ledger.accepted, ledger.received),
        (CLIENTS, CLIENTS as u64)
    );
}

fn a_client_that_leaves_while_nothing_can_be_reached_is_forgotten(engine: Engine) {
    let down = Refusing::new();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&down)
        .args(["--connect-timeout", "1h", "--connections-max", "1"])
        .args(["--log-level", "debug"])
        .start();
    let client = proxy.connect();
    send(&client, b"a request that nobody waits for");
    drop(client);
    proxy
        .process()
        .wait_for_log("the client left before a backend was reached");
    // Its place is free, and its request goes nowhere.
    let next = proxy.connect();
    send(&next, b"?");
    let back = down.recover(answer);
    assert_eq!(receive_to_eof(&next), b"!");
    assert_eq!(back.ledger().accepted, 1);
}

fn what_came_while_everything_was_down_is_delivered_before_what_comes_later(engine: Engine) {
    let down = Refusing::new();
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&down)
        .args(["--connect-timeout", "60s", "--log-level", "debug"])
        .start();
    let clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
    let pattern = Pattern::new(3);
    std::thread::scope(|scope| {
        for client in &clients {
            // More than is held: it goes on when there is somebody.
            scope.spawn(|| exchange_and_end(client, pattern, 300 * KB));
        }
        // A second client's end says that the proxy has met the refusal.
        let leaving = proxy.connect();
        send(&leaving, b"?");
        drop(leaving);
        proxy.process().wait_for_log("the client left before");
        let back = down.recover(Conversation::echo);
        back.wait_until("four connections", |ledger| ledger.accepted == 4);
        back.wait_until("all of it", |ledger| ledger.received == 4 * 300 * KB);
        back.wait_for_end(3);
    });
}

fn the_first_of_the_order_serves_until_it_fails_and_again_when_it_is_back(engine: Engine) {
    let (first, backup) = (Refusing::new(), Backend::scripted(answer));
    let proxy = alone(engine, "first")
        .backend(&first)
        .backend(&backup)
        .args(["--eject-after", "3", "--eject-time", "200ms"])
        .start();
    for _ in 0..3 {
        assert_eq!(ask(&proxy), b"!");
    }
    proxy.process().wait_for_log(&format!("{first} {LEFT_OUT}"));
    let first = first.recover(answer);
    eventually("the first is used again", || {
        assert_eq!(ask(&proxy), b"!");
        first.ledger().accepted > 0
    });
    let to_backup = backup.ledger().accepted;
    for _ in 0..10 {
        assert_eq!(ask(&proxy), b"!");
    }
    assert_eq!(backup.ledger().accepted, to_backup);
}

fn an_endpoint_that_closes_without_an_answer_is_left_out(engine: Engine) {
    let mute = Backend::scripted(|conversation| conversation.receive_exact(1).map(drop));
    let good = Backend::scripted(answer);
    let proxy = alone(engine, "round-robin")
        .backend(&mute)
        .backend(&good)
        .args(["--eject-time", "1h"])
        .start();
    let answers: Vec<_> = (0..50).map(|_| ask(&proxy)).collect();
    assert_eq!(mute.ledger().accepted, 5);
    let unanswered = answers.iter().filter(|answer| answer.is_empty());
    assert_eq!(unanswered.count(), 5);
    proxy.process().wait_for_log(&format!("{mute} {LEFT_OUT}"));
    assert_eq!(proxy.process().log().count(LEFT_OUT), 1);
}

fn the_last_endpoint_is_never_left_out(engine: Engine) {
    let mute = Backend::scripted(|conversation| conversation.receive_exact(1).map(drop));
    let proxy = Proxy::start(engine, &mute);
    for _ in 0..20 {
        assert_eq!(ask(&proxy), b"");
    }
    assert_eq!(mute.ledger().accepted, 20);
    assert_eq!(proxy.process().log().count(LEFT_OUT), 0);
}

fn a_last_endpoint_that_is_gone_is_seen_at_once_and_so_is_its_return(engine: Engine) {
    let gone = Refusing::new();
    let proxy = alone(engine, "first").backend(&gone).observed().start();
    let ready = || http::get(proxy.metrics_address(), "/readyz");
    let state = || proxy.status()["routes"][0]["endpoints"][0]["state"].clone();
    assert_eq!((ready().code, state()), (200, "ok".into()));
    let waiting = proxy.connect();
    send(&waiting, b"?");
    let log = proxy.process().log();
    let said = "is shown as failing until a connect succeeds";
    log.wait_for("the first refused connect", |line| {
        line.contains("WARN") && line.contains(said) && line.contains(&gone.to_string())
    });
    assert_eq!(state(), "failing");
    let refusal = ready();
    assert_eq!(refusal.code, 503);
    assert!(refusal.body.contains("does not answer"), "{}", refusal.body);
    let _back = gone.recover(answer);
    assert_eq!(receive_to_eof(&waiting), b"!");
    log.wait_for("its return", |line| line.contains("answers again"));
    assert_eq!((ready().code, state()), (200, "ok".into()));
    assert_eq!(log.count(said), 1);
}

/// Who only receives says so by closing at the end.
fn an_end_without_a_byte_is_no_failure_after_the_clients_end(engine: Engine) {
    let sinks = [Backend::sink(), Backend::sink()];
    let proxy = alone(engine, "round-robin")
        .backend(&sinks[0])
        .backend(&sinks[1])
        .start();
    for _ in 0..20 {
        let client = proxy.connect();
        send(&client, b"a line for the log");
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(receive_to_eof(&client), b"");
    }
    assert_eq!(sinks.map(|sink| sink.ledger().accepted), [10, 10]);
}

fn nothing_is_left_out_when_that_is_off(engine: Engine) {
    let (refusing, good) = (Refusing::new(), Backend::scripted(answer));
    let proxy = alone(engine, "first")
        .backend(&refusing)
        .backend(&good)
        .args(["--eject-after", "off"])
        .start();
    for _ in 0..20 {
        assert_eq!(ask(&proxy), b"!");
    }
    assert_eq!(proxy.process().log().count(LEFT_OUT), 0);
}

fn an_imbalance_of_connections_is_corrected(engine: Engine) {
    let (one, other) = (Backend::echo(), Backend::echo());
    let proxy = alone(engine, "least-connections")
        .backend(&one)
        .backend(&other)
        .start();
    let open = || [one.ledger().open, other.ledger().open];
    let connect = || {
        let before = open();
        let client = proxy.connect();
        exchange(&client, Pattern::new(1), KB);
        let is_at_one = open()[0] > before[0];
        (client, is_at_one)
    };
    let mut clients: Vec<_> = (0..8).map(|_| connect()).collect();
    assert_eq!(open(), [4, 4]);
    clients.retain(|(_, is_at_one)| *is_at_one);
    eventually("those of the other have ended", || open() == [4, 0]);
    proxy.process().assert_comes_to_rest();
    clients.extend((0..4).map(|_| connect()));
    assert_eq!(open(), [4, 4]);
}

fn the_weights_of_a_service_are_honoured(engine: Engine) {
    let fleet = Backend::fleet(2);
    let port = fleet[0].port();
    let server = NameServer::start();
    server.a("light.internal", &[&fleet[0].ip()]);
    server.a("heavy.internal", &[&fleet[1].ip()]);
    server.srv(
        "_php._tcp.internal",
        &[
            (0, 10, port, "light.internal."),
            (0, 30, port, "heavy.internal."),
        ],
    );
    let proxy = alone(engine, "round-robin")
        .args(["--nameserver", &server.address.to_string()])
        .backend("srv:_php._tcp.internal")
        .start();
    // One after the other, both targets have an address.
    proxy.process().wait_for_log("version=2");
    for round in 0..40 {
        exchange_and_end(&proxy.connect(), Pattern::new(round), KB);
    }
    let accepted = |number: usize| fleet[number].ledger().accepted;
    assert_eq!([accepted(0), accepted(1)], [10, 30]);
}

fn a_dead_ipv6_does_not_hold_up_who_has_ipv4(engine: Engine) {
    one_dead_family(
        engine,
        Ipv6Addr::LOCALHOST.into(),
        Ipv4Addr::LOCALHOST.into(),
    );
}

fn a_dead_ipv4_does_not_hold_up_who_has_ipv6(engine: Engine) {
    one_dead_family(
        engine,
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
    );
}

/// The deadline is so far away that nobody would be served before it without a race.
fn one_dead_family(engine: Engine, dead: IpAddr, living: IpAddr) {
    let (Ok(dead), Ok(living)) = (Unanswering::on(dead), Backend::scripted_on(living, answer))
    else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let proxy = alone(engine, "first")
        .backend(&dead)
        .backend(&living)
        .args(["--connect-timeout", "1h", "--eject-time", "1h"])
        .start();
    // Five losers of a race are enough for it to be left out.
    for _ in 0..10 {
        assert_eq!(ask(&proxy), b"!");
    }
    proxy.process().wait_for_log(&format!("{dead} {LEFT_OUT}"));
    assert_eq!(living.ledger().accepted, 10);
    // A server that speaks only when it is spoken to hears from no loser.
    let mut client = proxy.connect();
    send(&client, b"?");
    assert_eq!(uninterrupted(|| client.read(&mut [0])).unwrap(), 1);
}

/// Without it, nobody could tell whose endpoint or name it is.
fn what_the_log_says_of_endpoints_and_names_names_the_route(engine: Engine) {
    let (down, silent) = (Refusing::new(), Refusing::new());
    let up = Backend::scripted(answer);
    let builder = Proxy::builder().engine(engine);
    let dir = builder.dir().to_owned();
    let route = |name: &str, backends: &str, more: &str| {
        let socket = dir.join(format!("{name}.sock"));
        format!(
            "[route.{name}]\nlisten = \"unix:{}\"\nbackend = {backends}\n{more}\n",
            socket.display()
        )
    };
    let both = format!("[\"{down}\", \"{up}\"]\nbalance = \"first\"");
    let config = [
        route("passive", &both, "eject-after = 1"),
        route(
            "active",
            &both,
            "check = \"tcp\"\ncheck-interval = \"100ms\"",
        ),
        route(
            "named",
            "\"unknown.test:1\"",
            &format!("nameserver = \"{silent}\""),
        ),
    ];
    let proxy = builder.config(&config.concat()).start();
    let client = common::proxy::connect(&dir.join("passive.sock")).unwrap();
    send(&client, b"?");
    assert_eq!(receive_to_eof(&client), b"!");
    for (said, route) in [
        (LEFT_OUT, "passive"),
        ("is left out until it passes its checks", "active"),
        ("look up unknown.test: ", "named"),
    ] {
        let of_route = format!("route={route}");
        proxy
            .process()
            .log()
            .wait_for(&format!("'{said}' with {of_route}"), |line| {
                line.contains(said) && line.contains(&of_route)
            });
    }
}
