//! The FastCGI mode with the programs it is for: nginx and Apache in front, PHP-FPM and a script of one
//! process behind, as Debian packages them. A program that is missing is a failure: `scripts/test`
//! installs all of them.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::backend::Refusing;
use common::fastcgi::{Client, Request, page, read_record, stdout};
use common::http::Response;
use common::pattern::crc32;
use common::process::Process;
use common::programs::{
    WEB_USER, fresh_endpoint, start_apache, start_fpm_pool, start_nginx, start_python_responder,
};
use common::proxy::{connect, fresh_dir};
use common::sys::is_root;
use common::wait::{SetOnDrop, meanwhile, pause};
use common::{Backend, Engine, GUARD, MB, Pattern, Proxy, eventually, for_each_engine};
use spliceway::fastcgi::Kind;
use tempfile::TempDir;

for_each_engine!(
    pages_through_nginx_with_and_without_kept_connections,
    bodies_of_every_size_buffered_and_not,
    large_pages_arrive_byte_for_byte,
    sixty_four_clients_never_get_each_others_pages,
    workers_that_retire_after_five_requests_fail_none,
    scripts_that_run_on_after_their_answer_hold_up_nobody,
    scripts_that_run_on_after_their_answer_keep_their_places_once_the_fence_is_known_to_work,
    without_a_bound_scripts_that_run_on_after_their_answer_are_as_many_as_without_a_proxy,
    what_a_scripts_child_writes_to_a_connection_at_rest_is_nobodys_answer,
    what_a_script_prints_behind_its_answer_is_nobodys_answer,
    a_rejected_upload_is_a_403_and_not_a_502,
    a_client_that_leaves_in_the_midst_of_a_page_frees_its_worker,
    a_restart_of_php_fpm_costs_only_the_requests_in_flight,
    an_exhausted_pool_is_a_503_and_recovers,
    without_an_endpoint_nginx_goes_on_to_its_next_server,
    without_an_endpoint_there_is_an_answer_when_told_to,
    an_application_learns_how_long_its_request_has_waited,
    kept_connections_of_nginx_hold_no_worker,
    parameters_from_a_scripts_own_client_are_blocked,
    nginx_caches_no_answer_that_broke_off,
    apache_in_front,
    a_script_of_one_process_that_ignores_the_fence,
);

const TOKEN_PHP: &str = r#"<?php
echo str_repeat("{$_GET['token']}\n", (int) ($_GET['lines'] ?? 1));
echo file_get_contents('php://input');
"#;

const SUM_PHP: &str = r#"<?php
$body = file_get_contents('php://input');
echo strlen($body), ' ', hash('crc32b', $body);
"#;

const BIG_PHP: &str = r#"<?php
header("Content-Length: {$_GET['size']}");
$file = fopen(__DIR__ . '/big.bin', 'r');
stream_copy_to_stream($file, fopen('php://output', 'w'), (int) $_GET['size']);
"#;

/// Answers, and runs on until there is a gate.
const FINISH_PHP: &str = r#"<?php
echo "answered\n";
fastcgi_finish_request();
file_put_contents("{$_GET['dir']}/began", "x", FILE_APPEND);
for ($i = 0; $i < 60000 && !file_exists("{$_GET['dir']}/gate"); $i++) {
    usleep(1000);
    clearstatcache();
}
file_put_contents("{$_GET['dir']}/ended", "x", FILE_APPEND);
"#;

/// Answers, and runs on for as long as a mail takes to be sent.
const EARLY_PHP: &str = r#"<?php
echo "answered\n";
fastcgi_finish_request();
usleep(50000);
"#;

/// Answers, and when there is a gate prints more, which PHP-FPM sends on a connection that it keeps: as records of
/// the same request, behind its end. The empty line would end another answer's headers.
const TAIL_PHP: &str = r#"<?php
ignore_user_abort(true);
echo "answered\n";
fastcgi_finish_request();
file_put_contents("{$_GET['dir']}/began", "x", FILE_APPEND);
for ($i = 0; $i < 60000 && !file_exists("{$_GET['dir']}/gate"); $i++) {
    usleep(1000);
    clearstatcache();
}
echo "\n\nSECRET\n";
flush();
error_log('SECRET');
file_put_contents("{$_GET['dir']}/ended", "x", FILE_APPEND);
"#;

