//! The judges: each hears what happens in the world, changes nothing there, and ends a run in which one of its
//! rules is broken. The rules' names head `driver/sim/mod.rs`; those about FastCGI are judged in
//! `driver/sim/fastcgi/judge.rs`, beside what is known of requests.

mod endings;
mod limits;
mod nagle;
mod sharing;
mod streams;
mod turns;

use std::collections::{HashMap, HashSet};
use std::mem;
use std::ops::Range;
use std::time::Instant;

use crate::backend::Address;
use crate::driver::{Close, Lane, Sock};

use super::world::{Target, World};
use limits::judge_lending;
use nagle::Waits;
use sharing::Line;

/// What happens, told before the world acts on it. Peers are named by their places among the peers.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// A call of the worker's names this socket.
    Uses(Sock),
    /// It arms an op on a lane, or makes the call that the op stands for.
    Occupies(Sock, Lane),
    /// Clients are to be taken out of this listener's backlog.
    Accepts(Sock),
    /// A session uses the socket of this client for the first time.
    Serves(usize),
    /// A session waits for this client to leave.
    Watches(usize),
    /// And does so no longer: there is something else to wait for.
    Unwatches(usize),
    /// This client is not let in.
    Dismisses(usize),
    /// A connection to this endpoint begins.
    Connects(Sock, Address),
    /// A peer is given bytes of the stream of the peer with this key.
    Gives {
        peer: usize,
        source: u8,
        bytes: Range<u64>,
    },
    /// A backend is given what stands where its introduction, or a part of it, is missing.
    Introduces { peer: usize, bytes: &'a [u8] },
    /// A direct call has more for a backend than its introduction.
    OutgrowsIntroduction(usize),
    /// A peer is told that no more comes.
    TellsEnd(usize),
    /// A pipe that holds so many bytes, some of them spliced or behind those, is filled.
    Fills { held: usize, is_used: bool },
    /// A socket is given bytes out of a pipe.
    Flushes(Sock),
    /// The worker asks for a buffer.
    Lends { is_there: bool },
    /// A part of a fill or of a flush moves bytes.
    Moves,
    /// The worker gives the socket of this client to another one.
    LetsGo(Sock, usize),
    /// The worker closes the socket of a peer.
    Closes { peer: usize, how: Close },
    /// The worker hears that an op has ended.
    Completes(Sock, Lane),
    /// And of no other one in this turn.
    HasHeardAll,
    /// A closed listener's accept turns out to have a client.
    HadClient(Sock),
    /// The kernel tells something of a socket that is closed, which the driver takes for this one.
    IsStale {
        closed: Sock,
        believed: Option<Sock>,
    },
    /// The worker has done all that it can do, and waits.
    Turns,
    /// And it waits for something to happen.
    Rests,
    /// Time passes in a wait.
    Waits,
    /// Nothing can happen before some time has passed, or somebody is told something.
    IsQuiet,
    /// Nothing will happen at all, unless somebody is told something.
    Sleeps,
    /// Nothing could happen, and the clock was set.
    Jumps,
    /// Something has happened.
    Advances,
    /// Calls of the driver's have moved something since the last wait.
    Works,
    /// A turn ends in which nothing happened.
    Idles { waits: bool },
    /// Nothing can happen any more, and the worker waits.
    IsStuck,
    /// The worker is gone.
    Ends,
}

/// What the judges remember.
#[derive(Default)]
pub(super) struct Judge {
    /// Turns in a row in which nothing happened.
    idle_turns: u32,
    moves_in_turn: u32,
    /// Since when no op has ended.
    quiet_since: Option<Instant>,
    /// Since when the worker drains and has no client left.
    alone_since: Option<Instant>,
    /// By worker and endpoint: the connect that began last.
    last_connects: HashMap<(usize, usize), (Sock, Instant)>,
    /// Who waits for places, and who has had one.
    pub(super) line: Line,
    /// By backlog: since when somebody waits to be accepted and nothing is known that stands in the way.
    unaccepted_since: HashMap<usize, Instant>,
    /// Backends that waited for our kernel.
    waits: Waits,
    /// Limits that were raised in this turn of a worker or in one without a wait behind it, by worker and route.
    raised: HashSet<(usize, usize)>,
    /// By client of a route that takes no new ones: since when it has no request to be answered.
    idle_since: HashMap<usize, Instant>,
}

