//! Finding the records in a byte stream (specification §3.3).
//!
//! [`Reader`] reports where records begin and end and hands their content on as slices of the
//! caller's own buffer: nothing is copied, and a record is never assembled. Who needs the content
//! of a small record in one piece gathers it in a [`FixedBody`](super::FixedBody); who needs a
//! stream keeps it with a bound of its own.

use super::record::{HEADER_LEN, Header, Malformed};

/// What [`Reader::next`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordEvent<'a> {
    /// A record begins.
    Begin(Header),
    /// The next piece of its content, never empty: a slice of the input.
    Content(&'a [u8]),
    /// The record is over, padding included: the next byte begins another one.
    End,
}

/// Where the reader stands in the stream.
#[derive(Clone, Copy, Debug)]
enum Position {
    /// In a header, of which `len` bytes are here. At 0, between two records.
    Header { bytes: [u8; HEADER_LEN], len: usize },
    /// In the content, and then comes padding.
    Content { left: u16, padding_len: u8 },
    /// Behind the content.
    Padding { left: u8 },
    /// Behind bytes that are not FastCGI. There is no way back: the framing is lost.
    Lost(Malformed),
}

impl Position {
    const BETWEEN_RECORDS: Self = Self::Header {
        bytes: [0; HEADER_LEN],
        len: 0,
    };
}

