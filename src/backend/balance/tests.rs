//! Who is chosen, in what order and how often.

mod classes;
mod turns;

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::super::Endpoint;
use super::*;

const POLICIES: [Balance; 4] = [
    Balance::LeastConnections,
    Balance::RoundRobin,
    Balance::RandomTwo,
    Balance::First,
];

fn address(number: usize) -> Address {
    let port = 1 + u16::try_from(number).unwrap();
    SocketAddr::from(([192, 0, 2, 1], port)).into()
}

fn address_v6(number: usize) -> Address {
    let port = 1 + u16::try_from(number).unwrap();
    SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], port)).into()
}

/// Endpoint number `i` has the `i`th priority and weight.
fn published(ranks: &[(u16, u16)]) -> Published {
    let published = Published::new(|| {});
    publish(&published, ranks);
    published
}

fn publish(published: &Published, ranks: &[(u16, u16)]) {
    let endpoint = |(number, &(priority, weight))| Endpoint {
        address: address(number),
        priority,
        weight,
    };
    let endpoints: Vec<_> = ranks.iter().enumerate().map(endpoint).collect();
    published.publish(endpoints, SystemTime::UNIX_EPOCH);
}

fn fixed(max: u32) -> Option<EndpointMax> {
    NonZeroU32::new(max).map(EndpointMax::Fixed)
}

fn equals(count: usize) -> Published {
    published(&vec![(0, 1); count])
}

fn eject(published: &Published, number: usize, now: Instant) {
    let set = published.load_full();
    let health = set.health().iter().find(|h| h.address() == address(number));
    let health = health.unwrap();
    for _ in 0..5 {
        published.failed(health, now);
    }
    assert!(health.is_ejected(now));
}

fn chosen(choice: Choice) -> Option<Lease> {
    match choice {
        Choice::Chosen(lease) => Some(lease),
        Choice::Resting(_) | Choice::Full | Choice::Exhausted => None,
    }
}

fn choose(balancer: &mut Balancer, published: &Published, now: Instant) -> Option<Lease> {
    chosen(balancer.choose(published, &mut Tried::default(), Want::Any, now))
}

fn number(lease: &Lease) -> usize {
    let Address::Tcp(address) = lease.address() else {
        panic!()
    };
    usize::from(address.port()) - 1
}

/// How often each endpoint gets one of so many sessions, each of which ends before the next.
fn counts(balancer: &mut Balancer, published: &Published, sessions: usize) -> Vec<usize> {
    let mut counts = vec![0; published.load().endpoints().len()];
    let now = Instant::now();
    for _ in 0..sessions {
        counts[number(&choose(balancer, published, now).unwrap())] += 1;
    }
    counts
}

/// The order in which one session tries everything.
fn order(balancer: &mut Balancer, published: &Published, now: Instant) -> Vec<usize> {
    let mut tried = Tried::default();
    std::iter::from_fn(|| {
        let lease = chosen(balancer.choose(published, &mut tried, Want::Any, now))?;
        tried.insert(&lease);
        Some(number(&lease))
    })
    .collect()
}

#[test]
fn nothing_is_chosen_from_nothing() {
    let published = Published::new(|| {});
    for policy in POLICIES {
        let mut balancer = Balancer::new(policy, 1);
        assert!(choose(&mut balancer, &published, Instant::now()).is_none());
        assert!(balancer.is_empty());
    }
}

/// Who wants a new connection gets a permit that none has, whatever rests; where all are taken, it is told
/// which endpoint has one that could make way.
#[test]
fn who_wants_a_new_connection_is_not_given_one_that_rests() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = Balancer::new(Balance::LeastConnections, 1).limited(2);
    let resting = choose(&mut balancer, &published, now).unwrap();
    resting.rest(now);
    assert_eq!(balancer.resting(&Tried::default(), now), Some(address(0)));
    let mut wanted =
        |reuse| balancer.choose_with(&published, &mut Tried::default(), Want::Any, reuse, now);
    assert!(matches!(wanted(Reuse::Yes), Choice::Resting(_)));
    let second = chosen(wanted(Reuse::No)).unwrap();
    assert!(matches!(wanted(Reuse::No), Choice::Full));
    assert!(matches!(wanted(Reuse::Yes), Choice::Resting(_)));
    resting.rouse(ClassId::DEFAULT);
    drop(second);
    assert_eq!(balancer.resting(&Tried::default(), now), None);
}

