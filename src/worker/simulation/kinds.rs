//! The kinds of scenarios that there are.

use std::fs::File;
use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use crate::backend::Address;
use crate::config::{AutoRange, EndpointMax};
use crate::driver::sim::Users;
use crate::driver::sim::dice::Dice;
use crate::session::Introduction;
use crate::sys::net::{UnixKind, UnixName};
use crate::worker::{Adaptive, Backlog, ClassLimit, ClassLimits, Limit, Listening, Sharing};

/// What the addresses are of. Not one of the dice: seeds that found something stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backends {
    Tcp,
    /// TCP, and the sockets that clients come from are somebody else's.
    Inherited,
    /// The first one's is a Unix socket, all are to be told who connects, and sessions to those that
    /// leave the set are cut.
    Mixed,
    /// Addresses of both families, so that connects race.
    BothFamilies,
    /// TCP, and no endpoint gets more than a few connections.
    Limited,
    /// The same, or without a limit; and clients are known by their users.
    Users,
    /// TCP, and peers speak FastCGI; mostly, no endpoint gets more than a few connections.
    Fastcgi,
    /// The same, and it is found out how many connections each endpoint has workers for.
    Auto,
    /// One or several of the others, and operators change something by hand.
    ByHand,
    /// Several routes on one worker: bytes and FastCGI, with limits and without.
    Routes,
    /// The same or one of them, and several workers.
    Workers,
    /// Two workers, of which one hands its clients over to the other.
    Successions,
    /// Several routes, and one worker or several, whose configuration changes while they run.
    Reloads,
}

/// When requests are sent away where too many of them wait: sooner than in earnest, as they do not wait for long here.
const SHORT: Adaptive = Adaptive {
    target: Duration::from_millis(10),
    target_max: Duration::from_millis(50),
};

/// The order of a queue of requests for endpoints with so many places. Not one of the dice: seeds that found something
/// stay what they are.
pub(super) fn order_with(per_endpoint_max: Option<EndpointMax>) -> Option<Adaptive> {
    let is_scarce = per_endpoint_max.is_some_and(|max| max.most().get() <= 2);
    is_scarce.then_some(SHORT)
}

/// Why a kind with several routes has nothing of its own.
const OF_ROUTES: &str = "each of its routes is of one of the other kinds";

impl Backends {
    /// What `SPLICEWAY_SIM_BACKENDS` calls them.
    #[cfg(test)]
    pub(super) const NAMES: [(Self, &str); 13] = [
        (Self::Tcp, "tcp"),
        (Self::Inherited, "inherited"),
        (Self::Mixed, "mixed"),
        (Self::BothFamilies, "families"),
        (Self::Limited, "limited"),
        (Self::Users, "users"),
        (Self::Fastcgi, "fastcgi"),
        (Self::Auto, "auto"),
        (Self::ByHand, "byhand"),
        (Self::Routes, "routes"),
        (Self::Workers, "workers"),
        (Self::Successions, "successions"),
        (Self::Reloads, "reloads"),
    ];

    pub(super) fn endpoints(self) -> Vec<Address> {
        self.endpoints_of(0)
    }

    /// Those of one of several routes.
    pub(super) fn endpoints_of(self, route: usize) -> Vec<Address> {
        let route = u8::try_from(route).expect("routes are few");
        let address = |port| Address::Tcp(SocketAddr::from(([192, 0, 2, 1 + route], port)));
        let mut endpoints: Vec<_> = (1..4).map(address).collect();
        match self {
            Self::Tcp
            | Self::Inherited
            | Self::Limited
            | Self::Users
            | Self::Fastcgi
            | Self::Auto => {}
            Self::ByHand | Self::Routes | Self::Workers | Self::Successions | Self::Reloads => {
                unreachable!("{OF_ROUTES}")
            }
            Self::Mixed => {
                endpoints[0] = Address::Unix(UnixName::new(b"simulated", UnixKind::Abstract));
            }
            Self::BothFamilies => {
                let address_v6 = |port| (Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]), port);
                endpoints.extend((1..4).map(|port| Address::Tcp(address_v6(port).into())));
                endpoints.rotate_left(2);
            }
        }
        endpoints
    }
}

impl Backends {
    /// Whether peers speak FastCGI.
    pub(super) fn speak_fastcgi(self) -> bool {
        matches!(self, Self::Fastcgi | Self::Auto)
    }

