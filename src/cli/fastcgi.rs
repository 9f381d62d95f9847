//! The options of FastCGI routes.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use super::Conflict;
use super::fpm::FpmArguments;
use super::values::{
    NumberOrOff, Timeout, ValueError, count, number_or_off, positive_timeout, size, timeout_or_off,
};
use crate::config::{
    Fastcgi, LogKind, LogTarget, OnFailure, QueueTime, RequestLog, RequestLogFormat, SlowLog,
    UpstreamReuse,
};
use crate::fastcgi::{
    Duplicates, FPM_PAGES, Guard, GuardError, GuardOptions, PARAMS_BYTES_MAX, PARAMS_MAX, Role,
};

/// What a FastCGI route can be told. All of them are optional, so that one that is given with another
/// protocol can be refused.
#[derive(Args)]
pub(super) struct FastcgiArguments {
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = size(Fastcgi::PARAMS_MAX_CEILING as u64),
        help = "With --protocol fastcgi, take at most this much of parameters (CGI variables) in one \
                request, up to 1MiB; more is answered with 431. [default: 256KiB]"
    )]
    params_max: Option<u64>,

    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        hide_possible_values = true,
        help = "With --protocol fastcgi, use a backend's connection for further requests: 'auto' where \
                the backend proves that it is ready for them, or 'never'. [default: auto]"
    )]
    upstream_reuse: Option<UpstreamReuse>,

    #[arg(
        long,
        value_name = "DURATION",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "With --protocol fastcgi, close a connection whose backend takes longer than this after \
                a request to be ready for the next one. Not where backends have proved that they say \
                when they are: there a connection keeps its place while the script runs on, for up to \
                300s. [default: 50ms]"
    )]
    settle_timeout: Option<Duration>,

    #[arg(
        long,
        value_name = "DURATION|off",
        value_parser = timeout_or_off,
        allow_hyphen_values = true,
        help = "With --protocol fastcgi, close a client that takes longer than this for the parameters of \
                a request, however it sends them; between requests it has --idle-timeout. [default: 60s]"
    )]
    head_timeout: Option<Timeout>,

    #[arg(
        long,
        value_name = "DURATION|off",
        value_parser = timeout_or_off,
        allow_hyphen_values = true,
        help = "With --protocol fastcgi, end a request that takes longer than this, from when it has a connection until \
                its answer is complete: with a 504 if nothing of its answer has come. Its place at the endpoint stays taken while \
                the script may run on. [default: off]"
    )]
    request_timeout: Option<Timeout>,

    #[arg(
        long,
        value_name = "N|off",
        value_parser = number_or_off,
        allow_hyphen_values = true,
        help = "With --protocol fastcgi, end a request whose client sends its body, or takes its answer, with \
                less than N bytes a second. Only time in which the client is waited for counts, and not that of the \
                backend. [default: 500]"
    )]
    min_rate: Option<NumberOrOff>,

    #[arg(
        long,
        value_name = "DURATION",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "With --protocol fastcgi, how far a client may fall behind --min-rate: so long it may pause. \
                [default: 60s]"
    )]
    min_rate_lag: Option<Duration>,

    #[arg(
        long,
        value_name = "DURATION",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "With --protocol fastcgi, close a backend's connection that had no request for this \
                time: it holds a worker of PHP-FPM. [default: 1s]"
    )]
    idle_upstream: Option<Duration>,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=u32::MAX),
        help = "With --protocol fastcgi, send at most this many requests on one connection, so that others \
                who use the same backend have their turn. [default: 500]"
    )]
    requests_per_upstream: Option<u32>,

    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        hide_possible_values = true,
        help = "With --protocol fastcgi, when no backend has begun to answer a request: 'close' the \
                client's connection, of which nginx makes a 502 or goes to its next upstream, or \
                'respond' with a 502. [default: close]"
    )]
    on_failure: Option<OnFailure>,

    #[arg(
        long,
        value_name = "FILE|-",
        value_parser = NonEmptyStringValueParser::new(),
        allow_hyphen_values = true,
        help = "With --protocol fastcgi, append a line for each request to this file, which is opened \
                anew on SIGUSR1; '-' is standard output. [default: none]"
    )]
    access_log: Option<String>,

    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true,
        help = "Write lines of --access-log as 'text' (fields as name=value) or 'json' (an object \
                each). [default: text]"
    )]
    access_log_format: Option<RequestLogFormat>,

    #[arg(
        long,
        value_name = "FILE|-",
        value_parser = NonEmptyStringValueParser::new(),
        allow_hyphen_values = true,
        help = "With --protocol fastcgi, append a line to this file for each request that passes --slow-after, while \
                it still runs, and one when it is over; '-' is standard output. [default: none]"
    )]
    slow_log: Option<String>,

    #[arg(
        long,
        value_name = "DURATION",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "From when on a request has lines in --slow-log: so long after its parameters were complete, waits \
                included. [default: 5s]"
    )]
    slow_after: Option<Duration>,

    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true,
        help = "Write lines of --slow-log as 'text' or 'json', as --access-log-format. [default: text]"
    )]
    slow_log_format: Option<RequestLogFormat>,

    #[arg(
        long,
        value_name = "on|off",
        value_enum,
        hide_possible_values = true,
        help = "With --protocol fastcgi, check the parameters of each request before anything of it is \
                sent: HTTP_PROXY is left out, and so are all copies but the last of a parameter that decides \
                about security; PHP_VALUE, PHP_ADMIN_VALUE, REQUEST_BODY_FILE, PHP-FPM's own pages and a NUL are \
                answered with 403. [default: on]"
    )]
    guard: Option<Switch>,

    #[arg(
        long,
        value_name = "NAME",
        help = "Answer a request that has this parameter with 403; repeatable. [default: none]"
    )]
    deny_param: Vec<String>,

    #[arg(
        long,
        value_name = "NAME",
        help = "Leave this parameter out of what backends get; repeatable. [default: none]"
    )]
    strip_param: Vec<String>,

    #[arg(
        long,
        value_name = "NAME",
        help = "Tell backends in this parameter how many microseconds each request has waited, for their \
                measurements. What clients send under this name is left out. [default: none]"
    )]
    queue_time_param: Option<String>,

    #[arg(
        long,
        value_name = "NAME",
        help = "Tell backends in this parameter when each request came, as 't=' and seconds since the epoch, such as \
                HTTP_X_REQUEST_START for tools that look there. What clients send under this name is left out. \
                [default: none]"
    )]
    request_start_param: Option<String>,

    #[arg(
        long,
        value_name = "NAME=VALUE",
        value_parser = name_and_value,
        help = "Let this parameter pass if it has exactly this value, whatever else is said of it, such \
                as PHP_VALUE=memory_limit=256M; repeatable. [default: none]"
    )]
    allow_param: Vec<(String, String)>,

    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        help = "Let PHP_VALUE and PHP_ADMIN_VALUE pass if they change no other settings of PHP than these, \
                such as memory_limit,open_basedir; none that could load or run code can be allowed; \
                repeatable. [default: none]"
    )]
    allow_php_setting: Vec<String>,

    #[arg(
        long,
        help = "Let REQUEST_BODY_FILE pass, which has PHP read the body from a file: for nginx with \
                client_body_in_file_only. Without this it is answered with 403"
    )]
    allow_body_file: bool,

    #[arg(
        long,
        value_name = "PATH,...",
        value_delimiter = ',',
        help = "Answer requests for PHP-FPM's own pages, its pm.status_path and ping.path, with 403; 'none' \
                lets all pass. [default: /status,/ping,/fpm-status,/fpm-ping,/php-fpm-status,/php-fpm-ping]"
    )]
    fpm_pages: Vec<String>,

    #[arg(
        long,
        value_name = "WHICH",
        value_enum,
        hide_possible_values = true,
        help = "Of several copies of a parameter that decides about security, pass on the 'last', as PHP \
                takes it, or 'reject' the request with 403. [default: last]"
    )]
    duplicates: Option<DuplicatesName>,

    #[arg(
        long,
        value_name = "DIR",
        help = "Let only requests pass whose SCRIPT_FILENAME is a path under this directory, or under one \
                of several; repeatable. Paths are compared as text: a symbolic link under it leads where \
                it leads. [default: none]"
    )]
    script_root: Vec<String>,

    #[arg(
        long,
        help = "Also take what each --script-root leads to for a root, as it is at the start and at each reload: for \
                $realpath_root of nginx, where a directory is a symbolic link to a release"
    )]
    resolve_script_root: bool,

    #[arg(
        long,
        value_name = "SUFFIX",
        help = "Let only requests pass whose SCRIPT_FILENAME has a component that ends so, such as .php; what \
                follows it is PATH_INFO. [default: none]"
    )]
    script_suffix: Option<String>,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=1_000_000_usize),
        help = "Answer a request with more parameters than this with 431. [default: 1024]"
    )]
    max_params: Option<usize>,

    #[arg(
        long,
        value_name = "ROLE,...",
        value_enum,
        value_delimiter = ',',
        hide_possible_values = true,
        help = "Answer requests for other FastCGI roles than these with 403: responder, authorizer and \
                filter. [default: all of them]"
    )]
    roles: Vec<RoleName>,

    #[command(flatten)]
    fpm: FpmArguments,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DuplicatesName {
    Last,
    Reject,
}

