//! An answer in the records and writes that PHP-FPM makes of it.
//!
//! PHP-FPM gathers output in a buffer of 8 KiB and writes when that is full, and what is too large
//! for it straight from the script's string, each header in a write of its own (`fcgi_write` and
//! `fcgi_flush` in main/fastcgi.c). With Nagle's delay on, which PHP-FPM leaves on, every write behind
//! the first waits for the acknowledgement of the one before, unless it fills a segment. So where an
//! answer is cut decides how long it takes.
//!
//! Writes are found one after the other, and their content is borrowed from the pattern's table: an
//! answer takes as little memory as its first write.

use std::io::{self, IoSlice};

use crate::net::Stream;
use crate::pattern::Pattern;
use crate::synthetic::HEAD_LEN;
use spliceway_common::fastcgi::{EndRequest, HEADER_LEN, Header, Kind, ProtocolStatus, RequestId};

/// How a script hands its output over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Print {
    /// In one piece, as templates and frameworks do that render first.
    #[default]
    Whole,
    /// In pieces below 8 KiB. With `output_buffering = 4096`, which Debian sets, pieces are a little
    /// above 4 KiB however small those of the script are; the writes are the same for all sizes.
    Pieces,
}

/// PHP-FPM's buffer (`out_buf`).
const BUFFER_LEN: u64 = 8192;

/// The content of a record that fills it.
const BUFFERED_MAX: u64 = BUFFER_LEN - HEADER_LEN as u64;

/// Content of records that do not go through the buffer, while there is more than one of them needs.
const RECORD_CONTENT_MAX: u64 = 0xfff8;

/// What records are padded to (specification §3.3).
const ALIGNMENT: u64 = 8;

/// FCGI_END_REQUEST.
const END_LEN: usize = 2 * HEADER_LEN;

/// What may go before the pattern's bytes in a write: a header, the CGI header with its padding, and
/// the header of another record.
const LEAD_MAX: usize = 3 * HEADER_LEN + HEAD_LEN;

/// What may go behind them: padding and the end.
const TAIL_MAX: usize = HEADER_LEN + END_LEN;

/// An answer, as far as it is written.
pub(super) struct Writes {
    id: RequestId,
    head: [u8; HEAD_LEN],
    pattern: Pattern,
    /// Bytes of the pattern.
    body: u64,
    /// How many of them earlier writes have.
    written: u64,
    print: Print,
    next: Next,
    /// The write that is being sent, and how far it is.
    write: Write,
    sent: usize,
}

/// What the next write is.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// The one with the CGI header.
    First,
    /// The buffer: a full one, or the last one with the end.
    Buffer,
    /// The header of a record that does not go through the buffer.
    Header,
    /// Its content.
    Content,
    /// There is none.
    Nothing,
}

/// One write.
#[derive(Clone, Debug, Default)]
struct Write {
    lead: Bytes<LEAD_MAX>,
    /// From where of the pattern, and how much.
    content: (u64, usize),
    tail: Bytes<TAIL_MAX>,
}

/// A few bytes, in place.
#[derive(Clone, Debug)]
struct Bytes<const MAX: usize> {
    bytes: [u8; MAX],
    len: usize,
}

impl<const MAX: usize> Default for Bytes<MAX> {
    fn default() -> Self {
        let bytes = [0; MAX];
        Self { bytes, len: 0 }
    }
}

impl<const MAX: usize> Bytes<MAX> {
    fn push(&mut self, more: &[u8]) {
        self.bytes[self.len..self.len + more.len()].copy_from_slice(more);
        self.len += more.len();
    }

