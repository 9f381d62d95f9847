//! What a comparison found, as it is kept in the file of raw data. The report and the plots are made
//! from this alone.

mod overload;
mod php;
mod reload;
mod remote;
mod void;

use serde::{Deserialize, Serialize};

pub(super) use self::overload::{Overload, OverloadPoint, OverloadSample, OverloadWay};
pub(super) use self::php::{PHP_TCP, Php, PhpCell, PhpPath, PhpSample, Pm, SecondClient};
pub(super) use self::reload::{Reload, ReloadPath, ReloadRound, ReloadSample};
pub(super) use self::remote::{LinkUse, Remote, RemoteCell, RemoteWay};
pub(super) use self::void::{Bottleneck, SATURATED, Void};
use super::matrix::{Carry, Cell, Key};
use super::statistics::{Spread, ratio};

/// The key of the path that all ratios refer to.
pub(super) const DIRECT_TCP: &str = "tcp";

/// A whole comparison.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) network: Network,
    pub(super) effort: Effort,
    /// In the order of the tables; those that were not there included.
    pub(super) paths: Vec<PathInfo>,
    /// Older files of raw data have none.
    #[serde(default)]
    pub(super) remote: Option<Remote>,
    /// One thread each.
    pub(super) cells: Vec<CellResult>,
    /// spliceway's FastCGI mode. Older files of raw data have none.
    #[serde(default)]
    pub(super) fastcgi: Option<Fastcgi>,
    /// Each program at its default number of threads.
    pub(super) defaults: Vec<CellResult>,
    pub(super) idle: Vec<Idle>,
    pub(super) sweep: Option<Sweep>,
    /// With larger answers, at fewer rates. Older files of raw data have none.
    #[serde(default)]
    pub(super) page_sweeps: Vec<PageSweep>,
    pub(super) growth: Option<Growth>,
    /// Older files of raw data have none.
    #[serde(default)]
    pub(super) routes: Option<Routes>,
    /// Older files of raw data have none.
    #[serde(default)]
    pub(super) reload: Option<Reload>,
    /// Older files of raw data have none.
    #[serde(default)]
    pub(super) overload: Option<Overload>,
    pub(super) php: Option<Php>,
    /// Sections and cells that were left out, in words.
    pub(super) not_measured: Vec<String>,
}

impl Results {
    /// How many measurements of cells and pages there are, and in how many of them others had much
    /// of the machine.
    pub(super) fn disturbed(&self) -> (usize, usize) {
        /// Interrupts and the kernel's threads have up to a tenth while the loopback is busy.
        const OTHERS_MAX: f64 = 0.15;
        let cores = self.machine.cores;
        let remote = self.remote.iter().flat_map(|remote| &remote.cells);
        let remote = remote.flat_map(|cell| &cell.ways);
        let remote = remote.flat_map(|way| way.rounds.iter().flatten());
        let remote = remote.map(|sample| sample.others_share(cores));
        let pages = self.php.iter().flat_map(|php| &php.cells);
        let pages = pages.flat_map(|cell| &cell.paths);
        let pages = pages.flat_map(|path| path.rounds.iter().flatten());
        let pages = pages.map(|sample| sample.others_share(cores));
        let mode = self.fastcgi.iter().flat_map(|fastcgi| &fastcgi.cells);
        let cells = self.cells.iter().chain(mode);
        let paths = cells.flat_map(|cell| &cell.paths);
        let samples = paths.flat_map(|path| path.rounds.iter().flatten());
        let samples = samples.map(|sample| sample.others_share(cores));
        let shares: Vec<f64> = samples.chain(pages).chain(remote).collect();
        let much = shares.iter().filter(|share| **share > OTHERS_MAX);
        (shares.len(), much.count())
    }

    /// What tables call a path.
    pub(super) fn name(&self, key: &str) -> String {
        name_in(&self.paths, key)
    }

    /// The same, for those of the FastCGI mode as well.
    pub(super) fn name_of_any(&self, key: &str) -> String {
        let mode = self.fastcgi.iter().flat_map(|mode| &mode.paths);
        let mut all = self.paths.iter().chain(mode);
        let found = all.find(|info| info.key == key);
        found.map_or_else(|| key.to_owned(), |info| info.name.clone())
    }

