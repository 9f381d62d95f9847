//! The responder of the benchmarks beside the PHP-FPM that it stands for: the same requests to both, and
//! what each of them makes of them.

// For the helpers beside the tests.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write as _};
use std::net::TcpStream;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::fastcgi::read_record;
use common::process::Process;
use common::programs::{fresh_endpoint, program, start_fpm_pool};
use common::proxy::fresh_dir;
use common::sys::ChildSetup;
use common::{GUARD, eventually};
use spliceway_common::fastcgi::{
    BeginRequest, HEADER_LEN, Header, Kind, RequestId, Role, push_pair, push_record, push_stream,
    push_stream_end,
};
use spliceway_load::responder::{HEAD_LEN, PARAM_RESPONSE_BYTES};
use tempfile::TempDir;

const ID: RequestId = RequestId::application(NonZeroU16::MIN);

/// A page with a CGI header as long as the responder's, printed as the settings say: in one piece, or
/// in pieces of 700 bytes.
const SCRIPT: &str = r"<?php
header('Content-Type: application/octet-stream');
header('X-Fill: ' . str_repeat('f', (int) $_GET['head'] - 52));
$left = (int) $_GET['bytes'] - (int) $_GET['head'];
$piece = ini_get('output_buffering') ? 700 : max($left, 1);
for (; $left > 0; $left -= $piece) {
    echo str_repeat('x', min($piece, $left));
}
";

/// Sizes of answers, header included: pages of 2, 8, 8.2, 10, 16, 33, 64, 65, 66, 100 and 200 KB, and
/// those at which PHP-FPM begins to write in another way.
const SIZES: [u64; 24] = [
    2_048, 8_000, 8_183, 8_184, 8_185, 8_192, 8_400, 10_240, 16_300, 16_367, 16_368, 16_369,
    16_384, 33_000, 65_536, 65_663, 65_700, 65_711, 66_000, 67_584, 100_000, 131_200, 204_800,
    1_048_576,
];

/// Either of the two, on a TCP port.
struct Server {
    _process: Process,
    address: String,
    /// Whose writes count.
    worker: u32,
    dir: TempDir,
}

impl Server {
    /// PHP-FPM with one worker.
    fn fpm(output_buffering: &str) -> Self {
        let (dir, endpoint) = (fresh_dir(), fresh_endpoint());
        fs::write(dir.path().join("page.php"), SCRIPT).unwrap();
        let settings = [
            "expose_php=0".to_owned(),
            format!("output_buffering={output_buffering}"),
        ];
        let process = start_fpm_pool(dir.path(), &endpoint, 1, "", &settings);
        let children = format!("/proc/{0}/task/{0}/children", process.pid());
        let worker = || {
            let children = fs::read_to_string(&children).ok()?;
            children.split_whitespace().next()?.parse().ok()
        };
        eventually("PHP-FPM has its worker", || worker().is_some());
        Self {
            worker: worker().unwrap(),
            _process: process,
            address: format!("{}:{}", endpoint.0, endpoint.1),
            dir,
        }
    }

    fn responder(print: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spliceway-bench"));
        command
            .args(["respond", "--listen=tcp:127.0.0.1:0", "--print", print])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let setup = ChildSetup {
            death_signal: libc::SIGKILL,
            ..ChildSetup::default()
        };
        let mut process = Process::start(command, setup);
        let mut line = String::new();
        let stdout = process.child().stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("ready tcp:").unwrap().to_owned();
        Self {
            worker: process.pid(),
            _process: process,
            address,
            dir: fresh_dir(),
        }
    }

    /// Both, printing in one piece.
    fn both() -> [Self; 2] {
        [Self::fpm("0"), Self::responder("whole")]
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        stream
    }

