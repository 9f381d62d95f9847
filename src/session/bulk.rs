//! Large records, whose content goes through a pipe instead of through memory.
//!
//! What is in a record need not be read, only where it ends: so much is spliced. The header of the next
//! one is looked at while it is still in the socket, and if that record is large as well, it is spliced
//! with its content. Everything else is received, and read.
//!
//! An answer goes on in records that are whole at any moment (see [`ResponseReader`]): of a record that is
//! not all at hand, what is there goes on behind a header of our own, which is in the pipe before it: a send of
//! its own would wake the client for eight bytes.
//!
//! As in a raw flow, a pipe is held only while bytes are in it, and is filled only while it is empty. For a sink
//! that takes no splices, everything is received.

use crate::counters::FlowCounters;
use crate::driver::{
    BUFFER_BYTES, Buf, Driver, Filled, Flushed, OWN_BYTES_MAX, PIPE_BYTES, PipeGuard, Sock,
};
use crate::fastcgi::{HEADER_LEN, Header, RequestReader, ResponseReader};
use crate::sys::Errno;

use super::flow::SPLICE_BUDGET_BYTES;

/// What is left of a record, or all of it, is spliced if it would not fit into a buffer.
const SPLICE_MIN: usize = BUFFER_BYTES;

/// The most that one header of our own announces: all of it fits into the pipe behind that.
const PIECE_MAX: usize = PIPE_BYTES - OWN_BYTES_MAX;

/// What comes next in a record that need not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ahead {
    /// It has to be read.
    Unknown,
    /// So many bytes, header and padding included, which go on as they come.
    AsTheyCome(usize),
    /// So many bytes of content, which go on behind a header of our own.
    Framed(usize),
}

impl Ahead {
    fn len(self) -> usize {
        match self {
            Self::Unknown => 0,
            Self::AsTheyCome(len) | Self::Framed(len) => len,
        }
    }
}

/// A reader of records that need not pass through it.
pub(super) trait Records {
    /// Whether what follows the last large record goes out with it, if it is there already: the end of an
    /// answer, for which the client would be woken once more.
    const HAS_TAIL: bool;
    /// What comes next of the current record.
    fn ahead(&self) -> Ahead;
    /// Whether the next byte of the source begins a record.
    fn is_between(&self) -> bool;
    /// Begins a record by its header, which was not taken yet, if it is one that need not be read.
    fn begin<D: Driver>(&mut self, header: [u8; HEADER_LEN], driver: &mut D, source: Sock);
    /// The header of so many of the bytes ahead, which are at hand, and from then on go as they come.
    fn header_for(&mut self, bytes: usize) -> [u8; HEADER_LEN];
    /// So many of the bytes ahead went through a pipe.
    fn took(&mut self, bytes: usize);
}

/// A pipe with bytes in it, and what is to be sent before and behind them and found no room in it.
pub(super) struct Held<P> {
    pipe: P,
    before: Vec<u8>,
    behind: Vec<u8>,
}

impl<P: PipeGuard> Held<P> {
    fn new(pipe: P) -> Self {
        Self {
            pipe,
            before: Vec::new(),
            behind: Vec::new(),
        }
    }

    /// Bytes that the sink has not taken yet.
    pub(super) fn len(&self) -> usize {
        self.before.len() + self.pipe.len() + self.behind.len()
    }

    /// Puts bytes behind what is held.
    pub(super) fn append<D: Driver<Pipe = P>>(&mut self, driver: &mut D, bytes: &[u8]) {
        for part in bytes.chunks(OWN_BYTES_MAX) {
            if !self.behind.is_empty() || !driver.put(&mut self.pipe, part) {
                self.behind.extend_from_slice(part);
            }
        }
    }
}

/// What [`pump`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pumped {
    /// Bytes that the source gave.
    pub(super) taken: usize,
    /// Bytes that the sink took out of the pipe.
    pub(super) given: usize,
    pub(super) then: Resume,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Resume {
    /// What comes next is to be received.
    Receive,
    /// Once the source has more. It may have: then others had to have their turn.
    SourceReadable,
    /// Once the sink has room.
    SinkWritable,
    /// The source is broken; what it gave before is the sink's.
    SourceFailed(Errno),
    /// The sink is broken: bytes were lost.
    SinkFailed(Errno),
}

impl Pumped {
    /// Counts changes between copying and splicing. `first`: what came before was received.
    pub(super) fn count(self, first: bool, counters: &FlowCounters) {
        let nothing_changed = first && self.taken == 0;
        if first && !nothing_changed {
            counters.promotions.add(1);
        }
        if self.then == Resume::Receive && !nothing_changed {
            counters.demotions.add(1);
        }
    }
}

