//! Whether the worker gets on, keeps to the driver's rules while it does, and lets others have their turn.

use std::time::{Duration, Instant};

use crate::driver::{Lane, Sock};

use super::super::CLIENTS_MAX;
use super::super::fastcgi::Speech;
use super::super::peer::SendSide;
use super::super::world::{InFlight, Kind, Socket, Told, World};
use super::Judge;

/// Turns in a row that may pass without anything happening before it is a spin. A wake for nothing
/// and a notice can each cost one. Of those who wait in a queue, each turn tries two at least, and all of
/// them may find that there are no descriptors.
const IDLE_TURNS_MAX: u32 = 4 + CLIENTS_MAX as u32 / 2;

/// Calls of fill and flush in one turn: the splice budget of each flow, with every call moving as
/// little as the simulation lets it, and the same again for what was left from before.
const MOVES_PER_TURN_MAX: u32 = 200_000;

/// Virtual time that no run takes: with every limit in time used up again and again, minutes pass.
const DURATION_MAX: Duration = Duration::from_secs(3600);

/// How long a drain may last when the last client is gone: whatever is closed then is joined in a few turns, and turns
/// are seconds apart at the most.
const DRAIN_REST_MAX: Duration = Duration::from_secs(60);

/// How long a worker that drains may be woken by nothing but its own timers, and do nothing then: longer than any
/// time that it waits for somebody, of which the longest is [`BUSY_MAX`](crate::session::BUSY_MAX).
const QUIET_MAX: Duration = Duration::from_secs(400);

/// How long a client that has no request may keep a route that is not served any more: there are two last calls
/// within that time.
const RETIRED_IDLE_MAX: Duration = Duration::from_millis(550);

impl Judge {
    /// A worker that drains looks at its sessions again and again, and so is never without something to wait for.
    pub(super) fn judge_quiet(&mut self, world: &World) {
        let since = *self.quiet_since.get_or_insert(world.now);
        rule!(
            "not_stuck",
            world.told != Told::Drain || world.now < since + QUIET_MAX,
            "no op has ended for {:?}, and there are {}",
            world.now - since,
            world.describe_live()
        );
    }

    /// Whether that may be about to be found.
    pub(in super::super) fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_since
            .is_some_and(|since| now > since + QUIET_MAX / 10)
    }

    /// A worker that drains ends when nobody is left, and waits for nothing else.
    pub(super) fn judge_drain(&mut self, world: &World) {
        let is_client = |&sock: &Sock| matches!(world.sockets.peek(sock).kind, Kind::Client(_));
        let is_alone = world.told == Told::Drain
            && (world
                .backlogs
                .iter()
                .all(|backlog| backlog.clients.is_empty())
                || world.scenario.backlog_is_left)
            && !world.live.iter().any(is_client);
        if !is_alone {
            self.alone_since = None;
            return;
        }
        let since = *self.alone_since.get_or_insert(world.now);
        rule!(
            "not_stuck",
            world.now < since + DRAIN_REST_MAX,
            "nobody is left for {:?}, and the drain goes on",
            world.now - since
        );
    }

    /// A route that takes no new clients ends those that it has once they have no request to be answered.
    pub(super) fn judge_retired(&mut self, world: &World) {
        let is_one = |peer: &usize| {
            let peer = &world.peers[*peer];
            let Speech::Client(client) = &peer.speech else {
                return false;
            };
            world.route_of(peer).in_effect[world.at].is_retired
                && peer.send_side == SendSide::Open
                && !peer.told_end
                && peer.sent == peer.taken
                && client.is_idle(peer.taken)
        };
        let of_socket = |sock: Sock| match world.sockets.peek(sock) {
            Socket {
                kind: Kind::Client(peer),
                is_served: true,
                closing: None,
                ..
            } => Some(*peer),
            _ => None,
        };
        let idle: Vec<_> = world.own().filter_map(of_socket).filter(is_one).collect();
        let is_own = |peer: usize| world.peers[peer].worker == Some(world.at);
        self.idle_since
            .retain(|peer, _| !is_own(*peer) || idle.contains(peer));
        for peer in idle {
            let since = *self.idle_since.entry(peer).or_insert(world.now);
            rule!(
                "retired_clients_end",
                world.now <= since + RETIRED_IDLE_MAX,
                "{:?} has no request to be answered for {:?}",
                world.peers[peer],
                world.now - since
            );
        }
    }

    pub(super) fn judge_moves(&mut self) {
        self.moves_in_turn += 1;
        rule!(
            "bounded_turn",
            self.moves_in_turn <= MOVES_PER_TURN_MAX,
            "{} fills and flushes in one turn",
            self.moves_in_turn
        );
    }

    pub(super) fn judge_idle_turn(&mut self, waits: bool, world: &World) {
        self.idle_turns += u32::from(!waits);
        let most = IDLE_TURNS_MAX * u32::try_from(world.drivers.len()).expect("a few");
        rule!(
            "no_spin",
            self.idle_turns <= most,
            "turns pass without a wait, and nothing happens"
        );
    }
}

