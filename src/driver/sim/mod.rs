//! A simulated kernel: the third driver, for tests only.
//!
//! It runs workers' sessions without a socket, in virtual time, and does what a kernel may do:
//! completes ops in any order and late, shortens every transfer, wakes for nothing, refuses with any
//! errno that the call can return, breaks and half-closes connections at any point, runs out of
//! descriptors and pipes. Every choice comes from [`Dice`], so a run can be replayed. Several workers have a driver each,
//! over one kernel, and turns one after the other.
//!
//! In its other mode, the world is a kernel with epoll, and the epoll driver itself is what is run (`readiness`).
//!
//! Parts: `scenario` what a run is made of · `world` the kernel's sockets, with `ops` what becomes of ops, `pipe`
//! pipes, `turns` what happens by itself · `peer` the far ends, those in `fastcgi` with requests · `judge` who
//! hears of all that and knows the rules. Each rule has a name, with which a run that breaks it panics:
//!
//! - `bytes_in_order`: what is given to a peer is the next part of the other peer's stream.
//! - `end_told_after_last_byte`: an end of stream is passed on only after a true end, and after
//!   every byte before it.
//! - `leaves_at_rest`: a client that is let go has nothing in flight on its socket, and no byte was taken that is not
//!   answered, unless it goes with it; and whoever takes it on serves it to its end.
//! - `sent_once`: a client's bytes go to one backend, whatever was tried before.
//! - `within_limit`: no endpoint has more connections than it may, until their descriptors are closed.
//! - `two_attempts`: there are never more than two connects for each client.
//! - `clean_close_loses_nothing`: a close that looks clean comes only when nothing was lost.
//! - `user_is_allowed`: nobody is served but those who may be, and who may be is turned away only while its
//!   user has all connections that it may.
//! - `user_within_limit`: no user has more clients that are served than it may.
//! - `copied_into_unix`: nothing is spliced into a Unix socket where that might wait for its reader.
//! - `introduced_first`: a backend gets the introduction before anything else, and once.
//! - `reset_needs_proof`: a backend is reset only when bytes are lost.
//! - `lane_is_free`, `socket_is_open`: the worker keeps to the driver's rules.
//! - `completes_once`, `joined_before_reuse`: and so does this driver.
//! - `stale_is_ignored`: an event about a socket that was closed concerns nobody, least of all who has its slot
//!   now; and it is counted.
//! - `watched_once`: the epoll driver registers no socket twice.
//! - `no_spin`: a turn without progress waits.
//! - `bounded_turn`: no turn does more than a bounded amount of work.
//! - `not_stuck`: while a session lives, something can still happen, and does in the end.
//! - `lossless`: two peers that behaved, with no fault between them, got each other's whole streams.
//! - `buffers_promised`: between events, sessions hold no more buffers than they are promised.
//! - `buffers_suffice`: and who needs one finds one.
//! - `accepted_are_served`: unless it is cut, the worker closes no listener whose accept may have taken a
//!   client already.
//! - `backlog_is_left`: where a backlog is somebody else's, nobody is taken out of it after the accepts
//!   were called off.
//! - `sessions_within_limit`: all workers together have no more sessions than there may be.
//! - `route_within_part`: a route has no more than its part of them, and one for each listener of each worker.
//! - `backlogs_are_served`: while neither is reached, and there are descriptors, nobody waits to be accepted.
//! - `stays_on_its_route`: what a client sends goes to its route's backends, and so does what they send.
//! - `one_configuration`: whoever is served is so by the rules that the worker went by at one time between its
//!   beginning and now, wholly: what a backend is told, its socket and the guard are of the same ones, and later
//!   requests are never served by earlier rules.
//! - `retired_is_forgotten`: a route that takes no new clients is forgotten when the last of its clients has left, and
//!   not before; nothing is left of it then, nor after a cut.
//! - `retired_clients_end`: nobody who has no request to be answered keeps such a route.
//! - `changes_are_counted`: sessions, and clients of users, are counted exactly, whenever that began.
//! - `sheds_in_time`: nobody is sent away for waiting where too many do who has not waited for the time that is for that,
//!   and nobody waits for much longer.
//! - `served_in_order`: those who wait for a place on one worker have it in the order in which they came.
//! - `places_are_used`: and nobody waits while there is one, whatever other routes are waited for.
//! - `nothing_waits_for_us`: where a backend leaves Nagle's algorithm on, nothing that the proxy waits for is held back
//!   until the kernel acknowledges what came before it: of FastCGI nothing at all, of bytes nothing but once.
//! - `nothing_new_in_a_pause`: where a worker knows that a route is paused, it connects to no endpoint of it, and no
//!   connection rests.
//! - `patience_stands_still`: and nobody is sent away meanwhile, for being too many or for having waited too long.
//! - `nothing_new_for_the_drained`: an endpoint that is drained is not connected to, and no connection to it rests.
//! - `nobody_waits_in_an_outage`: where a worker knows that a route is out, nobody waits for a place or a connection there.
//! - `told_only_in_an_outage`: and nobody is sent away for that where it is not.
//! - `index_is_exact`: what a worker keeps to find what is due without looking at everything is what a look at
//!   everything finds, after each turn (`worker/audit.rs`).
//! - `looks_are_true`: whoever asks what sessions do is told of each that lasts for as long as that takes, once, on its
//!   route and with the bytes that have moved, and of none that has left (`looking`).
//! - `all_returned`: at the end no socket, buffer, pipe or permit is left.
//! - `counted`: and whoever was counted as there is counted as gone.
//!
//! Where peers speak FastCGI, there are these beside or instead of some:
//!
//! - `backend_gets_requests`: a server gets the client's id, KEEP_CONN where the connection is to be
//!   kept, the same parameters without those that are left out, the same body, the fence where one is
//!   due, and nothing else.
//! - `denied_stays_out`: nothing of a request with a denied parameter reaches a server.
//! - `settled_before_reuse`: nothing of a request is sent on a kept connection before the fence of the
//!   last one was answered, and if anything else came before that.
//! - `sent_once`: no request is read by two servers, unless it is GET or HEAD and the endpoint may be
//!   taken for one that keeps no connections.
//! - `answers_belong`: what a client gets for a request is what the server that has it sent for it, up
//!   to END_REQUEST; or an answer of the proxy's own, and then nothing more.
//! - `fence_for_the_proven`: before the end of its answer, and before it has a request, only a server that has served a
//!   second request on a connection gets the fence;
//! - `kept_if_certain`: a server is told to keep its connection only if it knows where the request ends;
//! - `nobody_waits_for_settling`: while somebody waits for a place, none is held for longer than the
//!   settle timeout by a connection that settles.
//! - `idle_is_bounded`: nothing is kept without a request for longer than the idle timeout.
//! - `pool_follows_set`: nothing is kept that leads to an endpoint which is not in the set.
//! - `within_limit`: kept connections count.
//! - `class_keeps_to_max`: no class of requests has more connections to an endpoint than it may have.
//! - `class_has_its_reserve`: no class has any that are kept for others: what each has, or has reserved if that is more, is
//!   within the limit.
//! - `paced`: where connections are kept, one is opened only when the last one has shown life, or some time
//!   after it.
//! - `busy_keeps_its_place`: the connection of a worker that is at work behind END_REQUEST, at a server that answers
//!   the fence in its turn, is not closed for the sake of who waits.
//! - `found_limit_is_kept`, `one_waits_in_a_backlog`: see `fastcgi/pools.rs`.
//! - `break_is_told`: a client that has the headers of an answer and not its end is told before the connection ends.
//! - `lossless`: a request that the proxy has taken whole, with nothing else to do for its client, gets
//!   its whole answer, unless a server or the client has spoilt that.

