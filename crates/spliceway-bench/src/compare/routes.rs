//! What routes of one daemon do to each other, how long clients wait for the places of a limited one,
//! and what it costs to be asked for metrics.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use spliceway_load::load::{self, Connections, Control, Measured, Pace, Plan, Request, Target};

use super::fleet::{self, Fleet, RESPONDER, Shape};
use super::ground::RESPONDER_PORT;
use super::matrix::{Carry, Cell, Key};
use super::peers::{CONTROL_SOCKET, Engine, Neighbours, PLACES, Peer as _, Spliceway, Threads};
use super::progress::Progress;
use super::results::{Outcome, Routes, RoutesOf, Sample};
use super::rounds::{Effort, measure, one_line, plan};
use super::server::Server;

/// Requests per second to the quiet route: a small part of what a worker can do, so that what is
/// measured is how soon a worker turns to it.
const RATE: f64 = 2_000.0;

/// What the quiet route is asked for as well: a page that PHP-FPM writes in two pieces.
const PAGE: Key = Key::Page10;

/// Of the quiet route, far more than it needs.
const QUIET_CONNECTIONS_MAX: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");

/// Clients of the limited route at one time, for each of its places.
const CLIENTS_EACH: u8 = 25;

const CLIENTS: usize = PLACES * CLIENTS_EACH as usize;

/// How long its backend takes to answer.
const SERVICE: Duration = Duration::from_millis(20);

/// How long a client of the limited route needs if its places are never free while somebody waits.
const IDEAL: Duration = SERVICE.saturating_mul(CLIENTS_EACH as u32);

/// Once the first clients have been through the queue, every further one has the same wait before it.
const SATURATION_WARM_UP: Duration = IDEAL.saturating_add(Duration::from_millis(100));

/// The load on the limited route is ended before that, when the quiet route has been measured.
const SATURATION_MAX: Duration = Duration::from_secs(60);

/// A p99 of fewer requests is that of a handful.
const DURATION_MIN: Duration = Duration::from_millis(500);

/// The limited route has a responder of its own: what eight answers at one time do to a responder is
/// not spliceway's affair.
const LIMITED_RESPONDER: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(Ipv4Addr::LOCALHOST),
    RESPONDER_PORT + 1,
);

/// Measurements with and without somebody who asks for the metrics, in each round: they differ by less
/// than any two of the same kind do.
const WATCHED_PER_ROUND: u32 = 4;

/// Between two requests for the metrics.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(100);

/// How long an answer with metrics may take.
const SCRAPE_MAX: Duration = Duration::from_secs(2);

/// How often the state of the load on the limited route is looked at.
const POLL: Duration = Duration::from_millis(1);

/// What a round takes, with both engines.
pub(super) fn each(effort: Effort) -> Duration {
    let quiet = raised(effort).each();
    let saturated = quiet + SATURATION_WARM_UP + IDEAL;
    (quiet * 2 + saturated * 3 + effort.each() * 2 * WATCHED_PER_ROUND) * 2
}

/// With at least the time that a tail needs.
fn raised(effort: Effort) -> Effort {
    Effort {
        duration: effort.duration.max(DURATION_MIN),
        ..effort
    }
}

/// Measures both parts with each of the engines, in the same rounds.
pub(super) fn run(
    fleet: &mut Fleet,
    engines: &[Engine],
    effort: Effort,
    progress: &Progress,
) -> anyhow::Result<Routes> {
    let _responder = Server::start(
        |_| Ok(fleet::respond(LIMITED_RESPONDER.port(), 1)?),
        |_| TcpStream::connect(LIMITED_RESPONDER).is_ok(),
    )
    .context("the limited route's responder")?;
    let mut all: Vec<Measuring> = engines
        .iter()
        .map(|&engine| Measuring::start(engine, fleet))
        .collect();
    for round in 0..effort.rounds {
        for one in &mut all {
            progress.now(&format!("routes · round {} · {}", round + 1, one.of.path));
            one.round(fleet, effort);
        }
        progress.step(each(effort));
    }
    for one in &all {
        one.end(fleet);
    }
    Ok(Routes {
        rate: RATE,
        clients: CLIENTS,
        places: PLACES,
        service_ms: SERVICE.as_secs_f64() * 1e3,
        engines: all.into_iter().map(|one| one.of).collect(),
    })
}

/// One engine's daemons, and what they gave so far.
struct Measuring {
    of: RoutesOf,
    /// Both routes.
    both: String,
    /// The same, for its limited route alone.
    other: String,
    /// A single route, with a control socket.
    single: String,
}

impl Measuring {
    fn start(engine: Engine, fleet: &mut Fleet) -> Self {
        let path = Spliceway::raw(engine).key();
        let [both, other, single] =
            ["both", "other", "single"].map(|which| format!("routes-{which}-{path}"));
        let two = Shape {
            listeners: 2,
            backends: vec![LIMITED_RESPONDER, RESPONDER],
            ..Shape::plain(Threads::Default)
        };
        for key in [&both, &other] {
            fleet.add(key, Box::new(Neighbours::of(engine)), two.clone());
        }
        let controlled = Spliceway::raw(engine).controlled();
        let plain = Shape::plain(Threads::Exactly(1));
        fleet.add(&single, Box::new(controlled), plain);
        Self {
            of: RoutesOf {
                path,
                ..RoutesOf::default()
            },
            both,
            other,
            single,
        }
    }

