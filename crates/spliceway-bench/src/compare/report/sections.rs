//! The tables besides the matrix.

use super::super::results::{
    Growth, GrowthPages, GrowthSeries, Outcome, Results, Routes, RoutesOf, Sample, Sweep, Void,
    failure, figures, measured, spread,
};
use super::super::statistics::Spread;
use super::super::table::{Table, maybe, number, paragraph, whole};

/// Every sweep, that of the smallest answer first.
pub(super) fn sweep(results: &Results) -> String {
    let first = results.sweep.iter().map(|sweep| ("4 KB".to_owned(), sweep));
    let pages = results.page_sweeps.iter();
    let pages = pages.map(|page| (page.key.response().to_owned(), &page.sweep));
    let all: Vec<String> = first
        .chain(pages)
        .map(|(answer, sweep)| one_sweep(results, &answer, sweep))
        .collect();
    all.join("\n")
}

/// A column for each rate, with a row for each path.
fn one_sweep(results: &Results, answer: &str, sweep: &Sweep) -> String {
    let Some(first) = sweep.paths.first() else {
        return String::new();
    };
    let rates = first.points.iter().map(|point| {
        let (share, rate) = (point.share * 100.0, number(point.rate));
        format!("{share:.0} % ({rate}/s)")
    });
    let mut table = Table::new(["path".to_owned()].into_iter().chain(rates));
    for path in &sweep.paths {
        let cells = path.points.iter().map(|point| {
            if failure(&point.rounds).is_some() {
                return "failed".to_owned();
            }
            let is_void = Void::of(&point.rounds).is_all();
            let late = match (is_void, point.kept_up()) {
                (true, _) => " (void)",
                (false, true) => "",
                (false, false) => " ✗",
            };
            let median = |figure: fn(&Sample) -> f64| {
                let figure = |sample: &Sample| Some(figure(sample));
                let found = match is_void {
                    true => measured(&point.rounds, figure),
                    false => spread(&point.rounds, figure),
                };
                maybe(found.map(|us| us.median))
            };
            format!(
                "{} / {} / {}{late}",
                median(|sample| sample.latency_us.p50),
                median(|sample| sample.latency_us.p99),
                median(|sample| sample.latency_us.p999),
            )
        });
        table.row(
            [results.name_of_any(&path.path)]
                .into_iter()
                .chain(cells)
                .collect(),
        );
    }
    let words = format!(
        "New connections, {answer}, requests sent at fixed rates whatever becomes of the earlier ones; \
         latency counts from the time at which a request was due. The rates are parts of what the \
         direct TCP path did in a closed loop ({}/s), whatever the bottleneck was. Each field: p50 / p99 / p99.9 in µs; ✗: the path \
         could not keep up, and its latency grows for as long as that lasts; (void): the load generator could not.",
        number(sweep.capacity),
    );
    paragraph(&words) + &table.render()
}

/// A table for each of its cells.
pub(super) fn fastcgi(results: &Results) -> String {
    let Some(fastcgi) = &results.fastcgi else {
        return String::new();
    };
    let words = "`--protocol fastcgi`: connections to the responder are kept and shared between requests, \
         and each is used again only when the responder has answered an FCGI_GET_VALUES behind the \
         last request. One thread each, without `--per-endpoint-max`; columns as in *One thread each*. \
         With kept connections the direct path and HAProxy hold a connection to the backend for every \
         client, which with PHP-FPM is a worker process.";
    paragraph(words) + &super::cells::tables(&fastcgi.paths, &fastcgi.cells)
}

pub(super) fn idle(results: &Results) -> String {
    if results.idle.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        "path",
        "held",
        "bytes each",
        "MB before",
        "MB with",
        "CPU µs/s",
    ]);
    let mut refusals = String::new();
    for idle in &results.idle {
        let name = results.name(&idle.path);
        if let Some(refusal) = &idle.refusal {
            refusals += &format!(
                "{name} held {} of {}; the next one: {refusal}.\n",
                whole(idle.held),
                whole(idle.asked)
            );
        } else if idle.asked < super::super::idle::SESSIONS {
            refusals += &format!("{name} was asked for {} only.\n", idle.asked);
        }
        table.row(vec![
            name,
            whole(idle.held),
            maybe(idle.bytes_per_session()),
            number(idle.memory_before_kb as f64 / 1024.0),
            number(idle.memory_kb as f64 / 1024.0),
            number(idle.cpu_us / idle.seconds),
        ]);
    }
    let words = "Connections that have had one request and wait for the next. *bytes each*: growth of the \
         program's resident memory, divided; the kernel's own memory for sockets and pipes is not in \
         it. *CPU*: while nothing happened.";
    format!("{}{}\n{refusals}", paragraph(words), table.render())
}

