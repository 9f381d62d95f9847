//! Commands over the control socket: `POST /command`, with the command as JSON.
//!
//! They are for root and for the user as whom the daemon runs, whoever else may have come to open the socket. A
//! command may wait for minutes, so it has a time and a place of its own. Who leaves does not wait any more; what the
//! command has begun goes on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, ORIGIN, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use spliceway_common::sys::namespace::effective_ids;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{self, Instant};

use super::{Progress, headless, method_not_allowed, of};
use crate::commands::{
    Arrival, COMMAND_BYTES_MAX, Commander, ControlOutcome, ControlReply, command_from_json,
    reply_to_json,
};
use crate::observe::Failures;
use crate::sys::net;

/// Where commands are taken.
pub(super) const PATH: &str = "/command";

/// Where a process comes that takes the daemon's place.
pub(super) const TAKE_OVER_PATH: &str = "/take-over";

/// What the connection is for after that (`Upgrade`, RFC 9110, section 7.8).
const TAKE_OVER_PROTOCOL: &str = "spliceway-take-over";

/// Commands that wait for their answers at one time: an operator gives one after the other, and a deploy one for each
/// of some routes.
pub(crate) const COMMANDS_MAX: usize = 16;

/// How often is looked whether whoever waits for an answer is still there. Nothing but a wait ends with that.
const PRESENCE_INTERVAL: Duration = Duration::from_millis(500);

/// Takes the commands of one control socket.
pub(super) struct Desk {
    commander: Commander,
    /// For those that wait for an answer.
    places: Arc<Semaphore>,
    /// Commands of those who may not give any.
    rejected: Failures,
}

impl Desk {
    pub(super) fn new(commander: Commander) -> Self {
        Self {
            commander,
            places: Arc::new(Semaphore::new(COMMANDS_MAX)),
            rejected: Failures::default(),
        }
    }
}

/// What becomes of the connection when the answer is sent: another protocol, if it is a successor's.
#[derive(Default)]
pub(super) struct Successor(Mutex<Option<OnUpgrade>>);

impl Successor {
    fn expect(&self, upgrade: OnUpgrade) {
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *expected = Some(upgrade);
    }
}

/// Whoever is at the other end of a connection to the control socket.
pub(super) struct Operator {
    desk: Arc<Desk>,
    /// As whom it connected, as far as the kernel knows.
    uid: Option<u32>,
    /// Which process it is, as far as the kernel knows.
    pid: Option<u32>,
    /// The connection, to see whether it is still there.
    presence: OwnedFd,
}

