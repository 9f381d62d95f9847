//! Whole workers in a simulated kernel, one scenario for each seed.
//!
//! `SPLICEWAY_SIM_SEEDS` says how many seeds are run (and `SPLICEWAY_SIM_FIRST` where they start);
//! `SPLICEWAY_SIM_SEED` replays a single one and prints what happened. `SPLICEWAY_SIM_BACKENDS` says of
//! which kind: `tcp`, bytes and TCP, which is what a single seed is of if nothing is said; `inherited`, the one in
//! which backlogs are left to others; `mixed`, the one in which a Unix socket is among the backends; `families`, the
//! one with addresses of both families; `limited`, the one in which endpoints take a few connections only and
//! clients queue; `users`, the one in which some users may not connect and the others not often; `fastcgi`, the one in
//! which the peers speak FastCGI; `byhand`, one of several of these in which operators change something by hand;
//! `routes`, the one with several routes on one worker; `workers`, the one in which several workers share routes, clients
//! and limits; `successions`, the one in which one worker hands its clients over to another one; and `reloads`, the one in
//! which routes and their rules come, change and go while the workers run. With `epoll-` before it, for kinds of one worker and one route, and for `reloads`, the epoll driver itself is a part of
//! what is run, under one worker.

mod by_hand;
mod kinds;
mod reloads;
mod several;
mod successions;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::ValueEnum as _;

use crate::access_log::{Queue, RequestLogs, SlowLog};
use crate::backend::{Address, Published, PublishedNumber};
use crate::config::{
    AtLimit, Balance, Ejection, EndpointMax, OnFailure, Part, QueueTime, RouteName,
};
use crate::counters::{Count, ShareCounters, WorkerCounters};
use crate::driver::IntoUnix;
use crate::driver::sim::dice::Dice;
use crate::driver::sim::{
    FastcgiRules, Faults, InEffect, MEMBERS_GROUP, NUMBERS_WITH_CLASSES, PlannedRoute, Scenario,
    Sim, Users, class_criteria,
};
use crate::fastcgi::{
    Capacity, Classifier, Criteria, Guard, GuardOptions, PARAMS_BYTES_MAX, RequestLimits,
};
use crate::observe::Failures;
use crate::session::{
    FastcgiOptions, Introduction, MinRate, Policy, PoolOptions, Protocol, RequestClass,
    RequestClasses, Timeouts,
};
use crate::sys::net::TcpOptions;

use super::waiting::QUEUE_LOOK_INTERVAL;
use super::{
    Allowed, Crowd, Gate, Limit, Listening, Mailbox, Route, RouteNumber, Share, ShareRules, Shared,
    Unmapped, UserParts, Who, Worker,
};
use kinds::Backends;

/// Runs the scenario that the dice choose. Panics with the name of the rule that was broken.
fn run(dice: Dice, (engine, backends): SeedKind, trace: bool, keep: &mut Option<Sim>) {
    match (engine, backends) {
        (SimEngine::Completions, Backends::Routes | Backends::Workers | Backends::Successions) => {
            several::run(dice, (backends, false), trace, keep);
        }
        (SimEngine::Epoll, Backends::Routes | Backends::Workers | Backends::Successions) => {
            unreachable!("of these, only the simulated driver runs")
        }
        (_, Backends::ByHand) => by_hand::run(dice, engine, trace, keep),
        (_, Backends::Reloads) => reloads::run(dice, engine, trace, keep),
        _ => run_one(dice, (engine, backends), (false, trace), keep),
    }
}

/// What a seed is of.
type SeedKind = (SimEngine, Backends);

/// What the worker runs on. Not one of the dice: what is above the driver is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SimEngine {
    /// The simulated driver, in which ops end in any order.
    Completions,
    /// The epoll driver, in a kernel that is simulated.
    Epoll,
}

/// What is long for the slow logs: some requests are.
const SLOW_AFTER: Duration = Duration::from_millis(20);

