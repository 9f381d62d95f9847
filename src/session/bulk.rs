//! Large records, whose content goes through a pipe instead of through memory.
//!
//! What is in a record need not be read, only where it ends: so much is spliced. The header of the next
//! one is looked at while it is still in the socket, and if that record is large as well, it is spliced
//! with its content. Everything else is received, and read.
//!
//! As in a raw flow, a pipe is held only while bytes are in it, and is filled only while it is empty.

use crate::counters::FlowCounters;
use crate::driver::{BUFFER_BYTES, Driver, Filled, Flushed, PipeGuard, Sock};
use crate::fastcgi::{HEADER_LEN, RequestReader, ResponseReader};
use crate::sys::Errno;

use super::flow::SPLICE_BUDGET_BYTES;

/// What is left of a record, or all of it, is spliced if it would not fit into a buffer.
const SPLICE_MIN: usize = BUFFER_BYTES;

/// A reader of records that need not pass through it.
pub(super) trait Records {
    /// How many of the bytes that come next belong to such a record.
    fn passable(&self) -> usize;
    /// So many of them went through a pipe.
    fn passed(&mut self, bytes: usize);
    /// Begins a record by its header, which was not taken yet, if it is one with so much content.
    fn pass_next(&mut self, header: [u8; HEADER_LEN], content_min: usize) -> bool;
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
    let passable = records.passable();
    // Between two records, the next one decides.
    passable == 0 || passable >= SPLICE_MIN
}

/// Moves what can be moved. `held` is the pipe with bytes in it, if the sink took not all of them the
/// last time.
pub(super) fn pump<D: Driver>(
    held: &mut Option<D::Pipe>,
    driver: &mut D,
    source: Sock,
    sink: Sock,
    records: &mut impl Records,
    counters: &FlowCounters,
) -> Pumped {
    let (mut taken, mut given) = (0, 0);
    let then = loop {
        if let Some(pipe) = held {
            let before = pipe.len();
            let flushed = driver.flush(pipe, sink);
            given += before - pipe.len();
            match flushed {
                Flushed::All => {}
                Flushed::Full => break Then::SinkWritable,
                Flushed::Failed(errno) => break Then::SinkFailed(errno),
            }
        }
        let at_hand = at_hand(driver, source, records);
        if at_hand == 0 {
            break Then::Receive;
        }
        if given >= SPLICE_BUDGET_BYTES {
            break Then::SourceReadable;
        }
        let pipe = match held {
            Some(pipe) => pipe,
            None => match driver.pipe() {
                Some(pipe) => held.insert(pipe),
                // Others have them all.
                None => {
                    counters.fallbacks.add(1);
                    break Then::Receive;
                }
            },
        };
        match driver.fill(source, pipe, at_hand) {
            Filled::Bytes(bytes) => {
                records.passed(bytes);
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
    counters.spliced.add(given as u64);
    if then != Then::SinkWritable {
        *held = None;
    }
    Pumped { taken, then }
}

/// How many of the bytes that come next are to be spliced.
fn at_hand<D: Driver>(driver: &mut D, source: Sock, records: &mut impl Records) -> usize {
    let mut header = [0; HEADER_LEN];
    if records.passable() == 0 && driver.peek(source, &mut header) == HEADER_LEN {
        records.pass_next(header, SPLICE_MIN);
    }
    records.passable()
}

impl Records for ResponseReader {
    fn passable(&self) -> usize {
        self.passable()
    }

    fn passed(&mut self, bytes: usize) {
        self.passed(bytes);
    }

    fn pass_next(&mut self, header: [u8; HEADER_LEN], content_min: usize) -> bool {
        self.pass_next(header, content_min)
    }
}

impl Records for RequestReader {
    fn passable(&self) -> usize {
        self.passable()
    }

    fn passed(&mut self, bytes: usize) {
        self.passed(bytes);
    }

    fn pass_next(&mut self, header: [u8; HEADER_LEN], content_min: usize) -> bool {
        self.pass_next(header, content_min)
    }
}
