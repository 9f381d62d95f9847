//! Runs loads over paths in interleaved rounds: A B C A B C …, so that what changes on the machine
//! in the meantime falls on all of them.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use spliceway_load::load::{self, Control, Measured, Pace, Plan, Target};

use super::accounting::machine_busy;
use super::fleet::{DIRECT_TCP_NEW, Fleet};
use super::matrix::{Carry, Cell};
use super::progress::Progress;
use super::results::{CellResult, Latency, LinkUse, Outcome, PathResult, Sample};

/// Before each measurement, on the same connections where they are kept: buffers grow, caches warm.
pub(super) const WARM_UP: Duration = Duration::from_millis(100);

/// How long a request may take. 256 answers of 16 MB at once are 4 GB: ten seconds for the slowest
/// path seen.
const REQUEST_MAX: Duration = Duration::from_secs(20);

/// How long after the time for sending the load may go on: what takes longer is stuck, and is ended.
const ENDING_MAX: Duration = REQUEST_MAX.saturating_add(Duration::from_secs(5));

/// In an open loop, what was due and not yet sent is sent for this much longer: the path has then
/// fallen behind, and how far it falls depends only on how long it is watched.
const BEHIND_MAX: Duration = Duration::from_millis(300);

/// How often the state of a running load is looked at.
const POLL: Duration = Duration::from_millis(1);

/// What a measurement takes beside warm-up and duration: opening connections, last answers, reading
/// memory. For the estimate of the time left.
const OVERHEAD: Duration = Duration::from_millis(80);

/// How much is measured.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    pub(super) rounds: usize,
    pub(super) duration: Duration,
    pub(super) client_threads: NonZeroUsize,
}

impl Effort {
    /// What one measurement takes.
    pub(super) fn each(&self) -> Duration {
        self.duration + WARM_UP + OVERHEAD
    }
}

/// Runs one cell over `paths` and collects what every round gave.
pub(super) fn run_cell(
    fleet: &mut Fleet,
    paths: &[String],
    cell: &Cell,
    effort: Effort,
    progress: &Progress,
) -> CellResult {
    let mut rows: Vec<Row> = paths.iter().map(|path| Row::new(path)).collect();
    for round in 0..effort.rounds {
        for row in &mut rows {
            progress.now(&format!(
                "{} · round {} · {}",
                cell.id(),
                round + 1,
                row.path
            ));
            let load = load_of(cell, &row.path);
            row.add(measure(fleet, &row.path, |target| {
                closed(&load, target, effort)
            }));
            progress.step(effort.each());
        }
    }
    CellResult {
        cell: *cell,
        paths: rows.into_iter().map(Row::finish).collect(),
    }
}

/// What a path gets of a cell.
fn load_of(cell: &Cell, path: &str) -> Cell {
    let carry = match path {
        DIRECT_TCP_NEW => Carry::New,
        _ => cell.carry,
    };
    Cell { carry, ..*cell }
}

/// The load of a cell.
fn closed(cell: &Cell, target: Target, effort: Effort) -> Plan {
    let concurrency = NonZeroUsize::new(cell.concurrency).unwrap_or(NonZeroUsize::MIN);
    plan(cell, target, Pace::Closed { concurrency }, effort)
}

/// The requests of a cell at a pace.
pub(super) fn plan(cell: &Cell, target: Target, pace: Pace, effort: Effort) -> Plan {
    Plan {
        target,
        pace,
        connections: cell.carry.into(),
        request: cell.exchange.request(),
        warm_up: WARM_UP,
        duration: effort.duration,
        requests_max: None,
        threads: effort.client_threads,
        deadline: REQUEST_MAX,
    }
}

/// One path's results while they come in.
pub(super) struct Row {
    path: String,
    rounds: Vec<Outcome>,
    latency_ns: Option<Histogram<u64>>,
}

impl Row {
    pub(super) fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            rounds: Vec::new(),
            latency_ns: None,
        }
    }

    pub(super) fn add(&mut self, result: anyhow::Result<(Sample, Histogram<u64>)>) {
        self.rounds.push(
            result
                .map_err(|error| one_line(&error))
                .map(|(sample, latency)| {
                    match &mut self.latency_ns {
                        // Both have the load generator's range; a figure beyond it was clamped there.
                        Some(all) => drop(all.add(latency)),
                        none => *none = Some(latency),
                    }
                    sample
                }),
        );
    }

    fn finish(self) -> PathResult {
        PathResult {
            path: self.path,
            rounds: self.rounds,
            distribution: self
                .latency_ns
                .as_ref()
                .map(distribution)
                .unwrap_or_default(),
        }
    }
}

/// How often a load that got no answer at all in its time is tried again, each time for four times as long: on a
/// busy machine a short time can pass before the programs have run.
const LONGER_MAX: u32 = 2;

/// Measures one load over one path. A path that cannot be measured gives the reason.
pub(super) fn measure(
    fleet: &mut Fleet,
    path: &str,
    plan: impl FnOnce(Target) -> Plan,
) -> anyhow::Result<(Sample, Histogram<u64>)> {
    let target = fleet.target(path)?;
    let mut plan = plan(target);
    let bytes_each = bytes_sent(&plan);
    let mut watched = watch(fleet, path, &plan)?;
    for _ in 0..LONGER_MAX {
        if watched.measured.requests > 0 {
            break;
        }
        plan.duration *= 4;
        watched = watch(fleet, path, &plan)?;
    }
    let (measured, window) = (watched.measured, watched.window);
    anyhow::ensure!(
        measured.requests > 0,
        "no answer within {:?}",
        plan.duration
    );
    let sample = Sample {
        requests: measured.requests,
        seconds: measured.elapsed.as_secs_f64(),
        bytes: measured.response_bytes + bytes_each * measured.requests,
        latency_us: latency(&measured.latency_ns),
        counted_requests: window.requests,
        cpu_us: window.cpu.map(micros),
        responder_cpu_us: Some(micros(window.responder)),
        client_cpu_us: micros(measured.cpu),
        busy_us: micros(window.busy),
        window_seconds: window.seconds,
        memory_kb: fleet.memory_kb(path),
        link: window.link,
        void: None,
    };
    Ok((sample, measured.latency_ns))
}

