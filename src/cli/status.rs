//! `spliceway status`: what a running daemon says of itself, once or again and again.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task;
use tokio::time;

use super::values::{ValueError, timeout};
use crate::observe::client::{AskError, ask};
use crate::observe::{CONTROL_PATH, Status, render_table};
use crate::shown;
use crate::sys::terminal;

/// The time between the two samples that rates are made from: long enough for some ten requests of a
/// quiet service, short enough not to be noticed.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

/// The least time between two refreshes. More often, nobody can read.
const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusCommand {
    /// The daemon's control socket.
    pub control: PathBuf,
    /// JSON instead of a table.
    pub json: bool,
    /// Again and again, with this time between.
    pub watch: Option<Duration>,
}

/// The command line.
#[derive(Args)]
pub(super) struct StatusArguments {
    #[arg(
        long,
        value_name = "PATH",
        default_value = CONTROL_PATH,
        help = "Control socket of the daemon."
    )]
    control: PathBuf,

    #[arg(
        long,
        help = "Print JSON, one line for each status. docs/status.md lists the fields."
    )]
    json: bool,

    #[arg(
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        default_missing_value = "1s",
        value_parser = interval,
        help = "Repeat until Ctrl-C, every second or at this interval (100ms or more), in place on a terminal."
    )]
    watch: Option<Duration>,
}

impl From<StatusArguments> for StatusCommand {
    fn from(arguments: StatusArguments) -> Self {
        Self {
            control: arguments.control,
            json: arguments.json,
            watch: arguments.watch,
        }
    }
}

pub(super) fn interval(text: &str) -> Result<Duration, ValueError> {
    match timeout(text)? {
        interval if interval < WATCH_INTERVAL_MIN => Err(ValueError::WatchTooOften),
        interval => Ok(interval),
    }
}

