//! Another process takes the daemon's place: what is handed over, what is refused, and what nobody notices.

// These tests consist of set-up that must not fail.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod failing;
mod load;
mod peer;
mod stage;

use common::for_each_engine;
use failing::{a_successor_that_hangs_is_given_up, a_successor_that_is_killed_is_not_noticed};
use load::nobody_notices_twenty_upgrades;

for_each_engine!(
    nobody_notices_twenty_upgrades,
    a_successor_that_is_killed_is_not_noticed,
    a_successor_that_hangs_is_given_up,
);
