//! What spliceway is to reach, and what it has reached.

mod pages;
mod remote;
mod routes;

use super::super::fleet::DIRECT_TCP_NEW;
use super::super::matrix::{Carry, Cell, Key};
use super::super::results::{
    CellResult, DIRECT_TCP, Outcome, Results, Sample, Sweep, SweepPoint, figures,
};
use super::super::statistics::{self, Spread};
use super::super::table::{Table, number};
use super::hops::Hops;
pub(super) use remote::render_remote;

const RAW: &str = "spliceway";
const EPOLL: &str = "spliceway-epoll";
const HAPROXY: &str = "haproxy";

/// Where a figure is to be.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
        }
    }

    /// A figure, with a further digit where two are those of a bound that it misses.
    fn written(self, figure: f64) -> String {
        let (Self::AtLeast(bound) | Self::AtMost(bound)) = self;
        let short = number(figure);
        if short == number(bound) && !self.is_met(figure) {
            format!("{figure:.3}")
        } else {
            short
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {bound}"),
            Self::AtMost(bound) => format!("≤ {bound}"),
        }
    }
}

/// What it has come to.
#[derive(Clone, Copy)]
enum Reached {
    Figure(Spread),
    /// Something else than the path was the bottleneck.
    Void,
    NotMeasured,
}

impl Reached {
    fn of(figure: Option<Spread>, is_void: bool) -> Self {
        match figure {
            Some(figure) => Self::Figure(figure),
            None if is_void => Self::Void,
            None => Self::NotMeasured,
        }
    }

    /// The ratio of one path's figure to another's in a cell.
    fn ratio(
        cell: Option<&CellResult>,
        of: &str,
        to: &str,
        figure: fn(&Sample) -> Option<f64>,
    ) -> Self {
        let is_void = |key| {
            let path = cell.and_then(|cell| cell.path(key));
            path.is_some_and(|path| path.void().is_all())
        };
        let figure = cell.and_then(|cell| cell.ratio(of, to, figure));
        Self::of(figure, is_void(of) || is_void(to))
    }

    fn is_measured(self) -> bool {
        !matches!(self, Self::NotMeasured)
    }
}

impl From<Option<Spread>> for Reached {
    fn from(figure: Option<Spread>) -> Self {
        Self::of(figure, false)
    }
}

struct Target {
    work: String,
    figure: &'static str,
    bound: Bound,
    reached: Reached,
    /// What a relay that costs nothing would reach.
    hops: Option<f64>,
}

impl Target {
    /// With what two hops leave.
    fn beside(self, hops: Option<f64>) -> Self {
        Self { hops, ..self }
    }

    /// Its first columns.
    fn asked(&self, with_hops: bool) -> Vec<String> {
        let asked = [self.work.clone(), self.figure.to_owned(), self.bound.text()];
        let hops = with_hops.then(|| self.hops.map_or_else(String::new, number));
        asked.into_iter().chain(hops).collect()
    }

    /// What was reached, and whether that is enough.
    fn judge(&self) -> (String, String) {
        let Spread { median, min, max } = match self.reached {
            Reached::Figure(spread) => spread,
            Reached::Void => return ("void".to_owned(), String::new()),
            Reached::NotMeasured => return ("not measured".to_owned(), String::new()),
        };
        let (written, min, max) = (self.bound.written(median), number(min), number(max));
        let verdict = if self.is_met() { "met" } else { "**not met**" };
        (format!("{written} ({min}–{max})"), verdict.to_owned())
    }

    fn is_met(&self) -> bool {
        matches!(self.reached, Reached::Figure(spread) if self.bound.is_met(spread.median))
    }
}

/// A row for each; nothing if none of them was measured.
pub(super) fn render(results: &Results) -> String {
    let targets = all(results);
    if !targets.iter().any(|target| target.reached.is_measured()) {
        return String::new();
    }
    rows(targets)
}

/// Only those that were measured.
pub(super) fn render_measured(results: &Results) -> String {
    let mut targets = all(results);
    targets.retain(|target| target.reached.is_measured());
    if targets.is_empty() {
        return String::new();
    }
    rows(targets)
}

fn rows(targets: Vec<Target>) -> String {
    let with_hops = targets.iter().any(|target| target.hops.is_some());
    let mut table = table(with_hops, &["reached (min–max)", ""]);
    for target in targets {
        let (reached, verdict) = target.judge();
        let mut row = target.asked(with_hops);
        row.extend([reached, verdict]);
        table.row(row);
    }
    table.render()
}

