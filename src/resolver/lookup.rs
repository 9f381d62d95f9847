//! One lookup: the hosts file, then the name servers, as the C library does it.
//!
//! Programs on one machine are expected to find the same addresses, so its rules are followed where they
//! show: servers are asked in their order, the next one only on silence or failure, because the first may
//! know names that the others deny or have otherwise; and search domains end where they end there. What is
//! added: a failure on the way never turns into "this name does not exist".

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use tokio::task::JoinSet;

use super::ResolverOptions;
use super::exchange::Server;
use super::files::{read_hosts, read_resolv_conf};
use super::hosts::Hosts;
use super::names::{Question, RecordFamily};
use super::outcome::{Answer, CHAIN_MAX, Cause, Failure, Found, LookupOutcome, Target};
use super::reply::{Read, Reply, Step, is_usable, usable_addresses, usable_targets};
use super::search::{Search, Searched};
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
    pub(super) async fn look_up(&self, name: &Name, family: RecordFamily) -> LookupOutcome<IpAddr> {
        if let Some(outcome) = self.look_up_locally(name, family) {
            return outcome;
        }
        self.in_time(self.search_for(name, family)).await
    }

    /// Looks the targets of a service up.
    pub(super) async fn look_up_targets(&self, name: &Name) -> LookupOutcome<Target> {
        self.in_time(self.search_for_targets(name)).await
    }

    async fn in_time<T>(&self, lookup: impl Future<Output = LookupOutcome<T>>) -> LookupOutcome<T> {
        tokio::time::timeout(self.deadline, lookup)
            .await
            .unwrap_or(Err(Failure::NoAnswer(Cause::Silence)))
    }

    /// The hosts file's word is final: a name that it has with one family only is not asked for
    /// elsewhere, as with the C library (`hosts: files dns`).
    fn look_up_locally(&self, name: &Name, family: RecordFamily) -> Option<LookupOutcome<IpAddr>> {
        if let Some(addresses) = self.hosts.addresses(&name.to_ascii()) {
            let usable = addresses.iter().copied().filter(is_usable);
            return Some(local(usable.filter(|ip| family.has(ip)).collect()));
        }
        // RFC 6761, section 6.3: without the name servers.
        name.is_localhost().then(|| {
            local(vec![match family {
                RecordFamily::V4 => Ipv4Addr::LOCALHOST.into(),
                RecordFamily::V6 => Ipv6Addr::LOCALHOST.into(),
            }])
        })
    }

    /// Tries the name in the search domains until one has it.
    async fn search_for(&self, name: &Name, family: RecordFamily) -> LookupOutcome<IpAddr> {
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

    async fn search_for_targets(&self, name: &Name) -> LookupOutcome<Target> {
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
    async fn tell_no_data(&self, name: &Name, family: RecordFamily) -> Reply<IpAddr> {
        match self.ask_for_addresses(name, family.other()).await {
            Reply::Found(_) => Reply::NoData,
            Reply::NoData | Reply::NoSuchName => Reply::NoSuchName,
            Reply::NoAnswer(cause) => Reply::NoAnswer(cause),
        }
    }

    async fn ask_for_addresses(&self, name: &Name, family: RecordFamily) -> Reply<IpAddr> {
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

/// An answer without a name server. It has no lifetime (a change of the file is noticed), so the
/// longest one will do.
fn local(items: Vec<IpAddr>) -> LookupOutcome<IpAddr> {
    if items.is_empty() {
        return Err(Failure::Nothing);
    }
    let ttl = Duration::MAX;
    Ok(Found { items, ttl })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::str::FromStr;

    use super::super::resolv_conf;
    use super::super::search::tests::candidates;
    use super::*;

    fn name(name: &str) -> Name {
        Name::from_ascii(name).unwrap()
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

    fn found(addresses: &[&str]) -> Option<LookupOutcome<IpAddr>> {
        let addresses = addresses.iter().map(|ip| IpAddr::from_str(ip).unwrap());
        Some(local(addresses.collect()))
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
                sources.look_up_locally(&host, RecordFamily::V4),
                found(&["127.0.0.1"])
            );
            assert_eq!(
                sources.look_up_locally(&host, RecordFamily::V6),
                found(&["::1"])
            );
        }
        assert_eq!(
            sources.look_up_locally(&name("php"), RecordFamily::V4),
            None
        );
    }

    #[test]
    fn the_hosts_file_has_the_last_word_on_its_names() {
        let sources = sources(
            "",
            b"# caf\xe9\n127.0.0.2 php PHP.internal localhost # one\n127.0.0.3\tphp\n",
        );
        let look_up = |host, family| sources.look_up_locally(&name(host), family);
        assert_eq!(
            look_up("php", RecordFamily::V4),
            found(&["127.0.0.2", "127.0.0.3"])
        );
        assert_eq!(
            look_up("Php.Internal", RecordFamily::V4),
            found(&["127.0.0.2"])
        );
        assert_eq!(look_up("php.internal.", RecordFamily::V4), None);
        assert_eq!(
            look_up("php", RecordFamily::V6),
            Some(Err(Failure::Nothing))
        );
        assert_eq!(
            look_up("localhost", RecordFamily::V4),
            found(&["127.0.0.2"])
        );
        assert_eq!(
            look_up("localhost", RecordFamily::V6),
            Some(Err(Failure::Nothing))
        );
    }
}
