//! Giving the kernel what is new. What it would be asked alone, it is asked without the ring.

use std::mem;
use std::net::SocketAddr;
use std::ptr;

use io_uring::opcode;
use io_uring::squeue::{self, Flags};

use crate::driver::{Lane, Sock};
use crate::sys::net::RawAddress;
use crate::sys::{Errno, net};

use super::lanes::{Outgoing, Read, Waiting, Write};
use super::ring::{Broken, Entered, Wait};
use super::token::{Kind, Token};
use super::{Uring, provided, watch};

/// `IORING_RECVSEND_POLL_FIRST`: wait for data before the first try.
const POLL_FIRST: u16 = 1;

impl Uring {
    /// Queues a submission. What `entry` points to must be owned by `self.sockets` or
    /// `self.provided`, which outlive the op.
    pub(super) fn push(&mut self, entry: squeue::Entry, token: Token) {
        if token.kind() == Kind::Op {
            self.in_flight += 1;
        }
        self.overflow.push_back(entry.user_data(token.0));
        if self.overflow.len() == 1 {
            self.fill_ring();
        }
    }

    /// Gives the ring what it has room for, in order.
    fn fill_ring(&mut self) {
        while let Some(entry) = self.overflow.front() {
            // SAFETY: sends point into buffers that their socket's write lane owns until it is given
            // the completion, receives use provided buffers, and neither is freed while an op is in
            // flight (see `drop`).
            if !unsafe { self.ring.push(entry) } {
                return;
            }
            self.overflow.pop_front();
        }
    }

    /// Submits everything, and waits.
    pub(super) fn enter(&mut self, wait: Wait) -> Result<Entered, Broken> {
        loop {
            self.fill_ring();
            if self.overflow.is_empty() {
                return self.ring.enter(wait);
            }
            let entered = self.ring.enter(Wait::No)?;
            if entered == Entered::Later {
                return Ok(entered);
            }
        }
    }

    pub(super) fn submit_recv(&mut self, sock: Sock) {
        let socket = self.sockets.get(sock);
        socket.read = Read::Recv;
        let entry = opcode::Recv::new(socket.target(), ptr::null_mut(), 0)
            .ioprio(if socket.drained { POLL_FIRST } else { 0 })
            .buf_group(provided::GROUP)
            .build()
            .flags(Flags::BUFFER_SELECT);
        self.push(entry, Token::op(sock, Lane::Read));
    }

    pub(super) fn connect(&mut self, sock: Sock, address: SocketAddr) {
        let socket = self.sockets.get(sock);
        socket.write = Write::Connecting;
        let result = match net::connect(&socket.descriptor.fd, &RawAddress::from(address)) {
            // The socket is locked while it connects, so that even an answer that came at once is
            // taken in only afterwards.
            Err(Errno(libc::EINPROGRESS | libc::EINTR)) => {
                net::connect_outcome(&socket.descriptor.fd)
            }
            result => Some(result),
        };
        match result {
            Some(Ok(())) => {
                socket.fresh = true;
                self.finish(sock, Lane::Write, 0);
            }
            Some(Err(errno)) => self.finish(sock, Lane::Write, -errno.0),
            None => self.submit_poll(sock, Lane::Write),
        }
    }

    /// A send that has no company: without the ring.
    pub(super) fn send_alone(&mut self, sock: Sock, outgoing: Outgoing) {
        let socket = self.sockets.get(sock);
        socket.writable_edge = false;
        let result = match net::send(&socket.descriptor.fd, &outgoing.buf[outgoing.sent..]) {
            Ok(sent) => i32::try_from(sent).expect("a buffer is far below 2 GiB"),
            Err(errno) => -errno.0,
        };
        socket.write = Write::Send(outgoing);
        self.finish(sock, Lane::Write, result);
    }

    pub(super) fn submit_send(&mut self, sock: Sock, outgoing: Outgoing) {
        let socket = self.sockets.get(sock);
        let rest = &outgoing.buf[outgoing.sent..];
        let len = u32::try_from(rest.len()).expect("a buffer is far below 4 GiB");
        socket.writable_edge = false;
        let entry = opcode::Send::new(socket.target(), rest.as_ptr(), len)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build();
        socket.write = Write::Send(outgoing);
        self.push(entry, Token::op(sock, Lane::Write));
    }

