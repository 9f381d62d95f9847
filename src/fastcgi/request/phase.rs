//! How far a request is.

use spliceway_common::fastcgi::{Kind, Role};

/// How far the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// None is open.
    Idle,
    /// PARAMS are expected.
    Params,
    /// These streams are open.
    Body(Streams),
    /// Every stream has ended; the answer may still be on its way.
    Complete,
}

/// Input streams that have not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Streams {
    Stdin,
    Data,
    Both,
}

impl Streams {
    pub(super) const fn of(role: Role) -> Self {
        match role {
            Role::Filter => Self::Both,
            Role::Responder | Role::Authorizer | Role::Other(_) => Self::Stdin,
        }
    }

    pub(super) const fn has(self, kind: Kind) -> bool {
        matches!(
            (self, kind),
            (Self::Stdin | Self::Both, Kind::Stdin) | (Self::Data | Self::Both, Kind::Data)
        )
    }

    /// What is open after `kind` has ended.
    pub(super) const fn without(self, kind: Kind) -> Phase {
        match (self, kind) {
            (Self::Both, Kind::Stdin) => Phase::Body(Self::Data),
            (Self::Both, _) => Phase::Body(Self::Stdin),
            (Self::Stdin | Self::Data, _) => Phase::Complete,
        }
    }
}
