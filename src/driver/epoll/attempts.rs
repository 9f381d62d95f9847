//! Trying ops: each until it ends, or until the kernel has nothing for it.

use std::mem;

use crate::driver::buffers::Buf;
use crate::driver::kernel::{EpollKernel, KernelSocket as _};
use crate::driver::{BUFFER_BYTES, Completion, Done, Driver as _, Lane, Sock};
use crate::sys::Errno;

use super::Epoll;
use super::socket::{Read, Write};

impl<K: EpollKernel> Epoll<K> {
    pub(super) fn attempt_untried(&mut self) {
        for (sock, lane) in mem::take(&mut self.untried) {
            self.attempt(sock, lane);
        }
    }

    /// Tries an op whose socket may be ready. Those of closed sockets are passed over.
    pub(super) fn attempt(&mut self, sock: Sock, lane: Lane) {
        if !self.sockets.is_open(sock) {
            return;
        }
        let done = match lane {
            Lane::Read => self.attempt_read(sock),
            Lane::Write => self.attempt_write(sock),
        };
        let done = done.or_else(|| self.wait_for(sock, lane).err());
        if let Some(done) = done {
            self.done.push_back(Completion { sock, lane, done });
        }
    }

    /// An op that found nothing: epoll will tell, or else the op has failed.
    pub(super) fn wait_for(&mut self, sock: Sock, lane: Lane) -> Result<(), Done> {
        self.register(sock).map_err(|errno| {
            let socket = self.sockets.get(sock);
            match lane {
                Lane::Read => socket.read = Read::Idle,
                Lane::Write => socket.write = Write::Idle,
            }
            Done::Failed(errno)
        })
    }

    fn attempt_read(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        match mem::replace(&mut socket.read, Read::Idle) {
            Read::Idle => None,
            Read::Accept => {
                let done = match self.accept_now(sock) {
                    Ok(Some(client)) => Done::Accepted(client),
                    Ok(None) => {
                        self.sockets.get(sock).read = Read::Accept;
                        return None;
                    }
                    Err(errno) => Done::Failed(errno),
                };
                self.untended.push(sock);
                Some(done)
            }
            Read::Recv => self.attempt_recv(sock),
            Read::Peek => self.attempt_peek(sock),
            // Asked of the kernel as well: behind urgent data, splice finds nothing, recv does, and
            // no edge comes.
            Read::Readable if socket.readable || socket.descriptor.fd.is_readable() => {
                Some(Done::Ready)
            }
            Read::Hangup if socket.descriptor.fd.peer_is_gone() => {
                Some(socket.descriptor.hung_up())
            }
            Read::Hangup => {
                socket.read = Read::Hangup;
                None
            }
            Read::Readable => {
                socket.read = Read::Readable;
                None
            }
        }
    }

    fn attempt_recv(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        if !socket.readable {
            socket.read = Read::Recv;
            return None;
        }
        let Some(mut bytes) = self.buffers.borrow_mut().take() else {
            socket.read = Read::Recv;
            self.starved.push(sock);
            return None;
        };
        let received = socket.receive(&mut bytes, BUFFER_BYTES);
        let buf = Buf::new(bytes, &self.buffers);
        self.received(sock, received, buf, Read::Recv)
    }

    fn attempt_peek(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        if socket.readable && socket.descriptor.has_only_peeked() {
            // An end is told of, and what was in front of it stays.
            if socket.special && socket.descriptor.fd.has_ended_in_order() {
                return Some(Done::Eof);
            }
            socket.readable = socket.special;
        }
        if !socket.readable {
            socket.read = Read::Peek;
            return None;
        }
        let Some(mut bytes) = self.buffers.borrow_mut().take() else {
            socket.read = Read::Peek;
            self.starved.push(sock);
            return None;
        };
        let received = socket.receive_and_leave(&mut bytes);
        let buf = Buf::new(bytes, &self.buffers);
        self.received(sock, received, buf, Read::Peek)
    }

    /// What became of a receive, which goes on as `again` if it found nothing.
    fn received(
        &mut self,
        sock: Sock,
        received: Result<usize, Errno>,
        buf: Buf,
        again: Read,
    ) -> Option<Done> {
        match received {
            Ok(0) => Some(Done::Eof),
            Ok(_) => Some(Done::Received(buf)),
            Err(Errno(libc::EAGAIN)) => {
                self.sockets.get(sock).read = again;
                None
            }
            Err(Errno(libc::EINTR)) => {
                self.sockets.get(sock).read = again;
                self.untried.push((sock, Lane::Read));
                None
            }
            Err(errno) => Some(Done::Failed(errno)),
        }
    }

    fn attempt_write(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        match mem::replace(&mut socket.write, Write::Idle) {
            Write::Idle => None,
            Write::Connect(address) => match socket.descriptor.fd.connect(address) {
                Ok(()) => Some(Done::Connected),
                Err(Errno(libc::EINPROGRESS | libc::EINTR)) => self.attempt_connecting(sock),
                Err(errno) => Some(Done::Failed(errno)),
            },
            Write::Connecting => self.attempt_connecting(sock),
            Write::Send { buf, sent } => self.attempt_send(sock, buf, sent),
            Write::Writable if socket.writable => Some(Done::Ready),
            Write::Writable => {
                socket.write = Write::Writable;
                None
            }
        }
    }

    fn attempt_connecting(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        match socket.descriptor.fd.connect_outcome() {
            Some(Ok(())) => Some(Done::Connected),
            Some(Err(errno)) => Some(Done::Failed(errno)),
            // An edge from before the connect is no answer to it: an unconnected socket reports HUP
            // and OUT.
            None => {
                socket.writable = false;
                socket.write = Write::Connecting;
                None
            }
        }
    }

    fn attempt_send(&mut self, sock: Sock, buf: Buf, mut sent: usize) -> Option<Done> {
        let socket = self.sockets.get(sock);
        loop {
            match socket.descriptor.fd.send(&buf[sent..]) {
                Ok(n) => {
                    sent += n;
                    socket.descriptor.sent();
                }
                Err(Errno(libc::EINTR)) => continue,
                Err(Errno(libc::EAGAIN)) => {
                    socket.writable = false;
                    socket.write = Write::Send { buf, sent };
                    return None;
                }
                Err(errno) => return Some(Done::Failed(errno)),
            }
            if sent == buf.len() {
                return Some(Done::Sent);
            }
        }
    }
}
