//! One lookup: the hosts file, then the name servers, through hickory.
//!
//! hickory does the protocol. What is done here is to keep apart what it joins: each name server is
//! asked through a resolver of its own, because in hickory's pool the first server error (SERVFAIL,
//! REFUSED, NODATA) ends the lookup although another server may know the answer; and the search
//! domains are walked here, because hickory reports only the last one's result, so that a timeout
//! followed by NXDOMAIN would look like "this name does not exist".

use std::fmt;
use std::fs;
use std::io;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, Resolver, TokioResolver};
use tokio::task::JoinSet;

use super::ResolverOptions;
use super::names::{Family, Question, TARGETS_MAX};
use super::system::System;
use crate::config::ResolveWith;

/// How often a query that got no usable answer is sent again, on top of the datagrams that hickory
/// repeats within one timeout.
const RETRIES_MAX: usize = 1;

/// A whole lookup, search domains included, takes at most this many query timeouts; a search that
/// meets one name server failure after another would otherwise have no end that can be named.
const LOOKUP_TIMEOUTS_MAX: u32 = 5;

/// What a lookup ended with, by what was asked for.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Addresses(Outcome<IpAddr>),
    Targets(Outcome<Target>),
}

impl Answer {
    pub(super) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Addresses(outcome) => outcome.as_ref().err(),
            Self::Targets(outcome) => outcome.as_ref().err(),
        }
    }

    /// Nobody answered this question.
    pub(super) fn none(question: &Question, cause: Cause) -> Self {
        let failure = Failure::NoAnswer(cause);
        match question {
            Question::Addresses(..) => Self::Addresses(Err(failure)),
            Question::Targets(_) => Self::Targets(Err(failure)),
        }
    }
}

/// What the lookup of one question ended with.
pub(super) type Outcome<T> = Result<Found<T>, Failure>;

/// What was found, at least one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found<T> {
    pub(super) items: Vec<T>,
    pub(super) ttl: Duration,
}

/// Where a service is (RFC 2782). Ordered as they are used, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) priority: u16,
    pub(super) host: Name,
    pub(super) port: u16,
    pub(super) weight: u16,
}

impl Target {
    /// What makes it the same target, whatever its priority and weight are.
    pub(super) fn place(&self) -> (&Name, u16) {
        (&self.host, self.port)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            priority,
            host,
            port,
            weight,
        } = self;
        write!(
            f,
            "{}:{port} (priority {priority}, weight {weight})",
            host.to_ascii()
        )
    }
}

/// Why nothing was found. The two differ in what they permit: see `last_good.rs`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The name servers say that there are none (NXDOMAIN, NODATA).
    #[error("the name server says that there is no such name, or not with what was asked for")]
    Nothing,
    /// Nobody who could know has said anything.
    #[error("{0}")]
    NoAnswer(Cause),
}

/// What kept the answer away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cause {
    #[error("no name server answered in time")]
    Silence,
    #[error("no name server is configured and the hosts file does not have the name")]
    NoNameServer,
    #[error("the name server reported a failure: {0}")]
    ServerFailure(ResponseCode),
    #[error("the name server referred to other servers, so it does not resolve for clients")]
    Referral,
    #[error("the answer has nothing that can be connected to")]
    Unusable,
    #[error("the query failed: {0}")]
    Other(String),
}

/// What the name servers say about one fully qualified name, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply<T> {
    Found(Found<T>),
    /// The name exists, but not with records of this type.
    NoData,
    NoSuchName,
    NoAnswer(Cause),
}

/// Where answers come from.
pub(super) enum Sources {
    Dns(Dns),
    System(System),
}

/// The hosts file and the name servers, as read from the files at one time.
pub(super) struct Dns {
    hosts: Hosts,
    servers: Vec<TokioResolver>,
    search: Search,
    deadline: Duration,
}

/// The search domains and when they come first (resolv.conf(5), `search` and `ndots`).
struct Search {
    domains: Vec<Name>,
    ndots: usize,
}

impl Sources {
    pub(super) fn new(options: &ResolverOptions) -> Self {
        match options.resolve_with {
            ResolveWith::Dns => Self::Dns(Dns::read(options)),
            ResolveWith::System => {
                let timeout = options.query_timeout * LOOKUP_TIMEOUTS_MAX;
                Self::System(System::new(options.system_call, timeout))
            }
        }
    }

