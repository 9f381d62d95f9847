//! Each name once: what it stands for now, for somebody who wants to know before the daemon starts.
//!
//! The lookups are those of the resolver, and so are their sources. Nothing is kept of the answers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time;

use super::lookup::Sources;
use super::names::{Question, RecordFamily, TARGETS_MAX, parse};
use super::outcome::{Answer, Failure, Found, LookupOutcome, Target};
use super::{LOOKUPS_MAX, ResolverError, ResolverOptions};
use crate::config::{Backend, BackendAddress, Discovery};

/// The most backends that are looked up at one time: each takes a socket for both families and, where
/// they race, every name server, and a process may usually have 1,024 open.
const BACKENDS_AT_ONCE_MAX: usize = 32;

/// How long all of it may take: as long as one lookup in front of silent name servers, with the
/// usual `timeout` and `attempts`.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Backends of which the names are found in the same way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// How.
    pub discovery: &'a Discovery,
    /// Whose addresses.
    pub backends: &'a [Backend],
}

/// What a backend stands for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// It is an address itself.
    Literal,
    /// The addresses of a host, at least one, sorted.
    Host(Vec<SocketAddr>),
    /// The targets of a service, at least one, as they are used.
    Service(Vec<ServiceTarget>),
    /// Nothing, and why.
    Nothing(String),
}

/// What an SRV record says, and where that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceTarget {
    /// The record: `HOST:PORT (priority P, weight W)`.
    pub record: String,
    /// The addresses of the host, or why there are none.
    pub addresses: Result<Vec<SocketAddr>, String>,
}

impl Resolved {
    /// Whether there is something to connect to.
    #[must_use]
    pub(crate) fn has_address(&self) -> bool {
        match self {
            Self::Literal | Self::Host(_) => true,
            Self::Service(targets) => targets.iter().any(|target| target.addresses.is_ok()),
            Self::Nothing(_) => false,
        }
    }
}

/// Looks all of them up, side by side, each name with each discovery once. The results stand as the
/// backends do.
///
/// # Errors
/// If a name is malformed, or the system refuses an event loop.
pub(crate) fn look_up_all(wanted: &[Wanted<'_>]) -> Result<Vec<Vec<Resolved>>, ResolverError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        // For the C library's lookups, which block.
        .max_blocking_threads(BACKENDS_AT_ONCE_MAX)
        .build()
        .map_err(ResolverError::Runtime)?;
    let mut plan = Plan::default();
    for Wanted {
        discovery,
        backends,
    } in wanted
    {
        let sources = plan.sources(discovery);
        for backend in *backends {
            plan.add(sources, &backend.address)?;
        }
    }
    let resolved = runtime.block_on(plan.carry_out());
    // A call of the C library that hangs is not waited for.
    runtime.shutdown_background();
    let of = |wanted: &Wanted<'_>, sources: usize| {
        let backends = wanted.backends.iter();
        let found = backends.map(|backend| resolved.get(&(sources, backend.address.clone())));
        found
            .map(|found| found.cloned().unwrap_or_else(out_of_time))
            .collect()
    };
    let order = wanted.iter().map(|w| (w, plan.sources_of(w.discovery)));
    Ok(order.map(|(wanted, sources)| of(wanted, sources)).collect())
}

fn out_of_time() -> Resolved {
    Resolved::Nothing(format!("no answer within {} s", TIME_MAX.as_secs()))
}

/// What is to be asked, each question once.
#[derive(Default)]
struct Plan {
    sources: Vec<(Discovery, Arc<Sources>)>,
    lookups: HashMap<Key, Lookup>,
}

/// An index into the sources, and what is looked up there.
type Key = (usize, BackendAddress);

enum Lookup {
    None,
    Host(Name, u16),
    Service(Name),
}

impl Plan {
    fn sources(&mut self, discovery: &Discovery) -> usize {
        let index = self.sources_of(discovery);
        if index == self.sources.len() {
            let sources = Sources::new(&ResolverOptions::from(discovery));
            self.sources.push((discovery.clone(), Arc::new(sources)));
        }
        index
    }

    fn sources_of(&self, discovery: &Discovery) -> usize {
        let known = self
            .sources
            .iter()
            .position(|(known, _)| known == discovery);
        known.unwrap_or(self.sources.len())
    }

    fn add(&mut self, sources: usize, backend: &BackendAddress) -> Result<(), ResolverError> {
        let lookup = match backend {
            BackendAddress::Literal(_) | BackendAddress::Unix(_) => Lookup::None,
            BackendAddress::Name { host, port } => Lookup::Host(parse(host)?, *port),
            BackendAddress::Service { name } => Lookup::Service(parse(name)?),
        };
        self.lookups.insert((sources, backend.clone()), lookup);
        Ok(())
    }

