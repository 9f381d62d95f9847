//! What is known about each configured name, and what to do when an answer comes. Pure.
//!
//! IPv4 and IPv6 addresses are two questions to DNS, and each keeps its own last good answer: a
//! name server that drops AAAA queries must neither delay the IPv4 addresses nor lose the IPv6 ones
//! that it gave before.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::rr::{Name, RecordType};

use super::ResolverError;
use super::lookup::{Failure, Found, Outcome};
use super::schedule::{self, Jitter};
use crate::config::BackendAddress;

/// Which addresses of a name are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

    pub(super) fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// One of the configured names, by its place in [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NameId(usize);

/// What is looked up: a name, and which of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) name: NameId,
    pub(super) family: Family,
}

/// Something that an operator wants to read in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The name stands for other addresses than before.
    Changed {
        old: Vec<IpAddr>,
        new: Vec<IpAddr>,
        /// How old the last good answer was when it was replaced; `None` for the first one.
        age: Option<Duration>,
    },
    /// Neither family has been answered with an address.
    Failing {
        failure: Failure,
        /// How many addresses stay in use.
        kept: usize,
        /// The age of the last good answer.
        age: Option<Duration>,
    },
    /// The name resolves again.
    Recovered { after: Duration },
}

/// Every configured backend, in the configured order, and what its name stands for.
pub(super) struct Names {
    backends: Vec<Backend>,
    /// Each name once, however many ports of it are configured.
    names: Vec<Known>,
}

enum Backend {
    Literal(SocketAddr),
    Name { id: NameId, port: u16 },
}

struct Known {
    host: String,
    name: Name,
    v4: Side,
    v6: Side,
    health: Health,
}

/// One family of one name.
struct Side {
    last_good: LastGood,
    latest: Latest,
    /// Failures in a row.
    failures: u32,
    phase: Phase,
}

enum Phase {
    Waiting { until: Instant },
    Asking,
}

enum LastGood {
    /// Never answered, or the addresses were denied for longer than the hold.
    Empty,
    Confirmed {
        addresses: Vec<IpAddr>,
        at: Instant,
    },
    /// Still in use, although the name servers say since then that there are none.
    Denied {
        addresses: Vec<IpAddr>,
        at: Instant,
        since: Instant,
    },
}

enum Latest {
    Pending,
    Found,
    Failed(Failure),
}

#[derive(Clone, Copy)]
enum Health {
    Unknown,
    Answering,
    Failing { since: Instant, warned: Instant },
}

impl Names {
    /// Nothing is known yet, and every name is due at once.
    pub(super) fn new(backends: &[BackendAddress], now: Instant) -> Result<Self, ResolverError> {
        let mut names = Self {
            backends: Vec::with_capacity(backends.len()),
            names: Vec::new(),
        };
        for backend in backends {
            let backend = match backend {
                BackendAddress::Literal(endpoint) => Backend::Literal(*endpoint),
                BackendAddress::Name { host, port } => Backend::Name {
                    id: names.intern(host, now)?,
                    port: *port,
                },
            };
            names.backends.push(backend);
        }
        Ok(names)
    }

    fn intern(&mut self, host: &str, now: Instant) -> Result<NameId, ResolverError> {
        let name = parse(host).map_err(|source| ResolverError::Name {
            host: host.to_owned(),
            source,
        })?;
        if let Some(index) = self.names.iter().position(|known| known.name == name) {
            return Ok(NameId(index));
        }
        self.names.push(Known::new(host.to_owned(), name, now));
        Ok(NameId(self.names.len() - 1))
    }

    /// Nothing to look up: the addresses are known and stay.
    pub(super) fn is_literal(&self) -> bool {
        self.names.is_empty()
    }

    /// The name as configured, for the log.
    pub(super) fn host(&self, id: NameId) -> &str {
        &self.names[id.0].host
    }

    /// The name to look up.
    pub(super) fn name(&self, id: NameId) -> &Name {
        &self.names[id.0].name
    }

    /// Everything that may be connected to: the backends in the configured order, the addresses of
    /// each name sorted, so that an answer in another order gives the same endpoints.
    pub(super) fn endpoints(&self) -> Vec<SocketAddr> {
        let mut endpoints = Vec::new();
        for backend in &self.backends {
            match backend {
                Backend::Literal(endpoint) => endpoints.push(*endpoint),
                Backend::Name { id, port } => {
                    let known = &self.names[id.0];
                    endpoints.extend(known.addresses().map(|ip| SocketAddr::new(ip, *port)));
                }
            }
        }
        endpoints
    }