/// What is chosen of a route before anything else.
struct Choices {
    backends: Backends,
    ejection: Ejection,
    /// That clients may come to, all of which lead to the same backlog.
    listeners: u64,
    limit: Option<Limit>,
    pool: Option<PoolOptions>,
    users: Option<Users>,
    /// Nothing goes wrong but what peers do.
    calm: bool,
}

impl Choices {
    /// The route of this number, and how it is served, with what else the dice choose of it.
    fn route(&self, number: u32, crowd: Crowd, dice: &mut Dice) -> Planned {
        let (policy, balance) = self.rules(dice);
        Planned {
            route: Arc::new(Route {
                number: RouteNumber(number),
                name: RouteName::default(),
                published: Arc::new(
                    Published::new(|| {})
                        .numbered(PublishedNumber(number))
                        .ejecting(self.ejection),
                ),
                session_failures: Failures::default(),
                crowd: Arc::new(crowd),
            }),
            policy: Arc::new(policy),
            balance,
            who: self.users.as_ref().and_then(who).map(Arc::new),
        }
    }

    fn rules(&self, dice: &mut Dice) -> (Policy, Balance) {
        let Self { pool, calm, .. } = *self;
        let mut protocol = match pool {
            Some(pool) => Protocol::Fastcgi(fastcgi_options(pool, dice)),
            None => Protocol::Raw,
        };
        let balance = dice.pick(Balance::value_variants());
        let mut timeouts = Timeouts {
            queue: self.limit.filter(|_| !calm).and_then(|_| {
                let times = [None, Some(30), Some(1000)];
                dice.pick(&times).map(Duration::from_millis)
            }),
            connect: if calm {
                Duration::from_secs(5)
            } else {
                Duration::from_millis(dice.pick(&[20, 500, 5000]))
            },
            refused: pool.and_then(|_| {
                let times = [None, Some(0), Some(20), Some(250)];
                dice.pick(&times).map(Duration::from_millis)
            }),
            silent_is_short: pool.is_some(),
            idle: (!calm && dice.one_in(4)).then(|| Duration::from_millis(50)),
            half_closed: None,
            removed: (self.backends == Backends::Mixed).then(|| Duration::from_millis(30)),
            min_rate: None,
            request: None,
        };
        // No dice of its own: what the idle timeout excuses, this may do as well.
        timeouts.half_closed = timeouts.idle.map(|idle| idle * 2 / 3);
        timeouts.min_rate = timeouts.idle.map(|idle| MinRate {
            bytes: 1_000_000,
            allowance: idle / 2,
        });
        timeouts.request = timeouts.idle.map(|idle| idle * 2);
        if let Protocol::Fastcgi(options) = &mut protocol {
            options.classes = self
                .limit
                .and_then(|limit| request_classes(&limit, timeouts));
            // No dice of its own: what the idle timeout excuses, this may do as well.
            options.head_timeout = timeouts.idle.map(|idle| idle * 3 / 2);
        }
        let policy = Policy {
            protocol,
            tcp: TcpOptions::default(),
            timeouts,
        };
        (policy, balance)
    }

    /// The route as the world sees it, with what each worker counts of it.
    fn planned(
        &self,
        planned: &Planned,
        endpoints: Vec<Address>,
        limits: &[Option<Limit>],
        counters: &[ShareCounters],
    ) -> PlannedRoute {
        let Planned { route, policy, .. } = planned;
        if self.pool.is_some() {
            // Names are looked up before anything is served.
            let found = endpoints.iter().copied();
            route.published.publish(found, SystemTime::UNIX_EPOCH);
        }
        PlannedRoute {
            endpoints,
            introduction: self.backends.introduction(),
            idle_timeout: policy.timeouts.idle.is_some(),
            removed_are_cut: policy.timeouts.removed.is_some(),
            per_endpoint_max: self.limit.and_then(most_places),
            classes: self.limit.map(|limit| limit.shares()).unwrap_or_default(),
            in_effect: limits
                .iter()
                .map(|limit| InEffect {
                    generation: 0,
                    places: limit.and_then(most_places),
                    sheds: limit.and_then(|limit| limit.order),
                    pool: self.pool,
                    users: None,
                    is_retired: false,
                    is_cut: false,
                })
                .collect(),
            is_retired: false,
            is_cut: false,
            part_floor: 0,
            sessions_max: route.crowd.max(),
            listeners: count(self.listeners) * limits.len(),
            fastcgi: self.pool.map(|pool| FastcgiRules {
                pool,
                look_interval: QUEUE_LOOK_INTERVAL,
                are_pools: self.backends == Backends::Auto,
            }),
            counters: counters.iter().map(|c| Arc::clone(&c.route)).collect(),
            published: Arc::clone(&route.published),
        }
    }
}

