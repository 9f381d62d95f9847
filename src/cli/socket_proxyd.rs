//! `spliceway socket-proxyd`: the command line of systemd-socket-proxyd(8), as far as version 261 has it.
//!
//! It comes to words of `run`, so that all defaults are those of `run`, and to the one thing that only
//! this program does: at the limit, further clients are accepted and closed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::ENGINE_HELP;
use super::values::{Timeout, ValueError, count};
use crate::config::{
    AddressError, BackendAddress, CONNECTIONS_MAX, Engine, TIMEOUT_MAX, UnixAddress,
};

/// Whoever is called this is this.
const PROGRAM: &str = "systemd-socket-proxyd";

/// The name of the command.
const COMMAND: &str = "socket-proxyd";

/// Where the names of ports are.
const SERVICES: &str = "/etc/services";

/// The port of a target that has none.
const PORT_DEFAULT: u16 = 80;

/// The idle time when none at all is asked for. That program then ends with its last connection; the
/// one for which we were started has to be found first.
const IDLE_TIME_MIN: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct SocketProxydArguments {
    #[arg(
        short,
        long,
        value_name = "NUMBER",
        default_value = "256",
        value_parser = count(1..=CONNECTIONS_MAX),
        help = "Serve at most this many connections at one time. Further ones are accepted and closed, \
                with a warning."
    )]
    connections_max: u32,

    #[arg(
        long,
        value_name = "TIME",
        default_value = "infinity",
        value_parser = time_span,
        allow_hyphen_values = true,
        help = "Exit after this time without a connection, such as 30s, '5min 30s', or 90 for \
                seconds; 'infinity' never does."
    )]
    exit_idle_time: Timeout,

    #[arg(
        long,
        value_name = "VERSION",
        value_parser = ["v1"],
        hide_possible_values = true,
        help = "Begin each connection to the target with a header of the PROXY protocol: 'v1' is the \
                only version. [default: none]"
    )]
    proxy_protocol: Option<String>,

    #[arg(
        long,
        value_enum,
        default_value_t = Engine::Auto,
        hide_possible_values = true,
        help = ENGINE_HELP
    )]
    engine: Engine,

    #[arg(
        value_name = "TARGET",
        value_parser = target,
        help = "Where connections go: HOST:PORT or [IPv6]:PORT, with port 80 unless it is given; /PATH, \
                or @NAME, for a Unix socket."
    )]
    target: BackendAddress,
}

/// The words as if the command had been given, where the program is called by the name of the other.
pub(super) fn by_name_of_program(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let called = arguments.first().map(Path::new).and_then(Path::file_name);
    if called == Some(OsStr::new(PROGRAM)) {
        arguments[0] = "spliceway".into();
        arguments.insert(1, COMMAND.into());
    }
    arguments
}

impl SocketProxydArguments {
    /// What `spliceway run` is to be told.
    pub(super) fn words(&self) -> Vec<OsString> {
        let option = |name: &str, value: &dyn ToString| format!("--{name}={}", value.to_string());
        let idle_time = self.exit_idle_time.0.map_or_else(
            || "off".to_owned(),
            |time| humantime::format_duration(time).to_string(),
        );
        let proxy_protocol = self.proxy_protocol.as_deref().unwrap_or("off");
        let engine = match self.engine {
            Engine::Auto => "auto",
            Engine::IoUring => "io_uring",
            Engine::Epoll => "epoll",
        };
        let words = [
            "spliceway".to_owned(),
            "run".to_owned(),
            option("listen", &"inherit"),
            option("backend", &self.target),
            option("connections-max", &self.connections_max),
            option("user-connections-max", &"off"),
            option("exit-idle-time", &idle_time),
            option("proxy-protocol", &proxy_protocol),
            option("engine", &engine),
            // That program asks the C library: names that only nsswitch.conf knows, such as those of
            // containers, are found as before.
            option("resolve-with", &"system"),
        ];
        words.map(OsString::from).into()
    }
}

/// `HOST[:PORT]`, `[IPv6][:PORT]`, `/PATH` or `@NAME`.
fn target(text: &str) -> Result<BackendAddress, AddressError> {
    if text.starts_with(['/', '@']) {
        let address: UnixAddress = format!("unix:{text}").parse()?;
        return Ok(BackendAddress::Unix(address));
    }
    let behind_brackets = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let has_port = match behind_brackets {
        Some((_, rest)) => !rest.is_empty(),
        None => text.contains(':'),
    };
    // With the scheme, because a host may be called like one.
    match text.rsplit_once(':') {
        Some((host, name)) if has_port && name.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            let services = fs::read_to_string(SERVICES).unwrap_or_default();
            let port = port_of(name, &services);
            let port = port.map_or_else(|| name.to_owned(), |port| port.to_string());
            format!("tcp:{host}:{port}").parse()
        }
        _ if has_port => format!("tcp:{text}").parse(),
        _ => format!("tcp:{text}:{PORT_DEFAULT}").parse(),
    }
}

