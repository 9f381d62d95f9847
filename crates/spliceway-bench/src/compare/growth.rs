//! What becomes of the cost of a request when there is more of everything: clients, workers,
//! listeners, routes, endpoints.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;

use spliceway_load::load::Pace;

use super::fleet::{Fleet, Shape};
use super::ground::RESPONDER_PORT;
use super::matrix::{Carry, Cell, Key};
use super::peers::{Engine, Many, Peer as _, Speaks, Spliceway, Threads};
use super::progress::Progress;
use super::results::{Growth, GrowthPages, GrowthSeries, Outcome, Variant};
use super::rounds::{Effort, measure, one_line, plan};

/// The programs whose growth is shown.
pub(super) const PATHS: [&str; 3] = ["spliceway", "spliceway-epoll", "haproxy"];

/// Clients at one time, on both kinds of connections.
pub(super) const CONCURRENCIES: [usize; 6] = [1, 16, 64, 256, 1024, 4096];

/// At which the variants are compared.
const VARIANT_CONCURRENCY: usize = 64;

/// Routes of one listener each, one of which gets all requests.
const ROUTES: usize = 1_000;

/// Endpoints of one route: as many as a set may have.
const ENDPOINTS: u16 = 4_096;

/// Few, so that a turn has little to do for them, and what it does for others shows.
const SCALE_CONCURRENCY: usize = 4;

/// spliceway with one worker, and with more.
fn variants() -> [(&'static str, Shape); 2] {
    [("1 worker", 1), ("2 workers", 2)].map(|(what, count)| {
        let threads = Threads::Exactly(count);
        (what, Shape::plain(threads))
    })
}

/// Addresses of loopback, on each of which the responder answers.
fn endpoints() -> Vec<SocketAddr> {
    let address = |number: u16| {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(127, 1, high, low), RESPONDER_PORT))
    };
    (0..ENDPOINTS).map(address).collect()
}

/// The answers whose cost is compared, at [`VARIANT_CONCURRENCY`].
pub(super) const PAGES: [Key; 3] = [Key::Small, Key::Page10, Key::Page50];

/// One route and endpoint, and more of each.
fn scales() -> [(String, Shape); 3] {
    let plain = Shape::plain(Threads::Exactly(1));
    let routes = Shape {
        listeners: ROUTES,
        ..plain.clone()
    };
    let of_one = Shape {
        backends: endpoints(),
        ..plain.clone()
    };
    [
        ("1 route, 1 endpoint".to_owned(), plain),
        (format!("{ROUTES} routes"), routes),
        (format!("{ENDPOINTS} endpoints"), of_one),
    ]
}

/// What more routes and endpoints are measured with. What a turn looks at is the same for both protocols, but the
/// engines have their own parts of it.
const SCALED: [(Engine, Speaks); 3] = [
    (Engine::IoUring, Speaks::Raw),
    (Engine::IoUring, Speaks::Fastcgi),
    (Engine::Epoll, Speaks::Raw),
];

/// How many measurements a run is, for the estimate of its time.
pub(super) fn count(paths: usize, points: usize) -> usize {
    let scaled = SCALED.len() * scales().len();
    Carry::ALL.len() * (paths * points + variants().len()) + scaled
}

/// Measures both parts.
pub(super) fn run(
    fleet: &mut Fleet,
    paths: &[String],
    concurrencies: &[usize],
    answers: &[Key],
    effort: Effort,
    progress: &Progress,
) -> Growth {
    let mut growth = Growth::default();
    for carry in Carry::ALL {
        growth
            .series
            .extend(series(fleet, paths, concurrencies, carry, effort, progress));
        growth
            .pages
            .extend(pages(fleet, paths, answers, carry, effort, progress));
        growth
            .variants
            .extend(compare_variants(fleet, carry, effort, progress));
    }
    for (engine, speaks) in SCALED {
        let of_these = compare_scales(fleet, engine, speaks, effort, progress);
        growth.variants.extend(of_these);
    }
    growth
}

fn series(
    fleet: &mut Fleet,
    paths: &[String],
    concurrencies: &[usize],
    carry: Carry,
    effort: Effort,
    progress: &Progress,
) -> Vec<GrowthSeries> {
    let empty = |path: &String| GrowthSeries {
        path: path.clone(),
        carry,
        points: Vec::new(),
    };
    let mut all: Vec<GrowthSeries> = paths.iter().map(empty).collect();
    for &concurrency in concurrencies {
        let cell = Cell::new(carry, Key::Small, concurrency);
        let keys: Vec<&str> = paths.iter().map(String::as_str).collect();
        let outcomes = in_rounds(fleet, &keys, &cell, effort, progress);
        for (series, rounds) in all.iter_mut().zip(outcomes) {
            series.points.push((concurrency, rounds));
        }
    }
    all
}

