//! Edges: what they come of, when they are told, and what they say.

use std::mem;
use std::time::{Duration, Instant};

use crate::driver::Sock;
use crate::sys::net;
use crate::sys::poll::Event;

use super::super::judge;
use super::super::peer::{Peer, SendSide};
use super::super::world::{InFlight, Told, World, WriteOp};
use super::{FdKind, OpenFd};

pub(super) const IN: u32 = libc::EPOLLIN.cast_unsigned();
const OUT: u32 = libc::EPOLLOUT.cast_unsigned();
pub(super) const RDHUP: u32 = libc::EPOLLRDHUP.cast_unsigned();
/// What is told whether it was asked for or not.
const ALWAYS: u32 = (libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned();
/// What an edge comes of.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct EdgeCauses {
    sent: u64,
    has_ended: bool,
    is_broken: bool,
    is_gone: bool,
    /// Both directions have ended.
    is_over: bool,
    is_answered: bool,
    has_mark: bool,
}
impl EdgeCauses {
    fn of(peer: &Peer, mark: Option<u64>) -> Self {
        Self {
            sent: peer.sent,
            has_ended: peer.send_side != SendSide::Open,
            is_broken: peer.is_broken(),
            is_gone: peer.gone,
            is_over: peer.told_end && peer.send_side != SendSide::Open,
            is_answered: true,
            has_mark: mark.is_some(),
        }
    }
}
impl World {
    /// What is true of an open socket.
    pub(super) fn state_of(&mut self, sock: Sock) -> u32 {
        let peer = self.peer_of(sock);
        self.fd(sock).peer = peer;
        let fds = &self.readiness().fds;
        let at = fds.iter().position(|fd| fd.sock == sock);
        self.state(at.expect("it is open"))
    }

    fn state(&self, at: usize) -> u32 {
        let fd = &self
            .readiness
            .as_ref()
            .expect("the driver is one of epoll")
            .fds[at];
        let when = |is_true: bool, events: i32| if is_true { events.cast_unsigned() } else { 0 };
        if let Some(backlog) = fd.backlog {
            return when(!self.backlogs[backlog].clients.is_empty(), libc::EPOLLIN);
        }
        let Some(peer) = fd.peer else {
            let is_answered = self.is_answered(fd);
            // One that was never connected is hung up.
            return when(is_answered != Some(false), libc::EPOLLOUT)
                | when(is_answered.is_none(), libc::EPOLLHUP);
        };
        let peer = &self.peers[peer];
        let has_ended = peer.send_side != SendSide::Open;
        let has_bytes = peer.waiting() > 0 || !fd.left.is_empty();
        let is_over =
            peer.is_broken() || has_ended && peer.told_end || fd.kind == FdKind::Unix && peer.gone;
        when(has_bytes || has_ended, libc::EPOLLIN)
            | when(has_ended, libc::EPOLLRDHUP)
            | when(fd.mark.is_some(), libc::EPOLLPRI)
            | when(is_over, libc::EPOLLHUP)
            | when(peer.is_broken() && !peer.failure_seen, libc::EPOLLERR)
            | when(has_room(fd.kind, peer), libc::EPOLLOUT)
    }

    /// Of one that is not connected: `None` if it does not connect either.
    fn is_answered(&self, fd: &OpenFd) -> Option<bool> {
        if fd.is_ended {
            return None;
        }
        match &self.sockets.peek(fd.sock).write {
            Some(InFlight {
                op: WriteOp::Connect { .. },
                finished,
                ..
            }) => Some(*finished),
            _ => None,
        }
    }

    /// Takes note of edges. True if there is a new one.
    pub(super) fn note_edges(&mut self) -> bool {
        let mut is_news = false;
        for at in 0..self.readiness().fds.len() {
            let sock = self.readiness().fds[at].sock;
            if !self.readiness().fds[at].is_ended {
                self.answer(sock, 2);
                let peer = self.peer_of(sock);
                self.readiness().fds[at].peer = peer;
            }
            is_news |= self.note_edge(at);
        }
        is_news
    }

    fn note_edge(&mut self, at: usize) -> bool {
        let state = self.state(at);
        let peer = self.readiness().fds[at].peer;
        let is_raw = peer.is_none_or(|peer| !self.speaks_fastcgi(peer));
        let may_be_urgent = is_raw && self.dice.one_in(30);
        let fd = &self.readiness.as_ref().expect("asked before").fds[at];
        let Some(watch) = &fd.watch else {
            return false;
        };
        if let Some(backlog) = fd.backlog {
            // Of those that wait already it tells again and again, and that is no news.
            let waiting = self.backlogs[backlog].clients.len() as u64;
            let watch = self.fd_at(at).watch.as_mut().expect("seen");
            watch.is_pending = waiting > 0;
            let before = mem::replace(&mut watch.seen.sent, waiting);
            return waiting > before;
        }
        let mut mark = fd.mark;
        let seen = match fd.peer {
            None => EdgeCauses {
                is_answered: self.is_answered(fd) == Some(true),
                ..watch.seen
            },
            Some(peer) => {
                let peer = &self.peers[peer];
                let has_come = peer.sent > watch.seen.sent && !fd.is_ended;
                if has_come && fd.kind == FdKind::Tcp && may_be_urgent && mark.is_none() {
                    mark = Some(self.dice.between(peer.taken, peer.sent));
                }
                EdgeCauses::of(peer, mark)
            }
        };
        let fd = self.fd_at(at);
        fd.mark = mark;
        let has_room = state & OUT != 0 && mem::replace(&mut fd.lacks_room, false);
        let watch = fd.watch.as_mut().expect("seen");
        let is_new = has_room || seen != watch.seen;
        watch.is_pending |= is_new;
        watch.seen = seen;
        is_new
    }

