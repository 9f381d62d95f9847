//! What operators see of the daemon.

mod failures;

pub use failures::Failures;
