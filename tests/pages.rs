//! Pages of every size from a real PHP-FPM, printed in every way that changes the writes it makes: each
//! arrives byte for byte, and none takes longer than directly. PHP-FPM leaves Nagle's algorithm on, so an
//! answer of more than one write waits for an acknowledgement that nobody may hold back.

// The behaviours are not `#[test]` functions themselves: the macro makes those of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt;
use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use common::fastcgi::{Request, read_record};
use common::http::Response;
use common::process::Process;
use common::programs::{WEB_USER, fresh_endpoint, start_fpm_pool, start_nginx};
use common::proxy::fresh_dir;
use common::sys::{in_own_network, is_root, set_loopback_mtu};
use common::{Engine, GUARD, KB, MB, Pattern, Proxy, for_each_engine};
use spliceway::fastcgi::Kind;
use tempfile::TempDir;

for_each_engine!(
    pages_of_every_size_arrive_byte_for_byte,
    large_pages_arrive_byte_for_byte_at_several_clients,
    no_page_takes_longer_than_direct_on_loopback,
    no_page_takes_longer_than_direct_at_an_mtu_of_9000,
    no_page_takes_longer_than_direct_at_an_mtu_of_1500,
    large_pages_take_about_as_long_as_direct,
    pages_in_raw_mode_take_no_longer_than_direct,
);

/// PHP-FPM writes once it has 8 KB, and a record has at most 64 KB: sizes around both, and around what sockets,
/// pipes and buffers hold.
const SIZES: [u64; 14] = [
    0,
    1,
    2 * KB,
    8 * KB,
    8 * KB + KB / 5,
    10 * KB,
    16 * KB,
    32 * KB,
    33 * KB,
    64 * KB,
    65 * KB,
    66 * KB,
    100 * KB,
    200 * KB,
];

/// The sizes of which one write is not enough, and one that is.
const SOME_SIZES: [u64; 6] = [2 * KB, 8 * KB + KB / 5, 16 * KB, 33 * KB, 65 * KB, 200 * KB];

/// Debian's php.ini for production, and what PHP does without any.
const OUTPUT_BUFFERING: [u32; 2] = [4096, 0];

const PAGE_PHP: &str = r#"<?php
const FLUSHES = 8;
$page = file_get_contents(__DIR__ . '/pages.bin', false, null, (int) $_GET['from'], (int) $_GET['size']);
header('Content-Type: application/octet-stream');

function send() {
    if (ob_get_level() > 0) {
        ob_flush();
    }
    flush();
}

function parts(string $page): array {
    return str_split($page, max(1, intdiv(strlen($page) + FLUSHES - 1, FLUSHES)));
}

switch ($_GET['how']) {
case 'whole':
    echo $page;
    break;
case 'pieces':
    foreach (str_split($page, 700) as $piece) {
        echo $piece;
    }
    break;
case 'flushed':
    foreach (parts($page) as $part) {
        echo $part;
        send();
    }
    break;
case 'headers_first':
    // Without any content, PHP-FPM sends no headers.
    echo substr($page, 0, 1);
    send();
    echo substr($page, 1);
    break;
case 'stderr_between':
    foreach (parts($page) as $part) {
        echo $part;
        error_log('a note');
    }
    error_log('a note');
    break;
}
"#;

/// What pages are pieces of. Each client has its own beginning, so that a page of another one shows.
const CONTENT: Pattern = Pattern::new(8);
const CONTENT_BYTES: u64 = 21 * MB;
static PAGES: LazyLock<Vec<u8>> = LazyLock::new(|| CONTENT.bytes(CONTENT_BYTES));

/// More than one client and fewer than workers want to serve at once.
const WORKERS: usize = 8;

/// How a script prints its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Whole,
    /// 700 bytes at a time.
    Pieces,
    /// Eight parts, each flushed.
    Flushed,
    /// The headers with one byte, flushed, and then the rest.
    HeadersFirst,
    /// Eight parts, with records of STDERR behind each.
    StderrBetween,
}

impl How {
    const ALL: [Self; 5] = [
        Self::Whole,
        Self::Pieces,
        Self::Flushed,
        Self::HeadersFirst,
        Self::StderrBetween,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Pieces => "pieces",
            Self::Flushed => "flushed",
            Self::HeadersFirst => "headers_first",
            Self::StderrBetween => "stderr_between",
        }
    }
}

