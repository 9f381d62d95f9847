//! The check of an answer, while it arrives: framing, end, and every byte of the content.

use std::sync::OnceLock;

use super::plan::{Plan, Request};
use super::problem::{Problem, Progress};
use super::request::REQUEST_ID;
use crate::digest::Digest;
use crate::pattern::{Pattern, first_difference};
use crate::synthetic::{HEAD_LEN, Head};
use spliceway_common::fastcgi::{
    EndRequest, FixedBody, Header, Kind, ProtocolStatus, Reader, RecordEvent,
};

/// How much of an application's error output is kept for the message.
const SAID_MAX: usize = 512;

/// The longest CGI header of a script: what nginx takes by default is 4 or 8 KiB.
const CGI_HEADER_MAX: usize = 64 * 1024;

/// What answers are compared with; one for all threads of a load.
#[derive(Debug)]
pub(super) enum Measure {
    /// Known beforehand.
    Synthetic {
        /// Bytes of STDOUT.
        response_bytes: u64,
        /// Bytes of the request's body, which the answer repeats.
        body_bytes: u64,
    },
    /// The first answer.
    First(OnceLock<Body>),
    /// None: only their framing and their end are looked at.
    Varying,
}

/// The body of a script's answer, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Body {
    bytes: u64,
    digest: u64,
}

impl Measure {
    /// What the plan's answers are compared with.
    pub(super) fn new(plan: &Plan) -> Self {
        match plan.request {
            Request::Synthetic {
                body_bytes,
                response_bytes,
                ..
            } => Self::Synthetic {
                response_bytes,
                body_bytes,
            },
            Request::Script { varying: false, .. } => Self::First(OnceLock::new()),
            Request::Script { varying: true, .. } => Self::Varying,
        }
    }
}

/// An answer that is being received. Used again for the next one, so that nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Answer {
    reader: Reader,
    stage: Stage,
    /// Bytes of STDOUT that have come, all of them right as far as that is known.
    stdout_bytes: u64,
    /// The beginning of STDERR.
    said: Vec<u8>,
    content: Content,
}

/// Where the answer is (specification §3.3, appendix B: STDOUT and STDERR, then END_REQUEST).
///
/// PHP-FPM leaves out the empty records that end the two streams and goes on with END_REQUEST.
#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// Between two records.
    #[default]
    Between,
    /// In a record of STDOUT.
    Stdout,
    /// In a record of STDERR.
    Stderr,
    /// In the empty record that ends STDOUT.
    StdoutEnd,
    /// Behind it.
    StdoutEnded,
    /// In a record of STDERR that comes then.
    LateStderr,
    /// In END_REQUEST.
    End(FixedBody),
    /// Behind it.
    Complete,
}

/// How the content is looked at.
#[derive(Debug)]
enum Content {
    /// Against the only right one.
    Known {
        /// What it begins with.
        head: Head,
        /// How long it is.
        bytes: u64,
    },
    /// A script's: the header is put together, the body summed up.
    Script(Script),
}

impl Default for Content {
    fn default() -> Self {
        Self::Known {
            head: Head::default(),
            bytes: 0,
        }
    }
}

/// What a script has answered so far.
#[derive(Debug, Default)]
struct Script {
    /// The CGI header, or as much of it as has come.
    header: Vec<u8>,
    /// `None` while the header has not ended.
    body: Option<(Digest, u64)>,
}

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// More is to come.
    Incomplete,
    /// The answer is there, and right.
    Complete,
}

impl Answer {
    /// Expects the answer to the request with this nonce and these parameters.
    pub(super) fn expect(&mut self, measure: &Measure, nonce: u64, params_digest: u64) {
        self.reader = Reader::new();
        self.stage = Stage::Between;
        self.stdout_bytes = 0;
        self.said.clear();
        match (measure, &mut self.content) {
            (
                Measure::Synthetic {
                    response_bytes,
                    body_bytes,
                },
                content,
            ) => {
                let head = Head {
                    nonce,
                    params_digest,
                    body_bytes: *body_bytes,
                };
                *content = Content::Known {
                    head,
                    bytes: *response_bytes,
                };
            }
            (Measure::First(_) | Measure::Varying, Content::Script(script)) => {
                script.header.clear();
                script.body = None;
            }
            (Measure::First(_) | Measure::Varying, content) => {
                *content = Content::Script(Script::default());
            }
        }
    }

