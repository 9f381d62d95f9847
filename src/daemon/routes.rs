//! From the configured routes to what each worker serves.
//!
//! A route without limits is served by every worker that accepts. One with a limit per endpoint belongs
//! to one worker, or to as many as it has shards: permits and queue are then that worker's own, so the
//! limit is exact, the queue fair, and neither costs a lock.

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::Writers;
use crate::backend::Published;
use crate::config::{self, AccessLog, Balance, ConnectionLimits, ListenAddress, RouteName};
use crate::counters::{LookupCounters, ShareCounters};
use crate::fastcgi::{self, Guard, RequestLimits};
use crate::observe::{EndpointFigures, Failures, ObservedRoute, RouteLimits};
use crate::proxy_protocol::Version;
use crate::session::{FastcgiOptions, MinRate, Policy, PoolOptions, Protocol, Timeouts};
use crate::worker::{
    Crowd, Limit, ListenerOf, Listening, Mailbox, Notice, Route, RouteNumber, Share, ShareRules,
    Sharing, Spread, Who,
};

use super::inherited::Passed;
use super::listening::ListeningSocket;
use super::script_roots::{self, ScriptRootError};
use super::sockets::ClientSocket;
use super::{Error, accounts, listener, upstreams};

/// A route whose listeners are bound.
pub(super) struct Opened {
    pub(super) route: Arc<Route>,
    pub(super) who: Option<Arc<Who>>,
    policy: Arc<Policy>,
    balance: Balance,
    pub(super) listeners: Vec<ListeningSocket>,
    pub(super) lookups: Arc<LookupCounters>,
    access_log: Option<AccessLog>,
    limits: ConnectionLimits,
    /// Whether backends are told of clients, and how.
    introduced: Option<Version>,
    /// Those of the workers that serve it, as [`divide`] gave them out.
    counters: Vec<ShareCounters>,
    /// Which workers these are.
    served_by: Vec<usize>,
}

/// Why the workers cannot be given their parts.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ShareError {
    #[error("duplicate the listener {address} for a worker")]
    Duplicate { address: String, source: io::Error },
    #[error(
        "serve route {route} with {shards} shards: only {workers} workers can serve it (lower \
         --shards, or raise --workers or --connections-max)"
    )]
    TooManyShards {
        route: RouteName,
        shards: usize,
        workers: usize,
    },
}

/// Whether each of its shards finds a worker, of those that accept.
pub(super) fn check_shards(
    name: &RouteName,
    limits: ConnectionLimits,
    workers: usize,
) -> Result<(), ShareError> {
    let shards = limits.shards.get();
    if shards > workers {
        return Err(ShareError::TooManyShards {
            route: name.clone(),
            shards,
            workers,
        });
    }
    Ok(())
}

/// Binds everything that the route listens on, or takes it out of what was passed. Its set of addresses
/// is empty so far.
pub(super) fn open(
    (number, config): (RouteNumber, &config::Route),
    (who, crowd): (Option<Who>, Crowd),
    mailboxes: &[Arc<Mailbox>],
    passed: &mut Passed,
) -> Result<Opened, Error> {
    // What it needs of the file system is looked for before anything is bound.
    let policy = Arc::new(policy(config)?);
    let mut listeners = Vec::new();
    for address in &config.listeners {
        match address {
            ListenAddress::Unix(address) => {
                let listener = listener::bind(address, &config.access)?;
                listeners.push(ListeningSocket::Bound(listener));
            }
            ListenAddress::Inherited(wanted) => {
                let inherited = passed.claim(wanted)?;
                listeners.extend(inherited.into_iter().map(ListeningSocket::Inherited));
            }
        }
    }
    Ok(Opened {
        route: Arc::new(route((number, config), crowd, mailboxes.to_vec())),
        who: who.map(Arc::new),
        policy,
        balance: config.balance,
        listeners,
        lookups: Arc::default(),
        access_log: config.protocol.access_log().cloned(),
        limits: config.limits,
        introduced: config.upstreams.proxy_protocol.version(),
        counters: Vec::new(),
        served_by: Vec::new(),
    })
}

fn route(
    (number, config): (RouteNumber, &config::Route),
    crowd: Crowd,
    told: Vec<Arc<Mailbox>>,
) -> Route {
    let tell_all = move || {
        told.iter()
            .for_each(|mailbox| mailbox.post(Notice::Addresses))
    };
    let published = Published::new(tell_all)
        .of_route(config.name.clone())
        .ejecting(config.ejection);
    Route {
        number,
        name: config.name.clone(),
        published: Arc::new(published),
        session_failures: Failures::default(),
        crowd,
    }
}

