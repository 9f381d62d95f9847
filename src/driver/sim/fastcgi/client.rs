//! Simulated clients: a few requests, one after another, in any manner that a web server has, and in
//! some that none should have.

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::fastcgi::{Answer, RetryAfter};

use super::super::dice::Dice;
use super::super::peer::{PlannedEnding, stream_byte};
use super::super::scenario::marker;
use super::records::{
    ABORT, BEGIN, DATA, END, GET_VALUES, GET_VALUES_RESULT, PARAMS, Record, Records, STDERR, STDIN,
    STDOUT, Unit, push, push_pair, units,
};
use super::server::HEADERS_END;
use super::{Name, Request, Role, answer_of_proxy};

/// The name that the fence asks for, and clients do.
pub(super) const ASKED: &[u8; 15] = b"FCGI_MPXS_CONNS";

/// A record's header.
const HEADER_BYTES: usize = 8;

/// The record that asks for that: its header, and the name with two lengths.
const QUERY_BYTES: u64 = 8 + 2 + ASKED.len() as u64;

/// What a request comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Course {
    Whole,
    /// The guard rejects it.
    Denied,
    /// FCGI_ABORT_REQUEST comes somewhere in it or behind it.
    Aborted,
    /// No application reads it to its end.
    Malformed,
}

/// A client, and what is known of the answers that it was given.
#[derive(Debug)]
pub(in super::super) struct Client {
    /// All that it sends, if nothing comes between.
    script: Vec<u8>,
    requests: Vec<Sent>,
    /// Where it stops for a while: in front of the end of a body, and within heads.
    pauses: Vec<u64>,
    /// The requests that were answered whole, and where their answers end in what it was given.
    answer_ends: Vec<u64>,
    answer: Reading,
    /// What it was given and is no whole record yet.
    records: Records,
    /// How often it asks for our capacity. Whether that is answered is left open.
    queries: usize,
    /// Until then, the proxy had nothing of the request that is next to be answered, if it has come to the proxy.
    unbegun_until: Option<Instant>,
    /// What the proxy has answered for itself.
    own_answer: Option<Answer>,
}

/// One of its requests.
#[derive(Debug)]
struct Sent {
    request: Rc<Request>,
    script: Range<u64>,
    /// It does not wait for the answer before.
    pipelined: bool,
    /// The proxy has taken all of it, and has nothing else to do for this client.
    promised: bool,
}

/// Where it stands in what it is given.
#[derive(Debug)]
enum Reading {
    /// This much of the answer to the next request.
    Answer(Vec<Unit>),
    /// The proxy has answered for itself, or told that the answer broke off. Nothing may come after that.
    Over,
}

impl Client {
    /// The client with this key.
    pub(super) fn new(key: usize, markers: usize, dice: &mut Dice) -> Self {
        let mut client = Self {
            script: Vec::new(),
            requests: Vec::new(),
            pauses: Vec::new(),
            answer_ends: Vec::new(),
            answer: Reading::Answer(Vec::new()),
            records: Records::default(),
            queries: 0,
            unbegun_until: None,
            own_answer: None,
        };
        // Who makes many keeps connections from coming to rest for long.
        let most = if dice.one_in(3) { 12 } else { 4 };
        // One that makes none waits for the proxy to leave.
        let count = match markers > 0 && dice.one_in(6) {
            true => 0,
            false => dice.between(1, most),
        };
        for number in 0..count {
            let from = client.script.len() as u64;
            if dice.one_in(12) {
                client.queries += 1;
                let mut content = Vec::new();
                push_pair(&mut content, ASKED, b"");
                push(&mut client.script, GET_VALUES, 0, &content, 0);
            }
            let name = Name(key, usize::try_from(number).expect("a few"));
            let is_last = number + 1 == count;
            let request = write_request((name, is_last), markers, dice, &mut client.script);
            if request.course == Course::Whole && request.role == Role::Responder && dice.one_in(4)
            {
                client.pauses.push(client.script.len() as u64 - 8);
            }
            if dice.one_in(6) {
                // In the midst of its head, or of what stands in front of that.
                client.pauses.push(dice.between(from + 1, from + 40));
            }
            client.requests.push(Sent {
                request: Rc::new(request),
                script: from..client.script.len() as u64,
                pipelined: dice.one_in(6),
                promised: false,
            });
        }
        client
    }

