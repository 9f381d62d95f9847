//! The options of a route: where clients come in, where they go, and what becomes of them on the way.

mod validate;

use std::num::NonZeroU32;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::fastcgi::FastcgiArguments;
use super::options::CONFIG;
use super::values::{
    NumberOrOff, Timeout, ValueError, count, number_or_off, positive_timeout,
    positive_timeout_or_off, timeout, timeout_or_off,
};
use crate::config::{
    Account, AutoRange, Backend, Balance, CONNECTIONS_MAX, CheckKind, DNS_TTL_FLOOR, EndpointMax,
    KEEPALIVE_MAX, KEEPALIVE_MIN, ListenAddress, MODE_MAX, NameServer, ProxyProtocol, QueueOrder,
    ResolveWith, SourceAddress, USER_TIMEOUT_MAX, WORKERS_MAX, WhenDown,
};

/// What a route can be told.
#[derive(Args)]
pub(super) struct RouteArguments {
    #[arg(
        long,
        value_name = "ADDRESS",
        required_unless_present = CONFIG,
        help = "Listen on this Unix socket: unix:/PATH, or unix:@NAME for an abstract one. Or on sockets, \
                Unix or TCP, that the service manager has opened and passes: inherit:NAME for those of \
                this name (FileDescriptorName= of the socket unit), inherit for all of them. Give the \
                option again for more sockets. A socket file on which nobody listens is replaced."
    )]
    listen: Vec<ListenAddress>,

    #[arg(
        long,
        value_name = "ADDRESS",
        required_unless_present = CONFIG,
        help = "Connect each session to this backend: HOST:PORT, where HOST is a name, an IPv4 \
                address or an IPv6 address in brackets (tcp:HOST:PORT is the same); \
                srv:_SERVICE._PROTO.NAME for what SRV records say; or unix:/PATH or unix:@NAME. \
                Names are looked up again and again while the proxy runs; one with a trailing dot skips the search domains. Give \
                the option again for more backends: their addresses become one set. 'HOST:PORT weight=3' has \
                each of its addresses get three times as much as one with the default, 1; SRV records have \
                weights of their own."
    )]
    backend: Vec<Backend>,

    #[arg(
        long,
        value_name = "ADDRESS[:PORT]",
        help = "Ask this name server instead of those in /etc/resolv.conf. Give the option again for \
                more, at most 8: they are asked in this order, the next one on silence or failure. \
                Names in the hosts file are not asked for. [default: those in /etc/resolv.conf]"
    )]
    nameserver: Vec<NameServer>,

    #[arg(
        long,
        help = "Ask all name servers at once and use the first answer with addresses, instead of the \
                next one on silence or failure. For name servers that all know the same names"
    )]
    dns_race: bool,

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
                other family; endpoints of a family without one are not connected to. [default: the kernel's choice]"
    )]
    source_address: Vec<SourceAddress>,

    #[arg(
        long,
        value_name = "VERSION",
        value_enum,
        default_value_t = ProxyProtocol::Off,
        hide_possible_values = true,
        help = "Begin each backend connection with a header of the PROXY protocol: 'v1' (PROXY \
                UNKNOWN for clients of Unix sockets, which it does not have), 'v2' (with the \
                listener's name for these) or 'off'. TCP clients are told with their addresses. \
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
        default_value_t = WhenDown::Wait,
        hide_possible_values = true,
        help = "While no endpoint takes connections, let clients 'wait' for one, each for its time, or 'close' them at \
                once, so that a web server goes to its next server or says so itself, or 'refuse' them: the sockets \
                are away from their paths, and connects fail. Endpoints are then looked at every 50ms until one is back."
    )]
    when_down: WhenDown,

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
        help = "Give socket files to this user, by name or number. [default: who starts the proxy]"
    )]
    owner: Option<Account>,

    #[arg(
        long,
        value_name = "GROUP",
        help = "Give socket files to this group, by name or number. [default: that of who starts the \
                proxy; for the proxy itself see --user]"
    )]
    group: Option<Account>,

    #[arg(
        long,
        value_name = "USER",
        help = "Serve clients of this user only, by name or number: those of others are closed at once. \
                Give the option again for more users; members of --allow-group are served as well. [default: everybody \
                who may connect]"
    )]
    allow_user: Vec<Account>,

    #[arg(
        long,
        value_name = "GROUP",
        help = "Serve clients that belong to this group only, by name or number, as their own group or a \
                supplementary one. Give the option again for more groups; users of --allow-user are served \
                as well. [default: everybody who may connect]"
    )]
    allow_group: Vec<Account>,

    #[arg(
        long,
        value_name = "N|off",
        default_value = "off",
        value_parser = number_or_off,
        allow_hyphen_values = true,
        help = "Keep at most this many client connections of each user open at one time, from 1 to \
                1000000: further ones are closed at once. 'off' sets no limit."
    )]
    connections_max_per_user: NumberOrOff,

    #[arg(
        long,
        value_name = "N|off",
        value_parser = number_or_off,
        allow_hyphen_values = true,
        help = "Let this route have at most this many of the sessions of --connections-max; further clients wait \
                in its sockets' backlogs. 'off' sets no limit. [default: 3/4 of --connections-max where \
                there are several routes]"
    )]
    route_connections_max: Option<NumberOrOff>,

    #[arg(
        long,
        value_enum,
        default_value_t = ProtocolName::Raw,
        hide_possible_values = true,
        help = "Relay sessions as this protocol. 'raw': bytes, and the ends of streams, are passed on \
                as they come. 'fastcgi': each request of a client is sent on a connection of its own \
                choice, and connections are used again."
    )]
    protocol: ProtocolName,

    #[command(flatten)]
    fastcgi: FastcgiArguments,

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
        value_name = "DURATION",
        value_parser = timeout,
        allow_hyphen_values = true,
        help = "When every address refuses connects, go on asking for this time after the first refusal \
                in a row, and for four times as long where the last connect before that came through: \
                what starts again is back by then. Later requests end with their first refusal. \
                [default: 250ms with --protocol fastcgi on sockets of spliceway's own; with inherited ones, whose \
                backend may be starting for the same client, and with --protocol raw as long as \
                --connect-timeout]"
    )]
    refused_timeout: Option<Duration>,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "off",
        value_parser = positive_timeout_or_off,
        allow_hyphen_values = true,
        help = "End a session in which no byte has moved for this time, such as 90s or 10m; 'off' \
                lets it stand for ever."
    )]
    idle_timeout: Timeout,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "10m",
        value_parser = positive_timeout_or_off,
        allow_hyphen_values = true,
        help = "End a session of which one side has ended when the other is silent for this time. A client \
                over TCP that may be gone also makes way, after 2s, while --connections-max is reached. \
                'off' does neither."
    )]
    half_closed_timeout: Timeout,

    #[arg(
        long,
        value_name = "N|auto|off",
        default_value = "off",
        value_parser = endpoint_max,
        allow_hyphen_values = true,
        help = "Keep at most this many connections to each address open at one time, from 1 to \
                1000000; further clients wait in a queue. One worker thread then serves all of the \
                route, so that the limit is exact and the queue fair (see --shards). With --protocol \
                fastcgi, 'auto' finds out how many workers PHP-FPM has for this daemon, from 1 to 64, \
                and 'auto:MIN-MAX' within these bounds. 'off' sets no limit, and nobody waits."
    )]
    per_endpoint_max: EndpointMaxOrOff,

    #[arg(
        long,
        value_name = "N",
        default_value = "1024",
        value_parser = count(0..=CONNECTIONS_MAX),
        allow_hyphen_values = true,
        help = "Let at most this many clients wait for --per-endpoint-max, from 0 (nobody waits) to \
                1000000, in the order of --queue-order. A client that finds the queue full is closed."
    )]
    queue_max: u32,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "10s",
        value_parser = positive_timeout_or_off,
        allow_hyphen_values = true,
        help = "Close a client that has waited for --per-endpoint-max for this time; 'off' lets it \
                wait for ever."
    )]
    queue_timeout: Timeout,

    #[arg(
        long,
        value_name = "ORDER",
        value_enum,
        hide_possible_values = true,
        help = "Serve clients that wait for --per-endpoint-max first come, first served ('fifo'); or so only while they are \
                served soon ('adaptive', FastCGI only): when all of them have to wait for half a second, newest first, \
                and requests that have waited for so long are answered with a 503 that says when to come back. \
                [default: adaptive with --protocol fastcgi, fifo with raw]"
    )]
    queue_order: Option<QueueOrder>,

    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        value_parser = count(1..=WORKERS_MAX),
        allow_hyphen_values = true,
        help = "With --per-endpoint-max, serve the route with this many worker threads, from 1 to \
                1024, when one is not enough. Each has its part of the connections of every address, \
                at least one, and a queue of its own."
    )]
    shards: usize,
}

