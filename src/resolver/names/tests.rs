//! What names make of answers: hosts, services and what stays.

use super::super::outcome::{Cause, Found, LookupOutcome};
use super::super::schedule::{BACKOFF_MAX, BACKOFF_MIN, EARLY_INTERVAL};
use super::*;

const NEGATIVE_HOLD: Duration = RefreshTimes::NEGATIVE_HOLD_DEFAULT;
const ALL: usize = usize::MAX;

fn v4() -> Question {
    addresses_of("php.internal", RecordFamily::V4)
}

fn v6() -> Question {
    addresses_of("php.internal", RecordFamily::V6)
}

fn addresses_of(host: &str, family: RecordFamily) -> Question {
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
        let mut names = Names::new(&unweighed(backends), times, now).unwrap();
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

    fn answered(&mut self, question: Question, outcome: LookupOutcome<IpAddr>) -> Vec<Event> {
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

fn unweighed(backends: &[BackendAddress]) -> Vec<Backend> {
    backends.iter().cloned().map(Backend::from).collect()
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
    addresses_of(host, RecordFamily::V4)
}

fn v6_of(host: &str) -> Question {
    addresses_of(host, RecordFamily::V6)
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
fn the_weight_of_a_name_is_that_of_each_of_its_addresses() {
    let backends = [
        "php.internal:9000 weight=3",
        "192.0.2.9:80 weight=7",
        "192.0.2.8:80",
    ];
    let backends = backends.map(|backend| backend.parse().unwrap());
    let now = Instant::now();
    let mut names = Names::new(&backends, RefreshTimes::default(), now).unwrap();
    names.ask_due(now, ALL);
    let mut bench = Bench { names, now };
    bench.found(v4(), &["192.0.2.2", "192.0.2.1"]);
    bench.found(v6(), &["2001:db8::1"]);
    let endpoints = bench.names.endpoints();
    let weights: Vec<_> = endpoints.iter().map(|e| e.weight).collect();
    assert_eq!(weights, [3, 3, 3, 7, 1]);
}

#[test]
fn a_name_with_two_ports_is_asked_for_once() {
    let now = Instant::now();
    let backends = [php(1), name("PHP.internal", 2), php(3)];
    let mut names = Names::new(&unweighed(&backends), RefreshTimes::default(), now).unwrap();
    assert_eq!(names.ask_due(now, ALL), [v4(), v6()]);
    assert_eq!(names.ask_due(now, ALL), []);
    assert_eq!(names.next_due(), None);
}

#[test]
fn malformed_names_are_refused_with_the_name() {
    let accept = |host: &str| {
        let backends = [name(host, 1)];
        Names::new(
            &unweighed(&backends),
            RefreshTimes::default(),
            Instant::now(),
        )
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
    let since = Some(bench.now);
    assert_eq!(bench.names.failing_since(), since);
    bench.now += BACKOFF_MIN;
    assert_eq!(bench.silence(v4()), []);
    assert_eq!(bench.nothing(v6()), []);
    bench.now += BACKOFF_MAX;
    assert_eq!(bench.silence(v4()).len(), 1);
    assert_eq!(bench.names.failing_since(), since);
    let after = BACKOFF_MIN + BACKOFF_MAX;
    assert_eq!(
        bench.found(v4(), &["192.0.2.1"]),
        [Event::Recovered { after }]
    );
    assert_eq!(bench.names.failing_since(), None);
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
    let mut names = Names::new(&unweighed(&backends), RefreshTimes::default(), now).unwrap();
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
fn a_target_has_at_most_so_many_addresses_of_each_family() {
    let mut bench = Bench::new(&[php_service(), php(9000)]);
    bench.targets(&[target(1, "a.", 1)]);
    let v4s: Vec<_> = (0..2000)
        .map(|n| format!("10.0.{}.{}", n / 250, n % 250))
        .collect();
    let v4s: Vec<_> = v4s.iter().map(String::as_str).collect();
    bench.found(v4_of("a."), &v4s);
    assert_eq!(bench.endpoints().len(), TARGET_ADDRESSES_MAX);
    bench.found(v6_of("a."), &["2001:db8::1"]);
    assert_eq!(bench.endpoints().len(), TARGET_ADDRESSES_MAX + 1);
    bench.found(v4(), &v4s);
    let all = TARGET_ADDRESSES_MAX + 1 + v4s.len();
    assert_eq!(bench.endpoints().len(), all, "a name that is configured");
}

/// Of a name server that exchanges all targets in each answer, one of which is never known in time.
#[test]
fn targets_that_are_exchanged_again_and_again_do_not_pile_up() {
    let mut bench = Bench::new(&[php_service()]);
    for answer in 0..10 {
        let host = |number: usize| format!("p{number}.a{answer}.");
        let hosts: Vec<_> = (0..TARGETS_MAX).map(host).collect();
        let targets: Vec<_> = hosts.iter().map(|host| target(1, host, 9000)).collect();
        bench.targets(&targets);
        for host in &hosts[1..] {
            bench.found(v4_of(host), &["192.0.2.1"]);
        }
    }
    assert!(bench.names.endpoints().len() <= 2 * TARGETS_MAX);
    assert!(bench.names.hosts.len() <= 2 * TARGETS_MAX);
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
