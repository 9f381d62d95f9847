//! What is known about each configured name, and what to do when an answer comes. Pure.
//!
//! IPv4 and IPv6 addresses are two questions to DNS, and each keeps its own last good answer: a
//! name server that drops AAAA queries must neither delay the IPv4 addresses nor lose the IPv6 ones
//! that it gave before.
//!
//! A service (an SRV name) stands for targets, which are hosts with questions of their own. New
//! targets replace old ones only once it is known what they stand for: an answer that exchanges all
//! of them must not leave a moment without any.

mod health;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::ProtoError;
use hickory_proto::rr::{Name, RecordType};

use super::ResolverError;
use super::last_good::{Latest, Side};
use super::outcome::{Answer, Failure, Target};
use super::schedule::Jitter;
use crate::backend::{ADDRESSES_MAX, Address, Endpoint, Suspects};
use crate::config::{Backend, BackendAddress, RefreshTimes};
use health::NameHealth;

/// The most targets of one service that are used: each costs two lookups whenever its answer has run
/// out. Kubernetes names every pod of a headless service, and a slice of its own list holds 100.
pub(super) const TARGETS_MAX: usize = 256;

/// The most addresses of a target, of each family. A name server that gave each of [`TARGETS_MAX`] targets as many as fit
/// into an answer would have millions of them kept, of which a set takes [`ADDRESSES_MAX`].
const TARGET_ADDRESSES_MAX: usize = 256;

/// Which addresses of a name are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum RecordFamily {
    V4,
    V6,
}

impl RecordFamily {
    pub(super) fn record_type(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }

    pub(super) fn has(self, ip: &IpAddr) -> bool {
        match self {
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Question {
    /// The addresses of a host.
    Addresses(Name, RecordFamily),
    /// The targets of a service.
    Targets(Name),
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses(host, family) => {
                write!(f, "{} ({})", host.to_ascii(), family.record_type())
            }
            Self::Targets(service) => write!(f, "{} (SRV)", service.to_ascii()),
        }
    }
}

/// Something that an operator wants to read in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The host stands for other addresses than before.
    Changed {
        old: Vec<IpAddr>,
        new: Vec<IpAddr>,
        /// How old the last good answer was when it was replaced; `None` for the first one.
        age: Option<Duration>,
    },
    /// The service has other targets than before.
    Retargeted {
        old: Vec<Target>,
        new: Vec<Target>,
        age: Option<Duration>,
    },
    /// The name does not resolve: neither family has been answered with an address, or there is no
    /// target.
    Failing {
        failure: Failure,
        /// How many addresses or targets stay in use.
        kept: usize,
        /// The age of the last good answer.
        age: Option<Duration>,
    },
    /// The name resolves again.
    Recovered { after: Duration },
}

/// An event, and the name that it is about.
pub(super) type Note = (String, Event);

/// Every configured backend, in the configured order, and what its name stands for.
pub(super) struct Names {
    backends: Vec<Configured>,
    /// Each once, however many ports of it are configured and whichever services have it as a target.
    hosts: BTreeMap<Name, Host>,
    services: BTreeMap<Name, Service>,
    times: RefreshTimes,
}

/// A backend, by what has to be asked for it.
enum Configured {
    Literal(Endpoint),
    Host {
        name: Name,
        port: u16,
        /// That of each of its addresses.
        weight: u16,
    },
    Service(Name),
}

struct Host {
    /// For the log: as configured, or as the name server wrote it.
    label: String,
    origin: Origin,
    v4: Side<IpAddr>,
    v6: Side<IpAddr>,
    health: NameHealth,
}

/// Why a host is looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Configured,
    /// Only for as long as a service has it as a target.
    Target,
}

struct Service {
    label: String,
    answer: Side<Target>,
    /// What is in use, sorted: the answer's, as far as they are known, and until all are known also
    /// those before.
    adopted: Vec<Target>,
    health: NameHealth,
}

impl Names {
    /// Nothing is known yet, and every name is due at once.
    pub(super) fn new(
        backends: &[Backend],
        times: RefreshTimes,
        now: Instant,
    ) -> Result<Self, ResolverError> {
        let mut names = Self {
            backends: Vec::with_capacity(backends.len()),
            hosts: BTreeMap::new(),
            services: BTreeMap::new(),
            times,
        };
        for Backend { address, weight } in backends {
            let weight = weight.get();
            let literal = |address: Address| Configured::Literal(weighed(address, weight));
            let backend = match address {
                BackendAddress::Literal(address) => literal((*address).into()),
                BackendAddress::Unix(address) => literal(Address::from(address)),
                BackendAddress::Name { host, port } => {
                    let name = parse(host)?;
                    let new = || Host::new(host.clone(), Origin::Configured, now);
                    names.hosts.entry(name.clone()).or_insert_with(new);
                    Configured::Host {
                        name,
                        port: *port,
                        weight,
                    }
                }
                BackendAddress::Service { name: service } => {
                    let name = parse(service)?;
                    let new = || Service::new(service.clone(), now);
                    names.services.entry(name.clone()).or_insert_with(new);
                    Configured::Service(name)
                }
            };
            names.backends.push(backend);
        }
        Ok(names)
    }

