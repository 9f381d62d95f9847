//! The successor's side: a daemon that serves is asked for its place, and what it gives is taken.
//!
//! Until it has said that the sockets are ours, it serves, and nothing of it was changed.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time;

use crate::backend::{Address, Adjustment, Endpoint, PermitCounts, Published, SharedPermits};
use crate::commands::reply_from_json;
use crate::config::{Access, RouteName, RouteProtocol, UnixAddress, WhenDown};
use crate::shown::Shown;
use crate::worker::Mailbox;

use super::super::inherited;
use super::super::listener::{self, Listener, SocketFile};
use super::super::listening::Place;
use super::super::routes::ServedRoute;
use super::line::{Line, Said};
use super::offer::wake;
use super::wire::{
    ByHandOffer, ClientOffer, EndpointOffer, FileOffer, Held, Hello, Message, Names, Purpose,
    Ready, RouteOffer, SCHEMA, SocketOffer,
};

/// How long the predecessor may take to answer. It may be in the middle of a reload, which takes up to 15 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long it may take to leave its sockets to us: its workers have to give accepts back.
const YIELD_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of an answer in HTTP: a refusal has a line or two.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// How much is shown of what was not expected.
const SHOWN_CHARS_MAX: usize = 200;

/// More sockets than a daemon can have are a mistake.
const SOCKETS_MAX: usize = 65_536;

/// Why the place was not given.
#[derive(Debug, thiserror::Error)]
#[error("take over from the daemon at {}: {cause}", path.display())]
pub struct TakeOverError {
    path: PathBuf,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(
        "{0} (is it running, with --control and this path? Without --take-over this one starts on its own)"
    )]
    Connect(io::Error),
    #[error("{0}")]
    Refused(String),
    #[error(
        "it does not answer as spliceway does: {0} (give the path that it has as its --control)"
    )]
    Foreign(String),
    #[error("it speaks another version of this, {0}, and this is {SCHEMA} (restart instead)")]
    Schema(u32),
    #[error("{0} (see its log)")]
    Broken(io::Error),
    #[error("it ended the connection (see its log)")]
    Ended,
    #[error("no answer within {} s (see its log)", .0.as_secs())]
    Silent(Duration),
    #[error("{0}: it sent none (see its log)")]
    NoDescriptor(String),
}

/// The daemon whose place is taken.
pub(in super::super) struct Predecessor {
    path: PathBuf,
    line: Line,
    /// Its process, as far as it can be seen from here; 0 is none.
    pid: i32,
    names: Names,
}

/// What it has said while it comes to its end.
pub(in super::super) enum News {
    /// It may have so many connections of this route.
    Held(RouteName, PermitCounts),
    /// This client is ours now.
    Client(ArrivedClient),
    /// It has ended, or nothing more can be heard of it.
    Gone,
}

/// A client that it had accepted, and nothing of which it has read.
pub(in super::super) struct ArrivedClient {
    pub(in super::super) route: RouteName,
    /// Where it connected to.
    pub(in super::super) place: Place,
    pub(in super::super) connection: OwnedFd,
    /// What was read of it and not acted on.
    pub(in super::super) read: Vec<u8>,
}

/// What it has offered.
#[derive(Default)]
pub(in super::super) struct Offered {
    sockets: Vec<OfferedSocket>,
    routes: HashMap<String, RouteOffer>,
    /// The numbers of the sockets that are taken.
    taken: Vec<u32>,
}

struct OfferedSocket {
    offer: SocketOffer,
    place: Place,
    socket: OwnedFd,
}

impl Predecessor {
    /// Asks the daemon at this control socket for what it has. To be called on the runtime.
    ///
    /// # Errors
    /// One line with the obstacle and its remedy. The daemon goes on as before.
    pub(in super::super) async fn meet(path: &Path) -> Result<(Self, Offered), TakeOverError> {
        let met = async {
            let mut stream = UnixStream::connect(path).await.map_err(Cause::Connect)?;
            let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
            ask(&mut stream).await?;
            let mut line = Line::new(stream);
            greet(&mut line).await?;
            let mut offered = Offered::default();
            while offered.hear(heard(&mut line).await?)? {}
            Ok((line, pid.unwrap_or(0), offered))
        };
        let met = time::timeout(ANSWER_TIMEOUT, met).await;
        let met = met.unwrap_or(Err(Cause::Silent(ANSWER_TIMEOUT)));
        let (line, pid, offered) = met.map_err(|cause| TakeOverError {
            path: path.to_path_buf(),
            cause,
        })?;
        let predecessor = Self {
            path: path.to_path_buf(),
            line,
            pid,
            names: Names::default(),
        };
        Ok((predecessor, offered))
    }