/// Why a status could not be shown.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("prepare for signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the daemon has no route {route} (it has {routes})")]
    NoRoute { route: String, routes: String },
    #[error("write a status as JSON")]
    Json(#[from] serde_json::Error),
    #[error("write to standard output")]
    Output(#[source] io::Error),
    #[error("drive the terminal (without one, as in 'spliceway top | cat', plain text is printed)")]
    Terminal(#[source] io::Error),
}

/// Asks and prints.
///
/// # Errors
/// If the daemon cannot be asked, or the answer cannot be written down.
pub fn run(command: &StatusCommand) -> Result<(), Error> {
    on_runtime(async {
        match (command.watch, command.json) {
            (Some(interval), as_json) => {
                let mut before: Option<Status> = None;
                let look = async || {
                    let status = ask(&command.control).await?;
                    let text = match as_json {
                        true => json(&status)?,
                        false => render_table(&status, before.as_ref()),
                    };
                    before = Some(status);
                    Ok(text)
                };
                repeated(interval, as_json, look).await
            }
            (None, true) => show(&json(&ask(&command.control).await?)?),
            (None, false) => {
                let before = ask(&command.control).await?;
                time::sleep(SAMPLE_INTERVAL).await;
                let after = ask(&command.control).await?;
                show(&render_table(&after, Some(&before)))
            }
        }
    })
}

/// Runs what asks and prints.
pub(super) fn on_runtime(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Signals)?;
    let shown = runtime.block_on(work);
    // Whoever takes nothing of what is printed does not hold up the end.
    runtime.shutdown_background();
    match shown {
        // Whoever reads has seen enough.
        Err(Error::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        shown => shown,
    }
}

/// Shows what `look` gives again and again, until Ctrl-C, or until the daemon does not answer any more.
pub(super) async fn repeated(
    interval: Duration,
    as_json: bool,
    look: impl AsyncFnMut() -> Result<String, Error>,
) -> Result<(), Error> {
    until_stopped(repeat(interval, as_json, look)).await
}

/// Goes on until the end, or until Ctrl-C or SIGTERM, which are an end as well.
pub(super) async fn until_stopped(
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let mut interrupted = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    tokio::select! {
        ended = work => ended,
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
    }
}

async fn repeat(
    interval: Duration,
    as_json: bool,
    mut look: impl AsyncFnMut() -> Result<String, Error>,
) -> Result<(), Error> {
    let in_place = !as_json && io::stdout().is_terminal();
    let mut is_first = true;
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let text = look().await?;
        let rows = terminal::rows(io::stdout().as_fd());
        match (in_place, !is_first && !as_json) {
            (true, _) => print(in_the_same_place(&text, rows)).await?,
            (false, true) => print(format!("\n{text}")).await?,
            (false, false) => print(text).await?,
        }
        is_first = false;
    }
}

fn json(status: &Status) -> Result<String, Error> {
    let mut line = shown::ascii_of_json(&serde_json::to_string(status)?);
    line.push('\n');
    Ok(line)
}

/// From the top left corner, each line over the one that is there, and nothing below. Lines that are
/// longer than the terminal is wide are cut: wrapped, they would push others out of their places. Lines
/// for which it is too low are left out for the same reason.
fn in_the_same_place(text: &str, rows: Option<usize>) -> String {
    const HOME_WITHOUT_WRAP: &str = "\x1b[?7l\x1b[H";
    const CLEAR_BELOW_AND_WRAP: &str = "\x1b[J\x1b[?7h";
    let count = text.lines().count();
    // The cursor stands in a row of its own.
    let fitting = match rows.map(|rows| rows.saturating_sub(1)) {
        Some(room) if count > room => room.saturating_sub(1),
        Some(_) | None => count,
    };
    let mut lines = String::with_capacity(text.len());
    for line in text.lines().take(fitting) {
        lines.extend([line, "\x1b[K\n"]);
    }
    if fitting < count {
        let left = count - fitting;
        lines.push_str(&format!(
            "({left} more lines: the terminal is too low)\x1b[K\n"
        ));
    }
    format!("{HOME_WITHOUT_WRAP}{lines}{CLEAR_BELOW_AND_WRAP}")
}

/// The same on another thread, so that signals are heard while nobody takes it.
pub(super) async fn print(text: String) -> Result<(), Error> {
    match task::spawn_blocking(move || show(&text)).await {
        Ok(shown) => shown,
        Err(error) => panic::resume_unwind(error.into_panic()),
    }
}

pub(super) fn show(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::parse_words;
    use crate::cli::{Cli, Command};

    #[test]
    fn another_option_may_follow_a_watch_without_its_interval() {
        for words in ["status --watch --json", "status --json --watch"] {
            let parsed = parse_words(words);
            let Ok(Cli {
                command: Command::Status(status),
            }) = parsed
            else {
                panic!("{words}: {parsed:?}");
            };
            let every_second = Some(Duration::from_secs(1));
            assert_eq!((status.json, status.watch), (true, every_second), "{words}");
        }
    }

    #[test]
    fn a_refresh_covers_what_was_there() {
        for rows in [None, Some(3)] {
            assert_eq!(
                in_the_same_place("one\ntwo\n", rows),
                "\x1b[?7l\x1b[Hone\x1b[K\ntwo\x1b[K\n\x1b[J\x1b[?7h"
            );
        }
    }

    #[test]
    fn what_does_not_fit_on_the_terminal_is_left_out() {
        let shown = in_the_same_place("one\ntwo\nthree\n", Some(3));
        let lines = "one\x1b[K\n(2 more lines: the terminal is too low)\x1b[K\n";
        assert_eq!(shown, format!("\x1b[?7l\x1b[H{lines}\x1b[J\x1b[?7h"));
    }

    #[test]
    fn intervals_that_nobody_can_follow_are_refused() {
        assert_eq!(interval("2s").unwrap(), Duration::from_secs(2));
        assert_eq!(interval("100ms").unwrap(), WATCH_INTERVAL_MIN);
        assert!(matches!(interval("99ms"), Err(ValueError::WatchTooOften)));
        assert!(matches!(interval("0s"), Err(ValueError::WatchTooOften)));
    }
}
