//! What epoll watches, and what it tells.

use std::mem;

use crate::driver::kernel::EpollKernel;
use crate::driver::{Completion, Lane, Sock};
use crate::sys::Errno;

use super::socket::{Read, Turn, Write};
use super::{Epoll, WAKER_TOKEN};

const READ_EVENTS: u32 =
    (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned();
/// Why a receive may stop before the end of what is there. (A hang-up comes with EPOLLRDHUP, except
/// on a socket that was never connected.)
const SPECIAL_EVENTS: u32 = (libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLERR).cast_unsigned();
const WRITE_EVENTS: u32 = (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned();

impl<K: EpollKernel> Epoll<K> {
    /// Lets epoll watch a socket. What is there already counts as an edge.
    pub(super) fn register(&mut self, sock: Sock) -> Result<(), Errno> {
        let socket = self.sockets.get(sock);
        if socket.registered {
            return Ok(());
        }
        let events = match socket.is_listener {
            true => libc::EPOLLIN | libc::EPOLLEXCLUSIVE,
            false => {
                libc::EPOLLIN | libc::EPOLLPRI | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET
            }
        };
        self.kernel
            .add(&socket.descriptor.fd, events, sock.token())?;
        socket.registered = true;
        if socket.turn == Turn::Others {
            self.untended.push(sock);
        }
        Ok(())
    }

    /// Before a wait: a listener without an accept must wake others, not this worker; and where workers
    /// take turns, so must one that has just given a client. Registered anew, it is behind theirs.
    pub(super) fn unregister_unused_listeners(&mut self) -> Result<(), Errno> {
        let mut to_the_end = Vec::new();
        for sock in mem::take(&mut self.untended) {
            if !self.sockets.is_open(sock) {
                continue;
            }
            let socket = self.sockets.get(sock);
            let accepts = matches!(socket.read, Read::Accept);
            // Some are here twice, and others have an accept again.
            if !socket.registered || accepts && socket.turn != Turn::Others {
                continue;
            }
            self.kernel.remove(&socket.descriptor.fd)?;
            socket.registered = false;
            if accepts {
                socket.turn = Turn::Ours;
                to_the_end.push(sock);
            }
        }
        for sock in to_the_end {
            if let Err(done) = self.wait_for(sock, Lane::Read) {
                let lane = Lane::Read;
                self.done.push_back(Completion { sock, lane, done });
            }
        }
        Ok(())
    }

    pub(super) fn take_events(&mut self) {
        for event in &self.events {
            let (token, events) = (event.u64, event.events);
            if token == WAKER_TOKEN {
                self.waker.0.clear();
                continue;
            }
            let Some((sock, socket)) = self.sockets.of_event(token) else {
                continue;
            };
            socket.special |= events & SPECIAL_EVENTS != 0;
            if events & READ_EVENTS != 0 {
                socket.readable = true;
                if !matches!(socket.read, Read::Idle) {
                    self.untried.push((sock, Lane::Read));
                }
            }
            if events & WRITE_EVENTS != 0 {
                socket.writable = true;
                if !matches!(socket.write, Write::Idle) {
                    self.untried.push((sock, Lane::Write));
                }
            }
        }
    }
}