impl World {
    /// Whether sessions of this route may be ended.
    pub(in super::super) fn is_cut(&self, route: usize) -> bool {
        self.told == Told::Cut || self.scenario.routes[route].is_cut
    }

    pub(super) fn judge_use(&self, sock: Sock) {
        rule!(
            "socket_is_open",
            self.sockets.is_open(sock),
            "{sock:?} is used after its close"
        );
        rule!(
            "socket_is_open",
            self.sockets.peek(sock).closing.is_none(),
            "{sock:?} is used after its close"
        );
    }

    pub(super) fn judge_lane(&self, sock: Sock, lane: Lane) {
        let socket = self.sockets.peek(sock);
        let free = match lane {
            Lane::Read => socket.read.is_none(),
            Lane::Write => socket.write.is_none(),
        };
        rule!(
            "lane_is_free",
            free,
            "{sock:?} {lane:?} has an op in flight"
        );
    }

    pub(super) fn judge_completion(&self, sock: Sock, lane: Lane) {
        rule!(
            "joined_before_reuse",
            self.sockets.is_open(sock),
            "an op of {sock:?} ends after its slot was given up"
        );
        let socket = self.sockets.peek(sock);
        let ended = match lane {
            Lane::Read => socket.read.as_ref().is_some_and(InFlight::is_finished),
            Lane::Write => socket.write.as_ref().is_some_and(InFlight::is_finished),
        };
        rule!(
            "completes_once",
            ended,
            "{sock:?} {lane:?} completes, and no op has ended"
        );
    }

    pub(super) fn judge_stale(&self, closed: Sock, believed: Option<Sock>) {
        rule!(
            "stale_is_ignored",
            believed.is_none(),
            "an event about {closed:?} is taken for one about {believed:?}"
        );
    }

    pub(super) fn judge_accept(&self, listener: Sock) {
        rule!(
            "backlog_is_left",
            !(self.scenario.backlog_is_left && self.drivers[self.at].called_off),
            "{listener:?} takes clients that are for others"
        );
    }

    pub(super) fn judge_lost_client(&self, listener: Sock) {
        let Kind::Listener(at) = self.sockets.peek(listener).kind else {
            unreachable!("clients come to listeners")
        };
        rule!(
            "accepted_are_served",
            self.is_cut(at.route),
            "{listener:?} was closed when it had a client"
        );
    }

    pub(super) fn judge_duration(&self) {
        rule!(
            "not_stuck",
            self.now.duration_since(self.started) < DURATION_MAX,
            "time passes, and there are {}",
            self.describe_live()
        );
    }

    pub(super) fn judge_stuck(&self) {
        rule!(
            "not_stuck",
            false,
            "nothing can happen, and there are {}",
            self.describe_live()
        );
    }
}
