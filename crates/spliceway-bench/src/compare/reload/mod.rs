//! What a reload does to the requests of a constant load: each program goes to and fro between two
//! configurations, and the same load without reloads is measured beside it in every round.
//!
//! A reload costs a program a few milliseconds, so that a whole load's p99 would say nothing of it: those
//! requests are looked at that were under way within a short time of its beginning.

mod clients;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use hdrhistogram::Histogram;
use spliceway_load::load::Target;

use self::clients::{CLIENTS, Client, Fate, Record};
use super::fleet::{Fleet, RESPONDER, Shape, listener};
use super::matrix::Carry;
use super::peers::{Edition, Job, Peer as _, Reloaded, Threads};
use super::progress::Progress;
use super::results::{Latency, Reload, ReloadPath, ReloadRound, ReloadSample};
use super::rounds::{Effort, WARM_UP, latency, one_line};

/// Between two reloads. The slowest program has taken its other configuration over by then.
const INTERVAL: Duration = Duration::from_millis(200);

/// How long the last reload may take: no other one comes after it.
const LAST_RELOAD_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether it is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Requests that are under way within this time of a reload's beginning are those during it: as long as
/// the slowest program takes.
const WINDOW: Duration = Duration::from_millis(50);

/// Of the histograms, as the load generator's: an hour, which no load takes, in nanoseconds; and digits.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// One program, and what it gave so far.
struct Measuring {
    program: Reloaded,
    /// What it goes by, if it has done as it was told.
    edition: Edition,
    rounds: [ReloadPath; 2],
}

/// How many reloads there are in a measurement.
fn reloads(effort: Effort) -> u32 {
    let whole = effort.duration.as_millis() / INTERVAL.as_millis();
    u32::try_from(whole).unwrap_or(u32::MAX).max(1)
}

/// What a round takes, with all programs.
pub(super) fn each(effort: Effort) -> Duration {
    let programs = u32::try_from(Reloaded::ALL.len()).expect("there are six");
    (WARM_UP + INTERVAL * reloads(effort)) * 2 * programs
}

/// Measures those programs that `peers` has; nothing there means all.
pub(super) fn run(
    fleet: &mut Fleet,
    peers: &[String],
    effort: Effort,
    progress: &Progress,
) -> Reload {
    let is_asked = |program: &Reloaded| peers.is_empty() || peers.contains(&program.plain().key());
    let chosen = Reloaded::ALL.into_iter().filter(is_asked);
    let mut all: Vec<Measuring> = chosen
        .map(|program| Measuring::start(program, fleet))
        .collect();
    for round in 0..effort.rounds {
        for one in &mut all {
            let name = one.program.name();
            progress.now(&format!("reloads · round {} · {name}", round + 1));
            one.round(fleet, reloads(effort));
        }
        progress.step(each(effort));
    }
    for one in &all {
        fleet.remove(&one.program.key());
    }
    Reload {
        rate: clients::RATE,
        clients: CLIENTS,
        interval_ms: INTERVAL.as_secs_f64() * 1e3,
        window_ms: WINDOW.as_secs_f64() * 1e3,
        seconds: (INTERVAL * reloads(effort)).as_secs_f64(),
        paths: all.into_iter().flat_map(|one| one.rounds).collect(),
    }
}

impl Measuring {
    fn start(program: Reloaded, fleet: &mut Fleet) -> Self {
        fleet.add(
            &program.key(),
            Box::new(program),
            Shape::plain(Threads::Exactly(1)),
        );
        let path = |carry| ReloadPath {
            path: program.plain().key(),
            name: program.name(),
            carry,
            rounds: Vec::new(),
        };
        Self {
            program,
            edition: Edition::Plain,
            rounds: Carry::ALL.map(path),
        }
    }

    /// Both kinds of connections at one time, without reloads and with them.
    fn round(&mut self, fleet: &mut Fleet, reloads: u32) {
        let without = self.measure(fleet, reloads, Told::Nothing);
        let measured =
            without.and_then(|without| Ok((without, self.measure(fleet, reloads, Told::Reload)?)));
        for (index, path) in self.rounds.iter_mut().enumerate() {
            let round = match &measured {
                Ok((without, with)) => round_of(reloads, without, with, index),
                Err(error) => Err(anyhow!("{error:#}")),
            };
            path.rounds.push(round.map_err(|error| one_line(&error)));
        }
    }

    fn measure(&mut self, fleet: &mut Fleet, reloads: u32, told: Told) -> anyhow::Result<Measured> {
        let Target::Unix(socket) = fleet.target(&self.program.key())? else {
            anyhow::bail!("it does not listen on a Unix socket");
        };
        let start = Instant::now();
        let counting = start + WARM_UP;
        let end = counting + INTERVAL * reloads;
        thread::scope(|scope| {
            let client = |carry, number| Client {
                socket: &socket,
                carry,
                number,
                start,
                end,
            };
            let threads = Carry::ALL.map(|carry| {
                let ask = |number| {
                    let client = client(carry, number);
                    scope.spawn(move || client.run())
                };
                (0..CLIENTS).map(ask).collect::<Vec<_>>()
            });
            let due = (0..=reloads).map(|number| counting + INTERVAL * number);
            let told = match told {
                Told::Reload => self.reload_at(fleet, &due.collect::<Vec<_>>()),
                Told::Nothing => Ok((Vec::new(), 0)),
            };
            let records = threads.map(|threads| {
                let records = threads.into_iter().map(|thread| thread.join());
                let records = records.flat_map(|records| records.expect("it does not panic"));
                records.filter(|record| record.due >= counting).collect()
            });
            let (reloads, done) = told?;
            Ok(Measured {
                records,
                reloads,
                done,
            })
        })
    }

