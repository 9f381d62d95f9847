//! A request whose head is not complete, as bytes: another reader, perhaps in another process, begins with them and is
//! where this one stopped.
//!
//! They need not be the bytes that came. What was acted on is left out: whole records that belong to no request, and
//! questions that have their answer. Parameters come in as few records as there can be, and padding that was read is not
//! repeated.

use spliceway_common::fastcgi::{BeginRequest, Header, Kind, push_record, push_stream};

use super::super::forwarder::Standing;
use super::{Fate, Phase, RequestReader};

impl RequestReader {
    /// Whether [`RequestReader::unread`] has all that was read and is still to be acted on: no head was complete that
    /// was not answered. Within a record that another reader would take for something else, it has not: one that begins
    /// a request and was refused because of one that has its answer since, and one whose header is still to be taken.
    #[must_use]
    pub const fn is_before_head(&self) -> bool {
        let is_alone = match (self.forwarder.fate(), self.rules().phase) {
            (Some(Fate::Refuse(_)), Phase::Params) => true,
            (Some(Fate::Refuse(_)), _) => false,
            (Some(_) | None, _) => true,
        };
        is_alone
            && !self.forwarder.is_ahead()
            && matches!(self.rules().phase, Phase::Idle | Phase::Params)
    }

    /// Appends what a reader at the beginning of a connection is to be given before what comes next, so that it tells
    /// what this one would. Only the places of errors are others: they are counted from where a reader began.
    ///
    /// # Panics
    ///
    /// Unless [`RequestReader::is_before_head`].
    pub fn unread(&self, out: &mut Vec<u8>) {
        assert!(
            self.is_before_head(),
            "a request that has begun stays where it is"
        );
        let standing = self.forwarder.standing();
        let of_current = match &standing {
            Standing::Within {
                header,
                fate: Fate::Params,
                content_left,
                ..
            } => usize::from(header.content_len) - content_left,
            Standing::Within { .. } | Standing::InHeader(_) | Standing::Before(_) => 0,
        };
        let head = self.head();
        let whole = head.params().len() - of_current;
        let (whole, current) = head.params().split_at(whole);
        if self.rules().phase == Phase::Params {
            let begin = BeginRequest {
                role: head.role(),
                keep_conn: head.keep_conn(),
            };
            push_record(out, Kind::BeginRequest, head.request_id(), &begin.encode());
            push_stream(out, Kind::Params, head.request_id(), whole);
        }
        match standing {
            Standing::InHeader(bytes) => out.extend_from_slice(bytes),
            Standing::Before(header) => out.extend_from_slice(&header.encode()),
            Standing::Within {
                header,
                fate,
                gathered,
                content_left,
                padding_left,
            } => {
                // What this record is to be had again for: the rest of others is as good as the whole.
                let zeros = [0; BEGIN_LEN];
                let had = match fate {
                    Fate::Params => current,
                    Fate::Query => &self.rules().query,
                    Fate::Begin(_) => gathered,
                    // Its length is looked at, and nothing else.
                    Fate::Refuse(_) => &zeros[content_left..],
                    Fate::Skip
                    | Fate::ParamsEnd
                    | Fate::Abort
                    | Fate::Unknown(_)
                    | Fate::Body
                    | Fate::StreamEnd(_) => &[],
                };
                let header = Header {
                    content_len: narrow(had.len() + content_left),
                    padding_len: narrow(padding_left),
                    ..header
                };
                out.extend_from_slice(&header.encode());
                out.extend_from_slice(had);
            }
        }
    }
}

/// The content of a BEGIN_REQUEST record (§5.1).
const BEGIN_LEN: usize = 8;

