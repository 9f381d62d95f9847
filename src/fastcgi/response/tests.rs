//! Whole and split: what a backend can send.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use spliceway_common::fastcgi::ProtocolStatus;

const DONE: EndRequest = EndRequest {
    app_status: 0,
    protocol_status: ProtocolStatus::RequestComplete,
};

fn record(kind: Kind, id: u16, content: &[u8], padding_len: u8) -> Vec<u8> {
    let header = Header {
        kind,
        request_id: RequestId::from_number(id),
        content_len: u16::try_from(content.len()).unwrap(),
        padding_len,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + usize::from(padding_len), 0xff);
    bytes
}

fn end() -> Vec<u8> {
    record(Kind::EndRequest, 1, &DONE.encode(), 0)
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Pass(Vec<u8>),
    /// And what was not read behind it.
    End(EndRequest, Vec<u8>),
    Management(Kind),
    Error(ResponseError),
}

/// What the client is given of one slice.
fn passed(pass: &Pass, input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    if let Some((at, header)) = pass.patch() {
        bytes[at..at + HEADER_LEN].copy_from_slice(&header);
    }
    [pass.lead(), &bytes[pass.range()]].concat()
}

/// A record's kind, id and content.
type Said = (u8, u16, Vec<u8>);

/// What records say, however they are cut: neighbours of one kind as one, without padding. Panics unless
/// they are whole.
fn said(mut bytes: &[u8]) -> Vec<Said> {
    let mut said: Vec<Said> = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let header = Header::decode(*header).unwrap();
        let (kind, id) = (header.kind.byte(), header.request_id.get());
        let len = usize::from(header.content_len);
        let content = &rest[..len];
        match said.last_mut() {
            Some((last, of, before))
                if (*last, *of) == (kind, id) && len > 0 && !before.is_empty() =>
            {
                before.extend_from_slice(content);
            }
            _ => said.push((kind, id, content.to_vec())),
        }
        bytes = &rest[len + usize::from(header.padding_len)..];
    }
    assert!(bytes.is_empty(), "a record is cut");
    said
}

/// What is told, with what passes put as what it says.
fn meaning(told: &[Told]) -> Vec<(Vec<Said>, Option<&Told>)> {
    let all = told.iter().map(|told| match told {
        Told::Pass(bytes) => (said(bytes), None),
        other => (Vec::new(), Some(other)),
    });
    all.collect()
}

/// What a reader tells of `stream` in the pieces that `cuts` make, and the reader itself.
fn read(stream: &[u8], cuts: &[usize]) -> (Vec<Told>, ResponseReader) {
    let mut reader = ResponseReader::new(RequestId::from_number(1));
    let mut told = Vec::new();
    let mut from = 0;
    for &to in cuts.iter().chain([&stream.len()]) {
        let input = &stream[from..to];
        let mut at = 0;
        loop {
            match reader.next(input, &mut at) {
                Ok(None) => break,
                Ok(Some(ResponseEvent::Pass(pass))) => {
                    assert!(!pass.is_empty());
                    let bytes = passed(&pass, input);
                    // Whatever the cut, the client has whole records.
                    said(&bytes);
                    match told.last_mut() {
                        Some(Told::Pass(before)) => before.extend(bytes),
                        _ => told.push(Told::Pass(bytes)),
                    }
                }
                Ok(Some(ResponseEvent::Management(kind))) => told.push(Told::Management(kind)),
                Ok(Some(ResponseEvent::End(end))) => {
                    let again = reader.next(input, &mut at);
                    assert_eq!(again, Ok(Some(ResponseEvent::End(end))));
                    told.push(Told::End(end, stream[from + at..].to_vec()));
                    return (told, reader);
                }
                Err(error) => {
                    assert_eq!(reader.next(input, &mut at), Err(error));
                    told.push(Told::Error(error));
                    return (told, reader);
                }
            }
        }
        assert_eq!(at, input.len(), "everything is read");
        from = to;
    }
    (told, reader)
}

fn read_in_every_way(stream: &[u8]) -> Vec<Told> {
    let (whole, reader) = read(stream, &[]);
    let bytes: Vec<usize> = (0..stream.len()).collect();
    let cuts = (0..stream.len()).map(|cut| vec![cut]).chain([bytes]);
    for cuts in cuts {
        let (told, split) = read(stream, &cuts);
        assert_eq!(meaning(&told), meaning(&whole), "cut at {cuts:?}");
        assert_eq!(split.status(), reader.status());
        assert_eq!(split.stdout_bytes(), reader.stdout_bytes());
    }
    whole
}