    /// The questions to ask now; each counts as asked until its answer is handed in.
    pub(super) fn ask_due(&mut self, now: Instant) -> Vec<Question> {
        let mut due = Vec::new();
        for (index, known) in self.names.iter_mut().enumerate() {
            for family in [Family::V4, Family::V6] {
                let side = known.side_mut(family);
                if side.is_due(now) {
                    side.phase = Phase::Asking;
                    let name = NameId(index);
                    due.push(Question { name, family });
                }
            }
        }
        due
    }

    /// When the next question is due; `None` while all are being asked.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let sides = self.names.iter().flat_map(|known| [&known.v4, &known.v6]);
        sides.filter_map(Side::due).min()
    }

    /// Makes every question due, also those being asked (their answers must not be handed in any
    /// more), because the sources of the answers changed. What is known stays.
    pub(super) fn ask_again(&mut self, now: Instant) {
        for known in &mut self.names {
            for side in [&mut known.v4, &mut known.v6] {
                side.failures = 0;
                side.phase = Phase::Waiting { until: now };
            }
        }
    }

    /// Takes an answer in; what it changed is in [`Names::endpoints`] afterwards.
    pub(super) fn answered(
        &mut self,
        question: Question,
        outcome: Outcome,
        now: Instant,
        jitter: Jitter,
    ) -> Vec<Event> {
        let known = &mut self.names[question.name.0];
        let old: Vec<IpAddr> = known.addresses().collect();
        let age = known.age(now);
        known
            .side_mut(question.family)
            .answered(outcome, now, jitter);

        let mut events = Vec::new();
        let new: Vec<IpAddr> = known.addresses().collect();
        if old != new {
            events.push(Event::Changed { old, new, age });
        }
        events.extend(known.check_health(now));
        events
    }
}

/// A host name in DNS's form. Underscores are accepted: container names have them.
fn parse(host: &str) -> Result<Name, ProtoError> {
    let name = Name::from_ascii(host)?;
    if name.num_labels() == 0 {
        return Err(ProtoError::from("it is empty"));
    }
    Ok(name)
}

impl Known {
    fn new(host: String, name: Name, now: Instant) -> Self {
        Self {
            host,
            name,
            v4: Side::new(now),
            v6: Side::new(now),
            health: Health::Unknown,
        }
    }

    fn side_mut(&mut self, family: Family) -> &mut Side {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let both = self.v4.last_good.addresses().iter();
        both.chain(self.v6.last_good.addresses()).copied()
    }

    /// The age of the younger of the two last good answers.
    fn age(&self, now: Instant) -> Option<Duration> {
        let at = self.v4.last_good.at().max(self.v6.last_good.at())?;
        Some(now.saturating_duration_since(at))
    }

    /// The reason why the name does not resolve; `None` if it does or if that is not known yet.
    ///
    /// A name with addresses of one family only is ordinary, so one family's failure is none.
    fn failure(&self) -> Option<Failure> {
        match (&self.v4.latest, &self.v6.latest) {
            (Latest::Failed(v4), Latest::Failed(v6)) => {
                // "No answer" says more: the other family's "nothing" is most names' normal state.
                let missing = [v4, v6].into_iter().find(|f| **f != Failure::Nothing);
                Some(missing.unwrap_or(v4).clone())
            }
            (Latest::Pending | Latest::Found, _) | (_, Latest::Pending | Latest::Found) => None,
        }
    }

    fn check_health(&mut self, now: Instant) -> Option<Event> {
        match (self.failure(), self.health) {
            (Some(_), Health::Failing { warned, .. })
                if now.saturating_duration_since(warned) < schedule::BACKOFF_MAX =>
            {
                None
            }
            (Some(failure), health) => {
                let since = match health {
                    Health::Failing { since, .. } => since,
                    Health::Unknown | Health::Answering => now,
                };
                self.health = Health::Failing { since, warned: now };
                Some(Event::Failing {
                    failure,
                    kept: self.addresses().count(),
                    age: self.age(now),
                })
            }
            (None, Health::Failing { since, .. }) => {
                self.health = Health::Answering;
                let after = now.saturating_duration_since(since);
                Some(Event::Recovered { after })
            }
            (None, Health::Unknown | Health::Answering) => {
                self.health = Health::Answering;
                None
            }
        }
    }
}

impl Side {
    fn new(now: Instant) -> Self {
        Self {
            last_good: LastGood::Empty,
            latest: Latest::Pending,
            failures: 0,
            phase: Phase::Waiting { until: now },
        }
    }

    fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Asking => None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    fn answered(&mut self, outcome: Outcome, now: Instant, jitter: Jitter) {
        let delay = match outcome {
            Ok(Found { addresses, ttl }) => {
                self.found(addresses, now);
                schedule::refresh_after(ttl, jitter)
            }
            Err(failure) => {
                self.failed(failure, now);
                self.retry_after(now, jitter)
            }
        };
        self.phase = Phase::Waiting { until: now + delay };
    }

    fn found(&mut self, mut addresses: Vec<IpAddr>, now: Instant) {
        addresses.sort_unstable();
        addresses.dedup();
        self.last_good = LastGood::Confirmed { addresses, at: now };
        self.latest = Latest::Found;
        self.failures = 0;
    }

    fn failed(&mut self, failure: Failure, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if failure == Failure::Nothing {
            let last_good = std::mem::replace(&mut self.last_good, LastGood::Empty);
            self.last_good = last_good.denied(now);
        }
        self.latest = Latest::Failed(failure);
    }

    /// The back-off, but no longer than until addresses on hold may go.
    fn retry_after(&self, now: Instant, jitter: Jitter) -> Duration {
        let delay = schedule::retry_after(self.failures, jitter);
        match self.last_good {
            LastGood::Denied { since, .. } => match schedule::hold_left(since, now) {
                Duration::ZERO => delay,
                left => delay.min(left),
            },
            LastGood::Empty | LastGood::Confirmed { .. } => delay,
        }
    }
}

