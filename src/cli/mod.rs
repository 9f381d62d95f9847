//! The command line: from arguments to a validated configuration, or to one line that says what is
//! wrong.
//!
//! The help texts are the reference of the options. What the harness has in common with this
//! stands beside this: [`usage`] for errors and exit codes, [`values`] for numbers and times. A
//! configuration file ([`mod@file`]) is another way to write the same options.

mod class;
pub mod control;
mod daemon;
#[cfg(feature = "demo")]
mod demo;
#[cfg(test)]
mod documents;
pub(crate) mod effective;
mod fastcgi;
pub mod file;
mod fpm;
mod groups;
mod options;
mod reading;
#[cfg(test)]
mod reference;
pub mod requests;
mod route;
mod socket_proxyd;
pub mod status;
#[cfg(feature = "top")]
pub mod top;
pub mod usage;
pub mod values;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, CommandFactory, Parser, Subcommand};

use crate::config::{AtLimit, ClassName, Config, Effective, Loaded, Logging, Route, RouteName};
pub use control::TellCommand;
use control::{
    DrainArguments, PauseArguments, ReloadArguments, ResumeArguments, UndrainArguments,
    UpgradeArguments, WeightArguments,
};
use daemon::DaemonArguments;
#[cfg(feature = "demo")]
use demo::DemoArguments;
#[cfg(feature = "demo")]
pub use demo::DemoCommand;
pub use file::FileErrors;
use file::Overrides;
use options::{CONFIG, Kind, Options, kind};
pub use reading::{FileSource, Source};
use requests::RequestsArguments;
pub use requests::RequestsCommand;
use route::RouteArguments;
use socket_proxyd::SocketProxydArguments;
use status::StatusArguments;
pub use status::StatusCommand;
pub use usage::{Stop, UsageError};

/// A command line that can be run.
#[derive(Clone, Debug)]
pub struct Cli {
    /// What to do.
    pub command: Command,
}

/// What the program can do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Run the proxy.
    Run(Box<RunCommand>),
    /// Say what the proxy would do.
    Check(Box<CheckCommand>),
    /// Ask a running proxy how it is.
    Status(StatusCommand),
    /// Ask it what it does, request by request.
    Requests(RequestsCommand),
    /// Watch it.
    #[cfg(feature = "top")]
    Top(top::TopCommand),
    /// Tell a running proxy to change something.
    Tell(TellCommand),
    /// Show what the proxy does on this machine.
    #[cfg(feature = "demo")]
    Demo(DemoCommand),
}

/// `spliceway run`
#[derive(Clone, Debug)]
pub struct RunCommand {
    /// What the daemon needs.
    pub config: Config,
    /// What it says of itself.
    pub logging: Logging,
    /// Both as they were written, with every option.
    pub effective: Effective,
    /// Where all of it comes from.
    pub source: Source,
    /// The control socket of the daemon whose place is to be taken.
    pub take_over: Option<PathBuf>,
}

impl RunCommand {
    /// Without its source.
    #[must_use]
    pub fn loaded(&self) -> Loaded {
        Loaded {
            config: self.config.clone(),
            logging: self.logging.clone(),
            effective: self.effective.clone(),
        }
    }
}

/// `spliceway check`
#[derive(Clone, Debug)]
pub struct CheckCommand {
    /// What would be run.
    pub run: RunCommand,
}

/// The definition of the command line, from which manual pages and completions are made.
#[must_use]
pub fn command() -> clap::Command {
    groups::grouped(Arguments::command())
}

/// Reads the command line of this process.
///
/// # Errors
/// If there is nothing to run; [`Stop::report`] says so to the user.
pub fn parse() -> Result<Cli, Stop> {
    parse_from(std::env::args_os())
}