    /// Routes begin with what it knew of them, and with none of the permits, until it has said how many it keeps.
    pub(in super::super) fn prepare(
        &mut self,
        routes: &mut [ServedRoute],
        offered: &Offered,
        (mailboxes, permits_freed): (&[Arc<Mailbox>], &Arc<Notify>),
    ) {
        for route in routes {
            self.restore(&route.route.published, offered);
            let before = offered.routes.get(route.config.name.as_str());
            if before.is_some_and(|before| before.down)
                && route.config.upstreams.when_down != WhenDown::Wait
            {
                // Nobody is let in, only to be sent away. Whoever watches begins with a look whether it is over.
                route.route.published.set_out(true);
            }
            let max = route.config.limits.per_endpoint_max;
            route.shared = max.map(|max| {
                let permits =
                    SharedPermits::new(max.most().get(), 1, wake(mailboxes, permits_freed));
                Arc::new(permits)
            });
        }
    }

    fn restore(&mut self, published: &Published, offered: &Offered) {
        let Some(route) = offered.routes.get(published.route().as_str()) else {
            return;
        };
        let endpoint = |names: &mut Names, offer: &EndpointOffer| {
            Some(Endpoint {
                address: names.address(&offer.address)?,
                priority: offer.priority,
                weight: offer.weight,
            })
        };
        let adjusted = |names: &mut Names, offer: &ByHandOffer| {
            let adjustment = Adjustment {
                is_drained: offer.drained,
                weight: offer.weight.and_then(|weight| weight.try_into().ok()),
            };
            Some((names.address(&offer.address)?, adjustment))
        };
        let endpoints = route.endpoints.iter();
        let endpoints = endpoints.filter_map(|offer| endpoint(&mut self.names, offer));
        let endpoints: Vec<_> = endpoints.collect();
        let by_hand = route.by_hand.iter();
        let by_hand = by_hand.filter_map(|offer| adjusted(&mut self.names, offer));
        published.restore(endpoints, by_hand, SystemTime::now());
    }

    /// Says that all that can fail has been done, and waits until the sockets are ours. Returns what it keeps of each
    /// route's permits; the rest is for these routes.
    ///
    /// # Errors
    /// One line with the obstacle and its remedy. The daemon goes on as before.
    pub(in super::super) async fn relieve(
        &mut self,
        offered: Offered,
        routes: &[ServedRoute],
    ) -> Result<HashMap<RouteName, Arc<PermitCounts>>, TakeOverError> {
        let mut kept = HashMap::new();
        let names_of = |is_such: fn(&RouteProtocol) -> bool| {
            let such = routes.iter().map(|route| &route.config);
            let such = such.filter(|config| is_such(&config.protocol));
            such.map(|config| config.name.to_string()).collect()
        };
        let ready = Ready {
            takes: offered.taken,
            clients: names_of(|_| true),
            reads: names_of(|protocol| matches!(protocol, RouteProtocol::Fastcgi(_))),
        };
        let yielded = async {
            let said = self.line.say(&Message::Ready(ready), None).await;
            said.map_err(Cause::Broken)?;
            loop {
                match heard(&mut self.line).await? {
                    (Message::Yours, _) => return Ok(()),
                    (Message::Held(held), _) => kept.extend(counts(held, &mut self.names)),
                    _ => {}
                }
            }
        };
        let yielded = time::timeout(YIELD_TIMEOUT, yielded).await;
        let yielded = yielded.unwrap_or(Err(Cause::Silent(YIELD_TIMEOUT)));
        yielded.map_err(|cause| self.error(cause))?;
        for route in routes {
            let Some(permits) = &route.shared else {
                continue;
            };
            let elsewhere = kept.get(&route.config.name);
            permits.leave_to_others(elsewhere.cloned().unwrap_or_default());
            permits.join_with_none();
        }
        let kept = kept.into_iter();
        Ok(kept.map(|(name, kept)| (name, Arc::new(kept))).collect())
    }

    /// Says that clients are served: once it has heard that, it does not come back.
    ///
    /// # Errors
    /// If it has not, and may serve again: then this process must not.
    pub(in super::super) async fn say_that_we_serve(&mut self) -> Result<(), TakeOverError> {
        let heard = async {
            let said = self.line.say(&Message::Serving, None).await;
            said.map_err(Cause::Broken)?;
            while heard(&mut self.line).await?.0 != Message::Relieved {}
            Ok(())
        };
        let heard = time::timeout(YIELD_TIMEOUT, heard).await;
        match heard.unwrap_or(Err(Cause::Silent(YIELD_TIMEOUT))) {
            Ok(()) => Ok(()),
            Err(cause) if listener::is_dead(self.pid) => {
                tracing::warn!(
                    "the daemon whose place this one takes has ended early: {}",
                    self.error(cause)
                );
                Ok(())
            }
            Err(cause) => Err(self.error(cause)),
        }
    }