    /// Its requests.
    pub(super) fn requests(&self) -> impl Iterator<Item = &Rc<Request>> {
        self.requests.iter().map(|sent| &sent.request)
    }

    pub(in super::super) fn script(&self, bytes: Range<u64>) -> &[u8] {
        &self.script[index(bytes.start)..index(bytes.end)]
    }

    pub(in super::super) fn script_len(&self) -> u64 {
        self.script.len() as u64
    }

    /// How much it may send when it has read this much of what it was given.
    pub(in super::super) fn may_send(&self, read: u64) -> u64 {
        let answered = self.answered(read);
        let waits = |(number, sent): &(usize, &Sent)| *number > answered && !sent.pipelined;
        let first = self.requests.iter().enumerate().find(waits);
        first.map_or_else(|| self.script_len(), |(_, sent)| sent.script.start)
    }

    /// Where it stops next, having sent this much and having so much to send.
    pub(in super::super) fn next_stop(&self, sent: u64, total: u64) -> u64 {
        let pauses = self.pauses.iter().copied();
        pauses.filter(|at| *at > sent).fold(total, u64::min)
    }

    /// Whether it stops here.
    pub(in super::super) fn pauses_at(&self, sent: u64) -> bool {
        self.pauses.contains(&sent)
    }

    /// Whether it has read all answers.
    pub(in super::super) fn is_served(&self, read: u64) -> bool {
        !self.requests.is_empty() && self.answered(read) == self.requests.len()
    }

    /// The requests of which the proxy has something, when it has taken so much.
    pub(in super::super) fn begun(&self, taken: u64) -> impl Iterator<Item = Name> {
        let begun = self.requests.iter();
        let begun = begun.take_while(move |sent| sent.script.start < taken);
        begun.map(|sent| sent.request.name)
    }

    /// Whether the proxy, which has taken so much, has answered all that it has of it.
    pub(in super::super) fn is_idle(&self, taken: u64) -> bool {
        !self.is_within_answer() && self.begun(taken).count() <= self.answer_ends.len()
    }

    /// Whether another worker can go on with its next bytes, when the proxy has taken so much: behind a whole record, with
    /// an answer to everything in front of that.
    pub(in super::super) fn rests_at(&self, taken: u64) -> bool {
        let mut at = 0;
        while at < index(taken) {
            let header = &self.script[at..];
            let content = u16::from_be_bytes([header[4], header[5]]);
            at += HEADER_BYTES + usize::from(content) + usize::from(header[6]);
        }
        let has_begun = |sent: &&Sent| {
            let mut records = sent.script.clone();
            // A question of its own may stand in front of it.
            if self.script[index(records.start) + 1] == GET_VALUES {
                records.start += QUERY_BYTES;
            }
            records.start < taken
        };
        let begun = self.requests.iter().filter(has_begun).count();
        at == index(taken) && !self.is_within_answer() && begun <= self.answer_ends.len()
    }

    /// The proxy, which has taken this much, has done all that it can do.
    pub(in super::super) fn rests(&mut self, taken: u64, now: Instant) {
        let next = self.requests.get(self.answer_ends.len());
        if next.is_some_and(|sent| taken <= sent.script.start) {
            self.unbegun_until = Some(now);
        }
    }

    /// What the proxy has answered for itself, and until when it had nothing of that request.
    pub(super) fn own_answer(&self) -> Option<(Answer, Instant)> {
        self.own_answer.zip(self.unbegun_until)
    }

    fn answered(&self, read: u64) -> usize {
        self.answer_ends.iter().filter(|end| **end <= read).count()
    }

    /// The request that is next to be answered.
    pub(super) fn waits_for(&self) -> Option<&Rc<Request>> {
        match self.answer {
            Reading::Answer(_) => self.requests().nth(self.answer_ends.len()),
            Reading::Over => None,
        }
    }

    /// Whether an answer has begun and is not over.
    pub(in super::super) fn is_within_answer(&self) -> bool {
        match &self.answer {
            Reading::Answer(heard) => !heard.is_empty() || self.records.left() > 0,
            Reading::Over => false,
        }
    }

