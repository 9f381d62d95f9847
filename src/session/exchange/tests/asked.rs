//! New connections that are asked whether there is a worker for them, before they have a request.

use super::*;
use crate::config::AutoRange;

/// A desk that finds out how many connections there may be.
fn finding(desk: &mut Desk) {
    let max = AutoRange::new(1, 64).map(EndpointMax::Auto);
    desk.balancer.amend(Balance::default(), max, false);
    desk.pool.amend(OPTIONS, &mut desk.hands);
    desk.pool.expire(&mut desk.hands);
    desk.can_queue = true;
    learn(desk);
}

fn learn(desk: &mut Desk) {
    for (address, footing) in desk.pool.take_footings() {
        desk.balancer.stand_on(address, footing);
    }
}

/// A connection to a proven server has a request; another one waits for the connection that was opened for it.
fn with_one_asked(desk: &mut Desk) -> (Exchange<Scripted>, Sock, Exchange<Scripted>, Sock) {
    let old = desk.prove_twice();
    finding(desk);
    let (mut first, _client) = desk.on_resting(old, &get("/first"));
    desk.hear(&mut first, old);
    let (mut second, _client) = desk.client(&get("/second"));
    let new = desk.connect(&mut second);
    assert_eq!(desk.hands.driver.take_sent(new), FENCE);
    desk.hands.driver.acknowledge_bytes(new, FENCE.len());
    let owner = desk.hands.owners.of(new);
    assert!(matches!(owner, Owner::Upstream(..)), "{owner:?}");
    assert!(second.wish().is_some_and(|wish| wish.stays));
    (first, old, second, new)
}

/// A connection that rests ends.
fn lose_resting(desk: &mut Desk, server: Sock) {
    let Owner::Upstream(_, id) = desk.hands.owners.of(server) else {
        panic!("it rests")
    };
    desk.hands.driver.end(server, Lane::Read);
    let hands = &mut desk.hands;
    let change = desk.pool.complete(id, Lane::Read, Done::Eof, hands);
    assert_eq!(change, Change::Gone);
    give_back(desk);
}

/// Places of connections that were closed are free.
fn give_back(desk: &mut Desk) {
    let Hands {
        driver, retired, ..
    } = &mut desk.hands;
    driver.release();
    retired.released(driver, |_| {});
}

fn is_served_by(desk: &Desk, server: Sock) -> bool {
    desk.hands.owners.of(server) == Owner::Session(SessionId(0), End::Backend)
}

#[test]
fn the_request_takes_whichever_connection_rests_first() {
    let mut desk = Desk::new();
    let (mut first, old, mut second, new) = with_one_asked(&mut desk);
    assert_eq!(desk.say(&mut first, old, &page("x")), Step::Continue);
    desk.hands.driver.take_sent(old);
    assert_eq!(desk.settle(old), Change::Rests);
    let step = act!(desk, |cx: &mut _| second.place_free(cx));
    assert_eq!(step, Step::Continue);
    assert!(is_served_by(&desk, old));
    // It is for others.
    assert_eq!(desk.settle(new), Change::Rests);
    let (third, _client) = desk.on_resting(new, &get("/third"));
    for exchange in [first, second, third] {
        exchange.close(&mut desk.hands);
    }
}

#[test]
fn a_server_that_is_not_proven_has_its_request_first() {
    let mut desk = Desk::new();
    finding(&mut desk);
    let (mut exchange, _client) = desk.client(&get("/"));
    let server = desk.connect(&mut exchange);
    assert_eq!(desk.hear(&mut exchange, server), keeping(get("/")));
    assert!(is_served_by(&desk, server));
    exchange.close(&mut desk.hands);
}

/// It had answered, and was closed before its first request came.
#[test]
fn a_request_that_an_asked_connection_has_not_read_goes_to_another_one() {
    let mut desk = Desk::new();
    let (first, _old, mut second, new) = with_one_asked(&mut desk);
    assert_eq!(desk.settle(new), Change::Rests);
    let step = act!(desk, |cx: &mut _| second.place_free(cx));
    assert_eq!(step, Step::Continue);
    assert!(is_served_by(&desk, new));
    let done = desk.hands.driver.sent(new);
    let step = desk.complete(&mut second, End::Backend, Lane::Write, done);
    assert_eq!(step, Step::Continue);
    assert_eq!(desk.lose(&mut second, new, Done::Eof), Step::Continue);
    assert_eq!(desk.hands.driver.closed(new), Some(Close::Graceful));
    for exchange in [first, second] {
        exchange.close(&mut desk.hands);
    }
}

#[test]
fn one_that_does_not_answer_lingers_and_is_closed() {
    let mut desk = Desk::new();
    let (first, old, second, new) = with_one_asked(&mut desk);
    let asked = desk.hands.now;
    for at in [50, 750] {
        assert_eq!(desk.hands.driver.closed(new), None);
        let due = asked + Duration::from_millis(at);
        assert_eq!(desk.pool.look_at(), Some(due));
        desk.hands.now = due;
        desk.pool.expire(&mut desk.hands);
    }
    assert_eq!(desk.hands.driver.closed(new), Some(Close::Graceful));
    assert_eq!(desk.hands.driver.closed(old), None);
    assert!(second.wish().is_some(), "it still waits");
    for exchange in [first, second] {
        exchange.close(&mut desk.hands);
    }
}

/// It is the only one there: another program may be there now, which cannot be asked.
#[test]
fn where_the_only_connection_does_not_answer_the_next_one_has_its_request_first() {
    let mut desk = Desk::new();
    let old = desk.prove_twice();
    finding(&mut desk);
    lose_resting(&mut desk, old);
    let (mut exchange, _client) = desk.client(&get("/"));
    let silent = desk.connect(&mut exchange);
    assert_eq!(desk.hands.driver.take_sent(silent), FENCE);
    let asked = desk.hands.now;
    for at in [50, 5000] {
        assert_eq!(desk.hands.driver.closed(silent), None);
        let due = asked + Duration::from_millis(at);
        assert_eq!(desk.pool.look_at(), Some(due));
        desk.hands.now = due;
        desk.pool.expire(&mut desk.hands);
    }
    assert_eq!(desk.hands.driver.closed(silent), Some(Close::Graceful));
    learn(&mut desk);
    give_back(&mut desk);
    let step = act!(desk, |cx: &mut _| exchange.place_free(cx));
    assert_eq!(step, Step::Continue);
    let server = desk.connect(&mut exchange);
    assert_eq!(desk.hear(&mut exchange, server), keeping(get("/")));
    exchange.close(&mut desk.hands);
}
