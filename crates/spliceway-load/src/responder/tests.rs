//! The responder as its clients meet it, over real sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::num::NonZeroU16;

use super::*;
use spliceway_common::fastcgi::{
    BeginRequest, EndRequest, HEADER_LEN, Kind, Pairs, Reader, RecordEvent, RequestId, Role,
    push_pair, push_record, push_stream, push_stream_end,
};

const ID: RequestId = RequestId::application(NonZeroU16::MIN);

fn start(workers: Option<usize>) -> Responder {
    start_like(Like::Fpm, workers)
}

fn start_like(like: Like, workers: Option<usize>) -> Responder {
    Responder::start(&Options {
        tcp: Some((Ipv4Addr::LOCALHOST, 0).into()),
        workers: workers.and_then(NonZeroUsize::new),
        manner: Manner {
            like,
            ..Manner::default()
        },
        ..Options::default()
    })
    .unwrap()
}

fn connect(responder: &Responder) -> TcpStream {
    let stream = TcpStream::connect(responder.tcp().unwrap()).unwrap();
    // Only turns a hang into a failure.
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
}

fn request(keep_conn: bool, pairs: &[(&str, &str)]) -> Vec<u8> {
    let (mut bytes, mut params) = (Vec::new(), Vec::new());
    let begin = BeginRequest {
        role: Role::Responder,
        keep_conn,
    };
    for (name, value) in pairs {
        push_pair(&mut params, name.as_bytes(), value.as_bytes());
    }
    push_record(&mut bytes, Kind::BeginRequest, ID, &begin.encode());
    push_stream(&mut bytes, Kind::Params, ID, &params);
    push_stream_end(&mut bytes, Kind::Params, ID);
    push_stream_end(&mut bytes, Kind::Stdin, ID);
    bytes
}

fn get_values() -> Vec<u8> {
    let (mut bytes, mut names) = (Vec::new(), Vec::new());
    for name in [
        "FCGI_MAX_CONNS",
        "FCGI_MAX_REQS",
        "FCGI_MPXS_CONNS",
        "OTHER",
    ] {
        push_pair(&mut names, name.as_bytes(), b"");
    }
    push_record(&mut bytes, Kind::GetValues, RequestId::MANAGEMENT, &names);
    bytes
}

/// Reads records until one of this kind has ended, and gives the contents of that kind.
fn read_until(stream: &mut impl Read, reader: &mut Reader, wanted: Kind) -> Vec<u8> {
    let (mut content, mut kind) = (Vec::new(), None);
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).unwrap();
        let mut input = &byte[..];
        while let Some(event) = reader.next(&mut input).unwrap() {
            match event {
                RecordEvent::Begin(header) => kind = Some(header.kind),
                RecordEvent::Content(piece) if kind == Some(wanted) => {
                    content.extend_from_slice(piece)
                }
                RecordEvent::Content(_) => {}
                RecordEvent::End if kind == Some(wanted) => return content,
                RecordEvent::End => {}
            }
        }
    }
}

fn answer(stream: &mut impl Read, reader: &mut Reader) -> EndRequest {
    let end = read_until(stream, reader, Kind::EndRequest);
    EndRequest::decode(end.try_into().unwrap())
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}

#[test]
fn values_are_told_between_requests() {
    let values: [(&[u8], &[u8]); 3] = [
        (b"FCGI_MAX_CONNS", b"7"),
        (b"FCGI_MAX_REQS", b"7"),
        (b"FCGI_MPXS_CONNS", b"0"),
    ];
    for (like, expected) in [(Like::Fpm, &values[2..]), (Like::Plain, &values[..])] {
        let (responder, mut reader) = (start_like(like, Some(7)), Reader::new());
        let mut stream = connect(&responder);
        // All at once: the values are asked for behind a request, and then comes another one.
        let all = [request(true, &[]), get_values(), request(true, &[])].concat();
        stream.write_all(&all).unwrap();
        assert_eq!(answer(&mut stream, &mut reader).app_status, 0);
        let values = read_until(&mut stream, &mut reader, Kind::GetValuesResult);
        let values: Vec<_> = Pairs::new(&values).map(Result::unwrap).collect();
        assert_eq!(values, expected);
        assert_eq!(answer(&mut stream, &mut reader).app_status, 0);
        assert_eq!(responder.stop().requests, 2);
    }
}

/// A request with a body of so many bytes that nothing announces.
fn unannounced(keep_conn: bool, body_bytes: usize) -> Vec<u8> {
    let mut bytes = request(keep_conn, &[]);
    bytes.truncate(bytes.len() - HEADER_LEN);
    push_stream(&mut bytes, Kind::Stdin, ID, &vec![b'b'; body_bytes]);
    push_stream_end(&mut bytes, Kind::Stdin, ID);
    bytes
}

#[test]
fn a_request_is_answered_before_the_end_of_its_body_as_php_fpm_does() {
    let (responder, mut reader) = (start(None), Reader::new());
    let mut stream = connect(&responder);
    let whole = request(true, &[]);
    let (without_end, end) = whole.split_at(whole.len() - HEADER_LEN);
    for _ in 0..2 {
        stream.write_all(without_end).unwrap();
        assert_eq!(answer(&mut stream, &mut reader).app_status, 0);
        stream.write_all(end).unwrap();
    }
    stream
        .write_all(&[request(true, &[]), get_values()].concat())
        .unwrap();
    assert_eq!(answer(&mut stream, &mut reader).app_status, 0);
    read_until(&mut stream, &mut reader, Kind::GetValuesResult);
    assert_eq!(responder.stop().refused, 0);
}