fn error(stream: &[u8]) -> ResponseError {
    match read_in_every_way(stream).pop() {
        Some(Told::Error(error)) => error,
        other => panic!("no error but {other:?}"),
    }
}

/// What PHP-FPM 8.2 sends for `<?php echo "none";`, and its answer to the fence.
const FPM: &[u8] = b"\x01\x06\0\x01\0H\0\0X-Powered-By: PHP/8.2.36\r\n\
    Content-type: text/html; charset=UTF-8\r\n\r\nnone\
    \x01\x03\0\x01\0\x08\0\0\0\0\0\0\0\x08\0\0";
const FPM_FENCE: &[u8] = b"\x01\x0a\0\0\0\x12\x06\0\x0f\x01FCGI_MPXS_CONNS0\0\0\0\0\0\0";

#[test]
fn a_response_passes_as_it_came_and_what_is_behind_it_stays() {
    let told = read_in_every_way(&[FPM, FPM_FENCE].concat());
    assert_eq!(
        told,
        [
            Told::Pass(FPM.to_vec()),
            Told::End(DONE, FPM_FENCE.to_vec())
        ]
    );
    let (_, reader) = read(FPM, &[]);
    assert_eq!((reader.status(), reader.stdout_bytes()), (200, 72));
}

#[test]
fn a_response_that_arrives_together_is_one_range() {
    let mut reader = ResponseReader::new(RequestId::from_number(1));
    let mut at = 0;
    let stream = [FPM, FPM_FENCE].concat();
    let Ok(Some(ResponseEvent::Pass(pass))) = reader.next(&stream, &mut at) else {
        panic!("no response");
    };
    assert_eq!(
        (pass.lead(), pass.range(), at),
        (&[][..], 0..FPM.len(), FPM.len())
    );
}

#[test]
fn error_output_is_not_the_response_but_a_sign_of_life() {
    let stderr = record(Kind::Stderr, 1, b"Status: 404\r\nPHP Warning", 3);
    let (_, mut reader) = read(&[], &[]);
    assert!(reader.is_untouched());
    reader.next(&stderr, &mut 0).unwrap();
    assert!(!reader.is_untouched() && !reader.has_begun());
    let stdout = record(Kind::Stdout, 1, b"Status: 500 Oh\r\n\r\n", 0);
    reader.next(&stdout, &mut 0).unwrap();
    assert!(reader.has_begun());
    assert_eq!((reader.status(), reader.stdout_bytes()), (500, 18));
    let stream = [stderr, stdout, record(Kind::Stdout, 1, b"", 5), end()].concat();
    assert_eq!(
        read_in_every_way(&stream),
        [Told::Pass(stream), Told::End(DONE, Vec::new())]
    );
}

#[test]
fn a_status_split_over_records_is_found() {
    let stream = [
        record(Kind::Stdout, 1, b"Sta", 1),
        record(Kind::Stderr, 1, b"x", 0),
        record(Kind::Stdout, 1, b"tus: 40", 2),
        record(Kind::Stdout, 1, b"4\r\n", 0),
    ];
    assert_eq!(read(&stream.concat(), &[]).1.status(), 404);
}

#[test]
fn management_records_are_not_for_the_client() {
    let stdout = record(Kind::Stdout, 1, b"a", 7);
    let unknown = record(Kind::UnknownType, 0, &[9; 8], 3);
    let stream = [&stdout, FPM_FENCE, &stdout, &unknown, &end()].concat();
    assert_eq!(
        read_in_every_way(&stream),
        [
            Told::Pass(stdout.clone()),
            Told::Management(Kind::GetValuesResult),
            Told::Pass(stdout),
            Told::Management(Kind::UnknownType),
            Told::Pass(end()),
            Told::End(DONE, Vec::new()),
        ]
    );
}

#[test]
fn how_the_request_ended_is_told() {
    let overloaded = EndRequest {
        app_status: 938,
        protocol_status: ProtocolStatus::Overloaded,
    };
    let stream = record(Kind::EndRequest, 1, &overloaded.encode(), 4);
    let told = read_in_every_way(&stream);
    assert_eq!(
        told,
        [Told::Pass(stream), Told::End(overloaded, Vec::new())]
    );
}

