//! Large records, whose content goes through a pipe instead of through memory.
//!
//! What is in a record need not be read, only where it ends: so much is spliced. The header of the next
//! one is looked at while it is still in the socket, and if that record is large as well, it is spliced
//! with its content. Everything else is received, and read.
//!
//! An answer goes on in records that are whole at any moment (see [`ResponseReader`]): of a record that is
//! not all at hand, what is there goes on behind a header of our own.
//!
//! As in a raw flow, a pipe is held only while bytes are in it, and is filled only while it is empty.

use crate::counters::FlowCounters;
use crate::driver::{BUFFER_BYTES, Driver, Filled, Flushed, PipeGuard, Sock};
use crate::fastcgi::{HEADER_LEN, Header, RequestReader, ResponseReader};
use crate::sys::Errno;

use super::flow::SPLICE_BUDGET_BYTES;

/// What is left of a record, or all of it, is spliced if it would not fit into a buffer.
const SPLICE_MIN: usize = BUFFER_BYTES;

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
    /// What comes next of the current record.
    fn ahead(&self) -> Ahead;
    /// Whether the next byte of the source begins a record.
    fn is_between(&self) -> bool;
    /// Begins a record by its header, which was not taken yet, if it is one that need not be read.
    fn begin<D: Driver>(&mut self, header: [u8; HEADER_LEN], driver: &mut D, source: Sock);
    /// So many of the bytes ahead went through a pipe. Returns the header that they are to follow.
    fn took(&mut self, bytes: usize) -> Option<[u8; HEADER_LEN]>;
}

/// A pipe with bytes in it, and a header to be sent before them.
pub(super) struct Held<P> {
    pipe: P,
    header: Option<[u8; HEADER_LEN]>,
}

/// What [`pump`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pumped {
    /// Bytes that the source gave.
    pub(super) taken: usize,
    pub(super) then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
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
        if self.then == Then::Receive && !nothing_changed {
            counters.demotions.add(1);
        }
    }
}

/// Whether to go on with [`pump`] after a full buffer was received and sent.
pub(super) fn is_worth_it(records: &impl Records) -> bool {
    // Between two records, the next one decides.
    records.is_between() || records.ahead().len() >= SPLICE_MIN
}

/// Moves what can be moved. `held` is the pipe with bytes in it, if the sink took not all of them the
/// last time.
pub(super) fn pump<D: Driver>(
    held: &mut Option<Held<D::Pipe>>,
    driver: &mut D,
    source: Sock,
    sink: Sock,
    records: &mut impl Records,
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
                Flushed::Full => break Then::SinkWritable,
                Flushed::Failed(errno) => break Then::SinkFailed(errno),
            }
        }
        let Some(next) = look_ahead(driver, source, records) else {
            break Then::Receive;
        };
        // A record that goes on as it comes is not left half done.
        if given >= SPLICE_BUDGET_BYTES && !matches!(records.ahead(), Ahead::AsTheyCome(_)) {
            break Then::SourceReadable;
        }
        let held = match held {
            Some(held) => held,
            None => match driver.pipe() {
                Some(pipe) => held.insert(Held { pipe, header: None }),
                // Others have them all.
                None => {
                    counters.fallbacks.add(1);
                    break Then::Receive;
                }
            },
        };
        if let Next::Header(header) = next {
            records.begin(header, driver, source);
        }
        let at_hand = records.ahead().len();
        if at_hand == 0 {
            break Then::Receive;
        }
        match driver.fill(source, &mut held.pipe, at_hand) {
            Filled::Bytes(bytes) => {
                held.header = records.took(bytes);
                taken += bytes;
            }
            // Little comes at a time: a receive waits for it and takes it at once.
            Filled::Empty if given < SPLICE_MIN => break Then::Receive,
            Filled::Empty => break Then::SourceReadable,
            // A receive shall say so: see the same in a raw flow.
            Filled::Eof => break Then::Receive,
            Filled::Failed(errno) => break Then::SourceFailed(errno),
        }
    };
    if then != Then::SinkWritable {
        *held = None;
    }
    Pumped { taken, then }
}

/// Gives the sink what is held for it.
pub(super) fn flush<D: Driver>(
    held: &mut Held<D::Pipe>,
    driver: &mut D,
    sink: Sock,
    counters: &FlowCounters,
) -> Flushed {
    if let Some(header) = held.header {
        match driver.send_now(sink, &header) {
            Ok(()) => {
                held.header = None;
                counters.copied.add(HEADER_LEN as u64);
            }
            Err(Errno(libc::EAGAIN)) => return Flushed::Full,
            Err(errno) => return Flushed::Failed(errno),
        }
    }
    let before = held.pipe.len();
    let flushed = driver.flush(&mut held.pipe, sink);
    counters.spliced.add((before - held.pipe.len()) as u64);
    flushed
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
        } else {
            // A header that is there is taken whole.
            driver.skip(source, HEADER_LEN) && self.frame_next(header)
        };
        assert!(has_begun, "it is output, and nothing else is open");
    }

    fn took(&mut self, bytes: usize) -> Option<[u8; HEADER_LEN]> {
        match self.ahead() {
            Ahead::Framed(_) => Some(self.frame(bytes)),
            Ahead::AsTheyCome(_) | Ahead::Unknown => {
                self.passed(bytes);
                None
            }
        }
    }
}

impl Records for RequestReader {
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

    fn took(&mut self, bytes: usize) -> Option<[u8; HEADER_LEN]> {
        self.passed(bytes);
        None
    }
}

fn content_len(header: [u8; HEADER_LEN]) -> usize {
    Header::decode(header).map_or(0, |header| usize::from(header.content_len))
}
