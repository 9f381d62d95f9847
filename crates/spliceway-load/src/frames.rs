//! A stream of records whose content is a pattern: found piece by piece when it is sent, and never
//! put together. A 16 MB answer takes as little memory as one of 4 KB.

use std::io::IoSlice;

use super::pattern::Pattern;
use spliceway_common::fastcgi::{HEADER_LEN, Header, Kind, RequestId};

/// Content of a record that is full: the largest multiple of eight, which needs no padding; PHP-FPM
/// uses the same.
pub(crate) const RECORD_CONTENT_MAX: usize = 0xfff8;

/// A full record.
const RECORD_LEN: u64 = (HEADER_LEN + RECORD_CONTENT_MAX) as u64;

/// What records are padded to (specification §3.3).
const ALIGNMENT: u64 = 8;

/// Pieces handed to the kernel at one time: half as many records, which is 1 MiB, more than a socket
/// takes at once.
const PIECES_MAX: usize = 32;

/// The records that close the stream, and padding before them.
const CLOSING_MAX: usize = 4 * HEADER_LEN;

/// How a stream is cut into records.
///
/// It begins with bytes of the caller's: whatever goes before, or the header and the first content
/// of the first record, which the pattern then fills up.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    prefix_len: u64,
    /// Bytes of the pattern in the record that the prefix began.
    first: u64,
    /// How many full records follow.
    full: u64,
    full_header: [u8; HEADER_LEN],
    /// Bytes of the pattern in the last record; 0 if there is none beside the others.
    last: u64,
    last_header: [u8; HEADER_LEN],
    closing: [u8; CLOSING_MAX],
    closing_len: u64,
}

/// What a stream consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    /// What its records are.
    pub(crate) kind: Kind,
    /// Which request they belong to.
    pub(crate) id: RequestId,
    /// Bytes that go before the pattern.
    pub(crate) prefix_len: usize,
    /// Content of the record that the prefix begins, with what the prefix has of it; `None` if the
    /// prefix ends with a whole record.
    pub(crate) begun: Option<Begun>,
    /// Bytes of the pattern.
    pub(crate) bytes: u64,
    /// Whole records behind it.
    pub(crate) closing: &'a [u8],
}

/// A record that the prefix begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    /// Bytes of its content that stand in the prefix.
    pub(crate) in_prefix: usize,
}

impl Begun {
    /// The header of this record, for the prefix, if `bytes` of the pattern follow.
    pub(crate) fn header(self, kind: Kind, id: RequestId, bytes: u64) -> Header {
        header(kind, id, self.in_prefix as u64 + self.pattern_bytes(bytes))
    }

    /// How many of `bytes` go into this record.
    fn pattern_bytes(self, bytes: u64) -> u64 {
        bytes.min((RECORD_CONTENT_MAX - self.in_prefix) as u64)
    }
}

impl Frames {
    /// Cuts it.
    pub(crate) fn new(shape: &Shape<'_>) -> Self {
        let first = shape
            .begun
            .map_or(0, |begun| begun.pattern_bytes(shape.bytes));
        let first_content = shape
            .begun
            .map_or(0, |begun| begun.in_prefix as u64 + first);
        let rest = shape.bytes - first;
        let (full, last) = (
            rest / RECORD_CONTENT_MAX as u64,
            rest % RECORD_CONTENT_MAX as u64,
        );
        // Full records need no padding, so that only the very last one of all may.
        let unpadded = if rest > 0 { last } else { first_content };
        let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        let mut closing = [0; CLOSING_MAX];
        let closing_len = padding + shape.closing.len() as u64;
        let padding = usize::try_from(padding).expect("less than ALIGNMENT");
        closing[padding..padding + shape.closing.len()].copy_from_slice(shape.closing);
        Self {
            prefix_len: shape.prefix_len as u64,
            first,
            full,
            full_header: header(shape.kind, shape.id, RECORD_CONTENT_MAX as u64).encode(),
            last,
            last_header: header(shape.kind, shape.id, last).encode(),
            closing,
            closing_len,
        }
    }

    /// The length of the whole stream.
    pub(crate) fn total(&self) -> u64 {
        let last = if self.last > 0 {
            HEADER_LEN as u64 + self.last
        } else {
            0
        };
        self.prefix_len + self.first + self.full * RECORD_LEN + last + self.closing_len
    }

