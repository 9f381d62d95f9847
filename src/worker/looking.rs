//! Whoever asks what the sessions do has it told by the worker itself, between two turns, some sessions at a time: a
//! session belongs to one thread, and thousands of others wait meanwhile.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::driver::Driver;
use crate::session::{RouteKey, SessionState, SessionView};
use crate::sys::net::PeerCredentials;

use super::Worker;
use super::routes::Route;

/// So many places in the table of sessions are looked at between two turns, which takes some 50 microseconds, most of them
/// in the system call that tells whose each is. With 256, the slowest of the requests beside it waited twice as long, for
/// an answer that came no sooner. Few in the tests, so that looks go on while other things happen.
const PLACES_A_TURN: usize = if cfg!(any(test, fuzzing)) { 4 } else { 64 };

/// What one row is good for when its session has no words.
const ROW_BYTES: usize = 768;

/// What the text of a word's byte takes at most: a control character is `\u0000` in JSON.
const TEXT_BYTES_MAX: usize = 6;

/// A question, and who has the answer.
pub(crate) struct Look {
    /// Of the routes of this name alone: there are several of one name while one takes the other's place.
    pub(crate) route: Option<Box<str>>,
    /// Clients without a request as well.
    pub(crate) idle: bool,
    /// So many bytes there may be of rows, over all workers that are asked. Each of them takes what its rows are good
    /// for, in no order: nothing else is told by it.
    pub(crate) room: Arc<AtomicUsize>,
    pub(crate) tell: mpsc::UnboundedSender<LookPart>,
}

/// A part of the answer.
pub(crate) struct LookPart {
    pub(crate) rows: Vec<SessionRow>,
    /// Those that there was no room for.
    pub(crate) left_out: usize,
    pub(crate) is_last: bool,
}

/// One session, as it was when it was looked at.
pub(crate) struct SessionRow {
    pub(crate) route: Arc<Route>,
    /// Who its client is, if the kernel tells.
    pub(crate) peer: Option<PeerCredentials>,
    /// For how long it is served.
    pub(crate) connected: Duration,
    /// For how long it does what it does, see [`SessionView::since`].
    pub(crate) age: Duration,
    pub(crate) view: SessionView,
}

/// Looks that go on, the oldest first. There is one, or there are some more that nobody waits for any more.
#[derive(Default)]
pub(super) struct Looks(VecDeque<Looking>);

struct Looking {
    look: Look,
    stage: LookStage,
}

/// What is looked at next.
enum LookStage {
    /// This place in the table of sessions.
    Sessions(usize),
    /// Connections that these routes keep, and no session has any more.
    Pools(Vec<RouteKey>),
}

impl Looks {
    pub(super) fn begin(&mut self, look: Look) {
        self.0.retain(|looking| !looking.look.tell.is_closed());
        let stage = LookStage::Sessions(0);
        self.0.push_back(Looking { look, stage });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<D: Driver> Worker<D> {
    /// Goes on with the oldest one. Sessions that come or end meanwhile may be among its rows or not; every other one
    /// is, once.
    pub(super) fn look_on(&mut self) {
        let Some(mut looking) = self.looks.0.pop_front() else {
            return;
        };
        let Looking { look, stage } = &mut looking;
        let mut part = LookPart {
            rows: Vec::new(),
            left_out: 0,
            is_last: false,
        };
        match stage {
            LookStage::Sessions(at) => {
                // Places that are new by then are of sessions that have come meanwhile.
                let end = at
                    .saturating_add(PLACES_A_TURN)
                    .min(self.sessions.capacity());
                for at in mem::replace(at, end)..end {
                    part.extend(look, self.row(at, look));
                }
                if end == self.sessions.capacity() {
                    *stage = LookStage::Pools(self.pool_looks.routes());
                }
            }
            LookStage::Pools(routes) => {
                self.look_at_kept(routes, look, &mut part);
                part.is_last = routes.is_empty();
            }
        }
        let is_over = part.is_last;
        // An error: nobody waits for it any more.
        if look.tell.send(part).is_ok() && !is_over {
            self.looks.0.push_back(looking);
        }
    }

    fn row(&mut self, at: usize, look: &Look) -> Option<SessionRow> {
        let active = self.sessions.get(at)?;
        let route = &self.routes[active.route].route;
        if !look.is_about(route) {
            return None;
        }
        let now = self.hands.now;
        let view = active.session.view(now);
        if view.state == SessionState::Idle && !look.idle {
            return None;
        }
        let peer = self.hands.driver.peer_credentials(active.session.client());
        let began = active.session.began().instant(self.hands.started);
        Some(SessionRow::new(route, peer, began, view, now))
    }

    /// Route by route, until there were as many connections as there are places for one turn.
    fn look_at_kept(&self, routes: &mut Vec<RouteKey>, look: &Look, part: &mut LookPart) {
        let now = self.hands.now;
        let mut left = PLACES_A_TURN;
        while left > 0
            && let Some(route) = routes.pop()
        {
            left = left.saturating_sub(1);
            // It may be forgotten by now, or have none any more.
            if self.pool_looks.of(route).is_none() {
                continue;
            }
            let served = &self.routes[route];
            if !look.is_about(&served.route) {
                continue;
            }
            left = left.saturating_sub(served.pool.kept());
            for view in served.pool.views() {
                let began = view.since.unwrap_or(now);
                let row = SessionRow::new(&served.route, None, began, view, now);
                part.extend(look, Some(row));
            }
        }
    }
}

impl Look {
    fn is_about(&self, route: &Route) -> bool {
        let name = self.route.as_deref();
        name.is_none_or(|name| name == route.name.as_str())
    }

    fn has_room_for(&self, row: &SessionRow) -> bool {
        let words = row.view.words.as_ref();
        let bytes = ROW_BYTES + TEXT_BYTES_MAX * words.map_or(0, |words| words.bytes_kept());
        let take = |room: usize| room.checked_sub(bytes);
        let taken = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok()
    }
}

impl LookPart {
    fn extend(&mut self, look: &Look, row: Option<SessionRow>) {
        match row {
            Some(row) if look.has_room_for(&row) => self.rows.push(row),
            Some(_) => self.left_out += 1,
            None => {}
        }
    }
}

impl SessionRow {
    fn new(
        route: &Arc<Route>,
        peer: Option<PeerCredentials>,
        began: Instant,
        view: SessionView,
        now: Instant,
    ) -> Self {
        let age = |since: Instant| now.saturating_duration_since(since);
        Self {
            route: Arc::clone(route),
            peer,
            connected: age(began),
            age: age(view.since.unwrap_or(began)),
            view,
        }
    }
}
