//! Where others do better, found in the figures and not chosen.

use std::collections::BTreeSet;

use super::super::results::Results;
use super::super::statistics::{Spread, ratio};
use super::super::table::{Table, paragraph};
use super::contests::{self, Contest, Lane, Measure};

/// One comparison that is lost.
#[derive(Clone)]
struct Loss {
    contest: String,
    ours: String,
    measure: Measure,
    best: String,
    ratio: Spread,
    how: How,
}

impl Loss {
    /// How many times as good the other one is.
    fn severity(&self) -> f64 {
        match self.measure.more_is_better() {
            true => 1.0 / self.ratio.median,
            false => self.ratio.median,
        }
    }
}

/// How a comparison is lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    InEveryRound,
    /// A difference that has another sign in some rounds may be chance.
    NotInEveryRound,
    /// At the p50, to a path that answers fewer requests per second. In a closed loop the mean latency is the number
    /// of clients divided by the rate, so what it is quicker with half of its requests it is slower with the others.
    ByALongerTail,
}

impl How {
    fn of(ratio: Spread) -> Self {
        match ratio.min < 1.0 && ratio.max > 1.0 {
            true => Self::NotInEveryRound,
            false => Self::InEveryRound,
        }
    }
}

/// What came of all comparisons.
#[derive(Default)]
struct Behind {
    compared: usize,
    losses: Vec<Loss>,
    too_short: BTreeSet<String>,
}

/// Each path of spliceway, cell and measure in which somebody else is ahead, against the one that is farthest ahead.
fn find(results: &Results) -> Behind {
    let mut behind = Behind::default();
    for contest in contests::all(results) {
        for ours in contest.lanes.iter().filter(|lane| lane.role.is_ours()) {
            for measure in Measure::ALL {
                behind.compare(&contest, ours, measure);
            }
        }
    }
    behind
}

impl Behind {
    fn compare(&mut self, contest: &Contest, ours: &Lane, measure: Measure) {
        if measure.counts_requests() && contest.is_too_short {
            self.too_short.insert(contest.id.clone());
            return;
        }
        let is_fair = |other: &Lane| measure != Measure::P50 || keeps_up(ours, other);
        let fair = best(contest, ours, measure, is_fair);
        let others = best(contest, ours, measure, |other| !is_fair(other));
        self.compared += usize::from(fair.is_some() || others.is_some());
        let lost = |(best, ratio): (&Lane, Spread), how| {
            is_behind(measure, ratio.median).then(|| Loss {
                contest: contest.id.clone(),
                ours: ours.name.clone(),
                measure,
                best: best.name.clone(),
                ratio,
                how,
            })
        };
        let fair = fair.and_then(|it| lost(it, How::of(it.1)));
        let others = || others.and_then(|it| lost(it, How::ByALongerTail));
        self.losses.extend(fair.or_else(others));
    }

    fn count(&self, how: How) -> usize {
        self.losses.iter().filter(|loss| loss.how == how).count()
    }
}

/// Smaller losses are not in the short report.
const SHORT_LOSS_MIN: f64 = 1.05;

/// For the short report: what is lost in every round and by more than a little, a row for each cell and path of ours, and
/// no more than so many. `more` is where the rest is.
pub(super) fn short(results: &Results, rows_max: usize, more: &str) -> String {
    let behind = find(results);
    if behind.compared == 0 {
        return String::new();
    }
    let is_told = |loss: &&Loss| loss.how == How::InEveryRound && loss.severity() > SHORT_LOSS_MIN;
    let losses: Vec<&Loss> = behind.losses.iter().filter(is_told).collect();
    let groups = grouped(&losses);
    let mut table = Table::new(["cell", "path", "behind in: ratio (to whom)"]).words(3);
    for group in groups.iter().take(rows_max) {
        let [first, ..] = group[..] else { continue };
        let cell = format!("`{}`", first.contest);
        table.row(vec![cell, first.ours.clone(), ratios(group)]);
    }
    let rest = match groups.len().saturating_sub(rows_max) {
        0 => format!("All others are in {more}."),
        rest => format!("{rest} more rows with smaller losses, and all others, are in {more}."),
    };
    let words = format!(
        "Each cell and path of spliceway against the best of the others, in requests per second, p50, p99 and CPU per \
         request; the raw mode against other programs, the FastCGI mode against the direct path, too. Of {} comparisons \
         it loses {} in every round, {} of them by more than 5 % (below, the worst first; those that only cost more CPU come \
         last), and {} more in the median but not in every round. A ratio is spliceway's figure to the other's. {rest}",
        behind.compared,
        behind.count(How::InEveryRound),
        losses.len(),
        behind.count(How::NotInEveryRound),
    );
    paragraph(&words) + &table.render()
}

