//! The main job with the programs it is for: nginx, PHP-FPM and socat, as Debian packages them,
//! started by the test with configurations of its own. A program that is missing is a failure:
//! `scripts/test` installs all of them.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Display;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use common::client::{assert_eof, exchange};
use common::http::Response;
use common::pattern::crc32;
use common::process::Process;
use common::programs::{
    FPM_WORKERS, WEB_USER, fresh_endpoint, start_fpm, start_haproxy, start_nginx, start_socat,
    temp_paths,
};
use common::proxy::{connect, fresh_dir};
use common::sys::is_root;
use common::{Backend, Ending, Engine, MB, Pattern, Proxy, eventually, for_each_engine};
use tempfile::TempDir;

for_each_engine!(
    get_through_nginx_and_php_fpm,
    post_of_5_mb_comes_back_with_its_checksum,
    response_of_20_mb_arrives_intact,
    five_hundred_requests_at_16_concurrent_have_no_error,
    finished_request_is_answered_while_its_script_runs_on,
    large_post_that_the_script_ignores_is_answered,
    restarted_php_fpm_is_found_again,
    nginx_stream_in_front,
    socat_as_client,
    socat_that_writes_and_closes_loses_nothing,
    socat_as_backend,
    a_broken_answer_is_a_failure_to_nginx,
    nginx_reads_the_proxy_protocol,
    haproxy_reads_the_proxy_protocol,
    php_fpm_is_checked_and_being_busy_is_not_being_down,
);

const ECHO_PHP: &str = r#"<?php
$body = file_get_contents('php://input');
header('X-Checksum: ' . hash('crc32b', $body));
echo $body;
"#;

const GREET_PHP: &str = r#"<?php
echo "hello, {$_GET['name']} (", PHP_SAPI, ")\n";
"#;

const BIG_PHP: &str = r#"<?php
header('Content-Length: ' . filesize(__DIR__ . '/big.bin'));
readfile(__DIR__ . '/big.bin');
"#;

/// The answer is out; the script waits for the test to open the gate, and only then writes its log.
const FINISH_PHP: &str = r#"<?php
echo "answered\n";
fastcgi_finish_request();
for ($i = 0; $i < 60000 && !file_exists("{$_GET['dir']}/gate"); $i++) {
    usleep(1000);
    clearstatcache();
}
$found = trim(file_get_contents("{$_GET['dir']}/gate"));
file_put_contents("{$_GET['dir']}/log", "went on and found $found\n");
"#;

/// Answers without a look at the body.
const IGNORE_PHP: &str = r#"<?php
echo "no, thank you\n";
"#;

fn get_through_nginx_and_php_fpm(engine: Engine) {
    let site = Site::start(engine);
    let response = site.get("/greet.php?name=world");
    assert_eq!(response.text(), "hello, world (fpm-fcgi)\n");
}

fn post_of_5_mb_comes_back_with_its_checksum(engine: Engine) {
    let site = Site::start(engine);
    let body = Pattern::new(1).bytes(5 * MB);
    let response = site.post("/echo.php", &body);
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("X-Checksum"),
        Some(&*format!("{:08x}", crc32(&body)))
    );
    assert_eq!(response.body.len(), body.len());
    assert_eq!(Pattern::new(1).mismatch(0, &response.body), None);
}

fn response_of_20_mb_arrives_intact(engine: Engine) {
    let site = Site::start(engine);
    let response = site.get("/big.php");
    assert_eq!(response.status, 200);
    assert_eq!(response.body.len() as u64, BIG_BYTES);
    assert_eq!(BIG.mismatch(0, &response.body), None);
}

fn five_hundred_requests_at_16_concurrent_have_no_error(engine: Engine) {
    const REQUESTS: u32 = 500;
    let site = Site::start(engine);
    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= REQUESTS {
                        break;
                    }
                    let response = site.get(&format!("/greet.php?name={number}"));
                    assert_eq!(response.text(), format!("hello, {number} (fpm-fcgi)\n"));
                }
            });
        }
    });
}

fn finished_request_is_answered_while_its_script_runs_on(engine: Engine) {
    let site = Site::start(engine);
    let out = site.writable_dir();
    let response = site.get(&format!("/finish.php?dir={}", out.display()));
    assert_eq!(response.text(), "answered\n");
    let log = out.join("log");
    assert!(!log.exists(), "the script ended before its answer was out");

    // Renamed into place, so that the script never finds a half-written gate.
    fs::write(out.join("closed"), "token 4711").unwrap();
    fs::rename(out.join("closed"), out.join("gate")).unwrap();
    eventually("the script writes its log", || {
        fs::read_to_string(&log).is_ok_and(|text| text == "went on and found token 4711\n")
    });
    // The worker is free again: more requests than workers are served.
    for _ in 0..2 * FPM_WORKERS {
        assert_eq!(site.get("/greet.php?name=x").status, 200);
    }
}

