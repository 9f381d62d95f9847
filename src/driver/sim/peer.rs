//! The far ends of the simulated sockets: clients and backends with a plan each.
//!
//! A peer sends a stream that its key determines, so that what arrives elsewhere can be checked byte
//! by byte, and ends as its plan says. It acts only when the simulation lets it.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::sys::Errno;

use super::dice::Dice;
use super::fastcgi::{Client, Speech};

/// What the kernel holds of a stream before the sender has to wait.
const WINDOW_BYTES: u64 = 96 * 1024;

/// A segment of TCP, on an ordinary network.
pub(super) const SEGMENT_BYTES: u64 = 1448;

/// How long the kernel may wait with an acknowledgement (`TCP_DELACK_MIN`).
const ACKNOWLEDGEMENT_DELAY: Duration = Duration::from_millis(40);

/// Nagle's algorithm (RFC 896), which TCP uses unless it is told not to: what fills no segment waits while something
/// before it was not acknowledged. And our kernel is in no hurry with that, on a connection that has sent something.
#[derive(Debug, Default)]
pub(super) struct Nagle {
    /// What our kernel has acknowledged of its stream.
    acknowledged: u64,
    /// When it acknowledges the rest.
    due: Option<Instant>,
    /// It acknowledges at once.
    is_prompt: bool,
}

/// What makes our kernel acknowledge what has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acknowledging {
    /// It is asked to, now and for the next moment.
    AtOnce,
    /// Something is sent. From then on it takes its time again.
    WithBytes,
}

/// How a peer means to behave.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Bytes that it sends, if nothing comes between.
    pub(super) total: u64,
    pub(super) ending: PlannedEnding,
    /// At most this many bytes are read in one step.
    pub(super) appetite: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PlannedEnding {
    /// Half-closes after the last byte, reads to the end, closes.
    HalfClose,
    /// Closes after the last byte, without reading on.
    Close,
    /// Reads to the end first, then closes.
    AfterPeer,
    /// Breaks the connection once it has sent this much.
    Abort(u64),
}

/// How the peer's sending side stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SendSide {
    Open,
    /// It ended in order.
    Fin,
    /// The connection is broken. `Errno` is what the proxy's next call finds, once.
    Broken(Errno),
}

/// One far end.
#[derive(Debug)]
pub(super) struct Peer {
    /// Determines the stream, and is its first byte.
    pub(super) key: u8,
    /// The route that it comes to, or that leads to it.
    pub(super) route: usize,
    /// The worker that has its socket; of a client, once it was accepted.
    pub(super) worker: Option<usize>,
    /// Of a client, the rules that its worker went by when it was accepted, and when its session began.
    pub(super) accepted_by: usize,
    pub(super) served_by: usize,
    /// Of a backend, the rules by which it was connected to, and introduced to its client, if that tells.
    pub(super) generation: Option<usize>,
    pub(super) introduced_by: Option<usize>,
    pub(super) plan: Plan,
    /// What it sent so far, and what the proxy took of that.
    pub(super) sent: u64,
    pub(super) taken: u64,
    pub(super) send_side: SendSide,
    /// What the proxy gave to the kernel for it, and what it read of that.
    pub(super) given: u64,
    pub(super) read: u64,
    /// How much of the introduction it got.
    pub(super) introduced: usize,
    /// The proxy has said that no more comes.
    pub(super) told_end: bool,
    /// It closed its socket: nothing can be delivered to it.
    pub(super) gone: bool,
    /// The proxy has closed its side.
    pub(super) closed: bool,
    /// The proxy did not let it in.
    pub(super) dismissed: bool,
    /// One worker had let it in, and another one took it over.
    pub(super) arrived: bool,
    /// Whose stream it receives, once the first byte of it came.
    pub(super) source: Option<u8>,
    /// The proxy was told of its end in order.
    pub(super) end_seen: bool,
    /// The proxy was told that this connection is broken.
    pub(super) failure_seen: bool,
    /// What its stream is made of.
    pub(super) speech: Speech,
    /// Of a backend that leaves it on.
    pub(super) nagle: Option<Nagle>,
}