impl From<DuplicatesName> for Duplicates {
    fn from(name: DuplicatesName) -> Self {
        match name {
            DuplicatesName::Last => Self::Last,
            DuplicatesName::Reject => Self::Reject,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleName {
    Responder,
    Authorizer,
    Filter,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Responder => Self::Responder,
            RoleName::Authorizer => Self::Authorizer,
            RoleName::Filter => Self::Filter,
        }
    }
}

fn name_and_value(text: &str) -> Result<(String, String), ValueError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(ValueError::NameAndValue),
    }
}

/// A log of requests. Without it, none of the options about it may be given.
fn request_log(
    (kind, option): (LogKind, &'static str),
    (target, format): (&Option<String>, Option<RequestLogFormat>),
    about: &[(&'static str, bool)],
) -> Result<Option<RequestLog>, Conflict> {
    let Some(target) = target else {
        return match about.iter().find(|(_, is_given)| *is_given) {
            None => Ok(None),
            Some(&(given, _)) => Err(Conflict::new(
                given,
                format!(
                    "--{given} without --{option}: no line is written (remove it, or give --{option})"
                ),
            )),
        };
    };
    let Ok(target) = target.parse::<LogTarget>();
    Ok(Some(RequestLog {
        kind,
        target,
        format: format.unwrap_or(RequestLogFormat::Text),
    }))
}

impl FastcgiArguments {
    /// Whether a connection may serve more than one request.
    pub(super) fn keeps_connections(&self) -> bool {
        self.upstream_reuse != Some(UpstreamReuse::Never) && self.requests_per_upstream != Some(1)
    }

    /// For a route of another protocol: none of them may be given.
    pub(super) fn refuse_any(&self) -> Result<(), Conflict> {
        let given = [
            ("params-max", self.params_max.is_some()),
            ("upstream-reuse", self.upstream_reuse.is_some()),
            ("settle-timeout", self.settle_timeout.is_some()),
            ("head-timeout", self.head_timeout.is_some()),
            ("request-timeout", self.request_timeout.is_some()),
            ("min-rate", self.min_rate.is_some()),
            ("min-rate-lag", self.min_rate_lag.is_some()),
            ("idle-upstream", self.idle_upstream.is_some()),
            (
                "requests-per-upstream",
                self.requests_per_upstream.is_some(),
            ),
            ("on-failure", self.on_failure.is_some()),
            ("access-log", self.access_log.is_some()),
            ("access-log-format", self.access_log_format.is_some()),
            ("slow-log", self.slow_log.is_some()),
            ("slow-after", self.slow_after.is_some()),
            ("slow-log-format", self.slow_log_format.is_some()),
            ("guard", self.guard.is_some()),
            self.fpm.given(),
        ];
        let given = given.into_iter().chain(self.about_the_guard());
        match given.into_iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((option, _)) => Err(Conflict::new(
                option,
                format!(
                    "--{option} without --protocol fastcgi: nothing of that is read (remove it, or \
                     give --protocol fastcgi)"
                ),
            )),
        }
    }

    /// What only the guard does, and whether it is asked for.
    fn about_the_guard(&self) -> [(&'static str, bool); 14] {
        [
            ("queue-time-param", self.queue_time_param.is_some()),
            ("request-start-param", self.request_start_param.is_some()),
            ("deny-param", !self.deny_param.is_empty()),
            ("strip-param", !self.strip_param.is_empty()),
            ("allow-param", !self.allow_param.is_empty()),
            ("allow-php-setting", !self.allow_php_setting.is_empty()),
            ("allow-body-file", self.allow_body_file),
            ("fpm-pages", !self.fpm_pages.is_empty()),
            ("duplicates", self.duplicates.is_some()),
            ("script-root", !self.script_root.is_empty()),
            ("resolve-script-root", self.resolve_script_root),
            ("script-suffix", self.script_suffix.is_some()),
            ("max-params", self.max_params.is_some()),
            ("roles", !self.roles.is_empty()),
        ]
    }

    /// For a FastCGI route.
    pub(super) fn validate(self) -> Result<Fastcgi, Conflict> {
        Ok(Fastcgi {
            guard: self.guard()?,
            resolved_script_roots: self.resolved_script_roots()?,
            access_log: self.access_log()?,
            slow_log: self.slow_log()?,
            fpm_status: self.fpm.validate()?,
            // A file has tables for them.
            classes: None,
            queue_time: QueueTime {
                waited: self.queue_time_param.clone(),
                start: self.request_start_param.clone(),
            },
            params_max: self
                .params_max
                .and_then(|size| usize::try_from(size).ok())
                .unwrap_or(PARAMS_BYTES_MAX),
            upstream_reuse: self.upstream_reuse != Some(UpstreamReuse::Never),
            settle_timeout: self
                .settle_timeout
                .unwrap_or(Fastcgi::SETTLE_TIMEOUT_DEFAULT),
            head_timeout: self
                .head_timeout
                .map_or(Some(Fastcgi::HEAD_TIMEOUT_DEFAULT), |timeout| timeout.0),
            request_timeout: self.request_timeout.and_then(|timeout| timeout.0),
            min_rate: self
                .min_rate
                .map_or(Some(Fastcgi::MIN_RATE_DEFAULT), |rate| rate.0),
            min_rate_lag: self.min_rate_lag.unwrap_or(Fastcgi::MIN_RATE_LAG_DEFAULT),
            idle_upstream: self.idle_upstream.unwrap_or(Fastcgi::IDLE_UPSTREAM_DEFAULT),
            requests_per_upstream: self
                .requests_per_upstream
                .unwrap_or(Fastcgi::REQUESTS_PER_UPSTREAM_DEFAULT),
            on_failure: self.on_failure.unwrap_or(OnFailure::Close),
        })
    }

    fn access_log(&self) -> Result<Option<RequestLog>, Conflict> {
        let about = [("access-log-format", self.access_log_format.is_some())];
        let log = (LogKind::Access, "access-log");
        request_log(log, (&self.access_log, self.access_log_format), &about)
    }

    fn slow_log(&self) -> Result<Option<SlowLog>, Conflict> {
        let about = [
            ("slow-after", self.slow_after.is_some()),
            ("slow-log-format", self.slow_log_format.is_some()),
        ];
        let log = (LogKind::Slow, "slow-log");
        let log = request_log(log, (&self.slow_log, self.slow_log_format), &about)?;
        let after = self.slow_after.unwrap_or(Fastcgi::SLOW_AFTER_DEFAULT);
        Ok(log.map(|log| SlowLog { log, after }))
    }

    fn resolved_script_roots(&self) -> Result<Vec<String>, Conflict> {
        match (self.resolve_script_root, self.script_root.as_slice()) {
            (false, _) => Ok(Vec::new()),
            (true, []) => Err(Conflict::new(
                "resolve-script-root",
                "--resolve-script-root without --script-root: there is nothing to resolve (remove it, or \
                 give --script-root)"
                    .to_owned(),
            )),
            (true, roots) => Ok(roots.to_vec()),
        }
    }

    fn guard(&self) -> Result<Option<Guard>, Conflict> {
        if self.guard == Some(Switch::Off) {
            let given = self.about_the_guard().into_iter().find(|(_, given)| *given);
            return match given {
                None => Ok(None),
                Some((option, _)) => Err(Conflict::new(
                    option,
                    format!(
                        "--{option} with --guard off: nothing is checked (remove one of the two)"
                    ),
                )),
            };
        }
        let all = [RoleName::Responder, RoleName::Authorizer, RoleName::Filter];
        let roles = if self.roles.is_empty() {
            &all[..]
        } else {
            &self.roles
        };
        let options = GuardOptions {
            deny: self.deny_param.clone(),
            strip: self.strip_param.clone(),
            own: self.own_params().map(|(_, name)| name.clone()).collect(),
            allow: self.allow_param.clone(),
            allow_settings: self.allow_php_setting.clone(),
            allow_body_file: self.allow_body_file,
            fpm_pages: match self.fpm_pages.as_slice() {
                [] => FPM_PAGES.map(str::to_owned).to_vec(),
                [none] if none == "none" => Vec::new(),
                given => given.to_vec(),
            },
            duplicates: self.duplicates.map(Duplicates::from).unwrap_or_default(),
            script_roots: self.script_root.clone(),
            script_suffix: self.script_suffix.clone(),
            params_max: self.max_params.unwrap_or(PARAMS_MAX),
            roles: roles.iter().copied().map(Role::from).collect(),
        };
        let guard = Guard::new(&options).map_err(|error| {
            let option = match &error {
                GuardError::Name(name) | GuardError::Own { name, .. } => self.option_with(name),
                GuardError::Setting { .. } => "allow-php-setting",
                GuardError::FpmPage(_) => "fpm-pages",
                GuardError::ScriptRoot(_) => "script-root",
                GuardError::ScriptSuffix(_) => "script-suffix",
            };
            Conflict::new(option, format!("--{option}: {error}"))
        })?;
        Ok(Some(guard))
    }

    /// The parameters that the program sets itself, each with its option.
    fn own_params(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let waited = self
            .queue_time_param
            .iter()
            .map(|name| ("queue-time-param", name));
        let start = self
            .request_start_param
            .iter()
            .map(|name| ("request-start-param", name));
        waited.chain(start)
    }

    /// The option that gave this name of a parameter; of several the last that is read.
    fn option_with(&self, name: &String) -> &'static str {
        let own = self.own_params().filter(|(_, own)| *own == name);
        match own.last() {
            Some((option, _)) => option,
            None if self.deny_param.contains(name) => "deny-param",
            None if self.strip_param.contains(name) => "strip-param",
            None => "allow-param",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{REQUIRED, route_with, usage_error};
    use super::*;

    fn access_log(options: &str) -> Option<RequestLog> {
        let route = route_with(&format!("--protocol fastcgi {options}"));
        route.protocol.access_log().cloned()
    }

    #[test]
    fn an_access_log_goes_to_a_file_or_to_standard_output() {
        assert_eq!(access_log("--guard on"), None);
        for (options, target, format) in [
            (
                "--access-log /var/log/a.log",
                LogTarget::File("/var/log/a.log".into()),
                RequestLogFormat::Text,
            ),
            (
                "--access-log - --access-log-format json",
                LogTarget::Stdout,
                RequestLogFormat::Json,
            ),
        ] {
            let kind = LogKind::Access;
            let log = RequestLog {
                kind,
                target,
                format,
            };
            assert_eq!(access_log(options), Some(log));
        }
    }

    #[test]
    fn a_slow_log_has_a_time() {
        let slow_log = |options: &str| {
            let route = route_with(&format!("--protocol fastcgi {options}"));
            route.protocol.slow_log().cloned()
        };
        assert_eq!(slow_log("--access-log -"), None);
        for (options, seconds, format) in [
            ("--slow-log -", 5, RequestLogFormat::Text),
            (
                "--slow-log - --slow-after 20s --slow-log-format json",
                20,
                RequestLogFormat::Json,
            ),
        ] {
            let log = RequestLog {
                kind: LogKind::Slow,
                target: LogTarget::Stdout,
                format,
            };
            let after = Duration::from_secs(seconds);
            assert_eq!(slow_log(options), Some(SlowLog { log, after }));
        }
    }

    #[test]
    fn roots_and_settings_of_the_guard_are_lists() {
        let route = route_with(
            "--protocol fastcgi --script-root /a --script-root /b --resolve-script-root \
             --allow-php-setting memory_limit,open_basedir --allow-php-setting date.timezone \
             --duplicates reject",
        );
        let crate::config::RouteProtocol::Fastcgi(fastcgi) = route.protocol else {
            panic!("it is FastCGI");
        };
        assert_eq!(fastcgi.resolved_script_roots, ["/a", "/b"]);
        let options = GuardOptions {
            allow_settings: ["memory_limit", "open_basedir", "date.timezone"]
                .map(str::to_owned)
                .to_vec(),
            duplicates: Duplicates::Reject,
            script_roots: vec!["/a".to_owned(), "/b".to_owned()],
            ..GuardOptions::default()
        };
        assert_eq!(fastcgi.guard, Some(Guard::new(&options).unwrap()));
        assert_eq!(fastcgi.params_max, 256 * 1024);
    }

    #[test]
    fn what_the_guard_cannot_do_is_refused() {
        for (options, problem) in [
            (
                "--protocol fastcgi --resolve-script-root",
                "--resolve-script-root without --script-root",
            ),
            (
                "--protocol fastcgi --script-root /a --guard off --resolve-script-root",
                "with --guard off",
            ),
            (
                "--protocol fastcgi --guard off --queue-time-param A",
                "--queue-time-param with --guard off",
            ),
            (
                "--protocol fastcgi --queue-time-param SCRIPT_NAME",
                "--queue-time-param: keep the parameter 'SCRIPT_NAME'",
            ),
            (
                "--protocol fastcgi --queue-time-param A --request-start-param A",
                "--request-start-param: keep the parameter 'A'",
            ),
            (
                "--protocol fastcgi --request-start-param a.b",
                "--request-start-param: read a parameter's name 'a.b'",
            ),
            (
                "--protocol fastcgi --guard off --duplicates last",
                "--duplicates with --guard off",
            ),
            (
                "--allow-php-setting memory_limit",
                "--allow-php-setting without --protocol fastcgi",
            ),
            (
                "--protocol fastcgi --allow-php-setting memory_limit,auto_prepend_file",
                "--allow-php-setting: read the PHP setting 'auto_prepend_file': PHP runs what it names",
            ),
            (
                "--protocol fastcgi --duplicates first",
                "unknown (write last, reject)",
            ),
            (
                "--protocol fastcgi --script-root /a --script-root b",
                "--script-root: read the script root 'b'",
            ),
        ] {
            let error = usage_error(&format!("{REQUIRED} {options}"));
            assert!(error.contains(problem), "{options}: {error}");
        }
    }

    #[test]
    fn logs_that_nobody_would_write_are_refused() {
        for (options, problem) in [
            (
                "--access-log a.log",
                "--access-log without --protocol fastcgi",
            ),
            (
                "--access-log-format json",
                "--access-log-format without --protocol fastcgi",
            ),
            (
                "--protocol fastcgi --access-log-format json",
                "--access-log-format without --access-log",
            ),
            ("--slow-after 1s", "--slow-after without --protocol fastcgi"),
            (
                "--protocol fastcgi --slow-after 1s",
                "--slow-after without --slow-log",
            ),
            (
                "--protocol fastcgi --access-log a.log --slow-log-format json",
                "--slow-log-format without --slow-log",
            ),
            (
                "--protocol fastcgi --slow-log a.log --slow-after 0s",
                "--slow-after",
            ),
            (
                "--protocol fastcgi --access-log - --access-log-format xml",
                "unknown (write text, json)",
            ),
        ] {
            let error = usage_error(&format!("{REQUIRED} {options}"));
            assert!(error.contains(problem), "{options}: {error}");
        }
    }
}
