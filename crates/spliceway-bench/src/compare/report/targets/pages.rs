//! What spliceway is to reach between nginx and PHP-FPM, and what its reloads may cost.

use super::super::php;
use super::{Bound, FastcgiPath, Reached, Target, target};
use crate::compare::matrix::Carry;
use crate::compare::results::{PHP_TCP, Php, PhpSample, Pm, ReloadPath, Results};
use crate::compare::statistics::Spread;

/// The slowest that a page may be, and the smallest page, which gains most.
const PHP_RATE_MIN: f64 = 0.95;
const PHP_SMALL_RATE_MIN: f64 = 1.2;
const PHP_SMALL_KB: u32 = 2;

/// What it is to reach with one engine between nginx and PHP-FPM.
pub(super) fn behind_nginx(php: &Php, path: FastcgiPath) -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    const RATE: &str = "req/s ÷ direct TCP's";
    const P99: &str = "p99 ÷ direct TCP's";
    let mut targets = Vec::new();
    for cell in &php.cells {
        let work = |more: &str| format!("{}, {} KB{more}", cell.pm.word(), cell.kb);
        let is_small = cell.kb == PHP_SMALL_KB;
        let least = if is_small {
            PHP_SMALL_RATE_MIN
        } else {
            PHP_RATE_MIN
        };
        let mut add = |work: String, figure, bound, reached: Reached| {
            targets.push(target(&work, figure, bound, reached));
        };
        let is_void = |key| cell.path(key).is_some_and(|path| path.void().is_all());
        let ratio = |key, figure: fn(&PhpSample) -> Option<f64>| {
            let is_void = is_void(key) || is_void(PHP_TCP);
            Reached::of(cell.ratio(key, figure), is_void)
        };
        let rate = |key| ratio(key, php::per_second);
        let p99 = |key| ratio(key, php::p99);
        add(work(""), RATE, AtLeast(least), rate(path.php_new));
        add(work(""), P99, AtMost(1.0), p99(path.php_new));
        if is_small && cell.pm == Pm::Static {
            const KEPT: &str = ", nginx keeps its connections";
            const SECOND: &str = ", and a second client";
            add(work(KEPT), RATE, AtLeast(1.35), rate(path.php_kept));
            add(work(KEPT), P99, AtMost(1.0), p99(path.php_kept));
            let second = cell.path(path.php_new);
            let lost = second.and_then(|path| Spread::of(path.second_client?.share_lost()));
            let beside = second.and_then(|path| Spread::of(path.second_beside?.share_lost()));
            let (itself, spliceway) = (
                "lost of those that ask PHP-FPM itself",
                "lost of those that ask spliceway",
            );
            add(work(SECOND), itself, AtMost(0.0), lost.into());
            add(work(SECOND), spliceway, AtMost(0.0), beside.into());
        }
    }
    targets
}

/// What reloads may cost the requests of one path.
pub(super) fn reload(results: &Results, mode: &str, path: &str) -> Vec<Target> {
    let of = |carry: Carry| {
        let paths = results.reload.iter().flat_map(|reload| &reload.paths);
        let mut paths = paths.filter(move |found| found.path == path && found.carry == carry);
        let found = paths.next();
        let work = format!("{mode}, {}", carry.title());
        let failed = |found: &ReloadPath| found.spread(|round| round.with.failed() as f64);
        [
            target(
                &work,
                "p99 during a reload ÷ without",
                Bound::AtMost(2.0),
                found.and_then(ReloadPath::p99_ratio),
            ),
            target(
                &work,
                "failed requests of a round",
                Bound::AtMost(0.0),
                found.and_then(failed),
            ),
        ]
    };
    Carry::ALL.into_iter().flat_map(of).collect()
}
