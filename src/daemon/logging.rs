//! The log: events of every thread, as lines on standard error.
//!
//! A thread that logs never waits for whoever reads the log: lines go into a bounded queue and are
//! dropped when it is full. One thread of its own writes them.
//!
//! Whoever makes the program write lines (a client, a name server) can neither forge them (`line`) nor
//! have it write as many as it likes (`rates`).

mod line;
mod rates;
mod recent;

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, LazyLock, OnceLock};

use tracing::Dispatch;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt};

use crate::config::Logging;
use crate::observe::events::EventStatus;

use line::Lines;
use rates::Rates;
use recent::Recent;

/// Lines that wait for a slow reader: a burst of a few seconds at the rates at which the daemon may
/// log, about 2 MB. More are dropped.
const LINES_MAX: usize = 8192;

/// That of this process's log.
static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// What this process's log has left out.
static OWED: OnceLock<Owed> = OnceLock::new();

/// What this process's log has told of lately, also what its filter has left out.
static RECENT: LazyLock<Arc<Recent>> = LazyLock::new(Arc::default);

/// The last things that happened, the oldest first.
pub(crate) fn recent_events() -> Vec<EventStatus> {
    RECENT.recent()
}

/// How many lines were dropped because nobody read them in time.
pub fn lines_dropped() -> u64 {
    LOST.get()
        .map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Tells, for as long as it is polled, how many lines were left out because one place in the code had too
/// many of them, also if none come after that.
pub async fn tell_what_is_left_out() {
    let Some(owed) = OWED.get() else { return };
    loop {
        owed.lines.rates.exceeded().await;
        // A little more than the window, which began with an earlier line.
        tokio::time::sleep(rates::WINDOW + rates::WINDOW / 10).await;
        owed.tell(false);
    }
}

/// Keeps the log running; dropping it writes what is queued, for at most a second.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct LogGuard {
    _writer: WorkerGuard,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        if let Some(owed) = OWED.get() {
            owed.tell(true);
        }
    }
}

/// What is left out is an empty write, and would take a place in the queue.
struct LinesOnly(NonBlocking);

