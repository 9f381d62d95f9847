//! What becomes of ops: they end in any order and late, move as little as they may, and fail with every errno
//! that their calls can return.

use std::mem;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::backend::Address;
use crate::driver::buffers::{Buf, BufferPool, Size};
use crate::driver::{BUFFER_BYTES, Done, Lane, Op, Sock};
use crate::sys::Errno;

use super::fastcgi::Speech;
use super::judge::Event;
use super::peer::{Acknowledging, Nagle, Peer, SendSide};
use super::scenario::{ListenerAt, MARK};
use super::world::{InFlight, Kind, Outage, ReadOp, World, WriteOp};
use super::{CLIENTS_MAX, is_client};

/// Where what is received goes.
#[derive(Clone, Copy)]
pub(super) enum Into {
    /// A buffer that the kernel has.
    Provided,
    /// One of that size, which the call brings.
    Lent(Size),
    /// The same, which takes all that is there, as far as there is room for so much.
    Whole(usize),
}

impl World {
    // --- beginning ----------------------------------------------------------------------------

    pub(super) fn submit(&mut self, sock: Sock, op: Op) {
        self.note(|| format!("{sock:?} submit {op:?}"));
        self.note_service(sock);
        self.judge(&Event::Uses(sock));
        self.judge(&Event::Occupies(sock, op.lane()));
        let socket = self.sockets.get(sock);
        match op {
            Op::Accept => socket.read = InFlight::new(ReadOp::Accept),
            // Whether bytes stay in the socket shows only where a client's end is told, and that rule does
            // not ask what a Unix socket can express.
            Op::Recv | Op::Peek => socket.read = InFlight::new(ReadOp::Recv),
            Op::Readable => socket.read = InFlight::new(ReadOp::Readable),
            Op::Hangup => {
                socket.read = InFlight::new(ReadOp::Hangup);
                if let Kind::Client(peer) = socket.kind {
                    self.judge(&Event::Watches(peer));
                }
            }
            Op::Writable => socket.write = InFlight::new(WriteOp::Writable),
            Op::Send(buf) => socket.write = InFlight::new(WriteOp::Send { buf, sent: 0 }),
            Op::Connect(to) => self.connect(sock, to),
        }
    }

    pub(super) fn connect(&mut self, sock: Sock, to: SocketAddr) {
        /// What connect(2) can return in the end.
        const ERRORS: [i32; 5] = [
            libc::ECONNREFUSED,
            libc::ETIMEDOUT,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::EADDRNOTAVAIL,
        ];
        let outage = self.outage(Address::Tcp(to));
        let answer_at = match self.dice.below(20) {
            _ if outage == Some(Outage::Silent) => None,
            // Never.
            0 => None,
            1..4 => Some(self.now + Duration::from_millis(self.dice.between(1, 300))),
            _ => Some(self.now),
        };
        let refused = outage == Some(Outage::Refuses) || self.dice.one_in(8);
        let outcome = if refused {
            Err(Errno(self.dice.pick(&ERRORS)))
        } else {
            Ok(())
        };
        let calm = self.scenario.calm;
        let (answer_at, outcome) = if calm {
            (Some(self.now), Ok(()))
        } else {
            (answer_at, outcome)
        };
        self.disturbed |= !calm && (refused || answer_at.is_none());
        let socket = self.sockets.get(sock);
        socket.to = Some(to.into());
        socket.write = InFlight::new(WriteOp::Connect { answer_at, outcome });
        self.judge(&Event::Connects(sock, to.into()));
    }

    /// A session uses this socket, which may be that of a client.
    pub(super) fn note_service(&mut self, sock: Sock) {
        let socket = self.sockets.get(sock);
        if let (Kind::Client(peer), false) = (socket.kind, socket.is_served) {
            socket.is_served = true;
            self.is_served_from_now_on(peer);
            self.judge(&Event::Serves(peer));
        }
    }

    // --- ending -------------------------------------------------------------------------------

    pub(super) fn finish(&mut self, sock: Sock, lane: Lane, done: Done) {
        let socket = self.sockets.get(sock);
        match lane {
            Lane::Read => socket.read.as_mut().expect("in flight").finished = true,
            Lane::Write => socket.write.as_mut().expect("in flight").finished = true,
        }
        let worker = socket.worker;
        self.note(|| format!("{sock:?} {lane:?} {done:?}"));
        self.drivers[worker].finished.push_back((sock, lane, done));
    }

