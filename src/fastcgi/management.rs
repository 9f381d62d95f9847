//! Management records: what we answer to a client, and the question that we put to an upstream
//! (specification §4).

use spliceway_common::fastcgi::{
    CONTENT_MAX, HEADER_LEN, Header, Kind, PairError, Pairs, RequestId,
};

/// The longest GET_VALUES that is read. The three names that there are (§4.1) take 48 bytes with
/// their lengths; the rest is for names that we do not know.
pub const QUERY_BYTES_MAX: usize = 1024;

/// Eight bytes of header and three pairs of the longest names and values.
const REPLY_BYTES_MAX: usize = 88;

/// How much of us there is, for clients that ask (§4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// FCGI_MAX_CONNS.
    pub connections_max: u32,
    /// FCGI_MAX_REQS.
    pub requests_max: u32,
}

/// A record that we answer with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    bytes: [u8; REPLY_BYTES_MAX],
    len: usize,
}

impl Reply {
    /// A record, padded to a multiple of eight bytes.
    pub(super) fn record(kind: Kind, request_id: RequestId, content: &[u8]) -> Self {
        let len = (HEADER_LEN + content.len()).next_multiple_of(8);
        assert!(len <= REPLY_BYTES_MAX, "it holds every reply that there is");
        let mut bytes = [0; REPLY_BYTES_MAX];
        let padding_len = len - HEADER_LEN - content.len();
        let header = Header {
            kind,
            request_id,
            content_len: u16::try_from(content.len()).expect("a reply is short"),
            padding_len: u8::try_from(padding_len).expect("less than eight"),
        };
        bytes[..HEADER_LEN].copy_from_slice(&header.encode());
        bytes[HEADER_LEN..HEADER_LEN + content.len()].copy_from_slice(content);
        Self { bytes, len }
    }
}

impl std::ops::Deref for Reply {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reply({:?})", &**self)
    }
}

/// GET_VALUES_RESULT: the values of those names in `query` that we know, each once (§4.1).
pub(super) fn result_of(query: &[u8], capacity: Capacity) -> Result<Reply, PairError> {
    let known = [
        ("FCGI_MAX_CONNS", capacity.connections_max),
        ("FCGI_MAX_REQS", capacity.requests_max),
        ("FCGI_MPXS_CONNS", 0),
    ];
    let mut asked = [false; 3];
    for pair in Pairs::new(query) {
        let (name, _) = pair?;
        let place = known.iter().position(|(known, _)| known.as_bytes() == name);
        if let Some(place) = place {
            asked[place] = true;
        }
    }
    let mut content = Vec::with_capacity(REPLY_BYTES_MAX);
    let asked = known.iter().zip(asked).filter(|(_, asked)| *asked);
    for ((name, value), _) in asked {
        super::push_pair(&mut content, name.as_bytes(), value.to_string().as_bytes());
    }
    Ok(Reply::record(
        Kind::GetValuesResult,
        RequestId::MANAGEMENT,
        &content,
    ))
}

/// UNKNOWN_TYPE (§4.2).
pub(super) fn unknown_type(number: u8) -> Reply {
    let body = [number, 0, 0, 0, 0, 0, 0, 0];
    Reply::record(Kind::UnknownType, RequestId::MANAGEMENT, &body)
}

/// The name that the fence asks for. Any would do; this one every application knows.
const FENCE_NAME: &[u8; 15] = b"FCGI_MPXS_CONNS";

/// The fence: a GET_VALUES record of 25 bytes. An application answers it from where it waits for the
/// next request, so its answer proves that the last one is over and that the connection stays.
pub const FENCE: [u8; HEADER_LEN + 2 + FENCE_NAME.len()] = fence();

/// A pair with an empty value (§3.4): two lengths and the name.
const fn fence() -> [u8; HEADER_LEN + 2 + FENCE_NAME.len()] {
    let mut bytes = [0; HEADER_LEN + 2 + FENCE_NAME.len()];
    let header = Header {
        kind: Kind::GetValues,
        request_id: RequestId::MANAGEMENT,
        content_len: 17,
        padding_len: 0,
    };
    let (head, content) = bytes.split_at_mut(HEADER_LEN);
    head.copy_from_slice(&header.encode());
    content[0] = 15;
    content.split_at_mut(2).1.copy_from_slice(FENCE_NAME);
    bytes
}

