//! One direction of a session: bytes from a source socket to a sink socket, in order, none lost.
//!
//! ```text
//!             Recv                 Send
//!   Copying  ------> Sending -----------> Copying            small exchanges
//!                       | a full buffer
//!                       v promote
//!            fill, flush                source empty
//!   Splicing ----------> Splicing ...  -------------> Copying if little came (demote)
//!                       | sink full                   Splicing if much did
//!                       v
//!                    Flushing (waits for the sink)
//! ```
//!
//! At most one buffer or one pipe is held, and nothing is read while it is: that is the
//! backpressure. Before the sink is open, one buffer waits in `Holding`.
//!
//! A source that has not turned Nagle's delay off holds the next piece of a message back until the last
//! one is acknowledged, and the kernel puts that off by 40 ms in the hope of bytes to send with it. Those
//! soon follow a message in one piece: the next question. So acknowledgements are hastened for sources
//! that have sent a message in several pieces, and for no others.
//!
//! Into a sink that takes no splices ([`Pipes::splices_into`](crate::driver::Pipes::splices_into)) everything is copied.
//!
//! A pipe is filled only while it is empty. Only then does EAGAIN mean that the source has nothing,
//! an end or an error of the source always finds the pipe empty, and nothing can be left behind.

use std::mem;

use crate::counters::FlowCounters;
use crate::driver::{BUFFER_BYTES, Buf, Driver, Filled, Flushed, Op, PIPE_BYTES, PipeGuard, Sock};
use crate::sys::Errno;

/// What one flow may splice before others have their turn: four pipes full. Small enough that a
/// fast transfer delays an exchange by some hundred microseconds at the most.
pub(super) const SPLICE_BUDGET_BYTES: usize = 1024 * 1024;

/// A splicing flow that moved less than this since it last waited is not bulk any more.
const DEMOTE_BELOW_BYTES: usize = BUFFER_BYTES;

/// One direction of a session.
pub(super) struct Flow<D: Driver> {
    state: State<D::Pipe>,
    messages: Messages,
    /// How the source is received from: by [`Op::Recv`] or [`Op::Peek`].
    receives: Receives,
    /// Bytes that the sink has taken.
    moved: u64,
}

/// What becomes of bytes that were received, in the socket that they came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Receives {
    /// They are taken out.
    Taking,
    /// They stay for a while, so that the source can be told of a failure ([`Op::Peek`]).
    Peeking,
}

/// How the source's messages come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Messages {
    /// Each in one piece so far.
    Whole {
        /// Whether something came since the source was last sent something: what comes next is another
        /// piece then.
        begun: bool,
    },
    /// At least one came in several.
    InPieces,
}

enum State<Pipe> {
    /// A receive is armed on the source, or will be once the source is open.
    Copying,
    /// What came before the sink was open, and how much of that is not the source's.
    Holding { buf: Buf, prepended: usize },
    /// A send is in flight on the sink. If it is a full buffer, it is taken for the start of bulk:
    /// where it is not, that costs one splice that finds nothing.
    Sending { full: bool, bytes: usize },
    /// Waits for the source to be readable. Holds no pipe meanwhile.
    Splicing,
    /// Waits for the sink to be writable; the pipe has bytes.
    Flushing(Pipe),
    /// The source ended, and every byte before that is the sink's.
    Ended,
    /// The sink takes no more; what the source still has is not read.
    Broken(Errno),
}

/// What became of a flow in one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// It goes on by itself.
    Going,
    /// The source ended, and every byte before that is the sink's, which does not know yet.
    Ended,
    /// The source is broken; what it gave before is the sink's.
    SourceFailed(Errno),
    /// The sink is broken: bytes were lost.
    SinkFailed(Errno),
}

impl<D: Driver> Flow<D> {
    pub(super) fn new(receives: Receives) -> Self {
        Self {
            state: State::Copying,
            messages: Messages::Whole { begun: false },
            receives,
            moved: 0,
        }
    }

    /// From the next receive on, bytes are taken.
    pub(super) fn take_from_now_on(&mut self) {
        self.receives = Receives::Taking;
    }

    /// Takes what is there already, or else arms the first receive.
    pub(super) fn start_with_what_came(
        &mut self,
        driver: &mut D,
        source: Sock,
        sink: Option<Sock>,
    ) -> Result<(), Errno> {
        let there = match self.receives {
            Receives::Taking => driver.receive_now(source)?,
            Receives::Peeking => driver.peek_now(source)?,
        };
        match there {
            Some(buf) => self.received(driver, buf, source, sink),
            None => self.start(driver, source),
        }
        Ok(())
    }

