//! Which file is meant by a path.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Which file a path led to: a name can be taken over, this cannot while the file exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// What became of a path that was to be removed.
pub(super) enum Unlinked {
    Removed,
    Gone,
    Replaced,
}

impl FileId {
    pub(super) fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }

    pub(super) fn parts(self) -> (u64, u64) {
        (self.device, self.inode)
    }

    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// Removes the path if it still leads to this file. Linux cannot unlink by identity, so an
    /// instant remains between the two steps, against which the lock helps among ourselves.
    pub(super) fn unlink(self, path: &Path) -> io::Result<Unlinked> {
        match fs::symlink_metadata(path) {
            Ok(found) if Self::of(&found) != self => Ok(Unlinked::Replaced),
            Ok(_) => fs::remove_file(path).map(|()| Unlinked::Removed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Unlinked::Gone),
            Err(error) => Err(error),
        }
    }
}
