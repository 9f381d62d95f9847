//! Whole and split, in order and not: what a client can send.

use std::num::NonZeroU16;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::answer::{Answer, RetryAfter};
use super::*;
use spliceway_common::fastcgi::{Pairs, push_pair, push_record, push_stream, push_stream_end};

pub(super) const LIMITS: RequestLimits = RequestLimits {
    params_bytes_max: 2000,
    capacity: Capacity {
        connections_max: 10,
        requests_max: 10,
    },
};

fn id(number: u16) -> RequestId {
    RequestId::application(NonZeroU16::new(number).unwrap())
}

pub(super) const RESPONDER: BeginRequest = BeginRequest {
    role: Role::Responder,
    keep_conn: true,
};

/// One record with padding that would be a mistake if it was read.
pub(super) fn record(kind: Kind, request: u16, content: &[u8], padding_len: u8) -> Vec<u8> {
    let header = Header {
        kind,
        request_id: RequestId::from_number(request),
        content_len: u16::try_from(content.len()).unwrap(),
        padding_len,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + usize::from(padding_len), 0xff);
    bytes
}

pub(super) fn params(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut params = Vec::new();
    for (name, value) in pairs {
        push_pair(&mut params, name.as_bytes(), value.as_bytes());
    }
    params
}

pub(super) fn begin(request: u16, begin: BeginRequest) -> Vec<u8> {
    record(Kind::BeginRequest, request, &begin.encode(), 0)
}

/// BEGIN_REQUEST and PARAMS.
pub(super) fn head(request: u16, pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = begin(request, RESPONDER);
    push_stream(&mut bytes, Kind::Params, id(request), &params(pairs));
    push_stream_end(&mut bytes, Kind::Params, id(request));
    bytes
}

/// All that a reader told, with what was to be sent on joined.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Head(RequestId, Role, bool, Vec<u8>),
    Body(Vec<u8>),
    BodyEnd,
    Reply(Vec<u8>),
    Abort,
    Next,
    Error(ProtocolError),
}

/// Gives `stream` to a reader in the pieces that `cuts` make, and lets the next request begin as
/// soon as it is there.
pub(super) fn read(stream: &[u8], cuts: &[usize]) -> Vec<Told> {
    let mut reader = RequestReader::new(LIMITS);
    let mut told = Vec::new();
    let mut from = 0;
    for &to in cuts.iter().chain([&stream.len()]) {
        let input = &stream[from..to];
        from = to;
        let mut at = 0;
        loop {
            let event = match reader.next(input, &mut at) {
                Ok(None) => break,
                Ok(Some(event)) => event,
                Err(error) => {
                    assert_eq!(reader.next(input, &mut at), Err(error));
                    told.push(Told::Error(error));
                    return told;
                }
            };
            assert!(at <= input.len());
            if event == RequestEvent::Next {
                assert_eq!(reader.next(input, &mut at), Ok(Some(RequestEvent::Next)));
                reader.next_request();
            }
            tell(&mut told, &reader, event, input);
        }
        assert_eq!(at, input.len(), "everything is read");
        assert!(reader.head().capacity() <= LIMITS.params_bytes_max);
        assert!(reader.rules().query.capacity() <= 2 * QUERY_BYTES_MAX);
    }
    told
}

pub(super) fn tell(
    told: &mut Vec<Told>,
    reader: &RequestReader,
    event: RequestEvent,
    input: &[u8],
) {
    let head = reader.head();
    match (event, told.last_mut()) {
        (RequestEvent::Body(pass), last) => {
            assert!(!pass.is_empty());
            let bytes = [pass.lead(), &input[pass.range()]].concat();
            match last {
                Some(Told::Body(before)) => before.extend(bytes),
                _ => told.push(Told::Body(bytes)),
            }
        }
        (RequestEvent::Head, _) => told.push(Told::Head(
            head.request_id(),
            head.role(),
            head.keep_conn(),
            head.params().to_vec(),
        )),
        (RequestEvent::BodyEnd, _) => told.push(Told::BodyEnd),
        (RequestEvent::Reply(reply), _) => told.push(Told::Reply(reply.to_vec())),
        (RequestEvent::Abort, _) => told.push(Told::Abort),
        (RequestEvent::Next, _) => told.push(Told::Next),
    }
}