    fn pad(&mut self, content: u64) {
        self.len += usize::from(padding(content));
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write {
    fn len(&self) -> usize {
        self.lead.len + self.content.1 + self.tail.len
    }
}

impl Writes {
    pub(super) fn new(
        id: RequestId,
        head: [u8; HEAD_LEN],
        pattern: Pattern,
        body: u64,
        print: Print,
    ) -> Self {
        Self {
            id,
            head,
            pattern,
            body,
            written: 0,
            print,
            next: Next::First,
            write: Write::default(),
            sent: 0,
        }
    }

    /// Sends what fits; whether that was all.
    pub(super) fn send(&mut self, stream: &mut Stream) -> io::Result<bool> {
        loop {
            while self.sent < self.write.len() {
                match stream.send(&self.rest())? {
                    Some(sent) => self.sent += sent,
                    None => return Ok(false),
                }
            }
            match self.next_write() {
                Some(write) => (self.write, self.sent) = (write, 0),
                None => return Ok(true),
            }
        }
    }

    /// What is left of the current write.
    fn rest(&self) -> [IoSlice<'_>; 3] {
        let (from, len) = self.write.content;
        let content = self.pattern.slice(from, len);
        let mut skip = self.sent;
        [
            self.write.lead.as_slice(),
            content,
            self.write.tail.as_slice(),
        ]
        .map(|part| {
            let skipped = skip.min(part.len());
            skip -= skipped;
            IoSlice::new(&part[skipped..])
        })
    }

    fn next_write(&mut self) -> Option<Write> {
        match self.next {
            Next::First => Some(self.first()),
            Next::Buffer => Some(self.buffer()),
            Next::Header => {
                let mut write = Write::default();
                write.lead.push(&self.header(self.straight()));
                self.next = Next::Content;
                Some(write)
            }
            Next::Content => {
                let len = self.straight();
                let mut write = Write::default();
                self.take(&mut write, len);
                // Less than eight bytes are padded, which is the buffer's work.
                self.next = if self.left() < ALIGNMENT {
                    Next::Buffer
                } else {
                    Next::Header
                };
                Some(write)
            }
            Next::Nothing => None,
        }
    }

    fn first(&mut self) -> Write {
        let beside = BUFFERED_MAX - HEAD_LEN as u64;
        let mut write = Write::default();
        if self.body < beside {
            write.lead.push(&self.header(HEAD_LEN as u64 + self.body));
            write.lead.push(&self.head);
            self.take(&mut write, self.body);
            write.tail.pad(HEAD_LEN as u64 + self.body);
            self.end(&mut write);
        } else if self.print == Print::Pieces || self.body - beside < BUFFERED_MAX {
            write.lead.push(&self.header(BUFFERED_MAX));
            write.lead.push(&self.head);
            self.take(&mut write, beside);
            self.next = Next::Buffer;
        } else {
            write.lead.push(&self.header(HEAD_LEN as u64));
            write.lead.push(&self.head);
            write.lead.pad(HEAD_LEN as u64);
            write.lead.push(&self.header(self.straight()));
            self.next = Next::Content;
        }
        write
    }

    fn buffer(&mut self) -> Write {
        let mut write = Write::default();
        let len = self.left().min(BUFFERED_MAX);
        if len > 0 {
            write.lead.push(&self.header(len));
            self.take(&mut write, len);
            write.tail.pad(len);
        }
        // A buffer that is just full is written before it is known that nothing follows.
        if len < BUFFERED_MAX {
            self.end(&mut write);
        }
        write
    }

    fn end(&mut self, write: &mut Write) {
        let end = EndRequest {
            app_status: 0,
            protocol_status: ProtocolStatus::RequestComplete,
        };
        let end = end.encode();
        let header = Header {
            kind: Kind::EndRequest,
            request_id: self.id,
            content_len: 8,
            padding_len: 0,
        };
        write.tail.push(&header.encode());
        write.tail.push(&end);
        self.next = Next::Nothing;
    }

    /// The content of the next record that does not go through the buffer.
    fn straight(&self) -> u64 {
        match self.left() {
            left @ 0..=0xffff => left - left % ALIGNMENT,
            _ => RECORD_CONTENT_MAX,
        }
    }

    fn take(&mut self, write: &mut Write, len: u64) {
        let count = usize::try_from(len).expect("within a record");
        write.content = (self.written, count);
        self.written += len;
    }

    fn left(&self) -> u64 {
        self.body - self.written
    }

    fn header(&self, content: u64) -> [u8; HEADER_LEN] {
        Header {
            kind: Kind::Stdout,
            request_id: self.id,
            content_len: u16::try_from(content).expect("within a record"),
            padding_len: padding(content),
        }
        .encode()
    }
}

fn padding(content: u64) -> u8 {
    let padding = content.next_multiple_of(ALIGNMENT) - content;
    u8::try_from(padding).expect("less than ALIGNMENT")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use spliceway_common::fastcgi::{Reader, RecordEvent};

    const ID: RequestId = RequestId::application(NonZeroU16::MIN);

    fn writes(body: u64, print: Print) -> Writes {
        Writes::new(ID, [b'h'; HEAD_LEN], Pattern::of(7), body, print)
    }

    /// All writes of an answer, each put together.
    fn all(body: u64, print: Print) -> Vec<Vec<u8>> {
        let mut writes = writes(body, print);
        let mut all = Vec::new();
        while let Some(write) = writes.next_write() {
            (writes.write, writes.sent) = (write, 0);
            let parts = writes.rest();
            all.push(parts.iter().flat_map(|part| part.to_vec()).collect());
        }
        all
    }

    /// PHP-FPM's buffer as main/fastcgi.c has it, lengths only.
    #[derive(Default)]
    struct OutBuf {
        used: usize,
        open: Option<usize>,
        writes: Vec<usize>,
    }

    impl OutBuf {
        const LEN: usize = 8192;

        fn close(&mut self) {
            if let Some(from) = self.open.take() {
                self.used += (self.used - from).next_multiple_of(8) - (self.used - from);
            }
        }

        fn open(&mut self) {
            if self.open.is_none() {
                self.used += 8;
                self.open = Some(self.used);
            }
        }

        fn flush(&mut self, end: usize) {
            self.close();
            self.writes.push(self.used + end);
            self.used = 0;
        }

        fn write(&mut self, len: usize) {
            let header = if self.open.is_none() { 8 } else { 0 };
            let limit = (Self::LEN - self.used).saturating_sub(header);
            if len == 0 {
            } else if len < limit {
                self.open();
                self.used += len;
            } else if len - limit < Self::LEN - 8 {
                self.open();
                self.used += limit;
                self.flush(0);
                if len > limit {
                    self.open();
                    self.used += len - limit;
                }
            } else {
                self.close();
                let mut rest = len;
                while rest > 0xffff {
                    self.used += 8;
                    self.flush(0);
                    self.writes.push(0xfff8);
                    rest -= 0xfff8;
                }
                self.used += 8;
                self.flush(0);
                self.writes.push(rest - rest % 8);
                if !rest.is_multiple_of(8) {
                    self.open();
                    self.used += rest % 8;
                }
            }
        }
    }

    fn expected(body: u64, piece: usize) -> Vec<usize> {
        let mut buffer = OutBuf::default();
        buffer.write(HEAD_LEN);
        let mut left = usize::try_from(body).unwrap();
        while left > 0 {
            let len = left.min(piece);
            buffer.write(len);
            left -= len;
        }
        buffer.flush(16);
        buffer.writes
    }

    fn sizes() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..300_u64,
            7_900..8_400_u64,
            16_000..16_500_u64,
            65_000..66_500_u64,
            130_900..131_400_u64,
            0..400_000_u64,
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn writes_are_those_of_php_fpm(body in sizes(), piece in 1..8_184_usize) {
            let lens = |print| -> Vec<usize> { all(body, print).iter().map(Vec::len).collect() };
            prop_assert_eq!(lens(Print::Whole), expected(body, usize::MAX));
            prop_assert_eq!(lens(Print::Pieces), expected(body, piece));
        }

        #[test]
        fn records_carry_the_head_and_the_pattern(body in sizes(), pieces: bool) {
            let print = if pieces { Print::Pieces } else { Print::Whole };
            let stream = all(body, print).concat();
            prop_assert_eq!(stream.len() % 8, 0);
            let (mut reader, mut input, mut content) = (Reader::new(), &stream[..], Vec::new());
            let (mut kind, mut end) = (Kind::Stdout, Vec::new());
            while let Some(event) = reader.next(&mut input).unwrap() {
                match event {
                    RecordEvent::Begin(header) => kind = header.kind,
                    RecordEvent::Content(piece) if kind == Kind::Stdout => content.extend_from_slice(piece),
                    RecordEvent::Content(piece) => end.extend_from_slice(piece),
                    RecordEvent::End => {}
                }
            }
            prop_assert_eq!(reader.finish(), Ok(()));
            prop_assert_eq!((kind, end), (Kind::EndRequest, vec![0; 8]));
            prop_assert_eq!(&content[..HEAD_LEN], [b'h'; HEAD_LEN]);
            prop_assert_eq!(content.len() as u64, HEAD_LEN as u64 + body);
            prop_assert_eq!(Pattern::of(7).mismatch(0, &content[HEAD_LEN..]), None);
        }
    }
}
