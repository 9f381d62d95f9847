//! What happens by itself: peers act, clients come, addresses change, endpoints fail and recover, the daemon
//! drains; and time passes when nothing else can.

use std::mem;
use std::time::{Duration, Instant, SystemTime};

use crate::driver::{Lane, Sock};
use crate::worker::Notice;

use super::dice::Dice;
use super::judge::Event;
use super::peer::{Peer, Plan, PlannedEnding};
use super::world::{InFlight, Outage, Told, World, WriteOp};
use super::{CLIENTS_MAX, is_client};

/// A worker that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) worker: usize,
    until: Option<Instant>,
    /// It is to wait at all.
    is_long: bool,
}

fn count_below(dice: &mut Dice, below: usize) -> usize {
    usize::try_from(dice.below(below as u64)).expect("an index")
}

impl World {
    /// `patient`: it may wait for the other side to end. If both did, they would for ever.
    pub(super) fn plan(&mut self, patient: bool) -> Plan {
        let bulk = self.dice.one_in(3);
        let total = match self.dice.below(4) {
            0 => 0,
            _ if bulk => self.dice.between(1, 300_000),
            _ => self.dice.between(1, 5_000),
        };
        let ending = match self.dice.below(8) {
            0..3 => PlannedEnding::HalfClose,
            3 => PlannedEnding::Close,
            4..7 if patient => PlannedEnding::AfterPeer,
            4..7 => PlannedEnding::HalfClose,
            _ => PlannedEnding::Abort(self.dice.below(total + 1)),
        };
        let appetite = if self.dice.one_in(3) { 500 } else { 200_000 };
        Plan {
            total,
            ending,
            appetite,
        }
    }

    pub(super) fn a_client_comes(&mut self) {
        let key = u8::try_from(self.peers.iter().filter(|p| is_client(p.key)).count());
        let key = key.expect("clients are few");
        assert!(key < CLIENTS_MAX, "keys tell clients from backends");
        let open = self.backlogs.iter().enumerate();
        let open: Vec<_> = open.filter(|(_, backlog)| backlog.is_open).collect();
        let (at, backlog) = match open[..] {
            [] => return,
            [only] => only,
            _ => open[count_below(&mut self.dice, open.len())],
        };
        let route = backlog.route;
        let peer = if self.ledger.has(route) {
            self.client_with_requests(key, route)
        } else {
            let plan = self.plan(self.scenario.patient_clients);
            Peer::new(key, route, plan)
        };
        self.note(|| format!("client {peer:?}"));
        self.clients_to_come -= 1;
        self.backlogs[at].clients.push_back(self.peers.len());
        self.peers.push(peer);
    }

    /// One of the routes.
    pub(super) fn some_route(&mut self) -> usize {
        match self.scenario.routes.len() {
            1 => 0,
            routes => usize::try_from(self.dice.below(routes as u64)).expect("an index"),
        }
    }

    pub(super) fn addresses_change(&mut self) {
        let route = self.some_route();
        let most = self.scenario.routes[route].endpoints.len();
        let count = self.dice.between(0, most as u64);
        let count = usize::try_from(count).expect("a few");
        let count = count.max(usize::from(self.scenario.calm));
        let planned = &self.scenario.routes[route];
        // Some address must come in the end, or clients wait until their time is up.
        self.disturbed |= count == 0 || planned.removed_are_cut;
        let endpoints = planned.endpoints[..count].to_vec();
        self.note(|| format!("addresses of route {route}: {endpoints:?}"));
        let before = self.endpoints.iter().take_while(|e| e.route < route);
        let first = before.count();
        self.ledger.forget(first + count..first + most);
        let published = &self.scenario.routes[route].published;
        if published.publish(endpoints, SystemTime::UNIX_EPOCH) {
            self.look_whether_any_serves(route);
            self.tell_of(route);
        }
    }

    /// Tells all workers that something has changed of a route's endpoints.
    pub(super) fn tell_of(&self, route: usize) {
        let endpoints = self.scenario.routes[route].published.number();
        for mailbox in &self.scenario.mailboxes {
            mailbox.tell_of(endpoints);
        }
    }

    /// Tells all workers.
    pub(super) fn post(&self, notice: Notice) {
        for mailbox in &self.scenario.mailboxes {
            mailbox.post(notice);
        }
    }

