//! Listening sockets: bound with exact permissions, never stolen, removed only if they are ours.
//!
//! Two dangers shape the order of steps. A client must never meet a socket that is more open than
//! configured: the mode is set before the name exists, and until the last step, listen(2), a
//! connect is refused: it is taken when nothing else can fail any more. And a path must never be taken from a process that serves it: a socket file
//! is removed only when nobody listens on it, under a lock that spans from that question to our own
//! listen(2), so that two starting processes cannot each take the other for dead.
//!
//! Binding to a temporary name and renaming it would be shorter, but clients would then see the
//! temporary name in getpeername(2), and a rename steals from a live listener without asking.

mod file;
mod file_id;
mod hidden;
mod lock;
#[cfg(test)]
mod tests;

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{Access, Account, UnixAddress};
use crate::sys::socket_file::{self, SocketName};
use crate::sys::{account, net};
use file::pin;
pub use file::{FoundFile, SocketFile};
use file_id::{FileId, Unlinked};
pub use hidden::HideError;
use lock::PathLock;

/// Connections that may wait to be accepted. Linux cuts it to `net.core.somaxconn`, which is 4096
/// by default since 5.4: a larger number would promise what most systems do not keep.
pub const LISTEN_BACKLOG: i32 = 4096;

/// How often a socket file may be in the way of one bind: once as a stale one, and twice more
/// because somebody who does not know of our lock was faster.
const BIND_TRIES: u32 = 3;

/// How long the socket of a process that has ended may take to be released. A restart right after
/// kill -9 was seen to find it alive; how long that lasts was not measured, and the kernel does it on
/// a worker thread, which a busy machine can delay.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often to look meanwhile.
const RELEASE_PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// A socket that accepts connections once it listens; dropping it removes its path and closes it.
#[derive(Debug)]
pub struct Listener {
    /// Dropped after the path is removed: until it listens, nobody else may take the path.
    lock: Option<PathLock>,
    socket: OwnedFd,
    address: UnixAddress,
    /// The file that we made; `None` if the address has none or it is removed already.
    file: Option<FileId>,
    /// How it was made; `None` if the address has none.
    made: Option<SocketFile>,
    /// Of a socket that was taken over: for whom it is to be, and for whom it was made.
    access: Option<Box<(Access, Access)>>,
}

/// Why there is no listener: one line with what was to be bound, the obstacle and its remedy.
#[derive(Debug, thiserror::Error)]
#[error("bind {address}: {cause}")]
pub struct ListenError {
    address: UnixAddress,
    cause: Cause,
}

/// The obstacle to a bind, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[allow(
    missing_docs,
    reason = "the messages say it, and the fields are what they name"
)]
pub enum Cause {
    #[error("no user named {name} (create it, or give its number)")]
    UnknownUser { name: String },
    #[error("no group named {name} (create it, or give its number)")]
    UnknownGroup { name: String },
    #[error("no such directory {} (create it first)", directory.display())]
    NoDirectory { directory: PathBuf },
    #[error("{} is not a directory (choose another path)", directory.display())]
    NotADirectory { directory: PathBuf },
    #[error("{} is on a read-only file system (choose another path)", directory.display())]
    ReadOnly { directory: PathBuf },
    #[error(
        "permission denied (the directory belongs to uid {uid}; run as that user or choose a \
         directory you may write)"
    )]
    DirectoryDenied { uid: u32 },
    #[error(
        "permission denied (a directory above {} may not be searched; choose another path)",
        directory.display()
    )]
    SearchDenied { directory: PathBuf },
    #[error("another process is starting on this path (wait for it or choose another path)")]
    Starting,
    #[error(
        "{} is not a lock file that we may take (remove it, or choose another path)",
        lock.display()
    )]
    ForeignLock { lock: PathBuf },
    #[error("a file that is not a socket is there (remove it or choose another path)")]
    NotASocket,
    #[error("another process is listening there (stop it or choose another path)")]
    Live,
    #[error("another process has this abstract name (stop it or choose another name)")]
    AbstractLive,
    #[error(
        "the socket that is there may be in use: {error} (stop who uses it and remove the file, or \
         choose another path)"
    )]
    PerhapsLive { error: io::Error },
    #[error(
        "the stale socket there cannot be removed: {error} (remove it as its owner or choose \
         another path)"
    )]
    StaleKept { error: io::Error },
    #[error("another process keeps taking the path (stop it or choose another path)")]
    Contended,
    #[error("another file is there (remove it, or restart the daemon once it is gone)")]
    Taken,
    #[error(
        "another process listens there, and has taken its socket away from the path while its backends are down: it \
         is {} (stop it or choose another path)",
        hidden.display()
    )]
    LiveHidden { hidden: PathBuf },
    #[error("another file is at {} (remove it)", hidden.display())]
    HiddenTaken { hidden: PathBuf },
    #[error(
        "permission denied (in a directory with the sticky bit, only uid {owner} may rename its socket; run as that \
         user, or choose a directory of your own)"
    )]
    Sticky { owner: u32 },
    #[error(
        "no permission to change the owner of the socket (run as root; others may only choose a group \
         that they belong to)"
    )]
    OwnerDenied,
    #[error(
        "the owner or group has no meaning in this user namespace (choose an id that is mapped in \
         the container)"
    )]
    OwnerUnmapped,
    #[error("cannot {step}: {error}")]
    System {
        step: &'static str,
        error: io::Error,
    },
}

