//! Another configuration, while the daemon runs.
//!
//! In three steps. A plan says what is to become of each route; nothing is touched for it (`plan`). What can fail is
//! done before anything changes: accounts are looked up, sockets bound, files opened (`make`, on a thread of its
//! own; `stage` does the rest of it). Then everything changes at once (`take_over`): each worker takes all of it over between two turns. Whatever
//! is in the way before that leaves all as it was.
//!
//! A route is the same one if its name is. What its sessions and requests began with, they end with.

mod course;
mod make;
mod plan;
mod report;
mod stage;
mod take_over;

pub(super) use course::{Progress, Reloading};
pub(super) use take_over::Around;
