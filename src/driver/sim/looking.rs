//! Somebody asks what the sessions do, at any moment. And the rule about that, `looks_are_true`.
//!
//! A worker tells of some of its sessions after all that it can do in a turn, and then it waits: so each part of an
//! answer is compared with the sockets as they are in that wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::mpsc::{self, UnboundedReceiver, error::TryRecvError};

use crate::driver::{BUFFER_BYTES, PIPE_BYTES, Sock};
use crate::session::SessionState;
use crate::worker::{Look, LookPart, SessionRow};

use super::dice::Dice;
use super::world::{Kind, Told, World};

/// What the processes of clients are numbered from.
pub(super) const FIRST_PID: u32 = 4711;

/// Once in so many steps of the world, somebody asks.
const LOOKS_IN: u64 = 40;

/// A room for so many bytes is one for a few rows.
const LITTLE_ROOM_BYTES: usize = 3000;

/// So many that were not read may lie in a mailbox, and one more has its answer.
const UNREAD_MAX: usize = 3;

/// What a row takes at least.
const ROW_BYTES_MIN: usize = 768;

/// What may have been taken and have not gone on: what a pipe or a buffer holds, and what the epoll driver receives before
/// a wait.
const ON_THE_WAY_MAX: u64 = (PIPE_BYTES + 2 * BUFFER_BYTES) as u64;

/// What may have been given of which the worker has not heard: a buffer that is being sent.
const UNTOLD_MAX: u64 = BUFFER_BYTES as u64;

/// Whoever asks.
pub(super) struct Curious {
    /// Its own, so that whatever else a seed stands for stays as it is.
    dice: Dice,
    /// In most runs, nobody asks: a question has a worker turn, and what follows is another run.
    asks: bool,
    /// By worker: the question that is under way.
    asked: Vec<Option<Asked>>,
}

/// One question to one worker.
struct Asked {
    told: UnboundedReceiver<LookPart>,
    /// How many before it nobody waits for any more, and the worker may not have read.
    unread: usize,
    /// Of no route that there is.
    of_nobody: bool,
    with_idle: bool,
    room: usize,
    /// Who was told of, by the peer's number.
    seen: BTreeSet<usize>,
    rows: usize,
    left_out: usize,
    /// Those that were served in each wait since the first part.
    lasting: Option<BTreeSet<usize>>,
}

impl Curious {
    pub(super) fn new(clients: usize, workers: usize) -> Self {
        Self {
            dice: Dice::from_seed(clients as u64),
            asks: clients % 3 == 2,
            asked: (0..workers).map(|_| None).collect(),
        }
    }
}

impl World {
    /// Somebody may ask one of the workers. True if somebody does.
    pub(super) fn somebody_asks(&mut self) -> bool {
        let Curious { dice, asks, .. } = &mut self.curious;
        if !*asks || self.told == Told::Cut || !dice.one_in(LOOKS_IN) {
            return false;
        }
        let worker = usize::try_from(dice.below(self.scenario.mailboxes.len() as u64));
        let worker = worker.expect("a few");
        // Who asked before does not wait any more.
        let unread = match &self.curious.asked[worker] {
            Some(before) if before.lasting.is_none() => before.unread + 1,
            Some(_) | None => 0,
        };
        if unread == UNREAD_MAX {
            return false;
        }
        let Curious { dice, .. } = &mut self.curious;
        let (of_nobody, with_idle) = (dice.one_in(8), dice.one_in(2));
        let room = dice.pick(&[LITTLE_ROOM_BYTES, usize::MAX, usize::MAX]);
        let (tell, told) = mpsc::unbounded_channel();
        self.curious.asked[worker] = Some(Asked {
            told,
            unread,
            of_nobody,
            with_idle,
            room,
            seen: BTreeSet::new(),
            rows: 0,
            left_out: 0,
            lasting: None,
        });
        self.note(|| format!("worker {worker} is asked what its sessions do"));
        self.scenario.mailboxes[worker].ask(Look {
            route: of_nobody.then(|| "nobody".into()),
            idle: with_idle,
            room: Arc::new(AtomicUsize::new(room)),
            tell,
        });
        true
    }

