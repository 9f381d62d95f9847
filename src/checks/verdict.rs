//! From single outcomes to whether an endpoint is up. Pure.

/// So many failures in a row, and an endpoint is down: one or two may be a lost packet or a restart.
const FALL: u32 = 3;

/// So many passes in a row, and it is up again.
const RISE: u32 = 2;

/// What the checks of one endpoint have come to. It begins as up: a check that has not been made yet
/// shall keep nobody waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckVerdict {
    is_up: bool,
    /// Outcomes in a row that speak against it.
    against: u32,
}

impl Default for CheckVerdict {
    fn default() -> Self {
        Self {
            is_up: true,
            against: 0,
        }
    }
}

impl CheckVerdict {
    pub(super) fn is_up(self) -> bool {
        self.is_up
    }

    /// One more outcome. True if it turns the verdict.
    pub(super) fn note(&mut self, passed: bool) -> bool {
        if passed == self.is_up {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let turns = self.against >= if self.is_up { FALL } else { RISE };
        if turns {
            *self = Self {
                is_up: passed,
                against: 0,
            };
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` passed, `-` failed; the answer has `x` where the verdict turned.
    fn turns(outcomes: &str) -> String {
        let mut verdict = CheckVerdict::default();
        let mut note = |outcome| {
            if verdict.note(outcome == '+') {
                'x'
            } else {
                '.'
            }
        };
        outcomes.chars().map(&mut note).collect()
    }

    #[test]
    fn three_failures_in_a_row_and_two_passes_turn_it() {
        assert_eq!(turns("---++"), "..x.x");
        assert_eq!(turns("--+--+---"), "........x");
        assert_eq!(turns("---+-+-++"), "..x.....x");
        assert_eq!(turns("------"), "..x...");
    }
}