/// A page that is asked for.
#[derive(Clone, Copy)]
struct Page {
    size: u64,
    how: How,
    from: u64,
}

impl Page {
    fn query(self) -> String {
        let Self { size, how, from } = self;
        format!("size={size}&how={}&from={from}", how.name())
    }

    #[track_caller]
    fn check(self, body: &[u8]) {
        let (size, from) = (self.size.try_into().unwrap(), self.from.try_into().unwrap());
        let expected = &PAGES[from..][..size];
        assert_eq!(body.len(), size, "bytes of {self}");
        // No comparison that would print both.
        let at_fault = (body != expected).then(|| CONTENT.mismatch(self.from, body));
        assert_eq!(at_fault, None, "a wrong byte in {self}");
    }
}

impl fmt::Display for Page {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes, {}", self.size, self.how.name())
    }
}

/// Over what a page comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Over one connection to the proxy that stays.
    Kept,
    /// Over a connection to the proxy for each request.
    Closing,
    /// Over a TCP connection to PHP-FPM for each request.
    Direct,
    /// Over one TCP connection to PHP-FPM that stays.
    DirectKept,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    /// A FastCGI client of ours.
    Raw,
    Nginx,
}

/// nginx → spliceway → PHP-FPM, and ways around each.
struct Site {
    dir: TempDir,
    front: PathBuf,
    endpoint: (String, u16),
    proxy: Proxy,
    _nginx: Process,
    _fpm: Process,
}

impl Site {
    fn start(engine: Engine, output_buffering: u32) -> Self {
        Self::with(engine, output_buffering, &["--protocol", "fastcgi"])
    }

    fn with(engine: Engine, output_buffering: u32, args: &[&str]) -> Self {
        let dir = fresh_dir();
        let www = dir.path().join("www");
        fs::create_dir(&www).unwrap();
        fs::write(www.join("page.php"), PAGE_PHP).unwrap();
        fs::write(www.join("pages.bin"), &*PAGES).unwrap();
        let endpoint = fresh_endpoint();
        let settings = [
            format!("output_buffering={output_buffering}"),
            "memory_limit=256M".to_owned(),
        ];
        let fpm = start_fpm_pool(dir.path(), &endpoint, WORKERS, "", &settings);
        let backend = format!("{}:{}", endpoint.0, endpoint.1);
        let group: &[&str] = match is_root() {
            true => &["--group", WEB_USER],
            false => &[],
        };
        let proxy = Proxy::builder()
            .engine(engine)
            .args(group.iter().copied())
            .args(args.iter().copied())
            .backend(&backend)
            .start();
        let front = dir.path().join("http.sock");
        let config = nginx_config(dir.path(), &front, proxy.socket(), &backend);
        let nginx = start_nginx(dir.path(), &config, &front);
        Self {
            dir,
            front,
            endpoint,
            proxy,
            _nginx: nginx,
            _fpm: fpm,
        }
    }

    fn client(&self, front: Front, way: Way) -> Client<'_> {
        let kept = match (front, way) {
            (Front::Raw, Way::Kept | Way::DirectKept) => Some(self.open(way)),
            (Front::Raw, Way::Closing | Way::Direct) | (Front::Nginx, _) => None,
        };
        Client {
            site: self,
            front,
            way,
            kept,
        }
    }

    fn open(&self, way: Way) -> BufReader<Stream> {
        let stream = match way {
            Way::Kept | Way::Closing => Stream::Unix(self.proxy.connect()),
            Way::Direct | Way::DirectKept => {
                let stream = TcpStream::connect((&*self.endpoint.0, self.endpoint.1)).unwrap();
                stream.set_read_timeout(Some(GUARD)).unwrap();
                Stream::Tcp(stream)
            }
        };
        BufReader::with_capacity(64 << 10, stream)
    }
}