/// The port that a service has over TCP, by its name or an alias (services(5)).
fn port_of(name: &str, services: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or(line);
        let mut words = line.split_ascii_whitespace();
        let (service, place) = (words.next()?, words.next()?);
        let port = place.strip_suffix("/tcp")?.parse().ok()?;
        let is_it = service == name || words.any(|alias| alias == name);
        is_it.then_some(port)
    })
}

/// The units of systemd.time(7), in microseconds.
const UNITS: [(&[&str], u64); 9] = [
    (&["usec", "us", "µs", "μs"], 1),
    (&["msec", "ms"], 1_000),
    (&["seconds", "second", "sec", "s", ""], 1_000_000),
    (&["minutes", "minute", "min", "m"], 60_000_000),
    (&["hours", "hour", "hr", "h"], 3_600_000_000),
    (&["days", "day", "d"], 86_400_000_000),
    (&["weeks", "week", "w"], 604_800_000_000),
    (&["months", "month", "M"], 2_629_800_000_000),
    (&["years", "year", "y"], 31_557_600_000_000),
];

/// A time span of systemd.time(7): numbers with units, which are added up; one without is in seconds.
/// More than a year is as much as for ever.
fn time_span(text: &str) -> Result<Timeout, ValueError> {
    let mut rest = text.trim();
    if rest == "infinity" {
        return Ok(Timeout(None));
    }
    let mut sum = Duration::ZERO;
    loop {
        let (length, behind) = time_part(rest).ok_or(ValueError::TimeSpan)?;
        sum = sum.saturating_add(length);
        rest = behind.trim_start();
        if rest.is_empty() {
            let time = match sum.min(TIMEOUT_MAX) {
                Duration::ZERO => IDLE_TIME_MIN,
                time => time,
            };
            return Ok(Timeout(Some(time)));
        }
    }
}

