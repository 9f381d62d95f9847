//! The status page in headless Chromium, as operators see it: three incidents that have to be found with nothing but the
//! page, hostile words, a phone, the dark, and a daemon that does not answer.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::backend::Refusing;
use common::chromium::Browser;
use common::client::{exchange_and_end, receive_to_eof, send};
use common::fastcgi::{Client, Request};
use common::http;
use common::proxy::Builder;
use common::wait::meanwhile;
use common::{Backend, Engine, KB, NameServer, Pattern, Proxy, eventually, for_each_engine};
use serde_json::{Value, json};

for_each_engine!(
    a_slow_script_that_holds_all_workers_is_found,
    an_endpoint_that_fails_is_found,
    a_name_server_that_is_gone_is_found,
);

/// How often the page asks.
const INTERVAL: Duration = Duration::from_secs(2);

/// A phone.
const PHONE: (u32, u32) = (360, 780);

const DESK: (u32, u32) = (1100, 900);

// --- what stands between a browser and a daemon -------------------------------------------------------

/// A port of this machine that leads to a control socket, as `ssh -L 8080:/run/spliceway/control.sock` makes one.
struct Forward {
    address: SocketAddr,
}

impl Forward {
    fn to(control: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            while let Ok((browser, _)) = listener.accept() {
                let Ok(daemon) = UnixStream::connect(&control) else {
                    continue;
                };
                thread::spawn(move || join(&browser, &daemon));
            }
        });
        Self { address }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

/// Passes one request on, and its answer back.
fn join(browser: &TcpStream, daemon: &UnixStream) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*browser, &mut &*daemon);
            let _ = daemon.shutdown(Shutdown::Write);
        });
        let _ = io::copy(&mut &*daemon, &mut &*browser);
        let _ = browser.shutdown(Shutdown::Both);
    });
}

/// What stands in for a daemon: it has the page of a real one, with all its headers, and figures that tests make up.
struct Stage {
    address: SocketAddr,
    figures: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
}

impl Stage {
    /// With the figures that a daemon has at this moment.
    fn of(proxy: &Proxy) -> Self {
        let page = http::get(proxy.metrics_address(), "/");
        let page = format!("{}\r\n\r\n{}", page.head, page.body);
        let figures = figures(proxy);
        let figures = Arc::new(Mutex::new(Some(figures)));
        let asked = Arc::new(AtomicUsize::new(0));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stage = Self {
            address: listener.local_addr().unwrap(),
            figures: Arc::clone(&figures),
            asked: Arc::clone(&asked),
        };
        thread::spawn(move || {
            while let Ok((mut browser, _)) = listener.accept() {
                match path(&mut browser).as_deref() {
                    Some("/") => drop(browser.write_all(page.as_bytes())),
                    Some("/page.json") => {
                        asked.fetch_add(1, Ordering::Relaxed);
                        // Nothing to say: the connection ends.
                        if let Some(figures) = &mut *figures.lock().unwrap() {
                            answer(&mut browser, figures);
                        }
                    }
                    _ => drop(
                        browser.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
                    ),
                }
            }
        });
        stage
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        change(self.figures.lock().unwrap().as_mut().unwrap());
    }
}

/// What the page is asked for.
fn path(browser: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        browser.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    head.split(' ').nth(1).map(str::to_owned)
}

/// Time passes.
fn answer(browser: &mut TcpStream, figures: &mut Value) {
    let uptime = figures["uptime_seconds"].as_f64().unwrap();
    figures["uptime_seconds"] = (uptime + 2.0).into();
    let body = figures.to_string();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    let _ = browser.write_all(head.as_bytes());
    let _ = browser.write_all(body.as_bytes());
}

// --- daemons ------------------------------------------------------------------------------------------

