//! Simulated FastCGI servers: one connection each. They answer at once, late, too early or never, and
//! have all the manners of those that there are with a connection that is kept.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::super::dice::Dice;
use super::super::peer::stream_byte;
use super::client::{ASKED, Course};
use super::records::{
    BEGIN, DATA, END, GET_VALUES, GET_VALUES_RESULT, PARAMS, Record, Records, STDERR, STDIN,
    STDOUT, UNKNOWN_TYPE, Unit, pairs, push, push_pair, units,
};
use super::{Ledger, Name, Role};

/// No client's request has this id.
const FOREIGN_ID: u16 = 9999;

/// What a server does that never answers: it gives up.
const PATIENCE: Duration = Duration::from_secs(10);

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
    pub(super) endpoint: usize,
    manner: Manner,
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
    when: When,
    /// The fence was read.
    is_asked: bool,
    /// It said something like the fence's answer before the end of its answer.
    is_early: bool,
    /// Whether the request that it has says where its body ends.
    must_keep: bool,
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
            script: Vec::new(),
            records: Records::default(),
            heard: Heard::Nothing,
            found: VecDeque::new(),
            read: 0,
            requests: 0,
            current: None,
            begun_at: 0,
            when: When::Done,
            is_asked: false,
            is_early: false,
            must_keep: false,
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
    pub(super) fn is_kept(&self, taken: u64) -> bool {
        matches!(self.heard, Heard::Fence)
            && self.records.left() == 0
            && self.ended_at.is_some_and(|at| at <= taken)
    }

    /// Whether the proxy has the fence's answer.
    pub(super) fn is_settled(&self, taken: u64) -> bool {
        self.settled_at.is_some_and(|at| at <= taken)
    }

    /// Whether nothing of a request is here that was not answered.
    pub(super) fn is_idle(&self, sent: u64) -> bool {
        self.records.left() == 0
            && match self.heard {
                Heard::Nothing => true,
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

    // --- what it is given -----------------------------------------------------------------------

    /// Judges what the proxy gives it, which begins at `at`; the proxy has `taken` so much.
    pub(super) fn hear(
        &mut self,
        me: usize,
        bytes: &[u8],
        at: u64,
        taken: u64,
        ledger: &mut Ledger,
    ) {
        if self.records.left() == 0 && !self.is_early {
            self.judge_reuse(taken);
        }
        self.records.push(bytes);
        let end = at + bytes.len() as u64;
        loop {
            let next = self.records.next();
            rule!(
                "backend_gets_requests",
                next.is_ok(),
                "upstream {me} gets version {next:?}"
            );
            let Ok(Some(record)) = next else {
                return;
            };
            let behind = end - self.records.left() as u64;
            self.hear_record(me, record, behind, taken, ledger);
        }
    }

    fn judge_reuse(&self, taken: u64) {
        if let Heard::Fence = self.heard {
            rule!(
                "settled_before_reuse",
                self.is_settled(taken) && !self.is_unclean,
                "request {:?} is over, and the proxy has {taken} bytes of {:?} and {:?}",
                self.current,
                self.ended_at,
                self.settled_at
            );
        }
    }

    fn hear_record(
        &mut self,
        me: usize,
        record: Record,
        behind: u64,
        taken: u64,
        ledger: &mut Ledger,
    ) {
        let Record {
            kind,
            id,
            content,
            padding,
        } = record;
        let has_ended = self.is_ended(taken);
        match (&mut self.heard, kind) {
            (Heard::Nothing | Heard::Fence, BEGIN) => {
                self.judge_reuse(taken);
                self.begin(me, id, &content, ledger);
                self.begun_at = behind - 8 - content.len() as u64 - padding as u64;
            }
            (
                Heard::Params {
                    id: of,
                    content: all,
                    ..
                },
                PARAMS,
            ) if *of == id && !content.is_empty() => {
                all.extend(content);
            }
            (
                Heard::Params {
                    id: of,
                    keep,
                    role,
                    content: all,
                },
                PARAMS,
            ) if *of == id => {
                let (keep, role, all) = (*keep, *role, mem::take(all));
                self.head(me, (id, keep, role), &all, ledger);
                self.heard = Heard::Body { id, keep, at: 0 };
                self.found.push_back((behind, Found::Head));
            }
            (Heard::Body { id: of, at, .. }, STDIN) if *of == id && !content.is_empty() => {
                let request = &ledger.entry(self.current).request;
                rule!(
                    "backend_gets_requests",
                    request.body[*at..].starts_with(&content),
                    "upstream {me}: another body of {} behind byte {at}",
                    request.name
                );
                *at += content.len();
            }
            (Heard::Body { id: of, at, keep }, STDIN) if *of == id => {
                let request = &ledger.entry(self.current).request;
                rule!(
                    "backend_gets_requests",
                    *at == request.body.len()
                        && padding == 0
                        && request.course != Course::Malformed,
                    "upstream {me}: the body of {} ends at byte {at} with {padding} bytes of padding",
                    request.name
                );
                let is_filter = request.role == Role::Filter;
                self.heard = match (is_filter, *keep) {
                    (true, _) => Heard::Data { id, at: 0 },
                    (false, true) => Heard::Request,
                    (false, false) => Heard::Last,
                };
                if !is_filter {
                    self.found.push_back((behind, Found::BodyEnd));
                }
            }
            (Heard::Data { id: of, at }, DATA) if *of == id && !content.is_empty() => {
                let request = &ledger.entry(self.current).request;
                rule!(
                    "backend_gets_requests",
                    request.data[*at..].starts_with(&content),
                    "upstream {me}: other data of {} behind byte {at}",
                    request.name
                );
                *at += content.len();
            }
            (Heard::Data { id: of, at }, DATA) if *of == id => {
                let request = &ledger.entry(self.current).request;
                rule!(
                    "backend_gets_requests",
                    *at == request.data.len() && padding == 0,
                    "upstream {me}: the data of {} ends at byte {at} with {padding} bytes of padding",
                    request.name
                );
                self.heard = Heard::Last;
                self.found.push_back((behind, Found::BodyEnd));
            }
            (Heard::Request, GET_VALUES) if id == 0 && padding == 0 => {
                rule!(
                    "fence_for_the_proven",
                    has_ended || ledger.may_be_asked_early(self.endpoint),
                    "upstream {me} gets the fence before the end of its answer"
                );
                let asked = pairs(&content);
                rule!(
                    "backend_gets_requests",
                    asked == Some(vec![(ASKED.to_vec(), Vec::new())]),
                    "upstream {me}: another fence: {asked:?}"
                );
                self.heard = Heard::Fence;
                self.found.push_back((behind, Found::Fence));
            }
            // The first one proved nothing.
            (Heard::Fence, GET_VALUES) if self.is_early && has_ended => {
                (self.is_early, self.settled_at) = (false, None);
                self.found.push_back((behind, Found::Fence));
            }
            (heard, _) => rule!(
                "backend_gets_requests",
                false,
                "upstream {me}: a record {kind} of request {id} in {heard:?} of {:?}",
                self.current
            ),
        }
    }

    fn is_ended(&self, taken: u64) -> bool {
        self.ended_at.is_some_and(|at| at <= taken)
    }

    fn begin(&mut self, me: usize, id: u16, content: &[u8], ledger: &mut Ledger) {
        self.requests += 1;
        if self.requests > 1 {
            ledger.reused(self.endpoint);
        }
        let may_keep = ledger.is_kept_after(self.requests);
        let must_keep = may_keep && !ledger.is_doubtful(self.endpoint);
        let role = content.get(1).copied().unwrap_or_default();
        let with = |keep| [0, role, u8::from(keep), 0, 0, 0, 0, 0];
        let keep = content == with(true);
        rule!(
            "backend_gets_requests",
            keep && may_keep || content == with(false),
            "upstream {me}: request {} begins with {content:?}",
            self.requests
        );
        self.must_keep = must_keep && !keep;
        self.heard = Heard::Params {
            id,
            keep,
            role,
            content: Vec::new(),
        };
        (self.current, self.when) = (None, When::Done);
        (self.is_asked, self.is_unclean, self.is_early) = (false, false, false);
        (self.ended_at, self.settled_at) = (None, None);
        (self.settling_since, self.resting_since) = (None, None);
    }

    fn head(
        &mut self,
        me: usize,
        (id, keep, role): (u16, bool, u8),
        params: &[u8],
        ledger: &mut Ledger,
    ) {
        let params = pairs(params).unwrap_or_default();
        let name = params.iter().find(|(name, _)| name == b"SIM_REQUEST");
        let name = name.and_then(|(_, name)| ledger.find(name));
        rule!(
            "backend_gets_requests",
            name.is_some(),
            "upstream {me}: a request that nobody made: {params:?}"
        );
        let name = name.expect("it was just seen");
        let request = &ledger.entry(Some(name)).request;
        rule!(
            "denied_stays_out",
            request.course != Course::Denied,
            "upstream {me} gets {name}"
        );
        rule!(
            "backend_gets_requests",
            request.id == id && request.role as u8 == role && request.params == params,
            "upstream {me}: {name} is given as request {id} in role {role} with {params:?}"
        );
        let says_length = params.iter().any(|(name, _)| name == b"CONTENT_LENGTH");
        rule!(
            "kept_if_certain",
            match (request.role, keep) {
                (Role::Filter, _) => !keep,
                (_, true) => says_length || request.body.is_empty(),
                (_, false) => !self.must_keep || !says_length,
            },
            "upstream {me} is to keep its connection: {keep}; length said: {says_length}"
        );
        self.current = Some(name);
        ledger.begun(name, me, self.is_spoilt);
    }

    // --- what it does ---------------------------------------------------------------------------

    /// It has read so far.
    pub(super) fn has_read(
        &mut self,
        me: usize,
        read: u64,
        now: Instant,
        ledger: &mut Ledger,
        dice: &mut Dice,
    ) {
        self.read = read;
        if let Some(name) = self.current
            && read > self.begun_at
        {
            ledger.read_by(name, me, self.endpoint);
        }
        while let Some(&(at, found)) = self.found.front()
            && at <= read
        {
            self.found.pop_front();
            match found {
                Found::Head => {
                    self.when = self.decide(dice);
                    if ledger.entry(self.current).request.role == Role::Authorizer {
                        // It reads no body, and so is not asked when that ends.
                        self.answer(me, now, ledger, dice);
                    }
                    match self.when {
                        When::Early => self.answer(me, now, ledger, dice),
                        When::Meanwhile => self.answer_in_part(me, ledger, dice),
                        When::Never => self.agenda.push((now + PATIENCE, Task::Close)),
                        When::Then | When::Late(_) | When::Done => {}
                    }
                }
                Found::BodyEnd => match self.when {
                    When::Meanwhile | When::Then => self.answer(me, now, ledger, dice),
                    When::Late(delay) => self.agenda.push((now + delay, Task::Answer)),
                    When::Early | When::Never | When::Done => {}
                },
                Found::Fence => {
                    self.is_asked = true;
                    if self.ended_at.is_some() {
                        self.treat_fence(now, dice);
                    } else if self.manner == Manner::AnyTime
                        || self.manner != Manner::Steady && dice.one_in(20)
                    {
                        // As a server does that reads while it works.
                        self.is_early = true;
                        ledger.answered_early(self.endpoint);
                        self.say_fence_answer();
                    }
                }
            }
        }
    }

    fn decide(&self, dice: &mut Dice) -> When {
        match dice.below(24) {
            0 | 1 => When::Early,
            2 => When::Meanwhile,
            3..6 => When::Late(Duration::from_millis(dice.pick(&[1, 20, 150, 1200]))),
            6 => When::Never,
            _ => When::Then,
        }
    }

    /// Does one thing that is due.
    pub(super) fn do_due(
        &mut self,
        me: usize,
        (read, given, sent): (u64, u64, u64),
        now: Instant,
        ledger: &mut Ledger,
        dice: &mut Dice,
    ) {
        let due = self.agenda.iter().position(|(at, _)| *at <= now);
        let (_, task) = self.agenda.remove(due.expect("something is due"));
        match task {
            Task::Answer => self.answer(me, now, ledger, dice),
            Task::AnswerFence => self.answer_fence(),
            Task::Spoil => self.spoil(dice),
            Task::Close => self.close_at = Some(sent),
            Task::CloseIfIdle if read == given && self.is_idle(sent) => {
                self.close_at = Some(self.script_len());
            }
            Task::CloseIfIdle => {}
        }
    }

    /// A part of the answer that leaves its end open.
    fn answer_in_part(&mut self, me: usize, ledger: &mut Ledger, dice: &mut Dice) {
        let entry = ledger.entry_mut(self.current);
        let len = dice.between(1, 2_000);
        let from = self.script.len();
        write_headers(entry.request.id, dice, &mut self.script);
        write_streams(me, entry.request.id, len, dice, &mut self.script);
        entry.answer.extend(units(&self.script[from..]));
    }

    /// The rest of the answer, whole or not.
    fn answer(&mut self, me: usize, now: Instant, ledger: &mut Ledger, dice: &mut Dice) {
        self.when = When::Done;
        let name = self.current;
        let entry = ledger.entry_mut(name);
        let from = self.script.len();
        let id = match self.manner {
            Manner::LastId if self.has_read_fence() => 0,
            _ => entry.request.id,
        };
        let len = match dice.below(12) {
            0 => dice.between(1, 200_000),
            1..6 => dice.between(1, 5_000),
            _ => dice.below(100),
        };
        if entry.answer.is_empty() {
            write_headers(id, dice, &mut self.script);
        }
        write_streams(me, id, len, dice, &mut self.script);
        entry.answer.extend(units(&self.script[from..]));
        let is_steady = self.manner == Manner::Steady;
        if !is_steady && dice.one_in(40) {
            // Between two records of the answer.
            if mem::take(&mut self.is_asked) {
                self.is_early = true;
                push(&mut self.script, GET_VALUES_RESULT, 0, &[], 0);
            } else {
                self.is_unclean = true;
                push(&mut self.script, UNKNOWN_TYPE, 0, &[0; 8], 0);
            }
            let behind = self.script.len();
            let len = dice.between(1, 2_000);
            write_streams(me, id, len, dice, &mut self.script);
            entry.answer.extend(units(&self.script[behind..]));
        }
        if !is_steady && dice.one_in(40) {
            entry.excused = true;
            self.talk_nonsense(id, dice);
        } else if !is_steady && !matches!(self.heard, Heard::Fence) && dice.one_in(80) {
            // It is for the proxy, which has not asked.
            self.is_early = true;
            push(&mut self.script, GET_VALUES_RESULT, 0, &[], 0);
        }
        let end_from = self.script.len();
        if dice.one_in(2) {
            push(&mut self.script, STDOUT, id, &[], 0);
        }
        let padding = dice.pick(&[0, 0, 8]);
        push(&mut self.script, END, id, &[0; 8], padding);
        entry.answer.extend(units(&self.script[end_from..]));
        entry.is_whole = true;
        self.ended_at = Some(self.script_len());
        if !is_steady && dice.one_in(40) {
            entry.excused = true;
            let said = self.script_len() - from as u64;
            self.close_at = Some(from as u64 + dice.below(said));
        } else if !ledger.is_kept_after(self.requests) {
            self.close_at = Some(self.script_len());
        } else if self.is_asked {
            self.treat_fence(now, dice);
        } else if self.manner == Manner::Abrupt || self.manner == Manner::Retiring && dice.one_in(2)
        {
            self.close_at = Some(self.script_len());
        }
        if self.is_early {
            ledger.answered_early(self.endpoint);
        }
    }

    fn talk_nonsense(&mut self, id: u16, dice: &mut Dice) {
        self.talks_nonsense = true;
        match dice.below(4) {
            0 => push(&mut self.script, STDOUT, FOREIGN_ID, b"for another", 0),
            1 => push(&mut self.script, STDIN, id, b"back", 0),
            2 => push(&mut self.script, END, id, &[0; 3], 0),
            _ => self.script.extend(b"PHP Warning: in Unknown on line 0"),
        }
    }

    /// Its answer is out, and so is the question for more.
    fn treat_fence(&mut self, now: Instant, dice: &mut Dice) {
        let later = |dice: &mut Dice, all: &[u64]| now + Duration::from_millis(dice.pick(all));
        match (self.manner, dice.below(16)) {
            (Manner::Steady, 0..4) => {
                let at = later(dice, &[1, 30, 500, 2_000]);
                self.agenda.push((at, Task::AnswerFence));
            }
            (Manner::Steady, _) => self.answer_fence(),
            (Manner::Silent | Manner::LastId, _) | (Manner::Usual | Manner::AnyTime, 0) => {}
            (Manner::Abrupt, _) => self.close_at = Some(self.script_len()),
            (Manner::Retiring, 0..8) | (Manner::Usual | Manner::AnyTime, 1) => {
                self.close_at = Some(self.script_len());
            }
            (Manner::Retiring, _) | (Manner::Usual | Manner::AnyTime, 2) => {
                self.answer_fence();
                self.close_at = Some(self.script_len());
            }
            (Manner::Usual | Manner::AnyTime, 3 | 4) => {
                let at = later(dice, &[1, 30, 500, 2_000]);
                self.agenda.push((at, Task::AnswerFence));
            }
            (Manner::Usual | Manner::AnyTime, 5) => {
                self.is_unclean = true;
                let id = dice.pick(&[1, 2, FOREIGN_ID]);
                push(&mut self.script, STDOUT, id, b"a tail", 2);
                self.answer_fence();
            }
            (Manner::Usual | Manner::AnyTime, 6) => {
                self.answer_fence();
                let at = later(dice, &[0, 1, 100]);
                self.agenda.push((at, Task::Spoil));
            }
            (Manner::Usual | Manner::AnyTime, 7) => {
                self.answer_fence();
                let at = later(dice, &[0, 1, 10, 100]);
                self.agenda.push((at, Task::CloseIfIdle));
            }
            (Manner::Usual | Manner::AnyTime, _) => self.answer_fence(),
        }
    }

    fn answer_fence(&mut self) {
        self.say_fence_answer();
        self.settled_at = Some(self.script_len());
    }

    fn say_fence_answer(&mut self) {
        let mut content = Vec::new();
        // Not what the proxy says of itself.
        push_pair(&mut content, ASKED, b"1");
        push(&mut self.script, GET_VALUES_RESULT, 0, &content, 6);
    }

    /// Says what nobody asked for, in a way that nobody can take for an answer.
    fn spoil(&mut self, dice: &mut Dice) {
        if self.settled_at.is_none() {
            return;
        }
        self.is_spoilt = true;
        let surplus: &[u8] = dice.pick(&[&b"X"[..], b"PHP Fatal error"]);
        self.script.extend(surplus);
    }
}

/// What ends the headers, which no other content has.
pub(super) const HEADERS_END: Unit = Unit::Byte(STDOUT, b'\n');

/// Most answers have headers. What has none cannot be told to have broken off.
fn write_headers(id: u16, dice: &mut Dice, out: &mut Vec<u8>) {
    if dice.below(4) > 0 {
        push(out, STDOUT, id, b"\n", 0);
    }
}

fn write_streams(me: usize, id: u16, len: u64, dice: &mut Dice, out: &mut Vec<u8>) {
    let key = u8::try_from(me % 251).expect("below 251");
    let mut left = len;
    while left > 0 {
        let most = left.min(dice.pick(&[100, 8_192, 65_535]));
        let now = if dice.one_in(2) {
            most
        } else {
            dice.between(1, most)
        };
        let kind = if dice.one_in(6) { STDERR } else { STDOUT };
        let from = out.len() as u64 + 1;
        let content = (from..from + now).map(|at| stream_byte(key, at));
        let content: Vec<_> = content
            .map(|byte| if byte == b'\n' { 0 } else { byte })
            .collect();
        let padding = u8::try_from(dice.pick(&[0, 0, 7, 255])).expect("a padding");
        push(out, kind, id, &content, padding);
        left -= now;
    }
}
