//! How far the comparison is, on stderr: a bar with the time left on a terminal, plain lines
//! elsewhere.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress goes. Steps are weighed by the time that they are planned to take.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Progress {
    /// For work that will take about so long.
    pub(super) fn start(planned: Duration) -> Self {
        let style =
            ProgressStyle::with_template("[{bar:30}] {percent:>3} %, {eta} left  {wide_msg}")
                .expect("the template is constant")
                .progress_chars("=> ");
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(millis(planned)).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        let progress = Self {
            bar,
            started: Instant::now(),
        };
        progress.say(&format!("about {} min", planned.as_secs().div_ceil(60)));
        progress
    }

    /// A part begins.
    pub(super) fn part(&self, title: &str) {
        if self.bar.is_none() {
            let at = self.started.elapsed().as_secs();
            self.say(&format!("{:>3}:{:02} {title}", at / 60, at % 60));
        }
        self.now(title);
    }

    /// What is being done at the moment; shown only where it can be replaced.
    pub(super) fn now(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    /// Something that was planned to take so long is done.
    pub(super) fn step(&self, planned: Duration) {
        if let Some(bar) = &self.bar {
            bar.inc(millis(planned));
        }
    }

    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("compare: {line}")),
            // A closed stderr is no reason to stop.
            None => drop(writeln!(stderr().lock(), "compare: {line}")),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
