//! One lookup: the hosts file, then the name servers, as the C library does it.
//!
//! Programs on one machine are expected to find the same addresses, so its rules are followed where they
//! show: servers are asked in their order, the next one only on silence or failure, because the first may
//! know names that the others deny or have otherwise; and search domains end where they end there. What is
//! added: a failure on the way never turns into "this name does not exist".

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::task::JoinSet;

use super::ResolverOptions;
use super::exchange::{Data, Record, Response, Server};
use super::hosts::Hosts;
use super::names::{Family, Question, TARGETS_MAX};
use super::resolv_conf::{self, Domain, ResolvConf};
use super::system::System;
use crate::config::ResolveWith;

/// A whole lookup, search domains included, takes at most this many query timeouts: enough for two silent
/// rounds over three servers, which the C library waits out twice where a domain is searched, and an end
/// that can be named.
const LOOKUP_TIMEOUTS_MAX: u32 = 12;

/// The same for a call of the C library, which nobody can end.
const CALL_TIMEOUTS_MAX: u32 = 2;

/// No server has less time, however many there are (the C library's least).
const SERVER_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// The time for a server that was silent the last time, where there are others. The C library waits in full again and
/// again; a program that lives long would pay that in each lookup, and be late with each new address. It still comes
/// in its turn, so that its answer counts before those of the servers behind it.
const SILENT_SERVER_TIMEOUT: Duration = Duration::from_millis(500);

/// More servers than the C library takes (MAXNS): its rule for their times is not made for so many.
const SERVERS_MAX_OF_THE_C_LIBRARY: usize = 3;

/// The most questions for one name: name servers usually follow aliases themselves.
const CHAIN_MAX: usize = 8;

/// The most aliases that are followed in one answer.
const ALIASES_MAX: usize = 64;

/// Where the machine's name is told.
const HOSTNAME_PATH: &str = "/proc/sys/kernel/hostname";

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
    #[error("the name server neither knows the name nor asks others")]
    Lame,
    #[error("the answer has nothing that can be connected to")]
    Unusable,
    #[error("the name is an alias of an alias, more than {CHAIN_MAX} times")]
    LongChain,
    #[error("resolv.conf has `attempts:0`, so nobody is asked")]
    NoAttempts,
    #[error("the name with a search domain is none that can be asked for")]
    NoName,
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
    servers: Vec<Server>,
    search: Search,
    attempts: u32,
    query_timeout: Duration,
    /// All servers at once, and the first usable answer.
    race: bool,
    /// With `rotate`: how many questions there have been.
    rotation: Option<AtomicUsize>,
    /// Of each server, whether it was silent the last time that it was asked.
    pub(super) silent: Vec<AtomicBool>,
    deadline: Duration,
}

/// The search domains and when they come first (resolv.conf(5), `search` and `ndots`).
struct Search {
    domains: Vec<Domain>,
    ndots: usize,
    no_tld_query: bool,
}

/// A fully qualified name that is meant by one that is not.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    /// `None`: with this search domain it is no name.
    name: Option<Name>,
    /// It is the name as it was given.
    is_as_given: bool,
}

