//! What may be sent on as it was received.

use std::ops::Range;

use spliceway_common::fastcgi::{HEADER_LEN, Header};

/// The longest lead: an END_REQUEST record without padding.
const LEAD_MAX: usize = 2 * HEADER_LEN;

/// Bytes to send on: first [`Pass::lead`], then [`Pass::range`] of the slice that was read, with
/// [`Pass::patch`] written over a part of it.
///
/// The lead is there for a header that was cut in two by the end of an earlier slice, and for one
/// that is sent in place of the peer's own. The patch is there for a record that the end of the slice cuts
/// in two. Otherwise both are empty, and what was received can leave as it is. The reserved byte of a
/// header that leads is 0; in a range it is the peer's (§3.3: it means nothing).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    lead: [u8; LEAD_MAX],
    lead_len: usize,
    range: Range<usize>,
    patch: Option<(usize, [u8; HEADER_LEN])>,
}

impl Pass {
    /// Bytes to send before those of the range: none, a record's header, or a short record.
    #[must_use]
    pub fn lead(&self) -> &[u8] {
        &self.lead[..self.lead_len]
    }

    /// Which bytes of the slice to send.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// A header to write over the bytes of the slice at this place, which is in the range, before they are
    /// sent.
    #[must_use]
    pub fn patch(&self) -> Option<(usize, [u8; HEADER_LEN])> {
        self.patch
    }

    /// How many bytes that is altogether.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lead_len + self.range.len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing yet; what follows begins at `at`.
    pub(super) const fn from(at: usize) -> Self {
        Self {
            lead: [0; LEAD_MAX],
            lead_len: 0,
            range: at..at,
            patch: None,
        }
    }

    /// Takes a header in that is sent in place of the one that ends at `at`.
    pub(super) fn replace(&mut self, header: Header, at: usize) {
        assert!(self.is_empty(), "a lead comes first");
        self.lead_with(header, &[]);
        self.range = at..at;
    }

    /// This header, and this content behind it, come before the bytes of the range.
    pub(super) fn lead_with(&mut self, header: Header, content: &[u8]) {
        assert!(self.lead_len == 0, "there is one lead");
        self.lead_len = HEADER_LEN + content.len();
        self.lead[..HEADER_LEN].copy_from_slice(&header.encode());
        self.lead[HEADER_LEN..self.lead_len].copy_from_slice(content);
    }

    /// Another header in place of the one that begins at `at`.
    pub(super) fn patch_with(&mut self, at: usize, header: Header) {
        assert!(
            self.range.start <= at && at + HEADER_LEN <= self.range.end,
            "a header within the range"
        );
        self.patch = Some((at, header.encode()));
    }

    /// Everything up to `at` belongs to it.
    pub(super) const fn reach(&mut self, at: usize) {
        self.range.end = at;
    }

    /// Nothing from `at` on belongs to it.
    pub(super) fn cut(&mut self, at: usize) {
        self.range.end = at;
        assert!(self.range.start <= at, "cut behind its beginning");
    }

    /// Nothing before `at` belongs to it.
    pub(super) fn skip_to(&mut self, at: usize) {
        assert!(self.is_empty(), "what belongs to it is not skipped");
        self.range = at..at;
    }
}
