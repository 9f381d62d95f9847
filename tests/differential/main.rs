//! One random script of what a client and a backend do, played through a proxy on io_uring and
//! through one on epoll, must end the same on both: the same bytes, the same endings.
//!
//! A script is deterministic by construction (see `script`), so its outcome is known beforehand, and
//! a mistake that both engines share shows as well.
//!
//! `SPLICEWAY_SCRIPTS` says how many, `SPLICEWAY_SEED` which is the first; the next ones follow it.

// These tests consist of set-up that must not fail.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod outcome;
mod script;
mod stage;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use common::proxy::Builder;
use common::random::{from_environment, seed};
use common::sys::{as_permitted, demand_root, set_receive_buffer};
use common::{Engine, GUARD, Proxy, eventually};
use outcome::{Record, judge};
use script::{Peer, Script};
use stage::{Stage, play};

/// Of each test; ten seconds or so on two cores.
const SCRIPTS: u64 = 300;

/// How many sessions run side by side where they do: enough for turns of a worker in which a lot
/// happens at once.
const SIDE_BY_SIDE: usize = 16;

/// A backend that takes little at a time: with what the kernel would grant it, a megabyte is gone
/// before a sender finds a socket full.
const NARROW_BYTES: i32 = 8 * 1024;

#[test]
fn random_scripts_end_the_same_on_both_engines() {
    as_permitted(|| {
        play_scripts(&Setting {
            test: "random_scripts_end_the_same_on_both_engines",
            at_once: 1,
            held_by_backend: None,
            prepare: |builder| builder,
        });
    });
}

#[test]
fn random_scripts_end_the_same_side_by_side() {
    as_permitted(|| {
        play_scripts(&Setting {
            test: "random_scripts_end_the_same_side_by_side",
            at_once: SIDE_BY_SIDE,
            held_by_backend: Some(NARROW_BYTES),
            prepare: |builder| builder.args(["--workers", "1"]),
        });
    });
}

/// Bulk that cannot be spliced is copied, buffer by buffer, with sends that go out in parts. So many
/// workers with so few descriptors get no pipes.
#[test]
fn random_scripts_end_the_same_without_pipes() {
    as_permitted(|| {
        play_scripts(&Setting {
            test: "random_scripts_end_the_same_without_pipes",
            at_once: 1,
            held_by_backend: Some(NARROW_BYTES),
            prepare: |builder| builder.args(["--workers", "8"]).rlimit_nofile(120),
        });
    });
}

/// What scripts are played on.
struct Setting {
    test: &'static str,
    /// Scripts that run side by side.
    at_once: usize,
    /// What a backend's socket holds unread; `None`: what the kernel thinks right.
    held_by_backend: Option<i32>,
    prepare: fn(Builder) -> Builder,
}

fn play_scripts(setting: &Setting) {
    // It looks into the daemon.
    demand_root();
    let mut io_uring = Venue::open(Engine::IoUring, setting);
    let mut epoll = Venue::open(Engine::Epoll, setting);
    let first = seed();
    let seeds: Vec<_> = (first..first + from_environment("SPLICEWAY_SCRIPTS", SCRIPTS)).collect();
    for seeds in seeds.chunks(setting.at_once) {
        let scripts: Vec<_> = seeds.iter().copied().map(Script::generate).collect();
        let (on_io_uring, on_epoll) = thread::scope(|scope| {
            let on_epoll = scope.spawn(|| epoll.perform(&scripts));
            (io_uring.perform(&scripts), on_epoll.join().unwrap())
        });
        for ((script, on_io_uring), on_epoll) in scripts.iter().zip(on_io_uring).zip(on_epoll) {
            let verdict = judge(&script.outcome, &on_io_uring, &on_epoll);
            verdict.unwrap_or_else(|difference| {
                panic!(
                    "{difference}\nin {script:?}\nTo replay it: SPLICEWAY_SEED={} \
                     SPLICEWAY_SCRIPTS={} cargo test --test differential -- {}",
                    seeds[0],
                    seeds.len(),
                    setting.test
                )
            });
        }
    }
    io_uring.assert_left_clean();
    epoll.assert_left_clean();
}

/// A proxy that stays for all scripts, and the backend behind it.
struct Venue {
    proxy: Proxy,
    backends: Receiver<TcpStream>,
    descriptors: usize,
}

impl Venue {
    fn open(engine: Engine, setting: &Setting) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Some(bytes) = setting.held_by_backend {
            set_receive_buffer(&listener, bytes).unwrap();
        }
        let builder = Proxy::builder()
            .engine(engine)
            .backend(listener.local_addr().unwrap());
        let proxy = (setting.prepare)(builder).start();
        // Before that, a worker may not have opened the socket for its first client yet.
        proxy.process().assert_comes_to_rest();
        let descriptors = proxy.process().holdings().descriptors_beside_pipes;
        let (sender, backends) = mpsc::channel();
        thread::spawn(move || {
            for backend in listener.incoming() {
                // At the end nobody listens any more.
                let _ = backend.map(|backend| sender.send(backend));
            }
        });
        Self {
            proxy,
            backends,
            descriptors,
        }
    }

    /// Plays the scripts side by side, each in a session of its own.
    fn perform(&mut self, scripts: &[Script]) -> Vec<Record> {
        let stages: Vec<_> = scripts.iter().map(|_| Stage::default()).collect();
        thread::scope(|scope| {
            let sessions: Vec<_> = scripts
                .iter()
                .zip(&stages)
                .map(|(script, stage)| {
                    let client = self.proxy.connect();
                    let client = scope.spawn(move || play(script, Peer::Client, client, stage));
                    // The client speaks already. The next one connects only when this one's backend
                    // is known.
                    let backend = guarded(self.backends.recv_timeout(GUARD).unwrap());
                    stage.backend_is_connected();
                    let backend = scope.spawn(move || play(script, Peer::Backend, backend, stage));
                    (client, backend)
                })
                .collect();
            let records = sessions.into_iter().zip(&stages).map(|(session, stage)| {
                let (client, backend) = session;
                let (client, backend) = (client.join().unwrap(), backend.join().unwrap());
                let [up, down] = stage.received();
                Record {
                    up,
                    down,
                    client,
                    backend,
                }
            });
            records.collect()
        })
    }

    /// No script has left a descriptor behind. Pipes are kept for later, and counted elsewhere.
    fn assert_left_clean(&self) {
        eventually("the descriptors of all sessions are closed", || {
            self.proxy.process().holdings().descriptors_beside_pipes == self.descriptors
        });
    }
}

fn guarded(backend: TcpStream) -> TcpStream {
    backend.set_nodelay(true).unwrap();
    backend.set_read_timeout(Some(GUARD)).unwrap();
    backend.set_write_timeout(Some(GUARD)).unwrap();
    backend
}