/// Reads a command line, of which the first argument is the name of the program, and the configuration
/// file that it names.
///
/// # Errors
/// As [`parse`].
pub fn parse_from(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Stop> {
    parse_with(arguments, file::read)
}

/// The same with another way to read files, for tests.
pub(crate) fn parse_with(
    arguments: impl IntoIterator<Item = OsString>,
    read: impl FnOnce(&Path) -> io::Result<Vec<u8>>,
) -> Result<Cli, Stop> {
    let arguments = socket_proxyd::by_name_of_program(arguments.into_iter().collect());
    let (parsed, matches): (Arguments, _) = usage::parse_with_matches(&arguments)?;
    let refuse = |refusal: Conflict| usage::refuse::<Arguments>(&arguments, refusal.problem);
    let matches = matches.subcommand().map(|(_, matches)| matches.clone());
    let matches = matches.unwrap_or_default();
    let command = match parsed.command {
        ArgumentsOf::Run(start) => {
            let StartArguments { run, take_over } = *start;
            let run = run.serve(matches, read, refuse)?;
            Command::Run(Box::new(RunCommand { take_over, ..run }))
        }
        ArgumentsOf::Check(run) => {
            let run = run.serve(matches, read, refuse)?;
            Command::Check(Box::new(CheckCommand { run }))
        }
        ArgumentsOf::SocketProxyd(proxyd) => {
            let cli = parse_with(proxyd.words(), read)?;
            let Command::Run(mut run) = cli.command else {
                unreachable!("its words are those of run")
            };
            run.config.at_limit = AtLimit::Refuse;
            Command::Run(run)
        }
        ArgumentsOf::Status(status) => Command::Status(status.into()),
        ArgumentsOf::Requests(requests) => Command::Requests(requests.into()),
        #[cfg(feature = "top")]
        ArgumentsOf::Top(top) => Command::Top(top.into()),
        ArgumentsOf::Reload(reload) => Command::Tell(reload.into()),
        ArgumentsOf::Upgrade(upgrade) => Command::Tell(upgrade.into()),
        ArgumentsOf::Drain(drain) => Command::Tell(drain.into()),
        ArgumentsOf::Undrain(undrain) => Command::Tell(undrain.into()),
        ArgumentsOf::Weight(weight) => Command::Tell(weight.into()),
        ArgumentsOf::Pause(pause) => Command::Tell(pause.into()),
        ArgumentsOf::Resume(resume) => Command::Tell(resume.into()),
        #[cfg(feature = "demo")]
        ArgumentsOf::Demo(demo) => Command::Demo(demo.into()),
    };
    Ok(Cli { command })
}

#[derive(Parser)]
#[command(
    name = "spliceway",
    version,
    about = "Proxy from Unix sockets to backends found by name, with a FastCGI mode.",
    after_help = "'spliceway run -h' lists the options of the proxy, and 'spliceway run --help' explains them."
)]
struct Arguments {
    #[command(subcommand)]
    command: ArgumentsOf,
}

