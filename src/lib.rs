//! spliceway listens on Unix sockets and relays each connection to TCP backends found by name.
//!
//! Start with ARCHITECTURE.md. In short: one worker thread per core owns a ring and its sessions
//! (`worker`, [`session`], [`driver`]); a resolver thread looks names up and publishes the
//! address set with one atomic swap (`resolver`, [`backend`]); the main thread starts everything
//! and waits for signals ([`daemon`]).
//!
//! Public is what the program itself, the harness, the benches and the tests use. It is no interface for
//! anyone else.

mod access_log;
mod address;
pub mod backend;
mod checks;
pub mod cli;
mod commands;
pub mod config;
pub mod counters;
pub mod daemon;
#[cfg(feature = "demo")]
pub mod demo;
pub mod driver;
pub mod fastcgi;
mod fpm;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod generated;
mod observe;
mod proxy_protocol;
mod resolver;
pub mod session;
mod shown;
mod sys;
mod worker;
