//! A driver that is played by hand, for tests of single sessions: nothing happens by itself. It notes what it is
//! asked for; what ends, and how, the test tells the session.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use crate::sys::Errno;
use crate::sys::net::{Addresses, PeerCredentials, TcpOptions, UnixName};

use super::buffers::{Buf, BufferPool};
use super::table::Table;
use super::{
    Close, Closed, Completion, Done, Driver, Filled, Flushed, Lane, NoBuffer, Op, PipeGuard, Pipes,
    Sock, SocketCalls,
};

/// More than any test holds.
const BUFFERS_MAX: usize = 100;

#[derive(Default)]
struct Socket {
    read: Option<Op>,
    write: Option<Op>,
    at_hand: VecDeque<Vec<u8>>,
    sent: Vec<u8>,
    acknowledged: u64,
    has_ended: bool,
    closed: Option<Close>,
    /// Lanes whose ops were asked to end early.
    cancelled: Vec<Lane>,
}

impl Socket {
    fn lane(&mut self, lane: Lane) -> &mut Option<Op> {
        match lane {
            Lane::Read => &mut self.read,
            Lane::Write => &mut self.write,
        }
    }
}

/// See the module.
pub(crate) struct Scripted {
    sockets: Table<Socket>,
    buffers: Rc<RefCell<BufferPool>>,
    /// What was opened last.
    opened: Option<Sock>,
    /// Nothing is lent.
    lends_nothing: bool,
}

/// There are none.
pub(crate) enum NoPipe {}

impl PipeGuard for NoPipe {
    fn len(&self) -> usize {
        match *self {}
    }

    fn spliced(&self) -> usize {
        match *self {}
    }
}

impl Scripted {
    pub(crate) fn new() -> Self {
        Self {
            sockets: Table::default(),
            buffers: BufferPool::new(BUFFERS_MAX),
            opened: None,
            lends_nothing: false,
        }
    }

    /// There are no buffers any more but for what is received.
    pub(crate) fn lend_nothing(&mut self) {
        self.lends_nothing = true;
    }

    /// A socket that somebody has accepted.
    pub(crate) fn client(&mut self) -> Sock {
        self.sockets.insert(Socket::default())
    }

    /// The socket that was opened last, once.
    pub(crate) fn opened(&mut self) -> Option<Sock> {
        self.opened.take()
    }

    /// These bytes wait to be received at once.
    pub(crate) fn arrive(&mut self, sock: Sock, bytes: &[u8]) {
        self.sockets.get(sock).at_hand.push_back(bytes.to_vec());
    }

    /// A receive of these bytes.
    pub(crate) fn received(&mut self, sock: Sock, bytes: &[u8]) -> Done {
        self.end(sock, Lane::Read);
        Done::Received(self.buf(bytes))
    }

    /// What is in flight on this lane ends.
    ///
    /// # Panics
    ///
    /// If nothing is.
    pub(crate) fn end(&mut self, sock: Sock, lane: Lane) -> Op {
        let socket = self.sockets.get(sock);
        socket.cancelled.retain(|cancelled| *cancelled != lane);
        let op = socket.lane(lane).take();
        op.unwrap_or_else(|| panic!("nothing is in flight on the {lane:?} lane of {sock:?}"))
    }

    /// A send ends, whole.
    pub(crate) fn sent(&mut self, sock: Sock) -> Done {
        let Op::Send(buf) = self.end(sock, Lane::Write) else {
            panic!("{sock:?} sends nothing")
        };
        self.sockets.get(sock).sent.extend_from_slice(&buf);
        Done::Sent
    }

    /// Whether an op is in flight there.
    pub(crate) fn is_busy(&mut self, sock: Sock, lane: Lane) -> bool {
        self.sockets.get(sock).lane(lane).is_some()
    }

    /// What went out since this was asked last.
    pub(crate) fn take_sent(&mut self, sock: Sock) -> Vec<u8> {
        mem::take(&mut self.sockets.get(sock).sent)
    }

    /// The peer has acknowledged so many bytes.
    pub(crate) fn acknowledge_bytes(&mut self, sock: Sock, bytes: usize) {
        self.sockets.get(sock).acknowledged += bytes as u64;
    }

    /// Whether the end of the stream was passed on.
    pub(crate) fn has_ended(&mut self, sock: Sock) -> bool {
        self.sockets.get(sock).has_ended
    }

    /// Whether an op in flight was asked to end early.
    pub(crate) fn is_cancelled(&mut self, sock: Sock, lane: Lane) -> bool {
        let socket = self.sockets.get(sock);
        socket.cancelled.contains(&lane) && socket.lane(lane).is_some()
    }

    /// An op ends that was asked to end early, and nothing has become of it.
    pub(crate) fn end_cancelled(&mut self, sock: Sock, lane: Lane) -> Done {
        assert!(
            self.is_cancelled(sock, lane),
            "{sock:?} was not asked to end early"
        );
        self.end(sock, lane);
        Done::Failed(Errno(libc::ECANCELED))
    }

    /// How it was closed, if it was.
    pub(crate) fn closed(&mut self, sock: Sock) -> Option<Close> {
        self.sockets.get(sock).closed
    }

    fn buf(&mut self, bytes: &[u8]) -> Buf {
        let mut lent = BufferPool::lend(&self.buffers).expect("no test holds so many");
        lent.extend(bytes);
        lent
    }
}

