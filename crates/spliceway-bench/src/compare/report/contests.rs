//! Who is compared with whom: every cell of every section in which spliceway meets somebody else.
//!
//! The raw mode is compared with other programs. The FastCGI mode is compared with the direct path as well, as it saves
//! connections that a direct path makes; a raw relay is a hop more, which the tables show.

use super::super::matrix::Carry;
use super::super::results::{
    CellResult, Outcome, PathInfo, PhpCell, PhpPath, PhpSample, RemoteCell, Results, Sample,
    figures, name_in,
};

/// What is compared, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Measure {
    Rate,
    P50,
    P99,
    Cpu,
}

impl Measure {
    pub(super) const ALL: [Self; 4] = [Self::Rate, Self::P50, Self::P99, Self::Cpu];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rate => "req/s",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Cpu => "CPU",
        }
    }

    pub(super) fn more_is_better(self) -> bool {
        self == Self::Rate
    }

    /// Whether it counts the requests that ended in the round.
    pub(super) fn counts_requests(self) -> bool {
        matches!(self, Self::Rate | Self::Cpu)
    }

    fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Rate => sample.rate(),
            Self::P50 => Some(sample.latency_us.p50),
            Self::P99 => Some(sample.latency_us.p99),
            Self::Cpu => sample.cpu_us_per_request(),
        }
    }

    fn of_page(self, sample: &PhpSample) -> Option<f64> {
        match self {
            Self::Rate => Some(sample.per_second),
            Self::P50 => Some(sample.p50_us),
            Self::P99 => Some(sample.p99_us),
            Self::Cpu => sample.cpu_us_per_request(),
        }
    }
}

/// What a path is to a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Raw,
    Fastcgi,
    Direct,
    /// Another program.
    Other,
    /// Nothing that anybody could use instead: a Unix socket of a backend elsewhere, a mode with its guard off.
    Aside,
}

impl Role {
    fn of(key: &str) -> Self {
        match key.strip_prefix("php-").unwrap_or(key) {
            "tcp" | "tcp-kept" => Self::Direct,
            "spliceway" | "spliceway-epoll" => Self::Raw,
            "fastcgi" | "fastcgi-epoll" | "fastcgi-kept" | "fastcgi-epoll-kept" => Self::Fastcgi,
            "unix" | "tcp-new" => Self::Aside,
            other if other.starts_with("fastcgi") => Self::Aside,
            _ => Self::Other,
        }
    }

    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Raw | Self::Fastcgi)
    }

    pub(super) fn is_compared_with(self, other: Self) -> bool {
        match self {
            Self::Raw => other == Self::Other,
            Self::Fastcgi => matches!(other, Self::Other | Self::Direct),
            Self::Direct | Self::Other | Self::Aside => false,
        }
    }
}

/// One path in one contest.
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) role: Role,
    /// Of each measure, by round.
    figures: [Vec<Option<f64>>; 4],
}

impl Lane {
    fn of(key: &str, name: String, rounds: &[Outcome]) -> Self {
        Self {
            name,
            role: Role::of(key),
            figures: Measure::ALL.map(|measure| figures(rounds, |sample| measure.of(sample))),
        }
    }

    fn of_page(path: &PhpPath) -> Self {
        Self {
            name: path.name.clone(),
            role: Role::of(&path.key),
            figures: Measure::ALL.map(|measure| path.figures(|sample| measure.of_page(sample))),
        }
    }

    pub(super) fn figures(&self, measure: Measure) -> &[Option<f64>] {
        &self.figures[measure as usize]
    }
}

/// One cell with all of its paths.
pub(super) struct Contest {
    /// What `--only` knows it by, and how clients connect where that leaves it open.
    pub(super) id: String,
    pub(super) lanes: Vec<Lane>,
    /// On some path fewer requests ended in some round than there were clients.
    pub(super) is_too_short: bool,
}

/// Of every section, in the order of the report.
pub(super) fn all(results: &Results) -> Vec<Contest> {
    let remote = results.remote.iter();
    let remote = remote.flat_map(|remote| {
        let each = move |cell| Carry::ALL.map(|carry| behind_link(&remote.paths, cell, carry));
        remote.cells.iter().flat_map(each)
    });
    let pages = results.php.iter().flat_map(|php| &php.cells);
    let pages = pages.flat_map(|cell| [page(cell, false), page(cell, true)]);
    let mode = results.fastcgi.iter();
    let mode = mode.flat_map(|mode| {
        let each = |cell| here("fastcgi-", &mode.paths, cell);
        mode.cells.iter().map(each)
    });
    let cells = results.cells.iter();
    let cells = cells.map(|cell| here("", &results.paths, cell));
    remote.chain(pages).chain(mode).chain(cells).collect()
}

fn here(section: &str, paths: &[PathInfo], cell: &CellResult) -> Contest {
    let lane = |path: &super::super::results::PathResult| {
        Lane::of(&path.path, name_in(paths, &path.path), &path.rounds)
    };
    let mut rounds = cell
        .paths
        .iter()
        .flat_map(|path| path.rounds.iter().flatten());
    let clients = cell.cell.concurrency as u64;
    Contest {
        id: format!("{section}{}", cell.cell.id()),
        lanes: cell.paths.iter().map(lane).collect(),
        is_too_short: rounds.any(|sample| sample.requests < clients),
    }
}

fn behind_link(paths: &[PathInfo], cell: &RemoteCell, carry: Carry) -> Contest {
    let ways = cell.ways.iter().filter(|way| way.carry == carry);
    let (ms, key, clients) = (cell.round_trip_ms, cell.key.word(), cell.concurrency);
    Contest {
        id: format!("remote-{ms}ms-{key}-{clients}, {}", carry.word()),
        lanes: ways
            .map(|way| Lane::of(&way.path, name_in(paths, &way.path), &way.rounds))
            .collect(),
        is_too_short: false,
    }
}

/// With a new connection of nginx for each request, or with kept ones.
fn page(cell: &PhpCell, kept: bool) -> Contest {
    let paths = cell.paths.iter();
    let paths = paths.filter(|path| path.key.ends_with("-kept") == kept);
    let more = if kept { ", kept" } else { "" };
    Contest {
        id: format!("php-{}-{}k{more}", cell.pm.word(), cell.kb),
        lanes: paths.map(Lane::of_page).collect(),
        is_too_short: false,
    }
}
