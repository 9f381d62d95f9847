//! Starting, running and ending the daemon.

pub mod listener;
pub mod logging;
