//! Where another program does better, found in the figures and not chosen.

use super::super::results::{CellResult, DIRECT_TCP, Results, Sample};
use super::super::statistics::Spread;
use super::super::table::Table;
use super::DIRECT_UNIX;

/// How a figure is compared.
struct Measure {
    name: &'static str,
    figure: fn(&Sample) -> Option<f64>,
    more_is_better: bool,
}

const MEASURES: [Measure; 4] = [
    Measure {
        name: "requests per second",
        figure: Sample::rate,
        more_is_better: true,
    },
    Measure {
        name: "p50",
        figure: |sample| Some(sample.latency_us.p50),
        more_is_better: false,
    },
    Measure {
        name: "p99",
        figure: |sample| Some(sample.latency_us.p99),
        more_is_better: false,
    },
    Measure {
        name: "CPU",
        figure: Sample::cpu_us_per_request,
        more_is_better: false,
    },
];

/// A row for each path of spliceway, cell and measure in which another program is ahead, the one
/// that is farthest ahead.
pub(super) fn render(results: &Results) -> String {
    let mut table = Table::new([
        "cell",
        "engine",
        "behind in",
        "the best",
        "ratio (min–max)",
        "",
    ]);
    let mut compared = 0;
    for cell in &results.cells {
        for of in results.paths.iter().filter(|info| is_ours(&info.key)) {
            for measure in &MEASURES {
                let Some((best, ratio)) = best(results, cell, &of.key, measure) else {
                    continue;
                };
                compared += 1;
                if is_behind(measure, ratio.median) {
                    table.row(vec![
                        format!("`{}`", cell.cell.id()),
                        of.name.clone(),
                        measure.name.to_owned(),
                        best,
                        format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.min, ratio.max),
                        doubt(ratio).to_owned(),
                    ]);
                }
            }
        }
    }
    match (compared, table.is_empty()) {
        (0, _) => String::new(),
        (compared, true) => format!(
            "In none of {compared} comparisons (cells, engines, and requests per second, p50, p99 and \
             CPU per request) with the best of the other programs.\n"
        ),
        (compared, false) => format!(
            "Of {compared} comparisons with the best of the other programs (each cell and engine, in \
             requests per second, p50, p99 and CPU per request), spliceway loses these. The ratio is \
             spliceway's figure to the other's.\n\n{}",
            table.render()
        ),
    }
}

fn is_ours(key: &str) -> bool {
    key.starts_with("spliceway")
}

fn is_behind(measure: &Measure, ratio: f64) -> bool {
    if measure.more_is_better {
        ratio < 1.0
    } else {
        ratio > 1.0
    }
}

/// A difference that has another sign in some rounds may be chance.
fn doubt(ratio: Spread) -> &'static str {
    if ratio.min < 1.0 && ratio.max > 1.0 {
        "not in every round"
    } else {
        ""
    }
}

/// The other program against which this one looks worst: its name and the ratio.
fn best(
    results: &Results,
    cell: &CellResult,
    of: &str,
    measure: &Measure,
) -> Option<(String, Spread)> {
    let is_other = |key: &str| ![DIRECT_TCP, DIRECT_UNIX].contains(&key) && !is_ours(key);
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
        assert!(text.contains("Of 8 comparisons"), "{text}");
        // The sample's HAProxy is slower than io_uring and faster than epoll.
        assert!(text.contains("| spliceway raw, epoll "), "{text}");
        assert!(text.contains("0.90 (0.90–0.90)"), "{text}");
        assert!(
            !text.contains("| spliceway raw, io_uring | requests"),
            "{text}"
        );
    }
}
