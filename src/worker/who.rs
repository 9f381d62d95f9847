//! Who is served, of those that can connect to a route's listeners: the kernel says which process made a
//! connection, and nothing that a client sends changes that.
//!
//! A route without such rules has no [`Who`], and its accepts ask the kernel nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Part;
use crate::counters::Outcome;
use crate::driver::{Driver, Sock};
use crate::observe::Failures;
use crate::sys::net::PeerCredentials;

use super::admission::Way;

/// The rules of one route, for all of its workers.
pub(crate) struct Who {
    allowed: Option<Allowed>,
    per_user: Option<PerUser>,
    strangers: Failures,
    crowds: Failures,
}

/// Users and groups whose clients are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Users, by number.
    pub users: Vec<u32>,
    /// Groups, by number.
    pub groups: Vec<u32>,
    /// What the kernel shows of those that have no number here.
    pub unmapped: Unmapped,
}

/// The numbers that stand for every user and group that the daemon's user namespace does not map
/// (user_namespaces(7)). Anybody may be behind them, so they match nothing, whatever is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unmapped {
    /// `kernel.overflowuid`
    pub user: u32,
    /// `kernel.overflowgid`
    pub group: u32,
}

/// Why a client is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotAllowed,
    UserLimit,
    /// Over all routes.
    UserPart,
}

impl Who {
    /// `None` where everybody is served.
    pub(crate) fn new(allowed: Option<Allowed>, per_user_max: Option<NonZeroU32>) -> Option<Self> {
        if allowed.is_none() && per_user_max.is_none() {
            return None;
        }
        Some(Self {
            allowed,
            per_user: per_user_max.map(PerUser::new),
            strangers: Failures::default(),
            crowds: Failures::default(),
        })
    }

    /// Rules that take the place of others of the same route: a user's clients count on, so that it never has more of
    /// them than one of both allows.
    pub(crate) fn in_place_of(
        before: Option<&Self>,
        allowed: Option<Allowed>,
        per_user_max: Option<NonZeroU32>,
    ) -> Option<Self> {
        let mut who = Self::new(allowed, per_user_max)?;
        if let (Some(per_user), Some(before)) = (&mut who.per_user, before)
            && let Some(before) = &before.per_user
        {
            per_user.seated = Arc::clone(&before.seated);
        }
        Some(who)
    }

    /// Whether these rules say the same.
    pub(crate) fn says(&self, allowed: Option<&Allowed>, per_user_max: Option<NonZeroU32>) -> bool {
        let max = self.per_user.as_ref().map(|per_user| per_user.max);
        self.allowed.as_ref() == allowed && max == per_user_max
    }

    /// Whether clients are told apart by an allow list.
    pub(crate) fn is_choosy(&self) -> bool {
        self.allowed.is_some()
    }

    /// A seat for this client, where seats are counted. `peer` is who it is, as far as the kernel knows.
    pub(super) fn admit<D: Driver>(
        &self,
        (client, way): (Sock, Way),
        peer: Option<PeerCredentials>,
        driver: &mut D,
    ) -> Result<Option<Seat>, Refusal> {
        if let Some(allowed) = &self.allowed
            && !peer.is_some_and(|peer| allowed.admits(peer, client, driver))
        {
            return Err(Refusal::NotAllowed);
        }
        // Where nobody can be told from anybody, there is nobody to count.
        let (Some(per_user), Some(peer)) = (&self.per_user, peer) else {
            return Ok(None);
        };
        match way {
            Way::Accepted => per_user.seat(peer.uid).map(Some).ok_or(Refusal::UserLimit),
            Way::Arrived => Ok(Some(per_user.take(peer.uid))),
        }
    }

    /// A seat for a client that was let in by other rules, which these have taken the place of: whatever its user has,
    /// it keeps what it has. `None`: seats are not counted.
    pub(super) fn keep(
        &self,
        seat: Option<Seat>,
        peer: impl FnOnce() -> Option<PeerCredentials>,
    ) -> Option<Seat> {
        let per_user = self.per_user.as_ref()?;
        match seat {
            Some(seat) if Arc::ptr_eq(&seat.seated, &per_user.seated) => Some(seat),
            _ => Some(per_user.take(peer()?.uid)),
        }
    }

    /// Refusals of this kind, as they are reported.
    pub(super) fn refusals(&self, refusal: Refusal) -> &Failures {
        match refusal {
            Refusal::NotAllowed => &self.strangers,
            Refusal::UserLimit => &self.crowds,
            Refusal::UserPart => unreachable!("a route's rules know nothing of others"),
        }
    }

