//! Terminals of our own (pty(7)).

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use super::call;
use crate::common::wait::uninterrupted;

/// Both ends: what a person has, and what a program has.
pub(crate) struct Pty {
    pub(crate) person: File,
    pub(crate) program: OwnedFd,
}

/// How a terminal treats bytes: what raw mode changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Modes([libc::tcflag_t; 4]);

impl Pty {
    pub(crate) fn new(columns: u16, rows: u16) -> io::Result<Self> {
        let size = window(columns, rows);
        let (mut person, mut program): (RawFd, RawFd) = (-1, -1);
        call(|| {
            // SAFETY: the pointers to both numbers and to the size are to live values; those that may be null are.
            unsafe {
                libc::openpty(
                    &raw mut person,
                    &raw mut program,
                    ptr::null_mut(),
                    ptr::null(),
                    &raw const size,
                )
            }
        })?;
        for fd in [person, program] {
            // SAFETY: three integers.
            call(|| unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
        }
        Ok(Self {
            // SAFETY: the call just made this descriptor, and nobody else knows it.
            person: unsafe { File::from_raw_fd(person) },
            // SAFETY: the same.
            program: unsafe { OwnedFd::from_raw_fd(program) },
        })
    }
}

fn window(columns: u16, rows: u16) -> libc::winsize {
    libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// As if somebody had drawn at the window's corner.
pub(crate) fn resize(person: &File, columns: u16, rows: u16) -> io::Result<()> {
    let size = window(columns, rows);
    // SAFETY: TIOCSWINSZ reads one winsize, which is live.
    call(|| unsafe { libc::ioctl(person.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
}

/// Of the program's end, as its other end tells it too.
pub(crate) fn modes(terminal: &impl AsRawFd) -> io::Result<Modes> {
    // SAFETY: a termios is integers, for which zeros are values.
    let mut found: libc::termios = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live termios.
    call(|| unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut found) })?;
    Ok(Modes([
        found.c_iflag,
        found.c_oflag,
        found.c_cflag,
        found.c_lflag,
    ]))
}

/// Waits until something can be read, or the other end is gone. False: `stop` is closed.
pub(crate) fn wait_for_output(person: &File, stop: &impl AsRawFd) -> io::Result<bool> {
    let watch = |fd: &dyn AsRawFd| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut both = [watch(person), watch(stop)];
    uninterrupted(|| {
        // SAFETY: the pointer and the count are those of a live array.
        call(|| unsafe { libc::poll(both.as_mut_ptr(), 2, -1) })
    })?;
    Ok(both[1].revents == 0)
}

/// Whatever a program writes waits, as after Ctrl-S.
pub(crate) fn stop_output(program: &OwnedFd) -> io::Result<()> {
    // SAFETY: two integers.
    call(|| unsafe { libc::tcflow(program.as_raw_fd(), libc::TCOOFF) })
}

/// The program begins a session of its own, and dies with the test. With `controlling`, the terminal at its standard
/// input is the session's, so that keys and the end of the terminal are signals.
pub(crate) fn in_own_session(command: &mut Command, controlling: bool) {
    let apply = move || {
        // SAFETY: setsid takes nothing and touches no memory.
        call(|| unsafe { libc::setsid() })?;
        if controlling {
            // SAFETY: three integers.
            call(|| unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) })?;
        }
        // SAFETY: this prctl takes one integer and touches no memory of ours.
        call(|| unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
    };
    // SAFETY: between fork and exec only system calls are made, which take no lock and allocate nothing.
    unsafe { command.pre_exec(apply) };
}
