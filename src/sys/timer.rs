//! timerfd: a descriptor that becomes readable at a time.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{Errno, check};

/// A timer that goes off once each time it is set.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// One that is not set, non-blocking and close-on-exec.
    pub fn new() -> Result<Self, Errno> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: the call takes no pointers.
        let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
        // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The descriptor to wait on.
    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Makes the descriptor readable after `delay`, and not before, whatever it was set to.
    pub fn set(&self, delay: Duration) {
        // No time at all would turn the timer off (timerfd_settime(2)).
        let delay = delay.max(Duration::from_nanos(1));
        let setting = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: delay.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                tv_nsec: delay.subsec_nanos().into(),
            },
        };
        // SAFETY: the new setting is live for the call, and a null pointer asks for no old one.
        let set = check(unsafe {
            libc::timerfd_settime(
                self.0.as_raw_fd(),
                0,
                &raw const setting,
                std::ptr::null_mut(),
            )
        });
        assert!(
            set.is_ok(),
            "a timerfd of our own takes any time with valid nanoseconds"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sys::poll::EpollInstance;

    #[test]
    fn a_timer_goes_off_after_its_time_and_again_when_set_again() {
        let (timer, epoll) = (Timer::new().unwrap(), EpollInstance::new().unwrap());
        epoll
            .add(timer.fd(), libc::EPOLLIN | libc::EPOLLET, 7)
            .unwrap();
        for delay in [
            Duration::ZERO,
            Duration::from_micros(300),
            Duration::from_millis(2),
        ] {
            let (mut events, started) = (Vec::with_capacity(1), Instant::now());
            timer.set(delay);
            while events.is_empty() {
                epoll.wait(&mut events, None).unwrap();
            }
            assert!(started.elapsed() >= delay);
        }
    }
}
