//! What a balancer makes of a new set.

use std::rc::Rc;
use std::sync::Arc;

use super::super::AddressSet;
use super::classes::kept;
use super::lease::{Member, Rank};
use super::policy::{InTurn, groups, running_sums, shares};
use super::{Balancer, Family};

impl Balancer {
    pub(super) fn adopt(&mut self, set: Arc<AddressSet>) {
        let before = self.members.drain(..).chain(self.drained.drain(..));
        before.for_each(|member| member.rank.set(Rank::Gone));
        let mut endpoints = Vec::with_capacity(set.endpoints().len());
        let all = set.endpoints().iter().zip(set.health());
        for ((endpoint, health), is_drained) in all.zip(set.drained()) {
            let (max, shared) = (self.per_endpoint_max, &self.shared);
            let kept = kept(&self.shares_of_classes);
            let seed = self.random.0.wrapping_add(self.known.len() as u64);
            let new = || {
                let member = Member::new(health, &self.recoveries, shared.clone());
                member.limit(max, seed);
                member.kept.set(kept);
                Rc::new(member.of(self.belongs_to))
            };
            let member = self.known.entry(health.address()).or_insert_with(new);
            assert!(
                Arc::ptr_eq(&member.health, health),
                "a health that somebody holds is not forgotten"
            );
            if *is_drained {
                member.rank.set(Rank::Drained);
                self.drained.push(Rc::clone(member));
            } else {
                member.rank.set(Rank::InUse);
                self.members.push(Rc::clone(member));
                endpoints.push(*endpoint);
            }
        }
        self.known.retain(|_, member| Rc::strong_count(member) > 1);
        let counted = self.known.iter();
        self.counted
            .show(counted.map(|(address, member)| (*address, Arc::clone(&member.counters))));
        self.groups = groups(&endpoints);
        self.shares = shares(&endpoints);
        self.shares_up_to = running_sums(&self.shares, &self.groups);
        self.is_mixed = [Family::V4, Family::V6].iter().all(|family| {
            endpoints
                .iter()
                .any(|endpoint| Family::of(endpoint.address) == Some(*family))
        });
        self.draw_turns();
        self.set = set;
    }

    /// Everybody's first turn: in order, from a place that is drawn, or after each swap the first
    /// endpoint would be the first again.
    fn draw_turns(&mut self) {
        self.turn = 0;
        self.turns.clear();
        self.in_turn = self.groups.iter().map(|_| InTurn::new()).collect();
        for group in &self.groups {
            let start = self.random.below(group.len() as u64);
            let place = |i: usize| (i as u64 + group.len() as u64 - start) % group.len() as u64;
            self.turns.extend((0..group.len()).map(place));
        }
    }
}
