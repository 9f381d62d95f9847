//! Where and how it was measured, without which no figure is a result.

use super::super::results::{PathInfo, Results, SATURATED};
use super::super::table::{Table, paragraph};

/// For the head of the report.
pub(super) fn short(results: &Results) -> String {
    let machine = &results.machine;
    let text = paragraph(&format!(
        "`{}`, {} UTC, commit {}, Linux {}, {} cores of an {}, {} rounds of {} s.{}",
        machine.command,
        machine.date,
        machine.commit,
        machine.kernel,
        machine.cores,
        machine.processor,
        results.effort.rounds,
        results.effort.seconds,
        provenance(results),
    ));
    text + &disturbance(results)
}

/// A warning, if there is reason for one.
fn disturbance(results: &Results) -> String {
    let (all, disturbed) = results.disturbed();
    // One in twenty is what a machine does to itself now and then.
    if disturbed * 20 <= all {
        return String::new();
    }
    paragraph(&format!(
        "**Something else ran on the machine**: in {disturbed} of {all} measurements more than 15 % of \
         its time went neither to the client nor to the program in between nor to the responder. Do \
         not rely on these figures; run it again while nothing else does."
    ))
}

/// What was measured apart, and when: it may have been added to an earlier run.
pub(super) fn provenance(results: &Results) -> String {
    match &results.overload {
        Some(overload) if overload.commit != results.machine.commit => format!(
            " Overload was measured apart, at commit {} ({} UTC).",
            overload.commit, overload.date
        ),
        Some(_) | None => String::new(),
    }
}

/// Which rounds say nothing of a path, and how many there are.
pub(super) fn void(results: &Results) -> String {
    let void = results.void();
    let (count, rounds) = (void.count(), void.rounds);
    format!(
        "A round is **void** in which the load generator or the backend was busy for more than {:.0} % of its \
         processors' time, or the link to it was late: what was measured is then their limit, not the path's. Here that is {count} of {rounds} \
         rounds (load generator {}, backend {}, link {}); on a direct path nobody else takes time. No median or ratio \
         has them, and a path of which more than half of the rounds are void has no figure",
        SATURATED * 100.0,
        void.client,
        void.backend,
        void.link,
    )
}

/// How it was measured, in short.
pub(super) fn method(results: &Results, cells: &str) -> String {
    let point = |words: &str| {
        let text = paragraph(words);
        let text = text.trim_end().replace('\n', "\n  ");
        format!("- {text}\n")
    };
    let cores = results.machine.cores;
    [
        point(
            "Paths take turns (A B C A B C …). Figures are medians of the rounds; a ratio is the median of the ratios \
             within each round. Error bars in plots go from the lowest to the highest round.",
        ),
        point(&format!("{}; {cells} has what was measured all the same.", void(results))),
        point(
            "Requests are FastCGI by `spliceway-bench load`, every byte of every answer checked; for PHP-FPM they are \
             wrk's, through nginx. The backend, `spliceway-bench respond`, reads, writes and closes as PHP-FPM does.",
        ),
        point(&format!(
            "Load generator, proxy and backend share the {cores} cores; each program has one thread. The link is two TUN \
             devices that delay packets and lose none. CPU is a program's user and system time, with threads of io_uring.",
        )),
        point(
            "Reloads, routes, overload and idle connections have low fixed rates, and no void rounds. Not measured: a real \
             network, more cores, the kernel's memory for sockets, power.",
        ),
    ]
    .concat()
}

/// The rest, for the page with all cells.
pub(super) fn long(results: &Results) -> String {
    [
        "## What was not measured\n\n",
        &not_measured(results),
        "## How it was measured\n\n",
        &facts(results),
        METHOD,
        &format!("- {}; it is shown here, and marked.\n\n", void(results)),
        &sysctls(results),
    ]
    .concat()
}

const METHOD: &str = "
- **Requests** are FastCGI; the size before the arrow is that of the encoded parameters (or of the
  body, for 5 MB), the one behind it that of the response. The load generator and the responder are
  `spliceway-bench load` and `respond`; every response is checked for length and content, and a wrong
  one is a failure, not a slow request.
- **The responder** reads, writes and closes as PHP-FPM does. That leaves Nagle's delay on, so an answer
  of 8 to 65 KB on a kept connection waits for an acknowledgement, which a receiver that has nothing to
  say delays for 40 ms: direct paths, too.
- **CPU** of a program includes the threads that io_uring starts for it (iou-wrk): they are threads of
  its process. Work in a soft interrupt is charged to whoever was running, which on loopback is the
  sender; the *busy* figures have all of it, as they come from /proc/stat (all that is not idle, with
  soft interrupts and stolen time) and so include whatever else ran on the machine.
- **Memory** is the sum of Pss over the program's processes: a page that n processes share counts 1/n.
- Every path is warmed up for 0.1 s before each measurement, behind a link for 0.5 s. All programs run all the time; idle ones
  cost nothing.
";

fn not_measured(results: &Results) -> String {
    let missing = |info: &PathInfo| {
        let why = info.missing.as_ref()?;
        Some(format!("- {}: {why}\n", info.name))
    };
    let mut lines: String = results.paths.iter().filter_map(missing).collect();
    for line in &results.not_measured {
        lines += &format!("- {line}\n");
    }
    lines += NEVER;
    lines + "\n"
}

const NEVER: &str = "\
- Anything over a real network (the link here delays packets, and does nothing else to them), with more
  than this machine's cores, or with other programs on them.
- Kernel memory of sockets; power; more than one NUMA node.
";

fn facts(results: &Results) -> String {
    let machine = &results.machine;
    let mut table = Table::new(["", "what"]).words(2);
    let mut fact = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
    fact("command", format!("`{}`", machine.command));
    fact("date", format!("{} UTC", machine.date));
    fact("commit", machine.commit.clone());
    fact("kernel", format!("Linux {}", machine.kernel));
    fact(
        "processor",
        format!("{}, {} cores", machine.processor, machine.cores),
    );
    fact("memory", format!("{} MB", machine.memory_mb));
    fact("Rust", machine.rust.clone());
    fact("network", results.network.isolation.clone());
    fact("CPU accounting", machine.accounting.clone());
    fact(
        "threads",
        format!(
            "client {}, responder {}, each program 1 unless said otherwise",
            machine.client_threads, machine.responder_threads
        ),
    );
    for info in &results.paths {
        if info.missing.is_none() && !info.version.is_empty() {
            fact(&info.name, info.version.clone());
        }
    }
    table.render()
}

fn sysctls(results: &Results) -> String {
    let network = &results.network;
    let mut text = String::new();
    if network.sysctls.is_empty() {
        return text;
    }
    text += "Settings of the network during the measurement:\n\n```text\n";
    for (name, value) in &network.sysctls {
        text += &format!("{name} = {value}\n");
    }
    text += "```\n";
    if !network.refused.is_empty() {
        text += &format!("\nCould not be set: {}.\n", network.refused.join(", "));
    }
    let congestion = |(name, value): &(String, String)| {
        name.ends_with("tcp_congestion_control") && value == "bbr"
    };
    if network.sysctls.iter().any(congestion) {
        text += "\n**Congestion control is BBR, which paces: on loopback it holds bulk transfers back.**\n";
    }
    text
}
