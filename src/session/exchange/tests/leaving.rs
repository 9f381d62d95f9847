//! Clients that go to another process, with and without what was read of them.

use super::*;

/// A client that has its answer, and stays.
fn answered_and_stays(desk: &mut Desk) -> (Exchange<Scripted>, Sock, Step) {
    let server = desk.prove();
    let (mut exchange, client) = desk.on_resting(server, &get_and_stay("/1"));
    desk.hear(&mut exchange, server);
    assert_eq!(desk.say(&mut exchange, server, &page("1")), Step::Continue);
    let (_, step) = desk.take(&mut exchange);
    (exchange, client, step)
}

fn let_go(desk: &mut Desk, exchange: &mut Exchange<Scripted>) -> Step {
    desk.lets_go = LetsGo::AtRest;
    act!(desk, |cx: &mut _| exchange.let_go(cx))
}

fn drain(desk: &mut Desk, exchange: &mut Exchange<Scripted>) -> Step {
    act!(desk, |cx: &mut _| exchange.drain(true, cx))
}

/// What was taken back has come to nothing.
fn is_taken_back(desk: &mut Desk, exchange: &mut Exchange<Scripted>) -> Step {
    let done = desk
        .hands
        .driver
        .end_cancelled(exchange.client(), Lane::Read);
    desk.complete(exchange, End::Client, Lane::Read, done)
}

#[test]
fn a_client_that_has_sent_nothing_leaves_when_its_receive_was_taken_back() {
    let mut desk = Desk::new();
    let client = desk.hands.driver.client();
    let (mut exchange, step) = act!(desk, |cx: &mut _| Exchange::start(client, &[], cx));
    assert_eq!(step, Step::Continue);
    assert_eq!(let_go(&mut desk, &mut exchange), Step::Continue);
    assert!(desk.hands.driver.is_cancelled(client, Lane::Read));
    // The drain right behind it is not quicker.
    assert_eq!(drain(&mut desk, &mut exchange), Step::Continue);
    assert_eq!(
        is_taken_back(&mut desk, &mut exchange),
        Step::End(Ending::HandedOver)
    );
    assert_eq!(exchange.leave(), (client, Vec::new()));
    assert_eq!(desk.hands.driver.closed(client), None);
    assert!(!desk.hands.driver.has_ended(client));
}

#[test]
fn a_client_between_two_requests_leaves() {
    let mut desk = Desk::new();
    let (mut exchange, client, step) = answered_and_stays(&mut desk);
    assert_eq!(step, Step::Continue);
    assert_eq!(let_go(&mut desk, &mut exchange), Step::Continue);
    assert_eq!(
        is_taken_back(&mut desk, &mut exchange),
        Step::End(Ending::HandedOver)
    );
    assert_eq!(exchange.leave(), (client, Vec::new()));
}

#[test]
fn a_client_whose_next_request_came_before_the_receive_was_taken_back_is_served_and_leaves_then() {
    let mut desk = Desk::new();
    let (mut exchange, client, _) = answered_and_stays(&mut desk);
    assert_eq!(let_go(&mut desk, &mut exchange), Step::Continue);
    // It is taken whole, though the receive was to end.
    assert_eq!(
        desk.send(&mut exchange, &get_and_stay("/2")),
        Step::Continue
    );
    assert_eq!(drain(&mut desk, &mut exchange), Step::Continue);
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    assert_eq!(desk.say(&mut exchange, server, &page("2")), Step::Continue);
    let (answer, step) = desk.take(&mut exchange);
    assert_eq!(answer, page("2"));
    let step = match step {
        Step::Continue => is_taken_back(&mut desk, &mut exchange),
        step => step,
    };
    assert_eq!(step, Step::End(Ending::HandedOver));
    assert_eq!(exchange.leave(), (client, Vec::new()));
}

#[test]
fn a_client_of_which_a_part_of_a_request_was_read_stays_for_the_whole_of_it() {
    let mut desk = Desk::new();
    let request = get_and_stay("/1");
    for cut in [1, HEADER_LEN, request.len() - 1] {
        let (mut exchange, client) = desk.client(&request[..cut]);
        assert_eq!(let_go(&mut desk, &mut exchange), Step::Continue);
        assert!(!desk.hands.driver.is_cancelled(client, Lane::Read), "{cut}");
        assert_eq!(drain(&mut desk, &mut exchange), Step::Continue);
        desk.lets_go = LetsGo::None;
    }
}

#[test]
fn a_client_that_ends_while_its_receive_is_taken_back_is_done_with() {
    let mut desk = Desk::new();
    let (mut exchange, client, _) = answered_and_stays(&mut desk);
    assert_eq!(let_go(&mut desk, &mut exchange), Step::Continue);
    desk.hands.driver.end(client, Lane::Read);
    assert_eq!(
        desk.complete(&mut exchange, End::Client, Lane::Read, Done::Eof),
        Step::End(Ending::Complete)
    );
}

#[test]
fn a_client_with_two_requests_at_hand_has_both_answered_before_it_leaves() {
    let mut desk = Desk::new();
    let server = desk.prove();
    let two = [get_and_stay("/1"), get_and_stay("/2")].concat();
    let (mut exchange, client) = desk.on_resting(server, &two);
    assert_eq!(let_go(&mut desk, &mut exchange), Step::Continue);
    desk.hear(&mut exchange, server);
    assert_eq!(desk.say(&mut exchange, server, &page("1")), Step::Continue);
    // The second one is begun with the end of the first.
    let (_, step) = desk.take(&mut exchange);
    assert_eq!(step, Step::Continue);
    assert!(!matches!(exchange.stage, Stage::Head));
    assert_eq!(exchange.client.requests, 2);
    assert_eq!(desk.hands.driver.closed(client), None);
}

