//! FastCGI as tests speak it by hand, as a client and as a backend: records one by one.

use super::wait::uninterrupted;
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;

use spliceway::fastcgi::{
    BROKEN_OFF, BeginRequest, EndRequest, HEADER_LEN, Header, Kind, Pairs, ProtocolStatus,
    RequestId, Role, push_pair, push_record, push_stream, push_stream_end,
};

use super::backend::{Backend, Conversation};
use super::client::receive_to_eof;
use super::proxy::Proxy;

/// The request id that nginx and most tests use.
pub(crate) const ONE: RequestId = RequestId::application(NonZeroU16::MIN);

/// A record without its padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) id: RequestId,
    pub(crate) content: Vec<u8>,
}

/// The next record; `None` at an end between two of them.
pub(crate) fn read_record(from: &mut impl Read) -> io::Result<Option<Record>> {
    let mut bytes = [0; HEADER_LEN];
    if uninterrupted(|| from.read(&mut bytes[..1]))? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut bytes[1..])?;
    let header = Header::decode(bytes).map_err(io::Error::other)?;
    let content_len = usize::from(header.content_len);
    let mut content = vec![0; content_len + usize::from(header.padding_len)];
    from.read_exact(&mut content)?;
    content.truncate(content_len);
    Ok(Some(Record {
        kind: header.kind,
        id: header.request_id,
        content,
    }))
}

/// The records in `bytes`, which holds nothing but whole ones.
#[track_caller]
pub(crate) fn records(mut bytes: &[u8]) -> Vec<Record> {
    let mut next = || read_record(&mut bytes).expect("whole records");
    std::iter::from_fn(&mut next).collect()
}

// --- requests -----------------------------------------------------------------------------------

/// A request as a client makes it, with its parts to be sent apart.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    pub(crate) role: Role,
    pub(crate) keep_conn: bool,
    pub(crate) params: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A GET whose client keeps its connection.
    pub(crate) fn get(uri: &str) -> Self {
        let params = [("REQUEST_METHOD", "GET"), ("REQUEST_URI", uri)];
        Self {
            id: ONE,
            role: Role::Responder,
            keep_conn: true,
            params: owned(&params),
            body: Vec::new(),
        }
    }

    /// A POST whose client keeps its connection.
    pub(crate) fn post(uri: &str, body: &[u8]) -> Self {
        let params = [("REQUEST_METHOD", "POST"), ("REQUEST_URI", uri)];
        let mut request = Self {
            params: owned(&params),
            body: body.to_vec(),
            ..Self::get(uri)
        };
        request = request.param("CONTENT_LENGTH", &body.len().to_string());
        request
    }

    pub(crate) fn param(mut self, name: &str, value: &str) -> Self {
        self.params.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The client's connection ends with the answer.
    pub(crate) fn closing(self) -> Self {
        Self {
            keep_conn: false,
            ..self
        }
    }

    pub(crate) fn id(self, id: u16) -> Self {
        let id = NonZeroU16::new(id).expect("requests have ids from 1 on");
        Self {
            id: RequestId::application(id),
            ..self
        }
    }

    /// BEGIN_REQUEST and all of PARAMS.
    pub(crate) fn head(&self) -> Vec<u8> {
        let begin = BeginRequest {
            role: self.role,
            keep_conn: self.keep_conn,
        };
        let mut params = Vec::new();
        for (name, value) in &self.params {
            push_pair(&mut params, name.as_bytes(), value.as_bytes());
        }
        let mut bytes = Vec::new();
        push_record(&mut bytes, Kind::BeginRequest, self.id, &begin.encode());
        push_stream(&mut bytes, Kind::Params, self.id, &params);
        push_stream_end(&mut bytes, Kind::Params, self.id);
        bytes
    }

    /// The body and its end.
    pub(crate) fn stdin(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_stream(&mut bytes, Kind::Stdin, self.id, &self.body);
        push_stream_end(&mut bytes, Kind::Stdin, self.id);
        bytes
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.head(), self.stdin()].concat()
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

/// A record by itself.
pub(crate) fn record(kind: Kind, id: RequestId, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_record(&mut bytes, kind, id, content);
    bytes
}

// --- answers ------------------------------------------------------------------------------------

/// What a page is on the wire: headers and `body`, and the end of the request.
pub(crate) fn page(id: RequestId, body: &[u8]) -> Vec<u8> {
    [stdout(id, body), end(id)].concat()
}

/// The same without the end of the request.
pub(crate) fn stdout(id: RequestId, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let text = [b"Content-Type: text/plain\r\n\r\n", body].concat();
    push_stream(&mut bytes, Kind::Stdout, id, &text);
    bytes
}

/// The end of STDOUT, and END_REQUEST.
pub(crate) fn end(id: RequestId) -> Vec<u8> {
    let body = EndRequest {
        app_status: 0,
        protocol_status: ProtocolStatus::RequestComplete,
    };
    let mut bytes = Vec::new();
    push_stream_end(&mut bytes, Kind::Stdout, id);
    push_record(&mut bytes, Kind::EndRequest, id, &body.encode());
    bytes
}

/// What PHP-FPM says to the fence.
pub(crate) fn fence_answer() -> Vec<u8> {
    let mut pairs = Vec::new();
    push_pair(&mut pairs, b"FCGI_MPXS_CONNS", b"0");
    record(Kind::GetValuesResult, RequestId::MANAGEMENT, &pairs)
}

/// A whole answer, as a client hears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) id: RequestId,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) end: EndRequest,
}

