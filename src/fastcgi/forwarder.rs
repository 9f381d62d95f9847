//! Sending records on: what the readers of both directions have in common.
//!
//! A [`Forwarder`] finds the records of a stream, in whatever pieces it comes, and alone says which bytes go
//! on. [`Rules`] are what differs: which records a peer may send, what they mean, and in which [`Way`] each of
//! them goes on. What holds:
//!
//! - **Every byte is taken once**: by [`Forwarder::next`], or by [`Forwarder::passed`] if it goes another way.
//! - **A record begins only where nothing of another one is missing**, and after the rules have ruled on its
//!   header. Until then its header is held. From then on its way is fixed, except that the rest of it may be
//!   withheld.
//! - **Nothing goes on of a record that breaks the rules**, nor of what is behind it: a failure is final.
//! - What goes on stays in order: a record that does not simply follow what goes on of a slice waits until
//!   that has been told.

mod slice;

use super::pass::Pass;
use slice::{Slice, part_of};
use spliceway_common::fastcgi::{FixedBody, HEADER_LEN, Header, Malformed, Reader, RecordEvent};

/// What differs between a client's records and a backend's.
pub(super) trait Rules {
    /// What a record is.
    type Fate: Copy + std::fmt::Debug;
    /// What the session is told.
    type Event;
    /// What is wrong with a record.
    type Cause: From<Malformed>;
    /// That, and where.
    type Error: Copy + std::fmt::Debug;

    /// What becomes of a record with this header, if it comes next. Nothing changes by the question: it is
    /// asked again of a header that was held, and of one that was only seen.
    fn rule(&self, header: Header) -> Result<Ruling<Self::Fate, Self::Event>, Self::Cause>;

    /// Whether a record of this fate may go on without being read.
    fn passes_unread(&self, fate: Self::Fate) -> bool;

    /// It begins.
    fn begin(&mut self, fate: Self::Fate, header: Header);

    /// A piece of its content.
    fn content(&mut self, fate: Self::Fate, piece: &[u8]) -> Result<(), Self::Cause>;

    /// So much of its content went on unread.
    fn unread(&mut self, fate: Self::Fate, content: usize);

    /// It is over, and its last bytes were read. `body` is there if it was gathered.
    fn end(
        &mut self,
        fate: Self::Fate,
        body: Option<[u8; HEADER_LEN]>,
    ) -> Result<Step<Self::Event>, Self::Cause>;

    /// What is to be told before more is read.
    fn due(&mut self) -> Option<Self::Event>;

    /// The event that sends this on.
    fn pass(pass: Pass) -> Self::Event;

    /// The error of the record that begins at this byte.
    fn error(at: u64, cause: Self::Cause) -> Self::Error;
}

/// What becomes of a record.
pub(super) enum Ruling<F, E> {
    /// It begins.
    Begin(F, Way),
    /// It does not begin yet: this is told, and its header is held.
    Wait(E),
}

/// In which way a record goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// Not at all.
    Kept,
    /// Not at all; its content, which is of fixed length, is gathered for the rules.
    Gathered(FixedBody),
    /// Its header, which announces no content, and without the padding.
    Unpadded,
    /// As it came, padding included.
    AsItCame,
    /// What has come of it as a record of that length, and its rest as another one. So what has gone on ends at
    /// a record's boundary.
    InParts,
    /// The same, with this much more of its content behind a header that has gone on.
    Promised(usize),
    /// When all of it has come; its content is of fixed length, and gathered for the rules.
    Whole(FixedBody),
}

impl Way {
    /// Whether it may simply follow what goes on before it.
    const fn follows(self) -> bool {
        match self {
            Self::AsItCame | Self::InParts | Self::Promised(_) | Self::Whole(_) => true,
            Self::Kept | Self::Gathered(_) | Self::Unpadded => false,
        }
    }
}

/// What a step led to.
pub(super) enum Step<E> {
    /// The next step.
    On,
    /// This is told. Nothing was to go on that was not told.
    Event(E),
    /// What goes on is told, and then what is due, if anything is.
    Tell,
    /// No further in this slice, or not before what goes on is told.
    Stop,
}

/// The record that the stream is in.
#[derive(Clone, Copy, Debug)]
enum Current<F> {
    /// None: between two of them, or in a header.
    Between,
    /// Its header was read and not yet acted on.
    Held(Header),
    /// It has begun.
    Open { header: Header, fate: F, way: Way },
}

/// Where a stream stands.
pub(super) enum Standing<'a, F> {
    /// Between two records, or behind these bytes of a header.
    InHeader(&'a [u8]),
    /// Behind a header that was not acted on.
    Before(Header),
    /// In a record that has begun.
    Within {
        header: Header,
        fate: F,
        /// What has come of its content, where that is gathered.
        gathered: &'a [u8],
        content_left: usize,
        padding_left: usize,
    },
}