#[test]
fn a_record_of_another_request_is_an_error_behind_what_came_before_it() {
    let stdout = record(Kind::Stdout, 1, b"mine", 0);
    for kind in [Kind::Stdout, Kind::Stderr, Kind::EndRequest] {
        let stream = [stdout.clone(), record(kind, 2, b"not mine", 0)].concat();
        let at = stdout.len() as u64;
        let cause = Nonsense::Foreign(2);
        let error = ResponseError { at, cause };
        let told = read_in_every_way(&stream);
        assert_eq!(told, [Told::Pass(stdout.clone()), Told::Error(error)]);
    }
}

#[test]
fn what_is_no_response_is_an_error() {
    assert_eq!(error(b"HTTP/1.1 200 OK").cause, Nonsense::Version(b'H'));
    assert_eq!(
        error(&record(Kind::EndRequest, 1, &[0; 9], 0)).cause,
        Nonsense::EndLen(9)
    );
    assert_eq!(
        error(&record(Kind::Stdout, 0, b"x", 0)).cause,
        Nonsense::Foreign(0)
    );
    for kind in [
        Kind::Stdin,
        Kind::BeginRequest,
        Kind::GetValuesResult,
        Kind::Other(99),
    ] {
        assert_eq!(
            error(&record(kind, 1, b"", 0)).cause,
            Nonsense::NotAResponse(kind)
        );
    }
    let text = error(&record(Kind::Stdout, 7, b"x", 0)).to_string();
    assert_eq!(
        text,
        "read a backend's FastCGI record at byte 0 of its response: request id 7, which is not \
         running (the backend is broken)"
    );
}

/// A record of output that is far from fitting into what is read at once.
fn large(kind: Kind) -> Vec<u8> {
    record(kind, 1, &[7; 1000], 8)
}

fn header(bytes: &[u8]) -> [u8; HEADER_LEN] {
    bytes[..HEADER_LEN].try_into().unwrap()
}

/// A reader that has read headers.
fn behind_headers() -> ResponseReader {
    let mut reader = ResponseReader::new(RequestId::from_number(1));
    let headers = record(Kind::Stdout, 1, b"Status: 404\r\n\r\n", 3);
    assert!(!reader.has_headers());
    reader.next(&headers, &mut 0).unwrap();
    assert!(reader.has_headers());
    reader
}

#[test]
fn a_record_that_the_slice_cuts_goes_on_as_one_of_what_is_here() {
    let large = large(Kind::Stdout);
    let mut reader = behind_headers();
    let mut at = 0;
    let event = reader.next(&large[..20], &mut at).unwrap();
    let Some(ResponseEvent::Pass(pass)) = event else {
        panic!("{event:?}");
    };
    assert_eq!(
        passed(&pass, &large[..20]),
        record(Kind::Stdout, 1, &[7; 12], 0)
    );
    assert_eq!(reader.framable(), 988);
    let mut at = 0;
    let event = reader.next(&large[20..30], &mut at).unwrap();
    let Some(ResponseEvent::Pass(pass)) = event else {
        panic!("{event:?}");
    };
    assert_eq!(
        passed(&pass, &large[20..30]),
        record(Kind::Stdout, 1, &[7; 10], 0)
    );
    // Its header alone says nothing yet, and its padding alone nothing any more.
    let mut reader = behind_headers();
    assert_eq!(reader.next(&large[..HEADER_LEN], &mut 0), Ok(None));
    assert_eq!(reader.framable(), 1000);
    assert_eq!(
        reader.promise(1000),
        record(Kind::Stdout, 1, &[7; 1000], 0)[..HEADER_LEN]
    );
    reader.passed(1000);
    assert_eq!(reader.framable(), 0);
    assert_eq!(reader.next(&large[1008..1012], &mut 0), Ok(None));
    let rest = [&large[1012..], &end()].concat();
    let event = reader.next(&rest, &mut 0).unwrap();
    let Some(ResponseEvent::Pass(pass)) = event else {
        panic!("{event:?}");
    };
    assert_eq!(passed(&pass, &rest), end());
    assert_eq!(reader.stdout_bytes(), 15 + 1000);
}

