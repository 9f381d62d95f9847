//! Another process takes the daemon's place: what is handed over, what is refused, and what nobody notices.

// These tests consist of set-up that must not fail.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod failing;
mod given;
mod load;
mod peer;
mod stage;
mod transcript;

use common::for_each_engine;
use failing::{a_successor_that_hangs_is_given_up, a_successor_that_is_killed_is_not_noticed};
use given::{
    a_client_that_waits_is_introduced_as_it_came, a_kept_client_goes_over_between_two_requests,
    a_limit_that_is_new_counts_what_runs_in_the_old_process,
    a_service_manager_follows_from_one_process_to_the_next,
    a_successor_that_cannot_have_all_leaves_all_as_it_was,
    permits_and_the_queue_go_on_over_a_chain_of_processes,
    sockets_stay_come_and_go_with_the_configuration, what_was_known_of_endpoints_goes_over,
};
use load::nobody_notices_twenty_upgrades;
use transcript::{
    a_predecessor_of_this_version_is_understood, a_successor_of_this_version_is_understood,
    another_protocol_is_refused_with_its_line,
};

for_each_engine!(
    nobody_notices_twenty_upgrades,
    a_successor_that_is_killed_is_not_noticed,
    a_successor_that_hangs_is_given_up,
    permits_and_the_queue_go_on_over_a_chain_of_processes,
    a_limit_that_is_new_counts_what_runs_in_the_old_process,
    a_client_that_waits_is_introduced_as_it_came,
    a_kept_client_goes_over_between_two_requests,
    what_was_known_of_endpoints_goes_over,
    sockets_stay_come_and_go_with_the_configuration,
    a_successor_that_cannot_have_all_leaves_all_as_it_was,
    a_service_manager_follows_from_one_process_to_the_next,
    a_successor_of_this_version_is_understood,
    a_predecessor_of_this_version_is_understood,
    another_protocol_is_refused_with_its_line,
);
