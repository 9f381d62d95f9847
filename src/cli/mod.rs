//! The command line: from arguments to a validated configuration, or to one line that says what is
//! wrong.
//!
//! The help texts are the reference of the options. What the programs of this package have in common
//! stands beside this: [`usage`] for errors and exit codes, [`values`] for numbers and times.

pub mod status;
pub mod usage;
pub mod values;

use std::ffi::OsString;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{
    Access, Account, ActiveChecks, BackendAddress, Balance, CONNECTIONS_MAX, CheckKind, Config,
    DNS_TTL_FLOOR, Discovery, Ejection, Engine, KEEPALIVE_MAX, KEEPALIVE_MIN, ListenAddress,
    LogFilter, LogFormat, Logging, MODE_MAX, NAME_SERVERS_MAX, NameServer, ProxyProtocol,
    RefreshTimes, ResolveWith, SourceAddress, SourceAddresses, TIMEOUT_MAX, USER_TIMEOUT_MAX,
    Upstreams, WORKERS_MAX,
};
use crate::demo::CONCURRENCY_MAX;
pub use usage::{Stop, UsageError};
use values::{ValueError, count, duration, positive_timeout, timeout};

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
    /// Show what the proxy does on this machine.
    Demo(DemoCommand),
}

/// `spliceway run`
#[derive(Clone, Debug)]
pub struct RunCommand {
    /// What the daemon needs.
    pub config: Config,
    /// What it says of itself.
    pub logging: Logging,
}

/// `spliceway demo`
#[derive(Clone, Debug)]
pub struct DemoCommand {
    /// How long each path is measured.
    pub duration: Duration,
    /// How many connections there are at one time.
    pub concurrency: NonZeroUsize,
    /// Which driver the proxy uses.
    pub engine: Engine,
}

/// Reads the command line of this process.
///
/// # Errors
/// If there is nothing to run; [`Stop::report`] says so to the user.
pub fn parse() -> Result<Cli, Stop> {
    parse_from(std::env::args_os())
}

/// Reads a command line, of which the first argument is the name of the program.
///
/// # Errors
/// As [`parse`].
pub fn parse_from(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Stop> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed: Arguments = usage::parse(&arguments)?;
    let command = match parsed.command {
        ArgumentsOf::Run(run) => {
            Command::Run(Box::new(run.validate().map_err(|problem| {
                usage::refuse::<Arguments>(&arguments, problem)
            })?))
        }
        ArgumentsOf::Demo(demo) => Command::Demo(demo.into()),
    };
    Ok(Cli { command })
}

#[derive(Parser)]
#[command(
    name = "spliceway",
    version,
    about = "Relays connections from Unix sockets to backends found by name.",
    after_help = "'spliceway run --help' lists what the proxy can be told."
)]
struct Arguments {
    #[command(subcommand)]
    command: ArgumentsOf,
}

#[derive(Subcommand)]
enum ArgumentsOf {
    #[command(
        about = "Run the proxy until it is told to stop.",
        long_about = "Run the proxy until SIGTERM or SIGINT: it then stops listening, lets running \
                      sessions finish for --drain-timeout, and ends.\n\n\
                      Example: spliceway run --listen unix:/run/app.sock --backend app.internal:9000"
    )]
    Run(Box<RunArguments>),
    #[command(
        about = "Run a backend, the proxy and a load on this machine, and compare the paths.",
        long_about = "Run a backend, the proxy and a load on this machine, and compare connections \
                      made directly with those made through the proxy. Nothing outside this machine \
                      is contacted and nothing is left behind."
    )]
    Demo(DemoArguments),
}