/// The one way in which a run fails.
macro_rules! rule {
    ($name:literal, $holds:expr, $($why:tt)+) => {
        assert!($holds, "INVARIANT {}: {}", $name, format_args!($($why)+))
    };
}

mod by_hand;
pub(crate) mod dice;
mod fastcgi;
mod judge;
mod looking;
mod ops;
mod peer;
mod pipe;
mod readiness;
mod reload;
mod route_outages;
mod scenario;
mod turns;
mod world;

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use crate::backend::Address;
use crate::sys::Errno;
use crate::sys::net::{Addresses, PeerCredentials, TcpOptions, UnixName};

use super::buffers::{Buf, BufferPool, Size};
use super::{
    Close, Closed, Completion, Done, Driver, Filled, Flushed, Lane, NoBuffer, OWN_BYTES_MAX, Op,
    PipeGuard, Pipes, Sock, SocketCalls,
};
pub(crate) use fastcgi::FastcgiRules;
pub(crate) use pipe::SimPipe;
pub(crate) use reload::Census;
pub(crate) use scenario::{
    Faults, GENERATIONS_MAX, InEffect, ListenerAt, MARK, MEMBERS_GROUP, NUMBERS_WITH_CLASSES,
    PlannedRoute, Scenario, Users, class_criteria, marked, marker,
};
pub(crate) use turns::Waiting;

