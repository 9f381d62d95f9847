//! Peers that speak FastCGI, and the judge of what the proxy makes of their requests.
//!
//! A client's requests are written in advance, and each has a name, which it carries as a parameter. So
//! whatever a server is given can be traced to who made it, and whatever a client is given to the server
//! that was asked.

mod client;
mod judge;
mod pools;
mod records;
mod server;

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::driver::Sock;
use crate::fastcgi::{Answer, BROKEN_OFF, RequestId};
use crate::session::{PoolOptions, REPLAY_BYTES_MAX};
use crate::sys::Errno;

use super::dice::Dice;
use super::peer::{Peer, Plan, PlannedEnding, SendSide};
use super::scenario::{GENERATIONS_MAX, NUMBERS_WITH_CLASSES, PlannedRoute};
use super::world::{InFlight, Kind, World, WriteOp};
use client::Course;
use records::Unit;
use server::Manner;

pub(super) use client::Client;
pub(super) use server::Server;

/// Connections in a row that did not come to rest, after which an endpoint may be taken for one that
/// keeps none. The judge counts more of them than the proxy can.
const DOUBTFUL_AFTER: u32 = 3;

/// Connections of no use in a row, after which the proxy doubts what it knows of an endpoint.
const STRIKES_MAX: u32 = 3;

/// Connections that ended after an answer, from which on the proxy may open more of them at one time. The
/// judge counts more of them than the proxy can.
const UNKEPT_MAX: u32 = 8;

/// What the proxy was told of a route, as far as the judge goes by it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FastcgiRules {
    /// How connections are kept.
    pub(crate) pool: PoolOptions,
    /// How often, at least, a worker looks for those who wait.
    pub(crate) look_interval: Duration,
    /// Servers are pools of a few workers (`pools`).
    pub(crate) are_pools: bool,
}

/// Who made a request, and which of its requests it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Name(usize, usize);

impl Name {
    /// The place of its class, where there are classes.
    fn class(self) -> usize {
        let mut numbers = NUMBERS_WITH_CLASSES.iter();
        numbers
            .position(|number| *number == self.1)
            .map_or(0, |place| place + 1)
    }

    /// The request that its client made before this one.
    fn before(self) -> Option<Self> {
        Some(Self(self.0, self.1.checked_sub(1)?))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// What a server is asked to be (specification §6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Responder = 1,
    /// It has no body, and mostly not even an empty one.
    Authorizer = 2,
    /// It has a second stream, of which nothing says how long it is.
    Filter = 3,
}

/// A request as a server is to be given it.
#[derive(Debug)]
struct Request {
    name: Name,
    id: u16,
    /// Whether the client's connection goes on after the answer.
    keep: bool,
    /// GET or HEAD.
    may_be_repeated: bool,
    role: Role,
    params: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    /// A filter's second stream.
    data: Vec<u8>,
    course: Course,
}

/// A request, and what became of it so far.
struct Entry {
    request: Rc<Request>,
    /// Its client's.
    route: usize,
    /// The rules that its worker went by when it had something of it, if that was told since.
    begun_by: Option<usize>,
    /// Those that it was served by.
    served_by: Option<usize>,
    /// The upstream that was given its head last.
    at: Option<usize>,
    /// The upstream whose server has read something of it last, and its endpoint.
    reader: Option<(usize, usize)>,
    /// What the client is to get of that upstream's script.
    answer: Vec<Unit>,
    /// That is all of it.
    is_whole: bool,
    /// The client was given some of it.
    is_told: bool,
    /// A server has spoilt it.
    excused: bool,
}

/// Everything that is known of requests.
pub(super) struct Ledger {
    /// By route. `None`: its peers speak something else.
    rules: Vec<Option<FastcgiRules>>,
    /// By route and worker: the number of the rules.
    in_effect: Vec<Vec<usize>>,
    /// By route and worker: how connections are kept, and the rules from which on, the last ones at the end.
    kept_by: Vec<Vec<Vec<(usize, PoolOptions)>>>,
    entries: HashMap<Name, Entry>,
    /// By [`Ledger::known_as`]: endpoints as each worker has come to know them.
    endpoints: Vec<Endpoint>,
    workers: usize,
    /// By worker and route: since when somebody has waited there for too long, and too many have.
    overdue_since: HashMap<(usize, usize), Instant>,
}

/// An endpoint, and what one worker can know of it: no other one tells it.
struct Endpoint {
    manner: Manner,
    /// How many connections it accepts at one time. `None`: any number.
    workers_max: Option<usize>,
    route: usize,
    /// Connections that ended after an answer.
    ends: u32,
    /// A kept connection has served another request, and none has ended since.
    is_proven: bool,
    /// A server there has talked nonsense, and the proxy may have heard it.
    may_be_another: bool,
    /// A kept connection was given another request.
    is_reused: bool,
    /// It has answered a fence before the end of an answer.
    answers_early: bool,
    /// The proxy knows that it answers the fence in its turn; no more connections than these have ended since it
    /// saw that. It counts those that were of no use.
    in_turn: Option<u32>,
    /// How often it had reason to know nothing any more.
    upsets: u32,
}

/// The ways that connections are kept in, as often as they are to be met with.
const MANNERS: [Manner; 9] = [
    Manner::Usual,
    Manner::Usual,
    Manner::Usual,
    Manner::Usual,
    Manner::Silent,
    Manner::Retiring,
    Manner::AnyTime,
    Manner::Abrupt,
    Manner::LastId,
];

impl Endpoint {
    fn new(manner: Manner, route: usize) -> Self {
        Self {
            manner,
            workers_max: None,
            route,
            ends: 0,
            is_proven: false,
            may_be_another: false,
            is_reused: false,
            answers_early: false,
            in_turn: None,
            upsets: 0,
        }
    }