/// The most connections to an endpoint that there ever are.
fn most_places(limit: Limit) -> Option<NonZeroU32> {
    limit.per_endpoint_max.map(EndpointMax::most)
}

/// A route, and how it is served.
struct Planned {
    route: Arc<Route>,
    policy: Arc<Policy>,
    balance: Balance,
    who: Option<Arc<Who>>,
}

impl Planned {
    /// One worker's part of it.
    fn share(
        &self,
        listeners: Vec<Listening>,
        limit: Option<Limit>,
        counters: &ShareCounters,
    ) -> Share {
        Share {
            route: Arc::clone(&self.route),
            listeners: (0..).zip(listeners).collect(),
            shared: None,
            rules: ShareRules {
                policy: Arc::clone(&self.policy),
                who: self.who.clone(),
                balance: self.balance,
                limit,
                logs: RequestLogs {
                    access: None,
                    slow: Some(SlowLog {
                        queue: Queue::unread(),
                        after: SLOW_AFTER,
                    }),
                },
            },
            counters: counters.clone(),
        }
    }
}

/// One route, served by one worker.
fn run_one(
    mut dice: Dice,
    (engine, backends): SeedKind,
    (by_hand, trace): (bool, bool),
    keep: &mut Option<Sim>,
) {
    let mailbox = mailbox();
    let ejection = ejection(&mut dice);
    let connections_max = dice.pick(&[1, 2, 5, 100]);
    let listeners = dice.between(1, 2);
    let seed = dice.below(1 << 16);
    let limit = backends.limit(&mut dice);
    let calm = backends.speak_fastcgi() && dice.one_in(2);
    let limit = limit.map(|limit| Limit {
        queue_max: if calm { 100 } else { limit.queue_max },
        ..limit
    });
    let limit = limit.map(|limit| Limit {
        classes: backends.classes(&limit),
        ..limit
    });
    let pool = backends
        .speak_fastcgi()
        .then(|| pool_options(backends, &mut dice));
    let users = backends.users(&mut dice);
    let shared = Arc::new(shared(
        vec![Arc::clone(&mailbox)],
        connections_max,
        seed,
        users.as_ref(),
    ));
    let choices = Choices {
        backends,
        ejection,
        listeners,
        limit,
        pool,
        users,
        calm,
    };
    let crowd = match backends {
        Backends::Users => Crowd::new(Crowd::part(Part::Most, connections_max.min(8), 2)),
        _ => Crowd::default(),
    };
    let planned_route = choices.route(0, crowd, &mut dice);
    let counters = ShareCounters::default();
    let endpoints = backends.endpoints();
    let planned = choices.planned(
        &planned_route,
        endpoints,
        &[limit],
        std::slice::from_ref(&counters),
    );
    let clients = count(dice.between(1, backends.clients_max()));
    let scenario = Scenario {
        backlog_is_left: backends == Backends::Inherited,
        by_hand,
        mailboxes: vec![Arc::clone(&mailbox)],
        trace,
        ..scenario(
            clients,
            vec![planned],
            (calm, choices.users.clone()),
            connections_max,
            &mut dice,
        )
    };
    let sim = Sim::new(scenario, dice);
    *keep = Some(sim.clone());
    sim.expect_listeners((0..listeners).map(|_| 0));
    let listening = (0..listeners).map(|_| backends.listening()).collect();
    let share = planned_route.share(listening, limit, &counters);
    let of_worker = Arc::new(WorkerCounters::default());
    let all = Arc::clone(&shared);
    let counted = Arc::clone(&of_worker);
    let shares = vec![share];
    let ended = match engine {
        SimEngine::Completions => {
            Worker::new(0, sim.clone(), shares, all, mailbox, of_worker).run()
        }
        SimEngine::Epoll => {
            let driver = sim.under_epoll(mailbox.waker());
            Worker::new(0, driver, shares, all, mailbox, of_worker).run()
        }
    };
    ended.expect("the simulated kernel does not fail");
    sim.worker_ended();
    sim.judge_end();
    judge_shared(&shared, &sim, &[counted]);
    judge_route(&planned_route, &[counters]);
}

