//! Classes of requests: what each has of a route's places, counted by the backend, and whose turn it is.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Condvar, Mutex};

use common::client::assert_waiting;
use common::fastcgi::{Client, Request};
use common::http;
use common::process::Process;
use common::programs::{fresh_endpoint, start_fpm_pool};
use common::proxy::fresh_dir;
use common::{Backend, Engine, GUARD, Proxy, eventually, for_each_engine};
use tempfile::TempDir;

for_each_engine!(
    each_class_has_its_maximum_and_what_is_kept_for_it_and_no_more,
    the_largest_priority_goes_first_and_then_whoever_came_first,
    a_class_that_cannot_have_a_place_holds_nobody_up,
    each_class_has_a_queue_and_times_of_its_own,
    a_script_whose_client_has_left_counts_for_its_class,
    a_class_is_told_by_what_backends_do_not_get,
    classes_are_seen_in_status_metrics_requests_and_the_access_log,
    a_reload_changes_what_a_class_has_at_once,
    a_reload_with_other_classes_keeps_to_the_places_of_the_route,
    shards_share_what_a_class_may_have,
    what_is_kept_is_there_while_the_number_of_workers_is_found_out,
    a_slow_script_leaves_workers_of_php_fpm_to_others,
);

/// What a backend does, by the URI of its requests.
#[derive(Default)]
struct Work {
    by_uri: Mutex<BTreeMap<String, Counts>>,
    changed: Condvar,
    order: Mutex<Vec<String>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Counts {
    running: usize,
    most: usize,
    tickets: usize,
}

impl Work {
    /// Begins one, and ends it when it may end.
    fn run(&self, uri: &str) {
        self.order.lock().unwrap().push(uri.to_owned());
        let mut all = self.by_uri.lock().unwrap();
        let counts = all.entry(uri.to_owned()).or_default();
        counts.running += 1;
        counts.most = counts.most.max(counts.running);
        let is_held = |all: &mut BTreeMap<String, Counts>| all[uri].tickets == 0;
        let (mut all, late) = self
            .changed
            .wait_timeout_while(all, GUARD, is_held)
            .unwrap();
        assert!(!late.timed_out(), "nobody lets {uri} end");
        let counts = all.get_mut(uri).unwrap();
        counts.tickets -= 1;
        counts.running -= 1;
    }

    /// So many of these may end.
    fn release(&self, uri: &str, count: usize) {
        let mut all = self.by_uri.lock().unwrap();
        all.entry(uri.to_owned()).or_default().tickets += count;
        self.changed.notify_all();
    }

    fn running(&self, uri: &str) -> usize {
        let all = self.by_uri.lock().unwrap();
        all.get(uri).map_or(0, |counts| counts.running)
    }

