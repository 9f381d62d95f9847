//! `spliceway requests`: what a running daemon does, request by request.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use common::backend::Refusing;
use common::client::exchange;
use common::fastcgi::{Client, Request, end, page, stdout};
use common::http::{self, Fake, answer};
use common::proxy::fresh_dir;
use common::sys::traced::Halted;
use common::{Backend, Engine, KB, Pattern, Proxy, eventually, for_each_engine};
use serde_json::Value;

for_each_engine!(
    whoever_cannot_be_connected_is_not_queued,
    each_state_is_told,
    whoever_is_waited_for_is_told,
    backends_and_raw_clients_that_are_waited_for_are_told,
    what_clients_say_drives_no_terminal,
    thousands_of_sessions_are_told_of_once,
    a_worker_that_hangs_is_named,
    questions_do_not_pile_up_at_a_worker_that_hangs,
    a_server_that_is_at_work_for_nobody_is_told,
    bytes_are_told_both_ways,
    who_does_not_read_the_answer_delays_nobody,
);

fn ask(control: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spliceway"));
    command.args(["requests", "--control"]).arg(control);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn requests(proxy: &Proxy, arguments: &[&str]) -> Output {
    ask(&proxy.control(), arguments)
}

#[track_caller]
fn text(proxy: &Proxy, arguments: &[&str]) -> String {
    let output = requests(proxy, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// It failed with one line that mentions all of this.
#[track_caller]
fn assert_error_line(output: &Output, mentions: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for mention in mentions {
        assert!(stderr.contains(mention), "no {mention:?} in {stderr}");
    }
}

#[track_caller]
fn all(proxy: &Proxy, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(proxy, &[&["--json", "--idle"], arguments].concat())).unwrap()
}

#[track_caller]
fn rows(proxy: &Proxy, arguments: &[&str]) -> Vec<Value> {
    all(proxy, arguments)["requests"]
        .as_array()
        .unwrap()
        .clone()
}

/// How many are in each state.
#[track_caller]
fn states(proxy: &Proxy) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for row in rows(proxy, &[]) {
        *states
            .entry(row["state"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    states
}

fn counts(states: &[(&str, usize)]) -> BTreeMap<String, usize> {
    let owned = |(state, count): &(&str, usize)| ((*state).to_owned(), *count);
    states.iter().map(owned).collect()
}

/// A FastCGI route called php, and a raw one called raw.
fn start(engine: Engine, pages: &Backend, echo: &Backend, more: &str) -> Proxy {
    let builder = Proxy::builder().engine(engine).observed();
    let dir = builder.dir().display().to_string();
    let config = format!(
        "workers = 2\n\
         [route.php]\nprotocol = \"fastcgi\"\nguard = \"off\"\nlisten = \"unix:{dir}/proxy.sock\"\n\
         backend = \"{pages}\"\nqueue-timeout = \"60s\"\nqueue-order = \"fifo\"\n{more}\n\
         [route.raw]\nlisten = \"unix:{dir}/raw.sock\"\nbackend = \"{echo}\"\n"
    );
    builder.config(&config).start()
}

/// Answers those with `slow` in their URI when it may.
fn pages() -> Backend {
    Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri().contains("slow") {
                conversation.wait_for_release()?;
            }
            conversation.send(&heard.page())?;
        }
        Ok(())
    })
}

/// However few places there are: it would have one.
fn whoever_cannot_be_connected_is_not_queued(engine: Engine) {
    for protocol in ["raw", "fastcgi"] {
        let down = Refusing::new();
        let proxy = Proxy::builder()
            .engine(engine)
            .args(["--protocol", protocol, "--per-endpoint-max", "1"])
            .args(["--connect-timeout", "1h", "--refused-timeout", "1h"])
            .backend(&down)
            .observed()
            .start();
        let client = Client::connect(&proxy);
        client.send(&Request::get("/nobody").bytes());
        eventually("it has failed to connect", || {
            proxy.status()["routes"][0]["connect_failures"] != 0
        });
        eventually("and tries on", || {
            states(&proxy) == counts(&[("connecting", 1)])
        });
        let shown = rows(&proxy, &[]);
        assert_eq!(shown[0]["queue_seconds"], 0.0, "{protocol}");
    }
}

fn each_state_is_told(engine: Engine) {
    let (pages, echo) = (pages(), Backend::echo());
    let proxy = start(engine, &pages, &echo, "per-endpoint-max = 1");
    let raw = common::proxy::connect(&proxy.dir().join("raw.sock")).unwrap();
    exchange(&raw, Pattern::new(1), KB);
    let clients: Vec<_> = (0..4).map(|_| Client::connect(&proxy)).collect();
    let [idle, running, waiting, slow_head] = &clients[..] else {
        unreachable!("there are four")
    };
    idle.ask(&Request::get("/kept"));
    running.send(
        &Request::get("/slow?x=1")
            .param("SCRIPT_FILENAME", "/srv/a.php")
            .bytes(),
    );
    eventually("it runs", || states(&proxy).get("sent") == Some(&1));
    waiting.send(&Request::get("/waiting").bytes());
    slow_head.send(&Request::get("/half").bytes()[..30]);
    let wanted = [
        ("idle", 1),
        ("sent", 1),
        ("queued", 1),
        ("reading", 1),
        ("relaying", 1),
    ];
    eventually("each is in its state", || states(&proxy) == counts(&wanted));

    let shown = rows(&proxy, &["php", "--sort", "wait"]);
    assert_eq!(shown.len(), 4);
    // Who runs may have waited as well, for the connection that had served another one.
    let wait = |row: &Value| row["queue_seconds"].as_f64().unwrap();
    assert!(shown.is_sorted_by(|a, b| wait(a) >= wait(b)), "{shown:?}");
    let queued = shown.iter().find(|row| row["state"] == "queued").unwrap();
    assert_eq!(queued["uri"], "/waiting");
    assert!(wait(queued) > 0.0);
    assert_eq!(queued["endpoint"], Value::Null);
    let sent = shown.iter().find(|row| row["state"] == "sent").unwrap();
    assert_eq!(
        (&sent["method"], &sent["uri"], &sent["script"]),
        (&"GET".into(), &"/slow?x=1".into(), &"/srv/a.php".into())
    );
    assert_eq!(sent["pid"], std::process::id());
    assert_eq!(sent["endpoint"], pages.to_string());
    let table = text(&proxy, &[]);
    assert!(!table.contains(" idle "), "{table}");
    assert_eq!(table.lines().count(), 5, "{table}");
    let refused = requests(&proxy, &["nobody"]);
    assert_error_line(&refused, &["no route nobody (it has php, raw)"]);

    pages.release(1);
    assert_eq!(running.answer().text(), "/slow?x=1");
    assert_eq!(waiting.answer().text(), "/waiting");
}

fn whoever_is_waited_for_is_told(engine: Engine) {
    const SIZE: usize = 4 << 20;
    let pages = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            conversation.send(&page(heard.id, &vec![b'x'; SIZE]))?;
        }
        Ok(())
    });
    let proxy = start(engine, &pages, &pages, "");
    let (reader, writer) = (Client::connect(&proxy), Client::connect(&proxy));
    reader.send(&Request::get("/large").bytes());
    writer.send(&Request::post("/upload", &[b'y'; 100]).head());
    eventually("both are waited for", || {
        let stalls: Vec<Value> = rows(&proxy, &["--sort", "uri"])
            .iter()
            .map(|row| row["stalled"].clone())
            .collect();
        let is = |at: usize, what: &str| {
            stalls.len() == 2 && stalls[at]["by"] == "client" && stalls[at]["what"] == what
        };
        is(0, "download") && is(1, "upload")
    });
    let table = text(&proxy, &[]);
    assert!(table.contains("download by client for "), "{table}");
    assert_eq!(reader.answer().body().len(), SIZE);
}

