//! The text of a file: its lines, and how parts of it are quoted in a message.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeValue};

/// As much of a key or a value as a message quotes: more than any that is right, but for paths and
/// names near their limits.
const QUOTED_CHARS_MAX: usize = 80;

pub(super) struct Source<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(end, _)| end + 1);
        Self {
            text,
            lines: std::iter::once(0).chain(ends).collect(),
        }
    }

    /// The line of this byte, from 1 on.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|begin| *begin <= offset)
    }

    /// As it stands in the file.
    pub(super) fn quote(&self, span: Range<usize>) -> String {
        shown(self.text.get(span).unwrap_or_default())
    }

    fn line_text(&self, line: usize) -> &'a str {
        let begin = self.lines[line - 1];
        self.text[begin..].lines().next().unwrap_or_default().trim()
    }

    /// What the TOML parser did not take, with its line.
    pub(super) fn syntax_error(&self, error: &toml::de::Error) -> (usize, String) {
        let offset = error.span().map_or(0, |span| span.start);
        // An end of the file that comes too early belongs to the last line with a text.
        let offset = offset.min(self.text.trim_end().len());
        let line = self.line(offset);
        let text = self.line_text(line);
        let message = error.message().trim_end_matches(", expected nothing");
        let remedy = remedy(text, message);
        (line, format!("{}: {message}{remedy}", shown(text)))
    }
}

/// For `route` and `defaults` where something else stands.
pub(super) fn not_a_table(key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) -> String {
    let remedy = match key.get_ref().as_ref() {
        "route" => "write for example [route.php] and its keys",
        _ => "write [defaults] and its keys",
    };
    let found = found(value.get_ref());
    format!(
        "{}: expected a table, found {found} ({remedy})",
        key.get_ref()
    )
}

/// For what stands in `[route]` and is no table.
pub(super) fn not_a_route(
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    is_option: bool,
) -> String {
    let name = shown(key.get_ref());
    if is_option {
        return format!("{name}: the route has no name (write for example [route.php])");
    }
    let found = found(value.get_ref());
    format!("route {name}: expected a table, found {found} (write [route.{name}] and its keys)")
}

/// What helps with the mistakes that people make most; the parser's messages name none.
fn remedy(line: &str, message: &str) -> &'static str {
    let key = line.split('=').next().unwrap_or_default().trim();
    if message.contains("duplicate") {
        " (remove one)"
    } else if key == "mode" {
        " (write the mode in quotes, for example \"0660\")"
    } else if message.contains("string values must be quoted") || message.contains("quoted") {
        " (write it in quotes)"
    } else {
        " (correct the line; the file is TOML)"
    }
}

/// The beginning of a key or a value that may be long.
pub(super) fn shown(text: &str) -> String {
    beginning(text, QUOTED_CHARS_MAX)
}

pub(super) fn beginning(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// What a value is, in words.
pub(super) fn found(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_from_one() {
        let source = Source::new("a\nbc\n\nd");
        let lines: Vec<usize> = (0..8).map(|offset| source.line(offset)).collect();
        assert_eq!(lines, [1, 1, 2, 2, 2, 3, 4, 4]);
        assert_eq!(source.line_text(2), "bc");
        assert_eq!(source.line_text(3), "");
    }

    #[test]
    fn quotes_end_somewhere() {
        assert_eq!(shown("short"), "short");
        assert_eq!(shown(&"ä".repeat(81)), format!("{}…", "ä".repeat(80)));
    }
}
