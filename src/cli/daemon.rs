//! The options of the daemon: what all of its routes have in common.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgMatches, Args};

use super::values::{
    NumberOrOff, Timeout, ValueError, busy_poll, count, number_or_off, positive_timeout_or_off,
    timeout_or_off,
};
use super::{Conflict, ENGINE_HELP, RunCommand, ServedRoute, Source, effective};
use crate::config::{
    AtLimit, CONNECTIONS_MAX, Config, Engine, ListenAddress, LogFilter, LogFormat, Logging, Route,
    RunAs, UnixAddress, WORKERS_MAX,
};

/// What the daemon can be told.
#[derive(Args)]
pub(super) struct DaemonArguments {
    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=WORKERS_MAX),
        help = "Serve sessions with this many threads, from 1 to 1024. [default: one for each core \
                that the process may use]"
    )]
    workers: Option<usize>,

    #[arg(
        long,
        help = "Pin each worker thread to a core of its own. This helps where nothing else runs on \
                those cores, and may harm elsewhere."
    )]
    pin: bool,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "off",
        value_parser = busy_poll,
        allow_hyphen_values = true,
        help = "Have each worker look for work for this long before it sleeps, such as 50us, at most 10ms. Answers \
                come sooner by what a wake-up takes, and each worker keeps a core busy while there is traffic: for \
                machines with cores to spare, together with --pin. 'off' sleeps at once."
    )]
    busy_poll: Timeout,

    #[arg(
        long,
        value_enum,
        default_value_t = Engine::Auto,
        hide_possible_values = true,
        help = ENGINE_HELP
    )]
    engine: Engine,

    #[arg(
        long,
        value_name = "N",
        default_value = "8192",
        value_parser = count(1..=CONNECTIONS_MAX),
        help = "Keep at most this many sessions open at one time, from 1 to 1000000. Further clients \
                wait in the sockets' backlogs."
    )]
    connections_max: u32,

    #[arg(
        long,
        value_name = "N|off",
        value_parser = number_or_off,
        allow_hyphen_values = true,
        help = "Keep at most this many sessions of one user open at one time, over all routes; further \
                ones are closed at once. 'off' sets no limit. [default: 7/8 of --connections-max, once clients of a \
                second user have come]"
    )]
    user_connections_max: Option<NumberOrOff>,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "30s",
        value_parser = timeout_or_off,
        allow_hyphen_values = true,
        help = "When told to stop, wait this long for running sessions, then cut them; 'off' waits \
                for ever, 0s not at all."
    )]
    drain_timeout: Timeout,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "off",
        value_parser = positive_timeout_or_off,
        allow_hyphen_values = true,
        help = "After this time without a session, counted from the start or from the end of the last \
                one, drain and end with exit code 0: for sockets that the service manager keeps, which \
                starts the proxy again for the next client. 'off' never does."
    )]
    exit_idle_time: Timeout,

    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t = LogFormat::Text,
        hide_possible_values = true,
        help = "Write the log to standard error as lines of 'text', or as 'json' with one object \
                for each line."
    )]
    log_format: LogFormat,

    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        help = "Log events of this level and above: off, error, warn, info, debug or trace. Levels \
                of single modules follow after commas, such as info,spliceway::resolver=debug."
    )]
    log_level: LogFilter,

    #[arg(
        long,
        value_name = "PATH",
        value_parser = control,
        help = "Listen on this Unix socket for 'spliceway status' and for commands such as 'spliceway reload'; \
                only the user that runs the proxy, and root, may connect. [default: none]"
    )]
    control: Option<PathBuf>,

    #[arg(
        long,
        value_name = "IP:PORT",
        value_parser = metrics,
        help = "Answer HTTP on this address: the status page at /, /metrics for Prometheus, and /healthz and \
                /readyz for probes. Whoever reaches it may read it. [default: none]"
    )]
    metrics: Option<SocketAddr>,

    #[arg(
        long,
        help = "Show requests on the status page of the metrics address with their URIs, scripts and clients, and \
                all events: whoever reaches it may read what clients send. Without it, the control socket's page \
                does, for root and the user that runs the proxy."
    )]
    status_details: bool,

    #[arg(
        long,
        value_name = "USER[:GROUP]",
        help = "Run as this user, by name or number, once everything is bound; needs root at the start. Its \
                groups are those of the system's database, or GROUP alone. [default: who starts the proxy]"
    )]
    user: Option<RunAs>,
}

