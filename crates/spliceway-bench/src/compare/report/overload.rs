//! What is answered in time where more is asked for than can be done.

use super::super::results::{Overload, OverloadPoint, OverloadSample, Results};
use super::super::table::{Table, maybe, number, paragraph};

/// Nothing if it was not measured.
pub(super) fn render(results: &Results) -> String {
    let Some(overload) = &results.overload else {
        return String::new();
    };
    let when = match overload.commit == results.machine.commit {
        true => String::new(),
        false => paragraph(&format!(
            "Measured apart from the other sections, at commit {} ({} UTC).",
            overload.commit, overload.date
        )),
    };
    [paragraph(&introduction(overload)), when, table(overload)].concat()
}

fn introduction(overload: &Overload) -> String {
    format!(
        "{workers} workers of PHP-FPM that take {service} ms for each page (a script that sleeps) can make {capacity} pages a \
         second. Clients come at random times, whatever becomes of the earlier ones, {patience} s wait for their page, and \
         then close their connection. *Goodput*: pages within that time, per second. *503*: told to come back later; \
         *refused*: nothing took the connection, or nginx says so with a 502; *gave up*: waited in vain. After up to {warm_up} s, \
         for {seconds} s. All ways are measured at one time, each with a pool of its own. PHP-FPM's backlog has room for \
         {backlog} connections, as its manual says of its default, also where nginx is in front of it; spliceway has `--per-endpoint-max {workers}`.",
        workers = overload.workers,
        backlog = overload.backlog,
        service = overload.service_ms,
        capacity = number(overload.capacity),
        patience = overload.patience_seconds,
        warm_up = overload.warm_up_seconds,
        seconds = overload.seconds,
    )
}

fn table(overload: &Overload) -> String {
    let titles = [
        "way",
        "asked for",
        "goodput",
        "÷ capacity",
        "min–max",
        "503 %",
        "refused %",
        "gave up %",
        "p50 ms",
        "p99",
        "503 after ms",
    ];
    let mut table = Table::new(titles).words(2);
    let loads = overload.ways.first().map(|way| way.points.len());
    for load in 0..loads.unwrap_or(0) {
        for way in &overload.ways {
            table.row(row(overload, &way.name, &way.points[load]));
        }
    }
    table.render()
}

fn row(overload: &Overload, name: &str, point: &OverloadPoint) -> Vec<String> {
    let median = |figure: fn(&OverloadSample) -> Option<f64>| {
        maybe(point.spread(figure).map(|spread| spread.median))
    };
    let load = format!("{} × capacity", point.load);
    if let Some(why) = point.failure() {
        return vec![name.to_owned(), load, format!("failed: {why}")];
    }
    let goodput = point.spread(|sample| Some(sample.goodput()));
    let of_capacity = |goodput: f64| number(goodput / overload.capacity);
    vec![
        name.to_owned(),
        load,
        median(|sample| Some(sample.goodput())),
        goodput.map_or_else(String::new, |spread| of_capacity(spread.median)),
        goodput.map_or_else(String::new, |spread| {
            format!("{}–{}", of_capacity(spread.min), of_capacity(spread.max))
        }),
        median(|sample| Some(sample.percent(sample.sent_away))),
        median(|sample| Some(sample.percent(sample.refused + sample.broken))),
        median(|sample| Some(sample.percent(sample.gave_up))),
        median(|sample| Some(sample.answered_us?.p50 / 1e3)),
        median(|sample| Some(sample.answered_us?.p99 / 1e3)),
        median(|sample| Some(sample.sent_away_us?.p50 / 1e3)),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::super::sample_results;
    use super::*;

    #[test]
    fn a_queue_that_answers_nobody_in_time_shows_it() {
        let text = render(&sample_results::results());
        assert!(
            text.contains("at commit 0123456789ab (2026-11-28 20:00 UTC)"),
            "{text}"
        );
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|row| row.starts_with("| spliceway, "))
            .map(|row| row.split('|').map(str::trim).collect())
            .collect();
        let [fifo, adaptive] = &rows[..] else {
            panic!("not two rows in:\n{text}");
        };
        assert_eq!(fifo[1..5], ["spliceway, fifo", "2 × capacity", "0", "0"]);
        assert_eq!(fifo[8], "100");
        assert_eq!(adaptive[3..5], ["200", "1.00"]);
        assert_eq!((adaptive[6], adaptive[9]), ("50.0", "41.0"));
    }

    #[test]
    fn what_was_not_measured_is_not_told() {
        assert_eq!(render(&Results::default()), "");
    }
}
