//! From the configured routes to what each worker serves.
//!
//! A route without limits is served by every worker that accepts. One with a limit per endpoint belongs
//! to one worker, or to as many as it has shards: permits and queue are then that worker's own, so the
//! limit is exact, the queue fair, and neither costs a lock.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::access_log::{RequestLogs, SlowLog, Writers};
use crate::backend::{Published, PublishedNumber, SharedPermits};
use crate::config::{self, ConnectionLimits, ListenAddress, QueueOrder, RouteName};
use crate::counters::{LookupCounters, ShareCounters};
use crate::fastcgi::{self, Classifier, Guard, RequestLimits};
use crate::observe::{self, EndpointFigures, Failures, ObservedRoute, RouteLimits};
use crate::session::{
    FastcgiOptions, Introduction, MinRate, Policy, PoolOptions, Protocol, RequestClass,
    RequestClasses, Timeouts,
};
use crate::worker::{
    Adaptive, ClassLimit, ClassLimits, Crowd, Limit, Listening, Mailbox, Route, RouteNumber, Share,
    ShareRules, Sharing, Spread, Who,
};

use super::fpm_watch::FpmWatch;
use super::inherited::Passed;
use super::listener::HideError;
use super::listening::ListeningSocket;
use super::script_roots::{self, ScriptRootError};
use super::socket_files::HiddenBy;
use super::sockets::ClientSocket;
use super::succession::Offered;
use super::{Error, accounts, listener, upstreams};

/// A route that is served, as the main thread knows it.
pub(super) struct ServedRoute {
    /// What is configured.
    pub(super) config: config::Route,
    /// What its workers share.
    pub(super) route: Arc<Route>,
    pub(super) who: Option<Arc<Who>>,
    pub(super) policy: Arc<Policy>,
    pub(super) sockets: Vec<ClientSocket>,
    /// The number of its next socket.
    pub(super) next_socket: usize,
    pub(super) lookups: Arc<LookupCounters>,
    /// Those of the workers that serve it.
    pub(super) shares: Vec<WorkerShare>,
    /// What was counted for those that do not serve it so any more.
    pub(super) earlier: Vec<EarlierShare>,
    /// While others finish what they have of it: what there is for all of them.
    pub(super) shared: Option<Arc<SharedPermits>>,
    /// Dropped, its active checks end.
    pub(super) checks: Option<oneshot::Sender<()>>,
    /// Dropped, nobody watches for outages any more.
    pub(super) watch: Option<oneshot::Sender<()>>,
    /// What PHP-FPM says.
    pub(super) fpm: FpmWatch,
    pub(super) endpoint_figures: Arc<EndpointFigures>,
}

/// One worker's part of a route.
pub(super) struct WorkerShare {
    /// Its number.
    pub(super) worker: usize,
    /// How much of the route it may have.
    pub(super) limit: Option<Limit>,
    pub(super) counters: ShareCounters,
}

/// What a worker has counted of a route as it was served before.
pub(super) struct EarlierShare {
    /// Which one counts there still. `None`: nobody does.
    pub(super) counts_for: Option<RouteNumber>,
    pub(super) worker: usize,
    pub(super) counters: ShareCounters,
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
    (passed, offered): (&mut Passed, &mut Offered),
) -> Result<ServedRoute, Error> {
    // What it needs of the file system is looked for before anything is bound.
    let policy = Arc::new(policy(config)?);
    let mut sockets = Vec::new();
    for address in &config.listeners {
        match address {
            ListenAddress::Unix(address) => {
                let listener = match offered.take_for_clients(address, &config.access) {
                    Some(listener) => listener,
                    None => listener::bind(address, &config.access)?,
                };
                sockets.push(ListeningSocket::Bound(listener));
            }
            ListenAddress::Inherited(wanted) => {
                let inherited = passed.claim(wanted)?;
                sockets.extend(inherited.into_iter().map(ListeningSocket::Inherited));
            }
        }
    }
    let mut served = ServedRoute::new(
        (number, config.clone()),
        (who.map(Arc::new), policy),
        Arc::new(crowd),
        mailboxes,
    );
    served.next_socket = sockets.len();
    served.sockets = (0..)
        .zip(sockets)
        .map(|(number, socket)| ClientSocket::new(number, socket))
        .collect();
    Ok(served)
}