/// Whole, byte by byte, and in two pieces at every place: always the same.
fn read_in_every_way(stream: &[u8]) -> Vec<Told> {
    let whole = read(stream, &[]);
    let bytes: Vec<usize> = (0..stream.len()).collect();
    assert_eq!(read(stream, &bytes), whole);
    for cut in 0..stream.len() {
        assert_eq!(read(stream, &[cut]), whole, "cut at {cut}");
    }
    whole
}

fn error(stream: &[u8]) -> ProtocolError {
    match read_in_every_way(stream).pop() {
        Some(Told::Error(error)) => error,
        other => panic!("no error but {other:?}"),
    }
}

fn told_head(request: u16, pairs: &[(&str, &str)]) -> Told {
    Told::Head(id(request), Role::Responder, true, params(pairs))
}

const GET: &[(&str, &str)] = &[("REQUEST_METHOD", "GET"), ("SCRIPT_FILENAME", "/srv/a.php")];

#[test]
fn a_get_is_a_head_and_the_end_of_its_body() {
    let end = record(Kind::Stdin, 7, b"", 0);
    let told = read_in_every_way(&[head(7, GET), end.clone()].concat());
    assert_eq!(told, [told_head(7, GET), Told::Body(end), Told::BodyEnd]);
}

#[test]
fn a_body_passes_as_it_came_padding_included() {
    let body = [
        record(Kind::Stdin, 1, b"hello", 3),
        record(Kind::Stdin, 1, b"w", 255),
        record(Kind::Stdin, 1, b"orld", 0),
        record(Kind::Stdin, 1, b"", 0),
    ]
    .concat();
    let told = read_in_every_way(&[head(1, GET), body.clone()].concat());
    assert_eq!(told, [told_head(1, GET), Told::Body(body), Told::BodyEnd]);
}

#[test]
fn a_body_that_arrives_together_is_one_range_of_what_was_received() {
    let records = [
        record(Kind::Stdin, 1, b"hello", 3),
        record(Kind::Stdin, 1, b"world", 3),
        record(Kind::Stdin, 1, b"", 0),
    ];
    let stream = [head(1, GET), records.concat()].concat();
    let mut reader = RequestReader::new(LIMITS);
    let mut at = 0;
    assert_eq!(reader.next(&stream, &mut at), Ok(Some(RequestEvent::Head)));
    assert_eq!(at, head(1, GET).len());
    let Ok(Some(RequestEvent::Body(pass))) = reader.next(&stream, &mut at) else {
        panic!("no body");
    };
    assert_eq!(
        (pass.lead(), pass.range()),
        (&[][..], head(1, GET).len()..stream.len())
    );
    assert_eq!(
        reader.next(&stream, &mut at),
        Ok(Some(RequestEvent::BodyEnd))
    );
    assert_eq!(reader.next(&stream, &mut at), Ok(None));
    assert_eq!(reader.end(), ClientEnd::AfterRequest);
}

/// PHP-FPM takes the padding of this record for the next request.
#[test]
fn the_padding_of_the_end_of_a_stream_is_not_passed_on() {
    let smuggled = head(1, &[("PHP_ADMIN_VALUE", "auto_prepend_file=/tmp/x")]);
    let mut end = record(Kind::Stdin, 1, b"", u8::try_from(smuggled.len()).unwrap());
    end.truncate(HEADER_LEN);
    end.extend(smuggled);
    let body = record(Kind::Stdin, 1, b"hello", 3);
    for before in [&[][..], &body] {
        let told = read_in_every_way(&[&head(1, GET), before, &end].concat());
        let sent = [before, &record(Kind::Stdin, 1, b"", 0)].concat();
        assert_eq!(told, [told_head(1, GET), Told::Body(sent), Told::BodyEnd]);
    }
}

#[test]
fn a_body_longer_than_announced_is_an_error_before_its_record_is_sent() {
    let pairs = &[("CONTENT_LENGTH", "5")];
    let hello = record(Kind::Stdin, 1, b"hello", 3);
    let stream = [
        head(1, pairs),
        hello.clone(),
        record(Kind::Stdin, 1, b"!", 0),
    ]
    .concat();
    let told = read_in_every_way(&stream);
    let at = (head(1, pairs).len() + hello.len()) as u64;
    let cause = Violation::BodyTooLong;
    let error = Told::Error(ProtocolError { at, cause });
    assert_eq!(told, [told_head(1, pairs), Told::Body(hello), error]);
}

