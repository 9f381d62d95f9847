//! Bytes that others chose, as they may stand in a log, a table or a message.
//!
//! What a client, a name server or a file says must not end a line, forge a field or drive a terminal,
//! and must not be long. So whatever of it is shown goes through [`Shown`], which escapes it and bounds
//! what comes out: the bound is on the escaped text, because one byte may become six.
//!
//! Pure; imports nothing of the crate, so that everything may use it.

use std::fmt::{self, Write};

/// Stands for what a bound left out.
const MORE: &str = "...";

/// Bytes, shown within a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown<'a> {
    bytes: &'a [u8],
    form: Form,
    chars_max: usize,
    is_cut: bool,
}

/// Where they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Between two quotes: printable ASCII, where quotes and backslashes are escaped too.
    Quoted,
    /// In a JSON string, between its quotes: printable ASCII as well. What is no UTF-8 is U+FFFD.
    Json,
    /// In a line of text: printable characters stay as they are.
    Line,
}

impl<'a> Shown<'a> {
    /// For between two quotes, in at most `chars_max` characters without the sign that more was there.
    #[must_use]
    pub(crate) const fn quoted(bytes: &'a [u8], chars_max: usize) -> Self {
        Self::new(bytes, Form::Quoted, chars_max)
    }

    /// For between the two quotes of a JSON string.
    #[must_use]
    pub(crate) const fn json(bytes: &'a [u8], chars_max: usize) -> Self {
        Self::new(bytes, Form::Json, chars_max)
    }

    /// For the middle of a line that people read.
    #[must_use]
    pub(crate) const fn line(bytes: &'a [u8], chars_max: usize) -> Self {
        Self::new(bytes, Form::Line, chars_max)
    }

    const fn new(bytes: &'a [u8], form: Form, chars_max: usize) -> Self {
        Self {
            bytes,
            form,
            chars_max,
            is_cut: false,
        }
    }

    /// With the sign that more was there also if all of these bytes are shown.
    #[must_use]
    pub(crate) const fn cut_before(mut self, is_cut: bool) -> Self {
        self.is_cut = is_cut;
        self
    }
}

/// The same JSON in ASCII: what may drive a terminal, or change how other characters are seen, is escaped
/// too. Only strings can have such characters.
#[must_use]
pub(crate) fn ascii_of_json(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\n' | ' '..='~' => ascii.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(ascii, "\\u{unit:04x}");
                }
            }
        }
    }
    ascii
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Bounded {
            left: self.chars_max,
            to: f,
        };
        let whole = match self.form {
            Form::Quoted => out.quoted(self.bytes)?,
            Form::Json => out.json(self.bytes)?,
            Form::Line => out.line(self.bytes)?,
        };
        match whole && !self.is_cut {
            true => Ok(()),
            false => f.write_str(MORE),
        }
    }
}

/// Whether a character stands for itself in a line: it is neither a control nor one that is not seen, or
/// that changes how others are seen (line separators, directions, zero widths).
fn is_visible(character: char) -> bool {
    let is_unseen = matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    );
    !character.is_control() && !is_unseen
}

/// Writes pieces for as long as they fit. Each says whether everything did.
struct Bounded<'a, 'f> {
    left: usize,
    to: &'a mut fmt::Formatter<'f>,
}

