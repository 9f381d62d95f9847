//! What ends by itself: whatever an exchange does not wait for any longer.

use std::time::{Duration, Instant};

use crate::driver::Driver;
use crate::fastcgi::Answer;
use crate::session::{Context, Ending, Slow, Stall, Step, Timeouts};

use super::client::Reading;
use super::farewell::Breaking;
use super::serving::Left;
use super::{Exchange, GONE, Stage};

/// How long a request runs, or waits for a place, before its client is watched for leaving. Most are over by then,
/// and are spared the wait that would have to be taken back. In front of a busy PHP-FPM every request waits for a
/// moment, and a watch of each was two of twelve system calls.
pub(super) const WATCH_AFTER: Duration = Duration::from_millis(100);

impl<D: Driver> Exchange<D> {
    /// When [`Exchange::expire`] is due.
    pub fn deadline(&self, timeouts: Timeouts) -> Option<Instant> {
        let slow_at = self.client.tally.slow_at();
        self.acts_at(timeouts).into_iter().chain(slow_at).min()
    }

    /// When it does something by itself, and does not only tell.
    fn acts_at(&self, timeouts: Timeouts) -> Option<Instant> {
        let silence = self.silence_max(timeouts);
        let idle_at = self
            .client
            .activity
            .idle_at(silence.map(|(silence, _)| silence));
        let idle_at = idle_at.into_iter().chain(self.late_at(timeouts)).min();
        match &self.stage {
            Stage::Head => idle_at.into_iter().chain(self.client.head_by).min(),
            Stage::Deliver { .. } => idle_at,
            Stage::Search(search) => {
                let watch_at = search.watch_at(&self.client);
                search.0.deadline().into_iter().chain(watch_at).min()
            }
            Stage::Serve(serving) => {
                let is_unwatched = self.client.reading == Reading::Idle;
                let watch_at = is_unwatched.then(|| self.client.is_watched_from());
                let times = [idle_at, watch_at, serving.out_of_time_at()];
                times.into_iter().flatten().min()
            }
            Stage::Farewell(farewell) => Some(farewell.by()),
            Stage::Breaking(_) => Some(Breaking::<D::Pipe>::by(self.client.activity.last())),
            Stage::Gone => unreachable!("{GONE}"),
        }
    }

    /// When it is to be looked at whether the client is too slow.
    fn late_at(&self, timeouts: Timeouts) -> Option<Instant> {
        let rate = timeouts.min_rate?;
        let body_at = || self.client.body_lag.body_due(rate);
        let answer_at = self.client.answer_lag.answer_due(rate);
        match &self.stage {
            Stage::Serve(_) => body_at().into_iter().chain(answer_at).min(),
            Stage::Deliver { .. } => answer_at,
            Stage::Head
            | Stage::Search(_)
            | Stage::Farewell(_)
            | Stage::Breaking(_)
            | Stage::Gone => None,
        }
    }

