//! Simulated FastCGI servers: one connection each. They answer at once, late, too early or never, and
//! have all the manners of those that there are with a connection that is kept.
//!
//! `hearing` is what the proxy gives it, which is judged there; `acting` what it reads of that, and does.

mod acting;
mod hearing;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::records::Records;
use super::{Ledger, Name, Role, Since};

pub(super) use acting::HEADERS_END;

/// The way that all connections to one endpoint are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Manner {
    /// The fence is answered, most of the time at once.
    Usual,
    /// The fence is answered, always and in its turn, and nothing is said or ended that should not be: PHP-FPM. Its
    /// worker may be busy before it answers.
    Steady,
    /// The fence is never answered.
    Silent,
    /// Each connection is closed after its first answer, or after the answer to its first fence.
    Retiring,
    /// The fence is answered when it is read, also in the midst of an answer: Go, flup, node-fastcgi.
    AnyTime,
    /// Each connection is closed right behind its answer, without reading on: ruby-fcgi, uwsgi. With bytes unread
    /// that is a reset, which destroys what the proxy has not taken.
    Abrupt,
    /// What was read in one piece is one request, with the id of the last record that stands in it: simple servers,
    /// which never hear of a fence.
    LastId,
}

/// One connection of a server.
#[derive(Debug)]
pub(in super::super) struct Server {
    /// As [`Ledger::known_as`] has it.
    pub(super) endpoint: usize,
    manner: Manner,
    /// No worker has accepted it. Since when.
    pub(in super::super) in_backlog_since: Option<Instant>,
    /// All that it has to say so far.
    script: Vec<u8>,
    records: Records,
    heard: Heard,
    /// What it finds when it has read so far.
    found: VecDeque<(u64, Found)>,
    /// It has read so far.
    read: u64,
    /// Requests that were begun.
    pub(super) requests: u32,
    /// The last one.
    pub(super) current: Option<Name>,
    /// Where the current request begins in what it was given.
    begun_at: u64,
    /// The state of its endpoint then.
    pub(super) begun_in: Since,
    when: When,
    /// The fence was read.
    is_asked: bool,
    /// It said something like the fence's answer before the end of its answer.
    is_early: bool,
    /// The rules by which the proxy connected to it, if that tells.
    pub(super) made_by: Option<usize>,
    /// The proxy does not keep the connection behind the request that it has.
    is_last: bool,
    /// Where END_REQUEST ends in what it says.
    pub(super) ended_at: Option<u64>,
    /// The same of the fence's answer.
    settled_at: Option<u64>,
    /// It said what nobody had asked for, in front of the fence's answer.
    is_unclean: bool,
    /// It said the like behind it.
    pub(super) is_spoilt: bool,
    /// It says, or is going to, what is no answer.
    pub(super) talks_nonsense: bool,
    /// What it does then.
    agenda: Vec<(Instant, Task)>,
    /// It closes when it has sent this much.
    close_at: Option<u64>,
    /// What its kernel has acknowledged of what it was given, at least.
    pub(super) acknowledged: u64,
    /// When the proxy had END_REQUEST, and when the fence's answer.
    pub(super) settling_since: Option<Instant>,
    pub(super) resting_since: Option<Instant>,
}

/// How far the proxy's part of a request is.
#[derive(Debug)]
enum Heard {
    /// Nothing.
    Nothing,
    Params {
        id: u16,
        keep: bool,
        role: u8,
        content: Vec<u8>,
    },
    /// So much of the body.
    Body { id: u16, keep: bool, at: usize },
    /// All of a filter's body, and so much of its data.
    Data { id: u16, at: usize },
    /// All of the request, and a fence is due.
    Request,
    /// The fence.
    Fence,
    /// All of the connection's only request.
    Last,
}

#[derive(Clone, Copy, Debug)]
enum Found {
    Head,
    BodyEnd,
    Fence,
}

/// When a request is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    /// Before its body is complete.
    Early,
    /// Begun with the head, ended behind the body.
    Meanwhile,
    /// Behind the body.
    Then,
    /// A while after that.
    Late(Duration),
    Never,
    /// It was.
    Done,
}

