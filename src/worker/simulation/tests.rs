//! Runs seeds.

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
        let kind = only.unwrap_or((SimEngine::Completions, Backends::Tcp));
        run_seed(seed, kind, true).unwrap();
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
    let auto = (first..first + seeds.div_ceil(5)).map(|seed| (seed, Backends::Auto));
    // Each is several of the others at one time.
    let several = first..first + seeds.div_ceil(10);
    let routes = several.clone().map(|seed| (seed, Backends::Routes));
    let workers = several.clone().map(|seed| (seed, Backends::Workers));
    let successions = several.clone().map(|seed| (seed, Backends::Successions));
    let reloads = several.map(|seed| (seed, Backends::Reloads));
    let by_hand = (first..first + seeds.div_ceil(3)).map(|seed| (seed, Backends::ByHand));
    let under_epoll = (first..first + seeds.div_ceil(10)).flat_map(|seed| {
        let kinds = Backends::NAMES.into_iter();
        let under_epoll = kinds.filter(|(backends, _)| backends.is_under_epoll());
        under_epoll.map(move |(backends, _)| (seed, (SimEngine::Epoll, backends)))
    });
    let of_one_kind = only.map(|kind| (first..first + seeds).map(move |seed| (seed, kind)));
    let of_all_kinds = all
        .chain(inherited)
        .chain(mixed)
        .chain(families)
        .chain(limited)
        .chain(users)
        .chain(fastcgi)
        .chain(auto)
        .chain(routes)
        .chain(workers)
        .chain(successions)
        .chain(by_hand)
        .chain(reloads)
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
