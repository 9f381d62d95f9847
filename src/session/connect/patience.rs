//! How long a session tries, and how it waits meanwhile.

use std::time::{Duration, Instant};

use crate::backend::{ClassId, Want};
use crate::driver::Driver;
use crate::session::{Context, Wish};

use super::{
    AfterPause, Connecting, PlaceWait, REMINDER_INTERVAL, SILENT_PATIENCE, STARVED_RETRY,
    SearchStage,
};

/// The longest pause. With 8,192 clients that wait, an endpoint that is down still answers fewer than
/// 20,000 connects a second.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The longest pause where refusals are waited out for a short time: what comes back is not to be missed.
/// With 1,024 requests that wait, it answers about 10,000 connects a second, for a second at most.
const PAUSE_REFUSED_MAX: Duration = Duration::from_millis(100);

impl Connecting {
    /// The same, for a request of this class.
    pub(in crate::session) fn of_class(self, class: ClassId) -> Self {
        Self { class, ..self }
    }

    /// What it waits for, if that is a place at an endpoint.
    pub(in crate::session) fn wish(&self, request: u64) -> Option<Wish> {
        let stays = self.by.is_some() || self.is_owed_a_place;
        let class = self.class;
        self.is_queued().then_some(Wish {
            request,
            class,
            stays,
        })
    }

    /// The time for connecting begins with the first moment in which something could be tried, or
    /// nothing was there to be tried: waiting in the queue has a limit of its own. Returns its end.
    pub(super) fn begin<D: Driver>(&mut self, cx: &Context<'_, D>) -> Instant {
        if let Some(by) = self.by {
            return by;
        }
        if cx.policy.timeouts.silent_is_short && cx.balancer.is_silent() {
            self.patience = self.patience.min(SILENT_PATIENCE);
        }
        *self.by.insert(cx.hands.now + self.patience)
    }

    /// Whether all endpoints refuse, and have done so for long enough. If they have not, notes when.
    pub(super) fn has_been_refused_enough<D: Driver>(&mut self, cx: &Context<'_, D>) -> bool {
        let patience = cx.policy.timeouts.refused;
        self.refused_by = patience.and_then(|patience| cx.balancer.refused_until(patience));
        self.refused_by.is_some_and(|by| by <= cx.hands.now)
    }

    pub(super) fn has_queued_enough(&self, now: Instant) -> bool {
        self.queue_by.is_some_and(|by| by <= now)
    }

    /// Those that were not tried are full: the time for connecting does not run. A session that has tried
    /// others asks those again meanwhile.
    pub(super) fn wait_for_place<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        self.want = Want::Any;
        self.refused_by = None;
        let has_tried = self.by.take().is_some();
        self.queue(has_tried, cx.hands.now);
    }

    /// A connection is open, and it is not known whether there is a worker for it. That is nobody's own: whichever comes
    /// to rest next is for whoever waits for longest.
    pub(in crate::session) fn wait_for_proof(&mut self) {
        self.want = Want::Any;
        (self.by, self.refused_by) = (None, None);
        self.is_owed_a_place = true;
        self.stage = SearchStage::Queued(PlaceWait::First);
    }

    /// Its turn may have come and the place was not for it: then nothing has changed.
    pub(super) fn queue(&mut self, has_tried: bool, now: Instant) {
        if let SearchStage::Queued(PlaceWait::Again { .. }) = self.stage {
            return;
        }
        self.stage = SearchStage::Queued(if has_tried {
            PlaceWait::Again {
                retry_at: now + self.next_pause(),
            }
        } else {
            PlaceWait::First
        });
    }

    /// Each endpoint was tried, or there is none.
    pub(super) fn wait_for_more<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        self.want = Want::Any;
        if cx.balancer.is_limited() {
            // Outside of the queue, it would hold no place and be in nobody's count.
            let has_tried = !cx.balancer.is_empty();
            if has_tried {
                self.begin(cx);
            } else {
                cx.published.refresher().suspect_all();
            }
            return self.queue(has_tried, cx.hands.now);
        }
        self.begin(cx);
        if cx.balancer.is_empty() {
            cx.published.refresher().suspect_all();
            self.stage = SearchStage::Unknown {
                remind_at: cx.hands.now + REMINDER_INTERVAL,
            };
        } else if self.failure.is_full_backlog() {
            // A TCP connect would wait, so this does.
            self.pause(STARVED_RETRY, AfterPause::StartOver, cx.hands.now);
        } else {
            let pause = self.next_pause();
            self.pause(pause, AfterPause::StartOver, cx.hands.now);
        }
    }

    pub(super) fn next_pause(&mut self) -> Duration {
        let max = match self.refused_by {
            Some(_) => PAUSE_REFUSED_MAX,
            None => PAUSE_MAX,
        };
        let pause = self.pause.min(max);
        self.pause = (2 * pause).min(max);
        pause
    }

    pub(super) fn pause(&mut self, length: Duration, then: AfterPause, now: Instant) {
        self.stage = SearchStage::Pausing {
            until: now + length,
            then,
        };
    }
}
