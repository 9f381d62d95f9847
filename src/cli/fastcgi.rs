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
        help = "Most bytes of parameters per request [default: 256KiB]",
        long_help = "The most bytes of parameters (CGI variables) in one request, up to 1MiB; a request with \
                     more is answered with 431."
    )]
    params_max: Option<u64>,

    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        hide_possible_values = true,
        help = "Reuse backend connections: auto or never [default: auto]",
        long_help = "Whether a backend connection serves further requests: 'auto' where the backend proves \
                     that it is ready for them, or 'never'."
    )]
    upstream_reuse: Option<UpstreamReuse>,

    #[arg(
        long,
        value_name = "DURATION",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "Longest wait for a backend to be ready again [default: 50ms]",
        long_help = "Close a connection whose backend takes longer than this after a request to be ready for \
                     the next one. Does not apply to backends that have proved that they announce when they are ready, \
                     such as PHP-FPM: there a connection keeps its place while the script runs on, for up to 300s."
    )]
    settle_timeout: Option<Duration>,

    #[arg(
        long,
        value_name = "DURATION|off",
        value_parser = timeout_or_off,
        allow_hyphen_values = true,
        help = "Longest wait for a request's parameters [default: 60s]",
        long_help = "Close a client that takes longer than this to send the parameters of a request, however \
                     it sends them. Between requests, --idle-timeout applies. 'off' waits for ever."
    )]
    head_timeout: Option<Timeout>,

    #[arg(
        long,
        value_name = "DURATION|off",
        value_parser = timeout_or_off,
        allow_hyphen_values = true,
        help = "Longest time for one request [default: off]",
        long_help = "End a request that takes longer than this from getting a connection to the end of its \
                     answer, whichever side is slow; answer 504 if nothing of the answer has come. Its place at the \
                     endpoint stays taken while the script may still be running, so that PHP-FPM is not overrun."
    )]
    request_timeout: Option<Timeout>,

    #[arg(
        long,
        value_name = "N|off",
        value_parser = number_or_off,
        allow_hyphen_values = true,
        help = "Slowest client, in bytes a second [default: 500]",
        long_help = "End a request whose client sends its body, or reads its answer, at less than N bytes a \
                     second: a read timeout and a write timeout in one. Only time spent waiting for the client \
                     counts, not \
                     time spent waiting for the backend. 'off' waits for any client."
    )]
    min_rate: Option<NumberOrOff>,

    #[arg(
        long,
        value_name = "DURATION",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "How far a client may fall behind --min-rate [default: 60s]",
        long_help = "How far a client may fall behind --min-rate: a client may pause for this long."
    )]
    min_rate_lag: Option<Duration>,

    #[arg(
        long,
        value_name = "DURATION",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "Close backend connections idle for this long [default: 1s]",
        long_help = "Close a backend connection that has had no request for this long. An idle connection \
                     occupies a worker of PHP-FPM."
    )]
    idle_upstream: Option<Duration>,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=u32::MAX),
        help = "Most requests on one backend connection [default: 500]",
        long_help = "The most requests on one backend connection; then it is closed, so that other clients of \
                     the same PHP-FPM get their turn."
    )]
    requests_per_upstream: Option<u32>,

    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        hide_possible_values = true,
        help = "No answer: close, or respond with 502 [default: close]",
        long_help = "What the client gets when no backend has begun to answer: 'close' closes its connection, \
                     from which nginx makes a 502 or goes to its next upstream; 'respond' answers 502."
    )]
    on_failure: Option<OnFailure>,

    #[arg(
        long,
        value_name = "FILE|-",
        value_parser = NonEmptyStringValueParser::new(),
        allow_hyphen_values = true,
        help = "Access log, '-' for standard output [default: none]",
        long_help = "With --protocol fastcgi, append a line for each request to this file; '-' is standard \
                     output. The file is reopened on SIGUSR1."
    )]
    access_log: Option<String>,

    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true,
        help = "Format of the access log: text or json [default: text]",
        long_help = "Write the access log as 'text' (name=value fields) or 'json' (one object a line)."
    )]
    access_log_format: Option<RequestLogFormat>,

    #[arg(
        long,
        value_name = "FILE|-",
        value_parser = NonEmptyStringValueParser::new(),
        allow_hyphen_values = true,
        help = "Slow log, '-' for standard output [default: none]",
        long_help = "With --protocol fastcgi, append a line to this file for each request that takes longer \
                     than --slow-after, while it still runs, and another one when it is over; '-' is standard output. \
                     The \
                     file is reopened on SIGUSR1."
    )]
    slow_log: Option<String>,

    #[arg(
        long,
        value_name = "DURATION",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "When a request counts as slow [default: 5s]",
        long_help = "How long after its parameters were complete a request counts as slow for --slow-log; time \
                     in the queue counts."
    )]
    slow_after: Option<Duration>,

    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true,
        help = "Format of the slow log: text or json [default: text]",
        long_help = "Write the slow log as 'text' (name=value fields) or 'json' (one object a line)."
    )]
    slow_log_format: Option<RequestLogFormat>,

    #[arg(
        long,
        value_name = "on|off",
        value_enum,
        hide_possible_values = true,
        help = "Check parameters: on or off [default: on]",
        long_help = "Check the parameters of each request before anything is sent to a backend. HTTP_PROXY is \
                     removed, and so are all but the last copy of a security-relevant parameter; PHP_VALUE, \
                     PHP_ADMIN_VALUE, REQUEST_BODY_FILE, PHP-FPM's own pages and NUL bytes are answered with 403."
    )]
    guard: Option<Switch>,

    #[arg(
        long,
        value_name = "NAME",
        help = "Answer 403 to this parameter; repeatable [default: none]",
        long_help = "Answer requests that have this parameter with 403. Repeatable."
    )]
    deny_param: Vec<String>,

    #[arg(
        long,
        value_name = "NAME",
        help = "Remove this parameter; repeatable [default: none]",
        long_help = "Remove this parameter from what backends get. Repeatable."
    )]
    strip_param: Vec<String>,

    #[arg(
        long,
        value_name = "NAME",
        help = "Tell backends how long requests waited [default: none]",
        long_help = "Tell backends in this parameter how many microseconds each request has waited. Whatever \
                     clients send under this name is removed."
    )]
    queue_time_param: Option<String>,

    #[arg(
        long,
        value_name = "NAME",
        help = "Tell backends when requests came [default: none]",
        long_help = "Tell backends in this parameter when each request came, as 't=' and seconds since the \
                     epoch: HTTP_X_REQUEST_START for monitoring tools that look there. Whatever clients send under this \
                     name is removed."
    )]
    request_start_param: Option<String>,

    #[arg(
        long,
        value_name = "NAME=VALUE",
        value_parser = name_and_value,
        help = "Allow this exact parameter; repeatable [default: none]",
        long_help = "Let this parameter pass if it has exactly this value, whatever the other rules say, for \
                     example PHP_VALUE=memory_limit=256M. Repeatable."
    )]
    allow_param: Vec<(String, String)>,

    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        help = "Allow these PHP settings; repeatable [default: none]",
        long_help = "Let PHP_VALUE and PHP_ADMIN_VALUE pass if they change only these PHP settings, such as \
                     memory_limit,open_basedir. Settings that could load or run code cannot be allowed. Repeatable."
    )]
    allow_php_setting: Vec<String>,

    #[arg(
        long,
        help = "Allow REQUEST_BODY_FILE",
        long_help = "Let REQUEST_BODY_FILE pass, which makes PHP read the request body from a file: for nginx \
                     with client_body_in_file_only. Without this option such requests are answered with 403."
    )]
    allow_body_file: bool,

    #[arg(
        long,
        value_name = "PATH,...",
        value_delimiter = ',',
        help = "403 for PHP-FPM's pages [default: /status, /ping and variants]",
        long_help = "Answer requests for PHP-FPM's own pages (pm.status_path, ping.path) with 403. Without the \
                     option: /status, /ping, and both with /fpm- and /php-fpm- in front. 'none' lets \
                     all pass, for applications that have such paths in front of pools that have no such pages."
    )]
    fpm_pages: Vec<String>,

    #[arg(
        long,
        value_name = "WHICH",
        value_enum,
        hide_possible_values = true,
        help = "Duplicate parameters: last or reject [default: last]",
        long_help = "When a security-relevant parameter comes several times, pass on the 'last' copy, which is \
                     the one that PHP uses, or 'reject' the request with 403."
    )]
    duplicates: Option<DuplicatesName>,

    #[arg(
        long,
        value_name = "DIR",
        help = "Allow scripts in this directory only [default: none]",
        long_help = "Let only requests pass whose SCRIPT_FILENAME is under this directory, or under one of \
                     several. Paths are compared as text: symbolic links are not resolved. Repeatable."
    )]
    script_root: Vec<String>,

    #[arg(
        long,
        help = "Also allow what --script-root links to",
        long_help = "Also accept the directory that each --script-root resolves to, as it is at the start and \
                     at each reload: for $realpath_root of nginx, where the directory is a symbolic link to a release."
    )]
    resolve_script_root: bool,

    #[arg(
        long,
        value_name = "SUFFIX",
        help = "Allow only scripts with this suffix [default: none]",
        long_help = "Let only requests pass whose SCRIPT_FILENAME has a component with this suffix, such as \
                     .php; what follows it is PATH_INFO."
    )]
    script_suffix: Option<String>,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=1_000_000_usize),
        help = "Most parameters per request [default: 1024]",
        long_help = "Answer requests with more parameters than this with 431."
    )]
    max_params: Option<usize>,

    #[arg(
        long,
        value_name = "ROLE,...",
        value_enum,
        value_delimiter = ',',
        hide_possible_values = true,
        help = "Allow only these FastCGI roles [default: all of them]",
        long_help = "Answer requests for FastCGI roles other than these with 403: responder, authorizer, \
                     filter."
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
