//! The kernel's calls, on sockets of the world.

use std::cell::RefCell;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use crate::driver::kernel::{EpollKernel, KernelSocket, PipeSource};
use crate::driver::{
    Close, Done, Driver, Filled, Flushed, PipeGuard as _, Pipes as _, Sock, SocketCalls as _,
};
use crate::sys::Errno;
use crate::sys::net::{Addresses, PeerCredentials, TcpOptions, UnixName};
use crate::sys::poll::Event;

use super::super::Sim;
use super::super::judge;
use super::super::peer::SendSide;
use super::super::pipe::SimPipe;
use super::super::world::{Kind, World};
use super::FdKind;
use super::events::{IN, RDHUP};

/// A descriptor of the simulated kernel.
pub(crate) struct SimFd {
    world: Rc<RefCell<World>>,
    sock: Sock,
}
impl Sim {
    /// Of the only worker.
    fn over(world: &Rc<RefCell<World>>) -> Self {
        Self {
            world: Rc::clone(world),
            worker: 0,
        }
    }

    fn fd(&self, sock: Sock, kind: FdKind) -> SimFd {
        let mut world = self.world();
        world.open_fd(sock, kind);
        SimFd {
            world: Rc::clone(&self.world),
            sock,
        }
    }
}

impl EpollKernel for Sim {
    type Fd = SimFd;
    type Pipes = Self;

    fn pipes(&self, _max: usize) -> Self {
        self.clone()
    }

    fn adopt(&self, listener: OwnedFd) -> SimFd {
        let sock = self.clone().adopt_listener(listener);
        self.fd(sock, FdKind::Listener)
    }

    fn adopt_client(&self, client: OwnedFd) -> SimFd {
        let sock = Driver::adopt_client(&mut self.clone(), client);
        self.fd(sock, FdKind::Unix)
    }

    fn let_go(&self, fd: SimFd) -> OwnedFd {
        let sock = fd.sock;
        // Nothing tells of it any more, and it is not closed.
        drop(fd);
        self.world().let_go(sock)
    }

    fn tcp_socket(&self, like: &SocketAddr, options: &TcpOptions) -> Result<SimFd, Errno> {
        let sock = self.clone().open_tcp(like, options)?;
        Ok(self.fd(sock, FdKind::Tcp))
    }

    fn unix_connected(&self, name: UnixName) -> Result<SimFd, Errno> {
        let sock = self.clone().open_unix(name)?;
        self.world().moved();
        Ok(self.fd(sock, FdKind::Unix))
    }

    fn add_waker(&self, waker: &OwnedFd, token: u64) -> Result<(), Errno> {
        let waker = waker.try_clone().map_err(|_| Errno(libc::EMFILE))?;
        self.world().readiness().waker = Some((waker, token));
        Ok(())
    }

    fn add(&self, fd: &SimFd, events: i32, token: u64) -> Result<(), Errno> {
        self.world().watch(fd.sock, events.cast_unsigned(), token)
    }

    fn remove(&self, fd: &SimFd) -> Result<(), Errno> {
        let watch = self.world().fd(fd.sock).watch.take();
        watch.map(drop).ok_or(Errno(libc::ENOENT))
    }

    fn wait(&self, events: &mut Vec<Event>, until: Option<Instant>) -> Result<(), Errno> {
        events.clear();
        self.world().wait(events, until);
        Ok(())
    }

    fn now(&self) -> Instant {
        self.world.borrow().now
    }
}

impl KernelSocket for SimFd {
    fn is_unix(&self) -> bool {
        self.world.borrow_mut().fd(self.sock).kind != FdKind::Tcp
    }

    fn accept(&self) -> Result<Self, Errno> {
        let mut world = self.world.borrow_mut();
        world.judge(&judge::Event::Accepts(self.sock));
        let Kind::Listener(at) = world.sockets.peek(self.sock).kind else {
            unreachable!("clients come to listeners")
        };
        match world.advance_accept(at) {
            None => Err(Errno(libc::EAGAIN)),
            Some(Done::Accepted(sock)) => {
                world.moved();
                world.open_fd(sock, FdKind::Unix);
                let world = Rc::clone(&self.world);
                Ok(Self { world, sock })
            }
            Some(Done::Failed(errno)) => Err(errno),
            Some(done) => unreachable!("an accept ends with {done:?}"),
        }
    }

    fn connect(&self, to: SocketAddr) -> Result<(), Errno> {
        self.world.borrow_mut().connect(self.sock, to);
        match self.connect_outcome() {
            None => Err(Errno(libc::EINPROGRESS)),
            Some(outcome) => outcome,
        }
    }

    fn connect_outcome(&self) -> Option<Result<(), Errno>> {
        self.world.borrow_mut().connect_outcome(self.sock)
    }

    fn take_error(&self) -> Result<(), Errno> {
        let world = &mut *self.world.borrow_mut();
        let peer = world.fd_peer(self.sock);
        let peer = &mut world.peers[peer];
        match peer.send_side {
            SendSide::Broken(errno) if !mem::replace(&mut peer.failure_seen, true) => Err(errno),
            SendSide::Open | SendSide::Fin | SendSide::Broken(_) => Ok(()),
        }
    }

    fn recv(&self, bytes: &mut Vec<u8>, most: usize) -> Result<usize, Errno> {
        let received = self.world.borrow_mut().recv(self.sock, bytes, most);
        received.map(|(received, _)| received)
    }

    fn recv_and_tell(&self, bytes: &mut Vec<u8>, most: usize) -> Result<(usize, bool), Errno> {
        self.world.borrow_mut().recv(self.sock, bytes, most)
    }