    /// The proxy knows nothing of it.
    fn upset(&mut self) {
        self.in_turn = None;
        self.upsets += 1;
    }

    /// A kept connection has served a request, which began when it was in this state: the proxy has learned that
    /// some time between.
    fn has_kept(&mut self, since: Since) {
        self.is_proven = true;
        if self.upsets == since.upsets {
            let ends = self.ends - since.ends;
            let ends = self.in_turn.map_or(ends, |known| known.min(ends));
            self.in_turn = Some(ends).filter(|ends| *ends < STRIKES_MAX);
        }
    }

    fn state(&self) -> Since {
        Since {
            ends: self.ends,
            upsets: self.upsets,
        }
    }
}

/// How much had happened at an endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    ends: u32,
    upsets: u32,
}

impl Ledger {
    pub(super) fn new(routes: &mut [PlannedRoute], workers: usize, dice: &mut Dice) -> Self {
        let mut endpoints = Vec::new();
        for (route, planned) in routes.iter().enumerate() {
            let are_pools = planned.fastcgi.is_some_and(|rules| rules.are_pools);
            let are_steady = are_pools || planned.fastcgi.is_some() && dice.one_in(3);
            for _ in &planned.endpoints {
                let manner = match planned.fastcgi {
                    Some(_) if !are_steady => dice.pick(&MANNERS),
                    _ => Manner::Steady,
                };
                let workers_max = are_pools.then(|| dice.pick(&[1, 2, 3, 6]));
                endpoints.extend((0..workers).map(|_| Endpoint {
                    workers_max,
                    ..Endpoint::new(manner, route)
                }));
            }
        }
        let kept_by = routes.iter().map(|route| {
            let pool = route.fastcgi.as_ref().map(|rules| (0, rules.pool));
            vec![Vec::from_iter(pool); workers]
        });
        Self {
            kept_by: kept_by.collect(),
            in_effect: vec![vec![0; workers]; routes.len()],
            rules: routes
                .iter_mut()
                .map(|route| route.fastcgi.take())
                .collect(),
            entries: HashMap::new(),
            endpoints,
            workers,
            overdue_since: HashMap::new(),
        }
    }

    /// Whether peers of this route speak FastCGI.
    pub(super) fn has(&self, route: usize) -> bool {
        self.rules[route].is_some()
    }

