//! Backends by name. The resolver's own rules have their tests beside it; here a name is a name.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{IpAddr, Ipv6Addr};

use common::client::{assert_over, exchange_and_end};
use common::{Backend, Engine, KB, Pattern, Proxy, for_each_engine};

for_each_engine!(
    a_name_from_the_hosts_file_is_served,
    a_trailing_dot_is_fine,
    an_ipv6_literal_is_served_where_the_machine_has_ipv6,
    a_name_that_does_not_resolve_does_not_stop_the_start,
    a_name_that_does_not_resolve_does_not_stop_its_neighbour,
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
        Err(_) => assert_over(&Proxy::start(engine, "[::1]:9").connect()),
    }
}

fn a_name_that_does_not_resolve_does_not_stop_the_start(engine: Engine) {
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