// --- with bytes ---------------------------------------------------------------------------------

fn let_go_with_bytes(desk: &mut Desk, exchange: &mut Exchange<Scripted>) -> Step {
    desk.lets_go = LetsGo::WithBytes;
    act!(desk, |cx: &mut _| exchange.let_go(cx))
}

/// Another process goes on with a client that has left with these bytes.
fn start_with(desk: &mut Desk, read: &[u8]) -> (Exchange<Scripted>, Step) {
    desk.lets_go = LetsGo::None;
    let client = desk.hands.driver.client();
    act!(desk, |cx: &mut _| Exchange::start(client, read, cx))
}

fn wants_no_place(desk: &Desk, exchange: &Exchange<Scripted>) -> bool {
    exchange.wants_no_place(desk.lets_go)
}

#[test]
fn a_part_of_a_request_goes_with_its_client_and_the_rest_of_it_is_answered_there() {
    let request = get_and_stay("/1");
    for cut in 1..get_head("/1").len() {
        let mut desk = Desk::new();
        let (mut exchange, client) = desk.client(&request[..cut]);
        assert_eq!(let_go_with_bytes(&mut desk, &mut exchange), Step::Continue);
        let step = is_taken_back(&mut desk, &mut exchange);
        assert_eq!(step, Step::End(Ending::HandedOver), "{cut}");
        let (sock, read) = exchange.leave();
        assert_eq!(sock, client);
        let (mut exchange, step) = start_with(&mut desk, &read);
        assert_eq!(step, Step::Continue);
        assert!(exchange.client.head_by.is_some(), "it has its time anew");
        assert_eq!(desk.send(&mut exchange, &request[cut..]), Step::Continue);
        let server = desk.connect(&mut exchange);
        assert_eq!(desk.hear(&mut exchange, server), request, "{cut}");
        assert_eq!(desk.say(&mut exchange, server, &page("1")), Step::Continue);
        assert_eq!(desk.take(&mut exchange).0, page("1"), "{cut}");
    }
}

#[test]
fn a_whole_request_that_comes_as_its_client_leaves_goes_with_it() {
    let mut desk = Desk::new();
    let (mut exchange, client, _) = answered_and_stays(&mut desk);
    assert_eq!(let_go_with_bytes(&mut desk, &mut exchange), Step::Continue);
    assert!(desk.hands.driver.is_cancelled(client, Lane::Read));
    let next = get_and_stay("/2");
    let step = desk.send(&mut exchange, &next);
    assert_eq!(step, Step::End(Ending::HandedOver));
    assert_eq!(exchange.leave(), (client, next));
}

#[test]
fn a_second_request_leaves_behind_the_answer_to_the_first_and_no_place_is_wanted_from_then_on() {
    let mut desk = Desk::new();
    let server = desk.prove();
    let next = get_and_stay("/2");
    let (mut exchange, client) =
        desk.on_resting(server, &[get_and_stay("/1"), next.clone()].concat());
    assert_eq!(let_go_with_bytes(&mut desk, &mut exchange), Step::Continue);
    desk.hear(&mut exchange, server);
    assert!(!wants_no_place(&desk, &exchange), "its server may be lost");
    assert_eq!(desk.say(&mut exchange, server, &page("1")), Step::Continue);
    assert!(matches!(exchange.stage, Stage::Deliver { .. }));
    assert!(wants_no_place(&desk, &exchange));
    // A process that does not take what was read leaves the next request here.
    assert!(!exchange.wants_no_place(LetsGo::AtRest));
    let (answer, step) = desk.take(&mut exchange);
    assert_eq!((answer, step), (page("1"), Step::End(Ending::HandedOver)));
    assert_eq!(exchange.leave(), (client, next));
}

#[test]
fn a_question_that_has_its_answer_is_not_asked_again() {
    let mut desk = Desk::new();
    let mut question = Vec::new();
    let mut asked = Vec::new();
    push_pair(&mut asked, b"FCGI_MAX_CONNS", b"");
    push_record(
        &mut question,
        Kind::GetValues,
        RequestId::MANAGEMENT,
        &asked,
    );
    let part = &get_and_stay("/1")[..20];
    let (mut exchange, client) = desk.client(&[&question, part].concat());
    assert!(!desk.hands.driver.take_sent(client).is_empty());
    assert_eq!(let_go_with_bytes(&mut desk, &mut exchange), Step::Continue);
    let step = is_taken_back(&mut desk, &mut exchange);
    assert_eq!(step, Step::End(Ending::HandedOver));
    let (_, read) = exchange.leave();
    assert_eq!(read.len(), part.len());
    let (exchange, step) = start_with(&mut desk, &read);
    assert_eq!(step, Step::Continue);
    assert_eq!(desk.hands.driver.take_sent(exchange.client()), b"");
}

#[test]
fn more_than_a_buffer_may_come_with_a_client() {
    let mut desk = Desk::new();
    let server = desk.prove();
    let long = "v".repeat(60_000);
    let request = [head(&[("LONG", &long), ("CONTENT_LENGTH", "")]), body_end()].concat();
    let (first, rest) = request.split_at(50_000);
    let (mut exchange, step) = start_with(&mut desk, first);
    assert_eq!(step, Step::Continue);
    assert_eq!(desk.send(&mut exchange, rest), Step::Continue);
    // The connection to the server is kept, whatever the client wants of its own.
    let mut asked = request.clone();
    asked[HEADER_LEN + 2] = 1;
    assert!(desk.hear(&mut exchange, server) == asked);
    // All of it, and the next one.
    let (exchange, step) = start_with(&mut desk, &[request.clone(), request].concat());
    assert_eq!(step, Step::Continue);
    assert_eq!(exchange.client.requests, 1);
}