#[derive(Clone, Copy, Debug)]
enum Task {
    Answer,
    AnswerFence,
    Spoil,
    Close,
    /// Unless it has something to do.
    CloseIfIdle,
}

impl Server {
    pub(super) fn new(endpoint: usize, manner: Manner) -> Self {
        Self {
            endpoint,
            manner,
            in_backlog_since: None,
            script: Vec::new(),
            records: Records::default(),
            heard: Heard::Nothing,
            found: VecDeque::new(),
            read: 0,
            requests: 0,
            current: None,
            begun_at: 0,
            begun_in: Since::default(),
            when: When::Done,
            is_asked: false,
            is_early: false,
            made_by: None,
            is_last: false,
            ended_at: None,
            settled_at: None,
            is_unclean: false,
            is_spoilt: false,
            talks_nonsense: false,
            agenda: Vec::new(),
            close_at: None,
            acknowledged: 0,
            settling_since: None,
            resting_since: None,
        }
    }

    pub(in super::super) fn script(&self, bytes: Range<u64>) -> &[u8] {
        let index = |n| usize::try_from(n).expect("a script is short");
        &self.script[index(bytes.start)..index(bytes.end)]
    }

    pub(in super::super) fn script_len(&self) -> u64 {
        self.script.len() as u64
    }

    /// Whether it closes, having sent this much.
    pub(in super::super) fn wants_to_close(&self, sent: u64) -> bool {
        self.close_at.is_some_and(|at| at <= sent)
    }

    /// Whether something is due.
    pub(in super::super) fn is_due(&self, now: Instant) -> bool {
        self.agenda.iter().any(|(at, _)| *at <= now)
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.agenda.iter().map(|(at, _)| *at).min()
    }

    /// Whether the proxy has sent all of a request, with a fence, and all of its answer is out.
    pub(in super::super::super) fn is_kept(&self, taken: u64) -> bool {
        matches!(self.heard, Heard::Fence)
            && self.records.left() == 0
            && self.ended_at.is_some_and(|at| at <= taken)
    }

    /// Whether the proxy has the fence's answer.
    pub(in super::super::super) fn is_settled(&self, taken: u64) -> bool {
        self.settled_at.is_some_and(|at| at <= taken)
    }

    /// Whether more is to come, behind so much, of its answer, or the fence's. That is a small one: no server writes it
    /// in parts.
    pub(in super::super) fn owes_more(&self, sent: u64) -> bool {
        if self.requests == 0 {
            return false;
        }
        match self.ended_at {
            Some(end) if self.settled_at.is_none() => sent < end,
            Some(end) => sent <= end,
            None => true,
        }
    }

    /// Whether nothing of a request is here that was not answered.
    pub(super) fn is_idle(&self, sent: u64) -> bool {
        self.records.left() == 0
            && match self.heard {
                Heard::Nothing => true,
                Heard::Fence if self.requests == 0 => true,
                Heard::Params { .. } => false,
                Heard::Body { .. }
                | Heard::Data { .. }
                | Heard::Request
                | Heard::Fence
                | Heard::Last => self.ended_at.is_some_and(|at| at <= sent),
            }
    }

    /// Whether the fence stands in what it has read, and it has not come to it yet.
    fn has_read_fence(&self) -> bool {
        let found = self.found.iter();
        let mut fences = found.filter(|(_, found)| matches!(found, Found::Fence));
        fences.any(|(at, _)| *at <= self.read)
    }

    /// Whether a close destroys what the proxy has not taken, because the fence is here and was not read.
    pub(super) fn destroys_answer(&self) -> bool {
        self.manner == Manner::Abrupt && matches!(self.heard, Heard::Fence) && self.found.len() == 1
    }

    /// Whether it has said what nobody asked for.
    pub(super) fn has_surplus(&self) -> bool {
        self.is_early || self.is_unclean || self.is_spoilt
    }
}
