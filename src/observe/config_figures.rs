//! Which configuration is in use, and how reloads of it ended.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::status::ConfigStatus;

/// The main thread writes, in tasks of which each finds all of them as they were at one moment.
pub(crate) struct ConfigFigures(Mutex<Figures>);

struct Figures {
    hash: String,
    reloads_done: u64,
    reloads_refused: u64,
    last_was_done: bool,
    last_success: SystemTime,
}

impl ConfigFigures {
    /// The daemon starts with the configuration of this hash. That is a success, as it is to Prometheus of its own
    /// configuration, but no reload.
    #[must_use]
    pub(crate) fn new(hash: String) -> Self {
        Self(Mutex::new(Figures {
            hash,
            reloads_done: 0,
            reloads_refused: 0,
            last_was_done: true,
            last_success: SystemTime::now(),
        }))
    }

    /// A reload has taken over the configuration of this hash, which may be the one before.
    pub(crate) fn taken_over(&self, hash: String) {
        self.change(|figures| {
            figures.hash = hash;
            figures.reloads_done += 1;
            figures.last_was_done = true;
            figures.last_success = SystemTime::now();
        });
    }

    /// A reload was refused: the configuration is the one before.
    pub(crate) fn refused(&self) {
        self.change(|figures| {
            figures.reloads_refused += 1;
            figures.last_was_done = false;
        });
    }

    pub(super) fn status(&self) -> ConfigStatus {
        self.change(|figures| {
            let last_success = figures.last_success.duration_since(SystemTime::UNIX_EPOCH);
            ConfigStatus {
                hash: figures.hash.clone(),
                reloads_done: figures.reloads_done,
                reloads_refused: figures.reloads_refused,
                last_reload_done: figures.last_was_done,
                last_success_at_seconds: last_success.unwrap_or_default().as_secs_f64(),
            }
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Figures) -> T) -> T {
        let mut figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(status: &ConfigStatus) -> (&str, u64, u64, bool) {
        let ConfigStatus {
            hash,
            reloads_done,
            reloads_refused,
            last_reload_done,
            ..
        } = status;
        (hash, *reloads_done, *reloads_refused, *last_reload_done)
    }

    #[test]
    fn a_refusal_leaves_the_configuration_and_its_time() {
        let figures = ConfigFigures::new("a".to_owned());
        let start = figures.status();
        assert_eq!(counts(&start), ("a", 0, 0, true));
        assert!(start.last_success_at_seconds > 1.7e9);
        figures.refused();
        let refused = figures.status();
        assert_eq!(counts(&refused), ("a", 0, 1, false));
        assert_eq!(
            refused.last_success_at_seconds,
            start.last_success_at_seconds
        );
        figures.taken_over("b".to_owned());
        let done = figures.status();
        assert_eq!(counts(&done), ("b", 1, 1, true));
        assert!(done.last_success_at_seconds >= start.last_success_at_seconds);
    }
}
