//! Another configuration while the daemon runs: what changes, what does not, and what nobody notices.

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use common::client::{
    assert_over, assert_waiting, exchange, exchange_and_end, receive_to_eof, send,
};
use common::fastcgi::{Client, Request, responder};
use common::proxy::{NOBODY, connect};
use common::sys::lacks_root;
use common::{Backend, Engine, KB, Pattern, Proxy, SPLICEWAY, eventually, for_each_engine};

for_each_engine!(
    routes_come_change_and_go,
    what_stays_the_same_is_not_touched,
    sessions_of_a_removed_route_finish,
    sessions_of_a_removed_route_are_cut_in_the_end,
    limits_go_up_and_down,
    another_division_keeps_the_permits,
    a_socket_goes_to_another_route,
    rules_hold_for_the_next_request,
    what_was_changed_by_hand_holds,
    nobody_notices_a_hundred_reloads,
);

const BANNER: &[u8] = b"the other one\n";

/// A daemon with a file, and its routes' sockets beside it.
struct Reloaded {
    proxy: Proxy,
}

impl Reloaded {
    /// `routes` is the file without what every one of these has: the place of `{dir}` is that of the sockets.
    fn start(engine: Engine, head: &str, routes: &str) -> Self {
        let builder = Proxy::builder().engine(engine);
        let text = Self::text(&builder.dir().display().to_string(), head, routes);
        let proxy = builder.config(&text).observed().start();
        Self { proxy }
    }

    fn text(dir: &str, head: &str, routes: &str) -> String {
        format!("{head}\n{}", routes.replace("{dir}", dir))
    }

    fn file(&self) -> PathBuf {
        self.proxy.dir().join("spliceway.toml")
    }

    fn write(&self, head: &str, routes: &str) {
        let dir = self.proxy.dir().display().to_string();
        fs::write(self.file(), Self::text(&dir, head, routes)).unwrap();
    }

    fn reload(&self) -> Output {
        self.tell(&["reload"])
    }