/// A page that stops in the middle, and raw sessions of which one end reads nothing.
fn backends_and_raw_clients_that_are_waited_for_are_told(engine: Engine) {
    let pages = Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            conversation.send(&stdout(heard.id, b"half"))?;
            conversation.wait_for_release()?;
            conversation.send(&end(heard.id))?;
        }
        Ok(())
    });
    let (deaf, echo) = (Backend::hold(), Backend::echo());
    for (backend, raw) in [(&deaf, "upload by backend"), (&echo, "download by client")] {
        let proxy = start(engine, &pages, backend, "");
        let client = Client::connect(&proxy);
        client.send(&Request::get("/page").bytes());
        let sender = common::proxy::connect(&proxy.dir().join("raw.sock")).unwrap();
        sender.set_nonblocking(true).unwrap();
        let bytes = vec![b'x'; 1 << 16];
        let told = |by: &str| text(&proxy, &[]).contains(by);
        eventually("whoever is waited for is told", || {
            // Until the socket, the proxy and the backend's socket are full.
            while (&sender).write(&bytes).is_ok() {}
            told("download by backend for ") && told(&format!("{raw} for "))
        });
        pages.release(1);
        assert_eq!(client.answer().text(), "half");
    }
}

fn what_clients_say_drives_no_terminal(engine: Engine) {
    let (pages, echo) = (pages(), Backend::echo());
    let proxy = start(engine, &pages, &echo, "");
    let client = Client::connect(&proxy);
    let hostile = "/slow\u{1b}[2J\n\u{202e}\u{9b}2J\u{7f}x y\u{3000}/srv/www/z";
    let request = Request::get(hostile).param("SCRIPT_FILENAME", "/srv/MARK.php");
    let mut bytes = request.bytes();
    let mark = bytes.windows(4).position(|bytes| bytes == b"MARK");
    // No UTF-8, and a control of the second half of ISO 8859-1.
    bytes[mark.unwrap()..][..4].copy_from_slice(b"\xff\x9b\xc3(");
    client.send(&bytes);
    eventually("it is there", || states(&proxy) == counts(&[("sent", 1)]));
    let shown = rows(&proxy, &[]);
    assert_eq!(shown[0]["uri"], hostile);
    assert_eq!(shown[0]["script"], "/srv/\u{fffd}\u{fffd}\u{fffd}(.php");
    for output in [text(&proxy, &[]), text(&proxy, &["--json"])] {
        let is_harmless = |c: char| !c.is_control() && c != '\u{202e}' || c == '\n';
        assert!(output.chars().all(is_harmless), "{output:?}");
        assert!(output.lines().count() <= 2, "{output:?}");
    }
    // Neither does the answer itself, which other programs read, or curl shows.
    let answer = http::get_unix(&proxy.control(), "/requests");
    let is_printable = |byte: u8| (b' '..=b'~').contains(&byte);
    assert!(answer.body.bytes().all(is_printable), "{answer:?}");
    let table = text(&proxy, &[]);
    assert!(
        table.contains("x%20y%E3%80%80/srv/www/z "),
        "a URI is one word: {table}"
    );
    pages.release(1);
    client.answer();
}

