//! How other threads tell a worker something.

use std::collections::BTreeSet;
use std::mem;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::looking::Look;
use super::orders::Order;
use crate::backend::PublishedNumber;
use crate::driver::Waker;
use crate::sys::Errno;

/// So many questions may lie in a mailbox, because a worker that hangs reads none: others read each in their next turn.
const LOOKS_UNREAD_MAX: usize = 4;

/// What a worker can be told. Each is a fact, not a message: told twice, it is still one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    /// There are new address sets, or pauses have begun or ended: which, is in the mailbox.
    Addresses,
    /// A permit may be free.
    Permit,
    /// All permits are taken.
    Limit,
    /// Another worker lacks descriptors: give back what is only kept at hand.
    Scarce,
    /// Take what is in the backlogs that are ours, close the listeners, finish the sessions, end.
    Drain,
    /// End at once.
    Cut,
    /// Somebody wants to see whether the worker turns: that it does is the answer.
    Turn,
    /// There are orders in the mailbox.
    Orders,
    /// Another worker has given a place at an endpoint back.
    Places,
}

impl Notice {
    fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// One worker's mailbox.
///
/// Anyone writes, the worker reads. A notice is set before the wake, and the worker reads after its
/// wait has ended, so no notice is left lying. Release and acquire make what the writer did before
/// visible.
pub(crate) struct Mailbox {
    notices: AtomicU16,
    waker: Waker,
    /// Looked at when there is a notice of it.
    orders: Mutex<Vec<Order>>,
    /// Likewise: whose endpoints have changed. Each is there once, however often it does.
    changed: Mutex<BTreeSet<PublishedNumber>>,
}

/// What was in a mailbox.
#[derive(Clone, Copy)]
pub(super) struct Notices(u16);

impl Mailbox {
    /// An empty one.
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self {
            notices: AtomicU16::new(0),
            waker: Waker::new()?,
            orders: Mutex::default(),
            changed: Mutex::default(),
        })
    }

    /// What ends the worker's wait.
    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Tells the worker.
    pub(crate) fn post(&self, notice: Notice) {
        self.notices.fetch_or(notice.bit(), Ordering::Release);
        self.waker.wake();
    }

    /// Has the worker do this, after what it was told to do before.
    pub(crate) fn order(&self, order: Order) {
        self.orders().push(order);
        self.post(Notice::Orders);
    }

    /// Has the worker take a new address set over, or see that a pause has begun or ended.
    pub(crate) fn tell_of(&self, endpoints: PublishedNumber) {
        self.changed().insert(endpoints);
        self.post(Notice::Addresses);
    }

    pub(super) fn take_changed(&self) -> BTreeSet<PublishedNumber> {
        mem::take(&mut *self.changed())
    }

    fn changed(&self) -> MutexGuard<'_, BTreeSet<PublishedNumber>> {
        // As with the orders.
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the worker tell what its sessions do. If it does not read what it is asked, the question is dropped, which who
    /// waits for its answer sees.
    pub(crate) fn ask(&self, look: Look) {
        let mut orders = self.orders();
        let unread = orders
            .iter()
            .filter(|order| matches!(order, Order::Look(_)));
        if unread.count() >= LOOKS_UNREAD_MAX {
            return;
        }
        orders.push(Order::Look(look));
        drop(orders);
        self.post(Notice::Orders);
    }

    pub(super) fn take_orders(&self) -> Vec<Order> {
        mem::take(&mut *self.orders())
    }

    fn orders(&self) -> MutexGuard<'_, Vec<Order>> {
        // Whole at any moment, whoever has panicked.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is something to be read.
    pub(crate) fn has_notices(&self) -> bool {
        self.notices.load(Ordering::Acquire) != 0
    }

    pub(super) fn take(&self) -> Notices {
        // Most turns find nothing; a load leaves the cache line shared.
        if self.notices.load(Ordering::Relaxed) == 0 {
            return Notices(0);
        }
        Notices(self.notices.swap(0, Ordering::Acquire))
    }
}

impl Notices {
    pub(super) fn has(self, notice: Notice) -> bool {
        self.0 & notice.bit() != 0
    }
}
