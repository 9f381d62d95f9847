//! What becomes of calls.

use std::rc::Rc;

use crate::driver::buffers::BufferPool;
use crate::driver::{BUFFER_BYTES, Done, LARGE_BYTES, Sock};
use crate::sys::Errno;

use super::super::ops::Into;
use super::super::world::{InFlight, World, WriteOp};
use super::FdKind;

impl World {
    pub(super) fn connect_outcome(&mut self, sock: Sock) -> Option<Result<(), Errno>> {
        self.answer(sock, 2);
        let is_answered = match &self.sockets.get(sock).write {
            Some(InFlight {
                op: WriteOp::Connect { .. },
                finished,
                ..
            }) => *finished,
            _ => return Some(Ok(())),
        };
        if !is_answered {
            return None;
        }
        self.moved();
        if self.peer_of(sock).is_some() {
            return Some(Ok(()));
        }
        match self.advance_write(sock).expect("it is answered") {
            // Until something is done with it, the worker may not have heard.
            Done::Connected => Some(Ok(())),
            Done::Failed(errno) => {
                self.sockets.get(sock).write = None;
                Some(Err(errno))
            }
            done => unreachable!("a connect ends with {done:?}"),
        }
    }

    /// The worker does something with it, so it has heard that it is connected.
    pub(super) fn heard(&mut self, sock: Sock) {
        let write = &mut self.sockets.get(sock).write;
        write.take_if(|write| matches!(write.op, WriteOp::Connect { .. }));
    }

    /// An answer to a connect has come, maybe.
    pub(super) fn answer(&mut self, sock: Sock, one_in: u64) {
        let now = self.now;
        let Some(InFlight {
            op: WriteOp::Connect { answer_at, .. },
            finished,
            ..
        }) = &mut self.sockets.get(sock).write
        else {
            return;
        };
        if !*finished && answer_at.is_some_and(|at| at <= now) {
            *finished = self.dice.one_in(one_in);
        }
    }

    /// How much can be received at once, before urgent data and behind it. `None`: a splice finds nothing.
    pub(super) fn up_to_mark(&mut self, sock: Sock, most: usize) -> Option<usize> {
        let peer = self.fd_peer(sock);
        let (taken, waiting) = (self.peers[peer].taken, self.peers[peer].waiting());
        match self.fd(sock).mark {
            Some(mark) if mark > taken => {
                let before = usize::try_from(mark - taken).expect("a script is short");
                Some(most.min(before))
            }
            Some(_) if waiting > 0 => None,
            Some(_) | None => Some(most),
        }
    }

    /// Receives what is there, and tells whether it stopped before the end of that.
    pub(super) fn recv(
        &mut self,
        sock: Sock,
        bytes: &mut Vec<u8>,
        most: usize,
    ) -> Result<(usize, bool), Errno> {
        self.note_service(sock);
        // Of other calls it would be a failure.
        if [BUFFER_BYTES, LARGE_BYTES].contains(&most) && self.fault(self.scenario.faults.failure) {
            return Err(Errno(libc::EINTR));
        }
        let peer = self.fd_peer(sock);
        let fd = self.fd(sock);
        if !fd.left.is_empty() {
            let count = fd.left.len().min(most);
            bytes.extend(fd.left.drain(..count));
            return Ok((count, false));
        }
        let is_unix = fd.kind == FdKind::Unix;
        let mut max = match self.up_to_mark(sock, most) {
            Some(max) => max,
            None => {
                self.fd(sock).mark = None;
                most
            }
        };
        let stops = is_unix && self.peers[peer].waiting() > 0 && self.dice.one_in(20);
        if stops {
            max = self.count_below(max);
        }
        let received = self.advance_recv(peer, Into::Whole(max));
        self.note(|| format!("{sock:?} recv {max} {received:?}"));
        match received {
            None => Err(Errno(libc::EAGAIN)),
            Some(done) => {
                self.moved();
                match done {
                    Done::Received(received) => {
                        bytes.extend_from_slice(&received);
                        Ok((received.len(), stops))
                    }
                    Done::Eof => Ok((0, false)),
                    Done::Failed(errno) => Err(errno),
                    done => unreachable!("a receive ends with {done:?}"),
                }
            }
        }
    }

    /// From 1 to `max`.
    pub(super) fn count_below(&mut self, max: usize) -> usize {
        usize::try_from(self.dice.between(1, max as u64)).expect("no more than before")
    }

    pub(super) fn send(&mut self, sock: Sock, bytes: &[u8]) -> Result<usize, Errno> {
        self.note_service(sock);
        let peer = self.fd_peer(sock);
        let copies = Rc::clone(&self.readiness().copies);
        let socket = self.sockets.get(sock);
        // One that goes on goes on with what was left.
        let goes_on = match &socket.write {
            Some(InFlight {
                op: WriteOp::Send { buf, sent },
                ..
            }) => buf[*sent..] == *bytes,
            _ => false,
        };
        if !goes_on {
            let mut buf = BufferPool::lend(&copies).expect("there is no limit");
            buf.replace(bytes);
            socket.write = InFlight::new(WriteOp::Send { buf, sent: 0 });
        }
        let done = self.advance_send(sock, peer);
        self.note(|| format!("{sock:?} send {} {done:?}", bytes.len()));
        let left = match &self.sockets.get(sock).write {
            Some(InFlight {
                op: WriteOp::Send { buf, sent },
                ..
            }) => buf.len() - sent,
            _ => unreachable!("a send is in flight"),
        };
        if done.is_some() {
            self.sockets.get(sock).write = None;
        }
        match done {
            Some(Done::Failed(errno)) => {
                self.moved();
                Err(errno)
            }
            _ if left == bytes.len() => {
                self.fd(sock).lacks_room = true;
                Err(Errno(libc::EAGAIN))
            }
            _ => {
                self.moved();
                Ok(bytes.len() - left)
            }
        }
    }
}
