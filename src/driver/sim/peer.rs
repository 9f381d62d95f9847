//! The far ends of the simulated sockets: clients and backends with a plan each.
//!
//! A peer sends a stream that its key determines, so that what arrives elsewhere can be checked byte
//! by byte, and ends as its plan says. It acts only when the simulation lets it.

use std::ops::Range;
use std::time::Instant;

use crate::sys::Errno;

use super::dice::Dice;
use super::fastcgi::{Client, Speech};

/// What the kernel holds of a stream before the sender has to wait.
const WINDOW_BYTES: u64 = 96 * 1024;

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
    /// Whose stream it receives, once the first byte of it came.
    pub(super) source: Option<u8>,
    /// The proxy was told of its end in order.
    pub(super) end_seen: bool,
    /// The proxy was told that this connection is broken.
    pub(super) failure_seen: bool,
    /// What its stream is made of.
    pub(super) speech: Speech,
}

impl Peer {
    pub(super) fn new(key: u8, plan: Plan) -> Self {
        Self {
            key,
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
            source: None,
            end_seen: false,
            failure_seen: false,
            speech: Speech::Pattern,
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
            Speech::Pattern => self.can_send() || self.can_read() || self.can_end(),
            Speech::Client(client) => {
                self.can_read()
                    || self.can_say(client.may_send(self.read))
                    || self.can_leave(client)
            }
            Speech::Server(server) => {
                self.can_read()
                    || self.can_say(server.script_len())
                    || server.is_due(now)
                    || server.wants_to_close(self.sent)
                    || self.sees_end()
            }
        }
    }

    fn can_send(&self) -> bool {
        self.can_say(self.plan.total)
    }

    /// Whether it can send something, with so many bytes to send in all.
    pub(super) fn can_say(&self, total: u64) -> bool {
        self.send_side == SendSide::Open
            && self.sent < total
            && (self.waiting() < WINDOW_BYTES || self.closed)
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
    pub(super) fn act(&mut self, dice: &mut Dice) {
        if self.can_read() && dice.one_in(2) {
            let max = self.plan.appetite.min(self.given - self.read);
            self.read += dice.between(1, max);
        } else if self.can_send() && dice.below(4) > 0 {
            self.say(self.plan.total, dice);
        } else if self.can_end() {
            self.end();
        }
    }

    /// Sends a part of what it has to send, so many bytes in all.
    pub(super) fn say(&mut self, total: u64, dice: &mut Dice) {
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
        self.sent += bytes;
    }

    /// One step of a client that makes requests.
    pub(super) fn act_as_client(&mut self, client: &Client, dice: &mut Dice) {
        let may_send = client.may_send(self.read);
        if self.can_read() && dice.one_in(2) {
            let max = self.plan.appetite.min(self.given - self.read);
            self.read += dice.between(1, max);
        } else if self.can_say(may_send) && dice.below(4) > 0 {
            if !client.pauses_at(self.sent) || dice.one_in(16) {
                self.say(client.next_stop(self.sent, may_send), dice);
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