    fn fd_at(&mut self, at: usize) -> &mut OpenFd {
        &mut self.readiness().fds[at]
    }

    /// Tells of sockets with edges: of all, or of those that the dice choose.
    /// True if one of them comes for nothing.
    fn tell_events(&mut self, events: &mut Vec<Event>, all: bool) -> bool {
        let mut any_for_nothing = false;
        let spurious = self.scenario.faults.spurious;
        let mut places: Vec<_> = (0..self.readiness().fds.len()).collect();
        while !places.is_empty() {
            let index = self.count_below(places.len()) - 1;
            let at = places.swap_remove(index);
            let is_ended = self.fd_at(at).is_ended;
            // More often where it is of more interest.
            let one_in = if is_ended { 4 } else { spurious * 10 };
            let is_for_nothing = spurious > 0 && !all && self.dice.one_in(one_in);
            let is_late = !all && self.dice.one_in(4);
            let state = self.state(at);
            let fd = self.fd_at(at);
            let Some(watch) = &mut fd.watch else {
                continue;
            };
            if is_late || !(watch.is_pending || is_for_nothing) {
                continue;
            }
            let mut told = state & (watch.events | ALWAYS);
            if is_for_nothing && fd.peer.is_some() {
                told |= (IN | OUT) & watch.events;
            }
            watch.is_pending = false;
            // Looking for room and finding none asks to be told of some.
            fd.lacks_room |= told & OUT == 0 && fd.kind != FdKind::Listener;
            if told == 0 {
                continue;
            }
            any_for_nothing |= is_for_nothing;
            let (token, sock) = (watch.token, fd.sock);
            self.stale_events += u64::from(is_ended);
            self.note(|| format!("{sock:?} event {told:#x}"));
            events.push(Event {
                events: told,
                u64: token,
            });
        }
        if (all || !self.dice.one_in(4))
            && let Some((waker, token)) = &self.readiness().waker
            && net::is_readable(waker)
        {
            events.push(Event {
                events: IN,
                u64: *token,
            });
        }
        any_for_nothing
    }

    /// Others have the buffers that are left, for a moment.
    fn hoard(&mut self) {
        let no_buffer = self.scenario.faults.no_buffer;
        if self.fault(no_buffer) {
            let readiness = self.readiness();
            let mut buffers = readiness.buffers.borrow_mut();
            readiness
                .hoard
                .extend(std::iter::from_fn(|| buffers.take()));
        }
    }

    /// The driver is gone.
    pub(in super::super) fn end_readiness(&mut self) {
        if self.readiness.is_some() {
            self.give_hoard_back();
            self.readiness().is_at_once = false;
        }
    }

    /// True if there was one.
    fn give_hoard_back(&mut self) -> bool {
        let readiness = self.readiness();
        let was_there = !readiness.hoard.is_empty();
        for buffer in mem::take(&mut readiness.hoard) {
            readiness.buffers.borrow_mut().give(buffer);
        }
        was_there
    }

    pub(super) fn wait(&mut self, events: &mut Vec<Event>, until: Option<Instant>) {
        if mem::take(&mut self.readiness().has_moved) {
            self.judge(&judge::Event::Works);
        }
        let is_at_once = until.is_some_and(|at| at <= self.now);
        self.readiness().is_at_once = is_at_once;
        // The driver may have received what the worker has not heard of.
        if !is_at_once {
            self.judge_rest();
        }
        self.hear_looks();
        self.judge(&judge::Event::Turns);
        let wait = until.map(|at| at.saturating_duration_since(self.now));
        self.note(|| format!("wait, {wait:?} at most"));
        if wait != Some(Duration::ZERO) {
            self.judge(&judge::Event::Rests);
        }
        self.now += Duration::from_micros(self.dice.below(200));
        self.judge(&judge::Event::Waits);
        let had_hoard = self.give_hoard_back();
        let mut is_news = self.note_edges();
        // Only when nothing is left to happen does time pass by itself.
        loop {
            is_news |= self.happen();
            is_news |= self.note_edges();
            is_news |= self.tell_events(events, false);
            if !events.is_empty() || had_hoard || until.is_some_and(|at| at <= self.now) {
                break;
            }
            let quiet = !self.somebody_can_act() && self.clients_to_come == 0;
            if quiet && self.dice.one_in(8) {
                return self.wait_to_the_end(events, until);
            }
        }
        self.judge(&match is_news {
            true => judge::Event::Advances,
            false => judge::Event::Idles { waits: false },
        });
        self.hoard();
    }

    /// Nothing is left to happen but what was held back, and what takes its time.
    fn wait_to_the_end(&mut self, events: &mut Vec<Event>, until: Option<Instant>) {
        self.note_edges();
        self.tell_events(events, true);
        if !events.is_empty() || self.somebody_can_act() {
            self.judge(&judge::Event::Advances);
            return;
        }
        match [until, self.next_answer()].into_iter().flatten().min() {
            Some(at) => {
                self.now = self.now.max(at);
                self.judge(&judge::Event::Jumps);
                let is_given_up = until.is_some_and(|until| until <= at);
                self.disturbed |= is_given_up && !self.scenario.calm;
            }
            None if self.told == Told::Nothing => self.tell(Told::Drain),
            None => self.judge(&judge::Event::IsStuck),
        }
    }
}

/// Whether the kernel would tell of room for this peer: less than all of it, and more than a little.
fn has_room(kind: FdKind, to: &Peer) -> bool {
    let (room, used) = (to.room(), to.given - to.read);
    match kind {
        _ if to.gone => true,
        FdKind::Unix => used <= room / 3,
        FdKind::Tcp | FdKind::Listener => room >= used / 2,
    }
}
