//! Whether any endpoint of a route takes connections, where its clients are not to wait for one.
//!
//! Nobody looks while all is well: a connect that fails, or another set of endpoints, is what begins a look. Who serves
//! none of its clients learns nothing from them either, so from then on the endpoints are tried every 50 ms until one of
//! them takes a connection.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time;

use super::probe::{ProbeOutcome, probe};
use super::{Checks, PROBES_MAX};
use crate::backend::{Address, Health, Published};
use crate::sys::Errno;

/// From the end of one look at the endpoints to the next one: a web server that has another server notices nothing of
/// such times, and an endpoint that starts is not kept from it by 20 connects a second.
pub(crate) const OUTAGE_PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// How long an endpoint has to take a connection: longer than a lost SYN takes to be sent again (1 s).
const PATIENCE: Duration = Duration::from_millis(1500);

/// The same in an outage, in which one that is back is not to be seen later for others that are silent.
const PATIENCE_IN_OUTAGE: Duration = Duration::from_millis(300);

/// So many looks in a row at which no endpoint takes a connection are an outage: one that starts again may refuse one.
const LOOKS: u32 = 2;

/// How long the first names have to be answered.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// What a look has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// One that takes connections.
    One,
    /// None.
    None,
    /// Those that there are get nothing new.
    Drained,
    /// This machine lacks something that it takes to find out.
    Unknown,
}

/// Watches for ever.
pub(crate) async fn watch_outages(published: Arc<Published>, checks: Checks) {
    let checks = Arc::new(checks);
    if !published.is_out() {
        let _ = time::timeout(FIRST_ANSWER_TIMEOUT, published.trouble()).await;
    }
    loop {
        look_until_one_is_there(&published, &checks).await;
        published.trouble().await;
    }
}

async fn look_until_one_is_there(published: &Published, checks: &Arc<Checks>) {
    let mut in_a_row = 0_u32;
    loop {
        let found = look(published, checks).await;
        match found {
            Found::One if published.is_out() => {
                tracing::info!(
                    route = %published.route(),
                    "an endpoint takes connections again: clients are served"
                );
                published.set_out(false);
            }
            // An operator wants everybody to wait, and the endpoints may be away for that.
            _ if found == Found::Drained || published.paused_until(Instant::now()).is_some() => {
                in_a_row = 0;
                published.set_out(false);
            }
            Found::One | Found::Unknown | Found::Drained => {}
            Found::None => in_a_row = in_a_row.saturating_add(1),
        }
        if in_a_row >= LOOKS && found != Found::One && !published.is_out() {
            tracing::warn!(
                route = %published.route(),
                "no endpoint takes connections: clients are closed at once until one does (--when-down close)"
            );
            published.set_out(true);
        }
        // Connects of sessions may go on to fail: they begin one look in this time. It grows with the set, so that many
        // endpoints get no more connects in a second than sixteen do.
        let rounds = published.load().endpoints().len().div_ceil(PROBES_MAX);
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX).max(1);
        time::sleep(OUTAGE_PROBE_INTERVAL * rounds).await;
        if let Found::One | Found::Drained = found {
            // Another set, with one that gets something again, begins another look.
            return;
        }
    }
}

/// Tries endpoints that get something new, until one takes a connection.
async fn look(published: &Published, checks: &Arc<Checks>) -> Found {
    let set = published.load_full();
    let can_be_tried = |health: &&Arc<Health>| match health.address() {
        Address::Tcp(to) => checks.tcp.source.reaches(&to),
        Address::Unix(_) => true,
    };
    let patience = match published.is_out() {
        true => PATIENCE_IN_OUTAGE,
        false => PATIENCE,
    };
    if set.health_in_use().next().is_none() && !set.health().is_empty() {
        // An operator wants it so: who comes waits until one is brought back.
        return Found::Drained;
    }
    let mut left = set.health_in_use().filter(can_be_tried).map(Arc::clone);
    let mut probes = JoinSet::new();
    let mut found = Found::None;
    loop {
        while probes.len() < PROBES_MAX
            && let Some(health) = left.next()
        {
            let checks = Arc::clone(checks);
            probes.spawn(async move {
                let outcome = probe(health.address(), &checks, patience).await;
                (health, outcome)
            });
        }
        let Some(ended) = probes.join_next().await else {
            return found;
        };
        let (health, outcome) = ended.expect("a probe neither panics nor is taken back");
        match judge(&health, &outcome, published) {
            Found::One => return Found::One,
            Found::None | Found::Drained => {}
            Found::Unknown => found = Found::Unknown,
        }
    }
}

fn judge(health: &Arc<Health>, outcome: &ProbeOutcome, published: &Published) -> Found {
    match outcome {
        ProbeOutcome::Up | ProbeOutcome::Busy => {
            published.reached(health, Instant::now());
            Found::One
        }
        ProbeOutcome::Unknown(error) if is_exhaustion(error) => Found::Unknown,
        // One that this machine cannot, or must not, connect to is of no use either.
        ProbeOutcome::Down(_) | ProbeOutcome::Unknown(_) => Found::None,
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno);
    errno.is_some_and(Errno::is_exhaustion)
}
