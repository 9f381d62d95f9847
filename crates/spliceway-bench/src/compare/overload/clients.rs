//! An open loop of clients that have patience for a while: each comes at a time that nothing changes, asks once, and closes
//! its connection when it has its answer or its patience is over.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use spliceway_common::fastcgi::{Kind, Reader, RecordEvent};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

/// What a client speaks, and says.
#[derive(Clone)]
pub(super) enum Question {
    Fastcgi(Arc<[u8]>),
    Http,
}

/// nginx closes the connection behind its answer.
const HTTP_REQUEST: &[u8] = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n";

/// What became of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It has its page.
    Answered,
    /// It was told to come back later.
    SentAway,
    /// Nothing took its connection.
    Refused,
    /// It got something else, or nothing.
    Broken,
    /// It did not wait any longer.
    GaveUp,
}

/// One client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// When it came, from the start on.
    pub(super) due: Duration,
    /// How long it was there.
    pub(super) took: Duration,
    pub(super) fate: Fate,
}

/// Random intervals around those of a rate, as of clients that know nothing of one another, until that time. The same for
/// the same seed.
pub(super) fn arrivals(rate: f64, until: Duration, seed: u64) -> Vec<Duration> {
    let mut random = Random(seed);
    let (mut due, mut at) = (Vec::new(), 0.0);
    loop {
        at += -(1.0 - random.share()).ln() / rate;
        if at >= until.as_secs_f64() {
            return due;
        }
        due.push(Duration::from_secs_f64(at));
    }
}

/// SplitMix64 (G. L. Steele et al., OOPSLA 2014).
struct Random(u64);

impl Random {
    /// From 0 on, and below 1.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Lets clients come at these times after `start`.
pub(super) fn run(
    socket: &Path,
    question: &Question,
    (start, due): (Instant, &[Duration]),
    patience: Duration,
) -> io::Result<Vec<Record>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async {
        let socket: Arc<Path> = socket.into();
        let mut clients = JoinSet::new();
        for &due in due {
            sleep_until((start + due).into()).await;
            let (socket, question) = (Arc::clone(&socket), question.clone());
            clients.spawn(async move {
                let by = start + due + patience;
                let asked = timeout_at(by.into(), ask(&socket, &question)).await;
                Record {
                    due,
                    took: start.elapsed().saturating_sub(due),
                    fate: asked.unwrap_or(Fate::GaveUp),
                }
            });
        }
        clients.join_all().await
    }))
}

async fn ask(socket: &Path, question: &Question) -> Fate {
    let Ok(stream) = UnixStream::connect(PathBuf::from(socket)).await else {
        return Fate::Refused;
    };
    let status = match question {
        Question::Fastcgi(request) => fastcgi(stream, request).await,
        Question::Http => http(stream).await,
    };
    match status {
        Ok(200) => Fate::Answered,
        Ok(503) => Fate::SentAway,
        Ok(_) | Err(_) => Fate::Broken,
    }
}

async fn http(mut stream: UnixStream) -> io::Result<u16> {
    stream.write_all(HTTP_REQUEST).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let status = answer.strip_prefix(b"HTTP/1.1 ");
    status.and_then(number).ok_or_else(nonsense)
}

async fn fastcgi(mut stream: UnixStream, request: &[u8]) -> io::Result<u16> {
    stream.write_all(request).await?;
    let mut reader = Reader::new();
    let mut bytes = vec![0; 4096];
    let (mut answer, mut kind) = (Vec::new(), None);
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut input = &bytes[..count];
        while let Some(event) = reader.next(&mut input).map_err(io::Error::other)? {
            match event {
                RecordEvent::Begin(header) => kind = Some(header.kind),
                RecordEvent::Content(piece) if kind == Some(Kind::Stdout) => answer.extend(piece),
                RecordEvent::End if kind == Some(Kind::EndRequest) => {
                    return match answer.strip_prefix(b"Status: ") {
                        Some(status) => number(status).ok_or_else(nonsense),
                        None => Ok(200),
                    };
                }
                RecordEvent::Content(_) | RecordEvent::End => {}
            }
        }
    }
}

/// The three digits that are in front.
fn number(text: &[u8]) -> Option<u16> {
    let digits = std::str::from_utf8(text.get(..3)?).ok()?;
    digits.parse().ok()
}

fn nonsense() -> io::Error {
    io::Error::other("an answer without a status")
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::compare::client;

    #[test]
    fn as_many_come_as_the_rate_says_and_the_same_for_the_same_seed() {
        let until = Duration::from_secs(100);
        let due = arrivals(200.0, until, 7);
        // Five standard deviations.
        assert!((19_290..20_710).contains(&due.len()), "{}", due.len());
        assert!(due.is_sorted() && due[due.len() - 1] < until);
        assert_eq!(due, arrivals(200.0, until, 7));
        assert_ne!(due[..10], arrivals(200.0, until, 8)[..10]);
    }

    /// What becomes of clients that `serve` answers, one after the other.
    fn fates(
        question: &Question,
        count: usize,
        serve: fn(usize) -> Option<&'static [u8]>,
    ) -> Vec<Fate> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("0.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let due = vec![Duration::ZERO; count];
        let patience = Duration::from_secs(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut kept = Vec::new();
                for number in 0..count {
                    let (mut stream, _) = listener.accept().unwrap();
                    // Enough of the question.
                    stream.read_exact(&mut [0; 8]).unwrap();
                    match serve(number) {
                        Some(answer) => stream.write_all(answer).unwrap(),
                        None => kept.push(stream),
                    }
                }
                // Until those that get nothing have left.
                for mut stream in kept {
                    let _ = stream.read_to_end(&mut Vec::new());
                }
            });
            let records = run(&socket, question, (Instant::now(), &due), patience).unwrap();
            let mut fates: Vec<Fate> = records.iter().map(|record| record.fate).collect();
            fates.sort_by_key(|fate| *fate as u8);
            fates
        })
    }

    #[test]
    fn web_clients_tell_answers_refusals_and_failures_apart() {
        let fates = fates(&Question::Http, 4, |number| match number {
            0 => Some(b"HTTP/1.1 200 OK\r\n\r\ndone"),
            1 => Some(b"HTTP/1.1 503 Service Temporarily Unavailable\r\n\r\n"),
            2 => Some(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
            _ => None,
        });
        let wanted = [Fate::Answered, Fate::SentAway, Fate::Broken, Fate::GaveUp];
        assert_eq!(fates, wanted);
    }

    #[test]
    fn clients_of_fastcgi_do_so_as_well() {
        const PAGE: &[u8] = b"\x01\x06\0\x01\0\x04\0\0done\x01\x03\0\x01\0\x08\0\0\0\0\0\0\0\0\0\0";
        const LATER: &[u8] =
            b"\x01\x06\0\x01\0\x0f\0\0Status: 503 \r\n\r\x01\x03\0\x01\0\x08\0\0\0\0\0\0\0\0\0\0";
        let request = client::request(false, &[("REQUEST_METHOD", "GET")]);
        let question = Question::Fastcgi(request.into());
        let fates = fates(&question, 3, |number| match number {
            0 => Some(PAGE),
            1 => Some(LATER),
            _ => Some(b""),
        });
        assert_eq!(fates, [Fate::Answered, Fate::SentAway, Fate::Broken]);
    }
}