pub(super) fn growth(results: &Results) -> String {
    let Some(growth) = &results.growth else {
        return String::new();
    };
    [
        "CPU µs per request of 4 KB, one thread, with more and more clients at one time:\n\n",
        &by_clients(results, growth),
        &by_answer(results, growth),
        "\nspliceway with more of something else, raw and with io_uring where nothing else is said:\n\n",
        &variants(growth),
        "\n",
    ]
    .concat()
}

fn by_clients(results: &Results, growth: &Growth) -> String {
    let Some(first) = growth.series.first() else {
        return String::new();
    };
    let clients = first.points.iter().map(|(clients, _)| whole(*clients));
    let mut table = Table::new(["path".to_owned()].into_iter().chain(clients));
    for series in &growth.series {
        let name = format!("{}, {}", results.name(&series.path), series.carry.title());
        let cells = series.points.iter().map(|(_, rounds)| cpu(rounds));
        table.row([name].into_iter().chain(cells).collect());
    }
    table.render()
}

fn by_answer(results: &Results, growth: &Growth) -> String {
    let Some(first) = growth
        .pages
        .first()
        .filter(|first| !first.points.is_empty())
    else {
        return String::new();
    };
    let answers = first
        .points
        .iter()
        .map(|(key, _)| key.response().to_owned());
    let mut table = Table::new(["path".to_owned()].into_iter().chain(answers));
    for GrowthPages {
        path,
        carry,
        points,
        ..
    } in &growth.pages
    {
        let name = format!("{}, {}", results.name(path), carry.title());
        let cells = points.iter().map(|(_, rounds)| cpu(rounds));
        table.row([name].into_iter().chain(cells).collect());
    }
    format!(
        "\nThe same with larger answers, {} clients:\n\n{}",
        first.concurrency,
        table.render()
    )
}

fn variants(growth: &Growth) -> String {
    let mut table = Table::new([
        "",
        "connections",
        "clients",
        "req/s",
        "CPU µs/req",
        "p99 µs",
    ])
    .words(2);
    for variant in &growth.variants {
        let median = |figure: fn(&Sample) -> Option<f64>| {
            maybe(spread(&variant.rounds, figure).map(|spread| spread.median))
        };
        let rate = match failure(&variant.rounds) {
            Some(why) => format!("failed: {why}"),
            None => median(Sample::rate),
        };
        table.row(vec![
            variant.what.clone(),
            variant.carry.word().to_owned(),
            variant.concurrency.to_string(),
            rate,
            median(Sample::cpu_us_per_request),
            median(|sample| Some(sample.latency_us.p99)),
        ]);
    }
    table.render()
}

fn cpu(rounds: &[Outcome]) -> String {
    if failure(rounds).is_some() {
        return "failed".to_owned();
    }
    maybe(spread(rounds, Sample::cpu_us_per_request).map(|spread| spread.median))
}

/// The CPU of a series, for the plot.
pub(in super::super) fn cpu_points(series: &GrowthSeries) -> Vec<(f64, Spread)> {
    let point = |(clients, rounds): &(usize, Vec<Outcome>)| {
        let cpu = spread(rounds, Sample::cpu_us_per_request)?;
        Some((*clients as f64, cpu))
    };
    series.points.iter().filter_map(point).collect()
}

/// What routes do to each other, and what it costs to be asked for metrics.
pub(super) fn routes(results: &Results) -> String {
    let Some(routes) = &results.routes else {
        return String::new();
    };
    let (clients, places, service_ms) = (routes.clients, routes.places, routes.service_ms);
    let words = format!(
        "A route without limits gets {} requests per second, 4 KB unless 10 KB are named, new connections, in a daemon with a \
         worker per core. The daemon's other route has `--per-endpoint-max {places}`, a backend that \
         takes {service_ms} ms, and no clients, or {clients} at one time, most of whom are in the queue. \
         *In another daemon*: what those clients take from the machine anyway.",
        number(routes.rate),
    );
    [
        paragraph(&words),
        neighbours(results, routes),
        "\n".to_owned(),
        paragraph(&longest_waits(results, routes)),
        paragraph(
            "A single route with one worker, 16 clients with new connections, 4 KB, while nobody asks for \
             the metrics and while somebody does, ten times a second:",
        ),
        watching(results, routes),
    ]
    .concat()
}

