//! Whole workers in a simulated kernel, one scenario for each seed.
//!
//! `SPLICEWAY_SIM_SEEDS` says how many seeds are run (and `SPLICEWAY_SIM_FIRST` where they start);
//! `SPLICEWAY_SIM_SEED` replays a single one and prints what happened. `SPLICEWAY_SIM_BACKENDS` says of
//! which kind: `tcp`, bytes and TCP, which is what a single seed is of if nothing is said; `inherited`, the one in
//! which backlogs are left to others; `mixed`, the one in which a Unix socket is among the backends; `families`, the
//! one with addresses of both families; `limited`, the one in which endpoints take a few connections only and
//! clients queue; `users`, the one in which some users may not connect and the others not often; and `fastcgi`, the
//! one in which the peers speak FastCGI. With `epoll-` before it, the epoll driver itself is a part of what is run.

use std::fs::File;
use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::ValueEnum as _;

use crate::backend::{Address, Published};
use crate::config::{AtLimit, Balance, Ejection, OnFailure, Part, RouteName};
use crate::counters::{Count, ShareCounters, WorkerCounters};
use crate::driver::IntoUnix;
use crate::driver::sim::dice::Dice;
use crate::driver::sim::{FastcgiRules, Faults, MEMBERS_GROUP, Scenario, Sim, Users};
use crate::fastcgi::{Capacity, Guard, GuardOptions, PARAMS_BYTES_MAX, RequestLimits};
use crate::observe::Failures;
use crate::session::{
    FastcgiOptions, Introduction, MinRate, PoolOptions, Protocol, Timeouts, Upstreams,
};
use crate::sys::net::{TcpOptions, UnixKind, UnixName};

use super::waiting::QUEUE_LOOK_INTERVAL;
use super::{
    Allowed, Backlog, Crowd, Gate, Limit, Listening, Mailbox, Route, Share, Shared, Sharing,
    Unmapped, UserParts, Who, Worker,
};

