//! The last things that happened, as the log tells of them, for whoever asks the daemon and has no log at hand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// How many are kept.
pub(crate) const EVENTS_MAX: usize = 64;

/// How many of them one place in the code may have: what a client can cause again and again must not push out what
/// happened once. When there are too many in all, the place that has most gives its oldest up.
const OF_ONE_PLACE_MAX: usize = 8;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EventStatus {
    /// When it last did, since 1970.
    pub at_seconds: f64,
    /// How bad it is.
    pub level: EventLevel,
    /// What it was, as in the log.
    pub message: String,
    /// What it was about: the log's fields.
    pub fields: BTreeMap<String, String>,
    /// How often it happened in just this way while it was kept.
    pub times: u64,
    /// Whether it tells of endpoints and names alone: nothing in it is a client's, or about one. Not told.
    #[serde(skip)]
    pub names_no_client: bool,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EventLevel {
    /// Not at all.
    Info,
    /// Somebody should look at it.
    Warn,
    /// Something cannot be done.
    Error,
}

/// The last events of a process, of which there are at most [`EVENTS_MAX`].
///
/// `P` is a place in the code.
#[derive(Debug)]
pub(crate) struct Events<P> {
    /// The oldest first.
    kept: Mutex<VecDeque<(P, EventStatus)>>,
}

impl<P> Default for Events<P> {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
        }
    }
}

impl<P: Eq> Events<P> {
    /// Keeps one, in place of the oldest if there are too many.
    pub(crate) fn note(&self, place: P, mut event: EventStatus) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_like = |(there, it): &(P, EventStatus)| {
            *there == place && it.message == event.message && it.fields == event.fields
        };
        let same = kept.iter().rposition(is_like);
        if let Some((_, before)) = same.and_then(|at| kept.remove(at)) {
            event.times += before.times;
        }
        let of = |place: &P| kept.iter().filter(|(there, _)| there == place).count();
        let oldest_of = |place: &P| kept.iter().position(|(there, _)| there == place);
        let gone = match of(&place) {
            OF_ONE_PLACE_MAX.. => oldest_of(&place),
            _ if kept.len() < EVENTS_MAX => None,
            // The oldest of those that have most: `max_by_key` gives the last of several.
            _ => {
                let places = kept.iter().map(|(there, _)| there).rev();
                places.max_by_key(|there| of(there)).and_then(oldest_of)
            }
        };
        gone.and_then(|at| kept.remove(at));
        kept.push_back((place, event));
    }

    /// All that are kept, the oldest first.
    pub(crate) fn recent(&self) -> Vec<EventStatus> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|(_, event)| event.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(message: &str, at_seconds: f64) -> EventStatus {
        EventStatus {
            at_seconds,
            level: EventLevel::Warn,
            message: message.to_owned(),
            fields: BTreeMap::new(),
            times: 1,
            names_no_client: false,
        }
    }

    fn messages(events: &Events<u32>) -> Vec<String> {
        events.recent().into_iter().map(|it| it.message).collect()
    }

    #[test]
    fn the_oldest_makes_room() {
        let events = Events::default();
        for number in 0..=u32::try_from(EVENTS_MAX).unwrap() {
            events.note(number, event(&number.to_string(), 0.0));
        }
        let messages = messages(&events);
        assert_eq!(messages.len(), EVENTS_MAX);
        assert_eq!((&*messages[0], &*messages[EVENTS_MAX - 1]), ("1", "64"));
    }

    #[test]
    fn what_happens_all_the_time_does_not_push_out_what_happened_once() {
        let events = Events::default();
        events.note(1, event("ejected", 0.0));
        for number in 0..1000 {
            events.note(2, event(&format!("rejected {number}"), 0.0));
        }
        let messages = messages(&events);
        assert_eq!(messages.len(), 1 + OF_ONE_PLACE_MAX);
        assert_eq!((&*messages[0], &*messages[1]), ("ejected", "rejected 992"));
    }

    #[test]
    fn many_places_together_do_not_push_out_what_happened_once() {
        let events = Events::default();
        events.note(0, event("ejected", 0.0));
        for number in 0..1000 {
            for place in 1..20 {
                events.note(place, event(&format!("rejected {number}"), 0.0));
            }
        }
        let messages = messages(&events);
        assert_eq!(messages.len(), EVENTS_MAX);
        assert_eq!(messages[0], "ejected");
    }

    #[test]
    fn what_happens_again_is_counted() {
        let events = Events::default();
        events.note(1, event("ejected", 1.0));
        events.note(2, event("reloaded", 2.0));
        events.note(1, event("ejected", 3.0));
        // Another place, and another thing.
        events.note(2, event("ejected", 4.0));
        let recent = events.recent();
        let told = recent
            .iter()
            .map(|it| (&*it.message, it.at_seconds, it.times));
        let expected = [
            ("reloaded", 2.0, 1),
            ("ejected", 3.0, 2),
            ("ejected", 4.0, 1),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}
