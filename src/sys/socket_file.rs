//! Unix stream sockets and the files that stand for them: create, bind, lock, own.

use std::ffi::{CString, c_char};
use std::fs::{File, Permissions};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Held while the process's umask is not its own.
static UMASK: Mutex<()> = Mutex::new(());

/// The same number in the type that addresses have it in.
#[expect(clippy::cast_possible_truncation, reason = "AF_UNIX is 1")]
const FAMILY: libc::sa_family_t = libc::AF_UNIX as libc::sa_family_t;

/// A Unix socket's name as the kernel takes it.
pub(crate) struct SocketName {
    raw: libc::sockaddr_un,
    length: libc::socklen_t,
}

impl SocketName {
    /// A name in the file system.
    ///
    /// # Errors
    /// `InvalidInput` if it is empty, contains a NUL or leaves no room for the one at the end.
    pub(crate) fn path(path: &Path) -> io::Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.contains(&0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Self::new(bytes, 0)
    }

    /// A name in Linux's abstract namespace, without its leading NUL.
    ///
    /// # Errors
    /// `InvalidInput` if it is empty (the kernel would choose one) or too long.
    pub(crate) fn in_abstract(name: &[u8]) -> io::Result<Self> {
        Self::new(name, 1)
    }

    /// A path is followed by a NUL, an abstract name preceded by one: both take one byte more.
    fn new(name: &[u8], offset: usize) -> io::Result<Self> {
        let mut raw = libc::sockaddr_un {
            sun_family: FAMILY,
            sun_path: [0; 108],
        };
        if name.is_empty() || name.len() >= raw.sun_path.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in raw.sun_path[offset..].iter_mut().zip(name) {
            *to = *from as c_char;
        }
        let length = mem::offset_of!(libc::sockaddr_un, sun_path) + name.len() + 1;
        let length = libc::socklen_t::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self { raw, length })
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.raw).cast()
    }
}

/// A new Unix stream socket, non-blocking and closed on exec.
pub(crate) fn stream_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) takes three integers and no pointer.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: the kernel has just returned `fd`, open, and nobody else knows it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets the permission bits of the open file; those of an unbound socket become its file's.
pub(crate) fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: fchmod(2) takes two integers; the borrow keeps the descriptor open.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }).map(drop)
}

/// Sets the permission bits of the very file that was opened as `O_PATH`, which fchmod(2) does not take.
pub(crate) fn set_mode_of(pinned: &File, mode: u32) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Gives a socket its name; a path is created with exactly the bits of [`set_mode`].
///
/// bind(2) applies the umask, which belongs to the whole process: it is 0 for the length of the
/// call and then what it was. The lock keeps binds from undoing each other, and [`under_umask`] from
/// creating files meanwhile that escape it.
pub(crate) fn bind(socket: BorrowedFd<'_>, name: &SocketName) -> io::Result<()> {
    let _exclusive = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
    let umask = set_umask(0);
    // SAFETY: `name.raw` is a sockaddr_un of which the first `name.length` bytes are set, and the
    // kernel copies it before the call returns. The borrow keeps the socket open.
    let code = unsafe { libc::bind(socket.as_raw_fd(), name.as_ptr(), name.length) };
    let outcome = check(code).map(drop);
    set_umask(umask);
    outcome
}

/// Creates a file, whose bits the umask is to cut, while no other thread binds a socket.
pub(crate) fn under_umask<T>(create: impl FnOnce() -> T) -> T {
    let _exclusive = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
    create()
}

fn set_umask(mask: libc::mode_t) -> libc::mode_t {
    // SAFETY: umask(2) takes an integer and cannot fail.
    unsafe { libc::umask(mask) }
}

