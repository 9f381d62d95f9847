//! Memory after a crowd: what many sessions took is given back when they are gone.
//!
//! The allocator keeps what is freed, for the next one who asks. After a crowd that was ten times what usually comes, that
//! is nearly all of what the crowd took, and it would be held until the daemon ends.

use std::sync::Arc;
use std::time::Duration;

use crate::sys::memory;
use crate::worker::Gate;

/// How often it is looked whether a crowd has gone.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// So many sessions less are worth it: of the largest that wait for parameters, 4 MiB.
const CROWD_MIN: u32 = 64;

/// Gives memory back for as long as the daemon runs.
pub(super) async fn give_back(gate: Arc<Gate>) {
    let mut crowd = Crowds::default();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let sessions = gate.sessions();
        if crowd.has_gone(sessions.most, sessions.now) {
            // Nobody serves on this thread.
            memory::give_back();
        }
    }
}

/// The most sessions since memory was given back.
#[derive(Default)]
struct Crowds {
    most: u32,
}

impl Crowds {
    /// Whether most of a crowd is gone, given the most sessions since the last look and those that there are.
    fn has_gone(&mut self, most: u32, now: u32) -> bool {
        self.most = self.most.max(most);
        let has_gone = now <= self.most / 2 && self.most - now >= CROWD_MIN;
        if has_gone {
            self.most = now;
        }
        has_gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_that_goes_is_told_of_once() {
        let mut crowds = Crowds::default();
        let looks = [
            (10, 10),
            (5000, 4000),
            (4000, 2600),
            (2600, 2000),
            (2000, 100),
            (150, 90),
        ];
        let told: Vec<_> = looks
            .iter()
            .map(|&(most, now)| crowds.has_gone(most, now))
            .collect();
        assert_eq!(told, [false, false, false, true, true, false]);
    }

    #[test]
    fn one_that_came_and_went_between_two_looks_is_told_of() {
        let mut crowds = Crowds::default();
        assert!(crowds.has_gone(5000, 0));
        assert!(!crowds.has_gone(0, 0));
    }

    #[test]
    fn small_ones_are_not_worth_it() {
        let mut crowds = Crowds::default();
        assert!(!crowds.has_gone(CROWD_MIN - 1, 0));
        assert!(crowds.has_gone(CROWD_MIN, 0));
    }
}
