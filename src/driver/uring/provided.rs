//! The receive buffers that the kernel chooses from.
//!
//! The kernel's ring is kept shallow, over a last-in-first-out pool: a deep ring is first in,
//! first out, touches every buffer in turn and so keeps none of them warm (measured with depth
//! 8192: 35 MB resident against 2 MB, and 4 % slower).

use std::alloc::{self, Layout};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::driver::buffers::{BUFFER_BYTES, Buf, BufferPool};
use crate::sys::Errno;

use super::ring::Ring;

/// The only buffer group there is.
pub(super) const GROUP: u16 = 0;

/// Buffers at the kernel's disposal at one time: more receives than this in one turn answer
/// ENOBUFS and are armed again.
pub(super) const DEPTH: u16 = 64;

/// The kernel wants the entries on a page boundary.
const PAGE_BYTES: usize = 4096;

/// Buffers that are the kernel's to write into.
pub(super) struct Provided {
    entries: NonNull<BufRingEntry>,
    /// By buffer id: what the kernel may write into. Untouched until a completion names it.
    lent: [Option<Vec<u8>>; DEPTH as usize],
    /// The ids that no buffer has.
    free_ids: Vec<u16>,
    tail: u16,
}

impl Provided {
    /// Registers an empty ring of buffers with `ring`. The value must outlive every receive.
    pub(super) fn new(ring: &Ring) -> Result<Self, Errno> {
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc::alloc_zeroed(Self::layout()) };
        let entries = NonNull::new(memory.cast::<BufRingEntry>())
            .unwrap_or_else(|| alloc::handle_alloc_error(Self::layout()));
        let this = Self {
            entries,
            lent: [const { None }; DEPTH as usize],
            free_ids: (0..DEPTH).rev().collect(),
            tail: 0,
        };
        // SAFETY: the memory is freed only by this value's drop, and the driver drops it only when
        // the ring is gone and no op is left.
        unsafe { ring.register_buffers(entries.as_ptr() as u64, DEPTH, GROUP) }?;
        Ok(this)
    }

    fn layout() -> Layout {
        let bytes = usize::from(DEPTH) * size_of::<BufRingEntry>();
        Layout::from_size_align(bytes, PAGE_BYTES).expect("a power of two, and far below the limit")
    }

    /// How many buffers the kernel has to choose from.
    pub(super) fn len(&self) -> usize {
        usize::from(DEPTH) - self.free_ids.len()
    }

    /// Gives the kernel as many buffers as fit, as far as the pool has them.
    pub(super) fn replenish(&mut self, pool: &Rc<RefCell<BufferPool>>) {
        if self.free_ids.is_empty() {
            return;
        }
        let mut pool = pool.borrow_mut();
        while let Some(id) = self.free_ids.pop() {
            let Some(bytes) = pool.take() else {
                self.free_ids.push(id);
                break;
            };
            self.lend(id, bytes);
        }
        self.publish();
    }

    fn lend(&mut self, id: u16, mut bytes: Vec<u8>) {
        assert!(bytes.is_empty() && bytes.capacity() >= BUFFER_BYTES);
        let position = usize::from(self.tail % DEPTH);
        // SAFETY: the position is below DEPTH, the number of entries allocated.
        let entry = unsafe { self.entries.add(position) };
        // SAFETY: the entry is initialised memory, and the kernel reads it only once the tail has
        // passed it.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(bytes.as_mut_ptr() as u64);
        entry.set_len(u32::try_from(BUFFER_BYTES).expect("a buffer is far below 4 GiB"));
        entry.set_bid(id);
        let vacant = self.lent[usize::from(id)].replace(bytes);
        assert!(vacant.is_none(), "buffer id {id} was free");
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see the new entries.
    fn publish(&self) {
        // SAFETY: the pointer is to the first entry of the ring, as required.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is two aligned bytes inside the first entry, which nothing but this
        // store writes and the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// The buffer that a completion names, with the `len` bytes that the kernel wrote.
    pub(super) fn take(&mut self, id: u16, len: usize, pool: &Rc<RefCell<BufferPool>>) -> Buf {
        let bytes = self.lent[usize::from(id)].take();
        let mut bytes = bytes.expect("a completion names a buffer that was lent");
        assert!(
            len <= BUFFER_BYTES,
            "the kernel keeps to the buffer's length"
        );
        // SAFETY: the kernel wrote `len` bytes from the start of the buffer, within its capacity.
        unsafe { bytes.set_len(len) };
        self.free_ids.push(id);
        Buf::new(bytes, pool)
    }
}

impl Drop for Provided {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { alloc::dealloc(self.entries.as_ptr().cast(), Self::layout()) };
    }
}
