//! What the benches share: drivers with a client and a backend around them, all on one thread.
//!
//! One thread, because these benches are to show what a change of the code costs. Two threads on two
//! cores would mostly show how long the system takes to wake one from the other; the harness
//! (`spliceway-bench`) measures that, with everything else that users see.

// Each bench compiles this module and uses its own part of it.
#![allow(dead_code)]

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use spliceway::driver::epoll::Epoll;
use spliceway::driver::uring::Uring;
use spliceway::driver::{Driver, IntoUnix, Limits, Sock, Waker};
use tempfile::TempDir;

/// What the bench asks of the drivers: plenty of buffers, and pipes for some flows.
pub(crate) const LIMITS: Limits = Limits {
    sessions: 4096,
    per_session: 1,
    pipes_max: 8,
    into_unix: IntoUnix::Spliced,
};

/// The end of every wait: a hang becomes a failure.
const GUARD: Duration = Duration::from_secs(20);

/// Runs a generic function with each engine's driver: `each_engine!(function(arguments))`, where the
/// function takes the engine's name and a function that makes its driver first.
macro_rules! each_engine {
    ($function:ident($($argument:expr),*)) => {
        $function("io_uring", $crate::common::io_uring, $($argument),*);
        $function("epoll", $crate::common::epoll, $($argument),*);
    };
}
pub(crate) use each_engine;

pub(crate) fn io_uring(waker: Waker, limits: Limits) -> Uring {
    Uring::new(waker, limits).expect("io_uring is allowed here")
}

pub(crate) fn epoll(waker: Waker, limits: Limits) -> Epoll {
    Epoll::new(waker, limits).expect("there are descriptors")
}

/// A listener that a driver owns, for clients of this thread.
pub(crate) struct Door {
    directory: TempDir,
    listener: Sock,
}

impl Door {
    pub(crate) fn open(driver: &mut impl Driver) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let listener = UnixListener::bind(socket_in(&directory)).expect("its directory is fresh");
        listener.set_nonblocking(true).expect("it is a socket");
        Self {
            listener: driver.adopt_listener(OwnedFd::from(listener)),
            directory,
        }
    }

    /// A non-blocking client, and the driver's end of it.
    pub(crate) fn connect(&self, driver: &mut impl Driver) -> (UnixStream, Sock) {
        let client = UnixStream::connect(socket_in(&self.directory)).expect("it listens");
        client.set_nonblocking(true).expect("it is a socket");
        let accepted = driver
            .accept_now(self.listener)
            .expect("it can be accepted");
        (client, accepted.expect("it has connected"))
    }
}

fn socket_in(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("socket")
}

/// One turn, and the time after it. Fails if nothing happens until `until`.
pub(crate) fn turn(driver: &mut impl Driver, until: Instant) -> Instant {
    driver.turn(Some(until)).expect("the driver works");
    let now = driver.now();
    assert!(now < until, "nothing happens any more");
    now
}

/// When a wait that starts now has become a hang.
pub(crate) fn guard() -> Instant {
    Instant::now() + GUARD
}

/// How many bytes a non-blocking call moved; none if it would have to wait.
pub(crate) fn moved(result: io::Result<usize>) -> usize {
    match result {
        Ok(0) => panic!("the other side ended"),
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}
