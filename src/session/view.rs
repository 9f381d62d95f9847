//! What a session does at this moment, for whoever asks. Little is kept for that: most is read off what a session has
//! anyway.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::access_log::Words;
use crate::backend::{Address, ClassId};

/// Bytes that have not gone on for less than this are on their way: the kernel has them, or a peer is about to act.
const STALLED_AFTER: Duration = Duration::from_millis(100);

/// When a session began: in tenths of a second since its worker did, which last for 13 years: it takes no more
/// than was left between other fields of an idle tunnel.
#[derive(Clone, Copy)]
pub struct Began(u32);

impl Began {
    pub(super) fn at(now: Instant, started: Instant) -> Self {
        let tenths = now.saturating_duration_since(started).as_millis() / 100;
        Self(u32::try_from(tenths).unwrap_or(u32::MAX))
    }

    /// To a tenth of a second, of a worker that began then.
    pub fn instant(self, started: Instant) -> Instant {
        started + Duration::from_millis(100) * self.0
    }
}

/// How far somebody is with what its client wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// A FastCGI client without a request, whose connection is kept.
    Idle,
    /// A part of a request's head has come.
    Reading,
    /// It waits for a place at an endpoint, or for the end of a pause.
    Queued,
    /// It is being connected to an endpoint, or none can be reached.
    Connecting,
    /// The server has the request, or a part of it, and has not answered.
    Sent,
    /// A part of the answer has come.
    Answering,
    /// The server is done, and the end of the answer is on its way to the client.
    Delivering,
    /// It has an answer of the proxy's own, or the sign that its answer broke off, and is about to end.
    Ending,
    /// Raw bytes go both ways.
    Relaying,
    /// The request has its answer, and its server may still be at work behind that.
    Settling,
    /// The client has left, and its server may still be at work for it.
    Abandoned,
}

impl SessionState {
    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Reading => "reading",
            Self::Queued => "queued",
            Self::Connecting => "connecting",
            Self::Sent => "sent",
            Self::Answering => "answering",
            Self::Delivering => "delivering",
            Self::Ending => "ending",
            Self::Relaying => "relaying",
            Self::Settling => "settling",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Bytes that do not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stall {
    /// Who is waited for.
    pub by: StalledBy,
    /// Which bytes.
    pub what: StalledWhat,
    /// For how long.
    pub time: Duration,
}

/// Who is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StalledBy {
    /// The client sends no more, or takes no more.
    Client,
    /// The backend does.
    Backend,
}

/// Which bytes do not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StalledWhat {
    /// Those to the backend: a request's body.
    Upload,
    /// Those to the client: an answer.
    Download,
}

impl Stall {
    /// Which bytes, and who is waited for, in words.
    #[must_use]
    pub fn name(by: StalledBy, what: StalledWhat) -> &'static str {
        match (what, by) {
            (StalledWhat::Upload, StalledBy::Client) => "upload by client",
            (StalledWhat::Upload, StalledBy::Backend) => "upload by backend",
            (StalledWhat::Download, StalledBy::Client) => "download by client",
            (StalledWhat::Download, StalledBy::Backend) => "download by backend",
        }
    }

    /// If it is one already.
    pub(super) fn lasting(by: StalledBy, what: StalledWhat, time: Duration) -> Option<Self> {
        (time >= STALLED_AFTER).then_some(Self { by, what, time })
    }
}

/// What one session does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// How far it is.
    pub state: SessionState,
    /// Since when: a request since its head was complete, what is idle since something moved. `None`: a raw session does
    /// the same from its beginning on.
    pub since: Option<Instant>,
    /// How long it has waited for places at endpoints.
    pub waited: Duration,
    /// The request.
    pub words: Option<Words>,
    /// Its class, where there are classes and it has one.
    pub class: Option<ClassId>,
    /// The endpoint that serves it, or has served it.
    pub endpoint: Option<Address>,
    /// Bytes that the endpoint has taken; of a request with its head and all that is FastCGI's own. `None`: nobody knows
    /// any more.
    pub request_bytes: Option<u64>,
    /// Bytes of a request's answer that have come (its STDOUT), or that the client of a raw session has taken. `None`:
    /// there is nothing to answer, or nobody knows any more.
    pub response_bytes: Option<u64>,
    /// Who holds it up, if that is to be seen.
    pub stall: Option<Stall>,
}

impl SessionView {
    /// Of one of which no more is known.
    pub(super) fn of(state: SessionState) -> Self {
        Self {
            state,
            since: None,
            waited: Duration::ZERO,
            words: None,
            class: None,
            endpoint: None,
            request_bytes: None,
            response_bytes: None,
            stall: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_known_to_a_tenth_of_a_second_for_years() {
        let started = Instant::now();
        for seconds in [0, 1, 86_400 * 365 * 10] {
            let now = started + Duration::from_secs(seconds) + Duration::from_millis(199);
            let age = now - Began::at(now, started).instant(started);
            assert_eq!(age, Duration::from_millis(99));
        }
    }
}
