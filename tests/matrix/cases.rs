//! What is tried with each server and each web server, and when it is right.

use std::fs;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::ask::{Ask, Body, Failure, Reply, SILENCE_MAX};
use crate::common::pattern::usize_of;
use crate::common::wait::{SetOnDrop, pause};
use crate::common::{MB, Pattern, eventually};
use crate::fronts::Front;
use crate::servers::{PROCESSES, Server};
use crate::site::{PATTERN, Side};
use crate::ways::Way;

/// Content of request bodies.
const BODY: Pattern = Pattern::new(41);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Small,
    Large,
    Bodies,
    Chunked,
    Many,
    Stream,
    Head,
    Bare,
    Headers,
    Stderr,
    Early,
    Killed,
    Finish,
    Reload,
    Restart,
}

/// How long it took, or what was wrong.
pub(crate) type Verdict = Result<Duration, Failure>;

impl Case {
    pub(crate) const ALL: [Self; 15] = [
        Self::Small,
        Self::Large,
        Self::Bodies,
        Self::Chunked,
        Self::Many,
        Self::Stream,
        Self::Head,
        Self::Bare,
        Self::Headers,
        Self::Stderr,
        Self::Early,
        Self::Killed,
        Self::Finish,
        Self::Reload,
        Self::Restart,
    ];

    /// The head of its column.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Small => "GET",
            Self::Large => "20 MB",
            Self::Bodies => "POST",
            Self::Chunked => "chunked",
            Self::Many => "200 at 8",
            Self::Stream => "stream",
            Self::Head => "HEAD",
            Self::Bare => "204, 304",
            Self::Headers => "headers",
            Self::Stderr => "stderr",
            Self::Early => "early",
            Self::Killed => "killed",
            Self::Finish => "finish",
            Self::Reload => "reload",
            Self::Restart => "restart",
        }
    }

    /// Whether the pair has what this is about.
    pub(crate) fn applies(self, server: Server, front: Front) -> bool {
        match self {
            Self::Stderr => server.has_stderr(),
            // It has no headers to say so.
            Self::Chunked => front != Front::CgiFcgi,
            Self::Finish | Self::Reload | Self::Restart => server.is_fpm(),
            _ => true,
        }
    }

    /// Whether the time it takes is compared with that of the direct way.
    pub(crate) const fn is_timed(self) -> bool {
        matches!(self, Self::Many | Self::Finish)
    }

    pub(crate) fn run(self, side: &mut Side) -> Verdict {
        let began = Instant::now();
        match self {
            Self::Small => small(side),
            Self::Large => page(side, 0, usize_of(20 * MB)),
            Self::Bodies => bodies(side),
            // Not of the size of PHP's own buffer, or a multiple of it.
            Self::Chunked => echo(side, &Body::Chunked(BODY.bytes(MB + 1))),
            Self::Many => at_once(8, 200, |number| {
                page(side, number * 5003, 2000 + number * 7)
            }),
            Self::Stream => stream(side),
            Self::Head => head(side),
            Self::Bare => bare(side),
            Self::Headers => headers(side),
            Self::Stderr => with_stderr(side),
            Self::Early => early(side),
            Self::Killed => killed(side),
            Self::Finish => finish(side),
            Self::Reload => reload(side),
            Self::Restart => restart(side),
        }?;
        Ok(began.elapsed())
    }
}

/// Runs `act` with each of the numbers below `count`, so many at a time. The first failure counts.
fn at_once(
    threads: usize,
    count: usize,
    act: impl Fn(usize) -> Result<(), Failure> + Sync,
) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            act(number)?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().expect("it does not panic"));
        results.collect::<Result<Vec<()>, Failure>>().map(|_| ())
    })
}

fn wrong(words: impl Into<String>) -> Failure {
    Failure(words.into())
}

fn with_status(reply: &Reply, status: u16) -> Result<(), Failure> {
    if reply.status == status {
        return Ok(());
    }
    Err(wrong(format!("status {}", reply.status)))
}

/// The answer is whole, is no error, and has this body.
fn with_body(reply: &Reply, body: &[u8]) -> Result<(), Failure> {
    with_status(reply, 200)?;
    if reply.body == body {
        return Ok(());
    }
    Err(wrong(if reply.body.is_empty() {
        "an empty body".to_owned()
    } else if body.starts_with(&reply.body) {
        "a part looks whole".to_owned()
    } else {
        "other bytes".to_owned()
    }))
}

impl Side {
    /// A query for the program behind.
    fn query(&self, what: &str) -> String {
        format!("{what}&dir={}", self.dir.display())
    }

    fn get(&self, what: &str) -> Result<Reply, Failure> {
        self.way.ask(&Ask::get(self.query(what)))
    }
}

