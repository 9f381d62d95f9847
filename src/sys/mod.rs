//! Thin safe wrappers of system calls: one call each, no policy.
//!
//! These are the calls that only the proxy makes; those that it shares with the harness are in
//! [`spliceway_common::sys`] and keep their names here. Together with the ring driver the only place for
//! `unsafe`. Nothing here imports the crate.

#![allow(unsafe_code)]

pub(crate) mod account;
pub(crate) mod children;
pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod handover;
pub(crate) mod kernel;
pub(crate) mod lookup;
pub(crate) mod memory;
pub(crate) mod pipe;
pub(crate) mod poll;
pub(crate) mod privileges;
pub(crate) mod signals;
pub(crate) mod socket_file;
pub(crate) mod terminal;

pub(crate) use spliceway_common::sys::{Errno, net, process};
use spliceway_common::sys::{check, check_len};
