//! What reloads do to the requests of a constant load, with each program.

use super::super::results::{Reload, ReloadPath, ReloadRound, Results};
use super::super::table::{Table, maybe, number, paragraph};
use super::sections::ranged;

/// Nothing if it was not measured.
pub(super) fn render(results: &Results) -> String {
    let Some(reload) = &results.reload else {
        return String::new();
    };
    [
        paragraph(&introduction(reload)),
        latencies(reload),
        "\n".to_owned(),
        paragraph(FAILURES),
        failures(reload),
    ]
    .concat()
}

fn introduction(reload: &Reload) -> String {
    format!(
        "{clients} clients with a new connection for each request and {clients} that keep theirs ask at \
         fixed times, {rate} requests per second of each kind, 4 KB. For {seconds} s nothing else \
         happens; for the next {seconds} s a reload begins every {interval} ms, to and fro between two \
         configurations that differ in a timeout, in the connections that the backend may have, and in \
         a route. spliceway and nginx are told by SIGHUP, HAProxy (with `-W`) by SIGUSR2 to its master; \
         each has one thread. *During*: requests that were under way within {window} ms of a reload's \
         beginning. A latency counts from the time at which a request was to be sent, and is that of \
         requests that were answered.",
        clients = reload.clients,
        rate = number(reload.rate),
        seconds = reload.seconds,
        interval = reload.interval_ms,
        window = reload.window_ms,
    )
}

fn latencies(reload: &Reload) -> String {
    let titles = [
        "path",
        "connections",
        "p50 µs without",
        "during",
        "p99 without",
        "during",
        "p99 ÷ without (min–max)",
        "max without",
        "with reloads",
    ];
    let mut table = Table::new(titles).words(2);
    for path in &reload.paths {
        let median = |figure: fn(&ReloadRound) -> f64| {
            maybe(path.spread(figure).map(|spread| spread.median))
        };
        let first = match path.failure() {
            Some(why) => format!("failed: {why}"),
            None => median(|round| round.without.latency_us.p50),
        };
        table.row(vec![
            path.name.clone(),
            path.carry.word().to_owned(),
            first,
            median(|round| round.during.p50),
            median(|round| round.without.latency_us.p99),
            median(|round| round.during.p99),
            ranged(path.p99_ratio()),
            median(|round| round.without.latency_us.max),
            median(|round| round.with.latency_us.max),
        ]);
    }
    table.render()
}

const FAILURES: &str = "All rounds together. *Done*: reloads after which the other configuration was in use when the \
     next one began. *Refused*: nothing took the connection; *broken*: it ended without the answer; \
     *lost*: no answer within 2 s.";

fn failures(reload: &Reload) -> String {
    let titles = [
        "path",
        "connections",
        "reloads",
        "done",
        "requests",
        "refused",
        "broken",
        "lost",
        "failed without reloads",
    ];
    let mut table = Table::new(titles).words(2);
    let total = |path: &ReloadPath, count: fn(&ReloadRound) -> u64| path.total(count).to_string();
    for path in &reload.paths {
        table.row(vec![
            path.name.clone(),
            path.carry.word().to_owned(),
            total(path, |round| round.reloads),
            total(path, |round| round.done),
            total(path, |round| round.with.requests),
            total(path, |round| round.with.refused),
            total(path, |round| round.with.broken),
            total(path, |round| round.with.lost),
            total(path, |round| round.without.failed()),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::super::super::sample_results;
    use super::*;

    #[test]
    fn programs_that_lose_requests_show_it() {
        let text = render(&sample_results::results());
        let rows: Vec<&str> = text
            .lines()
            .filter(|row| row.starts_with("| HAProxy "))
            .collect();
        let [latencies, failures] = rows[..] else {
            panic!("not two rows of HAProxy in:\n{text}");
        };
        assert!(
            latencies.contains("| kept ") && latencies.contains("5.00 (5.00–5.00)"),
            "{text}"
        );
        let cells: Vec<&str> = failures.split('|').map(str::trim).collect();
        assert_eq!(cells[3..10], ["10", "9", "800", "0", "2", "0", "0"]);
    }

    #[test]
    fn what_was_not_measured_is_not_told() {
        assert_eq!(render(&Results::default()), "");
    }
}
