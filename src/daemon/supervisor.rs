//! What the service manager is told (sd_notify(3)): that the daemon is ready, how it is, that its
//! workers turn, and that it ends.
//!
//! Everything is a datagram to the socket that NOTIFY_SOCKET names; without that variable nothing is
//! told. All of it happens on the main thread: a manager that does not read holds up nobody's bytes.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{self, Instant};

use crate::observe::{DaemonState, Observed};
use crate::sys::clock::monotonic;
use crate::sys::handover::take_variable;

use super::helpers::Helpers;

/// How often the status line is looked at: it is for people who type `systemctl status`.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// How long a manager may take to make room for a message: its queue is short (`unix.max_dgram_qlen`),
/// but it reads all the time.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// How much time is asked for at a time during a drain. The manager's own patience
/// (`TimeoutStopSec=`, 90 s unless configured) counts as long as it is longer.
const EXTENSION: Duration = Duration::from_secs(20);

/// How often: so that three lost requests do no harm.
const EXTENSION_INTERVAL: Duration = Duration::from_secs(5);

/// The least patience of a watchdog that can be served: a worker on a busy machine may wait for the
/// processor for some milliseconds.
const WATCHDOG_MIN: Duration = Duration::from_millis(20);

/// The service manager, if there is one.
#[derive(Clone, Debug)]
pub(super) struct Supervisor {
    line: Option<Arc<Line>>,
    /// Where it listens, if nothing can be sent there. There is no log yet when that is found out.
    out_of_reach: Option<String>,
    watchdog: Option<Duration>,
}

/// Where messages go.
#[derive(Debug)]
struct Line {
    socket: UnixDatagram,
    to: SocketAddr,
}

impl Supervisor {
    /// Takes from the environment where the manager listens and how often it wants to hear. To be
    /// called while no other thread runs.
    pub(super) fn take() -> Self {
        let variable = |name| take_variable(name).map(|value| value.to_string_lossy().into_owned());
        let address = take_variable("NOTIFY_SOCKET");
        let (every, pid) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
        let line = address
            .as_deref()
            .map(|address| Line::to(address.as_bytes()));
        let (line, out_of_reach) = match line.transpose() {
            Ok(line) => (line, None),
            Err(_) => (None, address.map(|a| a.to_string_lossy().into_owned())),
        };
        Self {
            watchdog: watchdog(every.as_deref(), pid.as_deref(), process::id()),
            line: line.map(Arc::new),
            out_of_reach,
        }
    }

    /// The workers run. From now on the manager hears how they are.
    /// To be called on the runtime.
    pub(super) fn ready(&self, observed: &Arc<Observed>, helpers: &Helpers) {
        if let Some(address) = &self.out_of_reach {
            tracing::warn!(
                "the service manager is told nothing: NOTIFY_SOCKET is {address:?}, which is neither a \
                 path nor an abstract name (use Type=exec)"
            );
        }
        let Some(line) = &self.line else { return };
        let status = status(observed);
        line.tell(&format!("READY=1\nSTATUS={status}"));
        let status = tell_status(Arc::clone(line), Arc::clone(observed), status);
        helpers.spawn("the task that tells the service manager", status);
        if let Some(patience) = self.watchdog {
            tracing::info!("the service manager's watchdog waits for {patience:?}");
            let beat = beat(Arc::clone(line), Arc::clone(observed), patience);
            helpers.spawn("the task that tells the watchdog", beat);
        }
    }

    /// A reload begins. With `Type=notify-reload`, `systemctl reload` waits for its end, and takes a word about one
    /// that began before it asked for no answer: so it is told when this one did.
    pub(super) fn reloading(&self) {
        let Some(line) = &self.line else { return };
        line.tell(&reloading_since(monotonic()));
    }

    /// The reload is over, however it ended.
    pub(super) fn reloaded(&self, observed: &Observed) {
        let Some(line) = &self.line else { return };
        line.tell(&format!("READY=1\nSTATUS={}", status(observed)));
    }

    /// A drain begins, which takes `at_most` this long. To be called inside the runtime.
    pub(super) fn stopping(&self, observed: &Observed, at_most: Option<Duration>) {
        let Some(line) = &self.line else { return };
        line.tell(&format!("STOPPING=1\nSTATUS={}", status(observed)));
        tokio::spawn(ask_for_time(Arc::clone(line), at_most));
    }
}

/// As sd_notify(3) has it.
fn reloading_since(time: Duration) -> String {
    format!("RELOADING=1\nMONOTONIC_USEC={}", time.as_micros())
}

/// What sd_watchdog_enabled(3) makes of the variables.
fn watchdog(every: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    match every?.parse() {
        Ok(0) | Err(_) => None,
        Ok(micros) => Some(Duration::from_micros(micros).max(WATCHDOG_MIN)),
    }
}