/// The most failures in a row before an endpoint is left out. Who wants more wants 'off'.
const EJECT_AFTER_MAX: u32 = 1_000_000;

/// What the proxy knows of the bytes that it relays.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProtocolName {
    /// Nothing: they may be any protocol.
    Raw,
    Fastcgi,
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

/// The most connections to an endpoint, or no limit: a type of its own as [`Timeout`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EndpointMaxOrOff(Option<EndpointMax>);

fn endpoint_max(text: &str) -> Result<EndpointMaxOrOff, ValueError> {
    let Some(bounds) = text.strip_prefix("auto") else {
        let NumberOrOff(number) = number_or_off(text)?;
        return Ok(EndpointMaxOrOff(number.map(EndpointMax::Fixed)));
    };
    let range = match bounds.strip_prefix(':') {
        None if bounds.is_empty() => Some(AutoRange::default()),
        None => None,
        Some(bounds) => bounds.split_once('-').and_then(|(least, most)| {
            let number = count(1..=CONNECTIONS_MAX);
            AutoRange::new(number(least).ok()?, number(most).ok()?)
        }),
    };
    let range = range.ok_or(ValueError::AutoRange)?;
    Ok(EndpointMaxOrOff(Some(EndpointMax::Auto(range))))
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
    match timeout_or_off(text)? {
        Timeout(Some(time)) if !(KEEPALIVE_MIN..=KEEPALIVE_MAX).contains(&time) => {
            Err(ValueError::Keepalive)
        }
        timeout => Ok(timeout),
    }
}

fn tcp_user_timeout(text: &str) -> Result<Timeout, ValueError> {
    /// The kernel's unit; it takes 0 for its default.
    const LEAST: Duration = Duration::from_millis(1);
    match timeout_or_off(text)? {
        Timeout(Some(time)) if !(LEAST..=USER_TIMEOUT_MAX).contains(&time) => {
            Err(ValueError::UserTimeout)
        }
        timeout => Ok(timeout),
    }
}

#[cfg(test)]
mod tests;
