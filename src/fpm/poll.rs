//! One question to one pool, over a connection of its own.

use std::num::NonZeroU16;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::page::{self, PageError, PoolFigures};
use crate::backend::Address;
use crate::checks::{connect_tcp, connect_unix};
use crate::fastcgi::{
    BeginRequest, EndRequest, FixedBody, Kind, Malformed, ProtocolStatus, Reader, RecordEvent,
    RequestId, Role, push_pair, push_record, push_stream, push_stream_end,
};
use crate::sys::Errno;
use crate::sys::net::TcpOptions;

/// How long a connect may take, and then the answer: with pm.status_listen it is a matter of milliseconds, also at
/// the other end of the world.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most that is read of an answer. The head of a page has some 400 bytes and each process some 450, so this is for
/// pools of 500; of larger ones, the processes are not counted.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// What a read takes at once.
const READ_BYTES: usize = 8 * 1024;

/// The one request of the connection.
const REQUEST: RequestId = RequestId::application(NonZeroU16::MIN);

/// Why a poll came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum PollError {
    #[error("connect: {0} ({remedy})", remedy = remedy(*.0))]
    Connect(Errno),
    #[error(
        "connect: no answer within {PATIENCE:?} (check the address, and what filters packets on the way)"
    )]
    ConnectSilence,
    #[error(
        "no answer within {PATIENCE:?} (a page of pm.status_path alone waits for a free worker: set \
         pm.status_listen and give that address)"
    )]
    Silence,
    #[error("{0} ({CLOSED})")]
    Transfer(Errno),
    #[error("it closed without a whole answer ({CLOSED})")]
    Closed,
    #[error("{0} (what is there does not speak FastCGI)")]
    Malformed(#[from] Malformed),
    #[error(
        "a record {0:?} where an answer belongs (what is there does not speak FastCGI as it should)"
    )]
    Unexpected(Kind),
    #[error("the request was refused: {0:?} (what is there is no PHP-FPM)")]
    Refused(ProtocolStatus),
    #[error(transparent)]
    Page(#[from] PageError),
}

/// What to look for when it ends the connection.
const CLOSED: &str =
    "listen.allowed_clients of PHP-FPM may leave this machine out; its log says why";

fn remedy(errno: Errno) -> &'static str {
    match errno.0 {
        libc::ECONNREFUSED | libc::ENOENT => {
            "is PHP-FPM running, and is this its pm.status_listen?"
        }
        libc::EACCES | libc::EPERM => {
            "the socket is for others: see listen.owner, listen.group and listen.mode of the pool"
        }
        libc::ENOTDIR => "a page of a Unix socket is written unix:/SOCKET:/PAGE",
        libc::EAGAIN => "its backlog is full: set pm.status_listen and give that address",
        libc::EMFILE | libc::ENFILE => "raise the limit of open descriptors",
        _ => "check the address",
    }
}