    /// What asks for an answer of so many bytes, up to the end of its parameters.
    fn head(&self, bytes: u64, keep_conn: bool) -> Vec<u8> {
        let script = self.dir.path().join("page.php").display().to_string();
        let query = format!("bytes={bytes}&head={HEAD_LEN}");
        let mut params = Vec::new();
        for (name, value) in [
            ("SCRIPT_FILENAME", script.as_str()),
            ("REQUEST_METHOD", "GET"),
            ("QUERY_STRING", &query),
            (PARAM_RESPONSE_BYTES, &bytes.to_string()),
        ] {
            push_pair(&mut params, name.as_bytes(), value.as_bytes());
        }
        let begin = BeginRequest {
            role: Role::Responder,
            keep_conn,
        };
        let mut request = Vec::new();
        push_record(&mut request, Kind::BeginRequest, ID, &begin.encode());
        push_stream(&mut request, Kind::Params, ID, &params);
        push_stream_end(&mut request, Kind::Params, ID);
        request
    }
}

/// A body, whole or without the empty record behind it.
fn stdin(body: &[u8], end: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_stream(&mut bytes, Kind::Stdin, ID, body);
    if end {
        push_stream_end(&mut bytes, Kind::Stdin, ID);
    }
    bytes
}

fn get_values() -> Vec<u8> {
    let (mut bytes, mut names) = (Vec::new(), Vec::new());
    for name in ["FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS"] {
        push_pair(&mut names, name.as_bytes(), b"");
    }
    push_record(&mut bytes, Kind::GetValues, RequestId::MANAGEMENT, &names);
    bytes
}

/// The records of an answer up to the one that ends it: what they are, and how long content and
/// padding.
fn answer(stream: &mut impl Read) -> Vec<(Kind, u16, u8)> {
    let mut records = Vec::new();
    loop {
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header).unwrap();
        let header = Header::decode(header).unwrap();
        let len = u64::from(header.content_len) + u64::from(header.padding_len);
        io::copy(&mut stream.take(len), &mut io::sink()).unwrap();
        records.push((header.kind, header.content_len, header.padding_len));
        if [Kind::EndRequest, Kind::GetValuesResult].contains(&header.kind) {
            return records;
        }
    }
}

fn len(records: &[(Kind, u16, u8)]) -> u64 {
    let len = |&(_, content, padding): &(Kind, u16, u8)| {
        HEADER_LEN as u64 + u64::from(content) + u64::from(padding)
    };
    records.iter().map(len).sum()
}

/// strace at a process, as long as it writes.
struct Trace {
    strace: Process,
    file: PathBuf,
}