impl ListenError {
    /// Whether it is a right that is missing.
    pub fn is_denied(&self) -> bool {
        matches!(
            self.cause,
            Cause::DirectoryDenied { .. } | Cause::SearchDenied { .. } | Cause::OwnerDenied
        )
    }
}

/// Binds the address, with the mode and the owners of `access` if it is a path. Until [`Listener::listen`],
/// connects are refused: whoever begins to start and fails has let nobody in.
///
/// The umask of the process is 0 for an instant: threads create files in `socket_file::under_umask`.
///
/// # Errors
/// One line with the obstacle and its remedy. Nothing that this call created is left behind, and
/// nothing else was removed but a socket on which nobody listened.
pub fn bind(address: &UnixAddress, access: &Access) -> Result<Listener, ListenError> {
    let bound = match address {
        UnixAddress::Path(path) => bind_path(path, access),
        UnixAddress::Abstract(name) => bind_abstract(name),
    };
    bound.map_err(|cause| ListenError {
        address: address.clone(),
        cause,
    })
}

/// Binds a path once more whose file is gone, with the mode and the owners that the file had. Whatever is
/// there now stays: it is somebody else's, also if nobody listens on it, as between bind(2) and listen(2).
///
/// # Errors
/// One line with the obstacle and its remedy. Nothing that this call created is left behind.
pub fn bind_again(file: &SocketFile) -> Result<Listener, ListenError> {
    let bound = PathLock::take(&file.path).and_then(|lock| {
        let mut listener = claim(
            &file.path,
            file.mode,
            SocketOwners::of(file),
            InTheWay::Stays,
        )?;
        listener.lock = Some(lock);
        Ok(listener)
    });
    bound.map_err(|cause| ListenError {
        address: UnixAddress::Path(file.path.clone()),
        cause,
    })
}

/// A socket of another process that listens at `address`, which this one takes over with its file.
///
/// # Errors
/// If the file is not there any more, or is another one: then the address can be bound anew.
pub fn adopt(
    socket: OwnedFd,
    address: &UnixAddress,
    file: Option<SocketFile>,
    (wanted, before): (&Access, Access),
) -> Result<Listener, NotThere> {
    if let Some(file) = &file
        && !file.is_there()
    {
        return Err(NotThere);
    }
    Ok(Listener {
        lock: None,
        socket,
        address: address.clone(),
        // It is the other process's until that has left it to us.
        file: None,
        access: file.is_some().then(|| Box::new((wanted.clone(), before))),
        made: file,
    })
}

/// A socket's file is not where it was.
#[derive(Debug)]
pub struct NotThere;

/// Whether the owner and the group of `access` exist.
///
/// # Errors
/// The one that does not.
pub fn check_accounts(access: &Access) -> Result<(), Cause> {
    SocketOwners::look_up(access).map(drop)
}

impl Listener {
    /// Refuses who comes now; who is in the backlog can still be accepted, through any descriptor of
    /// the socket.
    pub fn refuse_newcomers(&self) {
        // It cannot fail on a listening socket; if it did, the last descriptor's close would refuse.
        let _ = net::stop_listening(self.fd());
    }