fn small(side: &Side) -> Result<(), Failure> {
    page(side, 77, 1000)
}

/// A page whose bytes no other page has.
fn page(side: &Side, from: usize, size: usize) -> Result<(), Failure> {
    let reply = side.get(&format!("do=page&from={from}&size={size}"))?;
    let mut expected = vec![0; size];
    PATTERN.fill(from as u64, &mut expected);
    with_body(&reply, &expected)
}

fn echo(side: &Side, body: &Body) -> Result<(), Failure> {
    let ask = Ask {
        method: "POST",
        query: side.query("do=echo"),
        body: body.clone(),
    };
    let reply = side.way.ask(&ask)?;
    let (Body::Announced(bytes) | Body::Chunked(bytes)) = body else {
        unreachable!("there is a body");
    };
    with_body(&reply, bytes)
}

/// Around what a record holds at most, and what nginx puts into one.
fn bodies(side: &Side) -> Result<(), Failure> {
    for size in [0, 1, 65_528, 65_535, 65_536, 5 * MB] {
        let result = echo(side, &Body::Announced(BODY.bytes(size)));
        result.map_err(|failure| wrong(format!("{size} B: {}", failure.0)))?;
    }
    Ok(())
}

/// Each piece is made only when the one before it has arrived.
fn stream(side: &Side) -> Result<(), Failure> {
    const PIECES: usize = 5;
    let mut seen = 0;
    let mut look = |body: &[u8]| {
        let lines = body.iter().filter(|&&byte| byte == b'\n').count();
        while seen < lines.min(PIECES) {
            seen += 1;
            let file = side.dir.join(format!("seen-{seen}"));
            fs::write(file, "").expect("the directory is ours");
        }
    };
    let ask = Ask::get(side.query(&format!("do=slow&pieces={PIECES}")));
    let reply = side.way.ask_watching(&ask, &mut look)?;
    let expected: String = (1..=PIECES)
        .map(|piece| format!("piece {piece}\n"))
        .collect();
    with_status(&reply, 200)?;
    match reply.body == expected.as_bytes() {
        true => Ok(()),
        false => Err(wrong("pieces are held")),
    }
}

fn head(side: &Side) -> Result<(), Failure> {
    for size in [1000, 100_000] {
        let ask = Ask {
            method: "HEAD",
            ..Ask::get(side.query(&format!("do=page&from=0&size={size}")))
        };
        let reply = side.way.ask(&ask)?;
        with_body(&reply, b"")?;
        small(side)?;
    }
    Ok(())
}

fn bare(side: &Side) -> Result<(), Failure> {
    for code in [204, 304] {
        let reply = side.get(&format!("do=status&code={code}"))?;
        with_status(&reply, code)?;
        if !reply.body.is_empty() {
            return Err(wrong(format!("{code} with a body")));
        }
        small(side)?;
    }
    Ok(())
}

fn headers(side: &Side) -> Result<(), Failure> {
    const COUNT: usize = 40;
    let length = side.header_bytes;
    let reply = side.get(&format!("do=headers&count={COUNT}&length={length}"))?;
    with_body(&reply, b"headers\n")?;
    let value = "h".repeat(length);
    let whole = |number: usize| {
        let name = format!("X-Many-{number}");
        let mut fields = reply
            .headers
            .lines()
            .filter_map(|line| line.split_once(':'));
        fields.any(|(key, field)| key.eq_ignore_ascii_case(&name) && field.trim() == value)
    };
    match (0..COUNT).all(whole) {
        true => Ok(()),
        false => Err(wrong("headers are missing")),
    }
}

fn with_stderr(side: &Side) -> Result<(), Failure> {
    let reply = side.get("do=stderr")?;
    with_body(&reply, &PATTERN.bytes(20_000))
}

fn early(side: &Side) -> Result<(), Failure> {
    for size in [200_000, 5 * MB] {
        let ask = Ask::post(side.query("do=early"), BODY.bytes(size));
        let reply = side.way.ask(&ask);
        let judged = reply.and_then(|reply| with_body(&reply, b"early\n"));
        judged.map_err(|failure| wrong(format!("{size} B: {}", failure.0)))?;
        small(side)?;
    }
    Ok(())
}

/// Before the headers, behind them, in the first record, at its end, and further on. What is asked next is
/// served: workers come back.
fn killed(side: &Side) -> Result<(), Failure> {
    for size in [
        None,
        Some(0),
        Some(100),
        Some(8184),
        Some(100_000),
        Some(1_000_000),
    ] {
        let what = size.map_or_else(|| "do=die".to_owned(), |size| format!("do=die&size={size}"));
        if let Ok(reply) = side.get(&what)
            && reply.status < 500
        {
            let after = size.unwrap_or(0);
            return Err(wrong(format!("after {after} B: a part looks whole")));
        }
        let next = small(side);
        next.map_err(|failure| wrong(format!("afterwards: {}", failure.0)))?;
    }
    Ok(())
}