impl Sources {
    pub(super) fn new(options: &ResolverOptions) -> Self {
        match options.resolve_with {
            ResolveWith::Dns => Self::Dns(Dns::read(options)),
            ResolveWith::System => {
                let timeout = options.query_timeout * CALL_TIMEOUTS_MAX;
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
        let conf = read_resolv_conf(options);
        let query_timeout = conf.timeout.unwrap_or(options.query_timeout);
        let addresses = match &options.name_servers {
            Some(explicit) => explicit.clone(),
            None => conf.servers,
        };
        let server = |address| Server {
            address,
            tcp_only: conf.use_vc,
        };
        Self {
            hosts: read_hosts(&options.paths.hosts),
            silent: addresses.iter().map(|_| AtomicBool::default()).collect(),
            servers: addresses.into_iter().map(server).collect(),
            search: Search {
                domains: conf.search,
                ndots: conf.ndots,
                no_tld_query: conf.no_tld_query,
            },
            attempts: conf.attempts,
            query_timeout,
            race: options.race,
            rotation: conf.rotate.then(AtomicUsize::default),
            deadline: query_timeout * LOOKUP_TIMEOUTS_MAX,
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
        if let Some(addresses) = self.hosts.addresses(&name.to_ascii()) {
            let usable = addresses.iter().copied().filter(is_usable);
            return Some(local(usable.filter(|ip| family.has(ip)).collect()));
        }
        // RFC 6761, section 6.3: without the name servers.
        name.is_localhost().then(|| {
            local(vec![match family {
                Family::V4 => Ipv4Addr::LOCALHOST.into(),
                Family::V6 => Ipv6Addr::LOCALHOST.into(),
            }])
        })
    }

    /// Tries the name in the search domains until one has it.
    async fn search_for(&self, name: &Name, family: Family) -> Outcome<IpAddr> {
        let mut searched = Searched::default();
        let candidates = self.search.candidates(name);
        for (index, candidate) in candidates.iter().enumerate() {
            let Some(name) = searched.next(candidate) else {
                continue;
            };
            let reply = match self.ask_for_addresses(name, family).await {
                Reply::NoData if index + 1 < candidates.len() => {
                    self.tell_no_data(name, family).await
                }
                // Nothing comes after it, so the two come to the same.
                Reply::NoData => Reply::NoSuchName,
                reply => reply,
            };
            if let Some(outcome) = searched.take(candidate, reply) {
                return outcome;
            }
        }
        searched.end()
    }

    async fn search_for_targets(&self, name: &Name) -> Outcome<Target> {
        let mut searched = Searched::default();
        for candidate in &self.search.candidates(name) {
            let Some(name) = searched.next(candidate) else {
                continue;
            };
            let reply = match self.ask(name, RecordType::SRV, usable_targets).await {
                // A name of this form is there for its SRV records, or by a wildcard.
                Reply::NoData => Reply::NoSuchName,
                reply => reply,
            };
            if let Some(outcome) = searched.take(candidate, reply) {
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

    /// Asks the name servers in their order, again and again for as many attempts as there are. The first
    /// who knows something has the last word.
    async fn ask<T: Send + 'static>(
        &self,
        name: &Name,
        record_type: RecordType,
        read: Read<T>,
    ) -> Reply<T> {
        if self.race {
            return self.ask_all_at_once(name, record_type, read).await;
        }
        let turns = self.rotation.as_ref();
        let first = turns.map_or(0, |turns| turns.fetch_add(1, Ordering::Relaxed));
        let count = self.servers.len();
        let mut best = self.unasked();
        for _ in 0..self.attempts {
            for place in 0..count {
                let index = first.wrapping_add(place) % count;
                let server = self.servers[index];
                let patience = self.patience(place, index);
                let reply = ask_server(server, patience, name, record_type, read).await;
                let is_silent = matches!(reply, Reply::NoAnswer(Cause::Silence));
                self.silent[index].store(is_silent, Ordering::Relaxed);
                if !reply.leaves_it_to_others() {
                    return reply;
                }
                best = best.or_better(reply);
            }
        }
        best
    }

    /// The same of all name servers at one time: the first who has something usable wins, else the best
    /// reply.
    async fn ask_all_at_once<T: Send + 'static>(
        &self,
        name: &Name,
        record_type: RecordType,
        read: Read<T>,
    ) -> Reply<T> {
        let mut best = self.unasked();
        for _ in 0..self.attempts {
            let mut asked = JoinSet::new();
            for server in &self.servers {
                let (server, name, patience) = (*server, name.clone(), self.query_timeout);
                asked.spawn(
                    async move { ask_server(server, patience, &name, record_type, read).await },
                );
            }
            while let Some(joined) = asked.join_next().await {
                let panicked = |err: tokio::task::JoinError| Cause::Other(err.to_string());
                let reply = joined.unwrap_or_else(|err| Reply::NoAnswer(panicked(err)));
                if let Reply::Found(_) = reply {
                    return reply;
                }
                best = best.or_better(reply);
            }
            if !best.leaves_it_to_others() {
                break;
            }
        }
        best
    }

    /// What there is to say before anybody was asked.
    fn unasked<T>(&self) -> Reply<T> {
        Reply::NoAnswer(match self.attempts {
            0 => Cause::NoAttempts,
            _ => Cause::NoNameServer,
        })
    }

    /// How long the server in this place of the order has: the C library's rule, which gives later ones
    /// more, and divides that by how many there are; less where it was silent the last time.
    fn patience(&self, place: usize, index: usize) -> Duration {
        let count = self.servers.len();
        let patience = self.patience_of_place(place);
        match count {
            2.. if self.silent[index].load(Ordering::Relaxed) => {
                patience.min(SILENT_SERVER_TIMEOUT)
            }
            0..=SERVERS_MAX_OF_THE_C_LIBRARY => patience,
            _ => patience.min(self.query_timeout),
        }
    }

    fn patience_of_place(&self, place: usize) -> Duration {
        let count = u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
        match u32::try_from(place) {
            Ok(place @ 1..32) => {
                let seconds = self.query_timeout.saturating_mul(1 << place) / count;
                seconds.max(self.query_timeout.min(SERVER_TIMEOUT_MIN))
            }
            _ => self.query_timeout,
        }
    }
}

/// Asks one server, and follows aliases that it leaves to the client.
async fn ask_server<T>(
    server: Server,
    patience: Duration,
    name: &Name,
    record_type: RecordType,
    read: Read<T>,
) -> Reply<T> {
    let mut name = name.clone();
    let mut ttl = Duration::MAX;
    for _ in 0..CHAIN_MAX {
        let asked = tokio::time::timeout(patience, server.ask(&name, record_type)).await;
        let response = match asked {
            Ok(Ok(response)) => response,
            Ok(Err(err)) => {
                let cause = format!("ask {}: {err}", server.address);
                return Reply::NoAnswer(Cause::Other(cause));
            }
            Err(_) => return Reply::NoAnswer(Cause::Silence),
        };
        match Reply::of(response, name, record_type, &mut ttl, read) {
            Step::Over(reply) => return reply,
            Step::Alias(target) => name = target,
        }
    }
    Reply::NoAnswer(Cause::LongChain)
}

/// How far a search has come.
///
/// As with the C library: after silence, or a word in `search` that makes no name, no other domain is
/// tried (its answer would be another name's), but the name itself is; a server that reports a failure
/// ends nothing. Neither may turn into "there is no such name" at the end.
#[derive(Default)]
struct Searched {
    unanswered: Option<Cause>,
    /// Search domains are not tried any more.
    only_as_given: bool,
}

impl Searched {
    /// What is to be asked for this candidate, if it is to be tried.
    fn next<'a>(&mut self, candidate: &'a Candidate) -> Option<&'a Name> {
        if self.only_as_given && !candidate.is_as_given {
            return None;
        }
        self.only_as_given = !candidate.is_as_given && candidate.name.is_none();
        if candidate.name.is_none() {
            self.unanswered.get_or_insert(Cause::NoName);
        }
        candidate.name.as_ref()
    }

    /// What one candidate brought. `Some`: the search is over.
    fn take<T>(&mut self, candidate: &Candidate, reply: Reply<T>) -> Option<Outcome<T>> {
        let cause = match reply {
            Reply::Found(found) => return Some(Ok(found)),
            Reply::NoData => return Some(Err(Failure::Nothing)),
            Reply::NoSuchName => return None,
            Reply::NoAnswer(cause) => cause,
        };
        match cause {
            Cause::ServerFailure(ResponseCode::ServFail) | Cause::Referral => {}
            // What comes is not about this name any more.
            Cause::Unusable | Cause::NoNameServer | Cause::NoAttempts | Cause::Other(_) => {
                return Some(Err(Failure::NoAnswer(cause)));
            }
            Cause::Silence
            | Cause::ServerFailure(_)
            | Cause::Lame
            | Cause::LongChain
            | Cause::NoName => {
                self.only_as_given = !candidate.is_as_given;
            }
        }
        self.unanswered.get_or_insert(cause);
        None
    }

    /// No candidate was the one.
    fn end<T>(self) -> Outcome<T> {
        Err(self.unanswered.map_or(Failure::Nothing, Failure::NoAnswer))
    }
}

impl Search {
    /// The fully qualified names that `name` may mean, in the order in which they are tried.
    fn candidates(&self, name: &Name) -> Vec<Candidate> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        let as_given = Candidate {
            name: Some(absolute),
            is_as_given: true,
        };
        if name.is_fqdn() {
            return vec![as_given];
        }
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let comes_first = dots >= self.ndots;
        let mut candidates: Vec<_> = comes_first.then(|| as_given.clone()).into_iter().collect();
        let mut asks_for_given = comes_first || (dots == 0 && self.no_tld_query);
        for domain in &self.domains {
            let name = match domain {
                Domain::Name(domain) => name.clone().append_domain(domain).ok(),
                Domain::NoName => None,
            };
            // The root as a search domain: it is tried in this place, and not again.
            asks_for_given |= name == as_given.name;
            let is_known = candidates.iter().any(|known| known.name == name);
            if name.is_none() || !is_known {
                candidates.push(Candidate {
                    name,
                    is_as_given: false,
                });
            }
        }
        if !asks_for_given || candidates.is_empty() {
            candidates.push(as_given);
        }
        candidates
    }
}

/// Takes what is usable out of records.
type Read<T> = fn(&[Record]) -> Vec<T>;

/// What a server's answer to one question comes to.
enum Step<T> {
    Over(Reply<T>),
    /// This is to be asked instead.
    Alias(Name),
}

impl<T> Reply<T> {
    /// Reads an answer about `name`. `ttl`: the shortest of the aliases so far.
    fn of(
        response: Response,
        mut name: Name,
        record_type: RecordType,
        ttl: &mut Duration,
        read: Read<T>,
    ) -> Step<T> {
        match response.code {
            ResponseCode::NoError => {}
            ResponseCode::NXDomain => return Step::Over(Self::NoSuchName),
            code => return Step::Over(Self::NoAnswer(Cause::ServerFailure(code))),
        }
        // RFC 2308, section 2.2: name servers without a SOA are a referral, not NODATA.
        let mut records = match response.records {
            _ if response.is_lame => return Step::Over(Self::NoAnswer(Cause::Lame)),
            _ if response.is_referral => return Step::Over(Self::NoAnswer(Cause::Referral)),
            None => return Step::Over(Self::NoAnswer(Cause::Unusable)),
            Some(records) => records,
        };
        let is_answered = !records.is_empty();
        let asked = name.clone();
        // What goes in circles ends, and so does what is made to take long.
        for _ in 0..ALIASES_MAX {
            let Some(at) = records.iter().position(|record| record.is_alias_of(&name)) else {
                break;
            };
            let alias = records.swap_remove(at);
            *ttl = alias.ttl.min(*ttl);
            if let Data::Alias(target) = alias.data {
                name = target;
            }
        }
        records.retain(|record| record.owner == name && record.kind == record_type);
        let items = read(&records);
        if !items.is_empty() {
            let ttls = records.iter().map(|record| record.ttl);
            let ttl = ttls.fold(*ttl, Duration::min);
            return Step::Over(Self::Found(Found { items, ttl }));
        }
        let denies = |record: &Record| record.denies_service();
        Step::Over(
            if name != asked && records.is_empty() && !response.has_soa {
                return Step::Alias(name);
            } else if records.iter().any(denies) || !is_answered || name != asked {
                Self::NoData
            } else {
                Self::NoAnswer(Cause::Unusable)
            },
        )
    }

