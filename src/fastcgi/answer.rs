//! Answers of our own, where no backend gives one (specification §5.3, §5.5; RFC 3875 §6).

use std::time::Duration;

use spliceway_common::fastcgi::{HEADER_LEN, Header, Kind, RequestId};

/// What ends an answer that cannot be finished, at a record's boundary: the header of a record of version 0,
/// which no reader of records goes beyond. nginx, Apache, Caddy, lighttpd and HAProxy take it for a failure
/// where they take the mere end of a connection for the end of the answer, or wait for more.
pub const BROKEN_OFF: [u8; HEADER_LEN] = [0; HEADER_LEN];

/// An answer to a request that no backend answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The guard rejects the request.
    Forbidden,
    /// The request has more parameters than it may have, or more bytes of them.
    HeadTooLarge,
    /// No backend could be reached, or the one that was broke off.
    BadGateway,
    /// The request waited for a backend for too long, or too many wait, or too many large heads are held.
    Unavailable(RetryAfter),
    /// The backend took too long for the request.
    GatewayTimeout,
}

impl Answer {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Forbidden,
        Self::HeadTooLarge,
        Self::BadGateway,
        Self::Unavailable(RetryAfter::LEAST),
        Self::GatewayTimeout,
    ];

    /// The place at which it is counted, whatever else it says.
    #[must_use]
    pub const fn number(self) -> usize {
        match self {
            Self::Forbidden => 0,
            Self::HeadTooLarge => 1,
            Self::BadGateway => 2,
            Self::Unavailable(_) => 3,
            Self::GatewayTimeout => 4,
        }
    }

    /// Its HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            Self::HeadTooLarge => 431,
            Self::BadGateway => 502,
            Self::Unavailable(_) => 503,
            Self::GatewayTimeout => 504,
        }
    }

    /// The bytes of its STDOUT.
    #[must_use]
    pub const fn stdout_bytes(self) -> u64 {
        let text = match self {
            Self::Forbidden => FORBIDDEN_TEXT,
            Self::HeadTooLarge => HEAD_TOO_LARGE_TEXT,
            Self::BadGateway => BAD_GATEWAY_TEXT,
            Self::Unavailable(RetryAfter(..10)) => UNAVAILABLE_TEXT,
            Self::Unavailable(_) => UNAVAILABLE_LONG_TEXT,
            Self::GatewayTimeout => GATEWAY_TIMEOUT_TEXT,
        };
        text.len() as u64
    }

    /// Appends a complete response to this request: STDOUT, its end, and END_REQUEST.
    pub fn write(self, request_id: RequestId, out: &mut Vec<u8>) {
        let template: &[u8] = match self {
            Self::Forbidden => &FORBIDDEN,
            Self::HeadTooLarge => &HEAD_TOO_LARGE,
            Self::BadGateway => &BAD_GATEWAY,
            Self::Unavailable(RetryAfter(..10)) => &UNAVAILABLE,
            Self::Unavailable(_) => &UNAVAILABLE_LONG,
            Self::GatewayTimeout => &GATEWAY_TIMEOUT,
        };
        let start = out.len();
        out.extend_from_slice(template);
        let end = out.len();
        // The headers: at the front, and those of the two records of fixed length at the end.
        for header in [start, end - TAIL_LEN, end - TAIL_LEN + HEADER_LEN] {
            out[header + 2..header + 4].copy_from_slice(&request_id.get().to_be_bytes());
        }
        if let Self::Unavailable(RetryAfter(seconds)) = self {
            let at = start + HEADER_LEN + BEFORE_RETRY.len();
            let digits = [b'0' + seconds / 10, b'0' + seconds % 10];
            match seconds {
                ..10 => out[at] = digits[1],
                _ => out[at..at + 2].copy_from_slice(&digits),
            }
        }
    }
}

/// When a client is told to come back: whole seconds, with at most two digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter(u8);

impl RetryAfter {
    /// A queue is a matter of moments: the shortest time that the header can say.
    pub const LEAST: Self = Self(1);

    /// Nobody knows what is in a minute.
    pub const MOST: Self = Self(60);

    /// Not before this time is over, as far as it can be said.
    #[must_use]
    pub fn of(time: Duration) -> Self {
        let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        let seconds = u8::try_from(whole).unwrap_or(u8::MAX);
        Self(seconds.clamp(Self::LEAST.0, Self::MOST.0))
    }

    /// So many.
    #[must_use]
    pub const fn seconds(self) -> u8 {
        self.0
    }
}

/// An empty STDOUT record and END_REQUEST.
const TAIL_LEN: usize = 3 * HEADER_LEN;

const FORBIDDEN_TEXT: &[u8] = b"Status: 403 Forbidden\r\n\
    Content-Type: text/plain\r\n\r\n\
    403 Forbidden\n";
/// RFC 6585 §5: what a web server took from its client is too much for here.
const HEAD_TOO_LARGE_TEXT: &[u8] = b"Status: 431 Request Header Fields Too Large\r\n\
    Content-Type: text/plain\r\n\r\n\
    431 Request Header Fields Too Large\n";
const BAD_GATEWAY_TEXT: &[u8] = b"Status: 502 Bad Gateway\r\n\
    Content-Type: text/plain\r\n\r\n\
    502 Bad Gateway\n";
/// What stands before the seconds, in both texts.
const BEFORE_RETRY: &[u8] = b"Status: 503 Service Unavailable\r\nRetry-After: ";
/// With one digit.
const UNAVAILABLE_TEXT: &[u8] = b"Status: 503 Service Unavailable\r\n\
    Retry-After: 1\r\n\
    Content-Type: text/plain\r\n\r\n\
    503 Service Unavailable\n";
