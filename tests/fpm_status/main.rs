//! `--fpm-status`: what PHP-FPM says of its pools is there when nothing else answers, is right with kept connections,
//! and is never an old figure; what is no status page is named.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod page;
mod strangers;

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::fastcgi::{Client, Request, page, pool_responder};
use common::process::Process;
use common::programs::{fresh_endpoint, start_fpm_pool};
use common::proxy::fresh_dir;
use common::wait::meanwhile;
use common::{Backend, Conversation, Engine, Proxy, SPLICEWAY, eventually, for_each_engine};
use serde_json::Value;
use tempfile::TempDir;

for_each_engine!(
    figures_come_while_every_worker_is_taken_and_permits_beyond_them_are_a_warning,
    processes_are_counted_right_while_kept_connections_are_used,
);

/// Answers only when there is a gate.
const WAIT_PHP: &str = r#"<?php
file_put_contents("{$_GET['dir']}/began", "x", FILE_APPEND);
for ($i = 0; $i < 60000 && !file_exists("{$_GET['dir']}/gate"); $i++) {
    usleep(1000);
    clearstatcache();
}
echo "waited\n";
"#;

const QUICK_PHP: &str = "<?php echo \"quick\\n\";";

/// PHP-FPM with a status address of its own, and what a proxy before it says of it.
struct Stage {
    dir: TempDir,
    endpoint: (String, u16),
    status: String,
    fpm: Option<Process>,
}

impl Stage {
    /// A pool with so many workers at most, and these lines.
    fn start(max_children: usize, lines: &str) -> Self {
        let (host, port) = fresh_endpoint();
        let status = format!("{host}:{}", port + 1000);
        let mut stage = Self {
            dir: fresh_dir(),
            endpoint: (host, port),
            status,
            fpm: None,
        };
        stage.write("wait.php", WAIT_PHP);
        stage.write("quick.php", QUICK_PHP);
        // Scripts write there, whoever they run as.
        fs::set_permissions(stage.dir.path(), Permissions::from_mode(0o777)).unwrap();
        stage.start_fpm(max_children, lines);
        stage
    }