/// The rules of the route's sessions.
fn policy(config: &config::Route) -> Result<Policy, ScriptRootError> {
    Ok(Policy {
        protocol: protocol(config)?,
        tcp: upstreams::tcp_options(&config.upstreams),
        timeouts: Timeouts {
            queue: config.limits.queue_timeout,
            connect: config.connect_timeout,
            refused: config.refused_timeout,
            silent_is_short: matches!(config.protocol, config::RouteProtocol::Fastcgi(_)),
            idle: config.idle_timeout,
            half_closed: config.half_closed_timeout,
            removed: config.upstreams.close_removed_after,
            min_rate: min_rate(&config.protocol),
        },
    })
}

fn min_rate(protocol: &config::RouteProtocol) -> Option<MinRate> {
    let config::RouteProtocol::Fastcgi(config) = protocol else {
        return None;
    };
    config.min_rate.map(|bytes| MinRate {
        bytes: bytes.get(),
        allowance: config.min_rate_lag,
    })
}

fn protocol(route: &config::Route) -> Result<Protocol, ScriptRootError> {
    let config::RouteProtocol::Fastcgi(config) = &route.protocol else {
        return Ok(Protocol::Raw);
    };
    Ok(Protocol::Fastcgi(FastcgiOptions {
        route: route.name.clone(),
        guard: script_roots::guard(config)?,
        limits: RequestLimits {
            params_bytes_max: config.params_max,
            capacity: CLIENTS_CAPACITY,
        },
        pool: PoolOptions {
            reuse: config.upstream_reuse,
            idle: config.idle_upstream,
            settle: config.settle_timeout,
            requests_max: config.requests_per_upstream,
        },
        head_timeout: config.head_timeout,
        on_failure: config.on_failure,
        rejections: Default::default(),
        overridden: std::array::from_fn(|_| Failures::every(OVERRIDDEN_WARN_INTERVAL)),
        violations: Default::default(),
        too_slow: Default::default(),
    }))
}

/// The least time between two warnings that the web server sends one parameter with different values. It
/// does so in each request, until somebody changes its configuration: that takes a line in each log file
/// that is kept, and not one in each ten seconds.
const OVERRIDDEN_WARN_INTERVAL: Duration = Duration::from_secs(3600);

/// What clients are told who ask for FCGI_MAX_CONNS and FCGI_MAX_REQS: whoever comes is served or
/// waits, so there is no number that they should keep to.
const CLIENTS_CAPACITY: fastcgi::Capacity = fastcgi::Capacity {
    connections_max: u32::MAX,
    requests_max: u32::MAX,
};

/// What each worker serves, for the workers that accept.
pub(super) fn divide(
    routes: &mut [Opened],
    workers: usize,
    writers: &mut Writers,
) -> Result<Vec<Vec<Share>>, ShareError> {
    let mut shares: Vec<Vec<Share>> = (0..workers).map(|_| Vec::new()).collect();
    let mut spread = Spread::new(workers);
    for opened in routes {
        check_shards(&opened.route.name, opened.limits, workers)?;
        let serving = spread.serving(opened.limit(), opened.limits.shards.get());
        for (number, limit) in serving {
            let worker = &mut shares[number];
            opened.served_by.push(number);
            worker.push(opened.share(limit, writers)?);
        }
    }
    Ok(shares)
}

/// The first few backends of a route, for the log.
struct Backends<'a>(&'a [config::Backend]);

/// How many of them.
const LOGGED_BACKENDS_MAX: usize = 8;

impl fmt::Display for Backends<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, hidden) = self.0.split_at(self.0.len().min(LOGGED_BACKENDS_MAX));
        let shown: Vec<_> = shown.iter().map(ToString::to_string).collect();
        f.write_str(&shown.join(" "))?;
        match hidden {
            [] => Ok(()),
            hidden => write!(f, " and {} more", hidden.len()),
        }
    }
}

