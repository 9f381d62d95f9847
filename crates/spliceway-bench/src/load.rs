//! `spliceway-bench load`: requests at a pace, every answer checked, latencies reported.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use spliceway::cli::values::{count, duration, positive_timeout, size};
use spliceway::config::{TIMEOUT_MAX, WORKERS_MAX};
use spliceway_common::sys::process;
use spliceway_load::interrupt;
use spliceway_load::load::{
    self, CONNECTIONS_MAX, Connections, Control, Pace, Plan, RATE_MAX, RESPONSE_BYTES_MAX, Request,
    Target,
};

use crate::address::To;
use crate::hgrm;
use crate::progress::Progress;
use crate::report::Report;

/// Clients of a closed loop if nothing is said.
const CONCURRENCY_DEFAULT: usize = 16;

/// Connections of an open loop if nothing is said.
const CONNECTIONS_DEFAULT: usize = 1024;

/// The most bytes of parameters that can be written; the plan knows the exact bounds.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One object.
    Json,
}

/// What `load` can be told.
#[derive(clap::Args)]
pub(crate) struct LoadArgs {
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "Send requests here: unix:/PATH, unix:@NAME or HOST:PORT. A name is looked up once."
    )]
    to: To,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=CONNECTIONS_MAX),
        conflicts_with = "rate",
        help = "Closed loop: this many clients, each of which sends its next request as soon as it \
                has its answer. [default: 16]"
    )]
    concurrency: Option<usize>,

    #[arg(
        long,
        value_name = "R",
        value_parser = rate,
        help = "Open loop: this many requests each second, whatever becomes of the earlier ones. \
                Latency counts from the time at which a request was due."
    )]
    rate: Option<f64>,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=CONNECTIONS_MAX),
        requires = "rate",
        help = "Open loop: use at most this many connections at one time; requests that find none \
                free wait, and their wait counts. [default: 1024]"
    )]
    connections_max: Option<usize>,

    #[arg(
        long,
        help = "Keep connections and send one request after the other (FCGI_KEEP_CONN), instead of \
                one request on each."
    )]
    keep: bool,

    #[arg(
        long,
        value_name = "DURATION",
        value_parser = positive_timeout,
        help = "Send for this time, such as 500ms or 10s. [default: 10s, or no limit with --count]"
    )]
    duration: Option<Duration>,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1s",
        value_parser = duration,
        help = "Send for this time before anything counts."
    )]
    warm_up: Duration,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=u64::MAX),
        help = "Send at most this many requests after the warm-up."
    )]
    count: Option<u64>,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = positive_timeout,
        help = "Fail if a request takes longer than this."
    )]
    deadline: Duration,

    #[arg(
        long,
        value_name = "SIZE",
        default_value = "600",
        value_parser = size(REQUEST_BYTES_MAX),
        conflicts_with = "script",
        help = "Send this many bytes of parameters with each request."
    )]
    request_bytes: u64,

    #[arg(
        long,
        value_name = "SIZE",
        default_value = "0",
        value_parser = size(RESPONSE_BYTES_MAX),
        help = "Send a body of this many bytes with each request, such as 5MB."
    )]
    body_bytes: u64,

    #[arg(
        long,
        value_name = "SIZE",
        default_value = "4KiB",
        value_parser = size(RESPONSE_BYTES_MAX),
        conflicts_with = "script",
        help = "Ask 'spliceway-bench respond' for answers of this many bytes, such as 4KiB or 16MiB."
    )]
    response_bytes: u64,

    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = duration,
        conflicts_with = "script",
        help = "Ask 'spliceway-bench respond' to wait this long before each answer."
    )]
    delay: Duration,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=WORKERS_MAX),
        help = "Send with this many threads. [default: one for each core that the process may use]"
    )]
    threads: Option<usize>,

    #[arg(
        long,
        value_name = "PATH",
        value_parser = absolute,
        help = "Ask PHP-FPM, or another FastCGI application, for this script (SCRIPT_FILENAME) \
                instead of 'spliceway-bench respond'. The first answer's body is the measure of the \
                others."
    )]
    script: Option<String>,

    #[arg(
        long = "param",
        value_name = "NAME=VALUE",
        value_parser = param,
        requires = "script",
        help = "Send this parameter with each request, instead of what nginx would send by that \
                name. Give the option again for more."
    )]
    params: Vec<(String, String)>,

    #[arg(
        long,
        requires = "script",
        help = "Accept answers whose bodies differ from the first one's."
    )]
    varying: bool,

    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t = Format::Text,
        hide_possible_values = true,
        help = "Write the result to standard output as 'text' or as 'json'."
    )]
    format: Format,

    #[arg(
        long,
        value_name = "FILE",
        help = "Write the distribution of latencies to this file as HdrHistogram's percentiles, in \
                microseconds."
    )]
    hgrm: Option<PathBuf>,
}

