//! What signals do to this process before anybody waits for them.
//!
//! Most signals end or stop a process unless something else was said, and anybody who may send one could cut
//! all sessions by a slip. So nothing is left at that default but what must be (SIGKILL and SIGSTOP) and what
//! does no harm (SIGCHLD, SIGCONT, SIGURG, SIGWINCH). SIGCHLD is set to it: where it was ignored, nobody would learn
//! how a child has ended.

use std::ptr;
use std::sync::OnceLock;
use std::time::Duration;

use super::{Errno, check};

/// The last real-time signal (signal(7)).
const LAST: libc::c_int = 64;

/// The kernel's set of 64 signals, in bytes: what the raw call takes.
const SET_BYTES: usize = 8;

/// The first real-time signal as the kernel counts them. The C library keeps this one and the next for
/// itself, and its own calls do not touch them.
const FIRST_REAL_TIME: libc::c_int = 32;

/// Those that tell of a fault of the program itself, if the kernel sends them.
const FAULTS: [libc::c_int; 6] = [
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
];

/// Ignored, whoever sends them. SIGXFSZ: the write fails instead, and its error is told. SIGTTOU: lines of
/// the log are written to a terminal also from the background.
const IGNORED: [libc::c_int; 14] = [
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGSTKFLT,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    // Until somebody waits for them.
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// What was done about a fault before. Written once, before the handler that reads it is there.
static BEFORE: [OnceLock<libc::sigaction>; FAULTS.len()] =
    [const { OnceLock::new() }; FAULTS.len()];

/// What the process says if it does not come to its end by itself. Written once, before the handler that reads it is
/// there.
static LAST_LINE: OnceLock<&str> = OnceLock::new();

/// Whether whoever started the process has had it ignore this signal, as nohup(1) and shells without job
/// control do. To be asked before [`secure`].
pub(crate) fn is_ignored(signal: libc::c_int) -> bool {
    action(signal, None).is_ok_and(|action| action.sa_sigaction == libc::SIG_IGN)
}

/// Sees to it that no signal ends or stops the process but those that the daemon waits for later, and that
/// none is blocked. To be called before there is any other thread, and once.
///
/// # Errors
/// If the kernel refuses, as under a filter.
pub(crate) fn secure() -> Result<(), Errno> {
    for signal in IGNORED {
        ignore(signal)?;
    }
    for (signal, before) in FAULTS.into_iter().zip(&BEFORE) {
        let found = action(signal, None)?;
        if before.set(found).is_ok() {
            action(signal, Some(&judging()))?;
        }
    }
    for signal in FIRST_REAL_TIME..=LAST {
        ignore_real_time(signal)?;
    }
    action(libc::SIGCHLD, Some(&nothing()))?;
    unblock_all()
}

/// Ends the process after this time (whole seconds, at least one) with exit code 1 and this line, whatever its threads
/// wait for then. Until the time is over, it may end in order.
///
/// # Errors
/// If the kernel refuses, as under a filter. Then nothing ends it.
pub(crate) fn end_within(time: Duration, line: &'static str) -> Result<(), Errno> {
    // The first line counts.
    LAST_LINE.get_or_init(|| line);
    let mut ending = nothing();
    let handler: extern "C" fn(libc::c_int) = end_now;
    ending.sa_sigaction = handler as libc::sighandler_t;
    action(libc::SIGALRM, Some(&ending))?;
    let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1);
    // SAFETY: alarm(2) takes an integer. It asks for no memory, of which a thread that hangs may hold the lock.
    unsafe { libc::alarm(seconds) };
    Ok(())
}

/// Only calls that signal-safety(7) lists.
extern "C" fn end_now(_: libc::c_int) {
    let mut stderr = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the pointer is to one live pollfd.
    let is_ready = unsafe { libc::poll(&raw mut stderr, 1, 0) } == 1;
    // A pipe that nobody reads would hold up the end.
    if let (true, Some(line)) = (is_ready, LAST_LINE.get()) {
        // SAFETY: the pointer and the length are those of a text that lives for ever.
        unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
    }
    // SAFETY: _exit(2) takes an integer and runs nothing of this process.
    unsafe { libc::_exit(1) };
}

fn ignore(signal: libc::c_int) -> Result<(), Errno> {
    let mut ignored = nothing();
    ignored.sa_sigaction = libc::SIG_IGN;
    action(signal, Some(&ignored)).map(drop)
}

/// The handler of faults, on the thread's own stack for signals: the ordinary one may have overflowed.
fn judging() -> libc::sigaction {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = judge;
    let mut judging = nothing();
    judging.sa_sigaction = handler as libc::sighandler_t;
    judging.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    judging
}

/// A signal that a process has sent (its code is not above 0, sigaction(2)) is no fault, and nothing is done.
/// What the kernel sends goes the way that it would have gone. Only calls that signal-safety(7) lists.
extern "C" fn judge(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands the handler a siginfo_t that lives as long as the call.
    let was_sent = unsafe { (*info).si_code } <= 0;
    if was_sent {
        return;
    }
    let number = FAULTS.iter().position(|fault| *fault == signal);
    let before = number.and_then(|number| BEFORE[number].get());
    match before {
        Some(before) if before.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: with SA_SIGINFO, the kernel itself would have called this address as such a function.
            let handler: Handler = unsafe { std::mem::transmute(before.sa_sigaction) };
            handler(signal, info, context);
        }
        Some(_) | None => {
            // Nothing is owed if it fails: the instruction is executed again, and the fault comes again.
            let _ = action(signal, Some(&nothing()));
            // SAFETY: raise(3) takes an integer. The signal is blocked until this handler returns, and ends
            // the process then.
            unsafe { libc::raise(signal) };
        }
    }
}