#[test]
fn content_can_go_another_way_behind_headers_of_its_own() {
    for kind in [Kind::Stdout, Kind::Stderr] {
        let large = large(kind);
        for parts in [[1, 999], [500, 500], [999, 1]] {
            let mut reader = behind_headers();
            assert!(reader.frame_next(header(&large)));
            assert!(!reader.frame_next(header(&large)), "it has begun");
            assert!(reader.is_between_records(), "the client has nothing of it");
            for part in parts {
                let header = Header::decode(reader.promise(part)).unwrap();
                assert_eq!((header.kind, usize::from(header.content_len)), (kind, part));
                assert_eq!(header.padding_len, 0);
                assert!(!reader.is_between_records(), "a header says that it comes");
                assert_eq!((reader.passable(), reader.framable()), (part, 0));
                reader.passed(part);
                assert!(reader.is_between_records());
            }
            let rest = [&large[1008..], &end()].concat();
            let mut at = 0;
            let event = reader.next(&rest, &mut at).unwrap();
            let Some(ResponseEvent::Pass(pass)) = event else {
                panic!("{event:?}");
            };
            assert_eq!(passed(&pass, &rest), end());
            let event = reader.next(&rest, &mut at).unwrap();
            assert_eq!(event, Some(ResponseEvent::End(DONE)));
            let more = if kind == Kind::Stdout { 1000 } else { 0 };
            assert_eq!(reader.stdout_bytes(), 15 + more);
        }
    }
}

/// A header has said how much comes. It goes another way, or a part of it does, or none; what is behind it is
/// read again.
#[test]
fn what_was_promised_goes_on_as_it_comes_and_then_the_rest_is_read() {
    let large = large(Kind::Stdout);
    let promised = 600;
    for taken in [0, 1, 599, 600] {
        for cut in [0, 1, 300, 600 - taken, 700, 1004 - taken] {
            let mut reader = behind_headers();
            assert!(reader.frame_next(header(&large)));
            let mut sent = reader.promise(promised).to_vec();
            assert!(!reader.is_between_records());
            sent.extend(&large[HEADER_LEN..HEADER_LEN + taken]);
            reader.passed(taken);
            let rest = [&large[HEADER_LEN + taken..], &end()].concat();
            let (first, second) = rest.split_at(cut.min(rest.len()));
            for slice in [first, second] {
                let mut at = 0;
                while let Some(event) = reader.next(slice, &mut at).unwrap() {
                    match event {
                        ResponseEvent::Pass(pass) => sent.extend(passed(&pass, slice)),
                        ResponseEvent::End(_) => break,
                        event => panic!("{event:?}"),
                    }
                }
            }
            assert!(reader.is_between_records());
            assert_eq!(reader.stdout_bytes(), 15 + 1000);
            assert_eq!(content_of(&sent), [&[7; 1000][..], &[0; 8]].concat());
        }
    }
}

/// Of whole records.
fn content_of(mut records: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while !records.is_empty() {
        let header = header(records);
        let header = Header::decode(header).unwrap();
        let end = HEADER_LEN + usize::from(header.content_len);
        content.extend(&records[HEADER_LEN..end]);
        records = &records[end + usize::from(header.padding_len)..];
    }
    content
}

#[test]
fn content_is_awaited_from_a_header_on_until_its_first_byte() {
    for kind in [Kind::Stdout, Kind::Stderr] {
        let large = large(kind);
        let mut reader = behind_headers();
        assert!(!reader.awaits_content());
        reader.next(&large[..HEADER_LEN - 1], &mut 0).unwrap();
        assert!(!reader.awaits_content());
        reader
            .next(&large[HEADER_LEN - 1..HEADER_LEN], &mut 0)
            .unwrap();
        assert!(reader.awaits_content());
        reader
            .next(&large[HEADER_LEN..=HEADER_LEN], &mut 0)
            .unwrap();
        assert!(!reader.awaits_content() && reader.framable() > 0);
    }
    // What has to be looked at, and what has no content.
    let mut reader = ResponseReader::new(RequestId::from_number(1));
    reader
        .next(&large(Kind::Stdout)[..HEADER_LEN], &mut 0)
        .unwrap();
    assert!(!reader.awaits_content());
    let mut reader = behind_headers();
    let empty = record(Kind::Stdout, 1, &[], 0);
    reader.next(&empty, &mut 0).unwrap();
    reader.next(&end()[..HEADER_LEN], &mut 0).unwrap();
    assert!(!reader.awaits_content());
}

