//! Other people's FastCGI servers behind other people's web servers, with a proxy between them: what works
//! without it works with it. A program that is missing is a failure: `scripts/test` installs all of them.
//!
//! `docs/compatibility.md` shows what was measured. `SPLICEWAY_WRITE_MATRIX=1 cargo test --test matrix`
//! writes it anew.

// These tests consist of set-up that must not fail.
#![allow(clippy::unwrap_used)]

mod ask;
mod cases;
#[path = "../common/mod.rs"]
mod common;
mod fronts;
mod rows;
mod servers;
mod site;
mod ways;

use common::Engine;
use fronts::Front;
use rows::{Cell, Pair, row};
use servers::Server;

#[test]
fn try_all() {
    for pair in rows::pairs() {
        if let Ok(only) = std::env::var("ONLY")
            && !format!("{pair:?}").contains(&only)
        {
            continue;
        }
        let began = std::time::Instant::now();
        let row = row(pair);
        println!("== {} / {} {:.1?}", pair.server.name(), pair.front.name(), began.elapsed());
        for engine in [Engine::IoUring, Engine::Epoll] {
            for (case, cell) in row.cells(engine) {
                if !matches!(cell, Cell::Right | Cell::Absent) {
                    println!("{engine} {} {cell:?}", case.name());
                }
            }
        }
    }
}
