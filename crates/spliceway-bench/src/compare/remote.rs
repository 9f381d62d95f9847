//! Backends behind a link: what a proxy costs, or spares, where every round trip takes its time.
//!
//! All ways lead over the same link, in the same rounds, with new and with kept connections of the
//! clients. spliceway's FastCGI mode has the connections to the backend for itself either way.

use std::num::NonZeroUsize;
use std::time::Duration;

use spliceway_load::load::{Pace, Plan, Target};

use super::fleet::{Fleet, Shape};
use super::link::Link;
use super::matrix::{Carry, Cell, Key};
use super::peers::{Engine, Fastcgi, Guard, Haproxy, NginxStream, Peer, Spliceway, Threads};
use super::progress::Progress;
use super::results::{PathInfo, Remote, RemoteCell, RemoteWay};
use super::rounds::{self, Effort, measure, one_line};

/// A machine in the next rack or building, and one in another town.
const ROUND_TRIPS_MS: [u32; 2] = [1, 10];

/// That of a quick run, where a round trip weighs most.
const QUICK_ROUND_TRIPS_MS: [u32; 1] = [10];

const ANSWERS: [Key; 2] = [Key::Small, Key::Page];

/// Clients at one time.
pub(super) const MANY: usize = 16;
const CONCURRENCIES: [usize; 2] = [MANY, 1];

/// `--per-endpoint-max` of the FastCGI mode: four times as many as there are clients, so that it is not
/// what holds them up. A connection is free a round trip after its answer.
const ENDPOINT_MAX: usize = 4 * MANY;

/// Windows of kept connections have to open, and the FastCGI mode has to find out how many connections it
/// needs, which takes dozens of round trips.
const WARM_UP: Duration = Duration::from_millis(500);

/// A link, an answer, and a number of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contest {
    round_trip_ms: u32,
    key: Key,
    concurrency: usize,
}

impl Contest {
    /// What `--only` knows it by.
    pub(super) fn id(&self) -> String {
        let (ms, cell) = (self.round_trip_ms, self.cell(Carry::Kept).id());
        // "kept-64k-16"
        format!("remote-{ms}ms{}", cell.trim_start_matches("kept"))
    }

    fn cell(&self, carry: Carry) -> Cell {
        Cell::new(carry, self.key, self.concurrency)
    }
}

/// Every one; in a quick run the longer link with many clients.
pub(super) fn contests(quick: bool) -> Vec<Contest> {
    let (round_trips, concurrencies) = match quick {
        true => (&QUICK_ROUND_TRIPS_MS[..], &CONCURRENCIES[..1]),
        false => (&ROUND_TRIPS_MS[..], &CONCURRENCIES[..]),
    };
    let mut contests = Vec::new();
    for &round_trip_ms in round_trips {
        for key in ANSWERS {
            contests.extend(concurrencies.iter().map(|&concurrency| Contest {
                round_trip_ms,
                key,
                concurrency,
            }));
        }
    }
    contests
}

/// The programs that are compared, beside the direct path.
pub(super) fn peers() -> Vec<Box<dyn Peer>> {
    let mut peers: Vec<Box<dyn Peer>> = vec![Box::new(Haproxy::plain()), Box::new(NginxStream)];
    let engines = [Engine::IoUring, Engine::Epoll];
    for engine in engines {
        peers.push(Box::new(Spliceway::raw(engine)));
    }
    for engine in engines {
        let route = Fastcgi {
            guard: Guard::On,
            endpoint_max: Some(ENDPOINT_MAX),
        };
        peers.push(Box::new(Spliceway::fastcgi(engine, route)));
    }
    peers
}

/// What one way takes in one round.
pub(super) fn each(effort: Effort) -> Duration {
    effort.each() + WARM_UP - rounds::WARM_UP
}

/// How many measurements a round of a contest is, with every program there.
pub(super) fn ways() -> usize {
    (1 + peers().len()) * Carry::ALL.len()
}

