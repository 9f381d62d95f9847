//! The limit on sessions, over all workers.
//!
//! A permit is taken *before* a client is accepted: at the limit nobody is accepted, the backlog
//! holds the rest, and no client is ever accepted only to be closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::mailbox::{Mailbox, Notice};

/// Counts sessions.
///
/// Every worker reads and writes. The orderings are sequentially consistent because of one race: a
/// worker that finds no permit says so (`wanting`) and looks again, while another gives one back
/// and then looks who wants one. In one total order, at least one of them sees the other.
pub(crate) struct Gate {
    used: AtomicU32,
    /// The most at one time since somebody last asked. Nothing depends on it.
    most: AtomicU32,
    max: u32,
    /// Where the next search for a worker that wants a permit starts: a hint, so that any order of
    /// writes will do.
    turn: AtomicUsize,
    /// By worker: it found no permit and waits to be told of one.
    wanting: Box<[AtomicBool]>,
    /// By worker: it has sessions that make way once all permits are taken, and waits to be told.
    yielding: Box<[AtomicBool]>,
    mailboxes: Vec<Arc<Mailbox>>,
}

/// How many sessions there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sessions {
    /// Now.
    pub now: u32,
    /// At the most, for a while.
    pub most: u32,
}

/// The right to one session; given back when dropped.
pub(super) struct Permit(Arc<Gate>);