impl Driver for Scripted {
    fn adopt_listener(&mut self, _listener: OwnedFd) -> Sock {
        unreachable!("sessions do not listen")
    }

    fn adopt_client(&mut self, _client: OwnedFd) -> Sock {
        unreachable!("sessions take nobody on")
    }

    fn let_go(&mut self, _sock: Sock) -> OwnedFd {
        unreachable!("sessions have the worker do that")
    }

    fn open_tcp(&mut self, _like: &SocketAddr, _options: &TcpOptions) -> Result<Sock, Errno> {
        let sock = self.client();
        self.opened = Some(sock);
        Ok(sock)
    }

    fn open_unix(&mut self, _name: UnixName) -> Result<Sock, Errno> {
        unreachable!("endpoints of these tests are of TCP")
    }

    fn submit(&mut self, sock: Sock, op: Op) {
        let lane = op.lane();
        let before = self.sockets.get(sock).lane(lane).replace(op);
        assert!(before.is_none(), "{sock:?}: {before:?} is in flight");
    }

    fn cancel(&mut self, sock: Sock, lane: Lane) {
        self.sockets.get(sock).cancelled.push(lane);
    }

    fn close(&mut self, sock: Sock, how: Close) -> Closed {
        let socket = self.sockets.get(sock);
        assert!(socket.closed.is_none(), "{sock:?} is closed twice");
        (socket.read, socket.write, socket.closed) = (None, None, Some(how));
        Closed::Now
    }

    fn release(&mut self) {}

    fn is_closed(&self, _sock: Sock) -> bool {
        true
    }

    fn accept_now(&mut self, _listener: Sock) -> Result<Option<Sock>, Errno> {
        unreachable!("sessions do not listen")
    }

    fn receive_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        assert!(!self.is_busy(sock, Lane::Read), "{sock:?} reads already");
        let bytes = self.sockets.get(sock).at_hand.pop_front();
        Ok(bytes.map(|bytes| self.buf(&bytes)))
    }

    fn receive_much_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        let mut much = self.receive_now(sock)?;
        while let Some(buf) = &mut much
            && let Some(more) = self.sockets.get(sock).at_hand.pop_front()
        {
            buf.extend(&more);
        }
        Ok(much)
    }

    fn lend(&mut self) -> Result<Buf, NoBuffer> {
        if self.lends_nothing {
            return Err(NoBuffer { max: 0 });
        }
        BufferPool::lend(&self.buffers)
    }

    fn send_now(&mut self, sock: Sock, bytes: &[u8]) -> Result<(), Errno> {
        assert!(!self.is_busy(sock, Lane::Write), "{sock:?} writes already");
        self.sockets.get(sock).sent.extend_from_slice(bytes);
        Ok(())
    }

    fn turn(&mut self, _until: Option<Instant>) -> Result<(), Errno> {
        Ok(())
    }

    fn has_completions(&self) -> bool {
        false
    }

    fn next(&mut self) -> Option<Completion> {
        None
    }

    fn take_stale_events(&mut self) -> u64 {
        0
    }
}

impl Pipes for Scripted {
    type Pipe = NoPipe;

    fn pipe(&mut self) -> Option<NoPipe> {
        None
    }

    fn splices_into(&mut self, _sock: Sock) -> bool {
        false
    }

    fn pipes_in_use(&self) -> usize {
        0
    }

    fn put(&mut self, pipe: &mut NoPipe, _bytes: &[u8]) -> bool {
        match *pipe {}
    }

    fn fill(&mut self, _from: Sock, pipe: &mut NoPipe, _max: usize) -> Filled {
        match *pipe {}
    }

    fn flush(&mut self, pipe: &mut NoPipe, _to: Sock) -> Flushed {
        match *pipe {}
    }
}

impl SocketCalls for Scripted {
    fn configure_tcp(
        &mut self,
        _sock: Sock,
        _like: &SocketAddr,
        _options: &TcpOptions,
    ) -> Result<(), Errno> {
        Ok(())
    }

    fn peek(&mut self, _sock: Sock, _into: &mut [u8]) -> usize {
        0
    }

    fn at_hand(&mut self, sock: Sock) -> usize {
        self.sockets.get(sock).at_hand.iter().map(Vec::len).sum()
    }

    fn has_left(&mut self, _sock: Sock, _bytes: usize) -> bool {
        false
    }

    fn skip(&mut self, _sock: Sock, _bytes: usize) -> bool {
        false
    }

    fn acknowledge(&mut self, _sock: Sock) {}

    fn acknowledged(&mut self, sock: Sock) -> Result<u64, Errno> {
        Ok(self.sockets.get(sock).acknowledged)
    }

    fn send_follows(&mut self, _sock: Sock) {}

    fn peer_credentials(&mut self, _sock: Sock) -> Option<PeerCredentials> {
        None
    }

    fn peer_groups(&mut self, _sock: Sock) -> Result<Vec<u32>, Errno> {
        Ok(Vec::new())
    }

    fn dismiss(&mut self, _sock: Sock) {}

    fn client_addresses(&mut self, _sock: Sock) -> Result<Addresses, Errno> {
        Err(Errno(libc::EOPNOTSUPP))
    }

    fn peer_is_gone(&mut self, _sock: Sock) -> bool {
        false
    }

    fn unread(&mut self, _sock: Sock) -> u64 {
        0
    }

    fn shutdown_write(&mut self, sock: Sock) {
        self.sockets.get(sock).has_ended = true;
    }
}
