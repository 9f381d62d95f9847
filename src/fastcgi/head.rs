//! A request's head: what BEGIN_REQUEST and PARAMS say (specification §5.1, §5.2).

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use spliceway_common::fastcgi::{
    BeginRequest, CONTENT_MAX, Kind, PairError, Pairs, RequestId, Role, push_record, push_stream,
    push_stream_end,
};

/// How much memory a head keeps for the next request of its connection. A typical head has 1 to 2 KiB;
/// what a longer one took goes back, because most connections of a proxy idle.
const KEPT_BYTES: usize = 4096;

/// How much of a head belongs to its session, as its receive buffers do, and has as much. What a head has
/// beyond that comes out of the [`HeadRoom`].
const OWN_BYTES: usize = 16 * 1024;

/// What the large heads that one worker holds may have together beyond 16 KiB each: 280 heads of
/// 256 KiB, which is more than four times the workers of a large PHP-FPM pool. While such a request is
/// sent, its head is in memory twice.
pub const LARGE_HEADS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the large heads of one worker may take. Only its thread has it.
#[derive(Clone, Debug)]
pub struct HeadRoom(Rc<Cell<usize>>);

impl HeadRoom {
    /// Room for this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    fn take(&self, bytes: usize) -> Result<(), NoPush> {
        let left = self.0.get().checked_sub(bytes).ok_or(NoPush::NoRoom)?;
        self.0.set(left);
        Ok(())
    }

    fn give(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes);
    }
}

impl Default for HeadRoom {
    fn default() -> Self {
        Self::new(LARGE_HEADS_BYTES_MAX)
    }
}

/// Why a head takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPush {
    /// It would have more than it may have.
    TooLong,
    /// Other large heads take all the room.
    NoRoom,
}

/// The head of one request, with all parameters in one piece.
#[derive(Debug)]
pub struct Head {
    request_id: RequestId,
    begin: BeginRequest,
    params: Vec<u8>,
    content_length: Option<u64>,
    room: HeadRoom,
    /// What it has of that.
    taken: usize,
}

/// What it has taken is there for others.
impl Drop for Head {
    fn drop(&mut self) {
        self.room.give(self.taken);
    }
}

impl Head {
    pub(super) const fn new(room: HeadRoom) -> Self {
        Self {
            request_id: RequestId::MANAGEMENT,
            begin: BeginRequest {
                role: Role::Responder,
                keep_conn: false,
            },
            params: Vec::new(),
            content_length: None,
            room,
            taken: 0,
        }
    }

    /// The client's id for the request.
    #[must_use]
    pub const fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// What the application is asked to be.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.begin.role
    }

    /// Whether the client wants its connection to stay open after the answer.
    #[must_use]
    pub const fn keep_conn(&self) -> bool {
        self.begin.keep_conn
    }

    /// The parameters, in the client's order and encoding.
    #[must_use]
    pub fn params(&self) -> &[u8] {
        &self.params
    }

    /// The value of `name`; of several the last, as PHP-FPM has it.
    #[must_use]
    pub fn param(&self, name: &[u8]) -> Option<&[u8]> {
        let pairs = Pairs::new(&self.params).flatten();
        let same = pairs.filter(|(other, _)| *other == name);
        same.last().map(|(_, value)| value)
    }

    /// The length of the body as CONTENT_LENGTH says it; nothing if it is missing or no number.
    #[must_use]
    pub const fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// Appends the head as an upstream gets it: BEGIN_REQUEST, the parameters without those in the
    /// ranges of `without`, the encoded pairs in `further` behind them, and the end of PARAMS.
    ///
    /// No record parts a name from its value, unless the pair alone is longer than a record: §3.4
    /// allows it, but PHP-FPM reads each PARAMS record by itself (`fcgi_get_params`).
    pub fn write(
        &self,
        keep_conn: bool,
        without: &[Range<usize>],
        further: &[u8],
        out: &mut Vec<u8>,
    ) {
        let begin = BeginRequest {
            role: self.begin.role,
            keep_conn,
        };
        push_record(out, Kind::BeginRequest, self.request_id, &begin.encode());
        if without.is_empty() && further.is_empty() {
            self.write_params(&self.params, out);
        } else {
            let mut params = self.kept(without, further.len());
            params.extend_from_slice(further);
            self.write_params(&params, out);
        }
        push_stream_end(out, Kind::Params, self.request_id);
    }

    fn write_params(&self, params: &[u8], out: &mut Vec<u8>) {
        let mut rest = params;
        while rest.len() > CONTENT_MAX {
            let (record, behind) = rest.split_at(whole_pairs(rest));
            push_stream(out, Kind::Params, self.request_id, record);
            rest = behind;
        }
        push_stream(out, Kind::Params, self.request_id, rest);
    }

    /// The parameters without `without`, whose ranges are in order.
    fn kept(&self, without: &[Range<usize>], room: usize) -> Vec<u8> {
        let mut kept = Vec::with_capacity(self.params.len() + room);
        let mut from = 0;
        for gap in without {
            kept.extend_from_slice(&self.params[from..gap.start]);
            from = gap.end;
        }
        kept.extend_from_slice(&self.params[from..]);
        kept
    }

    pub(super) fn begin(&mut self, request_id: RequestId, begin: BeginRequest) {
        self.request_id = request_id;
        self.begin = begin;
        self.params.clear();
        self.params.shrink_to(KEPT_BYTES);
        self.room.give(std::mem::take(&mut self.taken));
        self.content_length = None;
    }

    /// Takes a piece of the parameters, if there would not be more than `bytes_max`.
    pub(super) fn push(&mut self, piece: &[u8], bytes_max: usize) -> Result<(), NoPush> {
        let len = self.params.len() + piece.len();
        if len > bytes_max {
            return Err(NoPush::TooLong);
        }
        if len > self.params.capacity() {
            // Twice as much each time, as a vector grows, but never beyond the limit.
            let room = len.max(2 * self.params.capacity()).min(bytes_max);
            let more = room.saturating_sub(OWN_BYTES).saturating_sub(self.taken);
            self.room.take(more)?;
            self.taken += more;
            self.params.reserve_exact(room - self.params.len());
        }
        self.params.extend_from_slice(piece);
        Ok(())
    }

    /// Reads the parameters once, when all are here.
    pub(super) fn complete(&mut self) -> Result<(), PairError> {
        for pair in Pairs::new(&self.params) {
            let (name, value) = pair?;
            if name == b"CONTENT_LENGTH" {
                self.content_length = decimal(value);
            }
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.begin(RequestId::MANAGEMENT, self.begin);
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.params.capacity()
    }
}

/// Digits and nothing else. No sign and no space: what PHP's atol makes of those must not differ.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// How many bytes of `params` go into one record: as many whole pairs as fit, or all of a pair that
/// does not fit into any record.
fn whole_pairs(params: &[u8]) -> usize {
    let mut pairs = Pairs::new(params);
    let mut fit = 0;
    while let Some(Ok(_)) = pairs.next() {
        let end = params.len() - pairs.left();
        match (end <= CONTENT_MAX, fit) {
            (true, _) => fit = end,
            (false, 0) => return end,
            (false, _) => return fit,
        }
    }
    // Only pairs that were read whole are ever written.
    fit
}
