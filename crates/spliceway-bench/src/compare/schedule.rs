//! What is measured, and how much of it: from the command line's wishes to sections and numbers.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::fastcgi::{self, Contest};
use super::growth;
use super::matrix::{self, Cell, Key};
use super::overload;
use super::php;
use super::reload;
use super::remote;
use super::rounds::Effort;
use super::routes;
use super::sweep;

/// The parts of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Section {
    /// Backends behind a link.
    Remote,
    /// nginx and PHP-FPM with real pages.
    Php,
    /// Every cell, one thread each.
    Matrix,
    /// spliceway's FastCGI mode, one thread each.
    Fastcgi,
    /// Some cells, with every program at its default number of threads.
    Defaults,
    Idle,
    Sweep,
    Growth,
    /// What routes do to each other, and being watched.
    Routes,
    /// What reloads do to the requests of a constant load.
    Reload,
    /// What is answered in time where more is asked for than can be done.
    Overload,
}

impl Section {
    pub(super) const ALL: [Self; 11] = [
        Self::Remote,
        Self::Php,
        Self::Matrix,
        Self::Fastcgi,
        Self::Defaults,
        Self::Idle,
        Self::Sweep,
        Self::Growth,
        Self::Routes,
        Self::Reload,
        Self::Overload,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Matrix => "matrix",
            Self::Fastcgi => "fastcgi",
            Self::Defaults => "defaults",
            Self::Idle => "idle",
            Self::Sweep => "sweep",
            Self::Growth => "growth",
            Self::Routes => "routes",
            Self::Reload => "reload",
            Self::Overload => "overload",
            Self::Remote => "remote",
            Self::Php => "php",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Matrix => "one thread each",
            Self::Fastcgi => "the FastCGI mode",
            Self::Defaults => "each at its default number of threads",
            Self::Idle => "idle connections",
            Self::Sweep => "latency under load",
            Self::Growth => "growth",
            Self::Routes => "several routes, and metrics",
            Self::Reload => "reloads under load",
            Self::Overload => "overload",
            Self::Remote => "backends behind a link",
            Self::Php => "nginx and PHP-FPM end to end",
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    pub(super) quick: bool,
    pub(super) rounds: Option<usize>,
    pub(super) duration: Option<Duration>,
    pub(super) only: Vec<String>,
}

/// What will be done.
#[derive(Clone)]
pub(super) struct Schedule {
    quick: bool,
    /// If it was asked for.
    duration: Option<Duration>,
    only: Vec<String>,
    effort: Effort,
    pub(super) cells: Vec<Cell>,
    pub(super) contests: Vec<Contest>,
    pub(super) php: Vec<php::Contest>,
    pub(super) remote: Vec<remote::Contest>,
}

impl Schedule {
    pub(super) fn of(wishes: &Wishes, client_threads: NonZeroUsize) -> Self {
        let (rounds, duration) = if wishes.quick {
            (3, Duration::from_millis(400))
        } else {
            (5, Duration::from_secs(1))
        };
        let effort = Effort {
            rounds: wishes.rounds.unwrap_or(rounds),
            duration: wishes.duration.unwrap_or(duration),
            client_threads,
        };
        let cells = if wishes.quick {
            matrix::targets()
        } else {
            matrix::all()
        };
        let mut schedule = Self {
            quick: wishes.quick,
            duration: wishes.duration,
            only: wishes.only.clone(),
            effort,
            cells,
            contests: fastcgi::contests().into(),
            php: php::contests(wishes.quick),
            remote: remote::contests(wishes.quick),
        };
        let wanted = |cell: &Cell| schedule.wants_cell(cell);
        schedule.cells = schedule.cells.iter().copied().filter(wanted).collect();
        let wanted = |contest: &Contest| schedule.wants_contest(contest);
        schedule.contests = schedule.contests.iter().copied().filter(wanted).collect();
        let wanted = |contest: &php::Contest| schedule.wants_php(contest);
        schedule.php = schedule.php.iter().copied().filter(wanted).collect();
        let wanted = |contest: &remote::Contest| schedule.wants_remote(contest);
        schedule.remote = schedule.remote.iter().copied().filter(wanted).collect();
        schedule
    }

    fn wants_remote(&self, contest: &remote::Contest) -> bool {
        let matches = |pattern: &String| chooses_remote(pattern, contest);
        self.only.is_empty() || self.only.iter().any(matches)
    }

    fn wants_php(&self, contest: &php::Contest) -> bool {
        let matches = |pattern: &String| chooses_php(pattern, contest);
        self.only.is_empty() || self.only.iter().any(matches)
    }

    fn wants_contest(&self, contest: &Contest) -> bool {
        let matches = |pattern: &String| chooses(pattern, contest);
        self.only.is_empty() || self.only.iter().any(matches)
    }

    fn wants_cell(&self, cell: &Cell) -> bool {
        let matches =
            |pattern: &String| pattern == Section::Matrix.word() || cell.id().contains(pattern);
        self.only.is_empty() || self.only.iter().any(matches)
    }

