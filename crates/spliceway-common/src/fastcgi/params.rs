//! Name-value pairs: the content of PARAMS, GET_VALUES and GET_VALUES_RESULT (specification §3.4).
//!
//! A length below 128 takes one byte, any other four with the highest bit set. Pairs cross record
//! boundaries freely, so a stream of them is put together (within a bound of the caller's) before
//! it is read.

/// The longest name or value: its length has 31 bits (§3.4).
pub const NAME_OR_VALUE_MAX: usize = 0x7fff_ffff;

/// The highest bit of a length's first byte: the length has four bytes.
const FOUR_BYTES: u8 = 0x80;

/// Appends a pair.
///
/// # Panics
///
/// If the name or the value is longer than [`NAME_OR_VALUE_MAX`]: every caller has a bound far
/// below it.
#[inline]
pub fn push_pair(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    push_len(out, name.len());
    push_len(out, value.len());
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}

fn push_len(out: &mut Vec<u8>, len: usize) {
    assert!(len <= NAME_OR_VALUE_MAX, "a length has 31 bits");
    match u8::try_from(len) {
        Ok(short) if short < FOUR_BYTES => out.push(short),
        Ok(_) | Err(_) => {
            let long = u32::try_from(len).expect("asserted to have 31 bits");
            let [first, rest @ ..] = long.to_be_bytes();
            out.push(first | FOUR_BYTES);
            out.extend_from_slice(&rest);
        }
    }
}

/// A pair that claims more bytes than there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read a FastCGI name-value pair: it is longer than its stream (the peer is broken)")]
pub struct PairError;

/// Reads pairs off the front of a complete stream; slices of it, nothing is copied.
///
/// After an error there are no further pairs.
#[derive(Clone, Debug)]
pub struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    /// The pairs in `stream`, which is complete.
    #[must_use]
    #[inline]
    pub const fn new(stream: &'a [u8]) -> Self {
        Self { rest: stream }
    }

    /// Bytes that are not read yet.
    #[must_use]
    #[inline]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    fn pair(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let name_len = self.len()?;
        let value_len = self.len()?;
        Some((self.take(name_len)?, self.take(value_len)?))
    }

    #[inline]
    fn len(&mut self) -> Option<usize> {
        let (&first, rest) = self.rest.split_first()?;
        if first & FOUR_BYTES == 0 {
            self.rest = rest;
            return Some(usize::from(first));
        }
        let (&[first, b, c, d], rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        usize::try_from(u32::from_be_bytes([first & !FOUR_BYTES, b, c, d])).ok()
    }

    #[inline]
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (piece, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(piece)
    }
}

impl<'a> Iterator for Pairs<'a> {
    /// A name and its value.
    type Item = Result<(&'a [u8], &'a [u8]), PairError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let pair = self.pair();
        if pair.is_none() {
            self.rest = &[];
        }
        Some(pair.ok_or(PairError))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            vec(any::<u8>(), 0..10),
            vec(any::<u8>(), 120..140),
            vec(any::<u8>(), 70_000)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pairs_survive_encoding(pairs in vec((bytes(), bytes()), 0..6)) {
            let mut stream = Vec::new();
            pairs.iter().for_each(|(name, value)| push_pair(&mut stream, name, value));
            let read: Result<Vec<_>, _> = Pairs::new(&stream)
                .map(|pair| pair.map(|(name, value)| (name.to_vec(), value.to_vec())))
                .collect();
            prop_assert_eq!(read, Ok(pairs));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_always_end(stream in vec(any::<u8>(), 0..600)) {
            prop_assert!(Pairs::new(&stream).count() <= stream.len());
        }
    }

    #[test]
    fn lengths_change_form_at_128() {
        let mut stream = Vec::new();
        push_pair(&mut stream, &[b'n'; 127], &[b'v'; 128]);
        assert_eq!(stream[..5], [127, 0x80, 0, 0, 128]);
        assert_eq!(stream.len(), 5 + 127 + 128);
    }

    #[test]
    fn a_pair_longer_than_its_stream_is_an_error_and_the_last_item() {
        for stream in [
            &[3, 1, b'a'][..],
            &[1],
            &[0x80, 0, 0],
            &[0xff, 0xff, 0xff, 0xff, 0, b'x'],
        ] {
            let read: Vec<_> = Pairs::new(stream).collect();
            assert_eq!(read, [Err(PairError)]);
        }
    }
}
