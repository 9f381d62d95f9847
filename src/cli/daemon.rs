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
        help = "Worker threads [default: one for each available core]",
        long_help = "The number of worker threads, from 1 to 1024. The default is one for each core that the \
                     process may use."
    )]
    workers: Option<usize>,

    #[arg(
        long,
        help = "Pin each worker to a core",
        long_help = "Pin each worker thread to a core of its own. Measure before you use it: it helps where \
                     nothing else runs on those cores, and can cost throughput where other programs do."
    )]
    pin: bool,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "off",
        value_parser = busy_poll,
        allow_hyphen_values = true,
        help = "Poll for work before sleeping",
        long_help = "How long a worker polls for work before it sleeps, for example 50us, at most 10ms. This \
                     saves the latency of a wake-up and keeps a core busy for each worker while there is traffic: for \
                     machines with spare cores, together with --pin. 'off' sleeps at once."
    )]
    busy_poll: Timeout,

    #[arg(
        long,
        value_enum,
        default_value_t = Engine::Auto,
        hide_possible_values = true,
        help = "io_uring, epoll or auto",
        long_help = ENGINE_HELP
    )]
    engine: Engine,

    #[arg(
        long,
        value_name = "N",
        default_value = "8192",
        value_parser = count(1..=CONNECTIONS_MAX),
        help = "Most sessions, over all routes",
        long_help = "The most sessions at one time, over all routes and worker threads, from 1 to 1000000. \
                     Further clients wait in the sockets' backlogs."
    )]
    connections_max: u32,

    #[arg(
        long,
        value_name = "N|off",
        value_parser = number_or_off,
        allow_hyphen_values = true,
        help = "Sessions per user [default: 7/8 of --connections-max]",
        long_help = "The most sessions of one user, over all routes; further connections are closed at once. \
                     'off' sets no limit. The default applies once clients of a second user have come."
    )]
    user_connections_max: Option<NumberOrOff>,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "30s",
        value_parser = timeout_or_off,
        allow_hyphen_values = true,
        help = "Time to finish sessions when stopping",
        long_help = "How long a stopping daemon waits for running sessions before it cuts them. 'off' waits \
                     for ever, 0s not at all."
    )]
    drain_timeout: Timeout,

    #[arg(
        long,
        value_name = "DURATION|off",
        default_value = "off",
        value_parser = positive_timeout_or_off,
        allow_hyphen_values = true,
        help = "Exit after this time without sessions",
        long_help = "After this time without a session, counted from the start or from the end of the last \
                     session, drain and exit with code 0: for sockets that the service manager keeps, which starts the \
                     daemon again for the next client."
    )]
    exit_idle_time: Timeout,

    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t = LogFormat::Text,
        hide_possible_values = true,
        help = "Format of the daemon's log: text or json",
        long_help = "Write the daemon's log, on standard error, as lines of 'text' or as 'json' with one \
                     object a line."
    )]
    log_format: LogFormat,

    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        help = "Lowest level to log",
        long_help = "Log events of this level and above: off, error, warn, info, debug or trace. Levels of \
                     single modules follow after commas, as in info,spliceway::resolver=debug. Single sessions are \
                     logged \
                     at debug. Each place in the program may log 100 warnings in 10 s (each place in a library 10); a \
                     line \
                     then says how many were suppressed."
    )]
    log_level: LogFilter,

    #[arg(
        long,
        value_name = "PATH",
        value_parser = control,
        help = "Control socket, for 'spliceway status' and commands [default: none]",
        long_help = "Listen on this Unix socket for 'spliceway status' and for commands such as 'spliceway \
                     reload'. Only root and the user that the daemon runs as may connect."
    )]
    control: Option<PathBuf>,

    #[arg(
        long,
        value_name = "IP:PORT",
        value_parser = metrics,
        help = "HTTP address for metrics and probes [default: none]",
        long_help = "Serve HTTP on this address: the status page at /, metrics for Prometheus at /metrics, and \
                     probes at /healthz and /readyz. Everybody who can reach the address can read them."
    )]
    metrics: Option<SocketAddr>,

    #[arg(
        long,
        help = "Show clients' requests on the metrics address",
        long_help = "With --metrics: show requests on that status page with their URIs, scripts and clients, \
                     and show all events. Everybody who can reach the address can then read what clients send. The \
                     status \
                     page of the control socket shows all of that without this option."
    )]
    status_details: bool,

    #[arg(
        long,
        value_name = "USER[:GROUP]",
        help = "Run as this user [default: the user that starts it]",
        long_help = "Run as this user, a name or a number, once all sockets are bound; needs root at the \
                     start. The groups are those that the system's database lists for the user, or GROUP alone."
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
