//! Which of the endpoints of one priority that would do: by turns, by load, by lot.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::ops::Range;

use super::super::Endpoint;
use super::Balancer;
use crate::config::Balance;

/// Up to so many endpoints of one priority are all looked at for each choice. Above, [`Balance::LeastConnections`]
/// compares two that are drawn, which are nearly as good, and cost the same for any number; and whose turn it is is
/// the first of a heap.
const COMPARED_MAX: usize = 16;

/// Draws that may hit an endpoint which cannot be used, before all of them are looked at: with half
/// of them out, that happens once in 256 times.
const DRAWS_MAX: u32 = 8;

/// How often the endpoint whose turn it is may be found ejected before all of them are looked at.
const SKIPS_MAX: u32 = 8;

/// The shares of an SRV weight of 1. An endpoint with weight 0 beside others has a single share: it
/// is to have "a very small chance" (RFC 2782).
const SHARES_PER_WEIGHT: u32 = 64;

/// What a turn costs an endpoint with one share: its turns are so much further apart.
const STRIDE: u64 = 1 << 32;

/// When the turns have come so far, they are counted from 0 again.
const TURNS_MAX: u64 = 1 << 62;

/// Endpoints of one group by their turns; among equals, the first one of the set.
pub(super) type InTurn = BinaryHeap<Reverse<(u64, usize)>>;

