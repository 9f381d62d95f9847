//! Asking a running daemon for its status, and giving it commands, through its control socket.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time;

use super::{Requests, Status, Which};
use crate::commands::{
    ControlCommand, ControlReply, REPLY_BYTES_MAX, command_to_json, reply_from_json,
};
use crate::shown::Shown;

/// How long a status may take: it is made at once, on a thread that has little else to do.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a command may take, besides what it is to wait for (for an upgrade: the successor). A reload looks names of new backends up, for up to
/// 15 s, and others come after it.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of a status. A full address set takes about 1 MiB, and a daemon may have some dozens of
/// routes with one.
const STATUS_BYTES_MAX: usize = 64 << 20;

/// How much is shown of a version that is not ours.
const VERSION_CHARS_MAX: usize = 64;

/// How much is shown of the name of a process: the kernel keeps 15 bytes of it.
const NAME_CHARS_MAX: usize = 64;

/// Why there is no answer.
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
        .0.as_secs()
    )]
    Silent(Duration),
    #[error(
        "the connection ended before the answer did (what it has begun goes on: see its status and its log)"
    )]
    EndedWithin,
    #[error(
        "spliceway {version} runs there, which takes no commands (restart it with this version)"
    )]
    TooOld { version: String },
    #[error(
        "spliceway {version} runs there, which does not tell of its requests (restart it with this version)"
    )]
    TellsNoRequests { version: String },
    #[error(
        "the daemon tells what clients send to root and to the user that it runs as only (ask as one of them)"
    )]
    NotToldThis,
    #[error("others ask there, or do not read their answers (ask again)")]
    OthersAsk,
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
    let mut asked = status(path, &mut there).await;
    if let Err(Cause::Ended) = asked {
        asked = match status(path, &mut there).await {
            Ok(status) => Ok(status),
            Err(cause) => Err(after_an_end(cause)),
        };
    }
    asked.map_err(|cause| AskError::new(path, there, cause))
}

/// What the sessions of the daemon do whose control socket this is.
///
/// # Errors
/// One line with the obstacle and its remedy.
pub(crate) async fn ask_requests(path: &Path, which: &Which) -> Result<Requests, AskError> {
    let mut there = There::default();
    let mut asked = requests(path, which, &mut there).await;
    if let Err(Cause::Ended) = asked {
        asked = requests(path, which, &mut there)
            .await
            .map_err(after_an_end);
    }
    asked.map_err(|cause| AskError::new(path, there, cause))
}

async fn requests(path: &Path, which: &Which, there: &mut There) -> Result<Requests, Cause> {
    let question = Question {
        path: &which.path(),
        body: None,
        patience: STATUS_TIMEOUT,
        answer_bytes_max: STATUS_BYTES_MAX,
    };
    match question.put(path, there).await? {
        (StatusCode::OK, body) => understand(&body),
        (StatusCode::NOT_FOUND, _) => {
            Err(without(path, there, |version| Cause::TellsNoRequests { version }).await)
        }
        (StatusCode::FORBIDDEN, _) => Err(without(path, there, |_| Cause::NotToldThis).await),
        (StatusCode::SERVICE_UNAVAILABLE, _) => Err(Cause::OthersAsk),
        _ => Err(Cause::Foreign),
    }
}

/// Has the daemon whose control socket this is carry a command out.
///
/// # Errors
/// One line with the obstacle and its remedy. The command may have been carried out, or be going on, if there was no
/// answer.
pub(crate) async fn give(path: &Path, command: &ControlCommand) -> Result<ControlReply, AskError> {
    let mut there = There::default();
    let patience = COMMAND_TIMEOUT + command.wait();
    let question = Question {
        path: "/command",
        body: Some(command_to_json(command)),
        patience,
        answer_bytes_max: REPLY_BYTES_MAX,
    };
    let mut given = question.put(path, &mut there).await;
    if let Err(Cause::Ended) = given {
        // It is not given twice; what is there, its status tells.
        given = Err(match status(path, &mut there).await {
            Ok(_) => Cause::EndedWithin,
            Err(cause) => after_an_end(cause),
        });
    }
    let replied = match given {
        Ok((StatusCode::NOT_FOUND, _)) => {
            Err(without(path, &mut there, |version| Cause::TooOld { version }).await)
        }
        Ok((_, body)) => reply_from_json(&body).ok_or_else(|| not_ours(&body)),
        Err(cause) => Err(cause),
    };
    replied.map_err(|cause| AskError::new(path, there, cause))
}

