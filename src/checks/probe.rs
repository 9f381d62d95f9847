//! One check of one endpoint.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::Checks;
use crate::backend::Address;
use crate::config::CheckKind;
use crate::fastcgi::{Kind, Malformed, Reader, RecordEvent, RequestId, push_pair, push_record};
use crate::sys::Errno;
use crate::sys::net::{self, TcpOptions, UnixName};

/// What a read takes at once; an answer has some 60 bytes.
const READ_BYTES: usize = 512;

/// How a check went.
#[derive(Debug)]
pub(super) enum ProbeOutcome {
    Up,
    /// It is there, and nobody has time to answer.
    Busy,
    Down(Problem),
    /// Something is missing on this machine: that says nothing of the endpoint.
    Unknown(io::Error),
}

/// Why an endpoint is taken for down.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("{0}")]
    Connection(Errno),
    #[error("no answer to the connect in time")]
    Silence,
    #[error("it closed without an answer")]
    Closed,
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("it answered something else (it does not speak FastCGI as it should)")]
    Unexpected,
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Connection(Errno(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

/// Checks the endpoint at `address`, within `patience`.
pub(super) async fn probe(address: Address, checks: &Checks, patience: Duration) -> ProbeOutcome {
    let by = Instant::now() + patience;
    match address {
        Address::Tcp(to) => match timeout_at(by, connect_tcp(to, &checks.tcp)).await {
            Ok(Ok(stream)) => talk(stream, checks, by).await,
            Ok(Err(error)) => not_connected(error),
            Err(_) => ProbeOutcome::Down(Problem::Silence),
        },
        Address::Unix(name) => match connect_unix(name) {
            Ok(stream) => talk(stream, checks, by).await,
            Err(error) => not_connected(error),
        },
    }
}

/// Connects as sessions do.
pub(crate) async fn connect_tcp(
    to: std::net::SocketAddr,
    options: &TcpOptions,
) -> io::Result<TcpStream> {
    let socket = net::tcp_socket(&to, options).map_err(to_io)?;
    let socket = TcpSocket::from_std_stream(StdTcpStream::from(socket));
    socket.connect(to).await
}

/// The same to a Unix socket. Such a connect does not wait.
pub(crate) fn connect_unix(name: UnixName) -> io::Result<UnixStream> {
    let socket = net::unix_connected(name).map_err(to_io)?;
    UnixStream::from_std(StdUnixStream::from(socket))
}

fn to_io(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.0)
}

fn not_connected(error: io::Error) -> ProbeOutcome {
    match error.raw_os_error() {
        // A Unix socket's backlog is full.
        Some(libc::EAGAIN) => ProbeOutcome::Busy,
        Some(
            libc::EMFILE
            | libc::ENFILE
            | libc::ENOMEM
            | libc::ENOBUFS
            | libc::EADDRNOTAVAIL
            | libc::EACCES
            | libc::EPERM,
        ) => ProbeOutcome::Unknown(error),
        _ => ProbeOutcome::Down(error.into()),
    }
}

/// What follows once a connection is open.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    checks: &Checks,
    by: Instant,
) -> ProbeOutcome {
    let mut hello = checks.introduction.to_vec();
    let answer = match checks.kind {
        CheckKind::Tcp => match stream.write_all(&hello).await {
            Ok(()) => return ProbeOutcome::Up,
            Err(error) => return ProbeOutcome::Down(error.into()),
        },
        CheckKind::Fastcgi => {
            push_question(&mut hello);
            timeout_at(by, ask(&mut stream, &hello)).await
        }
    };
    match answer {
        Ok(Ok(())) => ProbeOutcome::Up,
        Ok(Err(problem)) => ProbeOutcome::Down(problem),
        // It is in the backlog of a server whose workers are all taken: PHP-FPM has no other way to
        // say so.
        Err(_) => ProbeOutcome::Busy,
    }
}

/// Any variable will do (FastCGI specification, section 4.1).
fn push_question(out: &mut Vec<u8>) {
    let mut pairs = Vec::new();
    push_pair(&mut pairs, b"FCGI_MPXS_CONNS", b"");
    push_record(out, Kind::GetValues, RequestId::MANAGEMENT, &pairs);
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    question: &[u8],
) -> Result<(), Problem> {
    stream.write_all(question).await?;
    let (mut reader, mut bytes) = (Reader::new(), [0; READ_BYTES]);
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Err(Problem::Closed);
        }
        if is_answered(&mut reader, &bytes[..count])? {
            return Ok(());
        }
    }
}

/// Whether these bytes end the answer.
fn is_answered(reader: &mut Reader, mut bytes: &[u8]) -> Result<bool, Problem> {
    while let Some(event) = reader.next(&mut bytes)? {
        match event {
            // Whoever does not know the question says so: that is an answer, too.
            RecordEvent::Begin(header)
                if header.request_id == RequestId::MANAGEMENT
                    && matches!(header.kind, Kind::GetValuesResult | Kind::UnknownType) => {}
            RecordEvent::Begin(_) => return Err(Problem::Unexpected),
            RecordEvent::Content(_) => {}
            RecordEvent::End => return Ok(true),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_of(kind: Kind) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_record(
            &mut bytes,
            kind,
            RequestId::MANAGEMENT,
            b"\x0f\x01FCGI_MPXS_CONNS0",
        );
        bytes
    }

    #[test]
    fn an_answer_in_pieces_is_one() {
        for kind in [Kind::GetValuesResult, Kind::UnknownType] {
            let bytes = answer_of(kind);
            let mut reader = Reader::new();
            let (last, others) = bytes.split_last().unwrap();
            for byte in others {
                assert!(!is_answered(&mut reader, &[*byte]).unwrap());
            }
            assert!(is_answered(&mut reader, &[*last]).unwrap());
        }
    }

    #[test]
    fn something_else_is_no_answer() {
        let stdout = answer_of(Kind::Stdout);
        for bytes in [&stdout[..], b"HTTP/1.1 400 Bad Request\r\n"] {
            assert!(is_answered(&mut Reader::new(), bytes).is_err());
        }
    }
}