impl Operator {
    /// Who made this connection.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(super) fn of(stream: &UnixStream, desk: Arc<Desk>) -> io::Result<Self> {
        let peer = stream.peer_cred().ok();
        Ok(Self {
            desk,
            uid: peer.map(|peer| peer.uid()),
            pid: peer.and_then(|peer| u32::try_from(peer.pid()?).ok()),
            presence: net::duplicate(stream.as_fd())?,
        })
    }

    /// Has the command of a request carried out.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        progress: &Progress,
    ) -> Response<Full<Bytes>> {
        match *request.method() {
            Method::POST => {}
            Method::HEAD => return headless(only_post()),
            _ => return only_post(),
        }
        if !self.may_command() {
            return of_reply(StatusCode::FORBIDDEN, &self.reject());
        }
        if is_of_a_web_page(request.headers()) {
            return of_reply(StatusCode::FORBIDDEN, &for_no_web_page());
        }
        let body = Limited::new(request.into_body(), COMMAND_BYTES_MAX);
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                let (status, line) = unread(&*error);
                return of_reply(status, &ControlReply::mistaken([line]));
            }
        };
        let command = match command_from_json(&body) {
            Ok(command) => command,
            Err(line) => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                return of_reply(status, &ControlReply::mistaken([line]));
            }
        };
        let Ok(place) = Arc::clone(&self.desk.places).try_acquire_owned() else {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return of_reply(status, &no_place());
        };
        progress.begin_command(place);
        let by = self
            .uid
            .map_or_else(String::new, |uid| format!("uid {uid}"));
        let reply = tokio::select! {
            reply = self.desk.commander.give(command, &by) => reply,
            // The answer is for nobody.
            () = self.left() => ControlReply::refused([]),
        };
        progress.end_command();
        of_reply(status_of(reply.outcome), &reply)
    }

    /// Lets a process take the daemon's place: what follows on this connection is for the main loop.
    pub(super) fn welcome_successor(
        &self,
        mut request: Request<Incoming>,
        successor: &Successor,
    ) -> Response<Full<Bytes>> {
        if request.method() != Method::POST {
            return only_post();
        }
        if !self.may_command() {
            return of_reply(StatusCode::FORBIDDEN, &self.reject());
        }
        let protocol = HeaderValue::from_static(TAKE_OVER_PROTOCOL);
        if request.headers().get(UPGRADE) != Some(&protocol) {
            let line = format!(
                "a successor is to ask for the protocol {TAKE_OVER_PROTOCOL} (use 'spliceway run --take-over')"
            );
            let status = StatusCode::UPGRADE_REQUIRED;
            return of_reply(status, &ControlReply::mistaken([line]));
        }
        successor.expect(hyper::upgrade::on(&mut request));
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
        response
    }

    /// The conversation in HTTP is over, if it was one with a successor.
    pub(super) async fn hand_on(self, successor: Successor) {
        let upgrade = successor.0.into_inner();
        let Some(upgrade) = upgrade.unwrap_or_else(PoisonError::into_inner) else {
            return;
        };
        // It says nothing until it is answered, so nothing of it was read. The connection has another descriptor.
        match upgrade.await {
            Ok(upgraded) => drop(upgraded),
            Err(error) => return tracing::debug!("a successor has left: {error}"),
        }
        self.desk.commander.announce(Arrival {
            connection: self.presence,
            uid: self.uid,
            pid: self.pid,
        });
    }

    /// Whether it is root, or the user as whom the daemon runs.
    pub(super) fn may_command(&self) -> bool {
        let (ours, _) = effective_ids();
        self.uid.is_some_and(|uid| uid == 0 || uid == ours)
    }

    /// As whom it connected, for people.
    pub(super) fn user(&self) -> String {
        let unknown = || "unknown".to_owned();
        self.uid.map_or_else(unknown, |uid| uid.to_string())
    }

    fn reject(&self) -> ControlReply {
        let uid = self.user();
        if let Some(count) = self.desk.rejected.count(Instant::now().into_std()) {
            tracing::warn!(
                uid,
                count,
                "commands on the control socket of a user who may not give any were rejected"
            );
        }
        let (ours, _) = effective_ids();
        ControlReply::refused([format!(
            "user {uid} may not command the daemon (do it as root, or as user {ours}, as whom it runs)"
        )])
    }

    /// Returns once the other end is closed. A client that has said all it wants, and only ended its side, is there.
    async fn left(&self) {
        while !net::peer_is_gone(&self.presence) {
            time::sleep(PRESENCE_INTERVAL).await;
        }
    }
}

/// Whoever has forwarded the socket to a port, to look at the status page, lets every web page post there that it opens.
/// Browsers say on whose behalf they post, and nothing else does.
fn is_of_a_web_page(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site")
}

fn for_no_web_page() -> ControlReply {
    ControlReply::refused([
        "a browser sends this: web pages may not command the daemon (use 'spliceway', or curl)"
            .to_owned(),
    ])
}

fn only_post() -> Response<Full<Bytes>> {
    method_not_allowed("POST", "only POST, with a command as JSON\n")
}

