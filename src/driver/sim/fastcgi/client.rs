//! Simulated clients: a few requests, one after another, in any manner that a web server has, and in
//! some that none should have.

use std::ops::Range;
use std::rc::Rc;

use crate::fastcgi::Answer;

use super::super::dice::Dice;
use super::super::peer::{PlannedEnding, stream_byte};
use super::records::{
    ABORT, BEGIN, END, GET_VALUES, GET_VALUES_RESULT, PARAMS, STDERR, STDIN, STDOUT, push,
    push_pair,
};
use super::{Name, Request, answer_of_proxy};

/// The name that the fence asks for, and clients do.
pub(super) const ASKED: &[u8; 15] = b"FCGI_MPXS_CONNS";

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
    /// The requests that were answered whole, and where their answers end in what it was given.
    answer_ends: Vec<u64>,
    answer: Reading,
    /// What is still to come of the proxy's answer to a question.
    reply: Vec<u8>,
    /// How often it asks for our capacity. Whether that is answered is left open.
    queries: usize,
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
    Answer(Vec<u8>),
    /// The proxy has answered for itself. Nothing may come after that.
    Over,
}

impl Client {
    /// The client with this key.
    pub(super) fn new(key: usize, dice: &mut Dice) -> Self {
        let mut client = Self {
            script: Vec::new(),
            requests: Vec::new(),
            answer_ends: Vec::new(),
            answer: Reading::Answer(Vec::new()),
            reply: Vec::new(),
            queries: 0,
        };
        let count = dice.between(1, 4);
        for number in 0..count {
            let from = client.script.len() as u64;
            if dice.one_in(12) {
                client.queries += 1;
                let mut content = Vec::new();
                push_pair(&mut content, ASKED, b"");
                push(&mut client.script, GET_VALUES, 0, &content, 0);
            }
            let name = Name(key, usize::try_from(number).expect("a few"));
            let request = write_request(name, number + 1 == count, dice, &mut client.script);
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

    /// Whether it has read all answers.
    pub(in super::super) fn is_served(&self, read: u64) -> bool {
        self.answered(read) == self.requests.len()
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
    pub(super) fn is_within_answer(&self) -> bool {
        match &self.answer {
            Reading::Answer(heard) => !heard.is_empty() || !self.reply.is_empty(),
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

    /// Takes in what the proxy gives it. `backend`: what the backend that serves the current request has
    /// for it, and whether that is all. Returns how many of the bytes are accounted for.
    pub(super) fn hear(
        &mut self,
        bytes: &[u8],
        given: u64,
        backend: Option<(&[u8], bool)>,
    ) -> usize {
        if self.is_asked_for(bytes) {
            self.reply = reply();
            self.queries -= 1;
        }
        if !self.reply.is_empty() {
            let len = fitting(&self.reply, bytes);
            self.reply.drain(..len);
            return len;
        }
        let id = self.waits_for().map(|request| request.id);
        let is_denied = self
            .waits_for()
            .is_some_and(|request| request.course == Course::Denied);
        let (Reading::Answer(heard), Some(id)) = (&mut self.answer, id) else {
            return 0;
        };
        let of_backend = backend.map(|(whole, is_all)| (whole.to_vec(), is_all, false));
        let own = own_answers(heard, id, is_denied);
        let own = own.into_iter().map(|own| (own, true, true));
        for (whole, is_all, is_own) in of_backend.into_iter().chain(own) {
            let len = whole
                .strip_prefix(&heard[..])
                .map_or(0, |rest| fitting(rest, bytes));
            if len == 0 {
                continue;
            }
            heard.extend(&bytes[..len]);
            if is_all && heard.len() == whole.len() {
                self.answer_ends.push(given + len as u64);
                self.answer = match is_own {
                    true => Reading::Over,
                    false => Reading::Answer(Vec::new()),
                };
            }
            return len;
        }
        0
    }

    /// Whether the answer to one of its questions begins here, between two records.
    fn is_asked_for(&self, bytes: &[u8]) -> bool {
        let is_between = match &self.answer {
            Reading::Answer(heard) => record_ends(heard).last() == Some(&heard.len()),
            Reading::Over => false,
        };
        self.queries > 0
            && self.reply.is_empty()
            && is_between
            && bytes.starts_with(&[1, GET_VALUES_RESULT])
    }
}

/// How many of the bytes are what is to come; none, if one of them is not.
fn fitting(rest: &[u8], bytes: &[u8]) -> usize {
    let len = rest.len().min(bytes.len());
    if rest[..len] == bytes[..len] { len } else { 0 }
}

/// What the proxy says of itself.
fn reply() -> Vec<u8> {
    let mut content = Vec::new();
    push_pair(&mut content, ASKED, b"0");
    let mut reply = Vec::new();
    push(&mut reply, GET_VALUES_RESULT, 0, &content, 6);
    // Its padding is zeros.
    let padding = reply.len() - 6;
    reply[padding..].fill(0);
    reply
}

/// What the proxy may say for itself when the client has heard this much. It can come behind what a
/// backend had written to STDERR.
fn own_answers(heard: &[u8], id: u16, is_denied: bool) -> Vec<Vec<u8>> {
    let is_stderr = |at: &usize| heard.get(at + 1) == Some(&STDERR);
    let ends = record_ends(heard);
    let stderr = ends.iter().take_while(|at| is_stderr(at)).count();
    let starts = &ends[..ends.len().min(stderr + 1)];
    let answers: &[Answer] = match is_denied {
        true => &[Answer::Forbidden],
        false => &[Answer::BadGateway, Answer::Unavailable],
    };
    let mut own = Vec::new();
    for answer in answers {
        let answer = answer_of_proxy(*answer, id);
        own.extend(starts.iter().map(|at| [&heard[..*at], &answer].concat()));
    }
    own
}

/// Where records begin or end.
fn record_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![0];
    let mut at = 0;
    while let Some([_, _, _, _, high, low, padding, _]) = bytes[at..].first_chunk::<8>() {
        at += 8 + usize::from(u16::from_be_bytes([*high, *low])) + usize::from(*padding);
        if at > bytes.len() {
            break;
        }
        ends.push(at);
    }
    ends
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

fn write_request(name: Name, is_last: bool, dice: &mut Dice, out: &mut Vec<u8>) -> Request {
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
    let method: &[u8] = dice.pick(&[&b"GET"[..], b"HEAD", b"POST"]);
    let body_len = match dice.below(8) {
        0 if method == b"POST" => dice.between(3_000, 120_000),
        0..5 if method == b"POST" => dice.between(0, 3_000),
        0 => {
            let most = dice.pick(&[2_000, 2_000, 120_000]);
            dice.between(1, most)
        }
        _ => 0,
    };
    let body = body(name, body_len);
    let mut params: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (b"SIM_REQUEST".to_vec(), name.to_string().into_bytes()),
        (b"REQUEST_METHOD".to_vec(), method.to_vec()),
    ];
    let is_told = !body.is_empty() && dice.below(4) > 0;
    if is_told {
        let len = body.len().to_string().into_bytes();
        params.push((b"CONTENT_LENGTH".to_vec(), len));
    }
    if dice.one_in(3) {
        let len = dice.pick(&[0, 10, 127, 128, 300, 16_200, 20_000]);
        params.push((b"HTTP_COOKIE".to_vec(), vec![b'c'; len]));
    }
    let mut sent = params.clone();
    if course == Course::Denied {
        let place = usize::try_from(dice.below(sent.len() as u64 + 1)).expect("a few");
        let name = dice.pick(&[&b"PHP_VALUE"[..], b"PHP_ADMIN_VALUE"]);
        sent.insert(place, (name.to_vec(), b"auto_prepend_file=x".to_vec()));
    }
    if dice.one_in(4) {
        let place = usize::try_from(dice.below(sent.len() as u64 + 1)).expect("a few");
        sent.insert(place, (b"HTTP_PROXY".to_vec(), b"http://x".to_vec()));
    }
    let mut writer = Writer {
        id,
        out,
        ends: Vec::new(),
        dice,
    };
    writer.begin(keep);
    let start = writer.out.len();
    writer.params(&sent);
    let head_end = writer.out.len();
    // Large ones are spliced.
    let record_max = writer.dice.pick(&[8_000, 8_000, 65_535]);
    writer.stream(STDIN, &body, record_max);
    writer.end(STDIN);
    match course {
        Course::Aborted => writer.abort(),
        Course::Malformed => writer.spoil(start, head_end, is_told),
        Course::Whole | Course::Denied => {}
    }
    Request {
        name,
        id,
        keep,
        may_be_repeated: method != b"POST",
        params,
        body,
        course,
    }
}

struct Writer<'a> {
    id: u16,
    out: &'a mut Vec<u8>,
    /// Where its records end.
    ends: Vec<usize>,
    dice: &'a mut Dice,
}

impl Writer<'_> {
    fn record(&mut self, kind: u8, content: &[u8], padding: u8) {
        push(self.out, kind, self.id, content, padding);
        self.ends.push(self.out.len());
    }

    fn begin(&mut self, keep: bool) {
        self.record(BEGIN, &[0, 1, u8::from(keep), 0, 0, 0, 0, 0], 0);
    }

    fn params(&mut self, params: &[(Vec<u8>, Vec<u8>)]) {
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
                self.begin(true);
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
