//! Classes: whatever is taken, comes to rest, is used again, closed and given back, each has no more than its maximum,
//! and what is kept for it is there.

use super::*;
use crate::config::AutoRange;

const ADMIN: usize = 1;
const CRAWLER: usize = 2;

fn shares(shares: &[(u32, u32)]) -> Vec<ClassShare> {
    let share = |&(max, reserve): &(u32, u32)| ClassShare { max, reserve };
    shares.iter().map(share).collect()
}

fn divided(policy: Balance, max: u32, of_classes: &[(u32, u32)]) -> Balancer {
    let mut balancer = Balancer::new(policy, 3).limited(max);
    balancer.divide(shares(of_classes));
    balancer
}

fn ask(class: usize, now: Instant) -> Moment {
    Moment {
        class: ClassId::at(class),
        ..now.into()
    }
}

fn choose_for(
    balancer: &mut Balancer,
    published: &Published,
    class: usize,
    now: Instant,
) -> Choice {
    balancer.choose(published, &mut Tried::default(), Want::Any, ask(class, now))
}

/// As many leases as the class gets.
fn take_all(
    balancer: &mut Balancer,
    published: &Published,
    class: usize,
    now: Instant,
) -> Vec<Lease> {
    std::iter::from_fn(|| chosen(choose_for(balancer, published, class, now))).collect()
}

#[test]
fn a_class_has_its_maximum_at_each_endpoint_and_no_more() {
    let (published, now) = (equals(2), Instant::now());
    for policy in POLICIES {
        let mut balancer = divided(policy, 4, &[(4, 0), (4, 0), (1, 0)]);
        let crawlers = take_all(&mut balancer, &published, CRAWLER, now);
        let mut at: Vec<_> = crawlers.iter().map(number).collect();
        at.sort_unstable();
        assert_eq!(at, [0, 1], "{policy:?}");
        assert!(!balancer.has_room(ask(CRAWLER, now)));
        assert!(balancer.has_room(now));
        assert_eq!(take_all(&mut balancer, &published, 0, now).len(), 6);
        drop(crawlers);
        assert!(balancer.has_room(ask(CRAWLER, now)));
    }
}

/// Where the number of places is found out, what is kept is kept of those that there are now, and a connection that is
/// asked whether there is a worker for it is of no class.
#[test]
fn classes_share_the_places_that_are_found() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = Balancer::new(Balance::LeastConnections, 3);
    let range = AutoRange::new(2, 8).map(EndpointMax::Auto);
    balancer.amend(Balance::LeastConnections, range, false);
    balancer.divide(shares(&[(8, 0), (8, 1), (1, 0)]));
    // Of two, as long as nothing is known.
    let crawler = take_all(&mut balancer, &published, CRAWLER, now);
    assert_eq!(crawler.len(), 1);
    assert!(!balancer.has_room(now) && balancer.has_room(ask(ADMIN, now)));
    drop(crawler);
    // A server that answers: one of a class that has as many as it may have is not tried for.
    balancer.stand_on(address(0), Footing::Proven);
    let one = chosen(choose_for(&mut balancer, &published, CRAWLER, now)).unwrap();
    assert!(!one.is_nobodys());
    one.ask(now);
    assert!(one.is_nobodys());
    one.has_answered(now);
    one.rest(now);
    one.rouse(ClassId::at(CRAWLER));
    assert!(!balancer.has_room(ask(CRAWLER, now)));
    // What is kept is there all the time, while another class tries whether there are workers for more.
    let mut others = Vec::new();
    for limit in [2, 3, 4] {
        let tried = chosen(choose_for(&mut balancer, &published, 0, now)).unwrap();
        assert!(tried.is_nobodys() && !balancer.has_room(now));
        tried.ask(now);
        tried.has_answered(now);
        assert_eq!(tried.found_limit(), Some(limit));
        tried.rest(now);
        others.push(tried);
        let admin = choose_for(&mut balancer, &published, ADMIN, now);
        assert!(matches!(admin, Choice::Resting(_)));
        if limit > 2 {
            let its = choose_for(&mut balancer, &published, 0, now);
            assert!(matches!(its, Choice::Resting(_)));
            others[0].rouse(ClassId::DEFAULT);
            others.rotate_left(1);
        }
    }
}

#[test]
fn what_is_kept_for_a_class_is_taken_by_no_other() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = divided(Balance::LeastConnections, 4, &[(4, 0), (4, 2), (4, 0)]);
    let mut others = take_all(&mut balancer, &published, 0, now);
    assert_eq!(others.len(), 2);
    assert!(!balancer.has_room(ask(CRAWLER, now)));
    let admins = take_all(&mut balancer, &published, ADMIN, now);
    assert_eq!(admins.len(), 2);
    // Whoever has what was kept for it leaves the rest to all.
    others.pop();
    assert!(balancer.has_room(ask(CRAWLER, now)) && balancer.has_room(ask(ADMIN, now)));
    drop(admins);
    assert_eq!(take_all(&mut balancer, &published, CRAWLER, now).len(), 1);
}