/// More than a worker looks at between two turns, and those that come and go meanwhile.
fn thousands_of_sessions_are_told_of_once(engine: Engine) {
    const COUNT: usize = 1500;
    let (pages, echo) = (pages(), Backend::echo());
    let proxy = start(engine, &pages, &echo, "");
    let path = proxy.dir().join("raw.sock");
    let clients: Vec<_> = (0..COUNT)
        .map(|_| common::proxy::connect(&path).unwrap())
        .collect();
    echo.wait_until("all are served", |ledger| ledger.open == COUNT);
    assert_eq!(rows(&proxy, &["raw"]).len(), COUNT);
    assert_eq!(rows(&proxy, &["php"]).len(), 0);
    assert_eq!(all(&proxy, &[])["left_out"], 0);
    drop(clients);
    eventually("none is left", || rows(&proxy, &[]).is_empty());
}

fn a_worker_that_hangs_is_named(engine: Engine) {
    let (pages, echo) = (pages(), Backend::echo());
    let proxy = start(engine, &pages, &echo, "");
    let halted = Halted::new(proxy.process().thread("worker-1")).unwrap();
    assert_eq!(all(&proxy, &[])["silent_workers"], serde_json::json!([1]));
    assert!(text(&proxy, &[]).contains("worker 1 does not turn"));
    drop(halted);
    assert_eq!(all(&proxy, &[])["silent_workers"], serde_json::json!([]));
}

