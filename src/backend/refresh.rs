//! How the data path asks for a fresh lookup: without waiting, and without a word about the outcome.
//!
//! A connect that fails may mean that the address has moved. Whoever meets such a failure marks the
//! address; the resolver takes the marks and asks again for the names behind them, earlier than
//! their answers run out. Marks are facts, not messages: a storm of failures is one mark.

use std::collections::hash_map::DefaultHasher;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Addresses that failed since the resolver looked last.
///
/// One word: an address is one of its bits, so two addresses may share one, and then a name is asked
/// once more than needed. Every worker writes, the resolver reads and clears. Nothing else depends on
/// what is read here, so no ordering is needed beyond that of the word itself; the wake comes after
/// the mark, and only the one who sets a bit wakes.
#[derive(Debug, Default)]
pub struct Refresher {
    marks: AtomicU64,
    marked: Notify,
}

/// What was marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suspects(u64);

impl Refresher {
    /// A connection to this address did not come about, or the endpoint is not used any more: the
    /// names that stand for it are asked again soon.
    pub fn suspect(&self, ip: IpAddr) {
        self.mark(bit(ip));
    }

    /// A session has no address to connect to: all names are asked again soon.
    pub fn suspect_all(&self) {
        self.mark(u64::MAX);
    }

    fn mark(&self, bits: u64) {
        let before = self.marks.fetch_or(bits, Ordering::Relaxed);
        if before & bits != bits {
            self.marked.notify_one();
        }
    }

    /// For the resolver: what was marked since the last time; `None` if nothing was.
    pub(crate) fn take(&self) -> Option<Suspects> {
        match self.marks.swap(0, Ordering::Relaxed) {
            0 => None,
            bits => Some(Suspects(bits)),
        }
    }

    /// For the resolver: waits for a mark. One that is there already ends the wait at once.
    pub(crate) async fn marked(&self) {
        self.marked.notified().await;
    }
}

impl Suspects {
    pub(crate) const ALL: Self = Self(u64::MAX);

    /// Whether this address may be one of them.
    pub(crate) fn include(self, ip: IpAddr) -> bool {
        self.0 & bit(ip) != 0
    }
}

fn bit(ip: IpAddr) -> u64 {
    // The same for every worker and for the resolver, and spread over all bits: neighbouring
    // addresses are the ordinary case.
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(ip);
    1 << (hash % u64::from(u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_mark_is_taken_once() {
        let refresher = Refresher::default();
        assert_eq!(refresher.take(), None);
        refresher.suspect(ip(1));
        refresher.suspect(ip(1));
        let suspects = refresher.take().unwrap();
        assert!(suspects.include(ip(1)));
        assert_eq!(refresher.take(), None);
    }

    #[test]
    fn few_others_are_marked_by_one_address() {
        let refresher = Refresher::default();
        refresher.suspect(ip(1));
        let suspects = refresher.take().unwrap();
        let others = (2..=255).filter(|&last| suspects.include(ip(last))).count();
        assert!(others < 30, "{others}");
    }

    #[test]
    fn without_an_address_everything_is_marked() {
        let refresher = Refresher::default();
        refresher.suspect_all();
        assert_eq!(refresher.take(), Some(Suspects::ALL));
    }

    #[test]
    fn a_mark_wakes_once_until_it_is_taken() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let refresher = Refresher::default();
        refresher.suspect(ip(1));
        runtime.block_on(refresher.marked());
        refresher.suspect(ip(1));
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = refresher.marked() => panic!("woken for what was marked already"),
                () = std::future::ready(()) => {}
            }
        });
        refresher.take();
        refresher.suspect(ip(1));
        runtime.block_on(refresher.marked());
    }
}