    fn start_fpm(&mut self, max_children: usize, lines: &str) {
        // The process that answers may have it for another moment.
        eventually("the status address is free", || {
            self.status.starts_with('/') || TcpListener::bind(&self.status).is_ok()
        });
        let mut all = format!(
            "pm.status_path = /fpm/status\npm.status_listen = {}\n",
            self.status
        );
        writeln!(all, "{lines}").unwrap();
        let fpm = start_fpm_pool(self.dir.path(), &self.endpoint, max_children, &all, &[]);
        self.fpm = Some(fpm);
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn backend(&self) -> String {
        format!("{}:{}", self.endpoint.0, self.endpoint.1)
    }

    fn proxy(&self, engine: Engine, args: &[&str]) -> Proxy {
        let status = format!("{}/fpm/status", self.status);
        let builder = Proxy::builder().engine(engine).backend(self.backend());
        let builder = builder.args(["--protocol", "fastcgi", "--fpm-status", &status]);
        builder.args(args.iter().copied()).observed().start()
    }

    fn request(&self, script: &str) -> Request {
        let path = self.dir.path().join(script);
        Request::get("/")
            .param("SCRIPT_FILENAME", path.to_str().unwrap())
            .param(
                "QUERY_STRING",
                &format!("dir={}", self.dir.path().display()),
            )
    }

    /// Requests that wait until the gate opens: first one after the other, as many as there are processes, because
    /// a pool that forks on demand does not notice each of several connections at one moment.
    fn occupy(&self, proxy: &Proxy, (running, more): (usize, usize)) -> Vec<Client> {
        let occupy = |number| {
            let client = Client::connect(proxy);
            client.send(&self.request("wait.php").bytes());
            if number <= running {
                eventually("a script runs", || self.began() == number);
            }
            client
        };
        (1..=running + more).map(occupy).collect()
    }

    /// How many scripts wait for the gate, or have.
    fn began(&self) -> usize {
        let began = fs::read(self.dir.path().join("began"));
        began.unwrap_or_default().len()
    }

    fn open_the_gate(&self) {
        self.write("gate", "");
    }
}

/// What the status says of the only pool.
#[track_caller]
fn pool(proxy: &Proxy) -> Value {
    let pools = pools(proxy);
    let [pool] = &pools[..] else {
        panic!("not one pool: {pools:?}");
    };
    pool.clone()
}

#[track_caller]
fn pools(proxy: &Proxy) -> Vec<Value> {
    let status = proxy.status();
    let pools = status["routes"][0]["fastcgi"]["fpm"].as_array();
    pools.expect("a list of pools").clone()
}

/// Waits until the only pool is so, and returns what is said then.
#[track_caller]
fn pool_once(proxy: &Proxy, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    eventually(what, || {
        let pools = pools(proxy);
        last = pools.into_iter().next().unwrap_or_default();
        is_so(&last)
    });
    last
}

/// One line of the log has this: it may be read a moment later than what was found elsewhere.
#[track_caller]
fn assert_told_once(proxy: &Proxy, part: &str) {
    proxy.process().wait_for_log(part);
    assert_eq!(proxy.process().log().count(part), 1, "{part}");
}

/// What `spliceway status` prints.
#[track_caller]
fn table(proxy: &Proxy) -> String {
    let mut command = Command::new(SPLICEWAY);
    command.arg("status").arg("--control").arg(proxy.control());
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn labels(stage: &Stage) -> String {
    format!("route=\"default\",fpm=\"{}\"", stage.status)
}

fn figures_come_while_every_worker_is_taken_and_permits_beyond_them_are_a_warning(engine: Engine) {
    let stage = Stage::start(2, "");
    let proxy = stage.proxy(engine, &["--per-endpoint-max", "4"]);
    let clients = stage.occupy(&proxy, (2, 2));
    let seen = pool_once(&proxy, "two run and two wait in the backlog", |pool| {
        pool["running_processes"] == 2 && pool["listen_queue"] == 2
    });
    for (field, value) in [
        ("pool", Value::from("pool")),
        ("path", "/fpm/status".into()),
        ("process_manager", "static".into()),
        ("total_processes", 2.into()),
        ("idle_processes", 0.into()),
        ("active_processes", 2.into()),
        ("max_children", 2.into()),
        ("up", true.into()),
        ("error", Value::Null),
    ] {
        assert_eq!(seen[field], value, "{field} of {seen}");
    }
    let warning = seen["warning"].as_str().unwrap();
    assert!(
        warning.starts_with("pm.max_children is 2, and --per-endpoint-max 4: "),
        "{warning}"
    );
    assert_told_once(&proxy, "pm.max_children is 2");
    let status = proxy.status();
    let events = status["events"].as_array().unwrap();
    let is_it = |event: &&Value| event["message"].as_str().unwrap().contains(warning);
    assert_eq!(events.iter().filter(is_it).count(), 1, "{events:?}");
    let text = table(&proxy);
    for part in [
        "(pool, static): 2 of 2 processes, 0 idle, 2 run a script; 2 of ",
        "php-fpm    ! pm.max_children is 2",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let (scrape, labels) = (proxy.scrape(), labels(&stage));
    for (series, value) in [
        ("up", 1.0),
        ("processes_running", 2.0),
        ("max_children", 2.0),
        ("listen_queue", 2.0),
        ("max_children_reached_total", 0.0),
        ("slow_requests_total", 0.0),
    ] {
        let series = format!("spliceway_fpm_{series}{{{labels}}}");
        assert_eq!(scrape.value(&series), value, "{series}");
    }
    let active = format!("spliceway_fpm_processes{{{labels},state=\"active\"}}");
    assert_eq!(scrape.value(&active), 2.0);
    stage.open_the_gate();
    for client in clients {
        assert_eq!(client.answer().text(), "waited\n");
    }
    pool_once(&proxy, "all is quiet", |pool| {
        pool["idle_processes"] == 2 && pool["listen_queue"] == 0
    });
    // Nothing of it was told again.
    assert_eq!(proxy.process().log().count("pm.max_children is 2"), 1);
}

/// Its own counts are not: each request makes another process active.
fn processes_are_counted_right_while_kept_connections_are_used(engine: Engine) {
    let stage = Stage::start(3, "");
    let proxy = stage.proxy(engine, &["--per-endpoint-max", "3"]);
    let client = Client::connect(&proxy);
    let request = stage.request("quick.php");
    pool_once(&proxy, "it was asked", |pool| pool["up"] == true);
    let mut own_counts_are_off = false;
    meanwhile(Duration::from_secs(12), || {
        for _ in 0..20 {
            assert_eq!(client.ask(&request).text(), "quick\n");
        }
        let pool = pool(&proxy);
        assert_eq!(pool["total_processes"], 3, "{pool}");
        assert_eq!(pool["warning"], Value::Null);
        own_counts_are_off |= pool["max_active_processes"].as_u64() > Some(3);
    });
    assert!(own_counts_are_off, "then it need not be counted");
    assert_eq!(proxy.process().log().count("pm.max_children"), 0);
}

/// A pool that grows says nothing of its limit until it is there.
#[track_caller]
fn a_pool_that_grows_is_found_out(lines: &str) {
    let stage = Stage::start(3, lines);
    let keys = |permits: u32| {
        let status = format!("fpm-status = \"{}/fpm/status\"", stage.status);
        format!("per-endpoint-max = {permits}\n{status}\n")
    };
    let changing = Changing::start(&format!("\"{}\"", stage.backend()), &keys(6));
    let proxy = &changing.proxy;
    let quiet = pool_once(proxy, "it was asked", |pool| pool["up"] == true);
    assert_eq!(quiet["max_children"], Value::Null, "{quiet}");
    assert_eq!(quiet["warning"], Value::Null, "{quiet}");
    let clients = stage.occupy(proxy, (3, 3));
    let full = pool_once(proxy, "it has reached its limit", |pool| {
        pool["warning"].is_string()
    });
    assert_eq!(full["max_children"], 3, "{full}");
    assert_eq!(full["max_children_reached"], 1, "{full}");
    let warning = full["warning"].as_str().unwrap();
    assert!(
        warning.starts_with("pm.max_children is 3, and --per-endpoint-max 6: "),
        "{warning}"
    );
    stage.open_the_gate();
    for client in clients {
        assert_eq!(client.answer().text(), "waited\n");
    }
    // Looked at, or asked, in another way, it is the same pool, and no rush comes to show its limit again.
    for (permits, more) in [
        (6, "when-down = \"close\"\n"),
        (6, "check = \"tcp\"\n"),
        (5, "tcp-user-timeout = \"30s\"\n"),
    ] {
        let reloaded = Instant::now();
        changing.reload(&format!("{}{more}", keys(permits)));
        // Younger by more than the status takes to come.
        let is_asked_since = |pool: &Value| {
            let age = pool["age_seconds"].as_f64();
            age.is_some_and(|age| age + 1.0 < reloaded.elapsed().as_secs_f64())
        };
        let at_once = pool(proxy);
        assert_eq!(at_once["max_children"], 3, "{at_once}");
        let later = pool_once(proxy, "it is asked after the reload", is_asked_since);
        assert_eq!(later["max_children"], 3, "{later}");
        let warning = format!("pm.max_children is 3, and --per-endpoint-max {permits}: ");
        let warned = pool(proxy)["warning"].as_str().unwrap().to_owned();
        assert!(warned.starts_with(&warning), "{warned}");
    }
}

#[test]
fn the_limit_of_a_dynamic_pool_is_found_out_when_it_is_reached() {
    a_pool_that_grows_is_found_out(
        "pm = dynamic\npm.start_servers = 1\npm.min_spare_servers = 1\npm.max_spare_servers = 1",
    );
}

#[test]
fn the_limit_of_a_pool_that_forks_on_demand_is_found_out_when_it_is_reached() {
    a_pool_that_grows_is_found_out("pm = ondemand");
}

#[test]
fn a_pool_that_fits_is_no_warning_and_fewer_permits_are_told_once() {
    let stage = Stage::start(4, "");
    for (permits, lines) in [("4", 0), ("3", 1)] {
        let proxy = stage.proxy(Engine::Epoll, &["--per-endpoint-max", permits]);
        let pool = pool_once(&proxy, "it was asked", |pool| pool["max_children"] == 4);
        assert_eq!(pool["warning"], Value::Null);
        match lines {
            0 => assert_eq!(proxy.process().log().count("pm.max_children"), 0),
            _ => assert_told_once(
                &proxy,
                "pm.max_children is 4, of which this route uses 3 at most",
            ),
        }
    }
    // Without a limit there are more than there is room for.
    let proxy = stage.proxy(Engine::Epoll, &[]);
    let pool = pool_once(&proxy, "it was asked", |pool| pool["max_children"] == 4);
    let warning = pool["warning"].as_str().unwrap();
    assert!(warning.contains("give --per-endpoint-max 4"), "{warning}");
}

#[test]
fn permits_that_are_found_out_begin_with_the_processes_that_there_may_be() {
    let stage = Stage::start(6, "");
    let proxy = stage.proxy(Engine::Epoll, &["--per-endpoint-max", "auto"]);
    pool_once(&proxy, "it was asked", |pool| pool["max_children"] == 6);
    let client = Client::connect(&proxy);
    assert_eq!(client.ask(&stage.request("quick.php")).text(), "quick\n");
    let status = proxy.status();
    let endpoint = &status["routes"][0]["endpoints"][0];
    assert_eq!(endpoint["connections_limit"], 6, "{endpoint}");
    assert_eq!(pool(&proxy)["warning"], Value::Null);
    assert_eq!(proxy.process().log().count("pm.max_children"), 0);
}

#[test]
fn a_status_on_a_unix_socket_has_its_page_behind_a_colon() {
    let mut stage = Stage::start(2, "");
    stage.fpm = None;
    let socket = stage.dir.path().join("status.sock");
    stage.status = socket.display().to_string();
    stage.start_fpm(2, "listen.mode = 0666");
    let place = format!("unix:{}:/fpm/status", socket.display());
    let proxy = Proxy::builder()
        .backend(stage.backend())
        .args(["--protocol", "fastcgi", "--fpm-status", &place])
        .observed()
        .start();
    let pool = pool_once(&proxy, "it was asked", |pool| pool["up"] == true);
    assert_eq!(pool["total_processes"], 2);
    assert_eq!(pool["address"], format!("unix:{}", socket.display()));
}

#[test]
fn another_page_is_named_with_a_remedy() {
    let stage = Stage::start(2, "");
    let place = stage.status.clone();
    let proxy = Proxy::builder()
        .backend(stage.backend())
        .args(["--protocol", "fastcgi", "--fpm-status", &place])
        .observed()
        .start();
    let pool = pool_once(&proxy, "it has answered", |pool| {
        pool["error"].as_str().is_some_and(|e| e.contains("404"))
    });
    let error = pool["error"].as_str().unwrap();
    assert!(
        error.contains("status 404, 'File not found.' (pm.status_path of the pool is another one"),
        "{error}"
    );
    assert_eq!(pool["up"], false);
    assert!(pool.get("listen_queue").is_none(), "{pool}");
    let up = format!("spliceway_fpm_up{{{}}}", labels(&stage));
    assert_eq!(proxy.scrape().value(&up), 0.0);
}

#[test]
fn php_fpm_goes_and_comes_back_and_no_old_figure_is_shown_as_a_new_one() {
    let mut stage = Stage::start(2, "");
    let proxy = stage.proxy(Engine::Epoll, &["--per-endpoint-max", "2"]);
    pool_once(&proxy, "it was asked", |pool| pool["up"] == true);
    stage.fpm = None;
    let gone = pool_once(&proxy, "its figures are too old", |pool| {
        pool["error"].is_string() && pool.get("listen_queue").is_none()
    });
    assert!(gone["age_seconds"].as_f64() > Some(15.0), "{gone}");
    let error = gone["error"].as_str().unwrap();
    assert!(
        error.contains("ECONNREFUSED) (is PHP-FPM running"),
        "{error}"
    );
    let (scrape, labels) = (proxy.scrape(), labels(&stage));
    assert_eq!(scrape.value(&format!("spliceway_fpm_up{{{labels}}}")), 0.0);
    for absent in ["listen_queue", "max_children", "processes_running"] {
        let series = format!("spliceway_fpm_{absent}{{");
        assert!(!scrape.0.contains(&series), "{series}");
    }
    // Three polls and more have failed.
    let log = proxy.process().log();
    let told = || (log.count("ask PHP-FPM at "), log.count("tells again how"));
    // There are more if the machine was too busy to answer in time.
    eventually("it is told once that it is gone", || {
        told().0 == told().1 + 1
    });
    stage.start_fpm(2, "");
    pool_once(&proxy, "it is back", |pool| pool["up"] == true);
    eventually("it is told that it is back", || told().0 == told().1);
    assert_eq!(
        proxy
            .scrape()
            .value(&format!("spliceway_fpm_up{{{labels}}}")),
        1.0
    );
}

// --- reloads and endpoints ----------------------------------------------------------------------

/// A proxy whose configuration can be changed.
struct Changing {
    proxy: Proxy,
    head: String,
}

impl Changing {
    fn start(backends: &str, keys: &str) -> Self {
        let builder = Proxy::builder().engine(Engine::Epoll).observed();
        let socket = builder.dir().join("proxy.sock");
        let head = format!(
            "workers = 2\n[route.php]\nprotocol = \"fastcgi\"\nlisten = \"unix:{}\"\nbackend = {backends}\n",
            socket.display()
        );
        let proxy = builder.config(&format!("{head}{keys}")).start();
        Self { proxy, head }
    }

    /// Writes the file anew, and returns what the reload says of the route.
    #[track_caller]
    fn reload(&self, keys: &str) -> String {
        let file = self.proxy.dir().join("spliceway.toml");
        assert!(file.exists(), "the builder's own");
        fs::write(file, format!("{}{keys}", self.head)).unwrap();
        let mut command = Command::new(SPLICEWAY);
        command
            .arg("reload")
            .arg("--control")
            .arg(self.proxy.control());
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn a_reload_adds_changes_and_removes_pools_and_leaves_others_alone() {
    let (first, second) = (pool_responder(4), pool_responder(5));
    let keys = |more: &str| format!("per-endpoint-max = 4\n{more}\n");
    let asking = |pool: &Backend| keys(&format!("fpm-status = \"{pool}\""));
    let changing = Changing::start(&format!("\"{first}\""), &keys(""));
    let proxy = &changing.proxy;
    assert_eq!(pools(proxy), Vec::<Value>::new());
    let said = changing.reload(&asking(&first));
    assert!(said.contains("route php: changed: fpm-status"), "{said}");
    pool_once(proxy, "it is asked", |pool| pool["total_processes"] == 4);
    // Something else: what is known of it stays.
    changing.reload(&format!("{}queue-max = 7\n", asking(&first)));
    assert_eq!(pool(proxy)["total_processes"], 4);
    // Other permits are compared with it anew.
    assert_eq!(pool(proxy)["warning"], Value::Null);
    changing.reload(&asking(&first).replace("= 4", "= 9"));
    let warned = pool_once(proxy, "it is compared", |pool| pool["warning"].is_string());
    let warning = warned["warning"].as_str().unwrap();
    assert!(warning.contains("4, and --per-endpoint-max 9"), "{warning}");
    changing.reload(&asking(&second));
    pool_once(proxy, "the other is asked", |pool| {
        pool["total_processes"] == 5
    });
    assert_eq!(pools(proxy).len(), 1);
    // Divided anew, the route keeps them.
    changing.reload(&format!("{}shards = 2\n", asking(&second)));
    assert_eq!(pool(proxy)["total_processes"], 5);
    changing.reload(&keys(""));
    assert_eq!(pools(proxy), Vec::<Value>::new());
    let scrape = proxy.scrape();
    assert!(!scrape.0.contains("spliceway_fpm_up{"), "{}", scrape.0);
    // And nobody asks any more: the connections are over.
    first.wait_until("its polls have ended", |ledger| ledger.open == 0);
}

/// Backends at two addresses of this machine with the same port, each of which tells how its pool fares.
fn two_hosts() -> (Backend, Backend) {
    let at = |host: &str, port: u16| {
        Backend::scripted_at((host, port), |conversation: &mut Conversation| {
            conversation.respond(|heard| {
                let text = common::fastcgi::status_page(3, 1);
                page(heard.id, text.as_bytes())
            })
        })
    };
    let both = || -> io::Result<_> {
        let first = at("127.0.0.1", 0)?;
        let second = at("127.0.0.2", first.port())?;
        Ok((first, second))
    };
    let mut attempts = std::iter::repeat_with(both).take(100);
    attempts.find_map(Result::ok).expect("some port is free")
}

#[test]
fn a_port_alone_is_that_of_each_endpoint() {
    let (first, second) = two_hosts();
    let backends = "[\"127.0.0.1:9\", \"127.0.0.2:9\"]";
    let changing = Changing::start(backends, &format!("fpm-status = \":{}/s\"\n", first.port()));
    eventually("both are asked", || {
        let pools = pools(&changing.proxy);
        pools.len() == 2 && pools.iter().all(|pool| pool["total_processes"] == 3)
    });
    let addresses: Vec<_> = pools(&changing.proxy)
        .iter()
        .map(|pool| pool["address"].as_str().unwrap().to_owned())
        .collect();
    let expected = [&first, &second].map(|backend| backend.address().to_string());
    assert_eq!(addresses, expected);
}

// --- a pool without a status address -------------------------------------------------------------

/// That the page answers where no worker does is what pm.status_listen is for: without it, the poll waits with the
/// others.
#[test]
fn without_a_status_address_of_its_own_a_busy_pool_is_named() {
    let mut stage = Stage::start(1, "");
    stage.fpm = None;
    let lines = "pm.status_path = /fpm/status";
    let dir = stage.dir.path().to_owned();
    stage.fpm = Some(start_fpm_pool(&dir, &stage.endpoint, 1, lines, &[]));
    stage.status = stage.backend();
    let proxy = stage.proxy(Engine::Epoll, &["--per-endpoint-max", "1"]);
    pool_once(&proxy, "it is asked", |pool| pool["up"] == true);
    let clients = stage.occupy(&proxy, (1, 0));
    let pool = pool_once(&proxy, "it is not answered", |pool| pool["up"] == false);
    let error = pool["error"].as_str().unwrap();
    assert!(error.contains("set pm.status_listen"), "{error}");
    stage.open_the_gate();
    for client in clients {
        assert_eq!(client.answer().text(), "waited\n");
    }
    // It listens still.
    TcpStream::connect(stage.backend()).unwrap();
}