/// Leaves a child behind that has inherited the worker's connection, and writes to it when there is a gate.
const FORGE_PHP: &str = r#"<?php
$child = <<<'SH'
until [ -e "$0/gate" ]; do sleep 0.01; done
for fd in /proc/self/fd/*; do
    case $(readlink "$fd") in
    socket:*) eval "printf FORGED >&${fd##*/}" && forged="$forged ${fd##*/}" ;;
    esac
done
echo "forged on$forged" >"$0/forged"
SH;
exec('sh -c ' . escapeshellarg($child) . ' ' . escapeshellarg($_GET['dir']) . ' >/dev/null 2>&1 &');
echo "answered\n";
"#;

/// How long it has waited, as it was told, with every spelling in which it was.
const WAITED_PHP: &str = r#"<?php
foreach ($_SERVER as $name => $value) {
    if (in_array(strtoupper($name), ['QUEUE_US', 'HTTP_X_REQUEST_START'])) {
        echo "$name=$value\n";
    }
}
"#;

/// Answers only when there is a gate.
const WAIT_PHP: &str = r#"<?php
file_put_contents("{$_GET['dir']}/began", "x", FILE_APPEND);
for ($i = 0; $i < 60000 && !file_exists("{$_GET['dir']}/gate"); $i++) {
    usleep(1000);
    clearstatcache();
}
echo "waited\n";
"#;

/// A page without an end.
const ENDLESS_PHP: &str = r#"<?php
set_time_limit(60);
while (true) {
    echo str_repeat('endless ', 1000);
    flush();
}
"#;

/// A client of FastCGI inside a PHP script: sends what it is given, and shows the answer.
const SOCKET_PHP: &str = r#"<?php
$socket = stream_socket_client($_GET['to'], $code, $message, 10);
fwrite($socket, file_get_contents('php://input'));
echo stream_get_contents($socket);
"#;

const BIG: Pattern = Pattern::new(20);
const BIG_BYTES: u64 = 20 * MB;

/// How a [`Site`] is to be.
struct Plan<'a> {
    workers: usize,
    /// Lines about the pool of PHP-FPM.
    fpm: &'a str,
    /// Options of the proxy.
    args: &'a [&'a str],
    /// Further servers in nginx's upstream block.
    servers: &'a str,
    has_fpm: bool,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            workers: 4,
            fpm: "",
            args: &[],
            servers: "",
            has_fpm: true,
        }
    }
}

/// nginx → spliceway → PHP-FPM.
struct Site {
    dir: TempDir,
    front: PathBuf,
    endpoint: (String, u16),
    workers: usize,
    fpm: Option<Process>,
    proxy: Proxy,
    _nginx: Process,
}

impl Site {
    fn start(engine: Engine) -> Self {
        Self::with(engine, &Plan::default())
    }

    fn with(engine: Engine, plan: &Plan<'_>) -> Self {
        let endpoint = fresh_endpoint();
        Self::at(engine, plan, endpoint)
    }

    fn at(engine: Engine, plan: &Plan<'_>, endpoint: (String, u16)) -> Self {
        let dir = fresh_dir();
        write_scripts(dir.path());
        let fpm = plan
            .has_fpm
            .then(|| start_pool(dir.path(), &endpoint, plan.workers, plan.fpm));
        let backend = format!("{}:{}", endpoint.0, endpoint.1);
        let proxy = start_proxy(engine, plan.args, &backend);
        let front = dir.path().join("http.sock");
        let config = http_config(dir.path(), &front, proxy.socket(), plan.servers);
        let nginx = start_nginx(dir.path(), &config, &front);
        Self {
            dir,
            front,
            endpoint,
            workers: plan.workers,
            fpm,
            proxy,
            _nginx: nginx,
        }
    }

    #[track_caller]
    fn get(&self, target: &str) -> Response {
        Response::to(&self.front, "GET", target, b"")
    }

    #[track_caller]
    fn post(&self, target: &str, body: &[u8]) -> Response {
        Response::to(&self.front, "POST", target, body)
    }

    /// Where scripts may write.
    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn script(&self, name: &str) -> String {
        format!("{}/www/{name}", self.dir.path().display())
    }

    fn open_gate(&self) {
        fs::write(self.out().join("gate"), "").unwrap();
    }

    /// Waits until so many scripts have noted this.
    #[track_caller]
    fn wait_for_notes(&self, file: &str, count: usize) {
        let path = self.out().join(file);
        eventually(&format!("{count} scripts have {file}"), || {
            fs::read(&path).is_ok_and(|notes| notes.len() >= count)
        });
    }

    /// A request of a client that connects to PHP-FPM itself.
    #[track_caller]
    fn ask_fpm(&self, request: &Request) -> Vec<u8> {
        let mut stream = TcpStream::connect((&*self.endpoint.0, self.endpoint.1)).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        stream.write_all(&request.bytes()).unwrap();
        let mut stdout = Vec::new();
        loop {
            let record = read_record(&mut stream).unwrap().expect("a whole answer");
            match record.kind {
                Kind::Stdout => stdout.extend(record.content),
                Kind::EndRequest => return stdout,
                _ => {}
            }
        }
    }

    fn script_request(&self, name: &str, query: &str) -> Request {
        Request::get("/")
            .param("SCRIPT_FILENAME", &self.script(name))
            .param("QUERY_STRING", query)
            .closing()
    }
}

fn start_pool(dir: &Path, endpoint: &(String, u16), workers: usize, lines: &str) -> Process {
    let settings = [
        "post_max_size=64M".to_owned(),
        "memory_limit=256M".to_owned(),
    ];
    start_fpm_pool(dir, endpoint, workers, lines, &settings)
}

