//! The FastCGI responder behind the demo: the part that PHP-FPM plays elsewhere.
//!
//! Like PHP-FPM it serves one connection per worker, one request per connection, and closes first:
//! the closed connection's TIME_WAIT then stays at its own fixed port and costs nobody a local
//! port. Its answer is a function of every byte of the request's parameters, so that a response
//! that reaches the wrong client, or a request that was altered on its way, shows.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::fastcgi::{
    BeginRequest, EndRequest, Event, FixedBody, Header, Kind, Malformed, PairError, Pairs,
    ProtocolStatus, Reader, RequestId, Role, push_record, push_stream, push_stream_end,
};

/// The content of the response's STDOUT stream, CGI header included.
pub(super) const STDOUT_LEN: usize = 4096;

/// The CGI header that every response begins with (FastCGI §6.2).
const HEAD: &[u8] = b"Status: 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n";

/// The most bytes of parameters that a request may have; the demo's own have 600.
const PARAMS_MAX: usize = 16 * 1024;

/// How much is read at one time: several times the demo's request.
const CHUNK_LEN: usize = 4096;

/// How long a connection may be silent. The demo's client sends its request at once.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How long a worker rests when accept(2) fails (descriptors used up), instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How long the end of the workers may take to be announced to one of them.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running responder; dropping it ends its workers.
pub(super) struct Responder {
    address: SocketAddr,
    /// Written once at the end, read by the workers. It orders no other memory: a worker that has
    /// been woken by a connection sees it, because the kernel hands connections on in order.
    ended: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Responder {
    /// Listens on a free port of 127.0.0.1 with `workers` workers.
    pub(super) fn start(workers: usize) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
        let mut responder = Self {
            address: listener.local_addr()?,
            ended: Arc::default(),
            workers: Vec::with_capacity(workers),
        };
        for _ in 0..workers {
            let (listener, ended) = (Arc::clone(&listener), Arc::clone(&responder.ended));
            let worker = thread::Builder::new()
                .name("responder".to_owned())
                .spawn(move || accept(&listener, &ended))?;
            responder.workers.push(worker);
        }
        Ok(responder)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Responder {
    /// Each worker may be waiting in accept(2): one connection wakes one of them.
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        for _ in &self.workers {
            if TcpStream::connect_timeout(&self.address, WAKE_TIMEOUT).is_err() {
                // Some would not wake up. They hold no more than the process that ends with them.
                return;
            }
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// One worker: one connection after the other.
fn accept(listener: &TcpListener, ended: &AtomicBool) {
    while !ended.load(Ordering::SeqCst) {
        match listener.accept() {
            // What goes wrong on a connection is for its client to notice and report.
            Ok((stream, _)) => drop(prepare(&stream).and_then(|()| serve(&stream))),
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))
}

/// Reads one request and answers it. A connection that ends without one is not answered.
pub(super) fn serve(mut stream: impl Read + Write) -> io::Result<()> {
    let mut request = Request::default();
    let mut chunk = [0; CHUNK_LEN];
    loop {
        let len = stream.read(&mut chunk)?;
        if len == 0 {
            return Ok(());
        }
        let complete = request.read(&chunk[..len]).map_err(io::Error::other)?;
        if let Some(id) = complete {
            let mut response = Vec::new();
            push_response(&mut response, id, &request.params).map_err(io::Error::other)?;
            return stream.write_all(&response);
        }
    }
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum BadRequest {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("read a FastCGI request: a {0:?} record where it may not stand (the client is broken)")]
    Unexpected(Kind),
    #[error("read a FastCGI request: {0:?} (only responder requests without keep-conn are served)")]
    Unsupported(BeginRequest),
    #[error("read a FastCGI request: more than {PARAMS_MAX} bytes of parameters (send fewer)")]
    ParamsTooLong,
}

/// How far a request has come (FastCGI §3.3 and appendix B: BEGIN_REQUEST, PARAMS, STDIN).
#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// Nothing of it has come.
    #[default]
    Start,
    /// In its BEGIN_REQUEST.
    Begin(RequestId, FixedBody),
    /// In its parameters.
    Params(RequestId),
    /// In its body, which is not looked at.
    Stdin(RequestId),
    /// It is complete.
    Complete(RequestId),
}

/// A request that is being read.
#[derive(Debug, Default)]
struct Request {
    reader: Reader,
    stage: Stage,
    params: Vec<u8>,
}

impl Request {
    /// Reads on. Gives the request's id once it is complete. Anything behind it is an error: a
    /// connection carries one request.
    fn read(&mut self, mut input: &[u8]) -> Result<Option<RequestId>, BadRequest> {
        while let Some(event) = self.reader.next(&mut input)? {
            match event {
                Event::Begin(header) => self.begin(header)?,
                Event::Content(piece) => self.content(piece)?,
                Event::End => self.end()?,
            }
        }
        match self.stage {
            Stage::Complete(id) => Ok(Some(id)),
            Stage::Start | Stage::Begin(..) | Stage::Params(_) | Stage::Stdin(_) => Ok(None),
        }
    }

    fn begin(&mut self, header: Header) -> Result<(), BadRequest> {
        let Header {
            kind,
            request_id,
            content_len,
            ..
        } = header;
        self.stage = match (self.stage, kind, content_len) {
            (Stage::Start, Kind::BeginRequest, _) if request_id != RequestId::MANAGEMENT => {
                Stage::Begin(request_id, FixedBody::default())
            }
            // An empty record ends the stream that it belongs to (§3.3).
            (Stage::Params(id), Kind::Params, 0) if id == request_id => Stage::Stdin(id),
            (Stage::Params(id), Kind::Params, _) if id == request_id => Stage::Params(id),
            (Stage::Stdin(id), Kind::Stdin, 0) if id == request_id => Stage::Complete(id),
            (Stage::Stdin(id), Kind::Stdin, _) if id == request_id => Stage::Stdin(id),
            (_, unexpected, _) => return Err(BadRequest::Unexpected(unexpected)),
        };
        Ok(())
    }

    fn content(&mut self, piece: &[u8]) -> Result<(), BadRequest> {
        match &mut self.stage {
            Stage::Begin(_, body) => body.push(piece),
            Stage::Params(_) if self.params.len() + piece.len() > PARAMS_MAX => {
                return Err(BadRequest::ParamsTooLong);
            }
            Stage::Params(_) => self.params.extend_from_slice(piece),
            Stage::Stdin(_) => {}
            Stage::Start | Stage::Complete(_) => {
                unreachable!("only the empty record or none at all leads here")
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BadRequest> {
        let Stage::Begin(id, body) = self.stage else {
            return Ok(());
        };
        let begin = BeginRequest::decode(body.complete()?);
        if begin
            != (BeginRequest {
                role: Role::Responder,
                keep_conn: false,
            })
        {
            return Err(BadRequest::Unsupported(begin));
        }
        self.stage = Stage::Params(id);
        Ok(())
    }
}

/// Appends the only right response to a request with these parameters.
pub(super) fn push_response(
    out: &mut Vec<u8>,
    id: RequestId,
    params: &[u8],
) -> Result<(), PairError> {
    let content = stdout(digest(params)?);
    push_stream(out, Kind::Stdout, id, &content);
    push_stream_end(out, Kind::Stdout, id);
    let end = EndRequest {
        app_status: 0,
        protocol_status: ProtocolStatus::RequestComplete,
    };
    push_record(out, Kind::EndRequest, id, &end.encode());
    Ok(())
}

/// A number that depends on every byte of every name and value (FNV-1a, 64 bits).
fn digest(params: &[u8]) -> Result<u64, PairError> {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    Pairs::new(params).try_fold(BASIS, |digest, pair| {
        let (name, value) = pair?;
        let bytes = name.iter().chain(b"=").chain(value).chain(b"\n");
        Ok(bytes.fold(digest, |digest, &byte| {
            (digest ^ u64::from(byte)).wrapping_mul(PRIME)
        }))
    })
}

/// The CGI header and then numbers that follow from `seed` (SplitMix64): two responses differ in
/// nearly all of their bytes, so that a mix-up shows wherever it begins.
fn stdout(seed: u64) -> [u8; STDOUT_LEN] {
    let mut content = [0; STDOUT_LEN];
    let (head, body) = content.split_at_mut(HEAD.len());
    head.copy_from_slice(HEAD);
    let mut state = seed;
    for chunk in body.chunks_mut(size_of::<u64>()) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
    }
    content
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::super::load;
    use super::*;
    use crate::fastcgi::push_pair;

    fn request() -> (Vec<u8>, Vec<u8>) {
        let (mut request, mut params) = (Vec::new(), Vec::new());
        load::push_request(&mut request, &mut params, "test", 1);
        (request, params)
    }

    #[test]
    fn a_request_is_read_from_any_two_pieces() {
        let (bytes, params) = request();
        for cut in 0..bytes.len() {
            let mut request = Request::default();
            assert_eq!(request.read(&bytes[..cut]), Ok(None), "cut at {cut}");
            let id = RequestId::application(NonZeroU16::MIN);
            assert_eq!(request.read(&bytes[cut..]), Ok(Some(id)), "cut at {cut}");
            assert_eq!(request.params, params);
        }
    }

    #[test]
    fn a_request_out_of_order_is_refused() {
        let (bytes, _) = request();
        let read = Request::default().read(&bytes[16..]);
        assert_eq!(read, Err(BadRequest::Unexpected(Kind::Params)));
    }

    #[test]
    fn parameters_have_a_bound() {
        let id = RequestId::application(NonZeroU16::MIN);
        let mut bytes = request().0[..16].to_vec();
        push_stream(&mut bytes, Kind::Params, id, &vec![1; PARAMS_MAX + 1]);
        assert_eq!(
            Request::default().read(&bytes),
            Err(BadRequest::ParamsTooLong)
        );
    }

    #[test]
    fn one_changed_parameter_changes_the_whole_body() {
        let body = |value: &[u8]| {
            let mut params = Vec::new();
            push_pair(&mut params, b"QUERY_STRING", value);
            stdout(digest(&params).unwrap())
        };
        let (one, other) = (body(b"request=1"), body(b"request=2"));
        let differing = one
            .iter()
            .zip(&other)
            .skip(HEAD.len())
            .filter(|(a, b)| a != b)
            .count();
        assert!(
            differing > (STDOUT_LEN - HEAD.len()) * 9 / 10,
            "only {differing} bytes differ"
        );
    }

    #[test]
    fn the_response_is_well_formed() {
        let id = RequestId::application(NonZeroU16::MIN);
        let mut bytes = Vec::new();
        push_response(&mut bytes, id, &request().1).unwrap();
        let (mut reader, mut input) = (Reader::new(), bytes.as_slice());
        let (mut kinds, mut content) = (Vec::new(), 0);
        while let Some(event) = reader.next(&mut input).unwrap() {
            match event {
                Event::Begin(header) => kinds.push((header.kind, header.request_id)),
                Event::Content(piece) => content += piece.len(),
                Event::End => {}
            }
        }
        let expected = [Kind::Stdout, Kind::Stdout, Kind::EndRequest].map(|kind| (kind, id));
        assert_eq!(kinds, expected);
        assert_eq!(content, STDOUT_LEN + 8);
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_responder_ends_with_idle_workers() {
        drop(Responder::start(8).unwrap());
    }
}