    /// Whether the next server is to be asked, as the C library has it. Who says that there is nothing knows
    /// that, and other servers would read the question in the same way.
    fn leaves_it_to_others(&self) -> bool {
        let cause = match self {
            Self::Found(_) | Self::NoData | Self::NoSuchName => return false,
            Self::NoAnswer(cause) => cause,
        };
        match cause {
            Cause::ServerFailure(code) => matches!(
                *code,
                ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused
            ),
            Cause::Referral | Cause::Unusable => false,
            Cause::Silence
            | Cause::NoNameServer
            | Cause::Lame
            | Cause::LongChain
            | Cause::NoAttempts
            | Cause::NoName
            | Cause::Other(_) => true,
        }
    }

    /// Of two servers' replies the one that says more. One dead server among several is ordinary
    /// and must not outweigh another's word.
    fn or_better(self, other: Self) -> Self {
        fn rank<T>(reply: &Reply<T>) -> u8 {
            match reply {
                Reply::Found(_) => 7,
                Reply::NoData => 6,
                Reply::NoSuchName => 5,
                Reply::NoAnswer(Cause::NoNameServer | Cause::NoAttempts | Cause::NoName) => 0,
                Reply::NoAnswer(Cause::Other(_)) => 1,
                Reply::NoAnswer(Cause::Silence | Cause::LongChain) => 2,
                Reply::NoAnswer(Cause::Lame | Cause::Referral | Cause::Unusable) => 3,
                Reply::NoAnswer(Cause::ServerFailure(_)) => 4,
            }
        }
        if rank(&other) > rank(&self) {
            other
        } else {
            self
        }
    }
}

impl Record {
    fn is_alias_of(&self, name: &Name) -> bool {
        matches!(self.data, Data::Alias(_)) && self.owner == *name
    }

