//! What a server does: it reads, answers, answers the fence or not, and closes.

use std::mem;
use std::time::{Duration, Instant};

use super::super::super::dice::Dice;
use super::super::super::peer::stream_byte;
use super::super::client::ASKED;
use super::super::records::{
    END, GET_VALUES_RESULT, STDERR, STDIN, STDOUT, UNKNOWN_TYPE, Unit, push, push_pair, units,
};
use super::{Found, Heard, Ledger, Manner, Role, Server, Task, When};

/// No client's request has this id.
const FOREIGN_ID: u16 = 9999;

/// What a server does that never answers: it gives up.
const PATIENCE: Duration = Duration::from_secs(10);

impl Server {
    /// It has read so far.
    pub(in super::super) fn has_read(
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
                Found::Fence if self.requests == 0 => self.answer_fence(),
                Found::Fence => {
                    self.is_asked = true;
                    if self.ended_at.is_some() {
                        self.treat_fence(now, dice);
                    } else if self.manner == Manner::AnyTime
                        || self.manner != Manner::Steady && dice.one_in(20)
                    {
                        // As a server does that reads while it works.
                        self.is_early = true;
                        self.is_asked = false;
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
    pub(in super::super) fn do_due(
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
        } else if self.is_last {
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
pub(in super::super) const HEADERS_END: Unit = Unit::Byte(STDOUT, b'\n');

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