impl Opened {
    /// Says where it listens. Not before the start can fail no more for what is configured: an error is one
    /// line.
    pub(super) fn announce(&self, config: &config::Route) {
        let route = &self.route.name;
        let protocol = match config.protocol {
            config::RouteProtocol::Raw => "raw",
            config::RouteProtocol::Fastcgi(_) => "fastcgi",
        };
        let backends = Backends(&config.backends);
        for listener in &self.listeners {
            match listener {
                ListeningSocket::Bound(listener) => tracing::info!(
                    %route,
                    protocol,
                    %backends,
                    mode = %format_args!("{:04o}", config.access.mode),
                    "listening on {}",
                    listener.address()
                ),
                ListeningSocket::Inherited(inherited) => tracing::info!(
                    %route,
                    protocol,
                    %backends,
                    "listening on {}, which was passed as {}",
                    inherited.place(),
                    inherited.name()
                ),
            }
        }
        accounts::warn_of_strangers(route, self.who.as_deref(), &self.listeners);
        if let config::RouteProtocol::Fastcgi(fastcgi) = &config.protocol {
            self.warn_of_missing_bounds(fastcgi);
        }
    }

    /// What a FastCGI route leaves open that its backend mostly cannot bear.
    fn warn_of_missing_bounds(&self, fastcgi: &config::Fastcgi) {
        let route = &self.route.name;
        let restricts_scripts = fastcgi.guard.as_ref().is_some_and(Guard::restricts_scripts);
        if !restricts_scripts {
            tracing::warn!(
                %route,
                "whoever may connect can have the backend run any file that it may read (restrict that with \
                 --script-root, and with --script-suffix for PHP)"
            );
        }
        if self.limits.per_endpoint_max.is_none() {
            tracing::warn!(
                %route,
                "connections to a backend are not bounded: requests that it has no worker for wait in its \
                 backlog, for which --queue-timeout does not hold (give --per-endpoint-max: with PHP-FPM as \
                 many as pm.max_children)"
            );
        }
    }

    /// How operators see it, once it is divided.
    pub(super) fn observed(&self) -> ObservedRoute {
        let listeners = self.listeners.iter();
        let per_endpoint_max = self.limits.per_endpoint_max;
        ObservedRoute {
            name: self.route.name.to_string(),
            listeners: listeners.map(|l| l.place().to_string()).collect(),
            published: Arc::clone(&self.route.published),
            lookups: Arc::clone(&self.lookups),
            speaks_fastcgi: matches!(self.policy.protocol, Protocol::Fastcgi(_)),
            limits: RouteLimits {
                per_endpoint_max: per_endpoint_max.map(NonZeroU32::get),
                // Without a limit, nobody waits.
                queue_max: per_endpoint_max.map(|_| self.limits.queue_max),
            },
            shares: self.counters.clone(),
            endpoint_figures: EndpointFigures::default(),
        }
    }

    fn share(&mut self, limit: Option<Limit>, writers: &mut Writers) -> Result<Share, ShareError> {
        let counters = ShareCounters::default();
        self.counters.push(counters.clone());
        Ok(Share {
            route: Arc::clone(&self.route),
            listeners: self.duplicate_listeners()?,
            rules: ShareRules {
                policy: Arc::clone(&self.policy),
                who: self.who.clone(),
                balance: self.balance,
                limit,
                access_log: self
                    .access_log
                    .as_ref()
                    .map(|log| writers.queue(log, &self.route.name)),
            },
            counters,
        })
    }

    fn duplicate_listeners(&self) -> Result<Vec<Listening>, ShareError> {
        let duplicate = |listener: &ListeningSocket| {
            let listening = listener.for_worker(self.sharing(), self.introduced);
            listening.map_err(|source| ShareError::Duplicate {
                address: listener.place().to_string(),
                source,
            })
        };
        self.listeners.iter().map(duplicate).collect()
    }

    fn sharing(&self) -> Sharing {
        match self.limits.shards.get() {
            1 => Sharing::AnyWorker,
            _ => Sharing::InTurns,
        }
    }

    /// Its sockets, and which workers accept there, once it is divided.
    pub(super) fn into_sockets(self) -> impl Iterator<Item = ClientSocket> {
        let (sharing, introduced) = (self.sharing(), self.introduced);
        let (served_by, route) = (self.served_by, self.route.number);
        let sockets = self.listeners.into_iter().enumerate();
        sockets.map(move |(number, socket)| ClientSocket {
            socket,
            sharing,
            introduced,
            of: ListenerOf { route, number },
            accepting: served_by.clone(),
        })
    }

    /// How much its workers may have of it together. Connections that are kept belong to one worker, as do
    /// permits and queue. `None`: any worker may have any number.
    fn limit(&self) -> Option<Limit> {
        let per_endpoint_max = self.limits.per_endpoint_max;
        let is_free = per_endpoint_max.is_none() && matches!(self.policy.protocol, Protocol::Raw);
        (!is_free).then_some(Limit {
            per_endpoint_max,
            queue_max: self.limits.queue_max as usize,
        })
    }
}
