//! What orchestrators ask: whether the daemon is alive, and whether it is ready.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Response, StatusCode};

use super::of_text;
use crate::backend::Health;
use crate::observe::pulse::PULSE_TIMEOUT;
use crate::observe::{DaemonState, Observed};

pub(super) async fn health(observed: &Observed) -> Response<Full<Bytes>> {
    let stuck = observed.stuck_workers(PULSE_TIMEOUT).await;
    if stuck.is_empty() {
        return of_text(StatusCode::OK, "ok\n".to_owned());
    }
    let line = |number: &usize| format!("worker {number} does not turn\n");
    of_text(
        StatusCode::SERVICE_UNAVAILABLE,
        stuck.iter().map(line).collect(),
    )
}

/// A route is ready when it knows an endpoint that is neither left out nor known to be out of reach. The last
/// one is never left out; whether it can be reached, its last connects have told.
pub(super) fn readiness(observed: &Observed) -> Response<Full<Bytes>> {
    let mut reasons = String::new();
    if observed.phase.state() == DaemonState::Draining {
        reasons.push_str("the daemon is draining\n");
    }
    let missing = observed
        .socket_files_missing
        .of_clients
        .load(Ordering::Relaxed);
    if missing > 0 {
        reasons.push_str(&format!(
            "{missing} sockets' files are missing: see the log\n"
        ));
    }
    let now = std::time::Instant::now();
    for route in observed.routes.all().iter() {
        let set = route.published.load_full();
        let serves = |health: &Arc<Health>| !health.is_ejected(now) && !health.is_unreachable(now);
        let in_use: Vec<_> = set.health_in_use().collect();
        let reason = match in_use[..] {
            [] if set.health().is_empty() => "no endpoint is known".to_owned(),
            [] => "every endpoint is drained".to_owned(),
            _ if in_use.iter().any(|health| serves(health)) => continue,
            [only] => format!("endpoint {} does not answer", only.address()),
            ref all => format!("none of {} endpoints answers", all.len()),
        };
        reasons.push_str(&format!("route {}: {reason}\n", route.name));
    }
    match reasons.is_empty() {
        true => of_text(StatusCode::OK, "ready\n".to_owned()),
        false => of_text(StatusCode::SERVICE_UNAVAILABLE, reasons),
    }
}
