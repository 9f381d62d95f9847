//! What an entry looks like.
//!
//! A client chooses method, URI and script, and must not be able to write lines, fields or sequences for
//! terminals with them. So everything but printable ASCII is escaped, and so are the marks that end a
//! value. JSON is ASCII for the same reason; what is no UTF-8 is U+FFFD there.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use crate::config::RequestLogFormat as Format;
use crate::fastcgi::Rejection;
use crate::shown::Shown;

use super::entry::{Entry, Occasion, Word};

/// How long a word is when it is escaped: as much as is kept of a plain one. A line has two words that may
/// be so long, and a client that has bytes escaped, of which each takes four or six characters, gets no
/// longer ones.
const WORD_CHARS_MAX: usize = 2048;

/// The longest line: its words, and some hundred characters for the rest.
#[cfg(test)]
const LINE_BYTES_MAX: usize = 2 * WORD_CHARS_MAX + 1536;

/// Appends the line of a request whose occasion came at `time`.
pub(super) fn push(
    line: &mut String,
    format: Format,
    route: &str,
    time: SystemTime,
    entry: &Entry,
) {
    let written = match format {
        Format::Text => text(line, route, time, entry),
        Format::Json => json(line, route, time, entry),
    };
    written.expect("a string takes all that is written to it");
}

fn text(line: &mut String, route: &str, time: SystemTime, entry: &Entry) -> fmt::Result {
    write!(line, "time={} route={route}", Rfc3339(time))?;
    let none = "-";
    match entry.peer {
        Some(peer) => write!(line, " uid={} pid={}", peer.uid, peer.pid)?,
        None => write!(line, " uid={none} pid={none}")?,
    }
    for (name, word) in words(entry) {
        write!(line, " {name}=\"")?;
        escape_text(line, word);
        line.push('"');
    }
    write!(line, " status={}", Maybe(entry.status, none))?;
    write!(line, " bytes={}", entry.bytes)?;
    match entry.upstream {
        Some(upstream) => {
            line.push_str(" endpoint=\"");
            let endpoint = upstream.endpoint.to_string();
            escape_text(line, whole(endpoint.as_bytes()));
            write!(line, "\" upstream={}", kind(upstream.reused))?;
        }
        None => write!(line, " endpoint={none} upstream={none}")?,
    }
    for (name, time) in times(entry) {
        write!(line, " {name}={}", Maybe(time.map(Seconds), none))?;
    }
    let ending = entry.ending.map(|outcome| outcome.name());
    write!(line, " ending={}", Maybe(ending, none))?;
    match &entry.rejection {
        // It is escaped already.
        Some(Rejection { rule, param }) => write!(line, " rule={rule} param=\"{param}\"")?,
        None => write!(line, " rule={none} param={none}")?,
    }
    // Its characters are those of words.
    write!(line, " class={}", Maybe(entry.class.as_ref(), none))?;
    if let Some((state, stalled)) = slow(entry.occasion) {
        write!(line, " state={state}")?;
        match stalled {
            Some(stalled) => write!(line, " stalled=\"{stalled}\"")?,
            None => write!(line, " stalled={none}")?,
        }
    }
    line.push('\n');
    Ok(())
}