/// Finds the records in a byte stream that arrives in pieces of any size.
///
/// It keeps a partial header and two counters, never content.
#[derive(Clone, Debug)]
pub struct Reader {
    position: Position,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader at the beginning of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            position: Position::BETWEEN_RECORDS,
        }
    }

    /// Reads on in `input` up to the next event and advances `input` behind what it has read.
    ///
    /// `None` means that `input` is used up and more is needed. Each record gives one
    /// [`RecordEvent::Begin`], pieces of content as they come, and one [`RecordEvent::End`]; the caller calls
    /// again until `None`, because an end may be due without a further byte.
    ///
    /// # Errors
    ///
    /// [`Malformed::Version`]. From then on every call gives the same error.
    #[inline]
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<RecordEvent<'a>>, Malformed> {
        match self.position {
            Position::Header { bytes, len } => self.header(bytes, len, input),
            Position::Content {
                left: 0,
                padding_len,
            } => {
                self.position = Position::Padding { left: padding_len };
                Ok(self.padding(padding_len, input))
            }
            Position::Content { left, padding_len } => Ok(self.content(left, padding_len, input)),
            Position::Padding { left } => Ok(self.padding(left, input)),
            Position::Lost(malformed) => Err(malformed),
        }
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`] inside a record, or the error that [`Reader::next`] gave.
    pub const fn finish(&self) -> Result<(), Malformed> {
        match self.position {
            Position::Header { len: 0, .. } => Ok(()),
            Position::Lost(malformed) => Err(malformed),
            Position::Header { .. } | Position::Content { .. } | Position::Padding { .. } => {
                Err(Malformed::Truncated)
            }
        }
    }

    /// Whether the next byte begins a record, or nothing was read at all.
    #[must_use]
    #[inline]
    pub const fn is_between_records(&self) -> bool {
        matches!(self.position, Position::Header { len: 0, .. })
    }

    /// What was read of a header that is not complete; empty within a record, and between two of them.
    #[must_use]
    pub fn partial_header(&self) -> &[u8] {
        match &self.position {
            Position::Header { bytes, len } => &bytes[..*len],
            Position::Content { .. } | Position::Padding { .. } | Position::Lost(_) => &[],
        }
    }

    /// Bytes of the current record that are still to come, padding included; 0 between records.
    #[must_use]
    #[inline]
    pub const fn left(&self) -> usize {
        match self.position {
            Position::Content { left, padding_len } => left as usize + padding_len as usize,
            Position::Padding { left } => left as usize,
            Position::Header { .. } | Position::Lost(_) => 0,
        }
    }

    /// Bytes of the current record's content that are still to come.
    #[must_use]
    #[inline]
    pub const fn content_left(&self) -> usize {
        match self.position {
            Position::Content { left, .. } => left as usize,
            Position::Padding { .. } | Position::Header { .. } | Position::Lost(_) => 0,
        }
    }

    /// Begins a record whose header went another way than through [`Reader::next`].
    ///
    /// # Panics
    ///
    /// In the midst of a record.
    #[inline]
    pub fn begin(&mut self, header: Header) {
        assert!(self.is_between_records(), "the last record is over");
        self.position = Position::Content {
            left: header.content_len,
            padding_len: header.padding_len,
        };
    }

    /// Steps over bytes of the current record that went another way than through [`Reader::next`].
    /// Behind the last of them it is between two records, and tells of no [`RecordEvent::End`]. Returns how
    /// many of them were content; the others were padding.
    ///
    /// # Panics
    ///
    /// If there are more than [`Reader::left`].
    #[inline]
    pub fn skip(&mut self, bytes: usize) -> usize {
        let left = self.left().checked_sub(bytes);
        let left = left.expect("the caller asked how many are left");
        let content = match self.position {
            Position::Content { left, .. } => bytes.min(usize::from(left)),
            Position::Header { .. } | Position::Padding { .. } | Position::Lost(_) => 0,
        };
        match &mut self.position {
            Position::Content { .. } | Position::Padding { .. } if left == 0 => {
                self.position = Position::BETWEEN_RECORDS;
            }
            Position::Content {
                left: content,
                padding_len,
            } => {
                let padding = usize::from(*padding_len);
                *content = narrow(left.saturating_sub(padding));
                *padding_len = narrow(left.min(padding));
            }
            Position::Padding { left: padding } => *padding = narrow(left),
            Position::Header { .. } | Position::Lost(_) => {}
        }
        content
    }

    #[inline]
    fn header<'a>(
        &mut self,
        mut bytes: [u8; HEADER_LEN],
        mut len: usize,
        input: &mut &'a [u8],
    ) -> Result<Option<RecordEvent<'a>>, Malformed> {
        let piece = take(input, HEADER_LEN - len);
        bytes[len..len + piece.len()].copy_from_slice(piece);
        len += piece.len();
        if len < HEADER_LEN {
            self.position = Position::Header { bytes, len };
            return Ok(None);
        }
        let header =
            Header::decode(bytes).inspect_err(|&lost| self.position = Position::Lost(lost))?;
        self.position = Position::Content {
            left: header.content_len,
            padding_len: header.padding_len,
        };
        Ok(Some(RecordEvent::Begin(header)))
    }

    #[inline]
    fn content<'a>(
        &mut self,
        left: u16,
        padding_len: u8,
        input: &mut &'a [u8],
    ) -> Option<RecordEvent<'a>> {
        let piece = take(input, usize::from(left));
        let len: u16 = narrow(piece.len());
        self.position = Position::Content {
            left: left - len,
            padding_len,
        };
        (!piece.is_empty()).then_some(RecordEvent::Content(piece))
    }

    #[inline]
    fn padding<'a>(&mut self, left: u8, input: &mut &'a [u8]) -> Option<RecordEvent<'a>> {
        let piece = take(input, usize::from(left));
        let left = left - narrow::<u8>(piece.len());
        if left > 0 {
            self.position = Position::Padding { left };
            return None;
        }
        self.position = Position::BETWEEN_RECORDS;
        Some(RecordEvent::End)
    }
}

/// A part of a length is not longer than the length.
fn narrow<T: TryFrom<usize>>(part: usize) -> T {
    let Ok(part) = part.try_into() else {
        unreachable!("a part is longer than the whole");
    };
    part
}

/// Takes up to `len` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (piece, rest) = input.split_at(len.min(input.len()));
    *input = rest;
    piece
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::num::NonZeroU16;

    use super::super::record::{
        ALIGNMENT, CONTENT_MAX, Kind, RequestId, push_record, push_stream, push_stream_end,
    };
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Record {
        header: Header,
        content: Vec<u8>,
    }

    impl Record {
        fn encode(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.header.encode());
            out.extend_from_slice(&self.content);
            // Padding means nothing: fill it with what would be a mistake anywhere else.
            out.resize(out.len() + usize::from(self.header.padding_len), 0xff);
        }
    }

    fn one() -> RequestId {
        RequestId::application(NonZeroU16::MIN)
    }

    /// Decodes `stream`, cut into pieces at `cuts`.
    fn decode(stream: &[u8], cuts: &[usize]) -> Result<Vec<Record>, Malformed> {
        let mut reader = Reader::new();
        let mut records = Vec::new();
        let mut open: Option<Record> = None;
        let mut from = 0;
        for &to in cuts.iter().chain([&stream.len()]) {
            let mut input = &stream[from..to];
            from = to;
            while let Some(event) = reader.next(&mut input)? {
                match event {
                    RecordEvent::Begin(header) => {
                        assert!(
                            open.replace(Record {
                                header,
                                content: Vec::new()
                            })
                            .is_none()
                        );
                    }
                    RecordEvent::Content(piece) => {
                        assert!(!piece.is_empty());
                        open.as_mut().unwrap().content.extend_from_slice(piece);
                    }
                    RecordEvent::End => records.push(open.take().unwrap()),
                }
            }
            assert!(input.is_empty());
        }
        reader.finish()?;
        Ok(records)
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let content = prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), CONTENT_MAX)];
        (any::<u8>(), any::<u16>(), any::<u8>(), content).prop_map(
            |(kind, id, padding_len, content)| Record {
                header: Header {
                    kind: Kind::from_byte(kind),
                    request_id: RequestId::from_number(id),
                    content_len: u16::try_from(content.len()).unwrap(),
                    padding_len,
                },
                content,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_split_of_a_stream_decodes_to_the_same_records(
            records in vec(any_record(), 0..6),
            cuts in vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let mut stream = Vec::new();
            records.iter().for_each(|record| record.encode(&mut stream));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            prop_assert_eq!(decode(&stream, &cuts), Ok(records));
        }

        #[test]
        fn any_truncation_is_noticed(record in any_record(), cut in any::<prop::sample::Index>()) {
            let mut stream = Vec::new();
            record.encode(&mut stream);
            let cut = cut.index(stream.len() - 1) + 1;
            prop_assert_eq!(decode(&stream[..cut], &[]), Err(Malformed::Truncated));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
            let mut reader = Reader::new();
            let mut input = bytes.as_slice();
            while let Ok(Some(_)) = reader.next(&mut input) {}
        }
    }

    #[test]
    fn a_stream_fed_byte_by_byte_decodes_to_the_same_records() {
        let mut stream = Vec::new();
        push_record(&mut stream, Kind::Stdout, one(), b"hello");
        push_stream_end(&mut stream, Kind::Stdout, one());
        let cuts: Vec<usize> = (0..stream.len()).collect();
        let records = decode(&stream, &cuts).unwrap();
        assert_eq!(records, decode(&stream, &[]).unwrap());
        assert_eq!(records[0].content, b"hello");
        assert_eq!(records[1].header.content_len, 0);
    }

    #[test]
    fn another_version_is_an_error_that_stays() {
        let mut reader = Reader::new();
        let mut input: &[u8] = b"HTTP/1.1 400";
        assert_eq!(reader.next(&mut input), Err(Malformed::Version(b'H')));
        assert_eq!(reader.next(&mut input), Err(Malformed::Version(b'H')));
        assert_eq!(reader.finish(), Err(Malformed::Version(b'H')));
    }

    #[test]
    fn records_are_padded_to_eight_bytes() {
        for len in 0..20 {
            let mut out = Vec::new();
            push_record(&mut out, Kind::Stdin, one(), &vec![7; len]);
            assert_eq!(out.len() % ALIGNMENT, 0);
            assert_eq!(decode(&out, &[]).unwrap()[0].content, vec![7; len]);
        }
    }

    #[test]
    fn bytes_that_went_another_way_are_stepped_over() {
        let mut stream = Vec::new();
        push_record(&mut stream, Kind::Stdout, one(), b"hello");
        for skipped in 0..=8 {
            let mut reader = Reader::new();
            let mut input = &stream[..HEADER_LEN];
            assert!(matches!(
                reader.next(&mut input),
                Ok(Some(RecordEvent::Begin(_)))
            ));
            assert_eq!(reader.left(), 8);
            assert_eq!(reader.skip(skipped), skipped.min(5));
            assert_eq!(reader.left(), 8 - skipped);
            assert_eq!(reader.is_between_records(), skipped == 8);
            let mut input = &stream[HEADER_LEN + skipped..];
            while let Some(event) = reader.next(&mut input).unwrap() {
                if let RecordEvent::Content(piece) = event {
                    assert_eq!(piece, &b"hello"[skipped..]);
                }
            }
            assert_eq!((reader.left(), reader.is_between_records()), (0, true));
        }
    }

    #[test]
    fn a_long_stream_becomes_several_records_and_an_empty_one_none() {
        let content = vec![3; 2 * CONTENT_MAX + 1];
        let mut out = Vec::new();
        push_stream(&mut out, Kind::Stdin, one(), &[]);
        assert!(out.is_empty());
        push_stream(&mut out, Kind::Stdin, one(), &content);
        let records = decode(&out, &[]).unwrap();
        assert_eq!(
            records.iter().map(|r| r.content.len()).collect::<Vec<_>>(),
            [CONTENT_MAX, CONTENT_MAX, 1]
        );
    }
}
