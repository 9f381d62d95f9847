//! What servers are told to do whose requests no session has any more.

use crate::session::view::{SessionState, SessionView};

use super::{KeptState, Pool};

impl Pool {
    /// How many connections it has.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Connections that no request uses, and whose servers may still be at work.
    pub fn views(&self) -> impl Iterator<Item = SessionView> {
        self.kept.iter().filter_map(|(_, kept)| {
            let state = match kept.state {
                KeptState::Settling(_) => SessionState::Settling,
                KeptState::Abandoned => SessionState::Abandoned,
                // It has had no request.
                KeptState::Proving { .. } | KeptState::Resting => return None,
            };
            Some(SessionView {
                since: Some(kept.since),
                endpoint: Some(kept.open.lease.address()),
                ..SessionView::of(state)
            })
        })
    }
}