    /// What the client is too slow with, if it is. Who serves it is not to wait for it any longer.
    fn is_too_slow(&mut self, cx: &mut Context<'_, D>) -> Option<Slow> {
        let client = &mut self.client;
        let rate = cx.policy.timeouts.min_rate?;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= cx.hands.now);
        let is_served = matches!(self.stage, Stage::Serve(_));
        if is_served && is_due(client.body_lag.body_due(rate)) {
            return Some(Slow::Body);
        }
        let takes_answer = is_served || matches!(self.stage, Stage::Deliver { .. });
        if takes_answer && is_due(client.answer_lag.answer_due(rate)) {
            let unread = cx.hands.driver.unread(client.sock);
            let is_late = client.answer_lag.answer_is_late(unread, cx.hands.now, rate);
            return is_late.then_some(Slow::Answer);
        }
        None
    }

    /// The deadline has come.
    pub fn expire(&mut self, cx: &mut Context<'_, D>) -> Step {
        self.tell_if_slow(cx);
        let acts_at = self.acts_at(cx.policy.timeouts);
        match acts_at.is_some_and(|at| at <= cx.hands.now) {
            true => self.act_by_itself(cx),
            false => Step::Continue,
        }
    }

    fn tell_if_slow(&mut self, cx: &mut Context<'_, D>) {
        let now = cx.hands.now;
        let slow_at = self.client.tally.slow_at();
        if slow_at.is_none_or(|at| at > now) {
            return;
        }
        let stalled = self.stall(now);
        let stalled = stalled.map(|stall| Stall::name(stall.by, stall.what));
        let does = (self.state().name(), stalled);
        self.client.tally.tell_slow(does, &cx.telling());
    }

    fn act_by_itself(&mut self, cx: &mut Context<'_, D>) -> Step {
        if let Some(slow) = self.is_too_slow(cx) {
            cx.too_slow(slow, self.client.sock);
            return self.end_unserved(Ending::TooSlow(slow), cx);
        }
        if let Stage::Serve(serving) = &self.stage
            && serving
                .out_of_time_at()
                .is_some_and(|at| at <= cx.hands.now)
        {
            return self.time_out(cx);
        }
        let silence = self.silence_max(cx.policy.timeouts);
        let idle_at = self
            .client
            .activity
            .idle_at(silence.map(|(silence, _)| silence));
        let looks_idle = idle_at.is_some_and(|at| at <= cx.hands.now);
        match &self.stage {
            Stage::Search(search) if search.0.deadline().is_none_or(|at| at > cx.hands.now) => {
                self.client.watch(&mut cx.hands.driver);
                Step::Continue
            }
            Stage::Search(_) => self.search(cx, |connecting, cx| connecting.expire(true, cx)),
            Stage::Farewell(farewell) => Step::End(farewell.ending),
            Stage::Breaking(breaking) => Step::End(breaking.ending),
            Stage::Head if self.client.head_by.is_some_and(|by| by <= cx.hands.now) => {
                Step::End(Ending::HeadTimeout)
            }
            Stage::Head | Stage::Serve(_) | Stage::Deliver { .. } if looks_idle => self.idle(cx),
            Stage::Serve(_) => {
                self.client.watch(&mut cx.hands.driver);
                Step::Continue
            }
            // It was looked at how the answer is taken.
            Stage::Deliver { .. } => Step::Continue,
            Stage::Head => unreachable!("it waits for nothing else"),
            Stage::Gone => unreachable!("{GONE}"),
        }
    }

    /// Its server has had as long as a request may take.
    fn time_out(&mut self, cx: &mut Context<'_, D>) -> Step {
        let ending = Ending::RequestTimeout;
        let Stage::Serve(serving) = &self.stage else {
            unreachable!("only a server has a time")
        };
        if serving.has_begun() {
            return self.break_off(ending, Left::AtWork, cx);
        }
        self.leave_server().time_out(cx);
        self.farewell(Answer::GatewayTimeout, ending, cx)
    }

    /// How long nothing may move, and what the session ends as then.
    fn silence_max(&self, timeouts: Timeouts) -> Option<(Duration, Ending)> {
        let is_served = matches!(self.stage, Stage::Serve(_));
        let is_half_closed = is_served && self.client.reading == Reading::HalfClosed;
        let half_closed = timeouts.half_closed.filter(|_| is_half_closed);
        let idle = timeouts.idle.map(|idle| (idle, Ending::IdleTimeout));
        let half_closed = half_closed.map(|silence| (silence, Ending::HalfClosed));
        let both = idle.into_iter().chain(half_closed);
        both.min_by_key(|(silence, _)| *silence)
    }

    /// Nothing completed for as long as is allowed, as in a raw session.
    fn idle(&mut self, cx: &mut Context<'_, D>) -> Step {
        let (_, ending) = self
            .silence_max(cx.policy.timeouts)
            .expect("a session without such a limit has no deadline for it");
        let server = match &self.stage {
            Stage::Serve(serving) => Some(serving.open.sock),
            _ => None,
        };
        let unread = |sock| cx.hands.driver.unread(sock);
        let unread = [Some(self.client.sock), server]
            .into_iter()
            .flatten()
            .map(unread);
        if !self.client.activity.is_idle(unread.sum(), cx.hands.now) {
            return Step::Continue;
        }
        self.end_unserved(ending, cx)
    }

    /// The client is not waited for any longer. If its answer is not complete, it is told.
    fn end_unserved(&mut self, ending: Ending, cx: &mut Context<'_, D>) -> Step {
        match self.stage {
            Stage::Serve(_) => self.break_off(ending, Left::Reset, cx),
            _ => Step::End(ending),
        }
    }
}
