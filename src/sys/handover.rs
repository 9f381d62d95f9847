//! What a process finds when it starts: variables that are for it alone, and open descriptors.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Errno, check};

/// The first descriptor that is passed (`SD_LISTEN_FDS_START` in sd_listen_fds(3)).
pub(crate) const FIRST_DESCRIPTOR: RawFd = 3;

/// Takes a variable out of the environment, so that no child of ours gets it. While other threads run
/// it is only read: they may be reading the environment, too.
pub(crate) fn take_variable(name: &str) -> Option<OsString> {
    let value = env::var_os(name)?;
    if is_single_threaded() {
        // SAFETY: this is the only thread of the process, so nobody else reads or writes the
        // environment meanwhile.
        unsafe { env::remove_var(name) };
    }
    Some(value)
}

/// Where it cannot be told, the answer is no.
fn is_single_threaded() -> bool {
    fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Takes over `count` descriptors from [`FIRST_DESCRIPTOR`] on, and closes them on exec. To be called
/// before the process has opened anything that stays open: then they are those that were passed.
///
/// # Errors
/// The number of the first one that is not open. Those before it are closed.
///
/// # Panics
/// When it is called again: the descriptors have an owner.
pub(crate) fn adopt_descriptors(count: usize) -> Result<Vec<OwnedFd>, RawFd> {
    static ADOPTED: AtomicBool = AtomicBool::new(false);
    let again = ADOPTED.swap(true, Ordering::Relaxed);
    assert!(!again, "descriptors are adopted once");
    (FIRST_DESCRIPTOR..).take(count).map(adopt).collect()
}

fn adopt(number: RawFd) -> Result<OwnedFd, RawFd> {
    close_on_exec(number).map_err(|_| number)?;
    // SAFETY: the call above has found it open. Whoever started the process says that it is for us,
    // and nobody here knows it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn close_on_exec(number: RawFd) -> Result<(), Errno> {
    // SAFETY: fcntl(2) with F_SETFD takes integers only.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_not_there_is_none() {
        assert_eq!(take_variable("SPLICEWAY_NO_SUCH_VARIABLE"), None);
    }
}