/// Where one place is being closed and another is free, each of two classes with a reserve may have that one.
#[test]
fn a_class_below_its_reserve_has_room_whatever_is_kept_for_others() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = divided(Balance::First, 3, &[(3, 0), (3, 1), (3, 1)]);
    let _busy = chosen(choose_for(&mut balancer, &published, 0, now)).unwrap();
    let closing = chosen(choose_for(&mut balancer, &published, ADMIN, now)).unwrap();
    closing.rest(now);
    closing.rests_no_more();
    let has_room = [0, ADMIN, CRAWLER].map(|class| balancer.has_room(ask(class, now)));
    assert_eq!(has_room, [false, true, true]);
}

/// Those who wait there have what was said to be needed for them, and nobody comes for whom anything is kept.
#[test]
fn a_process_that_leaves_keeps_nothing_for_classes() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = divided(Balance::First, 4, &[(4, 0), (4, 2)]);
    let permits = Arc::new(SharedPermits::new(4, 1, || {}));
    balancer.share(&permits, true);
    permits.withdraw(2);
    assert_eq!(take_all(&mut balancer, &published, 0, now).len(), 2);
}

#[test]
fn places_of_a_class_are_those_that_it_has_and_could_have() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = divided(Balance::First, 3, &[(3, 0), (3, 1), (1, 0)]);
    let of = |balancer: &Balancer| {
        let of = |class| balancer.places_of(ClassId::at(class), now);
        [0, ADMIN, CRAWLER].map(of)
    };
    assert_eq!(of(&balancer), [None; 3], "no endpoint is known");
    balancer.refresh(&published);
    assert_eq!(of(&balancer), [Some(2), Some(3), Some(1)]);
    let lease = chosen(choose_for(&mut balancer, &published, CRAWLER, now)).unwrap();
    assert_eq!(of(&balancer), [Some(1), Some(2), Some(1)]);
    lease.rest(now);
    assert_eq!(of(&balancer), [Some(2), Some(3), Some(1)]);
    lease.refused(now);
    assert_eq!(of(&balancer), [None; 3], "none takes connections");
}

/// It is the place that is shared, and not the connection.
#[test]
fn a_connection_that_rests_is_for_who_has_room() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = divided(Balance::First, 3, &[(3, 0), (3, 1), (3, 0)]);
    let busy = take_all(&mut balancer, &published, 0, now);
    assert_eq!(busy.len(), 2);
    let admin = chosen(choose_for(&mut balancer, &published, ADMIN, now)).unwrap();
    admin.rest(now);
    let tried = Tried::default();
    for class in [0, CRAWLER] {
        assert!(matches!(
            choose_for(&mut balancer, &published, class, now),
            Choice::Full
        ));
        // Nor does it make way for one that it would not serve.
        assert_eq!(balancer.resting(&tried, ask(class, now)), None);
    }
    assert!(matches!(
        choose_for(&mut balancer, &published, ADMIN, now),
        Choice::Resting(_)
    ));
    assert_eq!(balancer.resting(&tried, ask(ADMIN, now)), Some(address(0)));
    drop(busy);
    admin.rouse(ClassId::at(CRAWLER));
    assert_eq!(take_all(&mut balancer, &published, 0, now).len(), 1);
}

#[test]
fn other_shares_are_come_to_as_leases_end() {
    let (published, now) = (equals(1), Instant::now());
    let mut balancer = divided(Balance::First, 4, &[(4, 0), (4, 0)]);
    let mut others = take_all(&mut balancer, &published, 0, now);
    assert_eq!(others.len(), 4);
    balancer.divide(shares(&[(2, 0), (4, 2)]));
    let has_room = |balancer: &Balancer| [0, ADMIN].map(|class| balancer.has_room(ask(class, now)));
    assert_eq!(has_room(&balancer), [false, false]);
    others.pop();
    // The place is there for who has less than is kept for it.
    assert_eq!(has_room(&balancer), [false, true]);
    others.truncate(1);
    assert_eq!(has_room(&balancer), [true, true]);
}

#[test]
fn what_others_have_of_shared_permits_is_not_kept_for_anybody() {
    let mut handover = Handover::new(3);
    let now = Instant::now();
    let old = Handover::lease(&mut handover.before, &handover.published).unwrap();
    handover.begin();
    handover.after.divide(shares(&[(3, 0), (3, 1)]));
    let new = take_all(&mut handover.after, &handover.published, 0, now);
    assert_eq!(new.len(), 1);
    assert!(handover.after.has_room(ask(ADMIN, now)));
    drop(old);
    assert!(handover.after.has_room(now));
}

/// What becomes of places.
#[derive(Clone, Debug)]
enum Act {
    /// A request of this class looks for one.
    Take(usize),
    /// A connection comes to rest.
    Rest(usize),
    /// One that rests is closed.
    Close(usize),
    /// A place is given back.
    Drop(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let which = 0..64_usize;
    prop_oneof![
        4 => (0..4_usize).prop_map(Act::Take),
        3 => which.clone().prop_map(Act::Rest),
        1 => which.clone().prop_map(Act::Close),
        3 => which.prop_map(Act::Drop),
    ]
}

/// Whose a lease is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    Of(usize),
    Resting,
    Closing,
}

