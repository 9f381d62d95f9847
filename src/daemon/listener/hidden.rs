//! A socket that is away from its path: nobody finds it, and nothing of it is lost.
//!
//! Its file is renamed within its directory, and renamed back. Owner, mode and label stay, which the daemon could
//! not give to a new file once it has changed its user; so do the inode, by which a successor knows the socket, and
//! the backlog, in which clients wait that are still to be answered. The alternatives lose some of that: a
//! socket that is closed takes its backlog with it, one that was shut down never listens again, and where a backlog is
//! as short as listen(2) can make it, clients wait for a place instead of being refused.
//!
//! A name that is taken is never taken away from whoever has it: neither ours, when the file comes back, nor the hidden one.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::UnixAddress;
use crate::sys::privileges;
use crate::sys::socket_file::{self, SocketName};

use super::file::pin;
use super::file_id::{FileId, Unlinked};
use super::lock::PathLock;
use super::{Cause, SocketFile, directory_cause, probe_until_released, system};

/// In a directory with this bit, only owners rename files: theirs, or all that are in their directory.
const STICKY: u32 = libc::S_ISVTX;

/// A socket cannot be taken away from its path.
#[derive(Debug, thiserror::Error)]
#[error(
    "--when-down refuse with --listen {address}: take the socket away from its path: {cause}; --when-down close can do \
     without"
)]
pub struct HideError {
    address: UnixAddress,
    cause: Cause,
}

/// The mode of the file by which it is seen whether a socket can be hidden.
const PROBE_MODE: u32 = 0o600;

/// Where a socket's file is while it is away from its path: `.NAME.down` in the same directory. A name of a socket
/// is so short that this is one of a file, too.
pub(super) fn hidden_path(path: &Path) -> PathBuf {
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(path.file_name().unwrap_or_default());
    hidden.push(".down");
    path.with_file_name(hidden)
}

impl SocketFile {
    /// Takes it away from its path. Its lock is held meanwhile: whoever starts at the path must not find it free.
    ///
    /// # Errors
    /// The obstacle and its remedy. Then it is where it was.
    pub fn hide(&self) -> Result<(), Cause> {
        let _lock = PathLock::take(&self.path)?;
        let hidden = self.hidden_path();
        self.rename(&self.path, &hidden)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EEXIST) => Cause::HiddenTaken { hidden },
                _ => directory_cause(&self.path, "rename the socket's file", error),
            })
    }

    /// Brings it back to its path.
    ///
    /// # Errors
    /// `AlreadyExists` if another file is there, which stays.
    pub fn show(&self) -> io::Result<()> {
        self.rename(&self.hidden_path(), &self.path)
    }

    /// Whether it is away from its path.
    pub fn is_hidden(&self) -> bool {
        is_this(&self.hidden_path(), self.file)
    }

    /// Where it is while it is away from its path.
    pub fn hidden_path(&self) -> PathBuf {
        hidden_path(&self.path)
    }

    /// Whether it can be taken away from its path: this process must have the right to rename it, and the hidden name
    /// must be free.
    ///
    /// # Errors
    /// One line with the obstacle and its remedy.
    pub fn check_hiding(&self) -> Result<(), HideError> {
        self.look_whether_it_can_hide().map_err(|cause| HideError {
            address: UnixAddress::Path(self.path.clone()),
            cause,
        })
    }

    /// By a file of the hidden name: what a permission says is not all that decides.
    fn look_whether_it_can_hide(&self) -> Result<(), Cause> {
        if self.is_hidden() {
            return Ok(());
        }
        let hidden = self.hidden_path();
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(PROBE_MODE)
            .open(&hidden);
        match made {
            Ok(_) => {
                fs::remove_file(&hidden).map_err(system("remove a file of the hidden name"))?
            }
            // Whose socket it is has hidden it meanwhile.
            Err(_) if self.is_hidden() => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Cause::HiddenTaken { hidden });
            }
            Err(error) => {
                return Err(directory_cause(
                    &self.path,
                    "create a file of the hidden name",
                    error,
                ));
            }
        }
        let directory = match self.path.parent() {
            Some(directory) if directory != Path::new("") => directory,
            Some(_) | None => Path::new("."),
        };
        let directory = fs::metadata(directory).map_err(system("examine the directory"))?;
        let us = privileges::users()[1];
        let is_owner = [0, directory.uid(), self.user].contains(&us);
        match directory.mode() & STICKY != 0 && !is_owner {
            true => Err(Cause::Sticky { owner: self.user }),
            false => Ok(()),
        }
    }

    /// The file itself, or nothing: another one may have come to the name since that was looked at.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        socket_file::rename_if_free(from, to)?;
        if is_this(to, self.file) {
            return Ok(());
        }
        // Nobody is harmed if that fails but whoever has put it there just now, and it is told where it is.
        let back = socket_file::rename_if_free(to, from);
        let back = back.err().map(|error| format!(": {error}"));
        Err(io::Error::other(format!(
            "another file came to {} meanwhile, and was given back{}",
            from.display(),
            back.unwrap_or_default()
        )))
    }
}

fn is_this(path: &Path, file: FileId) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| FileId::of(&found) == file)
}

/// Removes the file of a socket of this path if it is there, hidden or not.
pub(super) fn unlink(path: &Path, file: FileId) -> io::Result<Unlinked> {
    match file.unlink(&hidden_path(path)) {
        Ok(Unlinked::Removed) => Ok(Unlinked::Removed),
        // What is at the path while the file is hidden is somebody else's, and said to be so all the time.
        Ok(Unlinked::Gone | Unlinked::Replaced) | Err(_) => file.unlink(path),
    }
}

/// Removes what a daemon has left that was killed while its socket was away from the path. The path's lock is held.
///
/// # Errors
/// If somebody listens there: then the path is its.
pub(super) fn remove_leftover(path: &Path) -> Result<(), Cause> {
    let hidden = hidden_path(path);
    let Ok(found) = fs::symlink_metadata(&hidden) else {
        return Ok(());
    };
    let file = FileId::of(&found);
    if found.is_file() && found.len() == 0 && found.mode() & 0o777 == PROBE_MODE {
        // As whoever was killed while it looked whether its socket can be hidden has left it.
        return match file.unlink(&hidden) {
            Ok(_) => Ok(()),
            Err(error) => Err(directory_cause(
                path,
                "remove an empty file of the hidden name",
                error,
            )),
        };
    }
    if !found.file_type().is_socket() {
        // Of no use to us, and in nobody's way unless this socket is to be hidden as well, which is looked at then.
        return Ok(());
    }
    let pinned = pin(&hidden, file)?;
    // The name itself may be too long for an address.
    let name = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    let name = SocketName::path(Path::new(&name)).map_err(system("use this name"))?;
    let Err(error) = probe_until_released(&name) else {
        return Err(Cause::LiveHidden { hidden });
    };
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => {}
        Some(libc::EAGAIN) => return Err(Cause::LiveHidden { hidden }),
        Some(libc::EACCES) => return Err(Cause::PerhapsLive { error }),
        // It is no stream socket, and so none of a daemon's; or /proc is missing, and it cannot be told.
        _ => return Ok(()),
    }
    match file.unlink(&hidden) {
        Ok(_) => tracing::info!(
            path = %hidden.display(),
            "removed a socket on which nobody listened, hidden by a daemon that was killed"
        ),
        Err(error) => {
            tracing::warn!(path = %hidden.display(), %error, "cannot remove a hidden socket")
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
