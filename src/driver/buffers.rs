//! Receive buffers: lent for as long as bytes are in them, and reused last in, first out, so that
//! the few that are needed stay warm in the cache.

use std::cell::RefCell;
use std::fmt;
use std::mem;
use std::ops::{Deref, Range};
use std::rc::Rc;

use crate::sys::Errno;

use super::Limits;

/// The size of a buffer. A typical FastCGI response head and page fit into one; what is larger is
/// bulk, and spliced.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// The size of a large buffer, for what is there already of an answer that is long and comes in small records.
/// Measured with records of 8 KiB: see `docs/results/experiments.md`.
pub const LARGE_BYTES: usize = 64 * 1024;

/// The most large buffers that one worker has (1 MiB). A session has one while it sends, which most often is over in
/// the same turn; beside so many slow readers, the others get usual buffers.
const LARGE_MAX: usize = 16;

/// Large ones that are kept while they are free.
const LARGE_SPARE_MAX: usize = 4;

/// Room for what is put before or behind the bytes that were received: records' headers, and the beginning of
/// an answer that waited for the rest, so that a full buffer need not grow.
const HEADROOM_BYTES: usize = 1024 + 64;

/// How many free buffers are kept (4 MiB): beyond that, memory goes back to the allocator once a
/// peak is over.
const SPARE_BUFFERS_MAX: usize = 256;

/// How much a buffer takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    /// [`BUFFER_BYTES`]. Whoever keeps to its promise finds one.
    Usual,
    /// [`LARGE_BYTES`], or a usual one where those are lent.
    Large,
}

impl Size {
    /// How much is received into it.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Usual => BUFFER_BYTES,
            Self::Large => LARGE_BYTES,
        }
    }

    const fn capacity(self) -> usize {
        self.bytes() + HEADROOM_BYTES
    }

    const fn spare_max(self) -> usize {
        match self {
            Self::Usual => SPARE_BUFFERS_MAX,
            Self::Large => LARGE_SPARE_MAX,
        }
    }
}

/// One thread's buffers.
pub(super) struct BufferPool {
    size: Size,
    /// Of the usual ones: the large ones, which nobody is promised.
    large: Option<Rc<RefCell<Self>>>,
    free: Vec<Vec<u8>>,
    /// Buffers that exist, free ones included.
    allocated: usize,
    max: usize,
}

/// Buffers beyond those that sessions hold between events: what was just received, and what the session that
/// is told of it writes meanwhile.
const IN_HAND: usize = 2;

impl BufferPool {
    /// One for sessions within these limits, and a driver that holds `own` beside.
    pub(super) fn within(limits: Limits, own: usize) -> Rc<RefCell<Self>> {
        let sessions = limits.sessions.checked_mul(limits.per_session);
        let max = sessions.and_then(|sessions| sessions.checked_add(own + IN_HAND));
        Self::new(max.expect("there are fewer sessions than descriptors, which are 31-bit numbers"))
    }

    pub(super) fn new(max: usize) -> Rc<RefCell<Self>> {
        let large = Self::of(Size::Large, LARGE_MAX, None);
        Self::of(Size::Usual, max, Some(large))
    }

    fn of(size: Size, max: usize, large: Option<Rc<RefCell<Self>>>) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            size,
            large,
            free: Vec::new(),
            allocated: 0,
            max,
        }))
    }

    /// An empty vector with room for a buffer's bytes and a little more, or none at the limit.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        if let Some(bytes) = self.free.pop() {
            return Some(bytes);
        }
        if self.allocated == self.max {
            return None;
        }
        self.allocated += 1;
        Some(Vec::with_capacity(self.size.capacity()))
    }

    /// An empty buffer, for bytes of our own.
    pub(super) fn lend(this: &Rc<RefCell<Self>>) -> Result<Buf, NoBuffer> {
        let mut pool = this.borrow_mut();
        let max = pool.max;
        let bytes = pool.take().ok_or(NoBuffer { max })?;
        Ok(Buf::new(bytes, this))
    }

    /// An empty buffer of that size, or of the usual one.
    pub(super) fn lend_sized(this: &Rc<RefCell<Self>>, size: Size) -> Option<Buf> {
        let large = match size {
            Size::Usual => None,
            Size::Large => this.borrow().large.clone(),
        };
        let lend = |pool| Self::lend(pool).ok();
        large.as_ref().and_then(lend).or_else(|| lend(this))
    }

    /// What `receive` puts into a buffer of that size, or of the usual one; it is told how much at most. `None`:
    /// nothing, or there is no buffer to put it into, for which [`Op::Recv`](super::Op::Recv) waits.
    pub(super) fn receive(
        this: &Rc<RefCell<Self>>,
        size: Size,
        receive: impl FnOnce(&mut Vec<u8>, usize) -> Result<usize, Errno>,
    ) -> Result<Option<Buf>, Errno> {
        let Some(mut buf) = Self::lend_sized(this, size) else {
            return Ok(None);
        };
        let most = buf.room();
        match receive(&mut buf.bytes, most) {
            Ok(0) | Err(Errno(libc::EAGAIN | libc::EINTR)) => Ok(None),
            Ok(_) => Ok(Some(buf)),
            Err(errno) => Err(errno),
        }
    }

    /// Buffers that are not back yet, large ones included.
    #[cfg(any(test, fuzzing))]
    pub(super) fn lent(&self) -> usize {
        let large = self.large.as_ref().map_or(0, |large| large.borrow().lent());
        self.allocated - self.free.len() + large
    }

    /// Takes a vector of [`BufferPool::take`] back. One that had to grow goes to the allocator.
    pub(super) fn give(&mut self, mut bytes: Vec<u8>) {
        let is_as_lent = bytes.capacity() == self.size.capacity();
        if self.free.len() < self.size.spare_max() && is_as_lent {
            bytes.clear();
            self.free.push(bytes);
        } else {
            self.allocated -= 1;
        }
    }
}