    /// Takes the next piece of what has arrived.
    pub(super) fn take(&mut self, mut input: &[u8], measure: &Measure) -> Result<Verdict, Problem> {
        loop {
            if matches!(self.stage, Stage::Complete) {
                return match input {
                    [] => Ok(Verdict::Complete),
                    [..] => Err(Problem::Behind),
                };
            }
            let event = self.reader.next(&mut input);
            let event = event.map_err(|malformed| Problem::Malformed {
                malformed,
                progress: self.progress(),
            })?;
            match event {
                None => return Ok(Verdict::Incomplete),
                Some(RecordEvent::Begin(header)) => self.begin(header)?,
                Some(RecordEvent::Content(piece)) => self.piece(piece)?,
                Some(RecordEvent::End) => self.end(measure)?,
            }
        }
    }

    /// How much has come.
    pub(super) fn progress(&self) -> Progress {
        Progress {
            received: self.stdout_bytes,
            expected: match self.content {
                Content::Known { bytes, .. } => Some(bytes),
                Content::Script(_) => None,
            },
        }
    }

    /// Whether nothing has come yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.stdout_bytes == 0
            && matches!(self.stage, Stage::Between)
            && self.said.is_empty()
            && self.reader.is_between_records()
    }

    /// The beginning of the application's error output; empty if there was none.
    pub(super) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    /// Whether there was any.
    pub(super) fn has_said(&self) -> bool {
        !self.said.is_empty()
    }

    /// Bytes of STDOUT.
    pub(super) fn stdout_bytes(&self) -> u64 {
        self.stdout_bytes
    }

    fn begin(&mut self, header: Header) -> Result<(), Problem> {
        let progress = self.progress();
        let (got, want) = (header.request_id.get(), REQUEST_ID.get());
        if got != want {
            return Err(Problem::RequestId {
                got,
                want,
                progress,
            });
        }
        self.stage = match (self.stage, header.kind, header.content_len) {
            (Stage::Between, Kind::Stdout, 0) => Stage::StdoutEnd,
            (Stage::Between, Kind::Stdout, _) => Stage::Stdout,
            (Stage::Between, Kind::Stderr, _) => Stage::Stderr,
            (Stage::StdoutEnded, Kind::Stderr, _) => Stage::LateStderr,
            (Stage::Between | Stage::StdoutEnded, Kind::EndRequest, _) => {
                Stage::End(FixedBody::default())
            }
            (_, kind, _) => return Err(Problem::Unexpected { kind, progress }),
        };
        Ok(())
    }

    fn piece(&mut self, piece: &[u8]) -> Result<(), Problem> {
        match &mut self.stage {
            Stage::Stdout => {
                self.content.take(self.stdout_bytes, piece)?;
                self.stdout_bytes += piece.len() as u64;
            }
            Stage::Stderr | Stage::LateStderr => {
                let room = SAID_MAX.saturating_sub(self.said.len());
                self.said.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            Stage::End(body) => body.push(piece),
            Stage::Between | Stage::StdoutEnd | Stage::StdoutEnded | Stage::Complete => {
                unreachable!("no record is open, or an empty one")
            }
        }
        Ok(())
    }

    fn end(&mut self, measure: &Measure) -> Result<(), Problem> {
        self.stage = match self.stage {
            Stage::Stdout | Stage::Stderr => Stage::Between,
            Stage::StdoutEnd | Stage::LateStderr => Stage::StdoutEnded,
            Stage::End(body) => {
                self.complete(body, measure)?;
                Stage::Complete
            }
            Stage::Between | Stage::StdoutEnded | Stage::Complete => {
                unreachable!("no record is open")
            }
        };
        Ok(())
    }

    /// The last record is there: was it right as a whole?
    fn complete(&self, body: FixedBody, measure: &Measure) -> Result<(), Problem> {
        let progress = self.progress();
        let bytes = body.complete().map_err(|malformed| Problem::Malformed {
            malformed,
            progress,
        })?;
        let end = EndRequest::decode(bytes);
        if end.app_status != 0 || end.protocol_status != ProtocolStatus::RequestComplete {
            return Err(Problem::Refused {
                protocol_status: end.protocol_status,
                app_status: end.app_status,
                said: self.said(),
            });
        }
        match &self.content {
            // PHP-FPM leaves whatever was on its stack in the reserved bytes; our responder does not.
            Content::Known { .. } if bytes != end.encode() => Err(Problem::Reserved),
            Content::Known { bytes, .. } if self.stdout_bytes < *bytes => {
                Err(Problem::Ended(progress))
            }
            Content::Known { .. } => Ok(()),
            Content::Script(script) => script.complete(measure, || self.said()),
        }
    }
}

