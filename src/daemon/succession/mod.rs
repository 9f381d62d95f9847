//! Another process takes the daemon's place: both sides of it.
//!
//! The predecessor is the daemon that serves. The successor is the process that comes, which was started with
//! `--take-over` and begins like any other daemon, but with the sockets and the addresses that it is given. Both
//! sides are here, because every daemon can be either, and both at one time: a successor may be taken over from while
//! its predecessor still drains.
//!
//! - Nothing is given up before the successor serves. Whatever fails before that leaves the predecessor as it was.
//! - A socket is accepted from by one of them at a time. Nobody finds it closed.
//! - Over both, an endpoint has no more connections than it may have: the predecessor says what it keeps, which never
//!   becomes more (`backend/balance/shared.rs`).
//! - The predecessor removes nothing that is the successor's.

mod course;
mod line;
mod offer;
mod overlap;
mod predecessor;
mod start;
mod successor;
mod upgrading;
mod wire;

pub(super) use course::{Succeeded, Succession};
pub(super) use offer::{Takes, wake};
pub(super) use overlap::{next_news, overlap};
pub use predecessor::TakeOverError;
pub(super) use predecessor::{Offered, Predecessor};
pub(super) use start::Program;
pub(super) use upgrading::Upgrading;