#[test]
fn a_weight_of_0_is_a_small_chance() {
    let published = published(&[(0, 0), (0, 10)]);
    for policy in [Balance::RoundRobin, Balance::RandomTwo] {
        let mut balancer = Balancer::new(policy, 3);
        let counts = counts(&mut balancer, &published, 100_000);
        assert!((1..1000).contains(&counts[0]), "{policy:?}: {counts:?}");
    }
    let alone = self::published(&[(0, 0), (0, 0)]);
    let mut balancer = Balancer::new(Balance::RoundRobin, 3);
    assert_eq!(counts(&mut balancer, &alone, 100), [50, 50]);
}

#[test]
fn the_first_is_the_first_until_it_is_ejected() {
    let (published, now) = (equals(3), Instant::now());
    let mut balancer = Balancer::new(Balance::First, 7);
    assert_eq!(counts(&mut balancer, &published, 50), [50, 0, 0]);
    assert_eq!(order(&mut balancer, &published, now), [0, 1, 2]);
    eject(&published, 0, now);
    assert_eq!(order(&mut balancer, &published, now), [1, 2, 0]);
    let back = now + Duration::from_secs(31);
    assert_eq!(order(&mut balancer, &published, back), [0, 1, 2]);
}

#[test]
fn an_imbalance_of_sessions_is_corrected() {
    let (published, now) = (equals(4), Instant::now());
    let mut balancer = Balancer::new(Balance::LeastConnections, 7);
    // Two thirds of the sessions end, all but those of one endpoint.
    let mut leases: Vec<_> = (0..40)
        .map(|_| choose(&mut balancer, &published, now).unwrap())
        .collect();
    leases.retain(|lease| number(lease) == 2);
    assert_eq!(leases.len(), 10);
    leases.extend((0..30).map(|_| choose(&mut balancer, &published, now).unwrap()));
    for endpoint in 0..4 {
        let count = leases
            .iter()
            .filter(|lease| number(lease) == endpoint)
            .count();
        assert_eq!(count, 10);
    }
}

#[test]
fn sessions_that_stay_follow_the_weights() {
    let (published, now) = (published(&[(0, 5), (0, 3), (0, 2)]), Instant::now());
    let mut balancer = Balancer::new(Balance::LeastConnections, 7);
    let leases: Vec<_> = (0..100)
        .map(|_| choose(&mut balancer, &published, now).unwrap())
        .collect();
    let count = |endpoint| leases.iter().filter(|l| number(l) == endpoint).count();
    assert_eq!([count(0), count(1), count(2)], [50, 30, 20]);
}

#[test]
fn with_many_endpoints_two_that_are_drawn_are_compared() {
    let (published, now) = (equals(100), Instant::now());
    for policy in [Balance::LeastConnections, Balance::RandomTwo] {
        let mut balancer = Balancer::new(policy, 7);
        let leases: Vec<_> = (0..10_000)
            .map(|_| choose(&mut balancer, &published, now).unwrap())
            .collect();
        let mut counts = [0u32; 100];
        leases.iter().for_each(|lease| counts[number(lease)] += 1);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        // One choice of each would leave some with 70 and some with 130.
        assert!(
            *least >= 90 && *most <= 110,
            "{policy:?}: {least} to {most}"
        );
    }
}

#[test]
fn one_that_was_out_gets_no_more_than_its_part_afterwards() {
    for policy in [Balance::RoundRobin, Balance::LeastConnections] {
        let (published, now) = (equals(4), Instant::now());
        let mut balancer = Balancer::new(policy, 7);
        eject(&published, 1, now);
        for _ in 0..1000 {
            assert_ne!(number(&choose(&mut balancer, &published, now).unwrap()), 1);
        }
        let back = now + Duration::from_secs(31);
        let first: Vec<_> = (0..40)
            .map(|_| number(&choose(&mut balancer, &published, back).unwrap()))
            .collect();
        let its = first.iter().filter(|&&number| number == 1).count();
        assert!((8..=12).contains(&its), "{policy:?}: {first:?}");
    }
}