#[derive(Args)]
struct RunArguments {
    #[arg(
        long,
        value_name = "ADDRESS",
        required = true,
        help = "Listen on this Unix socket: unix:/PATH, or unix:@NAME for an abstract one. Give the \
                option again for more sockets. A socket file on which nobody listens is replaced."
    )]
    listen: Vec<ListenAddress>,

    #[arg(
        long,
        value_name = "ADDRESS",
        required = true,
        help = "Connect each session to this backend: HOST:PORT, where HOST is a name, an IPv4 \
                address or an IPv6 address in brackets (tcp:HOST:PORT is the same); \
                srv:_SERVICE._PROTO.NAME for what SRV records say; or unix:/PATH or unix:@NAME. Names are looked up again and \
                again while the proxy runs; one with a trailing dot skips the search domains. Give \
                the option again for more backends: their addresses become one set."
    )]
    backend: Vec<BackendAddress>,

    #[arg(
        long,
        value_name = "ADDRESS[:PORT]",
        help = "Ask this name server instead of those in /etc/resolv.conf. Give the option again for \
                more, at most 8: all of them are asked, and the first answer with addresses wins. \
                Names in the hosts file are not asked for."
    )]
    nameserver: Vec<NameServer>,

    #[arg(
        long,
        value_name = "WHO",
        value_enum,
        default_value_t = ResolveWith::Dns,
        hide_possible_values = true,
        help = "Look names up with 'dns': the hosts file, then name servers. Or with 'system': the C \
                library, every 10 seconds, for names that only nsswitch.conf knows; it has no srv: \
                names."
    )]
    resolve_with: ResolveWith,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1s",
        value_parser = ttl,
        allow_hyphen_values = true,
        help = "Believe a DNS answer for at least this time, whatever its TTL is; 100ms or more."
    )]
    dns_min_ttl: Duration,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "60s",
        value_parser = ttl,
        allow_hyphen_values = true,
        help = "Believe a DNS answer for at most this time, whatever its TTL is. A connect that fails \
                brings the next lookup forward, to one a second for each name."
    )]
    dns_max_ttl: Duration,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "60s",
        value_parser = timeout,
        allow_hyphen_values = true,
        help = "Keep the addresses of a name for this time after name servers began to say that it \
                does not exist or has none. While they say nothing, addresses stay without limit."
    )]
    dns_negative_hold: Duration,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = timeout,
        allow_hyphen_values = true,
        help = "Keep an address for this time after it has left the answer, for name servers that \
                answer with another part of the addresses each time."
    )]
    dns_keep_missing: Duration,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "off",
        value_parser = tcp_keepalive,
        allow_hyphen_values = true,
        help = "Probe a backend connection that has been idle for this time, in whole seconds from 1s \
                to 9h, then every third of it; three probes without an answer break the connection. \
                'off' sends none."
    )]
    tcp_keepalive: Timeout,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "off",
        value_parser = tcp_user_timeout,
        allow_hyphen_values = true,
        help = "Break a backend connection on which sent bytes, or probes, are not acknowledged for \
                this time, up to 24days; 'off' leaves it to the kernel, which takes about 15 minutes."
    )]
    tcp_user_timeout: Timeout,

    #[arg(
        long,
        value_name = "IP",
        help = "Connect to backends from this address of this machine. Give the option again for the \
                other family; endpoints of a family without one are not connected to."
    )]
    source_address: Vec<SourceAddress>,

    #[arg(
        long,
        value_name = "VERSION",
        value_enum,
        default_value_t = ProxyProtocol::Off,
        hide_possible_values = true,
        help = "Begin each backend connection with a header of the PROXY protocol: 'v1' (PROXY \
                UNKNOWN, as it has no Unix sockets), 'v2' (with the listener's name) or 'off'. \
                Backends must expect it."
    )]
    proxy_protocol: ProxyProtocol,

    #[arg(
        long,
        value_names = ["keep|close-after", "DURATION"],
        num_args = 1..=2,
        default_value = "keep",
        help = "What becomes of a session whose endpoint leaves the addresses: 'keep' lets it go on, \
                'close-after 30s' ends it after that time unless the endpoint is back."
    )]
    removed_endpoint: Vec<String>,

    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        default_value_t = Check::Off,
        hide_possible_values = true,
        help = "Check each address again and again by 'tcp' (a connection) or 'fastcgi' (an answer to \
                FCGI_GET_VALUES; without one in time the server is busy, and stays in use), or 'off'. \
                One that fails three times in a row is left out until it passes twice, but never the \
                last one."
    )]
    check: Check,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = ttl,
        allow_hyphen_values = true,
        help = "Check this often; 100ms or more. A check has this time, and 2s at most."
    )]
    check_interval: Duration,

    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        default_value_t = Balance::LeastConnections,
        hide_possible_values = true,
        help = "Spread sessions over addresses by 'least-connections' of the worker thread (of all up \
                to 16 addresses, of two that are drawn above), 'round-robin', 'random-two' (the one \
                of two with fewer connections), or 'first': the first one in the configured order \
                that works, the others as its backups. All but 'first' honour the weights of srv: \
                names, and all of them their priorities."
    )]
    balance: Balance,

    #[arg(
        long,
        value_name = "N|off",
        default_value = "5",
        value_parser = eject_after,
        help = "Leave an address out after this many failures in a row: connects that are refused or \
                not answered, and connections that are closed without an answer to what was sent. The \
                last address is never left out. 'off' leaves none out."
    )]
    eject_after: EjectAfter,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "Leave an address out for this time, twice as long when that happens again, and so on, \
                up to 300s."
    )]
    eject_time: Duration,

    #[arg(
        long,
        value_name = "OCTAL",
        value_parser = mode,
        help = "Give socket files this mode: who may write may connect. Abstract sockets have no \
                mode, so the option is refused with them. [default: 0660]"
    )]
    mode: Option<u32>,

    #[arg(
        long,
        value_name = "USER",
        help = "Give socket files to this user, by name or number. [default: who runs the proxy]"
    )]
    owner: Option<Account>,

    #[arg(
        long,
        value_name = "GROUP",
        help = "Give socket files to this group, by name or number. [default: that of who runs the \
                proxy]"
    )]
    group: Option<Account>,

    #[arg(
        long,
        value_enum,
        default_value_t = Protocol::Raw,
        hide_possible_values = true,
        help = "Relay sessions as this protocol. The only one is 'raw': bytes, and the ends of \
                streams, are passed on as they come."
    )]
    protocol: Protocol,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=WORKERS_MAX),
        help = "Serve sessions with this many threads, from 1 to 1024. [default: one for each core \
                that the process may use]"
    )]
    workers: Option<usize>,

    #[arg(
        long,
        help = "Pin each worker thread to a core of its own. This helps where nothing else runs on \
                those cores, and may harm elsewhere."
    )]
    pin: bool,

    #[arg(
        long,
        value_enum,
        default_value_t = Engine::Auto,
        hide_possible_values = true,
        help = ENGINE_HELP
    )]
    engine: Engine,

    #[arg(
        long,
        value_name = "N",
        default_value = "8192",
        value_parser = count(1..=CONNECTIONS_MAX),
        help = "Keep at most this many sessions open at one time, from 1 to 1000000. Further clients \
                wait in the sockets' backlogs."
    )]
    connections_max: u32,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "End a session that has no connection to a backend after this time, such as 500ms or \
                5s; looking up the name counts. Until then every address is tried, again and again."
    )]
    connect_timeout: Duration,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "off",
        value_parser = idle_timeout,
        allow_hyphen_values = true,
        help = "End a session in which no byte has moved for this time, such as 90s or 10m; 'off' \
                lets it stand for ever."
    )]
    idle_timeout: Timeout,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "30s",
        value_parser = drain_timeout,
        allow_hyphen_values = true,
        help = "When told to stop, wait this long for running sessions, then cut them; 'off' waits \
                for ever, 0s not at all."
    )]
    drain_timeout: Timeout,

    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t = LogFormat::Text,
        hide_possible_values = true,
        help = "Write the log to standard error as lines of 'text', or as 'json' with one object \
                for each line."
    )]
    log_format: LogFormat,

    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        help = "Log events of this level and above: off, error, warn, info, debug or trace. Levels \
                of single modules follow after commas, such as info,spliceway::resolver=debug."
    )]
    log_level: LogFilter,
}