    pub(super) fn an_endpoint_fails_or_recovers(&mut self) {
        let count = self.outages.len() as u64;
        let index = usize::try_from(self.dice.below(count)).expect("an index");
        let outage = self
            .dice
            .pick(&[None, Some(Outage::Refuses), Some(Outage::Silent)]);
        self.note(|| format!("endpoint {index}: {outage:?}"));
        self.outages[index] = outage;
        self.disturbed |= outage.is_some();
    }

    pub(super) fn tell(&mut self, told: Told) {
        self.note(|| if told == Told::Drain { "drain" } else { "cut" }.to_owned());
        self.told = told;
        self.post(match told {
            Told::Drain => Notice::Drain,
            Told::Cut => Notice::Cut,
            Told::Nothing => unreachable!("that is no notice"),
        });
        self.disturbed |= told == Told::Cut;
    }

    /// Something happens outside of the worker. True if it needs to hear of it.
    pub(super) fn happen(&mut self) -> bool {
        self.accept_in_pools();
        for index in 0..self.peers.len() {
            if self.dice.one_in(2) && self.peers[index].can_act(self.now) {
                self.act(index);
            }
        }
        if self.clients_to_come > 0 && self.told == Told::Nothing && self.dice.one_in(3) {
            self.a_client_comes();
        }
        if self.dice.one_in(60) {
            self.addresses_change();
            return true;
        }
        if self.scenario.by_hand && self.dice.one_in(25) && self.a_hand_is_laid_on() {
            return true;
        }
        if self.somebody_asks() {
            return true;
        }
        if self.scenario.outages && self.dice.one_in(30) {
            self.an_endpoint_fails_or_recovers();
        }
        let all_came = self.clients_to_come == 0;
        // What takes place between requests takes time.
        let drains_in = if self.ledger.is_empty() { 20 } else { 400 };
        if self.told == Told::Nothing
            && (all_came && self.dice.one_in(drains_in) || self.dice.one_in(2000))
        {
            self.tell(Told::Drain);
            return true;
        }
        // Nor would it be seen behind a cut that nothing can happen any more.
        if self.told == Told::Drain && self.dice.one_in(3000) && !self.judge.is_quiet(self.now) {
            self.tell(Told::Cut);
            return true;
        }
        false
    }

    /// Lets a random choice of ops end.
    pub(super) fn complete_some(&mut self) {
        let mut lanes: Vec<_> = self
            .live
            .iter()
            .flat_map(|&s| [(s, Lane::Read), (s, Lane::Write)])
            .collect();
        while !lanes.is_empty() {
            let index = usize::try_from(self.dice.below(lanes.len() as u64)).expect("an index");
            let (sock, lane) = lanes.swap_remove(index);
            let is_late = match lane {
                Lane::Read if self.sockets.get(sock).is_slow => !self.dice.one_in(16),
                Lane::Read | Lane::Write => self.dice.one_in(4),
            };
            if !is_late {
                self.advance(sock, lane);
            }
        }
    }

    /// The next time at which something happens by itself.
    pub(super) fn next_answer(&mut self) -> Option<Instant> {
        let live = self.live.clone();
        let connects = live
            .into_iter()
            .filter_map(|sock| match &self.sockets.get(sock).write {
                Some(InFlight {
                    op: WriteOp::Connect { answer_at, .. },
                    finished: false,
                    ..
                }) => *answer_at,
                _ => None,
            });
        let connects = connects.filter(|&at| at > self.started).min();
        let held = self.peers.iter();
        let held = held.filter_map(|peer| peer.acknowledged_at(self.now));
        let dates = [connects, self.next_due(), held.min()];
        dates.into_iter().flatten().min()
    }

    pub(super) fn turn(&mut self, until: Option<Instant>) {
        let only = self.begin_wait(until);
        self.end_wait(&[only]);
    }

    /// The worker has done all that it can do.
    pub(super) fn begin_wait(&mut self, until: Option<Instant>) -> Waiting {
        self.tell_late_events();
        self.replenish();
        self.judge_rest();
        self.hear_looks();
        self.judge(&Event::Turns);
        let wait = until.map(|at| at.saturating_duration_since(self.now));
        let worker = self.at;
        self.note(|| format!("turn of worker {worker}, waiting at most {wait:?}"));
        if wait != Some(Duration::ZERO) {
            self.judge(&Event::Rests);
        }
        self.now += Duration::from_micros(self.dice.below(200));
        self.judge(&Event::Waits);
        Waiting {
            worker,
            until,
            is_long: wait != Some(Duration::ZERO),
        }
    }