fn large_post_that_the_script_ignores_is_answered(engine: Engine) {
    let site = Site::start(engine);
    for _ in 0..6 {
        let response = site.post("/ignore.php", &Pattern::new(2).bytes(5 * MB));
        assert_eq!(response.text(), "no, thank you\n");
    }
}

/// While PHP-FPM is away nginx gets its connection closed and answers 502 by itself.
fn restarted_php_fpm_is_found_again(engine: Engine) {
    let mut site = Site::start(engine);
    assert_eq!(site.get("/greet.php?name=1").status, 200);
    site.stop_fpm();
    assert_eq!(site.get("/greet.php?name=2").status, 502);
    site.start_fpm();
    assert_eq!(site.get("/greet.php?name=3").status, 200);
}

fn nginx_stream_in_front(engine: Engine) {
    let backend = Backend::echo();
    let proxy = start_for_nginx(engine, &backend);
    let dir = fresh_dir();
    let front = dir.path().join("front.sock");
    let config = format!(
        "load_module {STREAM_MODULE};
        stream {{
            server {{
                listen unix:{front};
                proxy_pass unix:{proxy};
            }}
        }}",
        front = front.display(),
        proxy = proxy.socket().display(),
    );
    assert!(
        Path::new(STREAM_MODULE).exists(),
        "{STREAM_MODULE} is missing: run scripts/test"
    );
    let _nginx = start_nginx(dir.path(), &config, &front);
    for (seed, size) in [(1, 1), (2, 100_000), (3, 16 * MB)] {
        let client = connect(&front).unwrap();
        exchange(&client, Pattern::new(seed), size);
    }
}

fn socat_as_client(engine: Engine) {
    let backend = Backend::echo();
    let proxy = Proxy::start(engine, &backend);
    // -t: after the end of its input socat would wait only half a second for the rest.
    let mut socat = start_socat(&["-t", "60", "-", &unix_connect(proxy.socket())]);
    let mut stdin = socat.child().stdin.take().unwrap();
    let mut stdout = socat.child().stdout.take().unwrap();
    let received = thread::scope(|scope| {
        scope.spawn(move || Pattern::new(4).send(&mut stdin, 4 * MB).unwrap());
        let received = Pattern::new(4).receive(&mut stdout, 4 * MB);
        received.and_then(|()| stdout.read(&mut [0]))
    });
    assert_eq!(received.unwrap(), 0, "more came back than was sent");
    assert!(socat.wait().success());
    assert_eq!(backend.wait_for_end(0).ending, Ending::Eof);
}

/// The unidirectional form closes as soon as its input is sent: `printf … | socat -u`.
fn socat_that_writes_and_closes_loses_nothing(engine: Engine) {
    let backend = Backend::sink();
    let proxy = Proxy::start(engine, &backend);
    for round in 0..10 {
        let mut socat = start_socat(&["-u", "-", &unix_connect(proxy.socket())]);
        let mut stdin = socat.child().stdin.take().unwrap();
        Pattern::new(5).send(&mut stdin, 300_000).unwrap();
        drop(stdin);
        assert!(socat.wait().success());
        let seen = backend.wait_for_end(round);
        assert_eq!((seen.ending, seen.received.len()), (Ending::Eof, 300_000));
        assert_eq!(Pattern::new(5).mismatch(0, &seen.received), None);
    }
}

fn socat_as_backend(engine: Engine) {
    let (host, port) = fresh_endpoint();
    let listen = format!("TCP-LISTEN:{port},bind={host},reuseaddr,fork");
    let socat = start_socat(&["-d", "-d", "-t", "60", &listen, "EXEC:cat"]);
    socat.wait_for_log("listening on");
    let proxy = Proxy::start(engine, format!("{host}:{port}"));
    for (seed, size) in [(6, 1), (7, 2 * MB)] {
        let client = proxy.connect();
        exchange(&client, Pattern::new(seed), size);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eof(&client);
    }
}

