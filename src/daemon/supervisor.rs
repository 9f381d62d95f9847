//! What the service manager is told (sd_notify(3)): that the daemon is ready, how it is, that its
//! workers turn, that it ends, and which process goes on in its place.
//!
//! Everything is a datagram to the socket that NOTIFY_SOCKET names; without that variable nothing is
//! told. All of it happens on the main thread: a manager that does not read holds up nobody's bytes.
//!
//! With `NotifyAccess=main`, which is the default, the manager listens to the main process only. So it is the
//! predecessor that says which process the main one is now, and nothing after that: the rest is for its successor to
//! say.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{self, Instant};

use crate::observe::{DaemonState, Observed};
use crate::sys::clock::monotonic;
use crate::sys::handover::take_variable;

use super::helpers::Helpers;

/// The variable that says where the manager listens.
const ADDRESS: &str = "NOTIFY_SOCKET";

/// The one that says how often it wants to hear that all is well.
const EVERY: &str = "WATCHDOG_USEC";

/// And of which process.
const WATCHED: &str = "WATCHDOG_PID";

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
    /// The variables that told us, for a successor.
    variables: Vec<(&'static str, OsString)>,
}

/// How the daemon has come to serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Beginning {
    /// It was started.
    Start,
    /// It has taken over from another process.
    TakeOver,
}

/// Where messages go.
#[derive(Debug)]
struct Line {
    socket: UnixDatagram,
    to: SocketAddr,
    /// Another process is the main one: nothing more is said. The main thread alone reads and writes it.
    is_over: AtomicBool,
}

impl Supervisor {
    /// Takes from the environment where the manager listens and how often it wants to hear. To be
    /// called while no other thread runs.
    pub(super) fn take() -> Self {
        Self::of(Said {
            address: take_variable(ADDRESS),
            every: take_variable(EVERY),
            pid: take_variable(WATCHED),
        })
    }

