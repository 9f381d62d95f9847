//! `spliceway-bench compare`: every program that could stand between a FastCGI client and its
//! backend, measured side by side, and a report of it.
//!
//! [`ground`] makes the network, [`link`](mod@link) one with a delay to another one, [`peers`] are the programs, [`fleet`] runs them, [`rounds`] measures
//! one load over one path, and [`results`] is what all of it comes to: the report and the plots are
//! made from that alone, so they can be made again from the file of raw data.

mod accounting;
mod client;
mod fastcgi;
mod fleet;
mod ground;
mod growth;
mod idle;
mod link;
mod machine;
mod matrix;
mod overload;
mod peers;
mod php;
mod plots;
mod progress;
mod reload;
mod remote;
mod report;
mod results;
mod rounds;
mod routes;
#[cfg(test)]
mod sample_results;
mod schedule;
mod server;
mod statistics;
mod sweep;
mod table;

use std::fs;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use spliceway::cli::values::{count, positive_timeout};
use spliceway_common::sys::process::raise_descriptors_max;

use self::fleet::{DIRECT_UNIX, Fleet, Shape};
use self::matrix::{Cell, Key};
use self::peers::{Engine, Peer, Spliceway, Threads};
use self::progress::Progress;
use self::report::Companions;
use self::results::{CellResult, DIRECT_TCP, Effort, Overload, PageSweep, Results, Sweep};
use self::rounds::one_line;
use self::schedule::{Schedule, Section, Wishes};

/// What `compare` can be told.
#[derive(clap::Args)]
pub(crate) struct CompareArgs {
    #[arg(
        long,
        help = "End within seven minutes: the cells of the targets only, fewer rounds, everything \
                shorter."
    )]
    quick: bool,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=ROUNDS_MAX),
        help = "Measure every path this many times in turn. [default: 5, with --quick 3]"
    )]
    rounds: Option<usize>,

    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        help = "Measure each path for this time in each round. [default: 1, with --quick 0.4]"
    )]
    seconds: Option<Duration>,

    #[arg(
        long,
        value_name = "PATTERN",
        value_delimiter = ',',
        help = "Measure only what contains one of these, separated by commas: cells such as \
                new-4k-16, kept-256k-1, new-16m-4 or upload; sections remote (or a part of it, such as \
                remote-10ms-64k), matrix, fastcgi (or one of its \
                cells, such as fastcgi-kept-4k-16), php (or a part of it, such as php-static or \
                php-ondemand-10k), defaults, idle, sweep, growth, routes, reload, overload."
    )]
    only: Vec<String>,

    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help = "Compare only these, separated by commas: unix, socket-proxyd, haproxy, \
                haproxy-splice, nginx, socat, tokio-uring, spliceway, spliceway-epoll, and in the \
                section fastcgi also fastcgi, fastcgi-epoll, fastcgi-unguarded, \
                fastcgi-epoll-unguarded, fastcgi-unix. The section php has unix, socket-proxyd, haproxy, nginx, spliceway, \
                spliceway-epoll, fastcgi, fastcgi-epoll and fastcgi-unix, the sections reload and remote have haproxy, nginx, spliceway, \
                spliceway-epoll, fastcgi and fastcgi-epoll, the section overload has fastcgi. The direct path over TCP is always there: ratios refer to it."
    )]
    peers: Vec<String>,

    #[arg(
        long,
        value_name = "PROGRAM",
        help = "Compare this HAProxy program as well, under its version. May be given several times."
    )]
    haproxy: Vec<PathBuf>,

    #[arg(
        long,
        value_name = "NAME",
        help = "Use this congestion control. [default: cubic, or reno where cubic is not allowed]"
    )]
    congestion_control: Option<String>,

    #[arg(
        long,
        value_name = "FILE",
        default_value = "RESULTS.md",
        help = "Write the report to this file."
    )]
    results: PathBuf,

    #[arg(
        long,
        value_name = "DIR",
        default_value = "docs/results",
        help = "Write the plots and the pages with every cell and target to this directory, and the raw \
                data unless --json says otherwise."
    )]
    output: PathBuf,

    #[arg(
        long,
        value_name = "FILE",
        help = "Write the raw data to this file. [default: data.json beside the plots]"
    )]
    json: Option<PathBuf>,

    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["quick", "rounds", "seconds", "only", "peers", "haproxy"],
        help = "Measure nothing: make the report and the plots from the raw data of an earlier run."
    )]
    render: Option<PathBuf>,
}

