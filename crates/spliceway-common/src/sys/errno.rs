//! Kernel error numbers, by name.

use std::fmt;
use std::io;

/// A kernel error number, the positive value that `errno(3)` lists.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// The error of the system call that just failed on this thread.
    #[inline]
    pub fn last() -> Self {
        Self::from(io::Error::last_os_error())
    }

    /// The name that documentation uses, for the errors that sockets, pipes and rings return.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::EINTR => "EINTR",
            libc::EBADF => "EBADF",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EFAULT => "EFAULT",
            libc::EBUSY => "EBUSY",
            libc::EINVAL => "EINVAL",
            libc::ENFILE => "ENFILE",
            libc::EMFILE => "EMFILE",
            libc::ENOSPC => "ENOSPC",
            libc::EPIPE => "EPIPE",
            libc::ENOSYS => "ENOSYS",
            libc::EPROTO => "EPROTO",
            libc::EADDRINUSE => "EADDRINUSE",
            libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
            libc::ENETDOWN => "ENETDOWN",
            libc::ENETUNREACH => "ENETUNREACH",
            libc::ECONNABORTED => "ECONNABORTED",
            libc::ECONNRESET => "ECONNRESET",
            libc::ENOBUFS => "ENOBUFS",
            libc::ENOTCONN => "ENOTCONN",
            libc::ETIMEDOUT => "ETIMEDOUT",
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::EHOSTUNREACH => "EHOSTUNREACH",
            libc::ETIME => "ETIME",
            libc::ECANCELED => "ECANCELED",
            _ => return None,
        })
    }

    /// A send or receive that fails like this tells of the connection: it is broken. Anything else is this
    /// machine's doing, and the peer knows nothing of it.
    #[inline]
    pub fn is_of_the_connection(self) -> bool {
        matches!(
            self.0,
            libc::ECONNRESET
                | libc::EPIPE
                | libc::ETIMEDOUT
                | libc::ECONNREFUSED
                | libc::ECONNABORTED
                | libc::ENOTCONN
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENETDOWN
        )
    }

    /// The system ran out of descriptors, of memory for sockets or (ENOSPC) of epoll watches: trying
    /// again later can help, trying again at once cannot.
    pub fn is_exhaustion(self) -> bool {
        matches!(
            self.0,
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC
        )
    }
}

impl From<io::Error> for Errno {
    /// Errors without a number (there are none from system calls) become `EIO`.
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = io::Error::from_raw_os_error(self.0);
        match self.name() {
            // The standard library appends "(os error N)"; the name says more than the number.
            Some(name) => {
                let text = error.to_string();
                let cause = text.split(" (os error").next().unwrap_or(&text);
                write!(f, "{cause} ({name})")
            }
            None => write!(f, "{error}"),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_cause_and_name() {
        assert_eq!(
            Errno(libc::ECONNREFUSED).to_string(),
            "Connection refused (ECONNREFUSED)"
        );
    }
}