    /// Nothing to look up: the addresses are known and stay.
    pub(super) fn is_literal(&self) -> bool {
        self.hosts.is_empty() && self.services.is_empty()
    }

    /// Whether each name has been answered, or has been found not to be.
    pub(super) fn are_all_answered(&self) -> bool {
        let is_asked = |service: &Service| !matches!(service.answer.latest(), Latest::Pending);
        self.services.values().all(is_asked) && self.hosts.values().all(Host::is_known)
    }

    /// Everything that may be connected to: the backends in the configured order, the addresses of
    /// each name sorted, so that an answer in another order gives the same endpoints.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for backend in &self.backends {
            match backend {
                Configured::Literal(endpoint) => endpoints.push(*endpoint),
                Configured::Host { name, port, weight } => {
                    let addresses = self.addresses(name);
                    let endpoint = |ip| weighed(SocketAddr::new(ip, *port), *weight);
                    endpoints.extend(addresses.map(endpoint));
                }
                Configured::Service(name) => {
                    for target in &self.services[name].adopted {
                        let addresses = self.addresses(&target.host);
                        endpoints.extend(addresses.map(|ip| Endpoint {
                            address: SocketAddr::new(ip, target.port).into(),
                            priority: target.priority,
                            weight: target.weight,
                        }));
                    }
                }
            }
        }
        endpoints
    }

    fn addresses(&self, host: &Name) -> impl Iterator<Item = IpAddr> + '_ {
        self.hosts.get(host).into_iter().flat_map(Host::addresses)
    }

    /// When the oldest of the answers that the endpoints rest upon was given; `None` before the
    /// first one.
    pub(super) fn answered_at(&self) -> Option<Instant> {
        let hosts = self.hosts.values().filter_map(Host::answered_at);
        let services = self.services.values().map(|service| &service.answer);
        hosts.chain(services.filter_map(Side::answered_at)).min()
    }

    /// Since when the name has not resolved that has not for longest; `None` if all do, or nothing is known yet.
    pub(super) fn failing_since(&self) -> Option<Instant> {
        let hosts = self.hosts.values().map(|host| host.health);
        let services = self.services.values().map(|service| service.health);
        let all = hosts.chain(services);
        all.filter_map(NameHealth::failing_since).min()
    }

    // --- asking -------------------------------------------------------------------------------

    /// Up to `room` questions to ask now, those that have been due for longest first; each counts as
    /// asked until its answer is handed in.
    pub(super) fn ask_due(&mut self, now: Instant, room: usize) -> Vec<Question> {
        let due = self.due().filter(|(due, _)| *due <= now);
        let mut due: Vec<(Instant, Question)> = due.collect();
        due.sort();
        due.truncate(room);
        let questions: Vec<_> = due.into_iter().map(|(_, question)| question).collect();
        for question in &questions {
            match question {
                Question::Addresses(host, family) => {
                    let host = self.hosts.get_mut(host).expect("it was found due");
                    host.side_mut(*family).ask(now);
                }
                Question::Targets(service) => {
                    let service = self.services.get_mut(service).expect("it was found due");
                    service.answer.ask(now);
                }
            }
        }
        questions
    }

    /// When the next question is due; `None` while all are being asked.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due().map(|(due, _)| due).min()
    }

    fn due(&self) -> impl Iterator<Item = (Instant, Question)> + '_ {
        let hosts = self.hosts.iter().flat_map(|(name, host)| {
            let question = |family| Question::Addresses(name.clone(), family);
            let v4 = host.v4.due().map(|due| (due, question(RecordFamily::V4)));
            let v6 = host.v6.due().map(|due| (due, question(RecordFamily::V6)));
            [v4, v6]
        });
        let services = self.services.iter().map(|(name, service)| {
            let due = service.answer.due();
            due.map(|due| (due, Question::Targets(name.clone())))
        });
        hosts.chain(services).flatten()
    }

    /// Makes every question due, also those being asked (their answers must not be handed in any
    /// more), because the sources of the answers changed. What is known stays.
    pub(super) fn ask_again(&mut self, now: Instant) {
        for host in self.hosts.values_mut() {
            host.v4.ask_again(now);
            host.v6.ask_again(now);
        }
        for service in self.services.values_mut() {
            service.answer.ask_again(now);
        }
    }

    /// Makes the names that stand for one of the suspects due as soon as the schedule permits.
    pub(super) fn hasten(&mut self, suspects: Suspects, now: Instant) {
        let mut hastened = BTreeSet::new();
        for (name, host) in &mut self.hosts {
            if suspects == Suspects::ALL || host.addresses().any(|ip| suspects.include(ip)) {
                host.v4.hasten(now);
                host.v6.hasten(now);
                hastened.insert(name);
            }
        }
        for service in self.services.values_mut() {
            let is_suspect = |target: &Target| hastened.contains(&target.host);
            if suspects == Suspects::ALL || service.adopted.iter().any(is_suspect) {
                service.answer.hasten(now);
            }
        }
    }

    // --- answers ------------------------------------------------------------------------------

    /// Takes an answer in; what it changed is in [`Names::endpoints`] afterwards. An answer about a
    /// host that is no target any more is ignored.
    pub(super) fn answered(
        &mut self,
        question: &Question,
        answer: Answer,
        now: Instant,
        jitter: Jitter,
    ) -> Vec<Note> {
        let notes = match (question, answer) {
            (Question::Addresses(host, family), Answer::Addresses(outcome)) => {
                let Some(host) = self.hosts.get_mut(host) else {
                    return Vec::new();
                };
                let (family, times) = (*family, &self.times);
                host.change(now, |host| {
                    host.side_mut(family).answered(outcome, now, times, jitter);
                })
            }
            (Question::Targets(service), Answer::Targets(outcome)) => {
                let times = &self.times;
                let service = self.services.get_mut(service);
                let service = service.expect("services are never forgotten");
                service.change(now, |service| {
                    service.answer.answered(outcome, now, times, jitter);
                })
            }
            (question, answer) => unreachable!("{question:?} was answered with {answer:?}"),
        };
        self.adopt_targets(now);
        notes
    }

    /// When [`Names::expire`] has something to do.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let times = &self.times;
        let hosts = self.hosts.values();
        let hosts = hosts.flat_map(|host| [host.v4.expiry(times), host.v6.expiry(times)]);
        let services = self.services.values();
        let services = services.map(|service| service.answer.expiry(times));
        hosts.chain(services).flatten().min()
    }

    /// Lets go of what has been missing from the answers for long enough; `None` if there is nothing
    /// of that kind.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Vec<Note>> {
        if self.next_expiry().is_none_or(|expiry| expiry > now) {
            return None;
        }
        let times = &self.times;
        let mut notes = Vec::new();
        for host in self.hosts.values_mut() {
            notes.extend(host.change(now, |host| {
                host.v4.expire(now, times);
                host.v6.expire(now, times);
            }));
        }
        for service in self.services.values_mut() {
            notes.extend(service.change(now, |service| service.answer.expire(now, times)));
        }
        self.adopt_targets(now);
        Some(notes)
    }

    /// Brings what services use up to what is known of their targets, begins to look up new ones, and
    /// forgets those that nobody uses any more.
    fn adopt_targets(&mut self, now: Instant) {
        let mut used = BTreeSet::new();
        for service in self.services.values_mut() {
            let targets = service.targets();
            for target in &targets {
                let new = || Host::new(target.host.to_ascii(), Origin::Target, now);
                self.hosts.entry(target.host.clone()).or_insert_with(new);
            }
            let hosts = &self.hosts;
            service.adopt(&targets, |target| hosts[&target.host].is_known());
            let in_use = targets.into_iter().chain(service.adopted.iter().cloned());
            used.extend(in_use.map(|target| target.host));
        }
        self.hosts
            .retain(|name, host| host.origin == Origin::Configured || used.contains(name));
    }
}