    /// Reloads at each of these times but the last, until which the last reload should take. When they began,
    /// and how many had been done by the next one; the last one may take longer.
    fn reload_at(
        &mut self,
        fleet: &mut Fleet,
        due: &[Instant],
    ) -> anyhow::Result<(Vec<Instant>, u64)> {
        let key = self.program.key();
        let dir = fleet.dir(&key).context("the program has ended")?.to_owned();
        let job = Job {
            dir: &dir,
            listen: &[listener(&dir, 0)],
            backends: &[RESPONDER],
            backend_socket: None,
            threads: Threads::Exactly(1),
        };
        let (mut begun, mut done) = (Vec::new(), 0);
        for pair in due.windows(2) {
            sleep_until(pair[0]);
            self.edition = self.edition.other();
            begun.push(Instant::now());
            let written = self.program.write(&job, self.edition);
            written.context("write the other configuration")?;
            fleet.signal(&key, self.program.signal())?;
            sleep_until(pair[1]);
            // None comes after the last one, so it may take its time on a busy machine.
            if pair[1] == due[due.len() - 1] {
                wait_until_in_use(self.edition, &dir);
            }
            done += u64::from(self.edition.is_in_use(&dir));
        }
        Ok((begun, done))
    }
}

/// Returns when the program goes by this configuration, or has taken too long.
fn wait_until_in_use(edition: Edition, dir: &Path) {
    let until = Instant::now() + LAST_RELOAD_MAX;
    while !edition.is_in_use(dir) && Instant::now() < until {
        thread::sleep(LOOK_INTERVAL);
    }
}

fn sleep_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// What the program is told during a load.
#[derive(Clone, Copy)]
enum Told {
    Nothing,
    Reload,
}

/// What one kind of connection gave in a round.
fn round_of(
    reloads: u32,
    without: &Measured,
    with: &Measured,
    index: usize,
) -> anyhow::Result<ReloadRound> {
    let during = during(&with.records[index], &with.reloads);
    Ok(ReloadRound {
        reloads: reloads.into(),
        done: with.done,
        without: sample(&without.records[index]).context("without reloads")?,
        with: sample(&with.records[index]).context("with reloads")?,
        during: latency_of(during).context("during reloads")?,
    })
}

/// One load, of both kinds of connections.
struct Measured {
    records: [Vec<Record>; 2],
    reloads: Vec<Instant>,
    done: u64,
}

/// Those that were under way while a reload was.
fn during<'a>(records: &'a [Record], reloads: &'a [Instant]) -> impl Iterator<Item = &'a Record> {
    let is_during = |record: &&Record| {
        let meets = |begun: &Instant| record.due < *begun + WINDOW && record.end > *begun;
        reloads.iter().any(meets)
    };
    records.iter().filter(is_during)
}

fn sample(records: &[Record]) -> anyhow::Result<ReloadSample> {
    let count = |fate| records.iter().filter(|record| record.fate == fate).count() as u64;
    Ok(ReloadSample {
        requests: records.len() as u64,
        refused: count(Fate::Refused),
        broken: count(Fate::Broken),
        lost: count(Fate::Lost),
        latency_us: latency_of(records.iter())?,
    })
}

/// Of those that were answered; without any there is none.
fn latency_of<'a>(records: impl Iterator<Item = &'a Record>) -> anyhow::Result<Latency> {
    let bounds = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_NS, DIGITS);
    let mut ns = bounds.expect("the bounds are constant");
    for record in records.filter(|record| record.fate == Fate::Answered) {
        let took = record.end.saturating_duration_since(record.due);
        ns.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
    anyhow::ensure!(!ns.is_empty(), "not one request was answered");
    Ok(latency(&ns))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn record(start: Instant, due_ms: u64, took_ms: u64, fate: Fate) -> Record {
        let due = start + Duration::from_millis(due_ms);
        Record {
            due,
            end: due + Duration::from_millis(took_ms),
            fate,
        }
    }

    #[test]
    fn requests_during_a_reload_are_those_under_way_within_its_time() {
        let start = Instant::now();
        let reload = start + Duration::from_millis(100);
        let records = [
            record(start, 90, 5, Fate::Answered),
            record(start, 90, 20, Fate::Answered),
            record(start, 149, 1, Fate::Answered),
            record(start, 151, 1, Fate::Answered),
        ];
        let found: Vec<Instant> = during(&records, &[reload])
            .map(|record| record.due)
            .collect();
        assert_eq!(found, [records[1].due, records[2].due]);
        assert_eq!(during(&records, &[]).count(), 0);
    }

    #[test]
    fn failures_count_and_have_no_latency() {
        let start = Instant::now();
        let records = [
            record(start, 0, 2, Fate::Answered),
            record(start, 1, 2_000, Fate::Lost),
            record(start, 2, 0, Fate::Refused),
            record(start, 3, 50, Fate::Broken),
        ];
        let sample = sample(&records).unwrap();
        assert_eq!(sample.requests, 4);
        assert_eq!(sample.failed(), 3);
        assert!(
            (1_900.0..2_100.0).contains(&sample.latency_us.max),
            "{sample:?}"
        );
    }

    #[test]
    fn a_measurement_has_whole_intervals_and_a_reload_at_least() {
        let effort = |millis| Effort {
            rounds: 1,
            duration: Duration::from_millis(millis),
            client_threads: NonZeroUsize::MIN,
        };
        assert_eq!(reloads(effort(2_000)), 10);
        assert_eq!(reloads(effort(990)), 4);
        assert_eq!(reloads(effort(1)), 1);
    }
}
