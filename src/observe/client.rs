//! Asking a running daemon for its status, through its control socket.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time;

use super::Status;
use crate::shown::Shown;

/// How long an answer may take: it is made at once, on a thread that has little else to do.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an answer. A full address set takes about 1 MiB, and a daemon may have some dozens of
/// routes with one.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How much is shown of a version that is not ours.
const VERSION_CHARS_MAX: usize = 64;

/// How much is shown of the name of a process: the kernel keeps 15 bytes of it.
const NAME_CHARS_MAX: usize = 64;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
#[error("ask {}{there}: {cause}", path.display())]
pub struct AskError {
    path: PathBuf,
    there: There,
    cause: Cause,
}

/// The process that listens at the path, as far as it can be seen.
#[derive(Debug, Default)]
struct There(Option<(u32, String)>);

impl fmt::Display for There {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((pid, name)) => write!(f, ", where process {pid} ({name}) listens"),
            None => Ok(()),
        }
    }
}

impl There {
    /// Only as long as it runs: a number may be another process's by then, but hardly within seconds.
    fn of(stream: &UnixStream) -> Self {
        let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let pid = peer.and_then(|pid| u32::try_from(pid).ok());
        Self(pid.filter(|&pid| pid > 0).and_then(|pid| {
            let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
            Some((
                pid,
                Shown::line(name.trim_ascii_end(), NAME_CHARS_MAX).to_string(),
            ))
        }))
    }
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("no such socket (is the daemon running, with --control and this path?)")]
    NoSocket,
    #[error(
        "permission denied (the control socket is for the user that the daemon runs as, and for root)"
    )]
    Denied,
    #[error("connection refused (the daemon that made this socket is gone)")]
    Refused,
    #[error("this is no socket (give the path that spliceway has as its --control)")]
    NoKindOfSocket,
    #[error("too many wait to be answered there (the daemon may be stopped)")]
    Busy,
    #[error("{0} (give the path that spliceway has as its --control)")]
    Connect(io::Error),
    #[error("the connection ended before the answer did (the daemon is about to end: ask again)")]
    Ended,
    #[error(
        "the connection ended before an answer came, twice (this seems to be a socket for clients: give the \
         path that spliceway has as its --control)"
    )]
    ForClients,
    #[error(
        "spliceway {version} runs there, and this is {this} (restart the daemon, or ask with its own \
         version)",
        this = env!("CARGO_PKG_VERSION")
    )]
    OtherVersion { version: String },
    #[error(
        "no answer within {} s (this may be a socket for clients: give the path that spliceway has as its \
         --control; or the daemon is stopped)",
        ANSWER_TIMEOUT.as_secs()
    )]
    Silent,
    #[error(
        "another program answers there, or this is a socket for clients (give the path that spliceway has as its --control)"
    )]
    Foreign,
}

/// The status of the daemon whose control socket this is.
///
/// # Errors
/// One line with the obstacle and its remedy.
pub(crate) async fn ask(path: &Path) -> Result<Status, AskError> {
    let mut there = There::default();
    let mut asked = exchange_in_time(path, &mut there).await;
    if let Err(Cause::Ended) = asked {
        // Whoever is about to end has given its socket up.
        asked = match exchange_in_time(path, &mut there).await {
            Err(Cause::Ended) => Err(Cause::ForClients),
            Err(Cause::NoSocket | Cause::Refused) => Err(Cause::Ended),
            other => other,
        };
    }
    asked.map_err(|cause| AskError {
        path: path.to_path_buf(),
        there,
        cause,
    })
}

async fn exchange_in_time(path: &Path, there: &mut There) -> Result<Status, Cause> {
    let asked = time::timeout(ANSWER_TIMEOUT, exchange(path, there)).await;
    asked.unwrap_or(Err(Cause::Silent))
}

async fn exchange(path: &Path, there: &mut There) -> Result<Status, Cause> {
    let connected = UnixStream::connect(path).await;
    let stream = connected.map_err(|error| cause_of(error, path))?;
    *there = There::of(&stream);
    let body = fetch(stream).await.map_err(|error| broken(&*error))?;
    understand(&body)
}

fn cause_of(error: io::Error, path: &Path) -> Cause {
    match error.kind() {
        ErrorKind::NotFound => Cause::NoSocket,
        ErrorKind::PermissionDenied => Cause::Denied,
        // The kernel says the same of a socket without a listener.
        ErrorKind::ConnectionRefused if !is_socket(path) => Cause::NoKindOfSocket,
        ErrorKind::ConnectionRefused => Cause::Refused,
        ErrorKind::WouldBlock => Cause::Busy,
        _ if error.raw_os_error() == Some(libc::EPROTOTYPE) => Cause::Foreign,
        _ => Cause::Connect(error),
    }
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// An answer that cannot be understood is not of a spliceway. One that has no end may well be: who waits
/// in the backlog of a daemon that ends gets none.
fn broken(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Cause {
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if !error.is_parse() => Cause::Ended,
        Some(_) | None => Cause::Foreign,
    }
}

/// What every version says of itself.
#[derive(serde::Deserialize)]
struct Origin {
    program: String,
    schema: u32,
    version: String,
}

fn understand(body: &[u8]) -> Result<Status, Cause> {
    let origin: Origin = serde_json::from_slice(body).map_err(|_| Cause::Foreign)?;
    if origin.program != Status::PROGRAM {
        return Err(Cause::Foreign);
    }
    // A daemon that is older lacks fields.
    match serde_json::from_slice(body) {
        Ok(status) if origin.schema == Status::SCHEMA => Ok(status),
        Ok(_) | Err(_) => Err(Cause::OtherVersion {
            version: Shown::line(origin.version.as_bytes(), VERSION_CHARS_MAX).to_string(),
        }),
    }
}

async fn fetch(stream: UnixStream) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/status")
        .header(HOST, "localhost")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(response.status().to_string().into());
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        Ok(body.collect().await?.to_bytes())
    };
    // The connection is what moves the bytes; that it ended well or badly, the answer tells.
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}