    /// Arms the first receive.
    pub(super) fn start(&mut self, driver: &mut D, source: Sock) {
        assert!(matches!(self.state, State::Copying), "a flow starts once");
        self.receive(driver, source);
    }

    fn receive(&self, driver: &mut D, source: Sock) {
        let op = match self.receives {
            Receives::Taking => Op::Recv,
            Receives::Peeking => Op::Peek,
        };
        driver.submit(source, op);
    }

    /// The source has bytes.
    pub(super) fn received(&mut self, driver: &mut D, buf: Buf, source: Sock, sink: Option<Sock>) {
        assert!(matches!(self.state, State::Copying), "the flow reads");
        match sink {
            Some(sink) => self.send(driver, buf, 0, sink),
            None => self.state = State::Holding { buf, prepended: 0 },
        }
        self.piece_came();
        self.acknowledge(driver, source);
    }

    fn piece_came(&mut self) {
        self.messages = match self.messages {
            Messages::Whole { begun: false } => Messages::Whole { begun: true },
            Messages::Whole { begun: true } | Messages::InPieces => Messages::InPieces,
        };
    }

    /// The next piece may wait for that.
    fn acknowledge(&self, driver: &mut D, source: Sock) {
        match self.messages {
            Messages::InPieces => driver.acknowledge(source),
            Messages::Whole { .. } => {}
        }
    }

    /// The source was sent something, by the flow in the other direction: what it says next is another
    /// message.
    pub(super) fn source_was_sent(&mut self) {
        if let Messages::Whole { begun } = &mut self.messages {
            *begun = false;
        }
    }

    /// Whether bytes wait for the sink to be open.
    pub(super) fn holds_bytes(&self) -> bool {
        matches!(self.state, State::Holding { .. })
    }

    /// How many of the source's bytes wait for the sink to be open.
    pub(super) fn held(&self) -> Option<usize> {
        match &self.state {
            State::Holding { buf, prepended } => Some(buf.len() - prepended),
            _ => None,
        }
    }

    /// Puts a few bytes before those that wait for the sink to be open, if any do.
    pub(super) fn prepend(&mut self, bytes: &[u8]) {
        if let State::Holding { buf, prepended } = &mut self.state {
            buf.prepend(bytes);
            *prepended += bytes.len();
        }
    }

    /// The source ended.
    pub(super) fn eof(&mut self) -> Progress {
        self.state = State::Ended;
        Progress::Ended
    }

    /// The sink is open now: what came before goes out.
    pub(super) fn sink_opened(&mut self, driver: &mut D, sink: Sock) {
        match mem::replace(&mut self.state, State::Copying) {
            State::Copying => {}
            State::Holding { buf, prepended } => self.send(driver, buf, prepended, sink),
            State::Ended => {
                driver.shutdown_write(sink);
                self.state = State::Ended;
            }
            State::Sending { .. } | State::Splicing | State::Flushing(_) | State::Broken(_) => {
                unreachable!("the sink was not open")
            }
        }
    }

    fn send(&mut self, driver: &mut D, buf: Buf, prepended: usize, sink: Sock) {
        self.state = State::Sending {
            full: buf.is_full(),
            bytes: buf.len() - prepended,
        };
        driver.submit(sink, Op::Send(buf));
    }

    /// The sink took what was sent. Whether that was a full buffer.
    pub(super) fn count_sent(&mut self, counters: &FlowCounters) -> bool {
        let State::Sending { full, bytes } = self.state else {
            unreachable!("a send was in flight")
        };
        counters.copied.add(bytes as u64);
        self.moved += bytes as u64;
        full
    }

    /// The sink took a whole buffer.
    pub(super) fn sent(
        &mut self,
        driver: &mut D,
        source: Sock,
        sink: Sock,
        counters: &FlowCounters,
    ) -> Progress {
        if self.count_sent(counters) && driver.splices_into(sink) {
            return self.promote(driver, source, sink, counters);
        }
        self.copy(driver, source);
        Progress::Going
    }

    /// Small exchanges from now on.
    fn copy(&mut self, driver: &mut D, source: Sock) {
        self.receive(driver, source);
        self.state = State::Copying;
    }