    /// Whether those of no route do.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.iter().all(Option::is_none)
    }

    /// Where it stands what a worker knows of an endpoint.
    fn known_as(&self, worker: usize, endpoint: usize) -> usize {
        endpoint * self.workers + worker
    }

    /// What the proxy was told of the route of an endpoint.
    fn rules_of(&self, known_as: usize) -> FastcgiRules {
        let rules = &self.rules[self.endpoints[known_as].route];
        FastcgiRules {
            pool: *self
                .options_since(known_as, usize::MAX)
                .next()
                .expect("the last ones"),
            ..*rules.as_ref().expect("its servers speak FastCGI")
        }
    }

    /// How the worker that knows an endpoint so has kept connections to it, by these rules and all that followed. The
    /// last ones included, whatever their number.
    fn options_since(
        &self,
        known_as: usize,
        generation: usize,
    ) -> impl Iterator<Item = &PoolOptions> {
        let of_route = &self.kept_by[self.endpoints[known_as].route];
        let all = &of_route[known_as % self.workers];
        let first = all.iter().rposition(|(from, _)| *from <= generation);
        let first = first.unwrap_or_default().min(all.len() - 1);
        all[first..].iter().map(|(_, options)| options)
    }

    /// From these rules on, the worker keeps the connections of the route so.
    pub(super) fn keeps_by(
        &mut self,
        route: usize,
        worker: usize,
        generation: usize,
        options: PoolOptions,
    ) {
        self.kept_by[route][worker].push((generation, options));
    }

    /// The number of the rules that the worker goes by that knows an endpoint so.
    fn rules_in_effect(&self, known_as: usize) -> usize {
        self.in_effect[self.endpoints[known_as].route][known_as % self.workers]
    }

    /// The worker serves the route by these rules.
    pub(super) fn goes_by(&mut self, route: usize, worker: usize, generation: usize) {
        self.in_effect[route][worker] = generation;
    }

    /// The worker has something of these requests, and goes by these rules.
    pub(super) fn have_begun(&mut self, requests: impl Iterator<Item = Name>, generation: usize) {
        for name in requests {
            self.entry_mut(Some(name))
                .begun_by
                .get_or_insert(generation);
        }
    }

    /// The client is accepted by this route.
    pub(super) fn come_to(&mut self, client: &Client, route: usize) {
        for request in client.requests() {
            self.entry_mut(Some(request.name)).route = route;
        }
    }

    fn entry(&self, name: Option<Name>) -> &Entry {
        &self.entries[&name.expect("a request is known by its head")]
    }

    fn entry_mut(&mut self, name: Option<Name>) -> &mut Entry {
        let entry = name.and_then(|name| self.entries.get_mut(&name));
        entry.expect("a request is known by its head")
    }

    fn find(&self, text: &[u8]) -> Option<Name> {
        let names = self.entries.keys();
        names
            .copied()
            .find(|name| name.to_string().as_bytes() == text)
    }

    fn excuse(&mut self, name: Option<Name>) {
        if name.is_some() {
            self.entry_mut(name).excused = true;
        }
    }

    /// Whether a connection to this endpoint may be kept after so many requests, the last of which began by these
    /// rules; and whether it is to be.
    fn is_kept_after(&self, requests: u32, endpoint: usize, begun_by: usize) -> (bool, bool) {
        let is_kept = |pool: &PoolOptions| pool.reuse && requests < pool.requests_max;
        let options = || self.options_since(endpoint, begun_by);
        (options().any(is_kept), options().all(is_kept))
    }

    /// An upstream, of this route, was given the head of a request.
    fn begun(&mut self, name: Name, at: usize, route: usize, is_spoilt: bool) {
        let entry = self.entry_mut(Some(name));
        rule!(
            "stays_on_its_route",
            entry.route == route,
            "{name} came to route {}, and upstream {at} is of route {route}",
            entry.route
        );
        rule!(
            "answers_belong",
            !entry.is_told,
            "{name} is sent to upstream {at}, and its client has a part of another answer"
        );
        entry.at = Some(at);
        entry.answer.clear();
        entry.is_whole = false;
        entry.excused |= is_spoilt;
    }

    /// Whether the proxy may take the server at this endpoint for one that keeps no connections.
    fn is_doubtful(&self, endpoint: usize) -> bool {
        self.endpoints[endpoint].ends >= DOUBTFUL_AFTER
    }

    /// Whether this worker has seen no reason to think that connections to this endpoint are never kept.
    pub(super) fn keeps_connections(&self, worker: usize, endpoint: usize) -> bool {
        let known_as = self.known_as(worker, endpoint);
        let endpoint = &self.endpoints[known_as];
        self.has(endpoint.route) && self.rules_of(known_as).pool.reuse && endpoint.ends < UNKEPT_MAX
    }

    /// These endpoints have left the addresses. Should they come back, the proxy knows nothing of them.
    pub(super) fn forget(&mut self, endpoints: Range<usize>) {
        let known = endpoints.start * self.workers..endpoints.end * self.workers;
        for endpoint in &mut self.endpoints[known] {
            endpoint.is_proven = false;
            endpoint.upset();
        }
    }

    /// A server has read something of a request.
    fn read_by(&mut self, name: Name, me: usize, endpoint: usize) {
        let entry = self.entry_mut(Some(name));
        let may_be_repeated = entry.request.may_be_repeated;
        let (first, was_at) = entry
            .reader
            .replace((me, endpoint))
            .unwrap_or((me, endpoint));
        // Until a kept connection has served a request, a server may be one that closes them.
        let is_unproven = !self.endpoints[was_at].is_proven;
        rule!(
            "sent_once",
            first == me || is_unproven && may_be_repeated,
            "{name} is read by upstream {me} and was read by upstream {first}"
        );
    }

    /// A connection that served a request has ended. `has_failed`: not in order, as far as the proxy knows.
    fn ended(&mut self, server: &Server, has_failed: bool) {
        if server.requests > 0 {
            let current = server.current.and_then(|name| self.entries.get(&name));
            let is_broken = current.is_some_and(|entry| entry.excused);
            let endpoint = &mut self.endpoints[server.endpoint];
            endpoint.ends += 1;
            endpoint.is_proven = false;
            endpoint.may_be_another |= server.talks_nonsense;
            let ends = endpoint.in_turn.map(|ends| ends + 1);
            endpoint.in_turn = ends.filter(|ends| *ends < STRIKES_MAX);
            if is_broken || has_failed {
                endpoint.upset();
            }
        }
    }

    /// A kept connection is given another request.
    fn reused(&mut self, endpoint: usize) {
        self.endpoints[endpoint].is_reused = true;
    }

    /// A server says what is, or is like, the answer to a fence before it has ended its own.
    fn answered_early(&mut self, endpoint: usize) {
        self.endpoints[endpoint].answers_early = true;
    }

    /// Whether the server at this endpoint may be given the fence before it has a request.
    fn may_be_asked_first(&self, endpoint: usize) -> bool {
        let endpoint = &self.endpoints[endpoint];
        endpoint.workers_max.is_some() && endpoint.is_reused
    }

    /// Whether the server at this endpoint may be given the fence with a request.
    fn may_be_asked_early(&self, endpoint: usize) -> bool {
        self.endpoints[endpoint].is_reused
    }
}