/// Reads until the connection ends; whether it was reset.
fn is_reset(stream: &mut impl Read) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_body_that_was_not_announced_resets_a_kept_connection_as_php_fpm_does() {
    let dir = tempfile::tempdir().unwrap();
    let responder = Responder::start(&Options {
        tcp: Some((Ipv4Addr::LOCALHOST, 0).into()),
        unix: Some(dir.path().join("r.sock")),
        ..Options::default()
    })
    .unwrap();
    for body_bytes in [1, 10_000] {
        let mut tcp = connect(&responder);
        tcp.write_all(&unannounced(true, body_bytes)).unwrap();
        assert!(is_reset(&mut tcp), "{body_bytes}");
        let mut unix = UnixStream::connect(responder.unix().unwrap()).unwrap();
        unix.write_all(&unannounced(true, body_bytes)).unwrap();
        assert!(is_reset(&mut unix), "{body_bytes}");
    }
    assert_eq!(responder.stop().refused, 4);
}

#[test]
fn a_body_that_was_not_announced_is_drained_without_keep_conn() {
    let responder = start(None);
    let mut stream = connect(&responder);
    stream.write_all(&unannounced(false, 100_000)).unwrap();
    assert!(read_to_end(&mut stream).len() > 4096);
    assert_eq!(responder.stop().refused, 0);
}

#[test]
fn a_plain_responder_reads_a_body_that_was_not_announced() {
    let (responder, mut reader) = (start_like(Like::Plain, None), Reader::new());
    let mut stream = connect(&responder);
    for _ in 0..2 {
        stream.write_all(&unannounced(true, 100_000)).unwrap();
        assert_eq!(answer(&mut stream, &mut reader).app_status, 0);
    }
    assert_eq!(responder.stop().requests, 2);
}

#[test]
fn without_keep_conn_it_half_closes_and_waits_for_the_client() {
    let responder = start(Some(1));
    let mut first = connect(&responder);
    first.write_all(&request(false, &[])).unwrap();
    assert!(read_to_end(&mut first).len() > 4096);
    // What comes now is thrown away, and the only worker is still busy with this connection.
    first.write_all(&request(false, &[])).unwrap();
    let mut second = connect(&responder);
    second.write_all(&request(false, &[])).unwrap();
    assert_eq!(responder.counts().connections, 1);
    drop(first);
    assert!(read_to_end(&mut second).len() > 4096);
    drop(second);
    let counts = responder.stop();
    assert_eq!((counts.connections, counts.connections_most), (2, 1));
}

#[test]
fn garbage_closes_that_connection_only() {
    let (responder, mut reader) = (start(None), Reader::new());
    let mut good = connect(&responder);
    good.write_all(&request(true, &[])).unwrap();
    answer(&mut good, &mut reader);
    let mut bad = connect(&responder);
    bad.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    // A reset instead of an end would be as good.
    let _ = bad.read_to_end(&mut Vec::new());
    good.write_all(&request(true, &[])).unwrap();
    answer(&mut good, &mut reader);
    let counts = responder.stop();
    assert_eq!((counts.requests, counts.refused), (2, 1));
}

#[test]
fn answers_are_delayed_side_by_side() {
    let (responder, mut reader) = (start(None), Reader::new());
    let mut slow = connect(&responder);
    slow.write_all(&request(true, &[(PARAM_DELAY_US, "600000000")]))
        .unwrap();
    let mut quick = connect(&responder);
    for _ in 0..3 {
        quick
            .write_all(&request(true, &[(PARAM_DELAY_US, "2000")]))
            .unwrap();
        answer(&mut quick, &mut reader);
    }
    // It ends in spite of the answer that is due in ten minutes.
    assert_eq!(responder.stop().requests, 3);
}

#[test]
fn a_request_that_cannot_be_answered_is_told_why() {
    let (responder, mut reader) = (start(None), Reader::new());
    let mut stream = connect(&responder);
    stream
        .write_all(&request(true, &[(PARAM_RESPONSE_BYTES, "many")]))
        .unwrap();
    let words = read_until(&mut stream, &mut reader, Kind::Stderr);
    let expected = "the parameter SPLICEWAY_RESPONSE_BYTES is not a number in range";
    assert_eq!(String::from_utf8(words).unwrap(), expected);
    assert_eq!(answer(&mut stream, &mut reader).app_status, 1);
}

#[test]
fn a_client_that_half_closes_is_answered() {
    let (responder, mut reader) = (start(None), Reader::new());
    let mut stream = connect(&responder);
    stream
        .write_all(&request(false, &[(PARAM_RESPONSE_BYTES, "1000000")]))
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answer(&mut stream, &mut reader).app_status, 0);
    assert_eq!(read_to_end(&mut stream), b"");
}

#[test]
fn accepted_connections_have_nagles_delay_as_those_of_php_fpm() {
    for (like, nodelay) in [(Like::Fpm, false), (Like::Plain, true)] {
        let listener = listen_tcp((Ipv4Addr::LOCALHOST, 0).into(), like).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(accepted.nodelay().unwrap(), nodelay, "{like:?}");
    }
}

#[test]
fn a_socket_file_that_nobody_serves_is_replaced_and_one_that_is_served_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.sock");
    drop(UnixListener::bind(&path).unwrap());
    let options = Options {
        unix: Some(path.clone()),
        ..Options::default()
    };
    let responder = Responder::start(&options).unwrap();
    let error = Responder::start(&options).unwrap_err();
    let expected = format!("listen on unix:{}: ", path.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    drop(responder);
    assert!(!path.exists());
}
