//! What clients of HTTP say and hear: one request, one answer, one connection.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;

use super::proxy::{Builder, Proxy, connect, fresh_dir};
use super::wait::GUARD;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Asks a metrics address.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("the address is listened on");
    stream
        .set_read_timeout(Some(GUARD))
        .expect("a timeout can be set");
    exchange(stream, &format!("GET {path}"), "")
}

/// Asks a metrics address for the head of an answer.
#[track_caller]
pub(crate) fn head(address: SocketAddr, path: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("the address is listened on");
    stream
        .set_read_timeout(Some(GUARD))
        .expect("a timeout can be set");
    exchange(stream, &format!("HEAD {path}"), "")
}

/// Asks a metrics address, with this Host.
#[track_caller]
pub(crate) fn get_from(address: SocketAddr, path: &str, host: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("the address is listened on");
    stream
        .set_read_timeout(Some(GUARD))
        .expect("a timeout can be set");
    exchange_as(stream, &format!("GET {path}"), host, "")
}

/// Posts something to a metrics address.
#[track_caller]
pub(crate) fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("the address is listened on");
    stream
        .set_read_timeout(Some(GUARD))
        .expect("a timeout can be set");
    exchange(stream, &format!("POST {path}"), body)
}

/// Asks a control socket.
#[track_caller]
pub(crate) fn get_unix(socket: &Path, path: &str) -> Answer {
    exchange(control(socket), &format!("GET {path}"), "")
}

/// Gives a control socket a command, which is JSON.
#[track_caller]
pub(crate) fn command(socket: &Path, command: &str) -> Answer {
    exchange(control(socket), "POST /command", command)
}

#[track_caller]
fn control(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("the socket is listened on");
    stream
        .set_read_timeout(Some(GUARD))
        .expect("a timeout can be set");
    stream
}

#[track_caller]
fn exchange(stream: impl Read + Write, what: &str, body: &str) -> Answer {
    exchange_as(stream, what, "test", body)
}

#[track_caller]
fn exchange_as(mut stream: impl Read + Write, what: &str, host: &str, body: &str) -> Answer {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    let request =
        format!("{what} HTTP/1.1\r\nHost: {host}\r\n{length}Connection: close\r\n\r\n{body}");
    stream
        .write_all(request.as_bytes())
        .expect("a request fits in a socket's buffer");
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .expect("an answer is text and ends");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer {
        code: code.expect("an answer begins with its code"),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

impl Builder {
    /// With a control socket and a metrics address, whose port the kernel chooses.
    pub(crate) fn observed(self) -> Self {
        let control = self.control();
        let control = control.to_str().expect("temporary paths are text");
        self.args(["--control", control, "--metrics", "127.0.0.1:0"])
    }

    /// Where [`Builder::observed`] has the control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.dir().join("control.sock")
    }
}

impl Proxy {
    /// The control socket of one that is observed.
    pub(crate) fn control(&self) -> PathBuf {
        self.dir().join("control.sock")
    }

    /// The metrics address of one that is observed.
    #[track_caller]
    pub(crate) fn metrics_address(&self) -> SocketAddr {
        let lines = self.process().log().lines();
        let of = |line: &String| {
            let (_, rest) = line.split_once("metrics on http://")?;
            rest.split('/').next()?.parse().ok()
        };
        lines
            .iter()
            .find_map(of)
            .expect("the log names the address")
    }

    #[track_caller]
    pub(crate) fn scrape(&self) -> Scrape {
        let answer = get(self.metrics_address(), "/metrics");
        assert_eq!(answer.code, 200, "{answer:?}");
        Scrape(answer.body)
    }

    /// The status as the control socket gives it.
    #[track_caller]
    pub(crate) fn status(&self) -> serde_json::Value {
        let answer = get_unix(&self.control(), "/status");
        assert_eq!(answer.code, 200, "{answer:?}");
        serde_json::from_str(&answer.body).expect("a status is JSON")
    }
}

/// The text of one scrape.
#[derive(Debug)]
pub(crate) struct Scrape(pub(crate) String);

impl Scrape {
    /// The value of the series with exactly this name and these labels, as they are written.
    #[track_caller]
    pub(crate) fn value(&self, series: &str) -> f64 {
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        let found = self.0.lines().find_map(value);
        found.unwrap_or_else(|| panic!("no {series} in\n{}", self.0))
    }

    /// The sum over all series of this name that have all of these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let start = format!("{name}{{");
        let fits = |line: &&str| labels.iter().all(|label| line.contains(label));
        let its = self.0.lines().filter(|line| line.starts_with(&start));
        let values = its.filter(fits).filter_map(|line| line.rsplit(' ').next());
        values.filter_map(|value| value.parse::<f64>().ok()).sum()
    }

    /// All metrics with their types.
    pub(crate) fn types(&self) -> BTreeMap<&str, &str> {
        let types = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "));
        types.filter_map(|line| line.split_once(' ')).collect()
    }
}