    /// Looks one question up. Never longer than some query timeouts.
    pub(super) async fn look_up(&self, question: &Question) -> Answer {
        match (self, question) {
            (Self::Dns(dns), Question::Addresses(host, family)) => {
                Answer::Addresses(dns.look_up(host, *family).await)
            }
            (Self::Dns(dns), Question::Targets(service)) => {
                Answer::Targets(dns.look_up_targets(service).await)
            }
            (Self::System(system), Question::Addresses(host, family)) => {
                Answer::Addresses(system.look_up(host, *family).await)
            }
            (Self::System(_), Question::Targets(_)) => {
                let cause = "the system's resolver has no SRV records".to_owned();
                Answer::none(question, Cause::Other(cause))
            }
        }
    }
}

impl Dns {
    /// Reads the files. What is missing or malformed is warned about and does without: the hosts
    /// file alone can be all that is needed, and the next change is read again.
    pub(super) fn read(options: &ResolverOptions) -> Self {
        let (servers, search) = read_resolv_conf(options);
        Self {
            hosts: read_hosts(&options.paths.hosts),
            servers: servers
                .into_iter()
                .filter_map(|server| build(server, options.query_timeout))
                .collect(),
            search,
            deadline: options.query_timeout * LOOKUP_TIMEOUTS_MAX,
        }
    }

    /// Looks one family of a host up.
    pub(super) async fn look_up(&self, name: &Name, family: Family) -> Outcome<IpAddr> {
        if let Some(outcome) = self.look_up_locally(name, family) {
            return outcome;
        }
        self.in_time(self.search_for(name, family)).await
    }

    /// Looks the targets of a service up.
    pub(super) async fn look_up_targets(&self, name: &Name) -> Outcome<Target> {
        self.in_time(self.search_for_targets(name)).await
    }

    async fn in_time<T>(&self, lookup: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        tokio::time::timeout(self.deadline, lookup)
            .await
            .unwrap_or(Err(Failure::NoAnswer(Cause::Silence)))
    }

    /// The hosts file's word is final: a name that it has with one family only is not asked for
    /// elsewhere, as with the C library (`hosts: files dns`).
    fn look_up_locally(&self, name: &Name, family: Family) -> Option<Outcome<IpAddr>> {
        let wanted = self.in_hosts_file(name, family);
        if !wanted.is_empty() || !self.in_hosts_file(name, family.other()).is_empty() {
            return Some(local(wanted));
        }
        // RFC 6761, section 6.3: without the name servers.
        name.is_localhost().then(|| {
            local(vec![match family {
                Family::V4 => Ipv4Addr::LOCALHOST.into(),
                Family::V6 => Ipv6Addr::LOCALHOST.into(),
            }])
        })
    }

    fn in_hosts_file(&self, name: &Name, family: Family) -> Vec<IpAddr> {
        let query = Query::query(name.clone(), family.record_type());
        let lookup = self.hosts.lookup_static_host(&query);
        lookup.as_ref().map(usable_addresses).unwrap_or_default()
    }

    /// Tries the name in the search domains until one has it.
    async fn search_for(&self, name: &Name, family: Family) -> Outcome<IpAddr> {
        let mut searched = Searched::default();
        let mut candidates = self.search.candidates(name).into_iter().peekable();
        while let Some(candidate) = candidates.next() {
            let reply = match self.ask_for_addresses(&candidate, family).await {
                Reply::NoData if candidates.peek().is_some() => {
                    self.tell_no_data(&candidate, family).await
                }
                // Nothing comes after it, so the two come to the same.
                Reply::NoData => Reply::NoSuchName,
                reply => reply,
            };
            if let Some(outcome) = searched.take(reply) {
                return outcome;
            }
        }
        searched.end()
    }

    async fn search_for_targets(&self, name: &Name) -> Outcome<Target> {
        let mut searched = Searched::default();
        for candidate in self.search.candidates(name) {
            let reply = match self.ask(&candidate, RecordType::SRV, usable_targets).await {
                // A name of this form is there for its SRV records, or by a wildcard.
                Reply::NoData => Reply::NoSuchName,
                reply => reply,
            };
            if let Some(outcome) = searched.take(reply) {
                return outcome;
            }
        }
        searched.end()
    }