#[test]
fn better_priorities_come_first_and_the_next_when_they_are_out() {
    let (published, now) = (
        published(&[(10, 1), (10, 1), (20, 1), (30, 1)]),
        Instant::now(),
    );
    for policy in POLICIES {
        let mut balancer = Balancer::new(policy, 7);
        let tried = order(&mut balancer, &published, now);
        assert_eq!(tried[2..], [2, 3], "{policy:?}");
        assert!(tried.contains(&0) && tried.contains(&1));
    }
    eject(&published, 0, now);
    eject(&published, 1, now);
    for policy in POLICIES {
        let mut balancer = Balancer::new(policy, 7);
        assert_eq!(
            order(&mut balancer, &published, now)[..2],
            [2, 3],
            "{policy:?}"
        );
    }
}

#[test]
fn the_last_resort_is_marked_as_such() {
    let (published, now) = (equals(2), Instant::now());
    eject(&published, 0, now);
    let mut balancer = Balancer::new(Balance::First, 7);
    let mut tried = Tried::default();
    let first = chosen(balancer.choose(&published, &mut tried, Want::Any, now)).unwrap();
    assert!(number(&first) == 1 && !first.was_ejected());
    tried.insert(&first);
    let last = chosen(balancer.choose(&published, &mut tried, Want::Any, now)).unwrap();
    assert!(number(&last) == 0 && last.was_ejected());
}

#[test]
fn a_family_can_be_asked_for() {
    let published = Published::new(|| {});
    let all = [address(0), address(1), address_v6(2), address_v6(3)];
    published.publish(all, SystemTime::UNIX_EPOCH);
    let now = Instant::now();
    for policy in POLICIES {
        let mut balancer = Balancer::new(policy, 7);
        let mut tried = Tried::default();
        let mut get = |want, tried: &mut Tried| {
            let lease = chosen(balancer.choose(&published, tried, want, now));
            lease.inspect(|lease| tried.insert(lease))
        };
        for _ in 0..2 {
            let lease = get(Want::Only(Family::V6), &mut tried).unwrap();
            assert_eq!(Family::of(lease.address()), Some(Family::V6));
        }
        assert!(get(Want::Only(Family::V6), &mut tried).is_none());
        for _ in 0..2 {
            assert!(get(Want::Rather(Family::V6), &mut tried).is_some());
        }
        assert!(get(Want::Any, &mut tried).is_none());
        assert!(balancer.is_mixed());
    }
}

#[test]
fn after_a_swap_only_the_new_ones_are_chosen_and_who_stayed_keeps_its_sessions() {
    let (published, now) = (equals(2), Instant::now());
    let mut balancer = Balancer::new(Balance::LeastConnections, 7);
    let leases: Vec<_> = (0..10)
        .map(|_| choose(&mut balancer, &published, now).unwrap())
        .collect();
    published.publish([address(1), address(2)], SystemTime::UNIX_EPOCH);
    let next: Vec<_> = (0..5)
        .map(|_| choose(&mut balancer, &published, now).unwrap())
        .collect();
    assert!(
        next.iter().all(|lease| number(lease) == 2),
        "1 has 5 already"
    );
    drop(leases);
    // The one that left is forgotten with its last session.
    published.publish([address(3)], SystemTime::UNIX_EPOCH);
    balancer.refresh(&published);
    assert_eq!(balancer.known.len(), 2);
    drop(next);
    published.publish([address(4)], SystemTime::UNIX_EPOCH);
    balancer.refresh(&published);
    assert_eq!(balancer.known.len(), 1);
}