/// What is known of all leases, counted anew each time.
struct Model {
    max: u32,
    shares: Vec<ClassShare>,
    leases: Vec<(Lease, Whose)>,
}

impl Model {
    fn count(&self, endpoint: usize, which: impl Fn(Whose) -> bool) -> u32 {
        let at = self
            .leases
            .iter()
            .filter(|(lease, _)| number(lease) == endpoint);
        u32::try_from(at.filter(|(_, whose)| which(*whose)).count()).unwrap()
    }

    fn busy(&self, endpoint: usize, class: usize) -> u32 {
        self.count(endpoint, |whose| whose == Whose::Of(class))
    }

    /// Whether there is a connection that rests, or may be another one.
    fn has_place(&self, endpoint: usize) -> bool {
        self.count(endpoint, |_| true) < self.max
            || self.count(endpoint, |whose| whose == Whose::Resting) > 0
    }

    /// What each class has or has reserved is within the number of places.
    fn check(&self, endpoints: usize) -> Result<(), TestCaseError> {
        for endpoint in 0..endpoints {
            let mut all = 0;
            for (class, share) in self.shares.iter().enumerate() {
                let busy = self.busy(endpoint, class);
                prop_assert!(busy <= share.max, "{busy} of class {class}, {share:?}");
                all += busy.max(share.reserve);
            }
            prop_assert!(all <= self.max, "{all} of {} at {endpoint}", self.max);
            prop_assert!(self.count(endpoint, |_| true) <= self.max);
        }
        Ok(())
    }

    /// Whether a class has less than is kept for it at an endpoint where there is a place.
    fn is_owed(&self, class: usize, endpoints: usize) -> bool {
        let reserve = self.shares[class].reserve;
        (0..endpoints).any(|at| self.busy(at, class) < reserve && self.has_place(at))
    }
}

/// Maxima and reserves of which all are within the number of places, one left.
fn limits() -> impl Strategy<Value = (u32, Vec<ClassShare>)> {
    let class = (1..9_u32, 0..3_u32);
    (2..9_u32, prop::collection::vec(class, 1..5)).prop_map(|(max, classes)| {
        let mut left = max - 1;
        let share = |(most, reserve): (u32, u32)| {
            let most = most.min(max);
            let reserve = reserve.min(most).min(left);
            left -= reserve;
            ClassShare { max: most, reserve }
        };
        (max, classes.into_iter().map(share).collect())
    })
}

proptest! {
    #[test]
    fn no_class_has_more_than_its_maximum_nor_less_than_is_kept_for_it(
        (max, shares) in limits(),
        acts in prop::collection::vec(act(), 0..120),
        policy in policy(),
        endpoints in 1..4_usize,
    ) {
        let (published, now) = (equals(endpoints), Instant::now());
        let mut balancer = Balancer::new(policy, 5).limited(max);
        balancer.divide(shares.clone());
        balancer.refresh(&published);
        let mut model = Model { max, shares, leases: Vec::new() };
        for act in acts {
            match act {
                Act::Take(class) => {
                    let class = class % model.shares.len();
                    let is_owed = model.is_owed(class, endpoints);
                    let has_room = balancer.has_room(ask(class, now));
                    match choose_for(&mut balancer, &published, class, now) {
                        Choice::Chosen(lease) => {
                            prop_assert!(has_room);
                            model.leases.push((lease, Whose::Of(class)));
                        }
                        Choice::Resting(address) => {
                            prop_assert!(has_room);
                            let rests = |(lease, whose): &&mut (Lease, Whose)| {
                                lease.address() == address && *whose == Whose::Resting
                            };
                            let (lease, whose) = model.leases.iter_mut().find(rests).unwrap();
                            lease.rouse(ClassId::at(class));
                            *whose = Whose::Of(class);
                        }
                        Choice::Full => prop_assert!(!has_room && !is_owed, "{class} is owed one"),
                        Choice::Exhausted => prop_assert!(false, "each endpoint would do"),
                    }
                }
                _ if model.leases.is_empty() => {}
                Act::Rest(which) => {
                    let which = which % model.leases.len();
                    let (lease, whose) = &mut model.leases[which];
                    if let Whose::Of(_) = whose {
                        lease.rest(now);
                        *whose = Whose::Resting;
                    }
                }
                Act::Close(which) => {
                    let which = which % model.leases.len();
                    let (lease, whose) = &mut model.leases[which];
                    if *whose == Whose::Resting {
                        lease.rests_no_more();
                        *whose = Whose::Closing;
                    }
                }
                Act::Drop(which) => {
                    let (lease, whose) = model.leases.swap_remove(which % model.leases.len());
                    if whose == Whose::Resting {
                        lease.rests_no_more();
                    }
                }
            }
            model.check(endpoints)?;
        }
    }
}