impl Content {
    /// Looks at the piece that stands at `position` of STDOUT.
    fn take(&mut self, position: u64, piece: &[u8]) -> Result<(), Problem> {
        match self {
            Self::Known { head, bytes } => check_known(head, *bytes, position, piece),
            Self::Script(script) => script.take(piece),
        }
    }
}

/// Compares a piece with the only right content.
fn check_known(head: &Head, bytes: u64, position: u64, piece: &[u8]) -> Result<(), Problem> {
    let room = usize::try_from(bytes - position).unwrap_or(usize::MAX);
    let (inside, beyond) = piece.split_at(piece.len().min(room));
    let head_len = HEAD_LEN as u64;
    let before_pattern = usize::try_from(head_len.saturating_sub(position)).unwrap_or(0);
    let (of_head, of_pattern) = inside.split_at(inside.len().min(before_pattern));
    if !of_head.is_empty() {
        let from = HEAD_LEN - before_pattern;
        check_head(head, bytes, from, of_head)?;
    }
    let pattern_position = (position + of_head.len() as u64).saturating_sub(head_len);
    let pattern = Pattern::of(head.params_digest);
    if let Some((at, want)) = pattern.mismatch(pattern_position, of_pattern) {
        return Err(Problem::Wrong {
            offset: head_len + pattern_position + at as u64,
            expected: bytes,
            got: of_pattern[at],
            want,
        });
    }
    match beyond {
        [] => Ok(()),
        [..] => Err(Problem::Long { expected: bytes }),
    }
}

/// Compares a piece of the header, which begins at `from`.
fn check_head(head: &Head, bytes: u64, from: usize, piece: &[u8]) -> Result<(), Problem> {
    let wanted = head.encode();
    let wanted = &wanted[from..from + piece.len()];
    let Some(at) = first_difference(piece, wanted) else {
        return Ok(());
    };
    if from == 0
        && let Some(nonce) = Head::nonce_in(piece)
        && nonce != head.nonce
    {
        return Err(Problem::Foreign { nonce });
    }
    Err(Problem::Wrong {
        offset: (from + at) as u64,
        expected: bytes,
        got: piece[at],
        want: wanted[at],
    })
}

impl Script {
    fn take(&mut self, piece: &[u8]) -> Result<(), Problem> {
        let Some((digest, bytes)) = &mut self.body else {
            return self.take_header(piece);
        };
        digest.push(piece);
        *bytes += piece.len() as u64;
        Ok(())
    }

    fn take_header(&mut self, piece: &[u8]) -> Result<(), Problem> {
        // Two line ends in a row may begin in what is here already.
        let seen = self.header.len().saturating_sub(3);
        let before = self.header.len();
        let room = CGI_HEADER_MAX - before;
        self.header
            .extend_from_slice(&piece[..piece.len().min(room)]);
        let Some(end) = header_end(&self.header[seen..]) else {
            return if piece.len() >= room {
                Err(Problem::NoHeader(CGI_HEADER_MAX))
            } else {
                Ok(())
            };
        };
        self.header.truncate(seen + end);
        self.body = Some((Digest::default(), 0));
        self.take(&piece[seen + end - before..])
    }

    fn complete(&self, measure: &Measure, said: impl Fn() -> String) -> Result<(), Problem> {
        let Some((digest, bytes)) = self.body else {
            return Err(Problem::NoHeader(self.header.len()));
        };
        if let Some(status) = failed_status(&self.header) {
            let said = said();
            return Err(Problem::Status { status, said });
        }
        let got = Body {
            bytes,
            digest: digest.finish(),
        };
        let want = match measure {
            Measure::First(first) => *first.get_or_init(|| got),
            Measure::Varying | Measure::Synthetic { .. } => got,
        };
        if got == want {
            return Ok(());
        }
        Err(Problem::Differs {
            got_bytes: got.bytes,
            want_bytes: want.bytes,
            said: said(),
        })
    }
}

/// Where the empty line ends that ends a CGI header. Lines end in CR LF, or in LF alone (RFC 3875,
/// section 6.2, leaves it to the system).
fn header_end(bytes: &[u8]) -> Option<usize> {
    let line_ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    for (at, _) in line_ends {
        match bytes[at + 1..] {
            [b'\n', ..] => return Some(at + 2),
            [b'\r', b'\n', ..] => return Some(at + 3),
            [..] => {}
        }
    }
    None
}