/// Runs the scenario that the dice choose. Panics with the name of the rule that was broken.
fn run(mut dice: Dice, (engine, backends): SeedKind, trace: bool, keep: &mut Option<Sim>) {
    let mailbox = Arc::new(Mailbox::new().expect("descriptors are left"));
    let ejection = Ejection {
        after: NonZeroU32::new(dice.pick(&[0, 1, 5])),
        time: Duration::from_millis(dice.pick(&[10, 1000, 30_000])),
    };
    let published = Arc::new(Published::new(|| {}).ejecting(ejection));
    let connections_max = dice.pick(&[1, 2, 5, 100]);
    let listeners = dice.between(1, 2);
    let seed = dice.below(1 << 16);
    let limit = backends.limit(&mut dice);
    let calm = backends == Backends::Fastcgi && dice.one_in(2);
    let limit = limit.map(|limit| Limit {
        queue_max: if calm { 100 } else { limit.queue_max },
        ..limit
    });
    let pool = (backends == Backends::Fastcgi).then(|| pool_options(&mut dice));
    let counters = ShareCounters::default();
    let users = backends.users(&mut dice);
    let shared = Arc::new(Shared {
        gate: Gate::new(connections_max, vec![Arc::clone(&mailbox)]),
        seed,
        accept_failures: Failures::default(),
        at_limit: AtLimit::Wait,
        refusals: Failures::default(),
        limit_reached: Failures::default(),
        users: users.as_ref().and_then(|users| {
            // As many as of the route, so that who is refused is the same.
            let max = NonZeroU32::new(users.per_user_max)?;
            UserParts::new(Part::Number(max), connections_max)
        }),
    });
    let mut route = Route {
        name: RouteName::default(),
        published: Arc::clone(&published),
        protocol: match pool {
            Some(pool) => Protocol::Fastcgi(fastcgi_options(pool, &mut dice)),
            None => Protocol::Raw,
        },
        upstreams: Upstreams {
            tcp: TcpOptions::default(),
            introductions: match backends {
                Backends::Tcp
                | Backends::Inherited
                | Backends::Limited
                | Backends::Users
                | Backends::Fastcgi => Vec::new(),
                Backends::Mixed | Backends::BothFamilies => {
                    let fixed = Introduction::Fixed(backends.introduction().into());
                    vec![fixed; count(listeners)]
                }
            },
        },
        balance: dice.pick(Balance::value_variants()),
        timeouts: Timeouts {
            queue: limit.filter(|_| !calm).and_then(|_| {
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
            removed: (backends == Backends::Mixed).then(|| Duration::from_millis(30)),
            min_rate: None,
        },
        session_failures: Failures::default(),
        who: users.as_ref().and_then(who),
        crowd: match backends {
            Backends::Users => Crowd::new(Part::Most, connections_max.min(8), 2),
            _ => Crowd::default(),
        },
    };
    // No dice of its own: what the idle timeout excuses, this may do as well.
    route.timeouts.half_closed = route.timeouts.idle.map(|idle| idle * 2 / 3);
    route.timeouts.min_rate = route.timeouts.idle.map(|idle| MinRate {
        bytes: 1_000_000,
        allowance: idle / 2,
    });
    if let Protocol::Fastcgi(options) = &mut route.protocol {
        // No dice of its own: what the idle timeout excuses, this may do as well.
        options.head_timeout = route.timeouts.idle.map(|idle| idle * 3 / 2);
    }
    let route = Arc::new(route);
    if backends == Backends::Fastcgi {
        // Names are looked up before anything is served.
        published.publish(backends.endpoints(), SystemTime::UNIX_EPOCH);
    }
    let clients = count(dice.between(1, backends.clients_max()));
    let scenario = Scenario {
        clients,
        // No dice of its own.
        into_unix: match clients % 4 {
            0 => IntoUnix::Copied,
            _ => IntoUnix::Spliced,
        },
        patient_clients: dice.one_in(2),
        endpoints: backends.endpoints(),
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
        sessions_max: count(connections_max.into()),
        // No dice of its own.
        pipes_max: match clients % 3 {
            0 => 1,
            _ => 4,
        },
        fastcgi: pool.map(|pool| FastcgiRules {
            pool,
            counters: Arc::clone(&counters.route),
            look_interval: QUEUE_LOOK_INTERVAL,
            calm,
        }),
        backlog_is_left: backends == Backends::Inherited,
        introduction: backends.introduction(),
        removed_are_cut: route.timeouts.removed.is_some(),
        idle_timeout: route.timeouts.idle.is_some(),
        limit,
        users,
        mailbox: Arc::clone(&mailbox),
        published,
        trace,
    };
    let sim = Sim::new(scenario, dice);
    *keep = Some(sim.clone());
    let share = Share {
        route: Arc::clone(&route),
        listeners: (0..listeners).map(|_| backends.listening()).collect(),
        limit,
        counters: counters.clone(),
        access_log: None,
    };
    let of_worker = Arc::new(WorkerCounters::default());
    let all = Arc::clone(&shared);
    let counted = Arc::clone(&of_worker);
    let ended = match engine {
        SimEngine::Completions => {
            Worker::new(0, sim.clone(), vec![share], all, mailbox, of_worker).run()
        }
        SimEngine::Epoll => {
            let driver = sim.under_epoll(mailbox.waker());
            Worker::new(0, driver, vec![share], all, mailbox, of_worker).run()
        }
    };
    ended.expect("the simulated kernel does not fail");
    sim.judge_end();
    assert_eq!(
        counted.stale_events.get(),
        sim.stale_events(),
        "INVARIANT stale_is_ignored: each is counted"
    );
    assert!(
        shared.gate.is_unused(),
        "INVARIANT all_returned: permits are left"
    );
    assert!(
        route.who.as_ref().is_none_or(Who::is_empty),
        "INVARIANT all_returned: users' seats are left"
    );
    assert!(
        shared.users.as_ref().is_none_or(|users| users.is_empty()) && route.crowd.is_empty(),
        "INVARIANT all_returned: parts of the sessions are left"
    );
    judge_counters(&counters);
}

/// The same rules in the worker's words: the last user comes in by its group.
fn who(users: &Users) -> Option<Who> {
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
    Who::new(Some(allowed), NonZeroU32::new(users.per_user_max))
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

fn pool_options(dice: &mut Dice) -> PoolOptions {
    PoolOptions {
        reuse: !dice.one_in(8),
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
        on_failure: dice.pick(OnFailure::value_variants()),
        rejections: Default::default(),
        overridden: Default::default(),
        violations: Default::default(),
        too_slow: Default::default(),
    }
}

/// What a seed is of.
type SeedKind = (SimEngine, Backends);

/// What the worker runs on. Not one of the dice either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SimEngine {
    /// The simulated driver, in which ops end in any order.
    Completions,
    /// The epoll driver, in a kernel that is simulated.
    Epoll,
}

/// What the addresses are of. Not one of the dice: seeds that found something stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backends {
    Tcp,
    /// TCP, and the sockets that clients come from are somebody else's.
    Inherited,
    /// The first one's is a Unix socket, all are to be told who connects, and sessions to those that
    /// leave the set are cut.
    Mixed,
    /// Addresses of both families, so that connects race.
    BothFamilies,
    /// TCP, and no endpoint gets more than a few connections.
    Limited,
    /// The same, or without a limit; and clients are known by their users.
    Users,
    /// TCP, and peers speak FastCGI; mostly, no endpoint gets more than a few connections.
    Fastcgi,
}

impl Backends {
    /// What `SPLICEWAY_SIM_BACKENDS` calls them.
    #[cfg(test)]
    const NAMES: [(Self, &str); 7] = [
        (Self::Tcp, "tcp"),
        (Self::Inherited, "inherited"),
        (Self::Mixed, "mixed"),
        (Self::BothFamilies, "families"),
        (Self::Limited, "limited"),
        (Self::Users, "users"),
        (Self::Fastcgi, "fastcgi"),
    ];

    fn endpoints(self) -> Vec<Address> {
        let address = |port| Address::Tcp(SocketAddr::from(([192, 0, 2, 1], port)));
        let mut endpoints: Vec<_> = (1..4).map(address).collect();
        match self {
            Self::Tcp | Self::Inherited | Self::Limited | Self::Users | Self::Fastcgi => {}
            Self::Mixed => {
                endpoints[0] = Address::Unix(UnixName::new(b"simulated", UnixKind::Abstract));
            }
            Self::BothFamilies => {
                let address_v6 = |port| (Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]), port);
                endpoints.extend((1..4).map(|port| Address::Tcp(address_v6(port).into())));
                endpoints.rotate_left(2);
            }
        }
        endpoints
    }
}