/// An empty one, with these columns behind the first ones.
fn table(with_hops: bool, further: &[&'static str]) -> Table {
    let first = ["work", "figure", "target"].into_iter();
    let hops = with_hops.then_some("two hops");
    Table::new(first.chain(hops).chain(further.iter().copied())).words(2)
}

/// The FastCGI mode's, with both engines; nothing if none of them was measured.
pub(super) fn render_fastcgi(results: &Results) -> String {
    by_engine(FASTCGI_PATHS.map(|path| fastcgi(results, path)))
}

/// Those that it is to reach between nginx and PHP-FPM.
pub(super) fn render_php(results: &Results) -> String {
    let php = results.php.as_ref();
    by_engine(FASTCGI_PATHS.map(|path| match php {
        Some(php) => pages::behind_nginx(php, path),
        None => Vec::new(),
    }))
}

/// How many of all targets, each with each engine that it is about, have a figure, and how many of those are met.
pub(super) fn count(results: &Results) -> (usize, usize) {
    let php = results.php.as_ref();
    let mode = FASTCGI_PATHS.into_iter().flat_map(|path| {
        let pages = php.map(|php| pages::behind_nginx(php, path));
        let pages = pages.into_iter().flatten();
        fastcgi(results, path).into_iter().chain(pages)
    });
    let reloads = RELOADED.into_iter().flatten();
    let reloads = reloads.flat_map(|path| pages::reload(results, "", path));
    let targets = all(results).into_iter().chain(mode).chain(reloads);
    let targets = targets.chain(remote::all(results).into_iter().flatten());
    let with_figure = targets.filter(|target| matches!(target.reached, Reached::Figure(_)));
    with_figure.fold((0, 0), |(all, met), target| {
        (all + 1, met + usize::from(target.is_met()))
    })
}

/// The raw and the FastCGI mode with each engine.
const RELOADED: [[&str; 2]; 2] = [
    ["spliceway", "fastcgi"],
    ["spliceway-epoll", "fastcgi-epoll"],
];

/// What reloads may cost each mode.
pub(super) fn render_reload(results: &Results) -> String {
    by_engine(RELOADED.map(|[raw, fastcgi]| {
        let raw = pages::reload(results, "raw", raw).into_iter();
        raw.chain(pages::reload(results, "FastCGI", fastcgi))
            .collect()
    }))
}

/// The same targets with each of the engines.
fn by_engine([uring, epoll]: [Vec<Target>; 2]) -> String {
    let is_measured = |target: &Target| target.reached.is_measured();
    if !uring.iter().chain(&epoll).any(is_measured) {
        return String::new();
    }
    let with_hops = uring.iter().any(|target| target.hops.is_some());
    let mut table = table(with_hops, &["io_uring", "", "epoll", ""]);
    for (uring, epoll) in uring.into_iter().zip(epoll) {
        let ((of_uring, verdict), (of_epoll, verdict_of_epoll)) = (uring.judge(), epoll.judge());
        let mut row = uring.asked(with_hops);
        row.extend([of_uring, verdict, of_epoll, verdict_of_epoll]);
        table.row(row);
    }
    table.render()
}

/// A target without a yardstick.
fn target(work: &str, figure: &'static str, bound: Bound, reached: impl Into<Reached>) -> Target {
    Target {
        work: work.to_owned(),
        figure,
        bound,
        reached: reached.into(),
        hops: None,
    }
}

const NEW: &str = "4 KB, new connections, 16 at a time";
const KEPT: &str = "4 KB, kept connections, 16 at a time";
const BULK: &str = "16 MB, 4 at a time";
const IMAGE: &str = "256 KB, new connections, 8 at a time";

fn all(results: &Results) -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    let cell = |carry, key, concurrency| find(results, Cell::new(carry, key, concurrency));
    let new = cell(Carry::New, Key::Small, 16);
    let kept = cell(Carry::Kept, Key::Small, 16);
    let bulk = cell(Carry::New, Key::Bulk, 4);
    let image = cell(Carry::New, Key::Image, 8);
    let one = cell(Carry::New, Key::Small, 1);
    let against = |cell: Option<&CellResult>, to: &str| Reached::ratio(cell, RAW, to, Sample::rate);
    let cpu =
        |cell: Option<&CellResult>| Reached::ratio(cell, RAW, HAPROXY, Sample::cpu_us_per_request);
    let hops =
        |carry, key, concurrency| Hops::relayed(carry, key, concurrency).rate(results, carry);
    let relay = vec![
        target(
            NEW,
            "req/s ÷ HAProxy's",
            AtLeast(1.25),
            against(new, HAPROXY),
        ),
        target(
            NEW,
            "req/s ÷ direct TCP's",
            AtLeast(0.85),
            against(new, DIRECT_TCP),
        )
        .beside(hops(Carry::New, Key::Small, 16)),
        target(NEW, "CPU ÷ HAProxy's", AtMost(0.75), cpu(new)),
        target(KEPT, "CPU ÷ HAProxy's", AtMost(0.75), cpu(kept)),
        target(
            KEPT,
            "req/s ÷ HAProxy's",
            AtLeast(1.1),
            against(kept, HAPROXY),
        ),
        target(
            BULK,
            "req/s ÷ direct TCP's",
            AtLeast(0.95),
            against(bulk, DIRECT_TCP),
        )
        .beside(hops(Carry::New, Key::Bulk, 4)),
        target(
            BULK,
            "req/s ÷ HAProxy's",
            AtLeast(3.0),
            against(bulk, HAPROXY),
        ),
        target(
            BULK,
            "req/s ÷ nginx stream's",
            AtLeast(3.0),
            against(bulk, "nginx"),
        ),
        target(
            BULK,
            "req/s ÷ that of a newer HAProxy with splice-auto",
            AtLeast(1.5),
            further_haproxy(results).map_or(Reached::NotMeasured, |key| against(bulk, &key)),
        ),
        target(
            BULK,
            "CPU ms per GB",
            AtMost(100.0),
            bulk.and_then(|bulk| bulk.path(RAW)?.spread(Sample::cpu_ms_per_gb)),
        ),
        target(
            IMAGE,
            "req/s ÷ socket-proxyd's",
            AtLeast(1.3),
            against(image, "socket-proxyd"),
        ),
        target(
            IMAGE,
            "req/s ÷ direct TCP's",
            AtLeast(0.75),
            against(image, DIRECT_TCP),
        )
        .beside(hops(Carry::New, Key::Image, 8)),
        target(
            "4 KB, new connections, one at a time",
            "p50 ÷ HAProxy's",
            AtMost(0.75),
            Reached::ratio(one, RAW, HAPROXY, p50),
        ),
        target(
            "4 KB, open loop at half of direct TCP's capacity",
            "p99 ÷ HAProxy's",
            AtMost(0.7),
            open_loop_p99(results, RAW, HAPROXY),
        ),
        target(
            "idle session",
            "bytes of user memory",
            AtMost(1024.0),
            idle_bytes(results),
        ),
        target(
            "idle sessions",
            "CPU, µs per second",
            AtMost(0.0),
            idle_cpu(results),
        ),
        target(
            "epoll engine, all of the above",
            "smallest advantage over HAProxy",
            AtLeast(1.0),
            smallest_advantage(results),
        ),
    ];
    relay.into_iter().chain(routes::all(results)).collect()
}