    /// Whether a name without data of this family is the one that was meant (no data) or only there
    /// for mail or by a wildcard (no such name): the search must stop at the same name for both
    /// families.
    async fn tell_no_data(&self, name: &Name, family: Family) -> Reply<IpAddr> {
        match self.ask_for_addresses(name, family.other()).await {
            Reply::Found(_) => Reply::NoData,
            Reply::NoData | Reply::NoSuchName => Reply::NoSuchName,
            Reply::NoAnswer(cause) => Reply::NoAnswer(cause),
        }
    }

    async fn ask_for_addresses(&self, name: &Name, family: Family) -> Reply<IpAddr> {
        self.ask(name, family.record_type(), usable_addresses).await
    }

    /// Asks all name servers at once; the first who has something usable wins, else the best reply.
    async fn ask<T: Send + 'static>(
        &self,
        name: &Name,
        record_type: RecordType,
        usable: fn(&Lookup) -> Vec<T>,
    ) -> Reply<T> {
        let mut asked = JoinSet::new();
        for server in &self.servers {
            let (server, name) = (server.clone(), name.clone());
            asked.spawn(async move {
                let result = server.lookup(name, record_type).await;
                Reply::new(result, usable, Instant::now())
            });
        }
        let mut best = Reply::NoAnswer(Cause::NoNameServer);
        while let Some(joined) = asked.join_next().await {
            let reply = joined.unwrap_or_else(|err| Reply::NoAnswer(Cause::Other(err.to_string())));
            if let Reply::Found(_) = reply {
                return reply;
            }
            best = best.or_better(reply);
        }
        best
    }
}

/// How far a search has come.
///
/// Like the C library, a silent name server ends the search (another domain's answer would be another
/// name's), while one that reports a failure does not. But neither may turn into "there is no such
/// name" at the end.
#[derive(Default)]
struct Searched {
    unanswered: Option<Cause>,
}

impl Searched {
    /// What one candidate brought. `Some`: the search is over.
    fn take<T>(&mut self, reply: Reply<T>) -> Option<Outcome<T>> {
        match reply {
            Reply::Found(found) => Some(Ok(found)),
            Reply::NoData => Some(Err(Failure::Nothing)),
            Reply::NoSuchName => None,
            Reply::NoAnswer(cause @ Cause::ServerFailure(_)) => {
                self.unanswered.get_or_insert(cause);
                None
            }
            Reply::NoAnswer(cause) => Some(Err(Failure::NoAnswer(cause))),
        }
    }

    /// No candidate was the one.
    fn end<T>(self) -> Outcome<T> {
        Err(self.unanswered.map_or(Failure::Nothing, Failure::NoAnswer))
    }
}

impl Search {
    fn none() -> Self {
        Self {
            domains: Vec::new(),
            ndots: 1,
        }
    }

    /// The fully qualified names that `name` may mean, in the order in which they are tried.
    fn candidates(&self, name: &Name) -> Vec<Name> {
        if name.is_fqdn() {
            return vec![name.clone()];
        }
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        let searched = self.domains.iter();
        // Too long with this domain: then it is no name of this domain.
        let searched = searched.filter_map(|domain| name.clone().append_domain(domain).ok());
        let dots = usize::from(name.num_labels()).saturating_sub(1);

        let mut candidates: Vec<Name> = Vec::new();
        let first = (dots >= self.ndots).then(|| absolute.clone());
        for candidate in first
            .into_iter()
            .chain(searched)
            .chain(iter::once(absolute))
        {
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }
}

impl<T> Reply<T> {
    fn new(result: Result<Lookup, NetError>, usable: fn(&Lookup) -> Vec<T>, now: Instant) -> Self {
        match result {
            Ok(lookup) => {
                let items = usable(&lookup);
                if !items.is_empty() {
                    let ttl = lookup.valid_until().saturating_duration_since(now);
                    return Self::Found(Found { items, ttl });
                }
                if lookup
                    .answers()
                    .iter()
                    .any(|record| denies_service(&record.data))
                {
                    return Self::NoData;
                }
                Self::NoAnswer(Cause::Unusable)
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(no_records))) => Self::negative(&no_records),
            Err(NetError::Dns(DnsError::ResponseCode(code))) => {
                Self::NoAnswer(Cause::ServerFailure(code))
            }
            Err(NetError::Timeout) => Self::NoAnswer(Cause::Silence),
            Err(err) => Self::NoAnswer(Cause::Other(err.to_string())),
        }
    }