impl Backends {
    fn limit(self, dice: &mut Dice) -> Option<Limit> {
        let is_limited = match self {
            Self::Tcp | Self::Inherited => false,
            Self::Limited => true,
            Self::Mixed | Self::BothFamilies | Self::Users => dice.one_in(2),
            Self::Fastcgi => dice.below(4) > 0,
        };
        let limit = is_limited.then(|| Limit {
            per_endpoint_max: NonZeroU32::new(dice.pick(&[1, 2, 5])),
            queue_max: dice.pick(&[0, 2, 100]),
        });
        match self {
            // Such a route has a queue in any case, for those who wait for the pace.
            Self::Fastcgi => limit.or(Some(Limit {
                per_endpoint_max: None,
                queue_max: 100,
            })),
            _ => limit,
        }
    }

    fn users(self, dice: &mut Dice) -> Option<Users> {
        (self == Self::Users).then(|| Users {
            allowed: dice
                .pick(&[&[1000, 1001][..], &[1000, 1002], &[1002]])
                .into(),
            per_user_max: dice.pick(&[1, 2, 5]),
        })
    }

    /// Each client of FastCGI makes up to four requests.
    fn clients_max(self) -> u64 {
        match self {
            Self::Fastcgi => 10,
            Self::Tcp
            | Self::Inherited
            | Self::Mixed
            | Self::BothFamilies
            | Self::Limited
            | Self::Users => 25,
        }
    }

    /// The simulation wants a descriptor to own and does nothing with it.
    fn listening(self) -> Listening {
        let nothing = File::open("/dev/null").expect("every system has it");
        Listening {
            fd: nothing.into(),
            sharing: Sharing::AnyWorker,
            backlog: match self {
                Self::Inherited => Backlog::NextOwners,
                Self::Tcp
                | Self::Mixed
                | Self::BothFamilies
                | Self::Limited
                | Self::Users
                | Self::Fastcgi => Backlog::Ours,
            },
        }
    }

    fn introduction(self) -> &'static [u8] {
        match self {
            Self::Tcp | Self::Inherited | Self::Limited | Self::Users | Self::Fastcgi => b"",
            Self::Mixed | Self::BothFamilies => b"PROXY UNKNOWN\r\n",
        }
    }
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

#[cfg(test)]
mod tests {
    use std::env;
    use std::panic::{self, AssertUnwindSafe};

    use super::*;

    /// What the names of kinds begin with that are run on the epoll driver.
    const UNDER_EPOLL: &str = "epoll-";

    /// Seeds of a plain test run; `scripts/soak` runs more.
    const SEEDS_DEFAULT: u64 = 5_000;

