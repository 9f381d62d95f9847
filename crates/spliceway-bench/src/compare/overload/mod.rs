//! What is answered in time where more is asked for than can be done: PHP-FPM with a few workers that take a fixed time for
//! each page, an open loop of clients that leave after a while, and what stands between them.
//!
//! A page is a script that sleeps, so that it is known how much can be done, and the processors have next to nothing to
//! do. That is why all ways are measured at one time, each with a pool of its own.

mod clients;
mod servers;
mod ways;

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use spliceway_load::load::Target;

use self::clients::{Fate, Question, Record, arrivals};
use self::ways::Way;
use super::client;
use super::fleet::Fleet;
use super::peers::{find_one, nginx_program};
use super::progress::Progress;
use super::results::{Latency, Overload, OverloadPoint, OverloadSample, OverloadWay};
use super::rounds::{latency, one_line};
use super::server::Server;

/// Of each pool of PHP-FPM.
pub(super) const WORKERS: usize = 8;

/// How long a worker takes for a page.
const SERVICE: Duration = Duration::from_millis(40);

/// How long a client waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connections that may wait in PHP-FPM's backlog: what its manual says is its default (`listen.backlog`).
const BACKLOG: usize = 511;

/// Until the next load begins: [`BACKLOG`] requests whose clients have left take 2.6 s, as PHP-FPM serves them nevertheless.
const REST: Duration = Duration::from_secs(4);

/// Of the histograms, as the load generator's.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// How much is measured.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Parts of what the workers can do.
    pub(super) loads: &'static [f64],
    /// Where a little too much is asked for, a queue takes its time until it is as long as clients have patience: at 1.2
    /// times the capacity, 10 s.
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
    pub(super) rounds: usize,
}

impl Plan {
    pub(super) fn new(quick: bool, rounds: usize) -> Self {
        let (loads, warm_up, duration): (&[f64], _, _) = match quick {
            true => (&[0.8, 2.0], 4, 2),
            false => (&[0.8, 1.0, 1.2, 2.0], 12, 8),
        };
        Self {
            loads,
            warm_up: Duration::from_secs(warm_up),
            duration: Duration::from_secs(duration),
            rounds,
        }
    }

    /// Of one load.
    fn each(&self) -> Duration {
        self.warm_up + self.duration + PATIENCE + REST
    }

    /// About how long all of it takes.
    pub(super) fn planned(&self) -> Duration {
        let measurements = u32::try_from(self.loads.len() * self.rounds).unwrap_or(u32::MAX);
        self.each().saturating_mul(measurements)
    }
}

/// Pages that the workers of a pool can make in a second.
fn capacity() -> f64 {
    WORKERS as f64 / SERVICE.as_secs_f64()
}

/// Measures all ways; of those with spliceway, if `peers` has its FastCGI mode, or nothing.
pub(super) fn run(
    fleet: &mut Fleet,
    peers: &[String],
    plan: Plan,
    progress: &Progress,
) -> anyhow::Result<Overload> {
    let has_mode = peers.is_empty() || peers.iter().any(|peer| peer == "fastcgi");
    let ways = ways::ALL.into_iter();
    let ways: Vec<Way> = ways
        .filter(|way| has_mode || way.peer().is_none())
        .collect();
    let ground = Ground::start(fleet, &ways)?;
    let mut measured: Vec<OverloadWay> = ways.iter().map(|way| empty(*way, plan.loads)).collect();
    for round in 0..plan.rounds {
        for (number, load) in plan.loads.iter().enumerate() {
            progress.now(&format!(
                "overload · round {} · {load} × the capacity",
                round + 1
            ));
            let seed = (round * plan.loads.len() + number) as u64;
            let samples = ground.measure(*load, &plan, seed);
            for (way, sample) in measured.iter_mut().zip(samples) {
                let sample = sample.map_err(|error| one_line(&error));
                way.points[number].rounds.push(sample);
            }
            thread::sleep(REST);
            progress.step(plan.each());
        }
    }
    drop(ground);
    for way in &ways {
        fleet.remove(way.key());
    }
    Ok(Overload {
        workers: WORKERS,
        backlog: BACKLOG,
        service_ms: SERVICE.as_secs_f64() * 1e3,
        patience_seconds: PATIENCE.as_secs_f64(),
        capacity: capacity(),
        warm_up_seconds: plan.warm_up.as_secs_f64(),
        seconds: plan.duration.as_secs_f64(),
        ways: measured,
        ..Overload::default()
    })
}