    /// Lets an op make what progress it can. True if it ended.
    pub(super) fn advance(&mut self, sock: Sock, lane: Lane) -> bool {
        let socket = self.sockets.get(sock);
        self.at = socket.worker;
        let (closing, cancelled) = match lane {
            Lane::Read => match &socket.read {
                Some(op) if !op.finished => (socket.closing.is_some(), op.cancelled),
                _ => return false,
            },
            Lane::Write => match &socket.write {
                Some(op) if !op.finished => (socket.closing.is_some(), op.cancelled),
                _ => return false,
            },
        };
        // A cancel can come too late: the op may end as if there were none.
        if (closing || cancelled) && !self.dice.one_in(4) {
            self.finish(sock, lane, Done::Failed(Errno(libc::ECANCELED)));
            return true;
        }
        let done = match lane {
            Lane::Read => self.advance_read(sock),
            Lane::Write => self.advance_write(sock),
        };
        match done {
            Some(done) => {
                self.finish(sock, lane, done);
                true
            }
            None if closing || cancelled => {
                self.finish(sock, lane, Done::Failed(Errno(libc::ECANCELED)));
                true
            }
            None => false,
        }
    }

    pub(super) fn advance_read(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        let op = &socket.read.as_ref().expect("in flight").op;
        match (op, socket.kind) {
            (ReadOp::Accept, Kind::Listener(at)) => self.advance_accept(at),
            (ReadOp::Accept, _) | (_, Kind::Listener(_) | Kind::Upstream(None)) => {
                unreachable!("nothing to read")
            }
            (ReadOp::Recv, Kind::Client(peer) | Kind::Upstream(Some(peer))) => {
                self.advance_recv(peer, Into::Provided)
            }
            (ReadOp::Hangup, Kind::Client(peer) | Kind::Upstream(Some(peer))) => {
                self.peers[peer].gone.then_some(Done::Ready)
            }
            (ReadOp::Readable, Kind::Client(peer) | Kind::Upstream(Some(peer))) => {
                let from = &self.peers[peer];
                let ready = from.waiting() > 0 || from.send_side != SendSide::Open;
                let spurious = self.scenario.faults.spurious;
                (ready || (spurious > 0 && self.dice.one_in(spurious))).then_some(Done::Ready)
            }
        }
    }

    pub(super) fn advance_accept(&mut self, at: ListenerAt) -> Option<Done> {
        /// What accept(2) can return besides EAGAIN.
        const ERRORS: [i32; 7] = [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::ECONNABORTED,
            libc::EINTR,
            libc::EPERM,
        ];
        if self.backlogs[at.backlog].clients.is_empty() {
            return None;
        }
        if self.fault(self.scenario.faults.failure) {
            return Some(Done::Failed(Errno(self.dice.pick(&ERRORS))));
        }
        if !self.descriptors_left() {
            return Some(Done::Failed(Errno(libc::EMFILE)));
        }
        let peer = self.backlogs[at.backlog].clients.pop_front();
        let peer = peer.expect("it is not empty");
        self.peers[peer].worker = Some(self.at);
        self.comes_to(peer, at.route);
        Some(Done::Accepted(self.insert(Kind::Client(peer))))
    }