    fn negative(no_records: &NoRecords) -> Self {
        match no_records.response_code {
            ResponseCode::NXDomain => Self::NoSuchName,
            // RFC 2308, section 2.2: name servers without a SOA are a referral, not NODATA.
            ResponseCode::NoError if no_records.soa.is_none() && no_records.ns.is_some() => {
                Self::NoAnswer(Cause::Referral)
            }
            ResponseCode::NoError => Self::NoData,
            code => Self::NoAnswer(Cause::ServerFailure(code)),
        }
    }

    /// Of two servers' replies the one that says more. One dead server among several is ordinary
    /// and must not outweigh another's "there is no such name".
    fn or_better(self, other: Self) -> Self {
        fn rank<T>(reply: &Reply<T>) -> u8 {
            match reply {
                Reply::Found(_) => 4,
                Reply::NoData => 3,
                Reply::NoSuchName => 2,
                Reply::NoAnswer(Cause::NoNameServer) => 0,
                Reply::NoAnswer(_) => 1,
            }
        }
        if rank(&other) > rank(&self) {
            other
        } else {
            self
        }
    }
}

/// The addresses of an answer that a TCP connection can go to. Others exist: 0.0.0.0 is what
/// blocking name servers and hosts files say, and connecting to it would reach this machine.
fn usable_addresses(lookup: &Lookup) -> Vec<IpAddr> {
    let addresses = lookup.answers().iter().filter_map(|record| {
        let wanted = record.record_type() == lookup.query().query_type();
        record.data.ip_addr().filter(|_| wanted)
    });
    addresses.filter(is_usable).collect()
}

/// The targets of an answer, the preferred ones if there are too many.
fn usable_targets(lookup: &Lookup) -> Vec<Target> {
    let mut targets: Vec<_> = lookup
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => Some(Target {
                priority: srv.priority,
                host: fully_qualified(&srv.target),
                port: srv.port,
                weight: srv.weight,
            }),
            _ => None,
        })
        .collect();
    targets.sort();
    targets.dedup();
    let dropped = targets.len().saturating_sub(TARGETS_MAX);
    if dropped > 0 {
        tracing::debug!(
            dropped,
            "look up {}: more than {TARGETS_MAX} targets; the rest is not used",
            lookup.query().name()
        );
    }
    targets.truncate(TARGETS_MAX);
    targets
}

/// A target is never searched for in other domains. Lower case, so that how a name server spells it
/// makes no difference.
fn fully_qualified(target: &Name) -> Name {
    let mut name = target.to_lowercase();
    name.set_fqdn(true);
    name
}

/// RFC 2782: a record whose target is the root says that there is no such service.
fn denies_service(data: &RData) -> bool {
    matches!(data, RData::SRV(srv) if srv.target.is_root())
}

pub(super) fn is_usable(ip: &IpAddr) -> bool {
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

/// An answer without a name server. It has no lifetime (a change of the file is noticed), so the
/// longest one will do.
fn local(items: Vec<IpAddr>) -> Outcome<IpAddr> {
    if items.is_empty() {
        return Err(Failure::Nothing);
    }
    let ttl = Duration::MAX;
    Ok(Found { items, ttl })
}

fn read_hosts(path: &Path) -> Hosts {
    let mut hosts = Hosts::default();
    let read = fs::read(path).and_then(|bytes| {
        // Lossy, because hickory stops at the first line that is not UTF-8, be it a comment.
        hosts.read_hosts_conf(String::from_utf8_lossy(&bytes).as_bytes())
    });
    match read {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            tracing::debug!("read {}: there is no hosts file", path.display());
        }
        Err(err) => tracing::warn!(
            "read {}: {err}; its names are not known (make the file readable)",
            path.display()
        ),
    }
    hosts
}

/// The name servers and the search domains. Configured name servers replace the file's.
fn read_resolv_conf(options: &ResolverOptions) -> (Vec<NameServerConfig>, Search) {
    let path = &options.paths.resolv_conf;
    let parsed = fs::read(path)
        .map_err(NetError::from)
        .and_then(parse_resolv_conf);
    let from_file = match parsed {
        Ok((config, opts)) => Some((config.name_servers().to_vec(), search(&config, &opts))),
        Err(err) => {
            if options.name_servers.is_none() {
                tracing::warn!(
                    "read {}: {err}; only names in {} resolve (put a name server into the former)",
                    path.display(),
                    options.paths.hosts.display()
                );
            }
            None
        }
    };
    let (servers, search) = from_file.unwrap_or_else(|| (Vec::new(), Search::none()));
    match &options.name_servers {
        Some(explicit) => (explicit.iter().copied().map(name_server).collect(), search),
        None => (servers, search),
    }
}

