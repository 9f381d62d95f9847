//! The bodies of the fuzz targets in `fuzz/`.
//!
//! Compiled for the fuzzer (`--cfg fuzzing`) and for the crate's own tests, which run them over the
//! corpus and over random bytes, so that they keep building and passing on stable Rust.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use crate::cli;
use crate::commands::{command_from_json, command_to_json};
use crate::config::{Backend, BackendAddress, FpmSource, ListenAddress};
use crate::fastcgi::{
    Capacity, Guard, GuardOptions, HEADER_LEN, Header, Pairs, RequestEvent, RequestId,
    RequestLimits, RequestReader, ResponseEvent, ResponseReader, Rule, Settling, Verdict,
};
use crate::worker::simulation;

/// Addresses: whatever is accepted is printed so that it parses to the same again.
pub fn addresses(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(address) = text.parse::<ListenAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(address) = text.parse::<BackendAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(backend) = text.parse::<Backend>() {
        assert_eq!(backend.to_string().parse(), Ok(backend));
    }
    if let Ok(source) = text.parse::<FpmSource>() {
        assert_eq!(source.to_string().parse(), Ok(source));
    }
}

/// The configuration, which is the command line: words separated by newlines. Whatever is refused
/// is refused in one line.
pub fn command_line(data: &[u8]) {
    let words = data.split(|&byte| byte == b'\n');
    let words = words.map(|word| OsString::from_vec(word.to_vec()));
    let line = std::iter::once(OsString::from("spliceway")).chain(words);
    // No file is read: what a name leads to is not for a fuzzer to find out.
    match cli::parse_with(line, |_| Err(io::ErrorKind::NotFound.into())) {
        Err(cli::Stop::Usage(error)) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "more than a line: {text:?}");
        }
        Err(cli::Stop::File(errors)) => assert_lines(&errors),
        Ok(_) | Err(cli::Stop::Answer(_) | cli::Stop::NoArguments(_)) => {}
    }
}

/// A configuration file. Whatever is refused is refused with a line for each mistake; whatever is taken
/// is printed so that it means the same again.
pub fn config_file(data: &[u8]) {
    let check = |content: &[u8]| {
        let line = ["spliceway", "check", "--config", "file"].map(OsString::from);
        match cli::parse_with(line, |_| Ok(content.to_vec())) {
            Ok(cli::Cli {
                command: cli::Command::Check(check),
            }) => Some(check),
            Err(cli::Stop::File(errors)) => {
                assert_lines(&errors);
                None
            }
            other => panic!("a file that is neither taken nor refused: {other:?}"),
        }
    };
    if let Some(first) = check(data) {
        let again = check(first.run.effective.text().as_bytes()).expect("what is printed is taken");
        assert_eq!(first.run.config, again.run.config);
        assert_eq!(first.run.logging, again.run.logging);
        assert_eq!(first.run.effective, again.run.effective);
    }
}

fn assert_lines(errors: &cli::FileErrors) {
    assert!(errors.lines().next().is_some(), "refused without a word");
    for line in errors.lines() {
        assert!(!line.contains('\n'), "more than a line: {line:?}");
    }
}

/// A command to a running daemon. Whatever is refused is refused in one line, and what is taken is one line of the log,
/// and the same command when it is sent again.
pub fn control_command(data: &[u8]) {
    let is_line = |text: &str| !text.contains(char::is_control);
    match command_from_json(data) {
        Err(line) => assert!(is_line(&line), "more than a line: {line:?}"),
        Ok(command) => {
            assert!(is_line(&command.to_string()), "more than a line: {command}");
            let again =
                command_from_json(&command_to_json(&command)).expect("what is sent is taken");
            // Times are rounded on the way.
            assert_eq!(again.to_string(), command.to_string());
            let between = again.wait().abs_diff(command.wait());
            assert!(between < Duration::from_micros(1), "{between:?}");
        }
    }
}

/// The session machine, in a simulated kernel whose every choice is a byte of the input.
pub fn sessions(data: &[u8]) {
    simulation::run_script(data);
}

/// What a client sends: the first byte is the size of the pieces that it comes in. In pieces or
/// whole, the same is told, and what passes the guard is what the guard would pass again.
pub fn fastcgi_request(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else {
        return;
    };
    let guard = Guard::new(&GuardOptions {
        script_roots: vec!["/srv/www".to_owned()],
        script_suffix: Some(".php".to_owned()),
        ..GuardOptions::default()
    });
    let guard = guard.expect("the options are valid");
    let pieces = read_requests(&guard, stream, usize::from(piece).max(1));
    let whole = read_requests(&guard, stream, stream.len().max(1));
    assert_eq!(pieces, whole);
}