    pub(super) fn limit(self, dice: &mut Dice) -> Option<Limit> {
        let is_limited = match self {
            Self::Tcp | Self::Inherited => false,
            Self::Limited => true,
            Self::Auto => {
                let (least, most) = dice.pick(&[(1, 8), (1, 3), (2, 5), (1, 1)]);
                let per_endpoint_max = AutoRange::new(least, most).map(EndpointMax::Auto);
                return Some(Limit {
                    per_endpoint_max,
                    queue_max: dice.pick(&[0, 2, 100]),
                    order: order_with(per_endpoint_max),
                    classes: Default::default(),
                });
            }
            Self::Mixed | Self::BothFamilies | Self::Users => dice.one_in(2),
            Self::Fastcgi => dice.below(4) > 0,
            Self::ByHand | Self::Routes | Self::Workers | Self::Successions | Self::Reloads => {
                unreachable!("{OF_ROUTES}")
            }
        };
        let limit = is_limited.then(|| Limit {
            per_endpoint_max: NonZeroU32::new(dice.pick(&[1, 2, 5])).map(EndpointMax::Fixed),
            queue_max: dice.pick(&[0, 2, 100]),
            order: None,
            classes: Default::default(),
        });
        match self {
            // Such a route has a queue in any case, for those who wait for the pace.
            Self::Fastcgi => {
                let limit = limit.unwrap_or_else(|| Limit {
                    per_endpoint_max: None,
                    queue_max: 100,
                    order: None,
                    classes: Default::default(),
                });
                Some(Limit {
                    order: order_with(limit.per_endpoint_max),
                    ..limit
                })
            }
            _ => limit,
        }
    }

    /// What classes of requests may have of it, where there are classes: of requests alone, and of a limit that leaves
    /// something to share. No dice of their own.
    pub(super) fn classes(self, limit: &Limit) -> ClassLimits {
        let class = |max, reserve, priority| ClassLimit {
            max,
            reserve,
            priority,
            queue_max: limit.queue_max,
        };
        let permits = limit
            .per_endpoint_max
            .map(|max| (max.least().get(), max.most().get()));
        let classes = match (self, permits) {
            (Self::Fastcgi, Some((2, 2))) => vec![class(2, 0, 0), class(1, 0, 0), class(2, 1, 0)],
            (Self::Fastcgi, Some((5, 5))) => vec![class(5, 0, 0), class(2, 0, -1), class(4, 2, 1)],
            (Self::Auto, Some((2, most))) => {
                vec![class(most, 0, 0), class(2, 0, -1), class(most, 1, 1)]
            }
            (Self::Auto, Some((1, 3))) => vec![class(3, 0, 0), class(1, 0, 1), class(2, 0, 0)],
            _ => Vec::new(),
        };
        classes.into_iter().collect()
    }

    pub(super) fn users(self, dice: &mut Dice) -> Option<Users> {
        (self == Self::Users).then(|| Users {
            allowed: dice
                .pick(&[&[1000, 1001][..], &[1000, 1002], &[1002]])
                .into(),
            per_user_max: dice.pick(&[1, 2, 5]),
        })
    }

    /// Each client of FastCGI makes up to four requests.
    pub(super) fn clients_max(self) -> u64 {
        match self {
            Self::Fastcgi => 10,
            // So that more come than there are workers for.
            Self::Auto => 20,
            Self::Tcp
            | Self::Inherited
            | Self::Mixed
            | Self::BothFamilies
            | Self::Limited
            | Self::Users => 25,
            Self::ByHand | Self::Routes | Self::Workers | Self::Successions | Self::Reloads => {
                unreachable!("{OF_ROUTES}")
            }
        }
    }

    /// The simulation wants a descriptor to own and does nothing with it.
    pub(super) fn listening(self) -> Listening {
        let nothing = File::open("/dev/null").expect("every system has it");
        Listening {
            fd: nothing.into(),
            sharing: Sharing::AnyWorker,
            introduction: match self.introduction() {
                b"" => Introduction::None,
                fixed => Introduction::Fixed(fixed.into()),
            },
            backlog: match self {
                Self::Inherited => Backlog::NextOwners,
                Self::Tcp
                | Self::Mixed
                | Self::BothFamilies
                | Self::Limited
                | Self::Users
                | Self::Fastcgi
                | Self::Auto => Backlog::Ours,
                Self::ByHand | Self::Routes | Self::Workers | Self::Successions | Self::Reloads => {
                    unreachable!("{OF_ROUTES}")
                }
            },
        }
    }

    /// Whether the epoll driver can be a part of what is run.
    #[cfg(test)]
    pub(super) fn is_under_epoll(self) -> bool {
        !matches!(self, Self::Routes | Self::Workers | Self::Successions)
    }

    pub(super) fn introduction(self) -> &'static [u8] {
        match self {
            Self::Tcp
            | Self::Inherited
            | Self::Limited
            | Self::Users
            | Self::Fastcgi
            | Self::Auto => b"",
            Self::Mixed | Self::BothFamilies => b"PROXY UNKNOWN\r\n",
            Self::ByHand | Self::Routes | Self::Workers | Self::Successions | Self::Reloads => {
                unreachable!("{OF_ROUTES}")
            }
        }
    }
}
