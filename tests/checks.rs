//! Active checks: endpoints that fail them are left out, and used again once they pass.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use common::backend::Refusing;
use common::client::{exchange_and_end, receive_exact};
use common::proxy::Builder;
use common::{Backend, Engine, KB, Pattern, Proxy, eventually, for_each_engine};

for_each_engine!(
    an_endpoint_that_refuses_is_left_out_until_it_is_back,
    the_last_endpoint_is_used_although_it_fails,
    what_does_not_speak_fastcgi_fails_and_what_does_not_answer_is_busy,
    unix_endpoints_are_checked,
    a_check_introduces_itself,
);

fn checking(engine: Engine, kind: &str) -> Builder {
    Proxy::builder()
        .engine(engine)
        .args(["--check", kind, "--check-interval", "100ms"])
        .args(["--log-level", "info,spliceway::checks=debug"])
}

fn an_endpoint_that_refuses_is_left_out_until_it_is_back(engine: Engine) {
    let mut fleet = Backend::fleet(2);
    let lost = fleet[1].address();
    let proxy = checking(engine, "tcp")
        .backend(&fleet[0])
        .backend(lost)
        .start();
    drop(fleet.remove(1));
    let log = proxy.process();
    log.wait_for_log(&format!("endpoint {lost} is left out until it passes"));
    for round in 0..10 {
        exchange_and_end(&proxy.connect(), Pattern::new(round), KB);
    }
    let mut back = None;
    eventually("the port is free again", || {
        back = Backend::echo_at(lost.ip(), lost.port()).ok();
        back.is_some()
    });
    let back = back.unwrap();
    log.wait_for_log(&format!("endpoint {lost} passes its checks again"));
    eventually("it has sessions again", || {
        exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
        back.ledger().received >= KB
    });
}

fn the_last_endpoint_is_used_although_it_fails(engine: Engine) {
    let refusing = Refusing::new();
    let proxy = checking(engine, "tcp").backend(&refusing).start();
    let log = proxy.process();
    log.wait_for_log("is used all the same");
    let failed = log.log().count("check endpoint");
    eventually("it is checked on", || {
        log.log().count("check endpoint") > failed + 3
    });
    assert_eq!(log.log().count("is left out"), 0);
}

fn what_does_not_speak_fastcgi_fails_and_what_does_not_answer_is_busy(engine: Engine) {
    // An echo of the question is no answer.
    let (echo, silent) = (Backend::echo(), Backend::hold());
    let proxy = checking(engine, "fastcgi")
        .backend(&echo)
        .backend(&silent)
        .start();
    let log = proxy.process();
    log.wait_for_log(&format!("endpoint {echo} is left out until it passes"));
    let busy = format!("check endpoint {silent}: busy");
    eventually("the other one is busy", || log.log().count(&busy) > 5);
    assert_eq!(
        log.log().count(&format!("endpoint {silent} is left out")),
        0
    );
}

fn unix_endpoints_are_checked(engine: Engine) {
    let backend = Backend::echo();
    let second = Proxy::start(engine, &backend);
    let address = format!("unix:{}", second.socket().display());
    let proxy = checking(engine, "tcp")
        .backend(&address)
        .backend(&backend)
        .start();
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    drop(second);
    proxy
        .process()
        .wait_for_log(&format!("endpoint {address} is left out until it passes"));
    exchange_and_end(&proxy.connect(), Pattern::new(2), KB);
}

fn a_check_introduces_itself(engine: Engine) {
    let backend = Backend::sink();
    let proxy = checking(engine, "tcp")
        .args(["--proxy-protocol", "v2"])
        .backend(&backend)
        .start();
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    assert_eq!(backend.wait_for_end(0).received, local);
    drop(proxy);
    let banner = Backend::banner(b"hello");
    let proxy = checking(engine, "tcp").backend(&banner).start();
    assert_eq!(receive_exact(&proxy.connect(), 5), b"hello");
}