/// What it means that it was there, has ended a connection without an answer, and now this. Whoever is about to end
/// has given its socket up.
fn after_an_end(cause: Cause) -> Cause {
    match cause {
        Cause::Ended => Cause::ForClients,
        Cause::NoSocket | Cause::Refused => Cause::Ended,
        other => other,
    }
}

/// Who does not know what it is asked for: for a daemon that is too old, `cause` says so.
async fn without(path: &Path, there: &mut There, cause: impl FnOnce(String) -> Cause) -> Cause {
    match status(path, there).await {
        Ok(Status { version, .. }) => cause(shown_version(&version)),
        Err(cause) => cause,
    }
}

async fn status(path: &Path, there: &mut There) -> Result<Status, Cause> {
    let question = Question {
        path: "/status",
        body: None,
        patience: STATUS_TIMEOUT,
        answer_bytes_max: STATUS_BYTES_MAX,
    };
    match question.put(path, there).await? {
        (StatusCode::OK, body) => understand(&body),
        _ => Err(Cause::Foreign),
    }
}

impl AskError {
    fn new(path: &Path, there: There, cause: Cause) -> Self {
        Self {
            path: path.to_path_buf(),
            there,
            cause,
        }
    }
}

/// One request.
struct Question<'a> {
    path: &'a str,
    /// If there is one, it is posted.
    body: Option<Vec<u8>>,
    patience: Duration,
    answer_bytes_max: usize,
}

impl Question<'_> {
    /// Asks at this socket, and sees who is there.
    async fn put(&self, path: &Path, there: &mut There) -> Result<(StatusCode, Bytes), Cause> {
        let answered = time::timeout(self.patience, self.exchange(path, there)).await;
        answered.unwrap_or(Err(Cause::Silent(self.patience)))
    }

    async fn exchange(&self, path: &Path, there: &mut There) -> Result<(StatusCode, Bytes), Cause> {
        let connected = UnixStream::connect(path).await;
        let stream = connected.map_err(|error| cause_of(error, path))?;
        *there = There::of(&stream);
        self.fetch(stream).await.map_err(|error| broken(&*error))
    }

    async fn fetch(
        &self,
        stream: UnixStream,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = match &self.body {
            None => Request::get(self.path).header(HOST, "localhost"),
            Some(_) => Request::post(self.path)
                .header(HOST, "localhost")
                .header(CONTENT_TYPE, "application/json"),
        };
        let request = request.body(Full::<Bytes>::from(self.body.clone().unwrap_or_default()))?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), self.answer_bytes_max);
            Ok((status, body.collect().await?.to_bytes()))
        };
        // The connection is what moves the bytes; that it ended well or badly, the answer tells.
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    }
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

fn understand<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Cause> {
    let origin = origin(body)?;
    // A daemon that is older lacks fields.
    match serde_json::from_slice(body) {
        Ok(status) if origin.schema == Status::SCHEMA => Ok(status),
        Ok(_) | Err(_) => Err(Cause::OtherVersion {
            version: shown_version(&origin.version),
        }),
    }
}

fn origin(body: &[u8]) -> Result<Origin, Cause> {
    match serde_json::from_slice::<Origin>(body) {
        Ok(origin) if origin.program == Status::PROGRAM => Ok(origin),
        Ok(_) | Err(_) => Err(Cause::Foreign),
    }
}

/// Who has answered something that is no answer to a command.
fn not_ours(body: &[u8]) -> Cause {
    match origin(body) {
        Ok(origin) => Cause::OtherVersion {
            version: shown_version(&origin.version),
        },
        Err(cause) => cause,
    }
}

fn shown_version(version: &str) -> String {
    Shown::line(version.as_bytes(), VERSION_CHARS_MAX).to_string()
}