    /// What it says next. Nothing is lost if the wait is given up.
    pub(in super::super) async fn next(&mut self) -> News {
        loop {
            match self.line.next().await {
                Ok(Some((Message::Held(held), _))) => {
                    if let Some((route, counts)) = counts(held, &mut self.names) {
                        return News::Held(route, counts);
                    }
                }
                Ok(Some((Message::Client(client), Some(connection)))) => {
                    if let Some(client) = ArrivedClient::new(client, connection) {
                        return News::Client(client);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return News::Gone,
                Err(error) => {
                    tracing::warn!("hear of the daemon that was here before: {error}");
                    return News::Gone;
                }
            }
        }
    }

    fn error(&self, cause: Cause) -> TakeOverError {
        TakeOverError {
            path: self.path.clone(),
            cause,
        }
    }
}

impl ArrivedClient {
    /// `None`: there can be no such route, or no waiting with it, and the client's connection ends.
    fn new(offer: ClientOffer, connection: OwnedFd) -> Option<Self> {
        let connection = std::os::unix::net::UnixStream::from(connection);
        connection.set_nonblocking(true).ok()?;
        Some(Self {
            route: offer.route.parse().ok()?,
            place: offer.place.into(),
            connection: connection.into(),
            read: offer.read.0,
        })
    }
}

impl Offered {
    /// Takes a message in. False: that was all.
    fn hear(&mut self, (message, descriptor): Said) -> Result<bool, Cause> {
        match message {
            Message::Socket(offer) => {
                let missing = || Cause::NoDescriptor(offer.place.clone());
                let socket = descriptor.ok_or_else(missing)?;
                // Another version's are for whoever knows what they are for.
                if self.sockets.len() < SOCKETS_MAX
                    && offer.purpose != Purpose::Unknown
                    && let Some(offered) = OfferedSocket::new(offer, socket)
                {
                    self.sockets.push(offered);
                }
            }
            Message::Route(route) => {
                self.routes.insert(route.route.clone(), route);
            }
            Message::Offered => return Ok(false),
            _ => {}
        }
        Ok(true)
    }

    /// The socket that listens at this address for clients, if the daemon had one and its file is there.
    pub(in super::super) fn take_for_clients(
        &mut self,
        address: &UnixAddress,
        access: &Access,
    ) -> Option<Listener> {
        self.take_listener(Purpose::Clients, address, access)
    }

    /// The control socket, if it is at this address.
    pub(in super::super) fn take_control(
        &mut self,
        address: &UnixAddress,
        access: &Access,
    ) -> Option<Listener> {
        self.take_listener(Purpose::Control, address, access)
    }

    /// The socket of the metrics address, if it is that one.
    pub(in super::super) fn take_metrics(
        &mut self,
        address: std::net::SocketAddr,
    ) -> Option<OwnedFd> {
        let taken =
            self.take(|s| s.offer.purpose == Purpose::Metrics && s.place == Place::Tcp(address));
        taken.map(|taken| taken.socket)
    }

    /// Sockets that were passed to the daemon, with their names: all of them.
    pub(in super::super) fn take_passed(&mut self) -> Vec<(String, OwnedFd)> {
        let is_passed = |socket: &OfferedSocket| socket.offer.passed_as.is_some();
        let mut passed = Vec::new();
        while let Some(OfferedSocket { offer, socket, .. }) = self.take(is_passed) {
            passed.extend(offer.passed_as.map(|name| (name, socket)));
        }
        passed
    }

    fn take_listener(
        &mut self,
        purpose: Purpose,
        address: &UnixAddress,
        access: &Access,
    ) -> Option<Listener> {
        let place = Place::of(address);
        let is_meant = |socket: &OfferedSocket| {
            let offer = &socket.offer;
            offer.purpose == purpose && offer.passed_as.is_none() && socket.place == place
        };
        let OfferedSocket { offer, socket, .. } = self.take(is_meant)?;
        let (file, before) = match (address, offer.file) {
            (UnixAddress::Path(path), Some(file)) => (Some(file.of(path)), file.access()),
            (UnixAddress::Path(_), None) => return self.leave(offer.number),
            (UnixAddress::Abstract(_), _) => (None, Access::default()),
        };
        match listener::adopt(socket, address, file, (access, before)) {
            Ok(listener) => Some(listener),
            Err(listener::NotThere) => self.leave(offer.number),
        }
    }

    fn take(&mut self, is_meant: impl Fn(&OfferedSocket) -> bool) -> Option<OfferedSocket> {
        let at = self.sockets.iter().position(is_meant)?;
        let taken = self.sockets.remove(at);
        self.taken.push(taken.offer.number);
        Some(taken)
    }

    /// It is not taken after all.
    fn leave<T>(&mut self, number: u32) -> Option<T> {
        self.taken.retain(|taken| *taken != number);
        None
    }
}

impl OfferedSocket {
    /// The kernel says what it is and where it listens. `None`: it is nothing that can be served.
    fn new(offer: SocketOffer, socket: OwnedFd) -> Option<Self> {
        let shown = || Shown::line(offer.place.as_bytes(), SHOWN_CHARS_MAX);
        if let Err(what) = inherited::check(socket.as_fd()) {
            tracing::warn!("the daemon offers {}, which is {what}: left out", shown());
            return None;
        }
        let listener = UnixListener::from(socket);
        let examined = listener.set_nonblocking(true);
        match examined.and_then(|()| inherited::place(&listener)) {
            Ok(place) => Some(Self {
                offer,
                place,
                socket: listener.into(),
            }),
            Err(error) => {
                tracing::warn!("the daemon offers {}: {error}: left out", shown());
                None
            }
        }
    }
}

impl FileOffer {
    fn of(&self, path: &Path) -> SocketFile {
        let id = (self.device, self.inode);
        SocketFile::of_predecessor(path.to_path_buf(), id, self.mode, (self.user, self.group))
    }

    /// For whom it was made.
    fn access(&self) -> Access {
        let account = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok());
        Access {
            mode: self.mode,
            owner: account(&self.owner_option),
            group: account(&self.group_option),
        }
    }
}

/// `None`: there is no such route.
fn counts(held: Held, names: &mut Names) -> Option<(RouteName, PermitCounts)> {
    let mut of = HashMap::new();
    for endpoint in &held.endpoints {
        let address: Option<Address> = names.address(&endpoint.address);
        of.extend(address.map(|address| (address, endpoint.count)));
    }
    let counts = PermitCounts {
        of,
        of_others: held.of_others,
    };
    Some((held.route.parse().ok()?, counts))
}

/// The first messages.
async fn greet(line: &mut Line) -> Result<(), Cause> {
    let hello = Message::Hello(Hello {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
    });
    line.say(&hello, None).await.map_err(Cause::Broken)?;
    match heard(line).await? {
        (Message::Hello(Hello { schema, .. }), _) if schema == SCHEMA => Ok(()),
        (Message::Hello(Hello { schema, .. }), _) => Err(Cause::Schema(schema)),
        (message, _) => Err(Cause::Foreign(format!("{message:?}"))),
    }
}

/// The next message, which is no refusal.
async fn heard(line: &mut Line) -> Result<Said, Cause> {
    match line.next().await {
        Ok(Some((Message::Refused { line }, _))) => {
            let line = Shown::line(line.as_bytes(), SHOWN_CHARS_MAX);
            Err(Cause::Refused(line.to_string()))
        }
        Ok(Some(said)) => Ok(said),
        Ok(None) => Err(Cause::Ended),
        Err(error) => Err(Cause::Broken(error)),
    }
}

/// Asks in HTTP for what comes then. Nothing of that is read.
async fn ask(stream: &mut UnixStream) -> Result<(), Cause> {
    const REQUEST: &[u8] =
        b"POST /take-over HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\
        Upgrade: spliceway-take-over\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(REQUEST).await.map_err(Cause::Broken)?;
    let mut answer = Vec::new();
    // The daemon says no more until it has heard us.
    while !answer.ends_with(b"\r\n\r\n") && answer.len() < ANSWER_BYTES_MAX {
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Cause::Ended),
            Err(error) => return Err(Cause::Broken(error)),
        }
    }
    if answer.starts_with(b"HTTP/1.1 101 ") {
        return Ok(());
    }
    if !answer.starts_with(b"HTTP/") {
        // It may go on for ever.
        return Err(refusal(&answer, b""));
    }
    let head = answer.len();
    let mut rest = stream.take(ANSWER_BYTES_MAX as u64);
    rest.read_to_end(&mut answer).await.map_err(Cause::Broken)?;
    Err(refusal(&answer[..head], &answer[head..]))
}

/// What an answer in HTTP means that is no consent.
fn refusal(head: &[u8], body: &[u8]) -> Cause {
    if let Some(reply) = reply_from_json(body) {
        return Cause::Refused(reply.lines.join("; "));
    }
    if head.starts_with(b"HTTP/1.1 404 ") {
        let line = "it is of a version that cannot be taken over from (restart it instead)";
        return Cause::Refused(line.to_owned());
    }
    let first = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Cause::Foreign(Shown::line(first, SHOWN_CHARS_MAX).to_string())
}
