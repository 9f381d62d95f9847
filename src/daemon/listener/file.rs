//! The files of sockets: which file it is, for whom it is, and how that is changed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::{Access, UnixAddress};
use crate::sys::{privileges, socket_file};

use super::file_id::FileId;
use super::{Cause, ListenError, SocketOwners, system};

/// A socket's file: where it is, which one, and who may connect. What it takes to make it once more.
#[derive(Clone, Debug)]
pub struct SocketFile {
    pub(super) path: PathBuf,
    pub(super) file: FileId,
    pub(super) mode: u32,
    pub(super) user: u32,
    pub(super) group: u32,
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

impl SocketFile {
    /// The file of a socket that another process has made: which one it is by `device` and `inode`.
    pub fn of_predecessor(
        path: PathBuf,
        (device, inode): (u64, u64),
        mode: u32,
        (user, group): (u32, u32),
    ) -> Self {
        Self {
            path,
            file: FileId::new(device, inode),
            mode,
            user,
            group,
        }
    }

    /// Which file it is, by device and inode.
    pub fn id(&self) -> (u64, u64) {
        self.file.parts()
    }

    /// Its mode, user and group.
    pub fn access(&self) -> (u32, u32, u32) {
        (self.mode, self.user, self.group)
    }

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

    /// The same file, for those whom `access` says, and not `before` any more. What both say alike stays.
    ///
    /// # Errors
    /// One line with the obstacle and its remedy. Then it is as it was.
    pub fn open_for(&self, access: &Access, before: &Access) -> Result<Self, ListenError> {
        let ours = SocketOwners {
            user: Some(privileges::users()[1]),
            group: Some(privileges::group()),
        };
        let wish = SocketOwners::look_up(access).map(|owners| {
            let user = match access.owner == before.owner {
                true => None,
                false => owners.user.or(ours.user),
            };
            let group = match access.group == before.group {
                true => None,
                false => owners.group.or(ours.group),
            };
            Self {
                mode: access.mode,
                user: user.unwrap_or(self.user),
                group: group.unwrap_or(self.group),
                ..self.clone()
            }
        });
        let done = wish.and_then(|wish| match self.change_to(&wish) {
            Ok(()) => Ok(wish),
            Err(cause) => {
                // What was done of it is the change of a mode, which can be done again.
                let _ = wish.change_to(self);
                Err(cause)
            }
        });
        done.map_err(|cause| self.error(cause))
    }

    /// Gives the file the mode and the owners that it had.
    ///
    /// # Errors
    /// One line with the obstacle.
    pub fn become_like(&self, before: &Self) -> Result<(), ListenError> {
        self.change_to(before).map_err(|cause| self.error(cause))
    }

    /// Whether it is there, at its path or hidden.
    pub(super) fn is_there(&self) -> bool {
        self.is_hidden() || matches!(self.find(), Ok(FoundFile::Ours))
    }

    /// The file itself, wherever it is. Where another process may hide it or bring it back just now, it may be
    /// missed twice.
    fn pin(&self) -> Result<File, Cause> {
        let at_path = || pin(&self.path, self.file);
        let hidden = |_| pin(&self.hidden_path(), self.file);
        at_path().or_else(hidden).or_else(|_| at_path())
    }

    /// Gives it the mode and the owners with which it was made, if it has others. One that is not there any more is
    /// made anew like that.
    pub(super) fn restore(&self) -> Result<(), ListenError> {
        let Ok(now) = self
            .pin()
            .and_then(|pinned| pinned.metadata().map_err(system("examine the socket")))
        else {
            return Ok(());
        };
        if (now.mode() & 0o777, now.uid(), now.gid()) == self.access() {
            return Ok(());
        }
        self.become_like(self)
    }

    /// Never for more than both are for: it is closed first, then given away, and then opened.
    fn change_to(&self, wish: &Self) -> Result<(), Cause> {
        let pinned = self.pin()?;
        let set_mode = |mode| {
            socket_file::set_mode_of(&pinned, mode).map_err(|error| match error.raw_os_error() {
                Some(libc::EPERM) => Cause::OwnerDenied,
                _ => system("set the mode")(error),
            })
        };
        set_mode(self.mode & wish.mode)?;
        let made = pinned.metadata().map_err(system("examine the socket"))?;
        let owners = SocketOwners::of(wish).changes(&made);
        owners.give_pinned(&pinned)?;
        set_mode(wish.mode)
    }

    fn error(&self, cause: Cause) -> ListenError {
        ListenError {
            address: UnixAddress::Path(self.path.clone()),
            cause,
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

/// The socket's file, opened so that nothing else can be meant by it any more.
pub(super) fn pin(path: &Path, file: FileId) -> Result<File, Cause> {
    let pinned = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)
        .map_err(system("open the socket"))?;
    let metadata = pinned.metadata().map_err(system("examine the socket"))?;
    if !metadata.file_type().is_socket() || FileId::of(&metadata) != file {
        return Err(Cause::Contended);
    }
    Ok(pinned)
}