    /// How many seats are taken, where they are counted.
    #[cfg(any(test, fuzzing))]
    pub(super) fn seated(&self) -> Option<u32> {
        let seated = &self.per_user.as_ref()?.seated;
        Some(lock(seated).values().sum())
    }
}

impl Allowed {
    /// Supplementary groups are asked for last: there may be thousands.
    fn admits<D: Driver>(&self, peer: PeerCredentials, client: Sock, driver: &mut D) -> bool {
        if self.has_user(peer.uid) || self.has_group(peer.gid) {
            return true;
        }
        if self.groups.is_empty() {
            return false;
        }
        let groups = driver.peer_groups(client).unwrap_or_default();
        groups.into_iter().any(|group| self.has_group(group))
    }

    fn has_user(&self, user: u32) -> bool {
        user != self.unmapped.user && self.users.contains(&user)
    }

    fn has_group(&self, group: u32) -> bool {
        group != self.unmapped.group && self.groups.contains(&group)
    }
}

impl Refusal {
    /// As what it is counted.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::NotAllowed => Outcome::NotAllowed,
            Self::UserLimit | Self::UserPart => Outcome::UserLimit,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAllowed => {
                "neither its user nor a group of its is allowed (see --allow-user, --allow-group)"
            }
            Self::UserLimit => {
                "its user has as many connections as it may (see --connections-max-per-user)"
            }
            Self::UserPart => {
                "its user has as many of all sessions as it may (see --user-connections-max)"
            }
        })
    }
}

/// How many clients each user has.
///
/// Workers lock it for a few instructions at the start and at the end of a session, never in between.
/// There is an entry only for users with sessions, so there are no more of them than sessions.
struct PerUser {
    max: NonZeroU32,
    seated: Arc<Seated>,
}

/// Counts by user. Rules that take the place of others count on in the same place.
type Seated = Mutex<HashMap<u32, u32>>;

/// A client's part of what its user may have; given back when dropped.
pub(super) struct Seat {
    seated: Arc<Seated>,
    user: u32,
}

impl PerUser {
    fn new(max: NonZeroU32) -> Self {
        Self {
            max,
            seated: Arc::default(),
        }
    }

    fn seat(&self, user: u32) -> Option<Seat> {
        let mut seated = lock(&self.seated);
        let count = seated.entry(user).or_default();
        // An entry that was just made is below every limit.
        if *count >= self.max.get() {
            return None;
        }
        *count += 1;
        Some(self.given(user))
    }

    /// A seat whatever the limit says.
    fn take(&self, user: u32) -> Seat {
        *lock(&self.seated).entry(user).or_default() += 1;
        self.given(user)
    }

    fn given(&self, user: u32) -> Seat {
        Seat {
            seated: Arc::clone(&self.seated),
            user,
        }
    }
}

fn lock(seated: &Seated) -> MutexGuard<'_, HashMap<u32, u32>> {
    // Whoever panicked with the lock has left whole numbers behind.
    seated.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Seat {
    fn drop(&mut self) {
        match lock(&self.seated).entry(self.user) {
            Entry::Occupied(mut count) if *count.get() > 1 => *count.get_mut() -= 1,
            Entry::Occupied(last) => drop(last.remove()),
            Entry::Vacant(_) => unreachable!("a seat is given back once"),
        }
    }
}

/// How many sessions each user has, over all routes, so that one user leaves something of `--connections-max`
/// for others.
///
/// Every worker counts up and down, at the start and the end of a session. Nothing but the counts depends on the
/// order. A count is for all users whose numbers are alike modulo `COUNTS`, who have one part together: so the
/// table has a bound, and there is nothing to lock. Two of a system's users that are are rare.
pub(crate) struct UserParts {
    counts: Box<[AtomicU32]>,
    max: u32,
    /// The first user that came, as a number that is not 0. 0: nobody has come.
    first: AtomicU64,
    /// Whether the limit holds: it is given, or clients of a second user have come. One user among its own is
    /// kept from nothing.
    holds: AtomicBool,
    pub(super) refusals: Failures,
}

/// A prime above the numbers that distributions give to users of their own and to the first people.
const COUNTS: usize = 4093;

/// Of all sessions, one user leaves this part to others: a thousand of the default.
const OTHERS_PART: u32 = 8;

/// One of a user's sessions; given back when dropped.
pub(super) struct UserSession {
    users: Arc<UserParts>,
    place: usize,
}