    /// A path in a cell with everything on this machine. What the section of the matrix does not have, that of the
    /// FastCGI mode may have, which has rounds of its own.
    pub(super) fn here(&self, cell: &Cell, path: &str) -> Option<&PathResult> {
        let mode = self.fastcgi.iter().flat_map(|mode| &mode.cells);
        let all = self.cells.iter().chain(mode);
        let mut same = all.filter(|result| result.cell == *cell);
        same.find_map(|result| result.path(path))
    }
}

/// What tables call one of `paths`.
pub(super) fn name_in(paths: &[PathInfo], key: &str) -> String {
    let found = paths.iter().find(|info| info.key == key);
    found.map_or_else(|| key.to_owned(), |info| info.name.clone())
}

/// Where and with what it was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) command: String,
    /// UTC.
    pub(super) date: String,
    pub(super) commit: String,
    pub(super) kernel: String,
    pub(super) processor: String,
    pub(super) cores: usize,
    pub(super) memory_mb: u64,
    pub(super) rust: String,
    /// How the CPU time of a program was counted.
    pub(super) accounting: String,
    pub(super) client_threads: usize,
    pub(super) responder_threads: usize,
}

/// The network that it was measured in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Network {
    /// A namespace of our own, and of which kind; or why not.
    pub(super) isolation: String,
    /// Name and value, as they were during the measurement.
    pub(super) sysctls: Vec<(String, String)>,
    /// Those that could not be set.
    pub(super) refused: Vec<String>,
}

/// How much was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Effort {
    pub(super) quick: bool,
    pub(super) rounds: usize,
    pub(super) seconds: f64,
}

/// A way from the client to the responder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PathInfo {
    pub(super) key: String,
    pub(super) name: String,
    /// Of the program on the way, if there is one.
    pub(super) version: String,
    /// What it does without being told a number of threads.
    pub(super) threads_default: String,
    /// Why it was not measured, and what would help.
    pub(super) missing: Option<String>,
}

/// What one path did in one round: figures, or what went wrong.
pub(super) type Outcome = Result<Sample, String>;

/// One path in one round of one cell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) requests: u64,
    pub(super) seconds: f64,
    /// Of parameters, bodies and answers.
    pub(super) bytes: u64,
    pub(super) latency_us: Latency,
    /// What the CPU figures are divided by: requests between the two readings of the clocks.
    pub(super) counted_requests: f64,
    /// Of the program on the way and all of its processes.
    pub(super) cpu_us: Option<f64>,
    pub(super) responder_cpu_us: Option<f64>,
    pub(super) client_cpu_us: f64,
    /// Of all processors together, whatever ran on them.
    pub(super) busy_us: f64,
    /// Between the two readings of the clocks.
    pub(super) window_seconds: f64,
    /// Resident at the end, shared pages divided among those that share them.
    pub(super) memory_kb: Option<u64>,
    /// What the link to the backend took, where there is one. Older files of raw data have none.
    #[serde(default)]
    pub(super) link: Option<LinkUse>,
    /// What was the bottleneck instead of the path, by [`Results::judge`].
    #[serde(skip)]
    pub(super) void: Option<Bottleneck>,
}

/// Of one load, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

impl Sample {
    pub(super) fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// Requests per second, as the other figures are asked for.
    pub(super) fn rate(&self) -> Option<f64> {
        Some(self.per_second())
    }

    /// The part of the machine's time that none of the three parties had: the kernel's own threads,
    /// interrupts, and whatever else ran.
    pub(super) fn others_share(&self, cores: usize) -> f64 {
        let link_cpu_us = self.link.map(|link| link.cpu_us);
        let parties = [
            self.cpu_us,
            self.responder_cpu_us,
            Some(self.client_cpu_us),
            link_cpu_us,
        ];
        let known: f64 = parties.into_iter().flatten().sum();
        (self.busy_us - known).max(0.0) / 1e6 / self.window_seconds / cores as f64
    }

