//! Reading what an upstream sends: the response to one request (specification §5.3, §5.5).
//!
//! [`ResponseReader`] takes any split of the byte stream. What belongs to the request goes to the
//! client in records with the backend's own content, because upstream and client have the same request id;
//! nothing is kept but a partial header and END_REQUEST. Behind END_REQUEST nothing is read: that is
//! [`Settling`](super::Settling)'s.
//!
//! **What was sent on ends at a record's boundary, always.** A record that is not all here goes on as one of
//! what is here, and its rest as another one. So an answer that breaks off can be ended in a way that every
//! web server takes for a failure ([`BROKEN_OFF`](super::BROKEN_OFF)): within a record, anything would
//! be content. Only what is known to be at hand goes on in pieces: a record as it came
//! ([`ResponseReader::pass_next`]), or what a header of our own has promised ([`ResponseReader::promise`]).

use super::body::{EndRequest, FixedBody};
use super::pass::Pass;
use super::reader::{Event, Reader};
use super::record::{HEADER_LEN, Header, Kind, Malformed, RequestId};
use super::status::{HeaderBlock, StatusReader};

/// What the session has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseEvent {
    /// Send this to the client.
    Pass(Pass),
    /// The response is complete, with what the last [`ResponseEvent::Pass`] held. What comes next
    /// belongs to no request.
    End(EndRequest),
    /// A management record, which is for us and not for the client. An application that answers the
    /// fence while a request runs proves nothing by it: the upstream must not be leased again.
    Management(Kind),
}

/// Why an upstream's byte stream is no response to the request that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read a backend's FastCGI record at byte {at} of its response: {cause}")]
pub struct ResponseError {
    /// Where the record begins, counted from the beginning of the response.
    pub at: u64,
    /// What is wrong with it.
    pub cause: Nonsense,
}

/// What a backend must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// A header that does not begin with version 1 (§3.3).
    #[error("version {0} instead of 1 ({what})", what = spoken_by_backend(*.0))]
    Version(u8),
    /// A record of another request (§3.3).
    #[error("request id {0}, which is not running (the backend is broken)")]
    Foreign(u16),
    /// A record that no application sends about a request.
    #[error("{0:?}, which is no part of a response (the backend is broken)")]
    NotAResponse(Kind),
    /// An END_REQUEST that has not eight bytes of content (§5.5).
    #[error("an END_REQUEST of {0} bytes instead of 8 (the backend is broken)")]
    EndLen(u16),
}

/// What begins with this byte, and what to do about it.
fn spoken_by_backend(first: u8) -> &'static str {
    match first {
        b'H' => {
            "the backend seems to speak HTTP: give the port where it speaks FastCGI, or use --protocol raw"
        }
        _ => "the backend does not speak FastCGI 1.0",
    }
}

/// What becomes of the current record.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// There is none.
    Between,
    /// Sent on.
    Output(Stream),
    /// Read, and sent on when it is complete.
    End(FixedBody),
    /// For us.
    Management(Kind),
}

/// Which output it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stream {
    Stdout,
    Stderr,
}

/// How the current record is sent on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Framing {
    /// By a header for each part.
    Ours,
    /// As it came, because all of it is at hand.
    Theirs,
    /// Behind a header of ours that says so many more bytes, which are at hand.
    Promised(usize),
}

/// The part of a record of output that is in the slice that is read.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where its header is.
    header: PartHeader,
    content: u16,
    padding: u8,
}

#[derive(Clone, Copy, Debug)]
enum PartHeader {
    /// In the slice, at this place.
    Here(usize, Header),
    /// Its beginning was in an earlier slice.
    Split(Header),
    /// In an earlier slice, and so are other parts of the record.
    Before,
}

/// Reads the response to one request.
#[derive(Clone, Debug)]
pub struct ResponseReader {
    request_id: RequestId,
    records: Reader,
    fate: Fate,
    framing: Framing,
    status: StatusReader,
    headers: HeaderBlock,
    /// A header that was read and not yet acted on.
    held: Option<Header>,
    /// Bytes of the current record's header that were seen and not yet taken.
    ahead: usize,
    ended: Option<EndRequest>,
    /// None of the current record's content has come.
    is_fresh: bool,
    /// A record of STDOUT has come, be it the empty one that ends the stream.
    has_begun: bool,
    stdout_bytes: u64,
    read: u64,
    record_at: u64,
    failed: Option<ResponseError>,
}