    /// Lets things happen until the wait of one of these ends. Its place among them.
    pub(super) fn end_wait(&mut self, all: &[Waiting]) -> usize {
        // Only when nothing is left to happen does time pass by itself.
        loop {
            let is_told = self.happen();
            self.complete_some();
            if let Some(woken) = self.woken(all, is_told) {
                return woken;
            }
            let quiet = !self.somebody_can_act() && self.clients_to_come == 0;
            if quiet && self.dice.one_in(8) {
                break;
            }
        }
        for sock in self.live.clone() {
            self.advance(sock, Lane::Read);
            self.advance(sock, Lane::Write);
        }
        // A part of a send may have gone out, and its peer can read now.
        let has_finished = |waiting: &Waiting| self.has_finished(waiting.worker);
        let is_next = all.iter().position(has_finished);
        if is_next.is_some() || self.somebody_can_act() {
            self.judge(&Event::Advances);
            return is_next.unwrap_or(0);
        }
        self.judge(&Event::IsQuiet);
        let earliest = all.iter().filter_map(|waiting| waiting.until).min();
        match [earliest, self.next_answer()].into_iter().flatten().min() {
            Some(at) => {
                self.now = self.now.max(at);
                self.judge(&Event::Jumps);
                // Time passes only when nothing else can: whoever waits may be given up on.
                let is_given_up = earliest.is_some_and(|until| until <= at);
                self.disturbed |= is_given_up && !self.scenario.calm;
            }
            None if self.told == Told::Nothing => {
                self.judge(&Event::Sleeps);
                self.tell(Told::Drain);
            }
            None => self.judge(&Event::IsStuck),
        }
        let is_first = |waiting: &Waiting| waiting.until == earliest;
        all.iter().position(is_first).unwrap_or(0)
    }

    /// Whose wait has ended, by its place among these: one of those for which something has happened, that were
    /// told something, or whose time has come. Any of them may be the next to run.
    fn woken(&mut self, all: &[Waiting], is_told: bool) -> Option<usize> {
        let is_woken = |waiting: &Waiting| {
            self.has_finished(waiting.worker)
                || is_told
                || self.scenario.mailboxes[waiting.worker].has_notices()
                || waiting.until.is_some_and(|at| at <= self.now)
        };
        let places = all.iter().enumerate();
        let woken: Vec<_> = places.filter(|(_, waiting)| is_woken(waiting)).collect();
        let (place, waiting) = match woken[..] {
            [] => return None,
            [only] => only,
            _ => self.dice.pick(&woken),
        };
        if is_told || self.has_finished(waiting.worker) {
            self.judge(&Event::Advances);
        } else {
            let has_come = waiting.until.is_some_and(|at| at <= self.now);
            let waits = waiting.is_long && has_come;
            self.judge(&Event::Idles { waits });
        }
        Some(place)
    }

    fn has_finished(&self, worker: usize) -> bool {
        !self.drivers[worker].finished.is_empty()
    }

    pub(super) fn somebody_can_act(&self) -> bool {
        self.peers.iter().any(|peer| peer.can_act(self.now)) || self.next_accepted().is_some()
    }

    // --- stale events -------------------------------------------------------------------------

    /// A descriptor is closed after its socket is forgotten, and until then the kernel tells what happens to it:
    /// each socket that is closed is told of once more, when its slot has been given to another one. What a
    /// driver makes of that is told by the table that all drivers share: whoever believes it finds the other one
    /// ready.
    pub(super) fn tell_late_events(&mut self) {
        let slots: Vec<_> = self.live.iter().map(|sock| sock.index()).collect();
        let is_reused = |sock: &Sock| slots.contains(&sock.index());
        let (told, later) = mem::take(&mut self.late_events)
            .into_iter()
            .partition(is_reused);
        self.late_events = later;
        for closed in told {
            self.stale_events += 1;
            let believed = self.sockets.of_event(closed.token());
            let believed = believed.map(|(sock, _)| sock);
            self.judge(&Event::IsStale { closed, believed });
        }
    }
}