/// A length that a header has said.
fn narrow<T: TryFrom<usize>>(len: usize) -> T {
    let narrow = T::try_from(len).ok();
    narrow.expect("it is no more than the record's header said")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::tests::{
        LIMITS, RESPONDER, Told, any_records, begin, head, params, read, record, tell,
    };
    use super::super::*;

    /// Another reader goes on with what this one has not acted on, and with what it has not read. Returns that.
    fn replace(reader: &mut RequestReader, rest: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        reader.unread(&mut bytes);
        bytes.extend_from_slice(rest);
        *reader = RequestReader::new(LIMITS);
        bytes
    }

    /// The same, of one that has read all that was there.
    fn replace_at_rest(reader: &mut RequestReader) {
        let bytes = replace(reader, &[]);
        let mut at = 0;
        assert_eq!(reader.next(&bytes, &mut at), Ok(None), "told twice");
        assert_eq!(at, bytes.len());
        // A third one has the same to go on with.
        let mut again = Vec::new();
        reader.unread(&mut again);
        assert_eq!(again, bytes);
    }

    /// Reads it with one reader after another: at each of these cuts, and where a request comes behind one that was
    /// answered.
    fn read_in_turns(stream: &[u8], cuts: &[usize]) -> Vec<Told> {
        let mut reader = RequestReader::new(LIMITS);
        let mut told = Vec::new();
        let mut from = 0;
        for &to in cuts.iter().chain([&stream.len()]) {
            let mut input = stream[from..to].to_vec();
            from = to;
            let mut at = 0;
            loop {
                let event = match reader.next(&input, &mut at) {
                    Ok(None) => break,
                    Ok(Some(event)) => event,
                    Err(ProtocolError { cause, .. }) => {
                        told.push(Told::Error(ProtocolError { at: 0, cause }));
                        return told;
                    }
                };
                let is_next = event == RequestEvent::Next;
                tell(&mut told, &reader, event, &input);
                if is_next {
                    reader.next_request();
                    input = replace(&mut reader, &input[at..]);
                    at = 0;
                }
            }
            if reader.is_before_head() {
                replace_at_rest(&mut reader);
            }
        }
        told
    }

    /// Places of errors are counted from another beginning.
    fn without_places(mut told: Vec<Told>) -> Vec<Told> {
        if let Some(Told::Error(error)) = told.last_mut() {
            error.at = 0;
        }
        told
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn one_reader_after_another_tells_what_one_tells(
            stream in any_records(),
            cuts in vec(any::<prop::sample::Index>(), 1..20),
        ) {
            let mut cuts: Vec<usize> =
                cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let one = without_places(read(&stream, &[]));
            prop_assert_eq!(read_in_turns(&stream, &cuts), one);
        }
    }

    #[test]
    fn every_byte_of_a_head_may_be_the_first_one_of_another_reader() {
        let long = "v".repeat(300);
        let pairs = [("REQUEST_METHOD", "POST"), ("LONG", &*long)];
        let params = params(&pairs);
        let stream = [
            record(Kind::GetValues, 0, b"\x0e\x00FCGI_MAX_CONNS", 3),
            record(Kind::Other(77), 0, b"what", 9),
            record(Kind::Stdin, 2, b"of nobody", 255),
            begin(1, RESPONDER),
            record(Kind::Params, 1, &params[..200], 7),
            record(Kind::BeginRequest, 2, &[0, 1, 0, 0, 0, 0, 0, 0], 4),
            record(Kind::Params, 2, b"of nobody", 1),
            record(Kind::Params, 1, &params[200..], 255),
            record(Kind::Params, 1, b"", 5),
            record(Kind::Stdin, 1, b"body", 3),
            record(Kind::Stdin, 1, b"", 3),
            head(3, &pairs),
        ]
        .concat();
        let one = read(&stream, &[]);
        assert_eq!(
            one.iter()
                .filter(|told| matches!(told, Told::Head(..)))
                .count(),
            2
        );
        for cut in 0..=stream.len() {
            assert_eq!(read_in_turns(&stream, &[cut]), one, "cut at {cut}");
        }
        let all: Vec<usize> = (0..=stream.len()).collect();
        assert_eq!(read_in_turns(&stream, &all), one);
    }

    /// Of a client that was answered early another reader would take such a record for its next request.
    #[test]
    fn within_a_begin_that_was_refused_nobody_else_goes_on() {
        let before = [
            head(1, &[("REQUEST_METHOD", "POST")]),
            record(Kind::Stdin, 1, b"a part", 0),
        ]
        .concat();
        let refused = record(Kind::BeginRequest, 2, &[0, 1, 1, 0, 0, 0, 0, 0], 4);
        for len in 0..=refused.len() {
            let stream = [&before, &refused[..len]].concat();
            let (mut reader, mut at) = (RequestReader::new(LIMITS), 0);
            while reader.next(&stream, &mut at).unwrap().is_some() {}
            assert!(!reader.is_before_head(), "its request runs");
            reader.next_request();
            let is_within = (HEADER_LEN..refused.len()).contains(&len);
            assert_eq!(reader.is_before_head(), !is_within, "{len}");
        }
    }
}