/// The text of a file of this repository.
#[track_caller]
pub(crate) fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An answer of a web server.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// Asks the web server that listens on the socket `front`.
    #[track_caller]
    pub(crate) fn to(front: &Path, method: &str, target: &str, body: &[u8]) -> Self {
        let stream = connect(front).expect("the web server listens");
        Self::over(&stream, method, target, body)
    }

    /// Asks the web server at this address.
    #[track_caller]
    pub(crate) fn from(address: SocketAddr, target: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the web server listens");
        stream
            .set_read_timeout(Some(GUARD))
            .expect("a timeout can be set");
        Self::over(&stream, "GET", target, b"")
    }

    /// HTTP/1.0: no chunks, and the end of the connection is the end of the response.
    #[track_caller]
    fn over<S: Sync>(mut stream: &S, method: &str, target: &str, body: &[u8]) -> Self
    where
        for<'a> &'a S: Read + Write,
    {
        let head = format!(
            "{method} {target} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut response = Vec::new();
        thread::scope(|scope| {
            let mut writer = stream;
            scope.spawn(move || {
                writer
                    .write_all(head.as_bytes())
                    .expect("the web server takes the head");
                writer
                    .write_all(body)
                    .expect("the web server takes the body");
            });
            stream.read_to_end(&mut response).expect("a clean end");
        });
        Self::parse(&response)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("a whole head");
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let (status, headers) = head.split_once("\r\n").expect("a status line and headers");
        let code = status.split(' ').nth(1).expect("a status code");
        let response = Self {
            status: code.parse().expect("a number"),
            headers: headers.to_owned(),
            body: bytes[end + 4..].to_vec(),
        };
        if let Some(length) = response.header("Content-Length") {
            assert_eq!(
                length,
                response.body.len().to_string(),
                "a truncated response"
            );
        }
        response
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self
            .headers
            .lines()
            .filter_map(|line| line.split_once(": "));
        let mut found = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value)
    }

    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        std::str::from_utf8(&self.body).expect("text")
    }
}

/// What stands in for a daemon at a control socket: answers each request with what this makes of it, until it is dropped.
pub(crate) struct Fake {
    pub(crate) control: PathBuf,
    _dir: TempDir,
}

impl Fake {
    /// It gets the request, and what it returns is the answer. `None` ends the socket as well.
    pub(crate) fn new(answer: impl Fn(&str) -> Option<String> + Send + 'static) -> Self {
        let dir = fresh_dir();
        let control = dir.path().join("control.sock");
        let listener = UnixListener::bind(&control).unwrap();
        let file = control.clone();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let request = request(&stream);
                let Some(answer) = answer(&request) else {
                    // As a daemon does: nobody gets in any more, and then who is in is cut. A program that another test
                    // starts may have the listener for another moment.
                    fs::remove_file(file).unwrap();
                    drop(listener);
                    return;
                };
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Self { control, _dir: dir }
    }
}

/// A whole request: with its body, if it has one.
fn request(mut stream: &UnixStream) -> String {
    let mut request = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "it is whole");
        request.extend_from_slice(&bytes[..count]);
        let text = String::from_utf8(request.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.map_or(0, |length| length.parse().unwrap()) {
            return text;
        }
    }
}

/// An answer of a [`Fake`].
pub(crate) fn answer(status: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    ))
}