    pub(super) fn wants(&self, section: Section) -> bool {
        match section {
            Section::Matrix => !self.cells.is_empty(),
            Section::Fastcgi => !self.contests.is_empty(),
            Section::Php => !self.php.is_empty(),
            Section::Remote => !self.remote.is_empty(),
            other => self.only.is_empty() || self.only.iter().any(|word| word == other.word()),
        }
    }

    /// Patterns that are neither a section nor in the name of a cell.
    pub(super) fn unknown(wishes: &Wishes) -> Vec<String> {
        let known = |pattern: &&String| {
            Section::ALL
                .iter()
                .any(|section| section.word() == *pattern)
                || matrix::all()
                    .iter()
                    .any(|cell| cell.id().contains(pattern.as_str()))
                || fastcgi::contests()
                    .iter()
                    .any(|contest| chooses(pattern, contest))
                || php::contests(false)
                    .iter()
                    .any(|contest| chooses_php(pattern, contest))
                || remote::contests(false)
                    .iter()
                    .any(|contest| chooses_remote(pattern, contest))
        };
        wishes
            .only
            .iter()
            .filter(|pattern| !known(pattern))
            .cloned()
            .collect()
    }

    /// Of a section. The matrix, the FastCGI mode and PHP have the rounds that were asked for, in a
    /// quick run the latter two at most two; so have reloads and overload where not everything is measured, of which the
    /// latter has one otherwise; the
    /// section about routes, which looks for differences of a hundredth, has more; the others, whose
    /// figures are plainer, at most three.
    pub(super) fn effort(&self, section: Section) -> Effort {
        let few = if self.quick { 1 } else { 3 };
        let rounds = match section {
            Section::Matrix => self.effort.rounds,
            Section::Fastcgi if self.quick => self.effort.rounds.min(FASTCGI_QUICK_ROUNDS),
            Section::Fastcgi => self.effort.rounds,
            Section::Php if self.quick => self.effort.rounds.min(PHP_QUICK_ROUNDS),
            Section::Php => self.effort.rounds,
            Section::Reload if self.only.is_empty() => self.effort.rounds.min(few),
            // It differs by hundredths from one round to the next.
            Section::Overload if self.only.is_empty() => 1,
            Section::Reload | Section::Overload => self.effort.rounds,
            Section::Routes if self.quick => few,
            Section::Routes => self.effort.rounds * ROUTES_ROUNDS,
            _ => self.effort.rounds.min(few),
        };
        let duration = match section {
            // A tail needs more requests than a median, and falling behind takes its time.
            Section::Sweep | Section::Reload => self.effort.duration * 2,
            _ => self.effort.duration,
        };
        Effort {
            rounds,
            duration,
            ..self.effort
        }
    }

    pub(super) fn sweep_shares(&self) -> &'static [f64] {
        if self.quick {
            &[0.5, 0.8]
        } else {
            &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        }
    }

    /// Of answers as large as pages, which a quick run has in other sections.
    pub(super) fn page_sweep_shares(&self) -> &'static [f64] {
        if self.quick { &[] } else { &[0.5, 0.8] }
    }

    /// Answers of the sections that show how costs grow.
    pub(super) fn growth_pages(&self) -> &'static [Key] {
        if self.quick { &[] } else { &growth::PAGES }
    }

    /// Run again with every program at its default number of threads.
    pub(super) fn at_defaults(&self) -> Vec<Cell> {
        let mut cells = matrix::at_defaults();
        if self.quick {
            cells.retain(|cell| !Key::PAGES.contains(&cell.exchange.key));
        }
        cells
    }

    pub(super) fn growth_concurrencies(&self) -> &'static [usize] {
        if self.quick {
            &[1, 16, 256, 4096]
        } else {
            &growth::CONCURRENCIES
        }
    }

    pub(super) fn idle_rest(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { 5 })
    }

    /// Whole seconds, for wrk: one, or those that were asked for.
    pub(super) fn php_seconds(&self) -> u64 {
        let asked = self.duration.unwrap_or_default();
        (asked.as_secs() + u64::from(asked.subsec_nanos() > 0)).max(1)
    }

    pub(super) fn overload(&self) -> overload::Plan {
        overload::Plan::new(self.quick, self.effort(Section::Overload).rounds)
    }

    /// About how long all of it takes, with so many paths.
    pub(super) fn planned(&self, paths: usize) -> Duration {
        /// Opening and closing thousands of connections.
        const IDLE_WORK: Duration = Duration::from_millis(1500);
        let section = |section| {
            if !self.wants(section) {
                return Duration::ZERO;
            }
            let effort = self.effort(section);
            let measurements = match section {
                Section::Matrix => self.cells.len() * paths,
                Section::Fastcgi => {
                    let counts = self.contests.iter().map(|contest| contest.count(1));
                    counts.sum()
                }
                Section::Defaults => self.at_defaults().len() * paths,
                Section::Sweep => {
                    let pages = Key::PAGES.len() * self.page_sweep_shares().len();
                    let others = paths.saturating_sub(sweep::LEFT_OUT.len());
                    let small = self.sweep_shares().len() * (others + sweep::MODES.len());
                    small + pages * others
                }
                Section::Growth => {
                    let points = self.growth_concurrencies().len() + self.growth_pages().len();
                    growth::count(growth::PATHS.len(), points)
                }
                Section::Routes => return scaled(routes::each(effort), effort.rounds),
                Section::Reload => return scaled(reload::each(effort), effort.rounds),
                Section::Overload => return self.overload().planned(),
                Section::Idle => return scaled(self.idle_rest() + IDLE_WORK, paths),
                Section::Remote => {
                    let measurements = self.remote.len() * remote::ways() * effort.rounds;
                    return scaled(remote::each(effort), measurements);
                }
                Section::Php => {
                    let each = |contest: &php::Contest| contest.each(self.php_seconds());
                    return scaled(self.php.iter().map(each).sum(), effort.rounds);
                }
            };
            scaled(effort.each(), measurements * effort.rounds)
        };
        Section::ALL.into_iter().map(section).sum()
    }
}

