//! A request as a test makes it, what became of it, and a client of HTTP/1.1 that knows a whole answer
//! from one that was cut.

use crate::common::uninterrupted;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

/// After so long without a byte an answer is given up. A test that is right never comes near it; one that
/// is not should not take minutes to say so.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(20);

/// The data of one chunk of an upload: several to a record of FastCGI, and several records to an upload.
const CHUNK: usize = 16_000;

/// A head of an answer that is longer than this is none.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// What is asked of the program behind everything; see `programs/README.md`.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) query: String,
    pub(crate) body: Body,
}

#[derive(Clone)]
pub(crate) enum Body {
    Absent,
    Announced(Vec<u8>),
    /// In pieces, without its length.
    Chunked(Vec<u8>),
}

impl Ask {
    pub(crate) fn get(query: String) -> Self {
        Self {
            method: "GET",
            query,
            body: Body::Absent,
        }
    }

    pub(crate) fn post(query: String, body: Vec<u8>) -> Self {
        Self {
            method: "POST",
            query,
            body: Body::Announced(body),
        }
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

/// What became of a request: a whole answer, or why there is none.
pub(crate) type Outcome = Result<Reply, Failure>;

/// In few words, so that the same fault has the same words each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) String);

impl Failure {
    fn new(words: &str) -> Self {
        Self(words.to_owned())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer within 20 s",
            ErrorKind::UnexpectedEof => "cut",
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "cut by a reset",
            _ => return Self(error.to_string()),
        })
    }
}

/// Asks a web server. `on_body` gets the body as far as it has come, each time more has.
pub(crate) fn over_http(
    (host, port): &(String, u16),
    path: &str,
    ask: &Ask,
    on_body: &mut dyn FnMut(&[u8]),
) -> Outcome {
    let stream = TcpStream::connect((&**host, *port))?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    thread::scope(|scope| {
        // What does not go out shows in the answer, or is not wanted: answers may come early.
        scope.spawn(|| send(&stream, path, ask));
        let outcome = Answer::new(&stream).read(ask.method, on_body);
        // An upload that nobody reads any more ends here; a socket that is gone already needs no end.
        let _ = stream.shutdown(Shutdown::Both);
        outcome
    })
}

fn send(mut to: &TcpStream, path: &str, ask: &Ask) -> io::Result<()> {
    // Caddy takes a body of no type for a form's, and PHP parses those.
    let kind = "Content-Type: application/octet-stream\r\n";
    let length = match &ask.body {
        Body::Absent => String::new(),
        Body::Announced(body) => format!("{kind}Content-Length: {}\r\n", body.len()),
        Body::Chunked(_) => format!("{kind}Transfer-Encoding: chunked\r\n"),
    };
    let head = format!(
        "{} {path}?{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n",
        ask.method, ask.query
    );
    to.write_all(head.as_bytes())?;
    match &ask.body {
        Body::Absent => Ok(()),
        Body::Announced(body) => to.write_all(body),
        Body::Chunked(body) => {
            for chunk in body.chunks(CHUNK) {
                let size = format!("{:x}\r\n", chunk.len());
                to.write_all(&[size.as_bytes(), chunk, b"\r\n"].concat())?;
            }
            to.write_all(b"0\r\n\r\n")
        }
    }
}

/// An answer that is being read.
struct Answer<R> {
    from: R,
    /// What has come and was not taken yet.
    ahead: Vec<u8>,
}

