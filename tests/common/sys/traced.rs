//! Threads of other processes that do not go on, by ptrace(2).

use std::fs;
use std::io;
use std::time::Instant;

use super::{call, call_long, demand_root, pid_of};
use crate::common::wait::{GUARD, LOOK_INTERVAL, pause};

/// A thread of another process that stands still while this lives, unlike its siblings: ptrace(2) stops
/// threads one by one. Made and dropped by one thread, which is the tracer.
pub(crate) struct Halted(libc::pid_t);

impl Halted {
    pub(crate) fn new(thread: u32) -> io::Result<Self> {
        let thread = seize(thread, 0)?;
        let halted = Self(thread);
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: PTRACE_INTERRUPT takes an id and no memory of ours.
        call_long(|| unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, nothing, nothing) })?;
        // SAFETY: waitpid(2) may be told to keep the status for itself.
        call(|| unsafe { libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) })?;
        Ok(halted)
    }
}

/// A thread of another process that does not come to its end, as if the kernel took its time for what belongs to it: it
/// stops on its way out. Made and dropped by one thread, which is the tracer.
pub(crate) struct Lingering(libc::pid_t);

impl Lingering {
    /// From when on it ends by itself.
    pub(crate) fn new(thread: u32) -> io::Result<Self> {
        seize(thread, libc::PTRACE_O_TRACEEXIT).map(Self)
    }

    /// Until it is on its way out, of its own accord.
    #[track_caller]
    pub(crate) fn wait_until_it_lingers(&self) {
        let is_at_its_end = |status| status >> 8 == libc::SIGTRAP | libc::PTRACE_EVENT_EXIT << 8;
        wait_for_status(self.0, "does not end", is_at_its_end);
    }

    /// Of a thread that is killed with its process.
    #[track_caller]
    pub(crate) fn wait_for_its_end(&self) {
        wait_for_end_of(self.0);
    }
}

impl Halted {
    /// Of a thread that is killed with its process.
    #[track_caller]
    pub(crate) fn wait_for_its_end(&self) {
        wait_for_end_of(self.0);
    }
}

/// Traces a thread from now on.
fn seize(thread: u32, options: libc::c_int) -> io::Result<libc::pid_t> {
    // The daemon is not to be looked into by others of its own user.
    demand_root();
    let thread = pid_of(thread);
    let nothing = std::ptr::null_mut::<libc::c_void>();
    let options = libc::c_long::from(options);
    // SAFETY: PTRACE_SEIZE takes an id and options, and no memory of ours.
    call_long(|| unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, nothing, options) })?;
    Ok(thread)
}

/// What a thread has come to that is traced, if that is new. The process stays until somebody has taken note of its
/// end.
fn status_of(thread: libc::pid_t) -> Option<libc::c_int> {
    let mut status = 0;
    let flags = libc::__WALL | libc::WNOHANG;
    // SAFETY: the pointer is to a live integer.
    let changed = unsafe { libc::waitpid(thread, &raw mut status, flags) };
    (changed == thread).then_some(status)
}

#[track_caller]
fn wait_for_end_of(thread: libc::pid_t) {
    let is_over = |status| libc::WIFEXITED(status) || libc::WIFSIGNALED(status);
    wait_for_status(thread, "is not killed", is_over);
}

/// What the threads wait for is told if it does not come.
#[track_caller]
fn wait_for_status(thread: libc::pid_t, what_else: &str, is_wanted: impl Fn(libc::c_int) -> bool) {
    let deadline = Instant::now() + GUARD;
    while !status_of(thread).is_some_and(&is_wanted) {
        assert!(
            Instant::now() < deadline,
            "the thread {what_else}; of its process:\n{}",
            threads_of(thread)
        );
        pause(LOOK_INTERVAL);
    }
}

/// What each thread of this one's process does, as the kernel says it.
fn threads_of(thread: libc::pid_t) -> String {
    let tasks = fs::read_dir(format!("/proc/{thread}/task"));
    let mut all = String::new();
    for task in tasks.into_iter().flatten().flatten() {
        for file in ["comm", "syscall", "wchan", "stack"] {
            let said = fs::read_to_string(task.path().join(file));
            all.push_str(said.unwrap_or_default().trim_end());
            all.push('\n');
        }
    }
    all
}

impl Drop for Halted {
    fn drop(&mut self) {
        detach(self.0);
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        detach(self.0);
    }
}

fn detach(thread: libc::pid_t) {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_DETACH takes an id and no memory of ours. If the thread is gone, all is well.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, thread, nothing, nothing) };
}
