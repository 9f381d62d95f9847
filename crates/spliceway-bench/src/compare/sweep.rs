//! Latency at fixed rates: an open loop at parts of what the direct path can do.

use std::num::NonZeroUsize;

use spliceway_load::load::{Pace, Plan, Target};

use super::fleet::Fleet;
use super::matrix::{Carry, Cell, Key};
use super::progress::Progress;
use super::results::{DIRECT_TCP, Sweep, SweepPath, SweepPoint};
use super::rounds::{Effort, measure, one_line, plan};

/// Requests that find so many connections busy wait; their wait counts. Enough for a path that falls
/// behind to show it, few enough that none runs out of connections.
const CONNECTIONS_MAX: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");

/// What has nothing to tell of rates, as a whole run has to end: a process for each connection, and a way to splice, which
/// answers as large as pages have no use for.
pub(super) const LEFT_OUT: [&str; 2] = ["socat", "haproxy-splice"];

/// What is swept with the smallest answer, beside the programs of the other sections.
pub(super) const MODES: [&str; 2] = ["fastcgi", "fastcgi-epoll"];

/// The requests of the sweep, with answers of this kind.
pub(super) fn cell(key: Key) -> Cell {
    Cell::new(Carry::New, key, 16)
}

/// The most that the direct path does in a closed loop.
pub(super) fn capacity(fleet: &mut Fleet, cell: &Cell, effort: Effort) -> anyhow::Result<f64> {
    let concurrency = NonZeroUsize::new(cell.concurrency).expect("16");
    let closed = |target| plan(cell, target, Pace::Closed { concurrency }, effort);
    let (sample, _) = measure(fleet, DIRECT_TCP, closed)?;
    Ok(sample.per_second())
}

/// Every path at every rate, in rounds.
pub(super) fn run(
    fleet: &mut Fleet,
    paths: &[String],
    cell: &Cell,
    shares: &[f64],
    capacity: f64,
    effort: Effort,
    progress: &Progress,
) -> Sweep {
    let point = |share: &f64| SweepPoint {
        share: *share,
        rate: share * capacity,
        rounds: Vec::new(),
    };
    let mut rows: Vec<SweepPath> = paths
        .iter()
        .map(|path| SweepPath {
            path: path.clone(),
            points: shares.iter().map(point).collect(),
        })
        .collect();
    for index in 0..shares.len() {
        for _ in 0..effort.rounds {
            for row in &mut rows {
                let point = &mut row.points[index];
                progress.now(&format!(
                    "sweep · {} · {:.0} % · {}",
                    cell.id(),
                    point.share * 100.0,
                    row.path
                ));
                let open = |target| open_loop(cell, target, point.rate, effort);
                let outcome = measure(fleet, &row.path, open);
                point.rounds.push(
                    outcome
                        .map(|(sample, _)| sample)
                        .map_err(|error| one_line(&error)),
                );
                progress.step(effort.each());
            }
        }
    }
    Sweep {
        capacity,
        paths: rows,
    }
}

fn open_loop(cell: &Cell, target: Target, rate: f64, effort: Effort) -> Plan {
    let pace = Pace::Open {
        rate,
        connections_max: CONNECTIONS_MAX,
    };
    plan(cell, target, pace, effort)
}