    fn tell(&self, words: &[&str]) -> Output {
        Command::new(SPLICEWAY)
            .args(words)
            .arg("--control")
            .arg(self.proxy.control())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Writes the file and has it taken over; what is said of that.
    #[track_caller]
    fn become_with(&self, head: &str, routes: &str) -> String {
        self.write(head, routes);
        let output = self.reload();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn become_of(&self, routes: &str) -> String {
        self.become_with("", routes)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.proxy.dir().join(name)
    }

    #[track_caller]
    fn connect(&self, name: &str) -> UnixStream {
        connect(&self.socket(name)).expect("it listens there")
    }

    /// What a client gets there that says nothing.
    #[track_caller]
    fn banner(&self, name: &str) -> Vec<u8> {
        receive_to_eof(&self.connect_listening(name))
    }

    /// A client that says nothing: its session ends when the backend's side does.
    #[track_caller]
    fn connect_listening(&self, name: &str) -> UnixStream {
        let client = self.connect(name);
        client.shutdown(Shutdown::Write).unwrap();
        client
    }

    fn hash(&self) -> String {
        self.proxy.status()["config"]["hash"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

fn route(name: &str, backend: &Backend, more: &str) -> String {
    format!(
        "[route.{name}]\nlisten = \"unix:{{dir}}/{name}.sock\"\nbackend = \"{backend}\"\n{more}\n"
    )
}

fn fastcgi(name: &str, backend: &Backend, more: &str) -> String {
    route(name, backend, &format!("protocol = \"fastcgi\"\n{more}"))
}

fn routes_come_change_and_go(engine: Engine) {
    let (echo, other) = (Backend::echo(), Backend::banner(BANNER));
    let before = [route("a", &echo, ""), route("b", &echo, "")].concat();
    let daemon = Reloaded::start(engine, "", &before);
    exchange_and_end(&daemon.connect("b.sock"), Pattern::new(1), KB);

    let after = [
        route("a", &echo, "idle-timeout = \"1h\""),
        route("c", &other, ""),
    ];
    let said = daemon.become_of(&after.concat());
    for line in [
        "route a: changed: idle-timeout",
        "route b: removed",
        "route c: added",
    ] {
        assert!(
            said.lines().any(|said| said == line),
            "no {line:?} in {said}"
        );
    }
    assert!(!daemon.socket("b.sock").exists());
    exchange_and_end(&daemon.connect("a.sock"), Pattern::new(2), KB);
    assert_eq!(daemon.banner("c.sock"), BANNER);
    let names: Vec<_> = daemon.proxy.status()["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| route["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a", "c"]);

    // And back: a name that comes again is a new route.
    let said = daemon.become_of(&before);
    assert!(said.contains("route b: added"), "{said}");
    assert!(said.contains("route c: removed"), "{said}");
    exchange_and_end(&daemon.connect("b.sock"), Pattern::new(3), KB);
    let said = daemon.become_of(&before);
    assert!(said.contains("2 routes are unchanged"), "{said}");
}

fn what_stays_the_same_is_not_touched(engine: Engine) {
    let (echo, pages) = (Backend::echo(), responder());
    let head = "workers = 2";
    let same = [
        route("raw", &echo, ""),
        fastcgi("php", &pages, "guard = \"off\""),
    ]
    .concat();
    let daemon = Reloaded::start(engine, head, &same);
    let session = daemon.connect("raw.sock");
    exchange(&session, Pattern::new(1), KB);
    let client = Client(daemon.connect("php.sock"));
    assert_eq!(client.ask(&Request::get("/1")).text(), "/1");
    let inode = fs::metadata(daemon.socket("raw.sock")).unwrap().ino();
    let hash = daemon.hash();

    let more = format!("{same}{}", route("more", &echo, ""));
    daemon.become_with(head, &more);
    assert_ne!(daemon.hash(), hash);
    daemon.become_with(head, &same);
    assert_eq!(daemon.hash(), hash);

    exchange(&session, Pattern::new(2), KB);
    assert_eq!(client.ask(&Request::get("/2")).text(), "/2");
    assert_eq!(pages.ledger().accepted, 1, "the connection was kept");
    let now = fs::metadata(daemon.socket("raw.sock")).unwrap().ino();
    assert_eq!(now, inode, "it is the same socket");
    let scrape = daemon.proxy.scrape();
    let accepted = "spliceway_connections_accepted_total{route=\"raw\"}";
    assert!(scrape.value(accepted) >= 1.0, "counters go on");
}

fn sessions_of_a_removed_route_finish(engine: Engine) {
    let (echo, pages) = (Backend::echo(), responder());
    let kept = route("kept", &echo, "");
    let all = [
        &kept[..],
        &route("raw", &echo, ""),
        &fastcgi("php", &pages, "guard = \"off\""),
    ];
    let daemon = Reloaded::start(engine, "", &all.concat());
    let session = daemon.connect("raw.sock");
    exchange(&session, Pattern::new(1), KB);
    let between_requests = Client(daemon.connect("php.sock"));
    between_requests.ask(&Request::get("/1"));

    let said = daemon.become_of(&kept);
    assert!(said.contains("route raw: removed"), "{said}");
    exchange_and_end(&session, Pattern::new(2), KB);
    assert!(
        between_requests.read().unwrap().is_none(),
        "it ended cleanly"
    );
    eventually("nothing is left of them", || {
        daemon.proxy.status()["retired_routes"]
            .as_array()
            .unwrap()
            .is_empty()
    });
    exchange_and_end(&daemon.connect("kept.sock"), Pattern::new(3), KB);
}

fn sessions_of_a_removed_route_are_cut_in_the_end(engine: Engine) {
    let echo = Backend::echo();
    let kept = route("kept", &echo, "");
    let head = "drain-timeout = \"500ms\"";
    let both = [&kept[..], &route("gone", &echo, "")].concat();
    let daemon = Reloaded::start(engine, head, &both);
    let (cut, goes_on) = (daemon.connect("gone.sock"), daemon.connect("kept.sock"));
    exchange(&cut, Pattern::new(1), KB);
    exchange(&goes_on, Pattern::new(2), KB);
    daemon.become_with(head, &kept);
    assert_over(&cut);
    daemon
        .proxy
        .process()
        .wait_for_log("the route is not served any more, and --drain-timeout has passed");
    exchange(&goes_on, Pattern::new(3), KB);
}

/// The order in which clients come to be served is that in which they came, however the limit moves meanwhile.
fn limits_go_up_and_down(engine: Engine) {
    let came = Arc::new(Mutex::new(Vec::new()));
    let held = {
        let came = Arc::clone(&came);
        Backend::scripted(move |conversation| {
            let number = conversation.receive_exact(1)?[0];
            came.lock().unwrap().push(number);
            conversation.wait_for_release()?;
            conversation.send(b"done")
        })
    };
    let limited = |max: u32| route("raw", &held, &format!("per-endpoint-max = {max}"));
    let daemon = Reloaded::start(engine, "", &limited(1));
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let client = daemon.connect("raw.sock");
            send(&client, &[number]);
            client.shutdown(Shutdown::Write).unwrap();
            // In this order.
            let queued = u64::from(number);
            eventually("it waits", || {
                let status = daemon.proxy.status();
                status["routes"][0]["queue"]["depth"] == queued
            });
            client
        })
        .collect();
    held.wait_until("one is there", |ledger| ledger.open == 1);

    daemon.become_of(&limited(3));
    held.wait_until("what the limit allows is given out", |ledger| {
        ledger.open == 3
    });
    daemon.become_of(&limited(2));
    clients[3..].iter().for_each(assert_waiting);
    held.release(1);
    held.wait_until("one has ended, and nobody takes its place", |ledger| {
        ledger.open == 2
    });
    clients[3..].iter().for_each(assert_waiting);
    held.release(1);
    held.wait_until("the next one has its place", |ledger| ledger.accepted == 4);
    let have_come = || came.lock().unwrap().len();
    eventually("it is served", || have_come() == 4);
    assert_eq!(held.ledger().open_most, 3);
    held.release(4);
    for client in &clients {
        assert_eq!(receive_to_eof(client), b"done");
    }
    // Those that get their places together come in any order.
    let mut order = came.lock().unwrap().clone();
    order[1..3].sort_unstable();
    order[4..].sort_unstable();
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
}

fn another_division_keeps_the_permits(engine: Engine) {
    let held = Backend::hold();
    let head = "workers = 2";
    let divided = |shards: u32| {
        let limits = format!("per-endpoint-max = 4\nshards = {shards}");
        route("raw", &held, &limits)
    };
    let daemon = Reloaded::start(engine, head, &divided(1));
    let first: Vec<_> = (0..4)
        .map(|_| daemon.connect_listening("raw.sock"))
        .collect();
    held.wait_until("all places are taken", |ledger| ledger.open == 4);
    let queued = daemon.connect_listening("raw.sock");
    eventually("it waits", || {
        daemon.proxy.status()["routes"][0]["queue"]["depth"] == 1
    });

    daemon.become_with(head, &divided(2));
    let second: Vec<_> = (0..4)
        .map(|_| daemon.connect_listening("raw.sock"))
        .collect();
    second.iter().for_each(assert_waiting);
    held.release(1);
    held.wait_until("who came first has its place", |ledger| {
        ledger.accepted == 5
    });
    second.iter().for_each(assert_waiting);
    held.release(8);
    let all = first.iter().chain(&second).chain([&queued]);
    all.for_each(|client| drop(receive_to_eof(client)));
    assert_eq!(held.ledger().open_most, 4);
}

fn a_socket_goes_to_another_route(engine: Engine) {
    let (echo, other) = (Backend::echo(), Backend::banner(BANNER));
    let at = |name: &str, backend: &Backend| {
        format!("[route.{name}]\nlisten = \"unix:{{dir}}/it.sock\"\nbackend = \"{backend}\"\n")
    };
    let daemon = Reloaded::start(engine, "", &at("one", &echo));
    let inode = || fs::metadata(daemon.socket("it.sock")).unwrap().ino();
    let (before, session) = (inode(), daemon.connect("it.sock"));
    exchange(&session, Pattern::new(1), KB);
    daemon.become_of(&at("two", &other));
    assert_eq!(inode(), before, "nobody was without the socket");
    assert_eq!(daemon.banner("it.sock"), BANNER);
    exchange_and_end(&session, Pattern::new(2), KB);
}

/// Of a connection that is kept, too.
fn rules_hold_for_the_next_request(engine: Engine) {
    let pages = responder();
    let strict = fastcgi("php", &pages, "script-root = \"/srv\"");
    let open = fastcgi("php", &pages, "guard = \"off\"");
    let daemon = Reloaded::start(engine, "", &open);
    let client = Client(daemon.connect("php.sock"));
    let elsewhere = Request::get("/x").param("SCRIPT_FILENAME", "/etc/passwd");
    assert_eq!(client.ask(&elsewhere).text(), "/x");
    daemon.become_of(&strict);
    assert!(client.ask(&elsewhere).says("403"));
    daemon.become_of(&open);
    let client = Client(daemon.connect("php.sock"));
    assert_eq!(client.ask(&elsewhere).text(), "/x");
}

/// Also where the route is given to workers anew.
fn what_was_changed_by_hand_holds(engine: Engine) {
    let (echo, spare) = (Backend::echo(), Backend::echo());
    let head = "workers = 2";
    let with = |limits: &str| {
        let both = format!("backend = [\"{echo}\", \"{spare}\"]\n{limits}");
        format!("[route.raw]\nlisten = \"unix:{{dir}}/raw.sock\"\n{both}\n")
    };
    let daemon = Reloaded::start(engine, head, &with("per-endpoint-max = 4"));
    let told = |words: &[&str]| {
        let output = daemon.tell(words);
        assert!(output.status.success(), "{output:?}");
    };
    told(&["drain", "raw", &spare.address().to_string()]);
    told(&["pause", "raw"]);
    let client = daemon.connect("raw.sock");
    for (number, limits) in [
        "per-endpoint-max = 8",
        "per-endpoint-max = 8\nshards = 2",
        "",
        "per-endpoint-max = 4",
    ]
    .iter()
    .enumerate()
    {
        daemon.become_with(head, &with(limits));
        let route = &daemon.proxy.status()["routes"][0];
        assert!(route["pause_left_seconds"].is_f64(), "{number}: {route}");
        let drained = route["endpoints"].as_array().unwrap().iter();
        let drained = drained.filter(|endpoint| endpoint["drained"] == true);
        assert_eq!(drained.count(), 1, "{number}: {route}");
        assert_waiting(&client);
    }
    told(&["resume", "raw"]);
    exchange_and_end(&client, Pattern::new(1), KB);
    assert_eq!(spare.ledger().accepted, 0);
}

/// Four configurations in turn, under load of all kinds.
fn nobody_notices_a_hundred_reloads(engine: Engine) {
    const RELOADS: usize = 100;
    let (echo, spare) = (Backend::echo(), responder());
    // Requests at one time. A connection that was closed for a lower limit may be noticed late by its thread.
    let busy = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let pages = {
        let busy = Arc::clone(&busy);
        Backend::scripted(move |conversation| {
            conversation.respond(|heard| {
                let (now, most) = &*busy;
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
                heard.page()
            })
        })
    };
    let head = "workers = 2";
    let configuration = |number: usize| {
        let (max, queue) = [(4, 1000), (2, 2000), (3, 1000), (1, 3000)][number % 4];
        let idle = ["1h", "2h", "off", "3h"][number % 4];
        let guard = ["guard = \"off\"", "script-suffix = \".php\""][number % 2];
        let limits = format!(
            "per-endpoint-max = {max}\nqueue-max = {queue}\nqueue-timeout = \"60s\"\nqueue-order = \"fifo\""
        );
        let mut routes = vec![
            route("raw", &echo, &format!("idle-timeout = \"{idle}\"")),
            route("limited", &echo, &limits),
            fastcgi("php", &pages, &format!("{limits}\n{guard}")),
        ];
        if number % 4 == 1 {
            routes.push(fastcgi("spare", &spare, "guard = \"off\""));
        }
        routes.concat()
    };
    let daemon = Reloaded::start(engine, head, &configuration(0));
    let is_over = AtomicBool::new(false);
    let served = AtomicU64::new(0);
    let over = || is_over.load(Ordering::Relaxed);
    let count = || served.fetch_add(1, Ordering::Relaxed);
    let asked = Request::get("/a.php").param("SCRIPT_FILENAME", "/srv/a.php");
    let (daemon, over, count, asked) = (&daemon, &over, &count, &asked);
    thread::scope(|scope| {
        for name in ["raw.sock", "limited.sock"] {
            for _ in 0..3 {
                scope.spawn(move || {
                    while !over() {
                        exchange_and_end(&daemon.connect(name), Pattern::new(7), 20 * KB);
                        count();
                    }
                });
            }
        }
        scope.spawn(move || {
            let kept = daemon.connect("raw.sock");
            while !over() {
                exchange(&kept, Pattern::new(8), 4 * KB);
                count();
            }
        });
        for _ in 0..3 {
            scope.spawn(move || {
                let kept = Client(daemon.connect("php.sock"));
                while !over() {
                    assert_eq!(kept.ask(asked).text(), "/a.php");
                    let new = Client(daemon.connect("php.sock"));
                    assert_eq!(new.ask(asked).text(), "/a.php");
                    count();
                }
            });
        }
        let _end = common::wait::SetOnDrop(&is_over);
        for number in 1..=RELOADS {
            daemon.become_with(head, &configuration(number));
        }
        eventually("there was a load", || served.load(Ordering::Relaxed) > 500);
    });
    let most = busy.1.load(Ordering::SeqCst);
    assert!((1..=4).contains(&most), "{most} requests at one time");
    let scrape = daemon.proxy.scrape();
    let done = "spliceway_config_reloads_total{result=\"done\"}";
    assert_eq!(scrape.value(done), RELOADS as f64);
    let status = daemon.proxy.status();
    for route in status["routes"].as_array().unwrap() {
        for (outcome, count) in route["sessions_ended"].as_object().unwrap() {
            let is_well = ["complete", "client_closed", "client_left"].contains(&&**outcome);
            assert!(is_well || *count == 0, "{outcome}: {route}");
        }
    }
}

// --- wrong files ----------------------------------------------------------------------------------

/// Each is refused with a line, by the exit code of `check`, and nothing changes.
#[test]
fn what_is_wrong_changes_nothing() {
    let echo = Backend::echo();
    let right = route("a", &echo, "");
    let daemon = Reloaded::start(Engine::Epoll, "", &right);
    fs::write(daemon.socket("file"), "").unwrap();
    let taken = std::os::unix::net::UnixListener::bind(daemon.socket("taken.sock")).unwrap();
    let hash = daemon.hash();
    let session = daemon.connect("a.sock");
    exchange(&session, Pattern::new(1), KB);
    let with = |more: &str| format!("{right}{more}\n");
    let another = |listen: &str, more: &str| {
        with(&format!(
            "[route.b]\nlisten = \"{listen}\"\nbackend = \"{echo}\"\n{more}"
        ))
    };
    let mistakes = [
        "nonsense".to_owned(),
        String::new(),
        "[route.a]".to_owned(),
        with("conect-timeout = \"5s\""),
        with("connect-timeout = \"5\""),
        with("balance = \"fair\""),
        with("[defaults]\nqueue-max = true"),
        with("[route.a]"),
        with("[route.b]\nlisten = \"unix:{dir}/b.sock\""),
        another("unix:{dir}/a.sock", ""),
        another("unix:{dir}/b.sock", "shards = 2"),
        another("unix:{dir}/b.sock", "mode = \"0689\""),
        another("unix:relative", ""),
        another("unix:{dir}/b.sock", "deny-param = \"A\""),
        with("zzz = 1"),
        with("workers = 2"),
        with("config = \"f\""),
        with("idle-timeout = false"),
        with("mode = 0660"),
        with("queue-max = 1.5"),
        with("queue-max = -1"),
        with("per-endpoint-max = 0"),
        with("nameserver = []"),
        with("connect-timeout = \"0s\""),
        with("protocol = \"fcgi\""),
        with("removed-endpoint = \"close-after\""),
        with("source-address = \"host\""),
        with("owner = \"a\\nb\""),
        with("dns-max-ttl = \"5s\"\ndns-min-ttl = \"9s\""),
        with("settle-timeout = \"5ms\""),
        with("[route.\"a b\"]"),
        with("[routes.b]"),
        with("[php]\nlisten = \"unix:/b\""),
        format!("wrkers = 2\n{right}"),
        format!("workers = 0\n{right}"),
        format!("log-level = \"inof\"\n{right}"),
        format!("engine = \"epoll\n{right}"),
        format!("control = \"c.sock\"\n{right}"),
        format!("metrics = 9145\n{right}"),
    ];
    let obstacles = [
        (another("unix:{dir}/no/b.sock", ""), "no such directory"),
        (
            another("unix:{dir}/file", ""),
            "a file that is not a socket is there",
        ),
        (
            another("unix:{dir}/taken.sock", ""),
            "another process is listening there",
        ),
        (
            another("unix:{dir}/b.sock", "owner = \"spliceway-nobody\""),
            "no user named",
        ),
        (
            another("unix:{dir}/b.sock", "allow-group = \"spliceway-nobody\""),
            "no group named",
        ),
        (
            another("unix:{dir}/b.sock", "source-address = \"192.0.2.1\""),
            "--source-address",
        ),
        (another("inherit", ""), "nothing of that name is open"),
        (
            another(
                "unix:{dir}/b.sock",
                "protocol = \"fastcgi\"\nscript-root = \"{dir}/no\"\nresolve-script-root = true",
            ),
            "resolve the script root",
        ),
        (
            another(
                "unix:{dir}/b.sock",
                "protocol = \"fastcgi\"\nguard = \"off\"\naccess-log = \"{dir}/no/log\"",
            ),
            "/no/log",
        ),
        (
            another("unix:{dir}/b.sock", "per-endpoint-max = 600\nshards = 600"),
            "shards",
        ),
        (
            with("[route.b]\nlisten = \"unix:{dir}/b.sock\"\nbackend = \"unix:{dir}/b.sock\""),
            "is its own socket",
        ),
    ];
    let mut refused = 0;
    let mut refuse = |text: &str, code: i32, mention: &str| {
        daemon.write("", text);
        let output = daemon.reload();
        assert_eq!(output.status.code(), Some(code), "{text}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(mention), "{text}: no {mention:?} in {said}");
        refused += 1;
        assert_eq!(daemon.hash(), hash, "{text}");
        assert!(!daemon.socket("b.sock").exists(), "{text}");
        let log = daemon.proxy.process().log();
        log.wait_for("the reason", |line| line.contains(mention));
    };
    for mistake in &mistakes {
        refuse(mistake, 2, "spliceway.toml");
    }
    for (obstacle, mention) in &obstacles {
        refuse(obstacle, 1, mention);
    }
    drop(taken);
    fs::remove_file(daemon.file()).unwrap();
    let output = daemon.reload();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    exchange(&session, Pattern::new(2), KB);
    let scrape = daemon.proxy.scrape();
    let count = "spliceway_config_reloads_total{result=\"refused\"}";
    assert_eq!(scrape.value(count), f64::from(refused + 1));
    let said = daemon.become_of(&right);
    assert!(said.contains("unchanged"), "{said}");
}

// --- the rest of the daemon -----------------------------------------------------------------------

#[test]
fn a_hangup_reloads() {
    let echo = Backend::echo();
    let daemon = Reloaded::start(Engine::Epoll, "", &route("a", &echo, ""));
    daemon.write("", &[route("a", &echo, ""), route("b", &echo, "")].concat());
    daemon.proxy.process().signal(libc::SIGHUP);
    daemon.proxy.process().wait_for_log("route b: added");
    exchange_and_end(&daemon.connect("b.sock"), Pattern::new(1), KB);
    daemon.write("", "nonsense");
    daemon.proxy.process().signal(libc::SIGHUP);
    daemon.proxy.process().wait_for_log("key with no value");
    exchange_and_end(&daemon.connect("b.sock"), Pattern::new(2), KB);
}

#[test]
fn what_cannot_change_is_told_and_the_rest_changes() {
    let echo = Backend::echo();
    let daemon = Reloaded::start(Engine::Epoll, "workers = 1", &route("a", &echo, ""));
    let both = [route("a", &echo, ""), route("b", &echo, "")].concat();
    let said = daemon.become_with("workers = 2\ndrain-timeout = \"1s\"", &both);
    let line = "workers: 2 takes a restart of the daemon; until then it stays 1";
    assert!(said.lines().any(|said| said == line), "{said}");
    assert!(said.contains("route b: added"), "{said}");
    // Who waits for nothing is cut after the new time.
    let mut daemon = daemon;
    let session = daemon.connect("b.sock");
    exchange(&session, Pattern::new(1), KB);
    daemon.proxy.terminate();
    assert_over(&session);
    assert!(daemon.proxy.wait().success());
}

#[test]
fn a_socket_is_for_others_without_being_gone() {
    let echo = Backend::echo();
    let with = |mode: &str| route("a", &echo, &format!("mode = \"{mode}\""));
    let daemon = Reloaded::start(Engine::Epoll, "", &with("0600"));
    let file = || fs::metadata(daemon.socket("a.sock")).unwrap();
    let before = file();
    daemon.become_of(&with("0666"));
    assert_eq!(file().permissions().mode() & 0o777, 0o666);
    assert_eq!(file().ino(), before.ino());
    // What else is in the way leaves it for those for whom it was.
    let wrong = format!(
        "{}[route.b]\nlisten = \"inherit\"\nbackend = \"{echo}\"\n",
        with("0600")
    );
    daemon.write("", &wrong);
    assert_eq!(daemon.reload().status.code(), Some(1));
    assert_eq!(file().permissions().mode() & 0o777, 0o666);
    exchange_and_end(&daemon.connect("a.sock"), Pattern::new(1), KB);
}

/// What the daemon could do at its start, it cannot do when it has become somebody else: that is a reason, and nothing
/// changes.
#[test]
fn rights_that_were_given_up_are_missed_with_a_line() {
    if lacks_root() {
        return;
    }
    let echo = Backend::echo();
    let head = format!("user = \"{NOBODY}:{NOBODY}\"");
    let right = route("a", &echo, "group = \"0\"");
    let daemon = Reloaded::start(Engine::Epoll, &head, &right);
    let hash = daemon.hash();
    // The directory is root's.
    daemon.write(&head, &[&right[..], &route("b", &echo, "")].concat());
    let output = daemon.reload();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("it takes a restart"), "{said}");
    assert_eq!(daemon.hash(), hash);
    // So is the group of a socket that names none.
    fs::create_dir(daemon.socket("open")).unwrap();
    fs::set_permissions(daemon.socket("open"), fs::Permissions::from_mode(0o777)).unwrap();
    let elsewhere = |more: &str| {
        format!(
            "{right}[route.b]\nlisten = \"unix:{{dir}}/open/b.sock\"\nbackend = \"{echo}\"\n{more}\n"
        )
    };
    daemon.write(&head, &elsewhere(""));
    let output = daemon.reload();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!daemon.socket("open/b.sock").exists());
    let own = format!("group = \"{NOBODY}\"");
    let said = daemon.become_with(&head, &elsewhere(&own));
    assert!(said.contains("route b: added"), "{said}");
    exchange_and_end(&daemon.connect("open/b.sock"), Pattern::new(1), KB);
}
