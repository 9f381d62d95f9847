//! PHP-FPM's own view of its pools: asked by the control plane, and never by a worker.
//!
//! A round asks each pool for the page of its pm.status_path, over a connection of its own. With pm.status_listen
//! that page has processes of its own, so it comes while every worker of the pool is busy: which is when an operator
//! wants it. What is known of each pool goes to a [`FpmBoard`], from which status and metrics are made.

mod board;
mod history;
mod page;
mod poll;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time;

use crate::backend::{Address, AddressSet, Health, Published};
use crate::config::{FpmPlace, FpmSource};
use crate::sys::net::TcpOptions;

pub(crate) use board::{Answered, FpmBoard, PoolView};
pub(crate) use page::{PoolFigures, ProcessManager, Processes};

use history::{Fit, PollNews, PoolHistory};
use poll::{PollError, ask};

/// From the start of a round to the start of the next one. PHP-FPM ends the process that answers on pm.status_listen
/// after 10 s without a request: asked more often than that, it forks none for us.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

/// How long figures count as current: a round may be missed, and the next one take its time.
pub(crate) const FRESH_MAX: Duration = Duration::from_secs(15);

/// How often the endpoints are looked at between two rounds, if they are what is asked: those of a new set need not
/// wait for the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Polls of one route at one time: a bound on descriptors.
pub(crate) const POLLS_MAX: usize = 16;

/// The most pools of one route, each of which has a dozen series. More hosts than that have a Prometheus that asks
/// each of them.
pub(crate) const POOLS_MAX: usize = 64;

/// Whom to ask, and how.
#[derive(Debug)]
pub(crate) struct Polls {
    /// As configured.
    pub places: Vec<FpmSource>,
    /// What the route may open to one endpoint (`--per-endpoint-max`).
    pub permits: Option<u32>,
    /// That is found out, and pm.max_children is where to begin.
    pub are_found: bool,
    /// As the sessions' own.
    pub tcp: TcpOptions,
}

/// One pool that is asked.
#[derive(Clone, Debug)]
struct AskedPool {
    address: Address,
    path: Arc<str>,
    history: PoolHistory,
}

impl AskedPool {
    fn view(&self) -> PoolView {
        let Self {
            address,
            path,
            history,
        } = self;
        PoolView {
            address: *address,
            path: Arc::clone(path),
            answered: history.answer(),
            error: history.error().map(Arc::from),
            max_children: history.max_children(),
            warning: history.warning().map(Arc::from),
        }
    }
}

/// Asks for ever. What the board knows of pools that are still to be asked is gone on with.
pub(crate) async fn run(published: Arc<Published>, polls: Polls, board: Arc<FpmBoard>) {
    let polls = Arc::new(polls);
    let mut rounds = Rounds {
        published: &published,
        board: &board,
        pools: board.known(),
        left_out: 0,
    };
    let is_port = |source: &FpmSource| matches!(source.place, FpmPlace::PortOfEndpoints(_));
    let follows_endpoints = polls.places.iter().any(is_port);
    loop {
        let next = time::Instant::now() + INTERVAL;
        let version = published.version();
        rounds.follow(&polls);
        rounds.round(&polls).await;
        let mut is_due = false;
        while !is_due {
            let look = match follows_endpoints {
                true => next.min(time::Instant::now() + LOOK_INTERVAL),
                false => next,
            };
            time::sleep_until(look).await;
            is_due = look == next || published.version() != version;
        }
    }
}

struct Rounds<'a> {
    published: &'a Published,
    board: &'a FpmBoard,
    pools: Vec<AskedPool>,
    /// How many there are beyond [`POOLS_MAX`].
    left_out: usize,
}

