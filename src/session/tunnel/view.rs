//! What a raw session is told to do, for whoever asks.

use std::time::Instant;

use crate::driver::Driver;
use crate::session::view::{Began, SessionState, SessionView, Stall, StalledBy, StalledWhat};

use super::{BackendSide, Tunnel};

impl<D: Driver> Tunnel<D> {
    /// When it began.
    pub fn began(&self) -> Began {
        self.began
    }

    /// What it does at this moment.
    pub fn view(&self, now: Instant) -> SessionView {
        let queued_since = match &self.upstream {
            BackendSide::Connecting(connecting) => connecting.queued_since(),
            BackendSide::Opening(_) | BackendSide::Open(_) | BackendSide::None => None,
        };
        let state = match &self.upstream {
            BackendSide::Connecting(_) if queued_since.is_some() => SessionState::Queued,
            BackendSide::Connecting(_) => SessionState::Connecting,
            BackendSide::Opening(_) | BackendSide::Open(_) => SessionState::Relaying,
            BackendSide::None => SessionState::Ending,
        };
        let waited = queued_since.map(|since| now.saturating_duration_since(since));
        SessionView {
            waited: waited.unwrap_or_default(),
            endpoint: self.endpoint(),
            request_bytes: Some(self.to_backend.bytes_moved()),
            response_bytes: Some(self.to_client.bytes_moved()),
            stall: self.stall(now),
            ..SessionView::of(state)
        }
    }

    /// The time is that in which nothing has moved either way: nothing is kept of each.
    fn stall(&self, now: Instant) -> Option<Stall> {
        let quiet = now.saturating_duration_since(self.activity.last());
        if self.to_client.waits_for_sink() {
            Stall::lasting(StalledBy::Client, StalledWhat::Download, quiet)
        } else if self.to_backend.waits_for_sink() {
            Stall::lasting(StalledBy::Backend, StalledWhat::Upload, quiet)
        } else {
            None
        }
    }
}
