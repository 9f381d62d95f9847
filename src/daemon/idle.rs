//! When the daemon has had nothing to do for long enough to end (`--exit-idle-time`).

use std::future::pending;
use std::time::Duration;

use tokio::time::{self, Instant};

use crate::observe::{Observed, Summary};

/// The shortest and the longest time between two looks. Nobody minds a second more or less of an idle
/// time that is longer than a few, and a look is a few dozen loads.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(10);
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Looks in the shortest idle time.
const LOOKS: u32 = 10;

/// Since when nobody has been there, as far as was seen.
struct Idleness {
    since: Instant,
    accepted: u64,
}

impl Idleness {
    /// How long nobody has been there. A client that came and went between two looks was there.
    fn look(&mut self, summary: Summary, now: Instant) -> Duration {
        if summary.active > 0 || summary.accepted != self.accepted {
            *self = Self {
                since: now,
                accepted: summary.accepted,
            };
        }
        now.duration_since(self.since)
    }
}

/// Waits until there has been no session for this time, from now on; returns it. Without one, it waits
/// for ever.
pub(super) async fn wait(observed: &Observed, idle_time: Option<Duration>) -> Duration {
    let Some(idle_time) = idle_time else {
        return pending().await;
    };
    let mut idleness = Idleness {
        since: Instant::now(),
        accepted: 0,
    };
    let pause = (idle_time / LOOKS).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL_MAX);
    while idleness.look(observed.summary(), Instant::now()) < idle_time {
        time::sleep(pause).await;
    }
    idle_time
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::DaemonState;

    fn seen(accepted: u64, active: u64) -> Summary {
        Summary {
            state: DaemonState::Serving,
            accepted,
            active,
            endpoints: 1,
            endpoints_in_use: 1,
        }
    }

    #[test]
    fn the_time_runs_from_the_start_and_from_the_last_sign_of_anybody() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut idleness = Idleness {
            since: start,
            accepted: 0,
        };
        let mut idle = |now, accepted, active| {
            let length = idleness.look(seen(accepted, active), at(now));
            length.as_secs()
        };
        assert_eq!(idle(3, 0, 0), 3);
        assert_eq!(idle(4, 1, 1), 0);
        assert_eq!(idle(5, 1, 1), 0, "it is still there");
        assert_eq!(idle(6, 1, 0), 1, "it was there at the last look");
        assert_eq!(idle(9, 1, 0), 4);
        assert_eq!(idle(10, 2, 0), 0, "one came and went");
        assert_eq!(idle(12, 2, 0), 2);
    }
}
