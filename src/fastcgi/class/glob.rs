//! Patterns with `*` for any bytes, also none, and `?` for any one byte.
//!
//! A pattern is tried at all places at once: bit `n` of the state says that what was read so far can be the first `n`
//! symbols of the pattern (the shift-and method of Baeza-Yates and Gonnet). So each byte of a value costs the same few
//! instructions, also for patterns such as `*a*a*a*b`, on which methods that go back take time without a bound.

use std::fmt;

/// The most symbols of a pattern beside its asterisks: one bit each, and one for the beginning.
pub(super) const GLOB_BYTES_MAX: usize = 127;

/// A set of places in a pattern.
type Places = u128;

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob {
    /// As it was written.
    text: String,
    /// For each byte the number of its row.
    rows: [u8; 256],
    /// Which symbols a byte can be. The first row is that of all bytes that the pattern does not name.
    symbols: Vec<Places>,
    /// Behind how many symbols an asterisk stands.
    asterisks: Places,
    /// All symbols were found.
    whole: Places,
}

impl Glob {
    /// `None`: it has too many symbols.
    pub(super) fn new(text: &str) -> Option<Self> {
        let mut glob = Self {
            text: text.to_owned(),
            rows: [0; 256],
            symbols: vec![0],
            asterisks: 0,
            whole: 0,
        };
        let (mut place, mut any) = (0, 0);
        for byte in text.bytes() {
            if byte == b'*' {
                glob.asterisks |= 1 << place;
                continue;
            }
            if place == GLOB_BYTES_MAX {
                return None;
            }
            place += 1;
            match byte {
                b'?' => any |= 1 << place,
                byte => {
                    let row = glob.row(byte);
                    glob.symbols[row] |= 1 << place;
                }
            }
        }
        glob.symbols.iter_mut().for_each(|symbols| *symbols |= any);
        glob.whole = 1 << place;
        Some(glob)
    }

    /// A row of its own for a byte that the pattern names.
    fn row(&mut self, byte: u8) -> usize {
        let row = &mut self.rows[usize::from(byte)];
        if *row == 0 {
            *row = u8::try_from(self.symbols.len()).expect("a pattern has at most 127 symbols");
            self.symbols.push(0);
        }
        usize::from(*row)
    }

    pub(super) fn matches(&self, value: &[u8]) -> bool {
        let mut places: Places = 1;
        for byte in value {
            let row = usize::from(self.rows[usize::from(*byte)]);
            places = (places << 1) & self.symbols[row] | places & self.asterisks;
            if places == 0 {
                return false;
            }
        }
        places & self.whole != 0
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
