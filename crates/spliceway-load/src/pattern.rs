//! Content that is known beforehand on both sides: slices of one static table, compared as a whole.
//!
//! Every byte depends on its position and on a seed, so that loss, doubling, reordering and bytes of
//! another request show. Nothing is computed per byte: what is sent is borrowed from the table, and
//! what is received is compared with it.

/// After so many bytes the pattern repeats. A prime: no buffer, page, pipe or record has this size
/// or a multiple of it, so that content which is shifted by any of them is wrong nearly everywhere.
const PERIOD: usize = 65_521;

/// The longest slice that can be had in one piece: more than one record's content.
pub(crate) const SLICE_MAX: usize = 1 << 16;

/// One period, and then enough of the next that any slice is in one piece.
static TABLE: [u8; PERIOD + SLICE_MAX] = table();

/// SplitMix64, eight bytes at a time.
const fn table() -> [u8; PERIOD + SLICE_MAX] {
    let mut table = [0; PERIOD + SLICE_MAX];
    let mut state: u64 = 0;
    let mut at = 0;
    while at < PERIOD {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bytes = (word ^ (word >> 31)).to_le_bytes();
        let mut of_word = 0;
        while of_word < bytes.len() && at < PERIOD {
            table[at] = bytes[of_word];
            if at < SLICE_MAX {
                table[PERIOD + at] = bytes[of_word];
            }
            at += 1;
            of_word += 1;
        }
    }
    // The 15 bytes by which a slice may reach into the period after the next.
    while at < SLICE_MAX {
        table[PERIOD + at] = table[at - PERIOD];
        at += 1;
    }
    table
}

/// An endless stream of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// Where in the table the stream begins, below [`PERIOD`].
    start: usize,
}

impl Pattern {
    /// The stream that belongs to this number.
    pub(crate) fn of(seed: u64) -> Self {
        Self {
            start: wrapped(seed),
        }
    }

    /// The stream's bytes from `position` on, as many as `len` but at most [`SLICE_MAX`].
    pub(crate) fn slice(self, position: u64, len: usize) -> &'static [u8] {
        let from = (self.start + wrapped(position)) % PERIOD;
        &TABLE[from..from + len.min(SLICE_MAX)]
    }

    /// Where the first wrong byte of `piece` is, which should stand at `position` of the stream, and
    /// what should be there.
    pub(crate) fn mismatch(self, position: u64, piece: &[u8]) -> Option<(usize, u8)> {
        let mut checked = 0;
        for chunk in piece.chunks(SLICE_MAX) {
            let wanted = self.slice(position + checked as u64, chunk.len());
            if chunk != wanted {
                let at = first_difference(chunk, wanted)?;
                return Some((checked + at, wanted[at]));
            }
            checked += chunk.len();
        }
        None
    }
}

/// Where two slices differ first.
pub(crate) fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b)
}

fn wrapped(number: u64) -> usize {
    usize::try_from(number % PERIOD as u64).expect("less than PERIOD")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The stream byte by byte, for comparison.
    fn byte(pattern: Pattern, position: u64) -> u8 {
        TABLE[(pattern.start + wrapped(position)) % PERIOD]
    }

    proptest! {
        #[test]
        fn slices_are_the_stream(seed: u64, position in 0..u64::MAX / 2, len in 0..=SLICE_MAX) {
            let pattern = Pattern::of(seed);
            let slice = pattern.slice(position, len);
            prop_assert_eq!(slice.len(), len);
            for (at, &got) in slice.iter().enumerate() {
                prop_assert_eq!(got, byte(pattern, position + at as u64));
            }
        }

        #[test]
        fn one_wrong_byte_is_found(
            seed: u64,
            position in 0..u64::MAX / 2,
            len in 1_usize..200_000,
            wrong: prop::sample::Index,
            flip in 1..=u8::MAX,
        ) {
            let pattern = Pattern::of(seed);
            let mut bytes: Vec<u8> = (0..len as u64).map(|at| byte(pattern, position + at)).collect();
            prop_assert_eq!(pattern.mismatch(position, &bytes), None);
            let at = wrong.index(len);
            let want = bytes[at];
            bytes[at] ^= flip;
            prop_assert_eq!(pattern.mismatch(position, &bytes), Some((at, want)));
        }
    }

    #[test]
    fn a_shift_by_any_likely_size_is_wrong_nearly_everywhere() {
        let pattern = Pattern::default();
        for shift in
            (1..=64)
                .chain((0..24).map(|power| 1 << power))
                .chain([65_535, 65_528, 4096 * 3])
        {
            let len = 4096;
            let (here, there) = (pattern.slice(0, len), pattern.slice(shift, len));
            let same = here.iter().zip(there).filter(|(a, b)| a == b).count();
            assert!(
                same < len / 20,
                "shifted by {shift}: {same} of {len} bytes are the same"
            );
        }
    }
}
