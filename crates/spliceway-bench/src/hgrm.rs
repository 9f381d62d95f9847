//! HdrHistogram's own text form of a distribution, which its plotter reads.

use std::io::{self, Write};

use hdrhistogram::Histogram;

/// Steps in each halving of the distance to 100 %, as HdrHistogram's tools have it.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Nanoseconds in the unit that is written.
const NS_PER_US: f64 = 1000.0;

/// Writes the distribution in microseconds.
pub(crate) fn write(latency_ns: &Histogram<u64>, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut total = 0;
    for step in latency_ns.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let value_us = step.value_iterated_to() as f64 / NS_PER_US;
        let quantile = step.quantile_iterated_to();
        write!(out, "{value_us:>12.3} {quantile:>14.12} {total:>10}")?;
        if quantile < 1.0 {
            writeln!(out, " {:>14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(out)?;
        }
    }
    writeln!(
        out,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]",
        latency_ns.mean() / NS_PER_US,
        latency_ns.stdev() / NS_PER_US
    )?;
    writeln!(
        out,
        "#[Max     = {:>12.3}, Total count    = {:>12}]",
        latency_ns.max() as f64 / NS_PER_US,
        latency_ns.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_values_has_everything() {
        let mut latency_ns = Histogram::new(3).unwrap();
        for value in [1_000_u64, 2_000, 3_000, 1_000_000] {
            latency_ns.record(value).unwrap();
        }
        let mut text = Vec::new();
        write(&latency_ns, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<_> = last.split_whitespace().collect();
        assert_eq!(fields[1..], ["1.000000000000", "4"]);
        assert!(text.contains("Total count    =            4]"), "{text}");
    }
}