/// What the proxy says for itself.
fn answer_of_proxy(answer: Answer, id: u16) -> Vec<u8> {
    let id = RequestId::application(id.try_into().expect("no client has 0"));
    let mut bytes = Vec::new();
    answer.write(id, &mut bytes);
    bytes
}

/// What a peer speaks.
pub(super) enum Speech {
    /// Bytes of a pattern.
    Pattern,
    Client(Box<Client>),
    Server(Box<Server>),
}

impl fmt::Debug for Speech {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern => f.write_str("bytes"),
            Self::Client(client) => {
                let requests = client
                    .requests()
                    .map(|r| (r.name.1, r.course, r.body.len()));
                f.debug_list().entries(requests).finish()
            }
            Self::Server(server) => server.fmt(f),
        }
    }
}

// --- the world's part -----------------------------------------------------------------------------

impl World {
    /// A client with requests.
    pub(super) fn client_with_requests(&mut self, key: u8, route: usize) -> Peer {
        let markers = match self.scenario.marks_rules {
            true => GENERATIONS_MAX,
            false => 0,
        };
        let client = Client::new(usize::from(key), markers, &mut self.dice);
        let ledger = &mut self.ledger;
        for request in client.requests() {
            let entry = Entry {
                request: Rc::clone(request),
                route,
                begun_by: None,
                served_by: None,
                at: None,
                reader: None,
                answer: Vec::new(),
                is_whole: false,
                is_told: false,
                excused: false,
            };
            ledger.entries.insert(request.name, entry);
        }
        let plan = Plan {
            total: client.script_len(),
            ending: client::ending(client.script_len(), &mut self.dice),
            appetite: if self.dice.one_in(3) { 500 } else { 200_000 },
        };
        let mut peer = Peer::new(key, route, plan);
        peer.speech = Speech::Client(Box::new(client));
        peer
    }

