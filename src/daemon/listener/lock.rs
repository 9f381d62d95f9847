//! The lock of a socket's path: between the question whether somebody listens there and our own listen(2), nobody else
//! may take the path.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sys::socket_file;

use super::{Cause, FileId, directory_cause, system};

/// How often a lock file may vanish between being opened and being locked, which takes another
/// process that finishes its start in just that moment.
const LOCK_TRIES: u32 = 8;

/// The right to replace what is at a path, against every process that uses the same lock: an empty
/// file `PATH.lock`, removed while it is still locked.
#[derive(Debug)]
pub(super) struct PathLock {
    path: PathBuf,
    file: File,
}

impl PathLock {
    pub(super) fn take(socket_path: &Path) -> Result<Self, Cause> {
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

    /// Gives the lock file to the owner of the socket's file, who may be the daemon by the time that it is removed: in a
    /// directory with the sticky bit, nobody else could. Without the right to that, it stays as it is.
    pub(super) fn belongs_to(&self, user: u32) {
        let belongs = |lock: fs::Metadata| lock.uid() == user;
        // To give it what it has would ask for a system call that a unit need not allow.
        if self.file.metadata().is_ok_and(belongs) {
            return;
        }
        if let Err(error) = socket_file::set_owner(&self.file, Some(user), None) {
            tracing::debug!(lock = %self.path.display(), %error, "the lock file keeps its owner");
        }
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
