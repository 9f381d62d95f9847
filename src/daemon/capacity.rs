//! What the daemon can hold, given the limit of open descriptors.
//!
//! A session takes two descriptors. What is promised with `--connections-max` must fit, so the
//! limit is raised as far as it goes, and the promise cut to what is left: it is better to let
//! clients wait in the backlog than to run out in the middle.

use crate::checks::PROBES_MAX;
use crate::config::{AtLimit, Config, WhenDown};
use crate::driver::{IntoUnix, Limits};
use crate::fpm::POLLS_MAX;
use crate::observe::server;
use crate::resolver::lookups_max;
use crate::session::BUFFERS_PER_SESSION;
use crate::sys::{Errno, process};

/// Descriptors of the process as a whole: standard streams, the log, two runtimes with their
/// signal pipes and polls, name server sockets. An idle daemon with two workers was seen to have 19 to
/// 21 in all, so this leaves room.
const PROCESS_DESCRIPTORS: u64 = 32;

/// Descriptors of the metrics address: its listener, its connections, and one that waits until another one ends.
const METRICS_DESCRIPTORS: u64 = server::CONNECTIONS_MAX as u64 + 2;

/// Descriptors of the control socket: its listener twice, and the connections, each of them twice.
const CONTROL_DESCRIPTORS: u64 =
    2 * (1 + server::CONNECTIONS_MAX as u64 + server::COMMANDS_MAX as u64 + 1);

/// Descriptors of a log of requests: its file, and the one that follows it when it is opened anew.
const REQUEST_LOG_DESCRIPTORS: u64 = 2;

/// Descriptors of a worker besides its listeners: ring, two polls, waker, a spare socket, and one
/// in the making.
const WORKER_DESCRIPTORS: u64 = 6;

/// The most pipes over all workers: with [`crate::driver::PIPE_BYTES`] each, half of what the
/// kernel lets an unprivileged user have (`fs.pipe-user-pages-soft`, 64 MiB), so that a second
/// instance of the same user finds the other half.
const PIPES_MAX: u64 = 128;

/// Each pipe takes two descriptors; of a low limit they get at most an eighth.
const PIPES_SHARE: u64 = 16;

/// What there is room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SessionCapacity {
    /// Sessions over all workers.
    pub(super) connections_max: u32,
    /// Pipes of each worker's driver.
    pipes_max: usize,
}

/// Why there is room for nothing.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CapacityError {
    #[error("read the limit of open descriptors")]
    Read(#[source] Errno),
    #[error(
        "serve with at most {descriptors_max} open descriptors: {workers} workers need {needed} \
         for themselves (raise the limit, LimitNOFILE= under systemd, or lower --workers)"
    )]
    TooFew {
        descriptors_max: u64,
        workers: u64,
        needed: u64,
    },
}

impl SessionCapacity {
    /// Raises the limit of open descriptors as far as allowed, and divides it.
    pub(super) fn measure(
        config: &Config,
        workers: usize,
        listeners: usize,
    ) -> Result<Self, CapacityError> {
        let descriptors_max = process::raise_descriptors_max().map_err(CapacityError::Read)?;
        let counts = (workers as u64, listeners as u64);
        let capacity = Self::divide(config, counts, descriptors_max)?;
        if capacity.connections_max < config.connections_max {
            let consequence = match config.at_limit {
                AtLimit::Wait => "more clients wait in the backlog",
                AtLimit::Refuse => "more clients are closed",
            };
            tracing::warn!(
                connections_max = capacity.connections_max,
                asked = config.connections_max,
                descriptors_max,
                "the limit of open descriptors allows fewer connections than asked for; {consequence} \
                 (raise the limit, LimitNOFILE= under systemd, or lower --connections-max)"
            );
        }
        Ok(capacity)
    }

    fn divide(
        config: &Config,
        (workers, listeners): (u64, u64),
        descriptors_max: u64,
    ) -> Result<Self, CapacityError> {
        let routes = &config.routes;
        let checking = routes.iter().filter(|r| r.upstreams.checks.is_some());
        let watched = routes
            .iter()
            .filter(|r| r.upstreams.when_down != WhenDown::Wait);
        let checks = ((checking.count() + watched.count()) * PROBES_MAX) as u64;
        let asking = routes
            .iter()
            .filter(|r| !r.protocol.fpm_status().is_empty());
        let polls = (asking.count() * POLLS_MAX) as u64;
        let control = u64::from(config.control.is_some()) * CONTROL_DESCRIPTORS;
        let metrics = u64::from(config.metrics.is_some()) * METRICS_DESCRIPTORS;
        let logs = routes.iter().flat_map(|r| r.protocol.logs());
        let request_logs = logs.count() as u64;
        // What one route needs is among those of the process.
        let lookups = (lookups_max(config.routes.len()) - lookups_max(1)) as u64;
        let own = PROCESS_DESCRIPTORS
            + lookups
            + checks
            + polls
            + request_logs * REQUEST_LOG_DESCRIPTORS
            + control
            + metrics
            + listeners
            + workers * (WORKER_DESCRIPTORS + listeners);
        let pipes_each = PIPES_MAX.min(descriptors_max / PIPES_SHARE) / workers;
        // With very many workers, one for each is worth a few more in all.
        let spare = descriptors_max / PIPES_SHARE >= workers;
        let pipes_each = if spare { pipes_each.max(1) } else { pipes_each };
        let pipes = pipes_each * workers;
        let left = descriptors_max.saturating_sub(own + 2 * pipes) / 2;
        if left == 0 {
            return Err(CapacityError::TooFew {
                descriptors_max,
                workers,
                needed: own + 2 * pipes + 2,
            });
        }
        let connections_max = u64::from(config.connections_max).min(left);
        let as_count = |n: u64| usize::try_from(n).expect("below 2^33, on a 64-bit system");
        Ok(Self {
            connections_max: u32::try_from(connections_max).expect("at most what was asked for"),
            pipes_max: as_count(pipes_each),
        })
    }