    pub(super) fn mb_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }

    pub(super) fn cpu_us_per_request(&self) -> Option<f64> {
        self.cpu_us.map(|cpu| cpu / self.counted_requests)
    }

    pub(super) fn cpu_ms_per_gb(&self) -> Option<f64> {
        let gb = self.bytes as f64 / 1e9 * self.counted_requests / self.requests as f64;
        self.cpu_us.map(|cpu| cpu / 1e3 / gb)
    }

    pub(super) fn busy_us_per_request(&self) -> Option<f64> {
        Some(self.busy_us / self.counted_requests)
    }
}

/// A cell with all paths.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CellResult {
    pub(super) cell: Cell,
    pub(super) paths: Vec<PathResult>,
}

/// One path in one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PathResult {
    pub(super) path: String,
    /// In order, the same rounds for every path.
    pub(super) rounds: Vec<Outcome>,
    /// Over all rounds: a share of the requests, and the time in µs that they took at most.
    pub(super) distribution: Vec<(f64, f64)>,
}

impl CellResult {
    pub(super) fn path(&self, key: &str) -> Option<&PathResult> {
        self.paths.iter().find(|path| path.path == key)
    }

    /// The ratio of one path's figure to another's, round by round.
    pub(super) fn ratio(
        &self,
        of: &str,
        to: &str,
        figure: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<Spread> {
        let figures = |key| Some(self.path(key)?.figures(&figure));
        ratio(&figures(of)?, &figures(to)?)
    }
}

impl PathResult {
    /// A figure of each round, if there is one.
    pub(super) fn figures(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Vec<Option<f64>> {
        figures(&self.rounds, figure)
    }

    /// A figure over the rounds.
    pub(super) fn spread(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        spread(&self.rounds, figure)
    }

    /// What went wrong first, if something did.
    pub(super) fn failure(&self) -> Option<&str> {
        failure(&self.rounds)
    }

    /// Which rounds say nothing of the path.
    pub(super) fn void(&self) -> Void {
        Void::of(&self.rounds)
    }
}

/// A figure of each outcome, if it has one that says something of the path.
pub(super) fn figures(
    outcomes: &[Outcome],
    figure: impl Fn(&Sample) -> Option<f64>,
) -> Vec<Option<f64>> {
    void::figures(outcomes, figure)
}

/// A figure over the outcomes that say something of the path.
pub(super) fn spread(
    outcomes: &[Outcome],
    figure: impl Fn(&Sample) -> Option<f64>,
) -> Option<Spread> {
    Spread::of(figures(outcomes, figure).into_iter().flatten())
}

/// A figure over all outcomes, whatever the bottleneck was.
pub(super) fn measured(
    outcomes: &[Outcome],
    figure: impl Fn(&Sample) -> Option<f64>,
) -> Option<Spread> {
    Spread::of(outcomes.iter().flatten().filter_map(figure))
}

/// What went wrong first, if something did.
pub(super) fn failure(outcomes: &[Outcome]) -> Option<&str> {
    outcomes
        .iter()
        .find_map(|outcome| outcome.as_ref().err().map(String::as_str))
}

/// Requests per second of the direct TCP path in a cell, if that was measured.
pub(super) fn closed_capacity(results: &Results, cell: &Cell) -> Option<f64> {
    let found = results.cells.iter().find(|result| result.cell == *cell)?;
    let spread = found.path(DIRECT_TCP)?.spread(Sample::rate)?;
    Some(spread.median)
}

/// The FastCGI mode, one thread each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Fastcgi {
    /// In the order of the tables.
    pub(super) paths: Vec<PathInfo>,
    /// Each with the paths that mean something in it.
    pub(super) cells: Vec<CellResult>,
}

/// What many idle connections cost a path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Idle {
    pub(super) path: String,
    /// How many were asked for.
    pub(super) asked: usize,
    /// How many it held.
    pub(super) held: usize,
    /// Why not more.
    pub(super) refusal: Option<String>,
    pub(super) memory_before_kb: u64,
    pub(super) memory_kb: u64,
    /// CPU while nothing happened, and for how long nothing did.
    pub(super) cpu_us: f64,
    pub(super) seconds: f64,
}