/// Measures `contests`, those with the same link one after the other, with those of the programs that were
/// asked for. Nothing means all.
///
/// # Errors
/// Where no link can be made.
pub(super) fn run(
    contests: &[Contest],
    asked: &[String],
    responder_threads: usize,
    effort: Effort,
    progress: &Progress,
) -> anyhow::Result<Remote> {
    let mut remote = Remote {
        endpoint_max: ENDPOINT_MAX,
        ..Remote::default()
    };
    for of_link in contests.chunk_by(|a, b| a.round_trip_ms == b.round_trip_ms) {
        let round_trip = Duration::from_millis(of_link[0].round_trip_ms.into());
        let mut fleet = Fleet::start_behind(Link::open(round_trip)?, responder_threads)?;
        let shape = Shape {
            backends: vec![fleet.address()],
            ..Shape::plain(Threads::Exactly(1))
        };
        for peer in peers() {
            let key = peer.key();
            if asked.is_empty() || asked.contains(&key) {
                fleet.add(&key, peer, shape.clone());
            }
        }
        remote.paths = describe(&fleet);
        for contest in of_link {
            progress.part(&title(contest));
            let cell = measure_all(&mut fleet, contest, &remote.paths, effort, progress);
            remote.cells.push(cell);
        }
    }
    Ok(remote)
}

fn title(contest: &Contest) -> String {
    let (ms, key, clients) = (contest.round_trip_ms, contest.key, contest.concurrency);
    format!(
        "{ms} ms to the backend, {}, {clients} at a time",
        key.title()
    )
}

/// The direct way over TCP, and the programs. One way only: behind the link there is no Unix socket.
fn describe(fleet: &Fleet) -> Vec<PathInfo> {
    let mut infos = fleet.describe();
    infos.retain(|info| info.key != super::fleet::DIRECT_UNIX);
    infos
}

/// One contest, in interleaved rounds.
fn measure_all(
    fleet: &mut Fleet,
    contest: &Contest,
    paths: &[PathInfo],
    effort: Effort,
    progress: &Progress,
) -> RemoteCell {
    let there = paths.iter().filter(|info| info.missing.is_none());
    let of_path = |info: &PathInfo| {
        Carry::ALL.map(|carry| RemoteWay {
            path: info.key.clone(),
            carry,
            rounds: Vec::new(),
        })
    };
    let mut ways: Vec<RemoteWay> = there.flat_map(of_path).collect();
    for round in 0..effort.rounds {
        for way in &mut ways {
            let (id, path) = (contest.id(), &way.path);
            progress.now(&format!("{id} · round {} · {path}", round + 1));
            let cell = contest.cell(way.carry);
            let measured = measure(fleet, path, |target| load(&cell, target, effort));
            let outcome = measured.map(|(sample, _)| sample);
            way.rounds.push(outcome.map_err(|error| one_line(&error)));
            progress.step(each(effort));
        }
    }
    RemoteCell {
        round_trip_ms: contest.round_trip_ms,
        key: contest.key,
        concurrency: contest.concurrency,
        ways,
    }
}

fn load(cell: &Cell, target: Target, effort: Effort) -> Plan {
    let concurrency = NonZeroUsize::new(cell.concurrency).expect("16 or 1");
    Plan {
        warm_up: WARM_UP,
        ..rounds::plan(cell, target, Pace::Closed { concurrency }, effort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contests_have_short_names_and_those_of_a_link_are_together() {
        let all = contests(false);
        let ids: Vec<String> = all.iter().map(Contest::id).collect();
        assert_eq!(ids.len(), 8);
        assert_eq!(ids[0], "remote-1ms-4k-16");
        assert_eq!(ids[7], "remote-10ms-64k-1");
        let links = all.chunk_by(|a, b| a.round_trip_ms == b.round_trip_ms);
        assert_eq!(links.count(), ROUND_TRIPS_MS.len());
        assert!(contests(true).iter().all(|contest| all.contains(contest)));
    }
}
