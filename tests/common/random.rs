//! Seeded choices. A test that makes some prints its seed with the command that makes the same ones
//! again; a normal run has a fixed seed, so that a failure belongs to the change and not to the day.

use std::env;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The seed of a run that was given none.
const DEFAULT_SEED: u64 = 1;

/// A source of choices: SplitMix64.
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One of the range; the slight preference of the remainder for small ones does no harm here.
    pub(crate) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (first, last) = range.into_inner();
        assert!(first <= last, "something to choose from");
        first + self.number() % (last - first + 1)
    }

    /// From 1 to `max`, each power of two as likely as the next: most sizes are small, and large ones
    /// come often enough.
    pub(crate) fn size(&mut self, max: u64) -> u64 {
        let power = self.within(0..=max.ilog2().into());
        ((1 << power) + self.number() % (1 << power)).min(max)
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.within(1..=count) == 1
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let last = from.len().checked_sub(1).expect("something to choose from");
        let index = self.within(0..=last as u64);
        from[usize::try_from(index).expect("an index of a slice")]
    }
}

/// `SPLICEWAY_SEED`, or else the fixed one.
pub(crate) fn seed() -> u64 {
    from_environment("SPLICEWAY_SEED", DEFAULT_SEED)
}

/// A number that the caller of the test may set.
pub(crate) fn from_environment<T: FromStr>(name: &str, default: T) -> T {
    match env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}