    fn of(said: Said) -> Self {
        let text = |value: &OsString| value.to_string_lossy().into_owned();
        let (every, pid) = (said.every.as_ref().map(text), said.pid.as_ref().map(text));
        let line = said.address.as_ref().map(|to| Line::to(to.as_bytes()));
        let (line, out_of_reach) = match line.transpose() {
            Ok(line) => (line, None),
            Err(_) => (None, said.address.as_ref().map(text)),
        };
        let watchdog = watchdog(every.as_deref(), pid.as_deref(), process::id());
        // A watchdog that waits for another process does not wait for a successor of this one.
        let every = said.every.filter(|_| watchdog.is_some());
        let variables = [(ADDRESS, said.address), (EVERY, every)];
        let set = |(name, value): (&'static str, Option<OsString>)| Some((name, value?));
        Self {
            watchdog,
            line: line.map(Arc::new),
            out_of_reach,
            variables: variables.into_iter().filter_map(set).collect(),
        }
    }

    /// What a successor finds in its environment, so that it tells the same manager. WATCHDOG_PID is not part of it:
    /// without that, the watchdog is for whoever finds the other variable (sd_watchdog_enabled(3)).
    pub(super) fn variables(&self) -> Vec<(&'static str, OsString)> {
        self.variables.clone()
    }

    /// The workers run. From now on the manager hears how they are.
    /// To be called on the runtime.
    pub(super) fn ready(&self, observed: &Arc<Observed>, helpers: &Helpers, beginning: Beginning) {
        if let Some(address) = &self.out_of_reach {
            tracing::warn!(
                "the service manager is told nothing: NOTIFY_SOCKET is {address:?}, which is neither a \
                 path nor an abstract name (use Type=exec)"
            );
        }
        let Some(line) = &self.line else { return };
        let status = status(observed);
        line.tell(&ready(beginning, process::id(), &status));
        let status = tell_status(Arc::clone(line), Arc::clone(observed), status);
        helpers.spawn("the task that tells the service manager", status);
        if let Some(patience) = self.watchdog {
            tracing::info!("the service manager's watchdog waits for {patience:?}");
            let beat = beat(Arc::clone(line), Arc::clone(observed), patience);
            helpers.spawn("the task that tells the watchdog", beat);
        }
    }

    /// A reload begins. With `Type=notify-reload` the manager waits for it, and compares this time with that of its
    /// signal, so that it does not take the word about an earlier reload for the answer (sd_notify(3)).
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

    /// Another process serves in this one's place. That is the last that the manager hears of this one: from now on it
    /// listens to the other one, and would log whatever came from here.
    pub(super) fn succeeded_by(&self, pid: u32) {
        let Some(line) = &self.line else { return };
        if line.is_over() {
            return;
        }
        let told = line.send(&format!("MAINPID={pid}"));
        line.is_over.store(true, Ordering::Relaxed);
        if let Err(error) = told {
            tracing::error!(
                "tell the service manager that process {pid} is the main one: {error} (it will take the end of this \
                 process for the service's: restart the service)"
            );
        }
    }
}

/// What the manager has said, as the environment has it.
struct Said {
    address: Option<OsString>,
    every: Option<OsString>,
    pid: Option<OsString>,
}

/// Whoever has taken over says itself which process it is: a predecessor that the manager does not listen to (one that
/// was started by hand) could not have told it.
fn ready(beginning: Beginning, own: u32, status: &str) -> String {
    match beginning {
        Beginning::Start => format!("READY=1\nSTATUS={status}"),
        Beginning::TakeOver => format!("MAINPID={own}\nREADY=1\nSTATUS={status}"),
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
        Ok(Self {
            socket,
            to,
            is_over: AtomicBool::new(false),
        })
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn send(&self, message: &str) -> io::Result<()> {
        self.socket
            .send_to_addr(message.as_bytes(), &self.to)
            .map(drop)
    }

    /// Says it, unless another process is the main one.
    fn tell(&self, message: &str) {
        if self.is_over() {
            return;
        }
        if let Err(error) = self.send(message) {
            let what = message.lines().next().unwrap_or_default();
            tracing::warn!("tell the service manager {what}: {error} (see NOTIFY_SOCKET)");
        }
    }
}

/// Tells the status line anew whenever it is another one.
async fn tell_status(line: Arc<Line>, observed: Arc<Observed>, mut told: String) {
    while !line.is_over() {
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
    while !line.is_over() {
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
        let time = extension(at_most, began.elapsed());
        let Some(time) = time.filter(|_| !line.is_over()) else {
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
    use crate::daemon::helpers::helpers;
    use crate::observe::ConfigFigures;

    /// One that listens.
    struct Manager {
        socket: UnixDatagram,
        dir: tempfile::TempDir,
    }

    impl Manager {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self { socket, dir }
        }

        fn address(&self) -> OsString {
            self.dir.path().join("notify").into()
        }

        fn supervisor(&self) -> Supervisor {
            Supervisor::of(Said {
                address: Some(self.address()),
                every: None,
                pid: None,
            })
        }

        /// The next message, if one has come.
        fn hear(&self) -> Option<String> {
            let mut message = [0; 256];
            let length = self.socket.recv(&mut message).ok()?;
            Some(String::from_utf8(message[..length].to_vec()).unwrap())
        }
    }

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
        let manager = Manager::new();
        let supervisor = manager.supervisor();
        let before = monotonic().as_micros();
        supervisor.reloading();
        let message = manager.hear().unwrap();
        let since = message
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        let since: u128 = since.parse().unwrap();
        assert!((before..=monotonic().as_micros()).contains(&since));
    }

    /// A daemon without workers, which turn.
    fn observed() -> Arc<Observed> {
        Arc::new(Observed {
            engine: "epoll".to_owned(),
            sessions_max: 1,
            workers: Vec::new(),
            routes: Default::default(),
            access_log_write_errors: Box::new(|| 0),
            log_lines_dropped: Box::new(|| 0),
            events: Box::new(Vec::new),
            phase: Default::default(),
            config: ConfigFigures::new(String::new()),
            socket_files_missing: Default::default(),
            look_turn: Default::default(),
            page: Default::default(),
        })
    }

    /// Whatever else the daemon has to say then: it drains, and its workers turn.
    #[tokio::test]
    async fn the_last_that_a_manager_hears_is_who_the_main_process_is_now() {
        let manager = Manager::new();
        let supervisor = Supervisor::of(Said {
            address: Some(manager.address()),
            every: Some("20000".into()),
            pid: None,
        });
        let (helpers, _ended) = helpers();
        let observed = observed();
        supervisor.ready(&observed, &helpers, Beginning::Start);
        assert!(manager.hear().unwrap().starts_with("READY=1\nSTATUS="));
        while manager.hear().as_deref() != Some("WATCHDOG=1") {
            time::sleep(Duration::from_millis(1)).await;
        }
        while manager.hear().is_some() {}

        supervisor.succeeded_by(4711);
        assert_eq!(manager.hear().as_deref(), Some("MAINPID=4711"));
        supervisor.succeeded_by(4712);
        supervisor.reloading();
        supervisor.reloaded(&observed);
        supervisor.stopping(&observed, None);
        // The tasks that tell it something end, but for the one that looks at the status now and then.
        let line = supervisor.line.as_ref().unwrap();
        while Arc::strong_count(line) > 2 {
            time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(manager.hear(), None);
    }

    #[tokio::test]
    async fn a_successor_says_itself_that_it_is_the_main_process() {
        let manager = Manager::new();
        let (helpers, _ended) = helpers();
        let supervisor = manager.supervisor();
        supervisor.ready(&observed(), &helpers, Beginning::TakeOver);
        let message = manager.hear().unwrap();
        let expected = format!("MAINPID={}\nREADY=1\nSTATUS=", process::id());
        assert!(message.starts_with(&expected), "{message}");
    }

    #[test]
    fn a_successor_gets_the_variables_that_tell_it_of_the_same_manager() {
        let own = process::id().to_string();
        let (address, every) = (OsString::from("@manager"), OsString::from("30000000"));
        let variables = |pid: Option<&str>, address: Option<&OsString>| {
            let said = Said {
                address: address.cloned(),
                every: Some(every.clone()),
                pid: pid.map(Into::into),
            };
            Supervisor::of(said).variables()
        };
        let (to, beat) = ((ADDRESS, address.clone()), (EVERY, every.clone()));
        let both = [to.clone(), beat.clone()];
        assert_eq!(variables(Some(&own), Some(&address)), both);
        assert_eq!(variables(None, Some(&address)), both);
        // The watchdog is for somebody else.
        assert_eq!(variables(Some("1"), Some(&address)), [to]);
        assert_eq!(variables(None, None), [beat]);
        let unreachable = OsString::from("vsock:2:1");
        assert_eq!(variables(None, Some(&unreachable))[0].1, unreachable);
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
