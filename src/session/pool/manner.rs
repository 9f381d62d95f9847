//! What a server does with kept connections and with the fence.

use std::time::{Duration, Instant};

use super::{Open, Pool};
use crate::backend::{Address, Footing};

/// Connections in a row that a server leaves without an answer to the fence, or closes, before it counts as
/// one that does so always, or before what was known of it is doubted.
const STRIKES_MAX: u32 = 3;

/// How long a server that keeps no connections, or does not answer the fence, is taken for one before it is
/// tried again: another program may listen at its address. One try costs one settle timeout.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What is known of a server's way with kept connections and with the fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::session) enum Manner {
    /// Nothing yet, or so many of its connections in a row did not come to rest. It gets the fence only when
    /// it has ended its answer: one that does not read on would close with bytes unread, which destroys
    /// what is still to be sent, and one that reads all at once may take it for a part of the request.
    Unknown { strikes: u32 },
    /// It answers the fence when it has nothing else to do, and a kept connection has served another request:
    /// PHP-FPM. The fence comes with the request.
    InTurn { strikes: u32 },
    /// It answers the fence also while a request runs, which proves nothing: Go, flup, node. It gets the
    /// fence when it has ended its answer.
    AnyTime { strikes: u32 },
    /// It does not answer the fence: libfcgi, fcgiwrap, Perl. Its connections serve one request each.
    Silent { ask_at: Instant },
    /// It closes its connections behind an answer: ruby-fcgi, uwsgi, older PHP. Likewise.
    Closes { ask_at: Instant },
}

impl Manner {
    pub(super) const UNKNOWN: Self = Self::Unknown { strikes: 0 };

    /// Whether it is known to keep connections.
    pub(in crate::session) fn is_proven(self) -> bool {
        matches!(self, Self::InTurn { .. } | Self::AnyTime { .. })
    }

    /// Whether its connections serve one request each.
    pub(super) fn keeps_none(self) -> bool {
        matches!(self, Self::Silent { .. } | Self::Closes { .. })
    }
}

/// What a connection failed to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::session) enum Failing {
    /// The fence was not answered in time.
    Unanswered,
    /// It ended, or had something else to say.
    Ended,
}

/// How a request is sent with regard to the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::session) enum Keeping {
    /// There is no next one on this connection.
    Not,
    /// The fence comes when the answer has ended.
    FenceAfterAnswer,
    /// The fence comes with the request.
    FenceWithRequest,
}

impl Pool {
    /// How the connection's next request is sent.
    pub(in crate::session) fn keeping(&mut self, open: &Open, now: Instant) -> Keeping {
        if !self.options.reuse || open.requests >= self.options.requests_max {
            return Keeping::Not;
        }
        let address = open.lease.address();
        match self.manner(address) {
            Manner::InTurn { .. } => Keeping::FenceWithRequest,
            Manner::Unknown { .. } | Manner::AnyTime { .. } => Keeping::FenceAfterAnswer,
            Manner::Silent { ask_at } | Manner::Closes { ask_at } if now < ask_at => Keeping::Not,
            // One at a time.
            Manner::Silent { .. } => {
                let ask_at = now + ASK_AGAIN;
                self.manners.insert(address, Manner::Silent { ask_at });
                Keeping::FenceAfterAnswer
            }
            Manner::Closes { .. } => {
                let ask_at = now + ASK_AGAIN;
                self.manners.insert(address, Manner::Closes { ask_at });
                Keeping::FenceAfterAnswer
            }
        }
    }

    /// What is known of the server at `address`.
    pub(in crate::session) fn manner(&self, address: Address) -> Manner {
        let known = self.manners.get(&address).copied();
        known.unwrap_or(Manner::UNKNOWN)
    }

    /// A kept connection has served another request.
    pub(in crate::session) fn served_again(&mut self, address: Address) {
        let known = self.manner(address);
        self.learn(
            address,
            match known {
                Manner::AnyTime { .. } => Manner::AnyTime { strikes: 0 },
                Manner::Unknown { .. }
                | Manner::InTurn { .. }
                | Manner::Silent { .. }
                | Manner::Closes { .. } => Manner::InTurn { strikes: 0 },
            },
        );
    }

    /// The fence that came with a request was answered before the request was.
    pub(in crate::session) fn answered_early(&mut self, address: Address) {
        self.learn(address, Manner::AnyTime { strikes: 0 });
    }

    /// A server that has the fence with its requests broke off in one of them: it may be another one, which
    /// cannot cope with it.
    pub(in crate::session) fn broke_off(&mut self, address: Address) {
        if let Manner::InTurn { .. } = self.manner(address) {
            self.learn(address, Manner::UNKNOWN);
        }
    }

    /// A connection did not come to rest, or was of no use when it did.
    pub(in crate::session) fn disappointed(
        &mut self,
        address: Address,
        failing: Failing,
        now: Instant,
    ) {
        let ask_at = now + ASK_AGAIN;
        let next = match self.manner(address) {
            Manner::Unknown { strikes } if strikes + 1 < STRIKES_MAX => Manner::Unknown {
                strikes: strikes + 1,
            },
            Manner::InTurn { strikes } if strikes + 1 < STRIKES_MAX => Manner::InTurn {
                strikes: strikes + 1,
            },
            Manner::AnyTime { strikes } if strikes + 1 < STRIKES_MAX => Manner::AnyTime {
                strikes: strikes + 1,
            },
            Manner::InTurn { .. } | Manner::AnyTime { .. } => Manner::UNKNOWN,
            known @ (Manner::Silent { .. } | Manner::Closes { .. }) => known,
            Manner::Unknown { .. } if failing == Failing::Unanswered => {
                tracing::info!(
                    route = %self.route,
                    "endpoint {address}: does not answer FCGI_GET_VALUES within --settle-timeout, so each of \
                     its connections serves one request; tried again every minute"
                );
                Manner::Silent { ask_at }
            }
            Manner::Unknown { .. } => {
                tracing::info!(
                    route = %self.route,
                    "endpoint {address}: keeps no connections, so each of them serves one request"
                );
                Manner::Closes { ask_at }
            }
        };
        self.learn(address, next);
    }

    pub(super) fn learn(&mut self, address: Address, manner: Manner) {
        let before = self.manners.insert(address, manner);
        let footing = manner.footing();
        if before.map_or(Footing::Unknown, Manner::footing) != footing {
            self.footings.push((address, footing));
        }
        let kept_none = before.is_some_and(Manner::keeps_none);
        if kept_none != manner.keeps_none() {
            self.unkept = self.unkept + u64::from(manner.keeps_none()) - u64::from(kept_none);
            self.counters.fastcgi.doubtful.set(self.unkept);
        }
    }
}
