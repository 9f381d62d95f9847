//! What may be sent on as it was received.

use std::ops::Range;

use super::record::{HEADER_LEN, Header};

/// Bytes to send on: first [`Pass::lead`], then [`Pass::range`] of the slice that was read.
///
/// The lead is there for a header that was cut in two by the end of an earlier slice, and for one
/// that is sent in place of the peer's own. Otherwise it is empty, and what was received can leave as
/// it is. The reserved byte of a header that leads is 0; in a range it is the peer's (§3.3: it means
/// nothing).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    lead: Option<[u8; HEADER_LEN]>,
    range: Range<usize>,
}

impl Pass {
    /// Bytes to send before those of the range: none, or a record's header.
    #[must_use]
    pub fn lead(&self) -> &[u8] {
        self.lead.as_ref().map_or(&[], <[u8; HEADER_LEN]>::as_slice)
    }

    /// Which bytes of the slice to send.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// How many bytes that is altogether.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lead().len() + self.range.len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing yet; what follows begins at `at`.
    pub(super) const fn from(at: usize) -> Self {
        Self {
            lead: None,
            range: at..at,
        }
    }

    /// Takes a header in that ends at `at`. One that is not `whole` in this slice leads.
    pub(super) fn open(&mut self, header: Header, whole: bool, at: usize) {
        if whole && self.is_empty() {
            self.range = at - HEADER_LEN..at;
        } else if !whole {
            self.replace(header, at);
        }
        self.reach(at);
    }

    /// Takes a header in that is sent in place of the one that ends at `at`.
    pub(super) fn replace(&mut self, header: Header, at: usize) {
        assert!(self.is_empty(), "a lead comes first");
        self.lead = Some(header.encode());
        self.range = at..at;
    }

    /// Everything up to `at` belongs to it.
    pub(super) const fn reach(&mut self, at: usize) {
        self.range.end = at;
    }
}
