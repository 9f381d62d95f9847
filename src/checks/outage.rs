//! Whether any endpoint of a route takes connections, where its clients are not to wait for one.
//!
//! Nobody looks while all is well: a connect that fails, or another set of endpoints, is what begins a look. Who serves
//! none of its clients learns nothing from them either, so from then on the endpoints are tried every 50 ms until one of
//! them takes a connection.
//!
//! What a look comes to is decided by [`Looks`], which does nothing itself and is told the time.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time;

use super::probe::{ProbeOutcome, probe};
use super::{Checks, PROBES_MAX};
use crate::backend::{Address, Health, Published};
use crate::config::WhenDown;
use crate::sys::Errno;

/// From the end of one look at the endpoints to the next one: a web server that has another server notices nothing of
/// such times, and an endpoint that starts is not kept from it by 20 connects a second.
pub(crate) const OUTAGE_PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// The same from the first look at which no endpoint takes a connection: with a look that has just ended before it, all
/// that is less than a tenth of a second.
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(25);

/// How long an endpoint has to take a connection: longer than a lost SYN takes to be sent again (1 s).
const PATIENCE: Duration = Duration::from_millis(1500);

/// The same in an outage, in which one that is back is not to be seen later for others that are silent.
const PATIENCE_IN_OUTAGE: Duration = Duration::from_millis(300);

/// So many looks in a row at which no endpoint takes a connection are an outage: one that starts again may refuse one.
const LOOKS: u32 = 2;

/// How long the first names have to be answered.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// What becomes of clients in an outage, and who is told that one has begun or ended.
pub(crate) struct Consequence {
    pub(crate) when_down: WhenDown,
    pub(crate) has_changed: Box<dyn Fn() + Send + Sync>,
}

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

/// How the route was when it was looked at.
#[derive(Clone, Copy, Debug)]
struct RouteState {
    is_out: bool,
    is_paused: bool,
    endpoints: usize,
}

/// What a look comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Conclusion {
    /// The route is out from now on, or it is not.
    is_out: Option<bool>,
    /// When to look again.
    again_at: Instant,
    /// After that time only once there is trouble.
    is_well: bool,
}

/// The looks since something went wrong.
#[derive(Debug, Default)]
struct Looks {
    /// Those at the end of which no endpoint took a connection.
    fruitless: u32,
}

impl Looks {
    /// A look has ended now.
    fn conclude(&mut self, found: Found, state: RouteState, now: Instant) -> Conclusion {
        // An operator wants everybody to wait, and the endpoints may be away for that.
        let shall_wait = found == Found::Drained || state.is_paused;
        self.fruitless = match found {
            _ if shall_wait => 0,
            Found::None => self.fruitless.saturating_add(1),
            Found::One | Found::Drained | Found::Unknown => self.fruitless,
        };
        let is_out = match found {
            _ if shall_wait => false,
            Found::One => false,
            Found::None | Found::Drained | Found::Unknown => {
                state.is_out || self.fruitless >= LOOKS
            }
        };
        // Connects of sessions may go on to fail: they begin one look in this time. It grows with the set, so that many
        // endpoints get no more connects in a second than sixteen do.
        let pause = match found {
            Found::None if !is_out && !shall_wait => SECOND_LOOK_AFTER,
            Found::One | Found::None | Found::Drained | Found::Unknown => OUTAGE_PROBE_INTERVAL,
        };
        let rounds = state.endpoints.div_ceil(PROBES_MAX);
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX).max(1);
        Conclusion {
            is_out: (is_out != state.is_out).then_some(is_out),
            again_at: now + pause * rounds,
            // Another set, with one that gets something again, begins another look.
            is_well: matches!(found, Found::One | Found::Drained),
        }
    }
}

/// Watches for ever.
pub(crate) async fn watch_outages(
    published: Arc<Published>,
    checks: Checks,
    consequence: Consequence,
) {
    let checks = Arc::new(checks);
    if !published.is_out() {
        let _ = time::timeout(FIRST_ANSWER_TIMEOUT, published.trouble()).await;
    }
    loop {
        look_until_all_is_well(&published, &checks, &consequence).await;
        published.trouble().await;
    }
}

async fn look_until_all_is_well(
    published: &Published,
    checks: &Arc<Checks>,
    consequence: &Consequence,
) {
    let mut looks = Looks::default();
    loop {
        let found = look(published, checks).await;
        let now = Instant::now();
        let state = RouteState {
            is_out: published.is_out(),
            is_paused: published.paused_until(now).is_some(),
            endpoints: published.load().endpoints().len(),
        };
        let conclusion = looks.conclude(found, state, now);
        if let Some(is_out) = conclusion.is_out {
            consequence.tell(published, is_out, found);
            published.set_out(is_out);
            (consequence.has_changed)();
        }
        time::sleep_until(conclusion.again_at.into()).await;
        if conclusion.is_well {
            return;
        }
    }
}

impl Consequence {
    fn tell(&self, published: &Published, is_out: bool, found: Found) {
        let route = published.route();
        match (is_out, found) {
            (true, _) => tracing::warn!(%route, "no endpoint takes connections: {}", self.what()),
            (false, Found::One) => tracing::info!(
                %route,
                "an endpoint takes connections again: clients are served"
            ),
            (false, _) => tracing::info!(
                %route,
                "the route is paused, or all its endpoints are drained: clients wait from now on"
            ),
        }
    }

    fn what(&self) -> &'static str {
        match self.when_down {
            WhenDown::Wait => unreachable!("nobody watches where clients wait"),
            WhenDown::Close => "clients are closed at once until one does (--when-down close)",
            WhenDown::Refuse => {
                "its sockets are away from their paths until one does (--when-down refuse)"
            }
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
        match judge(&outcome) {
            Found::One => {
                published.reached(&health, Instant::now());
                return Found::One;
            }
            Found::None | Found::Drained => {}
            Found::Unknown => found = Found::Unknown,
        }
    }
}

/// What an endpoint's answer says of it.
fn judge(outcome: &ProbeOutcome) -> Found {
    match outcome {
        ProbeOutcome::Up | ProbeOutcome::Busy => Found::One,
        ProbeOutcome::Unknown(error) if is_exhaustion(error) => Found::Unknown,
        // One that this machine cannot, or must not, connect to is of no use either.
        ProbeOutcome::Down(_) | ProbeOutcome::Unknown(_) => Found::None,
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno);
    errno.is_some_and(Errno::is_exhaustion)
}

#[cfg(test)]
mod tests;
