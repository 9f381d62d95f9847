//! How sessions are spread over endpoints, and when an endpoint is left out.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::ValueEnum;

/// Which of the endpoints that can be used a session tries first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Balance {
    /// The one with the fewest sessions for its weight; with many endpoints, the better one of two
    /// that are drawn.
    #[default]
    LeastConnections,
    /// Each in its turn, as often as its weight says.
    RoundRobin,
    /// The better one of two that are drawn by weight.
    RandomTwo,
    /// The first one in the configured order: the others are its backups.
    First,
}

/// When an endpoint is left out because sessions fail on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// After so many failures in a row. `None`: never.
    pub after: Option<NonZeroU32>,
    /// For how long, times the number of ejections in the last while.
    pub time: Duration,
}

impl Ejection {
    /// Envoy's `consecutive_5xx` of its outlier detection.
    pub const AFTER_DEFAULT: NonZeroU32 = NonZeroU32::new(5).expect("5 is not 0");

    /// Envoy's `base_ejection_time`.
    pub const TIME_DEFAULT: Duration = Duration::from_secs(30);

    /// Envoy's `max_ejection_time`, unless the time itself is longer.
    pub const TIME_MAX: Duration = Duration::from_secs(300);
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            after: Some(Self::AFTER_DEFAULT),
            time: Self::TIME_DEFAULT,
        }
    }
}
