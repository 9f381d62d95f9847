//! Why there is no result. Each failure is one line that names what was attempted, what happened
//! and, where something can be done about it, what.

use std::fmt;
use std::io;
use std::time::Duration;

use super::plan::{PlanError, Target};
use spliceway_common::fastcgi::{Kind, Malformed, ProtocolStatus};

/// Why there is no result. The harness never counts a wrong answer as a slow one.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The plan makes no sense.
    #[error("load {target}: {problem}")]
    Plan {
        /// Where requests were to go.
        target: Target,
        /// What is wrong with the plan.
        problem: PlanError,
    },
    /// The load's own threads or event loops could not be had.
    #[error("{operation}: {cause} ({remedy})")]
    Setup {
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        cause: io::Error,
        /// What may help.
        remedy: &'static str,
    },
    /// A request went wrong.
    #[error("{target}, request {request}: {problem}")]
    Request {
        /// Where it went.
        target: Target,
        /// Its number in this load, from 1.
        request: u64,
        /// What was wrong.
        problem: Problem,
    },
}

impl Failure {
    /// Where a failure stands among others of the same load: the first request's counts, because
    /// the others may be its consequences.
    pub(super) fn rank(&self) -> u64 {
        match self {
            Self::Plan { .. } | Self::Setup { .. } => 0,
            Self::Request { request, .. } => *request,
        }
    }
}

/// How much of an answer had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of STDOUT, all of them right as far as that is known.
    pub received: u64,
    /// Bytes of the right answer, if that is known.
    pub expected: Option<u64>,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expected {
            Some(expected) => write!(f, "{} of {expected} bytes", self.received),
            None => write!(f, "{} bytes", self.received),
        }
    }
}

/// What a request was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Waiting for room in the listener's backlog.
    Queueing,
    /// Connecting, or sending the request.
    Sending {
        /// Bytes of the request that the kernel had taken.
        sent: u64,
        /// Bytes of the request.
        total: u64,
    },
    /// Receiving the answer.
    Receiving(Progress),
    /// Waiting for the other side to close, after a complete answer.
    Closing,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queueing => write!(
                f,
                "the backlog was full all the time (nobody accepts, or too slowly)"
            ),
            Self::Sending { sent, total } => {
                write!(f, "{sent} of the request's {total} bytes could be sent")
            }
            Self::Receiving(progress) => write!(f, "{progress} of the answer had come"),
            Self::Closing => write!(f, "the answer had come and the connection was not closed"),
        }
    }
}

