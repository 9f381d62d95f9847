//! What is told of a request: once it is over it is counted, and goes to the access log if there is one; if it takes long,
//! it goes to the slow log, when that shows and when it is over.
//!
//! Times are those of turns: nobody reads a clock for them.

use std::mem;
use std::time::{Duration, Instant};

use crate::access_log::{Entry, Occasion, Queue, RequestLogs, Upstream, Words};
use crate::backend::Address;
use crate::counters::{Count, FastcgiCounters, Outcome};
use crate::fastcgi::{Answer, Head, Rejection, ResponseReader};
use crate::sys::net::PeerCredentials;

/// Who is told.
pub struct Telling<'a> {
    /// Who counts.
    pub counters: &'a FastcgiCounters,
    /// Who writes, if somebody does.
    pub logs: &'a RequestLogs,
    /// The time of this turn.
    pub now: Instant,
}

/// The requests of one client, one after the other.
pub(super) struct Tally {
    /// The client; asked for only if there is a log.
    peer: Option<PeerCredentials>,
    phase: TallyPhase,
    began: Instant,
    queue: Duration,
    connect: Duration,
    first_byte: Option<Duration>,
    upstream: Option<Upstream>,
    status: Option<u16>,
    bytes: u64,
    /// For the logs.
    words: Option<Words>,
    rejection: Option<Rejection>,
    slowness: Slowness,
}

/// What the slow log has of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slowness {
    /// There was none when it began.
    Unlogged,
    /// Nothing yet. It is slow from then on.
    DueAt(Instant),
    /// That it is slow.
    Told,
}

/// How far the request is.
#[derive(Clone, Copy)]
enum TallyPhase {
    /// There is none, or it was told of.
    None,
    /// It looks for a connection since then.
    Searching(Instant),
    /// It waits for a place at an endpoint since then.
    Queued(Instant),
    /// It has a connection, or needs none.
    Served,
}

impl Tally {
    /// Of a client that has made no request yet.
    pub(super) fn new(peer: Option<PeerCredentials>, now: Instant) -> Self {
        Self {
            peer,
            phase: TallyPhase::None,
            began: now,
            queue: Duration::ZERO,
            connect: Duration::ZERO,
            first_byte: None,
            upstream: None,
            status: None,
            bytes: 0,
            words: None,
            rejection: None,
            slowness: Slowness::Unlogged,
        }
    }

    /// Who the client is, if that was not asked for when it came: lines tell of it from now on.
    pub(super) fn meet(&mut self, peer: impl FnOnce() -> Option<PeerCredentials>) {
        self.peer = self.peer.or_else(peer);
    }

    /// A request's head is complete.
    pub(super) fn begin(&mut self, head: &Head, telling: &Telling<'_>) {
        *self = Self {
            phase: TallyPhase::Served,
            words: telling.logs.are_kept().then(|| Words::of(head)),
            slowness: match &telling.logs.slow {
                Some(slow) => Slowness::DueAt(telling.now + slow.after),
                None => Slowness::Unlogged,
            },
            ..Self::new(self.peer, telling.now)
        };
    }

    /// The guard does not let it pass.
    pub(super) fn rejected(&mut self, rejection: Rejection) {
        self.rejection = Some(rejection);
    }

    /// It looks for a connection, the first one or another.
    pub(super) fn search(&mut self, now: Instant) {
        self.phase = TallyPhase::Searching(now);
    }

    /// Its search has taken a step.
    pub(super) fn searched(&mut self, is_queued: bool, now: Instant) {
        match (self.phase, is_queued) {
            (TallyPhase::Searching(since), true) => {
                self.connect += now.saturating_duration_since(since);
                self.phase = TallyPhase::Queued(now);
            }
            (TallyPhase::Queued(since), false) => {
                self.queue += now.saturating_duration_since(since);
                self.phase = TallyPhase::Searching(now);
            }
            (TallyPhase::Searching(_), false) | (TallyPhase::Queued(_), true) => {}
            (TallyPhase::None | TallyPhase::Served, _) => {
                unreachable!("only a request that searches does")
            }
        }
    }

