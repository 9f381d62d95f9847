//! The options of a route: where clients come in, where they go, and what becomes of them on the way.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::Refusal;
use super::fastcgi::FastcgiArguments;
use super::options::CONFIG;
use super::values::{
    NumberOrOff, Timeout, ValueError, count, number_or_off, positive_timeout,
    positive_timeout_or_off, timeout, timeout_or_off,
};
use crate::config::{
    Access, Account, ActiveChecks, BackendAddress, Balance, CONNECTIONS_MAX, CheckKind, Clients,
    DNS_TTL_FLOOR, Discovery, Ejection, Fastcgi, KEEPALIVE_MAX, KEEPALIVE_MIN, Limits,
    ListenAddress, MODE_MAX, NAME_SERVERS_MAX, NameServer, Protocol, ProxyProtocol, RefreshTimes,
    ResolveWith, Route, RouteName, SourceAddress, SourceAddresses, USER_TIMEOUT_MAX, UnixAddress,
    Upstreams, WORKERS_MAX,
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
                the option again for more backends: their addresses become one set."
    )]
    backend: Vec<BackendAddress>,

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
        value_name = "N|off",
        default_value = "off",
        value_parser = number_or_off,
        allow_hyphen_values = true,
        help = "Keep at most this many connections to each address open at one time, from 1 to \
                1000000; further clients wait in a queue. One worker thread then serves all of the \
                route, so that the limit is exact and the queue fair (see --shards). 'off' sets no \
                limit, and nobody waits."
    )]
    per_endpoint_max: NumberOrOff,

    #[arg(
        long,
        value_name = "N",
        default_value = "1024",
        value_parser = count(0..=CONNECTIONS_MAX),
        allow_hyphen_values = true,
        help = "Let at most this many clients wait for --per-endpoint-max, from 0 (nobody waits) to \
                1000000: first come, first served. A client that finds the queue full is closed."
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

impl RouteArguments {
    /// Checks what concerns several options at once.
    pub(super) fn validate(self, name: RouteName) -> Result<Route, Refusal> {
        self.check_listeners()?;
        let discovery = self.discovery()?;
        let upstreams = self.upstreams()?;
        let limits = self.limits()?;
        let refused_timeout = self.refused_timeout();
        let access = Access {
            mode: self.mode.unwrap_or(Access::MODE_DEFAULT),
            owner: self.owner,
            group: self.group,
        };
        let clients = Clients {
            users: self.allow_user,
            groups: self.allow_group,
            per_user_max: self.connections_max_per_user.0,
        };
        let protocol = match self.protocol {
            ProtocolName::Raw => {
                self.fastcgi.refuse_any()?;
                Protocol::Raw
            }
            ProtocolName::Fastcgi => Protocol::Fastcgi(Box::new(self.fastcgi.validate()?)),
        };
        Ok(Route {
            name,
            protocol,
            listeners: self.listen,
            access,
            clients,
            backends: self.backend,
            discovery,
            upstreams,
            balance: self.balance,
            ejection: Ejection {
                after: self.eject_after.0,
                time: self.eject_time,
            },
            connect_timeout: self.connect_timeout,
            refused_timeout,
            idle_timeout: self.idle_timeout.0,
            half_closed_timeout: self.half_closed_timeout.0,
            connections_max: NumberOrOff::part(self.route_connections_max),
            limits,
        })
    }

    fn discovery(&self) -> Result<Discovery, Refusal> {
        if self.nameserver.len() > NAME_SERVERS_MAX {
            return Err(Refusal::new(
                "nameserver",
                format!(
                    "--nameserver: given {} times (use at most {NAME_SERVERS_MAX})",
                    self.nameserver.len()
                ),
            ));
        }
        if let ResolveWith::System = self.resolve_with {
            if let Some(server) = self.nameserver.first() {
                return Err(Refusal::new(
                    "nameserver",
                    format!(
                        "--nameserver {server} with --resolve-with system: the C library asks those in \
                     /etc/resolv.conf (remove one of the two)"
                    ),
                ));
            }
            let is_service =
                |backend: &&BackendAddress| matches!(backend, BackendAddress::Service { .. });
            if let Some(service) = self.backend.iter().find(is_service) {
                return Err(Refusal::new(
                    "backend",
                    format!(
                        "--backend {service} with --resolve-with system: the C library knows no SRV \
                     records (remove --resolve-with or write HOST:PORT)"
                    ),
                ));
            }
        }
        if self.dns_min_ttl > self.dns_max_ttl {
            return Err(Refusal::new(
                "dns-min-ttl",
                format!(
                    "--dns-min-ttl {:?}: longer than --dns-max-ttl {:?} (exchange them, or give both)",
                    self.dns_min_ttl, self.dns_max_ttl
                ),
            ));
        }
        Ok(Discovery {
            name_servers: self.nameserver.clone(),
            race: self.dns_race,
            resolve_with: self.resolve_with,
            times: RefreshTimes {
                ttl_min: self.dns_min_ttl,
                ttl_max: self.dns_max_ttl,
                negative_hold: self.dns_negative_hold,
                keep_missing: self.dns_keep_missing,
            },
        })
    }