fn json(line: &mut String, route: &str, time: SystemTime, entry: &Entry) -> fmt::Result {
    let none = "null";
    write!(line, r#"{{"time":"{}","route":"#, Rfc3339(time))?;
    quote(line, whole(route.as_bytes()));
    let (uid, pid) = (entry.peer.map(|p| p.uid), entry.peer.map(|p| p.pid));
    write!(
        line,
        r#","uid":{},"pid":{}"#,
        Maybe(uid, none),
        Maybe(pid, none)
    )?;
    for (name, word) in words(entry) {
        write!(line, r#","{name}":"#)?;
        quote(line, word);
    }
    write!(line, r#","status":{}"#, Maybe(entry.status, none))?;
    write!(line, r#","bytes":{}"#, entry.bytes)?;
    match entry.upstream {
        Some(upstream) => {
            line.push_str(r#","endpoint":"#);
            quote(line, whole(upstream.endpoint.to_string().as_bytes()));
            write!(line, r#","upstream":"{}""#, kind(upstream.reused))?;
        }
        None => line.push_str(r#","endpoint":null,"upstream":null"#),
    }
    for (name, time) in times(entry) {
        write!(line, r#","{name}":{}"#, Maybe(time.map(Seconds), none))?;
    }
    match entry.ending {
        Some(outcome) => write!(line, r#","ending":"{}""#, outcome.name())?,
        None => line.push_str(r#","ending":null"#),
    }
    match &entry.rejection {
        Some(Rejection { rule, param }) => {
            write!(line, r#","rule":"{rule}","param":"#)?;
            quote(line, whole(param.as_bytes()));
        }
        None => line.push_str(r#","rule":null,"param":null"#),
    }
    match &entry.class {
        Some(class) => write!(line, r#","class":"{class}""#)?,
        None => line.push_str(r#","class":null"#),
    }
    if let Some((state, stalled)) = slow(entry.occasion) {
        write!(line, r#","state":"{state}""#)?;
        match stalled {
            Some(stalled) => write!(line, r#","stalled":"{stalled}""#)?,
            None => line.push_str(r#","stalled":null"#),
        }
    }
    line.push_str("}\n");
    Ok(())
}

fn words(entry: &Entry) -> [(&'static str, Word<'_>); 3] {
    [
        ("method", entry.words.method()),
        ("uri", entry.words.uri()),
        ("script", entry.words.script()),
    ]
}

fn times(entry: &Entry) -> [(&'static str, Option<Duration>); 4] {
    [
        ("queue", Some(entry.queue)),
        ("connect", Some(entry.connect)),
        ("first_byte", entry.first_byte),
        ("total", Some(entry.total)),
    ]
}

/// What only lines of the slow log have: what the request does, and who holds it up.
const fn slow(occasion: Occasion) -> Option<(&'static str, Option<&'static str>)> {
    match occasion {
        Occasion::End => None,
        Occasion::Slow { state, stalled } => Some((state, stalled)),
        Occasion::SlowEnd => Some(("over", None)),
    }
}

const fn kind(reused: bool) -> &'static str {
    if reused { "reused" } else { "new" }
}

const fn whole(bytes: &[u8]) -> Word<'_> {
    Word {
        bytes,
        is_cut: false,
    }
}

/// For between two quotes.
fn escape_text(line: &mut String, word: Word<'_>) {
    push_shown(
        line,
        Shown::quoted(word.bytes, WORD_CHARS_MAX).cut_before(word.is_cut),
    );
}

/// As a JSON string.
fn quote(line: &mut String, word: Word<'_>) {
    line.push('"');
    push_shown(
        line,
        Shown::json(word.bytes, WORD_CHARS_MAX).cut_before(word.is_cut),
    );
    line.push('"');
}

fn push_shown(line: &mut String, shown: Shown<'_>) {
    write!(line, "{shown}").expect("a string takes all that is written to it");
}

/// A value, or what stands for none.
struct Maybe<T>(Option<T>, &'static str);

impl<T: fmt::Display> fmt::Display for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str(self.1),
        }
    }
}

/// Seconds, to the microsecond.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}

/// A time in UTC, to the millisecond (RFC 3339). Before 1970 it is 1970.
struct Rfc3339(SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let millis = since.subsec_millis();
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

/// Year, month and day of the day with this number, 1970-01-01 being 0, in the Gregorian calendar.
///
/// Years are counted from March on, so that a leap day is the last day of one: then the months' lengths
/// repeat every five months (153 days), and years repeat every 400 (146,097 days).
fn date(days: u64) -> (u64, u64, u64) {
    /// From 0000-03-01 to 1970-01-01.
    const SHIFT: u64 = 719_468;
    let (era, day) = ((days + SHIFT) / 146_097, (days + SHIFT) % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = 400 * era + year;
    match month {
        0..10 => (year, month + 3, day),
        _ => (year + 1, month - 9, day),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::entry::{Words, sample};
    use super::*;
    use crate::counters::Outcome;

    const TIME: Duration = Duration::from_millis(1_782_864_000_123);

    fn line(format: Format, entry: &Entry) -> String {
        let mut line = String::new();
        push(
            &mut line,
            format,
            "php",
            SystemTime::UNIX_EPOCH + TIME,
            entry,
        );
        line
    }

    #[test]
    fn text_has_every_field_in_its_place() {
        assert_eq!(
            line(Format::Text, &sample()),
            "time=2026-07-01T00:00:00.123Z route=php uid=33 pid=4711 method=\"GET\" \
             uri=\"/index.php?x=1\" script=\"/srv/index.php\" status=200 bytes=1234 \
             endpoint=\"192.0.2.1:9000\" upstream=reused queue=0.000000 connect=0.000250 \
             first_byte=0.012000 total=2.012345 ending=- rule=- param=- class=-\n"
        );
    }

    #[test]
    fn json_has_the_same_fields() {
        let value: Value = serde_json::from_str(&line(Format::Json, &sample())).unwrap();
        let expected = json!({
            "time": "2026-07-01T00:00:00.123Z", "route": "php", "uid": 33, "pid": 4711,
            "method": "GET", "uri": "/index.php?x=1", "script": "/srv/index.php",
            "status": 200, "bytes": 1234, "endpoint": "192.0.2.1:9000", "upstream": "reused",
            "queue": 0.0, "connect": 0.00025, "first_byte": 0.012, "total": 2.012345,
            "ending": null, "rule": null, "param": null, "class": null,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_class_is_told_by_its_name() {
        let entry = Entry {
            class: Some("admin-1.x".parse().unwrap()),
            ..sample()
        };
        assert!(line(Format::Text, &entry).ends_with(" param=- class=admin-1.x\n"));
        let value: Value = serde_json::from_str(&line(Format::Json, &entry)).unwrap();
        assert_eq!(value["class"], "admin-1.x");
    }

    #[test]
    fn lines_of_the_slow_log_say_what_the_request_does() {
        let held_up = Occasion::Slow {
            state: "answering",
            stalled: Some("download by client"),
        };
        for (occasion, text, state, stalled) in [
            (
                held_up,
                " state=answering stalled=\"download by client\"\n",
                "answering",
                json!("download by client"),
            ),
            (
                Occasion::SlowEnd,
                " state=over stalled=-\n",
                "over",
                Value::Null,
            ),
        ] {
            let entry = Entry {
                occasion,
                ..sample()
            };
            let of = |format| line(format, &entry);
            // What the access log has stands in front of it, unchanged.
            let plain = line(Format::Text, &sample());
            assert_eq!(of(Format::Text), plain.trim_end().to_owned() + text);
            let value: Value = serde_json::from_str(&of(Format::Json)).unwrap();
            assert_eq!(
                (&value["state"], &value["stalled"]),
                (&json!(state), &stalled)
            );
        }
    }

    #[test]
    fn what_is_not_known_is_said_to_be_so() {
        let entry = Entry {
            peer: None,
            status: None,
            upstream: None,
            first_byte: None,
            ending: Some(Outcome::QueueTimedOut),
            ..sample()
        };
        let text = line(Format::Text, &entry);
        for part in [
            " uid=- pid=- ",
            " status=- ",
            " endpoint=- upstream=- ",
            " first_byte=- ",
            " ending=queue_timeout rule=- param=- class=-\n",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        let value: Value = serde_json::from_str(&line(Format::Json, &entry)).unwrap();
        for field in ["uid", "pid", "status", "endpoint", "upstream", "first_byte"] {
            assert_eq!(value[field], Value::Null, "{field}");
        }
        assert_eq!(value["ending"], "queue_timeout");
    }

    #[test]
    fn nothing_that_a_client_writes_ends_a_value_or_a_line() {
        let uri = b"/a\" status=200\nforged \x1b[31m\\ \xff \xc3\xa9 \xc2\x9b\x7f\0";
        let entry = Entry {
            words: Words::new(b"G\"ET", uri, b""),
            ..sample()
        };
        let text = line(Format::Text, &entry);
        let escaped = r#"method="G\"ET" uri="/a\" status=200\x0aforged \x1b[31m\\ \xff \xc3\xa9 \xc2\x9b\x7f\x00" "#;
        assert!(text.contains(escaped), "{text}");
        let json = line(Format::Json, &entry);
        let escaped =
            r#""uri":"/a\" status=200\u000aforged \u001b[31m\\ \ufffd \u00e9 \u009b\u007f\u0000","#;
        assert!(json.contains(escaped), "{json}");
    }

    #[test]
    fn a_line_is_bounded_after_its_words_are_escaped() {
        let hostile = [0xff; 5000];
        let entry = Entry {
            words: Words::new(&hostile, &hostile, &hostile),
            rejection: Some(Rejection {
                rule: crate::fastcgi::Rule::Nul,
                param: "\\x00".repeat(64),
            }),
            ..sample()
        };
        for format in [Format::Text, Format::Json] {
            let line = line(format, &entry);
            assert!(line.len() <= LINE_BYTES_MAX, "{} bytes", line.len());
        }
    }

    #[test]
    fn a_cut_word_says_so() {
        let entry = Entry {
            words: Words::new(b"GET", &[b'u'; 5000], b""),
            ..sample()
        };
        assert!(line(Format::Text, &entry).contains("uuu...\" script="));
        assert!(line(Format::Json, &entry).contains("uuu...\",\"script\""));
    }

    proptest! {
        #[test]
        fn any_bytes_make_one_line_of_printable_ascii_and_one_json_object(
            method in vec(any::<u8>(), 0..40),
            uri in vec(any::<u8>(), 0..200),
            script in vec(any::<u8>(), 0..200),
        ) {
            let words = Words::new(&method, &uri, &script);
            let entry = Entry { words, ..sample() };
            for format in [Format::Text, Format::Json] {
                let line = line(format, &entry);
                let body = line.strip_suffix('\n').unwrap();
                prop_assert!(body.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", body);
            }
            let value: Value = serde_json::from_str(&line(Format::Json, &entry)).unwrap();
            let lossy = String::from_utf8_lossy(&uri);
            prop_assert_eq!(value["uri"].as_str().unwrap(), lossy);
        }

        #[test]
        fn dates_are_those_of_a_calendar_that_counts_day_by_day(days in 0_u64..100_000) {
            let (mut year, mut rest) = (1970, days);
            let is_leap = |year: u64| match year {
                _ if year.is_multiple_of(400) => true,
                _ if year.is_multiple_of(100) => false,
                _ => year.is_multiple_of(4),
            };
            while rest >= 365 + u64::from(is_leap(year)) {
                rest -= 365 + u64::from(is_leap(year));
                year += 1;
            }
            let february = 28 + u64::from(is_leap(year));
            let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            let mut month = 1;
            for length in lengths {
                if rest < length {
                    break;
                }
                rest -= length;
                month += 1;
            }
            prop_assert_eq!(date(days), (year, month, rest + 1));
        }
    }
}