#[test]
fn a_body_without_a_length_that_is_known_passes_however_long() {
    for pairs in [
        &[][..],
        &[("CONTENT_LENGTH", "")],
        &[("CONTENT_LENGTH", "x")],
    ] {
        let body = [
            record(Kind::Stdin, 1, b"hello", 0),
            record(Kind::Stdin, 1, b"", 0),
        ]
        .concat();
        let told = read_in_every_way(&[head(1, pairs), body.clone()].concat());
        assert_eq!(told, [told_head(1, pairs), Told::Body(body), Told::BodyEnd]);
    }
}

#[test]
fn what_is_missing_of_a_body_is_known() {
    let stream = [
        head(1, &[("CONTENT_LENGTH", "9")]),
        record(Kind::Stdin, 1, b"hello", 0),
    ]
    .concat();
    let mut reader = RequestReader::new(LIMITS);
    let mut at = 0;
    while reader.next(&stream, &mut at).unwrap().is_some() {}
    assert_eq!(
        (reader.body_missing(), reader.end()),
        (4, ClientEnd::TooEarly)
    );
}

#[test]
fn a_filter_has_two_inputs_and_ends_with_the_second() {
    let filter = BeginRequest {
        role: Role::Filter,
        keep_conn: false,
    };
    let start = [begin(1, filter), record(Kind::Params, 1, b"", 0)].concat();
    let stdin = [
        record(Kind::Stdin, 1, b"in", 0),
        record(Kind::Stdin, 1, b"", 9),
    ]
    .concat();
    let data = [
        record(Kind::Data, 1, b"file", 1),
        record(Kind::Data, 1, b"", 0),
    ]
    .concat();
    let clean = [
        record(Kind::Stdin, 1, b"in", 0),
        record(Kind::Stdin, 1, b"", 0),
    ]
    .concat();
    for (sent, passed) in [
        ([&stdin, &data], [&clean, &data]),
        ([&data, &stdin], [&data, &clean]),
    ] {
        let told = read_in_every_way(&[start.clone(), sent.map(Vec::as_slice).concat()].concat());
        let head = Told::Head(id(1), Role::Filter, false, Vec::new());
        let passed = passed.map(Vec::as_slice).concat();
        assert_eq!(told, [head, Told::Body(passed), Told::BodyEnd]);
    }
}

#[test]
fn an_authorizer_needs_no_body() {
    let authorizer = BeginRequest {
        role: Role::Authorizer,
        keep_conn: true,
    };
    let first = [begin(1, authorizer), record(Kind::Params, 1, b"", 0)].concat();
    let told = read_in_every_way(&[first.clone(), head(2, GET)].concat());
    let head = Told::Head(id(1), Role::Authorizer, true, Vec::new());
    assert_eq!(told, [head, Told::Next, told_head(2, GET)]);
    let mut reader = RequestReader::new(LIMITS);
    let mut at = 0;
    while reader.next(&first, &mut at).unwrap().is_some() {}
    assert_eq!(reader.end(), ClientEnd::AfterRequest);
}