use dice::Dice;
use judge::Event;
use peer::Acknowledging;
use scenario::{generation_of, user_of};
use world::{InFlight, Kind, ReadOp, World};

/// Clients have the keys below this, backends those from it on.
const CLIENTS_MAX: u8 = 40;

fn is_client(key: u8) -> bool {
    key < CLIENTS_MAX
}

/// The driver that a worker is given. Whoever runs the scenario keeps another handle.
#[derive(Clone)]
pub(crate) struct Sim {
    world: Rc<RefCell<World>>,
    /// The number of the worker.
    worker: usize,
}

impl Sim {
    /// A world for the workers of a scenario, and the driver of the first one.
    pub(crate) fn new(scenario: Scenario, dice: Dice) -> Self {
        Self {
            world: Rc::new(RefCell::new(World::new(scenario, dice))),
            worker: 0,
        }
    }

    /// The driver of another worker in the same world.
    pub(crate) fn of_worker(&self, worker: usize) -> Self {
        Self {
            world: Rc::clone(&self.world),
            worker,
        }
    }

    /// Names the routes of the listeners that the worker is going to adopt.
    pub(crate) fn expect_listeners(&self, of_routes: impl IntoIterator<Item = usize>) {
        let at = of_routes.into_iter().map(|route| ListenerAt {
            route,
            backlog: route,
        });
        self.world().driver().to_adopt.extend(at);
    }

    /// The worker has done all that it can do, and waits.
    pub(crate) fn begin_wait(&self, until: Option<Instant>) -> Waiting {
        self.world().begin_wait(until)
    }

    /// Lets things happen until one of those that wait does not any longer, and tells which one.
    pub(crate) fn end_wait(&self, all: &[Waiting]) -> usize {
        self.world().end_wait(all)
    }

    /// After the worker has ended and was dropped.
    pub(crate) fn worker_ended(&self) {
        self.world().worker_ended();
    }

    /// After all workers have ended: judges the outcome.
    pub(crate) fn judge_end(&self) {
        self.world().judge(&Event::Ends);
    }

    /// How many events came about sockets that had been closed.
    pub(crate) fn stale_events(&self) -> u64 {
        self.world.borrow().stale_events
    }

    /// What happened, if it was recorded.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.world.borrow().trace.clone()
    }

    /// The world, for a call of this worker's.
    fn world(&self) -> RefMut<'_, World> {
        let mut world = self.world.borrow_mut();
        world.at = self.worker;
        world
    }
}

impl Driver for Sim {
    fn adopt_listener(&mut self, listener: OwnedFd) -> Sock {
        let mut world = self.world();
        let announced = world.announced.remove(&listener.as_raw_fd());
        let at = announced.or_else(|| world.driver().to_adopt.pop_front());
        world.insert(Kind::Listener(at.expect("it was announced")))
    }

    fn adopt_client(&mut self, client: OwnedFd) -> Sock {
        self.world().adopt_client(client)
    }

    fn let_go(&mut self, sock: Sock) -> OwnedFd {
        self.world().let_go(sock)
    }