/// What either program serves behind the PROXY protocol, and nothing to whoever does not speak it.
/// Whatever nginx is told about buffers, caches and connections: half an answer is not passed on as a
/// whole one, and not kept.
fn a_broken_answer_is_a_failure_to_nginx(engine: Engine) {
    let page = [&b"Content-Type: text/plain\r\n\r\n"[..], &[b'a'; 30_000]].concat();
    let backend = Backend::scripted(move |conversation| {
        const STDOUT_OF_REQUEST_1: [u8; 4] = [1, 6, 0, 1];
        conversation.receive()?;
        let length = u16::try_from(page.len()).unwrap().to_be_bytes();
        conversation.send(&[&STDOUT_OF_REQUEST_1[..], &length, &[0, 0], &page].concat())?;
        conversation.reset_on_close()
    });
    let (dir, proxy) = (fresh_dir(), start_for_nginx(engine, &backend));
    let ways = ["on", "off"].map(|buffering| ["on", "off"].map(|keep| (buffering, keep)));
    let ways = ways.concat();
    let front = |(buffering, keep): (&str, &str)| {
        let name = format!("buffering-{buffering}-keep-{keep}.sock");
        dir.path().join(name)
    };
    let server = |way: &(&str, &str)| {
        format!(
            "server {{
                listen unix:{front};
                location / {{
                    fastcgi_pass unix:{proxy};
                    fastcgi_buffering {buffering};
                    fastcgi_keep_conn {keep};
                    fastcgi_cache pages;
                    fastcgi_cache_valid 200 1m;
                    fastcgi_cache_key {buffering}{keep};
                }}
            }}",
            front = front(*way).display(),
            proxy = proxy.socket().display(),
            buffering = way.0,
            keep = way.1,
        )
    };
    let servers: String = ways.iter().map(server).collect();
    let paths = temp_paths(dir.path());
    let config = format!(
        "http {{
            access_log off;
            {paths}
            fastcgi_cache_path {dir}/cache keys_zone=pages:1m;
            {servers}
        }}",
        dir = dir.path().display(),
    );
    let _nginx = start_nginx(dir.path(), &config, &front(ways[0]));
    for way in ways {
        for _ in 0..2 {
            let before = backend.ledger().accepted;
            let mut stream = connect(&front(way)).unwrap();
            let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let head = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
            let whole = head.starts_with("HTTP/1.1 200") && answer.ends_with(b"\r\n0\r\n\r\n");
            assert!(!whole, "{way:?}: whole, {} bytes: {head}", answer.len());
            assert_eq!(
                backend.ledger().accepted,
                before + 1,
                "{way:?}: from the cache"
            );
        }
    }
}

fn assert_only_with_a_header(engine: Engine, (host, port): &(String, u16), versions: &[&str]) {
    let get = |version: &str| {
        let proxy = Proxy::builder()
            .engine(engine)
            .args(["--proxy-protocol", version])
            .backend(format!("{host}:{port}"))
            .start();
        let mut client = proxy.connect();
        let request = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n";
        client.write_all(request).unwrap();
        let mut response = Vec::new();
        // Whoever gets no header may reset the connection.
        let _ = client.read_to_end(&mut response);
        String::from_utf8_lossy(&response).into_owned()
    };
    for version in versions {
        let response = get(version);
        assert!(response.contains(" 200 OK\r\n"), "{version}: {response}");
        assert!(response.ends_with("served"), "{version}: {response}");
    }
    let response = get("off");
    assert!(!response.contains("served"), "{response}");
}

fn nginx_reads_the_proxy_protocol(engine: Engine) {
    let dir = fresh_dir();
    let front = dir.path().join("front.sock");
    let endpoint = fresh_endpoint();
    let config = format!(
        "http {{
            access_log off;
            client_body_temp_path {dir}/body;
            fastcgi_temp_path {dir}/fastcgi;
            proxy_temp_path {dir}/proxy;
            uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            server {{
                listen unix:{front};
                listen {host}:{port} proxy_protocol;
                location / {{ return 200 served; }}
            }}
        }}",
        dir = dir.path().display(),
        front = front.display(),
        host = endpoint.0,
        port = endpoint.1,
    );
    let _nginx = start_nginx(dir.path(), &config, &front);
    assert_only_with_a_header(engine, &endpoint, &["v1", "v2"]);
}