fn bytes_sent(plan: &Plan) -> u64 {
    match &plan.request {
        load::Request::Synthetic {
            params_bytes,
            body_bytes,
            ..
        } => *params_bytes as u64 + body_bytes,
        load::Request::Script { body_bytes, .. } => *body_bytes,
    }
}

struct Watched {
    measured: Measured,
    window: Window,
}

/// What passed between the end of the warm-up and the end of the load.
struct Window {
    requests: f64,
    seconds: f64,
    cpu: Option<Duration>,
    responder: Duration,
    busy: Duration,
    link: Option<LinkUse>,
}

/// Runs the load on a thread of its own and reads the clocks at both ends of what counts. The time
/// is bounded: a load that is late sends nothing more, and a path that does not end even so is killed,
/// which ends the load.
fn watch(fleet: &mut Fleet, path: &str, plan: &Plan) -> anyhow::Result<Watched> {
    let control = Control::default();
    let sending_end = Instant::now() + plan.warm_up + plan.duration;
    thread::scope(|scope| {
        let load = scope.spawn(|| load::run(plan, &control));
        let mut stuck = false;
        let mut wait_while = |fleet: &mut Fleet, goes_on: &dyn Fn() -> bool| {
            while goes_on() {
                let late = sending_end.elapsed();
                if late > BEHIND_MAX {
                    control.stop.store(true, Ordering::Relaxed);
                }
                if late > ENDING_MAX && !stuck {
                    stuck = true;
                    fleet.kill(path);
                }
                thread::sleep(POLL);
            }
        };
        wait_while(fleet, &|| {
            !control.counting.load(Ordering::Acquire) && !load.is_finished()
        });
        let start = Reading::take(fleet, path, &control);
        wait_while(fleet, &|| !load.is_finished());
        let end = Reading::take(fleet, path, &control);
        let result = load.join().expect("the load does not panic");
        anyhow::ensure!(
            !stuck,
            "no end within {ENDING_MAX:?} after the last request was due"
        );
        let measured = result?;
        let (start, end) = (start?, end?);
        Ok(Watched {
            window: Window {
                seconds: (end.at - start.at).as_secs_f64(),
                requests: (end.answered.saturating_sub(start.answered)).max(1) as f64,
                cpu: end
                    .cpu
                    .zip(start.cpu)
                    .map(|(end, start)| end.saturating_sub(start)),
                responder: end.responder.saturating_sub(start.responder),
                busy: end.busy.saturating_sub(start.busy),
                link: end
                    .link
                    .zip(start.link)
                    .map(|(end, start)| end.since(start)),
            },
            measured,
        })
    })
}

/// All clocks at one time.
struct Reading {
    at: Instant,
    answered: u64,
    cpu: Option<Duration>,
    responder: Duration,
    busy: Duration,
    link: Option<LinkUse>,
}

impl Reading {
    fn take(fleet: &Fleet, path: &str, control: &Control) -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            answered: control.answered.load(Ordering::Relaxed),
            cpu: fleet.cpu(path)?,
            responder: fleet.responder_cpu()?,
            busy: machine_busy().context("read /proc/stat")?,
            link: fleet.link_used()?,
        })
    }
}

/// What is told of a load's latencies.
pub(super) fn latency(ns: &Histogram<u64>) -> Latency {
    let us = |quantile| ns.value_at_quantile(quantile) as f64 / 1e3;
    Latency {
        p50: us(0.5),
        p90: us(0.9),
        p99: us(0.99),
        p999: us(0.999),
        max: ns.max() as f64 / 1e3,
    }
}

/// Quantiles for the plot: evenly spaced on an axis on which each further nine takes the same room,
/// as far as there are ten requests beyond.
fn distribution(ns: &Histogram<u64>) -> Vec<(f64, f64)> {
    const STEPS_PER_NINE: u32 = 16;
    const NINES_MAX: u32 = 5;
    const BEYOND_MIN: f64 = 10.0;
    // Not from the fastest of all on, which says little and takes half of the plot's height.
    let shares = (1..=NINES_MAX * STEPS_PER_NINE)
        .map(|step| 1.0 - 10_f64.powf(-f64::from(step) / f64::from(STEPS_PER_NINE)));
    let known = shares.take_while(|share| (1.0 - share) * ns.len() as f64 >= BEYOND_MIN);
    known
        .map(|share| (share, ns.value_at_quantile(share) as f64 / 1e3))
        .collect()
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// An error with its causes, for a field of a table.
pub(super) fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_ends_where_there_is_little_left_to_count() {
        let mut ns = Histogram::<u64>::new(3).unwrap();
        for value in 1..=1000_u64 {
            ns.record(value * 1000).unwrap();
        }
        let curve = distribution(&ns);
        assert!((0.1..0.2).contains(&curve[0].0));
        let (last, us) = *curve.last().unwrap();
        assert!((0.98..=0.99).contains(&last), "{last}");
        assert!((980.0..=991.0).contains(&us), "{us}");
    }
}
