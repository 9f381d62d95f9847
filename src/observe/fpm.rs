//! How PHP-FPM's pools fare, by their own words, as status and its table have it.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::units::span;
use crate::fpm::{FRESH_MAX, FpmBoard, PoolFigures, PoolView};

/// One pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FpmStatus {
    /// Where it is asked.
    pub address: String,
    /// For which page.
    pub path: String,
    /// Whether the last poll was answered.
    pub up: bool,
    /// Why it was not, if it was not.
    pub error: Option<String>,
    /// How old its last answer is.
    pub age_seconds: Option<f64>,
    /// Its pm.max_children, if that can be told.
    pub max_children: Option<u64>,
    /// What is wrong with the route's permits for it.
    pub warning: Option<String>,
    /// What it last said, unless that is too old to be told.
    #[serde(flatten)]
    pub pool: Option<FpmPoolStatus>,
}

/// What one pool says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FpmPoolStatus {
    /// Its name.
    pub pool: String,
    /// `static`, `dynamic`, `ondemand`, or `other`.
    pub process_manager: String,
    /// Processes that have a connection.
    pub active_processes: u64,
    /// Those that have none.
    pub idle_processes: u64,
    /// Both.
    pub total_processes: u64,
    /// Those of the active ones that run a script; `null` if they could not be counted, and the others are PHP-FPM's
    /// own counts.
    pub running_processes: Option<u64>,
    /// The most that were active; too many where connections are kept.
    pub max_active_processes: u64,
    /// Connections that wait in its backlog.
    pub listen_queue: u64,
    /// The most of them since it was started.
    pub max_listen_queue: u64,
    /// How many may.
    pub listen_queue_len: u64,
    /// Connections, and requests on kept ones.
    pub accepted_connections: u64,
    /// How often it wanted more processes than it may have.
    pub max_children_reached: u64,
    /// Requests that took longer than request_slowlog_timeout.
    pub slow_requests: u64,
}

impl From<&PoolFigures> for FpmPoolStatus {
    fn from(figures: &PoolFigures) -> Self {
        let processes = figures.processes;
        Self {
            pool: figures.pool.clone(),
            process_manager: figures.process_manager.name().to_owned(),
            active_processes: processes.active,
            idle_processes: processes.idle,
            total_processes: processes.total(),
            running_processes: processes.running,
            max_active_processes: figures.active_peak,
            listen_queue: figures.listen_queue,
            max_listen_queue: figures.listen_queue_peak,
            listen_queue_len: figures.listen_queue_max,
            accepted_connections: figures.accepted,
            max_children_reached: figures.max_children_reached,
            slow_requests: figures.slow_requests,
        }
    }
}

/// All pools of a route.
pub(super) fn status(board: &FpmBoard, now: Instant) -> Vec<FpmStatus> {
    let of = |view: PoolView| {
        let age = view
            .answered
            .as_ref()
            .map(|answered| now.saturating_duration_since(answered.at));
        let fresh = view
            .answered
            .filter(|_| age.is_some_and(|age| age <= FRESH_MAX));
        FpmStatus {
            address: view.address.to_string(),
            path: view.path.to_string(),
            up: age.is_some() && view.error.is_none(),
            error: view.error.map(|error| error.to_string()),
            age_seconds: age.map(|age| age.as_secs_f64()),
            max_children: view.max_children.filter(|_| fresh.is_some()),
            warning: view
                .warning
                .filter(|_| fresh.is_some())
                .map(|warning| warning.to_string()),
            pool: fresh.map(|answered| FpmPoolStatus::from(&*answered.figures)),
        }
    };
    board.views().into_iter().map(of).collect()
}

