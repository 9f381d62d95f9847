//! One client: a connection or none, and the request that it is busy with.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::time::Instant;

use mio::net::{TcpStream, UnixStream};
use mio::{Registry, Token};

use super::answer::{Answer, Measure, Verdict};
use super::plan::Connections;
use super::problem::{Doing, Problem};
use super::request::Template;
use crate::net::{Arrival, Received, Stream, Watch};

/// Where a client connects, ready for the system call.
#[derive(Debug)]
pub(super) enum Address {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(UnixAddr),
}

/// Which request a client is to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    /// Its number in the load, from 1.
    pub(super) number: u64,
    /// What makes it different from the others.
    pub(super) nonce: u64,
    /// When it was to be sent.
    pub(super) intended: Instant,
}

/// One client of a load.
pub(super) struct Client {
    state: State,
    due: Due,
    connection: Option<Connection>,
    answer: Answer,
}

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing; its connection, if it has one, is quiet.
    Free,
    /// Waiting for room in the backlog of a Unix socket, which nobody tells.
    Queueing,
    /// Sending a request and receiving the answer.
    Exchanging,
    /// Waiting for the other side to close, after a complete answer.
    Closing,
}

/// An open connection.
struct Connection {
    stream: Stream,
    watch: Watch,
    arrival: Arrival,
    /// Bytes of the current request that the kernel has taken.
    sent: u64,
    /// Whether it has carried an answer before.
    age: Age,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Fresh,
    Used,
}

/// What a step has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The client has to wait.
    Waiting,
    /// The answer is there; the client still waits for the end of the connection.
    Answered,
    /// The answer is there and the client is free.
    AnsweredAndFree,
    /// The connection has ended after its answer, and the client is free.
    Freed,
}

/// What the clients of a thread share.
pub(super) struct Context<'a> {
    pub(super) registry: &'a Registry,
    pub(super) token: Token,
    pub(super) address: &'a Address,
    pub(super) connections: Connections,
    pub(super) template: &'a mut Template,
    pub(super) measure: &'a Measure,
    /// Received into; nothing stays in it.
    pub(super) buffer: &'a mut [u8],
    pub(super) tally: &'a mut Tally,
}

/// What is counted beside the answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Connections that were opened.
    pub(super) connections: u64,
    /// Connects that found a Unix socket's backlog full.
    pub(super) connect_retries: u64,
    /// Kept connections that a script's server closed between two requests.
    pub(super) reconnects: u64,
    /// Connections that were reset behind a complete answer.
    pub(super) resets: u64,
}