impl ResponseReader {
    /// A reader of the response to the request with this id.
    #[must_use]
    pub const fn new(request_id: RequestId) -> Self {
        Self {
            request_id,
            records: Reader::new(),
            fate: Fate::Between,
            framing: Framing::Ours,
            status: StatusReader::new(),
            headers: HeaderBlock::LineStart,
            held: None,
            ahead: 0,
            ended: None,
            is_fresh: false,
            has_begun: false,
            stdout_bytes: 0,
            read: 0,
            record_at: 0,
            failed: None,
        }
    }

    /// Reads on in `input` from `at` up to the next event and moves `at` behind what it has read.
    ///
    /// `None` means that `input` is used up. The ranges of events are those of `input`; what was passed on
    /// when it is used up ends at a record's boundary. After [`ResponseEvent::End`], which every further call
    /// gives again, what is behind `at` is not read.
    ///
    /// # Errors
    ///
    /// [`ResponseError`]. From then on every call gives the same error.
    pub fn next(
        &mut self,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Option<ResponseEvent>, ResponseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let Some(end) = self.ended {
            return Ok(Some(ResponseEvent::End(end)));
        }
        let mut pass = Pass::from(*at);
        if let Framing::Promised(left) = self.framing {
            let here = left.min(input.len() - *at);
            if here == 0 {
                return Ok(None);
            }
            *at += here;
            pass.reach(*at);
            self.skip(here);
            return Ok(Some(ResponseEvent::Pass(pass)));
        }
        let seen = self.ahead.min(input.len() - *at);
        *at += seen;
        pass.reach(*at);
        self.ahead -= seen;
        self.read += seen as u64;
        let mut part = self.part_before();
        loop {
            match self.step(input, at, &mut pass, &mut part) {
                Ok(Step::On) => {}
                Ok(Step::Event(event)) => return Ok(Some(event)),
                // First what was found before it.
                Ok(Step::Stop) | Err(_) if !pass.is_empty() => {
                    return Ok(Some(ResponseEvent::Pass(pass)));
                }
                Ok(Step::Stop) => return Ok(None),
                Err(cause) => {
                    let at = self.record_at;
                    return Err(*self.failed.insert(ResponseError { at, cause }));
                }
            }
        }
    }

    /// What a slice begins with.
    const fn part_before(&self) -> Option<Part> {
        match (&self.fate, self.framing) {
            (Fate::Output(_), Framing::Ours) => Some(Part {
                header: PartHeader::Before,
                content: 0,
                padding: 0,
            }),
            _ => None,
        }
    }