    /// What has not been found when the time is over is missing.
    async fn carry_out(&mut self) -> HashMap<Key, Resolved> {
        let room = Arc::new(Semaphore::new(BACKENDS_AT_ONCE_MAX));
        let mut under_way = JoinSet::new();
        for (key, lookup) in self.lookups.drain() {
            let (room, sources) = (Arc::clone(&room), Arc::clone(&self.sources[key.0].1));
            under_way.spawn(async move {
                // It is never closed; should it be, there is room for everybody.
                let _room = room.acquire().await;
                (key, lookup.look_up(&sources).await)
            });
        }
        let mut resolved = HashMap::new();
        let all = async {
            while let Some(ended) = under_way.join_next().await {
                // One that panicked inside the library is missing like one that takes too long.
                resolved.extend(ended);
            }
        };
        // Those that are missing are told of as such.
        let _ = time::timeout(TIME_MAX, all).await;
        resolved
    }
}

impl Lookup {
    async fn look_up(self, sources: &Arc<Sources>) -> Resolved {
        match self {
            Self::None => Resolved::Literal,
            Self::Host(name, port) => match addresses(sources, &name, port).await {
                Ok(addresses) => Resolved::Host(addresses),
                Err(problem) => Resolved::Nothing(problem),
            },
            Self::Service(name) => match targets(sources, name).await {
                Ok(found) => Resolved::Service(resolve_targets(sources, found.items).await),
                Err(failure) => Resolved::Nothing(failure.to_string()),
            },
        }
    }
}

async fn targets(sources: &Sources, service: Name) -> LookupOutcome<Target> {
    match sources.look_up(&Question::Targets(service)).await {
        Answer::Targets(outcome) => outcome,
        Answer::Addresses(_) => unreachable!("an answer is of its question's kind"),
    }
}

/// As many side by side as the resolver looks up at one time.
async fn resolve_targets(sources: &Arc<Sources>, mut targets: Vec<Target>) -> Vec<ServiceTarget> {
    targets.sort();
    targets.truncate(TARGETS_MAX);
    let mut resolved = Vec::with_capacity(targets.len());
    for some in targets.chunks(LOOKUPS_MAX) {
        let mut under_way = JoinSet::new();
        for target in some.iter().cloned() {
            let sources = Arc::clone(sources);
            under_way.spawn(async move {
                let addresses = addresses(&sources, &target.host, target.port).await;
                (target, addresses)
            });
        }
        let mut found = under_way.join_all().await;
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        resolved.extend(found.into_iter().map(|(target, addresses)| ServiceTarget {
            record: target.to_string(),
            addresses,
        }));
    }
    resolved
}

/// Both families, side by side.
async fn addresses(sources: &Sources, host: &Name, port: u16) -> Result<Vec<SocketAddr>, String> {
    let (v4, v6) = tokio::join!(
        family(sources, host, RecordFamily::V4),
        family(sources, host, RecordFamily::V6)
    );
    let found = [&v4, &v6].into_iter().flatten();
    let mut addresses: Vec<_> = found
        .flat_map(|found| &found.items)
        .map(|ip| SocketAddr::new(*ip, port))
        .collect();
    addresses.sort();
    addresses.dedup();
    match (addresses.is_empty(), v4, v6) {
        (false, _, _) => Ok(addresses),
        // Silence about one family says more than a denial of the other.
        (true, Err(Failure::Nothing), Err(failure)) | (true, Err(failure), _) => {
            Err(failure.to_string())
        }
        (true, Ok(Found { .. }), _) => unreachable!("what is found has at least one item"),
    }
}

async fn family(sources: &Sources, host: &Name, family: RecordFamily) -> LookupOutcome<IpAddr> {
    let question = Question::Addresses(host.clone(), family);
    match sources.look_up(&question).await {
        Answer::Addresses(outcome) => outcome,
        Answer::Targets(_) => unreachable!("an answer is of its question's kind"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_need_no_lookup_and_names_of_the_hosts_file_no_server() {
        let discovery = Discovery::default();
        let backends = [
            "127.0.0.1:1".parse().unwrap(),
            "unix:/run/a.sock".parse().unwrap(),
            "localhost:9000".parse().unwrap(),
        ];
        let wanted = Wanted {
            discovery: &discovery,
            backends: &backends,
        };
        let resolved = look_up_all(&[wanted, wanted]).unwrap();
        assert_eq!(resolved[0], resolved[1]);
        assert_eq!(resolved[0][..2], [Resolved::Literal, Resolved::Literal]);
        let Resolved::Host(addresses) = &resolved[0][2] else {
            panic!("{resolved:?}")
        };
        assert!(addresses.iter().all(|address| address.port() == 9000));
        assert!(resolved[0].iter().all(Resolved::has_address));
    }
}