    fn recv_and_leave(&self, bytes: &mut Vec<u8>, most: usize) -> Result<usize, Errno> {
        let world = &mut *self.world.borrow_mut();
        let (received, _) = world.recv(self.sock, bytes, most)?;
        world.fd(self.sock).left.extend_from_slice(bytes);
        Ok(received)
    }

    fn discard(&self, count: usize) {
        let mut world = self.world.borrow_mut();
        world.moved();
        world.fd(self.sock).left.drain(..count);
    }

    fn peek(&self, into: &mut [u8]) -> Result<usize, Errno> {
        let left = self
            .world
            .borrow_mut()
            .fd(self.sock)
            .left
            .len()
            .min(into.len());
        into[..left].copy_from_slice(&self.world.borrow_mut().fd(self.sock).left[..left]);
        Ok(left + Sim::over(&self.world).peek(self.sock, &mut into[left..]))
    }

    fn queued(&self) -> usize {
        let left = self.world.borrow_mut().fd(self.sock).left.len();
        left + Sim::over(&self.world).at_hand(self.sock)
    }

    fn is_readable(&self) -> bool {
        self.world.borrow_mut().state_of(self.sock) & IN != 0
    }

    fn peer_is_gone(&self) -> bool {
        self.world.borrow_mut().state_of(self.sock) & libc::EPOLLHUP.cast_unsigned() != 0
    }

    fn has_ended_in_order(&self) -> bool {
        let state = self.world.borrow_mut().state_of(self.sock);
        state & RDHUP != 0 && state & libc::EPOLLERR.cast_unsigned() == 0
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        self.world.borrow_mut().send(self.sock, bytes)
    }

    fn send_now(&self, bytes: &[u8]) -> Result<(), Errno> {
        // One before it may have been given up.
        self.world.borrow_mut().sockets.get(self.sock).write = None;
        let sent = Sim::over(&self.world).send_now(self.sock, bytes);
        let mut world = self.world.borrow_mut();
        world.fd(self.sock).lacks_room |= sent.is_err();
        if sent.is_ok() {
            world.moved();
        }
        sent
    }

    fn unread(&self) -> u64 {
        Sim::over(&self.world).unread(self.sock)
    }

    fn acknowledged(&self) -> Result<u64, Errno> {
        Sim::over(&self.world).acknowledged(self.sock)
    }

    fn shutdown_write(&self) -> Result<(), Errno> {
        self.world.borrow_mut().heard(self.sock);
        Sim::over(&self.world).shutdown_write(self.sock);
        self.world.borrow_mut().moved();
        Ok(())
    }

    fn configure_tcp(&self, like: &SocketAddr, options: &TcpOptions) -> Result<(), Errno> {
        Sim::over(&self.world).configure_tcp(self.sock, like, options)
    }

    fn set_nodelay(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn delay_handshake(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn acknowledge(&self) -> Result<(), Errno> {
        Sim::over(&self.world).acknowledge(self.sock);
        Ok(())
    }

    fn peer_credentials(&self) -> Option<PeerCredentials> {
        Sim::over(&self.world).peer_credentials(self.sock)
    }

    fn peer_groups(&self) -> Result<Vec<u32>, Errno> {
        Sim::over(&self.world).peer_groups(self.sock)
    }

    fn addresses(&self) -> Result<Addresses, Errno> {
        Err(Errno(libc::EOPNOTSUPP))
    }

    fn dismiss(&self) {
        Sim::over(&self.world).dismiss(self.sock);
    }

    fn end(&self, how: Close, _is_unix: bool) {
        let mut world = self.world.borrow_mut();
        world.moved();
        world.fd(self.sock).is_ended = true;
        let socket = world.sockets.get(self.sock);
        socket.write.take_if(|write| !write.finished);
        world.close(self.sock, how);
        // Nobody waits for its end here.
        if world.sockets.is_open(self.sock) {
            world.sockets.get(self.sock).write = None;
            world.remove_if_joined(self.sock);
        }
    }
}

impl Drop for SimFd {
    fn drop(&mut self) {
        // A rule may have been broken meanwhile.
        if let Ok(mut world) = self.world.try_borrow_mut() {
            world.close_fd(self.sock);
        }
    }
}

impl PipeSource for Sim {
    type Fd = SimFd;
    type Pipe = SimPipe;

    fn take(&self) -> Option<SimPipe> {
        self.clone().pipe()
    }

    fn lent(&self) -> usize {
        self.pipes_in_use()
    }

    fn put(pipe: &mut SimPipe, bytes: &[u8]) -> bool {
        Self::over(&pipe.world).put(pipe, bytes)
    }

    fn fill(from: &SimFd, pipe: &mut SimPipe, max: usize) -> Filled {
        let mut world = from.world.borrow_mut();
        let Some(max) = world.up_to_mark(from.sock, max) else {
            return Filled::Empty;
        };
        let filled = world.fill(from.sock, pipe, max);
        if filled != Filled::Empty {
            world.moved();
        }
        filled
    }

    fn flush(pipe: &mut SimPipe, to: &SimFd) -> Flushed {
        let mut world = to.world.borrow_mut();
        let before = pipe.len();
        world.heard(to.sock);
        let flushed = world.flush(pipe, to.sock);
        if pipe.len() < before || matches!(flushed, Flushed::Failed(_)) {
            world.moved();
        }
        world.fd(to.sock).lacks_room |= flushed == Flushed::Full;
        flushed
    }
}
