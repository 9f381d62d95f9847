//! The resolver against a scripted name server on loopback and files of its own. Nothing here reads
//! the system's configuration, and nothing sleeps: every wait is for a condition, with a deadline.

/// The tests of the whole program use it as well, and other parts of it.
#[path = "../../tests/common/name_server.rs"]
#[allow(dead_code)]
mod name_server;

use std::fs;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, Weak};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tempfile::TempDir;

use self::name_server::{NameServer, PATIENCE, Reply, Watched, ips};
use super::lookup::Dns;
use super::names::RecordFamily;
use super::outcome::{Failure, Found, LookupOutcome, Target};
use super::system::System;
use super::*;
use crate::backend::{Address, AddressSet};
use crate::config::BackendAddress;
use crate::sys::lookup::LookupError;

/// A query timeout that no test lives to see: what does not come at once never comes.
const NEVER: Duration = Duration::from_secs(600);

const SHORT: Duration = Duration::from_millis(100);

/// Files, options and a published set to watch.
struct Setup {
    dir: TempDir,
    options: ResolverOptions,
    published: Arc<Published>,
    swaps: Arc<Watched<usize>>,
    emptied: Arc<Watched<usize>>,
}

impl Setup {
    /// Without name servers and with empty files, unless the test says otherwise.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = ResolverOptions {
            paths: ResolverPaths {
                resolv_conf: dir.path().join("resolv.conf"),
                hosts: dir.path().join("hosts"),
            },
            name_servers: Some(Vec::new()),
            query_timeout: NEVER,
            ..ResolverOptions::default()
        };
        let swaps = Arc::new(Watched::<usize>::default());
        let emptied = Arc::new(Watched::<usize>::default());
        let published = Arc::new_cyclic(|weak: &Weak<Published>| {
            let (weak, swaps, emptied) = (weak.clone(), Arc::clone(&swaps), Arc::clone(&emptied));
            Published::new(move || {
                let published = weak.upgrade().unwrap();
                if published.load().endpoints().is_empty() {
                    emptied.change(|times| *times += 1);
                }
                swaps.change(|swaps| *swaps += 1);
            })
        });
        Self {
            dir,
            options,
            published,
            swaps,
            emptied,
        }
    }

    fn asking(servers: &[&NameServer]) -> Self {
        let mut setup = Self::new();
        setup.options.name_servers = Some(servers.iter().map(|s| s.address).collect());
        setup
    }

    fn with_times(mut self, times: RefreshTimes) -> Self {
        self.options.times = times;
        self
    }

    fn with(mut self, change: impl FnOnce(&mut RefreshTimes)) -> Self {
        change(&mut self.options.times);
        self
    }

    /// How often the set became empty.
    fn emptied(&self) -> usize {
        *self.emptied.value.lock().unwrap()
    }

    fn query_timeout(mut self, timeout: Duration) -> Self {
        self.options.query_timeout = timeout;
        self
    }

    /// Replaces a file as careful programs do: readers see the old one or the new one.
    fn write(&self, file: &str, text: &str) -> &Self {
        let new = self.dir.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.dir.path().join(file)).unwrap();
        self
    }

    fn spawn(&self, backends: &[&str]) -> ResolverHandle {
        let backends: Vec<_> = backends.iter().map(|backend| parse(backend)).collect();
        spawn([self.job(&backends)], || ()).unwrap()
    }

    fn job<'a>(&self, backends: &'a [Backend]) -> Job<'a> {
        Job {
            backends,
            published: Arc::clone(&self.published),
            lookups: Arc::default(),
            options: self.options.clone(),
        }
    }

    /// Waits for these endpoints.
    #[track_caller]
    fn wait_for(&self, endpoints: &[&str]) -> Arc<AddressSet> {
        let endpoints: Vec<Address> = endpoints.iter().map(|e| endpoint(e)).collect();
        let is_met = |_: &usize| {
            let set = self.published.load();
            set.endpoints()
                .iter()
                .map(|e| e.address)
                .eq(endpoints.iter().copied())
        };
        drop(self.swaps.wait_until(is_met));
        self.published.load_full()
    }

    fn look_up(&self, name: &str, family: RecordFamily) -> LookupOutcome<IpAddr> {
        self.ask(async |dns, name| dns.look_up(name, family).await, name)
    }

    fn look_up_targets(&self, name: &str) -> LookupOutcome<Target> {
        self.ask(async |dns, name| dns.look_up_targets(name).await, name)
    }

    fn ask<T>(&self, ask: impl AsyncFn(&Dns, &Name) -> T, name: &str) -> T {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let name = Name::from_ascii(name).unwrap();
        runtime.block_on(async {
            let dns = Dns::read(&self.options);
            tokio::time::timeout(PATIENCE, ask(&dns, &name))
                .await
                .expect("looked up in vain")
        })
    }
}

fn endpoint(text: &str) -> Address {
    Address::Tcp(text.parse().unwrap())
}