/// All of the next record is at hand. It goes another way, or does so in part, or after all does not.
#[test]
fn a_record_that_is_at_hand_can_go_another_way_as_it_came() {
    for kind in [Kind::Stdout, Kind::Stderr] {
        let large = large(kind);
        for taken in 0..=large.len() {
            let mut reader = behind_headers();
            assert_eq!(reader.output_len(header(&large)), Some(large.len()));
            assert!(reader.pass_next(header(&large)));
            assert!(!reader.pass_next(header(&large)), "it has begun");
            assert_eq!((reader.passable(), reader.framable()), (large.len(), 0));
            reader.passed(taken);
            assert_eq!(reader.passable(), large.len() - taken);
            let is_between = taken == 0 || taken == large.len();
            assert_eq!(reader.is_between_records(), is_between);
            let rest = [&large[taken..], &end()].concat();
            let mut at = 0;
            let event = reader.next(&rest, &mut at);
            let Ok(Some(ResponseEvent::Pass(pass))) = event else {
                panic!("{event:?}");
            };
            assert_eq!((pass.lead(), pass.range()), (&[][..], 0..rest.len()));
            assert_eq!(pass.patch(), None);
            let event = reader.next(&[], &mut 0);
            assert_eq!(event, Ok(Some(ResponseEvent::End(DONE))));
            assert_eq!(reader.status(), 404);
            let more = if kind == Kind::Stdout { 1000 } else { 0 };
            assert_eq!(reader.stdout_bytes(), 15 + more);
        }
    }
}

/// Behind much error output, the first of STDOUT may come in a large record.
#[test]
fn output_does_not_go_another_way_before_its_headers_are_over() {
    let error = large(Kind::Stderr);
    let text = [b"Status: 503\r\n\r\n", &[b'x'; 1000][..]].concat();
    let page = record(Kind::Stdout, 1, &text, 0);
    let mut reader = ResponseReader::new(RequestId::from_number(1));
    assert!(reader.pass_next(header(&error)));
    reader.passed(error.len());
    assert_eq!(reader.output_len(header(&page)), None);
    assert!(!reader.pass_next(header(&page)) && !reader.frame_next(header(&page)));
    reader.next(&page[..HEADER_LEN + 13], &mut 0).unwrap();
    assert_eq!((reader.status(), reader.framable()), (503, 0));
    reader.next(&page[HEADER_LEN + 13..200], &mut 0).unwrap();
    assert_eq!(reader.framable(), page.len() - 200);
    reader.promise(page.len() - 200);
    reader.passed(page.len() - 200);
    assert!(reader.pass_next(header(&page)));
    assert_eq!(reader.passable(), page.len());
}

#[test]
fn only_output_of_the_request_goes_another_way() {
    for other in [
        record(Kind::Stdout, 2, &[7; 100], 0),
        record(Kind::GetValuesResult, 0, &[7; 100], 0),
        record(Kind::EndRequest, 1, &[0; 8], 0),
        record(Kind::Stdin, 1, &[7; 100], 0),
        vec![9; 100],
    ] {
        let mut reader = behind_headers();
        assert!(!reader.pass_next(header(&other)) && !reader.frame_next(header(&other)));
        assert_eq!((reader.passable(), reader.framable()), (0, 0));
    }
    let large = large(Kind::Stdout);
    for cut in 1..large.len() {
        let mut reader = behind_headers();
        reader.next(&large[..cut], &mut 0).unwrap();
        assert!(
            !reader.pass_next(header(&large)),
            "a record is cut at {cut}"
        );
        assert!(
            !reader.frame_next(header(&large)),
            "a record is cut at {cut}"
        );
    }
}

/// An empty record ends its stream, so it goes on itself, and not as parts of which there are none.
#[test]
fn a_record_without_content_is_always_read() {
    let empty = record(Kind::Stdout, 1, &[], 5);
    let mut reader = behind_headers();
    assert_eq!(reader.output_len(header(&empty)), None);
    assert!(!reader.pass_next(header(&empty)) && !reader.frame_next(header(&empty)));
    let event = reader.next(&empty, &mut 0).unwrap();
    let Some(ResponseEvent::Pass(pass)) = event else {
        panic!("{event:?}");
    };
    assert_eq!(passed(&pass, &empty), empty);
}

#[test]
fn nothing_goes_another_way_behind_an_error_or_the_end() {
    let large = large(Kind::Stderr);
    for last in [end(), record(Kind::Stdin, 1, b"", 0)] {
        let mut reader = behind_headers();
        let mut at = 0;
        while at < last.len() {
            if reader.next(&last, &mut at).is_err() {
                break;
            }
        }
        assert!(!reader.pass_next(header(&large)) && !reader.frame_next(header(&large)));
    }
}

#[test]
#[should_panic(expected = "the caller asked how many")]
fn more_than_a_record_does_not_go_another_way() {
    let large = large(Kind::Stdout);
    let mut reader = behind_headers();
    assert!(reader.pass_next(header(&large)));
    reader.passed(large.len() + 1);
}