impl<R: Read> Answer<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            ahead: Vec::new(),
        }
    }

    fn read(mut self, method: &str, on_body: &mut dyn FnMut(&[u8])) -> Outcome {
        let (status, headers) = loop {
            let (status, headers) = self.head()?;
            // 100 Continue and its like come before the answer.
            if status >= 200 {
                break (status, headers);
            }
        };
        let header = |name: &str| {
            let mut fields = headers.lines().filter_map(|line| line.split_once(':'));
            let found = fields.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_ascii_lowercase())
        };
        let mut body = Vec::new();
        if method == "HEAD" || status == 204 || status == 304 {
            return Ok(Reply {
                status,
                headers,
                body,
            });
        }
        if header("Transfer-Encoding").is_some_and(|coding| coding == "chunked") {
            self.chunks(&mut body, on_body)?;
        } else if let Some(length) = header("Content-Length") {
            let length = length.parse();
            let length = length.map_err(|_| Failure::new("Content-Length is no number"))?;
            self.take(length, &mut body, on_body)?;
        } else {
            while self.more()? {
                body.append(&mut self.ahead);
                on_body(&body);
            }
            body.append(&mut self.ahead);
            on_body(&body);
        }
        Ok(Reply {
            status,
            headers,
            body,
        })
    }

    fn head(&mut self) -> Result<(u16, String), Failure> {
        let end = loop {
            let found = self.ahead.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = found {
                break end;
            }
            if self.ahead.len() > HEAD_BYTES_MAX {
                return Err(Failure::new("a head without an end"));
            }
            if !self.more()? {
                return Err(Failure::new(if self.ahead.is_empty() {
                    "closed without an answer"
                } else {
                    "cut within the head"
                }));
            }
        };
        let head: Vec<u8> = self.ahead.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let (line, headers) = head.split_once("\r\n").unwrap_or((&head, ""));
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| Failure(format!("no status in {line:?}")))?;
        Ok((status, headers.to_owned()))
    }

    fn chunks(
        &mut self,
        body: &mut Vec<u8>,
        on_body: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Failure> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16);
            let size = size.map_err(|_| Failure(format!("{line:?} is no size of a chunk")))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(());
            }
            self.take(size, body, on_body)?;
            if !self.line()?.is_empty() {
                return Err(Failure::new("a chunk longer than it says"));
            }
        }
    }

    /// Adds exactly `count` bytes to `body`.
    fn take(
        &mut self,
        count: usize,
        body: &mut Vec<u8>,
        on_body: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Failure> {
        let end = body.len() + count;
        while body.len() < end {
            if self.ahead.is_empty() && !self.more()? {
                return Err(Failure::new("cut"));
            }
            let now = self.ahead.len().min(end - body.len());
            body.extend(self.ahead.drain(..now));
            on_body(body);
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String, Failure> {
        loop {
            let found = self.ahead.windows(2).position(|two| two == b"\r\n");
            if let Some(end) = found {
                let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.more()? {
                return Err(Failure::new("cut"));
            }
        }
    }

    /// Receives something; false at the end.
    fn more(&mut self) -> io::Result<bool> {
        let mut piece = vec![0; 256 * 1024];
        let count = uninterrupted(|| self.from.read(&mut piece))?;
        self.ahead.extend(&piece[..count]);
        Ok(count > 0)
    }
}

/// An answer as CGI programs write it.
pub(crate) fn parse_cgi(bytes: &[u8]) -> Outcome {
    let Some((head, body)) = split_cgi(bytes) else {
        return Err(Failure::new(if bytes.is_empty() {
            "closed without an answer"
        } else {
            "cut within the head"
        }));
    };
    let headers = String::from_utf8_lossy(head).into_owned();
    let status = headers
        .lines()
        .find_map(|line| line.strip_prefix("Status:"))
        .and_then(|value| value.trim().get(..3)?.parse().ok());
    Ok(Reply {
        status: status.unwrap_or(200),
        headers,
        body: body.to_vec(),
    })
}

/// The headers and the body of an answer, if the headers are whole. Programs may end lines as they like.
pub(crate) fn split_cgi(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let find = |end: &[u8]| {
        let found = bytes.windows(end.len()).position(|part| part == end);
        found.map(|at| (&bytes[..at + end.len() / 2], &bytes[at + end.len()..]))
    };
    find(b"\r\n\r\n").or_else(|| find(b"\n\n"))
}
