//! What spliceway is to reach, and what it has reached.

use super::super::fleet::DIRECT_TCP_NEW;
use super::super::matrix::{Carry, Cell, Key};
use super::super::results::{
    CellResult, DIRECT_TCP, Outcome, PhpPath, PhpSample, Results, RoutesOf, Sample, Sweep,
    SweepPoint, figures,
};
use super::super::statistics::{self, Spread};
use super::super::table::{Table, number};
use super::sections::{outcome_ratio, p99, php_figures};

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

struct Target {
    work: &'static str,
    figure: &'static str,
    bound: Bound,
    reached: Option<Spread>,
}

impl Target {
    /// What was reached, and whether that is enough.
    fn judge(&self) -> (String, String) {
        let Some(Spread { median, min, max }) = self.reached else {
            return ("not measured".to_owned(), String::new());
        };
        let (written, min, max) = (self.bound.written(median), number(min), number(max));
        let verdict = if self.bound.is_met(median) {
            "met"
        } else {
            "**not met**"
        };
        (format!("{written} ({min}–{max})"), verdict.to_owned())
    }
}

/// A row for each; nothing if none of them was measured.
pub(super) fn render(results: &Results) -> String {
    let targets = all(results);
    if targets.iter().all(|target| target.reached.is_none()) {
        return String::new();
    }
    rows(targets)
}

/// Only those that were measured.
pub(super) fn render_measured(results: &Results) -> String {
    let mut targets = all(results);
    targets.retain(|target| target.reached.is_some());
    if targets.is_empty() {
        return String::new();
    }
    rows(targets)
}

fn rows(targets: Vec<Target>) -> String {
    let mut table = Table::new(["work", "figure", "target", "reached (min–max)", ""]).words(2);
    for target in targets {
        let (reached, verdict) = target.judge();
        table.row(vec![
            target.work.to_owned(),
            target.figure.to_owned(),
            target.bound.text(),
            reached,
            verdict,
        ]);
    }
    table.render()
}

/// The FastCGI mode's, with both engines; nothing if none of them was measured.
pub(super) fn render_fastcgi(results: &Results) -> String {
    let engines = FASTCGI_PATHS.map(|path| fastcgi(results, path));
    if engines
        .iter()
        .flatten()
        .all(|target| target.reached.is_none())
    {
        return String::new();
    }
    let mut table = Table::new(["work", "figure", "target", "io_uring", "", "epoll", ""]).words(2);
    let [uring, epoll] = engines;
    for (uring, epoll) in uring.into_iter().zip(epoll) {
        let ((of_uring, verdict), (of_epoll, verdict_of_epoll)) = (uring.judge(), epoll.judge());
        table.row(vec![
            uring.work.to_owned(),
            uring.figure.to_owned(),
            uring.bound.text(),
            of_uring,
            verdict,
            of_epoll,
            verdict_of_epoll,
        ]);
    }
    table.render()
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
    let p50 = |sample: &Sample| Some(sample.latency_us.p50);
    let against = |cell: Option<&CellResult>, to: &str| cell?.ratio(RAW, to, Sample::rate);
    let cpu = |cell: Option<&CellResult>| cell?.ratio(RAW, HAPROXY, Sample::cpu_us_per_request);
    let target = |work, figure, bound, reached| Target {
        work,
        figure,
        bound,
        reached,
    };
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
        ),
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
        ),
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
            further_haproxy(results).and_then(|key| against(bulk, &key)),
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
        ),
        target(
            "4 KB, new connections, one at a time",
            "p50 ÷ HAProxy's",
            AtMost(0.75),
            one.and_then(|one| one.ratio(RAW, HAPROXY, p50)),
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
    relay.into_iter().chain(routes(results)).collect()
}

