//! Whether clients still find the sockets at their paths.
//!
//! A path can be removed, or its directory replaced, and the socket lives on: nobody gets in any more, and
//! nothing tells. So each second somebody looks. On a thread of its own: a file system that hangs holds up
//! nobody else.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use std::os::unix::ffi::OsStringExt;

use crate::observe::{DaemonState, Observed};

use super::listening::{ListeningSocket, Place};

/// As often as resolv.conf is looked at. One call for each socket.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A socket's file as it was at the start.
struct Watched {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
    is_missing: bool,
}

/// Watches those that have a path, until a drain begins. That of a socket which was passed may be out of
/// sight, in a container: then there is nothing to watch.
///
/// # Errors
/// If there is no room for a thread.
pub(super) fn watch(listeners: &[ListeningSocket], observed: &Arc<Observed>) -> io::Result<()> {
    let mut watched: Vec<_> = listeners.iter().filter_map(Watched::of).collect();
    if watched.is_empty() {
        return Ok(());
    }
    let observed = Arc::clone(observed);
    let look = move || {
        while observed.phase.state() == DaemonState::Serving {
            watched.iter_mut().for_each(Watched::look);
            let missing = watched.iter().filter(|w| w.is_missing).count();
            // Nobody concludes anything from it about other memory.
            observed
                .socket_files_missing
                .store(missing, Ordering::Relaxed);
            // Not a sleep, of which the standard library takes no failure.
            thread::park_timeout(LOOK_INTERVAL);
        }
    };
    let thread = thread::Builder::new().name("socket-files".to_owned());
    thread.spawn(look).map(drop)
}

impl Watched {
    fn of(listener: &ListeningSocket) -> Option<Self> {
        let Place::Path(path) = listener.place() else {
            return None;
        };
        let path = PathBuf::from(std::ffi::OsString::from_vec(path));
        let found = fs::symlink_metadata(&path).ok()?;
        Some(Self {
            path,
            file: (found.dev(), found.ino()),
            is_missing: false,
        })
    }

    fn look(&mut self) {
        let is_missing = match fs::symlink_metadata(&self.path) {
            Ok(found) => (found.dev(), found.ino()) != self.file,
            Err(error) => matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
            ),
        };
        if is_missing == self.is_missing {
            return;
        }
        self.is_missing = is_missing;
        let path = self.path.display();
        if is_missing {
            tracing::error!(
                "the socket unix:{path} is not there any more: its file or directory was removed or replaced, and \
                 nobody can connect (restart the daemon, and its socket unit if it has one; keep others from \
                 cleaning the directory)"
            );
        } else {
            tracing::info!("the socket unix:{path} is there again");
        }
    }
}