impl Peer {
    pub(super) fn new(key: u8, route: usize, plan: Plan) -> Self {
        Self {
            key,
            route,
            worker: None,
            accepted_by: 0,
            served_by: 0,
            generation: None,
            introduced_by: None,
            plan,
            sent: 0,
            taken: 0,
            send_side: SendSide::Open,
            given: 0,
            read: 0,
            introduced: 0,
            told_end: false,
            gone: false,
            closed: false,
            dismissed: false,
            arrived: false,
            source: None,
            end_seen: false,
            failure_seen: false,
            speech: Speech::Pattern,
            nagle: None,
        }
    }

    pub(super) fn waiting(&self) -> u64 {
        self.sent - self.taken
    }

    /// Bytes that the kernel would still take for this peer.
    pub(super) fn room(&self) -> u64 {
        WINDOW_BYTES - (self.given - self.read)
    }

    /// Whether its stream ended in order, as far as the proxy could know.
    pub(super) fn ended_in_order(&self) -> bool {
        self.send_side == SendSide::Fin || self.end_seen
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(self.send_side, SendSide::Broken(_))
    }

    /// Whether it can do anything without the proxy's help.
    pub(super) fn can_act(&self, now: Instant) -> bool {
        if self.gone || self.is_broken() {
            return false;
        }
        match &self.speech {
            Speech::Pattern => self.can_send(now) || self.can_read() || self.can_end(),
            Speech::Client(client) => {
                self.can_read()
                    || self.can_say(client.may_send(self.read), now)
                    || self.can_leave(client)
            }
            Speech::Server(server) if server.in_backlog_since.is_some() => false,
            Speech::Server(server) => {
                self.can_read()
                    || self.can_say(server.script_len(), now)
                    || server.is_due(now)
                    || server.wants_to_close(self.sent)
                    || self.sees_end()
            }
        }
    }

    fn can_send(&self, now: Instant) -> bool {
        self.can_say(self.plan.total, now)
    }

    /// Whether it can send something, with so many bytes to send in all.
    pub(super) fn can_say(&self, total: u64, now: Instant) -> bool {
        self.send_side == SendSide::Open
            && self.sent < total
            && (self.waiting() < WINDOW_BYTES || self.closed)
            && !self.is_held_back(total, now)
    }

    /// Whether it waits for an acknowledgement, with so many bytes to send in all. Who closes behind them does not.
    fn is_held_back(&self, total: u64, now: Instant) -> bool {
        let closes = match &self.speech {
            Speech::Server(server) => server.wants_to_close(total),
            Speech::Pattern | Speech::Client(_) => self.plan.ending == PlannedEnding::Close,
        };
        !closes && !self.closed && total - self.sent < SEGMENT_BYTES && self.is_unacknowledged(now)
    }

    fn is_unacknowledged(&self, now: Instant) -> bool {
        self.nagle.as_ref().is_some_and(|nagle| {
            nagle.acknowledged < self.sent && nagle.due.is_some_and(|due| due > now)
        })
    }

    /// When the acknowledgement comes for which it waits, if it waits for one.
    pub(super) fn acknowledged_at(&self, now: Instant) -> Option<Instant> {
        let total = match &self.speech {
            Speech::Pattern => self.plan.total,
            Speech::Client(_) => return None,
            Speech::Server(server) => server.script_len(),
        };
        let waits = !self.gone
            && self.send_side == SendSide::Open
            && self.sent < total
            && self.is_held_back(total, now);
        self.nagle.as_ref().filter(|_| waits)?.due
    }

    /// Whether the proxy is to get more of what it waits for.
    pub(super) fn owes_more(&self) -> bool {
        match &self.speech {
            Speech::Pattern => true,
            Speech::Client(_) => false,
            Speech::Server(server) => server.owes_more(self.sent),
        }
    }

    /// Our kernel acknowledges what has come.
    pub(super) fn acknowledged(&mut self, how: Acknowledging) {
        if let Some(nagle) = &mut self.nagle {
            nagle.acknowledged = self.sent;
            nagle.is_prompt = how == Acknowledging::AtOnce;
        }
    }

    fn can_read(&self) -> bool {
        self.read < self.given
    }

    pub(super) fn sees_end(&self) -> bool {
        (self.told_end || self.closed) && self.read == self.given
    }

    fn can_end(&self) -> bool {
        match self.plan.ending {
            PlannedEnding::Abort(at) => self.sent >= at,
            PlannedEnding::Close => self.sent == self.plan.total || self.closed,
            PlannedEnding::HalfClose => {
                (self.sent == self.plan.total && self.send_side == SendSide::Open)
                    || self.sees_end()
            }
            PlannedEnding::AfterPeer => self.sees_end(),
        }
    }