impl Write for LinesOnly {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match line.is_empty() {
            true => Ok(0),
            false => self.0.write(line),
        }
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        match line.is_empty() {
            true => Ok(()),
            false => self.0.write_all(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Who writes lines about those that were left out.
struct Owed {
    lines: Lines,
    writer: NonBlocking,
}

impl Owed {
    /// Of windows that are over, or of all of them.
    fn tell(&self, all: bool) {
        for left_out in self.lines.rates.owed(all) {
            let mut line = String::new();
            if self
                .lines
                .tell(&mut Writer::new(&mut line), &left_out)
                .is_ok()
            {
                // The queue drops what it has no room for, and counts it.
                let _ = self.writer.clone().write_all(line.as_bytes());
            }
        }
    }
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
    let lines = Lines {
        format: logging.format,
        look,
        rates: Arc::<Rates>::default(),
    };
    OWED.get_or_init(|| Owed {
        lines: lines.clone(),
        writer: writer.clone(),
    });
    dispatch(logging, lines, writer, Arc::clone(&RECENT))?
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

fn dispatch(
    logging: &Logging,
    lines: Lines,
    writer: NonBlocking,
    recent: Arc<Recent>,
) -> Result<Dispatch, LoggingError> {
    let filter = EnvFilter::try_new(logging.filter.as_str()).map_err(LoggingError::Filter)?;
    let written = fmt::layer()
        .event_format(lines)
        .with_writer(move || LinesOnly(writer.clone()))
        .with_filter(filter);
    let subscriber = Registry::default()
        .with(written)
        .with(recent::layer(recent));
    Ok(subscriber.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::config::LogFormat;
    use crate::observe::events::EventLevel;

    fn logging(format: LogFormat, filter: &str) -> Logging {
        Logging {
            format,
            filter: filter.parse().unwrap(),
        }
    }

    fn lines(format: LogFormat, look: Look) -> Lines {
        Lines {
            format,
            look,
            rates: Arc::default(),
        }
    }

    /// What the events of `act` become.
    fn logged(logging: &Logging, look: Look, act: impl FnOnce()) -> String {
        logged_and_kept(logging, look, act).0
    }

    /// And what is kept of them.
    fn logged_and_kept(
        logging: &Logging,
        look: Look,
        act: impl FnOnce(),
    ) -> (String, Vec<EventStatus>) {
        let (mut reader, pipe) = io::pipe().unwrap();
        let (writer, guard) = queue_to(pipe);
        let lines = lines(logging.format, look);
        let owed = Owed {
            lines: lines.clone(),
            writer: writer.clone(),
        };
        let recent = Arc::<Recent>::default();
        let dispatch = dispatch(logging, lines, writer, Arc::clone(&recent)).unwrap();
        tracing::dispatcher::with_default(&dispatch, act);
        owed.tell(true);
        drop((guard, dispatch, owed));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        (text, recent.recent())
    }

    #[test]
    fn what_happens_is_kept_whatever_the_filter_leaves_out_of_the_log() {
        let act = || {
            tracing::warn!(route = "php", "ejected\n\x1b[31m");
            tracing::info!(left = 7, "reloaded");
            tracing::debug!("nobody asks for it");
            tracing::warn!(target: "hickory_proto", "not ours");
        };
        let (text, kept) = logged_and_kept(&logging(LogFormat::Text, "error"), Look::Plain, act);
        assert_eq!(text, "");
        let told = kept.iter().map(|it| (it.level, &*it.message, &it.fields));
        let fields =
            |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let (ejected, reloaded) = (fields("route", "php"), fields("left", "7"));
        let expected = [
            (EventLevel::Warn, "ejected\\x0a\\x1b[31m", &ejected),
            (EventLevel::Info, "reloaded", &reloaded),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
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
            text.contains(r#""message":"first\u000aline","port":9000"#),
            "{text}"
        );
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn what_an_event_says_cannot_be_taken_for_another_line_or_field() {
        let hostile = "a\" rule=x\n WARN forged \x1b[31mred \u{202e}";
        let event = || {
            tracing::warn!(
                text = hostile,
                shown = %hostile,
                made = ?Some(hostile),
                address = %"[2001:db8::1]:9000",
                list = %"[192.0.2.1:9000, unix:/run/a]",
                odd = %"[a] b=c [d]",
                number = 7,
                "look up {hostile}: nothing"
            );
        };
        let text = logged(&logging(LogFormat::Text, "info"), Look::Journal, event);
        let escaped = r#"a\" rule=x\x0a WARN forged \x1b[31mred \xe2\x80\xae"#;
        let expected = [
            r#" look up a" rule=x\x0a WARN forged \x1b[31mred \u{202e}: nothing"#,
            &format!(r#" text="{escaped}" shown="{escaped}" made="Some("#),
            " address=[2001:db8::1]:9000 list=[192.0.2.1:9000, unix:/run/a] odd=\"[a] b=c [d]\" number=7\n",
        ];
        for part in expected {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert_eq!(text.lines().count(), 1);
        let json = logged(&logging(LogFormat::Json, "info"), Look::Plain, event);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["text"], hostile);
        assert_eq!(value["shown"], hostile);
        assert_eq!(value["number"], 7);
    }

    #[test]
    fn long_values_are_cut() {
        let long = "\x07".repeat(100_000);
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(&logging(format, "info"), Look::Plain, || {
                tracing::warn!(value = %long, text = long.as_str(), "{long}");
            });
            assert!(text.len() < 8192, "{} bytes", text.len());
        }
    }

    #[test]
    fn one_place_cannot_fill_the_log_and_how_much_was_left_out_is_told() {
        let text = logged(&logging(LogFormat::Text, "info"), Look::Journal, || {
            // Far more than the queue has room for.
            for _ in 0..50_000 {
                tracing::warn!(target: "hickory_net::udp", "nonsense from a name server");
                tracing::warn!("of our own");
            }
            tracing::warn!("of another place");
        });
        let of = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!(of("nonsense from a name server"), 10);
        assert_eq!(of("of our own"), 100);
        assert_eq!(of("of another place"), 1, "{text}");
        assert_eq!(
            of(" WARN hickory_net::udp: 49990 more lines like this one were left out"),
            1
        );
        assert_eq!(of("49900 more lines like this one were left out"), 1);
    }

    #[test]
    fn details_that_were_asked_for_are_all_there() {
        let text = logged(&logging(LogFormat::Text, "debug"), Look::Journal, || {
            for _ in 0..3000 {
                tracing::debug!("a detail");
            }
        });
        assert_eq!(text.lines().count(), 3000);
    }

    #[test]
    fn a_reader_that_stands_still_stalls_nobody() {
        let (reader, pipe) = io::pipe().unwrap();
        let (writer, guard) = queue_to(pipe);
        let dropped = writer.error_counter();
        let lines = lines(LogFormat::Text, Look::Plain);
        let settings = logging(LogFormat::Text, "debug");
        let dispatch = dispatch(&settings, lines, writer, Arc::default()).unwrap();
        let started = Instant::now();
        tracing::dispatcher::with_default(&dispatch, || {
            while dropped.dropped_lines() == 0 {
                tracing::debug!("nobody reads this");
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
