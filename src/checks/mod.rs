//! Active checks: whether endpoints are there, asked by the control plane and never by a worker.
//!
//! A round a time goes over the current set. An endpoint that fails several checks in a row is left
//! out until it passes again; the last one that is left never is. A FastCGI server whose workers are all
//! taken lets a connection wait in its backlog: it is busy, and not down.

mod outage;
mod probe;
mod verdict;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time;

use crate::backend::{Address, Health, Published};
use crate::config::CheckKind;
use crate::sys::net::TcpOptions;

pub(crate) use outage::{Consequence, OUTAGE_PROBE_INTERVAL, watch_outages};
use probe::{ProbeOutcome, probe};
pub(crate) use probe::{connect_tcp, connect_unix};
use verdict::CheckVerdict;

/// Checks at one time: a bound on descriptors and on what a round of many endpoints costs at once.
pub(crate) const PROBES_MAX: usize = 16;

/// How long an endpoint has for an answer, or the interval if that is shorter.
const PATIENCE_MAX: Duration = Duration::from_secs(2);

/// What is checked, and how.
#[derive(Debug)]
pub(crate) struct Checks {
    /// What a check asks for.
    pub kind: CheckKind,
    /// From the start of a round to the start of the next one.
    pub interval: Duration,
    /// As the sessions' own.
    pub tcp: TcpOptions,
    /// What a backend is told before anything else; empty: nothing.
    pub introduction: Box<[u8]>,
}

/// What is known of an endpoint of the set.
struct Checked {
    health: Arc<Health>,
    verdict: CheckVerdict,
}

/// Checks for ever.
pub(crate) async fn run(published: Arc<Published>, checks: Checks) {
    let checks = Arc::new(checks);
    let mut known = HashMap::new();
    loop {
        let next = time::Instant::now() + checks.interval;
        follow(&mut known, &published);
        round(&mut known, &published, &checks).await;
        time::sleep_until(next).await;
    }
}

/// Takes in what is new in the set, and forgets what has left it: if it comes back, it is new.
fn follow(known: &mut HashMap<Address, Checked>, published: &Published) {
    let set = published.load_full();
    let mut before = std::mem::take(known);
    for health in set.health() {
        let checked = before.remove(&health.address()).unwrap_or_else(|| Checked {
            health: Arc::clone(health),
            verdict: CheckVerdict::default(),
        });
        known.insert(health.address(), checked);
    }
    for gone in before.into_values() {
        published.bring_up(&gone.health);
    }
}

async fn round(known: &mut HashMap<Address, Checked>, published: &Published, checks: &Arc<Checks>) {
    let patience = checks.interval.min(PATIENCE_MAX);
    let addresses: Vec<Address> = known
        .keys()
        .copied()
        .filter(|address| match address {
            Address::Tcp(to) => checks.tcp.source.reaches(to),
            Address::Unix(_) => true,
        })
        .collect();
    let mut probes = JoinSet::new();
    for address in addresses {
        if probes.len() == PROBES_MAX {
            judge_next(&mut probes, known, published).await;
        }
        let checks = Arc::clone(checks);
        probes.spawn(async move { (address, probe(address, &checks, patience).await) });
    }
    while judge_next(&mut probes, known, published).await {}
}

/// Waits for the next outcome and draws the consequences. False if there is none to wait for.
async fn judge_next(
    probes: &mut JoinSet<(Address, ProbeOutcome)>,
    known: &mut HashMap<Address, Checked>,
    published: &Published,
) -> bool {
    let Some(ended) = probes.join_next().await else {
        return false;
    };
    let (address, outcome) = ended.expect("a check neither panics nor is taken back");
    let checked = known
        .get_mut(&address)
        .expect("a round's endpoints are known");
    judge(checked, outcome, published);
    true
}

fn judge(checked: &mut Checked, outcome: ProbeOutcome, published: &Published) {
    let Checked { health, verdict } = checked;
    let (route, address) = (published.route(), health.address());
    match outcome {
        ProbeOutcome::Unknown(error) => {
            tracing::debug!(%route, "check endpoint {address}: not made: {error}");
        }
        ProbeOutcome::Up | ProbeOutcome::Busy => {
            if let ProbeOutcome::Busy = outcome {
                tracing::debug!(%route, "check endpoint {address}: busy: no answer in time");
            }
            published.reached(health, Instant::now());
            if verdict.note(true) {
                published.bring_up(health);
                published.checks_fail(health, false);
                tracing::info!(%route, "endpoint {address} passes its checks again");
            }
        }
        ProbeOutcome::Down(problem) => {
            tracing::debug!(%route, "check endpoint {address}: {problem}");
            let turned = verdict.note(false);
            if verdict.is_up() {
                return;
            }
            // Again and again: it may not be the last one any more.
            let was_out = health.is_down();
            let is_out = published.take_down(health, Instant::now());
            published.checks_fail(health, !is_out);
            if is_out && !was_out {
                tracing::warn!(
                    %route,
                    "endpoint {address} is left out until it passes its checks: {problem}"
                );
            } else if turned && !is_out {
                tracing::warn!(
                    %route,
                    "endpoint {address} fails its checks and is used all the same, because there \
                     is no other: {problem}"
                );
            }
        }
    }
}
