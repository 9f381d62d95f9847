//! Taking what the kernel has to say, and what it means for the lane that it is about.

use std::mem;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;

use crate::driver::buffers::Buf;
use crate::driver::{Completion, Done, Lane, Sock};
use crate::sys::{Errno, net};

use super::lanes::{Outgoing, Read, Socket, Waiting, Write};
use super::token::{Kind, Reaped, Token};
use super::{Uring, watch};

impl Uring {
    /// Takes what the kernel has posted, before any of it is acted on.
    pub(super) fn reap(&mut self) -> Result<(), Errno> {
        for entry in self.ring.completions() {
            let reaped = Reaped::from(&entry);
            match reaped.token.kind() {
                Kind::Op => self.reaped.push_back(reaped),
                // What became of the op that it was to cancel, that op's own completion tells.
                Kind::Cancel => {}
                Kind::Waker => self.waker_armed = false,
                Kind::Watch => self.watch.armed = false,
            }
        }
        self.ring.has_all_completions()?;
        if !self.waker_armed {
            self.waker.0.clear();
        }
        if self.watch.in_use && !self.watch.armed {
            self.reap_watch()?;
        }
        Ok(())
    }

    /// Whether an op has ended and its completion was not given yet.
    pub(super) fn is_reaped(&self, sock: Sock, lane: Lane) -> bool {
        let token = Token::op(sock, lane);
        self.reaped.iter().any(|reaped| reaped.token == token)
    }

    /// Turns epoll's events into completions like the ring's.
    fn reap_watch(&mut self) -> Result<(), Errno> {
        for seen in self.watch.look()? {
            let Some((sock, socket)) = self.sockets.of_event(seen.token) else {
                continue;
            };
            let awaited = matches!(
                socket.write,
                Write::SendWait(_, Waiting::Epoll) | Write::Writable(Waiting::Epoll)
            );
            let hangup_awaited = matches!(socket.read, Read::Hangup);
            let peek_awaited = matches!(socket.read, Read::Peek);
            socket.ended |= seen.ended;
            if seen.writable && awaited {
                self.finish(sock, Lane::Write, libc::POLLOUT.into());
            } else if seen.writable {
                socket.writable_edge = true;
            }
            let is_told = (seen.hung_up && hangup_awaited) || (seen.readable && peek_awaited);
            if is_told && !self.is_reaped(sock, Lane::Read) {
                self.finish(sock, Lane::Read, libc::POLLIN.into());
            }
        }
        Ok(())
    }

    /// Gives a completion to its lane. `None`: nothing that a session has to hear of.
    pub(super) fn complete(&mut self, reaped: Reaped) -> Option<Completion> {
        self.in_flight -= 1;
        let (sock, socket) = self.sockets.at(reaped.token.slot());
        let lane = reaped.token.lane();
        assert!(
            Token::op(sock, lane) == reaped.token,
            "{sock:?} was reused before it was joined"
        );
        if socket.closing {
            self.join(sock, reaped);
            return None;
        }
        let done = match lane {
            Lane::Read => self.complete_read(sock, reaped),
            Lane::Write => self.complete_write(sock, reaped),
        };
        done.map(|done| Completion { sock, lane, done })
    }

    fn complete_read(&mut self, sock: Sock, reaped: Reaped) -> Option<Done> {
        let socket = self.sockets.get(sock);
        Some(match mem::replace(&mut socket.read, Read::Idle) {
            Read::Accept => match reaped.outcome() {
                Ok(fd) => {
                    // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
                    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                    Done::Accepted(self.insert_accepted(fd, sock))
                }
                Err(errno) => Done::Failed(errno),
            },
            Read::Hangup => match reaped.outcome() {
                Ok(_) => socket.descriptor.hung_up(),
                Err(errno) => Done::Failed(errno),
            },
            Read::Readable => match reaped.outcome() {
                Ok(_) => Done::Ready,
                Err(errno) => Done::Failed(errno),
            },
            Read::Recv => return self.complete_recv(sock, reaped),
            Read::Recalled => self.complete_recalled(sock, reaped),
            Read::Peek => match reaped.outcome() {
                Ok(_) => return self.complete_peek(sock),
                Err(errno) => Done::Failed(errno),
            },
            Read::Idle | Read::Starved => unreachable!("no read of {sock:?} is in flight"),
        })
    }

    fn complete_recv(&mut self, sock: Sock, reaped: Reaped) -> Option<Done> {
        let buf = self.take_buffer(reaped);
        let socket = self.sockets.get(sock);
        match (reaped.outcome(), buf) {
            (Ok(0), _) => Some(Done::Eof),
            (Ok(_), Some(buf)) => {
                socket.descriptor.received();
                socket.drained = !cqueue::sock_nonempty(reaped.flags);
                Some(Done::Received(buf))
            }
            (Ok(n), None) => unreachable!("{n} bytes were received into no buffer"),
            (Err(Errno(libc::ENOBUFS)), _) => {
                // Without POLL_FIRST an empty buffer ring answers this before any data is there.
                socket.drained = true;
                socket.read = Read::Starved;
                self.starved.push_back(sock);
                None
            }
            (Err(Errno(libc::EINTR | libc::EAGAIN)), _) => {
                self.submit_recv(sock);
                None
            }
            (Err(errno), _) => Some(Done::Failed(errno)),
        }
    }

