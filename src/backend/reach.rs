//! Whether connects to an endpoint come through, and what that means for those that come next.
//!
//! - **A refusal is news.** The machine is there and the program is not: it may be starting again, which
//!   takes a moment, or it is gone. So refusals in a row are waited out together, from the first one on, and
//!   not by each request anew; and for longer where the endpoint has worked before.
//! - **Silence is expensive.** A request learns nothing until its whole time is over. So it is learnt once:
//!   those that come next wait for less, until a connect comes through.
//!
//! Each worker knows what it has met itself. Pure: the time comes as an argument.

use std::time::{Duration, Instant};

/// So many times the patience is given to an endpoint whose last connect came through: it is taken for one that
/// starts again. With the default of 250 ms that is a second, of which PHP-FPM takes 0.1 to 0.3.
pub(super) const RESTART_FACTOR: u32 = 4;

/// What the last connects to an endpoint came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Reach {
    /// There was none.
    #[default]
    Unknown,
    /// The last one came through.
    Open,
    /// It was refused, as were those before it since then.
    Refusing {
        /// The first refusal in the row.
        since: Instant,
        /// The connect before that came through.
        worked: bool,
    },
    /// It was not answered.
    Silent,
}

impl Reach {
    /// After a connect that was refused, or failed as definitely.
    pub(super) fn refused(self, now: Instant) -> Self {
        let worked = match self {
            Self::Refusing { .. } => return self,
            Self::Open => true,
            Self::Unknown | Self::Silent => false,
        };
        Self::Refusing { since: now, worked }
    }

    /// Whether the next connect may well come to nothing.
    pub(super) fn is_bad(self) -> bool {
        match self {
            Self::Refusing { .. } | Self::Silent => true,
            Self::Unknown | Self::Open => false,
        }
    }

    /// Until when its refusals are waited out, if it refuses.
    fn patience_ends(self, patience: Duration) -> Option<Instant> {
        match self {
            Self::Refusing { since, worked } => {
                let factor = if worked { RESTART_FACTOR } else { 1 };
                Some(since + patience * factor)
            }
            Self::Unknown | Self::Open | Self::Silent => None,
        }
    }
}

/// Until when a session waits for endpoints all of which refuse. `None`: one of them does not.
pub(super) fn refused_until(
    all: impl Iterator<Item = Reach>,
    patience: Duration,
) -> Option<Instant> {
    let mut latest = None;
    for reach in all {
        latest = latest.max(Some(reach.patience_ends(patience)?));
    }
    latest
}

/// Whether no endpoint can be expected to answer, and some are silent.
pub(super) fn are_silent(all: impl Iterator<Item = Reach>) -> bool {
    let mut some = false;
    for reach in all {
        if !reach.is_bad() {
            return false;
        }
        some |= reach == Reach::Silent;
    }
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(250);

    #[test]
    fn refusals_in_a_row_share_one_patience() {
        let start = Instant::now();
        let first = Reach::Unknown.refused(start);
        let later = first.refused(start + 10 * PATIENCE);
        assert_eq!(
            refused_until([later].into_iter(), PATIENCE),
            Some(start + PATIENCE)
        );
        let again = Reach::Open.refused(start + 10 * PATIENCE);
        assert_ne!(again, first);
    }

    #[test]
    fn one_that_has_worked_is_given_the_time_to_start_again() {
        let start = Instant::now();
        let until = |reach: Reach| refused_until([reach].into_iter(), PATIENCE);
        assert_eq!(
            until(Reach::Open.refused(start)),
            Some(start + 4 * PATIENCE)
        );
        assert_eq!(until(Reach::Silent.refused(start)), Some(start + PATIENCE));
    }

    #[test]
    fn one_that_may_answer_is_waited_for_as_ever() {
        let start = Instant::now();
        let refused = Reach::Unknown.refused(start);
        for other in [Reach::Unknown, Reach::Open, Reach::Silent] {
            assert_eq!(refused_until([refused, other].into_iter(), PATIENCE), None);
        }
        assert_eq!(refused_until([].into_iter(), PATIENCE), None);
        let second = Reach::Unknown.refused(start + PATIENCE);
        assert_eq!(
            refused_until([second, refused].into_iter(), PATIENCE),
            Some(start + 2 * PATIENCE)
        );
    }

    #[test]
    fn all_are_silent_if_none_may_answer() {
        let refused = Reach::Unknown.refused(Instant::now());
        assert!(are_silent([Reach::Silent, refused].into_iter()));
        assert!(!are_silent([refused].into_iter()));
        assert!(!are_silent([Reach::Silent, Reach::Open].into_iter()));
        assert!(!are_silent([].into_iter()));
    }
}
