//! What a terminal is like.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How many lines it shows, if it is a terminal and knows.
pub(crate) fn rows(terminal: BorrowedFd<'_>) -> Option<usize> {
    let mut size = MaybeUninit::<libc::winsize>::uninit();
    // SAFETY: TIOCGWINSZ (ioctl_tty(2)) writes one winsize, for which `size` is a live local.
    let code = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) };
    if code != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has filled in all of it.
    let size = unsafe { size.assume_init() };
    (size.ws_row > 0).then_some(size.ws_row.into())
}
