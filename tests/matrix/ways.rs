//! The ways on which a request reaches a server: through a web server, by records of FastCGI, and by the
//! program cgi-fcgi.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use spliceway::fastcgi::{Kind, push_record, push_stream, push_stream_end};

use crate::ask::{self, Ask, Body, Failure, Outcome, SILENCE_MAX};
use crate::common::fastcgi::{ONE, Request, read_record};
use crate::common::programs::program;

/// The path of the program in each web server's document root.
pub(crate) const SCRIPT_NAME: &str = "/x.php";

/// The content of a STDIN record of a body whose length is not announced.
const PIECE: usize = 16_000;

/// Where FastCGI is spoken: the server itself, or the socket of a proxy in front of it.
#[derive(Clone)]
pub(crate) enum Target {
    Server((String, u16)),
    Proxy(PathBuf),
}

/// How requests are made.
pub(crate) enum Way {
    Http {
        address: (String, u16),
        /// Where the web server passes an upload on while it comes, if that is another place.
        streamed: Option<&'static str>,
    },
    Records {
        target: Target,
        script: PathBuf,
        /// Connections that were kept.
        kept: Mutex<Vec<UnixStream>>,
    },
    CgiFcgi {
        target: Target,
        script: PathBuf,
    },
}

impl Way {
    pub(crate) fn records(target: Target, script: PathBuf) -> Self {
        Self::Records {
            target,
            script,
            kept: Mutex::default(),
        }
    }

    pub(crate) fn ask(&self, ask: &Ask) -> Outcome {
        self.ask_watching(ask, &mut |_| {})
    }

    /// `on_body` gets the body as far as it has come, each time more has.
    pub(crate) fn ask_watching(&self, ask: &Ask, on_body: &mut dyn FnMut(&[u8])) -> Outcome {
        match self {
            Self::Http { address, streamed } => {
                let path = match (&ask.body, streamed) {
                    (Body::Chunked(_), Some(prefix)) => format!("{prefix}{SCRIPT_NAME}"),
                    _ => SCRIPT_NAME.to_owned(),
                };
                ask::over_http(address, &path, ask, on_body)
            }
            Self::Records {
                target,
                script,
                kept,
            } => over_records(target, script, kept, ask, on_body),
            Self::CgiFcgi { target, script } => over_cgi_fcgi(target, script, ask, on_body),
        }
    }
}

/// What a web server says of a request.
fn parameters(ask: &Ask, script: &Path) -> Vec<(&'static str, String)> {
    let mut parameters = vec![
        ("GATEWAY_INTERFACE", "CGI/1.1".to_owned()),
        ("SERVER_PROTOCOL", "HTTP/1.1".to_owned()),
        ("SERVER_NAME", "localhost".to_owned()),
        ("SERVER_PORT", "80".to_owned()),
        ("REMOTE_ADDR", "127.0.0.1".to_owned()),
        ("HTTP_HOST", "localhost".to_owned()),
        ("REQUEST_METHOD", ask.method.to_owned()),
        ("REQUEST_URI", format!("{SCRIPT_NAME}?{}", ask.query)),
        ("SCRIPT_NAME", SCRIPT_NAME.to_owned()),
        ("SCRIPT_FILENAME", script.display().to_string()),
        ("QUERY_STRING", ask.query.clone()),
        // fcgiwrap passes an answer on while it comes only when it is told to.
        ("NO_BUFFERING", "1".to_owned()),
    ];
    if let Body::Announced(body) = &ask.body {
        parameters.push(("CONTENT_LENGTH", body.len().to_string()));
        parameters.push(("CONTENT_TYPE", "application/octet-stream".to_owned()));
    }
    parameters
}

// --- records ------------------------------------------------------------------------------------

/// Over a connection that is kept where there is a proxy, and over one of its own where there is none: an
/// idle connection would take one of the server's workers from other requests.
fn over_records(
    target: &Target,
    script: &Path,
    kept: &Mutex<Vec<UnixStream>>,
    ask: &Ask,
    on_body: &mut dyn FnMut(&[u8]),
) -> Outcome {
    match target {
        Target::Server((host, port)) => {
            let stream = TcpStream::connect((&**host, *port))?;
            stream.set_read_timeout(Some(SILENCE_MAX))?;
            stream.set_write_timeout(Some(SILENCE_MAX))?;
            exchange(&stream, false, script, ask, on_body)
        }
        Target::Proxy(path) => {
            let stack = || kept.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = stack().pop();
            let stream = match idle {
                Some(stream) => stream,
                None => UnixStream::connect(path)?,
            };
            stream.set_read_timeout(Some(SILENCE_MAX))?;
            stream.set_write_timeout(Some(SILENCE_MAX))?;
            let outcome = exchange(&stream, true, script, ask, on_body);
            if outcome.is_ok() {
                stack().push(stream);
            }
            outcome
        }
    }
}

