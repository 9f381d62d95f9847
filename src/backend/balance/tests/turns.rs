//! Turns: of few, and of many, which are not looked at one by one.

use super::*;

#[test]
fn turns_are_exact() {
    let published = equals(3);
    for policy in [Balance::RoundRobin, Balance::LeastConnections] {
        let mut balancer = Balancer::new(policy, 7);
        assert_eq!(
            counts(&mut balancer, &published, 300),
            [100; 3],
            "{policy:?}"
        );
    }
}

#[test]
fn weighted_turns_are_exact_and_spread() {
    let published = published(&[(0, 3), (0, 1)]);
    for policy in [Balance::RoundRobin, Balance::LeastConnections] {
        let mut balancer = Balancer::new(policy, 3);
        counts(&mut balancer, &published, 10);
        for _ in 0..20 {
            assert_eq!(counts(&mut balancer, &published, 4), [3, 1], "{policy:?}");
        }
    }
}

/// Whose turn is next, as the rule says it: by looking at all of them.
struct AllLookedAt<'a> {
    published: &'a Published,
    turns: Vec<u64>,
    turn: u64,
}

impl AllLookedAt<'_> {
    /// Up to eight are passed over in turn, and those have had theirs.
    fn next(&mut self, now: Instant) -> usize {
        let set = self.published.load_full();
        let is_usable = |index: &usize| !set.health()[*index].is_ejected(now);
        let all = 0..self.turns.len();
        for _ in 0..8 {
            let index = all.clone().min_by_key(|&index| self.turns[index]).unwrap();
            self.take(index, &set);
            if is_usable(&index) {
                return index;
            }
        }
        let usable = all.filter(is_usable);
        let index = usable.min_by_key(|&index| self.turns[index]).unwrap();
        self.turns[index] = self.turns[index].max(self.turn) + stride(&set, index);
        index
    }

    fn take(&mut self, index: usize, set: &AddressSet) {
        self.turn = self.turn.max(self.turns[index]);
        self.turns[index] = self.turn + stride(set, index);
    }
}

fn stride(set: &AddressSet, index: usize) -> u64 {
    (1 << 32) / (u64::from(set.endpoints()[index].weight) * 64).max(1)
}

proptest! {
    /// Those that are not looked at one by one have their turns in the same order as if they were.
    #[test]
    fn turns_of_many_come_in_the_same_order_as_those_of_few(
        weights in prop::collection::vec(0..5_u16, 17..60),
        ejected in prop::collection::vec(0..60_usize, 0..50),
        seed in any::<u64>(),
    ) {
        let ranks: Vec<_> = weights.iter().map(|&weight| (0, weight)).collect();
        let (published, now) = (published(&ranks), Instant::now());
        let mut balancer = Balancer::new(Balance::RoundRobin, seed);
        balancer.refresh(&published);
        let turns = balancer.turns.clone();
        let mut rule = AllLookedAt { published: &published, turns, turn: 0 };
        let mut choose = |when| {
            for _ in 0..100 {
                let lease = choose(&mut balancer, &published, when).unwrap();
                prop_assert_eq!(number(&lease), rule.next(when));
            }
            Ok(())
        };
        choose(now)?;
        // The last one is always left.
        let some: HashSet<_> = ejected.into_iter().filter(|n| n + 1 < ranks.len()).collect();
        some.iter().for_each(|&number| eject(&published, number, now));
        choose(now)?;
        choose(now + Duration::from_secs(31))?;
    }
}

#[test]
fn turns_of_many_go_on_when_they_are_counted_from_0_again() {
    let (published, now) = (equals(40), Instant::now());
    let mut balancer = Balancer::new(Balance::RoundRobin, 3);
    let first = counts(&mut balancer, &published, 40);
    balancer.turn += 1 << 62;
    balancer.turns.iter_mut().for_each(|turn| *turn += 1 << 62);
    balancer
        .in_turn
        .iter_mut()
        .for_each(std::collections::BinaryHeap::clear);
    assert_eq!(counts(&mut balancer, &published, 40), first);
    assert!(balancer.turn < 1 << 62);
    let leases = (0..80).map(|_| number(&choose(&mut balancer, &published, now).unwrap()));
    let leases: Vec<_> = leases.collect();
    assert_eq!(leases[..40], leases[40..]);
}
