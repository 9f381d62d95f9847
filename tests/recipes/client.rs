//! A client of HTTP that sends targets as they are written.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;

use crate::common::GUARD;
use crate::common::pattern::Pattern;
use crate::common::programs::program;
use crate::recipe::{Body, Request};
use crate::servers::Front;

/// What uploads and bodies consist of.
const CONTENT: Pattern = Pattern::new(31);

const BOUNDARY: &str = "----recipes";

/// How much of a chunked body stands in one chunk: no multiple of a buffer's size.
const CHUNK_BYTES: usize = 7_000;

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in small letters, in the order in which they came.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// Sends `request` to the site `host`, and reads until the connection ends.
pub(crate) fn ask(
    front: &Front,
    host: &str,
    target: &str,
    request: &Request,
) -> Result<Response, String> {
    let bytes = bytes_of(host, target, request);
    let answer = match request.is_tls {
        true => over_tls(front, &bytes),
        false => over_tcp(front, &bytes)?,
    };
    parse(&answer)
}

fn bytes_of(host: &str, target: &str, request: &Request) -> Vec<u8> {
    let (mut fields, body) = body_of(request.body);
    for field in request.headers {
        fields += field;
        fields += "\r\n";
    }
    let method = request.method;
    let mut bytes = format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: */*\r\n{fields}\r\n"
    )
    .into_bytes();
    bytes.extend(body);
    bytes
}

/// A body and the fields about it.
fn body_of(body: Body) -> (String, Vec<u8>) {
    let content = |size: usize| CONTENT.bytes(size as u64);
    let (kind, bytes) = match body {
        Body::None => return (String::new(), Vec::new()),
        Body::Chunked(size) => {
            let fields = "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n";
            return (fields.to_owned(), chunked(&content(size)));
        }
        Body::Form(text) => (
            "application/x-www-form-urlencoded".to_owned(),
            text.as_bytes().to_vec(),
        ),
        Body::Bytes(size) => ("application/octet-stream".to_owned(), content(size)),
        Body::Upload(size) => {
            let mut bytes = format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nA title\r\n\
                 --{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a b.bin\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            )
            .into_bytes();
            bytes.extend(content(size));
            bytes.extend(format!("\r\n--{BOUNDARY}--\r\n").bytes());
            (format!("multipart/form-data; boundary={BOUNDARY}"), bytes)
        }
    };
    let fields = format!(
        "Content-Type: {kind}\r\nContent-Length: {}\r\n",
        bytes.len()
    );
    (fields, bytes)
}

fn chunked(content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in content.chunks(CHUNK_BYTES) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn over_tcp(front: &Front, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let stream =
        TcpStream::connect((front.host.as_str(), front.port)).expect("the web server listens");
    stream.set_read_timeout(Some(GUARD)).unwrap();
    stream.set_write_timeout(Some(GUARD)).unwrap();
    let mut answer = Vec::new();
    thread::scope(|scope| {
        // A web server may answer before it has read the body, and end the connection: the answer says
        // what it thought of it.
        let writer = scope.spawn(|| (&stream).write_all(bytes));
        let read = (&stream).read_to_end(&mut answer);
        let written = writer.join().expect("writing does not panic");
        match (written.and(read), answer.is_empty()) {
            (Err(error), true) => Err(format!("no answer: {error}")),
            (Ok(_) | Err(_), _) => Ok(()),
        }
    })?;
    Ok(answer)
}

fn over_tls(front: &Front, bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program(&["/usr/bin/openssl"]))
        .args(["s_client", "-quiet", "-verify_quiet", "-connect"])
        .arg(format!("{}:{}", front.host, front.tls_port))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut answer = Vec::new();
    thread::scope(|scope| {
        // stdin stays open: with its end, openssl would end the connection.
        let writer = scope.spawn(|| {
            // It fails when the connection ends first; then the answer says why.
            let _ = stdin.write_all(bytes);
        });
        stdout.read_to_end(&mut answer).expect("a pipe can be read");
        writer.join().expect("writing does not panic");
    });
    drop(stdin);
    child.wait().expect("a child can be waited for");
    answer
}

fn parse(bytes: &[u8]) -> Result<Response, String> {
    let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| format!("no head of an answer in {:?}", shown()))?;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| format!("no status in {:?}", shown()))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let body = &bytes[end + 4..];
    let is_chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    Ok(Response {
        status,
        body: if is_chunked {
            joined_chunks(body)?
        } else {
            body.to_vec()
        },
        headers,
    })
}

fn joined_chunks(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut whole = Vec::new();
    loop {
        let end = rest
            .windows(2)
            .position(|two| two == b"\r\n")
            .ok_or("a cut chunk")?;
        let size = std::str::from_utf8(&rest[..end]).ok();
        let size = size.and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.ok_or("no size of a chunk")?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(whole);
        }
        let chunk = rest.get(..size).ok_or("a cut chunk")?;
        whole.extend_from_slice(chunk);
        rest = rest.get(size + 2..).ok_or("a cut chunk")?;
    }
}
