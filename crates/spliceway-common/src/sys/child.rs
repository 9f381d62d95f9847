//! Child processes: start one that cannot outlive us, and ask one to end.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// How the kernel ends a bound child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndBy {
    /// At once: nobody is left who could follow a polite request up.
    Kill,
    /// By SIGTERM, for programs that have children of their own to end.
    Terminate,
}

impl EndBy {
    const fn signal(self) -> libc::c_int {
        match self {
            Self::Kill => libc::SIGKILL,
            Self::Terminate => libc::SIGTERM,
        }
    }
}

/// Starts `command` as a child that the kernel kills when the calling thread ends.
///
/// The signal is bound to the *thread* that called, not to the process (`PR_SET_PDEATHSIG`,
/// prctl(2)): call from a thread that lives at least as long as the child should.
///
/// # Errors
///
/// What [`Command::spawn`] gives; the child's prctl failing; ESRCH if we ended before the child had
/// bound itself.
pub fn spawn_bound(command: &mut Command) -> io::Result<Child> {
    spawn_bound_by(command, EndBy::Kill)
}

/// The same with a choice of the signal.
///
/// # Errors
///
/// As [`spawn_bound`].
pub fn spawn_bound_by(command: &mut Command, end_by: EndBy) -> io::Result<Child> {
    let parent = libc::pid_t::try_from(std::process::id()).map_err(io::Error::other)?;
    let bind = move || bind_to(parent, end_by);
    // SAFETY: the closure runs in the forked child before exec, where only async-signal-safe work
    // is allowed. `bind_to` makes two system calls and builds errors from numbers: no allocation,
    // no lock, no access to memory that another thread of the parent may have left half-changed.
    unsafe { command.pre_exec(bind) };
    command.spawn()
}

/// Runs in the child, between fork and exec.
fn bind_to(parent: libc::pid_t, end_by: EndBy) -> io::Result<()> {
    let signal = libc::c_ulong::from(end_by.signal().unsigned_abs());
    // SAFETY: PR_SET_PDEATHSIG takes a signal number by value and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // The parent may have ended before the call above, which then waits for a signal that has
    // already been due: its pid as our parent is the proof that it has not.
    // SAFETY: getppid takes nothing, touches no memory and cannot fail.
    if unsafe { libc::getppid() } != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

/// Sends SIGTERM to the process `pid`.
///
/// # Errors
///
/// As [`send_signal`].
pub fn terminate(pid: u32) -> io::Result<()> {
    send_signal(pid, libc::SIGTERM)
}

/// Sends `signal` to the process `pid`.
///
/// The caller holds its [`Child`] and has not waited for it: until then the kernel does not give
/// the number to another process.
///
/// # Errors
///
/// EINVAL for a `pid` that does not name one process (0 and negative ones name groups); what
/// kill(2) gives otherwise: EPERM, ESRCH.
pub fn send_signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid)
        .ok()
        .filter(|&pid| pid > 0)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: kill takes two numbers by value and touches no memory of this process.
    if unsafe { libc::kill(pid, signal) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use super::*;

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null());
        command
    }

    #[test]
    fn a_child_ends_by_sigterm() {
        let mut child = spawn_bound(&mut sleeper()).unwrap();
        terminate(child.id()).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn a_bound_child_is_killed_when_its_starter_ends() {
        let starter = std::thread::spawn(|| spawn_bound(&mut sleeper()).unwrap());
        let mut child = starter.join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_child_may_be_asked_to_end_instead() {
        let start = || spawn_bound_by(&mut sleeper(), EndBy::Terminate).unwrap();
        let mut child = std::thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn numbers_that_name_groups_are_refused() {
        for pid in [0, u32::MAX] {
            assert_eq!(
                terminate(pid).unwrap_err().raw_os_error(),
                Some(libc::EINVAL)
            );
        }
    }
}
