//! One ring: set up, restricted, entered.
//!
//! The ring starts disabled, is told the few ops that it may ever run, and is then enabled. This
//! matters because seccomp does not see ring operations: without the list, code that got hold of
//! the ring could open files and sockets that the process's own filter denies.

use std::os::fd::AsRawFd;
use std::ptr;
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::squeue::{self, Flags};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, types};

use crate::sys::Errno;

/// Submissions that fit before the ring is entered early, which costs a system call and no more: two
/// ops for each of 256 sessions that are busy in one turn. A guess, not a measurement.
const SUBMISSIONS: u32 = 512;

/// Room for completions: four lanes for each of 2,048 busy sessions. Beyond that the kernel queues
/// them itself, at some cost.
const COMPLETIONS: u32 = 8192;

/// Everything that the driver submits; the ring refuses all else with EACCES.
const ALLOWED_OPS: [u8; 5] = [
    opcode::Accept::CODE,
    opcode::AsyncCancel::CODE,
    opcode::PollAdd::CODE,
    opcode::Recv::CODE,
    opcode::Send::CODE,
];

/// `IOSQE_BUFFER_SELECT`, as the bit set that the restriction takes.
const ALLOWED_FLAGS: u8 = Flags::BUFFER_SELECT.bits();

/// One thread's ring.
pub(super) struct Ring {
    ring: IoUring,
    /// What `io_uring_enter` is given as its descriptor: an index into the thread's registered
    /// rings, or the descriptor itself.
    enter_fd: i32,
    enter_flags: EnterFlags,
}

impl Ring {
    /// A disabled ring. Must be called on the thread that will use it.
    pub(super) fn new() -> Result<Self, Errno> {
        let ring = build(true).or_else(|errno| match errno {
            // Before 6.6 the kernel does not know NO_SQARRAY.
            Errno(libc::EINVAL) => build(false),
            errno => Err(errno),
        })?;
        let mut enter_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            // An idle worker is not a disk that is waited for: without this, tools show it as
            // 100 % iowait.
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        let mut ring = Self {
            enter_fd: ring.as_raw_fd(),
            ring,
            enter_flags,
        };
        ring.register_self();
        Ok(ring)
    }

    /// Spares each enter the look-up of the descriptor. Where it fails, the descriptor serves.
    fn register_self(&mut self) {
        #[repr(C)]
        struct Update {
            offset: u32,
            reserved: u32,
            data: u64,
        }
        const IORING_REGISTER_RING_FDS: libc::c_long = 20;
        let mut update = Update {
            offset: u32::MAX,
            reserved: 0,
            data: u64::from(self.ring.as_raw_fd().cast_unsigned()),
        };
        // SAFETY: the pointer is to one live io_uring_rsrc_update, which this struct mirrors.
        let registered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.ring.as_raw_fd(),
                IORING_REGISTER_RING_FDS,
                &raw mut update,
                1,
            )
        };
        if registered == 1 {
            self.enter_fd = update.offset.cast_signed();
            self.enter_flags |= EnterFlags::REGISTERED_RING;
        }
    }

    /// Gives the kernel a ring of receive buffers, while registering is still allowed.
    ///
    /// # Safety
    ///
    /// `entries` ring entries must stay allocated at `address` for as long as ops may receive.
    pub(super) unsafe fn register_buffers(
        &self,
        address: u64,
        entries: u16,
        group: u16,
    ) -> Result<(), Errno> {
        let submitter = self.ring.submitter();
        // SAFETY: the caller vouches for the memory.
        unsafe { submitter.register_buf_ring_with_flags(address, entries, group, 0) }
            .map_err(Errno::from)
    }

    /// Closes the list of ops and starts the ring.
    pub(super) fn restrict_and_enable(&self) -> Result<(), Errno> {
        let mut restrictions: Vec<_> = ALLOWED_OPS.map(Restriction::sqe_op).into();
        restrictions.push(Restriction::sqe_flags_allowed(ALLOWED_FLAGS));
        let submitter = self.ring.submitter();
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        Ok(())
    }

    /// Queues a submission. False: there is no room before [`Ring::enter`] has made some.
    ///
    /// # Safety
    ///
    /// What the entry points to must stay valid, and untouched where the kernel writes, until its
    /// completion.
    #[must_use]
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller vouches for what the entry points to.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Submits what is queued, runs what the kernel has deferred to this thread, and waits.
    pub(super) fn enter(&mut self, wait: Wait) -> Result<Entered, Broken> {
        let to_submit = self.ring.submission().len();
        let timespec;
        let mut args = types::SubmitArgs::new();
        let min_complete = match wait {
            Wait::No => 0,
            Wait::Completion => 1,
            Wait::CompletionUntil(until) => {
                match until.saturating_duration_since(Instant::now()) {
                    // The kernel would set a timer, which ends at once.
                    Duration::ZERO => 0,
                    left => {
                        timespec = types::Timespec::from(left);
                        args = args.timespec(&timespec);
                        1
                    }
                }
            }
        };
        // SAFETY: the pointer is to a live io_uring_getevents_arg, as EXT_ARG demands, and the
        // timespec that it may point to lives as long.
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                to_submit,
                min_complete,
                self.enter_flags.bits(),
                ptr::from_ref(&args),
                size_of_val(&args),
            )
        };
        if entered >= 0 {
            return Ok(Entered::Submitted);
        }
        Entered::instead(Errno::last())
    }

    /// Fails if the kernel had no memory to keep a completion.
    pub(super) fn has_all_completions(&mut self) -> Result<(), Broken> {
        match self.ring.completion().overflow() {
            0 => Ok(()),
            _ => Err(Broken::CompletionsLost),
        }
    }

    /// The next completion that the kernel has posted.
    pub(super) fn completions(&mut self) -> cqueue::CompletionQueue<'_> {
        self.ring.completion()
    }
}