/// The most failures in a row before an endpoint is left out. Who wants more wants 'off'.
const EJECT_AFTER_MAX: u32 = 1_000_000;

const ENGINE_HELP: &str = "Move bytes with 'io_uring', or with 'epoll', or let 'auto' take io_uring \
                           where the system allows it and epoll where it does not.";

#[derive(Args)]
struct DemoArguments {
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "3s",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "Measure each path for this time, such as 500ms or 3s."
    )]
    duration: Duration,

    #[arg(
        long,
        value_name = "N",
        default_value = "16",
        value_parser = count(1..=CONCURRENCY_MAX),
        help = "Keep this many connections busy at one time, from 1 to 128."
    )]
    concurrency: usize,

    #[arg(
        long,
        value_enum,
        default_value_t = Engine::Auto,
        hide_possible_values = true,
        help = ENGINE_HELP
    )]
    engine: Engine,
}

/// What the proxy knows of the bytes that it relays.
#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    /// Nothing: they may be any protocol.
    Raw,
}

/// Whether and how endpoints are checked.
#[derive(Clone, Copy, ValueEnum)]
enum Check {
    Off,
    Tcp,
    Fastcgi,
}

impl Check {
    fn kind(self) -> Option<CheckKind> {
        match self {
            Self::Off => None,
            Self::Tcp => Some(CheckKind::Tcp),
            Self::Fastcgi => Some(CheckKind::Fastcgi),
        }
    }
}

