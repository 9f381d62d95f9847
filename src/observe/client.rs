//! Asking a running daemon for its status, through its control socket.

use std::io::{self, ErrorKind};
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

/// How long an answer may take: it is made at once, on a thread that has little else to do.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an answer. A full address set takes about 1 MiB, and a daemon may have some dozens of
/// routes with one.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
#[error("ask {}: {cause}", path.display())]
pub struct AskError {
    path: PathBuf,
    cause: Cause,
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
    #[error("{0}")]
    Connect(io::Error),
    #[error("no answer within {} s (the daemon may be stopped)", ANSWER_TIMEOUT.as_secs())]
    Silent,
    #[error("another program answers there (give the path that spliceway has as its --control)")]
    Foreign,
}

/// The status of the daemon whose control socket this is.
///
/// # Errors
/// One line with the obstacle and its remedy.
pub async fn ask(path: &Path) -> Result<Status, AskError> {
    let asked = time::timeout(ANSWER_TIMEOUT, exchange(path)).await;
    asked
        .unwrap_or(Err(Cause::Silent))
        .map_err(|cause| AskError {
            path: path.to_path_buf(),
            cause,
        })
}

async fn exchange(path: &Path) -> Result<Status, Cause> {
    let stream = UnixStream::connect(path).await.map_err(cause_of)?;
    let body = fetch(stream).await.map_err(|_| Cause::Foreign)?;
    let status: Status = serde_json::from_slice(&body).map_err(|_| Cause::Foreign)?;
    match (&*status.program, status.schema) {
        (Status::PROGRAM, Status::SCHEMA) => Ok(status),
        _ => Err(Cause::Foreign),
    }
}

fn cause_of(error: io::Error) -> Cause {
    match error.kind() {
        ErrorKind::NotFound => Cause::NoSocket,
        ErrorKind::PermissionDenied => Cause::Denied,
        ErrorKind::ConnectionRefused => Cause::Refused,
        _ => Cause::Connect(error),
    }
}

/// Whatever goes wrong here, it is not a spliceway that answers.
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