/// The default action.
fn nothing() -> libc::sigaction {
    // SAFETY: a sigaction is integers and an optional function, for all of which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// Reads what is done at this signal, and sets it anew if there is something to set.
fn action(signal: libc::c_int, new: Option<&libc::sigaction>) -> Result<libc::sigaction, Errno> {
    let mut old = nothing();
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null or a live sigaction, whose handler only does what a handler may; `old` is live.
    check(unsafe { libc::sigaction(signal, new, &raw mut old) })?;
    Ok(old)
}

/// The kernel's own form of a sigaction(2); that of the C library is another one.
#[repr(C)]
#[derive(Default)]
struct KernelAction {
    handler: usize,
    flags: libc::c_ulong,
    /// Not on every architecture; there, the field is part of a larger set, which is empty.
    restorer: usize,
    mask: u64,
}

/// By the kernel's own call, as the C library does not let its own two be asked for. If it waits for one of
/// them, that stays.
fn ignore_real_time(signal: libc::c_int) -> Result<(), Errno> {
    let (mut found, ignored) = (
        KernelAction::default(),
        KernelAction {
            handler: libc::SIG_IGN,
            ..KernelAction::default()
        },
    );
    let nothing_new = ptr::null::<KernelAction>();
    raw_action(signal, nothing_new, &raw mut found)?;
    if found.handler != libc::SIG_DFL {
        return Ok(());
    }
    raw_action(signal, &raw const ignored, ptr::null_mut())
}

fn raw_action(
    signal: libc::c_int,
    new: *const KernelAction,
    old: *mut KernelAction,
) -> Result<(), Errno> {
    // SAFETY: both pointers are null or to live values of the kernel's layout, and the size is that of its set.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, SET_BYTES) };
    match result {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

fn unblock_all() -> Result<(), Errno> {
    // SAFETY: a sigset_t is integers, for which zero is a value, and means no signal.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the first pointer is to a live set, the second may be null.
    let code =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
    match code {
        0 => Ok(()),
        code => Err(Errno(code)),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::AsRawFd;

    use super::*;

    /// How a child ends that does this after its signals were decided on.
    fn end_of(act: fn()) -> libc::c_int {
        // SAFETY: the child makes only calls that are safe after a fork of one thread of several, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            if secure().is_ok() {
                act();
            }
            // SAFETY: _exit(2) takes an integer and runs nothing of this process.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: the pointer is to a live integer.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(!libc::WIFEXITED(status) || libc::WEXITSTATUS(status) == 0);
        if libc::WIFSIGNALED(status) {
            libc::WTERMSIG(status)
        } else {
            0
        }
    }

    fn send(signal: libc::c_int) {
        // SAFETY: getpid(2) takes nothing and cannot fail.
        let own = unsafe { libc::getpid() };
        // SAFETY: kill(2) takes integers; the process sends it to itself.
        unsafe { libc::kill(own, signal) };
    }

    fn abort() {
        std::process::abort();
    }

    #[test]
    fn faults_end_the_process_and_signals_that_somebody_sends_do_not() {
        assert_eq!(end_of(|| FAULTS.into_iter().for_each(send)), 0);
        assert_eq!(end_of(|| IGNORED.into_iter().for_each(send)), 0);
        assert_eq!(end_of(|| (FIRST_REAL_TIME..=LAST).for_each(send)), 0);
        let fault = || {
            FAULTS.into_iter().for_each(send);
            // SAFETY: none: this is the fault that the test is about, in a process of its own.
            unsafe { ptr::null_mut::<u8>().write_volatile(1) };
        };
        assert_eq!(end_of(fault), libc::SIGSEGV);
        assert_eq!(end_of(abort), libc::SIGABRT);
    }

    /// What the process says at its end, and the code that it ends with.
    #[test]
    fn a_process_that_hangs_ends_all_the_same() {
        const LINE: &str = "spliceway: it hangs\n";
        let (mut said, stderr) = io::pipe().unwrap();
        // SAFETY: the child makes only calls that are safe after a fork of one thread of several, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: dup2(2) takes integers.
            unsafe { libc::dup2(stderr.as_raw_fd(), libc::STDERR_FILENO) };
            let bounded = secure().and_then(|()| end_within(Duration::from_secs(1), LINE));
            while bounded.is_ok() {
                // SAFETY: pause(2) takes nothing.
                unsafe { libc::pause() };
            }
            // SAFETY: _exit(2) takes an integer and runs nothing of this process.
            unsafe { libc::_exit(0) };
        }
        drop(stderr);
        let mut status = 0;
        // SAFETY: the pointer is to a live integer.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 1);
        assert_eq!(io::read_to_string(&mut said).unwrap(), LINE);
    }
}
