//! The pipes through which spliced bytes go.
//!
//! Pipes are scarce: the kernel grants an unprivileged user 16,384 pages of pipe buffers
//! (`fs.pipe-user-pages-soft`, 64 MiB), and past that a new pipe has two slots and cannot grow. So
//! the pool is bounded, a pipe is held only while bytes are in it, and who gets none copies.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use crate::sys::{Errno, pipe};

use super::{Filled, Flushed, Sock};

/// The capacity of a pipe. One of 512 KiB takes a tenth less CPU for 16 MB, but there can be half as many, and
/// then 256 clients of 1 MiB take a fifth more. 128 of 256 KiB are half of the kernel's soft limit.
pub const PIPE_BYTES: usize = 256 * 1024;

/// The most of our own that a pipe takes at one time: more might be taken in part (PIPE_BUF).
pub const OWN_BYTES_MAX: usize = 4096;

/// What a session may know of a pipe.
pub trait PipeGuard {
    /// Bytes in it.
    fn len(&self) -> usize;

    /// How many of them came out of a socket. The others are our own.
    fn spliced(&self) -> usize;

    /// Whether no bytes are in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Moving bytes between a driver's sockets in bulk, through pipes.
pub trait Pipes {
    /// A pipe lent from the driver's pool. Dropped empty it goes back; dropped with bytes in it,
    /// it is closed.
    type Pipe: PipeGuard;

    /// An empty pipe, if the pool has one.
    fn pipe(&mut self) -> Option<Self::Pipe>;
    /// Whether bytes may go into this connected socket by [`Pipes::flush`]. What it says of a socket it says
    /// for ever.
    fn splices_into(&mut self, sock: Sock) -> bool;
    /// How many of them are lent.
    fn pipes_in_use(&self) -> usize;
    /// Puts bytes of our own into the pipe, behind what is there: they go out in the same move. At most
    /// [`OWN_BYTES_MAX`]. False: it has no room, and took none.
    fn put(&mut self, pipe: &mut Self::Pipe, bytes: &[u8]) -> bool;
    /// Moves what `from` has, at most `max` bytes, into the pipe, which must hold nothing but a few bytes of
    /// our own: only then does "would block" mean that the source has nothing.
    fn fill(&mut self, from: Sock, pipe: &mut Self::Pipe, max: usize) -> Filled;
    /// Moves what the pipe has into `to`. Panics if the driver does not splice into that.
    fn flush(&mut self, pipe: &mut Self::Pipe, to: Sock) -> Flushed;
}

/// One thread's pipes.
pub struct PipePool {
    free: Vec<Ends>,
    /// Pipes that exist, free ones included.
    open: usize,
    max: usize,
    /// Whether bytes went through one of them: a filter of system calls may be in the way.
    tried_out: bool,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl PipePool {
    pub(super) fn new(max: usize) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            free: Vec::new(),
            open: 0,
            max,
            tried_out: false,
        }))
    }

    /// Pipes that sessions hold.
    pub(super) fn lent(&self) -> usize {
        self.open - self.free.len()
    }

    /// An empty pipe, or none at the limit or where the system gives none.
    pub(super) fn take(this: &Rc<RefCell<Self>>) -> Option<Pipe> {
        let mut pool = this.borrow_mut();
        let ends = match pool.free.pop() {
            Some(ends) => ends,
            None if pool.open == pool.max => return None,
            None => match Ends::open() {
                Ok(ends) => {
                    pool.open += 1;
                    ends
                }
                Err(errno) => {
                    pool.shrink(errno);
                    return None;
                }
            },
        };
        if !mem::replace(&mut pool.tried_out, true)
            && let Err(errno) = ends.try_out()
        {
            pool.give_up(errno);
            return None;
        }
        Some(Pipe {
            ends: Some(ends),
            before: 0,
            spliced: 0,
            behind: 0,
            pool: Rc::clone(this),
        })
    }

    /// The system has no more: stay with what there is instead of asking on every transfer.
    fn shrink(&mut self, errno: Errno) {
        // Running out of descriptors passes; the limit on pages belongs to the user and stays.
        if errno.is_exhaustion() {
            return;
        }
        self.max = self.open;
        tracing::warn!(
            pipes = self.open,
            "open a pipe of {PIPE_BYTES} bytes: {errno}; bulk transfers beyond those pipes copy (see \
             fs.pipe-user-pages-soft in pipe(7); other processes of this user may hold pipes)"
        );
    }

    /// splice(2) is not to be had. In the middle of a transfer, bytes would be lost for that.
    fn give_up(&mut self, errno: Errno) {
        // Without a descriptor for the trial, nothing is known. The next transfer tries again.
        self.open -= 1;
        if errno.is_exhaustion() {
            self.tried_out = false;
            return;
        }
        self.max = 0;
        tracing::warn!(
            "splice bytes between a socket and a pipe: {errno}; bulk transfers are copied, at a higher \
             cost (a seccomp filter or a security module denies splice(2); allow it)"
        );
    }
}