/// The first number with its unit, and what is behind them.
fn time_part(text: &str) -> Option<(Duration, &str)> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let number_len = text.find(|c| !is_number(c)).unwrap_or(text.len());
    let (number, behind) = text.split_at(number_len);
    let behind = behind.trim_start();
    let unit_len = behind
        .find(|c: char| !c.is_alphabetic())
        .unwrap_or(behind.len());
    let (unit, behind) = behind.split_at(unit_len);
    let (_, micros) = UNITS.iter().find(|(names, _)| names.contains(&unit))?;
    let digit = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || !digit(whole) || !digit(fraction) {
        return None;
    }
    let number: f64 = format!("0{whole}.{fraction}0").parse().ok()?;
    let seconds = number * Duration::from_micros(*micros).as_secs_f64();
    let length = Duration::try_from_secs_f64(seconds).unwrap_or(TIMEOUT_MAX);
    Some((length, behind))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{parse_words, usage_error};
    use super::super::{Cli, Command, RunCommand, Stop, parse_from};
    use super::*;
    use crate::config::{AtLimit, Descriptors, ListenAddress, ProxyProtocol, ResolveWith};

    fn proxyd(words: &str) -> RunCommand {
        of_run(parse_words(&format!("socket-proxyd {words}")))
    }

    #[track_caller]
    fn of_run(parsed: Result<Cli, Stop>) -> RunCommand {
        match parsed {
            Ok(Cli {
                command: Command::Run(run),
            }) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_descriptor_is_listened_on_and_the_limit_is_hard() {
        let config = proxyd("example.com:1234").config;
        let [route] = &config.routes[..] else {
            panic!()
        };
        let all = ListenAddress::Inherited(Descriptors::All);
        assert_eq!(route.listeners, [all]);
        assert_eq!(route.backends, ["example.com:1234".parse().unwrap()]);
        assert_eq!(route.discovery.resolve_with, ResolveWith::System);
        assert_eq!(route.upstreams.proxy_protocol, ProxyProtocol::Off);
        assert_eq!(
            (config.connections_max, config.at_limit),
            (256, AtLimit::Refuse)
        );
        assert_eq!(config.exit_idle_time, None);
    }

    #[test]
    fn options_are_spelled_as_that_program_takes_them() {
        for words in [
            "-c 5 --exit-idle-time=90 --proxy-protocol=v1 /run/a",
            "-c5 --exit-idle-time 90s --proxy-protocol v1 /run/a",
            "--connections-max=5 --exit-idle-time=1.5min --proxy-protocol=v1 -- /run/a",
            "/run/a --connections-max 5 --exit=90 --proxy=v1",
        ] {
            let config = proxyd(words).config;
            assert_eq!(config.connections_max, 5, "{words}");
            assert_eq!(
                config.exit_idle_time,
                Some(Duration::from_secs(90)),
                "{words}"
            );
            let route = &config.routes[0];
            assert_eq!(route.upstreams.proxy_protocol, ProxyProtocol::V1, "{words}");
            assert_eq!(route.backends, ["unix:/run/a".parse().unwrap()], "{words}");
        }
    }

    #[test]
    fn the_programs_name_is_the_command() {
        for name in [
            "systemd-socket-proxyd",
            "/usr/lib/systemd/systemd-socket-proxyd",
        ] {
            let words = [name, "-c", "7", "@abstract"].map(OsString::from);
            assert_eq!(of_run(parse_from(words)).config.connections_max, 7);
            for option in ["--version", "-h", "--help"] {
                let stop = parse_from([name, option].map(OsString::from));
                assert!(matches!(stop, Err(Stop::Answer(_))), "{option}: {stop:?}");
            }
        }
        let stop = parse_from(["socket-proxyd", "@abstract"].map(OsString::from));
        assert!(matches!(stop, Err(Stop::Usage(_))), "{stop:?}");
    }

    #[test]
    fn targets_are_hosts_with_port_80_and_unix_sockets() {
        for (text, expected) in [
            ("example.com", "tcp:example.com:80"),
            ("example.com:8080", "tcp:example.com:8080"),
            ("192.0.2.1", "tcp:192.0.2.1:80"),
            ("192.0.2.1:81", "tcp:192.0.2.1:81"),
            ("[::1]", "tcp:[::1]:80"),
            ("[2001:db8::1]:81", "tcp:[2001:db8::1]:81"),
            ("/run/a.sock", "unix:/run/a.sock"),
            ("/run/a:80", "unix:/run/a:80"),
            ("@name", "unix:@name"),
            // Hosts, whatever they are called.
            ("tcp", "tcp:tcp:80"),
            ("srv:90", "tcp:srv:90"),
        ] {
            assert_eq!(target(text).unwrap().to_string(), expected, "{text}");
        }
        for text in [
            "",
            ":80",
            "::1",
            "[::1",
            "[::1]80",
            "a:",
            "a:0",
            "a:no-such-service",
            "a b",
            "/run/",
        ] {
            assert!(target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_have_names() {
        let services = "# a comment\n\
                        domain 53/udp\n\
                        http\t\t80/tcp\t\twww\t# WorldWideWeb HTTP\n\
                        https\t443/udp\n\
                        https\t443/tcp\n\
                        broken\n\
                        large 99999/tcp\n";
        for (name, port) in [("http", 80), ("www", 80), ("https", 443)] {
            assert_eq!(port_of(name, services), Some(port), "{name}");
        }
        for name in ["domain", "WorldWideWeb", "broken", "large", "#", "tcp", ""] {
            assert_eq!(port_of(name, services), None, "{name}");
        }
    }

    #[test]
    fn time_spans_are_added_up() {
        for (text, millis) in [
            ("90", 90_000),
            ("5min 30s", 330_000),
            ("5min30s", 330_000),
            (" 1h  2 minutes 3sec4ms ", 3_723_004),
            ("1.5s", 1_500),
            (".5s", 500),
            ("2 s", 2_000),
            ("100ms", 100),
            ("1500us", 1),
            ("1d", 86_400_000),
            ("1w", 604_800_000),
            ("1M", 2_629_800_000),
            ("0", 1_000),
            ("99999999999999999999y", 31_536_000_000),
        ] {
            let Ok(Timeout(Some(time))) = time_span(text) else {
                panic!("{text}")
            };
            assert_eq!(time.as_millis(), millis, "{text}");
        }
        assert_eq!(time_span("infinity").unwrap(), Timeout(None));
        for text in [
            "",
            "-1",
            "s",
            "1x",
            "1 2 x",
            "1..5s",
            ".",
            "infinity 1s",
            "1e3",
            "5 mins",
        ] {
            assert!(time_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_that_program_does_not_take_is_refused_in_one_line() {
        for (words, problem) in [
            ("", "missing required option: <TARGET>"),
            ("a b", "unexpected argument 'b'"),
            ("-c 0 a", "not a whole number from 1 to 1000000"),
            ("-c many a", "not a whole number from 1 to 1000000"),
            ("--exit-idle-time=soon a", "not a time span"),
            ("--proxy-protocol=v3 a", "unknown (write v1)"),
            ("::1", "several colons outside brackets"),
            ("--listen unix:/a a", "unexpected argument '--listen'"),
        ] {
            let error = usage_error(format!("socket-proxyd {words}").trim_end());
            assert!(error.contains(problem), "{words}: {error}");
        }
    }
}