/// With two.
const UNAVAILABLE_LONG_TEXT: &[u8] = b"Status: 503 Service Unavailable\r\n\
    Retry-After: 10\r\n\
    Content-Type: text/plain\r\n\r\n\
    503 Service Unavailable\n";
const GATEWAY_TIMEOUT_TEXT: &[u8] = b"Status: 504 Gateway Timeout\r\n\
    Content-Type: text/plain\r\n\r\n\
    504 Gateway Timeout\n";

const FORBIDDEN: [u8; len(FORBIDDEN_TEXT)] = template(FORBIDDEN_TEXT);
const HEAD_TOO_LARGE: [u8; len(HEAD_TOO_LARGE_TEXT)] = template(HEAD_TOO_LARGE_TEXT);
const BAD_GATEWAY: [u8; len(BAD_GATEWAY_TEXT)] = template(BAD_GATEWAY_TEXT);
const UNAVAILABLE: [u8; len(UNAVAILABLE_TEXT)] = template(UNAVAILABLE_TEXT);
const UNAVAILABLE_LONG: [u8; len(UNAVAILABLE_LONG_TEXT)] = template(UNAVAILABLE_LONG_TEXT);
const GATEWAY_TIMEOUT: [u8; len(GATEWAY_TIMEOUT_TEXT)] = template(GATEWAY_TIMEOUT_TEXT);

const fn len(text: &[u8]) -> usize {
    HEADER_LEN + text.len().next_multiple_of(8) + TAIL_LEN
}

/// The three records with request id 0 for the time being.
const fn template<const LEN: usize>(text: &[u8]) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let padding_len = text.len().next_multiple_of(8) - text.len();
    put(&mut bytes, 0, header(Kind::Stdout, text.len(), padding_len));
    let (_, content) = bytes.split_at_mut(HEADER_LEN);
    content.split_at_mut(text.len()).0.copy_from_slice(text);
    put(&mut bytes, LEN - TAIL_LEN, header(Kind::Stdout, 0, 0));
    // The body of END_REQUEST is all zeros: application status 0, FCGI_REQUEST_COMPLETE.
    let end = LEN - TAIL_LEN + HEADER_LEN;
    put(&mut bytes, end, header(Kind::EndRequest, HEADER_LEN, 0));
    bytes
}

const fn put(bytes: &mut [u8], at: usize, header: [u8; HEADER_LEN]) {
    let (_, rest) = bytes.split_at_mut(at);
    rest.split_at_mut(HEADER_LEN).0.copy_from_slice(&header);
}

const fn header(kind: Kind, content_len: usize, padding_len: usize) -> [u8; HEADER_LEN] {
    let [.., high, low] = content_len.to_be_bytes();
    let [.., padding_len] = padding_len.to_be_bytes();
    Header {
        kind,
        request_id: RequestId::MANAGEMENT,
        content_len: u16::from_be_bytes([high, low]),
        padding_len,
    }
    .encode()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::super::response::{ResponseEvent, ResponseReader};
    use super::*;
    use spliceway_common::fastcgi::{EndRequest, ProtocolStatus};

    #[test]
    fn each_answer_is_a_complete_response_with_its_status() {
        let request_id = RequestId::application(NonZeroU16::new(0x1234).unwrap());
        let long = [9, 10, 42, 60].map(|s| Answer::Unavailable(RetryAfter(s)));
        for (number, answer) in Answer::ALL.into_iter().enumerate() {
            assert_eq!(answer.number(), number);
        }
        for answer in Answer::ALL.into_iter().chain(long) {
            let mut bytes = b"before".to_vec();
            answer.write(request_id, &mut bytes);
            let bytes = &bytes[6..];
            assert_eq!(bytes.len() % 8, 0);
            let mut reader = ResponseReader::new(request_id);
            let mut at = 0;
            let Ok(Some(ResponseEvent::Pass(pass))) = reader.next(bytes, &mut at) else {
                panic!("{answer:?} is no response");
            };
            assert_eq!(pass.range(), 0..bytes.len());
            let end = EndRequest {
                app_status: 0,
                protocol_status: ProtocolStatus::RequestComplete,
            };
            let last = reader.next(bytes, &mut at);
            assert_eq!(last, Ok(Some(ResponseEvent::End(end))));
            assert_eq!((reader.status(), at), (answer.status(), bytes.len()));
            let text = String::from_utf8_lossy(bytes);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(body.starts_with(&answer.status().to_string()));
            assert_eq!(reader.stdout_bytes(), answer.stdout_bytes());
            let retry = head.split_once("\r\nRetry-After: ");
            let seconds = retry.and_then(|(_, rest)| rest.split_once("\r\n"));
            let wanted = match answer {
                Answer::Unavailable(retry) => Some(retry.seconds().to_string()),
                _ => None,
            };
            assert_eq!(seconds.map(|(seconds, _)| seconds), wanted.as_deref());
        }
    }

    #[test]
    fn clients_are_told_whole_seconds_from_one_to_sixty() {
        let told = |millis| RetryAfter::of(Duration::from_millis(millis)).seconds();
        assert_eq!([0, 1, 1_000, 1_001, 59_999].map(told), [1, 1, 1, 2, 60]);
        assert_eq!([60_001, 255_500, 1 << 40].map(told), [60; 3]);
    }
}