/// Asks the pool whose status is at `address` how it fares.
pub(super) async fn ask(
    address: Address,
    path: &str,
    tcp: &TcpOptions,
) -> Result<PoolFigures, PollError> {
    match address {
        Address::Tcp(to) => match timeout(PATIENCE, connect_tcp(to, tcp)).await {
            Ok(Ok(stream)) => talk(stream, path).await,
            Ok(Err(error)) => Err(PollError::Connect(error.into())),
            Err(_) => Err(PollError::ConnectSilence),
        },
        // Such a connect does not wait.
        Address::Unix(name) => match connect_unix(name) {
            Ok(stream) => talk(stream, path).await,
            Err(error) => Err(PollError::Connect(error.into())),
        },
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    path: &str,
) -> Result<PoolFigures, PollError> {
    let stdout = match timeout(PATIENCE, exchange(&mut stream, &question(path))).await {
        Ok(Ok(stdout)) => stdout,
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(PollError::Silence),
    };
    Ok(page::read(&stdout)?)
}

/// A request for the page. PHP-FPM finds it by SCRIPT_NAME, and looks at that only where there is a SCRIPT_FILENAME
/// (`init_request_info`); the method must be there, too. Without FCGI_KEEP_CONN it closes then, so that no process is
/// held.
fn question(path: &str) -> Vec<u8> {
    let mut params = Vec::new();
    for (name, value) in [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        (
            "SERVER_SOFTWARE",
            concat!("spliceway/", env!("CARGO_PKG_VERSION")),
        ),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_METHOD", "GET"),
        ("QUERY_STRING", "json&full"),
        ("REQUEST_URI", path),
        ("SCRIPT_NAME", path),
        ("SCRIPT_FILENAME", path),
    ] {
        push_pair(&mut params, name.as_bytes(), value.as_bytes());
    }
    let begin = BeginRequest {
        role: Role::Responder,
        keep_conn: false,
    };
    let mut question = Vec::new();
    push_record(&mut question, Kind::BeginRequest, REQUEST, &begin.encode());
    push_stream(&mut question, Kind::Params, REQUEST, &params);
    push_stream_end(&mut question, Kind::Params, REQUEST);
    push_stream_end(&mut question, Kind::Stdin, REQUEST);
    question
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    question: &[u8],
) -> Result<Vec<u8>, PollError> {
    let failed = |error: std::io::Error| PollError::Transfer(error.into());
    stream.write_all(question).await.map_err(failed)?;
    let (mut hearing, mut bytes) = (Hearing::default(), [0; READ_BYTES]);
    loop {
        let count = stream.read(&mut bytes).await.map_err(failed)?;
        if count == 0 {
            return Err(PollError::Closed);
        }
        if hearing.hear(&bytes[..count])? {
            return Ok(hearing.stdout);
        }
    }
}

/// What was heard of an answer so far.
#[derive(Default)]
struct Hearing {
    reader: Reader,
    /// Which record's content comes.
    kind: Option<Kind>,
    stdout: Vec<u8>,
    end: FixedBody,
    /// Bytes of everything.
    heard: usize,
}

impl Hearing {
    /// Whether these bytes end the answer, or what is read of it.
    fn hear(&mut self, mut bytes: &[u8]) -> Result<bool, PollError> {
        self.heard += bytes.len();
        while let Some(event) = self.reader.next(&mut bytes)? {
            match event {
                RecordEvent::Begin(header) => {
                    let is_ours = header.request_id == REQUEST;
                    match header.kind {
                        Kind::Stdout | Kind::Stderr | Kind::EndRequest if is_ours => {}
                        kind => return Err(PollError::Unexpected(kind)),
                    }
                    self.kind = Some(header.kind);
                }
                RecordEvent::Content(piece) => match self.kind {
                    Some(Kind::Stdout) => self.stdout.extend_from_slice(piece),
                    Some(Kind::EndRequest) => self.end.push(piece),
                    // Messages for a log.
                    _ => {}
                },
                RecordEvent::End if self.kind == Some(Kind::EndRequest) => {
                    let end = EndRequest::decode(self.end.complete()?);
                    return match end.protocol_status {
                        ProtocolStatus::RequestComplete => Ok(true),
                        status => Err(PollError::Refused(status)),
                    };
                }
                RecordEvent::End => {}
            }
        }
        Ok(self.heard >= ANSWER_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(stdout: &[u8], status: ProtocolStatus) -> Vec<u8> {
        let end = EndRequest {
            app_status: 0,
            protocol_status: status,
        };
        let mut bytes = Vec::new();
        push_stream(&mut bytes, Kind::Stderr, REQUEST, b"a note");
        push_stream(&mut bytes, Kind::Stdout, REQUEST, stdout);
        push_stream_end(&mut bytes, Kind::Stdout, REQUEST);
        push_record(&mut bytes, Kind::EndRequest, REQUEST, &end.encode());
        bytes
    }

    #[test]
    fn an_answer_in_pieces_is_one() {
        let bytes = answer(b"A: b\r\n\r\n{}", ProtocolStatus::RequestComplete);
        let mut hearing = Hearing::default();
        let (last, others) = bytes.split_last().unwrap();
        for byte in others {
            assert!(!hearing.hear(&[*byte]).unwrap());
        }
        assert!(hearing.hear(&[*last]).unwrap());
        assert_eq!(hearing.stdout, b"A: b\r\n\r\n{}");
    }

    #[test]
    fn no_more_than_the_bound_is_held() {
        let mut bytes = Vec::new();
        push_stream(&mut bytes, Kind::Stdout, REQUEST, &vec![b'x'; 1 << 20]);
        let mut hearing = Hearing::default();
        let mut pieces = bytes.chunks(READ_BYTES);
        assert!(pieces.any(|piece| hearing.hear(piece).unwrap()));
        assert!(hearing.stdout.len() <= ANSWER_BYTES_MAX);
        assert!(hearing.stdout.len() > ANSWER_BYTES_MAX - READ_BYTES);
        // Nor is the log's part heard for ever.
        let mut bytes = Vec::new();
        push_stream(&mut bytes, Kind::Stderr, REQUEST, &vec![b'x'; 1 << 20]);
        let mut hearing = Hearing::default();
        assert!(
            bytes
                .chunks(READ_BYTES)
                .any(|piece| hearing.hear(piece).unwrap())
        );
        assert_eq!(hearing.stdout, b"");
    }

    #[test]
    fn what_is_no_answer_is_named() {
        let mut foreign = Vec::new();
        let other = RequestId::from_number(2);
        push_stream(&mut foreign, Kind::Stdout, other, b"x");
        let refused = answer(b"", ProtocolStatus::Overloaded);
        for (bytes, part) in [
            (&foreign[..], "a record Stdout where an answer belongs"),
            (b"HTTP/1.1 400 Bad Request\r\n", "does not speak FastCGI"),
            (&refused, "refused: Overloaded"),
        ] {
            let error = Hearing::default().hear(bytes).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn each_failure_to_connect_has_a_remedy() {
        for (errno, part) in [
            (libc::ECONNREFUSED, "is PHP-FPM running"),
            (libc::EACCES, "listen.mode"),
            (libc::ENOTDIR, "unix:/SOCKET:/PAGE"),
            (libc::EHOSTUNREACH, "check the address"),
        ] {
            let error = PollError::Connect(Errno(errno)).to_string();
            assert!(
                error.starts_with("connect: ") && error.contains(part),
                "{error}"
            );
        }
    }
}
