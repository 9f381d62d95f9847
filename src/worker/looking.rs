//! Whoever asks what the sessions do has it told by the worker itself, between two turns, some sessions at a time: a
//! session belongs to one thread, and thousands of others wait meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::access_log::Words;
use crate::config::ClassName;
use crate::driver::Driver;
use crate::session::{RouteKey, SessionState, SessionView};
use crate::sys::net::PeerCredentials;

use super::Worker;
use super::routes::Route;

/// So many sessions are looked at between two turns, or as many other things as are the same work, see [`TurnWork`]. That
/// takes some 50 microseconds, most of them in the system call that tells whose each is. With 256, the slowest of the
/// requests beside it waited twice as long, for an answer that came no sooner. Few in the tests, so that looks go on while
/// other things happen.
const PLACES_A_TURN: usize = if cfg!(any(test, fuzzing)) { 4 } else { 64 };

/// Looking at a place that has no session is so much less: nothing is asked of the kernel. The table does not shrink, and
/// after a rush most of it is vacant.
const VACANT_PER_PLACE: usize = 16;

/// So many bytes of a request's head are as much work as a place: they are walked for its words, pair by pair, and a pair
/// may have two bytes.
const HEAD_BYTES_PER_PLACE: usize = 4096;

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
    /// What operators call the class of its request, if it has one.
    pub(crate) class: Option<ClassName>,
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

/// What was looked at since the turn before, in vacant places.
#[derive(Default)]
struct TurnWork(usize);

impl TurnWork {
    fn vacant_place(&mut self) {
        self.0 += 1;
    }

    /// A session's, with so many bytes of a head that was walked.
    fn place(&mut self, head_bytes: usize) {
        self.0 += VACANT_PER_PLACE + head_bytes * VACANT_PER_PLACE / HEAD_BYTES_PER_PLACE;
    }

    /// The next thing is for the next turn. The last one may have been more than was left: one head, at most.
    fn is_enough(&self) -> bool {
        self.0 >= PLACES_A_TURN * VACANT_PER_PLACE
    }
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
                let mut work = TurnWork::default();
                // Places that are new by then are of sessions that have come meanwhile.
                while *at < self.sessions.capacity() && !work.is_enough() {
                    self.look_at_place(*at, look, &mut part, &mut work);
                    *at += 1;
                }
                if *at >= self.sessions.capacity() {
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

    fn look_at_place(&mut self, at: usize, look: &Look, part: &mut LookPart, work: &mut TurnWork) {
        let Some(active) = self.sessions.get(at) else {
            work.vacant_place();
            return;
        };
        let route = &self.routes[active.route].route;
        if !look.is_about(route) {
            work.place(0);
            return;
        }
        let now = self.hands.now;
        let view = active.session.view(now);
        work.place(view.words.as_ref().map_or(0, Words::head_bytes));
        if view.state == SessionState::Idle && !look.idle {
            return;
        }
        if part.takes(&view, look) {
            let peer = self.hands.driver.peer_credentials(active.session.client());
            let began = active.session.began().instant(self.hands.started);
            let class = view.class.and_then(|class| active.policy.class_name(class));
            let class = class.cloned();
            let row = SessionRow::new(route, peer, began, view, now);
            part.rows.push(SessionRow { class, ..row });
        }
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
                if part.takes(&view, look) {
                    let row = SessionRow::new(&served.route, None, began, view, now);
                    part.rows.push(row);
                }
            }
        }
    }
}

impl Look {
    fn is_about(&self, route: &Route) -> bool {
        let name = self.route.as_deref();
        name.is_none_or(|name| name == route.name.as_str())
    }

    fn has_room_for(&self, view: &SessionView) -> bool {
        let words = view.words.as_ref();
        let bytes = ROW_BYTES + TEXT_BYTES_MAX * words.map_or(0, |words| words.bytes_kept());
        let take = |room: usize| room.checked_sub(bytes);
        let taken = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok()
    }
}

impl LookPart {
    /// Whether there is room for a row of this. Without, it is counted.
    fn takes(&mut self, view: &SessionView, look: &Look) -> bool {
        let has_room = look.has_room_for(view);
        self.left_out += usize::from(!has_room);
        has_room
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
            class: None,
            view,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are looked at before the next turn.
    fn of_a_turn(one: impl Fn(&mut TurnWork)) -> usize {
        let mut work = TurnWork::default();
        (0..)
            .take_while(|_| {
                let goes_on = !work.is_enough();
                one(&mut work);
                goes_on
            })
            .count()
    }

    #[test]
    fn a_turn_is_bounded_by_work_and_not_by_places() {
        assert_eq!(of_a_turn(|work| work.place(0)), PLACES_A_TURN);
        assert_eq!(of_a_turn(|work| work.place(256 << 10)), 1);
        assert_eq!(
            of_a_turn(|work| work.place(HEAD_BYTES_PER_PLACE)),
            PLACES_A_TURN / 2
        );
        assert_eq!(
            of_a_turn(TurnWork::vacant_place),
            PLACES_A_TURN * VACANT_PER_PLACE
        );
    }
}