impl DaemonArguments {
    /// What concerns several of the daemon's options at once, or those of routes as well.
    pub(super) fn check<'a>(
        &self,
        routes: impl IntoIterator<Item = &'a Route>,
    ) -> Result<(), Conflict> {
        self.check_control(routes)?;
        match (self.status_details, self.metrics) {
            (true, None) => Err(Conflict::new(
                "status-details",
                "--status-details without --metrics: it is about the page of that address, and there is none (remove it, \
                 or give --metrics; the control socket's page shows all of that)"
                    .to_owned(),
            )),
            (true, Some(_)) | (false, _) => Ok(()),
        }
    }

    /// Nobody can ask where a route listens.
    fn check_control<'a>(
        &self,
        routes: impl IntoIterator<Item = &'a Route>,
    ) -> Result<(), Conflict> {
        let Some(path) = &self.control else {
            return Ok(());
        };
        let address = ListenAddress::Unix(UnixAddress::Path(path.clone()));
        let mut routes = routes.into_iter();
        match routes.find(|route| route.listeners.contains(&address)) {
            None => Ok(()),
            Some(route) => Err(Conflict::new(
                "control",
                format!(
                    "--control {}: route {} listens there (choose another path)",
                    path.display(),
                    route.name
                ),
            )),
        }
    }

    /// Takes what was checked; `matches` is what these arguments were made from.
    pub(super) fn serve(
        self,
        matches: &ArgMatches,
        routes: Vec<ServedRoute>,
        source: Source,
    ) -> RunCommand {
        let effective = effective::of(matches, &routes);
        let routes = routes.into_iter().map(|served| served.route).collect();
        let config = Config {
            routes,
            workers: self.workers.and_then(NonZeroUsize::new),
            pin: self.pin,
            busy_poll: self.busy_poll.0,
            engine: self.engine,
            connections_max: self.connections_max,
            user_connections_max: NumberOrOff::part(self.user_connections_max),
            at_limit: AtLimit::Wait,
            drain_timeout: self.drain_timeout.0,
            exit_idle_time: self.exit_idle_time.0,
            control: self.control,
            metrics: self.metrics,
            status_details: self.status_details,
            user: self.user,
        };
        RunCommand {
            config,
            logging: Logging {
                format: self.log_format,
                filter: self.log_level,
            },
            effective,
            source,
            take_over: None,
        }
    }
}

/// A path that a socket can have.
pub(super) fn control(text: &str) -> Result<PathBuf, ValueError> {
    match format!("unix:{text}").parse() {
        Ok(UnixAddress::Path(path)) => Ok(path),
        Ok(UnixAddress::Abstract(_)) | Err(_) => Err(ValueError::SocketPath),
    }
}

fn metrics(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse().map_err(|_| ValueError::SocketAddress)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{REQUIRED, run, run_with, usage_error};

    #[test]
    fn a_drain_may_take_no_time() {
        assert_eq!(
            run_with("--drain-timeout 0s").config.drain_timeout,
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn an_idle_daemon_ends_only_if_it_is_told_to() {
        let idle_time = |options| run_with(options).config.exit_idle_time;
        assert_eq!(idle_time("--workers 1"), None);
        assert_eq!(idle_time("--exit-idle-time off"), None);
        let five_minutes = Some(Duration::from_secs(300));
        assert_eq!(idle_time("--exit-idle-time 5m"), five_minutes);
        let error = usage_error(&format!("{REQUIRED} --exit-idle-time 0s"));
        assert!(error.contains("no time at all"), "{error}");
    }

    #[test]
    fn seeing_is_asked_for() {
        let config = run(REQUIRED).config;
        assert_eq!((config.control, config.metrics), (None, None));
        assert!(!config.status_details);
        let shown = run_with("--metrics [::1]:9145 --status-details");
        assert!(shown.config.status_details);
        let config = run_with("--control /run/c.sock --metrics [::1]:9145").config;
        assert_eq!(config.control, Some("/run/c.sock".into()));
        assert_eq!(config.metrics, Some("[::1]:9145".parse().unwrap()));
    }

    #[test]
    fn what_cannot_be_seen_at_is_refused() {
        for (options, problem) in [
            ("--control run/c.sock", "not a path for a socket"),
            ("--control unix:/run/c.sock", "not a path for a socket"),
            ("--control @control", "not a path for a socket"),
            ("--control /run/", "not a path for a socket"),
            ("--metrics 9145", "not an address"),
            ("--metrics localhost:9145", "not an address"),
            (
                "--status-details --control /run/c.sock",
                "--status-details without --metrics: it is about the page of that address",
            ),
        ] {
            let error = usage_error(&format!("{REQUIRED} {options}"));
            assert!(error.contains(problem), "{options}: {error}");
        }
    }
}
