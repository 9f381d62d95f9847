//! The log: events of every thread, as lines on standard error.
//!
//! A thread that logs never waits for whoever reads the log: lines go into a bounded queue and are
//! dropped when it is full. One thread of its own writes them.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, Logging};

/// Lines that wait for a slow reader: a burst of a few seconds at the rates at which the daemon may
/// log, about 2 MB. More are dropped.
const LINES_MAX: usize = 8192;

/// That of this process's log.
static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// How many lines were dropped because nobody read them in time.
pub fn lines_dropped() -> u64 {
    LOST.get()
        .map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Keeps the log running; dropping it writes what is queued, for at most a second.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct LogGuard {
    _writer: WorkerGuard,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Standard error cannot be used.
    #[error("open standard error for the log")]
    StandardError(#[source] io::Error),
    /// The filter is not one after all: `LogFilter` has seen to it that it is.
    #[error("set the log filter")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The process has a log already.
    #[error("start the log")]
    Started(#[source] tracing_subscriber::util::TryInitError),
}

/// Starts the log for the whole process, with one thread that writes it.
///
/// # Errors
/// If standard error is closed, or if there is a log already.
pub fn start(logging: &Logging) -> Result<LogGuard, LoggingError> {
    // A descriptor of our own: its writer then holds no lock that others need for a last word.
    let stderr = io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .map_err(LoggingError::StandardError)?;
    let stderr = File::from(stderr);
    let look = Look::of(&stderr, env::var_os("JOURNAL_STREAM").as_deref());
    let (writer, guard) = queue_to(stderr);
    LOST.get_or_init(|| writer.error_counter());
    dispatch(logging, look, writer)?
        .try_init()
        .map_err(LoggingError::Started)?;
    Ok(LogGuard { _writer: guard })
}

fn queue_to(file: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(file)
}

/// What lines of text look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Coloured, with the time.
    Terminal,
    /// With the time.
    Plain,
    /// Without the time, which the journal notes itself.
    Journal,
}

impl Look {
    /// systemd names the journal's stream by device and inode, so that a program can tell whether
    /// its standard error still leads there (systemd.exec(5), `$JOURNAL_STREAM`).
    fn of(stderr: &File, journal_stream: Option<&OsStr>) -> Self {
        if stderr.is_terminal() {
            return Self::Terminal;
        }
        let stream = stderr
            .metadata()
            .map(|found| format!("{}:{}", found.dev(), found.ino()));
        match (stream, journal_stream) {
            (Ok(stream), Some(journal)) if journal == stream.as_str() => Self::Journal,
            _ => Self::Plain,
        }
    }
}

/// Lines that begin with a priority, as the journal reads it off standard error (sd-daemon(3)) and takes it away
/// again. Without, all lines have the same one, and `journalctl -p err` finds nothing.
struct Prioritized<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritized<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// syslog(3)'s number.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn dispatch(logging: &Logging, look: Look, writer: NonBlocking) -> Result<Dispatch, LoggingError> {
    let filter = EnvFilter::try_new(logging.filter.as_str()).map_err(LoggingError::Filter)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(look == Look::Terminal)
        .with_writer(writer);
    Ok(match (logging.format, look) {
        (LogFormat::Json, Look::Journal) => lines
            .json()
            .flatten_event(true)
            .map_event_format(Prioritized)
            .into(),
        (LogFormat::Json, Look::Terminal | Look::Plain) => lines.json().flatten_event(true).into(),
        (LogFormat::Text, Look::Journal) => {
            lines.without_time().map_event_format(Prioritized).into()
        }
        (LogFormat::Text, Look::Terminal | Look::Plain) => lines.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::{Duration, Instant};

    use super::*;

    fn logging(format: LogFormat, filter: &str) -> Logging {
        Logging {
            format,
            filter: filter.parse().unwrap(),
        }
    }

    /// What the events of `act` become.
    fn logged(logging: &Logging, look: Look, act: impl FnOnce()) -> String {
        let (mut reader, pipe) = io::pipe().unwrap();
        let (writer, guard) = queue_to(pipe);
        let dispatch = dispatch(logging, look, writer).unwrap();
        tracing::dispatcher::with_default(&dispatch, act);
        drop((guard, dispatch));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn text_has_one_line_per_event_that_the_filter_lets_through() {
        let text = logged(&logging(LogFormat::Text, "info"), Look::Journal, || {
            tracing::info!(port = 9000, "ready");
            tracing::debug!("hidden");
        });
        assert_eq!(
            text,
            "<6> INFO spliceway::daemon::logging::tests: ready port=9000\n"
        );
    }

    #[test]
    fn the_journal_is_told_the_priority_of_each_line() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(&logging(format, "debug"), Look::Journal, || {
                tracing::error!("a");
                tracing::warn!("b");
                tracing::info!("c");
                tracing::debug!("d");
            });
            let priorities: Vec<_> = text.lines().map(|line| &line[..3]).collect();
            assert_eq!(priorities, ["<3>", "<4>", "<6>", "<7>"]);
            let plain = logged(&logging(format, "info"), Look::Plain, || {
                tracing::error!("a")
            });
            assert!(!plain.contains("<3>"), "{plain}");
        }
    }

    #[test]
    fn only_terminals_get_colours() {
        let event = || tracing::info!("ready");
        let settings = logging(LogFormat::Text, "info");
        assert!(!logged(&settings, Look::Plain, event).contains('\x1b'));
        assert!(logged(&settings, Look::Terminal, event).contains('\x1b'));
    }

    #[test]
    fn json_has_one_object_per_line() {
        let text = logged(&logging(LogFormat::Json, "info"), Look::Terminal, || {
            tracing::info!(port = 9000, "first\nline");
            tracing::info!("second");
        });
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.lines()
                .all(|line| line.starts_with('{') && line.ends_with('}'))
        );
        assert!(
            text.contains(r#""message":"first\nline","port":9000"#),
            "{text}"
        );
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_reader_that_stands_still_stalls_nobody() {
        let (reader, pipe) = io::pipe().unwrap();
        let (writer, guard) = queue_to(pipe);
        let dropped = writer.error_counter();
        let dispatch = dispatch(&logging(LogFormat::Text, "info"), Look::Plain, writer).unwrap();
        let started = Instant::now();
        tracing::dispatcher::with_default(&dispatch, || {
            while dropped.dropped_lines() == 0 {
                tracing::info!("nobody reads this");
                assert!(
                    started.elapsed() < Duration::from_secs(60),
                    "nothing was dropped"
                );
            }
        });
        drop(reader);
        drop((guard, dispatch));
    }

    #[test]
    fn the_journal_is_recognised_by_its_stream() {
        let file = tempfile::tempfile().unwrap();
        let metadata = file.metadata().unwrap();
        let stream = format!("{}:{}", metadata.dev(), metadata.ino());
        assert_eq!(Look::of(&file, Some(stream.as_ref())), Look::Journal);
        assert_eq!(Look::of(&file, Some("1:2".as_ref())), Look::Plain);
        assert_eq!(Look::of(&file, None), Look::Plain);
    }
}