/// hickory would search the domain of the machine's name in addition to the `search` list; the C
/// library does so only without such a list.
fn search(config: &ResolverConfig, opts: &ResolverOpts) -> Search {
    let domains = match config.search() {
        [] => config.domain().cloned().into_iter().collect(),
        listed => listed.to_vec(),
    };
    Search {
        domains,
        ndots: opts.ndots,
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
        .map(|mut connection| {
            connection.port = address.port();
            connection
        })
        .to_vec();
    // Whether negative replies are trusted only matters in a pool of several servers.
    NameServerConfig::new(address.ip(), true, connections)
}

/// A resolver that asks this one server, over TCP when an answer was truncated.
fn build(server: NameServerConfig, query_timeout: Duration) -> Option<TokioResolver> {
    let ip = server.ip;
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let opts = builder.options_mut();
    opts.timeout = query_timeout;
    opts.attempts = RETRIES_MAX;
    // The schedule asks when an answer has run out, and means it.
    opts.cache_size = 0;
    // Its path is fixed in hickory, and it would be read once for all time.
    opts.use_hosts_file = ResolveHosts::Never;
    builder
        .build()
        .inspect_err(|err| tracing::warn!("use the name server {ip}: {err}; doing without it"))
        .ok()
}

/// What tells one state of the files from the next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    resolv_conf: Option<Stamp>,
    hosts: Option<Stamp>,
}

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamps {
    /// Take them before reading the files: a change in between is then noticed the next time.
    pub(super) fn take(options: &ResolverOptions) -> Self {
        Self {
            resolv_conf: Stamp::take(&options.paths.resolv_conf),
            hosts: Stamp::take(&options.paths.hosts),
        }
    }
}

impl Stamp {
    /// `None` if there is no such file: that it appears is a change as well.
    fn take(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;

        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn name(name: &str) -> Name {
        Name::from_ascii(name).unwrap()
    }

    fn search(domains: &[&str], ndots: usize) -> Search {
        Search {
            domains: domains.iter().map(|domain| name(domain)).collect(),
            ndots,
        }
    }

    fn candidates(search: &Search, of: &str) -> Vec<String> {
        let candidates = search.candidates(&name(of));
        candidates.iter().map(Name::to_string).collect()
    }

    fn options(dir: &tempfile::TempDir) -> ResolverOptions {
        let mut options = ResolverOptions::default();
        options.paths.resolv_conf = dir.path().join("resolv.conf");
        options.paths.hosts = dir.path().join("hosts");
        options
    }

    fn sources(resolv_conf: &str, hosts: &[u8]) -> Dns {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir);
        fs::write(&options.paths.resolv_conf, resolv_conf).unwrap();
        fs::write(&options.paths.hosts, hosts).unwrap();
        Dns::read(&options)
    }

    fn found(addresses: &[&str]) -> Option<Outcome<IpAddr>> {
        let addresses = addresses.iter().map(|ip| IpAddr::from_str(ip).unwrap());
        Some(local(addresses.collect()))
    }

    #[test]
    fn a_trailing_dot_turns_the_search_off() {
        let search = search(&["web.svc.cluster.local", "cluster.local"], 5);
        assert_eq!(candidates(&search, "php.internal."), ["php.internal."]);
    }

    #[test]
    fn a_name_with_few_dots_is_searched_first() {
        let search = search(&["web.svc.cluster.local", "cluster.local"], 5);
        assert_eq!(
            candidates(&search, "php"),
            ["php.web.svc.cluster.local.", "php.cluster.local.", "php."]
        );
    }

    #[test]
    fn a_name_with_enough_dots_comes_first_as_it_is() {
        let search = search(&["example.com"], 1);
        assert_eq!(
            candidates(&search, "php.internal"),
            ["php.internal.", "php.internal.example.com."]
        );
    }

    #[test]
    fn the_root_as_a_search_domain_asks_nothing_twice() {
        assert_eq!(candidates(&search(&["."], 1), "php"), ["php."]);
    }