/// Starts to accept into a backlog of this length; the kernel cuts it to `net.core.somaxconn`.
pub(crate) fn listen(socket: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: listen(2) takes two integers; the borrow keeps the socket open.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// Connects once and hangs up at once, without ever waiting: `Ok` if somebody listens there, with
/// the id of the process that called listen(2), 0 if it is in another namespace.
///
/// # Errors
/// `ECONNREFUSED` if nobody does, `EAGAIN` if somebody does and the backlog is full.
pub(crate) fn probe(name: &SocketName) -> io::Result<i32> {
    let socket = stream_socket()?;
    // SAFETY: `name.raw` is a sockaddr_un of which the first `name.length` bytes are set, and the
    // kernel copies it before the call returns. `socket` is open until the end of this function.
    check(unsafe { libc::connect(socket.as_raw_fd(), name.as_ptr(), name.length) })?;
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = super::net::socklen::<libc::ucred>();
    // SAFETY: both pointers are to live locals, and `length` is the size of the first.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    })?;
    Ok(peer.pid)
}

/// Renames a file unless something has the new name already.
///
/// The raw call: C libraries have a wrapper of it only since a few years (glibc 2.28, musl 1.2.6).
///
/// # Errors
/// `EEXIST` if something has it, `EINVAL` if the file system cannot rename so.
pub(crate) fn rename_if_free(from: &Path, to: &Path) -> io::Result<()> {
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    // SAFETY: both paths end with a NUL and live until the call returns, which only reads them.
    let code = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    match code {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Locks the open file for this descriptor alone, without waiting; closing it unlocks.
///
/// The standard library has this from Rust 1.89 on; the crate supports 1.88.
///
/// # Errors
/// `EWOULDBLOCK` if another descriptor holds the lock.
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: flock(2) takes two integers; the reference keeps the file open.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Changes owner and group of the very file that was opened, which may be an `O_PATH` descriptor:
/// unlike lchown(2), it cannot hit another file that has taken the name meanwhile.
pub(crate) fn set_owner(file: &File, owner: Option<u32>, group: Option<u32>) -> io::Result<()> {
    // chown(2): an id of -1 leaves that id as it is.
    let (owner, group) = (owner.unwrap_or(u32::MAX), group.unwrap_or(u32::MAX));
    // SAFETY: the path is an empty string with its NUL, read during the call only; the reference
    // keeps the file open.
    let code = unsafe {
        libc::fchownat(
            file.as_raw_fd(),
            c"".as_ptr(),
            owner,
            group,
            libc::AT_EMPTY_PATH,
        )
    };
    check(code).map(drop)
}

fn check(code: i32) -> io::Result<i32> {
    if code == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(code)
    }
}

/// What tests need to act as somebody else without a second process.
#[cfg(test)]
pub(crate) mod as_thread {
    use super::{check, set_umask};

    /// Runs `act` in a thread of its own with a umask that no other thread shares; returns the
    /// umask that it leaves behind.
    pub(crate) fn with_umask(umask: u32, act: impl FnOnce() + Send) -> u32 {
        in_thread(|| {
            // SAFETY: unshare(2) takes an integer; CLONE_FS gives this thread its own umask.
            check(unsafe { libc::unshare(libc::CLONE_FS) }).unwrap();
            set_umask(umask);
            act();
            set_umask(umask)
        })
    }

    /// Runs `act` in a thread of its own whose file accesses are those of this user and group,
    /// without supplementary groups. Needs root.
    pub(crate) fn with_ids<T: Send>(id: u32, act: impl FnOnce() -> T + Send) -> T {
        in_thread(|| {
            // The raw call: glibc's wrapper would change every thread of the process.
            // SAFETY: setgroups(2) reads no list when its length is 0.
            let code = unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) };
            assert_eq!(code, 0, "setgroups: {}", std::io::Error::last_os_error());
            // SAFETY: setfsgid(2) takes an integer and concerns this thread alone.
            unsafe { libc::setfsgid(id) };
            // SAFETY: setfsuid(2) takes an integer and concerns this thread alone; leaving 0 it
            // drops the capabilities that override file permissions.
            unsafe { libc::setfsuid(id) };
            act()
        })
    }

    fn in_thread<T: Send>(act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(act).join().unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_fit_are_refused() {
        for name in [&b""[..], &[b'a'; 108]] {
            assert!(SocketName::in_abstract(name).is_err());
            assert!(SocketName::path(Path::new(std::ffi::OsStr::from_bytes(name))).is_err());
        }
        assert!(SocketName::in_abstract(&[b'a'; 107]).is_ok());
        assert!(SocketName::path(Path::new("/a\0b")).is_err());
    }

    #[test]
    fn the_standard_library_reads_the_same_abstract_name() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("spliceway-name-{}", std::process::id());
        let socket = stream_socket().unwrap();
        bind(
            std::os::fd::AsFd::as_fd(&socket),
            &SocketName::in_abstract(name.as_bytes()).unwrap(),
        )
        .unwrap();
        let listener = std::os::unix::net::UnixListener::from(socket);
        let address = listener.local_addr().unwrap();
        assert_eq!(address.as_abstract_name(), Some(name.as_bytes()));
    }

    #[test]
    fn bind_leaves_the_umask_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let name = SocketName::path(&directory.path().join("s")).unwrap();
        let after = as_thread::with_umask(0o077, || {
            let socket = stream_socket().unwrap();
            bind(std::os::fd::AsFd::as_fd(&socket), &name).unwrap();
        });
        assert_eq!(after, 0o077);
    }
}