impl CompareArgs {
    /// Whether everything that was asked for exists.
    pub(crate) fn check(&self) -> Result<(), String> {
        let unknown = Schedule::unknown(&self.wishes());
        if !unknown.is_empty() {
            let unknown = unknown.join(",");
            return Err(format!(
                "--only {unknown}: neither a section nor in the name of a cell"
            ));
        }
        let peers = peers::all(&self.haproxy).into_iter();
        let peers = peers.chain(peers::fastcgi()).map(|peer| peer.key());
        let direct = [DIRECT_TCP, DIRECT_UNIX].map(str::to_owned);
        let known: Vec<String> = direct.into_iter().chain(peers).collect();
        match self.peers.iter().find(|key| !known.contains(key)) {
            Some(key) => Err(format!(
                "--peers {key}: there is no such path (write {})",
                known.join(", ")
            )),
            None => Ok(()),
        }
    }

    fn wishes(&self) -> Wishes {
        Wishes {
            quick: self.quick,
            rounds: self.rounds,
            duration: self.seconds,
            only: self.only.clone(),
        }
    }
}

/// Beyond, a median gains nothing.
const ROUNDS_MAX: usize = 1000;

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Result<f64, _> = text.parse();
    let whole = || positive_timeout(text).map_err(|error| error.to_string());
    match seconds {
        Ok(seconds) if (0.01..=600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err("write 0.01 to 600 seconds".to_owned()),
        Err(_) => whole(),
    }
}

/// Measures, and writes down what came out.
pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let mut results = match &args.render {
        Some(file) => read(file)?,
        None => measure(args)?,
    };
    results.judge();
    print(&report::summary(&results))?;
    write(args, &results)
}

fn read(file: &Path) -> anyhow::Result<Results> {
    let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("read {} as what this version writes", file.display()))
}

fn print(text: &str) -> anyhow::Result<()> {
    let written = io::stdout().lock().write_all(text.as_bytes());
    written.context("write to standard output")
}

fn write(args: &CompareArgs, results: &Results) -> anyhow::Result<()> {
    let put = |path: &Path, text: &str| {
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    };
    fs::create_dir_all(&args.output)
        .with_context(|| format!("create {}", args.output.display()))?;
    let data = serde_json::to_string(results).context("put the raw data into JSON")?;
    let json = args
        .json
        .clone()
        .unwrap_or_else(|| args.output.join("data.json"));
    put(&json, &format!("{data}\n"))?;
    for (file, svg) in plots::render(results)? {
        put(&args.output.join(file), &svg)?;
    }
    // The report refers to them by the path that was given, as it is where that was given from.
    let companions = Companions::beside(&args.output.display().to_string(), &args.output);
    let cells = report::render_cells(results, &companions);
    put(&args.output.join(report::CELLS), &cells)?;
    let targets = report::render_targets(results);
    put(&args.output.join(report::TARGETS), &targets)?;
    put(&args.results, &report::render(results, &companions))
}

/// The client's threads, and the responder's: half of the cores each, as the work is about equal.
fn threads_each() -> NonZeroUsize {
    NonZeroUsize::new(machine::cores() / 2).unwrap_or(NonZeroUsize::MIN)
}

fn measure(args: &CompareArgs) -> anyhow::Result<Results> {
    let mut peers = peers::all(&args.haproxy);
    let mut left_out = choose(&mut peers, &args.peers);
    let mut fastcgi = peers::fastcgi();
    left_out.extend(choose(&mut fastcgi, &args.peers));
    let threads = threads_each();
    let schedule = Schedule::of(&args.wishes(), threads);
    let machine = machine::describe(threads.get(), threads.get());
    // Before there are threads, and everything is started in the new network.
    let network = ground::prepare(args.congestion_control.as_deref())?;
    raise_descriptors_max().context("raise the limit of open descriptors")?;

    let mut fleet = Fleet::start(threads.get())?;
    for peer in peers {
        fleet.add(&peer.key(), peer, Shape::plain(Threads::Exactly(1)));
    }
    let effort = schedule.effort(Section::Matrix);
    let mut results = Results {
        machine,
        network,
        effort: Effort {
            quick: args.quick,
            rounds: effort.rounds,
            seconds: effort.duration.as_secs_f64(),
        },
        paths: fleet.describe(),
        not_measured: left_out,
        ..Results::default()
    };
    let mut run = Run {
        paths: wanted(fleet.paths(), &args.peers),
        peers: args.peers.clone(),
        responder_threads: threads.get(),
        progress: Progress::start(schedule.planned(fleet.paths().len())),
        schedule,
        fleet,
        fastcgi,
        results: &mut results,
    };
    run.sections();
    Ok(results)
}

