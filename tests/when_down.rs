//! What becomes of a route's sockets, and of its clients, while none of its endpoints takes connections
//! (`--when-down close` and `refuse`).

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::backend::Refusing;
use common::client::{assert_over, assert_waiting, exchange, exchange_and_end};
use common::fastcgi::{Client, Request, page};
use common::http::{self, Response};
use common::programs::{fresh_endpoint, start_nginx};
use common::proxy::{Builder, NOBODY, fresh_dir};
use common::sys::lacks_root;
use common::{
    Backend, Conversation, Engine, KB, Pattern, Proxy, SPLICEWAY, eventually, for_each_engine,
};

for_each_engine!(
    nginx_has_its_next_server_within_a_tenth_of_a_second_and_back,
    nobody_can_connect_to_a_route_that_is_down_until_an_endpoint_is_back,
    who_waits_in_the_backlog_is_closed_and_what_runs_goes_on,
    endpoints_that_are_drained_by_hand_are_no_outage,
    a_pause_brings_the_socket_back,
    reloads_find_the_socket_wherever_it_is,
    what_a_killed_daemon_has_left_hidden_is_removed_at_the_next_start,
);

/// How long a web server may notice an outage.
const TAKEN_OVER_WITHIN: Duration = Duration::from_millis(100);

/// Of so many rounds, the last ones, half must keep to that.
const ROUNDS: usize = 9;

/// On a machine that is busy with something else, it takes more of them until it is seen.
const ROUNDS_MAX: usize = 90;

/// An endpoint that is there or not, at one address.
struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    fn new() -> Self {
        let (host, port) = fresh_endpoint();
        Self { host, port }
    }

    /// Until what is returned is dropped, it takes connections.
    fn come<F>(&self, script: F) -> Backend
    where
        F: Fn(&mut Conversation) -> std::io::Result<()> + Clone + Send + Sync + 'static,
    {
        let mut there = None;
        eventually("the port is free", || {
            there = Backend::scripted_at((self.host.as_str(), self.port), script.clone()).ok();
            there.is_some()
        });
        there.unwrap()
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn is_down(proxy: &Proxy) -> bool {
    proxy.status()["routes"][0]["is_down"].as_bool().unwrap()
}

fn tell(proxy: &Proxy, command: &str, more: &str) {
    let command = format!(r#"{{"command": "{command}", "route": "default"{more}}}"#);
    let answer = http::command(&proxy.control(), &command);
    assert_eq!(answer.code, 200, "{answer:?}");
}

fn run(command: &[&str], control: &Path) -> String {
    let mut spliceway = Command::new(SPLICEWAY);
    spliceway.args(command).arg("--control").arg(control);
    let output = spliceway.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Where a socket is while it is away from its path.
fn hidden(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    path.with_file_name(format!(".{name}.down"))
}

fn file(path: &Path) -> Option<(u64, u32, u32, u32)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.ino(), found.mode(), found.uid(), found.gid()))
}

fn connect_error(path: &Path) -> Option<i32> {
    let error = UnixStream::connect(path).err()?;
    error.raw_os_error()
}

