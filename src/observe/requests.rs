//! What every session does at one moment, as JSON: what `spliceway requests` shows.
//!
//! Each worker tells of its own sessions between two turns; one that does not turn is named instead.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Observed, ObservedWorker, Status};
use crate::session::{SessionState, Stall, StalledBy, StalledWhat};
use crate::shown::ascii_of_json;
use crate::worker::{Look, LookPart, SessionRow};

/// How long is waited for workers.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long somebody waits whose turn it is not: for one who waits for a worker that does not turn, or for room that
/// answers take which nobody reads. With both, the client's own patience is not over yet.
const TURN_PATIENCE: Duration = Duration::from_millis(2_500);

/// So many rows are made text before others of the main thread have their turns: some 100 KB.
const ROWS_AT_A_TIME: usize = 256;

/// What one answer may take, about: the rows in memory, and then the text. Some 40,000 raw sessions, 25,000 requests as
/// they usually are, or 1,300 with the longest words, all of them control characters.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// What all answers may take that are being made, or are not read yet. Who does not read one has 10 s, and holds up nobody
/// meanwhile unless such answers leave no room for a long one.
const ANSWERS_BYTES_MAX: usize = 2 * ANSWER_BYTES_MAX;

/// What one permit is for: they are counted in 32 bits.
const PERMIT_BYTES: usize = 1024;

/// Whose turn it is to have all workers asked, one at a time, and the room for answers.
pub(crate) struct LookTurn {
    turn: Mutex<()>,
    room: Arc<Semaphore>,
}

impl Default for LookTurn {
    fn default() -> Self {
        Self {
            turn: Mutex::default(),
            room: Arc::new(Semaphore::new(ANSWERS_BYTES_MAX / PERMIT_BYTES)),
        }
    }
}

impl LookTurn {
    /// The turn, unless others have it.
    pub(super) fn try_take(&self) -> Option<MutexGuard<'_, ()>> {
        self.turn.try_lock().ok()
    }
}

/// The room that one answer takes, for as long as this is there.
#[derive(Debug)]
pub(crate) struct AnswerRoom(OwnedSemaphorePermit);

impl AnswerRoom {
    /// The answer is made, and has so many bytes.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let wanted = bytes.div_ceil(PERMIT_BYTES);
        let spare = self.0.num_permits().saturating_sub(wanted);
        // Dropped, it is there for others.
        drop(self.0.split(spare));
    }
}

/// Others are asking, and wait for workers, or do not read what they are told.
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
    /// Workers that have told nothing, by number: what their sessions do is not known.
    pub(crate) silent_workers: Vec<usize>,
    /// Workers that have told of some of their sessions, and not of all in time.
    pub(crate) incomplete_workers: Vec<usize>,
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
    /// Its class, where there are classes and it has one. An older daemon does not say.
    #[serde(default)]
    pub(crate) class: Option<String>,
    pub(crate) endpoint: Option<String>,
    /// Bytes that the endpoint has taken, if that is known.
    pub(crate) request_bytes: Option<u64>,
    /// Bytes of the answer that have come, or that a raw session's client has taken.
    pub(crate) response_bytes: Option<u64>,
    pub(crate) stalled: Option<StalledEntry>,
}

/// Why bytes do not go on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Has the workers tell what their sessions do. The room is for the answer that is made of it.
    pub(crate) async fn requests(
        &self,
        which: &Which,
    ) -> Result<(Requests, AnswerRoom), OthersAsk> {
        let LookTurn { turn, room } = &self.look_turn;
        let permits = u32::try_from(ANSWER_BYTES_MAX / PERMIT_BYTES).expect("some thousands");
        let turn_with_room = async {
            let turn = turn.lock().await;
            let room = Arc::clone(room).acquire_many_owned(permits).await;
            (turn, AnswerRoom(room.expect("it is never closed")))
        };
        let taken = timeout(TURN_PATIENCE, turn_with_room).await;
        let (_turn, answer_room) = taken.map_err(|_| OthersAsk)?;
        // All at one time, and then one after the other: a worker has the time of those before it, too.
        let told = self.ask_workers(which, ANSWER_BYTES_MAX);
        let deadline = Instant::now() + PATIENCE;
        let mut all = Requests {
            program: Status::PROGRAM.to_owned(),
            schema: Status::SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            routes: self.routes.all().iter().map(|r| r.name.clone()).collect(),
            silent_workers: Vec::new(),
            incomplete_workers: Vec::new(),
            left_out: 0,
            requests: Vec::new(),
        };
        for (number, told) in told.into_iter().enumerate() {
            match all.gather(number, told, deadline).await {
                HasTold::All => {}
                // One that has finished has no sessions.
                _ if self.workers[number].has_finished() => {}
                HasTold::Some => all.incomplete_workers.push(number),
                HasTold::Nothing => all.silent_workers.push(number),
            }
        }
        Ok((all, answer_room))
    }

    /// Has all workers asked at one time. For whoever has the turn.
    pub(super) fn ask_workers(
        &self,
        which: &Which,
        room_bytes: usize,
    ) -> Vec<UnboundedReceiver<LookPart>> {
        let room = Arc::new(AtomicUsize::new(room_bytes));
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
        self.workers.iter().map(ask).collect()
    }
}

