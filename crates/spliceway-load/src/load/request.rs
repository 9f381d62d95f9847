//! Requests, encoded once: from one to the next only the nonce changes.

use std::num::NonZeroU16;
use std::sync::LazyLock;

use super::plan::{Connections, PARAMS_BYTES_MAX, Plan, PlanError, Request};
use crate::digest::Digest;
use crate::frames::{Frames, Pieces, Shape};
use crate::pattern::Pattern;
use crate::synthetic::{NONCE_LEN, PARAM_DELAY_US, PARAM_NONCE, PARAM_RESPONSE_BYTES, hex};
use spliceway_common::fastcgi::{
    BeginRequest, Kind, RequestId, Role, push_pair, push_record, push_stream, push_stream_end,
};

/// One request at a time on a connection, so that one id serves them all.
pub(super) const REQUEST_ID: RequestId = RequestId::application(NonZeroU16::MIN);

/// Brings the parameters to the length that was asked for.
const FILLER: &[u8] = b"HTTP_COOKIE";

/// The length of FILLER's pair without its value, which has a length of four bytes or of one.
const FILLER_OVERHEADS: [usize; 2] = [1 + 1 + FILLER.len(), 1 + 4 + FILLER.len()];

/// The longest value whose length takes one byte.
const SHORT_VALUE_MAX: usize = 127;

/// A request that is sent again and again.
pub(super) struct Template {
    /// BEGIN_REQUEST and PARAMS.
    prefix: Vec<u8>,
    /// The body and its end.
    frames: Frames,
    has_body: bool,
    /// `None` if nothing changes from one request to the next.
    nonce: Option<NonceAt>,
}

/// Where the nonce stands: at the very end of the parameters.
struct NonceAt {
    /// In the prefix.
    position: usize,
    /// The digest of the parameters before it.
    before: Digest,
}

impl Template {
    /// Encodes what the plan asks for.
    pub(super) fn new(plan: &Plan) -> Result<Self, PlanError> {
        let (params, has_nonce, body_bytes) = match &plan.request {
            Request::Synthetic {
                params_bytes,
                params,
                body_bytes,
                response_bytes,
                delay,
            } => {
                let delay_us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
                let needed = pairs(*body_bytes, *response_bytes, delay_us);
                let params = synthetic(*params_bytes, needed, params);
                (params, true, *body_bytes)
            }
            Request::Script {
                script,
                params,
                body_bytes,
                ..
            } => (scripted(script, params, *body_bytes), false, *body_bytes),
        };
        if params.len() > PARAMS_BYTES_MAX {
            return Err(PlanError::ParamsTooLong(params.len()));
        }
        Ok(Self::encode(
            &params,
            has_nonce,
            body_bytes,
            plan.connections,
        ))
    }

    fn encode(params: &[u8], has_nonce: bool, body_bytes: u64, connections: Connections) -> Self {
        let begin = BeginRequest {
            role: Role::Responder,
            keep_conn: match connections {
                Connections::New => false,
                Connections::Kept => true,
            },
        };
        let mut prefix = Vec::new();
        push_record(&mut prefix, Kind::BeginRequest, REQUEST_ID, &begin.encode());
        let params_at = prefix.len() + spliceway_common::fastcgi::HEADER_LEN;
        push_stream(&mut prefix, Kind::Params, REQUEST_ID, params);
        push_stream_end(&mut prefix, Kind::Params, REQUEST_ID);
        let nonce = has_nonce.then(|| {
            let at = params.len() - NONCE_LEN;
            let mut before = Digest::default();
            before.push(&params[..at]);
            NonceAt {
                position: params_at + at,
                before,
            }
        });
        let mut closing = Vec::new();
        push_stream_end(&mut closing, Kind::Stdin, REQUEST_ID);
        let frames = Frames::new(&Shape {
            kind: Kind::Stdin,
            id: REQUEST_ID,
            prefix_len: prefix.len(),
            begun: None,
            bytes: body_bytes,
            closing: &closing,
        });
        Self {
            prefix,
            frames,
            has_body: body_bytes > 0,
            nonce,
        }
    }

    /// The length of the whole request.
    pub(super) fn total(&self) -> u64 {
        self.frames.total()
    }