/// How a settling upstream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The answer is not complete.
    NotYet,
    /// Exactly one GET_VALUES_RESULT came: the upstream may be leased.
    Answered,
    /// This byte is not part of the one answer: the upstream must be closed, because what it sends
    /// now would be taken for the answer to the next request.
    Surplus(u8),
}

/// Waits for the answer to [`FENCE`] and tolerates nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settling {
    /// Bytes of the header that are here.
    header: usize,
    /// Bytes of content and padding that are not, as far as the header is here.
    left: usize,
    surplus: Option<u8>,
}

impl Settling {
    /// Nothing was heard yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            header: 0,
            left: 0,
            surplus: None,
        }
    }

    /// Reads everything that the upstream has sent since END_REQUEST.
    pub fn read(&mut self, input: &[u8]) -> Settled {
        let mut rest = input;
        while let Some((&byte, behind)) = rest.split_first() {
            if self.surplus.is_some() {
                break;
            }
            if self.header < HEADER_LEN {
                self.header(byte);
                rest = behind;
            } else if self.left > 0 {
                let taken = self.left.min(rest.len());
                self.left -= taken;
                rest = &rest[taken..];
            } else {
                self.surplus = Some(byte);
            }
        }
        self.state()
    }

    /// What is known so far.
    #[must_use]
    pub const fn state(&self) -> Settled {
        match (self.surplus, self.header, self.left) {
            (Some(byte), _, _) => Settled::Surplus(byte),
            (None, HEADER_LEN, 0) => Settled::Answered,
            (None, _, _) => Settled::NotYet,
        }
    }

    /// Whether nothing was heard.
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        self.header == 0 && self.surplus.is_none()
    }

    /// Compares the next byte of the header with what the header of an answer has there (§3.3).
    fn header(&mut self, byte: u8) {
        const START: [u8; 4] = [1, Kind::GetValuesResult.byte(), 0, 0];
        match (self.header, START.get(self.header)) {
            (_, Some(&wanted)) if wanted != byte => {
                self.surplus = Some(byte);
                return;
            }
            (4, _) => self.left = usize::from(byte) << 8,
            (5 | 6, _) => self.left += usize::from(byte),
            _ => {}
        }
        debug_assert!(self.left <= CONTENT_MAX + usize::from(u8::MAX));
        self.header += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Reader, RecordEvent, push_pair, push_record};
    use super::*;

    /// What PHP-FPM 8.2 answers to the fence.
    const FPM_ANSWER: &[u8; 32] = b"\x01\x0a\0\0\0\x12\x06\0\x0f\x01FCGI_MPXS_CONNS0\0\0\0\0\0\0";

    const CAPACITY: Capacity = Capacity {
        connections_max: u32::MAX,
        requests_max: 7,
    };

    fn pairs(record: &[u8]) -> Vec<(String, String)> {
        let mut content = Vec::new();
        let (mut reader, mut input) = (Reader::new(), record);
        while let Some(event) = reader.next(&mut input).unwrap() {
            if let RecordEvent::Content(piece) = event {
                content.extend_from_slice(piece);
            }
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Pairs::new(&content)
            .map(|pair| pair.map(|(name, value)| (text(name), text(value))).unwrap())
            .collect()
    }

    #[test]
    fn the_fence_is_the_record_that_the_codec_would_write() {
        let mut content = Vec::new();
        push_pair(&mut content, FENCE_NAME, b"");
        let mut record = Vec::new();
        push_record(
            &mut record,
            Kind::GetValues,
            RequestId::MANAGEMENT,
            &content,
        );
        // All but the length of the padding and the padding.
        record.truncate(FENCE.len());
        record[6] = 0;
        assert_eq!(record, FENCE);
    }

    #[test]
    fn a_client_that_asks_is_told_what_it_asked_for_each_once() {
        let mut query = Vec::new();
        for name in [
            "FCGI_MPXS_CONNS",
            "FCGI_WHAT",
            "FCGI_MAX_CONNS",
            "FCGI_MPXS_CONNS",
        ] {
            push_pair(&mut query, name.as_bytes(), b"");
        }
        let told = [("FCGI_MAX_CONNS", "4294967295"), ("FCGI_MPXS_CONNS", "0")];
        let told = told.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(pairs(&result_of(&query, CAPACITY).unwrap()), told);
    }

    #[test]
    fn the_longest_answer_fits() {
        let mut query = Vec::new();
        for name in ["FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS"] {
            push_pair(&mut query, name.as_bytes(), b"");
        }
        let capacity = Capacity {
            requests_max: u32::MAX,
            ..CAPACITY
        };
        let reply = result_of(&query, capacity).unwrap();
        assert_eq!(pairs(&reply).len(), 3);
        assert_eq!(reply.len() % 8, 0);
    }

    #[test]
    fn an_unknown_type_is_repeated_in_the_answer() {
        let bytes = [1, 11, 0, 0, 0, 8, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(*unknown_type(99), bytes);
    }

    #[test]
    fn php_fpms_answer_settles_whichever_way_it_is_split() {
        for cut in 0..FPM_ANSWER.len() {
            let mut settling = Settling::new();
            assert_eq!(settling.read(&FPM_ANSWER[..cut]), Settled::NotYet);
            assert_eq!(settling.read(&FPM_ANSWER[cut..]), Settled::Answered);
        }
        let mut settling = Settling::new();
        let states = FPM_ANSWER.map(|byte| settling.read(&[byte]));
        let answered = states.iter().position(|&state| state == Settled::Answered);
        assert_eq!(answered, Some(FPM_ANSWER.len() - 1));
    }

    #[test]
    fn an_empty_answer_settles() {
        let mut settling = Settling::new();
        assert_eq!(settling.read(&[1, 10, 0, 0, 0, 0, 0, 0]), Settled::Answered);
    }

    #[test]
    fn a_byte_behind_the_answer_is_surplus_and_stays_so() {
        let mut settling = Settling::new();
        settling.read(FPM_ANSWER);
        assert_eq!(settling.read(&[6, 7]), Settled::Surplus(6));
        assert_eq!(settling.read(FPM_ANSWER), Settled::Surplus(6));
        let twice = [FPM_ANSWER.as_slice(), FPM_ANSWER].concat();
        assert_eq!(Settling::new().read(&twice), Settled::Surplus(1));
    }

    #[test]
    fn any_other_record_is_surplus_at_its_first_byte_that_differs() {
        let read = |bytes: &[u8]| Settling::new().read(bytes);
        assert_eq!(read(b"X-Powered-By"), Settled::Surplus(b'X'));
        assert_eq!(read(&[1, 6, 0, 1]), Settled::Surplus(6));
        assert_eq!(read(&[1, 11, 0, 0, 0, 8, 0, 0]), Settled::Surplus(11));
        assert_eq!(read(&[1, 10, 0, 1]), Settled::Surplus(1));
    }

    proptest! {
        #[test]
        fn any_split_settles_in_the_same_way(
            content_len in 0..600_u16,
            padding_len: u8,
            tail in prop::collection::vec(any::<u8>(), 0..3),
            wrong in prop::option::of((0..8_usize, any::<u8>())),
            cuts in prop::collection::vec(0..1000_usize, 0..8),
        ) {
            let header = Header {
                kind: Kind::GetValuesResult,
                request_id: RequestId::MANAGEMENT,
                content_len,
                padding_len,
            };
            let mut bytes = header.encode().to_vec();
            bytes.resize(8 + usize::from(content_len) + usize::from(padding_len), 0xa5);
            bytes.extend(tail);
            if let Some((place, byte)) = wrong {
                bytes[place] = byte;
            }
            let whole = Settling::new().read(&bytes);
            let mut settling = Settling::new();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| cut < bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                settling.read(&bytes[pair[0]..pair[1]]);
            }
            prop_assert_eq!(settling.state(), whole);
        }
    }
}
