//! What every session does at one moment, as JSON: what `spliceway requests` shows.
//!
//! Each worker tells of its own sessions between two turns; one that does not turn is named instead.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Observed, ObservedWorker, Status};
use crate::session::{SessionState, Stall, StalledBy, StalledWhat};
use crate::worker::{Look, LookPart, SessionRow};

/// How long is waited for workers.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long somebody waits whose turn it is not: for one who waits for a worker that does not turn. With both, the
/// client's own patience is not over yet.
const TURN_PATIENCE: Duration = Duration::from_millis(2_500);

/// What one answer may take, about: the rows in memory, and then the text. Some 40,000 raw sessions, 25,000 requests as
/// they usually are, or 1,300 with the longest words, all of them control characters.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Whose turn it is to have all workers asked: one has it at a time, so that what answers take is bounded.
pub(crate) type LookTurn = Mutex<()>;

/// Others are asking, and wait for workers.
#[derive(Debug)]
pub(crate) struct OthersAsk;

/// Of what sessions are told.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Which {
    /// Those of this route alone.
    pub(crate) route: Option<String>,
    /// Clients without a request as well.
    pub(crate) idle: bool,
}

/// All sessions of a daemon.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Requests {
    pub(crate) program: String,
    pub(crate) schema: u32,
    pub(crate) version: String,
    /// The routes that the daemon serves.
    pub(crate) routes: Vec<String>,
    /// Workers that have not told, by number: what their sessions do is not known.
    pub(crate) silent_workers: Vec<usize>,
    /// Sessions beyond what one answer tells of.
    pub(crate) left_out: usize,
    pub(crate) requests: Vec<RequestEntry>,
}

/// One session.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RequestEntry {
    pub(crate) route: String,
    pub(crate) worker: usize,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) pid: Option<u32>,
    pub(crate) state: SessionState,
    /// For how long the request is under way, or the client idle.
    pub(crate) age_seconds: f64,
    /// For how long the client is served.
    pub(crate) connected_seconds: f64,
    /// How long the request has waited for places at endpoints.
    pub(crate) queue_seconds: f64,
    pub(crate) method: Option<String>,
    pub(crate) uri: Option<String>,
    pub(crate) script: Option<String>,
    pub(crate) endpoint: Option<String>,
    /// Bytes that the endpoint has taken, if that is known.
    pub(crate) request_bytes: Option<u64>,
    /// Bytes of the answer that have come, or that a raw session's client has taken.
    pub(crate) response_bytes: Option<u64>,
    pub(crate) stalled: Option<StalledEntry>,
}

/// Why bytes do not go on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StalledEntry {
    /// Who is waited for.
    pub(crate) by: StalledBy,
    /// What does not go on.
    pub(crate) what: StalledWhat,
    pub(crate) seconds: f64,
}

impl Which {
    /// As a query says it: `route=NAME`, `idle`. An error: what is neither.
    pub(crate) fn of_query(query: Option<&str>) -> Result<Self, String> {
        let mut which = Self::default();
        let words = query.unwrap_or_default().split('&');
        for word in words.filter(|word| !word.is_empty()) {
            // No character of a route's name has to be escaped.
            match word.split_once('=') {
                Some(("route", name)) => which.route = Some(name.to_owned()),
                None if word == "idle" => which.idle = true,
                _ => return Err(word.to_owned()),
            }
        }
        Ok(which)
    }

    /// The same as a path with a query.
    pub(crate) fn path(&self) -> String {
        let route = self.route.iter().map(|name| format!("route={name}"));
        let idle = self.idle.then(|| "idle".to_owned());
        let words: Vec<String> = route.chain(idle).collect();
        format!("{PATH}?{}", words.join("&"))
    }
}

/// Where they are asked for.
pub(crate) const PATH: &str = "/requests";