/// The header's status, if it is not one of success. Without one it is 200 (RFC 3875, section
/// 6.3.3).
fn failed_status(header: &[u8]) -> Option<String> {
    let header = String::from_utf8_lossy(header);
    let status = header.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("Status").then(|| value.trim())
    })?;
    let succeeded = status.starts_with('2') && status.len() >= 3;
    (!succeeded).then(|| status.to_owned())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use spliceway_common::fastcgi::{RequestId, push_record, push_stream, push_stream_end};

    const NONCE: u64 = 17;
    const DIGEST: u64 = 4711;
    const BYTES: u64 = 70_000;

    const MEASURE: Measure = Measure::Synthetic {
        response_bytes: BYTES,
        body_bytes: 5,
    };

    fn stdout() -> Vec<u8> {
        let head = Head {
            nonce: NONCE,
            params_digest: DIGEST,
            body_bytes: 5,
        };
        let mut content = head.encode().to_vec();
        while (content.len() as u64) < BYTES {
            let position = content.len() - HEAD_LEN;
            let rest = usize::try_from(BYTES).unwrap() - content.len();
            content.extend_from_slice(Pattern::of(DIGEST).slice(position as u64, rest));
        }
        content
    }

    fn end(app_status: u32) -> [u8; 8] {
        EndRequest {
            app_status,
            protocol_status: ProtocolStatus::RequestComplete,
        }
        .encode()
    }

    /// An answer in records of its own.
    fn answer(stdout: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_stream(&mut bytes, Kind::Stdout, REQUEST_ID, stdout);
        push_stream_end(&mut bytes, Kind::Stdout, REQUEST_ID);
        push_record(&mut bytes, Kind::EndRequest, REQUEST_ID, &end(0));
        bytes
    }

    fn check_pieces<'a>(
        measure: &Measure,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Verdict, Problem> {
        let mut answer = Answer::default();
        answer.expect(measure, NONCE, DIGEST);
        let mut verdict = Verdict::Incomplete;
        for piece in pieces {
            verdict = answer.take(piece, measure)?;
        }
        Ok(verdict)
    }

    fn check(measure: &Measure, bytes: &[u8]) -> Result<Verdict, Problem> {
        check_pieces(measure, [bytes])
    }

    fn problem(bytes: &[u8]) -> Problem {
        check(&MEASURE, bytes).unwrap_err()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_right_answer_passes_in_any_split(
            cuts in vec(any::<prop::sample::Index>(), 0..20),
            record in 1_usize..=65_535,
        ) {
            let content = stdout();
            let mut bytes = Vec::new();
            for piece in content.chunks(record.max(700)) {
                push_record(&mut bytes, Kind::Stdout, REQUEST_ID, piece);
            }
            push_record(&mut bytes, Kind::EndRequest, REQUEST_ID, &end(0));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut from = 0;
            let mut pieces = Vec::new();
            for to in cuts.into_iter().chain([bytes.len()]) {
                pieces.push(&bytes[from..to]);
                from = to;
            }
            prop_assert_eq!(check_pieces(&MEASURE, pieces).unwrap(), Verdict::Complete);
        }

        #[test]
        fn any_changed_content_is_noticed(at: prop::sample::Index, flip in 1..=u8::MAX) {
            let mut content = stdout();
            let at = at.index(content.len());
            content[at] ^= flip;
            let problem = problem(&answer(&content));
            let noticed = match problem {
                Problem::Wrong { offset, .. } => offset == at as u64,
                Problem::Foreign { .. } => at < HEAD_LEN,
                _ => false,
            };
            prop_assert!(noticed, "{problem}");
        }

        #[test]
        fn a_changed_byte_anywhere_never_panics(at: prop::sample::Index, byte: u8) {
            let mut bytes = answer(&stdout());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = check(&MEASURE, &bytes);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
            let _ = check(&MEASURE, &bytes);
            let _ = check(&Measure::Varying, &bytes);
        }

        #[test]
        fn any_truncation_is_incomplete(cut: prop::sample::Index) {
            let bytes = answer(&stdout());
            let cut = cut.index(bytes.len());
            prop_assert_eq!(check(&MEASURE, &bytes[..cut]).unwrap(), Verdict::Incomplete);
        }

        #[test]
        fn a_script_answer_is_the_same_in_any_split(cuts in vec(any::<prop::sample::Index>(), 0..9)) {
            let bytes = answer(b"Content-type: text/html\r\nX-A: b\r\n\r\nhello\n\nworld");
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let measure = Measure::First(OnceLock::new());
            prop_assert_eq!(check(&measure, &bytes).unwrap(), Verdict::Complete);
            let mut from = 0;
            let mut pieces = Vec::new();
            for to in cuts.into_iter().chain([bytes.len()]) {
                pieces.push(&bytes[from..to]);
                from = to;
            }
            prop_assert_eq!(check_pieces(&measure, pieces).unwrap(), Verdict::Complete);
            let Measure::First(first) = &measure else { unreachable!() };
            prop_assert_eq!(first.get().unwrap().bytes, 12);
        }
    }

    #[test]
    fn lost_and_doubled_bytes_are_wrong() {
        let content = stdout();
        let lost = [&content[..30_000], &content[34_096..]].concat();
        let doubled = [&content[..34_096], &content[30_000..]].concat();
        for (content, at) in [(lost, 30_000), (doubled, 34_096)] {
            let problem = problem(&answer(&content));
            let near = matches!(problem, Problem::Wrong { offset, .. } if offset - at < 8);
            assert!(near, "{problem}");
        }
    }

    #[test]
    fn wrong_lengths_are_noticed() {
        let content = stdout();
        let short = problem(&answer(&content[..1000]));
        assert_eq!(
            short.to_string(),
            "the answer is short: it ended after 1000 of 70000 bytes"
        );
        let long = problem(&answer(&[&content[..], b"x"].concat()));
        assert!(matches!(long, Problem::Long { expected: BYTES }), "{long}");
        let behind = problem(&[&answer(&content)[..], &[0]].concat());
        assert!(matches!(behind, Problem::Behind), "{behind}");
    }

    #[test]
    fn the_answer_to_another_request_is_named() {
        let mut other = Answer::default();
        other.expect(&MEASURE, NONCE + 1, DIGEST);
        let problem = other.take(&answer(&stdout()), &MEASURE).unwrap_err();
        assert!(
            matches!(problem, Problem::Foreign { nonce: NONCE }),
            "{problem}"
        );
    }

    #[test]
    fn wrong_framing_is_noticed() {
        let mut id = Vec::new();
        let two = RequestId::application(NonZeroU16::new(2).unwrap());
        push_stream(&mut id, Kind::Stdout, two, b"x");
        let mut kind = Vec::new();
        push_stream(&mut kind, Kind::Stdin, REQUEST_ID, b"x");
        let mut twice = Vec::new();
        push_stream_end(&mut twice, Kind::Stdout, REQUEST_ID);
        push_stream(&mut twice, Kind::Stdout, REQUEST_ID, b"x");
        let mut reserved = answer(&stdout());
        *reserved.last_mut().unwrap() = 1;
        for (bytes, words) in [
            (id, "request id 2, not 1"),
            (kind, "a Stdin record"),
            (twice, "a Stdout record"),
            (reserved, "bytes that should be 0"),
            (b"HTTP/1.1 502".to_vec(), "version 72 instead of 1"),
        ] {
            let problem = problem(&bytes).to_string();
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn a_failed_application_is_reported_with_its_words() {
        let mut bytes = Vec::new();
        push_stream(&mut bytes, Kind::Stderr, REQUEST_ID, b"PHP Fatal error");
        push_record(&mut bytes, Kind::EndRequest, REQUEST_ID, &end(255));
        assert_eq!(
            problem(&bytes).to_string(),
            "the application failed: request complete, exit status 255; it said: PHP Fatal error"
        );
    }

    #[test]
    fn a_script_status_other_than_success_is_a_failure() {
        for (status, passes) in [("200 OK", true), ("204", true), ("404 Not Found", false)] {
            let stdout = format!("Content-type: text/html\r\nstatus: {status}\r\n\r\nx");
            let outcome = check(&Measure::Varying, &answer(stdout.as_bytes()));
            assert_eq!(outcome.is_ok(), passes, "{status}: {outcome:?}");
        }
    }

    #[test]
    fn a_script_that_varies_is_a_failure_unless_it_may() {
        let (one, other) = (answer(b"A: b\n\none"), answer(b"A: b\n\ntwo"));
        let measure = Measure::First(OnceLock::new());
        check(&measure, &one).unwrap();
        let problem = check(&measure, &other).unwrap_err();
        assert!(matches!(problem, Problem::Differs { .. }), "{problem}");
        check(&Measure::Varying, &other).unwrap();
    }

    #[test]
    fn a_script_without_a_header_is_a_failure() {
        for stdout in [b"no header".to_vec(), vec![b'x'; CGI_HEADER_MAX + 1]] {
            let problem = check(&Measure::Varying, &answer(&stdout)).unwrap_err();
            assert!(matches!(problem, Problem::NoHeader(_)), "{problem}");
        }
    }
}