fn empty(way: Way, loads: &[f64]) -> OverloadWay {
    let point = |&load: &f64| OverloadPoint {
        load,
        rounds: Vec::new(),
    };
    OverloadWay {
        path: way.key().to_owned(),
        name: way.name().to_owned(),
        points: loads.iter().map(point).collect(),
    }
}

/// Everything that runs. Web servers end before what they connect to: fields are dropped in this order.
struct Ground {
    /// Where the clients of each way connect, and what they say.
    doors: Vec<anyhow::Result<(PathBuf, Question)>>,
    _nginx: Server,
    _fpm: Server,
}

impl Ground {
    fn start(fleet: &mut Fleet, ways: &[Way]) -> anyhow::Result<Self> {
        const FPM: [&str; 3] = [
            "/usr/sbin/php-fpm8.2",
            "/usr/sbin/php-fpm8.4",
            "/usr/sbin/php-fpm",
        ];
        let nginx = nginx_program().map_err(|missing| anyhow!(missing))?;
        let fpm = find_one(&FPM, "php8.2-fpm").map_err(|missing| anyhow!(missing))?;
        let fpm = servers::start_fpm(&fpm, ways).context("PHP-FPM")?;
        for way in ways {
            if let Some((peer, shape)) = way.peer() {
                fleet.add(way.key(), Box::new(peer), shape);
            }
        }
        let sockets = ways.iter().map(|way| socket(fleet, fpm.dir(), *way));
        let sockets: Vec<_> = sockets.collect();
        let behind = ways.iter().zip(&sockets);
        let behind: Vec<_> = behind
            .filter(|(way, _)| way.has_nginx())
            .filter_map(|(way, socket)| Some((*way, socket.as_ref().ok()?.clone())))
            .collect();
        let script = servers::script(fpm.dir());
        let nginx = servers::start_nginx(&nginx, &script, &behind).context("nginx")?;
        let script = script.display().to_string();
        let params = [
            ("SCRIPT_FILENAME", script.as_str()),
            ("REQUEST_METHOD", "GET"),
            ("REQUEST_URI", "/"),
        ];
        let request: Arc<[u8]> = client::request(false, &params).into();
        let door = |(way, socket): (&Way, anyhow::Result<PathBuf>)| match way.has_nginx() {
            true => socket.map(|_| (way.nginx_socket(nginx.dir()), Question::Http)),
            false => socket.map(|socket| (socket, Question::Fastcgi(Arc::clone(&request)))),
        };
        Ok(Self {
            doors: ways.iter().zip(sockets).map(door).collect(),
            _nginx: nginx,
            _fpm: fpm,
        })
    }

    /// All ways at one time, with clients that come at the same times.
    fn measure(&self, load: f64, plan: &Plan, seed: u64) -> Vec<anyhow::Result<OverloadSample>> {
        let until = plan.warm_up + plan.duration;
        let due = arrivals(load * capacity(), until, seed);
        let start = Instant::now();
        thread::scope(|scope| {
            let ask = |door: &'_ anyhow::Result<(PathBuf, Question)>| {
                let (socket, question) = match door {
                    Ok(door) => door.clone(),
                    Err(error) => bail!("{error:#}"),
                };
                let due = &due;
                Ok(scope.spawn(move || clients::run(&socket, &question, (start, due), PATIENCE)))
            };
            let asking: Vec<_> = self.doors.iter().map(ask).collect();
            let sampled = asking.into_iter().map(|thread| {
                let records = thread?.join().expect("it does not panic");
                sample(&records.context("let clients come")?, plan)
            });
            sampled.collect()
        })
    }
}

