//! What the load and the responder agree on: the parameters that ask for an answer, and the answer.
//!
//! The answer's STDOUT begins with a CGI header in which the responder repeats the request's number,
//! a digest of all its parameters and how much of a body it has received; the pattern that belongs
//! to that digest follows. So an answer that reaches the wrong client, and a request that was
//! altered on its way, show in every byte.

/// How many bytes the answer's STDOUT has, CGI header included, in decimal.
pub const PARAM_RESPONSE_BYTES: &str = "SPLICEWAY_RESPONSE_BYTES";

/// How long the responder waits before it answers, in microseconds, in decimal.
pub const PARAM_DELAY_US: &str = "SPLICEWAY_DELAY_US";

/// The request's own number, sixteen hexadecimal digits. Which body the request has follows
/// from it, so that the responder checks the body of a request with this parameter.
pub const PARAM_NONCE: &str = "SPLICEWAY_NONCE";

/// Digits of a nonce.
pub(crate) const NONCE_LEN: usize = 16;

/// The CGI header; the dots are filled in.
const TEMPLATE: &[u8] = b"Status: 200 OK\r\n\
    Content-Type: application/octet-stream\r\n\
    X-Request: ................\r\n\
    X-Params-Digest: ................\r\n\
    X-Body-Bytes: ................\r\n\r\n";

/// Bytes of the CGI header, and so of the shortest answer.
pub const HEAD_LEN: usize = TEMPLATE.len();

/// Where the three numbers stand.
const FIELDS_AT: [usize; 3] = fields();

/// Finds the dots.
const fn fields() -> [usize; 3] {
    let mut found = [0; 3];
    let (mut count, mut at) = (0, 0);
    while at < TEMPLATE.len() {
        if TEMPLATE[at] == b'.' {
            found[count] = at;
            count += 1;
            at += NONCE_LEN;
        }
        at += 1;
    }
    assert!(count == found.len(), "three fields");
    found
}

/// What the CGI header of an answer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The request's own number.
    pub(crate) nonce: u64,
    /// The digest of its parameters.
    pub(crate) params_digest: u64,
    /// Bytes of its body.
    pub(crate) body_bytes: u64,
}

impl Head {
    /// The header's bytes.
    pub(crate) fn encode(self) -> [u8; HEAD_LEN] {
        let mut head = [0; HEAD_LEN];
        head.copy_from_slice(TEMPLATE);
        let numbers = [self.nonce, self.params_digest, self.body_bytes];
        for (at, number) in FIELDS_AT.into_iter().zip(numbers) {
            head[at..at + NONCE_LEN].copy_from_slice(&hex(number));
        }
        head
    }

    /// The nonce that stands in a header, if it is whole and one of ours.
    pub(crate) fn nonce_in(head: &[u8]) -> Option<u64> {
        let [at, ..] = FIELDS_AT;
        parse_hex(head.get(at..at + NONCE_LEN)?)
    }
}

/// Sixteen hexadecimal digits.
pub(crate) fn hex(number: u64) -> [u8; NONCE_LEN] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; NONCE_LEN];
    for (pair, byte) in text.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

/// What [`hex`] wrote.
pub(crate) fn parse_hex(text: &[u8]) -> Option<u64> {
    let is_digit = |byte: &u8| byte.is_ascii_hexdigit();
    if text.len() != NONCE_LEN || !text.iter().all(is_digit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_survive(nonce: u64, params_digest: u64, body_bytes: u64) {
            prop_assert_eq!(parse_hex(&hex(nonce)), Some(nonce));
            let head = Head { nonce, params_digest, body_bytes }.encode();
            prop_assert_eq!(Head::nonce_in(&head), Some(nonce));
        }
    }

    #[test]
    fn a_head_is_a_cgi_header() {
        let head = Head {
            nonce: 1,
            params_digest: 0xabc,
            body_bytes: 16,
        }
        .encode();
        assert_eq!(
            std::str::from_utf8(&head).unwrap(),
            "Status: 200 OK\r\nContent-Type: application/octet-stream\r\n\
             X-Request: 0000000000000001\r\nX-Params-Digest: 0000000000000abc\r\n\
             X-Body-Bytes: 0000000000000010\r\n\r\n"
        );
    }

    #[test]
    fn what_is_no_nonce_is_none() {
        for text in [
            &b"0"[..],
            b"+000000000000001",
            b"000000000000000g",
            b"00000000000000001",
        ] {
            assert_eq!(parse_hex(text), None);
        }
    }
}