/// An answer with headers and an end, most of which need not be read.
fn any_output() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![2 => Just(Kind::Stdout), 1 => Just(Kind::Stderr)];
    let one = (kind, vec(any::<u8>(), 0..40), prop_oneof![Just(0), 0..9_u8]);
    let one = one.prop_map(|(kind, content, padding)| record(kind, 1, &content, padding));
    let one = prop_oneof![9 => one, 1 => Just(FPM_FENCE.to_vec())];
    vec(one, 0..9).prop_map(|all| {
        let headers = record(Kind::Stdout, 1, b"Status: 404\r\n\r\n", 3);
        [headers, all.concat(), end()].concat()
    })
}

/// Gives the answer to a reader as a session does: some of it is read, and some goes another way. Returns
/// what the client has.
fn forward(stream: &[u8], script: &[(u8, prop::sample::Index)]) -> Vec<u8> {
    let mut reader = ResponseReader::new(RequestId::from_number(1));
    let (mut sent, mut from) = (Vec::new(), 0);
    // What the script leaves is read.
    for action in script.iter().map(Some).chain([None]) {
        let rest = &stream[from..];
        let next = rest.first_chunk::<HEADER_LEN>();
        let passable = reader.passable().min(rest.len());
        let framable = reader.framable().min(rest.len());
        match (action, next) {
            (Some((0, _)), Some(next)) if reader.output_len(*next) <= Some(rest.len()) => {
                reader.pass_next(*next);
            }
            (Some((1, _)), Some(next)) => {
                if reader.frame_next(*next) {
                    from += HEADER_LEN;
                }
            }
            (Some((2, much)), _) if framable > 0 => {
                sent.extend(reader.promise(1 + much.index(framable)));
            }
            (Some((3, much)), _) if passable > 0 => {
                let much = 1 + much.index(passable);
                reader.passed(much);
                sent.extend(&rest[..much]);
                from += much;
            }
            _ => {
                let much = action.map_or(rest.len(), |(_, much)| much.index(rest.len() + 1));
                let mut at = 0;
                while let Some(event) = reader.next(&rest[..much], &mut at).unwrap() {
                    match event {
                        ResponseEvent::Pass(pass) => sent.extend(passed(&pass, &rest[..much])),
                        ResponseEvent::Management(_) => {}
                        ResponseEvent::End(_) => break,
                    }
                }
                from += at;
            }
        }
        if reader.is_between_records() {
            said(&sent);
        }
    }
    assert_eq!(from, stream.len());
    sent
}

fn any_response() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![
        2 => vec(any::<u8>(), 0..30),
        1 => Just(DONE.encode().to_vec()),
        1 => Just(b"Status: 404 Not Found\r\n\r\n".to_vec()),
    ];
    let kind = prop_oneof![6 => Just(6_u8), 2 => Just(7), 1 => Just(3), 1 => 0..13_u8];
    let id = prop_oneof![9 => Just(1_u16), 1 => 0..3_u16];
    let one = (kind, id, content, prop_oneof![Just(0_u8), any::<u8>()]);
    let one = one.prop_map(|(kind, id, content, padding_len)| {
        record(Kind::from_byte(kind), id, &content, padding_len)
    });
    vec(prop_oneof![8 => one, 1 => Just(FPM_FENCE.to_vec())], 0..8).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_split_tells_the_same(
        stream in any_response(),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let (split, split_reader) = read(&stream, &cuts);
        let (whole, reader) = read(&stream, &[]);
        prop_assert_eq!(meaning(&split), meaning(&whole));
        prop_assert_eq!(split_reader.status(), reader.status());
        prop_assert_eq!(split_reader.stdout_bytes(), reader.stdout_bytes());
    }

    #[test]
    fn whatever_goes_another_way_the_client_gets_the_same(
        stream in any_output(),
        script in vec((0..6_u8, any::<prop::sample::Index>()), 0..60),
    ) {
        let wanted: Vec<_> = said(&stream).into_iter().filter(|(_, id, _)| *id == 1).collect();
        // What a management record stood between is neighbours now.
        let wanted = wanted.into_iter().fold(Vec::new(), |mut all: Vec<Said>, (kind, id, content)| {
            match all.last_mut() {
                Some((last, _, before))
                    if *last == kind && !content.is_empty() && !before.is_empty() =>
                {
                    before.extend(content);
                }
                _ => all.push((kind, id, content)),
            }
            all
        });
        prop_assert_eq!(said(&forward(&stream, &script)), wanted);
    }
}
