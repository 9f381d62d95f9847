//! How long something took, over many times.

use std::time::Duration;

use super::Count;
use super::cells::micros;

/// Upper bounds of the buckets; what is above the last has one more.
///
/// From below what a connect within a machine takes (some 50 µs, which one turn of a worker often
/// hides), to beyond the default patience of a client (5 s). The steps of 2 to 2.5 keep a quantile
/// that is read off them within a factor of about 1.5.
pub const BOUNDS: [Duration; 17] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// Times by their length. One thread writes; any may read, as with [`Count`].
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Count; BOUNDS.len() + 1],
    micros: Count,
}

/// What is in a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// How many there are up to each of [`BOUNDS`] and above the bound before it; the last ones are
    /// longer than all bounds.
    pub counts: [u64; BOUNDS.len() + 1],
    /// All times together.
    pub sum: Duration,
}

impl Histogram {
    /// For the one writer.
    pub fn record(&self, time: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < time);
        self.buckets[bucket].add(1);
        self.micros.add(micros(time));
    }

    /// A look at it. While the writer writes, the sum may be ahead of the counts, or behind, by one
    /// time.
    #[must_use]
    pub fn read(&self) -> Buckets {
        Buckets {
            counts: std::array::from_fn(|bucket| self.buckets[bucket].get()),
            sum: Duration::from_micros(self.micros.get()),
        }
    }
}

impl std::ops::AddAssign for Buckets {
    fn add_assign(&mut self, other: Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for micros in [0, 50, 51, 10_000_000, 10_000_001] {
            histogram.record(Duration::from_micros(micros));
        }
        let read = histogram.read();
        let mut expected = [0; BOUNDS.len() + 1];
        (expected[0], expected[1], expected[16], expected[17]) = (2, 1, 1, 1);
        assert_eq!(read.counts, expected);
        assert_eq!(read.sum, Duration::from_micros(20_000_102));
    }

    #[test]
    fn bounds_ascend() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn histograms_add_up() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(3));
        let mut sum = histogram.read();
        sum += histogram.read();
        assert_eq!(sum.counts.iter().sum::<u64>(), 2);
        assert_eq!(sum.sum, Duration::from_millis(6));
    }
}
