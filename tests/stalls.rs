//! While nothing can move, the proxy does nothing: no processor time, no further threads. Then it
//! goes on where it was.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use common::client::{assert_eof, receive_exact, receive_to_eof, send};
use common::{Backend, Ending, Engine, MB, Pattern, Proxy, for_each_engine};

for_each_engine!(
    a_stalled_reader_costs_nothing,
    a_stalled_reader_that_has_half_closed_costs_nothing,
    a_stalled_backend_that_has_half_closed_costs_nothing,
    idle_and_half_closed_sessions_cost_nothing,
);

fn a_stalled_reader_costs_nothing(engine: Engine) {
    stalled_reader_costs_nothing(engine, |_| {});
}

/// A half-closed peer keeps reporting itself to whoever polls it.
fn a_stalled_reader_that_has_half_closed_costs_nothing(engine: Engine) {
    stalled_reader_costs_nothing(engine, |client| client.shutdown(Shutdown::Write).unwrap());
}

fn stalled_reader_costs_nothing(engine: Engine, before_reading: impl Fn(&UnixStream)) {
    let backend = Backend::seeded_source(16 * MB);
    let proxy = Proxy::start(engine, &backend);
    let threads = threads_once_warm(&proxy);

    let client = proxy.connect();
    send(&client, &8u64.to_le_bytes());
    before_reading(&client);
    Pattern::new(8).receive(&mut &client, MB).unwrap();
    proxy.process().assert_comes_to_rest();
    assert!(
        proxy.process().threads() <= threads,
        "a stall has started threads"
    );

    Pattern::new(8)
        .receive_range(&mut &client, MB, 15 * MB)
        .unwrap();
    assert_eof(&client);
    drop(client);
    assert_eq!(backend.wait_for_end(1).ending, Ending::Eof);
}

fn a_stalled_backend_that_has_half_closed_costs_nothing(engine: Engine) {
    let pattern = Pattern::new(9);
    let backend = Backend::scripted(move |conversation| {
        if conversation.receive_seed()? == WARM_UP {
            return conversation.echo();
        }
        conversation.send(b"my part is done")?;
        conversation.half_close()?;
        conversation.wait_for_release()?;
        conversation.receive_pattern(pattern, 16 * MB)?;
        conversation.keep_until_eof()
    });
    let proxy = Proxy::start(engine, &backend);
    let threads = threads_once_warm(&proxy);

    let client = proxy.connect();
    send(&client, &9u64.to_le_bytes());
    assert_eq!(receive_exact(&client, 15), b"my part is done");
    assert_eof(&client);
    thread::scope(|scope| {
        scope.spawn(|| {
            pattern.send(&mut &client, 16 * MB).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        proxy.process().assert_comes_to_rest();
        assert!(
            proxy.process().threads() <= threads,
            "a stall has started threads"
        );
        backend.release(1);
    });
    let seen = backend.wait_for_end(1);
    assert_eq!((seen.ending, seen.received.len()), (Ending::Eof, 0));
}

fn idle_and_half_closed_sessions_cost_nothing(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.discard_until_eof()?;
        conversation.wait_for_release()
    });
    let proxy = Proxy::start(engine, &backend);
    let idle: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    let half_closed: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    for client in &half_closed {
        send(client, b"that was all");
        client.shutdown(Shutdown::Write).unwrap();
    }
    backend.wait_until("all that was sent", |ledger| ledger.received == 20 * 12);
    proxy.process().assert_comes_to_rest();

    for client in &idle {
        client.shutdown(Shutdown::Write).unwrap();
    }
    backend.release(40);
    for client in idle.iter().chain(&half_closed) {
        assert_eof(client);
    }
}

/// The seed of the session that only warms the proxy up.
const WARM_UP: u64 = 0;

/// The number of threads after a first whole session.
fn threads_once_warm(proxy: &Proxy) -> usize {
    let client = proxy.connect();
    send(&client, &WARM_UP.to_le_bytes());
    // A source sends its bulk of its own accord, an echo what we send: take what comes, then end.
    client.shutdown(Shutdown::Write).unwrap();
    receive_to_eof(&client);
    proxy.process().threads()
}
