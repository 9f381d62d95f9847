//! What a request is told to do, for whoever asks.

use std::time::Instant;

use crate::access_log::Words;
use crate::driver::Driver;
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
            waited: client.tally.waited(now),
            words: Some(Words::of(client.reader.head())),
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

    fn state(&self) -> SessionState {
        match &self.stage {
            Stage::Head if self.client.reader.is_between() => SessionState::Idle,
            Stage::Head => SessionState::Reading,
            Stage::Search(search) if search.0.waits_its_turn() => SessionState::Queued,
            Stage::Search(_) => SessionState::Connecting,
            Stage::Serve(serving) if serving.has_begun() => SessionState::Answering,
            Stage::Serve(_) => SessionState::Sent,
            Stage::Deliver { .. } => SessionState::Delivering,
            Stage::Farewell(_) | Stage::Breaking(_) => SessionState::Ending,
            Stage::Gone => unreachable!("{GONE}"),
        }
    }

    /// The client is looked at first: what it does not take, or does not send, holds the server up as well.
    fn stall(&self, now: Instant) -> Option<Stall> {
        use {StalledBy::*, StalledWhat::*};
        let client = &self.client;
        let for_how_long = |since: Instant| now.saturating_duration_since(since);
        if let Some(since) = client.answer_lag.waits_since() {
            return Stall::lasting(Client, Download, for_how_long(since));
        }
        let Stage::Serve(serving) = &self.stage else {
            return None;
        };
        if let Some(since) = client.body_lag.waits_since() {
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
        self.sent - self.unwritten as u64
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
