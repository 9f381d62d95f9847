//! Whether clients still find the sockets at their paths, and how they find them again.
//!
//! A path can be removed, or its directory replaced, and the socket lives on: nobody gets in any more. So each
//! second somebody looks, and where a path is free that was ours, it is bound again. What is there instead is
//! somebody else's, above all a successor's: it is only told. On a thread of its own: a file system that hangs
//! holds up nobody else.
//!
//! With `--when-down refuse`, the same thread takes sockets away from their paths while no endpoint of their route takes
//! connections, and brings them back. It goes by what is so when it looks, and never by what it has done: so what another
//! process has begun, such as one whose place was taken, is carried on or undone.

use std::fmt;
use std::future::pending;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time;

use crate::backend::Published;
use crate::counters::RouteCounters;
use crate::observe::Observed;

use super::helpers::SayEnd;
use super::listener::{self, FoundFile, ListenError, Listener, SocketFile};
use super::listening::{ListeningSocket, Place};
use super::sockets::{ClientSocket, SocketId};

/// As often as resolv.conf is looked at. One call for each socket.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the end waits for a look that is under way. Longer takes only a file system that hangs.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Which of the daemon's sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    /// That of clients.
    Clients(SocketId),
    Control,
}

/// A socket that is to take the place of another one, and listens.
pub(super) struct BoundAgain {
    pub(super) which: Which,
    pub(super) listener: Listener,
}

/// The thread, while it runs.
pub(super) struct Watch {
    /// It ends with the thread.
    bound_again: UnboundedReceiver<BoundAgain>,
    changes: mpsc::Sender<Change>,
    is_over: Arc<AtomicBool>,
    thread: Thread,
}

/// How often it is looked whether all workers have heard that an outage is over. Until then they send away whoever
/// comes.
const HEARD_INTERVAL: Duration = Duration::from_millis(2);

/// How long the workers are waited for. One that does not turn within that time serves none of its clients either way.
const HEARD_TIMEOUT: Duration = Duration::from_secs(1);

/// By whose outages a socket is away from its path: until they are over, and its workers have heard of that.
#[derive(Clone)]
pub(super) struct HiddenBy {
    pub(super) route: Arc<Published>,
    /// What each of its workers counts.
    pub(super) workers: Vec<Arc<RouteCounters>>,
}

/// For whoever knows that an outage begins or ends: has the thread look at once.
#[derive(Clone, Default)]
pub(super) struct WakeFiles(Arc<OnceLock<Thread>>);

impl WakeFiles {
    /// Before the thread runs there is nobody to wake, and its first look comes.
    pub(super) fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// What the thread is told.
enum Change {
    /// Looks after this one from now on as well.
    Watch(Watched),
    /// Of these, those with a route are away from their paths while it is out.
    Hide(Vec<(SocketId, Option<HiddenBy>)>),
    /// Looks after these no more. When the answer has come, none of them is bound any more.
    Forget(Vec<SocketId>, oneshot::Sender<()>),
}

/// A socket's file.
struct Watched {
    which: Which,
    file: SocketFile,
    /// Whether the socket begins and ends with us.
    is_ours: bool,
    /// While its route is out, the socket is away from its path.
    hidden_by: Option<HiddenBy>,
    /// Since when that is over, and a worker has yet to hear of it.
    over_since: Option<Instant>,
    seen: Seen,
    /// Why it is not, in the outage that there is.
    stays: Option<String>,
}

/// What was seen of it last, and told.
#[derive(PartialEq, Eq)]
enum Seen {
    InPlace,
    /// It is away, as it is to be.
    Hidden,
    /// And why it cannot be bound again, or brought back.
    Missing(String),
}

/// Why a socket is not bound again.
enum Obstacle {
    Bind(ListenError),
    BringBack(io::Error),
    Another,
    NotOurs,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => write!(f, "{error}"),
            Self::BringBack(error) => write!(
                f,
                "it was away from its path in an outage and cannot be brought back: {error} (give the daemon's user the \
                 right to write to the directory)"
            ),
            Self::Another => f.write_str(
                "another file is there, which is left alone (if it is not a successor's, remove it: the socket is \
                 then bound again)",
            ),
            Self::NotOurs => f.write_str(
                "it was passed to the daemon (restart its socket unit and the daemon; keep others from cleaning \
                 the directory)",
            ),
        }
    }
}