    /// Whether it has a body, so that it may take more than one send.
    pub(super) fn has_body(&self) -> bool {
        self.has_body
    }

    /// The digest of the parameters with this nonce.
    pub(super) fn digest(&self, nonce: u64) -> u64 {
        self.nonce.as_ref().map_or(0, |at| {
            let mut digest = at.before;
            digest.push(&hex(nonce));
            digest.finish()
        })
    }

    /// What is to be sent of the request with this nonce, from `from` on, as much as one call takes.
    pub(super) fn pieces(&mut self, nonce: u64, from: u64) -> Pieces<'_> {
        let pattern = match &self.nonce {
            Some(at) => {
                self.prefix[at.position..at.position + NONCE_LEN].copy_from_slice(&hex(nonce));
                Pattern::of(nonce)
            }
            None => Pattern::default(),
        };
        self.frames.pieces(&self.prefix, pattern, from)
    }
}

/// The fewest bytes of parameters that a synthetic request can have.
pub(super) fn params_bytes_min(more: &[(String, String)]) -> usize {
    /// Whatever the numbers are, they take no more.
    static MIN: LazyLock<usize> = LazyLock::new(|| {
        let most = pairs(u64::MAX, u64::MAX, u64::MAX).len() + nonce_pair().len();
        most + FILLER_OVERHEADS[0]
    });
    *MIN + encoded(more).len()
}

/// Exactly `params_bytes` of parameters: those that our responder needs, more, and the nonce last.
fn synthetic(params_bytes: usize, needed: Vec<u8>, more: &[(String, String)]) -> Vec<u8> {
    let mut params = needed;
    params.extend_from_slice(&encoded(more));
    let nonce = nonce_pair();
    let missing = params_bytes - params.len() - nonce.len();
    let [short, long] = FILLER_OVERHEADS;
    // Three lengths can be had by neither form; there a second pair takes the difference.
    let value_len = match missing - short {
        len @ 0..=SHORT_VALUE_MAX => len,
        _ if missing - long > SHORT_VALUE_MAX => missing - long,
        _ => {
            push_pair(&mut params, b"X", b"");
            missing - short - 3
        }
    };
    push_pair(&mut params, FILLER, &vec![b'c'; value_len]);
    params.extend_from_slice(&nonce);
    params
}

fn pairs(body_bytes: u64, response_bytes: u64, delay_us: u64) -> Vec<u8> {
    let method = if body_bytes > 0 { "POST" } else { "GET" };
    let mut params = Vec::new();
    for (name, value) in [
        ("REQUEST_METHOD", method),
        ("SCRIPT_FILENAME", "/srv/bench/index.php"),
        ("CONTENT_LENGTH", &body_bytes.to_string()),
        (PARAM_RESPONSE_BYTES, &response_bytes.to_string()),
        (PARAM_DELAY_US, &delay_us.to_string()),
    ] {
        push_pair(&mut params, name.as_bytes(), value.as_bytes());
    }
    params
}