impl RunArguments {
    /// Checks what concerns several options at once.
    fn validate(self) -> Result<RunCommand, String> {
        // So far the configuration has no room for another one.
        let Protocol::Raw = self.protocol;
        self.check_listeners()?;
        let discovery = self.discovery()?;
        let upstreams = self.upstreams()?;
        let access = Access {
            mode: self.mode.unwrap_or(Access::MODE_DEFAULT),
            owner: self.owner,
            group: self.group,
        };
        let config = Config {
            listeners: self.listen,
            access,
            backends: self.backend,
            discovery,
            upstreams,
            balance: self.balance,
            ejection: Ejection {
                after: self.eject_after.0,
                time: self.eject_time,
            },
            workers: self.workers.and_then(NonZeroUsize::new),
            pin: self.pin,
            engine: self.engine,
            connections_max: self.connections_max,
            connect_timeout: self.connect_timeout,
            idle_timeout: self.idle_timeout.0,
            drain_timeout: self.drain_timeout.0,
        };
        Ok(RunCommand {
            config,
            logging: Logging {
                format: self.log_format,
                filter: self.log_level,
            },
        })
    }

    fn discovery(&self) -> Result<Discovery, String> {
        if self.nameserver.len() > NAME_SERVERS_MAX {
            return Err(format!(
                "--nameserver: given {} times (use at most {NAME_SERVERS_MAX})",
                self.nameserver.len()
            ));
        }
        if let ResolveWith::System = self.resolve_with {
            if let Some(server) = self.nameserver.first() {
                return Err(format!(
                    "--nameserver {server} with --resolve-with system: the C library asks those in \
                     /etc/resolv.conf (remove one of the two)"
                ));
            }
            let is_service =
                |backend: &&BackendAddress| matches!(backend, BackendAddress::Service { .. });
            if let Some(service) = self.backend.iter().find(is_service) {
                return Err(format!(
                    "--backend {service} with --resolve-with system: the C library knows no SRV \
                     records (remove --resolve-with or write HOST:PORT)"
                ));
            }
        }
        if self.dns_min_ttl > self.dns_max_ttl {
            return Err(format!(
                "--dns-min-ttl {:?}: longer than --dns-max-ttl {:?} (exchange them, or give both)",
                self.dns_min_ttl, self.dns_max_ttl
            ));
        }
        Ok(Discovery {
            name_servers: self.nameserver.clone(),
            resolve_with: self.resolve_with,
            times: RefreshTimes {
                ttl_min: self.dns_min_ttl,
                ttl_max: self.dns_max_ttl,
                negative_hold: self.dns_negative_hold,
                keep_missing: self.dns_keep_missing,
            },
        })
    }

    fn upstreams(&self) -> Result<Upstreams, String> {
        Ok(Upstreams {
            tcp_keepalive: self.tcp_keepalive.0,
            tcp_user_timeout: self.tcp_user_timeout.0,
            source: self.source()?,
            proxy_protocol: self.proxy_protocol()?,
            close_removed_after: self.close_removed_after()?,
            checks: self.check.kind().map(|kind| ActiveChecks {
                kind,
                interval: self.check_interval,
            }),
        })
    }

    fn source(&self) -> Result<SourceAddresses, String> {
        let mut source = SourceAddresses::default();
        for SourceAddress(ip) in &self.source_address {
            let taken = match *ip {
                IpAddr::V4(ip) => source.v4.replace(ip).is_some(),
                IpAddr::V6(ip) => source.v6.replace(ip).is_some(),
            };
            if taken {
                return Err(format!(
                    "--source-address {ip}: the second one of its family (give at most one for IPv4 \
                     and one for IPv6)"
                ));
            }
        }
        let is_out_of_reach = |backend: &&BackendAddress| matches!(backend, BackendAddress::Literal(address) if !source.reach(address.ip()));
        match self.backend.iter().find(is_out_of_reach) {
            None => Ok(source),
            Some(backend) => Err(format!(
                "--backend {backend} with --source-address {}: of another family (give a source \
                 address of the backend's family as well)",
                self.source_address[0].0
            )),
        }
    }

