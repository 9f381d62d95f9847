//! spliceway's FastCGI mode: it keeps connections to the backend and shares them between requests, so
//! the direct path can be slower than the one through it.
//!
//! It is measured where that means something, and beside few others: the matrix is about relays.

use super::fleet::{DIRECT_TCP_NEW, Fleet, Shape};
use super::matrix::{Carry, Cell, Key};
use super::peers::{Peer, Threads};
use super::progress::Progress;
use super::results::{DIRECT_TCP, Fastcgi, PathInfo};
use super::rounds::{Effort, run_cell};

/// The mode, and the mode without its guard, in the order of [`super::peers::fastcgi`].
const IO_URING: &str = "fastcgi";
const EPOLL: &str = "fastcgi-epoll";
const IO_URING_UNGUARDED: &str = "fastcgi-unguarded";
const EPOLL_UNGUARDED: &str = "fastcgi-epoll-unguarded";

/// The mode with a backend on the same machine; the direct way to that one is in the matrix.
const IO_URING_OVER_UNIX: &str = "fastcgi-unix";

/// The guard's few percent are less than what one round differs from the next.
const GUARD_ROUNDS: usize = 2;

/// A cell, and the paths that are compared in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contest {
    pub(super) cell: Cell,
    paths: &'static [&'static str],
    /// So many times the rounds of the others.
    rounds: usize,
}

impl Contest {
    /// What `--only` knows it by.
    pub(super) fn id(&self) -> String {
        format!("fastcgi-{}", self.cell.id())
    }

    /// How many measurements it is in so many rounds.
    pub(super) fn count(&self, rounds: usize) -> usize {
        self.paths.len() * self.rounds * rounds
    }
}

/// Every one, those of the targets.
pub(super) fn contests() -> [Contest; 9] {
    let contest = |cell, paths: &'static [&'static str]| Contest {
        cell,
        paths,
        rounds: 1,
    };
    [
        contest(
            Cell::new(Carry::New, Key::Small, 16),
            &[
                DIRECT_TCP,
                "haproxy",
                "spliceway",
                IO_URING,
                EPOLL,
                IO_URING_OVER_UNIX,
            ],
        ),
        contest(
            Cell::new(Carry::Kept, Key::Small, 16),
            &[DIRECT_TCP, DIRECT_TCP_NEW, "haproxy", IO_URING, EPOLL],
        ),
        contest(
            Cell::new(Carry::New, Key::Small, 1),
            &[DIRECT_TCP, "haproxy", IO_URING, EPOLL],
        ),
        contest(
            Cell::new(Carry::New, Key::Page10, 16),
            &[DIRECT_TCP, "haproxy", IO_URING, EPOLL],
        ),
        contest(
            Cell::new(Carry::New, Key::Page50, 16),
            &[DIRECT_TCP, "haproxy", IO_URING, EPOLL],
        ),
        contest(
            Cell::new(Carry::Kept, Key::Page10, 16),
            &[DIRECT_TCP, DIRECT_TCP_NEW, IO_URING, EPOLL],
        ),
        contest(
            Cell::new(Carry::New, Key::Page, 16),
            &[DIRECT_TCP, IO_URING, EPOLL],
        ),
        contest(
            Cell::new(Carry::New, Key::Download, 8),
            &[DIRECT_TCP, IO_URING, EPOLL],
        ),
        // With kept connections, where the guard has the largest part in a request's cost.
        Contest {
            rounds: GUARD_ROUNDS,
            ..contest(
                Cell::new(Carry::Kept, Key::Browser, 16),
                &[IO_URING, IO_URING_UNGUARDED, EPOLL, EPOLL_UNGUARDED],
            )
        },
    ]
}

/// Measures `contests` with those of `peers` that there are, beside the fleet's other programs.
pub(super) fn run(
    fleet: &mut Fleet,
    peers: Vec<Box<dyn Peer>>,
    contests: &[Contest],
    effort: Effort,
    progress: &Progress,
) -> Fastcgi {
    let keys: Vec<String> = peers.iter().map(|peer| peer.key()).collect();
    for peer in peers {
        fleet.add(&peer.key(), peer, Shape::plain(Threads::Exactly(1)));
    }
    let there = fleet.paths();
    let mut cells = Vec::new();
    for contest in contests {
        progress.part(&contest.cell.title());
        let is_there = |path: &str| path == DIRECT_TCP_NEW || there.iter().any(|key| key == path);
        let paths = contest.paths.iter().filter(|path| is_there(path));
        let paths: Vec<String> = paths.map(|path| (*path).to_owned()).collect();
        let effort = Effort {
            rounds: effort.rounds * contest.rounds,
            ..effort
        };
        cells.push(run_cell(fleet, &paths, &contest.cell, effort, progress));
    }
    let paths = describe(fleet, contests);
    for key in keys {
        fleet.remove(&key);
    }
    Fastcgi { paths, cells }
}

/// The paths of `contests`, in the order of the tables.
fn describe(fleet: &Fleet, contests: &[Contest]) -> Vec<PathInfo> {
    let mut infos = fleet.describe();
    // Behind the direct path over TCP.
    let new = PathInfo {
        key: DIRECT_TCP_NEW.to_owned(),
        name: "direct, TCP, new connections".to_owned(),
        version: String::new(),
        threads_default: String::new(),
        missing: None,
    };
    infos.insert(1, new);
    infos.retain(|info| {
        let mut paths = contests.iter().flat_map(|contest| contest.paths);
        paths.any(|path| *path == info.key)
    });
    infos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_a_contest_is_one_that_there_can_be() {
        let peers = super::super::peers::all(&[]).into_iter();
        let keys = peers
            .chain(super::super::peers::fastcgi())
            .map(|peer| peer.key());
        let direct = [DIRECT_TCP, DIRECT_TCP_NEW].map(str::to_owned);
        let known: Vec<String> = keys.chain(direct).collect();
        for contest in contests() {
            for path in contest.paths {
                assert!(known.iter().any(|key| key == path), "{path}");
            }
        }
    }

    #[test]
    fn a_request_that_the_guard_is_measured_with_can_be_made() {
        use std::time::Duration;

        use spliceway_load::load::{Connections, Pace, Plan, Target};

        for contest in contests() {
            let plan = Plan {
                target: Target::Unix("/nowhere".into()),
                pace: Pace::Closed {
                    concurrency: std::num::NonZeroUsize::MIN,
                },
                connections: Connections::New,
                request: contest.cell.exchange.request(),
                warm_up: Duration::ZERO,
                duration: Duration::ZERO,
                requests_max: None,
                threads: std::num::NonZeroUsize::MIN,
                deadline: Duration::from_secs(1),
            };
            assert_eq!(plan.check(), Ok(()), "{}", contest.id());
        }
    }
}
