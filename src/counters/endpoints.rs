//! What one worker counts of one route's endpoints, by their addresses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Count, Level};
use crate::backend::Address;

/// One worker's figures of one endpoint of one route. It writes, the main thread reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct EndpointCounters {
    /// Connections there: those that are open, and those that are being made.
    pub in_flight: Level,
    /// Connections that came to be open.
    pub connects: Count,
    /// Attempts that failed.
    pub connect_failures: Count,
}

/// All of one worker's [`EndpointCounters`] of one route.
///
/// Locked only when the worker takes a new address set over, and when somebody looks: the counters
/// themselves are written without it. They live for as long as the worker has a use for them, so
/// there are no more of them than endpoints in the set and sessions that outlived theirs.
#[derive(Debug, Default)]
pub struct Endpoints(Mutex<HashMap<Address, Arc<EndpointCounters>>>);

impl Endpoints {
    /// Those of an address: the same as before if somebody still holds them.
    #[must_use]
    pub fn of(&self, address: Address) -> Arc<EndpointCounters> {
        Arc::clone(self.lock().entry(address).or_default())
    }

    /// Forgets those that nobody else holds.
    pub fn forget_unused(&self) {
        self.lock()
            .retain(|_, counters| Arc::strong_count(counters) > 1);
    }

    /// A look at all of them.
    pub fn each(&self, mut look: impl FnMut(Address, &EndpointCounters)) {
        for (address, counters) in &*self.lock() {
            look(*address, counters);
        }
    }

    /// Every change under the lock is complete in itself, so a panic leaves nothing half done.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Address, Arc<EndpointCounters>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn endpoint(last: u8) -> Address {
        SocketAddr::from(([192, 0, 2, last], 9000)).into()
    }

    #[test]
    fn counters_stay_while_somebody_holds_them() {
        let endpoints = Endpoints::default();
        let (one, two) = (endpoints.of(endpoint(1)), endpoints.of(endpoint(2)));
        one.connects.add(1);
        two.connects.add(2);
        drop(one);
        endpoints.forget_unused();
        let mut seen = Vec::new();
        endpoints.each(|address, counters| seen.push((address, counters.connects.get())));
        assert_eq!(seen, [(endpoint(2), 2)]);
        assert!(Arc::ptr_eq(&two, &endpoints.of(endpoint(2))));
        assert_eq!(endpoints.of(endpoint(1)).connects.get(), 0);
    }
}