impl Rounds<'_> {
    /// Takes in pools that are new, and forgets those that are not there any more.
    fn follow(&mut self, polls: &Polls) {
        let mut wanted = addresses(&polls.places, &self.published.load_full());
        let left_out = wanted.len().saturating_sub(POOLS_MAX);
        wanted.truncate(POOLS_MAX);
        if left_out > 0 && self.left_out == 0 {
            tracing::warn!(
                route = %self.published.route(),
                left_out,
                "ask PHP-FPM how its pools fare: there are more than {POOLS_MAX} of them; the others are not asked \
                 (have Prometheus ask each host)"
            );
        }
        self.left_out = left_out;
        let mut before = std::mem::take(&mut self.pools);
        let known = |(address, path): (Address, Arc<str>)| {
            let is_it = |pool: &AskedPool| pool.address == address && pool.path == path;
            match before.iter().position(is_it) {
                Some(at) => before.swap_remove(at),
                None => AskedPool {
                    address,
                    path,
                    history: PoolHistory::default(),
                },
            }
        };
        self.pools = wanted.into_iter().map(known).collect();
        self.show();
    }

    async fn round(&mut self, polls: &Arc<Polls>) {
        let mut under_way = JoinSet::new();
        for at in 0..self.pools.len() {
            if under_way.len() == POLLS_MAX {
                self.heed_next(&mut under_way, polls).await;
            }
            let pool = &self.pools[at];
            let (address, path) = (pool.address, Arc::clone(&pool.path));
            let polls = Arc::clone(polls);
            under_way.spawn(async move { (at, ask(address, &path, &polls.tcp).await) });
        }
        while self.heed_next(&mut under_way, polls).await {}
    }

    /// Waits for the next outcome and takes it in. False if there is none to wait for.
    async fn heed_next(
        &mut self,
        under_way: &mut JoinSet<(usize, Result<PoolFigures, PollError>)>,
        polls: &Polls,
    ) -> bool {
        let Some(ended) = under_way.join_next().await else {
            return false;
        };
        let (at, outcome) = ended.expect("a poll neither panics nor is taken back");
        self.heed(at, outcome, polls);
        self.show();
        true
    }

    fn heed(&mut self, at: usize, outcome: Result<PoolFigures, PollError>, polls: &Polls) {
        let AskedPool {
            address,
            path,
            history,
        } = &mut self.pools[at];
        let route = self.published.route();
        let news = match outcome {
            Ok(figures) => history.answered(figures, Instant::now()),
            Err(error) => history.failed(error.to_string()),
        };
        match news {
            PollNews::Fails(error) => {
                tracing::warn!(%route, "ask PHP-FPM at {address} for {path}: {error}");
            }
            PollNews::Answers => {
                tracing::info!(%route, "PHP-FPM at {address} tells again how its pool fares");
            }
            PollNews::None => {}
        }
        if polls.are_found {
            if let Some(workers) = history.max_children() {
                has_workers(*address, workers, &self.published.load_full());
            }
            return;
        }
        let Some(fit) = history.judge(polls.permits) else {
            return;
        };
        let pool = history.pool();
        match fit {
            Fit::Beyond { .. } => tracing::warn!(%route, "pool {pool} at {address}: {fit}"),
            Fit::Within { .. } | Fit::Same { .. } | Fit::Unknown => {
                tracing::info!(%route, "pool {pool} at {address}: {fit}");
            }
        }
    }

    fn show(&self) {
        self.board.show(self.pools.clone());
    }
}

/// The pool that is asked there has so many workers. Which endpoint it serves is known if its host has only one.
fn has_workers(asked: Address, workers: u64, set: &AddressSet) {
    let Some(host) = asked.ip() else { return };
    let is_there = |health: &&Arc<Health>| health.address().ip() == Some(host);
    let mut there = set.health().iter().filter(is_there);
    if let (Some(only), None) = (there.next(), there.next()) {
        only.has_workers(u32::try_from(workers).unwrap_or(u32::MAX));
    }
}