/// Whether to go on with [`pump`] after a full buffer was received and sent.
pub(super) fn is_worth_it(records: &impl Records) -> bool {
    // Between two records, the next one decides.
    records.is_between() || records.ahead().len() >= SPLICE_MIN
}

/// Whether so many bytes, all that are there, are to go out with what is in the pipe.
fn is_tail(at_hand: usize) -> bool {
    (1..=OWN_BYTES_MAX).contains(&at_hand)
}

/// Whether a large record has begun, and what comes next is its content. Who has sent that much sends the rest
/// at once, and what came before it may wait for that.
pub(super) fn is_about_to_come(response: &ResponseReader) -> bool {
    response.awaits_content() && response.framable() >= SPLICE_MIN
}

/// Moves what can be moved, behind `lead`. `held` is the pipe with bytes in it, if the sink took not all of
/// them the last time, or if they are to go out with what is to be received next.
pub(super) fn pump<D: Driver, R: Records>(
    lead: &mut Option<Buf>,
    held: &mut Option<Held<D::Pipe>>,
    driver: &mut D,
    source: Sock,
    sink: Sock,
    records: &mut R,
    counters: &FlowCounters,
) -> Pumped {
    let (mut taken, mut given) = (0, 0);
    let then = loop {
        if let Some(held) = held {
            let before = held.pipe.len();
            let flushed = flush(held, driver, sink, counters);
            given += before - held.pipe.len();
            match flushed {
                Flushed::All => {}
                Flushed::Full => break Resume::SinkWritable,
                Flushed::Failed(errno) => break Resume::SinkFailed(errno),
            }
        } else if !driver.splices_into(sink) {
            break Resume::Receive;
        }
        let Some(next) = look_ahead(driver, source, records) else {
            break Resume::Receive;
        };
        // A record that goes on as it comes is not left half done.
        if given >= SPLICE_BUDGET_BYTES && !matches!(records.ahead(), Ahead::AsTheyCome(_)) {
            break Resume::SourceReadable;
        }
        let Some(held) = held_or_new(held, driver, counters) else {
            break Resume::Receive;
        };
        if let Next::Header(header) = next {
            records.begin(header, driver, source);
        }
        let ahead = records.ahead().len();
        if ahead == 0 {
            break Resume::Receive;
        }
        announce(held, lead, driver, source, records);
        match driver.fill(source, &mut held.pipe, ahead.min(records.ahead().len())) {
            Filled::Bytes(bytes) => {
                if matches!(records.ahead(), Ahead::Framed(_)) {
                    // It came in this moment.
                    held.before = before(lead.take(), Some(records.header_for(bytes)));
                }
                records.took(bytes);
                taken += bytes;
                if R::HAS_TAIL && records.is_between() && is_tail(driver.at_hand(source)) {
                    break Resume::Receive;
                }
            }
            // It can't be, and the receive will find what was promised.
            Filled::Empty | Filled::Eof if !held.pipe.is_empty() => continue,
            // Little comes at a time: a receive waits for it and takes it at once.
            Filled::Empty if given < SPLICE_MIN => break Resume::Receive,
            Filled::Empty => break Resume::SourceReadable,
            // A receive shall say so: see the same in a raw flow.
            Filled::Eof => break Resume::Receive,
            Filled::Failed(errno) => break Resume::SourceFailed(errno),
        }
    };
    match then {
        Resume::SinkWritable => {}
        Resume::Receive if held.as_ref().is_some_and(|held| !held.pipe.is_empty()) => {}
        _ => *held = None,
    }
    Pumped { taken, given, then }
}

/// The pipe that is held, or another one. `None`: others have them all.
fn held_or_new<'a, D: Driver>(
    held: &'a mut Option<Held<D::Pipe>>,
    driver: &mut D,
    counters: &FlowCounters,
) -> Option<&'a mut Held<D::Pipe>> {
    if held.is_none() {
        *held = driver.pipe().map(Held::new);
        counters.fallbacks.add(u64::from(held.is_none()));
    }
    held.as_mut()
}

/// What goes before the bytes that come next, put into the pipe if those are at hand.
fn announce<D: Driver>(
    held: &mut Held<D::Pipe>,
    lead: &mut Option<Buf>,
    driver: &mut D,
    source: Sock,
    records: &mut impl Records,
) {
    let header = match records.ahead() {
        Ahead::Framed(len) => match driver.at_hand(source).min(len).min(PIECE_MAX) {
            0 => return,
            bytes => Some(records.header_for(bytes)),
        },
        Ahead::AsTheyCome(_) | Ahead::Unknown => None,
    };
    let before = before(lead.take(), header);
    if !before.is_empty() && !driver.put(&mut held.pipe, &before) {
        held.before = before;
    }
}