impl Judge {
    /// The worker may have more connections to endpoints of the route.
    pub(super) fn is_raised(&mut self, worker: usize, route: usize) {
        self.raised.insert((worker, route));
    }

    /// The worker keeps connections in another way: what was opened before is not paced with.
    pub(super) fn forget_pace(&mut self, worker: usize, endpoints: &[Target], route: usize) {
        let is_of = |endpoint: usize| endpoints[endpoint].route == route;
        self.last_connects
            .retain(|(of, endpoint), _| *of != worker || !is_of(*endpoint));
    }
}

impl World {
    /// Lets the judges hear of an event.
    pub(super) fn judge(&mut self, event: &Event<'_>) {
        let mut judge = mem::take(&mut self.judge);
        judge.hear(event, self);
        self.judge = judge;
    }
}

impl Judge {
    fn hear(&mut self, event: &Event<'_>, world: &World) {
        match event {
            Event::Uses(sock) => {
                // A call that finds nothing is no progress, and where the driver makes such ones that is known.
                if world.readiness.is_none() {
                    self.idle_turns = 0;
                }
                world.judge_use(*sock);
            }
            Event::Occupies(sock, lane) => world.judge_lane(*sock, *lane),
            Event::Accepts(listener) => world.judge_accept(*listener),
            Event::Serves(peer) => {
                world.judge_sessions(*peer);
                world.judge_served(*peer);
            }
            Event::Watches(peer) => self.line.waits(*peer),
            Event::Unwatches(peer) => self.line.has_place(*peer, world),
            Event::Dismisses(peer) => world.judge_dismissal(*peer),
            Event::Connects(sock, to) => {
                world.judge_connects();
                world.judge_limit(*to);
                world.judge_by_hand(*to);
                world.judge_connect_in_outage(*to);
                self.judge_pace(*sock, *to, world);
                self.line.connects(*sock);
            }
            Event::Gives {
                peer,
                source,
                bytes,
            } => world.judge_given(*peer, *source, bytes),
            Event::Introduces { peer, bytes } => world.judge_introduction(*peer, bytes),
            Event::OutgrowsIntroduction(peer) => world.judge_rest_of_introduction(*peer),
            Event::TellsEnd(peer) => world.judge_end_told(*peer),
            Event::Fills { held, is_used } => world.judge_fill(*held, *is_used),
            Event::Flushes(sock) => world.judge_flush(*sock),
            Event::Lends { is_there } => judge_lending(*is_there),
            Event::Moves => self.judge_moves(),
            Event::LetsGo(sock, peer) => {
                world.judge_leave(*sock, *peer);
                self.line.lets_go(*peer);
            }
            Event::Closes { peer, how } => world.judge_close(*peer, *how),
            Event::Completes(sock, lane) => {
                self.quiet_since = None;
                world.judge_completion(*sock, *lane);
                self.line.completed(*sock);
            }
            Event::HasHeardAll => self.line.has_heard_all(),
            Event::HadClient(listener) => world.judge_lost_client(*listener),
            Event::IsStale { closed, believed } => world.judge_stale(*closed, *believed),
            Event::Turns => {
                self.moves_in_turn = 0;
                self.judge_drain(world);
                self.judge_retired(world);
                world.judge_buffers();
            }
            Event::Rests => self.judge_raised(world),
            Event::Waits => world.judge_duration(),
            Event::Advances => self.idle_turns = 0,
            Event::IsQuiet => {
                self.judge_backlogs(world);
                world.judge_places();
                self.waits.judge(world);
            }
            Event::Works => (self.idle_turns, self.quiet_since) = (0, None),
            Event::Sleeps => world.judge_sleep(),
            Event::Jumps => self.judge_quiet(world),
            Event::Idles { waits } => self.judge_idle_turn(*waits, world),
            Event::IsStuck => world.judge_stuck(),
            Event::Ends => world.judge_rest_of_run(),
        }
    }
}
