//! Options of sockets (socket(7)).

use std::os::fd::{AsRawFd, BorrowedFd};

use super::super::{Errno, check};

/// The length of a `T`, as calls on sockets take it.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "addresses and option values are a few bytes"
)]
pub const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

pub(super) fn set_option<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> Result<(), Errno> {
    // SAFETY: `value` is a live T, and the length passed is T's own.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const *value).cast(),
            socklen::<T>(),
        )
    })
    .map(drop)
}

pub(super) fn int_option(socket: BorrowedFd<'_>, name: libc::c_int) -> Result<i32, Errno> {
    int_option_of(socket, libc::SOL_SOCKET, name)
}

pub(super) fn int_option_of(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> Result<i32, Errno> {
    let (mut value, mut len): (libc::c_int, _) = (0, socklen::<libc::c_int>());
    // SAFETY: both pointers are to live locals, and `len` is the size of the first.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    })?;
    Ok(value)
}
