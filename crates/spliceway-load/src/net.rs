//! Streams and listeners of either family, never blocking.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;

use mio::event::{Event, Source};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use spliceway_common::sys::net;

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// What a receive found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The end: the other side sends no more.
    End,
}

impl Stream {
    /// Receives what is there, without waiting.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            let received = match self {
                Self::Tcp(stream) => stream.read(buffer),
                Self::Unix(stream) => stream.read(buffer),
            };
            return match received {
                Ok(0) => Ok(Received::End),
                Ok(len) => Ok(Received::Bytes(len)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(Received::Nothing),
                    io::ErrorKind::Interrupted => continue,
                    _ => Err(error),
                },
            };
        }
    }

    /// As [`Stream::receive`], but what is there stays there.
    pub(crate) fn peek(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            let peeked = match self {
                Self::Tcp(stream) => net::peek(stream.as_fd(), buffer),
                Self::Unix(stream) => net::peek(stream.as_fd(), buffer),
            };
            let error = match peeked {
                Ok(0) => return Ok(Received::End),
                Ok(len) => return Ok(Received::Bytes(len)),
                Err(errno) => io::Error::from(errno),
            };
            match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            }
        }
    }

    /// Sends what fits, without waiting; `None` if nothing does.
    pub(crate) fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        loop {
            let sent = match self {
                Self::Tcp(stream) => stream.write_vectored(pieces),
                Self::Unix(stream) => stream.write_vectored(pieces),
            };
            return match sent {
                Ok(len) => Ok(Some(len)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(None),
                    io::ErrorKind::Interrupted => continue,
                    _ => Err(error),
                },
            };
        }
    }

    /// Tells the other side that nothing more comes.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }
}

/// What is known of what has arrived on a connection, in this order: an event loop tells changes
/// only, so that they have to be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Arrival {
    /// The last receive took everything.
    Drained,
    /// There may be bytes.
    Unread,
    /// The other side has ended its direction: there are bytes or the end.
    Ended,
    /// Both directions are over.
    Gone,
}

impl Arrival {
    /// What an event says.
    pub(crate) fn of(event: &Event) -> Self {
        match (
            event.is_readable(),
            event.is_read_closed(),
            event.is_write_closed(),
        ) {
            (_, true, true) => Self::Gone,
            (_, true, false) => Self::Ended,
            (true, false, _) => Self::Unread,
            // A receive tells what an error was.
            (false, false, _) if event.is_error() => Self::Unread,
            (false, false, _) => Self::Drained,
        }
    }

    /// What is known after a receive of `len` bytes into room for `room`: one that comes up short
    /// has taken everything (epoll(7)), so that no further call is needed to find nothing.
    pub(crate) fn after(self, len: usize, room: usize) -> Self {
        match self {
            Self::Unread if len < room => Self::Drained,
            unchanged => unchanged,
        }
    }
}

/// What an event loop watches a connection for. Each costs a system call to change, so it only
/// grows: who never had to wait for room is never told of room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Nothing yet.
    Nothing,
    /// Bytes, and the end.
    Readable,
    /// Room to send as well.
    Both,
}

impl Watch {
    /// Has the loop watch `stream` at least for `wanted`.
    pub(crate) fn extend(
        &mut self,
        wanted: Self,
        registry: &Registry,
        stream: &mut Stream,
        token: Token,
    ) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match (*self, wanted) {
            (_, Self::Nothing)
            | (Self::Readable | Self::Both, Self::Readable)
            | (Self::Both, Self::Both) => return Ok(()),
            (Self::Nothing, Self::Readable) => {
                registry.register(stream.source(), token, Interest::READABLE)?;
            }
            (Self::Nothing, Self::Both) => registry.register(stream.source(), token, both)?,
            (Self::Readable, Self::Both) => registry.reregister(stream.source(), token, both)?,
        }
        *self = wanted;
        Ok(())
    }
}