fn figures(proxy: &Proxy) -> Value {
    let answer = http::get_unix(&proxy.control(), "/page.json");
    assert_eq!(answer.code, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

fn page_of(proxy: &Proxy) -> String {
    format!("http://{}/", proxy.metrics_address())
}

/// Two requests at a time, and four that wait.
fn pool(engine: Engine) -> Builder {
    Proxy::builder()
        .engine(engine)
        .args([
            "--protocol",
            "fastcgi",
            "--guard",
            "off",
            "--on-failure",
            "respond",
        ])
        .args([
            "--per-endpoint-max",
            "2",
            "--queue-max",
            "4",
            "--queue-timeout",
            "off",
            "--queue-order",
            "fifo",
        ])
        .observed()
}

/// Answers those with `report` in their URI when it may.
fn pages() -> Backend {
    Backend::scripted(|conversation| {
        while let Some(heard) = conversation.request()? {
            if heard.uri().contains("report") {
                conversation.wait_for_release()?;
            }
            conversation.send(&heard.page())?;
        }
        Ok(())
    })
}

fn begin(proxy: &Proxy, uri: &str) -> Client {
    let client = Client::connect(proxy);
    let request = Request::get(uri).param("SCRIPT_FILENAME", "/srv/www/index.php");
    client.send(&request.bytes());
    client
}

fn queue_depth(proxy: &Proxy) -> u64 {
    proxy.status()["routes"][0]["queue"]["depth"]
        .as_u64()
        .unwrap()
}

#[track_caller]
fn assert_no_complaints(browser: &mut Browser) {
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

// --- three incidents ----------------------------------------------------------------------------------

/// Nobody gets a page any more. Why?
fn a_slow_script_that_holds_all_workers_is_found(engine: Engine) {
    let backend = pages();
    let proxy = pool(engine).backend(&backend).start();
    let mut browser = Browser::new(DESK.0, DESK.1);
    browser.navigate(&Forward::to(proxy.control()).url());
    browser.wait_for_text("#summary", &["Nothing is wrong"]);
    let slow: Vec<_> = (0..2)
        .map(|n| begin(&proxy, &format!("/report.php?n={n}")))
        .collect();
    backend.wait_until("both run", |ledger| ledger.accepted == 2);
    let waiting: Vec<_> = (0..4).map(|n| begin(&proxy, &format!("/{n}"))).collect();
    eventually("the queue is full", || queue_depth(&proxy) == 4);
    let answer = begin(&proxy, "/fifth").answer();
    assert!(answer.says("503"), "{answer:?}");

    // What is wrong, where, who waits, and for what: all of it at the top.
    browser.wait_for_text(
        "#troubles",
        &[
            "route default: 2 of 2 places are taken at ",
            &backend.to_string(),
            "4 of 4 wait, the first for ",
            "the queue is full, and further clients are sent away",
            "the oldest request has run for ",
            "GET /report.php?n=",
        ],
    );
    let summary = browser.text("#summary");
    assert!(summary.contains("wrong now"), "{summary}");
    let queue = browser.text(".route .queue");
    assert!(queue.starts_with("4 of 4 wait, the first for "), "{queue}");
    assert_eq!(
        browser.value("document.querySelector('.route meter').value"),
        4
    );
    let endpoint = browser.text(".route .endpoints tbody");
    assert!(endpoint.contains("2 of 2"), "{endpoint}");
    let first = browser.text("#request-table tbody tr:first-child");
    for part in [
        "the server has not answered",
        "GET /report.php?n=",
        "/srv/www/index.php",
        &backend.to_string(),
    ] {
        assert!(first.contains(part), "no {part:?} in {first}");
    }
    let note = browser.text("#requests-note");
    assert!(
        note.contains("6 under way: ") && note.contains("4 queued"),
        "{note}"
    );
    assert_eq!(browser.value("document.title.startsWith('(')"), true);

    backend.release(2);
    for client in slow.iter().chain(&waiting) {
        client.answer();
    }
    browser.wait_for_text("#summary", &["Nothing is wrong"]);
    browser.wait_for_text(".plots", &["Requests", "Waits for a place"]);
    assert_no_complaints(&mut browser);
}

/// Some requests fail at one of two servers.
fn an_endpoint_that_fails_is_found(engine: Engine) {
    let good = Backend::scripted(|conversation| {
        conversation.receive_exact(1)?;
        conversation.send(b"!")
    });
    let bad = Refusing::new();
    let proxy = Proxy::builder()
        .engine(engine)
        .args([
            "--balance",
            "round-robin",
            "--workers",
            "1",
            "--eject-time",
            "1h",
        ])
        .backend(&bad)
        .backend(&good)
        .observed()
        .start();
    let mut browser = Browser::new(DESK.0, DESK.1);
    // Nothing of it is a client's: it is to be seen at the metrics address.
    browser.navigate(&page_of(&proxy));
    browser.wait_for_text("#summary", &["Nothing is wrong"]);
    eventually("it is left out", || {
        let client = proxy.connect();
        send(&client, b"?");
        assert_eq!(receive_to_eof(&client), b"!");
        proxy.status()["routes"][0]["endpoints"][0]["state"] == "ejected"
    });
    let what = format!("endpoint {bad} of route default is left out for ");
    browser.wait_for_text(
        "#troubles",
        &[&what, "after failures in a row (connects that failed: "],
    );
    assert!(browser.text("#summary").contains("1 thing is wrong now"));
    // The one to look at is the first of the table.
    let first = browser.text(".route .endpoints tbody tr:first-child");
    assert!(
        first.contains(&bad.to_string()) && first.contains("left out for "),
        "{first}"
    );
    let other = browser.text(".route .endpoints tbody tr:last-child");
    assert!(
        other.contains(&good.to_string()) && other.contains("ok"),
        "{other}"
    );
    let events = browser.text("#event-list");
    assert!(
        events.contains(&format!("endpoint {bad} is left out for ")),
        "{events}"
    );
    assert!(events.contains("route=default"), "{events}");
    assert_no_complaints(&mut browser);
}

/// Everything works, and will not when the servers get other addresses.
fn a_name_server_that_is_gone_is_found(engine: Engine) {
    let backend = Backend::echo();
    let server = NameServer::start();
    server.a("php.internal", &["127.0.0.1"]);
    let proxy = Proxy::builder()
        .engine(engine)
        .args([
            "--nameserver",
            &server.address.to_string(),
            "--dns-min-ttl",
            "100ms",
        ])
        .backend(format!("php.internal:{}", backend.port()))
        .observed()
        .start();
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    let mut browser = Browser::new(DESK.0, DESK.1);
    browser.navigate(&page_of(&proxy));
    browser.wait_for_text("#summary", &["Nothing is wrong"]);
    browser.wait_for_text(".route dl", &["Names", "confirmed "]);
    drop(server);
    browser.wait_for_text(
        "#troubles",
        &[
            "names of route default have not been resolved for ",
            "the addresses of before are still used",
        ],
    );
    browser.wait_for_text(".route dl", &["Names", "fail for "]);
    // It is not an endpoint's fault, and clients are served.
    let endpoint = browser.text(".route .endpoints tbody");
    assert!(endpoint.contains("ok"), "{endpoint}");
    browser.wait_for_text("#event-list", &["look up php.internal: "]);
    exchange_and_end(&proxy.connect(), Pattern::new(2), KB);
    assert_no_complaints(&mut browser);
}

// --- what others chose --------------------------------------------------------------------------------

/// What a page must not do with it, and what it must not look like.
const HOSTILE: [&str; 6] = [
    "<img src=x onerror=\"document.title='hacked'\">",
    "</script><script>document.title='hacked'</script>",
    "</style><style>*{display:none}</style>",
    "\u{202e}gnp.exe\u{2066}",
    "a\0b\u{1b}[31m\u{7f}\u{9b}",
    "&lt;b&gt; \"'` ${1} {{1}} javascript:alert(1)",
];

/// As the page shows it: what is not seen, or turns what follows, has its number.
fn escaped(text: &str) -> String {
    let unseen = |c: char| c.is_control() || "\u{202e}\u{2066}".contains(c);
    let each = text.chars().map(|c| match unseen(c) {
        true => format!("\\u{{{:x}}}", u32::from(c)),
        false => c.to_string(),
    });
    each.collect()
}

/// Whatever a daemon says, and were it none of ours.
#[test]
fn hostile_words_of_any_kind_are_text() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).observed().start();
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    let stage = Stage::of(&proxy);
    stage.change(|figures| {
        let route = figures["routes"][0].clone();
        let endpoint = route["endpoints"][0].clone();
        let with = |value: &Value, field: &str, text: &str| {
            let mut value = value.clone();
            value[field] = text.into();
            value
        };
        let all = |make: &dyn Fn(&str) -> Value| Value::from(HOSTILE.map(make).to_vec());
        figures["routes"] = all(&|text| {
            let mut route = with(&route, "name", text);
            route["listeners"] = json!([text]);
            route["endpoints"] = all(&|text| with(&endpoint, "address", text));
            route["fastcgi"] = Value::Null;
            route
        });
        figures["troubles"] = all(&|text| json!({"level": "error", "text": text}));
        figures["events"] = all(&|text| {
            json!({"at_seconds": 1.0, "level": "warn", "message": text, "about": text, "times": 1})
        });
        let row = |text: &str| {
            json!({"route": text, "state": text, "age_seconds": 1.0, "queue_seconds": 0.0, "endpoint": text,
                "stalled": {"by": text, "what": text, "seconds": 1.0}, "method": text, "uri": text, "script": text})
        };
        figures["requests"] = json!({"count": 1, "states": [{"state": HOSTILE[0], "count": 1}], "rows": all(&row),
            "left_out": 0, "silent_workers": [], "incomplete_workers": []});
        figures["version"] = HOSTILE[1].into();
        figures["config"]["hash"] = HOSTILE[0].into();
        figures["events"].as_array_mut().unwrap().push(
            json!({"at_seconds": 2.0, "level": "error", "message": "x".repeat(5000), "about": "", "times": 1}),
        );
    });
    let mut browser = Browser::new(PHONE.0, PHONE.1);
    browser.navigate(&stage.url());
    browser.wait_for_text("#summary", &["wrong now"]);
    // As text, each of them, everywhere: a browser's own rendering of spaces and line ends aside.
    let content = |browser: &mut Browser, selector: &str| {
        let all = format!("[...document.querySelectorAll({})]", json!(selector));
        let text = browser.value(&format!("{all}.map(it => it.textContent).join('\\n')"));
        text.as_str().unwrap().to_owned()
    };
    for text in HOSTILE.map(escaped) {
        for place in [
            "#troubles",
            ".route h2",
            ".route .endpoints",
            "#request-table",
            "#event-list",
        ] {
            let content = content(&mut browser, place);
            assert!(
                content.contains(&text),
                "no {text:?} at {place}:\n{content}"
            );
        }
    }
    assert!(content(&mut browser, "#daemon").contains(HOSTILE[1]));
    assert!(content(&mut browser, "#requests-note").contains(HOSTILE[0]));
    assert!(!content(&mut browser, "#event-list").contains(&"x".repeat(700)));
    // And not one element, attribute or title of theirs.
    assert_eq!(
        browser.value("document.querySelectorAll('img, script[src], body style, iframe').length"),
        0
    );
    assert_eq!(browser.value("document.scripts.length"), 1);
    let title = browser.value("document.title");
    assert_eq!(title, "(6) spliceway");
    assert_fits(&mut browser, PHONE.0);
    assert_no_complaints(&mut browser);
    let elsewhere = browser.requests();
    let elsewhere: Vec<_> = elsewhere
        .iter()
        .filter(|url| !url.starts_with(&stage.url()) && !url.starts_with("data:"))
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

/// What clients send is for those who may see it, and text there.
#[test]
fn what_clients_send_is_shown_to_those_who_may_see_it() {
    let backend = pages();
    let proxy = pool(Engine::Epoll).backend(&backend).start();
    let details = pool(Engine::Epoll)
        .args(["--status-details"])
        .backend(&backend)
        .start();
    let hostile = format!("/report{}", HOSTILE.concat());
    let clients = [begin(&proxy, &hostile), begin(&details, &hostile)];
    backend.wait_until("both run", |ledger| ledger.accepted == 2);
    let shown = "/report<img src=x onerror=\"document.title='hacked'\"></script>";
    let mut browser = Browser::new(DESK.0, DESK.1);
    for url in [Forward::to(proxy.control()).url(), page_of(&details)] {
        browser.navigate(&url);
        browser.wait_for_text("#request-table", &[shown, "\\u{202e}gnp.exe", "uid "]);
        assert_eq!(browser.value("document.title.includes('hacked')"), false);
    }
    browser.navigate(&page_of(&proxy));
    browser.wait_for_text("#request-table", &["the server has not answered"]);
    browser.wait_for_text(
        "#requests-note",
        &["URIs, scripts and clients are not shown here"],
    );
    let everything = browser.value("document.documentElement.textContent");
    assert!(
        !everything.as_str().unwrap().contains("/report"),
        "{everything}"
    );
    assert_no_complaints(&mut browser);

    // Neither is it for a page of elsewhere whose name leads here.
    let address = details.metrics_address();
    let told = |host: &str| {
        http::get_from(address, "/page.json", host)
            .body
            .contains("/report")
    };
    assert!(told("127.0.0.1:9145") && told("localhost"));
    assert!(!told("evil.example") && !told("evil.example:9145"));
    assert!(
        !http::get(proxy.metrics_address(), "/page.json")
            .body
            .contains("/report")
    );
    backend.release(2);
    clients.iter().for_each(|client| drop(client.answer()));
}

#[test]
fn the_page_and_its_figures_are_guarded_wherever_they_are() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).observed().start();
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.json", "application/json"),
    ] {
        for answer in [
            http::get(proxy.metrics_address(), path),
            http::get_unix(&proxy.control(), path),
        ] {
            assert_eq!(answer.code, 200, "{answer:?}");
            for header in [
                &format!("content-type: {kind}"),
                "cache-control: no-store",
                "x-content-type-options: nosniff",
                "referrer-policy: no-referrer",
                "cross-origin-resource-policy: same-origin",
            ] {
                assert!(
                    answer.head.lines().any(|line| line == header),
                    "no {header} in {}",
                    answer.head
                );
            }
            assert!(
                answer
                    .head
                    .contains("\r\ncontent-security-policy: default-src 'none'; "),
                "{}",
                answer.head
            );
            // No other origin is ever told that it may read an answer.
            assert!(!answer.head.contains("access-control"), "{}", answer.head);
        }
    }
    let head = http::head(proxy.metrics_address(), "/");
    assert_eq!((head.code, &*head.body), (200, ""));
    let length = http::get(proxy.metrics_address(), "/").body.len();
    assert!(
        head.head.contains(&format!("content-length: {length}")),
        "{head:?}"
    );
    let refused = http::post(proxy.metrics_address(), "/page.json", "x");
    assert_eq!(refused.code, 405);
}

