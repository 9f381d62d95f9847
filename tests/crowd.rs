//! More bulk sessions at once than the kernel gives an unprivileged user pipes for: past
//! `pipe-user-pages-soft` a new pipe is tiny and cannot grow. In a binary of its own, because it
//! wants the whole machine.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use common::client::{assert_eof, send};
use common::proxy::NOBODY;
use common::{Backend, Engine, KB, MB, Pattern, Proxy, for_each_engine};

for_each_engine!(eleven_hundred_unprivileged_bulk_sessions_stay_intact);

const SESSIONS: u64 = 1100;
const SESSION_BYTES: u64 = MB;
const BITE: u64 = 64 * KB;

fn eleven_hundred_unprivileged_bulk_sessions_stay_intact(engine: Engine) {
    let backend = Backend::seeded_source(SESSION_BYTES);
    let proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .user(NOBODY)
        .args(["--connections-max", "2000"])
        .start();
    let clients: Vec<_> = (0..SESSIONS).map(|seed| (seed, proxy.connect())).collect();
    for (seed, client) in &clients {
        send(client, &seed.to_le_bytes());
    }
    // A bite from each in turn: all of them are in the middle of their bulk until the last round.
    for start in (0..SESSION_BYTES).step_by(usize::try_from(BITE).unwrap()) {
        for (seed, client) in &clients {
            let received = Pattern::new(*seed).receive_range(&mut &*client, start, BITE);
            received.unwrap_or_else(|error| panic!("session {seed}: {error}"));
        }
        assert_eq!(backend.ledger().accepted, clients.len());
    }
    for (_, client) in &clients {
        assert_eof(client);
    }
}
