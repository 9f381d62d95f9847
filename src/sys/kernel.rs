//! Which kernel this is, and what is safe or to be had only from some kernel on.
//!
//! | what | from Linux | how that is found out | what is done otherwise |
//! |---|---|---|---|
//! | rings of the kind that the io_uring driver sets up (`SINGLE_ISSUER` 6.0, `DEFER_TASKRUN` 6.1; provided buffer rings, `COOP_TASKRUN` 5.19) | 6.1 | one is set up at the start (`daemon/engine.rs`) | the epoll driver serves |
//! | splice(2) into AF_UNIX that does not wait for the reader ([`SPLICE_INTO_UNIX`]) | 6.5 | by the release: no call tells | bytes for Unix sockets are copied |
//! | `IORING_SETUP_NO_SQARRAY` | 6.6 | the kernel refuses it | the ring has the array |
//! | `IORING_ENTER_NO_IOWAIT` | 6.15 | a feature bit of the ring | a thread that waits is shown as iowait |
//! | `SO_PASSRIGHTS` | 6.16 | the kernel refuses it | descriptors that peers pass are received, and the log warns |
//!
//! What needs no entry, because it is as old as any kernel that the program runs on, or is not used: accepts and
//! receives of the ring are one-shot (multishot ones lost an end of stream until stable releases of 2026), no
//! bundles (6.10 to 6.14 reordered them), no `MSG_ZEROCOPY` and no `SEND_ZC` (AF_UNIX refuses both), no
//! registered descriptors (before 6.13 their release could delay a FIN), no splice through the ring.

use std::ffi::CStr;
use std::fmt;
use std::mem::MaybeUninit;

use super::{Errno, check};

/// A kernel's version, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct KernelVersion {
    major: u32,
    minor: u32,
}

/// From here on splice(2) into an AF_UNIX socket is a send like any other. Before, it added pages to what lay
/// in the reader's queue (`unix_stream_sendpage`), under the lock that the reader holds while it copies into its
/// own memory: with memory that it fills itself (FUSE, userfaultfd), for as long as it likes. Whoever splices waits
/// for that lock, non-blocking or not. A plain send has never taken it.
pub(crate) const SPLICE_INTO_UNIX: KernelVersion = KernelVersion { major: 6, minor: 5 };

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl KernelVersion {
    /// What a release such as `6.1.0-28-amd64` begins with.
    fn parse(release: &str) -> Option<Self> {
        let (major, rest) = release.split_once('.')?;
        let end = rest.find(|c: char| !c.is_ascii_digit());
        let minor = &rest[..end.unwrap_or(rest.len())];
        // A plus sign would be taken for a part of the number.
        let is_number = major.bytes().all(|b| b.is_ascii_digit());
        Some(Self {
            major: major.parse().ok().filter(|_| is_number)?,
            minor: minor.parse().ok()?,
        })
    }
}

/// What the running kernel calls itself. A distribution may have put newer code into it, which this does not
/// tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Release(String);

impl Release {
    /// Asks the kernel.
    pub(crate) fn running() -> Result<Self, Errno> {
        let mut names = MaybeUninit::<libc::utsname>::zeroed();
        // SAFETY: the pointer is to room for one utsname, which the kernel fills.
        check(unsafe { libc::uname(names.as_mut_ptr()) })?;
        // SAFETY: arrays of bytes have no invalid values, and these were zeroed.
        let names = unsafe { names.assume_init() };
        // SAFETY: the array ends in a zero, before or after what the kernel wrote; it lives as long as `names`.
        let release = unsafe { CStr::from_ptr(names.release.as_ptr()) };
        Ok(Self(release.to_string_lossy().into_owned()))
    }

    /// Whether it is this version or a newer one. One that cannot be read counts as old.
    pub(crate) fn is_at_least(&self, version: KernelVersion) -> bool {
        KernelVersion::parse(&self.0).is_some_and(|own| own >= version)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splices(release: &str) -> bool {
        Release(release.to_owned()).is_at_least(SPLICE_INTO_UNIX)
    }

    #[test]
    fn releases_of_distributions_are_read() {
        for old in [
            "6.1.0-28-amd64",
            "6.4.16",
            "6.4",
            "5.14.0-503.11.1.el9_5.x86_64",
            "5.15.167.4-microsoft-standard-WSL2",
            "5.10",
            "2.6.78-18",
            "4.4.0",
        ] {
            assert!(!splices(old), "{old}");
        }
        for new in [
            "6.5.0",
            "6.5",
            "6.5-rc1",
            "6.5.0-45-generic",
            "6.12.57+deb13-cloud-amd64",
            "6.18.44",
            "7.0.0-rc1",
            "10.0",
        ] {
            assert!(splices(new), "{new}");
        }
    }

    #[test]
    fn a_release_that_cannot_be_read_counts_as_old() {
        for nonsense in [
            "",
            ".",
            "6",
            "6.",
            "6.x.1",
            ".5",
            "linux",
            "-6.5",
            "v6.5",
            " 6.5",
            "+6.5",
            "6.+5",
            "6 .5",
            "6,5",
            "99999999999.5",
            "6.99999999999",
            "\u{0666}.\u{0665}",
        ] {
            assert!(!splices(nonsense), "{nonsense:?}");
        }
    }

    #[test]
    fn the_running_kernel_says_what_proc_says() {
        let told = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let running = Release::running().unwrap();
        assert_eq!(running.to_string(), told.trim_end());
        assert!(KernelVersion::parse(&running.0).is_some(), "{running}");
    }
}
