//! What a session asks for.

use std::time::Instant;

use super::{ClassId, Family};

/// What a session asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// The best.
    Any,
    /// One of this family, if one can be used; else the best.
    Rather(Family),
    /// A usable one of this family, or none.
    Only(Family),
}

/// Whether a connection that rests will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reuse {
    /// It counts as a place, and is preferred.
    Yes,
    /// Only a permit that no connection has is a place.
    No,
}

/// Who asks, and when: the time, since when the session has waited, and the class of its request. For one that comes
/// now, the two times are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// The time of this turn.
    pub now: Instant,
    /// When the wait began.
    pub waiting_since: Instant,
    /// What is to be done with the place.
    pub class: ClassId,
}

impl Moment {
    /// Of a session that comes at this time. Where there are no classes, the class is [`ClassId::DEFAULT`].
    #[must_use]
    pub fn new(class: ClassId, now: Instant) -> Self {
        Self {
            now,
            waiting_since: now,
            class,
        }
    }
}

/// Of the default class: for tests alone, or a place could be asked for without its class being thought of.
#[cfg(test)]
impl From<Instant> for Moment {
    fn from(now: Instant) -> Self {
        Self::new(ClassId::DEFAULT, now)
    }
}
