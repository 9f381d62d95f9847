//! One path and what was measured on it: several rounds of the same load.

use std::num::NonZeroUsize;
use std::time::Duration;

use hdrhistogram::Histogram;

use spliceway_load::load::{self, Connections, Control, Failure, Measured, Pace, Plan, Target};

/// The most requests per path: the bound on what a long `--duration` can ask of a machine.
const REQUESTS_MAX: u64 = 200_000;

/// How long one request may take. A hundred times what the slowest takes on a busy machine, and
/// still soon enough for someone who waits in front of a terminal.
const DEADLINE: Duration = Duration::from_secs(10);

/// The parameters of one request, encoded; the size of a plain GET as nginx sends it to PHP-FPM.
const PARAMS_BYTES: usize = 600;

/// The answer, CGI header included: a small page.
const RESPONSE_BYTES: u64 = 4096;

/// One path and what was measured on it so far.
pub(super) struct Trial {
    name: &'static str,
    target: Target,
    /// Client threads.
    threads: NonZeroUsize,
    sum: Option<Measured>,
}

impl Trial {
    /// A path without measurements.
    pub(super) fn new(name: &'static str, target: Target, threads: NonZeroUsize) -> Self {
        Self {
            name,
            target,
            threads,
            sum: None,
        }
    }

    /// Sends requests for `length` with `concurrency` clients, each on a connection of its own, and
    /// adds what was measured. Ends early when `control` says so.
    pub(super) fn run_round(
        &mut self,
        concurrency: NonZeroUsize,
        length: Duration,
        control: &Control,
    ) -> Result<(), Failure> {
        let measured = load::run(&self.plan(concurrency, length), control)?;
        match &mut self.sum {
            None => self.sum = Some(measured),
            Some(sum) => {
                sum.requests += measured.requests;
                sum.elapsed += measured.elapsed;
                sum.latency_ns
                    .add(&measured.latency_ns)
                    .expect("all loads' histograms have the same bounds");
            }
        }
        Ok(())
    }

    fn plan(&self, concurrency: NonZeroUsize, length: Duration) -> Plan {
        Plan {
            target: self.target.clone(),
            pace: Pace::Closed { concurrency },
            connections: Connections::New,
            request: load::Request::Synthetic {
                params_bytes: PARAMS_BYTES,
                params: Vec::new(),
                body_bytes: 0,
                response_bytes: RESPONSE_BYTES,
                delay: Duration::ZERO,
            },
            warm_up: Duration::ZERO,
            duration: length,
            requests_max: Some(REQUESTS_MAX.saturating_sub(self.requests())),
            threads: self.threads,
            deadline: DEADLINE,
        }
    }

    /// The path's name in the table.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Requests answered rightly.
    pub(super) fn requests(&self) -> u64 {
        self.sum.as_ref().map_or(0, |sum| sum.requests)
    }

    /// Requests per second of measured time.
    pub(super) fn per_second(&self) -> u64 {
        let elapsed = self.sum.as_ref().map_or(Duration::ZERO, |sum| sum.elapsed);
        let per_second = u128::from(self.requests()) * 1_000_000 / elapsed.as_micros().max(1);
        u64::try_from(per_second).unwrap_or(u64::MAX)
    }

    /// The time from before connect to the end of the answer that this share of the requests stayed
    /// within, in microseconds.
    pub(super) fn quantile_us(&self, quantile: f64) -> u64 {
        let latency_ns = self.sum.as_ref().map(|sum| &sum.latency_ns);
        let quantile_ns = |latency_ns: &Histogram<u64>| latency_ns.value_at_quantile(quantile);
        latency_ns.map_or(0, quantile_ns) / 1000
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use spliceway_load::responder::{Options, Responder};

    #[test]
    fn rounds_add_up() {
        let responder = Responder::start(&Options {
            tcp: Some((Ipv4Addr::LOCALHOST, 0).into()),
            ..Options::default()
        })
        .unwrap();
        let mut trial = Trial::new(
            "tcp",
            Target::Tcp(responder.tcp().unwrap()),
            NonZeroUsize::MIN,
        );
        let (four, length) = (NonZeroUsize::new(4).unwrap(), Duration::from_millis(100));
        trial.run_round(four, length, &Control::default()).unwrap();
        let first = trial.requests();
        trial.run_round(four, length, &Control::default()).unwrap();
        assert!(first >= 4 && trial.requests() >= first + 4);
        assert!(trial.per_second() > 0);
        assert!(trial.quantile_us(0.5) <= trial.quantile_us(0.99));
        assert_eq!(trial.requests(), responder.stop().requests);
    }
}