impl Gate {
    /// Lets `max` sessions in at one time. The mailboxes are the workers', by their number.
    pub(crate) fn new(max: u32, mailboxes: Vec<Arc<Mailbox>>) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU32::new(0),
            most: AtomicU32::new(0),
            max,
            turn: AtomicUsize::new(0),
            wanting: mailboxes.iter().map(|_| AtomicBool::new(false)).collect(),
            yielding: mailboxes.iter().map(|_| AtomicBool::new(false)).collect(),
            mailboxes,
        })
    }

    /// How many sessions there are, and were at the most since the last time that this was asked.
    pub(crate) fn sessions(&self) -> Sessions {
        let now = self.used.load(Ordering::Relaxed);
        let most = self.most.swap(now, Ordering::Relaxed);
        Sessions {
            now,
            most: most.max(now),
        }
    }

    /// How many there are.
    pub(super) fn permits_max(&self) -> u32 {
        self.max
    }

    /// A permit, or `None`: then [`Notice::Permit`] comes when it is worth asking again.
    pub(super) fn permit(self: &Arc<Self>, worker: usize) -> Option<Permit> {
        if let Some(permit) = self.try_permit() {
            return Some(permit);
        }
        self.wanting[worker].store(true, Ordering::SeqCst);
        self.try_permit()
    }

    /// Whether all permits are taken. If not, [`Notice::Limit`] comes when they are.
    pub(super) fn is_full(&self, worker: usize) -> bool {
        let is_full = || self.used.load(Ordering::SeqCst) >= self.max;
        if is_full() {
            return true;
        }
        self.yielding[worker].store(true, Ordering::SeqCst);
        is_full()
    }

    /// After a worker was told of a permit: if it did not take it, another may. With this, whenever
    /// there is a permit and somebody wants it, somebody is on the way to it.
    pub(super) fn pass_on(&self) {
        if self.used.load(Ordering::SeqCst) < self.max {
            self.tell_one();
        }
    }

    /// Tells all other workers that this one lacks descriptors.
    pub(super) fn announce_scarcity(&self, worker: usize) {
        for (number, mailbox) in self.mailboxes.iter().enumerate() {
            if number != worker {
                mailbox.post(Notice::Scarce);
            }
        }
    }

    /// The worker ends: it is not told any more, and what it was told last is passed on.
    pub(super) fn leave(&self, worker: usize) {
        self.wanting[worker].store(false, Ordering::SeqCst);
        self.yielding[worker].store(false, Ordering::SeqCst);
        self.pass_on();
    }

    /// One permit, one worker. The search starts after the one that was told last, so that none goes
    /// short. Below the limit nobody wants one, and nothing is written.
    fn tell_one(&self) {
        let count = self.wanting.len();
        let start = self.turn.load(Ordering::Relaxed);
        for i in 0..count {
            let worker = start.wrapping_add(i) % count;
            if self.wanting[worker].load(Ordering::SeqCst)
                && self.wanting[worker].swap(false, Ordering::SeqCst)
            {
                self.turn.store(worker + 1, Ordering::Relaxed);
                self.mailboxes[worker].post(Notice::Permit);
                return;
            }
        }
    }

    /// Whether every permit was given back.
    #[cfg(any(test, fuzzing))]
    pub(super) fn is_unused(&self) -> bool {
        self.used.load(Ordering::SeqCst) == 0
    }

    fn try_permit(self: &Arc<Self>) -> Option<Permit> {
        let one_more = |used| (used < self.max).then_some(used + 1);
        let before = self
            .used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .ok()?;
        if before >= self.most.load(Ordering::Relaxed) {
            self.most.fetch_max(before + 1, Ordering::Relaxed);
        }
        if before + 1 == self.max {
            self.tell_of_limit();
        }
        Some(Permit(Arc::clone(self)))
    }

    /// Tells those who have asked, once.
    fn tell_of_limit(&self) {
        for (worker, yielding) in self.yielding.iter().enumerate() {
            if yielding.load(Ordering::SeqCst) && yielding.swap(false, Ordering::SeqCst) {
                self.mailboxes[worker].post(Notice::Limit);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let gate = &self.0;
        let used = gate.used.fetch_sub(1, Ordering::SeqCst);
        assert!(used > 0, "a permit is given back once");
        gate.tell_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(max: u32, workers: usize) -> Arc<Gate> {
        let mailboxes = (0..workers).map(|_| Arc::new(Mailbox::new().unwrap()));
        Gate::new(max, mailboxes.collect())
    }

    #[test]
    fn there_are_as_many_permits_as_the_limit_says() {
        let gate = gate(2, 1);
        let first = gate.permit(0);
        let second = gate.permit(0);
        assert!(first.is_some() && second.is_some());
        assert!(gate.permit(0).is_none());
        drop(first);
        assert!(gate.permit(0).is_some());
    }

    #[test]
    fn a_worker_that_wanted_a_permit_is_told_of_one() {
        let gate = gate(1, 2);
        let held = gate.permit(0);
        assert!(gate.permit(1).is_none());
        assert!(!gate.mailboxes[1].take().has(Notice::Permit));
        drop(held);
        assert!(gate.mailboxes[1].take().has(Notice::Permit));
        assert!(!gate.mailboxes[0].take().has(Notice::Permit));
    }

    #[test]
    fn a_permit_that_the_told_worker_does_not_need_goes_to_another() {
        let gate = gate(1, 3);
        let held = gate.permit(2);
        assert!(gate.permit(0).is_none() && gate.permit(1).is_none());
        drop(held);
        let told: Vec<_> = (0..2)
            .filter(|&worker| gate.mailboxes[worker].take().has(Notice::Permit))
            .collect();
        assert_eq!(told.len(), 1, "one permit, one worker");
        gate.pass_on();
        assert!(gate.mailboxes[1 - told[0]].take().has(Notice::Permit));
    }

    #[test]
    fn a_worker_that_is_gone_is_not_told() {
        let gate = gate(1, 2);
        let held = gate.permit(0);
        assert!(gate.permit(0).is_none() && gate.permit(1).is_none());
        gate.leave(0);
        drop(held);
        assert!(gate.mailboxes[1].take().has(Notice::Permit));
    }

    #[test]
    fn who_has_what_makes_way_is_told_of_the_limit_once() {
        let gate = gate(2, 2);
        let _first = gate.permit(0);
        assert!(!gate.is_full(1));
        assert!(!gate.mailboxes[1].take().has(Notice::Limit));
        let second = gate.permit(0);
        assert!(gate.mailboxes[1].take().has(Notice::Limit));
        assert!(!gate.mailboxes[0].take().has(Notice::Limit));
        drop(second);
        let _third = gate.permit(0);
        assert!(
            !gate.mailboxes[1].take().has(Notice::Limit),
            "it did not ask again"
        );
        assert!(gate.is_full(1));
    }

    #[test]
    fn under_contention_no_permit_is_lost_or_doubled() {
        const WORKERS: usize = 4;
        const MAX: u32 = 3;
        let gate = gate(MAX, WORKERS);
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let gate = &gate;
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        if let Some(permit) = gate.permit(worker) {
                            assert!(gate.used.load(Ordering::SeqCst) <= MAX);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert_eq!(gate.used.load(Ordering::SeqCst), 0);
    }
}