    fn open_tcp(&mut self, _like: &SocketAddr, options: &TcpOptions) -> Result<Sock, Errno> {
        let mut world = self.world();
        let failure = world.scenario.faults.failure;
        if !world.descriptors_left() || world.fault(failure) {
            return Err(Errno(libc::EMFILE));
        }
        let sock = world.insert(Kind::Upstream(None));
        world.sockets.get(sock).generation = generation_of(options);
        Ok(sock)
    }

    fn open_unix(&mut self, name: UnixName) -> Result<Sock, Errno> {
        /// What connect(2) can return at once.
        const ERRORS: [i32; 4] = [libc::EAGAIN, libc::ECONNREFUSED, libc::ENOENT, libc::EACCES];
        let mut world = self.world();
        let failure = world.scenario.faults.failure;
        if !world.descriptors_left() || world.fault(failure) {
            return Err(Errno(libc::EMFILE));
        }
        if world.outage(Address::Unix(name)).is_some() || world.dice.one_in(6) {
            world.disturbed = true;
            return Err(Errno(world.dice.pick(&ERRORS)));
        }
        let sock = world.insert(Kind::Upstream(None));
        world.sockets.get(sock).to = Some(Address::Unix(name));
        world.judge(&Event::Connects(sock, Address::Unix(name)));
        world.connected(sock);
        Ok(sock)
    }

    fn submit(&mut self, sock: Sock, op: Op) {
        self.world().submit(sock, op);
    }

    fn cancel(&mut self, sock: Sock, lane: Lane) {
        let world = &mut *self.world();
        let socket = world.open_socket(sock);
        let is_listener = matches!(socket.kind, Kind::Listener(_));
        if let (
            Kind::Client(peer),
            Some(InFlight {
                op: ReadOp::Hangup, ..
            }),
        ) = (socket.kind, &socket.read)
        {
            world.judge(&Event::Unwatches(peer));
        }
        let socket = world.sockets.get(sock);
        match lane {
            Lane::Read => socket.read.as_mut().expect("an op is in flight").cancelled = true,
            Lane::Write => socket.write.as_mut().expect("an op is in flight").cancelled = true,
        }
        world.driver().called_off |= is_listener;
    }

    fn close(&mut self, sock: Sock, how: Close) -> Closed {
        let mut world = self.world();
        world.close(sock, how);
        if world.sockets.is_open(sock) {
            Closed::Soon
        } else {
            Closed::Now
        }
    }

    fn release(&mut self) {
        self.world().release();
    }

    fn is_closed(&self, sock: Sock) -> bool {
        !self.world.borrow().sockets.is_open(sock)
    }

    fn accept_now(&mut self, listener: Sock) -> Result<Option<Sock>, Errno> {
        let world = &mut *self.world();
        world.judge(&Event::Uses(listener));
        world.judge(&Event::Occupies(listener, Lane::Read));
        world.judge(&Event::Accepts(listener));
        let Kind::Listener(at) = world.sockets.peek(listener).kind else {
            unreachable!("clients come to listeners")
        };
        match world.advance_accept(at) {
            None => Ok(None),
            Some(Done::Accepted(client)) => Ok(Some(client)),
            Some(Done::Failed(errno)) => Err(errno),
            Some(done) => unreachable!("an accept ends with {done:?}"),
        }
    }

