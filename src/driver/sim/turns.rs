//! What happens by itself: peers act, clients come, addresses change, endpoints fail and recover, the daemon
//! drains; and time passes when nothing else can.

use std::mem;
use std::time::{Duration, Instant, SystemTime};

use crate::driver::{Lane, Sock};
use crate::worker::Notice;

use super::fastcgi::Ledger;
use super::judge::Event;
use super::peer::{Peer, Plan, PlannedEnding};
use super::world::{InFlight, Outage, Told, World, WriteOp};
use super::{CLIENTS_MAX, is_client};

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
        let peer = if self.ledger.is_some() {
            self.client_with_requests(key)
        } else {
            let plan = self.plan(self.scenario.patient_clients);
            Peer::new(key, plan)
        };
        self.note(|| format!("client {peer:?}"));
        self.clients_to_come -= 1;
        self.backlog.push_back(self.peers.len());
        self.peers.push(peer);
    }

    pub(super) fn addresses_change(&mut self) {
        let count = self.dice.between(0, self.scenario.endpoints.len() as u64);
        let count = usize::try_from(count).expect("a few");
        let count = count.max(usize::from(self.is_calm()));
        // Some address must come in the end, or clients wait until their time is up.
        self.disturbed |= count == 0 || self.scenario.removed_are_cut;
        let endpoints = self.scenario.endpoints[..count].to_vec();
        self.note(|| format!("addresses: {endpoints:?}"));
        if let Some(ledger) = &mut self.ledger {
            ledger.forget_from(count);
        }
        if self
            .scenario
            .published
            .publish(endpoints, SystemTime::UNIX_EPOCH)
        {
            self.scenario.mailbox.post(Notice::Addresses);
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
        self.scenario.mailbox.post(match told {
            Told::Drain => Notice::Drain,
            Told::Cut => Notice::Cut,
            Told::Nothing => unreachable!("that is no notice"),
        });
        self.disturbed |= told == Told::Cut;
    }

    /// Something happens outside of the worker. True if it needs to hear of it.
    pub(super) fn happen(&mut self) -> bool {
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
        if self.scenario.outages && self.dice.one_in(30) {
            self.an_endpoint_fails_or_recovers();
        }
        let all_came = self.clients_to_come == 0;
        // What takes place between requests takes time.
        let drains_in = if self.ledger.is_some() { 400 } else { 20 };
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
            if self.dice.below(4) > 0 {
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
        [connects, self.next_due()].into_iter().flatten().min()
    }

    /// Nothing goes wrong but what peers do.
    pub(super) fn is_calm(&self) -> bool {
        self.ledger.as_ref().is_some_and(Ledger::is_calm)
    }

    pub(super) fn turn(&mut self, until: Option<Instant>) {
        self.tell_late_events();
        self.replenish();
        self.judge_rest();
        self.judge(&Event::Turns);
        let wait = until.map(|at| at.saturating_duration_since(self.now));
        let waits = wait != Some(Duration::ZERO);
        self.note(|| format!("turn, waiting at most {wait:?}"));
        self.now += Duration::from_micros(self.dice.below(200));
        self.judge(&Event::Waits);
        // Only when nothing is left to happen does time pass by itself.
        loop {
            let told = self.happen();
            self.complete_some();
            if !self.finished.is_empty() || told {
                self.judge(&Event::Advances);
                return;
            }
            if until.is_some_and(|at| at <= self.now) {
                self.judge(&Event::Idles { waits });
                return;
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
        if !self.finished.is_empty() || self.somebody_can_act() {
            self.judge(&Event::Advances);
            return;
        }
        match [until, self.next_answer()].into_iter().flatten().min() {
            Some(at) => {
                self.now = self.now.max(at);
                self.judge(&Event::Jumps);
                // Time passes only when nothing else can: whoever waits may be given up on.
                let is_given_up = until.is_some_and(|until| until <= at);
                self.disturbed |= is_given_up && !self.is_calm();
            }
            None if self.told == Told::Nothing => self.tell(Told::Drain),
            None => self.judge(&Event::IsStuck),
        }
    }

    pub(super) fn somebody_can_act(&self) -> bool {
        self.peers.iter().any(|peer| peer.can_act(self.now))
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
