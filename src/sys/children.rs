//! Child processes that end.

use std::mem::MaybeUninit;

use super::{Errno, check};

/// Waits until this child has ended, and leaves it to be reaped (waitid(2)): until then its number is no other
/// process's.
///
/// # Errors
/// `ECHILD` if it is no child of this process, or was reaped.
pub(crate) fn wait_for_end(pid: u32) -> Result<(), Errno> {
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
        let options = libc::WEXITED | libc::WNOWAIT;
        // SAFETY: the kernel writes one siginfo_t, for which `info` is a live local; the rest is integers.
        let code = unsafe { libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), options) };
        match check(code) {
            Ok(_) => return Ok(()),
            Err(Errno(libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_that_has_ended_is_there_until_it_is_reaped() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "exit 3"])
            .spawn()
            .unwrap();
        for _ in 0..2 {
            assert_eq!(wait_for_end(child.id()), Ok(()));
        }
        assert_eq!(child.wait().unwrap().code(), Some(3));
        assert_eq!(wait_for_end(child.id()), Err(Errno(libc::ECHILD)));
    }
}