    fn upstreams(&self) -> Result<Upstreams, Refusal> {
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

    fn source(&self) -> Result<SourceAddresses, Refusal> {
        let mut source = SourceAddresses::default();
        for SourceAddress(ip) in &self.source_address {
            let taken = match *ip {
                IpAddr::V4(ip) => source.v4.replace(ip).is_some(),
                IpAddr::V6(ip) => source.v6.replace(ip).is_some(),
            };
            if taken {
                return Err(Refusal::new(
                    "source-address",
                    format!(
                        "--source-address {ip}: the second one of its family (give at most one for IPv4 \
                     and one for IPv6)"
                    ),
                ));
            }
        }
        let is_out_of_reach = |backend: &&BackendAddress| matches!(backend, BackendAddress::Literal(address) if !source.reach(address.ip()));
        match self.backend.iter().find(is_out_of_reach) {
            None => Ok(source),
            Some(backend) => Err(Refusal::new(
                "source-address",
                format!(
                    "--backend {backend} with --source-address {}: of another family (give a source \
                 address of the backend's family as well)",
                    self.source_address[0].0
                ),
            )),
        }
    }

    /// A FastCGI server would take the header for a broken record.
    fn proxy_protocol(&self) -> Result<ProxyProtocol, Refusal> {
        match (self.protocol, self.proxy_protocol) {
            (ProtocolName::Raw, version) => Ok(version),
            (ProtocolName::Fastcgi, ProxyProtocol::Off) => Ok(ProxyProtocol::Off),
            (ProtocolName::Fastcgi, _) => Err(Refusal::new(
                "proxy-protocol",
                "--proxy-protocol with --protocol fastcgi: a FastCGI server takes the header for a \
                 broken record (remove one of the two)"
                    .to_owned(),
            )),
        }
    }

    fn close_removed_after(&self) -> Result<Option<Duration>, Refusal> {
        let refuse = |problem: &str| {
            let given = self.removed_endpoint.join(" ");
            Err(Refusal::new(
                "removed-endpoint",
                format!("invalid value '{given}' for '--removed-endpoint': {problem}"),
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

    fn check_listeners(&self) -> Result<(), Refusal> {
        let mut seen = HashSet::new();
        for address in &self.listen {
            if !seen.insert(address) {
                return Err(Refusal::new(
                    "listen",
                    format!("--listen {address}: given twice (remove one)"),
                ));
            }
        }
        self.check_inherited()?;
        let is_abstract = |address: &&ListenAddress| {
            matches!(address, ListenAddress::Unix(UnixAddress::Abstract(_)))
        };
        let Some(address) = self.listen.iter().find(is_abstract) else {
            return Ok(());
        };
        let all_abstract = self.listen.iter().all(|address| is_abstract(&address));
        // Whoever gives a mode relies on it for every socket. An owner without a mode only widens
        // who may connect, so it is refused only where it would concern no socket at all.
        for (option, refused) in [
            ("mode", self.mode.is_some()),
            ("owner", self.owner.is_some() && all_abstract),
            ("group", self.group.is_some() && all_abstract),
        ] {
            if refused {
                return Err(Refusal::new(
                    option,
                    format!(
                        "--{option} with --listen {address}: abstract sockets have no permissions \
                     (remove --{option} or listen on unix:/PATH)"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// A descriptor belongs to one listener, and whoever opens a socket decides who may connect.
    fn check_inherited(&self) -> Result<(), Refusal> {
        let is_inherited =
            |address: &&ListenAddress| matches!(address, ListenAddress::Inherited(_));
        let mut inherited = self.listen.iter().filter(is_inherited);
        let Some(address) = inherited.next() else {
            return Ok(());
        };
        if let Some(other) = inherited.find(|other| address.overlaps(other)) {
            return Err(Refusal::new(
                "listen",
                format!(
                    "--listen {address} with --listen {other}: inherit takes all descriptors (remove \
                     one of the two)"
                ),
            ));
        }
        for (option, is_given, remedy) in [
            ("mode", self.mode.is_some(), "SocketMode="),
            ("owner", self.owner.is_some(), "SocketUser="),
            ("group", self.group.is_some(), "SocketGroup="),
        ] {
            if is_given {
                return Err(Refusal::new(
                    option,
                    format!(
                        "--{option} with --listen {address}: the socket unit sets it ({remedy}; remove \
                         --{option})"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// A web server that hears of a refusal can go on to its next server. Where the service manager has opened
    /// the socket, the same client may be what has the backend started: it waits, as it always has.
    fn refused_timeout(&self) -> Option<Duration> {
        let is_own = |address: &ListenAddress| matches!(address, ListenAddress::Unix(_));
        let is_short = self.protocol == ProtocolName::Fastcgi && self.listen.iter().all(is_own);
        let default = is_short.then_some(Fastcgi::REFUSED_TIMEOUT_DEFAULT);
        self.refused_timeout.or(default)
    }

    fn limits(&self) -> Result<Limits, Refusal> {
        let shards = self.shards;
        let refuse = |problem: String| Err(Refusal::new("shards", problem));
        match self.per_endpoint_max.0 {
            None if shards > 1 && self.protocol == ProtocolName::Raw => refuse(format!(
                "--shards {shards} without --per-endpoint-max: all worker threads serve a route \
                 that has no limit (remove --shards or give --per-endpoint-max)"
            )),
            Some(permits) if shards > permits.get() as usize => refuse(format!(
                "--shards {shards} with --per-endpoint-max {permits}: each shard needs a connection \
                 of its own (use at most {permits} shards)"
            )),
            per_endpoint_max => Ok(Limits {
                per_endpoint_max,
                queue_max: self.queue_max,
                queue_timeout: self.queue_timeout.0,
                shards: NonZeroUsize::new(shards).expect("its parser takes no number below 1"),
            }),
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
mod tests {
    use super::super::testing::{REQUIRED, parse_words, route_with, usage_error};
    use super::*;

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
        assert_eq!(limits, Limits::default());
        let limits =
            route_with("--per-endpoint-max 8 --queue-max 0 --queue-timeout off --shards 8").limits;
        assert_eq!(limits.per_endpoint_max, NonZeroU32::new(8));
        assert_eq!((limits.queue_max, limits.queue_timeout), (0, None));
        assert_eq!(limits.shards.get(), 8);
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
}
