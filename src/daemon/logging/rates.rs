//! How many lines one place in the code may write: whoever makes it write must not fill the disk, nor
//! drown what others have to say.
//!
//! Most of our own warnings are rare by themselves ([`Failures`](crate::observe::Failures)). This bounds
//! all of them, whatever they are, and those of libraries, which write a line for each nonsense that a
//! name server sends.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::callsite::Identifier;
use tracing::{Level, Metadata};

/// Lines are counted for so long, beginning with the first.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Lines of one place in a library: enough to see what it is about.
const FOREIGN_LINES_MAX: u32 = 10;

/// Warnings and errors of one place of our own. One about each endpoint of a large set would be more, and
/// says nothing that the first hundred do not.
const WARNINGS_MAX: u32 = 100;

/// Lines at info of one place of our own: one for each route and listener of a large daemon.
const NOTES_MAX: u32 = 1000;

/// Counts lines by the place in the code that they come from, of which the program has a fixed number.
#[derive(Default)]
pub(super) struct Rates {
    windows: Mutex<HashMap<Identifier, Window>>,
    /// Told when a place begins to be left out.
    exceeded: Notify,
}

struct Window {
    began: Instant,
    passed: u32,
    left_out: u64,
    metadata: &'static Metadata<'static>,
}

/// What becomes of an event.
pub(super) enum RateDecision {
    /// It is written, after lines about these.
    Pass(Vec<LeftOut>),
    LeaveOut,
}

/// Lines that were not written.
pub(super) struct LeftOut {
    pub(super) lines: u64,
    pub(super) within: Duration,
    pub(super) level: Level,
    pub(super) target: &'static str,
    pub(super) place: Place,
}

/// Where in the code.
pub(super) struct Place(&'static Metadata<'static>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.0.file().unwrap_or("?");
        // The last part, because the whole path of a library is one of the machine that built this.
        let file = file.rsplit('/').next().unwrap_or(file);
        write!(f, "{file} line {}", self.0.line().unwrap_or(0))
    }
}

/// How many lines of a place pass within a window. `None`: all; that is so for the details of our own,
/// which are written only where somebody asked for them.
fn lines_max(metadata: &Metadata<'_>) -> Option<u32> {
    let is_ours = metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"));
    match *metadata.level() {
        _ if !is_ours => Some(FOREIGN_LINES_MAX),
        Level::ERROR | Level::WARN => Some(WARNINGS_MAX),
        Level::INFO => Some(NOTES_MAX),
        Level::DEBUG | Level::TRACE => None,
    }
}

impl Rates {
    pub(super) fn judge(&self, metadata: &'static Metadata<'static>) -> RateDecision {
        self.judge_at(metadata, Instant::now())
    }

    fn judge_at(&self, metadata: &'static Metadata<'static>, now: Instant) -> RateDecision {
        let Some(max) = lines_max(metadata) else {
            return RateDecision::Pass(Vec::new());
        };
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.entry(metadata.callsite()).or_insert(Window {
            began: now,
            passed: 0,
            left_out: 0,
            metadata,
        });
        let is_over = window.is_over(now);
        if !is_over && window.passed >= max {
            window.left_out += 1;
            if window.left_out == 1 {
                self.exceeded.notify_one();
            }
            return RateDecision::LeaveOut;
        }
        let owed = window.take_left_out();
        if is_over {
            window.began = now;
            window.passed = 0;
        }
        window.passed += 1;
        RateDecision::Pass(owed.into_iter().collect())
    }

    /// What is to be told of windows that are over, or of all at the end.
    pub(super) fn owed(&self, all: bool) -> Vec<LeftOut> {
        let now = Instant::now();
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let over = windows.values_mut().filter(|w| all || w.is_over(now));
        over.filter_map(Window::take_left_out).collect()
    }

    /// Ends when a place begins to be left out.
    pub(super) async fn exceeded(&self) {
        self.exceeded.notified().await;
    }
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= WINDOW
    }

    fn take_left_out(&mut self) -> Option<LeftOut> {
        let lines = std::mem::take(&mut self.left_out);
        (lines > 0).then_some(LeftOut {
            lines,
            within: WINDOW,
            level: *self.metadata.level(),
            target: self.metadata.target(),
            place: Place(self.metadata),
        })
    }
}