impl Client {
    /// A client without a connection.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Free,
            due: Due {
                number: 0,
                nonce: 0,
                intended: now,
            },
            connection: None,
            answer: Answer::default(),
        }
    }

    /// The request that it is busy with, or was last.
    pub(super) fn due(&self) -> Due {
        self.due
    }

    /// Bytes of the answer's STDOUT.
    pub(super) fn stdout_bytes(&self) -> u64 {
        self.answer.stdout_bytes()
    }

    /// The beginning of the application's error output; empty if there was none.
    pub(super) fn said(&self) -> String {
        self.answer.said()
    }

    /// Whether there was any.
    pub(super) fn has_said(&self) -> bool {
        self.answer.has_said()
    }

    /// Whether it waits for room in the backlog.
    pub(super) fn is_queueing(&self) -> bool {
        self.state == State::Queueing
    }

    /// What it is doing; `None` if it is free.
    pub(super) fn doing(&self, template: &Template) -> Option<Doing> {
        let total = template.total();
        let sent = self.connection.as_ref().map_or(0, |open| open.sent);
        Some(match self.state {
            State::Free => return None,
            State::Queueing => Doing::Queueing,
            State::Exchanging if sent < total => Doing::Sending { sent, total },
            State::Exchanging => Doing::Receiving(self.answer.progress()),
            State::Closing => Doing::Closing,
        })
    }

    /// Notes what the kernel says of the connection.
    pub(super) fn note(&mut self, arrival: Arrival) {
        if let Some(open) = &mut self.connection {
            open.arrival = open.arrival.max(arrival);
        }
    }

    /// Sends a request.
    pub(super) fn begin(
        &mut self,
        due: Due,
        context: &mut Context<'_>,
    ) -> Result<Outcome, Problem> {
        debug_assert_eq!(self.state, State::Free);
        self.due = due;
        let digest = context.template.digest(due.nonce);
        self.answer.expect(context.measure, due.nonce, digest);
        match &mut self.connection {
            Some(open) => open.sent = 0,
            None => {
                self.state = State::Queueing;
                return self.connect(context);
            }
        }
        self.state = State::Exchanging;
        self.exchange(context)
    }

    /// Goes on as far as it can.
    pub(super) fn advance(&mut self, context: &mut Context<'_>) -> Result<Outcome, Problem> {
        match self.state {
            State::Free => self.idle(context),
            State::Queueing => self.connect(context),
            State::Exchanging => self.exchange(context),
            State::Closing => self.close(context),
        }
    }

    fn connect(&mut self, context: &mut Context<'_>) -> Result<Outcome, Problem> {
        let stream = match open(context.address, context) {
            Ok(stream) => stream,
            // unix(7) has EAGAIN for a full backlog; TCP never says so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                context.tally.connect_retries += 1;
                return Ok(Outcome::Waiting);
            }
            Err(error) => return Err(Problem::connect(error)),
        };
        context.tally.connections += 1;
        self.connection = Some(Connection {
            stream,
            watch: Watch::Nothing,
            arrival: Arrival::Drained,
            sent: 0,
            age: Age::Fresh,
        });
        self.state = State::Exchanging;
        // A Unix connect is complete at once, and over loopback TCP's is nearly always.
        self.exchange(context)
    }

    /// Both directions at a time: a large answer may begin before a large request has ended.
    fn exchange(&mut self, context: &mut Context<'_>) -> Result<Outcome, Problem> {
        if let Err(error) = self.send(context) {
            return self.send_failed(error, context);
        }
        let outcome = self.receive(context)?;
        if outcome == Outcome::Waiting {
            self.watch(context)?;
        }
        Ok(outcome)
    }

    fn send(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(open) = &mut self.connection else {
            unreachable!("an exchange has a connection")
        };
        let total = context.template.total();
        while open.sent < total {
            let pieces = context.template.pieces(self.due.nonce, open.sent);
            match open.stream.send(pieces.as_slices())? {
                Some(sent) => open.sent += sent as u64,
                None => break,
            }
        }
        Ok(())
    }

    /// The other side takes no more. It may have answered before; otherwise the request has failed.
    fn send_failed(
        &mut self,
        error: io::Error,
        context: &mut Context<'_>,
    ) -> Result<Outcome, Problem> {
        if self.may_reconnect(context) {
            return self.reconnect(context);
        }
        let sent = self.connection.as_ref().map_or(0, |open| open.sent);
        self.note(Arrival::Ended);
        match self.receive(context) {
            Ok(Outcome::Waiting) | Err(_) => Err(Problem::send(error, sent)),
            Ok(answered) => Ok(answered),
        }
    }

    fn receive(&mut self, context: &mut Context<'_>) -> Result<Outcome, Problem> {
        loop {
            let Some(open) = &mut self.connection else {
                unreachable!("an exchange has a connection")
            };
            if open.arrival == Arrival::Drained {
                return Ok(Outcome::Waiting);
            }
            match open.stream.receive(context.buffer) {
                Ok(Received::Bytes(len)) => {
                    open.arrival = open.arrival.after(len, context.buffer.len());
                    let verdict = self.answer.take(&context.buffer[..len], context.measure)?;
                    if verdict == Verdict::Complete {
                        return self.answered(context);
                    }
                }
                Ok(Received::Nothing) => return Ok(Outcome::Waiting),
                Ok(Received::End) if self.may_reconnect(context) => return self.reconnect(context),
                Ok(Received::End) => return Err(self.short(context)),
                Err(_) if self.may_reconnect(context) => return self.reconnect(context),
                Err(cause) => {
                    let progress = self.answer.progress();
                    return Err(if self.answer.is_untouched() {
                        let sent = self.connection.as_ref().map_or(0, |open| open.sent);
                        Problem::receive(cause, sent, progress)
                    } else {
                        Problem::Receive { cause, progress }
                    });
                }
            }
        }
    }

    /// The answer is complete and right.
    fn answered(&mut self, context: &mut Context<'_>) -> Result<Outcome, Problem> {
        let Some(open) = &mut self.connection else {
            unreachable!("an answer came on a connection")
        };
        match context.connections {
            Connections::Kept => {
                if open.sent < context.template.total() {
                    // It answered without having read everything. Nothing more can be sent on this
                    // connection.
                    self.connection = None;
                } else {
                    open.age = Age::Used;
                }
                self.state = State::Free;
                Ok(Outcome::AnsweredAndFree)
            }
            Connections::New => {
                self.state = State::Closing;
                Ok(match self.close(context)? {
                    Outcome::Freed => Outcome::AnsweredAndFree,
                    Outcome::Waiting | Outcome::Answered | Outcome::AnsweredAndFree => {
                        Outcome::Answered
                    }
                })
            }
        }
    }

    /// Waits for the end of the connection: whoever closes first keeps the port for a while.
    fn close(&mut self, context: &mut Context<'_>) -> Result<Outcome, Problem> {
        let Some(open) = &mut self.connection else {
            unreachable!("only an open connection is waited for")
        };
        if open.arrival != Arrival::Drained {
            match open.stream.receive(context.buffer) {
                Ok(Received::Bytes(_)) => return Err(Problem::Behind),
                Ok(Received::Nothing) => {}
                Ok(Received::End) => return Ok(self.free()),
                Err(_) => {
                    context.tally.resets += 1;
                    return Ok(self.free());
                }
            }
        }
        self.watch(context)?;
        Ok(Outcome::Waiting)
    }

    fn free(&mut self) -> Outcome {
        self.connection = None;
        self.state = State::Free;
        Outcome::Freed
    }

    /// Something has happened to a kept connection that is not in use.
    fn idle(&mut self, context: &mut Context<'_>) -> Result<Outcome, Problem> {
        let Some(open) = &mut self.connection else {
            return Ok(Outcome::Waiting);
        };
        if open.arrival == Arrival::Drained {
            return Ok(Outcome::Waiting);
        }
        match open.stream.receive(context.buffer) {
            Ok(Received::Nothing) => Ok(Outcome::Waiting),
            Ok(Received::Bytes(_)) => Err(Problem::Behind),
            Ok(Received::End) | Err(_) => {
                self.connection = None;
                match context.measure {
                    Measure::Synthetic { .. } => Err(Problem::ClosedKept),
                    Measure::First(_) | Measure::Varying => {
                        context.tally.reconnects += 1;
                        Ok(Outcome::Waiting)
                    }
                }
            }
        }
    }

    /// PHP-FPM may close a kept connection after any answer (`pm.max_requests`), and a request that
    /// meets that was not processed. Our own responder never does it.
    fn may_reconnect(&self, context: &Context<'_>) -> bool {
        let is_used = self
            .connection
            .as_ref()
            .is_some_and(|open| open.age == Age::Used);
        is_used
            && self.answer.is_untouched()
            && !matches!(context.measure, Measure::Synthetic { .. })
    }

    fn reconnect(&mut self, context: &mut Context<'_>) -> Result<Outcome, Problem> {
        context.tally.reconnects += 1;
        self.connection = None;
        self.state = State::Queueing;
        self.connect(context)
    }

    /// The connection has ended before the answer did.
    fn short(&self, context: &Context<'_>) -> Problem {
        let total = context.template.total();
        match &self.connection {
            Some(open) if open.sent < total && self.answer.is_untouched() => {
                let sent = open.sent;
                Problem::ClosedEarly { sent, total }
            }
            Some(_) | None => Problem::Short(self.answer.progress()),
        }
    }

    /// Has the loop tell what this client waits for.
    fn watch(&mut self, context: &mut Context<'_>) -> Result<(), Problem> {
        let Some(open) = &mut self.connection else {
            return Ok(());
        };
        let wanted = if open.sent < context.template.total() {
            Watch::Both
        } else {
            Watch::Readable
        };
        open.watch
            .extend(wanted, context.registry, &mut open.stream, context.token)
            .map_err(Problem::Watch)
    }
}

fn open(address: &Address, context: &Context<'_>) -> io::Result<Stream> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(*address)?;
            // A request that one send takes is never held back.
            if context.connections == Connections::Kept || context.template.has_body() {
                stream.set_nodelay(true)?;
            }
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(address) => UnixStream::connect_addr(address).map(Stream::Unix),
    }
}