impl Bounded<'_, '_> {
    fn quoted(&mut self, bytes: &[u8]) -> Result<bool, fmt::Error> {
        for &byte in bytes {
            let fits = match byte {
                b'"' => self.piece("\\\"")?,
                b'\\' => self.piece("\\\\")?,
                b' '..=b'~' => self.character(byte.into())?,
                _ => self.byte(byte)?,
            };
            if !fits {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn line(&mut self, bytes: &[u8]) -> Result<bool, fmt::Error> {
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                let fits = match character {
                    _ if is_visible(character) => self.character(character)?,
                    '\0'..='\x7f' => self.byte(character as u8)?,
                    _ => self.piece(&character.escape_unicode().to_string())?,
                };
                if !fits {
                    return Ok(false);
                }
            }
            for &byte in chunk.invalid() {
                if !self.byte(byte)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn json(&mut self, bytes: &[u8]) -> Result<bool, fmt::Error> {
        for chunk in bytes.utf8_chunks() {
            let invalid = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
            for character in chunk.valid().chars().chain(invalid) {
                let fits = match character {
                    '"' => self.piece("\\\"")?,
                    '\\' => self.piece("\\\\")?,
                    ' '..='~' => self.character(character)?,
                    _ => self.units(character)?,
                };
                if !fits {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Both units of a character, or none.
    fn units(&mut self, character: char) -> Result<bool, fmt::Error> {
        let mut units = [0; 2];
        match *character.encode_utf16(&mut units) {
            [one] => self.escaped(6, format_args!("\\u{one:04x}")),
            [high, low] => self.escaped(12, format_args!("\\u{high:04x}\\u{low:04x}")),
            _ => unreachable!("a character has one unit or two"),
        }
    }

    fn byte(&mut self, byte: u8) -> Result<bool, fmt::Error> {
        self.escaped(4, format_args!("\\x{byte:02x}"))
    }

    fn piece(&mut self, piece: &str) -> Result<bool, fmt::Error> {
        self.escaped(piece.len(), format_args!("{piece}"))
    }

    fn character(&mut self, character: char) -> Result<bool, fmt::Error> {
        if !self.take(1) {
            return Ok(false);
        }
        self.to.write_char(character)?;
        Ok(true)
    }

    fn escaped(&mut self, chars: usize, text: fmt::Arguments<'_>) -> Result<bool, fmt::Error> {
        if !self.take(chars) {
            return Ok(false);
        }
        self.to.write_fmt(text)?;
        Ok(true)
    }

    fn take(&mut self, chars: usize) -> bool {
        match self.left.checked_sub(chars) {
            Some(left) => {
                self.left = left;
                true
            }
            None => {
                self.left = 0;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const HOSTILE: &[u8] =
        b"a\" rule=x\nforged \x1b[31m\\ \xff \xc3\xa9 \xc2\x9b\x7f\0\r\xe2\x80\xae";

    #[test]
    fn between_quotes_everything_but_printable_ascii_is_escaped() {
        assert_eq!(
            Shown::quoted(HOSTILE, 1000).to_string(),
            r#"a\" rule=x\x0aforged \x1b[31m\\ \xff \xc3\xa9 \xc2\x9b\x7f\x00\x0d\xe2\x80\xae"#
        );
    }

    #[test]
    fn in_json_it_is_ascii_too() {
        assert_eq!(
            Shown::json(HOSTILE, 1000).to_string(),
            r#"a\" rule=x\u000aforged \u001b[31m\\ \ufffd \u00e9 \u009b\u007f\u0000\u000d\u202e"#
        );
        assert_eq!(
            Shown::json("😀".as_bytes(), 12).to_string(),
            r"\ud83d\ude00"
        );
        // Never half a character.
        assert_eq!(Shown::json("😀".as_bytes(), 11).to_string(), "...");
    }

    #[test]
    fn in_a_line_what_can_be_seen_stays() {
        assert_eq!(
            Shown::line(HOSTILE, 1000).to_string(),
            "a\" rule=x\\x0aforged \\x1b[31m\\ \\xff \u{e9} \\u{9b}\\x7f\\x00\\x0d\\u{202e}"
        );
    }

    #[test]
    fn the_bound_is_on_what_comes_out() {
        for long in [
            Shown::quoted(&[0xff; 5000], 100),
            Shown::line(&[0xff; 5000], 100),
        ] {
            let text = long.to_string();
            assert_eq!(text, format!("{}...", r"\xff".repeat(25)));
        }
        assert_eq!(Shown::quoted(b"abc", 3).to_string(), "abc");
        assert_eq!(Shown::quoted(b"abcd", 3).to_string(), "abc...");
        assert_eq!(
            Shown::quoted(b"ab", 3).cut_before(true).to_string(),
            "ab..."
        );
    }

    #[test]
    fn json_in_ascii_is_the_same_json() {
        let text = "\u{e9}\u{9b}\u{7f}\u{202e}\u{1f600}";
        let json = serde_json::to_string(text).unwrap();
        let ascii = ascii_of_json(&json);
        assert!(ascii.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        assert_eq!(serde_json::from_str::<String>(&ascii).unwrap(), text);
    }

    proptest! {
        #[test]
        fn nothing_breaks_out(bytes in vec(any::<u8>(), 0..300), max in 0_usize..400) {
            let quoted = Shown::quoted(&bytes, max).to_string();
            prop_assert!(quoted.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let unescaped = quoted.replace("\\\\", "").replace("\\\"", "");
            prop_assert!(!unescaped.contains('"'));
            let line = Shown::line(&bytes, max).to_string();
            prop_assert!(line.chars().all(is_visible));
            for text in [quoted, line] {
                prop_assert!(text.chars().count() <= max + MORE.len());
            }
            let json = format!("\"{}\"", Shown::json(&bytes, max));
            prop_assert!(serde_json::from_str::<String>(&json).is_ok(), "{}", json);
        }
    }
}