impl Trace {
    fn of(server: &Server) -> Self {
        let file = server.dir.path().join("trace");
        let mut command = Command::new(program(&["/usr/bin/strace"]));
        command
            .args(["-f", "-s0", "-esignal=none"])
            .arg("-etrace=write,writev,sendto,sendmsg")
            .arg("-o")
            .arg(&file)
            .args(["-p", &server.worker.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let setup = ChildSetup {
            death_signal: libc::SIGTERM,
            ..ChildSetup::default()
        };
        let strace = Process::start(command, setup);
        // It says so of the process and of each of its threads; the last words are those of all.
        strace.wait_for_log("attached");
        let threads = fs::read_dir(format!("/proc/{}/task", server.worker)).unwrap();
        let threads: Vec<PathBuf> = threads.map(|entry| entry.unwrap().path()).collect();
        let is_traced = |thread: &PathBuf| {
            let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
            let mut lines = status.lines();
            lines.any(|line| line == format!("TracerPid:\t{}", strace.pid()))
        };
        eventually("all threads are traced", || threads.iter().all(is_traced));
        Self { strace, file }
    }

    /// Ends it; how much each write on a connection was.
    fn writes(mut self) -> Vec<u64> {
        self.strace.signal(libc::SIGTERM);
        self.strace.wait();
        let text = fs::read_to_string(&self.file).unwrap();
        text.lines().filter_map(written).collect()
    }
}

/// `123 writev(7, [...], 3) = 88` says 88, if it is not about one of the standard streams.
fn written(line: &str) -> Option<u64> {
    let (call, result) = line.rsplit_once(" = ")?;
    let (_, arguments) = call.split_once('(')?;
    let (descriptor, _) = arguments.split_once(',')?;
    let descriptor: u32 = descriptor.parse().ok()?;
    (descriptor > 2).then(|| result.trim().parse().ok())?
}

/// The writes of each answer of [`SIZES`], and its records.
type Seen = Vec<(u64, Vec<(Kind, u16, u8)>, Vec<u64>)>;

fn observe(server: &Server) -> Seen {
    let trace = Trace::of(server);
    let mut stream = server.connect();
    let mut answers = Vec::new();
    for bytes in SIZES {
        let request = [server.head(bytes, true), stdin(b"", true)].concat();
        stream.write_all(&request).unwrap();
        answers.push((bytes, answer(&mut stream)));
    }
    // Once this is answered, every call before it has returned.
    stream.write_all(&get_values()).unwrap();
    answer(&mut stream);
    let mut writes = trace.writes().into_iter();
    let mut seen = Seen::new();
    for (bytes, records) in answers {
        let (mut left, mut of_answer) = (len(&records), Vec::new());
        while left > 0 {
            let write = writes.next().expect("there is a write for every byte");
            left = left.checked_sub(write).expect("no write has two answers");
            of_answer.push(write);
        }
        seen.push((bytes, records, of_answer));
    }
    seen
}

#[track_caller]
fn assert_same(expected: &Seen, seen: &Seen) {
    for (expected, seen) in expected.iter().zip(seen) {
        assert_eq!(expected, seen, "PHP-FPM, responder");
    }
}

#[test]
fn a_page_printed_in_one_piece_has_the_records_and_writes_of_php_fpm() {
    let [fpm, responder] = Server::both();
    assert_same(&observe(&fpm), &observe(&responder));
}

#[test]
fn a_page_printed_in_pieces_has_the_records_and_writes_of_php_fpm() {
    let [fpm, responder] = [Server::fpm("4096"), Server::responder("pieces")];
    assert_same(&observe(&fpm), &observe(&responder));
}

#[test]
fn both_answer_before_the_end_of_a_body_that_they_do_not_expect() {
    for server in Server::both() {
        let mut stream = server.connect();
        for _ in 0..2 {
            stream.write_all(&server.head(300, true)).unwrap();
            assert_eq!(answer(&mut stream).last().unwrap().0, Kind::EndRequest);
            stream.write_all(&stdin(b"", true)).unwrap();
        }
        stream.write_all(&get_values()).unwrap();
        assert_eq!(answer(&mut stream)[0].0, Kind::GetValuesResult);
    }
}

#[test]
fn both_tell_the_same_values() {
    let [fpm, responder] = Server::both().map(|server| {
        let mut stream = server.connect();
        let request = [server.head(300, true), stdin(b"", true), get_values()].concat();
        stream.write_all(&request).unwrap();
        answer(&mut stream);
        let values = read_record(&mut stream).unwrap().unwrap();
        assert_eq!(values.kind, Kind::GetValuesResult);
        values.content
    });
    assert_eq!(fpm, responder);
}

/// Reads on until the connection ends; whether it was reset.
fn is_reset(mut stream: TcpStream) -> bool {
    match io::copy(&mut stream, &mut io::sink()) {
        Ok(_) => false,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn both_reset_a_kept_connection_with_a_body_that_nobody_announced() {
    for server in Server::both() {
        let mut stream = server.connect();
        let request = [server.head(300, true), stdin(&[b'b'; 2000], true)].concat();
        stream.write_all(&request).unwrap();
        assert!(is_reset(stream), "{}", server.address);
    }
}

#[test]
fn both_drain_such_a_body_without_keep_conn() {
    for server in Server::both() {
        let mut stream = server.connect();
        let request = [server.head(300, false), stdin(&[b'b'; 2000], true)].concat();
        stream.write_all(&request).unwrap();
        answer(&mut stream);
        // More may come, and is thrown away; the end is no reset.
        stream.write_all(&[0; 100]).unwrap();
        assert!(!is_reset(stream), "{}", server.address);
    }
}