/// What the page could be made to do by a fault in its script.
#[test]
fn the_policy_forbids_all_that_the_page_does_not_do() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).observed().start();
    let mut browser = Browser::new(DESK.0, DESK.1);
    browser.navigate(&page_of(&proxy));
    browser.wait_for_text("#summary", &["Nothing is wrong"]);
    assert_no_complaints(&mut browser);
    for (act, outcome) in [
        ("document.body.innerHTML = '<b>x</b>'; 'done'", "TypeError"),
        ("eval('1'); 'done'", "EvalError"),
        ("await fetch('http://127.0.0.1:9/'); 'done'", "TypeError"),
        (
            "document.body.append(Object.assign(document.createElement('img'), { src: '/x' })); 'done'",
            "done",
        ),
        (
            "document.body.append(Object.assign(document.createElement('style'), { textContent: '*{color:red}' })); 'done'",
            "done",
        ),
        (
            "document.body.append(Object.assign(document.createElement('iframe'), { src: '/' })); 'done'",
            "done",
        ),
    ] {
        let (act, last) = act.rsplit_once("; ").unwrap();
        let asked = format!(
            "(async () => {{ try {{ {act}; return {last}; }} catch (error) {{ return error.name; }} }})()"
        );
        assert_eq!(browser.value(&asked), outcome, "{act}");
        eventually(&format!("a complaint of {act}"), || {
            let complaints = browser.complaints().concat();
            complaints.contains("Content Security Policy")
                || complaints.contains("ContentSecurityPolicyIssue")
        });
    }
    let colour = browser.value("getComputedStyle(document.querySelector('h1')).color");
    assert_ne!(colour, "rgb(255, 0, 0)");
    let answered = browser.answers();
    assert!(
        answered.len() >= 2,
        "the page and its figures: {answered:?}"
    );
    let forbidden = |url: &String| url.ends_with("/x") || url.contains(":9/");
    assert!(!answered.iter().any(forbidden), "{answered:?}");
}