    /// One step of its own choice.
    pub(super) fn act(&mut self, now: Instant, dice: &mut Dice) {
        if self.can_read() && dice.one_in(2) {
            let max = self.plan.appetite.min(self.given - self.read);
            self.read += dice.between(1, max);
        } else if self.can_send(now) && dice.below(4) > 0 {
            self.say(self.plan.total, now, dice);
        } else if self.can_end() {
            self.end();
        }
    }

    /// Sends a part of what it has to send, so many bytes in all.
    pub(super) fn say(&mut self, total: u64, now: Instant, dice: &mut Dice) {
        if self.closed {
            // The kernel answers with a reset.
            self.gone = true;
            return;
        }
        let max = (total - self.sent).min(WINDOW_BYTES - self.waiting());
        // Often all of it, for bulk; else little.
        let bytes = if dice.one_in(2) {
            max
        } else {
            dice.between(1, max.min(2000))
        };
        let is_unacknowledged = self.is_unacknowledged(now);
        let Some(nagle) = &mut self.nagle else {
            self.sent += bytes;
            return;
        };
        if !is_unacknowledged {
            nagle.acknowledged = self.sent;
            nagle.due = Some(now + ACKNOWLEDGEMENT_DELAY);
            self.sent += bytes;
        } else if total - self.sent < SEGMENT_BYTES {
            // It closes behind that.
            self.sent = total;
        } else {
            // Whole segments go.
            let whole = bytes / SEGMENT_BYTES * SEGMENT_BYTES;
            self.sent += whole.max(SEGMENT_BYTES).min(max);
        }
        // Each second segment is acknowledged at once.
        if nagle.is_prompt || self.sent >= nagle.acknowledged + 2 * SEGMENT_BYTES {
            nagle.acknowledged = self.sent;
        }
    }

    /// One step of a client that makes requests.
    pub(super) fn act_as_client(&mut self, client: &Client, now: Instant, dice: &mut Dice) {
        let may_send = client.may_send(self.read);
        if self.can_read() && dice.one_in(2) {
            let max = self.plan.appetite.min(self.given - self.read);
            self.read += dice.between(1, max);
        } else if self.can_say(may_send, now) && dice.below(4) > 0 {
            if !client.pauses_at(self.sent) || dice.one_in(16) {
                self.say(client.next_stop(self.sent, may_send), now, dice);
            }
        } else if self.can_leave(client) {
            if client.is_served(self.read) {
                self.close_socket();
            } else {
                self.end();
            }
        }
    }

    /// Whether a client with requests can end: none waits for more than its answers.
    fn can_leave(&self, client: &Client) -> bool {
        client.is_served(self.read) || self.can_end()
    }

    fn end(&mut self) {
        match self.plan.ending {
            PlannedEnding::Abort(_) => self.break_off(Errno(libc::ECONNRESET)),
            PlannedEnding::HalfClose if self.send_side == SendSide::Open && !self.sees_end() => {
                self.send_side = SendSide::Fin;
            }
            PlannedEnding::HalfClose | PlannedEnding::Close | PlannedEnding::AfterPeer => {
                self.close_socket();
            }
        }
    }

    /// Closing with bytes unread is a reset for the other side.
    pub(super) fn close_socket(&mut self) {
        if self.read < self.given {
            self.break_off(Errno(libc::ECONNRESET));
        } else {
            if self.send_side == SendSide::Open {
                self.send_side = SendSide::Fin;
            }
            self.gone = true;
        }
    }

    pub(super) fn break_off(&mut self, errno: Errno) {
        self.send_side = SendSide::Broken(errno);
        self.gone = true;
    }

    /// Takes up to `max` bytes of its stream for the proxy.
    pub(super) fn take(&mut self, max: u64) -> Range<u64> {
        let start = self.taken;
        self.taken += max.min(self.waiting());
        start..self.taken
    }
}

/// The byte at `offset` of the stream of `key`. The first one is the key itself, so that whoever
/// receives it knows whose stream it is.
pub(super) fn stream_byte(key: u8, offset: u64) -> u8 {
    if offset == 0 {
        return key;
    }
    let word = (offset / 8 + 1 + u64::from(key) * 0x1_0001).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ (word >> 29)).to_le_bytes()[(offset % 8) as usize]
}