/// The paths of one engine.
#[derive(Clone, Copy)]
struct FastcgiPath {
    guarded: &'static str,
    unguarded: &'static str,
    /// Behind nginx, with a connection for each request, and with kept ones.
    php_new: &'static str,
    php_kept: &'static str,
}

const FASTCGI_PATHS: [FastcgiPath; 2] = [
    FastcgiPath {
        guarded: "fastcgi",
        unguarded: "fastcgi-unguarded",
        php_new: "php-fastcgi",
        php_kept: "php-fastcgi-kept",
    },
    FastcgiPath {
        guarded: "fastcgi-epoll",
        unguarded: "fastcgi-epoll-unguarded",
        php_new: "php-fastcgi-epoll",
        php_kept: "php-fastcgi-epoll-kept",
    },
];

/// What the FastCGI mode is to reach with one engine.
fn fastcgi(results: &Results, path: FastcgiPath) -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    let cell = |carry, key, concurrency| {
        let wanted = Cell::new(carry, key, concurrency);
        let cells = &results.fastcgi.as_ref()?.cells;
        cells.iter().find(|result| result.cell == wanted)
    };
    let new = cell(Carry::New, Key::Small, 16);
    let one = cell(Carry::New, Key::Small, 1);
    let rate =
        |cell: Option<&CellResult>, to: &str| Reached::ratio(cell, path.guarded, to, Sample::rate);
    let kept = cell(Carry::Kept, Key::Small, 16);
    let page = cell(Carry::New, Key::Page, 16);
    let download = cell(Carry::New, Key::Download, 8);
    let browser = cell(Carry::Kept, Key::Browser, 16);
    let hops =
        |client, key, concurrency| Hops::pooled(client, key, concurrency).rate(results, Carry::New);
    vec![
        target(
            NEW,
            "req/s ÷ direct TCP's",
            AtLeast(1.65),
            rate(new, DIRECT_TCP),
        )
        .beside(hops(Carry::New, Key::Small, 16)),
        target(NEW, "req/s ÷ HAProxy's", AtLeast(2.5), rate(new, HAPROXY)),
        target(
            NEW,
            "CPU µs per request",
            AtMost(22.0),
            new.and_then(|new| new.path(path.guarded)?.spread(Sample::cpu_us_per_request)),
        ),
        target(
            KEPT,
            "req/s ÷ direct TCP's with new ones",
            AtLeast(2.2),
            rate(kept, DIRECT_TCP_NEW),
        )
        .beside(hops(Carry::Kept, Key::Small, 16)),
        target(
            "4 KB, new connections, one at a time",
            "p50 ÷ direct TCP's",
            AtMost(1.0),
            Reached::ratio(one, path.guarded, DIRECT_TCP, p50),
        )
        .beside(Hops::pooled(Carry::New, Key::Small, 1).p50(results, Carry::New)),
        target(
            "64 KB, new connections, 16 at a time",
            "req/s ÷ direct TCP's",
            AtLeast(1.0),
            rate(page, DIRECT_TCP),
        )
        .beside(hops(Carry::New, Key::Page, 16)),
        target(
            "1 MB, new connections, 8 at a time",
            "req/s ÷ direct TCP's",
            AtLeast(1.0),
            rate(download, DIRECT_TCP),
        ),
        target(
            "40 parameters, 4 KB, kept connections, 16 at a time",
            "req/s ÷ those without the guard",
            AtLeast(0.97),
            rate(browser, path.unguarded),
        ),
    ]
}