    /// Seeds that found a defect once. What a seed stands for changes with the simulation; they are
    /// kept for what they cost.
    ///
    /// - 2834: a splice saw an end where a send, whose failure was still in the queue, had taken the
    ///   error.
    const REGRESSIONS: &[u64] = &[2834];

    /// Runs a seed; the error has everything that is needed to find out why.
    fn run_seed(seed: u64, kind: SeedKind, trace: bool) -> Result<(), String> {
        let mut sim = None;
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            run(Dice::from_seed(seed), kind, trace, &mut sim);
        }));
        if trace {
            sim.iter()
                .flat_map(Sim::trace)
                .for_each(|line| println!("{line}"));
        }
        outcome.map_err(|panic| {
            let text = match (
                panic.downcast_ref::<String>(),
                panic.downcast_ref::<&'static str>(),
            ) {
                (Some(text), _) => text.as_str(),
                (None, Some(text)) => text,
                (None, None) => "a panic without a text",
            };
            let (engine, backends) = kind;
            let (_, name) = Backends::NAMES
                .into_iter()
                .find(|(named, _)| *named == backends)
                .expect("each has a name");
            let prefix = match engine {
                SimEngine::Completions => "",
                SimEngine::Epoll => UNDER_EPOLL,
            };
            format!(
                "seed {seed}: {text}\n\
                 replay it with: SPLICEWAY_SIM_BACKENDS={prefix}{name} SPLICEWAY_SIM_SEED={seed} cargo test --release --lib \
                 worker::simulation -- --nocapture"
            )
        })
    }

    fn number(name: &str) -> Option<u64> {
        env::var(name).ok().map(|text| text.parse().unwrap())
    }

    #[test]
    fn a_worker_keeps_every_rule_whatever_the_kernel_and_the_peers_do() {
        let only = env::var("SPLICEWAY_SIM_BACKENDS").ok().map(|name| {
            let (engine, name) = match name.strip_prefix(UNDER_EPOLL) {
                Some(name) => (SimEngine::Epoll, name),
                None => (SimEngine::Completions, &name[..]),
            };
            let mut kinds = Backends::NAMES.into_iter();
            let kind = kinds.find(|(_, of)| *of == name);
            (engine, kind.expect("SPLICEWAY_SIM_BACKENDS names a kind").0)
        });
        if let Some(seed) = number("SPLICEWAY_SIM_SEED") {
            run_seed(
                seed,
                only.unwrap_or((SimEngine::Completions, Backends::Tcp)),
                true,
            )
            .unwrap();
            return;
        }
        let first = number("SPLICEWAY_SIM_FIRST").unwrap_or(0);
        let seeds = number("SPLICEWAY_SIM_SEEDS").unwrap_or(SEEDS_DEFAULT);
        let all = REGRESSIONS.iter().copied().chain(first..first + seeds);
        let all = all.map(|seed| (seed, Backends::Tcp));
        // The path that differs is short, so fewer will do.
        let fewer = first..first + seeds.div_ceil(5);
        let inherited = fewer.clone().map(|seed| (seed, Backends::Inherited));
        let mixed = fewer.clone().map(|seed| (seed, Backends::Mixed));
        let users = fewer.clone().map(|seed| (seed, Backends::Users));
        let families = fewer.map(|seed| (seed, Backends::BothFamilies));
        let limited = (first..first + seeds.div_ceil(2)).map(|seed| (seed, Backends::Limited));
        let fastcgi = (first..first + seeds.div_ceil(3)).map(|seed| (seed, Backends::Fastcgi));
        // What is above the driver is the same.
        let under_epoll = (first..first + seeds.div_ceil(10)).flat_map(|seed| {
            let kinds = Backends::NAMES.into_iter();
            kinds.map(move |(backends, _)| (seed, (SimEngine::Epoll, backends)))
        });
        let of_one_kind = only.map(|kind| (first..first + seeds).map(move |seed| (seed, kind)));
        let of_all_kinds = all
            .chain(inherited)
            .chain(mixed)
            .chain(families)
            .chain(limited)
            .chain(users)
            .chain(fastcgi)
            .map(|(seed, backends)| (seed, (SimEngine::Completions, backends)))
            .chain(under_epoll)
            .filter(|_| only.is_none());
        let failed: Vec<_> = of_all_kinds
            .chain(of_one_kind.into_iter().flatten())
            .filter_map(|(seed, kind)| run_seed(seed, kind, false).err())
            .take(3)
            .collect();
        assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    }
}