    fn end(&self, fleet: &mut Fleet) {
        for key in [&self.both, &self.other, &self.single] {
            fleet.remove(key);
        }
    }

    fn round(&mut self, fleet: &mut Fleet, effort: Effort) {
        let alone = quiet(fleet, &self.both, Key::Small, effort);
        self.of.alone.push(outcome(alone));

        let beside = beside(fleet, &self.both, &self.both, Key::Small, effort);
        let longest = beside.as_ref().ok().map(|(_, longest_ms)| *longest_ms);
        self.of.longest_ms.push(longest);
        self.of
            .beside
            .push(outcome(beside.map(|(sample, _)| sample)));

        let apart = self::beside(fleet, &self.other, &self.both, Key::Small, effort);
        self.of.apart.push(outcome(apart.map(|(sample, _)| sample)));

        let alone = quiet(fleet, &self.both, PAGE, effort);
        self.of.page_alone.push(outcome(alone));
        let beside = self::beside(fleet, &self.both, &self.both, PAGE, effort);
        let beside = beside.map(|(sample, _)| sample);
        self.of.page_beside.push(outcome(beside));

        for _ in 0..WATCHED_PER_ROUND {
            let unwatched = busy(fleet, &self.single, effort);
            self.of.unwatched.push(outcome(unwatched));
            let watched = watched(fleet, &self.single, effort);
            self.of.watched.push(outcome(watched));
        }
    }
}

fn outcome(result: anyhow::Result<Sample>) -> Outcome {
    result.map_err(|error| one_line(&error))
}

/// The load on the quiet route.
fn quiet(fleet: &mut Fleet, path: &str, answer: Key, effort: Effort) -> anyhow::Result<Sample> {
    let cell = Cell::new(Carry::New, answer, cell().concurrency);
    let pace = Pace::Open {
        rate: RATE,
        connections_max: QUIET_CONNECTIONS_MAX,
    };
    let open = |target| plan(&cell, target, pace, raised(effort));
    Ok(measure(fleet, path, open)?.0)
}

/// The same while the limited route of the daemon `saturated` has all of its clients. Also how long the
/// slowest of these took, in milliseconds.
fn beside(
    fleet: &mut Fleet,
    saturated: &str,
    path: &str,
    answer: Key,
    effort: Effort,
) -> anyhow::Result<(Sample, f64)> {
    fleet.target(saturated)?;
    let dir = fleet.dir(saturated).context("the daemon has ended")?;
    let load = saturation(fleet::listener(dir, 0));
    let control = Control::default();
    thread::scope(|scope| {
        let load = scope.spawn(|| load::run(&load, &control));
        while !control.counting.load(Ordering::Acquire) && !load.is_finished() {
            thread::sleep(POLL);
        }
        let sample = quiet(fleet, path, answer, effort);
        control.stop.store(true, Ordering::Relaxed);
        let load: Measured = load.join().expect("the load does not panic")?;
        Ok((sample?, load.latency_ns.max() as f64 / 1e6))
    })
}

/// All clients of the limited route.
fn saturation(socket: PathBuf) -> Plan {
    let Request::Synthetic {
        params_bytes,
        params,
        body_bytes,
        response_bytes,
        ..
    } = cell().exchange.request()
    else {
        unreachable!("cells have synthetic requests")
    };
    Plan {
        target: Target::Unix(socket),
        pace: Pace::Closed {
            concurrency: NonZeroUsize::new(CLIENTS).expect("200"),
        },
        connections: Connections::New,
        request: Request::Synthetic {
            params_bytes,
            params,
            body_bytes,
            response_bytes,
            delay: SERVICE,
        },
        warm_up: SATURATION_WARM_UP,
        duration: SATURATION_MAX,
        requests_max: None,
        threads: NonZeroUsize::MIN,
        deadline: load::DEADLINE_DEFAULT,
    }
}

/// As many requests as the single route can take.
fn busy(fleet: &mut Fleet, path: &str, effort: Effort) -> anyhow::Result<Sample> {
    let concurrency = NonZeroUsize::new(cell().concurrency).expect("16");
    let closed = |target| plan(&cell(), target, Pace::Closed { concurrency }, effort);
    Ok(measure(fleet, path, closed)?.0)
}

/// The same while somebody asks for the metrics.
fn watched(fleet: &mut Fleet, path: &str, effort: Effort) -> anyhow::Result<Sample> {
    fleet.target(path)?;
    let dir = fleet.dir(path).context("the daemon has ended")?;
    let socket = dir.join(CONTROL_SOCKET);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scrapes = scope.spawn(|| scrape_until(&is_over, &socket));
        let sample = busy(fleet, path, effort);
        is_over.store(true, Ordering::Relaxed);
        scrapes.join().expect("scraping does not panic")?;
        sample
    })
}

/// At fixed times, of which none is left out because an answer took long.
fn scrape_until(is_over: &AtomicBool, socket: &Path) -> anyhow::Result<()> {
    let mut due = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        scrape(socket).context("ask for the metrics")?;
        due += SCRAPE_INTERVAL;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn scrape(socket: &Path) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SCRAPE_MAX))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let has_all = answer.contains(" 200 ") && answer.ends_with("# EOF\n");
    anyhow::ensure!(has_all, "no metrics, but: {:.200}", answer);
    Ok(())
}

fn cell() -> Cell {
    Cell::new(Carry::New, Key::Small, 16)
}
