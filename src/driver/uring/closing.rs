//! Closing: a socket when its ops have ended, and the driver when all have.

use std::mem::{self, ManuallyDrop};
use std::os::fd::{FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{opcode, types};

use crate::driver::{Closed, Lane, Sock};

use super::Uring;
use super::lanes::{Read, Waiting, Write};
use super::ring::Wait;
use super::token::{Kind, Reaped, Token};

/// How long dropping a driver waits for the kernel to let go of its memory.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

impl Uring {
    /// Ends the waits that the kernel does not know of, and asks the kernel to end the others.
    pub(super) fn terminate(&mut self, sock: Sock) {
        // Waits of which the kernel does not know end here, unless they have ended already: then they
        // complete, and join, like any other.
        let reaped = &self.reaped;
        let is_reaped = |lane| reaped.iter().any(|r| r.token == Token::op(sock, lane));
        let socket = self.sockets.get(sock);
        let read_in_kernel = match socket.read {
            Read::Accept | Read::Recv | Read::Readable => true,
            Read::Hangup | Read::Peek | Read::Recalled if is_reaped(Lane::Read) => false,
            Read::Recalled => true,
            // A starved one's place in the line is passed over when its turn comes.
            Read::Idle | Read::Starved | Read::Hangup | Read::Peek => {
                socket.read = Read::Idle;
                false
            }
        };
        let write_in_kernel = match socket.write {
            Write::SendWait(_, Waiting::Ring) | Write::Writable(Waiting::Ring) => true,
            Write::Connecting | Write::Send(_) => !is_reaped(Lane::Write),
            Write::SendWait(_, Waiting::Epoll) | Write::Writable(Waiting::Epoll)
                if is_reaped(Lane::Write) =>
            {
                false
            }
            Write::Idle | Write::SendWait(_, Waiting::Epoll) | Write::Writable(Waiting::Epoll) => {
                socket.write = Write::Idle;
                false
            }
        };
        if read_in_kernel {
            self.submit_cancel(sock, Lane::Read);
        }
        if write_in_kernel {
            self.submit_cancel(sock, Lane::Write);
        }
    }

    /// Has a read end early. What it waits for besides the kernel, as buffers, it does not wait for any longer.
    pub(super) fn cancel_read(&mut self, sock: Sock) {
        let is_reaped = self.is_reaped(sock, Lane::Read);
        let socket = self.sockets.get(sock);
        match socket.read {
            Read::Accept | Read::Readable => self.submit_cancel(sock, Lane::Read),
            Read::Recv => {
                socket.read = Read::Recalled;
                self.submit_cancel(sock, Lane::Read);
            }
            // The kernel does not know of these. One that stood in line for a buffer is passed over there.
            Read::Starved => {
                socket.read = Read::Recalled;
                self.finish(sock, Lane::Read, -libc::ECANCELED);
            }
            Read::Peek => self.cancel_peek(sock),
            Read::Hangup if is_reaped => {}
            Read::Hangup => self.finish(sock, Lane::Read, -libc::ECANCELED),
            // It was called off already.
            Read::Recalled => {}
            Read::Idle => unreachable!("no read of {sock:?} is in flight"),
        }
    }

    /// What epoll has told of may be nothing new, and the wait would go on: it is not looked at.
    fn cancel_peek(&mut self, sock: Sock) {
        let token = Token::op(sock, Lane::Read);
        match self.reaped.iter_mut().find(|reaped| reaped.token == token) {
            Some(told) => told.result = -libc::ECANCELED,
            None => self.finish(sock, Lane::Read, -libc::ECANCELED),
        }
    }

    pub(super) fn submit_cancel(&mut self, sock: Sock, lane: Lane) {
        let target = Token::op(sock, lane);
        self.push(opcode::AsyncCancel::new(target.0).build(), Token::CANCEL);
    }

    /// A closing socket's op has ended: gives back what it held.
    pub(super) fn join(&mut self, sock: Sock, reaped: Reaped) {
        drop(self.take_buffer(reaped));
        let socket = self.sockets.get(sock);
        match reaped.token.lane() {
            Lane::Write => socket.write = Write::Idle,
            Lane::Read => {
                if let (Read::Accept, Ok(fd)) = (&socket.read, reaped.outcome()) {
                    // SAFETY: the kernel gave this descriptor to us and nobody else knows it.
                    drop(unsafe { OwnedFd::from_raw_fd(fd) });
                }
                socket.read = Read::Idle;
            }
        }
        self.close_if_idle(sock);
    }

    pub(super) fn close_if_idle(&mut self, sock: Sock) -> Closed {
        if self.sockets.get(sock).is_idle() {
            let socket = self.sockets.remove(sock);
            self.to_release.push(socket.descriptor.fd);
            Closed::Now
        } else {
            Closed::Soon
        }
    }

    /// Takes every op back from the kernel. False when it does not let go in time.
    fn join_all(&mut self) -> bool {
        // What the kernel was never given is nothing to wait for.
        let forgotten = self
            .overflow
            .drain(..)
            .map(|entry| Token(entry.get_user_data()));
        self.in_flight -= forgotten.filter(|token| token.kind() == Kind::Op).count();
        let everything = types::CancelBuilder::any();
        self.push(opcode::AsyncCancel2::new(everything).build(), Token::CANCEL);
        let until = Instant::now() + JOIN_TIMEOUT;
        loop {
            while let Some(reaped) = self.reaped.pop_front() {
                self.in_flight -= 1;
                let (sock, socket) = self.sockets.at(reaped.token.slot());
                socket.closing = true;
                self.join(sock, reaped);
            }
            if self.in_flight == 0 {
                return true;
            }
            let entered = self.enter(Wait::CompletionUntil(until));
            if entered.is_err() || self.reap().is_err() || Instant::now() >= until {
                return false;
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if thread::panicking() || !self.join_all() {
            tracing::error!("io_uring: ops could not be cancelled; their memory is not reused");
            return self.abandon();
        }
        // SAFETY: the ring is not used again.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        // SAFETY: the value is not used again, and no op refers to it any more.
        unsafe { ManuallyDrop::drop(&mut self.sockets) };
        // SAFETY: as above; the kernel's own reference to the memory is to pinned pages.
        unsafe { ManuallyDrop::drop(&mut self.provided) };
    }
}

impl Uring {
    /// The end of a driver whose ops cannot be waited for: the ring has failed, or this is the cleanup of a panic, in
    /// which a second one would end the process at once. The peers are told, and memory is left to the kernel, which
    /// may still write there.
    fn abandon(&mut self) {
        // SAFETY: the ring is not used again.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        // SAFETY: as above. What the kernel may still read is forgotten.
        let sockets = unsafe { ManuallyDrop::take(&mut self.sockets) };
        for socket in sockets.into_open() {
            mem::forget(socket.write);
            drop(socket.descriptor.fd);
        }
    }
}
