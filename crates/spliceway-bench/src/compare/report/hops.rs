//! What the two hops of a relay cost by themselves: the yardstick for what a relay can reach where client, relay and
//! backend share the processors.
//!
//! A relay's request is a whole exchange with the client over a Unix socket and another one with the backend over
//! TCP. Both are measured alone, as the direct paths. A relay that took no time of its own would take the sum of
//! the two. One that splices can do better, because it leaves copies out that each hop has.

use super::super::matrix::{Carry, Cell, Key};
use super::super::results::{DIRECT_TCP, Results, Sample, measured};
use super::DIRECT_UNIX;

/// A kind of request, and how each hop connects.
#[derive(Clone, Copy)]
pub(super) struct Hops {
    pub(super) key: Key,
    pub(super) concurrency: usize,
    /// From the client.
    pub(super) client: Carry,
    /// To the backend.
    pub(super) backend: Carry,
}

impl Hops {
    /// Of a relay that connects to the backend as its client does to it.
    pub(super) fn relayed(carry: Carry, key: Key, concurrency: usize) -> Self {
        Self {
            key,
            concurrency,
            client: carry,
            backend: carry,
        }
    }

    /// Of a relay that keeps its connections to the backend.
    pub(super) fn pooled(client: Carry, key: Key, concurrency: usize) -> Self {
        Self {
            backend: Carry::Kept,
            ..Self::relayed(client, key, concurrency)
        }
    }

    /// The requests per second that they leave, as a ratio to the direct way over TCP with `direct`: by the
    /// processors' time, which is what runs out first.
    pub(super) fn rate(&self, results: &Results, direct: Carry) -> Option<f64> {
        let busy = Sample::busy_us_per_request;
        let [direct, both] = self.figures(results, direct, busy)?;
        Some(direct / both)
    }

    /// The p50 that they leave, as a ratio to that of the direct way.
    pub(super) fn p50(&self, results: &Results, direct: Carry) -> Option<f64> {
        let p50 = |sample: &Sample| Some(sample.latency_us.p50);
        let [direct, both] = self.figures(results, direct, p50)?;
        Some(both / direct)
    }

    /// A figure of the direct way, and the sum of both hops'.
    fn figures(
        &self,
        results: &Results,
        direct: Carry,
        figure: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<[f64; 2]> {
        let median = |carry, path: &str| {
            let cell = Cell::new(carry, self.key, self.concurrency);
            let found = results.cells.iter().find(|result| result.cell == cell)?;
            // What a request costs a direct path is the same while the client has no time left.
            Some(measured(&found.path(path)?.rounds, &figure)?.median)
        };
        let hops = median(self.client, DIRECT_UNIX)? + median(self.backend, DIRECT_TCP)?;
        Some([median(direct, DIRECT_TCP)?, hops])
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sample_results;
    use super::*;

    #[test]
    fn two_hops_take_the_time_of_both() {
        // The sample's direct paths have 20,000 requests per second over TCP and 60,000 over Unix sockets.
        let results = sample_results::results();
        let hops = Hops::relayed(Carry::New, Key::Small, 16);
        let rate = hops.rate(&results, Carry::New).unwrap_or_default();
        assert!((rate - 0.75).abs() < 1e-9, "{rate}");
        let p50 = hops.p50(&results, Carry::New).unwrap_or_default();
        assert!((p50 - 4.0 / 3.0).abs() < 1e-9, "{p50}");
    }

    #[test]
    fn without_both_hops_there_is_no_yardstick() {
        // Kept connections are not in the sample.
        let hops = Hops::pooled(Carry::New, Key::Small, 16);
        assert_eq!(hops.rate(&sample_results::results(), Carry::New), None);
    }
}