    /// The proxy has taken this much, and rests. What it has is as good as answered.
    pub(super) fn promise(&mut self, taken: u64) {
        let next = self.answer_ends.len();
        let kept = self.requests[..next].iter().all(|sent| sent.request.keep);
        if kept
            && matches!(self.answer, Reading::Answer(_))
            && let Some(sent) = self.requests.get_mut(next)
            && sent.script.end <= taken
            && sent.request.course == Course::Whole
        {
            sent.promised = true;
        }
    }

    /// The request that was promised an answer and has none.
    pub(super) fn missing(&self) -> Option<&Rc<Request>> {
        let sent = self.requests.get(self.answer_ends.len())?;
        sent.promised.then_some(&sent.request)
    }

    /// Whether what it has of an answer has headers and is not all of it, so that its end is to be told.
    pub(super) fn misses_sign(&self) -> bool {
        match &self.answer {
            Reading::Answer(heard) => heard.contains(&HEADERS_END),
            Reading::Over => false,
        }
    }

    /// Takes in what the proxy gives it.
    pub(super) fn take_in(&mut self, bytes: &[u8]) {
        self.records.push(bytes);
    }

    /// The next whole record of that, and what of it is left behind that.
    pub(super) fn next_record(&mut self) -> Option<(Result<Record, u8>, usize)> {
        let next = match self.records.next() {
            Ok(None) => return None,
            Ok(Some(record)) => Ok(record),
            Err(version) => Err(version),
        };
        Some((next, self.records.left()))
    }

    /// Judges one record, which ends where so much was given. `backend`: what the backend that serves the
    /// current request has for it, and whether that is all. False: it has no right to be there.
    pub(super) fn hear(
        &mut self,
        record: &Record,
        end: u64,
        backend: Option<(&[Unit], bool)>,
    ) -> bool {
        let Reading::Answer(heard) = &mut self.answer else {
            return false;
        };
        if record.kind == GET_VALUES_RESULT && self.queries > 0 {
            self.queries -= 1;
            let mut content = Vec::new();
            push_pair(&mut content, ASKED, b"0");
            return record.id == 0 && record.content == content;
        }
        let Some(request) = self.requests.get(self.answer_ends.len()) else {
            return false;
        };
        let request = &request.request;
        if record.id != request.id {
            return false;
        }
        record.say(heard);
        if let Some((whole, is_all)) = backend
            && whole.starts_with(heard)
        {
            if is_all && heard.len() == whole.len() {
                self.answer_ends.push(end);
                self.answer = Reading::Answer(Vec::new());
            }
            return true;
        }
        // It can come behind what a backend had written to STDERR.
        let is_stderr = |unit: &&Unit| matches!(unit, Unit::Byte(STDERR, _) | Unit::End(STDERR));
        let stderr = heard.iter().take_while(is_stderr).count();
        for (answer, own) in own_answers(request) {
            if own.starts_with(&heard[stderr..]) {
                if own.len() == heard.len() - stderr {
                    self.answer_ends.push(end);
                    self.answer = Reading::Over;
                    self.own_answer = Some(answer);
                }
                return true;
            }
        }
        false
    }

    /// It is told that its answer broke off. False: there is none.
    pub(super) fn hear_break(&mut self) -> bool {
        let is_due = self.misses_sign();
        self.answer = Reading::Over;
        is_due
    }
}

/// What the proxy may say for itself.
fn own_answers(request: &Request) -> Vec<(Answer, Vec<Unit>)> {
    let answers = match request.course {
        Course::Denied => vec![Answer::Forbidden],
        Course::Whole | Course::Aborted | Course::Malformed => {
            let mut answers = vec![Answer::BadGateway, Answer::GatewayTimeout];
            let seconds = RetryAfter::LEAST.seconds()..=RetryAfter::MOST.seconds();
            let times = seconds.map(|s| RetryAfter::of(Duration::from_secs(s.into())));
            answers.extend(times.map(Answer::Unavailable));
            answers
        }
    };
    let own = answers.into_iter();
    own.map(|answer| (answer, units(&answer_of_proxy(answer, request.id))))
        .collect()
}