fn route(
    (number, config): (RouteNumber, &config::Route),
    crowd: Arc<Crowd>,
    told: Vec<Arc<Mailbox>>,
) -> Route {
    let endpoints = PublishedNumber(number.0);
    let tell_all = move || told.iter().for_each(|mailbox| mailbox.tell_of(endpoints));
    let published = Published::new(tell_all)
        .numbered(endpoints)
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
pub(super) fn policy(config: &config::Route) -> Result<Policy, ScriptRootError> {
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
            request: request_timeout(&config.protocol),
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

fn request_timeout(protocol: &config::RouteProtocol) -> Option<Duration> {
    match protocol {
        config::RouteProtocol::Raw => None,
        config::RouteProtocol::Fastcgi(config) => config.request_timeout,
    }
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
        queue_time: config.queue_time.clone(),
        classes: config.classes.as_ref().map(request_classes),
        on_failure: config.on_failure,
        rejections: Default::default(),
        overridden: std::array::from_fn(|_| Failures::every(OVERRIDDEN_WARN_INTERVAL)),
        violations: Default::default(),
        too_slow: Default::default(),
    }))
}

fn request_classes(classes: &config::Classes) -> RequestClasses {
    let criteria = classes.others.iter().map(|class| &class.criteria);
    let each = classes.names().zip(classes.rules());
    let each = each.map(|(name, rules)| RequestClass {
        name,
        queue_timeout: rules.queue_timeout,
        request_timeout: rules.request_timeout,
    });
    RequestClasses::new(Classifier::new(criteria), each.collect())
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
    routes: &mut [ServedRoute],
    (workers, spread): (usize, &mut Spread),
    writers: &mut Writers,
) -> Result<Vec<Vec<Share>>, ShareError> {
    let mut shares: Vec<Vec<Share>> = (0..workers).map(|_| Vec::new()).collect();
    for served in routes {
        let (name, limits) = (&served.config.name, served.config.limits);
        check_shards(name, limits, workers)?;
        let serving = spread.serving(limit(&served.config), limits.shards.get());
        for (worker, limit) in serving {
            served.serve_by(worker, limit, ShareCounters::default());
            let share = served.shares.last().expect("it was just added");
            shares[worker].push(served.share(share, writers)?);
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

impl ServedRoute {
    /// That nobody serves so far, and without a socket.
    pub(super) fn new(
        (number, config): (RouteNumber, config::Route),
        (who, policy): (Option<Arc<Who>>, Arc<Policy>),
        crowd: Arc<Crowd>,
        mailboxes: &[Arc<Mailbox>],
    ) -> Self {
        Self {
            route: Arc::new(route((number, &config), crowd, mailboxes.to_vec())),
            config,
            who,
            policy,
            sockets: Vec::new(),
            next_socket: 0,
            lookups: Arc::default(),
            shares: Vec::new(),
            earlier: Vec::new(),
            shared: None,
            checks: None,
            watch: None,
            fpm: FpmWatch::default(),
            endpoint_figures: Arc::default(),
        }
    }

    /// The same route under another number, for workers that divide it in another way: with its addresses, and what
    /// is counted over all workers.
    pub(super) fn anew(
        &self,
        (number, config): (RouteNumber, config::Route),
        (who, policy): (Option<Arc<Who>>, Arc<Policy>),
    ) -> Self {
        Self {
            route: Arc::new(Route {
                number,
                name: config.name.clone(),
                published: Arc::clone(&self.route.published),
                session_failures: Failures::default(),
                crowd: Arc::clone(&self.route.crowd),
            }),
            config,
            who,
            policy,
            sockets: Vec::new(),
            next_socket: 0,
            lookups: Arc::clone(&self.lookups),
            shares: Vec::new(),
            earlier: Vec::new(),
            shared: None,
            checks: None,
            watch: None,
            fpm: FpmWatch::default(),
            endpoint_figures: Arc::clone(&self.endpoint_figures),
        }
    }

    /// Whether its sockets can be away from their paths in an outage, if that is how it is configured.
    pub(super) fn check_hiding(&self) -> Result<(), HideError> {
        if self.config.upstreams.when_down != config::WhenDown::Refuse {
            return Ok(());
        }
        let mut sockets = self.sockets.iter();
        sockets.try_for_each(|socket| socket.socket.check_hiding())
    }

    /// By whose outages its sockets are away from their paths, if they ever are.
    pub(super) fn hidden_by(&self) -> Option<HiddenBy> {
        let shares = self.shares.iter();
        let hides = self.config.upstreams.when_down == config::WhenDown::Refuse;
        hides.then(|| HiddenBy {
            route: Arc::clone(&self.route.published),
            workers: shares
                .map(|share| Arc::clone(&share.counters.route))
                .collect(),
        })
    }

    /// Which of its workers may have how much of it, when it is configured so.
    pub(super) fn limits_of(&self, config: &config::Route) -> Vec<(usize, Option<Limit>)> {
        let parts: Vec<_> = match limit(config) {
            None => self.shares.iter().map(|_| None).collect(),
            Some(limit) => limit.divided(self.shares.len()).map(Some).collect(),
        };
        let workers = self.shares.iter().map(|share| share.worker);
        workers.zip(parts).collect()
    }

    /// Where a worker counts that comes to serve it: where it did before, if nobody counts there now.
    pub(super) fn counters_for(&mut self, worker: usize) -> ShareCounters {
        let is_free = |e: &EarlierShare| e.worker == worker && e.counts_for.is_none();
        match self.earlier.iter().position(is_free) {
            Some(free) => self.earlier.swap_remove(free).counters,
            None => ShareCounters::default(),
        }
    }

    /// A worker serves it as well.
    pub(super) fn serve_by(
        &mut self,
        worker: usize,
        limit: Option<Limit>,
        counters: ShareCounters,
    ) {
        self.shares.push(WorkerShare {
            worker,
            limit,
            counters,
        });
    }

    /// Says where it listens. Not before the start can fail no more for what is configured: an error is one
    /// line.
    pub(super) fn announce(&self) {
        self.sockets
            .iter()
            .for_each(|socket| self.announce_socket(socket));
        let sockets = self.sockets.iter().map(|socket| &socket.socket);
        accounts::warn_of_strangers(&self.config.name, self.who.as_deref(), sockets);
        if let config::RouteProtocol::Fastcgi(fastcgi) = &self.config.protocol {
            self.warn_of_missing_bounds(fastcgi);
        }
    }

    /// Says that it listens there.
    pub(super) fn announce_socket(&self, socket: &ClientSocket) {
        let route = &self.config.name;
        let protocol = match self.config.protocol {
            config::RouteProtocol::Raw => "raw",
            config::RouteProtocol::Fastcgi(_) => "fastcgi",
        };
        let backends = Backends(&self.config.backends);
        match &socket.socket {
            ListeningSocket::Bound(listener) => tracing::info!(
                %route,
                protocol,
                %backends,
                mode = %format_args!("{:04o}", self.config.access.mode),
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

    /// What a FastCGI route leaves open that its backend mostly cannot bear.
    fn warn_of_missing_bounds(&self, fastcgi: &config::Fastcgi) {
        let route = &self.config.name;
        let restricts_scripts = fastcgi.guard.as_ref().is_some_and(Guard::restricts_scripts);
        if !restricts_scripts {
            tracing::warn!(
                %route,
                "whoever may connect can have the backend run any file that it may read (restrict that with \
                 --script-root, and with --script-suffix for PHP)"
            );
        }
        if self.config.limits.per_endpoint_max.is_none() {
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
        let sockets = self.sockets.iter();
        let limits = self.config.limits;
        let earlier = self.earlier.iter().map(|earlier| &earlier.counters);
        let counters = self.shares.iter().map(|share| &share.counters);
        ObservedRoute {
            name: self.config.name.to_string(),
            listeners: sockets.map(|s| s.socket.place().to_string()).collect(),
            published: Arc::clone(&self.route.published),
            lookups: Arc::clone(&self.lookups),
            speaks_fastcgi: matches!(self.policy.protocol, Protocol::Fastcgi(_)),
            limits: RouteLimits {
                per_endpoint_max: limits.per_endpoint_max.map(|max| max.most().get()),
                // Without a limit, nobody waits.
                queue_max: limits.per_endpoint_max.map(|_| limits.queue_max),
            },
            classes: named_classes(&self.config.protocol),
            shares: counters.chain(earlier).cloned().collect(),
            endpoint_figures: Arc::clone(&self.endpoint_figures),
            fpm: self.fpm.board(),
        }
    }

    /// What a worker is given of it to serve it.
    pub(super) fn share(
        &self,
        share: &WorkerShare,
        writers: &mut Writers,
    ) -> Result<Share, ShareError> {
        let listeners = self.sockets.iter().map(|socket| {
            let listening = self.listening(&socket.socket)?;
            Ok((socket.number, listening))
        });
        Ok(Share {
            route: Arc::clone(&self.route),
            listeners: listeners.collect::<Result<_, _>>()?,
            rules: self.rules(share, writers),
            counters: share.counters.clone(),
            shared: self.shared.clone(),
        })
    }

    /// By which rules a worker serves it.
    pub(super) fn rules(&self, share: &WorkerShare, writers: &mut Writers) -> ShareRules {
        let name = &self.config.name;
        let protocol = &self.config.protocol;
        let slow = protocol.slow_log().map(|slow| SlowLog {
            queue: writers.queue(&slow.log, name),
            after: slow.after,
        });
        let access = protocol.access_log();
        let access = access.map(|log| writers.queue(log, name));
        ShareRules {
            policy: Arc::clone(&self.policy),
            who: self.who.clone(),
            balance: self.config.balance,
            limit: share.limit,
            logs: RequestLogs { access, slow },
        }
    }

    /// A socket for one of its workers.
    pub(super) fn listening(&self, socket: &ListeningSocket) -> Result<Listening, ShareError> {
        listening(&self.config, socket)
    }
}

/// A socket for one of a route's workers.
pub(super) fn listening(
    config: &config::Route,
    socket: &ListeningSocket,
) -> Result<Listening, ShareError> {
    let introduced = config.upstreams.proxy_protocol.version();
    let listening = socket.for_worker(sharing(config.limits), introduced);
    listening.map_err(|source| ShareError::Duplicate {
        address: socket.place().to_string(),
        source,
    })
}

/// What backends are told of the clients of a route's socket.
pub(super) fn introduction(config: &config::Route, socket: &ListeningSocket) -> Introduction {
    let introduced = config.upstreams.proxy_protocol.version();
    upstreams::introduction(introduced, &socket.place())
}

fn sharing(limits: ConnectionLimits) -> Sharing {
    match limits.shards.get() {
        1 => Sharing::AnyWorker,
        _ => Sharing::InTurns,
    }
}

/// How much a route's workers may have of it together. Connections that are kept belong to one worker, as do
/// permits and queue. `None`: any worker may have any number.
pub(super) fn limit(config: &config::Route) -> Option<Limit> {
    let per_endpoint_max = config.limits.per_endpoint_max;
    let is_free = per_endpoint_max.is_none() && config.protocol == config::RouteProtocol::Raw;
    (!is_free).then_some(Limit {
        per_endpoint_max,
        queue_max: config.limits.queue_max as usize,
        order: match config.limits.queue_order {
            QueueOrder::Fifo => None,
            QueueOrder::Adaptive => Some(Adaptive::USUAL),
        },
        classes: class_limits(&config.protocol),
    })
}

/// For operators: with their names.
fn named_classes(protocol: &config::RouteProtocol) -> observe::ClassLimits {
    let named = |classes: &config::Classes| classes.names().zip(classes.rules()).collect();
    protocol.classes().map(named).unwrap_or_default()
}

fn class_limits(protocol: &config::RouteProtocol) -> ClassLimits {
    let rules = protocol
        .classes()
        .into_iter()
        .flat_map(config::Classes::rules);
    let limit = |rules: config::ClassRules| ClassLimit {
        max: rules.max.get(),
        reserve: rules.reserve,
        priority: rules.priority,
        queue_max: rules.queue_max as usize,
    };
    rules.map(limit).collect()
}