    #[test]
    fn a_name_that_is_too_long_for_a_search_domain_skips_it() {
        let long = ["a".repeat(60).as_str(); 4].join(".");
        let search = search(&["example.com"], 5);
        assert_eq!(candidates(&search, &long), [format!("{long}.")]);
    }

    #[test]
    fn the_better_of_two_replies_wins_in_either_order() {
        let silence = || Reply::<IpAddr>::NoAnswer(Cause::Silence);
        let unasked = || Reply::NoAnswer(Cause::NoNameServer);
        for (better, worse) in [
            (Reply::NoData, Reply::NoSuchName),
            (Reply::NoSuchName, silence()),
            (silence(), unasked()),
        ] {
            assert_eq!(better.clone().or_better(worse.clone()), better);
            assert_eq!(worse.or_better(better.clone()), better);
        }
    }

    #[test]
    fn resolv_conf_gives_servers_and_search_domains() {
        let sources = sources(
            "nameserver 127.0.0.1\nnameserver ::1\nsearch a.example b.example\noptions ndots:3\n",
            b"",
        );
        assert_eq!(sources.servers.len(), 2);
        assert_eq!(sources.search.ndots, 3);
        assert_eq!(
            candidates(&sources.search, "php"),
            ["php.a.example.", "php.b.example.", "php."]
        );
    }

    #[test]
    fn explicit_name_servers_replace_those_of_resolv_conf() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&dir);
        fs::write(
            &options.paths.resolv_conf,
            "nameserver 127.0.0.1\nnameserver 127.0.0.2\nsearch a.example\n",
        )
        .unwrap();
        options.name_servers = Some(vec![SocketAddr::from(([127, 0, 0, 3], 5353))]);
        let sources = Dns::read(&options);
        assert_eq!(sources.servers.len(), 1);
        assert_eq!(
            candidates(&sources.search, "php"),
            ["php.a.example.", "php."]
        );
    }

    #[test]
    fn without_files_there_is_localhost_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let sources = Dns::read(&options(&dir));
        assert!(sources.servers.is_empty());
        for host in ["localhost", "localhost.", "php.localhost"] {
            let host = name(host);
            assert_eq!(
                sources.look_up_locally(&host, Family::V4),
                found(&["127.0.0.1"])
            );
            assert_eq!(sources.look_up_locally(&host, Family::V6), found(&["::1"]));
        }
        assert_eq!(sources.look_up_locally(&name("php"), Family::V4), None);
    }

    #[test]
    fn the_hosts_file_has_the_last_word_on_its_names() {
        let sources = sources(
            "",
            b"# caf\xe9\n127.0.0.2 php PHP.internal localhost # one\n127.0.0.3\tphp\n",
        );
        let look_up = |host, family| sources.look_up_locally(&name(host), family);
        assert_eq!(
            look_up("php", Family::V4),
            found(&["127.0.0.2", "127.0.0.3"])
        );
        assert_eq!(look_up("Php.Internal.", Family::V4), found(&["127.0.0.2"]));
        assert_eq!(look_up("php", Family::V6), Some(Err(Failure::Nothing)));
        assert_eq!(look_up("localhost", Family::V4), found(&["127.0.0.2"]));
        assert_eq!(
            look_up("localhost", Family::V6),
            Some(Err(Failure::Nothing))
        );
    }

    #[test]
    fn addresses_that_reach_nobody_are_no_addresses() {
        for ip in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert!(!is_usable(&IpAddr::from_str(ip).unwrap()), "{ip}");
        }
        for ip in ["127.0.0.1", "::1", "10.0.0.1", "2001:db8::1"] {
            assert!(is_usable(&IpAddr::from_str(ip).unwrap()), "{ip}");
        }
    }

    #[test]
    fn stamps_tell_a_file_that_appears_grows_or_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir);
        let mut seen = vec![Stamps::take(&options)];
        fs::write(&options.paths.hosts, "a").unwrap();
        seen.push(Stamps::take(&options));
        assert_eq!(seen[1], Stamps::take(&options));
        fs::write(&options.paths.hosts, "ab").unwrap();
        seen.push(Stamps::take(&options));
        let other = dir.path().join("other");
        fs::write(&other, "ba").unwrap();
        fs::rename(&other, &options.paths.hosts).unwrap();
        seen.push(Stamps::take(&options));
        for pair in seen.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
    }
}
