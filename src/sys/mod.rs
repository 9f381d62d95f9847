//! Thin safe wrappers of system calls: one call each, no policy.
//!
//! Together with the ring driver the only place for `unsafe`. Nothing here imports the crate.

#![allow(unsafe_code)]

pub(crate) mod account;
pub mod child;
pub mod clock;
mod errno;
pub mod handover;
pub mod kernel;
pub mod lookup;
pub(crate) mod memory;
pub mod namespace;
pub mod net;
pub mod pipe;
pub mod poll;
pub(crate) mod privileges;
pub mod process;
pub(crate) mod signals;
pub(crate) mod socket_file;
pub(crate) mod terminal;
pub mod timer;

pub use errno::Errno;

/// The result of a call that answers -1 on failure.
fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result < 0 {
        Err(Errno::last())
    } else {
        Ok(result)
    }
}

/// The same for calls that return a length.
fn check_len(result: libc::ssize_t) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::last())
}