    /// The pieces from position `from` of the stream on, as many as fit.
    pub(crate) fn pieces<'a>(
        &'a self,
        prefix: &'a [u8],
        pattern: Pattern,
        from: u64,
    ) -> Pieces<'a> {
        debug_assert_eq!(prefix.len() as u64, self.prefix_len);
        let mut pieces = Pieces {
            slices: [IoSlice::new(&[]); PIECES_MAX],
            len: 0,
        };
        let (mut position, total) = (from, self.total());
        while position < total && pieces.len < PIECES_MAX {
            let piece = self.piece(prefix, pattern, position);
            pieces.slices[pieces.len] = IoSlice::new(piece);
            pieces.len += 1;
            position += piece.len() as u64;
        }
        pieces
    }

    /// What stands at `position`, in one piece up to the next seam.
    fn piece<'a>(&'a self, prefix: &'a [u8], pattern: Pattern, position: u64) -> &'a [u8] {
        if position < self.prefix_len {
            return &prefix[index(position)..];
        }
        let position = position - self.prefix_len;
        if position < self.first {
            return pattern.slice(position, index(self.first - position));
        }
        let position = position - self.first;
        if position < self.full * RECORD_LEN {
            let before = self.first + position / RECORD_LEN * RECORD_CONTENT_MAX as u64;
            let content = RECORD_CONTENT_MAX as u64;
            return record(
                &self.full_header,
                content,
                pattern,
                before,
                position % RECORD_LEN,
            );
        }
        let mut position = position - self.full * RECORD_LEN;
        if self.last > 0 {
            if position < HEADER_LEN as u64 + self.last {
                let before = self.first + self.full * RECORD_CONTENT_MAX as u64;
                return record(&self.last_header, self.last, pattern, before, position);
            }
            position -= HEADER_LEN as u64 + self.last;
        }
        &self.closing[index(position)..index(self.closing_len)]
    }
}

/// What stands at `position` of a record, of which the content begins at `before` of the pattern.
fn record(
    header: &[u8; HEADER_LEN],
    content: u64,
    pattern: Pattern,
    before: u64,
    position: u64,
) -> &[u8] {
    match position.checked_sub(HEADER_LEN as u64) {
        None => &header[index(position)..],
        Some(inside) => pattern.slice(before + inside, index(content - inside)),
    }
}

/// The header of a record with so much content, padded as [`Frames`] does it.
fn header(kind: Kind, id: RequestId, content: u64) -> Header {
    let padding = content.next_multiple_of(ALIGNMENT) - content;
    Header {
        kind,
        request_id: id,
        content_len: u16::try_from(content).expect("at most RECORD_CONTENT_MAX"),
        padding_len: u8::try_from(padding).expect("less than ALIGNMENT"),
    }
}

/// A position within what is in memory.
fn index(position: u64) -> usize {
    usize::try_from(position).expect("within a slice")
}

/// Pieces for one call of the kernel.
pub(crate) struct Pieces<'a> {
    slices: [IoSlice<'a>; PIECES_MAX],
    len: usize,
}

impl<'a> Pieces<'a> {
    /// In the form that vectored writes take.
    pub(crate) fn as_slices(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use spliceway_common::fastcgi::{Reader, RecordEvent, push_stream_end};

    const ID: RequestId = RequestId::application(NonZeroU16::MIN);

    /// The stream as it would be sent if each call took `step` bytes.
    fn sent(frames: &Frames, prefix: &[u8], pattern: Pattern, step: u64) -> Vec<u8> {
        let mut all = Vec::new();
        while (all.len() as u64) < frames.total() {
            let from = all.len() as u64;
            let pieces = frames.pieces(prefix, pattern, from);
            let bytes = pieces
                .as_slices()
                .iter()
                .flat_map(|piece| piece.iter().copied());
            all.extend(bytes.take(usize::try_from(step).unwrap()));
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_records_carry_the_prefix_and_the_pattern(
            bytes in prop_oneof![0..300_u64, 65_400..65_700_u64, 130_900..131_400_u64, 0..2_000_000_u64],
            in_prefix in prop::option::of(0..300_usize),
            step in prop_oneof![1_000..70_000_u64, Just(u64::from(u32::MAX))],
            seed: u64,
        ) {
            let pattern = Pattern::of(seed);
            let begun = in_prefix.map(|in_prefix| Begun { in_prefix });
            let mut prefix = Vec::new();
            if let Some(begun) = begun {
                prefix.extend(begun.header(Kind::Stdout, ID, bytes).encode());
                prefix.resize(prefix.len() + begun.in_prefix, b'h');
            }
            let mut closing = Vec::new();
            push_stream_end(&mut closing, Kind::Stdout, ID);
            let frames = Frames::new(&Shape {
                kind: Kind::Stdout,
                id: ID,
                prefix_len: prefix.len(),
                begun,
                bytes,
                closing: &closing,
            });
            let stream = sent(&frames, &prefix, pattern, step);
            prop_assert_eq!(stream.len() as u64, frames.total());
            prop_assert_eq!(stream.len() % 8, 0);

            let (mut reader, mut input, mut content) = (Reader::new(), stream.as_slice(), Vec::new());
            let mut headers = Vec::new();
            while let Some(event) = reader.next(&mut input).unwrap() {
                match event {
                    RecordEvent::Begin(header) => headers.push(header),
                    RecordEvent::Content(piece) => content.extend_from_slice(piece),
                    RecordEvent::End => {}
                }
            }
            prop_assert_eq!(reader.finish(), Ok(()));
            let (head, body) = content.split_at(in_prefix.unwrap_or(0));
            prop_assert!(head.iter().all(|&byte| byte == b'h'));
            prop_assert_eq!(body.len() as u64, bytes);
            prop_assert_eq!(pattern.mismatch(0, body), None);
            let (end, records) = headers.split_last().unwrap();
            prop_assert_eq!(end.content_len, 0);
            // Only the last record may be less than full, and only a begun one empty.
            for header in records.iter().rev().skip(1) {
                prop_assert_eq!(usize::from(header.content_len), RECORD_CONTENT_MAX);
            }
        }
    }
}