impl LastGood {
    fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Empty => &[],
            Self::Confirmed { addresses, .. } | Self::Denied { addresses, .. } => addresses,
        }
    }

    fn at(&self) -> Option<Instant> {
        match self {
            Self::Empty => None,
            Self::Confirmed { at, .. } | Self::Denied { at, .. } => Some(*at),
        }
    }

    /// The name servers said with authority that there are no addresses.
    fn denied(self, now: Instant) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Confirmed { addresses, at } => Self::Denied {
                addresses,
                at,
                since: now,
            },
            Self::Denied { since, .. } if schedule::hold_left(since, now).is_zero() => Self::Empty,
            Self::Denied { .. } => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lookup::Cause;
    use super::*;
    use schedule::{BACKOFF_MAX, BACKOFF_MIN, NEGATIVE_HOLD};

    const V4: Question = Question {
        name: NameId(0),
        family: Family::V4,
    };
    const V6: Question = Question {
        name: NameId(0),
        family: Family::V6,
    };
    const TTL: Duration = Duration::from_secs(10);

    /// Names with a clock that moves by hand, and without jitter.
    struct Bench {
        names: Names,
        now: Instant,
    }

    impl Bench {
        fn new(backends: &[BackendAddress]) -> Self {
            let now = Instant::now();
            let mut names = Names::new(backends, now).unwrap();
            names.ask_due(now);
            Self { names, now }
        }

        fn one_name() -> Self {
            Self::new(&[php(9000)])
        }

        fn found(&mut self, question: Question, addresses: &[&str]) -> Vec<Event> {
            let addresses = ips(addresses);
            self.answered(
                question,
                Ok(Found {
                    addresses,
                    ttl: TTL,
                }),
            )
        }

        fn nothing(&mut self, question: Question) -> Vec<Event> {
            self.answered(question, Err(Failure::Nothing))
        }

        fn silence(&mut self, question: Question) -> Vec<Event> {
            self.answered(question, Err(Failure::NoAnswer(Cause::Silence)))
        }

        fn answered(&mut self, question: Question, outcome: Outcome) -> Vec<Event> {
            let jitter = Jitter::from_hash(0);
            self.names.answered(question, outcome, self.now, jitter)
        }

        fn until_due(&self) -> Duration {
            self.names.next_due().unwrap() - self.now
        }

        fn endpoints(&self) -> Vec<String> {
            let endpoints = self.names.endpoints();
            endpoints.iter().map(SocketAddr::to_string).collect()
        }
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
        bench.found(V6, &["2001:db8::1"]);
        bench.found(V4, &["192.0.2.2", "192.0.2.1", "192.0.2.2"]);
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
        let mut names = Names::new(&[php(1), name("PHP.internal", 2), php(3)], now).unwrap();
        assert_eq!(names.ask_due(now), [V4, V6]);
        assert_eq!(names.ask_due(now), []);
        assert_eq!(names.next_due(), None);
    }

    #[test]
    fn malformed_names_are_refused_with_the_name() {
        let long = "a".repeat(64);
        for host in ["", ".", "a..b", "a b", long.as_str()] {
            let error = Names::new(&[name(host, 1)], Instant::now()).err();
            let error = error.unwrap_or_else(|| panic!("{host:?} was accepted"));
            assert!(error.to_string().contains(&format!("{host:?}")), "{error}");
        }
        for host in ["a", "a.", "my_app_", "_x._tcp.a", "10.0.0.1.nip.io"] {
            assert!(
                Names::new(&[name(host, 1)], Instant::now()).is_ok(),
                "{host:?}"
            );
        }
    }

    #[test]
    fn an_answer_is_refreshed_when_it_has_run_out() {
        let mut bench = Bench::one_name();
        bench.found(V4, &["192.0.2.1"]);
        assert_eq!(bench.until_due(), TTL);
        bench.now += TTL;
        assert_eq!(bench.names.ask_due(bench.now), [V4]);
    }

    #[test]
    fn a_rotated_answer_is_no_change() {
        let mut bench = Bench::one_name();
        bench.found(V4, &["192.0.2.1", "192.0.2.2"]);
        assert_eq!(bench.found(V4, &["192.0.2.2", "192.0.2.1"]), []);
    }

    #[test]
    fn a_change_tells_the_age_of_what_it_replaces() {
        let mut bench = Bench::one_name();
        bench.found(V4, &["192.0.2.1"]);
        bench.now += TTL;
        assert_eq!(
            bench.found(V4, &["192.0.2.2"]),
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
        bench.found(V4, &["192.0.2.1"]);
        for _ in 0..10_000 {
            bench.now += BACKOFF_MAX;
            bench.silence(V4);
        }
        assert_eq!(bench.endpoints(), ["192.0.2.1:9000"]);
        assert_eq!(bench.until_due(), BACKOFF_MAX);
    }

    #[test]
    fn a_denial_takes_the_addresses_away_after_the_hold_and_not_before() {
        let mut bench = Bench::one_name();
        bench.found(V4, &["192.0.2.1"]);
        let denied = bench.now;
        loop {
            bench.nothing(V4);
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
        bench.found(V4, &["192.0.2.1"]);
        bench.nothing(V4);
        bench.now += 2 * NEGATIVE_HOLD;
        bench.silence(V4);
        assert_eq!(bench.endpoints(), ["192.0.2.1:9000"]);
        assert!(
            bench.until_due() >= BACKOFF_MIN,
            "an elapsed hold must not spin"
        );
        bench.nothing(V4);
        assert!(bench.endpoints().is_empty());
    }

    #[test]
    fn an_answer_within_the_hold_ends_it() {
        let mut bench = Bench::one_name();
        bench.found(V4, &["192.0.2.1"]);
        bench.nothing(V4);
        bench.now += NEGATIVE_HOLD / 2;
        bench.found(V4, &["192.0.2.1"]);
        bench.now += NEGATIVE_HOLD;
        bench.nothing(V4);
        assert_eq!(bench.endpoints(), ["192.0.2.1:9000"]);
    }

    #[test]
    fn one_family_failing_is_no_news() {
        let mut bench = Bench::one_name();
        bench.found(V4, &["192.0.2.1"]);
        assert_eq!(bench.nothing(V6), []);
        assert_eq!(bench.silence(V6), []);
    }

    #[test]
    fn a_failing_name_warns_once_per_interval_and_tells_when_it_recovers() {
        let mut bench = Bench::one_name();
        bench.found(V4, &["192.0.2.1"]);
        bench.nothing(V6);
        bench.now += TTL;
        assert_eq!(
            bench.silence(V4),
            [Event::Failing {
                failure: Failure::NoAnswer(Cause::Silence),
                kept: 1,
                age: Some(TTL),
            }]
        );
        bench.now += BACKOFF_MIN;
        assert_eq!(bench.silence(V4), []);
        assert_eq!(bench.nothing(V6), []);
        bench.now += BACKOFF_MAX;
        assert_eq!(bench.silence(V4).len(), 1);
        let after = BACKOFF_MIN + BACKOFF_MAX;
        assert_eq!(
            bench.found(V4, &["192.0.2.1"]),
            [Event::Recovered { after }]
        );
    }

    #[test]
    fn nothing_is_said_before_both_families_are_known() {
        let mut bench = Bench::one_name();
        assert_eq!(bench.silence(V4), []);
        assert_eq!(
            bench.nothing(V6),
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
        bench.found(V6, &["2001:db8::1"]);
        for _ in 0..4 {
            bench.silence(V4);
        }
        bench.found(V4, &["192.0.2.1"]);
        bench.silence(V4);
        assert_eq!(bench.until_due(), BACKOFF_MIN);
        bench.silence(V4);
        bench.names.ask_again(bench.now);
        assert_eq!(bench.names.ask_due(bench.now), [V4, V6]);
        bench.silence(V4);
        assert_eq!(bench.until_due(), BACKOFF_MIN);
    }
}