#[derive(Subcommand)]
enum ArgumentsOf {
    #[command(
        about = "Run the proxy.",
        long_about = "Run the proxy until SIGTERM or SIGINT. It then stops listening, gives running sessions \
                      --drain-timeout to finish, and exits.\n\n\
                      Example: spliceway run --listen unix:/run/app.sock --backend app.internal:9000\n\n\
                      A configuration file can describe several routes. Every option is a key there, without the \
                      leading hyphens; 'spliceway check --config FILE' shows the result.",
        override_usage = "spliceway run [OPTIONS] --listen <ADDRESS> --backend <ADDRESS>\n       \
                          spliceway run [OPTIONS] --config <FILE>"
    )]
    Run(Box<StartArguments>),
    #[command(
        about = "Check a configuration file, and print the effective settings.",
        long_about = "Check a configuration file (or options of 'run'). Print the effective configuration as such a \
                      file, and what each backend's name resolves to now. Does not listen on anything.\n\n\
                      The exit code is 0 if all is well, 1 if a name has no address now or a user, \
                      group or source address does not exist, and 2 if the configuration is wrong.",
        override_usage = "spliceway check [OPTIONS] --config <FILE>\n       \
                          spliceway check [OPTIONS] --listen <ADDRESS> --backend <ADDRESS>"
    )]
    Check(Box<RunArguments>),
    #[command(
        version,
        infer_long_args = true,
        about = "Replace systemd-socket-proxyd, with its command line.",
        long_about = "Replace systemd-socket-proxyd, with its command line: connections to the sockets that the \
                      service manager passes go to TARGET. The same happens when the program is called under the name \
                      systemd-socket-proxyd. 'spliceway run --listen inherit' has more options.\n\n\
                      Example: ExecStart=/usr/bin/spliceway socket-proxyd --exit-idle-time=5min \
                      app.internal:9000"
    )]
    SocketProxyd(SocketProxydArguments),
    #[command(
        about = "Show sessions, rates, queues and endpoints of a daemon.",
        long_about = "Show sessions, rates, queues and endpoints of a daemon, which must run with --control.\n\n\
                      Example: spliceway status --control /run/spliceway/control.sock --watch"
    )]
    Status(StatusArguments),
    Requests(RequestsArguments),
    #[cfg(feature = "top")]
    Top(top::TopArguments),
    #[command(
        about = "Make a daemon reload its configuration file.",
        long_about = "Make a daemon reload its configuration file, and print what has changed. Either all of it is \
                      applied, or nothing and the reason is printed; no session is cut. SIGHUP does the same, with \
                      the outcome in the log.\n\n\
                      The exit code is 0 if it was applied, 1 if something in it is not possible while the daemon \
                      runs, and 2 if the configuration is wrong.\n\n\
                      Example: spliceway reload --control /run/spliceway/control.sock"
    )]
    Reload(ReloadArguments),
    #[command(
        about = "Replace a daemon by a new process, without refusing a client.",
        long_about = "Make a daemon start the program that is now at its path, with the same arguments, and hand over \
                      to the new process: after an update, or for options that need a restart. Sockets and the \
                      clients in their backlogs are handed over, so no client is refused; running sessions finish in \
                      the old process, within --drain-timeout. If the new process does not get ready, the old one \
                      carries on unchanged. SIGUSR2 does the same, with the outcome in the log.\n\n\
                      The exit code is 0 once the new process serves, 1 if it failed to, and 2 if the configuration \
                      is wrong.\n\n\
                      Example: spliceway upgrade --control /run/spliceway/control.sock"
    )]
    Upgrade(UpgradeArguments),
    #[command(
        about = "Send nothing new to an endpoint.",
        long_about = "Send no new sessions or requests to an endpoint; kept connections to it are closed, and what \
                      runs there finishes. This survives reloads, and lasts until 'spliceway undrain' or the daemon's \
                      end.\n\n\
                      Example: spliceway drain php 192.0.2.1:9000 --wait 5m"
    )]
    Drain(DrainArguments),
    #[command(
        about = "Use a drained endpoint again.",
        long_about = "Send new sessions and requests to a drained endpoint again.\n\n\
                      Example: spliceway undrain php 192.0.2.1:9000"
    )]
    Undrain(UndrainArguments),
    #[command(
        about = "Change the weight of an endpoint.",
        long_about = "Change the weight of an endpoint, and so its share of new sessions and requests. This survives \
                      reloads, and lasts until the daemon's end.\n\n\
                      Example: spliceway weight php 192.0.2.1:9000 3"
    )]
    Weight(WeightArguments),
    #[command(
        about = "Hold new requests of a route during a deploy.",
        long_about = "Hold new sessions and requests of a route, in order, while running ones finish: for the time in \
                      which a deploy restarts the backends. No request fails for it. 'spliceway resume' ends it, and \
                      so does the time of --for.\n\n\
                      Example: spliceway pause php --wait 30s && systemctl reload php8.2-fpm; spliceway resume php"
    )]
    Pause(PauseArguments),
    #[command(
        about = "Resume a paused route.",
        long_about = "Resume a paused route: what has waited is served in order.\n\n\
                      Example: spliceway resume php"
    )]
    Resume(ResumeArguments),
    #[cfg(feature = "demo")]
    #[command(
        about = "Run a backend, the proxy and a load on this machine, and compare the paths.",
        long_about = "Run a backend, the proxy and a load on this machine for a few seconds, and compare connections \
                      made directly with those made through the proxy, in raw and in FastCGI mode. Uses loopback and a \
                      temporary directory only, and leaves nothing behind."
    )]
    Demo(DemoArguments),
}

#[derive(Args)]
struct StartArguments {
    #[command(flatten)]
    run: RunArguments,

