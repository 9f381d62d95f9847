//! What a request is told to do, for whoever asks.

use std::time::{Duration, Instant};

use crate::access_log::Words;
use crate::driver::Driver;
use crate::session::bulk::Held;
use crate::session::view::{Began, SessionState, SessionView, Stall, StalledBy, StalledWhat};

use super::body::Sending;
use super::serving::Serving;
use super::{Exchange, GONE, Stage};

impl<D: Driver> Exchange<D> {
    /// When its client's connection began.
    pub fn began(&self) -> Began {
        self.client.connected
    }

    /// What it does at this moment.
    pub fn view(&self, now: Instant) -> SessionView {
        let client = &self.client;
        let state = self.state();
        if let Stage::Head = self.stage {
            return SessionView {
                since: Some(client.activity.last()),
                ..SessionView::of(state)
            };
        }
        SessionView {
            state,
            since: Some(client.began),
            waited: client.tally.waited(now) + self.held_for(now),
            words: Some(Words::of(client.reader.head())),
            class: client.tally.class(),
            endpoint: client.tally.endpoint(),
            request_bytes: match &self.stage {
                Stage::Search(_) => Some(0),
                Stage::Serve(serving) => Some(serving.bytes_taken()),
                // Whoever has counted them is gone with the server.
                _ => None,
            },
            response_bytes: Some(client.tally.answer_bytes()),
            stall: self.stall(now),
        }
    }

    /// A pause is no wait for a place, and is not in the tally.
    fn held_for(&self, now: Instant) -> Duration {
        match &self.stage {
            Stage::Search(search) => search.0.held_for(now),
            _ => Duration::ZERO,
        }
    }

    pub(super) fn state(&self) -> SessionState {
        match &self.stage {
            Stage::Head if self.client.reader.is_between() => SessionState::Idle,
            Stage::Head => SessionState::Reading,
            Stage::Search(search) if search.0.queued_since().is_some() => SessionState::Queued,
            Stage::Search(_) => SessionState::Connecting,
            Stage::Serve(serving) if serving.has_begun() => SessionState::Answering,
            Stage::Serve(_) => SessionState::Sent,
            Stage::Deliver { .. } => SessionState::Delivering,
            Stage::Farewell(_) | Stage::Breaking(_) => SessionState::Ending,
            Stage::Gone => unreachable!("{GONE}"),
        }
    }

    /// The client is looked at first: what it does not take, or does not send, holds the server up as well.
    pub(super) fn stall(&self, now: Instant) -> Option<Stall> {
        use {StalledBy::*, StalledWhat::*};
        let client = &self.client;
        let for_how_long = |since: Instant| now.saturating_duration_since(since);
        if let Some(since) = client.answer_lag.stuck_since() {
            return Stall::lasting(Client, Download, for_how_long(since));
        }
        let Stage::Serve(serving) = &self.stage else {
            return None;
        };
        if let Some(since) = client.body_lag.stuck_since() {
            return Stall::lasting(Client, Upload, for_how_long(since));
        }
        let quiet = for_how_long(client.activity.last());
        if serving.has_more_to_take() {
            Stall::lasting(Backend, Upload, quiet)
        } else if serving.has_begun() {
            Stall::lasting(Backend, Download, quiet)
        } else {
            // That it was sent says that the server is waited for.
            None
        }
    }
}

impl<D: Driver> Serving<D> {
    /// How much of the request the server has taken.
    fn bytes_taken(&self) -> u64 {
        let held = self.upload.as_ref().map_or(0, Held::len);
        self.sent.saturating_sub((self.unwritten + held) as u64)
    }

    /// Whether something of the request waits for the server to take it.
    fn has_more_to_take(&self) -> bool {
        self.upload.is_some()
            || match self.sending {
                Sending::Busy { .. } | Sending::Splicing | Sending::Last => true,
                Sending::Idle | Sending::Done | Sending::Broken => false,
            }
    }
}