/// Finds the records of a stream and sends them on by these rules.
#[derive(Clone, Debug)]
pub(super) struct Forwarder<R: Rules> {
    rules: R,
    records: Reader,
    current: Current<R::Fate>,
    /// Bytes of the current record's header that were seen and not yet taken.
    ahead: usize,
    /// Bytes of the stream that were taken.
    read: u64,
    /// Where the current record begins.
    record_at: u64,
    failed: Option<R::Error>,
}

impl<R: Rules> Forwarder<R> {
    pub(super) const fn new(rules: R) -> Self {
        Self {
            rules,
            records: Reader::new(),
            current: Current::Between,
            ahead: 0,
            read: 0,
            record_at: 0,
            failed: None,
        }
    }

    pub(super) const fn rules(&self) -> &R {
        &self.rules
    }

    pub(super) const fn rules_mut(&mut self) -> &mut R {
        &mut self.rules
    }

    /// Bytes of the stream so far.
    pub(super) const fn read(&self) -> u64 {
        self.read
    }

    /// What the current record is, if one has begun.
    pub(super) const fn fate(&self) -> Option<R::Fate> {
        match self.current {
            Current::Open { fate, .. } => Some(fate),
            Current::Between | Current::Held(_) => None,
        }
    }

    /// Where the stream stands within a record, for another reader that is to go on from here.
    pub(super) fn standing(&self) -> Standing<'_, R::Fate> {
        let rest = (self.records.content_left(), self.records.left());
        match &self.current {
            Current::Between => Standing::InHeader(self.records.partial_header()),
            Current::Held(header) => Standing::Before(*header),
            Current::Open { header, fate, way } => Standing::Within {
                header: *header,
                fate: *fate,
                gathered: match way {
                    Way::Gathered(body) | Way::Whole(body) => body.gathered(),
                    Way::Kept | Way::Unpadded | Way::AsItCame | Way::InParts | Way::Promised(_) => {
                        &[]
                    }
                },
                content_left: rest.0,
                padding_left: rest.1 - rest.0,
            },
        }
    }

    /// Whether the next byte begins a record, and nothing of an earlier one is owed.
    pub(super) const fn is_at_header(&self) -> bool {
        self.records.is_between_records() && matches!(self.current, Current::Between)
    }

    /// Whether a record has begun whose header is still to be taken.
    pub(super) const fn is_ahead(&self) -> bool {
        self.ahead > 0
    }

    /// Whether the next byte that goes on begins a record.
    pub(super) const fn is_between_forwarded(&self) -> bool {
        match self.current {
            Current::Open {
                way: Way::AsItCame, ..
            } => self.ahead == HEADER_LEN,
            Current::Open {
                way: Way::Promised(_),
                ..
            } => false,
            Current::Open { .. } | Current::Between | Current::Held(_) => true,
        }
    }

    /// Reads on in `input` from `at` up to the next event and moves `at` behind what it has read. `None`:
    /// `input` is used up.
    pub(super) fn next(
        &mut self,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Option<R::Event>, R::Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let Some(event) = self.rules.due() {
            return Ok(Some(event));
        }
        let mut slice = Slice::new(input, *at, self.is_in_parts());
        let found = self.read_on(&mut slice);
        *at = slice.at;
        found
    }

    fn read_on(&mut self, slice: &mut Slice<'_>) -> Result<Option<R::Event>, R::Error> {
        loop {
            match self.step(slice) {
                Ok(Step::On) => {}
                Ok(Step::Event(event)) => {
                    assert!(slice.pass.is_empty(), "what goes on before it is told");
                    return Ok(Some(event));
                }
                // First what was found before it.
                Ok(Step::Tell | Step::Stop) | Err(_) if !slice.pass.is_empty() => {
                    return Ok(Some(R::pass(std::mem::take(&mut slice.pass))));
                }
                Ok(Step::Tell) => {
                    if let Some(event) = self.rules.due() {
                        return Ok(Some(event));
                    }
                }
                Ok(Step::Stop) => return Ok(None),
                Err(cause) => {
                    return Err(*self.failed.insert(R::error(self.record_at, cause)));
                }
            }
        }
    }

    fn step(&mut self, slice: &mut Slice<'_>) -> Result<Step<R::Event>, R::Cause> {
        match self.current {
            Current::Held(header) => return self.open(header, false, slice),
            Current::Open {
                way: Way::Promised(left),
                ..
            } => {
                let here = left.min(slice.rest().len());
                slice.at += here;
                slice.pass.reach(slice.at);
                self.skip(here);
                return Ok(Step::Stop);
            }
            Current::Open { way, .. } if self.ahead > 0 => {
                self.take_header(way, slice);
                return Ok(if self.ahead > 0 { Step::Stop } else { Step::On });
            }
            Current::Between if self.records.is_between_records() => self.record_at = self.read,
            Current::Between | Current::Open { .. } => {}
        }
        let before = slice.rest().len();
        let mut rest = slice.rest();
        let found = self.records.next(&mut rest);
        let len = before - rest.len();
        slice.at += len;
        self.read += len as u64;
        match found {
            Err(malformed) => Err(malformed.into()),
            Ok(Some(RecordEvent::Begin(header))) => self.open(header, len == HEADER_LEN, slice),
            Ok(Some(RecordEvent::Content(piece))) => self.content(piece, slice),
            Ok(Some(RecordEvent::End)) => self.close(len, slice),
            Ok(None) => {
                self.cut(len, slice);
                Ok(Step::Stop)
            }
        }
    }

    /// Takes what is here of a header that was only seen.
    fn take_header(&mut self, way: Way, slice: &mut Slice<'_>) {
        let here = self.ahead.min(slice.rest().len());
        slice.at += here;
        self.ahead -= here;
        self.read += here as u64;
        if matches!(way, Way::AsItCame) {
            slice.pass.reach(slice.at);
        }
    }

    /// Decides on a record whose header ends here, and is all in this slice if `whole`.
    fn open(
        &mut self,
        header: Header,
        whole: bool,
        slice: &mut Slice<'_>,
    ) -> Result<Step<R::Event>, R::Cause> {
        // Acted on later, unless it begins.
        self.current = Current::Held(header);
        match self.rules.rule(header)? {
            Ruling::Begin(_, way) if !way.follows() && !slice.pass.is_empty() => Ok(Step::Stop),
            Ruling::Wait(_) if !slice.pass.is_empty() => Ok(Step::Stop),
            Ruling::Wait(event) => Ok(Step::Event(event)),
            Ruling::Begin(fate, way) => {
                self.rules.begin(fate, header);
                self.current = Current::Open { header, fate, way };
                slice.open(header, way, whole);
                Ok(Step::On)
            }
        }
    }

    fn content(&mut self, piece: &[u8], slice: &mut Slice<'_>) -> Result<Step<R::Event>, R::Cause> {
        let Current::Open { fate, way, .. } = &mut self.current else {
            unreachable!("content is of a record that has begun");
        };
        match way {
            Way::Kept => {}
            Way::Gathered(body) | Way::Whole(body) => body.push(piece),
            Way::AsItCame => slice.pass.reach(slice.at),
            Way::InParts => slice.add_content(piece.len()),
            Way::Unpadded => unreachable!("its header announces no content"),
            Way::Promised(_) => unreachable!("what is promised is not read"),
        }
        self.rules.content(*fate, piece)?;
        Ok(Step::On)
    }

    /// The record is over. Its last bytes are padding, of which so many are in this step.
    fn close(&mut self, padding: usize, slice: &mut Slice<'_>) -> Result<Step<R::Event>, R::Cause> {
        let current = std::mem::replace(&mut self.current, Current::Between);
        let Current::Open { header, fate, way } = current else {
            unreachable!("the record that is over had begun");
        };
        let body = match way {
            Way::Kept | Way::Unpadded => None,
            Way::AsItCame => {
                slice.pass.reach(slice.at);
                None
            }
            Way::InParts => {
                slice.add_padding(padding);
                slice.close_part(header, true);
                None
            }
            Way::Gathered(body) => Some(fixed(body)),
            Way::Whole(body) => {
                slice.close_whole(header, fixed(body));
                Some(fixed(body))
            }
            Way::Promised(_) => unreachable!("what is promised is not read"),
        };
        self.rules.end(fate, body)
    }

    /// The slice is used up. Its last bytes may be padding, so many in this step.
    fn cut(&mut self, padding: usize, slice: &mut Slice<'_>) {
        let Current::Open { header, way, .. } = self.current else {
            return;
        };
        match way {
            Way::Kept | Way::Gathered(_) | Way::Unpadded => {}
            Way::AsItCame => slice.pass.reach(slice.at),
            Way::InParts => {
                if self.records.content_left() == 0 {
                    slice.add_padding(padding);
                }
                slice.close_part(header, false);
            }
            Way::Whole(_) => slice.cut_whole(),
            Way::Promised(_) => unreachable!("what is promised is not read"),
        }
    }

    const fn is_in_parts(&self) -> bool {
        matches!(
            self.current,
            Current::Open {
                way: Way::InParts,
                ..
            }
        )
    }

    /// Nothing more goes on of the current record, which is now of this fate.
    pub(super) fn withhold(&mut self, of: R::Fate) {
        if let Current::Open { fate, way, .. } = &mut self.current {
            assert!(
                !matches!(way, Way::Promised(_)),
                "it was promised that it goes on"
            );
            (*fate, *way) = (of, Way::Kept);
        }
    }

    /// What a record would be, if its header, `bytes`, comes next, and may begin unread.
    pub(super) fn unread_next(&self, bytes: [u8; HEADER_LEN]) -> Option<(Header, R::Fate)> {
        let header = Header::decode(bytes).ok()?;
        // What has no content ends a stream: it is read.
        if header.content_len == 0 || !self.is_at_header() || self.failed.is_some() {
            return None;
        }
        match self.rules.rule(header) {
            Ok(Ruling::Begin(fate, _)) if self.rules.passes_unread(fate) => Some((header, fate)),
            Ok(Ruling::Begin(..) | Ruling::Wait(_)) | Err(_) => None,
        }
    }

    /// Begins the record whose header is `bytes`, which come next and were not taken yet. From now on they and
    /// the record are [`Forwarder::passable`]. False, and nothing happens, unless [`Forwarder::unread_next`].
    pub(super) fn pass_next(&mut self, bytes: [u8; HEADER_LEN]) -> bool {
        let has_begun = self.begin_unread(bytes, Way::AsItCame);
        if has_begun {
            self.ahead = HEADER_LEN;
        }
        has_begun
    }

    /// Begins the record whose header is `bytes`, which were taken. From now on its content is
    /// [`Forwarder::framable`]. False in the same cases.
    pub(super) fn frame_next(&mut self, bytes: [u8; HEADER_LEN]) -> bool {
        let has_begun = self.begin_unread(bytes, Way::InParts);
        if has_begun {
            self.read += HEADER_LEN as u64;
        }
        has_begun
    }

    fn begin_unread(&mut self, bytes: [u8; HEADER_LEN], way: Way) -> bool {
        let Some((header, fate)) = self.unread_next(bytes) else {
            return false;
        };
        self.records.begin(header);
        self.record_at = self.read;
        self.rules.begin(fate, header);
        self.current = Current::Open { header, fate, way };
        true
    }

    /// How many of the bytes that come next go on as they are, without being read. They belong to one record,
    /// the header of which is among them or has gone on, as it was or for just these bytes.
    pub(super) const fn passable(&self) -> usize {
        match self.current {
            Current::Open {
                way: Way::AsItCame, ..
            } => self.ahead + self.records.left(),
            Current::Open {
                way: Way::Promised(left),
                ..
            } => left,
            Current::Open { .. } | Current::Between | Current::Held(_) => 0,
        }
    }

    /// This many of the passable bytes went another way.
    pub(super) fn passed(&mut self, bytes: usize) {
        assert!(bytes <= self.passable(), "the caller asked how many");
        let of_header = self.ahead.min(bytes);
        self.ahead -= of_header;
        self.read += of_header as u64;
        self.skip(bytes - of_header);
    }

    /// How many of the bytes that come next may go on unread behind a header of our own: content of one record.
    pub(super) fn framable(&self) -> usize {
        match self.current {
            Current::Open {
                fate,
                way: Way::InParts,
                ..
            } if self.rules.passes_unread(fate) => self.records.content_left(),
            Current::Open { .. } | Current::Between | Current::Held(_) => 0,
        }
    }

    /// Whether the current record's content is framable, and none of it has come.
    pub(super) fn awaits_content(&self) -> bool {
        match self.current {
            Current::Open { header, .. } => {
                let framable = self.framable();
                framable > 0 && framable == usize::from(header.content_len)
            }
            Current::Between | Current::Held(_) => false,
        }
    }

    /// This many of the framable bytes, all of which are at hand, go on behind the header that this returns.
    /// From now on they are passable.
    pub(super) fn promise(&mut self, bytes: usize) -> [u8; HEADER_LEN] {
        assert!(
            bytes > 0 && bytes <= self.framable(),
            "the caller asked how many"
        );
        let Current::Open { header, way, .. } = &mut self.current else {
            unreachable!("something is framable");
        };
        *way = Way::Promised(bytes);
        part_of(*header, bytes, 0).encode()
    }

    /// So many bytes behind the current record's header went on unread.
    fn skip(&mut self, bytes: usize) {
        let Current::Open { fate, way, .. } = &mut self.current else {
            assert!(bytes == 0, "what goes on is of a record");
            return;
        };
        let content = self.records.skip(bytes);
        self.read += bytes as u64;
        self.rules.unread(*fate, content);
        if let Way::Promised(left) = way {
            *way = match *left - bytes {
                0 => Way::InParts,
                left => Way::Promised(left),
            };
        }
        if self.records.is_between_records() {
            self.current = Current::Between;
        }
    }
}

fn fixed(body: FixedBody) -> [u8; HEADER_LEN] {
    body.complete().expect("its header says eight bytes")
}
