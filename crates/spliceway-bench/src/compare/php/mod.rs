//! End to end: wrk → nginx → a way → PHP-FPM, with pages of several sizes and with each of PHP-FPM's
//! process managers.
//!
//! Each way has a pool of PHP-FPM of its own, because idle connections hold workers: nginx holds all of
//! its pool's for good, which is what the second client shows, and spliceway's FastCGI mode for a
//! second after its last request. Managers are measured one after the other, pages of one manager
//! too, and the ways in rounds.

mod second;
mod servers;
mod ways;
mod wrk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use spliceway_load::load::Target;

use self::servers::{query, start_fpm, start_nginx};
use self::ways::Way;
use super::accounting::machine_busy;
use super::fleet::Fleet;
use super::peers::{find_one, nginx_program, output_of, word_after};
use super::progress::Progress;
use super::results::{Php, PhpCell, PhpPath, PhpSample, Pm, SecondClient};
use super::rounds::one_line;
use super::server::Server;

/// Of each pool of PHP-FPM.
const WORKERS: usize = 8;

/// KB of the pages: within one write of PHP-FPM, in two writes, in one large record, and in several.
const PAGES_KB: [u32; 4] = [2, 10, 50, 200];

/// Of a quick run, where workers come and go.
const FEW_PAGES_KB: [u32; 2] = [2, 10];

/// A dynamic pool grows once a second: so many times the others' time.
pub(super) const DYNAMIC_TIMES: u64 = 2;

/// One page from one kind of pool, and the ways on which it is fetched.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Contest {
    pm: Pm,
    kb: u32,
    ways: &'static [Way],
}

impl Contest {
    /// What `--only` knows it by.
    pub(super) fn id(&self) -> String {
        format!("php-{}-{}k", self.pm.word(), self.kb)
    }

    fn title(&self) -> String {
        format!("nginx and PHP-FPM · {} · {} KB", self.pm.word(), self.kb)
    }

    /// Of one measurement that is to take so many.
    fn seconds(&self, seconds: u64) -> u64 {
        match self.pm {
            Pm::Static | Pm::Ondemand => seconds,
            Pm::Dynamic => seconds * DYNAMIC_TIMES,
        }
    }

    /// What a round takes.
    pub(super) fn each(&self, seconds: u64) -> Duration {
        let count = u64::try_from(self.ways.len()).expect("there are thirteen");
        Duration::from_secs(count * self.seconds(seconds))
    }

    /// In the smallest page of a static pool: it is about workers that are held.
    fn has_second_client(&self) -> bool {
        self.pm == Pm::Static && self.kb == PAGES_KB[0]
    }
}

/// Every one.
pub(super) fn contests(quick: bool) -> Vec<Contest> {
    let of = |pm, pages: &'static [u32], ways: &'static [Way]| {
        let contest = move |&kb: &u32| Contest { pm, kb, ways };
        pages.iter().map(contest)
    };
    if quick {
        let fixed = of(Pm::Static, &PAGES_KB, &ways::FEW);
        let growing = of(Pm::Ondemand, &FEW_PAGES_KB, &ways::FEWEST);
        return fixed.chain(growing).collect();
    }
    let fixed = of(Pm::Static, &PAGES_KB, &ways::ALL);
    let ondemand = of(Pm::Ondemand, &PAGES_KB, &ways::MAIN);
    let dynamic = of(Pm::Dynamic, &PAGES_KB, &ways::MAIN);
    fixed.chain(ondemand).chain(dynamic).collect()
}

/// How much is measured of what.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) contests: &'a [Contest],
    /// What `--peers` says; nothing means all.
    pub(super) peers: &'a [String],
    pub(super) rounds: usize,
    /// wrk takes whole ones.
    pub(super) seconds: u64,
}

impl Plan<'_> {
    fn has(&self, way: Way) -> bool {
        let asked = || self.peers.contains(&way.choice());
        way == Way::Tcp || self.peers.is_empty() || asked()
    }
}

