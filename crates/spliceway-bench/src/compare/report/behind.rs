//! Where another program does better, found in the figures and not chosen.

use std::collections::BTreeSet;

use super::super::results::{CellResult, DIRECT_TCP, Results, Sample};
use super::super::statistics::Spread;
use super::super::table::{Table, paragraph};
use super::DIRECT_UNIX;

/// How a figure is compared.
struct Measure {
    name: &'static str,
    figure: fn(&Sample) -> Option<f64>,
    more_is_better: bool,
    /// Whether it says nothing of half of the requests.
    hides_a_tail: bool,
    /// Whether it counts the requests that ended in the round.
    counts_requests: bool,
}

const MEASURES: [Measure; 4] = [
    Measure {
        name: "requests per second",
        figure: Sample::rate,
        more_is_better: true,
        hides_a_tail: false,
        counts_requests: true,
    },
    Measure {
        name: "p50",
        figure: |sample| Some(sample.latency_us.p50),
        more_is_better: false,
        hides_a_tail: true,
        counts_requests: false,
    },
    Measure {
        name: "p99",
        figure: |sample| Some(sample.latency_us.p99),
        more_is_better: false,
        hides_a_tail: false,
        counts_requests: false,
    },
    Measure {
        name: "CPU",
        figure: Sample::cpu_us_per_request,
        more_is_better: false,
        hides_a_tail: false,
        counts_requests: true,
    },
];

/// One comparison that is lost.
struct Loss {
    row: Vec<String>,
    how: How,
}

/// How a comparison is lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    InEveryRound,
    /// A difference that has another sign in some rounds may be chance.
    NotInEveryRound,
    /// At the p50, to a program that answers fewer requests per second. In a closed loop the mean latency is the number
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

/// Each path of spliceway, cell and measure in which another program is ahead, against the one that
/// is farthest ahead.
pub(super) fn render(results: &Results) -> String {
    let mut losses = Vec::new();
    let mut compared = 0;
    let mut too_short = BTreeSet::new();
    for cell in &results.cells {
        for of in results.paths.iter().filter(|info| is_ours(&info.key)) {
            for measure in &MEASURES {
                if measure.counts_requests && is_too_short(cell) {
                    too_short.insert(cell.cell.id());
                    continue;
                }
                let is_fair = |other: &str| !measure.hides_a_tail || keeps_up(cell, other, &of.key);
                let fair = best(results, cell, &of.key, measure, is_fair);
                let others = best(results, cell, &of.key, measure, |other| !is_fair(other));
                compared += usize::from(fair.is_some() || others.is_some());
                let lost = |(best, ratio): (String, Spread), how| {
                    is_behind(measure, ratio.median).then(|| Loss {
                        row: row(cell, &of.name, measure, best, ratio),
                        how,
                    })
                };
                let fair = fair.and_then(|it| lost(it.clone(), How::of(it.1)));
                let others = || others.and_then(|it| lost(it, How::ByALongerTail));
                losses.extend(fair.or_else(others));
            }
        }
    }
    match compared {
        0 if results.cells.is_empty() => return String::new(),
        0 => return "No other program was measured beside it.\n".to_owned(),
        _ => {}
    }
    words(compared, &losses) + &left_out(&too_short) + &tables(&losses)
}

fn row(
    cell: &CellResult,
    engine: &str,
    measure: &Measure,
    best: String,
    ratio: Spread,
) -> Vec<String> {
    let Spread { median, min, max } = ratio;
    vec![
        format!("`{}`", cell.cell.id()),
        engine.to_owned(),
        measure.name.to_owned(),
        best,
        format!("{median:.2} ({min:.2}–{max:.2})"),
    ]
}

fn words(compared: usize, losses: &[Loss]) -> String {
    let count = |how| losses.iter().filter(|loss| loss.how == how).count();
    paragraph(&format!(
        "Each cell and engine is compared with the best of the other programs in requests per second, \
         p50, p99 and CPU per request. Of these {compared} comparisons spliceway loses {certain} in \
         every round, and {chance} more by the median of the rounds, though not in all of them. The ratio is \
         spliceway's figure to the other's. Another {tail} are lost at the p50 alone, to programs that answer \
         fewer requests per second: in a closed loop the mean latency is the number of clients divided by the rate, so \
         that half of their requests wait for less, and the others for longer.",
        certain = count(How::InEveryRound),
        chance = count(How::NotInEveryRound),
        tail = count(How::ByALongerTail),
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

/// Whether on some way fewer requests ended in some round than there were clients.
fn is_too_short(cell: &CellResult) -> bool {
    let rounds = cell.paths.iter().flat_map(|path| path.rounds.iter().flatten());
    let clients = cell.cell.concurrency as u64;
    rounds
        .into_iter()
        .any(|sample| sample.requests < clients)
}

/// What is certain at once, the rest folded away where that can be.
fn tables(losses: &[Loss]) -> String {
    let table = |how| {
        let titles = ["cell", "engine", "behind in", "the best", "ratio (min–max)"];
        let mut table = Table::new(titles).words(4);
        for loss in losses.iter().filter(|loss| loss.how == how) {
            table.row(loss.row.clone());
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

fn is_ours(key: &str) -> bool {
    key.starts_with("spliceway")
}

/// Whether this other program answers at least as many requests per second as ours.
fn keeps_up(cell: &CellResult, other: &str, ours: &str) -> bool {
    let ratio = cell.ratio(ours, other, Sample::rate);
    ratio.is_none_or(|ratio| ratio.median <= 1.0)
}

fn is_behind(measure: &Measure, ratio: f64) -> bool {
    if measure.more_is_better {
        ratio < 1.0
    } else {
        ratio > 1.0
    }
}

/// Of the other programs that are meant, the one against which this one looks worst: its name and the ratio.
fn best(
    results: &Results,
    cell: &CellResult,
    of: &str,
    measure: &Measure,
    is_meant: impl Fn(&str) -> bool,
) -> Option<(String, Spread)> {
    let is_other =
        |key: &str| ![DIRECT_TCP, DIRECT_UNIX].contains(&key) && !is_ours(key) && is_meant(key);
    let others = results.paths.iter().filter(|info| is_other(&info.key));
    let ratios = others.filter_map(|info| {
        let ratio = cell.ratio(of, &info.key, measure.figure)?;
        Some((info.name.clone(), ratio))
    });
    ratios.max_by(|(_, a), (_, b)| {
        let order = a.median.total_cmp(&b.median);
        if measure.more_is_better {
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
        assert!(words.contains("Of these 8 comparisons"), "{text}");
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
        assert!(text.contains("Of these 4 comparisons"), "{text}");
        assert!(!text.contains("| requests per second"), "{text}");
        assert!(!text.contains("| CPU"), "{text}");
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
        let is_of = |engine: &str, row: &&str| row.contains(engine) && row.contains("| p50 ");
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
}
