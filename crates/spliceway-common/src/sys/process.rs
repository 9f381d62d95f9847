//! What belongs to the process or the thread: limits and processors.

use std::mem;
use std::time::Duration;

use super::{Errno, check};

/// Raises the soft limit of open descriptors to the hard one and returns what it is then. A filter may deny
/// that: then it stays what it was.
pub fn raise_descriptors_max() -> Result<u64, Errno> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    let soft = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live rlimit, which the kernel only reads.
    match check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }) {
        Ok(_) => Ok(limit.rlim_max),
        Err(_) => Ok(soft),
    }
}

/// The time that this thread has spent on a processor so far, in user and system mode.
pub fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec.
    let read = check(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) });
    assert!(read.is_ok(), "every thread has this clock");
    let seconds = time.tv_sec.try_into().unwrap_or(0);
    let nanoseconds = time.tv_nsec.try_into().unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

/// The processors that this thread may run on, in ascending order.
pub fn processors() -> Result<Vec<usize>, Errno> {
    // SAFETY: cpu_set_t is an array of integers, for which all-zero bytes are a valid value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live set of the size passed; 0 is the calling thread.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) })?;
    let count = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: every index is below CPU_SETSIZE, the number of bits in the set.
    Ok((0..count)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// How many ticks /proc counts in a second (`USER_HZ`).
#[must_use]
pub fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes a number by value and touches no memory of this process.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    // 100 on every architecture that Linux is used on, should the call have no answer.
    u64::try_from(ticks)
        .ok()
        .filter(|&ticks| ticks > 0)
        .unwrap_or(100)
}

/// Has the kernel wake this thread when its time has come, and not up to 50 µs later to save a wake-up; and
/// before all others, if that is allowed. For a thread that is about time and has little to do.
pub fn punctual() {
    let least: libc::c_ulong = 1;
    // SAFETY: the operation takes a number by value and touches no memory.
    let slack = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, least) };
    assert!(slack == 0, "any slack but 0 is valid");
    let first = libc::sched_param { sched_priority: 1 };
    // Where it is not allowed, a thread is as late as any other.
    // SAFETY: the pointer is to a live sched_param, which the kernel only reads; 0 is the calling thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) };
}

/// Binds this thread to one processor.
pub fn pin(processor: usize) -> Result<(), Errno> {
    assert!(
        processor < usize::try_from(libc::CPU_SETSIZE).unwrap_or(0),
        "the processor comes from processors()"
    );
    // SAFETY: cpu_set_t is an array of integers, for which all-zero bytes are a valid value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the index is below CPU_SETSIZE, the number of bits in the set.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the pointer is to a live set of the size passed; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })
        .map(drop)
}
