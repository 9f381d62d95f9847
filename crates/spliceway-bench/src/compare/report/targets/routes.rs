//! What spliceway is to reach with several routes, and with metrics.

use super::super::sections::{outcome_ratio, p99};
use super::{Bound, RAW, Target, target};
use crate::compare::results::{Outcome, Results, RoutesOf, Sample};
use crate::compare::statistics::Spread;

/// Every one, with io_uring.
pub(super) fn all(results: &Results) -> [Target; 4] {
    use Bound::{AtLeast, AtMost};
    const QUIET: &str = "a route beside one with 200 clients on 8 places";
    let routes = results.routes.as_ref();
    let raw = routes.and_then(|routes| routes.engines.iter().find(|of| of.path == RAW));
    let p99_to = |to: fn(&RoutesOf) -> &[Outcome]| {
        raw.and_then(|raw| outcome_ratio(&raw.beside, to(raw), p99))
    };
    let longest = routes.zip(raw).and_then(|(routes, raw)| {
        let known = raw.longest_ms.iter().copied().flatten();
        Spread::of(known.map(|longest_ms| longest_ms / routes.ideal_ms()))
    });
    let watched = raw.and_then(|raw| outcome_ratio(&raw.watched, &raw.unwatched, Sample::rate));
    [
        target(
            QUIET,
            "p99 ÷ that without those clients",
            AtMost(1.0),
            p99_to(|raw| &raw.alone),
        ),
        target(
            QUIET,
            "p99 ÷ that with them in another daemon",
            AtMost(1.0),
            p99_to(|raw| &raw.apart),
        ),
        target(
            "200 clients on 8 places",
            "the longest time ÷ the ideal",
            AtMost(1.5),
            longest,
        ),
        target(
            "metrics asked for ten times a second",
            "req/s ÷ those without",
            AtLeast(0.99),
            watched,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::sample_results;

    #[test]
    fn routes_and_metrics_are_judged_within_their_rounds() {
        let reached = |target: Target| target.judge().0;
        let judged = all(&sample_results::results()).map(reached);
        let expected = ["1.75", "1.00", "1.20", "1.00"];
        for (judged, expected) in judged.iter().zip(expected) {
            assert!(judged.starts_with(expected), "{judged}, not {expected}");
        }
    }
}