fn unread(error: &(dyn std::error::Error + Send + Sync + 'static)) -> (StatusCode, String) {
    match error.downcast_ref::<LengthLimitError>() {
        Some(_) => (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a command is too long (send at most {COMMAND_BYTES_MAX} bytes)"),
        ),
        None => (
            StatusCode::BAD_REQUEST,
            "a command has come to an end in its middle (send it whole)".to_owned(),
        ),
    }
}

fn no_place() -> ControlReply {
    ControlReply::refused([format!(
        "{COMMANDS_MAX} commands wait for their ends already (end one that waits, or try again later)"
    )])
}

fn status_of(outcome: ControlOutcome) -> StatusCode {
    match outcome {
        ControlOutcome::Done => StatusCode::OK,
        ControlOutcome::Refused => StatusCode::CONFLICT,
        ControlOutcome::Mistaken => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn of_reply(status: StatusCode, reply: &ControlReply) -> Response<Full<Bytes>> {
    of(status, "application/json", reply_to_json(reply).into())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream as Client;
    use std::path::PathBuf;
    use std::sync::atomic::AtomicBool;

    use tokio::net::UnixListener;
    use tokio::runtime;
    use tokio::sync::watch;

    use super::super::{CONNECTION_TIMEOUT, CONNECTIONS_MAX, SiteListener, serve, tests};
    use super::*;
    use crate::backend::Published;
    use crate::commands::{Asked, Commands, ControlCommand, channel, reply_from_json};

    /// A control socket, of which the tests are the main loop.
    struct Stage {
        runtime: runtime::Runtime,
        commands: Commands,
        path: PathBuf,
        _dir: tempfile::TempDir,
        _open: watch::Sender<()>,
    }

    impl Stage {
        fn new() -> Self {
            let runtime = runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("control.sock");
            let _inside = runtime.enter();
            let listener = UnixListener::bind(&path).unwrap();
            let (commander, commands) = channel();
            let alive = Arc::new(AtomicBool::new(true));
            let observed = tests::observed(&alive, &Arc::new(Published::new(|| {})));
            let (open, is_open) = watch::channel(());
            let listening = SiteListener::Control(listener, commander);
            runtime.spawn(serve(listening, Arc::new(observed), is_open));
            drop(_inside);
            Self {
                runtime,
                commands,
                path,
                _dir: dir,
                _open: open,
            }
        }

        fn ask(&self, request: &str) -> Client {
            let mut client = Client::connect(&self.path).unwrap();
            let guard = Some(Duration::from_secs(60));
            client.set_read_timeout(guard).unwrap();
            client.write_all(request.as_bytes()).unwrap();
            client
        }

        fn say(&self, request: &str) -> String {
            rest(self.ask(request))
        }

        /// The next command that reaches the main loop.
        fn next(&mut self) -> Asked {
            let next = async { time::timeout(Duration::from_secs(60), self.commands.next()).await };
            self.runtime.block_on(next).expect("a command comes")
        }

        /// No command comes in between.
        #[track_caller]
        fn assert_next_is_resume(&mut self) {
            let resume = self.ask(&post(r#"{"command": "resume", "route": "a"}"#));
            let Asked { command, asker } = self.next();
            assert_eq!(command.to_string(), "resume a");
            asker.tell(ControlReply::done([]));
            assert!(rest(resume).starts_with("HTTP/1.1 200 "));
        }
    }

    fn rest(mut client: Client) -> String {
        let mut answer = Vec::new();
        // Who was refused may have been reset.
        let _ = client.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn post(body: &str) -> String {
        let length = body.len();
        format!("POST /command HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
    }

    fn reload() -> String {
        post(r#"{"command": "reload"}"#)
    }

    #[track_caller]
    fn reply(answer: &str) -> ControlReply {
        let (_, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        reply_from_json(body.as_bytes()).unwrap_or_else(|| panic!("{answer}"))
    }

    #[test]
    fn a_command_gets_the_answer_of_the_main_loop() {
        let mut stage = Stage::new();
        let line = || ["route a: weight".to_owned()];
        for (given, status) in [
            (ControlReply::done(line()), "200 "),
            (ControlReply::refused(line()), "409 "),
            (ControlReply::mistaken([]), "422 "),
        ] {
            let client = stage.ask(&reload());
            let Asked { command, asker } = stage.next();
            assert_eq!(command, ControlCommand::Reload);
            asker.tell(given.clone());
            let answer = rest(client);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
            assert_eq!(reply(&answer), given);
        }
    }

    #[test]
    fn commands_are_posted() {
        let mut stage = Stage::new();
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            let answer = stage.say(&reload().replace("POST", method));
            assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
            assert!(answer.contains("allow: POST\r\n"), "{answer}");
            let has_body = !answer.ends_with("\r\n\r\n");
            assert_eq!(has_body, method != "HEAD", "{answer}");
        }
        let answer = stage.say("GET /status HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let answer = stage.say(&reload().replace("/command", "/reload"));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(answer.ends_with("and commands at /command\n"), "{answer}");
        stage.assert_next_is_resume();
    }

    #[test]
    fn what_is_no_command_does_not_reach_the_main_loop() {
        let mut stage = Stage::new();
        for (body, problem) in [
            ("", "not a command"),
            ("reload", "not a command"),
            (r#"{"command": "reboot"}"#, "unknown command 'reboot'"),
            (r#"{"command": "pause"}"#, "pause: route is missing"),
        ] {
            let answer = stage.say(&post(body));
            assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
            let ControlReply { outcome, lines } = reply(&answer);
            assert_eq!(outcome, ControlOutcome::Mistaken);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].contains(problem), "{lines:?}");
        }
        stage.assert_next_is_resume();
    }

    #[test]
    fn web_pages_give_no_commands() {
        let mut stage = Stage::new();
        for header in [
            "Origin: null",
            "Origin: http://localhost:8080",
            "Sec-Fetch-Site: same-origin",
        ] {
            let request = reload().replace("Host: x\r\n", &format!("Host: x\r\n{header}\r\n"));
            let answer = stage.say(&request);
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
            let ControlReply { outcome, lines } = reply(&answer);
            assert_eq!(outcome, ControlOutcome::Refused);
            assert!(lines[0].contains("a browser sends this"), "{lines:?}");
        }
        stage.assert_next_is_resume();
    }

    #[test]
    fn a_command_is_bounded_and_whole() {
        let mut stage = Stage::new();
        let name = "a".repeat(COMMAND_BYTES_MAX);
        let long = format!(r#"{{"command": "resume", "route": "{name}"}}"#);
        let answer = stage.say(&post(&long));
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert_eq!(reply(&answer).lines.len(), 1);
        let chunk = format!("{:x}\r\n{long}\r\n", long.len());
        let chunked = "POST /command HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = stage.say(&format!("{chunked}{chunk}"));
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

        let half = reload();
        let client = stage.ask(&half[..half.len() - 5]);
        client.shutdown(Shutdown::Write).unwrap();
        let answer = rest(client);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{answer}"
        );
        stage.assert_next_is_resume();
    }

    #[test]
    fn who_has_left_does_not_wait_any_more() {
        let mut stage = Stage::new();
        let client = stage.ask(&reload());
        let mut asked = stage.next();
        drop(client);
        let left = async { time::timeout(Duration::from_secs(60), asked.asker.left()).await };
        stage.runtime.block_on(left).expect("it is noticed");
    }

    #[test]
    fn who_has_ended_its_side_is_answered() {
        let mut stage = Stage::new();
        let mut client = stage.ask(&reload());
        client.shutdown(Shutdown::Write).unwrap();
        let mut asked = stage.next();
        let a_while = PRESENCE_INTERVAL * 3;
        client.set_read_timeout(Some(a_while)).unwrap();
        let nothing = client.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(nothing, Err(ErrorKind::WouldBlock));
        let left = async { time::timeout(Duration::ZERO, asked.asker.left()).await };
        assert!(stage.runtime.block_on(left).is_err(), "it is there");
        asked.asker.tell(ControlReply::done([]));
        assert_eq!(reply(&rest(client)), ControlReply::done([]));
    }

    #[test]
    fn a_command_may_take_longer_than_another_request() {
        let mut stage = Stage::new();
        let mut client = stage.ask(&reload());
        let asked = stage.next();
        let longer = CONNECTION_TIMEOUT + Duration::from_secs(1);
        client.set_read_timeout(Some(longer)).unwrap();
        let nothing = client.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(nothing, Err(ErrorKind::WouldBlock));
        asked.asker.tell(ControlReply::done([]));
        assert_eq!(reply(&rest(client)), ControlReply::done([]));
    }

    #[test]
    fn other_requests_do_not_take_the_place_of_a_command() {
        let mut stage = Stage::new();
        let first = stage.ask(&reload());
        let asked = stage.next();
        // Those that have asked, too: their command has begun, and does not come to its end.
        let half = reload();
        let others: Vec<_> = (0..3 * CONNECTIONS_MAX)
            .map(|number| match number % 8 {
                0 => stage.ask(""),
                _ => stage.ask(&half[..half.len() - 5]),
            })
            .collect();
        let answer = stage.say("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        drop(others);
        asked.asker.tell(ControlReply::done([]));
        assert_eq!(reply(&rest(first)), ControlReply::done([]));
    }

    #[test]
    fn more_commands_than_there_are_places_are_refused() {
        let mut stage = Stage::new();
        let waiting: Vec<_> = (0..COMMANDS_MAX)
            .map(|_| (stage.ask(&reload()), stage.next()))
            .collect();
        let answer = stage.say(&reload());
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert_eq!(reply(&answer).outcome, ControlOutcome::Refused);
        for (client, asked) in waiting {
            asked.asker.tell(ControlReply::done([]));
            assert_eq!(reply(&rest(client)), ControlReply::done([]));
        }
        stage.assert_next_is_resume();
    }

    #[test]
    fn a_daemon_that_ends_says_so() {
        let mut stage = Stage::new();
        let client = stage.ask(&reload());
        drop(stage.next());
        let answer = rest(client);
        assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
        assert!(reply(&answer).lines[0].contains("is about to end"));
    }

    #[test]
    fn commands_are_for_root_and_the_daemons_user() {
        let (ours, _) = effective_ids();
        for (uid, may) in [
            (Some(0), true),
            (Some(ours), true),
            (Some(ours + 1), false),
            (None, false),
        ] {
            let (commander, _commands) = channel();
            let (socket, _) = Client::pair().unwrap();
            let operator = Operator {
                desk: Arc::new(Desk::new(commander)),
                uid,
                pid: None,
                presence: socket.into(),
            };
            assert_eq!(operator.may_command(), may, "{uid:?}");
            assert_eq!(operator.reject().outcome, ControlOutcome::Refused);
        }
    }
}