/// How a client with requests ends.
pub(super) fn ending(script_len: u64, dice: &mut Dice) -> PlannedEnding {
    match dice.below(10) {
        // Right after its last request.
        0 | 1 => PlannedEnding::HalfClose,
        2 => PlannedEnding::Abort(dice.below(script_len + 1)),
        // With its last byte.
        3 if dice.one_in(3) => PlannedEnding::Close,
        _ => PlannedEnding::AfterPeer,
    }
}

/// A body's bytes.
fn body(name: Name, len: u64) -> Vec<u8> {
    let key = u8::try_from(name.0 * 5 + name.1).expect("clients are few");
    (1..=len).map(|at| stream_byte(key, at)).collect()
}

/// What a filter is to work on: other bytes than its body.
fn stream_of_data(name: Name, len: u64) -> Vec<u8> {
    body(name, len).iter().map(|byte| !byte).collect()
}

fn write_request(
    (name, is_last): (Name, bool),
    markers: usize,
    dice: &mut Dice,
    out: &mut Vec<u8>,
) -> Request {
    let id = dice.pick(&[1, 1, 1, 2, 0x1234]);
    let keep = if is_last {
        dice.one_in(2)
    } else {
        !dice.one_in(8)
    };
    let course = match dice.below(30) {
        0 => Course::Denied,
        1 | 2 => Course::Aborted,
        3 => Course::Malformed,
        _ => Course::Whole,
    };
    let role = match dice.below(24) {
        // What is wrong with one is written for responders.
        _ if course == Course::Malformed => Role::Responder,
        0 => Role::Filter,
        1 => Role::Authorizer,
        _ => Role::Responder,
    };
    let method: &[u8] = dice.pick(&[&b"GET"[..], b"HEAD", b"POST"]);
    let body = body(name, body_len(role, method, dice));
    let is_told = !body.is_empty() && dice.below(4) > 0;
    let params = params(name, method, is_told.then_some(body.len()), dice);
    let mut request = Request {
        name,
        id,
        keep,
        may_be_repeated: method != b"POST",
        role,
        params,
        body,
        data: Vec::new(),
        course,
    };
    let sent = with_others(&request, markers, dice);
    let writer = Writer {
        id,
        out,
        ends: Vec::new(),
        dice,
    };
    writer.write(&mut request, &sent, is_told);
    request
}

fn body_len(role: Role, method: &[u8], dice: &mut Dice) -> u64 {
    match dice.below(8) {
        _ if role == Role::Authorizer => 0,
        0 if method == b"POST" => dice.between(3_000, 120_000),
        0..5 if method == b"POST" => dice.between(0, 3_000),
        0 => {
            let most = dice.pick(&[2_000, 2_000, 120_000]);
            dice.between(1, most)
        }
        _ => 0,
    }
}

type Params = Vec<(Vec<u8>, Vec<u8>)>;

/// Those that a server is to get. `content_length`: as it is told.
fn params(name: Name, method: &[u8], content_length: Option<usize>, dice: &mut Dice) -> Params {
    let mut params: Params = vec![
        (b"SIM_REQUEST".to_vec(), name.to_string().into_bytes()),
        (b"REQUEST_METHOD".to_vec(), method.to_vec()),
    ];
    if let Some(len) = content_length {
        params.push((b"CONTENT_LENGTH".to_vec(), len.to_string().into_bytes()));
    }
    if dice.one_in(3) {
        let len = dice.pick(&[0, 10, 127, 128, 300, 16_200, 20_000]);
        params.push((b"HTTP_COOKIE".to_vec(), vec![b'c'; len]));
    }
    params
}

/// And among them those for which it is denied, and those that are left out.
fn with_others(request: &Request, markers: usize, dice: &mut Dice) -> Params {
    let mut sent = request.params.clone();
    let mut insert = |dice: &mut Dice, name: &[u8], value: &[u8]| {
        let place = usize::try_from(dice.below(sent.len() as u64 + 1)).expect("a few");
        sent.insert(place, (name.to_vec(), value.to_vec()));
    };
    if request.course == Course::Denied {
        let name = dice.pick(&[&b"PHP_VALUE"[..], b"PHP_ADMIN_VALUE"]);
        insert(dice, name, b"auto_prepend_file=x");
    }
    if dice.one_in(4) {
        insert(dice, b"HTTP_PROXY", b"http://x");
    }
    for generation in 0..markers {
        insert(dice, marker(generation).as_bytes(), b"1");
    }
    sent
}