/// Starts the thread, which has nothing to look after yet. What `say_end` gives is dropped when it ends.
///
/// # Errors
/// If there is no room for a thread.
pub(super) fn start(
    observed: &Arc<Observed>,
    wake: &WakeFiles,
    say_end: SayEnd,
) -> io::Result<Watch> {
    let mut watched = Vec::new();
    let (bind, bound_again) = unbounded_channel();
    let (changes, told) = mpsc::channel();
    let is_over = Arc::new(AtomicBool::new(false));
    let (observed, over) = (Arc::clone(observed), Arc::clone(&is_over));
    let look = move || {
        let _say_end = say_end;
        while !over.load(Ordering::Acquire) {
            told.try_iter()
                .for_each(|change| heed(&mut watched, change));
            watched.iter_mut().for_each(|w| w.look(&over, &bind));
            count(&watched, &observed);
            // Not a sleep, of which the standard library takes no failure.
            let is_awaited = watched.iter().any(|watched| watched.over_since.is_some());
            match watched.is_empty() {
                true => thread::park(),
                false if is_awaited => thread::park_timeout(HEARD_INTERVAL),
                false => thread::park_timeout(LOOK_INTERVAL),
            }
        }
    };
    let thread = thread::Builder::new().name("socket-files".to_owned());
    let thread = thread.spawn(look)?;
    // There is one for as long as the daemon runs.
    wake.0.get_or_init(|| thread.thread().clone());
    Ok(Watch {
        bound_again,
        changes,
        is_over,
        thread: thread.thread().clone(),
    })
}

fn heed(watched: &mut Vec<Watched>, change: Change) {
    match change {
        Change::Watch(new) => watched.push(new),
        Change::Hide(all) => {
            for (id, hidden_by) in all {
                let mut of_it = watched.iter_mut();
                if let Some(it) = of_it.find(|watched| watched.which == Which::Clients(id)) {
                    it.hidden_by = hidden_by;
                }
            }
        }
        Change::Forget(which, done) => {
            let is_forgotten = |of: Which| matches!(of, Which::Clients(id) if which.contains(&id));
            watched.retain(|watched| !is_forgotten(watched.which));
            // Who does not wait any more goes on without.
            let _ = done.send(());
        }
    }
}

/// Nobody concludes anything from it about other memory.
fn count(watched: &[Watched], observed: &Observed) {
    let missing = |is_clients: bool| {
        let missing = watched.iter();
        let missing = missing.filter(|w| matches!(w.seen, Seen::Missing(_)));
        missing
            .filter(|w| matches!(w.which, Which::Clients(_)) == is_clients)
            .count()
    };
    let files = &observed.socket_files_missing;
    files.of_clients.store(missing(true), Ordering::Relaxed);
    files.of_control.store(missing(false), Ordering::Relaxed);
}

impl Watch {
    /// The next socket that takes another one's place.
    pub(super) async fn next(&mut self) -> BoundAgain {
        match self.bound_again.recv().await {
            Some(bound) => bound,
            // The thread has ended, and says so elsewhere.
            None => pending().await,
        }
    }

    /// Looks after another socket as well, if it has a file. That of a socket which was passed may be out of sight, in
    /// a container: then there is nothing to look after. While `hidden_by` is out, it is away from its path.
    pub(super) fn add(&self, (socket, hidden_by): (&ClientSocket, Option<HiddenBy>)) {
        if let Some(watched) = Watched::of(socket) {
            self.tell(Change::Watch(Watched {
                hidden_by,
                ..watched
            }));
        }
    }

    /// Sockets that are looked after are away from their paths by these routes' outages from now on, and by no others.
    pub(super) fn hide_by<'a>(
        &self,
        all: impl Iterator<Item = (&'a ClientSocket, Option<HiddenBy>)>,
    ) {
        let all = all.map(|(socket, hidden_by)| (socket.id, hidden_by));
        self.tell(Change::Hide(all.collect()));
    }

    /// Looks after that of the control socket as well.
    pub(super) fn add_control(&self, file: &SocketFile) {
        self.tell(Change::Watch(Watched {
            which: Which::Control,
            file: file.clone(),
            is_ours: true,
            hidden_by: None,
            over_since: None,
            seen: Seen::InPlace,
            stays: None,
        }));
    }

    /// Looks after these no more. Once this returns, none of them is bound any more, unless a look hangs: then what
    /// it binds in the end is nobody's, and goes again.
    pub(super) async fn forget(&self, which: Vec<SocketId>) {
        if which.is_empty() {
            return;
        }
        let (done, heeded) = oneshot::channel();
        self.tell(Change::Forget(which, done));
        if time::timeout(STOP_TIMEOUT, heeded).await.is_err() {
            tracing::warn!("a look at the sockets' files hangs: nobody waits for it");
        }
    }

    fn tell(&self, change: Change) {
        // A thread that has ended has said so, and the daemon ends.
        let _ = self.changes.send(change);
        self.thread.unpark();
    }

    /// Nothing is bound any more once this returns: what is given up then stays so. Returns what was bound last.
    pub(super) async fn stop(mut self) -> Vec<BoundAgain> {
        self.is_over.store(true, Ordering::Release);
        self.thread.unpark();
        let mut last = Vec::new();
        let ended = async {
            while let Some(bound) = self.bound_again.recv().await {
                last.push(bound);
            }
        };
        if time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::warn!("a look at the sockets' files hangs: the end does not wait for it");
        }
        last
    }
}

