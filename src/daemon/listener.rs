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

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{Access, Account, UnixAddress};
use crate::sys::socket_file::{self, SocketName};
use crate::sys::{account, net};

/// Connections that may wait to be accepted. Linux cuts it to `net.core.somaxconn`, which is 4096
/// by default since 5.4: a larger number would promise what most systems do not keep.
pub const LISTEN_BACKLOG: i32 = 4096;

/// How often a socket file may be in the way of one bind: once as a stale one, and twice more
/// because somebody who does not know of our lock was faster.
const BIND_TRIES: u32 = 3;

/// How often a lock file may vanish between being opened and being locked, which takes another
/// process that finishes its start in just that moment.
const LOCK_TRIES: u32 = 8;

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
}

/// A socket's file: where it is, which one, and who may connect. What it takes to make it once more.
#[derive(Clone, Debug)]
pub struct SocketFile {
    path: PathBuf,
    file: FileId,
    mode: u32,
    user: u32,
    group: u32,
}

/// What is found where a socket's file was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FoundFile {
    /// The file itself.
    Ours,
    /// Nothing.
    Nothing,
    /// Another file, which is somebody else's.
    Another,
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
        let mut listener = claim(&file.path, file.mode, Owners::of(file), InTheWay::Stays)?;
        listener.lock = Some(lock);
        Ok(listener)
    });
    bound.map_err(|cause| ListenError {
        address: UnixAddress::Path(file.path.clone()),
        cause,
    })
}

/// Whether the owner and the group of `access` exist.
///
/// # Errors
/// The one that does not.
pub fn check_accounts(access: &Access) -> Result<(), Cause> {
    Owners::look_up(access).map(drop)
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
        match file.unlink(path) {
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

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is there now.
    ///
    /// # Errors
    /// If it cannot be told.
    pub fn find(&self) -> io::Result<FoundFile> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if FileId::of(&found) == self.file => Ok(FoundFile::Ours),
            Ok(_) => Ok(FoundFile::Another),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Ok(FoundFile::Nothing),
                _ => Err(error),
            },
        }
    }

    /// That of a socket which is not ours, as it is now.
    ///
    /// # Errors
    /// If nothing is there, or it cannot be told.
    pub fn of_another(path: PathBuf) -> io::Result<Self> {
        let found = fs::symlink_metadata(&path)?;
        Ok(Self {
            path,
            file: FileId::of(&found),
            mode: found.mode() & 0o7777,
            user: found.uid(),
            group: found.gid(),
        })
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
    })
}