/// HAProxy 2.6 takes version 2 for an invalid header unless its addresses are of IP: there is no case
/// for Unix sockets in its reader.
fn haproxy_reads_the_proxy_protocol(engine: Engine) {
    let dir = fresh_dir();
    let endpoint = fresh_endpoint();
    let (host, port) = &endpoint;
    let config = format!(
        "global\n\
        \tmaxconn 100\n\
        defaults\n\
        \tmode http\n\
        \ttimeout client 60s\n\
        frontend front\n\
        \tbind {host}:{port} accept-proxy\n\
        \thttp-request return status 200 content-type text/plain string served\n"
    );
    let file = dir.path().join("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let _haproxy = start_haproxy(&file);
    eventually("haproxy listens", || {
        TcpStream::connect((&**host, *port)).is_ok()
    });
    assert_only_with_a_header(engine, &endpoint, &["v1"]);
}

/// Connections that say nothing take all the workers. The other endpoint only answers checks.
fn php_fpm_is_checked_and_being_busy_is_not_being_down(engine: Engine) {
    const ANSWER: &[u8] = b"\x01\x0a\0\0\0\0\0\0";
    let other = Backend::scripted(|conversation| {
        conversation.receive()?;
        conversation.send(ANSWER)
    });
    let dir = fresh_dir();
    let endpoint = fresh_endpoint();
    let fpm = start_fpm(dir.path(), &endpoint);
    let name = format!("{}:{}", endpoint.0, endpoint.1);
    let proxy = Proxy::builder()
        .engine(engine)
        .args(["--check", "fastcgi", "--check-interval", "200ms"])
        .args(["--log-level", "info,spliceway::checks=debug"])
        .backend(&name)
        .backend(&other)
        .start();
    let connect = || TcpStream::connect((&*endpoint.0, endpoint.1)).unwrap();
    let silent: Vec<_> = (0..FPM_WORKERS).map(|_| connect()).collect();
    let log = proxy.process().log();
    let busy = format!("check endpoint {name}: busy");
    eventually("it was busy for longer than it takes to be down", || {
        log.count(&busy) >= 5
    });
    assert_eq!(log.count("is left out"), 0);
    drop(silent);
    drop(fpm);
    proxy
        .process()
        .wait_for_log(&format!("endpoint {name} is left out until it passes"));
    let _fpm = start_fpm(dir.path(), &endpoint);
    proxy
        .process()
        .wait_for_log(&format!("endpoint {name} passes its checks again"));
}

const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const BIG: Pattern = Pattern::new(20);
const BIG_BYTES: u64 = 20 * MB;

/// nginx → spliceway → PHP-FPM.
struct Site {
    dir: TempDir,
    front: PathBuf,
    endpoint: (String, u16),
    fpm: Option<Process>,
    _proxy: Proxy,
    _nginx: Process,
}

impl Site {
    fn start(engine: Engine) -> Self {
        let dir = fresh_dir();
        write_scripts(&dir.path().join("www"));
        let endpoint = fresh_endpoint();
        let fpm = start_fpm(dir.path(), &endpoint);
        let proxy = start_for_nginx(engine, format!("{}:{}", endpoint.0, endpoint.1));
        let front = dir.path().join("http.sock");
        let nginx = start_nginx(dir.path(), &http_config(dir.path(), &front, &proxy), &front);
        Self {
            front,
            endpoint,
            fpm: Some(fpm),
            _proxy: proxy,
            _nginx: nginx,
            dir,
        }
    }

    fn get(&self, target: &str) -> Response {
        self.request("GET", target, &[])
    }

    fn post(&self, target: &str, body: &[u8]) -> Response {
        self.request("POST", target, body)
    }

    fn request(&self, method: &str, target: &str, body: &[u8]) -> Response {
        Response::to(&self.front, method, target, body)
    }

    /// A directory that scripts may write to.
    fn writable_dir(&self) -> PathBuf {
        let dir = self.dir.path().join("out");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        dir
    }

    fn stop_fpm(&mut self) {
        self.fpm = None;
    }

    fn start_fpm(&mut self) {
        self.fpm = Some(start_fpm(self.dir.path(), &self.endpoint));
    }
}

fn write_scripts(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let scripts = [
        ("echo.php", ECHO_PHP),
        ("greet.php", GREET_PHP),
        ("big.php", BIG_PHP),
        ("finish.php", FINISH_PHP),
        ("ignore.php", IGNORE_PHP),
    ];
    for (name, script) in scripts {
        fs::write(dir.join(name), script).unwrap();
    }
    fs::write(dir.join("big.bin"), BIG.bytes(BIG_BYTES)).unwrap();
}

fn http_config(dir: &Path, front: &Path, proxy: &Proxy) -> String {
    format!(
        "http {{
            access_log off;
            client_max_body_size 16m;
            {paths}
            server {{
                listen unix:{front};
                location / {{
                    fastcgi_pass unix:{proxy};
                    fastcgi_param SCRIPT_FILENAME {dir}/www$fastcgi_script_name;
                    fastcgi_param REQUEST_METHOD $request_method;
                    fastcgi_param QUERY_STRING $query_string;
                    fastcgi_param CONTENT_TYPE $content_type;
                    fastcgi_param CONTENT_LENGTH $content_length;
                }}
            }}
        }}",
        paths = temp_paths(dir),
        dir = dir.display(),
        front = front.display(),
        proxy = proxy.socket().display(),
    )
}

/// Where nginx may write.
/// A proxy that lets nginx's workers in by the socket's group.
fn start_for_nginx(engine: Engine, backend: impl Display) -> Proxy {
    let builder = Proxy::builder().engine(engine).backend(backend);
    if is_root() {
        builder.args(["--group", WEB_USER]).start()
    } else {
        builder.start()
    }
}

fn unix_connect(path: &Path) -> String {
    format!("UNIX-CONNECT:{}", path.display())
}

#[test]
fn the_checksum_is_the_usual_one() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
}
