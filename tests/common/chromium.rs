//! Chromium without a screen, and one page in it, over the pipe that it has for debuggers: messages of the Chrome
//! DevTools Protocol, each a JSON object with a NUL behind it. What the page complains of is kept.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::Process;
use super::programs::program;
use super::proxy::fresh_dir;
use super::sys::ChildSetup;
use super::wait::{GUARD, eventually, pause};

/// Nothing but loopback: Chromium would ask its makers for news.
const ARGUMENTS: [&str; 16] = [
    "--headless",
    "--remote-debugging-pipe",
    // Tests run as root, too, for which Chromium has no sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--no-pings",
    "--no-proxy-server",
    "--lang=en-US",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
];

/// How long it may take to end when it is told to: then it is killed.
const END_LOOKS_MAX: usize = 500;

/// How long the browser is left alone between two looks at its page.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A browser with one page.
pub(crate) struct Browser {
    process: Process,
    to: PipeWriter,
    from: Receiver<Value>,
    next_id: u64,
    /// Which page.
    session: Option<String>,
    /// What its console says, faults of its script, and what its policy has forbidden.
    complaints: Vec<String>,
    /// What it has asked for, or would have if it might, and what has been answered.
    requests: Vec<String>,
    answers: Vec<String>,
    _dir: TempDir,
}

impl Browser {
    /// A page of this size, in CSS pixels.
    pub(crate) fn new(width: u32, height: u32) -> Self {
        let dir = fresh_dir();
        let (theirs_in, to) = std::io::pipe().expect("pipes can be made");
        let (ours_in, theirs_out) = std::io::pipe().expect("pipes can be made");
        let mut command = Command::new(program(&["/usr/bin/chromium"]));
        command
            .args(ARGUMENTS)
            .arg(format!("--user-data-dir={}", dir.path().display()))
            .arg(format!("--window-size={width},{height}"))
            .env("HOME", dir.path())
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let setup = ChildSetup {
            death_signal: libc::SIGKILL,
            // It reads from 3 and writes to 4.
            passed: vec![theirs_in.as_raw_fd(), theirs_out.as_raw_fd()],
            ..ChildSetup::default()
        };
        let process = Process::start(command, setup);
        drop((theirs_in, theirs_out));
        let mut browser = Self {
            process,
            to,
            from: listen(ours_in),
            next_id: 1,
            session: None,
            complaints: Vec::new(),
            requests: Vec::new(),
            answers: Vec::new(),
            _dir: dir,
        };
        browser.open(width, height);
        browser
    }

    fn open(&mut self, width: u32, height: u32) {
        let target = self.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = self.call(
            "Target.attachToTarget",
            json!({"targetId": target["targetId"], "flatten": true}),
        );
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network", "Audits"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        self.resize(width, height);
    }

    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": true});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// `light` or `dark`.
    pub(crate) fn prefer(&mut self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.call("Emulation.setEmulatedMedia", json!({"features": [feature]}));
    }