impl UserParts {
    /// `None`: each may have all `connections_max`.
    pub(crate) fn new(part: Part, connections_max: u32) -> Option<Arc<Self>> {
        let (max, holds) = match part {
            Part::All => return None,
            Part::Most => (connections_max - connections_max / OTHERS_PART, false),
            Part::Number(max) => (max.get(), true),
        };
        if max >= connections_max {
            return None;
        }
        Some(Arc::new(Self {
            counts: (0..COUNTS).map(|_| AtomicU32::new(0)).collect(),
            max,
            first: AtomicU64::new(0),
            holds: AtomicBool::new(holds),
            refusals: Failures::default(),
        }))
    }

    /// `None`: the user has all that it may, and nobody else has let it in.
    pub(super) fn admit(self: &Arc<Self>, user: u32, way: Way) -> Option<UserSession> {
        let place = user as usize % COUNTS;
        let max = match self.limit_holds(user) && way == Way::Accepted {
            true => self.max,
            false => u32::MAX,
        };
        let one_more = |count| (count < max).then(|| count + 1);
        let taken = self.counts[place].fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.ok().map(|_| UserSession {
            users: Arc::clone(self),
            place,
        })
    }

    fn limit_holds(&self, user: u32) -> bool {
        if self.holds.load(Ordering::Relaxed) {
            return true;
        }
        let this = u64::from(user) + 1;
        let first = match self.first.load(Ordering::Relaxed) {
            0 => {
                let set =
                    self.first
                        .compare_exchange(0, this, Ordering::Relaxed, Ordering::Relaxed);
                set.err().unwrap_or(this)
            }
            first => first,
        };
        if first != this {
            self.holds.store(true, Ordering::Relaxed);
        }
        first != this
    }

    /// Whether nobody has a session.
    #[cfg(any(test, fuzzing))]
    pub(super) fn is_empty(&self) -> bool {
        self.counts
            .iter()
            .all(|count| count.load(Ordering::Relaxed) == 0)
    }
}