impl Watched {
    fn of(socket: &ClientSocket) -> Option<Self> {
        let which = Which::Clients(socket.id);
        let (file, is_ours) = match &socket.socket {
            ListeningSocket::Bound(listener) => (listener.socket_file()?.clone(), true),
            ListeningSocket::Inherited(inherited) => {
                let Place::Path(path) = inherited.place() else {
                    return None;
                };
                let path = PathBuf::from(std::ffi::OsString::from_vec(path.clone()));
                (SocketFile::of_another(path).ok()?, false)
            }
        };
        Some(Self {
            which,
            file,
            is_ours,
            hidden_by: None,
            over_since: None,
            seen: Seen::InPlace,
            stays: None,
        })
    }

    /// A pause goes before an outage: an operator wants everybody to wait.
    fn is_to_hide(&mut self) -> bool {
        let now = Instant::now();
        let over_since = self.over_since.take();
        let Some(HiddenBy { route, workers }) = &self.hidden_by else {
            return false;
        };
        if route.is_out() && route.paused_until(now).is_none() {
            return true;
        }
        let since = over_since.unwrap_or(now);
        let is_awaited = self.seen == Seen::Hidden
            && workers.iter().any(|worker| worker.out.get() > 0)
            && now < since + HEARD_TIMEOUT;
        self.over_since = is_awaited.then_some(since);
        is_awaited
    }

    fn look(&mut self, is_over: &AtomicBool, bound_again: &UnboundedSender<BoundAgain>) {
        // If it cannot be told, nothing has changed.
        let Ok(found) = self.file.find() else { return };
        // The daemon's own end may have removed it, and nothing is to come to be elsewhere meanwhile.
        let is_over = is_over.load(Ordering::Acquire);
        if self.is_to_hide() {
            return self.keep_away(found, is_over);
        }
        self.stays = None;
        let obstacle = match found {
            FoundFile::Ours => return self.is_in_place(),
            FoundFile::Nothing | FoundFile::Another if !self.is_ours => Obstacle::NotOurs,
            FoundFile::Another => Obstacle::Another,
            FoundFile::Nothing if is_over => return,
            FoundFile::Nothing if self.file.is_hidden() => match self.file.show() {
                Ok(()) => return self.is_in_place(),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Obstacle::Another,
                Err(error) => Obstacle::BringBack(error),
            },
            FoundFile::Nothing => match self.bind_again(bound_again) {
                Ok(()) => return,
                Err(error) => Obstacle::Bind(error),
            },
        };
        self.is_missing(obstacle.to_string());
    }

    /// It is to be away from its path. One that is gone altogether is bound again when the outage is over.
    fn keep_away(&mut self, found: FoundFile, is_over: bool) {
        match found {
            FoundFile::Another => self.is_missing(Obstacle::Another.to_string()),
            FoundFile::Nothing => self.seen = Seen::Hidden,
            FoundFile::Ours if is_over => {}
            FoundFile::Ours => match self.file.hide() {
                Ok(()) => {
                    (self.seen, self.stays) = (Seen::Hidden, None);
                    tracing::info!(
                        "the socket {self} is away from its path, at {}: no endpoint takes connections (--when-down \
                         refuse)",
                        self.file.hidden_path().display()
                    );
                }
                Err(error) => self.stays_for(error.to_string()),
            },
        }
    }

    /// Once for each obstacle in an outage.
    fn stays_for(&mut self, obstacle: String) {
        self.is_in_place();
        if self.stays.as_ref() == Some(&obstacle) {
            return;
        }
        tracing::error!(
            "the socket {self} cannot be taken away from its path, and its clients are closed at once, as with \
             --when-down close: {obstacle}"
        );
        self.stays = Some(obstacle);
    }

    fn bind_again(&mut self, bound_again: &UnboundedSender<BoundAgain>) -> Result<(), ListenError> {
        let mut listener = listener::bind_again(&self.file)?;
        listener.listen()?;
        if let Some(file) = listener.socket_file() {
            self.file = file.clone();
        }
        self.seen = Seen::InPlace;
        tracing::warn!(
            "the socket {self} was not there any more, and is bound again: its file or directory was removed or \
             replaced, and until now nobody could connect (keep others from cleaning the directory)"
        );
        // The main thread gives up before this one only where a look hangs; then the socket goes again.
        let _ = bound_again.send(BoundAgain {
            which: self.which,
            listener,
        });
        Ok(())
    }

    fn is_in_place(&mut self) {
        if self.seen != Seen::InPlace {
            self.seen = Seen::InPlace;
            tracing::info!("the socket {self} is there again");
        }
    }

    /// A line for each change: what is in the way may be another thing than before.
    fn is_missing(&mut self, obstacle: String) {
        let seen = Seen::Missing(obstacle);
        if self.seen == seen {
            return;
        }
        if let Seen::Missing(obstacle) = &seen {
            tracing::error!(
                "the socket {self} is not there any more: its file or directory was removed or replaced, and nobody \
                 can connect: {obstacle}"
            );
        }
        self.seen = seen;
    }
}

/// As `--listen` takes it.
impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.which {
            Which::Clients(_) => "",
            Which::Control => "for control ",
        };
        write!(f, "{what}unix:{}", self.file.path().display())
    }
}
