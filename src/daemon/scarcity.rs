//! What a start that lacks something, or is denied something, says and does about it.

use std::any::Any;
use std::error::Error;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::thread;

use crate::sys::Errno;

/// The line for an error, with all its causes, and with what helps against the last of them if the error does
/// not say it itself.
pub fn with_remedy(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut errno = None;
    let mut next = Some(error);
    while let Some(cause) = next {
        errno = errno_of(cause).or(errno);
        next = cause.source();
        if let Some(cause) = next {
            line.push_str(": ");
            line.push_str(&cause.to_string());
        }
    }
    match errno.and_then(remedy) {
        Some(remedy) if !says_what_helps(&line) => format!("{line} ({remedy})"),
        _ => line,
    }
}

fn errno_of(error: &(dyn Error + 'static)) -> Option<Errno> {
    if let Some(errno) = error.downcast_ref::<Errno>() {
        return Some(*errno);
    }
    let code = error.downcast_ref::<io::Error>()?.raw_os_error()?;
    Some(Errno(code))
}

/// What helps stands in parentheses, everywhere in the program, and begins with a small letter; those of
/// "(os error 24)" are the standard library's, and those of "(EMFILE)" name an error.
fn says_what_helps(line: &str) -> bool {
    let mut parts = line.split(" (").skip(1);
    parts.any(|part| !part.starts_with("os error ") && !part.starts_with('E'))
}

fn remedy(errno: Errno) -> Option<&'static str> {
    Some(match errno.0 {
        libc::EMFILE => {
            "raise the limit of open descriptors: LimitNOFILE= under systemd, ulimit -n in a shell"
        }
        libc::ENFILE => "all programs of the machine have too many files open: raise fs.file-max",
        libc::ENOMEM => "there is no memory left: raise MemoryMax= or the container's limit",
        libc::EAGAIN => "there are too many threads: raise TasksMax= or the limit of processes",
        libc::EPERM | libc::EACCES | libc::ENOSYS => {
            "a seccomp filter, as SystemCallFilter= sets, or a security module may deny it"
        }
        _ => return None,
    })
}

/// Does the daemon's work on the main thread. Libraries panic where a call fails of which they think that it
/// cannot (tokio without a descriptor for its pipe, say): such a panic, which tells of an error number, becomes
/// an error in one line as any other one. Panics that are defects are printed as they were.
///
/// # Errors
/// What the work said, or the panic.
pub fn with_panics_of_libraries_as_errors<E: AsRef<dyn Error + 'static>>(
    work: impl FnOnce() -> Result<(), E>,
) -> Result<(), String> {
    let main = thread::current().id();
    let printing = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let of_main = thread::current().id() == main;
        if !of_main || code_of(panic.payload()).is_none() {
            printing(panic);
        }
    }));
    // Nothing of what the work used is looked at again: the process ends.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    let panic = match outcome {
        Ok(done) => return done.map_err(|error| with_remedy(error.as_ref())),
        Err(panic) => panic,
    };
    match code_of(&*panic) {
        Some((said, errno)) => Err(with_remedy(&GaveUp { said, errno })),
        None => panic::resume_unwind(panic),
    }
}

/// A library panicked over an error.
#[derive(Debug, thiserror::Error)]
#[error("{said}")]
struct GaveUp {
    said: String,
    #[source]
    errno: Errno,
}

/// What a panic says, and the number of the error in it, as the standard library shows an error to
/// programmers: `failed to create UnixStream: Os { code: 24, kind: …`.
fn code_of(panic: &(dyn Any + Send)) -> Option<(String, Errno)> {
    let (said, rest) = panic
        .downcast_ref::<String>()?
        .split_once(": Os { code: ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((said.to_owned(), Errno(digits.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Failed(&'static str, #[source] io::Error);

    #[test]
    fn what_helps_is_said_once() {
        let failed = |said| Failed(said, io::Error::from_raw_os_error(libc::EMFILE));
        let line = with_remedy(&failed("prepare for signals"));
        assert!(line.ends_with("ulimit -n in a shell)"), "{line}");
        assert!(line.starts_with("prepare for signals: Too many open files (os error 24) ("));
        let line = with_remedy(&failed("prepare (use fewer)"));
        assert!(!line.contains("ulimit"), "{line}");
    }

    #[test]
    fn a_panic_over_an_error_becomes_that_error() {
        let error = with_panics_of_libraries_as_errors(|| -> Result<(), Box<dyn Error>> {
            let error = io::Error::from_raw_os_error(libc::EMFILE);
            panic!("failed to create UnixStream: {error:?}")
        });
        let line = error.unwrap_err();
        assert!(
            line.starts_with("failed to create UnixStream: Too many open files (EMFILE) ("),
            "{line}"
        );
        assert!(line.ends_with("ulimit -n in a shell)"), "{line}");
    }
}