fn parse(backend: &str) -> Backend {
    if let Ok(literal) = backend.parse() {
        return BackendAddress::Literal(literal).into();
    }
    if backend.starts_with("srv:") {
        return backend.parse().unwrap();
    }
    let (host, port) = backend.rsplit_once(':').unwrap();
    BackendAddress::Name {
        host: host.to_owned(),
        port: port.parse().unwrap(),
    }
    .into()
}

fn no_answer<T>(cause: Cause) -> LookupOutcome<T> {
    Err(Failure::NoAnswer(cause))
}

#[track_caller]
fn assert_found(outcome: LookupOutcome<IpAddr>, addresses: &[&str]) -> Duration {
    let Ok(Found { items: found, ttl }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(found, ips(addresses));
    ttl
}

#[test]
fn the_first_answer_is_published_and_wakes() {
    let server = NameServer::start();
    server.a("php.internal", &["192.0.2.2", "192.0.2.1"]);
    server.aaaa("php.internal", &["2001:db8::1"]);
    let setup = Setup::asking(&[&server]);
    let _resolver = setup.spawn(&["php.internal:9000"]);
    setup.wait_for(&["192.0.2.1:9000", "192.0.2.2:9000", "[2001:db8::1]:9000"]);
}

#[test]
fn a_changed_answer_swaps_once() {
    let server = NameServer::start();
    server.a("php.internal", &["192.0.2.1"]);
    let setup = Setup::asking(&[&server]);
    let _resolver = setup.spawn(&["php.internal:9000"]);
    assert_eq!(setup.wait_for(&["192.0.2.1:9000"]).version(), 1);
    server.a("php.internal", &["192.0.2.7"]);
    assert_eq!(setup.wait_for(&["192.0.2.7:9000"]).version(), 2);
    let asked = server.asked("php.internal", RecordType::A);
    server.wait_asked("php.internal", RecordType::A, asked + 1);
    assert_eq!(*setup.swaps.value.lock().unwrap(), 2);
}

#[test]
fn a_rotated_answer_swaps_nothing() {
    let server = NameServer::start();
    server.a("php.internal", &["192.0.2.1", "192.0.2.2"]);
    let setup = Setup::asking(&[&server]);
    let _resolver = setup.spawn(&["php.internal:9000"]);
    let endpoints = ["192.0.2.1:9000", "192.0.2.2:9000"];
    setup.wait_for(&endpoints);
    server.a("php.internal", &["192.0.2.2", "192.0.2.1"]);
    let asked = server.asked("php.internal", RecordType::A);
    // The second of these comes after the first one's answer was taken in.
    server.wait_asked("php.internal", RecordType::A, asked + 2);
    assert_eq!(setup.wait_for(&endpoints).version(), 1);
}

#[test]
fn without_an_answer_the_last_good_one_stays() {
    fn stays_despite(failure: Reply) {
        let server = NameServer::start();
        server.a("php.internal", &["192.0.2.1"]);
        let setup = Setup::asking(&[&server]).query_timeout(SHORT);
        let _resolver = setup.spawn(&["php.internal:9000"]);
        setup.wait_for(&["192.0.2.1:9000"]);
        server.set("php.internal", RecordType::A, failure);
        let asked = server.asked("php.internal", RecordType::A);
        // A lookup asks at most twice, so that the third time is another lookup.
        server.wait_asked("php.internal", RecordType::A, asked + 3);
        assert_eq!(setup.wait_for(&["192.0.2.1:9000"]).version(), 1);
        server.a("php.internal", &["192.0.2.2"]);
        setup.wait_for(&["192.0.2.2:9000"]);
    }
    // Side by side, because each of them takes some rounds of the back-off.
    thread::scope(|scope| {
        for failure in [
            Reply::Silence,
            Reply::Code(ResponseCode::ServFail),
            Reply::Code(ResponseCode::Refused),
            Reply::Referral,
            Reply::Broken,
        ] {
            scope.spawn(|| stays_despite(failure));
        }
    });
}

#[test]
fn a_denied_name_keeps_its_addresses_at_first() {
    let server = NameServer::start();
    server.a("php.internal", &["192.0.2.1"]);
    let setup = Setup::asking(&[&server]);
    let _resolver = setup.spawn(&["php.internal:9000"]);
    setup.wait_for(&["192.0.2.1:9000"]);
    server.set(
        "php.internal",
        RecordType::A,
        Reply::Code(ResponseCode::NXDomain),
    );
    let asked = server.asked("php.internal", RecordType::A);
    server.wait_asked("php.internal", RecordType::A, asked + 2);
    assert_eq!(setup.wait_for(&["192.0.2.1:9000"]).version(), 1);
}

#[test]
fn a_name_that_begins_to_exist_is_found() {
    let server = NameServer::start();
    let setup = Setup::asking(&[&server]);
    let _resolver = setup.spawn(&["php.internal:9000"]);
    server.wait_asked("php.internal", RecordType::A, 1);
    assert_eq!(setup.published.load().version(), 0);
    server.a("php.internal", &["192.0.2.1"]);
    setup.wait_for(&["192.0.2.1:9000"]);
}

#[test]
fn silence_about_one_family_does_not_delay_the_other() {
    let server = NameServer::start();
    server.a("php.internal", &["192.0.2.1"]);
    server.set("php.internal", RecordType::AAAA, Reply::Silence);
    let setup = Setup::asking(&[&server]);
    let _resolver = setup.spawn(&["php.internal:9000"]);
    setup.wait_for(&["192.0.2.1:9000"]);
    // And goes on without it: only A is refreshed, while AAAA still hangs.
    server.a("php.internal", &["192.0.2.2"]);
    setup.wait_for(&["192.0.2.2:9000"]);
}

#[test]
fn broken_and_forged_datagrams_are_ignored() {
    let server = NameServer::start();
    server.set(
        "php.internal",
        RecordType::A,
        Reply::Noise(ips(&["192.0.2.1"])),
    );
    let setup = Setup::asking(&[&server]);
    assert_found(
        setup.look_up("php.internal", RecordFamily::V4),
        &["192.0.2.1"],
    );
}

#[test]
fn a_truncated_answer_is_fetched_over_tcp() {
    let server = NameServer::start();
    let many: Vec<IpAddr> = (1..=200)
        .map(|last| IpAddr::from([192, 0, 2, last]))
        .collect();
    server.set(
        "php.internal",
        RecordType::A,
        Reply::Truncated(many.clone()),
    );
    let setup = Setup::asking(&[&server]);
    let found = setup.look_up("php.internal", RecordFamily::V4).unwrap();
    assert_eq!(found.items, many);
}

#[test]
fn an_alias_is_followed() {
    let server = NameServer::start();
    server.set("php.internal", RecordType::A, Reply::Alias("lb.example."));
    server.a("lb.example", &["192.0.2.1"]);
    let setup = Setup::asking(&[&server]);
    assert_found(
        setup.look_up("php.internal", RecordFamily::V4),
        &["192.0.2.1"],
    );
}

#[test]
fn the_ttl_is_the_answers() {
    let server = NameServer::start();
    for (host, ttl) in [("zero", 0), ("some", 7), ("day", 86_400)] {
        server.set(
            host,
            RecordType::A,
            Reply::Addresses(ips(&["192.0.2.1"]), ttl),
        );
        let setup = Setup::asking(&[&server]);
        let rest = assert_found(setup.look_up(host, RecordFamily::V4), &["192.0.2.1"]);
        let ttl = Duration::from_secs(ttl.into());
        assert!(
            rest <= ttl && rest + Duration::from_secs(5) > ttl,
            "{rest:?} of {ttl:?}"
        );
    }
}

#[test]
fn what_the_name_server_says_is_told_apart_from_what_it_does_not() {
    let server = NameServer::start();
    let setup = Setup::asking(&[&server]).query_timeout(SHORT);
    for (reply, outcome) in [
        (Reply::Code(ResponseCode::NXDomain), Err(Failure::Nothing)),
        (Reply::NoData, Err(Failure::Nothing)),
        (Reply::Silence, no_answer(Cause::Silence)),
        (Reply::Referral, no_answer(Cause::Referral)),
        (
            Reply::Addresses(ips(&["0.0.0.0"]), 1),
            no_answer(Cause::Unusable),
        ),
        (
            Reply::Code(ResponseCode::ServFail),
            no_answer(Cause::ServerFailure(ResponseCode::ServFail)),
        ),
        (
            Reply::Code(ResponseCode::Refused),
            no_answer(Cause::ServerFailure(ResponseCode::Refused)),
        ),
    ] {
        server.set("php.internal", RecordType::A, reply);
        assert_eq!(setup.look_up("php.internal.", RecordFamily::V4), outcome);
    }
}

#[test]
fn a_failing_or_silent_name_server_does_not_hide_one_that_answers() {
    for failure in [
        Reply::Silence,
        Reply::Code(ResponseCode::ServFail),
        Reply::Code(ResponseCode::Refused),
    ] {
        let (failing, answering) = (NameServer::start(), NameServer::start());
        failing.set("php.internal", RecordType::A, failure);
        answering.a("php.internal", &["192.0.2.1"]);
        for servers in [[&failing, &answering], [&answering, &failing]] {
            let setup = Setup::asking(&servers).query_timeout(SHORT);
            assert_found(
                setup.look_up("php.internal", RecordFamily::V4),
                &["192.0.2.1"],
            );
        }
    }
}

#[test]
fn the_first_name_server_that_knows_something_has_the_last_word() {
    for reply in [
        Reply::NoData,
        Reply::Code(ResponseCode::NXDomain),
        Reply::Addresses(ips(&["192.0.2.1"]), 1),
    ] {
        let found = matches!(reply, Reply::Addresses(..));
        let (inside, outside) = (NameServer::start(), NameServer::start());
        inside.set("php.internal", RecordType::A, reply);
        outside.a("php.internal", &["203.0.113.66"]);
        let setup = Setup::asking(&[&inside, &outside]);
        let outcome = setup.look_up("php.internal.", RecordFamily::V4);
        match found {
            true => drop(assert_found(outcome, &["192.0.2.1"])),
            false => assert_eq!(outcome, Err(Failure::Nothing)),
        }
        assert_eq!(outside.asked("php.internal", RecordType::A), 0);
    }
}

/// A dead first server is waited for in full once, and then for half a second: the second lookup would not end here
/// otherwise. It still has the first word when it answers again.
#[test]
fn a_server_that_was_silent_is_waited_for_less_until_it_answers_again() {
    let (first, second) = (NameServer::start(), NameServer::start());
    first.set("php.internal", RecordType::A, Reply::Silence);
    second.a("php.internal", &["192.0.2.2"]);
    let was_silent = |dns: &Dns| dns.silent[0].load(Ordering::Relaxed);

    let setup = Setup::asking(&[&first, &second]).query_timeout(SHORT);
    let look_up = async |dns: &Dns, name: &Name| {
        let outcome = dns.look_up(name, RecordFamily::V4).await;
        (outcome, was_silent(dns))
    };
    let (outcome, is_silent) = setup.ask(look_up, "php.internal.");
    assert_found(outcome, &["192.0.2.2"]);
    assert!(is_silent);

    let setup = setup.query_timeout(NEVER);
    let look_up_after_silence = async |dns: &Dns, name: &Name| {
        dns.silent[0].store(true, Ordering::Relaxed);
        let late = dns.look_up(name, RecordFamily::V4).await;
        first.a("php.internal", &["192.0.2.1"]);
        let in_time = dns.look_up(name, RecordFamily::V4).await;
        (late, in_time, was_silent(dns))
    };
    let (late, in_time, is_silent) = setup.ask(look_up_after_silence, "php.internal.");
    assert_found(late, &["192.0.2.2"]);
    assert_found(in_time, &["192.0.2.1"]);
    assert!(!is_silent);
}

/// The C library's rule for the times of servers is made for three.
#[test]
fn however_many_name_servers_there_are_the_last_one_is_asked() {
    let silent: Vec<_> = (0..7).map(|_| NameServer::start()).collect();
    let last = NameServer::start();
    for server in &silent {
        server.set("php.internal", RecordType::A, Reply::Silence);
    }
    last.a("php.internal", &["192.0.2.8"]);
    let servers: Vec<_> = silent.iter().chain([&last]).collect();
    let setup = Setup::asking(&servers).query_timeout(SHORT);
    assert_found(
        setup.look_up("php.internal.", RecordFamily::V4),
        &["192.0.2.8"],
    );
}

#[test]
fn name_servers_race_when_they_are_told_to() {
    for reply in [Reply::Silence, Reply::Code(ResponseCode::NXDomain)] {
        let (first, second) = (NameServer::start(), NameServer::start());
        first.set("php.internal", RecordType::A, reply);
        second.a("php.internal", &["192.0.2.1"]);
        let mut setup = Setup::asking(&[&first, &second]);
        setup.options.race = true;
        assert_found(
            setup.look_up("php.internal", RecordFamily::V4),
            &["192.0.2.1"],
        );
    }
}

#[test]
fn an_alias_of_too_many_aliases_is_a_failure_and_no_denial() {
    let server = NameServer::start();
    let names = ["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "a10"];
    for pair in names.windows(2) {
        server.set(pair[0], RecordType::A, Reply::Alias(pair[1]));
    }
    server.a("a10", &["192.0.2.1"]);
    let setup = Setup::asking(&[&server]);
    assert_eq!(
        setup.look_up("a1.", RecordFamily::V4),
        no_answer(Cause::LongChain)
    );
    assert_found(setup.look_up("a3.", RecordFamily::V4), &["192.0.2.1"]);
}

#[test]
fn without_a_name_server_there_is_no_answer() {
    let setup = Setup::new();
    let outcome = setup.look_up("php.internal", RecordFamily::V4);
    assert_eq!(outcome, no_answer(Cause::NoNameServer));
}

/// A name server that is asked for `php`, searched in a.example and then b.example.
fn searching() -> (NameServer, Setup) {
    let server = NameServer::start();
    let setup = Setup::asking(&[&server]).query_timeout(SHORT);
    setup.write(
        "resolv.conf",
        "nameserver 127.0.0.1\nsearch a.example b.example\n",
    );
    (server, setup)
}

#[test]
fn a_search_goes_on_past_names_that_do_not_exist() {
    let (server, setup) = searching();
    server.a("php.b.example", &["192.0.2.1"]);
    assert_found(setup.look_up("php", RecordFamily::V4), &["192.0.2.1"]);
    assert_eq!(
        setup.look_up("php.", RecordFamily::V4),
        Err(Failure::Nothing)
    );
}

#[test]
fn after_silence_no_other_domain_is_searched_but_the_name_itself_is_asked_for() {
    let (server, setup) = searching();
    server.set("php.a.example", RecordType::A, Reply::Silence);
    server.a("php.b.example", &["203.0.113.66"]);
    assert_eq!(
        setup.look_up("php", RecordFamily::V4),
        no_answer(Cause::Silence)
    );
    server.a("php", &["192.0.2.1"]);
    assert_found(setup.look_up("php", RecordFamily::V4), &["192.0.2.1"]);
}

#[test]
fn a_failure_in_the_search_never_ends_as_no_such_name() {
    let (server, setup) = searching();
    let failure = Reply::Code(ResponseCode::ServFail);
    server.set("php.a.example", RecordType::A, failure);
    let outcome = no_answer(Cause::ServerFailure(ResponseCode::ServFail));
    assert_eq!(setup.look_up("php", RecordFamily::V4), outcome);
    server.a("php.b.example", &["192.0.2.1"]);
    assert_found(setup.look_up("php", RecordFamily::V4), &["192.0.2.1"]);
}

#[test]
fn both_families_are_searched_to_the_same_name() {
    let (server, setup) = searching();
    server.a("php.a.example", &["192.0.2.1"]);
    server.set("php.a.example", RecordType::AAAA, Reply::NoData);
    server.aaaa("php.b.example", &["2001:db8::66"]);
    assert_eq!(
        setup.look_up("php", RecordFamily::V6),
        Err(Failure::Nothing)
    );
}

#[test]
fn a_search_goes_on_past_names_without_addresses() {
    let (server, setup) = searching();
    server.set("php.a.example", RecordType::A, Reply::NoData);
    server.set("php.a.example", RecordType::AAAA, Reply::NoData);
    server.a("php.b.example", &["192.0.2.1"]);
    assert_found(setup.look_up("php", RecordFamily::V4), &["192.0.2.1"]);
}

#[test]
fn the_hosts_file_is_enough() {
    let setup = Setup::new();
    setup.write("hosts", "127.0.0.5 php.internal\n::5 php.internal\n");
    let _resolver = setup.spawn(&["php.internal:9000", "localhost:80"]);
    setup.wait_for(&["127.0.0.5:9000", "[::5]:9000", "127.0.0.1:80", "[::1]:80"]);
}

#[test]
fn the_hosts_file_comes_before_the_name_servers() {
    let server = NameServer::start();
    server.a("php.internal", &["203.0.113.66"]);
    let setup = Setup::asking(&[&server]);
    setup.write("hosts", "127.0.0.5 php.internal\n");
    let _resolver = setup.spawn(&["php.internal:9000"]);
    setup.wait_for(&["127.0.0.5:9000"]);
    assert_eq!(server.asked("php.internal", RecordType::A), 0);
}

#[test]
fn a_change_of_the_hosts_file_is_noticed() {
    let setup = Setup::new();
    let _resolver = setup.spawn(&["php.internal:9000"]);
    setup.write("hosts", "127.0.0.5 php.internal\n");
    setup.wait_for(&["127.0.0.5:9000"]);
    setup.write("hosts", "127.0.0.6 php.internal\n");
    setup.wait_for(&["127.0.0.6:9000"]);
}

#[test]
fn a_change_of_resolv_conf_is_noticed_while_a_lookup_hangs() {
    let server = NameServer::start();
    server.set("php.a.example", RecordType::A, Reply::Silence);
    server.set("php.a.example", RecordType::AAAA, Reply::Silence);
    server.a("php.b.example", &["192.0.2.1"]);
    let setup = Setup::asking(&[&server]);
    setup.write("resolv.conf", "nameserver 127.0.0.1\nsearch a.example\n");
    let _resolver = setup.spawn(&["php:9000"]);
    server.wait_asked("php.a.example", RecordType::A, 1);
    setup.write("resolv.conf", "nameserver 127.0.0.1\nsearch b.example\n");
    setup.wait_for(&["192.0.2.1:9000"]);
}

#[test]
fn literals_alone_need_no_thread() {
    let setup = Setup::new();
    let resolver = setup.spawn(&["192.0.2.9:80", "[2001:db8::9]:80"]);
    assert!(resolver.running.is_none());
    let set = setup.wait_for(&["192.0.2.9:80", "[2001:db8::9]:80"]);
    assert_eq!(set.version(), 1);
}

#[test]
fn literals_and_names_keep_the_configured_order() {
    let server = NameServer::start();
    let setup = Setup::asking(&[&server]);
    let backends = ["web.internal:80", "192.0.2.9:80", "php.internal:9000"];
    let _resolver = setup.spawn(&backends);
    setup.wait_for(&["192.0.2.9:80"]);
    server.a("php.internal", &["192.0.2.1"]);
    setup.wait_for(&["192.0.2.9:80", "192.0.2.1:9000"]);
    server.a("web.internal", &["192.0.2.2"]);
    setup.wait_for(&["192.0.2.2:80", "192.0.2.9:80", "192.0.2.1:9000"]);
}

#[test]
fn stopping_does_not_wait_for_a_hanging_lookup() {
    let server = NameServer::start();
    server.set("php.internal", RecordType::A, Reply::Silence);
    server.set("php.internal", RecordType::AAAA, Reply::Silence);
    let setup = Setup::asking(&[&server]);
    let resolver = setup.spawn(&["php.internal:9000"]);
    server.wait_asked("php.internal", RecordType::A, 1);
    let begun = Instant::now();
    drop(resolver);
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn a_malformed_name_is_refused_at_the_start() {
    let setup = Setup::new();
    let backends = [parse("a..b:80")];
    let error = spawn([setup.job(&backends)], || ());
    let error = error.err().unwrap().to_string();
    assert!(
        error.starts_with("look up \"a..b\": not a host name"),
        "{error}"
    );
}

/// A name that is asked for every 100 ms, so that a test need not wait for a second each time.
fn quick(setup: Setup) -> Setup {
    let times = RefreshTimes {
        ttl_min: SHORT,
        ttl_max: SHORT,
        ..RefreshTimes::default()
    };
    setup.with_times(times)
}

#[test]
fn a_service_stands_for_its_targets_by_priority() {
    let server = NameServer::start();
    server.srv(
        "_php._tcp.internal",
        &[(20, 1, 9002, "b.internal."), (10, 7, 9001, "A.internal.")],
    );
    server.a("a.internal", &["192.0.2.1"]);
    server.aaaa("a.internal", &["2001:db8::1"]);
    server.a("b.internal", &["192.0.2.2"]);
    let setup = Setup::asking(&[&server]);
    let _resolver = setup.spawn(&["srv:_php._tcp.internal"]);
    let set = setup.wait_for(&["192.0.2.1:9001", "[2001:db8::1]:9001", "192.0.2.2:9002"]);
    let ranks: Vec<_> = set
        .endpoints()
        .iter()
        .map(|e| (e.priority, e.weight))
        .collect();
    assert_eq!(ranks, [(10, 7), (10, 7), (20, 1)]);
}

#[test]
fn a_service_whose_targets_are_all_replaced_is_never_without_any() {
    let server = NameServer::start();
    server.srv("_php._tcp.internal", &[(1, 1, 9000, "a.internal.")]);
    server.a("a.internal", &["192.0.2.1"]);
    server.a("b.internal", &["192.0.2.2"]);
    let setup = quick(Setup::asking(&[&server]));
    let _resolver = setup.spawn(&["srv:_php._tcp.internal"]);
    setup.wait_for(&["192.0.2.1:9000"]);
    for (host, endpoint) in [
        ("b.internal.", "192.0.2.2:9000"),
        ("a.internal.", "192.0.2.1:9000"),
    ] {
        server.srv("_php._tcp.internal", &[(1, 1, 9000, host)]);
        setup.wait_for(&[endpoint]);
    }
    assert_eq!(setup.emptied(), 0);
}

#[test]
fn a_service_can_be_denied_without_a_denial_of_the_name() {
    let server = NameServer::start();
    let setup = Setup::asking(&[&server]);
    server.srv("_php._tcp.internal", &[(0, 0, 0, ".")]);
    let outcome = setup.look_up_targets("_php._tcp.internal.");
    assert_eq!(
        outcome,
        Err(Failure::Nothing),
        "the root as the only target"
    );
    server.srv("_php._tcp.internal", &[(0, 0, 0, "a.internal.")]);
    let outcome = setup.look_up_targets("_php._tcp.internal.");
    assert_eq!(outcome, no_answer(Cause::Unusable), "port 0");
    let outcome = setup.look_up_targets("_no._tcp.internal.");
    assert_eq!(outcome, Err(Failure::Nothing));
}

#[test]
fn a_service_has_at_most_so_many_targets_and_those_are_the_preferred_ones() {
    let server = NameServer::start();
    let targets: Vec<_> = (1..=300)
        .rev()
        .map(|rank| (rank, 1, 1000 + rank, "a."))
        .collect();
    server.srv("_php._tcp.internal", &targets);
    let setup = Setup::asking(&[&server]);
    let found = setup.look_up_targets("_php._tcp.internal.").unwrap();
    assert_eq!(found.items.len(), names::TARGETS_MAX);
    assert_eq!(found.items[0].priority, 1);
}

#[test]
fn a_failed_connect_brings_the_lookup_forward() {
    let server = NameServer::start();
    let reply = |ip| Reply::Addresses(ips(&[ip]), 86_400);
    server.set("php.internal", RecordType::A, reply("192.0.2.1"));
    let setup = Setup::asking(&[&server]);
    let _resolver = setup.spawn(&["php.internal:9000"]);
    setup.wait_for(&["192.0.2.1:9000"]);
    server.set("php.internal", RecordType::A, reply("192.0.2.2"));
    // The next lookup would come in a minute.
    setup.published.refresher().suspect(ips(&["192.0.2.1"])[0]);
    setup.wait_for(&["192.0.2.2:9000"]);
}

#[test]
fn a_storm_of_failed_connects_is_a_lookup_a_second() {
    let server = NameServer::start();
    let reply = Reply::Addresses(ips(&["192.0.2.1"]), 86_400);
    server.set("php.internal", RecordType::A, reply);
    let setup = Setup::asking(&[&server]);
    let _resolver = setup.spawn(&["php.internal:9000"]);
    setup.wait_for(&["192.0.2.1:9000"]);
    let begun = Instant::now();
    while server.asked("php.internal", RecordType::A) < 3 {
        setup.published.refresher().suspect(ips(&["192.0.2.1"])[0]);
        assert!(begun.elapsed() < PATIENCE, "asked in vain");
    }
    assert!(
        begun.elapsed() > Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn five_hundred_addresses_are_all_used() {
    let server = NameServer::start();
    let many: Vec<IpAddr> = (0..500u16)
        .map(|n| IpAddr::from([10, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]))
        .collect();
    server.set("php.internal", RecordType::A, Reply::Truncated(many));
    let setup = Setup::asking(&[&server]);
    let _resolver = setup.spawn(&["php.internal:9000"]);
    let is_met = |_: &usize| setup.published.load().endpoints().len() == 500;
    drop(setup.swaps.wait_until(is_met));
}

#[test]
fn rotating_subsets_become_one_set_when_missing_addresses_are_kept() {
    let server = NameServer::start();
    server.a("php.internal", &["192.0.2.1", "192.0.2.2"]);
    let setup = quick(Setup::asking(&[&server])).with(|times| times.keep_missing = NEVER);
    let _resolver = setup.spawn(&["php.internal:9000"]);
    setup.wait_for(&["192.0.2.1:9000", "192.0.2.2:9000"]);
    server.a("php.internal", &["192.0.2.3"]);
    let all = ["192.0.2.1:9000", "192.0.2.2:9000", "192.0.2.3:9000"];
    assert_eq!(setup.wait_for(&all).version(), 2);
    for subset in ["192.0.2.2", "192.0.2.1", "192.0.2.3"] {
        server.a("php.internal", &[subset]);
        let asked = server.asked("php.internal", RecordType::A);
        server.wait_asked("php.internal", RecordType::A, asked + 2);
        assert_eq!(setup.wait_for(&all).version(), 2);
    }
}

#[test]
fn without_a_hold_a_denied_name_is_given_up_at_once() {
    let server = NameServer::start();
    server.a("php.internal", &["192.0.2.1"]);
    let setup = quick(Setup::asking(&[&server])).with(|times| times.negative_hold = Duration::ZERO);
    let _resolver = setup.spawn(&["php.internal:9000"]);
    setup.wait_for(&["192.0.2.1:9000"]);
    server.set("php.internal", RecordType::A, Reply::NoData);
    setup.wait_for(&[]);
    server.a("php.internal", &["192.0.2.1"]);
    setup.wait_for(&["192.0.2.1:9000"]);
}

#[test]
fn the_age_of_the_answer_is_known() {
    let server = NameServer::start();
    server.a("php.internal", &["192.0.2.1"]);
    let setup = Setup::asking(&[&server]);
    assert_eq!(setup.published.answer_age(SystemTime::now()), None);
    let begun = SystemTime::now();
    let resolver = setup.spawn(&["php.internal:9000"]);
    setup.wait_for(&["192.0.2.1:9000"]);
    drop(resolver);
    let age = setup.published.answer_age(begun + PATIENCE).unwrap();
    assert!(age <= PATIENCE + Duration::from_millis(1), "{age:?}");
}

/// What the C library would say: by the name.
fn system_call(host: &str) -> Result<Vec<IpAddr>, LookupError> {
    match host {
        "php.internal" => Ok(ips(&["192.0.2.2", "192.0.2.1", "2001:db8::1", "0.0.0.0"])),
        "panics" => panic!("as asked for"),
        "fails" => Err(LookupError::NoAnswer("try again".to_owned())),
        "hangs" => loop {
            HANGING.change(|calls| *calls += 1);
            thread::park();
        },
        _ => Err(LookupError::NoSuchName),
    }
}

/// Calls that hang, for ever.
static HANGING: Watched<usize> = Watched {
    value: Mutex::new(0),
    changed: Condvar::new(),
};

fn with_system() -> Setup {
    let mut setup = Setup::new();
    setup.options.resolve_with = ResolveWith::System;
    setup.options.system_call = system_call;
    setup.query_timeout(SHORT / 5)
}

#[test]
fn the_c_library_brings_both_families() {
    let setup = with_system();
    let _resolver = setup.spawn(&["php.internal:9000", "nobody:1", "192.0.2.9:2"]);
    setup.wait_for(&[
        "192.0.2.1:9000",
        "192.0.2.2:9000",
        "[2001:db8::1]:9000",
        "192.0.2.9:2",
    ]);
}

#[test]
fn a_name_that_hangs_in_the_c_library_is_called_for_once_and_starves_nobody() {
    let setup = with_system();
    let resolver = setup.spawn(&["hangs:1", "panics:2", "php.internal:9000"]);
    setup.wait_for(&["192.0.2.1:9000", "192.0.2.2:9000", "[2001:db8::1]:9000"]);
    drop(HANGING.wait_until(|calls| *calls == 1));
    // It is asked for again, and the same call is waited for.
    for _ in 0..3 {
        setup.published.refresher().suspect_all();
        thread::yield_now();
    }
    assert_eq!(*HANGING.value.lock().unwrap(), 1);
    let begun = Instant::now();
    drop(resolver);
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn what_the_c_library_says_is_told_apart_from_what_it_does_not() {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let system = System::new(system_call, PATIENCE);
    let look_up = |host| {
        let name = Name::from_ascii(host).unwrap();
        runtime.block_on(system.look_up(&name, RecordFamily::V4))
    };
    assert_eq!(look_up("nobody"), Err(Failure::Nothing));
    let said = no_answer(Cause::Other("try again".to_owned()));
    assert_eq!(look_up("fails"), said);
    let panicked = no_answer(Cause::Other("the call did not return".to_owned()));
    assert_eq!(look_up("panics"), panicked);
    assert_found(look_up("php.internal"), &["192.0.2.2", "192.0.2.1"]);
}

impl Setup {
    /// The route's backends are others from now on.
    fn follow(&self, resolver: &mut ResolverHandle, backends: &[&str]) {
        let backends: Vec<_> = backends.iter().map(|backend| parse(backend)).collect();
        resolver.follow(self.job(&backends)).unwrap();
    }
}

#[test]
fn other_names_take_the_place_of_addresses_once_they_are_known() {
    let server = NameServer::start();
    server.a("old.internal", &["192.0.2.1"]);
    for name in ["one.internal", "two.internal"] {
        server.set(name, RecordType::A, Reply::Silence);
        server.set(name, RecordType::AAAA, Reply::Silence);
    }
    let setup = quick(Setup::asking(&[&server]).query_timeout(SHORT));
    let mut resolver = setup.spawn(&["old.internal:9000"]);
    let old = setup.wait_for(&["192.0.2.1:9000"]);
    setup.follow(&mut resolver, &["one.internal:9000", "two.internal:9000"]);
    server.wait_asked("two.internal", RecordType::A, 1);
    server.a("one.internal", &["192.0.2.2"]);
    server.a("two.internal", &["192.0.2.3"]);
    let new = setup.wait_for(&["192.0.2.2:9000", "192.0.2.3:9000"]);
    assert!(old.version() < new.version());
    assert_eq!(*setup.emptied.value.lock().unwrap(), 0);
    // Nobody asks for the old one any more.
    let asked = server.asked("old.internal", RecordType::A);
    let of_new = server.asked("one.internal", RecordType::A);
    server.wait_asked("one.internal", RecordType::A, of_new + 3);
    assert_eq!(server.asked("old.internal", RecordType::A), asked);
}

#[test]
fn a_name_without_an_answer_leaves_the_addresses_of_the_one_before() {
    let server = NameServer::start();
    server.a("old.internal", &["192.0.2.1"]);
    let setup = quick(Setup::asking(&[&server]));
    let mut resolver = setup.spawn(&["old.internal:9000"]);
    let old = setup.wait_for(&["192.0.2.1:9000"]);
    // The server says that there is no such name.
    setup.follow(&mut resolver, &["typo.internal:9000"]);
    server.wait_asked("typo.internal", RecordType::A, 3);
    assert_eq!(setup.published.version(), old.version());
    server.a("typo.internal", &["192.0.2.2"]);
    setup.wait_for(&["192.0.2.2:9000"]);
}

#[test]
fn literals_and_names_follow_each_other() {
    let server = NameServer::start();
    server.a("php.internal", &["192.0.2.1"]);
    let setup = Setup::asking(&[&server]);
    let mut resolver = setup.spawn(&["192.0.2.9:80"]);
    setup.wait_for(&["192.0.2.9:80"]);
    setup.follow(&mut resolver, &["192.0.2.8:80"]);
    setup.wait_for(&["192.0.2.8:80"]);
    assert!(resolver.running.is_none());
    setup.follow(&mut resolver, &["php.internal:80"]);
    setup.wait_for(&["192.0.2.1:80"]);
    setup.follow(&mut resolver, &["192.0.2.7:80"]);
    setup.wait_for(&["192.0.2.7:80"]);
    assert_eq!(*setup.emptied.value.lock().unwrap(), 0);
}

#[test]
fn a_route_that_is_forgotten_is_not_looked_up_any_more() {
    let server = NameServer::start();
    server.a("php.internal", &["192.0.2.1"]);
    server.a("other.internal", &["192.0.2.2"]);
    let setup = quick(Setup::asking(&[&server]));
    let backends = [parse("php.internal:80"), parse("other.internal:80")];
    let other = Arc::new(Published::new(|| {}).of_route("other".parse().unwrap()));
    let of_other = Job {
        published: Arc::clone(&other),
        ..setup.job(&backends[1..])
    };
    let resolver = spawn([setup.job(&backends[..1]), of_other], || ()).unwrap();
    setup.wait_for(&["192.0.2.1:80"]);
    server.wait_asked("other.internal", RecordType::A, 1);
    resolver.forget(other.route());
    let asked = server.asked("php.internal", RecordType::A);
    server.wait_asked("php.internal", RecordType::A, asked + 1);
    let of_other = server.asked("other.internal", RecordType::A);
    server.wait_asked("php.internal", RecordType::A, asked + 4);
    assert_eq!(server.asked("other.internal", RecordType::A), of_other);
    assert_eq!(setup.published.load().endpoints().len(), 1);
}