    fn receive_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        self.world().receive_now(sock, Size::Usual)
    }

    fn receive_much_now(&mut self, sock: Sock) -> Result<Option<Buf>, Errno> {
        self.world().receive_now(sock, Size::Large)
    }

    fn lend(&mut self) -> Result<Buf, NoBuffer> {
        let world = &mut *self.world();
        let no_buffer = world.scenario.faults.no_buffer;
        if world.fault(no_buffer) {
            return Err(NoBuffer { max: 0 });
        }
        let lent = BufferPool::lend(&world.driver().buffers);
        world.judge(&Event::Lends {
            is_there: lent.is_ok(),
        });
        lent
    }

    fn send_now(&mut self, sock: Sock, bytes: &[u8]) -> Result<(), Errno> {
        let world = &mut *self.world();
        world.note(|| format!("{sock:?} send first {} bytes", bytes.len()));
        let peer = world.open_peer(sock);
        world.judge(&Event::Occupies(sock, Lane::Write));
        if let Some(errno) = world.write_failure(peer) {
            return Err(errno);
        }
        let rest = world.take_introduction(peer, bytes);
        if world.speaks_fastcgi(peer) {
            if world.peers[peer].room() < bytes.len() as u64 {
                return Err(Errno(libc::EAGAIN));
            }
            world.peers[peer].acknowledged(Acknowledging::WithBytes);
            world.give_records(peer, bytes);
            return Ok(());
        }
        if !rest.is_empty() {
            world.judge(&Event::OutgrowsIntroduction(peer));
        }
        Ok(())
    }

    fn now(&self) -> Instant {
        self.world.borrow().now
    }

    fn turn(&mut self, until: Option<Instant>) -> Result<(), Errno> {
        self.world().turn(until);
        Ok(())
    }

    fn has_completions(&self) -> bool {
        let mut world = self.world.borrow_mut();
        !world.driver().finished.is_empty()
    }

    fn take_stale_events(&mut self) -> u64 {
        self.world().sockets.take_stale_events()
    }

    fn next(&mut self) -> Option<Completion> {
        let world = &mut *self.world();
        loop {
            let Some((sock, lane, done)) = world.driver().finished.pop_front() else {
                world.judge(&Event::HasHeardAll);
                return None;
            };
            world.judge(&Event::Completes(sock, lane));
            let socket = world.sockets.get(sock);
            match lane {
                Lane::Read => socket.read = None,
                Lane::Write => socket.write = None,
            }
            if socket.closing.is_none() {
                return Some(Completion { sock, lane, done });
            }
            if let Done::Accepted(client) = done {
                world.judge(&Event::HadClient(sock));
                // The kernel gave it, and the driver closes it with its listener.
                if let Some(peer) = world.peer_of(client) {
                    world.peers[peer].failure_seen = true;
                }
                world.close(client, Close::Reset);
            }
            world.remove_if_joined(sock);
        }
    }
}

impl SocketCalls for Sim {
    fn configure_tcp(
        &mut self,
        sock: Sock,
        _like: &SocketAddr,
        options: &TcpOptions,
    ) -> Result<(), Errno> {
        self.world().open_socket(sock).generation = generation_of(options);
        Ok(())
    }

    fn peek(&mut self, sock: Sock, into: &mut [u8]) -> usize {
        let world = &mut *self.world();
        let peer = world.open_peer(sock);
        let from = &world.peers[peer];
        let most = from.waiting().min(into.len() as u64);
        let bytes = from.taken..from.taken + most;
        let mut seen = Vec::new();
        World::render(from, bytes, &mut seen);
        into[..seen.len()].copy_from_slice(&seen);
        seen.len()
    }

    fn at_hand(&mut self, sock: Sock) -> usize {
        let world = &mut *self.world();
        let peer = world.open_peer(sock);
        usize::try_from(world.peers[peer].waiting()).expect("a script is short")
    }

    fn has_left(&mut self, sock: Sock, _bytes: usize) -> bool {
        self.world().open_socket(sock);
        // Here a peek takes what it has seen.
        false
    }

    fn skip(&mut self, sock: Sock, bytes: usize) -> bool {
        let world = &mut *self.world();
        let peer = world.open_peer(sock);
        let from = &mut world.peers[peer];
        let is_there = from.waiting() >= bytes as u64;
        if is_there {
            from.take(bytes as u64);
        }
        is_there
    }

    fn acknowledge(&mut self, sock: Sock) {
        let world = &mut *self.world();
        let peer = world.open_peer(sock);
        world.note(|| format!("{sock:?} acknowledge"));
        world.peers[peer].acknowledged(Acknowledging::AtOnce);
    }

