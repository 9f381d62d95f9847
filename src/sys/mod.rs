//! Thin safe wrappers of the system calls that the standard library lacks.
//!
//! Nothing here decides anything: each function makes one call and returns what the kernel said.
//! Nothing here knows the rest of the crate.

#![allow(unsafe_code)]

pub(crate) mod account;
pub(crate) mod socket_file;