    /// A FastCGI server would take the header for a broken record.
    fn proxy_protocol(&self) -> Result<ProxyProtocol, String> {
        match self.protocol {
            Protocol::Raw => Ok(self.proxy_protocol),
        }
    }

    fn close_removed_after(&self) -> Result<Option<Duration>, String> {
        let refuse = |problem: &str| {
            let given = self.removed_endpoint.join(" ");
            Err(format!(
                "invalid value '{given}' for '--removed-endpoint': {problem}"
            ))
        };
        let words: Vec<&str> = self.removed_endpoint.iter().map(String::as_str).collect();
        match words[..] {
            ["keep"] => Ok(None),
            ["close-after", time] => match timeout(time) {
                Ok(time) => Ok(Some(time)),
                Err(error) => refuse(&error.to_string()),
            },
            ["close-after"] => refuse("the time is missing (write for example close-after 30s)"),
            _ => refuse("unknown (write keep, or for example close-after 30s)"),
        }
    }

    fn check_listeners(&self) -> Result<(), String> {
        for (index, address) in self.listen.iter().enumerate() {
            if self.listen[..index].contains(address) {
                return Err(format!("--listen {address}: given twice (remove one)"));
            }
        }
        let is_abstract = |address: &&ListenAddress| matches!(address, ListenAddress::Abstract(_));
        let Some(address) = self.listen.iter().find(is_abstract) else {
            return Ok(());
        };
        let all_abstract = self.listen.iter().all(|address| is_abstract(&address));
        // Whoever gives a mode relies on it for every socket. An owner without a mode only widens
        // who may connect, so it is refused only where it would concern no socket at all.
        for (option, refused) in [
            ("--mode", self.mode.is_some()),
            ("--owner", self.owner.is_some() && all_abstract),
            ("--group", self.group.is_some() && all_abstract),
        ] {
            if refused {
                return Err(format!(
                    "{option} with --listen {address}: abstract sockets have no permissions \
                     (remove {option} or listen on unix:/PATH)"
                ));
            }
        }
        Ok(())
    }
}

impl From<DemoArguments> for DemoCommand {
    fn from(arguments: DemoArguments) -> Self {
        Self {
            duration: arguments.duration,
            concurrency: NonZeroUsize::new(arguments.concurrency)
                .expect("its parser takes no number below 1"),
            engine: arguments.engine,
        }
    }
}

/// A timeout that can be turned off. It is a type of its own because clap takes an `Option` for
/// whether the option was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timeout(Option<Duration>);

/// A number of failures, or none at all: a type of its own as [`Timeout`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EjectAfter(Option<NonZeroU32>);

fn eject_after(text: &str) -> Result<EjectAfter, ValueError> {
    if text == "off" {
        return Ok(EjectAfter(None));
    }
    let number = count(1..=EJECT_AFTER_MAX)(text)?;
    Ok(EjectAfter(NonZeroU32::new(number)))
}

/// `660`, `0660` or `0o660`
fn mode(text: &str) -> Result<u32, ValueError> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    // The standard parser takes a plus sign, which nobody means.
    if digits.is_empty() || !digits.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
        return Err(ValueError::Mode);
    }
    match u32::from_str_radix(digits, 8) {
        Ok(mode @ ..=MODE_MAX) => Ok(mode),
        _ => Err(ValueError::ModeTooWide),
    }
}

fn ttl(text: &str) -> Result<Duration, ValueError> {
    match timeout(text)? {
        ttl if ttl < DNS_TTL_FLOOR => Err(ValueError::TtlTooShort),
        ttl => Ok(ttl),
    }
}

fn tcp_keepalive(text: &str) -> Result<Timeout, ValueError> {
    match drain_timeout(text)? {
        Timeout(Some(time)) if !(KEEPALIVE_MIN..=KEEPALIVE_MAX).contains(&time) => {
            Err(ValueError::Keepalive)
        }
        timeout => Ok(timeout),
    }
}