/// Runs all contests, those with the same process manager together.
pub(super) fn run(fleet: &mut Fleet, plan: &Plan<'_>, progress: &Progress) -> anyhow::Result<Php> {
    let programs = Programs::find()?;
    let mut cells = Vec::new();
    for pm in Pm::ALL {
        let of_pm = plan.contests.iter().filter(|contest| contest.pm == pm);
        let contests: Vec<Contest> = of_pm.copied().collect();
        if !contests.is_empty() {
            let measured = with_pm(fleet, &programs, pm, &contests, plan, progress);
            cells.extend(measured.with_context(|| format!("pm = {}", pm.word()))?);
        }
    }
    Ok(Php {
        versions: programs.versions(),
        connections: ways::CONNECTIONS,
        workers: WORKERS,
        rounds: plan.rounds,
        seconds: plan.seconds,
        cells,
    })
}

struct Programs {
    wrk: PathBuf,
    nginx: PathBuf,
    fpm: PathBuf,
}

impl Programs {
    fn find() -> anyhow::Result<Self> {
        const FPM: [&str; 3] = [
            "/usr/sbin/php-fpm8.2",
            "/usr/sbin/php-fpm8.4",
            "/usr/sbin/php-fpm",
        ];
        Ok(Self {
            wrk: find_one(&["/usr/bin/wrk"], "wrk").map_err(|missing| anyhow!(missing))?,
            nginx: nginx_program().map_err(|missing| anyhow!(missing))?,
            fpm: find_one(&FPM, "php8.2-fpm").map_err(|missing| anyhow!(missing))?,
        })
    }

    fn versions(&self) -> Vec<String> {
        let version = |program, name: &str, before| {
            format!("{name} {}", word_after(&output_of(program, "-v"), before))
        };
        vec![
            version(&self.fpm, "PHP", "PHP "),
            version(&self.nginx, "nginx", "nginx/"),
            version(&self.wrk, "wrk", "wrk "),
        ]
    }
}

/// Everything with one process manager, with programs of its own.
fn with_pm(
    fleet: &mut Fleet,
    programs: &Programs,
    pm: Pm,
    contests: &[Contest],
    plan: &Plan<'_>,
    progress: &Progress,
) -> anyhow::Result<Vec<PhpCell>> {
    let is_used = |way: &Way| contests.iter().any(|contest| contest.ways.contains(way));
    let ways = ways::ALL.into_iter().filter(|way| plan.has(*way));
    let ways: Vec<Way> = ways.filter(is_used).collect();
    let fpm = start_fpm(&programs.fpm, pm, &ways).context("PHP-FPM")?;
    for way in &ways {
        if let Some(peer) = way.peer() {
            fleet.add(&way.key(), peer, way.shape(fpm.dir()));
        }
    }
    let targets = ways
        .iter()
        .map(|way| (*way, passed_to(fleet, fpm.dir(), *way)));
    let targets: Vec<_> = targets.collect();
    let nginx = start_nginx(&programs.nginx, fpm.dir(), &targets).context("nginx");
    let measured = nginx.map(|nginx| {
        let mut ground = Ground {
            fleet,
            fpm,
            nginx,
            wrk: &programs.wrk,
            targets: &targets,
        };
        let cells = contests.iter();
        cells
            .map(|contest| ground.measure(contest, plan, progress))
            .collect()
    });
    for way in &ways {
        fleet.remove(&way.key());
    }
    measured
}

/// The address to which nginx connects.
fn passed_to(fleet: &mut Fleet, dir: &Path, way: Way) -> anyhow::Result<String> {
    let target = match way {
        Way::Unix | Way::Tcp | Way::Kept => way.fpm(dir),
        _ => fleet.target(&way.key())?,
    };
    match target {
        Target::Unix(path) => Ok(format!("unix:{}", path.display())),
        Target::Tcp(address) => Ok(address.to_string()),
        Target::Abstract(_) => bail!("nginx does not connect to abstract sockets"),
    }
}

/// What is running.
struct Ground<'a> {
    fleet: &'a mut Fleet,
    fpm: Server,
    nginx: Server,
    wrk: &'a Path,
    /// Where nginx goes, or why there is nothing: a program that is missing or does not start.
    targets: &'a [(Way, anyhow::Result<String>)],
}

