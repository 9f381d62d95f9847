//! Thin safe wrappers of system calls: one call each, no policy.
//!
//! `unsafe` is here, in the proxy's own `sys` and in its ring driver, and nowhere else.

#![allow(unsafe_code)]

pub mod child;
mod errno;
pub mod interface;
pub mod namespace;
pub mod net;
pub mod process;
pub mod readiness;
pub mod timer;
pub mod tun;

pub use errno::Errno;

/// The result of a call that answers -1 on failure.
///
/// # Errors
/// What `errno` says.
#[inline]
pub fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result < 0 {
        Err(Errno::last())
    } else {
        Ok(result)
    }
}

/// The same for calls that return a length.
///
/// # Errors
/// As [`check`].
#[inline]
pub fn check_len(result: libc::ssize_t) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::last())
}