impl Answer {
    /// What stands behind the headers.
    pub(crate) fn body(&self) -> &[u8] {
        let end = self.stdout.windows(4).position(|four| four == b"\r\n\r\n");
        &self.stdout[end.expect("an answer has headers") + 4..]
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.body()).into_owned()
    }

    /// Whether it is an answer of the proxy's own with this status.
    pub(crate) fn says(&self, status: &str) -> bool {
        self.stdout
            .starts_with(format!("Status: {status}").as_bytes())
    }
}

// --- a client -----------------------------------------------------------------------------------

/// A client's connection to the proxy.
pub(crate) struct Client(pub(crate) UnixStream);

impl Client {
    #[track_caller]
    pub(crate) fn connect(proxy: &Proxy) -> Self {
        Self(proxy.connect())
    }

    #[track_caller]
    pub(crate) fn send(&self, bytes: &[u8]) {
        (&self.0).write_all(bytes).expect("everything can be sent");
    }

    /// Nothing more comes from this client.
    pub(crate) fn finish(&self) {
        self.0
            .shutdown(Shutdown::Write)
            .expect("the client is connected");
    }

    /// The next record, or the clean end.
    pub(crate) fn read(&self) -> io::Result<Option<Record>> {
        read_record(&mut &self.0)
    }

    /// Whole records up to the end of the connection, which has to be clean.
    #[track_caller]
    pub(crate) fn records_to_the_end(&self) -> Vec<Record> {
        records(&receive_to_eof(&self.0))
    }

    /// Whole records, then the sign that the answer broke off, then a clean end.
    #[track_caller]
    pub(crate) fn broken_answer(&self) -> Vec<Record> {
        let bytes = receive_to_eof(&self.0);
        let whole = bytes.strip_suffix(&BROKEN_OFF);
        records(whole.unwrap_or_else(|| panic!("without the sign: {} bytes", bytes.len())))
    }

    #[track_caller]
    pub(crate) fn record(&self) -> Record {
        let record = self.read().expect("a record comes whole");
        record.expect("a record comes before the end")
    }

    /// Everything up to END_REQUEST.
    #[track_caller]
    pub(crate) fn answer(&self) -> Answer {
        self.try_answer().expect("the answer comes whole")
    }

    pub(crate) fn try_answer(&self) -> io::Result<Answer> {
        Self::answer_of(&mut &self.0)
    }

    /// The same, of somebody who reads in a way of its own.
    pub(crate) fn answer_of(from: &mut impl Read) -> io::Result<Answer> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            let record = read_record(from)?.ok_or(ErrorKind::UnexpectedEof)?;
            match record.kind {
                Kind::Stdout => stdout.extend(record.content),
                Kind::Stderr => stderr.extend(record.content),
                Kind::EndRequest => {
                    let body = record.content.try_into();
                    let body = body.map_err(|_| io::Error::other("END_REQUEST has 8 bytes"))?;
                    return Ok(Answer {
                        id: record.id,
                        stdout,
                        stderr,
                        end: EndRequest::decode(body),
                    });
                }
                kind => return Err(io::Error::other(format!("{kind:?} in an answer"))),
            }
        }
    }

    /// Makes a request and gets its answer.
    #[track_caller]
    pub(crate) fn ask(&self, request: &Request) -> Answer {
        self.send(&request.bytes());
        self.answer()
    }
}

/// What the requests of [`prove`] ask for.
pub(crate) const PROOF: &str = "/page";

/// Lets a kept connection serve a second request, so that the endpoint is known for one that answers the
/// fence in its turn. Nobody else may use the proxy meanwhile. The backend answers each request with its
/// URI.
#[track_caller]
pub(crate) fn prove(proxy: &Proxy) {
    let client = Client::connect(proxy);
    for _ in 0..2 {
        assert_eq!(client.ask(&Request::get(PROOF)).text(), PROOF);
        // Its connection is at rest then.
        proxy.process().assert_comes_to_rest();
    }
}

// --- a backend ----------------------------------------------------------------------------------

/// A request as a backend gets it.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) id: RequestId,
    pub(crate) keep_conn: bool,
    pub(crate) params: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Heard {
    pub(crate) fn uri(&self) -> &str {
        &self.params["REQUEST_URI"]
    }

    /// A page that says what was asked for.
    pub(crate) fn page(&self) -> Vec<u8> {
        page(self.id, self.uri().as_bytes())
    }
}

