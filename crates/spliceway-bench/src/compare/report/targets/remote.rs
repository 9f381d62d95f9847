//! What spliceway is to reach with backends behind a link.

use super::super::remote;
use super::{Bound, Reached, Target, by_engine, target};
use crate::compare::matrix::Carry;
use crate::compare::results::{DIRECT_TCP, RemoteCell, Results};

/// With each of the engines; nothing if it was not measured.
pub(in super::super) fn render_remote(results: &Results) -> String {
    by_engine(all(results))
}

/// Every one, by engine.
pub(super) fn all(results: &Results) -> [Vec<Target>; 2] {
    let paths = [
        ["spliceway", "fastcgi"],
        ["spliceway-epoll", "fastcgi-epoll"],
    ];
    paths.map(|[raw, fastcgi]| {
        let cells = results.remote.iter().flat_map(|remote| &remote.cells);
        cells
            .flat_map(|cell| behind_link(cell, raw, fastcgi))
            .collect()
    })
}

/// A relay and a shared connection are not to cost what the next packet's delay would hide.
const REMOTE_RATE_MIN: f64 = 0.95;

/// What one link, answer and number of clients are to come to with one engine.
fn behind_link(cell: &RemoteCell, raw: &str, fastcgi: &str) -> [Target; 4] {
    let one = |mode: &str, path: &str, carry: Carry, least| {
        let is_void = cell.void(path, carry).is_all() || cell.void(DIRECT_TCP, carry).is_all();
        target(
            &format!("{}, {mode}, {}", remote::title(cell), carry.word()),
            "req/s ÷ direct TCP's",
            Bound::AtLeast(least),
            Reached::of(cell.ratio(path, carry, carry), is_void),
        )
    };
    [
        one("FastCGI", fastcgi, Carry::New, 1.0),
        one("FastCGI", fastcgi, Carry::Kept, REMOTE_RATE_MIN),
        one("raw", raw, Carry::New, REMOTE_RATE_MIN),
        one("raw", raw, Carry::Kept, REMOTE_RATE_MIN),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::sample_results;

    #[test]
    fn backends_behind_a_link_are_judged_by_the_same_kind_of_connections() {
        let text = render_remote(&sample_results::results());
        let row = |words: &str| {
            let mut rows = text.lines().filter(|row| row.contains(words));
            rows.next().unwrap_or_default().to_owned()
        };
        let new = row("64 KB × 16, FastCGI, new");
        assert!(new.contains("2.00") && new.contains(" met "), "{text}");
        // Where the link lost packets, nothing is said of the path.
        let kept = row("64 KB × 16, FastCGI, kept");
        assert!(kept.contains(" void |") && !kept.contains("0.80"), "{text}");
        assert!(row("raw, kept").contains("not measured"), "{text}");
        assert_eq!(render_remote(&Results::default()), "");
    }
}