    /// The socket: a non-blocking stream socket.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Where it listens.
    pub fn address(&self) -> &UnixAddress {
        &self.address
    }

    /// Its file as it was made; `None` without a path.
    pub fn socket_file(&self) -> Option<&SocketFile> {
        self.made.as_ref()
    }

    /// Its file has another mode or another owner.
    pub fn changed_to(&mut self, file: SocketFile) {
        self.made = Some(file);
    }

    /// Another process has it from now on, with its file and its backlog.
    pub fn leave(mut self) {
        self.file = None;
    }

    /// Another socket has its place: newcomers are refused, and the path is not ours any more. Who is in
    /// the backlog can still be accepted.
    pub fn retire(mut self) {
        self.file = None;
        self.refuse_newcomers();
    }

    /// Removes the path, so that new clients go elsewhere, unless somebody else's file has taken
    /// it. Those in the backlog can still be accepted. A second call does nothing.
    pub fn unlink_if_ours(&mut self) {
        let (UnixAddress::Path(path), Some(file)) = (&self.address, self.file.take()) else {
            return;
        };
        // While the socket is open its inode is, so the number cannot have been given to another.
        match hidden::unlink(path, file) {
            Ok(Unlinked::Removed | Unlinked::Gone) => {}
            Ok(Unlinked::Replaced) => {
                tracing::info!(address = %self.address, "the path belongs to another file now: left alone");
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // As with --user, in a directory of root's.
                tracing::info!(
                    address = %self.address,
                    "the socket's file stays: its directory may not be written to by the daemon's user \
                     (the next start replaces it)"
                );
            }
            Err(error) => {
                tracing::warn!(address = %self.address, %error, "cannot remove the socket's file");
            }
        }
    }

    /// Makes the file of a socket that was taken over one for whom it is to be. Returns how it was, if that is a
    /// change.
    ///
    /// # Errors
    /// One line with the obstacle and its remedy. Then it is as it was.
    pub fn give_access(&mut self) -> Result<Option<SocketFile>, ListenError> {
        let (Some(access), Some(made)) = (self.access.take(), &mut self.made) else {
            return Ok(None);
        };
        let (wanted, before) = *access;
        if wanted == before {
            return Ok(None);
        }
        let given = made.open_for(&wanted, &before)?;
        Ok(Some(std::mem::replace(made, given)))
    }

    /// The file of a socket that was taken over is ours from now on: the process that made it leaves it to us.
    pub fn own(&mut self) {
        self.file = self.made.as_ref().map(|made| made.file);
    }

    /// Makes the file like it was before, if that was changed.
    pub fn take_access_back(&mut self, before: Option<SocketFile>) {
        let Some(before) = before else { return };
        let given = self.made.replace(before.clone());
        if let Some(Err(error)) = given.map(|given| given.become_like(&before)) {
            tracing::error!("{error}: the socket's file is for others than before");
        }
    }

    /// Another process was about to have it, and has not come to that: it may have called listen(2), whose last caller
    /// clients see (SO_PEERCRED), and may have made the file one for others.
    pub fn take_back(&mut self) {
        let listening = self.listen();
        let restored = self.made.as_ref().map_or(Ok(()), SocketFile::restore);
        for error in [listening, restored].into_iter().filter_map(Result::err) {
            tracing::warn!("{error}");
        }
    }

    /// Lets clients in: they wait until somebody accepts. The path's lock is not needed any more.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn listen(&mut self) -> Result<(), ListenError> {
        let listening = socket_file::listen(self.fd(), LISTEN_BACKLOG);
        listening.map_err(|error| ListenError {
            address: self.address.clone(),
            cause: system("listen")(error),
        })?;
        self.lock = None;
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.unlink_if_ours();
    }
}

/// Without a name, and for bytes only.
fn new_socket() -> Result<OwnedFd, Cause> {
    let socket = socket_file::stream_socket().map_err(system("create a socket"))?;
    net::refuse_descriptors(socket.as_fd())
        .map_err(|errno| system("refuse passed descriptors")(errno.into()))?;
    Ok(socket)
}

