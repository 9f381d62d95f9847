//! `spliceway demo`: what the proxy costs, shown on this machine with no other software.
//!
//! A built-in FastCGI responder listens on a loopback TCP port, the proxy runs as a child process
//! in front of it, and the same load takes three paths in turn: straight to the TCP port, through
//! the proxy's raw mode, and through its FastCGI mode. Every byte of every response is checked, so
//! that the demo is a smoke test as well: a figure is printed only if all responses were right.
//!
//! The proxy is this same program in a process of its own, because that is how it will be used:
//! its threads, limits and exit code are the real ones. The demo leaves neither a child nor a file
//! behind, also when it is interrupted.

mod interrupt;
mod progress;
mod proxy;
mod report;
mod trial;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::config::Engine;
use crate::sys::process;
use interrupt::Interrupt;
use progress::Progress;
use proxy::{Mode, Proxy};
use spliceway_load::load::{Failure, Target};
use spliceway_load::responder::{self, Responder};
use trial::Trial;

/// The most clients at one time: what the proxy's and the responder's backlogs hold on any system,
/// so that no burst of connects has to wait for a lost SYN.
pub const CONCURRENCY_MAX: usize = 128;

/// How often each path is measured. The paths take turns, so that a machine that slows down or
/// speeds up meanwhile does it to all of them; half a second each (at the default duration) leaves
/// the start of the threads without weight.
const ROUNDS: u32 = 6;

/// The paths: direct TCP, raw, FastCGI mode.
const PATHS: usize = 3;

/// What `spliceway demo` was asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long each path is measured, all rounds together.
    pub duration: Duration,
    /// Clients at one time, 1 to [`CONCURRENCY_MAX`].
    pub concurrency: usize,
    /// Which driver the proxy uses.
    pub engine: Engine,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A concurrency that the demo cannot serve.
    #[error("run the demo with --concurrency {0}: out of range (give 1 to {CONCURRENCY_MAX})")]
    Concurrency(usize),
    /// A part of the demo that could not be set up.
    #[error("{operation}: {cause} ({remedy})")]
    Setup {
        /// What was tried, and on what.
        operation: &'static str,
        /// What the system said.
        cause: io::Error,
        /// What may help.
        remedy: &'static str,
    },
    /// The proxy's process ended before it served anything.
    #[error("start the proxy: it ended with {status} before it accepted a connection: {said}")]
    ProxyEnded {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// The proxy's process runs and its socket does not answer.
    #[error("connect to the proxy at {socket}: {cause}, still after {waited:?}; it said: {said}")]
    ProxyDeaf {
        /// Where it should have listened.
        socket: PathBuf,
        /// The last connect's error.
        cause: io::Error,
        /// How long it was given.
        waited: Duration,
        /// The end of what it wrote.
        said: String,
    },
    /// The proxy serves and does not say what it is.
    #[error("ask the proxy which engine it runs: {cause}; it said: {said}")]
    ProxyStatus {
        /// What its control socket gave instead.
        cause: String,
        /// The end of what it wrote.
        said: String,
    },
    /// A request that failed or a response that was wrong.
    #[error("{path}: {failure}; the proxy said: {said}")]
    Load {
        /// The path's name in the table.
        path: &'static str,
        /// Which request, and what was wrong.
        failure: Box<Failure>,
        /// The end of what the proxy wrote.
        said: String,
    },
    /// The proxy's process served everything and then did not end as it should.
    #[error("stop the proxy: it ended with {status} after SIGTERM instead of code 0: {said}")]
    ProxyExit {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// The proxy's process ignored SIGTERM and was killed.
    #[error("stop the proxy: still running {waited:?} after SIGTERM, killed; it said: {said}")]
    ProxyStuck {
        /// How long it was given.
        waited: Duration,
        /// The end of what it wrote.
        said: String,
    },
    /// The user ended the demo (SIGINT or SIGTERM).
    #[error("run the demo: interrupted before the end, so there is no result")]
    Interrupted,
}

/// Measures all paths and prints the comparison on stdout.
///
/// # Errors
///
/// See [`Error`]: nothing is printed on stdout then. Whatever happens, the proxy's process has
/// ended and its directory is gone on return.
pub fn run(options: &Options) -> Result<(), Error> {
    let concurrency = NonZeroUsize::new(options.concurrency)
        .filter(|concurrency| concurrency.get() <= CONCURRENCY_MAX)
        .ok_or(Error::Concurrency(options.concurrency))?;
    let interrupt = Interrupt::watch().map_err(setup("watch for signals", "see ulimit -u"))?;
    let threads = threads();
    let (_responder, address) = start_responder(threads).map_err(setup(
        "start the responder on 127.0.0.1",
        "see ulimit -n and ulimit -u",
    ))?;
    let mut proxy = Proxy::start(address, options.engine)?;
    proxy.wait_until_it_accepts(&interrupt)?;
    let engine = proxy.engine()?;
    let through = |mode| Target::Unix(proxy.socket(mode));
    let mut trials = [
        Trial::new("direct TCP", Target::Tcp(address), threads),
        Trial::new("spliceway, raw", through(Mode::Raw), threads),
        Trial::new(
            "spliceway, FastCGI mode (kept upstreams)",
            through(Mode::Fastcgi),
            threads,
        ),
    ];
    measure(&mut trials, options, concurrency, &interrupt, &proxy)?;
    let warnings = proxy.stop()?;
    print(&report::render(&trials, options, &engine), &warnings)
}

/// Of the load and of the responder each: the proxy is to have the larger part of the cores.
fn threads() -> NonZeroUsize {
    let cores = process::processors().map_or(1, |processors| processors.len());
    NonZeroUsize::new(cores / 4).unwrap_or(NonZeroUsize::MIN)
}

/// The backend, on a free port.
fn start_responder(threads: NonZeroUsize) -> io::Result<(Responder, SocketAddr)> {
    let responder = Responder::start(&responder::Options {
        tcp: Some((Ipv4Addr::LOCALHOST, 0).into()),
        threads: Some(threads),
        ..responder::Options::default()
    })?;
    let address = responder.tcp().expect("it was told to listen on TCP");
    Ok((responder, address))
}

/// Runs the rounds: each path in turn.
fn measure(
    trials: &mut [Trial; PATHS],
    options: &Options,
    concurrency: NonZeroUsize,
    interrupt: &Interrupt,
    proxy: &Proxy,
) -> Result<(), Error> {
    let progress = Progress::start(options, ROUNDS);
    for round in 1..=ROUNDS {
        progress.round(round);
        for trial in &mut *trials {
            progress.path(round, trial.name());
            trial
                .run_round(concurrency, options.duration / ROUNDS, interrupt.control())
                .map_err(|failure| Error::Load {
                    path: trial.name(),
                    failure: Box::new(failure),
                    said: proxy.said(),
                })?;
            interrupt.check()?;
            progress.step();
        }
    }
    Ok(())
}

fn print(report: &str, warnings: &str) -> Result<(), Error> {
    write!(io::stderr().lock(), "{warnings}")
        .and_then(|()| write!(io::stdout().lock(), "{report}"))
        .map_err(setup("print the result", "stdout or stderr was closed"))
}

/// Turns an I/O error into [`Error::Setup`].
fn setup(operation: &'static str, remedy: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Setup {
        operation,
        cause,
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concurrency_out_of_range_is_refused() {
        for concurrency in [0, CONCURRENCY_MAX + 1] {
            let options = Options {
                duration: Duration::from_secs(1),
                concurrency,
                engine: Engine::Auto,
            };
            assert!(matches!(run(&options), Err(Error::Concurrency(_))));
        }
    }
}