    fn promote(
        &mut self,
        driver: &mut D,
        source: Sock,
        sink: Sock,
        counters: &FlowCounters,
    ) -> Progress {
        self.state = State::Splicing;
        // What is spliced does not stay, so the last piece is not worth what keeping it would cost.
        self.receives = Receives::Taking;
        counters.promotions.add(1);
        self.pump_on(driver, source, sink, BUFFER_BYTES, counters)
    }

    /// Back to small exchanges: little came.
    fn demote(&mut self, driver: &mut D, source: Sock, counters: &FlowCounters) -> Progress {
        counters.demotions.add(1);
        self.copy(driver, source);
        Progress::Going
    }

    /// A splicing flow's source is readable, or its sink writable: moves what can be moved.
    pub(super) fn pump(
        &mut self,
        driver: &mut D,
        source: Sock,
        sink: Sock,
        counters: &FlowCounters,
    ) -> Progress {
        self.pump_on(driver, source, sink, 0, counters)
    }

    /// `moved` bytes have gone by since the flow last waited, among them the buffer that promoted it:
    /// so exchanges of a buffer's size are spliced from the second one on.
    fn pump_on(
        &mut self,
        driver: &mut D,
        source: Sock,
        sink: Sock,
        mut moved: usize,
        counters: &FlowCounters,
    ) -> Progress {
        let mut pipe = match mem::replace(&mut self.state, State::Splicing) {
            State::Flushing(pipe) => pipe,
            State::Splicing => match driver.pipe() {
                Some(pipe) => pipe,
                // Others have them all. It asks again after the next full buffer.
                None => {
                    counters.fallbacks.add(1);
                    self.copy(driver, source);
                    return Progress::Going;
                }
            },
            State::Copying
            | State::Holding { .. }
            | State::Sending { .. }
            | State::Ended
            | State::Broken(_) => {
                unreachable!("only a splicing flow waits for readiness")
            }
        };
        loop {
            let before = pipe.len();
            let flushed = driver.flush(&mut pipe, sink);
            let flown = before - pipe.len();
            counters.spliced.add(flown as u64);
            self.moved += flown as u64;
            moved += flown;
            match flushed {
                Flushed::All => {}
                Flushed::Full => {
                    self.state = State::Flushing(pipe);
                    driver.submit(sink, Op::Writable);
                    return Progress::Going;
                }
                Flushed::Failed(errno) => return Progress::SinkFailed(errno),
            }
            if moved >= SPLICE_BUDGET_BYTES {
                driver.submit(source, Op::Readable);
                return Progress::Going;
            }
            match driver.fill(source, &mut pipe, PIPE_BYTES) {
                Filled::Bytes(_) => self.piece_came(),
                Filled::Empty if moved < DEMOTE_BELOW_BYTES => {
                    self.acknowledge(driver, source);
                    return self.demote(driver, source, counters);
                }
                Filled::Empty => {
                    self.acknowledge(driver, source);
                    driver.submit(source, Op::Readable);
                    return Progress::Going;
                }
                // A receive shall say so, in its turn: the failure of a send that took the socket's
                // error with it, and so left what looks like an end, may still be in the queue.
                Filled::Eof => {
                    self.copy(driver, source);
                    return Progress::Going;
                }
                Filled::Failed(errno) => return Progress::SourceFailed(errno),
            }
        }
    }

    /// The sink takes no more. What it was sent may be lost; what the source has stays unread.
    pub(super) fn break_off(&mut self, errno: Errno) {
        self.state = State::Broken(errno);
    }

    /// Why the sink takes no more, if so.
    pub(super) fn broken(&self) -> Option<Errno> {
        match self.state {
            State::Broken(errno) => Some(errno),
            _ => None,
        }
    }

    /// Bytes of the source's that the sink has taken.
    pub(super) fn bytes_moved(&self) -> u64 {
        self.moved
    }

    /// Whether bytes wait for the sink to take them.
    pub(super) fn waits_for_sink(&self) -> bool {
        match &self.state {
            State::Sending { .. } | State::Flushing(_) => true,
            State::Copying
            | State::Holding { .. }
            | State::Splicing
            | State::Ended
            | State::Broken(_) => false,
        }
    }

    /// Whether nothing will move any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Ended | State::Broken(_))
    }

    /// Whether bytes that the source gave are not the sink's: ending now loses them.
    pub(super) fn owes_bytes(&self) -> bool {
        match &self.state {
            State::Holding { .. } | State::Sending { .. } | State::Broken(_) => true,
            State::Flushing(pipe) => !pipe.is_empty(),
            State::Copying | State::Splicing | State::Ended => false,
        }
    }
}
