//! What one worker counts of one route's endpoints, by their addresses.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Count, Level};
use crate::address::Address;
use crate::config::CLASSES_MAX;

/// One worker's figures of one endpoint of one route. It writes, the main thread reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct EndpointCounters {
    /// Connections there: those that are open, and those that are being made.
    pub in_flight: Level,
    /// Open ones among them that no request uses now, and that the next one may.
    pub resting: Level,
    /// Those that are neither, nor being closed after they rested: by the places of the classes of their requests. Without
    /// classes, all are of the first one.
    pub busy: [Level; CLASSES_MAX + 1],
    /// How many of them there may be now, where that is found out; else 0.
    pub limit: Level,
    /// Connections that came to be open.
    pub connects: Count,
    /// Attempts that failed.
    pub connect_failures: Count,
}

/// All of one worker's [`EndpointCounters`] of one route.
///
/// The worker shows another list when it takes a new address set over; whoever looks takes the current
/// one. Neither waits for the other, as with a set itself. So there are no more of them than endpoints in
/// the set and endpoints that left it with sessions.
#[derive(Debug, Default)]
pub struct Endpoints(ArcSwap<Vec<(Address, Arc<EndpointCounters>)>>);

impl Endpoints {
    /// For the one writer: shows these from now on.
    pub fn show(&self, counters: impl Iterator<Item = (Address, Arc<EndpointCounters>)>) {
        self.0.store(Arc::new(counters.collect()));
    }

    /// A look at all of them.
    pub fn each(&self, mut look: impl FnMut(Address, &Arc<EndpointCounters>)) {
        for (address, counters) in self.0.load_full().iter() {
            look(*address, counters);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn connects(endpoints: &Endpoints) -> Vec<(Address, u64)> {
        let mut seen = Vec::new();
        endpoints.each(|address, counters| seen.push((address, counters.connects.get())));
        seen
    }

    #[test]
    fn what_is_counted_after_it_was_shown_is_seen() {
        let endpoints = Endpoints::default();
        assert_eq!(connects(&endpoints), []);
        let [one, two] = [1, 2].map(|last| {
            let address = Address::from(SocketAddr::from(([192, 0, 2, last], 9000)));
            (address, Arc::new(EndpointCounters::default()))
        });
        endpoints.show([one.clone(), two.clone()].into_iter());
        one.1.connects.add(1);
        two.1.connects.add(2);
        assert_eq!(connects(&endpoints), [(one.0, 1), (two.0, 2)]);
        endpoints.show([two.clone()].into_iter());
        assert_eq!(connects(&endpoints), [(two.0, 2)]);
    }
}