/// What can be wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No local port was left.
    #[error(
        "connect: {0} (all local ports are in use; widen net.ipv4.ip_local_port_range, or use kept \
         connections)"
    )]
    Ports(io::Error),
    /// No descriptor was left.
    #[error("connect: {0} (raise ulimit -n, or use fewer connections)")]
    Descriptors(io::Error),
    /// No connection, for another reason.
    #[error("connect: {0} (whoever listens there has ended or is overloaded)")]
    Connect(io::Error),
    /// The event loop cannot watch the connection.
    #[error("watch the connection: {0} (see fs.epoll.max_user_watches)")]
    Watch(io::Error),
    /// The request could not be sent.
    #[error("send the request: {0} (the other side closed or reset the connection)")]
    Send(io::Error),
    /// The answer could not be received.
    #[error("receive the answer: {cause} after {progress}")]
    Receive {
        /// What the system said.
        cause: io::Error,
        /// How much had come.
        progress: Progress,
    },
    /// It took too long.
    #[error("no answer within the deadline of {deadline:?}: {doing}")]
    Deadline {
        /// The plan's.
        deadline: Duration,
        /// What it was doing.
        doing: Doing,
    },
    /// A request found no connection free for too long.
    #[error(
        "it was due {deadline:?} ago and all {connections} connections are still busy (the target \
         does not keep up: lower the rate or allow more connections)"
    )]
    Overload {
        /// The plan's.
        deadline: Duration,
        /// How many there are in this thread.
        connections: usize,
    },
    /// The connection ended too early.
    #[error("the answer is short: the connection ended after {0}")]
    Short(Progress),
    /// The connection ended before the request was sent.
    #[error("the connection was closed before the request was sent ({sent} of {total} bytes)")]
    ClosedEarly {
        /// Bytes that the kernel had taken.
        sent: u64,
        /// Bytes of the request.
        total: u64,
    },
    /// A kept connection was closed, or something came on it, between two requests.
    #[error("a kept connection was closed between two requests")]
    ClosedKept,
    /// The end of the answer came too early.
    #[error("the answer is short: it ended after {0}")]
    Ended(Progress),
    /// STDOUT had more than it should.
    #[error("the answer is long: more follows its {expected} bytes")]
    Long {
        /// Bytes of the right answer.
        expected: u64,
    },
    /// Something came behind END_REQUEST.
    #[error("the answer is long: something follows its END_REQUEST")]
    Behind,
    /// A wrong byte.
    #[error("the answer is wrong: byte {offset} of {expected} is {got:#04x}, not {want:#04x}")]
    Wrong {
        /// Where in STDOUT the first wrong byte is, from 0.
        offset: u64,
        /// Bytes of the right answer.
        expected: u64,
        /// What came.
        got: u8,
        /// What should have come.
        want: u8,
    },
    /// The answer to another request.
    #[error("the answer is that to request {other}")]
    Mixed {
        /// The other request's number.
        other: u64,
    },
    /// The answer to a request of another load, or of none.
    #[error("the answer is that to another load's request (nonce {nonce:016x})")]
    Foreign {
        /// What the answer has.
        nonce: u64,
    },
    /// The answer's framing is lost.
    #[error("after {progress} of the answer: {malformed}")]
    Malformed {
        /// Why.
        malformed: Malformed,
        /// How much had come.
        progress: Progress,
    },
    /// A record that may not stand where it does.
    #[error("the answer has a {kind:?} record after {progress}, where it may not stand")]
    Unexpected {
        /// What it is.
        kind: Kind,
        /// How much had come.
        progress: Progress,
    },
    /// A record of another request.
    #[error("the answer has a record of request id {got}, not {want}, after {progress}")]
    RequestId {
        /// What it has.
        got: u16,
        /// The only id that was used.
        want: u16,
        /// How much had come.
        progress: Progress,
    },
    /// END_REQUEST has bytes that should be 0.
    #[error("the answer's END_REQUEST has bytes that should be 0")]
    Reserved,
    /// The application has failed.
    #[error("the application failed: {}, exit status {app_status}{}", status(*protocol_status), words(said))]
    Refused {
        /// What the protocol says.
        protocol_status: ProtocolStatus,
        /// What a CGI program would have passed to exit.
        app_status: u32,
        /// The beginning of its error output.
        said: String,
    },
    /// A CGI status other than success.
    #[error("the script answered with status {status}{}", words(said))]
    Status {
        /// The header's value.
        status: String,
        /// The beginning of its error output.
        said: String,
    },
    /// No CGI header in sight.
    #[error("the answer has no CGI header in its first {0} bytes")]
    NoHeader(usize),
    /// An answer differs from the first one.
    #[error(
        "the answer differs from the first one: a body of {got_bytes} bytes, not {want_bytes}, or \
         other content (if answers vary by themselves, say so with --varying){}",
        words(said)
    )]
    Differs {
        /// The length of this one's body.
        got_bytes: u64,
        /// The length of the first one's.
        want_bytes: u64,
        /// The beginning of its error output.
        said: String,
    },
}

fn status(status: ProtocolStatus) -> String {
    match status {
        ProtocolStatus::RequestComplete => "request complete".to_owned(),
        ProtocolStatus::CannotMultiplex => "it does not multiplex".to_owned(),
        ProtocolStatus::Overloaded => "it is overloaded".to_owned(),
        ProtocolStatus::UnknownRole => "it does not know the role".to_owned(),
        ProtocolStatus::Other(number) => format!("protocol status {number}"),
    }
}

fn words(said: &str) -> String {
    match said.trim() {
        "" => String::new(),
        words => format!("; it said: {words}"),
    }
}

impl Problem {
    /// Names the cause of a failed connect.
    pub(super) fn connect(cause: io::Error) -> Self {
        match cause.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => Self::Ports(cause),
            Some(libc::EMFILE | libc::ENFILE) => Self::Descriptors(cause),
            Some(_) | None => Self::Connect(cause),
        }
    }

    /// Names the cause of a failed receive before the first byte.
    pub(super) fn receive(cause: io::Error, sent: u64, progress: Progress) -> Self {
        match sent {
            0 => Self::send(cause, sent),
            _ => Self::Receive { cause, progress },
        }
    }

    /// Names the cause of a failed send: on a connection that was never there, the connect failed.
    pub(super) fn send(cause: io::Error, sent: u64) -> Self {
        match cause.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
                if sent == 0 =>
            {
                Self::Connect(cause)
            }
            _ => Self::Send(cause),
        }
    }
}
