//! How far the demo is: a progress bar on a terminal, plain lines elsewhere. Always on stderr, so
//! that stdout holds the table alone.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Options, PATHS};

/// Often enough to look alive, rare enough to cost nothing beside the load.
const TICK: Duration = Duration::from_millis(200);

/// Where progress goes.
pub(super) enum Progress {
    /// stderr is a terminal.
    Line(ProgressBar),
    /// It is a file or a pipe.
    Plain,
}

impl Progress {
    /// Says what is about to happen.
    pub(super) fn start(options: &Options, rounds: u32) -> Self {
        say(&format!(
            "demo: {:?} per path in {rounds} rounds each, {} requests at a time, every byte checked",
            options.duration, options.concurrency
        ));
        if !stderr().is_terminal() {
            return Self::Plain;
        }
        let template = "{spinner} [{bar:24}] {elapsed} {msg}";
        let style = ProgressStyle::with_template(template).expect("the template is constant");
        let steps = PATHS as u64 * u64::from(rounds);
        let line = ProgressBar::new(steps).with_style(style);
        line.enable_steady_tick(TICK);
        Self::Line(line)
    }

    /// A round begins.
    pub(super) fn round(&self, number: u32) {
        match self {
            Self::Line(_) => {}
            Self::Plain => say(&format!("demo: round {number}")),
        }
    }

    /// A path begins its part of a round.
    pub(super) fn path(&self, round: u32, name: &'static str) {
        match self {
            Self::Line(line) => line.set_message(format!("round {round}: {name}")),
            Self::Plain => {}
        }
    }

    /// One path has done its part of a round.
    pub(super) fn step(&self) {
        match self {
            Self::Line(line) => line.inc(1),
            Self::Plain => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match self {
            Self::Line(line) => line.finish_and_clear(),
            Self::Plain => {}
        }
    }
}

/// Writes a line. A closed stderr is no reason to stop: the result goes to stdout.
fn say(line: &str) {
    let _ = writeln!(stderr().lock(), "{line}");
}