fn mailbox() -> Arc<Mailbox> {
    Arc::new(Mailbox::new().expect("descriptors are left"))
}

fn ejection(dice: &mut Dice) -> Ejection {
    Ejection {
        after: NonZeroU32::new(dice.pick(&[0, 1, 5])),
        time: Duration::from_millis(dice.pick(&[10, 1000, 30_000])),
    }
}

/// What workers share, whatever they serve.
fn shared(
    mailboxes: Vec<Arc<Mailbox>>,
    connections_max: u32,
    seed: u64,
    users: Option<&Users>,
) -> Shared {
    Shared {
        gate: Gate::new(connections_max, mailboxes),
        seed,
        accept_failures: Failures::default(),
        at_limit: AtLimit::Wait,
        refusals: Failures::default(),
        limit_reached: Failures::default(),
        users: users.and_then(|users| {
            // As many as of the route, so that who is refused is the same.
            let max = NonZeroU32::new(users.per_user_max)?;
            UserParts::new(Part::Number(max), connections_max)
        }),
    }
}

/// The rest of a scenario, as the dice choose it.
fn scenario(
    clients: usize,
    routes: Vec<PlannedRoute>,
    (calm, users): (bool, Option<Users>),
    connections_max: u32,
    dice: &mut Dice,
) -> Scenario {
    Scenario {
        clients,
        routes_at_first: routes.len(),
        routes,
        // No dice of its own.
        into_unix: match clients % 4 {
            0 => IntoUnix::Copied,
            _ => IntoUnix::Spliced,
        },
        patient_clients: dice.one_in(2),
        outages: !calm && dice.one_in(2),
        faults: match calm {
            true => Faults::none(),
            false => Faults {
                failure: dice.pick(&[0, 0, 300, 40]),
                spurious: dice.pick(&[0, 20]),
                no_pipe: dice.pick(&[0, 2, 10]),
                no_buffer: dice.pick(&[0, 0, 0, 20]),
                descriptors_max: dice.pick(&[200, 60, 8, 20]),
            },
        },
        calm,
        sessions_max: count(connections_max.into()),
        // No dice of its own.
        pipes_max: match clients % 3 {
            0 => 1,
            _ => 4,
        },
        users,
        backlog_is_left: false,
        by_hand: false,
        // No dice of its own.
        goes_out: !calm && !clients.is_multiple_of(3),
        mailboxes: Vec::new(),
        marks_rules: false,
        trace: false,
    }
}

/// What all workers share is given back.
fn judge_shared(shared: &Shared, sim: &Sim, workers: &[Arc<WorkerCounters>]) {
    let stale = workers.iter().map(|counters| counters.stale_events.get());
    assert_eq!(
        stale.sum::<u64>(),
        sim.stale_events(),
        "INVARIANT stale_is_ignored: each is counted"
    );
    assert!(
        shared.gate.is_unused(),
        "INVARIANT all_returned: permits are left"
    );
    assert!(
        shared.users.as_ref().is_none_or(|users| users.is_empty()),
        "INVARIANT all_returned: parts of the sessions are left"
    );
}

/// What the workers share of a route is given back, and nobody is counted there.
fn judge_route(planned: &Planned, counters: &[ShareCounters]) {
    assert!(
        planned.who.as_deref().and_then(Who::seated).unwrap_or(0) == 0,
        "INVARIANT all_returned: users' seats are left"
    );
    assert!(
        planned.route.crowd.count() == 0,
        "INVARIANT all_returned: parts of the sessions are left"
    );
    counters.iter().for_each(judge_counters);
}