#[test]
fn a_lease_of_an_earlier_set_is_current_while_its_endpoint_is_there() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = Balancer::new(Balance::First, 7);
    let lease = choose(&mut balancer, &published, now).unwrap();
    assert!(balancer.is_current(&published, &lease));
    publish(&published, &[(0, 1), (0, 1)]);
    assert!(balancer.is_current(&published, &lease));
    publish(&published, &[]);
    assert!(!balancer.is_current(&published, &lease));
    // It comes back as the same one, because there is a session.
    publish(&published, &[(0, 1)]);
    assert!(balancer.is_current(&published, &lease));
}

#[test]
fn what_was_tried_of_another_set_may_be_tried_again() {
    let (published, now) = (equals(2), Instant::now());
    let mut balancer = Balancer::new(Balance::First, 7);
    let mut tried = Tried::default();
    let lease = chosen(balancer.choose(&published, &mut tried, Want::Any, now)).unwrap();
    tried.insert(&lease);
    assert_eq!(balancer.untried(&tried), 1);
    publish(&published, &[(0, 1), (0, 1), (0, 1)]);
    let again = chosen(balancer.choose(&published, &mut tried, Want::Any, now)).unwrap();
    assert_eq!(number(&again), 0);
    assert_eq!(balancer.untried(&tried), 3);
    // The lease of the set before says nothing of this one.
    tried.insert(&again);
    assert_eq!(balancer.untried(&tried), 2);
}

/// What is chosen for a session that has waited since then.
fn choose_after(
    balancer: &mut Balancer,
    published: &Published,
    waiting_since: Instant,
    now: Instant,
) -> Choice {
    let moment = Moment {
        waiting_since,
        ..now.into()
    };
    balancer.choose(published, &mut Tried::default(), Want::Any, moment)
}

#[test]
fn paced_connections_are_opened_one_after_the_other_at_each_endpoint() {
    use super::super::PACE;

    let (published, now) = (equals(2), Instant::now());
    for policy in POLICIES {
        let mut balancer = Balancer::new(policy, 7).limited(2).paced();
        let mut leases = vec![choose(&mut balancer, &published, now).unwrap()];
        leases.extend(choose(&mut balancer, &published, now));
        // Nobody goes to a backup because the first one is a moment late.
        let endpoints = if policy == Balance::First { 1 } else { 2 };
        assert_eq!(leases.len(), endpoints, "{policy:?}");
        assert!(matches!(
            choose_after(&mut balancer, &published, now, now),
            Choice::Full
        ));
        assert!(!balancer.has_room(now), "{policy:?}");
        assert_eq!(balancer.held_back(now), leases.len() as u64);
        assert_eq!(balancer.pace_ends(now), Some(now + PACE));
        assert!(balancer.has_room(now + PACE));
        assert!(leases[0].answered(now) && !leases[0].answered(now));
        assert!(balancer.has_room(now), "{policy:?}");
    }
}

#[test]
fn what_rests_is_taken_whatever_the_pace_is() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = Balancer::new(Balance::First, 7).limited(3).paced();
    let first = choose(&mut balancer, &published, now).unwrap();
    first.answered(now);
    let _second = choose(&mut balancer, &published, now).unwrap();
    assert!(!balancer.has_room(now));
    first.rest(now);
    assert!(matches!(
        choose_after(&mut balancer, &published, now, now),
        Choice::Resting(_)
    ));
    first.rouse(ClassId::DEFAULT);
    drop(first);
    assert!(!balancer.has_room(now));
    assert_eq!(balancer.held_back(now), 2);
}

#[test]
fn where_nothing_is_paced_any_more_nothing_waits_for_the_pace() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = Balancer::new(Balance::First, 7).paced();
    let _silent = choose(&mut balancer, &published, now).unwrap();
    assert!(choose(&mut balancer, &published, now).is_none());
    assert!(!balancer.has_room(now) && balancer.pace_ends(now).is_some());
    balancer.amend(Balance::First, None, false);
    assert!(balancer.has_room(now) && balancer.pace_ends(now).is_none());
    assert_eq!(balancer.held_back(now), 0);
    assert!(choose(&mut balancer, &published, now).is_some());
}