fn exchange<S: Sync>(
    stream: &S,
    keep_conn: bool,
    script: &Path,
    ask: &Ask,
    on_body: &mut dyn FnMut(&[u8]),
) -> Outcome
where
    for<'a> &'a S: Read + Write,
{
    let request = Request {
        keep_conn,
        params: Vec::new(),
        ..Request::get("")
    };
    let add = |request: Request, (name, value): (&str, String)| request.param(name, &value);
    let request = parameters(ask, script).into_iter().fold(request, add);
    let send = move || -> io::Result<()> {
        let mut to = stream;
        let mut bytes = request.head();
        match &ask.body {
            Body::Absent => {}
            Body::Announced(body) => push_stream(&mut bytes, Kind::Stdin, ONE, body),
            Body::Chunked(body) => {
                for piece in body.chunks(PIECE) {
                    to.write_all(&bytes)?;
                    bytes.clear();
                    push_record(&mut bytes, Kind::Stdin, ONE, piece);
                }
            }
        }
        push_stream_end(&mut bytes, Kind::Stdin, ONE);
        to.write_all(&bytes)
    };
    thread::scope(|scope| {
        // What does not go out shows in the answer.
        scope.spawn(send);
        receive(&mut &*stream, ask, on_body)
    })
}

fn receive(from: &mut impl Read, ask: &Ask, on_body: &mut dyn FnMut(&[u8])) -> Outcome {
    let mut stdout = Vec::new();
    loop {
        let record = read_record(from).map_err(|error| match error.kind() {
            // What is no record says that the answer is broken.
            io::ErrorKind::Other => Failure("cut".to_owned()),
            _ => error.into(),
        })?;
        let Some(record) = record else {
            return Err(Failure("cut".to_owned()));
        };
        match record.kind {
            Kind::Stdout => {
                stdout.extend(record.content);
                if let Some((_, body)) = ask::split_cgi(&stdout) {
                    on_body(body);
                }
            }
            Kind::Stderr => {}
            Kind::EndRequest => break,
            kind => return Err(Failure(format!("{kind:?} in an answer"))),
        }
    }
    let mut reply = ask::parse_cgi(&stdout)?;
    if ask.method == "HEAD" {
        // A web server leaves it out.
        reply.body.clear();
    }
    Ok(reply)
}

// --- cgi-fcgi -----------------------------------------------------------------------------------

fn over_cgi_fcgi(
    target: &Target,
    script: &Path,
    ask: &Ask,
    on_body: &mut dyn FnMut(&[u8]),
) -> Outcome {
    let address = match target {
        Target::Server((host, port)) => format!("{host}:{port}"),
        Target::Proxy(path) => path.display().to_string(),
    };
    let mut command = Command::new(program(&["/usr/bin/timeout"]));
    command
        .arg(SILENCE_MAX.as_secs().to_string())
        .arg(program(&["/usr/bin/cgi-fcgi"]))
        .args(["-bind", "-connect", &address])
        .env_clear()
        .envs(parameters(ask, script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else {
        unreachable!("both were asked for");
    };
    let bytes = thread::scope(|scope| -> io::Result<Vec<u8>> {
        scope.spawn(move || match &ask.body {
            Body::Absent => Ok(()),
            Body::Announced(body) | Body::Chunked(body) => stdin.write_all(body),
        });
        let (mut bytes, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            let count = stdout.read(&mut piece)?;
            if count == 0 {
                return Ok(bytes);
            }
            bytes.extend(&piece[..count]);
            if let Some((_, body)) = ask::split_cgi(&bytes) {
                on_body(body);
            }
        }
    })?;
    let status = child.wait()?;
    if !status.success() {
        return Err(Failure(format!("cgi-fcgi: {status}")));
    }
    let mut reply = ask::parse_cgi(&bytes)?;
    if ask.method == "HEAD" {
        reply.body.clear();
    }
    Ok(reply)
}