fn tcp_user_timeout(text: &str) -> Result<Timeout, ValueError> {
    /// The kernel's unit; it takes 0 for its default.
    const LEAST: Duration = Duration::from_millis(1);
    match drain_timeout(text)? {
        Timeout(Some(time)) if !(LEAST..=USER_TIMEOUT_MAX).contains(&time) => {
            Err(ValueError::UserTimeout)
        }
        timeout => Ok(timeout),
    }
}

fn idle_timeout(text: &str) -> Result<Timeout, ValueError> {
    match drain_timeout(text)? {
        Timeout(Some(Duration::ZERO)) => Err(ValueError::ZeroNotOff),
        timeout => Ok(timeout),
    }
}

fn drain_timeout(text: &str) -> Result<Timeout, ValueError> {
    if text == "off" {
        return Ok(Timeout(None));
    }
    match duration(text)? {
        duration if duration > TIMEOUT_MAX => Err(ValueError::TooLongNotOff),
        duration => Ok(Timeout(Some(duration))),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use proptest::prelude::*;

    use super::usage::one_line;
    use super::*;

    const REQUIRED: &str = "run --listen unix:/a --backend b:1";

    fn parse_words(words: &str) -> Result<Cli, Stop> {
        parse_from(
            std::iter::once("spliceway")
                .chain(words.split(' '))
                .map(OsString::from),
        )
    }

    fn run(words: &str) -> RunCommand {
        match parse_words(words) {
            Ok(Cli {
                command: Command::Run(run),
            }) => *run,
            other => panic!("{words}: {other:?}"),
        }
    }

    fn run_with(options: &str) -> RunCommand {
        run(&format!("{REQUIRED} {options}"))
    }

    fn usage_error(words: &str) -> String {
        match parse_words(words) {
            Err(Stop::Usage(error)) => one_line(&error.to_string()),
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn run_has_the_documented_defaults() {
        let RunCommand { config, logging } = run(REQUIRED);
        assert_eq!(config.listeners, [ListenAddress::Path("/a".into())]);
        assert_eq!(config.backends, ["b:1".parse().unwrap()]);
        assert_eq!(config.access, Access::default());
        assert_eq!(config.access.mode, 0o660);
        assert_eq!(
            (config.workers, config.pin, config.engine),
            (None, false, Engine::Auto)
        );
        assert_eq!(config.discovery, Discovery::default());
        assert_eq!(config.upstreams, Upstreams::default());
        assert_eq!(config.connections_max, 8192);
        assert_eq!(config.connect_timeout, Duration::from_secs(5));
        assert_eq!(config.idle_timeout, None);
        assert_eq!(config.drain_timeout, Some(Duration::from_secs(30)));
        assert_eq!(logging.format, LogFormat::Text);
        assert_eq!(logging.filter.as_str(), "info");
    }

    #[test]
    fn run_takes_every_option() {
        let RunCommand { config, logging } = run_with(
            "--listen unix:@c --backend [::1]:2 --owner nginx --group 33 --protocol raw \
             --workers 1024 --pin --engine io_uring --connections-max 1000000 \
             --connect-timeout 500ms --idle-timeout 10m --drain-timeout off --log-format json \
             --log-level debug --nameserver 192.0.2.53 --nameserver [::1]:5353 --resolve-with dns \
             --dns-min-ttl 100ms --dns-max-ttl 1h --dns-negative-hold 0s --dns-keep-missing 5m \
             --backend srv:_php._tcp.internal --tcp-keepalive 60s --tcp-user-timeout 30s \
             --source-address 192.0.2.10 --source-address 2001:db8::1 --proxy-protocol v2 \
             --removed-endpoint close-after 30s --check fastcgi --check-interval 100ms",
        );
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
        };
        assert_eq!(config.upstreams, expected);
        let Discovery {
            name_servers,
            resolve_with,
            times,
        } = &config.discovery;
        assert_eq!(name_servers[0].to_string(), "192.0.2.53:53");
        assert_eq!(name_servers[1].to_string(), "[::1]:5353");
        assert_eq!(*resolve_with, ResolveWith::Dns);
        assert_eq!(times.ttl_min, Duration::from_millis(100));
        assert_eq!(times.ttl_max, Duration::from_secs(3600));
        assert_eq!(times.negative_hold, Duration::ZERO);
        assert_eq!(times.keep_missing, Duration::from_secs(300));
        assert_eq!(config.listeners.len(), 2);
        assert_eq!(config.backends.len(), 3);
        assert_eq!(config.access.owner, Some(Account::Name("nginx".to_owned())));
        assert_eq!(config.access.group, Some(Account::Id(33)));
        assert_eq!(config.workers, NonZeroUsize::new(1024));
        assert_eq!((config.pin, config.engine), (true, Engine::IoUring));
        assert_eq!(config.connections_max, 1_000_000);
        assert_eq!(config.connect_timeout, Duration::from_millis(500));
        assert_eq!(config.idle_timeout, Some(Duration::from_secs(600)));
        assert_eq!(config.drain_timeout, None);
        assert_eq!(logging.format, LogFormat::Json);
        assert_eq!(logging.filter.as_str(), "debug");
    }

    #[test]
    fn modes_are_octal_however_they_are_written() {
        for text in ["660", "0660", "0o660", "0o0660"] {
            assert_eq!(
                run_with(&format!("--mode {text}")).config.access.mode,
                0o660,
                "{text}"
            );
        }
        assert_eq!(run_with("--mode 0777").config.access.mode, 0o777);
        assert_eq!(run_with("--mode 0").config.access.mode, 0);
    }

    #[test]
    fn a_drain_may_take_no_time() {
        assert_eq!(
            run_with("--drain-timeout 0s").config.drain_timeout,
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn an_owner_goes_with_paths_beside_abstract_names() {
        assert!(
            run_with("--listen unix:@c --owner 0 --group 0")
                .config
                .access
                .owner
                .is_some()
        );
    }

    #[test]
    fn demo_has_defaults_and_options() {
        let Ok(Cli {
            command: Command::Demo(demo),
        }) = parse_words("demo")
        else {
            panic!()
        };
        assert_eq!(
            (demo.duration, demo.concurrency.get()),
            (Duration::from_secs(3), 16)
        );
        assert_eq!(demo.engine, Engine::Auto);
        let words = "demo --duration 1s --concurrency 2 --engine epoll";
        let Ok(Cli {
            command: Command::Demo(demo),
        }) = parse_words(words)
        else {
            panic!()
        };
        assert_eq!(
            (demo.duration, demo.concurrency.get()),
            (Duration::from_secs(1), 2)
        );
        assert_eq!(demo.engine, Engine::Epoll);
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
                "unknown command 'rum' (a similar one is 'run'); see 'spliceway --help'",
            ),
            (
                "--quiet",
                "unexpected argument '--quiet'; see 'spliceway --help'",
            ),
            (
                "demo 3s",
                "unexpected argument '3s'; see 'spliceway demo --help'",
            ),
            (
                "demo --engine kqueue",
                "invalid value 'kqueue' for '--engine <ENGINE>': unknown (write auto, io_uring, \
                 epoll); see 'spliceway demo --help'",
            ),
            (
                "demo --duration 1s --duration 2s",
                "'--duration <DURATION>': given more than once (remove all but one); see 'spliceway \
                 demo --help'",
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
            ("--protocol http", "unknown (write raw)"),
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
            ("--pin=3", "unexpected value '3' for '--pin'"),
        ] {
            let error = usage_error(&format!("{REQUIRED} {options}"));
            assert!(error.contains(cause), "{options}: {error}");
        }
    }

    #[test]
    fn ejection_can_be_set_and_turned_off() {
        let config = |options| run_with(options).config;
        assert_eq!(run(REQUIRED).config.ejection, Ejection::default());
        assert_eq!(run(REQUIRED).config.balance, Balance::LeastConnections);
        assert_eq!(config("--balance first").balance, Balance::First);
        assert_eq!(config("--eject-after off").ejection.after, None);
        let ejection = config("--eject-after 3 --eject-time 1m").ejection;
        assert_eq!(ejection.after, NonZeroU32::new(3));
        assert_eq!(ejection.time, Duration::from_secs(60));
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
    fn help_and_version_are_answers() {
        for words in [
            "--help",
            "-h",
            "--version",
            "-V",
            "help",
            "run --help",
            "help run",
            "demo -h",
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