/// The first part of a path says over what nginx is to ask.
fn nginx_config(dir: &Path, front: &Path, proxy: &Path, backend: &str) -> String {
    let ways = [
        ("kept", "fastcgi_pass kept; fastcgi_keep_conn on;"),
        ("closing", "fastcgi_pass closing;"),
        ("direct", "fastcgi_pass direct;"),
    ];
    let location = |(name, how): (&str, &str)| {
        format!(
            "location /{name} {{
                {how}
                fastcgi_param SCRIPT_FILENAME {dir}/www/page.php;
                fastcgi_param REQUEST_METHOD $request_method;
                fastcgi_param REQUEST_URI $request_uri;
                fastcgi_param QUERY_STRING $query_string;
            }}\n",
            dir = dir.display(),
        )
    };
    format!(
        "http {{
            access_log off;
            client_body_temp_path {dir}/body;
            fastcgi_temp_path {dir}/fastcgi;
            proxy_temp_path {dir}/proxy;
            uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            upstream kept {{ server unix:{proxy} max_fails=0; keepalive 64; }}
            upstream closing {{ server unix:{proxy} max_fails=0; }}
            upstream direct {{ server {backend} max_fails=0; }}
            server {{
                listen unix:{front};
                error_log /dev/null;
                {locations}
            }}
        }}",
        dir = dir.display(),
        front = front.display(),
        proxy = proxy.display(),
        locations = ways.map(location).concat(),
    )
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(into),
            Self::Tcp(stream) => stream.read(into),
        }
    }
}

impl Stream {
    #[track_caller]
    fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Tcp(stream) => stream.write_all(bytes),
        }
        .expect("a request is taken");
    }
}

/// Asks one question after another.
struct Client<'a> {
    site: &'a Site,
    front: Front,
    way: Way,
    /// The connection that stays, of a client of ours.
    kept: Option<BufReader<Stream>>,
}

impl Client<'_> {
    /// Gets a page, looks at each byte of it, and says how long it took to come.
    #[track_caller]
    fn get(&mut self, page: Page) -> Duration {
        match self.front {
            Front::Nginx => self.get_by_nginx(page),
            Front::Raw => self.get_by_records(page),
        }
    }

    #[track_caller]
    fn get_by_nginx(&self, page: Page) -> Duration {
        let way = match self.way {
            Way::Kept => "kept",
            Way::Closing => "closing",
            Way::Direct => "direct",
            Way::DirectKept => unreachable!("nginx has no such location"),
        };
        let target = format!("/{way}?{}", page.query());
        let began = Instant::now();
        let response = Response::to(&self.site.front, "GET", &target, b"");
        let took = began.elapsed();
        assert_eq!(response.status, 200, "{page}");
        page.check(&response.body);
        took
    }

    #[track_caller]
    fn get_by_records(&mut self, page: Page) -> Duration {
        let script = self.site.dir.path().join("www/page.php");
        let mut request = Request::get("/page")
            .param("SCRIPT_FILENAME", script.to_str().unwrap())
            .param("QUERY_STRING", &page.query());
        if self.kept.is_none() {
            request = request.closing();
        }
        let bytes = request.bytes();
        let began = Instant::now();
        let mut fresh = None;
        let stream = match &mut self.kept {
            Some(stream) => stream,
            None => fresh.insert(self.site.open(self.way)),
        };
        stream.get_mut().send(&bytes);
        let mut answer = RawAnswer::default();
        answer.receive(stream).expect("an answer comes whole");
        let took = began.elapsed();
        answer.check(page);
        took
    }
}