fn bind_abstract(name: &[u8]) -> Result<Listener, Cause> {
    let socket = new_socket()?;
    let socket_name = SocketName::in_abstract(name).map_err(system("use this name"))?;
    socket_file::bind(socket.as_fd(), &socket_name).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Cause::AbstractLive,
        _ => Cause::System {
            step: "bind the name",
            error,
        },
    })?;
    let address = UnixAddress::Abstract(name.to_vec());
    Ok(Listener {
        lock: None,
        socket,
        address,
        file: None,
        made: None,
        access: None,
    })
}

/// The lock is taken first and dropped last: on failure, the listener that is dropped before it
/// removes its socket under the lock too.
fn bind_path(path: &Path, access: &Access) -> Result<Listener, Cause> {
    let owners = SocketOwners::look_up(access)?;
    let lock = PathLock::take(path)?;
    hidden::remove_leftover(path)?;
    let mut listener = claim(path, access.mode, owners, InTheWay::RemovedIfStale)?;
    if let Some(made) = &listener.made {
        lock.belongs_to(made.user);
    }
    listener.lock = Some(lock);
    Ok(listener)
}

/// What becomes of a file at the path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InTheWay {
    /// A socket on which nobody listens is removed.
    RemovedIfStale,
    /// Nothing is.
    Stays,
}

/// Everything but listen(2): the path is there with its mode and owners, and connects are refused.
fn claim(
    path: &Path,
    mode: u32,
    owners: SocketOwners,
    in_the_way: InTheWay,
) -> Result<Listener, Cause> {
    let socket = bind_with_mode(path, mode, in_the_way)?;
    let made = fs::symlink_metadata(path).map_err(system("examine the new socket"))?;
    let file = FileId::of(&made);
    let owners = match in_the_way {
        InTheWay::RemovedIfStale => owners,
        InTheWay::Stays => owners.changes(&made),
    };
    let made = SocketFile {
        path: path.to_path_buf(),
        file,
        mode,
        user: owners.user.unwrap_or_else(|| made.uid()),
        group: owners.group.unwrap_or_else(|| made.gid()),
    };
    let listener = Listener {
        lock: None,
        socket,
        address: UnixAddress::Path(path.to_path_buf()),
        file: Some(file),
        made: Some(made),
        access: None,
    };
    owners.give(path, file)?;
    Ok(listener)
}

fn bind_with_mode(path: &Path, mode: u32, in_the_way: InTheWay) -> Result<OwnedFd, Cause> {
    let name = SocketName::path(path).map_err(system("use this path"))?;
    let socket = new_socket()?;
    socket_file::set_mode(socket.as_fd(), mode).map_err(system("set the mode"))?;
    for _ in 0..BIND_TRIES {
        match socket_file::bind(socket.as_fd(), &name) {
            Ok(()) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => match in_the_way {
                InTheWay::RemovedIfStale => remove_stale(path, &name)?,
                InTheWay::Stays => return Err(Cause::Taken),
            },
            Err(error) => return Err(directory_cause(path, "create the socket's file", error)),
        }
    }
    Err(Cause::Contended)
}

/// Removes what is at the path if it is a socket on which nobody listens. The path's lock is held.
fn remove_stale(path: &Path, name: &SocketName) -> Result<(), Cause> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Cause::System {
                step: "examine the path",
                error,
            });
        }
    };
    if !found.file_type().is_socket() {
        return Err(Cause::NotASocket);
    }
    let Err(error) = probe_until_released(name) else {
        return Err(Cause::Live);
    };
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => {}
        Some(libc::ENOENT) => return Ok(()),
        Some(libc::EAGAIN) => return Err(Cause::Live),
        // Among them EACCES (it is not ours to ask) and EPROTOTYPE (it is not a stream socket).
        _ => return Err(Cause::PerhapsLive { error }),
    }
    FileId::of(&found)
        .unlink(path)
        .map_err(|error| Cause::StaleKept { error })?;
    tracing::info!(path = %path.display(), "removed a socket on which nobody listened");
    Ok(())
}

/// Asks whether somebody listens. A killed process that had the socket in an io_uring keeps it for
/// a moment after its end, until the kernel has taken the ring apart: while whoever listened is no
/// more, a live answer is asked again.
fn probe_until_released(name: &SocketName) -> io::Result<()> {
    let until = Instant::now() + RELEASE_TIMEOUT;
    loop {
        let pid = socket_file::probe(name)?;
        if !is_dead(pid) || Instant::now() >= until {
            return Ok(());
        }
        thread::sleep(RELEASE_PROBE_INTERVAL);
    }
}

