//! Another process takes the daemon's place: what is handed over, what is refused, and what nobody notices.

// These tests consist of set-up that must not fail.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod failing;
mod hidden;
mod load;
mod peer;
mod permits;
mod programs;
mod refusals;
mod sockets;
mod stage;
mod surroundings;
mod transcript;
mod unfinished;

use clients::{
    a_request_that_is_cut_by_the_hand_over_is_answered_once,
    each_request_is_answered_once_whenever_it_comes,
};
use common::for_each_engine;
use failing::{a_successor_that_hangs_is_given_up, a_successor_that_is_killed_is_not_noticed};
use hidden::{
    a_hidden_socket_stays_so_until_an_endpoint_is_back,
    whoever_comes_shows_a_socket_that_it_does_not_hide,
};
use load::nobody_notices_twenty_upgrades;
use permits::{
    a_chain_shares_what_there_is, a_limit_is_found_out_anew,
    a_limit_that_comes_counts_those_before_it, slow_requests_keep_their_places,
    the_line_is_served_in_order, what_is_kept_for_a_class_is_kept_from_what_is_left,
    who_comes_has_what_others_leave,
};
use programs::nginx_and_php_fpm_do_not_notice_upgrades;
use refusals::{
    a_paused_route_is_not_handed_over, another_user_is_refused, one_comes_at_a_time,
    what_is_no_daemon_has_no_successor, what_is_wrong_with_a_successor_is_told,
};
use sockets::{
    abstract_sockets_are_handed_over, bytes_of_those_that_wait_go_with_them,
    files_come_to_be_for_whom_the_new_one_is_configured, files_stay_as_they_are,
    passed_sockets_are_handed_over, routes_come_and_go, whoever_asks_is_answered_at_any_time,
};
use surroundings::{
    addresses_are_handed_over, the_service_manager_hears_of_each_process,
    what_was_changed_by_hand_is_handed_over,
};
use transcript::{
    a_daemon_gives_what_was_read_to_who_takes_it, a_daemon_understands_a_successor_of_this_version,
    a_successor_begins_with_what_was_read, a_successor_understands_a_daemon_of_this_version,
    another_protocol_is_refused,
};
use unfinished::{
    a_head_that_is_cut_anywhere_is_answered_once, a_request_that_is_sent_again_has_its_place,
    answers_that_nobody_reads_keep_no_place, half_heads_leave_and_starve_nobody,
    what_is_asked_behind_an_unread_answer_goes_over, what_is_pipelined_goes_over_with_its_client,
    who_was_let_in_stays_whatever_its_user_has,
};

for_each_engine!(
    nobody_notices_twenty_upgrades,
    a_successor_that_is_killed_is_not_noticed,
    a_successor_that_hangs_is_given_up,
    another_user_is_refused,
    one_comes_at_a_time,
    a_paused_route_is_not_handed_over,
    what_is_wrong_with_a_successor_is_told,
    what_is_no_daemon_has_no_successor,
    who_comes_has_what_others_leave,
    the_line_is_served_in_order,
    a_limit_that_comes_counts_those_before_it,
    a_chain_shares_what_there_is,
    slow_requests_keep_their_places,
    what_is_kept_for_a_class_is_kept_from_what_is_left,
    a_limit_is_found_out_anew,
    files_stay_as_they_are,
    files_come_to_be_for_whom_the_new_one_is_configured,
    a_hidden_socket_stays_so_until_an_endpoint_is_back,
    whoever_comes_shows_a_socket_that_it_does_not_hide,
    routes_come_and_go,
    abstract_sockets_are_handed_over,
    passed_sockets_are_handed_over,
    whoever_asks_is_answered_at_any_time,
    bytes_of_those_that_wait_go_with_them,
    a_request_that_is_cut_by_the_hand_over_is_answered_once,
    each_request_is_answered_once_whenever_it_comes,
    addresses_are_handed_over,
    what_was_changed_by_hand_is_handed_over,
    the_service_manager_hears_of_each_process,
    a_daemon_understands_a_successor_of_this_version,
    a_successor_understands_a_daemon_of_this_version,
    a_daemon_gives_what_was_read_to_who_takes_it,
    a_successor_begins_with_what_was_read,
    another_protocol_is_refused,
    half_heads_leave_and_starve_nobody,
    a_head_that_is_cut_anywhere_is_answered_once,
    what_is_pipelined_goes_over_with_its_client,
    answers_that_nobody_reads_keep_no_place,
    a_request_that_is_sent_again_has_its_place,
    who_was_let_in_stays_whatever_its_user_has,
    what_is_asked_behind_an_unread_answer_goes_over,
    nginx_and_php_fpm_do_not_notice_upgrades,
);