impl Line {
    /// A path, or an abstract name that is written with an `@` in front.
    fn to(address: &[u8]) -> io::Result<Self> {
        let to = match address {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address))?,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self { socket, to })
    }

    fn tell(&self, message: &str) {
        if let Err(error) = self.socket.send_to_addr(message.as_bytes(), &self.to) {
            let what = message.lines().next().unwrap_or_default();
            tracing::warn!("tell the service manager {what}: {error} (see NOTIFY_SOCKET)");
        }
    }
}

/// Tells the status line anew whenever it is another one.
async fn tell_status(line: Arc<Line>, observed: Arc<Observed>, mut told: String) {
    loop {
        time::sleep(STATUS_INTERVAL).await;
        let status = status(&observed);
        if status != told {
            line.tell(&format!("STATUS={status}"));
            told = status;
        }
    }
}

/// The daemon in a line for people.
fn status(observed: &Observed) -> String {
    let summary = observed.summary();
    let state = match summary.state {
        DaemonState::Serving => "Serving",
        DaemonState::Draining => "Draining",
    };
    let of = |count: u64, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let sessions = of(summary.active, "session");
    let endpoints = of(summary.endpoints, "endpoint");
    match summary.endpoints - summary.endpoints_in_use {
        0 => format!("{state}: {sessions}, {endpoints}"),
        left_out => format!("{state}: {sessions}, {endpoints}, {left_out} of them left out"),
    }
}

/// Lets the manager know that all workers turn, each time that they have been seen to. One that is
/// stuck is reported once, and holds the beat up until it turns again.
async fn beat(line: Arc<Line>, observed: Arc<Observed>, patience: Duration) {
    let mut is_stuck = false;
    loop {
        // With a beat after half of the manager's patience, as sd_watchdog_enabled(3) advises, and a
        // quarter for the workers, a quarter is left.
        let stuck = observed.stuck_workers(patience / 4).await;
        if stuck.is_empty() {
            line.tell("WATCHDOG=1");
            is_stuck = false;
            time::sleep(patience / 2).await;
        } else if !is_stuck {
            tracing::error!(
                "workers {stuck:?} do not turn: until they do, the service manager's watchdog gets no sign"
            );
            is_stuck = true;
        }
    }
}

/// Asks the manager for more time, until the drain's own has passed.
async fn ask_for_time(line: Arc<Line>, at_most: Option<Duration>) {
    let began = Instant::now();
    loop {
        let Some(time) = extension(at_most, began.elapsed()) else {
            return;
        };
        line.tell(&format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()));
        time::sleep(EXTENSION_INTERVAL).await;
    }
}

/// How much time to ask for after a part of a drain; `None`: it should be over.
fn extension(at_most: Option<Duration>, elapsed: Duration) -> Option<Duration> {
    let Some(at_most) = at_most else {
        return Some(EXTENSION);
    };
    let left = at_most.saturating_sub(elapsed);
    (!left.is_zero()).then(|| left.min(EXTENSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(Some("1000000"), Some("7"), 7), second);
        assert_eq!(watchdog(Some("1000000"), None, 7), second);
        for (every, pid) in [
            (Some("1000000"), Some("8")),
            (Some("1000000"), Some("")),
            (None, Some("7")),
            (Some("0"), None),
            (Some("-1"), None),
            (Some("often"), None),
        ] {
            assert_eq!(watchdog(every, pid, 7), None, "{every:?} {pid:?}");
        }
    }

    #[test]
    fn a_reload_has_its_time_in_microseconds() {
        let said = reloading_since(Duration::from_nanos(1_234_567_890));
        assert_eq!(said, "RELOADING=1\nMONOTONIC_USEC=1234567");
    }

    #[test]
    fn a_manager_hears_of_a_reload() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor {
            line: Some(Arc::new(Line::to(path.as_os_str().as_bytes()).unwrap())),
            out_of_reach: None,
            watchdog: None,
        };
        let before = monotonic().as_micros();
        supervisor.reloading();
        let mut message = [0; 256];
        let length = manager.recv(&mut message).unwrap();
        let message = std::str::from_utf8(&message[..length]).unwrap();
        let since = message
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        let since: u128 = since.parse().unwrap();
        assert!((before..=monotonic().as_micros()).contains(&since));
    }

    #[test]
    fn more_time_is_asked_for_up_to_the_end_of_the_drain() {
        let seconds = Duration::from_secs;
        assert_eq!(extension(None, seconds(100_000)), Some(EXTENSION));
        assert_eq!(extension(Some(seconds(30)), seconds(0)), Some(EXTENSION));
        assert_eq!(extension(Some(seconds(30)), seconds(25)), Some(seconds(5)));
        assert_eq!(extension(Some(seconds(30)), seconds(30)), None);
        assert_eq!(extension(Some(seconds(0)), seconds(0)), None);
    }

    #[test]
    fn addresses_of_other_kinds_are_not_for_us() {
        for address in [&b""[..], b"relative", b"vsock:2:1", b"unix:/a"] {
            assert!(Line::to(address).is_err());
        }
    }
}