#[test]
fn a_lowered_limit_is_come_to_as_leases_end_and_a_raised_one_is_given_out_at_once() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = Balancer::new(Balance::LeastConnections, 7).limited(3);
    let get = |max: Option<u32>, balancer: &mut Balancer| {
        if let Some(max) = max {
            balancer.amend(Balance::LeastConnections, fixed(max), false);
        }
        choose(balancer, &published, now)
    };
    let mut leases: Vec<_> = (0..3).filter_map(|_| get(None, &mut balancer)).collect();
    assert!(get(Some(1), &mut balancer).is_none());
    assert_eq!(
        leases.iter().map(Lease::surplus).collect::<Vec<_>>(),
        [2; 3]
    );
    leases.truncate(1);
    assert_eq!(leases[0].surplus(), 0);
    assert!(get(None, &mut balancer).is_none());
    leases.extend(get(Some(2), &mut balancer));
    assert_eq!(leases.len(), 2);
    assert!(get(None, &mut balancer).is_none());
    leases.clear();
    assert!(get(None, &mut balancer).is_some());
}

#[test]
fn what_failed_may_be_tried_again_once_an_endpoint_is_back() {
    let (published, now) = (equals(2), Instant::now());
    let mut balancer = Balancer::new(Balance::First, 7);
    let mut tried = Tried::default();
    let mut get = |balancer: &mut Balancer| {
        let lease = chosen(balancer.choose(&published, &mut tried, Want::Any, now));
        lease.inspect(|lease| {
            lease.refused(now);
            tried.insert(lease);
        })
    };
    let first = get(&mut balancer).unwrap();
    assert!(get(&mut balancer).is_some());
    assert!(get(&mut balancer).is_none());
    let patience = Duration::from_secs(1);
    assert_eq!(balancer.refused_until(patience), Some(now + patience));
    assert!(first.reached() && !first.reached());
    assert_eq!(balancer.refused_until(patience), None);
    assert!(get(&mut balancer).is_some());
    assert!(!balancer.is_silent());
    first.not_answered();
    assert!(balancer.is_silent());
}

fn ranks() -> impl Strategy<Value = Vec<(u16, u16)>> {
    prop::collection::vec((0..3u16, 0..20u16), 1..40)
}

fn policy() -> impl Strategy<Value = Balance> {
    prop::sample::select(POLICIES.to_vec())
}