fn before(lead: Option<Buf>, header: Option<[u8; HEADER_LEN]>) -> Vec<u8> {
    let mut before = lead.map(|lead| lead.to_vec()).unwrap_or_default();
    before.extend(header.into_iter().flatten());
    before
}

/// Gives the sink what is held for it.
pub(super) fn flush<D: Driver>(
    held: &mut Held<D::Pipe>,
    driver: &mut D,
    sink: Sock,
    counters: &FlowCounters,
) -> Flushed {
    if !held.before.is_empty() {
        match driver.send_now(sink, &held.before) {
            Ok(()) => {
                counters.copied.add(held.before.len() as u64);
                held.before.clear();
            }
            Err(Errno(libc::EAGAIN)) => return Flushed::Full,
            Err(errno) => return Flushed::Failed(errno),
        }
    }
    let (len, spliced) = (held.pipe.len(), held.pipe.spliced());
    let flushed = driver.flush(&mut held.pipe, sink);
    let (moved, spliced) = (len - held.pipe.len(), spliced - held.pipe.spliced());
    counters.spliced.add(spliced as u64);
    counters.copied.add((moved - spliced) as u64);
    if flushed != Flushed::All {
        return flushed;
    }
    while !held.behind.is_empty() {
        let now = held.behind.len().min(OWN_BYTES_MAX);
        match driver.send_now(sink, &held.behind[..now]) {
            Ok(()) => {
                counters.copied.add(now as u64);
                held.behind.drain(..now);
            }
            Err(Errno(libc::EAGAIN)) => return Flushed::Full,
            Err(errno) => return Flushed::Failed(errno),
        }
    }
    Flushed::All
}

/// What comes next that is to be spliced.
enum Next {
    /// What is ahead of the current record.
    OfRecord,
    /// Maybe the record with this header, which is large.
    Header([u8; HEADER_LEN]),
}

fn look_ahead<D: Driver>(driver: &mut D, source: Sock, records: &impl Records) -> Option<Next> {
    if records.ahead() != Ahead::Unknown {
        return Some(Next::OfRecord);
    }
    let mut header = [0; HEADER_LEN];
    let is_there = records.is_between() && driver.peek(source, &mut header) == HEADER_LEN;
    let is_large = is_there && content_len(header) >= SPLICE_MIN;
    is_large.then_some(Next::Header(header))
}

impl Records for ResponseReader {
    const HAS_TAIL: bool = true;

    fn ahead(&self) -> Ahead {
        match (self.passable(), self.framable()) {
            (0, 0) => Ahead::Unknown,
            (0, framable) => Ahead::Framed(framable),
            (passable, _) => Ahead::AsTheyCome(passable),
        }
    }

    fn is_between(&self) -> bool {
        self.is_at_header()
    }

    fn begin<D: Driver>(&mut self, header: [u8; HEADER_LEN], driver: &mut D, source: Sock) {
        let Some(len) = self.output_len(header) else {
            return;
        };
        let has_begun = if driver.at_hand(source) >= len {
            self.pass_next(header)
        } else if driver.skip(source, HEADER_LEN) {
            self.frame_next(header)
        } else {
            // A header that is there is taken whole, or not at all: then a receive tells why.
            return;
        };
        assert!(has_begun, "it is output, and nothing else is open");
    }

    fn header_for(&mut self, bytes: usize) -> [u8; HEADER_LEN] {
        self.promise(bytes)
    }

    fn took(&mut self, bytes: usize) {
        self.passed(bytes);
    }
}

impl Records for RequestReader {
    const HAS_TAIL: bool = false;

    fn ahead(&self) -> Ahead {
        match self.passable() {
            0 => Ahead::Unknown,
            passable => Ahead::AsTheyCome(passable),
        }
    }

    fn is_between(&self) -> bool {
        self.passable() == 0
    }

    fn begin<D: Driver>(&mut self, header: [u8; HEADER_LEN], _driver: &mut D, _source: Sock) {
        self.pass_next(header, SPLICE_MIN);
    }

    fn header_for(&mut self, _bytes: usize) -> [u8; HEADER_LEN] {
        unreachable!("a request goes on as it comes")
    }

    fn took(&mut self, bytes: usize) {
        self.passed(bytes);
    }
}

fn content_len(header: [u8; HEADER_LEN]) -> usize {
    Header::decode(header).map_or(0, |header| usize::from(header.content_len))
}