impl Ground<'_> {
    fn measure(&mut self, contest: &Contest, plan: &Plan<'_>, progress: &Progress) -> PhpCell {
        progress.part(&contest.title());
        let ways = self.targets.iter();
        let ways: Vec<_> = ways.filter(|(way, _)| contest.ways.contains(way)).collect();
        let path = |(way, _): &&(Way, _)| PhpPath {
            key: way.key(),
            name: way.name(),
            ..PhpPath::default()
        };
        let mut paths: Vec<PhpPath> = ways.iter().map(path).collect();
        let seconds = contest.seconds(plan.seconds);
        for round in 0..plan.rounds {
            for (path, (way, target)) in paths.iter_mut().zip(&ways) {
                progress.now(&format!(
                    "{} · round {} · {}",
                    contest.title(),
                    round + 1,
                    path.name
                ));
                let sample = match target {
                    Ok(_) if contest.has_second_client() => {
                        self.sample_beside_another(*way, contest, seconds, path)
                    }
                    Ok(_) => self.sample(*way, contest.kb, seconds),
                    Err(error) => Err(anyhow!("{error:#}")),
                };
                path.rounds.push(sample.map_err(|error| one_line(&error)));
                progress.step(Duration::from_secs(seconds));
            }
        }
        PhpCell {
            pm: contest.pm,
            kb: contest.kb,
            paths,
        }
    }

    /// While somebody else asks PHP-FPM for something, and what shares connections.
    fn sample_beside_another(
        &mut self,
        way: Way,
        contest: &Contest,
        seconds: u64,
        path: &mut PhpPath,
    ) -> anyhow::Result<PhpSample> {
        let dir = self.fpm.dir().to_owned();
        let mut asked = vec![way.fpm(&dir)];
        if way.shares() {
            asked.push(self.fleet.target(&way.key())?);
        }
        let (sample, counts) = second::beside(&asked, &dir, contest.kb, || {
            self.sample(way, contest.kb, seconds)
        });
        let totals = [&mut path.second_client, &mut path.second_beside];
        for (total, round) in totals.into_iter().zip(counts) {
            let before: SecondClient = total.unwrap_or_default();
            *total = Some(before.and(round));
        }
        sample
    }

    /// One run of wrk.
    fn sample(&self, way: Way, kb: u32, seconds: u64) -> anyhow::Result<PhpSample> {
        let before = self.costs(way)?;
        let mut sample = wrk::run(self.wrk, way.nginx(), &query(kb), seconds)?;
        let after = self.costs(way)?;
        let spent =
            |of: fn(&Costs) -> Duration| of(&after).saturating_sub(of(&before)).as_secs_f64() * 1e6;
        sample.cpu_us = after
            .program
            .map(|_| spent(|costs| costs.program.unwrap_or_default()));
        sample.nginx_cpu_us = spent(|costs| costs.nginx);
        sample.fpm_cpu_us = spent(|costs| costs.fpm);
        sample.busy_us = spent(|costs| costs.busy);
        Ok(sample)
    }

    fn costs(&self, way: Way) -> anyhow::Result<Costs> {
        let of = |server: &Server| server.ledger().cpu();
        Ok(Costs {
            program: self.fleet.cpu(&way.key())?,
            nginx: of(&self.nginx).context("read nginx's CPU time")?,
            fpm: of(&self.fpm).context("read PHP-FPM's CPU time")?,
            busy: machine_busy().context("read /proc/stat")?,
        })
    }
}

/// CPU time so far.
struct Costs {
    /// Of the program in between, if there is one.
    program: Option<Duration>,
    nginx: Duration,
    fpm: Duration,
    /// Of the whole machine.
    busy: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_unique() {
        let mut ids: Vec<String> = contests(false).iter().map(Contest::id).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
        let quick = contests(true);
        assert!(quick.iter().all(|contest| ids.contains(&contest.id())));
    }

    #[test]
    fn a_quick_run_is_about_a_minute() {
        let rounds = 2;
        let each = contests(true)
            .iter()
            .map(|contest| contest.each(1))
            .sum::<Duration>();
        assert!(each * rounds <= Duration::from_secs(65), "{each:?}");
    }
}