/// By cell and path of ours; what makes somebody wait first, and then what takes more CPU only, each by how much.
fn grouped<'a>(losses: &[&'a Loss]) -> Vec<Vec<&'a Loss>> {
    let mut groups: Vec<Vec<&Loss>> = Vec::new();
    for &loss in losses {
        let is_same = |other: &&Loss| (&other.contest, &other.ours) == (&loss.contest, &loss.ours);
        match groups.iter_mut().find(|group| group.iter().any(is_same)) {
            Some(group) => group.push(loss),
            None => groups.push(vec![loss]),
        }
    }
    let worst = |group: &[&Loss], is_cpu: bool| {
        let wanted = group
            .iter()
            .filter(|loss| (loss.measure == Measure::Cpu) == is_cpu);
        wanted.map(|loss| loss.severity()).fold(0.0, f64::max)
    };
    groups.sort_by(|a, b| {
        let by = |is_cpu| worst(b, is_cpu).total_cmp(&worst(a, is_cpu));
        by(false).then_with(|| by(true))
    });
    groups
}

/// `req/s 0.80, p50 1.29 (HAProxy)`: whom it is to is told once for those that follow each other.
fn ratios(group: &[&Loss]) -> String {
    let mut text = String::new();
    for (index, loss) in group.iter().enumerate() {
        let (measure, ratio) = (loss.measure.name(), loss.ratio.median);
        let comma = if index == 0 { "" } else { ", " };
        text += &format!("{comma}{measure} {ratio:.2}");
        let next = group.get(index + 1);
        if next.is_none_or(|next| next.best != loss.best) {
            text += &format!(" ({})", loss.best);
        }
    }
    text
}

/// Every one.
pub(super) fn render(results: &Results) -> String {
    let behind = find(results);
    match behind.compared {
        0 if results.cells.is_empty() => return String::new(),
        0 => return "No other program was measured beside it.\n".to_owned(),
        _ => {}
    }
    words(&behind) + &left_out(&behind.too_short) + &tables(&behind.losses)
}

fn row(loss: &Loss) -> Vec<String> {
    let Spread { median, min, max } = loss.ratio;
    vec![
        format!("`{}`", loss.contest),
        loss.ours.clone(),
        loss.measure.name().to_owned(),
        loss.best.clone(),
        format!("{median:.2} ({min:.2}–{max:.2})"),
    ]
}

fn words(behind: &Behind) -> String {
    paragraph(&format!(
        "Each cell and path of spliceway is compared with the best of the others in requests per second, \
         p50, p99 and CPU per request; the raw mode with other programs, the FastCGI mode with the direct path as \
         well. Void rounds are left out. Of these {compared} comparisons spliceway loses {certain} in \
         every round, and {chance} more by the median of the rounds, though not in all of them. The ratio is \
         spliceway's figure to the other's. Another {tail} are lost at the p50 alone, to paths that answer \
         fewer requests per second: in a closed loop the mean latency is the number of clients divided by the rate, so \
         that half of their requests wait for less, and the others for longer.",
        compared = behind.compared,
        certain = behind.count(How::InEveryRound),
        chance = behind.count(How::NotInEveryRound),
        tail = behind.count(How::ByALongerTail),
    ))
}

/// Why some comparisons are not made.
fn left_out(too_short: &BTreeSet<String>) -> String {
    if too_short.is_empty() {
        return String::new();
    }
    let cells: Vec<_> = too_short.iter().map(|cell| format!("`{cell}`")).collect();
    paragraph(&format!(
        "Not compared in requests per second and CPU per request: {}, whose rounds are too short for one answer to each \
         client, at least on some way. Who serves a few clients after the other ends more requests in such a round than who \
         serves all at one time, and is no quicker with all of them.",
        cells.join(", ")
    ))
}

/// What is certain at once, the rest folded away where that can be.
fn tables(losses: &[Loss]) -> String {
    let table = |how| {
        let titles = ["cell", "path", "behind in", "the best", "ratio (min–max)"];
        let mut table = Table::new(titles).words(4);
        for loss in losses.iter().filter(|loss| loss.how == how) {
            table.row(row(loss));
        }
        table
    };
    let certain = table(How::InEveryRound);
    let mut text = String::new();
    if !certain.is_empty() {
        text += &certain.render();
        text.push('\n');
    }
    for (title, how) in [
        ("Not in every round", How::NotInEveryRound),
        ("At the p50 alone, with a longer tail", How::ByALongerTail),
    ] {
        let folded = table(how);
        if !folded.is_empty() {
            text += &format!("<details><summary>{title}</summary>\n\n");
            text += &folded.render();
            text += "\n</details>\n\n";
        }
    }
    text
}

/// Whether this other path answers at least as many requests per second as ours.
fn keeps_up(ours: &Lane, other: &Lane) -> bool {
    let ratio = ratio(ours.figures(Measure::Rate), other.figures(Measure::Rate));
    ratio.is_none_or(|ratio| ratio.median <= 1.0)
}

fn is_behind(measure: Measure, ratio: f64) -> bool {
    if measure.more_is_better() {
        ratio < 1.0
    } else {
        ratio > 1.0
    }
}

