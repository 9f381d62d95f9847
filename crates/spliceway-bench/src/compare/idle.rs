//! Thousands of idle connections: how many a program holds, in how much memory, and whether it
//! sleeps meanwhile.

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use spliceway_load::load::Target;

use super::client;
use super::fleet::Fleet;
use super::results::Idle;

/// As many as are asked of each program.
pub(super) const SESSIONS: usize = 4_000;

/// A request that is not answered within this time was not taken.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// After the last request, before the time that counts: what a program does late, it has done.
const SETTLE: Duration = Duration::from_millis(300);

/// The same for timers: a connect timeout of 5 s that was put off is looked at once when it is over.
const SETTLE_TIMERS: Duration = Duration::from_millis(5_500);

/// Opens connections one after the other, sends one request over each, and keeps them.
pub(super) fn measure(fleet: &mut Fleet, path: &str, rest: Duration) -> anyhow::Result<Idle> {
    // A fresh program: what earlier loads left behind in its pools would hide what it needs.
    fleet.stop(path);
    let Target::Unix(socket) = fleet.target(path)? else {
        anyhow::bail!("it does not listen on a Unix socket");
    };
    let asked = SESSIONS.min(fleet.idle_max(path));
    let request = client::request(true, &[]);
    // One session warms what every program needs only once.
    drop(open(&socket, &request)?);
    thread::sleep(SETTLE);
    let memory_before_kb = fleet.memory_kb(path).context("read its memory")?;

    let mut sessions = Vec::with_capacity(asked);
    let mut refusal = None;
    while sessions.len() < asked && refusal.is_none() {
        match open(&socket, &request) {
            Ok(session) => sessions.push(session),
            Err(error) => refusal = Some(error.to_string()),
        }
    }
    thread::sleep(SETTLE);
    let memory_kb = fleet.memory_kb(path).context("read its memory")?;
    thread::sleep(SETTLE_TIMERS);
    let (started, cpu) = (Instant::now(), fleet.cpu(path)?.unwrap_or_default());
    thread::sleep(rest);
    let cpu = fleet.cpu(path)?.unwrap_or_default().saturating_sub(cpu);
    Ok(Idle {
        path: path.to_owned(),
        asked,
        held: sessions.len(),
        refusal,
        memory_before_kb,
        memory_kb,
        cpu_us: cpu.as_secs_f64() * 1e6,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A connection that has had an answer.
fn open(socket: &std::path::Path, request: &[u8]) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    client::exchange(&stream, request)?;
    Ok(stream)
}