fn p50(sample: &Sample) -> Option<f64> {
    Some(sample.latency_us.p50)
}

fn find(results: &Results, cell: Cell) -> Option<&CellResult> {
    results.cells.iter().find(|result| result.cell == cell)
}

/// The last HAProxy that was given on the command line, splicing.
fn further_haproxy(results: &Results) -> Option<String> {
    let keys = results.paths.iter().rev().map(|info| &info.key);
    let mut further = keys.filter(|key| {
        key.starts_with("haproxy-") && key.ends_with("-splice") && *key != "haproxy-splice"
    });
    further.next().cloned()
}

fn open_loop_p99(results: &Results, of: &str, to: &str) -> Option<Spread> {
    const HALF: f64 = 0.5;
    let sweep = results.sweep.as_ref()?;
    let p99 = |sample: &Sample| Some(sample.latency_us.p99);
    let rounds = |key| Some(figures(at(sweep, key, HALF)?, p99));
    statistics::ratio(&rounds(of)?, &rounds(to)?)
}

fn at<'a>(sweep: &'a Sweep, key: &str, share: f64) -> Option<&'a [Outcome]> {
    let path = sweep.paths.iter().find(|path| path.path == key)?;
    let near = |point: &&SweepPoint| (point.share - share).abs() < 1e-6;
    Some(&path.points.iter().find(near)?.rounds)
}

fn idle_bytes(results: &Results) -> Option<Spread> {
    let idle = results.idle.iter().find(|idle| idle.path == RAW)?;
    Spread::of(idle.bytes_per_session())
}

/// Below the accuracy of the clock it is none.
fn idle_cpu(results: &Results) -> Option<Spread> {
    let idle = results.idle.iter().find(|idle| idle.path == RAW)?;
    Spread::of([(idle.cpu_us / idle.seconds).round()])
}

