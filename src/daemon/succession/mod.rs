//! Another process goes on in this one's place: an upgrade.

pub(super) mod course;
pub(super) mod start;