impl Conversation {
    pub(crate) fn record(&mut self) -> io::Result<Option<Record>> {
        read_record(self)
    }

    /// BEGIN_REQUEST and PARAMS of the next request; `None` at the end. Fences before it are answered.
    pub(crate) fn head(&mut self) -> io::Result<Option<Heard>> {
        loop {
            let Some(record) = self.record()? else {
                return Ok(None);
            };
            match record.kind {
                Kind::GetValues => self.send(&fence_answer())?,
                Kind::BeginRequest => return self.params(&record).map(Some),
                kind => return Err(io::Error::other(format!("{kind:?} between requests"))),
            }
        }
    }

    fn params(&mut self, begin: &Record) -> io::Result<Heard> {
        let body = begin.content.as_slice().try_into();
        let begin_body = BeginRequest::decode(body.expect("BEGIN_REQUEST has 8 bytes"));
        let mut stream = Vec::new();
        loop {
            let record = self.expect(Kind::Params)?;
            if record.content.is_empty() {
                break;
            }
            stream.extend(record.content);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let pairs = Pairs::new(&stream).map(|pair| pair.expect("whole pairs"));
        Ok(Heard {
            id: begin.id,
            keep_conn: begin_body.keep_conn,
            params: pairs.map(|(n, v)| (text(n), text(v))).collect(),
            body: Vec::new(),
        })
    }

    /// The rest of a request whose head was heard.
    pub(crate) fn body(&mut self, heard: &mut Heard) -> io::Result<()> {
        loop {
            let record = self.expect(Kind::Stdin)?;
            if record.content.is_empty() {
                return Ok(());
            }
            heard.body.extend(record.content);
        }
    }

    fn expect(&mut self, kind: Kind) -> io::Result<Record> {
        let record = self.record()?.ok_or(ErrorKind::UnexpectedEof)?;
        if record.kind == kind {
            return Ok(record);
        }
        Err(io::Error::other(format!("{record:?}, not {kind:?}")))
    }

    /// A whole request; `None` at the end. Fences before it are answered.
    pub(crate) fn request(&mut self) -> io::Result<Option<Heard>> {
        let Some(mut heard) = self.head()? else {
            return Ok(None);
        };
        self.body(&mut heard)?;
        Ok(Some(heard))
    }

    /// The fence, which has to be the next record.
    pub(crate) fn fence(&mut self) -> io::Result<()> {
        self.expect(Kind::GetValues).map(|_| ())
    }

    /// Sends the end of an answer and answers the fence: in one packet if the fence has come with the
    /// request, one after the other if it comes behind the answer.
    pub(crate) fn finish(&mut self, answer: &[u8]) -> io::Result<()> {
        if self.has_bytes()? {
            self.fence()?;
            return self.send(&[answer, &fence_answer()].concat());
        }
        self.send(answer)?;
        self.fence()?;
        self.send(&fence_answer())
    }

    /// Answers requests with `answer`, as PHP-FPM does: one after another, and the connection ends
    /// after one that does not keep it.
    pub(crate) fn respond(&mut self, answer: impl Fn(&Heard) -> Vec<u8>) -> io::Result<()> {
        while let Some(heard) = self.request()? {
            self.send(&answer(&heard))?;
            if !heard.keep_conn {
                break;
            }
        }
        Ok(())
    }
}

/// A backend that answers each request with its URI.
pub(crate) fn responder() -> Backend {
    Backend::scripted(|conversation| conversation.respond(Heard::page))
}

/// What PHP-FPM says of a pool that starts so many processes, of which some run a script.
pub(crate) fn status_page(processes: usize, running: usize) -> String {
    let process = |number: usize| {
        let state = if number < running { "Running" } else { "Idle" };
        format!(
            r#"{{"pid":{},"state":"{state}","start time":1750000001,"start since":7,"requests":3,"request duration":1200,"request method":"GET","request uri":"/a","content length":0,"user":"-","script":"/srv/a.php","last request cpu":0.00,"last request memory":0}}"#,
            4711 + number
        )
    };
    let list: Vec<_> = (0..processes).map(process).collect();
    format!(
        r#"{{"pool":"www","process manager":"static","start time":1750000000,"start since":77,"accepted conn":405,"listen queue":0,"max listen queue":9,"listen queue len":511,"idle processes":{},"active processes":{running},"total processes":{processes},"max active processes":{running},"max children reached":0,"slow requests":1, "processes":[{}]}}"#,
        processes - running,
        list.join(",")
    )
}

/// The same that also tells how its pool fares, as PHP-FPM does.
pub(crate) fn pool_responder(processes: usize) -> Backend {
    Backend::scripted(move |conversation| {
        conversation.respond(|heard| match heard.uri() {
            "/status" => page(heard.id, status_page(processes, 1).as_bytes()),
            _ => heard.page(),
        })
    })
}
