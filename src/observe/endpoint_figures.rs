//! What all workers together count of each endpoint of a route.
//!
//! A worker forgets an endpoint that has left the addresses once it has no session there, and begins
//! anew if the endpoint comes back. Another one may still have a session there, so the endpoint is still
//! shown. What the first has counted must not be missing then: Prometheus takes a count that falls for a
//! restart, and adds all that is left of it once more. So the counts of those that forgot are kept for as
//! long as anybody knows the endpoint. When nobody does, they begin with 0, which is what a restart is. What
//! a worker counted and forgot between two looks is missing: a count may be too low, and never falls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::{Address, Endpoint};
use crate::counters::{EndpointCounters, ShareCounters};

/// What is remembered between two looks. Locked by those who look, on the main thread's runtime, never by
/// a worker. There are no more entries than endpoints in the set and in the workers' lists.
#[derive(Default, Debug)]
pub(crate) struct EndpointFigures(Mutex<HashMap<Address, Known>>);

/// One endpoint's figures, over all workers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Figures {
    pub(super) in_flight: u64,
    pub(super) limit: u64,
    pub(super) connects: u64,
    pub(super) connect_failures: u64,
}

#[derive(Default, Debug)]
struct Known {
    /// Those of workers that know the endpoint.
    cells: Vec<Arc<EndpointCounters>>,
    /// Counts of those that have forgotten it. Nobody writes their cells any more.
    forgotten: Figures,
}

impl EndpointFigures {
    /// What the workers count of those in `set`, and of others that they have not forgotten yet.
    pub(super) fn look(
        &self,
        set: &[Endpoint],
        shares: &[ShareCounters],
    ) -> HashMap<Address, Figures> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *known);
        for (address, cells) in cells_by_endpoint(set, shares) {
            let before = before.remove(&address).unwrap_or_default();
            known.insert(address, before.followed_by(cells));
        }
        let figures = known.iter();
        figures
            .map(|(address, k)| (*address, k.figures()))
            .collect()
    }
}

impl Known {
    fn followed_by(self, cells: Vec<Arc<EndpointCounters>>) -> Self {
        let mut forgotten = self.forgotten;
        let is_gone = |old: &&Arc<_>| !cells.iter().any(|new| Arc::ptr_eq(old, new));
        for gone in self.cells.iter().filter(is_gone) {
            forgotten.connects += gone.connects.get();
            forgotten.connect_failures += gone.connect_failures.get();
        }
        Self { cells, forgotten }
    }

    fn figures(&self) -> Figures {
        let mut sum = self.forgotten;
        for cells in &self.cells {
            sum.in_flight += cells.in_flight.get();
            sum.limit += cells.limit.get();
            sum.connects += cells.connects.get();
            sum.connect_failures += cells.connect_failures.get();
        }
        sum
    }
}

fn cells_by_endpoint(
    set: &[Endpoint],
    shares: &[ShareCounters],
) -> HashMap<Address, Vec<Arc<EndpointCounters>>> {
    let in_set = set.iter().map(|endpoint| (endpoint.address, Vec::new()));
    let mut cells: HashMap<_, Vec<_>> = in_set.collect();
    for share in shares {
        share.endpoints.each(|address, counters| {
            let its = cells.entry(address).or_default();
            its.push(Arc::clone(counters));
        });
    }
    cells
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn address() -> Address {
        Address::from(SocketAddr::from(([192, 0, 2, 1], 9000)))
    }

    /// A worker that knows the endpoint, and has counted so many connects.
    fn knows(share: &ShareCounters, connects: u64) -> Arc<EndpointCounters> {
        let cells = Arc::<EndpointCounters>::default();
        cells.connects.add(connects);
        share
            .endpoints
            .show([(address(), Arc::clone(&cells))].into_iter());
        cells
    }

    fn forgets(share: &ShareCounters) {
        share.endpoints.show(std::iter::empty());
    }

    #[test]
    fn what_a_worker_counted_before_it_forgot_the_endpoint_still_counts() {
        let shares = [ShareCounters::default(), ShareCounters::default()];
        let (figures, set) = (EndpointFigures::default(), [Endpoint::from(address())]);
        let connects = |set: &[Endpoint]| figures.look(set, &shares)[&address()].connects;
        assert_eq!(connects(&set), 0);
        let cells = [knows(&shares[0], 10), knows(&shares[1], 5)];
        assert_eq!(connects(&set), 15);
        // Counted after the last look, and before it forgot.
        cells[0].connects.add(1);
        forgets(&shares[0]);
        assert_eq!(connects(&[]), 16);
        knows(&shares[0], 2);
        assert_eq!(connects(&set), 18);
        assert_eq!(connects(&set), 18);
    }

    #[test]
    fn it_still_counts_if_all_of_them_forgot_between_two_looks() {
        let shares = [ShareCounters::default()];
        let (figures, set) = (EndpointFigures::default(), [Endpoint::from(address())]);
        let cells = knows(&shares[0], 10);
        cells.in_flight.raise();
        figures.look(&set, &shares);
        cells.in_flight.lower();
        forgets(&shares[0]);
        knows(&shares[0], 1);
        let expected = Figures {
            in_flight: 0,
            limit: 0,
            connects: 11,
            connect_failures: 0,
        };
        assert_eq!(figures.look(&set, &shares)[&address()], expected);
    }

    #[test]
    fn an_endpoint_that_nobody_knows_any_more_is_forgotten() {
        let shares = [ShareCounters::default()];
        let (figures, set) = (EndpointFigures::default(), [Endpoint::from(address())]);
        knows(&shares[0], 10);
        figures.look(&set, &shares);
        forgets(&shares[0]);
        assert_eq!(figures.look(&[], &shares), HashMap::new());
        knows(&shares[0], 1);
        assert_eq!(figures.look(&set, &shares)[&address()].connects, 1);
    }
}
