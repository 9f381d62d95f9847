//! One side of the connection between two daemons, as a test speaks it.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::proxy::connect;
use crate::common::sys;

/// How a successor begins.
const REQUEST: &str = "POST /take-over HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\
    Upgrade: spliceway-take-over\r\nContent-Length: 0\r\n\r\n";

/// What it is answered.
const CONSENT: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
    upgrade: spliceway-take-over\r\n\r\n";

pub(crate) struct Line(UnixStream);

impl Line {
    /// That of a successor to the daemon at this control socket, before its first message.
    #[track_caller]
    pub(crate) fn to(control: &Path) -> Self {
        let line = Self(connect(control).expect("it listens there"));
        (&line.0).write_all(REQUEST.as_bytes()).expect("it is open");
        let head = line.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        line
    }

    /// That of a predecessor to whoever has connected.
    #[track_caller]
    pub(crate) fn of(stream: UnixStream) -> Self {
        let line = Self(stream);
        assert_eq!(line.head(), REQUEST);
        (&line.0).write_all(CONSENT.as_bytes()).expect("it is open");
        line
    }

    fn head(&self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            (&self.0).read_exact(&mut byte).expect("a whole head");
            head.extend(byte);
        }
        String::from_utf8(head).expect("it is text")
    }

    #[track_caller]
    pub(crate) fn say(&self, message: &Value) {
        let frame = frame(message, 0);
        (&self.0)
            .write_all(&frame)
            .expect("the other side is there");
    }

    /// The same with a descriptor.
    #[track_caller]
    pub(crate) fn say_with(&self, message: &Value, descriptor: &impl AsRawFd) {
        let frame = frame(message, 1);
        sys::send_with(&self.0, &frame, descriptor).expect("the other side is there");
    }

    /// The next message; `None` at the end.
    #[track_caller]
    pub(crate) fn hear(&self) -> Option<(Value, Option<OwnedFd>)> {
        let mut header = [0; 8];
        let (mut received, mut descriptor) = (0, None);
        while received < header.len() {
            let (count, came) = match sys::receive_with(&self.0, &mut header[received..]) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                heard => heard.expect("the other side says something, or ends"),
            };
            if count == 0 {
                assert_eq!(received, 0, "an end within a message");
                return None;
            }
            received += count;
            descriptor = descriptor.or(came);
        }
        let [length, count] = [&header[..4], &header[4..]]
            .map(|number| u32::from_be_bytes(number.try_into().expect("four bytes")));
        assert_eq!(count, u32::from(descriptor.is_some()), "it has come along");
        let mut message = vec![0; length as usize];
        (&self.0).read_exact(&mut message).expect("a whole message");
        let message = serde_json::from_slice(&message).expect("JSON");
        Some((message, descriptor))
    }

    /// What comes up to a message of this type, which is the last one.
    #[track_caller]
    pub(crate) fn hear_until(&self, last: &str) -> Vec<(Value, Option<OwnedFd>)> {
        let mut heard = Vec::new();
        loop {
            let said = self.hear();
            let said = said.unwrap_or_else(|| panic!("it ended before {last:?}: {heard:?}"));
            let is_last = said.0["type"] == last;
            heard.push(said);
            if is_last {
                return heard;
            }
        }
    }

    /// Why the other side does not go on; then it ends the connection.
    #[track_caller]
    pub(crate) fn refusal(&self) -> String {
        let mut heard = self.hear_until("refused");
        let refused = heard.pop().expect("it is the last one").0;
        assert!(self.hear().is_none());
        refused["line"].as_str().expect("a line").to_owned()
    }

    // --- a successor --------------------------------------------------------------------------

    /// Says what this successor is, and hears all that it is offered.
    #[track_caller]
    pub(crate) fn be_offered(&self) -> Vec<(Value, Option<OwnedFd>)> {
        self.say(&hello());
        self.hear_until("offered")
    }

    /// Takes all sockets, which are this successor's then, and no clients.
    #[track_caller]
    pub(crate) fn take(&self, offered: &[(Value, Option<OwnedFd>)]) {
        let numbers = offered.iter().filter(|(said, _)| said["type"] == "socket");
        let numbers: Vec<_> = numbers.map(|(said, _)| said["number"].clone()).collect();
        self.say(&json!({"type": "ready", "takes": numbers, "clients": []}));
        self.hear_until("yours");
    }
}

/// That of a successor of this version.
pub(crate) fn hello() -> Value {
    json!({"type": "hello", "schema": 1, "version": "0.1.0", "pid": std::process::id()})
}

fn frame(message: &Value, descriptors: u32) -> Vec<u8> {
    let json = message.to_string();
    let length = u32::try_from(json.len()).expect("it is short");
    let mut frame = Vec::new();
    frame.extend(length.to_be_bytes());
    frame.extend(descriptors.to_be_bytes());
    frame.extend(json.into_bytes());
    frame
}