/// Every buffer is lent. Sessions that keep to what they are promised never see this.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no buffer was free for it: all {max} are lent (this is a bug; please report it)")]
pub struct NoBuffer {
    /// How many there are.
    pub max: usize,
}

/// A lent buffer, with received bytes or with our own. It gives itself back when dropped.
pub struct Buf {
    bytes: Vec<u8>,
    pool: Rc<RefCell<BufferPool>>,
}

impl Buf {
    pub(super) fn new(bytes: Vec<u8>, pool: &Rc<RefCell<BufferPool>>) -> Self {
        Self {
            bytes,
            pool: Rc::clone(pool),
        }
    }

    /// How much is received into it.
    pub(super) fn room(&self) -> usize {
        self.pool.borrow().size.bytes()
    }

    /// Whether the source had as much as a usual buffer takes, or more: a sign of bulk.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= BUFFER_BYTES
    }

    /// Puts a few bytes before those that were received, so that both are one send.
    pub fn prepend(&mut self, bytes: &[u8]) {
        self.bytes.splice(0..0, bytes.iter().copied());
    }

    /// Writes over the bytes at this place.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    pub fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Has these bytes instead.
    pub fn replace(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
    }

    /// Puts bytes behind those that are here. One that grows beyond its size is not lent again.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Lets `write` put bytes behind those that are here.
    pub fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
    }

    /// Keeps this part only.
    ///
    /// # Panics
    ///
    /// If it is not a part of what is here.
    pub fn keep(&mut self, part: Range<usize>) {
        self.bytes.truncate(part.end);
        self.bytes.drain(..part.start);
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.pool.borrow_mut().give(mem::take(&mut self.bytes));
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::IntoUnix;

    #[test]
    fn a_dropped_buffer_is_the_next_one_lent() {
        let pool = BufferPool::new(2);
        let bytes = pool.borrow_mut().take().unwrap();
        let address = bytes.as_ptr();
        drop(Buf::new(bytes, &pool));
        let again = pool.borrow_mut().take().unwrap();
        assert_eq!(again.as_ptr(), address);
    }

    #[test]
    fn no_more_than_the_limit_are_lent() {
        let pool = BufferPool::new(2);
        let first = pool.borrow_mut().take().unwrap();
        let second = pool.borrow_mut().take().unwrap();
        assert!(pool.borrow_mut().take().is_none());
        pool.borrow_mut().give(first);
        assert!(pool.borrow_mut().take().is_some());
        drop(second);
    }

    #[test]
    fn at_the_limit_nothing_is_lent_and_the_error_says_how_many_are() {
        let limits = Limits {
            sessions: 2,
            per_session: 3,
            pipes_max: 0,
            into_unix: IntoUnix::Spliced,
        };
        let pool = BufferPool::within(limits, 10);
        let max = 2 * 3 + 10 + IN_HAND;
        let mut lent: Vec<_> = (0..max).map(|_| BufferPool::lend(&pool).unwrap()).collect();
        let error = BufferPool::lend(&pool).unwrap_err();
        assert_eq!(error, NoBuffer { max });
        assert!(error.to_string().contains("all 18 are lent"), "{error}");
        // What has come waits for a buffer, and is not an error.
        let untouched = BufferPool::receive(&pool, Size::Usual, |_, _| {
            unreachable!("there is no buffer")
        });
        assert!(untouched.unwrap().is_none());
        lent.pop();
        let received = BufferPool::receive(&pool, Size::Usual, |bytes, _| {
            bytes.push(7);
            Ok(1)
        });
        assert_eq!(&*received.unwrap().unwrap(), &[7]);
    }

    fn large_of(pool: &Rc<RefCell<BufferPool>>) -> Rc<RefCell<BufferPool>> {
        pool.borrow().large.clone().expect("there are large ones")
    }

    fn received(pool: &Rc<RefCell<BufferPool>>, size: Size, byte: u8) -> Buf {
        let received = BufferPool::receive(pool, size, |bytes, most| {
            bytes.resize(bytes.len() + most, byte);
            Ok(most)
        });
        received.unwrap().expect("there is a buffer")
    }

    #[test]
    fn beside_so_many_large_buffers_as_there_are_others_are_usual_ones() {
        let pool = BufferPool::new(1);
        let mut large: Vec<_> = (0..LARGE_MAX)
            .map(|_| received(&pool, Size::Large, b'x'))
            .collect();
        assert!(large.iter().all(|buf| buf.len() == LARGE_BYTES));
        let usual = received(&pool, Size::Large, b'y');
        assert_eq!(usual.len(), BUFFER_BYTES);
        assert_eq!(pool.borrow().lent(), LARGE_MAX + 1);
        // Those that somebody is promised are all lent.
        assert!(BufferPool::lend(&pool).is_err());
        large.pop();
        assert_eq!(received(&pool, Size::Large, b'z').len(), LARGE_BYTES);
        drop((large, usual));
        assert_eq!(pool.borrow().lent(), 0);
        assert_eq!(large_of(&pool).borrow().free.len(), LARGE_SPARE_MAX);
        assert!(BufferPool::lend(&pool).is_ok());
    }

    #[test]
    fn a_large_buffer_that_grew_makes_room_for_another_one() {
        let pool = BufferPool::new(0);
        for _ in 0..=LARGE_MAX {
            let mut buf = received(&pool, Size::Large, b'x');
            buf.prepend(&[b'y'; LARGE_BYTES]);
            assert_eq!(buf.len(), 2 * LARGE_BYTES);
        }
        assert_eq!(large_of(&pool).borrow().allocated, 0);
    }

    #[test]
    fn a_receive_of_nothing_gives_its_buffer_back() {
        let pool = BufferPool::new(1);
        let sizes = [Size::Usual, Size::Large, Size::Usual];
        let nothings = [Ok(0), Err(libc::EAGAIN), Err(libc::EINTR)];
        for (nothing, size) in nothings.into_iter().zip(sizes) {
            let received = BufferPool::receive(&pool, size, |_, _| nothing.map_err(Errno));
            assert!(received.unwrap().is_none());
            assert_eq!(pool.borrow().lent(), 0);
        }
        let failed = BufferPool::receive(&pool, Size::Large, |_, _| Err(Errno(libc::ECONNRESET)));
        assert_eq!(failed.unwrap_err(), Errno(libc::ECONNRESET));
        assert_eq!(pool.borrow().lent(), 0);
    }

    #[test]
    fn a_header_before_a_full_buffer_fits_and_more_makes_it_grow_and_it_is_not_lent_again() {
        let pool = BufferPool::new(1);
        let capacity = BUFFER_BYTES + HEADROOM_BYTES;
        for (more, stays) in [(0, true), (1, false)] {
            let before = &vec![b'y'; HEADROOM_BYTES + more][..];
            let mut bytes = pool.borrow_mut().take().unwrap();
            bytes.resize(BUFFER_BYTES, b'x');
            let mut buf = Buf::new(bytes, &pool);
            buf.prepend(before);
            assert_eq!(buf.len(), BUFFER_BYTES + before.len());
            assert_eq!((buf[before.len() - 1], buf[before.len()]), (b'y', b'x'));
            assert_eq!(buf.bytes.capacity() == capacity, stays);
            drop(buf);
            assert_eq!(pool.borrow().lent(), 0);
        }
        let bytes = pool.borrow_mut().take().unwrap();
        assert_eq!(bytes.capacity(), capacity);
    }

    #[test]
    fn buffers_beyond_the_spare_ones_are_freed() {
        let pool = BufferPool::new(SPARE_BUFFERS_MAX + 10);
        let lent: Vec<_> = (0..SPARE_BUFFERS_MAX + 10)
            .map(|_| pool.borrow_mut().take().unwrap())
            .collect();
        for bytes in lent {
            pool.borrow_mut().give(bytes);
        }
        assert_eq!(pool.borrow().free.len(), SPARE_BUFFERS_MAX);
        assert_eq!(pool.borrow().allocated, SPARE_BUFFERS_MAX);
    }
}
