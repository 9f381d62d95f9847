//! Deadlines of sessions, filed lazily.
//!
//! Most deadlines are put off again and again (an idle timeout moves with every byte) or never
//! come. So a session's deadline is filed once; when that time comes, the worker asks the session
//! when its deadline is now, and files it again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::session::SessionId;

/// One worker's deadlines. At most one live entry for each session.
#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, SessionId)>>,
    /// By session: the time of its live entry. Others of the same session are stale.
    filed: Vec<Option<Instant>>,
}

impl Timers {
    /// Makes sure that the session comes up at its deadline at the latest. It may come up earlier.
    pub(super) fn file(&mut self, id: SessionId, deadline: Instant) {
        if self.filed.len() <= id.0 {
            self.filed.resize(id.0 + 1, None);
        }
        let filed = &mut self.filed[id.0];
        if filed.is_none_or(|at| deadline < at) {
            *filed = Some(deadline);
            self.heap.push(Reverse((deadline, id)));
        }
    }

    /// The next time at which something may be due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// A session that was filed for `now` or before. Its entry is gone.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<SessionId> {
        while self.next().is_some_and(|at| at <= now) {
            let Reverse((at, id)) = self.heap.pop().expect("it was just seen");
            let filed = &mut self.filed[id.0];
            if *filed == Some(at) {
                *filed = None;
                return Some(id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const A: SessionId = SessionId(0);
    const B: SessionId = SessionId(1);

    #[test]
    fn sessions_come_up_in_the_order_of_their_deadlines() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.file(A, at(20));
        timers.file(B, at(10));
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.take_due(at(9)), None);
        assert_eq!(timers.take_due(at(30)), Some(B));
        assert_eq!(timers.take_due(at(30)), Some(A));
        assert_eq!(timers.take_due(at(30)), None);
    }

    #[test]
    fn a_deadline_that_moves_back_costs_no_new_entry() {
        let start = Instant::now();
        let mut timers = Timers::default();
        for ms in 10..1000 {
            timers.file(A, start + Duration::from_millis(ms));
        }
        assert_eq!(timers.heap.len(), 1);
        assert_eq!(timers.take_due(start + Duration::from_secs(2)), Some(A));
    }

    #[test]
    fn an_earlier_deadline_replaces_a_later_one() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.file(A, at(20));
        timers.file(A, at(10));
        assert_eq!(timers.take_due(at(10)), Some(A));
        timers.file(A, at(30));
        assert_eq!(timers.take_due(at(25)), None, "the entry for 20 is stale");
        assert_eq!(timers.take_due(at(30)), Some(A));
    }
}