#[test]
fn a_second_request_while_one_runs_is_refused_and_its_records_are_ignored() {
    let end = record(Kind::Stdin, 1, b"", 0);
    let stream = [
        head(1, GET),
        head(2, GET),
        record(Kind::Stdin, 2, b"x", 0),
        end.clone(),
    ]
    .concat();
    let refusal = vec![1, 3, 0, 2, 0, 8, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(
        read_in_every_way(&stream),
        [
            told_head(1, GET),
            Told::Reply(refusal),
            Told::Body(end),
            Told::BodyEnd
        ]
    );
}

#[test]
fn a_request_behind_a_complete_one_waits_at_its_first_record() {
    let end = record(Kind::Stdin, 1, b"", 0);
    let first = [head(1, GET), end.clone()].concat();
    let stream = [first.clone(), head(1, GET), end].concat();
    let mut reader = RequestReader::new(LIMITS);
    let mut at = 0;
    while reader.next(&stream, &mut at).unwrap() != Some(RequestEvent::Next) {}
    assert_eq!(
        at,
        first.len() + HEADER_LEN,
        "nothing but the header is read"
    );
    assert_eq!(
        reader.head().params(),
        params(GET),
        "the first is still there"
    );
    reader.next_request();
    assert_eq!(reader.next(&stream, &mut at), Ok(Some(RequestEvent::Head)));
}

#[test]
fn an_abort_is_told_also_after_the_body() {
    let end = record(Kind::Stdin, 1, b"", 0);
    let abort = record(Kind::AbortRequest, 1, b"", 0);
    let told = read_in_every_way(&[head(1, GET), end.clone(), abort.clone()].concat());
    assert_eq!(
        told,
        [
            told_head(1, GET),
            Told::Body(end),
            Told::BodyEnd,
            Told::Abort
        ]
    );
    let of_another = record(Kind::AbortRequest, 2, b"", 0);
    let told = read_in_every_way(&[head(1, GET), of_another, abort].concat());
    assert_eq!(told, [told_head(1, GET), Told::Abort]);
}

#[test]
fn questions_are_answered_wherever_they_come() {
    let query = record(Kind::GetValues, 0, &params(&[("FCGI_MPXS_CONNS", "")]), 2);
    let unknown = record(Kind::Other(77), 0, b"what", 1);
    let mut answer = Vec::new();
    let result = params(&[("FCGI_MPXS_CONNS", "0")]);
    push_record(
        &mut answer,
        Kind::GetValuesResult,
        RequestId::MANAGEMENT,
        &result,
    );
    let what = vec![1, 11, 0, 0, 0, 8, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0];
    let body = record(Kind::Stdin, 1, b"x", 0);
    let stream = [
        query.clone(),
        head(1, GET),
        body.clone(),
        unknown,
        body.clone(),
        query,
    ]
    .concat();
    assert_eq!(
        read_in_every_way(&stream),
        [
            Told::Reply(answer.clone()),
            told_head(1, GET),
            Told::Body(body.clone()),
            Told::Reply(what),
            Told::Body(body),
            Told::Reply(answer),
        ]
    );
}

#[test]
fn what_is_left_of_a_request_that_was_answered_early_is_stepped_over() {
    let body = record(Kind::Stdin, 1, b"hello", 3);
    let rest = [body.clone(), record(Kind::Stdin, 1, b"", 0), head(1, GET)].concat();
    let stream = [head(1, GET), rest].concat();
    for cut in head(1, GET).len()..stream.len() - head(1, GET).len() {
        let mut reader = RequestReader::new(LIMITS);
        let mut at = 0;
        while reader.next(&stream[..cut], &mut at).unwrap().is_some() {}
        reader.next_request();
        let mut at = 0;
        let next = reader.next(&stream[cut..], &mut at);
        assert_eq!(
            (next, at),
            (Ok(Some(RequestEvent::Head)), stream.len() - cut)
        );
    }
    let mut reader = RequestReader::new(LIMITS);
    let mut at = 0;
    assert_eq!(reader.next(&stream, &mut at), Ok(Some(RequestEvent::Head)));
    reader.next_request();
    assert_eq!(reader.next(&stream, &mut at), Ok(Some(RequestEvent::Head)));
    assert_eq!(at, stream.len());
}

#[test]
fn a_body_can_go_another_way() {
    let body = record(Kind::Stdin, 1, &[7; 1000], 8);
    let end = record(Kind::Stdin, 1, b"", 0);
    let mut reader = RequestReader::new(LIMITS);
    let start = [head(1, GET), body[..20].to_vec()].concat();
    let mut at = 0;
    reader.next(&start, &mut at).unwrap();
    assert_eq!(reader.passable(), 0);
    reader.next(&start, &mut at).unwrap();
    assert_eq!(reader.passable(), 1000 - 12 + 8);
    reader.passed(990);
    assert_eq!(reader.passable(), 6);
    reader.passed(6);
    assert_eq!(reader.passable(), 0);
    let mut at = 0;
    let Ok(Some(RequestEvent::Body(pass))) = reader.next(&end, &mut at) else {
        panic!("no body");
    };
    assert_eq!(pass.range(), 0..HEADER_LEN);
    assert_eq!(reader.next(&end, &mut at), Ok(Some(RequestEvent::BodyEnd)));
}

/// The header of the next record is seen before it is taken.
#[test]
fn a_record_of_the_body_can_be_begun_by_a_header_that_is_still_to_come() {
    let large = record(Kind::Stdin, 1, &[7; 1000], 8);
    let header = large[..HEADER_LEN].try_into().unwrap();
    let end = record(Kind::Stdin, 1, b"", 0);
    let post = [GET, &[("CONTENT_LENGTH", "1500")]].concat();
    for passed in 0..=large.len() {
        let mut reader = RequestReader::new(LIMITS);
        assert!(!reader.pass_next(header, 0), "no request is open");
        reader.next(&head(1, &post), &mut 0).unwrap();
        assert!(!reader.pass_next(end[..].try_into().unwrap(), 0));
        assert!(!reader.pass_next(header, 1001), "it is too small");
        assert!(reader.pass_next(header, 1000));
        reader.passed(passed);
        assert_eq!(reader.passable(), large.len() - passed);
        assert_eq!(reader.body_missing(), 500);
        let mut at = 0;
        let event = reader.next(&large[passed..], &mut at);
        match event {
            Ok(Some(RequestEvent::Body(pass))) => assert_eq!(pass.len(), large.len() - passed),
            event => assert_eq!((event, passed), (Ok(None), large.len())),
        }
        assert!(
            !reader.pass_next(header, 1000),
            "the body would be too long"
        );
        // What is missing of the old request is no part of the next one.
        reader.next_request();
        let next = [end.clone(), head(1, GET)].concat();
        let event = reader.next(&next, &mut 0);
        assert_eq!(event, Ok(Some(RequestEvent::Head)));
    }
}

/// Also where the error leaves the stream between two records.
#[test]
fn nothing_goes_another_way_behind_an_error() {
    let body = record(Kind::Stdin, 1, &[7; 100], 0);
    let next = body[..HEADER_LEN].try_into().unwrap();
    for wrong in [
        record(Kind::GetValues, 0, &[9], 0),
        record(Kind::Data, 1, b"x", 0),
    ] {
        let mut reader = RequestReader::new(LIMITS);
        reader.next(&head(1, GET), &mut 0).unwrap();
        assert!(reader.next(&wrong, &mut 0).is_err());
        assert!(!reader.pass_next(next, 0));
        assert_eq!(reader.passable(), 0);
    }
}

#[test]
fn a_record_that_was_begun_so_is_stepped_over_once_its_request_is_over() {
    let large = record(Kind::Stdin, 1, &[7; 1000], 8);
    for passed in 0..=large.len() {
        let mut reader = RequestReader::new(LIMITS);
        reader.next(&head(1, GET), &mut 0).unwrap();
        assert!(reader.pass_next(large[..HEADER_LEN].try_into().unwrap(), 0));
        reader.passed(passed);
        reader.next_request();
        assert_eq!(reader.passable(), 0);
        let rest = [&large[passed..], &head(2, GET)].concat();
        let mut at = 0;
        let event = reader.next(&rest, &mut at);
        assert_eq!((event, at), (Ok(Some(RequestEvent::Head)), rest.len()));
    }
}

/// Gives the body of a request to a reader as a session does: some of it is read, and some goes another way.
/// Returns what the upstream has.
fn forward(body: &[u8], script: &[(u8, prop::sample::Index)]) -> Vec<u8> {
    let mut reader = RequestReader::new(LIMITS);
    reader.next(&head(1, GET), &mut 0).unwrap();
    let (mut sent, mut from) = (Vec::new(), 0);
    // What the script leaves is read.
    for action in script.iter().map(Some).chain([None]) {
        let rest = &body[from..];
        let passable = reader.passable().min(rest.len());
        match (action, rest.first_chunk::<HEADER_LEN>()) {
            (Some((0, much)), Some(next)) => {
                reader.pass_next(*next, much.index(9));
            }
            (Some((1, much)), _) if passable > 0 => {
                let much = 1 + much.index(passable);
                reader.passed(much);
                sent.extend(&rest[..much]);
                from += much;
            }
            _ => {
                let much = action.map_or(rest.len(), |(_, much)| much.index(rest.len() + 1));
                let mut at = 0;
                while let Some(event) = reader.next(&rest[..much], &mut at).unwrap() {
                    if let RequestEvent::Body(pass) = event {
                        sent.extend([pass.lead(), &rest[pass.range()]].concat());
                    }
                }
                from += at;
            }
        }
    }
    assert_eq!((from, reader.end()), (body.len(), ClientEnd::AfterRequest));
    sent
}

#[test]
fn null_ids_and_their_opposite_are_errors() {
    for kind in [
        Kind::BeginRequest,
        Kind::Params,
        Kind::Stdin,
        Kind::Data,
        Kind::AbortRequest,
    ] {
        let wrong = error(&record(kind, 0, &[0; 8], 0));
        assert_eq!(wrong.cause, Violation::NullId(kind));
    }
    let wrong = error(&record(Kind::GetValues, 1, b"", 0));
    assert_eq!(wrong.cause, Violation::NotNullId(Kind::GetValues));
}

#[test]
fn what_only_applications_send_is_an_error() {
    for kind in [Kind::EndRequest, Kind::Stdout, Kind::Stderr] {
        let wrong = error(&record(kind, 1, &[0; 8], 0));
        assert_eq!(wrong.cause, Violation::FromApplication(kind));
    }
    for kind in [Kind::GetValuesResult, Kind::UnknownType] {
        let wrong = error(&record(kind, 0, &[0; 8], 0));
        assert_eq!(wrong.cause, Violation::FromApplication(kind));
    }
}

#[test]
fn records_out_of_place_are_errors_that_say_where() {
    let end = record(Kind::Stdin, 1, b"", 0);
    let start = head(1, GET);
    let cases = [
        (begin(1, RESPONDER), Kind::Stdin),
        (start.clone(), Kind::Params),
        (start.clone(), Kind::Data),
        ([start.clone(), end].concat(), Kind::Stdin),
    ];
    for (before, kind) in cases {
        let wrong = error(&[before.clone(), record(kind, 1, b"x", 0)].concat());
        let at = before.len() as u64;
        let cause = Violation::OutOfPlace(kind);
        assert_eq!(wrong, ProtocolError { at, cause });
    }
    let twice = error(&[start.clone(), begin(1, RESPONDER)].concat());
    assert_eq!(twice.cause, Violation::BeginTwice);
    let text = twice.to_string();
    assert_eq!(
        text,
        format!(
            "read a client's FastCGI record at byte {}: a BEGIN_REQUEST for a request that runs (the \
             client is broken)",
            start.len()
        )
    );
}

#[test]
fn other_malformed_records_are_errors() {
    let cases = [
        (b"GET / HTTP/1.1".to_vec(), Violation::Version(b'G')),
        (
            record(Kind::BeginRequest, 1, &[0; 9], 0),
            Violation::BeginLen(9),
        ),
        (
            record(Kind::Other(99), 1, b"", 0),
            Violation::UnknownKind(99),
        ),
        (
            record(Kind::GetValues, 0, &[0; 2000], 0),
            Violation::QueryTooLong(2000),
        ),
        (record(Kind::GetValues, 0, &[9], 0), Violation::PairTooLong),
    ];
    for (stream, cause) in cases {
        assert_eq!(error(&stream), ProtocolError { at: 0, cause });
    }
    let overlapping = [
        begin(1, RESPONDER),
        record(Kind::Params, 1, &[0xff, 0xff, 0xff, 0xff, 0, b'x'], 0),
        record(Kind::Params, 1, b"", 0),
    ];
    assert_eq!(error(&overlapping.concat()).cause, Violation::PairTooLong);
}

#[test]
fn endless_parameters_take_no_more_memory_than_the_limit() {
    let mut reader = RequestReader::new(LIMITS);
    let mut at = 0;
    assert_eq!(reader.next(&begin(1, RESPONDER), &mut at), Ok(None));
    let piece = record(Kind::Params, 1, &[1; 100], 0);
    let error = (0..100_000).find_map(|_| {
        let result = reader.next(&piece, &mut 0);
        assert!(reader.head().capacity() <= LIMITS.params_bytes_max);
        result.err()
    });
    let cause = error.expect("there is a limit").cause;
    assert_eq!(cause, Violation::ParamsTooLong(LIMITS.params_bytes_max));
}

#[test]
fn a_long_head_gives_its_memory_back_for_the_next_request() {
    let limits = RequestLimits {
        params_bytes_max: 1 << 20,
        ..LIMITS
    };
    let mut reader = RequestReader::new(limits);
    let long = "x".repeat(200_000);
    let stream = [head(1, &[("LONG", &long)]), record(Kind::Stdin, 1, b"", 0)].concat();
    let mut at = 0;
    while reader.next(&stream, &mut at).unwrap().is_some() {}
    assert!(reader.head().capacity() >= 200_000);
    reader.next_request();
    assert!(reader.head().capacity() <= 4096);
}

#[test]
fn large_heads_share_a_room_and_give_it_back() {
    const LARGE: usize = 200_000;
    let room = HeadRoom::new(LARGE);
    let reader = || {
        let limits = RequestLimits {
            params_bytes_max: LARGE + 100,
            ..LIMITS
        };
        RequestReader::sharing(room.clone(), limits)
    };
    let long = "x".repeat(LARGE);
    let large = head(1, &[("LONG", &long)]);
    let small = head(1, GET);
    let read = |reader: &mut RequestReader, stream: &[u8]| {
        let result = reader.next(stream, &mut 0);
        result.map_err(|error| error.cause)
    };
    let mut first = reader();
    assert_eq!(read(&mut first, &large), Ok(Some(RequestEvent::Head)));
    // There is room for one of them, and for any number of small ones.
    let mut second = reader();
    assert_eq!(read(&mut second, &large), Err(Violation::HeadsFull));
    for _ in 0..100 {
        assert_eq!(read(&mut reader(), &small), Ok(Some(RequestEvent::Head)));
    }
    first.next_request();
    assert_eq!(read(&mut reader(), &large), Ok(Some(RequestEvent::Head)));
    // A reader that is dropped gives back what its head has.
    drop(second);
    let mut third = reader();
    assert_eq!(read(&mut third, &large), Ok(Some(RequestEvent::Head)));
    drop(third);
    assert_eq!(read(&mut reader(), &large), Ok(Some(RequestEvent::Head)));
}

#[test]
fn each_violation_has_a_name_of_its_own_and_only_size_is_answered() {
    let all = [
        Violation::Version(2),
        Violation::NullId(Kind::Stdin),
        Violation::NotNullId(Kind::GetValues),
        Violation::FromApplication(Kind::Stdout),
        Violation::UnknownKind(77),
        Violation::BeginLen(1),
        Violation::BeginTwice,
        Violation::OutOfPlace(Kind::Stdin),
        Violation::ParamsTooLong(1),
        Violation::PairTooLong,
        Violation::QueryTooLong(1),
        Violation::BodyTooLong,
        Violation::HeadsFull,
    ];
    let mut names = Violation::NAMES;
    assert_eq!(all.map(Violation::name), names);
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    let answered = all.into_iter().filter_map(Violation::answer);
    assert_eq!(
        answered.collect::<Vec<_>>(),
        [Answer::HeadTooLarge, Answer::Unavailable(RetryAfter::LEAST)]
    );
}

/// Records as a client might send them: mostly in order, of a few ids, with any padding.
pub(super) fn any_records() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![
        3 => Just(Vec::new()),
        3 => vec(any::<u8>(), 0..30),
        1 => Just(params(GET)),
        1 => Just(RESPONDER.encode().to_vec()),
        1 => Just(params(&[("CONTENT_LENGTH", "9")])),
        1 => vec(any::<u8>(), 700),
    ];
    let kind = prop_oneof![4 => Just(5_u8), 2 => Just(4), 1 => 0..13_u8];
    let one = (
        kind,
        0..3_u16,
        content,
        prop_oneof![Just(0_u8), any::<u8>()],
    );
    let one = one.prop_map(|(kind, id, content, padding_len)| {
        record(Kind::from_byte(kind), id, &content, padding_len)
    });
    let whole = (1..3_u16, vec(any::<u8>(), 0..40)).prop_map(|(request, body)| {
        let mut bytes = head(request, GET);
        push_stream(&mut bytes, Kind::Stdin, id(request), &body);
        push_stream_end(&mut bytes, Kind::Stdin, id(request));
        bytes
    });
    let some = prop_oneof![2 => one, 1 => whole, 1 => (1..3_u16).prop_map(|id| head(id, GET))];
    vec(some, 0..8).prop_map(|records| records.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_split_tells_the_same(
        stream in any_records(),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(read(&stream, &cuts), read(&stream, &[]));
    }

    #[test]
    fn whatever_goes_another_way_the_upstream_gets_the_same(
        records in vec((vec(any::<u8>(), 1..40), prop_oneof![Just(0), 0..9_u8]), 0..9),
        end_padding: u8,
        script in vec((0..4_u8, any::<prop::sample::Index>()), 0..60),
    ) {
        let body = records.iter().flat_map(|(content, padding)| record(Kind::Stdin, 1, content, *padding));
        let body: Vec<u8> = body.collect();
        let sent = forward(&[body.clone(), record(Kind::Stdin, 1, b"", end_padding)].concat(), &script);
        prop_assert_eq!(sent, [body, record(Kind::Stdin, 1, b"", 0)].concat());
    }

    #[test]
    fn a_head_is_written_with_the_same_pairs_in_few_records_and_none_is_parted(
        pairs in vec((vec(any::<u8>(), 0..200), vec(any::<u8>(), 0..9000)), 0..40),
        further in vec((vec(any::<u8>(), 1..40), vec(any::<u8>(), 0..40)), 0..3),
        keep_conn: bool,
    ) {
        let mut head = Head::new(HeadRoom::default());
        head.begin(id(3), RESPONDER);
        let mut params = Vec::new();
        pairs.iter().for_each(|(name, value)| push_pair(&mut params, name, value));
        head.push(&params, usize::MAX).unwrap();
        let mut out = Vec::new();
        let mut more = Vec::new();
        further.iter().for_each(|(name, value)| push_pair(&mut more, name, value));
        head.write(keep_conn, &[], &more, &mut out);

        let (begin, contents) = contents(&out);
        prop_assert_eq!(begin, BeginRequest { keep_conn, ..RESPONDER });
        let (end, records) = contents.split_last().unwrap();
        prop_assert!(end.is_empty());
        prop_assert!(records.iter().all(|record| !record.is_empty()));
        // With 9,202 bytes at most for a pair, a record is filled to more than the rest.
        prop_assert!(records.len() <= (params.len() + more.len()) / (65_535 - 9_210) + 1);
        let read: Vec<_> = records
            .iter()
            .flat_map(|record| Pairs::new(record))
            .map(|pair| pair.map(|(name, value)| (name.to_vec(), value.to_vec())).unwrap())
            .collect();
        prop_assert_eq!(read, [pairs, further].concat());
    }
}

/// The bodies of BEGIN_REQUEST and of the PARAMS records in `bytes`.
fn contents(mut bytes: &[u8]) -> (BeginRequest, Vec<Vec<u8>>) {
    let mut records = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk() {
        let header = Header::decode(*header).unwrap();
        assert_eq!(header.request_id, id(3));
        let (content, rest) = rest.split_at(usize::from(header.content_len));
        let kind = if records.is_empty() {
            Kind::BeginRequest
        } else {
            Kind::Params
        };
        assert_eq!(header.kind, kind);
        records.push(content.to_vec());
        bytes = &rest[usize::from(header.padding_len)..];
    }
    let begin = records.remove(0).try_into().unwrap();
    (BeginRequest::decode(begin), records)
}

#[test]
fn a_pair_that_is_longer_than_a_record_is_parted_and_nothing_else() {
    let mut head = Head::new(HeadRoom::default());
    head.begin(id(3), RESPONDER);
    let long = "v".repeat(70_000);
    let params = params(&[("A", "1"), ("LONG", &long), ("B", "2")]);
    head.push(&params, usize::MAX).unwrap();
    let mut out = Vec::new();
    head.write(true, &[], &[], &mut out);
    let (_, records) = contents(&out);
    let lens: Vec<_> = records.iter().map(Vec::len).collect();
    assert_eq!(lens, [4, 65_535, 70_000 + 9 - 65_535, 4, 0]);
}

#[test]
fn what_is_stripped_is_not_written() {
    let mut head = Head::new(HeadRoom::default());
    head.begin(id(3), RESPONDER);
    let three = params(&[("A", "1"), ("B", "2"), ("C", "3")]);
    head.push(&three, usize::MAX).unwrap();
    let mut out = Vec::new();
    head.write(true, &[0..4, 8..12], &[], &mut out);
    let (_, records) = contents(&out);
    assert_eq!(records, [params(&[("B", "2")]), Vec::new()]);
    out.clear();
    head.write(true, &[0..4, 4..8, 8..12], &[], &mut out);
    assert_eq!(contents(&out).1, [Vec::<u8>::new()]);
}
