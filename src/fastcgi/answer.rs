//! Answers of our own, where no backend gives one (specification §5.3, §5.5; RFC 3875 §6).

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
    Unavailable,
    /// The backend took too long for the request.
    GatewayTimeout,
}

impl Answer {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Forbidden,
        Self::HeadTooLarge,
        Self::BadGateway,
        Self::Unavailable,
        Self::GatewayTimeout,
    ];

    /// Its HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            Self::HeadTooLarge => 431,
            Self::BadGateway => 502,
            Self::Unavailable => 503,
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
            Self::Unavailable => UNAVAILABLE_TEXT,
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
            Self::Unavailable => &UNAVAILABLE,
            Self::GatewayTimeout => &GATEWAY_TIMEOUT,
        };
        let start = out.len();
        out.extend_from_slice(template);
        let end = out.len();
        // The headers: at the front, and those of the two records of fixed length at the end.
        for header in [start, end - TAIL_LEN, end - TAIL_LEN + HEADER_LEN] {
            out[header + 2..header + 4].copy_from_slice(&request_id.get().to_be_bytes());
        }
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
/// A queue is a matter of moments, so the client may come back in the shortest time that the header
/// can say.
const UNAVAILABLE_TEXT: &[u8] = b"Status: 503 Service Unavailable\r\n\
    Retry-After: 1\r\n\
    Content-Type: text/plain\r\n\r\n\
    503 Service Unavailable\n";
const GATEWAY_TIMEOUT_TEXT: &[u8] = b"Status: 504 Gateway Timeout\r\n\
    Content-Type: text/plain\r\n\r\n\
    504 Gateway Timeout\n";

const FORBIDDEN: [u8; len(FORBIDDEN_TEXT)] = template(FORBIDDEN_TEXT);
const HEAD_TOO_LARGE: [u8; len(HEAD_TOO_LARGE_TEXT)] = template(HEAD_TOO_LARGE_TEXT);
const BAD_GATEWAY: [u8; len(BAD_GATEWAY_TEXT)] = template(BAD_GATEWAY_TEXT);
const UNAVAILABLE: [u8; len(UNAVAILABLE_TEXT)] = template(UNAVAILABLE_TEXT);
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
        for answer in Answer::ALL {
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
            let retry = head.contains("\r\nRetry-After: 1\r\n");
            assert_eq!(retry, answer == Answer::Unavailable);
        }
    }
}