    #[arg(
        long,
        value_name = "PATH",
        value_parser = daemon::control,
        help = "Take over from the daemon with this control socket [default: start afresh]",
        long_help = "Take over from the daemon that has this control socket: its sockets with the clients in \
                     their backlogs, its last good addresses and its limits. That daemon drains once this one serves; if \
                     anything fails before, it carries on as before. Needs the same user, or root."
    )]
    take_over: Option<PathBuf>,
}

#[derive(Args)]
struct RunArguments {
    #[arg(
        id = CONFIG,
        long,
        value_name = "FILE",
        help = "Read routes and settings from this TOML file",
        long_help = "Read routes and settings from this TOML file. Options of the daemon that are given beside \
                     it override the file (--workers, --pin, --busy-poll, --engine, --connections-max, \
                     --user-connections-max, --drain-timeout, --exit-idle-time, --control, --metrics, --status-details, \
                     --user, --log-format, --log-level); options of routes are refused, because they belong in the file."
    )]
    config: Option<PathBuf>,
    #[command(flatten)]
    route: RouteArguments,
    #[command(flatten)]
    daemon: DaemonArguments,
}

/// A route, and the arguments that describe it.
struct ServedRoute {
    route: Route,
    matches: ArgMatches,
    /// As they stand in the file.
    classes: Vec<WrittenClass>,
}

/// The arguments that describe a class of a route's requests.
struct WrittenClass {
    name: ClassName,
    /// In TOML. `None`: it has what no other class has.
    criteria: Option<String>,
    matches: ArgMatches,
}

impl RunArguments {
    fn serve(
        self,
        matches: ArgMatches,
        read: impl FnOnce(&Path) -> io::Result<Vec<u8>>,
        refuse: impl Fn(Conflict) -> Stop,
    ) -> Result<RunCommand, Stop> {
        let Some(path) = &self.config else {
            return self.serve_one(&matches).map_err(refuse);
        };
        if let Some(option) = Options::of_route().all().find(|o| is_given(&matches, o)) {
            return Err(refuse(beside_config(option)));
        }
        file::load(path, read(path), &daemon_words(&matches)).map_err(Stop::File)
    }

    /// Without a file, the options describe one route.
    fn serve_one(self, matches: &ArgMatches) -> Result<RunCommand, Conflict> {
        let route = self.route.validate(RouteName::default())?;
        self.daemon.check([&route])?;
        let route = ServedRoute {
            route,
            matches: matches.clone(),
            classes: Vec::new(),
        };
        let source = Source::CommandLine;
        Ok(self.daemon.serve(matches, vec![route], source))
    }
}

fn is_given(matches: &ArgMatches, option: &Arg) -> bool {
    matches.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine)
}

fn beside_config(option: &Arg) -> Conflict {
    let key = option.get_long().unwrap_or_default();
    Conflict {
        option: CONFIG,
        problem: format!(
            "--{key} with --config: an option of a route (write the key {key} into the file, under \
             [route.NAME] or [defaults])"
        ),
    }
}

/// The daemon's options that were given, by their names, in words that parse to the same again.
fn daemon_words(matches: &ArgMatches) -> Overrides {
    let options = Options::of_daemon();
    let given = options.all().filter(|option| is_given(matches, option));
    given
        .map(|option| {
            let key = option.get_long().unwrap_or_default();
            let values = matches.get_raw(option.get_id().as_str());
            let word = |value: &OsStr| {
                let mut word = OsString::from(format!("--{key}="));
                word.push(value);
                word
            };
            let words = match kind(option) {
                Kind::Flag => vec![OsString::from(format!("--{key}"))],
                Kind::Number | Kind::Text | Kind::Words | Kind::List => {
                    values.into_iter().flatten().map(word).collect()
                }
            };
            (key.to_owned(), words)
        })
        .collect()
}

/// Options of which each is right, but not beside the others.
#[derive(Debug)]
struct Conflict {
    /// The option that is to be changed: a file has a line for it.
    option: &'static str,
    /// The problem and the remedy, in one line.
    problem: String,
}

impl Conflict {
    fn new(option: &'static str, problem: String) -> Self {
        Self { option, problem }
    }
}