    pub(super) fn advance_recv(&mut self, peer: usize, into: Into) -> Option<Done> {
        /// What recv(2) can return on a connected socket.
        const ERRORS: [i32; 5] = [
            libc::ECONNRESET,
            libc::ETIMEDOUT,
            libc::EHOSTUNREACH,
            libc::ENETDOWN,
            libc::ENOMEM,
        ];
        if self.fault(self.scenario.faults.failure) {
            let errno = Errno(self.dice.pick(&ERRORS));
            self.peers[peer].break_off(errno);
            self.peers[peer].failure_seen = true;
            return Some(Done::Failed(errno));
        }
        let from = &mut self.peers[peer];
        if from.waiting() == 0 {
            return match from.send_side {
                SendSide::Open => None,
                SendSide::Fin => {
                    from.end_seen = true;
                    Some(Done::Eof)
                }
                SendSide::Broken(errno) => {
                    // The error is told once; after that it reads like an end.
                    let first = !mem::replace(&mut from.failure_seen, true);
                    Some(if first {
                        Done::Failed(errno)
                    } else {
                        Done::Eof
                    })
                }
            };
        }
        // Without a buffer it waits.
        let buffers = Rc::clone(&self.driver().buffers);
        let mut buffer = match into {
            Into::Provided => Buf::new(self.driver().provided.pop()?, &buffers),
            Into::Lent(size) => BufferPool::lend_sized(&buffers, size)?,
            Into::Whole(_) => BufferPool::lend(&buffers).ok()?,
        };
        let most = match into {
            Into::Lent(_) => buffer.room() as u64,
            Into::Provided | Into::Whole(_) => BUFFER_BYTES as u64,
        };
        let max = match into {
            Into::Whole(most) => most as u64,
            Into::Provided | Into::Lent(_) if self.dice.below(3) > 0 => most,
            Into::Provided | Into::Lent(_) => self.dice.between(1, most),
        };
        let from = &mut self.peers[peer];
        let bytes = from.take(max);
        buffer.write(|into| Self::render(from, bytes, into));
        Some(Done::Received(buffer))
    }

    /// Receives what is there already.
    pub(super) fn receive_now(&mut self, sock: Sock, size: Size) -> Result<Option<Buf>, Errno> {
        let peer = self.open_peer(sock);
        self.judge(&Event::Occupies(sock, Lane::Read));
        self.note_service(sock);
        let from = &self.peers[peer];
        // An end is left for the next receive.
        if from.waiting() == 0 && (from.send_side == SendSide::Fin || from.failure_seen) {
            return Ok(None);
        }
        match self.advance_recv(peer, Into::Lent(size)) {
            Some(Done::Received(buf)) => Ok(Some(buf)),
            Some(Done::Failed(errno)) => Err(errno),
            None => Ok(None),
            Some(done) => unreachable!("nothing but bytes and errors: {done:?}"),
        }
    }

    pub(super) fn advance_write(&mut self, sock: Sock) -> Option<Done> {
        let socket = self.sockets.get(sock);
        let kind = socket.kind;
        let in_flight = socket.write.as_mut().expect("in flight");
        match (&mut in_flight.op, kind) {
            (WriteOp::Connect { answer_at, outcome }, _) => {
                let due = answer_at.is_some_and(|at| at <= self.now);
                let outcome = *outcome;
                due.then(|| match outcome {
                    Ok(()) => self.connected(sock),
                    Err(errno) => Done::Failed(errno),
                })
            }
            (WriteOp::Writable, Kind::Client(peer) | Kind::Upstream(Some(peer))) => {
                let to = &self.peers[peer];
                let ready = to.room() > 0 || to.gone;
                let spurious = self.scenario.faults.spurious;
                (ready || (spurious > 0 && self.dice.one_in(spurious))).then_some(Done::Ready)
            }
            (WriteOp::Send { .. }, Kind::Client(peer) | Kind::Upstream(Some(peer))) => {
                self.advance_send(sock, peer)
            }
            (_, Kind::Listener(_) | Kind::Upstream(None)) => unreachable!("nothing to write"),
        }
    }

    pub(super) fn advance_send(&mut self, sock: Sock, peer: usize) -> Option<Done> {
        let is_gone = self.peers[peer].gone;
        let failure = self.write_failure(peer);
        if self.speaks_fastcgi(peer) && (is_gone || failure.is_some()) {
            self.send_is_lost(sock, peer, failure);
        }
        if let Some(errno) = failure {
            return Some(Done::Failed(errno));
        }
        let room = self.peers[peer].room();
        let socket = self.sockets.get(sock);
        let Some(InFlight {
            op: WriteOp::Send { buf, sent },
            ..
        }) = &mut socket.write
        else {
            unreachable!("a send is in flight")
        };
        let left = (buf.len() - *sent) as u64;
        let most = left.min(room);
        if most == 0 {
            return None;
        }
        let now = if self.dice.one_in(3) {
            self.dice.between(1, most)
        } else {
            most
        };
        let part = *sent..*sent + usize::try_from(now).expect("below a buffer");
        *sent = part.end;
        let done = part.end == buf.len();
        let bytes = buf[part].to_vec();
        self.peers[peer].acknowledged(Acknowledging::WithBytes);
        let bytes = self.take_introduction(peer, &bytes);
        if self.speaks_fastcgi(peer) {
            self.give_records(peer, &bytes);
        } else if !bytes.is_empty() {
            let source = self.recognise(peer, &bytes);
            let start = self.peers[peer].given;
            self.give(peer, source, start..start + bytes.len() as u64);
        }
        done.then_some(Done::Sent)
    }