struct Writer<'a> {
    id: u16,
    out: &'a mut Vec<u8>,
    /// Where its records end.
    ends: Vec<usize>,
    dice: &'a mut Dice,
}

impl Writer<'_> {
    /// Writes a request with these parameters, and adds to it what a filter is to work on.
    fn write(mut self, request: &mut Request, sent: &Params, is_told: bool) {
        let role = request.role;
        self.begin(request.keep, role);
        let start = self.out.len();
        self.params(sent);
        let head_end = self.out.len();
        // Large ones are spliced.
        let record_max = self.dice.pick(&[8_000, 8_000, 65_535]);
        self.stream(STDIN, &request.body, record_max);
        if role != Role::Authorizer || self.dice.one_in(2) {
            self.end(STDIN);
        }
        if role == Role::Filter {
            let len = self.dice.pick(&[0, 100, 30_000]);
            request.data = stream_of_data(request.name, len);
            self.stream(DATA, &request.data, record_max);
            self.end(DATA);
        }
        match request.course {
            Course::Aborted => self.abort(),
            Course::Malformed => self.spoil(start, head_end, is_told),
            Course::Whole | Course::Denied => {}
        }
    }

    fn record(&mut self, kind: u8, content: &[u8], padding: u8) {
        push(self.out, kind, self.id, content, padding);
        self.ends.push(self.out.len());
    }

    fn begin(&mut self, keep: bool, role: Role) {
        self.record(BEGIN, &[0, role as u8, u8::from(keep), 0, 0, 0, 0, 0], 0);
    }

    fn params(&mut self, params: &Params) {
        let mut content = Vec::new();
        for (name, value) in params {
            push_pair(&mut content, name, value);
        }
        self.stream(PARAMS, &content, 30_000);
        self.end(PARAMS);
    }

    fn stream(&mut self, kind: u8, content: &[u8], record_max: u64) {
        let mut rest = content;
        while !rest.is_empty() {
            let len = match self.dice.below(3) {
                0 => self.dice.between(1, record_max),
                _ => record_max,
            };
            let (piece, behind) = rest.split_at(index(len).min(rest.len()));
            let padding = self.padding();
            self.record(kind, piece, padding);
            rest = behind;
        }
    }

    fn end(&mut self, kind: u8) {
        let padding = if self.dice.one_in(4) {
            self.padding()
        } else {
            0
        };
        self.record(kind, &[], padding);
    }

    fn padding(&mut self) -> u8 {
        let most = self.dice.pick(&[0, 7, 255]);
        u8::try_from(self.dice.below(most + 1)).expect("a padding")
    }

    /// Gives the request up behind one of its records.
    fn abort(&mut self) {
        let behind = usize::try_from(self.dice.below(self.ends.len() as u64)).expect("a few");
        self.out.truncate(self.ends[behind]);
        self.record(ABORT, &[], 0);
    }

    /// Makes the request one that must not be completed.
    fn spoil(&mut self, params_from: usize, head_end: usize, is_told: bool) {
        match self.dice.below(6) {
            0 => {
                self.out.truncate(params_from);
                self.record(PARAMS, &[200, 1, b'x'], 0);
                self.record(PARAMS, &[], 0);
            }
            1 => {
                self.out.truncate(head_end);
                let kind = self.dice.pick(&[STDOUT, END, 77]);
                self.record(kind, &[0; 8], 0);
            }
            2 => {
                self.out.truncate(head_end);
                self.begin(true, Role::Responder);
            }
            3 if is_told => {
                // More than CONTENT_LENGTH says, in front of the body's end.
                self.out.truncate(self.ends[self.ends.len() - 2]);
                self.record(STDIN, b"more", 0);
            }
            4 => {
                self.out.truncate(params_from);
                self.out.extend(b"GET / HTTP/1.1\r\n");
            }
            _ => {
                self.out.truncate(head_end);
                self.out.extend([0; 8]);
            }
        }
        // What comes after is for nobody.
        self.stream(STDIN, b"behind", 8);
        self.end(STDIN);
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("a script is short")
}
