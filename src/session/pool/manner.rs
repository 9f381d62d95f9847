//! What a server does with kept connections and with the fence.

use std::time::Instant;

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