/// Each is answered without the worker, and the first few lie in its mailbox. It takes those when it goes on.
fn questions_do_not_pile_up_at_a_worker_that_hangs(engine: Engine) {
    let (pages, echo) = (pages(), Backend::echo());
    let proxy = start(engine, &pages, &echo, "");
    let halted = Halted::new(proxy.process().thread("worker-0")).unwrap();
    // Whose turn it is waits for the worker, and others for that: two of them, or three, and then no longer.
    let codes: Vec<_> = thread::scope(|scope| {
        let ask = |_| scope.spawn(|| http::get_unix(&proxy.control(), "/requests").code);
        let asked: Vec<_> = (0..8).map(ask).collect();
        let code = |asked: thread::ScopedJoinHandle<_>| asked.join().unwrap();
        asked.into_iter().map(code).collect()
    });
    let count = |wanted: u16| codes.iter().filter(|&&code| code == wanted).count();
    let (told, refused) = (count(200), count(503));
    assert!(
        told > 0 && refused > 0 && told + refused == codes.len(),
        "{codes:?}"
    );
    for _ in 0..8 {
        assert_eq!(all(&proxy, &[])["silent_workers"], serde_json::json!([0]));
    }
    drop(halted);
    eventually("all tell", || {
        all(&proxy, &[])["silent_workers"] == serde_json::json!([])
    });
}

fn a_server_that_is_at_work_for_nobody_is_told(engine: Engine) {
    let (pages, echo) = (pages(), Backend::echo());
    let proxy = start(engine, &pages, &echo, "per-endpoint-max = 1");
    let client = Client::connect(&proxy);
    client.send(&Request::get("/slow").bytes());
    eventually("it runs", || states(&proxy) == counts(&[("sent", 1)]));
    drop(client);
    eventually("it is left alone", || {
        states(&proxy) == counts(&[("abandoned", 1)])
    });
    pages.release(1);
    eventually("it is done", || states(&proxy).is_empty());
}

fn bytes_are_told_both_ways(engine: Engine) {
    const SPLICED: u64 = 8 << 20;
    let (pages, echo) = (pages(), Backend::echo());
    let proxy = start(engine, &pages, &echo, "");
    let raw = common::proxy::connect(&proxy.dir().join("raw.sock")).unwrap();
    let bytes = |row: &Value| {
        let known = |field: &str| row[field].as_u64();
        (known("request_bytes"), known("response_bytes"))
    };
    exchange(&raw, Pattern::new(1), 1234);
    eventually("small ones are counted", || {
        bytes(&rows(&proxy, &["raw"])[0]) == (Some(1234), Some(1234))
    });
    exchange(&raw, Pattern::new(2), SPLICED);
    let all = Some(SPLICED + 1234);
    eventually("and those that are spliced", || {
        bytes(&rows(&proxy, &["raw"])[0]) == (all, all)
    });

    let client = Client::connect(&proxy);
    let request = Request::post("/slow", &[b'y'; 3000]);
    client.send(&request.bytes());
    eventually("the server has it, with its body", || {
        rows(&proxy, &["php"]).iter().any(|row| {
            let (request, response) = bytes(row);
            response == Some(0) && request.is_some_and(|sent| (3000..4000).contains(&sent))
        })
    });
    pages.release(1);
    client.answer();
    let unknown = |row: &Value| bytes(row) == (None, None) && row["state"] == "idle";
    eventually("what is kept has none", || {
        rows(&proxy, &["php"]).iter().all(unknown)
    });
}

/// The answer is some ten times as long as what a socket takes, and nobody reads it.
fn who_does_not_read_the_answer_delays_nobody(engine: Engine) {
    /// What a Unix socket takes by default (net.core.wmem_default) is a tenth of that.
    const ANSWER_BYTES_MIN: usize = 2 << 20;
    let (pages, echo) = (pages(), Backend::echo());
    let proxy = start(engine, &pages, &echo, "");
    // Six characters of JSON for each.
    let uri = format!("/slow{}", "\u{1}".repeat(2000));
    let clients: Vec<_> = (0..200).map(|_| Client::connect(&proxy)).collect();
    for client in &clients {
        client.send(&Request::get(&uri).bytes());
    }
    let sent = [("sent", clients.len())];
    eventually("all are under way", || states(&proxy) == counts(&sent));
    let lazy: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = UnixStream::connect(proxy.control()).unwrap();
            let head = "GET /requests HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            // It has its answer, as far as that goes into the socket: the next one does not wait for the workers.
            stream.read_exact(&mut [0; 1]).unwrap();
            stream
        })
        .collect();
    assert_eq!(rows(&proxy, &[]).len(), clients.len());
    assert_eq!(http::get_unix(&proxy.control(), "/healthz").code, 200);
    let raw = common::proxy::connect(&proxy.dir().join("raw.sock")).unwrap();
    exchange(&raw, Pattern::new(1), 1234);
    drop(lazy);
    let answer = http::get_unix(&proxy.control(), "/requests");
    assert!(
        answer.body.len() > ANSWER_BYTES_MIN,
        "{}",
        answer.body.len()
    );
    pages.release(clients.len());
}

