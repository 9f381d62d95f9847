//! What the slow log is told of requests, and when.

use std::sync::mpsc::Receiver;

use super::*;
use crate::access_log::{Entry, Occasion, Queue, SlowLog};

const AFTER: Duration = Duration::from_secs(5);

/// A desk with a slow log, and what comes there.
fn logged() -> (Desk, Receiver<Box<Entry>>) {
    let mut desk = Desk::new();
    let (queue, lines) = Queue::alone();
    let after = AFTER;
    desk.logs.slow = Some(SlowLog { queue, after });
    (desk, lines)
}

/// Lets the time pass, with everything that is due on the way.
fn pass(desk: &mut Desk, exchange: &mut Exchange<Scripted>, until: Instant) {
    while let Some(due) = exchange.deadline(TIMEOUTS).filter(|due| *due <= until) {
        assert!(due > desk.hands.now, "it is due again and again");
        desk.hands.now = due;
        assert_eq!(act!(desk, |cx: &mut _| exchange.expire(cx)), Step::Continue);
    }
    desk.hands.now = until;
}

fn told(lines: &Receiver<Box<Entry>>) -> Vec<Entry> {
    lines.try_iter().map(|entry| *entry).collect()
}

fn slow(state: &'static str) -> Occasion {
    let stalled = None;
    Occasion::Slow { state, stalled }
}

#[test]
fn a_request_that_takes_long_is_told_of_when_that_shows_and_at_its_end() {
    let (mut desk, lines) = logged();
    let (mut exchange, _client) = desk.client(&get("/report"));
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    let began = desk.hands.now;
    pass(
        &mut desk,
        &mut exchange,
        began + AFTER - Duration::from_nanos(1),
    );
    assert!(told(&lines).is_empty(), "it is not slow yet");
    pass(&mut desk, &mut exchange, began + AFTER * 2);
    let [line] = &told(&lines)[..] else {
        panic!("once")
    };
    assert_eq!(line.occasion, slow("sent"));
    assert_eq!((line.at, line.total), (began + AFTER, AFTER));
    assert_eq!(line.words.texts()[1], "/report");
    assert!(line.upstream.is_some() && line.status.is_none() && line.first_byte.is_none());
    assert_eq!(desk.counters.fastcgi.slow.get(), 1);
    assert_eq!(desk.say(&mut exchange, server, &page("x")), Step::Continue);
    assert_eq!(desk.take(&mut exchange).1, Step::End(Ending::Complete));
    let [line] = &told(&lines)[..] else {
        panic!("once")
    };
    assert_eq!(line.occasion, Occasion::SlowEnd);
    assert_eq!((line.status, line.total), (Some(200), AFTER * 2));
    assert_eq!(desk.counters.fastcgi.slow.get(), 1);
}

#[test]
fn a_request_that_is_over_in_time_is_not_told_of() {
    let (mut desk, lines) = logged();
    let (mut exchange, _client) = desk.client(&get_and_stay("/quick"));
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    desk.hands.now += AFTER / 2;
    assert_eq!(desk.say(&mut exchange, server, &page("x")), Step::Continue);
    assert_eq!(desk.take(&mut exchange).1, Step::Continue);
    // The time between two requests is nobody's.
    let until = desk.hands.now + AFTER;
    pass(&mut desk, &mut exchange, until);
    assert!(told(&lines).is_empty());
    assert_eq!(desk.counters.fastcgi.slow.get(), 0);
}

#[test]
fn a_request_whose_end_comes_before_it_was_looked_at_has_the_line_of_its_end() {
    let (mut desk, lines) = logged();
    let (mut exchange, _client) = desk.client(&get("/late"));
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    desk.hands.now += AFTER;
    assert_eq!(desk.say(&mut exchange, server, &page("x")), Step::Continue);
    assert_eq!(desk.take(&mut exchange).1, Step::End(Ending::Complete));
    let occasions: Vec<_> = told(&lines).iter().map(|line| line.occasion).collect();
    assert_eq!(occasions, [Occasion::SlowEnd]);
    assert_eq!(desk.counters.fastcgi.slow.get(), 1);
}

#[test]
fn a_request_that_waits_is_told_of_with_its_wait() {
    let (mut desk, lines) = logged();
    let (mut waiting, _client, first, _server) = in_line(&mut desk);
    let began = desk.hands.now;
    pass(&mut desk, &mut waiting, began + AFTER);
    let [line] = &told(&lines)[..] else {
        panic!("once")
    };
    assert_eq!(line.occasion, slow("queued"));
    assert_eq!((line.queue, line.total), (AFTER, AFTER));
    assert!(waiting.wish().is_some(), "it still waits");
    waiting.close(&mut desk.hands);
    first.close(&mut desk.hands);
}

#[test]
fn who_does_not_take_the_answer_is_named() {
    let (mut desk, lines) = logged();
    let (mut exchange, _client) = desk.client(&get("/"));
    let server = desk.connect(&mut exchange);
    desk.hear(&mut exchange, server);
    let part = stdout("Status: 200 OK\r\n\r\npart");
    assert_eq!(desk.say(&mut exchange, server, &part), Step::Continue);
    let until = desk.hands.now + AFTER;
    pass(&mut desk, &mut exchange, until);
    let [line] = &told(&lines)[..] else {
        panic!("once")
    };
    let stalled = Some("download by client");
    let state = "answering";
    assert_eq!(line.occasion, Occasion::Slow { state, stalled });
    assert_eq!(line.status, Some(200));
}

/// The log was there when the request began, and then it was not, or the other way round.
#[test]
fn a_log_that_comes_or_goes_meanwhile_is_told_nothing() {
    for comes in [true, false] {
        let (mut desk, lines) = logged();
        let log = desk.logs.slow.take();
        let (before, after) = if comes { (None, log) } else { (log, None) };
        desk.logs.slow = before;
        let (mut exchange, _client) = desk.client(&get("/"));
        let server = desk.connect(&mut exchange);
        desk.hear(&mut exchange, server);
        desk.logs.slow = after;
        let until = desk.hands.now + AFTER * 2;
        pass(&mut desk, &mut exchange, until);
        assert_eq!(desk.say(&mut exchange, server, &page("x")), Step::Continue);
        assert_eq!(desk.take(&mut exchange).1, Step::End(Ending::Complete));
        assert!(told(&lines).is_empty(), "comes: {comes}");
    }
}

#[test]
fn of_many_slow_requests_so_many_lines_are_written_in_a_second_and_the_rest_are_counted() {
    let (mut desk, lines) = logged();
    let mut exchanges = Vec::new();
    for _ in 0..130 {
        let (mut exchange, _client) = desk.client(&get("/"));
        let server = desk.connect(&mut exchange);
        desk.hear(&mut exchange, server);
        exchanges.push(exchange);
    }
    let due = desk.hands.now + AFTER;
    for exchange in &mut exchanges {
        // All of them at one time.
        desk.hands.now = due;
        assert_eq!(act!(desk, |cx: &mut _| exchange.expire(cx)), Step::Continue);
    }
    assert_eq!(told(&lines).len(), 100);
    let counters = &desk.counters.fastcgi;
    assert_eq!(
        (counters.slow.get(), counters.slow_lines_left_out.get()),
        (130, 30)
    );
    for exchange in exchanges {
        exchange.close(&mut desk.hands);
    }
}