/// A proxy that lets the workers of web servers in by the socket's group.
fn start_proxy(engine: Engine, args: &[&str], backend: &str) -> Proxy {
    let group: &[&str] = match is_root() {
        true => &["--group", WEB_USER],
        false => &[],
    };
    Proxy::builder()
        .engine(engine)
        .args(["--protocol", "fastcgi"])
        .args(group.iter().copied())
        .args(args.iter().copied())
        .backend(backend)
        .observed()
        .start()
}

fn write_scripts(dir: &Path) {
    let (www, out) = (dir.join("www"), dir.join("out"));
    fs::create_dir(&www).unwrap();
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    let scripts = [
        ("token.php", TOKEN_PHP),
        ("sum.php", SUM_PHP),
        ("big.php", BIG_PHP),
        ("finish.php", FINISH_PHP),
        ("early.php", EARLY_PHP),
        ("tail.php", TAIL_PHP),
        ("forge.php", FORGE_PHP),
        ("wait.php", WAIT_PHP),
        ("waited.php", WAITED_PHP),
        ("endless.php", ENDLESS_PHP),
        ("socket.php", SOCKET_PHP),
    ];
    for (name, script) in scripts {
        fs::write(www.join(name), script).unwrap();
    }
    fs::write(www.join("big.bin"), BIG.bytes(BIG_BYTES)).unwrap();
}

/// The first part of a path says how nginx is to treat the request.
fn http_config(dir: &Path, front: &Path, proxy: &Path, servers: &str) -> String {
    let kept = "fastcgi_pass kept; fastcgi_keep_conn on;";
    let closing = "fastcgi_pass closing;";
    let unbuffered = "fastcgi_request_buffering off;";
    let denied = "fastcgi_param PHP_VALUE auto_prepend_file=/etc/passwd;";
    let mut locations = String::new();
    for (name, how) in [
        ("kept", kept.to_owned()),
        ("closing", closing.to_owned()),
        ("kept-unbuffered", format!("{kept} {unbuffered}")),
        ("closing-unbuffered", format!("{closing} {unbuffered}")),
        ("denied", format!("{kept} {denied}")),
        (
            "denied-unbuffered",
            format!("{closing} {unbuffered} {denied}"),
        ),
    ] {
        write!(
            locations,
            "location ~ ^/{name}/(.*)$ {{
                {how}
                fastcgi_param SCRIPT_FILENAME {dir}/www/$1;
                fastcgi_param REQUEST_METHOD $request_method;
                fastcgi_param REQUEST_URI $request_uri;
                fastcgi_param QUERY_STRING $query_string;
                fastcgi_param CONTENT_TYPE $content_type;
                fastcgi_param CONTENT_LENGTH $content_length;
            }}\n",
            dir = dir.display(),
        )
        .unwrap();
    }
    format!(
        "http {{
            access_log off;
            client_max_body_size 64m;
            client_body_temp_path {dir}/body;
            fastcgi_temp_path {dir}/fastcgi;
            proxy_temp_path {dir}/proxy;
            uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            upstream kept {{
                server unix:{proxy} max_fails=0;
                {servers}
                keepalive 64;
            }}
            upstream closing {{
                server unix:{proxy} max_fails=0;
                {servers}
            }}
            server {{
                listen unix:{front};
                {locations}
            }}
        }}",
        dir = dir.display(),
        front = front.display(),
        proxy = proxy.display(),
    )
}

/// Runs `act` with each of the numbers below `count`, on so many threads.
fn at_once(threads: usize, count: usize, act: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    act(number);
                }
            });
        }
    });
}

// --- nginx and PHP-FPM --------------------------------------------------------------------------

fn pages_through_nginx_with_and_without_kept_connections(engine: Engine) {
    let site = Site::start(engine);
    for round in 0..20 {
        for how in ["kept", "closing"] {
            let response = site.get(&format!("/{how}/token.php?token={how}{round}"));
            assert_eq!(response.text(), format!("{how}{round}\n"));
        }
    }
}

fn bodies_of_every_size_buffered_and_not(engine: Engine) {
    let site = Site::start(engine);
    for how in ["kept", "closing", "kept-unbuffered", "closing-unbuffered"] {
        let sizes: &[u64] = match how {
            "kept" | "closing-unbuffered" => &[0, 1024, 50 * MB],
            _ => &[0, 1, 1024, MB],
        };
        for size in sizes {
            let body = Pattern::new(*size).bytes(*size);
            let response = site.post(&format!("/{how}/sum.php"), &body);
            let expected = format!("{size} {:08x}", crc32(&body));
            assert_eq!(response.text(), expected, "{how} {size}");
        }
    }
}

fn large_pages_arrive_byte_for_byte(engine: Engine) {
    let site = Site::start(engine);
    for how in ["kept", "closing"] {
        for size in [MB, BIG_BYTES] {
            let response = site.get(&format!("/{how}/big.php?size={size}"));
            assert_eq!(response.status, 200);
            let at_fault = BIG.mismatch(0, &response.body);
            assert_eq!((response.body.len() as u64, at_fault), (size, None));
        }
    }
}