const ENGINE_HELP: &str = "Move bytes with 'io_uring', or with 'epoll', or let 'auto' take io_uring \
                           where the system allows it and epoll where it does not.";

/// What the tests of the options have in common.
#[cfg(test)]
mod testing {
    use super::usage::one_line;
    use super::*;

    pub(super) const REQUIRED: &str = "run --listen unix:/a --backend b:1";

    pub(super) fn parse_words(words: &str) -> Result<Cli, Stop> {
        parse_from(
            std::iter::once("spliceway")
                .chain(words.split(' '))
                .map(OsString::from),
        )
    }

    pub(super) fn run(words: &str) -> RunCommand {
        match parse_words(words) {
            Ok(Cli {
                command: Command::Run(run),
            }) => *run,
            other => panic!("{words}: {other:?}"),
        }
    }

    pub(super) fn run_with(options: &str) -> RunCommand {
        run(&format!("{REQUIRED} {options}"))
    }

    pub(super) fn route_with(options: &str) -> Route {
        run_with(options).config.routes.remove(0)
    }

    pub(super) fn usage_error(words: &str) -> String {
        match parse_words(words) {
            Err(Stop::Usage(error)) => one_line(&error.to_string()),
            other => panic!("{words}: {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use clap::CommandFactory as _;
    use proptest::prelude::*;

    use super::testing::{REQUIRED, parse_words, run, run_with, usage_error};
    use super::usage::one_line;
    use super::*;
    use crate::config::{
        Access, Account, ActiveChecks, CheckKind, Discovery, Engine, LogFormat, ProxyProtocol,
        ResolveWith, SourceAddresses, Upstreams, WhenDown,
    };

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn run_has_the_documented_defaults() {
        let RunCommand {
            config, logging, ..
        } = run(REQUIRED);
        let [route] = &config.routes[..] else {
            panic!()
        };
        assert_eq!(route.name.as_str(), "default");
        assert_eq!(route.listeners, ["unix:/a".parse().unwrap()]);
        assert_eq!(route.backends, ["b:1".parse().unwrap()]);
        assert_eq!(route.access, Access::default());
        assert_eq!(route.access.mode, 0o660);
        assert_eq!(
            (config.workers, config.pin, config.busy_poll, config.engine),
            (None, false, None, Engine::Auto)
        );
        assert_eq!(route.discovery, Discovery::default());
        assert_eq!(route.upstreams, Upstreams::default());
        assert_eq!(config.connections_max, 8192);
        assert_eq!(route.connect_timeout, Duration::from_secs(5));
        assert_eq!(route.idle_timeout, None);
        assert_eq!(config.drain_timeout, Some(Duration::from_secs(30)));
        assert_eq!(logging.format, LogFormat::Text);
        assert_eq!(logging.filter.as_str(), "info");
    }

    #[test]
    fn run_takes_every_option() {
        let RunCommand {
            config, logging, ..
        } = run_with(
            "--listen unix:@c --backend [::1]:2 --owner nginx --group 33 --protocol raw \
             --workers 1024 --pin --busy-poll 50us --engine io_uring --connections-max 1000000 \
             --connect-timeout 500ms --idle-timeout 10m --drain-timeout off --log-format json \
             --log-level debug --nameserver 192.0.2.53 --nameserver [::1]:5353 --dns-race --resolve-with dns \
             --dns-min-ttl 100ms --dns-max-ttl 1h --dns-negative-hold 0s --dns-keep-missing 5m \
             --backend srv:_php._tcp.internal --tcp-keepalive 60s --tcp-user-timeout 30s \
             --source-address 192.0.2.10 --source-address 2001:db8::1 --proxy-protocol v2 \
             --removed-endpoint close-after 30s --check fastcgi --check-interval 100ms --when-down close",
        );
        let [route] = &config.routes[..] else {
            panic!()
        };
        let expected = Upstreams {
            tcp_keepalive: Some(Duration::from_secs(60)),
            tcp_user_timeout: Some(Duration::from_secs(30)),
            source: SourceAddresses {
                v4: Some([192, 0, 2, 10].into()),
                v6: Some("2001:db8::1".parse().unwrap()),
            },
            proxy_protocol: ProxyProtocol::V2,
            close_removed_after: Some(Duration::from_secs(30)),
            checks: Some(ActiveChecks {
                kind: CheckKind::Fastcgi,
                interval: Duration::from_millis(100),
            }),
            when_down: WhenDown::Close,
        };
        assert_eq!(route.upstreams, expected);
        let Discovery {
            name_servers,
            race,
            resolve_with,
            times,
        } = &route.discovery;
        assert_eq!(name_servers[0].to_string(), "192.0.2.53:53");
        assert_eq!(name_servers[1].to_string(), "[::1]:5353");
        assert!(*race);
        assert_eq!(*resolve_with, ResolveWith::Dns);
        assert_eq!(times.ttl_min, Duration::from_millis(100));
        assert_eq!(times.ttl_max, Duration::from_secs(3600));
        assert_eq!(times.negative_hold, Duration::ZERO);
        assert_eq!(times.keep_missing, Duration::from_secs(300));
        assert_eq!(route.listeners.len(), 2);
        assert_eq!(route.backends.len(), 3);
        assert_eq!(route.access.owner, Some(Account::Name("nginx".to_owned())));
        assert_eq!(route.access.group, Some(Account::Id(33)));
        assert_eq!(config.workers, NonZeroUsize::new(1024));
        assert_eq!((config.pin, config.engine), (true, Engine::IoUring));
        assert_eq!(config.busy_poll, Some(Duration::from_micros(50)));
        assert_eq!(config.connections_max, 1_000_000);
        assert_eq!(route.connect_timeout, Duration::from_millis(500));
        assert_eq!(route.idle_timeout, Some(Duration::from_secs(600)));
        assert_eq!(config.drain_timeout, None);
        assert_eq!(logging.format, LogFormat::Json);
        assert_eq!(logging.filter.as_str(), "debug");
    }

    #[test]
    fn usage_errors_name_the_argument_the_cause_and_the_remedy() {
        for (words, expected) in [
            (
                "run --listen x --backend b:1",
                "invalid value 'x' for '--listen <ADDRESS>': not a Unix socket (write unix:/PATH or \
                 unix:@NAME, for example unix:/run/app.sock); see 'spliceway run --help'",
            ),
            (
                "run --listen unix:/a --backend b",
                "invalid value 'b' for '--backend <ADDRESS>': missing port (write HOST:PORT, for \
                 example php.internal:9000); see 'spliceway run --help'",
            ),
            (
                "run",
                "missing required option: --listen <ADDRESS>, --backend <ADDRESS>; see 'spliceway \
                 run --help'",
            ),
            (
                "run --listen",
                "'--listen <ADDRESS>': the value is missing; see 'spliceway run --help'",
            ),
            (
                "run --lisen unix:/a",
                "unexpected argument '--lisen' (a similar one is '--listen'); see 'spliceway run \
                 --help'",
            ),
            (
                "rum",
                "unknown command 'rum' (similar ones are 'run' and 'resume'); see 'spliceway --help'",
            ),
            (
                "--quiet",
                "unexpected argument '--quiet'; see 'spliceway --help'",
            ),
        ] {
            assert_eq!(usage_error(words), expected);
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (options, cause) in [
            ("--mode 668", "not an octal mode"),
            ("--mode 0x1ff", "not an octal mode"),
            ("--mode +660", "not an octal mode"),
            ("--mode rw", "not an octal mode"),
            ("--mode 1777", "use at most 0777"),
            ("--mode 777777777777777", "use at most 0777"),
            ("--owner a:b", "one name is expected"),
            ("--protocol http", "unknown (write raw, fastcgi)"),
            ("--workers 0", "not a whole number from 1 to 1024"),
            ("--workers 1025", "not a whole number from 1 to 1024"),
            ("--workers many", "not a whole number from 1 to 1024"),
            (
                "--connections-max 0",
                "not a whole number from 1 to 1000000",
            ),
            (
                "--connections-max 1000001",
                "not a whole number from 1 to 1000000",
            ),
            ("--connect-timeout 0s", "no time at all"),
            ("--connect-timeout off", "write a number and its unit"),
            ("--connect-timeout 5", "write a number and its unit"),
            ("--connect-timeout 366days", "too long"),
            ("--idle-timeout 0s", "or 'off'"),
            ("--idle-timeout 99999years", "too long"),
            ("--idle-timeout never", "write a number and its unit"),
            (
                "--drain-timeout 99999999999999999999s",
                "write a number and its unit",
            ),
            ("--log-level inof", "no level 'inof'"),
            (
                "--balance fair",
                "unknown (write least-connections, round-robin, random-two, first)",
            ),
            ("--eject-after 0", "not a whole number from 1 to 1000000"),
            ("--eject-after never", "not a whole number"),
            ("--eject-time 0s", "no time at all"),
            ("--nameserver dns.example", "not an address"),
            ("--nameserver 192.0.2.53:0", "port 0"),
            ("--resolve-with magic", "unknown (write dns, system)"),
            ("--dns-min-ttl 99ms", "too short (use at least 100ms)"),
            ("--dns-min-ttl 2m", "longer than --dns-max-ttl 60s"),
            ("--dns-max-ttl 500ms", "longer than --dns-max-ttl 500ms"),
            ("--dns-max-ttl 366days", "too long"),
            ("--dns-negative-hold off", "write a number and its unit"),
            ("--dns-keep-missing -1s", "write a number and its unit"),
            (
                "--resolve-with system --nameserver 192.0.2.53",
                "--nameserver 192.0.2.53:53 with --resolve-with system: the C library asks",
            ),
            (
                "--resolve-with system --backend srv:_a._tcp.b",
                "--backend srv:_a._tcp.b with --resolve-with system: the C library knows no SRV",
            ),
            ("--backend srv:php.internal", "not the name of a service"),
            ("--backend srv:_a._tcp.b:80", "a service has no port"),
            ("--log-format xml", "unknown (write text, json)"),
            ("--busy-poll 0s", "not a time to keep a core busy for"),
            ("--busy-poll 11ms", "from 1ns to 10ms"),
            ("--busy-poll -1ms", "write a number and its unit"),
            ("--pin=3", "unexpected value '3' for '--pin'"),
        ] {
            let error = usage_error(&format!("{REQUIRED} {options}"));
            assert!(error.contains(cause), "{options}: {error}");
        }
    }

    #[test]
    fn help_and_version_are_answers() {
        for words in [
            "--help",
            "-h",
            "--version",
            "-V",
            "help",
            "run --help",
            "help run",
        ] {
            assert!(
                matches!(parse_words(words), Err(Stop::Answer(_))),
                "{words}"
            );
        }
        let Err(Stop::Answer(version)) = parse_words("--version") else {
            panic!()
        };
        assert_eq!(
            version,
            format!("spliceway {}\n", env!("CARGO_PKG_VERSION"))
        );
    }

    #[test]
    fn no_arguments_get_the_help() {
        let stop = parse_from([OsString::from("spliceway")]);
        let Err(Stop::NoArguments(help)) = stop else {
            panic!("{stop:?}")
        };
        assert!(help.contains("Usage: spliceway"), "{help}");
    }

    #[test]
    fn arguments_that_are_not_text_are_refused() {
        use std::os::unix::ffi::OsStringExt;
        let path = OsString::from_vec(b"unix:/\xff".to_vec());
        let words = ["spliceway".into(), "run".into(), "--listen".into(), path];
        let stop = parse_from(words);
        assert!(matches!(stop, Err(Stop::Usage(_))), "{stop:?}");
    }

    proptest! {
        #[test]
        fn any_arguments_get_one_line(words in prop::collection::vec(
            r"run|demo|--listen|--listen=.{0,9}|--backend|--mode|unix:.{0,9}|b:1|--pin=?|-.{0,5}|.*",
            0..8,
        )) {
            let words = std::iter::once("spliceway".to_owned()).chain(words);
            if let Err(Stop::Usage(error)) = parse_from(words.map(OsString::from)) {
                let line = one_line(&error.to_string());
                prop_assert_eq!(line.lines().count(), 1);
                prop_assert!(line.ends_with("--help'"), "{}", line);
            }
        }
    }
}