fn pages(
    fleet: &mut Fleet,
    paths: &[String],
    answers: &[Key],
    carry: Carry,
    effort: Effort,
    progress: &Progress,
) -> Vec<GrowthPages> {
    let empty = |path: &String| GrowthPages {
        path: path.clone(),
        carry,
        concurrency: VARIANT_CONCURRENCY,
        points: Vec::new(),
    };
    let mut all: Vec<GrowthPages> = paths.iter().map(empty).collect();
    for &key in answers {
        let cell = Cell::new(carry, key, VARIANT_CONCURRENCY);
        let keys: Vec<&str> = paths.iter().map(String::as_str).collect();
        let outcomes = in_rounds(fleet, &keys, &cell, effort, progress);
        for (pages, rounds) in all.iter_mut().zip(outcomes) {
            pages.points.push((key, rounds));
        }
    }
    all
}

fn compare_variants(
    fleet: &mut Fleet,
    carry: Carry,
    effort: Effort,
    progress: &Progress,
) -> Vec<Variant> {
    let cell = Cell::new(carry, Key::Small, VARIANT_CONCURRENCY);
    let variants = variants();
    let keys = ["growth-1", "growth-2", "growth-3", "growth-4"];
    for (key, (_, shape)) in keys.iter().zip(&variants) {
        fleet.add(
            key,
            Box::new(Spliceway::raw(Engine::IoUring)),
            shape.clone(),
        );
    }
    let outcomes = in_rounds(fleet, &keys, &cell, effort, progress);
    for key in keys {
        fleet.remove(key);
    }
    let variant = |((what, _), rounds): (&(&str, Shape), Vec<Outcome>)| Variant {
        path: Spliceway::raw(Engine::IoUring).key(),
        what: (*what).to_owned(),
        carry,
        concurrency: VARIANT_CONCURRENCY,
        rounds,
    };
    variants.iter().zip(outcomes).map(variant).collect()
}

/// Each client makes a connection for each request: then a listener has something to do as well.
fn compare_scales(
    fleet: &mut Fleet,
    engine: Engine,
    speaks: Speaks,
    effort: Effort,
    progress: &Progress,
) -> Vec<Variant> {
    let cell = Cell::new(Carry::New, Key::Small, SCALE_CONCURRENCY);
    let scales = scales();
    let keys: Vec<String> = (0..scales.len()).map(|n| format!("growth-{n}")).collect();
    for (key, (_, shape)) in keys.iter().zip(&scales) {
        fleet.add(key, Box::new(Many::of(engine, speaks)), shape.clone());
    }
    let paths: Vec<&str> = keys.iter().map(String::as_str).collect();
    let outcomes = in_rounds(fleet, &paths, &cell, effort, progress);
    for key in paths {
        fleet.remove(key);
    }
    let peer = Many::of(engine, speaks);
    let variant = |((what, _), rounds): (&(String, Shape), Vec<Outcome>)| Variant {
        path: peer.key(),
        what: format!("{}, {what}", peer.title()),
        carry: Carry::New,
        concurrency: SCALE_CONCURRENCY,
        rounds,
    };
    scales.iter().zip(outcomes).map(variant).collect()
}

/// The outcomes of each path.
fn in_rounds(
    fleet: &mut Fleet,
    paths: &[&str],
    cell: &Cell,
    effort: Effort,
    progress: &Progress,
) -> Vec<Vec<Outcome>> {
    let concurrency = NonZeroUsize::new(cell.concurrency).unwrap_or(NonZeroUsize::MIN);
    let mut outcomes = vec![Vec::new(); paths.len()];
    for _ in 0..effort.rounds {
        for (path, outcomes) in paths.iter().zip(&mut outcomes) {
            progress.now(&format!("growth · {} · {path}", cell.id()));
            let closed = |target| plan(cell, target, Pace::Closed { concurrency }, effort);
            let outcome = measure(fleet, path, closed);
            outcomes.push(
                outcome
                    .map(|(sample, _)| sample)
                    .map_err(|error| one_line(&error)),
            );
            progress.step(effort.each());
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::super::fleet::RESPONDER;
    use super::*;

    #[test]
    fn endpoints_differ_and_are_not_the_plain_one() {
        let mut all = endpoints();
        all.push(RESPONDER);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), usize::from(ENDPOINTS) + 1);
    }
}