/// What became of what was queued, where the ring is to be entered again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Entered {
    /// The kernel has it, or the first part of it.
    Submitted,
    /// The wait is over: its time came, or a signal. What the kernel does not have yet, it gets next time.
    Interrupted,
    /// The kernel can take nothing before completions are taken, or for want of memory.
    Later,
}

impl Entered {
    /// Sorts the errors of io_uring_enter(2).
    fn instead(errno: Errno) -> Result<Self, Broken> {
        match errno {
            Errno(libc::ETIME | libc::EINTR) => Ok(Self::Interrupted),
            Errno(libc::EBUSY | libc::EAGAIN | libc::ENOMEM) => Ok(Self::Later),
            Errno(libc::EBADR) => Err(Broken::CompletionsLost),
            errno => Err(Broken::Refused(errno)),
        }
    }
}

/// Why a ring cannot be used any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Broken {
    /// The kernel had no memory to keep a completion: an op would be waited for in vain.
    CompletionsLost,
    /// The kernel does not let it be entered.
    Refused(Errno),
}

impl From<Broken> for Errno {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::CompletionsLost => Self(libc::EOVERFLOW),
            Broken::Refused(errno) => errno,
        }
    }
}

/// How long [`Ring::enter`] waits.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    /// Not at all.
    No,
    /// For a completion.
    Completion,
    /// For a completion, at most until then.
    CompletionUntil(Instant),
}

fn build(no_sqarray: bool) -> Result<IoUring, Errno> {
    let mut builder = IoUring::builder();
    builder
        .setup_r_disabled()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS);
    if no_sqarray {
        builder.setup_no_sqarray();
    }
    builder.build(SUBMISSIONS).map_err(Errno::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_an_enter_is_for_later_or_the_end_of_the_ring() {
        for errno in [libc::EINTR, libc::ETIME].map(Errno) {
            assert_eq!(Entered::instead(errno), Ok(Entered::Interrupted));
        }
        for errno in [libc::EBUSY, libc::EAGAIN, libc::ENOMEM].map(Errno) {
            assert_eq!(Entered::instead(errno), Ok(Entered::Later));
        }
        let lost = Entered::instead(Errno(libc::EBADR)).unwrap_err();
        assert_eq!(lost, Broken::CompletionsLost);
        assert_eq!(Errno::from(lost), Errno(libc::EOVERFLOW));
        for errno in [libc::EBADF, libc::EEXIST, libc::EPERM, libc::EINVAL].map(Errno) {
            let refused = Entered::instead(errno).unwrap_err();
            assert_eq!(refused, Broken::Refused(errno));
            assert_eq!(Errno::from(refused), errno);
        }
    }

    fn result_of(entry: &squeue::Entry) -> i32 {
        let mut ring = Ring::new().unwrap();
        ring.restrict_and_enable().unwrap();
        // SAFETY: the entries of these tests point to nothing that is written, and to statics.
        assert!(unsafe { ring.push(entry) });
        let entered = ring.enter(Wait::Completion).unwrap();
        assert_eq!(entered, Entered::Submitted);
        ring.completions().next().unwrap().result()
    }

    #[test]
    fn an_op_outside_the_list_is_refused() {
        assert_eq!(result_of(&opcode::Nop::new().build()), -libc::EACCES);
        let path = c"/etc/passwd".as_ptr();
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path).build();
        assert_eq!(result_of(&open), -libc::EACCES);
        let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build();
        assert_eq!(result_of(&socket), -libc::EACCES);
    }

    #[test]
    fn an_op_on_the_list_runs() {
        let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let poll = opcode::PollAdd::new(
            types::Fd(end.as_raw_fd()),
            libc::POLLOUT.cast_unsigned().into(),
        );
        assert!(result_of(&poll.build()) & i32::from(libc::POLLOUT) != 0);
    }

    #[test]
    fn a_linked_submission_is_refused() {
        let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let poll = opcode::PollAdd::new(
            types::Fd(end.as_raw_fd()),
            libc::POLLOUT.cast_unsigned().into(),
        );
        assert_eq!(
            result_of(&poll.build().flags(Flags::IO_LINK)),
            -libc::EACCES
        );
    }
}
