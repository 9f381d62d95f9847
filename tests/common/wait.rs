//! Waiting for conditions.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The end of every wait. It only turns a hang into a failure: no test expects anything to happen
/// within it, so it is generous enough for a debug build on a busy machine.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

/// How long [`eventually`] leaves the processor to others between two looks.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Waits until `condition` holds; panics with `what` when it never does.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + GUARD;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        pause(LOOK_INTERVAL);
    }
}

/// The only place where a test lets time pass. Another process's state (`/proc`, the file system, a
/// listening socket) cannot wake us, so it has to be looked at again and again, and two cores are
/// too few to do that without a pause. What a process burns shows only over time as well.
pub(crate) fn pause(length: Duration) {
    thread::sleep(length);
}

/// How long a process stays stopped in [`meanwhile`]: longer than TCP takes to repeat a segment
/// (200 ms) and than any pause of the proxy's own (100 ms), so that what these might do has happened.
pub(crate) const STOPPED: Duration = Duration::from_secs(2);

/// Acts again and again until `length` has passed. That something does *not* happen shows only over
/// time, so this is a real span of it; it is filled with work, not slept away.
pub(crate) fn meanwhile(length: Duration, mut act: impl FnMut()) {
    let end = Instant::now() + length;
    while Instant::now() < end {
        act();
    }
}

/// Sets a flag when it goes out of scope, so that a thread which runs until then ends even if the
/// scope is left by a panic.
pub(crate) struct SetOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What a call gives that nothing has interrupted. A read of a socket that has a time limit is not begun again by
/// the kernel (signal(7)).
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