impl Balancer {
    /// The best of one group, by the policy, among those that qualify.
    pub(super) fn find_in(
        &mut self,
        group: Range<usize>,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> Option<usize> {
        match self.policy {
            Balance::First => group.into_iter().find(|&index| qualifies(self, index)),
            Balance::RoundRobin => self.next_in_turn(group, qualifies),
            Balance::LeastConnections if group.len() <= COMPARED_MAX => {
                self.least_loaded(group, qualifies)
            }
            Balance::LeastConnections | Balance::RandomTwo => self.better_of_two(group, qualifies),
        }
    }

    /// Each has its turn, the sooner the more shares it has: the turns of one are evenly spread
    /// between those of the others.
    fn next_in_turn(
        &mut self,
        group: Range<usize>,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> Option<usize> {
        for _ in 0..SKIPS_MAX {
            let index = self.first_in_turn(&group)?;
            self.turn = self.turn.max(self.turns[index]);
            self.take_turn(index);
            self.put_back(&group);
            // Else it has had its turn. If it did not suit this session only, it misses little.
            if qualifies(self, index) {
                return Some(index);
            }
        }
        let index = group
            .clone()
            .filter(|&index| qualifies(self, index))
            .min_by_key(|&index| self.turns[index])?;
        // Others are before it.
        if let Some(number) = self.has_order(&group) {
            self.in_turn[number].clear();
        }
        Some(self.take_turn(index))
    }

    /// Whose turn is the next one, whether it can be used or not. Of many, not all are looked at.
    fn first_in_turn(&mut self, group: &Range<usize>) -> Option<usize> {
        let Some(number) = self.has_order(group) else {
            return group.clone().min_by_key(|&index| self.turns[index]);
        };
        let in_turn = &mut self.in_turn[number];
        if in_turn.is_empty() {
            let turns = group
                .clone()
                .map(|index| Reverse((self.turns[index], index)));
            in_turn.extend(turns);
        }
        in_turn.peek().map(|Reverse((_, index))| *index)
    }

    /// The one whose turn it was has taken it.
    fn put_back(&mut self, group: &Range<usize>) {
        if let Some(number) = self.has_order(group)
            && let Some(mut first) = self.in_turn[number].peek_mut()
        {
            let Reverse((turn, index)) = &mut *first;
            *turn = self.turns[*index];
        }
    }

    /// The number of a group whose members are kept in the order of their turns.
    fn has_order(&self, group: &Range<usize>) -> Option<usize> {
        let number = || {
            self.groups
                .partition_point(|other| other.start < group.start)
        };
        (group.len() > COMPARED_MAX).then(number)
    }

    /// The fewest sessions for its shares; among equals, whose turn it is.
    fn least_loaded(
        &mut self,
        group: Range<usize>,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> Option<usize> {
        let mut best: Option<usize> = None;
        let mut earliest = u64::MAX;
        for index in group {
            if !qualifies(self, index) {
                continue;
            }
            let turn = self.turns[index].max(self.turn);
            earliest = earliest.min(turn);
            let is_better = best.is_none_or(|best| {
                let best_turn = self.turns[best].max(self.turn);
                self.by_load(index, best).then(turn.cmp(&best_turn)) == Ordering::Less
            });
            if is_better {
                best = Some(index);
            }
        }
        let best = best?;
        // Others may be due before it, so this is not its own turn.
        self.turn = earliest;
        Some(self.take_turn(best))
    }

    fn better_of_two(
        &mut self,
        group: Range<usize>,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> Option<usize> {
        let first = self.draw(group.clone(), &qualifies)?;
        let is_another =
            |balancer: &Self, index: usize| index != first && qualifies(balancer, index);
        let Some(second) = self.draw(group, is_another) else {
            return Some(first);
        };
        Some(match self.by_load(second, first) {
            Ordering::Less => second,
            Ordering::Equal | Ordering::Greater => first,
        })
    }

    /// One of those that qualify, by its shares.
    fn draw(
        &mut self,
        group: Range<usize>,
        qualifies: impl Fn(&Self, usize) -> bool,
    ) -> Option<usize> {
        let sums = group.clone();
        let total = self.shares_up_to[sums.clone()].last().copied()?;
        for _ in 0..DRAWS_MAX {
            let share = self.random.below(total);
            let before = self.shares_up_to[sums.clone()].partition_point(|&up_to| up_to <= share);
            let index = group.start + before;
            if qualifies(self, index) {
                return Some(index);
            }
        }
        let total: u64 = group
            .clone()
            .filter(|&index| qualifies(self, index))
            .map(|index| u64::from(self.shares[index]))
            .sum();
        if total == 0 {
            return None;
        }
        let mut share = self.random.below(total);
        group.into_iter().find(|&index| {
            if !qualifies(self, index) {
                return false;
            }
            let own = u64::from(self.shares[index]);
            let is_it = share < own;
            share = share.saturating_sub(own);
            is_it
        })
    }

    fn by_load(&self, a: usize, b: usize) -> Ordering {
        let load = |index: usize, shares_of: usize| {
            self.members[index].load() * u64::from(self.shares[shares_of])
        };
        // a's sessions / a's shares compared with b's, without dividing.
        load(a, b).cmp(&load(b, a))
    }

    /// The next one of this endpoint comes after a distance that its shares determine.
    fn take_turn(&mut self, index: usize) -> usize {
        let turn = self.turns[index].max(self.turn);
        self.turns[index] = turn + STRIDE / u64::from(self.shares[index]);
        if self.turn > TURNS_MAX {
            for turn in &mut self.turns {
                *turn = turn.saturating_sub(self.turn);
            }
            self.turn = 0;
            self.in_turn.iter_mut().for_each(InTurn::clear);
        }
        index
    }
}

/// Where one priority ends and the next begins. The endpoints are sorted by it.
pub(super) fn groups(endpoints: &[Endpoint]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for chunk in endpoints.chunk_by(|a, b| a.priority == b.priority) {
        let start = groups.last().map_or(0, |group| group.end);
        groups.push(start..start + chunk.len());
    }
    groups
}

/// The parts of a group's sessions that each endpoint is to have; at least one.
pub(super) fn shares(endpoints: &[Endpoint]) -> Vec<u32> {
    let share = |endpoint: &Endpoint| (u32::from(endpoint.weight) * SHARES_PER_WEIGHT).max(1);
    endpoints.iter().map(share).collect()
}

pub(super) fn running_sums(shares: &[u32], groups: &[Range<usize>]) -> Vec<u64> {
    let mut sums = Vec::with_capacity(shares.len());
    for group in groups {
        let mut sum = 0;
        sums.extend(shares[group.clone()].iter().map(|&share| {
            sum += u64::from(share);
            sum
        }));
    }
    sums
}

/// `splitmix64`, by Sebastiano Vigna: what is drawn here has to be spread, not secret.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// A number below `bound`, which is not 0. Slightly more often a small one, by less than anybody
    /// could count: bounds are far below 2^64.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