/// Pages of different lengths, GET and POST; each says whose it is in every line.
fn sixty_four_clients_never_get_each_others_pages(engine: Engine) {
    let plan = Plan {
        args: &["--per-endpoint-max", "4"],
        ..Plan::default()
    };
    let site = Site::with(engine, &plan);
    at_once(64, 1280, |number| {
        let how = ["kept", "closing"][number % 2];
        let lines = 1 + number * 37 % 2000;
        let target = format!("/{how}/token.php?token=t{number}x&lines={lines}");
        let body = format!("body of {number}");
        let (response, tail) = match number % 3 {
            0 => (site.post(&target, body.as_bytes()), &*body),
            _ => (site.get(&target), ""),
        };
        let expected = format!("t{number}x\n").repeat(lines) + tail;
        assert!(response.text() == expected, "{number}: another page");
    });
}

/// `pm.max_requests`: a worker that has answered may be about to go.
fn workers_that_retire_after_five_requests_fail_none(engine: Engine) {
    for permits in [&["--per-endpoint-max", "4"][..], &[]] {
        let plan = Plan {
            fpm: "pm.max_requests = 5",
            args: permits,
            ..Plan::default()
        };
        let site = Site::with(engine, &plan);
        at_once(16, 400, |number| {
            let target = format!("/kept/token.php?token={number}");
            let response = match number % 2 {
                0 => site.get(&target),
                _ => site.post(&target, b"body"),
            };
            assert!(response.text().starts_with(&format!("{number}\n")));
        });
    }
}

/// More of them than there are permits, and it is not known yet that the fence works there: their connections
/// are given up for those who wait.
fn scripts_that_run_on_after_their_answer_hold_up_nobody(engine: Engine) {
    let plan = Plan {
        workers: 8,
        args: &["--per-endpoint-max", "2"],
        ..Plan::default()
    };
    let site = Site::with(engine, &plan);
    let target = format!("/kept/finish.php?dir={}", site.out().display());
    for number in 1..=4 {
        assert_eq!(site.get(&target).text(), "answered\n");
        site.wait_for_notes("began", number);
    }
    at_once(4, 40, |number| {
        let response = site.get(&format!("/kept/token.php?token={number}"));
        assert_eq!(response.text(), format!("{number}\n"));
    });
    assert!(!site.out().join("ended").exists(), "the scripts still run");
    site.open_gate();
    site.wait_for_notes("ended", 4);
}

/// As many permits as workers. What one more connection would carry would wait in the backlog, for
/// whichever worker; here the next request gets the first one that is free.
fn scripts_that_run_on_after_their_answer_keep_their_places_once_the_fence_is_known_to_work(
    engine: Engine,
) {
    let plan = Plan {
        workers: 2,
        args: &[
            "--per-endpoint-max",
            "2",
            "--settle-timeout",
            "500ms",
            "--idle-upstream",
            "10m",
        ],
        ..Plan::default()
    };
    let site = Site::with(engine, &plan);
    let token = |number: usize| {
        let response = site.get(&format!("/kept/token.php?token={number}"));
        assert_eq!(response.text(), format!("{number}\n"));
    };
    for number in 0..2 {
        token(number);
        site.proxy.process().assert_comes_to_rest();
    }
    let finish = format!("/kept/finish.php?dir={}", site.out().display());
    assert_eq!(site.get(&finish).text(), "answered\n");
    site.wait_for_notes("began", 1);
    // The other worker is free.
    at_once(4, 40, token);
    assert_eq!(site.get(&finish).text(), "answered\n");
    site.wait_for_notes("began", 2);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| token(2));
        // For longer than the settle timeout.
        meanwhile(Duration::from_secs(2), || {
            assert!(!waiting.is_finished(), "no worker is free");
            pause(Duration::from_millis(10));
        });
        site.open_gate();
        waiting.join().unwrap();
    });
    site.wait_for_notes("ended", 2);
}

/// Three clients for each worker. What waits in the backlog must not find workers pinned by connections that
/// rest or settle.
fn without_a_bound_scripts_that_run_on_after_their_answer_are_as_many_as_without_a_proxy(
    engine: Engine,
) {
    let plan = Plan {
        workers: 16,
        ..Plan::default()
    };
    let site = Site::with(engine, &plan);
    let timed = |ask: &(dyn Fn() + Sync)| {
        let begin = Instant::now();
        at_once(48, 320, |_| ask());
        begin.elapsed()
    };
    let request = site.script_request("early.php", "");
    let direct = timed(&|| assert!(site.ask_fpm(&request).ends_with(b"answered\n")));
    for how in ["kept", "closing"] {
        let target = format!("/{how}/early.php");
        let ours = timed(&|| assert_eq!(site.get(&target).text(), "answered\n"));
        assert!(ours < direct * 4, "{how}: {ours:?}, direct {direct:?}");
    }
}