    /// A connection of a worker's to a server.
    pub(super) fn server_at(
        &mut self,
        key: u8,
        endpoint: usize,
        (worker, made_by): (usize, Option<usize>),
    ) -> Peer {
        let known_as = self.ledger.known_as(worker, endpoint);
        let Endpoint {
            manner,
            route,
            workers_max,
            ..
        } = self.ledger.endpoints[known_as];
        let mut server = Server::new(known_as, manner);
        if workers_max.is_some() {
            server.in_backlog_since = Some(self.now);
        }
        server.made_by = made_by;
        let plan = Plan {
            total: 0,
            ending: PlannedEnding::AfterPeer,
            appetite: if self.dice.one_in(3) { 500 } else { 200_000 },
        };
        let mut peer = Peer::new(key, route, plan);
        peer.speech = Speech::Server(Box::new(server));
        peer
    }

    /// A peer's step.
    pub(super) fn act(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        let speech = mem::replace(&mut peer.speech, Speech::Pattern);
        let (was_gone, was_broken) = (peer.gone, peer.is_broken());
        match speech {
            Speech::Pattern => peer.act(self.now, &mut self.dice),
            Speech::Client(client) => {
                peer.act_as_client(&client, self.now, &mut self.dice);
                peer.speech = Speech::Client(client);
            }
            Speech::Server(mut server) => {
                let ledger = &mut self.ledger;
                serve(peer, index, &mut server, self.now, ledger, &mut self.dice);
                let has_ended = (peer.gone, peer.is_broken()) != (was_gone, was_broken);
                if has_ended {
                    ledger.endpoints[server.endpoint].is_proven = false;
                    if !server.is_idle(peer.sent) {
                        ledger.excuse(server.current);
                        ledger.endpoints[server.endpoint].upset();
                    }
                    if peer.is_broken() && server.destroys_answer() {
                        peer.sent = peer.taken;
                    }
                }
                peer.speech = Speech::Server(server);
                if has_ended {
                    self.note(|| format!("backend {index} ends"));
                    self.send_in_flight_is_lost(index);
                }
            }
        }
    }

    /// Gives bytes to a peer that speaks FastCGI.
    pub(super) fn give_records(&mut self, index: usize, bytes: &[u8]) {
        let peer = &mut self.peers[index];
        rule!(
            "end_told_after_last_byte",
            !peer.told_end,
            "peer {index} gets more after its end"
        );
        if peer.gone {
            // Into the void. The answer is a reset, which comes behind an end that was sent before.
            if peer.send_side == SendSide::Open {
                peer.break_off(Errno(libc::ECONNRESET));
            }
            return;
        }
        let at = peer.given;
        peer.given += bytes.len() as u64;
        let taken = peer.taken;
        match mem::replace(&mut peer.speech, Speech::Pattern) {
            Speech::Client(mut client) => {
                self.client_hears(&mut client, bytes, at);
                self.peers[index].speech = Speech::Client(client);
            }
            Speech::Server(mut server) => {
                let ledger = &mut self.ledger;
                let begun = server.requests;
                server.hear(index, bytes, at, taken, ledger);
                let has_begun = server.requests > begun;
                self.peers[index].speech = Speech::Server(server);
                if has_begun {
                    self.judge_classes(index);
                }
            }
            Speech::Pattern => unreachable!("it speaks FastCGI"),
        }
    }

    fn client_hears(&mut self, client: &mut Client, bytes: &[u8], at: u64) {
        client.take_in(bytes);
        let end = at + bytes.len() as u64;
        while let Some((next, left)) = client.next_record() {
            let ledger = &mut self.ledger;
            let name = client.waits_for().map(|request| request.name);
            let entry = name.and_then(|name| ledger.entries.get_mut(&name));
            let backend = entry.filter(|entry| entry.at.is_some()).map(|entry| {
                entry.is_told = true;
                (&entry.answer[..], entry.is_whole)
            });
            let is_due = match &next {
                Ok(record) => client.hear(record, end - left as u64, backend),
                Err(version) => {
                    // Nothing comes behind it.
                    let is_sign = *version == 0 && left == BROKEN_OFF.len();
                    ledger.excuse(name);
                    is_sign && client.hear_break()
                }
            };
            rule!(
                "answers_belong",
                is_due,
                "request {name:?}: its client is given {next:?}, which is no part of its answer"
            );
            if next.is_err() {
                return;
            }
            if let Some((Answer::Unavailable(_), unbegun_until)) = client.own_answer() {
                let name = name.expect("it was answered");
                self.judge_shed(self.ledger.entries[&name].route, unbegun_until);
                return;
            }
        }
    }

