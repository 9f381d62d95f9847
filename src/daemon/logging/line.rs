//! What a line of the log looks like.
//!
//! Events come from this program and from libraries, with words of clients, name servers and files in
//! them. Here is the one place where all of them pass: nothing ends a line, drives a terminal or stands
//! for another field, and nothing is longer than its bound.

use std::fmt;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;
use crate::shown::Shown;

use super::Look;
use super::rates::{LeftOut, RateDecision, Rates};

/// The longest message. The longest of our own, with an address, a cause and a remedy, have some 500.
const MESSAGE_CHARS_MAX: usize = 4096;

/// The longest value of a field.
const VALUE_CHARS_MAX: usize = 1024;

/// Makes lines of events, within the rates.
#[derive(Clone)]
pub(super) struct Lines {
    pub(super) format: LogFormat,
    pub(super) look: Look,
    pub(super) rates: Arc<Rates>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let left_out = match self.rates.judge(event.metadata()) {
            RateDecision::Pass(left_out) => left_out,
            RateDecision::LeaveOut => return Ok(()),
        };
        for owed in left_out {
            self.tell(&mut writer, &owed)?;
        }
        let mut seen = Seen::default();
        event.record(&mut seen);
        let metadata = event.metadata();
        self.line(&mut writer, *metadata.level(), metadata.target(), &seen)
    }
}

/// syslog(3)'s number. The journal reads it off the beginning of a line of standard error, and takes it away
/// again (sd-daemon(3)). Without, all lines have the same one, and `journalctl -p err` finds nothing.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl Lines {
    /// The line that stands for those that were left out.
    pub(super) fn tell(&self, writer: &mut Writer<'_>, owed: &LeftOut) -> fmt::Result {
        let seen = Seen {
            message: format!(
                "{} more lines like this one were left out within {} s: {}",
                owed.lines,
                owed.within.as_secs(),
                owed.place
            ),
            fields: Vec::new(),
        };
        self.line(writer, owed.level, owed.target, &seen)
    }

    fn line(
        &self,
        writer: &mut Writer<'_>,
        level: Level,
        target: &str,
        seen: &Seen,
    ) -> fmt::Result {
        if self.look == Look::Journal {
            write!(writer, "<{}>", priority(level))?;
        }
        match self.format {
            LogFormat::Text => self.text(writer, level, target, seen),
            LogFormat::Json => json(writer, level, target, seen),
        }
    }

    fn text(
        &self,
        writer: &mut Writer<'_>,
        level: Level,
        target: &str,
        seen: &Seen,
    ) -> fmt::Result {
        let paint = |code: &'static str| match self.look {
            Look::Terminal => (code, "\x1b[0m"),
            Look::Plain | Look::Journal => ("", ""),
        };
        let (dim, end) = paint("\x1b[2m");
        if self.look != Look::Journal {
            writer.write_str(dim)?;
            SystemTime.format_time(writer)?;
            write!(writer, "{end} ")?;
        }
        let (colour, end) = paint(colour(level));
        write!(writer, "{colour}{level:>5}{end} {dim}{target}:{end} ")?;
        let message = seen.message.as_bytes();
        write!(writer, "{}", Shown::line(message, MESSAGE_CHARS_MAX))?;
        let (italic, end) = paint("\x1b[3m");
        for (name, value) in &seen.fields {
            write!(writer, " {italic}{name}{end}=")?;
            value.text(writer)?;
        }
        writer.write_char('\n')
    }
}

const fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

fn json(writer: &mut Writer<'_>, level: Level, target: &str, seen: &Seen) -> fmt::Result {
    writer.write_str(r#"{"timestamp":""#)?;
    SystemTime.format_time(writer)?;
    let message = Shown::json(seen.message.as_bytes(), MESSAGE_CHARS_MAX);
    write!(writer, r#"","level":"{level}","message":"{message}""#)?;
    for (name, value) in &seen.fields {
        write!(writer, r#","{name}":"#)?;
        value.json(writer)?;
    }
    writeln!(writer, r#","target":"{target}"}}"#)
}

/// What an event says.
#[derive(Default)]
pub(super) struct Seen {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

/// The value of a field.
enum Value {
    /// A number or a truth value: it cannot be anything but one word.
    Plain(String),
    /// Text, in quotes.
    Text(String),
    /// What was made by a type's own Display or Debug: in quotes unless it is one plain word.
    Made(String),
}

impl Value {
    fn text(&self, writer: &mut Writer<'_>) -> fmt::Result {
        match self {
            Self::Plain(word) => writer.write_str(word),
            Self::Made(word) if is_word(word) => writer.write_str(word),
            Self::Text(text) | Self::Made(text) => {
                let shown = Shown::quoted(text.as_bytes(), VALUE_CHARS_MAX);
                write!(writer, "\"{shown}\"")
            }
        }
    }

    fn json(&self, writer: &mut Writer<'_>) -> fmt::Result {
        match self {
            Self::Plain(word) => writer.write_str(word),
            Self::Text(text) | Self::Made(text) => {
                let shown = Shown::json(text.as_bytes(), VALUE_CHARS_MAX);
                write!(writer, "\"{shown}\"")
            }
        }
    }
}

/// Whether a value is told from what follows without quotes: an address, a path, a name, or a list of
/// addresses in brackets.
fn is_word(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:/@+%()<>".contains(c);
    let list = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let mut parts = list.map_or_else(|| vec![text], |list| list.split(", ").collect());
    // An IPv6 address with its port begins with a bracket and does not end with one.
    parts.retain(|part| !part.is_empty());
    let is_address = |part: &str| part.parse::<std::net::SocketAddr>().is_ok();
    let plain = |part: &&str| part.chars().all(is_plain) || is_address(part);
    text.len() <= VALUE_CHARS_MAX && (list.is_some() || !text.is_empty()) && parts.iter().all(plain)
}

impl Seen {
    /// The message, and the fields with their values as they are.
    pub(super) fn into_words(self) -> (String, impl Iterator<Item = (&'static str, String)>) {
        let fields = self.fields.into_iter().map(|(name, value)| match value {
            Value::Plain(text) | Value::Text(text) | Value::Made(text) => (name, text),
        });
        (self.message, fields)
    }

    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Plain(text) | Value::Text(text) | Value::Made(text)) => {
                self.message = text;
            }
            // What the bridge from the log crate adds.
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.fields.push((name.trim_start_matches("r#"), value)),
        }
    }
}

impl Visit for Seen {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let value = match value.is_finite() {
            true => Value::Plain(value.to_string()),
            false => Value::Text(value.to_string()),
        };
        self.push(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Plain(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Plain(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Plain(value.to_string()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::Text(value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Value::Made(format!("{value:?}")));
    }
}
