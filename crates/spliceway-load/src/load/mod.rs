//! The load generator.
//!
//! Each thread is an event loop with its share of the clients; they share nothing while they run
//! but counters. A request is encoded once, and only its nonce changes; what is sent is borrowed
//! from tables; what is received is compared with them in one buffer. So the generator takes little
//! of the machine that it shares with what it measures.
//!
//! A wrong answer is never counted as a slow one: the first request that fails, for whatever reason,
//! ends the load with one line that says why, and every request has a deadline.

mod answer;
mod client;
mod plan;
mod problem;
mod request;
mod schedule;
mod worker;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use answer::Measure;
use client::Address;
pub use plan::{
    CONNECTIONS_MAX, Connections, DEADLINE_DEFAULT, PARAMS_BYTES_MAX, Pace, Plan, PlanError,
    RATE_MAX, RESPONSE_BYTES_MAX, Request, Target,
};
pub use problem::{Doing, Failure, Problem, Progress};
use request::Template;
use worker::{Share, Shared, Worker, histogram};

/// What a load was answered.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Requests with the right answer.
    pub requests: u64,
    /// Bytes of their answers' content.
    pub response_bytes: u64,
    /// From the first counted request to the last answer.
    pub elapsed: Duration,
    /// Of each request, in nanoseconds: from the time at which it was to be sent to the end of its
    /// answer (END_REQUEST).
    pub latency_ns: Histogram<u64>,
    /// Connections that were opened, the warm-up's included.
    pub connections: u64,
    /// Connects that found the backlog of a Unix socket full and were tried again; their wait is
    /// part of the latency.
    pub connect_retries: u64,
    /// Kept connections that the server of a script closed between two requests.
    pub reconnects: u64,
    /// Connections that were reset behind a complete answer.
    pub resets: u64,
    /// What an application wrote to its error output beside a right answer, if one did.
    pub warning: Option<String>,
    /// What the client threads have spent on processors since the warm-up.
    pub cpu: Duration,
}

/// What others may see and do while a load runs.
#[derive(Debug, Default)]
pub struct Control {
    /// Set by anyone: send nothing more.
    pub stop: AtomicBool,
    /// Requests that were answered so far, warm-up included; for a progress bar.
    pub answered: AtomicU64,
    /// Set when the warm-up is over.
    pub counting: AtomicBool,
}

/// Runs a load to its end on threads of its own.
///
/// # Errors
/// The first request that failed or was answered wrongly ends the load.
pub fn run(plan: &Plan, control: &Control) -> Result<Measured, Failure> {
    let templates = templates(plan).map_err(|problem| Failure::Plan {
        target: plan.target.clone(),
        problem,
    })?;
    let shared = Shared {
        plan,
        control,
        address: address(&plan.target).map_err(|cause| Failure::Setup {
            operation: "use the target",
            cause,
            remedy: "a socket's path or name has at most 107 bytes",
        })?,
        measure: Measure::new(plan),
        threads: templates.len(),
        nonce_base: RandomState::new().build_hasher().finish(),
        taken: AtomicU64::new(0),
        failed: AtomicBool::new(false),
    };
    control.counting.store(false, Ordering::Relaxed);
    let workers = templates
        .into_iter()
        .enumerate()
        .map(|(thread, template)| {
            let clients = share_of(plan.pace.connections(), thread, shared.threads);
            Worker::new(&shared, template, thread, clients)
        })
        .collect::<io::Result<Vec<_>>>()
        .map_err(|cause| Failure::Setup {
            operation: "make an event loop",
            cause,
            remedy: "raise ulimit -n, or use fewer threads",
        })?;
    let started = Instant::now();
    let shares = run_all(workers, &shared, started)?;
    Ok(sum(&shares, started + plan.warm_up))
}

/// One request for each thread, none of which is without a client.
fn templates(plan: &Plan) -> Result<Vec<Template>, PlanError> {
    plan.check()?;
    let threads = plan.threads.get().min(plan.pace.connections());
    (0..threads).map(|_| Template::new(plan)).collect()
}

fn address(target: &Target) -> io::Result<Address> {
    Ok(match target {
        Target::Tcp(address) => Address::Tcp(*address),
        Target::Unix(path) => Address::Unix(UnixAddr::from_pathname(path)?),
        Target::Abstract(name) => Address::Unix(UnixAddr::from_abstract_name(name)?),
    })
}

/// How many of `all` fall to one thread; the first ones take what is left over.
fn share_of(all: usize, thread: usize, threads: usize) -> usize {
    all / threads + usize::from(thread < all % threads)
}

/// Of several failures that of the first request counts: the others may be its consequences.
fn run_all(
    workers: Vec<Worker<'_>>,
    shared: &Shared<'_>,
    started: Instant,
) -> Result<Vec<Share>, Failure> {
    thread::scope(|scope| {
        let threads: Vec<_> = workers
            .into_iter()
            .map(|worker| {
                let spawned = thread::Builder::new()
                    .name("load".to_owned())
                    .spawn_scoped(scope, move || worker.run(started));
                spawned.map_err(|cause| {
                    shared.failed.store(true, Ordering::Relaxed);
                    Failure::Setup {
                        operation: "start a client thread",
                        cause,
                        remedy: "raise ulimit -u, or use fewer threads",
                    }
                })
            })
            .collect();
        let mut shares = Vec::with_capacity(threads.len());
        let mut failures = Vec::new();
        for thread in threads {
            match thread.and_then(|thread| thread.join().expect("a client thread does not panic")) {
                Ok(share) => shares.push(share),
                Err(failure) => failures.push(failure),
            }
        }
        failures
            .into_iter()
            .min_by_key(Failure::rank)
            .map_or(Ok(shares), Err)
    })
}

fn sum(shares: &[Share], counting: Instant) -> Measured {
    let mut measured = Measured {
        requests: 0,
        response_bytes: 0,
        elapsed: Duration::ZERO,
        latency_ns: histogram(),
        connections: 0,
        connect_retries: 0,
        reconnects: 0,
        resets: 0,
        warning: None,
        cpu: Duration::ZERO,
    };
    for share in shares {
        measured.requests += share.latency_ns.len();
        measured.response_bytes += share.response_bytes;
        let elapsed = share.last_answer.saturating_duration_since(counting);
        measured.elapsed = measured.elapsed.max(elapsed);
        measured
            .latency_ns
            .add(&share.latency_ns)
            .expect("all histograms have the same bounds");
        measured.connections += share.tally.connections;
        measured.connect_retries += share.tally.connect_retries;
        measured.reconnects += share.tally.reconnects;
        measured.resets += share.tally.resets;
        measured.warning = measured.warning.or_else(|| share.warning.clone());
        measured.cpu += share.cpu;
    }
    measured
}

#[cfg(test)]
mod tests;