/// What it writes while a request is under way is beyond telling: a pool is one domain of trust.
fn what_a_scripts_child_writes_to_a_connection_at_rest_is_nobodys_answer(engine: Engine) {
    let plan = Plan {
        workers: 1,
        args: &["--per-endpoint-max", "1", "--idle-upstream", "10m"],
        ..Plan::default()
    };
    let site = Site::with(engine, &plan);
    let forge = format!("/kept/forge.php?dir={}", site.out().display());
    assert_eq!(site.get(&forge).text(), "answered\n");
    site.proxy.process().assert_comes_to_rest();
    site.open_gate();
    eventually("the child has written", || {
        site.out().join("forged").exists()
    });
    for number in 0..3 {
        let response = site.get(&format!("/kept/token.php?token={number}"));
        assert_eq!(response.status, 200);
        assert_eq!(response.text(), format!("{number}\n"));
    }
    let log = site.proxy.process().log();
    assert_eq!(log.count("session failed"), 0);
}

/// The fence answered is what tells that nothing more of it comes, at a server of which all else is known. Others wait
/// for the only worker meanwhile, and are given it as soon as it is free.
fn what_a_script_prints_behind_its_answer_is_nobodys_answer(engine: Engine) {
    let plan = Plan {
        workers: 1,
        args: &["--per-endpoint-max", "1", "--idle-upstream", "10m"],
        ..Plan::default()
    };
    let site = Site::with(engine, &plan);
    let token = |number: usize| {
        let response = site.get(&format!("/kept/token.php?token={number}"));
        assert_eq!(response.text(), format!("{number}\n"));
    };
    let tail = format!("/kept/tail.php?dir={}", site.out().display());
    for round in 1..=3 {
        // Now the fence is known to work there.
        (0..3).for_each(token);
        assert_eq!(site.get(&tail).text(), "answered\n");
        site.wait_for_notes("began", round);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..4)
                .map(|number| scope.spawn(move || token(number)))
                .collect();
            site.proxy.process().assert_comes_to_rest();
            site.open_gate();
            waiting
                .into_iter()
                .for_each(|client| client.join().unwrap());
        });
        site.wait_for_notes("ended", round);
        fs::remove_file(site.out().join("gate")).unwrap();
    }
}

fn a_rejected_upload_is_a_403_and_not_a_502(engine: Engine) {
    let site = Site::start(engine);
    let body = Pattern::new(3).bytes(20 * MB);
    for how in ["denied", "denied-unbuffered"] {
        for _ in 0..3 {
            let response = site.post(&format!("/{how}/token.php?token=x"), &body);
            assert_eq!(response.status, 403, "{how}");
        }
        assert_eq!(site.get(&format!("/{how}/token.php?token=x")).status, 403);
    }
    assert_eq!(site.get("/kept/token.php?token=x").text(), "x\n");
}