/// Each address that is to be asked, once: of several pages of one address, the first that is configured.
fn addresses(places: &[FpmSource], set: &AddressSet) -> Vec<(Address, Arc<str>)> {
    let mut all: Vec<(Address, Arc<str>)> = Vec::new();
    let mut add = |address: Address, path: &Arc<str>| {
        if all.iter().all(|(there, _)| *there != address) {
            all.push((address, Arc::clone(path)));
        }
    };
    for FpmSource { place, path } in places {
        let path = Arc::from(&**path);
        match place {
            FpmPlace::Tcp(address) => add((*address).into(), &path),
            FpmPlace::Unix(address) => add(address.into(), &path),
            FpmPlace::PortOfEndpoints(port) => {
                for endpoint in set.endpoints() {
                    // All but the port: an address of a link is one on a certain interface only.
                    if let Address::Tcp(mut host) = endpoint.address {
                        host.set_port(*port);
                        add(host.into(), &path);
                    }
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::SystemTime;

    use super::*;

    fn places(texts: &[&str]) -> Vec<FpmSource> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn published(endpoints: &[&str]) -> Published {
        let published = Published::new(|| {});
        let addresses = endpoints.iter().map(|e| e.parse::<SocketAddr>().unwrap());
        published.publish(addresses, SystemTime::now());
        published
    }

    fn asked(texts: &[&str], endpoints: &[&str]) -> Vec<String> {
        let all = addresses(&places(texts), &published(endpoints).load_full());
        all.iter()
            .map(|(address, path)| format!("{address}{path}"))
            .collect()
    }

    #[test]
    fn a_port_stands_for_that_port_of_each_host_of_the_set() {
        let endpoints = ["192.0.2.1:9000", "192.0.2.1:9010", "[2001:db8::1]:9000"];
        assert_eq!(
            asked(&[":9001/s"], &endpoints),
            ["192.0.2.1:9001/s", "[2001:db8::1]:9001/s"]
        );
        assert_eq!(asked(&[":9001"], &[]), Vec::<String>::new());
        // The same address on two interfaces is two hosts.
        let on_a_link = ["[fe80::1%2]:9000", "[fe80::1%3]:9000", "[fe80::1%3]:9010"];
        assert_eq!(
            asked(&[":9001/s"], &on_a_link),
            ["[fe80::1%2]:9001/s", "[fe80::1%3]:9001/s"]
        );
    }

    #[test]
    fn an_address_is_asked_once_by_what_was_configured_first() {
        let texts = ["192.0.2.1:9001/a", ":9001/b", "192.0.2.7:9001"];
        assert_eq!(
            asked(&texts, &["192.0.2.1:9000", "192.0.2.2:9000"]),
            [
                "192.0.2.1:9001/a",
                "192.0.2.2:9001/b",
                "192.0.2.7:9001/status"
            ]
        );
    }

    #[test]
    fn pools_are_bounded_and_what_is_known_of_those_that_stay_is_kept() {
        let endpoints: Vec<_> = (0..=POOLS_MAX)
            .map(|n| format!("10.0.0.{n}:9000"))
            .collect();
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        let published = published(&endpoints);
        let board = FpmBoard::default();
        let mut rounds = Rounds {
            published: &published,
            board: &board,
            pools: Vec::new(),
            left_out: 0,
        };
        let polls = Polls {
            places: places(&[":9001"]),
            permits: None,
            are_found: false,
            tcp: TcpOptions::default(),
        };
        rounds.follow(&polls);
        assert_eq!((rounds.pools.len(), rounds.left_out), (POOLS_MAX, 1));
        rounds.heed(3, Err(PollError::Closed), &polls);
        let fails = |rounds: &Rounds<'_>| {
            let failing = rounds.pools.iter().filter(|p| p.history.error().is_some());
            failing.map(|p| p.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(fails(&rounds), ["10.0.0.3:9001"]);
        // All but the first leave, and one of them comes anew.
        let two = ["10.0.0.3:9000", "10.0.0.0:9000"].map(|e| e.parse::<SocketAddr>().unwrap());
        published.publish(two, SystemTime::now());
        rounds.follow(&polls);
        assert_eq!((rounds.pools.len(), rounds.left_out), (2, 0));
        assert_eq!(fails(&rounds), ["10.0.0.3:9001"]);
        assert_eq!(board.views().len(), 2);
        // Whoever asks after a reload knows the same, of the same page of the same address.
        for (path, expected) in [(":9001", vec!["10.0.0.3:9001"]), (":9001/other", vec![])] {
            let mut next = Rounds {
                published: &published,
                board: &board,
                pools: board.known(),
                left_out: 0,
            };
            next.follow(&Polls {
                places: places(&[path]),
                permits: Some(4),
                are_found: false,
                tcp: TcpOptions::default(),
            });
            assert_eq!(fails(&next), expected, "{path}");
        }
    }
}
