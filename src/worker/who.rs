//! Who is served, of those that can connect to a route's listeners: the kernel says which process made a
//! connection, and nothing that a client sends changes that.
//!
//! A route without such rules has no [`Who`], and its accepts ask the kernel nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::counters::Outcome;
use crate::driver::{Driver, Sock};
use crate::observe::Failures;
use crate::sys::net::PeerCredentials;

/// The rules of one route, for all of its workers.
pub struct Who {
    allowed: Option<Allowed>,
    per_user: Option<Arc<PerUser>>,
    strangers: Failures,
    crowds: Failures,
}

/// Users and groups whose clients are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
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
pub struct Unmapped {
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
}

impl Who {
    /// `None` where everybody is served.
    pub fn new(allowed: Option<Allowed>, per_user_max: Option<NonZeroU32>) -> Option<Self> {
        if allowed.is_none() && per_user_max.is_none() {
            return None;
        }
        Some(Self {
            allowed,
            per_user: per_user_max.map(|max| Arc::new(PerUser::new(max))),
            strangers: Failures::default(),
            crowds: Failures::default(),
        })
    }

    /// Whether clients are told apart by an allow list.
    pub fn is_choosy(&self) -> bool {
        self.allowed.is_some()
    }

    /// A seat for this client, where seats are counted. `peer` is who it is, as far as the kernel knows.
    pub(super) fn admit<D: Driver>(
        &self,
        client: Sock,
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
        per_user.seat(peer.uid).map(Some).ok_or(Refusal::UserLimit)
    }

    /// Refusals of this kind, as they are reported.
    pub(super) fn refusals(&self, refusal: Refusal) -> &Failures {
        match refusal {
            Refusal::NotAllowed => &self.strangers,
            Refusal::UserLimit => &self.crowds,
        }
    }

    /// Whether every seat was given back.
    #[cfg(any(test, fuzzing))]
    pub(super) fn is_empty(&self) -> bool {
        self.per_user.as_ref().is_none_or(|p| p.lock().is_empty())
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
            Self::UserLimit => Outcome::UserLimit,
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
        })
    }
}

/// How many clients each user has.
///
/// Workers lock it for a few instructions at the start and at the end of a session, never in between.
/// There is an entry only for users with sessions, so there are no more of them than sessions.
struct PerUser {
    max: NonZeroU32,
    seated: Mutex<HashMap<u32, u32>>,
}

/// A client's part of what its user may have; given back when dropped.
pub(super) struct Seat {
    per_user: Arc<PerUser>,
    user: u32,
}

impl PerUser {
    fn new(max: NonZeroU32) -> Self {
        Self {
            max,
            seated: Mutex::default(),
        }
    }

    fn seat(self: &Arc<Self>, user: u32) -> Option<Seat> {
        let mut seated = self.lock();
        let count = seated.entry(user).or_default();
        // An entry that was just made is below every limit.
        if *count >= self.max.get() {
            return None;
        }
        *count += 1;
        Some(Seat {
            per_user: Arc::clone(self),
            user,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, u32>> {
        // Whoever panicked with the lock has left whole numbers behind.
        self.seated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        match self.per_user.lock().entry(self.user) {
            Entry::Occupied(mut count) if *count.get() > 1 => *count.get_mut() -= 1,
            Entry::Occupied(last) => drop(last.remove()),
            Entry::Vacant(_) => unreachable!("a seat is given back once"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::driver::epoll::Epoll;
    use crate::driver::{IntoUnix, Limits, Waker};

    fn per_user(max: u32) -> Arc<PerUser> {
        Arc::new(PerUser::new(NonZeroU32::new(max).unwrap()))
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
        assert_eq!((seats.len(), per_user.lock().len()), (1000, 400));
        drop(seats);
        assert!(per_user.lock().is_empty());
    }

    #[test]
    fn under_contention_no_seat_is_lost_or_doubled() {
        let per_user = per_user(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let seat = per_user.seat(33);
                        let seated = per_user.lock().get(&33).copied();
                        assert!(seated.is_none_or(|count| count <= 3));
                        drop(seat);
                    }
                });
            }
        });
        assert!(per_user.lock().is_empty());
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
                buffers_max: 0,
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
        let refused = choosy.admit(client, peer, &mut driver);
        assert!(matches!(refused, Err(Refusal::NotAllowed)));
        // Nor is it counted as anybody's.
        let counting = Who::new(None, NonZeroU32::new(1)).unwrap();
        for _ in 0..2 {
            let admitted = counting.admit(client, peer, &mut driver);
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
