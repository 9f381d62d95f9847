//! Waiting for descriptors, to the nanosecond.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use super::{Errno, check};

/// Waits until one of the descriptors that there are has something to read or has ended, or for so long;
/// `None` is for as long as it takes. Returns which of them do. A signal ends the wait as well.
///
/// How late the kernel may be without a reason: see [`super::process::punctual`].
///
/// # Errors
/// What ppoll(2) gives, other than EINTR.
pub fn wait<const N: usize>(
    descriptors: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut watched = descriptors.map(|descriptor| libc::pollfd {
        // Negative ones are passed over.
        fd: descriptor.map_or(-1, |descriptor| descriptor.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let count = libc::nfds_t::try_from(N).map_err(io::Error::other)?;
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the first pointer is to as many live entries as the count says; the timeout is live or null,
    // which is for ever; a null mask leaves signals as they are.
    let waited = unsafe { libc::ppoll(watched.as_mut_ptr(), count, timeout, std::ptr::null()) };
    match check(waited) {
        Ok(_) => Ok(watched.map(|descriptor| descriptor.revents != 0)),
        Err(Errno(libc::EINTR)) => Ok([false; N]),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wait_ends_when_there_is_something_and_not_before_its_time() {
        let (reader, mut writer) = io::pipe().unwrap();
        let short = Duration::from_millis(2);
        let started = Instant::now();
        let waited = wait([Some(reader.as_fd()), None], Some(short));
        assert_eq!(waited.unwrap(), [false, false]);
        assert!(started.elapsed() >= short);
        writer.write_all(b"x").unwrap();
        let waited = wait([None, Some(reader.as_fd())], None);
        assert_eq!(waited.unwrap(), [false, true]);
    }
}