/// All that a reader tells about `stream`, and what it passes on; the next request begins at once.
fn read_requests(guard: &Guard, stream: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>) {
    let mut sent = Vec::new();
    let mut reader = request_reader();
    let mut told = Vec::new();
    for input in stream.chunks(piece) {
        let mut at = 0;
        loop {
            match reader.next(input, &mut at) {
                Ok(None) => break,
                Ok(Some(RequestEvent::Head)) => write_guarded(guard, &reader, &mut told),
                Ok(Some(RequestEvent::Body(pass))) => {
                    sent.extend_from_slice(pass.lead());
                    sent.extend_from_slice(&input[pass.range()]);
                }
                Ok(Some(RequestEvent::BodyEnd)) => told.extend(reader.body_missing().to_be_bytes()),
                Ok(Some(RequestEvent::Reply(reply))) => told.extend_from_slice(&reply),
                Ok(Some(RequestEvent::Abort)) => told.push(b'A'),
                Ok(Some(RequestEvent::Next)) => reader.next_request(),
                Err(error) => {
                    told.extend(error.to_string().bytes());
                    return (told, without_reserved(sent));
                }
            }
        }
        assert_eq!(at, input.len(), "everything is read");
    }
    (told, without_reserved(sent))
}

/// Records with their reserved bytes, which mean nothing, set to 0. The last one may be incomplete.
fn without_reserved(mut records: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(header) = records.get_mut(at..at + HEADER_LEN) {
        header[HEADER_LEN - 1] = 0;
        let content_len = u16::from_be_bytes([header[4], header[5]]);
        at += HEADER_LEN + usize::from(content_len) + usize::from(header[6]);
    }
    records
}

fn request_reader() -> RequestReader {
    RequestReader::new(RequestLimits {
        params_bytes_max: 1024,
        capacity: Capacity {
            connections_max: 1,
            requests_max: 1,
        },
    })
}

fn write_guarded(guard: &Guard, reader: &RequestReader, told: &mut Vec<u8>) {
    let head = reader.head();
    let gaps = match guard.judge(head) {
        Verdict::Pass => Vec::new(),
        Verdict::PassWithout(cut) => cut.ranges,
        Verdict::Reject(rejection) => {
            assert!(Rule::ALL.contains(&rejection.rule));
            told.extend(rejection.to_string().bytes());
            return;
        }
    };
    let start = told.len();
    head.write(true, &gaps, &[], told);
    let mut names = Pairs::new(head.params()).flatten().map(|(name, _)| name);
    assert!(names.all(|name| name != b"PHP_VALUE" && name != b"PHP_ADMIN_VALUE"));
    let script = head.param(b"SCRIPT_FILENAME").expect("it is required");
    assert!(!script.split(|&byte| byte == b'/').any(|part| part == b".."));

    // Read by another reader, it passes as it is.
    let mut again = request_reader();
    let event = again.next(&told[start..], &mut 0);
    assert_eq!(event, Ok(Some(RequestEvent::Head)));
    assert_eq!(guard.judge(again.head()), Verdict::Pass);
}

/// What a backend sends, the fence's answer included: the first byte is the size of the pieces. In
/// pieces or whole, the same is told, and the client has whole records at any moment.
pub fn fastcgi_response(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else {
        return;
    };
    let pieces = read_response(stream, usize::from(piece).max(1));
    assert_eq!(pieces, read_response(stream, stream.len().max(1)));
}

/// What records say, however they are cut: of neighbours of one kind, all content, without padding.
type Said = Vec<(u8, u16, Vec<u8>)>;

fn say(mut records: &[u8], said: &mut Said) {
    while let Some((header, rest)) = records.split_first_chunk::<HEADER_LEN>() {
        let header = Header::decode(*header).expect("a record of the reader's");
        let (kind, id) = (header.kind.byte(), header.request_id.get());
        let (content, rest) = rest.split_at(usize::from(header.content_len));
        match said.last_mut() {
            Some((last, of, before))
                if (*last, *of) == (kind, id) && !content.is_empty() && !before.is_empty() =>
            {
                before.extend_from_slice(content);
            }
            _ => said.push((kind, id, content.to_vec())),
        }
        records = &rest[usize::from(header.padding_len)..];
    }
    assert!(records.is_empty(), "the client has whole records");
}