/// What people read of one pool: a line, and another one for what is wrong.
pub(super) fn lines(status: &FpmStatus) -> impl Iterator<Item = String> {
    let mut line = status.address.clone();
    match (&status.pool, status.age_seconds) {
        (Some(pool), Some(age)) => line += &format!(" {}; {} ago", words(pool, status), span(age)),
        (_, Some(age)) => line += &format!(": no answer for {}", span(age)),
        (_, None) if status.error.is_none() => line += ": not asked yet",
        (_, None) => line += ": no answer yet",
    }
    let error = status.error.as_ref();
    if let Some(error) = error {
        line += &format!("; {error}");
    }
    let warning = status.warning.as_ref();
    [Some(line), warning.map(|warning| format!("! {warning}"))]
        .into_iter()
        .flatten()
}

fn words(pool: &FpmPoolStatus, status: &FpmStatus) -> String {
    let max = status
        .max_children
        .map_or_else(String::new, |max| format!(" of {max}"));
    let running = pool
        .running_processes
        .map_or_else(String::new, |running| format!(", {running} run a script"));
    format!(
        "({}, {}): {}{max} processes, {} idle{running}; {} of {} wait in its backlog; max children reached {}, slow \
         requests {}",
        pool.pool,
        pool.process_manager,
        pool.total_processes,
        pool.idle_processes,
        pool.listen_queue,
        pool.listen_queue_len,
        pool.max_children_reached,
        pool.slow_requests,
    )
}

/// What tests of everything that is made from a status begin with.
#[cfg(test)]
pub(super) fn samples() -> Vec<FpmStatus> {
    let pool = FpmPoolStatus {
        pool: "www".to_owned(),
        process_manager: "static".to_owned(),
        active_processes: 3,
        idle_processes: 1,
        total_processes: 4,
        running_processes: Some(2),
        max_active_processes: 218,
        listen_queue: 5,
        max_listen_queue: 9,
        listen_queue_len: 511,
        accepted_connections: 405,
        max_children_reached: 6,
        slow_requests: 7,
    };
    let one = FpmStatus {
        address: "192.0.2.1:9001".to_owned(),
        path: "/status".to_owned(),
        up: true,
        error: None,
        age_seconds: Some(2.5),
        max_children: Some(4),
        warning: Some("pm.max_children is 4".to_owned()),
        pool: Some(pool),
    };
    let other = FpmStatus {
        address: "192.0.2.2:9001".to_owned(),
        up: false,
        error: Some("it closed".to_owned()),
        age_seconds: Some(61.0),
        max_children: None,
        warning: None,
        pool: None,
        ..one.clone()
    };
    vec![one, other]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_absent_or_null() {
        let [one, other] = samples().try_into().unwrap();
        let one = serde_json::to_value(one).unwrap();
        assert_eq!(one["pool"], "www");
        assert_eq!(one["listen_queue"], 5);
        assert!(one["error"].is_null());
        let other = serde_json::to_value(other).unwrap();
        assert!(other.get("pool").is_none() && other.get("listen_queue").is_none());
        assert_eq!(other["error"], "it closed");
        assert_eq!(other["age_seconds"], 61.0);
    }

    #[test]
    fn a_pool_has_a_line_and_what_is_wrong_another() {
        let [one, other] = samples().try_into().unwrap();
        assert_eq!(
            lines(&one).collect::<Vec<_>>(),
            [
                "192.0.2.1:9001 (www, static): 4 of 4 processes, 1 idle, 2 run a script; 5 of 511 wait in its \
                 backlog; max children reached 6, slow requests 7; 2.5s ago",
                "! pm.max_children is 4",
            ]
        );
        assert_eq!(
            lines(&other).collect::<Vec<_>>(),
            ["192.0.2.2:9001: no answer for 1m1s; it closed"]
        );
        let unasked = FpmStatus {
            error: None,
            age_seconds: None,
            ..other.clone()
        };
        assert_eq!(
            lines(&unasked).collect::<Vec<_>>(),
            ["192.0.2.2:9001: not asked yet"]
        );
        let unanswered = FpmStatus {
            age_seconds: None,
            ..other
        };
        assert_eq!(
            lines(&unanswered).collect::<Vec<_>>(),
            ["192.0.2.2:9001: no answer yet; it closed"]
        );
    }
}