/// What came in records.
#[derive(Default)]
struct RawAnswer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl RawAnswer {
    fn receive(&mut self, from: &mut impl Read) -> io::Result<()> {
        loop {
            let record = read_record(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            match record.kind {
                Kind::Stdout => self.stdout.extend(record.content),
                Kind::Stderr => self.stderr.extend(record.content),
                Kind::EndRequest => return Ok(()),
                kind => return Err(io::Error::other(format!("{kind:?} in an answer"))),
            }
        }
    }

    #[track_caller]
    fn check(&self, page: Page) {
        let end = self.stdout.windows(4).position(|four| four == b"\r\n\r\n");
        page.check(&self.stdout[end.expect("a page has headers") + 4..]);
        let notes = String::from_utf8_lossy(&self.stderr)
            .matches("a note")
            .count();
        assert_eq!(notes > 0, page.how == How::StderrBetween, "{page}");
    }
}

// --- bytes --------------------------------------------------------------------------------------

/// Tests that measure have the machine for themselves, as far as this binary goes.
static QUIET: RwLock<()> = RwLock::new(());

const FRONTS_AND_WAYS: [(Front, Way); 4] = [
    (Front::Raw, Way::Kept),
    (Front::Raw, Way::Closing),
    (Front::Nginx, Way::Kept),
    (Front::Nginx, Way::Closing),
];

fn pages_of_every_size_arrive_byte_for_byte(engine: Engine) {
    let _others = QUIET.read().unwrap_or_else(PoisonError::into_inner);
    for output_buffering in OUTPUT_BUFFERING {
        let site = Site::start(engine, output_buffering);
        for clients in [1, 4, 16] {
            get_all(&site, clients, &FRONTS_AND_WAYS, &SIZES, &How::ALL);
        }
    }
}

fn large_pages_arrive_byte_for_byte_at_several_clients(engine: Engine) {
    let _others = QUIET.read().unwrap_or_else(PoisonError::into_inner);
    for output_buffering in OUTPUT_BUFFERING {
        let site = Site::start(engine, output_buffering);
        for clients in [1, 4, 16] {
            get_all(&site, clients, &FRONTS_AND_WAYS, &[MB], &How::ALL);
        }
        for clients in [1, 4] {
            let ways = &FRONTS_AND_WAYS;
            get_all(&site, clients, ways, &[20 * MB], &[How::Whole, How::Pieces]);
        }
        let ways = &FRONTS_AND_WAYS[..1];
        get_all(&site, 1, ways, &[20 * MB], &How::ALL);
        get_all(&site, 16, ways, &[20 * MB], &[How::Flushed]);
    }
}

/// Each of `clients` gets each of the pages in each of the ways.
fn get_all(site: &Site, clients: u64, ways: &[(Front, Way)], sizes: &[u64], hows: &[How]) {
    thread::scope(|scope| {
        for number in 0..clients {
            scope.spawn(move || {
                // No multiple of eight: a page of another client is wrong in each byte.
                let from = number * 4099;
                for &(front, way) in ways {
                    let mut client = site.client(front, way);
                    for (&size, &how) in pairs(sizes, hows) {
                        client.get(Page { size, how, from });
                    }
                }
            });
        }
    });
}

fn pairs<'a, A, B>(first: &'a [A], second: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    first
        .iter()
        .flat_map(move |one| second.iter().map(move |other| (one, other)))
}

// --- times --------------------------------------------------------------------------------------

/// A delayed acknowledgement takes 40 ms, and a page of these sizes a few.
const LATER_THAN_DIRECT_MAX: Duration = Duration::from_millis(20);

/// Of each page.
const ROUNDS: usize = 30;

/// A large page passes through two sockets instead of one, and through a debug build.
const LARGE_RATIO_MAX: f64 = 3.0;

fn no_page_takes_longer_than_direct_on_loopback(engine: Engine) {
    let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
    let mut late = Vec::new();
    for output_buffering in OUTPUT_BUFFERING {
        let site = Site::start(engine, output_buffering);
        late.extend(compare(&site, Front::Raw, &SIZES, &How::ALL));
        late.extend(compare(&site, Front::Nginx, &SOME_SIZES, &How::ALL));
    }
    assert_none_is_late(&late);
}

fn no_page_takes_longer_than_direct_at_an_mtu_of_9000(engine: Engine) {
    at_an_mtu_of(9000, engine);
}

fn no_page_takes_longer_than_direct_at_an_mtu_of_1500(engine: Engine) {
    at_an_mtu_of(1500, engine);
}

fn at_an_mtu_of(bytes: i32, engine: Engine) {
    let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
    let late = in_own_network(|| {
        set_loopback_mtu(bytes).unwrap();
        let site = Site::start(engine, OUTPUT_BUFFERING[0]);
        let hows = [How::Whole, How::Flushed, How::StderrBetween];
        let mut late = compare(&site, Front::Raw, &SIZES, &hows);
        late.extend(compare(&site, Front::Nginx, &SOME_SIZES, &hows));
        late
    });
    assert_none_is_late(&late);
}

#[track_caller]
fn assert_none_is_late(late: &[String]) {
    assert!(
        late.is_empty(),
        "{} are late:\n{}",
        late.len(),
        late.join("\n")
    );
}

