//! Workers that look for work before they sleep (`--busy-poll`).

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use common::client::{assert_over, exchange};
use common::{Backend, Engine, KB, Pattern, Proxy, eventually, for_each_engine};

for_each_engine!(
    a_worker_that_polls_looks_before_it_sleeps,
    a_worker_that_polls_sleeps_when_there_is_none,
    a_worker_that_polls_obeys,
);

/// Messages, each of which is answered before the next one is sent, and behind which the worker comes to sleep.
const EXCHANGES: u64 = 30;

fn polling(engine: Engine, time: &str, backend: &Backend) -> Proxy {
    Proxy::builder()
        .engine(engine)
        .backend(backend)
        .args(["--workers", "1", "--busy-poll", time])
        .start()
}

/// The processor time of a worker that goes to sleep behind each message.
fn processor_time(engine: Engine, time: &str) -> Duration {
    let backend = Backend::echo();
    let proxy = polling(engine, time, &backend);
    let worker = Worker::of(&proxy);
    let client = proxy.connect();
    exchange(&client, Pattern::new(0), KB);
    let before = worker.processor_time();
    for seed in 0..EXCHANGES {
        exchange(&client, Pattern::new(seed), KB);
        eventually("the worker sleeps", || worker.sleeps());
    }
    worker.processor_time() - before
}

/// The worker's thread, as the kernel knows it.
struct Worker(PathBuf);

impl Worker {
    fn of(proxy: &Proxy) -> Self {
        let (process, thread) = (proxy.process().pid(), proxy.process().thread("worker-0"));
        Self(format!("/proc/{process}/task/{thread}").into())
    }

    fn processor_time(&self) -> Duration {
        let schedstat = fs::read_to_string(self.0.join("schedstat")).unwrap();
        Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
    }

    fn sleeps(&self) -> bool {
        let stat = fs::read_to_string(self.0.join("stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('S')
    }
}

/// However small its part of a busy machine is: for most of this time it does nothing else.
fn a_worker_that_polls_looks_before_it_sleeps(engine: Engine) {
    let (polling, sleeping) = (
        processor_time(engine, "10ms"),
        processor_time(engine, "off"),
    );
    assert!(
        polling > sleeping * 4,
        "{polling:?} instead of {sleeping:?}"
    );
}

fn a_worker_that_polls_sleeps_when_there_is_none(engine: Engine) {
    let backend = Backend::echo();
    let proxy = polling(engine, "10ms", &backend);
    let client = proxy.connect();
    exchange(&client, Pattern::new(1), KB);
    proxy.process().assert_comes_to_rest();
    exchange(&client, Pattern::new(2), KB);
}

/// What other threads tell it reaches it while it looks, and so does the time.
fn a_worker_that_polls_obeys(engine: Engine) {
    let backend = Backend::echo();
    let mut proxy = Proxy::builder()
        .engine(engine)
        .backend(&backend)
        .args([
            "--workers",
            "1",
            "--busy-poll",
            "10ms",
            "--idle-timeout",
            "50ms",
        ])
        .start();
    let client = proxy.connect();
    exchange(&client, Pattern::new(1), KB);
    assert_over(&client);
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
}