    /// Why another configuration leaves no room for what was promised at the start.
    pub(super) fn obstacle(
        &self,
        config: &Config,
        workers: usize,
        listeners: usize,
    ) -> Option<String> {
        let descriptors_max = match process::raise_descriptors_max() {
            Ok(descriptors_max) => descriptors_max,
            Err(errno) => return Some(CapacityError::Read(errno).to_string()),
        };
        // The promise of the start holds, whatever the file says now.
        let mut config = config.clone();
        config.connections_max = self.connections_max;
        match Self::divide(&config, (workers as u64, listeners as u64), descriptors_max) {
            Ok(capacity) if capacity.connections_max == self.connections_max => None,
            Ok(capacity) => Some(format!(
                "serve these routes: the limit of {descriptors_max} open descriptors leaves room for {} of the \
                 {} connections that were promised at the start (lower --connections-max or raise the limit, \
                 LimitNOFILE= under systemd, and restart the daemon)",
                capacity.connections_max, self.connections_max
            )),
            Err(error) => Some(error.to_string()),
        }
    }

    /// What one worker's driver may have.
    pub(super) fn limits(&self, into_unix: IntoUnix) -> Limits {
        Limits {
            // A worker may come to hold all of them.
            sessions: usize::try_from(self.connections_max).expect("on a 64-bit system"),
            per_session: BUFFERS_PER_SESSION,
            pipes_max: self.pipes_max,
            into_unix,
        }
    }
}

/// How many workers accept.
///
/// Each of them holds a permit for the next client, whichever listener it comes from. With several
/// listeners, a client can be accepted by a worker whose permit another listener's client has just
/// used, and then waits while other workers' permits are unused. Keeping those few compared with
/// the limit keeps the limit true; with one listener any worker's permit is as good as another's.
pub(super) fn accepting_workers(workers: usize, listeners: usize, connections_max: u32) -> usize {
    /// Permits for each accepting worker: at most 1.6 % of them can be unused at the limit.
    const PERMITS_PER_WORKER: usize = 64;
    if listeners == 1 {
        return workers;
    }
    workers
        .min(connections_max as usize / PERMITS_PER_WORKER)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(connections_max: u32) -> Config {
        let route = crate::config::Route {
            protocol: crate::config::RouteProtocol::Raw,
            name: crate::config::RouteName::default(),
            listeners: vec!["unix:/run/a.sock".parse().unwrap()],
            access: crate::config::Access::default(),
            clients: crate::config::Clients::default(),
            backends: vec!["127.0.0.1:9000".parse().unwrap()],
            discovery: crate::config::Discovery::default(),
            upstreams: crate::config::Upstreams::default(),
            balance: crate::config::Balance::default(),
            ejection: crate::config::Ejection::default(),
            connect_timeout: std::time::Duration::from_secs(5),
            refused_timeout: None,
            idle_timeout: None,
            half_closed_timeout: None,
            connections_max: crate::config::Part::Most,
            limits: crate::config::ConnectionLimits::default(),
        };
        Config {
            routes: vec![route],
            workers: None,
            pin: false,
            busy_poll: None,
            engine: crate::config::Engine::Auto,
            connections_max,
            user_connections_max: crate::config::Part::Most,
            at_limit: AtLimit::Wait,
            drain_timeout: None,
            exit_idle_time: None,
            control: None,
            metrics: None,
            status_details: false,
            user: None,
        }
    }

    #[test]
    fn a_high_limit_leaves_what_was_asked_for() {
        let capacity = SessionCapacity::divide(&config(8192), (2, 1), 20_000).unwrap();
        assert_eq!(capacity.connections_max, 8192);
        let limits = capacity.limits(IntoUnix::Spliced);
        assert_eq!((limits.sessions, limits.per_session), (8192, 3));
        assert_eq!(limits.pipes_max, 64);
    }

    #[test]
    fn a_low_limit_is_kept() {
        for descriptors_max in 60..1000 {
            let Ok(capacity) = SessionCapacity::divide(&config(8192), (2, 1), descriptors_max)
            else {
                continue;
            };
            let sessions = u64::from(capacity.connections_max) * 2;
            let pipes = capacity.pipes_max as u64 * 2 * 2;
            assert!(sessions + pipes + PROCESS_DESCRIPTORS <= descriptors_max);
        }
    }

    #[test]
    fn a_limit_that_leaves_nothing_is_an_error() {
        let error = SessionCapacity::divide(&config(8192), (4, 1), 32).unwrap_err();
        assert!(error.to_string().contains("LimitNOFILE="), "{error}");
    }
}
