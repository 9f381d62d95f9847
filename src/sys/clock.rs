//! The time that a thread has computed, as others may ask it, and the time since the machine's start.

use std::mem::MaybeUninit;
use std::time::Duration;

/// What CLOCK_MONOTONIC says, which other processes of the machine read as well.
#[must_use]
pub(crate) fn monotonic() -> Duration {
    // The clock is always there (clock_gettime(2)).
    read(libc::CLOCK_MONOTONIC).unwrap_or_default()
}

/// What this clock says; `None` for one that is not there.
fn read(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` is a live local that the call fills in. An id that stands for no clock is an error of the call
    // (EINVAL), not misuse.
    let code = unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
    if code != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has filled in all of it.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).ok()?;
    Some(Duration::new(seconds, u32::try_from(time.tv_nsec).ok()?))
}

/// Counts the time for which a thread was on a processor, its system calls included.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// That of the calling thread, for any thread of the process to read.
    #[must_use]
    pub fn of_this_thread() -> Option<Self> {
        let mut id = 0;
        // SAFETY: pthread_self(3) takes nothing and cannot fail.
        let this = unsafe { libc::pthread_self() };
        // SAFETY: `this` is the calling thread, so it is alive; `id` is a live local.
        let code = unsafe { libc::pthread_getcpuclockid(this, &raw mut id) };
        (code == 0).then_some(Self(id))
    }

    /// How much it is; `None` once the thread has ended.
    #[must_use]
    pub fn read(self) -> Option<Duration> {
        // The id of a thread that is gone stands for no clock.
        read(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_machines_clock_goes_on() {
        let before = monotonic();
        let guard = Instant::now() + Duration::from_secs(60);
        while monotonic() == before {
            assert!(Instant::now() < guard);
        }
        assert!(monotonic() > before && before > Duration::ZERO);
    }

    #[test]
    fn another_thread_reads_what_a_thread_has_computed() {
        let (say, hear) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let busy = thread::spawn(move || {
            say.send(ThreadClock::of_this_thread().unwrap()).unwrap();
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {}
        });
        let clock = hear.recv().unwrap();
        let guard = Instant::now() + Duration::from_secs(60);
        while clock.read().unwrap() < Duration::from_millis(20) {
            assert!(Instant::now() < guard, "a busy thread computes");
            thread::yield_now();
        }
        drop(stop);
        busy.join().unwrap();
    }
}