/// Of several routes, and of metrics, with io_uring.
fn routes(results: &Results) -> [Target; 4] {
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
        Target {
            work: QUIET,
            figure: "p99 ÷ that without those clients",
            bound: AtMost(1.0),
            reached: p99_to(|raw| &raw.alone),
        },
        Target {
            work: QUIET,
            figure: "p99 ÷ that with them in another daemon",
            bound: AtMost(1.0),
            reached: p99_to(|raw| &raw.apart),
        },
        Target {
            work: "200 clients on 8 places",
            figure: "the longest time ÷ the ideal",
            bound: AtMost(1.5),
            reached: longest,
        },
        Target {
            work: "metrics asked for ten times a second",
            figure: "req/s ÷ those without",
            bound: AtLeast(0.99),
            reached: watched,
        },
    ]
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
    const PHP: &str = "nginx, PHP-FPM, 16 connections";
    const PHP_KEPT: &str = "the same, nginx keeps its connections";
    const SECOND: &str = "the same, and a second client";
    use Bound::{AtLeast, AtMost};
    let target = |work, figure, bound, reached| Target {
        work,
        figure,
        bound,
        reached,
    };
    let cell = |carry, key, concurrency| {
        let wanted = Cell::new(carry, key, concurrency);
        let cells = &results.fastcgi.as_ref()?.cells;
        cells.iter().find(|result| result.cell == wanted)
    };
    let new = cell(Carry::New, Key::Small, 16);
    let one = cell(Carry::New, Key::Small, 1);
    let rate = |cell: Option<&CellResult>, to: &str| cell?.ratio(path.guarded, to, Sample::rate);
    let p50 = |sample: &Sample| Some(sample.latency_us.p50);
    let php = |key: &str| {
        let paths = &results.php.as_ref()?.paths;
        paths.iter().find(|path| path.key == key)
    };
    let behind_nginx = |key, figure| php_ratio(php(key)?, php("php-tcp")?, figure);
    let per_second: PhpFigure = |sample| sample.per_second;
    let p99: PhpFigure = |sample| sample.p99_us;
    let second = php(path.php_new);
    let lost = second.and_then(|path| Spread::of(path.second_client.share_lost()));
    let lost_beside = second.and_then(|path| Spread::of(path.second_beside?.share_lost()));
    let kept = cell(Carry::Kept, Key::Small, 16);
    let page = cell(Carry::New, Key::Page, 16);
    let download = cell(Carry::New, Key::Download, 8);
    let browser = cell(Carry::Kept, Key::Browser, 16);
    vec![
        target(
            NEW,
            "req/s ÷ direct TCP's",
            AtLeast(1.65),
            rate(new, DIRECT_TCP),
        ),
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
        ),
        target(
            "4 KB, new connections, one at a time",
            "p50 ÷ direct TCP's",
            AtMost(1.0),
            one.and_then(|one| one.ratio(path.guarded, DIRECT_TCP, p50)),
        ),
        target(
            "64 KB, new connections, 16 at a time",
            "req/s ÷ direct TCP's",
            AtLeast(1.0),
            rate(page, DIRECT_TCP),
        ),
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
        target(
            PHP,
            "req/s ÷ direct TCP's",
            AtLeast(1.2),
            behind_nginx(path.php_new, per_second),
        ),
        target(
            PHP,
            "p99 ÷ direct TCP's",
            AtMost(1.0),
            behind_nginx(path.php_new, p99),
        ),
        target(
            PHP_KEPT,
            "req/s ÷ direct TCP's",
            AtLeast(1.35),
            behind_nginx(path.php_kept, per_second),
        ),
        target(
            PHP_KEPT,
            "p99 ÷ direct TCP's",
            AtMost(1.0),
            behind_nginx(path.php_kept, p99),
        ),
        target(
            SECOND,
            "lost of those that ask PHP-FPM itself",
            AtMost(0.0),
            lost,
        ),
        target(
            SECOND,
            "lost of those that ask spliceway",
            AtMost(0.0),
            lost_beside,
        ),
    ]
}

type PhpFigure = fn(&PhpSample) -> f64;

/// Round by round.
fn php_ratio(of: &PhpPath, to: &PhpPath, figure: PhpFigure) -> Option<Spread> {
    let figures = |path| php_figures(path, |sample| Some(figure(sample)));
    statistics::ratio(&figures(of), &figures(to))
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
    let p50 = |sample: &Sample| Some(sample.latency_us.p50);
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
        let php = row("≥ 1.2 ");
        assert!(php.contains("1.30"), "{text}");
        assert!(php.contains("not measured"), "{text}");
        assert!(row("that ask PHP-FPM itself").contains("0.25"), "{text}");
        assert!(row("that ask spliceway").contains(" met "), "{text}");
    }

    #[test]
    fn routes_and_metrics_are_judged_within_their_rounds() {
        use super::super::super::sample_results;
        let reached = |target: Target| target.judge().0;
        let judged = routes(&sample_results::results()).map(reached);
        let expected = ["1.75", "1.00", "1.20", "1.00"];
        for (judged, expected) in judged.iter().zip(expected) {
            assert!(judged.starts_with(expected), "{judged}, not {expected}");
        }
    }

    #[test]
    fn results_without_the_fastcgi_mode_say_nothing_of_it() {
        assert_eq!(render_fastcgi(&Results::default()), "");
    }

    #[test]
    fn targets_are_judged_by_their_medians() {
        use super::super::super::sample_results;
        let text = render_measured(&sample_results::results());
        // The sample's spliceway has 15,000 requests per second to HAProxy's 10,000.
        let row = text.lines().find(|line| line.contains("req/s ÷ HAProxy's"));
        let row = row.unwrap_or_default();
        assert!(row.contains("1.50") && row.contains(" met "), "{text}");
        let row = text
            .lines()
            .find(|line| line.contains("req/s ÷ direct TCP's"));
        assert!(row.is_some_and(|row| row.contains("**not met**")), "{text}");
    }
}
