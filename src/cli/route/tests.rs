//! Options of a route that go together, and those that do not.

use super::super::testing::{REQUIRED, parse_words, route_with, usage_error};
use super::*;
use crate::config::{ConnectionLimits, Ejection, EndpointMax};

#[test]
fn modes_are_octal_however_they_are_written() {
    for text in ["660", "0660", "0o660", "0o0660"] {
        assert_eq!(
            route_with(&format!("--mode {text}")).access.mode,
            0o660,
            "{text}"
        );
    }
    assert_eq!(route_with("--mode 0777").access.mode, 0o777);
    assert_eq!(route_with("--mode 0").access.mode, 0);
}

#[test]
fn an_owner_goes_with_paths_beside_abstract_names() {
    assert!(
        route_with("--listen unix:@c --owner 0 --group 0")
            .access
            .owner
            .is_some()
    );
}

#[test]
fn ejection_can_be_set_and_turned_off() {
    let config = route_with;
    assert_eq!(route_with("--mode 0").ejection, Ejection::default());
    assert_eq!(route_with("--mode 0").balance, Balance::LeastConnections);
    assert_eq!(config("--balance first").balance, Balance::First);
    assert_eq!(config("--eject-after off").ejection.after, None);
    let ejection = config("--eject-after 3 --eject-time 1m").ejection;
    assert_eq!(ejection.after, NonZeroU32::new(3));
    assert_eq!(ejection.time, Duration::from_secs(60));
}

#[test]
fn refusals_are_waited_out_for_a_short_time_where_nobody_has_to_be_started() {
    for (options, expected) in [
        ("--protocol fastcgi", Some(250)),
        ("--protocol raw", None),
        ("--protocol fastcgi --listen inherit:php", None),
        ("--protocol fastcgi --refused-timeout 0s", Some(0)),
        ("--protocol raw --refused-timeout 1s", Some(1000)),
        (
            "--protocol fastcgi --listen inherit --refused-timeout 2s",
            Some(2000),
        ),
    ] {
        let expected = expected.map(Duration::from_millis);
        assert_eq!(route_with(options).refused_timeout, expected, "{options}");
    }
}

#[test]
fn name_servers_have_a_bound() {
    let option = " --nameserver 192.0.2.53";
    assert!(parse_words(&format!("{REQUIRED}{}", option.repeat(8))).is_ok());
    let error = usage_error(&format!("{REQUIRED}{}", option.repeat(9)));
    assert!(
        error.starts_with("--nameserver: given 9 times (use at most 8)"),
        "{error}"
    );
}