    /// RFC 2782: a record whose target is the root says that there is no such service.
    fn denies_service(&self) -> bool {
        matches!(&self.data, Data::Service { target, .. } if target.is_root())
    }
}

/// The addresses of an answer that a TCP connection can go to. Others exist: 0.0.0.0 is what
/// blocking name servers and hosts files say, and connecting to it would reach this machine.
fn usable_addresses(records: &[Record]) -> Vec<IpAddr> {
    let addresses = records.iter().filter_map(|record| match record.data {
        Data::Address(ip) => Some(ip),
        Data::Alias(_) | Data::Service { .. } | Data::Other => None,
    });
    addresses.filter(is_usable).collect()
}

/// The targets of an answer, the preferred ones if there are too many.
fn usable_targets(records: &[Record]) -> Vec<Target> {
    let targets = records.iter().filter_map(|record| match &record.data {
        Data::Service {
            priority,
            weight,
            port,
            target,
        } if !target.is_root() && *port != 0 => Some(Target {
            priority: *priority,
            host: fully_qualified(target),
            port: *port,
            weight: *weight,
        }),
        Data::Service { .. } | Data::Address(_) | Data::Alias(_) | Data::Other => None,
    });
    let mut targets: Vec<_> = targets.collect();
    targets.sort();
    targets.dedup();
    let dropped = targets.len().saturating_sub(TARGETS_MAX);
    if dropped > 0 {
        tracing::debug!(
            dropped,
            "look up a service: more than {TARGETS_MAX} targets; the rest is not used"
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
    match fs::read(path) {
        Ok(file) => return Hosts::parse(&file),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            tracing::debug!("read {}: there is no hosts file", path.display());
        }
        Err(err) => tracing::warn!(
            "read {}: {err}; its names are not known (make the file readable)",
            path.display()
        ),
    }
    Hosts::default()
}

/// The name servers, the search domains and the rest of resolv.conf. Without a name server in it, the one
/// of this machine.
fn read_resolv_conf(options: &ResolverOptions) -> ResolvConf {
    let path = &options.paths.resolv_conf;
    let (file, problem) = match fs::read(path) {
        Ok(file) => (file, "it names no name server that can be asked".to_owned()),
        Err(err) => (Vec::new(), err.to_string()),
    };
    let hostname = fs::read(HOSTNAME_PATH).unwrap_or_default();
    let mut conf = ResolvConf::parse(&file, &hostname);
    if conf.servers.is_empty() && options.name_servers.is_none() {
        let server = resolv_conf::own_machine();
        tracing::warn!(
            "read {}: {problem}; names that are not in {} are asked for at {server} (put `nameserver \
             ADDRESS` into the former)",
            path.display(),
            options.paths.hosts.display()
        );
        conf.servers = vec![server];
    }
    conf
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
            domains: domains
                .iter()
                .map(|domain| Domain::Name(name(&format!("{}.", domain.trim_end_matches('.')))))
                .collect(),
            ndots,
            no_tld_query: false,
        }
    }

