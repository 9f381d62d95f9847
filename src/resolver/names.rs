//! What is known about each configured name, and what to do when an answer comes. Pure.
//!
//! IPv4 and IPv6 addresses are two questions to DNS, and each keeps its own last good answer: a
//! name server that drops AAAA queries must neither delay the IPv4 addresses nor lose the IPv6 ones
//! that it gave before.
//!
//! A service (an SRV name) stands for targets, which are hosts with questions of their own. New
//! targets replace old ones only once it is known what they stand for: an answer that exchanges all
//! of them must not leave a moment without any.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use hickory_proto::ProtoError;
use hickory_proto::rr::{Name, RecordType};

use super::ResolverError;
use super::last_good::{Latest, Side};
use super::lookup::{Answer, Failure, Target};
use super::schedule::{self, Jitter};
use crate::backend::{ADDRESSES_MAX, Address, Endpoint, Suspects};
use crate::config::{BackendAddress, RefreshTimes, UnixAddress};
use crate::sys::net::{UnixKind, UnixName};

/// The most targets of one service that are used: each costs two lookups whenever its answer has run
/// out. Kubernetes names every pod of a headless service, and a slice of its own list holds 100.
pub(super) const TARGETS_MAX: usize = 256;

/// Which addresses of a name are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
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
    Addresses(Name, Family),
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
    backends: Vec<Backend>,
    /// Each once, however many ports of it are configured and whichever services have it as a target.
    hosts: BTreeMap<Name, Host>,
    services: BTreeMap<Name, Service>,
    times: RefreshTimes,
}

enum Backend {
    Literal(Address),
    Host { name: Name, port: u16 },
    Service(Name),
}

struct Host {
    /// For the log: as configured, or as the name server wrote it.
    label: String,
    origin: Origin,
    v4: Side<IpAddr>,
    v6: Side<IpAddr>,
    health: Health,
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
    health: Health,
}

#[derive(Clone, Copy)]
enum Health {
    Unknown,
    Answering,
    Failing { since: Instant, warned: Instant },
}

