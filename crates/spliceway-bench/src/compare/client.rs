//! A single FastCGI client that sends one request at a time, for what the load generator is not:
//! connections that idle, and the second client of a busy PHP-FPM.

use std::io::{self, Read, Write};
use std::num::NonZeroU16;

use spliceway_common::fastcgi::{
    BeginRequest, Kind, Reader, RecordEvent, RequestId, Role, push_pair, push_record, push_stream,
    push_stream_end,
};

/// A request without a body.
pub(super) fn request(keep_conn: bool, params: &[(&str, &str)]) -> Vec<u8> {
    let id = RequestId::application(NonZeroU16::MIN);
    let begin = BeginRequest {
        role: Role::Responder,
        keep_conn,
    };
    let mut pairs = Vec::new();
    for (name, value) in params {
        push_pair(&mut pairs, name.as_bytes(), value.as_bytes());
    }
    let mut bytes = Vec::new();
    push_record(&mut bytes, Kind::BeginRequest, id, &begin.encode());
    push_stream(&mut bytes, Kind::Params, id, &pairs);
    push_stream_end(&mut bytes, Kind::Params, id);
    push_stream_end(&mut bytes, Kind::Stdin, id);
    bytes
}

/// Sends a request and reads up to the end of its answer, of which it gives the length.
pub(super) fn exchange(mut stream: impl Read + Write, request: &[u8]) -> io::Result<u64> {
    stream.write_all(request)?;
    let mut reader = Reader::new();
    let mut bytes = vec![0; 16 << 10];
    let (mut length, mut kind) = (0, None);
    loop {
        let count = stream.read(&mut bytes)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut input = &bytes[..count];
        while let Some(event) = reader.next(&mut input).map_err(io::Error::other)? {
            match event {
                RecordEvent::Begin(header) => kind = Some(header.kind),
                RecordEvent::Content(piece) if kind == Some(Kind::Stdout) => {
                    length += piece.len() as u64
                }
                RecordEvent::End if kind == Some(Kind::EndRequest) => return Ok(length),
                RecordEvent::Content(_) | RecordEvent::End => {}
            }
        }
    }
}