    /// It has a connection.
    pub(super) fn found(&mut self, endpoint: Address, reused: bool, telling: &Telling<'_>) {
        self.stop_searching(telling.now);
        self.upstream = Some(Upstream { endpoint, reused });
        match reused {
            false => telling.counters.on_new.add(1),
            true => telling.counters.on_reused.add(1),
        }
    }

    /// How long it has waited for places at endpoints.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        match self.phase {
            TallyPhase::Queued(since) => self.queue + now.saturating_duration_since(since),
            TallyPhase::None | TallyPhase::Searching(_) | TallyPhase::Served => self.queue,
        }
    }

    /// How long it has looked for a connection.
    fn searched_for(&self, now: Instant) -> Duration {
        match self.phase {
            TallyPhase::Searching(since) => self.connect + now.saturating_duration_since(since),
            TallyPhase::None | TallyPhase::Queued(_) | TallyPhase::Served => self.connect,
        }
    }

    /// When the slow log is to be told of it, if that is to come.
    pub(super) fn slow_at(&self) -> Option<Instant> {
        match (self.phase, self.slowness) {
            (TallyPhase::None, _) | (_, Slowness::Unlogged | Slowness::Told) => None,
            (_, Slowness::DueAt(at)) => Some(at),
        }
    }

    /// It takes long, and this is what it does.
    pub(super) fn tell_slow(
        &mut self,
        (state, stalled): (&'static str, Option<&'static str>),
        telling: &Telling<'_>,
    ) {
        self.slowness = Slowness::Told;
        telling.counters.slow.add(1);
        let occasion = Occasion::Slow { state, stalled };
        self.tell_slow_log(occasion, None, telling);
    }

    fn tell_slow_log(&self, occasion: Occasion, ending: Option<Outcome>, telling: &Telling<'_>) {
        // A reload may have taken the log away.
        let (Some(slow), Some(words)) = (&telling.logs.slow, &self.words) else {
            return;
        };
        if !slow.queue.has_ration(telling.now) {
            telling.counters.slow_lines_left_out.add(1);
            return;
        }
        let entry = self.entry(occasion, words.clone(), ending, telling.now);
        push(&slow.queue, entry, &telling.counters.slow_lines_dropped);
    }

    fn entry(
        &self,
        occasion: Occasion,
        words: Words,
        ending: Option<Outcome>,
        now: Instant,
    ) -> Entry {
        Entry {
            occasion,
            at: now,
            peer: self.peer,
            words,
            status: self.status,
            bytes: self.bytes,
            upstream: self.upstream,
            queue: self.waited(now),
            connect: self.searched_for(now),
            first_byte: self.first_byte,
            total: now.saturating_duration_since(self.began),
            ending,
            rejection: self.rejection.clone(),
        }
    }

    /// Who serves it, or has served it.
    pub(super) fn endpoint(&self) -> Option<Address> {
        self.upstream.as_ref().map(|upstream| upstream.endpoint)
    }

    /// Bytes of its answer so far.
    pub(super) fn answer_bytes(&self) -> u64 {
        self.bytes
    }

    fn stop_searching(&mut self, now: Instant) {
        match mem::replace(&mut self.phase, TallyPhase::Served) {
            TallyPhase::Searching(since) => self.connect += now.saturating_duration_since(since),
            TallyPhase::Queued(since) => self.queue += now.saturating_duration_since(since),
            TallyPhase::None | TallyPhase::Served => {}
        }
    }

    /// A part of its answer came.
    pub(super) fn answer_came(&mut self, response: &ResponseReader, now: Instant) {
        if response.has_begun() {
            let after = now.saturating_duration_since(self.began);
            self.first_byte.get_or_insert(after);
            self.status = Some(response.status());
            self.bytes = response.stdout_bytes();
        }
    }

    /// It gets an answer of our own, and that is its end.
    pub(super) fn answered(&mut self, answer: Answer, outcome: Outcome, telling: &Telling<'_>) {
        telling.counters.answered(answer);
        self.first_byte = Some(telling.now.saturating_duration_since(self.began));
        self.status = Some(answer.status());
        self.bytes = answer.stdout_bytes();
        self.end(Some(outcome), telling);
    }

    /// It is over, if there is one. `None`: it ended well.
    pub(super) fn end(&mut self, outcome: Option<Outcome>, telling: &Telling<'_>) {
        if let TallyPhase::None = self.phase {
            return;
        }
        self.stop_searching(telling.now);
        self.count(telling);
        self.tell_end_of_slow(outcome, telling);
        self.phase = TallyPhase::None;
        let (Some(log), Some(words)) = (&telling.logs.access, self.words.take()) else {
            return;
        };
        if self.upstream.is_none() && !log.has_ration(telling.now) {
            telling.counters.lines_left_out.add(1);
            return;
        }
        let entry = self.entry(Occasion::End, words, outcome, telling.now);
        push(log, entry, &telling.counters.lines_dropped);
    }

    fn count(&self, telling: &Telling<'_>) {
        let counters = telling.counters;
        counters.ended(self.status);
        let total = telling.now.saturating_duration_since(self.began);
        counters.request_time.record(total);
        counters.wait_time.record(self.queue);
        if self.upstream.is_some() {
            counters.connect_time.record(self.connect);
        }
        if let Some(first_byte) = self.first_byte {
            counters.first_byte_time.record(first_byte);
        }
    }

    fn tell_end_of_slow(&mut self, outcome: Option<Outcome>, telling: &Telling<'_>) {
        match self.slowness {
            Slowness::Unlogged => return,
            Slowness::DueAt(at) if telling.now < at => return,
            // It was seen in the turn of its end.
            Slowness::DueAt(_) => telling.counters.slow.add(1),
            Slowness::Told => {}
        }
        self.tell_slow_log(Occasion::SlowEnd, outcome, telling);
    }
}

