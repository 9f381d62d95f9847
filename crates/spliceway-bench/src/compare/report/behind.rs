//! Where another program does better, found in the figures and not chosen.

use super::super::results::{CellResult, DIRECT_TCP, Results, Sample};
use super::super::statistics::Spread;
use super::super::table::{Table, paragraph};
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

/// One comparison that is lost.
struct Loss {
    row: Vec<String>,
    ratio: Spread,
}

impl Loss {
    /// Whether it was lost in every round: a difference that has another sign in some may be chance.
    fn is_certain(&self) -> bool {
        let Spread { min, max, .. } = self.ratio;
        !(min < 1.0 && max > 1.0)
    }
}

/// Each path of spliceway, cell and measure in which another program is ahead, against the one that
/// is farthest ahead.
pub(super) fn render(results: &Results) -> String {
    let mut losses = Vec::new();
    let mut compared = 0;
    for cell in &results.cells {
        for of in results.paths.iter().filter(|info| is_ours(&info.key)) {
            for measure in &MEASURES {
                let Some((best, ratio)) = best(results, cell, &of.key, measure) else {
                    continue;
                };
                compared += 1;
                if is_behind(measure, ratio.median) {
                    let row = row(cell, &of.name, measure, best, ratio);
                    losses.push(Loss { row, ratio });
                }
            }
        }
    }
    match compared {
        0 if results.cells.is_empty() => return String::new(),
        0 => return "No other program was measured beside it.\n".to_owned(),
        _ => {}
    }
    words(compared, &losses) + &tables(&losses)
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
    let certain = losses.iter().filter(|loss| loss.is_certain()).count();
    paragraph(&format!(
        "Each cell and engine is compared with the best of the other programs in requests per second, \
         p50, p99 and CPU per request. Of these {compared} comparisons spliceway loses {certain} in \
         every round, and {} more by the median of the rounds, though not in all of them. The ratio is \
         spliceway's figure to the other's.",
        losses.len() - certain
    ))
}

/// What is certain at once, the rest folded away where that can be.
fn tables(losses: &[Loss]) -> String {
    let table = |certain: bool| {
        let titles = ["cell", "engine", "behind in", "the best", "ratio (min–max)"];
        let mut table = Table::new(titles).words(4);
        for loss in losses.iter().filter(|loss| loss.is_certain() == certain) {
            table.row(loss.row.clone());
        }
        table
    };
    let (certain, others) = (table(true), table(false));
    let mut text = String::new();
    if !certain.is_empty() {
        text += &certain.render();
        text.push('\n');
    }
    if !others.is_empty() {
        text += "<details><summary>Not in every round</summary>\n\n";
        text += &others.render();
        text += "\n</details>\n\n";
    }
    text
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
}