/// There is one worker, so the next request shows that it is free.
fn a_client_that_leaves_in_the_midst_of_a_page_frees_its_worker(engine: Engine) {
    let plan = Plan {
        workers: 1,
        args: &["--per-endpoint-max", "1"],
        ..Plan::default()
    };
    let site = Site::with(engine, &plan);
    for how in ["kept", "closing", "kept"] {
        let mut client = connect(&site.front).unwrap();
        let request = format!("GET /{how}/endless.php HTTP/1.0\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        client.read_exact(&mut [0; 100_000]).unwrap();
        drop(client);
        let response = site.get(&format!("/{how}/token.php?token=next"));
        assert_eq!(response.text(), "next\n");
    }
}

/// Requests that come while nobody listens wait, and are served.
fn a_restart_of_php_fpm_costs_only_the_requests_in_flight(engine: Engine) {
    const CLIENTS: u32 = 8;
    let plan = Plan {
        args: &[
            "--per-endpoint-max",
            "4",
            "--connect-timeout",
            "60s",
            "--refused-timeout",
            "60s",
        ],
        ..Plan::default()
    };
    let mut site = Site::with(engine, &plan);
    let (served, failed) = (AtomicU32::new(0), AtomicU32::new(0));
    let over = AtomicBool::new(false);
    let front = site.front.clone();
    thread::scope(|scope| {
        let _over = SetOnDrop(&over);
        for client in 0..CLIENTS {
            let (front, over, served, failed) = (&front, &over, &served, &failed);
            scope.spawn(move || {
                while !over.load(Ordering::Acquire) {
                    let target = format!("/kept/token.php?token={client}");
                    let response = Response::to(front, "GET", &target, b"");
                    if response.status == 200 {
                        assert_eq!(response.text(), format!("{client}\n"));
                        served.fetch_add(1, Ordering::AcqRel);
                    } else {
                        assert_eq!(response.status, 502);
                        failed.fetch_add(1, Ordering::AcqRel);
                    }
                }
            });
        }
        let served = || served.load(Ordering::Acquire);
        eventually("requests are served", || served() > 100);
        // The old one is killed, with all its workers.
        drop(site.fpm.take());
        site.fpm = Some(start_pool(
            site.dir.path(),
            &site.endpoint,
            site.workers,
            "",
        ));
        let before = served();
        eventually("requests are served again", || served() > before + 200);
    });
    let failed = failed.load(Ordering::Acquire);
    assert!(failed <= CLIENTS, "{failed} requests have failed");
}

fn an_exhausted_pool_is_a_503_and_recovers(engine: Engine) {
    let plan = Plan {
        args: &["--per-endpoint-max", "2", "--queue-timeout", "200ms"],
        ..Plan::default()
    };
    let site = Site::with(engine, &plan);
    let waiting = format!("/kept/wait.php?dir={}", site.out().display());
    thread::scope(|scope| {
        let waiting = [(); 2].map(|()| scope.spawn(|| site.get(&waiting)));
        site.wait_for_notes("began", 2);
        for how in ["kept", "closing", "kept-unbuffered"] {
            let response = site.post(&format!("/{how}/token.php?token=x"), b"body");
            assert_eq!(response.status, 503, "{how}");
            assert!(response.header("Retry-After").is_some(), "{how}");
        }
        site.open_gate();
        for client in waiting {
            assert_eq!(client.join().unwrap().text(), "waited\n");
        }
    });
    for how in ["kept", "closing"] {
        let response = site.get(&format!("/{how}/token.php?token=x"));
        assert_eq!(response.text(), "x\n");
    }
}

fn without_an_endpoint_nginx_goes_on_to_its_next_server(engine: Engine) {
    let nobody = Refusing::new();
    let (host, port) = nobody.to_string().rsplit_once(':').map_or_else(
        || panic!("no port in {nobody}"),
        |(host, port)| (host.to_owned(), port.parse::<u16>().unwrap()),
    );
    // nginx makes a 502 of its own.
    let plan = Plan {
        args: &["--connect-timeout", "100ms"],
        has_fpm: false,
        ..Plan::default()
    };
    let alone = Site::at(engine, &plan, (host, port));
    for how in ["kept", "closing"] {
        let response = alone.get(&format!("/{how}/token.php?token=x"));
        assert_eq!(response.status, 502);
        let text = String::from_utf8_lossy(&response.body);
        assert!(text.contains("<center>nginx"), "{text}");
    }
    // Its second server is PHP-FPM itself.
    let endpoint = fresh_endpoint();
    let _fpm = start_pool(alone.dir.path(), &endpoint, 2, "");
    let servers = format!("server {}:{} backup max_fails=0;", endpoint.0, endpoint.1);
    let plan = Plan {
        servers: &servers,
        ..plan
    };
    let site = Site::at(engine, &plan, alone.endpoint.clone());
    for how in ["kept", "closing"] {
        let response = site.get(&format!("/{how}/token.php?token=x"));
        assert_eq!(response.text(), "x\n");
    }
}

fn without_an_endpoint_there_is_an_answer_when_told_to(engine: Engine) {
    let nobody = Refusing::new();
    let name = nobody.to_string();
    let (host, port) = name.rsplit_once(':').unwrap();
    let plan = Plan {
        args: &["--connect-timeout", "100ms", "--on-failure", "respond"],
        has_fpm: false,
        ..Plan::default()
    };
    let site = Site::at(engine, &plan, (host.to_owned(), port.parse().unwrap()));
    let body = Pattern::new(4).bytes(5 * MB);
    for how in ["kept", "closing", "closing-unbuffered"] {
        let response = site.post(&format!("/{how}/token.php?token=x"), &body);
        assert_eq!(response.status, 502, "{how}");
        let text = String::from_utf8_lossy(&response.body);
        assert!(!text.contains("nginx"), "{how}: {text}");
    }
}

/// Of two workers the proxy may have one. Clients of their own get the other one, however many
/// connections nginx keeps to the proxy; once they are idle, clients get both.
fn kept_connections_of_nginx_hold_no_worker(engine: Engine) {
    let plan = Plan {
        workers: 2,
        args: &["--per-endpoint-max", "1", "--idle-upstream", "200ms"],
        ..Plan::default()
    };
    let site = Site::with(engine, &plan);
    let before = site.proxy.process().open_descriptors();
    at_once(32, 320, |number| {
        let response = site.get(&format!("/kept/token.php?token={number}"));
        assert_eq!(response.text(), format!("{number}\n"));
        if number % 32 == 0 {
            let answer = site.ask_fpm(&site.script_request("token.php", "token=direct"));
            assert!(answer.ends_with(b"direct\n"));
        }
    });
    let kept = site.proxy.process().open_descriptors() - before;
    assert!(kept >= 8, "nginx keeps {kept} connections");
    // Two at once, one for each worker.
    let query = format!("dir={}", site.out().display());
    thread::scope(|scope| {
        let ask = || site.ask_fpm(&site.script_request("wait.php", &query));
        let both = [(); 2].map(|()| scope.spawn(ask));
        site.wait_for_notes("began", 2);
        site.open_gate();
        for one in both {
            assert!(one.join().unwrap().ends_with(b"waited\n"));
        }
    });
}

/// And from nobody else than the proxy.
fn an_application_learns_how_long_its_request_has_waited(engine: Engine) {
    let plan = Plan {
        args: &[
            "--per-endpoint-max",
            "1",
            "--queue-time-param",
            "QUEUE_US",
            "--request-start-param",
            "HTTP_X_REQUEST_START",
        ],
        ..Plan::default()
    };
    let site = Site::with(engine, &plan);
    let forged = site
        .script_request("waited.php", "")
        .param("QUEUE_US", "forged")
        .param("queue_us", "forged")
        .param("HTTP_X_REQUEST_START", "t=1.000")
        .param("HTTP_X.REQUEST_START", "t=2.000");
    let waiting = format!("/kept/wait.php?dir={}", site.out().display());
    let (said, sent, held, answered) = thread::scope(|scope| {
        let first = scope.spawn(|| site.get(&waiting));
        site.wait_for_notes("began", 1);
        let client = Client::connect(&site.proxy);
        let (sent, sent_at) = (SystemTime::now(), Instant::now());
        client.send(&forged.bytes());
        wait_for_one_in_the_queue(&site.proxy);
        let queued_at = Instant::now();
        meanwhile(Duration::from_millis(50), || drop(site.proxy.scrape()));
        let held = queued_at.elapsed();
        site.open_gate();
        let said = client.answer().text();
        first.join().unwrap();
        (said, sent, held, sent_at.elapsed())
    });
    let mut pairs: Vec<(&str, &str)> = said
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    pairs.sort_unstable();
    let [("HTTP_X_REQUEST_START", start), ("QUEUE_US", waited)] = pairs[..] else {
        panic!("it was told {said:?}");
    };
    let waited = Duration::from_micros(waited.parse().unwrap());
    assert!(
        (held..=answered).contains(&waited),
        "{waited:?} of {answered:?}"
    );
    let seconds: f64 = start.strip_prefix("t=").unwrap().parse().unwrap();
    let came = sent.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    // Cut off to milliseconds, of a turn that may have begun before the request came.
    let around = came - 1.0..=came + answered.as_secs_f64();
    assert!(around.contains(&seconds), "{start}");
}

fn wait_for_one_in_the_queue(proxy: &Proxy) {
    eventually("the next request is in the queue", || {
        proxy
            .scrape()
            .value("spliceway_queue_depth{route=\"default\"}")
            == 1.0
    });
}

/// A script that is made to connect to sockets is all that an attacker needs where PHP-FPM can be
/// reached. Through the proxy the same bytes are refused.
fn parameters_from_a_scripts_own_client_are_blocked(engine: Engine) {
    // A worker keeps the value of PHP_ADMIN_VALUE for all of its life: each has workers of its own.
    for name in ["PHP_ADMIN_VALUE", "PHP_VALUE"] {
        a_parameter_from_a_scripts_own_client_is_blocked(engine, name);
    }
}

fn a_parameter_from_a_scripts_own_client_is_blocked(engine: Engine, name: &str) {
    let site = Site::start(engine);
    let evil = site.out().join("evil.txt");
    let ran = site.out().join("ran");
    // A file of whoever runs scripts.
    let ran_by = site.out().join("began");
    site.open_gate();
    site.get(&format!("/kept/wait.php?dir={}", site.out().display()));
    fs::write(
        &evil,
        format!("<?php touch('{}'); echo 'evil ran ';", ran.display()),
    )
    .unwrap();
    let prepend = format!("auto_prepend_file={}", evil.display());
    let attack = site.script_request("token.php", "token=x");
    let attack = attack.param(name, &prepend).bytes();
    let send_to = |address: &str| {
        let response = site.post(&format!("/kept/socket.php?to={address}"), &attack);
        String::from_utf8_lossy(&response.body).into_owned()
    };
    let blocked = send_to(&format!("unix://{}", site.proxy.socket().display()));
    assert!(blocked.contains("Status: 403"), "{blocked}");
    assert!(!ran.exists(), "{name} was carried out");
    let uid = fs::metadata(&ran_by).unwrap().uid();
    let says_it = |line: &str| {
        let has = |part: String| line.contains(&part);
        line.contains("guard: request rejected")
            && has(format!("param=\"{name}\""))
            && has(format!("uid={uid} "))
    };
    let log = site.proxy.process().log();
    log.wait_for("who sent the parameter", says_it);
    let (host, port) = &site.endpoint;
    let directly = send_to(&format!("tcp://{host}:{port}"));
    assert!(directly.contains("evil ran x"), "{directly}");
    assert!(ran.exists());
}

/// The second time it comes whole. The first time it ends with a record, where nginx takes the mere end of
/// the connection for the end of the page.
fn nginx_caches_no_answer_that_broke_off(engine: Engine) {
    let asked = AtomicUsize::new(0);
    let backend = Backend::scripted(move |conversation| {
        let heard = conversation.request()?.expect("a request");
        match asked.fetch_add(1, Ordering::AcqRel) {
            0 => conversation.send(&stdout(heard.id, b"the first half, ")),
            _ => conversation.send(&page(heard.id, b"the first half, and the second")),
        }
    });
    let dir = fresh_dir();
    let proxy = start_proxy(engine, &[], &backend.to_string());
    let front = dir.path().join("http.sock");
    let config = format!(
        "http {{
            access_log off;
            client_body_temp_path {dir}/body;
            fastcgi_temp_path {dir}/fastcgi;
            proxy_temp_path {dir}/proxy;
            uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            fastcgi_cache_path {dir}/cache keys_zone=pages:1m;
            server {{
                listen unix:{front};
                location / {{
                    fastcgi_pass unix:{proxy};
                    fastcgi_param REQUEST_METHOD $request_method;
                    fastcgi_param REQUEST_URI $request_uri;
                    fastcgi_param CONTENT_LENGTH $content_length;
                    fastcgi_cache pages;
                    fastcgi_cache_key $request_uri;
                    fastcgi_cache_valid 200 1h;
                    add_header X-Cache $upstream_cache_status;
                }}
            }}
        }}",
        dir = dir.path().display(),
        front = front.display(),
        proxy = proxy.socket().display(),
    );
    let _nginx = start_nginx(dir.path(), &config, &front);
    let get = || Response::to(&front, "GET", "/page", b"");
    // How much of it goes on to the client before nginx notices is up to nginx.
    let mut client = connect(&front).unwrap();
    client.write_all(b"GET /page HTTP/1.0\r\n\r\n").unwrap();
    let mut cut = Vec::new();
    client.read_to_end(&mut cut).unwrap();
    for from in ["MISS", "HIT"] {
        let response = get();
        assert_eq!(response.text(), "the first half, and the second");
        assert_eq!(response.header("X-Cache"), Some(from));
    }
}