/// Whether the process is known to have ended: it is not there, or only its exit status is.
pub(super) fn is_dead(pid: i32) -> bool {
    if pid <= 0 {
        return false;
    }
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // "PID (NAME) STATE …", where the name may have spaces and parentheses.
        Ok(stat) => stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with(['Z', 'X'])),
        Err(error) => {
            error.kind() == io::ErrorKind::NotFound && Path::new("/proc/self/stat").exists()
        }
    }
}

/// Who shall own the socket's file, as numbers; `None` leaves what the process has.
#[derive(Clone, Copy)]
struct SocketOwners {
    user: Option<u32>,
    group: Option<u32>,
}

impl SocketOwners {
    fn look_up(access: &Access) -> Result<Self, Cause> {
        Ok(Self {
            user: user_id(access.owner.as_ref())?,
            group: group_id(access.group.as_ref())?,
        })
    }

    /// Those that a file had.
    fn of(file: &SocketFile) -> Self {
        Self {
            user: Some(file.user),
            group: Some(file.group),
        }
    }

    /// Without what the file has already: to give it that takes a right, too, if the id is not ours.
    fn changes(self, made: &Metadata) -> Self {
        Self {
            user: self.user.filter(|&user| user != made.uid()),
            group: self.group.filter(|&group| group != made.gid()),
        }
    }

    /// Opens the file first and makes sure that it is the socket which we bound: in a directory
    /// where others may write, the path alone could lead a chown(2) to a file of their choice.
    fn give(self, path: &Path, file: FileId) -> Result<(), Cause> {
        if self.user.is_none() && self.group.is_none() {
            return Ok(());
        }
        self.give_pinned(&pin(path, file)?)
    }

    fn give_pinned(self, pinned: &File) -> Result<(), Cause> {
        if self.user.is_none() && self.group.is_none() {
            return Ok(());
        }
        socket_file::set_owner(pinned, self.user, self.group).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EPERM) => Cause::OwnerDenied,
                Some(libc::EINVAL) => Cause::OwnerUnmapped,
                _ => Cause::System {
                    step: "change the owner",
                    error,
                },
            }
        })
    }
}

/// The number of this user, if one is given.
pub(super) fn user_id(account: Option<&Account>) -> Result<Option<u32>, Cause> {
    let name = match account {
        None => return Ok(None),
        Some(Account::Id(id)) => return Ok(Some(*id)),
        Some(Account::Name(name)) => name,
    };
    let id = account::user_id(name).map_err(system("look the owner up"))?;
    id.map(Some)
        .ok_or_else(|| Cause::UnknownUser { name: name.clone() })
}

/// The number of this group, if one is given.
pub(super) fn group_id(account: Option<&Account>) -> Result<Option<u32>, Cause> {
    let name = match account {
        None => return Ok(None),
        Some(Account::Id(id)) => return Ok(Some(*id)),
        Some(Account::Name(name)) => name,
    };
    let id = account::group_id(name).map_err(system("look the group up"))?;
    id.map(Some)
        .ok_or_else(|| Cause::UnknownGroup { name: name.clone() })
}

/// Why a file could not be created at the path.
fn directory_cause(path: &Path, step: &'static str, error: io::Error) -> Cause {
    let directory = path
        .parent()
        .unwrap_or_else(|| Path::new("/"))
        .to_path_buf();
    match error.raw_os_error() {
        Some(libc::ENOENT) => Cause::NoDirectory { directory },
        Some(libc::ENOTDIR) => Cause::NotADirectory { directory },
        Some(libc::EROFS) => Cause::ReadOnly { directory },
        Some(libc::EACCES | libc::EPERM) => match fs::metadata(&directory) {
            Ok(metadata) => Cause::DirectoryDenied {
                uid: metadata.uid(),
            },
            Err(_) => Cause::SearchDenied { directory },
        },
        _ => Cause::System { step, error },
    }
}

fn system(step: &'static str) -> impl FnOnce(io::Error) -> Cause {
    move |error| Cause::System { step, error }
}