// --- how it looks -------------------------------------------------------------------------------------

/// Nothing is wider than the screen.
#[track_caller]
fn assert_fits(browser: &mut Browser, width: u32) {
    let wide = browser.value("document.documentElement.scrollWidth");
    assert!(
        wide.as_u64().unwrap() <= width.into(),
        "{wide} of {width} pixels"
    );
}

/// The least contrast of a text and what it stands on (WCAG 2.1, section 1.4.3: 4.5 at least).
const CONTRAST: &str = r"(() => {
  const light = colour => {
    const parts = colour.match(/[\d.]+/g).map(Number);
    if (parts.length > 3 && parts[3] === 0) return null;
    const [r, g, b] = parts.map(part => part / 255).map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = node => node === null ? null : light(getComputedStyle(node).backgroundColor) ?? ground(node.parentElement);
  const texts = [...document.querySelectorAll('body *')].filter(node => node.checkVisibility() && node.tagName !== 'SCRIPT'
    && [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim() !== ''));
  const ratios = texts.map(node => {
    const [a, b] = [light(getComputedStyle(node).color), ground(node)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
  return Math.min(...ratios);
})()";

/// Two routes in trouble. With SPLICEWAY_STATUS_PAGE_PNG, the picture of docs/status-page.md goes to that file.
#[test]
fn it_is_read_on_a_phone_and_in_the_dark() {
    let (slow, good, bad) = (pages(), pages(), Refusing::new());
    let builder = Proxy::builder().observed();
    let dir = builder.dir().display().to_string();
    let config = format!(
        "workers = 2\n[defaults]\nprotocol = \"fastcgi\"\nguard = \"off\"\nqueue-timeout = \"off\"\nqueue-order = \"fifo\"\n\
         [route.shop]\nlisten = \"unix:{dir}/proxy.sock\"\nbackend = \"{slow}\"\nper-endpoint-max = 2\nqueue-max = 8\n\
         [route.blog]\nlisten = \"unix:{dir}/blog.sock\"\nbackend = [\"{bad}\", \"{good}\"]\nbalance = \"round-robin\"\n\
         eject-time = \"1h\"\nper-endpoint-max = 4\n\
         [route.wiki]\nlisten = \"unix:{dir}/wiki.sock\"\nbackend = \"{good}\"\nper-endpoint-max = 4\n"
    );
    let proxy = builder.config(&config).start();
    let blog = |uri: &str| {
        Client(common::proxy::connect(&proxy.dir().join("blog.sock")).unwrap())
            .ask(&Request::get(uri))
    };
    eventually("an endpoint is left out", || {
        blog("/article");
        proxy.status()["routes"][1]["ejections"] == 1
    });
    let mut browser = Browser::new(DESK.0, DESK.1);
    browser.prefer("light");
    browser.navigate(&Forward::to(proxy.control()).url());
    browser.wait_for_text("#troubles", &["of route blog is left out"]);
    // What comes after the first look is of the last minute.
    for number in 0..40 {
        assert_eq!(
            Client::connect(&proxy)
                .ask(&Request::get(&format!("/{number}")))
                .text(),
            format!("/{number}")
        );
    }
    let held: Vec<_> = (0..2)
        .map(|n| begin(&proxy, &format!("/report.php?year={}", 2024 + n)))
        .collect();
    let waiting: Vec<_> = (0..5)
        .map(|n| begin(&proxy, &format!("/cart/{n}")))
        .collect();
    eventually("they wait", || queue_depth(&proxy) == 5);

    browser.wait_for_text(
        "#troubles",
        &[
            "route shop: 2 of 2 places",
            "GET /report.php",
            "of route blog is left out",
        ],
    );
    // Trouble comes first.
    let names = browser.text(".route h2 span");
    assert_eq!(names.split_whitespace().last(), Some("wiki"), "{names}");
    browser.wait_for_text(".plots", &["; in the last "]);
    // Rates are there once there were two looks.
    browser.wait_until("[...document.querySelectorAll('.route dd')].some(it => /^[0-9.]+\\/s$/.test(it.textContent))");
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        let ground = browser.value("getComputedStyle(document.documentElement).backgroundColor");
        assert_eq!(
            ground == "rgb(255, 255, 255)",
            scheme == "light",
            "{ground}"
        );
        for (width, height) in [DESK, PHONE, (320, 600)] {
            browser.resize(width, height);
            assert_fits(&mut browser, width);
            let contrast = browser.value(CONTRAST).as_f64().unwrap();
            assert!(
                contrast >= 4.5,
                "a contrast of {contrast}, {scheme}, {width} pixels"
            );
        }
    }
    // Whoever cannot see hears what is wrong, what a plot shows, and which column a cell is of.
    assert_eq!(
        browser.value("document.querySelectorAll('th:not([scope])').length"),
        0
    );
    assert_eq!(
        browser.value("document.querySelector('#summary').getAttribute('role')"),
        "status"
    );
    assert_eq!(browser.value("[...document.querySelectorAll('svg, meter')].every(it => it.getAttribute('aria-label'))"), true);
    assert_no_complaints(&mut browser);
    if let Some(file) = std::env::var_os("SPLICEWAY_STATUS_PAGE_PNG") {
        browser.prefer("light");
        browser.resize(DESK.0, DESK.1);
        browser.screenshot(Path::new(&file), DESK);
    }
    slow.release(2);
    held.iter()
        .chain(&waiting)
        .for_each(|client| drop(client.answer()));
}

#[test]
fn the_picture_of_the_docs_is_there_and_small() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status-page.png");
    let picture = std::fs::read(file).unwrap();
    assert!(picture.starts_with(b"\x89PNG\r\n"));
    assert!(picture.len() < 150_000, "{} bytes", picture.len());
}