/// An endpoint that has this weight, and the best priority.
fn weighed(address: impl Into<Address>, weight: u16) -> Endpoint {
    let address = address.into();
    Endpoint {
        weight,
        ..Endpoint::from(address)
    }
}

/// A host name in DNS's form. Underscores are accepted: container names have them.
pub(super) fn parse(host: &str) -> Result<Name, ResolverError> {
    let name = Name::from_ascii(host).and_then(|name| match name.num_labels() {
        0 => Err(ProtoError::from("it is empty")),
        _ => Ok(name),
    });
    name.map_err(|source| ResolverError::Name {
        host: host.to_owned(),
        source,
    })
}

impl Host {
    fn new(label: String, origin: Origin, now: Instant) -> Self {
        let addresses_max = match origin {
            Origin::Configured => ADDRESSES_MAX,
            Origin::Target => TARGET_ADDRESSES_MAX,
        };
        Self {
            label,
            origin,
            v4: Side::new(addresses_max, now),
            v6: Side::new(addresses_max, now),
            health: NameHealth::Unknown,
        }
    }

    fn side_mut(&mut self, family: RecordFamily) -> &mut Side<IpAddr> {
        match family {
            RecordFamily::V4 => &mut self.v4,
            RecordFamily::V6 => &mut self.v6,
        }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.v4.items().chain(self.v6.items()).copied()
    }