impl LoadArgs {
    /// Whether they can be used together.
    pub(crate) fn check(&self) -> Result<(), String> {
        let nowhere = Target::Unix(PathBuf::new());
        let plan = self.plan(nowhere);
        plan.check().map_err(|error| error.to_string())
    }

    fn plan(&self, target: Target) -> Plan {
        let pace = self.pace();
        let duration = match (self.duration, self.count) {
            (Some(duration), _) => duration,
            (None, Some(_)) => TIMEOUT_MAX,
            (None, None) => Duration::from_secs(10),
        };
        Plan {
            target,
            pace,
            connections: if self.keep {
                Connections::Kept
            } else {
                Connections::New
            },
            request: self.request(),
            warm_up: self.warm_up,
            duration,
            requests_max: self.count,
            threads: self.threads(pace),
            deadline: self.deadline,
        }
    }

    fn pace(&self) -> Pace {
        match self.rate {
            None => Pace::Closed {
                concurrency: at_least_one(self.concurrency.unwrap_or(CONCURRENCY_DEFAULT)),
            },
            Some(rate) => Pace::Open {
                rate,
                connections_max: at_least_one(self.connections_max.unwrap_or(CONNECTIONS_DEFAULT)),
            },
        }
    }

    fn request(&self) -> Request {
        match &self.script {
            None => Request::Synthetic {
                params_bytes: usize::try_from(self.request_bytes).unwrap_or(usize::MAX),
                params: Vec::new(),
                body_bytes: self.body_bytes,
                response_bytes: self.response_bytes,
                delay: self.delay,
            },
            Some(script) => Request::Script {
                script: script.clone(),
                params: self.params.clone(),
                body_bytes: self.body_bytes,
                varying: self.varying,
            },
        }
    }

    /// As many as there are cores, if there is a connection for each.
    fn threads(&self, pace: Pace) -> NonZeroUsize {
        let cores = || process::processors().map_or(1, |processors| processors.len());
        let connections = match pace {
            Pace::Closed { concurrency } => concurrency,
            Pace::Open {
                connections_max, ..
            } => connections_max,
        };
        at_least_one(self.threads.unwrap_or_else(cores)).min(connections)
    }
}

/// What the parsers let through is at least 1.
fn at_least_one(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

/// Runs the load and reports it. A signal ends it early, with the result so far.
pub(crate) fn run(args: LoadArgs) -> anyhow::Result<()> {
    process::raise_descriptors_max().context("raise the limit of open files")?;
    let plan = args.plan(args.to.resolve()?);
    let control = Arc::new(Control::default());
    let watched = Arc::clone(&control);
    interrupt::watch(move || watched.stop.store(true, Ordering::Relaxed))
        .context("watch for signals")?;
    let measured = Progress::show(&plan, &control, || load::run(&plan, &control))?;
    if let Some(path) = &args.hgrm {
        write_hgrm(path, &measured).with_context(|| format!("write {}", path.display()))?;
    }
    let report = Report::new(&plan, &measured);
    let text = match args.format {
        Format::Text => report.text(),
        Format::Json => serde_json::to_string_pretty(&report).context("write JSON")? + "\n",
    };
    io::stdout()
        .write_all(text.as_bytes())
        .context("write the result to standard output")
}

fn write_hgrm(path: &Path, measured: &load::Measured) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    hgrm::write(&measured.latency_ns, &mut file)?;
    file.flush()
}

/// Why the value of an option is refused.
#[derive(Debug, thiserror::Error)]
enum ValueError {
    #[error("not a rate (write requests per second above 0, for example 5000)")]
    Rate,
    #[error("not an absolute path (write it from the root, for example /srv/www/index.php)")]
    Path,
    #[error("not a parameter (write NAME=VALUE)")]
    Param,
}

fn rate(text: &str) -> Result<f64, ValueError> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= RATE_MAX => Ok(rate),
        Ok(_) | Err(_) => Err(ValueError::Rate),
    }
}

fn absolute(text: &str) -> Result<String, ValueError> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err(ValueError::Path)
    }
}

fn param(text: &str) -> Result<(String, String), ValueError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err(ValueError::Param),
    }
}