    /// Takes off what of the introduction this peer has not got yet; returns the rest.
    pub(super) fn take_introduction(&mut self, peer: usize, bytes: &[u8]) -> Vec<u8> {
        let to = &self.peers[peer];
        if is_client(to.key) {
            return bytes.to_vec();
        }
        let missing = &self.route_of(to).introduction[to.introduced..];
        let mark = missing.iter().position(|byte| *byte == MARK);
        let (now, rest) = bytes.split_at(missing.len().min(bytes.len()));
        self.judge(&Event::Introduces { peer, bytes: now });
        if let Some(letter) = mark.and_then(|mark| now.get(mark)) {
            self.peers[peer].introduced_by = Some(usize::from(letter - b'a'));
        }
        self.peers[peer].introduced += now.len();
        rest.to_vec()
    }

    /// Why nothing can be written to this peer, if nothing can.
    pub(super) fn write_failure(&mut self, peer: usize) -> Option<Errno> {
        /// What send(2) and splice(2) can return on a connected socket.
        const ERRORS: [i32; 5] = [
            libc::EPIPE,
            libc::ECONNRESET,
            libc::ETIMEDOUT,
            libc::EHOSTUNREACH,
            libc::ENOMEM,
        ];
        if self.fault(self.scenario.faults.failure) {
            let errno = Errno(self.dice.pick(&ERRORS));
            self.peers[peer].break_off(errno);
            self.peers[peer].failure_seen = true;
            return Some(errno);
        }
        let to = &mut self.peers[peer];
        // TCP finds out late: the first bytes to a peer that is gone may still be taken.
        let noticed = is_client(to.key) || to.is_broken() || self.dice.one_in(2);
        let to = &mut self.peers[peer];
        if to.gone && noticed {
            // An end that it sent before is what a receive finds first.
            if !is_client(to.key)
                && (matches!(to.speech, Speech::Pattern) || to.send_side != SendSide::Fin)
            {
                to.break_off(Errno(libc::ECONNRESET));
                to.failure_seen = true;
            }
            return Some(Errno(libc::EPIPE));
        }
        None
    }

    pub(super) fn outage(&self, address: Address) -> Option<Outage> {
        self.outages[self.endpoint_index(address)]
    }

    pub(super) fn endpoint_index(&self, address: Address) -> usize {
        let index = self.endpoints.iter().position(|e| e.address == address);
        index.expect("only endpoints are connected to")
    }

    pub(super) fn connected(&mut self, sock: Sock) -> Done {
        let backends = self.peers.iter().filter(|p| p.key > CLIENTS_MAX);
        let key = backends.count() + usize::from(CLIENTS_MAX) + 1;
        let socket = self.sockets.get(sock);
        let (to, worker) = (socket.to.expect("it is connected"), socket.worker);
        let endpoint = self.endpoint_index(to);
        let route = self.endpoints[endpoint].route;
        let mut peer = if self.ledger.has(route) {
            // Nobody asks for its key.
            let made_by = self.sockets.get(sock).generation;
            self.server_at(CLIENTS_MAX, endpoint, (worker, made_by))
        } else {
            let plan = self.plan(!self.scenario.patient_clients);
            let key = u8::try_from(key).expect("connects are few");
            Peer::new(key, route, plan)
        };
        peer.worker = Some(worker);
        peer.generation = self.sockets.get(sock).generation;
        if matches!(to, Address::Tcp(_)) && self.dice.one_in(4) {
            peer.nagle = Some(Nagle::default());
        }
        let (index, about) = (self.peers.len(), format!("backend {peer:?}"));
        self.peers.push(peer);
        self.sockets.get(sock).kind = Kind::Upstream(Some(index));
        self.note(|| about);
        Done::Connected
    }
}
