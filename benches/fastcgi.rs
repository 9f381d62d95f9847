//! The FastCGI codec: finding records in a response, reading parameters, writing a request.

use std::hint::black_box;
use std::num::NonZeroU16;

use criterion::{BenchmarkId, Criterion, Throughput};
use spliceway::driver::BUFFER_BYTES;
use spliceway::fastcgi::{
    BeginRequest, Event, Kind, Pairs, Reader, RequestId, Role, push_pair, push_record, push_stream,
    push_stream_end,
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
            if let Event::Content(piece) = event {
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