impl Ends {
    /// Whether a byte gets from a socket into this pipe and out again.
    fn try_out(&self) -> Result<(), Errno> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        ours.write_all(&[0])?;
        pipe::splice(&theirs, &self.write, 1)?;
        pipe::splice(&self.read, &theirs, 1)?;
        ours.read_exact(&mut [0])?;
        Ok(())
    }

    /// A pipe of full size or none: a small one would make every transfer through it slow.
    fn open() -> Result<Self, Errno> {
        let (read, write) = pipe::pipe()?;
        let wanted = i32::try_from(PIPE_BYTES).expect("PIPE_BYTES is far below 2 GiB");
        if pipe::set_capacity(&write, wanted)? < wanted {
            return Err(Errno(libc::EPERM));
        }
        Ok(Self { read, write })
    }
}

/// A lent pipe. Dropped empty it goes back to the pool; dropped with bytes in it, it is closed, for
/// no other session may ever see them.
pub struct Pipe {
    /// `None` only while being dropped.
    ends: Option<Ends>,
    /// Bytes in it that were put there first, and those that were spliced in, and those that were put behind.
    before: usize,
    spliced: usize,
    behind: usize,
    pool: Rc<RefCell<PipePool>>,
}

impl Pipe {
    fn ends(&self) -> &Ends {
        self.ends.as_ref().expect("taken only by drop")
    }

    /// Puts bytes of our own behind what is there. False: it took none.
    pub(super) fn put(&mut self, bytes: &[u8]) -> bool {
        assert!(bytes.len() <= OWN_BYTES_MAX, "all of them or none");
        let is_put = pipe::write(&self.ends().write, bytes) == Ok(bytes.len());
        if is_put && self.spliced == 0 {
            self.before += bytes.len();
        } else if is_put {
            self.behind += bytes.len();
        }
        is_put
    }

    /// Moves what `from` has, at most `max` bytes, into this pipe, behind nothing but a few of our own, which
    /// take one of its many places. `from` must be non-blocking: SPLICE_F_NONBLOCK covers only the pipe.
    pub(super) fn fill(&mut self, from: &OwnedFd, max: usize) -> Filled {
        assert!(
            self.len() <= OWN_BYTES_MAX && self.spliced == 0,
            "EAGAIN is only unambiguous for a pipe with room"
        );
        let max = max.min(PIPE_BYTES - OWN_BYTES_MAX);
        loop {
            return match pipe::splice(from, &self.ends().write, max) {
                Ok(0) => Filled::Eof,
                Ok(moved) => {
                    self.spliced = moved;
                    Filled::Bytes(moved)
                }
                Err(Errno(libc::EAGAIN)) => Filled::Empty,
                Err(Errno(libc::EINTR)) => continue,
                Err(errno) => Filled::Failed(errno),
            };
        }
    }

    /// Moves what this pipe has into `to`.
    pub(super) fn flush(&mut self, to: &OwnedFd) -> Flushed {
        while !self.is_empty() {
            match pipe::splice(&self.ends().read, to, self.len()) {
                // Cannot be: the pipe holds bytes. Were it so, bytes would be missing.
                Ok(0) => return Flushed::Failed(Errno(libc::EIO)),
                Ok(moved) => self.went(moved),
                Err(Errno(libc::EAGAIN)) => return Flushed::Full,
                Err(Errno(libc::EINTR)) => {}
                Err(errno) => return Flushed::Failed(errno),
            }
        }
        Flushed::All
    }
}