    /// Whether nothing at all has come. STDERR counts: it proves that the request was processed.
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        self.read == 0
    }

    /// Whether the response proper has begun: its first byte is the client's.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Bytes of STDOUT so far, without headers of records and padding.
    #[must_use]
    pub const fn stdout_bytes(&self) -> u64 {
        self.stdout_bytes
    }

    /// The status as far as it is known: 200 unless its first bytes say something else.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status.status()
    }

    /// Whether the headers of the response, and the empty line behind them, have come.
    #[must_use]
    pub const fn has_headers(&self) -> bool {
        matches!(self.headers, HeaderBlock::Over)
    }

    /// Whether a record of our own may be put in here: the next byte for the client begins one.
    #[must_use]
    pub const fn is_between_records(&self) -> bool {
        match self.framing {
            Framing::Ours => true,
            Framing::Theirs => self.ahead == HEADER_LEN,
            Framing::Promised(_) => false,
        }
    }

    /// How many of the bytes that come next can go to the client as they are. They belong to one record, the
    /// header of which is among them or has gone, as it was or for just these bytes.
    #[must_use]
    pub const fn passable(&self) -> usize {
        match self.framing {
            Framing::Ours => 0,
            Framing::Theirs => self.ahead + self.records.left(),
            Framing::Promised(left) => left,
        }
    }

    /// How many of the bytes that come next can go to the client without being looked at, behind a header
    /// of our own: content of one record. STDOUT is looked at until its headers are over.
    #[must_use]
    pub const fn framable(&self) -> usize {
        match (&self.fate, self.framing, self.held) {
            (Fate::Output(stream), Framing::Ours, None) if self.is_unseen(*stream) => {
                self.records.content_left()
            }
            _ => 0,
        }
    }

    const fn is_unseen(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => !self.status.is_open() && self.has_headers(),
            Stream::Stderr => true,
        }
    }

    /// Begins the record whose header is `bytes`, which come next and were not taken yet; all of the record
    /// is at hand. From now on it is [`ResponseReader::passable`]. False, and nothing happens, unless it is
    /// output that need not be looked at, and nothing of another record is missing.
    pub fn pass_next(&mut self, bytes: [u8; HEADER_LEN]) -> bool {
        let has_begun = self.begin_output(bytes);
        if has_begun {
            self.framing = Framing::Theirs;
            self.ahead = HEADER_LEN;
        }
        has_begun
    }

    /// Begins the record whose header is `bytes`, which were taken. From now on its content is
    /// [`ResponseReader::framable`]. False in the same cases as of [`ResponseReader::pass_next`].
    pub fn frame_next(&mut self, bytes: [u8; HEADER_LEN]) -> bool {
        let has_begun = self.begin_output(bytes);
        if has_begun {
            self.read += HEADER_LEN as u64;
        }
        has_begun
    }

    /// Whether the backend's next byte begins a record, and nothing of an earlier one is owed.
    #[must_use]
    pub const fn is_at_header(&self) -> bool {
        self.records.is_between_records() && self.held.is_none()
    }

    /// The length of the record with this header, header and padding included, if
    /// [`ResponseReader::frame_next`] would begin it.
    #[must_use]
    pub fn output_len(&self, bytes: [u8; HEADER_LEN]) -> Option<usize> {
        let header = Header::decode(bytes).ok()?;
        let is_readable = self.is_at_header() && self.failed.is_none() && self.ended.is_none();
        match self.fate_of(header) {
            Ok(Fate::Output(stream)) if is_readable && self.is_unseen(stream) => {
                let rest = usize::from(header.content_len) + usize::from(header.padding_len);
                Some(HEADER_LEN + rest)
            }
            _ => None,
        }
    }

    fn begin_output(&mut self, bytes: [u8; HEADER_LEN]) -> bool {
        if self.output_len(bytes).is_none() {
            return false;
        }
        let header = Header::decode(bytes).expect("it was just decoded");
        let fate = self.fate_of(header).expect("it was just seen");
        if !self.records.begin(header) {
            return false;
        }
        self.has_begun |= matches!(fate, Fate::Output(Stream::Stdout));
        self.fate = fate;
        self.is_fresh = true;
        self.record_at = self.read;
        true
    }

    /// This many of the [`ResponseReader::passable`] bytes went to the client by another way.
    ///
    /// # Panics
    ///
    /// If they were not passable.
    pub fn passed(&mut self, bytes: usize) {
        assert!(bytes <= self.passable(), "the caller asked how many");
        let of_header = self.ahead.min(bytes);
        self.ahead -= of_header;
        self.read += of_header as u64;
        self.skip(bytes - of_header);
    }

    /// This many of the [`ResponseReader::framable`] bytes, all of which are at hand, go to the client behind
    /// the header that this returns. From now on they are [`ResponseReader::passable`].
    ///
    /// # Panics
    ///
    /// If they were not framable, or none.
    pub fn promise(&mut self, bytes: usize) -> [u8; HEADER_LEN] {
        assert!(
            bytes > 0 && bytes <= self.framable(),
            "the caller asked how many"
        );
        self.framing = Framing::Promised(bytes);
        self.header_of(bytes, 0).encode()
    }

    /// Whether a record of output has begun and none of its content has come. Who has sent that much sends
    /// the rest at once.
    #[must_use]
    pub const fn awaits_content(&self) -> bool {
        self.is_fresh && self.framable() > 0
    }

    fn skip(&mut self, bytes: usize) {
        let content = self.records.skip(bytes);
        self.is_fresh = false;
        if let Framing::Promised(left) = self.framing {
            self.framing = match left - bytes {
                0 => Framing::Ours,
                left => Framing::Promised(left),
            };
        }
        self.read += bytes as u64;
        if matches!(self.fate, Fate::Output(Stream::Stdout)) {
            self.stdout_bytes += content as u64;
        }
        if self.records.is_between_records() {
            self.end_record();
        }
    }

    const fn end_record(&mut self) {
        self.fate = Fate::Between;
        self.framing = Framing::Ours;
    }

    /// The header of a part of the current record.
    fn header_of(&self, content: usize, padding: u8) -> Header {
        let kind = match self.fate {
            Fate::Output(Stream::Stdout) => Kind::Stdout,
            Fate::Output(Stream::Stderr) => Kind::Stderr,
            Fate::Between | Fate::End(_) | Fate::Management(_) => {
                unreachable!("only output goes on in parts")
            }
        };
        Header {
            kind,
            request_id: self.request_id,
            content_len: u16::try_from(content).expect("a part is not longer than a record"),
            padding_len: padding,
        }
    }

    fn step(
        &mut self,
        input: &[u8],
        at: &mut usize,
        pass: &mut Pass,
        part: &mut Option<Part>,
    ) -> Result<Step, Nonsense> {
        if let Some(header) = self.held {
            return self.open(header, false, *at, pass, part);
        }
        let from = *at;
        let mut rest = &input[from..];
        if self.records.is_between_records() {
            self.record_at = self.read;
        }
        let found = self.records.next(&mut rest);
        *at = input.len() - rest.len();
        let len = *at - from;
        self.read += len as u64;
        match found {
            Err(malformed) => Err(version(malformed)),
            Ok(Some(Event::Begin(header))) => self.open(header, len == HEADER_LEN, *at, pass, part),
            Ok(Some(Event::Content(piece))) => {
                self.content(piece, *at, pass, part);
                Ok(Step::On)
            }
            Ok(Some(Event::End)) => {
                pad(part, len);
                Ok(self.close(*at, pass, part))
            }
            Ok(None) => {
                if self.records.content_left() == 0 {
                    pad(part, len);
                }
                self.cut(*at, pass, part.take());
                Ok(Step::Stop)
            }
        }
    }

    fn content(&mut self, piece: &[u8], at: usize, pass: &mut Pass, part: &mut Option<Part>) {
        self.is_fresh = false;
        match &mut self.fate {
            Fate::Output(stream) => {
                if *stream == Stream::Stdout {
                    self.stdout_bytes += piece.len() as u64;
                    self.status.read(piece);
                    self.headers.read(piece);
                }
                if let Some(part) = part {
                    let len = u16::try_from(piece.len()).expect("a piece of a record");
                    part.content += len;
                }
                pass.reach(at);
            }
            Fate::End(body) => body.push(piece),
            Fate::Management(_) => {}
            Fate::Between => unreachable!("content is of a record"),
        }
    }

    /// The record ends at `at`.
    fn close(&mut self, at: usize, pass: &mut Pass, part: &mut Option<Part>) -> Step {
        match self.fate {
            Fate::Output(_) => {
                match part.take() {
                    // As it came.
                    None
                    | Some(Part {
                        header: PartHeader::Here(..),
                        ..
                    }) => pass.reach(at),
                    // Nothing but padding is left of it.
                    Some(Part {
                        header: PartHeader::Before,
                        content: 0,
                        ..
                    }) => pass.skip_to(at),
                    Some(part) => self.lead(part, at, pass),
                }
                self.end_record();
                Step::On
            }
            Fate::End(body) => {
                let body = body.complete().expect("its header says eight bytes");
                let end = EndRequest::decode(body);
                self.ended = Some(end);
                match part.take() {
                    Some(_) => pass.reach(at),
                    None => {
                        let header = Header {
                            kind: Kind::EndRequest,
                            request_id: self.request_id,
                            content_len: u16::try_from(body.len()).expect("eight bytes"),
                            padding_len: 0,
                        };
                        pass.skip_to(at);
                        pass.lead_with(&[header.encode(), body].concat());
                    }
                }
                Step::Event(ResponseEvent::Pass(std::mem::take(pass)))
            }
            Fate::Management(kind) => {
                self.end_record();
                Step::Event(ResponseEvent::Management(kind))
            }
            Fate::Between => unreachable!("a record ends"),
        }
    }

    /// The slice ends, at `at`.
    fn cut(&mut self, at: usize, pass: &mut Pass, part: Option<Part>) {
        match (self.fate, part) {
            // It goes on when it is complete.
            (Fate::End(_), Some(part)) => {
                if let PartHeader::Here(header_at, _) = part.header {
                    pass.cut(header_at);
                }
            }
            (Fate::Output(_), Some(part)) => self.cut_output(at, pass, part),
            (Fate::Output(_), None) => pass.reach(at),
            (Fate::Between | Fate::End(_) | Fate::Management(_), _) => {}
        }
    }

    fn cut_output(&mut self, at: usize, pass: &mut Pass, part: Part) {
        match part.header {
            PartHeader::Here(header_at, header) if part.content == 0 && header.content_len > 0 => {
                pass.cut(header_at);
            }
            PartHeader::Here(header_at, _) => {
                pass.reach(at);
                let content = usize::from(part.content);
                pass.patch_with(header_at, self.header_of(content, part.padding));
            }
            PartHeader::Split(header) if part.content == 0 && header.content_len > 0 => {
                pass.skip_to(at);
            }
            PartHeader::Before if part.content == 0 => pass.skip_to(at),
            PartHeader::Split(_) | PartHeader::Before => self.lead(part, at, pass),
        }
    }

    /// Puts a header in front of a part that has none in this slice and ends at `at`.
    fn lead(&self, part: Part, at: usize, pass: &mut Pass) {
        pass.reach(at);
        let header = self.header_of(usize::from(part.content), part.padding);
        pass.lead_with(&header.encode());
    }

    /// Decides on a record whose header ends at `at`, and is all in this slice if `whole`.
    fn open(
        &mut self,
        header: Header,
        whole: bool,
        at: usize,
        pass: &mut Pass,
        part: &mut Option<Part>,
    ) -> Result<Step, Nonsense> {
        self.held = Some(header);
        let fate = self.fate_of(header)?;
        if matches!(fate, Fate::Management(_)) && !pass.is_empty() {
            return Ok(Step::Stop);
        }
        self.held = None;
        self.fate = fate;
        self.is_fresh = true;
        self.has_begun |= matches!(self.fate, Fate::Output(Stream::Stdout));
        if let Fate::Management(_) = self.fate {
            return Ok(Step::On);
        }
        if whole && pass.is_empty() {
            pass.skip_to(at - HEADER_LEN);
        }
        *part = match (whole, self.fate) {
            (true, _) => Some(PartHeader::Here(at - HEADER_LEN, header)),
            (false, Fate::Output(_)) => {
                pass.skip_to(at);
                Some(PartHeader::Split(header))
            }
            (false, _) => None,
        }
        .map(|header| Part {
            header,
            content: 0,
            padding: 0,
        });
        if whole {
            pass.reach(at);
        }
        Ok(Step::On)
    }

    fn fate_of(&self, header: Header) -> Result<Fate, Nonsense> {
        let kind = header.kind;
        match kind {
            Kind::GetValuesResult | Kind::UnknownType
                if header.request_id == RequestId::MANAGEMENT =>
            {
                Ok(Fate::Management(kind))
            }
            _ if header.request_id != self.request_id => {
                Err(Nonsense::Foreign(header.request_id.get()))
            }
            Kind::Stdout => Ok(Fate::Output(Stream::Stdout)),
            Kind::Stderr => Ok(Fate::Output(Stream::Stderr)),
            Kind::EndRequest if usize::from(header.content_len) != HEADER_LEN => {
                Err(Nonsense::EndLen(header.content_len))
            }
            Kind::EndRequest => Ok(Fate::End(FixedBody::default())),
            Kind::BeginRequest
            | Kind::AbortRequest
            | Kind::Params
            | Kind::Stdin
            | Kind::Data
            | Kind::GetValues
            | Kind::GetValuesResult
            | Kind::UnknownType
            | Kind::Other(_) => Err(Nonsense::NotAResponse(kind)),
        }
    }
}

/// What a step of the reader led to.
enum Step {
    /// Something for the session.
    Event(ResponseEvent),
    /// The next step.
    On,
    /// No further in this slice, or not before what was passed on is told.
    Stop,
}

/// So many bytes of padding are in the slice.
fn pad(part: &mut Option<Part>, len: usize) {
    if let Some(part) = part {
        part.padding += u8::try_from(len).expect("padding is short");
    }
}

fn version(malformed: Malformed) -> Nonsense {
    match malformed {
        Malformed::Version(version) => Nonsense::Version(version),
        Malformed::Truncated | Malformed::BodyLen(_) => {
            unreachable!("finding records has no such error: {malformed}")
        }
    }
}

#[cfg(test)]
mod tests;