impl Drop for UserSession {
    fn drop(&mut self) {
        let before = self.users.counts[self.place].fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a session ends once");
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::driver::epoll::Epoll;
    use crate::driver::{IntoUnix, Limits, SocketCalls as _, Waker};

    fn per_user(max: u32) -> PerUser {
        PerUser::new(NonZeroU32::new(max).unwrap())
    }

    fn counting(before: Option<&Who>, max: u32) -> Option<Who> {
        Who::in_place_of(before, None, NonZeroU32::new(max))
    }

    fn seat(who: &Who, user: u32) -> Option<Seat> {
        who.per_user.as_ref().unwrap().seat(user)
    }

    fn peer(uid: u32) -> Option<PeerCredentials> {
        Some(PeerCredentials {
            uid,
            gid: uid,
            pid: 1,
        })
    }

    #[test]
    fn where_rules_take_the_place_of_others_seats_count_on() {
        let before = counting(None, 2).unwrap();
        let seats = [seat(&before, 33), seat(&before, 33)];
        let after = counting(Some(&before), 3).unwrap();
        let third = seat(&after, 33);
        assert!(third.is_some() && seat(&after, 33).is_none());
        // A worker that has not heard of them yet goes by the same count.
        assert!(seat(&before, 33).is_none());
        let kept = seats.map(|seat| after.keep(seat, || unreachable!("it is counted")));
        drop((before, third));
        assert!(seat(&after, 33).is_some());
        drop(kept);
        assert_eq!(after.seated(), Some(0));
    }

    #[test]
    fn where_seats_come_to_be_counted_those_who_are_there_have_theirs_whatever_the_limit() {
        assert!(counting(None, 0).is_none());
        let who = counting(None, 1).unwrap();
        let kept = [(); 2].map(|()| who.keep(None, || peer(33)));
        assert!(kept.iter().all(Option::is_some) && seat(&who, 33).is_none());
        assert!(who.keep(None, || None).is_none(), "it is nobody's");
        let [first, second] = kept;
        drop(first);
        assert!(seat(&who, 33).is_none());
        drop(second);
        assert_eq!(who.seated(), Some(0));
    }

    #[test]
    fn each_user_has_its_seats_and_who_leaves_makes_room() {
        let per_user = per_user(2);
        let (first, _second) = (per_user.seat(33), per_user.seat(33));
        assert!(first.is_some() && per_user.seat(33).is_none());
        assert!(per_user.seat(34).is_some(), "another user has its own");
        drop(first);
        assert!(per_user.seat(33).is_some());
    }

    #[test]
    fn nothing_is_left_of_a_user_without_seats() {
        let per_user = per_user(3);
        let seats: Vec<_> = (0..1000).filter_map(|n| per_user.seat(n % 400)).collect();
        assert_eq!((seats.len(), lock(&per_user.seated).len()), (1000, 400));
        drop(seats);
        assert!(lock(&per_user.seated).is_empty());
    }

    #[test]
    fn under_contention_no_seat_is_lost_or_doubled() {
        let per_user = per_user(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let seat = per_user.seat(33);
                        let seated = lock(&per_user.seated).get(&33).copied();
                        assert!(seated.is_none_or(|count| count <= 3));
                        drop(seat);
                    }
                });
            }
        });
        assert!(lock(&per_user.seated).is_empty());
    }

    #[test]
    fn one_user_leaves_a_part_to_others_once_there_are_some() {
        let users = UserParts::new(Part::Most, 80).unwrap();
        let alone: Vec<_> = (0..100)
            .filter_map(|_| users.admit(33, Way::Accepted))
            .collect();
        assert_eq!(alone.len(), 100, "it is among its own");
        assert!(users.admit(0, Way::Accepted).is_some());
        assert!(users.admit(33, Way::Accepted).is_none());
        drop(alone);
        let sessions: Vec<_> = (0..100)
            .filter_map(|_| users.admit(33, Way::Accepted))
            .collect();
        assert_eq!(sessions.len(), 70);
        assert!(users.admit(34, Way::Accepted).is_some());
        drop(sessions);
        assert!(users.is_empty());
    }

    #[test]
    fn a_part_that_is_given_holds_from_the_first_client_on() {
        let users = UserParts::new(Part::Number(NonZeroU32::new(3).unwrap()), 80).unwrap();
        let sessions: Vec<_> = (0..10)
            .filter_map(|_| users.admit(33, Way::Accepted))
            .collect();
        assert_eq!(sessions.len(), 3);
        assert!(users.admit(u32::MAX, Way::Accepted).is_some());
        for (part, all) in [
            (Part::All, 80),
            (Part::Most, 7),
            (Part::Number(NonZeroU32::MIN), 1),
        ] {
            assert!(UserParts::new(part, all).is_none(), "{part:?} of {all}");
        }
    }

    #[test]
    fn sessions_of_a_user_are_counted_by_all_workers() {
        let users = UserParts::new(Part::Number(NonZeroU32::new(3).unwrap()), 80).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let session = users.admit(33, Way::Accepted);
                        assert!(users.counts[33].load(Ordering::Relaxed) <= 3);
                        drop(session);
                    }
                });
            }
        });
        assert!(users.is_empty());
    }

    #[test]
    fn what_stands_for_everybody_without_a_number_matches_nothing() {
        let allowed = Allowed {
            users: vec![33, 65534],
            groups: vec![33, 65533],
            unmapped: Unmapped {
                user: 65534,
                group: 65533,
            },
        };
        assert!(allowed.has_user(33) && allowed.has_group(33));
        assert!(!allowed.has_user(65534) && !allowed.has_group(65533));
        // A user is not a group.
        assert!(!allowed.has_user(65533) && !allowed.has_group(65534));
    }

    #[test]
    fn whom_the_kernel_does_not_know_no_list_lets_in() {
        let mut driver = Epoll::new(
            Waker::new().unwrap(),
            Limits {
                sessions: 0,
                per_session: 0,
                pipes_max: 0,
                into_unix: IntoUnix::Spliced,
            },
        )
        .unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = driver.adopt_listener(socket.into());
        let peer = driver.peer_credentials(client);
        assert_eq!(peer, None);
        let allowed = Allowed {
            users: vec![0, 65534, u32::MAX],
            groups: vec![0],
            unmapped: Unmapped {
                user: 65534,
                group: 65534,
            },
        };
        let choosy = Who::new(Some(allowed), None).unwrap();
        let counting = Who::new(None, NonZeroU32::new(1)).unwrap();
        for way in [Way::Accepted, Way::Arrived] {
            let refused = choosy.admit((client, way), peer, &mut driver);
            assert!(matches!(refused, Err(Refusal::NotAllowed)));
            // Nor is it counted as anybody's.
            let admitted = counting.admit((client, way), peer, &mut driver);
            assert!(matches!(admitted, Ok(None)));
        }
    }

    #[test]
    fn without_rules_there_is_nobody_to_ask() {
        assert!(Who::new(None, None).is_none());
        let who = Who::new(None, NonZeroU32::new(1)).unwrap();
        assert!(!who.is_choosy());
    }
}