// --- how it goes on -----------------------------------------------------------------------------------

#[test]
fn it_changes_in_place_and_asks_nothing_while_nobody_looks() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).observed().start();
    exchange_and_end(&proxy.connect(), Pattern::new(1), KB);
    let stage = Stage::of(&proxy);
    // Less than the page.
    let mut browser = Browser::new(PHONE.0, 300);
    browser.navigate(&stage.url());
    browser.wait_for_text(".route .endpoints", &[&backend.to_string()]);
    // Somebody marks an address, and has scrolled.
    browser
        .value("getSelection().selectAllChildren(document.querySelector('.endpoints tbody td'))");
    browser.value("scrollTo(0, 120)");
    let before = browser.value("scrollY");
    stage.change(|figures| {
        figures["routes"][0]["endpoints"][0]["connections"] = 77.into();
        figures["troubles"] = json!([{"level": "warn", "text": "something"}]);
    });
    browser.wait_for_text(".route .endpoints", &["77"]);
    browser.wait_for_text("#troubles", &["something"]);
    stage.change(|figures| figures["accept_pauses"]["limit_reached"] = 5.into());
    let paused = "clients are not accepted now and then: 2.5/s pauses (limit reached)";
    browser.wait_for_text("#troubles", &[paused]);
    assert_eq!(
        browser.value("getSelection().toString()"),
        backend.to_string()
    );
    let after = browser.value("scrollY");
    assert!(
        before != 0 && after.as_f64() >= before.as_f64(),
        "from {before} to {after}"
    );

    browser.value(
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true }); \
         document.dispatchEvent(new Event('visibilitychange')); 1",
    );
    // One may be under way.
    let asked = stage.asked();
    meanwhile(2 * INTERVAL, || drop(browser.value("1")));
    assert!(
        stage.asked() <= asked + 1,
        "from {asked} to {}",
        stage.asked()
    );
    let asked = stage.asked();
    browser
        .value("delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); 1");
    eventually("it asks again", || stage.asked() > asked + 1);
    assert_no_complaints(&mut browser);
}

