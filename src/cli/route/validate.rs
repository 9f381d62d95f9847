//! What the options of a route come to together, and which of them do not go together.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::super::Conflict;
use super::super::values::{NumberOrOff, timeout};
use super::{ProtocolName, RouteArguments};
use crate::config::{
    Access, ActiveChecks, Backend, BackendAddress, Clients, ConnectionLimits, Discovery, Ejection,
    EndpointMax, Fastcgi, ListenAddress, NAME_SERVERS_MAX, ProxyProtocol, QueueOrder, RefreshTimes,
    ResolveWith, Route, RouteName, RouteProtocol, SourceAddress, SourceAddresses, UnixAddress,
    Upstreams, WhenDown,
};

impl RouteArguments {
    /// Checks what concerns several options at once.
    pub(in super::super) fn validate(self, name: RouteName) -> Result<Route, Conflict> {
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
                RouteProtocol::Raw
            }
            ProtocolName::Fastcgi => RouteProtocol::Fastcgi(Box::new(self.fastcgi.validate()?)),
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

    fn discovery(&self) -> Result<Discovery, Conflict> {
        if self.nameserver.len() > NAME_SERVERS_MAX {
            return Err(Conflict::new(
                "nameserver",
                format!(
                    "--nameserver: given {} times (use at most {NAME_SERVERS_MAX})",
                    self.nameserver.len()
                ),
            ));
        }
        if let ResolveWith::System = self.resolve_with {
            if let Some(server) = self.nameserver.first() {
                return Err(Conflict::new(
                    "nameserver",
                    format!(
                        "--nameserver {server} with --resolve-with system: the C library asks those in \
                     /etc/resolv.conf (remove one of the two)"
                    ),
                ));
            }
            let is_service =
                |backend: &&Backend| matches!(backend.address, BackendAddress::Service { .. });
            if let Some(service) = self.backend.iter().find(is_service) {
                return Err(Conflict::new(
                    "backend",
                    format!(
                        "--backend {service} with --resolve-with system: the C library knows no SRV \
                     records (remove --resolve-with or write HOST:PORT)"
                    ),
                ));
            }
        }
        if self.dns_min_ttl > self.dns_max_ttl {
            return Err(Conflict::new(
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

    fn upstreams(&self) -> Result<Upstreams, Conflict> {
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
            when_down: self.when_down,
        })
    }

    fn source(&self) -> Result<SourceAddresses, Conflict> {
        let mut source = SourceAddresses::default();
        for SourceAddress(ip) in &self.source_address {
            let taken = match *ip {
                IpAddr::V4(ip) => source.v4.replace(ip).is_some(),
                IpAddr::V6(ip) => source.v6.replace(ip).is_some(),
            };
            if taken {
                return Err(Conflict::new(
                    "source-address",
                    format!(
                        "--source-address {ip}: the second one of its family (give at most one for IPv4 \
                     and one for IPv6)"
                    ),
                ));
            }
        }
        let is_out_of_reach = |backend: &&Backend| matches!(backend.address, BackendAddress::Literal(address) if !source.reach(address.ip()));
        match self.backend.iter().find(is_out_of_reach) {
            None => Ok(source),
            Some(backend) => Err(Conflict::new(
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
    fn proxy_protocol(&self) -> Result<ProxyProtocol, Conflict> {
        match (self.protocol, self.proxy_protocol) {
            (ProtocolName::Raw, version) => Ok(version),
            (ProtocolName::Fastcgi, ProxyProtocol::Off) => Ok(ProxyProtocol::Off),
            (ProtocolName::Fastcgi, _) => Err(Conflict::new(
                "proxy-protocol",
                "--proxy-protocol with --protocol fastcgi: a FastCGI server takes the header for a \
                 broken record (remove one of the two)"
                    .to_owned(),
            )),
        }
    }

    fn close_removed_after(&self) -> Result<Option<Duration>, Conflict> {
        let refuse = |problem: &str| {
            let given = self.removed_endpoint.join(" ");
            Err(Conflict::new(
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

    fn check_listeners(&self) -> Result<(), Conflict> {
        let mut seen = HashSet::new();
        for address in &self.listen {
            if !seen.insert(address) {
                return Err(Conflict::new(
                    "listen",
                    format!("--listen {address}: given twice (remove one)"),
                ));
            }
        }
        self.check_inherited()?;
        self.check_hiding()?;
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
                return Err(Conflict::new(
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

    /// Whoever has clients refused relies on it for every socket, and only those have paths that can be taken away.
    fn check_hiding(&self) -> Result<(), Conflict> {
        let has_own_path =
            |address: &ListenAddress| matches!(address, ListenAddress::Unix(UnixAddress::Path(_)));
        let other = self.listen.iter().find(|address| !has_own_path(address));
        let (WhenDown::Refuse, Some(address)) = (self.when_down, other) else {
            return Ok(());
        };
        let why = match address {
            ListenAddress::Unix(_) => "an abstract socket has no path that it could be away from",
            ListenAddress::Inherited(_) => "the socket is its unit's, and listens on",
        };
        Err(Conflict::new(
            "when-down",
            format!(
                "--when-down refuse with --listen {address}: {why} (use --when-down close, or give this address a \
                 route of its own)"
            ),
        ))
    }

    /// A descriptor belongs to one listener, and whoever opens a socket decides who may connect.
    fn check_inherited(&self) -> Result<(), Conflict> {
        let is_inherited =
            |address: &&ListenAddress| matches!(address, ListenAddress::Inherited(_));
        let mut inherited = self.listen.iter().filter(is_inherited);
        let Some(address) = inherited.next() else {
            return Ok(());
        };
        if let Some(other) = inherited.find(|other| address.overlaps(other)) {
            return Err(Conflict::new(
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
                return Err(Conflict::new(
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

    /// Only a request can be told to come back later.
    fn queue_order(&self) -> Result<QueueOrder, Conflict> {
        match (self.protocol, self.queue_order) {
            (ProtocolName::Fastcgi, order) => Ok(order.unwrap_or(Fastcgi::QUEUE_ORDER_DEFAULT)),
            (ProtocolName::Raw, None | Some(QueueOrder::Fifo)) => Ok(QueueOrder::Fifo),
            (ProtocolName::Raw, Some(QueueOrder::Adaptive)) => Err(Conflict::new(
                "queue-order",
                "--queue-order adaptive without --protocol fastcgi: a client whose protocol is not known cannot be \
                 told to come back later (remove it, or give --protocol fastcgi)"
                    .to_owned(),
            )),
        }
    }

    fn limits(&self) -> Result<ConnectionLimits, Conflict> {
        let shards = self.shards;
        let queue_order = self.queue_order()?;
        let refuse = |problem: String| Err(Conflict::new("shards", problem));
        match self.per_endpoint_max.0 {
            None if shards > 1 && self.protocol == ProtocolName::Raw => refuse(format!(
                "--shards {shards} without --per-endpoint-max: all worker threads serve a route \
                 that has no limit (remove --shards or give --per-endpoint-max)"
            )),
            Some(max @ EndpointMax::Auto(_)) if self.protocol == ProtocolName::Raw => {
                Err(Conflict::new(
                    "per-endpoint-max",
                    format!(
                        "--per-endpoint-max {max} with --protocol raw: nobody can be asked how many workers \
                         there are (give a number, or --protocol fastcgi)"
                    ),
                ))
            }
            Some(max @ EndpointMax::Auto(_)) if !self.fastcgi.keeps_connections() => {
                Err(Conflict::new(
                    "per-endpoint-max",
                    format!(
                        "--per-endpoint-max {max} without connections that are kept: how many workers there \
                         are cannot be found out (give a number, or leave out --upstream-reuse never and \
                         --requests-per-upstream 1)"
                    ),
                ))
            }
            Some(max) if shards > max.least().get() as usize => {
                let least = max.least();
                refuse(format!(
                    "--shards {shards} with --per-endpoint-max {max}: each shard needs a connection \
                     of its own (use at most {least} shards)"
                ))
            }
            per_endpoint_max => Ok(ConnectionLimits {
                per_endpoint_max,
                queue_max: self.queue_max,
                queue_timeout: self.queue_timeout.0,
                queue_order,
                shards: NonZeroUsize::new(shards).expect("its parser takes no number below 1"),
            }),
        }
    }
}