    #[track_caller]
    pub(crate) fn navigate(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({"url": url}));
        assert_eq!(answer["errorText"], Value::Null, "{url}: {answer}");
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let asked = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
            // As a script of the page's own.
            "allowUnsafeEvalBlockedByCSP": false,
        });
        let answer = self.call("Runtime.evaluate", asked);
        assert_eq!(
            answer["exceptionDetails"],
            Value::Null,
            "{expression}: {answer:#}"
        );
        answer["result"]["value"].clone()
    }

    /// What a reader sees of the elements that this finds. Empty, if there are none.
    #[track_caller]
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let all = format!("[...document.querySelectorAll({})]", json!(selector));
        let text = self.value(&format!("{all}.map(it => it.innerText).join('\\n')"));
        text.as_str().expect("text").to_owned()
    }

    /// Waits until the text of these elements has all of this in it.
    #[track_caller]
    pub(crate) fn wait_for_text(&mut self, selector: &str, parts: &[&str]) {
        let mut text = String::new();
        let deadline = std::time::Instant::now() + GUARD;
        while !parts.iter().all(|part| text.contains(part)) {
            assert!(
                std::time::Instant::now() < deadline,
                "{selector} never had {parts:?}, but\n{text}\nThe page complains: {:#?}",
                self.complaints
            );
            pause(LOOK_INTERVAL);
            text = self.text(selector);
        }
    }

    /// Waits until this expression is true.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, expression: &str) {
        eventually(&format!("{expression} in the page"), || {
            pause(LOOK_INTERVAL);
            self.value(expression) == Value::Bool(true)
        });
    }

    /// All that the page has complained of until now.
    #[track_caller]
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        // What it has said before this answer has come before it.
        self.value("1");
        std::mem::take(&mut self.complaints)
    }

    /// All that the page has asked for until now.
    #[track_caller]
    pub(crate) fn requests(&mut self) -> Vec<String> {
        self.value("1");
        self.requests.clone()
    }

    /// All that has been answered until now.
    #[track_caller]
    pub(crate) fn answers(&mut self) -> Vec<String> {
        self.value("1");
        self.answers.clone()
    }

    /// A picture of the page down to this height.
    pub(crate) fn screenshot(&mut self, file: &Path, (width, height): (u32, u32)) {
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let asked = json!({"format": "png", "clip": clip, "captureBeyondViewport": true});
        let answer = self.call("Page.captureScreenshot", asked);
        let png = from_base64(answer["data"].as_str().expect("a picture"));
        fs::write(file, png).expect("the file can be written");
    }

    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone().into();
        }
        let bytes = format!("{message}\0");
        let sent = self.to.write_all(bytes.as_bytes());
        assert!(
            sent.is_ok(),
            "Chromium has ended: {:#?}",
            self.process.log().lines()
        );
        loop {
            let Ok(message) = self.from.recv_timeout(GUARD) else {
                panic!("no answer to {method}: {:#?}", self.process.log().lines());
            };
            if message["id"] == id {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let params = &message["params"];
        match message["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                let url = &params["request"]["url"];
                self.requests.extend(url.as_str().map(str::to_owned));
            }
            Some("Network.responseReceived") => {
                let url = &params["response"]["url"];
                self.answers.extend(url.as_str().map(str::to_owned));
            }
            Some(
                kind @ ("Runtime.consoleAPICalled"
                | "Runtime.exceptionThrown"
                | "Log.entryAdded"
                | "Audits.issueAdded"),
            ) => self.complaints.push(format!("{kind}: {params}")),
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its processes end with it, and leave their directory alone then.
        let _ = self
            .to
            .write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        for _ in 0..END_LOOKS_MAX {
            if !self.process.is_running() {
                return;
            }
            pause(LOOK_INTERVAL / 2);
        }
    }
}

/// Everything that comes, message by message.
fn listen(from: PipeReader) -> Receiver<Value> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || pass_on(from, &tell));
    told
}

fn pass_on(from: PipeReader, tell: &Sender<Value>) {
    for message in BufReader::new(from).split(0) {
        let Ok(message) = message else { return };
        let message = serde_json::from_slice(&message).expect("messages are JSON");
        if tell.send(message).is_err() {
            return;
        }
    }
}

/// RFC 4648, section 4.
fn from_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextet = |character: u8| ALPHABET.iter().position(|known| *known == character);
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in text.as_bytes().chunks(4) {
        let sextets: Vec<usize> = four.iter().filter_map(|c| sextet(*c)).collect();
        let bits = sextets.iter().fold(0, |bits, sextet| bits << 6 | sextet);
        let bits = u32::try_from(bits << (6 * (4 - sextets.len()))).expect("24 bits");
        bytes.extend(&bits.to_be_bytes()[1..sextets.len()]);
    }
    bytes
}