/// The lock is taken first and dropped last: on failure, the listener that is dropped before it
/// removes its socket under the lock too.
fn bind_path(path: &Path, access: &Access) -> Result<Listener, Cause> {
    let owners = Owners::look_up(access)?;
    let lock = PathLock::take(path)?;
    let mut listener = claim(path, access.mode, owners, InTheWay::RemovedIfStale)?;
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
fn claim(path: &Path, mode: u32, owners: Owners, in_the_way: InTheWay) -> Result<Listener, Cause> {
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
fn is_dead(pid: i32) -> bool {
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
struct Owners {
    user: Option<u32>,
    group: Option<u32>,
}

impl Owners {
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
        let pinned = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(path)
            .map_err(system("open the new socket"))?;
        let metadata = pinned
            .metadata()
            .map_err(system("examine the new socket"))?;
        if !metadata.file_type().is_socket() || FileId::of(&metadata) != file {
            return Err(Cause::Contended);
        }
        socket_file::set_owner(&pinned, self.user, self.group).map_err(|error| {
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

/// The right to replace what is at a path, against every process that uses the same lock: an empty
/// file `PATH.lock`, removed while it is still locked.
#[derive(Debug)]
struct PathLock {
    path: PathBuf,
    file: File,
}

impl PathLock {
    fn take(socket_path: &Path) -> Result<Self, Cause> {
        let mut path = OsString::from(socket_path);
        path.push(".lock");
        let path = PathBuf::from(path);
        for _ in 0..LOCK_TRIES {
            let file = open_lock(&path)?;
            match socket_file::try_lock(&file) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Cause::Starting);
                }
                Err(error) => {
                    return Err(Cause::System {
                        step: "lock the path",
                        error,
                    });
                }
            }
            let ours = FileId::of(&file.metadata().map_err(system("examine the lock"))?);
            // The one before us may have removed the file after we opened it: our lock is then on
            // a file that nobody else will find.
            if fs::symlink_metadata(&path).is_ok_and(|named| FileId::of(&named) == ours) {
                return Ok(Self { path, file });
            }
        }
        Err(Cause::Starting)
    }
}

impl Drop for PathLock {
    fn drop(&mut self) {
        let removed = self
            .file
            .metadata()
            .and_then(|ours| FileId::of(&ours).unlink(&self.path));
        let Err(error) = removed else { return };
        if error.kind() == io::ErrorKind::PermissionDenied {
            // As with --user, in a directory of root's: an empty file without its lock is in nobody's way.
            tracing::debug!(lock = %self.path.display(), "the lock file stays");
        } else {
            tracing::warn!(lock = %self.path.display(), %error, "cannot remove the lock file");
        }
    }
}

/// Opens or creates the lock file. Ours are empty: whatever else has that name is not touched,
/// because a lock is removed in the end.
fn open_lock(lock: &Path) -> Result<File, Cause> {
    let foreign = || Cause::ForeignLock {
        lock: lock.to_path_buf(),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(lock)
        .map_err(|error| match fs::symlink_metadata(lock) {
            Ok(_) if error.kind() != io::ErrorKind::NotFound => foreign(),
            _ => directory_cause(lock, "create the lock file", error),
        })?;
    let metadata = file.metadata().map_err(system("examine the lock"))?;
    if metadata.is_file() && metadata.len() == 0 {
        Ok(file)
    } else {
        Err(foreign())
    }
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

/// Which file a path led to: a name can be taken over, this cannot while the file exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

/// What became of a path that was to be removed.
enum Unlinked {
    Removed,
    Gone,
    Replaced,
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// Removes the path if it still leads to this file. Linux cannot unlink by identity, so an
    /// instant remains between the two steps, against which the lock helps among ourselves.
    fn unlink(self, path: &Path) -> io::Result<Unlinked> {
        match fs::symlink_metadata(path) {
            Ok(found) if Self::of(&found) != self => Ok(Unlinked::Replaced),
            Ok(_) => fs::remove_file(path).map(|()| Unlinked::Removed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Unlinked::Gone),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use tempfile::TempDir;

    use super::*;
    use crate::sys::socket_file::as_thread;

    const STRANGER: u32 = 65534;

    /// A directory that everybody may search, and a path in it.
    struct Place {
        directory: TempDir,
        path: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let path = directory.path().join("a.sock");
            Self { directory, path }
        }

        fn writable_by_all() -> Self {
            let place = Self::new();
            let open = fs::Permissions::from_mode(0o777);
            fs::set_permissions(place.directory.path(), open).unwrap();
            place
        }

        fn bind(&self, access: &Access) -> Result<Listener, ListenError> {
            let mut listener = bind(&UnixAddress::Path(self.path.clone()), access)?;
            listener.listen()?;
            Ok(listener)
        }

        fn error(&self, access: &Access) -> String {
            self.bind(access).unwrap_err().to_string()
        }

        fn lock(&self) -> PathBuf {
            self.directory.path().join("a.sock.lock")
        }

        fn files(&self) -> Vec<OsString> {
            fs::read_dir(self.directory.path())
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect()
        }
    }

    fn with_mode(mode: u32) -> Access {
        Access {
            mode,
            owner: None,
            group: None,
        }
    }

    const NOBODY: Owners = Owners {
        user: None,
        group: None,
    };

    fn permissions(path: &Path) -> (u32, u32, u32) {
        let metadata = fs::symlink_metadata(path).unwrap();
        assert!(metadata.file_type().is_socket());
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    }

    fn is_root() -> bool {
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        if !root {
            let name = thread::current().name().unwrap_or("a test").to_owned();
            // Where it is seen although the test passes.
            drop(writeln!(io::stderr(), "{name}: needs root: skipped"));
        }
        root
    }

    fn connect_error(path: &Path) -> Option<i32> {
        UnixStream::connect(path)
            .err()
            .and_then(|error| error.raw_os_error())
    }

    /// Proves that a connection made at `path` arrives at `listener`.
    fn assert_serves(listener: &UnixListener, path: &Path) {
        listener.set_nonblocking(true).unwrap();
        while listener.accept().is_ok() {}
        listener.set_nonblocking(false).unwrap();
        let mut client = UnixStream::connect(path).unwrap();
        client.write_all(b"x").unwrap();
        let mut byte = [0];
        listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    fn as_std(listener: &Listener) -> UnixListener {
        UnixListener::from(listener.fd().try_clone_to_owned().unwrap())
    }

    #[test]
    fn a_bound_path_serves_clients_and_leaves_no_lock() {
        let place = Place::new();
        let listener = place.bind(&with_mode(0o660)).unwrap();
        assert_serves(&as_std(&listener), &place.path);
        assert_eq!(place.files(), ["a.sock"]);
        drop(listener);
        assert!(place.files().is_empty());
    }

    #[test]
    fn the_socket_is_non_blocking() {
        let place = Place::new();
        let listener = place.bind(&with_mode(0o600)).unwrap();
        let error = as_std(&listener).accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_mode_is_exact_under_any_umask() {
        for (umask, mode) in [(0o077, 0o666), (0o777, 0o660), (0o022, 0o777), (0, 0o600)] {
            let place = Place::new();
            let after = as_thread::with_umask(umask, || {
                let _listener = place.bind(&with_mode(mode)).unwrap();
                assert_eq!(permissions(&place.path).0, mode, "umask {umask:o}");
            });
            assert_eq!(after, umask);
        }
    }

    #[test]
    fn owner_and_group_are_exact() {
        if !is_root() {
            return;
        }
        let named = Some(Account::Name("root".to_owned()));
        for (owner, group, expected) in [
            (None, None, (0, 0)),
            (Some(Account::Id(1234)), None, (1234, 0)),
            (None, Some(Account::Id(2345)), (0, 2345)),
            (named.clone(), Some(Account::Id(2345)), (0, 2345)),
            (Some(Account::Id(1234)), named, (1234, 0)),
        ] {
            let place = Place::new();
            let access = Access {
                mode: 0o640,
                owner,
                group,
            };
            let _listener = place.bind(&access).unwrap();
            assert_eq!(permissions(&place.path), (0o640, expected.0, expected.1));
        }
    }

    #[test]
    fn unknown_accounts_are_refused_before_anything_is_created() {
        let place = Place::new();
        let nobody = || Some(Account::Name("spliceway-nobody".to_owned()));
        let address = format!("bind unix:{}", place.path.display());
        assert_eq!(
            place.error(&Access {
                owner: nobody(),
                ..with_mode(0o660)
            }),
            format!("{address}: no user named spliceway-nobody (create it, or give its number)")
        );
        assert_eq!(
            place.error(&Access {
                group: nobody(),
                ..with_mode(0o660)
            }),
            format!("{address}: no group named spliceway-nobody (create it, or give its number)")
        );
        assert!(place.files().is_empty());
    }

    #[test]
    fn a_failure_after_bind_removes_the_socket_again() {
        if !is_root() {
            return;
        }
        let place = Place::writable_by_all();
        let access = Access {
            owner: Some(Account::Id(0)),
            ..with_mode(0o660)
        };
        let error = as_thread::with_ids(STRANGER, || place.error(&access));
        assert!(
            error.contains("no permission to change the owner"),
            "{error}"
        );
        assert!(place.files().is_empty());
    }

    #[test]
    fn between_bind_and_listen_nobody_gets_in() {
        let place = Place::new();
        let listener = claim(&place.path, 0o660, NOBODY, InTheWay::RemovedIfStale).unwrap();
        assert_eq!(connect_error(&place.path), Some(libc::ECONNREFUSED));
        if is_root() {
            let stranger = as_thread::with_ids(STRANGER, || connect_error(&place.path));
            assert_eq!(stranger, Some(libc::EACCES));
        }
        socket_file::listen(listener.fd(), LISTEN_BACKLOG).unwrap();
        assert_eq!(connect_error(&place.path), None);
    }

    #[test]
    fn the_mode_decides_who_connects() {
        if !is_root() {
            return;
        }
        for (mode, expected) in [(0o660, Some(libc::EACCES)), (0o666, None)] {
            let place = Place::new();
            let _listener = place.bind(&with_mode(mode)).unwrap();
            let stranger = as_thread::with_ids(STRANGER, || connect_error(&place.path));
            assert_eq!(stranger, expected, "mode {mode:o}");
            assert_eq!(connect_error(&place.path), None);
        }
    }

    #[test]
    fn a_group_member_connects_to_0660() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        let access = Access {
            group: Some(Account::Id(STRANGER)),
            ..with_mode(0o660)
        };
        let _listener = place.bind(&access).unwrap();
        assert_eq!(
            as_thread::with_ids(STRANGER, || connect_error(&place.path)),
            None
        );
    }

    /// A socket on which nobody listens. Another test may have started a program at just this moment,
    /// which holds every descriptor of ours until it is the other program.
    fn leave_stale(path: &Path) {
        drop(UnixListener::bind(path).unwrap());
        let until = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(path).is_ok() {
            assert!(Instant::now() < until, "somebody listens on {path:?}");
            thread::yield_now();
        }
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let place = Place::new();
        leave_stale(&place.path);
        let listener = place.bind(&with_mode(0o640)).unwrap();
        assert_eq!(permissions(&place.path).0, 0o640);
        assert_serves(&as_std(&listener), &place.path);
    }

    #[test]
    fn a_live_listener_is_refused_and_stays_alive() {
        let place = Place::new();
        let live = UnixListener::bind(&place.path).unwrap();
        let error = place.error(&with_mode(0o660));
        assert_eq!(
            error,
            format!(
                "bind unix:{}: another process is listening there (stop it or choose another path)",
                place.path.display()
            )
        );
        assert_serves(&live, &place.path);
        assert_eq!(place.files(), ["a.sock"]);
    }

    #[test]
    fn a_live_listener_with_a_full_backlog_is_refused() {
        let place = Place::new();
        let live = claim(&place.path, 0o660, NOBODY, InTheWay::RemovedIfStale).unwrap();
        socket_file::listen(live.fd(), 0).unwrap();
        let name = SocketName::path(&place.path).unwrap();
        while socket_file::probe(&name).is_ok() {}
        assert!(matches!(
            place.bind(&with_mode(0o660)).unwrap_err().cause,
            Cause::Live
        ));
        assert!(place.path.exists());
    }

    #[test]
    fn a_live_datagram_socket_is_refused() {
        let place = Place::new();
        let _live = std::os::unix::net::UnixDatagram::bind(&place.path).unwrap();
        let cause = place.bind(&with_mode(0o660)).unwrap_err().cause;
        assert!(matches!(cause, Cause::PerhapsLive { .. }), "{cause:?}");
        assert!(place.path.exists());
    }

    #[test]
    fn a_second_bind_of_our_own_is_refused() {
        let place = Place::new();
        let _first = place.bind(&with_mode(0o660)).unwrap();
        assert!(matches!(
            place.bind(&with_mode(0o660)).unwrap_err().cause,
            Cause::Live
        ));
    }

    #[test]
    fn other_files_at_the_path_are_refused_and_untouched() {
        let place = Place::new();
        fs::write(&place.path, "precious").unwrap();
        assert!(matches!(
            place.bind(&with_mode(0o660)).unwrap_err().cause,
            Cause::NotASocket
        ));
        assert_eq!(fs::read_to_string(&place.path).unwrap(), "precious");
        assert_eq!(place.files(), ["a.sock"]);
    }

    #[test]
    fn a_symbolic_link_at_the_path_is_not_followed() {
        let place = Place::new();
        let target = place.directory.path().join("target");
        leave_stale(&target);
        std::os::unix::fs::symlink(&target, &place.path).unwrap();
        assert!(matches!(
            place.bind(&with_mode(0o660)).unwrap_err().cause,
            Cause::NotASocket
        ));
        assert!(target.exists());
    }

    #[test]
    fn a_foreign_socket_at_our_path_is_not_unlinked() {
        let place = Place::new();
        let mut listener = place.bind(&with_mode(0o660)).unwrap();
        fs::remove_file(&place.path).unwrap();
        let foreign = UnixListener::bind(&place.path).unwrap();
        listener.unlink_if_ours();
        drop(listener);
        assert_serves(&foreign, &place.path);
    }

    #[test]
    fn a_path_whose_file_is_gone_is_bound_again_as_it_was() {
        let place = Place::new();
        let listener = place.bind(&with_mode(0o620)).unwrap();
        let before = permissions(&place.path);
        let file = listener.socket_file().unwrap().clone();
        assert_eq!(file.find().unwrap(), FoundFile::Ours);
        let waiting = UnixStream::connect(&place.path).unwrap();
        fs::remove_file(&place.path).unwrap();
        assert_eq!(file.find().unwrap(), FoundFile::Nothing);

        let after = as_thread::with_umask(0o077, || {
            let mut again = bind_again(&file).unwrap();
            assert_eq!(connect_error(&place.path), Some(libc::ECONNREFUSED));
            again.listen().unwrap();
            assert_eq!(permissions(&place.path), before);
            assert_serves(&as_std(&again), &place.path);
            assert_eq!(place.files(), ["a.sock"]);
            // The first one is not, and leaves the path alone. Who waits there has not lost anything.
            assert_eq!(file.find().unwrap(), FoundFile::Another);
            let old = as_std(&listener);
            listener.retire();
            assert!(place.path.exists());
            assert!(old.accept().is_ok());
            drop(again);
        });
        assert_eq!(after, 0o077);
        drop(waiting);
        assert!(place.files().is_empty());
    }

    #[test]
    fn nothing_is_removed_to_bind_again() {
        let place = Place::new();
        let listener = place.bind(&with_mode(0o660)).unwrap();
        let file = listener.socket_file().unwrap().clone();
        fs::remove_file(&place.path).unwrap();
        let taken = || {
            let error = bind_again(&file).unwrap_err();
            assert!(matches!(error.cause, Cause::Taken), "{error}");
            assert_eq!(place.files(), ["a.sock"]);
            fs::remove_file(&place.path).unwrap();
        };
        // On which nobody listens, as with a successor that is about to.
        leave_stale(&place.path);
        taken();
        let live = UnixListener::bind(&place.path).unwrap();
        taken();
        drop(live);
        fs::write(&place.path, "precious").unwrap();
        taken();
        std::os::unix::fs::symlink(place.directory.path().join("target"), &place.path).unwrap();
        taken();

        let lock = PathLock::take(&place.path).unwrap();
        let error = bind_again(&file).unwrap_err();
        assert!(matches!(error.cause, Cause::Starting), "{error}");
        drop(lock);
        assert!(bind_again(&file).is_ok());
    }

    #[test]
    fn unlinking_keeps_the_backlog_and_happens_once() {
        let place = Place::new();
        let mut listener = place.bind(&with_mode(0o660)).unwrap();
        let _waiting = UnixStream::connect(&place.path).unwrap();
        listener.unlink_if_ours();
        assert!(!place.path.exists());
        assert!(as_std(&listener).accept().is_ok());
        fs::write(&place.path, "new").unwrap();
        listener.unlink_if_ours();
        drop(listener);
        assert_eq!(fs::read_to_string(&place.path).unwrap(), "new");
    }

    #[test]
    fn missing_directories_are_named() {
        let mut place = Place::new();
        let missing = place.directory.path().join("missing");
        place.path = missing.join("a.sock");
        assert_eq!(
            place.error(&with_mode(0o660)),
            format!(
                "bind unix:{}: no such directory {} (create it first)",
                place.path.display(),
                missing.display()
            )
        );
        fs::write(&missing, "").unwrap();
        let cause = place.bind(&with_mode(0o660)).unwrap_err().cause;
        assert!(matches!(cause, Cause::NotADirectory { .. }), "{cause:?}");
    }

    #[test]
    fn directories_of_others_are_refused_with_their_owner() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        let error = as_thread::with_ids(STRANGER, || place.error(&with_mode(0o660)));
        let expected = "permission denied (the directory belongs to uid 0; run as that user or \
                        choose a directory you may write)";
        assert!(error.ends_with(expected), "{error}");
    }

    #[test]
    fn a_lock_that_another_holds_is_refused() {
        let place = Place::new();
        let lock = PathLock::take(&place.path).unwrap();
        assert!(matches!(
            place.bind(&with_mode(0o660)).unwrap_err().cause,
            Cause::Starting
        ));
        assert_eq!(place.files(), ["a.sock.lock"]);
        drop(lock);
        assert!(place.bind(&with_mode(0o660)).is_ok());
    }

    #[test]
    fn a_lock_file_left_by_a_crash_is_taken_over() {
        let place = Place::new();
        fs::write(place.lock(), "").unwrap();
        let _listener = place.bind(&with_mode(0o660)).unwrap();
        assert_eq!(place.files(), ["a.sock"]);
    }

    #[test]
    fn files_that_only_look_like_our_lock_are_untouched() {
        let place = Place::new();
        let target = place.directory.path().join("target");
        fs::write(place.lock(), "precious").unwrap();
        let foreign = |cause| matches!(cause, Cause::ForeignLock { .. });
        assert!(foreign(place.bind(&with_mode(0o660)).unwrap_err().cause));
        assert_eq!(fs::read_to_string(place.lock()).unwrap(), "precious");

        fs::remove_file(place.lock()).unwrap();
        fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, place.lock()).unwrap();
        assert!(foreign(place.bind(&with_mode(0o660)).unwrap_err().cause));
        assert!(target.exists());
        assert!(!place.path.exists());
    }

    #[test]
    fn of_many_starting_at_once_one_wins() {
        let place = Place::new();
        for round in 0..50 {
            if round % 2 == 1 {
                leave_stale(&place.path);
            }
            let barrier = std::sync::Barrier::new(6);
            let outcomes: Vec<_> = thread::scope(|scope| {
                let start = || {
                    barrier.wait();
                    place.bind(&with_mode(0o660))
                };
                let threads: Vec<_> = (0..6).map(|_| scope.spawn(start)).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
            assert_eq!(won.len(), 1, "round {round}: {lost:?}");
            for error in lost.into_iter().filter_map(Result::err) {
                assert!(
                    matches!(error.cause, Cause::Starting | Cause::Live),
                    "{error}"
                );
            }
            assert_serves(&as_std(won[0].as_ref().unwrap()), &place.path);
        }
        assert!(place.files().is_empty());
    }

    #[test]
    fn abstract_names_serve_clients_and_conflict() {
        let name = format!("spliceway-listener-{}", std::process::id()).into_bytes();
        let address = UnixAddress::Abstract(name.clone());
        let mut listener = bind(&address, &with_mode(0o660)).unwrap();
        listener.listen().unwrap();
        assert_eq!(listener.address(), &address);
        let target = SocketAddr::from_abstract_name(&name).unwrap();
        UnixStream::connect_addr(&target).unwrap();
        assert_eq!(
            bind(&address, &with_mode(0o660)).unwrap_err().to_string(),
            format!(
                "bind {address}: another process has this abstract name (stop it or choose another \
                 name)"
            )
        );
        drop(listener);
        assert!(bind(&address, &with_mode(0o660)).is_ok());
    }
}
