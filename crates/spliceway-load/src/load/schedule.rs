//! When requests are due. Pure: nothing here looks at a clock.

use std::time::{Duration, Instant};

/// The times at which one thread's share of an open loop is due: evenly spaced, and taken in turns
/// with the other threads'.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    started: Instant,
    /// Requests per second of all threads together.
    rate: f64,
    /// This thread's place, from 0.
    thread: u64,
    threads: u64,
}

impl Schedule {
    /// The share of `thread` among `threads`.
    pub(super) fn new(started: Instant, rate: f64, thread: usize, threads: usize) -> Self {
        assert!(rate > 0.0, "a plan was checked for a rate above 0");
        Self {
            started,
            rate,
            thread: thread as u64,
            threads: threads as u64,
        }
    }

    /// When this thread's request `index` is due. Computed from the beginning each time, so that
    /// rounding never adds up.
    pub(super) fn due(&self, index: u64) -> Instant {
        let place = index * self.threads + self.thread;
        self.started + Duration::from_secs_f64(place as f64 / self.rate)
    }
}

/// Which part of a load a time belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// What is sent from here on counts.
    pub(super) counting: Instant,
    /// Nothing is due from here on.
    pub(super) end: Instant,
}

impl Span {
    /// A warm-up and then the load itself.
    pub(super) fn new(started: Instant, warm_up: Duration, duration: Duration) -> Self {
        let counting = started + warm_up;
        Self {
            counting,
            end: counting + duration,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn threads_take_turns_and_keep_the_rate_together(
            rate in 0.1..1e6_f64,
            threads in 1_usize..9,
            places in 1_u64..100_000,
        ) {
            let started = Instant::now();
            let share = |thread| Schedule::new(started, rate, thread, threads);
            let alone = Schedule::new(started, rate, 0, 1);
            let place = places;
            let thread = usize::try_from(place % threads as u64).unwrap();
            prop_assert_eq!(share(thread).due(place / threads as u64), alone.due(place));
            let interval = alone.due(place) - alone.due(place - 1);
            let wanted = Duration::from_secs_f64(1.0 / rate);
            prop_assert!(interval.abs_diff(wanted) <= wanted / 1000 + Duration::from_nanos(2));
        }

        #[test]
        fn later_requests_are_due_later(rate in 0.1..1e6_f64, index in 0_u64..1_000_000_000) {
            let schedule = Schedule::new(Instant::now(), rate, 0, 1);
            prop_assert!(schedule.due(index) <= schedule.due(index + 1));
        }
    }

    #[test]
    fn a_million_requests_take_their_time_to_the_nanosecond() {
        let started = Instant::now();
        let schedule = Schedule::new(started, 30_000.0, 0, 1);
        assert_eq!(schedule.due(0), started);
        assert_eq!(schedule.due(3_000_000), started + Duration::from_secs(100));
    }

    #[test]
    fn a_span_counts_behind_the_warm_up() {
        let started = Instant::now();
        let span = Span::new(started, Duration::from_secs(1), Duration::from_secs(2));
        assert_eq!(span.counting - started, Duration::from_secs(1));
        assert_eq!(span.end - started, Duration::from_secs(3));
    }
}
