//! The status of a CGI response (RFC 3875 §6.3.3), for the access log, and the end of its headers.

/// What a response without a `Status:` line has.
const DEFAULT: u16 = 200;

/// How many bytes are looked through for it. PHP-FPM writes it first; others write a few headers
/// before it.
const LOOKED_AT_MAX: usize = 512;

const NAME: &[u8; 7] = b"status:";

/// The status of a response of which this is the beginning.
#[must_use]
pub fn cgi_status(stdout: &[u8]) -> u16 {
    let mut reader = StatusReader::new();
    reader.read(stdout);
    reader.status()
}

/// Finds the `Status:` line in the first bytes of the response, in any split.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatusReader {
    state: State,
    read: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// At the beginning of a line, this much of the name matches.
    Name(usize),
    /// In a line that is not wanted.
    Line,
    /// Behind the name: the digits so far and their value.
    Digits(u8, u16),
    Known(u16),
}

impl StatusReader {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Name(0),
            read: 0,
        }
    }

    /// The status, or what it is without a line that says it.
    pub(super) const fn status(&self) -> u16 {
        match self.state {
            State::Known(status) => status,
            State::Name(_) | State::Line | State::Digits(..) => DEFAULT,
        }
    }

    /// Whether more of STDOUT could change it.
    pub(super) const fn is_open(&self) -> bool {
        !matches!(self.state, State::Known(_))
    }

    /// Takes the next piece of STDOUT.
    pub(super) fn read(&mut self, piece: &[u8]) {
        if matches!(self.state, State::Known(_)) {
            return;
        }
        for &byte in piece {
            self.state = self.after(byte);
            self.read += 1;
            if self.read == LOOKED_AT_MAX {
                self.state = State::Known(self.status());
            }
            if matches!(self.state, State::Known(_)) {
                return;
            }
        }
    }

    fn after(&self, byte: u8) -> State {
        match (self.state, byte) {
            (State::Known(status), _) => State::Known(status),
            // An empty line ends the headers.
            (State::Name(0), b'\n') => State::Known(DEFAULT),
            (State::Name(0), b'\r') => State::Name(0),
            (State::Name(_) | State::Line, b'\n') => State::Name(0),
            (State::Name(at), _) if byte.to_ascii_lowercase() == NAME[at] => {
                if at + 1 == NAME.len() {
                    State::Digits(0, 0)
                } else {
                    State::Name(at + 1)
                }
            }
            (State::Name(_) | State::Line, _) => State::Line,
            (State::Digits(0, _), b' ' | b'\t') => State::Digits(0, 0),
            (State::Digits(count, value), b'0'..=b'9') => {
                let value = value * 10 + u16::from(byte - b'0');
                if count == 2 {
                    State::Known(value)
                } else {
                    State::Digits(count + 1, value)
                }
            }
            (State::Digits(..), _) => State::Known(DEFAULT),
        }
    }
}

/// Finds the empty line behind the headers, in any split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeaderBlock {
    /// At the beginning of a line.
    LineStart,
    /// At the beginning of a line, behind a carriage return.
    Return,
    /// Within a line.
    Line,
    /// The empty line was seen: what follows is content.
    Over,
}

impl HeaderBlock {
    /// Takes the next piece of STDOUT.
    pub(super) fn read(&mut self, piece: &[u8]) {
        let mut rest = piece.iter();
        while *self != Self::Over {
            if *self == Self::Line && !rest.any(|&byte| byte == b'\n') {
                return;
            }
            if *self == Self::Line {
                *self = Self::LineStart;
            }
            *self = match (*self, rest.next()) {
                (_, None) => return,
                (Self::LineStart | Self::Return, Some(b'\n')) => Self::Over,
                (Self::LineStart, Some(b'\r')) => Self::Return,
                _ => Self::Line,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_end_with_an_empty_line_in_any_split() {
        for (text, end) in [
            ("A: b\r\n\r\ncontent\n\n", Some(8)),
            ("A: b\n\n", Some(6)),
            ("\n", Some(1)),
            ("\r\n", Some(2)),
            ("A: b\r\nC: d\r\n", None),
            ("A: b\r\n\rC\r\n", None),
            ("", None),
        ] {
            let mut whole = HeaderBlock::LineStart;
            whole.read(text.as_bytes());
            assert_eq!(whole == HeaderBlock::Over, end.is_some(), "{text:?}");
            let mut split = HeaderBlock::LineStart;
            for (at, byte) in text.bytes().enumerate() {
                split.read(&[byte]);
                let is_over = end.is_some_and(|end| at + 1 >= end);
                assert_eq!(split == HeaderBlock::Over, is_over, "{text:?} at {at}");
            }
        }
    }

    fn status(text: &str) -> u16 {
        let mut whole = StatusReader::new();
        whole.read(text.as_bytes());
        let mut split = StatusReader::new();
        text.as_bytes().iter().for_each(|&byte| split.read(&[byte]));
        assert_eq!(split.status(), whole.status());
        whole.status()
    }

    #[test]
    fn the_status_line_counts_wherever_it_is_among_the_headers() {
        assert_eq!(status("Status: 404 Not Found\r\nA: b\r\n\r\n"), 404);
        assert_eq!(
            status("Content-type: text/html\r\nSTATUS:\t503\r\n\r\n"),
            503
        );
        assert_eq!(status("A: b\nStatus:301\n\n"), 301);
    }

    #[test]
    fn without_a_status_line_it_is_200() {
        assert_eq!(
            status("Content-type: text/html\r\n\r\nStatus: 404\r\n"),
            200
        );
        assert_eq!(status("X-Status: 404\r\n\r\n"), 200);
        assert_eq!(status("Status: none\r\n\r\n"), 200);
        assert_eq!(status("Statu\r\ns: 404\r\n\r\n"), 200);
        assert_eq!(status(""), 200);
        assert_eq!(status("\nStatus: 404"), 200);
    }

    #[test]
    fn it_is_not_looked_for_without_end() {
        assert_eq!(
            status(&format!("A: {}\r\nStatus: 404\r\n", "b".repeat(400))),
            404
        );
        assert_eq!(
            status(&format!("A: {}\r\nStatus: 404\r\n", "b".repeat(600))),
            200
        );
    }
}