impl Idle {
    /// `None` if it held none.
    pub(super) fn bytes_per_session(&self) -> Option<f64> {
        let growth_kb = self.memory_kb.saturating_sub(self.memory_before_kb);
        (self.held > 0).then(|| growth_kb as f64 * 1024.0 / self.held as f64)
    }
}

/// Latency at fixed rates.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sweep {
    /// Requests per second of the direct TCP path, 16 at a time.
    pub(super) capacity: f64,
    pub(super) paths: Vec<SweepPath>,
}

/// The same with another answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PageSweep {
    pub(super) key: Key,
    pub(super) sweep: Sweep,
}

/// One path in the sweep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SweepPath {
    pub(super) path: String,
    pub(super) points: Vec<SweepPoint>,
}

/// One path at one rate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SweepPoint {
    /// Of the capacity.
    pub(super) share: f64,
    /// Requests per second.
    pub(super) rate: f64,
    pub(super) rounds: Vec<Outcome>,
}

/// Below this part of the rate asked for, a path has not kept up: it needed a twentieth of the time
/// again to answer what was due.
const KEPT_UP: f64 = 0.95;

impl SweepPoint {
    /// Whether as many requests were answered as were sent, in the middle round.
    pub(super) fn kept_up(&self) -> bool {
        let achieved = spread(&self.rounds, Sample::rate);
        failure(&self.rounds).is_none()
            && achieved.is_some_and(|achieved| achieved.median >= KEPT_UP * self.rate)
    }
}

/// How the cost of a request grows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Growth {
    pub(super) series: Vec<GrowthSeries>,
    /// Older files of raw data have none.
    #[serde(default)]
    pub(super) pages: Vec<GrowthPages>,
    pub(super) variants: Vec<Variant>,
}

/// One program with larger and larger answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GrowthPages {
    pub(super) path: String,
    pub(super) carry: Carry,
    pub(super) concurrency: usize,
    pub(super) points: Vec<(Key, Vec<Outcome>)>,
}

/// One program with more and more clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GrowthSeries {
    pub(super) path: String,
    pub(super) carry: Carry,
    pub(super) points: Vec<(usize, Vec<Outcome>)>,
}

/// One program with more of something else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Variant {
    pub(super) path: String,
    pub(super) what: String,
    pub(super) carry: Carry,
    pub(super) concurrency: usize,
    pub(super) rounds: Vec<Outcome>,
}

/// What routes of one daemon do to each other, and what it costs to be asked for metrics.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Routes {
    /// Requests per second to the quiet route.
    pub(super) rate: f64,
    /// Of the limited route.
    pub(super) clients: usize,
    pub(super) places: usize,
    /// How long each of its requests takes.
    pub(super) service_ms: f64,
    pub(super) engines: Vec<RoutesOf>,
}

impl Routes {
    /// From a client's arrival to its answer, if no place is ever free while somebody waits.
    pub(super) fn ideal_ms(&self) -> f64 {
        self.service_ms * self.clients as f64 / self.places as f64
    }
}

/// One engine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct RoutesOf {
    pub(super) path: String,
    /// The quiet route, while the limited one of the same daemon has no clients.
    pub(super) alone: Vec<Outcome>,
    /// While that is saturated.
    pub(super) beside: Vec<Outcome>,
    /// While one of another daemon is.
    pub(super) apart: Vec<Outcome>,
    /// Alone and beside, with answers as large as pages. Older files of raw data have none.
    #[serde(default)]
    pub(super) page_alone: Vec<Outcome>,
    #[serde(default)]
    pub(super) page_beside: Vec<Outcome>,
    /// The longest that a client of the limited route took, beside the quiet one.
    pub(super) longest_ms: Vec<Option<f64>>,
    /// A load on a single route, while nobody asks for metrics, and while somebody does.
    pub(super) unwatched: Vec<Outcome>,
    pub(super) watched: Vec<Outcome>,
}