    fn acknowledged(&mut self, sock: Sock) -> Result<u64, Errno> {
        let world = &mut *self.world();
        let peer = world.open_peer(sock);
        Ok(world.acknowledged_by(peer))
    }

    fn send_follows(&mut self, sock: Sock) {
        self.world().open_socket(sock);
    }

    fn peer_credentials(&mut self, sock: Sock) -> Option<PeerCredentials> {
        let world = &mut *self.world();
        world.open_socket(sock);
        let peer = world.peer_of(sock)?;
        let user = user_of(world.peers[peer].key);
        Some(PeerCredentials {
            uid: user,
            gid: user,
            pid: looking::FIRST_PID + u32::try_from(peer).expect("they are few"),
        })
    }

    fn peer_groups(&mut self, sock: Sock) -> Result<Vec<u32>, Errno> {
        let world = &mut *self.world();
        world.open_socket(sock);
        let peer = world.peer_of(sock).ok_or(Errno(libc::ENODATA))?;
        let is_member = user_of(world.peers[peer].key) == 1002;
        Ok(is_member.then_some(MEMBERS_GROUP).into_iter().collect())
    }

    fn dismiss(&mut self, sock: Sock) {
        let world = &mut *self.world();
        let peer = world.open_peer(sock);
        world.judge(&Event::Dismisses(peer));
        let peer = &mut world.peers[peer];
        peer.dismissed = true;
        peer.taken = peer.sent;
    }

    fn client_addresses(&mut self, sock: Sock) -> Result<Addresses, Errno> {
        self.world().open_socket(sock);
        Err(Errno(libc::EOPNOTSUPP))
    }

    fn peer_is_gone(&mut self, sock: Sock) -> bool {
        let world = &mut *self.world();
        let peer = world.open_peer(sock);
        is_client(world.peers[peer].key) && world.peers[peer].gone
    }

    fn unread(&mut self, sock: Sock) -> u64 {
        let world = &mut *self.world();
        let peer = world.open_peer(sock);
        world.peers[peer].given - world.peers[peer].read
    }

    fn shutdown_write(&mut self, sock: Sock) {
        let world = &mut *self.world();
        world.note(|| format!("{sock:?} shutdown"));
        let peer = world.open_peer(sock);
        world.judge(&Event::TellsEnd(peer));
        world.peers[peer].told_end = true;
        world.peers[peer].acknowledged(Acknowledging::WithBytes);
    }
}

impl Pipes for Sim {
    type Pipe = SimPipe;

    fn pipe(&mut self) -> Option<SimPipe> {
        let mut world = self.world();
        let no_pipe = world.scenario.faults.no_pipe;
        let is_last = world.driver().open_pipes >= world.scenario.pipes_max;
        if is_last || !world.descriptors_left() || (no_pipe > 0 && world.dice.one_in(no_pipe)) {
            return None;
        }
        let driver = world.driver();
        driver.open_pipes += 1;
        let (source, bytes) = driver.free_pipes.pop().unwrap_or((0, 0..0));
        Some(SimPipe {
            world: Rc::clone(&self.world),
            worker: self.worker,
            before: Vec::new(),
            behind: Vec::new(),
            source,
            bytes,
        })
    }

    fn splices_into(&mut self, sock: Sock) -> bool {
        self.world().splices_into(sock)
    }

    fn pipes_in_use(&self) -> usize {
        self.world.borrow().drivers[self.worker].open_pipes
    }

    fn put(&mut self, pipe: &mut SimPipe, bytes: &[u8]) -> bool {
        assert!(bytes.len() <= OWN_BYTES_MAX);
        let takes = !self.world().dice.one_in(20);
        let part = match pipe.spliced() {
            0 => &mut pipe.before,
            _ => &mut pipe.behind,
        };
        if takes {
            part.extend_from_slice(bytes);
        }
        takes
    }

    fn fill(&mut self, from: Sock, pipe: &mut SimPipe, max: usize) -> Filled {
        self.world().fill(from, pipe, max)
    }

    fn flush(&mut self, pipe: &mut SimPipe, to: Sock) -> Flushed {
        self.world().flush(pipe, to)
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sim")
    }
}
