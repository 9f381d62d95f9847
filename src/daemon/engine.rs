//! Which driver the workers use, and why not the other one.

use std::fmt;
use std::fs;
use std::sync::mpsc;
use std::thread;

use crate::config::Engine;
use crate::driver::uring::Uring;
use crate::driver::{Driver as _, IntoUnix, Limits, Waker};
use crate::sys::Errno;

/// The engine that was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Chosen {
    IoUring,
    Epoll,
}

/// Why io_uring cannot be used, and what would allow it.
#[derive(Debug, thiserror::Error)]
#[error("io_uring is not available: {errno}: {cause}")]
pub struct Unavailable {
    errno: Errno,
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// `kernel.io_uring_disabled` is 1: only for a group, and for the privileged.
    Restricted,
    /// It is 2.
    Disabled,
    Denied,
    /// One of these; what the sysctl says is hidden, as it is under `ProcSubset=pid`.
    DeniedOrDisabled,
    Missing,
    TooOld,
    Memory,
    Other,
}

impl Chosen {
    /// Does what the configuration says; tries io_uring out where it leaves the choice to us.
    pub(super) fn choose(engine: Engine) -> Result<Self, Unavailable> {
        match engine {
            Engine::Epoll => Ok(Self::Epoll),
            Engine::IoUring => try_uring().map(|()| Self::IoUring),
            Engine::Auto => Ok(match try_uring() {
                Ok(()) => Self::IoUring,
                Err(unavailable) => {
                    tracing::warn!("{unavailable}; engine=epoll serves instead");
                    Self::Epoll
                }
            }),
        }
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Sets a ring up as the workers will, enters it once, which a filter may deny apart, and lets it go.
fn try_uring() -> Result<(), Unavailable> {
    let limits = Limits {
        sessions: 0,
        per_session: 0,
        pipes_max: 0,
        into_unix: IntoUnix::Spliced,
    };
    let set_up = move || {
        let mut driver = Uring::new(Waker::new()?, limits)?;
        let now = driver.now();
        driver.turn(Some(now))
    };
    // On a thread of its own: a ring belongs to the thread that made it until that thread ends.
    // Nobody joins it, because the kernel may take its time to take the ring down.
    let (tell, told) = mpsc::channel();
    let set_up = move || {
        // Somebody waits for it.
        let _ = tell.send(set_up());
    };
    let outcome = match thread::Builder::new().spawn(set_up) {
        Ok(_) => told.recv().expect("setting up a ring does not panic"),
        Err(error) => Err(error.into()),
    };
    outcome.map_err(|errno| Unavailable {
        errno,
        cause: Cause::of(errno, disabled_sysctl().as_deref()),
    })
}

fn disabled_sysctl() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()
}

impl Cause {
    fn of(errno: Errno, sysctl: Option<&str>) -> Self {
        match (errno, sysctl.map(str::trim)) {
            (Errno(libc::EPERM), Some("1")) => Self::Restricted,
            (Errno(libc::EPERM), Some("2")) => Self::Disabled,
            (Errno(libc::EPERM), None) => Self::DeniedOrDisabled,
            (Errno(libc::EPERM | libc::EACCES), _) => Self::Denied,
            (Errno(libc::ENOSYS), _) => Self::Missing,
            (Errno(libc::EINVAL), _) => Self::TooOld,
            (Errno(libc::ENOMEM), _) => Self::Memory,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restricted => {
                "kernel.io_uring_disabled=1 (add the user to the group kernel.io_uring_group, or \
                 set it to 0 with sysctl)"
            }
            Self::Disabled => "kernel.io_uring_disabled=2 (set it to 0 with sysctl)",
            Self::Denied => {
                "a seccomp filter or a security module denies it (in containers, allow \
                 io_uring_setup, io_uring_enter and io_uring_register)"
            }
            Self::DeniedOrDisabled => {
                "a seccomp filter or a security module denies it, or kernel.io_uring_disabled does, \
                 which cannot be read here (see sysctl kernel.io_uring_disabled; in containers, \
                 allow io_uring_setup, io_uring_enter and io_uring_register)"
            }
            Self::Missing => {
                "the kernel was built without it, or a sandbox hides it (in containers, allow \
                 io_uring_setup, io_uring_enter and io_uring_register)"
            }
            Self::TooOld => "the kernel is too old (Linux 6.1 or newer is needed)",
            Self::Memory => "not enough memory for a ring (raise the limit of locked memory)",
            Self::Other => "the kernel refuses it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_names_the_sysctl_if_it_is_to_blame() {
        let eperm = Errno(libc::EPERM);
        assert_eq!(Cause::of(eperm, Some("2\n")), Cause::Disabled);
        assert_eq!(Cause::of(eperm, Some("1\n")), Cause::Restricted);
        assert_eq!(Cause::of(eperm, Some("0\n")), Cause::Denied);
        assert_eq!(Cause::of(eperm, None), Cause::DeniedOrDisabled);
        assert_eq!(Cause::of(Errno(libc::ENOSYS), Some("0\n")), Cause::Missing);
    }
}