/// Over every work that the others are about, larger being better.
fn smallest_advantage(results: &Results) -> Option<Spread> {
    let rate = |cell: Cell| find(results, cell)?.ratio(EPOLL, HAPROXY, Sample::rate);
    let inverse = |spread: Spread| Spread {
        median: 1.0 / spread.median,
        min: 1.0 / spread.max,
        max: 1.0 / spread.min,
    };
    let one = find(results, Cell::new(Carry::New, Key::Small, 1))
        .and_then(|one| one.ratio(EPOLL, HAPROXY, p50))
        .map(inverse);
    let tail = open_loop_p99(results, EPOLL, HAPROXY).map(inverse);
    let rates = [
        rate(Cell::new(Carry::New, Key::Small, 16)),
        rate(Cell::new(Carry::Kept, Key::Small, 16)),
        rate(Cell::new(Carry::New, Key::Bulk, 4)),
        rate(Cell::new(Carry::New, Key::Image, 8)),
    ];
    let known = rates.into_iter().chain([one, tail]).flatten();
    known.min_by(|a, b| a.median.total_cmp(&b.median))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_just_misses_does_not_look_like_its_bound() {
        let bound = Bound::AtLeast(0.75);
        assert_eq!(bound.written(0.748), "0.748");
        assert_eq!(bound.written(0.751), "0.75");
        assert_eq!(bound.written(0.5), "0.50");
    }

    #[test]
    fn the_fastcgi_mode_is_judged_with_both_engines() {
        use super::super::super::sample_results;
        let text = render_fastcgi(&sample_results::results());
        let row = |words: &str| {
            let mut rows = text.lines().filter(|row| row.contains(words));
            rows.next().unwrap_or_default().to_owned()
        };
        // The sample's mode has 40,000 requests per second to the direct path's 20,000, epoll 18,000.
        let new = row("≥ 1.65");
        assert!(new.contains("2.00") && new.contains("0.90"), "{text}");
        assert!(
            new.contains(" met ") && new.contains("**not met**"),
            "{text}"
        );
    }

    #[test]
    fn pages_are_judged_with_both_engines() {
        use super::super::super::sample_results;
        let text = render_php(&sample_results::results());
        let row = |words: &str| {
            let mut rows = text.lines().filter(|row| row.contains(words));
            rows.next().unwrap_or_default().to_owned()
        };
        let small = row("≥ 1.2 ");
        assert!(small.contains("1.30") && small.contains(" met "), "{text}");
        assert!(small.contains("not measured"), "{text}");
        let large = row("≥ 0.95 ");
        assert!(large.starts_with("| ondemand, 10 KB"), "{text}");
        assert!(
            large.contains("0.90") && large.contains("**not met**"),
            "{text}"
        );
        assert!(row("that ask PHP-FPM itself").contains("0.25"), "{text}");
        assert!(row("that ask spliceway").contains(" met "), "{text}");
    }

    #[test]
    fn reloads_are_judged_with_both_engines() {
        use super::super::super::sample_results;
        let text = render_reload(&sample_results::results());
        let row = |words: &str| {
            let mut rows = text.lines().filter(|row| row.starts_with(words));
            rows.next().unwrap_or_default().to_owned()
        };
        let p99 = row("| raw, new connection per request ");
        assert!(p99.contains("1.25") && p99.contains("| met |"), "{text}");
        assert!(
            p99.contains("3.00") && p99.contains("**not met**"),
            "{text}"
        );
        assert!(
            row("| raw, kept connections ").contains("not measured"),
            "{text}"
        );
        assert_eq!(render_reload(&Results::default()), "");
    }

    #[test]
    fn results_without_the_fastcgi_mode_say_nothing_of_it() {
        assert_eq!(render_fastcgi(&Results::default()), "");
    }

    #[test]
    fn targets_are_judged_by_their_medians() {
        use super::super::super::sample_results;
        let text = render_measured(&sample_results::results());
        // Its direct paths' two hops leave three quarters of the rate.
        assert!(text.contains("| two hops |"), "{text}");
        // The sample's spliceway has 15,000 requests per second to HAProxy's 10,000.
        let row = text.lines().find(|line| line.contains("req/s ÷ HAProxy's"));
        let row = row.unwrap_or_default();
        assert!(row.contains("1.50") && row.contains(" met "), "{text}");
        let row = text
            .lines()
            .find(|line| line.contains("req/s ÷ direct TCP's"));
        assert!(row.is_some_and(|row| row.contains("**not met**")), "{text}");
        assert!(
            row.is_some_and(|row| row.contains("| 0.75 ") || row.contains("     0.75 |")),
            "{text}"
        );
    }
}