/// Takes what a worker tells by then.
pub(super) async fn hear(
    mut told: UnboundedReceiver<LookPart>,
    deadline: Instant,
    mut take: impl FnMut(LookPart),
) -> HasTold {
    let mut so_far = HasTold::Nothing;
    while let Ok(Some(part)) = timeout_at(deadline, told.recv()).await {
        let is_last = part.is_last;
        take(part);
        if is_last {
            return HasTold::All;
        }
        so_far = HasTold::Some;
    }
    so_far
}

/// How much of an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HasTold {
    Nothing,
    Some,
    All,
}

impl Requests {
    /// What the worker has told by then.
    async fn gather(
        &mut self,
        worker: usize,
        told: UnboundedReceiver<LookPart>,
        deadline: Instant,
    ) -> HasTold {
        let take = |part: LookPart| {
            self.left_out += part.left_out;
            let rows = part.rows.into_iter();
            let entries = rows.map(|row| RequestEntry::of(worker, row));
            self.requests.extend(entries);
        };
        hear(told, deadline, take).await
    }

    /// As JSON in ASCII: other programs read it, or curl shows it. Some rows at a time, because signals are heard on the
    /// same thread.
    pub(crate) async fn into_json(mut self) -> serde_json::Result<String> {
        const END: &str = "]}";
        let rows = mem::take(&mut self.requests);
        let mut json = ascii_of_json(&serde_json::to_string(&self)?);
        assert!(json.ends_with("[]}"), "the rows are the last field");
        json.truncate(json.len() - END.len());
        for (number, row) in rows.into_iter().enumerate() {
            if number > 0 {
                json.push(',');
            }
            json.push_str(&ascii_of_json(&serde_json::to_string(&row)?));
            if number % ROWS_AT_A_TIME == ROWS_AT_A_TIME - 1 {
                yield_now().await;
            }
        }
        json.push_str(END);
        Ok(json)
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

    pub(super) fn of(worker: usize, row: SessionRow) -> Self {
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
            class: row.class.map(|class| class.to_string()),
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
    use tokio::runtime;

    fn part(is_last: bool) -> LookPart {
        LookPart {
            rows: Vec::new(),
            left_out: 1,
            is_last,
        }
    }

    fn empty() -> Requests {
        Requests {
            program: Status::PROGRAM.to_owned(),
            schema: Status::SCHEMA,
            version: "\u{9b}".to_owned(),
            routes: vec!["php".to_owned()],
            silent_workers: vec![1],
            incomplete_workers: vec![2],
            left_out: 3,
            requests: Vec::new(),
        }
    }

    fn entry(uri: String) -> RequestEntry {
        RequestEntry {
            route: "php".to_owned(),
            worker: 0,
            uid: None,
            gid: None,
            pid: None,
            state: SessionState::Sent,
            age_seconds: 0.5,
            connected_seconds: 1.5,
            queue_seconds: 0.0,
            method: None,
            uri: Some(uri),
            script: None,
            class: None,
            endpoint: None,
            request_bytes: None,
            response_bytes: None,
            stalled: None,
        }
    }

    #[test]
    fn who_tells_and_does_not_come_to_the_end_is_no_silent_worker() {
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        for (parts, expected) in [
            (&[][..], HasTold::Nothing),
            (&[false, false], HasTold::Some),
            (&[false, true], HasTold::All),
        ] {
            let (tell, told) = unbounded_channel();
            for &is_last in parts {
                assert!(tell.send(part(is_last)).is_ok());
            }
            let mut all = empty();
            // What has come counts, however late it is, and more does not come.
            let has_told = async { all.gather(0, told, Instant::now()).await };
            assert_eq!(runtime.block_on(has_told), expected);
            assert_eq!(all.left_out, 3 + parts.len());
        }
    }

    #[test]
    fn row_by_row_it_is_the_same_json_in_ascii() {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        for count in [0, 1, 2, 3 * ROWS_AT_A_TIME] {
            let all = || {
                let uri = |number| format!("/{number}\u{9b}\u{7f}\u{202e}\u{1f600}");
                let requests = (0..count).map(|number| entry(uri(number))).collect();
                Requests {
                    requests,
                    ..empty()
                }
            };
            let json = runtime.block_on(all().into_json()).unwrap();
            assert!(json.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            assert_eq!(serde_json::from_str::<Requests>(&json).unwrap(), all());
        }
    }

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