    fn complete_recalled(&mut self, sock: Sock, reaped: Reaped) -> Done {
        let buf = self.take_buffer(reaped);
        let socket = self.sockets.get(sock);
        match (reaped.outcome(), buf) {
            (Ok(0), _) => Done::Eof,
            (Ok(_), Some(buf)) => {
                socket.descriptor.received();
                socket.drained = !cqueue::sock_nonempty(reaped.flags);
                Done::Received(buf)
            }
            (Ok(n), None) => unreachable!("{n} bytes were received into no buffer"),
            // It has found nothing, or no room, and would have begun again.
            (Err(Errno(libc::ENOBUFS | libc::EINTR | libc::EAGAIN | libc::ECANCELED)), _) => {
                Done::Failed(Errno(libc::ECANCELED))
            }
            (Err(errno), _) => Done::Failed(errno),
        }
    }

    fn complete_peek(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        if socket.descriptor.has_only_peeked() {
            // An end is told of, and what was in front of it stays.
            if socket.ended && net::has_ended_in_order(&socket.descriptor.fd) {
                return Some(Done::Eof);
            }
            if !socket.ended {
                // What epoll reported is what was copied. It will tell of more.
                socket.read = Read::Peek;
                return None;
            }
        }
        let Some(mut bytes) = self.buffers.borrow_mut().take() else {
            // Rather than without a buffer: the bytes are taken.
            self.end_peeking(sock);
            self.start_recv(sock);
            return None;
        };
        let received = socket.descriptor.receive_and_leave(&mut bytes);
        let buf = Buf::new(bytes, &self.buffers);
        match received {
            Ok(0) => Some(Done::Eof),
            Ok(_) => Some(Done::Received(buf)),
            Err(Errno(libc::EAGAIN)) => {
                socket.read = Read::Peek;
                None
            }
            Err(Errno(libc::EINTR)) => {
                socket.read = Read::Peek;
                self.finish(sock, Lane::Read, libc::POLLIN.into());
                None
            }
            Err(errno) => Some(Done::Failed(errno)),
        }
    }

    fn complete_write(&mut self, sock: Sock, reaped: Reaped) -> Option<Done> {
        let socket = self.sockets.get(sock);
        match mem::replace(&mut socket.write, Write::Idle) {
            Write::Connecting => match reaped.outcome() {
                Ok(0) => Some(Done::Connected),
                Ok(_) => match net::connect_outcome(&socket.descriptor.fd) {
                    Some(Ok(())) => Some(Done::Connected),
                    Some(Err(errno)) => Some(Done::Failed(errno)),
                    None => {
                        socket.write = Write::Connecting;
                        self.submit_poll(sock, Lane::Write);
                        None
                    }
                },
                Err(errno) => Some(Done::Failed(errno)),
            },
            Write::Send(outgoing) => self.complete_send(sock, outgoing, reaped),
            Write::SendWait(outgoing, _) => {
                match self.writability(sock, reaped) {
                    Writability::Now => self.submit_send(sock, outgoing),
                    Writability::Waiting(waiting) => {
                        self.sockets.get(sock).write = Write::SendWait(outgoing, waiting);
                    }
                    Writability::Failed(errno) => return Some(Done::Failed(errno)),
                }
                None
            }
            Write::Writable(_) => match self.writability(sock, reaped) {
                Writability::Now => Some(Done::Ready),
                Writability::Waiting(waiting) => {
                    self.sockets.get(sock).write = Write::Writable(waiting);
                    None
                }
                Writability::Failed(errno) => Some(Done::Failed(errno)),
            },
            Write::Idle => unreachable!("no write of {sock:?} is in flight"),
        }
    }

    fn complete_send(
        &mut self,
        sock: Sock,
        mut outgoing: Outgoing,
        reaped: Reaped,
    ) -> Option<Done> {
        match reaped.outcome() {
            Ok(sent) => {
                self.sockets.get(sock).descriptor.sent();
                outgoing.sent += usize::try_from(sent).unwrap_or(0);
                if outgoing.sent == outgoing.buf.len() {
                    return Some(Done::Sent);
                }
            }
            Err(Errno(libc::EAGAIN | libc::EINTR)) => {}
            Err(errno) => return Some(Done::Failed(errno)),
        }
        let waiting = self.wait_writable(sock);
        self.sockets.get(sock).write = Write::SendWait(outgoing, waiting);
        None
    }

    /// What the end of a wait for writability means.
    fn writability(&mut self, sock: Sock, reaped: Reaped) -> Writability {
        const TELLING: i32 = (libc::POLLOUT | libc::POLLERR | libc::POLLHUP) as i32;
        match reaped.outcome() {
            Ok(events) if events & TELLING != 0 => Writability::Now,
            // Nothing but RDHUP.
            Ok(_) => match self.watch(sock, watch::WRITES) {
                Ok(()) => Writability::Waiting(self.wait_writable(sock)),
                Err(errno) => Writability::Failed(errno),
            },
            Err(errno) => Writability::Failed(errno),
        }
    }

    pub(super) fn take_buffer(&mut self, reaped: Reaped) -> Option<Buf> {
        let id = cqueue::buffer_select(reaped.flags)?;
        let len = usize::try_from(reaped.result).unwrap_or(0);
        Some(self.provided.take(id, len, &self.buffers))
    }

    pub(super) fn insert_accepted(&mut self, fd: OwnedFd, listener: Sock) -> Sock {
        let client = self.sockets.get(listener).descriptor.accepted(fd);
        self.sockets.insert(Socket::new(client))
    }

    /// An op that ends without the kernel.
    pub(super) fn finish(&mut self, sock: Sock, lane: Lane, result: i32) {
        // Counted like the ring's, which `complete` takes it for.
        self.in_flight += 1;
        self.reaped.push_back(Reaped {
            token: Token::op(sock, lane),
            result,
            flags: 0,
        });
    }
}

/// What the end of a wait for writability means.
enum Writability {
    Now,
    Waiting(Waiting),
    Failed(Errno),
}