    /// The younger of the two last good answers.
    fn answered_at(&self) -> Option<Instant> {
        self.v4.answered_at().max(self.v6.answered_at())
    }

    /// Whether it is known what the host stands for, if only one family or nothing.
    fn is_known(&self) -> bool {
        let is_asked = |side: &Side<IpAddr>| !matches!(side.latest(), Latest::Pending);
        self.addresses().next().is_some() || is_asked(&self.v4) && is_asked(&self.v6)
    }

    /// The reason why the name does not resolve; `None` if it does or if that is not known yet.
    ///
    /// A name with addresses of one family only is ordinary, so one family's failure is none.
    fn failure(&self) -> Option<Failure> {
        match (self.v4.latest(), self.v6.latest()) {
            (Latest::Failed(v4), Latest::Failed(v6)) => {
                // "No answer" says more: the other family's "nothing" is most names' normal state.
                let missing = [v4, v6].into_iter().find(|f| **f != Failure::Nothing);
                Some(missing.unwrap_or(v4).clone())
            }
            (Latest::Pending | Latest::Found, _) | (_, Latest::Pending | Latest::Found) => None,
        }
    }

    /// Makes the change, and tells what it means.
    fn change(&mut self, now: Instant, change: impl FnOnce(&mut Self)) -> Vec<Note> {
        let old: Vec<IpAddr> = self.addresses().collect();
        let age = age(self.answered_at(), now);
        change(self);
        let new: Vec<IpAddr> = self.addresses().collect();
        let (kept, failure) = (new.len(), self.failure());
        let changed = (old != new).then_some(Event::Changed { old, new, age });
        let age = self::age(self.answered_at(), now);
        let health = self.health.check(failure, kept, age, now);
        let events = changed.into_iter().chain(health);
        events.map(|event| (self.label.clone(), event)).collect()
    }
}

impl Service {
    fn new(label: String, now: Instant) -> Self {
        Self {
            label,
            answer: Side::new(TARGETS_MAX, now),
            adopted: Vec::new(),
            health: NameHealth::Unknown,
        }
    }

    /// What the answers name, sorted. One that has got another priority or weight is not at the same
    /// time missing.
    fn targets(&self) -> Vec<Target> {
        let present: BTreeSet<_> = self.answer.present().map(Target::place).collect();
        let mut targets: Vec<_> = self.answer.present().cloned().collect();
        let is_missing = |target: &&Target| !present.contains(&target.place());
        targets.extend(self.answer.items().filter(is_missing).cloned());
        targets.sort();
        targets
    }

    fn adopt(&mut self, targets: &[Target], is_known: impl Fn(&Target) -> bool) {
        let known: Vec<_> = targets.iter().filter(|t| is_known(t)).cloned().collect();
        let mut before = Vec::new();
        if known.len() < targets.len() {
            let places: BTreeSet<_> = known.iter().map(Target::place).collect();
            let is_gone = |target: &&Target| !places.contains(&target.place());
            // No more of them than there may be new ones: one that is not known in time, in answer after answer with
            // other targets, would have all of them stay.
            let gone = self.adopted.iter().filter(is_gone);
            before.extend(gone.take(TARGETS_MAX).cloned());
        }
        self.adopted = known;
        self.adopted.extend(before);
        self.adopted.sort();
    }

    fn failure(&self) -> Option<Failure> {
        match self.answer.latest() {
            Latest::Failed(failure) => Some(failure.clone()),
            Latest::Pending | Latest::Found => None,
        }
    }

    /// Makes the change, and tells what it means.
    fn change(&mut self, now: Instant, change: impl FnOnce(&mut Self)) -> Vec<Note> {
        let old = self.targets();
        let age = age(self.answer.answered_at(), now);
        change(self);
        let new = self.targets();
        let (kept, failure) = (new.len(), self.failure());
        let changed = (old != new).then_some(Event::Retargeted { old, new, age });
        let age = self::age(self.answer.answered_at(), now);
        let health = self.health.check(failure, kept, age, now);
        let events = changed.into_iter().chain(health);
        events.map(|event| (self.label.clone(), event)).collect()
    }
}

fn age(answered_at: Option<Instant>, now: Instant) -> Option<Duration> {
    answered_at.map(|at| now.saturating_duration_since(at))
}

#[cfg(test)]
mod tests;
