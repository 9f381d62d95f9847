//! Whether a name resolves, and when that is worth a line of the log.

use std::time::{Duration, Instant};

use super::super::outcome::Failure;
use super::super::schedule;
use super::Event;

#[derive(Clone, Copy)]
pub(super) enum NameHealth {
    Unknown,
    Answering,
    Failing { since: Instant, warned: Instant },
}

impl NameHealth {
    pub(super) fn failing_since(self) -> Option<Instant> {
        match self {
            Self::Failing { since, .. } => Some(since),
            Self::Unknown | Self::Answering => None,
        }
    }

    /// Tells when a name stops resolving, now and then while it does not, and when it does again.
    pub(super) fn check(
        &mut self,
        failure: Option<Failure>,
        kept: usize,
        age: Option<Duration>,
        now: Instant,
    ) -> Option<Event> {
        match (failure, *self) {
            (Some(_), Self::Failing { warned, .. })
                if now.saturating_duration_since(warned) < schedule::BACKOFF_MAX =>
            {
                None
            }
            (Some(failure), health) => {
                let since = match health {
                    Self::Failing { since, .. } => since,
                    Self::Unknown | Self::Answering => now,
                };
                *self = Self::Failing { since, warned: now };
                Some(Event::Failing { failure, kept, age })
            }
            (None, Self::Failing { since, .. }) => {
                *self = Self::Answering;
                let after = now.saturating_duration_since(since);
                Some(Event::Recovered { after })
            }
            (None, Self::Unknown | Self::Answering) => {
                *self = Self::Answering;
                None
            }
        }
    }
}
