//! What was measured of a pair: each case, on each engine, beside the direct way.

use std::sync::OnceLock;
use std::time::Duration;

use crate::ask::Failure;
use crate::cases::{Case, Verdict};
use crate::common::Engine;
use crate::fronts::Front;
use crate::servers::Server;
use crate::site::Site;

/// What many requests may take, as a multiple of the direct way's time, and beyond it. With everything on
/// two cores a proxy takes its share of them; a request that waits for a time limit shows all the same.
const SLOWDOWN_MAX: u32 = 3;
const SLOWDOWN_BEYOND: Duration = Duration::from_secs(1);

/// How a pair did in a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Right,
    /// Wrong in the same way without a proxy.
    AsDirect(String),
    /// Wrong in a way that only a proxy brings about.
    Differs(String),
    /// There is no such thing with this pair.
    Absent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) server: Server,
    pub(crate) front: Front,
}

pub(crate) struct Row {
    pub(crate) pair: Pair,
    cells: Vec<(Case, [Cell; 2])>,
}

impl Row {
    /// Tries everything. This takes seconds.
    pub(crate) fn measure(pair: Pair) -> Self {
        let mut site = Site::start(pair.server, pair.front);
        let cells = Case::ALL.map(|case| {
            let cells = match case.applies(pair.server, pair.front) {
                false => [Cell::Absent, Cell::Absent],
                true => {
                    let direct = case.run(&mut site.direct);
                    let through = [&mut site.io_uring, &mut site.epoll];
                    through.map(|side| judge(case, &direct, case.run(side)))
                }
            };
            (case, cells)
        });
        Self {
            pair,
            cells: cells.into(),
        }
    }

    pub(crate) fn cells(&self, engine: Engine) -> impl Iterator<Item = (Case, &Cell)> {
        let number = match engine {
            Engine::IoUring => 0,
            Engine::Epoll => 1,
        };
        self.cells
            .iter()
            .map(move |(case, cells)| (*case, &cells[number]))
    }

    pub(crate) fn cell(&self, engine: Engine, case: Case) -> &Cell {
        let found = self.cells(engine).find(|(other, _)| *other == case);
        found.expect("every case has a cell").1
    }
}

fn judge(case: Case, direct: &Verdict, through: Verdict) -> Cell {
    match (direct, through) {
        (Ok(direct), Ok(took)) if case.is_timed() => {
            match took <= *direct * SLOWDOWN_MAX + SLOWDOWN_BEYOND {
                true => Cell::Right,
                false => Cell::Differs(format!("{took:.1?}, directly {direct:.1?}")),
            }
        }
        (_, Ok(_)) => Cell::Right,
        (Err(direct), Err(through)) if *direct == through => Cell::AsDirect(through.0),
        (Err(Failure(direct)), Err(Failure(through))) => {
            Cell::Differs(format!("{through}, directly {direct}"))
        }
        (Ok(_), Err(Failure(through))) => Cell::Differs(through),
    }
}

/// The row of one of the pairs that are measured in every run, measured once in this process.
pub(crate) fn row(pair: Pair) -> &'static Row {
    static ROWS: [OnceLock<Row>; PAIRS] = [const { OnceLock::new() }; PAIRS];
    let number = pairs().position(|other| other == pair);
    let number = number.expect("it is one of those pairs");
    ROWS[number].get_or_init(|| Row::measure(pair))
}

const PAIRS: usize = 2 * Server::ALL.len() + Front::ALL.len() - 2;

/// Every server behind nginx and behind a client of our own, and every client in front of PHP-FPM.
pub(crate) fn pairs() -> impl Iterator<Item = Pair> {
    let fronts = [Front::NGINX, Front::Records];
    let of = move |server| fronts.map(|front| Pair { server, front });
    let others = Front::ALL
        .into_iter()
        .filter(move |front| !fronts.contains(front));
    let server = Server::FpmStatic;
    let others = others.map(move |front| Pair { server, front });
    Server::ALL.into_iter().flat_map(of).chain(others)
}