    /// A server has ended with a part of a send, maybe.
    fn send_in_flight_is_lost(&mut self, index: usize) {
        for sock in self.live.clone() {
            let socket = self.sockets.get(sock);
            let is_sending = matches!(
                socket.write,
                Some(InFlight {
                    op: WriteOp::Send { .. },
                    ..
                })
            );
            if socket.kind == Kind::Upstream(Some(index)) && is_sending {
                self.send_is_lost(sock, index, None);
            }
        }
    }

    /// A send to a server that is gone: the request may fail, unless it is seen that nothing of it can
    /// have been read, and its body is short enough to be kept for another server. A send that fails hides that:
    /// a reset may be what it found.
    pub(super) fn send_is_lost(&mut self, sock: Sock, index: usize, failure: Option<Errno>) {
        let write = &self.sockets.get(sock).write;
        let Speech::Server(server) = &self.peers[index].speech else {
            return;
        };
        let Some(InFlight {
            op: WriteOp::Send { buf, sent },
            ..
        }) = write
        else {
            unreachable!("a send is in flight")
        };
        let is_begun = *sent > 0 || failure.is_some();
        let ledger = &mut self.ledger;
        let mut records = records::Records::default();
        records.push(&buf[..]);
        let (mut name, mut is_whole, mut params) = (server.current, false, Vec::new());
        let (mut is_head, mut is_filter, mut body_bytes) = (false, false, 0);
        while let Ok(Some(record)) = records.next() {
            match record.kind {
                records::BEGIN => {
                    is_head = true;
                    is_filter = record.content.get(1) == Some(&(Role::Filter as u8));
                }
                records::PARAMS if is_head => params.extend(record.content),
                records::STDIN if is_head => {
                    body_bytes += record.wire_len();
                    is_whole = record.content.is_empty() && !is_filter;
                }
                _ => {}
            }
        }
        if is_head {
            let params = records::pairs(&params).unwrap_or_default();
            let text = params.iter().find(|(name, _)| name == b"SIM_REQUEST");
            name = text.and_then(|(_, text)| ledger.find(text));
        }
        let has_proof = is_whole
            && body_bytes <= REPLAY_BYTES_MAX
            && !is_begun
            && server.requests > 0
            && !server.is_spoilt
            && self.peers[index].send_side == SendSide::Fin;
        if !has_proof {
            ledger.excuse(name);
        }
    }

    /// How much of what a server was given its kernel has acknowledged, as far as ours knows: behind a
    /// reset, that can be out of date.
    pub(super) fn acknowledged_by(&mut self, index: usize) -> u64 {
        let peer = &self.peers[index];
        let Speech::Server(server) = &peer.speech else {
            return peer.given;
        };
        let (least, most) = (server.acknowledged, peer.given);
        if peer.is_broken() && self.dice.one_in(2) {
            least
        } else {
            most
        }
    }

    /// When a server does something by itself.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = self.peers.iter().filter_map(|peer| match &peer.speech {
            Speech::Server(server) if !peer.gone => server.next_due(),
            _ => None,
        });
        due.min()
    }
}

/// A step of a server's.
fn serve(
    peer: &mut Peer,
    me: usize,
    server: &mut Server,
    now: Instant,
    ledger: &mut Ledger,
    dice: &mut Dice,
) {
    if server.is_due(now) && dice.one_in(2) {
        let place = (peer.read, peer.given, peer.sent);
        server.do_due(me, place, now, ledger, dice);
    } else if peer.read < peer.given && dice.one_in(2) {
        let max = peer.plan.appetite.min(peer.given - peer.read);
        peer.read += dice.between(1, max);
        server.has_read(me, peer.read, now, ledger, dice);
    } else if peer.can_say(server.script_len(), now) && dice.below(4) > 0 {
        peer.say(server.script_len(), now, dice);
        server.acknowledged = peer.given;
    } else if server.wants_to_close(peer.sent) || peer.sees_end() {
        peer.close_socket();
    }
}