impl Observed {
    /// Has the workers tell what their sessions do.
    pub(crate) async fn requests(&self, which: &Which) -> Result<Requests, OthersAsk> {
        let turn = timeout(TURN_PATIENCE, self.look_turn.lock()).await;
        let _turn = turn.map_err(|_| OthersAsk)?;
        let room = Arc::new(AtomicUsize::new(ANSWER_BYTES_MAX));
        let ask = |worker: &ObservedWorker| {
            let (tell, told) = unbounded_channel();
            let look = Look {
                route: which.route.as_deref().map(Into::into),
                idle: which.idle,
                room: Arc::clone(&room),
                tell,
            };
            // What it does not take, it drops, and with it the way to tell anything.
            (worker.look)(look);
            told
        };
        // All at one time, and then one after the other: a worker has the time of those before it, too.
        let told: Vec<_> = self.workers.iter().map(ask).collect();
        let deadline = Instant::now() + PATIENCE;
        let mut all = Requests {
            program: Status::PROGRAM.to_owned(),
            schema: Status::SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            routes: self.routes.all().iter().map(|r| r.name.clone()).collect(),
            silent_workers: Vec::new(),
            left_out: 0,
            requests: Vec::new(),
        };
        for (number, told) in told.into_iter().enumerate() {
            // One that has finished has no sessions.
            if !all.gather(number, told, deadline).await && !self.workers[number].has_finished() {
                all.silent_workers.push(number);
            }
        }
        Ok(all)
    }
}

impl Requests {
    /// Whether the worker has told all by then.
    async fn gather(
        &mut self,
        worker: usize,
        mut told: UnboundedReceiver<LookPart>,
        deadline: Instant,
    ) -> bool {
        while let Ok(Some(part)) = timeout_at(deadline, told.recv()).await {
            self.left_out += part.left_out;
            let rows = part.rows.into_iter();
            let entries = rows.map(|row| RequestEntry::of(worker, row));
            self.requests.extend(entries);
            if part.is_last {
                return true;
            }
        }
        false
    }
}

impl RequestEntry {
    /// Both ways, as far as they are known.
    pub(super) fn bytes(&self) -> u64 {
        [self.request_bytes, self.response_bytes]
            .into_iter()
            .flatten()
            .sum()
    }

    fn of(worker: usize, row: SessionRow) -> Self {
        let [method, uri, script] = match &row.view.words {
            Some(words) => words.texts().map(Some),
            None => [None, None, None],
        };
        Self {
            route: row.route.name.to_string(),
            worker,
            uid: row.peer.map(|peer| peer.uid),
            gid: row.peer.map(|peer| peer.gid),
            pid: row.peer.map(|peer| peer.pid),
            state: row.view.state,
            age_seconds: row.age.as_secs_f64(),
            connected_seconds: row.connected.as_secs_f64(),
            queue_seconds: row.view.waited.as_secs_f64(),
            method,
            uri,
            script,
            endpoint: row.view.endpoint.map(|endpoint| endpoint.to_string()),
            request_bytes: row.view.request_bytes,
            response_bytes: row.view.response_bytes,
            stalled: row.view.stall.map(StalledEntry::from),
        }
    }
}

impl From<Stall> for StalledEntry {
    fn from(stall: Stall) -> Self {
        Self {
            by: stall.by,
            what: stall.what,
            seconds: stall.time.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_what_is_understood() {
        for (route, idle) in [(None, false), (Some("php"), false), (Some("a.b-c_1"), true)] {
            let which = Which {
                route: route.map(str::to_owned),
                idle,
            };
            let path = which.path();
            let query = path.split_once('?').map(|(_, query)| query);
            assert_eq!(Which::of_query(query), Ok(which));
        }
        assert_eq!(Which::of_query(None), Ok(Which::default()));
        for wrong in ["rout=php", "idle=1", "x"] {
            let query = format!("route=php&{wrong}");
            assert_eq!(Which::of_query(Some(&query)), Err(wrong.to_owned()));
        }
    }
}
