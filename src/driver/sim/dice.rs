//! Where the simulation's choices come from: a seed, or a script of bytes that a fuzzer makes.

/// A source of choices. The same source gives the same choices.
pub(crate) struct Dice {
    state: u64,
    /// Choices to take first.
    script: std::vec::IntoIter<u8>,
}

impl Dice {
    /// Choices that a seed determines.
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self {
            state: seed,
            script: Vec::new().into_iter(),
        }
    }

    /// Choices that the bytes determine; past their end, a fixed seed does.
    pub(crate) fn from_script(script: Vec<u8>) -> Self {
        Self {
            state: 0,
            script: script.into_iter(),
        }
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        match self.script.next() {
            Some(byte) if bound <= 256 => u64::from(byte) % bound,
            Some(byte) => u64::from(byte) * bound / 256,
            None => self.random() % bound,
        }
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of the values.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = self.below(from.len() as u64);
        from[usize::try_from(index).expect("below a length")]
    }

    /// `splitmix64`, by Sebastiano Vigna: small, and every seed is a good one.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