#[test]
fn an_older_daemon_is_told_from_another_program() {
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    let status = proxy.status().to_string();
    let fake = Fake::new(move |request| match request.starts_with("GET /status ") {
        true => answer("200 OK", &status),
        false => answer("404 Not Found", "there are /status, /metrics\n"),
    });
    let output = ask(&fake.control, &[]);
    assert_error_line(&output, &["does not tell of its requests", "restart it"]);

    for words in ["404 Not Found", "200 OK", "500 Internal Server Error"] {
        let fake = Fake::new(move |_| answer(words, "{}"));
        assert_error_line(
            &ask(&fake.control, &[]),
            &["another program answers", "--control"],
        );
    }
    let newer = r#"{"program": "spliceway", "schema": 2, "version": "9.9\u001b[2J"}"#;
    let fake = Fake::new(move |_| answer("200 OK", newer));
    let output = ask(&fake.control, &[]);
    assert_error_line(&output, &["spliceway 9.9", "runs there"]);
    assert!(!output.stderr.contains(&0x1b), "{output:?}");
    let status = proxy.status().to_string();
    let fake = Fake::new(move |request| match request.starts_with("GET /status ") {
        true => answer("200 OK", &status),
        false => answer("403 Forbidden", "user 1 may not\n"),
    });
    assert_error_line(&ask(&fake.control, &[]), &["root and to the user"]);
    let fake = Fake::new(|_| answer("503 Service Unavailable", "others ask\n"));
    assert_error_line(&ask(&fake.control, &[]), &["others ask there", "ask again"]);
}

#[test]
fn without_a_daemon_it_says_what_is_there() {
    let dir = fresh_dir();
    let none = dir.path().join("none.sock");
    assert_error_line(
        &ask(&none, &[]),
        &["none.sock: no such socket", "with --control"],
    );
    drop(UnixListener::bind(&none).unwrap());
    assert_error_line(&ask(&none, &["php"]), &["connection refused", "is gone"]);
}

#[test]
fn what_is_no_name_of_a_route_is_refused_before_anybody_is_asked() {
    for name in ["", "a b", "a&idle", "x=y", "a\u{1b}[2J"] {
        let output = ask(Path::new("/nowhere"), &[name]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!output.stderr.contains(&0x1b), "{output:?}");
    }
    let echo = Backend::echo();
    let proxy = Proxy::builder().backend(&echo).observed().start();
    let answer = http::get_unix(&proxy.control(), "/requests?rout=php");
    assert_eq!(answer.code, 400);
    assert_eq!(
        answer.body,
        "rout=php asks for nothing: there are route=NAME and idle\n"
    );
    assert_eq!(http::get(proxy.metrics_address(), "/requests").code, 404);
}

#[test]
fn it_is_watched_until_the_daemon_ends() {
    let echo = Backend::echo();
    let mut proxy = Proxy::builder().backend(&echo).observed().start();
    let stream = proxy.connect();
    exchange(&stream, Pattern::new(1), KB);
    let mut watching = Command::new(env!("CARGO_BIN_EXE_spliceway"))
        .args(["requests", "--json", "--watch=100ms", "--control"])
        .arg(proxy.control())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["requests"].as_array().unwrap().len(), 1, "{line}");
    }
    drop(stream);
    proxy.terminate();
    proxy.wait();
    lines.for_each(drop);
    assert_eq!(watching.wait().unwrap().code(), Some(1));
}
