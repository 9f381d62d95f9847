//! Requests that take longer than they may.

use super::*;

const MAY_TAKE: Duration = Duration::from_secs(3);

/// A desk at which requests may take so long, and have a place each.
fn strict() -> Desk {
    let mut desk = Desk::new();
    desk.policy.timeouts.request = Some(MAY_TAKE);
    desk.balancer.amend(
        Balance::default(),
        NonZeroU32::new(1).map(EndpointMax::Fixed),
        false,
    );
    desk.can_queue = true;
    desk
}

/// Lets the time pass until the request has had its own, with everything that is due on the way.
fn pass(desk: &mut Desk, exchange: &mut Exchange<Scripted>) -> Step {
    let timeouts = desk.policy.timeouts;
    let until = desk.hands.now + MAY_TAKE;
    loop {
        let due = exchange.deadline(timeouts).expect("its time runs");
        assert!(due <= until, "it is not ended");
        assert!(due > desk.hands.now, "it is due again and again");
        desk.hands.now = due;
        let step = act!(desk, |cx: &mut _| exchange.expire(cx));
        if due == until || step != Step::Continue {
            return step;
        }
    }
}

fn is_abandoned(desk: &mut Desk, server: Sock) -> bool {
    matches!(desk.hands.owners.of(server), Owner::Upstream(..))
        && desk.hands.driver.closed(server).is_none()
}

#[test]
fn one_that_is_not_answered_is_a_504_and_its_server_is_waited_for() {
    let mut desk = strict();
    let (mut exchange, client) = desk.client(&get("/"));
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    assert_eq!(pass(&mut desk, &mut exchange), Step::Continue);
    assert!(is_abandoned(&mut desk, server));
    let (answer, step) = desk.take(&mut exchange);
    assert!(answer.windows(3).any(|three| three == b"504"), "{answer:?}");
    assert_eq!(step, Step::Continue, "the client is to read it");
    desk.hands.driver.end(client, Lane::Read);
    let step = desk.complete(&mut exchange, End::Client, Lane::Read, Done::Eof);
    assert_eq!(step, Step::End(Ending::RequestTimeout));
    exchange.close(&mut desk.hands);
    assert_eq!(desk.hands.driver.closed(client), Some(Close::Graceful));
}

#[test]
fn an_answer_that_has_begun_breaks_off_and_its_server_is_waited_for() {
    let mut desk = strict();
    let (mut exchange, _client) = desk.client(&get("/"));
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    let beginning = stdout("Status: 200 OK\r\n\r\nthe beginning");
    assert_eq!(desk.say(&mut exchange, server, &beginning), Step::Continue);
    assert_eq!(desk.take(&mut exchange).0, beginning);
    assert_eq!(
        pass(&mut desk, &mut exchange),
        Step::End(Ending::RequestTimeout)
    );
    assert!(is_abandoned(&mut desk, server));
    let told = desk.hands.driver.take_sent(exchange.client());
    assert_eq!(told, BROKEN_OFF);
}

#[test]
fn a_server_that_waits_for_the_body_is_reset() {
    let mut desk = strict();
    let (mut exchange, _client) = desk.client(&[post_head(400), body(b"a part")].concat());
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    assert_eq!(pass(&mut desk, &mut exchange), Step::Continue);
    assert_eq!(desk.hands.driver.closed(server), Some(Close::Reset));
    let (answer, _) = desk.take(&mut exchange);
    assert!(answer.windows(3).any(|three| three == b"504"), "{answer:?}");
    exchange.close(&mut desk.hands);
}

/// The time begins when it has a connection.
#[test]
fn the_wait_for_a_place_is_not_a_part_of_it() {
    let mut desk = strict();
    let (waiting, _client, first, _server) = in_line(&mut desk);
    let timeouts = desk.policy.timeouts;
    let watched = waiting
        .deadline(timeouts)
        .expect("it is watched after a while");
    assert_eq!(watched, desk.hands.now + WATCH_AFTER);
    waiting.close(&mut desk.hands);
    first.close(&mut desk.hands);
}

/// All that is left is a part of the request, which the server does not read.
#[test]
fn one_that_is_answered_has_no_time_left_to_run_out() {
    let mut desk = strict();
    let (mut exchange, _client) = desk.client(&get("/"));
    let server = desk.connect(&mut exchange);
    let out_of_time = desk.hands.now + MAY_TAKE;
    assert!(desk.hands.driver.is_busy(server, Lane::Write));
    assert_eq!(desk.say(&mut exchange, server, &page("x")), Step::Continue);
    desk.hands.now = out_of_time;
    assert_eq!(act!(desk, |cx: &mut _| exchange.expire(cx)), Step::Continue);
    assert_eq!(desk.hands.driver.closed(server), None);
    exchange.close(&mut desk.hands);
}