impl Names {
    /// Nothing is known yet, and every name is due at once.
    pub(super) fn new(
        backends: &[BackendAddress],
        times: RefreshTimes,
        now: Instant,
    ) -> Result<Self, ResolverError> {
        let mut names = Self {
            backends: Vec::with_capacity(backends.len()),
            hosts: BTreeMap::new(),
            services: BTreeMap::new(),
            times,
        };
        for backend in backends {
            let backend = match backend {
                BackendAddress::Literal(address) => Backend::Literal((*address).into()),
                BackendAddress::Unix(address) => {
                    Backend::Literal(Address::Unix(unix_name(address)))
                }
                BackendAddress::Name { host, port } => {
                    let name = parse(host)?;
                    let new = || Host::new(host.clone(), Origin::Configured, now);
                    names.hosts.entry(name.clone()).or_insert_with(new);
                    Backend::Host { name, port: *port }
                }
                BackendAddress::Service { name: service } => {
                    let name = parse(service)?;
                    let new = || Service::new(service.clone(), now);
                    names.services.entry(name.clone()).or_insert_with(new);
                    Backend::Service(name)
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

    /// Everything that may be connected to: the backends in the configured order, the addresses of
    /// each name sorted, so that an answer in another order gives the same endpoints.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for backend in &self.backends {
            match backend {
                Backend::Literal(address) => endpoints.push((*address).into()),
                Backend::Host { name, port } => {
                    let addresses = self.addresses(name);
                    let endpoint = |ip| Endpoint::from(SocketAddr::new(ip, *port));
                    endpoints.extend(addresses.map(endpoint));
                }
                Backend::Service(name) => {
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
            let v4 = host.v4.due().map(|due| (due, question(Family::V4)));
            let v6 = host.v6.due().map(|due| (due, question(Family::V6)));
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

fn unix_name(address: &UnixAddress) -> UnixName {
    match address {
        UnixAddress::Path(path) => UnixName::new(path.as_os_str().as_bytes(), UnixKind::Path),
        UnixAddress::Abstract(name) => UnixName::new(name, UnixKind::Abstract),
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
        Self {
            label,
            origin,
            v4: Side::new(ADDRESSES_MAX, now),
            v6: Side::new(ADDRESSES_MAX, now),
            health: Health::Unknown,
        }
    }

    fn side_mut(&mut self, family: Family) -> &mut Side<IpAddr> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
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
            health: Health::Unknown,
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
            before.extend(self.adopted.iter().filter(is_gone).cloned());
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

impl Health {
    /// Tells when a name stops resolving, now and then while it does not, and when it does again.
    fn check(
        &mut self,
        failure: Option<Failure>,
        kept: usize,
        age: Option<Duration>,
        now: Instant,
    ) -> Option<Event> {
        match (failure, *self) {
            (Some(_), Self::Failing { warned, .. })
                if now.saturating_duration_since(warned) < schedule::BACKOFF_MAX =>
            {
                None
            }
            (Some(failure), health) => {
                let since = match health {
                    Self::Failing { since, .. } => since,
                    Self::Unknown | Self::Answering => now,
                };
                *self = Self::Failing { since, warned: now };
                Some(Event::Failing { failure, kept, age })
            }
            (None, Self::Failing { since, .. }) => {
                *self = Self::Answering;
                let after = now.saturating_duration_since(since);
                Some(Event::Recovered { after })
            }
            (None, Self::Unknown | Self::Answering) => {
                *self = Self::Answering;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lookup::{Cause, Found, Outcome};
    use super::*;
    use schedule::{BACKOFF_MAX, BACKOFF_MIN, EARLY_INTERVAL};

    const NEGATIVE_HOLD: Duration = RefreshTimes::NEGATIVE_HOLD_DEFAULT;
    const ALL: usize = usize::MAX;

    fn v4() -> Question {
        addresses_of("php.internal", Family::V4)
    }

    fn v6() -> Question {
        addresses_of("php.internal", Family::V6)
    }

    fn addresses_of(host: &str, family: Family) -> Question {
        Question::Addresses(Name::from_ascii(host).unwrap(), family)
    }

    const TTL: Duration = Duration::from_secs(10);

    /// Names with a clock that moves by hand, and without jitter.
    struct Bench {
        names: Names,
        now: Instant,
    }

    impl Bench {
        fn new(backends: &[BackendAddress]) -> Self {
            Self::with(RefreshTimes::default(), backends)
        }

        fn with(times: RefreshTimes, backends: &[BackendAddress]) -> Self {
            let now = Instant::now();
            let mut names = Names::new(backends, times, now).unwrap();
            names.ask_due(now, ALL);
            Self { names, now }
        }

        fn one_name() -> Self {
            Self::new(&[php(9000)])
        }

        fn found(&mut self, question: Question, addresses: &[&str]) -> Vec<Event> {
            let items = ips(addresses);
            self.answered(question, Ok(Found { items, ttl: TTL }))
        }

        fn nothing(&mut self, question: Question) -> Vec<Event> {
            self.answered(question, Err(Failure::Nothing))
        }

        fn silence(&mut self, question: Question) -> Vec<Event> {
            self.answered(question, Err(Failure::NoAnswer(Cause::Silence)))
        }

        fn answered(&mut self, question: Question, outcome: Outcome<IpAddr>) -> Vec<Event> {
            self.take(question, Answer::Addresses(outcome))
        }

        fn targets(&mut self, targets: &[Target]) -> Vec<Event> {
            let items = targets.to_vec();
            self.take(service(), Answer::Targets(Ok(Found { items, ttl: TTL })))
        }

        fn no_targets(&mut self, failure: Failure) -> Vec<Event> {
            self.take(service(), Answer::Targets(Err(failure)))
        }

        fn take(&mut self, question: Question, answer: Answer) -> Vec<Event> {
            let jitter = Jitter::from_hash(0);
            let notes = self.names.answered(&question, answer, self.now, jitter);
            notes.into_iter().map(|(_, event)| event).collect()
        }

        fn ask_due(&mut self) -> Vec<Question> {
            let mut due = self.names.ask_due(self.now, ALL);
            due.sort();
            due
        }

        fn until_due(&self) -> Duration {
            self.names.next_due().unwrap() - self.now
        }

        fn endpoints(&self) -> Vec<String> {
            let endpoints = self.names.endpoints();
            endpoints.iter().map(|e| e.address.to_string()).collect()
        }
    }

    fn service() -> Question {
        Question::Targets(Name::from_ascii("_php._tcp.internal").unwrap())
    }

    fn php_service() -> BackendAddress {
        let name = "_php._tcp.internal".to_owned();
        BackendAddress::Service { name }
    }

    fn target(priority: u16, host: &str, port: u16) -> Target {
        Target {
            priority,
            host: Name::from_ascii(host).unwrap(),
            port,
            weight: 5,
        }
    }

    fn v4_of(host: &str) -> Question {
        addresses_of(host, Family::V4)
    }

    fn v6_of(host: &str) -> Question {
        addresses_of(host, Family::V6)
    }

    fn php(port: u16) -> BackendAddress {
        name("php.internal", port)
    }

    fn name(host: &str, port: u16) -> BackendAddress {
        let host = host.to_owned();
        BackendAddress::Name { host, port }
    }

    fn ips(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn endpoints_follow_the_configured_order_and_are_sorted_within_a_name() {
        let literal = BackendAddress::Literal("192.0.2.9:80".parse().unwrap());
        let mut bench = Bench::new(&[php(9001), literal, php(9000)]);
        assert_eq!(bench.endpoints(), ["192.0.2.9:80"]);
        bench.found(v6(), &["2001:db8::1"]);
        bench.found(v4(), &["192.0.2.2", "192.0.2.1", "192.0.2.2"]);
        assert_eq!(
            bench.endpoints(),
            [
                "192.0.2.1:9001",
                "192.0.2.2:9001",
                "[2001:db8::1]:9001",
                "192.0.2.9:80",
                "192.0.2.1:9000",
                "192.0.2.2:9000",
                "[2001:db8::1]:9000",
            ]
        );
    }

    #[test]
    fn a_name_with_two_ports_is_asked_for_once() {
        let now = Instant::now();
        let backends = [php(1), name("PHP.internal", 2), php(3)];
        let mut names = Names::new(&backends, RefreshTimes::default(), now).unwrap();
        assert_eq!(names.ask_due(now, ALL), [v4(), v6()]);
        assert_eq!(names.ask_due(now, ALL), []);
        assert_eq!(names.next_due(), None);
    }

    #[test]
    fn malformed_names_are_refused_with_the_name() {
        let accept = |host: &str| {
            let backends = [name(host, 1)];
            Names::new(&backends, RefreshTimes::default(), Instant::now())
        };
        let long = "a".repeat(64);
        for host in ["", ".", "a..b", "a b", long.as_str()] {
            let error = accept(host).err();
            let error = error.unwrap_or_else(|| panic!("{host:?} was accepted"));
            assert!(error.to_string().contains(&format!("{host:?}")), "{error}");
        }
        for host in ["a", "a.", "my_app_", "_x._tcp.a", "10.0.0.1.nip.io"] {
            assert!(accept(host).is_ok(), "{host:?}");
        }
    }

    #[test]
    fn an_answer_is_refreshed_when_it_has_run_out() {
        let mut bench = Bench::one_name();
        bench.found(v4(), &["192.0.2.1"]);
        assert_eq!(bench.until_due(), TTL);
        bench.now += TTL;
        assert_eq!(bench.ask_due(), [v4()]);
    }

    #[test]
    fn a_rotated_answer_is_no_change() {
        let mut bench = Bench::one_name();
        bench.found(v4(), &["192.0.2.1", "192.0.2.2"]);
        assert_eq!(bench.found(v4(), &["192.0.2.2", "192.0.2.1"]), []);
    }

    #[test]
    fn a_change_tells_the_age_of_what_it_replaces() {
        let mut bench = Bench::one_name();
        bench.found(v4(), &["192.0.2.1"]);
        bench.now += TTL;
        assert_eq!(
            bench.found(v4(), &["192.0.2.2"]),
            [Event::Changed {
                old: ips(&["192.0.2.1"]),
                new: ips(&["192.0.2.2"]),
                age: Some(TTL),
            }]
        );
    }

    #[test]
    fn no_answer_keeps_the_addresses_for_days() {
        let mut bench = Bench::one_name();
        bench.found(v4(), &["192.0.2.1"]);
        for _ in 0..10_000 {
            bench.now += BACKOFF_MAX;
            bench.silence(v4());
        }
        assert_eq!(bench.endpoints(), ["192.0.2.1:9000"]);
        assert_eq!(bench.until_due(), BACKOFF_MAX);
    }

    #[test]
    fn a_denial_takes_the_addresses_away_after_the_hold_and_not_before() {
        let mut bench = Bench::one_name();
        bench.found(v4(), &["192.0.2.1"]);
        let denied = bench.now;
        loop {
            bench.nothing(v4());
            if bench.endpoints().is_empty() {
                break;
            }
            assert!(bench.now - denied < NEGATIVE_HOLD);
            bench.now += bench.until_due();
        }
        assert_eq!(
            bench.now - denied,
            NEGATIVE_HOLD,
            "asked when the hold ends"
        );
    }

    #[test]
    fn silence_after_the_hold_takes_nothing_away() {
        let mut bench = Bench::one_name();
        bench.found(v4(), &["192.0.2.1"]);
        bench.nothing(v4());
        bench.now += 2 * NEGATIVE_HOLD;
        bench.silence(v4());
        assert_eq!(bench.endpoints(), ["192.0.2.1:9000"]);
        assert!(
            bench.until_due() >= BACKOFF_MIN,
            "an elapsed hold must not spin"
        );
        bench.nothing(v4());
        assert!(bench.endpoints().is_empty());
    }

    #[test]
    fn an_answer_within_the_hold_ends_it() {
        let mut bench = Bench::one_name();
        bench.found(v4(), &["192.0.2.1"]);
        bench.nothing(v4());
        bench.now += NEGATIVE_HOLD / 2;
        bench.found(v4(), &["192.0.2.1"]);
        bench.now += NEGATIVE_HOLD;
        bench.nothing(v4());
        assert_eq!(bench.endpoints(), ["192.0.2.1:9000"]);
    }

    #[test]
    fn one_family_failing_is_no_news() {
        let mut bench = Bench::one_name();
        bench.found(v4(), &["192.0.2.1"]);
        assert_eq!(bench.nothing(v6()), []);
        assert_eq!(bench.silence(v6()), []);
    }

    #[test]
    fn a_failing_name_warns_once_per_interval_and_tells_when_it_recovers() {
        let mut bench = Bench::one_name();
        bench.found(v4(), &["192.0.2.1"]);
        bench.nothing(v6());
        bench.now += TTL;
        assert_eq!(
            bench.silence(v4()),
            [Event::Failing {
                failure: Failure::NoAnswer(Cause::Silence),
                kept: 1,
                age: Some(TTL),
            }]
        );
        bench.now += BACKOFF_MIN;
        assert_eq!(bench.silence(v4()), []);
        assert_eq!(bench.nothing(v6()), []);
        bench.now += BACKOFF_MAX;
        assert_eq!(bench.silence(v4()).len(), 1);
        let after = BACKOFF_MIN + BACKOFF_MAX;
        assert_eq!(
            bench.found(v4(), &["192.0.2.1"]),
            [Event::Recovered { after }]
        );
    }

    #[test]
    fn nothing_is_said_before_both_families_are_known() {
        let mut bench = Bench::one_name();
        assert_eq!(bench.silence(v4()), []);
        assert_eq!(
            bench.nothing(v6()),
            [Event::Failing {
                failure: Failure::NoAnswer(Cause::Silence),
                kept: 0,
                age: None,
            }]
        );
    }

    #[test]
    fn back_off_starts_anew_after_success_and_after_a_change_of_the_files() {
        let mut bench = Bench::one_name();
        bench.found(v6(), &["2001:db8::1"]);
        for _ in 0..4 {
            bench.silence(v4());
        }
        bench.found(v4(), &["192.0.2.1"]);
        bench.silence(v4());
        assert_eq!(bench.until_due(), BACKOFF_MIN);
        bench.silence(v4());
        bench.names.ask_again(bench.now);
        assert_eq!(bench.ask_due(), [v4(), v6()]);
        bench.silence(v4());
        assert_eq!(bench.until_due(), BACKOFF_MIN);
    }

    #[test]
    fn what_has_been_due_for_longest_is_asked_first() {
        let now = Instant::now();
        let backends = [name("a", 1), name("b", 1), php_service()];
        let mut names = Names::new(&backends, RefreshTimes::default(), now).unwrap();
        let mut asked = names.ask_due(now, 2);
        assert_eq!(asked.len(), 2);
        assert_eq!(names.next_due(), Some(now), "the others wait for room");
        // Those that were asked come up again, later than those that wait.
        for question in asked.clone() {
            let answer = Answer::none(&question, Cause::Silence);
            names.answered(&question, answer, now, Jitter::from_hash(0));
        }
        let later = now + 2 * BACKOFF_MAX;
        asked.extend(names.ask_due(later, 3));
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), 5, "everyone had a turn: {asked:?}");
    }

    #[test]
    fn suspects_bring_the_names_behind_them_forward_and_no_others() {
        let mut bench = Bench::new(&[php(9000), name("other", 1)]);
        bench.found(v4(), &["192.0.2.1"]);
        bench.found(v6(), &["2001:db8::1"]);
        bench.found(v4_of("other"), &["192.0.2.2"]);
        bench.nothing(v6_of("other"));
        bench.now += EARLY_INTERVAL;
        let others = bench.ask_due();
        assert_eq!(others, [v6_of("other")], "the back-off of its denial");
        bench.nothing(v6_of("other"));
        assert_eq!(bench.ask_due(), []);
        bench.names.hasten(suspects(&["192.0.2.1"]), bench.now);
        assert_eq!(bench.ask_due(), [v4(), v6()]);
    }

    #[test]
    fn a_session_without_an_address_brings_everything_forward() {
        let mut bench = Bench::new(&[php(9000), php_service()]);
        for _ in 0..5 {
            bench.silence(v4());
            bench.silence(v6());
            bench.no_targets(Failure::NoAnswer(Cause::Silence));
        }
        bench.now += EARLY_INTERVAL;
        assert_eq!(bench.ask_due(), [], "the back-off");
        bench.names.hasten(Suspects::ALL, bench.now);
        assert_eq!(bench.ask_due(), [v4(), v6(), service()]);
    }

    fn suspects(addresses: &[&str]) -> Suspects {
        let refresher = crate::backend::Refresher::default();
        for ip in ips(addresses) {
            refresher.suspect(ip);
        }
        refresher.take().unwrap()
    }

    #[test]
    fn the_age_is_that_of_the_oldest_answer_in_use() {
        let mut bench = Bench::new(&[php(9000), name("other", 1)]);
        assert_eq!(bench.names.answered_at(), None);
        let begun = bench.now;
        bench.found(v4(), &["192.0.2.1"]);
        bench.now += TTL;
        bench.found(v4_of("other"), &["192.0.2.2"]);
        assert_eq!(bench.names.answered_at(), Some(begun));
        bench.silence(v4());
        assert_eq!(bench.names.answered_at(), Some(begun), "no answer is none");
        bench.found(v4(), &["192.0.2.1"]);
        assert_eq!(bench.names.answered_at(), Some(bench.now));
    }

    #[test]
    fn an_address_that_left_is_let_go_in_time_and_said_so() {
        let keep_missing = 2 * TTL;
        let times = RefreshTimes {
            keep_missing,
            ..RefreshTimes::default()
        };
        let mut bench = Bench::with(times, &[php(9000)]);
        bench.found(v4(), &["192.0.2.1", "192.0.2.2"]);
        assert_eq!(bench.found(v4(), &["192.0.2.2"]), []);
        assert_eq!(bench.endpoints(), ["192.0.2.1:9000", "192.0.2.2:9000"]);
        let expiry = bench.names.next_expiry().unwrap();
        assert_eq!(expiry, bench.now + keep_missing);
        assert!(
            bench
                .names
                .expire(expiry - Duration::from_millis(1))
                .is_none()
        );
        let notes = bench.names.expire(expiry).unwrap();
        assert_eq!(
            notes,
            [(
                "php.internal".to_owned(),
                Event::Changed {
                    old: ips(&["192.0.2.1", "192.0.2.2"]),
                    new: ips(&["192.0.2.2"]),
                    age: Some(keep_missing),
                }
            )]
        );
        assert_eq!(bench.endpoints(), ["192.0.2.2:9000"]);
        assert_eq!(bench.names.next_expiry(), None);
    }

    #[test]
    fn a_service_stands_for_its_targets_with_priority_and_weight() {
        let mut bench = Bench::new(&[php_service()]);
        bench.targets(&[target(20, "b.", 2), target(10, "a.", 1)]);
        assert_eq!(
            bench.ask_due(),
            [v4_of("a."), v6_of("a."), v4_of("b."), v6_of("b.")]
        );
        bench.found(v4_of("b."), &["192.0.2.2"]);
        bench.found(v4_of("a."), &["192.0.2.1", "192.0.2.3"]);
        assert_eq!(
            bench.endpoints(),
            ["192.0.2.1:1", "192.0.2.3:1", "192.0.2.2:2"]
        );
        let endpoints = bench.names.endpoints();
        let ranks: Vec<_> = endpoints.iter().map(|e| (e.priority, e.weight)).collect();
        assert_eq!(ranks, [(10, 5), (10, 5), (20, 5)]);
    }

    #[test]
    fn new_targets_replace_old_ones_when_they_are_known() {
        let mut bench = Bench::new(&[php_service()]);
        bench.targets(&[target(1, "a.", 1)]);
        bench.found(v4_of("a."), &["192.0.2.1"]);
        let events = bench.targets(&[target(1, "b.", 1), target(1, "c.", 1)]);
        assert!(
            matches!(&events[..], [Event::Retargeted { .. }]),
            "{events:?}"
        );
        assert_eq!(
            bench.endpoints(),
            ["192.0.2.1:1"],
            "b and c are not known yet"
        );
        bench.found(v4_of("b."), &["192.0.2.2"]);
        assert_eq!(bench.endpoints(), ["192.0.2.1:1", "192.0.2.2:1"]);
        bench.silence(v4_of("c."));
        bench.found(v6_of("c."), &["2001:db8::3"]);
        assert_eq!(bench.endpoints(), ["192.0.2.2:1", "[2001:db8::3]:1"]);
    }

    #[test]
    fn a_target_that_does_not_resolve_holds_nobody_up() {
        let mut bench = Bench::new(&[php_service()]);
        bench.targets(&[target(1, "a.", 1)]);
        bench.found(v4_of("a."), &["192.0.2.1"]);
        bench.targets(&[target(1, "b.", 1), target(1, "gone.", 1)]);
        bench.found(v4_of("b."), &["192.0.2.2"]);
        bench.nothing(v4_of("gone."));
        bench.silence(v6_of("gone."));
        assert_eq!(bench.endpoints(), ["192.0.2.2:1"]);
    }

    #[test]
    fn targets_that_nobody_uses_are_not_asked_for_any_more() {
        let mut bench = Bench::new(&[php_service(), name("a.", 7)]);
        bench.targets(&[target(1, "a.", 1), target(1, "b.", 1)]);
        bench.ask_due();
        for host in ["a.", "b."] {
            bench.found(v4_of(host), &["192.0.2.1"]);
            bench.nothing(v6_of(host));
        }
        bench.targets(&[target(1, "a.", 1)]);
        bench.now += TTL;
        let due = bench.ask_due();
        assert_eq!(due, [v4_of("a."), v6_of("a."), service()]);
        assert_eq!(
            bench.found(v4_of("b."), &["192.0.2.9"]),
            [],
            "a late answer"
        );
        bench.no_targets(Failure::Nothing);
        bench.now += NEGATIVE_HOLD;
        bench.no_targets(Failure::Nothing);
        assert_eq!(bench.endpoints(), ["192.0.2.1:7"], "configured ones stay");
        assert!(bench.ask_due().is_empty() || bench.names.hosts.len() == 1);
        assert_eq!(bench.names.hosts.len(), 1);
    }

    #[test]
    fn a_service_without_an_answer_keeps_its_targets_and_their_addresses_follow() {
        let mut bench = Bench::new(&[php_service()]);
        bench.targets(&[target(1, "a.", 1)]);
        bench.found(v4_of("a."), &["192.0.2.1"]);
        let events = bench.no_targets(Failure::NoAnswer(Cause::Silence));
        assert!(
            matches!(&events[..], [Event::Failing { kept: 1, .. }]),
            "{events:?}"
        );
        bench.now += NEGATIVE_HOLD * 2;
        bench.no_targets(Failure::NoAnswer(Cause::Silence));
        bench.found(v4_of("a."), &["192.0.2.9"]);
        assert_eq!(bench.endpoints(), ["192.0.2.9:1"]);
    }

    #[test]
    fn a_denied_service_is_given_up_after_the_hold() {
        let mut bench = Bench::new(&[php_service()]);
        bench.targets(&[target(1, "a.", 1)]);
        bench.found(v4_of("a."), &["192.0.2.1"]);
        bench.no_targets(Failure::Nothing);
        assert_eq!(bench.endpoints(), ["192.0.2.1:1"]);
        bench.now += NEGATIVE_HOLD;
        bench.no_targets(Failure::Nothing);
        assert!(bench.endpoints().is_empty());
    }

    #[test]
    fn a_target_with_another_weight_is_there_once() {
        let times = RefreshTimes {
            keep_missing: Duration::from_secs(100),
            ..RefreshTimes::default()
        };
        let mut bench = Bench::with(times, &[php_service()]);
        bench.targets(&[target(1, "a.", 1)]);
        bench.found(v4_of("a."), &["192.0.2.1"]);
        bench.targets(&[Target {
            weight: 77,
            ..target(1, "a.", 1)
        }]);
        let endpoints = bench.names.endpoints();
        assert_eq!(endpoints.len(), 1);
        assert_eq!(endpoints[0].weight, 77);
    }

    #[test]
    fn suspects_bring_the_service_of_a_target_forward() {
        let mut bench = Bench::new(&[php_service()]);
        bench.targets(&[target(1, "a.", 1), target(1, "b.", 1)]);
        bench.ask_due();
        bench.found(v4_of("a."), &["192.0.2.1"]);
        bench.found(v4_of("b."), &["192.0.2.2"]);
        bench.now += EARLY_INTERVAL;
        bench.names.hasten(suspects(&["192.0.2.2"]), bench.now);
        assert_eq!(bench.ask_due(), [v4_of("b."), service()]);
    }
}
