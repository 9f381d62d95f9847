//! Files that are right; `tests/config_file.rs` has those that are wrong.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cli::options::{Kind, kind};
use crate::cli::testing::run;
use crate::cli::{CheckCommand, Cli, Command, RunCommand, Stop, parse_with};
use crate::config::EndpointMax;
use crate::config::{Backend, Balance, Engine, LogFormat, Route as Configured};

/// A value of its own for each key, in TOML; none is the default.
#[rustfmt::skip]
const EVERY_KEY: &[(&str, &str)] = &[
    ("access-log", r#""/var/log/a.log""#),
    ("access-log-format", r#""json""#),
    ("allow-group", r#"["www-data", "34"]"#),
    ("allow-body-file", "true"),
    ("allow-param", r#"["A=1", "B=2"]"#),
    ("allow-php-setting", r#"["memory_limit", "open_basedir"]"#),
    ("allow-user", r#"["nginx", "33"]"#),
    ("backend", r#"["10.0.0.1:9000", "php.internal:9000"]"#),
    ("balance", r#""first""#),
    ("busy-poll", r#""50us""#),
    ("check", r#""fastcgi""#),
    ("check-interval", r#""1s""#),
    ("connect-timeout", r#""2s""#),
    ("connections-max", "100"),
    ("connections-max-per-user", "10"),
    ("control", r#""/run/c.sock""#),
    ("deny-param", r#"["C", "D"]"#),
    ("dns-keep-missing", r#""5m""#),
    ("dns-max-ttl", r#""1h""#),
    ("dns-min-ttl", r#""2s""#),
    ("dns-negative-hold", r#""0s""#),
    ("dns-race", "true"),
    ("drain-timeout", r#""off""#),
    ("duplicates", r#""reject""#),
    ("eject-after", r#""off""#),
    ("eject-time", r#""1m""#),
    ("engine", r#""epoll""#),
    ("exit-idle-time", r#""5m""#),
    ("fpm-pages", r#"["/fpm"]"#),
    ("fpm-status", r#"[":9001", "unix:/run/s.sock:/fpm"]"#),
    ("group", r#""33""#),
    ("guard", r#""on""#),
    ("half-closed-timeout", r#""5m""#),
    ("head-timeout", r#""30s""#),
    ("idle-timeout", r#""10m""#),
    ("idle-upstream", r#""2s""#),
    ("listen", r#"["unix:/run/a.sock", "unix:/run/b \"c\".sock"]"#),
    ("log-format", r#""json""#),
    ("log-level", r#""debug""#),
    ("max-params", "100"),
    ("min-rate", "1000"),
    ("min-rate-lag", r#""30s""#),
    ("metrics", r#""127.0.0.1:9145""#),
    ("mode", r#""0600""#),
    ("nameserver", r#"["192.0.2.53", "[::1]:5353"]"#),
    ("on-failure", r#""respond""#),
    ("owner", r#""nginx""#),
    ("params-max", r#""16KiB""#),
    ("per-endpoint-max", "8"),
    ("pin", "true"),
    ("protocol", r#""fastcgi""#),
    // The others are not for FastCGI.
    ("proxy-protocol", r#""off""#),
    ("queue-max", "0"),
    ("queue-order", r#""adaptive""#),
    ("queue-time-param", r#""QUEUE_US""#),
    ("queue-timeout", r#""500ms""#),
    ("refused-timeout", r#""100ms""#),
    ("removed-endpoint", r#""close-after 30s""#),
    ("request-start-param", r#""HTTP_X_REQUEST_START""#),
    ("request-timeout", r#""45s""#),
    ("requests-per-upstream", "50"),
    ("resolve-script-root", "true"),
    // The other one takes no name servers.
    ("resolve-with", r#""dns""#),
    ("roles", r#"["responder", "filter"]"#),
    ("route-connections-max", "80"),
    ("script-root", r#"["/srv", "/opt"]"#),
    ("script-suffix", r#"".php""#),
    ("settle-timeout", r#""20ms""#),
    ("shards", "2"),
    ("slow-after", r#""3s""#),
    ("slow-log", r#""/var/log/s.log""#),
    ("slow-log-format", r#""json""#),
    ("source-address", r#"["192.0.2.10", "2001:db8::1"]"#),
    ("status-details", "true"),
    ("strip-param", r#"["E", "F"]"#),
    ("tcp-keepalive", r#""60s""#),
    ("tcp-user-timeout", r#""30s""#),
    ("upstream-reuse", r#""never""#),
    ("user-connections-max", "90"),
    ("user", r#""nobody:nogroup""#),
    ("when-down", r#""close""#),
    ("workers", "3"),
];

fn parse(words: &str, file: &str) -> Result<Cli, Stop> {
    let words = std::iter::once("spliceway").chain(words.split(' '));
    parse_with(words.map(OsString::from), |_| Ok(file.as_bytes().to_vec()))
}

fn run_file(file: &str) -> RunCommand {
    run_file_with("", file)
}

fn run_file_with(options: &str, file: &str) -> RunCommand {
    match parse(format!("run --config f {options}").trim_end(), file) {
        Ok(Cli {
            command: Command::Run(run),
        }) => *run,
        other => panic!("{file}: {other:?}"),
    }
}

fn check_file(file: &str) -> CheckCommand {
    match parse("check --config f", file) {
        Ok(Cli {
            command: Command::Check(check),
        }) => *check,
        other => panic!("{file}: {other:?}"),
    }
}

fn route(keys: &str) -> Configured {
    let file = format!("[route.r]\nlisten = \"unix:/a\"\nbackend = \"b:1\"\n{keys}");
    run_file(&file).config.routes.remove(0)
}

/// The table above as a file with one route.
fn file_with_every_key() -> String {
    let daemon = Options::of_daemon();
    let (ours, of_route): (Vec<_>, Vec<_>) = EVERY_KEY
        .iter()
        .partition(|(key, _)| daemon.find(key).is_some());
    let lines = |keys: Vec<&(&str, &str)>| -> String {
        let line = |(key, value): &(&str, &str)| format!("{key} = {value}\n");
        keys.into_iter().map(line).collect()
    };
    format!("{}[route.default]\n{}", lines(ours), lines(of_route))
}

#[test]
fn every_option_has_its_key() {
    let options: BTreeSet<_> = [Options::of_daemon(), Options::of_route()]
        .iter()
        .flat_map(|options| options.keys().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let keys: BTreeSet<_> = EVERY_KEY.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(options, keys);
    let effective = check_file(&file_with_every_key()).run.effective.text();
    for (key, value) in EVERY_KEY {
        let line = format!("{key} = {value}\n");
        assert!(effective.contains(&line), "{line} is not in\n{effective}");
    }
}

#[test]
fn the_readme_and_the_help_name_the_keys_of_the_top_level() {
    let readme = include_str!("../../../README.md");
    let row = readme
        .lines()
        .find(|line| line.starts_with("| top level |"))
        .unwrap();
    let named: BTreeSet<_> = row.split('`').skip(1).step_by(2).collect();
    let daemon = Options::of_daemon();
    assert_eq!(named, daemon.keys().collect());
    let Err(Stop::Answer(help)) = parse("run --help", "") else {
        panic!()
    };
    for key in daemon.keys() {
        let mentions = help.matches(&format!("--{key}")).count();
        assert!(mentions >= 2, "--config does not mention {key}");
    }
    for key in Options::of_route().keys().chain(daemon.keys()) {
        let row = format!("\n| `--{key}");
        assert!(readme.contains(&row), "the README does not list --{key}");
    }
}

#[test]
fn a_file_means_what_the_options_mean() {
    let from_file = run_file(&file_with_every_key());
    let from_options = run(
        "run --access-log /var/log/a.log --access-log-format json --allow-param A=1 --allow-param B=2 --allow-body-file --fpm-pages /fpm --fpm-status :9001 --fpm-status unix:/run/s.sock:/fpm \
         --deny-param C --deny-param D --guard on --allow-php-setting memory_limit,open_basedir --duplicates reject --resolve-script-root --head-timeout 30s --min-rate 1000 --min-rate-lag 30s --idle-upstream 2s --max-params 100 --on-failure \
         respond --params-max 16KiB --requests-per-upstream 50 --roles responder,filter --script-root \
         /srv --script-root /opt --script-suffix .php --settle-timeout 20ms --strip-param E --strip-param F --queue-time-param QUEUE_US \
         --request-start-param HTTP_X_REQUEST_START \
         --upstream-reuse never --backend 10.0.0.1:9000 --backend php.internal:9000 --balance first --busy-poll 50us --check fastcgi \
         --check-interval 1s --connect-timeout 2s --connections-max 100 --allow-group www-data --allow-group 34 \
         --allow-user nginx --allow-user 33 --connections-max-per-user 10 --route-connections-max 80 --user-connections-max 90 --control /run/c.sock \
         --dns-keep-missing 5m --dns-max-ttl 1h --dns-min-ttl 2s --dns-negative-hold 0s --dns-race \
         --drain-timeout off --eject-after off --eject-time 1m --engine epoll --exit-idle-time 5m --group 33 \
         --idle-timeout 10m --half-closed-timeout 5m --listen unix:/run/a.sock --listen unix:/run/b_\"c\".sock --log-format \
         json --log-level debug --metrics 127.0.0.1:9145 --mode 0600 --nameserver 192.0.2.53 \
         --nameserver [::1]:5353 --owner nginx --per-endpoint-max 8 --pin --protocol fastcgi \
         --proxy-protocol off --queue-max 0 --queue-order adaptive --queue-timeout 500ms --refused-timeout 100ms --removed-endpoint close-after 30s \
         --resolve-with dns --shards 2 --source-address 192.0.2.10 --source-address 2001:db8::1 --status-details \
         --tcp-keepalive 60s --tcp-user-timeout 30s --user nobody:nogroup --workers 3 --when-down close --request-timeout 45s \
         --slow-log /var/log/s.log --slow-after 3s --slow-log-format json",
    );
    let mut expected = from_options.config;
    // The words of this test are separated by spaces.
    expected.routes[0].listeners[1] = "unix:/run/b \"c\".sock".parse().unwrap();
    assert_eq!(from_file.config, expected);
    assert_eq!(from_file.logging, from_options.logging);
}

#[test]
fn what_a_file_does_not_say_is_as_on_the_command_line() {
    let file = "[route.default]\nlisten = \"unix:/a\"\nbackend = \"b:1\"";
    let (from_file, from_options) = (run_file(file), run("run --listen unix:/a --backend b:1"));
    assert_eq!(from_file.config, from_options.config);
    assert_eq!(from_file.logging, from_options.logging);
}

#[test]
fn routes_stand_in_the_order_of_the_file() {
    let config = run_file(
        "[route.z]\nlisten = \"unix:/z\"\nbackend = \"b:1\"\n\
         [route.a]\nlisten = \"unix:/a\"\nbackend = \"b:1\"\n\
         [route.\"php-8.2\"]\nlisten = \"unix:/p\"\nbackend = \"b:1\"",
    )
    .config;
    let names: Vec<_> = config.routes.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["z", "a", "php-8.2"]);
}

#[test]
fn a_route_can_be_written_in_any_way_that_toml_has() {
    for file in [
        "route.a.listen = \"unix:/a\"\nroute.a.backend = \"b:1\"",
        "route = { a = { listen = 'unix:/a', backend = [\"\"\"b:1\"\"\"] } }",
        "[route]\na.listen = \"unix:/a\"\na.backend = \"b:1\"",
        "\u{feff}# a comment\r\n[ route . \"a\" ]\r\nlisten=\"unix:/\\u0061\"\r\n\"backend\"='b:1'\r\n",
    ] {
        let route = run_file(file).config.routes.remove(0);
        assert_eq!(route.name.as_str(), "a", "{file}");
        assert_eq!(route.listeners, ["unix:/a".parse().unwrap()], "{file}");
        assert_eq!(route.backends, ["b:1".parse().unwrap()], "{file}");
    }
}

#[test]
fn defaults_are_for_routes_that_say_nothing_else() {
    let config = run_file(
        "[defaults]\nconnect-timeout = \"2s\"\nbackend = [\"b:1\", \"b:2\"]\nbalance = \"first\"\n\
         [route.a]\nlisten = \"unix:/a\"\n\
         [route.b]\nlisten = \"unix:/b\"\nbackend = \"c:1\"\nconnect-timeout = \"3s\"",
    )
    .config;
    let [a, b] = &config.routes[..] else { panic!() };
    assert_eq!(a.connect_timeout, Duration::from_secs(2));
    assert_eq!(b.connect_timeout, Duration::from_secs(3));
    // A key of the route replaces the default altogether.
    assert_eq!((a.backends.len(), b.backends.len()), (2, 1));
    assert_eq!((a.balance, b.balance), (Balance::First, Balance::First));
}

#[test]
fn the_command_line_counts_more_than_the_file() {
    let file = "workers = 2\nengine = \"io_uring\"\nlog-level = \"warn\"\n[route.a]\n\
                listen = \"unix:/a\"\nbackend = \"b:1\"";
    let run = run_file_with(
        "--engine epoll --log-level debug --pin --log-format json --drain-timeout off --metrics \
         [::1]:9145",
        file,
    );
    assert_eq!(run.config.engine, Engine::Epoll);
    assert_eq!(run.config.workers.map(usize::from), Some(2));
    assert!(run.config.pin);
    assert_eq!(run.config.drain_timeout, None);
    let metrics: SocketAddr = "[::1]:9145".parse().unwrap();
    assert_eq!(run.config.metrics, Some(metrics));
    assert_eq!(run.logging.filter.as_str(), "debug");
    assert_eq!(run.logging.format, LogFormat::Json);
}

#[test]
fn options_of_routes_beside_a_file_are_refused() {
    for option in ["--listen unix:/b", "--balance first", "--mode 0600"] {
        let words = format!("run --config f {option}");
        let Err(Stop::Usage(error)) = parse(&words, "") else {
            panic!("{words}")
        };
        let key = &option[2..option.find(' ').unwrap()];
        let expected = format!(
            "--{key} with --config: an option of a route (write the key {key} into the file, under \
             [route.NAME] or [defaults]); see 'spliceway run --help'"
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn numbers_may_be_strings_and_have_other_bases() {
    assert_eq!(route("queue-max = \"16\"").limits.queue_max, 16);
    assert_eq!(route("queue-max = 0x10").limits.queue_max, 16);
    assert_eq!(route("queue-max = 1_000").limits.queue_max, 1000);
    assert_eq!(route("mode = \"0o600\"").access.mode, 0o600);
    let limits = route("per-endpoint-max = \"off\"").limits;
    assert_eq!(limits.per_endpoint_max, None);
    let limits = route("per-endpoint-max = 4").limits;
    assert_eq!(
        limits.per_endpoint_max,
        NonZeroU32::new(4).map(EndpointMax::Fixed)
    );
}

#[test]
fn backends_may_have_weights_in_words_or_in_a_table() {
    let weighed: Vec<Backend> = ["a:1 weight=3", "unix:/b", "[::1]:2 weight=7"]
        .iter()
        .map(|backend| backend.parse().unwrap())
        .collect();
    let file = |backend: &str| {
        let file = format!("[route.a]\nlisten = \"unix:/a\"\nbackend = {backend}");
        check_file(&file)
    };
    for backend in [
        r#"["a:1 weight=3", "unix:/b", "[::1]:2 weight=7"]"#,
        r#"[{address = "a:1", weight = 3}, "unix:/b", {weight = 0x7, address = "[::1]:2"}]"#,
    ] {
        let check = file(backend);
        assert_eq!(check.run.config.routes[0].backends, weighed);
        let again = check_file(&check.run.effective.text());
        assert_eq!(again.run.config, check.run.config);
    }
    let one = file(r#"{address = "a:1"}"#).run.config.routes.remove(0);
    assert_eq!(one.backends, ["a:1".parse().unwrap()]);
    let array =
        "[[route.a.backend]]\naddress = \"a:1\"\nweight = 3\n[route.a]\nlisten = \"unix:/a\"";
    assert_eq!(run_file(array).config.routes[0].backends, weighed[..1]);
}

#[test]
fn what_is_wrong_with_a_weight_is_told_in_a_line() {
    for (backend, expected) in [
        (r#""a:1 weight=0""#, "'0' is not a weight"),
        (
            r#"{address = "a:1", weight = 65536}"#,
            "'65536' is not a weight",
        ),
        (
            r#"{address = "a:1", weight = "3"}"#,
            "weight = \"3\" is not of the right type",
        ),
        (r#"{address = 3}"#, "address = 3 is not of the right type"),
        (
            r#"{weight = 3}"#,
            "the address is missing (write {address = ",
        ),
        (
            r#"{address = "a:1", wait = 3}"#,
            "a backend has no wait (write {address = ",
        ),
        (
            r#"{address = "a:1 weight=2", weight = 3}"#,
            "weight= is given twice",
        ),
        (
            r#"{address = "srv:_a._tcp.b", weight = 3}"#,
            "a service has no weight",
        ),
    ] {
        let file = format!("[route.a]\nlisten = \"unix:/a\"\nbackend = [{backend}]");
        let Err(Stop::File(errors)) = parse("run --config f", &file) else {
            panic!("{backend}")
        };
        let [line] = &errors.lines().collect::<Vec<_>>()[..] else {
            panic!("{backend}: {errors}")
        };
        assert!(line.starts_with("f:3: route a: backend = "), "{line}");
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn flags_are_booleans() {
    let file = |pin| format!("pin = {pin}\n[route.a]\nlisten = \"unix:/a\"\nbackend = \"b:1\"");
    assert!(run_file(&file(true)).config.pin);
    assert!(!run_file(&file(false)).config.pin);
}

#[test]
fn what_check_prints_means_the_same_again() {
    let every_key = file_with_every_key();
    for file in [
        "[route.a]\nlisten = \"unix:@a \\\" \\\\ \\t b\"\nbackend = \"b:1\"",
        "[defaults]\nbalance = \"first\"\n[route.\"a.b\"]\nlisten = \"unix:/a\"\nbackend = \"b:1\"\n\
         [route.c]\nlisten = [\"unix:/c\", \"unix:/d\"]\nbackend = \"unix:/e\"",
        &every_key,
    ] {
        let first = check_file(file);
        let again = check_file(&first.run.effective.text());
        assert_eq!(first.run.config, again.run.config, "{file}");
        assert_eq!(first.run.logging, again.run.logging, "{file}");
        assert_eq!(first.run.effective, again.run.effective, "{file}");
    }
}

#[test]
fn check_takes_the_options_of_run_as_well() {
    let words = "check --listen unix:/a --backend b:1 --queue-max 5";
    let Ok(Cli {
        command: Command::Check(check),
    }) = parse(words, "")
    else {
        panic!()
    };
    let effective = check.run.effective.text();
    assert!(effective.contains("\n[route.default]\n"));
    assert!(effective.contains("\nqueue-max = 5\n"));
    assert_eq!(check_file(&effective).run.config, check.run.config);
}

#[test]
fn what_has_no_value_is_a_comment_of_the_effective_configuration() {
    let text = check_file("[route.a]\nlisten = \"unix:/a\"\nbackend = \"b:1\"")
        .run
        .effective
        .text();
    let options = [Options::of_daemon(), Options::of_route()];
    for option in options.iter().flat_map(Options::all) {
        let key = option.get_long().unwrap();
        let value = format!("{key} = ");
        let comment = format!("# {key}: ");
        let line = text
            .lines()
            .find(|l| l.starts_with(&value) || l.starts_with(&comment));
        let line = line.unwrap_or_else(|| panic!("{key} is not in\n{text}"));
        assert_ne!(line, comment, "it says nothing");
        assert!(
            kind(option) != Kind::Flag || line.ends_with("false"),
            "{line}"
        );
    }
}

#[test]
fn mistakes_are_told_in_the_order_of_the_file_up_to_a_bound() {
    let keys: String = (0..30).map(|n| format!("zzzz{n} = 1\n")).collect();
    let Err(Stop::File(errors)) = parse("run --config f", &format!("[route.a]\n{keys}x = 1"))
    else {
        panic!()
    };
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(lines.len(), PROBLEMS_SHOWN_MAX + 1);
    assert!(
        lines[0].starts_with("f:2: route a: zzzz0: "),
        "{}",
        lines[0]
    );
    assert_eq!(lines[24], "f: and 7 more (mend those above first)");
}

#[test]
fn lines_about_long_values_end_somewhere() {
    for (key, value) in [
        ("owner", "x ".repeat(10_000)),
        ("removed-endpoint", "x".repeat(10_000)),
        ("backend", format!("b:{}", "9".repeat(10_000))),
        ("zzz", "x".repeat(10_000)),
    ] {
        let file = format!("[route.a]\nlisten = \"unix:/a\"\n{key} = \"{value}\"");
        let Err(Stop::File(errors)) = parse("run --config f", &file) else {
            panic!("{key}")
        };
        let [line] = &errors.lines().collect::<Vec<_>>()[..] else {
            panic!("{key}: {errors}")
        };
        assert!(line.chars().count() < PROBLEM_CHARS_MAX + 10, "{line}");
    }
}

#[test]
fn a_thousand_routes_are_read_in_one_go() {
    let file = |routes: usize| -> String {
        let route = |n| format!("[route.r{n}]\nlisten = \"unix:/r{n}\"\nbackend = \"b:1\"\n");
        (0..routes).map(route).collect()
    };
    let check = check_file(&file(ROUTES_MAX));
    assert_eq!(check.run.config.routes.len(), 1024);
    let effective = check.run.effective.text();
    assert!(effective.len() < FILE_BYTES_MAX / 2);
    assert_eq!(check_file(&effective).run.config, check.run.config);
    let Err(Stop::File(errors)) = parse("run --config f", &file(ROUTES_MAX + 1)) else {
        panic!()
    };
    assert_eq!(
        errors.to_string(),
        "f: 1025 routes are too many (use at most 1024)"
    );
}

proptest! {
    #[test]
    fn any_string_of_a_file_is_the_words_of_an_option(text in ".*") {
        // As a value it changes nothing but its own option.
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        let file = format!(
            "[route.a]\nlisten = \"unix:/a\"\nbackend = \"b:1\"\nremoved-endpoint = \"{quoted}\"\n\
             owner = \"{quoted}\""
        );
        match parse("run --config f", &file) {
            Ok(Cli { command: Command::Run(run) }) => {
                prop_assert_eq!(run.config.routes.len(), 1);
                prop_assert_eq!(&run.config.routes[0].backends, &["b:1".parse().unwrap()]);
            }
            Err(Stop::File(_)) => {}
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
