//! What is under way for longest, from a look at all sessions.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::observe::Observed;
use crate::observe::requests::{HasTold, RequestEntry, Which, hear};
use crate::session::SessionState;
use crate::worker::{LookPart, SessionRow};

/// How many are shown.
pub(super) const ROWS_MAX: usize = 20;

/// How long is waited for workers: less than `spliceway requests` does, which waits for its turn meanwhile.
const PATIENCE: Duration = Duration::from_millis(500);

/// What rows may take in memory on their way, if they come faster than they are looked at: some 10,000 raw sessions or
/// 6,000 requests at a time, of which [`ROWS_MAX`] are kept.
const ROOM_BYTES: usize = 8 << 20;

/// From this age on, a route is told to have a request that runs for long.
const OLD: Duration = Duration::from_secs(1);

/// All sessions, and the oldest of them.
#[derive(Debug, Default)]
pub(super) struct Slowest {
    /// All that were looked at, by what they do.
    pub(super) states: Vec<StateCount>,
    /// The oldest requests first, and behind them raw sessions.
    pub(super) rows: Vec<RequestEntry>,
    /// Of each route, the request at which a server is at work for longest, unless that has just begun.
    pub(super) at_work: HashMap<String, AtWork>,
    /// Sessions that there was no room for.
    pub(super) left_out: usize,
    /// Workers that have told nothing, and those that have not told of all their sessions.
    pub(super) silent_workers: Vec<usize>,
    pub(super) incomplete_workers: Vec<usize>,
}

/// A request that a server has.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AtWork {
    pub(super) age: Duration,
    pub(super) endpoint: Option<String>,
    /// Its method and URI.
    pub(super) words: Option<[String; 2]>,
}

/// How many sessions are in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct StateCount {
    pub(super) state: SessionState,
    pub(super) count: usize,
}

impl Observed {
    /// Asks all workers. For whoever has the turn.
    pub(super) async fn slowest_requests(&self) -> Slowest {
        let told = self.ask_workers(&Which::default(), ROOM_BYTES);
        let deadline = Instant::now() + PATIENCE;
        let mut found = Found::default();
        for (number, told) in told.into_iter().enumerate() {
            let has_told = hear(told, deadline, |part| found.add(number, part)).await;
            match has_told {
                HasTold::All => {}
                // One that has finished has no sessions.
                _ if self.workers[number].has_finished() => {}
                HasTold::Some => found.slowest.incomplete_workers.push(number),
                HasTold::Nothing => found.slowest.silent_workers.push(number),
            }
        }
        found.finish()
    }
}

/// What has come so far.
#[derive(Default)]
struct Found {
    slowest: Slowest,
    /// With their workers' numbers, at most [`ROWS_MAX`].
    oldest: Vec<(usize, SessionRow)>,
}

impl Found {
    fn add(&mut self, worker: usize, part: LookPart) {
        self.slowest.left_out += part.left_out;
        for row in part.rows {
            self.count(row.view.state);
            self.keep(worker, row);
        }
    }

    fn count(&mut self, state: SessionState) {
        let states = &mut self.slowest.states;
        match states.iter_mut().find(|known| known.state == state) {
            Some(known) => known.count += 1,
            None => states.push(StateCount { state, count: 1 }),
        }
    }

    fn keep(&mut self, worker: usize, row: SessionRow) {
        let is_at_work = matches!(
            row.view.state,
            SessionState::Sent
                | SessionState::Answering
                | SessionState::Settling
                | SessionState::Abandoned
        );
        if is_at_work && row.age >= OLD {
            self.note_at_work(&row);
        }
        let rank = Rank::of(&row);
        let oldest = &mut self.oldest;
        let at = oldest.partition_point(|(_, kept)| Rank::of(kept) >= rank);
        if at < ROWS_MAX {
            oldest.insert(at, (worker, row));
            oldest.truncate(ROWS_MAX);
        }
    }

    fn note_at_work(&mut self, row: &SessionRow) {
        let at_work = &mut self.slowest.at_work;
        let route = row.route.name.as_str();
        if at_work.get(route).is_some_and(|known| known.age >= row.age) {
            return;
        }
        let words = row.view.words.as_ref().map(|words| {
            let [method, uri, _] = words.texts();
            [method, uri]
        });
        let found = AtWork {
            age: row.age,
            endpoint: row.view.endpoint.map(|endpoint| endpoint.to_string()),
            words,
        };
        at_work.insert(route.to_owned(), found);
    }

    fn finish(self) -> Slowest {
        let rows = self.oldest.into_iter();
        let rows = rows.map(|(worker, row)| RequestEntry::of(worker, row));
        Slowest {
            rows: rows.collect(),
            ..self.slowest
        }
    }
}

/// Requests come before raw sessions, which may go on for days, and then the older ones.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_request: bool,
    age: Duration,
}

impl Rank {
    fn of(row: &SessionRow) -> Self {
        Self {
            is_request: row.view.state != SessionState::Relaying,
            age: row.age,
        }
    }
}
