//! Pipes of the simulated kernel, and what goes through them.

use std::cell::RefCell;
use std::mem;
use std::ops::Range;
use std::rc::Rc;

use crate::backend::Address;
use crate::driver::buffers::Size;
use crate::driver::{Done, Filled, Flushed, IntoUnix, PIPE_BYTES, PipeGuard, Sock};

use super::judge::Event;
use super::ops::Into;
use super::peer::Acknowledging;
use super::world::World;

/// A pipe of the simulated kernel: a part of one stream, between bytes of the proxy's own.
pub(crate) struct SimPipe {
    pub(super) world: Rc<RefCell<World>>,
    /// The worker that it belongs to.
    pub(super) worker: usize,
    pub(super) before: Vec<u8>,
    pub(super) behind: Vec<u8>,
    /// The peer whose stream they are part of, by its place among the peers.
    pub(super) source: usize,
    pub(super) bytes: Range<u64>,
}

impl PipeGuard for SimPipe {
    fn len(&self) -> usize {
        self.before.len() + self.spliced() + self.behind.len()
    }

    fn spliced(&self) -> usize {
        usize::try_from(self.bytes.end - self.bytes.start).expect("a pipe is small")
    }
}

impl Drop for SimPipe {
    fn drop(&mut self) {
        let world = &mut *self.world.borrow_mut();
        let driver = &mut world.drivers[self.worker];
        driver.open_pipes -= 1;
        if self.is_empty() {
            driver.free_pipes.push((self.source, self.bytes.clone()));
        }
    }
}

impl World {
    pub(super) fn splices_into(&self, sock: Sock) -> bool {
        let to = self.sockets.peek(sock).to;
        let is_unix = to.is_none_or(|to| matches!(to, Address::Unix(_)));
        self.scenario.into_unix == IntoUnix::Spliced || !is_unix
    }

    pub(super) fn fill(&mut self, from: Sock, pipe: &mut SimPipe, max: usize) -> Filled {
        self.judge(&Event::Fills {
            held: pipe.len(),
            is_used: pipe.spliced() + pipe.behind.len() > 0,
        });
        self.judge(&Event::Moves);
        let index = self.open_peer(from);
        if self.peers[index].waiting() == 0 {
            return match self.advance_recv(index, Into::Lent(Size::Usual)) {
                None => Filled::Empty,
                Some(Done::Eof) => Filled::Eof,
                Some(Done::Failed(errno)) => Filled::Failed(errno),
                Some(done) => unreachable!("nothing waits, and yet {done:?}"),
            };
        }
        let most = max.min(PIPE_BYTES) as u64;
        let max = if self.dice.one_in(3) {
            self.dice.between(1, most)
        } else {
            most
        };
        let peer = &mut self.peers[index];
        pipe.source = index;
        pipe.bytes = peer.take(max);
        self.note(|| format!("{from:?} fill {:?}", pipe.bytes));
        Filled::Bytes(pipe.spliced())
    }

    pub(super) fn flush(&mut self, pipe: &mut SimPipe, to: Sock) -> Flushed {
        let peer = self.open_peer(to);
        self.peers[peer].acknowledged(Acknowledging::WithBytes);
        self.judge(&Event::Flushes(to));
        while !pipe.is_empty() {
            self.judge(&Event::Moves);
            if let Some(errno) = self.write_failure(peer) {
                return Flushed::Failed(errno);
            }
            let own = match (pipe.before.is_empty(), pipe.spliced()) {
                (false, _) => &mut pipe.before,
                (true, 0) => &mut pipe.behind,
                (true, _) => &mut Vec::new(),
            };
            if !own.is_empty() {
                if self.peers[peer].room() < own.len() as u64 {
                    return Flushed::Full;
                }
                let own = mem::take(own);
                self.note(|| format!("{to:?} flush {} of our own", own.len()));
                self.give_records(peer, &own);
                continue;
            }
            let most = self.peers[peer].room().min(pipe.spliced() as u64);
            if most == 0 {
                return Flushed::Full;
            }
            let now = if self.dice.one_in(3) {
                self.dice.between(1, most)
            } else {
                most
            };
            let part = pipe.bytes.start..pipe.bytes.start + now;
            self.note(|| format!("{to:?} flush {part:?}"));
            pipe.bytes.start = part.end;
            self.give_spliced(peer, pipe.source, part);
        }
        Flushed::All
    }
}
