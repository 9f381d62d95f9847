//! Backends behind a link.

use super::super::matrix::Carry;
use super::super::results::{
    DIRECT_TCP, Remote, RemoteCell, RemoteWay, Results, Sample, Void, failure, measured, name_in,
    spread,
};
use super::super::table::{Table, maybe, number, paragraph, ratio};
use super::sections::ranged;

/// The overview and what they come from; nothing if it was not measured.
pub(super) fn render(results: &Results) -> String {
    let Some(remote) = with_cells(results) else {
        return String::new();
    };
    [
        paragraph(&introduction(remote)),
        paragraph(
            "Requests per second as a ratio to the direct path with the same kind of connections, by round \
             trip, answer and clients at one time:",
        ),
        overview(remote),
        "\n".to_owned(),
        details(remote),
    ]
    .concat()
}

fn with_cells(results: &Results) -> Option<&Remote> {
    results
        .remote
        .as_ref()
        .filter(|remote| !remote.cells.is_empty())
}

fn introduction(remote: &Remote) -> String {
    format!(
        "The responder is in another network, behind a link that delays every packet by half of the round \
         trip each way and loses none (two TUN devices, and a thread that passes on what leaves by the one \
         when its time has come; segmentation offload, an MTU of 1,500). Clients make a new connection for \
         each request, or keep theirs. The FastCGI mode has `--per-endpoint-max {}`, which is more than it \
         needs, and every program one thread. A round is void in which the link lost something, was late by \
         more than a twentieth of its round trip on average, or had no processor time left: its figures are \
         the link's.",
        remote.endpoint_max,
    )
}

/// What tables call a way.
fn name(remote: &Remote, way: &RemoteWay) -> String {
    format!(
        "{}, {}",
        name_in(&remote.paths, &way.path),
        way.carry.word()
    )
}

/// What tables call a cell.
pub(super) fn title(cell: &RemoteCell) -> String {
    let (ms, answer, clients) = (cell.round_trip_ms, cell.key.response(), cell.concurrency);
    format!("{ms} ms, {answer} × {clients}")
}

/// A row for each way, a column for each cell.
fn overview(remote: &Remote) -> String {
    let titles = remote.cells.iter().map(title);
    let mut table = Table::new(["path, connections".to_owned()].into_iter().chain(titles));
    for info in &remote.paths {
        for carry in Carry::ALL {
            let figure = |cell: &RemoteCell| match cell.way(&info.key, carry) {
                None => "missing".to_owned(),
                Some(way) if failure(&way.rounds).is_some() => "failed".to_owned(),
                Some(way) if Void::of(&way.rounds).is_all() => "void".to_owned(),
                Some(_) => {
                    let against = cell.ratio(&info.key, carry, carry);
                    ratio(against.map(|spread| spread.median))
                }
            };
            let name = format!("{}, {}", info.name, carry.word());
            let figures = remote.cells.iter().map(figure);
            table.row([name].into_iter().chain(figures).collect());
        }
    }
    table.render()
}

/// A table for each cell.
fn details(remote: &Remote) -> String {
    let words = "*× new*, *× kept*: requests per second against the direct path with new and with kept \
         connections in the same round, – where one of both is void. Latencies in ms. *CPU* is that of the program in between, per request. \
         Of the link: the part of a processor that its thread took, in whose time the kernel also has \
         packets arrive, and by how many µs packets were late on average.";
    let cell = |cell: &RemoteCell| {
        format!(
            "<details><summary>{}</summary>\n\n{}\n</details>\n\n",
            title(cell),
            table(remote, cell)
        )
    };
    paragraph(words) + &remote.cells.iter().map(cell).collect::<String>()
}

fn table(remote: &Remote, cell: &RemoteCell) -> String {
    let mut table = Table::new([
        "path, connections",
        "req/s (min–max)",
        "× new (min–max)",
        "× kept (min–max)",
        "p50 ms",
        "p99",
        "CPU µs/req",
        "link CPU",
        "late µs",
    ]);
    let mut failures = String::new();
    for way in &cell.ways {
        let name = name(remote, way);
        if let Some(why) = failure(&way.rounds) {
            failures += &format!("{name} failed: {why}\n");
        }
        table.row(row(name, cell, way));
    }
    let gap = if failures.is_empty() { "" } else { "\n" };
    format!("{}{gap}{failures}", table.render())
}

fn row(name: String, cell: &RemoteCell, way: &RemoteWay) -> Vec<String> {
    let void = Void::of(&way.rounds);
    let figure = |figure: fn(&Sample) -> Option<f64>| match void.is_all() {
        true => measured(&way.rounds, figure),
        false => spread(&way.rounds, figure),
    };
    let Some(rate) = figure(Sample::rate) else {
        return vec![name, "failed".to_owned()];
    };
    let median =
        |wanted: fn(&Sample) -> Option<f64>| maybe(figure(wanted).map(|spread| spread.median));
    let to = |carry: Carry| match (way.path.as_str(), way.carry) {
        (DIRECT_TCP, own) if own == carry && !void.is_all() => "1".to_owned(),
        _ => match cell.ratio(&way.path, way.carry, carry) {
            None => "–".to_owned(),
            known => ranged(known),
        },
    };
    let link_cpu: fn(&Sample) -> Option<f64> =
        |sample| Some(sample.link?.cpu_us / 1e6 / sample.window_seconds);
    let link_cpu = figure(link_cpu);
    vec![
        name,
        ranged(Some(rate)) + &void.mark(),
        to(Carry::New),
        to(Carry::Kept),
        median(|sample| Some(sample.latency_us.p50 / 1e3)),
        median(|sample| Some(sample.latency_us.p99 / 1e3)),
        median(Sample::cpu_us_per_request),
        link_cpu.map_or_else(String::new, |share| {
            format!("{} %", number(share.median * 100.0))
        }),
        median(|sample| Some(sample.link?.late_us_each())),
    ]
}