/// It has more cells than the matrix has in a quick run.
const FASTCGI_QUICK_ROUNDS: usize = 2;

/// So that it takes about a minute.
const PHP_QUICK_ROUNDS: usize = 2;

/// For each round of the matrix. A p99 differs by half from one round to the next.
const ROUTES_ROUNDS: usize = 3;

/// Whether a pattern is about a contest: that of a cell alone is not, which is shorter.
fn chooses(pattern: &str, contest: &Contest) -> bool {
    pattern.starts_with(Section::Fastcgi.word()) && contest.id().starts_with(pattern)
}

/// `php` itself, and whatever the name of a contest begins with.
fn chooses_php(pattern: &str, contest: &php::Contest) -> bool {
    pattern.starts_with(Section::Php.word()) && contest.id().starts_with(pattern)
}

/// Likewise.
fn chooses_remote(pattern: &str, contest: &remote::Contest) -> bool {
    pattern.starts_with(Section::Remote.word()) && contest.id().starts_with(pattern)
}

fn scaled(duration: Duration, by: usize) -> Duration {
    duration.saturating_mul(u32::try_from(by).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(quick: bool, only: &[&str]) -> Schedule {
        let wishes = Wishes {
            quick,
            only: only.iter().map(|&word| word.to_owned()).collect(),
            ..Wishes::default()
        };
        Schedule::of(&wishes, NonZeroUsize::MIN)
    }

    #[test]
    fn a_quick_run_is_planned_to_end_within_seven_minutes() {
        let planned = schedule(true, &[]).planned(11);
        assert!(planned < Duration::from_secs(410), "{planned:?}");
    }

    #[test]
    fn reloads_alone_take_minutes_and_less_than_one_if_quick() {
        let planned = |quick| schedule(quick, &["reload"]).planned(11).as_secs();
        assert!((120..240).contains(&planned(false)), "{}", planned(false));
        assert!(planned(true) < 45, "{}", planned(true));
    }

    #[test]
    fn a_full_run_is_planned_to_end_within_a_hundred_minutes() {
        let planned = schedule(false, &[]).planned(11);
        assert!(planned < Duration::from_secs(100 * 60), "{planned:?}");
    }

    #[test]
    fn a_pattern_chooses_cells_or_sections() {
        let one = schedule(false, &["new-4k-16"]);
        assert_eq!(one.cells.len(), 1);
        assert!(one.wants(Section::Matrix) && !one.wants(Section::Idle));
        assert!(!one.wants(Section::Fastcgi));
        let idle = schedule(false, &["idle"]);
        assert!(idle.wants(Section::Idle) && !idle.wants(Section::Matrix));
        assert_eq!(schedule(false, &["matrix"]).cells, matrix::all());
        let mode = schedule(false, &["fastcgi"]);
        assert!(mode.wants(Section::Fastcgi) && !mode.wants(Section::Matrix));
        assert_eq!(mode.contests, fastcgi::contests());
        let guard = schedule(false, &["fastcgi-kept-40p"]);
        assert_eq!(guard.contests.len(), 1);
        let php = schedule(false, &["php"]);
        assert!(php.wants(Section::Php) && php.php == php::contests(false));
        let reload = schedule(false, &["reload"]);
        assert!(reload.wants(Section::Reload) && !reload.wants(Section::Routes));
        let remote = schedule(false, &["remote"]);
        assert!(remote.wants(Section::Remote) && remote.remote == remote::contests(false));
        assert!(!remote.wants(Section::Php) && !reload.wants(Section::Remote));
        assert_eq!(schedule(false, &["remote-10ms-64k"]).remote.len(), 2);
        let page = schedule(false, &["php-ondemand-10k", "php-static"]);
        assert_eq!(page.php.len(), 5);
    }

    #[test]
    fn a_pattern_that_chooses_nothing_is_found() {
        let wishes = Wishes {
            only: [
                "kept-4k",
                "upload",
                "php",
                "kept-5k",
                "fastcgi-new",
                "php-dynamic",
                "php-lazy",
                "remote-10ms",
                "remote-7ms",
            ]
            .map(str::to_owned)
            .into(),
            ..Wishes::default()
        };
        assert_eq!(
            Schedule::unknown(&wishes),
            ["kept-5k", "php-lazy", "remote-7ms"]
        );
    }
}
