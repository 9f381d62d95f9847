//! What one session has tried.

use super::Lease;

/// The endpoints that one session has tried. Costs nothing until the first one has failed.
#[derive(Debug, Default)]
pub struct Tried {
    pub(super) version: u64,
    /// What was tried before an endpoint could be reached again says nothing any more either.
    recoveries: u64,
    bits: Vec<u64>,
    pub(super) count: usize,
}

impl Tried {
    /// This one was tried. If there is a newer set since, that says nothing of it.
    pub fn insert(&mut self, lease: &Lease) {
        if lease.version < self.version {
            return;
        }
        self.follow(lease.version, lease.member.recoveries.get());
        let index = lease.index as usize;
        let (word, bit) = (index / 64, 1 << (index % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.count += usize::from(self.bits[word] & bit == 0);
        self.bits[word] |= bit;
    }

    /// All of them may be tried again.
    pub fn clear(&mut self) {
        self.bits.clear();
        self.count = 0;
    }

    /// What was tried of another set says nothing of this one.
    pub(super) fn follow(&mut self, version: u64, recoveries: u64) {
        if (self.version, self.recoveries) != (version, recoveries) {
            self.clear();
            self.version = version;
            self.recoveries = recoveries;
        }
    }

    pub(super) fn has(&self, index: usize) -> bool {
        let word = self.bits.get(index / 64);
        word.is_some_and(|word| word & (1 << (index % 64)) != 0)
    }
}
