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
        help = "Listen on this socket; repeatable",
        long_help = "Listen on this Unix socket: unix:/PATH, or unix:@NAME for an abstract one, which has no \
                     file and no permissions. Or listen on sockets, Unix or TCP, that the service manager passes: \
                     inherit:NAME for those with this name (FileDescriptorName= of the socket unit), inherit for all of \
                     them. Repeat the option for more sockets. A stale socket file is replaced; one on which a program \
                     still listens is an error."
    )]
    listen: Vec<ListenAddress>,

    #[arg(
        long,
        value_name = "ADDRESS",
        required_unless_present = CONFIG,
        help = "Connect to this backend; repeatable",
        long_help = "Connect sessions to this backend: HOST:PORT, where HOST is a name, an IPv4 address or an \
                     IPv6 address in brackets (tcp:HOST:PORT means the same); srv:_SERVICE._PROTO.NAME for SRV records; \
                     unix:/PATH or unix:@NAME for a Unix socket. A name that ends in a dot is not tried with search \
                     domains. Repeat the option for more backends: all of their addresses form one set. With 'HOST:PORT \
                     weight=3' each address of HOST gets three times the share of an address with the default weight, 1; \
                     SRV records have weights of their own."
    )]
    backend: Vec<Backend>,

    #[arg(
        long,
        value_name = "ADDRESS[:PORT]",
        help = "DNS server; repeatable [default: those of /etc/resolv.conf]",
        long_help = "Ask this name server instead of those in /etc/resolv.conf. May be given up to 8 times: \
                     the servers are asked in this order, the next one after silence or failure. The hosts file is still \
                     consulted first."
    )]
    nameserver: Vec<NameServer>,

    #[arg(
        long,
        help = "Ask all name servers at once",
        long_help = "Ask all name servers at once and use the first answer with addresses, instead of asking \
                     the next server after silence or failure. For name servers that all know the same names."
    )]
    dns_race: bool,

    #[arg(
        long,
        value_name = "WHO",
        value_enum,
        default_value_t = ResolveWith::Dns,
        hide_possible_values = true,
        help = "Resolve names with dns or system",
        long_help = "'dns' looks names up in the hosts file and then asks name servers. 'system' asks the C \
                     library every 10 seconds, for names that only nsswitch.conf knows; it does not support srv: \
                     backends."
    )]
    resolve_with: ResolveWith,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1s",
        value_parser = ttl,
        allow_hyphen_values = true,
        help = "Shortest time a DNS answer is used",
        long_help = "Use a DNS answer for at least this long, whatever its TTL; 100ms or more."
    )]
    dns_min_ttl: Duration,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "60s",
        value_parser = ttl,
        allow_hyphen_values = true,
        help = "Longest time a DNS answer is used",
        long_help = "Use a DNS answer for at most this long, whatever its TTL. A failed connection brings the \
                     next lookup forward, to at most one a second for each name."
    )]
    dns_max_ttl: Duration,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "60s",
        value_parser = timeout,
        allow_hyphen_values = true,
        help = "Keep addresses after NXDOMAIN",
        long_help = "How long addresses stay in use after name servers begin to say that the name does not \
                     exist or has no addresses. While name servers do not answer, addresses stay in use without limit."
    )]
    dns_negative_hold: Duration,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = timeout,
        allow_hyphen_values = true,
        help = "Keep addresses that an answer omits",
        long_help = "How long an address stays in use after it has disappeared from the answers, for name \
                     servers that return a different subset of the addresses each time."
    )]
    dns_keep_missing: Duration,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "off",
        value_parser = tcp_keepalive,
        allow_hyphen_values = true,
        help = "TCP keepalive for backend connections",
        long_help = "Send keepalive probes on a backend connection that has been idle for this long, in whole \
                     seconds from 1s to 9h, and then after every third of that time. Three unanswered probes break the \
                     connection, so a dead peer is noticed after about twice this time. 'off' sends none."
    )]
    tcp_keepalive: Timeout,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "off",
        value_parser = tcp_user_timeout,
        allow_hyphen_values = true,
        help = "Time limit for unacknowledged data",
        long_help = "Break a backend connection on which sent bytes or probes have not been acknowledged for \
                     this long, up to 24days. 'off' leaves it to the kernel, which takes about 15 minutes."
    )]
    tcp_user_timeout: Timeout,

    #[arg(
        long,
        value_name = "IP",
        help = "Connect from this IP [default: chosen by the kernel]",
        long_help = "Connect to backends from this address of the machine. May be given once for IPv4 and once \
                     for IPv6; endpoints of a family without one are not used."
    )]
    source_address: Vec<SourceAddress>,

    #[arg(
        long,
        value_name = "VERSION",
        value_enum,
        default_value_t = ProxyProtocol::Off,
        hide_possible_values = true,
        help = "Send a PROXY protocol header: off, v1 or v2",
        long_help = "Begin each backend connection with a PROXY protocol header. For clients of Unix sockets, \
                     'v1' sends PROXY UNKNOWN and 'v2' the listener's name; for TCP clients both send their addresses. \
                     Backends must expect the header."
    )]
    proxy_protocol: ProxyProtocol,

    #[arg(
        long,
        value_name = "HOW",
        num_args = 1..=2,
        default_value = "keep",
        help = "Sessions whose endpoint leaves the set",
        long_help = "What happens to a session whose endpoint is no longer among the addresses: 'keep' lets it \
                     finish, 'close-after 30s' ends it after that time unless the endpoint has come back."
    )]
    removed_endpoint: Vec<String>,

    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        default_value_t = Check::Off,
        hide_possible_values = true,
        help = "Active health checks: off, tcp or fastcgi",
        long_help = "Check every address periodically. 'tcp' connects. 'fastcgi' also sends FCGI_GET_VALUES; a \
                     server that accepts the connection and does not answer in time counts as busy, and stays in use. An \
                     address that fails three times in a row is taken out of use until two checks succeed; the last \
                     address never is."
    )]
    check: Check,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = ttl,
        allow_hyphen_values = true,
        help = "Time between two checks",
        long_help = "Time between two checks of an address, 100ms or more. A check may take as long, but at \
                     most 2s."
    )]
    check_interval: Duration,

    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        default_value_t = WhenDown::Wait,
        hide_possible_values = true,
        help = "With no endpoint up: wait, close, refuse",
        long_help = "What happens to clients while no endpoint accepts connections. 'wait' lets each wait \
                     until its own timeout. 'close' closes them at once, so that a web server tries its next server or \
                     reports the error itself. 'refuse' also moves the socket files out of the way, so that connecting \
                     fails. With 'close' and 'refuse' the endpoints are tried every 50ms until one is back."
    )]
    when_down: WhenDown,

    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        default_value_t = Balance::LeastConnections,
        hide_possible_values = true,
        help = "How to choose among addresses",
        long_help = "How an address is chosen for a session: 'least-connections' takes the one with the fewest \
                     connections of this worker thread (all of up to 16 addresses are compared, two random ones of \
                     more), \
                     'round-robin' takes turns, 'random-two' compares two random ones, and 'first' takes the first \
                     working \
                     address in the configured order and keeps the others as backups. All but 'first' respect \
                     weights; all \
                     of them respect the priorities of SRV records."
    )]
    balance: Balance,

    #[arg(
        long,
        value_name = "N|off",
        default_value = "5",
        value_parser = eject_after,
        help = "Failures in a row before ejection",
        long_help = "Stop using an address after this many failures in a row, for --eject-time. A failure is a \
                     connection that is refused or not answered, or one that is closed without an answer to what was \
                     sent. \
                     The last address is never ejected. 'off' ejects none."
    )]
    eject_after: EjectAfter,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "Time of the first ejection",
        long_help = "How long an address is ejected the first time; twice as long the next time, and so on, up \
                     to 300s."
    )]
    eject_time: Duration,

    #[arg(
        long,
        value_name = "OCTAL",
        value_parser = mode,
        help = "Permissions of the socket files, octal [default: 0660]",
        long_help = "Permission bits of the socket files, in octal: whoever may write may connect. Refused for \
                     abstract sockets, which have no permissions."
    )]
    mode: Option<u32>,

    #[arg(
        long,
        value_name = "USER",
        help = "Owner of the socket files [default: the user that starts the daemon]",
        long_help = "Owner of the socket files, a name or a number."
    )]
    owner: Option<Account>,

    #[arg(
        long,
        value_name = "GROUP",
        help = "Group of the socket files [default: the group that starts it]",
        long_help = "Group of the socket files, a name or a number. (For the user that the daemon itself runs \
                     as, see --user.)"
    )]
    group: Option<Account>,

    #[arg(
        long,
        value_name = "USER",
        help = "Serve only this user; repeatable [default: everybody]",
        long_help = "Serve only clients of this user, a name or a number; connections of other users are \
                     closed at once. Repeat the option for more users. Members of --allow-group are served as well."
    )]
    allow_user: Vec<Account>,

    #[arg(
        long,
        value_name = "GROUP",
        help = "Serve only this group; repeatable [default: everybody]",
        long_help = "Serve only clients that belong to this group, a name or a number, as their primary or a \
                     supplementary group. Repeat the option for more groups. Users of --allow-user are served as well."
    )]
    allow_group: Vec<Account>,

    #[arg(
        long,
        value_name = "N|off",
        default_value = "off",
        value_parser = number_or_off,
        allow_hyphen_values = true,
        help = "Most sessions of one user on this route",
        long_help = "The most client connections of one user on this route, from 1 to 1000000; further ones \
                     are closed at once. 'off' sets no limit."
    )]
    connections_max_per_user: NumberOrOff,

    #[arg(
        long,
        value_name = "N|off",
        value_parser = number_or_off,
        allow_hyphen_values = true,
        help = "Sessions per route [default: 3/4 of --connections-max]",
        long_help = "The most sessions of this route; further clients wait in its sockets' backlogs. 'off' \
                     sets no limit. The default applies where there are several routes."
    )]
    route_connections_max: Option<NumberOrOff>,

    #[arg(
        long,
        value_enum,
        default_value_t = ProtocolName::Raw,
        hide_possible_values = true,
        help = "What clients speak: raw or fastcgi",
        long_help = "'raw' relays bytes without looking at them. 'fastcgi' relays requests: each one gets a \
                     connection to a backend, and connections are shared between requests."
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
        help = "Time limit for reaching a backend",
        long_help = "How long a client may wait for a connection to a backend, name lookup included. Until \
                     then every address is tried, repeatedly."
    )]
    connect_timeout: Duration,

    #[arg(
        long,
        value_name = "DURATION",
        value_parser = timeout,
        allow_hyphen_values = true,
        help = "Time to retry when all refuse [default: depends]",
        long_help = "When every address refuses connections, keep retrying for this long after the first \
                     refusal in a row, and four times as long if the last connection before that succeeded, because a \
                     backend that has just worked is probably restarting. Later requests fail at their first refusal. \
                     The \
                     default is 250ms with --protocol fastcgi. It is the value of --connect-timeout with --protocol raw, \
                     and on inherited sockets, whose backend may still be starting for the same client."
    )]
    refused_timeout: Option<Duration>,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "off",
        value_parser = positive_timeout_or_off,
        allow_hyphen_values = true,
        help = "End sessions without traffic",
        long_help = "End a session in which no byte has moved in either direction for this long. Bytes that a \
                     peer reads from the kernel's buffers count; a peer that reads less than 64 KiB in this time (over \
                     TCP: less than a sixteenth of its receive buffer, which may have grown to megabytes) may still be \
                     taken for idle. A peer that does not read what it is sent gets up to twice the time."
    )]
    idle_timeout: Timeout,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "10m",
        value_parser = positive_timeout_or_off,
        allow_hyphen_values = true,
        help = "End silent half-closed sessions",
        long_help = "End a session of which one side has closed when the other side is silent for this long. \
                     While --connections-max is reached, a TCP client that may be gone makes way after 2s. 'off' does \
                     neither."
    )]
    half_closed_timeout: Timeout,

    #[arg(
        long,
        value_name = "N|auto|off",
        default_value = "off",
        value_parser = endpoint_max,
        allow_hyphen_values = true,
        help = "Most connections to each address",
        long_help = "The most connections to each address at one time, from 1 to 1000000; further clients wait in \
                     a queue. For PHP-FPM, set it to pm.max_children. One worker thread then serves the whole route, so \
                     that the limit is exact and the queue fair (see --shards). With --protocol fastcgi, 'auto' finds \
                     out how many workers PHP-FPM has for this daemon, from 1 to 64, and 'auto:MIN-MAX' within these \
                     bounds. 'off' sets no limit and has no queue; with --protocol fastcgi that is a warning at the \
                     start."
    )]
    per_endpoint_max: EndpointMaxOrOff,

    #[arg(
        long,
        value_name = "N",
        default_value = "1024",
        value_parser = count(0..=CONNECTIONS_MAX),
        allow_hyphen_values = true,
        help = "Most clients in the queue",
        long_help = "The most clients that wait because of --per-endpoint-max, from 0 (none may wait) to \
                     1000000. A client that finds the queue full is closed; a FastCGI request is answered with 503."
    )]
    queue_max: u32,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "10s",
        value_parser = positive_timeout_or_off,
        allow_hyphen_values = true,
        help = "Longest wait in that queue",
        long_help = "How long a client waits because of --per-endpoint-max before it is closed (FastCGI: \
                     answered with 503); 'off' for no limit. With --queue-order adaptive, requests may be turned away \
                     earlier in an overload."
    )]
    queue_timeout: Timeout,

    #[arg(
        long,
        value_name = "ORDER",
        value_enum,
        hide_possible_values = true,
        help = "fifo or adaptive [default: fifo; FastCGI: adaptive]",
        long_help = "The order in which clients waiting for --per-endpoint-max are served. 'fifo' is first \
                     come, first served. 'adaptive' (FastCGI only) is the same while waits are short; once every request \
                     has to wait for half a second (longer where scripts are slow), the newest is served first, and \
                     requests that have waited longer are answered with 503 and a Retry-After, until the queue is short \
                     again."
    )]
    queue_order: Option<QueueOrder>,

    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        value_parser = count(1..=WORKERS_MAX),
        allow_hyphen_values = true,
        help = "Worker threads that serve a limited route",
        long_help = "With --per-endpoint-max, the number of worker threads that serve the route, from 1 to \
                     1024, when one is not enough. Each has its share of the connections to every address, at least one, \
                     and a queue of its own."
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