/// A route whose endpoint is to be found out about, because nobody connects: a change of its weight begins a look.
fn have_it_looked_at(proxy: &Proxy, endpoint: &str) {
    let of = format!(r#", "endpoint": "{endpoint}", "weight": 2"#);
    tell(proxy, "weight", &of);
}

fn refusing_route(engine: Engine, backend: impl std::fmt::Display) -> Builder {
    Proxy::builder()
        .engine(engine)
        .args(["--when-down", "refuse"])
        .backend(backend)
        .observed()
}

fn wait_until_hidden(path: &Path) {
    eventually("the socket is away from its path", || {
        !path.exists() && hidden(path).exists()
    });
}

fn wait_until_shown(path: &Path) {
    eventually("the socket is back", || {
        path.exists() && !hidden(path).exists()
    });
}

/// With an upstream of two sockets, whichever way the first one is closed. It is tried first again and again, so its
/// outage is over for nginx as soon as it is over.
fn nginx_has_its_next_server_within_a_tenth_of_a_second_and_back(engine: Engine) {
    for how in ["close", "refuse"] {
        let serve = |name: &'static str| {
            move |conversation: &mut Conversation| {
                conversation.respond(move |heard| page(heard.id, name.as_bytes()))
            }
        };
        let endpoint = Endpoint::new();
        let other = Backend::scripted(serve("other"));
        // Each request takes a connection of its own, so the first one after the end finds that there is none.
        let start = |backend: &dyn std::fmt::Display| {
            let builder = Proxy::builder().engine(engine).backend(backend).observed();
            builder
                .args(["--protocol", "fastcgi", "--upstream-reuse", "never"])
                .args(["--when-down", how, "--mode", "0666"])
                .start()
        };
        let mut backend = Some(endpoint.come(serve("first")));
        let (first, second) = (start(&endpoint), start(&other));
        let front = Front::start(&first, &second);
        eventually("the first one serves", || front.ask() == "first");
        let (mut away, mut back) = (Vec::new(), Vec::new());
        while !keeps_to_it(&away) || !keeps_to_it(&back) {
            assert!(
                away.len() < ROUNDS_MAX,
                "{how}: there after {away:?}, back after {back:?}"
            );
            let since = Instant::now();
            drop(backend.take());
            eventually("the second one serves", || front.ask() == "other");
            away.push(since.elapsed());
            assert!(is_down(&first));
            if how == "refuse" {
                wait_until_hidden(first.socket());
            }
            // Nobody else does meanwhile.
            for _ in 0..3 {
                assert_eq!(front.ask(), "other");
            }
            backend = Some(endpoint.come(serve("first")));
            let since = Instant::now();
            eventually("the first one serves again", || front.ask() == "first");
            back.push(since.elapsed());
            assert!(!is_down(&first));
        }
        drop(backend);
    }
}

/// The median of the last rounds.
fn keeps_to_it(times: &[Duration]) -> bool {
    let Some(at) = times.len().checked_sub(ROUNDS) else {
        return false;
    };
    let mut last = times[at..].to_vec();
    last.sort();
    last[ROUNDS / 2] <= TAKEN_OVER_WITHIN
}

/// nginx in front of two sockets, the second of which is for when the first one fails.
struct Front {
    socket: PathBuf,
    _nginx: common::Process,
    _dir: tempfile::TempDir,
}

impl Front {
    fn start(first: &Proxy, second: &Proxy) -> Self {
        let dir = fresh_dir();
        let socket = dir.path().join("http.sock");
        let config = format!(
            "http {{
                access_log off;
                client_body_temp_path {dir}/body;
                fastcgi_temp_path {dir}/fastcgi;
                proxy_temp_path {dir}/proxy;
                uwsgi_temp_path {dir}/uwsgi;
                scgi_temp_path {dir}/scgi;
                upstream php {{
                    server unix:{first} max_fails=0;
                    server unix:{second} backup;
                }}
                server {{
                    listen unix:{socket};
                    location / {{
                        fastcgi_pass php;
                        fastcgi_param REQUEST_METHOD $request_method;
                        fastcgi_param REQUEST_URI $request_uri;
                    }}
                }}
            }}",
            dir = dir.path().display(),
            socket = socket.display(),
            first = first.socket().display(),
            second = second.socket().display(),
        );
        let nginx = start_nginx(dir.path(), &config, &socket);
        Self {
            socket,
            _nginx: nginx,
            _dir: dir,
        }
    }

    /// Nobody ever gets an error.
    fn ask(&self) -> String {
        let answer = Response::to(&self.socket, "GET", "/", b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text().to_owned()
    }
}

