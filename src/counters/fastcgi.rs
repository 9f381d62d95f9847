//! What one worker counts of the requests of a FastCGI route.

use super::{Count, Histogram, Level};
use crate::fastcgi::{Answer, Decisive, Rule, Violation};

/// One worker's figures of one FastCGI route. It writes, the main thread reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct FastcgiCounters {
    /// Requests that are over, by [`StatusClass`].
    pub requests: [Count; StatusClass::ALL.len()],
    /// From their heads until their ends.
    pub request_time: Histogram,
    /// How long they waited for places at endpoints.
    pub wait_time: Histogram,
    /// How long those that were given a connection looked for it, without those waits.
    pub connect_time: Histogram,
    /// From the heads of those that were answered until the first bytes of their answers.
    pub first_byte_time: Histogram,
    /// Those that the slow log was to be told of.
    pub slow: Count,
    /// Requests that were given a new connection.
    pub on_new: Count,
    /// Requests that were given one that had served others.
    pub on_reused: Count,
    /// Requests that were sent a second time.
    pub retries: Count,
    /// From END_REQUEST until the fence's answer.
    pub settle_time: Histogram,
    /// Connections that are between the two now.
    pub settling: Level,
    /// Endpoints whose connections serve one request each.
    pub doubtful: Level,
    /// Requests that the guard rejected, by [`Rule`].
    pub rejections: [Count; Rule::ALL.len()],
    /// Requests in which a parameter came with different values, by [`Decisive`].
    pub overridden: [Count; Decisive::ALL.len()],
    /// What clients must not send, by [`Violation`].
    pub violations: [Count; Violation::NAMES.len()],
    /// Answers of our own, by [`Answer`].
    pub answers: [Count; Answer::ALL.len()],
    /// Lines that the access log had no room for.
    pub lines_dropped: Count,
    /// Lines about requests that no backend had, beyond what the access log takes of them.
    pub lines_left_out: Count,
    /// Lines that the slow log had no room for.
    pub slow_lines_dropped: Count,
    /// Lines beyond what the slow log takes in a second.
    pub slow_lines_left_out: Count,
}

impl FastcgiCounters {
    /// A request is over. `None`: without an answer.
    pub fn ended(&self, status: Option<u16>) {
        self.requests[StatusClass::of(status) as usize].add(1);
    }

    /// The guard rejected a request.
    pub fn rejected(&self, rule: Rule) {
        let rules = Rule::ALL.iter().zip(&self.rejections);
        let its = rules.filter(|(other, _)| **other == rule);
        its.for_each(|(_, count)| count.add(1));
    }

    /// A parameter came with different values, of which the last counts.
    pub fn overridden(&self, param: Decisive) {
        self.overridden[param.number()].add(1);
    }

    /// A client sent what it must not send.
    pub fn violated(&self, violation: Violation) {
        self.violations[violation.number()].add(1);
    }

    /// A request got an answer of our own.
    pub fn answered(&self, answer: Answer) {
        self.answers[answer.number()].add(1);
    }
}

/// The first digit of an answer's status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatusClass {
    /// There was no answer, or its status is no HTTP status.
    None,
    /// 100 to 199.
    Informational,
    /// 200 to 299.
    Success,
    /// 300 to 399.
    Redirection,
    /// 400 to 499.
    ClientError,
    /// 500 to 599.
    ServerError,
}

impl StatusClass {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Informational,
        Self::Success,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
    ];

    fn of(status: Option<u16>) -> Self {
        match status {
            Some(100..200) => Self::Informational,
            Some(200..300) => Self::Success,
            Some(300..400) => Self::Redirection,
            Some(400..500) => Self::ClientError,
            Some(500..600) => Self::ServerError,
            Some(_) | None => Self::None,
        }
    }

    /// Its name in metrics and in the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastcgi::RetryAfter;

    #[test]
    fn requests_count_by_the_first_digit_of_their_status() {
        let counters = FastcgiCounters::default();
        for status in [None, Some(99), Some(200), Some(299), Some(404), Some(599)] {
            counters.ended(status);
        }
        let counted: Vec<_> = StatusClass::ALL
            .iter()
            .map(|class| (class.name(), counters.requests[*class as usize].get()))
            .collect();
        let expected = [
            ("none", 2),
            ("1xx", 0),
            ("2xx", 2),
            ("3xx", 0),
            ("4xx", 1),
            ("5xx", 1),
        ];
        assert_eq!(counted, expected);
    }

    #[test]
    fn rejections_and_answers_count_where_they_are_listed() {
        let counters = FastcgiCounters::default();
        counters.rejected(Rule::Role);
        counters.answered(Answer::Unavailable(RetryAfter::MOST));
        for (rule, count) in Rule::ALL.iter().zip(&counters.rejections) {
            assert_eq!(count.get(), u64::from(*rule == Rule::Role), "{rule}");
        }
        for (answer, count) in Answer::ALL.iter().zip(&counters.answers) {
            assert_eq!(count.get(), u64::from(answer.status() == 503));
        }
    }
}