impl Pipe {
    /// So many of the first bytes went out.
    fn went(&mut self, mut moved: usize) {
        for part in [&mut self.before, &mut self.spliced, &mut self.behind] {
            let here = moved.min(*part);
            *part -= here;
            moved -= here;
        }
        assert_eq!(moved, 0, "the kernel moves no more than is there");
    }
}

impl PipeGuard for Pipe {
    fn len(&self) -> usize {
        self.before + self.spliced + self.behind
    }

    fn spliced(&self) -> usize {
        self.spliced
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let ends = self.ends.take().expect("dropped once");
        let mut pool = self.pool.borrow_mut();
        if self.is_empty() {
            pool.free.push(ends);
        } else {
            pool.open -= 1;
            drop(ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, OwnedFd) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (ours, theirs.into())
    }

    #[test]
    fn a_pipe_carries_bytes_between_sockets_and_returns() {
        let pool = PipePool::new(1);
        let (mut left, left_end) = pair();
        let (mut right, right_end) = pair();
        let mut pipe = PipePool::take(&pool).unwrap();

        assert_eq!(pipe.fill(&left_end, PIPE_BYTES), Filled::Empty);
        left.write_all(b"hello").unwrap();
        assert_eq!(pipe.fill(&left_end, PIPE_BYTES), Filled::Bytes(5));
        assert_eq!(pipe.flush(&right_end), Flushed::All);
        let mut got = [0; 5];
        right.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");

        drop(pipe);
        assert_eq!((pool.borrow().open, pool.borrow().free.len()), (1, 1));
        assert_eq!(pool.borrow().lent(), 0);
    }

    #[test]
    fn bytes_of_our_own_go_out_before_and_behind_those_of_the_source() {
        let pool = PipePool::new(1);
        let (mut left, left_end) = pair();
        let (mut right, right_end) = pair();
        let mut pipe = PipePool::take(&pool).unwrap();
        assert!(pipe.put(b"our own, "));
        assert_eq!((pipe.len(), pipe.spliced()), (9, 0));
        assert_eq!(pipe.fill(&left_end, 100), Filled::Empty);
        left.write_all(b"and theirs, but not this").unwrap();
        assert_eq!(pipe.fill(&left_end, 10), Filled::Bytes(10));
        assert!(pipe.put(b", and ours") && pipe.put(b" again"));
        assert_eq!((pipe.len(), pipe.spliced()), (35, 10));
        assert_eq!(pipe.flush(&right_end), Flushed::All);
        assert_eq!((pipe.len(), pipe.spliced()), (0, 0));
        let mut got = [0; 35];
        right.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"our own, and theirs, and ours again");
    }

    #[test]
    fn a_pipe_without_room_takes_nothing_of_our_own() {
        let pool = PipePool::new(1);
        let (_right, right_end) = pair();
        let mut pipe = PipePool::take(&pool).unwrap();
        let page = [b'x'; OWN_BYTES_MAX];
        let pages = std::iter::repeat_with(|| pipe.put(&page)).take_while(|is_put| *is_put);
        assert_eq!(pages.count(), PIPE_BYTES / OWN_BYTES_MAX);
        assert!(!pipe.put(b"x"));
        assert_eq!(pipe.len(), PIPE_BYTES);
        // Nor does a socket that nobody reads, and what is left is known.
        while pipe.flush(&right_end) == Flushed::All {
            assert!(pipe.put(&page));
        }
        assert!(!pipe.is_empty());
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_closed_and_never_lent_again() {
        let pool = PipePool::new(1);
        let (mut left, left_end) = pair();
        let mut pipe = PipePool::take(&pool).unwrap();
        left.write_all(b"secret").unwrap();
        assert_eq!(pipe.fill(&left_end, PIPE_BYTES), Filled::Bytes(6));
        drop(pipe);
        assert_eq!((pool.borrow().open, pool.borrow().free.len()), (0, 0));
    }

    #[test]
    fn at_the_limit_there_is_no_pipe() {
        let pool = PipePool::new(1);
        let held = PipePool::take(&pool);
        assert!(held.is_some());
        assert_eq!(pool.borrow().lent(), 1);
        assert!(PipePool::take(&pool).is_none());
    }
}