/// Leaves only the programs that were asked for, and says which others there are.
fn choose(peers: &mut Vec<Box<dyn Peer>>, asked: &[String]) -> Vec<String> {
    if asked.is_empty() {
        return Vec::new();
    }
    let (chosen, others): (Vec<_>, Vec<_>) = peers
        .drain(..)
        .partition(|peer| asked.contains(&peer.key()));
    *peers = chosen;
    let left_out = others
        .iter()
        .map(|peer| format!("{}: not asked for (--peers)", peer.name()));
    left_out.collect()
}

/// Without the direct Unix path, if it was not asked for.
fn wanted(mut paths: Vec<String>, asked: &[String]) -> Vec<String> {
    paths.retain(|path| {
        path != DIRECT_UNIX || asked.is_empty() || asked.iter().any(|key| key == path)
    });
    paths
}

/// A comparison under way.
struct Run<'a> {
    fleet: Fleet,
    /// What the section about the FastCGI mode adds to the fleet.
    fastcgi: Vec<Box<dyn Peer>>,
    /// Those that are measured.
    paths: Vec<String>,
    /// Those that were asked for; nothing means all.
    peers: Vec<String>,
    /// Of each responder.
    responder_threads: usize,
    schedule: Schedule,
    progress: Progress,
    results: &'a mut Results,
}