/// One of four workers is busy behind its answer. The others serve what comes meanwhile.
fn finish(side: &Side) -> Result<(), Failure> {
    let (gate, ended) = (side.dir.join("gate"), side.dir.join("ended"));
    let reply = side.get("do=finish")?;
    with_body(&reply, b"finished\n")?;
    let result = at_once(3, 60, |number| page(side, number, 500));
    if ended.exists() {
        return Err(wrong("others waited until it was over"));
    }
    fs::write(&gate, "").expect("the directory is ours");
    eventually("the script ends", || ended.exists());
    result
}

// --- under load ---------------------------------------------------------------------------------

/// Requests at one time while the server is reloaded or restarted.
const LOAD: usize = 4;

/// How many must have been served before, and again afterwards.
const LOAD_SERVED: usize = 100;

/// Requests one after another, GET and POST in turns, while `act` runs. Tells how each that failed did.
fn under_load(
    query: &(dyn Fn(&str) -> String + Sync),
    way: &Way,
    act: impl FnOnce(),
) -> Result<Vec<Failure>, Failure> {
    let (served, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed = Mutex::new(Vec::new());
    let ask = |number: usize| {
        let ask = match number % 2 {
            0 => Ask::get(query("do=page&from=0&size=500")),
            _ => Ask::post(query("do=echo"), BODY.bytes(500)),
        };
        let expected = match number % 2 {
            0 => PATTERN.bytes(500),
            _ => BODY.bytes(500),
        };
        let reply = way.ask(&ask);
        match reply.and_then(|reply| with_body(&reply, &expected)) {
            Ok(()) => {
                served.fetch_add(1, Ordering::AcqRel);
            }
            Err(Failure(words)) => {
                let failure = Failure(format!("{} {words}", ask.method));
                failed.lock().unwrap().push(failure);
            }
        }
    };
    thread::scope(|scope| {
        let _over = SetOnDrop(&over);
        for _ in 0..LOAD {
            scope.spawn(|| {
                let mut number = 0;
                while !over.load(Ordering::Acquire) {
                    ask(number);
                    number += 1;
                }
            });
        }
        let until = |count: usize| {
            let began = Instant::now();
            while served.load(Ordering::Acquire) < count {
                if began.elapsed() > SILENCE_MAX {
                    return Err(wrong("requests are not served"));
                }
                pause(Duration::from_millis(1));
            }
            Ok(())
        };
        until(LOAD_SERVED)?;
        act();
        until(served.load(Ordering::Acquire) + LOAD_SERVED)
    })?;
    Ok(failed.into_inner().unwrap())
}

/// PHP-FPM lets its workers finish what they are at, and keeps its listener. One request may be lost with each
/// of them; see the notes.
fn reload(side: &Side) -> Result<(), Failure> {
    let process = side.process.as_ref().expect("it runs");
    let ready = || process.log().count("ready to handle connections");
    let failed = under_load(&|what| side.query(what), &side.way, || {
        let before = ready();
        process.signal(libc::SIGUSR2);
        eventually("it has started anew", || ready() > before);
    })?;
    match &failed[..] {
        [] => Ok(()),
        [Failure(words), ..] if failed.len() <= PROCESSES => {
            Err(wrong(format!("a worker takes a request with it: {words}")))
        }
        [Failure(words), ..] => Err(wrong(format!("{} requests fail: {words}", failed.len()))),
    }
}

/// It is killed with all its workers. What was running fails, and what connects before the last of them is
/// gone; what comes while nobody listens waits.
fn restart(side: &mut Side) -> Result<(), Failure> {
    let dir = side.dir.display().to_string();
    let query = |what: &str| format!("{what}&dir={dir}");
    let Side {
        way,
        server,
        endpoint,
        dir,
        process,
        ..
    } = side;
    let failed = under_load(&query, way, || {
        drop(process.take());
        // Its workers die one by one, and the last one takes the socket with it.
        eventually("nobody listens", || {
            TcpStream::connect((&*endpoint.0, endpoint.1)).is_err()
        });
        *process = Some(server.start(dir, endpoint));
    })?;
    match &failed[..] {
        [first, ..] if failed.len() > 2 * LOAD => Err(wrong(format!(
            "{} requests fail: {}",
            failed.len(),
            first.0
        ))),
        _ => Ok(()),
    }
}
