//! What a terminal is like.

#[cfg(feature = "top")]
use std::mem;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
#[cfg(feature = "top")]
use std::ptr;

#[cfg(feature = "top")]
use super::{Errno, check};

/// How many lines it shows, if it is a terminal and knows.
pub(crate) fn rows(terminal: BorrowedFd<'_>) -> Option<usize> {
    let size = winsize(terminal)?;
    (size.ws_row > 0).then_some(size.ws_row.into())
}

/// How many columns and lines it shows, if it is a terminal and knows both.
#[cfg(feature = "top")]
pub(crate) fn size(terminal: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let size = winsize(terminal)?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

fn winsize(terminal: BorrowedFd<'_>) -> Option<libc::winsize> {
    let mut size = MaybeUninit::<libc::winsize>::uninit();
    // SAFETY: TIOCGWINSZ (ioctl_tty(2)) writes one winsize, for which `size` is a live local.
    let code = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) };
    if code != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has filled in all of it.
    Some(unsafe { size.assume_init() })
}

/// Whether it is gone for good: a window that was closed, a connection that has ended.
#[cfg(feature = "top")]
pub(crate) fn is_gone(terminal: BorrowedFd<'_>) -> bool {
    let mut look = libc::pollfd {
        fd: terminal.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: the pointer is to one live pollfd.
    let found = unsafe { libc::poll(&raw mut look, 1, 0) };
    found == 1 && look.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

/// Stops the process as Ctrl-Z does, until somebody has it go on. Where nobody could, as the kernel sees it, nothing
/// happens. Who waits for SIGTSTP does not hear of this one.
///
/// # Errors
/// If the kernel refuses, as under a filter.
#[cfg(feature = "top")]
pub(crate) fn stop() -> Result<(), Errno> {
    // SAFETY: a sigaction is integers and an optional function, for all of which zero is a value: the default action.
    let default: libc::sigaction = unsafe { mem::zeroed() };
    let mut before = default;
    // SAFETY: both pointers are to live values.
    check(unsafe { libc::sigaction(libc::SIGTSTP, &raw const default, &raw mut before) })?;
    // SAFETY: raise(3) takes an integer. The signal is this thread's, so the process stops before the call returns.
    unsafe { libc::raise(libc::SIGTSTP) };
    // SAFETY: the first pointer is to what the kernel has told, the second may be null.
    check(unsafe { libc::sigaction(libc::SIGTSTP, &raw const before, ptr::null_mut()) }).map(drop)
}
