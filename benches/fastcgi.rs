//! The FastCGI codec: finding records in a response, reading parameters, writing a request.

use std::hint::black_box;
use std::num::NonZeroU16;

use criterion::{BenchmarkId, Criterion, Throughput};
use spliceway::driver::BUFFER_BYTES;
use spliceway::fastcgi::{
    BeginRequest, Capacity, Guard, GuardOptions, Kind, PARAMS_BYTES_MAX, Pairs, Reader,
    RecordEvent, RequestEvent, RequestId, RequestLimits, RequestReader, ResponseEvent,
    ResponseReader, Role, Verdict, push_pair, push_record, push_stream, push_stream_end,
};

const REQUEST: RequestId = RequestId::application(NonZeroU16::MIN);

const RESPONSE_BYTES: usize = 64 * 1024;

/// Lengths of the records that carry a response: what PHP-FPM writes at a time by default, and small
/// ones, as a script that flushes often makes them.
const RECORD_BYTES: [usize; 2] = [8 * 1024, 256];

/// What nginx sends of an ordinary request (`fastcgi_params` and the headers of a browser).
const PARAMS: [(&str, &str); 24] = [
    ("SCRIPT_FILENAME", "/srv/www/example/public/index.php"),
    ("QUERY_STRING", "page=2&sort=name"),
    ("REQUEST_METHOD", "GET"),
    ("CONTENT_TYPE", ""),
    ("CONTENT_LENGTH", ""),
    ("SCRIPT_NAME", "/index.php"),
    ("REQUEST_URI", "/articles/list?page=2&sort=name"),
    ("DOCUMENT_URI", "/index.php"),
    ("DOCUMENT_ROOT", "/srv/www/example/public"),
    ("SERVER_PROTOCOL", "HTTP/1.1"),
    ("REQUEST_SCHEME", "https"),
    ("HTTPS", "on"),
    ("GATEWAY_INTERFACE", "CGI/1.1"),
    ("SERVER_SOFTWARE", "nginx/1.22.1"),
    ("REMOTE_ADDR", "192.0.2.77"),
    ("REMOTE_PORT", "51234"),
    ("SERVER_ADDR", "192.0.2.1"),
    ("SERVER_PORT", "443"),
    ("SERVER_NAME", "www.example.org"),
    ("REDIRECT_STATUS", "200"),
    ("HTTP_HOST", "www.example.org"),
    (
        "HTTP_ACCEPT",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ),
    (
        "HTTP_USER_AGENT",
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    ),
    (
        "HTTP_COOKIE",
        "session=2f8a4be0c1d24c3f9d7e6b5a4938271605f4e3d2c1b0a9f8e7d6c5b4a3928170; theme=dark; \
         consent=necessary; seen=1714067211",
    ),
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    read_records(&mut criterion);
    write_stream(&mut criterion);
    read_params(&mut criterion);
    write_request(&mut criterion);
    forward_head(&mut criterion);
    forward_response(&mut criterion);
    criterion.final_summary();
}

/// A response that arrives in buffers as the drivers have them.
fn read_records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fastcgi/read_64_KiB");
    group.throughput(Throughput::Bytes(RESPONSE_BYTES as u64));
    for record in RECORD_BYTES {
        let mut response = Vec::new();
        for piece in vec![b'x'; RESPONSE_BYTES].chunks(record) {
            push_record(&mut response, Kind::Stdout, REQUEST, piece);
        }
        let id = BenchmarkId::new("records_of", record);
        group.bench_function(id, |bencher| {
            bencher.iter(|| assert_eq!(content_bytes(black_box(&response)), RESPONSE_BYTES));
        });
    }
}

fn content_bytes(stream: &[u8]) -> usize {
    let mut reader = Reader::new();
    let mut bytes = 0;
    for mut buffer in stream.chunks(BUFFER_BYTES) {
        while let Some(event) = reader.next(&mut buffer).expect("it is FastCGI") {
            if let RecordEvent::Content(piece) = event {
                bytes += piece.len();
            }
        }
    }
    bytes
}

fn write_stream(criterion: &mut Criterion) {
    let content = vec![b'x'; RESPONSE_BYTES];
    let mut out = Vec::new();
    let mut group = criterion.benchmark_group("fastcgi");
    group.throughput(Throughput::Bytes(RESPONSE_BYTES as u64));
    group.bench_function("write_64_KiB", |bencher| {
        bencher.iter(|| {
            out.clear();
            push_stream(&mut out, Kind::Stdout, REQUEST, black_box(&content));
            push_stream_end(&mut out, Kind::Stdout, REQUEST);
            black_box(out.len())
        });
    });
}

fn params() -> Vec<u8> {
    let mut params = Vec::new();
    for (name, value) in PARAMS {
        push_pair(&mut params, name.as_bytes(), value.as_bytes());
    }
    params
}

fn read_params(criterion: &mut Criterion) {
    let params = params();
    let mut group = criterion.benchmark_group("fastcgi");
    group.throughput(Throughput::Elements(PARAMS.len() as u64));
    group.bench_function("read_params", |bencher| {
        bencher.iter(|| {
            let pairs = Pairs::new(black_box(&params)).inspect(|pair| {
                black_box(pair.as_ref().expect("it is well-formed"));
            });
            assert_eq!(pairs.count(), PARAMS.len());
        });
    });
}

