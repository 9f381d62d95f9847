//! Requests as a table for people.

use std::cmp::Reverse;

use super::requests::{RequestEntry, Requests, StalledEntry};
use super::table::line;
use super::units::{size, span};
use crate::session::Stall;
use crate::shown::Shown;

/// The longest of what clients say of themselves.
const WORD_CHARS_MAX: usize = 512;

/// By what requests are put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum RequestOrder {
    /// Those first that are under way for longest.
    #[default]
    Age,
    /// Those first that have waited for longest.
    Wait,
    /// Those first of which most bytes have moved.
    Bytes,
    /// By route.
    Route,
    /// By endpoint.
    Endpoint,
    /// By client: user, then process.
    Client,
    /// By URI.
    Uri,
}

impl RequestOrder {
    /// Puts them in this order; where that says nothing, by age.
    pub(crate) fn sort(self, requests: &mut [RequestEntry]) {
        requests.sort_by(|a, b| b.age_seconds.total_cmp(&a.age_seconds));
        match self {
            Self::Age => {}
            Self::Wait => requests.sort_by(|a, b| b.queue_seconds.total_cmp(&a.queue_seconds)),
            Self::Bytes => requests.sort_by_key(|r| Reverse(r.bytes())),
            Self::Route => requests.sort_by(|a, b| a.route.cmp(&b.route)),
            Self::Endpoint => requests.sort_by(|a, b| a.endpoint.cmp(&b.endpoint)),
            Self::Client => requests.sort_by_key(|r| (r.uid, r.pid)),
            Self::Uri => requests.sort_by(|a, b| a.uri.cmp(&b.uri)),
        }
    }
}

/// What stands above the cells of a [`row`].
pub(crate) const TITLES: [&str; 10] = [
    "AGE", "WAIT", "STATE", "ROUTE", "ENDPOINT", "CLIENT", "SENT", "ANSWERED", "STALLED", "REQUEST",
];

/// A line for each, under a line that says what is in it.
#[must_use]
pub(crate) fn render(requests: &Requests) -> String {
    let rows: Vec<[String; 10]> = requests.requests.iter().map(row).collect();
    let mut widths = TITLES.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut push = |cells: [&str; 10]| {
        let padded = cells.iter().zip(widths);
        let padded = padded.map(|(cell, width)| format!("{cell:width$}"));
        let padded: Vec<String> = padded.collect();
        line(&mut text, padded.join("  ").trim_end());
    };
    push(TITLES);
    for row in &rows {
        push(row.each_ref().map(String::as_str));
    }
    for gap in gaps(requests) {
        line(&mut text, &gap);
    }
    text
}

/// What is not told, a line for each.
pub(crate) fn gaps(requests: &Requests) -> Vec<String> {
    let silent = requests.silent_workers.iter();
    let silent = silent
        .map(|worker| format!("worker {worker} does not turn: what its sessions do is not known"));
    let incomplete = requests.incomplete_workers.iter();
    let incomplete = incomplete.map(|worker| {
        format!("worker {worker} has not told of all its sessions in time: ask again")
    });
    let more = (requests.left_out > 0).then(|| {
        format!(
            "and {} more, for which there was no room (ask for one route)",
            requests.left_out
        )
    });
    silent.chain(incomplete).chain(more).collect()
}

/// One request, a cell for each of [`TITLES`]. Names of routes and endpoints are as they were told.
pub(crate) fn row(request: &RequestEntry) -> [String; 10] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let client = match (request.uid, request.pid) {
        (Some(uid), Some(pid)) => format!("uid {uid} pid {pid}"),
        (_, _) => "-".to_owned(),
    };
    [
        span(request.age_seconds),
        match request.queue_seconds > 0.0 {
            true => span(request.queue_seconds),
            false => "-".to_owned(),
        },
        request.state.name().to_owned(),
        request.route.clone(),
        or_dash(request.endpoint.clone()),
        client,
        or_dash(request.request_bytes.map(bytes)),
        or_dash(request.response_bytes.map(bytes)),
        or_dash(request.stalled.as_ref().map(stalled)),
        or_dash(words(request)),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn bytes(bytes: u64) -> String {
    size(bytes as f64)
}

fn stalled(stalled: &StalledEntry) -> String {
    let name = Stall::name(stalled.by, stalled.what);
    format!("{name} for {}", span(stalled.seconds))
}

/// Method, URI and script, each within a bound and none of them empty, and with nothing in it that looks like a space:
/// nobody's URI looks like two words, or stands where another word is looked for.
fn words(request: &RequestEntry) -> Option<String> {
    let all = [&request.method, &request.uri, &request.script];
    let shown: Vec<String> = all.into_iter().flatten().map(|text| word(text)).collect();
    (!shown.is_empty()).then(|| shown.join(" "))
}

fn word(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let mut word = String::with_capacity(text.len());
    for character in text.chars() {
        if looks_like_a_space(character) {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                word.push_str(&format!("%{byte:02X}"));
            }
        } else {
            word.push(character);
        }
    }
    // The bound is on what comes out.
    Shown::line(word.as_bytes(), WORD_CHARS_MAX).to_string()
}

/// Controls do not: those are escaped. Four letters and a pattern of dots are blank as well.
fn looks_like_a_space(character: char) -> bool {
    let is_blank = matches!(
        character,
        '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}'
    );
    (character.is_whitespace() && !character.is_control()) || is_blank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_word_and_bounded() {
        for (text, shown) in [
            ("/a b", "/a%20b"),
            ("/a\u{a0}b", "/a%C2%A0b"),
            ("/a\u{2003}b", "/a%E2%80%83b"),
            ("/a\u{3000}/srv/x.php", "/a%E3%80%80/srv/x.php"),
            ("/a\u{2800}b\u{3164}", "/a%E2%A0%80b%E3%85%A4"),
            ("/a\tb", "/a\\x09b"),
            ("/\u{e9}", "/\u{e9}"),
            ("", "-"),
        ] {
            assert_eq!(word(text), shown);
        }
        for long in [" ", "a", "\u{3000}", "\u{1b}", "\u{202e}"] {
            let shown = word(&long.repeat(2 * WORD_CHARS_MAX));
            let chars = shown.chars().count();
            assert!(chars <= WORD_CHARS_MAX + "...".len(), "{chars} of {long:?}");
            assert!(shown.ends_with("..."), "{shown}");
        }
    }

    #[test]
    fn every_blank_character_is_replaced() {
        for character in (char::MIN..=char::MAX).filter(|c| c.is_whitespace()) {
            let shown = word(&format!("a{character}b"));
            assert!(!shown.contains(char::is_whitespace), "{shown:?}");
        }
    }
}
