//! The connection between two daemons: messages with their descriptors, each whole.
//!
//! A message is eight bytes, its length and how many descriptors come with it (both big-endian), and then JSON. Only
//! the predecessor sends descriptors.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time;

use crate::sys::descriptors;

use super::wire::{MESSAGE_BYTES_MAX, Message};

/// Length and number of descriptors.
const HEADER_BYTES: usize = 8;

/// How much is received at a time.
const RECEIVE_BYTES: usize = 64 << 10;

/// How long the other side may leave what it is sent untaken.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait while more descriptors are on their way than the system allows.
const TOO_MANY_PAUSE: Duration = Duration::from_millis(5);

/// One end of it.
pub(super) struct Line {
    stream: UnixStream,
    /// Bytes of messages that are not whole yet.
    received: Vec<u8>,
    /// Those that came with them.
    descriptors: VecDeque<OwnedFd>,
}

/// A message, with what came along.
pub(super) type Said = (Message, Option<OwnedFd>);

impl Line {
    /// To be called on the runtime.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            descriptors: VecDeque::new(),
        }
    }

    /// Says it, with a descriptor. Not to be given up half-way, or the line says nothing more that can be understood.
    ///
    /// # Errors
    /// If the other side is gone, or takes nothing.
    pub(super) async fn say(
        &self,
        message: &Message,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let json = serde_json::to_vec(message)?;
        let length = u32::try_from(json.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(HEADER_BYTES + json.len());
        frame.extend(length.to_be_bytes());
        frame.extend(u32::from(descriptor.is_some()).to_be_bytes());
        frame.extend(json);
        let sent = time::timeout(SEND_TIMEOUT, self.send(&frame, descriptor)).await;
        sent.unwrap_or_else(|_| {
            let error = format!("nothing was taken within {} s", SEND_TIMEOUT.as_secs());
            Err(io::Error::new(ErrorKind::TimedOut, error))
        })
    }

    async fn send(
        &self,
        mut frame: &[u8],
        mut descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        while !frame.is_empty() {
            let send = || {
                let sent = descriptors::send(self.stream.as_fd(), frame, descriptor);
                sent.map_err(io::Error::from)
            };
            match self.stream.async_io(Interest::WRITABLE, send).await {
                // It has gone with the first byte.
                Ok(sent) => (frame, descriptor) = (&frame[sent..], None),
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                    time::sleep(TOO_MANY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next message; `None` at the end. Nothing is lost if it is given up, and called again.
    ///
    /// # Errors
    /// If what comes is not understood, or the connection breaks.
    pub(super) async fn next(&mut self) -> io::Result<Option<Said>> {
        loop {
            if let Some(said) = self.take_whole()? {
                return Ok(Some(said));
            }
            let (stream, descriptors) = (&self.stream, &mut self.descriptors);
            let mut buffer = vec![0; RECEIVE_BYTES];
            let receive = || descriptors::receive(stream.as_fd(), &mut buffer, descriptors);
            match stream.async_io(Interest::READABLE, receive).await? {
                0 if self.received.is_empty() => return Ok(None),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                received => self.received.extend(&buffer[..received]),
            }
        }
    }

    /// The first message, once all of it is there.
    fn take_whole(&mut self) -> io::Result<Option<Said>> {
        let Some((header, rest)) = self.received.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, d0, d1, d2, d3] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let count = u32::from_be_bytes([d0, d1, d2, d3]) as usize;
        if length > MESSAGE_BYTES_MAX || count > 1 {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                format!("a message of {length} bytes with {count} descriptors"),
            ));
        }
        let Some(json) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(json)?;
        self.received.drain(..HEADER_BYTES + length);
        let descriptor = match count {
            0 => None,
            _ => Some(self.descriptors.pop_front().ok_or_else(|| {
                io::Error::new(ErrorKind::InvalidData, "a descriptor did not arrive")
            })?),
        };
        Ok(Some((message, descriptor)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream as Blocking;

    use super::*;

    fn pair() -> (Line, Line) {
        let (one, other) = UnixStream::pair().unwrap();
        (Line::new(one), Line::new(other))
    }

    fn refused(line: String) -> Message {
        Message::Refused { line }
    }

    #[tokio::test]
    async fn messages_arrive_whole_and_each_with_its_descriptor() {
        let (ours, mut theirs) = pair();
        let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let long = refused("x".repeat(3 << 20));
        let says = async {
            ours.say(&Message::Offered, None).await.unwrap();
            ours.say(&long, Some(file.as_fd())).await.unwrap();
            ours.say(&Message::Yours, None).await.unwrap();
            ours.say(&Message::Serving, Some(other.as_fd()))
                .await
                .unwrap();
            drop(ours);
        };
        let hears = async {
            let mut heard = Vec::new();
            while let Some((message, descriptor)) = theirs.next().await.unwrap() {
                heard.push((message, descriptor.is_some()));
            }
            heard
        };
        let ((), heard) = tokio::join!(says, hears);
        let expected = [
            (Message::Offered, false),
            (long.clone(), true),
            (Message::Yours, false),
            (Message::Serving, true),
        ];
        assert_eq!(heard, expected);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_loses_nothing() {
        let (ours, mut theirs) = pair();
        assert!(time::timeout(Duration::ZERO, theirs.next()).await.is_err());
        let whole = refused("x".repeat(1 << 20));
        let says = ours.say(&whole, None);
        tokio::pin!(says);
        let (mut heard, mut is_said) = (None, false);
        while heard.is_none() {
            // Each time a piece more, and never to the end of one wait.
            tokio::select! {
                biased;
                said = theirs.next() => heard = said.unwrap(),
                said = &mut says, if !is_said => {
                    said.unwrap();
                    is_said = true;
                }
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(heard.unwrap().0, whole);
    }

    #[tokio::test]
    async fn nonsense_is_an_error() {
        let frame = |length: u32, descriptors: u32, json: &[u8]| {
            let mut frame = Vec::new();
            frame.extend(length.to_be_bytes());
            frame.extend(descriptors.to_be_bytes());
            frame.extend(json);
            frame
        };
        for bytes in [
            frame(u32::MAX, 0, b""),
            frame(2, 2, b"{}"),
            frame(2, 0, b"{}"),
            frame(18, 1, br#"{"type":"offered"}"#),
            frame(18, 0, br#"{"type":"offe"#),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ] {
            let (mut ours, theirs) = Blocking::pair().unwrap();
            theirs.set_nonblocking(true).unwrap();
            let mut theirs = Line::new(UnixStream::from_std(theirs).unwrap());
            ours.write_all(&bytes).unwrap();
            drop(ours);
            assert!(theirs.next().await.is_err(), "{bytes:?}");
        }
    }
}