impl Run<'_> {
    fn sections(&mut self) {
        for section in Section::ALL {
            if !self.schedule.wants(section) {
                let line = format!("{}: not asked for (--only)", section.title());
                self.results.not_measured.push(line);
                continue;
            }
            self.progress.part(section.title());
            match section {
                Section::Remote => self.remote(),
                Section::Php => self.php(),
                Section::Matrix => self.matrix(),
                Section::Fastcgi => self.fastcgi(),
                Section::Idle => self.idle(),
                Section::Sweep => self.sweep(),
                Section::Growth => self.growth(),
                Section::Routes => self.routes(),
                Section::Reload => self.reload(),
                Section::Overload => self.overload(),
                Section::Defaults => self.defaults(),
            }
        }
    }

    fn matrix(&mut self) {
        let missing = matrix::all().len() - self.schedule.cells.len();
        if missing > 0 {
            let line = format!("{missing} cells of the matrix (--quick, or --only)");
            self.results.not_measured.push(line);
        }
        let cells = self.schedule.cells.clone();
        self.results.cells = self.cells(Section::Matrix, &cells);
    }

    /// Nothing, if `--peers` has none of it.
    fn fastcgi(&mut self) {
        let peers = std::mem::take(&mut self.fastcgi);
        if peers.is_empty() {
            return;
        }
        let effort = self.schedule.effort(Section::Fastcgi);
        let contests = self.schedule.contests.clone();
        let measured = fastcgi::run(&mut self.fleet, peers, &contests, effort, &self.progress);
        self.results.fastcgi = Some(measured);
    }

    fn defaults(&mut self) {
        for path in self.paths.clone() {
            self.fleet.set_threads(&path, Threads::Default);
        }
        self.results.defaults = self.cells(Section::Defaults, &self.schedule.at_defaults());
        for path in self.paths.clone() {
            self.fleet.set_threads(&path, Threads::Exactly(1));
        }
    }

    fn cells(&mut self, section: Section, cells: &[Cell]) -> Vec<CellResult> {
        let effort = self.schedule.effort(section);
        let mut results = Vec::new();
        for cell in cells {
            self.progress.part(&cell.title());
            let result =
                rounds::run_cell(&mut self.fleet, &self.paths, cell, effort, &self.progress);
            results.push(result);
        }
        results
    }

    fn idle(&mut self) {
        let rest = self.schedule.idle_rest();
        for path in self.paths.clone() {
            if [DIRECT_TCP, DIRECT_UNIX].contains(&path.as_str()) {
                continue;
            }
            self.progress.now(&format!("idle connections · {path}"));
            match idle::measure(&mut self.fleet, &path, rest) {
                Ok(idle) => self.results.idle.push(idle),
                Err(error) => self.leave_out(Section::Idle, &path, &error),
            }
            self.progress.step(rest);
            // What held thousands of sessions is not what the other sections measure.
            self.fleet.stop(&path);
        }
    }

    fn sweep(&mut self) {
        let paths: Vec<String> = self.paths.clone();
        let paths = paths
            .into_iter()
            .filter(|path| !sweep::LEFT_OUT.contains(&path.as_str()));
        let paths: Vec<String> = paths.collect();
        self.results.sweep = self.sweep_with_modes(&paths);
        let shares = self.schedule.page_sweep_shares();
        for key in Key::PAGES {
            if !shares.is_empty()
                && let Some(sweep) = self.sweep_of(key, &paths, shares)
            {
                self.results.page_sweeps.push(PageSweep { key, sweep });
            }
        }
    }

    /// Of the smallest answer, with the FastCGI mode beside the others.
    fn sweep_with_modes(&mut self, paths: &[String]) -> Option<Sweep> {
        let mut modes = peers::fastcgi();
        choose(&mut modes, &self.peers);
        modes.retain(|mode| sweep::MODES.contains(&mode.key().as_str()));
        let keys: Vec<String> = modes.iter().map(|mode| mode.key()).collect();
        for mode in modes {
            let shape = Shape::plain(Threads::Exactly(1));
            self.fleet.add(&mode.key(), mode, shape);
        }
        let all = [paths, &keys].concat();
        let swept = self.sweep_of(Key::Small, &all, self.schedule.sweep_shares());
        for key in keys {
            self.fleet.remove(&key);
        }
        swept
    }

    fn sweep_of(&mut self, key: Key, paths: &[String], shares: &[f64]) -> Option<Sweep> {
        let effort = self.schedule.effort(Section::Sweep);
        let cell = sweep::cell(key);
        self.progress.part(&cell.title());
        let known = results::closed_capacity(self.results, &cell);
        let capacity = known.map_or_else(|| sweep::capacity(&mut self.fleet, &cell, effort), Ok);
        match capacity {
            Ok(capacity) => {
                let fleet = &mut self.fleet;
                let progress = &self.progress;
                Some(sweep::run(
                    fleet, paths, &cell, shares, capacity, effort, progress,
                ))
            }
            Err(error) => {
                self.leave_out(Section::Sweep, DIRECT_TCP, &error);
                None
            }
        }
    }

    fn growth(&mut self) {
        let effort = self.schedule.effort(Section::Growth);
        let chosen = growth::PATHS.map(str::to_owned);
        let paths: Vec<String> = chosen
            .into_iter()
            .filter(|path| self.paths.contains(path))
            .collect();
        let concurrencies = self.schedule.growth_concurrencies();
        let growth = growth::run(
            &mut self.fleet,
            &paths,
            concurrencies,
            self.schedule.growth_pages(),
            effort,
            &self.progress,
        );
        self.results.growth = Some(growth);
    }

    /// Of the engines that `--peers` has.
    fn routes(&mut self) {
        let effort = self.schedule.effort(Section::Routes);
        let engines = [Engine::IoUring, Engine::Epoll]
            .into_iter()
            .filter(|&engine| self.paths.contains(&Spliceway::raw(engine).key()));
        let engines: Vec<Engine> = engines.collect();
        match routes::run(&mut self.fleet, &engines, effort, &self.progress) {
            Ok(routes) => self.results.routes = Some(routes),
            Err(error) => self.leave_out(Section::Routes, "all", &error),
        }
    }

    /// Nothing, if `--peers` has none that can be told.
    fn reload(&mut self) {
        let effort = self.schedule.effort(Section::Reload);
        let reload = reload::run(&mut self.fleet, &self.peers, effort, &self.progress);
        self.results.reload = (!reload.paths.is_empty()).then_some(reload);
    }

    fn overload(&mut self) {
        let plan = self.schedule.overload();
        match overload::run(&mut self.fleet, &self.peers, plan, &self.progress) {
            Ok(overload) => {
                let machine = &self.results.machine;
                self.results.overload = Some(Overload {
                    commit: machine.commit.clone(),
                    date: machine.date.clone(),
                    ..overload
                });
            }
            Err(error) => self.leave_out(Section::Overload, "all", &error),
        }
    }

    fn remote(&mut self) {
        let measured = remote::run(
            &self.schedule.remote,
            &self.peers,
            self.responder_threads,
            self.schedule.effort(Section::Remote),
            &self.progress,
        );
        match measured {
            Ok(remote) => self.results.remote = Some(remote),
            Err(error) => self.leave_out(Section::Remote, "all", &error),
        }
    }

    fn php(&mut self) {
        let plan = php::Plan {
            contests: &self.schedule.php,
            peers: &self.peers,
            rounds: self.schedule.effort(Section::Php).rounds,
            seconds: self.schedule.php_seconds(),
        };
        match php::run(&mut self.fleet, &plan, &self.progress) {
            Ok(php) => self.results.php = Some(php),
            Err(error) => self.leave_out(Section::Php, "all", &error),
        }
    }

    fn leave_out(&mut self, section: Section, path: &str, error: &anyhow::Error) {
        let line = format!("{}, {path}: {}", section.title(), one_line(error));
        self.progress.say(&line);
        self.results.not_measured.push(line);
    }
}