fn push(queue: &Queue, entry: Entry, dropped: &Count) {
    if queue.push(Box::new(entry)).is_err() {
        dropped.add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::fastcgi::RetryAfter;

    const STEP: Duration = Duration::from_millis(10);

    #[test]
    fn waits_and_searches_add_up_apart_and_a_request_is_told_of_once() {
        let (counters, logs) = Default::default();
        let start = Instant::now();
        let at = |step| Telling {
            counters: &counters,
            logs: &logs,
            now: start + STEP * step,
        };
        let mut tally = Tally::new(None, start);
        tally.end(Some(Outcome::ClientLeft), &at(0));
        tally.phase = TallyPhase::Served;
        tally.search(at(0).now);
        tally.searched(false, at(1).now);
        tally.searched(true, at(2).now);
        tally.searched(true, at(4).now);
        tally.searched(false, at(7).now);
        let address = Address::from(SocketAddr::from(([192, 0, 2, 1], 9000)));
        tally.found(address, true, &at(8));
        // It is sent again.
        tally.search(at(9).now);
        tally.found(address, false, &at(11));
        assert_eq!((tally.connect, tally.queue), (STEP * 5, STEP * 5));
        tally.end(None, &at(12));
        tally.end(Some(Outcome::ClientClosed), &at(13));
        let ended: u64 = counters.requests.iter().map(|count| count.get()).sum();
        assert_eq!(ended, 1);
        assert_eq!(counters.request_time.read().sum, STEP * 12);
        assert_eq!(counters.wait_time.read().sum, STEP * 5);
        assert_eq!(counters.connect_time.read().sum, STEP * 5);
        assert_eq!(counters.first_byte_time.read().sum, Duration::ZERO);
        assert_eq!((counters.on_new.get(), counters.on_reused.get()), (1, 1));
    }

    #[test]
    fn an_answer_of_our_own_is_the_end_of_a_request_and_counts_by_its_status() {
        let (counters, logs) = Default::default();
        let now = Instant::now();
        let telling = Telling {
            counters: &counters,
            logs: &logs,
            now,
        };
        let mut tally = Tally::new(None, now);
        tally.phase = TallyPhase::Queued(now);
        let answer = Answer::Unavailable(RetryAfter::MOST);
        tally.answered(answer, Outcome::QueueShed, &telling);
        tally.end(Some(Outcome::QueueShed), &telling);
        let requests: Vec<_> = counters.requests.iter().map(|count| count.get()).collect();
        assert_eq!(requests, [0, 0, 0, 0, 0, 1]);
        assert_eq!(
            counters
                .answers
                .iter()
                .map(|count| count.get())
                .sum::<u64>(),
            1
        );
    }
}