    pub(super) fn submit_poll(&mut self, sock: Sock, lane: Lane) {
        let events = match lane {
            Lane::Read => libc::POLLIN,
            Lane::Write => libc::POLLOUT,
        };
        let target = self.sockets.get(sock).target();
        let entry = opcode::PollAdd::new(target, events.cast_unsigned().into()).build();
        self.push(entry, Token::op(sock, lane));
    }

    /// Waits for writability, by the ring or, for a socket whose peer has half-closed, by epoll.
    pub(super) fn wait_writable(&mut self, sock: Sock) -> Waiting {
        let socket = self.sockets.get(sock);
        if socket.watched & watch::WRITES != 0 {
            if mem::take(&mut socket.writable_edge) {
                self.finish(sock, Lane::Write, libc::POLLOUT.into());
            }
            return Waiting::Epoll;
        }
        self.submit_poll(sock, Lane::Write);
        Waiting::Ring
    }

    /// From now on epoll tells of these events of this socket, beside others.
    pub(super) fn watch(&mut self, sock: Sock, events: i32) -> Result<(), Errno> {
        let events = self.sockets.get(sock).watched | events;
        self.change_watch(sock, events)
    }

    /// epoll has nothing to tell of this socket any more.
    pub(super) fn unwatch(&mut self, sock: Sock) {
        // It cannot fail for a socket that is registered, and nothing is done for one that is not.
        let _ = self.change_watch(sock, 0);
    }

    fn change_watch(&mut self, sock: Sock, events: i32) -> Result<(), Errno> {
        let socket = self.sockets.get(sock);
        if socket.watched != events {
            let before = mem::replace(&mut socket.watched, events);
            self.watch
                .change(&socket.descriptor.fd, sock, before, events)
                .inspect_err(|_| socket.watched = before)?;
        }
        Ok(())
    }

    /// Waits for bytes that were not copied yet.
    pub(super) fn submit_peek(&mut self, sock: Sock) {
        let socket = self.sockets.get(sock);
        socket.read = Read::Peek;
        // Of what is there already, epoll tells once.
        let look_at_once = socket.watched & watch::READS != 0;
        match self.watch(sock, watch::READS) {
            Ok(()) if look_at_once => self.finish(sock, Lane::Read, libc::POLLIN.into()),
            Ok(()) => {}
            Err(errno) => self.finish(sock, Lane::Read, -errno.0),
        }
    }

    /// Before the ring reads: what was only copied is taken, and epoll has nothing to tell of reads.
    pub(super) fn end_peeking(&mut self, sock: Sock) {
        let socket = self.sockets.get(sock);
        socket.descriptor.take_peeked();
        let events = socket.watched & !watch::READS;
        // It cannot fail: the socket is registered. If it did, epoll would wake us for nothing.
        let _ = self.change_watch(sock, events);
    }

    /// A receive: by the ring at once, unless others wait for buffers.
    pub(super) fn start_recv(&mut self, sock: Sock) {
        if self.starved.is_empty() {
            self.submit_recv(sock);
        } else {
            self.sockets.get(sock).read = Read::Starved;
            self.starved.push_back(sock);
        }
    }

    /// Gives the buffers that there are to the receives that have waited longest.
    pub(super) fn feed_starved(&mut self) {
        for _ in 0..self.provided.len() {
            let Some(sock) = self.starved.pop_front() else {
                return;
            };
            // One that was closed meanwhile is passed over.
            if self.sockets.is_open(sock) && matches!(self.sockets.get(sock).read, Read::Starved) {
                self.submit_recv(sock);
            }
        }
    }

    /// Waits until the peer is gone.
    pub(super) fn submit_hangup(&mut self, sock: Sock) {
        self.sockets.get(sock).read = Read::Hangup;
        if let Err(errno) = self.watch(sock, watch::WRITES) {
            self.finish(sock, Lane::Read, -errno.0);
        }
    }
}