/// The same rules in the worker's words: the last user comes in by its group.
fn who(users: &Users) -> Option<Who> {
    who_in_place_of(None, users)
}

fn who_in_place_of(before: Option<&Who>, users: &Users) -> Option<Who> {
    let (by_group, by_user): (Vec<u32>, Vec<u32>) =
        users.allowed.iter().partition(|&&user| user == 1002);
    let allowed = Allowed {
        users: by_user,
        groups: by_group.iter().map(|_| MEMBERS_GROUP).collect(),
        unmapped: Unmapped {
            user: 65534,
            group: 65534,
        },
    };
    Who::in_place_of(before, Some(allowed), NonZeroU32::new(users.per_user_max))
}

/// Who was accepted has ended, and nobody is counted anywhere any more.
fn judge_counters(counters: &ShareCounters) {
    let route = &counters.route;
    let ended: u64 = route.ended.iter().map(Count::get).sum();
    assert_eq!(
        route.accepted.get(),
        ended,
        "INVARIANT counted: as many ends as beginnings"
    );
    let waiting = (
        route.queue_depth.get(),
        route.queue_oldest.age(Instant::now()),
    );
    assert_eq!(waiting, (0, None), "INVARIANT counted: nobody waits");
    counters.endpoints.each(|endpoint, counters| {
        let open = (counters.in_flight.get(), counters.resting.get());
        assert_eq!(
            open,
            (0, 0),
            "INVARIANT counted: connections to {endpoint}, and those of them that rest"
        );
    });
}

fn pool_options(backends: Backends, dice: &mut Dice) -> PoolOptions {
    PoolOptions {
        reuse: !dice.one_in(8) || backends == Backends::Auto,
        idle: Duration::from_millis(dice.pick(&[100, 1000])),
        settle: Duration::from_millis(dice.pick(&[5, 50])),
        requests_max: dice.pick(&[2, 3, 1000]),
    }
}

fn fastcgi_options(pool: PoolOptions, dice: &mut Dice) -> FastcgiOptions {
    FastcgiOptions {
        route: RouteName::default(),
        guard: Some(Guard::new(&GuardOptions::default()).expect("the defaults are sound")),
        limits: RequestLimits {
            params_bytes_max: PARAMS_BYTES_MAX,
            capacity: Capacity {
                connections_max: 1,
                requests_max: 1,
            },
        },
        pool,
        head_timeout: None,
        queue_time: QueueTime::default(),
        classes: None,
        on_failure: dice.pick(OnFailure::value_variants()),
        rejections: Default::default(),
        overridden: Default::default(),
        violations: Default::default(),
        too_slow: Default::default(),
    }
}

/// Those that the limit has something to say of. No dice of their own.
fn request_classes(limit: &Limit, timeouts: Timeouts) -> Option<RequestClasses> {
    if limit.shares().is_empty() {
        return None;
    }
    let criteria = NUMBERS_WITH_CLASSES.map(|number| {
        let condition = class_criteria(number).parse().expect("it is a condition");
        Criteria::new(vec![vec![condition]]).expect("it says something")
    });
    let each = ["default", "one", "two"].map(|name| RequestClass {
        name: name.parse().expect("it is a word"),
        queue_timeout: timeouts.queue,
        request_timeout: timeouts.request,
    });
    Some(RequestClasses::new(Classifier::new(&criteria), each.into()))
}

fn count(n: u64) -> usize {
    usize::try_from(n).expect("a small number")
}

/// Runs the scenarios that a script of bytes chooses: one with sessions of bytes, and one of FastCGI.
pub(crate) fn run_script(script: &[u8]) {
    for engine in [SimEngine::Completions, SimEngine::Epoll] {
        for backends in [Backends::Tcp, Backends::Fastcgi] {
            let dice = Dice::from_script(script.to_vec());
            run(dice, (engine, backends), false, &mut None);
        }
    }
}