/// The quiet route's latency in each situation.
fn neighbours(results: &Results, routes: &Routes) -> String {
    let titles = [
        "path",
        "clients of the other route",
        "p50 µs",
        "p90",
        "p99",
        "p99 ÷ without",
    ];
    let mut table = Table::new(titles).words(2);
    for engine in &routes.engines {
        let situations = [
            ("none", &engine.alone, &engine.alone),
            ("in the same daemon", &engine.beside, &engine.alone),
            ("in another daemon", &engine.apart, &engine.alone),
            ("none, 10 KB", &engine.page_alone, &engine.page_alone),
            (
                "in the same daemon, 10 KB",
                &engine.page_beside,
                &engine.page_alone,
            ),
        ];
        for (situation, rounds, without) in situations {
            if rounds.is_empty() {
                continue;
            }
            let median = |figure: fn(&Sample) -> Option<f64>| {
                maybe(spread(rounds, figure).map(|spread| spread.median))
            };
            let first = match failure(rounds) {
                Some(why) => format!("failed: {why}"),
                None => median(|sample| Some(sample.latency_us.p50)),
            };
            table.row(vec![
                results.name(&engine.path),
                situation.to_owned(),
                first,
                median(|sample| Some(sample.latency_us.p90)),
                median(p99),
                ranged(outcome_ratio(rounds, without, p99)),
            ]);
        }
    }
    table.render()
}

fn longest_waits(results: &Results, routes: &Routes) -> String {
    let longest = |engine: &RoutesOf| {
        let spread = Spread::of(engine.longest_ms.iter().copied().flatten())?;
        let (name, median, max) = (results.name(&engine.path), spread.median, spread.max);
        Some(format!(
            "{} ({} at most) with {name}",
            number(median),
            number(max)
        ))
    };
    let each: Vec<String> = routes.engines.iter().filter_map(longest).collect();
    if each.is_empty() {
        return String::new();
    }
    format!(
        "From a client's arrival at the limited route to the end of its answer it would be {} ms if no \
         place were ever free while somebody waits. The slowest client of a round took, in ms: {}.",
        number(routes.ideal_ms()),
        each.join(", "),
    )
}

fn watching(results: &Results, routes: &Routes) -> String {
    let titles = [
        "path",
        "req/s without",
        "req/s with",
        "÷ without",
        "CPU µs/req without",
        "with",
    ];
    let mut table = Table::new(titles);
    for engine in &routes.engines {
        let median = |rounds: &[Outcome], figure: fn(&Sample) -> Option<f64>| {
            if let Some(why) = failure(rounds) {
                return format!("failed: {why}");
            }
            maybe(spread(rounds, figure).map(|spread| spread.median))
        };
        table.row(vec![
            results.name(&engine.path),
            median(&engine.unwatched, Sample::rate),
            median(&engine.watched, Sample::rate),
            ranged(outcome_ratio(
                &engine.watched,
                &engine.unwatched,
                Sample::rate,
            )),
            median(&engine.unwatched, Sample::cpu_us_per_request),
            median(&engine.watched, Sample::cpu_us_per_request),
        ]);
    }
    table.render()
}

pub(super) fn ranged(spread: Option<Spread>) -> String {
    let text = |Spread { median, min, max }| {
        format!("{} ({}–{})", number(median), number(min), number(max))
    };
    spread.map(text).unwrap_or_default()
}

pub(super) fn p99(sample: &Sample) -> Option<f64> {
    Some(sample.latency_us.p99)
}

/// Round by round.
pub(super) fn outcome_ratio(
    of: &[Outcome],
    to: &[Outcome],
    figure: fn(&Sample) -> Option<f64>,
) -> Option<Spread> {
    super::super::statistics::ratio(&figures(of, figure), &figures(to, figure))
}