#[test]
fn duplicate_listeners_are_refused() {
    for again in ["unix:/a", "unix://a", "unix:/./a"] {
        let error = usage_error(&format!("{REQUIRED} --listen {again}"));
        let expected = format!("--listen {again}: given twice (remove one); see");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn abstract_listeners_take_no_permissions() {
    for (words, option) in [
        ("run --listen unix:@a --backend b:1 --mode 0660", "--mode"),
        (
            "run --listen unix:@a --listen unix:/a --backend b:1 --mode 0660",
            "--mode",
        ),
        ("run --listen unix:@a --backend b:1 --owner root", "--owner"),
        ("run --listen unix:@a --backend b:1 --group 0", "--group"),
    ] {
        let expected = format!("{option} with --listen unix:@a: abstract sockets have no");
        let error = usage_error(words);
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn what_upstreams_cannot_be_is_refused() {
    for (options, problem) in [
        ("--tcp-keepalive 999ms", "not a time that the kernel takes"),
        ("--tcp-keepalive 10h", "not a time that the kernel takes"),
        ("--tcp-user-timeout 0s", "not a time that the kernel takes"),
        (
            "--tcp-user-timeout 25days",
            "not a time that the kernel takes",
        ),
        ("--source-address host", "not an address"),
        ("--source-address 0.0.0.0", "not an address of one machine"),
        (
            "--source-address 192.0.2.1 --source-address 192.0.2.2",
            "the second one of its family",
        ),
        (
            "--source-address 192.0.2.1 --backend [::1]:80",
            "--backend tcp:[::1]:80 with --source-address 192.0.2.1: of another family",
        ),
        ("--proxy-protocol v3", "unknown (write off, v1, v2)"),
        ("--check http", "unknown (write off, tcp, fastcgi)"),
        ("--check-interval 99ms", "too short"),
        ("--removed-endpoint close", "unknown (write keep"),
        ("--removed-endpoint keep 5s", "unknown (write keep"),
        ("--removed-endpoint close-after", "the time is missing"),
        (
            "--removed-endpoint close-after soon",
            "write a number and its unit",
        ),
    ] {
        let error = usage_error(&format!("{REQUIRED} {options}"));
        assert!(error.contains(problem), "{options}: {error}");
    }
}

#[test]
fn limits_are_off_until_they_are_given() {
    let limits = route_with("--mode 0").limits;
    assert_eq!(limits, ConnectionLimits::default());
    let limits =
        route_with("--per-endpoint-max 8 --queue-max 0 --queue-timeout off --shards 8").limits;
    assert_eq!(
        limits.per_endpoint_max,
        NonZeroU32::new(8).map(EndpointMax::Fixed)
    );
    assert_eq!((limits.queue_max, limits.queue_timeout), (0, None));
    assert_eq!(limits.shards.get(), 8);
}

#[test]
fn permits_that_are_found_out_have_bounds() {
    for (value, written) in [
        ("auto", "auto:1-64"),
        ("auto:2-64", "auto:2-64"),
        ("auto:8-8", "auto:8-8"),
        ("12", "12"),
    ] {
        let options = format!("--protocol fastcgi --per-endpoint-max {value}");
        let max = route_with(&options).limits.per_endpoint_max.unwrap();
        assert_eq!(max.to_string(), written);
    }
    let bounds = "not bounds (write 'auto', or the least and the most as in 'auto:2-64'";
    for (options, problem) in [
        ("--per-endpoint-max auto:8", bounds),
        ("--per-endpoint-max auto:0-8", bounds),
        ("--per-endpoint-max auto:8-2", bounds),
        ("--per-endpoint-max auto:2-1000001", bounds),
        ("--per-endpoint-max automatic", bounds),
        (
            "--per-endpoint-max auto",
            "--per-endpoint-max auto:1-64 with --protocol raw: nobody can be asked",
        ),
        (
            "--protocol fastcgi --per-endpoint-max auto --upstream-reuse never",
            "--per-endpoint-max auto:1-64 without connections that are kept",
        ),
        (
            "--protocol fastcgi --per-endpoint-max auto --requests-per-upstream 1",
            "--per-endpoint-max auto:1-64 without connections that are kept",
        ),
        (
            "--protocol fastcgi --per-endpoint-max auto:2-64 --shards 3",
            "--shards 3 with --per-endpoint-max auto:2-64: each shard needs",
        ),
    ] {
        let error = usage_error(&format!("{REQUIRED} {options}"));
        assert!(error.contains(problem), "{options}: {error}");
    }
}

#[test]
fn requests_are_served_in_an_order_that_adapts_and_bytes_in_that_of_arrival() {
    let order = |options| route_with(options).limits.queue_order;
    assert_eq!(order("--mode 0"), QueueOrder::Fifo);
    assert_eq!(order("--queue-order fifo"), QueueOrder::Fifo);
    for (options, wanted) in [
        ("--protocol fastcgi", QueueOrder::Adaptive),
        ("--protocol fastcgi --queue-order fifo", QueueOrder::Fifo),
        (
            "--protocol fastcgi --queue-order adaptive",
            QueueOrder::Adaptive,
        ),
    ] {
        assert_eq!(order(options), wanted, "{options}");
    }
    for (options, problem) in [
        (
            "--queue-order adaptive",
            "--queue-order adaptive without --protocol fastcgi: a client whose protocol is not known",
        ),
        (
            "--protocol fastcgi --queue-order lifo",
            "unknown (write fifo, adaptive)",
        ),
    ] {
        let error = usage_error(&format!("{REQUIRED} {options}"));
        assert!(error.contains(problem), "{options}: {error}");
    }
}

#[test]
fn every_shard_needs_a_permit() {
    for (options, problem) in [
        ("--shards 2", "--shards 2 without --per-endpoint-max: all"),
        (
            "--shards 2 --per-endpoint-max off",
            "--shards 2 without --per-endpoint-max: all",
        ),
        (
            "--per-endpoint-max 8 --shards 9",
            "--shards 9 with --per-endpoint-max 8: each shard needs",
        ),
        (
            "--per-endpoint-max 0",
            "not a whole number from 1 to 1000000",
        ),
        ("--queue-max -1", "not a whole number from 0 to 1000000"),
        ("--queue-timeout 0s", "no time at all"),
        ("--shards 0", "not a whole number from 1 to 1024"),
    ] {
        let error = usage_error(&format!("{REQUIRED} {options}"));
        assert!(error.contains(problem), "{options}: {error}");
    }
}