    fn candidates(search: &Search, of: &str) -> Vec<String> {
        let candidates = search.candidates(&name(of));
        let name = |candidate: &Candidate| match &candidate.name {
            Some(name) => name.to_string(),
            None => "-".to_owned(),
        };
        candidates.iter().map(name).collect()
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
    fn a_name_that_is_too_long_for_a_search_domain_is_none_there() {
        let long = ["a".repeat(60).as_str(); 4].join(".");
        let search = search(&["example.com"], 5);
        assert_eq!(
            candidates(&search, &long),
            ["-".to_owned(), format!("{long}.")]
        );
    }

    #[test]
    fn the_better_of_two_replies_wins_in_either_order() {
        let silence = || Reply::<IpAddr>::NoAnswer(Cause::Silence);
        let failure = || Reply::NoAnswer(Cause::ServerFailure(ResponseCode::ServFail));
        let unasked = || Reply::NoAnswer(Cause::NoNameServer);
        for (better, worse) in [
            (Reply::NoData, Reply::NoSuchName),
            (Reply::NoSuchName, failure()),
            (failure(), silence()),
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
        options.name_servers = Some(vec![std::net::SocketAddr::from(([127, 0, 0, 3], 5353))]);
        let sources = Dns::read(&options);
        assert_eq!(sources.servers.len(), 1);
        assert_eq!(
            candidates(&sources.search, "php"),
            ["php.a.example.", "php."]
        );
    }

    #[test]
    fn without_files_there_is_localhost_and_this_machines_name_server() {
        let dir = tempfile::tempdir().unwrap();
        let sources = Dns::read(&options(&dir));
        let servers = sources.servers.iter().map(|server| server.address);
        assert_eq!(servers.collect::<Vec<_>>(), [resolv_conf::own_machine()]);
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
        assert_eq!(look_up("Php.Internal", Family::V4), found(&["127.0.0.2"]));
        assert_eq!(look_up("php.internal.", Family::V4), None);
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