/// Of the others that are meant, the one against which this one looks worst, and the ratio.
fn best<'a>(
    contest: &'a Contest,
    ours: &Lane,
    measure: Measure,
    is_meant: impl Fn(&Lane) -> bool,
) -> Option<(&'a Lane, Spread)> {
    let others = contest.lanes.iter();
    let others = others.filter(|lane| ours.role.is_compared_with(lane.role) && is_meant(lane));
    let ratios = others.filter_map(|other| {
        let ratio = ratio(ours.figures(measure), other.figures(measure))?;
        Some((other, ratio))
    });
    ratios.max_by(|(_, a), (_, b)| {
        let order = a.median.total_cmp(&b.median);
        if measure.more_is_better() {
            order.reverse()
        } else {
            order
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::sample_results;
    use super::*;

    #[test]
    fn it_says_where_another_program_is_ahead_and_by_how_much() {
        let text = render(&sample_results::results());
        let words = text.replace('\n', " ");
        assert!(words.contains("Of these 24 comparisons"), "{text}");
        // The sample's HAProxy is slower than io_uring and faster than epoll.
        assert!(text.contains("| spliceway raw, epoll "), "{text}");
        assert!(text.contains("0.90 (0.90–0.90)"), "{text}");
        assert!(
            !text.contains("| spliceway raw, io_uring | requests"),
            "{text}"
        );
    }

    #[test]
    fn rounds_in_which_not_every_client_was_answered_say_nothing_of_rates() {
        let mut results = sample_results::results();
        let cell = &mut results.cells[0];
        let clients = cell.cell.concurrency as u64;
        let sample = cell.paths[0].rounds[0].as_mut().unwrap();
        sample.requests = clients - 1;
        let id = cell.cell.id();
        let text = render(&results).replace('\n', " ");
        assert!(text.contains(&format!("CPU per request: `{id}`")), "{text}");
        assert!(text.contains("Of these 20 comparisons"), "{text}");
        let rows = tables(&find(&results).losses);
        let mut rows = rows
            .lines()
            .filter(|row| row.starts_with(&format!("| `{id}`")));
        assert!(
            rows.all(|row| row.contains("| p50 ") || row.contains("| p99 ")),
            "{text}"
        );
    }

    #[test]
    fn a_lower_p50_of_fewer_requests_is_a_longer_tail() {
        let mut results = sample_results::results();
        for path in results.cells.iter_mut().flat_map(|cell| &mut cell.paths) {
            // It answers 10,000 requests per second, the io_uring engine 15,000 and the epoll engine 9,000.
            if path.path == "haproxy" {
                let samples = path.rounds.iter_mut().flatten();
                samples.for_each(|sample| sample.latency_us.p50 /= 10.0);
            }
        }
        let text = render(&results);
        let (open, folded) = text
            .split_once("a longer tail</summary>")
            .unwrap_or_default();
        let is_of = |engine: &str, row: &&str| {
            let is_here = row.starts_with("| `new-4k-16`");
            is_here && row.contains(engine) && row.contains("| p50 ")
        };
        assert_eq!(
            folded.lines().filter(|row| is_of("io_uring", row)).count(),
            1,
            "{text}"
        );
        assert_eq!(
            folded.lines().filter(|row| is_of("epoll", row)).count(),
            0,
            "{text}"
        );
        assert_eq!(
            open.lines().filter(|row| is_of("epoll", row)).count(),
            1,
            "{text}"
        );
    }

    #[test]
    fn the_fastcgi_mode_is_compared_with_the_direct_path_and_the_raw_mode_is_not() {
        let text = render(&sample_results::results());
        let rows: Vec<&str> = text.lines().filter(|row| row.contains("| tcp ")).collect();
        assert!(!rows.is_empty(), "{text}");
        let is_mode = |row: &&str| row.starts_with("| `fastcgi-new-4k-16` | fastcgi-epoll ");
        assert!(rows.iter().all(is_mode), "{text}");
        // HAProxy's rounds are void, as wrk had no time left.
        assert!(!text.contains("| `php-static-2k`"), "{text}");
    }

    #[test]
    fn the_short_report_has_the_worst_first_and_says_how_many_are_left() {
        let results = sample_results::results();
        let all = short(&results, 10, "targets.md");
        let rows = |text: &str| {
            let rows = text.lines().filter(|row| row.starts_with("| `"));
            let cells = |row: &str| row.split('|').map(|it| it.trim().to_owned()).collect();
            rows.map(cells).collect::<Vec<Vec<String>>>()
        };
        // Those of one cell and path are one row.
        assert_eq!(rows(&all).len(), 3, "{all}");
        let one = "req/s 0.90, p50 1.11, p99 1.11, CPU 1.11 (tcp)";
        assert!(all.contains(one), "{all}");
        let cut = short(&results, 1, "targets.md");
        assert_eq!(rows(&cut), rows(&all)[..1], "{cut}");
        let words = cut.replace('\n', " ");
        assert!(words.contains("2 more rows"), "{cut}");
    }
}
