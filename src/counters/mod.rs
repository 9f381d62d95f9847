//! Numbers that the threads of the daemon keep of what they do, for others to read.
//!
//! Counting must cost the data path neither a lock nor a cache line that two threads write. So every
//! cell has a single writer, which adds by a load and a store, and what one thread writes lies in
//! lines of its own. What the figures mean to an operator is said where they are shown, in
//! `observe`.

mod cells;
mod classes;
mod endpoints;
mod fastcgi;
mod histogram;
mod outcome;

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, OnceLock};

pub use cells::{Count, Level, TimeCell};
pub use classes::{ClassCounters, CountedClasses};
pub use endpoints::{EndpointCounters, Endpoints};
pub use fastcgi::{FastcgiCounters, StatusClass};
pub use histogram::{BOUNDS, Buckets, Histogram};
pub use outcome::Outcome;

use crate::sys::clock::ThreadClock;

/// What a worker counts of itself. It writes, the main thread reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Turns of its loop.
    pub turns: Count,
    /// Pipes that flows hold.
    pub pipes_in_use: Level,
    /// Events about sockets that had been closed, which were ignored.
    pub stale_events: Count,
    /// Pauses in accepting for want of descriptors or memory.
    pub pauses_exhausted: Count,
    /// Pauses in accepting because the limit on sessions was reached.
    pub pauses_at_limit: Count,
    /// Pauses in accepting for other reasons.
    pub pauses_other: Count,
    /// 1 once it has ended as it should.
    pub finished: Level,
    /// The time that its thread has computed; set by the thread when it starts.
    pub clock: OnceLock<ThreadClock>,
}

/// What one worker counts of one route.
#[derive(Clone, Debug, Default)]
pub struct ShareCounters {
    /// Its clients and sessions.
    pub route: Arc<RouteCounters>,
    /// Its endpoints.
    pub endpoints: Arc<Endpoints>,
}

/// What a worker counts of one route. It writes, the main thread reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct RouteCounters {
    /// Clients that were accepted.
    pub accepted: Count,
    /// Sessions that ended, by [`Outcome`].
    pub ended: [Count; Outcome::ALL.len()],
    /// Sessions that will want no place at an endpoint any more, where those that may are kept one. See
    /// [`RouteCounters::wanting`].
    wanting_none: Level,
    /// Clients that had to wait for an endpoint to have room.
    pub queued: Count,
    /// Those that wait now.
    pub queue_depth: Level,
    /// Since when the first of them has waited.
    pub queue_oldest: TimeCell,
    /// How long clients waited that do not wait any more, however that ended.
    pub queue_wait: Histogram,
    /// From a client's acceptance, or the end of its wait, until a connection for it was open.
    pub connect_time: Histogram,
    /// Attempts to connect that failed, whatever became of the session.
    pub connect_failures: Count,
    /// 1 while whoever would wait for an endpoint is sent away at once, because none takes connections.
    pub out: Level,
    /// What clients sent.
    pub to_backend: FlowCounters,
    /// What backends sent.
    pub to_client: FlowCounters,
    /// Of a FastCGI route: its requests.
    pub fastcgi: FastcgiCounters,
    /// Of one with classes: those of each.
    pub classes: CountedClasses,
}

impl RouteCounters {
    /// A session ended. Whoever sees that sees what was counted of it before.
    pub fn ended(&self, outcome: Outcome) {
        fence(Ordering::Release);
        self.ended[outcome as usize].add(1);
    }

    /// A session will want no place at an endpoint any more.
    pub fn wants_no_place(&self) {
        fence(Ordering::Release);
        self.wanting_none.raise();
    }

    /// Such a session may want one after all.
    pub fn wants_one_again(&self) {
        self.wanting_none.lower();
    }

    /// The end of such a session is counted next.
    pub fn is_about_to_end(&self) {
        self.wanting_none.lower();
    }

    /// Sessions that may still want a place at an endpoint, or have one. Rather too many than too few, whatever the
    /// worker counts meanwhile.
    ///
    /// For each session the worker counts, in this order: accepted, wanting none, no more of those, ended. Here it is
    /// read from the end. Who is among the ended is not among those that want none, because that was counted before and
    /// is read after; so nobody is left out twice. Who is among either is among the accepted, for the same reason. The
    /// fences make the orders hold on both sides: a cell that is read behind one shows at least what was counted before
    /// what was seen in front of it.
    pub fn wanting(&self) -> u64 {
        let ended: u64 = self.ended.iter().map(Count::get).sum();
        fence(Ordering::Acquire);
        let wanting_none = self.wanting_none.get();
        fence(Ordering::Acquire);
        let left = self.accepted.get().saturating_sub(ended);
        left.saturating_sub(wanting_none)
    }
}

/// One direction of all sessions of a route.
#[derive(Debug, Default)]
pub struct FlowCounters {
    /// Bytes that went to the sink through a buffer.
    pub copied: Count,
    /// Bytes that went to the sink through a pipe.
    pub spliced: Count,
    /// Flows that went over from copying to splicing.
    pub promotions: Count,
    /// Flows that wanted a pipe when there was none.
    pub fallbacks: Count,
    /// Flows that went back to copying because little came.
    pub demotions: Count,
}

/// Lookups of one route's names, by how they ended. The resolver's thread writes, the main thread
/// reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LookupCounters {
    /// Records came.
    pub answers: Count,
    /// Name servers said that there are none.
    pub denials: Count,
    /// Nobody answered, or not usefully.
    pub failures: Count,
    /// Since when a name has not resolved, if one does not.
    pub failing_since: TimeCell,
}
