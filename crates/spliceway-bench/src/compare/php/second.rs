//! Somebody else who asks the same PHP-FPM during the load.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use spliceway_load::load::Target;

use super::servers::{query, script};
use crate::compare::client;
use crate::compare::results::SecondClient;

/// How long an answer is waited for, and between two requests.
const WAIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// During `work`, asks each of `asked` for a page of so many KB now and then.
pub(super) fn beside<T>(
    asked: &[Target],
    dir: &Path,
    kb: u32,
    work: impl FnOnce() -> T,
) -> (T, Vec<SecondClient>) {
    let over = AtomicBool::new(false);
    let script = script(dir).display().to_string();
    let query = query(kb);
    let params = [
        ("SCRIPT_FILENAME", script.as_str()),
        ("REQUEST_METHOD", "GET"),
        ("QUERY_STRING", &query),
    ];
    let request = client::request(false, &params);
    thread::scope(|scope| {
        let (over, request) = (&over, &request);
        let ask = |target| scope.spawn(move || ask_until(over, target, request));
        let clients: Vec<_> = asked.iter().map(ask).collect();
        let result = work();
        over.store(true, Ordering::Relaxed);
        let counts = clients.into_iter().map(|client| client.join());
        let counts = counts.map(|counts| counts.expect("it does not panic"));
        (result, counts.collect())
    })
}

fn ask_until(over: &AtomicBool, target: &Target, request: &[u8]) -> SecondClient {
    let started = Instant::now();
    let mut counts = SecondClient::default();
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        if is_answered(target, request) {
            let ms = asked.elapsed().as_secs_f64() * 1e3;
            counts.answered += 1;
            counts.longest_ms = counts.longest_ms.max(ms);
        } else {
            counts.lost += 1;
        }
        thread::sleep(PAUSE);
    }
    counts.seconds = started.elapsed().as_secs_f64();
    counts
}

fn is_answered(target: &Target, request: &[u8]) -> bool {
    let ask = || match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, WAIT)?;
            stream.set_read_timeout(Some(WAIT))?;
            client::exchange(&stream, request)
        }
        Target::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(WAIT))?;
            client::exchange(&stream, request)
        }
        Target::Abstract(_) => Err(io::ErrorKind::Unsupported.into()),
    };
    ask().is_ok_and(|length| length > 0)
}