fn nobody_can_connect_to_a_route_that_is_down_until_an_endpoint_is_back(engine: Engine) {
    let refusing = Refusing::new();
    let address = refusing.to_string();
    let mut proxy = refusing_route(engine, &refusing)
        .args(["--mode", "0642"])
        .start();
    let path = proxy.socket().to_owned();
    wait_until_hidden(&path);
    assert_eq!(connect_error(&path), Some(libc::ENOENT));
    let away = file(&hidden(&path));
    assert_eq!(away.unwrap().1 & 0o777, 0o642, "as it was made");
    assert!(is_down(&proxy));
    let down = "spliceway_route_down{route=\"default\"}";
    assert_eq!(proxy.scrape().value(down), 1.0);
    let log = proxy.process().log();
    proxy.process().wait_for_log("is away from its path, at ");
    proxy.process().wait_for_log("(--when-down refuse)");
    // It is no file that is missing, and nobody binds it again.
    proxy.process().assert_comes_to_rest();
    assert_eq!(proxy.scrape().value("spliceway_socket_files_missing"), 0.0);
    assert_eq!(file(&hidden(&path)), away);
    assert_eq!(log.count("is not there any more"), 0);
    assert_eq!(log.count("no endpoint takes connections:"), 1);
    let backend = refusing.recover(|conversation| conversation.echo());
    wait_until_shown(&path);
    assert_eq!(file(&path), away, "the very same");
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    assert!(!is_down(&proxy));
    drop(backend);
    have_it_looked_at(&proxy, &address);
    wait_until_hidden(&path);
    proxy.terminate();
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!path.exists() && !hidden(&path).exists(), "nothing is left");
}

/// One that has its connection, and others for whom there is no room: they are in the backlog of a socket that nobody
/// finds any more.
fn who_waits_in_the_backlog_is_closed_and_what_runs_goes_on(engine: Engine) {
    let endpoint = Endpoint::new();
    let backend = endpoint.come(|conversation| conversation.echo());
    let proxy = refusing_route(engine, &endpoint)
        .args(["--workers", "1", "--connections-max", "1"])
        .start();
    let served = proxy.connect();
    exchange(&served, Pattern::new(1), KB);
    let waiting: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
    drop(backend);
    have_it_looked_at(&proxy, &endpoint.to_string());
    wait_until_hidden(proxy.socket());
    waiting.iter().for_each(assert_waiting);
    exchange(&served, Pattern::new(2), KB);
    drop(served);
    waiting.iter().for_each(assert_over);
    let ended = || {
        let reason = ["reason=\"route_down\""];
        proxy
            .scrape()
            .sum("spliceway_sessions_ended_total", &reason)
    };
    eventually("they are counted", || ended() == 3.0);
    let _backend = endpoint.come(|conversation| conversation.echo());
    wait_until_shown(proxy.socket());
    exchange_and_end(&proxy.connect(), Pattern::new(3), KB);
}