    /// The worker waits: what it has told is so.
    pub(super) fn hear_looks(&mut self) {
        let Some(mut asked) = self.curious.asked[self.at].take() else {
            return;
        };
        let mut is_over = false;
        match asked.told.try_recv() {
            Ok(part) => {
                is_over = part.is_last;
                self.judge_part(&part, &mut asked);
            }
            // It has not read the question, or goes on with one that it had before.
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                rule!("looks_are_true", false, "a question is dropped")
            }
        }
        rule!(
            "looks_are_true",
            asked.told.is_empty(),
            "more than one part is told in a turn"
        );
        if let Some(lasting) = &mut asked.lasting {
            let served = self.own().filter_map(|sock| {
                let socket = self.sockets.peek(sock);
                match socket.kind {
                    Kind::Client(peer) if socket.is_served && socket.closing.is_none() => {
                        Some(peer)
                    }
                    _ => None,
                }
            });
            let served: BTreeSet<_> = served.collect();
            lasting.retain(|peer| served.contains(peer));
        }
        match is_over {
            true => self.judge_look(&asked),
            false => self.curious.asked[self.at] = Some(asked),
        }
    }

    fn judge_part(&mut self, part: &LookPart, asked: &mut Asked) {
        let rows = part.rows.len();
        self.note(|| format!("its sessions: {rows}, and {} more", part.left_out));
        asked.rows += rows;
        asked.left_out += part.left_out;
        let clients: BTreeSet<_> = self.own().filter_map(|sock| self.client_at(sock)).collect();
        asked.lasting.get_or_insert_with(|| clients.clone());
        for row in &part.rows {
            let Some(peer) = row.peer else {
                self.judge_kept(row);
                continue;
            };
            let peer = usize::try_from(peer.pid - FIRST_PID).expect("a number of a peer");
            rule!(
                "looks_are_true",
                clients.contains(&peer) && asked.seen.insert(peer),
                "client {peer} is told of, has left or was told of before"
            );
            self.judge_row(peer, row);
        }
        for route in 0..self.scenario.routes.len() {
            let kept = part.rows.iter().filter(|row| row.peer.is_none());
            let of_route = kept
                .filter(|row| row.route.number.0 as usize == route)
                .count();
            let open = self.census(route).others;
            rule!(
                "looks_are_true",
                of_route <= open,
                "{of_route} connections of route {route} are told of, and there are {open}"
            );
        }
    }

    fn client_at(&self, sock: Sock) -> Option<usize> {
        let socket = self.sockets.peek(sock);
        match socket.kind {
            Kind::Client(peer) if socket.closing.is_none() => Some(peer),
            _ => None,
        }
    }

    /// A session.
    fn judge_row(&self, at: usize, row: &SessionRow) {
        use SessionState::*;
        let (peer, view) = (&self.peers[at], &row.view);
        rule!(
            "looks_are_true",
            row.route.number.0 as usize == peer.route,
            "client {at} is told of as one of route {}",
            row.route.number.0
        );
        let is_raw = matches!(view.state, Queued | Connecting | Ending | Relaying);
        let is_request = !matches!(view.state, Relaying | Settling | Abandoned);
        let speaks_fastcgi = self.speaks_fastcgi(at);
        rule!(
            "looks_are_true",
            if speaks_fastcgi { is_request } else { is_raw },
            "client {at} is {:?}",
            view.state
        );
        rule!(
            "looks_are_true",
            row.age <= row.connected || row.connected.is_zero() || speaks_fastcgi,
            "client {at} does for {:?} what it does, and is served for {:?}",
            row.age,
            row.connected
        );
        // What another process has relayed of it, this one does not know.
        if speaks_fastcgi || peer.arrived {
            return;
        }
        let (request, response) = (view.request_bytes, view.response_bytes);
        let (request, response) = (request.unwrap_or(u64::MAX), response.unwrap_or(u64::MAX));
        rule!(
            "looks_are_true",
            request <= peer.sent && peer.taken <= request + ON_THE_WAY_MAX,
            "{request} bytes of client {at} are said to have gone on, of {} that were taken",
            peer.taken
        );
        rule!(
            "looks_are_true",
            response <= peer.given && peer.given <= response + UNTOLD_MAX,
            "client {at} is said to have {response} bytes, of {} that were given",
            peer.given
        );
    }

    /// A connection that no session has.
    fn judge_kept(&self, row: &SessionRow) {
        let is_kept = matches!(
            row.view.state,
            SessionState::Settling | SessionState::Abandoned
        );
        let route = &self.scenario.routes[row.route.number.0 as usize];
        rule!(
            "looks_are_true",
            is_kept && self.ledger.has(row.route.number.0 as usize),
            "what no client has is {:?}",
            row.view.state
        );
        let endpoint = row.view.endpoint.expect("it leads to one");
        rule!(
            "looks_are_true",
            route.endpoints.contains(&endpoint),
            "route {} has a connection to {endpoint}",
            row.route.number.0
        );
    }

    /// All was told.
    fn judge_look(&self, asked: &Asked) {
        rule!(
            "looks_are_true",
            !asked.of_nobody || asked.rows + asked.left_out == 0,
            "{} are told of, which are of no route",
            asked.rows
        );
        rule!(
            "looks_are_true",
            asked.rows <= asked.room / ROW_BYTES_MIN,
            "{} are told of, in {} bytes",
            asked.rows,
            asked.room
        );
        rule!(
            "looks_are_true",
            asked.left_out == 0 || asked.room == LITTLE_ROOM_BYTES,
            "{} are left out, and there is room",
            asked.left_out
        );
        let lasting = asked.lasting.iter().flatten();
        let missing = lasting.filter(|&peer| {
            let is_asked_for = !asked.of_nobody && (asked.with_idle || !self.speaks_fastcgi(*peer));
            is_asked_for && !asked.seen.contains(peer)
        });
        let missing: Vec<_> = missing.collect();
        rule!(
            "looks_are_true",
            missing.len() <= asked.left_out,
            "clients {missing:?} are not told of, and {} are said to be left out",
            asked.left_out
        );
    }
}
