//! Other people's FastCGI servers behind other people's web servers, with a proxy between them: what works
//! without it works with it. A program that is missing is a failure: `scripts/test` installs all of them.
//!
//! `docs/compatibility.md` shows what was measured. `SPLICEWAY_WRITE_MATRIX=1 cargo test --test matrix`
//! writes it anew. Every server behind every web server takes longer and is an ignored test, which
//! `scripts/soak` runs.

// These tests consist of set-up that must not fail.
#![allow(clippy::unwrap_used)]

mod ask;
mod cases;
#[path = "../common/mod.rs"]
mod common;
mod fronts;
mod notes;
mod rows;
mod servers;
mod site;
mod table;
mod ways;

use cases::Case;
use common::Engine;
use fronts::Front;
use rows::{Cell, Pair, Row, row};
use servers::Server;

/// Makes a test of each pair on each engine. They run in the order of their names, so that two that are
/// measured together do not wait for one another.
macro_rules! each_pair {
    ($($name:ident: $server:expr, $front:expr;)+) => {
        each_pair!(io_uring, Engine::IoUring, $($name: $server, $front;)+);
        each_pair!(epoll, Engine::Epoll, $($name: $server, $front;)+);

        const TESTED: &[Pair] = &[$(Pair { server: $server, front: $front }),+];
    };
    ($module:ident, $engine:expr, $($name:ident: $server:expr, $front:expr;)+) => {
        mod $module {
            use super::*;

            $(#[test]
            fn $name() {
                let pair = Pair { server: $server, front: $front };
                assert_explained(row(pair), $engine);
            })+
        }
    };
}

each_pair! {
    php_fpm_static_behind_nginx: Server::FpmStatic, Front::NGINX;
    php_fpm_static_behind_a_client_of_fastcgi: Server::FpmStatic, Front::Records;
    php_fpm_dynamic_behind_nginx: Server::FpmDynamic, Front::NGINX;
    php_fpm_dynamic_behind_a_client_of_fastcgi: Server::FpmDynamic, Front::Records;
    php_fpm_ondemand_behind_nginx: Server::FpmOndemand, Front::NGINX;
    php_fpm_ondemand_behind_a_client_of_fastcgi: Server::FpmOndemand, Front::Records;
    php_cgi_behind_nginx: Server::PhpCgi, Front::NGINX;
    php_cgi_behind_a_client_of_fastcgi: Server::PhpCgi, Front::Records;
    fcgiwrap_behind_nginx: Server::Fcgiwrap, Front::NGINX;
    fcgiwrap_behind_a_client_of_fastcgi: Server::Fcgiwrap, Front::Records;
    perl_behind_nginx: Server::Perl, Front::NGINX;
    perl_behind_a_client_of_fastcgi: Server::Perl, Front::Records;
    libfcgi_behind_nginx: Server::Libfcgi, Front::NGINX;
    libfcgi_behind_a_client_of_fastcgi: Server::Libfcgi, Front::Records;
    flup_with_threads_behind_nginx: Server::FlupThreads, Front::NGINX;
    flup_with_threads_behind_a_client_of_fastcgi: Server::FlupThreads, Front::Records;
    flup_with_processes_behind_nginx: Server::FlupFork, Front::NGINX;
    flup_with_processes_behind_a_client_of_fastcgi: Server::FlupFork, Front::Records;
    flipflop_behind_nginx: Server::Flipflop, Front::NGINX;
    flipflop_behind_a_client_of_fastcgi: Server::Flipflop, Front::Records;
    go_behind_nginx: Server::Go, Front::NGINX;
    go_behind_a_client_of_fastcgi: Server::Go, Front::Records;
    ruby_behind_nginx: Server::Ruby, Front::NGINX;
    ruby_behind_a_client_of_fastcgi: Server::Ruby, Front::Records;
    uwsgi_behind_nginx: Server::Uwsgi, Front::NGINX;
    uwsgi_behind_a_client_of_fastcgi: Server::Uwsgi, Front::Records;
    nginx_that_keeps_and_does_not_buffer: Server::FpmStatic, Front::Nginx { keeps: true, buffers: false };
    nginx_that_closes: Server::FpmStatic, Front::Nginx { keeps: false, buffers: true };
    nginx_that_closes_and_does_not_buffer: Server::FpmStatic, Front::Nginx { keeps: false, buffers: false };
    apache_that_keeps: Server::FpmStatic, Front::Apache { reuses: true };
    apache_that_closes: Server::FpmStatic, Front::Apache { reuses: false };
    caddy: Server::FpmStatic, Front::Caddy;
    lighttpd: Server::FpmStatic, Front::Lighttpd;
    haproxy_that_keeps: Server::FpmStatic, Front::Haproxy { keeps: true };
    haproxy_that_closes: Server::FpmStatic, Front::Haproxy { keeps: false };
    cgi_fcgi: Server::FpmStatic, Front::CgiFcgi;
}

#[track_caller]
fn assert_explained(row: &Row, engine: Engine) {
    let faults = unexplained(row, engine);
    assert!(faults.is_empty(), "{faults}");
}

/// What is not right and not explained in the documentation either.
fn unexplained(row: &Row, engine: Engine) -> String {
    let Pair { server, front } = row.pair;
    let faults = row.cells(engine).filter(|(case, cell)| {
        let is_wrong = matches!(cell, Cell::AsDirect(_) | Cell::Differs(_));
        is_wrong && notes::explanation(row.pair, *case, cell).is_none()
    });
    let line = |(case, cell): (Case, &Cell)| {
        let (server, front, case) = (server.name(), front.name(), case.name());
        format!("{server} behind {front}, {engine}, {case}: {cell:?}\n")
    };
    faults.map(line).collect()
}

#[test]
fn the_tables_in_the_documentation_are_what_was_measured() {
    let rows: Vec<_> = rows::pairs().map(row).collect();
    table::assert_documented(&rows);
}

#[test]
fn every_pair_of_the_tables_has_its_tests() {
    let missing: Vec<_> = rows::pairs()
        .filter(|pair| !TESTED.contains(pair))
        .collect();
    assert_eq!(missing, []);
    assert_eq!(TESTED.len(), rows::pairs().count());
}

/// Minutes, not seconds.
#[test]
#[ignore = "takes minutes: scripts/soak runs it"]
fn every_server_behind_every_web_server() {
    let pairs = Server::ALL
        .into_iter()
        .flat_map(|server| Front::ALL.map(|front| Pair { server, front }));
    let faults: String = pairs
        .map(Row::measure)
        .flat_map(|row| [Engine::IoUring, Engine::Epoll].map(|engine| unexplained(&row, engine)))
        .collect();
    assert!(faults.is_empty(), "{faults}");
}
