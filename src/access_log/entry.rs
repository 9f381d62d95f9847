//! What is known of a request when a line is written about it.

use std::time::{Duration, Instant};

use crate::address::Address;
use crate::config::ClassName;
use crate::counters::Outcome;
use crate::fastcgi::{Head, Pairs, Rejection};
use crate::sys::net::PeerCredentials;

/// How much of a URI, or of a script's path, is kept: more than browsers show, and with it a full queue
/// stays small compared with the sessions that filled it.
const WORD_BYTES_MAX: usize = 2048;

/// How much of a method is kept: the longest registered one has 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

/// Why a line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occasion {
    /// The request is over: a line of the access log.
    End,
    /// It takes long, and is not over: a line of the slow log, as the next one.
    Slow {
        /// What it does.
        state: &'static str,
        /// Who holds it up, if that is to be seen.
        stalled: Option<&'static str>,
    },
    /// It took long, and is over.
    SlowEnd,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Why there is a line.
    pub occasion: Occasion,
    /// When that came.
    pub at: Instant,
    /// Who asked, where the system could say.
    pub peer: Option<PeerCredentials>,
    /// What the client wrote.
    pub words: Words,
    /// The HTTP status of the answer, if there was one.
    pub status: Option<u16>,
    /// The bytes of the answer that came, without FastCGI's own.
    pub bytes: u64,
    /// Who served it, or was to.
    pub upstream: Option<Upstream>,
    /// How long it waited in the queue.
    pub queue: Duration,
    /// How long it took to get a connection after that.
    pub connect: Duration,
    /// From its head until the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// From its head until now.
    pub total: Duration,
    /// How it ended, unless it ended well.
    pub ending: Option<Outcome>,
    /// Why the guard rejected it, if it did.
    pub rejection: Option<Rejection>,
    /// Its class, where there are classes and the guard let it pass.
    pub class: Option<ClassName>,
}

/// The connection that a request had last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// Where it leads.
    pub endpoint: Address,
    /// Whether it had served others.
    pub reused: bool,
}

/// Parameters of the request: bytes as the client sent them, cut where they are long.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Words {
    /// One after the other, so that they take one allocation.
    bytes: Vec<u8>,
    method_end: usize,
    uri_end: usize,
    cut: Cut,
    /// See [`Self::head_bytes`].
    head_bytes: usize,
}

/// Which of them are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Cut {
    method: bool,
    uri: bool,
    script: bool,
}

/// One of the words: its bytes, and whether there were more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) is_cut: bool,
}

impl Words {
    /// Those of a request with this head; of several parameters of one name the last, as PHP-FPM has it.
    #[must_use]
    pub fn of(head: &Head) -> Self {
        let (mut method, mut uri, mut script) = (&[][..], &[][..], &[][..]);
        for (name, value) in Pairs::new(head.params()).flatten() {
            match name {
                b"REQUEST_METHOD" => method = value,
                b"REQUEST_URI" => uri = value,
                b"SCRIPT_FILENAME" => script = value,
                _ => {}
            }
        }
        Self {
            head_bytes: head.params().len(),
            ..Self::new(method, uri, script)
        }
    }

    pub(super) fn new(method: &[u8], uri: &[u8], script: &[u8]) -> Self {
        let cut = Cut {
            method: method.len() > METHOD_BYTES_MAX,
            uri: uri.len() > WORD_BYTES_MAX,
            script: script.len() > WORD_BYTES_MAX,
        };
        let method = &method[..method.len().min(METHOD_BYTES_MAX)];
        let uri = &uri[..uri.len().min(WORD_BYTES_MAX)];
        let script = &script[..script.len().min(WORD_BYTES_MAX)];
        Self {
            bytes: [method, uri, script].concat(),
            method_end: method.len(),
            uri_end: method.len() + uri.len(),
            cut,
            head_bytes: 0,
        }
    }

    /// How many bytes of parameters were walked for them.
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// Method, URI and script as text: what is no UTF-8 is U+FFFD, and what is cut ends in three dots.
    #[must_use]
    pub fn texts(&self) -> [String; 3] {
        [self.method(), self.uri(), self.script()].map(|word| {
            let mut text = String::from_utf8_lossy(word.bytes).into_owned();
            if word.is_cut {
                text.push_str("...");
            }
            text
        })
    }

    /// How many bytes of all of them there are.
    #[must_use]
    pub fn bytes_kept(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn method(&self) -> Word<'_> {
        Word {
            bytes: &self.bytes[..self.method_end],
            is_cut: self.cut.method,
        }
    }

    pub(super) fn uri(&self) -> Word<'_> {
        Word {
            bytes: &self.bytes[self.method_end..self.uri_end],
            is_cut: self.cut.uri,
        }
    }

    pub(super) fn script(&self) -> Word<'_> {
        Word {
            bytes: &self.bytes[self.uri_end..],
            is_cut: self.cut.script,
        }
    }
}

/// What tests begin with.
#[cfg(test)]
pub(super) fn sample() -> Entry {
    Entry {
        occasion: Occasion::End,
        at: Instant::now(),
        peer: Some(PeerCredentials {
            uid: 33,
            gid: 33,
            pid: 4711,
        }),
        words: Words::new(b"GET", b"/index.php?x=1", b"/srv/index.php"),
        status: Some(200),
        bytes: 1234,
        upstream: Some(Upstream {
            endpoint: std::net::SocketAddr::from(([192, 0, 2, 1], 9000)).into(),
            reused: true,
        }),
        queue: Duration::ZERO,
        connect: Duration::from_micros(250),
        first_byte: Some(Duration::from_millis(12)),
        total: Duration::from_micros(2_012_345),
        ending: None,
        rejection: None,
        class: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_apart_and_cut_where_they_are_long() {
        let long = vec![b'a'; 3000];
        let words = Words::new(b"GET", &long, b"/x.php");
        assert_eq!(words.method().bytes, b"GET");
        assert_eq!(words.uri().bytes, &long[..2048]);
        assert_eq!(words.script().bytes, b"/x.php");
        assert_eq!(
            (
                words.method().is_cut,
                words.uri().is_cut,
                words.script().is_cut
            ),
            (false, true, false)
        );
        let empty = Words::new(b"", b"", b"");
        assert_eq!(
            empty.script(),
            Word {
                bytes: b"",
                is_cut: false
            }
        );
    }
}