fn read_response(stream: &[u8], piece: usize) -> (Said, String) {
    let request_id = RequestId::application(std::num::NonZeroU16::MIN);
    let mut reader = ResponseReader::new(request_id);
    let mut settling = None;
    let mut sent = Said::new();
    let mut told = String::new();
    for input in stream.chunks(piece) {
        let mut at = 0;
        while settling.is_none() {
            match reader.next(input, &mut at) {
                Ok(None) => break,
                Ok(Some(ResponseEvent::Pass(pass))) => {
                    let mut bytes = input.to_vec();
                    if let Some((at, header)) = pass.patch() {
                        bytes[at..at + HEADER_LEN].copy_from_slice(&header);
                    }
                    say(&[pass.lead(), &bytes[pass.range()]].concat(), &mut sent);
                }
                Ok(Some(ResponseEvent::Management(kind))) => told += &format!("{kind:?} "),
                Ok(Some(ResponseEvent::End(end))) => {
                    told += &format!("{end:?} ");
                    settling = Some(Settling::new());
                }
                Err(error) => return (sent, told + &error.to_string()),
            }
        }
        if let Some(settling) = &mut settling {
            settling.read(&input[at..]);
        }
    }
    told += &format!("{settling:?} {} {}", reader.status(), reader.stdout_bytes());
    (sent, told)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// Every file of a target's corpus. There is at least one.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let entries = fs::read_dir(&directory).unwrap();
        let files: Vec<_> = entries
            .map(|entry| fs::read(entry.unwrap().path()).unwrap())
            .collect();
        assert!(!files.is_empty(), "{} is empty", directory.display());
        files
    }

    #[test]
    fn the_corpus_passes() {
        corpus("addresses").iter().for_each(|data| addresses(data));
        corpus("command_line")
            .iter()
            .for_each(|data| command_line(data));
        corpus("config_file")
            .iter()
            .for_each(|data| config_file(data));
        corpus("control_command")
            .iter()
            .for_each(|data| control_command(data));
        corpus("sessions").iter().for_each(|data| sessions(data));
        corpus("fastcgi_request")
            .iter()
            .for_each(|data| fastcgi_request(data));
        corpus("fastcgi_response")
            .iter()
            .for_each(|data| fastcgi_response(data));
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_refused(text in "(unix:|tcp:)?[@/\\[\\]a-z0-9.:_-]{0,60}") {
            addresses(text.as_bytes());
        }

        #[test]
        fn any_bytes_are_a_command_line_or_refused(
            data in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            command_line(&data);
        }

        #[test]
        fn any_bytes_are_a_file_or_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
            config_file(&data);
        }

        #[test]
        fn any_lines_are_a_file_or_refused(lines in prop::collection::vec(
            "\\[(route\\.[a-b]|defaults|.{0,5})\\]\
             |(listen|backend|mode|owner|check|shards|per-endpoint-max|removed-endpoint|workers|pin\
             |control|idle-timeout) = (\"(unix:/[ab]|b:1|off|8|660|5s|keep|.{0,9})\"|[0-9]{1,2}|true\
             |\\[(\"unix:/[ab]\"(, )?){0,2}\\])|.{0,12}",
            0..12,
        )) {
            config_file(lines.join("\n").as_bytes());
        }

        #[test]
        fn any_object_is_a_command_or_refused(fields in prop::collection::vec(
            "\"(command|route|endpoint|weight|wait_seconds|for_seconds|schema|.{0,3})\": \
             (\"(reload|drain|undrain|weight|pause|resume|a|\\[::1\\]:1|unix:/[a\\\\n]|.{0,9})\"|-?[0-9]{1,9}\
             |[0-9.]{1,9}e?[0-9]{0,3}|null|\\{\\})",
            0..6,
        )) {
            control_command(format!("{{{}}}", fields.join(", ")).as_bytes());
        }

        #[test]
        fn any_bytes_are_a_script_that_breaks_no_rule(
            data in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            sessions(&data);
        }

        /// Mutations of the corpus, because random bytes are hardly ever FastCGI.
        #[test]
        fn any_change_of_a_fastcgi_stream_is_read_the_same_in_pieces(
            seed: prop::sample::Index,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            for target in ["fastcgi_request", "fastcgi_response"] {
                let files = corpus(target);
                let mut data = seed.get(&files).clone();
                for (place, byte) in &changes {
                    *place.get_mut(&mut data) = *byte;
                }
                fastcgi_request(&data);
                fastcgi_response(&data);
            }
        }
    }
}