#[test]
fn a_daemon_that_does_not_answer_is_told_and_awaited() {
    let backend = Backend::echo();
    let proxy = Proxy::builder().backend(&backend).observed().start();
    let stage = Stage::of(&proxy);
    let mut browser = Browser::new(DESK.0, DESK.1);
    browser.navigate(&stage.url());
    browser.wait_for_text("#summary", &["Nothing is wrong"]);
    assert_eq!(browser.text("#stale"), "");
    assert_no_complaints(&mut browser);
    let figures = stage.figures.lock().unwrap().take();
    browser.wait_for_text(
        "#stale",
        &[
            "The daemon has not answered for ",
            "what is below was so at ",
        ],
    );
    // And for how long: it goes on.
    browser.wait_until("/ for [2-9]/.test(document.querySelector('#stale').textContent)");
    *stage.figures.lock().unwrap() = figures;
    browser.wait_until("document.querySelector('#stale').hidden");
    // A browser notes requests that fail. Nothing else is wrong.
    let complaints = browser.complaints();
    assert!(
        !complaints.is_empty(),
        "what a browser complains of is seen here"
    );
    let is_of_network = |complaint: &&String| complaint.contains("net::ERR_");
    let others: Vec<_> = complaints.iter().filter(|c| !is_of_network(c)).collect();
    assert!(others.is_empty(), "{others:#?}");
}