/// Where the web server, or the client, of a way connects.
fn socket(fleet: &mut Fleet, fpm_dir: &std::path::Path, way: Way) -> anyhow::Result<PathBuf> {
    if way.peer().is_none() {
        return Ok(way.pool_socket(fpm_dir));
    }
    match fleet.target(way.key())? {
        Target::Unix(socket) => Ok(socket),
        Target::Tcp(_) | Target::Abstract(_) => bail!("it does not listen on a Unix socket"),
    }
}

/// Of those that came after the warm-up.
fn sample(records: &[Record], plan: &Plan) -> anyhow::Result<OverloadSample> {
    let counted = records.iter().filter(|record| record.due >= plan.warm_up);
    let counted: Vec<&Record> = counted.collect();
    ensure!(!counted.is_empty(), "nobody came");
    let count = |fate| counted.iter().filter(|record| record.fate == fate).count() as u64;
    Ok(OverloadSample {
        requests: counted.len() as u64,
        answered: count(Fate::Answered),
        sent_away: count(Fate::SentAway),
        refused: count(Fate::Refused),
        broken: count(Fate::Broken),
        gave_up: count(Fate::GaveUp),
        seconds: plan.duration.as_secs_f64(),
        answered_us: latency_of(&counted, Fate::Answered),
        sent_away_us: latency_of(&counted, Fate::SentAway),
    })
}

/// `None`: it has become of nobody.
fn latency_of(records: &[&Record], fate: Fate) -> Option<Latency> {
    let bounds = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_NS, DIGITS);
    let mut ns = bounds.expect("the bounds are constant");
    for record in records.iter().filter(|record| record.fate == fate) {
        ns.saturating_record(u64::try_from(record.took.as_nanos()).unwrap_or(u64::MAX));
    }
    (!ns.is_empty()).then(|| latency(&ns))
}

/// Whether something listens there, on a port or in a file.
fn is_up(listening: &str) -> bool {
    match listening.parse::<std::net::SocketAddr>() {
        Ok(address) => TcpStream::connect(address).is_ok(),
        Err(_) => UnixStream::connect(listening).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_the_warm_up_do_not_count_and_each_other_one_counts_once() {
        let plan = Plan::new(true, 1);
        let record = |seconds, fate| Record {
            due: Duration::from_secs(seconds),
            took: Duration::from_millis(100 * seconds),
            fate,
        };
        let records = [
            record(3, Fate::Answered),
            record(4, Fate::Answered),
            record(5, Fate::Answered),
            record(5, Fate::SentAway),
            record(5, Fate::GaveUp),
            record(5, Fate::Refused),
            record(5, Fate::Broken),
        ];
        let sample = sample(&records, &plan).unwrap();
        assert_eq!((sample.requests, sample.answered), (6, 2));
        let others = [
            sample.sent_away,
            sample.refused,
            sample.broken,
            sample.gave_up,
        ];
        assert_eq!(others, [1; 4]);
        assert!((sample.goodput() - 1.0).abs() < 1e-9);
        let took = sample.answered_us.unwrap();
        assert!((390_000.0..510_000.0).contains(&took.p50), "{took:?}");
    }

    #[test]
    fn whoever_is_never_answered_has_no_latency() {
        let plan = Plan::new(true, 1);
        assert!(sample(&[], &plan).is_err());
        let record = Record {
            due: plan.warm_up,
            took: PATIENCE,
            fate: Fate::GaveUp,
        };
        assert!(sample(&[record], &plan).unwrap().answered_us.is_none());
    }
}