/// Whoever does that wants clients to wait for what is brought back.
fn endpoints_that_are_drained_by_hand_are_no_outage(engine: Engine) {
    for how in ["close", "refuse"] {
        let (one, other) = (Endpoint::new(), Endpoint::new());
        let answer = |conversation: &mut Conversation| conversation.respond(|heard| heard.page());
        let backends = [one.come(answer), other.come(answer)];
        let proxy = Proxy::builder()
            .engine(engine)
            .args(["--protocol", "fastcgi", "--per-endpoint-max", "2"])
            .args(["--queue-timeout", "off", "--connect-timeout", "50s"])
            .args(["--when-down", how])
            .backend(&one)
            .backend(&other)
            .observed()
            .start();
        let drain = |command: &str, endpoint: &Endpoint| {
            tell(&proxy, command, &format!(r#", "endpoint": "{endpoint}""#));
        };
        let client = Client::connect(&proxy);
        assert_eq!(client.ask(&Request::get("/before")).text(), "/before");
        drain("drain", &one);
        drain("drain", &other);
        // Also where they are gone, as for a deploy.
        drop(backends);
        let waiting = Client::connect(&proxy);
        waiting.send(&Request::get("/waiting").bytes());
        let depth = "spliceway_queue_depth{route=\"default\"}";
        eventually("it waits", || proxy.scrape().value(depth) == 1.0);
        // More than a look at them takes.
        proxy.process().assert_comes_to_rest();
        assert!(!is_down(&proxy), "{how}");
        assert!(proxy.socket().exists() && !hidden(proxy.socket()).exists());
        assert_eq!(
            proxy.process().log().count("no endpoint takes connections"),
            0
        );
        assert_waiting(&waiting.0);
        let _backend = other.come(answer);
        drain("undrain", &other);
        assert_eq!(waiting.answer().text(), "/waiting");
        // The one that is left is what counts, and it is gone for once and all.
        drain("undrain", &one);
        drain("drain", &other);
        eventually("it is an outage", || is_down(&proxy));
        // Nor is one that there was, once nothing is left that should be there.
        drain("drain", &one);
        eventually("it is none", || !is_down(&proxy));
        wait_until_shown(proxy.socket());
    }
}

fn a_pause_brings_the_socket_back(engine: Engine) {
    let refusing = Refusing::new();
    let proxy = refusing_route(engine, &refusing)
        .args(["--protocol", "fastcgi", "--per-endpoint-max", "2"])
        .start();
    wait_until_hidden(proxy.socket());
    tell(&proxy, "pause", "");
    wait_until_shown(proxy.socket());
    let client = Client::connect(&proxy);
    client.send(&Request::get("/paused").bytes());
    let depth = "spliceway_queue_depth{route=\"default\"}";
    eventually("it waits", || proxy.scrape().value(depth) == 1.0);
    let _backend = refusing.recover(|conversation| conversation.respond(|heard| heard.page()));
    tell(&proxy, "resume", "");
    assert_eq!(client.answer().text(), "/paused");
}

/// A proxy with one route, whose keys can be changed.
struct Changing {
    proxy: Proxy,
    head: String,
}

impl Changing {
    fn start(engine: Engine, backend: &dyn std::fmt::Display, keys: &str) -> Self {
        let builder = Proxy::builder().engine(engine).observed();
        let head = format!(
            "[route.default]\nlisten = \"unix:{}\"\nbackend = \"{backend}\"\n",
            builder.socket().display()
        );
        let proxy = builder.config(&format!("{head}{keys}")).start();
        Self { proxy, head }
    }

    fn write(&self, keys: &str) {
        let file = self.proxy.dir().join("spliceway.toml");
        fs::write(file, format!("{}{keys}", self.head)).unwrap();
    }

    fn reload(&self, keys: &str) {
        self.write(keys);
        run(&["reload"], &self.proxy.control());
    }
}

fn reloads_find_the_socket_wherever_it_is(engine: Engine) {
    let refusing = Refusing::new();
    let refuse = "when-down = \"refuse\"\n";
    let changing = Changing::start(engine, &refusing, "when-down = \"close\"\n");
    let path = changing.proxy.socket();
    let before = file(path);
    // Somebody has to come before anything is known.
    assert_over(&changing.proxy.connect());
    eventually("it is down", || is_down(&changing.proxy));
    assert!(path.exists());
    changing.reload(refuse);
    wait_until_hidden(path);
    // What is changed of the file is changed where it is.
    changing.reload(&format!("{refuse}mode = \"0600\"\n"));
    assert_eq!(file(&hidden(path)).unwrap().1 & 0o777, 0o600);
    assert!(!path.exists());
    // So is what is not about the file at all.
    changing.reload(&format!(
        "{refuse}mode = \"0600\"\nshards = 2\nper-endpoint-max = 4\n"
    ));
    assert!(is_down(&changing.proxy) && !path.exists());
    changing.reload("when-down = \"close\"\n");
    wait_until_shown(path);
    assert!(is_down(&changing.proxy));
    changing.reload(refuse);
    wait_until_hidden(path);
    // Nor is a reload that is refused a reason to come back.
    changing.write("when-down = \"refuse\"\nmode = \"9\"\n");
    let mut reload = Command::new(SPLICEWAY);
    reload
        .arg("reload")
        .arg("--control")
        .arg(changing.proxy.control());
    assert!(!reload.output().unwrap().status.success());
    assert!(!path.exists() && hidden(path).exists());
    changing.reload("");
    wait_until_shown(path);
    assert_eq!(file(path), before, "one file all the time");
    let _backend = refusing.recover(|conversation| conversation.echo());
    exchange_and_end(&changing.proxy.connect(), Pattern::new(1), KB);
    // A route that goes takes its socket along, wherever it is.
    assert_eq!(
        changing
            .proxy
            .process()
            .log()
            .count("is not there any more"),
        0
    );
}

// --- others at the path -------------------------------------------------------------------------

/// It is free for whoever wants it, and then it is theirs.
#[test]
fn a_file_that_came_to_the_path_meanwhile_is_left_alone_and_reported() {
    let refusing = Refusing::new();
    let proxy = refusing_route(Engine::Epoll, &refusing).start();
    let path = proxy.socket();
    wait_until_hidden(path);
    let ours = file(&hidden(path));
    fs::write(path, "precious").unwrap();
    proxy.process().wait_for_log("another file is there");
    eventually("it is counted", || {
        proxy.scrape().value("spliceway_socket_files_missing") == 1.0
    });
    let _backend = refusing.recover(|conversation| conversation.echo());
    eventually("an endpoint is back", || !is_down(&proxy));
    proxy.process().assert_comes_to_rest();
    assert_eq!(fs::read_to_string(path).unwrap(), "precious");
    assert_eq!(file(&hidden(path)), ours, "it waits for its path");
    // As the message advises.
    fs::remove_file(path).unwrap();
    wait_until_shown(path);
    assert_eq!(file(path), ours);
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    eventually("nothing is missing", || {
        proxy.scrape().value("spliceway_socket_files_missing") == 0.0
    });
    assert_eq!(proxy.process().log().count("another file is there"), 1);
}

#[test]
fn a_file_at_the_hidden_name_is_left_alone_and_clients_are_closed() {
    let refusing = Refusing::new();
    let start = || refusing_route(Engine::Epoll, &refusing);
    // At the start it is said.
    let builder = start();
    fs::write(hidden(&builder.socket()), "precious").unwrap();
    let at_hidden = hidden(&builder.socket()).display().to_string();
    builder.run_to_the_end().assert_error_line(
        1,
        &[
            "--when-down refuse with --listen",
            "another file is at",
            &at_hidden,
        ],
    );
    // And later, when it comes to that.
    let endpoint = Endpoint::new();
    let backend = endpoint.come(|conversation| conversation.echo());
    let proxy = refusing_route(Engine::Epoll, &endpoint).start();
    fs::write(hidden(proxy.socket()), "precious").unwrap();
    drop(backend);
    assert_over(&proxy.connect());
    eventually("it is down", || is_down(&proxy));
    proxy
        .process()
        .wait_for_log("cannot be taken away from its path, and its clients are closed at once");
    assert_over(&proxy.connect());
    proxy.process().assert_comes_to_rest();
    let log = proxy.process().log();
    assert_eq!(log.count("cannot be taken away"), 1, "once in an outage");
    assert_eq!(
        fs::read_to_string(hidden(proxy.socket())).unwrap(),
        "precious"
    );
    // Once it is gone, nothing is in the way.
    fs::remove_file(hidden(proxy.socket())).unwrap();
    wait_until_hidden(proxy.socket());
}

/// Its socket is nobody's, and in the way of nobody.
fn what_a_killed_daemon_has_left_hidden_is_removed_at_the_next_start(engine: Engine) {
    for how in ["refuse", "wait"] {
        let refusing = Refusing::new();
        let mut proxy = refusing_route(engine, &refusing).start();
        let path = proxy.socket().to_owned();
        wait_until_hidden(&path);
        let left = file(&hidden(&path));
        proxy.process().signal(libc::SIGKILL);
        proxy.wait();
        assert_eq!(file(&hidden(&path)), left, "it is still there");
        let listen = format!("unix:{}", path.display());
        let next = Proxy::builder()
            .engine(engine)
            .listen(&listen)
            .args(["--when-down", how])
            .backend(&refusing)
            .start();
        next.process()
            .wait_for_log("hidden by a daemon that was killed");
        match how {
            "wait" => wait_until_shown(&path),
            // Nobody has come: it looks by itself.
            _ => wait_until_hidden(&path),
        }
        let now = [&path, &hidden(&path)].map(|path| file(path));
        assert_eq!(now.iter().flatten().count(), 1, "{now:?}");
    }
}

/// It serves again when an endpoint is back.
#[test]
fn nobody_takes_the_path_of_a_daemon_whose_socket_is_hidden() {
    let refusing = Refusing::new();
    let proxy = refusing_route(Engine::Epoll, &refusing).start();
    let path = proxy.socket();
    wait_until_hidden(path);
    let listen = format!("unix:{}", path.display());
    for how in ["refuse", "wait"] {
        let other = Proxy::builder()
            .listen(&listen)
            .args(["--when-down", how])
            .backend(&refusing);
        other.run_to_the_end().assert_error_line(
            1,
            &[
                "another process listens there, and has taken its socket away from the path",
                &hidden(path).display().to_string(),
            ],
        );
        assert!(hidden(path).exists() && !path.exists());
    }
    // Other sockets of such a name are none of a daemon's, dead or not.
    let mine = fresh_dir();
    let dead = mine.path().join("a.sock");
    drop(UnixListener::bind(hidden(&dead)).unwrap());
    let next = Proxy::builder()
        .listen(format!("unix:{}", dead.display()))
        .backend(&refusing)
        .start();
    assert!(!hidden(&dead).exists() && dead.exists());
    drop(next);
}

// --- what it takes ------------------------------------------------------------------------------

/// Whoever cannot rename the socket says so at once, and not when it would matter.
#[test]
fn without_the_right_to_the_directory_it_is_refused_at_the_start() {
    if lacks_root() {
        return;
    }
    let backend = Backend::echo();
    let start = |mode: u32| {
        let builder = Proxy::builder().backend(&backend);
        fs::set_permissions(builder.dir(), Permissions::from_mode(mode)).unwrap();
        builder.args(["--user", "nobody", "--when-down", "refuse"])
    };
    // The socket's file cannot be removed by then either, which is another line.
    let assert_refused = |builder: Builder, mentions: &[&str]| {
        let outcome = builder.run_to_the_end();
        assert_eq!(outcome.code, Some(1), "{outcome:#?}");
        let mut errors = outcome.stderr.iter();
        let error = errors.find(|line| line.starts_with("spliceway: ")).unwrap();
        for mention in mentions {
            assert!(error.contains(mention), "no {mention:?} in {error}");
        }
    };
    assert_refused(
        start(0o755),
        &[
            "--when-down refuse with --listen unix:",
            "permission denied (the directory belongs to uid 0",
            "--when-down close can do without",
        ],
    );
    // Everybody may write there, and rename what is theirs.
    assert_refused(start(0o1777), &["sticky bit", "only uid 0 may rename"]);
    let nobody = ["--owner", "nobody", "--mode", "0666"];
    let proxy = start(0o1777).args(nobody).start();
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    assert_eq!(file(proxy.socket()).unwrap().2, NOBODY);
    drop(proxy);
    start(0o777).start();
}

/// Its lock is made before it is the owner's, in a directory in which only owners remove files.
#[test]
fn with_an_owner_and_a_sticky_bit_it_can_be_hidden_when_it_matters() {
    if lacks_root() {
        return;
    }
    let refusing = Refusing::new();
    let builder = Proxy::builder().backend(&refusing);
    fs::set_permissions(builder.dir(), Permissions::from_mode(0o1777)).unwrap();
    let nobody = ["--user", "nobody", "--owner", "nobody", "--mode", "0666"];
    let proxy = builder.args(nobody).args(["--when-down", "refuse"]).start();
    let _ = UnixStream::connect(proxy.socket());
    wait_until_hidden(proxy.socket());
}

#[test]
fn a_reload_that_could_not_keep_its_promise_is_refused() {
    let refusing = Refusing::new();
    let changing = Changing::start(Engine::Epoll, &refusing, "");
    let path = changing.proxy.socket();
    fs::write(hidden(path), "precious").unwrap();
    changing.write("when-down = \"refuse\"\n");
    let mut reload = Command::new(SPLICEWAY);
    reload
        .arg("reload")
        .arg("--control")
        .arg(changing.proxy.control());
    let output = reload.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("another file is at"), "{said}");
    assert!(path.exists());
    fs::remove_file(hidden(path)).unwrap();
    changing.reload("when-down = \"refuse\"\n");
    wait_until_hidden(path);
}