// --- others -------------------------------------------------------------------------------------

fn apache_in_front(engine: Engine) {
    let dir = fresh_dir();
    write_scripts(dir.path());
    let endpoint = fresh_endpoint();
    let _fpm = start_pool(dir.path(), &endpoint, 4, "");
    let root = dir.path().join("www");
    let proxy = start_proxy(
        engine,
        &["--script-root", root.to_str().unwrap()],
        &format!("{}:{}", endpoint.0, endpoint.1),
    );
    fs::write(dir.path().join("out/outside.php"), "<?php echo 'outside';").unwrap();
    let front = fresh_endpoint();
    let config = format!(
        "DocumentRoot {root}\n\
        <FilesMatch \"\\.php$\">\n\
        SetHandler \"proxy:unix:{proxy}|fcgi://localhost/\"\n\
        </FilesMatch>\n\
        ProxyPass /outside \"unix:{proxy}|fcgi://localhost{out}\"",
        root = root.display(),
        proxy = proxy.socket().display(),
        out = dir.path().join("out").display(),
    );
    let _apache = start_apache(dir.path(), &config, &front);
    let ask = |method: &str, target: &str, body: &[u8]| {
        let mut stream = TcpStream::connect((&*front.0, front.1)).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        let head = format!(
            "{method} {target} HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        Response::parse(&response)
    };
    at_once(8, 80, |number| {
        let target = format!("/token.php?token={number}");
        let response = ask("GET", &target, b"");
        assert_eq!(response.text(), format!("{number}\n"));
        let response = ask("POST", &target, b"a body");
        assert_eq!(response.text(), format!("{number}\na body"));
    });
    let body = Pattern::new(5).bytes(5 * MB);
    let response = ask("POST", "/sum.php", &body);
    let expected = format!("{} {:08x}", body.len(), crc32(&body));
    assert_eq!(response.text(), expected);
    assert_eq!(ask("GET", "/outside/outside.php", b"").status, 403);
}

/// It serves one connection at a time: one that is held without need would keep it from all others.
fn a_script_of_one_process_that_ignores_the_fence(engine: Engine) {
    for permits in [&["--per-endpoint-max", "1"][..], &[]] {
        let endpoint = fresh_endpoint();
        let _python = start_python_responder(&endpoint);
        let backend = format!("{}:{}", endpoint.0, endpoint.1);
        let args = [permits, &["--workers", "1", "--idle-upstream", "10m"]].concat();
        let proxy = start_proxy(engine, &args, &backend);
        let ask = |number: usize| {
            let client = Client::connect(&proxy);
            let (uri, body) = (format!("/{number}"), format!("body {number}"));
            let text = client.ask(&Request::post(&uri, body.as_bytes())).text();
            assert!(text.ends_with(&format!(" {uri} {body}")), "{text}");
            let text = client.ask(&Request::get(&uri)).text();
            assert!(text.ends_with(&format!(" {uri} ")), "{text}");
        };
        (0..5).for_each(ask);
        at_once(4, 20, ask);
        // None was made twice.
        let client = Client::connect(&proxy);
        let text = client.ask(&Request::get("/last").closing()).text();
        assert_eq!(text, "51 /last ");
        let log = proxy.process().log();
        assert_eq!(log.count("does not answer FCGI_GET_VALUES"), 1);
    }
}