fn encoded(params: &[(String, String)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in params {
        push_pair(&mut bytes, name.as_bytes(), value.as_bytes());
    }
    bytes
}

fn nonce_pair() -> Vec<u8> {
    let mut pair = Vec::new();
    push_pair(&mut pair, PARAM_NONCE.as_bytes(), &hex(0));
    pair
}

/// What nginx sends with Debian's `fastcgi_params` and `fastcgi_param SCRIPT_FILENAME` for a
/// request that a browser on this machine would make; then what the user wants instead.
fn scripted(script: &str, replaced: &[(String, String)], body_bytes: u64) -> Vec<u8> {
    let length = match body_bytes {
        0 => String::new(),
        bytes => bytes.to_string(),
    };
    let (directory, _) = script.rsplit_once('/').unwrap_or_default();
    let name = &script[directory.len()..];
    let defaults = [
        ("QUERY_STRING", ""),
        (
            "REQUEST_METHOD",
            if body_bytes > 0 { "POST" } else { "GET" },
        ),
        (
            "CONTENT_TYPE",
            if body_bytes > 0 {
                "application/octet-stream"
            } else {
                ""
            },
        ),
        ("CONTENT_LENGTH", &length),
        ("SCRIPT_FILENAME", script),
        ("SCRIPT_NAME", name),
        ("REQUEST_URI", name),
        ("DOCUMENT_URI", name),
        ("DOCUMENT_ROOT", directory),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_SCHEME", "http"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", "spliceway-bench"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("REMOTE_PORT", "40000"),
        ("REMOTE_USER", ""),
        ("SERVER_ADDR", "127.0.0.1"),
        ("SERVER_PORT", "80"),
        ("SERVER_NAME", "localhost"),
        ("REDIRECT_STATUS", "200"),
        ("HTTP_HOST", "localhost"),
        ("HTTP_USER_AGENT", "spliceway-bench"),
        ("HTTP_ACCEPT", "*/*"),
    ];
    let is_replaced = |name: &str| replaced.iter().any(|(other, _)| other == name);
    let kept = defaults.into_iter().filter(|(name, _)| !is_replaced(name));
    let given = replaced
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let mut params = Vec::new();
    for (name, value) in kept.chain(given) {
        push_pair(&mut params, name.as_bytes(), value.as_bytes());
    }
    params
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::digest;
    use spliceway_common::fastcgi::Pairs;

    fn read(params: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Pairs::new(params)
            .map(|pair| pair.map(|(name, value)| (text(name), text(value))).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn parameters_have_exactly_the_length_that_was_asked_for(
            more in prop_oneof![0..300_usize, 0..60_000_usize],
            numbers: [u64; 3],
            given in prop::collection::vec(("[A-Z]{1,40}", "[a-z]{0,200}"), 0..40),
        ) {
            let params_bytes = params_bytes_min(&given) + more;
            let [body, response, delay] = numbers;
            let params = synthetic(params_bytes, pairs(body, response, delay), &given);
            prop_assert_eq!(params.len(), params_bytes);
            let pairs = read(&params);
            prop_assert!(given.iter().all(|pair| pairs.contains(pair)));
            prop_assert_eq!(pairs.last().unwrap().0.as_str(), PARAM_NONCE);
            prop_assert!(pairs.contains(&(PARAM_RESPONSE_BYTES.to_owned(), response.to_string())));
        }

        #[test]
        fn the_digest_is_that_of_the_whole_parameters(nonce: u64, params_bytes in 300..900_usize) {
            let params = synthetic(params_bytes, pairs(0, 4096, 0), &[]);
            let mut template = Template::encode(&params, true, 0, Connections::New);
            let sent: Vec<u8> = template
                .pieces(nonce, 0)
                .as_slices()
                .iter()
                .flat_map(|piece| piece.to_vec())
                .collect();
            prop_assert_eq!(sent.len() as u64, template.total());
            let sent_params = &sent[24..24 + params_bytes];
            prop_assert_eq!(digest(sent_params), template.digest(nonce));
            prop_assert!(sent_params.ends_with(&hex(nonce)));
        }
    }

    #[test]
    fn a_script_gets_what_nginx_sends() {
        let pairs = read(&scripted("/srv/www/index.php", &[], 0));
        for (name, value) in [
            ("SCRIPT_FILENAME", "/srv/www/index.php"),
            ("SCRIPT_NAME", "/index.php"),
            ("DOCUMENT_ROOT", "/srv/www"),
            ("REQUEST_METHOD", "GET"),
            ("CONTENT_LENGTH", ""),
        ] {
            assert!(
                pairs.contains(&(name.to_owned(), value.to_owned())),
                "{name}: {pairs:?}"
            );
        }
    }

    #[test]
    fn given_parameters_replace_the_defaults_and_add_to_them() {
        let given = [("REQUEST_METHOD", "PUT"), ("X_NEW", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let pairs = read(&scripted("/index.php", &given, 5));
        let values = |wanted: &str| -> Vec<&str> {
            let found = pairs.iter().filter(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str()).collect()
        };
        assert_eq!(values("REQUEST_METHOD"), ["PUT"]);
        assert_eq!(values("X_NEW"), ["1"]);
        assert_eq!(values("CONTENT_LENGTH"), ["5"]);
    }
}
