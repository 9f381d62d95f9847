//! A number for content: fast, the same for any split of it, and different for whatever goes wrong
//! by accident. Nobody is kept from forging one.

/// Odd, so that multiplying by it loses nothing (the constant of Knuth's multiplicative hashing).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bytes taken at one time.
const WORD: usize = size_of::<u64>();

/// A digest that is being made.
///
/// Each step maps the state one to one, so that two contents which differ within one word never
/// have the same digest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Digest {
    state: u64,
    /// Bytes that do not fill a word yet; the first `len % WORD` of them count.
    tail: [u8; WORD],
    len: u64,
}

impl Digest {
    /// Takes the next piece of the content.
    pub(crate) fn push(&mut self, mut piece: &[u8]) {
        let filled = self.filled();
        self.len += piece.len() as u64;
        if filled > 0 {
            let count = piece.len().min(WORD - filled);
            let (now, later) = piece.split_at(count);
            self.tail[filled..filled + count].copy_from_slice(now);
            if filled + count < WORD {
                return;
            }
            self.step(u64::from_le_bytes(self.tail));
            piece = later;
        }
        let (words, rest) = piece.as_chunks::<WORD>();
        for word in words {
            self.step(u64::from_le_bytes(*word));
        }
        self.tail[..rest.len()].copy_from_slice(rest);
    }

    /// The number.
    pub(crate) fn finish(mut self) -> u64 {
        let filled = self.filled();
        self.tail[filled..].fill(0);
        self.step(u64::from_le_bytes(self.tail));
        self.step(self.len);
        // High bits of the state depend on all of the content, low ones only on low ones of it.
        self.state ^ (self.state >> 32)
    }

    fn step(&mut self, word: u64) {
        self.state = (self.state.rotate_left(29) ^ word).wrapping_mul(FACTOR);
    }

    fn filled(&self) -> usize {
        usize::try_from(self.len % WORD as u64).expect("less than WORD")
    }
}

/// The digest of content that is in one piece.
pub(crate) fn digest(content: &[u8]) -> u64 {
    let mut digest = Digest::default();
    digest.push(content);
    digest.finish()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            content in vec(any::<u8>(), 0..200),
            cuts in vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(content.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Digest::default();
            let mut from = 0;
            for to in cuts.into_iter().chain([content.len()]) {
                pieces.push(&content[from..to]);
                from = to;
            }
            prop_assert_eq!(pieces.finish(), digest(&content));
        }

        #[test]
        fn one_changed_byte_changes_it(
            content in vec(any::<u8>(), 1..200),
            at: prop::sample::Index,
            flip in 1..=u8::MAX,
        ) {
            let mut changed = content.clone();
            changed[at.index(content.len())] ^= flip;
            prop_assert_ne!(digest(&changed), digest(&content));
        }
    }

    #[test]
    fn trailing_zeros_count() {
        let digests: Vec<u64> = (0..20).map(|len| digest(&vec![0; len])).collect();
        for (len, one) in digests.iter().enumerate() {
            assert!(!digests[..len].contains(one), "{len} zeros");
        }
    }
}