    fn most(&self, uri: &str) -> usize {
        let all = self.by_uri.lock().unwrap();
        all.get(uri).map_or(0, |counts| counts.most)
    }
}

/// A backend that does the work, as PHP-FPM would.
fn backend() -> (Backend, Arc<Work>) {
    let work = Arc::new(Work::default());
    let shared = Arc::clone(&work);
    let backend = Backend::scripted(move |conversation| {
        while let Some(heard) = conversation.request()? {
            shared.run(heard.uri());
            conversation.send(&heard.page())?;
        }
        Ok(())
    });
    (backend, work)
}

/// A route with so many places, and these lines behind its own. Nobody is sent away, however long a test takes.
fn start(engine: Engine, backend: impl Display, places: impl Display, lines: &str) -> Proxy {
    let builder = Proxy::builder().engine(engine);
    let file = format!(
        "workers = 2\n[route.php]\nlisten = \"unix:{socket}\"\nbackend = \"{backend}\"\nprotocol = \"fastcgi\"\n\
         per-endpoint-max = {places}\nqueue-order = \"fifo\"\naccess-log = \"{dir}/access.log\"\n{lines}",
        socket = builder.socket().display(),
        dir = builder.dir().display(),
    );
    builder.config(&file).observed().start()
}

fn class(name: &str, uri: &str, keys: &str) -> String {
    format!("[route.php.class.{name}]\nmatch = \"REQUEST_URI^={uri}\"\n{keys}\n")
}

/// Clients that ask for this, each on a connection of its own.
fn come(proxy: &Proxy, uri: &str, count: usize) -> Vec<Client> {
    let come = |_| {
        let client = Client::connect(proxy);
        client.send(&Request::get(uri).bytes());
        client
    };
    (0..count).map(come).collect()
}

fn figure(proxy: &Proxy, name: &str, class: &str) -> f64 {
    let series = format!("spliceway_class_{name}{{route=\"php\",class=\"{class}\"}}");
    proxy.scrape().value(&series)
}

#[track_caller]
fn await_waiting(proxy: &Proxy, class: &str, count: usize) {
    eventually(&format!("{count} of {class} wait"), || {
        figure(proxy, "queue_depth", class) == count as f64
    });
}

#[track_caller]
fn await_running(work: &Work, uri: &str, count: usize) {
    eventually(&format!("{count} of {uri} run"), || {
        work.running(uri) == count
    });
}

#[track_caller]
fn assert_answered(clients: Vec<Client>, uri: &str) {
    for client in clients {
        assert_eq!(client.answer().text(), uri);
    }
}

fn each_class_has_its_maximum_and_what_is_kept_for_it_and_no_more(engine: Engine) {
    let (backend, work) = backend();
    let classes = class("admin", "/admin", "reserve = 2") + &class("crawler", "/bot", "max = 1");
    let proxy = start(engine, &backend, 4, &classes);
    let others = come(&proxy, "/", 5);
    await_waiting(&proxy, "default", 3);
    await_running(&work, "/", 2);
    let crawlers = come(&proxy, "/bot", 2);
    await_waiting(&proxy, "crawler", 2);
    // What is kept for them is there at once.
    let admins = come(&proxy, "/admin", 3);
    await_running(&work, "/admin", 2);
    await_waiting(&proxy, "admin", 1);
    assert_eq!(figure(&proxy, "upstreams_busy", "admin"), 2.0);
    assert_eq!(figure(&proxy, "upstreams_busy", "default"), 2.0);
    // A place that comes free is for who came first among those that may have it.
    work.release("/", 1);
    await_waiting(&proxy, "default", 2);
    assert_eq!(work.running("/bot"), 0);
    work.release("/admin", 3);
    assert_answered(admins, "/admin");
    work.release("/", 4);
    assert_answered(others, "/");
    await_running(&work, "/bot", 1);
    await_waiting(&proxy, "crawler", 1);
    work.release("/bot", 2);
    assert_answered(crawlers, "/bot");
    assert_eq!(
        (work.most("/"), work.most("/admin"), work.most("/bot")),
        (2, 2, 1)
    );
    assert_eq!(backend.ledger().open_most, 4);
}

fn the_largest_priority_goes_first_and_then_whoever_came_first(engine: Engine) {
    let (backend, work) = backend();
    let classes =
        class("first", "/first", "priority = 10") + &class("last", "/last", "priority = -1");
    let proxy = start(engine, &backend, 1, &classes);
    let running = come(&proxy, "/running", 1);
    await_running(&work, "/running", 1);
    let (mut waiting, mut of_classes) = (Vec::new(), Vec::new());
    for (class, uri) in [
        ("last", "/last/1"),
        ("default", "/2"),
        ("first", "/first/3"),
        ("default", "/4"),
        ("first", "/first/5"),
    ] {
        waiting.push((come(&proxy, uri, 1), uri));
        of_classes.push(class);
        let of_this = of_classes.iter().filter(|other| **other == class);
        await_waiting(&proxy, class, of_this.count());
        work.release(uri, 1);
    }
    work.release("/running", 1);
    assert_answered(running, "/running");
    for (clients, uri) in waiting {
        assert_answered(clients, uri);
    }
    let expected = ["/running", "/first/3", "/first/5", "/2", "/4", "/last/1"];
    assert_eq!(*work.order.lock().unwrap(), expected);
}

fn a_class_that_cannot_have_a_place_holds_nobody_up(engine: Engine) {
    let (backend, work) = backend();
    // Also where it would go first.
    let classes = class("slow", "/slow", "max = 1\npriority = 10");
    let proxy = start(engine, &backend, 2, &classes);
    let slow = come(&proxy, "/slow", 3);
    await_waiting(&proxy, "slow", 2);
    work.release("/", 20);
    let client = Client::connect(&proxy);
    for _ in 0..20 {
        assert_eq!(client.ask(&Request::get("/")).text(), "/");
    }
    assert_eq!(work.running("/slow"), 1);
    work.release("/slow", 3);
    assert_answered(slow, "/slow");
    assert_eq!(work.most("/slow"), 1);
}

fn each_class_has_a_queue_and_times_of_its_own(engine: Engine) {
    let (backend, work) = backend();
    let classes = class(
        "small",
        "/small",
        "max = 1\nqueue-max = 1\nqueue-timeout = \"off\"",
    ) + &class("hasty", "/hasty", "max = 1\nqueue-timeout = \"100ms\"")
        + &class("short", "/short", "max = 1\nrequest-timeout = \"2s\"");
    let proxy = start(engine, &backend, 4, &classes);
    let small = come(&proxy, "/small", 1);
    await_running(&work, "/small", 1);
    let waiting = come(&proxy, "/small", 1);
    await_waiting(&proxy, "small", 1);
    assert!(come(&proxy, "/small", 1)[0].answer().says("503"));
    let hasty = come(&proxy, "/hasty", 1);
    await_running(&work, "/hasty", 1);
    assert!(come(&proxy, "/hasty", 1)[0].answer().says("503"));
    assert!(come(&proxy, "/short", 1)[0].answer().says("504"));
    // Its script runs on, and has its place.
    let next = come(&proxy, "/short", 1);
    await_waiting(&proxy, "short", 1);
    assert_waiting(&waiting[0].0);
    for (class, reason) in [
        ("small", "queue_full"),
        ("hasty", "queue_timeout"),
        ("short", "request_timeout"),
    ] {
        let labels = [format!("class=\"{class}\""), format!("reason=\"{reason}\"")];
        let labels: Vec<_> = labels.iter().map(String::as_str).collect();
        let failed = || {
            proxy
                .scrape()
                .sum("spliceway_class_requests_failed_total", &labels)
        };
        eventually("it is counted", || failed() == 1.0);
    }
    for (uri, count) in [("/small", 2), ("/hasty", 1), ("/short", 2)] {
        work.release(uri, count);
    }
    assert_answered(small, "/small");
    assert_answered(waiting, "/small");
    assert_answered(hasty, "/hasty");
    assert_answered(next, "/short");
}

fn a_script_whose_client_has_left_counts_for_its_class(engine: Engine) {
    let (backend, work) = backend();
    let proxy = start(engine, &backend, 4, &class("slow", "/slow", "max = 1"));
    let left = come(&proxy, "/slow", 1);
    await_running(&work, "/slow", 1);
    drop(left);
    let next = come(&proxy, "/slow", 1);
    await_waiting(&proxy, "slow", 1);
    work.release("/slow", 1);
    await_waiting(&proxy, "slow", 0);
    work.release("/slow", 1);
    assert_answered(next, "/slow");
    assert_eq!(work.most("/slow"), 1);
}

/// The web server says it in a parameter of its own.
fn a_class_is_told_by_what_backends_do_not_get(engine: Engine) {
    let backend = Backend::scripted(|conversation| {
        conversation.respond(|heard| {
            let is_told = heard.params.contains_key("X_CLASS");
            let text = if is_told { "told" } else { "not told" };
            common::fastcgi::page(heard.id, text.as_bytes())
        })
    });
    let lines = "strip-param = \"X_CLASS\"\n[route.php.class.bulk]\nmatch = \"X_CLASS=bulk\"\n";
    let proxy = start(engine, &backend, 2, lines);
    let client = Client::connect(&proxy);
    let request = Request::get("/").param("X_CLASS", "bulk");
    assert_eq!(client.ask(&request).text(), "not told");
    let labels = ["class=\"bulk\"", "status=\"2xx\""];
    let answered = || {
        proxy
            .scrape()
            .sum("spliceway_class_requests_total", &labels)
    };
    eventually("it is counted", || answered() == 1.0);
}

fn classes_are_seen_in_status_metrics_requests_and_the_access_log(engine: Engine) {
    let (backend, work) = backend();
    let classes = class("admin", "/admin", "reserve = 1\nqueue-max = 7");
    let proxy = start(engine, &backend, 2, &classes);
    let admins = come(&proxy, "/admin", 1);
    let others = come(&proxy, "/", 2);
    await_running(&work, "/admin", 1);
    await_waiting(&proxy, "default", 1);
    let status = proxy.status();
    let seen = &status["routes"][0]["fastcgi"]["classes"];
    assert_eq!(
        (&seen[0]["name"], &seen[1]["name"]),
        (&"default".into(), &"admin".into())
    );
    assert_eq!(
        (&seen[1]["busy"], &seen[1]["reserve"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&seen[0]["queue"]["depth"], &seen[1]["queue"]["max"]),
        (&1.into(), &7.into())
    );
    assert_eq!(
        figure(&proxy, "endpoint_connections_reserved", "admin"),
        1.0
    );
    let answer = http::get_unix(&proxy.control(), "/requests");
    let requests: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let of = |uri: &str| {
        let mut all = requests["requests"].as_array().unwrap().iter();
        all.find(|request| request["uri"] == uri).unwrap()["class"].clone()
    };
    assert_eq!((of("/admin"), of("/")), ("admin".into(), "default".into()));
    work.release("/admin", 1);
    work.release("/", 2);
    assert_answered(admins, "/admin");
    assert_answered(others, "/");
    let log = proxy.dir().join("access.log");
    let has = |uri: &str, class: &str| {
        let lines = fs::read_to_string(&log).unwrap_or_default();
        let mut lines = lines.lines();
        lines.any(|line| {
            line.contains(&format!("uri=\"{uri}\"")) && line.ends_with(&format!(" class={class}"))
        })
    };
    eventually("they have their lines", || {
        has("/admin", "admin") && has("/", "default")
    });
}

fn a_reload_changes_what_a_class_has_at_once(engine: Engine) {
    let (backend, work) = backend();
    let proxy = start(engine, &backend, 4, &class("slow", "/slow", "max = 1"));
    let slow = come(&proxy, "/slow", 4);
    await_waiting(&proxy, "slow", 3);
    let file = proxy.dir().join("spliceway.toml");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, before.replace("max = 1\n", "max = 3\n")).unwrap();
    let answer = http::command(&proxy.control(), r#"{"command": "reload"}"#);
    assert_eq!(answer.code, 200, "{answer:?}");
    assert!(answer.body.contains("class slow max"), "{answer:?}");
    await_running(&work, "/slow", 3);
    await_waiting(&proxy, "slow", 1);
    work.release("/slow", 4);
    assert_answered(slow, "/slow");
    assert_eq!(work.most("/slow"), 3);
}

/// The route is divided anew, and whatever runs by the old classes counts within the places that there are.
fn a_reload_with_other_classes_keeps_to_the_places_of_the_route(engine: Engine) {
    let (backend, work) = backend();
    let slow = class("slow", "/slow", "max = 3");
    let proxy = start(engine, &backend, 4, &slow);
    let old = come(&proxy, "/slow", 3);
    await_running(&work, "/slow", 3);
    let file = proxy.dir().join("spliceway.toml");
    let before = fs::read_to_string(&file).unwrap();
    let admin = class("admin", "/admin", "reserve = 1");
    fs::write(&file, before.replace(&slow, &admin)).unwrap();
    let answer = http::command(&proxy.control(), r#"{"command": "reload"}"#);
    assert_eq!(answer.code, 200, "{answer:?}");
    // One place is left, which is the administration's.
    let others = come(&proxy, "/slow", 2);
    await_waiting(&proxy, "default", 2);
    let admins = come(&proxy, "/admin", 1);
    await_running(&work, "/admin", 1);
    assert_eq!(work.running("/slow"), 3);
    work.release("/slow", 1);
    await_waiting(&proxy, "default", 1);
    await_running(&work, "/slow", 3);
    work.release("/slow", 4);
    work.release("/admin", 1);
    assert_answered(admins, "/admin");
    for clients in [old, others] {
        assert_answered(clients, "/slow");
    }
    assert!(work.most("/slow") <= 3, "{}", work.most("/slow"));
}

/// Each shard has its part, whichever of them clients come to.
fn shards_share_what_a_class_may_have(engine: Engine) {
    let (backend, work) = backend();
    let lines = format!("shards = 2\n{}", class("slow", "/slow", "max = 2"));
    let proxy = start(engine, &backend, 6, &lines);
    let mut slow = come(&proxy, "/slow", 2);
    eventually("both shards have some that run", || {
        if work.running("/slow") < 2 {
            slow.extend(come(&proxy, "/slow", 1));
        }
        work.running("/slow") == 2
    });
    let quick = come(&proxy, "/quick", 2);
    await_running(&work, "/quick", 2);
    work.release("/quick", 2);
    assert_answered(quick, "/quick");
    work.release("/slow", slow.len());
    assert_answered(slow, "/slow");
    assert_eq!(work.most("/slow"), 2);
}

/// Scripts that do not end leave a worker for those for whom one is kept, however many connections there may be.
fn what_is_kept_is_there_while_the_number_of_workers_is_found_out(engine: Engine) {
    let pool = Pool::start(4);
    let class = "[route.php.class.admin]\nmatch = \"SCRIPT_FILENAME$=/quick.php\"\nreserve = 1\n";
    let proxy = start(engine, pool.backend(), "\"auto:2-16\"", class);
    let client = Client::connect(&proxy);
    for _ in 0..2 {
        assert_eq!(client.ask(&pool.request("quick.php")).text(), "quick");
        proxy.process().assert_comes_to_rest();
    }
    let slow = pool.come(&proxy, "slow.php", 8);
    eventually("three run", || pool.at_work() == 3);
    for _ in 0..50 {
        assert_eq!(client.ask(&pool.request("quick.php")).text(), "quick");
        assert_eq!(pool.at_work(), 3);
    }
    pool.let_go();
    for client in slow {
        assert_eq!(client.answer().text(), "slow");
    }
}

/// PHP-FPM, with a script that goes on until it is let go, and one that does not.
struct Pool {
    dir: TempDir,
    endpoint: (String, u16),
    _fpm: Process,
}

impl Pool {
    fn start(workers: usize) -> Self {
        const SLOW: &str = "<?php
        file_put_contents(__DIR__ . '/slow.' . getmypid(), 'x');
        while (!file_exists(__DIR__ . '/go')) { usleep(10000); clearstatcache(); }
        unlink(__DIR__ . '/slow.' . getmypid());
        echo 'slow';";
        let dir = fresh_dir();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let endpoint = fresh_endpoint();
        for (name, text) in [("slow.php", SLOW), ("quick.php", "<?php echo 'quick';")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let fpm = start_fpm_pool(dir.path(), &endpoint, workers, "", &[]);
        Self {
            dir,
            endpoint,
            _fpm: fpm,
        }
    }

    fn backend(&self) -> String {
        format!("{}:{}", self.endpoint.0, self.endpoint.1)
    }

    fn request(&self, name: &str) -> Request {
        let file = self.dir.path().join(name);
        Request::get("/").param("SCRIPT_FILENAME", file.to_str().unwrap())
    }

    fn come(&self, proxy: &Proxy, name: &str, count: usize) -> Vec<Client> {
        let come = |_| {
            let client = Client::connect(proxy);
            client.send(&self.request(name).bytes());
            client
        };
        (0..count).map(come).collect()
    }

    /// Slow scripts that run.
    fn at_work(&self) -> usize {
        let files = fs::read_dir(self.dir.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with("slow.") && name != "slow.php")
            .count()
    }

    fn let_go(&self) {
        fs::write(self.dir.path().join("go"), "").unwrap();
    }
}

fn a_slow_script_leaves_workers_of_php_fpm_to_others(engine: Engine) {
    let pool = Pool::start(4);
    let classes = "[route.php.class.slow]\nmatch = \"SCRIPT_FILENAME$=/slow.php\"\nmax = 2\n";
    let proxy = start(engine, pool.backend(), 4, classes);
    let slow = pool.come(&proxy, "slow.php", 6);
    eventually("two run", || pool.at_work() == 2);
    await_waiting(&proxy, "slow", 4);
    let client = Client::connect(&proxy);
    for _ in 0..50 {
        assert_eq!(client.ask(&pool.request("quick.php")).text(), "quick");
        assert_eq!(pool.at_work(), 2);
    }
    pool.let_go();
    for client in slow {
        assert_eq!(client.answer().text(), "slow");
    }
}