/// When each page is late, a few are enough to know, and each takes seconds.
const LATE_MAX: usize = 8;

/// Names the pages of which the median takes too much longer through the proxy, which is asked in turns
/// with PHP-FPM itself.
fn compare(site: &Site, front: Front, sizes: &[u64], hows: &[How]) -> Vec<String> {
    let mut late = Vec::new();
    let ways = [Way::Direct, Way::Kept, Way::Closing];
    for (&size, &how) in pairs(sizes, hows) {
        if late.len() >= LATE_MAX {
            break;
        }
        let page = Page { size, how, from: 0 };
        let [direct, kept, closing] = medians(site, front, ways, page);
        for (way, ours) in [("kept", kept), ("closing", closing)] {
            if ours > direct + LATER_THAN_DIRECT_MAX {
                late.push(format!(
                    "{front:?}, {way}: {page}: {ours:?}, direct {direct:?}"
                ));
            }
        }
    }
    late
}

/// The median of how long one page takes in each of these ways.
fn medians<const WAYS: usize>(
    site: &Site,
    front: Front,
    ways: [Way; WAYS],
    page: Page,
) -> [Duration; WAYS] {
    sorted_times(site, front, ways, page, ROUNDS).map(|times| times[times.len() / 2])
}

/// How long one page takes in each of these ways, asked for in turns by one client.
fn sorted_times<const WAYS: usize>(
    site: &Site,
    front: Front,
    ways: [Way; WAYS],
    page: Page,
    rounds: usize,
) -> [Vec<Duration>; WAYS] {
    let mut clients = ways.map(|way| (site.client(front, way), Vec::with_capacity(rounds)));
    for (client, _) in &mut clients {
        // Whatever happens only once has happened: connections, PHP's cache of scripts.
        client.get(page);
    }
    for _ in 0..rounds {
        for (client, times) in &mut clients {
            times.push(client.get(page));
        }
    }
    clients.map(|(_, mut times)| {
        times.sort_unstable();
        times
    })
}

/// The fastest of each counts: others are what the machine does beside, which is much where pages take long.
fn large_pages_take_about_as_long_as_direct(engine: Engine) {
    let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
    let site = Site::start(engine, OUTPUT_BUFFERING[0]);
    let mut late = Vec::new();
    let ways = [Way::Direct, Way::Kept, Way::Closing];
    for (size, rounds) in [(MB, 15), (20 * MB, 7)] {
        for (&front, &how) in pairs(&[Front::Raw, Front::Nginx], &[How::Whole, How::Flushed]) {
            let page = Page { size, how, from: 0 };
            let times = sorted_times(&site, front, ways, page, rounds);
            let [direct, kept, closing] = times.map(|times| times[0]);
            for (way, ours) in [("kept", kept), ("closing", closing)] {
                if ours.as_secs_f64() > direct.as_secs_f64() * LARGE_RATIO_MAX {
                    late.push(format!(
                        "{front:?}, {way}: {page}: {ours:?}, direct {direct:?}"
                    ));
                }
            }
        }
    }
    assert_none_is_late(&late);
}

/// There, connections are the client's own: one that stays is compared with one that stays.
fn pages_in_raw_mode_take_no_longer_than_direct(engine: Engine) {
    let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
    let site = Site::with(engine, OUTPUT_BUFFERING[0], &[]);
    let mut late = Vec::new();
    let hows = [How::Whole, How::Flushed, How::HeadersFirst];
    for (&size, &how) in pairs(&SOME_SIZES, &hows) {
        let page = Page { size, how, from: 0 };
        for ways in [[Way::Direct, Way::Closing], [Way::DirectKept, Way::Kept]] {
            let [direct, ours] = medians(&site, Front::Raw, ways, page);
            if ours > direct + LATER_THAN_DIRECT_MAX {
                late.push(format!("{ways:?}: {page}: {ours:?}, direct {direct:?}"));
            }
        }
    }
    let ways = [(Front::Raw, Way::Closing), (Front::Nginx, Way::Closing)];
    get_all(&site, 4, &ways, &SIZES, &How::ALL);
    get_all(&site, 4, &ways, &[MB, 20 * MB], &[How::Whole]);
    assert_none_is_late(&late);
}