proptest! {
    #[test]
    fn a_session_tries_each_endpoint_once_usable_ones_first_and_by_priority(
        ranks in ranks(),
        policy in policy(),
        out in prop::collection::vec(any::<bool>(), 40),
        seed in any::<u64>(),
    ) {
        let (published, now) = (published(&ranks), Instant::now());
        // One is always left.
        let is_out = |number: usize| number > 0 && out[number];
        for number in (0..ranks.len()).filter(|&number| is_out(number)) {
            eject(&published, number, now);
        }
        let mut balancer = Balancer::new(policy, seed);
        for _ in 0..3 {
            let order = order(&mut balancer, &published, now);
            prop_assert_eq!(order.iter().collect::<HashSet<_>>().len(), ranks.len());
            let rank = |&number: &usize| (is_out(number), ranks[number].0);
            prop_assert!(order.iter().is_sorted_by_key(rank), "{:?}", order);
        }
    }

    #[test]
    fn what_is_counted_is_given_back(
        steps in prop::collection::vec((any::<bool>(), 0..8usize), 1..200),
        policy in policy(),
    ) {
        let (published, now) = (equals(6), Instant::now());
        let mut balancer = Balancer::new(policy, 1);
        let mut open = Vec::new();
        for (opens, which) in steps {
            match opens {
                true => open.extend(choose(&mut balancer, &published, now)),
                false if which == 7 => {
                    let first = usize::from(open.len() % 2 == 0);
                    let some: Vec<_> = (first..first + 5).map(address).collect();
                    published.publish(some, SystemTime::UNIX_EPOCH);
                }
                false if open.is_empty() => {}
                false => drop(open.swap_remove(which % open.len())),
            }
        }
        drop(open);
        balancer.refresh(&published);
        prop_assert!(balancer.members.iter().all(|member| member.counters.in_flight.get() == 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn equal_endpoints_get_equal_parts_within_5_percent(
        count in 1..40usize,
        policy in policy(),
        seed in any::<u64>(),
    ) {
        prop_assume!(policy != Balance::First);
        let published = equals(count);
        let mut balancer = Balancer::new(policy, seed);
        // Sessions overlap, or random-two has nothing to compare.
        let mut open = VecDeque::new();
        let mut counts = vec![0usize; count];
        let now = Instant::now();
        for _ in 0..count * 1000 {
            let lease = choose(&mut balancer, &published, now).unwrap();
            counts[number(&lease)] += 1;
            open.push_back(lease);
            if open.len() > 50 * count {
                open.pop_front();
            }
        }
        for &got in &counts {
            prop_assert!((950..=1050).contains(&got), "{:?}", counts);
        }
    }

    #[test]
    fn weights_are_what_endpoints_get_within_5_percent(
        weights in prop::collection::vec(1..20u16, 1..10),
        policy in policy(),
        seed in any::<u64>(),
    ) {
        prop_assume!(policy != Balance::First);
        let ranks: Vec<_> = weights.iter().map(|&weight| (0, weight)).collect();
        let published = published(&ranks);
        let mut balancer = Balancer::new(policy, seed);
        let total: usize = weights.iter().map(|&w| usize::from(w)).sum();
        let counts = counts(&mut balancer, &published, total * 100);
        for (&weight, &got) in weights.iter().zip(&counts) {
            let part = usize::from(weight) * 100;
            // What is drawn varies by its square root, five times of which is rare enough.
            let drawn = if policy == Balance::RandomTwo { 5 * part.isqrt() } else { 0 };
            let most = (part / 20).max(drawn);
            prop_assert!(got.abs_diff(part) <= most, "{:?} for {:?}", counts, weights);
        }
    }
}

/// Whatever else is left: an ejected one is better than one that an operator has drained.
#[test]
fn a_drained_endpoint_is_never_chosen() {
    let published = published(&[(0, 1), (0, 1), (1, 1)]);
    let now = Instant::now();
    for policy in POLICIES {
        let mut balancer = Balancer::new(policy, 3);
        assert!(choose(&mut balancer, &published, now).is_some());
        published.drain(address(0), true).unwrap();
        assert_eq!(counts(&mut balancer, &published, 20), [0, 20, 0]);
        published.drain(address(1), true).unwrap();
        assert_eq!(counts(&mut balancer, &published, 20), [0, 0, 20]);
        assert!(!balancer.are_all_drained());
        published.drain(address(2), true).unwrap();
        assert!(choose(&mut balancer, &published, now).is_none());
        assert!(balancer.is_empty() && balancer.are_all_drained());
        assert!(!balancer.has_room(now));
        for number in 0..3 {
            published.drain(address(number), false).unwrap();
        }
        assert!(choose(&mut balancer, &published, now).is_some());
        assert!(!balancer.are_all_drained());
    }
}

#[test]
fn what_runs_at_a_drained_endpoint_still_counts_there() {
    let published = equals(2);
    let now = Instant::now();
    let mut balancer = Balancer::new(Balance::First, 3).limited(1);
    let lease = choose(&mut balancer, &published, now).unwrap();
    assert_eq!(number(&lease), 0);
    published.drain(address(0), true).unwrap();
    assert!(balancer.is_current(&published, &lease), "it is in the set");
    assert!(balancer.is_drained(address(0)) && !balancer.has(address(0)));
    let other = choose(&mut balancer, &published, now).unwrap();
    assert_eq!(number(&other), 1);
    published.drain(address(0), false).unwrap();
    // Its one place is taken, as before.
    assert!(choose(&mut balancer, &published, now).is_none());
    drop(lease);
    assert_eq!(number(&choose(&mut balancer, &published, now).unwrap()), 0);
}

#[test]
fn a_weight_by_hand_is_that_of_the_next_choice() {
    let published = published(&[(0, 1), (0, 1)]);
    let mut balancer = Balancer::new(Balance::RoundRobin, 3);
    assert_eq!(counts(&mut balancer, &published, 40), [20, 20]);
    let weight = std::num::NonZeroU16::new(3).unwrap();
    published.weigh(address(1), weight).unwrap();
    assert_eq!(counts(&mut balancer, &published, 40), [10, 30]);
}

// --- permits that several have together -----------------------------------------------------------

/// One who served before with two leases, one who comes after, and what they have together.
struct Handover {
    published: Published,
    before: Balancer,
    after: Balancer,
    permits: Arc<SharedPermits>,
    woken: Arc<AtomicUsize>,
}

impl Handover {
    fn new(max: u32) -> Self {
        let published = equals(1);
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let wake = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let limited = |seed| {
            let mut balancer = Balancer::new(Balance::RoundRobin, seed).limited(max);
            balancer.refresh(&published);
            balancer
        };
        Self {
            before: limited(1),
            after: limited(2),
            permits: Arc::new(SharedPermits::new(max, 1, wake)),
            published,
            woken,
        }
    }

    fn lease(balancer: &mut Balancer, published: &Published) -> Option<Lease> {
        choose(balancer, published, Instant::now())
    }

    fn begin(&mut self) {
        self.after.share(&self.permits, false);
        self.before.share(&self.permits, true);
    }

    fn has_room(&self) -> (bool, bool) {
        let now = Instant::now();
        (self.before.has_room(now), self.after.has_room(now))
    }
}

#[test]
fn nothing_is_given_out_until_who_served_before_has_said_what_it_has() {
    let mut handover = Handover::new(3);
    let _first = Handover::lease(&mut handover.before, &handover.published).unwrap();
    handover.after.share(&handover.permits, false);
    assert_eq!(handover.has_room(), (true, false));
    assert!(Handover::lease(&mut handover.after, &handover.published).is_none());
    let woken = handover.woken.load(Ordering::Relaxed);
    handover.before.share(&handover.permits, true);
    assert!(handover.woken.load(Ordering::Relaxed) > woken);
    assert_eq!(handover.has_room(), (true, true));
}

#[test]
fn who_changes_hands_keeps_to_one_limit() {
    let mut handover = Handover::new(3);
    let lease = |balancer: &mut Balancer, published: &_| Handover::lease(balancer, published);
    let mut old = vec![
        lease(&mut handover.before, &handover.published).unwrap(),
        lease(&mut handover.before, &handover.published).unwrap(),
    ];
    handover.begin();
    let new = lease(&mut handover.after, &handover.published).unwrap();
    assert_eq!(handover.has_room(), (false, false));
    assert!(lease(&mut handover.before, &handover.published).is_none());
    old.pop();
    assert_eq!(handover.has_room(), (true, true));
    let newer = lease(&mut handover.after, &handover.published).unwrap();
    assert_eq!(handover.has_room(), (false, false));
    // A lower limit is come to as leases end.
    handover.permits.limit(1);
    drop((new, newer));
    assert_eq!(handover.has_room(), (false, false));
    old.clear();
    assert_eq!(handover.has_room(), (true, true));
}

#[test]
fn a_route_that_nobody_else_has_goes_by_its_own_limit_again() {
    let mut handover = Handover::new(2);
    let old = Handover::lease(&mut handover.before, &handover.published).unwrap();
    handover.begin();
    let new = Handover::lease(&mut handover.after, &handover.published).unwrap();
    drop(old);
    drop(handover.before);
    handover.after.unshare();
    let newer = Handover::lease(&mut handover.after, &handover.published);
    assert!(newer.is_some());
    assert!(!handover.after.has_room(Instant::now()));
    drop((new, newer));
    assert!(handover.after.has_room(Instant::now()));
}

#[test]
fn who_was_never_limited_goes_on_and_counts() {
    let mut handover = Handover::new(1);
    handover.before = Balancer::new(Balance::RoundRobin, 1);
    let first = Handover::lease(&mut handover.before, &handover.published).unwrap();
    handover.begin();
    let second = Handover::lease(&mut handover.before, &handover.published).unwrap();
    assert!(!handover.after.has_room(Instant::now()));
    drop(first);
    assert!(!handover.after.has_room(Instant::now()));
    drop(second);
    assert!(handover.after.has_room(Instant::now()));
}