/// All that stands before the answer: BEGIN_REQUEST, PARAMS, an empty STDIN.
fn write_request(criterion: &mut Criterion) {
    let begin = BeginRequest {
        role: Role::Responder,
        keep_conn: true,
    };
    let mut out = Vec::new();
    let mut group = criterion.benchmark_group("fastcgi");
    group.bench_function("write_request", |bencher| {
        bencher.iter(|| {
            out.clear();
            push_record(&mut out, Kind::BeginRequest, REQUEST, &begin.encode());
            push_stream(&mut out, Kind::Params, REQUEST, &params());
            push_stream_end(&mut out, Kind::Params, REQUEST);
            push_stream_end(&mut out, Kind::Stdin, REQUEST);
            black_box(out.len())
        });
    });
}

/// More headers, as a browser and an application of some age send them, up to 40 parameters.
const MORE: [(&str, &str); 16] = [
    ("HTTP_CONNECTION", "keep-alive"),
    ("HTTP_CACHE_CONTROL", "max-age=0"),
    ("HTTP_UPGRADE_INSECURE_REQUESTS", "1"),
    ("HTTP_ACCEPT_LANGUAGE", "en-US,en;q=0.5"),
    ("HTTP_ACCEPT_ENCODING", "gzip, deflate, br, zstd"),
    (
        "HTTP_REFERER",
        "https://www.example.org/articles/list?page=1",
    ),
    ("HTTP_SEC_FETCH_DEST", "document"),
    ("HTTP_SEC_FETCH_MODE", "navigate"),
    ("HTTP_SEC_FETCH_SITE", "same-origin"),
    ("HTTP_SEC_FETCH_USER", "?1"),
    ("HTTP_PRIORITY", "u=0, i"),
    ("HTTP_DNT", "1"),
    ("HTTP_X_FORWARDED_FOR", "192.0.2.77"),
    ("HTTP_X_FORWARDED_PROTO", "https"),
    ("HTTP_X_REQUEST_ID", "3f1d2c4b5a69788796a5b4c3d2e1f001"),
    ("PATH_INFO", ""),
];

/// What a client sends for a GET with 40 parameters.
fn client_request() -> Vec<u8> {
    let begin = BeginRequest {
        role: Role::Responder,
        keep_conn: true,
    };
    let mut params = params();
    for (name, value) in MORE {
        push_pair(&mut params, name.as_bytes(), value.as_bytes());
    }
    let mut request = Vec::new();
    push_record(&mut request, Kind::BeginRequest, REQUEST, &begin.encode());
    push_stream(&mut request, Kind::Params, REQUEST, &params);
    push_stream_end(&mut request, Kind::Params, REQUEST);
    push_stream_end(&mut request, Kind::Stdin, REQUEST);
    request
}

/// From the bytes of a client to those for an upstream, with the guard and without.
fn forward_head(criterion: &mut Criterion) {
    let guard = Guard::new(&GuardOptions {
        script_roots: vec!["/srv/www/example".to_owned()],
        script_suffix: Some(".php".to_owned()),
        ..GuardOptions::default()
    });
    let guard = guard.expect("the options are valid");
    let request = client_request();
    let mut reader = RequestReader::new(RequestLimits {
        params_bytes_max: PARAMS_BYTES_MAX,
        capacity: Capacity {
            connections_max: 1024,
            requests_max: 1024,
        },
    });
    let mut out = Vec::new();
    let mut group = criterion.benchmark_group("fastcgi/forward_40_params");
    for (name, guard) in [("guard_off", None), ("guard_on", Some(&guard))] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                forward(&mut reader, guard, black_box(&request), &mut out);
                assert_eq!(out.len(), request.len());
            });
        });
    }
}

fn forward(reader: &mut RequestReader, guard: Option<&Guard>, request: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(event) = reader.next(request, &mut at).expect("it is FastCGI") {
        match event {
            RequestEvent::Head => {
                if let Some(guard) = guard {
                    assert_eq!(guard.judge(reader.head()), Verdict::Pass);
                }
                reader.head().write(true, &[], &[], out);
            }
            RequestEvent::Body(pass) => out.extend_from_slice(&request[pass.range()]),
            RequestEvent::BodyEnd => break,
            other => unreachable!("{other:?} in a GET"),
        }
    }
    reader.next_request();
}

/// A page of 4 KB in one buffer, and what is told of it.
fn forward_response(criterion: &mut Criterion) {
    let mut response = Vec::new();
    let head = b"X-Powered-By: PHP\r\nContent-type: text/html; charset=UTF-8\r\n\r\n";
    let page = [head.as_slice(), &[b'x'; 4096]].concat();
    push_record(&mut response, Kind::Stdout, REQUEST, &page);
    push_record(&mut response, Kind::EndRequest, REQUEST, &[0; 8]);
    let mut group = criterion.benchmark_group("fastcgi");
    group.throughput(Throughput::Bytes(response.len() as u64));
    group.bench_function("forward_4_KB_response", |bencher| {
        bencher.iter(|| {
            let mut reader = ResponseReader::new(REQUEST);
            let mut at = 0;
            let mut bytes = 0;
            loop {
                match reader.next(black_box(&response), &mut at) {
                    Ok(Some(ResponseEvent::Pass(pass))) => bytes += pass.len(),
                    Ok(Some(ResponseEvent::End(_))) => break,
                    other => unreachable!("{other:?} in a response"),
                }
            }
            assert_eq!((bytes, reader.status()), (response.len(), 200));
        });
    });
}
