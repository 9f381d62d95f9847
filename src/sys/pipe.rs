//! Pipes and `splice(2)`.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::{Errno, check, check_len};

/// A non-blocking, close-on-exec pipe: its read end and its write end.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: the pointer is to two live descriptors' worth of room.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
    // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
    let read = unsafe { OwnedFd::from_raw_fd(ends[0]) };
    // SAFETY: as above.
    let write = unsafe { OwnedFd::from_raw_fd(ends[1]) };
    Ok((read, write))
}

/// Asks for `bytes` of capacity and returns what the kernel gave, which can be less or more.
pub(crate) fn set_capacity(pipe: &OwnedFd, bytes: i32) -> Result<i32, Errno> {
    // SAFETY: F_SETPIPE_SZ takes an integer.
    check(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) })
}

/// Moves up to `max` bytes between a pipe and a socket without copying and without waiting.
/// 0 is the end of the source.
pub(crate) fn splice(from: &OwnedFd, to: &OwnedFd, max: usize) -> Result<usize, Errno> {
    // SAFETY: null offsets are what pipes and sockets require; there are no other pointers.
    check_len(unsafe {
        libc::splice(
            from.as_raw_fd(),
            std::ptr::null_mut(),
            to.as_raw_fd(),
            std::ptr::null_mut(),
            max,
            libc::SPLICE_F_NONBLOCK,
        )
    })
}

/// Copies bytes into a pipe without waiting; how many.
pub(crate) fn write(pipe: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the pointer and the length are those of a live slice, which is only read.
    check_len(unsafe { libc::write(pipe.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}
