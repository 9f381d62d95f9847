//! epoll and eventfd.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{Errno, check, check_len};

/// One event of [`EpollInstance::wait`].
pub(crate) type Event = libc::epoll_event;

/// An epoll instance.
pub struct EpollInstance(OwnedFd);

impl EpollInstance {
    /// A new one, close-on-exec.
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: the call takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The instance's own descriptor: readable when an event waits.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Starts to watch `fd` for `events`; they arrive with `token`.
    pub(crate) fn add(&self, fd: &OwnedFd, events: i32, token: u64) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, token)
    }

    /// Changes what `fd` is watched for, or re-arms a one-shot watch.
    pub(crate) fn modify(&self, fd: &OwnedFd, events: i32, token: u64) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, token)
    }

    /// Stops watching `fd`.
    pub(crate) fn remove(&self, fd: &OwnedFd) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, op: i32, fd: &OwnedFd, events: i32, token: u64) -> Result<(), Errno> {
        let mut event = Event {
            events: events.cast_unsigned(),
            u64: token,
        };
        // SAFETY: the pointer is to a live event, which the kernel copies.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd.as_raw_fd(), &raw mut event) })
            .map(drop)
    }

    /// Waits until an event is there or the time has come (`None`: for ever), and fills `events`
    /// from the start of its capacity. A signal ends the wait early, without an event.
    pub(crate) fn wait(
        &self,
        events: &mut Vec<Event>,
        until: Option<Instant>,
    ) -> Result<(), Errno> {
        events.clear();
        let room = events.spare_capacity_mut();
        // SAFETY: the pointer and length are those of the vector's own spare capacity.
        let waited = check(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                room.as_mut_ptr().cast(),
                i32::try_from(room.len()).unwrap_or(i32::MAX),
                timeout_ms(until),
            )
        });
        let count = match waited {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(Errno(libc::EINTR)) => 0,
            Err(errno) => return Err(errno),
        };
        // SAFETY: the kernel wrote `count` events, at most the spare capacity, from its start.
        unsafe { events.set_len(count) };
        Ok(())
    }
}

/// Rounded up, so that a wait never ends before its time and then has to spin for the rest.
fn timeout_ms(until: Option<Instant>) -> i32 {
    let Some(until) = until else { return -1 };
    let left = until.saturating_duration_since(Instant::now());
    let rounded_up = left + Duration::from_nanos(999_999);
    i32::try_from(rounded_up.as_millis()).unwrap_or(i32::MAX)
}

/// A counter that another thread raises to end this thread's wait.
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, non-blocking and close-on-exec.
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: the call takes no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The descriptor to wait on: readable while the counter is not 0.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Raises the counter. Cannot fail in a way that matters: a full counter wakes just as well.
    pub(crate) fn raise(&self) {
        let one: u64 = 1;
        // SAFETY: the pointer is to 8 live bytes.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Takes the counter back to 0.
    pub(crate) fn clear(&self) {
        let mut count: u64 = 0;
        // SAFETY: the pointer is to 8 live bytes.
        let read = check_len(unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) });
        debug_assert!(
            matches!(read, Ok(8) | Err(Errno(libc::EAGAIN))),
            "an eventfd gives 8 bytes or none: {read:?}"
        );
    }
}
